/* natural compression (arXiv 1905.10988): magnitudes rounded stochastically to a power of two: a sign and 8 bits of
 * exponent, relative to the block's maximum. With bits=, natural dithering: the levels 0, 2^(1−L), …, ½, 1 times the
 * block's norm; nuqsgd (NUQSGD, JMLR 22:114) is that with norm=2. format.md §5. */
#ifndef SLIM_CODEC_NATURAL_H_
#define SLIM_CODEC_NATURAL_H_

#include "compress/codec/onebit.h"
#include "compress/codec/qsgd.h"

#ifndef SLIM_CUDA
SLIM_OPTIONS(natural) = {{"bits", slimOptionInt, NULL, 3, 8, NULL},
                         {"norm", slimOptionChoice, "inf", 0, 0, "inf|2"},
                         {"block", slimOptionBlock, "512", 0, 0, NULL},
                         SLIM_END_OPTIONS};
SLIM_OPTIONS(nuqsgd) = {
    {"bits", slimOptionInt, NULL, 3, 8, NULL}, {"block", slimOptionBlock, "512", 0, 0, NULL}, SLIM_END_OPTIONS};

static inline const char* slimSetup_natural(slimNode* node, const slimOptionValues* o) {
  const uint32_t block = (uint32_t)o->value[2];
  node->norm2 = o->value[1] == 1;
  if (o->given[0]) return slimSetupLevels(node, (1u << ((uint32_t)o->value[0] - 1)) - 1, block);
  if (node->norm2) return "norm belongs to natural dithering, which has bits=";
  node->block = block;
  node->bits = 9;
  node->sections = 3;
  node->section[0] = (slimSection){4, 0};
  node->section[1] = (slimSection){node->block / 8, 1};
  node->section[2] = (slimSection){node->block, 8};
  return NULL;
}
static inline const char* slimSetup_nuqsgd(slimNode* node, const slimOptionValues* o) {
  if (!o->given[0]) return "bits= is missing";
  node->norm2 = true;
  return slimSetupLevels(node, (1u << ((uint32_t)o->value[0] - 1)) - 1, (uint32_t)o->value[1]);
}

/* Rounding to powers of two: ω = 1/8. Below the smallest level δ of the norm m, t(δm − t) ≤ δ²m²/4 and ≤ δmt. */
static inline slimClass slimClass_natural(const slimNode* node, double n) {
  const double a = sqrt(n) * exp2(1 - (double)node->levels), omega = 0.125 + (node->levels ? fmin(a, a * a / 4) : 0);
  return (slimClass){omega, node->lsq ? 1 / (1 + omega) : 0, node->bits + 32.0 / n};
}
static inline slimClass slimClass_nuqsgd(const slimNode* node, double n) { return slimClass_natural(node, n); }
#endif

/* ---- Natural dithering ---------------------------------------------------------------------------------------- */

/* The signed number of w's level, of `levels` on either side. r is 1/norm, up 2^(levels − 1); fraction (23 bits)
 * and y, in (0, 1), are the same uniform draw. */
SLIM_FN int32_t slimPowerLevel(float w, float r, float up, uint32_t fraction, float y, int32_t levels) {
  const float a = fabsf(w) * r * up; /* over the smallest level */
  int32_t k = a >= 1 ? (int32_t)((slimBits(a) + fraction) >> 23) - 126 : y < a;
  k = k < levels ? k : levels;
  return w < 0 ? -k : k;
}
/* Level k over the norm. */
SLIM_FN float slimPowerValue(int32_t k, int32_t levels) {
  const uint32_t size = (uint32_t)(127 - levels + (k < 0 ? -k : k)) << 23;
  return slimFloat((k ? size : 0) | ((uint32_t)k & 0x80000000u));
}

SLIM_FN bool slimEncodePowers(const slimNode* node, const slimBlock* b, const float* restrict v, uint8_t* const* sec) {
  const uint32_t size = b->size;
  const int32_t levels = (int32_t)node->levels;
  const slimNormal normal = slimNormalise(b->maxBits);
  const float p = normal.p, up = slimFloat((uint32_t)(126 + levels) << 23);
  SLIM_ASSUME_BLOCK(size);

  float m = slimFloat(b->maxBits) * p;
  if (node->norm2) {
    float sum;
    SLIM_TREE_SUM(sum, size, i, (slimLoad(v, i) * p) * (slimLoad(v, i) * p));
    m = sqrtf(sum);
  }
  const float r = m > 0 ? 1 / m : 0;
  uint8_t* restrict codes = (uint8_t*)(void*)b->scratch;
  uint32_t* restrict words = (uint32_t*)(void*)(b->scratch + slimRoundUp(size / 4, 16));
  slimDrawWords(b->draw, slimDrawDither, node->branch, false, b->first, size, node->norm2 ? 1 : 2, words);
  if (node->norm2) {
    SLIM_EACH(i, size)
    codes[i] = (uint8_t)(slimPowerLevel(v[i] * p, r, up, words[i] >> 9,
                                        (float)(int32_t)(words[i] >> 8) * 0x1p-24f + 0x1p-25f, levels) +
                         levels);
  } else {
    const uint16_t* restrict d = (const uint16_t*)(const void*)words;
    SLIM_EACH(i, size)
    codes[i] = (uint8_t)(slimPowerLevel(v[i] * p, r, up, 128u * d[i] + 64, (float)(int32_t)d[i] * 0x1p-16f + 0x1p-17f,
                                        levels) +
                         levels);
  }
  if (node->lsq) {
    float* restrict q = (float*)(void*)words;
    float wq, qq;
    slimSync();
    SLIM_EACH(i, size) q[i] = slimPowerValue(codes[i] - levels, levels);
    slimSync();
    SLIM_TREE_SUM(wq, size, i, (slimLoad(v, i) * p) * slimLoad(q, i));
    SLIM_TREE_SUM(qq, size, i, slimLoad(q, i) * slimLoad(q, i));
    m = qq > 0 ? wq / qq : 0;
  }
  slimPack(sec[1], codes, size, node->bits);
  return slimStoreScale(sec[0], m, normal, 1);
}
SLIM_FN void slimDecodePowers(const slimNode* node, const slimBlock* b, uint8_t* const* sec, float* restrict out) {
  const uint32_t size = b->size;
  const int32_t levels = (int32_t)node->levels;
  const float scale = slimLoadFloat(sec[0]);
  uint8_t* restrict codes = (uint8_t*)(void*)b->scratch;
  slimUnpack(codes, sec[1], size, node->bits);
  SLIM_ASSUME_BLOCK(size);
  SLIM_EACH(i, size) out[i] = slimPowerValue(codes[i] - levels, levels) * scale;
}

/* ---- Natural compression -------------------------------------------------------------------------------------- */

SLIM_FN void slimNaturalValues(float* restrict out, const uint8_t* restrict exponents, uint32_t n) {
  SLIM_ASSUME_BLOCK(n);
  SLIM_EACH(i, n) out[i] = slimFloat((uint32_t)exponents[i] << 23);
}

SLIM_CODEC_FN bool slimEncode_natural(const slimNode* node, const slimBlock* b, const float* restrict v,
                                      uint8_t* const* sec) {
  if (node->levels) return slimEncodePowers(node, b, v, sec);
  const uint32_t size = b->size;
  const slimNormal normal = slimNormalise(b->maxBits);
  uint32_t* words = (uint32_t*)(void*)b->scratch;
  slimDrawWords(b->draw, slimDrawDither, node->branch, false, b->first, size, 2, words);
  const uint16_t* restrict d = (const uint16_t*)(const void*)words;
  float* restrict w = b->scratch + slimRoundUp(size / 2, 64);
  uint8_t* restrict exponents = slimBytesOf(sec[2], w + size);
  SLIM_ASSUME_BLOCK(size);
  SLIM_EACH(i, size) {
    w[i] = v[i] * normal.p;
    exponents[i] = (uint8_t)(((slimBits(w[i]) & 0x7fffffffu) + 128 * d[i] + 64) >> 23);
  }
  SLIM_EACH(i, size) w[i] = exponents[i] ? w[i] : 0;
  slimPackSigns(sec[1], w, size);
  slimPutBytes(sec[2], exponents, size);
  float scale = b->maxBits ? 1 : 0;
  if (node->lsq && b->maxBits) {
    float* restrict q = w;
    float wq, qq;
    slimNaturalValues(q, exponents, size);
    SLIM_TREE_SUM(wq, size, i, slimAbs(slimLoad(v, i) * normal.p) * slimLoad(q, i));
    SLIM_TREE_SUM(qq, size, i, slimLoad(q, i) * slimLoad(q, i));
    scale = qq > 0 ? wq / qq : 0;
  }
  return slimStoreScale(sec[0], scale, normal, 2);
}
SLIM_CODEC_FN void slimDecode_natural(const slimNode* node, const slimBlock* b, uint8_t* const* sec,
                                      float* restrict out) {
  if (node->levels) {
    slimDecodePowers(node, b, sec, out);
    return;
  }
  const uint8_t* restrict exponents = slimTakeBytes(sec[2], b->scratch + b->size, b->size);
  float* restrict sign = b->scratch;
  slimUnpackSigns(sign, sec[1], b->size, slimLoadFloat(sec[0]));
  SLIM_ASSUME_BLOCK(b->size);
  SLIM_EACH(i, b->size) out[i] = slimFloat((uint32_t)exponents[i] << 23) * sign[i];
}
SLIM_CODEC_FN bool slimEncode_nuqsgd(const slimNode* node, const slimBlock* b, const float* restrict v,
                                     uint8_t* const* sec) {
  return slimEncodePowers(node, b, v, sec);
}
SLIM_CODEC_FN void slimDecode_nuqsgd(const slimNode* node, const slimBlock* b, uint8_t* const* sec,
                                     float* restrict out) {
  slimDecodePowers(node, b, sec, out);
}

#endif
