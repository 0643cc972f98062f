/* What programs do that only show how NCCL is called, or time it: sum buffers that nobody has written, buffers whose
 * bytes are all 1, floats of 2.4e-38, and managed memory, which the host fills and looks at. */
#include <math.h>
#include <string.h>

#include "examples/nccl/client.h"

static void body(Rank* r) {
  const size_t bytes = client.count * sizeof(float);
  float *send, *recv, one, *sums = malloc(bytes);
  memset(&one, 1, sizeof one);
  if (!sums) exit(1);
  CUDA(cudaMalloc((void**)&send, bytes));
  CUDA(cudaMalloc((void**)&recv, bytes));
  allReduce(r, 0, send, recv, client.count, r->stream);
  CUDA(cudaStreamSynchronize(r->stream));

  CUDA(cudaMemsetAsync(send, 1, bytes, r->stream));
  CUDA(cudaMemsetAsync(recv, 0, bytes, r->stream));
  allReduce(r, 1, send, recv, client.count, r->stream);
  CUDA(cudaMemcpyAsync(sums, recv, bytes, cudaMemcpyDeviceToHost, r->stream));
  CUDA(cudaStreamSynchronize(r->stream));
  for (size_t i = 0; i < client.count; i++) addError(r, fabs((double)sums[i] / one / r->ranks - 1));
  addToChecksum(r, sums, client.count);

  float* managed;
  CUDA(cudaMallocManaged((void**)&managed, bytes, cudaMemAttachGlobal));
  for (size_t i = 0; i < client.count; i++) managed[i] = valueOf(r->rank, 0, i);
  allReduce(r, 2, managed, managed, client.count, r->stream);
  CUDA(cudaStreamSynchronize(r->stream));
  for (size_t i = 0; i < client.count; i++) addError(r, fabs((double)managed[i] - sumOf(r->ranks, 0, i)) / r->ranks);
  addToChecksum(r, managed, client.count);
  CUDA(cudaFree(managed));
  CUDA(cudaFree(send));
  CUDA(cudaFree(recv));
  free(sums);
}

int main(int argc, char** argv) {
  clientInit(argc, argv, (Client){.name = "sloppy", .steps = 1, .count = 20001, .tolerance = 1e-6});
  return clientThreads(body);
}
