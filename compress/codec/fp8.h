/* fp8: 8-bit floats (e4m3, e5m2) below a power-of-two scale a block. format.md §5. */
#ifndef SLIM_CODEC_FP8_H_
#define SLIM_CODEC_FP8_H_

#include "compress/block.h"
#include "compress/convert.h"
#ifndef SLIM_CUDA
#include "compress/option.h"

SLIM_OPTIONS(fp8) = {{"format", slimOptionChoice, "e4m3", 0, 0, "e4m3|e5m2"},
                     {"block", slimOptionBlock, "512", 0, 0, NULL},
                     SLIM_END_OPTIONS};

static inline const char* slimSetup_fp8(slimNode* node, const slimOptionValues* o) {
  node->e5m2 = o->value[0] == 1;
  node->block = (uint32_t)o->value[1];
  node->bits = 8;
  node->sections = 2;
  node->section[0] = (slimSection){4, 0};
  node->section[1] = (slimSection){node->block, 8};
  return NULL;
}
/* Half an ulp of 4 (3) significant bits; what lies 2^-13 (2^-28) below the block's maximum loses more, but counts less.
 */
static inline slimClass slimClass_fp8(const slimNode* node, double n) {
  double half = node->e5m2 ? 0x1p-3 : 0x1p-4, floor = node->e5m2 ? 0x1p-31 : 0x1p-17;
  return (slimClass){INFINITY, 1 - half * half - n * floor * floor, 8 + 32.0 / n};
}
#endif

SLIM_CODEC_FN bool slimEncode_fp8(const slimNode* node, const slimBlock* b, const float* restrict v,
                                  uint8_t* const* sec) {
  const uint32_t size = b->size;
  const slimNormal normal = slimNormalise(b->maxBits);
  uint8_t* restrict out = slimBytesOf(sec[1], b->scratch);
  SLIM_ASSUME_BLOCK(size);
#ifdef SLIM_CUDA
  if (node->e5m2)
    SLIM_EACH(i, size) out[i] = slimToFp8(v[i] * normal.p * 0x1p14f, 15, 2);
  else
    SLIM_EACH(i, size) out[i] = slimToFp8(v[i] * normal.p * 0x1p7f, 7, 3);
#else
  if (node->e5m2)
    for (size_t i = 0; i < size; i += 4 * SLIM_LANES) slimToFp8s(out + i, v + i, normal.p, 0x1p14f, 15, 2);
  else
    for (size_t i = 0; i < size; i += 4 * SLIM_LANES) slimToFp8s(out + i, v + i, normal.p, 0x1p7f, 7, 3);
#endif
  slimPutBytes(sec[1], out, size);
  float scale = b->maxBits ? (node->e5m2 ? 0x1p-14f : 0x1p-7f) : 0;
  return slimStoreScale(sec[0], scale, normal, node->e5m2 ? 0x1p15f : 0x1p8f);
}
SLIM_CODEC_FN void slimDecode_fp8(const slimNode* node, const slimBlock* b, uint8_t* const* sec, float* restrict out) {
  const float scale = slimLoadFloat(sec[0]);
  const uint8_t* restrict in = slimTakeBytes(sec[1], b->scratch, b->size);
  SLIM_ASSUME_BLOCK(b->size);
  if (node->e5m2)
    SLIM_EACH(i, b->size) out[i] = slimFromFp8(in[i], 15, 2) * scale;
  else
    SLIM_EACH(i, b->size) out[i] = slimFromFp8(in[i], 7, 3) * scale;
}

#endif
