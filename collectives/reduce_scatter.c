/* Reduce-scatter: the first half of two-shot; the owner of a part is the rank that receives it. */
#include "collectives/step.h"

static void layFor(slimCall* call, size_t bytes, bool dense) {
  call->send = dense ? slimBuffersOf(call->comm->ranks, bytes, 2) : slimSendBuffers(call, bytes, 2);
  call->recv = slimBuffersOf(call->comm->ranks, bytes, 2);
}
static void lay(slimCall* call) { layFor(call, slimUpBytes(call, slimSlicePiece(&call->tensor->cut, 0).n), false); }
static void layDense(slimCall* call) {
  layFor(call, slimDenseBytes(call, slimSlicePiece(&call->tensor->cut, 0).n), true);
}

static slimResult_t exchange(slimCall* call, uint64_t k, size_t bytes) {
  for (int p = 0; p < call->comm->ranks; p++)
    call->comm->lanes[p] = (slimLane){slimBuffer(&call->send, k, p), bytes, slimBuffer(&call->recv, k, p), bytes};
  return slimBegin(call->comm, slimFirstExchange(k));
}

static slimResult_t send(slimCall* call, uint64_t k) {
  SLIM_CHECK(slimEncodeSlice(call, k));
  return exchange(call, k, slimUpBytes(call, slimSlicePiece(&call->tensor->cut, k).n));
}

static slimResult_t sendDense(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  const slimStamp stamp = slimStampOf(t, call->comm->rank, false);
  for (int r = 0; r < call->comm->ranks; r++) {
    const slimPiece p = slimPartPiece(&t->cut, k, r);
    SLIM_CHECK(slimDenseWrite(call, slimAt(call->x, t->type, p.at), slimRealAt(&t->s, t->type, p.at), p, &stamp,
                              slimBuffer(&call->send, k, r)));
  }
  return exchange(call, k, slimDenseBytes(call, slimSlicePiece(&t->cut, k).n));
}

/* Waits for the payloads of this rank's part; false if one is not what it must be. */
static bool gathered(slimCall* call, uint64_t k, slimPiece own, size_t bytes, int flags) {
  slimComm* comm = call->comm;
  bool good = true;
  for (int p = 0; p < comm->ranks; p++) {
    comm->payloads[p] = slimArrived(call, k, p, p);
    const slimStamp stamp = slimStampOf(call->tensor, p, false);
    good = slimExpect(call, comm->payloads[p], &stamp, own, bytes, flags) && good;
  }
  return good;
}

static slimResult_t reduce(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  slimComm* comm = call->comm;
  SLIM_CHECK(slimWait(comm, slimFirstExchange(k)));
  const slimPiece own = slimPartPiece(&t->cut, k, comm->rank);
  const uint64_t at = slimSlicePiece(&t->cut, k).at;
  if (!gathered(call, k, own, slimUpBytes(call, own.n), 0)) return slimSuccess;
  const slimReducePass pass = {.up = &t->compressor->up,
                               .stamp = slimStampOf(t, comm->rank, true),
                               .type = t->type,
                               .n = own.n,
                               .first = own.first,
                               .ranks = comm->ranks,
                               .payloads = comm->payloads,
                               .weight = 1.0 / comm->ranks,
                               .h = slimRealAt(&t->h, t->type, at),
                               .y = slimAtMutable(call->y, t->type, at),
                               .factor = call->factor};
  return slimReducePiece(call, &pass);
}

static slimResult_t reduceDense(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  slimComm* comm = call->comm;
  SLIM_CHECK(slimWait(comm, slimFirstExchange(k)));
  const slimPiece own = slimPartPiece(&t->cut, k, comm->rank);
  const uint64_t at = slimSlicePiece(&t->cut, k).at;
  if (!gathered(call, k, own, slimDenseBytes(call, own.n), slimHeaderDense)) return slimSuccess;
  SLIM_CHECK(slimDenseMean(call, own.n, comm->ranks, comm->payloads, call->reals));
  return slimDenseDeliver(call, call->reals, own.n, slimAtMutable(call->y, t->type, at), slimRealAt(&t->h, t->type, at),
                          NULL);
}

const slimMover slimReduceScatterMover = {lay, {send, reduce}, layDense, {sendDense, reduceDense}};
