// libnccl.so.2 of the stand-in: NCCL's interface over devices made of CPU threads. Ranks are threads or processes of
// one machine; what a collective moves goes through a shared memory segment, a slice at a time, and is reduced in rank
// order. It checks its caller, and reports what real NCCL would answer with a hang or wrong data.
#include <cuda_fp8.h>
#include <fcntl.h>
#include <nccl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/simgpu/service.h"

#pragma GCC visibility push(default)
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

// As in the real library: the pncclX are strong, each ncclX is weak and has the same address, and calls from inside go
// through the exported name.
#define API(type, name, ...)                                                 \
  extern "C" type name(__VA_ARGS__) __attribute__((weak, alias("p" #name))); \
  extern "C" type p##name(__VA_ARGS__)

namespace {

constexpr size_t kSlice = 256 << 10; /* bytes of a rank's window, and of a mailbox */
constexpr int kMaxRanks = 64;

/* ---- Words ---------------------------------------------------------------------------------------------------------
 */

std::mutex& lastLock = *new std::mutex;
std::string& lastText = *new std::string;

__attribute__((format(printf, 2, 3))) ncclResult_t fail(ncclResult_t result, const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  const char* debug = getenv("NCCL_DEBUG");
  if (debug && *debug) fprintf(stderr, "simgpu: nccl: %s\n", text);
  std::lock_guard<std::mutex> guard(lastLock);
  lastText = text;
  return result;
}
#define CHECK(condition, result, ...)                   \
  do {                                                  \
    if (!(condition)) return fail(result, __VA_ARGS__); \
  } while (0)
#define TRY(expression)                       \
  do {                                        \
    const ncclResult_t tried_ = (expression); \
    if (tried_ != ncclSuccess) return tried_; \
  } while (0)

const char* const kTypes[] = {"int8",    "uint8",   "int32",   "uint32",   "int64",   "uint64",
                              "float16", "float32", "float64", "bfloat16", "fp8e4m3", "fp8e5m2"};
const char* const kOps[] = {"sum", "prod", "max", "min", "avg"};

size_t sizeOf(ncclDataType_t type) {
  switch (type) {
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
      return 8;
    case ncclFloat16:
    case ncclBfloat16:
      return 2;
    default:
      return 1;
  }
}

/* ---- A communicator
 * -------------------------------------------------------------------------------------------------- */

/* What ranks share. Behind it lie the mailboxes (ranks²), then the windows (ranks), kSlice bytes each. */
struct alignas(64) Place {
  std::atomic<int> taken;        /* rank + 1 */
  std::atomic<uint64_t> arrived; /* at barriers of operations, */
  std::atomic<uint64_t> called;  /* and of calls */
  int device;
  char what[128]; /* the collective that it is in */
  char word[256]; /* for calls */
};
struct alignas(64) Mailbox {
  std::atomic<uint64_t> written, read; /* slices */
  uint64_t total;                      /* bytes of the message of the last slice */
};
struct Segment {
  std::atomic<int> ranks, joined, ended; /* ended: a rank has aborted, + 1 */
  Place place[kMaxRanks];
  Mailbox mail[];
};
size_t segmentBytes(int n) {
  const size_t head = sizeof(Segment) + (size_t)n * (size_t)n * sizeof(Mailbox);
  return ((head + 4095) & ~size_t{4095}) + ((size_t)n * (size_t)n + (size_t)n) * kSlice;
}

struct Op;

}  // namespace

struct ncclComm {
  Segment* shared = nullptr;
  int rank = 0, ranks = 0, device = 0;
  std::string id, name;
  bool blocking = true;
  std::atomic<ncclResult_t> state{ncclSuccess}; /* ncclCommGetAsyncError */
  std::atomic<bool> aborted{false}, revoked{false};
  std::atomic<bool> finalized{false};
  std::atomic<bool> launching{false}; /* calls of a communicator that does not block are not on their streams yet */
  uint64_t barriers = 0, calls = 0, children = 0;
  std::mutex lock;                                                      /* of what follows */
  std::vector<std::pair<bool, std::shared_ptr<struct Scalar>>> scalars; /* of PreMulSum operators */
  std::string text;

  ~ncclComm() {
    if (shared) munmap(shared, segmentBytes(ranks));
  }
  char* box(int from, int to) const { return data() + ((size_t)from * (size_t)ranks + (size_t)to) * kSlice; }
  char* window(int r) const { return data() + ((size_t)ranks * (size_t)ranks + (size_t)r) * kSlice; }
  Mailbox& mailbox(int from, int to) const { return shared->mail[from * ranks + to]; }
  char* data() const {
    const size_t head = sizeof(Segment) + (size_t)ranks * (size_t)ranks * sizeof(Mailbox);
    return reinterpret_cast<char*>(shared) + ((head + 4095) & ~size_t{4095});
  }
  bool stopped() const { return aborted || revoked || shared->ended; }
};

struct Scalar {
  ncclDataType_t type;
  double value;
  CUdeviceptr device; /* where it is read, if not 0 */
};

namespace {

using CommPtr = std::shared_ptr<ncclComm>;

std::mutex& tableLock = *new std::mutex;
std::map<ncclComm*, CommPtr>& table = *new std::map<ncclComm*, CommPtr>;

CommPtr find(ncclComm_t handle) {
  std::lock_guard<std::mutex> guard(tableLock);
  const auto found = table.find(handle);
  return found == table.end() ? nullptr : found->second;
}
#define FIND(c, handle)           \
  const CommPtr c = find(handle); \
  CHECK(c, ncclInvalidArgument, "%s: not a communicator: never made, or destroyed or aborted since", __func__ + 1)
#define FIND_READY(c, handle)                                                                                       \
  FIND(c, handle);                                                                                                  \
  CHECK(c->state != ncclInProgress, ncclInvalidArgument, "%s: the communicator is still being made", __func__ + 1); \
  CHECK(!c->launching, ncclInvalidArgument, "%s: the calls before are still in progress", __func__ + 1);            \
  CHECK(!c->revoked, ncclInvalidUsage, "%s: the communicator was revoked", __func__ + 1)

void broken(ncclComm* c, ncclResult_t result, const std::string& text) {
  std::lock_guard<std::mutex> guard(c->lock);
  if (c->state != ncclSuccess) return;
  c->state = result;
  c->text = text;
  fprintf(stderr, "simgpu: nccl: rank %d: %s\n", c->rank, text.c_str());
}

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// The communicator cannot go on; if that is a peer's doing, it is known from now on.
bool hasEnded(ncclComm* c) {
  if (!c->stopped()) return false;
  if (!c->aborted && !c->revoked)
    broken(c, ncclRemoteError, "rank " + std::to_string(c->shared->ended - 1) + " has ended the communicator");
  return true;
}

// Waits until ready(); false if the communicator ends first. Whoever waits long says what for.
template <typename Ready, typename Describe>
bool await(ncclComm* c, Ready ready, Describe describe) {
  constexpr double kPatience = 30;
  double since = 0;
  for (unsigned round = 0; !ready(); round++) {
    if (hasEnded(c)) {
      return false;
    }
    if (round < 200) {
      sched_yield();
      continue;
    }
    usleep(100);
    if (since == 0) since = now();
    if (since > 0 && now() - since > kPatience) {
      fprintf(stderr, "simgpu: nccl: rank %d waits: %s\n", c->rank, describe().c_str());
      since = -1;
    }
  }
  return true;
}

// All ranks; `counter` is where each counts its arrivals.
bool barrier(ncclComm* c, std::atomic<uint64_t> Place::*counter, uint64_t number, const char* what) {
  (c->shared->place[c->rank].*counter).store(number);
  auto missing = [&](int r) { return (c->shared->place[r].*counter).load() < number; };
  int first = 0;
  return await(
      c,
      [&] {
        while (first < c->ranks && !missing(first)) first++;
        return first == c->ranks;
      },
      [&] {
        std::string text = std::string("in ") + what + " for rank";
        for (int r = first; r < c->ranks; r++)
          if (missing(r)) text += " " + std::to_string(r);
        return text;
      });
}
bool meet(ncclComm* c, const char* what) { return barrier(c, &Place::arrived, ++c->barriers, what); }
bool meetInCall(ncclComm* c, const char* what) { return barrier(c, &Place::called, ++c->calls, what); }

/* ---- Making one
 * -------------------------------------------------------------------------------------------------------- */

ncclResult_t join(ncclComm* c) {
  const std::string path = "/simgpu-nccl-" + c->id;
  const int fd = shm_open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  CHECK(fd >= 0, ncclSystemError, "no shared memory segment %s: %s", path.c_str(), strerror(errno));
  const size_t bytes = segmentBytes(c->ranks);
  const bool sized = ftruncate(fd, (off_t)bytes) == 0;
  void* p = sized ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
  close(fd);
  CHECK(p != MAP_FAILED, ncclSystemError, "no shared memory of %zu bytes: %s", bytes, strerror(errno));
  c->shared = static_cast<Segment*>(p);
  int ranks = 0;
  CHECK(c->shared->ranks.compare_exchange_strong(ranks, c->ranks) || ranks == c->ranks, ncclInvalidUsage,
        "rank %d says that there are %d ranks, another that there are %d", c->rank, c->ranks, ranks);
  Place& mine = c->shared->place[c->rank];
  mine.device = c->device;
  CHECK(!mine.taken.exchange(c->rank + 1), ncclInvalidUsage, "two ranks of a communicator say that they are rank %d",
        c->rank);
  c->shared->joined++;
  const bool all = await(
      c, [&] { return c->shared->joined == c->ranks; },
      [&] { return "for " + std::to_string(c->ranks - c->shared->joined) + " ranks that have not joined"; });
  if (c->rank == 0) shm_unlink(path.c_str());
  CHECK(all, c->aborted ? ncclInvalidUsage : ncclRemoteError, "the communicator ended while it was made");
  for (int r = 0; r < c->ranks; r++)
    CHECK(r == c->rank || c->shared->place[r].device != c->device, ncclInvalidUsage,
          "duplicate GPU: ranks %d and %d both use device %d", std::min(r, c->rank), std::max(r, c->rank), c->device);
  return ncclSuccess;
}

ncclResult_t applyConfig(ncclComm* c, const ncclConfig_t* config, const ncclComm* parent) {
  if (parent) {
    c->blocking = parent->blocking;
    c->name = parent->name;
  }
  if (!config) return ncclSuccess;
  CHECK(config->magic == 0xcafebeef && config->size <= sizeof *config, ncclInvalidArgument,
        "the configuration was not made by NCCL_CONFIG_INITIALIZER");
  CHECK(config->blocking == NCCL_CONFIG_UNDEF_INT || config->blocking == 0 || config->blocking == 1,
        ncclInvalidArgument, "blocking is %d: 0 or 1 is wanted", config->blocking);
  if (config->blocking != NCCL_CONFIG_UNDEF_INT) c->blocking = config->blocking != 0;
  if (config->commName) c->name = config->commName;
  return ncclSuccess;
}

/* ---- Groups
 * -------------------------------------------------------------------------------------------------------------- */

enum class Kind { allReduce, broadcast, reduce, allGather, reduceScatter, allToAll, gather, scatter, send, receive };
const char* const kKinds[] = {"AllReduce", "Broadcast", "Reduce",  "AllGather", "ReduceScatter",
                              "AlltoAll",  "Gather",    "Scatter", "Send",      "Recv"};

struct Op {
  Kind kind;
  CommPtr comm;
  CUdeviceptr from, to;
  size_t count;
  ncclDataType_t type;
  int op; /* as ncclRedOp_t; -1: PreMulSum */
  std::shared_ptr<Scalar> scalar;
  int root; /* or peer */
  CUstream stream;
};

/* Something that all ranks do together, which may block: the making of a communicator, or a call. Jobs of a group with
 * the same `among`, in which ranks meet, run one after the other. */
struct Job {
  CommPtr comm, among;
  std::function<ncclResult_t()> work;
};

struct Group {
  int depth = 0;
  ncclResult_t error = ncclSuccess;
  std::vector<Op> ops;
  std::vector<Job> jobs;
};
thread_local Group& group = simgpuKept(new Group);

ncclResult_t launch(std::vector<Op> ops);

ncclResult_t runJobs(std::vector<Job> jobs) {
  std::map<ncclComm*, std::vector<Job>> lines;
  for (Job& job : jobs) lines[job.among.get()].push_back(std::move(job));
  std::vector<ncclResult_t> results(lines.size(), ncclSuccess);
  std::vector<std::thread> threads;
  ncclResult_t answer = ncclSuccess;
  for (auto& each : lines) {
    const std::vector<Job>& line = each.second;
    auto run = [line] {
      ncclResult_t first = ncclSuccess;
      for (const Job& job : line) {
        const ncclResult_t result = job.work();
        job.comm->state = result;
        if (first == ncclSuccess) first = result;
      }
      return first;
    };
    const bool blocks = std::any_of(line.begin(), line.end(), [](const Job& job) { return job.comm->blocking; });
    ncclResult_t& result = results[threads.size()];
    if (!blocks) {
      for (const Job& job : line) job.comm->state = ncclInProgress;
      std::thread(run).detach();
      answer = ncclInProgress;
    } else if (lines.size() == 1) {
      result = run();
    } else {
      threads.emplace_back([run, &result] { result = run(); });
    }
  }
  for (std::thread& t : threads) t.join();
  for (ncclResult_t result : results)
    if (result != ncclSuccess) return result;
  return answer;
}

ncclResult_t submit(Job job) {
  if (group.depth) {
    group.jobs.push_back(std::move(job));
    return ncclSuccess;
  }
  std::vector<Job> one;
  one.push_back(std::move(job));
  return runJobs(std::move(one));
}

ncclResult_t submit(Op op) {
  if (group.depth) {
    group.ops.push_back(std::move(op));
    return ncclSuccess;
  }
  std::vector<Op> one;
  one.push_back(std::move(op));
  return launch(std::move(one));
}

// An error inside a group is also the group's.
ncclResult_t inGroup(ncclResult_t result) {
  if (group.depth && result != ncclSuccess && group.error == ncclSuccess) group.error = result;
  return result;
}

/* ---- Arithmetic
 * ------------------------------------------------------------------------------------------------------------ */

template <typename T>
struct Wide {
  using type = T;
};
template <>
struct Wide<__half> {
  using type = float;
};
template <>
struct Wide<__nv_bfloat16> {
  using type = float;
};
template <>
struct Wide<__nv_fp8_e4m3> {
  using type = float;
};
template <>
struct Wide<__nv_fp8_e5m2> {
  using type = float;
};

// Rank order; 16- and 8-bit floats in fp32, rounded once.
template <typename T>
void reduceAs(char* out, const std::vector<const char*>& in, size_t n, int op, double scalar) {
  using W = typename Wide<T>::type;
  const W factor = (W)scalar;
  for (size_t i = 0; i < n; i++) {
    auto get = [&](size_t r) {
      T x;
      memcpy((void*)&x, in[r] + i * sizeof(T), sizeof(T));
      W w = (W)x;
      return op < 0 ? (W)(w * factor) : w;
    };
    W a = get(0);
    for (size_t r = 1; r < in.size(); r++) {
      const W b = get(r);
      switch (op) {
        case ncclProd:
          a = (W)(a * b);
          break;
        case ncclMax:
          a = a > b || a != a ? a : b;
          break;
        case ncclMin:
          a = a < b || a != a ? a : b;
          break;
        default:
          a = (W)(a + b);
      }
    }
    if (op == ncclAvg) a = (W)(a / (W)in.size());
    const T result = (T)a;
    memcpy(out + i * sizeof(T), (const void*)&result, sizeof(T));
  }
}
void reduceSlice(char* out, const std::vector<const char*>& in, size_t n, ncclDataType_t type, int op, double scalar) {
  switch (type) {
    case ncclInt8:
      return reduceAs<int8_t>(out, in, n, op, scalar);
    case ncclUint8:
      return reduceAs<uint8_t>(out, in, n, op, scalar);
    case ncclInt32:
      return reduceAs<int32_t>(out, in, n, op, scalar);
    case ncclUint32:
      return reduceAs<uint32_t>(out, in, n, op, scalar);
    case ncclInt64:
      return reduceAs<int64_t>(out, in, n, op, scalar);
    case ncclUint64:
      return reduceAs<uint64_t>(out, in, n, op, scalar);
    case ncclFloat16:
      return reduceAs<__half>(out, in, n, op, scalar);
    case ncclFloat32:
      return reduceAs<float>(out, in, n, op, scalar);
    case ncclFloat64:
      return reduceAs<double>(out, in, n, op, scalar);
    case ncclBfloat16:
      return reduceAs<__nv_bfloat16>(out, in, n, op, scalar);
    case ncclFloat8e4m3:
      return reduceAs<__nv_fp8_e4m3>(out, in, n, op, scalar);
    default:
      return reduceAs<__nv_fp8_e5m2>(out, in, n, op, scalar);
  }
}

double valueOf(const void* p, ncclDataType_t type) {
  char out[8], in[8];
  memcpy(in, p, sizeOf(type));
  memcpy(out, in, sizeof out);
  switch (type) {
#define CASE(name, T)                \
  case name: {                       \
    T x;                             \
    memcpy((void*)&x, in, sizeof x); \
    return (double)(Wide<T>::type)x; \
  }
    CASE(ncclInt8, int8_t)
    CASE(ncclUint8, uint8_t)
    CASE(ncclInt32, int32_t)
    CASE(ncclUint32, uint32_t)
    CASE(ncclInt64, int64_t)
    CASE(ncclUint64, uint64_t)
    CASE(ncclFloat16, __half)
    CASE(ncclFloat32, float)
    CASE(ncclFloat64, double)
    CASE(ncclBfloat16, __nv_bfloat16)
    CASE(ncclFloat8e4m3, __nv_fp8_e4m3)
    CASE(ncclFloat8e5m2, __nv_fp8_e5m2)
#undef CASE
    default:
      return 0;
  }
}

/* ---- Running
 * ---------------------------------------------------------------------------------------------------------------- */

std::string describe(const Op& op) {
  char text[128];
  const char* reduction = op.op < 0 ? "premulsum" : kOps[op.op];
  const bool reduces = op.kind == Kind::allReduce || op.kind == Kind::reduce || op.kind == Kind::reduceScatter;
  const bool rooted = op.kind == Kind::broadcast || op.kind == Kind::reduce || op.kind == Kind::gather ||
                      op.kind == Kind::scatter || op.kind == Kind::send || op.kind == Kind::receive;
  int n = snprintf(text, sizeof text, "%s of %zu %s", kKinds[(int)op.kind], op.count, kTypes[op.type]);
  if (reduces) n += snprintf(text + n, sizeof text - (size_t)n, ", %s", reduction);
  if (rooted) snprintf(text + n, sizeof text - (size_t)n, ", %s %d", op.kind >= Kind::send ? "peer" : "root", op.root);
  return text;
}

bool gone(ncclComm* c) {
  broken(c, ncclUnhandledCudaError, "a buffer of the operation is not there any more");
  return false;
}

bool runCollective(void* operation, const Op& op) {
  ncclComm* c = op.comm.get();
  const std::string what = describe(op);
  Place& mine = c->shared->place[c->rank];
  snprintf(mine.what, sizeof mine.what, "%s", what.c_str());
  if (!meet(c, what.c_str())) return false;
  int other = -1;
  for (int r = 0; r < c->ranks; r++)
    if (other < 0 && strcmp(c->shared->place[r].what, what.c_str())) other = r;
  const std::string theirs = other < 0 ? "" : c->shared->place[other].what;
  if (!meet(c, what.c_str())) return false;  // nobody changes `what` before all have read it
  if (other >= 0) {
    broken(c, ncclInvalidUsage, "calls " + what + ", but rank " + std::to_string(other) + " calls " + theirs);
    return false;
  }

  const size_t size = sizeOf(op.type), n = (size_t)c->ranks, me = (size_t)c->rank;
  const bool split = op.kind == Kind::reduceScatter || op.kind == Kind::allToAll || op.kind == Kind::scatter;
  const bool isRoot = c->rank == op.root;
  double scalar = op.scalar ? op.scalar->value : 1;
  if (op.scalar && op.scalar->device) {
    char bytes[8] = {};
    if (!simgpuRead(operation, bytes, op.scalar->device, size)) return gone(c);
    scalar = valueOf(bytes, op.type);
  }
  std::vector<double> scalars(n, scalar);

  // A slice of each part: `step` elements from `at` on. split: a window holds one for each rank.
  const size_t step = std::max<size_t>(1, kSlice / size / (split ? n : 1) / 64 * 64);
  std::vector<char> result(kSlice);
  for (size_t at = 0; at < op.count; at += step) {
    const size_t here = std::min(step, op.count - at), bytes = here * size;
    auto out = [&](size_t part) { return op.from + (part * op.count + at) * size; };
    auto in = [&](size_t part) { return op.to + (part * op.count + at) * size; };
    auto theirWindow = [&](size_t r, size_t part) { return c->window((int)r) + (split ? part * bytes : 0); };
    const bool sends = op.kind == Kind::broadcast || op.kind == Kind::scatter ? isRoot : true;
    for (size_t part = 0; sends && part < (split ? n : 1); part++) {
      char* to = c->window(c->rank) + part * bytes;
      if (!simgpuRead(operation, to, out(part), bytes)) return gone(c);
      if (op.op < 0) {  // each rank's own factor
        const std::vector<const char*> self = {to};
        reduceSlice(result.data(), self, here, op.type, -1, scalar);
        memcpy(to, result.data(), bytes);
      }
    }
    if (!meet(c, what.c_str())) return false;
    switch (op.kind) {
      case Kind::allReduce:
      case Kind::reduce:
      case Kind::reduceScatter: {
        if (op.kind == Kind::reduce && !isRoot) break;
        std::vector<const char*> parts;
        for (size_t r = 0; r < n; r++) parts.push_back(theirWindow(r, me));
        reduceSlice(result.data(), parts, here, op.type, op.op < 0 ? (int)ncclSum : op.op, 1);
        if (!simgpuWrite(operation, in(0), result.data(), bytes)) return gone(c);
        break;
      }
      case Kind::broadcast:
      case Kind::scatter:
        if (!simgpuWrite(operation, in(0), theirWindow((size_t)op.root, me), bytes)) return gone(c);
        break;
      default:
        for (size_t r = 0; (op.kind != Kind::gather || isRoot) && r < n; r++)
          if (!simgpuWrite(operation, in(r), theirWindow(r, me), bytes)) return gone(c);
    }
    if (!meet(c, what.c_str())) return false;
  }
  return true;
}

// All of a group's sends and receives, side by side; those between the same two ranks in order.
bool runMessages(void* operation, const std::vector<const Op*>& ops) {
  if (ops.empty()) return true;
  ncclComm* c = ops[0]->comm.get();
  std::vector<size_t> moved(ops.size());
  std::vector<bool> done(ops.size());
  size_t left = ops.size();
  bool failed = false;
  auto advance = [&] {
    std::set<std::pair<bool, int>> busy;
    for (size_t i = 0; i < ops.size() && !failed; i++) {
      const Op& op = *ops[i];
      const bool sends = op.kind == Kind::send;
      if (done[i] || !busy.insert({sends, op.root}).second) continue;
      Mailbox& m = sends ? c->mailbox(c->rank, op.root) : c->mailbox(op.root, c->rank);
      char* box = sends ? c->box(c->rank, op.root) : c->box(op.root, c->rank);
      const size_t bytes = op.count * sizeOf(op.type);
      while (!done[i] && (sends ? m.written == m.read : m.written > m.read)) {
        const size_t here = std::min(kSlice, bytes - moved[i]);
        if (sends) {
          m.total = bytes;
          if (here && !simgpuRead(operation, box, op.from + moved[i], here)) return failed = true;
          m.written++;
        } else {
          if (m.total != bytes) {
            broken(c, ncclInvalidUsage,
                   "receives " + std::to_string(bytes) + " bytes from rank " + std::to_string(op.root) +
                       ", which sends " + std::to_string(m.total));
            c->shared->ended = c->rank + 1;
            return failed = true;
          }
          if (here && !simgpuWrite(operation, op.to + moved[i], box, here)) return failed = true;
          m.read++;
        }
        moved[i] += here;
        done[i] = moved[i] == bytes;
        left -= done[i];
      }
    }
    return failed || !left;
  };
  const bool ended = await(c, advance, [&] {
    std::string text;
    for (size_t i = 0; i < ops.size(); i++)
      if (!done[i]) text += (text.empty() ? "in " : ", ") + describe(*ops[i]);
    return text;
  });
  return ended && !failed;
}

// SIMGPU_RATE: a link's bytes a second. A rank sends what a ring would have it send.
void linger(const Op& op) {
  const char* text = getenv("SIMGPU_RATE");
  const double rate = text ? atof(text) : 0, n = op.comm->ranks;
  double parts = n - 1; /* of op.count elements */
  if (op.kind == Kind::allReduce) parts = 2 * (n - 1) / n;
  if (op.kind == Kind::broadcast || op.kind == Kind::reduce || op.kind == Kind::send) parts = 1;
  if (op.kind == Kind::receive || !(rate > 0)) return;
  usleep((useconds_t)(1e6 * parts * (double)(op.count * sizeOf(op.type)) / rate));
}

struct Batch {
  CommPtr comm;
  std::vector<Op> ops;
};

void run(void* operation, void* data) {
  const auto* batch = static_cast<Batch*>(data);
  std::vector<const Op*> messages;
  for (const Op& op : batch->ops) {
    if (batch->comm->state != ncclSuccess || hasEnded(batch->comm.get())) break;
    linger(op);
    if (op.kind >= Kind::send)
      messages.push_back(&op);
    else if (!runCollective(operation, op))
      return;
  }
  if (batch->comm->state == ncclSuccess) runMessages(operation, messages);
}

class WithDevice {
 public:
  explicit WithDevice(int device) {
    CUcontext context;
    if (cuDevicePrimaryCtxRetain(&context, device) == CUDA_SUCCESS) {
      cuDevicePrimaryCtxRelease(device);
      cuCtxPushCurrent(context);
    }
  }
  ~WithDevice() {
    CUcontext context;
    cuCtxPopCurrent(&context);
  }
};

#define CU(expression)                                                                                      \
  do {                                                                                                      \
    const CUresult called_ = (expression);                                                                  \
    CHECK(called_ == CUDA_SUCCESS, ncclUnhandledCudaError, "%s: CUDA error %d", #expression, (int)called_); \
  } while (0)

// Operations of one communicator: one after the other, whatever streams they were given.
ncclResult_t launchOn(const CommPtr& c, std::vector<Op> ops) {
  WithDevice with(c->device);
  std::vector<CUstream> streams;
  for (const Op& op : ops)
    if (std::find(streams.begin(), streams.end(), op.stream) == streams.end()) streams.push_back(op.stream);
  const CUstream first = streams[0];
  CUevent event;
  CU(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
  for (size_t i = 1; i < streams.size(); i++) {
    CU(cuEventRecord(event, streams[i]));
    CU(cuStreamWaitEvent(first, event, 0));
  }
  auto* batch = new Batch{c, std::move(ops)};
  CU(simgpuEnqueue(
      first, "NCCL", c.get(), run, [](void* p) { delete static_cast<Batch*>(p); }, batch));
  if (streams.size() > 1) CU(cuEventRecord(event, first));
  for (size_t i = 1; i < streams.size(); i++) CU(cuStreamWaitEvent(streams[i], event, 0));
  CU(cuEventDestroy(event));
  return ncclSuccess;
}

// A while after the call has returned.
void launchLater(const CommPtr& c, std::vector<Op> ops) {
  c->launching = true;
  auto* later = new Batch{c, std::move(ops)};
  std::thread([later] {
    usleep(2000);
    const ncclResult_t result = launchOn(later->comm, std::move(later->ops));
    if (result != ncclSuccess) broken(later->comm.get(), result, "a call could not be launched");
    later->comm->launching = false;
    delete later;
  }).detach();
}

ncclResult_t launch(std::vector<Op> ops) {
  ncclResult_t answer = ncclSuccess;
  while (!ops.empty()) {
    const CommPtr c = ops[0].comm;
    std::vector<Op> own, others;
    for (Op& op : ops) (op.comm == c ? own : others).push_back(std::move(op));
    if (c->blocking) {
      TRY(launchOn(c, std::move(own)));
    } else {
      launchLater(c, std::move(own));
      answer = ncclInProgress;
    }
    ops = std::move(others);
  }
  return answer;
}

/* ---- Checks of a caller
 * -------------------------------------------------------------------------------------------------------- */

ncclResult_t checkBuffer(const char* function, const ncclComm* c, const char* name, CUdeviceptr p, size_t bytes) {
  if (!bytes) return ncclSuccess;
  CHECK(p, ncclInvalidArgument, "%s: %s is NULL", function, name);
  unsigned type = 0;
  CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p) == CUDA_SUCCESS, ncclInvalidArgument,
        "%s: %s is not device memory", function, name);
  unsigned managed = 0;
  cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, p);
  if (type != CU_MEMORYTYPE_DEVICE || managed) return ncclSuccess;
  int device = -1;
  CUdeviceptr start = 0;
  size_t size = 0;
  cuPointerGetAttribute(&device, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, p);
  cuPointerGetAttribute(&start, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, p);
  cuPointerGetAttribute(&size, CU_POINTER_ATTRIBUTE_RANGE_SIZE, p);
  CHECK(device == c->device, ncclInvalidArgument, "%s: %s is on device %d, the communicator's is %d", function, name,
        device, c->device);
  CHECK(bytes <= size - (p - start), ncclInvalidArgument, "%s: %s has %zu bytes, %zu are wanted", function, name,
        (size_t)(size - (p - start)), bytes);
  return ncclSuccess;
}

ncclResult_t collective(const char* function, Kind kind, const void* from, void* to, size_t count, ncclDataType_t type,
                        int op, int root, ncclComm_t handle, cudaStream_t stream) {
  const CommPtr c = find(handle);
  CHECK(c, ncclInvalidArgument, "%s: not a communicator: never made, or destroyed or aborted since", function);
  CHECK(c->state != ncclInProgress, ncclInvalidArgument, "%s: the communicator is still being made", function);
  CHECK(!c->launching, ncclInvalidArgument, "%s: the calls before are still in progress", function);
  CHECK(!c->revoked, ncclInvalidUsage, "%s: the communicator was revoked", function);
  CHECK(!c->finalized, ncclInvalidUsage, "%s: the communicator was finalized", function);
  CHECK(c->state == ncclSuccess, c->state, "%s: the communicator failed before: %s", function, c->text.c_str());
  CHECK(type >= 0 && type < ncclNumTypes, ncclInvalidArgument, "%s: there is no type %d", function, (int)type);
  CHECK(root >= 0 && root < c->ranks, ncclInvalidArgument, "%s: rank %d of %d", function, root, c->ranks);
  Op o = {kind, c, (CUdeviceptr)from, (CUdeviceptr)to, count, type, op, nullptr, root, stream};
  if (op >= ncclNumOps) {
    std::lock_guard<std::mutex> guard(c->lock);
    const size_t index = (size_t)(op - ncclNumOps);
    CHECK(index < c->scalars.size() && c->scalars[index].first, ncclInvalidArgument,
          "%s: there is no operator %d in this communicator", function, op);
    o.op = -1;
    o.scalar = c->scalars[index].second;
    CHECK(o.scalar->type == type, ncclInvalidArgument, "%s: the operator is for %s, the data is %s", function,
          kTypes[o.scalar->type], kTypes[type]);
  }
  CHECK(op >= 0, ncclInvalidArgument, "%s: there is no operator %d", function, op);

  const size_t bytes = count * sizeOf(type), n = (size_t)c->ranks;
  const bool isRoot = c->rank == root;
  size_t in = bytes, out = bytes;
  switch (kind) {
    case Kind::broadcast:
      in = isRoot ? bytes : 0;
      break;
    case Kind::reduce:
      out = isRoot ? bytes : 0;
      break;
    case Kind::allGather:
      out = n * bytes;
      break;
    case Kind::reduceScatter:
      in = n * bytes;
      break;
    case Kind::allToAll:
      in = out = n * bytes;
      break;
    case Kind::gather:
      out = isRoot ? n * bytes : 0;
      break;
    case Kind::scatter:
      in = isRoot ? n * bytes : 0;
      break;
    case Kind::send:
      out = 0;
      break;
    case Kind::receive:
      in = 0;
      break;
    default:
      break;
  }
  TRY(checkBuffer(function, c.get(), "sendbuff", o.from, in));
  TRY(checkBuffer(function, c.get(), "recvbuff", o.to, out));
  {
    WithDevice with(c->device);
    const int device = simgpuDeviceOf(stream);
    CHECK(device == c->device, ncclInvalidArgument, "%s: the stream is of device %d, the communicator of device %d",
          function, device, c->device);
  }
  return submit(std::move(o));
}

void forget(const CommPtr& c) {
  simgpuDrain(c.get());
  std::lock_guard<std::mutex> guard(tableLock);
  table.erase(c.get());
}
ncclResult_t publish(const CommPtr& c, ncclComm_t* out) {
  std::lock_guard<std::mutex> guard(tableLock);
  table[c.get()] = c;
  *out = c.get();
  return ncclSuccess;
}

int currentDevice() {
  CUcontext context = nullptr;
  CUdevice device = 0;
  cuInit(0);
  cuCtxGetCurrent(&context);
  if (context) cuCtxGetDevice(&device);
  return device;
}

ncclResult_t makeComm(ncclComm_t* out, int ranks, const std::string& id, int rank, const ncclConfig_t* config) {
  CHECK(out, ncclInvalidArgument, "the address of the communicator is NULL");
  CHECK(ranks >= 1 && ranks <= kMaxRanks && rank >= 0 && rank < ranks, ncclInvalidArgument,
        "rank %d of %d (the stand-in has at most %d)", rank, ranks, kMaxRanks);
  CHECK(cuInit(0) == CUDA_SUCCESS, ncclUnhandledCudaError, "no CUDA-capable device is detected");
  auto c = std::make_shared<ncclComm>();
  TRY(applyConfig(c.get(), config, nullptr));
  c->rank = rank;
  c->ranks = ranks;
  c->id = id;
  c->device = currentDevice();
  c->state = ncclInProgress;
  *out = nullptr;
  if (!c->blocking) publish(c, out);  // and it is polled
  return submit(Job{c, c, [c, out] {
                      const ncclResult_t result = join(c.get());
                      return result == ncclSuccess && c->blocking ? publish(c, out) : result;
                    }});
}

std::string hex(const char* bytes, size_t n) {
  std::string text;
  for (size_t i = 0; i < n; i++) {
    char two[3];
    snprintf(two, sizeof two, "%02x", (unsigned char)bytes[i]);
    text += two;
  }
  return text;
}

// A communicator made from another one, of those ranks whose places are in `members`, in that order.
ncclResult_t makeChild(const CommPtr& parent, const CommPtr& child, const std::string& suffix,
                       const std::vector<int>& members, ncclComm_t* out) {
  child->device = parent->device;
  child->ranks = (int)members.size();
  child->rank = (int)(std::find(members.begin(), members.end(), parent->rank) - members.begin());
  child->id = parent->id + suffix;
  const ncclResult_t result = join(child.get());
  return result == ncclSuccess && child->blocking ? publish(child, out) : result;
}

}  // namespace

/* ---- Communicators
 * ---------------------------------------------------------------------------------------------------------------- */

API(ncclResult_t, ncclGetVersion, int* version) {
  CHECK(version, ncclInvalidArgument, "ncclGetVersion: NULL");
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
API(const char*, ncclGetErrorString, ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case ncclSystemError:
      return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case ncclInternalError:
      return "internal error - please report this issue to the NCCL developers";
    case ncclInvalidArgument:
      return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case ncclInvalidUsage:
      return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    default:
      return "unknown result code";
  }
}
API(const char*, ncclGetLastError, ncclComm_t) {
  static thread_local auto& text = simgpuKept(new std::string);
  std::lock_guard<std::mutex> guard(lastLock);
  text = lastText;
  return text.c_str();
}
extern "C" void ncclResetDebugInitInternal() {}
API(void, ncclResetDebugInit) { ncclResetDebugInitInternal(); }

API(ncclResult_t, ncclGetUniqueId, ncclUniqueId* id) {
  CHECK(id, ncclInvalidArgument, "ncclGetUniqueId: NULL");
  memset(id, 0, sizeof *id);
  CHECK(getrandom(id->internal, 16, 0) == 16, ncclSystemError, "no random numbers");
  return ncclSuccess;
}
API(ncclResult_t, ncclCommInitRankConfig, ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
    ncclConfig_t* config) {
  return inGroup(makeComm(comm, ranks, hex(id.internal, 16), rank, config));
}
API(ncclResult_t, ncclCommInitRank, ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
  return inGroup(makeComm(comm, ranks, hex(id.internal, 16), rank, nullptr));
}
API(ncclResult_t, ncclCommInitRankScalable, ncclComm_t* comm, int ranks, int rank, int ids, ncclUniqueId* id,
    ncclConfig_t* config) {
  CHECK(ids >= 1 && ids <= ranks && id, ncclInvalidArgument, "ncclCommInitRankScalable: %d identifiers", ids);
  return inGroup(makeComm(comm, ranks, hex(id[0].internal, 16), rank, config));
}
API(ncclResult_t, ncclCommInitAll, ncclComm_t* comms, int count, const int* devices) {
  CHECK(comms && count >= 1, ncclInvalidArgument, "ncclCommInitAll: %d devices", count);
  int there = 0;
  CHECK(cuInit(0) == CUDA_SUCCESS && cuDeviceGetCount(&there) == CUDA_SUCCESS, ncclUnhandledCudaError,
        "no CUDA-capable device is detected");
  ncclUniqueId id;
  TRY(ncclGetUniqueId(&id));
  TRY(ncclGroupStart());
  ncclResult_t result = ncclSuccess;
  for (int r = 0; r < count && result == ncclSuccess; r++) {
    const int device = devices ? devices[r] : r;
    if (device < 0 || device >= there) {
      result = inGroup(fail(ncclInvalidArgument, "ncclCommInitAll: device %d of %d", device, there));
      break;
    }
    WithDevice with(device);
    result = ncclCommInitRank(&comms[r], count, id, r);
  }
  const ncclResult_t ended = ncclGroupEnd();
  return result != ncclSuccess ? result : ended;
}

API(ncclResult_t, ncclCommSplit, ncclComm_t comm, int color, int key, ncclComm_t* out, ncclConfig_t* config) {
  FIND_READY(parent, comm);
  CHECK(out && color >= NCCL_SPLIT_NOCOLOR, ncclInvalidArgument, "ncclCommSplit: color %d", color);
  *out = nullptr;
  auto child = std::make_shared<ncclComm>();
  TRY(inGroup(applyConfig(child.get(), config, parent.get())));
  const uint64_t number = ++parent->children;
  if (!child->blocking && color != NCCL_SPLIT_NOCOLOR) publish(child, out);
  return inGroup(submit(Job{
      child, parent, [=] {
        struct Wish {
          int color, key;
        } mine = {color, key};
        memcpy(parent->shared->place[parent->rank].word, &mine, sizeof mine);
        CHECK(meetInCall(parent.get(), "ncclCommSplit"), ncclRemoteError, "ncclCommSplit: the communicator has ended");
        std::vector<std::pair<int, int>> order; /* key, rank */
        for (int r = 0; r < parent->ranks; r++) {
          Wish wish;
          memcpy(&wish, parent->shared->place[r].word, sizeof wish);
          if (wish.color == color) order.push_back({wish.key, r});
        }
        CHECK(meetInCall(parent.get(), "ncclCommSplit"), ncclRemoteError, "ncclCommSplit: the communicator has ended");
        if (color == NCCL_SPLIT_NOCOLOR) return ncclSuccess;
        std::sort(order.begin(), order.end());
        std::vector<int> members;
        for (const auto& each : order) members.push_back(each.second);
        return makeChild(parent, child, "-" + std::to_string(number) + "." + std::to_string(color), members, out);
      }}));
}

API(ncclResult_t, ncclCommShrink, ncclComm_t comm, int* excluded, int count, ncclComm_t* out, ncclConfig_t* config,
    int flags) {
  FIND(parent, comm);
  CHECK(out && excluded && count > 0 && count < parent->ranks, ncclInvalidArgument,
        "ncclCommShrink: %d of %d ranks are excluded", count, parent->ranks);
  if (flags & NCCL_SHRINK_ABORT) parent->revoked = true;
  auto child = std::make_shared<ncclComm>();
  TRY(inGroup(applyConfig(child.get(), config, parent.get())));
  std::vector<int> members;
  for (int r = 0; r < parent->ranks; r++)
    if (std::find(excluded, excluded + count, r) == excluded + count) members.push_back(r);
  CHECK(std::find(members.begin(), members.end(), parent->rank) != members.end(), ncclInvalidArgument,
        "ncclCommShrink: called by rank %d, which is excluded", parent->rank);
  *out = nullptr;
  if (!child->blocking) publish(child, out);
  const uint64_t number = ++parent->children;
  return inGroup(submit(
      Job{child, parent, [=] { return makeChild(parent, child, "-" + std::to_string(number) + "s", members, out); }}));
}

API(ncclResult_t, ncclCommFinalize, ncclComm_t comm) {
  FIND_READY(c, comm);
  CHECK(!c->finalized.exchange(true), ncclInvalidArgument, "ncclCommFinalize: called before");
  simgpuDrain(c.get());
  return ncclSuccess;
}
API(ncclResult_t, ncclCommDestroy, ncclComm_t comm) {
  if (!comm) return ncclSuccess;
  FIND(c, comm);
  forget(c);
  return ncclSuccess;
}
API(ncclResult_t, ncclCommAbort, ncclComm_t comm) {
  if (!comm) return ncclSuccess;
  FIND(c, comm);
  c->aborted = true;
  if (c->shared) c->shared->ended = c->rank + 1;
  forget(c);
  return ncclSuccess;
}
API(ncclResult_t, ncclCommRevoke, ncclComm_t comm, int flags) {
  FIND(c, comm);
  CHECK(flags == NCCL_REVOKE_DEFAULT, ncclInvalidArgument, "ncclCommRevoke: flags %d", flags);
  c->revoked = true;
  simgpuDrain(c.get());
  return ncclSuccess;
}
API(ncclResult_t, ncclCommGetAsyncError, ncclComm_t comm, ncclResult_t* error) {
  FIND(c, comm);
  CHECK(error, ncclInvalidArgument, "ncclCommGetAsyncError: NULL");
  *error = c->launching ? ncclInProgress : (ncclResult_t)c->state;
  return ncclSuccess;
}
API(ncclResult_t, ncclCommCount, const ncclComm_t comm, int* count) {
  FIND(c, comm);
  CHECK(count, ncclInvalidArgument, "ncclCommCount: NULL");
  *count = c->ranks;
  return ncclSuccess;
}
API(ncclResult_t, ncclCommCuDevice, const ncclComm_t comm, int* device) {
  FIND(c, comm);
  CHECK(device, ncclInvalidArgument, "ncclCommCuDevice: NULL");
  *device = c->device;
  return ncclSuccess;
}
API(ncclResult_t, ncclCommUserRank, const ncclComm_t comm, int* rank) {
  FIND(c, comm);
  CHECK(rank, ncclInvalidArgument, "ncclCommUserRank: NULL");
  *rank = c->rank;
  return ncclSuccess;
}

/* ---- Memory and registration: all memory is alike here, so that nothing needs to be done
 * --------------------------------------------- */

API(ncclResult_t, ncclMemAlloc, void** p, size_t bytes) {
  CHECK(p, ncclInvalidArgument, "ncclMemAlloc: NULL");
  CUdeviceptr device = 0;
  WithDevice with(currentDevice());
  if (bytes) CU(cuMemAlloc(&device, bytes));
  if (bytes) CU(simgpuTolerate(device));
  *p = reinterpret_cast<void*>(device);
  return ncclSuccess;
}
API(ncclResult_t, ncclMemFree, void* p) {
  CU(cuMemFree((CUdeviceptr)p));
  return ncclSuccess;
}
API(ncclResult_t, ncclCommRegister, const ncclComm_t comm, void* buffer, size_t bytes, void** handle) {
  FIND_READY(c, comm);
  CHECK(handle, ncclInvalidArgument, "ncclCommRegister: NULL");
  TRY(checkBuffer("ncclCommRegister", c.get(), "buff", (CUdeviceptr)buffer, bytes));
  *handle = malloc(1);
  return ncclSuccess;
}
API(ncclResult_t, ncclCommDeregister, const ncclComm_t comm, void* handle) {
  FIND(c, comm);
  free(handle);
  return ncclSuccess;
}
API(ncclResult_t, ncclCommWindowRegister, ncclComm_t comm, void* buffer, size_t bytes, ncclWindow_t* window, int) {
  FIND_READY(c, comm);
  CHECK(window, ncclInvalidArgument, "ncclCommWindowRegister: NULL");
  TRY(inGroup(checkBuffer("ncclCommWindowRegister", c.get(), "buff", (CUdeviceptr)buffer, bytes)));
  return inGroup(submit(Job{c, c, [=] {  // all ranks take part
                              CHECK(meetInCall(c.get(), "ncclCommWindowRegister"), ncclRemoteError,
                                    "the communicator has ended");
                              *window = static_cast<ncclWindow_t>(malloc(1));
                              return ncclSuccess;
                            }}));
}
API(ncclResult_t, ncclCommWindowDeregister, ncclComm_t comm, ncclWindow_t window) {
  FIND(c, comm);
  free(window);
  return ncclSuccess;
}

/* ---- Operators, groups, collectives
 * ------------------------------------------------------------------------------------------------------ */

API(ncclResult_t, ncclRedOpCreatePreMulSum, ncclRedOp_t* op, void* scalar, ncclDataType_t type,
    ncclScalarResidence_t residence, ncclComm_t comm) {
  FIND_READY(c, comm);
  CHECK(op && scalar && type >= 0 && type < ncclNumTypes, ncclInvalidArgument, "ncclRedOpCreatePreMulSum: type %d",
        (int)type);
  auto s = std::make_shared<Scalar>();
  s->type = type;
  if (residence == ncclScalarDevice)
    s->device = (CUdeviceptr)scalar;
  else
    s->value = valueOf(scalar, type);
  std::lock_guard<std::mutex> guard(c->lock);
  size_t i = 0;
  while (i < c->scalars.size() && c->scalars[i].first) i++;
  if (i == c->scalars.size()) c->scalars.emplace_back();
  c->scalars[i] = {true, s};
  *op = (ncclRedOp_t)((int)ncclNumOps + (int)i);
  return ncclSuccess;
}
API(ncclResult_t, ncclRedOpDestroy, ncclRedOp_t op, ncclComm_t comm) {
  FIND(c, comm);
  std::lock_guard<std::mutex> guard(c->lock);
  const size_t i = (size_t)((int)op - (int)ncclNumOps);
  CHECK((int)op >= (int)ncclNumOps && i < c->scalars.size() && c->scalars[i].first, ncclInvalidArgument,
        "ncclRedOpDestroy: there is no operator %d in this communicator", (int)op);
  c->scalars[i] = {false, nullptr};
  return ncclSuccess;
}

API(ncclResult_t, ncclGroupStart) {
  group.depth++;
  return ncclSuccess;
}
API(ncclResult_t, ncclGroupEnd) {
  CHECK(group.depth, ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
  if (--group.depth) return ncclSuccess;
  Group g = std::move(group);
  group = Group();
  if (g.error != ncclSuccess) return g.error;
  const ncclResult_t jobs = g.jobs.empty() ? ncclSuccess : runJobs(std::move(g.jobs));
  if (jobs != ncclSuccess && jobs != ncclInProgress) return jobs;
  const ncclResult_t launched = launch(std::move(g.ops));
  return launched == ncclSuccess ? jobs : launched;
}
API(ncclResult_t, ncclGroupSimulateEnd, ncclSimInfo_t* info) {
  CHECK(group.depth, ncclInvalidUsage, "ncclGroupSimulateEnd without ncclGroupStart");
  if (info) info->estimatedTime = 0;
  if (--group.depth) return ncclSuccess;
  group = Group();
  return ncclSuccess;
}

#define COLLECTIVE(...) return inGroup(collective(__func__ + 1, __VA_ARGS__))
API(ncclResult_t, ncclAllReduce, const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op,
    ncclComm_t comm, cudaStream_t stream) {
  COLLECTIVE(Kind::allReduce, from, to, count, type, op, 0, comm, stream);
}
API(ncclResult_t, ncclBroadcast, const void* from, void* to, size_t count, ncclDataType_t type, int root,
    ncclComm_t comm, cudaStream_t stream) {
  COLLECTIVE(Kind::broadcast, from, to, count, type, 0, root, comm, stream);
}
API(ncclResult_t, ncclBcast, void* p, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
    cudaStream_t stream) {
  return ncclBroadcast(p, p, count, type, root, comm, stream);
}
API(ncclResult_t, ncclReduce, const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
    ncclComm_t comm, cudaStream_t stream) {
  COLLECTIVE(Kind::reduce, from, to, count, type, op, root, comm, stream);
}
API(ncclResult_t, ncclAllGather, const void* from, void* to, size_t count, ncclDataType_t type, ncclComm_t comm,
    cudaStream_t stream) {
  COLLECTIVE(Kind::allGather, from, to, count, type, 0, 0, comm, stream);
}
API(ncclResult_t, ncclReduceScatter, const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op,
    ncclComm_t comm, cudaStream_t stream) {
  COLLECTIVE(Kind::reduceScatter, from, to, count, type, op, 0, comm, stream);
}
API(ncclResult_t, ncclAlltoAll, const void* from, void* to, size_t count, ncclDataType_t type, ncclComm_t comm,
    cudaStream_t stream) {
  COLLECTIVE(Kind::allToAll, from, to, count, type, 0, 0, comm, stream);
}
API(ncclResult_t, ncclGather, const void* from, void* to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
    cudaStream_t stream) {
  COLLECTIVE(Kind::gather, from, to, count, type, 0, root, comm, stream);
}
API(ncclResult_t, ncclScatter, const void* from, void* to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
    cudaStream_t stream) {
  COLLECTIVE(Kind::scatter, from, to, count, type, 0, root, comm, stream);
}
API(ncclResult_t, ncclSend, const void* from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
    cudaStream_t stream) {
  COLLECTIVE(Kind::send, from, nullptr, count, type, 0, peer, comm, stream);
}
API(ncclResult_t, ncclRecv, void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
    cudaStream_t stream) {
  COLLECTIVE(Kind::receive, nullptr, to, count, type, 0, peer, comm, stream);
}

/* ---- The device interface: teams are answered; the rest is for kernels, which cannot be served
 * --------------------------------------------- */

struct Team {  // ncclTeam_t of nccl_device.h
  int nRanks, rank, stride;
};
API(Team, ncclTeamWorld, ncclComm_t comm) {
  const CommPtr c = find(comm);
  return c ? Team{c->ranks, c->rank, 1} : Team{0, 0, 0};
}
API(Team, ncclTeamLsa, ncclComm_t comm) { return ncclTeamWorld(comm); }
API(Team, ncclTeamRail, ncclComm_t) { return {1, 0, 1}; }
API(int, ncclTeamRankToWorld, ncclComm_t comm, Team team, int rank) {
  const CommPtr c = find(comm);
  return (c ? c->rank : 0) + (rank - team.rank) * team.stride;
}
API(int, ncclTeamRankToLsa, ncclComm_t comm, Team team, int rank) { return ncclTeamRankToWorld(comm, team, rank); }
API(int, ncclLLA2ACalcSlots, int, int) { return 0; }

#define FOR_KERNELS(name)                                                                                     \
  API(ncclResult_t, name) {                                                                                   \
    return fail(ncclInvalidUsage, "%s: the stand-in does not serve NCCL's interface for device code", #name); \
  }
FOR_KERNELS(ncclDevCommCreate)
FOR_KERNELS(ncclDevCommDestroy)
FOR_KERNELS(ncclGinBarrierCreateRequirement)
FOR_KERNELS(ncclLsaBarrierCreateRequirement)
FOR_KERNELS(ncclLLA2ACreateRequirement)
