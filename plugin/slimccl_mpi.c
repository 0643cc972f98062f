#include "plugin/slimccl_mpi.h"

#include "collectives/mpi.h"
#include "plugin/slimccl_transport.h"

#include <sched.h>

slimResult_t slimCommInitMPI(slimComm_t* comm, MPI_Comm mpiComm, const slimConfig_t* config) {
  slimTransport* transport;
  SLIM_CHECK(slimMpiTransport(&transport, mpiComm));
  slimConfig_t settings = SLIM_CONFIG_INITIALIZER;
  if (config) settings = *config;
  if (settings.threads == 0) { /* this rank's share of the cores that it may use */
    cpu_set_t cores;
    const int n = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
    settings.threads = n > transport->neighbours ? n / transport->neighbours : 1;
  }
  return slimCommInitTransport(comm, transport, &settings);
}
