/* What fully sharded training does: every rank keeps a shard of each layer; weights are gathered before use, gradients
 * reduced and scattered after, in buffers that are allocated each time and so move. Gathered weights are exact. */
#include <math.h>
#include <string.h>

#include "client.h"

enum { layers = 3 };

static float* allocate(size_t count, cudaStream_t stream) {
  float* p;
  CUDA(cudaMallocAsync((void**)&p, count * sizeof *p, stream));
  return p;
}

static void forward(Rank* r, float* weights, size_t shard) {
  const size_t all = shard * (size_t)r->ranks;
  float *host = malloc(all * sizeof *host), *gathered = allocate(all, r->stream), *own = allocate(shard, r->stream);
  if (!host) exit(1);
  CUDA(cudaMemcpyAsync(own, weights, shard * sizeof *own, cudaMemcpyHostToDevice, r->stream));
  NCCL(ncclAllGather(own, gathered, shard, ncclFloat, r->comm, r->stream));
  CUDA(cudaMemcpyAsync(host, gathered, all * sizeof *host, cudaMemcpyDeviceToHost, r->stream));
  CUDA(cudaFreeAsync(own, r->stream));
  CUDA(cudaFreeAsync(gathered, r->stream));
  CUDA(cudaStreamSynchronize(r->stream));
  if (memcmp(host + (size_t)r->rank * shard, weights, shard * sizeof *host)) addError(r, 1);
  addToChecksum(r, host, all); /* the other ranks' weights are right if all have the same */
  free(host);
}

static void backward(Rank* r, int layer, float* weights, size_t shard, int step) {
  const size_t all = shard * (size_t)r->ranks, from = (size_t)layer * all, own = from + (size_t)r->rank * shard;
  float *host = malloc(shard * sizeof *host), *gradient = allocate(all, r->stream), *sum = allocate(shard, r->stream);
  if (!host) exit(1);
  fill(r, gradient, step, from, all, 1, r->stream);
  reduceScatter(r, layer, gradient, sum, shard, r->stream);
  CUDA(cudaFreeAsync(gradient, r->stream));
  CUDA(cudaMemcpyAsync(host, sum, shard * sizeof *host, cudaMemcpyDeviceToHost, r->stream));
  CUDA(cudaFreeAsync(sum, r->stream));
  CUDA(cudaStreamSynchronize(r->stream));
  for (size_t i = 0; i < shard; i++) {
    addError(r, fabs((double)host[i] - sumOf(r->ranks, step, own + i)) / r->ranks);
    weights[i] -= 0.125f * host[i];
  }
  free(host);
}

static void body(Rank* r) {
  const size_t shard = (client.count + (size_t)r->ranks - 1) / (size_t)r->ranks; /* the last one is padded */
  float* weights[layers];
  for (int l = 0; l < layers; l++)
    if (!(weights[l] = calloc(shard, sizeof *weights[l]))) exit(1);
  for (int step = 0; step < client.steps; step++) {
    for (int l = 0; l < layers; l++) forward(r, weights[l], shard);
    for (int l = layers - 1; l >= 0; l--) backward(r, l, weights[l], shard, step);
  }
  for (int l = 0; l < layers; l++) {
    forward(r, weights[l], shard);
    free(weights[l]);
  }
}

int main(int argc, char** argv) {
  clientInit(argc, argv, (Client){.name = "fsdp", .steps = 3, .count = 20003, .tolerance = 1e-6});
  return clientThreads(body);
}
