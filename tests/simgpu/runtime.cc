// libcudart.so.13 of the stand-in: the runtime calls of ordinary programs, on top of the stand-in's libcuda. A call
// that is not here answers cudaErrorNotSupported, and says so (unserved.c).
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "tests/simgpu/service.h"

#pragma GCC visibility push(default)
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"  // deprecated calls are served too

namespace {

/* ---- Errors ------------------------------------------------------------------------------------------------------ */

// Codes are those of the driver, and texts are its too; names are the runtime's own.
const struct {
  cudaError_t error;
  const char* name;
} kErrors[] = {
#define SIMGPU_ERROR(name) {name, #name},
#include "tests/simgpu/errors.inc"
};

thread_local cudaError_t lastError;
thread_local int chosen; /* cudaSetDevice */
thread_local bool perThread;

cudaError_t keep(cudaError_t error) {
  if (error != cudaSuccess) lastError = error;
  return error;
}
cudaError_t keep(CUresult error) { return keep(static_cast<cudaError_t>(error)); }

// The chosen device's primary context becomes the thread's, if it has none.
CUresult begin() {
  const CUresult error = cuInit(0);
  if (error != CUDA_SUCCESS) return error;
  CUcontext context = nullptr;
  cuCtxGetCurrent(&context);
  if (context) return CUDA_SUCCESS;
  const CUresult retained = cuDevicePrimaryCtxRetain(&context, chosen);
  return retained == CUDA_SUCCESS ? cuCtxSetCurrent(context) : retained;
}

#define BEGIN                                        \
  do {                                               \
    const CUresult begun_ = begin();                 \
    if (begun_ != CUDA_SUCCESS) return keep(begun_); \
  } while (0)
#define CALL(expression)     \
  do {                       \
    BEGIN;                   \
    return keep(expression); \
  } while (0)
#define CHECK(condition, error)                      \
  do {                                               \
    if (!(condition)) return keep(cudaError##error); \
  } while (0)

// A call of the runtime that reads as if the host waited for it, though devices go on: programs count on that, and are
// nearly always right.
cudaError_t settled(CUresult error) { return keep(error == CUDA_SUCCESS ? simgpuSettle(nullptr) : error); }

CUstream on(cudaStream_t s) { return !s && perThread ? CU_STREAM_PER_THREAD : s; }
CUdeviceptr address(const void* p) { return reinterpret_cast<CUdeviceptr>(p); }

bool isManaged(const void* p) {
  unsigned managed = 0;
  return cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, address(p)) == CUDA_SUCCESS && managed;
}
// What the caller says of a pointer is true.
bool is(const void* p, bool device) {
  unsigned type = CU_MEMORYTYPE_HOST;
  const bool known = cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address(p)) == CUDA_SUCCESS;
  return device ? known : type == CU_MEMORYTYPE_HOST || isManaged(p);  // page-locked and managed memory is both
}
bool isKind(const void* to, const void* from, cudaMemcpyKind kind) {
  switch (kind) {
    case cudaMemcpyHostToHost:
      return is(to, false) && is(from, false);
    case cudaMemcpyHostToDevice:
      return is(to, true) && is(from, false);
    case cudaMemcpyDeviceToHost:
      return is(to, false) && is(from, true);
    case cudaMemcpyDeviceToDevice:
      return is(to, true) && is(from, true);
    default:
      return kind == cudaMemcpyDefault;
  }
}

/* ---- Kernels of the program ----------------------------------------------------------------------------------------
 */

struct Kernels {
  std::mutex lock;
  std::map<const void*, std::string> names; /* of the host's stubs */
};
Kernels& kernels() {
  static auto& all = *new Kernels;
  return all;
}

// The kernel of that name in the stand-in's kernel libraries.
CUresult functionOf(const void* stub, CUfunction* function) {
  std::string name;
  {
    std::lock_guard<std::mutex> guard(kernels().lock);
    const auto found = kernels().names.find(stub);
    if (found == kernels().names.end()) return CUDA_ERROR_INVALID_IMAGE;
    name = found->second;
  }
  CUlibrary library;
  CUkernel kernel;
  const CUresult error = cuLibraryLoadData(&library, "", nullptr, nullptr, 0, nullptr, nullptr, 0);
  if (error != CUDA_SUCCESS) return error;
  if (cuLibraryGetKernel(&kernel, library, name.c_str()) != CUDA_SUCCESS)
    return static_cast<CUresult>(cudaErrorInvalidDeviceFunction);
  return cuKernelGetFunction(function, kernel);
}

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
thread_local auto& configurations = simgpuKept(new std::vector<Configuration>);

}  // namespace

extern "C" {

const char* cudaGetErrorName(cudaError_t error) {
  for (const auto& each : kErrors)
    if (each.error == error) return each.name;
  return "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t error) {
  const char* text = nullptr;
  switch (error) {  // those that the driver has not
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidMemcpyDirection:
      return "invalid copy direction for memcpy";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorInvalidDeviceFunction:
      return "invalid device function";
    default:
      cuGetErrorString(static_cast<CUresult>(error), &text);
      return text ? text : "unrecognized error code";
  }
}
cudaError_t cudaGetLastError(void) {
  const cudaError_t error = lastError;
  lastError = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError(void) { return lastError; }

__attribute__((visibility("hidden"))) int simgpuUnserved(const char* function) {
  fprintf(stderr, "simgpu: %s is not served by this stand-in: it answers cudaErrorNotSupported\n", function);
  return keep(cudaErrorNotSupported);
}

/* ---- Devices -------------------------------------------------------------------------------------------------------
 */

cudaError_t cudaDriverGetVersion(int* version) { return keep(cuDriverGetVersion(version)); }
cudaError_t cudaRuntimeGetVersion(int* version) {
  CHECK(version, InvalidValue);
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  CHECK(count, InvalidValue);
  *count = 0;
  const CUresult error = cuInit(0);
  return keep(error == CUDA_SUCCESS ? cuDeviceGetCount(count) : error);
}
cudaError_t cudaGetDevice(int* device) {
  CHECK(device, InvalidValue);
  CUcontext context = nullptr;
  *device = chosen;
  if (cuInit(0) == CUDA_SUCCESS && cuCtxGetCurrent(&context) == CUDA_SUCCESS && context) CALL(cuCtxGetDevice(device));
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  const CUresult error = cuInit(0);
  if (error != CUDA_SUCCESS) return keep(error);
  CUcontext context;
  const CUresult retained = cuDevicePrimaryCtxRetain(&context, device);
  if (retained != CUDA_SUCCESS) return keep(retained);
  chosen = device;
  return keep(cuCtxSetCurrent(context));
}
cudaError_t cudaInitDevice(int device, unsigned int, unsigned int) {
  CUcontext context;
  const CUresult error = cuInit(0);
  return keep(error == CUDA_SUCCESS ? cuDevicePrimaryCtxRetain(&context, device) : error);
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int device) {
  CALL(cuDeviceGetAttribute(value, static_cast<CUdevice_attribute>(what), device));
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  CHECK(p, InvalidValue);
  BEGIN;
  memset(p, 0, sizeof *p);
  const CUresult error = cuDeviceGetName(p->name, sizeof p->name, device);
  if (error != CUDA_SUCCESS) return keep(error);
  cuDeviceGetUuid(&p->uuid, device);
  cuDeviceTotalMem(&p->totalGlobalMem, device);
  auto get = [&](CUdevice_attribute what) {
    int value = 0;
    cuDeviceGetAttribute(&value, what, device);
    return value;
  };
#define GET(member, attribute) p->member = static_cast<decltype(p->member)>(get(CU_DEVICE_ATTRIBUTE_##attribute))
  GET(sharedMemPerBlock, MAX_SHARED_MEMORY_PER_BLOCK);
  GET(sharedMemPerBlockOptin, MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
  GET(sharedMemPerMultiprocessor, MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
  GET(reservedSharedMemPerBlock, RESERVED_SHARED_MEMORY_PER_BLOCK);
  GET(regsPerBlock, MAX_REGISTERS_PER_BLOCK);
  GET(regsPerMultiprocessor, MAX_REGISTERS_PER_MULTIPROCESSOR);
  GET(warpSize, WARP_SIZE);
  GET(maxThreadsPerBlock, MAX_THREADS_PER_BLOCK);
  GET(maxThreadsPerMultiProcessor, MAX_THREADS_PER_MULTIPROCESSOR);
  GET(maxBlocksPerMultiProcessor, MAX_BLOCKS_PER_MULTIPROCESSOR);
  const CUdevice_attribute dimensions[] = {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y,
                                           CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X,
                                           CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y,  CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z};
  for (int i = 0; i < 3; i++) {
    p->maxThreadsDim[i] = get(dimensions[i]);
    p->maxGridSize[i] = get(dimensions[3 + i]);
  }
  GET(totalConstMem, TOTAL_CONSTANT_MEMORY);
  GET(major, COMPUTE_CAPABILITY_MAJOR);
  GET(minor, COMPUTE_CAPABILITY_MINOR);
  GET(multiProcessorCount, MULTIPROCESSOR_COUNT);
  GET(memoryBusWidth, GLOBAL_MEMORY_BUS_WIDTH);
  GET(l2CacheSize, L2_CACHE_SIZE);
  GET(canMapHostMemory, CAN_MAP_HOST_MEMORY);
  GET(concurrentKernels, CONCURRENT_KERNELS);
  GET(asyncEngineCount, ASYNC_ENGINE_COUNT);
  GET(unifiedAddressing, UNIFIED_ADDRESSING);
  GET(streamPrioritiesSupported, STREAM_PRIORITIES_SUPPORTED);
  GET(canUseHostPointerForRegisteredMem, CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM);
  GET(managedMemory, MANAGED_MEMORY);
  GET(concurrentManagedAccess, CONCURRENT_MANAGED_ACCESS);
  GET(hostRegisterSupported, HOST_REGISTER_SUPPORTED);
  GET(memoryPoolsSupported, MEMORY_POOLS_SUPPORTED);
  GET(textureAlignment, TEXTURE_ALIGNMENT);
  GET(pciBusID, PCI_BUS_ID);
#undef GET
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void) { CALL(cuCtxSynchronize()); }
cudaError_t cudaDeviceReset(void) {
  BEGIN;
  CUdevice device;
  cuCtxGetDevice(&device);
  return keep(cuDevicePrimaryCtxReset(device));
}
cudaError_t cudaGetDeviceFlags(unsigned int* flags) {
  BEGIN;
  int active;
  CUdevice device;
  cuCtxGetDevice(&device);
  return keep(cuDevicePrimaryCtxGetState(device, flags, &active));
}
cudaError_t cudaSetDeviceFlags(unsigned int flags) {
  const CUresult error = cuInit(0);
  return keep(error == CUDA_SUCCESS ? cuDevicePrimaryCtxSetFlags(chosen, flags) : error);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  CALL(cuCtxGetStreamPriorityRange(least, greatest));
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) { CALL(cuDeviceGetPCIBusId(text, size, device)); }
cudaError_t cudaDeviceGetByPCIBusId(int* device, const char* text) { CALL(cuDeviceGetByPCIBusId(device, text)); }
cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) { CALL(cuDeviceCanAccessPeer(can, device, peer)); }
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned int flags) {
  BEGIN;
  CUcontext context;
  const CUresult error = cuDevicePrimaryCtxRetain(&context, peer);
  return keep(error == CUDA_SUCCESS ? cuCtxEnablePeerAccess(context, flags) : error);
}
cudaError_t cudaDeviceDisablePeerAccess(int peer) {
  BEGIN;
  CUcontext context;
  const CUresult error = cuDevicePrimaryCtxRetain(&context, peer);
  return keep(error == CUDA_SUCCESS ? cuCtxDisablePeerAccess(context) : error);
}
cudaError_t cudaDeviceGetP2PAttribute(int* value, cudaDeviceP2PAttr what, int device, int peer) {
  CALL(cuDeviceGetP2PAttribute(value, static_cast<CUdevice_P2PAttribute>(what), device, peer));
}
cudaError_t cudaChooseDevice(int* device, const cudaDeviceProp* wish) {
  CHECK(device && wish, InvalidValue);
  *device = 0;  // they are all alike
  return cudaSuccess;
}
// What is set is remembered; it means nothing here.
static std::map<cudaLimit, size_t>& limits() {
  static auto& all = *new std::map<cudaLimit, size_t>{{cudaLimitStackSize, 1024},
                                                      {cudaLimitPrintfFifoSize, 1 << 20},
                                                      {cudaLimitMallocHeapSize, 8 << 20},
                                                      {cudaLimitPersistingL2CacheSize, 0}};
  return all;
}
static std::mutex limitLock;
cudaError_t cudaDeviceGetLimit(size_t* value, cudaLimit what) {
  std::lock_guard<std::mutex> guard(limitLock);
  CHECK(value, InvalidValue);
  CHECK(limits().count(what), UnsupportedLimit);
  *value = limits()[what];
  return cudaSuccess;
}
cudaError_t cudaDeviceSetLimit(cudaLimit what, size_t value) {
  std::lock_guard<std::mutex> guard(limitLock);
  CHECK(limits().count(what), UnsupportedLimit);
  limits()[what] = value;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetCacheConfig(cudaFuncCache* config) {
  CHECK(config, InvalidValue);
  *config = cudaFuncCachePreferNone;
  return cudaSuccess;
}
cudaError_t cudaDeviceSetCacheConfig(cudaFuncCache) { return cudaSuccess; }
cudaError_t cudaProfilerStart(void) { return cudaSuccess; }
cudaError_t cudaProfilerStop(void) { return cudaSuccess; }
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned int version,
                                             unsigned long long flags, cudaDriverEntryPointQueryResult* status) {
  if (perThread && flags == cudaEnableDefault) flags = cudaEnablePerThreadDefaultStream;
  CUdriverProcAddressQueryResult found = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  const CUresult error = cuGetProcAddress(name, function, static_cast<int>(version), flags, &found);
  if (status) *status = static_cast<cudaDriverEntryPointQueryResult>(found);
  return keep(error == CUDA_ERROR_NOT_FOUND ? CUDA_SUCCESS : error);
}
cudaError_t cudaGetDriverEntryPoint(const char* name, void** function, unsigned long long flags,
                                    cudaDriverEntryPointQueryResult* status) {
  return cudaGetDriverEntryPointByVersion(name, function, CUDART_VERSION, flags, status);
}

/* ---- Memory --------------------------------------------------------------------------------------------------------
 */

cudaError_t cudaMalloc(void** p, size_t bytes) {
  CHECK(p, InvalidValue);
  BEGIN;
  CUdeviceptr device = 0;
  CUresult error = bytes ? cuMemAlloc(&device, bytes) : CUDA_SUCCESS;
  if (device) error = simgpuTolerate(device);
  *p = reinterpret_cast<void*>(device);
  return keep(error);
}
cudaError_t cudaMallocPitch(void** p, size_t* pitch, size_t width, size_t height) {
  CHECK(p && pitch, InvalidValue);
  BEGIN;
  CUdeviceptr device = 0;
  CUresult error = width && height ? cuMemAllocPitch(&device, pitch, width, height, 4) : CUDA_SUCCESS;
  if (device) error = simgpuTolerate(device);
  *p = reinterpret_cast<void*>(device);
  return keep(error);
}
cudaError_t cudaMalloc3D(cudaPitchedPtr* p, cudaExtent size) {
  CHECK(p, InvalidValue);
  *p = {nullptr, 0, size.width, size.height};
  return cudaMallocPitch(&p->ptr, &p->pitch, size.width, size.height * size.depth);
}
cudaError_t cudaMallocManaged(void** p, size_t bytes, unsigned int flags) {
  CHECK(p, InvalidValue);
  BEGIN;
  CUdeviceptr managed = 0;
  const CUresult error = cuMemAllocManaged(&managed, bytes, flags);
  *p = reinterpret_cast<void*>(managed);
  return keep(error);
}
// Advice about where managed memory lies: it is the same everywhere here.
cudaError_t cudaMemAdvise(const void* p, size_t, cudaMemoryAdvise, cudaMemLocation) {
  BEGIN;
  CHECK(isManaged(p), InvalidValue);
  return cudaSuccess;
}
cudaError_t cudaMemPrefetchAsync(const void* p, size_t, cudaMemLocation, unsigned int flags, cudaStream_t s) {
  unsigned ignored;
  BEGIN;
  CHECK(isManaged(p) && !flags, InvalidValue);
  CALL(cuStreamGetFlags(on(s), &ignored));
}
cudaError_t cudaFree(void* p) { CALL(cuMemFree(address(p))); }
cudaError_t cudaStreamAttachMemAsync(cudaStream_t s, void* p, size_t, unsigned int) {
  unsigned ignored;
  BEGIN;
  CHECK(isManaged(p), InvalidValue);
  CALL(cuStreamGetFlags(on(s), &ignored));
}
cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t s) {
  CHECK(p, InvalidValue);
  BEGIN;
  CUdeviceptr device = 0;
  CUresult error = bytes ? cuMemAllocAsync(&device, bytes, on(s)) : CUDA_SUCCESS;
  if (device) error = simgpuTolerate(device);
  *p = reinterpret_cast<void*>(device);
  return keep(error);
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t s) { CALL(cuMemFreeAsync(address(p), on(s))); }
cudaError_t cudaMallocHost(void** p, size_t bytes) { CALL(cuMemHostAlloc(p, bytes, CU_MEMHOSTALLOC_PORTABLE)); }
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned int flags) { CALL(cuMemHostAlloc(p, bytes, flags)); }
cudaError_t cudaFreeHost(void* p) { CALL(cuMemFreeHost(p)); }
cudaError_t cudaHostRegister(void* p, size_t bytes, unsigned int flags) { CALL(cuMemHostRegister(p, bytes, flags)); }
cudaError_t cudaHostUnregister(void* p) { CALL(cuMemHostUnregister(p)); }
cudaError_t cudaHostGetDevicePointer(void** device, void* p, unsigned int flags) {
  CALL(cuMemHostGetDevicePointer(reinterpret_cast<CUdeviceptr*>(device), p, flags));
}
cudaError_t cudaHostGetFlags(unsigned int* flags, void* p) { CALL(cuMemHostGetFlags(flags, p)); }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) { CALL(cuMemGetInfo(free, total)); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s) {
  BEGIN;
  CHECK(!bytes || isKind(to, from, kind), InvalidValue);
  return keep(cuMemcpyAsync(address(to), address(from), bytes, on(s)));
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (!perThread) {
    BEGIN;
    CHECK(!bytes || isKind(to, from, kind), InvalidValue);
    return settled(cuMemcpy(address(to), address(from), bytes));
  }
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, cudaStreamPerThread);
  return error ? error : keep(cuStreamSynchronize(CU_STREAM_PER_THREAD));
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, cudaStream_t s) {
  CALL(cuMemcpyAsync(address(to), address(from), bytes, on(s)));
}
cudaError_t cudaMemcpyPeer(void* to, int, const void* from, int, size_t bytes) {
  BEGIN;
  return settled(cuMemcpy(address(to), address(from), bytes));
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t s) {
  CALL(cuMemsetD8Async(address(p), static_cast<unsigned char>(value), bytes, on(s)));
}
cudaError_t cudaMemset(void* p, int value, size_t bytes) {
  if (perThread) return cudaMemsetAsync(p, value, bytes, cudaStreamPerThread);
  BEGIN;
  return settled(cuMemsetD8(address(p), static_cast<unsigned char>(value), bytes));
}

/* Two and three dimensions, between pitched memory; arrays are not served. */

static cudaError_t copyBox(const cudaMemcpy3DParms* q, cudaStream_t s, bool synchronous) {
  CHECK(q, InvalidValue);
  if (q->srcArray || q->dstArray) return static_cast<cudaError_t>(simgpuUnserved("a copy from or to a cudaArray"));
  BEGIN;
  if (!q->extent.width || !q->extent.height || !q->extent.depth) return cudaSuccess;
  CHECK(isKind(q->dstPtr.ptr, q->srcPtr.ptr, q->kind), InvalidValue);
  CUDA_MEMCPY3D c = {};
  c.srcMemoryType = c.dstMemoryType = CU_MEMORYTYPE_UNIFIED;
#define SIDE(side)                            \
  c.side##Device = address(q->side##Ptr.ptr); \
  c.side##Pitch = q->side##Ptr.pitch;         \
  c.side##Height = q->side##Ptr.ysize;        \
  c.side##XInBytes = q->side##Pos.x;          \
  c.side##Y = q->side##Pos.y;                 \
  c.side##Z = q->side##Pos.z
  SIDE(src);
  SIDE(dst);
#undef SIDE
  c.WidthInBytes = q->extent.width;
  c.Height = q->extent.height;
  c.Depth = q->extent.depth;
  if (!synchronous) return keep(cuMemcpy3DAsync(&c, on(s)));
  if (!perThread) return settled(cuMemcpy3D(&c));
  const CUresult error = cuMemcpy3DAsync(&c, CU_STREAM_PER_THREAD);
  return keep(error == CUDA_SUCCESS ? cuStreamSynchronize(CU_STREAM_PER_THREAD) : error);
}
static cudaMemcpy3DParms flat(void* to, size_t toPitch, const void* from, size_t fromPitch, size_t width, size_t height,
                              cudaMemcpyKind kind) {
  cudaMemcpy3DParms q = {};
  q.srcPtr = {const_cast<void*>(from), fromPitch, width, height};
  q.dstPtr = {to, toPitch, width, height};
  q.extent = {width, height, 1};
  q.kind = kind;
  return q;
}
cudaError_t cudaMemcpy3D(const cudaMemcpy3DParms* q) { return copyBox(q, nullptr, true); }
cudaError_t cudaMemcpy3DAsync(const cudaMemcpy3DParms* q, cudaStream_t s) { return copyBox(q, s, false); }
cudaError_t cudaMemcpy2D(void* to, size_t toPitch, const void* from, size_t fromPitch, size_t width, size_t height,
                         cudaMemcpyKind kind) {
  const cudaMemcpy3DParms q = flat(to, toPitch, from, fromPitch, width, height, kind);
  CHECK(toPitch >= width && fromPitch >= width, InvalidPitchValue);
  return copyBox(&q, nullptr, true);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t toPitch, const void* from, size_t fromPitch, size_t width, size_t height,
                              cudaMemcpyKind kind, cudaStream_t s) {
  const cudaMemcpy3DParms q = flat(to, toPitch, from, fromPitch, width, height, kind);
  CHECK(toPitch >= width && fromPitch >= width, InvalidPitchValue);
  return copyBox(&q, s, false);
}
cudaError_t cudaMemset2DAsync(void* p, size_t pitch, int value, size_t width, size_t height, cudaStream_t s) {
  CALL(cuMemsetD2D8Async(address(p), pitch, static_cast<unsigned char>(value), width, height, on(s)));
}
cudaError_t cudaMemset2D(void* p, size_t pitch, int value, size_t width, size_t height) {
  if (perThread) return cudaMemset2DAsync(p, pitch, value, width, height, cudaStreamPerThread);
  BEGIN;
  return settled(cuMemsetD2D8(address(p), pitch, static_cast<unsigned char>(value), width, height));
}

/* Memory pools: the driver's, whose structs and constants are laid out alike. */

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  CALL(cuDeviceGetDefaultMemPool(pool, device));
}
cudaError_t cudaDeviceGetMemPool(cudaMemPool_t* pool, int device) { CALL(cuDeviceGetMemPool(pool, device)); }
cudaError_t cudaDeviceSetMemPool(int device, cudaMemPool_t pool) { CALL(cuDeviceSetMemPool(device, pool)); }
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* props) {
  static_assert(sizeof *props == sizeof(CUmemPoolProps), "the driver's");
  CALL(cuMemPoolCreate(pool, reinterpret_cast<const CUmemPoolProps*>(props)));
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) { CALL(cuMemPoolDestroy(pool)); }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t least) { CALL(cuMemPoolTrimTo(pool, least)); }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr what, void* value) {
  CALL(cuMemPoolSetAttribute(pool, static_cast<CUmemPool_attribute>(what), value));
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr what, void* value) {
  CALL(cuMemPoolGetAttribute(pool, static_cast<CUmemPool_attribute>(what), value));
}
cudaError_t cudaMemPoolSetAccess(cudaMemPool_t pool, const cudaMemAccessDesc* list, size_t count) {
  static_assert(sizeof *list == sizeof(CUmemAccessDesc), "the driver's");
  CALL(cuMemPoolSetAccess(pool, reinterpret_cast<const CUmemAccessDesc*>(list), count));
}
cudaError_t cudaMemPoolGetAccess(cudaMemAccessFlags* flags, cudaMemPool_t pool, cudaMemLocation* location) {
  CALL(cuMemPoolGetAccess(reinterpret_cast<CUmemAccess_flags*>(flags), pool,
                          reinterpret_cast<CUmemLocation*>(location)));
}
cudaError_t cudaMallocFromPoolAsync(void** p, size_t bytes, cudaMemPool_t pool, cudaStream_t s) {
  CHECK(p, InvalidValue);
  BEGIN;
  CUdeviceptr device = 0;
  CUresult error = bytes ? cuMemAllocFromPoolAsync(&device, bytes, pool, on(s)) : CUDA_SUCCESS;
  if (device) error = simgpuTolerate(device);
  *p = reinterpret_cast<void*>(device);
  return keep(error);
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  CHECK(a, InvalidValue);
  BEGIN;
  memset(a, 0, sizeof *a);
  a->device = cudaInvalidDeviceId;
  unsigned type;
  if (cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address(p)) != CUDA_SUCCESS) {
    a->type = cudaMemoryTypeUnregistered;
    a->hostPointer = const_cast<void*>(p);
    return cudaSuccess;
  }
  cuPointerGetAttribute(&a->device, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address(p));
  a->type = isManaged(p)                   ? cudaMemoryTypeManaged
            : type == CU_MEMORYTYPE_DEVICE ? cudaMemoryTypeDevice
                                           : cudaMemoryTypeHost;
  a->devicePointer = const_cast<void*>(p);
  if (a->type != cudaMemoryTypeDevice) a->hostPointer = a->devicePointer;
  return cudaSuccess;
}

/* ---- Streams and events --------------------------------------------------------------------------------------------
 */

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned int flags, int priority) {
  CALL(cuStreamCreateWithPriority(s, flags, priority));
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned int flags) { CALL(cuStreamCreate(s, flags)); }
cudaError_t cudaStreamCreate(cudaStream_t* s) { CALL(cuStreamCreate(s, CU_STREAM_DEFAULT)); }
cudaError_t cudaStreamDestroy(cudaStream_t s) { CALL(cuStreamDestroy(s)); }
cudaError_t cudaStreamSynchronize(cudaStream_t s) { CALL(cuStreamSynchronize(on(s))); }
cudaError_t cudaStreamQuery(cudaStream_t s) { CALL(cuStreamQuery(on(s))); }
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned int flags) {
  CALL(cuStreamWaitEvent(on(s), e, flags));
}
cudaError_t cudaStreamGetFlags(cudaStream_t s, unsigned int* flags) { CALL(cuStreamGetFlags(on(s), flags)); }
cudaError_t cudaStreamGetPriority(cudaStream_t s, int* priority) { CALL(cuStreamGetPriority(on(s), priority)); }
cudaError_t cudaStreamGetId(cudaStream_t s, unsigned long long* id) { CALL(cuStreamGetId(on(s), id)); }
cudaError_t cudaStreamGetDevice(cudaStream_t s, int* device) { CALL(cuStreamGetDevice(on(s), device)); }
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t function, void* data) {
  CALL(cuLaunchHostFunc(on(s), function, data));
}
cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t callback, void* data, unsigned int flags) {
  CHECK(callback && !flags, InvalidValue);
  BEGIN;
  struct Call {
    cudaStream_t stream;
    cudaStreamCallback_t callback;
    void* data;
  };
  auto* call = new Call{s, callback, data};
  const CUresult error = cuLaunchHostFunc(
      on(s),
      [](void* p) {
        auto* c = static_cast<Call*>(p);
        c->callback(c->stream, cudaSuccess, c->data);
        delete c;
      },
      call);
  if (error != CUDA_SUCCESS) delete call;
  return keep(error);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned int flags) { CALL(cuEventCreate(e, flags)); }
cudaError_t cudaEventCreate(cudaEvent_t* e) { CALL(cuEventCreate(e, CU_EVENT_DEFAULT)); }
cudaError_t cudaEventDestroy(cudaEvent_t e) { CALL(cuEventDestroy(e)); }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned int flags) {
  CALL(cuEventRecordWithFlags(e, on(s), flags));
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { CALL(cuEventRecord(e, on(s))); }
cudaError_t cudaEventQuery(cudaEvent_t e) { CALL(cuEventQuery(e)); }
cudaError_t cudaEventSynchronize(cudaEvent_t e) { CALL(cuEventSynchronize(e)); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  CALL(cuEventElapsedTime(milliseconds, from, to));
}

/* ---- Capture and graphs --------------------------------------------------------------------------------------------
 */

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode) {
  CALL(cuStreamBeginCapture(on(s), static_cast<CUstreamCaptureMode>(mode)));
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) { CALL(cuStreamEndCapture(on(s), graph)); }
cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus* status) {
  CALL(cuStreamIsCapturing(on(s), reinterpret_cast<CUstreamCaptureStatus*>(status)));
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t* graph, const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, size_t* count) {
  CHECK(!edges, NotSupported);
  cuuint64_t number = 0;
  BEGIN;
  const CUresult error = cuStreamGetCaptureInfo(on(s), reinterpret_cast<CUstreamCaptureStatus*>(status), &number, graph,
                                                const_cast<const CUgraphNode**>(dependencies), nullptr, count);
  if (id) *id = number;
  return keep(error);
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  return keep(cuThreadExchangeStreamCaptureMode(reinterpret_cast<CUstreamCaptureMode*>(mode)));
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  CALL(cuGraphGetNodes(graph, nodes, count));
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags) {
  CALL(cuGraphInstantiateWithFlags(exec, graph, flags));
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags) {
  CALL(cuGraphInstantiateWithFlags(exec, graph, flags));
}
cudaError_t cudaGraphInstantiateWithParams(cudaGraphExec_t* exec, cudaGraph_t graph,
                                           cudaGraphInstantiateParams* params) {
  static_assert(sizeof *params == sizeof(CUDA_GRAPH_INSTANTIATE_PARAMS), "the driver's");
  CALL(cuGraphInstantiateWithParams(exec, graph, reinterpret_cast<CUDA_GRAPH_INSTANTIATE_PARAMS*>(params)));
}
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t s) { CALL(cuGraphUpload(exec, on(s))); }
cudaError_t cudaGraphClone(cudaGraph_t* clone, cudaGraph_t graph) { CALL(cuGraphClone(clone, graph)); }
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph, cudaGraphExecUpdateResultInfo* info) {
  static_assert(sizeof *info == sizeof(CUgraphExecUpdateResultInfo), "the driver's");
  CALL(cuGraphExecUpdate(exec, graph, reinterpret_cast<CUgraphExecUpdateResultInfo*>(info)));
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s) { CALL(cuGraphLaunch(exec, on(s))); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { CALL(cuGraphExecDestroy(exec)); }
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { CALL(cuGraphDestroy(graph)); }
cudaError_t cudaUserObjectCreate(cudaUserObject_t* object, void* data, cudaHostFn_t destroy, unsigned int count,
                                 unsigned int flags) {
  CALL(cuUserObjectCreate(object, data, destroy, count, flags));
}
cudaError_t cudaUserObjectRetain(cudaUserObject_t object, unsigned int count) {
  CALL(cuUserObjectRetain(object, count));
}
cudaError_t cudaUserObjectRelease(cudaUserObject_t object, unsigned int count) {
  CALL(cuUserObjectRelease(object, count));
}
cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object, unsigned int count,
                                      unsigned int flags) {
  CALL(cuGraphRetainUserObject(graph, object, count, flags));
}
cudaError_t cudaGraphReleaseUserObject(cudaGraph_t graph, cudaUserObject_t object, unsigned int count) {
  CALL(cuGraphReleaseUserObject(graph, object, count));
}

/* ---- Kernels: what nvcc puts into a program registers and launches them
 * ---------------------------------------------- */

cudaError_t cudaLaunchKernel(const void* stub, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t s) {
  BEGIN;
  CUfunction function;
  const CUresult error = functionOf(stub, &function);
  if (error != CUDA_SUCCESS) return keep(error);
  const CUresult launched = cuLaunchKernel(function, grid.x, grid.y, grid.z, block.x, block.y, block.z,
                                           static_cast<unsigned>(shared), on(s), arguments, nullptr);
  return keep(launched == CUDA_ERROR_INVALID_VALUE ? cudaErrorInvalidConfiguration
                                                   : static_cast<cudaError_t>(launched));
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* stub, void** arguments) {
  CHECK(c, InvalidValue);
  return cudaLaunchKernel(stub, c->gridDim, c->blockDim, arguments, c->dynamicSmemBytes, c->stream);
}
cudaError_t cudaFuncSetAttribute(const void* stub, cudaFuncAttribute what, int value) {
  BEGIN;
  CUfunction function;
  const CUresult error = functionOf(stub, &function);
  return keep(error == CUDA_SUCCESS ? cuFuncSetAttribute(function, static_cast<CUfunction_attribute>(what), value)
                                    : error);
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* stub, int threads, size_t shared) {
  BEGIN;
  CUfunction function;
  const CUresult error = functionOf(stub, &function);
  return keep(error == CUDA_SUCCESS ? cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared)
                                    : error);
}

void** __cudaRegisterFatBinary(void* image) {
  auto* handle = static_cast<void**>(malloc(sizeof(void*)));
  if (handle) *handle = image;
  return handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void** handle) { free(handle); }
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterFunction(void**, const char* stub, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  std::lock_guard<std::mutex> guard(kernels().lock);
  kernels().names[stub] = name;
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st* s) {
  configurations.push_back({grid, block, shared, s});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* s) {
  if (configurations.empty()) return keep(cudaErrorInvalidConfiguration);
  const Configuration c = configurations.back();
  configurations.pop_back();
  *grid = c.grid;
  *block = c.block;
  *shared = c.shared;
  *static_cast<cudaStream_t*>(s) = c.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(stub));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t s) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared, s);
}

}  // extern "C"

/* ---- The same calls, for which stream 0 is the thread's own
 * ------------------------------------------------------------ */

template <auto function>
struct PerThread;
template <typename... A, cudaError_t (*function)(A...)>
struct PerThread<function> {
  static cudaError_t call(A... arguments) {
    perThread = true;
    const cudaError_t result = function(arguments...);
    perThread = false;
    return result;
  }
};
// A symbol of that name, which is the template's function.
#define TWIN(name, suffix)                                                       \
  extern "C" {                                                                   \
  static decltype(&name) resolve_##name(void) { return &PerThread<name>::call; } \
  extern decltype(name) name##suffix __attribute__((ifunc("resolve_" #name)));   \
  }
#define ON_STREAM(X)                \
  X(cudaMemcpyAsync)                \
  X(cudaMemcpy2DAsync)              \
  X(cudaMemcpy3DAsync)              \
  X(cudaMemset2DAsync)              \
  X(cudaMallocFromPoolAsync)        \
  X(cudaStreamAttachMemAsync)       \
  X(cudaGraphInstantiateWithParams) \
  X(cudaGraphUpload)                \
  X(cudaMemsetAsync)                \
  X(cudaMallocAsync)                \
  X(cudaFreeAsync)                  \
  X(cudaMemPrefetchAsync)           \
  X(cudaStreamSynchronize)          \
  X(cudaStreamQuery)                \
  X(cudaStreamWaitEvent)            \
  X(cudaStreamGetFlags)             \
  X(cudaStreamGetPriority)          \
  X(cudaStreamGetId)                \
  X(cudaStreamGetDevice)            \
  X(cudaLaunchHostFunc)             \
  X(cudaStreamAddCallback)          \
  X(cudaEventRecord)                \
  X(cudaEventRecordWithFlags)       \
  X(cudaStreamBeginCapture)         \
  X(cudaStreamEndCapture)           \
  X(cudaStreamIsCapturing)          \
  X(cudaStreamGetCaptureInfo)       \
  X(cudaGraphLaunch)                \
  X(cudaLaunchKernel)               \
  X(cudaLaunchKernelExC)            \
  X(__cudaLaunchKernel)             \
  X(cudaGetDriverEntryPoint)        \
  X(cudaGetDriverEntryPointByVersion)
#define STREAM_TWIN(name) TWIN(name, _ptsz)
ON_STREAM(STREAM_TWIN)
TWIN(cudaMemcpy, _ptds)
TWIN(cudaMemcpy2D, _ptds)
TWIN(cudaMemcpy3D, _ptds)
TWIN(cudaMemset2D, _ptds)
TWIN(cudaMemset, _ptds)
