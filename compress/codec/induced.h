/* induced(C, Q): C's message and Q's of what C left over: turns a contractive C and an unbiased Q into an unbiased pair
 * with omega·(1 − delta) (Shifted Compression, arXiv 2206.10452, and Horváth & Richtárik). format.md §5. */
#ifndef SLIM_CODEC_INDUCED_H_
#define SLIM_CODEC_INDUCED_H_

#include "compress/block.h"
#ifndef SLIM_CUDA
#include "compress/option.h"

SLIM_OPTIONS(induced) = {
    {"C", slimOptionNode, NULL, 0, 0, NULL}, {"Q", slimOptionNode, NULL, 0, 0, NULL}, SLIM_END_OPTIONS};

static inline const char* slimSetup_induced(slimNode* node, const slimOptionValues* o) {
  (void)node, (void)o;
  return NULL;
}

#endif

/* What C's decoded message leaves over, in its place. */
SLIM_FN void slimLeave(const slimBlock* b, const float* restrict v, float* restrict rest) {
  slimSync();
  SLIM_EACH(i, b->size) rest[i] = i < b->nv ? v[i] - rest[i] : 0;
}
SLIM_FN void slimAdd(uint32_t n, const float* restrict q, float* restrict out) {
  slimSync();
  SLIM_EACH(i, n) out[i] += q[i];
}

#ifdef SLIM_ISA /* the CPU kernels */

static inline bool slimEncodeNode(const slimNode* node, const slimBlock* region, const float* v, uint8_t* const* sec);
static inline void slimDecodeNode(const slimNode* node, const slimBlock* region, uint8_t* const* sec, float* out);

static inline bool slimEncode_induced(const slimNode* node, const slimBlock* b, const float* restrict v,
                                      uint8_t* const* sec) {
  float* restrict rest = b->scratch;
  slimBlock inner = *b;
  inner.scratch = rest + b->size;
  if (!slimEncodeNode(slimInner(node, 0), &inner, v, sec)) return false;
  slimDecodeNode(slimInner(node, 0), &inner, sec, rest);
  slimLeave(b, v, rest);
  inner.maxBits = slimMaxBits(rest, b->size);
  return slimEncodeNode(slimInner(node, 1), &inner, rest, sec + slimInner(node, 0)->allSections);
}
static inline void slimDecode_induced(const slimNode* node, const slimBlock* b, uint8_t* const* sec,
                                      float* restrict out) {
  float* restrict q = b->scratch;
  slimBlock inner = *b;
  inner.scratch = q + b->size;
  slimDecodeNode(slimInner(node, 0), &inner, sec, out);
  slimDecodeNode(slimInner(node, 1), &inner, sec + slimInner(node, 0)->allSections, q);
  slimAdd(b->size, q, out);
}

#endif

#endif
