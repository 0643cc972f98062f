/* An installed user's program over MPI: a compressed mean. */
#include <math.h>
#include <mpi.h>
#include <slimccl_mpi.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char** argv) {
  enum { count = 10000 };
  static float x[count];
  slimComm_t comm;
  slimTensor_t tensor;
  slimTensorStats_t stats = {.size = sizeof stats};
  int rank, ranks, failed = 0;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  for (int i = 0; i < count; i++) x[i] = (float)(rank + 1);
  if (slimCommInitMPI(&comm, MPI_COMM_WORLD, NULL) != slimSuccess ||
      slimTensorCreate(&tensor, comm, "ef(qsgd(bits=8))", 0) != slimSuccess ||
      slimAllReduce(x, x, count, slimFloat32, slimAvg, tensor, comm, NULL) != slimSuccess ||
      slimTensorGetStats(tensor, &stats) != slimSuccess) {
    fprintf(stderr, "rank %d: %s\n", rank, slimGetLastError());
    return 1;
  }
  for (int i = 0; i < count; i++) failed |= fabs(x[i] - 0.5 * (ranks + 1)) > 0.02 * ranks;
  /* The words of an error that the transport's library finds come from the same libslimccl. */
  slimComm_t none;
  if (slimCommInitMPI(&none, MPI_COMM_NULL, NULL) != slimInvalidArgument ||
      !strstr(slimGetLastError(), "MPI_COMM_NULL"))
    failed = 1;
  slimCommDestroy(comm);
  MPI_Finalize();
  if (!failed && rank == 0) printf("%d ranks, ratio %.1f\n", ranks, (double)stats.plainBytes / (double)stats.wireBytes);
  return failed;
}
