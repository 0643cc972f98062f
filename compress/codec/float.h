/* fp32, fp16, bf16: the values themselves, or cast with saturation. format.md §5. */
#ifndef SLIM_CODEC_FLOAT_H_
#define SLIM_CODEC_FLOAT_H_

#include "compress/block.h"
#include "compress/convert.h"
#ifndef SLIM_CUDA
#include "compress/option.h"

SLIM_OPTIONS(fp32) = {SLIM_END_OPTIONS};
SLIM_OPTIONS(fp16) = {SLIM_END_OPTIONS};
SLIM_OPTIONS(bf16) = {SLIM_END_OPTIONS};

static inline const char* slimSetupCast(slimNode* node, uint32_t bits) {
  node->block = SLIM_MIN_BLOCK;
  node->bits = bits;
  node->sections = 1;
  node->section[0] = (slimSection){SLIM_MIN_BLOCK * bits / 8, bits};
  return NULL;
}
static inline const char* slimSetup_fp32(slimNode* node, const slimOptionValues* o) {
  (void)o;
  return slimSetupCast(node, 32);
}
static inline const char* slimSetup_fp16(slimNode* node, const slimOptionValues* o) {
  (void)o;
  return slimSetupCast(node, 16);
}
static inline const char* slimSetup_bf16(slimNode* node, const slimOptionValues* o) {
  (void)o;
  return slimSetupCast(node, 16);
}

static inline slimClass slimClass_fp32(const slimNode* node, double n) {
  (void)node, (void)n;
  return (slimClass){0, 1, 32};
}
/* Half an ulp of 11 significant bits; values below fp16's normal range lose more, and those above it saturate. */
static inline slimClass slimClass_fp16(const slimNode* node, double n) {
  (void)node, (void)n;
  return (slimClass){INFINITY, 1 - 0x1p-22, 16};
}
static inline slimClass slimClass_bf16(const slimNode* node, double n) {
  (void)node, (void)n;
  return (slimClass){INFINITY, 1 - 0x1p-16, 16};
}
#endif

SLIM_CODEC_FN bool slimEncode_fp32(const slimNode* node, const slimBlock* b, const float* restrict v,
                                   uint8_t* const* sec) {
  (void)node;
  slimPutFloats(sec[0], v, b->size);
  return true;
}
SLIM_CODEC_FN void slimDecode_fp32(const slimNode* node, const slimBlock* b, uint8_t* const* sec, float* restrict out) {
  (void)node;
  slimTakeFloats(out, sec[0], b->size);
}
SLIM_CODEC_FN bool slimEncode_fp16(const slimNode* node, const slimBlock* b, const float* restrict v,
                                   uint8_t* const* sec) {
  (void)node;
  uint16_t* restrict out = slimHalvesOf(sec[0], b->scratch);
  slimFloatsToHalvesSaturated(out, v, b->size);
  slimPutHalves(sec[0], out, b->size);
  return true;
}
SLIM_CODEC_FN void slimDecode_fp16(const slimNode* node, const slimBlock* b, uint8_t* const* sec, float* restrict out) {
  (void)node;
  slimHalvesToFloats(out, slimTakeHalves(sec[0], b->scratch, b->size), b->size);
}
SLIM_CODEC_FN bool slimEncode_bf16(const slimNode* node, const slimBlock* b, const float* restrict v,
                                   uint8_t* const* sec) {
  (void)node;
  uint16_t* restrict out = slimHalvesOf(sec[0], b->scratch);
  SLIM_ASSUME_BLOCK(b->size);
  SLIM_EACH(i, b->size) {
    uint16_t c = slimToBf16(v[i]);
    out[i] = (c & 0x7fff) == 0x7f80 ? (uint16_t)(c - 1) : c;
  }
  slimPutHalves(sec[0], out, b->size);
  return true;
}
SLIM_CODEC_FN void slimDecode_bf16(const slimNode* node, const slimBlock* b, uint8_t* const* sec, float* restrict out) {
  (void)node;
  const uint16_t* restrict in = slimTakeHalves(sec[0], b->scratch, b->size);
  SLIM_ASSUME_BLOCK(b->size);
  SLIM_EACH(i, b->size) out[i] = slimFromBf16(in[i]);
}

#endif
