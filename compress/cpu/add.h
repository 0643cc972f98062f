/* Sums of decoded blocks that never leave the registers, for the codecs whose values each come from a code and a scale:
 * what reduce adds up, and what feedback subtracts. The values and the order of additions are those of slimDecode_…. */
#ifndef SLIM_COMPRESS_CPU_ADD_H_
#define SLIM_COMPRESS_CPU_ADD_H_

#include "compress/codec/fp8.h"
#include "compress/codec/natural.h"
#include "compress/codec/qsgd.h"
#include "compress/kernels.h"

/* One message's block. table: the values of codes 0, 1, …, over again, where registers can be looked up in. */
typedef struct {
  slimVector table __attribute__((aligned(4 * SLIM_LANES)));
  const uint8_t *codes, *signs;
  float scale;
} slimAddend;

/* Vectors added at a time. */
#if SLIM_LANES == 16
#define SLIM_TOGETHER 4
#else
#define SLIM_TOGETHER (32 / SLIM_LANES)
#endif
#define SLIM_TOGETHER_AT(statement)                                       \
  _Pragma("GCC unroll 8") for (size_t j_ = 0; j_ < SLIM_TOGETHER; j_++) { \
    const size_t i = j_ * SLIM_LANES, j = i % 32;                         \
    (void)j;                                                              \
    statement;                                                            \
  }

/* value: of the i-th element from `codes` on, of `bits` bits each, and `signs`, whose place in a word of 32 is the
 * constant j; of addend *q. plus(a, value): how it is added. The memory ahead of each loop is fetched bit by bit: a
 * burst of prefetches would block the loads behind it. */
#define SLIM_ADD(bits, value, plus)                                                                                 \
  for (size_t at_ = 0; at_ < size; at_ += SLIM_TOGETHER * SLIM_LANES) {                                             \
    slimVector sum_[SLIM_TOGETHER];                                                                                 \
    if (start)                                                                                                      \
      SLIM_TOGETHER_AT(sum_[j_] = slimLoad(start + at_, i))                                                         \
    else                                                                                                            \
      SLIM_TOGETHER_AT(sum_[j_] = (slimVector){0})                                                                  \
    for (const slimAddend* q = from; q < from + count; q++) {                                                       \
      const uint8_t *codes = q->codes + at_ * (bits) / 8, *signs = q->signs + at_ / 8;                              \
      (void)signs;                                                                                                  \
      slimPrefetch(codes + SLIM_AHEAD / 8, SLIM_TOGETHER * SLIM_LANES * (bits) / 8);                                \
      SLIM_TOGETHER_AT(sum_[j_] = plus(sum_[j_], value))                                                            \
    }                                                                                                               \
    SLIM_TOGETHER_AT(sum_[j_] *= weight)                                                                            \
    if (more) {                                                                                                     \
      slimPrefetch((const char*)(more + at_) + SLIM_AHEAD, 4 * SLIM_TOGETHER * SLIM_LANES);                         \
      SLIM_TOGETHER_AT(sum_[j_] += slimLoad(more + at_, i))                                                         \
    }                                                                                                               \
    SLIM_TOGETHER_AT(most = slimLarger(most, (slimBitsVector)slimAbs(sum_[j_])); slimStore(out + at_, i, sum_[j_])) \
  }
#define SLIM_TAKE(bits, value, plus)                                                                                  \
  for (size_t at_ = 0; at_ < size; at_ += SLIM_TOGETHER * SLIM_LANES) {                                               \
    const uint8_t *codes = q->codes + at_ * (bits) / 8, *signs = q->signs + at_ / 8;                                  \
    (void)signs;                                                                                                      \
    slimPrefetch(codes + SLIM_AHEAD / 8, SLIM_TOGETHER * SLIM_LANES * (bits) / 8);                                    \
    if (at_ >= fetchFrom) slimPrefetch((const char*)(out + at_) + SLIM_AHEAD_OF_TWO, 4 * SLIM_TOGETHER * SLIM_LANES); \
    SLIM_TOGETHER_AT(slimStore(out + at_, i, plus(slimLoad(start + at_, i), -(value))))                               \
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
static inline bool slimIsAddedUp(const slimTree* tree) { return !slimSelector(tree) && slimIsAdded(slimRoot(tree)); }
/* The values of codes in the lowest bits of lanes. */
SLIM_ALWAYS slimVector slimCodeValues(const slimAddend* q, slimSignedVector codes, const uint32_t bits,
                                      int32_t levels) {
#if SLIM_LANES > 4
  if (1u << bits <= SLIM_LANES) return slimLookUp((const float*)&q->table, SLIM_LANES, codes);
#endif
  return slimToFloats((codes & ((1 << bits) - 1)) - levels) * q->scale;
}
/* The value's expression for each of them. The product of e4m3 and its scale, a power of two, is exact. */
#define SLIM_PLUS(a, value) (a) + (value)
#define SLIM_PLUS_SCALED(a, value) slimExactMulAdd(value, slimAll(q->scale), a)
#define SLIM_ADDED(LOOP)                                                                            \
  switch (node->op) {                                                                               \
    case slimOp_fp16:                                                                               \
      LOOP(16, slimHalfFloats(*(const slimHalfVector*)(const void*)(codes + 2 * i)), SLIM_PLUS)     \
      break;                                                                                        \
    case slimOp_bf16:                                                                               \
      LOOP(16, (slimVector)(slimHalvesAt(codes, i) << 16), SLIM_PLUS)                               \
      break;                                                                                        \
    case slimOp_fp8:                                                                                \
      if (node->e5m2)                                                                               \
        LOOP(8, slimE5m2At(codes, i) * q->scale, SLIM_PLUS)                                         \
      else                                                                                          \
        LOOP(8, slimE4m3At(codes, i), SLIM_PLUS_SCALED)                                             \
      break;                                                                                        \
    case slimOp_sign:                                                                               \
    case slimOp_onebit:                                                                             \
      LOOP(1, (slimVector)(slimSignsOf(slimStreamAt(codes, i), j) ^ slimBits(q->scale)), SLIM_PLUS) \
      break;                                                                                        \
    case slimOp_natural:                                                                            \
      LOOP(8,                                                                                       \
           (slimVector)(slimBytesAt(codes, i) << 23) *                                              \
               (slimVector)(slimSignsOf(slimStreamAt(signs, i), j) ^ slimBits(q->scale)),           \
           SLIM_PLUS)                                                                               \
      break;                                                                                        \
    default: /* ternary, qsgd */                                                                    \
      if (node->bits == 2)                                                                          \
        LOOP(2, slimCodeValues(q, slimPairsAt(codes, i), 2, levels), SLIM_PLUS)                     \
      else if (node->bits == 4)                                                                     \
        LOOP(4, slimCodeValues(q, slimNibblesAt(codes, i), 4, levels), SLIM_PLUS)                   \
      else                                                                                          \
        LOOP(8, slimToFloats(slimBytesAt(codes, i) - levels) * q->scale, SLIM_PLUS)                 \
  }
#if SLIM_LANES == 16
/* ±scale added and taken: minus where the bit is 1. */
SLIM_ALWAYS slimVector slimAddByMask(slimVector sum, float scale, __mmask16 signs) {
  const __m512 a = (__m512)sum, s = _mm512_set1_ps(scale);
  return (slimVector)_mm512_mask_sub_ps(_mm512_add_ps(a, s), signs, a, s);
}
SLIM_ALWAYS __mmask16 slimMaskAt(const uint8_t* stream, size_t i) {
  return _load_mask16((__mmask16*)(uintptr_t)(stream + i / 8));
}
/* 64 elements from `at` of slimAddSigns; columns: to which their magnitudes are added; or NULL. */
SLIM_ALWAYS slimBitsVector slimAddSigns64(size_t at, const uint8_t* const* stream, slimVector table,
                                          const slimAddend* from, uint32_t count, float weight, const float* more,
                                          const bool four, float* out, slimVector* columns, slimBitsVector most) {
  /* bytes of 64 elements in order → 4 in a lane, 16 apart */
  const __m512i gather = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i turn = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  __m512i index = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (uint32_t r = 0; r < 4; r++) {
    uint64_t mask;
    memcpy(&mask, stream[r] + at / 8, 8);
    index = _mm512_mask_add_epi8(index, mask, index, _mm512_set1_epi8((char)(1 << r)));
  }
  index = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(gather, index), turn);
  if (four || more) slimPrefetch((const char*)(more + at) + SLIM_AHEAD, 256);
#pragma GCC unroll 4
  for (size_t j = 0; j < 64; j += 16, index = _mm512_srli_epi32(index, 8)) {
    slimVector sum = (slimVector)_mm512_permutexvar_ps(index, (__m512)table);
    if (!four && count > 4) {
      for (const slimAddend* q = from + 4; q < from + count; q++)
        sum = slimAddByMask(sum, q->scale, slimMaskAt(q->codes + at / 8, j));
      sum *= weight;
    }
    if (four || more) sum += slimLoad(more + at, j);
    const slimVector magnitude = slimAbs(sum);
    if (columns) columns[j / 16] += magnitude;
    most = slimLarger(most, (slimBitsVector)magnitude);
    slimStore(out + at, j, sum);
  }
  return most;
}
/* slimAddBlocks from 0, of signs. Four messages' signs choose among 16 sums, those that additions in turn give.
 * magnitudes: tree(|out|) of whole columns, where that comes on the way; or NULL. */
SLIM_ALWAYS uint32_t slimAddSigns(size_t size, const slimAddend* from, uint32_t count, float weight, const float* more,
                                  float* out, float* magnitudes) {
  const slimBitsVector lane = SLIM_LIST16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const uint32_t chosen = count < 4 ? count : 4;
  const uint8_t* stream[4];
  slimVector table = {0};
  for (uint32_t r = 0; r < 4; r++) {
    stream[r] = from[r < chosen ? r : 0].codes;
    if (r < chosen) table += (slimVector)((lane << (31 - r) & 0x80000000u) ^ slimBits(from[r].scale));
  }
  if (count <= 4) table *= weight;
  slimBitsVector most = {0};
  if (count <= 4 && more && magnitudes) {
    slimVector columns[SLIM_COLUMNS];
    slimTreeStart(columns);
    for (size_t at = 0; at < size; at += 128) {
      most = slimAddSigns64(at, stream, table, from, count, weight, more, true, out, columns, most);
      most = slimAddSigns64(at + 64, stream, table, from, count, weight, more, true, out, columns + 4, most);
    }
    *magnitudes = slimTreeFold(columns);
  } else {
    for (size_t at = 0; at < size; at += 64)
      most = slimAddSigns64(at, stream, table, from, count, weight, more, false, out, NULL, most);
  }
  return slimLargest(most);
}
#endif
/* out = (start + Σ value)·weight + more; start, more: may be NULL, for 0. The largest bits of out's magnitudes.
 * magnitudes: as slimAddSigns'. */
static uint32_t slimAddBlocks(const slimNode* node, uint32_t size, const slimAddend* from, uint32_t count,
                              const float* start, float weight, const float* more, float* out, float* magnitudes) {
  const int32_t levels = (int32_t)node->levels;
  slimBitsVector most = {0};
  SLIM_ASSUME_BLOCK(size);
#if SLIM_LANES == 16
  if (node->bits == 1 && !start) return slimAddSigns(size, from, count, weight, more, out, magnitudes);
#else
  (void)magnitudes;
#endif
  SLIM_ADDED(SLIM_ADD)
  return slimLargest(most);
}
/* out = start − value; what lies ahead of out is fetched from element fetchFrom on. */
static void slimTakeBlock(const slimNode* node, uint32_t size, const slimAddend* q, const float* start, float* out,
                          size_t fetchFrom) {
  const int32_t levels = (int32_t)node->levels;
  SLIM_ASSUME_BLOCK(size);
#if SLIM_LANES == 16
  if (node->bits == 1) {
    for (size_t at = 0; at < size; at += 64) {
      if (at >= fetchFrom) slimPrefetch((const char*)(out + at) + SLIM_AHEAD_OF_TWO, 256);
#pragma GCC unroll 4
      for (size_t j = 0; j < 64; j += 16)
        slimStore(out + at, j, slimAddByMask(slimLoad(start + at, j), -q->scale, slimMaskAt(q->codes + at / 8, j)));
    }
    return;
  }
#endif
  SLIM_ADDED(SLIM_TAKE)
}

/* Where the units of such a codec lie in a payload. */
typedef struct {
  const slimNode* node;
  size_t codes, codesStep, signs, signsStep, scales;
  float factor; /* of the scales */
} slimAdded;
static slimAdded slimAddedOf(const slimTree* tree, const slimLayout* layout) {
  const slimNode* node = slimRoot(tree);
  const uint32_t codes = node->sections - 1, scaled = node->section[0].bits == 0;
  slimAdded a = {node, layout->section[codes], node->section[codes].bytes, 0, 0, layout->section[0], 1};
  if (node->sections > 1) a.signs = layout->section[1], a.signsStep = node->section[1].bytes;
  if (!scaled) a.scales = 0;
  if (node->op == slimOp_sign) a.factor = node->value;
  if (node->op == slimOp_fp8 && !node->e5m2) a.factor = 0x1p8f; /* slimE4m3At's; finite, says slimStoreScale */
  return a;
}
/* A full unit, not flagged, of a message. */
SLIM_ALWAYS void slimAddendAt(slimAddend* q, const slimAdded* a, const uint8_t* payload, uint64_t unit) {
  const slimNode* node = a->node;
  q->codes = payload + a->codes + unit * a->codesStep;
  q->signs = payload + a->signs + unit * a->signsStep;
  q->scale = (a->scales ? slimLoadFloat(payload + a->scales + 4 * unit) : 1) * a->factor;
  if ((node->op != slimOp_qsgd && node->op != slimOp_ternary) || node->bits > 4) return;
  const slimSignedVector lane = SLIM_LIST16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  q->table = slimToFloats((lane & ((1 << node->bits) - 1)) - (int32_t)node->levels) * q->scale;
}

/* out = (Σ of ranks' units)·weight + more; more may be NULL. The largest bits of out's magnitudes. magnitudes: NULL, or
 * tree(|out|), of a multiple of 128 elements, if it comes on the way; else 0. */
static __attribute__((noinline)) uint32_t slimAddUnits(const slimAdded* added, uint32_t size,
                                                       const uint8_t* const* payloads, int ranks, uint64_t unit,
                                                       float weight, const float* more, float* out, float* magnitudes) {
  enum { most = 16 };
  slimAddend from[most];
  uint32_t largest = 0;
  if (magnitudes) *magnitudes = 0;
  for (int r = 0; r < ranks; r += most) {
    const int count = ranks - r < most ? ranks - r : most;
    const bool last = r + count == ranks;
#pragma GCC unroll 1
    for (int j = 0; j < count; j++) slimAddendAt(&from[j], added, payloads[r + j], unit);
    largest = slimAddBlocks(added->node, size, from, (uint32_t)count, r ? out : NULL, last ? weight : 1,
                            last ? more : NULL, out, magnitudes);
  }
  return largest;
}
/* out = start − what a message says. */
static __attribute__((noinline)) void slimTakeUnit(const slimAdded* added, uint32_t size, const uint8_t* payload,
                                                   uint64_t unit, const float* start, float* out, size_t fetchFrom) {
  slimAddend q = {.table = {0}};
  slimAddendAt(&q, added, payload, unit);
  slimTakeBlock(added->node, size, &q, start, out, fetchFrom);
}

#endif
