// Runs a block of threads: one fibre a thread on one CPU thread, switched at barriers, votes and shuffles; and checks
// every access to memory, which -fsanitize=thread turns into a call. Part of each kernel library, itself not
// instrumented.
#include <elf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/simgpu/device.h"
#undef memcpy
#undef memset
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#include "tests/simgpu/library.h"

#ifndef __x86_64__
#error "tests/simgpu switches its fibres in x86-64 assembly; other machines need simgpuSwitch of their own"
#endif

// Saves the callee-saved registers on this stack, leaves its address in *save, and goes on where `to` was left.
extern "C" void simgpuSwitch(void** save, void* to) __attribute__((visibility("hidden")));
asm(R"(
  .text
  .globl simgpuSwitch
  .hidden simgpuSwitch
  .type simgpuSwitch, @function
simgpuSwitch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
  .size simgpuSwitch, .-simgpuSwitch
)");

// The static shared variables of all kernels, and everything else that this library's image holds.
extern "C" {
extern char __start_simgpu_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_simgpu_shared[] __attribute__((weak, visibility("hidden")));
extern const Elf64_Ehdr __ehdr_start __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));
}

namespace simgpu {
namespace {

constexpr unsigned kThreads = 1024, kStack = 128 << 10, kGuard = 4096, kSharedLimit = 227 << 10;

enum class Wait : uint8_t { none, warp, barrier, done };

struct Thread {
  void* stack;
  uint3 index;
  Wait wait;
  simWarpOp op;
  unsigned mask, argument;
  uint64_t value, result;
  int line;
};

const Launch* launch;
const Hooks* hooks;
uint3 block;
uint32_t blockNumber, run;
unsigned epoch, warpEpoch[32];
unsigned threadCount, me;
Thread threads[kThreads];
char* stacks;
void* scheduler;
bool stopped;
unsigned votes, votesAsked;
uint32_t knownOrdered; /* a run that came before this one */

alignas(256) char dynamicShared[kSharedLimit];

/* ---- Findings ---------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4))) void found(Finding what, const void* at, const char* format, ...) {
  char text[768];
  int n = snprintf(text, sizeof text, "kernel %s, block (%u,%u,%u), thread (%u,%u,%u) ", launch->kernel->name, block.x,
                   block.y, block.z, threads[me].index.x, threads[me].index.y, threads[me].index.z);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text + n, sizeof text - (size_t)n, format, arguments);
  va_end(arguments);
  hooks->found(what, text, at);
}

// Leaves the kernel for good: nothing in it has a destructor.
__attribute__((noreturn)) void stop() {
  stopped = true;
  simgpuSwitch(&threads[me].stack, scheduler);
  __builtin_unreachable();
}

/* ---- Accesses ---------------------------------------------------------------------------------------------------- */

struct Shadow {
  uint8_t* state;
  Cell* cells;
};
struct Shared {
  uint8_t* state;
  Cell* cells;
  size_t size;
};
Shared sharedVariables, sharedDynamic;

void nameOf(uintptr_t a, char* text, size_t size) {
  if (a - kHost < kSpan) return hooks->describe(a, text, size);
  if (a - (uintptr_t)dynamicShared < kSharedLimit)
    snprintf(text, size, "dynamic shared memory + %zu of %u bytes", a - (uintptr_t)dynamicShared,
             launch->dynamicShared);
  else
    snprintf(text, size, "a __shared__ variable (%p in this library)", (void*)(a - (uintptr_t)&__ehdr_start));
}

const char* const kVerbs[] = {"reads", "writes", "atomically updates"};
enum Kind { read, write, atomic };

// Accesses that do not meet in time: the record is of somebody else, and no barrier or event lies between.
__attribute__((noinline)) void conflict(uint64_t record, bool recordWrites, uintptr_t a, unsigned n, Kind kind,
                                        const void* at) {
  const uint32_t theirRun = (uint32_t)(record >> kRunAt);
  const unsigned theirThread = (unsigned)(record >> kThreadAt) & 2047,
                 theirEpoch = (unsigned)(record >> kEpochAt) & kMaxEpoch;
  const unsigned theirWarpEpoch = (unsigned)(record >> kWarpEpochAt) & kMaxWarpEpoch;
  char name[256], who[320];
  if (theirRun == run) {
    if (theirEpoch != epoch) return;
    const unsigned warp = theirThread < kSeveralInWarp ? theirThread / 32 : theirThread - kSeveralInWarp;
    if (theirThread != kSeveral && warp == me / 32 &&
        (theirWarpEpoch != warpEpoch[warp] || theirWarpEpoch == kMaxWarpEpoch))
      return;
    if (theirThread < kSeveralInWarp)
      snprintf(who, sizeof who, "thread %u", theirThread);
    else
      snprintf(who, sizeof who, "several threads");
    nameOf(a, name, sizeof name);
    found(Finding::race, at, "%s %u bytes of %s, which %s of its block %s, with no barrier between", kVerbs[kind], n,
          name, who, recordWrites ? "wrote" : "read");
    return;
  }
  if (a - kHost >= kSpan) return;  // shared memory of a block that has ended
  if (theirRun == knownOrdered) return;
  const char* earlier = hooks->unordered(theirRun, run, theirEpoch);
  if (!earlier) {
    knownOrdered = theirRun;
    return;
  }
  nameOf(a, name, sizeof name);
  found(Finding::order, at, "%s %u bytes of %s, which %s %s, and nothing orders the two", kVerbs[kind], n, name,
        earlier, recordWrites ? "wrote" : "read");
}

uint64_t myRecord() {
  const unsigned w = warpEpoch[me / 32];
  return (uint64_t)run << kRunAt | (uint64_t)me << kThreadAt | (uint64_t)epoch << kEpochAt |
         (uint64_t)(w < (unsigned)kMaxWarpEpoch ? w : (unsigned)kMaxWarpEpoch) << kWarpEpochAt;
}

inline bool mine(uint64_t record, uint64_t my) { return (record ^ my) >> kThreadAt == 0; }

void check(Shadow shadow, uintptr_t a, unsigned n, Kind kind, const void* at) {
  const uint8_t wanted = kind == read ? kWritten : kAllocated;
  for (unsigned i = 0; i < n; i++) {
    const uint8_t state = shadow.state[i];
    if ((state & wanted) == wanted) continue;
    char name[256];
    nameOf(a + i, name, sizeof name);
    if (!(state & kAllocated)) {
      found(Finding::overrun, at, "%s %u bytes at %s", kVerbs[kind], n, name);
      stop();
    }
    found(state & kTolerated ? Finding::tolerated : Finding::uninitialised, at,
          "reads %u bytes of %s, which nobody has written", n, name);
    if (state & kTolerated)
      hooks->forgive(a);
    else
      memset(shadow.state, kWritten, n);  // one report for each place
    break;
  }
  const uint64_t my = myRecord();
  for (unsigned done = 0; done < n;) {
    const unsigned first = (unsigned)(a + done) & 3, here = n - done < 4 - first ? n - done : 4 - first;
    const uint64_t mask = ((1u << here) - 1) << first;
    Cell& cell = *shadow.cells++;
    if ((cell.write & mask) && !mine(cell.write, my) && !(kind == atomic && cell.write >> kAtomicBit & 1))
      conflict(cell.write, true, a + done, here, kind, at);
    if (kind == read) {
      // Bytes that several threads have read since the barrier are remembered as such; else the newest reader is.
      uint64_t record = my | mask;
      const uint64_t both = cell.read & mask;
      if ((cell.read ^ my) >> kWarpEpochAt == 0) {
        record |= cell.read & 15;
      } else if (both && (cell.read ^ my) >> kRunAt == 0 && (cell.read >> kEpochAt & kMaxEpoch) == epoch &&
                 !mine(cell.read, my)) {
        const unsigned before = (unsigned)(cell.read >> kThreadAt) & 2047;
        const unsigned warp = before < kSeveralInWarp ? before / 32 : before - kSeveralInWarp;
        const bool sameWarp = before != kSeveral && warp == me / 32;
        const bool sameTime = (cell.read >> kWarpEpochAt & kMaxWarpEpoch) == (my >> kWarpEpochAt & kMaxWarpEpoch);
        const unsigned now = sameWarp ? (unsigned)kSeveralInWarp + warp : (unsigned)kSeveral;
        if (!sameWarp || sameTime) record = (my & ~((uint64_t)2047 << kThreadAt)) | (uint64_t)now << kThreadAt | both;
      }
      cell.read = record;
    } else {
      if ((cell.read & mask) && !mine(cell.read, my)) conflict(cell.read, false, a + done, here, kind, at);
      const bool again = (cell.write ^ my) >> kWarpEpochAt == 0 && !(cell.write >> kAtomicBit & 1);
      cell.write = my | mask | (again ? cell.write & 15 : 0) | (kind == atomic ? 1u << kAtomicBit : 0);
    }
    done += here;
  }
  if (kind != read) memset(shadow.state, kWritten, n);
}

// What is neither device memory nor shared memory: this thread's stack, constants, mapped host memory, or a mistake.
__attribute__((noinline)) void checkOther(uintptr_t a, unsigned n, Kind kind, const void* at) {
  const uintptr_t image = (uintptr_t)&__ehdr_start;
  if (a - image < (uintptr_t)_end - image || hooks->isMapped(a, n)) return;
  if (a - (uintptr_t)stacks < (uintptr_t)kThreads * kStack) {
    found(Finding::overrun, at, "%s %u bytes of the local variables of thread %zu", kVerbs[kind], n,
          (a - (uintptr_t)stacks) / kStack);
  } else if (a - kDevice < kSpan) {
    char name[256];
    nameOf(a - kDevice + kHost, name, sizeof name);
    found(
        Finding::overrun, at,
        "%s %u bytes of %s by an address that was not an argument: pointers must stand at the top level of a kernel's "
        "parameters",
        kVerbs[kind], n, name);
  } else {
    found(Finding::overrun, at, "%s %u bytes at %p, which is not device memory", kVerbs[kind], n, (void*)a);
  }
  stop();
}

inline void access(uintptr_t a, unsigned n, Kind kind, const void* at) {
  const uintptr_t stack = (uintptr_t)stacks + (uintptr_t)me * kStack;
  if (a - stack < kStack) return;
  uintptr_t offset = a - kHost;
  if (offset < kSpan) {
    if (!(launch->devices >> offset / kDeviceSpan & 1)) {
      char name[256];
      nameOf(a, name, sizeof name);
      found(Finding::overrun, at, "%s %u bytes of %s, another device's memory without peer access", kVerbs[kind], n,
            name);
      stop();
    }
    return check({stateOf(a), cellOf(a)}, a, n, kind, at);
  }
  offset = a - (uintptr_t)__start_simgpu_shared;
  if (offset < sharedVariables.size)
    return check({sharedVariables.state + offset, sharedVariables.cells + offset / 4}, a, n, kind, at);
  offset = a - (uintptr_t)dynamicShared;
  if (offset < sharedDynamic.size)
    return check({sharedDynamic.state + offset, sharedDynamic.cells + offset / 4}, a, n, kind, at);
  checkOther(a, n, kind, at);
}

/* ---- Barriers and warps ------------------------------------------------------------------------------------------ */

void wait(Wait why) {
  threads[me].wait = why;
  simgpuSwitch(&threads[me].stack, scheduler);
}

// A fibre's first and only frame.
void body() {
  launch->kernel->invoke(launch->parameters);
  wait(Wait::done);
}

void newRun() {
  run = hooks->newRun(launch->op, blockNumber);
  epoch = 0;
  knownOrdered = 0;
}

uint64_t combine(simWarpOp op, uint64_t a, uint64_t b) {
  const uint32_t x = (uint32_t)a, y = (uint32_t)b;
  const int32_t i = (int32_t)x, j = (int32_t)y;
  switch (op) {
    case simAdd:
      return x + y;
    case simMinSigned:
      return (uint32_t)(i < j ? i : j);
    case simMaxSigned:
      return (uint32_t)(i > j ? i : j);
    case simMinUnsigned:
      return x < y ? x : y;
    case simMaxUnsigned:
      return x > y ? x : y;
    case simAnd:
      return x & y;
    case simOr:
      return x | y;
    default:
      return x ^ y;
  }
}

// Answers the lanes of a warp that all wait; false where what they wait for can never come.
bool answer(unsigned warp) {
  Thread* lane = threads + 32 * warp;
  const unsigned lanes = threadCount - 32 * warp < 32 ? threadCount - 32 * warp : 32;
  for (unsigned i = 0; i < lanes; i++) {
    if (lane[i].wait != Wait::warp) continue;
    const unsigned mask = lane[i].mask & (lanes == 32 ? ~0u : (1u << lanes) - 1);
    me = 32 * warp + i;
    if (!(mask >> i & 1)) {
      found(Finding::barrier, nullptr, "is not in the mask %08x that it gives at line %d", lane[i].mask, lane[i].line);
      return false;
    }
    uint64_t all = 0;
    bool first = true;
    for (unsigned j = 0; j < lanes; j++) {
      if (!(mask >> j & 1)) continue;
      if (lane[j].wait != Wait::warp || lane[j].op != lane[i].op || lane[j].line != lane[i].line ||
          lane[j].mask != lane[i].mask) {
        char where[64];
        if (lane[j].wait == Wait::done)
          snprintf(where, sizeof where, "has left the kernel");
        else
          snprintf(where, sizeof where, "waits at line %d", lane[j].line);
        found(Finding::barrier, nullptr, "waits at line %d for all lanes of %08x, but lane %u %s", lane[i].line,
              lane[i].mask, j, where);
        return false;
      }
      if (lane[i].op == simBallot)
        all |= lane[j].value << j;
      else
        all = first ? lane[j].value : combine(lane[i].op, all, lane[j].value);
      first = false;
    }
    for (unsigned j = 0; j < lanes; j++) {
      if (!(mask >> j & 1)) continue;
      if (lane[i].op == simShuffle) {
        const unsigned from = lane[j].argument;
        if (from >= lanes || !(mask >> from & 1)) {
          me = 32 * warp + j;
          found(Finding::barrier, nullptr, "shuffles at line %d from lane %u, which is not in the mask %08x",
                lane[i].line, from, lane[i].mask);
          return false;
        }
        lane[j].result = lane[from].value;
      } else {
        lane[j].result = all;
      }
    }
    if (lane[i].op == simSyncwarp) warpEpoch[warp]++;
    for (unsigned j = 0; j < lanes; j++)
      if (mask >> j & 1) lane[j].wait = Wait::none;
  }
  return true;
}

// All threads wait at the barrier or have left.
bool passBarrier() {
  unsigned at = 0, left = 0;
  for (unsigned t = 0; t < threadCount; t++) (threads[t].wait == Wait::done ? left : at) = t;
  for (unsigned t = 0; t < threadCount; t++) {
    if (threads[t].wait == Wait::done) {
      me = at;
      found(Finding::barrier, nullptr, "waits at the barrier of line %d, but thread %u has left the kernel",
            threads[at].line, left);
      return false;
    }
    if (threads[t].line != threads[0].line) {
      me = t;
      found(Finding::barrier, nullptr, "waits at the barrier of line %d, but thread 0 at that of line %d",
            threads[t].line, threads[0].line);
      return false;
    }
  }
  for (unsigned t = 0; t < threadCount; t++) {
    threads[t].wait = Wait::none;
    threads[t].result = votes;
  }
  votes = votesAsked = 0;
  memset(warpEpoch, 0, sizeof warpEpoch);
  if (++epoch > kMaxEpoch) newRun();
  return true;
}

// Lets the lanes of a warp run until each waits for others; false if the kernel has to be stopped.
bool runWarp(unsigned warp) {
  const unsigned base = 32 * warp, lanes = threadCount - base < 32 ? threadCount - base : 32;
  for (;;) {
    const unsigned shift = below(launch->random, lanes);
    unsigned ran = 0, waiting = 0;
    for (unsigned i = 0; i < lanes; i++) {
      const unsigned t = base + (i + shift) % lanes;
      if (threads[t].wait == Wait::none) {
        me = t;
        ran++;
        simgpuSwitch(&scheduler, threads[t].stack);
        if (stopped) return false;
      }
      waiting += threads[t].wait == Wait::warp;
    }
    if (waiting && !answer(warp)) return false;
    if (!waiting) return true;
  }
}

void makeShadow(Shared* s, size_t size) {
  s->size = size;
  s->state = (uint8_t*)calloc(size + 16, 1);
  s->cells = (Cell*)calloc(size / 4 + 8, sizeof(Cell));
}

void initialise() {
  if (stacks) return;
  char* p = (char*)mmap(nullptr, (size_t)kThreads * kStack, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    perror("simgpu: no memory for the stacks of a block");
    abort();
  }
  for (unsigned t = 0; t < kThreads; t++) mprotect(p + (size_t)t * kStack, kGuard, PROT_NONE);
  makeShadow(&sharedVariables, (size_t)(__stop_simgpu_shared - __start_simgpu_shared));
  makeShadow(&sharedDynamic, kSharedLimit);
  stacks = p;
}

}  // namespace

bool runBlock(const Launch& l, uint3 b, const Hooks& h) {
  initialise();
  launch = &l;
  hooks = &h;
  block = b;
  blockNumber = (b.z * l.grid.y + b.y) * l.grid.x + b.x;
  threadCount = l.block.x * l.block.y * l.block.z;
  stopped = false;
  votes = votesAsked = 0;
  memset(warpEpoch, 0, sizeof warpEpoch);
  newRun();
  memset(sharedVariables.state, kAllocated, sharedVariables.size);
  memset(sharedDynamic.state, kAllocated, l.dynamicShared);
  memset(sharedDynamic.state + l.dynamicShared, kNone, kSharedLimit - l.dynamicShared);
  for (unsigned t = 0; t < threadCount; t++) {
    void** top = (void**)(stacks + (size_t)(t + 1) * kStack);
    *--top = nullptr;
    *--top = (void*)body;
    top -= 6;
    threads[t].stack = top;
    threads[t].wait = Wait::none;
    threads[t].index = {t % l.block.x, t / l.block.x % l.block.y, t / (l.block.x * l.block.y)};
  }
  const unsigned warps = (threadCount + 31) / 32;
  for (;;) {
    uint8_t order[32];
    for (unsigned w = 0; w < warps; w++) {
      const unsigned at = below(l.random, w + 1);
      order[w] = order[at];
      order[at] = (uint8_t)w;
    }
    for (unsigned w = 0; w < warps; w++)
      if (!runWarp(order[w])) return false;
    unsigned left = 0;
    for (unsigned t = 0; t < threadCount; t++) left += threads[t].wait == Wait::done;
    if (left == threadCount) return true;
    if (!passBarrier()) return false;
  }
}

}  // namespace simgpu

using namespace simgpu;

/* ---- What device.h declares ---------------------------------------------------------------------------------------
 */

uint3 simThreadIdx() { return threads[me].index; }
uint3 simBlockIdx() { return block; }
dim3 simBlockDim() { return launch->block; }
dim3 simGridDim() { return launch->grid; }
void* simDynamicShared() { return dynamicShared; }
unsigned simLane() { return me % 32; }

int simBarrier(simVote vote, int predicate, int line) {
  votesAsked++;
  votes += predicate != 0;
  threads[me].line = line;
  wait(Wait::barrier);
  const unsigned count = (unsigned)threads[me].result;
  return vote == simCount ? (int)count : vote == simAll ? count == threadCount : count != 0;
}

uint64_t simWarp(simWarpOp op, unsigned mask, uint64_t value, unsigned argument, int line) {
  Thread& t = threads[me];
  t.op = op;
  t.mask = mask;
  t.value = value;
  t.argument = argument;
  t.line = line;
  wait(Wait::warp);
  return t.result;
}

void simFence() { hooks->fenced(run, epoch); }

void simAtomic(const void* p, unsigned bytes) {
  const void* at = __builtin_return_address(0);
  if ((uintptr_t)p % bytes) {
    found(Finding::misaligned, at, "atomically updates %u bytes at an address that is not a multiple of it", bytes);
    stop();
  }
  access((uintptr_t)p, bytes, atomic, at);
  hooks->acquired(run);
}

void __trap() {
  found(Finding::trap, __builtin_return_address(0), "traps");
  stop();
}

static void checkRange(const void* p, size_t bytes, Kind kind, const void* at) {
  for (size_t i = 0; i < bytes; i += 64)
    access((uintptr_t)p + i, bytes - i < 64 ? (unsigned)(bytes - i) : 64, kind, at);
}
void* simMemcpy(void* to, const void* from, size_t bytes) {
  checkRange(from, bytes, read, __builtin_return_address(0));
  checkRange(to, bytes, write, __builtin_return_address(0));
  return memcpy(to, from, bytes);
}
void* simMemset(void* to, int byte, size_t bytes) {
  checkRange(to, bytes, write, __builtin_return_address(0));
  return memset(to, byte, bytes);
}

/* ---- What -fsanitize=thread, alignment and bounds call; hidden, so that a program's own sanitizer is not met --------
 */

#define HIDDEN extern "C" __attribute__((visibility("hidden")))
#define ACCESS(n)                                                                                               \
  HIDDEN void __tsan_read##n(void* p) { access((uintptr_t)p, n, read, __builtin_return_address(0)); }           \
  HIDDEN void __tsan_write##n(void* p) { access((uintptr_t)p, n, write, __builtin_return_address(0)); }         \
  HIDDEN void __tsan_unaligned_read##n(void* p) { access((uintptr_t)p, n, read, __builtin_return_address(0)); } \
  HIDDEN void __tsan_unaligned_write##n(void* p) { access((uintptr_t)p, n, write, __builtin_return_address(0)); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
HIDDEN void __tsan_read_range(void* p, size_t bytes) { checkRange(p, bytes, read, __builtin_return_address(0)); }
HIDDEN void __tsan_write_range(void* p, size_t bytes) { checkRange(p, bytes, write, __builtin_return_address(0)); }
HIDDEN void __tsan_init() {}

struct Place {
  const char* file;
  uint32_t line, column;
};
HIDDEN void __ubsan_handle_type_mismatch_v1(const Place* place, uintptr_t p) {
  found(Finding::misaligned, __builtin_return_address(0), "uses the misaligned address %p (%s:%u)", (void*)p,
        place->file, place->line);
  stop();
}
HIDDEN void __ubsan_handle_out_of_bounds(const Place* place, uintptr_t index) {
  found(Finding::overrun, __builtin_return_address(0), "takes element %zd of an array that is shorter (%s:%u)",
        (ssize_t)index, place->file, place->line);
  stop();
}
// Their names in a build that does not recover from such errors.
HIDDEN void __ubsan_handle_type_mismatch_v1_abort(const Place* place, uintptr_t p) {
  __ubsan_handle_type_mismatch_v1(place, p);
}
HIDDEN void __ubsan_handle_out_of_bounds_abort(const Place* place, uintptr_t index) {
  __ubsan_handle_out_of_bounds(place, index);
}
