/* Mixed precision: gradients are multiplied by a loss scale. In one step one rank's has an Inf: all ranks must see it
 * in the sum, all leave the step out and halve the scale, and the next sums are right again. */
#include <math.h>

#include "client.h"

enum { overflowStep = 1 };

static void body(Rank* r) {
  const size_t n = client.count, bad = n / 2;
  float scale = 65536, *data, *values = malloc(n * sizeof *values);
  if (!values) exit(1);
  CUDA(cudaMalloc((void**)&data, n * sizeof *data));
  for (int step = 0; step < client.steps; step++) {
    fill(r, data, step, 0, n, scale, r->stream);
    if (step == overflowStep && r->rank == r->ranks - 1) {
      const float inf = INFINITY;
      CUDA(cudaMemcpyAsync(data + bad, &inf, sizeof inf, cudaMemcpyHostToDevice, r->stream));
    }
    allReduce(r, 0, data, data, n, r->stream);
    CUDA(cudaMemcpyAsync(values, data, n * sizeof *values, cudaMemcpyDeviceToHost, r->stream));
    CUDA(cudaStreamSynchronize(r->stream));
    size_t overflows = 0;
    for (size_t i = 0; i < n; i++) overflows += isfinite(values[i]) ? 0 : 1;
    if ((step == overflowStep) != (overflows > 0) || (overflows && isfinite(values[bad]))) addError(r, 1);
    if (overflows) {
      addToChecksum(r, values, n);
      scale /= 2;
      rescale(r, 0, 0.5);
    } else {
      compare(r, data, step, 0, n, scale, r->stream);
    }
  }
  CUDA(cudaFree(data));
  free(values);
}

int main(int argc, char** argv) {
  clientInit(argc, argv, (Client){.name = "amp", .steps = 4, .count = 20001, .tolerance = 1e-6});
  return clientThreads(body);
}
