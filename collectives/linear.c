/* Allreduce and reduce, linear: payloads whose values are plain floats are added on the way, as reduce-scatter and
 * all-gather of the values, in rank order, so that all ranks have the same bits. Headers and flags cannot be added:
 * every receiver gets them from every rank. No downlink. */
#include "collectives/step.h"

#include "collectives/sum.h"

#include <string.h>

/* Where the values lie in a payload of n elements. */
static size_t valuesAt(const slimCall* call, uint64_t n) {
  return slimPayloadValuesAt(call->tensor->compressor->up.tree, call->tensor->type, n);
}

/* Rank's share of the values, in bytes from the payload's start. */
typedef struct {
  size_t at, bytes;
} share;

static share shareOf(const slimCall* call, uint64_t n, int rank) {
  const size_t from = valuesAt(call, n), bytes = slimUpBytes(call, n) - from;
  const size_t each = slimAlign64(bytes / (size_t)call->comm->ranks + 1), at = each * (size_t)rank;
  if (at >= bytes) return (share){from + bytes, 0};
  return (share){from + at, bytes - at < each ? bytes - at : each};
}

/* recv holds each rank's share for this one, and behind it that rank's header and flags. down: the sum, and the flags
 * of all. */
static void lay(slimCall* call) {
  const slimTensor* t = call->tensor;
  const uint64_t n = slimSlicePiece(&t->cut, 0).n;
  const size_t bytes = slimUpBytes(call, n);
  call->send = slimSendBuffers(call, bytes, 2);
  call->recv = slimBuffersOf(call->comm->ranks, slimAlign64(shareOf(call, n, 0).bytes) + valuesAt(call, n), 2);
  call->down = slimBuffersOf(2, bytes, 2);
}

static uint8_t* recvFlags(const slimCall* call, uint64_t k, int rank, uint64_t n) {
  return slimBuffer(&call->recv, k, rank) + slimAlign64(shareOf(call, n, 0).bytes);
}

static bool hears(const slimTensor* t, int rank) { return t->collective == slimCollectiveAllReduce || rank == t->root; }

static slimResult_t send(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  slimComm* comm = call->comm;
  uint8_t* payload = slimBuffer(&call->send, k, 0);
  SLIM_CHECK(slimEncodeSlice(call, k));
  const uint64_t n = slimSlicePiece(&t->cut, k).n;
  const share own = shareOf(call, n, comm->rank);
  for (int p = 0; p < comm->ranks; p++) {
    const share theirs = shareOf(call, n, p);
    comm->lanes[p] = (slimLane){payload + theirs.at, theirs.bytes, slimBuffer(&call->recv, k, p), own.bytes};
  }
  SLIM_CHECK(slimBegin(comm, slimFirstExchange(k)));
  const size_t head = valuesAt(call, n);
  for (int p = 0; p < comm->ranks; p++)
    comm->lanes[p] =
        (slimLane){payload, hears(t, p) ? head : 0, recvFlags(call, k, p, n), hears(t, comm->rank) ? head : 0};
  return slimBegin(comm, slimFlagExchange(k));
}

/* Headers and flags of all ranks: a sum payload without flags, and one of zeros that holds the flags. */
static void mergeFlags(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  const slimPiece s = slimSlicePiece(&t->cut, k);
  const size_t head = valuesAt(call, s.n);
  uint8_t *sum = slimBuffer(&call->down, k, 0), *flags = slimBuffer(&call->down, k, 1);
  memcpy(sum, slimBuffer(&call->send, k, 0), sizeof(slimHeader));
  memset(sum + sizeof(slimHeader), 0, head - sizeof(slimHeader));
  memcpy(flags, sum, head);
  for (int p = 0; p < call->comm->ranks; p++) {
    const uint8_t* theirs = p == call->comm->rank ? slimBuffer(&call->send, k, 0) : recvFlags(call, k, p, s.n);
    const slimStamp stamp = slimStampOf(t, p, false);
    slimExpect(call, theirs, &stamp, s, slimUpBytes(call, s.n), 0);
    for (size_t i = sizeof(slimHeader); i < head; i++) flags[i] |= theirs[i];
  }
}

static slimResult_t add(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  slimComm* comm = call->comm;
  SLIM_CHECK(slimWait(comm, slimFirstExchange(k)));
  SLIM_CHECK(slimWait(comm, slimFlagExchange(k)));
  const uint64_t n = slimSlicePiece(&t->cut, k).n;
  const share own = shareOf(call, n, comm->rank);
  for (int p = 0; p < comm->ranks; p++)
    comm->payloads[p] = p == comm->rank ? slimBuffer(&call->send, k, 0) + own.at : slimBuffer(&call->recv, k, p);
  uint8_t* sum = slimBuffer(&call->down, k, 0);
  const double start = slimSeconds();
  slimSumFloats((const float* const*)(const void*)comm->payloads, comm->ranks, own.bytes / sizeof(float),
                (float*)(void*)(sum + own.at));
  call->tensor->reduceSeconds += slimSeconds() - start;
  if (hears(t, comm->rank)) mergeFlags(call, k);
  for (int p = 0; p < comm->ranks; p++) {
    const share theirs = shareOf(call, n, p);
    comm->lanes[p] =
        (slimLane){sum + own.at, hears(t, p) ? own.bytes : 0, sum + theirs.at, hears(t, comm->rank) ? theirs.bytes : 0};
  }
  return slimBegin(comm, slimSecondExchange(k));
}

/* A unit that any rank flagged gives NaN, but the finite contributions of the others count in h: so the sum stays
 * unflagged, and the payload of zeros brings the flags. */
static slimResult_t receive(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  slimComm* comm = call->comm;
  SLIM_CHECK(slimWait(comm, slimSecondExchange(k)));
  if (!hears(t, comm->rank) || call->wrong) return slimSuccess;
  const slimPiece s = slimSlicePiece(&t->cut, k);
  const size_t bytes = slimUpBytes(call, s.n), head = valuesAt(call, s.n);
  uint8_t *sum = slimBuffer(&call->down, k, 0), *flags = slimBuffer(&call->down, k, 1);
  bool flagged = false;
  for (size_t i = sizeof(slimHeader); i < head; i++) flagged = flagged || flags[i];
  if (flagged) memset(flags + head, 0, bytes - head);
  const uint8_t* const payloads[] = {sum, flags};
  const slimReducePass pass = {.up = &t->compressor->up,
                               .stamp = slimStampOf(t, comm->rank, true),
                               .type = t->type,
                               .n = s.n,
                               .first = s.first,
                               .ranks = flagged ? 2 : 1,
                               .payloads = payloads,
                               .weight = 1.0 / comm->ranks,
                               .h = slimRealAt(&t->h, t->type, s.at),
                               .y = slimAtMutable(call->y, t->type, s.at),
                               .factor = call->factor};
  return slimReducePiece(call, &pass);
}

const slimMover slimLinear = {
    lay, {send, add, receive}, slimLayDenseSum, {slimDenseSumSend, slimDenseSumReduce, slimDenseSumReceive}};

/* ---- On devices -------------------------------------------------------------------------------------------------- */

/* The transport adds the values, in an order of its own. recv: a payload of every rank, as reduce knows it, with that
 * rank's header and flags; but the values of all stand in the first one, and zeros in the others. */
static slimResult_t sendSummed(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  slimComm* comm = call->comm;
  uint8_t* payload = slimBuffer(&call->send, k, 0);
  SLIM_CHECK(slimEncodeSlice(call, k));
  const uint64_t n = slimSlicePiece(&t->cut, k).n;
  const size_t head = valuesAt(call, n), bytes = slimUpBytes(call, n) - head;
  const bool here = slimIsReceiver(t);
  uint8_t* sum = here ? slimBuffer(&call->recv, k, 0) + head : NULL;
  if (here) SLIM_CHECK(comm->device->clear(comm, sum, call->recv.stride * (size_t)comm->ranks - head));
  for (int p = 0; p < comm->ranks; p++)
    comm->lanes[p] =
        (slimLane){payload, hears(t, p) ? head : 0, here ? slimBuffer(&call->recv, k, p) : NULL, here ? head : 0};
  SLIM_CHECK(slimBegin(comm, slimFlagExchange(k)));
  comm->sentBytes += (hears(t, -1) ? 2 : 1) * (size_t)(comm->ranks - 1) * bytes / (size_t)comm->ranks;
  return comm->transport->plain(comm->transport, (int)t->collective, payload + head, sum, bytes / sizeof(float),
                                slimFloat32, slimSum, t->root);
}

static slimResult_t decodeSummed(slimCall* call, uint64_t k) {
  const slimTensor* t = call->tensor;
  slimComm* comm = call->comm;
  SLIM_CHECK(slimWait(comm, slimFlagExchange(k)));
  if (!slimIsReceiver(t)) return slimSuccess;
  const slimPiece s = slimSlicePiece(&t->cut, k);
  for (int p = 0; p < comm->ranks; p++) comm->payloads[p] = slimBuffer(&call->recv, k, p);
  const slimReducePass pass = {.up = &call->up,
                               .stamp = slimStampOf(t, comm->rank, true),
                               .type = t->type,
                               .n = s.n,
                               .first = s.first,
                               .ranks = comm->ranks,
                               .payloads = comm->payloads,
                               .weight = 1.0 / comm->ranks,
                               .y = slimAtMutable(call->y, t->type, s.at),
                               .factor = call->factor};
  return slimReducePiece(call, &pass);
}

const slimMover slimLinearByTransport = {slimLayGathered,
                                         {sendSummed, decodeSummed},
                                         slimLayDenseSum,
                                         {slimDenseSumSend, slimDenseSumReduce, slimDenseSumReceive}};
