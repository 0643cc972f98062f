/* A compiled codec tree, as the kernels see it. Built by registry.c from a parsed spec; read-only afterwards. It holds
 * no pointers: a device gets a copy of its bytes. */
#ifndef SLIM_COMPRESS_NODE_H_
#define SLIM_COMPRESS_NODE_H_

#include "compress/compress.h"
#include "compress/target.h"

/* Every codec, selector and transform: its header in compress/codec/, and the one line here. */
#define SLIM_CODECS(X) \
  X(fp32)              \
  X(fp16)              \
  X(bf16)              \
  X(fp8)               \
  X(sign)              \
  X(onebit)            \
  X(ternary)           \
  X(qsgd)              \
  X(natural)           \
  X(nuqsgd)            \
  X(tqsgd)             \
  X(tbqsgd)            \
  X(tnqsgd)            \
  X(topk)              \
  X(randk)             \
  X(rotate)            \
  X(induced)

#define SLIM_OP_(name) slimOp_##name,
typedef enum { SLIM_CODECS(SLIM_OP_) slimNumOps } slimOp;
#undef SLIM_OP_

typedef enum { slimScopeBlock, slimScopeChunk, slimScopeGlobal } slimScope;
typedef enum { slimStatsBlock, slimStatsTensor, slimStatsPrevious } slimStats;
typedef enum { slimLambdaNone, slimLambdaNorm, slimLambdaMax, slimLambdaFixed, slimLambdaShared } slimLambda;

enum { SLIM_MAX_SECTIONS = 12, SLIM_MIN_BLOCK = 64, SLIM_MAX_BLOCK = 8192 };

/* One part of a payload: bytes a unit; bits > 0: a code section, cut to ⌈nv·bits/8⌉ bytes in a partial unit. */
typedef struct {
  uint32_t bytes;
  uint32_t bits;
} slimSection;

typedef struct slimNode {
  slimOp op;
  uint32_t block;  /* elements that it handles at a time */
  uint32_t bits;   /* of a code */
  uint32_t levels; /* qsgd, natural dithering: L; rotate: elements of one rotation */
  uint32_t k;      /* selectors, scope block: values a block; randk, topk: 0 if ratio decides (scope chunk, global) */
  double ratio;
  double chance; /* selectors: that a block sends its one value, where k= is below 1; else 1 */
  float value;   /* onebit: f or lambda; sign: scale */
  float chosen;  /* onebit with a fixed lambda: the caller's, in place of value; 0: none */
  slimLambda lambda;
  slimScope scope;
  bool norm2, nearest, lsq, e5m2, shared, unbiased, fixedSigns;
  bool rotated;                           /* onebit: belongs into a rotation of its own block (delta, lambda=shared) */
  uint32_t branch;                        /* of its random draws: 0; 1, 2 inside induced's C, Q */
  int32_t inner[2];                       /* how many nodes behind this one they stand */
  bool powerlaw;                          /* tqsgd, tbqsgd, tnqsgd: one of 256 tables a block, else one for all */
  slimStats stats;                        /* the same: whose mean magnitude and tail */
  double workers;                         /* the same: N */
  uint32_t tables;                        /* the same: where their tables begin, in bytes behind this node */
  uint32_t sections;                      /* its own, before those of inner */
  uint32_t allSections;                   /* with those of inner */
  slimSection section[SLIM_MAX_SECTIONS]; /* of one block; a code section's bits are 0 where it is never cut */
} slimNode;

struct slimTree {
  int32_t root;     /* what a unit (or, for scope chunk and global, the selected values) goes through */
  int32_t selector; /* scope chunk or global: selects in the piece; else −1 */
  uint32_t unit;    /* of root */
  bool absolute;    /* a codec with a size of its own (sign, a fixed lambda): fp64 is not normalised */
  uint32_t sections;
  slimSection section[SLIM_MAX_SECTIONS];
  slimNode node[8];
  uint32_t nodes;
  uint32_t bytes; /* of the tree, with its nodes' tables behind it */
};

SLIM_FN const slimNode* slimInner(const slimNode* node, int i) { return node + node->inner[i]; }
SLIM_FN const float* slimTables(const slimNode* node) {
  return (const float*)(const void*)((const char*)node + node->tables);
}
SLIM_FN const slimNode* slimRoot(const slimTree* tree) { return tree->node + tree->root; }
/* NULL: none. */
SLIM_FN const slimNode* slimSelector(const slimTree* tree) {
  return tree->selector < 0 ? NULL : tree->node + tree->selector;
}

/* stats=tensor, stats=previous: what all blocks of a piece share, and what a unit adds to it (format.md §5). */
typedef struct {
  float mean;
  uint32_t table;
} slimShape;
typedef struct {
  double sum, logs;
  uint32_t count, nv;
} slimPartial;

/* Random draws of one sender's message: what stays the same in a Philox counter (format.md §3). */
typedef struct {
  uint32_t key[2];
  uint32_t slot, step;
  uint32_t rank;
  uint32_t direction; /* 0 uplink, 1 downlink */
} slimDraw;
enum { slimDrawDither = 0, slimDrawIndex = 1, slimDrawRotation = 2, slimDrawCoin = 3, slimDrawMemory = 4 };
enum { SLIM_RANK_SHARED = 0xFFFFFF };

/* Elements that a selector takes from nv. */
SLIM_FN uint64_t slimSelectorCount(const slimNode* node, uint64_t nv) {
  uint64_t k = node->k ? node->k : (uint64_t)(node->ratio * (double)nv + 0.5);
  if (k < 1) k = 1;
  return k < nv ? k : nv;
}

/* multiple: a power of two. */
SLIM_FN uint64_t slimRoundUp(uint64_t n, uint64_t multiple) { return (n + multiple - 1) & ~(multiple - 1); }
/* Elements that a block of n values occupies in scratch: whole rows of the reduction tree. */
SLIM_FN uint32_t slimPadded(uint32_t n) { return n <= 64 ? 64 : (uint32_t)slimRoundUp(n, 128); }

#endif
