/* A paper as data: its experiments, and the methods that each of them compares. A new paper is one file with a Paper,
 * and a line in convex.c. */
#ifndef SLIMCCL_EXAMPLES_CONVEX_PAPER_H_
#define SLIMCCL_EXAMPLES_CONVEX_PAPER_H_

#include "examples/convex/problem.h"

/* gamma multiplies the gradient. eta: of methods that send iterates, see below; else 0. */
typedef struct {
  double gamma, eta;
} Step;

typedef enum { shiftNone, shiftStart, shiftSolution } Shift; /* slimTensorSetShift of 0, ∇f_i(x0), ∇f_i(x*) */

/* v ← momentum·v + y, x ← prox of gamma/(1 − momentum)·R at x − gamma·v, where y is the mean over workers of what each
 * sends: ∇f_i(x), or its estimate from a batch. */
typedef struct Method Method;
struct Method {
  const char* label; /* in tables and legends */
  const char* spec;  /* docs/specs.md, and "$k": share of a block's coordinates, "$b": the block, "$a": 1/(1 + omega) */
  double share;
  int block;                                                 /* 0: the smallest one that holds all d coordinates */
  Step (*step)(const Method* method, const Constants* c);    /* theory's largest */
  double (*omega)(const Method* method, const Constants* c); /* of the uplink's codec, where step asks for it */
  double (*bits)(const Method* method, const Constants* c);  /* expected a round, as the paper counts; both ways if the
                                                                spec has a downlink */
  double momentum;
  Shift shift;
  int iterates; /* sends T_i(x) = x − gamma·∇f_i(x); x ← (1 − eta)·x + eta·y */
  /* a of step sizes gamma/(t + a), t = 0, 1, …, which the spec's memory holds within (slimTensorRescale); the error is
   * then that of the average of the iterates by weights (t + a)². NULL: gamma at every step, the last iterate. */
  double (*delay)(const Method* method, const Constants* c);
  int proxL2; /* l2/2·‖x‖² is left to the prox, and the gradient does without */
};

typedef enum { dataReal, dataRegressionRows, dataSignRows } DataSource;

typedef struct {
  const char *name, *title; /* name: of its picture, and in the CSV */
  ProblemKind kind;
  DataSource source;
  size_t rows, columns; /* of generated data */
  int sorted;           /* by label: each worker sees one label, nearly */
  double l1, l2;
  double spread;      /* variance of x0's coordinates; 0: all are 1 */
  int workers, batch; /* batch: rows a step and worker; 0: all, the full gradient */
  int rounds;         /* at most */
  int untuned;        /* all methods take theory's step size: amid noise a smaller one always ends lower */
  const Method* methods;
  int count;
} Experiment;

typedef struct {
  const char *name, *title;
  const Experiment* experiments;
  int count;
} Paper;

extern const Paper paperDiana, paperFo, paperTnqsgd, paperShifted, paperMemsgd, paperSign;

/* ---- What methods share ----------------------------------------------------------------------------------------- */

enum { floatBits = 32 };

int methodKept(const Method* method, const Constants* c);  /* $k */
int methodBlock(const Method* method, const Constants* c); /* $b */
/* The spec with the numbers in it. */
void methodSpec(const Method* method, const Constants* c, char* spec, size_t size);

/* omega of E‖Q(v) − v‖² ≤ omega·‖v‖², and bits: of k values and a seed; of two bits a coordinate and a scale a block.
 */
double omegaRandk(const Method* method, const Constants* c);
double omegaTernary(const Method* method, const Constants* c);  /* norm=inf */
double omegaTernary2(const Method* method, const Constants* c); /* norm=2 */
double bitsPlain(const Method* method, const Constants* c);
double bitsRandk(const Method* method, const Constants* c);
double bitsTernary(const Method* method, const Constants* c);

#endif
