/* Uncompressed collectives of all element types and ops: reduce-scatter and all-gather over the transport, in rank
 * order, so that results have the same bits on all ranks and over all transports. */
#ifndef SLIM_PLAIN_H_
#define SLIM_PLAIN_H_

#include "collectives/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* count: as in the call of plugin/slimccl.h. root: of broadcast and reduce, else −1. */
slimResult_t slimPlain(slimComm* comm, slimCollective collective, const void* x, void* y, uint64_t count,
                       slimDataType_t type, slimRedOp_t op, int root);

#ifdef __cplusplus
}
#endif
#endif
