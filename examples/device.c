#include "examples/device.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>

/* Names and types are cuda.h's: a device and a result are ints, an address is as wide as a pointer. */
#define FUNCTIONS(X)                                                                  \
  X(cuInit, unsigned flags)                                                           \
  X(cuDeviceGetCount, int* count)                                                     \
  X(cuDeviceGet, int* device, int ordinal)                                            \
  X(cuDevicePrimaryCtxRetain, void** context, int device)                             \
  X(cuCtxSetCurrent, void* context)                                                   \
  X(cuMemAlloc_v2, uintptr_t* p, size_t bytes)                                        \
  X(cuMemFree_v2, uintptr_t p)                                                        \
  X(cuMemcpyHtoDAsync_v2, uintptr_t to, const void* from, size_t bytes, void* stream) \
  X(cuMemcpyDtoHAsync_v2, void* to, uintptr_t from, size_t bytes, void* stream)       \
  X(cuStreamCreate, void** stream, unsigned flags)                                    \
  X(cuStreamSynchronize, void* stream)                                                \
  X(cuStreamDestroy_v2, void* stream)
enum { streamNonBlocking = 1 };

#define POINTER(name, ...) static int (*name)(__VA_ARGS__);
FUNCTIONS(POINTER)

#define TRY(call)                  \
  do {                             \
    if ((call) != 0) return #call; \
  } while (0)

int devicesOpen(const char** why) {
  static char words[256];
  int count = 0;
  *why = words;
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    snprintf(words, sizeof words, "there is no CUDA driver: %s", dlerror());
    return 0;
  }
#define FIND(name, ...)                                             \
  if (!(*(void**)& name = dlsym(library, #name))) {                 \
    snprintf(words, sizeof words, "the CUDA driver has no " #name); \
    return 0;                                                       \
  }
  FUNCTIONS(FIND)
  if (cuInit(0) || cuDeviceGetCount(&count) || !count) snprintf(words, sizeof words, "the CUDA driver shows no device");
  return count;
}

const char* deviceOpen(DeviceBuffer* buffer, int ordinal, size_t bytes) {
  int device;
  void* context;
  uintptr_t p;
  TRY(cuDeviceGet(&device, ordinal));
  TRY(cuDevicePrimaryCtxRetain(&context, device));
  TRY(cuCtxSetCurrent(context));
  TRY(cuMemAlloc_v2(&p, bytes));
  TRY(cuStreamCreate(&buffer->stream, streamNonBlocking));
  buffer->data = (void*)p;
  return NULL;
}

const char* deviceClose(DeviceBuffer* buffer) {
  TRY(cuStreamSynchronize(buffer->stream));
  TRY(cuStreamDestroy_v2(buffer->stream));
  TRY(cuMemFree_v2((uintptr_t)buffer->data));
  return NULL;
}

const char* deviceWrite(const DeviceBuffer* buffer, const void* host, size_t bytes) {
  TRY(cuMemcpyHtoDAsync_v2((uintptr_t)buffer->data, host, bytes, buffer->stream));
  return NULL;
}

const char* deviceRead(const DeviceBuffer* buffer, void* host, size_t bytes) {
  TRY(cuMemcpyDtoHAsync_v2(host, (uintptr_t)buffer->data, bytes, buffer->stream));
  TRY(cuStreamSynchronize(buffer->stream));
  return NULL;
}
