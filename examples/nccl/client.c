#include "client.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

Client client;

__attribute__((noreturn)) static void usage(const char* wrong) {
  fprintf(stderr, "%s: %s: flags are --ranks N (1 to %d), --steps N, --count N, --tolerance T, --linked SPEC\n",
          client.name, wrong, mostRanks);
  exit(2);
}

void clientInit(int argc, char** argv, Client defaults) {
  client = defaults;
  for (int i = 1; i < argc; i += 2) {
    const char *flag = argv[i], *value = argv[i + 1];
    if (!value) usage(flag);
    char* end = "";
    if (!strcmp(flag, "--linked")) {
      client.linked = value;
    } else if (!strcmp(flag, "--ranks")) {
      client.ranks = (int)strtol(value, &end, 10);
    } else if (!strcmp(flag, "--steps")) {
      client.steps = (int)strtol(value, &end, 10);
    } else if (!strcmp(flag, "--count")) {
      client.count = strtoul(value, &end, 10);
    } else if (!strcmp(flag, "--tolerance")) {
      client.tolerance = strtod(value, &end);
    } else {
      usage(flag);
    }
    if (*end || client.ranks < 0 || client.ranks > mostRanks || client.steps < 1 || !client.count) usage(value);
  }
#ifndef CLIENT_LINKED
  if (client.linked) usage("--linked wants a program built with -DCLIENT_LINKED");
#endif
}

int clientRanks(void) {
  int devices;
  CUDA(cudaGetDeviceCount(&devices));
  if (client.ranks > devices) {
    fprintf(stderr, "%s: %d ranks want as many devices, here are %d\n", client.name, client.ranks, devices);
    exit(1);
  }
  return client.ranks ? client.ranks : devices < mostRanks ? devices : mostRanks;
}

int clientSummary(const Report* reports, int ranks) {
  double error = 0;
  int alike = 1;
  for (int r = 0; r < ranks; r++) {
    if (!(reports[r].error <= error)) error = reports[r].error;
    alike &= reports[r].checksum == reports[0].checksum;
  }
  printf("%s: %d ranks, %d steps, largest error %.3g, checksum %016llx%s\n", client.name, ranks, client.steps, error,
         (unsigned long long)reports[0].checksum, alike ? "" : " on rank 0, ANOTHER ONE ELSEWHERE");
  if (!(error <= client.tolerance)) fprintf(stderr, "%s: an error above %g\n", client.name, client.tolerance);
  return !alike || !(error <= client.tolerance);
}

/* ---- Ranks as threads ------------------------------------------------------------------------------------------- */

static ncclUniqueId id;
static void (*bodyOfRanks)(Rank*);

static void* rankMain(void* argument) {
  Rank* r = argument;
  CUDA(cudaSetDevice(r->rank));
  CUDA(cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking));
  NCCL(ncclCommInitRank(&r->comm, r->ranks, id, r->rank));
  linkedOpen(r);
  bodyOfRanks(r);
  linkedClose(r);
  NCCL(ncclCommDestroy(r->comm));
  CUDA(cudaStreamDestroy(r->stream));
  return NULL;
}

int clientThreads(void (*body)(Rank*)) {
  const int ranks = clientRanks();
  Rank rank[mostRanks];
  Report reports[mostRanks];
  pthread_t threads[mostRanks];
  bodyOfRanks = body;
  NCCL(ncclGetUniqueId(&id));
  for (int r = 0; r < ranks; r++) {
    rank[r] = (Rank){.rank = r, .ranks = ranks};
    if (pthread_create(&threads[r], NULL, rankMain, &rank[r])) {
      perror("a thread");
      exit(1);
    }
  }
  for (int r = 0; r < ranks; r++) {
    pthread_join(threads[r], NULL);
    reports[r] = rank[r].report;
  }
  return clientSummary(reports, ranks);
}

/* ---- Collectives: NCCL's, or SlimCCL's on NCCL's handles -------------------------------------------------------- */

#ifdef CLIENT_LINKED
#define SLIM(call)                                                                                  \
  do {                                                                                              \
    const slimResult_t error_ = (call);                                                             \
    if (error_ != slimSuccess) {                                                                    \
      fprintf(stderr, "%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call, slimGetErrorString(error_), \
              slimGetLastError());                                                                  \
      exit(1);                                                                                      \
    }                                                                                               \
  } while (0)

void linkedOpen(Rank* r) {
  if (!client.linked) return;
  slimConfig_t config = SLIM_CONFIG_INITIALIZER;
  config.deviceBytes = ((size_t)32 << 20) + mostTensors * 3 * sizeof(float) * client.count; /* buffers, and memories */
  SLIM(slimCommInitNCCL(&r->slim, r->comm, &config));
}
void linkedClose(Rank* r) {
  slimResult_t error;
  if (!client.linked) return;
  SLIM(slimCommGetAsyncError(r->slim, &error));
  SLIM(error);
  SLIM(slimCommDestroy(r->slim));
}
static slimTensor_t tensorOf(Rank* r, int tensor) {
  if (!r->tensors[tensor]) SLIM(slimTensorCreate(&r->tensors[tensor], r->slim, client.linked, (uint32_t)tensor));
  return r->tensors[tensor];
}
void forget(Rank* r, int tensor) {
  if (!client.linked) return;
  SLIM(slimTensorDestroy(tensorOf(r, tensor)));
  r->tensors[tensor] = NULL;
}
void rescale(Rank* r, int tensor, double factor) {
  if (client.linked) SLIM(slimTensorRescale(tensorOf(r, tensor), factor));
}
#else
void linkedOpen(Rank* r) { (void)r; }
void linkedClose(Rank* r) { (void)r; }
void forget(Rank* r, int tensor) { (void)r, (void)tensor; }
void rescale(Rank* r, int tensor, double factor) { (void)r, (void)tensor, (void)factor; }
#endif

void allReduce(Rank* r, int tensor, const float* send, float* recv, size_t count, cudaStream_t stream) {
#ifdef CLIENT_LINKED
  if (client.linked) {
    SLIM(slimAllReduce(send, recv, count, slimFloat32, slimSum, tensorOf(r, tensor), r->slim, stream));
    return;
  }
#endif
  (void)tensor;
  NCCL(ncclAllReduce(send, recv, count, ncclFloat, ncclSum, r->comm, stream));
}

void reduceScatter(Rank* r, int tensor, const float* send, float* recv, size_t count, cudaStream_t stream) {
#ifdef CLIENT_LINKED
  if (client.linked) {
    SLIM(slimReduceScatter(send, recv, count, slimFloat32, slimSum, tensorOf(r, tensor), r->slim, stream));
    return;
  }
#endif
  (void)tensor;
  NCCL(ncclReduceScatter(send, recv, count, ncclFloat, ncclSum, r->comm, stream));
}

void groupStart(void) {
#ifdef CLIENT_LINKED
  if (client.linked) {
    SLIM(slimGroupStart());
    return;
  }
#endif
  NCCL(ncclGroupStart());
}
void groupEnd(void) {
#ifdef CLIENT_LINKED
  if (client.linked) {
    SLIM(slimGroupEnd());
    return;
  }
#endif
  NCCL(ncclGroupEnd());
}

/* ---- Data ------------------------------------------------------------------------------------------------------- */

float valueOf(int rank, int step, size_t i) {
  uint64_t x = (uint64_t)i * 0x9e3779b97f4a7c15u + (uint64_t)(step * mostRanks + rank + 1) * 0xd1b54a32d192ed03u;
  x ^= x >> 29;
  x *= 0xbf58476d1ce4e5b9u;
  return (float)((int)((x >> 40) % 65) - 32) / 32;
}

float sumOf(int ranks, int step, size_t i) {
  float sum = 0;
  for (int r = 0; r < ranks; r++) sum += valueOf(r, step, i);
  return sum;
}

static float* hostBuffer(size_t count) {
  float* values = malloc(count * sizeof *values);
  if (!values) {
    perror("host memory");
    exit(1);
  }
  return values;
}

void fill(const Rank* r, float* to, int step, size_t first, size_t count, float factor, cudaStream_t stream) {
  float* values = hostBuffer(count);
  for (size_t i = 0; i < count; i++) values[i] = factor * valueOf(r->rank, step, first + i);
  CUDA(cudaMemcpyAsync(to, values, count * sizeof *to, cudaMemcpyHostToDevice, stream));
  CUDA(cudaStreamSynchronize(stream));
  free(values);
}

void compare(Rank* r, const float* from, int step, size_t first, size_t count, float unit, cudaStream_t stream) {
  float* values = hostBuffer(count);
  CUDA(cudaMemcpyAsync(values, from, count * sizeof *from, cudaMemcpyDeviceToHost, stream));
  CUDA(cudaStreamSynchronize(stream));
  for (size_t i = 0; i < count; i++)
    addError(r, fabs((double)values[i] / unit - sumOf(r->ranks, step, first + i)) / r->ranks);
  addToChecksum(r, values, count);
  free(values);
}

void addError(Rank* r, double error) {
  if (!(error <= r->report.error)) r->report.error = error; /* NaN stays */
}

void addToChecksum(Rank* r, const float* values, size_t count) {
  for (size_t i = 0; i < count; i++) {
    uint32_t word;
    memcpy(&word, &values[i], sizeof word);
    r->report.checksum = (r->report.checksum ^ word) * 0x9e3779b97f4a7c15u;
    r->report.checksum ^= r->report.checksum >> 32; /* words like these have no low bits */
  }
}
