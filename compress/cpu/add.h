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
  const uint8_t *codes, *signs;
  float scale;
  slimVector table;
} slimAddend;

/* Vectors added at a time. */
#if SLIM_LANES == 16
#define SLIM_TOGETHER 4
#else
#define SLIM_TOGETHER (32 / SLIM_LANES)
#endif
#define SLIM_TOGETHER_AT(statement)                                         \
  _Pragma("GCC unroll 8") for (uint32_t j_ = 0; j_ < SLIM_TOGETHER; j_++) { \
    const uint32_t i = at_ + j_ * SLIM_LANES, j = j_ * SLIM_LANES % 32;     \
    (void)j;                                                                \
    statement;                                                              \
  }

/* value: of addend *q at element i, whose place in a word of 32 is the constant j. The memory ahead of each loop is
 * fetched bit by bit: a burst of prefetches would block the loads behind it. */
#define SLIM_ADD(value)                                                                                       \
  for (uint32_t at_ = 0; at_ < size; at_ += SLIM_TOGETHER * SLIM_LANES) {                                     \
    slimVector sum_[SLIM_TOGETHER];                                                                           \
    SLIM_TOGETHER_AT(sum_[j_] = start ? slimLoad(start, i) : (slimVector){0})                                 \
    for (const slimAddend* q = from; q < from + count; q++) {                                                 \
      slimPrefetch(q->codes + at_ * bits / 8 + SLIM_AHEAD / 8, SLIM_TOGETHER * SLIM_LANES * bits / 8);        \
      SLIM_TOGETHER_AT(sum_[j_] += (value))                                                                   \
    }                                                                                                         \
    if (more) slimPrefetch((const char*)(more + at_) + SLIM_AHEAD, 4 * SLIM_TOGETHER * SLIM_LANES);           \
    SLIM_TOGETHER_AT(sum_[j_] *= weight; if (more) sum_[j_] += slimLoad(more, i);                             \
                     most = slimLarger(most, (slimBitsVector)slimAbs(sum_[j_])); slimStore(out, i, sum_[j_])) \
  }
#define SLIM_TAKE(value)                                                                                   \
  for (uint32_t at_ = 0; at_ < size; at_ += SLIM_TOGETHER * SLIM_LANES) {                                  \
    slimPrefetch(q->codes + at_ * bits / 8 + SLIM_AHEAD / 8, SLIM_TOGETHER * SLIM_LANES * bits / 8);       \
    if (fetch) slimPrefetch((const char*)(out + at_) + SLIM_AHEAD_OF_TWO, 4 * SLIM_TOGETHER * SLIM_LANES); \
    SLIM_TOGETHER_AT(slimStore(out, i, slimLoad(start, i) - (value)))                                      \
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
/* The values of codes in the lowest bits of lanes. */
SLIM_ALWAYS slimVector slimCodeValues(const slimAddend* q, slimSignedVector codes, const uint32_t bits,
                                      int32_t levels) {
#if SLIM_LANES > 4
  if (1u << bits <= SLIM_LANES) return slimLookUp((const float*)&q->table, SLIM_LANES, codes);
#endif
  return slimToFloats((codes & ((1 << bits) - 1)) - levels) * q->scale;
}
/* The value's expression for each of them. */
#define SLIM_ADDED(LOOP)                                                                       \
  switch (node->op) {                                                                          \
    case slimOp_fp16:                                                                          \
      LOOP(slimHalfFloats(*(const slimHalfVector*)(const void*)(q->codes + 2 * i)) * q->scale) \
      break;                                                                                   \
    case slimOp_bf16:                                                                          \
      LOOP((slimVector)(slimHalvesAt(q->codes, i) << 16) * q->scale)                           \
      break;                                                                                   \
    case slimOp_fp8:                                                                           \
      if (node->e5m2)                                                                          \
        LOOP(slimE5m2At(q->codes, i) * q->scale)                                               \
      else                                                                                     \
        LOOP(slimE4m3At(q->codes, i) * q->scale)                                               \
      break;                                                                                   \
    case slimOp_sign:                                                                          \
    case slimOp_onebit:                                                                        \
      LOOP((slimVector)(slimSignsOf(slimStreamAt(q->codes, i), j) ^ slimBits(q->scale)))       \
      break;                                                                                   \
    case slimOp_natural:                                                                       \
      LOOP((slimVector)(slimBytesAt(q->codes, i) << 23) *                                      \
           (slimVector)(slimSignsOf(slimStreamAt(q->signs, i), j) ^ slimBits(q->scale)))       \
      break;                                                                                   \
    default: /* ternary, qsgd */                                                               \
      if (node->bits == 2)                                                                     \
        LOOP(slimCodeValues(q, slimPairsAt(q->codes, i), 2, levels))                           \
      else if (node->bits == 4)                                                                \
        LOOP(slimCodeValues(q, slimNibblesAt(q->codes, i), 4, levels))                         \
      else                                                                                     \
        LOOP(slimToFloats(slimBytesAt(q->codes, i) - levels) * q->scale)                       \
  }
/* out = (start + Σ value)·weight + more; start, more: may be NULL, for 0. The largest bits of out's magnitudes. */
static uint32_t slimAddBlocks(const slimNode* node, uint32_t size, const slimAddend* from, uint32_t count,
                              const float* start, float weight, const float* more, float* out) {
  const int32_t levels = (int32_t)node->levels;
  const uint32_t bits = node->section[node->sections - 1].bits;
  slimBitsVector most = {0};
  SLIM_ASSUME_BLOCK(size);
  SLIM_ADDED(SLIM_ADD)
  return slimLargest(most);
}
/* out = start − value. fetch: so is what lies ahead of out. */
static void slimTakeBlock(const slimNode* node, uint32_t size, const slimAddend* q, const float* start, float* out,
                          bool fetch) {
  const int32_t levels = (int32_t)node->levels;
  const uint32_t bits = node->section[node->sections - 1].bits;
  SLIM_ASSUME_BLOCK(size);
  SLIM_ADDED(SLIM_TAKE)
}

/* A full unit, not flagged, of a message. */
SLIM_ALWAYS void slimAddendOf(slimAddend* q, const slimTree* tree, const slimLayout* layout, const uint8_t* payload,
                              uint64_t unit) {
  const slimNode* node = slimRoot(tree);
  const uint32_t codes = node->sections - 1, scaled = node->section[0].bits == 0;
  q->codes = payload + layout->section[codes] + unit * node->section[codes].bytes;
  q->signs = payload + layout->section[scaled] + unit * node->section[scaled].bytes;
  q->scale = scaled ? slimLoadFloat(payload + layout->section[0] + unit * node->section[0].bytes) : 1;
  if (node->op == slimOp_sign) q->scale *= node->value;
  if ((node->op != slimOp_qsgd && node->op != slimOp_ternary) || node->bits > 4) return;
  const slimSignedVector lane = SLIM_LIST16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  q->table = slimToFloats((lane & ((1 << node->bits) - 1)) - (int32_t)node->levels) * q->scale;
}

/* What reduce adds up: the mean of messages, or their sum. */
typedef struct {
  const slimTree* tree;
  const slimLayout* layout;
  const uint8_t* const* payloads;
  int ranks;
  float weight;
} slimMean;

/* out = mean + more; more may be NULL. The largest bits of out's magnitudes. */
static __attribute__((noinline)) uint32_t slimAddUnits(const slimMean* mean, uint64_t unit, const float* more,
                                                       float* out) {
  enum { most = 16 };
  slimAddend from[most];
  const slimNode* node = slimRoot(mean->tree);
  const uint32_t size = mean->tree->unit;
  uint32_t largest = 0;
  for (int r = 0; r < mean->ranks; r += most) {
    const int count = mean->ranks - r < most ? mean->ranks - r : most;
    const bool last = r + count == mean->ranks;
    for (int j = 0; j < count; j++) slimAddendOf(&from[j], mean->tree, mean->layout, mean->payloads[r + j], unit);
    largest = slimAddBlocks(node, size, from, (uint32_t)count, r ? out : NULL, last ? mean->weight : 1,
                            last ? more : NULL, out);
  }
  return largest;
}
/* out = start − what a message says. fetch: out's memory ahead, too. */
static __attribute__((noinline)) void slimTakeUnit(const slimTree* tree, const slimLayout* layout,
                                                   const uint8_t* payload, uint64_t unit, const float* start,
                                                   float* out, bool fetch) {
  slimAddend q = {.table = {0}};
  slimAddendOf(&q, tree, layout, payload, unit);
  slimTakeBlock(slimRoot(tree), tree->unit, &q, start, out, fetch);
}

#endif
