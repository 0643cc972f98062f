/* What the client programs share: their flags, data whose sums are known, the comparison with them, and one line of
 * summary. An allreduce here is ncclAllReduce; in a program built with -DCLIENT_LINKED and called with --linked SPEC it
 * is slimAllReduce on the same ncclComm_t and stream. */
#ifndef SLIMCCL_EXAMPLES_NCCL_CLIENT_H_
#define SLIMCCL_EXAMPLES_NCCL_CLIENT_H_

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef CLIENT_LINKED
#include "slimccl_nccl.h"
#endif

#define CUDA(call)                                                                               \
  do {                                                                                           \
    const cudaError_t error_ = (call);                                                           \
    if (error_ != cudaSuccess) {                                                                 \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_)); \
      exit(1);                                                                                   \
    }                                                                                            \
  } while (0)
#define NCCL(call)                                                                                  \
  do {                                                                                              \
    const ncclResult_t error_ = (call);                                                             \
    if (error_ != ncclSuccess) {                                                                    \
      fprintf(stderr, "%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call, ncclGetErrorString(error_), \
              ncclGetLastError(NULL));                                                              \
      exit(1);                                                                                      \
    }                                                                                               \
  } while (0)

enum { mostRanks = 8, mostTensors = 16 };

/* --ranks N (0: as many as there are devices, at most 8), --steps N, --count N: floats a tensor, --tolerance T: the
 * largest error of an element that is right, where 1 is the largest value that it could have; --linked SPEC. */
typedef struct {
  const char* name; /* of the program */
  int ranks, steps;
  size_t count;
  double tolerance;
  const char* linked;
} Client;
extern Client client;
/* Reads the flags; name and defaults are the caller's. Ends the program where one is wrong. Makes no CUDA call. */
void clientInit(int argc, char** argv, Client defaults);
/* client.ranks, or where that is 0, CUDA's devices. */
int clientRanks(void);

/* What a rank has found out about its results. */
typedef struct {
  double error; /* the largest */
  uint64_t checksum;
} Report;

typedef struct {
  int rank, ranks;
  ncclComm_t comm;     /* made by the program */
  cudaStream_t stream; /* as is this */
  Report report;
#ifdef CLIENT_LINKED
  slimComm_t slim; /* NULL without --linked */
  slimTensor_t tensors[mostTensors];
#endif
} Rank;

/* Once comm is there, on the rank's device; then, before comm goes. Inside groupStart and groupEnd where one thread has
 * several ranks. Do nothing without --linked. */
void linkedOpen(Rank* r);
void linkedClose(Rank* r);

/* A thread for each rank, each with a device: makes comm and stream, runs body, and prints the summary. What main
 * returns. */
int clientThreads(void (*body)(Rank*));
/* Prints the line; 0 if all ranks have the same checksum and no error is above the tolerance. */
int clientSummary(const Report* reports, int ranks);

/* Sums over the ranks. tensor: which one it is, the same in every step. */
void allReduce(Rank* r, int tensor, const float* send, float* recv, size_t count, cudaStream_t stream);
void reduceScatter(Rank* r, int tensor, const float* send, float* recv, size_t count, cudaStream_t stream);
/* tensor will have another size, or is gone. */
void forget(Rank* r, int tensor);
/* The memory of tensor is of values in another unit from now on: times factor. */
void rescale(Rank* r, int tensor, double factor);
/* One thread's calls for several ranks stand between these. */
void groupStart(void);
void groupEnd(void);

/* Element i of rank's tensor in a step: −1 to 1, in steps so coarse that a sum over ranks has no rounding error. */
float valueOf(int rank, int step, size_t i);
/* The sum of that over ranks. */
float sumOf(int ranks, int step, size_t i);
/* to ← factor · valueOf(rank, step, first + i), by way of a host buffer. */
void fill(const Rank* r, float* to, int step, size_t first, size_t count, float factor, cudaStream_t stream);
/* Waits for the stream; how far from ← unit · sumOf(ranks, step, first + i) is goes into the report. */
void compare(Rank* r, const float* from, int step, size_t first, size_t count, float unit, cudaStream_t stream);
/* The bits of values go into the checksum; a wrong one would show as an error. */
void addToChecksum(Rank* r, const float* values, size_t count);
void addError(Rank* r, double error);

#endif
