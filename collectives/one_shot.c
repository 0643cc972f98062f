/* Allreduce and reduce, one-shot: all-gather of whole slices, every rank decodes and adds all of them. No downlink. */
#include "collectives/step.h"

void slimLayGathered(slimCall* call) {
  const slimTensor* t = call->tensor;
  const size_t up = slimUpBytes(call, slimSlicePiece(&t->cut, 0).n);
  call->send = slimSendBuffers(call, up, 2);
  call->recv = slimBuffersOf(slimIsReceiver(t) ? call->comm->ranks : 0, up, 2);
}

static slimResult_t send(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  slimComm* comm = call->comm;
  uint8_t* payload = slimBuffer(&call->send, k, 0);
  SLIM_CHECK(slimEncodeSlice(call, k));
  const size_t bytes = slimUpBytes(call, slimSlicePiece(&t->cut, k).n);
  const bool all = t->collective == slimCollectiveAllReduce, here = slimIsReceiver(t);
  for (int p = 0; p < comm->ranks; p++)
    comm->lanes[p] = (slimLane){payload, all || p == t->root ? bytes : 0, here ? slimBuffer(&call->recv, k, p) : NULL,
                                here ? bytes : 0};
  return slimBegin(comm, slimFirstExchange(k));
}

static slimResult_t reduce(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  slimComm* comm = call->comm;
  SLIM_CHECK(slimWait(comm, slimFirstExchange(k)));
  if (!slimIsReceiver(t)) return slimSuccess;
  const slimPiece s = slimSlicePiece(&t->cut, k);
  bool good = true;
  for (int p = 0; p < comm->ranks; p++) {
    comm->payloads[p] = slimArrived(call, k, p, 0);
    const slimStamp stamp = slimStampOf(t, p, false);
    good = slimExpect(call, comm->payloads[p], &stamp, s, slimUpBytes(call, s.n), 0) && good;
  }
  if (!good) return slimSuccess;
  const slimReducePass pass = {.up = &t->compressor->up,
                               .stamp = slimStampOf(t, comm->rank, true),
                               .type = t->type,
                               .n = s.n,
                               .first = s.first,
                               .ranks = comm->ranks,
                               .payloads = comm->payloads,
                               .weight = 1.0 / comm->ranks,
                               .h = slimRealAt(&t->h, t->type, s.at),
                               .y = slimAtMutable(call->y, t->type, s.at),
                               .factor = call->factor,
                               .lambda = slimCommonAt(t, s)};
  return slimReducePiece(call, &pass);
}

const slimMover slimOneShot = {
    slimLayGathered, {send, reduce}, slimLayDenseSum, {slimDenseSumSend, slimDenseSumReduce, slimDenseSumReceive}};
