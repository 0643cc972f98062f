/* One step of a tensor: what every compressed collective shares. A collective itself is a few stages over slices. */
#ifndef SLIM_STEP_H_
#define SLIM_STEP_H_

#include "collectives/ballot.h"
#include "collectives/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What travels in full precision, and where its mean goes. */
enum {
  slimDenseFromState = 1, /* s; otherwise x */
  slimDenseToOutput = 2,  /* y ← factor·mean */
  slimDenseToShift = 4,   /* h ← mean */
  slimDenseToDown = 8     /* H ← mean, where finite */
};

typedef struct slimCall slimCall;

/* A buffer of pieces for each of the slices that are under way. */
typedef struct {
  uint8_t* base;
  size_t stride; /* of a piece */
  int pieces;
  int depth; /* slices */
  bool kept; /* the tensor's own, not staging */
} slimBuffers;

/* What this rank's x is multiplied by, before all else: NCCL's premultiplied sum. */
typedef struct {
  bool given;
  double value;
  const void* there; /* an element of the call's type, on the device, that counts instead of value; NULL: none */
} slimScalar;

/* What a step does besides, or instead of, its compressed exchange. */
typedef struct {
  bool warmup, init, initDown, replace, resync, prime;
} slimStepPlan;

/* A run of the pipeline over all slices. */
typedef struct {
  bool takeMomentum, takeState; /* first: v, s ← x, where finite */
  int dense;                    /* slimDense…; 0: compressed */
} slimPhase;

struct slimCall {
  slimOperation base;
  slimComm* comm; /* its device does the work */
  slimTensor* tensor;
  slimCollective collective;
  const void* x;
  void* y;
  uint64_t count;
  slimDataType_t type;
  slimRedOp_t op;
  int root;
  slimScalar scalar;
  uint64_t whole;    /* of a call in a hierarchy: its count, of which count is this rank's shard; else 0 */
  bool fresh;        /* the tensor's first call */
  bool asked, begun; /* the ranks compare their calls; it takes place */
  bool finite;       /* of all ranks' x, where the plan wants to know */
  slimCallRecord record;
  slimStepPlan plan;
  slimPhase phases[3];
  int numPhases, phase; /* the one under way, */
  uint64_t turn;        /* and its turn */
  uint64_t sentBefore;
  double waitedBefore;
  double factor; /* of the mean, in y: the ranks for sum */
  bool refresh;  /* rand_diana's coin fell: after this step s = x, h = mean x */
  bool refreshDown;
  bool wrong; /* a payload's header is not what it must be: message says which; the call goes on, so that no rank hangs
               */
  char message[384];
  slimBallot ballot; /* before it */
  slimPassStats stats;
  slimDirection up, downlink; /* the tensor's, or without feedback if its memory is left aside */
  slimBuffers send, recv, down;
  void* reals;    /* scratch: reals of a piece */
  void* elements; /* scratch: elements of a piece */
  int dense;      /* slimDense… of the dense exchange under way */
};

typedef slimResult_t (*slimStage)(slimCall* call, uint64_t slice);

/* How a collective moves. lay describes buffers with slimLay; dense: for slimDense… */
typedef struct {
  void (*lay)(slimCall* call);
  slimStage stages[3];
  void (*layDense)(slimCall* call);
  slimStage denseStages[3];
} slimMover;

/* Makes a step of call, whose tensor, collective, x, y, count, type, op, root and scalar are set and whose other
 * members are zero: first use, agreement, dense exchanges, the compressed stages, the step counter, statistics. */
void slimStepPrepare(slimCall* call);

/* Allocates what a step of call's kind needs, ahead of it: where the device's memory is full, all ranks hear
 * slimSystemError alike, and nothing has changed. */
slimResult_t slimStepReserve(const slimCall* call);

/* Brings tensor's statistics up to date where a device has kept them. */
slimResult_t slimStepStatistics(slimTensor* tensor);

const slimMover* slimMoverOf(const slimTensor* tensor);
extern const slimMover slimTwoShot, slimOneShot, slimLinear; /* allreduce, reduce */
extern const slimMover slimLinearByTransport; /* where the device is not readable, and the transport has plain sums */
extern const slimMover slimReduceScatterMover, slimAllGatherMover, slimBroadcastMover;
/* Dense exchange of allreduce and reduce, whatever their algorithm: reduce-scatter and, where the mean is wanted
 * outside of its owner, all-gather. */
void slimLayDenseSum(slimCall* call);
/* A payload of the whole slice from every rank. */
void slimLayGathered(slimCall* call);
slimResult_t slimDenseSumSend(slimCall* call, uint64_t slice);
slimResult_t slimDenseSumReduce(slimCall* call, uint64_t slice);
slimResult_t slimDenseSumReceive(slimCall* call, uint64_t slice);

/* ---- For stages ------------------------------------------------------------------------------------------------- */

static inline uint8_t* slimBuffer(const slimBuffers* b, uint64_t slice, int piece) {
  return b->base + ((slice % (uint64_t)b->depth) * (uint64_t)b->pieces + (uint64_t)piece) * b->stride;
}
/* pieces payloads of at most bytes each, for depth slices. */
slimBuffers slimBuffersOf(int pieces, size_t bytes, int depth);
/* send's layout: the tensor's own payload store where CancelStep needs it. */
slimBuffers slimSendBuffers(slimCall* call, size_t bytes, int depth);

/* Exchange numbers: two of each kind are under way at most. */
static inline int slimFirstExchange(uint64_t slice) { return (int)(slice % 2); }
static inline int slimSecondExchange(uint64_t slice) { return 2 + (int)(slice % 2); }
static inline int slimFlagExchange(uint64_t slice) { return 4 + (int)(slice % 2); }

/* Encodes all that this rank sends of the slice into call->send; with refresh, takes x as the new shift. */
slimResult_t slimEncodeSlice(slimCall* call, uint64_t slice);
/* reduce of payloads → down's payload, or y (NULL down); h: slimRealAt. */
slimResult_t slimReducePiece(slimCall* call, const slimReducePass* pass);
/* Checks headers, then decodes those pieces of split whose header is right; the others are remembered as slimExpect
 * does. */
slimResult_t slimDecodePieces(slimCall* call, const slimDecodePass* pass, const slimSplit* split);
slimResult_t slimDecodePiece(slimCall* call, const slimDecodePass* pass);
/* Where the piece of rank lies after the exchange: `sent` is what this rank sent itself. A device has all pieces at
 * equal strides, its own among them. */
static inline uint8_t* slimArrived(const slimCall* call, uint64_t slice, int rank, int sent) {
  return rank == call->comm->rank && call->comm->device->readable ? slimBuffer(&call->send, slice, sent)
                                                                  : slimBuffer(&call->recv, slice, rank);
}
/* Checks a received header, where this thread can; a wrong one is remembered in call->wrong, and false is the answer.
 */
bool slimExpect(slimCall* call, const uint8_t* payload, const slimStamp* stamp, slimPiece piece, uint64_t bytes,
                int flags);

/* Dense: payload ← piece of s or x. reals ← mean of payloads. reals → y, h, H as call->dense says. */
slimResult_t slimDenseWrite(slimCall* call, const void* x, const void* s, slimPiece piece, const slimStamp* stamp,
                            uint8_t* payload);
slimResult_t slimDenseMean(slimCall* call, uint64_t n, int ranks, const uint8_t* const* payloads, void* reals);
slimResult_t slimDenseDeliver(slimCall* call, const void* reals, uint64_t n, void* y, void* h, void* H);
/* Whether n elements of type at x, in host memory, hold no NaN or Inf. */
bool slimFinite(slimDataType_t type, const void* x, uint64_t n);

static inline size_t slimUpBytes(const slimCall* call, uint64_t n) {
  return slimPayloadBytes(call->tensor->compressor->up.tree, call->tensor->type, n);
}
static inline size_t slimDownBytes(const slimCall* call, uint64_t n) {
  return slimPayloadBytes(call->tensor->compressor->down.tree, call->tensor->type, n);
}
static inline size_t slimDenseBytes(const slimCall* call, uint64_t n) {
  return slimDensePayloadBytes(call->tensor->type, n);
}

#ifdef __cplusplus
}
#endif
#endif
