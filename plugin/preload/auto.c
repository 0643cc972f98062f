#include "plugin/preload/auto.h"

#include <stdlib.h>
#include <time.h>

enum { small = 1 << 14, large = 1 << 18, repeats = 3 }; /* floats: 64 KiB, 1 MiB */
static const double margin = 0.95;

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

typedef struct {
  slimComm_t comm;
  slimTensor_t tensor; /* NULL: plain */
  slimPlainSum plain;
  void* context;
  float* values;
} probe;

/* The fastest of a few calls; of ranks, the slowest. */
static slimResult_t timeOf(const probe* p, size_t n, double* fastest) {
  *fastest = 1e30;
  for (int i = 0; i <= repeats; i++) {
    for (size_t j = 0; j < n; j++) p->values[j] = (float)(j * 2654435761u % 65536) - 32768;
    double took = 0; /* the ranks meet, */
    SLIM_CHECK(slimAllReduce(&took, &took, 1, slimFloat64, slimMax, NULL, p->comm, NULL));
    const double start = seconds();
    SLIM_CHECK(p->tensor ? slimAllReduce(p->values, p->values, n, slimFloat32, slimSum, p->tensor, p->comm, NULL)
                         : p->plain(p->context, p->values, n));
    took = seconds() - start;
    SLIM_CHECK(slimAllReduce(&took, &took, 1, slimFloat64, slimMax, NULL, p->comm, NULL));
    if (i > 0 && took < *fastest) *fastest = took; /* and the first call is for connections and buffers */
  }
  return slimSuccess;
}

static slimResult_t lineOf(probe* p, const char* spec, uint32_t slot, double* start, double* perByte) {
  double seconds[2];
  for (int i = 0; i < 2; i++) {
    const size_t n = i ? large : small;
    if (spec) SLIM_CHECK(slimTensorCreate(&p->tensor, p->comm, spec, slot));
    slimResult_t result = timeOf(p, n, &seconds[i]);
    if (spec) SLIM_CHECK(slimTensorDestroy(p->tensor));
    p->tensor = NULL;
    SLIM_CHECK(result);
  }
  *perByte = (seconds[1] - seconds[0]) / (4.0 * (large - small));
  *start = seconds[0] - *perByte * 4 * small;
  if (*start < 0 || *perByte < 0) { /* a burst that passed at once, or noise */
    *start = 0;
    *perByte = seconds[1] / (4.0 * large);
  }
  return slimSuccess;
}

slimResult_t slimAutoMeasure(slimAutoModel* m, slimComm_t comm, const char* spec, uint32_t slot, slimPlainSum plain,
                             void* context) {
  probe p = {comm, NULL, plain, context, malloc(large * sizeof(float))};
  if (!p.values) return slimFail(slimSystemError, "no memory to measure the link");
  slimResult_t result = lineOf(&p, NULL, 0, &m->plainStart, &m->plainPerByte);
  if (result == slimSuccess) result = lineOf(&p, spec, slot, &m->slimStart, &m->slimPerByte);
  free(p.values);
  return result;
}

bool slimAutoCompresses(const slimAutoModel* m, uint64_t bytes) {
  return m->slimStart + m->slimPerByte * (double)bytes < margin * (m->plainStart + m->plainPerByte * (double)bytes);
}

uint64_t slimAutoThreshold(const slimAutoModel* m) {
  for (int bit = 0; bit < 48; bit++)
    if (slimAutoCompresses(m, UINT64_C(1) << bit)) return UINT64_C(1) << bit;
  return UINT64_MAX;
}
