/* One process with a thread for each device: no groups, every thread calls for its own rank. */
#include "client.h"

static void body(Rank* r) {
  float *send, *recv;
  CUDA(cudaMalloc((void**)&send, client.count * sizeof(float)));
  CUDA(cudaMalloc((void**)&recv, client.count * sizeof(float)));
  for (int step = 0; step < client.steps; step++) {
    fill(r, send, step, 0, client.count, 1, r->stream);
    allReduce(r, 0, send, recv, client.count, r->stream);
    compare(r, recv, step, 0, client.count, 1, r->stream);
  }
  CUDA(cudaFree(send));
  CUDA(cudaFree(recv));
}

int main(int argc, char** argv) {
  clientInit(argc, argv, (Client){.name = "threads", .steps = 3, .count = 20001, .tolerance = 1e-6});
  return clientThreads(body);
}
