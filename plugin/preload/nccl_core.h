/* Between libslimccl_nccl.so, the shim that stands before NCCL's functions (libc and libdl only), and the core in
 * libslimccl.so, which it opens at the first communicator. The shim sees the program's calls and hands them on; the
 * core decides which ones it takes. Both may be called by any number of threads. */
#ifndef SLIM_NCCL_CORE_H_
#define SLIM_NCCL_CORE_H_

#include <stdbool.h>
#include <stddef.h>

#include "collectives/nccl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A communicator that NCCL made. */
typedef struct {
  ncclComm_t comm;
  const char* name; /* ncclConfig_t.commName; "" */
  bool blocking;
  bool all; /* ncclCommInitAll: one process drives all ranks */
} slimNcclMade;

typedef enum {
  slimNcclAllReduce,
  slimNcclReduceScatter,
  slimNcclAllGather,
  slimNcclBroadcast,
  slimNcclReduce
} slimNcclCollective;

/* As the program made it; root: of broadcast and reduce; op: of the others' no meaning. */
typedef struct {
  slimNcclCollective collective;
  const void* send;
  void* recv;
  size_t count;
  ncclDataType_t type;
  ncclRedOp_t op;
  int root;
  ncclComm_t comm;
  cudaStream_t stream;
} slimNcclCall;

typedef struct {
  size_t size; /* of this struct */
  /* Outside of any group, after NCCL has made n communicators in one call, or in one group: all ranks of each take
   * part.
   */
  void (*made)(const slimNcclMade* made, int n);
  /* NCCL is about to end all that is under way on comm, which will work no more; gone may follow. */
  void (*aborted)(ncclComm_t comm);
  /* NCCL is about to destroy or abort comm. */
  void (*gone)(ncclComm_t comm);
  /* true: the core has taken the call, and *result is the program's; inside a group it runs at groupEnd. false: NCCL's.
   */
  bool (*call)(const slimNcclCall* call, bool inGroup, ncclResult_t* result);
  /* This thread's outermost ncclGroupEnd, to which NCCL answered ended: runs the calls taken in the group, or drops
   * them if ended is an error. What the program gets. */
  ncclResult_t (*groupEnd)(ncclResult_t ended);
  /* NCCL has answered *error for comm: adds what the core knows. */
  void (*asyncError)(ncclComm_t comm, ncclResult_t* error);
  void (*opMade)(ncclRedOp_t op, const void* scalar, ncclDataType_t type, ncclScalarResidence_t residence,
                 ncclComm_t comm);
  void (*opGone)(ncclRedOp_t op, ncclComm_t comm);
  void (*markStep)(void);
} slimNcclCore;

/* libslimccl.so's only entry for the shim: the core, or NULL where it cannot work (it has said why): all calls are then
 * NCCL's. nccl: the running NCCL's functions (which must not lead back into the shim); stays. Thread-safe, idempotent.
 */
#define SLIM_NCCL_CORE_ENTRY "slimNcclCoreOpen"
typedef const slimNcclCore* slimNcclCoreOpener(const slimNccl* nccl, const char* ncclPath, int ncclVersion);

#ifdef __cplusplus
}
#endif
#endif
