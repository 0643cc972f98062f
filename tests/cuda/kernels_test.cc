// Every CUDA kernel gives the CPU's bits: encode, reduce, decode, cancel and dense messages, for every codec, selector,
// transform and feedback, statistics of pieces and shared λ, with odd sizes, types, alignments and seeds; and it leaves
// all other memory alone.
#include <cuda.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>

#include "compress/cuda/kernels.h"
#include "tests/codec/harness.h"

namespace slim_test {
namespace {

using ref::Bytes;
using ref::Type;

extern "C" const unsigned char slimFatbin[], slimWarpFatbin[];

const char* const kNames[] = {
#define NAME(name, args) "slim_" #name,
    SLIM_DEVICE_KERNELS(NAME)
#undef NAME
};

#define CHECK(call) ASSERT_EQ(CUDA_SUCCESS, (call)) << #call

// What a thread block may have on the smallest device there are kernels for; less, so that scratch is used, in turns.
uint32_t sharedLimit = 99 * 1024;

class Device {
 public:
  static Device& get() {
    static Device device;
    return device;
  }
  void launch(slimLaunch l, const void* args) {
    CUfunction f;
    CHECK(cuKernelGetFunction(&f, kernel_[l.kernel]));
    CHECK(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)l.sharedBytes));
    void* parameters[] = {const_cast<void*>(args)};
    CHECK(cuLaunchKernel(f, blocks(l), 1, 1, l.threads, 1, 1, l.sharedBytes, nullptr, parameters, nullptr));
  }
  // Fewer blocks than units: they take several in turn.
  static unsigned blocks(const slimLaunch& l) {
    return (unsigned)std::max<uint64_t>(1, std::min<uint64_t>(l.blocks, 5));
  }

 private:
  Device() {
    EXPECT_EQ(CUDA_SUCCESS, cuInit(0));
    CUcontext context;
    EXPECT_EQ(CUDA_SUCCESS, cuDevicePrimaryCtxRetain(&context, 0));
    EXPECT_EQ(CUDA_SUCCESS, cuCtxSetCurrent(context));
    CUlibrary library[2];
    EXPECT_EQ(CUDA_SUCCESS, cuLibraryLoadData(&library[0], slimFatbin, nullptr, nullptr, 0, nullptr, nullptr, 0));
    EXPECT_EQ(CUDA_SUCCESS, cuLibraryLoadData(&library[1], slimWarpFatbin, nullptr, nullptr, 0, nullptr, nullptr, 0));
    for (int i = 0; i < slimNumDeviceKernels; i++)
      EXPECT_EQ(CUDA_SUCCESS, cuLibraryGetKernel(&kernel_[i], library[i >= slimKernel_warp_encode_fp8], kNames[i]))
          << kNames[i];
  }
  CUkernel kernel_[slimNumDeviceKernels];
};

// Device memory between marks. What was never given a content is full of ones.
class Memory {
 public:
  Memory(const Bytes& content, size_t shift = 0) : bytes_(content.size()), at_(kMargin + shift) {
    Device::get();
    Bytes all(at_ + bytes_ + kMargin, 0xa5);
    std::copy(content.begin(), content.end(), all.begin() + (long)at_);
    EXPECT_EQ(CUDA_SUCCESS, cuMemAlloc(&base_, all.size()));
    EXPECT_EQ(CUDA_SUCCESS, cuMemcpyHtoD(base_, all.data(), all.size()));
  }
  explicit Memory(size_t bytes, size_t shift = 0) : Memory(Bytes(bytes, 0xff), shift) {}
  Memory(const Memory&) = delete;
  ~Memory() { cuMemFree(base_); }
  uint8_t* data() const { return reinterpret_cast<uint8_t*>(base_ + at_); }
  Bytes content() const {
    Bytes all(at_ + bytes_ + kMargin);
    EXPECT_EQ(CUDA_SUCCESS, cuMemcpyDtoH(all.data(), base_, all.size()));
    for (size_t i = 0; i < all.size(); i++) {
      if (i == at_) i += bytes_;
      if (all[i] == 0xa5) continue;
      ADD_FAILURE() << "the byte at " << (long)i - (long)at_ << " of " << bytes_ << " was written";
      break;
    }
    return Bytes(all.begin() + (long)at_, all.begin() + (long)(at_ + bytes_));
  }

 private:
  static constexpr size_t kMargin = 256;
  size_t bytes_, at_;
  CUdeviceptr base_ = 0;
};

struct Case {
  std::string up, down;
  Type type = Type::kFp32;
  size_t n = 0;
  uint64_t first = 0, seed = 1;
  Input input = Input::kNormal;
  int ranks = 2, steps = 2;
  bool shifted = false;  // x, y and states beside an aligned address
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "up=" << c.up << "; down=" << c.down << " type=" << (int)c.type << " n=" << c.n << " first=" << c.first
             << " seed=" << c.seed << " input=" << nameOf(c.input) << (c.shifted ? " shifted" : "")
             << " shared=" << sharedLimit;
}

// Reals and payloads of fp32 may hold NaN of any kind (format.md §4).
bool same(const char* what, const Bytes& cpu, const Bytes& gpu, bool nan32 = false) {
  if (cpu.size() != gpu.size()) {
    ADD_FAILURE() << what << ": sizes";
    return false;
  }
  for (size_t i = 0; i < cpu.size(); i++) {
    if (cpu[i] == gpu[i]) continue;
    if (nan32) {
      float a, b;
      std::memcpy(&a, &cpu[i / 4 * 4], 4);
      std::memcpy(&b, &gpu[i / 4 * 4], 4);
      if (std::isnan(a) && std::isnan(b)) continue;
    }
    size_t different = 0;
    for (size_t j = i; j < cpu.size(); j++) different += cpu[j] != gpu[j];
    ADD_FAILURE() << what << ": byte " << i << " of " << cpu.size() << " is " << (int)gpu[i] << " and not "
                  << (int)cpu[i] << "; " << different << " differ";
    return false;
  }
  return true;
}

bool near(double a, double b) {
  if (std::isnan(a)) return std::isnan(b);
  return std::abs(a - b) <= 1e-4 * std::max(std::abs(a), std::abs(b)) || a == b;
}

bool passesNan(const std::string& spec) {
  return spec.find("fp32") != std::string::npos || spec.find("topk") != std::string::npos ||
         spec.find("randk") != std::string::npos;
}

#define STOP_UNLESS(condition) \
  if (!(condition)) return false

class Sides {
 public:
  explicit Sides(const Case& c)
      : c_(c), type_((slimDataType_t)c.type), real_(slimRealBytes(type_)), spec_(c.up, c.down) {
    if (!spec_.ok()) return;
    const slimTree *up = spec_.get()->up.tree, *down = spec_.get()->down.tree;
    upTree_.reset(new Memory(Bytes((const uint8_t*)up, (const uint8_t*)up + up->bytes)));
    downTree_.reset(new Memory(Bytes((const uint8_t*)down, (const uint8_t*)down + down->bytes)));
    stats_.reset(new Memory(Bytes(sizeof(slimPassStats), 0)));
    report_.reset(new Memory(Bytes(8, 0)));
    const size_t shift = c.shifted ? real_ : 0;
    for (int i = 0; i < 2 * c.ranks + 2; i++) {
      const bool owners = i == 2 * c.ranks + 1, memory = owners || (i < 2 * c.ranks && i % 2 == 0);
      const slimFeedback& f = owners ? spec_.get()->down.feedback : spec_.get()->up.feedback;
      cpu_.push_back(Bytes(c.n * (memory ? slimMemoryBytes(&f, type_) : real_), 0));
      gpu_.emplace_back(new Memory(cpu_.back(), memory && f.bf16 ? shift / 2 : shift));
    }
    shared_ = slimTreeSharesLambda(up);
    common_ = Bytes(shared_ ? (c.n + up->unit - 1) / up->unit * real_ : 0, 0);
    commons_.reset(new Memory(common_, shift));
    kept_.assign((size_t)c.ranks + 1, Bytes(8, 0));
    for (const Bytes& none : kept_) keepers_.emplace_back(new Memory(none));
  }

  bool all() {
    STOP_UNLESS(spec_.ok());
    EXPECT_TRUE(slimDeviceRuns(spec_.get()->up.tree) && slimDeviceRuns(spec_.get()->down.tree));
    for (int step = 0; step < c_.steps; step++) STOP_UNLESS(one(step));
    EXPECT_EQ(Bytes(8, 0), report_->content());
    return true;
  }

 private:
  const slimTree* onDevice(const slimTree* tree) const {
    return (const slimTree*)(tree == spec_.get()->up.tree ? upTree_ : downTree_)->data();
  }
  // Scratch of a launch, alive until the next one.
  float* scratch(const slimLaunch& l) {
    if (!l.scratchFloats) return nullptr;
    scratch_.reset(new Memory(4 * l.scratchFloats * Device::blocks(l)));
    return (float*)scratch_->data();
  }
  template <typename Args>
  void launch(slimLaunch l, Args args) {
    args.scratch = scratch(l);
    args.scratchFloats = l.scratchFloats;
    Device::get().launch(l, &args);
  }
  slimLaunch launchOf(slimDeviceKernel first, const slimTree* tree, const slimTree* down, slimDataType_t type) {
    return slimLaunchOf(first, tree, down, type, c_.n, sharedLimit);
  }

  // The lists of a piece-wide selector, for one payload after the other.
  struct Lists {
    Lists(const slimTree* tree, slimDataType_t type, size_t n, int count)
        : layout(slimLayoutOf(tree, type, n)),
          room(slimRoundUp(layout.values, tree->unit)),
          state(sizeof(slimSelectState)),
          tiles(8 * (n / SLIM_PIECE_STEP + 1)),
          index(4 * layout.values * count),
          values(4 * room * count) {}
    slimLayout layout;
    uint64_t room;
    Memory state, tiles, index, values;
  };
  void select(const slimTree* tree, slimSelectArgs args, bool keys, std::vector<slimDeviceKernel> then) {
    std::vector<slimDeviceKernel> kernels;
    if (keys) {
      kernels.push_back(slimKernel_select_start);
      for (int i = 0; i < slimSelectRounds(&args); i++) {
        kernels.push_back(slimKernel_select_count);
        kernels.push_back(slimKernel_select_narrow);
      }
      kernels.insert(kernels.end(), {slimKernel_select_tally, slimKernel_select_scan, slimKernel_select_take});
    }
    kernels.insert(kernels.end(), then.begin(), then.end());
    for (slimDeviceKernel k : kernels) launch(launchOf(k, tree, nullptr, (slimDataType_t)args.type), args);
  }
  slimSelectArgs selectArgs(const slimDirection& d, const slimStamp& stamp, const Lists& lists, int at,
                            slimDataType_t type, uint8_t* payload) {
    slimSelectArgs a = {};
    a.tree = onDevice(d.tree);
    a.payload = payload;
    a.state = (slimSelectState*)lists.state.data();
    a.tiles = (uint32_t*)lists.tiles.data();
    a.index = (uint32_t*)lists.index.data() + at * lists.layout.values;
    a.values = (float*)lists.values.data() + at * lists.room;
    a.feedback = d.feedback;
    a.stamp = stamp;
    a.n = c_.n;
    a.first = c_.first;
    a.type = type;
    return a;
  }

  // As slimCudaEncode does before an encode of one piece, and, after it (last), for stats=previous.
  void gather(const slimDirection& d, slimEncodeArgs a, slimShape* shapes, slimPartial* partials, float* kept,
              bool last) {
    slimShapeArgs s = {};
    s.tree = a.tree;
    s.partials = partials;
    s.shapes = shapes;
    s.mean = kept;
    s.table = kept ? kept + 1 : nullptr;
    s.n = a.n;
    s.cut = a.cut;
    s.pieces = 1;
    s.last = last;
    a.partials = partials;
    a.mean = kept;
    for (int tails = 0; !last && tails <= slimRoot(d.tree)->powerlaw; tails++) {
      a.shapes = tails ? shapes : nullptr;
      launch(launchOf(slimKernel_survey, d.tree, nullptr, (slimDataType_t)a.type), a);
      Device::get().launch(slimShapeLaunch(1), &s);
    }
    if (last) Device::get().launch(slimShapeLaunch(1), &s);
  }

  void encode(const slimDirection& d, const slimStamp& stamp, slimDataType_t type, const uint8_t* x, uint8_t* s,
              uint8_t* v, uint8_t* payload, size_t sender, bool keeps, bool marked = false) {
    slimPassStats* stats = (slimPassStats*)stats_->data();
    if (slimSelector(d.tree)) {
      Lists lists(d.tree, type, c_.n, 1);
      slimSelectArgs a = selectArgs(d, stamp, lists, 0, type, payload);
      a.x = x;
      a.s = s;
      a.v = v;
      a.stats = stats;
      a.keeps = keeps;
      select(d.tree, a, true, {slimKernel_select_encode, slimKernel_select_update});
      return;
    }
    slimEncodeArgs a = {};
    a.tree = onDevice(d.tree);
    a.x = x;
    a.s = s;
    a.v = v;
    a.payload = payload;
    a.stats = stats;
    a.feedback = d.feedback;
    a.stamp = stamp;
    a.n = c_.n;
    a.first = c_.first;
    a.cut = d.tree->unit;
    a.pieces = 1;
    a.type = type;
    a.keeps = keeps;
    a.marked = marked;
    a.lambda = shared_ ? commons_->data() : nullptr;
    const slimLaunch l = launchOf(slimKernel_encode_fp8, d.tree, nullptr, type);
    if (!slimTreeGathers(d.tree)) {
      launch(l, a);
      return;
    }
    Memory shapes(sizeof(slimShape)), parts(sizeof(slimPartial) * l.blocks);
    slimShape* shape = (slimShape*)shapes.data();
    slimPartial* partials = (slimPartial*)parts.data();
    float* kept = slimTreeRemembers(d.tree) ? (float*)keepers_[sender]->data() : nullptr;
    gather(d, a, shape, partials, kept, false);
    a.shapes = shape;
    a.partials = kept ? partials : nullptr;
    launch(l, a);
    if (kept) gather(d, a, nullptr, partials, kept, true);
    finished();
  }

  void reduce(const slimStamp& stamp, const Memory& payloads, size_t stride, uint8_t* h, const slimDirection* down,
              uint8_t* e, uint8_t* payload, slimDataType_t type, uint8_t* y, double factor, uint8_t* lambda) {
    const slimDirection& up = spec_.get()->up;
    std::unique_ptr<Lists> lists;
    slimReduceArgs a = {};
    slimDeviceKernel first = slimKernel_reduce_fp8;
    if (slimSelector(up.tree)) {
      first = slimKernel_reduce_select;
      lists.reset(new Lists(up.tree, type, c_.n, c_.ranks));
      for (int r = 0; r < c_.ranks; r++) {
        slimStamp sender = stamp;
        sender.rank = (uint32_t)r;
        sender.down = false;
        select(up.tree, selectArgs(up, sender, *lists, r, type, payloads.data() + (size_t)r * stride),
               slimSelector(up.tree)->op == slimOp_randk, {slimKernel_select_decode});
      }
      a.index = (const uint32_t*)lists->index.data();
      a.values = (const float*)lists->values.data();
    }
    a.up = onDevice(up.tree);
    a.payloads = payloads.data();
    a.h = h;
    a.y = y;
    a.report = (unsigned long long*)report_->data();
    a.upFeedback = up.feedback;
    a.stamp = stamp;
    a.n = c_.n;
    a.first = c_.first;
    a.stride = stride;
    a.weight = 1.0 / c_.ranks;
    a.factor = factor;
    a.ranks = (uint32_t)c_.ranks;
    a.type = type;
    if (shared_) {
      first = slimKernel_reduce_signs;
      a.lambda = lambda;
    }
    if (down) {
      a.down = onDevice(down->tree);
      a.downFeedback = down->feedback;
      a.e = e;
      a.payload = payload;
      a.stats = (slimPassStats*)stats_->data();
      a.keeps = down->feedback.kind != slimFeedbackEf;
    }
    launch(launchOf(first, up.tree, down ? down->tree : nullptr, type), a);
  }

  void decode(const slimDirection& d, const slimStamp& stamp, const uint8_t* payload, uint8_t* h, uint8_t* y,
              double factor, const uint8_t* x = nullptr, uint8_t* s = nullptr) {
    std::unique_ptr<Lists> lists;
    slimDecodeArgs a = {};
    slimDeviceKernel first = slimKernel_decode_fp8;
    if (slimSelector(d.tree)) {
      first = slimKernel_decode_select;
      lists.reset(new Lists(d.tree, type_, c_.n, 1));
      select(d.tree, selectArgs(d, stamp, *lists, 0, type_, const_cast<uint8_t*>(payload)),
             slimSelector(d.tree)->op == slimOp_randk, {slimKernel_select_decode});
      a.index = (const uint32_t*)lists->index.data();
      a.values = (const float*)lists->values.data();
    }
    a.tree = onDevice(d.tree);
    a.payload = payload;
    a.h = h;
    a.y = y;
    a.x = x;
    a.s = s;
    a.report = (unsigned long long*)report_->data();
    a.feedback = d.feedback;
    a.stamp = stamp;
    a.n = c_.n;
    a.first = c_.first;
    a.cut = d.tree->unit;
    a.factor = factor;
    a.pieces = 1;
    a.type = type_;
    a.lambda = shared_ ? commons_->data() : nullptr;
    launch(launchOf(first, d.tree, nullptr, type_), a);
  }
  bool sameKept(size_t sender) { return same("kept statistics", kept_[sender], keepers_[sender]->content()); }

  bool finished() {
    const CUresult result = cuCtxSynchronize();
    EXPECT_EQ(CUDA_SUCCESS, result);
    if (result != CUDA_SUCCESS) cuDevicePrimaryCtxReset(0);  // the other tests can go on
    return result == CUDA_SUCCESS;
  }

  bool one(int step) {
    const slimDirection &up = spec_.get()->up, &down = spec_.get()->down;
    const size_t n = c_.n, ranks = (size_t)c_.ranks, each = slimTypeBytes(type_), shift = c_.shifted ? each : 0;
    slimStamp stamp = {};
    stamp.hash = slimCompressorHash(spec_.get(), type_);
    stamp.seed = c_.seed * 0x9E3779B97F4A7C15u;
    stamp.step = (uint64_t)step + (step ? 0x100000000u : 0);
    stamp.slot = 11;

    const size_t bytes = slimPayloadBytes(up.tree, type_, n);
    std::vector<Bytes> payloads;
    Memory received(bytes * ranks);
    const bool nanUp = passesNan(c_.up), nanDown = passesNan(c_.down);
    slimPassStats stats = {}, zero = {};
    EXPECT_EQ(CUDA_SUCCESS, cuMemcpyHtoD((CUdeviceptr)stats_->data(), &zero, sizeof zero));
    for (size_t r = 0; r < ranks; r++) {
      stamp.rank = (uint32_t)r;
      const Bytes x = makeInput(c_.input, c_.type, n, c_.seed + 100 * (uint64_t)step + r);
      Memory xs(x, shift);
      payloads.emplace_back(bytes, 0xcc);
      Bytes *s = &cpu_[2 * r], *v = &cpu_[2 * r + 1];
      slimEncodePass pass = {};
      pass.direction = &up;
      pass.stamp = stamp;
      pass.type = type_;
      pass.x = x.data();
      pass.n = n;
      pass.first = c_.first;
      pass.s = up.feedback.memory ? s->data() : nullptr;
      pass.v = up.feedback.momentum != 0 ? v->data() : nullptr;
      pass.payload = payloads[r].data();
      pass.stats = &stats;
      pass.lambda = shared_ ? common_.data() : nullptr;
      pass.mean = (float*)kept_[r].data();
      pass.table = pass.mean + 1;
      EXPECT_EQ(slimSuccess, slimPassEncode(&pass, nullptr));
      encode(up, stamp, type_, xs.data(), up.feedback.memory ? gpu_[2 * r]->data() : nullptr,
             up.feedback.momentum != 0 ? gpu_[2 * r + 1]->data() : nullptr, received.data() + r * bytes, r, false);
      STOP_UNLESS(finished());
      const Bytes all = received.content();
      STOP_UNLESS(same("payload", payloads[r], Bytes(&all[r * bytes], &all[r * bytes] + bytes), nanUp));
      STOP_UNLESS(same("s", *s, gpu_[2 * r]->content()) && same("v", *v, gpu_[2 * r + 1]->content()) && sameKept(r));
      if (up.feedback.kind == slimFeedbackEf) {
        Bytes cancelled = *s;
        Memory back(cancelled, c_.shifted ? slimMemoryBytes(&up.feedback, type_) : 0);
        slimDecodePass sent = {};
        sent.direction = &up;
        sent.stamp = stamp;
        sent.type = type_;
        sent.n = n;
        sent.first = c_.first;
        sent.payload = payloads[r].data();
        EXPECT_EQ(slimSuccess, slimPassCancel(&sent, x.data(), cancelled.data(), nullptr));
        decode(up, stamp, received.data() + r * bytes, nullptr, nullptr, 1, xs.data(), back.data());
        STOP_UNLESS(finished() && same("s after cancel", cancelled, back.content()));
      }
    }
    STOP_UNLESS(sameStats(stats));

    std::vector<const uint8_t*> pointers;
    for (const Bytes& p : payloads) pointers.push_back(p.data());
    stamp.rank = (uint32_t)ranks - 1;
    stamp.down = true;
    const double factor = step % 2 ? c_.ranks : 1;
    Bytes &h = cpu_[2 * ranks], &e = cpu_[2 * ranks + 1];
    Memory &hs = *gpu_[2 * ranks], &es = *gpu_[2 * ranks + 1];
    slimReducePass reduction = {};
    reduction.up = &up;
    reduction.stamp = stamp;
    reduction.type = type_;
    reduction.n = n;
    reduction.first = c_.first;
    reduction.ranks = c_.ranks;
    reduction.payloads = pointers.data();
    reduction.weight = 1.0 / c_.ranks;

    // To y, on a copy of h.
    {
      Bytes copy = h, y(n * each, 0xcc), common = common_;
      Memory copies(copy, c_.shifted ? real_ : 0), ys(n * each, shift), commons(common);
      reduction.lambda = shared_ ? common.data() : nullptr;
      reduction.h = up.feedback.shifts ? copy.data() : nullptr;
      reduction.y = y.data();
      reduction.factor = factor;
      EXPECT_EQ(slimSuccess, slimPassReduce(&reduction, nullptr));
      reduce(stamp, received, bytes, up.feedback.shifts ? copies.data() : nullptr, nullptr, nullptr, nullptr, type_,
             ys.data(), factor, commons.data());
      STOP_UNLESS(finished() && same("y of reduce", y, ys.content(), c_.type == Type::kFp32) &&
                  same("h", copy, copies.content()));
      STOP_UNLESS(same("the common lambda", common, commons.content()));
    }

    // To a payload: at once, or by way of reals.
    const bool state = down.feedback.memory || down.feedback.shifts;
    const size_t downBytes = slimPayloadBytes(down.tree, type_, n);
    Bytes payload(downBytes, 0xcc);
    Memory payloadOut(downBytes);
    reduction.h = up.feedback.shifts ? h.data() : nullptr;
    reduction.y = nullptr;
    reduction.down = &down;
    reduction.e = state ? e.data() : nullptr;
    reduction.payload = payload.data();
    reduction.factor = 1;
    reduction.lambda = shared_ ? common_.data() : nullptr;
    reduction.mean = (float*)kept_[ranks].data();
    reduction.table = reduction.mean + 1;
    EXPECT_EQ(slimSuccess, slimPassReduce(&reduction, nullptr));
    uint8_t *hd = up.feedback.shifts ? hs.data() : nullptr, *ed = state ? es.data() : nullptr;
    if (shared_ || slimReducesInOne(up.tree, down.tree, type_)) {
      reduce(stamp, received, bytes, hd, &down, ed, payloadOut.data(), type_, nullptr, 1, commons_->data());
    } else {
      const slimDataType_t real = type_ == slimFloat64 ? slimFloat64 : slimFloat32;
      Memory mean(n * real_);
      reduce(stamp, received, bytes, hd, nullptr, nullptr, nullptr, real, mean.data(), 1, nullptr);
      encode(down, stamp, real, mean.data(), ed, nullptr, payloadOut.data(), ranks,
             down.feedback.kind != slimFeedbackEf, !slimSelector(up.tree) && up.tree->unit == down.tree->unit);
      STOP_UNLESS(finished());
    }
    STOP_UNLESS(finished() && same("payload of reduce", payload, payloadOut.content(), nanDown));
    STOP_UNLESS(same("h", h, hs.content()) && same("e", e, es.content()) && sameKept(ranks));

    Bytes y(n * each, 0xcc);
    Memory ys(n * each, shift);
    slimDecodePass decoding = {};
    decoding.direction = &down;
    decoding.stamp = stamp;
    decoding.type = type_;
    decoding.n = n;
    decoding.first = c_.first;
    decoding.payload = payload.data();
    decoding.h = down.feedback.shifts ? e.data() : nullptr;
    decoding.y = y.data();
    decoding.factor = factor;
    decoding.lambda = shared_ ? common_.data() : nullptr;
    EXPECT_EQ(slimSuccess, slimPassDecode(&decoding, nullptr));
    decode(down, stamp, payloadOut.data(), down.feedback.shifts ? es.data() : nullptr, ys.data(), factor);
    STOP_UNLESS(finished() && same("y", y, ys.content(), c_.type == Type::kFp32) && same("H", e, es.content()));
    return same("the common lambda", common_, commons_->content());
  }

  bool sameStats(const slimPassStats& cpu) {
    slimPassStats gpu;
    std::memcpy(&gpu, stats_->content().data(), sizeof gpu);
    const bool ok = cpu.flagged == gpu.flagged && near(cpu.xx, gpu.xx) && near(cpu.uu, gpu.uu) &&
                    near(cpu.error, gpu.error) && near(cpu.ss, gpu.ss);
    EXPECT_TRUE(ok) << "statistics " << cpu.flagged << " " << cpu.xx << " " << cpu.uu << " " << cpu.error << " "
                    << cpu.ss << " / " << gpu.flagged << " " << gpu.xx << " " << gpu.uu << " " << gpu.error << " "
                    << gpu.ss;
    return ok;
  }

  const Case& c_;
  slimDataType_t type_;
  size_t real_;
  Compressor spec_;
  std::unique_ptr<Memory> upTree_, downTree_, stats_, report_, scratch_;
  std::vector<Bytes> cpu_;  // s and v of each rank, h, e
  std::vector<std::unique_ptr<Memory>> gpu_;
  bool shared_ = false;  // lambda=shared
  Bytes common_;
  std::unique_ptr<Memory> commons_;
  std::vector<Bytes> kept_;  // stats=previous: mean and table of each sender, the owner last
  std::vector<std::unique_ptr<Memory>> keepers_;
};

struct Spec {
  const char *up, *down;
};
std::ostream& operator<<(std::ostream& out, const Spec& s) { return out << s.up << "; " << s.down; }

const Spec kSpecs[] = {
    {"none(qsgd(bits=4))", "none(qsgd(bits=8))"},
    {"ef(qsgd(bits=4))", "ef(qsgd(bits=4))"},
    {"none(qsgd(bits=3,norm=2))", "none(qsgd(bits=7,block=64))"},
    {"ef(qsgd(bits=2,rounding=stochastic))", "ef(qsgd(bits=5,norm=2,block=2048))"},
    {"none(qsgd(levels=256,norm=2))", "none(qsgd(levels=32767,block=64))"},
    {"none(qsgd(levels=9999,block=128))", "none(qsgd(levels=5,norm=2,rounding=nearest))"},
    {"none(ternary(norm=inf))", "none(ternary(norm=2))"},
    {"ef(ternary(norm=inf,block=64))", "ef(ternary(norm=2,block=1024))"},
    {"diana(ternary(norm=inf))", "diana(ternary(norm=2,block=64))"},
    {"none(onebit)", "none(onebit(block=64))"},
    {"ef(onebit)", "ef(onebit)"},
    {"none(onebit(dither,f=1.5))", "none(onebit(dither,lambda=inf,block=1024))"},
    {"ef(onebit(dither,lambda=0.5))", "ef21(onebit(dither,f=3,block=256))"},
    {"none(sign)", "none(sign(scale=0.003))"},
    {"none(fp32)", "none(fp32)"},
    {"ef(fp16)", "ef(fp16)"},
    {"none(bf16)", "ef(bf16)"},
    {"ef(fp8(format=e5m2,block=64))", "none(fp8)"},
    {"none(natural)", "ef(natural(block=2048))"},
    {"ef(natural)", "ef(natural)"},
    {"none(natural(bits=4))", "ef(natural(bits=3,norm=2))"},
    {"none(nuqsgd(bits=5))", "ef(nuqsgd(bits=8,block=64))"},
    {"none(tnqsgd(bits=3))", "none(tqsgd(bits=4,block=64))"},
    {"ef(tnqsgd(bits=8,workers=4))", "ef(tqsgd(bits=2))"},
    {"none(tnqsgd(bits=3,model=powerlaw))", "ef(tbqsgd(bits=5,block=256))"},
    {"none(rotate(onebit))", "ef(rotate(onebit(block=256),block=1024,signs=fixed))"},
    {"ef(rotate(qsgd(bits=2)))", "ef(rotate(qsgd(bits=4,block=64),block=64))"},
    {"none(rotate(qsgd(bits=3,block=512),block=128))", "none(rotate(fp16,block=2048))"},
    {"none(topk(ratio=0.01))", "none(topk(k=5,block=64))"},
    {"ef(topk(ratio=0.01))", "ef(topk(ratio=0.02))"},
    {"ef(qsgd(bits=4,block=1024))", "ef(qsgd(bits=3,block=1024))"},
    {"diana(qsgd(bits=4,block=64))", "ef(qsgd(bits=8,block=64))"},
    {"ef(fp8(block=2048))", "ef(fp8(block=2048))"},
    {"ef(onebit(block=1024))", "ef21(onebit(block=1024))"},
    {"diana(natural(block=64))", "ef(natural(block=64))"},
    {"ef(tnqsgd(bits=3,block=128),memory=bf16)", "ef(tnqsgd(bits=4,block=128),memory=bf16)"},
    {"diana(randk(ratio=0.05,block=1024))", "ef(randk(ratio=0.1,block=1024,bf16))"},
    {"none(topk(k=0.5,block=256))", "ef(randk(k=9,block=256,qsgd(bits=3)))"},
    {"ef(topk(k=13,block=512,qsgd(bits=4)))", "ef(topk(ratio=0.1,block=256,onebit))"},
    {"none(randk(ratio=0.02))", "none(randk(k=9,block=512,qsgd(bits=3)))"},
    {"ef(randk(ratio=0.05,block=512,seed=shared))", "none(randk(ratio=0.05,block=512,seed=shared,scale=1))"},
    {"none(topk(k=0.3,block=256))", "none(randk(k=0.5,block=64))"},
    {"none(rotate(topk(k=20,block=512,fp16)))", "none(fp32)"},
    {"none(induced(topk(ratio=0.01),qsgd(bits=4)))", "none(induced(onebit,natural))"},
    {"diana(induced(topk(ratio=0.01,block=512),randk(ratio=0.05,block=512)))", "ef(qsgd(bits=8))"},
    {"none(induced(rotate(onebit),qsgd(bits=4)))", "none(rotate(induced(qsgd(bits=3),ternary)))"},
    {"ef21(qsgd(bits=4),momentum=0.25)", "ef21(qsgd(bits=4))"},
    {"ef_bv(topk(ratio=0.05,block=512),lambda=0.75,nu=0.5)", "ef_bv(qsgd(bits=4),lambda=0.5,nu=0.25)"},
    {"shift(qsgd(bits=3))", "shift(qsgd(bits=5))"},
    {"rand_diana(qsgd(bits=4),p=0.1)", "ef(qsgd(bits=8))"},
    {"ef(topk(ratio=0.01,scope=chunk))", "ef(topk(ratio=0.02,scope=chunk,qsgd(bits=8,block=64)))"},
    {"ef21(topk(k=20,scope=chunk),momentum=0.5)", "ef(topk(k=7,scope=global,bf16))"},
    {"none(randk(ratio=0.01,scope=chunk,fp16))", "none(randk(k=40,scope=global,scale=1))"},
    {"none(randk(k=0.4,scope=chunk))", "none(topk(k=0.6,scope=chunk))"},
    {"none(rotate(onebit(dither,lambda=shared)))", "none(rotate(onebit(dither,lambda=shared)))"},
    {"none(rotate(onebit(dither,f=2,lambda=shared,block=64),signs=fixed))",
     "none(rotate(onebit(dither,f=2,lambda=shared,block=64),signs=fixed))"},
    {"none(rotate(onebit(dither,lambda=shared,block=2048)))", "none(rotate(onebit(dither,lambda=shared,block=2048)))"},
    {"none(tnqsgd(bits=3,stats=tensor))", "ef(tqsgd(bits=4,stats=tensor,block=64))"},
    {"none(tnqsgd(bits=3,stats=previous))", "none(tqsgd(bits=2,stats=previous,block=128))"},
    {"ef(tbqsgd(bits=3,stats=tensor,block=64))", "none(tnqsgd(bits=4,model=powerlaw,stats=tensor))"},
    {"ef(tnqsgd(bits=2,model=powerlaw,stats=previous,block=64),memory=bf16)",
     "ef(tbqsgd(bits=5,stats=previous,block=64))"},
    {"ef(onebit,memory=bf16)", "ef(onebit,memory=bf16)"},
    {"ef(fp32,memory=bf16)", "ef(qsgd(bits=4,block=64),memory=bf16)"},
    {"ef(topk(ratio=0.01),memory=bf16)", "ef(rotate(onebit),memory=bf16)"},
    {"ef(topk(k=30,scope=chunk),memory=bf16)", "ef(randk(k=20,scope=chunk,fp16),memory=bf16)"},
};

size_t unitOf(const std::string& node) {
  const size_t unit = ref::unitOf(ref::parse(node).tree);
  return unit ? unit : 512;
}

class Kernels : public testing::TestWithParam<Spec> {
 protected:
  Kernels() {
    c_.up = GetParam().up;
    c_.down = GetParam().down;
    unit_ = std::max(unitOf(c_.up), unitOf(c_.down));
    wide_ = (c_.up + c_.down).find("stats=") == std::string::npos;
  }
  // What must not matter takes turns.
  void next() {
    static unsigned turn = 0;
    turn++;
    c_.shifted = turn % 2;
    c_.seed = turn;
    c_.first = unit_ * (turn % 3);
    sharedLimit = turn % 4 == 3 ? 2048 : 99 * 1024;
    const Case now = c_;
    if (!Sides(now).all()) ADD_FAILURE() << now;
  }
  Case c_;
  size_t unit_;
  bool wide_;  // takes fp64
};

TEST_P(Kernels, EverySize) {
  for (size_t n : {size_t{0}, size_t{1}, size_t{61}, unit_ - 1, unit_, 2 * unit_ + 67}) {
    c_.n = n;
    next();
    if (HasFailure()) return;
  }
}
TEST_P(Kernels, EveryType) {
  for (Type type : {Type::kFp16, Type::kBf16, Type::kFp64}) {
    if (type == Type::kFp64 && !wide_) continue;
    c_.type = type;
    for (size_t n : {unit_ + 131, 2 * unit_}) {
      c_.n = n;
      next();
      if (HasFailure()) return;
    }
  }
}
TEST_P(Kernels, EveryInput) {
  c_.n = unit_ + 77;
  c_.steps = 1;
  for (Input input : kFiniteInputs) {
    c_.input = input;
    c_.type = static_cast<int>(input) % 3 == 0 && wide_ ? Type::kFp64 : Type::kFp32;
    next();
    if (HasFailure()) return;
  }
}
TEST_P(Kernels, NonFiniteInput) {
  c_.input = Input::kNonFinite;
  c_.n = 2 * unit_ + 13;
  for (Type type : {Type::kFp32, Type::kBf16, Type::kFp64}) {
    if (type == Type::kFp64 && !wide_) continue;
    c_.type = type;
    next();
    if (HasFailure()) return;
  }
}
TEST_P(Kernels, ThreeRanks) {
  c_.n = unit_ + 300;
  c_.ranks = 3;
  c_.steps = 3;
  next();
}

// More ranks than a warp has lanes, which take one each.
TEST(SharedLambda, CountsTheSignsOfManyRanks) {
  for (Type type : {Type::kFp32, Type::kFp64})
    for (int ranks : {1, 31, 33, 70}) {
      Case c;
      c.up = c.down = "none(rotate(onebit(dither,lambda=shared,block=128)))";
      c.type = type;
      c.n = 300;
      c.ranks = ranks;
      if (!Sides(c).all()) ADD_FAILURE() << c << " ranks=" << ranks;
    }
}

INSTANTIATE_TEST_SUITE_P(Specs, Kernels, testing::ValuesIn(kSpecs));

// One launch makes and reads all pieces of a slice.
TEST(Pieces, ShareALaunch) {
  const std::string spec = "ef(qsgd(bits=4,block=64))";
  Compressor c(spec, "none(fp32)");
  ASSERT_TRUE(c.ok());
  const slimDirection& up = c.get()->up;
  Memory tree(Bytes((const uint8_t*)up.tree, (const uint8_t*)up.tree + up.tree->bytes)), report(Bytes(8, 0));
  Memory step(Bytes{7, 0, 0, 0, 0, 0, 0, 0});
  for (uint64_t n : {uint64_t{0}, uint64_t{1}, uint64_t{128}, uint64_t{129}, uint64_t{1000}, uint64_t{1281}}) {
    for (uint32_t pieces : {1u, 2u, 3u, 5u, 8u}) {
      const uint64_t cut = 128, units = (n + cut - 1) / cut, first = 256;
      const size_t stride = slimPayloadBytes(up.tree, slimFloat32, n) + 48;
      const Bytes x = makeInput(Input::kNormal, Type::kFp32, n, n + pieces);
      Bytes s(4 * n, 0), y(4 * n, 0xcc);
      Memory xs(x), ss(s), ys(y), payloads(stride * pieces);
      slimStamp stamp = {};
      stamp.seed = 5;
      stamp.step = 7;
      stamp.slot = 3;
      slimEncodeArgs a = {};
      a.tree = (const slimTree*)tree.data();
      a.step = (const uint64_t*)step.data();
      a.x = xs.data();
      a.s = ss.data();
      a.payload = payloads.data();
      a.feedback = up.feedback;
      a.stamp = stamp;
      a.stamp.step = 0;  // the device's counts
      a.n = n;
      a.first = first;
      a.cut = cut;
      a.stride = stride;
      a.pieces = pieces;
      a.type = slimFloat32;
      Device::get().launch(slimLaunchOf(slimKernel_encode_fp8, up.tree, nullptr, slimFloat32, n, 99 * 1024), &a);
      ASSERT_EQ(CUDA_SUCCESS, cuCtxSynchronize());
      const Bytes got = payloads.content();
      for (uint32_t r = 0; r < pieces; r++) {
        const uint64_t from = std::min(n, units * r / pieces * cut), to = std::min(n, units * (r + 1) / pieces * cut);
        Bytes payload(slimPayloadBytes(up.tree, slimFloat32, to - from), 0xcc);
        slimEncodePass pass = {};
        pass.direction = &up;
        pass.stamp = stamp;
        pass.type = slimFloat32;
        pass.x = x.data() + 4 * from;
        pass.n = to - from;
        pass.first = first + from;
        pass.s = s.data() + 4 * from;
        pass.payload = payload.data();
        ASSERT_EQ(slimSuccess, slimPassEncode(&pass, nullptr));
        ASSERT_TRUE(same("payload", payload, Bytes(&got[r * stride], &got[r * stride] + payload.size())))
            << "n=" << n << " piece " << r << " of " << pieces;
      }
      ASSERT_TRUE(same("s", s, ss.content()));
      // Decoded as if ranks 0, 1, … had sent them: headers say rank 0, so all but the first are refused.
      slimDecodeArgs d = {};
      d.tree = a.tree;
      d.step = a.step;
      d.payload = a.payload;
      d.y = ys.data();
      d.report = (unsigned long long*)report.data();
      d.feedback = c.get()->down.feedback;
      d.stamp = a.stamp;
      d.n = n;
      d.first = first;
      d.cut = cut;
      d.stride = stride;
      d.factor = 1;
      d.pieces = pieces;
      d.type = slimFloat32;
      Device::get().launch(slimLaunchOf(slimKernel_decode_fp8, up.tree, nullptr, slimFloat32, n, 99 * 1024), &d);
      ASSERT_EQ(CUDA_SUCCESS, cuCtxSynchronize());
      const Bytes out = ys.content();
      const uint64_t own = std::min(n, units / pieces * cut);
      for (uint64_t i = 0; i < n; i++) {
        float value;
        std::memcpy(&value, &out[4 * i], 4);
        ASSERT_EQ(pieces > 1 && i >= own, std::isnan(value)) << "n=" << n << " pieces=" << pieces << " element " << i;
      }
    }
  }
  unsigned long long word;
  std::memcpy(&word, report.content().data(), 8);
  EXPECT_EQ(slimReportHeader, (int)(word >> 56));
  EXPECT_EQ(3u, (uint32_t)word) << "the slot";
}

// Its tiles are counted by one thread block, a tile a thread at a time; of equal keys the first ones win.
TEST(Pieces, HaveMoreTilesThanAThreadBlockThreads) {
  Case c;
  c.up = "none(topk(k=5000,scope=chunk))";
  c.down = "none(fp16)";
  c.n = (SLIM_MAX_THREADS + 1) * SLIM_PIECE_STEP + 9;
  c.input = Input::kConstant;
  c.ranks = c.steps = 1;
  if (!Sides(c).all()) ADD_FAILURE() << c;
}

TEST(Dense, MessagesAndArraysAreTheCpus) {
  for (Type t : {Type::kFp32, Type::kFp16, Type::kBf16, Type::kFp64}) {
    const slimDataType_t type = (slimDataType_t)t;
    const size_t real = slimRealBytes(type), each = slimTypeBytes(type);
    for (size_t n : {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size_t{1003}, size_t{9000}}) {
      for (size_t shift : {size_t{0}, each}) {
        const Bytes x = makeInput(n % 2 ? Input::kNonFinite : Input::kNormal, t, n, n);
        Memory xs(x, shift);
        slimStamp stamp = {};
        stamp.step = 9;
        stamp.slot = 2;
        const size_t bytes = slimDensePayloadBytes(type, n);
        Bytes payload(bytes, 0xcc);
        Memory payloads(2 * bytes), mean(n * real), out(n * each, shift);
        slimDenseArgs a = {};
        a.src = xs.data();
        a.stamp = stamp;
        a.n = n;
        a.first = 64;
        a.type = type;
        a.factor = 0.5;
        slimLaunch l = {slimKernel_dense_encode, SLIM_MAX_THREADS, 0, 0, n / SLIM_PIECE_STEP + 1};
        const auto run = [&](slimDeviceKernel k, const void* src, void* dst) {
          l.kernel = k;
          a.src = src;
          a.dst = dst;
          Device::get().launch(l, &a);
        };
        run(slimKernel_dense_encode, xs.data(), payloads.data());
        run(slimKernel_dense_encode, xs.data(), payloads.data() + bytes);
        slimDenseEncode(&stamp, type, x.data(), false, n, 64, payload.data());
        const uint8_t* both[] = {payload.data(), payload.data()};
        Bytes sum(n * real, 0), back(n * each, 0);
        slimDenseReduce(type, n, 2, both, 0.5, sum.data());
        slimFromReal(type, sum.data(), n, 3, back.data());
        a.ranks = 2;
        a.stride = bytes;
        run(slimKernel_dense_reduce, payloads.data(), mean.data());
        a.factor = 3;
        run(slimKernel_from_real, mean.data(), out.data());
        ASSERT_EQ(CUDA_SUCCESS, cuCtxSynchronize());
        const Bytes sent = payloads.content();
        ASSERT_TRUE(same("dense message", payload, Bytes(sent.begin(), sent.begin() + (long)bytes)));
        if (n % 2) continue;  // what NaN sums to is the machine's matter
        ASSERT_TRUE(same("mean", sum, mean.content()) && same("elements", back, out.content()));
        const Bytes scalar = makeInput(Input::kNormal, t, 1, 77);
        Memory scaled(n * each, shift), there(scalar);
        Bytes wanted(n * each, 0), scaledReals(n * real, 0), factor(real, 0);
        slimToReal(type, scalar.data(), 1, factor.data());
        slimToReal(type, x.data(), n, scaledReals.data());
        const double by =
            real == 8 ? *reinterpret_cast<double*>(factor.data()) : *reinterpret_cast<float*>(factor.data());
        slimFromReal(type, scaledReals.data(), n, by, wanted.data());
        for (int device = 0; device < 2; device++) {
          a.scalar = device ? there.data() : nullptr;
          a.factor = device ? 0 : by;
          run(slimKernel_premultiply, xs.data(), scaled.data());
          ASSERT_EQ(CUDA_SUCCESS, cuCtxSynchronize());
          ASSERT_TRUE(same("premultiplied", wanted, scaled.content()));
        }
        a.factor = 3;
        run(slimKernel_scale, nullptr, mean.data());
        slimScaleReal(type, sum.data(), n, 3);
        ASSERT_EQ(CUDA_SUCCESS, cuCtxSynchronize());
        ASSERT_TRUE(same("scaled", sum, mean.content()));
      }
    }
  }
}

TEST(Dense, FiniteOnesAreTaken) {
  const size_t n = 1003;
  const Bytes x = makeInput(Input::kNonFinite, Type::kFp32, n, 3), before(4 * n, 0x11);
  Memory xs(x), each(before), groups(before);
  slimDenseArgs a = {};
  a.src = xs.data();
  a.n = n;
  a.type = slimFloat32;
  slimLaunch l = {slimKernel_copy_finite, SLIM_MAX_THREADS, 0, 0, 1};
  a.dst = each.data();
  Device::get().launch(l, &a);
  a.dst = groups.data();
  l.kernel = slimKernel_take_finite;
  Device::get().launch(l, &a);
  ASSERT_EQ(CUDA_SUCCESS, cuCtxSynchronize());
  Bytes wantEach = before, wantGroups = before;
  const auto finite = [&](size_t i) {
    float v;
    std::memcpy(&v, &x[4 * i], 4);
    return std::isfinite(v);
  };
  size_t taken = 0;
  for (size_t g = 0; g < n; g += 64) {
    bool all = true;
    for (size_t i = g; i < std::min(n, g + 64); i++) {
      all = all && finite(i);
      if (finite(i)) std::memcpy(&wantEach[4 * i], &x[4 * i], 4);
    }
    if (all) std::memcpy(&wantGroups[4 * g], &x[4 * g], 4 * (std::min(n, g + 64) - g));
    taken += all;
  }
  EXPECT_TRUE(taken > 0 && taken < (n + 63) / 64) << taken << " groups";
  EXPECT_TRUE(same("copy_finite", wantEach, each.content()) && same("take_finite", wantGroups, groups.content()));
}

// A memory in bf16: rounded by the draws of the step after the device's.
TEST(Dense, AMemoryIsScaledWithTheCpusDraws) {
  for (size_t n : {size_t{1}, size_t{255}, size_t{4096}, size_t{9001}}) {
    Bytes s = makeInput(Input::kNormal, Type::kBf16, n, n);
    Memory device(s, n % 2 ? 2 : 0), step(Bytes{6, 0, 0, 0, 0, 0, 0, 0});
    slimStamp stamp = {};
    stamp.seed = 17;
    stamp.step = 7;
    stamp.slot = 5;
    stamp.rank = 3;
    stamp.down = n % 2;
    slimScaleMemory(&stamp, (uint16_t*)s.data(), n, 0.3);
    slimDenseArgs a = {};
    a.step = (const uint64_t*)step.data();
    a.dst = device.data();
    a.stamp = stamp;
    a.n = n;
    a.factor = 0.3;
    Device::get().launch({slimKernel_scale_memory, SLIM_MAX_THREADS, 0, 0, n / SLIM_PIECE_STEP + 1}, &a);
    ASSERT_EQ(CUDA_SUCCESS, cuCtxSynchronize());
    ASSERT_TRUE(same("memory", s, device.content())) << n;
  }
}

TEST(Step, GoesOn) {
  Memory step(Bytes{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0});
  slimStepArgs a = {(uint64_t*)step.data()};
  Device::get().launch({slimKernel_next_step, 32, 0, 0, 1}, &a);
  ASSERT_EQ(CUDA_SUCCESS, cuCtxSynchronize());
  EXPECT_EQ((Bytes{0, 0, 0, 0, 1, 0, 0, 0}), step.content());
}

}  // namespace
}  // namespace slim_test
