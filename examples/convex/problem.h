/* Ridge and logistic regression over workers with unlike data: f(x) = mean of f_i(x) over n workers,
 * f_i(x) = mean over its rows of loss(a, b, x) + l2/2·‖x‖², and R(x) = l1·‖x‖₁. loss is (a·x − b)²/2 for ridge
 * regression and log(1 + exp(−b·a·x)) for logistic regression. */
#ifndef SLIMCCL_EXAMPLES_CONVEX_PROBLEM_H_
#define SLIMCCL_EXAMPLES_CONVEX_PROBLEM_H_

#include "examples/convex/data.h"

typedef enum { problemRidge, problemLogistic } ProblemKind;

/* What the step sizes of theory ask for. */
typedef struct {
  size_t d;      /* coordinates */
  int n;         /* workers */
  double L, mu;  /* f is L-smooth and mu-strongly convex */
  double Lmax;   /* the largest smoothness constant of the f_i */
  double sample; /* that of the functions of single rows */
} Constants;

typedef struct {
  ProblemKind kind;
  Data data; /* worker i has the rows from i·rows/n on */
  double l1, l2;
  Constants constants;
  double *start, *solution;   /* x0; x*, the minimiser of f + R */
  double startDistance;       /* ‖x0 − x*‖² */
  double startValue, optimum; /* f + R at x0 and at x* */
} Problem;

/* Takes the data over, finds the constants and x*. x0: normal draws of variance `spread` from seed, or 1 where spread
 * is 0. Returns 0, or −1 after a message on stderr. */
int problemInit(Problem* problem, ProblemKind kind, Data data, int workers, double l1, double l2, double spread,
                uint64_t seed);
void problemFree(Problem* problem);

size_t problemRows(const Problem* problem, int worker, size_t* first);
/* g ← ∇f_i(x) of `worker`, without l2·x if !withL2. rows: `count` rows of the worker in place of all; or NULL. */
void problemGradient(const Problem* problem, int worker, const size_t* rows, size_t count, int withL2, const double* x,
                     double* g);
/* Worker's f_i(x) + R(x). */
double problemValue(const Problem* problem, int worker, const double* x);
/* x ← argmin over z of ½‖z − x‖² + step·(l1·‖z‖₁ + l2/2·‖z‖²). */
void problemProx(size_t d, double l1, double l2, double step, double* x);
double problemDistance(const Problem* problem, const double* x); /* ‖x − x*‖² / ‖x0 − x*‖² */

#endif
