/* rotate: random signs, then a Walsh-Hadamard transform: spreads a block's energy evenly before a quantiser (FO-SGD,
 * arXiv 2405.11095; EDEN). Orthonormal, so classes pass through. format.md §6. */
#ifndef SLIM_CODEC_ROTATE_H_
#define SLIM_CODEC_ROTATE_H_

#include "compress/block.h"
#ifndef SLIM_CUDA
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

#endif

#if defined(SLIM_ISA) /* the CPU kernels */

/* Lane j: x[j^h] + x[j] where bit h of j is clear, x[j^h] − x[j] where it is set. */
#define SLIM_BUTTERFLY(x, other, negative) \
  slimAddSigned(__builtin_shuffle((x), (slimBitsVector)other), (x), (slimBitsVector)negative << 31)
static inline slimVector slimHadamardLanes(slimVector x) {
  x = SLIM_BUTTERFLY(x, SLIM_LIST16(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14),
                     SLIM_LIST16(0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1));
  x = SLIM_BUTTERFLY(x, SLIM_LIST16(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13),
                     SLIM_LIST16(0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1));
#if SLIM_LANES > 4
  x = SLIM_BUTTERFLY(x, SLIM_LIST16(4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11),
                     SLIM_LIST16(0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1));
#endif
#if SLIM_LANES > 8
  x = SLIM_BUTTERFLY(x, SLIM_LIST16(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7),
                     SLIM_LIST16(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
#endif
  return x;
}

/* Vectors that one step keeps in registers. */
#if SLIM_LANES == 16
#define SLIM_RADIX 16
#else
#define SLIM_RADIX 8
#endif
/* Strides 1, 2, … , radix/2 between the vectors v[0], v[stride], …; the lanes first if `lanes`. */
#define SLIM_RADIX_STEP(v, stride, radix, lanes)                                                          \
  do {                                                                                                    \
    slimVector x_[radix];                                                                                 \
    _Pragma("GCC unroll 16") for (uint32_t j_ = 0; j_ < (radix); j_++) {                                  \
      x_[j_] = slimLoad(v, j_ * (stride));                                                                \
      if (lanes) x_[j_] = slimHadamardLanes(x_[j_]);                                                      \
    }                                                                                                     \
    _Pragma("GCC unroll 4") for (uint32_t h_ = 1; h_ < (radix); h_ *= 2)                                  \
        _Pragma("GCC unroll 16") for (uint32_t j_ = 0; j_ < (radix); j_++) if (!(j_ & h_)) {              \
      const slimVector a_ = x_[j_], b_ = x_[j_ + h_];                                                     \
      x_[j_] = a_ + b_;                                                                                   \
      x_[j_ + h_] = a_ - b_;                                                                              \
    }                                                                                                     \
    _Pragma("GCC unroll 16") for (uint32_t j_ = 0; j_ < (radix); j_++) slimStore(v, j_*(stride), x_[j_]); \
  } while (0)
#define SLIM_RADIX_PASS(v, n, h, radix)                \
  for (uint32_t i_ = 0; i_ < (n); i_ += (radix) * (h)) \
    for (uint32_t k_ = 0; k_ < (h); k_ += SLIM_LANES) SLIM_RADIX_STEP((v) + i_ + k_, h, radix, false)

/* In place, strides 1, 2, 4, …, n/2; unnormalised. n ≥ 64, a power of two. */
static inline void slimHadamard(float* v, uint32_t n) {
  uint32_t h;
  if (n >= SLIM_RADIX * SLIM_LANES) {
    h = SLIM_RADIX * SLIM_LANES;
    for (uint32_t i = 0; i < n; i += h) SLIM_RADIX_STEP(v + i, SLIM_LANES, SLIM_RADIX, true);
  } else {
    h = 4 * SLIM_LANES;
    for (uint32_t i = 0; i < n; i += h) SLIM_RADIX_STEP(v + i, SLIM_LANES, 4, true);
  }
  for (; SLIM_RADIX * h <= n; h *= SLIM_RADIX) SLIM_RADIX_PASS(v, n, h, SLIM_RADIX);
  for (; 4 * h <= n; h *= 4) SLIM_RADIX_PASS(v, n, h, 4);
  if (h < n) SLIM_RADIX_PASS(v, n, h, 2);
}
/* In each n of v's size values. */
static inline void slimHadamards(float* v, uint32_t size, uint32_t n) {
  for (uint32_t i = 0; i < size; i += n) slimHadamard(v + i, n);
}

#endif
#if defined(SLIM_ISA) || defined(SLIM_CUDA)

/* 2^(−k/2) for n = 2^k. */
SLIM_FN float slimRotationScale(uint32_t n) {
  const uint32_t k = slimLog2(n);
  return (k & 1 ? 0x1.6a09e6p-1f : 1) * slimFloat((127 - k / 2) << 23);
}

/* The signs of a block that begins at index first. */
SLIM_FN void slimTurnSigns(const slimNode* node, const slimDraw* of, uint64_t first, uint32_t size,
                           uint32_t* restrict words) {
  slimDraw draw = *of;
  if (node->fixedSigns) draw.step = 0;
  /* A counter covers 128 elements; a block of 64 may start in its middle. */
  slimDrawWords(&draw, slimDrawRotation, node->branch, true, first / 128 * 128, size + 64, 32, words);
}
/* Flips v's signs by those; times factor. */
SLIM_FN void slimFlip(const slimNode* node, const slimBlock* b, float* restrict out, const float* restrict v,
                      float factor, uint32_t* restrict scratch) {
#ifdef SLIM_WARP
  (void)node, (void)scratch;
  const uint32_t* words = &b->signs;
#else
  slimTurnSigns(node, b->draw, b->first, b->size, scratch);
  const uint32_t* words = scratch + SLIM_FIRST_WORD(b->first);
#endif
  SLIM_EACH_WORD(i, b->size)
  SLIM_EACH_LANES(j) slimStore(out, i + j, slimFlipped(slimLoad(v, i + j) * factor, slimSignsOf(words[i / 32], j)));
}

/* v rotated into z, and the inner codec's block there; false: e is too large. Scratch: z, then the inner codec's.
 */
SLIM_FN bool slimRotate(const slimNode* node, const slimBlock* b, const float* restrict v, float* restrict z,
                        slimBlock* inner) {
  const uint32_t n = b->size;
  const slimNormal normal = slimNormalise(b->maxBits);
  if (normal.e >= 100) return false;
  const float c = slimRotationScale(node->levels) * normal.up;
  slimFlip(node, b, z, v, normal.p, (uint32_t*)(void*)(z + n));
  slimHadamards(z, n, node->levels);
  uint32_t maxBits = 0;
  SLIM_ASSUME_BLOCK(n);
  SLIM_EACH(i, n) {
    z[i] *= c;
    const uint32_t bits = slimBits(z[i]) & 0x7fffffffu;
    maxBits = bits > maxBits ? bits : maxBits;
  }
  *inner = *b;
  inner->nv = n;
  inner->maxBits = slimMostOfAll(maxBits);
  inner->scratch = z + n;
  return true;
}
SLIM_FN void slimRotateBack(const slimNode* node, const slimBlock* b, float* restrict out, float* restrict z) {
  slimHadamards(z, b->size, node->levels);
  slimFlip(node, b, out, z, slimRotationScale(node->levels), (uint32_t*)(void*)(z + b->size));
}

#endif
#ifdef SLIM_ISA

static inline bool slimEncodeNode(const slimNode* node, const slimBlock* region, const float* v, uint8_t* const* sec);
static inline void slimDecodeNode(const slimNode* node, const slimBlock* region, uint8_t* const* sec, float* out);

/* One block holds size/levels rotations, and the inner codec's blocks. */
static inline bool slimEncode_rotate(const slimNode* node, const slimBlock* b, const float* restrict v,
                                     uint8_t* const* sec) {
  slimBlock inner;
  return slimRotate(node, b, v, b->scratch, &inner) && slimEncodeNode(slimInner(node, 0), &inner, b->scratch, sec);
}
static inline void slimDecode_rotate(const slimNode* node, const slimBlock* b, uint8_t* const* sec,
                                     float* restrict out) {
  slimBlock inner = *b;
  inner.nv = b->size;
  inner.scratch = b->scratch + b->size;
  slimDecodeNode(slimInner(node, 0), &inner, sec, b->scratch);
  slimRotateBack(node, b, out, b->scratch);
}

#endif

#endif
