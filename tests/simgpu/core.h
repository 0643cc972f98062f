/* The stand-in's own view of devices: memory with its shadow, streams with their workers, events, graphs. driver.cc
 * puts the driver API in front of it. One lock guards everything; a kernel gives it up between two blocks. */
#ifndef SLIM_SIMGPU_CORE_H_
#define SLIM_SIMGPU_CORE_H_

#include <cuda.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "tests/simgpu/engine.h"

namespace simgpu {

/* ---- The lock ------------------------------------------------------------------------------------------------------
 */

/* A mutex whose holder can ask whether somebody waits, so that a long kernel lets others in. */
class Mutex {
 public:
  void lock() {
    waiting_++;
    mutex_.lock();
    waiting_--;
  }
  void unlock() { mutex_.unlock(); }
  bool wanted() const { return waiting_ > 0; }

 private:
  std::mutex mutex_;
  std::atomic<int> waiting_{0};
};
using Lock = std::unique_lock<Mutex>;
extern Mutex& theMutex;
extern std::condition_variable_any& progress; /* an operation has ended, or one was added */

uint64_t seed(); /* SIMGPU_SEED */

/* ---- Order ---------------------------------------------------------------------------------------------------------
 */

/* For each stream by its number: how many of its operations came before. */
using Clock = std::vector<uint32_t>;
void join(Clock* clock, const Clock& other);
extern Clock& hostClock; /* what every thread of the host may know to have ended */

struct Stream;

/* The end of an operation. */
struct Mark {
  bool done = false;
  Clock clock;
  double seconds = 0;
};
using MarkPtr = std::shared_ptr<Mark>;

/* An operation while it runs. */
struct Running {
  Lock* lock;
  int device;
  uint32_t op;
  uint32_t run; /* of the operation itself, where it is no kernel */
  const Clock* clock;
  uint64_t* random;
  bool touchedHost = false;
};
using Work = std::function<void(Running&)>;

uint32_t newOp(const std::string& name, uint32_t stream, uint32_t sequence);
uint32_t newRun(uint32_t op, uint32_t block);
extern Running* running; /* the operation that holds the lock */

/* ---- Devices, memory ------------------------------------------------------------------------------------------------
 */

/* Of stream-ordered allocations: it counts them, and keeps what the program sets. */
struct Pool {
  int device;
  uint64_t used = 0, high = 0; /* bytes */
  std::map<CUmemPool_attribute, uint64_t> settings;
  std::set<int> peers;
};

struct Allocation {
  uintptr_t device; /* address as the program sees it */
  size_t size;
  int ordinal;
  uint64_t number; /* of its process, from 1 on */
  bool live;
  std::shared_ptr<Pool> pool; /* may be null */
};

struct Host {
  size_t size;
  unsigned flags;
  bool ours; /* allocated here, or registered */
  bool managed = false;
  int device = 0; /* whose context was current */
};

struct Context {
  int ordinal = 0;
  int retained = 0;
  unsigned flags = 0;
  unsigned peers = 0; /* devices whose memory its kernels may touch, */
  unsigned pools = 0; /* and those with a pool that they may */
  size_t used = 0;
  CUresult error = CUDA_SUCCESS;
  std::shared_ptr<Stream> legacy;
  std::shared_ptr<Pool> pool, newestPool; /* the device's own; what cuMemAllocAsync takes from */
  MarkPtr settled;                        /* comes before all that is enqueued from now on */
};
Context* contextOf(int ordinal); /* null if there is no such device */
int deviceCount();               /* SIMGPU_DEVICES */

constexpr size_t kDeviceBytes = size_t{16} << 30;

CUresult allocate(int device, size_t bytes, CUdeviceptr* p, std::shared_ptr<Pool> pool = nullptr);
/* Never-written bytes are reported, but no fault. */
void tolerate(const Allocation*);
void release(Allocation*);
void releaseAll(int device);
Allocation* allocationAt(CUdeviceptr p); /* live or freed; null if never handed out */
Allocation* liveAllocation(CUdeviceptr p);
std::map<uintptr_t, Host>& hostMemory();
const std::pair<const uintptr_t, Host>* hostAt(uintptr_t p, size_t bytes);
inline bool isDevice(uintptr_t p) { return p - kDevice < kSpan; }
std::string describe(uintptr_t deviceAddress);

/* An operation that is no kernel reads or writes device memory; checks bounds, order and, if asked, that it was
 * written. False: the memory is not there. */
bool touch(uintptr_t device, size_t bytes, bool writes, bool mustBeWritten, const char* what);
void copyState(uintptr_t to, uintptr_t from, size_t bytes);

/* Prints it, and makes the device fail from now on. */
void report(int device, Finding, const std::string& text, const void* at = nullptr);
extern const Hooks hooks;

/* ---- Streams, events, graphs ----------------------------------------------------------------------------------------
 */

struct Node {
  std::string name;
  Work work;
  std::vector<int> after;
  int lane;          /* which of the captured streams; nodes of a lane are in order */
  const void* order; /* see enqueue */
};
/* What a program wants to hear of the end of. It is its own, and graphs': with the last that holds it, a thread of the
 * driver's is told to call destroy, some time later (newUserObject). */
struct UserObject {
  void* data;
  CUhostFn destroy;
  uint64_t delay;    /* µs */
  unsigned held = 0; /* by the program, times */
  Clock last = {};   /* of launches of what held it: they have ended */
};
using UserObjectPtr = std::shared_ptr<UserObject>;
using UserObjects = std::map<UserObjectPtr, unsigned>;
UserObjectPtr newUserObject(void* data, CUhostFn destroy, int device);
bool& destroying(); /* this thread calls a destroy function, which may not call the driver */

struct Graph {
  std::vector<Node> nodes;
  int lanes = 0;
  UserObjects objects;
};
struct Executable {
  std::shared_ptr<const Graph> graph;
  UserObjects objects;
  std::vector<uint32_t> streams; /* a number for each lane, of its own */
  Clock sequences;               /* nodes launched so far, a lane */
  MarkPtr last;                  /* of the newest launch: a graph never runs beside itself */
};
struct Capture {
  CUstreamCaptureMode mode;
  uint64_t id;
  size_t thread;
  Stream* origin;
  bool broken = false;
  size_t inside = 0; /* the thread that is adding to the graph; 0: none */
  std::shared_ptr<Graph> graph = std::make_shared<Graph>();
  std::vector<Stream*> streams;
};

struct Op {
  std::string name;
  Work work;
  std::vector<MarkPtr> after;
  MarkPtr mark;
  uint32_t sequence;
};

struct Stream {
  Context* context;
  uint32_t number;
  unsigned flags;
  int priority;
  bool legacy = false, destroyed = false, hasWorker = false;
  uint64_t random;
  std::deque<Op> queue;
  MarkPtr last; /* of the newest operation */
  Clock clock;
  std::shared_ptr<Capture> capture;
  std::vector<int> captured; /* what the next node comes after */
  int lane = 0;
};
using StreamPtr = std::shared_ptr<Stream>;

struct Event {
  unsigned flags;
  int device;
  MarkPtr mark;
  std::shared_ptr<Capture> capture; /* recorded in it */
  std::vector<int> captured;
};

StreamPtr newStream(Context*, unsigned flags, int priority);
std::set<StreamPtr>& streams();
void destroyStream(Stream*); /* once what it has to do is done */
/* Adds an operation, or a node where the stream is captured. Operations with the same `order`, if it is not null,
 * follow each other in the order in which they, or the graphs that hold them, were enqueued. */
CUresult enqueue(Stream*, const std::string& name, Work, std::vector<MarkPtr> after = {}, const void* order = nullptr);
std::map<const void*, MarkPtr>& newestOf(); /* by order */
CUresult recordEvent(Stream*, Event*);
CUresult waitEvent(Stream*, Event*);
/* Until the mark is done; the host then knows what was before it. */
void await(Lock&, const MarkPtr&);
CUresult synchronize(Lock&, Stream*);
CUresult synchronizeAll(Lock&, Context*);

/* An error where a call that may not be made during a capture is made during one, which is then broken. */
CUresult unsafeCall();
CUstreamCaptureMode& captureMode(); /* of the calling thread */
CUresult beginCapture(Stream*, CUstreamCaptureMode);
CUresult endCapture(Stream*, std::shared_ptr<Graph>*);
CUresult launchGraph(Executable*, Stream*);
std::shared_ptr<Graph> graphUnderCapture(const Graph*);
void holdInGraph(const std::shared_ptr<Graph>&, const UserObjectPtr&, unsigned count);
uint32_t newStreamNumber();

/* ---- Kernels
 * ---------------------------------------------------------------------------------------------------------- */

struct Function {
  const Kernel* kernel;
  const Library* library;
  int dynamicSharedLimit = 48 << 10;
};
Function* functionNamed(const std::string& name);
CUresult launchKernel(Function*, dim3 grid, dim3 block, unsigned dynamicShared, Stream*, void* const* parameters);

}  // namespace simgpu

#endif
