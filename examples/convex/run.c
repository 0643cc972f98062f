#include "examples/convex/run.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "slimccl.h"

const double runLevel[runLevels] = {1e-2, 1e-4, 1e-8, 1e-10};

enum { runPoints = 250 };

static void check(slimResult_t result, const char* what) {
  static atomic_flag ended = ATOMIC_FLAG_INIT;
  if (result == slimSuccess) return;
  while (atomic_flag_test_and_set(&ended)) pause(); /* the first to come speaks */
  fprintf(stderr, "convex: %s: %s: %s\n", what, slimGetErrorString(result), slimGetLastError());
  fflush(NULL);
  _exit(1);
}

typedef struct {
  const Problem* problem;
  const Method* method;
  Run* run; /* written by worker 0 alone */
  int worker;
  slimComm_t comm;
  double* wire; /* [round]: bytes that worker 0 sent */
  double* error;
} Worker;

/* Rows of the worker's own, with replacement. */
static void drawRows(const Worker* w, int round, size_t* rows) {
  size_t first;
  const size_t own = problemRows(w->problem, w->worker, &first);
  for (int i = 0; i < w->run->batch; i++)
    rows[i] = first + (size_t)((double)own *
                               drawUniform(w->run->seed, drawRow, (uint32_t)round, (uint32_t)i, (uint32_t)w->worker));
}

static void setShift(const Worker* w, slimTensor_t tensor, double* g) {
  const Problem* p = w->problem;
  if (w->method->shift == shiftNone) return;
  problemGradient(p, w->worker, NULL, 0, !w->method->proxL2, w->method->shift == shiftStart ? p->start : p->solution,
                  g);
  check(slimTensorSetShift(tensor, g, p->constants.d, slimFloat64), "slimTensorSetShift");
}

/* Whether all workers hold the same bits in x. */
static int agree(const double* x, size_t d, slimComm_t comm) {
  uint64_t low = 14695981039346656037u, high; /* FNV-1a */
  const unsigned char* bytes = (const unsigned char*)x;
  for (size_t i = 0; i < d * sizeof *x; i++) low = (low ^ bytes[i]) * 1099511628211u;
  high = low;
  check(slimAllReduce(&low, &low, 1, slimUint64, slimMin, NULL, comm, NULL), "slimAllReduce");
  check(slimAllReduce(&high, &high, 1, slimUint64, slimMax, NULL, comm, NULL), "slimAllReduce");
  return low == high;
}

static void* work(void* argument) {
  const Worker* w = argument;
  const Problem* p = w->problem;
  const Method* m = w->method;
  const size_t d = p->constants.d;
  const Step step = w->run->step;
  const double a = m->delay ? m->delay(m, &p->constants) : 0;
  double* memory = calloc(5 * d, sizeof *memory);
  size_t* rows = w->run->batch ? malloc((size_t)w->run->batch * sizeof *rows) : NULL;
  if (!memory || (w->run->batch && !rows)) abort();
  double *x = memory, *g = x + d, *y = g + d, *v = y + d, *average = v + d;
  memcpy(x, p->start, d * sizeof *x);

  char spec[512];
  slimTensor_t tensor;
  slimTensorStats_t stats = {.size = sizeof stats};
  methodSpec(m, &p->constants, spec, sizeof spec);
  check(slimTensorCreate(&tensor, w->comm, spec, 0), spec);
  setShift(w, tensor, g);

  int round = 0;
  double error = 1, sent = 0;
  while (round < w->run->rounds && error > runLevel[runLevels - 1] && error < 1e6) {
    const double t = round++, gamma = m->delay ? step.gamma / (t + a) : step.gamma;
    if (m->delay && t > 0) check(slimTensorRescale(tensor, (t + a) / (t - 1 + a)), "slimTensorRescale");
    if (rows) drawRows(w, round, rows);
    problemGradient(p, w->worker, rows, (size_t)w->run->batch, !m->proxL2, x, g);
    for (size_t j = 0; j < d && m->iterates; j++) g[j] = x[j] - step.gamma * g[j];
    check(slimAllReduce(g, y, d, slimFloat64, slimAvg, tensor, w->comm, NULL), "slimAllReduce");
    if (m->iterates) {
      for (size_t j = 0; j < d; j++) x[j] += step.eta * (y[j] - x[j]);
    } else {
      for (size_t j = 0; j < d; j++) {
        v[j] = m->momentum * v[j] + y[j];
        x[j] -= gamma * v[j];
      }
      /* At rest v is 1/(1 − momentum) gradients, so R must weigh as much. */
      problemProx(d, p->l1, m->proxL2 ? p->l2 : 0, gamma / (1 - m->momentum), x);
    }
    const double weight = m->delay ? 6 * (t + a) * (t + a) / ((1 + t) * (6 * a * a + t + 6 * a * t + 2 * t * t)) : 1;
    for (size_t j = 0; j < d; j++) average[j] += weight * (x[j] - average[j]);
    error = problemDistance(p, average); /* the same for all workers, who thus end together */
    if (w->worker == 0) {
      check(slimTensorGetStats(tensor, &stats), "slimTensorGetStats");
      w->error[round] = error;
      w->wire[round] = (double)stats.wireBytes - sent;
      sent = (double)stats.wireBytes;
    }
  }
  const int identical = agree(x, d, w->comm);
  if (w->worker == 0) {
    w->run->identical = identical;
    w->run->count = round;
    snprintf(w->run->spec, sizeof w->run->spec, "%s", slimTensorSpec(tensor));
  }
  check(slimTensorDestroy(tensor), "slimTensorDestroy");
  free(rows);
  free(memory);
  return NULL;
}

/* Fills run's points from what worker 0 saw in `rounds` rounds. */
static void summarise(const Problem* problem, const Method* method, const double* error, const double* wire, int rounds,
                      Run* run) {
  const Constants* c = &problem->constants;
  const double message = method->bits(method, c);
  const int peers = c->n > 1 ? c->n - 1 : 1;
  double tail = 0;
  run->every = (run->rounds + runPoints - 1) / runPoints;
  run->points = calloc((size_t)rounds / (size_t)run->every + 2, sizeof *run->points);
  if (!run->points) abort();
  run->count = 0;
  memset(run->reached, 0, sizeof run->reached);
  Point now = {0, 1, 0, 0};
  run->points[run->count++] = now;
  for (int k = 1; k <= rounds; k++) {
    now.round = k;
    now.error = error[k];
    now.bits = k * message + (method->shift ? bitsPlain(method, c) : 0); /* the shifts' mean is formed once */
    now.wire += wire[k] / peers;
    for (int l = 0; l < runLevels; l++)
      if (!run->reached[l].round && now.error <= runLevel[l]) run->reached[l] = now;
    if (k % run->every == 0 || k == rounds) run->points[run->count++] = now;
    if (k > rounds / 2) tail += now.error / (rounds - rounds / 2);
  }
  run->plateau = now.error < 1e6 ? tail : INFINITY;
}

void runMethod(const Problem* problem, const Method* method, Run* run) {
  const int n = problem->constants.n;
  slimConfig_t config = SLIM_CONFIG_INITIALIZER;
  config.seed = run->seed;
  config.algo = strstr(method->spec, "down=") ? slimAlgoTwoShot : slimAlgoOneShot;
  run->step = method->step(method, &problem->constants);
  *(run->step.eta > 0 ? &run->step.eta : &run->step.gamma) *= run->multiplier;

  slimComm_t* comms = calloc((size_t)n, sizeof *comms);
  pthread_t* threads = calloc((size_t)n, sizeof *threads);
  Worker* workers = calloc((size_t)n, sizeof *workers);
  double* error = calloc(2 * (size_t)run->rounds + 2, sizeof *error);
  if (!comms || !threads || !workers || !error) abort();
  double* wire = error + run->rounds + 1;
  check(slimCommInitLocal(comms, n, &config), "slimCommInitLocal");
  for (int r = 0; r < n; r++) {
    workers[r] = (Worker){problem, method, run, r, comms[r], wire, error};
    if (pthread_create(&threads[r], NULL, work, &workers[r])) abort();
  }
  for (int r = 0; r < n; r++) pthread_join(threads[r], NULL);
  for (int r = 0; r < n; r++) check(slimCommDestroy(comms[r]), "slimCommDestroy");
  summarise(problem, method, error, wire, run->count, run);
  free(comms);
  free(threads);
  free(workers);
  free(error);
}

void runFree(Run* run) {
  free(run->points);
  run->points = NULL;
  run->count = 0;
}
