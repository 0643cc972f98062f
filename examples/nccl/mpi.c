/* One process a device, started by mpirun on one machine: MPI hands the identifier round and gathers the reports. */
#include <mpi.h>

#include "process.h"

int main(int argc, char** argv) {
  int rank, ranks;
  ncclUniqueId id;
  Report mine, reports[mostRanks];
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  clientInit(argc, argv, (Client){.name = "mpi", .ranks = ranks, .steps = 3, .count = 20001, .tolerance = 1e-6});
  if (ranks != clientRanks()) return 2;

  if (rank == 0) NCCL(ncclGetUniqueId(&id));
  MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
  mine = runRank(rank, ranks, id);
  MPI_Gather(&mine, sizeof mine, MPI_BYTE, reports, sizeof mine, MPI_BYTE, 0, MPI_COMM_WORLD);
  int failed = rank == 0 && clientSummary(reports, ranks);
  MPI_Bcast(&failed, 1, MPI_INT, 0, MPI_COMM_WORLD);
  MPI_Finalize();
  return failed;
}
