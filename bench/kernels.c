/* Speed of the CPU kernels beside the memory limit: a plain loop over the same streams (the same reads and writes, one
 * add an element), timed in the same run, turn by turn. Figures are GB/s of fp32 elements.
 *
 *   bazelw run -c opt //bench:kernels -- [--mib N]... [--threads N]... [--cpu NAME]... [--only TEXT] [--seconds S]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/streams.h"
#include "compress/kernels.h"

static const char* const specs[] = {"fp16",
                                    "bf16",
                                    "fp8",
                                    "fp8(format=e5m2)",
                                    "sign",
                                    "onebit",
                                    "onebit(dither)",
                                    "ternary",
                                    "ternary(norm=2)",
                                    "qsgd(bits=2)",
                                    "qsgd(bits=4)",
                                    "qsgd(bits=4, rounding=nearest)",
                                    "qsgd(bits=8)",
                                    "natural",
                                    "tnqsgd(bits=3)",
                                    "rotate(onebit)",
                                    "rotate(qsgd(bits=4))",
                                    "topk(ratio=0.01)",
                                    "topk(ratio=0.01, scope=chunk)",
                                    "topk(ratio=0.001, scope=chunk)",
                                    "topk(ratio=0.01, scope=global)",
                                    "randk(ratio=0.01)",
                                    "induced(topk(ratio=0.01), qsgd(bits=4))"};

enum { encode, encodeEf, reduce4, decode, decodeAdd, kinds };
static const char* const kindNames[] = {"encode", "encode+ef", "reduce of 4", "decode", "decode-add"};

typedef struct {
  float *x, *s, *y;
  uint8_t* payload[5];
  size_t n, bytes; /* elements, and of a payload */
  slimDirection plain, ef;
  slimPool* pool;
  int threads;
} bench;

/* One thread is timed by its own CPU clock, which another program's turn on the core does not count into. */
static double now(int threads) {
  struct timespec t;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(slimResult_t result) {
  if (result == slimSuccess) return;
  fprintf(stderr, "kernels: %s\n", slimLastMessage());
  exit(1);
}

static void* allocate(size_t bytes) {
  void* p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (!p) {
    fprintf(stderr, "kernels: no memory for %zu bytes\n", bytes);
    exit(1);
  }
  memset(p, 0, bytes);
  return p;
}

static void runKernel(const bench* b, int kind, uint64_t step) {
  slimPassStats stats = {0};
  const slimStamp stamp = {.seed = 1, .step = step};
  const uint8_t* in[4] = {b->payload[0], b->payload[1], b->payload[2], b->payload[3]};
  switch (kind) {
    case encode:
    case encodeEf: {
      const slimEncodePass pass = {kind == encode ? &b->plain : &b->ef,
                                   stamp,
                                   slimFloat32,
                                   b->x,
                                   b->n,
                                   0,
                                   kind == encode ? NULL : b->s,
                                   NULL,
                                   b->payload[4],
                                   &stats,
                                   NULL,
                                   NULL,
                                   NULL};
      check(slimPassEncode(&pass, b->pool));
      break;
    }
    case reduce4: {
      slimStamp down = stamp;
      down.down = true;
      const slimReducePass pass = {&b->plain, down, slimFloat32,   b->n, 0, 4,      in,   .25,  NULL,
                                   &b->ef,    b->s, b->payload[4], NULL, 1, &stats, NULL, NULL, NULL};
      check(slimPassReduce(&pass, b->pool));
      break;
    }
    default: {
      slimDirection add = b->plain;
      add.feedback.lambda = 1;
      const slimDecodePass pass = {
          &add, stamp, slimFloat32, b->n, 0, b->payload[0], kind == decode ? NULL : b->s, kind == decode ? b->y : NULL,
          1,    NULL};
      check(slimPassDecode(&pass, b->pool));
    }
  }
}

static void limitTask(void* context, int part, int parts) {
  const bench* b = ((void**)context)[0];
  const int kind = *(int*)((void**)context)[1];
  const size_t blocks = b->n / STREAM_BLOCK, from = blocks * (size_t)part / (size_t)parts,
               to = blocks * (size_t)(part + 1) / (size_t)parts;
  const size_t each = b->bytes / blocks;
  const float* x = b->x + from * STREAM_BLOCK;
  float *s = b->s + from * STREAM_BLOCK, *y = b->y + from * STREAM_BLOCK;
  const uint8_t* in[4];
  for (int r = 0; r < 4; r++) in[r] = b->payload[r] + from * each;
  uint8_t* out = b->payload[4] + from * each;
  switch (kind) {
    case encode:
      streamEncode(x, out, to - from, each);
      break;
    case encodeEf:
      streamEncodeState(x, s, out, to - from, each);
      break;
    case reduce4:
      streamReduce(in, s, out, to - from, each);
      break;
    case decode:
      streamDecode(in[0], y, to - from, each);
      break;
    default:
      streamDecodeAdd(in[0], s, to - from, each);
  }
}

static int compareDoubles(const void* a, const void* b) {
  return (*(const double*)a > *(const double*)b) - (*(const double*)a < *(const double*)b);
}

/* Median seconds of the kernel and of its limit, in turn. */
static void measure(bench* b, int kind, double seconds, double* kernel, double* limit) {
  double k[400], l[400];
  int runs = 0;
  void* context[2] = {b, &kind};
  runKernel(b, kind, 0);
  streamRun(limitTask, context, b->threads);
  const double begin = now(b->threads);
  while (runs < 400 && (runs < 5 || now(b->threads) - begin < seconds)) {
    double t = now(b->threads);
    runKernel(b, kind, (uint64_t)runs + 1);
    k[runs] = now(b->threads) - t;
    t = now(b->threads);
    streamRun(limitTask, context, b->threads);
    l[runs++] = now(b->threads) - t;
  }
  qsort(k, (size_t)runs, sizeof *k, compareDoubles);
  qsort(l, (size_t)runs, sizeof *l, compareDoubles);
  *kernel = k[runs / 2];
  *limit = l[runs / 2];
}

static void table(const char* cpu, double mib, int threads, const char* only, double seconds) {
  slimActiveKernels = slimKernelsByName(cpu);
  if (!slimActiveKernels) {
    printf("\n%s: not on this machine\n", cpu);
    return;
  }
  bench b = {.n = (size_t)(mib * 262144) / 8192 * 8192, .threads = threads};
  check(slimPoolCreate(&b.pool, threads));
  b.x = allocate(4 * b.n);
  b.s = allocate(4 * b.n);
  b.y = allocate(4 * b.n);
  uint32_t state = 1;
  for (size_t i = 0; i < b.n; i++) {
    float sum = 0;
    for (int j = 0; j < 4; j++) sum += (float)((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-24f - .5f;
    b.x[i] = sum * .01f;
  }
  printf("\n%s, %g MiB, %d thread%s: GB/s of fp32, then (share of the limit)\n\n| codec |", cpu, mib, threads,
         threads > 1 ? "s" : "");
  for (int kind = 0; kind < kinds; kind++) printf(" %s |", kindNames[kind]);
  printf("\n|---|---|---|---|---|---|\n");
  for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
    if (only && !strstr(specs[i], only)) continue;
    slimCompressor *c, *e = NULL;
    check(slimCompressorCreate(&c, specs[i]));
    char ef[128];
    snprintf(ef, sizeof ef, "ef(%s)", specs[i]);
    b.plain = c->up;
    if (slimCompressorCreate(&e, ef) == slimSuccess) b.ef = e->up;
    b.bytes = slimPayloadBytes(b.plain.tree, slimFloat32, b.n);
    for (int r = 0; r < 5; r++) b.payload[r] = allocate(b.bytes + 4096);
    memset(b.s, 0, 4 * b.n);
    for (int r = 0; r < 4; r++) {
      const slimEncodePass pass = {&b.plain,     {.seed = 1, .rank = (uint32_t)r},
                                   slimFloat32,  b.x,
                                   b.n,          0,
                                   NULL,         NULL,
                                   b.payload[r], NULL,
                                   NULL,         NULL,
                                   NULL};
      check(slimPassEncode(&pass, b.pool));
    }
    printf("| %s |", specs[i]);
    for (int kind = 0; kind < kinds; kind++) {
      if (!e && (kind == encodeEf || kind == reduce4)) {
        printf(" – |");
        continue;
      }
      double kernel, limit;
      measure(&b, kind, seconds, &kernel, &limit);
      printf(" %.2f of %.2f (%.2f) |", 4e-9 * (double)b.n / kernel, 4e-9 * (double)b.n / limit, limit / kernel);
      fflush(stdout);
    }
    printf("\n");
    for (int r = 0; r < 5; r++) free(b.payload[r]);
    slimCompressorDestroy(c);
    slimCompressorDestroy(e);
  }
  slimPoolDestroy(b.pool);
  free(b.x);
  free(b.s);
  free(b.y);
}

static void usage(void) {
  fprintf(stderr,
          "usage: kernels [--mib N]... [--threads N]... [--cpu baseline|avx2|avx512]... [--only TEXT] [--seconds S]\n");
  exit(2);
}

int main(int argc, char** argv) {
  double mibs[8], seconds = .3;
  int threads[8], mibCount = 0, threadCount = 0, cpuCount = 0;
  const char *cpus[8], *only = NULL;
  for (int i = 1; i < argc; i++) {
    if (i + 1 == argc || mibCount == 8 || threadCount == 8 || cpuCount == 8) usage();
    const char *name = argv[i++], *value = argv[i];
    if (strcmp(name, "--mib") == 0 && atof(value) > 0)
      mibs[mibCount++] = atof(value);
    else if (strcmp(name, "--threads") == 0 && atoi(value) > 0)
      threads[threadCount++] = atoi(value);
    else if (strcmp(name, "--cpu") == 0)
      cpus[cpuCount++] = value;
    else if (strcmp(name, "--only") == 0)
      only = value;
    else if (strcmp(name, "--seconds") == 0 && atof(value) > 0)
      seconds = atof(value);
    else
      usage();
  }
  if (!mibCount) mibs[mibCount++] = 128, mibs[mibCount++] = 1;
  if (!threadCount) {
    threads[threadCount++] = 1;
    const int all = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (all > 1) threads[threadCount++] = all;
  }
  if (!cpuCount) cpus[cpuCount++] = slimCpuName();
  for (int c = 0; c < cpuCount; c++)
    for (int m = 0; m < mibCount; m++)
      for (int t = 0; t < threadCount; t++) table(cpus[c], mibs[m], threads[t], only, seconds);
  return 0;
}
