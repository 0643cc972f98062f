#include <pthread.h>
#include <stdio.h>
#include "slimccl.h"

enum { ranks = 4, count = 1 << 20 };

static void* rankMain(void* argument) { /* each rank: its gradient in, everyone's mean out */
  slimComm_t comm = argument;
  slimTensor_t tensor; /* remembers the compression error for the next step */
  slimTensorStats_t stats = {.size = sizeof stats};
  static float gradients[ranks][count];
  int rank;
  slimCommUserRank(comm, &rank);
  float* gradient = gradients[rank];
  for (int i = 0; i < count; i++) gradient[i] = (float)(rank + 1) * (float)(i % 100 - 50);

  if (slimTensorCreate(&tensor, comm, "ef(qsgd(bits=4))", 0) != slimSuccess ||
      slimAllReduce(gradient, gradient, count, slimFloat32, slimAvg, tensor, comm, NULL) != slimSuccess ||
      slimTensorGetStats(tensor, &stats) != slimSuccess)
    return fprintf(stderr, "rank %d: %s\n", rank, slimGetLastError()), NULL;
  printf("rank %d: mean[7] = %.2f (exactly %.2f), relative error %.3f, %.1f times fewer bytes\n", rank, gradient[7],
         -43 * 2.5, stats.relativeError, (double)stats.plainBytes / (double)stats.wireBytes);
  return NULL;
}

int main(void) {
  slimComm_t comms[ranks];
  pthread_t threads[ranks];
  if (slimCommInitLocal(comms, ranks, NULL) != slimSuccess) return 1;
  for (int r = 0; r < ranks; r++) pthread_create(&threads[r], NULL, rankMain, comms[r]);
  for (int r = 0; r < ranks; r++) pthread_join(threads[r], NULL);
  for (int r = 0; r < ranks; r++) slimCommDestroy(comms[r]);
}
