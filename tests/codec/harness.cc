#include "tests/codec/harness.h"

#include <xmmintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <sstream>

#include <gtest/gtest.h>

#include "compress/kernels.h"

namespace slim_test {

using ref::Bytes;
using ref::Type;

// ---- Inputs ---------------------------------------------------------------------------------------------------------

const char* nameOf(Input input) {
  static const char* const kNames[] = {"normal",  "laplace",  "heavy tail", "sparse", "constant", "denormal",
                                       "zero",    "huge",     "tiny",       "spike",  "scales",   "ties",
                                       "integer", "plateaus", "non-finite", "comb",   "gaps",     "exponents"};
  return kNames[static_cast<int>(input)];
}

const std::vector<Input> kFiniteInputs = {Input::kNormal,   Input::kLaplace,  Input::kHeavyTail, Input::kSparse,
                                          Input::kConstant, Input::kDenormal, Input::kZero,      Input::kHuge,
                                          Input::kTiny,     Input::kSpike,    Input::kScales,    Input::kTies,
                                          Input::kInteger,  Input::kPlateaus, Input::kExponents};

Bytes makeInput(Input input, Type type, size_t n, uint64_t seed) {
  // Only the engine's bits are used: the standard distributions differ between libraries.
  std::mt19937_64 random(seed * 1000003 + static_cast<uint64_t>(input));
  auto uniform = [&random] { return (static_cast<double>(random() >> 11) + 0.5) * std::ldexp(1.0, -53); };
  auto normal = [&uniform] { return std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform()); };
  double largest = 3.4e38, tiny = 1e-39, denormal = std::ldexp(1.0, -149);
  if (type == Type::kFp16) largest = 65504, tiny = 2e-6, denormal = std::ldexp(1.0, -24);
  if (type == Type::kBf16) largest = 3.38e38, denormal = std::ldexp(1.0, -133);
  if (type == Type::kFp64) largest = 1.7e308, tiny = 1e-310, denormal = std::ldexp(1.0, -1074);
  double limit = type == Type::kFp16 ? 60000 : largest;
  double plateau = 0;
  Bytes elements(n * typeBytes(type));
  for (size_t i = 0; i < n; i++) {
    double value = 0, sign = random() & 1 ? -1.0 : 1.0;
    switch (input) {
      case Input::kNormal:
        value = normal();
        break;
      case Input::kLaplace:
        value = -sign * std::log(uniform()) * 0.01;
        break;
      case Input::kHeavyTail:
        value = normal() / std::sqrt(-std::log(uniform()));
        break;
      case Input::kSparse:
        value = random() % 100 == 0 ? normal() : 0;
        break;
      case Input::kConstant:
        value = -0.3;
        break;
      case Input::kDenormal:
        value = sign * denormal * static_cast<double>(random() % 1000);
        break;
      case Input::kZero:
        value = sign * 0.0;
        break;
      case Input::kHuge:
        value = sign * largest * (0.5 + uniform() / 2);
        if (i / 600 % 2) value /= 8;  // not every block overflows
        break;
      case Input::kTiny:
        value = sign * tiny * (random() % 7 ? 1.0 : uniform());
        break;
      case Input::kSpike:
        value = i % 700 == 300 ? 5.0 : sign * 0.0;
        break;
      case Input::kScales:
        value = normal() * std::pow(10.0, static_cast<double>(i / 256 * 7 % 9) - (type == Type::kFp16 ? 5 : 4));
        break;
      case Input::kTies:
        value = sign * static_cast<double>(1 + random() % 3);
        break;
      case Input::kInteger:
        value = sign * static_cast<double>(random() % 16) * 0.5;
        break;
      case Input::kPlateaus:
        if (i % 64 == 0) plateau = 0.1 + uniform();
        value = sign * plateau;
        break;
      case Input::kComb:
        value = i % 512 == 0 ? sign * (5 + uniform()) : 0.1 * normal();
        break;
      case Input::kGaps:
        value = i % 512 < 64 ? 0 : sign * static_cast<double>(i + 1) / 64;
        break;
      case Input::kExponents: {
        static const int kTops[] = {-148, -127, -126, -125, -100, -64, -63, -62, -61, -60,
                                    0,    59,   60,   61,   94,   95,  96,  97,  120, 126};
        const int below = static_cast<int>(random() % (random() % 4 ? 6 : 60));
        value = sign * (1 + uniform()) * std::ldexp(1.0, kTops[i / 512 * 7 % std::size(kTops)] - below);
        break;
      }
      case Input::kNonFinite: {
        value = normal();
        uint64_t what = random() % 900;
        if (i > 4 && what == 0) value = NAN;
        if (i > 4 && what == 1) value = INFINITY;
        if (i > 4 && what == 2) value = -INFINITY;
        break;
      }
    }
    if (std::isfinite(value)) value = std::max(-limit, std::min(limit, value));
    if (type == Type::kFp64) {
      ref::fromReal<double>(type, value, &elements[i * 8]);
    } else {
      ref::fromReal<float>(type, static_cast<float>(value), &elements[i * typeBytes(type)]);
    }
  }
  return elements;
}

// ---- Buffers --------------------------------------------------------------------------------------------------------

namespace {
const size_t kCanary = 192;
uint8_t canary(size_t i) { return static_cast<uint8_t>(0xc5 ^ i * 29); }
}  // namespace

Guarded::Guarded(size_t bytes, size_t offset) : all_(bytes + offset + 2 * kCanary + 64), bytes_(bytes) {
  start_ = kCanary + offset;
  while ((reinterpret_cast<uintptr_t>(all_.data()) + start_ - offset) % 64) start_++;
  for (size_t i = 0; i < all_.size(); i++) all_[i] = canary(i);
}

Guarded::Guarded(const Bytes& content, size_t offset) : Guarded(content.size(), offset) {
  std::copy(content.begin(), content.end(), data());
}

bool Guarded::intact() const {
  for (size_t i = 0; i < all_.size(); i++) {
    if (i == start_) i += bytes_;
    if (i < all_.size() && all_[i] != canary(i)) return false;
  }
  return true;
}

// ---- Specs ----------------------------------------------------------------------------------------------------------

namespace {
ref::Feedback adopt(const slimFeedback& from) {
  ref::Feedback f;
  f.sigma = from.sigma;
  f.a = from.a;
  f.b = from.b;
  f.c = from.c;
  f.nu = from.nu;
  f.lambda = from.lambda;
  f.momentum = from.momentum;
  f.memory = from.memory;
  f.shifts = from.shifts;
  f.bf16 = from.bf16;
  return f;
}
}  // namespace

Compressor::Compressor(const std::string& up, const std::string& down) {
  std::string spec = "up=" + up + "; down=" + down;
  if (slimCompressorCreate(&compressor_, spec.c_str()) != slimSuccess) {
    ADD_FAILURE() << spec << " is refused: " << slimLastMessage();
    compressor_ = nullptr;
    return;
  }
  up_.tree = ref::parse(up).tree;
  down_.tree = ref::parse(down).tree;
  up_.feedback = adopt(compressor_->up.feedback);
  down_.feedback = adopt(compressor_->down.feedback);
}

// ---- Runs -----------------------------------------------------------------------------------------------------------

std::vector<std::string> instructionSets() {
  std::vector<std::string> names;
  for (const char* name : {"baseline", "avx2", "avx512"}) {
    if (slimKernelsByName(name)) names.push_back(name);
  }
  return names;
}

void useInstructionSet(const std::string& name) { slimActiveKernels = slimKernelsByName(name.c_str()); }

CallerMode::CallerMode(bool flush) : saved_(_mm_getcsr()) {
  set_ = saved_ & ~0x3fu;
  if (flush) set_ |= 0x8040u;
  _mm_setcsr(set_);
}

CallerMode::~CallerMode() {
  unsigned now = _mm_getcsr();
  _mm_setcsr(saved_);
  EXPECT_EQ(set_ & ~0x3fu, now & ~0x3fu) << "the caller's floating-point mode was changed";
}

std::string nameOf(const Scenario& run) {
  static const std::map<Type, const char*> kTypes = {
      {Type::kFp16, "fp16"}, {Type::kBf16, "bf16"}, {Type::kFp32, "fp32"}, {Type::kFp64, "fp64"}};
  std::ostringstream name;
  name << "up=" << run.up << "; down=" << run.down << " type=" << kTypes.at(run.type) << " n=" << run.n
       << " first=" << run.first << " input=" << nameOf(run.input) << " ranks=" << run.ranks
       << " threads=" << run.threads << (run.flush ? " FTZ" : "") << (run.offset ? " offset" : "") << " seed=0x"
       << std::hex << run.seed;
  return name.str();
}

namespace {

// NaN of any payload counts as the same: fp32 passes what it is given, and the sign of a new NaN is the processor's.
bool sameValue(double a, double b) {
  if (std::isnan(a) && std::isnan(b)) return true;
  return a == b && std::signbit(a) == std::signbit(b);
}

template <typename T>
std::string show(T value) {
  std::ostringstream text;
  text << value << " (" << std::hexfloat << value << ")";
  return text.str();
}

// Payloads are compared to the bit; with nanValues, 32-bit words that are NaN on both sides are the same.
bool samePayload(const std::string& what, const Bytes& expected, const Bytes& got, bool nanValues) {
  if (expected.size() != got.size()) {
    ADD_FAILURE() << what << ": " << got.size() << " bytes, expected " << expected.size();
    return false;
  }
  for (size_t i = 0; i < got.size(); i++) {
    if (expected[i] == got[i]) continue;
    if (nanValues) {
      float a, b;
      std::memcpy(&a, &expected[i / 4 * 4], 4);
      std::memcpy(&b, &got[i / 4 * 4], 4);
      if (std::isnan(a) && std::isnan(b)) continue;
    }
    size_t differing = 0;
    for (size_t j = i; j < got.size(); j++) differing += expected[j] != got[j];
    std::ostringstream around;
    for (size_t j = i / 4 * 4; j < std::min(got.size(), i / 4 * 4 + 16); j++) {
      around << " " << std::hex << static_cast<int>(got[j]) << "/" << static_cast<int>(expected[j]);
    }
    ADD_FAILURE() << what << ": byte " << i << " of " << got.size() << " differs, " << differing
                  << " bytes in all; got/expected from byte " << i / 4 * 4 << ":" << around.str();
    return false;
  }
  return true;
}

template <typename Real>
bool sameReals(const std::string& what, const std::vector<Real>& expected, const uint8_t* got) {
  for (size_t i = 0; i < expected.size(); i++) {
    Real value;
    std::memcpy(&value, got + i * sizeof(Real), sizeof(Real));
    if (sameValue(expected[i], value)) continue;
    ADD_FAILURE() << what << "[" << i << "]: got " << show(value) << ", expected " << show(expected[i]);
    return false;
  }
  return true;
}

bool sameElements(const std::string& what, Type type, const Bytes& expected, const Bytes& got) {
  size_t each = typeBytes(type);
  for (size_t i = 0; i < expected.size() / each; i++) {
    if (std::memcmp(&expected[i * each], &got[i * each], each) == 0) continue;
    double a = ref::toReal<double>(type, &expected[i * each], 1)[0],
           b = ref::toReal<double>(type, &got[i * each], 1)[0];
    ADD_FAILURE() << what << "[" << i << "]: got " << show(b) << ", expected " << show(a)
                  << (std::isnan(a) ? ", canonical" : "");
    return false;
  }
  return true;
}

struct Pool {
  explicit Pool(int threads) {
    if (threads > 0) {
      EXPECT_EQ(slimSuccess, slimPoolCreate(&pool, threads));
    }
  }
  ~Pool() { slimPoolDestroy(pool); }
  slimPool* pool = nullptr;
};

slimStamp stampOf(const ref::Stamp& stamp) {
  slimStamp s = {};
  s.hash = stamp.hash;
  s.seed = stamp.seed;
  s.step = stamp.step;
  s.slot = stamp.slot;
  s.rank = stamp.rank;
  s.down = stamp.down;
  return s;
}

bool usesFp32Values(const ref::Node& tree) {
  if (tree.kind == ref::Kind::kFp32) return true;
  for (const ref::Node& child : tree.children) {
    if (usesFp32Values(child)) return true;
  }
  return false;
}

#define STOP_UNLESS(condition) \
  if (!(condition)) return false

// One instruction set's run over all steps. The states on both sides are carried along.
template <typename Real>
class Side {
 public:
  Side(const Scenario& run, const Compressor& c) : run_(run), c_(c), pool_(run.threads) {
    size_t offset = run.offset ? sizeof(Real) : 0;
    std::vector<Real> zero(run.n, Real(0));
    for (int r = 0; r < run.ranks; r++) {
      s_.emplace_back(zeros(c.up().feedback.bf16), offset);
      v_.emplace_back(bytesOf(zero), offset);
    }
    h_.emplace_back(bytesOf(zero), offset);
    e_.emplace_back(zeros(c.down().feedback.bf16), offset);
    if (slimTreeSharesLambda(c.get()->up.tree)) {
      size_t unit = ref::unitOf(c.up().tree);
      refCommon_.assign((run.n + unit - 1) / unit, Real(0));
      common_.emplace_back(bytesOf(refCommon_), offset);
    }
    refS_.assign(run.ranks, zero);
    refV_.assign(run.ranks, zero);
    refH_ = refE_ = zero;
  }

  bool steps() {
    for (int step = 0; step < run_.steps; step++) {
      if (!oneStep(step)) {
        ADD_FAILURE() << "in step " << step << " of " << nameOf(run_) << " with " << slimKernelsInUse()->name;
        return false;
      }
    }
    return true;
  }

 private:
  // stats=previous; the last one is the downlink's.
  struct Kept {
    float mean, table;
  };
  bool sameKept(int i) {
    const ref::Kept& want = refKept_[static_cast<size_t>(i)];
    const Kept& got = kept_[static_cast<size_t>(i)];
    return (got.mean == want.mean && got.table == static_cast<float>(want.table)) ||
           different("kept statistics", static_cast<size_t>(i), 0);
  }

  bool oneStep(int step) {
    const slimDirection &up = c_.get()->up, &down = c_.get()->down;
    size_t n = run_.n, elementOffset = run_.offset ? typeBytes(run_.type) : 0;
    slimDataType_t type = static_cast<slimDataType_t>(run_.type);
    bool nanUp = usesFp32Values(c_.up().tree), nanDown = usesFp32Values(c_.down().tree);
    ref::Stamp stamp;
    stamp.hash = slimCompressorHash(c_.get(), type);
    stamp.seed = run_.seed;
    stamp.step = static_cast<uint64_t>(step) + (step ? 0x100000000u : 0);  // the draws see the low 32 bits
    stamp.slot = 11;

    std::vector<Guarded> payloads;
    std::vector<Bytes> expected;
    size_t bytes = slimPayloadBytes(up.tree, type, n);
    for (int r = 0; r < run_.ranks; r++) {
      stamp.rank = static_cast<uint32_t>(r);
      stamp.down = false;
      Guarded x(makeInput(run_.input, run_.type, n, run_.seed + static_cast<uint64_t>(100 * step + r)), elementOffset);
      std::vector<Real> reals = ref::toReal<Real>(run_.type, x.data(), n);
      expected.push_back(ref::encode<Real>(c_.up(), stamp, run_.type, reals, run_.first,
                                           up.feedback.memory ? &refS_[r] : nullptr,
                                           up.feedback.momentum != 0 ? &refV_[r] : nullptr, step == 0,
                                           common_.empty() ? nullptr : &refCommon_, &refKept_[r]));
      STOP_UNLESS(expected[r].size() == bytes || different("slimPayloadBytes", expected[r].size(), bytes));
      payloads.emplace_back(bytes);
      slimPassStats stats = {};
      slimEncodePass pass = {};
      pass.direction = &up;
      pass.stamp = stampOf(stamp);
      pass.type = type;
      pass.x = x.data();
      pass.n = n;
      pass.first = run_.first;
      pass.s = up.feedback.memory ? s_[r].data() : nullptr;
      pass.v = up.feedback.momentum != 0 ? v_[r].data() : nullptr;
      pass.payload = payloads[r].data();
      pass.stats = r == 0 ? nullptr : &stats;
      pass.lambda = common_.empty() ? nullptr : common_[0].data();
      pass.mean = &kept_[r].mean;
      pass.table = &kept_[r].table;
      Bytes before = x.content();
      {
        CallerMode mode(run_.flush);
        EXPECT_EQ(slimSuccess, slimPassEncode(&pass, pool_.pool));
      }
      STOP_UNLESS(samePayload("payload", expected[r], payloads[r].content(), nanUp));
      STOP_UNLESS(intact("payload", payloads[r]) && intact("s", s_[r]) && intact("v", v_[r]) && intact("x", x));
      STOP_UNLESS(x.content() == before || different("x after encode", 0, 1));
      STOP_UNLESS(sameMemory("s", refS_[r], s_[r].data(), up.feedback.bf16) && sameReals("v", refV_[r], v_[r].data()));
      STOP_UNLESS(sameKept(r));
    }

    std::vector<const uint8_t*> gotPointers, refPointers;
    for (int r = 0; r < run_.ranks; r++) {
      gotPointers.push_back(payloads[r].data());
      refPointers.push_back(expected[r].data());
    }
    uint32_t owner = static_cast<uint32_t>(run_.ranks - 1);
    double factor = step % 2 ? run_.ranks : 1;
    stamp.rank = owner;
    stamp.down = true;
    slimReducePass reduce = {};
    reduce.up = &up;
    reduce.stamp = stampOf(stamp);
    reduce.type = type;
    reduce.n = n;
    reduce.first = run_.first;
    reduce.ranks = run_.ranks;
    reduce.payloads = gotPointers.data();
    reduce.weight = 1.0 / run_.ranks;
    reduce.factor = factor;

    // To y, on a copy of h.
    {
      std::vector<Real> h = refH_, common = refCommon_;
      ref::Reduced<Real> want = ref::reduce<Real>(c_.up(), stamp, run_.type, n, run_.first, refPointers, reduce.weight,
                                                  up.feedback.shifts ? &h : nullptr, nullptr, nullptr, factor,
                                                  common_.empty() ? nullptr : &common);
      Guarded commonCopy(bytesOf(refCommon_), run_.offset ? sizeof(Real) : 0);
      reduce.lambda = common_.empty() ? nullptr : commonCopy.data();
      Guarded hCopy(h_[0].content(), run_.offset ? sizeof(Real) : 0);
      Guarded y(n * typeBytes(run_.type), elementOffset);
      reduce.h = up.feedback.shifts ? hCopy.data() : nullptr;
      reduce.y = y.data();
      {
        CallerMode mode(run_.flush);
        EXPECT_EQ(slimSuccess, slimPassReduce(&reduce, pool_.pool));
      }
      STOP_UNLESS(intact("y", y) && intact("h", hCopy));
      STOP_UNLESS(sameElements("y of reduce", run_.type, want.y, y.content()));
      STOP_UNLESS(sameReals("h", h, hCopy.data()));
      STOP_UNLESS(intact("common", commonCopy) && sameReals("common", common, commonCopy.data()));
    }

    // To a payload.
    size_t downBytes = slimPayloadBytes(down.tree, type, n);
    Guarded payload(downBytes);
    bool downState = down.feedback.memory || down.feedback.shifts;
    ref::Reduced<Real> want = ref::reduce<Real>(
        c_.up(), stamp, run_.type, n, run_.first, refPointers, reduce.weight, up.feedback.shifts ? &refH_ : nullptr,
        &c_.down(), downState ? &refE_ : nullptr, 1, common_.empty() ? nullptr : &refCommon_, &refKept_[run_.ranks]);
    reduce.lambda = common_.empty() ? nullptr : common_[0].data();
    reduce.h = up.feedback.shifts ? h_[0].data() : nullptr;
    reduce.y = nullptr;
    reduce.down = &down;
    reduce.e = downState ? e_[0].data() : nullptr;
    reduce.payload = payload.data();
    reduce.factor = 1;
    slimPassStats stats = {};
    reduce.stats = &stats;
    reduce.mean = &kept_[run_.ranks].mean;
    reduce.table = &kept_[run_.ranks].table;
    {
      CallerMode mode(run_.flush);
      EXPECT_EQ(slimSuccess, slimPassReduce(&reduce, pool_.pool));
    }
    STOP_UNLESS(samePayload("payload of reduce", want.payload, payload.content(), nanDown));
    STOP_UNLESS(intact("payload of reduce", payload) && intact("h", h_[0]) && intact("e", e_[0]));
    STOP_UNLESS(sameReals("h", refH_, h_[0].data()) && sameMemory("e", refE_, e_[0].data(), down.feedback.bf16));
    STOP_UNLESS(sameKept(run_.ranks));

    // The downlink's decode; H where it has shifts.
    bool shifts = down.feedback.shifts;
    Guarded y(n * typeBytes(run_.type), elementOffset);
    Bytes wantY = ref::decode<Real>(c_.down(), stamp, run_.type, n, run_.first, want.payload.data(),
                                    shifts ? &refE_ : nullptr, factor, common_.empty() ? nullptr : &refCommon_);
    slimDecodePass decode = {};
    decode.direction = &down;
    decode.stamp = stampOf(stamp);
    decode.type = type;
    decode.n = n;
    decode.first = run_.first;
    decode.payload = payload.data();
    decode.h = shifts ? e_[0].data() : nullptr;
    decode.y = y.data();
    decode.factor = factor;
    decode.lambda = reduce.lambda;
    {
      CallerMode mode(run_.flush);
      EXPECT_EQ(slimSuccess, slimPassDecode(&decode, pool_.pool));
    }
    STOP_UNLESS(intact("y", y) && intact("H", e_[0]) && intact("payload", payload));
    STOP_UNLESS(sameElements("y", run_.type, wantY, y.content()) && (!shifts || sameReals("H", refE_, e_[0].data())));
    if (common_.empty()) return true;
    STOP_UNLESS(intact("common", common_[0]) && sameReals("common", refCommon_, common_[0].data()));
    return true;
  }

  Bytes zeros(bool bf16) const { return Bytes(run_.n * (bf16 ? 2 : sizeof(Real)), uint8_t{0}); }

  bool sameMemory(const std::string& what, const std::vector<Real>& expected, const uint8_t* got, bool bf16) {
    return sameReals(what, expected, bf16 ? bytesOf(ref::toReal<Real>(Type::kBf16, got, run_.n)).data() : got);
  }

  bool intact(const char* what, const Guarded& buffer) {
    if (buffer.intact()) return true;
    ADD_FAILURE() << "bytes beside " << what << " were written";
    return false;
  }

  bool different(const char* what, size_t expected, size_t got) {
    ADD_FAILURE() << what << ": " << got << ", expected " << expected;
    return false;
  }

  const Scenario& run_;
  const Compressor& c_;
  Pool pool_;
  std::vector<Guarded> s_, v_, h_, e_, common_;
  std::vector<std::vector<Real>> refS_, refV_;
  std::vector<Real> refH_, refE_, refCommon_;
  std::vector<ref::Kept> refKept_ = std::vector<ref::Kept>(static_cast<size_t>(run_.ranks) + 1);
  std::vector<Kept> kept_ = std::vector<Kept>(static_cast<size_t>(run_.ranks) + 1);
};

}  // namespace

void compareWithReference(const Scenario& run) {
  Compressor compressor(run.up, run.down);
  if (!compressor.ok()) return;
  const bool gathers = slimTreeGathers(compressor.get()->up.tree) || slimTreeGathers(compressor.get()->down.tree);
  if (gathers && run.type == Type::kFp64) return;  // which slimTensorStart refuses
  std::vector<std::string> sets = run.allSets ? instructionSets() : std::vector<std::string>{slimKernelsInUse()->name};
  for (const std::string& set : sets) {
    useInstructionSet(set);
    bool same = run.type == Type::kFp64 ? Side<double>(run, compressor).steps() : Side<float>(run, compressor).steps();
    if (!same) return;
  }
}

}  // namespace slim_test
