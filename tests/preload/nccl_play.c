/* nccl_play threads|processes|one RANKS SCRIPT [--linked SPEC] [--env RANK NAME=VALUE]…: an NCCL program that knows
 * nothing of SlimCCL and plays a script, on one device a rank: a thread or a process each, or one thread for all (calls
 * then stand in a group). It prints "label.what value" lines about the results, which it can compute by itself.
 *
 * SCRIPT: commands, ended by ";". BUFFERS: letters, one a buffer; IN may be "=": in place. Before a command: "@R" for
 * rank R only; "?" prints the error that it answers, and goes on.
 *   init C [NAME] | nonblocking C   makes communicator C (0 to 7) of all ranks
 *   split C PARENT PARTS            of ranks that are equal modulo PARTS
 *   shrink C PARENT RANK            of all but one
 *   on C | destroy C | abort C      use for the next calls; end. "aborts C": soon, from another thread
 *   buffers BUFFERS COUNT TYPE      new memory: f16 bf16 f32 f64 i32
 *   swap A B                        the memory of A and B
 *   fill BUFFERS KIND SCALE         random: anew in each round of the loop; constant; or zero
 *   allreduce|reduce_scatter|all_gather|broadcast|reduce BUFFERS IN COUNT OP [ROOT]
 *                                   OP: sum avg max min prod half (premulsum); COUNT "*": all of the buffer
 *   check LABEL BUFFERS             what the last call left there: waits, compares; LABEL and buffer make the label
 *   group | end_group | sync | barrier | stream N | step (slimMarkStep) | signal (SIGUSR1) | pause MS
 *   graph N | capture | end_capture | replay | drop    which of four; drop: destroys it
 *   dropped                         waits for the driver to have told the owners of what was dropped
 *   loop N | end
 *   async C                         prints ncclCommGetAsyncError
 *   used LABEL                      bytes of the device's memory
 *   ranges                          "NAME.ranges N": how many NVTX ranges the injected recorder has seen of each kind
 *   hog KIB                         takes all of it but so much
 *   child                           a process that ends at once, as it would after a fork of the program's
 *   seal                            when all ranks have played: from then on a call of the driver is a crash (x86)
 */
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <math.h>
#include <nccl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef PLAY_LINKED
#include "plugin/slimccl_nccl.h"
#endif

enum { mostRanks = 8, mostComms = 8, mostBuffers = 26, mostLabels = 64, mostWords = 8, mostCommands = 256 };

__attribute__((noreturn)) static void die(const char* what, const char* why) {
  fprintf(stderr, "nccl_play: %s: %s\n", what, why);
  _exit(1);
}
#define CUDA(call)                                                     \
  do {                                                                 \
    const cudaError_t error_ = (call);                                 \
    if (error_ != cudaSuccess) die(#call, cudaGetErrorString(error_)); \
  } while (0)
#define NCCL(call)                                                     \
  do {                                                                 \
    const ncclResult_t error_ = (call);                                \
    if (error_ != ncclSuccess) die(#call, ncclGetErrorString(error_)); \
  } while (0)

/* ---- What ranks share ------------------------------------------------------------------------------------------- */

typedef struct {
  char name[32];
  int calls;
  double last, worst, mean, peak, off; /* relative errors; of the mean over calls; largest value; largest error of an
                                          element, where 1 is the largest value that it could have */
  uint64_t hash;                       /* of results that all ranks have alike */
} Label;

static struct {
  pthread_barrier_t barrier;
  ncclUniqueId id[mostComms];
  Label label[mostRanks][mostLabels];
} * shared;

static enum { threads, processes, one } mode;
static int ranks;
static const char* spec; /* --linked */
static char* command[mostCommands];
static int commands;
static atomic_bool sealed;

static void barrier(void) {
  if (mode != one) pthread_barrier_wait(&shared->barrier);
}

/* ---- Data ------------------------------------------------------------------------------------------------------- */

typedef struct {
  char kind; /* random, constant, zero */
  int seed;
  double scale;
} Recipe;

typedef enum { allReduce, reduceScatter, allGather, broadcast, reduce } Collective;
static const char* const collectives[] = {"allreduce", "reduce_scatter", "all_gather", "broadcast", "reduce"};

typedef struct {
  char* data;
  size_t count;
  ncclDataType_t type;
  Recipe recipe;
  struct {
    bool valid;
    Collective collective;
    Recipe recipe;
    size_t count;
    int op, root, comm;
    char* at;
  } result; /* of the call that wrote it last */
} Buffer;

typedef struct {
  ncclComm_t comm;
  int ranks, rank, member[mostRanks]; /* its ranks among all */
#ifdef PLAY_LINKED
  slimComm_t slim;
#endif
} Comm;

typedef struct {
  int rank, on, iteration, numLabels;
  Comm comm[mostComms];
  Buffer buffer[mostBuffers];
  cudaStream_t streams[2], stream;
  cudaGraph_t graphs[4], *graph;
  cudaGraphExec_t execs[4], *exec;
  double* errors[mostLabels]; /* sums over calls */
  size_t numErrors[mostLabels];
  double norm[mostLabels];
  ncclRedOp_t half;
  ncclComm_t aborting;
  pthread_t aborter;
#ifdef PLAY_LINKED
  slimTensor_t tensor[256];
  uint64_t key[256];
  int tensors;
#endif
} Player;

static size_t bytesOf(ncclDataType_t type) {
  return type == ncclFloat64 ? 8 : type == ncclFloat16 || type == ncclBfloat16 ? 2 : 4;
}

/* −1 to 1 times the scale, in steps so coarse that sums over ranks have no rounding error. */
static double valueOf(Recipe r, int rank, size_t i) {
  if (r.kind == 'z') return 0;
  uint64_t x = (uint64_t)i * 0x9e3779b97f4a7c15u + (uint64_t)(r.seed * mostRanks + rank + 1) * 0xd1b54a32d192ed03u;
  x ^= x >> 29;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 32;
  return (double)((int)(x % 65) - 32) / 32 * r.scale;
}

static uint16_t halfOf(double v) { /* for values that it has exactly */
  if (v == 0) return 0;
  int e;
  const double m = frexp(fabs(v), &e);
  return (uint16_t)((v < 0) << 15 | (e + 14) << 10 | ((int)(m * 2048) & 1023));
}
static void store(char* to, ncclDataType_t type, double v) {
  const float f = (float)v;
  const int32_t n = (int32_t)(v * 32);
  uint32_t word;
  uint16_t h;
  memcpy(&word, &f, 4);
  if (type == ncclFloat64) memcpy(to, &v, 8);
  if (type == ncclFloat32) memcpy(to, &f, 4);
  if (type == ncclInt32) memcpy(to, &n, 4);
  if (type != ncclFloat16 && type != ncclBfloat16) return;
  h = type == ncclBfloat16 ? (uint16_t)(word >> 16) : halfOf(v);
  memcpy(to, &h, 2);
}
static double load(const char* from, ncclDataType_t type) {
  double v;
  float f;
  int32_t n;
  uint16_t h;
  if (type == ncclFloat64) return memcpy(&v, from, 8), v;
  if (type == ncclFloat32) return memcpy(&f, from, 4), (double)f;
  if (type == ncclInt32) return memcpy(&n, from, 4), n / 32.0;
  memcpy(&h, from, 2);
  if (type == ncclBfloat16) {
    const uint32_t word = (uint32_t)h << 16;
    return memcpy(&f, &word, 4), (double)f;
  }
  const int e = h >> 10 & 31, m = h & 1023;
  v = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(m + 1024, e - 25) : ldexp(m, -24);
  return h >> 15 ? -v : v;
}

/* What element i of the result should be on this rank. */
static double wanted(const Player* p, const Buffer* b, size_t i) {
  const Comm* c = &p->comm[b->result.comm];
  const Recipe r = b->result.recipe;
  const size_t n = b->result.count;
  if (b->result.collective == broadcast) return valueOf(r, c->member[b->result.root], i);
  if (b->result.collective == allGather) return valueOf(r, c->member[i / n], i % n);
  if (b->result.collective == reduceScatter) i += (size_t)c->rank * n;
  double all = valueOf(r, c->member[0], i);
  for (int k = 1; k < c->ranks; k++) {
    const double v = valueOf(r, c->member[k], i);
    const int op = b->result.op;
    all = op == 'a' + 'x' ? fmax(all, v) : op == 'i' + 'n' ? fmin(all, v) : op == 'r' + 'o' ? all * v : all + v;
  }
  return b->result.op == 'v' + 'g' ? all / c->ranks : b->result.op == 'a' + 'l' ? all / 2 : all;
}

/* ---- Commands --------------------------------------------------------------------------------------------------- */

static Label* labelOf(Player* p, const char* name, char letter) {
  char full[32];
  snprintf(full, sizeof full, letter ? "%.29s%c" : "%.31s", name, letter);
  Label* mine = shared->label[p->rank];
  for (int i = 0; i < p->numLabels; i++)
    if (!strcmp(mine[i].name, full)) return &mine[i];
  if (p->numLabels == mostLabels) die(full, "too many labels");
  snprintf(mine[p->numLabels].name, sizeof full, "%s", full);
  return &mine[p->numLabels++];
}

static void check(Player* p, const char* name, char letter) {
  Buffer* b = &p->buffer[letter - 'a'];
  Label* l = labelOf(p, name, letter);
  const size_t at = (size_t)(l - shared->label[p->rank]), size = bytesOf(b->type);
  const Comm* c = &p->comm[b->result.comm];
  if (!b->result.valid) die(name, "no call has written this buffer");
  const size_t n = b->result.count * (b->result.collective == allGather ? (size_t)c->ranks : 1);
  char* values = malloc(n * size + 1);
  CUDA(cudaMemcpyAsync(values, b->result.at, n * size, cudaMemcpyDeviceToHost, p->stream));
  CUDA(cudaStreamSynchronize(p->stream));
  l->calls++;
  const bool alike = b->result.collective != reduceScatter && b->result.collective != reduce;
  for (size_t i = 0; alike && i < n * size; i++) l->hash = (l->hash ^ (unsigned char)values[i]) * 0x100000001b3u;
  if (b->result.collective != reduce || b->result.root == c->rank) {
    if (p->numErrors[at] != n) {
      free(p->errors[at]);
      p->errors[at] = calloc(n + 1, sizeof(double));
      p->numErrors[at] = n;
    }
    const bool adds = (b->result.collective == allReduce || b->result.collective == reduceScatter ||
                       b->result.collective == reduce) &&
                      b->result.op != 'v' + 'g';
    const double unit = b->result.recipe.scale * (adds ? c->ranks : 1);
    double errors = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
      const double got = load(values + i * size, b->type), right = wanted(p, b, i), e = got - right;
      errors += e * e;
      norm += right * right;
      p->errors[at][i] += e;
      if (!(fabs(got) <= l->peak)) l->peak = fabs(got);
      if (!(fabs(e) / unit <= l->off)) l->off = fabs(e) / unit;
    }
    l->last = norm > 0 ? sqrt(errors / norm) : errors;
    p->norm[at] = norm;
    if (!(l->last <= l->worst)) l->worst = l->last;
    double means = 0;
    for (size_t i = 0; i < n; i++) means += p->errors[at][i] / l->calls * (p->errors[at][i] / l->calls);
    l->mean = norm > 0 ? sqrt(means / norm) : means;
  }
  free(values);
}

static void fillBuffer(Player* p, char letter, char kind, double scale) {
  Buffer* b = &p->buffer[letter - 'a'];
  const size_t size = bytesOf(b->type);
  char* values = malloc(b->count * size + 1);
  b->recipe = (Recipe){kind, (kind == 'r' ? p->iteration * 64 : 0) + letter - 'a', scale};
  for (size_t i = 0; i < b->count; i++) store(values + i * size, b->type, valueOf(b->recipe, p->rank, i));
  CUDA(cudaMemcpyAsync(b->data, values, b->count * size, cudaMemcpyHostToDevice, p->stream));
  CUDA(cudaStreamSynchronize(p->stream));
  free(values);
}

static ncclRedOp_t opOf(Player* p, const char* op, ncclDataType_t type) {
  if (!strcmp(op, "half")) {
    uint64_t scalar = 0;
    store((char*)&scalar, type, 0.5);
    NCCL(ncclRedOpCreatePreMulSum(&p->half, &scalar, type, ncclScalarHostImmediate, p->comm[p->on].comm));
    return p->half;
  }
  if (!strcmp(op, "prod")) return ncclProd;
  return !strcmp(op, "avg") ? ncclAvg : !strcmp(op, "max") ? ncclMax : !strcmp(op, "min") ? ncclMin : ncclSum;
}

#ifdef PLAY_LINKED
static slimTensor_t tensorOf(Player* p, const void* recv, size_t count, Collective k, int op) {
  const uint64_t key = (uint64_t)(uintptr_t)recv * 31 + count * 8 + (uint64_t)k + ((uint64_t)op << 40);
  for (int i = 0; i < p->tensors; i++)
    if (p->key[i] == key) return p->tensor[i];
  p->key[p->tensors] = key;
  if (slimTensorCreate(&p->tensor[p->tensors], p->comm[p->on].slim, spec, (uint32_t)p->tensors) != slimSuccess)
    die("slimTensorCreate", slimGetLastError());
  return p->tensor[p->tensors++];
}
#endif

static ncclResult_t call(Player* p, Collective k, char out, char in, const char* many, const char* opName, int root) {
  Buffer *r = &p->buffer[out - 'a'], *s = in == '=' ? r : &p->buffer[in - 'a'];
  const Comm* c = &p->comm[p->on];
  const size_t all = k == reduceScatter ? s->count : r->count;
  const size_t n =
      *many != '*' ? strtoul(many, NULL, 10) : all / (k == reduceScatter || k == allGather ? (size_t)c->ranks : 1);
  const size_t part = (size_t)c->rank * n * bytesOf(r->type);
  const char* send = s->data + (k == allGather && in == '=' ? part : 0);
  char* recv = r->data + (k == reduceScatter && in == '=' ? part : 0);
  r->result.valid = true;
  r->result.collective = k;
  r->result.recipe = s->recipe;
  r->result.count = n;
  r->result.op = opName[1] + opName[2];
  r->result.root = root;
  r->result.comm = p->on;
  r->result.at = recv;
  if (k == allGather && in == '=') { /* its own part, as if the buffer began there */
    char* values = malloc(n * bytesOf(r->type) + 1);
    for (size_t i = 0; i < n; i++)
      store(values + i * bytesOf(r->type), r->type, valueOf(s->recipe, c->member[c->rank], i));
    CUDA(cudaMemcpy((char*)(uintptr_t)send, values, n * bytesOf(r->type), cudaMemcpyHostToDevice));
    free(values);
  }
#ifdef PLAY_LINKED
  if (spec) {
    const slimDataType_t type = (slimDataType_t)r->type;
    const slimRedOp_t slimOp = !strcmp(opName, "avg") ? slimAvg : slimSum;
    const slimTensor_t t = tensorOf(p, recv, n, k, slimOp);
    const slimResult_t result = k == allReduce ? slimAllReduce(send, recv, n, type, slimOp, t, c->slim, p->stream)
                                : k == reduceScatter
                                    ? slimReduceScatter(send, recv, n, type, slimOp, t, c->slim, p->stream)
                                : k == allGather ? slimAllGather(send, recv, n, type, t, c->slim, p->stream)
                                : k == broadcast ? slimBroadcast(send, recv, n, type, root, t, c->slim, p->stream)
                                                 : slimReduce(send, recv, n, type, slimOp, root, t, c->slim, p->stream);
    if (result != slimSuccess) die("slimccl", slimGetLastError());
    return ncclSuccess;
  }
#endif
  ncclRedOp_t op = opOf(p, opName, r->type);
  ncclResult_t result = ncclSuccess;
  if (k == allReduce) result = ncclAllReduce(send, recv, n, r->type, op, c->comm, p->stream);
  if (k == reduceScatter) result = ncclReduceScatter(send, recv, n, r->type, op, c->comm, p->stream);
  if (k == allGather) result = ncclAllGather(send, recv, n, r->type, c->comm, p->stream);
  if (k == broadcast) result = ncclBroadcast(send, recv, n, r->type, root, c->comm, p->stream);
  if (k == reduce) result = ncclReduce(send, recv, n, r->type, op, root, c->comm, p->stream);
  while (result == ncclInProgress) NCCL(ncclCommGetAsyncError(c->comm, &result));
  if (!strcmp(opName, "half")) NCCL(ncclRedOpDestroy(op, c->comm)); /* as PyTorch does: also before the group's end */
  return result;
}

static void tell(void* told) { atomic_store((atomic_bool*)told, true); }

static void* abortSoon(void* context) {
  usleep(20000);
  ncclCommAbort(((Player*)context)->aborting);
  return NULL;
}

static void members(Comm* c, const Player* p, const Comm* parent, int parts, int without) {
  const int me = parent ? parent->rank : p->rank, n = parent ? parent->ranks : ranks;
  *c = (Comm){.rank = 0};
  for (int r = 0; r < n; r++) {
    if (r == without || r % parts != me % parts) continue;
    if (r == me) c->rank = c->ranks;
    c->member[c->ranks++] = parent ? parent->member[r] : r;
  }
}

static bool is(const char* a, const char* b) { return !strcmp(a, b); }

/* One command for one rank. w: words; missing ones are "". */
static ncclResult_t perform(Player* p, char w[mostWords][32]) {
  Comm* c = &p->comm[atoi(w[1]) % mostComms];
  if (is(w[0], "init") || is(w[0], "nonblocking")) {
    const size_t k = (size_t)(c - p->comm);
    members(c, p, NULL, 1, -1);
    if (mode == one) {
      static ncclComm_t made[mostRanks];
      if (p->rank == 0) NCCL(ncclCommInitAll(made, ranks, NULL));
      c->comm = made[p->rank];
      return ncclSuccess;
    }
    barrier();
    if (p->rank == 0) NCCL(ncclGetUniqueId(&shared->id[k]));
    barrier();
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = is(w[0], "init");
    if (*w[2]) config.commName = w[2];
    ncclResult_t state = ncclCommInitRankConfig(&c->comm, ranks, shared->id[k], p->rank, &config);
    while (state == ncclInProgress) NCCL(ncclCommGetAsyncError(c->comm, &state));
#ifdef PLAY_LINKED
    slimConfig_t settings = SLIM_CONFIG_INITIALIZER;
    settings.deviceBytes = getenv("PLAY_BYTES") ? strtoul(getenv("PLAY_BYTES"), NULL, 10) : 32 << 20;
    if (spec && slimCommInitNCCL(&c->slim, c->comm, &settings) != slimSuccess)
      die("slimCommInitNCCL", slimGetLastError());
#endif
    return state;
  }
  if (is(w[0], "split")) {
    const Comm* parent = &p->comm[atoi(w[2]) % mostComms];
    members(c, p, parent, atoi(w[3]), -1);
    return ncclCommSplit(parent->comm, parent->rank % atoi(w[3]), 0, &c->comm, NULL);
  }
  if (is(w[0], "shrink")) {
    const Comm* parent = &p->comm[atoi(w[2]) % mostComms];
    int without = atoi(w[3]);
    members(c, p, parent, 1, without);
    if (parent->rank == without) return ncclSuccess;
    return ncclCommShrink(parent->comm, &without, 1, &c->comm, NULL, NCCL_SHRINK_DEFAULT);
  }
  if (is(w[0], "on")) return p->on = atoi(w[1]), ncclSuccess;
  if (is(w[0], "destroy")) return ncclCommDestroy(c->comm);
  if (is(w[0], "abort")) return ncclCommAbort(c->comm);
  if (is(w[0], "aborts")) {
    p->aborting = c->comm;
    if (pthread_create(&p->aborter, NULL, abortSoon, p)) die("pthread_create", "failed");
    return ncclSuccess;
  }
  if (is(w[0], "async")) {
    ncclResult_t state;
    NCCL(ncclCommGetAsyncError(c->comm, &state));
    printf("rank %d: async: %s\n", p->rank, ncclGetErrorString(state));
    return ncclSuccess;
  }
  if (is(w[0], "buffers")) {
    const ncclDataType_t type = is(w[3], "f16")    ? ncclFloat16
                                : is(w[3], "bf16") ? ncclBfloat16
                                : is(w[3], "f64")  ? ncclFloat64
                                : is(w[3], "i32")  ? ncclInt32
                                                   : ncclFloat32;
    for (const char* b = w[1]; *b; b++) {
      Buffer* to = &p->buffer[*b - 'a'];
      CUDA(cudaFree(to->data));
      *to = (Buffer){.count = strtoul(w[2], NULL, 10), .type = type};
      CUDA(cudaMalloc((void**)&to->data, to->count * bytesOf(type)));
    }
    return ncclSuccess;
  }
  if (is(w[0], "swap")) {
    Buffer *a = &p->buffer[w[1][0] - 'a'], *b = &p->buffer[w[2][0] - 'a'];
    char* data = a->data;
    a->data = b->data;
    b->data = data;
    return ncclSuccess;
  }
  if (is(w[0], "fill")) {
    for (const char* b = w[1]; *b; b++) fillBuffer(p, *b, w[2][0], strtod(w[3], NULL));
    return ncclSuccess;
  }
  if (is(w[0], "check")) {
    for (const char* b = w[2]; *b; b++) check(p, w[1], *b);
    return ncclSuccess;
  }
  for (int k = allReduce; k <= (int)reduce; k++) {
    if (!is(w[0], collectives[k])) continue;
    ncclResult_t result = ncclSuccess;
    for (size_t i = 0; w[1][i] && result == ncclSuccess; i++)
      result = call(p, (Collective)k, w[1][i], *w[2] == '=' ? '=' : w[2][i], w[3], w[4], atoi(w[5]));
    return result;
  }
  if (is(w[0], "sync")) {
    CUDA(cudaStreamSynchronize(p->stream));
    return ncclSuccess;
  }
  if (is(w[0], "graph")) {
    p->graph = &p->graphs[atoi(w[1]) & 3];
    p->exec = &p->execs[atoi(w[1]) & 3];
    return ncclSuccess;
  }
  if (is(w[0], "stream")) return p->stream = p->streams[atoi(w[1]) & 1], ncclSuccess;
  if (is(w[0], "barrier")) return barrier(), ncclSuccess;
  if (is(w[0], "seal")) return atomic_store(&sealed, true), ncclSuccess;
  if (is(w[0], "pause")) return usleep((unsigned)atoi(w[1]) * 1000), ncclSuccess;
  if (is(w[0], "signal")) return raise(SIGUSR1), ncclSuccess;
  if (is(w[0], "capture")) {
    CUDA(cudaStreamBeginCapture(p->stream, cudaStreamCaptureModeThreadLocal));
    return ncclSuccess;
  }
  if (is(w[0], "end_capture")) {
    CUDA(cudaStreamEndCapture(p->stream, p->graph));
    CUDA(cudaGraphInstantiate(p->exec, *p->graph, 0));
    return ncclSuccess;
  }
  if (is(w[0], "replay")) {
    CUDA(cudaGraphLaunch(*p->exec, p->stream));
    return ncclSuccess;
  }
  if (is(w[0], "drop")) {
    CUDA(cudaGraphDestroy(*p->graph));
    CUDA(cudaGraphExecDestroy(*p->exec));
    return ncclSuccess;
  }
  if (is(w[0], "dropped")) {
    atomic_bool told = false;
    cudaUserObject_t last; /* the driver tells owners one after the other */
    CUDA(cudaUserObjectCreate(&last, &told, tell, 1, cudaUserObjectNoDestructorSync));
    CUDA(cudaUserObjectRelease(last, 1));
    while (!atomic_load(&told)) usleep(100);
    return ncclSuccess;
  }
  if (is(w[0], "ranges")) {
    void* recorder = dlopen(getenv("NVTX_INJECTION64_PATH"), RTLD_LAZY | RTLD_NOLOAD);
    if (!recorder) die("NVTX", "the recorder was not loaded");
    uint64_t (*const count)(const char*) = (uint64_t(*)(const char*))dlsym(recorder, "recorderCount");
    static const char* const names[] = {"encode", "exchange", "reduce", "decode"};
    for (int i = 0; i < 4; i++) {
      char full[32];
      snprintf(full, sizeof full, "SlimCCL/%s", names[i]);
      printf("%s.ranges %llu\n", names[i], (unsigned long long)count(full));
    }
    return ncclSuccess;
  }
  if (is(w[0], "hog")) {
    size_t unused, total;
    void* taken;
    CUDA(cudaMemGetInfo(&unused, &total));
    CUDA(cudaMalloc(&taken, unused - ((size_t)atoi(w[1]) << 10)));
    return ncclSuccess;
  }
  if (is(w[0], "child")) {
    const pid_t child = fork();
    if (child == 0) exit(0);
    return waitpid(child, NULL, 0) == child ? ncclSuccess : ncclSystemError;
  }
  if (is(w[0], "used")) {
    size_t left, total;
    CUDA(cudaMemGetInfo(&left, &total));
    labelOf(p, w[1], 0)->peak = (double)(total - left);
    return ncclSuccess;
  }
  die(w[0], "unknown command");
}

extern void slimMarkStep(void) __attribute__((weak));

/* ---- Players ---------------------------------------------------------------------------------------------------- */

static bool communicates(const char* name) {
  for (int k = 0; k <= (int)reduce; k++)
    if (is(name, collectives[k])) return true;
  return is(name, "split") || is(name, "shrink") || is(name, "destroy");
}

/* The script, for the n ranks of this thread. */
static void play(Player* players, int n) {
  int at = 0, depth = 0, start[8], left[8];
  for (int i = 0; i < n; i++) {
    CUDA(cudaSetDevice(players[i].rank));
    for (int s = 0; s < 2; s++) CUDA(cudaStreamCreateWithFlags(&players[i].streams[s], cudaStreamNonBlocking));
    players[i].stream = players[i].streams[0];
  }
  for (; at < commands; at++) {
    char w[mostWords][32] = {""};
    const char* text = command[at];
    int only = -1, used = 0;
    bool mayFail = false;
    if (sscanf(text, " @%d%n", &only, &used) == 1) text += used;
    text += strspn(text, " \n");
    if (*text == '?') mayFail = true, text++;
    if (sscanf(text, "%31s %31s %31s %31s %31s %31s %31s %31s", w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]) < 1)
      continue;
    if (is(w[0], "loop")) {
      start[depth] = at;
      left[depth++] = atoi(w[1]);
      continue;
    }
    if (is(w[0], "end")) {
      for (int i = 0; i < n; i++) players[i].iteration++;
      if (--left[depth - 1] > 0)
        at = start[depth - 1];
      else
        depth--;
      continue;
    }
    ncclResult_t result = ncclSuccess;
    bool mine = false;
    for (int i = 0; i < n; i++) mine = mine || only < 0 || players[i].rank == only;
    if (!mine) continue;
    if (is(w[0], "step")) {
      if (slimMarkStep) slimMarkStep();
      continue;
    }
    if (is(w[0], "group")) {
      result = ncclGroupStart();
    } else if (is(w[0], "end_group")) {
      result = ncclGroupEnd();
    } else {
      const bool grouped = n > 1 && communicates(w[0]);
      if (grouped) NCCL(ncclGroupStart());
      for (int i = 0; i < n; i++) {
        if (only >= 0 && players[i].rank != only) continue;
        CUDA(cudaSetDevice(players[i].rank));
        const ncclResult_t answer = perform(&players[i], w);
        if (result == ncclSuccess) result = answer;
      }
      const ncclResult_t ended = grouped ? ncclGroupEnd() : ncclSuccess;
      if (result == ncclSuccess) result = ended;
    }
    if (mayFail && result != ncclSuccess)
      printf("rank %d: %s: %s\n", players[0].rank, w[0], ncclGetErrorString(result));
    else if (result != ncclSuccess)
      die(command[at], ncclGetErrorString(result));
  }
  for (int i = 0; i < n; i++)
    if (players[i].aborting) pthread_join(players[i].aborter, NULL);
  fflush(stdout);
}

static void* playOne(void* player) {
  play(player, 1);
  return NULL;
}

/* Breakpoints in what every use of the driver comes by. */
static void seal(void) {
  static const char* const names[] = {"cuCtxPushCurrent_v2", "cuStreamSynchronize", "cuEventQuery", "cuMemFree_v2",
                                      "cuCtxSynchronize"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    unsigned char* at = dlsym(RTLD_DEFAULT, names[i]);
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    if (!at || mprotect((void*)((uintptr_t)at & ~(page - 1)), page, PROT_READ | PROT_WRITE | PROT_EXEC))
      die(names[i], "not found");
    *at = 0xcc;
  }
}

static void summary(void) {
  for (int i = 0; i < mostLabels; i++) {
    Label all = shared->label[0][i];
    int differ = 0;
    if (!*all.name) break;
    for (int r = 1; r < ranks; r++)
      for (int j = 0; j < mostLabels; j++) {
        const Label* l = &shared->label[r][j];
        if (strcmp(l->name, all.name)) continue;
        all.last = fmax(all.last, l->last);
        all.worst = fmax(all.worst, l->worst);
        all.mean = fmax(all.mean, l->mean);
        all.peak = fmax(all.peak, l->peak);
        all.off = !(l->off <= all.off) ? l->off : all.off;
        differ += l->hash != all.hash;
      }
    printf("%s.calls %d\n%s.last %.9g\n%s.worst %.9g\n%s.mean %.9g\n", all.name, all.calls, all.name, all.last,
           all.name, all.worst, all.name, all.mean);
    printf("%s.peak %.9g\n%s.off %.9g\n%s.differ %d\n%s.bits: %016llx\n", all.name, all.peak, all.name, all.off,
           all.name, differ, all.name, (unsigned long long)all.hash);
  }
}

int main(int argc, char** argv) {
  static Player player[mostRanks];
  pthread_barrierattr_t across;
  if (argc < 4) return 2;
  mode = is(argv[1], "threads") ? threads : is(argv[1], "one") ? one : processes;
  ranks = atoi(argv[2]);
  if (ranks < 1 || ranks > mostRanks) return 2;
  for (char* next = strtok(argv[3], ";"); next && commands < mostCommands; next = strtok(NULL, ";"))
    command[commands++] = next;
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED || commands == mostCommands) return 2;
  pthread_barrierattr_init(&across);
  pthread_barrierattr_setpshared(&across, PTHREAD_PROCESS_SHARED);
  pthread_barrier_init(&shared->barrier, &across, (unsigned)ranks);
  for (int i = 4; i + 1 < argc; i++)
    if (is(argv[i], "--linked")) spec = argv[i + 1];
  for (int r = 0; r < ranks; r++) {
    player[r].rank = r;
    player[r].graph = player[r].graphs;
    player[r].exec = player[r].execs;
  }

  int failed = 0, status;
  pthread_t thread[mostRanks];
  if (mode == one) play(player, ranks);
  for (int r = 0; r < ranks && mode == threads; r++)
    if (pthread_create(&thread[r], NULL, playOne, &player[r])) return 2;
  for (int r = 0; r < ranks && mode == threads; r++) pthread_join(thread[r], NULL);
  for (int r = 0; r < ranks && mode == processes; r++) {
    if (fork()) continue;
    for (int i = 4; i + 2 < argc; i++)
      if (is(argv[i], "--env") && atoi(argv[i + 1]) == r) putenv(argv[i + 2]);
    play(&player[r], 1);
    exit(0);
  }
  while (mode == processes && wait(&status) > 0) failed |= status != 0;
  summary();
  if (sealed) seal();
  return failed;
}
