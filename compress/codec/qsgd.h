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
SLIM_ALWAYS slimVector slimDitherHalves(const uint32_t* draws, uint32_t i) {
  return slimExactMulAdd(slimToFloats(slimHalvesAt(draws, i)), slimAll(0x1p-16f), slimAll(0x1p-17f));
}
SLIM_ALWAYS slimVector slimDitherWords(const uint32_t* draws, uint32_t i) {
  return slimExactMulAdd(slimToFloats((slimSignedVector)(*(const slimBitsVector*)(draws + i) >> 8)), slimAll(0x1p-24f),
                         slimAll(0x1p-25f));
}
/* slimQsgdLevel and slimQsgdNearest of a vector; perWord: elements that share 32 bits of draws; 0: nearest, which never
 * passes the last level. */
SLIM_ALWAYS slimSignedVector slimQsgdLevels(slimVector w, float r, float levels, const uint32_t* draws, uint32_t i,
                                            const uint32_t perWord, const bool clamped) {
  slimVector a = w * r;
  if (!perWord) return slimTruncated(a + (slimVector)(((slimBitsVector)a & 0x80000000u) | slimBits(.5f)));
  if (clamped) a = slimGreater(slimSmaller(a, slimAll(levels)), slimAll(-levels));
  const slimSignedVector k = slimTruncated(a), outwards = (slimSignedVector)a >> 31 | 1;
  const slimVector rest = slimAbs(slimExactMulAdd(slimToFloats(k), slimAll(-1), a));
  return slimAddWhereBelow(k, outwards, perWord == 1 ? slimDitherWords(draws, i) : slimDitherHalves(draws, i), rest);
}
/* 64 elements from i. sums: Σw·k and Σk² are added to columns wk, kk. */
SLIM_ALWAYS void slimQsgd64(uint8_t* codes, const float* v, uint32_t i, float p, float r, int32_t levels,
                            const uint32_t* draws, const uint32_t perWord, const bool sums, slimVector* wk,
                            slimVector* kk) {
  SLIM_UNROLLED for (uint32_t j = 0; j < SLIM_COLUMNS / 2; j += 4) {
    slimSignedVector k[4];
    SLIM_UNROLLED for (uint32_t t = 0; t < 4; t++) {
      const uint32_t at = i + (j + t) * SLIM_LANES;
      const slimVector w = slimLoad(v, at) * p;
      k[t] = slimQsgdLevels(w, r, (float)levels, draws, at, perWord, sums);
      if (!sums) continue;
      const slimVector q = slimToFloats(k[t]);
      wk[j + t] += w * q;
      kk[j + t] += q * q;
    }
    slimStoreBytes(codes + i + j * SLIM_LANES, k, levels);
  }
}
/* A block's codes, a byte each; fit: wk, kk = tree(w·k), tree(k²). */
SLIM_ALWAYS void slimQsgdBytes(uint8_t* codes, const float* v, uint32_t size, float p, float r, int32_t levels,
                               const uint32_t* draws, const uint32_t perWord, bool fit, float* wk, float* kk) {
  if (!fit) {
    for (uint32_t i = 0; i < size; i += 64) slimQsgd64(codes, v, i, p, r, levels, draws, perWord, false, NULL, NULL);
    return;
  }
  slimVector a[SLIM_COLUMNS], b[SLIM_COLUMNS];
  slimTreeStart(a);
  slimTreeStart(b);
  for (uint32_t i = 0; i < size; i += 128) {
    slimQsgd64(codes, v, i, p, r, levels, draws, perWord, true, a, b);
    if (size > 64)
      slimQsgd64(codes, v, i + 64, p, r, levels, draws, perWord, true, a + SLIM_COLUMNS / 2, b + SLIM_COLUMNS / 2);
  }
  *wk = slimTreeFold(a);
  *kk = slimTreeFold(b);
}

#ifdef __BMI2__
/* Stochastic ternary codes of 32 elements from i: with one level, slimQsgdLevel is a ≥ 1 or y < a. fit: w·q is added to
 * columns wq. How many are not zero. */
SLIM_ALWAYS uint32_t slimTernary32(uint8_t* restrict out, const float* restrict v, float p, float r,
                                   const uint32_t* draws, const bool fit, slimVector* wq) {
  const uint64_t even = 0x5555555555555555u;
  uint32_t some = 0, below = 0;
  SLIM_UNROLLED for (uint32_t j = 0; j < 32 / SLIM_LANES; j++) {
    const size_t at = j * SLIM_LANES;
    const slimVector w = slimLoad(v, at) * p, size = slimAbs(w), a = size * r;
    const slimVector y = (slimVector)slimLesser((slimBitsVector)slimDitherWords(draws, at), slimAllBits(0x3f7fffff));
    some |= slimBelow(y, a) << j * SLIM_LANES;
    below |= slimSigns(w) << j * SLIM_LANES;
    if (fit) wq[j] += (slimVector)((slimSignedVector)size & (y < a));
  }
  const uint64_t codes = _pdep_u64(~some, even) | _pdep_u64(some & ~below, even << 1);
  memcpy(out, &codes, 8);
  return (uint32_t)__builtin_popcount(some);
}
/* A block of them. fit: wk = tree(w·q), kk = tree(q·q). */
SLIM_ALWAYS void slimTernaryCodes(uint8_t* restrict out, const float* restrict v, uint32_t size, float p, float r,
                                  const slimDraws* draws, const bool fit, float* wk, float* kk) {
  enum { each = 32 / SLIM_LANES };
  slimVector wq[SLIM_COLUMNS];
  uint32_t count = 0, words[128];
  SLIM_ASSUME_BLOCK(size);
  slimTreeStart(wq);
  for (size_t i = 0; i < size; i += 128) {
    slimDrawSome(draws, (uint32_t)i / 4, 32, words);
    SLIM_UNROLLED for (uint32_t j = 0; j < 4; j++) {
      if (j == 2 && size == 64) break;
      count += slimTernary32(out + i / 4 + 8 * j, v + i + 32 * j, p, r, words + 32 * j, fit, wq + each * j);
    }
  }
  *wk = slimTreeFold(wq);
  *kk = (float)count;
}
#endif
#endif

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

  void* codes = b->scratch;
  uint32_t* words = (uint32_t*)(void*)(b->scratch + slimRoundUp(wide ? size / 2 : size / 4, 16));
#ifndef SLIM_CUDA
  if (!wide) {
    float wk = 0, kk = 0;
    if (node->nearest) {
      slimQsgdBytes(codes, v, size, p, r, levels, NULL, 0, node->lsq, &wk, &kk);
    } else if (node->norm2 || levels == 1) {
#ifdef __BMI2__
      if (levels == 1) {
        const slimDraws draws = slimDrawsOf(b->draw, slimDrawDither, node->branch, false, b->first, 1);
        if (node->lsq)
          slimTernaryCodes(sec[1], v, size, p, r, &draws, true, &wk, &kk);
        else
          slimTernaryCodes(sec[1], v, size, p, r, &draws, false, &wk, &kk);
        return slimStoreScale(sec[0], !node->lsq ? m : kk > 0 ? wk / kk : 0, normal, 1);
      }
#endif
      slimDrawWords(b->draw, slimDrawDither, node->branch, false, b->first, size, 1, words);
      slimQsgdBytes(codes, v, size, p, r, levels, words, 1, node->lsq, &wk, &kk);
    } else {
      slimDrawWords(b->draw, slimDrawDither, node->branch, false, b->first, size, 2, words);
      slimQsgdBytes(codes, v, size, p, r, levels, words, 2, node->lsq, &wk, &kk);
    }
    slimPack(sec[1], codes, size, node->bits);
    return slimStoreScale(sec[0], !node->lsq ? m / (float)levels : kk > 0 ? wk / kk : 0, normal, (float)levels);
  }
#endif
  if (node->nearest) {
    if (wide)
      SLIM_QSGD_CODES(uint16_t, slimQsgdNearest(v[i] * p, r, levels));
    else
      SLIM_QSGD_CODES(uint8_t, slimQsgdNearest(v[i] * p, r, levels));
  } else if (node->norm2 || levels == 1) {
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
