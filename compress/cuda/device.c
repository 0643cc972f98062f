#include "compress/cuda/device.h"

#include <pthread.h>
#include <stdlib.h>

/* The images of kernels.cu and warps.cu, for all architectures (the cuda_fatbin rule embeds them). */
extern const unsigned char slimFatbin[], slimWarpFatbin[];

static const char* const names[] = {
#define NAME(name, args) "slim_" #name,
    SLIM_DEVICE_KERNELS(NAME)
#undef NAME
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below */
static slimCudaDevice** devices;
static int deviceCount;
static CUlibrary libraries[2];

static slimResult_t attribute(uint32_t* value, CUdevice_attribute what, CUdevice device) {
  int got = 0;
  SLIM_CU(DeviceGetAttribute, &got, what, device);
  *value = (uint32_t)got;
  return slimSuccess;
}

/* Loading is lazy by default, and a kernel that is loaded at its first launch breaks a capture: asking for a function's
 * attributes loads it. */
static slimResult_t loadKernels(slimCudaDevice* d) {
  uint32_t taken = 0; /* shared memory that a kernel has by itself, at most */
  for (int i = 0; i < 2; i++)
    if (!libraries[i])
      SLIM_CU(LibraryLoadData, &libraries[i], i ? slimWarpFatbin : slimFatbin, NULL, NULL, 0, NULL, NULL, 0);
  for (int i = 0; i < slimNumDeviceKernels; i++) {
    CUkernel kernel = NULL;
    int fixed = 0;
    CUresult error = slimCu.LibraryGetKernel(&kernel, libraries[i >= slimKernel_warp_encode_fp8], names[i]);
    if (error != CUDA_SUCCESS) return slimDriverFail(error, "LibraryGetKernel of %s", names[i]);
    error = slimCu.KernelGetFunction(&d->kernel[i], kernel);
    if (error == CUDA_SUCCESS)
      error = slimCu.FuncGetAttribute(&fixed, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, d->kernel[i]);
    if (error != CUDA_SUCCESS)
      return slimDriverFail(error, "KernelGetFunction of %s on device %d", names[i], d->ordinal);
    if ((uint32_t)fixed > taken) taken = (uint32_t)fixed;
  }
  d->sharedLimit -= taken;
  for (int i = 0; i < slimNumDeviceKernels; i++)
    SLIM_CU(FuncSetAttribute, d->kernel[i], CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)d->sharedLimit);
  return slimSuccess;
}

static slimResult_t readLimit(uint64_t* blocks) {
  const char* text = getenv("SLIM_MAX_CTAS");
  char* end = NULL;
  *blocks = text && *text ? strtoull(text, &end, 10) : 0;
  if (end && (*end || *text < '0' || *text > '9'))
    return slimFail(slimInvalidArgument, "SLIM_MAX_CTAS=%s: give a number of thread blocks, or 0 for no limit", text);
  return slimSuccess;
}

static slimResult_t prepare(slimCudaDevice* d, int ordinal) {
  CUdevice device;
  SLIM_CHECK(readLimit(&d->mostBlocks));
  SLIM_CU(DeviceGet, &device, ordinal);
  SLIM_CU(DevicePrimaryCtxRetain, &d->context, device);
  d->ordinal = ordinal;
  SLIM_CHECK(attribute(&d->processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device));
  SLIM_CHECK(attribute(&d->sharedLimit, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device));
  SLIM_CHECK(slimCudaEnter(d));
  slimResult_t result = loadKernels(d);
  slimCudaLeave();
  return result;
}

static slimResult_t find(slimCudaDevice** device, int ordinal) {
  if (!devices) {
    int count = 0;
    SLIM_CU(DeviceGetCount, &count);
    devices = calloc((size_t)count + 1, sizeof *devices);
    if (!devices) return slimFail(slimSystemError, "out of memory for %d devices", count);
    deviceCount = count;
  }
  if (ordinal < 0 || ordinal >= deviceCount)
    return slimFail(slimInvalidArgument, "device %d: this machine shows %d, numbered from 0", ordinal, deviceCount);
  if (!devices[ordinal]) {
    slimCudaDevice* d = calloc(1, sizeof *d);
    if (!d) return slimFail(slimSystemError, "out of memory for a device");
    slimResult_t result = prepare(d, ordinal);
    if (result != slimSuccess) {
      free(d);
      return result;
    }
    devices[ordinal] = d;
  }
  *device = devices[ordinal];
  return slimSuccess;
}

slimResult_t slimCudaDeviceOf(slimCudaDevice** device, int ordinal) {
  if (slimDriverOpen() != slimDriverReady) return slimUnhandledCudaError;
  pthread_mutex_lock(&lock);
  slimResult_t result = find(device, ordinal);
  pthread_mutex_unlock(&lock);
  return result;
}

slimResult_t slimCudaEnter(const slimCudaDevice* device) {
  SLIM_CU(CtxPushCurrent, device->context);
  return slimSuccess;
}

void slimCudaLeave(void) {
  CUcontext popped;
  (void)slimCu.CtxPopCurrent(&popped);
}

/* Thread blocks that run at once. */
static slimResult_t resident(const slimCudaDevice* device, const slimLaunch* launch, uint64_t* blocks) {
  int each = 0;
  SLIM_CU(OccupancyMaxActiveBlocksPerMultiprocessor, &each, device->kernel[launch->kernel], (int)launch->threads,
          launch->sharedBytes);
  *blocks = (uint64_t)(each > 0 ? each : 1) * device->processors;
  if (device->mostBlocks && *blocks > device->mostBlocks) *blocks = device->mostBlocks;
  if (*blocks > launch->blocks) *blocks = launch->blocks ? launch->blocks : 1;
  return slimSuccess;
}

slimResult_t slimCudaScratch(const slimCudaDevice* device, const slimLaunch* launch, size_t* bytes) {
  *bytes = 0;
  if (!launch->scratchFloats) return slimSuccess;
  uint64_t blocks;
  SLIM_CHECK(resident(device, launch, &blocks));
  *bytes = blocks * launch->scratchFloats * sizeof(float);
  return slimSuccess;
}

slimResult_t slimCudaLaunch(const slimCudaDevice* device, const slimLaunch* launch, const void* args,
                            size_t scratchBytes, CUstream stream) {
  uint64_t blocks;
  SLIM_CHECK(resident(device, launch, &blocks));
  if (launch->scratchFloats) {
    const uint64_t room = scratchBytes / (launch->scratchFloats * sizeof(float));
    if (!room) return slimFail(slimInternalError, "no scratch for kernel %s", names[launch->kernel]);
    if (blocks > room) blocks = room;
  }
  void* parameters[] = {(void*)(uintptr_t)args};
  const CUresult error = slimCu.LaunchKernel(device->kernel[launch->kernel], (unsigned)blocks, 1, 1, launch->threads, 1,
                                             1, launch->sharedBytes, stream, parameters, NULL);
  return error == CUDA_SUCCESS ? slimSuccess : slimDriverFail(error, "LaunchKernel of %s", names[launch->kernel]);
}
