/* The CPU kernels: one source (cpu/kernels.c), built for several instruction sets, chosen at run time (cpu/dispatch.c).
 */
#ifndef SLIM_COMPRESS_KERNELS_H_
#define SLIM_COMPRESS_KERNELS_H_

#include "compress/payload.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Floats of scratch that a kernel call needs, 64-byte aligned. */
enum { SLIM_SCRATCH_FLOATS = 160 * 1024 };
/* Elements that passes over a whole piece (selectors of scope chunk and global) look at, at a time. */
enum { SLIM_PIECE_STEP = 4096 };
/* Bytes between what a pass works on and what it prefetches. */
enum { SLIM_AHEAD = 8192, SLIM_AHEAD_OF_TWO = 4096 };
/* Statistics of errors and state come from every so many units. */
enum { SLIM_SAMPLE = 16 };

/* Statistics of a piece (stats=tensor, stats=previous): what its codes use, and what its units add, unless NULL. */
typedef struct {
  slimShape shape;
  slimPartial* partials;
  bool only; /* nothing is encoded */
} slimSurvey;

/* Units u0 … u1 − 1 of a piece; piece-wide selectors are called once, for all. Results: slimSuccess, or slimSystemError
 * (out of memory) from piece-wide selectors. */
typedef struct {
  const char* name;
  slimResult_t (*encode)(const slimEncodePass* pass, const slimLayout* layout, const slimSurvey* survey, uint64_t u0,
                         uint64_t u1, slimPassStats* stats, float* scratch);
  slimResult_t (*reduce)(const slimReducePass* pass, const slimLayout* up, const slimLayout* down, uint64_t u0,
                         uint64_t u1, slimPassStats* stats, float* scratch);
  slimResult_t (*decode)(const slimDecodePass* pass, const slimLayout* layout, uint64_t u0, uint64_t u1,
                         float* scratch);
  slimResult_t (*cancel)(const slimDecodePass* sent, const slimLayout* layout, const void* x, void* s, float* scratch);
  void (*toReal)(slimDataType_t type, const void* src, uint64_t n, void* dst);
  void (*fromReal)(slimDataType_t type, const void* src, uint64_t n, double factor, void* y);
  void (*denseReduce)(slimDataType_t type, uint64_t n, int ranks, const uint8_t* const* payloads, double weight,
                      void* dst);
  void (*scale)(slimDataType_t type, void* a, uint64_t n, double factor);
  void (*scaleMemory)(const slimStamp* stamp, uint16_t* a, uint64_t n, double factor);
} slimKernels;

/* "baseline", "avx2", "avx512"; NULL if unknown, or not for this machine. */
const slimKernels* slimKernelsByName(const char* name);
/* The set in use: the best one, or SLIM_CPU's. Tests and benchmarks may set another; NULL: choose again. */
extern const slimKernels* slimActiveKernels;
const slimKernels* slimKernelsInUse(void);

#ifdef __cplusplus
}
#endif
#endif
