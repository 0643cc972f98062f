/* SlimCCL over NCCL: the one call of the API that needs an ncclComm_t. libslimccl is not tied to NCCL: it takes the one
 * that the program has loaded. */
#ifndef SLIMCCL_NCCL_H_
#define SLIMCCL_NCCL_H_

#include <nccl.h>

#include "slimccl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A SlimCCL communicator on ncclComm's ranks and this rank's device. Collective: all ranks call it together, from a
 * thread or process each, or from one between slimGroupStart and slimGroupEnd (not inside an NCCL group); it reserves
 * config->deviceBytes of device memory (a quarter of what is free at most; the smallest of the ranks' holds for all),
 * and compares the ranks' settings: slimInvalidUsage names those that differ.
 * config may be NULL. ncclComm stays the caller's, must outlive the handle, and have nothing under way. (It may be one
 * that does not block, unless config->hierarchy splits it: calls then wait until NCCL has enqueued theirs.) Afterwards
 * calls take buffers in device memory and a cudaStream_t, and enqueue only; without a tensor they are NCCL's own. */
SLIM_API slimResult_t slimCommInitNCCL(slimComm_t* comm, ncclComm_t ncclComm, const slimConfig_t* config);

#ifdef __cplusplus
}
#endif
#endif
