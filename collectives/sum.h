/* Element-wise reductions in rank order: the plain collectives, and linear's sum. */
#ifndef SLIM_SUM_H_
#define SLIM_SUM_H_

#include "compress/compress.h"

#ifdef __cplusplus
extern "C" {
#endif

/* dst[i] ← ((+0 + src[0][i]) + src[1][i]) + …; dst may be one of them. */
void slimSumFloats(const float* const* src, int ranks, uint64_t n, float* dst);

/* dst[i] ← src[0][i] op src[1][i] op …, in rank order; dst may be one of them. Integers wrap around. avg: the sum times
 * fl(1/ranks); integers: divided, rounding towards zero. fp16 and bf16 are rounded once, at the end. max and min of NaN
 * and anything: NaN. */
void slimCombine(slimDataType_t type, slimRedOp_t op, const void* const* src, int ranks, uint64_t n, void* dst);

#ifdef __cplusplus
}
#endif
#endif
