/* topk (largest magnitudes) and randk (the smallest random keys): which values of a block are sent, and the inner codec
 * that they go through. Scope block here; chunk and global are passes over a whole piece (cpu/passes.h). format.md §6.
 */
#ifndef SLIM_CODEC_SELECT_H_
#define SLIM_CODEC_SELECT_H_

#include "compress/block.h"
#ifndef SLIM_CUDA
#include "compress/option.h"

#define SLIM_SELECTOR_OPTIONS                                                                    \
  {"ratio", slimOptionReal, NULL, 1e-9, 1, NULL}, {"k", slimOptionReal, NULL, 1e-6, 1e15, NULL}, \
      {"scope", slimOptionChoice, "block", 0, 0, "block|chunk|global"},                          \
      {"block", slimOptionBlock, "4096", 0, 0, NULL}, {                                          \
    "values", slimOptionNode, "fp32", 0, 0, NULL                                                 \
  }
SLIM_OPTIONS(topk) = {SLIM_SELECTOR_OPTIONS, SLIM_END_OPTIONS};
SLIM_OPTIONS(randk) = {SLIM_SELECTOR_OPTIONS,
                       {"seed", slimOptionChoice, "own", 0, 0, "own|shared"},
                       {"scale", slimOptionChoice, "auto", 0, 0, "auto|1|unbiased"},
                       SLIM_END_OPTIONS};
enum { slimScaleAuto = 0, slimScaleOne = 1, slimScaleUnbiased = 2 };

static inline const char* slimSetupSelector(slimNode* node, const slimOptionValues* o, bool indices) {
  if (o->given[0] == o->given[1]) return o->given[0] ? "ratio and k exclude each other" : "ratio= or k= is missing";
  node->scope = (slimScope)o->value[2];
  node->block = (uint32_t)o->value[3];
  node->ratio = o->given[0] ? o->value[0] : 0;
  const double k = o->given[1] ? o->value[1] : 0;
  if (k > 1 && k != floor(k)) return "k is a whole number of values or, below 1, the chance that one is sent";
  node->chance = k > 0 && k < 1 ? k : 1;
  node->k = k > 0 ? (uint32_t)fmin(ceil(k), UINT32_MAX) : 0;
  if (node->scope != slimScopeBlock) return o->given[3] ? "block belongs to scope=block" : NULL;
  if (k > node->block) return "k is larger than the block";
  node->k = (uint32_t)slimSelectorCount(node, node->block);
  if (indices) {
    node->bits = (uint32_t)__builtin_ctz(node->block);
    node->section[node->sections++] = (slimSection){(node->k * node->bits + 7) / 8, 0};
  }
  if (node->chance < 1) node->section[node->sections++] = (slimSection){1, 0};
  return NULL;
}
static inline const char* slimSetup_topk(slimNode* node, const slimOptionValues* o) {
  return slimSetupSelector(node, o, true);
}
static inline const char* slimSetup_randk(slimNode* node, const slimOptionValues* o) {
  const char* error = slimSetupSelector(node, o, false);
  node->shared = o->value[5] == 1;
  node->unbiased = o->value[6] == slimScaleUnbiased;
  return error;
}

#endif
#if defined(SLIM_ISA) || defined(SLIM_CUDA) /* the kernels */

/* ---- Selection ----------------------------------------------------------------------------------------------------
 */

/* Topk's keys are the magnitude's bits, randk's order its draws the other way round: the largest keys win. */
SLIM_FN void slimTopkKeys(int32_t* restrict keys, const float* restrict v, uint32_t n) {
  SLIM_EACH(i, n) keys[i] = (int32_t)(slimBits(v[i]) & 0x7fffffffu);
}
SLIM_FN int32_t slimRandkKey(uint32_t word) { return (int32_t)(word ^ 0x7fffffffu); }

#ifndef SLIM_CUDA
/* A t that at most k keys are above and at least k not below; of less than that precision where `rounds` are used up:
 * at least k not below. No key that matters is below `least`. n is a multiple of 16. */
static inline int32_t slimThreshold(const int32_t* restrict keys, uint32_t n, uint32_t k, int32_t least,
                                    uint32_t rounds) {
  int32_t most = least;
  for (uint32_t i = 0; i < n; i++) most = keys[i] > most ? keys[i] : most;
  const uint32_t differ = (uint32_t)least ^ (uint32_t)most; /* the bits above have them all */
  if (!differ) return least;
  uint32_t bit = 1u << (31 - __builtin_clz(differ)), t = ((uint32_t)most ^ 0x80000000u) & ~(bit | (bit - 1));
  for (; bit && rounds; bit >>= 1, rounds--) {
    const int32_t at = (int32_t)((t | bit) ^ 0x80000000u);
    int32_t count = 0;
    for (uint32_t i = 0; i < n; i++) count += keys[i] >= at;
    if ((uint32_t)count == k) return at - 1;
    if ((uint32_t)count > k) t |= bit;
  }
  return (int32_t)(t ^ 0x80000000u);
}

/* Indices of keys ≥ t, ascending; up to two places behind them are written, too. n is a multiple of 64. */
static inline uint32_t slimKeysAtLeast(uint16_t* restrict index, const int32_t* restrict keys, uint32_t n, int32_t t) {
  uint32_t count = 0;
  SLIM_ASSUME_BLOCK(n);
  for (uint32_t i = 0; i < n; i += 32) {
    uint32_t w = 0;
    for (uint32_t j = 0; j < 32; j += SLIM_LANES) w |= slimAtLeast(keys + i + j, t) << j;
    uint16_t* next = index + count;
    count += (uint32_t)__builtin_popcount(w);
    do /* mostly none or one: two at a time, so that the branch is foreseen */
      for (uint32_t twice = 0; twice < 2; twice++, w &= w - 1)
        *next++ = (uint16_t)(i + (uint32_t)__builtin_ctz(w | 1u << 31));
    while (w);
  }
  return count;
}

/* Indices of the k largest of n keys, ties to the lowest index, in index order. Scratch: 4·n floats after keys' own. */
static inline void slimSelectLargest(uint16_t* restrict index, const int32_t* restrict keys, uint32_t n, uint32_t k,
                                     float* scratch) {
  SLIM_ASSUME_BLOCK(n);
  uint16_t* candidates = (uint16_t*)(void*)scratch;
  int32_t* few = (int32_t*)(void*)(scratch + n);
  /* The k-th largest of the column maxima is a lower bound, with at least k keys at or above it. */
  const uint32_t columns = n / 16;
  uint32_t count = n;
  int32_t bound = INT32_MIN;
  if (columns >= 64 && k <= columns) {
    int32_t least = INT32_MAX;
    for (uint32_t c = 0; c < columns; c++) few[c] = keys[c];
    for (uint32_t r = 1; r < 16; r++)
      for (uint32_t c = 0; c < columns; c++) few[c] = keys[r * columns + c] > few[c] ? keys[r * columns + c] : few[c];
    for (uint32_t c = 0; c < columns; c++) least = few[c] < least ? few[c] : least;
    bound = slimThreshold(few, columns, k, least, 12);
    count = slimKeysAtLeast(candidates, keys, n, bound);
  } else {
    for (uint32_t i = 0; i < n; i++) candidates[i] = (uint16_t)i;
  }
  for (uint32_t i = 0; i < count; i++) few[i] = keys[candidates[i]];
  const uint32_t padded = (uint32_t)slimRoundUp(count, 16);
  for (uint32_t i = count; i < padded; i++) few[i] = INT32_MIN;
  const int32_t t = slimThreshold(few, padded, k, bound, 32);
  uint32_t above = 0, taken = 0;
  for (uint32_t i = 0; i < count; i++) above += few[i] > t;
  uint32_t ties = k - above;
  for (uint32_t i = 0; i < count && taken < k; i++) {
    const bool tie = few[i] == t && ties;
    index[taken] = candidates[i];
    taken += tie || few[i] > t;
    ties -= tie;
  }
}

#endif

/* ---- Blocks ---------------------------------------------------------------------------------------------------- */

SLIM_FN float slimRandkScale(const slimNode* node, uint64_t nv, uint64_t k) {
  return node->unbiased && k ? (float)nv / ((float)k * (float)node->chance) : 1;
}

/* k below 1: whether the block (piece) that starts at `first` sends its one value. */
SLIM_FN bool slimSends(const slimNode* node, const slimDraw* draw, uint64_t first) {
  return node->chance >= 1 ||
         (double)slimDrawWord(draw, slimDrawCoin, node->branch, node->shared, first + 1) * 0x1p-32 < node->chance;
}
/* Its flag is the last of the selector's own sections. True: the block goes on as for k = 1. */
SLIM_FN bool slimEncodePresence(const slimNode* node, const slimBlock* b, uint8_t* const* sec) {
  if (node->chance >= 1) return true;
  const bool sends = b->nv && slimSends(node, b->draw, b->first);
  for (uint32_t i = 0; !sends && i < node->allSections; i++) slimZero(sec[i], node->section[i].bytes);
  slimSync();
  slimStoreByte(sec[node->sections - 1], sends);
  return sends;
}
SLIM_FN bool slimDecodePresence(const slimNode* node, const slimBlock* b, uint8_t* const* sec, float* out) {
  if (node->chance >= 1 || *sec[node->sections - 1]) return true;
  slimZero(out, 4 * b->size);
  return false;
}

/* Where a selector block's parts lie in its scratch, and the inner codec's block of the values that were taken. Keys
 * stand where the values come. The inner code sections are cut to ⌈k·bits/8⌉ bytes, so they are made elsewhere. */
typedef struct {
  uint16_t* index;
  float* values;
  uint8_t* sections;
  uint32_t taken;
  slimBlock block;
} slimSelected;
SLIM_FN slimSelected slimSelectedOf(const slimNode* node, const slimBlock* b) {
  const slimNode* inner = slimInner(node, 0);
  slimSelected s;
  s.index = (uint16_t*)(void*)b->scratch;
  s.values = b->scratch + slimRoundUp(node->k, 128) / 2;
  s.taken = node->k < b->nv ? node->k : b->nv;
  s.block = *b;
  s.block.size = slimPadded(node->k);
  s.block.nv = s.taken;
  s.block.maxBits = 0;
  s.block.first = (b->first >> slimLog2(node->block)) * slimRoundUp(node->k, 8);
  s.sections = (uint8_t*)(s.values + s.block.size);
  uint32_t bytes = 0;
  for (uint32_t i = 0; i < inner->allSections; i++) bytes += (uint32_t)slimRoundUp(inner->section[i].bytes, 64);
  s.block.scratch = (float*)(void*)(s.sections + bytes);
  return s;
}
SLIM_FN void slimSelectedSections(const slimNode* node, const slimSelected* s, uint8_t** temp) {
  const slimNode* inner = slimInner(node, 0);
  uint8_t* at = s->sections;
  for (uint32_t i = 0; i < inner->allSections; i++) {
    temp[i] = at;
    at += slimRoundUp(inner->section[i].bytes, 64);
  }
}

/* The indices of the k largest keys, which are drawn for randk; v: topk's values. */
SLIM_FN void slimFindIndices(const slimNode* node, const slimBlock* b, const float* restrict v, const slimSelected* s) {
  int32_t* keys = (int32_t*)(void*)s->values;
  if (node->op == slimOp_randk) {
    slimDrawWords(b->draw, slimDrawIndex, node->branch, node->shared, b->first, b->size, 1, (uint32_t*)keys);
    SLIM_EACH(i, b->size) keys[i] = slimRandkKey((uint32_t)keys[i]);
  } else {
    slimTopkKeys(keys, v, b->size);
  }
  slimSync();
  SLIM_EACH(i, b->size - b->nv) keys[b->nv + i] = INT32_MIN;
  slimSelectLargest(s->index, keys, b->size, s->taken, (float*)keys + b->size);
}
/* topk's go into its first section, too. */
SLIM_FN void slimEncodeIndices(const slimNode* node, const slimBlock* b, const float* restrict v, const slimSelected* s,
                               uint8_t* const* sec) {
  slimFindIndices(node, b, v, s);
  if (node->op == slimOp_randk) return;
  slimZero(s->index + s->taken, 2 * (node->k - s->taken));
  slimZero(sec[0], node->section[0].bytes);
  slimPackWide(sec[0], s->index, node->k, node->bits);
}
SLIM_FN void slimDecodeIndices(const slimNode* node, const slimBlock* b, const slimSelected* s, uint8_t* const* sec) {
  if (node->op == slimOp_randk)
    slimFindIndices(node, b, NULL, s);
  else
    slimUnpackWide(s->index, sec[0], node->k, node->bits);
}

/* The values at the indices, padded; false: one is not finite. */
SLIM_FN bool slimGather(const slimNode* node, const slimBlock* b, const float* restrict v, slimSelected* s) {
  const float scale = slimRandkScale(node, b->nv, s->taken);
  slimSync();
  SLIM_EACH(i, s->block.size) s->values[i] = i < s->taken ? v[s->index[i]] * scale : 0;
  return scale == 1 || slimMaxBits(s->values, s->block.size) < SLIM_INF_BITS;
}
SLIM_FN void slimScatter(const slimBlock* b, const slimSelected* s, float* restrict out) {
  slimZero(out, 4 * b->size);
  slimSync();
  SLIM_EACH(i, s->taken) out[s->index[i] & (b->size - 1)] = s->values[i];
  slimSync();
}
/* The inner codec's sections, behind the selector's own ones. */
SLIM_FN void slimCutSections(const slimNode* node, uint8_t* const* sec, uint8_t* const* temp) {
  for (uint32_t i = node->sections; i < node->allSections; i++)
    slimCopy(sec[i], temp[i - node->sections], node->section[i].bytes);
}
SLIM_FN void slimUncutSections(const slimNode* node, uint8_t* const* sec, uint8_t* const* temp) {
  const slimNode* inner = slimInner(node, 0);
  for (uint32_t i = 0; i < inner->allSections; i++) {
    const uint32_t have = node->section[node->sections + i].bytes;
    slimCopy(temp[i], sec[node->sections + i], have);
    slimZero(temp[i] + have, inner->section[i].bytes - have);
  }
}

#endif
#ifdef SLIM_ISA

static inline bool slimEncodeNode(const slimNode* node, const slimBlock* region, const float* v, uint8_t* const* sec);
static inline void slimDecodeNode(const slimNode* node, const slimBlock* region, uint8_t* const* sec, float* out);

static inline bool slimEncode_topk(const slimNode* node, const slimBlock* b, const float* restrict v,
                                   uint8_t* const* sec) {
  if (!slimEncodePresence(node, b, sec)) return true;
  slimSelected s = slimSelectedOf(node, b);
  uint8_t* temp[SLIM_MAX_SECTIONS];
  slimSelectedSections(node, &s, temp);
  slimEncodeIndices(node, b, v, &s, sec);
  if (!slimGather(node, b, v, &s) || !slimEncodeNode(slimInner(node, 0), &s.block, s.values, temp)) return false;
  slimCutSections(node, sec, temp);
  return true;
}
/* The indices and values of a block; 0 or how many. */
static inline uint32_t slimDecodeSelected(const slimNode* node, const slimBlock* b, uint8_t* const* sec,
                                          slimSelected* s) {
  if (node->chance < 1 && !*sec[node->sections - 1]) return 0;
  *s = slimSelectedOf(node, b);
  uint8_t* temp[SLIM_MAX_SECTIONS];
  slimSelectedSections(node, s, temp);
  slimDecodeIndices(node, b, s, sec);
  slimUncutSections(node, sec, temp);
  slimDecodeNode(slimInner(node, 0), &s->block, temp, s->values);
  return s->taken;
}
static inline void slimDecode_topk(const slimNode* node, const slimBlock* b, uint8_t* const* sec, float* restrict out) {
  slimSelected s = {.taken = 0};
  slimDecodeSelected(node, b, sec, &s);
  slimScatter(b, &s, out);
}
static inline bool slimEncode_randk(const slimNode* node, const slimBlock* b, const float* restrict v,
                                    uint8_t* const* sec) {
  return slimEncode_topk(node, b, v, sec);
}
static inline void slimDecode_randk(const slimNode* node, const slimBlock* b, uint8_t* const* sec,
                                    float* restrict out) {
  slimDecode_topk(node, b, sec, out);
}

#endif

#ifndef SLIM_CUDA
/* topk keeps at least k/n of ‖v‖²; randk k/n in expectation, or unbiased with omega n/k − 1. Values add their own
 * error. */
static inline slimClass slimClassSelector(const slimNode* node, double n, slimClass inner, double indexBits) {
  const double share = node->chance * (double)slimSelectorCount(node, (uint64_t)n) / n;
  slimClass c = {INFINITY, share * inner.delta, share * (inner.bits + indexBits) + (node->chance < 1 ? 1 / n : 0)};
  if (node->op == slimOp_randk && node->unbiased) {
    c.omega = (1 + inner.omega) / share - 1;
    c.delta = 0;
  }
  return c;
}

#endif

#endif
