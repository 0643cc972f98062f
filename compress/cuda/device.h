/* A CUDA device as the passes need it: its primary context, and every kernel of kernels.h, loaded. */
#ifndef SLIM_COMPRESS_CUDA_DEVICE_H_
#define SLIM_COMPRESS_CUDA_DEVICE_H_

#include "compress/cuda/driver.h"
#include "compress/cuda/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int ordinal;
  CUcontext context;    /* primary; retained once, never released */
  uint32_t processors;  /* multiprocessors */
  uint32_t sharedLimit; /* bytes of dynamic shared memory that a thread block may have */
  uint64_t mostBlocks;  /* of a grid: SLIM_MAX_CTAS, which leaves room for the program's own kernels; 0: any number */
  CUfunction kernel[slimNumDeviceKernels];
} slimCudaDevice;

/* The device of an ordinal, made ready at first use and kept for the rest of the process. */
slimResult_t slimCudaDeviceOf(slimCudaDevice** device, int ordinal);

/* Its context becomes the thread's current one; leave gives the caller's back. Every other call here, and every driver
 * call, stands between the two. */
slimResult_t slimCudaEnter(const slimCudaDevice* device);
void slimCudaLeave(void);

/* Enqueues a kernel with its argument struct: as many thread blocks as the device holds at once (and SLIM_MAX_CTAS
 * allows), or as it has work for, or as scratch (bytes at args' scratch pointer) allows; 0 scratch where the launch
 * wants none. */
slimResult_t slimCudaLaunch(const slimCudaDevice* device, const slimLaunch* launch, const void* args,
                            size_t scratchBytes, CUstream stream);
/* Bytes of scratch with which a launch fills the device. */
slimResult_t slimCudaScratch(const slimCudaDevice* device, const slimLaunch* launch, size_t* bytes);

#ifdef __cplusplus
}
#endif
#endif
