/* One process, one thread, all devices: ncclCommInitAll, and every step's calls in a group. */
#include "client.h"

int main(int argc, char** argv) {
  clientInit(argc, argv, (Client){.name = "one_process", .steps = 3, .count = 20001, .tolerance = 1e-6});
  const int ranks = clientRanks();
  Rank rank[mostRanks];
  Report reports[mostRanks];
  ncclComm_t comms[mostRanks];
  float *send[mostRanks], *recv[mostRanks];

  NCCL(ncclCommInitAll(comms, ranks, NULL));
  for (int r = 0; r < ranks; r++) {
    rank[r] = (Rank){.rank = r, .ranks = ranks, .comm = comms[r]};
    CUDA(cudaSetDevice(r));
    CUDA(cudaStreamCreate(&rank[r].stream));
    CUDA(cudaMalloc((void**)&send[r], client.count * sizeof(float)));
    CUDA(cudaMalloc((void**)&recv[r], client.count * sizeof(float)));
  }
  groupStart();
  for (int r = 0; r < ranks; r++) linkedOpen(&rank[r]);
  groupEnd();

  for (int step = 0; step < client.steps; step++) {
    for (int r = 0; r < ranks; r++) {
      CUDA(cudaSetDevice(r));
      fill(&rank[r], send[r], step, 0, client.count, 1, rank[r].stream);
    }
    groupStart();
    for (int r = 0; r < ranks; r++) allReduce(&rank[r], 0, send[r], recv[r], client.count, rank[r].stream);
    groupEnd();
    for (int r = 0; r < ranks; r++) {
      CUDA(cudaSetDevice(r));
      compare(&rank[r], recv[r], step, 0, client.count, 1, rank[r].stream);
    }
  }

  for (int r = 0; r < ranks; r++) {
    CUDA(cudaSetDevice(r));
    linkedClose(&rank[r]);
    CUDA(cudaFree(send[r]));
    CUDA(cudaFree(recv[r]));
    CUDA(cudaStreamDestroy(rank[r].stream));
    NCCL(ncclCommDestroy(comms[r]));
    reports[r] = rank[r].report;
  }
  return clientSummary(reports, ranks);
}
