// A libnccl.so.2 that computes nothing and says which of its functions were entered: weak ncclX and strong pncclX of
// the same address, calls from inside by the exported name, groups whose communicators exist only after the end. With
// OLD: NCCL before 2.16, without pncclX and newer functions.
#include <nccl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef OLD
#define API(name, ...) ncclResult_t name(__VA_ARGS__)
#define VERSION 21500
#else
#define API(name, ...)                                                    \
  ncclResult_t name(__VA_ARGS__) __attribute__((weak, alias("p" #name))); \
  ncclResult_t p##name(__VA_ARGS__)
#define VERSION NCCL_VERSION_CODE
#endif
#define NOTE(...) dprintf(1, "nccl " __VA_ARGS__)

struct ncclComm {
  int ranks, rank;
  bool blocking;
  atomic_bool aborted;
};

static __thread struct {
  int depth;
  ncclComm_t* out[16];
  ncclComm_t comm[16];
  int n;
  bool nonblocking;
} group;

static ncclResult_t make(ncclComm_t* out, int ranks, int rank, bool blocking) {
  ncclComm_t comm = calloc(1, sizeof *comm);
  comm->ranks = ranks;
  comm->rank = rank;
  comm->blocking = blocking;
  *out = NULL;
  if (group.depth) {
    group.out[group.n] = out;
    group.comm[group.n++] = comm;
    group.nonblocking |= !blocking;
    return ncclSuccess;
  }
  *out = comm;
  return blocking ? ncclSuccess : ncclInProgress;
}

static bool isBlocking(const ncclConfig_t* config) { return !config || config->blocking != 0; }

API(ncclGetVersion, int* version) {
  *version = VERSION;
  return ncclSuccess;
}
API(ncclGetUniqueId, ncclUniqueId* id) {
  memset(id, 0, sizeof *id);
  return ncclSuccess;
}
#ifndef OLD
const char* pncclGetErrorString(ncclResult_t result);
const char* ncclGetErrorString(ncclResult_t result) __attribute__((weak, alias("pncclGetErrorString")));
const char* pncclGetErrorString(ncclResult_t result) { return result == ncclSuccess ? "no error" : "an error"; }
#else
const char* ncclGetErrorString(ncclResult_t result) { return result == ncclSuccess ? "no error" : "an error"; }
#endif

API(ncclGroupStart) {
  group.depth++;
  return ncclSuccess;
}
static ncclResult_t end(void) {
  if (!group.depth) return ncclInvalidUsage;
  if (--group.depth) return ncclSuccess;
  for (int i = 0; i < group.n; i++) *group.out[i] = group.comm[i];
  const bool nonblocking = group.nonblocking;
  memset(&group, 0, sizeof group);
  return nonblocking ? ncclInProgress : ncclSuccess;
}
API(ncclGroupEnd) { return end(); }

API(ncclCommInitRank, ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
  (void)id;
  NOTE("CommInitRank %d\n", rank);
  return rank < ranks ? make(comm, ranks, rank, true) : ncclInvalidArgument;
}
API(ncclCommInitAll, ncclComm_t* comms, int n, const int* devices) {
  (void)devices;
  ncclUniqueId id;
  NOTE("CommInitAll %d\n", n);
  ncclGetUniqueId(&id);
  ncclGroupStart();
  for (int i = 0; i < n; i++) ncclCommInitRank(&comms[i], n, id, i);
  return ncclGroupEnd();
}
API(ncclCommSplit, ncclComm_t comm, int color, int key, ncclComm_t* out, ncclConfig_t* config) {
  NOTE("CommSplit %d\n", color);
  if (color != NCCL_SPLIT_NOCOLOR) return make(out, comm->ranks, key, config ? isBlocking(config) : comm->blocking);
  *out = NULL;
  return ncclSuccess;
}
API(ncclCommInitRankConfig, ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  (void)id;
  NOTE("CommInitRankConfig %d\n", rank);
  return make(comm, ranks, rank, isBlocking(config));
}
#ifndef OLD
API(ncclCommInitRankScalable, ncclComm_t* comm, int ranks, int rank, int n, ncclUniqueId* ids, ncclConfig_t* config) {
  (void)n, (void)ids;
  NOTE("CommInitRankScalable %d\n", rank);
  return make(comm, ranks, rank, isBlocking(config));
}
API(ncclCommShrink, ncclComm_t comm, int* excluded, int n, ncclComm_t* out, ncclConfig_t* config, int flags) {
  (void)excluded, (void)flags;
  NOTE("CommShrink %d\n", n);
  return make(out, comm->ranks - n, comm->rank, config ? isBlocking(config) : comm->blocking);
}
API(ncclGroupSimulateEnd, ncclSimInfo_t* info) {
  NOTE("GroupSimulateEnd %d\n", group.depth);
  info->estimatedTime = 1;
  return end();
}
API(ncclBrandNew, int value) {
  NOTE("BrandNew %d\n", value);
  return ncclSuccess;
}
#endif
API(ncclCommDestroy, ncclComm_t comm) {
  NOTE("CommDestroy\n");
  free(comm);
  return ncclSuccess;
}
API(ncclCommAbort, ncclComm_t comm) {
  NOTE("CommAbort\n");
  comm->aborted = true;
  return ncclSuccess;
}
API(ncclCommRevoke, ncclComm_t comm, int flags) {
  NOTE("CommRevoke %d\n", flags);
  comm->aborted = true;
  return ncclSuccess;
}
API(ncclCommGetAsyncError, ncclComm_t comm, ncclResult_t* error) {
  if (!comm || !error) return ncclInvalidArgument;
  *error = comm->aborted ? ncclSystemError : ncclSuccess;
  return ncclSuccess;
}
API(ncclCommCount, const ncclComm_t comm, int* count) {
  *count = comm->ranks;
  return ncclSuccess;
}
API(ncclCommUserRank, const ncclComm_t comm, int* rank) {
  *rank = comm->rank;
  return ncclSuccess;
}
API(ncclCommCuDevice, const ncclComm_t comm, int* device) {
  *device = comm->rank;
  return ncclSuccess;
}
API(ncclRedOpCreatePreMulSum, ncclRedOp_t* op, void* scalar, ncclDataType_t type, ncclScalarResidence_t residence,
    ncclComm_t comm) {
  (void)scalar, (void)type, (void)residence, (void)comm;
  *op = ncclNumOps + 1;
  return ncclSuccess;
}
API(ncclRedOpDestroy, ncclRedOp_t op, ncclComm_t comm) {
  (void)comm;
  NOTE("RedOpDestroy %d\n", (int)op);
  return ncclSuccess;
}

// 77: hangs until the communicator is aborted.
API(ncclAllReduce, const void* send, void* recv, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
    cudaStream_t stream) {
  (void)send, (void)recv, (void)type, (void)op, (void)stream;
  NOTE("AllReduce %zu\n", count);
  if (!comm) return ncclInvalidArgument;
  while (count == 77 && !comm->aborted) usleep(100);
  ncclResult_t error;
  ncclCommGetAsyncError(comm, &error);
  return error;
}
API(ncclBroadcast, const void* send, void* recv, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
    cudaStream_t stream) {
  (void)send, (void)recv, (void)type, (void)root, (void)comm, (void)stream;
  NOTE("Broadcast %zu\n", count);
  return ncclSuccess;
}
API(ncclBcast, void* buffer, size_t count, ncclDataType_t type, int root, ncclComm_t comm, cudaStream_t stream) {
  NOTE("Bcast %zu\n", count);
  return ncclBroadcast(buffer, buffer, count, type, root, comm, stream);
}
API(ncclReduce, const void* send, void* recv, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
    ncclComm_t comm, cudaStream_t stream) {
  (void)send, (void)recv, (void)type, (void)op, (void)root, (void)comm, (void)stream;
  NOTE("Reduce %zu\n", count);
  return ncclSuccess;
}
API(ncclAllGather, const void* send, void* recv, size_t count, ncclDataType_t type, ncclComm_t comm,
    cudaStream_t stream) {
  (void)send, (void)recv, (void)type, (void)comm, (void)stream;
  NOTE("AllGather %zu\n", count);
  return ncclSuccess;
}
API(ncclReduceScatter, const void* send, void* recv, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
    cudaStream_t stream) {
  (void)send, (void)recv, (void)type, (void)op, (void)comm, (void)stream;
  NOTE("ReduceScatter %zu\n", count);
  return ncclSuccess;
}
API(ncclSend, const void* send, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  (void)send, (void)type, (void)peer, (void)comm, (void)stream;
  NOTE("Send %zu\n", count);
  return ncclSuccess;
}
API(ncclRecv, void* recv, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  (void)recv, (void)type, (void)peer, (void)comm, (void)stream;
  NOTE("Recv %zu\n", count);
  return ncclSuccess;
}
