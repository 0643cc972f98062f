/* The CUDA kernels (kernels.h lists them). The block mathematics is that of compress/codec/; block.cuh shares it among
 * a thread block's threads. */
#define SLIM_CUDA 1
#ifndef SLIM_DYN_SHARED
#define SLIM_DYN_SHARED(T, name)                                \
  extern __shared__ __align__(16) unsigned char slimDynamic_[]; \
  T* name = (T*)slimDynamic_
#endif

#include "compress/codec/float.h"
#include "compress/codec/fp8.h"
#include "compress/codec/induced.h"
#include "compress/codec/natural.h"
#include "compress/codec/onebit.h"
#include "compress/codec/qsgd.h"
#include "compress/codec/rotate.h"
#include "compress/codec/select.h"
#include "compress/codec/tnqsgd.h"
#include "compress/cuda/kernels.h"
#include "compress/cuda/tree.cuh"
#include "compress/cuda/unit.cuh"

#include "compress/cuda/shapes.cuh"
#include "compress/cuda/survey.cuh"

/* ---- Passes, for float and for double reals -----------------------------------------------------------------------
 */

#include "compress/cuda/select.cuh"

#define SLIM_PASTE_(a, b) a##b
#define SLIM_PASTE(a, b) SLIM_PASTE_(a, b)

#define REAL float
#define SLIM_REAL_IS_FLOAT 1
#define SLIM_NAME(name) SLIM_PASTE(name, F)
#include "compress/cuda/passes.cuh"
#include "compress/cuda/select_passes.cuh"
#include "compress/cuda/signs.cuh"
#undef REAL
#undef SLIM_REAL_IS_FLOAT
#undef SLIM_NAME

#define REAL double
#define SLIM_REAL_IS_FLOAT 0
#define SLIM_NAME(name) SLIM_PASTE(name, D)
#include "compress/cuda/passes.cuh"
#include "compress/cuda/select_passes.cuh"
#include "compress/cuda/signs.cuh"

/* ---- Kernels ------------------------------------------------------------------------------------------------------
 */

#define SLIM_KERNEL_FOR(blocks, name, args) \
  extern "C" __global__ void __launch_bounds__(SLIM_MAX_THREADS, blocks) slim_##name(const args a)
#define SLIM_KERNEL(name, args) SLIM_KERNEL_FOR(1, name, args)

#define SLIM_LEAF_KERNELS(name, blocks)                    \
  SLIM_KERNEL_FOR(blocks, encode_##name, slimEncodeArgs) { \
    SLIM_DYN_SHARED(float, shared);                        \
    encodeUnitsF(slimShape_##name, &a, shared);            \
  }                                                        \
  SLIM_KERNEL_FOR(blocks, reduce_##name, slimReduceArgs) { \
    SLIM_DYN_SHARED(float, shared);                        \
    reduceUnitsF(slimShape_##name, &a, shared);            \
  }                                                        \
  SLIM_KERNEL_FOR(blocks, decode_##name, slimDecodeArgs) { \
    SLIM_DYN_SHARED(float, shared);                        \
    decodeUnitsF(slimShape_##name, &a, shared);            \
  }
SLIM_LEAVES(SLIM_LEAF_KERNELS)

/* Other trees may need more scratch than there is shared memory. */
SLIM_FN float* slimArena(float* scratch, uint64_t floats, float* shared) {
  return scratch ? scratch + blockIdx.x * floats : shared;
}
#define SLIM_TREE_KERNELS(name, shape, REAL, blocks)                             \
  SLIM_KERNEL_FOR(blocks, encode_##name, slimEncodeArgs) {                       \
    SLIM_DYN_SHARED(float, shared);                                              \
    encodeUnits##REAL(shape, &a, slimArena(a.scratch, a.scratchFloats, shared)); \
  }                                                                              \
  SLIM_KERNEL_FOR(blocks, reduce_##name, slimReduceArgs) {                       \
    SLIM_DYN_SHARED(float, shared);                                              \
    reduceUnits##REAL(shape, &a, slimArena(a.scratch, a.scratchFloats, shared)); \
  }                                                                              \
  SLIM_KERNEL_FOR(blocks + 1, decode_##name, slimDecodeArgs) {                   \
    SLIM_DYN_SHARED(float, shared);                                              \
    decodeUnits##REAL(shape, &a, slimArena(a.scratch, a.scratchFloats, shared)); \
  }
SLIM_TREE_KERNELS(flat, slimShape_flat, F, 2)
SLIM_TREE_KERNELS(tree, slimShape_tree, F, 1)
SLIM_TREE_KERNELS(wide, slimShape_tree, D, 1)

SLIM_KERNEL(reduce_signs, slimReduceArgs) {
  SLIM_DYN_SHARED(float, shared);
  float* arena = slimArena(a.scratch, a.scratchFloats, shared);
  if (a.type == slimFloat64)
    reduceSignsD(&a, arena);
  else
    reduceSignsF(&a, arena);
}
SLIM_KERNEL(survey, slimEncodeArgs) {
  SLIM_DYN_SHARED(float, shared);
  slimSurveyUnits(&a, slimArena(a.scratch, a.scratchFloats, shared));
}
SLIM_KERNEL(shape, slimShapeArgs) { slimMakeShapes(&a); }
SLIM_KERNEL(reduce_select, slimReduceArgs) {
  SLIM_DYN_SHARED(float, shared);
  if (a.type == slimFloat64)
    reduceSelectedD(&a, shared);
  else
    reduceSelectedF(&a, shared);
}
SLIM_KERNEL(decode_select, slimDecodeArgs) {
  SLIM_DYN_SHARED(float, shared);
  if (a.type == slimFloat64)
    decodeSelectedD(&a, shared);
  else
    decodeSelectedF(&a, shared);
}
SLIM_KERNEL(select_start, slimSelectArgs) { slimSelectStart(&a); }
SLIM_KERNEL(select_count, slimSelectArgs) { slimSelectCount(&a); }
SLIM_KERNEL(select_narrow, slimSelectArgs) { slimSelectNarrow(&a); }
SLIM_KERNEL(select_tally, slimSelectArgs) { slimSelectTally(&a); }
SLIM_KERNEL(select_scan, slimSelectArgs) { slimSelectScan(&a); }
SLIM_KERNEL(select_take, slimSelectArgs) { slimSelectTake(&a); }
SLIM_KERNEL(select_encode, slimSelectArgs) {
  SLIM_DYN_SHARED(float, shared);
  slimSelectEncode(&a, slimArena(a.scratch, a.scratchFloats, shared));
}
SLIM_KERNEL(select_decode, slimSelectArgs) {
  SLIM_DYN_SHARED(float, shared);
  slimSelectDecode(&a, slimArena(a.scratch, a.scratchFloats, shared));
}
SLIM_KERNEL(select_update, slimSelectArgs) {
  SLIM_DYN_SHARED(float, shared);
  if (a.type == slimFloat64)
    selectUpdateD(&a, shared);
  else
    selectUpdateF(&a, shared);
}

/* Arrays: four elements a thread, at once where all is aligned. `one` and `four` say what becomes of them. */
#define SLIM_EACH_FOUR(j, n)                                                          \
  for (uint64_t j = (uint64_t)blockIdx.x * slimThreads() + slimThread(); 4 * j < (n); \
       j += (uint64_t)gridDim.x * slimThreads())

SLIM_KERNEL(dense_encode, slimDenseArgs) {
  float* to = (float*)(void*)((uint8_t*)a.dst + sizeof(slimHeader));
  const bool wide = a.type == slimFloat64;
  const int32_t type = a.real && !wide ? (int32_t)slimFloat32 : a.type;
  const uint64_t bytes = a.n * (wide ? 8 : 4);
  if (blockIdx.x == 0) {
    if (slimThread() == 0)
      slimHeaderPut((uint8_t*)a.dst, &a.stamp, slimStepAt(a.step, &a.stamp), a.n, a.first,
                    sizeof(slimHeader) + slimRoundUp(bytes, 16), slimHeaderDense);
    slimFillGap((uint8_t*)to, bytes, slimRoundUp(bytes, 16));
  }
  SLIM_EACH_FOUR(j, a.n) {
    const uint64_t i = 4 * j;
    if (!wide && i + 4 <= a.n && slimAt16(a.src)) {
      ((float4*)(void*)to)[j] = slimFour(type, a.src, i);
      continue;
    }
    for (uint32_t k = 0; k < 4 && i + k < a.n; k++)
      if (wide)
        ((double*)(void*)to)[i + k] = ((const double*)a.src)[i + k];
      else
        to[i + k] = slimElementF(type, a.src, i + k);
  }
}
SLIM_KERNEL(dense_reduce, slimDenseArgs) {
  const uint8_t* src = (const uint8_t*)a.src + sizeof(slimHeader);
  SLIM_EACH_FOUR(j, a.n) {
    const uint64_t i = 4 * j;
    if (a.type != slimFloat64 && i + 4 <= a.n && slimAt16(a.dst)) {
      float4 sum = make_float4(0, 0, 0, 0);
      for (uint32_t r = 0; r < a.ranks; r++) {
        const float4 x = ((const float4*)(const void*)(src + r * a.stride))[j];
        sum = make_float4(sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w);
      }
      const float w = (float)a.factor;
      ((float4*)a.dst)[j] = make_float4(sum.x * w, sum.y * w, sum.z * w, sum.w * w);
      continue;
    }
    for (uint64_t at = i; at < i + 4 && at < a.n; at++) {
      double wide = 0;
      float sum = 0;
      for (uint32_t r = 0; r < a.ranks; r++)
        if (a.type == slimFloat64)
          wide += ((const double*)(const void*)(src + r * a.stride))[at];
        else
          sum += ((const float*)(const void*)(src + r * a.stride))[at];
      if (a.type == slimFloat64)
        ((double*)a.dst)[at] = wide * a.factor;
      else
        ((float*)a.dst)[at] = sum * (float)a.factor;
    }
  }
}
/* dst ← factor·src, both of any type. */
SLIM_FN void slimConvert(const slimDenseArgs* a, int32_t from, int32_t to, double factor) {
  SLIM_EACH_FOUR(j, a->n) {
    const uint64_t i = 4 * j;
    if (a->type != slimFloat64 && i + 4 <= a->n && slimAt16(a->src) && slimAt16(a->dst)) {
      const float4 x = slimFour(from, a->src, i);
      const float f = (float)factor;
      slimPutFour(to, a->dst, i, factor == 1 ? x : make_float4(x.x * f, x.y * f, x.z * f, x.w * f));
      continue;
    }
    for (uint64_t at = i; at < i + 4 && at < a->n; at++)
      if (a->type == slimFloat64)
        ((double*)a->dst)[at] = ((const double*)a->src)[at] * factor;
      else
        slimPutElementF(to, a->dst, at, slimElementF(from, a->src, at) * (float)factor);
  }
}
SLIM_FN int32_t slimRealType(int32_t type) { return type == slimFloat64 ? (int32_t)slimFloat64 : (int32_t)slimFloat32; }
SLIM_KERNEL(from_real, slimDenseArgs) { slimConvert(&a, slimRealType(a.type), a.type, a.factor); }
SLIM_KERNEL(premultiply, slimDenseArgs) {
  const double factor = !a.scalar               ? a.factor
                        : a.type == slimFloat64 ? *(const double*)a.scalar
                                                : slimElementF(a.type, a.scalar, 0);
  slimConvert(&a, a.type, a.type, factor);
}
SLIM_KERNEL(scale, slimDenseArgs) {
  slimDenseArgs self = a;
  self.src = a.dst;
  slimConvert(&self, slimRealType(a.type), slimRealType(a.type), a.factor);
}
SLIM_KERNEL(scale_memory, slimDenseArgs) {
  __shared__ uint4 words[SLIM_PIECE_STEP / 8];
  const slimDraw draw = slimDrawOf(&a.stamp, *a.step + 1, a.stamp.rank);
  const float f = (float)a.factor;
  uint16_t* s = (uint16_t*)a.dst;
  for (uint64_t tile = blockIdx.x; tile * SLIM_PIECE_STEP < a.n; tile += gridDim.x) {
    const uint64_t off = tile * SLIM_PIECE_STEP;
    const uint16_t* d = slimMemoryDraws(&draw, 1, off, SLIM_PIECE_STEP, (float*)(void*)words);
    SLIM_EACH(i, slimTileValid(a.n, off)) s[off + i] = slimToMemory(slimFromBf16(s[off + i]) * f, d[i]);
  }
}
SLIM_KERNEL(copy_finite, slimDenseArgs) {
  SLIM_EACH_FOUR(j, a.n)
  for (uint64_t at = 4 * j; at < 4 * j + 4 && at < a.n; at++)
    if (a.type == slimFloat64) {
      const double x = ((const double*)a.src)[at];
      if ((slimBits64(x) << 1 >> 53) < 2047) ((double*)a.dst)[at] = x;
    } else {
      const float x = ((const float*)a.src)[at];
      if (slimFinite(x)) ((float*)a.dst)[at] = x;
    }
}
/* A warp has a group. */
SLIM_KERNEL(take_finite, slimDenseArgs) {
  const uint64_t groups = (a.n + 63) / 64, warps = (uint64_t)gridDim.x * (slimThreads() / 32);
  const uint32_t lane = slimThread() % 32;
  const bool wide = a.type == slimFloat64;
  for (uint64_t g = (uint64_t)blockIdx.x * (slimThreads() / 32) + slimThread() / 32; g < groups; g += warps) {
    const uint64_t i = 64 * g + lane, j = i + 32;
    double x = 0, y = 0;
    if (i < a.n) x = wide ? slimElementD(a.type, a.src, i) : (double)slimElementF(a.type, a.src, i);
    if (j < a.n) y = wide ? slimElementD(a.type, a.src, j) : (double)slimElementF(a.type, a.src, j);
    if (__ballot_sync(0xffffffffu, (slimBits64(x) << 1 >> 53) == 2047 || (slimBits64(y) << 1 >> 53) == 2047)) continue;
    if (i < a.n) wide ? slimPutElementD(a.type, a.dst, i, x) : slimPutElementF(slimFloat32, a.dst, i, (float)x);
    if (j < a.n) wide ? slimPutElementD(a.type, a.dst, j, y) : slimPutElementF(slimFloat32, a.dst, j, (float)y);
  }
}
SLIM_KERNEL(next_step, slimStepArgs) {
  if (slimThread() == 0) *a.step += 1;
}
