/* The MPI transport. */
#ifndef SLIM_MPI_H_
#define SLIM_MPI_H_

#include <mpi.h>

#include "collectives/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Collective over comm, which is duplicated. */
slimResult_t slimMpiTransport(slimTransport** transport, MPI_Comm comm);

#ifdef __cplusplus
}
#endif
#endif
