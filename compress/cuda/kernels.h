/* The CUDA kernels: their names, what each is given, and how it is launched. For the .cu files, for the host layer, and
 * for whatever else runs them. One list feeds them all.
 *
 * A kernel NAME of the list is the symbol slim_NAME and takes one struct by value. Pointers stand at the top level of
 * that struct only, and all of them are device pointers (NULL where the comment allows it). */
#ifndef SLIM_COMPRESS_CUDA_KERNELS_H_
#define SLIM_COMPRESS_CUDA_KERNELS_H_

#include "compress/kernels.h"
#include "compress/payload.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Arguments ------------------------------------------------------------------------------------------------ */

/* encode: the pieces of one slice, each into its own payload; header, flags and gaps are written too. Piece r of
 * `pieces` holds the units of `cut` elements from r·u/pieces on, u = ⌈n/cut⌉ (format.md §8), and goes to payload +
 * r·stride. */
typedef struct {
  const slimTree* tree;
  const uint64_t* step;    /* the slot's step counter; it replaces stamp.step */
  const void* x;           /* n elements of type */
  void* s;                 /* n values of slimMemoryBytes, or NULL */
  void* v;                 /* n reals or NULL */
  uint8_t* payload;        /* 16-byte aligned */
  slimPassStats* stats;    /* added to; or NULL */
  float* scratch;          /* scratchFloats a thread block; NULL: dynamic shared memory */
  const void* lambda;      /* lambda=shared: a real a unit; else NULL */
  const slimShape* shapes; /* stats=tensor, stats=previous: what the pieces' codes use, one a piece; else NULL */
  slimPartial* partials;   /* what the units add to their pieces' statistics, one a unit; or NULL */
  const float* mean;       /* survey: pieces whose mean is above 0 are left out; or NULL */
  slimFeedback feedback;
  slimStamp stamp;
  uint64_t n, first, cut, stride, scratchFloats;
  uint32_t pieces;
  int32_t type;   /* slimDataType_t */
  int32_t keeps;  /* s is read, not written (a downlink with shifts) */
  int32_t marked; /* x is what a reduce of this tree's unit put out: where it is the canonical NaN, so is the unit */
} slimEncodeArgs;

/* stats=tensor and stats=previous: survey takes encode's arguments (payload is NULL) and fills partials, with the tails
 * beyond the means of shapes, unless that is NULL. Then shape: mean, table, one a piece, which stats=previous keeps, or
 * NULL. First shapes is written, from what is kept where that is above 0, else from partials; after encode (last) what
 * is kept is replaced. */
typedef struct {
  const slimTree* tree;
  const slimPartial* partials;
  slimShape* shapes;
  float *mean, *table;
  uint64_t n, cut;
  uint32_t pieces;
  int32_t last;
} slimShapeArgs;

/* reduce: payloads (at payloads + r·stride, of ranks 0 … ranks − 1) of one piece → mean → (h) → payload' or y. down: a
 * tree of the same shape and unit as up, or NULL: y is written. Where a header is not the expected one, the piece
 * becomes NaN (payload': an error report) and *report is set. */
typedef struct {
  const slimTree *up, *down;
  const uint64_t* step;
  const uint8_t* payloads;
  void* h;          /* n reals or NULL */
  void* e;          /* n values of slimMemoryBytes, or NULL */
  uint8_t* payload; /* of the downlink, or NULL */
  void* y;          /* n elements of type, or NULL */
  slimPassStats* stats;
  unsigned long long* report;
  const uint32_t* index; /* selected values of all ranks (see slimSelectArgs), or NULL */
  const float* values;
  float* scratch;
  void* lambda; /* reduce_signs: a real a unit; written where y is */
  slimFeedback upFeedback, downFeedback;
  slimStamp stamp; /* of the downlink: rank is the owner's */
  uint64_t n, first, stride, scratchFloats;
  double weight, factor;
  uint32_t ranks;
  int32_t type;
  int32_t keeps; /* e is read, not written */
} slimReduceArgs;

/* decode: the payloads of a slice's pieces (cut as in encode) → y, h. The sender of piece r is rank firstRank + r. With
 * s instead: cancel, s ← s + û − x, for the one piece that this rank sent. */
typedef struct {
  const slimTree* tree;
  const uint64_t* step;
  const uint8_t* payload;
  void* h; /* n reals or NULL */
  void* y; /* n elements of type, or NULL */
  const void* x;
  void* s;
  unsigned long long* report;
  const uint32_t* index;
  const float* values;
  float* scratch;
  void* lambda; /* as encode's; read, then written */
  slimFeedback feedback;
  slimStamp stamp; /* rank: of piece 0's sender */
  uint64_t n, first, cut, stride, scratchFloats;
  double factor;
  uint32_t pieces;
  int32_t type;
} slimDecodeArgs;

/* Selectors of scope chunk and global, one piece, in several launches. Encode: select_start, then
 * slimSelectRounds times select_count and select_narrow, then select_tally, select_scan, select_take, select_encode,
 * select_update. Decode, reduce and cancel: per payload select_start … select_take (randk only; keys alone: x is NULL),
 * select_decode; then decode_select, reduce_select. */
enum { SLIM_SELECT_BINS = 2048 };
typedef struct {
  uint64_t need;    /* keys still to be found in the range */
  uint64_t most;    /* largest bits of |u|, as double's or float's */
  uint32_t low;     /* smallest key of the range */
  uint32_t shift;   /* the range is low … low + 2^shift − 1; 64: no keys yet, only `most` (fp64 needs it first) */
  uint32_t flagged; /* the piece holds NaN or Inf */
  uint32_t sends;   /* 0: nothing is sent (k below 1) */
  uint32_t count[SLIM_SELECT_BINS];
} slimSelectState;
typedef struct {
  const slimTree* tree;
  const uint64_t* step;
  const void* x; /* NULL: keys that are drawn */
  void* s;
  void* v;
  uint8_t* payload; /* written by encode, read by decode */
  slimPassStats* stats;
  slimSelectState* state; /* one */
  uint32_t* tiles;        /* 2 words for every SLIM_PIECE_STEP elements of n */
  uint32_t* index;        /* layout.values of them */
  float* values;          /* as many, rounded up to the tree's unit */
  float* scratch;
  slimFeedback feedback;
  slimStamp stamp;
  uint64_t n, first, scratchFloats;
  int32_t type;
  int32_t keeps;
} slimSelectArgs;

/* Dense messages and arrays of n reals. scale_memory: bf16, rounded by the draws of the step after *step. copy_finite:
 * dst ← those of src's reals that are finite. take_finite: dst (reals) ← src (elements of type), by groups of 64,
 * counted from the first, that hold no NaN or Inf; other groups stay. */
typedef struct {
  const uint64_t* step;
  const void* scalar; /* premultiply: dst ← src (elements) times this element of type; NULL: times factor */
  const void* src;    /* elements of type, reals, or payloads (at src + r·stride) */
  void* dst;          /* elements, reals, or a payload */
  slimStamp stamp;
  uint64_t n, first, stride;
  double factor; /* from_real, scale, dense_reduce: the weight */
  uint32_t ranks;
  int32_t type;
  int32_t real; /* dense_encode: src is reals */
} slimDenseArgs;

/* *step ← *step + 1. */
typedef struct {
  uint64_t* step;
} slimStepArgs;

/* ---- The list ------------------------------------------------------------------------------------------------- */

/* What a unit goes through decides which kernel takes it: a codec by itself (ternary is qsgd's; tqsgd and tbqsgd are
 * tnqsgd's), flat trees (a selector over a codec, and codecs whose unit is too large for shared memory), or any other
 * tree; and fp64 tensors, whatever their tree. Codecs by themselves have two kernels: a warp's, for units of
 * SLIM_WARP_UNIT elements, and a thread block's; but those without scales have that unit always. */
#define SLIM_PASSES_OF(X, pass, args) \
  X(pass##_fp8, args)                 \
  X(pass##_onebit, args)              \
  X(pass##_qsgd, args)                \
  X(pass##_natural, args)             \
  X(pass##_tnqsgd, args)
#define SLIM_SHAPES(X, pass, args) \
  SLIM_PASSES_OF(X, pass, args)    \
  X(pass##_flat, args)             \
  X(pass##_tree, args)             \
  X(pass##_wide, args)
/* Of warps.cu; turned: below rotate. */
#define SLIM_WARP_PASSES(X, pass, args) \
  SLIM_PASSES_OF(X, pass, args)         \
  X(pass##_fp32, args)                  \
  X(pass##_fp16, args)                  \
  X(pass##_bf16, args)                  \
  X(pass##_sign, args)                  \
  X(pass##_turned_onebit, args)         \
  X(pass##_turned_qsgd, args)
#define SLIM_WARP_KERNELS(X)                       \
  SLIM_WARP_PASSES(X, warp_encode, slimEncodeArgs) \
  SLIM_WARP_PASSES(X, warp_reduce, slimReduceArgs) \
  SLIM_WARP_PASSES(X, warp_decode, slimDecodeArgs)
/* All: those of kernels.cu, then those of warps.cu. */
#define SLIM_DEVICE_KERNELS(X)           \
  SLIM_SHAPES(X, encode, slimEncodeArgs) \
  SLIM_SHAPES(X, reduce, slimReduceArgs) \
  SLIM_SHAPES(X, decode, slimDecodeArgs) \
  X(reduce_select, slimReduceArgs)       \
  X(decode_select, slimDecodeArgs)       \
  X(reduce_signs, slimReduceArgs)        \
  X(survey, slimEncodeArgs)              \
  X(shape, slimShapeArgs)                \
  X(select_start, slimSelectArgs)        \
  X(select_count, slimSelectArgs)        \
  X(select_narrow, slimSelectArgs)       \
  X(select_tally, slimSelectArgs)        \
  X(select_scan, slimSelectArgs)         \
  X(select_take, slimSelectArgs)         \
  X(select_encode, slimSelectArgs)       \
  X(select_decode, slimSelectArgs)       \
  X(select_update, slimSelectArgs)       \
  X(dense_encode, slimDenseArgs)         \
  X(dense_reduce, slimDenseArgs)         \
  X(from_real, slimDenseArgs)            \
  X(premultiply, slimDenseArgs)          \
  X(scale, slimDenseArgs)                \
  X(scale_memory, slimDenseArgs)         \
  X(copy_finite, slimDenseArgs)          \
  X(take_finite, slimDenseArgs)          \
  X(next_step, slimStepArgs)             \
  SLIM_WARP_KERNELS(X)

#define SLIM_KERNEL_ID_(name, args) slimKernel_##name,
typedef enum { SLIM_DEVICE_KERNELS(SLIM_KERNEL_ID_) slimNumDeviceKernels } slimDeviceKernel;
#undef SLIM_KERNEL_ID_

/* *report: 0, or the reason << 56 | the sender's rank << 32 | the slot. */
enum { slimReportHeader = 1, slimReportRemote = 2 };

/* ---- Launches: one-dimensional ---------------------------------------------------------------------------------- */

/* A thread block (of the warp kernels: a warp) takes one unit (or SLIM_PIECE_STEP elements) at a time and steps by the
 * grid, so any grid will do: as many blocks as the device holds at once, or as there are units, whichever is less; at
 * least one. Thread blocks of select_start, select_narrow, select_scan and next_step: exactly one. */
enum { SLIM_WARP_UNIT = 512, SLIM_WARPS = 4 /* a thread block */ };
enum { SLIM_MAX_THREADS = 256, SLIM_SHAPE_THREADS = 128 /* of shape: exactly */ };

typedef struct {
  slimDeviceKernel kernel;
  uint32_t threads;
  uint32_t sharedBytes;   /* dynamic shared memory; 0 where scratchFloats is not */
  uint64_t scratchFloats; /* of device memory a thread block, where shared memory is too small */
  uint64_t blocks;        /* units or tiles: more blocks than this find nothing to do */
} slimLaunch;

/* The launch (cuda/launch.c) of encode, reduce (down: the downlink's tree, or NULL) or decode; `first` is the encode,
 * reduce or decode kernel of the first shape: slimKernel_encode_fp8, …. Trees with a selector of scope chunk or global
 * have their own kernels: reduce_select, decode_select and the select_… (first: which of them); lambda=shared has
 * reduce_signs, stats=tensor and stats=previous have survey. sharedLimit: bytes of dynamic shared memory that a thread
 * block may have. */
slimLaunch slimLaunchOf(slimDeviceKernel first, const slimTree* tree, const slimTree* down, slimDataType_t type,
                        uint64_t n, uint32_t sharedLimit);
/* A selection's: keys have three digits; x of fp64 is measured before there are keys. */
int slimSelectRounds(const slimSelectArgs* args);
/* shape's, of so many pieces. */
slimLaunch slimShapeLaunch(uint32_t pieces);
/* False: there are no kernels for it: its nodes are nested in another way than [rotate] [induced] [rotate] [topk,
 * randk] codec. */
bool slimDeviceRuns(const slimTree* tree);
/* reduce_… can write the downlink's payload by itself; else it writes reals (type fp32 or fp64, factor 1), and an
 * encode takes those. */
bool slimReducesInOne(const slimTree* up, const slimTree* down, slimDataType_t type);

#ifdef __cplusplus
}
#endif
#endif
