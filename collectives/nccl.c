#include "collectives/nccl.h"

#include <sched.h>
#include <stdlib.h>

#include "collectives/comm.h"

typedef struct {
  slimTransport base;
  ncclComm_t comm;
  const slimNccl* nccl;
  bool own;                   /* comm was made by split */
  bool splits, used;          /* in the batch under way: split; anything was called */
  bool begun;                 /* something, in the batch under way */
  unsigned batch;             /* its number */
  unsigned in[slimExchanges]; /* the batch of an exchange */
} endpoint;

static slimResult_t resultOf(const slimNccl* nccl, ncclResult_t code, const char* what) {
  if (code == ncclSuccess || code == ncclInProgress) return slimSuccess; /* departed waits */
  const slimResult_t result = code == ncclRemoteError       ? slimRemoteError
                              : code == ncclInvalidArgument ? slimInvalidArgument
                              : code == ncclInvalidUsage    ? slimInvalidUsage
                                                            : slimSystemError;
  return slimFail(result, "nccl%s: %s", what, nccl->getErrorString(code));
}
#define NCCL(call, name) SLIM_CHECK(resultOf(me->nccl, me->nccl->call, name))

static slimResult_t sendAndReceive(endpoint* me, const slimLane* lanes, cudaStream_t stream) {
  for (int d = 1; d < me->base.ranks; d++) {
    const int to = (me->base.rank + d) % me->base.ranks, from = (me->base.rank + me->base.ranks - d) % me->base.ranks;
    if (lanes[to].sendBytes) NCCL(send(lanes[to].send, lanes[to].sendBytes, ncclInt8, to, me->comm, stream), "Send");
    if (lanes[from].recvBytes)
      NCCL(recv(lanes[from].recv, lanes[from].recvBytes, ncclInt8, from, me->comm, stream), "Recv");
  }
  return slimSuccess;
}

/* Messages of equal size at equal strides: what NCCL has a collective for. All ranks find the same, since sizes of a
 * piece are equal on all of them. sameSent: each rank sends one message to all. */
static bool isRegular(const slimLane* lanes, int ranks, size_t* stride, bool* sameSent) {
  const char *send = lanes[0].send, *recv = lanes[0].recv;
  const size_t bytes = lanes[0].sendBytes;
  *stride = (size_t)((const char*)lanes[1].recv - recv);
  *sameSent = lanes[1].send == send;
  if (!bytes || *stride < bytes || *stride - bytes >= 64) return false;
  for (int p = 0; p < ranks; p++) {
    const size_t at = (size_t)p * *stride;
    if (lanes[p].sendBytes != bytes || lanes[p].recvBytes != bytes) return false;
    if ((const char*)lanes[p].recv != recv + at) return false;
    if ((const char*)lanes[p].send != send + (*sameSent ? 0 : at)) return false;
  }
  return true;
}

/* Inside a batch, which is an NCCL group. The stream keeps exchanges in order. */
static slimResult_t begin(slimTransport* transport, int id, const slimLane* lanes) {
  endpoint* me = (endpoint*)transport;
  slimCopier* copier = me->base.copier;
  const cudaStream_t stream = (cudaStream_t)(copier->apart ? copier->side : copier->stream);
  me->begun = me->used = true;
  me->in[id] = me->batch;
  const slimLane* own = &lanes[me->base.rank];
  size_t stride;
  bool same;
  if (me->base.ranks > 1 && isRegular(lanes, me->base.ranks, &stride, &same) && (same || me->nccl->allToAll)) {
    if (same)
      NCCL(allGather(lanes[0].send, lanes[0].recv, stride, ncclInt8, me->comm, stream), "AllGather");
    else
      NCCL(allToAll(lanes[0].send, lanes[0].recv, stride, ncclInt8, me->comm, stream), "AlltoAll");
    return slimSuccess;
  }
  if (own->sendBytes && own->recvBytes && own->send != own->recv)
    SLIM_CHECK(copier->copy(copier, own->recv, own->send, own->recvBytes));
  return sendAndReceive(me, lanes, stream);
}

static slimResult_t batch(slimTransport* transport, bool open) {
  endpoint* me = (endpoint*)transport;
  if (open) return resultOf(me->nccl, me->nccl->groupStart(), "GroupStart");
  const ncclResult_t code = me->nccl->groupEnd();
  const bool splits = me->splits;
  me->splits = false;
  if (splits && code == ncclInProgress)
    return slimFail(slimInvalidUsage, "a hierarchy wants an ncclComm_t that blocks: use slimHierarchyFlat");
  return resultOf(me->nccl, code, "GroupEnd");
}

static slimResult_t depart(slimTransport* transport) {
  const endpoint* me = (endpoint*)transport;
  slimCopier* copier = me->base.copier;
  return me->begun && copier->apart ? copier->fork(copier) : slimSuccess;
}

static slimResult_t departed(slimTransport* transport) {
  endpoint* me = (endpoint*)transport;
  slimCopier* copier = me->base.copier;
  ncclResult_t state = me->used ? ncclInProgress : ncclSuccess;
  me->used = false;
  while (state == ncclInProgress) { /* a communicator that does not block may still be about to use the stream */
    NCCL(commGetAsyncError(me->comm, &state), "CommGetAsyncError");
    if (state == ncclInProgress) sched_yield();
  }
  SLIM_CHECK(resultOf(me->nccl, state, " calls"));
  if (!me->begun) return slimSuccess;
  me->begun = false;
  return copier->apart ? copier->land(copier, me->batch++) : slimSuccess;
}

/* The caller does not wait: what follows on the stream does. */
static slimResult_t await(slimTransport* transport, int id, double timeout) {
  (void)timeout;
  const endpoint* me = (endpoint*)transport;
  slimCopier* copier = me->base.copier;
  return copier->apart ? copier->join(copier, me->in[id]) : slimSuccess;
}

static slimResult_t plain(slimTransport* transport, int collective, const void* x, void* y, size_t count,
                          slimDataType_t slimType, slimRedOp_t slimOp, int root) {
  endpoint* me = (endpoint*)transport;
  const cudaStream_t stream = (cudaStream_t)me->base.copier->stream;
  const ncclDataType_t type = (ncclDataType_t)slimType;
  const ncclRedOp_t op = (ncclRedOp_t)slimOp;
  me->used = true;
  switch ((slimCollective)collective) {
    case slimCollectiveAllReduce:
      return resultOf(me->nccl, me->nccl->allReduce(x, y, count, type, op, me->comm, stream), "AllReduce");
    case slimCollectiveBroadcast:
      return resultOf(me->nccl, me->nccl->broadcast(x, y, count, type, root, me->comm, stream), "Broadcast");
    case slimCollectiveReduce:
      return resultOf(me->nccl, me->nccl->reduce(x, y, count, type, op, root, me->comm, stream), "Reduce");
    case slimCollectiveReduceScatter:
      return resultOf(me->nccl, me->nccl->reduceScatter(x, y, count, type, op, me->comm, stream), "ReduceScatter");
    case slimCollectiveAllGather:
      return resultOf(me->nccl, me->nccl->allGather(x, y, count, type, me->comm, stream), "AllGather");
  }
  return slimFail(slimInternalError, "collective %d", collective);
}
_Static_assert((int)ncclInt8 == (int)slimInt8 && (int)ncclBfloat16 == (int)slimBfloat16 &&
                   (int)ncclFloat64 == (int)slimFloat64 && (int)ncclAvg == (int)slimAvg && (int)ncclMax == (int)slimMax,
               "types and ops are numbered as NCCL's");

/* Whether the communicator still works is NCCL's to say: ncclCommGetAsyncError. */
static void fail(slimTransport* transport, const char* why) { (void)transport, (void)why; }

static bool alarmed(const slimTransport* transport) {
  const endpoint* me = (const endpoint*)transport;
  ncclResult_t state = ncclSuccess;
  const ncclComm_t comm = __atomic_load_n(&me->comm, __ATOMIC_ACQUIRE);
  return comm && me->nccl->commGetAsyncError(comm, &state) == ncclSuccess && state != ncclSuccess;
}

/* Once: NCCL frees it. */
static void abortComm(slimTransport* transport) {
  endpoint* me = (endpoint*)transport;
  const ncclComm_t comm = __atomic_exchange_n(&me->comm, NULL, __ATOMIC_ACQ_REL);
  if (comm) (void)me->nccl->commAbort(comm);
}

static void destroy(slimTransport* transport) {
  endpoint* me = (endpoint*)transport;
  if (me->own && me->comm) (void)me->nccl->commDestroy(me->comm);
  free(me);
}

static slimResult_t split(slimTransport* transport, int colour, int rank, int ranks, slimTransport** made) {
  endpoint* me = (endpoint*)transport;
  endpoint* child = malloc(sizeof *child);
  if (!child) return slimFail(slimSystemError, "out of memory for a communicator");
  *child = (endpoint){.base = me->base, .nccl = me->nccl, .own = true};
  child->base.rank = rank;
  child->base.ranks = ranks;
  child->base.split = NULL;
  *made = &child->base;
  me->splits = true;
  NCCL(commSplit(me->comm, colour, rank, &child->comm, NULL), "CommSplit");
  return slimSuccess;
}

slimResult_t slimNcclTransport(slimTransport** transport, ncclComm_t comm, const slimNccl* nccl) {
  endpoint* me = calloc(1, sizeof *me);
  if (!me) return slimFail(slimSystemError, "out of memory for a communicator");
  *me = (endpoint){.base = {.neighbours = 1,
                            .begin = begin,
                            .batch = batch,
                            .depart = depart,
                            .departed = departed,
                            .wait = await,
                            .plain = plain,
                            .split = nccl->commSplit ? split : NULL,
                            .alarmed = alarmed,
                            .abort = abortComm,
                            .fail = fail,
                            .destroy = destroy},
                   .comm = comm,
                   .nccl = nccl};
  slimResult_t result = resultOf(nccl, nccl->commCount(comm, &me->base.ranks), "CommCount");
  if (result == slimSuccess) result = resultOf(nccl, nccl->commUserRank(comm, &me->base.rank), "CommUserRank");
  if (result != slimSuccess) {
    free(me);
    return result;
  }
  *transport = &me->base;
  return slimSuccess;
}
