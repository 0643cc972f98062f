/* natural compression (arXiv 1905.10988): magnitudes rounded stochastically to a power of two: a sign and 8 bits of
 * exponent, relative to the block's maximum. format.md §5. */
#ifndef SLIM_CODEC_NATURAL_H_
#define SLIM_CODEC_NATURAL_H_

#include "compress/codec/onebit.h"

#ifndef SLIM_CUDA
SLIM_OPTIONS(natural) = {{"block", slimOptionBlock, "512", 0, 0, NULL}, SLIM_END_OPTIONS};

static inline const char* slimSetup_natural(slimNode* node, const slimOptionValues* o) {
  node->block = (uint32_t)o->value[0];
  node->bits = 9;
  node->sections = 3;
  node->section[0] = (slimSection){4, 0};
  node->section[1] = (slimSection){node->block / 8, 1};
  node->section[2] = (slimSection){node->block, 8};
  return NULL;
}
static inline slimClass slimClass_natural(const slimNode* node, double n) {
  return (slimClass){0.125, node->lsq ? 1 / 1.125 : 0, 9 + 32.0 / n};
}
#endif

SLIM_FN void slimNaturalValues(float* restrict out, const uint8_t* restrict exponents, uint32_t n) {
  SLIM_ASSUME_BLOCK(n);
  SLIM_EACH(i, n) out[i] = slimFloat((uint32_t)exponents[i] << 23);
}

SLIM_FN bool slimEncode_natural(const slimNode* node, const slimBlock* b, const float* restrict v,
                                uint8_t* const* sec) {
  const uint32_t size = b->size;
  const slimNormal normal = slimNormalise(b->maxBits);
  uint32_t* words = (uint32_t*)(void*)b->scratch;
  slimDrawWords(b->draw, slimDrawDither, node->branch, false, b->first, size, 2, words);
  const uint16_t* restrict d = (const uint16_t*)(const void*)words;
  float* restrict w = b->scratch + slimRoundUp(size / 2, 64);
  uint8_t* restrict exponents = sec[2];
  SLIM_ASSUME_BLOCK(size);
  SLIM_EACH(i, size) {
    w[i] = v[i] * normal.p;
    exponents[i] = (uint8_t)(((slimBits(w[i]) & 0x7fffffffu) + 128 * d[i] + 64) >> 23);
  }
  SLIM_EACH(i, size) w[i] = exponents[i] ? w[i] : 0;
  slimPackSigns(sec[1], w, size);
  float scale = b->maxBits ? 1 : 0;
  if (node->lsq && b->maxBits) {
    float* restrict q = w + size;
    float wq, qq;
    slimNaturalValues(q, exponents, size);
    SLIM_TREE_SUM(wq, size, i, slimAbs(slimLoad(v, i) * normal.p) * slimLoad(q, i));
    SLIM_TREE_SUM(qq, size, i, slimLoad(q, i) * slimLoad(q, i));
    scale = qq > 0 ? wq / qq : 0;
  }
  return slimStoreScale(sec[0], scale, normal, 2);
}
SLIM_FN void slimDecode_natural(const slimNode* node, const slimBlock* b, uint8_t* const* sec, float* restrict out) {
  (void)node;
  const uint8_t* restrict exponents = sec[2];
  float* restrict sign = b->scratch;
  slimUnpackSigns(sign, sec[1], b->size, slimLoadFloat(sec[0]));
  SLIM_ASSUME_BLOCK(b->size);
  SLIM_EACH(i, b->size) out[i] = slimFloat((uint32_t)exponents[i] << 23) * sign[i];
}

#endif
