/* The CPU kernels, built once per instruction set with -DSLIM_ISA=baseline|avx2|avx512 (compress/BUILD). */
#include <stdlib.h>

#include "compress/codec/float.h"
#include "compress/codec/fp8.h"
#include "compress/codec/induced.h"
#include "compress/codec/natural.h"
#include "compress/codec/onebit.h"
#include "compress/codec/qsgd.h"
#include "compress/codec/rotate.h"
#include "compress/codec/select.h"
#include "compress/codec/tnqsgd.h"
#include "compress/cpu/add.h"
#include "compress/kernels.h"

/* ---- Trees: a node over a region of one or more of its blocks ------------------------------------------------- */

static inline bool slimEncodeBlock(const slimNode* node, const slimBlock* b, const float* v, uint8_t* const* sec) {
  switch (node->op) {
#define SLIM_CASE(name) \
  case slimOp_##name:   \
    return slimEncode_##name(node, b, v, sec);
    SLIM_CODECS(SLIM_CASE)
#undef SLIM_CASE
    default:
      return false;
  }
}
static inline void slimDecodeBlock(const slimNode* node, const slimBlock* b, uint8_t* const* sec, float* out) {
  switch (node->op) {
#define SLIM_CASE(name)                   \
  case slimOp_##name:                     \
    slimDecode_##name(node, b, sec, out); \
    break;
    SLIM_CODECS(SLIM_CASE)
#undef SLIM_CASE
    default:
      break;
  }
}

/* Block j of a region: its valid count, its draws, its sections. */
static inline slimBlock slimBlockAt(const slimNode* node, const slimBlock* region, uint32_t at, uint8_t* const* sec,
                                    uint8_t** part) {
  slimBlock b = *region;
  b.size = node->block;
  b.nv = region->nv <= at ? 0 : region->nv - at < b.size ? region->nv - at : b.size;
  b.first = region->first + at;
  for (uint32_t i = 0; i < node->allSections; i++)
    part[i] = sec[i] + (size_t)(at / node->block) * node->section[i].bytes;
  return b;
}
SLIM_ALWAYS bool slimEncodeNode(const slimNode* node, const slimBlock* region, const float* v, uint8_t* const* sec) {
  if (region->size == node->block && region->maxBits) return slimEncodeBlock(node, region, v, sec);
  uint8_t* part[SLIM_MAX_SECTIONS];
  bool ok = true;
  for (uint32_t at = 0; at < region->size; at += node->block) {
    slimBlock b = slimBlockAt(node, region, at, sec, part);
    b.maxBits = slimMaxBits(v + at, b.size);
    ok &= slimEncodeBlock(node, &b, v + at, part);
  }
  return ok;
}
static inline void slimDecodeNode(const slimNode* node, const slimBlock* region, uint8_t* const* sec, float* out) {
  uint8_t* part[SLIM_MAX_SECTIONS];
  for (uint32_t at = 0; at < region->size; at += node->block) {
    slimBlock b = slimBlockAt(node, region, at, sec, part);
    slimDecodeBlock(node, &b, part, out + at);
  }
}

/* ---- Units ---------------------------------------------------------------------------------------------------- */

static slimDraw slimDrawOf(const slimStamp* stamp) {
  return (slimDraw){{(uint32_t)stamp->seed, (uint32_t)(stamp->seed >> 32)},
                    stamp->slot,
                    (uint32_t)stamp->step,
                    stamp->rank,
                    stamp->down};
}

static bool slimPassesAnything(const slimDirection* direction) {
  return direction->feedback.kind == slimFeedbackNone && slimRoot(direction->tree)->op == slimOp_fp32 &&
         !slimSelector(direction->tree);
}

/* Sections of one unit in place, or (a partial unit) in scratch, to be cut. */
static inline float* slimUnitSections(const slimTree* tree, const slimLayout* layout, uint8_t* payload, uint64_t unit,
                                      bool partial, uint8_t** sec, float* scratch) {
  for (uint32_t i = 0; i < tree->sections; i++) {
    sec[i] = payload + layout->section[i] + unit * tree->section[i].bytes;
    if (!partial) continue;
    sec[i] = (uint8_t*)scratch;
    scratch += slimRoundUp(tree->section[i].bytes, 64) / 4;
  }
  return scratch;
}
SLIM_ALWAYS bool slimEncodeUnit(const slimTree* tree, const slimLayout* layout, uint8_t* payload, uint64_t unit,
                                uint32_t nv, const slimBlock* region, const float* v) {
  uint8_t* sec[SLIM_MAX_SECTIONS];
  const bool partial = nv < tree->unit;
  if (!partial) {
    slimUnitSections(tree, layout, payload, unit, false, sec, region->scratch);
    return slimEncodeNode(slimRoot(tree), region, v, sec);
  }
  slimBlock b = *region;
  b.scratch = slimUnitSections(tree, layout, payload, unit, partial, sec, b.scratch);
  if (!slimEncodeNode(slimRoot(tree), &b, v, sec)) return false;
  for (uint32_t i = 0; i < tree->sections; i++)
    memcpy(payload + layout->section[i] + unit * tree->section[i].bytes, sec[i],
           slimSectionBytes(tree->section[i], tree->unit, nv));
  return true;
}
/* Sections of one unit as the decoder wants them. The scratch behind them. */
static float* slimReadSections(const slimTree* tree, const slimLayout* layout, const uint8_t* payload, uint64_t unit,
                               uint32_t nv, uint8_t** sec, float* scratch) {
  const bool partial = nv < tree->unit;
  scratch = slimUnitSections(tree, layout, (uint8_t*)(uintptr_t)payload, unit, partial, sec, scratch);
  if (partial)
    for (uint32_t i = 0; i < tree->sections; i++) {
      const size_t have = slimSectionBytes(tree->section[i], tree->unit, nv);
      memcpy(sec[i], payload + layout->section[i] + unit * tree->section[i].bytes, have);
      memset(sec[i] + have, 0, tree->section[i].bytes - have);
    }
  else
    for (uint32_t i = 0; i < tree->sections; i++) slimPrefetch(sec[i] + tree->section[i].bytes, tree->section[i].bytes);
  return scratch;
}
static void slimDecodeUnit(const slimTree* tree, const slimLayout* layout, const uint8_t* payload, uint64_t unit,
                           uint32_t nv, const slimBlock* region, float* out) {
  uint8_t* sec[SLIM_MAX_SECTIONS];
  slimBlock b = *region;
  b.scratch = slimReadSections(tree, layout, payload, unit, nv, sec, b.scratch);
  slimDecodeNode(slimRoot(tree), &b, sec, out);
}

/* Selectors send few values. */
static bool slimIsSparse(const slimTree* tree) {
  const slimOp op = slimRoot(tree)->op;
  return slimSelector(tree) || op == slimOp_topk || op == slimOp_randk;
}
/* out += factor·û of a block's selector; factor is 1 or −1. */
static void slimAddSelected(const slimTree* tree, const slimLayout* layout, const uint8_t* payload, uint64_t unit,
                            uint32_t nv, const slimBlock* region, float factor, float* out) {
  uint8_t* sec[SLIM_MAX_SECTIONS];
  slimBlock b = *region;
  slimSelected s;
  b.scratch = slimReadSections(tree, layout, payload, unit, nv, sec, b.scratch);
  const uint32_t taken = slimDecodeSelected(slimRoot(tree), &b, sec, &s);
  for (uint32_t i = 0; i < taken; i++) out[s.index[i] & (b.size - 1)] += factor * s.values[i];
}

static void slimFlagUnit(const slimTree* tree, const slimLayout* layout, uint8_t* payload, uint64_t unit, uint32_t nv) {
  payload[layout->flags + unit / 8] |= (uint8_t)(1u << unit % 8);
  if (layout->index != layout->exponents) memset(payload + layout->exponents + 4 * unit, 0, 4);
  for (uint32_t i = 0; i < tree->sections; i++)
    memset(payload + layout->section[i] + unit * tree->section[i].bytes, 0,
           slimSectionBytes(tree->section[i], tree->unit, nv));
}
static void slimFlagPiece(const slimLayout* layout, uint8_t* payload, uint8_t flag) {
  memset(payload + layout->flags, 0, layout->bytes - layout->flags);
  payload[layout->flags] = flag;
}

static void slimStoreNan(slimDataType_t type, void* y, uint64_t off, uint32_t n) {
  for (uint64_t i = off; i < off + n; i++) switch (type) {
      case slimFloat16:
        ((uint16_t*)y)[i] = SLIM_NAN_HALF;
        break;
      case slimBfloat16:
        ((uint16_t*)y)[i] = SLIM_NAN_BF16;
        break;
      case slimFloat64: {
        const uint64_t nan = 0x7ff8000000000000u;
        memcpy((double*)y + i, &nan, 8);
        break;
      }
      default: {
        const uint32_t nan = SLIM_NAN_BITS;
        memcpy((float*)y + i, &nan, 4);
      }
    }
}

/* ---- fp64 ----------------------------------------------------------------------------------------------------- */

static inline int slimExponent64(uint64_t bits) {
  const int field = (int)(bits >> 52);
  return (field < 1 ? 1 : field) - 1023;
}
/* 2^e for −1023 ≤ e ≤ 1023. */
static inline double slimPower2(int e) {
  const uint64_t b = e > -1023 ? (uint64_t)(e + 1023) << 52 : 1ull << 51;
  double x;
  memcpy(&x, &b, 8);
  return x;
}

/* ---- Memory in bf16 (format.md §7) ---------------------------------------------------------------------------- */

/* Draws of n values, the first of virtual index `first`. words: n/2, rounded up to 64. */
static inline const uint16_t* slimMemoryDraws(const slimDraw* draw, uint32_t branch, uint64_t first, uint32_t n,
                                              uint32_t* words) {
  slimDrawWords(draw, slimDrawMemory, branch, false, first, n, 2, words);
  return (const uint16_t*)(const void*)words;
}

/* ---- Piece-wide selection: the k largest keys, by three rounds of counting ------------------------------------ */

typedef struct {
  uint64_t need; /* keys still to be found inside the range */
  uint32_t low;  /* smallest key (unsigned order) of the range that holds the k-th largest */
  uint32_t
      shift; /* the range is low … low + 2^shift − 1 (2^32 at first); 0: low is the key, `need` of its ties are taken */
  uint32_t bits; /* of this round */
  uint32_t count[2048];
} slimSelection;

static void slimSelectionStart(slimSelection* s, uint64_t k) {
  memset(s, 0, sizeof *s);
  s->need = k;
  s->shift = 32;
  s->bits = 11;
}
static bool slimSelectionDone(const slimSelection* s) { return s->shift == 0; }
static void slimSelectionCount(slimSelection* s, const int32_t* keys, uint32_t n) {
  const uint32_t down = s->shift - s->bits;
  if (s->shift == 32) {
    for (uint32_t i = 0; i < n; i++) s->count[((uint32_t)keys[i] ^ 0x80000000u) >> down]++;
    return;
  }
  const uint32_t last = (1u << s->shift) - 1;
  for (uint32_t i = 0; i < n; i += 64) {
    const uint32_t m = n - i < 64 ? n - i : 64;
    uint32_t any = 0;
    for (uint32_t j = i; j < i + m; j++) any |= ((uint32_t)keys[j] ^ 0x80000000u) - s->low <= last;
    if (!any) continue;
    for (uint32_t j = i; j < i + m; j++) {
      const uint32_t at = ((uint32_t)keys[j] ^ 0x80000000u) - s->low;
      if (at <= last) s->count[at >> down]++;
    }
  }
}
static void slimSelectionNarrow(slimSelection* s) {
  uint32_t bin = (1u << s->bits) - 1;
  while (s->count[bin] < s->need) s->need -= s->count[bin--];
  s->shift -= s->bits;
  s->low += bin << s->shift;
  s->bits = s->shift < 11 ? s->shift : 11;
  memset(s->count, 0, sizeof s->count);
}
/* Appends the indices of the selected keys; mask: scratch of n bytes. */
static uint64_t slimSelectionTake(slimSelection* s, const int32_t* keys, uint32_t n, uint32_t off, uint32_t* index,
                                  uint64_t taken, uint8_t* mask) {
  const int32_t t = (int32_t)(s->low ^ 0x80000000u);
  for (uint32_t i = 0; i < n; i++) mask[i] = keys[i] >= t;
  const uint32_t rounded = (uint32_t)slimRoundUp(n, 8);
  memset(mask + n, 0, rounded - n);
  for (uint32_t i = 0; i < rounded; i += 8) {
    uint64_t m;
    memcpy(&m, mask + i, 8);
    for (; m; m &= m - 1) {
      const uint32_t at = i + (uint32_t)__builtin_ctzll(m) / 8;
      if (keys[at] == t) {
        if (!s->need) continue;
        s->need--;
      }
      index[taken++] = off + at;
    }
  }
  return taken;
}

static int32_t slimMostOf(const int32_t* keys, uint32_t n) {
  int32_t most = INT32_MIN;
  for (uint32_t i = 0; i < n; i++) most = keys[i] > most ? keys[i] : most;
  return most;
}

/* Keys of n elements (a multiple of 64). Philox draws come 64 at a time: first is a multiple of 64. */
static void slimPieceKeys(const slimNode* selector, const slimDraw* draw, uint64_t first, const float* v, uint32_t n,
                          int32_t* keys) {
  if (selector->op == slimOp_topk) {
    slimTopkKeys(keys, v, n);
    return;
  }
  slimDrawWords(draw, slimDrawIndex, selector->branch, selector->shared, first, n, 1, (uint32_t*)keys);
  for (uint32_t i = 0; i < n; i++) keys[i] = slimRandkKey((uint32_t)keys[i]);
}

/* Keys of n elements from off, nv of them valid; returns their values, in v unless they lie somewhere. n: a multiple of
 * 64, at most SLIM_PIECE_STEP. */
typedef const float* slimKeysOf(const void* context, uint64_t off, uint32_t nv, uint32_t n, int32_t* keys, float* v,
                                float* scratch);

static bool slimSelectsFew(uint64_t n, uint64_t k) { return 32 * k <= n; }

enum { SLIM_SAMPLE_PARTS = 1024 }; /* of 64 keys each, at most */
/* A key that some more than k of n are probably not below, from a sample of them. */
static int32_t slimSampledBound(slimKeysOf* keysOf, const void* context, uint64_t n, uint64_t k, int32_t* sample,
                                float* v, float* scratch) {
  enum { each = SLIM_MIN_BLOCK };
  const uint64_t parts = n / (8 * each) < SLIM_SAMPLE_PARTS ? n / (8 * each) : SLIM_SAMPLE_PARTS;
  const double expected = (double)k * (double)(each * parts) / (double)n;
  const uint64_t rank = (uint64_t)(expected + 4 * sqrt(expected) + 8);
  if (rank > each * parts) return INT32_MIN;
  for (uint64_t i = 0; i < parts; i++)
    keysOf(context, n / each * i / parts * each, each, each, sample + i * each, v, scratch);
  return slimThreshold(sample, (uint32_t)(each * parts), (uint32_t)rank, INT32_MIN, 16);
}

/* Keys that may be among the k largest. */
typedef struct {
  int32_t* key;
  uint32_t* index; /* ascending */
  float* value;
  uint64_t count;
} slimCandidates;
/* Keeps the k largest, ties to the lowest index; the least of them. */
static int32_t slimKeepLargest(slimCandidates* c, uint64_t k, slimSelection* selection) {
  enum { together = 256 };
  slimSelectionStart(selection, k);
  while (!slimSelectionDone(selection)) {
    for (uint64_t i = 0; i < c->count; i += together)
      slimSelectionCount(selection, c->key + i, (uint32_t)(c->count - i < together ? c->count - i : together));
    slimSelectionNarrow(selection);
  }
  const int32_t t = (int32_t)(selection->low ^ 0x80000000u);
  uint64_t kept = 0;
  for (uint64_t i = 0; i < c->count; i++) {
    const bool tie = c->key[i] == t && selection->need;
    const bool keep = c->key[i] > t || tie;
    c->key[kept] = c->key[i];
    c->index[kept] = c->index[i];
    c->value[kept] = c->value[i];
    kept += keep;
    selection->need -= tie;
  }
  c->count = kept;
  return t;
}

/* Indices of the k largest of n keys, ascending, ties to the lowest; their values, unless values is NULL; the largest
 * key of all where few are selected, unless largest is NULL. One pass where few are, over a bound that a sample
 * suggests; where that was too high, and else, four. */
static slimResult_t slimSelectPiece(slimKeysOf* keysOf, const void* context, uint64_t n, uint64_t k, uint32_t* index,
                                    float* values, int32_t* largest, float* scratch) {
  int32_t* keys = (int32_t*)(void*)scratch;
  float* v = scratch + SLIM_PIECE_STEP;
  uint8_t* mask = (uint8_t*)(v + SLIM_PIECE_STEP);
  float* rest = v + 2 * SLIM_PIECE_STEP;
  slimSelection selection;
  uint64_t taken = 0;

  if (slimSelectsFew(n, k)) {
    const uint64_t sampled = SLIM_SAMPLE_PARTS * SLIM_MIN_BLOCK, least = 2 * k + SLIM_PIECE_STEP;
    const uint64_t room = least > sampled ? least : sampled;
    int32_t* memory = malloc(12 * room);
    if (!memory) return slimFail(slimSystemError, "no memory to select %llu values", (unsigned long long)k);
    slimCandidates c = {memory, (uint32_t*)memory + room, (float*)(void*)(memory + 2 * room), 0};
    int32_t bound = slimSampledBound(keysOf, context, n, k, memory, v, rest);
    for (uint64_t off = 0; off < n; off += SLIM_PIECE_STEP) {
      const uint32_t nv = (uint32_t)(n - off < SLIM_PIECE_STEP ? n - off : SLIM_PIECE_STEP);
      const float* u = keysOf(context, off, nv, SLIM_PIECE_STEP, keys, v, rest);
      for (uint32_t i = nv; i < SLIM_PIECE_STEP; i++) keys[i] = INT32_MIN;
      if (largest) {
        const int32_t most = slimMostOf(keys, SLIM_PIECE_STEP);
        *largest = most > *largest ? most : *largest;
      }
      uint16_t* found = (uint16_t*)(void*)rest;
      uint32_t m = slimKeysAtLeast(found, keys, SLIM_PIECE_STEP, bound);
      while (m && found[m - 1] >= nv) m--; /* a key may be INT32_MIN, too */
      if (c.count + m > room) {            /* later keys must be above the least that is kept */
        const int32_t t = slimKeepLargest(&c, k, &selection);
        bound = t < INT32_MAX ? t + 1 : t;
      }
      for (uint32_t i = 0; i < m; i++) {
        c.key[c.count] = keys[found[i]];
        c.index[c.count] = (uint32_t)off + found[i];
        c.value[c.count++] = u[found[i]];
      }
    }
    if (c.count >= k) {
      slimKeepLargest(&c, k, &selection);
      memcpy(index, c.index, 4 * k);
      if (values) memcpy(values, c.value, 4 * k);
      free(memory);
      return slimSuccess;
    }
    free(memory);
  }

  slimSelectionStart(&selection, k);
  while (!slimSelectionDone(&selection)) {
    for (uint64_t off = 0; off < n; off += SLIM_PIECE_STEP) {
      const uint32_t nv = (uint32_t)(n - off < SLIM_PIECE_STEP ? n - off : SLIM_PIECE_STEP);
      keysOf(context, off, nv, SLIM_PIECE_STEP, keys, v, rest);
      slimSelectionCount(&selection, keys, nv);
    }
    slimSelectionNarrow(&selection);
  }
  for (uint64_t off = 0; off < n; off += SLIM_PIECE_STEP) {
    const uint32_t nv = (uint32_t)(n - off < SLIM_PIECE_STEP ? n - off : SLIM_PIECE_STEP);
    const float* u = keysOf(context, off, nv, SLIM_PIECE_STEP, keys, v, rest);
    const uint64_t before = taken;
    taken = slimSelectionTake(&selection, keys, nv, (uint32_t)off, index, taken, mask);
    for (uint64_t i = before; values && i < taken; i++) values[i] = u[index[i] - off];
  }
  return slimSuccess;
}

/* The selected values through the inner tree, unit by unit; v is padded with zeros unit by unit. */
static slimBlock slimValueUnit(const slimTree* tree, const slimLayout* layout, uint64_t unit, uint64_t first,
                               const slimDraw* draw, float* scratch) {
  const uint64_t off = unit * tree->unit;
  const uint32_t nv = (uint32_t)(layout->values - off < tree->unit ? layout->values - off : tree->unit);
  return (slimBlock){tree->unit, nv, 0, first + off, draw, scratch + tree->unit, 0, NULL, 0};
}
static bool slimEncodeValues(const slimTree* tree, const slimLayout* layout, uint8_t* payload, const float* values,
                             uint64_t first, const slimDraw* draw, float* scratch) {
  bool ok = true;
  for (uint64_t unit = 0; unit < layout->valueUnits; unit++) {
    slimBlock b = slimValueUnit(tree, layout, unit, first, draw, scratch);
    memcpy(scratch, values + unit * tree->unit, 4 * (size_t)b.nv);
    memset(scratch + b.nv, 0, 4 * (size_t)(b.size - b.nv));
    b.maxBits = slimMaxBits(scratch, b.size);
    ok &= b.maxBits < SLIM_INF_BITS && slimEncodeUnit(tree, layout, payload, unit, b.nv, &b, scratch);
  }
  return ok;
}
static void slimDecodeValues(const slimTree* tree, const slimLayout* layout, const uint8_t* payload, float* values,
                             uint64_t first, const slimDraw* draw, float* scratch) {
  for (uint64_t unit = 0; unit < layout->valueUnits; unit++) {
    slimBlock b = slimValueUnit(tree, layout, unit, first, draw, scratch);
    slimDecodeUnit(tree, layout, payload, unit, b.nv, &b, scratch);
    memcpy(values + unit * tree->unit, scratch, 4 * (size_t)b.nv);
  }
}

/* ---- lambda=shared (format.md §7): a unit has one scale, its first section, and whole signs, its second ---------- */

/* λ as the tree's floats, where units have this exponent. */
static inline float slimLambdaIn(const void* lambda, bool wide, uint64_t unit, int exponent) {
  if (!lambda) return 0;
  return wide ? (float)(((const double*)lambda)[unit] * slimPower2(-exponent)) : ((const float*)lambda)[unit];
}
static inline float slimWantedAt(const slimLayout* layout, const uint8_t* payload, uint64_t unit) {
  return slimLoadFloat(payload + layout->section[0] + 4 * unit);
}
static inline bool slimFlaggedAt(const slimLayout* layout, const uint8_t* payload, uint64_t unit) {
  return payload[layout->flags + unit / 8] >> unit % 8 & 1;
}

/* ---- Decoding a payload unit by unit -------------------------------------------------------------------------- */

typedef struct {
  const slimTree* tree;
  const slimLayout* layout;
  const uint8_t* payload;
  slimDraw draw;
  bool wide;       /* values with exponents (fp64) */
  uint32_t* index; /* piece-wide selectors: sorted; with the values behind it; malloc'ed */
  float* values;
  uint64_t at;        /* the next one */
  const void* lambda; /* lambda=shared: reals of the units */
} slimSource;

/* randk's keys, which need no values. */
typedef struct {
  const slimNode* selector;
  const slimDraw* draw;
  uint64_t first;
} slimDrawnKeys;
static const float* slimKeysDrawn(const void* context, uint64_t off, uint32_t nv, uint32_t n, int32_t* keys, float* v,
                                  float* scratch) {
  const slimDrawnKeys* drawn = context;
  (void)nv, (void)scratch;
  slimPieceKeys(drawn->selector, drawn->draw, drawn->first + off, v, n, keys);
  return v;
}

static uint32_t slimSourceStep(const slimTree* tree) { return slimSelector(tree) ? SLIM_PIECE_STEP : tree->unit; }

static slimResult_t slimSourceOpen(slimSource* source, const slimTree* tree, const slimLayout* layout,
                                   const uint8_t* payload, const slimStamp* stamp, uint64_t n, uint64_t first,
                                   float* scratch) {
  *source =
      (slimSource){tree, layout, payload, slimDrawOf(stamp), layout->index != layout->exponents, NULL, NULL, 0, NULL};
  if (!slimSelector(tree) || !layout->values) return slimSuccess;
  if (payload[layout->flags]) {
    source->at = layout->values;
    return slimSuccess;
  }
  source->index = malloc(layout->values * (sizeof(uint32_t) + sizeof(float)));
  if (!source->index)
    return slimFail(slimSystemError, "no memory for %llu selected values", (unsigned long long)layout->values);
  source->values = (float*)(void*)(source->index + layout->values);
  slimDecodeValues(tree, layout, payload, source->values, first, &source->draw, scratch);
  if (slimSelector(tree)->op == slimOp_topk) {
    memcpy(source->index, payload + layout->index, 4 * layout->values);
    return slimSuccess;
  }
  const slimDrawnKeys drawn = {slimSelector(tree), &source->draw, first};
  return slimSelectPiece(slimKeysDrawn, &drawn, n, layout->values, source->index, NULL, NULL, scratch);
}
static void slimSourceClose(slimSource* source) { free(source->index); }

/* û of a unit (or step of a piece) as floats, to be multiplied by 2^exponent; false: flagged. Units come in order.
 * add: of a sparse tree, it is added to out. */
static bool slimSourceUnit(slimSource* source, uint64_t unit, uint32_t nv, uint64_t first, bool add, float* out,
                           int* exponent, float* scratch) {
  const slimLayout* layout = source->layout;
  const uint64_t flag = slimSelector(source->tree) ? 0 : unit;
  *exponent = 0;
  if (slimFlaggedAt(layout, source->payload, flag)) return false;
  if (source->wide) memcpy(exponent, source->payload + layout->exponents + 4 * flag, 4);
  if (*exponent < -1022 || *exponent > 1023) return false;
  if (!slimSelector(source->tree)) {
    const slimBlock region = {source->tree->unit,
                              nv,
                              0,
                              first,
                              &source->draw,
                              scratch,
                              slimLambdaIn(source->lambda, source->wide, unit, *exponent),
                              NULL,
                              0};
    if (add)
      slimAddSelected(source->tree, layout, source->payload, unit, nv, &region, 1, out);
    else
      slimDecodeUnit(source->tree, layout, source->payload, unit, nv, &region, out);
    return true;
  }
  const uint64_t off = unit * SLIM_PIECE_STEP;
  if (!add) memset(out, 0, 4 * SLIM_PIECE_STEP);
  for (; source->at < layout->values && source->index[source->at] < off + nv; source->at++)
    if (source->index[source->at] >= off) {
      float* one = out + (source->index[source->at] - off);
      *one = add ? *one + source->values[source->at] : source->values[source->at];
    }
  return true;
}

/* ---- The passes, for float and for double reals --------------------------------------------------------------- */

#define SLIM_PASTE_(a, b) a##b
#define SLIM_PASTE(a, b) SLIM_PASTE_(a, b)

#define REAL float
#define SLIM_BITS uint32_t
#define SLIM_REAL_IS_FLOAT 1
#define SLIM_NAME(name) SLIM_PASTE(name, F)
#define SLIM_IS_OWN(type) ((type) == slimFloat32)
static void toRealsF(slimDataType_t type, const void* src, uint64_t n, float* restrict out) {
  const uint16_t* restrict h = src;
  if (type == slimFloat16)
    slimHalvesToFloats(out, h, n);
  else if (type == slimBfloat16)
    for (uint64_t i = 0; i < n; i++) out[i] = slimFromBf16(h[i]);
  else
    memcpy(out, src, 4 * n);
}
static void fromRealsF(slimDataType_t type, const float* restrict v, uint64_t n, void* dst) {
  uint16_t* restrict h = dst;
  if (type == slimFloat16)
    slimFloatsToHalves(h, v, n);
  else if (type == slimBfloat16)
    for (uint64_t i = 0; i < n; i++) h[i] = slimToBf16(v[i]);
  else
    memcpy(dst, v, 4 * n);
}
static inline uint32_t magnitudeF(float x) { return slimBits(x) & 0x7fffffffu; }
static inline uint32_t maxBitsF(const float* v, uint32_t n) { return slimMaxBits(v, n); }
static inline bool finiteF(const float* v, uint32_t n) { return slimMaxBits(v, n) < SLIM_INF_BITS; }
#include "compress/cpu/passes.h"
#undef REAL
#undef SLIM_BITS
#undef SLIM_REAL_IS_FLOAT
#undef SLIM_NAME
#undef SLIM_IS_OWN

#define REAL double
#define SLIM_BITS uint64_t
#define SLIM_REAL_IS_FLOAT 0
#define SLIM_NAME(name) SLIM_PASTE(name, D)
#define SLIM_IS_OWN(type) ((type) == slimFloat64)
static void toRealsD(slimDataType_t type, const void* src, uint64_t n, double* out) {
  (void)type;
  memcpy(out, src, 8 * n);
}
static void fromRealsD(slimDataType_t type, const double* v, uint64_t n, void* dst) {
  (void)type;
  memcpy(dst, v, 8 * n);
}
static inline uint64_t magnitudeD(double x) {
  uint64_t b;
  memcpy(&b, &x, 8);
  return b & 0x7fffffffffffffffu;
}
static inline uint64_t maxBitsD(const double* restrict v, uint32_t n) {
  uint64_t most = 0;
  for (uint32_t i = 0; i < n; i++) most = magnitudeD(v[i]) > most ? magnitudeD(v[i]) : most;
  return most;
}
static inline bool finiteD(const double* v, uint32_t n) { return maxBitsD(v, n) < 0x7ff0000000000000u; }
#include "compress/cpu/passes.h"

#include "compress/cpu/fused.h"

static slimResult_t slimKernelEncode(const slimEncodePass* p, const slimLayout* layout, const slimSurvey* survey,
                                     uint64_t u0, uint64_t u1, slimPassStats* stats, float* scratch) {
  const bool wide = p->type == slimFloat64;
  if (slimSelector(p->direction->tree))
    return wide ? encodePieceD(p, layout, stats, scratch) : encodePieceF(p, layout, stats, scratch);
  if (wide)
    encodeUnitsD(p, layout, survey, u0, u1, stats, scratch);
  else if (slimIsFusedEncode(p, survey))
    slimEncodeUnitsFused(p, layout, u0, u1, stats, scratch);
  else
    encodeUnitsF(p, layout, survey, u0, u1, stats, scratch);
  return slimSuccess;
}

static slimResult_t slimKernelReduce(const slimReducePass* p, const slimLayout* up, const slimLayout* down, uint64_t u0,
                                     uint64_t u1, slimPassStats* stats, float* scratch) {
  if (p->lambda) {
    const uint8_t** streams = malloc((size_t)p->ranks * sizeof *streams);
    if (!streams) return slimFail(slimSystemError, "no memory for %d payloads", p->ranks);
    if (p->type == slimFloat64)
      reduceSignsD(p, up, down, u0, u1, streams, stats, scratch);
    else
      reduceSignsF(p, up, down, u0, u1, streams, stats, scratch);
    free(streams);
    return slimSuccess;
  }
  slimSource few[16];
  slimSource* source = p->ranks <= 16 ? few : malloc((size_t)p->ranks * sizeof *source);
  if (!source) return slimFail(slimSystemError, "no memory for %d payloads", p->ranks);
  slimResult_t result = slimSuccess;
  int open = 0;
  for (; open < p->ranks && result == slimSuccess; open++) {
    slimStamp stamp = p->stamp;
    stamp.rank = (uint32_t)open;
    stamp.down = false;
    result = slimSourceOpen(&source[open], p->up->tree, up, p->payloads[open], &stamp, p->n, p->first, scratch);
  }
  if (result == slimSuccess) {
    if (p->type == slimFloat64)
      reduceUnitsD(p, source, down, u0, u1, stats, scratch);
    else if (slimIsFusedReduce(p))
      slimReduceUnitsFused(p, source, down, u0, u1, stats, scratch);
    else
      reduceUnitsF(p, source, down, u0, u1, stats, scratch);
  }
  while (open-- > 0) slimSourceClose(&source[open]);
  if (source != few) free(source);
  return result;
}

static slimResult_t slimKernelDecode(const slimDecodePass* p, const slimLayout* layout, uint64_t u0, uint64_t u1,
                                     float* scratch) {
  slimSource source;
  SLIM_CHECK(slimSourceOpen(&source, p->direction->tree, layout, p->payload, &p->stamp, p->n, p->first, scratch));
  source.lambda = p->lambda;
  if (p->type == slimFloat64)
    decodeUnitsD(p, &source, u0, u1, scratch);
  else
    decodeUnitsF(p, &source, u0, u1, scratch);
  slimSourceClose(&source);
  return slimSuccess;
}

static slimResult_t slimKernelCancel(const slimDecodePass* p, const slimLayout* layout, const void* x, void* s,
                                     float* scratch) {
  slimSource source;
  SLIM_CHECK(slimSourceOpen(&source, p->direction->tree, layout, p->payload, &p->stamp, p->n, p->first, scratch));
  if (p->type == slimFloat64)
    cancelUnitsD(p, &source, x, s, scratch);
  else
    cancelUnitsF(p, &source, x, s, scratch);
  slimSourceClose(&source);
  return slimSuccess;
}

/* ---- Dense arrays of reals ------------------------------------------------------------------------------------ */

static void slimKernelToReal(slimDataType_t type, const void* src, uint64_t n, void* dst) {
  if (n == 0) return; /* src may be NULL then, which memcpy must not see */
  if (type == slimFloat64)
    toRealsD(type, src, n, dst);
  else
    toRealsF(type, src, n, dst);
}
static void slimKernelFromReal(slimDataType_t type, const void* src, uint64_t n, double factor, void* y) {
  if (type == slimFloat64) {
    const double* in = src;
    for (uint64_t i = 0; i < n; i++) ((double*)y)[i] = in[i] * factor;
    return;
  }
  const float *in = src, f = (float)factor;
  float part[256];
  for (uint64_t i = 0; i < n; i += 256) {
    const uint64_t m = n - i < 256 ? n - i : 256;
    for (uint64_t j = 0; j < m; j++) part[j] = in[i + j] * f;
    fromRealsF(type, part, m, (uint8_t*)y + i * slimTypeBytes(type));
  }
}
static void slimKernelDenseReduce(slimDataType_t type, uint64_t n, int ranks, const uint8_t* const* payloads,
                                  double weight, void* dst) {
  if (n) memset(dst, 0, n * slimRealBytes(type));
  for (int r = 0; r < ranks; r++) {
    const uint8_t* in = payloads[r] + sizeof(slimHeader);
    if (type == slimFloat64)
      for (uint64_t i = 0; i < n; i++) ((double*)dst)[i] += ((const double*)(const void*)in)[i];
    else
      for (uint64_t i = 0; i < n; i++) ((float*)dst)[i] += ((const float*)(const void*)in)[i];
  }
  if (type == slimFloat64)
    for (uint64_t i = 0; i < n; i++) ((double*)dst)[i] *= weight;
  else
    for (uint64_t i = 0; i < n; i++) ((float*)dst)[i] *= (float)weight;
}
static void slimKernelScale(slimDataType_t type, void* a, uint64_t n, double factor) {
  if (type == slimFloat64)
    for (uint64_t i = 0; i < n; i++) ((double*)a)[i] *= factor;
  else
    for (uint64_t i = 0; i < n; i++) ((float*)a)[i] *= (float)factor;
}

static void slimKernelScaleMemory(const slimStamp* stamp, uint16_t* a, uint64_t n, double factor) {
  const slimDraw draw = slimDrawOf(stamp);
  uint32_t words[128];
  for (uint64_t i = 0; i < n; i += 256) {
    const uint32_t m = (uint32_t)(n - i < 256 ? n - i : 256);
    const uint16_t* d = slimMemoryDraws(&draw, 1, i, 256, words);
    for (uint32_t j = 0; j < m; j++) a[i + j] = slimToMemory(slimFromBf16(a[i + j]) * (float)factor, d[j]);
  }
}

#define SLIM_STRING_(x) #x
#define SLIM_STRING(x) SLIM_STRING_(x)
const slimKernels SLIM_PASTE(slimKernels_, SLIM_ISA) = {
    SLIM_STRING(SLIM_ISA), slimKernelEncode,   slimKernelReduce,      slimKernelDecode, slimKernelCancel,
    slimKernelToReal,      slimKernelFromReal, slimKernelDenseReduce, slimKernelScale,  slimKernelScaleMemory};
