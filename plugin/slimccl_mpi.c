#include "plugin/slimccl_mpi.h"

#include "collectives/mpi.h"
#include "plugin/slimccl_transport.h"

slimResult_t slimCommInitMPI(slimComm_t* comm, MPI_Comm mpiComm, const slimConfig_t* config) {
  slimTransport* transport;
  SLIM_CHECK(slimMpiTransport(&transport, mpiComm));
  return slimCommInitTransport(comm, transport, config);
}
