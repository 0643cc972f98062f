#include "examples/convex/problem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double* vector(size_t d) {
  double* x = calloc(d, sizeof *x);
  if (!x) abort();
  return x;
}

size_t problemRows(const Problem* problem, int worker, size_t* first) {
  const size_t m = problem->data.rows, n = (size_t)problem->constants.n, i = (size_t)worker;
  *first = i * m / n;
  return (i + 1) * m / n - *first;
}

static double product(const Data* data, size_t row, const double* x) {
  double sum = 0;
  for (size_t at = data->start[row]; at < data->start[row + 1]; at++) sum += data->value[at] * x[data->column[at]];
  return sum;
}

static void addRow(const Data* data, size_t row, double factor, double* x) {
  for (size_t at = data->start[row]; at < data->start[row + 1]; at++) x[data->column[at]] += factor * data->value[at];
}

void problemGradient(const Problem* problem, int worker, const size_t* rows, size_t count, int withL2, const double* x,
                     double* g) {
  const Data* data = &problem->data;
  size_t first;
  const size_t all = problemRows(problem, worker, &first);
  if (!rows) count = all;
  for (size_t j = 0; j < data->columns; j++) g[j] = withL2 ? problem->l2 * x[j] : 0;
  for (size_t i = 0; i < count; i++) {
    const size_t row = rows ? rows[i] : first + i;
    const double b = data->label[row], p = product(data, row, x);
    addRow(data, row, (problem->kind == problemRidge ? p - b : -b / (1 + exp(b * p))) / (double)count, g);
  }
}

double problemValue(const Problem* problem, int worker, const double* x) {
  const Data* data = &problem->data;
  size_t first;
  const size_t count = problemRows(problem, worker, &first);
  double sum = 0, squares = 0, magnitudes = 0;
  for (size_t row = first; row < first + count; row++) {
    const double b = data->label[row], p = product(data, row, x), m = b * p;
    sum += problem->kind == problemRidge ? 0.5 * (p - b) * (p - b) : m > 0 ? log1p(exp(-m)) : log1p(exp(m)) - m;
  }
  for (size_t j = 0; j < data->columns; j++) squares += x[j] * x[j], magnitudes += fabs(x[j]);
  return sum / (double)count + 0.5 * problem->l2 * squares + problem->l1 * magnitudes;
}

static double meanValue(const Problem* problem, const double* x) {
  double sum = 0;
  for (int i = 0; i < problem->constants.n; i++) sum += problemValue(problem, i, x) / problem->constants.n;
  return sum;
}

void problemProx(size_t d, double l1, double l2, double step, double* x) {
  for (size_t j = 0; j < d; j++) {
    const double shrunk = fmax(fabs(x[j]) - step * l1, 0);
    x[j] = copysign(shrunk, x[j]) / (1 + step * l2);
  }
}

static double distance(const double* x, const double* y, size_t d) {
  double sum = 0;
  for (size_t j = 0; j < d; j++) sum += (x[j] - y[j]) * (x[j] - y[j]);
  return sum;
}

double problemDistance(const Problem* problem, const double* x) {
  return distance(x, problem->solution, problem->constants.d) / problem->startDistance;
}

/* ---- Constants -------------------------------------------------------------------------------------------------- */

/* The largest eigenvalue of S = Σ aᵀa·weight over the rows of workers from … to − 1 (weight: one over a worker's rows
 * and over the number of workers); or, where shift > 0, shift minus the largest eigenvalue of shift·I − S: the
 * smallest. */
static double eigenvalue(const Problem* problem, int from, int to, double shift) {
  const size_t d = problem->constants.d;
  double *v = vector(d), *next = vector(d), value = 0;
  for (size_t j = 0; j < d; j++) v[j] = drawNormal(0, drawStart, (uint32_t)j, 0);
  /* A power iteration: the estimate's error is the square of the vector's. */
  for (int k = 0, still = 0; k < 100000 && still < 50; k++) {
    double length = 0, rayleigh = 0;
    for (size_t j = 0; j < d; j++) length += v[j] * v[j];
    for (size_t j = 0; j < d; j++) v[j] /= sqrt(length);
    memset(next, 0, d * sizeof *next);
    for (int i = from; i < to; i++) {
      size_t first;
      const size_t rows = problemRows(problem, i, &first);
      for (size_t row = first; row < first + rows; row++)
        addRow(&problem->data, row, product(&problem->data, row, v) / (double)rows / (to - from), next);
    }
    for (size_t j = 0; j < d; j++) {
      if (shift > 0) next[j] = shift * v[j] - next[j];
      rayleigh += v[j] * next[j];
    }
    still = fabs(rayleigh - value) <= 1e-13 * fabs(rayleigh) ? still + 1 : 0;
    value = rayleigh;
    memcpy(v, next, d * sizeof *v);
  }
  free(v);
  free(next);
  return shift > 0 ? fmax(shift - value, 0) : value;
}

static void findConstants(Problem* problem) {
  Constants* c = &problem->constants;
  const double curvature = problem->kind == problemRidge ? 1 : 0.25; /* of the loss, at most */
  const double largest = eigenvalue(problem, 0, c->n, 0);
  c->L = curvature * largest + problem->l2;
  c->Lmax = 0;
  for (int i = 0; i < c->n; i++) c->Lmax = fmax(c->Lmax, curvature * eigenvalue(problem, i, i + 1, 0) + problem->l2);
  c->sample = 0;
  for (size_t row = 0; row < problem->data.rows; row++) {
    double squares = 0;
    for (size_t at = problem->data.start[row]; at < problem->data.start[row + 1]; at++)
      squares += problem->data.value[at] * problem->data.value[at];
    c->sample = fmax(c->sample, curvature * squares + problem->l2);
  }
  c->mu = problem->l2 + (problem->kind == problemRidge ? eigenvalue(problem, 0, c->n, 1.01 * largest) : 0);
}

/* Nesterov's method for strongly convex functions, until nothing is left of the error but rounding. */
static void solve(Problem* problem) {
  const Constants* c = &problem->constants;
  const double root = sqrt(c->mu / c->L), momentum = (1 - root) / (1 + root);
  double *x = problem->solution, *y = vector(c->d), *g = vector(c->d), *mean = vector(c->d);
  memcpy(x, problem->start, c->d * sizeof *x);
  memcpy(y, x, c->d * sizeof *y);
  const double rounds = 80 / root + 100;
  for (int k = 0; k < rounds; k++) {
    memset(mean, 0, c->d * sizeof *mean);
    for (int i = 0; i < c->n; i++) {
      problemGradient(problem, i, NULL, 0, 1, y, g);
      for (size_t j = 0; j < c->d; j++) mean[j] += g[j] / c->n;
    }
    for (size_t j = 0; j < c->d; j++) mean[j] = y[j] - mean[j] / c->L;
    problemProx(c->d, problem->l1, 0, 1 / c->L, mean);
    for (size_t j = 0; j < c->d; j++) y[j] = mean[j] + momentum * (mean[j] - x[j]);
    memcpy(x, mean, c->d * sizeof *x);
  }
  free(y);
  free(g);
  free(mean);
}

int problemInit(Problem* problem, ProblemKind kind, Data data, int workers, double l1, double l2, double spread,
                uint64_t seed) {
  *problem = (Problem){.kind = kind, .data = data, .l1 = l1, .l2 = l2};
  Constants* c = &problem->constants;
  c->d = data.columns;
  c->n = workers;
  if (data.rows < (size_t)workers) {
    fprintf(stderr, "convex: %zu rows are too few for %d workers\n", data.rows, workers);
    return -1;
  }
  if (kind == problemLogistic && dataMakeBinary(&problem->data)) return -1;
  findConstants(problem);
  if (!(c->mu > 1e-9 * c->L)) {
    fprintf(stderr, "convex: the problem is not strongly convex: --l2 must be larger\n");
    return -1;
  }
  problem->start = vector(c->d);
  problem->solution = vector(c->d);
  for (size_t j = 0; j < c->d; j++)
    problem->start[j] = spread > 0 ? sqrt(spread) * drawNormal(seed, drawStart, (uint32_t)j, 0) : 1;
  solve(problem);
  problem->startDistance = distance(problem->start, problem->solution, c->d);
  problem->startValue = meanValue(problem, problem->start);
  problem->optimum = meanValue(problem, problem->solution);
  return 0;
}

void problemFree(Problem* problem) {
  dataFree(&problem->data);
  free(problem->start);
  free(problem->solution);
  *problem = (Problem){0};
}
