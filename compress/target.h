/* The block mathematics is one source for two targets: C for the CPU, where one thread has a unit, and CUDA
 * (SLIM_CUDA), where a thread block shares one. */
#ifndef SLIM_COMPRESS_TARGET_H_
#define SLIM_COMPRESS_TARGET_H_

#ifdef SLIM_CUDA
#define SLIM_FN static __device__ __forceinline__
#define restrict __restrict__
#else
#define SLIM_FN static inline
#endif

#endif
