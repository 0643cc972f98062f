/* nccl_client MODE RANKS: a host-only NCCL program as users write them. MODE: group (one thread drives all devices),
 * threads (one a device), fork (one process a device). Every collective, exact results; exit status 0 if all are right.
 */
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CUDA(call)                                                                               \
  do {                                                                                           \
    cudaError_t error_ = (call);                                                                 \
    if (error_ != cudaSuccess) {                                                                 \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_)); \
      exit(1);                                                                                   \
    }                                                                                            \
  } while (0)
#define NCCL(call)                                                                                  \
  do {                                                                                              \
    ncclResult_t error_ = (call);                                                                   \
    if (error_ != ncclSuccess) {                                                                    \
      fprintf(stderr, "%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call, ncclGetErrorString(error_), \
              ncclGetLastError(NULL));                                                              \
      exit(1);                                                                                      \
    }                                                                                               \
  } while (0)

/* The ranks that a thread drives: first … first + count − 1, rank r on device r. */
typedef struct {
  int first, count, ranks;
  ncclUniqueId id;
} Share;

static float valueAt(int rank, size_t i) { return (float)(rank * 64 + (int)(i % 61)); }

static void wrong(const char* what, int rank, size_t i, float found, float wanted) {
  fprintf(stderr, "%s: rank %d: element %zu is %g, not %g\n", what, rank, i, (double)found, (double)wanted);
  exit(1);
}

/* What is element i of rank `me`'s result of collective `kind`, of n elements (a part)? */
static float expected(int kind, int me, int ranks, size_t n, size_t i) {
  float sum = 0;
  const int root = ranks - 1;
  switch (kind) {
    case 0: /* allreduce */
    case 2: /* reduce */
      for (int r = 0; r < ranks; r++) sum += valueAt(r, i);
      return sum;
    case 1: /* broadcast */
      return valueAt(root, i);
    case 3: /* allgather */
    case 6: /* gather */
      return valueAt((int)(i / n), i % n);
    case 4: /* reduce-scatter */
      for (int r = 0; r < ranks; r++) sum += valueAt(r, (size_t)me * n + i);
      return sum;
    case 5: /* alltoall */
      return valueAt((int)(i / n), (size_t)me * n + i % n);
    case 7: /* scatter */
      return valueAt(root, (size_t)me * n + i);
    default: /* ring */
      return valueAt((me + ranks - 1) % ranks, i);
  }
}

static const char* const names[] = {"allreduce", "broadcast", "reduce",  "allgather", "reducescatter",
                                    "alltoall",  "gather",    "scatter", "ring"};

static void* drive(void* argument) {
  const Share* s = argument;
  const int ranks = s->ranks, root = ranks - 1;
  const size_t sizes[] = {0, 1, 1000, 100003};
  ncclComm_t comm[8];
  cudaStream_t stream[8];
  float *send[8], *receive[8];
  const size_t most = sizes[3] * (size_t)ranks;
  float* host = malloc(most * sizeof *host);
  for (int r = 0; r < s->count; r++) {
    CUDA(cudaSetDevice(s->first + r));
    CUDA(cudaStreamCreate(&stream[r]));
    CUDA(cudaMalloc((void**)&send[r], most * sizeof(float)));
    CUDA(cudaMalloc((void**)&receive[r], most * sizeof(float)));
    for (size_t i = 0; i < most; i++) host[i] = valueAt(s->first + r, i);
    CUDA(cudaMemcpy(send[r], host, most * sizeof(float), cudaMemcpyHostToDevice));
  }
  NCCL(ncclGroupStart());
  for (int r = 0; r < s->count; r++) {
    CUDA(cudaSetDevice(s->first + r));
    NCCL(ncclCommInitRank(&comm[r], ranks, s->id, s->first + r));
  }
  NCCL(ncclGroupEnd());
  for (int r = 0; r < s->count; r++) {
    int count, rank, device;
    NCCL(ncclCommCount(comm[r], &count));
    NCCL(ncclCommUserRank(comm[r], &rank));
    NCCL(ncclCommCuDevice(comm[r], &device));
    if (count != ranks || rank != s->first + r || device != rank) exit(1);
  }

  for (int kind = 0; kind < 9; kind++)
    for (int k = 0; k < 4; k++) {
      const size_t n = sizes[k];
      NCCL(ncclGroupStart());
      for (int r = 0; r < s->count; r++) {
        const int me = s->first + r;
        switch (kind) {
          case 0:
            NCCL(ncclAllReduce(send[r], receive[r], n, ncclFloat, ncclSum, comm[r], stream[r]));
            break;
          case 1:
            NCCL(ncclBroadcast(send[r], receive[r], n, ncclFloat, root, comm[r], stream[r]));
            break;
          case 2:
            NCCL(ncclReduce(send[r], receive[r], n, ncclFloat, ncclSum, root, comm[r], stream[r]));
            break;
          case 3:
            NCCL(ncclAllGather(send[r], receive[r], n, ncclFloat, comm[r], stream[r]));
            break;
          case 4:
            NCCL(ncclReduceScatter(send[r], receive[r], n, ncclFloat, ncclSum, comm[r], stream[r]));
            break;
          case 5:
            NCCL(ncclAlltoAll(send[r], receive[r], n, ncclFloat, comm[r], stream[r]));
            break;
          case 6:
            NCCL(ncclGather(send[r], receive[r], n, ncclFloat, root, comm[r], stream[r]));
            break;
          case 7:
            NCCL(ncclScatter(send[r], receive[r], n, ncclFloat, root, comm[r], stream[r]));
            break;
          default:
            NCCL(ncclSend(send[r], n, ncclFloat, (me + 1) % ranks, comm[r], stream[r]));
            NCCL(ncclRecv(receive[r], n, ncclFloat, (me + ranks - 1) % ranks, comm[r], stream[r]));
        }
      }
      NCCL(ncclGroupEnd());
      for (int r = 0; r < s->count; r++) {
        const int me = s->first + r;
        if ((kind == 2 || kind == 6) && me != root) continue;
        const size_t results = kind == 3 || kind == 5 || kind == 6 ? n * (size_t)ranks : n;
        CUDA(cudaSetDevice(me));
        CUDA(cudaMemcpyAsync(host, receive[r], results * sizeof(float), cudaMemcpyDeviceToHost, stream[r]));
        CUDA(cudaStreamSynchronize(stream[r]));
        for (size_t i = 0; i < results; i++) {
          const float wanted = expected(kind, me, ranks, n, i);
          if (host[i] != wanted) wrong(names[kind], me, i, host[i], wanted);
        }
      }
    }

  for (int r = 0; r < s->count; r++) {
    NCCL(ncclCommFinalize(comm[r]));
    CUDA(cudaStreamSynchronize(stream[r]));
  }
  for (int r = 0; r < s->count; r++) {
    NCCL(ncclCommDestroy(comm[r]));
    CUDA(cudaSetDevice(s->first + r));
    CUDA(cudaFree(send[r]));
    CUDA(cudaFree(receive[r]));
    CUDA(cudaStreamDestroy(stream[r]));
  }
  free(host);
  return NULL;
}

int main(int argc, char** argv) {
  const int ranks = argc > 2 ? atoi(argv[2]) : 0;
  if (ranks < 1 || ranks > 8) return 2;
  Share share[8];
  for (int r = 0; r < ranks; r++) share[r] = (Share){r, 1, ranks, {{0}}};
  if (!strcmp(argv[1], "fork")) { /* the identifier goes through pipes: before any fork, nothing of CUDA is used */
    int pipes[8][2];
    pid_t child[8];
    for (int r = 0; r < ranks; r++) {
      if (pipe(pipes[r])) return 1;
      child[r] = fork();
      if (child[r] == 0) {
        if (read(pipes[r][0], &share[r].id, sizeof share[r].id) != sizeof share[r].id) exit(1);
        drive(&share[r]);
        exit(0);
      }
    }
    ncclUniqueId id;
    NCCL(ncclGetUniqueId(&id));
    for (int r = 0; r < ranks; r++)
      if (write(pipes[r][1], &id, sizeof id) != sizeof id) return 1;
    int failed = 0, status;
    for (int r = 0; r < ranks; r++) failed |= waitpid(child[r], &status, 0) != child[r] || status != 0;
    if (!failed) puts("ok");
    return failed;
  }
  ncclUniqueId id;
  NCCL(ncclGetUniqueId(&id));
  if (!strcmp(argv[1], "threads")) {
    pthread_t thread[8];
    for (int r = 0; r < ranks; r++) {
      share[r].id = id;
      pthread_create(&thread[r], NULL, drive, &share[r]);
    }
    for (int r = 0; r < ranks; r++) pthread_join(thread[r], NULL);
  } else {
    Share all = {0, ranks, ranks, id};
    drive(&all);
  }
  puts("ok");
  return 0;
}
