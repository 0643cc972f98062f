/* The NCCL transport: exchanges are enqueued on the stream of the call. */
#ifndef SLIM_COLLECTIVES_NCCL_H_
#define SLIM_COLLECTIVES_NCCL_H_

#include <nccl.h>

#include "collectives/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The NCCL functions that the transport calls, so that it is tied to no library: the caller knows which NCCL it means.
 * X(member, function) */
#define SLIM_NCCL_CALLS(X)                      \
  X(groupStart, GroupStart)                     \
  X(groupEnd, GroupEnd)                         \
  X(send, Send)                                 \
  X(recv, Recv)                                 \
  X(allReduce, AllReduce)                       \
  X(broadcast, Broadcast)                       \
  X(reduce, Reduce)                             \
  X(reduceScatter, ReduceScatter)               \
  X(allGather, AllGather)                       \
  X(commCount, CommCount)                       \
  X(redOpCreatePreMulSum, RedOpCreatePreMulSum) \
  X(redOpDestroy, RedOpDestroy)                 \
  X(commUserRank, CommUserRank)                 \
  X(commCuDevice, CommCuDevice)                 \
  X(commDestroy, CommDestroy)                   \
  X(commAbort, CommAbort)                       \
  X(commGetAsyncError, CommGetAsyncError)       \
  X(getErrorString, GetErrorString)
/* Those that older NCCL does not have: may be NULL. */
#define SLIM_NCCL_NEWER_CALLS(X) X(allToAll, AlltoAll) X(commSplit, CommSplit)
typedef struct {
#define SLIM_MEMBER_(member, function) __typeof__(&nccl##function) member;
  SLIM_NCCL_CALLS(SLIM_MEMBER_)
#undef SLIM_MEMBER_
  ncclResult_t (*allToAll)(const void* sendbuff, void* recvbuff, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream); /* NCCL 2.28 */
  ncclResult_t (*commSplit)(ncclComm_t comm, int colour, int key, ncclComm_t* made, ncclConfig_t* config); /* 2.18 */
} slimNccl;

/* nccl must stay; comm is not taken over, and must outlive the transport. */
slimResult_t slimNcclTransport(slimTransport** transport, ncclComm_t comm, const slimNccl* nccl);

#ifdef __cplusplus
}
#endif
#endif
