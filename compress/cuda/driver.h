/* The CUDA driver, reached at run time: libcuda.so.1 is opened when the first device communicator asks for it, and each
 * function is looked up by name and version, so that a newer or older header never changes what is called. No CUDA
 * runtime: whatever runtime the program has, it shares the primary contexts that are used here. */
#ifndef SLIM_COMPRESS_CUDA_DRIVER_H_
#define SLIM_COMPRESS_CUDA_DRIVER_H_

#include <cudaTypedefs.h>

#include "compress/compress.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Every driver function in use, and the version of its interface. */
#define SLIM_DRIVER_FUNCTIONS(X)                     \
  X(DriverGetVersion, 2020)                          \
  X(GetErrorName, 6000)                              \
  X(GetErrorString, 6000)                            \
  X(Init, 2000)                                      \
  X(DeviceGetCount, 2000)                            \
  X(DeviceGet, 2000)                                 \
  X(DeviceGetAttribute, 2000)                        \
  X(DevicePrimaryCtxRetain, 7000)                    \
  X(DeviceGetP2PAttribute, 8000)                     \
  X(DeviceCanAccessPeer, 4000)                       \
  X(CtxEnablePeerAccess, 4000)                       \
  X(CtxPushCurrent, 4000)                            \
  X(CtxPopCurrent, 4000)                             \
  X(LibraryLoadData, 12000)                          \
  X(LibraryGetKernel, 12000)                         \
  X(KernelGetFunction, 12000)                        \
  X(FuncGetAttribute, 2020)                          \
  X(FuncSetAttribute, 9000)                          \
  X(OccupancyMaxActiveBlocksPerMultiprocessor, 6050) \
  X(LaunchKernel, 4000)                              \
  X(MemGetInfo, 3020)                                \
  X(MemAlloc, 3020)                                  \
  X(MemFree, 3020)                                   \
  X(MemHostAlloc, 2020)                              \
  X(MemFreeHost, 2000)                               \
  X(MemHostGetDevicePointer, 3020)                   \
  X(MemcpyAsync, 4000)                               \
  X(MemsetD8Async, 3020)                             \
  X(PointerGetAttribute, 4000)                       \
  X(EventQuery, 2000)                                \
  X(EventCreate, 2000)                               \
  X(EventDestroy, 4000)                              \
  X(EventRecord, 2000)                               \
  X(EventElapsedTime, 2000)                          \
  X(StreamCreate, 2000)                              \
  X(StreamDestroy, 4000)                             \
  X(StreamSynchronize, 2000)                         \
  X(StreamQuery, 2000)                               \
  X(StreamWaitEvent, 3020)                           \
  X(StreamGetCaptureInfo, 11030)                     \
  X(UserObjectCreate, 11030)                         \
  X(UserObjectRelease, 11030)                        \
  X(GraphRetainUserObject, 11030)                    \
  X(ThreadExchangeStreamCaptureMode, 10010)

#define SLIM_DRIVER_MEMBER_(name, version) PFN_cu##name##_v##version name;
typedef struct {
  SLIM_DRIVER_FUNCTIONS(SLIM_DRIVER_MEMBER_)
} slimDriverTable;
#undef SLIM_DRIVER_MEMBER_

typedef enum { slimDriverReady, slimDriverAbsent, slimDriverTooOld } slimDriverState;

/* Opens the driver, once a process. Answers what was found; unless ready, slimLastMessage says found and needed
 * versions. Later calls answer the same. */
slimDriverState slimDriverOpen(void);

/* The table; whole once slimDriverOpen answered ready. */
extern slimDriverTable slimCu;

/* Another function of the open driver, for programs beside the library (tests, benchmarks). */
slimResult_t slimDriverFind(void** function, const char* name, int version);

/* slimUnhandledCudaError, with the driver's name and text of an error; the format says after "cu" what was called. */
slimResult_t slimDriverFail(CUresult error, const char* format, ...) __attribute__((format(printf, 2, 3)));

/* SLIM_CU(MemAlloc, &p, bytes): calls cuMemAlloc, and returns from the function with the error where it fails. */
#define SLIM_CU(name, ...)                                              \
  do {                                                                  \
    const CUresult slimCu_ = slimCu.name(__VA_ARGS__);                  \
    if (slimCu_ != CUDA_SUCCESS) return slimDriverFail(slimCu_, #name); \
  } while (0)

#ifdef __cplusplus
}
#endif
#endif
