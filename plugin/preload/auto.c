#include "plugin/preload/auto.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/probe.h"

/* fp32 values of the second sum (the first has slimAutoSmallest), and where the first takes longer than slowSeconds. */
enum { large = 1 << 18, medium = 1 << 16 };
/* How often a sum is timed on devices; and on hosts, where others may use the cores: fewest times, up to most in
 * enoughSeconds. */
enum { onDevices = 3, fewest = 5, most = 10 };
static const double slowSeconds = 5e-3, enoughSeconds = 10e-3, margin = 0.95;

typedef struct {
  slimAutoJob* job;
  float *x, *y; /* of large values, on the communicator's device */
} bench;

typedef struct {
  double seconds;
  size_t n;
  bool measured;
} point;

/* ---- Timing ----------------------------------------------------------------------------------------------------- */

/* The fastest of a few calls; of ranks, the slowest. */
static slimResult_t timeOnHost(const bench* b, slimTensor_t tensor, point* p) {
  const slimAutoJob* job = b->job;
  double all = 0;
  p->seconds = 1e30;
  for (int i = 0; i <= fewest || (i <= most && all < enoughSeconds); i++) {
    memcpy(b->y, b->x, p->n * sizeof *b->y);
    double took = 0; /* the ranks meet, */
    SLIM_CHECK(slimAllReduce(&took, &took, 1, slimFloat64, slimMax, NULL, job->comm, NULL));
    const double start = slimSeconds();
    SLIM_CHECK(tensor ? slimAllReduce(b->y, b->y, p->n, slimFloat32, slimSum, tensor, job->comm, NULL)
                      : job->plain(job->context, b->y, p->n));
    took = slimSeconds() - start;
    SLIM_CHECK(slimAllReduce(&took, &took, 1, slimFloat64, slimMax, NULL, job->comm, NULL));
    if (i == 0) continue; /* and the first call is for connections and buffers */
    all += took;
    if (took < p->seconds) p->seconds = took;
  }
  return slimSuccess;
}

/* The tensor that sums in the way; NULL for plain. */
static slimResult_t openTensor(const bench* b, int way, size_t n, slimTensor_t* tensor) {
  *tensor = NULL;
  if (way == slimAutoPlain) return slimSuccess;
  SLIM_CHECK(slimTensorCreate(tensor, b->job->comm, b->job->spec, b->job->slot));
  (*tensor)->asked = (slimAlgorithm)way;
  const slimResult_t result = slimTensorFix(*tensor, slimCollectiveAllReduce, slimFloat32, n, -1);
  if (result == slimSuccess) return result;
  slimTensorDestroy(*tensor);
  *tensor = NULL;
  return result;
}

/* Whether what just ended ended well; else why not. */
static bool went(slimAutoJob* job, slimResult_t result) {
  if (result != slimSuccess) snprintf(job->why, sizeof job->why, "%s", slimGetLastError());
  return result == slimSuccess;
}

/* points[i].seconds of benches[i], where points[i].measured says so; it says no more where that way cannot be gone. */
static void timeAll(const bench* benches, int count, int way, point* points) {
  slimTensor_t* tensors = calloc((size_t)count, sizeof *tensors);
  slimProbe* probes = calloc((size_t)count, sizeof *probes);
  int n = 0;
  for (int i = 0; i < count; i++) {
    const bench* b = &benches[i];
    point* p = &points[i];
    slimAutoJob* job = b->job;
    p->measured = p->measured && tensors && probes && went(job, openTensor(b, way, p->n, &tensors[i]));
    if (!p->measured) continue;
    if (job->comm->device->readable) {
      p->measured = went(job, timeOnHost(b, tensors[i], p));
    } else {
      p->measured = went(job, slimProbePrepare(&probes[n], job->comm, tensors[i], b->x, b->y, p->n, onDevices));
      n += p->measured;
    }
  }
  if (n) slimProbeRun(probes, n);
  for (int i = 0, k = 0; i < count; i++) {
    if (n && points[i].measured) {
      points[i].measured = probes[k].base.result == slimSuccess;
      points[i].seconds = probes[k++].seconds;
    }
    if (tensors && tensors[i]) slimTensorDestroy(tensors[i]);
  }
  free(tensors);
  free(probes);
}

static slimAutoLine lineThrough(const point* a, const point* b) {
  slimAutoLine line = {.possible = true};
  line.perByte = (b->seconds - a->seconds) / (double)((b->n - a->n) * sizeof(float));
  line.start = a->seconds - line.perByte * (double)(a->n * sizeof(float));
  if (line.start < 0 || line.perByte < 0) { /* a burst that passed at once, or noise */
    line.start = 0;
    line.perByte = b->seconds / (double)(b->n * sizeof(float));
  }
  return line;
}

static void measureWay(const bench* benches, int n, int way, point* first, point* second) {
  for (int i = 0; i < n; i++) first[i] = (point){.n = slimAutoSmallest, .measured = benches[i].x};
  timeAll(benches, n, way, first);
  for (int i = 0; i < n; i++) /* all ranks know the same seconds */
    second[i] = (point){.n = first[i].seconds > slowSeconds ? medium : large, .measured = first[i].measured};
  timeAll(benches, n, way, second);
  for (int i = 0; i < n; i++)
    if (second[i].measured) benches[i].job->model.line[way] = lineThrough(&first[i], &second[i]);
}

/* ---- Buffers ---------------------------------------------------------------------------------------------------- */

static slimResult_t openBench(bench* b) {
  slimComm_t comm = b->job->comm;
  const size_t bytes = large * sizeof(float);
  float* values = malloc(bytes);
  if (!values) return slimFail(slimSystemError, "no memory to measure the link");
  for (size_t j = 0; j < large; j++) values[j] = (float)(j * 2654435761u % 65536) - 32768;
  slimResult_t result = comm->device->enter(comm, NULL, true);
  if (result == slimSuccess) {
    b->x = comm->device->alloc(comm, bytes);
    b->y = b->x ? comm->device->alloc(comm, bytes) : NULL;
    result = comm->device->leave(comm, b->y ? comm->device->write(comm, b->x, values, bytes) : slimSystemError);
  }
  free(values);
  return result;
}

static void closeBench(bench* b) {
  slimComm_t comm = b->job->comm;
  if (comm->device->enter(comm, NULL, true) != slimSuccess) return; /* its memory goes with it */
  comm->device->release(comm, b->x);
  comm->device->release(comm, b->y);
  (void)comm->device->leave(comm, slimSuccess);
}

void slimAutoMeasure(slimAutoJob* jobs, int n) {
  bench* benches = calloc((size_t)n, sizeof *benches);
  point *first = calloc((size_t)n, sizeof *first), *second = calloc((size_t)n, sizeof *second);
  const bool room = benches && first && second;
  for (int i = 0; i < n; i++) {
    jobs[i].model = (slimAutoModel){0};
    snprintf(jobs[i].why, sizeof jobs[i].why, "no memory to measure the link");
    if (!room) continue;
    benches[i].job = &jobs[i];
    if (went(&jobs[i], openBench(&benches[i]))) continue;
    closeBench(&benches[i]);
    benches[i].x = benches[i].y = NULL;
  }
  for (int way = 0; way < slimAutoWays && room; way++) measureWay(benches, n, way, first, second);
  for (int i = 0; i < n && room; i++)
    if (benches[i].x) closeBench(&benches[i]);
  free(benches);
  free(first);
  free(second);
}

/* ---- Decisions -------------------------------------------------------------------------------------------------- */

static double secondsOf(const slimAutoModel* m, int way, slimDataType_t type, uint64_t elements) {
  const slimAutoLine* line = &m->line[way];
  const double bytes = (double)elements * (double)(way == slimAutoPlain ? slimTypeBytes(type) : sizeof(float));
  return (way == slimAutoPlain ? margin : 1) * (line->start + line->perByte * bytes);
}

int slimAutoChoose(const slimAutoModel* m, slimDataType_t type, uint64_t elements) {
  if (elements < slimAutoSmallest && slimAutoChoose(m, type, slimAutoSmallest) == slimAutoPlain) return slimAutoPlain;
  int best = slimAutoPlain;
  for (int way = slimAutoPlain + 1; way < slimAutoWays && m->line[slimAutoPlain].possible; way++)
    if (m->line[way].possible && secondsOf(m, way, type, elements) < secondsOf(m, best, type, elements)) best = way;
  return best;
}

/* Each way is the fastest in one stretch of sizes, since all are lines. */
uint64_t slimAutoChange(const slimAutoModel* m, slimDataType_t type, uint64_t elements) {
  const int now = slimAutoChoose(m, type, elements);
  uint64_t same = elements, other = UINT64_C(1) << 56;
  if (slimAutoChoose(m, type, other) == now) return UINT64_MAX;
  while (other - same > 1) {
    const uint64_t middle = same + (other - same) / 2;
    *(slimAutoChoose(m, type, middle) == now ? &same : &other) = middle;
  }
  return other;
}

static const char* nameOf(int way) { return way == slimAutoPlain ? "plain" : slimAlgorithmName((slimAlgorithm)way); }

void slimAutoDescribe(const slimAutoModel* m, char* text, size_t bytes) {
  size_t at = 0;
  text[0] = 0;
  for (int way = 0; way < slimAutoWays && at < bytes; way++) {
    const slimAutoLine* line = &m->line[way];
    if (line->possible)
      at += (size_t)snprintf(text + at, bytes - at, "%s%s %.3f ms + %.3f ms/MB", at ? ", " : "", nameOf(way),
                             1e3 * line->start, 1e9 * line->perByte);
  }
  for (uint64_t from = 1; from < UINT64_MAX && at < bytes; from = slimAutoChange(m, slimFloat32, from)) {
    at += (size_t)snprintf(text + at, bytes - at, "%s%s", from > 1 ? ", " : ": ",
                           nameOf(slimAutoChoose(m, slimFloat32, from)));
    if (from > 1 && at < bytes)
      at += (size_t)snprintf(text + at, bytes - at, " from %.1f KiB", (double)from * sizeof(float) / 1024);
  }
}
