/* A tensor slot: a compressor, the feedback state that it needs on this rank, and where its pieces lie. */
#ifndef SLIM_TENSOR_H_
#define SLIM_TENSOR_H_

#include "collectives/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  void* data; /* n reals (slimRealBytes of the tensor's type), or NULL */
  uint64_t n;
  bool bf16; /* bf16 in place of reals: a memory of ef(…, memory=bf16) */
} slimArray;

/* How count elements are cut (docs/format.md §8). */
typedef struct {
  uint64_t count, slice;
  uint32_t unit;
  int ranks;
  uint64_t first; /* virtual index of the first one */
} slimCut;

typedef struct {
  uint64_t at;    /* index of its first element in the caller's buffer, and in arrays that follow the buffer */
  uint64_t first; /* virtual index: goes into headers and draws */
  uint64_t n;
} slimPiece;

enum { slimStateArrays = 7 };

typedef struct slimTensor {
  slimComm* comm; /* whose ranks compress; comm->home lists the tensor */
  struct slimTensor* next;
  uint32_t slot;
  slimCompressor* compressor;
  bool ofGraph;        /* its memory goes with the graph that captures its first call. Set before that */
  slimAlgorithm asked; /* instead of the settings' one; slimAlgorithmAuto: theirs. Set before the first call */

  /* Fixed by the first call. */
  bool started;
  slimCollective collective;
  slimDataType_t type;
  int root; /* of broadcast and reduce, else −1 */
  slimAlgorithm algorithm;
  uint64_t hash;
  slimCut cut;   /* count: of reduce-scatter and all-gather one rank's part */
  slimCut dense; /* of allreduce's and reduce's dense messages */

  /* State, in the order of the state file. h follows the receiver's elements; e and (two-shot) h the pieces that this
   * rank owns, slice after slice. */
  uint64_t step;
  union {
    struct {            /* on the device */
      slimArray s;      /* sender's memory or shift */
      slimArray v;      /* ef21's momentum */
      slimArray h;      /* receivers' mean shift */
      slimArray e;      /* downlink: ef's memory; in a reduce, the shift H on ranks other than the root */
      slimArray H;      /* downlink shift, on every receiver */
      slimArray common; /* lambda=shared: λ, a real a unit, equal on all ranks */
      slimArray m; /* stats=previous: the means of the pieces that this rank sends, slice after slice, then of those
                      that it owns; then their tables, in the same order */
    };
    slimArray arrays[slimStateArrays];
  };
  bool aside;    /* the next call goes without its memory, which stays as it is (ef in both directions, or none) */
  double lambda; /* slimTensorSetLambda's, in place of the spec's lambda=x; 0: none */
  bool spoiled;  /* a call failed half-way: wants slimTensorReset or slimStateLoad */

  /* slimTensorSetShift's, until the next call; in host memory */
  void* shift;
  uint64_t shiftCount;
  slimDataType_t shiftType;
  uint32_t shifts;

  /* slimTensorCancelStep's: the payloads of the last step, slice after slice, at strides of sentStride. */
  uint8_t* sent;
  size_t sentStride;
  enum { slimLastNone, slimLastDense, slimLastCompressed, slimLastInPlace } last;

  /* statistics */
  uint64_t calls, elements, wireBytes, flagged;
  double plainBytes, relativeError, stateRatio;
  double encodeSeconds, exchangeSeconds, reduceSeconds, decodeSeconds;
  bool warned;

  void* onDevice; /* what the device keeps of it besides */
} slimTensor;

slimResult_t slimTensorOpen(slimTensor** tensor, slimComm* comm, const char* spec, uint32_t slot);
void slimTensorClose(slimTensor* tensor);

/* First use: fixes what the call fixes, allocates state. Later uses: checks that it is the same. */
slimResult_t slimTensorStart(slimTensor* tensor, slimCollective collective, slimDataType_t type, uint64_t count,
                             int root);
/* What it fixes: collective, type, count and root; the algorithm; how elements are cut. Allocates nothing. */
slimResult_t slimTensorFix(slimTensor* tensor, slimCollective collective, slimDataType_t type, uint64_t count,
                           int root);
/* The state arrays' lengths and widths under the fixed members, without data. */
void slimTensorShape(slimTensor* tensor);
/* Allocates what tensor's fixed members ask for; all other members stay. */
slimResult_t slimTensorAllocate(slimTensor* tensor);
/* Lengths of the state arrays under the fixed members. */
void slimTensorLengths(const slimTensor* tensor, uint64_t lengths[slimStateArrays]);
/* Back to unused; statistics stay. */
void slimTensorForget(slimTensor* tensor);

slimResult_t slimTensorShift(slimTensor* tensor, const void* shift, uint64_t count, slimDataType_t type);
slimResult_t slimTensorScale(slimTensor* tensor, double factor);
slimResult_t slimTensorChooseLambda(slimTensor* tensor, double lambda);
slimResult_t slimTensorCancel(slimTensor* tensor, const void* x);
uint64_t slimTensorStateBytes(const slimTensor* tensor);
/* What the rank that keeps most keeps under the fixed members: the same on all ranks. */
uint64_t slimTensorMostStateBytes(const slimTensor* tensor);

slimResult_t slimStateWrite(slimComm* comm, const char* path);
slimResult_t slimStateRead(slimComm* comm, const char* path);

/* ---- Pieces ----------------------------------------------------------------------------------------------------- */

uint64_t slimSlices(const slimCut* cut);
slimPiece slimSlicePiece(const slimCut* cut, uint64_t slice);           /* the whole slice */
slimPiece slimChunkPiece(const slimCut* cut, uint64_t slice, int rank); /* two-shot: what rank owns of it */
slimPiece slimPartPiece(const slimCut* cut, uint64_t slice, int rank);  /* the same stretch of rank's part */
uint64_t slimOwnedAt(const slimCut* cut, uint64_t slice);               /* where an owner's piece lies in its arrays */
uint64_t slimLargestChunk(const slimCut* cut);                          /* elements */

/* The pieces of a slice that this rank encodes, `at` counted in its sendbuff and in s. */
int slimSendPieces(const slimTensor* tensor);
slimPiece slimSendPiece(const slimTensor* tensor, uint64_t slice, int i);
bool slimIsSender(const slimTensor* tensor);
bool slimIsReceiver(const slimTensor* tensor);

/* x + at elements of type; a + at reals (NULL stays NULL). */
static inline const void* slimAt(const void* x, slimDataType_t type, uint64_t at) {
  return (const char*)x + at * slimTypeBytes(type);
}
static inline void* slimAtMutable(void* y, slimDataType_t type, uint64_t at) {
  return (char*)y + at * slimTypeBytes(type);
}
static inline void* slimRealAt(const slimArray* a, slimDataType_t type, uint64_t at) {
  return a->data ? (char*)a->data + at * (a->bf16 ? 2 : slimRealBytes(type)) : NULL;
}
static inline size_t slimArrayBytes(const slimArray* a, slimDataType_t type) {
  return a->n * (a->bf16 ? 2 : slimRealBytes(type));
}
/* Where a piece's λ begin; NULL: none are shared. */
void* slimCommonAt(const slimTensor* tensor, slimPiece piece);
/* The statistics that stats=previous keeps of a piece: encode's mean and table; NULL without it. */
float* slimKeptMean(const slimTensor* tensor, bool down, uint64_t slice, int piece);
static inline float* slimKeptTable(const slimTensor* t, float* mean) { return mean ? mean + t->m.n / 2 : NULL; }
slimStamp slimStampOf(const slimTensor* tensor, int rank, bool down);

#ifdef __cplusplus
}
#endif
#endif
