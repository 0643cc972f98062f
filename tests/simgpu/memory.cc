// Device memory: one window of addresses, its shadow, the table of allocations, and what to say when it is misused.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "tests/simgpu/core.h"

namespace simgpu {
namespace {

constexpr size_t kAlign = 512, kGap = 256;  // an allocation's address; bytes between two that belong to nobody

int memory = -1;
uintptr_t nextFree[kMaxDevices];
uint64_t allocationCount;

std::map<uintptr_t, Allocation>& allocations() {
  static auto& all = *new std::map<uintptr_t, Allocation>;  // kept to the end: workers may outlive static objects
  return all;
}

struct Run {
  uint32_t op, block;
  uint32_t fencedTo;  // epochs below it are visible to blocks that acquire
  bool acquired;
};
std::vector<Run>& runs() {
  static auto& all = *new std::vector<Run>(1);
  return all;
}
struct OpRecord {
  std::string name;
  uint32_t stream, sequence;
};
std::vector<OpRecord>& ops() {
  static auto& all = *new std::vector<OpRecord>(1);
  return all;
}

void map(uintptr_t at, size_t bytes, int protection, int flags, int fd) {
  void* p = mmap((void*)at, bytes, protection, flags | MAP_FIXED_NOREPLACE | MAP_NORESERVE, fd, 0);
  if (p == (void*)at) return;
  fprintf(stderr, "simgpu: cannot map the window of device memory at %#zx: %s\n", at, strerror(errno));
  _exit(1);
}

struct sigaction before[NSIG];

// The program touched device memory from the host, or a kernel's stack is too small.
void trap(int number, siginfo_t* info, void*) {
  const uintptr_t a = (uintptr_t)info->si_addr;
  if (isDevice(a)) {
    char text[512];
    const int n = snprintf(text, sizeof text, "simgpu: host access: the host touched device memory: %p is %s\n",
                           info->si_addr, describe(a).c_str());
    if (write(2, text, (size_t)n) < 0) _exit(1);
  }
  sigaction(number, &before[number], nullptr);  // the access is repeated, and meets who was there before
}

void openWindow() {
  if (memory >= 0) return;
  memory = memfd_create("simgpu", MFD_CLOEXEC);
  if (memory < 0 || ftruncate(memory, (off_t)kSpan)) {
    perror("simgpu: no device memory");
    _exit(1);
  }
  map(kDevice, kSpan, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  map(kHost, kSpan, PROT_READ | PROT_WRITE, MAP_SHARED, memory);
  map(kState, kSpan, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  map(kCells, kSpan / 4 * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  madvise((void*)kDevice, kSpan, MADV_DONTDUMP);
  for (int signal : {SIGSEGV, SIGBUS}) {
    struct sigaction action = {};
    action.sa_sigaction = trap;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(signal, &action, &before[signal]);
  }
}

// Zeroes a private mapping; whole pages are given back.
void forget(uintptr_t from, size_t bytes) {
  const uintptr_t first = (from + 4095) & ~uintptr_t{4095}, last = (from + bytes) & ~uintptr_t{4095};
  if (last <= first) {
    memset((void*)from, 0, bytes);
    return;
  }
  memset((void*)from, 0, first - from);
  mmap((void*)first, last - first, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
       0);
  memset((void*)last, 0, from + bytes - last);
}

// A file that is full of `value`, and stays so.
int fileOf(uint8_t value, size_t bytes) {
  static auto& files = *new std::map<uint8_t, int>;
  const auto known = files.find(value);
  if (known != files.end()) return known->second;
  const int made = memfd_create("simgpu state", MFD_CLOEXEC);
  const std::vector<uint8_t> content(bytes, value);
  if (made < 0 || write(made, content.data(), bytes) != (ssize_t)bytes) {
    perror("simgpu: no memory for states");
    _exit(1);
  }
  return files[value] = made;
}

// Of a new allocation. What programs reserve and never touch costs nothing: most of a large one is pages of a file,
// which become its own when they change.
void setState(uintptr_t device, size_t bytes, uint8_t value) {
  constexpr size_t kPiece = 4 << 20;
  auto* at = stateOf(device + kSpan);
  auto* const end = at + bytes;
  const size_t head = (0 - (uintptr_t)at) & 4095;
  if (bytes >= head + kPiece) {
    memset(at, value, head);
    for (at += head; end - at >= (ptrdiff_t)kPiece; at += kPiece)
      if (mmap(at, kPiece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fileOf(value, kPiece), 0) ==
          MAP_FAILED)
        memset(at, value, kPiece);
  }
  memset(at, value, (size_t)(end - at));
}

const char* const kFindings[] = {"race",
                                 "unordered access",
                                 "invalid access",
                                 "never-written read",
                                 "never-written read",
                                 "misaligned",
                                 "barrier",
                                 "host access",
                                 "trap",
                                 "capture by two threads at once"};

CUresult errorOf(Finding what) {
  switch (what) {
    case Finding::tolerated:
      return CUDA_SUCCESS;
    case Finding::overrun:
    case Finding::hostAccess:
      return CUDA_ERROR_ILLEGAL_ADDRESS;
    case Finding::misaligned:
      return CUDA_ERROR_MISALIGNED_ADDRESS;
    case Finding::trap:
      return CUDA_ERROR_ILLEGAL_INSTRUCTION;
    default:
      return CUDA_ERROR_LAUNCH_FAILED;
  }
}

// Where in the source an address of code lies, if addr2line can tell.
std::string place(const void* at) {
  Dl_info info;
  if (!at || !dladdr(at, &info) || !info.dli_fname) return "";
  char text[512];
  const size_t offset = (uintptr_t)at - (uintptr_t)info.dli_fbase;
  snprintf(text, sizeof text, "addr2line -s -e '%s' %#zx 2>/dev/null", info.dli_fname, offset - 1);
  std::string line;
  if (FILE* pipe = popen(text, "r")) {
    if (fgets(text, sizeof text, pipe)) line = text;
    pclose(pipe);
  }
  while (!line.empty() && line.back() == '\n') line.pop_back();
  if (!line.empty() && line[0] != '?') return " (" + line + ")";
  snprintf(text, sizeof text, " (%s+%#zx)", info.dli_fname, offset);
  return text;
}

}  // namespace

/* ---- Findings
 * -------------------------------------------------------------------------------------------------------- */

void report(int device, Finding what, const std::string& text, const void* at) {
  constexpr int kShown = 2;  // of a kind, for one operation
  static uint32_t op;
  static int count[std::size(kFindings)];
  const uint32_t now = running ? running->op : 0;
  if (now != op || !now) memset(count, 0, sizeof count);
  op = now;
  int& shown = count[(int)what];
  if (shown++ < kShown)
    fprintf(stderr, "simgpu: %s: device %d, %s%s (seed %llu)\n", kFindings[(int)what], device, text.c_str(),
            place(at).c_str(), (unsigned long long)seed());
  else if (shown == kShown + 1)
    fprintf(stderr, "simgpu: more %s of this operation are not shown\n", kFindings[(int)what]);
  Context* c = contextOf(device);
  if (c && c->error == CUDA_SUCCESS) c->error = errorOf(what);
}

std::string describe(uintptr_t device) {
  char text[256];
  const auto& all = allocations();
  auto next = all.upper_bound(device);
  if (next != all.begin()) {
    const Allocation& a = std::prev(next)->second;
    const size_t offset = device - a.device;
    if (offset < a.size || next == all.end() || device - (a.device + a.size) <= next->second.device - device) {
      if (offset < a.size)
        snprintf(text, sizeof text, "byte %zu of allocation %llu (%zu bytes, device %d%s)", offset,
                 (unsigned long long)a.number, a.size, a.ordinal, a.live ? "" : ", freed");
      else
        snprintf(text, sizeof text, "%zu bytes past the end of allocation %llu (%zu bytes, device %d%s)",
                 offset - a.size, (unsigned long long)a.number, a.size, a.ordinal, a.live ? "" : ", freed");
      return text;
    }
  }
  if (next != all.end()) {
    const Allocation& a = next->second;
    snprintf(text, sizeof text, "%zu bytes in front of allocation %llu (%zu bytes, device %d%s)", a.device - device,
             (unsigned long long)a.number, a.size, a.ordinal, a.live ? "" : ", freed");
    return text;
  }
  return "an address that was never allocated";
}

/* ---- Allocations
 * ------------------------------------------------------------------------------------------------------ */

static uintptr_t after(uintptr_t at, size_t bytes) { return (at + bytes + kGap + kAlign - 1) & ~(kAlign - 1); }

// Where nothing lives. Addresses are used again only when the device's window, eight times its memory, is used up: so
// what uses freed memory is found for long. 0: there is no such place.
static uintptr_t vacancy(int device, size_t bytes) {
  auto& all = allocations();
  const uintptr_t first = kDevice + (size_t)device * kDeviceSpan + kAlign, end = first - kAlign + kDeviceSpan;
  uintptr_t at = nextFree[device] ? nextFree[device] : first;
  for (int round = 0; round < 2; round++, at = first) {
    while (at + bytes + kAlign + kGap <= end) {
      auto next = all.upper_bound(at);
      if (next != all.begin()) --next;
      while (next != all.end() && next->first < after(at, bytes) &&
             !(next->second.live && after(next->first, next->second.size) > at))
        ++next;
      if (next == all.end() || next->first >= after(at, bytes)) {
        for (auto gone = all.lower_bound(at); gone != all.end() && gone->first < after(at, bytes);)
          gone = all.erase(gone);
        return at;
      }
      at = after(next->first, next->second.size);
    }
  }
  return 0;
}

CUresult allocate(int device, size_t bytes, CUdeviceptr* p, std::shared_ptr<Pool> pool) {
  openWindow();
  Context* c = contextOf(device);
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  const uintptr_t at = bytes > kDeviceBytes - c->used ? 0 : vacancy(device, bytes);
  if (!at) return CUDA_ERROR_OUT_OF_MEMORY;
  nextFree[device] = after(at, bytes);
  if (pool) pool->high = std::max(pool->high, pool->used += bytes);
  allocations()[at] = {at, bytes, device, ++allocationCount, true, std::move(pool)};
  setState(at, bytes, kAllocated);
  c->used += bytes;
  *p = at;
  return CUDA_SUCCESS;
}

void tolerate(const Allocation* a) { setState(a->device, a->size, kAllocated | kTolerated); }

void release(Allocation* a) {
  a->live = false;
  contextOf(a->ordinal)->used -= a->size;
  if (a->pool) a->pool->used -= a->size;
  const uintptr_t host = a->device + kSpan;
  forget((uintptr_t)stateOf(host), a->size);
  forget((uintptr_t)cellOf(host), (a->size + 3) / 4 * sizeof(Cell));
  fallocate(memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(host - kHost), (off_t)a->size);
}

void releaseAll(int device) {
  for (auto& entry : allocations())
    if (entry.second.live && entry.second.ordinal == device) release(&entry.second);
}

Allocation* allocationAt(CUdeviceptr p) {
  auto next = allocations().upper_bound(p);
  if (next == allocations().begin()) return nullptr;
  Allocation& a = std::prev(next)->second;
  return p - a.device < a.size ? &a : nullptr;
}
Allocation* liveAllocation(CUdeviceptr p) {
  Allocation* a = allocationAt(p);
  return a && a->live ? a : nullptr;
}

std::map<uintptr_t, Host>& hostMemory() {
  static auto& all = *new std::map<uintptr_t, Host>;
  return all;
}
const std::pair<const uintptr_t, Host>* hostAt(uintptr_t p, size_t bytes) {
  auto next = hostMemory().upper_bound(p);
  if (next == hostMemory().begin()) return nullptr;
  const auto& entry = *std::prev(next);
  return p - entry.first < entry.second.size && bytes <= entry.second.size - (p - entry.first) ? &entry : nullptr;
}

/* ---- Order
 * ------------------------------------------------------------------------------------------------------------- */

uint32_t newOp(const std::string& name, uint32_t stream, uint32_t sequence) {
  ops().push_back({name, stream, sequence});
  return (uint32_t)ops().size() - 1;
}

uint32_t newRun(uint32_t op, uint32_t block) {
  if (runs().size() > kMaxRun) {
    fprintf(stderr, "simgpu: more than %d blocks and copies in one process: split the test\n", kMaxRun);
    _exit(1);
  }
  runs().push_back({op, block, 0, false});
  return (uint32_t)runs().size() - 1;
}

namespace {

// Null if the earlier run comes before the one that runs now; else its name.
const char* unordered(uint32_t earlier, uint32_t current, unsigned epoch) {
  static char text[256];
  const Run &a = runs()[earlier], &b = runs()[current];
  const OpRecord& op = ops()[a.op];
  if (a.op == b.op) {
    if (a.block == b.block || (a.fencedTo > epoch && b.acquired)) return nullptr;
    snprintf(text, sizeof text, "block %u of the same launch", a.block);
    return text;
  }
  const Clock& clock = *running->clock;
  if (op.stream < clock.size() && clock[op.stream] >= op.sequence) return nullptr;
  snprintf(text, sizeof text, "%s on stream %u", op.name.c_str(), op.stream);
  return text;
}

void forgive(uintptr_t host) {
  const Allocation* a = liveAllocation(host - kSpan);
  uint8_t* state = stateOf(a->device + kSpan);
  for (size_t i = 0; i < a->size; i++)
    if (state[i] & kTolerated) state[i] = kWritten;
}

}  // namespace

bool touch(uintptr_t device, size_t bytes, bool writes, bool mustBeWritten, const char* what) {
  if (!bytes) return true;
  const Allocation* a = liveAllocation(device);
  if (!a || bytes > a->size - (device - a->device)) {
    const std::string where = describe(a ? a->device + a->size : device);
    report(running->device, Finding::overrun,
           std::string(what) + (writes ? " writes " : " reads ") + std::to_string(bytes) + " bytes from " +
               describe(device) + (a ? " on, so also " + where : ""));
    return false;
  }
  const uintptr_t host = device + kSpan;
  uint8_t* state = stateOf(host);
  if (mustBeWritten)
    for (size_t i = 0; i < bytes; i++)
      if (state[i] != kWritten) {
        report(running->device, state[i] & kTolerated ? Finding::tolerated : Finding::uninitialised,
               std::string(what) + " reads " + describe(device + i) + ", which nobody has written");
        if (state[i] & kTolerated) forgive(host);
        break;
      }
  if (writes) memset(state, kWritten, bytes);
  const uint64_t record = (uint64_t)running->run << kRunAt;
  uint32_t known = 0;
  for (uintptr_t p = host; p < host + bytes;) {
    const unsigned first = (unsigned)p & 3, left = (unsigned)(host + bytes - p < 4 ? host + bytes - p : 4);
    const unsigned here = left < 4 - first ? left : 4 - first;
    const uint64_t mask = ((1u << here) - 1) << first;
    Cell& cell = *cellOf(p);
    for (uint64_t other : {cell.write, writes ? cell.read : 0}) {
      const uint32_t run = (uint32_t)(other >> kRunAt);
      if (!(other & mask) || run == running->run || run == known) continue;
      known = run;
      if (const char* who = unordered(run, running->run, 0))
        report(running->device, Finding::order,
               std::string(what) + (writes ? " writes " : " reads ") + describe(p - kSpan) + ", which " + who +
                   (other == cell.write ? " wrote" : " read") + ", and nothing orders the two");
    }
    (writes ? cell.write : cell.read) = record | mask;
    p += here;
  }
  return true;
}

void copyState(uintptr_t to, uintptr_t from, size_t bytes) {
  memmove(stateOf(to + kSpan), stateOf(from + kSpan), bytes);
}

const Hooks hooks = {
    newRun,
    unordered,
    [](uint32_t run, unsigned epoch) { runs()[run].fencedTo = epoch + 1; },
    [](uint32_t run) { runs()[run].acquired = true; },
    [](uintptr_t p, size_t bytes) {
      if (!hostAt(p, bytes)) return false;
      running->touchedHost = true;
      return true;
    },
    [](uintptr_t host, char* text, size_t size) { snprintf(text, size, "%s", describe(host - kSpan).c_str()); },
    [](Finding what, const char* text, const void* at) { report(running->device, what, text, at); },
    forgive,
};

}  // namespace simgpu
