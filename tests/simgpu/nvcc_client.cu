/* A program as nvcc makes it, with a kernel of its own, which the stand-in takes from a kernel library by its name. */
#include <cuda_runtime.h>
#include <stdio.h>

extern "C" __global__ void fill(float* x, unsigned n) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] = 1;
}

int main() {
  float *x, host[100];
  cudaMalloc(&x, sizeof host);
  fill<<<2, 64>>>(x, 100);
  cudaError_t error = cudaMemcpy(host, x, sizeof host, cudaMemcpyDeviceToHost);
  float sum = 0;
  for (float v : host) sum += v;
  printf("%s %g\n", cudaGetErrorString(error), sum);
  return error != cudaSuccess || sum != 100;
}
