/* What is sent: a spec becomes a slimCompressor (two directions, each feedback over a codec tree), and three passes
 * turn elements into payloads and back. This layer knows no ranks' addresses and no transport; docs/format.md fixes its
 * bits. */
#ifndef SLIM_COMPRESS_H_
#define SLIM_COMPRESS_H_

#include <stdbool.h>

#include "compress/slimccl_types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Errors --------------------------------------------------------------------------------------------------- */

/* Remembers a message for slimGetLastError (thread-local) and answers result, so that `return slimFail(…)` reads well.
 */
slimResult_t slimFail(slimResult_t result, const char* format, ...) __attribute__((format(printf, 2, 3)));
const char* slimLastMessage(void);
#define SLIM_CHECK(call)                              \
  do {                                                \
    slimResult_t slimCheck_ = (call);                 \
    if (slimCheck_ != slimSuccess) return slimCheck_; \
  } while (0)

/* ---- Element types -------------------------------------------------------------------------------------------- */

size_t slimTypeBytes(slimDataType_t type); /* 0 for an unknown type */
bool slimTypeIsFloat(slimDataType_t type); /* fp16, bf16, fp32, fp64 */
size_t slimRealBytes(slimDataType_t type); /* of its state: 8 for fp64, else 4 */
const char* slimTypeName(slimDataType_t type);

/* ---- Compressors ---------------------------------------------------------------------------------------------- */

/* One row of the feedback table (docs/design.md): u = x + sigma·s; s ← a·s + b·x + c·û; out = h + nu·m; h ← h +
 * lambda·m. */
typedef enum {
  slimFeedbackNone,
  slimFeedbackEf,
  slimFeedbackEf21,
  slimFeedbackEfBv,
  slimFeedbackDiana,
  slimFeedbackShift,
  slimFeedbackRandDiana,
  slimNumFeedbacks
} slimFeedbackKind;

typedef struct {
  slimFeedbackKind kind;
  double sigma, a, b, c;
  double nu, lambda;
  double momentum; /* ef21: eta of v ← v + eta·(x − v); 0: none */
  double refresh;  /* rand_diana: probability p that x (or s, when flagged) travels in full precision */
  bool replace;    /* rand_diana: x travels instead of û, not beside it */
  bool memory;     /* the sender keeps s (n values) */
  bool bf16;       /* ef: as bf16, rounded stochastically, in place of reals */
  bool shifts;     /* the receiver keeps h */
  uint64_t warmup; /* first steps sent in full precision, without touching state */
  uint64_t resync; /* every so many steps h ← mean s_i in full precision; 0: never */
  bool initFirst;  /* the first message is x in full precision: s = x, h = mean x */
} slimFeedback;

/* Of a value of s, or of the downlink's e. */
static inline size_t slimMemoryBytes(const slimFeedback* feedback, slimDataType_t type) {
  return feedback->bf16 ? 2 : slimRealBytes(type);
}

typedef struct slimTree slimTree; /* a compiled codec tree */

typedef struct {
  slimFeedback feedback;
  slimTree* tree;
} slimDirection;

typedef struct slimCompressor {
  slimDirection up, down;
  bool downGiven;  /* the spec names a downlink: one-shot and linear refuse it */
  bool sharedDown; /* shared rand-k: the downlink sends the uplink's support, exactly */
  char* text;      /* the spec, both directions written out */
} slimCompressor;

/* Parses and compiles spec (docs/specs.md). On error the message says "spec:1:COLUMN: what; what would be right". */
slimResult_t slimCompressorCreate(slimCompressor** compressor, const char* spec);
void slimCompressorDestroy(slimCompressor* compressor);
/* Writes spec into out, on request without its feedback (bare codecs, for calls that have no state) or without its
 * downlink (for collectives that have none). A downlink that spec does not name is not written either. */
slimResult_t slimSpecPart(const char* spec, bool feedback, bool downlink, char* out, size_t size);
/* XXH3-64 of "text#type" (format.md §4). */
uint64_t slimCompressorHash(const slimCompressor* compressor, slimDataType_t type);
/* Puts lambda in the place of every `lambda=x` of the spec, in both directions; 0: x again. false: there is none. */
bool slimCompressorSetLambda(slimCompressor* compressor, double lambda);

/* Elements of the smallest stretch that the tree sees as a whole; pieces start on multiples of it. */
uint32_t slimTreeUnit(const slimTree* tree);
/* lambda=shared: passes want the ranks' common λ (slimEncodePass.lambda). */
bool slimTreeSharesLambda(const slimTree* tree);
/* scope=global: the piece must be the whole tensor (one-shot). */
bool slimTreeIsGlobal(const slimTree* tree);
/* The payloads of all ranks may be added as float arrays (fp32; shared rand-k over fp32). */
bool slimTreeIsLinear(const slimTree* tree);
/* stats=tensor, stats=previous: encode takes its statistics from the piece as a whole; and keeps them for the next
 * step. */
bool slimTreeGathers(const slimTree* tree);
bool slimTreeRemembers(const slimTree* tree);
/* Bytes of the payload of a piece of n elements, header included; a multiple of 16, and 64 for n = 0. */
size_t slimPayloadBytes(const slimTree* tree, slimDataType_t type, uint64_t n);
/* Where a linear tree's floats begin in its payload; they reach to its end. */
size_t slimPayloadValuesAt(const slimTree* tree, slimDataType_t type, uint64_t n);
/* slimPayloadBytes of a dense message. */
size_t slimDensePayloadBytes(slimDataType_t type, uint64_t n);

/* What a codec guarantees: U(omega) if omega is finite, B(delta) if delta > 0 (for fit=lsq: after fitting). */
typedef struct {
  double omega; /* E‖Q(v) − v‖² ≤ omega·‖v‖², unbiased; INFINITY if not unbiased */
  double delta; /* ‖C(v) − v‖² ≤ (1 − delta)·‖v‖² (in expectation for randk); 0 if none */
  double bits;  /* payload bits an element, large n, scales included */
} slimClass;
slimClass slimTreeClass(const slimTree* tree);

/* ---- Passes --------------------------------------------------------------------------------------------------- */

/* Who sends what: goes into the header, and into every random draw. */
typedef struct {
  uint64_t hash; /* slimCompressorHash */
  uint64_t seed;
  uint64_t step;
  uint32_t slot;
  uint32_t rank;
  bool down; /* a reduce's downlink */
} slimStamp;

typedef struct {
  double xx, uu, error, ss; /* Σx², Σu², Σ(u−û)², Σs² over every 16th unit */
  uint64_t flagged;         /* units */
} slimPassStats;

/* Several payloads of one pass: piece r of `pieces` holds the units r·u/pieces … (r + 1)·u/pieces − 1 of the pass's u
 * units of `unit` elements (format.md §8), and its payload lies at payload + r·stride. */
typedef struct {
  int pieces;
  uint32_t unit;
  size_t stride;
} slimSplit;
/* Piece r of a pass of `all` elements: its elements *n from *at on. */
void slimSplitPiece(const slimSplit* split, int r, uint64_t all, uint64_t* n, uint64_t* at);

typedef struct slimPool slimPool; /* threads of one rank; NULL: the caller's thread alone */
slimResult_t slimPoolCreate(slimPool** pool, int threads);
void slimPoolDestroy(slimPool* pool);

/* encode: payload ← C(x + sigma·s), and the sender's state. x: n elements of type; s: n values of slimMemoryBytes, v: n
 * reals, or NULL. stats is added to; may be NULL. */
typedef struct {
  const slimDirection* direction;
  slimStamp stamp;
  slimDataType_t type;
  const void* x;
  uint64_t n, first; /* first: virtual index of x[0] (format.md §8) */
  void* s;
  void* v;
  uint8_t* payload; /* slimPayloadBytes; 16-byte aligned */
  slimPassStats* stats;
  const void* lambda;  /* lambda=shared: a real a unit (format.md §7); else NULL */
  float *mean, *table; /* stats=previous: the piece's statistics, of its last step in, of this one out; 0: none yet */
} slimEncodePass;
slimResult_t slimPassEncode(const slimEncodePass* pass, slimPool* pool);

/* reduce: N payloads of the same piece → mean → (h) → one payload' for the downlink, or y. */
typedef struct {
  const slimDirection* up;
  slimStamp stamp; /* of the downlink (rank = owner); uplink draws use rank r for payloads[r] */
  slimDataType_t type;
  uint64_t n, first;
  int ranks;
  const uint8_t* const* payloads;
  double weight;             /* of each payload: 1/N */
  void* h;                   /* n reals or NULL */
  const slimDirection* down; /* NULL: write y */
  void* e;              /* downlink state at this piece: n reals (ef: read and written; shifts: H, read only) or NULL */
  uint8_t* payload;     /* downlink payload */
  void* y;              /* n elements, if down is NULL */
  double factor;        /* y is multiplied by it: N for op=sum, else 1 */
  slimPassStats* stats; /* of the downlink's encode */
  void* lambda;         /* as encode's; read, and written where there is no downlink */
  float *mean, *table;  /* the same */
} slimReducePass;
slimResult_t slimPassReduce(const slimReducePass* pass, slimPool* pool);

/* decode: payload → û → y = factor·(H + nu·û), H ← H + lambda·û. Without H: y = factor·û. */
typedef struct {
  const slimDirection* direction;
  slimStamp stamp; /* the sender's */
  slimDataType_t type;
  uint64_t n, first;
  const uint8_t* payload;
  void* h; /* n reals or NULL */
  void* y; /* n elements; NULL: only H is updated */
  double factor;
  void* lambda; /* as encode's; read, then written */
} slimDecodePass;
slimResult_t slimPassDecode(const slimDecodePass* pass, slimPool* pool);

/* slimTensorCancelStep's: s ← s + û − x, û decoded from the payload that was sent. s: as in encode. */
slimResult_t slimPassCancel(const slimDecodePass* sent, const void* x, void* s, slimPool* pool);

/* ---- Headers (format.md §4) ----------------------------------------------------------------------------------- */

typedef struct {
  uint32_t magic;
  uint16_t version, flags;
  uint64_t hash, step;
  uint32_t slot, rank;
  uint64_t n, first, bytes, zero;
} slimHeader;
enum { slimHeaderError = 1, slimHeaderDense = 2 };

void slimHeaderWrite(uint8_t* payload, const slimStamp* stamp, uint64_t n, uint64_t first, uint64_t bytes, int flags);
/* Compares a received header with what this rank expects (stamp.rank: the sender). The message names field and ranks.
 */
slimResult_t slimHeaderCheck(const uint8_t* payload, const slimStamp* stamp, uint64_t n, uint64_t first, uint64_t bytes,
                             int flags);

/* ---- Dense messages: full precision, real = float or double (of type fp64) ------------------------------------ */

/* payload ← header and n values of x (elements of type, or reals if xIsReal). */
void slimDenseEncode(const slimStamp* stamp, slimDataType_t type, const void* x, bool xIsReal, uint64_t n,
                     uint64_t first, uint8_t* payload);
/* dst (n reals) ← weight·Σ payloads in rank order, starting at +0. */
void slimDenseReduce(slimDataType_t type, uint64_t n, int ranks, const uint8_t* const* payloads, double weight,
                     void* dst);
/* reals ↔ elements: y ← factor·src, rounded to type; dst ← src. */
void slimFromReal(slimDataType_t type, const void* src, uint64_t n, double factor, void* y);
void slimToReal(slimDataType_t type, const void* src, uint64_t n, void* dst);
/* a ← factor·a over n reals. */
void slimScaleReal(slimDataType_t type, void* a, uint64_t n, double factor);
/* The same over n bf16 of a memory, rounded by stamp's draws. */
void slimScaleMemory(const slimStamp* stamp, uint16_t* a, uint64_t n, double factor);
/* rand_diana's coin of (seed, slot, step): true with probability p, the same on all ranks. */
bool slimCoin(uint64_t seed, uint32_t slot, uint64_t step, double p);

/* ---- CPU ------------------------------------------------------------------------------------------------------ */

/* "baseline", "avx2" or "avx512": the best this machine has, or the one that SLIM_CPU names. */
const char* slimCpuName(void);

#ifdef __cplusplus
}
#endif
#endif
