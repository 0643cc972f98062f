/* Communicators that do not block: calls may return ncclInProgress, and ncclCommGetAsyncError says when they are done.
 */
#include <unistd.h>

#include "client.h"

static void await(ncclComm_t comm) {
  ncclResult_t state = ncclInProgress;
  while (state == ncclInProgress) {
    NCCL(ncclCommGetAsyncError(comm, &state));
    if (state == ncclInProgress) usleep(100);
  }
  NCCL(state);
}
static void awaitAll(const Rank* rank, int ranks, ncclResult_t result) {
  if (result != ncclInProgress) NCCL(result);
  for (int r = 0; r < ranks; r++) await(rank[r].comm);
}

static void sum(Rank* rank, int ranks, float* const* data) {
  if (client.linked) { /* slimGroupEnd waits for NCCL to have enqueued them */
    groupStart();
    for (int r = 0; r < ranks; r++) allReduce(&rank[r], 0, data[r], data[r], client.count, rank[r].stream);
    groupEnd();
    return;
  }
  NCCL(ncclGroupStart());
  for (int r = 0; r < ranks; r++) {
    const ncclResult_t result =
        ncclAllReduce(data[r], data[r], client.count, ncclFloat, ncclSum, rank[r].comm, rank[r].stream);
    if (result != ncclInProgress) NCCL(result);
  }
  awaitAll(rank, ranks, ncclGroupEnd());
}

int main(int argc, char** argv) {
  clientInit(argc, argv, (Client){.name = "nonblocking", .steps = 3, .count = 20001, .tolerance = 1e-6});
  const int ranks = clientRanks();
  Rank rank[mostRanks];
  Report reports[mostRanks];
  float* data[mostRanks];
  ncclUniqueId id;
  NCCL(ncclGetUniqueId(&id));
  NCCL(ncclGroupStart());
  for (int r = 0; r < ranks; r++) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    rank[r] = (Rank){.rank = r, .ranks = ranks};
    CUDA(cudaSetDevice(r));
    CUDA(cudaStreamCreate(&rank[r].stream));
    CUDA(cudaMalloc((void**)&data[r], client.count * sizeof(float)));
    const ncclResult_t result = ncclCommInitRankConfig(&rank[r].comm, ranks, id, r, &config);
    if (result != ncclInProgress) NCCL(result);
  }
  awaitAll(rank, ranks, ncclGroupEnd());
  if (client.linked) groupStart();
  for (int r = 0; r < ranks; r++) linkedOpen(&rank[r]);
  if (client.linked) groupEnd();

  for (int step = 0; step < client.steps; step++) {
    for (int r = 0; r < ranks; r++) {
      CUDA(cudaSetDevice(r));
      fill(&rank[r], data[r], step, 0, client.count, 1, rank[r].stream);
    }
    sum(rank, ranks, data);
    for (int r = 0; r < ranks; r++) {
      CUDA(cudaSetDevice(r));
      compare(&rank[r], data[r], step, 0, client.count, 1, rank[r].stream);
    }
  }

  for (int r = 0; r < ranks; r++) linkedClose(&rank[r]);
  for (int r = 0; r < ranks; r++) {
    const ncclResult_t result = ncclCommFinalize(rank[r].comm);
    if (result != ncclInProgress) NCCL(result);
  }
  for (int r = 0; r < ranks; r++) {
    await(rank[r].comm);
    NCCL(ncclCommDestroy(rank[r].comm));
    CUDA(cudaSetDevice(r));
    CUDA(cudaFree(data[r]));
    CUDA(cudaStreamDestroy(rank[r].stream));
    reports[r] = rank[r].report;
  }
  return clientSummary(reports, ranks);
}
