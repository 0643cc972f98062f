/* A CUDA device under a communicator (device.h): buffers in device memory, work on the caller's stream. */
#ifndef SLIM_COLLECTIVES_CUDA_H_
#define SLIM_COLLECTIVES_CUDA_H_

#include "collectives/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* slimCommCreate for the device of an ordinal: reserves settings->deviceBytes of its memory, and loads all kernels.
 * Takes the transport over, also on error. */
slimResult_t slimCudaCommCreate(slimComm** comm, slimTransport* transport, const slimSettings* settings, int ordinal);
/* Lets the communicators' devices reach each other's memory. */
slimResult_t slimCudaConnect(slimComm* const* comms, int ranks);

#ifdef __cplusplus
}
#endif
#endif
