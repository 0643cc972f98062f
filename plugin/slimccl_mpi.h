/* SlimCCL over MPI: the one call of the API that needs an MPI_Comm. A library of its own (//plugin:slimccl_mpi), so
 * that libslimccl does not need MPI. */
#ifndef SLIMCCL_MPI_H_
#define SLIMCCL_MPI_H_

#include <mpi.h>

#include "slimccl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One rank a process. Collective over mpiComm, which is duplicated and may be freed afterwards; MPI_Init must have been
 * called. config may be NULL. slimCommDestroy is collective too, and comes before MPI_Finalize. */
SLIM_API slimResult_t slimCommInitMPI(slimComm_t* comm, MPI_Comm mpiComm, const slimConfig_t* config);

#ifdef __cplusplus
}
#endif
#endif
