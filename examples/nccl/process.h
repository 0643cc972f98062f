/* What a process with one rank does, however it was started. */
#ifndef SLIMCCL_EXAMPLES_NCCL_PROCESS_H_
#define SLIMCCL_EXAMPLES_NCCL_PROCESS_H_

#include "client.h"

static inline Report runRank(int rank, int ranks, ncclUniqueId id) {
  Rank r = {.rank = rank, .ranks = ranks};
  float* data;
  CUDA(cudaSetDevice(rank));
  CUDA(cudaStreamCreate(&r.stream));
  CUDA(cudaMalloc((void**)&data, client.count * sizeof(float)));
  NCCL(ncclCommInitRank(&r.comm, ranks, id, rank));
  linkedOpen(&r);
  for (int step = 0; step < client.steps; step++) {
    fill(&r, data, step, 0, client.count, 1, r.stream);
    allReduce(&r, 0, data, data, client.count, r.stream);
    compare(&r, data, step, 0, client.count, 1, r.stream);
  }
  linkedClose(&r);
  NCCL(ncclCommFinalize(r.comm));
  NCCL(ncclCommDestroy(r.comm));
  CUDA(cudaFree(data));
  CUDA(cudaStreamDestroy(r.stream));
  return r.report;
}

#endif
