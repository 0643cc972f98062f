/* Sums of decoded blocks that never leave the registers, for the codecs whose values each come from a code and a scale:
 * what reduce adds up, and what feedback subtracts. The values and the order of additions are those of slimDecode_…. */
#ifndef SLIM_COMPRESS_CPU_ADD_H_
#define SLIM_COMPRESS_CPU_ADD_H_

#include "compress/codec/fp8.h"
#include "compress/codec/natural.h"
#include "compress/codec/qsgd.h"
#include "compress/payload.h"

/* One message's block. */
typedef struct {
  const uint8_t *codes, *signs;
  float scale;
} slimAddend;

/* Vectors added at a time. */
#if SLIM_LANES == 16
#define SLIM_TOGETHER 4
#else
#define SLIM_TOGETHER (32 / SLIM_LANES)
#endif

/* out = (start + Σ value)·weight; start may be NULL for 0. value: of addend q at element i, whose place in a word of 32
 * is the constant j. */
#define SLIM_ADD(value)                                                                                       \
  for (uint32_t at_ = 0; at_ < size; at_ += SLIM_TOGETHER * SLIM_LANES) {                                     \
    slimVector sum_[SLIM_TOGETHER];                                                                           \
    for (uint32_t j_ = 0; j_ < SLIM_TOGETHER; j_++)                                                           \
      sum_[j_] = start ? slimLoad(start, at_ + j_ * SLIM_LANES) : (slimVector){0};                            \
    for (uint32_t r_ = 0; r_ < count; r_++) {                                                                 \
      const slimAddend q = from[r_];                                                                          \
      _Pragma("GCC unroll 8") for (uint32_t j_ = 0; j_ < SLIM_TOGETHER; j_++) {                               \
        const uint32_t i = at_ + j_ * SLIM_LANES, j = j_ * SLIM_LANES % 32;                                   \
        (void)j;                                                                                              \
        sum_[j_] += (value);                                                                                  \
      }                                                                                                       \
    }                                                                                                         \
    for (uint32_t j_ = 0; j_ < SLIM_TOGETHER; j_++) slimStore(out, at_ + j_ * SLIM_LANES, sum_[j_] * weight); \
  }

/* Whether slimAddUnits knows it. */
static bool slimIsAdded(const slimNode* node) {
  switch (node->op) {
    case slimOp_fp16:
    case slimOp_bf16:
    case slimOp_fp8:
    case slimOp_sign:
    case slimOp_onebit:
      return true;
    case slimOp_natural:
      return node->levels == 0;
    case slimOp_ternary:
    case slimOp_qsgd:
      return node->bits == 2 || node->bits == 4 || node->bits == 8;
    default:
      return false;
  }
}
static void slimAddBlocks(const slimNode* node, uint32_t size, const slimAddend* from, uint32_t count,
                          const float* start, float weight, float* out) {
  const int32_t levels = (int32_t)node->levels;
  SLIM_ASSUME_BLOCK(size);
  switch (node->op) {
    case slimOp_fp16:
      SLIM_ADD(slimHalfFloats(*(const slimHalfVector*)(const void*)(q.codes + 2 * i)) * q.scale);
      break;
    case slimOp_bf16:
      SLIM_ADD((slimVector)(slimHalvesAt(q.codes, i) << 16) * q.scale);
      break;
    case slimOp_fp8:
      if (node->e5m2)
        SLIM_ADD(slimE5m2At(q.codes, i) * q.scale)
      else
        SLIM_ADD(slimE4m3At(q.codes, i) * q.scale)
      break;
    case slimOp_sign:
    case slimOp_onebit:
      SLIM_ADD((slimVector)(slimSignsOf(slimStreamAt(q.codes, i), j) ^ slimBits(q.scale)));
      break;
    case slimOp_natural:
      SLIM_ADD((slimVector)(slimBytesAt(q.codes, i) << 23) *
               (slimVector)(slimSignsOf(slimStreamAt(q.signs, i), j) ^ slimBits(q.scale)));
      break;
    case slimOp_ternary:
    case slimOp_qsgd:
      if (node->bits == 2)
        SLIM_ADD(slimToFloats(slimPairsAt(q.codes, i) - levels) * q.scale)
      else if (node->bits == 4)
        SLIM_ADD(slimToFloats(slimNibblesAt(q.codes, i) - levels) * q.scale)
      else
        SLIM_ADD(slimToFloats(slimBytesAt(q.codes, i) - levels) * q.scale)
      break;
    default:
      break;
  }
}

/* The same for a full unit of each of the messages, none of them flagged; factor is 1 or -1. */
static __attribute__((noinline)) void slimAddUnits(const slimTree* tree, const slimLayout* layout,
                                                   const uint8_t* const* payloads, int ranks, uint64_t unit,
                                                   float factor, const float* start, float weight, float* out) {
  enum { most = 16 };
  slimAddend from[most];
  const slimNode* node = slimRoot(tree);
  const uint32_t codes = node->sections - 1, scaled = node->section[0].bits == 0;
  for (int r = 0; r < ranks; r += most) {
    const int count = ranks - r < most ? ranks - r : most;
    for (int j = 0; j < count; j++) {
      const uint8_t* payload = payloads[r + j];
      uint8_t* at[SLIM_MAX_SECTIONS];
      for (uint32_t i = 0; i < node->sections; i++) {
        const uint32_t bytes = node->section[i].bytes;
        at[i] = (uint8_t*)(uintptr_t)payload + layout->section[i] + unit * bytes;
        slimPrefetch(at[i] + bytes, bytes);
      }
      from[j] = (slimAddend){at[codes], at[scaled], factor};
      if (scaled) from[j].scale *= slimLoadFloat(at[0]);
      if (node->op == slimOp_sign) from[j].scale *= node->value;
    }
    slimAddBlocks(node, tree->unit, from, (uint32_t)count, start, r + count < ranks ? 1 : weight, out);
    start = out;
  }
}

#endif
