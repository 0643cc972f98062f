/* Full precision for allreduce and reduce: reduce-scatter of dense messages, and an all-gather of the means where
 * someone besides the owner wants them. The same bits under every algorithm. */
#include "collectives/step.h"

/* Whether rank keeps the mean of pieces that it does not own. */
static bool hears(const slimCall* call, int rank) {
  const slimTensor* t = call->tensor;
  const bool receiver = t->collective == slimCollectiveAllReduce || rank == t->root;
  const bool everywhere = call->dense & (slimDenseToOutput | slimDenseToDown) ||
                          (call->dense & slimDenseToShift && t->algorithm != slimAlgorithmTwoShot);
  return receiver && everywhere;
}

void slimLayDenseSum(slimCall* call) {
  const int ranks = call->comm->ranks;
  const size_t bytes = slimDenseBytes(call, slimLargestChunk(&call->tensor->dense));
  call->send = slimBuffersOf(ranks, bytes, 2);
  call->recv = slimBuffersOf(ranks, bytes, 2);
  call->down = slimBuffersOf(ranks, bytes, 2);
}

slimResult_t slimDenseSumSend(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  slimComm* comm = call->comm;
  const uint64_t own = slimChunkPiece(&t->dense, k, comm->rank).n;
  const slimStamp stamp = slimStampOf(t, comm->rank, false);
  for (int p = 0; p < comm->ranks; p++) {
    const slimPiece piece = slimChunkPiece(&t->dense, k, p);
    uint8_t* payload = slimBuffer(&call->send, k, p);
    if (piece.n)
      SLIM_CHECK(slimDenseWrite(call, slimAt(call->x, t->type, piece.at), slimRealAt(&t->s, t->type, piece.at), piece,
                                &stamp, payload));
    comm->lanes[p] = (slimLane){payload, piece.n ? slimDenseBytes(call, piece.n) : 0, slimBuffer(&call->recv, k, p),
                                own ? slimDenseBytes(call, own) : 0};
  }
  return slimBegin(comm, slimFirstExchange(k));
}

slimResult_t slimDenseSumReduce(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  slimComm* comm = call->comm;
  SLIM_CHECK(slimWait(comm, slimFirstExchange(k)));
  const slimPiece own = slimChunkPiece(&t->dense, k, comm->rank);
  uint8_t* payload = slimBuffer(&call->down, k, comm->rank);
  if (own.n) {
    const size_t bytes = slimDenseBytes(call, own.n);
    int stranger = -1; /* lowest rank whose header is wrong */
    for (int p = comm->ranks - 1; p >= 0; p--) {
      comm->payloads[p] = slimArrived(call, k, p, p);
      const slimStamp stamp = slimStampOf(t, p, false);
      if (!slimExpect(call, comm->payloads[p], &stamp, own, bytes, slimHeaderDense)) stranger = p;
    }
    const slimStamp stamp = slimStampOf(t, comm->rank, true);
    if (stranger < 0) {
      SLIM_CHECK(slimDenseMean(call, own.n, comm->ranks, comm->payloads, call->reals));
      if (t->algorithm == slimAlgorithmTwoShot) {
        const uint64_t at = slimOwnedAt(&t->dense, k);
        SLIM_CHECK(slimDenseDeliver(call, call->reals, own.n, NULL, slimRealAt(&t->h, t->type, at),
                                    slimRealAt(&t->e, t->type, at)));
      }
      SLIM_CHECK(comm->device->denseEncode(call, &stamp, call->reals, true, own.n, own.first, payload));
    } else {
      slimHeaderWrite(payload, &stamp, (uint64_t)stranger, own.first, bytes, slimHeaderError);
    }
  }
  for (int p = 0; p < comm->ranks; p++) {
    const uint64_t n = slimChunkPiece(&t->dense, k, p).n;
    comm->lanes[p] =
        (slimLane){payload, own.n && hears(call, p) ? slimDenseBytes(call, own.n) : 0, slimBuffer(&call->down, k, p),
                   n && hears(call, comm->rank) ? slimDenseBytes(call, n) : 0};
  }
  return slimBegin(comm, slimSecondExchange(k));
}

slimResult_t slimDenseSumReceive(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  slimComm* comm = call->comm;
  SLIM_CHECK(slimWait(comm, slimSecondExchange(k)));
  for (int r = 0; r < comm->ranks && hears(call, comm->rank); r++) {
    const slimPiece p = slimChunkPiece(&t->dense, k, r);
    if (!p.n) continue;
    const uint8_t* payload = slimBuffer(&call->down, k, r);
    const slimStamp stamp = slimStampOf(t, r, true);
    if (!slimExpect(call, payload, &stamp, p, slimDenseBytes(call, p.n), slimHeaderDense)) continue;
    SLIM_CHECK(slimDenseMean(call, p.n, 1, &payload, call->reals));
    SLIM_CHECK(slimDenseDeliver(call, call->reals, p.n, slimAtMutable(call->y, t->type, p.at),
                                t->algorithm == slimAlgorithmTwoShot ? NULL : slimRealAt(&t->h, t->type, p.at),
                                slimRealAt(&t->H, t->type, p.at)));
  }
  return slimSuccess;
}
