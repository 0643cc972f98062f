/* Two allreduces captured in a graph, which every step launches anew, on data of its own. */
#include "client.h"

static void body(Rank* r) {
  const size_t n = client.count, parts[] = {n - n / 3, n / 3};
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  float* data;
  CUDA(cudaMalloc((void**)&data, n * sizeof(float)));
  for (int step = 0; step < client.steps; step++) {
    fill(r, data, step, 0, n, 1, r->stream);
    if (step == 1) { /* after a first, eager step, which sets everything up */
      CUDA(cudaStreamBeginCapture(r->stream, cudaStreamCaptureModeThreadLocal));
    }
    if (step <= 1) {
      allReduce(r, 0, data, data, parts[0], r->stream);
      allReduce(r, 1, data + parts[0], data + parts[0], parts[1], r->stream);
    }
    if (step == 1) {
      CUDA(cudaStreamEndCapture(r->stream, &graph));
      CUDA(cudaGraphInstantiate(&exec, graph, 0));
    }
    if (step >= 1) CUDA(cudaGraphLaunch(exec, r->stream));
    compare(r, data, step, 0, n, 1, r->stream);
  }
  if (client.steps > 1) {
    CUDA(cudaGraphExecDestroy(exec));
    CUDA(cudaGraphDestroy(graph));
  }
  CUDA(cudaFree(data));
}

int main(int argc, char** argv) {
  clientInit(argc, argv, (Client){.name = "graph", .steps = 5, .count = 52001, .tolerance = 1e-6});
  return clientThreads(body);
}
