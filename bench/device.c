/* Speed of the CUDA kernels beside a copy from device to device, timed in the same run on the same device. GB/s are of
 * the bytes that a pass must read and write: elements, payloads, and with ef the memory, twice.
 *
 *   bazelw run -c opt //bench:device -- [--mib N] [--device N] [--only TEXT] [--repeats N]
 *
 * Exit status 77: there is no driver or no device to measure.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compress/cuda/passes.h"

enum { noDevice = 77, payloads = 8, warmUps = 3 };

static const char* const specs[] = {"fp16",
                                    "bf16",
                                    "fp8",
                                    "fp8(format=e5m2)",
                                    "sign",
                                    "onebit",
                                    "ternary",
                                    "natural",
                                    "qsgd(bits=2)",
                                    "qsgd(bits=4)",
                                    "qsgd(bits=8)",
                                    "tnqsgd(bits=3)",
                                    "rotate(qsgd(bits=4))",
                                    "topk(ratio=0.01)",
                                    "randk(ratio=0.01)",
                                    "topk(ratio=0.01, scope=chunk)"};

enum { encode, encodeEf, reduce, decode, kinds };
static const char* const kindNames[] = {"encode", "encode+ef", "reduce of 8", "decode"};

typedef struct {
  slimCudaDevice* device;
  CUstream stream;
  CUevent begin, end;
  PFN_cuEventElapsedTime_v2000 elapsed;
  uint64_t n;
  float *x, *y, *s;
  uint8_t* in;  /* payloads, one behind the other */
  uint8_t* out; /* the downlink's */
  unsigned long long* report;
  int repeats;
} bench;

static void fail(const char* what) {
  fprintf(stderr, "device: %s\n", what);
  exit(1);
}
static void check(slimResult_t result) {
  if (result != slimSuccess) fail(slimLastMessage());
}
static void cuda(CUresult error, const char* what) {
  if (error != CUDA_SUCCESS) check(slimDriverFail(error, "%s", what));
}
#define CU(name, ...) cuda(slimCu.name(__VA_ARGS__), #name)

static CUdeviceptr at(const void* p) { return (CUdeviceptr)(uintptr_t)p; }

static void* allocate(size_t bytes) {
  CUdeviceptr p;
  CU(MemAlloc, &p, bytes ? bytes : 1);
  return (void*)(uintptr_t)p;
}

static int byValue(const void* a, const void* b) {
  const float x = *(const float*)a, y = *(const float*)b;
  return x < y ? -1 : x > y;
}

typedef slimResult_t (*work)(const bench* b, const void* context);

/* Seconds: the median of what events saw around single calls. */
static double timeOf(const bench* b, work run, const void* context) {
  float* ms = malloc((size_t)b->repeats * sizeof *ms);
  if (!ms) fail("out of memory");
  for (int i = -warmUps; i < b->repeats; i++) {
    CU(EventRecord, b->begin, b->stream);
    check(run(b, context));
    CU(EventRecord, b->end, b->stream);
    CU(StreamSynchronize, b->stream);
    if (i >= 0) cuda(b->elapsed(&ms[i], b->begin, b->end), "EventElapsedTime");
  }
  qsort(ms, (size_t)b->repeats, sizeof *ms, byValue);
  const double seconds = 1e-3 * ms[b->repeats / 2];
  free(ms);
  return seconds;
}

static slimResult_t copyOnce(const bench* b, const void* context) {
  (void)context;
  SLIM_CU(MemcpyAsync, at(b->y), at(b->x), b->n * sizeof(float), b->stream);
  return slimSuccess;
}

typedef struct {
  const slimCompressor* compressor;
  slimCudaQueue queue;
  int kind;
  size_t bytes; /* of a payload */
} measured;

static slimResult_t passOnce(const bench* b, const void* context) {
  const measured* m = context;
  const slimStamp stamp = {.hash = 1, .seed = 1};
  const slimSplit one = {1, slimTreeUnit(m->compressor->up.tree), m->bytes};
  const uint8_t* first = b->in;
  switch (m->kind) {
    case encode:
    case encodeEf:
      return slimCudaEncode(&m->queue,
                            &(slimEncodePass){.direction = &m->compressor->up,
                                              .stamp = stamp,
                                              .type = slimFloat32,
                                              .x = b->x,
                                              .n = b->n,
                                              .s = m->kind == encodeEf ? b->s : NULL,
                                              .payload = b->in},
                            &one);
    case reduce:
      return slimCudaReduce(&m->queue,
                            &(slimReducePass){.up = &m->compressor->up,
                                              .stamp = {.hash = 1, .seed = 1, .down = true},
                                              .type = slimFloat32,
                                              .n = b->n,
                                              .ranks = payloads,
                                              .payloads = &first,
                                              .weight = 1.0 / payloads,
                                              .down = &m->compressor->down,
                                              .payload = b->out,
                                              .factor = 1},
                            m->bytes);
    default:
      return slimCudaDecode(&m->queue,
                            &(slimDecodePass){.direction = &m->compressor->up,
                                              .stamp = stamp,
                                              .type = slimFloat32,
                                              .n = b->n,
                                              .payload = b->in,
                                              .y = b->y,
                                              .factor = 1},
                            &one);
  }
}

static double bytesOf(const bench* b, const measured* m) {
  const double elements = 4.0 * (double)b->n, payload = (double)m->bytes;
  switch (m->kind) {
    case encode:
    case decode:
      return elements + payload;
    case encodeEf:
      return 3 * elements + payload;
    default:
      return payloads * payload + (double)slimPayloadBytes(m->compressor->down.tree, slimFloat32, b->n);
  }
}

/* Prints one spec's row; memory: it with ef around, or NULL where ef refuses it. */
static void row(const bench* b, const char* spec, const slimCompressor* plain, const slimCompressor* memory,
                double copyRate) {
  printf("| `%s` |", spec);
  for (int kind = 0; kind < kinds; kind++) {
    const slimCompressor* c = kind == encodeEf ? memory : plain;
    if (!c) {
      printf(" – |");
      continue;
    }
    slimCudaSlot* first = malloc(slimCudaSlotBytes(c));
    if (!first) fail("out of memory");
    slimCudaSlotStart(first, c);
    slimCudaSlot* slot = allocate(slimCudaSlotBytes(c));
    measured m = {
        .compressor = c,
        .queue = {.device = b->device, .stream = b->stream, .compressor = c, .slot = slot, .report = b->report},
        .kind = kind,
        .bytes = slimPayloadBytes(c->up.tree, slimFloat32, b->n)};
    check(slimCudaWorkspace(b->device, c, slimFloat32, b->n, payloads, &m.queue.workspaceBytes));
    m.queue.workspace = allocate(m.queue.workspaceBytes);
    CU(MemcpyAsync, at(slot), at(first), slimCudaSlotBytes(c), b->stream);
    if (kind == reduce) { /* of every rank's own payload, with its header */
      for (uint32_t r = 0; r < payloads; r++) {
        const slimEncodePass pass = {.direction = &c->up,
                                     .stamp = {.hash = 1, .seed = 1, .rank = r},
                                     .type = slimFloat32,
                                     .x = b->x,
                                     .n = b->n,
                                     .payload = b->in + r * m.bytes};
        check(slimCudaEncode(&m.queue, &pass, &(slimSplit){1, slimTreeUnit(c->up.tree), 0}));
      }
    }
    const double rate = bytesOf(b, &m) / timeOf(b, passOnce, &m) * 1e-9;
    printf(" %.0f (%.2f) |", rate, rate / copyRate);
    fflush(stdout);
    CU(StreamSynchronize, b->stream);
    free(first);
    CU(MemFree, at(slot));
    CU(MemFree, at(m.queue.workspace));
  }
  printf("\n");
}

/* x: values of a heavy-tailed bell, the same everywhere. */
static void fill(const bench* b) {
  enum { block = 1 << 16 };
  float* values = malloc(block * sizeof *values);
  if (!values) fail("out of memory");
  uint64_t state = 1;
  for (int i = 0; i < block; i++) {
    double sum = 0;
    for (int k = 0; k < 4; k++) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      sum += (double)(state >> 40) * 0x1p-24 - .5;
    }
    values[i] = (float)(sum * exp(2 * ((double)(state >> 40) * 0x1p-24)));
  }
  for (uint64_t i = 0; i < b->n; i += block) {
    const uint64_t m = b->n - i < block ? b->n - i : block;
    CU(MemcpyAsync, at(b->x + i), at(values), m * sizeof *values, b->stream);
  }
  CU(MemsetD8Async, at(b->s), 0, b->n * sizeof(float), b->stream);
  CU(StreamSynchronize, b->stream);
  free(values);
}

static const char* valueOf(int argc, char** argv, const char* name, const char* otherwise) {
  for (int i = 1; i + 1 < argc; i++)
    if (!strcmp(argv[i], name)) return argv[i + 1];
  return otherwise;
}

int main(int argc, char** argv) {
  const char* only = valueOf(argc, argv, "--only", "");
  const int ordinal = atoi(valueOf(argc, argv, "--device", "0"));
  bench b = {.n = (uint64_t)atoll(valueOf(argc, argv, "--mib", "256")) << 18,
             .repeats = atoi(valueOf(argc, argv, "--repeats", "11"))};
  if (!b.n || b.repeats < 1) fail("--mib and --repeats are numbers above 0");
  if (slimDriverOpen() != slimDriverReady) {
    fprintf(stderr, "device: %s\n", slimLastMessage());
    return noDevice;
  }
  int count = 0, version = 0;
  if (slimCu.DeviceGetCount(&count) != CUDA_SUCCESS || !count) {
    fprintf(stderr, "device: the driver shows no device\n");
    return noDevice;
  }
  check(slimCudaDeviceOf(&b.device, ordinal));
  check(slimCudaEnter(b.device));
  PFN_cuDeviceGetName_v2000 nameOf;
  check(slimDriverFind((void**)&b.elapsed, "cuEventElapsedTime", 2000));
  check(slimDriverFind((void**)&nameOf, "cuDeviceGetName", 2000));
  CU(StreamCreate, &b.stream, CU_STREAM_NON_BLOCKING);
  CU(EventCreate, &b.begin, CU_EVENT_DEFAULT);
  CU(EventCreate, &b.end, CU_EVENT_DEFAULT);

  slimCompressor *plain[sizeof specs / sizeof *specs], *memory[sizeof specs / sizeof *specs];
  size_t largest = 0, downlink = 0;
  for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
    char text[160];
    snprintf(text, sizeof text, "ef(%s)", specs[i]);
    check(slimCompressorCreate(&plain[i], specs[i]));
    if (slimCompressorCreate(&memory[i], text) != slimSuccess) memory[i] = NULL;
    const size_t up = slimPayloadBytes(plain[i]->up.tree, slimFloat32, b.n);
    const size_t down = slimPayloadBytes(plain[i]->down.tree, slimFloat32, b.n);
    largest = up > largest ? up : largest;
    downlink = down > downlink ? down : downlink;
  }
  b.x = allocate(b.n * sizeof(float));
  b.y = allocate(b.n * sizeof(float));
  b.s = allocate(b.n * sizeof(float));
  b.in = allocate(payloads * largest);
  b.out = allocate(downlink);
  b.report = allocate(sizeof *b.report);
  CU(MemsetD8Async, at(b.report), 0, sizeof *b.report, b.stream);
  fill(&b);

  char name[128] = "?", day[32];
  const time_t now = time(NULL);
  strftime(day, sizeof day, "%Y-%m-%d", gmtime(&now));
  (void)nameOf(name, sizeof name, ordinal);
  CU(DriverGetVersion, &version);
  const double copyRate = 2 * 4.0 * (double)b.n / timeOf(&b, copyOnce, NULL) * 1e-9;
  printf(
      "%s, driver for CUDA %d.%d, %s. %.4g Mi elements of fp32; a copy from device to device: %.0f GB/s (read and\n"
      "written). GB/s of the bytes that must move, and that over the copy's in brackets; median of %d.\n\n",
      name, version / 1000, version % 1000 / 10, day, (double)b.n / (1 << 20), copyRate, b.repeats);
  printf("| spec |");
  for (int kind = 0; kind < kinds; kind++) printf(" %s |", kindNames[kind]);
  printf("\n|---|---|---|---|---|\n");
  for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
    if (strstr(specs[i], only)) row(&b, specs[i], plain[i], memory[i], copyRate);
    slimCompressorDestroy(plain[i]);
    slimCompressorDestroy(memory[i]);
  }

  unsigned long long found = 0;
  CU(MemcpyAsync, at(&found), at(b.report), sizeof found, b.stream);
  CU(StreamSynchronize, b.stream);
  if (found) fail("a kernel found a wrong header: what was timed is not what was meant");
  return 0;
}
