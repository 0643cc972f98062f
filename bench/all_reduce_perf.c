/* Allreduce over NCCL, plain and compressed, with the flags and columns of nccl-tests' all_reduce_perf; then columns
 * for what compression costs and saves.
 *
 *   all_reduce_perf -b 1M -e 1G -f 2 -g 8 --spec 'ef(qsgd(bits=4))' --spec bf16
 *
 * Differences: sum and avg of floating point only. A plain result is wrong (#wrong) beyond the rounding of its sum; a
 * compressed one where it is not finite or not the same on all ranks, and its error is the column `error`:
 * ‖y − exact‖ / ‖exact‖ of a first call on new data. Calls in place are timed with avg, since sums would grow until
 * they overflow. Times are of the slowest thread.
 *
 * Exit status: 0 all is right, 1 something is wrong, 2 the command line is, 77 there is no driver or no device.
 */
#include <getopt.h>
#include <math.h>
#include <nccl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compress/cuda/driver.h"
#include "plugin/slimccl_nccl.h"

enum {
  noDevice = 77,
  mostRanks = 64,
  mostSpecs = 32,
  block = 65521 /* values that differ; buffers repeat them */
};

static struct {
  size_t least, most, step;
  double factor;
  int threads, gpus, iterations, warmUps, graphs;
  bool check;
  slimDataType_t type;
  slimRedOp_t op;
  const char *json, *spec[mostSpecs];
  int specs;
} options = {32 << 20, 32 << 20, 1 << 20, 0, 1, 1, 20, 1, 0, true, slimFloat32, slimSum, NULL, {NULL}, 0};

static const struct {
  const char* name;
  slimDataType_t type;
  double epsilon; /* of one rounding */
} types[] = {{"float", slimFloat32, 0x1p-23},
             {"half", slimFloat16, 0x1p-10},
             {"bfloat16", slimBfloat16, 0x1p-7},
             {"double", slimFloat64, 0x1p-52}};
enum { numTypes = sizeof types / sizeof *types };
static const char* const opNames[] = {[slimSum] = "sum", [slimAvg] = "avg"};

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("all_reduce_perf: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(1);
}
static void check(slimResult_t result) {
  if (result != slimSuccess) fail("%s: %s", slimGetErrorString(result), slimGetLastError());
}
static void nccl(ncclResult_t result, const char* what) {
  if (result != ncclSuccess) fail("%s: %s: %s", what, ncclGetErrorString(result), ncclGetLastError(NULL));
}
#define NCCL(call) nccl(call, #call)
static void cuda(CUresult error, const char* what) {
  if (error != CUDA_SUCCESS) check(slimDriverFail(error, "%s", what));
}
#define CU(name, ...) cuda(slimCu.name(__VA_ARGS__), #name)

#define MORE_FUNCTIONS(X)             \
  X(DeviceGetName, 2000)              \
  X(StreamBeginCapture, 10010)        \
  X(StreamEndCapture, 10000)          \
  X(GraphInstantiateWithFlags, 11040) \
  X(GraphLaunch, 10000)               \
  X(GraphExecDestroy, 10000)          \
  X(GraphDestroy, 10000)
#define MEMBER(name, version) PFN_cu##name##_v##version name;
static struct { MORE_FUNCTIONS(MEMBER) } more; /* than slimCu has */
#define CU_MORE(name, ...) cuda(more.name(__VA_ARGS__), #name)

/* ---- The command line ------------------------------------------------------------------------------------------- */

static void help(void) {
  puts(
      "all_reduce_perf [flags]: times ncclAllReduce, and SlimCCL's on the same communicators\n"
      "  -b, --minbytes N      smallest size (32M)         -e, --maxbytes N      largest size (32M)\n"
      "  -i, --stepbytes N     increment (1M)              -f, --stepfactor F    or factor between sizes\n"
      "  -t, --nthreads N      threads (1)                 -g, --ngpus N         GPUs a thread (1)\n"
      "  -n, --iters N         calls that are timed (20)   -w, --warmup_iters N  calls before (1)\n"
      "  -d, --datatype T      float, half, bfloat16, double\n"
      "  -o, --op OP           sum, avg\n"
      "  -c, --check 0|1       are results right? (1)\n"
      "  -G, --cudagraph N     capture the calls in a graph, launch it N times (0: no graph)\n"
      "  -J, --output_file F   results as JSON\n"
      "      --spec SPEC       compress by this spec too; may be repeated\n"
      "  -h, --help");
  exit(0);
}

__attribute__((noreturn)) static void usage(const char* flag, const char* value) {
  fprintf(stderr, "all_reduce_perf: %s %s: see --help\n", flag, value);
  exit(2);
}

static size_t bytesOf(const char* flag, const char* text) {
  char* end;
  double n = strtod(text, &end);
  const char* suffix = *end ? strchr("KMGkmg", *end) : NULL;
  if (suffix) {
    n *= (double)(1 << 10 * ((suffix - "KMGkmg") % 3 + 1));
    end++;
  }
  if (end == text || *end || !(n >= 1 && n < 0x1p53)) usage(flag, text);
  return (size_t)n;
}
static int countOf(const char* flag, const char* text, int least) {
  char* end;
  const long n = strtol(text, &end, 10);
  if (end == text || *end || n < least || n > 1000000) usage(flag, text);
  return (int)n;
}

static void parse(int argc, char** argv) {
  enum { specFlag = 256 };
  static const struct option flags[] = {
      {"minbytes", 1, 0, 'b'},    {"maxbytes", 1, 0, 'e'},  {"stepbytes", 1, 0, 'i'}, {"stepfactor", 1, 0, 'f'},
      {"nthreads", 1, 0, 't'},    {"ngpus", 1, 0, 'g'},     {"iters", 1, 0, 'n'},     {"warmup_iters", 1, 0, 'w'},
      {"datatype", 1, 0, 'd'},    {"op", 1, 0, 'o'},        {"check", 1, 0, 'c'},     {"cudagraph", 1, 0, 'G'},
      {"output_file", 1, 0, 'J'}, {"spec", 1, 0, specFlag}, {"help", 0, 0, 'h'},      {NULL, 0, 0, 0}};
  for (int flag; (flag = getopt_long(argc, argv, "b:e:i:f:t:g:n:w:d:o:c:G:J:h", flags, NULL)) != -1;) {
    const char name[3] = {'-', (char)flag, 0};
    int found = 0;
    switch (flag) {
      case 'b':
        options.least = bytesOf(name, optarg);
        break;
      case 'e':
        options.most = bytesOf(name, optarg);
        break;
      case 'i':
        options.step = bytesOf(name, optarg);
        break;
      case 'f':
        options.factor = strtod(optarg, NULL);
        if (!(options.factor > 1)) usage(name, optarg);
        break;
      case 't':
        options.threads = countOf(name, optarg, 1);
        break;
      case 'g':
        options.gpus = countOf(name, optarg, 1);
        break;
      case 'n':
        options.iterations = countOf(name, optarg, 1);
        break;
      case 'w':
        options.warmUps = countOf(name, optarg, 0);
        break;
      case 'G':
        options.graphs = countOf(name, optarg, 0);
        break;
      case 'c':
        options.check = countOf(name, optarg, 0) != 0;
        break;
      case 'J':
        options.json = optarg;
        break;
      case 'd':
        for (; found < numTypes && strcmp(optarg, types[found].name); found++) {
        }
        if (found == numTypes) usage(name, optarg);
        options.type = types[found].type;
        break;
      case 'o':
        if (strcmp(optarg, "sum") && strcmp(optarg, "avg")) usage(name, optarg);
        options.op = *optarg == 's' ? slimSum : slimAvg;
        break;
      case specFlag:
        if (options.specs == mostSpecs) usage("--spec", "too often");
        options.spec[options.specs++] = optarg;
        break;
      case 'h':
        help();
        break;
      default:
        exit(2); /* getopt has said why */
    }
  }
  if (optind < argc) usage("?", argv[optind]);
  if (options.most < options.least) options.most = options.least;
}

/* A wrong spec is a wrong command line. */
static void checkSpecs(void) {
  slimComm_t comm;
  slimTensor_t tensor;
  check(slimCommInitLocal(&comm, 1, NULL));
  for (int s = 0; s < options.specs; s++)
    if (slimTensorCreate(&tensor, comm, options.spec[s], (uint32_t)s) != slimSuccess) {
      fprintf(stderr, "all_reduce_perf: --spec '%s': %s\n", options.spec[s], slimGetLastError());
      exit(2);
    }
  check(slimCommDestroy(comm));
}

/* ---- Ranks ------------------------------------------------------------------------------------------------------ */

typedef struct {
  int rank;
  CUcontext context;
  ncclComm_t comm;
  CUstream stream;
  CUdeviceptr x, y;
  slimComm_t slim;         /* of this size and spec */
  slimTensor_t tensors[2]; /* out of place, in place */
  CUgraphExec graph;
} rankState;

typedef struct {
  double seconds; /* of a call */
  size_t wrong;
} placed;

typedef struct {
  size_t count;
  const char* spec;   /* NULL: plain */
  placed place[2];    /* out of place, in place */
  double error, wire; /* of a call out of place: relative; bytes that a rank sends */
} row;

static int ranks;
static bool standIn; /* no GPU but CPU threads: times mean nothing */
static ncclUniqueId id;
static size_t typeBytes;
static double epsilon;
static const char* typeName;
static char* values[mostRanks];   /* a block of each rank's x */
static double *exact, *magnitude; /* sums over ranks: of x, of |x| */
static pthread_barrier_t all;
/* What threads find out, one slot a rank. */
static double seconds[mostRanks], squares[mostRanks][2];
static size_t wrongs[mostRanks];
static uint64_t hashes[mostRanks];

static void enter(const rankState* r) { CU(CtxPushCurrent, r->context); }
static void leave(void) {
  CUcontext context;
  CU(CtxPopCurrent, &context);
}
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static void* memory(size_t bytes) {
  void* p = malloc(bytes ? bytes : 1);
  if (!p) fail("no memory for %zu bytes", bytes);
  return p;
}

/* Bell-shaped, another scale every 512 values. */
static void makeValues(void) {
  exact = memory(block * sizeof *exact);
  magnitude = memory(block * sizeof *magnitude);
  double* reals = memory(block * sizeof *reals);
  float* floats = memory(block * sizeof *floats);
  memset(exact, 0, block * sizeof *exact);
  memset(magnitude, 0, block * sizeof *magnitude);
  uint64_t state = 1;
  for (int r = 0; r < ranks; r++) {
    values[r] = memory(block * typeBytes);
    for (int i = 0; i < block; i++) {
      double sum = 0;
      for (int k = 0; k < 4; k++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(state >> 40) * 0x1p-24 - .5;
      }
      reals[i] = sum * (1 + i / 512 % 8);
      floats[i] = (float)reals[i];
    }
    const bool wide = options.type == slimFloat64;
    slimFromReal(options.type, wide ? (void*)reals : floats, block, 1, values[r]);
    slimToReal(options.type, values[r], block, wide ? (void*)reals : floats);
    for (int i = 0; i < block; i++) {
      const double x = wide ? reals[i] : (double)floats[i];
      exact[i] += x;
      magnitude[i] += fabs(x);
    }
  }
  for (int i = 0; i < block && options.op == slimAvg; i++) {
    exact[i] /= ranks;
    magnitude[i] /= ranks;
  }
  free(reals);
  free(floats);
}

/* to ← the rank's values, count of them, by way of host. */
static void fill(const rankState* r, CUdeviceptr to, size_t count, char* host) {
  for (size_t i = 0; i < count; i += block)
    memcpy(host + i * typeBytes, values[r->rank], (count - i < block ? count - i : block) * typeBytes);
  CU(MemcpyAsync, to, (CUdeviceptr)(uintptr_t)host, count * typeBytes, r->stream);
  CU(StreamSynchronize, r->stream);
}

static uint64_t hashOf(const char* bytes, size_t n) {
  uint64_t hash = 1;
  for (size_t i = 0; i + 2 <= n; i += 2) {
    uint16_t half;
    memcpy(&half, bytes + i, sizeof half);
    hash = (hash ^ half) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
  }
  return hash;
}

/* Is from the result? */
static void inspect(const rankState* r, CUdeviceptr from, size_t count, bool compressed, char* host) {
  CU(MemcpyAsync, (CUdeviceptr)(uintptr_t)host, from, count * typeBytes, r->stream);
  CU(StreamSynchronize, r->stream);
  double* reals = memory(block * sizeof *reals); /* wide enough for floats */
  double distance = 0, length = 0;
  size_t wrong = 0;
  for (size_t at = 0; at < count; at += block) {
    const size_t n = count - at < block ? count - at : block;
    slimToReal(options.type, host + at * typeBytes, n, reals);
    for (size_t i = 0; i < n; i++) {
      const double y = options.type == slimFloat64 ? reals[i] : (double)((float*)reals)[i];
      const double off = fabs(y - exact[i]);
      wrong += compressed ? !isfinite(y) : !(off <= ranks * epsilon * magnitude[i]);
      distance += off * off;
      length += exact[i] * exact[i];
    }
  }
  free(reals);
  squares[r->rank][0] = distance;
  squares[r->rank][1] = length;
  wrongs[r->rank] = wrong;
  hashes[r->rank] = hashOf(host, count * typeBytes);
}

/* Around the calls of a thread that has several ranks. */
static void group(bool begins, bool compressed) {
  if (options.gpus == 1) return;
  if (compressed) {
    check(begins ? slimGroupStart() : slimGroupEnd());
  } else {
    nccl(begins ? ncclGroupStart() : ncclGroupEnd(), "a group");
  }
}

/* One call of each of a thread's ranks. */
static void call(rankState* mine, const row* row, int place, slimRedOp_t op) {
  group(true, row->spec != NULL);
  for (int g = 0; g < options.gpus; g++) {
    rankState* r = &mine[g];
    const void* x = (const void*)(uintptr_t)r->x;
    void* y = (void*)(uintptr_t)(place ? r->x : r->y);
    if (row->spec) {
      check(slimAllReduce(x, y, row->count, options.type, op, r->tensors[place], r->slim, r->stream));
    } else {
      NCCL(ncclAllReduce(x, y, row->count, (ncclDataType_t)options.type, (ncclRedOp_t)op, r->comm, r->stream));
    }
  }
  group(false, row->spec != NULL);
}
static void synchronize(rankState* mine) {
  for (int g = 0; g < options.gpus; g++) CU(StreamSynchronize, mine[g].stream);
}

static void capture(rankState* mine, const row* row, int place) {
  for (int g = 0; g < options.gpus; g++)
    CU_MORE(StreamBeginCapture, mine[g].stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
  for (int i = 0; i < options.iterations; i++) call(mine, row, place, place ? slimAvg : options.op);
  for (int g = 0; g < options.gpus; g++) {
    CUgraph graph;
    enter(&mine[g]);
    CU_MORE(StreamEndCapture, mine[g].stream, &graph);
    CU_MORE(GraphInstantiateWithFlags, &mine[g].graph, graph, 0);
    CU_MORE(GraphDestroy, graph);
    leave();
  }
}

/* Seconds of a call, as this thread sees it. */
static double timeOf(rankState* mine, const row* row, int place) {
  const slimRedOp_t op = place ? slimAvg : options.op;
  for (int i = 0; i < options.warmUps; i++) call(mine, row, place, op);
  synchronize(mine);
  if (options.graphs) capture(mine, row, place);
  pthread_barrier_wait(&all);
  const double before = now();
  for (int k = 0; k < options.graphs; k++)
    for (int g = 0; g < options.gpus; g++) CU_MORE(GraphLaunch, mine[g].graph, mine[g].stream);
  for (int i = 0; i < options.iterations && !options.graphs; i++) call(mine, row, place, op);
  synchronize(mine);
  const double took = now() - before;
  for (int g = 0; g < options.gpus && options.graphs; g++) CU_MORE(GraphExecDestroy, mine[g].graph);
  return took / options.iterations / (options.graphs ? options.graphs : 1);
}

static void measure(rankState* mine, row* row, char* host) {
  const int first = mine[0].rank;
  if (row->spec) {
    slimConfig_t config = SLIM_CONFIG_INITIALIZER;
    config.deviceBytes = ((size_t)256 << 20) + 6 * row->count * slimRealBytes(options.type);
    group(true, true);
    for (int g = 0; g < options.gpus; g++) check(slimCommInitNCCL(&mine[g].slim, mine[g].comm, &config));
    group(false, true);
  }
  for (int g = 0; g < options.gpus && row->spec; g++) {
    for (uint32_t place = 0; place < 2; place++)
      check(slimTensorCreate(&mine[g].tensors[place], mine[g].slim, row->spec, place));
  }
  for (int place = 0; place < 2; place++) {
    for (int g = 0; g < options.gpus; g++) fill(&mine[g], mine[g].x, row->count, host);
    call(mine, row, place, options.op); /* also what a graph or a clock should not see: the first call sets up */
    synchronize(mine);
    for (int g = 0; g < options.gpus && options.check; g++)
      inspect(&mine[g], place ? mine[g].x : mine[g].y, row->count, row->spec != NULL, host);
    pthread_barrier_wait(&all);
    if (first == 0) {
      placed* p = &row->place[place];
      for (int r = 0; r < ranks && options.check; r++)
        p->wrong +=
            hashes[r] != hashes[0] ? row->count : wrongs[r]; /* ranks that differ: none of it can be relied on */
      if (!place) row->error = squares[0][1] > 0 ? sqrt(squares[0][0] / squares[0][1]) : 0;
    }
    seconds[first] = timeOf(mine, row, place);
    pthread_barrier_wait(&all);
    for (int t = 0; t < options.threads && first == 0; t++)
      if (seconds[t * options.gpus] > row->place[place].seconds) row->place[place].seconds = seconds[t * options.gpus];
  }
  if (first == 0) {
    slimTensorStats_t stats = {.size = sizeof stats};
    if (row->spec) check(slimTensorGetStats(mine[0].tensors[0], &stats));
    row->wire = row->spec ? (double)stats.wireBytes / (double)stats.calls
                          : 2.0 * (ranks - 1) / ranks * (double)(row->count * typeBytes);
  }
  for (int g = 0; g < options.gpus && row->spec; g++) {
    slimResult_t error;
    check(slimCommGetAsyncError(mine[g].slim, &error));
    check(error);
    check(slimCommDestroy(mine[g].slim));
  }
  pthread_barrier_wait(&all);
}

/* ---- Output ----------------------------------------------------------------------------------------------------- */

static FILE* json;

static double algorithmRate(const row* r, int place) {
  return (double)(r->count * typeBytes) / r->place[place].seconds * 1e-9;
}
static double busRate(const row* r, int place) { return algorithmRate(r, place) * 2 * (ranks - 1) / ranks; }
static double ratioOf(const row* r) {
  return r->wire > 0 ? 2.0 * (ranks - 1) / ranks * (double)(r->count * typeBytes) / r->wire : 1;
}

static void printHead(const char* device) {
  int version = 0, runs = 0;
  NCCL(ncclGetVersion(&version));
  check(slimGetVersion(&runs));
  printf("# SlimCCL %d.%d.%d, NCCL %d.%d.%d, %s\n", runs / 10000, runs / 100 % 100, runs % 100, version / 10000,
         version / 100 % 100, version % 100, device);
  if (standIn)
    puts(
        "# This is the stand-in for CUDA devices: it shows whether results are right. Times would mean nothing, so "
        "there"
        "\n# are none.");
  printf("# nThread %d nGpus %d minBytes %zu maxBytes %zu ", options.threads, options.gpus, options.least,
         options.most);
  if (options.factor > 0) {
    printf("step: %g(factor) ", options.factor);
  } else {
    printf("step: %zu(bytes) ", options.step);
  }
  printf("warmup iters: %d iters: %d validation: %d graph: %d\n", options.warmUps, options.iterations, options.check,
         options.graphs);
  puts("#\n#                                                           out-of-place                       in-place");
  printf("# %10s  %12s  %8s  %6s  %5s", "size", "count", "type", "redop", "root");
  for (int place = 0; place < 2; place++) printf("  %8s %7s %7s %6s", "time", "algbw", "busbw", "#wrong");
  printf("  %9s  %11s  %6s  %s\n", "error", "wire", "ratio", "spec");
  printf("# %10s  %12s  %8s  %6s  %5s", "(B)", "(elements)", "", "", "");
  for (int place = 0; place < 2; place++) printf("  %8s %7s %7s %6s", "(us)", "(GB/s)", "(GB/s)", "");
  printf("  %9s  %11s  %6s\n", "", "(B)", "");
}

static void printRow(const row* r) {
  printf("%12zu  %12zu  %8s  %6s  %5d", r->count * typeBytes, r->count, typeName, opNames[options.op], -1);
  for (int place = 0; place < 2; place++) {
    if (standIn) {
      printf("  %8s %7s %7s", "-", "-", "-");
    } else {
      printf("  %8.1f %7.2f %7.2f", r->place[place].seconds * 1e6, algorithmRate(r, place), busRate(r, place));
    }
    if (options.check) {
      printf(" %6zu", r->place[place].wrong);
    } else {
      printf(" %6s", "N/A");
    }
  }
  if (options.check) {
    printf("  %9.2e", r->error);
  } else {
    printf("  %9s", "-");
  }
  printf("  %11.0f  %6.2f  %s\n", r->wire, ratioOf(r), r->spec ? r->spec : "plain");
  fflush(stdout);
}

static void jsonText(const char* text) {
  fputc('"', json);
  for (; *text; text++) {
    if (*text == '"' || *text == '\\') fputc('\\', json);
    fputc(*text, json);
  }
  fputc('"', json);
}

static void jsonHead(const char* device) {
  int version = 0, runs = 0;
  NCCL(ncclGetVersion(&version));
  check(slimGetVersion(&runs));
  fprintf(json, "{\"program\": \"all_reduce_perf\", \"slimccl\": %d, \"nccl\": %d, \"device\": ", runs, version);
  jsonText(device);
  fprintf(json,
          ", \"stand_in\": %s, \"ranks\": %d, \"threads\": %d, \"gpus\": %d, \"type\": \"%s\", \"redop\": \"%s\",\n"
          " \"iterations\": %d, \"warmup\": %d, \"graph\": %d, \"results\": [",
          standIn ? "true" : "false", ranks, options.threads, options.gpus, typeName, opNames[options.op],
          options.iterations, options.warmUps, options.graphs);
}

static void jsonRow(const row* r, bool first) {
  static const char* const names[] = {"out_of_place", "in_place"};
  fprintf(json, "%s\n  {\"size\": %zu, \"count\": %zu, \"spec\": ", first ? "" : ",", r->count * typeBytes, r->count);
  if (r->spec) {
    jsonText(r->spec);
  } else {
    fputs("null", json);
  }
  for (int place = 0; place < 2; place++) {
    fprintf(json, ", \"%s\": {", names[place]);
    if (standIn) {
      fputs("\"time_us\": null, \"algbw\": null, \"busbw\": null", json);
    } else {
      fprintf(json, "\"time_us\": %.3f, \"algbw\": %.4f, \"busbw\": %.4f", r->place[place].seconds * 1e6,
              algorithmRate(r, place), busRate(r, place));
    }
    if (options.check) {
      fprintf(json, ", \"wrong\": %zu}", r->place[place].wrong);
    } else {
      fputs(", \"wrong\": null}", json);
    }
  }
  if (options.check && isfinite(r->error)) {
    fprintf(json, ", \"error\": %.6e", r->error);
  } else {
    fputs(", \"error\": null", json);
  }
  fprintf(json, ", \"wire\": %.0f, \"ratio\": %.4f}", r->wire, ratioOf(r));
}

/* ---- The run ---------------------------------------------------------------------------------------------------- */

static char deviceName[128] = "?";
static size_t wrongRows;
static row current; /* written by the thread of rank 0, between barriers */

static size_t nextSize(size_t bytes) {
  const size_t next = options.factor > 0 ? (size_t)((double)bytes * options.factor) : bytes + options.step;
  return next > bytes ? next : bytes + 1;
}

static void* threadMain(void* argument) {
  const int first = *(const int*)argument * options.gpus;
  rankState* mine = memory((size_t)options.gpus * sizeof *mine);
  char* host = memory(options.most);
  for (int g = 0; g < options.gpus; g++) {
    CUdevice device;
    rankState* r = &mine[g];
    memset(r, 0, sizeof *r);
    r->rank = first + g;
    CU(DeviceGet, &device, r->rank);
    CU(DevicePrimaryCtxRetain, &r->context, device);
    enter(r);
    CU(StreamCreate, &r->stream, CU_STREAM_NON_BLOCKING);
    CU(MemAlloc, &r->x, options.most);
    CU(MemAlloc, &r->y, options.most);
    leave();
  }
  NCCL(ncclGroupStart());
  for (int g = 0; g < options.gpus; g++) {
    enter(&mine[g]);
    NCCL(ncclCommInitRank(&mine[g].comm, ranks, id, mine[g].rank));
    leave();
  }
  NCCL(ncclGroupEnd());
  enter(&mine[0]); /* NCCL and SlimCCL go to a communicator's device by themselves */

  double sum[1 + mostSpecs] = {0};
  int rows = 0;
  for (size_t bytes = options.least; bytes <= options.most; bytes = nextSize(bytes)) {
    for (int s = 0; s <= options.specs; s++) {
      if (first == 0) current = (row){.count = bytes / typeBytes, .spec = s ? options.spec[s - 1] : NULL};
      pthread_barrier_wait(&all);
      measure(mine, &current, host);
      if (first) continue;
      printRow(&current);
      if (json) jsonRow(&current, !rows && !s);
      wrongRows += current.place[0].wrong || current.place[1].wrong;
      sum[s] += (busRate(&current, 0) + busRate(&current, 1)) / 2;
    }
    rows++;
  }
  for (int s = 0; first == 0 && s <= options.specs; s++) {
    if (!s) printf("# Out of bounds values : %zu %s\n", wrongRows, wrongRows ? "FAILED" : "OK");
    printf("# Avg bus bandwidth    : ");
    if (standIn) {
      printf("-");
    } else {
      printf("%g", sum[s] / rows);
    }
    printf(" (%s)\n", s ? options.spec[s - 1] : "plain");
  }
  leave();
  for (int g = 0; g < options.gpus; g++) {
    NCCL(ncclCommDestroy(mine[g].comm));
    enter(&mine[g]);
    CU(MemFree, mine[g].x);
    CU(MemFree, mine[g].y);
    CU(StreamDestroy, mine[g].stream);
    leave();
  }
  free(host);
  free(mine);
  return NULL;
}

int main(int argc, char** argv) {
  parse(argc, argv);
  checkSpecs();
  int devices = 0;
  if (slimDriverOpen() != slimDriverReady) {
    fprintf(stderr, "all_reduce_perf: %s\n", slimGetLastError());
    return noDevice;
  }
  if (slimCu.DeviceGetCount(&devices) != CUDA_SUCCESS || !devices) {
    fprintf(stderr, "all_reduce_perf: the driver shows no device\n");
    return noDevice;
  }
  if (options.threads > devices || options.gpus > devices / options.threads || devices > mostRanks)
    fail("%d threads with %d GPUs each: this machine has %d", options.threads, options.gpus, devices);
  ranks = options.threads * options.gpus;
#define FIND(name, version) check(slimDriverFind((void**)&more.name, "cu" #name, version));
  MORE_FUNCTIONS(FIND)
  CU_MORE(DeviceGetName, deviceName, sizeof deviceName, 0);
  standIn = !strncmp(deviceName, "simgpu", 6);
  typeBytes = slimTypeBytes(options.type);
  for (int t = 0; t < numTypes; t++)
    if (types[t].type == options.type) {
      epsilon = types[t].epsilon;
      typeName = types[t].name;
    }
  makeValues();
  if (options.json && !(json = fopen(options.json, "w"))) {
    perror(options.json);
    return 1;
  }
  printHead(deviceName);
  if (json) jsonHead(deviceName);

  NCCL(ncclGetUniqueId(&id));
  pthread_barrier_init(&all, NULL, (unsigned)options.threads);
  pthread_t threads[mostRanks];
  int numbers[mostRanks];
  for (int t = 0; t < options.threads; t++) {
    numbers[t] = t;
    if (pthread_create(&threads[t], NULL, threadMain, &numbers[t])) fail("no thread");
  }
  for (int t = 0; t < options.threads; t++) pthread_join(threads[t], NULL);
  if (json) {
    fprintf(json, "\n ], \"out_of_bounds\": %zu}\n", wrongRows);
    if (ferror(json) | fclose(json)) fail("%s: could not be written", options.json);
  }
  return wrongRows != 0;
}
