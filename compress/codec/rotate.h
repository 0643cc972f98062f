/* rotate: random signs, then a Walsh-Hadamard transform: spreads a block's energy evenly before a quantiser (FO-SGD,
 * arXiv 2405.11095; EDEN). Orthonormal, so classes pass through. format.md §6. */
#ifndef SLIM_CODEC_ROTATE_H_
#define SLIM_CODEC_ROTATE_H_

#include "compress/block.h"
#include "compress/option.h"

SLIM_OPTIONS(rotate) = {{"codec", slimOptionNode, NULL, 0, 0, NULL},
                        {"block", slimOptionBlock, NULL, 0, 0, NULL},
                        {"signs", slimOptionChoice, "redrawn", 0, 0, "redrawn|fixed"},
                        SLIM_END_OPTIONS};

static inline const char* slimSetup_rotate(slimNode* node, const slimOptionValues* o) {
  node->levels = o->given[1] ? (uint32_t)o->value[1] : 0; /* 0: the inner codec's block */
  node->fixedSigns = o->value[2] == 1;
  return NULL;
}

#ifdef SLIM_ISA /* the kernels */

/* Vectors of the machine's own width. */
#if defined(__AVX512F__)
enum { SLIM_LANES = 16 };
#elif defined(__AVX2__)
enum { SLIM_LANES = 8 };
#else
enum { SLIM_LANES = 4 };
#endif
typedef float slimVector __attribute__((vector_size(4 * SLIM_LANES), aligned(4), may_alias));
typedef uint32_t slimVectorBits __attribute__((vector_size(4 * SLIM_LANES)));

/* Lane j: (x[j] + x[j^h]) where j has bit h clear, x[j^h] − x[j] where it is set. */
static inline slimVector slimButterflyLanes(slimVector x, uint32_t h) {
  slimVectorBits other, sign;
  for (uint32_t j = 0; j < SLIM_LANES; j++) {
    other[j] = j ^ h;
    sign[j] = j & h ? 0x80000000u : 0;
  }
  slimVector swapped = __builtin_shuffle(x, other);
  return swapped + (slimVector)((slimVectorBits)x ^ sign);
}

/* In place, strides 1, 2, 4, …, n/2; unnormalised. n ≥ 64, a power of two. */
static inline void slimHadamard(float* v, uint32_t n) {
  for (uint32_t i = 0; i < n; i += SLIM_LANES) {
    slimVector x = *(slimVector*)(v + i);
    for (uint32_t h = 1; h < SLIM_LANES; h *= 2) x = slimButterflyLanes(x, h);
    *(slimVector*)(v + i) = x;
  }
  uint32_t h = SLIM_LANES;
  for (; 2 * h < n; h *= 4) /* two strides a pass over memory */
    for (uint32_t i = 0; i < n; i += 4 * h)
      for (uint32_t j = i; j < i + h; j += SLIM_LANES) {
        slimVector a = *(slimVector*)(v + j), b = *(slimVector*)(v + j + h);
        slimVector c = *(slimVector*)(v + j + 2 * h), d = *(slimVector*)(v + j + 3 * h);
        slimVector ab = a + b, ba = a - b, cd = c + d, dc = c - d;
        *(slimVector*)(v + j) = ab + cd;
        *(slimVector*)(v + j + h) = ba + dc;
        *(slimVector*)(v + j + 2 * h) = ab - cd;
        *(slimVector*)(v + j + 3 * h) = ba - dc;
      }
  if (h < n)
    for (uint32_t j = 0; j < h; j += SLIM_LANES) {
      slimVector a = *(slimVector*)(v + j), b = *(slimVector*)(v + j + h);
      *(slimVector*)(v + j) = a + b;
      *(slimVector*)(v + j + h) = a - b;
    }
}

/* 2^(−k/2) for n = 2^k. */
static inline float slimRotationScale(uint32_t n) {
  uint32_t k = (uint32_t)__builtin_ctz(n);
  return (k & 1 ? 0x1.6a09e6p-1f : 1) * slimFloat((127 - k / 2) << 23);
}

/* Flips v's signs by the draws at its first index; times factor. */
static inline void slimFlip(const slimNode* node, const slimBlock* b, float* restrict out, const float* restrict v,
                            float factor, uint32_t* restrict words) {
  slimDraw draw = *b->draw;
  if (node->fixedSigns) draw.step = 0;
  /* A counter covers 128 elements; a block of 64 may start in its middle. */
  slimDrawWords(&draw, slimDrawRotation, node->branch, true, b->first / 128 * 128, b->size + 64, 32, words);
  words += b->first % 128 / 32;
  for (uint32_t i = 0; i < b->size; i += 32) {
    const uint32_t w = words[i / 32];
    for (uint32_t j = 0; j < 32; j++)
      out[i + j] = slimFloat(slimBits(v[i + j] * factor) ^ (w << (31 - j) & 0x80000000u));
  }
}

static inline bool slimEncodeNode(const slimNode* node, const slimBlock* region, const float* v, uint8_t* const* sec);
static inline void slimDecodeNode(const slimNode* node, const slimBlock* region, uint8_t* const* sec, float* out);

/* One block holds size/levels rotations, and the inner codec's blocks. */
static inline bool slimEncode_rotate(const slimNode* node, const slimBlock* b, const float* restrict v,
                                     uint8_t* const* sec) {
  const uint32_t n = b->size;
  const slimNormal normal = slimNormalise(b->maxBits);
  if (normal.e >= 100) return false;
  const float c = slimRotationScale(node->levels);
  float* restrict z = b->scratch;
  slimFlip(node, b, z, v, normal.p, (uint32_t*)(void*)(z + n));
  for (uint32_t i = 0; i < n; i += node->levels) slimHadamard(z + i, node->levels);
  for (uint32_t i = 0; i < n; i++) z[i] *= c;
  const slimBlock inner = {n, n, slimMaxBits(z, n), b->scale * normal.up, b->first, b->draw, z + n};
  return slimEncodeNode(node->inner[0], &inner, z, sec);
}
static inline void slimDecode_rotate(const slimNode* node, const slimBlock* b, uint8_t* const* sec,
                                     float* restrict out) {
  const uint32_t n = b->size;
  float* restrict z = b->scratch;
  const slimBlock inner = {n, n, 0, 1, b->first, b->draw, z + n};
  slimDecodeNode(node->inner[0], &inner, sec, z);
  for (uint32_t i = 0; i < n; i += node->levels) slimHadamard(z + i, node->levels);
  slimFlip(node, b, out, z, slimRotationScale(node->levels), (uint32_t*)(void*)(z + n));
}

#endif

#endif
