/* tqsgd, tbqsgd, tnqsgd (TNQSGD, arXiv 2402.01160 and 2402.01798): truncation and 2^bits levels, placed for a model of
 * the values: Laplace, or a power-law tail that is fitted to each block. tqsgd's levels are uniform, tbqsgd's uniform
 * on two scales, tnqsgd's dense around zero. No level is zero. Stochastic rounding inside the threshold, bias beyond
 * it. format.md §5. */
#ifndef SLIM_CODEC_TNQSGD_H_
#define SLIM_CODEC_TNQSGD_H_

#include "compress/codec/qsgd.h"
#include "compress/levels.h"

/* A node's tables: −P_0, then the positive levels P_0 … P_(h−1), ascending. Number t begins at slimTables(node) + t ·
 * slimTableStride(node). */
SLIM_FN uint32_t slimTableStride(const slimNode* node) {
  const uint32_t h = 1u << (node->bits - 1);
  return (h < 16 ? 16 : h) + 1; /* slimLookUp reads 16 at least */
}

#ifndef SLIM_CUDA
#define SLIM_TRUNCATED_OPTIONS                                                              \
  {"bits", slimOptionInt, NULL, 2, 8, NULL}, {"workers", slimOptionInt, "1", 1, 1e9, NULL}, \
      {"block", slimOptionBlock, "512", 0, 0, NULL}, {                                      \
    "stats", slimOptionChoice, "block", 0, 0, "block|tensor|previous"                       \
  }
SLIM_OPTIONS(tqsgd) = {
    SLIM_TRUNCATED_OPTIONS, {"model", slimOptionChoice, "laplace", 0, 0, "laplace|powerlaw"}, SLIM_END_OPTIONS};
SLIM_OPTIONS(tnqsgd) = {
    SLIM_TRUNCATED_OPTIONS, {"model", slimOptionChoice, "laplace", 0, 0, "laplace|powerlaw"}, SLIM_END_OPTIONS};
SLIM_OPTIONS(tbqsgd) = {SLIM_TRUNCATED_OPTIONS, SLIM_END_OPTIONS}; /* a power law's */

static inline const char* slimSetupTruncated(slimNode* node, const slimOptionValues* o, bool powerlaw) {
  if (!o->given[0]) return "bits= is missing: 2 to 8";
  node->bits = (uint32_t)o->value[0];
  node->workers = o->value[1];
  node->block = (uint32_t)o->value[2];
  node->stats = (slimStats)o->value[3];
  node->powerlaw = powerlaw;
  node->section[node->sections++] = (slimSection){4, 0};
  if (powerlaw) node->section[node->sections++] = (slimSection){1, 0};
  node->section[node->sections++] = (slimSection){node->block * node->bits / 8, node->bits};
  return NULL;
}
static inline const char* slimSetup_tqsgd(slimNode* node, const slimOptionValues* o) {
  return slimSetupTruncated(node, o, o->value[4] == 1);
}
static inline const char* slimSetup_tnqsgd(slimNode* node, const slimOptionValues* o) {
  return slimSetupTruncated(node, o, o->value[4] == 1);
}
static inline const char* slimSetup_tbqsgd(slimNode* node, const slimOptionValues* o) {
  return slimSetupTruncated(node, o, true);
}

static inline uint32_t slimTableCount(const slimNode* node) {
  const bool truncated = node->op == slimOp_tqsgd || node->op == slimOp_tbqsgd || node->op == slimOp_tnqsgd;
  return node->powerlaw ? SLIM_POWER_TABLES : truncated;
}
static inline uint32_t slimTableBytes(const slimNode* node) {
  const uint32_t count = slimTableCount(node);
  return count ? count * slimTableStride(node) * (uint32_t)sizeof(float) : 0; /* other codecs may have no bits */
}
static inline void slimFillTables(slimNode* node) {
  for (uint32_t i = 0; i < slimTableCount(node); i++) {
    float* table = (float*)(uintptr_t)slimTables(node) + i * slimTableStride(node);
    if (node->powerlaw)
      slimPowerLevels(node->op, node->bits, node->workers, i, table + 1);
    else
      slimLaplaceLevels(node->op, node->bits, node->workers, table + 1);
    table[0] = -table[1];
  }
}

/* Truncation is biased, so no omega. Fitted: with c = a·gamma the largest level, ⟨q,q⟩ ≤ n·c². E⟨v,q⟩ = Σ|v|min(|v|, c)
 * is at least c‖v‖ where some |v| ≥ c, else ‖v‖² ≥ √n·gamma·‖v‖: so delta ≥ 1/n or 1/a². (A power law's levels are over
 * 2·gamma.) Of any other gamma: the terms of ⟨v,q⟩ are independent, with means of one sign, so E⟨v,q⟩² ≥ Σv²·E q² ≥
 * ‖v‖²·P_0²: delta ≥ (P_0 / P_(h−1))²/n. */
static inline slimClass slimClass_tnqsgd(const slimNode* node, double n) {
  double delta = 1 / n;
  for (uint32_t i = 0; i < slimTableCount(node); i++) {
    const float* levels = slimTables(node) + i * slimTableStride(node) + 1;
    const double low = (double)levels[0], high = (double)levels[(1u << (node->bits - 1)) - 1];
    const double a = node->powerlaw ? 2 * high : high, ratio = low / high;
    delta = fmin(delta, node->stats == slimStatsBlock ? 1 / (a * a) : ratio * ratio / n);
  }
  const double bits = node->bits + (node->powerlaw ? 40 : 32) / n;
  return (slimClass){INFINITY, node->lsq ? delta : 0, bits};
}
static inline slimClass slimClass_tqsgd(const slimNode* node, double n) { return slimClass_tnqsgd(node, n); }
static inline slimClass slimClass_tbqsgd(const slimNode* node, double n) { return slimClass_tnqsgd(node, n); }
#endif

/* ---- One value ------------------------------------------------------------------------------------------------ */

/* The number of t's level, by halves. y is uniform in (0, 1). */
SLIM_FN int32_t slimTruncatedCode(float t, const float* table, int32_t h, float y) {
  const float a = fabsf(t), *levels = table + 1;
  int32_t below = 0; /* how many are not above a */
  for (int32_t step = h / 2; step; step /= 2) below += (a >= levels[below + step - 1]) * step;
  const float low = table[below], high = levels[below];
  const int32_t m = below + (y * (high - low) < a - low);
  return h - 1 + m + (t < 0) * (1 - 2 * m); /* left of zero: h − m */
}
SLIM_FN float slimTruncatedValue(int32_t code, const float* table, int32_t h, float scale) {
  const int32_t c = code - h, left = c >> 31; /* −1 − c is left's number */
  return slimFloat(slimBits(table[1 + (c ^ left)] * scale) ^ ((uint32_t)left & 0x80000000u));
}

/* log2(t), to 0.001, for t ≥ 1; else 0. */
SLIM_FN float slimTailLog(float t) {
  const uint32_t bits = slimBits(t), one = 0x3f800000;
  const uint32_t x = bits > one ? bits : one;
  const float f = slimFloat((x & 0x7fffff) | one) - 1;
  return ((float)(int32_t)((x >> 23) - 127) + f) + f * (1 - f) * (0.421875f - 0.15625f * f);
}

/* The table that fits a tail of `count` values out of nv, whose log2 over g_min add up to `logs`: Hill's estimator. */
SLIM_FN uint32_t slimPowerTable(double count, double nv, double logs) {
  const double slope = logs > 0 ? 16 * count / (0.6931471805599453 * logs) + 0.5 : 64;
  const uint32_t exponent = slope < 33 ? 0 : slope < 64 ? (uint32_t)slope - 33 : SLIM_POWER_EXPONENTS - 1;
  const double share = count / nv;
  uint32_t mass = 0;
  for (double limit = 0x1p-9; mass + 1 < SLIM_POWER_MASSES && share * share * share * share < limit; limit /= 4) mass++;
  return SLIM_POWER_EXPONENTS * mass + exponent;
}

/* ---- A block -------------------------------------------------------------------------------------------------- */

#if !defined(SLIM_CUDA) && SLIM_LANES > 4 /* as above, for a whole vector; h is a constant */

SLIM_ALWAYS void slimTruncatedVectors(uint8_t* restrict codes, const float* restrict v, uint32_t size, float p, float r,
                                      const uint16_t* restrict d, const float* restrict table, const int32_t h) {
  const int32_t some = h > 16 ? 16 : h, coarse = h / some; /* of more than 16 levels, every coarse-th one first */
  const float* levels = table + 1;
  float pivots[16] = {0};
  for (int32_t i = 0; i < some; i++) pivots[i] = levels[coarse * (i + 1) - 1];
  int32_t code[SLIM_MIN_BLOCK];
  SLIM_ASSUME_BLOCK(size);
  for (uint32_t i = 0; i < size; i += SLIM_MIN_BLOCK) {
    for (uint32_t k = 0; k < SLIM_MIN_BLOCK; k += SLIM_LANES) {
      const slimVector t = slimLoad(v, i + k) * p * r, a = slimAbs(t);
      slimSignedVector below = {0};
#pragma GCC unroll 4
      for (int32_t step = some / 2; step; step /= 2)
        below -= (slimSignedVector)(a >= slimLookUp(pivots, (uint32_t)some, below + (step - 1))) * step;
      below *= coarse;
#pragma GCC unroll 3
      for (int32_t step = coarse / 2; step; step /= 2)
        below -= (slimSignedVector)(a >= slimLookUp(levels, (uint32_t)h, below + (step - 1))) * step;
      const slimVector low = slimLookUp(table, (uint32_t)h, below), high = slimLookUp(levels, (uint32_t)h, below);
      const slimVector y = slimToFloats(slimHalvesAt(d, i + k)) * 0x1p-16f + 0x1p-17f;
      const slimSignedVector m = below - (slimSignedVector)(y * (high - low) < a - low), left = t < 0;
      const slimSignedVector c = (left & (h - m)) | (~left & (h - 1 + m));
      memcpy(code + k, &c, sizeof c);
    }
    for (uint32_t k = 0; k < SLIM_MIN_BLOCK; k++) codes[i + k] = (uint8_t)code[k];
  }
}
SLIM_ALWAYS void slimLevelVectors(float* restrict out, const uint8_t* restrict codes, uint32_t size,
                                  const float* restrict table, float scale, const int32_t h) {
  SLIM_ASSUME_BLOCK(size);
  for (uint32_t i = 0; i < size; i += SLIM_LANES) {
    const slimSignedVector c = slimBytesAt(codes, i) - h, left = c >> 31;
    slimStore(out, i,
              slimFlipped(slimLookUp(table + 1, (uint32_t)h, c ^ left) * scale, (slimBitsVector)left & 0x80000000u));
  }
}
#define SLIM_WITH_LEVELS(name, bits, ...) \
  switch (bits) {                         \
    case 2:                               \
      name##Vectors(__VA_ARGS__, 2);      \
      break;                              \
    case 3:                               \
      name##Vectors(__VA_ARGS__, 4);      \
      break;                              \
    case 4:                               \
      name##Vectors(__VA_ARGS__, 8);      \
      break;                              \
    case 5:                               \
      name##Vectors(__VA_ARGS__, 16);     \
      break;                              \
    case 6:                               \
      name##Vectors(__VA_ARGS__, 32);     \
      break;                              \
    case 7:                               \
      name##Vectors(__VA_ARGS__, 64);     \
      break;                              \
    default:                              \
      name##Vectors(__VA_ARGS__, 128);    \
  }
static inline void slimTruncatedCodes(uint8_t* restrict codes, const float* restrict v, uint32_t size, float p, float r,
                                      const uint16_t* restrict d, const float* restrict table, uint32_t bits) {
  SLIM_WITH_LEVELS(slimTruncated, bits, codes, v, size, p, r, d, table)
}
static inline void slimTruncatedValues(float* restrict out, const uint8_t* restrict codes, uint32_t size,
                                       const float* restrict table, float scale, uint32_t bits) {
  SLIM_WITH_LEVELS(slimLevel, bits, out, codes, size, table, scale)
}
#undef SLIM_WITH_LEVELS

#else

#ifdef SLIM_WARP /* as slimTruncatedCode and …Value, of up to 32 levels, which lie in the lanes */
enum { SLIM_HELD_BITS = 6 };
/* Number t of `count` lies in lane h − 1 + t, modulo 32: shuffles take their lane so. */
SLIM_FN float slimHold(const float* table, uint32_t h) {
  const uint32_t t = (slimThread() + 33 - h) % 32;
  return t < h ? table[t] : 0;
}
/* rows: the codes, as slimPackRows takes them; q: their values at scale 1. */
SLIM_FN void slimHeldCodes(uint32_t* restrict rows, float* restrict q, const float* restrict v, uint32_t size, float p,
                           float r, const uint16_t* restrict d, const float* restrict table, uint32_t bits) {
  const uint32_t h = 1u << (bits - 1);
  const float lows = slimHold(table, h), levels = slimHold(table + 1, h);
  const float middle = __shfl_sync(SLIM_ALL_LANES, lows, (int)(h - 1 + h / 2));
  uint32_t code[SLIM_OWN]; /* h − 1 + how many levels are not above |t| */
  SLIM_EACH(i, size) code[i] = fabsf(v[i] * p * r) >= middle ? h - 1 + h / 2 : h - 1;
  SLIM_ROLLED
  for (uint32_t step = h / 4; step; step /= 2) {
    const float ahead = __shfl_sync(SLIM_ALL_LANES, lows, (int)(slimThread() + step));
    SLIM_EACH(i, size)
    code[i] = slimAddWhere(code[i], step, fabsf(v[i] * p * r) >= __shfl_sync(SLIM_ALL_LANES, ahead, (int)code[i]));
  }
  SLIM_EACH(i, size) {
    const float t = v[i] * p * r;
    const float low = __shfl_sync(SLIM_ALL_LANES, lows, (int)code[i]);
    const float high = __shfl_sync(SLIM_ALL_LANES, levels, (int)code[i]);
    const float y = fmaf((float)(int32_t)d[i], 0x1p-16f, 0x1p-17f); /* exact */
    const bool up = y * (high - low) < fabsf(t) - low, left = t < 0;
    code[i] = slimXorWhere(slimAddWhere(code[i], 1, up), 2 * h - 1, left);
    q[i] = left ? -(up ? high : low) : up ? high : low;
  }
  SLIM_EACH_ROW(r)
  rows[r] = code[4 * r] | code[4 * r + 1] << bits | code[4 * r + 2] << 2 * bits | code[4 * r + 3] << 3 * bits;
}
SLIM_FN void slimHeldValues(float* restrict out, const uint32_t* restrict rows, uint32_t size,
                            const float* restrict table, float scale, uint32_t bits) {
  const uint32_t h = 1u << (bits - 1), lane = slimThread();
  const float values = slimTruncatedValue((int32_t)(lane % (2 * h)), table, (int32_t)h, scale);
  SLIM_EACH(i, size) out[i] = __shfl_sync(SLIM_ALL_LANES, values, (int)(rows[i / 4] >> i % 4 * bits));
  if (2 * h > 32) {
    const float others = slimTruncatedValue((int32_t)(lane + 32), table, (int32_t)h, scale);
    SLIM_EACH(i, size) {
      const uint32_t code = rows[i / 4] >> i % 4 * bits;
      const float other = __shfl_sync(SLIM_ALL_LANES, others, (int)code);
      out[i] = code & 32 ? other : out[i];
    }
  }
}
#endif

SLIM_FN void slimTruncatedCodes(uint8_t* restrict codes, const float* restrict v, uint32_t size, float p, float r,
                                const uint16_t* restrict d, const float* restrict table, uint32_t bits) {
  SLIM_ASSUME_BLOCK(size);
  SLIM_EACH(i, size)
  codes[i] =
      (uint8_t)slimTruncatedCode(v[i] * p * r, table, 1 << (bits - 1), (float)(int32_t)d[i] * 0x1p-16f + 0x1p-17f);
}
SLIM_FN void slimTruncatedValues(float* restrict out, const uint8_t* restrict codes, uint32_t size,
                                 const float* restrict table, float scale, uint32_t bits) {
  SLIM_ASSUME_BLOCK(size);
  SLIM_EACH(i, size) out[i] = slimTruncatedValue(codes[i], table, 1 << (bits - 1), scale);
}

#endif

/* The tail of v·p·r beyond 1. q: scratch. */
SLIM_FN void slimTail(const float* restrict v, uint32_t size, float p, float r, float* restrict q, uint32_t* count,
                      float* logs) {
  SLIM_INTEGER_SUM(*count, size, i, fabsf(v[i] * p * r) > 1);
  SLIM_EACH(i, size) q[i] = slimTailLog(fabsf(v[i] * p * r));
  slimSync();
  SLIM_TREE_SUM(*logs, size, i, slimLoad(q, i));
  slimSync();
}

/* What a block adds to its piece's statistics; its tail is counted where shape has a mean. */
SLIM_FN slimPartial slimGatherTruncated(const slimNode* node, const slimBlock* b, const float* restrict v) {
  const uint32_t size = b->size;
  const slimNormal own = slimNormalise(b->maxBits);
  slimPartial partial = {0, 0, 0, b->nv};
  SLIM_ASSUME_BLOCK(size);
  float sum, logs;
  SLIM_TREE_SUM(sum, size, i, slimAbs(slimLoad(v, i) * own.p));
  partial.sum = (double)sum * (double)own.up;
  if (node->powerlaw && b->shape->mean > 0) {
    const slimNormal normal = slimNormalise(slimBits(b->shape->mean));
    slimTail(v, size, normal.p, 1 / (2 * (b->shape->mean * normal.p)), b->scratch, &partial.count, &logs);
    partial.logs = (double)logs;
  }
  return partial;
}

SLIM_CODEC_FN bool slimEncode_tnqsgd(const slimNode* node, const slimBlock* b, const float* restrict v,
                                     uint8_t* const* sec) {
  const uint32_t size = b->size, bits = node->bits;
  uint8_t* const packed = node->powerlaw ? sec[2] : sec[1];
  const slimNormal normal = slimNormalise(b->shape ? slimBits(b->shape->mean) : b->maxBits);
  const float p = normal.p;
  SLIM_ASSUME_BLOCK(size);
  if (!b->maxBits || (b->shape && !(b->shape->mean > 0))) {
    if (node->powerlaw) slimStoreByte(sec[1], 0);
    slimZero(packed, size * bits / 8);
#ifdef SLIM_WARP
    if (b->sent) SLIM_EACH(i, size) b->sent[i] = -0.f; /* code 0 is the lowest level */
#endif
    return slimStoreScale(sec[0], 0, normal, 1);
  }
  float gamma;
  if (b->shape) {
    gamma = b->shape->mean * p;
  } else {
    float sum;
    SLIM_TREE_SUM(sum, size, i, slimAbs(slimLoad(v, i) * p));
    gamma = sum / (float)b->nv;
  }
  if (node->powerlaw) gamma *= 2; /* g_min */
  const float r = 1 / gamma;

  uint8_t* restrict codes = (uint8_t*)(void*)b->scratch;
  float* restrict q = b->scratch + slimRoundUp(size / 4, 16);
  const float* table = slimTables(node);
  if (node->powerlaw) {
    uint32_t count, fitted;
    float logs;
    if (b->shape) {
      fitted = b->shape->table;
    } else {
      slimTail(v, size, p, r, q, &count, &logs);
      fitted = slimPowerTable(count, b->nv, (double)logs);
    }
    slimStoreByte(sec[1], (uint8_t)fitted);
    table += fitted * slimTableStride(node);
  }
  uint32_t* words = (uint32_t*)(void*)q;
  slimDrawWords(b->draw, slimDrawDither, node->branch, false, b->first, size, 2, words);
  const uint16_t* d = (const uint16_t*)(const void*)words;
#ifdef SLIM_WARP
  q = b->sent ? b->sent : q + size; /* registers that had draws are not values' */
  if (bits <= SLIM_HELD_BITS) {
    uint32_t rows[SLIM_ROWS];
    slimHeldCodes(rows, q, v, size, p, r, d, table, bits);
    slimPackRows(packed, rows, bits);
  } else {
    slimTruncatedCodes(codes, v, size, p, r, d, table, bits);
    slimPack(packed, codes, size, bits);
    slimTruncatedValues(q, codes, size, table, 1, bits);
  }
#else
  slimTruncatedCodes(codes, v, size, p, r, d, table, bits);
  if (node->lsq) {
    slimSync();
    slimTruncatedValues(q, codes, size, table, 1, bits);
    slimSync();
  }
#endif

  float scale = gamma;
  if (node->lsq) {
    float wq, qq;
    SLIM_EACH_FROM(i, b->nv, size) q[i] = 0;
    SLIM_TREE_SUM(wq, size, i, (slimLoad(v, i) * p) * slimLoad(q, i));
    SLIM_TREE_SUM(qq, size, i, slimLoad(q, i) * slimLoad(q, i));
    scale = wq / qq;
  }
#ifdef SLIM_WARP
  if (b->sent) SLIM_EACH(i, size) q[i] *= scale * normal.up;
#else
  slimPack(packed, codes, size, bits);
#endif
  return slimStoreScale(sec[0], scale, normal, table[1u << (bits - 1)]);
}
SLIM_CODEC_FN void slimDecode_tnqsgd(const slimNode* node, const slimBlock* b, uint8_t* const* sec,
                                     float* restrict out) {
  uint8_t* codes = (uint8_t*)(void*)b->scratch;
  const uint8_t* packed = node->powerlaw ? sec[2] : sec[1];
  const float scale = slimLoadFloat(sec[0]);
  const float* table = slimTables(node) + (node->powerlaw ? *sec[1] * slimTableStride(node) : 0);
#ifdef SLIM_WARP
  if (node->bits <= SLIM_HELD_BITS) {
    uint32_t rows[SLIM_ROWS];
    slimUnpackRows(rows, packed, node->bits);
    slimHeldValues(out, rows, b->size, table, scale, node->bits);
    return;
  }
#endif
  slimUnpack(codes, packed, b->size, node->bits);
  slimTruncatedValues(out, codes, b->size, table, scale, node->bits);
}
SLIM_CODEC_FN bool slimEncode_tqsgd(const slimNode* node, const slimBlock* b, const float* restrict v,
                                    uint8_t* const* sec) {
  return slimEncode_tnqsgd(node, b, v, sec);
}
SLIM_CODEC_FN void slimDecode_tqsgd(const slimNode* node, const slimBlock* b, uint8_t* const* sec,
                                    float* restrict out) {
  slimDecode_tnqsgd(node, b, sec, out);
}
SLIM_CODEC_FN bool slimEncode_tbqsgd(const slimNode* node, const slimBlock* b, const float* restrict v,
                                     uint8_t* const* sec) {
  return slimEncode_tnqsgd(node, b, v, sec);
}
SLIM_CODEC_FN void slimDecode_tbqsgd(const slimNode* node, const slimBlock* b, uint8_t* const* sec,
                                     float* restrict out) {
  slimDecode_tnqsgd(node, b, sec, out);
}

#endif
