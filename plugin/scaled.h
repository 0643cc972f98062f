/* Premultiplied sums, which NCCL has and the public API has not. */
#ifndef SLIM_SCALED_H_
#define SLIM_SCALED_H_

#include "collectives/step.h"
#include "plugin/slimccl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A collective of NCCL's communicators whose x is multiplied by scalar first. root: −1 for none. */
slimResult_t slimCollectiveScaled(slimCollective collective, const void* sendbuff, void* recvbuff, size_t count,
                                  slimDataType_t type, slimRedOp_t op, int root, slimScalar scalar, slimTensor_t tensor,
                                  slimComm_t comm, slimStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
