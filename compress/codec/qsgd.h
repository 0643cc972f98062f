/* qsgd (QSGD): levels −L … L of a step m/L, m the block's norm, stochastic or nearest rounding; ternary is L = 1
 * (TernGrad with norm=inf, DIANA's quantiser with either norm, arXiv 1901.09269). Where feedback asks for contraction,
 * the step is the least-squares one. format.md §5. */
#ifndef SLIM_CODEC_QSGD_H_
#define SLIM_CODEC_QSGD_H_

#include "compress/block.h"
#ifndef SLIM_CUDA
#include "compress/option.h"

SLIM_OPTIONS(qsgd) = {{"bits", slimOptionInt, NULL, 2, 8, "one bit has no zero level: use onebit"},
                      {"levels", slimOptionInt, NULL, 1, 32767, NULL},
                      {"norm", slimOptionChoice, "inf", 0, 0, "inf|2"},
                      {"rounding", slimOptionChoice, "auto", 0, 0, "auto|stochastic|nearest"},
                      {"block", slimOptionBlock, "512", 0, 0, NULL},
                      SLIM_END_OPTIONS};
SLIM_OPTIONS(ternary) = {
    {"norm", slimOptionChoice, "inf", 0, 0, "inf|2"}, {"block", slimOptionBlock, "512", 0, 0, NULL}, SLIM_END_OPTIONS};

enum { slimRoundingAuto = 0, slimRoundingStochastic = 1, slimRoundingNearest = 2 };

static inline const char* slimSetupLevels(slimNode* node, uint32_t levels, uint32_t block) {
  node->levels = levels;
  node->bits = 1;
  while ((1u << node->bits) < 2 * levels + 1) node->bits++;
  node->block = block;
  node->sections = 2;
  node->section[0] = (slimSection){4, 0};
  node->section[1] = (slimSection){node->block * node->bits / 8, node->bits};
  return NULL;
}
static inline const char* slimSetup_qsgd(slimNode* node, const slimOptionValues* o) {
  if (o->given[0] == o->given[1])
    return o->given[0] ? "bits and levels exclude each other" : "bits= or levels= is missing";
  node->norm2 = o->value[2] == 1;
  node->nearest = o->value[3] == slimRoundingNearest;
  uint32_t levels = o->given[0] ? (1u << ((uint32_t)o->value[0] - 1)) - 1 : (uint32_t)o->value[1];
  return slimSetupLevels(node, levels, (uint32_t)o->value[4]);
}
static inline const char* slimSetup_ternary(slimNode* node, const slimOptionValues* o) {
  node->norm2 = o->value[0] == 1;
  return slimSetupLevels(node, 1, (uint32_t)o->value[1]);
}

/* norm 2: min(n/L², √n/L). norm inf: ΣΔ²f(1−f) ≤ Δ²n/4 and ≤ Δ‖v‖₁ − ‖v‖² for L = 1. Nearest: |error| ≤ Δ/2. */
static inline slimClass slimClass_qsgd(const slimNode* node, double n) {
  const double l = node->levels, bits = node->bits + 32.0 / n;
  double omega;
  if (node->norm2)
    omega = l == 1 ? sqrt(n) - 1 : fmin(n / (l * l), sqrt(n) / l);
  else
    omega = l == 1 ? (1 + sqrt(n)) / 2 - 1 : fmin(n / (4 * l * l), sqrt(n) / l);
  if (!node->nearest) return (slimClass){omega, node->lsq ? 1 / (1 + omega) : 0, bits};
  /* norm=inf: the largest element is exact; the others err by Δ/2 or by themselves, whichever is less. norm=2: all may
   * round to zero. */
  if (node->norm2) return (slimClass){INFINITY, 0, bits};
  double worst = (n - 1) / (4 * l * l);
  return (slimClass){INFINITY, 1 / (1 + worst), bits};
}
static inline slimClass slimClass_ternary(const slimNode* node, double n) { return slimClass_qsgd(node, n); }
#endif

/* |k| ≤ levels, as a float (signed): what the decoder multiplies by the step. */
SLIM_FN int32_t slimQsgdLevel(float w, float r, float y, int32_t levels) {
  float a = fabsf(w) * r;
  int32_t k = (int32_t)a;
  k += y < a - (float)k;
  k = k < levels ? k : levels;
  return w < 0 ? -k : k;
}
SLIM_FN int32_t slimQsgdNearest(float w, float r, int32_t levels) {
  int32_t k = (int32_t)(fabsf(w) * r + 0.5f);
  k = k < levels ? k : levels;
  return w < 0 ? -k : k;
}

#define SLIM_QSGD_CODES(type, level)                         \
  do {                                                       \
    type* restrict slimC_ = (type*)codes;                    \
    SLIM_EACH(i, size) slimC_[i] = (type)((level) + levels); \
  } while (0)
/* Codes of up to 16 bits as signed levels times step. */
SLIM_FN void slimQsgdValues(float* restrict out, const void* codes, uint32_t size, bool wide, int32_t levels,
                            float step) {
  SLIM_ASSUME_BLOCK(size);
  if (wide) {
    const uint16_t* restrict c = (const uint16_t*)codes;
    SLIM_EACH(i, size) out[i] = (float)((int32_t)c[i] - levels) * step;
  } else {
    const uint8_t* restrict c = (const uint8_t*)codes;
    SLIM_EACH(i, size) out[i] = (float)((int32_t)c[i] - levels) * step;
  }
}

SLIM_FN slimVector slimQsgdAt(const void* codes, uint32_t i, bool wide, int32_t levels) {
  return slimToFloats((wide ? slimHalvesAt(codes, i) : slimBytesAt(codes, i)) - levels);
}

#ifndef SLIM_CUDA
/* y of elements i …: (d + ½)/2^bits of their draws d. */
SLIM_ALWAYS slimVector slimDitherHalves(const uint32_t* draws, size_t i) {
  return slimExactMulAdd(slimToFloats(slimHalvesAt(draws, i)), slimAll(0x1p-16f), slimAll(0x1p-17f));
}
SLIM_ALWAYS slimVector slimDitherWords(const uint32_t* draws, size_t i) {
  return slimExactMulAdd(slimToFloats((slimSignedVector)(*(const slimBitsVector*)(draws + i) >> 8)), slimAll(0x1p-24f),
                         slimAll(0x1p-25f));
}
/* Largest magnitudes, by their bits, for which v·(p·r) and (v·p)·r have the same levels: what either rounds more is far
 * below half a step. So do sums of v·q and w·q: what is not far below a step is normal in both. */
SLIM_ALWAYS bool slimIsModerate(uint32_t maxBits) {
  return maxBits == 0 || (maxBits >= slimBits(0x1p-63f) && maxBits < slimBits(0x1p95f));
}
/* slimQsgdLevel and slimQsgdNearest of a = v·p·r; perWord: elements that share 32 bits of draws; 0: nearest, which
 * never passes the last level. */
SLIM_ALWAYS slimSignedVector slimQsgdLevels(slimVector a, float levels, const uint32_t* draws, size_t i,
                                            const uint32_t perWord, const bool clamped) {
  if (!perWord) return slimTruncated(a + slimSigned(.5f, a));
  if (clamped) a = slimGreater(slimSmaller(a, slimAll(levels)), slimAll(-levels));
  const slimSignedVector k = slimTruncated(a), outwards = (slimSignedVector)a >> 31 | 1;
  const slimVector rest = slimAbs(slimExactMulAdd(slimToFloats(k), slimAll(-1), a));
  return slimAddWhereBelow(k, outwards, perWord == 1 ? slimDitherWords(draws, i) : slimDitherHalves(draws, i), rest);
}
/* 64 elements from i. out: codes a byte each, or of 4 bits. sums: Σv·k and Σk² are added to columns vk, kk. With 16-bit
 * draws the last of few levels is never passed: the least y is above what a rounds. */
SLIM_ALWAYS void slimQsgd64(uint8_t* out, const float* v, size_t i, float pr, int32_t levels, const uint32_t* draws,
                            const uint32_t perWord, const uint32_t bits, const bool sums, slimVector* vk,
                            slimVector* kk) {
  const bool clamped = perWord == 1 || (perWord == 2 && bits > 4);
  SLIM_UNROLLED for (size_t j = 0; j < SLIM_COLUMNS / 2; j += 4) {
    slimSignedVector k[4];
    SLIM_UNROLLED for (uint32_t t = 0; t < 4; t++) {
      const size_t at = i + (j + t) * SLIM_LANES;
      const slimVector x = slimLoad(v, at);
      k[t] = slimQsgdLevels(x * pr, (float)levels, draws, at, perWord, clamped);
      if (!sums) continue;
      const slimVector q = slimToFloats(k[t]);
      vk[j + t] += x * q;
      kk[j + t] += q * q;
    }
    if (bits == 4)
      slimStoreNibbles(out + (i + j * SLIM_LANES) / 2, k, levels);
    else
      slimStoreBytes(out + i + j * SLIM_LANES, k, levels);
  }
}
/* A block's codes; fit: vk, kk = tree(v·k), tree(k²). */
SLIM_ALWAYS void slimQsgdCodes(uint8_t* out, const float* v, uint32_t size, float pr, int32_t levels,
                               const uint32_t* draws, const uint32_t perWord, const uint32_t bits, bool fit, float* vk,
                               float* kk) {
  if (!fit) {
    for (size_t i = 0; i < size; i += 64) slimQsgd64(out, v, i, pr, levels, draws, perWord, bits, false, NULL, NULL);
    return;
  }
  slimVector a[SLIM_COLUMNS], b[SLIM_COLUMNS];
  slimTreeStart(a);
  slimTreeStart(b);
  for (size_t i = 0; i < size; i += 128) {
    slimQsgd64(out, v, i, pr, levels, draws, perWord, bits, true, a, b);
    if (size > 64)
      slimQsgd64(out, v, i + 64, pr, levels, draws, perWord, bits, true, a + SLIM_COLUMNS / 2, b + SLIM_COLUMNS / 2);
  }
  *vk = slimTreeFold(a);
  *kk = slimTreeFold(b);
}

/* Stochastic ternary codes of four vectors of elements; pr = p·r. With one level, slimQsgdLevel is y < a, or a ≥ 1,
 * which 16-bit draws are always below. fit: v·q is added to columns vq. How many are not zero. */
SLIM_ALWAYS uint32_t slimTernaryVectors(uint8_t* restrict out, const float* restrict v, float pr, const uint32_t* draws,
                                        const uint32_t perWord, const bool fit, slimVector* vq) {
  slimVector x[4], y[4], a[4];
  SLIM_UNROLLED for (uint32_t t = 0; t < 4; t++) {
    x[t] = slimLoad(v, t * SLIM_LANES);
    if (perWord == 2) { /* d < a·2^16 − ½, exact where that is not below zero */
      y[t] = slimToFloats(slimHalvesAt(draws, t * SLIM_LANES));
      a[t] = slimAbs(x[t]) * (pr * 0x1p16f) - .5f;
    } else {
      y[t] = (slimVector)slimLesser((slimBitsVector)slimDitherWords(draws, t * SLIM_LANES), slimAllBits(0x3f7fffff));
      a[t] = slimAbs(x[t]) * pr;
    }
    if (fit) vq[t] = slimSumWhereBelow(vq[t], slimAbs(x[t]), y[t], a[t]);
  }
  return slimStoreTernary(out, x, y, a);
}
/* A block of them. fit: vk = tree(v·q), kk = tree(q·q). */
SLIM_ALWAYS void slimTernaryCodes(uint8_t* restrict out, const float* restrict v, size_t size, float pr,
                                  const slimDraws* draws, const uint32_t perWord, const bool fit, float* vk,
                                  float* kk) {
  enum { most = 128 };
  slimVector vq[SLIM_COLUMNS];
  uint32_t count = 0, words[most];
  SLIM_ASSUME_BLOCK(size);
  slimTreeStart(vq);
  for (size_t i = 0; i < size; i += most * perWord) {
    slimDrawSome(draws, (uint32_t)i / 4 / perWord, most / 4, words);
    for (size_t h = 0; h < most * perWord && i + h < size; h += 128)
      SLIM_UNROLLED for (size_t j = 0; j < SLIM_COLUMNS; j += 4) {
        const size_t at = h + j * SLIM_LANES;
        if (j == SLIM_COLUMNS / 2 && size == 64) break;
        count += slimTernaryVectors(out + (i + at) / 4, v + i + at, pr, words + at / perWord, perWord, fit, vq + j);
      }
  }
  *vk = slimTreeFold(vq);
  *kk = (float)count;
}
/* Codes of at most 8 bits of a block of moderate size, by vectors; pr = p·r. fit: vk, kk as above. */
SLIM_ALWAYS void slimEncodeLevels(const slimNode* node, const slimBlock* b, const float* restrict v, uint8_t* to,
                                  float pr, float* vk, float* kk) {
  const uint32_t size = b->size, bits = node->bits, perWord = node->nearest ? 0 : node->norm2 ? 1 : 2;
  const int32_t levels = (int32_t)node->levels;
  const bool fit = node->lsq;
  if (levels == 1 && perWord) {
    const slimDraws draws = slimDrawsOf(b->draw, slimDrawDither, node->branch, false, b->first, perWord);
#define SLIM_TERNARY(perWord, fit) slimTernaryCodes(to, v, size, pr, &draws, perWord, fit, vk, kk)
    if (perWord == 1)
      fit ? SLIM_TERNARY(1, true) : SLIM_TERNARY(1, false);
    else
      fit ? SLIM_TERNARY(2, true) : SLIM_TERNARY(2, false);
#undef SLIM_TERNARY
    return;
  }
  uint32_t* words = (uint32_t*)(void*)(b->scratch + slimRoundUp(size / 4, 16));
  uint8_t* out = bits == 4 || bits == 8 ? to : (uint8_t*)(void*)b->scratch;
  if (perWord) slimDrawWords(b->draw, slimDrawDither, node->branch, false, b->first, size, perWord, words);
#define SLIM_CODES(perWord, bits) slimQsgdCodes(out, v, size, pr, levels, words, perWord, bits, fit, vk, kk)
  if (perWord == 0)
    bits == 4 ? SLIM_CODES(0, 4) : SLIM_CODES(0, 8);
  else if (perWord == 1)
    bits == 4 ? SLIM_CODES(1, 4) : SLIM_CODES(1, 8);
  else
    bits == 4 ? SLIM_CODES(2, 4) : SLIM_CODES(2, 8);
#undef SLIM_CODES
  if (out != to) slimPack(to, out, size, bits);
}
#endif

#ifdef SLIM_WARP
/* slimQsgdNearest of a w that passes no level: the last one by less than a half. */
SLIM_FN int32_t slimQsgdNear(float w, float r) {
  const float a = w * r;
  return (int32_t)(a + slimFloat((slimBits(a) & 0x80000000u) | slimBits(.5f)));
}
/* As below, with the levels in registers. */
SLIM_CODEC_FN bool slimEncode_qsgd(const slimNode* node, const slimBlock* b, const float* restrict v,
                                   uint8_t* const* sec) {
  const uint32_t size = b->size, bits = node->bits;
  const int32_t levels = (int32_t)node->levels;
  const slimNormal normal = slimNormalise(b->maxBits);
  const float p = normal.p;
  float m = slimFloat(b->maxBits) * p;
  if (node->norm2) {
    float sum;
    SLIM_TREE_SUM(sum, size, i, (v[i] * p) * (v[i] * p));
    m = sqrtf(sum);
  }
  const float r = m > 0 ? (float)levels / m : 0;

  int32_t k[SLIM_OWN];
  uint32_t* words = (uint32_t*)(void*)b->scratch;
  if (node->nearest) {
    SLIM_EACH(i, size) k[i] = slimQsgdNear(v[i] * p, r);
  } else if (node->norm2) {
    slimDrawWords(b->draw, slimDrawDither, node->branch, false, b->first, size, 1, words);
    SLIM_EACH(i, size)
    k[i] = slimQsgdLevel(v[i] * p, r, fmaf((float)(int32_t)(words[i] >> 8), 0x1p-24f, 0x1p-25f), levels);
  } else {
    slimDrawWords(b->draw, slimDrawDither, node->branch, false, b->first, size, 2, words);
    const uint16_t* d = (const uint16_t*)(const void*)words;
    SLIM_EACH(i, size) k[i] = slimQsgdLevel(v[i] * p, r, fmaf((float)(int32_t)d[i], 0x1p-16f, 0x1p-17f), levels);
  }
  uint32_t rows[SLIM_ROWS];
  const uint32_t zeros = (uint32_t)levels * (1 + (1u << bits) + (1u << 2 * bits) + (1u << 3 * bits));
  SLIM_EACH_ROW(r)
  rows[r] = (uint32_t)k[4 * r] + ((uint32_t)k[4 * r + 1] << bits) + ((uint32_t)k[4 * r + 2] << 2 * bits) +
            ((uint32_t)k[4 * r + 3] << 3 * bits) + zeros;
  if (bits == 8)
    slimPutWords(sec[1], rows);
  else
    slimPackRows(sec[1], rows, bits);

  float step = m / (float)levels;
  if (node->lsq) {
    float wq, qq;
    SLIM_TREE_SUM(wq, size, i, (v[i] * p) * (float)k[i]);
    if (node->levels * node->levels * size <= 1u << 24) { /* integers that float sums in any order */
      int32_t sum;
      SLIM_INTEGER_SUM(sum, size, i, k[i] * k[i]);
      qq = (float)sum;
    } else {
      SLIM_TREE_SUM(qq, size, i, (float)k[i] * (float)k[i]);
    }
    step = qq > 0 ? wq / qq : 0;
  }
  if (b->sent) SLIM_EACH(i, size) b->sent[i] = (float)k[i] * (step * normal.up);
  return slimStoreScale(sec[0], step, normal, (float)levels);
}
#else
SLIM_CODEC_FN bool slimEncode_qsgd(const slimNode* node, const slimBlock* b, const float* restrict v,
                                   uint8_t* const* sec) {
  const uint32_t size = b->size;
  const int32_t levels = (int32_t)node->levels;
  const slimNormal normal = slimNormalise(b->maxBits);
  const float p = normal.p;
  const bool wide = slimIsWide(node->bits);
  SLIM_ASSUME_BLOCK(size);

  float m = slimFloat(b->maxBits) * p;
  if (node->norm2) {
    float sum;
    SLIM_TREE_SUM(sum, size, i, (slimLoad(v, i) * p) * (slimLoad(v, i) * p));
    m = sqrtf(sum);
  }
  const float r = m > 0 ? (float)levels / m : 0;

#ifndef SLIM_CUDA
  if (!wide && slimIsModerate(b->maxBits)) {
    float vk = 0, kk = 0;
    slimEncodeLevels(node, b, v, sec[1], p * r, &vk, &kk);
    return slimStoreScale(sec[0], !node->lsq ? m / (float)levels : kk > 0 ? vk * p / kk : 0, normal, (float)levels);
  }
#endif
  void* codes = b->scratch;
  uint32_t* words = (uint32_t*)(void*)(b->scratch + slimRoundUp(wide ? size / 2 : size / 4, 16));
  if (node->nearest) {
    if (wide)
      SLIM_QSGD_CODES(uint16_t, slimQsgdNearest(v[i] * p, r, levels));
    else
      SLIM_QSGD_CODES(uint8_t, slimQsgdNearest(v[i] * p, r, levels));
  } else if (node->norm2) {
    slimDrawWords(b->draw, slimDrawDither, node->branch, false, b->first, size, 1, words);
    if (wide)
      SLIM_QSGD_CODES(uint16_t,
                      slimQsgdLevel(v[i] * p, r, (float)(int32_t)(words[i] >> 8) * 0x1p-24f + 0x1p-25f, levels));
    else
      SLIM_QSGD_CODES(uint8_t,
                      slimQsgdLevel(v[i] * p, r, (float)(int32_t)(words[i] >> 8) * 0x1p-24f + 0x1p-25f, levels));
  } else {
    slimDrawWords(b->draw, slimDrawDither, node->branch, false, b->first, size, 2, words);
    const uint16_t* restrict d = (const uint16_t*)(const void*)words;
    if (wide)
      SLIM_QSGD_CODES(uint16_t, slimQsgdLevel(v[i] * p, r, (float)(int32_t)d[i] * 0x1p-16f + 0x1p-17f, levels));
    else
      SLIM_QSGD_CODES(uint8_t, slimQsgdLevel(v[i] * p, r, (float)(int32_t)d[i] * 0x1p-16f + 0x1p-17f, levels));
  }

  float step = m / (float)levels;
  if (node->lsq) {
    float wq, qq;
    SLIM_TREE_SUM(wq, size, i, (slimLoad(v, i) * p) * slimQsgdAt(codes, i, wide, levels));
    if (!wide && node->levels * node->levels * size <= 1u << 24) { /* integers that float sums in any order */
      int32_t sum;
      const uint8_t* restrict c = (const uint8_t*)codes;
      SLIM_INTEGER_SUM(sum, size, i, ((int32_t)c[i] - levels) * ((int32_t)c[i] - levels));
      qq = (float)sum;
    } else {
      SLIM_TREE_SUM(qq, size, i, slimQsgdAt(codes, i, wide, levels) * slimQsgdAt(codes, i, wide, levels));
    }
    step = qq > 0 ? wq / qq : 0;
  }
  if (wide)
    slimPackWide(sec[1], (const uint16_t*)codes, size, node->bits);
  else
    slimPack(sec[1], (const uint8_t*)codes, size, node->bits);
  return slimStoreScale(sec[0], step, normal, (float)levels);
}
#endif
SLIM_CODEC_FN bool slimEncode_ternary(const slimNode* node, const slimBlock* b, const float* restrict v,
                                      uint8_t* const* sec) {
  return slimEncode_qsgd(node, b, v, sec);
}

#ifndef SLIM_CUDA
/* 2-bit codes without a detour through bytes. */
static inline void slimTernaryValues(float* restrict out, const uint8_t* restrict in, uint32_t size, int32_t levels,
                                     float step) {
  const slimBitsVector shift = SLIM_LIST16(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  for (uint32_t i = 0; i < size; i += 16) {
    uint32_t w;
    memcpy(&w, in + i / 4, 4);
    for (uint32_t j = 0; j < 16; j += SLIM_LANES) {
      const slimBitsVector code = (((slimBitsVector){0} + w) >> (shift + 2 * j) & 3) - (uint32_t)levels;
      slimStore(out, i + j, slimToFloats((slimSignedVector)code) * step);
    }
  }
}
#endif

#ifdef SLIM_WARP
/* Codes c of up to 5 bits: with the right exponent above it, a row's bits from at on are the fraction of 2^(23 − at) +
 * c, and a conversion is a difference. */
enum { SLIM_WHOLE_BITS = 5 };
SLIM_FN void slimQsgdRowValues(float* restrict out, const uint32_t* restrict rows, uint32_t bits, float levels,
                               float step) {
  SLIM_UNROLL
  for (uint32_t j = 0; j < 4; j++) {
    const uint32_t at = j * bits, mask = ((1u << bits) - 1) << at, one = (127 + 23 - at) << 23;
    SLIM_EACH_ROW(r) out[4 * r + j] = (slimFloat((rows[r] & mask) | one) - (slimFloat(one) + levels)) * step;
  }
}
#endif
SLIM_CODEC_FN void slimDecode_qsgd(const slimNode* node, const slimBlock* b, uint8_t* const* sec, float* restrict out) {
  const uint32_t size = b->size;
  const bool wide = slimIsWide(node->bits);
  const float step = slimLoadFloat(sec[0]);
  void* codes = b->scratch;
#ifndef SLIM_CUDA
  if (node->bits == 2) {
    slimTernaryValues(out, sec[1], size, (int32_t)node->levels, step);
    return;
  }
#endif
#ifdef SLIM_WARP
  if (node->bits <= SLIM_WHOLE_BITS) {
    uint32_t rows[SLIM_ROWS];
    slimUnpackRows(rows, sec[1], node->bits);
    slimQsgdRowValues(out, rows, node->bits, (float)node->levels, step);
    return;
  }
#endif
  if (wide)
    slimUnpackWide((uint16_t*)codes, sec[1], size, node->bits);
  else
    slimUnpack((uint8_t*)codes, sec[1], size, node->bits);
  slimQsgdValues(out, codes, size, wide, (int32_t)node->levels, step);
}
SLIM_CODEC_FN void slimDecode_ternary(const slimNode* node, const slimBlock* b, uint8_t* const* sec,
                                      float* restrict out) {
  slimDecode_qsgd(node, b, sec, out);
}

#endif
