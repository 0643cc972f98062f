// libcuda.so.1 of the stand-in: the driver API in front of core.h. What is not in the table at the end is not there.
#include <cuda.h>
#include <cudaTypedefs.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>

#include "tests/simgpu/core.h"
#include "tests/simgpu/service.h"

using namespace simgpu;

#pragma GCC visibility push(default)

namespace {

bool initialised;

/* ---- Errors
 * ---------------------------------------------------------------------------------------------------------- */

struct ErrorText {
  CUresult error;
  const char *name, *text;
};
#define E(name, text) \
  { CUDA_##name, "CUDA_" #name, text }
const ErrorText kErrors[] = {
    E(SUCCESS, "no error"),
    E(ERROR_INVALID_VALUE, "invalid argument"),
    E(ERROR_OUT_OF_MEMORY, "out of memory"),
    E(ERROR_NOT_INITIALIZED, "initialization error"),
    E(ERROR_DEINITIALIZED, "driver shutting down"),
    E(ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    E(ERROR_INVALID_DEVICE, "invalid device ordinal"),
    E(ERROR_INVALID_IMAGE, "device kernel image is invalid"),
    E(ERROR_INVALID_CONTEXT, "invalid device context"),
    E(ERROR_PEER_ACCESS_UNSUPPORTED, "peer access is not supported between these two devices"),
    E(ERROR_INVALID_HANDLE, "invalid resource handle"),
    E(ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state"),
    E(ERROR_NOT_FOUND, "named symbol not found"),
    E(ERROR_NOT_READY, "device not ready"),
    E(ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    E(ERROR_PEER_ACCESS_ALREADY_ENABLED, "peer access is already enabled"),
    E(ERROR_PEER_ACCESS_NOT_ENABLED, "peer access has not been enabled"),
    E(ERROR_PRIMARY_CONTEXT_ACTIVE, "cannot set while device is active in this process"),
    E(ERROR_HOST_MEMORY_ALREADY_REGISTERED, "part or all of the requested memory range is already mapped"),
    E(ERROR_HOST_MEMORY_NOT_REGISTERED, "pointer does not correspond to a registered memory region"),
    E(ERROR_ILLEGAL_INSTRUCTION, "an illegal instruction was encountered"),
    E(ERROR_MISALIGNED_ADDRESS, "misaligned address"),
    E(ERROR_ASSERT, "device-side assert triggered"),
    E(ERROR_LAUNCH_FAILED, "unspecified launch failure"),
    E(ERROR_NOT_SUPPORTED, "operation not supported"),
    E(ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"),
    E(ERROR_STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture"),
    E(ERROR_STREAM_CAPTURE_MERGE, "operation would result in a merge of separate capture sequences"),
    E(ERROR_STREAM_CAPTURE_UNMATCHED, "capture was not ended in the same stream as it began"),
    E(ERROR_STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work"),
    E(ERROR_STREAM_CAPTURE_ISOLATION, "dependency created on uncaptured work in another stream"),
    E(ERROR_STREAM_CAPTURE_IMPLICIT, "operation would make the legacy stream depend on a capturing blocking stream"),
    E(ERROR_CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream"),
    E(ERROR_STREAM_CAPTURE_WRONG_THREAD, "attempt to terminate a thread-local capture sequence from another thread"),
    E(ERROR_GRAPH_EXEC_UPDATE_FAILURE,
      "the graph update was not performed because it included changes which violated constraints specific to "
      "instantiated graph update"),
    E(ERROR_UNKNOWN, "unknown error"),
};
#undef E

/* ---- Handles
 * ---------------------------------------------------------------------------------------------------------- */

/* Kept to the end, here and in the other libraries: a program's static objects are destroyed after its thread's. */
thread_local auto& contexts = simgpuKept(new std::vector<Context*>); /* the last is current */
thread_local auto& threadStreams = simgpuKept(new std::map<Context*, StreamPtr>);
thread_local bool perThread; /* what stream 0 is in this call */

Context* current() { return contexts.empty() ? nullptr : contexts.back(); }
CUcontext handle(Context* c) { return reinterpret_cast<CUcontext>(c); }

bool isContext(Context* c) {
  for (int d = 0; d < deviceCount(); d++)
    if (contextOf(d) == c) return true;
  return false;
}

CUresult find(Stream** s, CUstream h) {
  const bool special = !h || h == CU_STREAM_LEGACY || h == CU_STREAM_PER_THREAD;
  if (special) {
    Context* c = current();
    if (!c) return CUDA_ERROR_INVALID_CONTEXT;
    if (h == CU_STREAM_PER_THREAD || (!h && perThread)) {
      StreamPtr& own = threadStreams[c];
      if (!own) own = newStream(c, CU_STREAM_DEFAULT, 0);
      *s = own.get();
    } else {
      *s = c->legacy.get();
    }
    return CUDA_SUCCESS;
  }
  for (const StreamPtr& each : streams())
    if (each.get() == reinterpret_cast<Stream*>(h) && !each->destroyed) {
      *s = each.get();
      return CUDA_SUCCESS;
    }
  return CUDA_ERROR_INVALID_HANDLE;
}

template <typename T>
std::map<T*, std::shared_ptr<T>>& live() {
  static auto& all = *new std::map<T*, std::shared_ptr<T>>;
  return all;
}
template <typename T, typename H>
std::shared_ptr<T> get(H h) {
  const auto found = live<T>().find(reinterpret_cast<T*>(h));
  return found == live<T>().end() ? nullptr : found->second;
}
template <typename T, typename H>
void put(std::shared_ptr<T> object, H* h) {
  *h = reinterpret_cast<H>(object.get());
  live<T>()[object.get()] = std::move(object);
}

#define TRY(expression)                        \
  do {                                         \
    const CUresult tried_ = (expression);      \
    if (tried_ != CUDA_SUCCESS) return tried_; \
  } while (0)
#define CHECK(condition, error)                  \
  do {                                           \
    if (!(condition)) return CUDA_ERROR_##error; \
  } while (0)
/* Every call: the lock, and what must be there. */
#define BEGIN                          \
  CHECK(initialised, NOT_INITIALIZED); \
  CHECK(!destroying(), NOT_PERMITTED); \
  Lock lock(theMutex)
#define BEGIN_STREAM(h) \
  BEGIN;                \
  Stream* s = nullptr;  \
  TRY(find(&s, h))
#define BEGIN_CONTEXT     \
  BEGIN;                  \
  Context* c = current(); \
  CHECK(c, INVALID_CONTEXT)

CUresult unserved(const char* what) {
  fprintf(stderr, "simgpu: %s is not served by this stand-in: it answers CUDA_ERROR_NOT_SUPPORTED\n", what);
  return CUDA_ERROR_NOT_SUPPORTED;
}

/* ---- Copies
 * ------------------------------------------------------------------------------------------------------------- */

// A range of device memory that an operation may be enqueued for.
CUresult checkRange(uintptr_t p, size_t bytes) {
  const Allocation* a = liveAllocation(p);
  if (a && bytes <= a->size - (p - a->device)) return CUDA_SUCCESS;
  fprintf(stderr, "simgpu: refused: %zu bytes from %s on\n", bytes, describe(p).c_str());
  return CUDA_ERROR_INVALID_VALUE;
}

// Rows of a copy or memset: `pitch` bytes apart, and a slice of them `slice` bytes from the next.
struct Place {
  uintptr_t at;
  size_t pitch = 0, slice = 0;
};
struct Extent {
  size_t width; /* bytes */
  size_t height = 1, depth = 1;
  bool empty() const { return !width || !height || !depth; }
  size_t from(const Place& p) const { return (depth - 1) * p.slice + (height - 1) * p.pitch + width; } /* to its end */
  bool fits(const Place& p) const {
    return (height == 1 && depth == 1) || (p.pitch >= width && (depth == 1 || p.slice >= height * p.pitch));
  }
  template <typename Row>
  bool forEach(Row row) const {
    for (size_t z = 0; z < depth; z++)
      for (size_t y = 0; y < height; y++)
        if (!row(z, y)) return false;
    return true;
  }
};
uintptr_t rowOf(const Place& p, size_t z, size_t y) { return p.at + z * p.slice + y * p.pitch; }

CUresult copy(Lock& lock, Place to, Place from, Extent size, Stream* s, bool synchronous) {
  if (size.empty()) return CUDA_SUCCESS;
  CHECK(size.fits(to) && size.fits(from), INVALID_VALUE);
  const bool toDevice = isDevice(to.at), fromDevice = isDevice(from.at);
  if (toDevice) TRY(checkRange(to.at, size.from(to)));
  if (fromDevice) TRY(checkRange(from.at, size.from(from)));
  CHECK(to.at && from.at, INVALID_VALUE);
  if (synchronous) TRY(unsafeCall());
  TRY(enqueue(s, "copy", [=](Running&) {
    size.forEach([=](size_t z, size_t y) {
      const uintptr_t t = rowOf(to, z, y), f = rowOf(from, z, y);
      if (fromDevice && !touch(f, size.width, false, !toDevice, "a copy")) return false;
      if (toDevice && !touch(t, size.width, true, false, "a copy")) return false;
      memmove((void*)(toDevice ? t + kSpan : t), (const void*)(fromDevice ? f + kSpan : f), size.width);
      if (fromDevice && toDevice) copyState(t, f, size.width);
      return true;
    });
  }));
  if (s->capture) return CUDA_SUCCESS;
  // Pageable memory is done with when the call returns, as is any memory of the host after a synchronous copy.
  const bool pageable =
      (!toDevice && !hostAt(to.at, size.from(to))) || (!fromDevice && !hostAt(from.at, size.from(from)));
  if (!pageable && !(synchronous && !(toDevice && fromDevice))) return CUDA_SUCCESS;
  Context* c = s->context;
  await(lock, MarkPtr(s->last));
  return c->error;
}

CUresult copyBox(const CUDA_MEMCPY3D* c, CUstream h, bool synchronous) {
  BEGIN_STREAM(h);
  CHECK(c && !c->srcLOD && !c->dstLOD, INVALID_VALUE);
  CHECK(c->srcMemoryType != CU_MEMORYTYPE_ARRAY && c->dstMemoryType != CU_MEMORYTYPE_ARRAY, NOT_SUPPORTED);
  const uintptr_t src = c->srcMemoryType == CU_MEMORYTYPE_HOST ? (uintptr_t)c->srcHost : c->srcDevice,
                  dst = c->dstMemoryType == CU_MEMORYTYPE_HOST ? (uintptr_t)c->dstHost : c->dstDevice;
  auto place = [](uintptr_t p, size_t pitch, size_t height, size_t x, size_t y, size_t z) {
    return Place{p + z * pitch * height + y * pitch + x, pitch, pitch * height};
  };
  return copy(lock, place(dst, c->dstPitch, c->dstHeight, c->dstXInBytes, c->dstY, c->dstZ),
              place(src, c->srcPitch, c->srcHeight, c->srcXInBytes, c->srcY, c->srcZ),
              {c->WidthInBytes, c->Height, c->Depth}, s, synchronous);
}

template <typename T>
CUresult fill(Place p, T value, Extent size, CUstream h, bool synchronous) {
  BEGIN_STREAM(h);
  if (size.empty()) return CUDA_SUCCESS;
  CHECK(p.at % sizeof(T) == 0 && p.pitch % sizeof(T) == 0 && size.fits(p), INVALID_VALUE);
  if (synchronous) TRY(unsafeCall());
  const bool host = !isDevice(p.at);
  if (host)
    CHECK(hostAt(p.at, size.from(p)), INVALID_VALUE);
  else
    TRY(checkRange(p.at, size.from(p)));
  return enqueue(s, "memset", [=](Running&) {
    size.forEach([=](size_t z, size_t y) {
      const uintptr_t row = rowOf(p, z, y);
      if (!host && !touch(row, size.width, true, false, "a memset")) return false;
      T* to = (T*)(host ? row : row + kSpan);
      std::fill(to, to + size.width / sizeof(T), value);
      return true;
    });
  });
}
template <typename T>
CUresult fill(CUdeviceptr p, T value, size_t count, CUstream h, bool synchronous) {
  return fill(Place{p}, value, Extent{count * sizeof(T)}, h, synchronous);
}

CUresult captureInfo(CUstream h, CUstreamCaptureStatus* status, cuuint64_t* id) {
  BEGIN_STREAM(h);
  CHECK(status, INVALID_VALUE);
  if (s->legacy)
    for (const StreamPtr& other : streams())
      if (other->capture && other->context == s->context && !(other->flags & CU_STREAM_NON_BLOCKING))
        return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  *status = !s->capture          ? CU_STREAM_CAPTURE_STATUS_NONE
            : s->capture->broken ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                 : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  if (id && s->capture) *id = s->capture->id;
  return CUDA_SUCCESS;
}

}  // namespace

extern "C" {

/* ---- The driver, devices, contexts
 * ---------------------------------------------------------------------------------------- */

CUresult cuInit(unsigned int flags) {
  CHECK(!flags, INVALID_VALUE);
  Lock lock(theMutex);
  CHECK(deviceCount(), NO_DEVICE);
  if (!initialised && getenv("SIMGPU_BANNER"))
    fprintf(stderr, "simgpu: %d stand-in device%s made of CPU threads; no timing here means anything\n", deviceCount(),
            deviceCount() == 1 ? "" : "s");
  initialised = true;
  return CUDA_SUCCESS;
}
CUresult cuDriverGetVersion(int* version) {
  CHECK(version, INVALID_VALUE);
  const char* given = getenv("SIMGPU_VERSION");
  *version = given ? atoi(given) : CUDA_VERSION;
  return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char** name) {
  CHECK(name, INVALID_VALUE);
  *name = nullptr;
  for (const ErrorText& e : kErrors)
    if (e.error == error) *name = e.name;
  return *name ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuGetErrorString(CUresult error, const char** text) {
  CHECK(text, INVALID_VALUE);
  *text = nullptr;
  for (const ErrorText& e : kErrors)
    if (e.error == error) *text = e.text;
  return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuGetExportTable(const void** table, const CUuuid*) {
  static bool said;
  if (!said)
    fprintf(
        stderr,
        "simgpu: this program asks for undocumented tables of the driver, as a statically linked CUDA runtime does; "
        "link it with -lcudart (nvcc -cudart shared)\n");
  said = true;
  if (table) *table = nullptr;
  return CUDA_ERROR_NOT_FOUND;
}
CUresult cuDeviceGetCount(int* count) {
  BEGIN;
  CHECK(count, INVALID_VALUE);
  *count = deviceCount();
  return CUDA_SUCCESS;
}
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  BEGIN;
  CHECK(device, INVALID_VALUE);
  CHECK(contextOf(ordinal), INVALID_DEVICE);
  *device = ordinal;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetName(char* name, int size, CUdevice device) {
  BEGIN;
  CHECK(name && size > 0, INVALID_VALUE);
  CHECK(contextOf(device), INVALID_DEVICE);
  snprintf(name, (size_t)size, "simgpu stand-in (CPU threads)");
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  BEGIN;
  CHECK(uuid, INVALID_VALUE);
  CHECK(contextOf(device), INVALID_DEVICE);
  memset(uuid, 0, sizeof *uuid);
  snprintf(uuid->bytes, sizeof uuid->bytes, "simgpu %d", device);
  return CUDA_SUCCESS;
}
CUresult cuDeviceTotalMem(size_t* bytes, CUdevice device) {
  BEGIN;
  CHECK(bytes, INVALID_VALUE);
  CHECK(contextOf(device), INVALID_DEVICE);
  *bytes = kDeviceBytes;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetPCIBusId(char* text, int size, CUdevice device) {
  BEGIN;
  CHECK(text && size > 0, INVALID_VALUE);
  CHECK(contextOf(device), INVALID_DEVICE);
  snprintf(text, (size_t)size, "0000:%02x:00.0", device + 1);
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetByPCIBusId(CUdevice* device, const char* text) {
  BEGIN;
  CHECK(device && text, INVALID_VALUE);
  unsigned bus;
  CHECK(sscanf(text, "%*x:%x:%*x", &bus) == 1 || sscanf(text, "%x:%*x", &bus) == 1, INVALID_VALUE);
  CHECK(contextOf((int)bus - 1), INVALID_DEVICE);
  *device = (int)bus - 1;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute what, CUdevice device) {
  BEGIN;
  CHECK(value, INVALID_VALUE);
  CHECK(contextOf(device), INVALID_DEVICE);
  static const auto& values = *new std::map<int, int>{
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 0x7fffffff},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 48 << 10},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 227 << 10},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 228 << 10},
      {CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, 1 << 10},
      {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 64 << 10},
      {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
      {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 64 << 10},
      {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 64 << 10},
      {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1000000},
      {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 1000000},
      {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 1024},
      {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 4 << 20},
      {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 4},
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 16},
      {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
      {CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 1},
      {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 2},
      {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
      {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
      {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
      {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9},
      {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
      {CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED, 1},
      {CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1},
      {CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 1},
      {CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, 1},
      {CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1},
      {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
      {CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, 512},
  };
  const auto found = values.find(what);
  *value = what == CU_DEVICE_ATTRIBUTE_PCI_BUS_ID ? device + 1 : found == values.end() ? 0 : found->second;
  return CUDA_SUCCESS;
}
CUresult cuDeviceCanAccessPeer(int* can, CUdevice device, CUdevice peer) {
  BEGIN;
  CHECK(can, INVALID_VALUE);
  CHECK(contextOf(device) && contextOf(peer), INVALID_DEVICE);
  *can = device != peer;
  return CUDA_SUCCESS;
}
// SIMGPU_NVLINK=1: as if NVLink joined all devices; n: those of the same n, counted from 0.
CUresult cuDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute what, CUdevice device, CUdevice peer) {
  BEGIN;
  CHECK(value, INVALID_VALUE);
  CHECK(contextOf(device) && contextOf(peer) && device != peer, INVALID_DEVICE);
  const char* text = getenv("SIMGPU_NVLINK");
  const int linked = text ? atoi(text) : 0;
  switch (what) {
    case CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED:
      *value = 1;
      break;
    case CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED:
      *value = linked == 1 || (linked > 1 && device / linked == peer / linked);
      break;
    default:
      *value = 0;
  }
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  BEGIN;
  CHECK(context, INVALID_VALUE);
  Context* c = contextOf(device);
  CHECK(c, INVALID_DEVICE);
  c->retained++;
  *context = handle(c);
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
  BEGIN;
  Context* c = contextOf(device);
  CHECK(c, INVALID_DEVICE);
  CHECK(c->retained, INVALID_CONTEXT);
  c->retained--;
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int* flags, int* active) {
  BEGIN;
  Context* c = contextOf(device);
  CHECK(c, INVALID_DEVICE);
  CHECK(flags && active, INVALID_VALUE);
  *flags = c->flags;
  *active = c->retained > 0;
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned int flags) {
  BEGIN;
  Context* c = contextOf(device);
  CHECK(c, INVALID_DEVICE);
  c->flags = flags;
  return CUDA_SUCCESS;
}
/* Waits, frees the device's memory and forgets its error; streams and events stay. */
CUresult cuDevicePrimaryCtxReset(CUdevice device) {
  BEGIN;
  Context* c = contextOf(device);
  CHECK(c, INVALID_DEVICE);
  synchronizeAll(lock, c);
  releaseAll(device);
  c->error = CUDA_SUCCESS;
  c->peers = 1u << device;
  return CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext* context) {
  BEGIN;
  CHECK(context, INVALID_VALUE);
  *context = handle(current());
  return CUDA_SUCCESS;
}
CUresult cuCtxPushCurrent(CUcontext context) {
  BEGIN;
  auto* c = reinterpret_cast<Context*>(context);
  CHECK(isContext(c), INVALID_CONTEXT);
  contexts.push_back(c);
  return CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent(CUcontext* context) {
  BEGIN_CONTEXT;
  if (context) *context = handle(c);
  contexts.pop_back();
  return CUDA_SUCCESS;
}
CUresult cuCtxSetCurrent(CUcontext context) {
  BEGIN;
  auto* c = reinterpret_cast<Context*>(context);
  CHECK(!c || isContext(c), INVALID_CONTEXT);
  if (!contexts.empty()) contexts.pop_back();
  if (c) contexts.push_back(c);
  return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice* device) {
  BEGIN_CONTEXT;
  CHECK(device, INVALID_VALUE);
  *device = c->ordinal;
  return CUDA_SUCCESS;
}
CUresult cuCtxSynchronize(void) {
  BEGIN_CONTEXT;
  TRY(unsafeCall());
  return synchronizeAll(lock, c);
}
CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  BEGIN_CONTEXT;
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return CUDA_SUCCESS;
}
CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned int flags) {
  BEGIN_CONTEXT;
  auto* p = reinterpret_cast<Context*>(peer);
  CHECK(isContext(p) && p != c, INVALID_CONTEXT);
  CHECK(!flags, INVALID_VALUE);
  CHECK(!(c->peers >> p->ordinal & 1), PEER_ACCESS_ALREADY_ENABLED);
  c->peers |= 1u << p->ordinal;
  return CUDA_SUCCESS;
}
CUresult cuCtxDisablePeerAccess(CUcontext peer) {
  BEGIN_CONTEXT;
  auto* p = reinterpret_cast<Context*>(peer);
  CHECK(isContext(p) && p != c, INVALID_CONTEXT);
  CHECK(c->peers >> p->ordinal & 1, PEER_ACCESS_NOT_ENABLED);
  c->peers &= ~(1u << p->ordinal);
  return CUDA_SUCCESS;
}

/* ---- Kernels: the image is not looked at; kernels come, by name, from the libraries that were built for the stand-in
 * ------ */

CUresult cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option*, void**, unsigned int, CUlibraryOption*,
                           void**, unsigned int) {
  BEGIN;
  CHECK(library && code, INVALID_VALUE);
  *library = reinterpret_cast<CUlibrary>(&initialised);
  return CUDA_SUCCESS;
}
CUresult cuLibraryUnload(CUlibrary library) {
  BEGIN;
  CHECK(library, INVALID_HANDLE);
  return CUDA_SUCCESS;
}
CUresult cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name) {
  BEGIN;
  CHECK(kernel && name, INVALID_VALUE);
  CHECK(library, INVALID_HANDLE);
  *kernel = reinterpret_cast<CUkernel>(functionNamed(name));
  return *kernel ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
CUresult cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
  BEGIN_CONTEXT;
  CHECK(function, INVALID_VALUE);
  CHECK(kernel, INVALID_HANDLE);
  *function = reinterpret_cast<CUfunction>(kernel);
  return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int* value, CUfunction_attribute what, CUfunction function) {
  BEGIN;
  CHECK(value, INVALID_VALUE);
  CHECK(function, INVALID_HANDLE);
  *value = what == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024
           : what == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
               ? reinterpret_cast<Function*>(function)->dynamicSharedLimit
               : 0;
  return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute what, int value) {
  BEGIN;
  CHECK(function, INVALID_HANDLE);
  if (what != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
  CHECK(value >= 0 && value <= 227 << 10, INVALID_VALUE);
  reinterpret_cast<Function*>(function)->dynamicSharedLimit = value;
  return CUDA_SUCCESS;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int threads,
                                                     size_t dynamicShared) {
  BEGIN;
  CHECK(blocks && threads > 0, INVALID_VALUE);
  CHECK(function, INVALID_HANDLE);
  const int byThreads = threads > 1024 ? 0 : 1024 / ((threads + 31) / 32 * 32);
  *blocks = (int)std::min<size_t>({(size_t)byThreads, 16, (228 << 10) / (dynamicShared + 1024)});
  return CUDA_SUCCESS;
}
CUresult cuLaunchKernel(CUfunction function, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx,
                        unsigned int by, unsigned int bz, unsigned int shared, CUstream h, void** parameters,
                        void** extra) {
  BEGIN_STREAM(h);
  CHECK(function, INVALID_HANDLE);
  CHECK(!extra, NOT_SUPPORTED);
  return launchKernel(reinterpret_cast<Function*>(function), dim3(gx, gy, gz), dim3(bx, by, bz), shared, s, parameters);
}
CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters, void** extra) {
  CHECK(config, INVALID_VALUE);
  return cuLaunchKernel(function, config->gridDimX, config->gridDimY, config->gridDimZ, config->blockDimX,
                        config->blockDimY, config->blockDimZ, config->sharedMemBytes, config->hStream, parameters,
                        extra);
}
CUresult cuLaunchHostFunc(CUstream h, CUhostFn function, void* data) {
  BEGIN_STREAM(h);
  CHECK(function, INVALID_VALUE);
  return enqueue(s, "host function", [=](Running& r) {
    join(&hostClock, *r.clock);  // it is host code, and may tell others
    r.lock->unlock();
    function(data);
    r.lock->lock();
    running = &r;
  });
}

/* ---- Memory
 * --------------------------------------------------------------------------------------------------------------- */

CUresult cuMemGetInfo(size_t* free, size_t* total) {
  BEGIN_CONTEXT;
  CHECK(free && total, INVALID_VALUE);
  *total = kDeviceBytes;
  *free = kDeviceBytes - c->used;
  return CUDA_SUCCESS;
}
CUresult cuMemAlloc(CUdeviceptr* p, size_t bytes) {
  BEGIN_CONTEXT;
  CHECK(p, INVALID_VALUE);
  TRY(unsafeCall());
  return allocate(c->ordinal, bytes, p);
}
CUresult cuMemAllocPitch(CUdeviceptr* p, size_t* pitch, size_t width, size_t height, unsigned int) {
  CHECK(pitch && width && height, INVALID_VALUE);
  *pitch = (width + 511) / 512 * 512;
  return cuMemAlloc(p, *pitch * height);
}
// Memory of the host, which devices reach at the same address.
CUresult cuMemAllocManaged(CUdeviceptr* p, size_t bytes, unsigned int flags) {
  BEGIN_CONTEXT;
  CHECK(p && bytes && (flags == CU_MEM_ATTACH_GLOBAL || flags == CU_MEM_ATTACH_HOST), INVALID_VALUE);
  TRY(unsafeCall());
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(at != MAP_FAILED, OUT_OF_MEMORY);
  *p = (CUdeviceptr)at;
  hostMemory()[*p] = {bytes, 0, true, true, c->ordinal};
  return CUDA_SUCCESS;
}
CUresult cuMemFree(CUdeviceptr p) {
  BEGIN;
  if (!p) return CUDA_SUCCESS;
  TRY(unsafeCall());
  if (const auto managed = hostMemory().find(p); managed != hostMemory().end() && managed->second.managed) {
    for (int d = 0; d < deviceCount(); d++) synchronizeAll(lock, contextOf(d));
    munmap((void*)p, managed->second.size);
    hostMemory().erase(managed);
    return CUDA_SUCCESS;
  }
  Allocation* a = liveAllocation(p);
  if (!a || a->device != p) {
    fprintf(stderr, "simgpu: refused: cuMemFree of %s\n", describe(p).c_str());
    return CUDA_ERROR_INVALID_VALUE;
  }
  Context* c = contextOf(a->ordinal);
  synchronizeAll(lock, c);
  release(a);
  return c->error;
}
/* Pools: of a device, and of stream-ordered allocations only. What peers may do is not told apart by pool: one that may
 * access a pool may access the device. */
static std::shared_ptr<Pool> newPool(int device) {
  auto pool = std::make_shared<Pool>();
  pool->device = device;
  for (auto reuse : {CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES, CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC,
                     CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES})
    pool->settings[reuse] = 1;
  pool->settings[CU_MEMPOOL_ATTR_RELEASE_THRESHOLD] = 0;
  return pool;
}
static void openPools(Context* c) {
  if (c->pool) return;
  CUmemoryPool ignored;
  c->pool = c->newestPool = newPool(c->ordinal);
  put(c->pool, &ignored);
}
static CUresult poolOf(CUmemoryPool* pool, CUdevice device, std::shared_ptr<Pool> Context::*which) {
  BEGIN;
  Context* c = contextOf(device);
  CHECK(pool, INVALID_VALUE);
  CHECK(c, INVALID_DEVICE);
  openPools(c);
  *pool = reinterpret_cast<CUmemoryPool>((c->*which).get());
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice device) { return poolOf(pool, device, &Context::pool); }
CUresult cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice device) { return poolOf(pool, device, &Context::newestPool); }
CUresult cuDeviceSetMemPool(CUdevice device, CUmemoryPool h) {
  BEGIN;
  Context* c = contextOf(device);
  auto pool = get<Pool>(h);
  CHECK(c, INVALID_DEVICE);
  CHECK(pool && pool->device == device, INVALID_VALUE);
  openPools(c);
  c->newestPool = pool;
  return CUDA_SUCCESS;
}
CUresult cuMemPoolCreate(CUmemoryPool* h, const CUmemPoolProps* props) {
  BEGIN;
  CHECK(h && props && props->allocType == CU_MEM_ALLOCATION_TYPE_PINNED, INVALID_VALUE);
  CHECK(props->location.type == CU_MEM_LOCATION_TYPE_DEVICE && !props->handleTypes, NOT_SUPPORTED);
  CHECK(contextOf(props->location.id), INVALID_DEVICE);
  put(newPool(props->location.id), h);
  return CUDA_SUCCESS;
}
CUresult cuMemPoolDestroy(CUmemoryPool h) {
  BEGIN;
  auto pool = get<Pool>(h);
  CHECK(pool, INVALID_VALUE);
  Context* c = contextOf(pool->device);
  CHECK(pool != c->pool, INVALID_VALUE);
  if (c->newestPool == pool) c->newestPool = c->pool;
  live<Pool>().erase(pool.get());
  return CUDA_SUCCESS;
}
CUresult cuMemPoolTrimTo(CUmemoryPool h, size_t) {
  BEGIN;
  CHECK(get<Pool>(h), INVALID_VALUE);
  return CUDA_SUCCESS;
}
static bool isFlag(CUmemPool_attribute what) { return what <= CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES; }
CUresult cuMemPoolSetAttribute(CUmemoryPool h, CUmemPool_attribute what, void* value) {
  BEGIN;
  auto pool = get<Pool>(h);
  CHECK(pool && value, INVALID_VALUE);
  const uint64_t given = isFlag(what) ? (uint64_t) * (int*)value : *(cuuint64_t*)value;
  if (what == CU_MEMPOOL_ATTR_USED_MEM_HIGH || what == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH) {
    CHECK(!given, INVALID_VALUE);
    pool->high = pool->used;
    return CUDA_SUCCESS;
  }
  CHECK(pool->settings.count(what), INVALID_VALUE);
  pool->settings[what] = given;
  return CUDA_SUCCESS;
}
CUresult cuMemPoolGetAttribute(CUmemoryPool h, CUmemPool_attribute what, void* value) {
  BEGIN;
  auto pool = get<Pool>(h);
  CHECK(pool && value, INVALID_VALUE);
  switch (what) {
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
      *(cuuint64_t*)value = pool->used;
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
      *(cuuint64_t*)value = pool->high;
      return CUDA_SUCCESS;
    default:
      CHECK(pool->settings.count(what), INVALID_VALUE);
      if (isFlag(what))
        *(int*)value = (int)pool->settings[what];
      else
        *(cuuint64_t*)value = pool->settings[what];
      return CUDA_SUCCESS;
  }
}
CUresult cuMemPoolSetAccess(CUmemoryPool h, const CUmemAccessDesc* list, size_t count) {
  BEGIN;
  auto pool = get<Pool>(h);
  CHECK(pool && (list || !count), INVALID_VALUE);
  for (size_t i = 0; i < count; i++) {
    Context* c = list[i].location.type == CU_MEM_LOCATION_TYPE_DEVICE ? contextOf(list[i].location.id) : nullptr;
    CHECK(c, INVALID_DEVICE);
    const bool may = list[i].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    CHECK(may || c->ordinal != pool->device, INVALID_VALUE);
    if (may) pool->peers.insert(c->ordinal), c->pools |= 1u << pool->device;
    if (!may) pool->peers.erase(c->ordinal);
  }
  return CUDA_SUCCESS;
}
CUresult cuMemPoolGetAccess(CUmemAccess_flags* flags, CUmemoryPool h, CUmemLocation* location) {
  BEGIN;
  auto pool = get<Pool>(h);
  CHECK(pool && flags && location && location->type == CU_MEM_LOCATION_TYPE_DEVICE, INVALID_VALUE);
  *flags = location->id == pool->device || pool->peers.count(location->id) ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                                                                           : CU_MEM_ACCESS_FLAGS_PROT_NONE;
  return CUDA_SUCCESS;
}
static CUresult allocateFrom(std::shared_ptr<Pool> pool, const Stream* s, CUdeviceptr* p, size_t bytes) {
  CHECK(p && pool, INVALID_VALUE);
  if (s->capture) return unserved("memory that a graph allocates or frees");
  return allocate(pool->device, bytes, p, pool);
}
CUresult cuMemAllocFromPoolAsync(CUdeviceptr* p, size_t bytes, CUmemoryPool h, CUstream stream) {
  BEGIN_STREAM(stream);
  return allocateFrom(get<Pool>(h), s, p, bytes);
}
CUresult cuMemAllocAsync(CUdeviceptr* p, size_t bytes, CUstream h) {
  BEGIN_STREAM(h);
  openPools(s->context);
  return allocateFrom(s->context->newestPool, s, p, bytes);
}
CUresult cuMemFreeAsync(CUdeviceptr p, CUstream h) {
  BEGIN_STREAM(h);
  if (!p) return CUDA_SUCCESS;
  if (s->capture) return unserved("memory that a graph allocates or frees");
  Allocation* a = liveAllocation(p);
  if (!a || a->device != p) {
    fprintf(stderr, "simgpu: refused: cuMemFreeAsync of %s\n", describe(p).c_str());
    return CUDA_ERROR_INVALID_VALUE;
  }
  return enqueue(s, "free", [=](Running&) {
    if (touch(p, a->size, true, false, "a free")) release(a);
  });
}
CUresult cuMemHostAlloc(void** p, size_t bytes, unsigned int flags) {
  BEGIN_CONTEXT;
  CHECK(p && bytes, INVALID_VALUE);
  TRY(unsafeCall());
  *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(*p != MAP_FAILED, OUT_OF_MEMORY);
  hostMemory()[(uintptr_t)*p] = {bytes, flags, true};
  return CUDA_SUCCESS;
}
CUresult cuMemAllocHost(void** p, size_t bytes) { return cuMemHostAlloc(p, bytes, 0); }
CUresult cuMemFreeHost(void* p) {
  BEGIN;
  if (!p) return CUDA_SUCCESS;
  TRY(unsafeCall());
  const auto found = hostMemory().find((uintptr_t)p);
  CHECK(found != hostMemory().end() && found->second.ours && !found->second.managed, INVALID_VALUE);
  for (int d = 0; d < deviceCount(); d++) synchronizeAll(lock, contextOf(d));
  munmap(p, found->second.size);
  hostMemory().erase(found);
  return CUDA_SUCCESS;
}
CUresult cuMemHostRegister(void* p, size_t bytes, unsigned int flags) {
  BEGIN_CONTEXT;
  CHECK(p && bytes, INVALID_VALUE);
  CHECK(!hostAt((uintptr_t)p, 1), HOST_MEMORY_ALREADY_REGISTERED);
  hostMemory()[(uintptr_t)p] = {bytes, flags, false};
  return CUDA_SUCCESS;
}
CUresult cuMemHostUnregister(void* p) {
  BEGIN;
  const auto found = hostMemory().find((uintptr_t)p);
  CHECK(found != hostMemory().end() && !found->second.ours, HOST_MEMORY_NOT_REGISTERED);
  hostMemory().erase(found);
  return CUDA_SUCCESS;
}
CUresult cuMemHostGetDevicePointer(CUdeviceptr* device, void* p, unsigned int flags) {
  BEGIN;
  CHECK(device && !flags && hostAt((uintptr_t)p, 1), INVALID_VALUE);
  *device = (uintptr_t)p;
  return CUDA_SUCCESS;
}
CUresult cuMemHostGetFlags(unsigned int* flags, void* p) {
  BEGIN;
  const auto* entry = hostAt((uintptr_t)p, 1);
  CHECK(flags && entry, INVALID_VALUE);
  *flags = entry->second.flags;
  return CUDA_SUCCESS;
}

CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  BEGIN_STREAM(nullptr);
  return copy(lock, {to}, {from}, {bytes}, s, true);
}
CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream h) {
  BEGIN_STREAM(h);
  return copy(lock, {to}, {from}, {bytes}, s, false);
}
CUresult cuMemcpyPeer(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes) {
  return cuMemcpy(to, from, bytes);
}
CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes, CUstream h) {
  return cuMemcpyAsync(to, from, bytes, h);
}
CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) { return cuMemcpy(to, (uintptr_t)from, bytes); }
CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) { return cuMemcpy((uintptr_t)to, from, bytes); }
CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) { return cuMemcpy(to, from, bytes); }
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream h) {
  return cuMemcpyAsync(to, (uintptr_t)from, bytes, h);
}
CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream h) {
  return cuMemcpyAsync((uintptr_t)to, from, bytes, h);
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream h) {
  return cuMemcpyAsync(to, from, bytes, h);
}
CUresult cuMemcpy3D(const CUDA_MEMCPY3D* c) { return copyBox(c, nullptr, true); }
CUresult cuMemcpy3DAsync(const CUDA_MEMCPY3D* c, CUstream h) { return copyBox(c, h, false); }
static CUDA_MEMCPY3D boxOf(const CUDA_MEMCPY2D& c) {
  CUDA_MEMCPY3D box = {};
#define SAME(member) box.member = c.member
  SAME(srcXInBytes), SAME(srcY), SAME(srcMemoryType), SAME(srcHost), SAME(srcDevice), SAME(srcArray), SAME(srcPitch);
  SAME(dstXInBytes), SAME(dstY), SAME(dstMemoryType), SAME(dstHost), SAME(dstDevice), SAME(dstArray), SAME(dstPitch);
  SAME(WidthInBytes), SAME(Height);
#undef SAME
  box.Depth = 1;
  return box;
}
CUresult cuMemcpy2D(const CUDA_MEMCPY2D* c) {
  CHECK(c, INVALID_VALUE);
  const CUDA_MEMCPY3D box = boxOf(*c);
  return cuMemcpy3D(&box);
}
CUresult cuMemcpy2DUnaligned(const CUDA_MEMCPY2D* c) { return cuMemcpy2D(c); }
CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D* c, CUstream h) {
  CHECK(c, INVALID_VALUE);
  const CUDA_MEMCPY3D box = boxOf(*c);
  return cuMemcpy3DAsync(&box, h);
}
CUresult cuMemsetD2D8(CUdeviceptr p, size_t pitch, unsigned char v, size_t width, size_t height) {
  return fill({p, pitch}, v, {width, height}, nullptr, true);
}
CUresult cuMemsetD2D8Async(CUdeviceptr p, size_t pitch, unsigned char v, size_t width, size_t height, CUstream h) {
  return fill({p, pitch}, v, {width, height}, h, false);
}
CUresult cuMemsetD8(CUdeviceptr p, unsigned char v, size_t n) { return fill(p, v, n, nullptr, true); }
CUresult cuMemsetD16(CUdeviceptr p, unsigned short v, size_t n) { return fill(p, v, n, nullptr, true); }
CUresult cuMemsetD32(CUdeviceptr p, unsigned int v, size_t n) { return fill(p, v, n, nullptr, true); }
CUresult cuMemsetD8Async(CUdeviceptr p, unsigned char v, size_t n, CUstream h) { return fill(p, v, n, h, false); }
CUresult cuMemsetD16Async(CUdeviceptr p, unsigned short v, size_t n, CUstream h) { return fill(p, v, n, h, false); }
CUresult cuMemsetD32Async(CUdeviceptr p, unsigned int v, size_t n, CUstream h) { return fill(p, v, n, h, false); }

CUresult cuPointerGetAttribute(void* data, CUpointer_attribute what, CUdeviceptr p) {
  BEGIN;
  CHECK(data, INVALID_VALUE);
  const Allocation* a = liveAllocation(p);
  const auto* host = hostAt(p, 1);
  CHECK(a || host, INVALID_VALUE);
  switch (what) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      *(CUcontext*)data = handle(contextOf(a ? a->ordinal : host->second.device));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      *(unsigned int*)data = a || host->second.managed ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      *(CUdeviceptr*)data = p;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      CHECK(host, INVALID_VALUE);
      *(void**)data = (void*)p;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      *(int*)data = a ? a->ordinal : host->second.device;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      *(unsigned int*)data = host && host->second.managed;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
      CHECK(a, INVALID_VALUE);
      *(unsigned long long*)data = a->number;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      *(CUdeviceptr*)data = a ? a->device : host->first;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      *(size_t*)data = a ? a->size : host->second.size;
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
}

/* ---- Streams and events
 * ------------------------------------------------------------------------------------------------------ */

CUresult cuStreamCreateWithPriority(CUstream* h, unsigned int flags, int priority) {
  BEGIN_CONTEXT;
  CHECK(h && flags <= CU_STREAM_NON_BLOCKING, INVALID_VALUE);
  *h = reinterpret_cast<CUstream>(newStream(c, flags, std::clamp(priority, -5, 0)).get());
  return CUDA_SUCCESS;
}
CUresult cuStreamCreate(CUstream* h, unsigned int flags) { return cuStreamCreateWithPriority(h, flags, 0); }
CUresult cuStreamDestroy(CUstream h) {
  BEGIN_STREAM(h);
  CHECK(h && h != CU_STREAM_LEGACY && h != CU_STREAM_PER_THREAD, INVALID_HANDLE);
  CHECK(!s->capture, STREAM_CAPTURE_UNSUPPORTED);
  destroyStream(s);
  return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream h) {
  BEGIN_STREAM(h);
  return synchronize(lock, s);
}
CUresult cuStreamQuery(CUstream h) {
  BEGIN_STREAM(h);
  if (s->capture) return synchronize(lock, s);
  CHECK(s->last->done, NOT_READY);
  join(&hostClock, s->last->clock);
  return s->context->error;
}
CUresult cuStreamGetFlags(CUstream h, unsigned int* flags) {
  BEGIN_STREAM(h);
  CHECK(flags, INVALID_VALUE);
  *flags = s->flags;
  return CUDA_SUCCESS;
}
CUresult cuStreamGetPriority(CUstream h, int* priority) {
  BEGIN_STREAM(h);
  CHECK(priority, INVALID_VALUE);
  *priority = s->priority;
  return CUDA_SUCCESS;
}
CUresult cuStreamGetId(CUstream h, unsigned long long* id) {
  BEGIN_STREAM(h);
  CHECK(id, INVALID_VALUE);
  *id = s->number;
  return CUDA_SUCCESS;
}
CUresult cuStreamGetCtx(CUstream h, CUcontext* context) {
  BEGIN_STREAM(h);
  CHECK(context, INVALID_VALUE);
  *context = handle(s->context);
  return CUDA_SUCCESS;
}
CUresult cuStreamGetDevice(CUstream h, CUdevice* device) {
  BEGIN_STREAM(h);
  CHECK(device, INVALID_VALUE);
  *device = s->context->ordinal;
  return CUDA_SUCCESS;
}
CUresult cuEventCreate(CUevent* h, unsigned int flags) {
  BEGIN_CONTEXT;
  CHECK(h, INVALID_VALUE);
  auto e = std::make_shared<Event>();
  e->flags = flags;
  e->device = c->ordinal;
  put(e, h);
  return CUDA_SUCCESS;
}
CUresult cuEventDestroy(CUevent h) {
  BEGIN;
  CHECK(live<Event>().erase(reinterpret_cast<Event*>(h)), INVALID_HANDLE);
  return CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent h, CUstream stream) {
  BEGIN_STREAM(stream);
  auto e = get<Event>(h);
  CHECK(e && e->device == s->context->ordinal, INVALID_HANDLE);
  return recordEvent(s, e.get());
}
CUresult cuEventRecordWithFlags(CUevent h, CUstream stream, unsigned int) { return cuEventRecord(h, stream); }
CUresult cuStreamWaitEvent(CUstream stream, CUevent h, unsigned int) {
  BEGIN_STREAM(stream);
  auto e = get<Event>(h);
  CHECK(e, INVALID_HANDLE);
  return waitEvent(s, e.get());
}
CUresult cuEventQuery(CUevent h) {
  BEGIN;
  auto e = get<Event>(h);
  CHECK(e, INVALID_HANDLE);
  CHECK(!e->capture, CAPTURED_EVENT);
  if (!e->mark) return CUDA_SUCCESS;
  CHECK(e->mark->done, NOT_READY);
  join(&hostClock, e->mark->clock);
  return contextOf(e->device)->error;
}
CUresult cuEventSynchronize(CUevent h) {
  BEGIN;
  auto e = get<Event>(h);
  CHECK(e, INVALID_HANDLE);
  CHECK(!e->capture, CAPTURED_EVENT);
  if (e->mark) await(lock, MarkPtr(e->mark));
  return contextOf(e->device)->error;
}
CUresult cuEventElapsedTime(float* milliseconds, CUevent from, CUevent to) {
  BEGIN;
  auto a = get<Event>(from), b = get<Event>(to);
  CHECK(milliseconds, INVALID_VALUE);
  CHECK(a && b && a->mark && b->mark && !((a->flags | b->flags) & CU_EVENT_DISABLE_TIMING), INVALID_HANDLE);
  CHECK(a->mark->done && b->mark->done, NOT_READY);
  *milliseconds = (float)(1e3 * (b->mark->seconds - a->mark->seconds));
  return CUDA_SUCCESS;
}

/* ---- Capture and graphs
 * ------------------------------------------------------------------------------------------------------- */

CUresult cuStreamBeginCapture(CUstream h, CUstreamCaptureMode mode) {
  BEGIN_STREAM(h);
  return beginCapture(s, mode);
}
CUresult cuStreamEndCapture(CUstream h, CUgraph* graph) {
  BEGIN_STREAM(h);
  CHECK(graph, INVALID_VALUE);
  *graph = nullptr;
  std::shared_ptr<Graph> g;
  TRY(endCapture(s, &g));
  put(g, graph);
  return CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(CUstream h, CUstreamCaptureStatus* status) { return captureInfo(h, status, nullptr); }
static CUresult captureInfo1(CUstream h, CUstreamCaptureStatus* status, cuuint64_t* id) {
  return captureInfo(h, status, id);
}
/* The graph of a capture takes user objects; for all else it is not there before the capture's end. */
static CUresult captureInfo2(CUstream h, CUstreamCaptureStatus* status, cuuint64_t* id, CUgraph* graph,
                             const CUgraphNode** dependencies, size_t* count) {
  if (dependencies || count) return unserved("what the next node of a capture comes after");
  TRY(captureInfo(h, status, id));
  BEGIN_STREAM(h);
  if (graph && s->capture) *graph = reinterpret_cast<CUgraph>(s->capture->graph.get());
  return CUDA_SUCCESS;
}
CUresult cuStreamGetCaptureInfo(CUstream h, CUstreamCaptureStatus* status, cuuint64_t* id, CUgraph* graph,
                                const CUgraphNode** dependencies, const CUgraphEdgeData** edges, size_t* count) {
  CHECK(!edges, NOT_SUPPORTED);
  return captureInfo2(h, status, id, graph, dependencies, count);
}
CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  CHECK(mode, INVALID_VALUE);
  std::swap(captureMode(), *mode);
  return CUDA_SUCCESS;
}
CUresult cuGraphGetNodes(CUgraph h, CUgraphNode* nodes, size_t* count) {
  BEGIN;
  auto g = get<Graph>(h);
  CHECK(g, INVALID_HANDLE);
  CHECK(count, INVALID_VALUE);
  if (nodes) return unserved("a graph's list of nodes");
  *count = g->nodes.size();
  return CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec* h, CUgraph graph, unsigned long long) {
  BEGIN;
  auto g = get<Graph>(graph);
  CHECK(g, INVALID_HANDLE);
  CHECK(h, INVALID_VALUE);
  auto e = std::make_shared<Executable>();
  e->graph = g;
  e->objects = g->objects;
  for (int lane = 0; lane < g->lanes; lane++) e->streams.push_back(newStreamNumber());
  e->sequences.resize((size_t)g->lanes);
  put(e, h);
  return CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithParams(CUgraphExec* h, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  CHECK(params, INVALID_VALUE);
  const CUresult error = cuGraphInstantiateWithFlags(h, graph, params->flags);
  params->hErrNode_out = nullptr;
  params->result_out = error == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
  return error;
}
CUresult cuGraphUpload(CUgraphExec h, CUstream stream) {
  BEGIN_STREAM(stream);
  CHECK(get<Executable>(h), INVALID_HANDLE);
  return CUDA_SUCCESS;
}
CUresult cuGraphClone(CUgraph* clone, CUgraph original) {
  BEGIN;
  auto g = get<Graph>(original);
  CHECK(g && clone, INVALID_VALUE);
  put(std::make_shared<Graph>(*g), clone);
  return CUDA_SUCCESS;
}
/* The new graph must have the same nodes with the same edges. */
CUresult cuGraphExecUpdate(CUgraphExec h, CUgraph graph, CUgraphExecUpdateResultInfo* info) {
  BEGIN;
  auto e = get<Executable>(h);
  auto g = get<Graph>(graph);
  CHECK(e && g, INVALID_HANDLE);
  CHECK(info, INVALID_VALUE);
  *info = {};
  auto kind = [](const Node& n) { return n.name.substr(0, n.name.find(' ')); };
  const auto &before = e->graph->nodes, &after = g->nodes;
  info->result = CU_GRAPH_EXEC_UPDATE_SUCCESS;
  if (before.size() != after.size() || e->graph->lanes != g->lanes)
    info->result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
  for (size_t i = 0; info->result == CU_GRAPH_EXEC_UPDATE_SUCCESS && i < before.size(); i++) {
    if (before[i].after != after[i].after || before[i].lane != after[i].lane)
      info->result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    else if (kind(before[i]) != kind(after[i]))
      info->result = CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
  }
  CHECK(info->result == CU_GRAPH_EXEC_UPDATE_SUCCESS, GRAPH_EXEC_UPDATE_FAILURE);
  e->graph = g;
  e->objects = g->objects;
  return CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec h, CUstream stream) {
  BEGIN_STREAM(stream);
  auto e = get<Executable>(h);
  CHECK(e, INVALID_HANDLE);
  return launchGraph(e.get(), s);
}
CUresult cuGraphExecDestroy(CUgraphExec h) {
  BEGIN;
  CHECK(live<Executable>().erase(reinterpret_cast<Executable*>(h)), INVALID_HANDLE);
  return CUDA_SUCCESS;
}
CUresult cuGraphDestroy(CUgraph h) {
  BEGIN;
  CHECK(live<Graph>().erase(reinterpret_cast<Graph*>(h)), INVALID_HANDLE);
  return CUDA_SUCCESS;
}

/* ---- User objects ------------------------------------------------------------------------------------------------ */

static auto& userObjects = *new std::map<UserObject*, std::weak_ptr<UserObject>>;
static UserObjectPtr userObject(CUuserObject h) {
  const auto found = userObjects.find(reinterpret_cast<UserObject*>(h));
  return found == userObjects.end() ? nullptr : found->second.lock();
}
/* So many times more, or less, in the program's hands. */
static CUresult hold(const UserObjectPtr& object, int64_t count) {
  CHECK(object && count && (int64_t)object->held + count >= 0, INVALID_VALUE);
  object->held = (unsigned)((int64_t)object->held + count);
  if (object->held)
    live<UserObject>()[object.get()] = object;
  else
    live<UserObject>().erase(object.get());
  return CUDA_SUCCESS;
}
CUresult cuUserObjectCreate(CUuserObject* h, void* data, CUhostFn destroy, unsigned count, unsigned flags) {
  BEGIN;
  CHECK(h && destroy && count && count <= INT_MAX && flags == CU_USER_OBJECT_NO_DESTRUCTOR_SYNC, INVALID_VALUE);
  const UserObjectPtr object = newUserObject(data, destroy, current() ? current()->ordinal : 0);
  userObjects[object.get()] = object;
  *h = reinterpret_cast<CUuserObject>(object.get());
  return hold(object, count);
}
CUresult cuUserObjectRetain(CUuserObject h, unsigned count) {
  BEGIN;
  return hold(userObject(h), count);
}
CUresult cuUserObjectRelease(CUuserObject h, unsigned count) {
  BEGIN;
  return hold(userObject(h), -(int64_t)count);
}
CUresult cuGraphRetainUserObject(CUgraph graph, CUuserObject h, unsigned count, unsigned flags) {
  BEGIN;
  auto g = get<Graph>(graph);
  if (!g) g = graphUnderCapture(reinterpret_cast<Graph*>(graph));
  const UserObjectPtr object = userObject(h);
  CHECK(g && object && count && !(flags & ~(unsigned)CU_GRAPH_USER_OBJECT_MOVE), INVALID_VALUE);
  if (flags) TRY(hold(object, -(int64_t)count));
  holdInGraph(g, object, count);
  return CUDA_SUCCESS;
}
CUresult cuGraphReleaseUserObject(CUgraph graph, CUuserObject h, unsigned count) {
  BEGIN;
  auto g = get<Graph>(graph);
  CHECK(g && count, INVALID_VALUE);
  const auto at = g->objects.find(userObject(h));
  CHECK(at != g->objects.end() && at->second >= count, INVALID_VALUE);
  if (!(at->second -= count)) g->objects.erase(at);
  return CUDA_SUCCESS;
}

/* ---- For libnccl ------------------------------------------------------------------------------------------------- */

CUresult simgpuEnqueue(CUstream h, const char* name, const void* order, void (*run)(void*, void*), void (*drop)(void*),
                       void* data) {
  const std::shared_ptr<void> kept(data, drop);
  BEGIN_STREAM(h);
  return enqueue(
      s, name,
      [run, kept](Running& r) {
        r.lock->unlock();
        run(&r, kept.get());
        r.lock->lock();
        running = &r;
      },
      {}, order);
}
void simgpuDrain(const void* order) {
  Lock lock(theMutex);
  if (const MarkPtr mark = newestOf()[order]) await(lock, mark);
  newestOf().erase(order);
}
static bool access(void* operation, CUdeviceptr p, size_t bytes, bool writes) {
  running = static_cast<Running*>(operation);
  return isDevice(p) ? touch(p, bytes, writes, false, "a collective") : hostAt(p, bytes) != nullptr;
}
bool simgpuRead(void* operation, void* to, CUdeviceptr from, size_t bytes) {
  Lock lock(theMutex);
  if (!access(operation, from, bytes, false)) return false;
  memcpy(to, (const void*)(isDevice(from) ? from + kSpan : from), bytes);
  return true;
}
bool simgpuWrite(void* operation, CUdeviceptr to, const void* from, size_t bytes) {
  Lock lock(theMutex);
  if (!access(operation, to, bytes, true)) return false;
  memcpy((void*)(isDevice(to) ? to + kSpan : to), from, bytes);
  return true;
}
CUresult simgpuTolerate(CUdeviceptr p) {
  BEGIN;
  const Allocation* a = liveAllocation(p);
  CHECK(a, INVALID_VALUE);
  tolerate(a);
  return CUDA_SUCCESS;
}
CUresult simgpuSettle(CUstream h) {
  BEGIN_STREAM(h);
  if (!s->capture) s->context->settled = s->last;
  return CUDA_SUCCESS;
}
int simgpuDeviceOf(CUstream h) {
  CUdevice device = -1;
  return cuStreamGetDevice(h, &device) == CUDA_SUCCESS ? device : -1;
}

}  // extern "C"

/* ---- By name and version
 * ------------------------------------------------------------------------------------------------------- */

namespace {

// The same function, for which stream 0 is the thread's own.
template <auto function>
struct PerThread;
template <typename... A, CUresult (*function)(A...)>
struct PerThread<function> {
  static CUresult call(A... arguments) {
    perThread = true;
    const CUresult result = function(arguments...);
    perThread = false;
    return result;
  }
};

struct Entry {
  const char* name;
  int version; /* of the interface */
  void *function, *perThread;
};
/* #name is not expanded: where the header renames a function (cuMemAlloc is cuMemAlloc_v2), the table has its first
 * name. */
#define PLAIN(name, version) \
  { #name, version, (void*)&name, (void*)&name }
#define STREAM(name, version) \
  { #name, version, (void*)&name, (void*)&PerThread < name> ::call }
#define NAMED(name, version, function) \
  { name, version, (void*)&function, (void*)&PerThread<function>::call }
const Entry kEntries[] = {
    PLAIN(cuInit, 2000),
    PLAIN(cuDriverGetVersion, 2020),
    PLAIN(cuGetErrorName, 6000),
    PLAIN(cuGetErrorString, 6000),
    PLAIN(cuGetExportTable, 3000),
    PLAIN(cuGetProcAddress, 12000),
    PLAIN(cuDeviceGetCount, 2000),
    PLAIN(cuDeviceGet, 2000),
    PLAIN(cuDeviceGetName, 2000),
    PLAIN(cuDeviceGetUuid, 11040),
    PLAIN(cuDeviceTotalMem, 3020),
    PLAIN(cuDeviceGetPCIBusId, 4010),
    PLAIN(cuDeviceGetByPCIBusId, 4010),
    PLAIN(cuDeviceGetAttribute, 2000),
    PLAIN(cuDeviceCanAccessPeer, 4000),
    PLAIN(cuDeviceGetP2PAttribute, 8000),
    PLAIN(cuDevicePrimaryCtxRetain, 7000),
    PLAIN(cuDevicePrimaryCtxRelease, 11000),
    PLAIN(cuDevicePrimaryCtxReset, 11000),
    PLAIN(cuDevicePrimaryCtxSetFlags, 11000),
    PLAIN(cuDevicePrimaryCtxGetState, 7000),
    PLAIN(cuCtxGetCurrent, 4000),
    PLAIN(cuCtxSetCurrent, 4000),
    PLAIN(cuCtxPushCurrent, 4000),
    PLAIN(cuCtxPopCurrent, 4000),
    PLAIN(cuCtxGetDevice, 2000),
    PLAIN(cuCtxSynchronize, 2000),
    PLAIN(cuCtxGetStreamPriorityRange, 5050),
    PLAIN(cuCtxEnablePeerAccess, 4000),
    PLAIN(cuCtxDisablePeerAccess, 4000),
    PLAIN(cuLibraryLoadData, 12000),
    PLAIN(cuLibraryUnload, 12000),
    PLAIN(cuLibraryGetKernel, 12000),
    PLAIN(cuKernelGetFunction, 12000),
    PLAIN(cuFuncGetAttribute, 2020),
    PLAIN(cuFuncSetAttribute, 9000),
    PLAIN(cuOccupancyMaxActiveBlocksPerMultiprocessor, 6050),
    STREAM(cuLaunchKernel, 4000),
    STREAM(cuLaunchKernelEx, 11060),
    STREAM(cuLaunchHostFunc, 10000),
    PLAIN(cuMemGetInfo, 3020),
    PLAIN(cuMemAlloc, 3020),
    PLAIN(cuMemAllocPitch, 3020),
    PLAIN(cuMemAllocManaged, 6000),
    PLAIN(cuMemFree, 3020),
    STREAM(cuMemAllocAsync, 11020),
    STREAM(cuMemAllocFromPoolAsync, 11020),
    STREAM(cuMemFreeAsync, 11020),
    PLAIN(cuDeviceGetDefaultMemPool, 11020),
    PLAIN(cuDeviceGetMemPool, 11020),
    PLAIN(cuDeviceSetMemPool, 11020),
    PLAIN(cuMemPoolCreate, 11020),
    PLAIN(cuMemPoolDestroy, 11020),
    PLAIN(cuMemPoolTrimTo, 11020),
    PLAIN(cuMemPoolSetAttribute, 11020),
    PLAIN(cuMemPoolGetAttribute, 11020),
    PLAIN(cuMemPoolSetAccess, 11020),
    PLAIN(cuMemPoolGetAccess, 11020),
    PLAIN(cuMemHostAlloc, 2020),
    PLAIN(cuMemAllocHost, 3020),
    PLAIN(cuMemFreeHost, 2000),
    PLAIN(cuMemHostRegister, 6050),
    PLAIN(cuMemHostUnregister, 4000),
    PLAIN(cuMemHostGetDevicePointer, 3020),
    PLAIN(cuMemHostGetFlags, 2030),
    STREAM(cuMemcpy, 4000),
    STREAM(cuMemcpyAsync, 4000),
    STREAM(cuMemcpyPeer, 4000),
    STREAM(cuMemcpyPeerAsync, 4000),
    STREAM(cuMemcpyHtoD, 3020),
    STREAM(cuMemcpyDtoH, 3020),
    STREAM(cuMemcpyDtoD, 3020),
    STREAM(cuMemcpyHtoDAsync, 3020),
    STREAM(cuMemcpyDtoHAsync, 3020),
    STREAM(cuMemcpyDtoDAsync, 3020),
    STREAM(cuMemcpy2D, 3020),
    STREAM(cuMemcpy2DUnaligned, 3020),
    STREAM(cuMemcpy2DAsync, 3020),
    STREAM(cuMemcpy3D, 3020),
    STREAM(cuMemcpy3DAsync, 3020),
    STREAM(cuMemsetD2D8, 3020),
    STREAM(cuMemsetD2D8Async, 3020),
    STREAM(cuMemsetD8, 3020),
    STREAM(cuMemsetD16, 3020),
    STREAM(cuMemsetD32, 3020),
    STREAM(cuMemsetD8Async, 3020),
    STREAM(cuMemsetD16Async, 3020),
    STREAM(cuMemsetD32Async, 3020),
    PLAIN(cuPointerGetAttribute, 4000),
    PLAIN(cuStreamCreate, 2000),
    PLAIN(cuStreamCreateWithPriority, 5050),
    PLAIN(cuStreamDestroy, 4000),
    STREAM(cuStreamSynchronize, 2000),
    STREAM(cuStreamQuery, 2000),
    STREAM(cuStreamGetFlags, 5050),
    STREAM(cuStreamGetPriority, 5050),
    STREAM(cuStreamGetId, 12000),
    STREAM(cuStreamGetCtx, 9020),
    STREAM(cuStreamGetDevice, 12080),
    PLAIN(cuEventCreate, 2000),
    PLAIN(cuEventDestroy, 4000),
    STREAM(cuEventRecord, 2000),
    STREAM(cuEventRecordWithFlags, 11010),
    STREAM(cuStreamWaitEvent, 3020),
    PLAIN(cuEventQuery, 2000),
    PLAIN(cuEventSynchronize, 2000),
    PLAIN(cuEventElapsedTime, 2000),
    STREAM(cuStreamBeginCapture, 10010),
    STREAM(cuStreamEndCapture, 10000),
    STREAM(cuStreamIsCapturing, 10000),
    NAMED("cuStreamGetCaptureInfo", 10010, captureInfo1),
    NAMED("cuStreamGetCaptureInfo", 11030, captureInfo2),
    STREAM(cuStreamGetCaptureInfo, 12030),
    PLAIN(cuThreadExchangeStreamCaptureMode, 10010),
    PLAIN(cuGraphGetNodes, 10000),
    {"cuGraphInstantiate", 12000, (void*)&cuGraphInstantiateWithFlags, (void*)&cuGraphInstantiateWithFlags},
    PLAIN(cuGraphInstantiateWithFlags, 11040),
    STREAM(cuGraphInstantiateWithParams, 12000),
    STREAM(cuGraphUpload, 11010),
    PLAIN(cuGraphClone, 10000),
    PLAIN(cuGraphExecUpdate, 12000),
    STREAM(cuGraphLaunch, 10000),
    PLAIN(cuGraphExecDestroy, 10000),
    PLAIN(cuGraphDestroy, 10000),
    PLAIN(cuUserObjectCreate, 11030),
    PLAIN(cuUserObjectRetain, 11030),
    PLAIN(cuUserObjectRelease, 11030),
    PLAIN(cuGraphRetainUserObject, 11030),
    PLAIN(cuGraphReleaseUserObject, 11030),
};

}  // namespace

extern "C" CUresult cuGetProcAddress(const char* name, void** function, int version, cuuint64_t flags,
                                     CUdriverProcAddressQueryResult* status) {
  CHECK(name && function, INVALID_VALUE);
  *function = nullptr;
  bool known = false;
  for (const Entry& e : kEntries) {
    if (strcmp(e.name, name)) continue;
    known = true;
    if (e.version <= version)  // the newest that is not newer than what was asked for
      *function = flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM ? e.perThread : e.function;
  }
  if (status)
    *status = *function ? CU_GET_PROC_ADDRESS_SUCCESS
              : known   ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                        : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return known ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
