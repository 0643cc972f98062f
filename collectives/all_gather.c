/* All-gather: every rank encodes its part, all decode all parts, their own included. */
#include "collectives/step.h"

static void layDense(slimCall* call) {
  const size_t bytes = slimDenseBytes(call, slimSlicePiece(&call->tensor->cut, 0).n);
  call->send = slimBuffersOf(1, bytes, 2);
  call->recv = slimBuffersOf(call->comm->ranks, bytes, 2);
}
static void lay(slimCall* call) {
  const size_t bytes = slimUpBytes(call, slimSlicePiece(&call->tensor->cut, 0).n);
  call->send = slimSendBuffers(call, bytes, 2);
  call->recv = slimBuffersOf(call->comm->ranks, bytes, 2);
}

static slimResult_t exchange(slimCall* call, uint64_t k, size_t bytes) {
  for (int p = 0; p < call->comm->ranks; p++)
    call->comm->lanes[p] = (slimLane){slimBuffer(&call->send, k, 0), bytes, slimBuffer(&call->recv, k, p), bytes};
  return slimBegin(call->comm, slimFirstExchange(k));
}

static slimResult_t send(slimCall* call, uint64_t k) {
  SLIM_CHECK(slimEncodeSlice(call, k));
  return exchange(call, k, slimUpBytes(call, slimSlicePiece(&call->tensor->cut, k).n));
}

static slimResult_t sendDense(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  const slimPiece p = slimSendPiece(t, k, 0);
  const slimStamp stamp = slimStampOf(t, call->comm->rank, false);
  SLIM_CHECK(slimDenseWrite(call, slimAt(call->x, t->type, p.at), slimRealAt(&t->s, t->type, p.at), p, &stamp,
                            slimBuffer(&call->send, k, 0)));
  return exchange(call, k, slimDenseBytes(call, p.n));
}

static const uint8_t* payloadOf(const slimCall* call, uint64_t k, int rank) {
  return rank == call->comm->rank ? slimBuffer(&call->send, k, 0) : slimBuffer(&call->recv, k, rank);
}

static slimResult_t receive(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  SLIM_CHECK(slimWait(call->comm, slimFirstExchange(k)));
  for (int r = 0; r < call->comm->ranks; r++) {
    const slimPiece p = slimPartPiece(&t->cut, k, r);
    const slimDecodePass pass = {.direction = &t->compressor->up,
                                 .stamp = slimStampOf(t, r, false),
                                 .type = t->type,
                                 .n = p.n,
                                 .first = p.first,
                                 .payload = payloadOf(call, k, r),
                                 .h = slimRealAt(&t->h, t->type, p.at),
                                 .y = slimAtMutable(call->y, t->type, p.at),
                                 .factor = 1};
    SLIM_CHECK(slimDecodePiece(call, &pass));
  }
  return slimSuccess;
}

static slimResult_t receiveDense(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  SLIM_CHECK(slimWait(call->comm, slimFirstExchange(k)));
  for (int r = 0; r < call->comm->ranks; r++) {
    const slimPiece p = slimPartPiece(&t->cut, k, r);
    const uint8_t* payload = payloadOf(call, k, r);
    const slimStamp stamp = slimStampOf(t, r, false);
    if (!slimExpect(call, payload, &stamp, p, slimDenseBytes(call, p.n), slimHeaderDense)) continue;
    SLIM_CHECK(slimDenseMean(call, p.n, 1, &payload, call->reals));
    SLIM_CHECK(slimDenseDeliver(call, call->reals, p.n, slimAtMutable(call->y, t->type, p.at),
                                slimRealAt(&t->h, t->type, p.at), NULL));
  }
  return slimSuccess;
}

const slimMover slimAllGatherMover = {lay, {send, receive}, layDense, {sendDense, receiveDense}};
