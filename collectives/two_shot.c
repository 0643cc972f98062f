/* Allreduce and reduce, two-shot: every slice is cut into one chunk a rank. All-to-all of the encoded chunks, reduce at
 * the chunk's owner, all-gather of the owners' payloads (to the root, for a reduce), decode. */
#include "collectives/step.h"

#include <string.h>

/* A downlink with shifts of which this step is a refresh sends the mean in full precision, besides or instead of its
 * payload. */
static size_t compressedBytes(const slimCall* call, uint64_t n) {
  return call->refreshDown && call->tensor->compressor->down.feedback.replace ? 0 : slimDownBytes(call, n);
}
static size_t downBytes(const slimCall* call, uint64_t n) {
  return n ? compressedBytes(call, n) + (call->refreshDown ? slimDenseBytes(call, n) : 0) : 0;
}

/* Where rank r's word goes in a reduce or an allreduce. */
static bool hears(const slimTensor* t, int rank) { return t->collective == slimCollectiveAllReduce || rank == t->root; }

static void lay(slimCall* call) {
  const slimTensor* t = call->tensor;
  const uint64_t n = slimLargestChunk(&t->cut);
  const size_t up = slimUpBytes(call, n);
  call->send = slimSendBuffers(call, up, 2);
  call->recv = slimBuffersOf(call->comm->ranks, up, 2);
  call->down = slimBuffersOf(call->comm->ranks, slimDownBytes(call, n) + slimDenseBytes(call, n), 2);
}

static slimResult_t send(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  slimComm* comm = call->comm;
  const uint64_t own = slimChunkPiece(&t->cut, k, comm->rank).n;
  SLIM_CHECK(slimEncodeSlice(call, k));
  for (int p = 0; p < comm->ranks; p++) {
    uint8_t* payload = slimBuffer(&call->send, k, p);
    const uint64_t n = slimChunkPiece(&t->cut, k, p).n;
    comm->lanes[p] = (slimLane){payload, n ? slimUpBytes(call, n) : 0, slimBuffer(&call->recv, k, p),
                                own ? slimUpBytes(call, own) : 0};
  }
  return slimBegin(comm, slimFirstExchange(k));
}

/* The owner's memory of its piece: ef's e, or its stretch of the shift. */
static void* ownerState(const slimTensor* t, uint64_t k, slimPiece p) {
  return t->H.data ? slimRealAt(&t->H, t->type, p.at) : slimRealAt(&t->e, t->type, slimOwnedAt(&t->cut, k));
}

static slimResult_t reducePiece(slimCall* call, uint64_t k, slimPiece p, uint8_t* payload) {
  const slimTensor* t = call->tensor;
  const slimStamp stamp = slimStampOf(t, call->comm->rank, true);
  slimReducePass pass = {.up = &call->up,
                         .stamp = stamp,
                         .type = t->type,
                         .n = p.n,
                         .first = p.first,
                         .ranks = call->comm->ranks,
                         .payloads = call->comm->payloads,
                         .weight = 1.0 / call->comm->ranks,
                         .h = slimRealAt(&t->h, t->type, slimOwnedAt(&t->cut, k)),
                         .down = &call->downlink,
                         .e = t->aside ? NULL : ownerState(t, k, p),
                         .payload = payload,
                         .factor = 1,
                         .lambda = slimCommonAt(t, p),
                         .mean = slimKeptMean(t, true, k, 0)};
  pass.table = slimKeptTable(t, pass.mean);
  if (!call->refreshDown) return slimReducePiece(call, &pass);
  pass.down = NULL;
  pass.e = NULL;
  pass.payload = NULL;
  pass.y = call->elements;
  SLIM_CHECK(slimReducePiece(call, &pass));
  if (compressedBytes(call, p.n)) {
    const slimEncodePass encode = {.direction = &t->compressor->down,
                                   .stamp = stamp,
                                   .type = t->type,
                                   .x = call->elements,
                                   .n = p.n,
                                   .first = p.first,
                                   .s = ownerState(t, k, p),
                                   .payload = payload};
    SLIM_CHECK(call->comm->device->encode(call, &encode, &(slimSplit){1, t->cut.unit, 0}));
  }
  return call->comm->device->denseEncode(call, &stamp, call->elements, false, p.n, p.first,
                                         payload + compressedBytes(call, p.n));
}

static slimResult_t reduce(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  slimComm* comm = call->comm;
  SLIM_CHECK(slimWait(comm, slimFirstExchange(k)));
  const slimPiece own = slimChunkPiece(&t->cut, k, comm->rank);
  uint8_t* payload = slimBuffer(&call->down, k, comm->rank);
  if (own.n) {
    int stranger = -1; /* lowest rank whose header is wrong: all ranks learn of it from an error report */
    for (int p = comm->ranks - 1; p >= 0; p--) {
      comm->payloads[p] = slimArrived(call, k, p, p);
      const slimStamp stamp = slimStampOf(t, p, false);
      if (comm->device->readable &&
          slimHeaderCheck(comm->payloads[p], &stamp, own.n, own.first, slimUpBytes(call, own.n), 0) != slimSuccess)
        stranger = p;
    }
    if (stranger < 0) {
      SLIM_CHECK(reducePiece(call, k, own, payload));
    } else {
      const slimStamp stamp = slimStampOf(t, comm->rank, true);
      memset(payload, 0, downBytes(call, own.n));
      slimHeaderWrite(payload, &stamp, (uint64_t)stranger, own.first, downBytes(call, own.n), slimHeaderError);
    }
  }
  for (int p = 0; p < comm->ranks; p++)
    comm->lanes[p] = (slimLane){payload, hears(t, p) ? downBytes(call, own.n) : 0, slimBuffer(&call->down, k, p),
                                hears(t, comm->rank) ? downBytes(call, slimChunkPiece(&t->cut, k, p).n) : 0};
  return slimBegin(comm, slimSecondExchange(k));
}

static slimResult_t receive(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  slimComm* comm = call->comm;
  SLIM_CHECK(slimWait(comm, slimSecondExchange(k)));
  const bool all = hears(t, comm->rank), shifted = t->compressor->down.feedback.shifts;
  if (!all && !shifted) return slimSuccess; /* a reduce's owner keeps its shift up to date */
  const slimPiece s = all ? slimSlicePiece(&t->cut, k) : slimChunkPiece(&t->cut, k, comm->rank);
  const int first = all ? 0 : comm->rank, pieces = all ? comm->ranks : 1;
  void* H = all ? slimRealAt(&t->H, t->type, s.at) : ownerState(t, k, s);
  void* y = all ? slimAtMutable(call->y, t->type, s.at) : NULL;
  const bool compressed = s.n && compressedBytes(call, s.n);
  if (compressed) {
    const slimDecodePass pass = {.direction = &t->compressor->down,
                                 .stamp = slimStampOf(t, first, true),
                                 .type = t->type,
                                 .n = s.n,
                                 .first = s.first,
                                 .payload = slimBuffer(&call->down, k, first),
                                 .h = H,
                                 .y = y,
                                 .factor = call->factor,
                                 .lambda = slimCommonAt(t, s)};
    SLIM_CHECK(slimDecodePieces(call, &pass, &(slimSplit){pieces, t->cut.unit, call->down.stride}));
  }
  for (int r = first; r < first + pieces && call->refreshDown; r++) {
    const slimPiece p = slimChunkPiece(&t->cut, k, r);
    if (!p.n) continue;
    const uint8_t* payload = slimBuffer(&call->down, k, r) + compressedBytes(call, p.n);
    const slimStamp stamp = slimStampOf(t, r, true);
    if (!slimExpect(call, payload, &stamp, p, slimDenseBytes(call, p.n), slimHeaderDense)) continue;
    SLIM_CHECK(slimDenseMean(call, p.n, 1, &payload, call->reals));
    call->dense = slimDenseToDown | (compressed ? 0 : slimDenseToOutput);
    SLIM_CHECK(slimDenseDeliver(call, call->reals, p.n, y ? slimAtMutable(call->y, t->type, p.at) : NULL, NULL,
                                all ? slimRealAt(&t->H, t->type, p.at) : H));
  }
  return slimSuccess;
}

const slimMover slimTwoShot = {
    lay, {send, reduce, receive}, slimLayDenseSum, {slimDenseSumSend, slimDenseSumReduce, slimDenseSumReceive}};
