/* sign (signSGD), and onebit: a sign and one scale a block. Undithered: mean |v|, the least-squares scale (EF-signSGD,
 * DRIVE), or ‖v‖²/‖v‖₁, right on average below rotate (DRIVE, arXiv 2105.08339; EDEN). Dithered (FO-SGD, arXiv
 * 2405.11095, below rotate): sign(v + t), t uniform in [−lambda, lambda]: its mean is v clipped to ±lambda. format.md
 * §5. */
#ifndef SLIM_CODEC_ONEBIT_H_
#define SLIM_CODEC_ONEBIT_H_

#include "compress/block.h"
#ifndef SLIM_CUDA
#include "compress/option.h"

SLIM_OPTIONS(sign) = {{"scale", slimOptionReal, "1", 0x1p-126, 0x1p126, NULL}, SLIM_END_OPTIONS};
#define SLIM_DITHER_OPTIONS                                                \
  {"f", slimOptionReal, NULL, 0x1p-20, 0x1p20, NULL},                      \
      {"lambda", slimOptionReal, NULL, 0x1p-126, 0x1p126, "inf|shared"}, { \
    "delta", slimOptionReal, NULL, 1e-12, 1, NULL                          \
  }
SLIM_OPTIONS(onebit) = {{"dither", slimOptionFlag, "0", 0, 0, NULL},
                        SLIM_DITHER_OPTIONS,
                        {"scale", slimOptionChoice, "mean", 0, 0, "mean|unbiased"},
                        {"block", slimOptionBlock, "512", 0, 0, NULL},
                        SLIM_END_OPTIONS};
enum { slimOnebitDither, slimOnebitF, slimOnebitLambda, slimOnebitDelta, slimOnebitScale, slimOnebitBlock };

static inline const char* slimSetup_sign(slimNode* node, const slimOptionValues* o) {
  node->value = (float)o->value[0];
  node->block = SLIM_MIN_BLOCK;
  node->bits = 1;
  node->sections = 1;
  node->section[0] = (slimSection){SLIM_MIN_BLOCK / 8, 1};
  return NULL;
}
static inline const char* slimSetup_onebit(slimNode* node, const slimOptionValues* o) {
  const bool dither = o->value[slimOnebitDither] != 0, f = o->given[slimOnebitF], delta = o->given[slimOnebitDelta];
  const double lambda = o->value[slimOnebitLambda];
  const bool shared = o->given[slimOnebitLambda] && lambda == -2;
  if (f + delta + (o->given[slimOnebitLambda] && !shared) > 1) return "f, delta and lambda exclude each other";
  if (!dither && (f || delta || o->given[slimOnebitLambda]))
    return "f, delta and lambda need dither: onebit(dither, f=1.5)";
  if (dither && o->value[slimOnebitScale] != 0) return "scale belongs to onebit without dither";
  node->lambda = !dither                       ? slimLambdaNone
                 : !o->given[slimOnebitLambda] ? slimLambdaNorm
                 : shared                      ? slimLambdaShared
                 : lambda < 0                  ? slimLambdaMax
                                               : slimLambdaFixed;
  node->unbiased = o->value[slimOnebitScale] == 1;
  node->rotated = delta || shared;
  node->block = (uint32_t)o->value[slimOnebitBlock];
  /* |z| ≤ ‖g‖·sqrt(2·ln(2m/delta)/m) for all m rotated values with probability 1 − delta (Hoeffding). */
  node->value = node->lambda == slimLambdaFixed ? (float)lambda
                : f                             ? (float)o->value[slimOnebitF]
                : delta                         ? (float)sqrt(2 * log(2.0 * node->block / o->value[slimOnebitDelta]))
                                                : 1.5f;
  node->bits = 1;
  node->sections = 2;
  node->section[0] = (slimSection){4, 0};
  node->section[1] = (slimSection){node->block / 8, 1};
  return NULL;
}

static inline slimClass slimClass_sign(const slimNode* node, double n) {
  (void)node, (void)n;
  return (slimClass){INFINITY, 0, 1};
}
/* Undithered ‖v‖₁² ≥ ‖v‖₂², so delta ≥ 1/n; dithered with the least-squares scale E⟨v,q⟩² ≥ ‖v‖², so again. lambda =
 * max: E‖q‖² = n·max² ≤ n‖v‖². All other lambdas clip: no class by themselves. Nor has scale=unbiased one: it is
 * unbiased under a rotation by uniformly random orthogonal matrices, not under random signs (of two rotated values the
 * larger one decides all signs), and its error is n‖v‖²/‖v‖₁² − 1 times ‖v‖², more than 1 for a spike. */
static inline slimClass slimClass_onebit(const slimNode* node, double n) {
  double bits = 1 + 32.0 / n;
  if ((node->lambda == slimLambdaNone && !node->unbiased) || node->lsq) return (slimClass){INFINITY, 1 / n, bits};
  if (node->lambda == slimLambdaMax) return (slimClass){n - 1, 0, bits};
  return (slimClass){INFINITY, 0, bits};
}
#endif

SLIM_FN void slimPackSigns(uint8_t* restrict out, const float* restrict v, uint32_t n) {
  SLIM_ASSUME_BLOCK(n);
  SLIM_PACK_SIGNS(out, n, i, slimLoad(v, i));
}
/* ±scale, minus where the bit is 1. */
SLIM_FN void slimUnpackSigns(float* restrict out, const uint8_t* restrict in, uint32_t n, float scale) {
  SLIM_ASSUME_BLOCK(n);
  const slimBitsVector bits = slimAllBits(slimBits(scale));
  SLIM_EACH_WORD(i, n) {
    const uint32_t w = slimStreamAt(in, i);
    SLIM_EACH_LANES(j) slimStore(out, i + j, slimAsVector(slimSignsOf(w, j) ^ bits));
  }
}

SLIM_CODEC_FN bool slimEncode_sign(const slimNode* node, const slimBlock* b, const float* restrict v,
                                   uint8_t* const* sec) {
  (void)node;
  slimPackSigns(sec[0], v, b->size);
  return true;
}
SLIM_CODEC_FN void slimDecode_sign(const slimNode* node, const slimBlock* b, uint8_t* const* sec, float* restrict out) {
  slimUnpackSigns(out, sec[0], b->size, node->value);
}

/* bit = v·p + lambda·t < 0, t = (2d − 65535)/2^16 of a draw d */
SLIM_FN void slimDitherSigns(const slimNode* node, const slimBlock* b, const float* restrict v, float p, float lambda,
                             uint8_t* restrict out) {
  uint32_t* words = (uint32_t*)(void*)b->scratch;
  slimDrawWords(b->draw, slimDrawDither, node->branch, false, b->first, b->size, 2, words);
  SLIM_ASSUME_BLOCK(b->size);
  SLIM_PACK_SIGNS(out, b->size, i,
                  slimLoad(v, i) * p + lambda * slimExactMulAdd(slimToFloats(slimHalvesAt(words, i)), slimAll(0x1p-15f),
                                                                slimAll(-65535 * 0x1p-16f)));
}

SLIM_CODEC_FN bool slimEncode_onebit(const slimNode* node, const slimBlock* b, const float* restrict v,
                                     uint8_t* const* sec) {
  const bool fixed = node->lambda == slimLambdaFixed;
  const slimNormal normal = fixed                                               ? (slimNormal){1, 1, 0}
                            : node->lambda == slimLambdaNone && !node->unbiased ? slimNormaliseSum(b->maxBits)
                                                                                : slimNormalise(b->maxBits);
  const float p = normal.p;
  float scale = 0, sum;
  switch (node->lambda) {
    case slimLambdaNone:
#ifndef SLIM_CUDA
      sum = normal.e == 0 ? b->magnitudes : 0;
      if (!(sum > 0))
#endif
        SLIM_TREE_SUM(sum, b->size, i, slimAbs(slimLoad(v, i) * p));
      if (node->unbiased) {
        float squares;
        SLIM_TREE_SUM(squares, b->size, i, (slimLoad(v, i) * p) * (slimLoad(v, i) * p));
        scale = b->maxBits ? squares / sum : 0;
      } else {
        scale = b->nv ? sum / (float)b->nv : 0;
      }
      slimPackSigns(sec[1], v, b->size);
      return slimStoreScale(sec[0], scale, normal, 1);
    case slimLambdaNorm:
    case slimLambdaShared:
      SLIM_TREE_SUM(sum, b->size, i, (slimLoad(v, i) * p) * (slimLoad(v, i) * p));
      scale = b->nv ? node->value * sqrtf(sum / (float)b->nv) : 0;
      break;
    case slimLambdaMax:
      scale = slimFloat(b->maxBits) * p;
      break;
    case slimLambdaFixed:
      scale = !b->maxBits ? 0 : node->chosen > 0 ? node->chosen : node->value;
      break;
  }
  const bool common = b->lambda > 0; /* of all ranks; the scale is then what this one asks for */
  slimDitherSigns(node, b, v, common ? 1 : p, common ? b->lambda : scale, sec[1]);
  if (node->lsq) { /* ⟨w, q⟩/⟨q, q⟩ */
    SLIM_TREE_SUM(sum, b->size, i,
                  slimFlipped(slimLoad(v, i) * p, slimSignsOf(slimStreamAt(sec[1], i), SLIM_BIT_OF(i))));
    return slimStoreScale(sec[0], b->nv && b->maxBits ? sum / (float)b->nv : 0, normal, 1);
  }
  if (!fixed) return slimStoreScale(sec[0], scale, normal, 1);
  slimStoreFloat(sec[0], scale);
  return true;
}
SLIM_CODEC_FN void slimDecode_onebit(const slimNode* node, const slimBlock* b, uint8_t* const* sec,
                                     float* restrict out) {
  (void)node;
  slimUnpackSigns(out, sec[1], b->size, b->lambda > 0 ? b->lambda : slimLoadFloat(sec[0]));
}

#ifndef SLIM_CUDA

/* out = r·(ranks − 2c), c of the ranks' bit streams having a 1 there. */
static inline void slimSumSigns(float* restrict out, const uint8_t* const* streams, uint32_t ranks, float r, uint32_t n,
                                uint32_t* restrict scratch) {
  const uint32_t words = n / 32, planes = 32 - (uint32_t)__builtin_clz(ranks);
  uint32_t* restrict carry = scratch + (size_t)planes * words;
  SLIM_ASSUME_BLOCK(n);
  memset(scratch, 0, 4 * (size_t)planes * words);
  for (uint32_t rank = 0; rank < ranks; rank++) { /* counts in binary: plane p holds their bits p */
    memcpy(carry, streams[rank], 4 * (size_t)words);
    for (uint32_t p = 0; (rank + 1) >> p; p++) {
      uint32_t* restrict plane = scratch + (size_t)p * words;
      for (uint32_t i = 0; i < words; i++) {
        const uint32_t both = plane[i] & carry[i];
        plane[i] ^= carry[i];
        carry[i] = both;
      }
    }
  }
  /* ranks − 2·Σ 2^p·bit = ranks − Σ 2^p + Σ ±2^p: integers, exact in floats. */
  const float least = (float)ranks - (float)((1u << planes) - 1);
  for (uint32_t i = 0; i < n; i += 32)
    for (uint32_t j = 0; j < 32; j += SLIM_LANES) {
      slimVector k = (slimVector){0} + least;
      for (uint32_t p = 0; p < planes; p++)
        k += (slimVector)(slimSignsOf(scratch[p * words + i / 32], j) ^ slimBits((float)(1u << p)));
      slimStore(out, i + j, k * r);
    }
}

#endif

#endif
