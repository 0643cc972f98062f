/* Buffers that NCCL knows: registered ones, of cudaMalloc and of ncclMemAlloc, and symmetric windows. Collectives work
 * on parts of them, in place and from one to the other. */
#include "client.h"

enum { registeredMalloc, registeredMemAlloc, window, kinds };

static void use(Rank* r, int kind) {
  const size_t half = client.count, bytes = 2 * half * sizeof(float);
  float* buffer;
  void* handle = NULL;
  ncclWindow_t symmetric = NULL;
  if (kind == registeredMalloc) {
    CUDA(cudaMalloc((void**)&buffer, bytes));
  } else {
    NCCL(ncclMemAlloc((void**)&buffer, bytes));
  }
  if (kind == window) {
    NCCL(ncclCommWindowRegister(r->comm, buffer, bytes, &symmetric, NCCL_WIN_COLL_SYMMETRIC));
  } else {
    NCCL(ncclCommRegister(r->comm, buffer, bytes, &handle));
  }

  for (int step = 0; step < client.steps; step++) {
    float *first = buffer, *second = buffer + half;
    fill(r, first, step, 0, half, 1, r->stream);
    allReduce(r, 2 * kind, first, second, half, r->stream);
    compare(r, second, step, 0, half, 1, r->stream);
    allReduce(r, 2 * kind + 1, first, first, half, r->stream);
    compare(r, first, step, 0, half, 1, r->stream);
  }

  if (kind == window) {
    NCCL(ncclCommWindowDeregister(r->comm, symmetric));
  } else {
    NCCL(ncclCommDeregister(r->comm, handle));
  }
  if (kind == registeredMalloc) {
    CUDA(cudaFree(buffer));
  } else {
    NCCL(ncclMemFree(buffer));
  }
}

static void body(Rank* r) {
  for (int kind = 0; kind < kinds; kind++) use(r, kind);
}

int main(int argc, char** argv) {
  clientInit(argc, argv, (Client){.name = "registration", .steps = 2, .count = 17003, .tolerance = 1e-6});
  return clientThreads(body);
}
