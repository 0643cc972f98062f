/* The block mathematics is one source for two targets: C for the CPU, where one thread has a unit, and CUDA
 * (SLIM_CUDA), where a thread block shares one. */
#ifndef SLIM_COMPRESS_TARGET_H_
#define SLIM_COMPRESS_TARGET_H_

#ifdef SLIM_CUDA
#define SLIM_FN static __device__ __forceinline__
#define SLIM_CODEC_FN SLIM_FN
#define restrict __restrict__
#else
#define SLIM_FN static inline
/* A function of its own, with all that it calls. */
#define SLIM_CODEC_FN static __attribute__((noinline, flatten, unused))
#endif

#endif
