/* tnqsgd, tqsgd (TNQSGD, arXiv 2402.01160): truncation and 2^bits levels, both optimal for Laplace-distributed values
 * of the block's mean magnitude gamma; tqsgd's levels are uniform, tnqsgd's dense around zero. No level is zero.
 * Stochastic rounding inside the threshold, bias beyond it. format.md §5. */
#ifndef SLIM_CODEC_TNQSGD_H_
#define SLIM_CODEC_TNQSGD_H_

#include "compress/codec/qsgd.h"

#ifndef SLIM_CUDA
#define SLIM_TRUNCATED_OPTIONS                                                                \
  {"bits", slimOptionInt, NULL, 2, 8, NULL}, {"workers", slimOptionInt, "1", 1, 1e9, NULL}, { \
    "block", slimOptionBlock, "512", 0, 0, NULL                                               \
  }
SLIM_OPTIONS(tqsgd) = {SLIM_TRUNCATED_OPTIONS, SLIM_END_OPTIONS};
SLIM_OPTIONS(tnqsgd) = {SLIM_TRUNCATED_OPTIONS, SLIM_END_OPTIONS};

/* The threshold over gamma for s intervals: minimises variance/N + truncation bias. tnqsgd: 3·ln(1 + s·√(6N)/9). tqsgd:
 * a·e^a = s²·N (Newton's method). */
static inline double slimTruncation(bool uniform, double s, double workers) {
  if (!uniform) return 3 * log(1 + s * sqrt(6 * workers) / 9);
  const double target = 2 * log(s) + log(workers);
  double a = target > 1 ? target - log(target) : 0.5;
  for (int i = 0; i < 50; i++) a -= (a + log(a) - target) / (1 + 1 / a);
  return a;
}

/* Positive levels over gamma, ascending: h = 2^(bits − 1) of them; level j is number h + j of 0 … s. */
static inline const char* slimSetupTruncated(slimNode* node, const slimOptionValues* o, bool uniform) {
  node->bits = (uint32_t)o->value[0];
  node->block = (uint32_t)o->value[2];
  const uint32_t h = 1u << (node->bits - 1);
  const double s = 2.0 * h - 1, a = slimTruncation(uniform, s, o->value[1]), reach = 1 - exp(-a / 3);
  for (uint32_t j = 0; j < h; j++) {
    const double u = (2.0 * j + 1) / s;
    node->table[j] = (float)(uniform ? u * a : -3 * log(1 - u * reach));
  }
  node->sections = 2;
  node->section[0] = (slimSection){4, 0};
  node->section[1] = (slimSection){node->block * node->bits / 8, node->bits};
  return NULL;
}
static inline const char* slimSetup_tqsgd(slimNode* node, const slimOptionValues* o) {
  return slimSetupTruncated(node, o, true);
}
static inline const char* slimSetup_tnqsgd(slimNode* node, const slimOptionValues* o) {
  return slimSetupTruncated(node, o, false);
}

/* Truncation is biased, so no omega. Fitted: with c = a·gamma the largest level, ⟨q,q⟩ ≤ n·c². E⟨v,q⟩ = Σ|v|min(|v|, c)
 * is at least c‖v‖ where some |v| ≥ c, else ‖v‖² ≥ √n·gamma·‖v‖: so delta ≥ 1/n or 1/a². */
static inline slimClass slimClass_tnqsgd(const slimNode* node, double n) {
  const double a = (double)node->table[(1u << (node->bits - 1)) - 1];
  return (slimClass){INFINITY, node->lsq ? 1 / fmax(n, a * a) : 0, node->bits + 32.0 / n};
}
static inline slimClass slimClass_tqsgd(const slimNode* node, double n) { return slimClass_tnqsgd(node, n); }
#endif

/* One value over gamma, a = |t|, between its neighbours `low` (−p0 below the smallest level) and `high`: the number of
 * its level. */
SLIM_FN int32_t slimTruncatedCode(float t, float low, float high, int32_t below, float y, int32_t h) {
  const float a = fabsf(t);
  const int32_t m = below + (y < (a - low) / (high - low));
  return t < 0 ? h - (m < h ? m : h) : h - 1 + (m < h ? m : h);
}

SLIM_FN void slimTruncatedValues(float* restrict out, const uint8_t* restrict codes, uint32_t size,
                                 const slimNode* node, float scale, float* restrict levels) {
  const int32_t h = 1 << (node->bits - 1);
  SLIM_EACH(j, (uint32_t)h) {
    levels[h + (int32_t)j] = node->table[j] * scale;
    levels[h - 1 - (int32_t)j] = -(node->table[j] * scale);
  }
  slimSync();
  SLIM_ASSUME_BLOCK(size);
#if !defined(SLIM_CUDA) && SLIM_LANES == 16
  if (h <= 8) { /* all levels in one register */
    slimVector all = {0};
    memcpy(&all, levels, 8 * (size_t)h);
    for (uint32_t i = 0; i < size; i += 16) slimStore(out, i, __builtin_shuffle(all, slimBytesAt(codes, i)));
    return;
  }
#endif
  SLIM_EACH(i, size) out[i] = levels[codes[i]];
}

SLIM_FN bool slimEncode_tnqsgd(const slimNode* node, const slimBlock* b, const float* restrict v, uint8_t* const* sec) {
  const uint32_t size = b->size;
  const slimNormal normal = slimNormalise(b->maxBits);
  const float p = normal.p;
  const int32_t h = 1 << (node->bits - 1);
  SLIM_ASSUME_BLOCK(size);
  if (!b->maxBits) {
    slimZero(sec[1], size * node->bits / 8);
    return slimStoreScale(sec[0], 0, normal, 1);
  }
  float sum;
  SLIM_TREE_SUM(sum, size, i, slimAbs(slimLoad(v, i) * p));
  const float gamma = sum / (float)b->nv, r = 1 / gamma;

  uint8_t* restrict codes = (uint8_t*)(void*)b->scratch;
  int32_t* restrict below = (int32_t*)(void*)(b->scratch + slimRoundUp(size / 4, 16));
  uint32_t* words = (uint32_t*)(void*)below + size;
  slimDrawWords(b->draw, slimDrawDither, node->branch, false, b->first, size, 2, words);
  const uint16_t* restrict d = (const uint16_t*)(const void*)words;
  SLIM_EACH_VECTOR(i, size) { /* levels that are not above |t| */
    const slimSignedVector count = slimCountUpTo(slimAbs(slimLoad(v, i) * p * r), node->table, h - 1);
    memcpy(below + i, &count, sizeof count);
  }
  float* restrict neighbour = (float*)(void*)(words + slimRoundUp(size / 2, 64)); /* −p0, p0, p1, … */
  SLIM_EACH(j, (uint32_t)h + 1) neighbour[j] = j ? node->table[j - 1] : -node->table[0];
  slimSync();
  SLIM_EACH(i, size)
  codes[i] = (uint8_t)slimTruncatedCode(v[i] * p * r, neighbour[below[i]], neighbour[below[i] + 1], below[i],
                                        (float)(int32_t)d[i] * 0x1p-16f + 0x1p-17f, h);

  float scale = gamma;
  if (node->lsq) {
    float* restrict q = (float*)(void*)below;
    float wq, qq;
    slimSync();
    slimTruncatedValues(q, codes, size, node, 1, (float*)(void*)words);
    slimSync();
    SLIM_EACH(i, size - b->nv) q[b->nv + i] = 0;
    SLIM_TREE_SUM(wq, size, i, (slimLoad(v, i) * p) * slimLoad(q, i));
    SLIM_TREE_SUM(qq, size, i, slimLoad(q, i) * slimLoad(q, i));
    scale = wq / qq;
  }
  slimPack(sec[1], codes, size, node->bits);
  return slimStoreScale(sec[0], scale, normal, node->table[h - 1]);
}
SLIM_FN void slimDecode_tnqsgd(const slimNode* node, const slimBlock* b, uint8_t* const* sec, float* restrict out) {
  uint8_t* codes = (uint8_t*)(void*)b->scratch;
  slimUnpack(codes, sec[1], b->size, node->bits);
  slimTruncatedValues(out, codes, b->size, node, slimLoadFloat(sec[0]), b->scratch + slimRoundUp(b->size / 4, 16));
}
SLIM_FN bool slimEncode_tqsgd(const slimNode* node, const slimBlock* b, const float* restrict v, uint8_t* const* sec) {
  return slimEncode_tnqsgd(node, b, v, sec);
}
SLIM_FN void slimDecode_tqsgd(const slimNode* node, const slimBlock* b, uint8_t* const* sec, float* restrict out) {
  slimDecode_tnqsgd(node, b, sec, out);
}

#endif
