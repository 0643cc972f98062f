/* What DistributedDataParallel does: weights broadcast once; gradients, divided by the number of ranks, in buckets,
 * each summed in place on a stream of its own as soon as it is full; after the first step the buckets are made anew, in
 * the order in which gradients came; and a loss, summed every step. */
#include <string.h>

#include "client.h"

enum { layers = 10, mostBuckets = 8 };

/* Layer l has elements first(l) … first(l + 1) − 1 of all parameters. */
static size_t first(int layer) { return client.count * (size_t)(layer * layer) / (layers * layers); }

typedef struct {
  float* data;
  size_t count;
  int layer[layers], layers;
} Bucket;

typedef struct {
  Bucket bucket[mostBuckets];
  int count;
} Buckets;

/* order: of the layers. A bucket is full when it has limit elements, the first one when it has a third of that. */
static void makeBuckets(Buckets* all, const int* order, size_t limit) {
  memset(all, 0, sizeof *all);
  for (int l = 0; l < layers; l++) {
    Bucket* b = &all->bucket[all->count];
    b->layer[b->layers++] = order[l];
    b->count += first(order[l] + 1) - first(order[l]);
    if (l == layers - 1 || b->count >= (all->count ? limit : limit / 3)) {
      CUDA(cudaMalloc((void**)&b->data, b->count * sizeof(float)));
      all->count++;
    }
  }
}

static void dropBuckets(Rank* r, Buckets* all) {
  for (int b = 0; b < all->count; b++) {
    CUDA(cudaFree(all->bucket[b].data));
    forget(r, b);
  }
}

/* Weights and losses are exact, however gradients travel. */
static void broadcastWeights(Rank* r) {
  const size_t bytes = client.count * sizeof(float);
  float *weights, *values = malloc(bytes);
  if (!values) exit(1);
  CUDA(cudaMalloc((void**)&weights, bytes));
  fill(r, weights, 0, 0, client.count, 1, r->stream);
  NCCL(ncclBroadcast(weights, weights, client.count, ncclFloat, 0, r->comm, r->stream));
  CUDA(cudaMemcpyAsync(values, weights, bytes, cudaMemcpyDeviceToHost, r->stream));
  CUDA(cudaStreamSynchronize(r->stream));
  for (size_t i = 0; i < client.count; i++)
    if (values[i] != valueOf(0, 0, i)) addError(r, 1);
  addToChecksum(r, values, client.count);
  CUDA(cudaFree(weights));
  free(values);
}
static void sumLosses(Rank* r, float* loss, int step) {
  float value = (float)(r->rank + step), sum = 0;
  CUDA(cudaMemcpyAsync(loss, &value, sizeof value, cudaMemcpyHostToDevice, r->stream));
  NCCL(ncclAllReduce(loss, loss, 1, ncclFloat, ncclSum, r->comm, r->stream));
  CUDA(cudaMemcpyAsync(&sum, loss, sizeof sum, cudaMemcpyDeviceToHost, r->stream));
  CUDA(cudaStreamSynchronize(r->stream));
  if (sum != (float)(r->ranks * (r->ranks - 1) / 2 + r->ranks * step)) addError(r, 1);
}

static void body(Rank* r) {
  int backwards[layers], ready[layers]; /* gradients come from the last layer on, but two of them change places */
  for (int l = 0; l < layers; l++) ready[l] = backwards[l] = layers - 1 - l;
  ready[3] = backwards[4];
  ready[4] = backwards[3];

  cudaStream_t backward;
  cudaEvent_t full, summed;
  float* loss;
  Buckets all;
  CUDA(cudaStreamCreateWithFlags(&backward, cudaStreamNonBlocking));
  CUDA(cudaEventCreateWithFlags(&full, cudaEventDisableTiming));
  CUDA(cudaEventCreateWithFlags(&summed, cudaEventDisableTiming));
  CUDA(cudaMalloc((void**)&loss, sizeof *loss));
  broadcastWeights(r);
  makeBuckets(&all, backwards, client.count / 2);
  for (int step = 0; step < client.steps; step++) {
    for (int b = 0; b < all.count; b++) {
      const Bucket* bucket = &all.bucket[b];
      float* at = bucket->data;
      for (int l = 0; l < bucket->layers; l++) {
        const size_t from = first(bucket->layer[l]), n = first(bucket->layer[l] + 1) - from;
        fill(r, at, step, from, n, 1 / (float)r->ranks, backward);
        at += n;
      }
      CUDA(cudaEventRecord(full, backward));
      CUDA(cudaStreamWaitEvent(r->stream, full, 0));
      allReduce(r, b, bucket->data, bucket->data, bucket->count, r->stream);
    }
    CUDA(cudaEventRecord(summed, r->stream));
    CUDA(cudaStreamWaitEvent(backward, summed, 0));
    for (int b = 0; b < all.count; b++) {
      const float* at = all.bucket[b].data;
      for (int l = 0; l < all.bucket[b].layers; l++) {
        const size_t from = first(all.bucket[b].layer[l]), n = first(all.bucket[b].layer[l] + 1) - from;
        compare(r, at, step, from, n, 1 / (float)r->ranks, backward);
        at += n;
      }
    }
    sumLosses(r, loss, step);
    if (step == 0) {
      dropBuckets(r, &all);
      makeBuckets(&all, ready, client.count / 3);
    }
  }
  dropBuckets(r, &all);
  CUDA(cudaFree(loss));
  CUDA(cudaEventDestroy(full));
  CUDA(cudaEventDestroy(summed));
  CUDA(cudaStreamDestroy(backward));
}

int main(int argc, char** argv) {
  clientInit(argc, argv, (Client){.name = "ddp", .steps = 4, .count = 70001, .tolerance = 1e-6});
  return clientThreads(body);
}
