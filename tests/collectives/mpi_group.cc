#include <gtest/gtest.h>
#include <mpi.h>

#include "plugin/slimccl_mpi.h"
#include "tests/collectives/group.h"

namespace slim_test {

bool overMpi() { return true; }

std::vector<int> rankCounts() {
  int ranks = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  return {ranks};
}

void forEachRank(int ranks, const slimConfig_t& config, const Body& body) {
  ASSERT_EQ(ranks, rankCounts()[0]);
  slimComm_t comm;
  ASSERT_EQ(slimCommInitMPI(&comm, MPI_COMM_WORLD, &config), slimSuccess) << slimGetLastError();
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  body(rank, comm);
  slimCommDestroy(comm);
}

}  // namespace slim_test

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  testing::InitGoogleTest(&argc, argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank)
    delete testing::UnitTest::GetInstance()->listeners().Release(
        testing::UnitTest::GetInstance()->listeners().default_result_printer());
  int failed = RUN_ALL_TESTS();
  if (rank && failed) fprintf(stderr, "rank %d: tests failed\n", rank);
  int any = 0;
  MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return any;
}
