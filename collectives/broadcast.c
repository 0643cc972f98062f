/* Broadcast: the root encodes whole slices, all decode, the root too. */
#include "collectives/step.h"

enum { depth = 3 }; /* a payload stays from its encoding to its decoding */

static void lay(slimCall* call) {
  const slimTensor* t = call->tensor;
  const uint64_t n = slimSlicePiece(&t->cut, 0).n;
  call->send = slimSendBuffers(call, slimUpBytes(call, n), depth);
  /* The root's s is its h, but encoding moves s on: the decoder wants what it was. */
  const bool keep = slimIsSender(t) && t->compressor->up.feedback.shifts;
  call->recv = slimBuffersOf(keep, n * slimRealBytes(t->type), depth);
}
static void layDense(slimCall* call) {
  call->send = slimBuffersOf(1, slimDenseBytes(call, slimSlicePiece(&call->tensor->cut, 0).n), depth);
}

static size_t upBytes(const slimCall* call, uint64_t k) {
  return slimUpBytes(call, slimSlicePiece(&call->tensor->cut, k).n);
}
static size_t denseBytes(const slimCall* call, uint64_t k) {
  return slimDenseBytes(call, slimSlicePiece(&call->tensor->cut, k).n);
}

static slimResult_t first(slimCall* call, uint64_t k, size_t bytes) {
  slimSpreadFirst(call->comm, call->tensor->root, slimBuffer(&call->send, k, 0), bytes);
  return slimBegin(call->comm, slimFirstExchange(k));
}

static slimResult_t second(slimCall* call, uint64_t k, size_t bytes) {
  SLIM_CHECK(slimWait(call->comm, slimFirstExchange(k)));
  slimSpreadSecond(call->comm, call->tensor->root, slimBuffer(&call->send, k, 0), bytes);
  return slimBegin(call->comm, slimSecondExchange(k));
}

static slimResult_t send(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  if (slimIsSender(t)) {
    const slimPiece p = slimSlicePiece(&t->cut, k);
    if (call->recv.pieces && t->s.data)
      SLIM_CHECK(call->comm->device->copy(call->comm, slimBuffer(&call->recv, k, 0), slimRealAt(&t->s, t->type, p.at),
                                          p.n * slimRealBytes(t->type)));
    SLIM_CHECK(slimEncodeSlice(call, k));
  }
  return first(call, k, upBytes(call, k));
}
static slimResult_t pass(slimCall* call, uint64_t k) { return second(call, k, upBytes(call, k)); }

static slimResult_t receive(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  SLIM_CHECK(slimWait(call->comm, slimSecondExchange(k)));
  const slimPiece p = slimSlicePiece(&t->cut, k);
  const slimDecodePass decode = {
      .direction = &t->compressor->up,
      .stamp = slimStampOf(t, t->root, false),
      .type = t->type,
      .n = p.n,
      .first = p.first,
      .payload = slimBuffer(&call->send, k, 0),
      .h = call->recv.pieces ? slimBuffer(&call->recv, k, 0) : slimRealAt(&t->h, t->type, p.at),
      .y = slimAtMutable(call->y, t->type, p.at),
      .factor = 1};
  return slimDecodePiece(call, &decode);
}

static slimResult_t sendDense(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  if (slimIsSender(t)) {
    const slimPiece p = slimSlicePiece(&t->cut, k);
    const slimStamp stamp = slimStampOf(t, t->root, false);
    SLIM_CHECK(slimDenseWrite(call, slimAt(call->x, t->type, p.at), slimRealAt(&t->s, t->type, p.at), p, &stamp,
                              slimBuffer(&call->send, k, 0)));
  }
  return first(call, k, denseBytes(call, k));
}
static slimResult_t passDense(slimCall* call, uint64_t k) { return second(call, k, denseBytes(call, k)); }

static slimResult_t receiveDense(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  SLIM_CHECK(slimWait(call->comm, slimSecondExchange(k)));
  const slimPiece p = slimSlicePiece(&t->cut, k);
  const uint8_t* payload = slimBuffer(&call->send, k, 0);
  const slimStamp stamp = slimStampOf(t, t->root, false);
  if (!slimExpect(call, payload, &stamp, p, denseBytes(call, k), slimHeaderDense)) return slimSuccess;
  SLIM_CHECK(slimDenseMean(call, p.n, 1, &payload, call->reals));
  return slimDenseDeliver(call, call->reals, p.n, slimAtMutable(call->y, t->type, p.at),
                          slimRealAt(&t->h, t->type, p.at), NULL);
}

const slimMover slimBroadcastMover = {lay, {send, pass, receive}, layDense, {sendDense, passDense, receiveDense}};
