/* Between libslimccl and a transport that is a library of its own (MPI): not part of the public API, may change. */
#ifndef SLIMCCL_TRANSPORT_H_
#define SLIMCCL_TRANSPORT_H_

#include "collectives/transport.h"
#include "plugin/slimccl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Takes the transport over, also on error. */
SLIM_API slimResult_t slimCommInitTransport(slimComm_t* comm, slimTransport* transport, const slimConfig_t* config);

/* The same on a CUDA device, by its ordinal; collective: the ranks' settings are compared. */
SLIM_API slimResult_t slimCommInitTransportOn(slimComm_t* comm, slimTransport* transport, int device,
                                              const slimConfig_t* config);

#ifdef __cplusplus
}
#endif
#endif
