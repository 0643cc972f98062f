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

/* What a preload library settles besides. */
typedef struct {
  uint64_t rules;  /* must be alike on all ranks: a hash */
  uint64_t number; /* the handle's is the largest that a rank gives */
  bool mirrored;   /* slimTensorGetStats makes no call of CUDA */
} slimPreloadSettings;

/* The same on a CUDA device, by its ordinal; collective: the ranks' settings are compared. preload: NULL for none. */
SLIM_API slimResult_t slimCommInitTransportOn(slimComm_t* comm, slimTransport* transport, int device,
                                              const slimConfig_t* config, const slimPreloadSettings* preload);

#ifdef __cplusplus
}
#endif
#endif
