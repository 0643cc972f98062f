/* TNQSGD (Yan et al., arXiv 2402.01160; 2402.01798): truncation and few levels, placed for the least error, against
 * QSGD's levels up to the largest value. Uplink only and no memory, as in the papers. */
#include <math.h>

#include "examples/convex/paper.h"

enum { codeBits = 3 };

/* 1/(L·(1 + omega/n)): omega of E‖Q(v)‖² ≤ (1 + omega)·‖v‖². Uncompressed: omega = 0. */
static Step stepOf(const Method* method, const Constants* c) {
  return (Step){1 / (c->L * (1 + (method->omega ? method->omega(method, c) : 0) / c->n)), 0};
}
/* The paper's 27·d·gamma²/(s + 3√6/2)², at most ‖v‖² times this since gamma is the mean magnitude; taken for the
 * siblings, too. */
static double omegaTruncated(const Method* method, const Constants* c) {
  (void)method, (void)c;
  return 27 / pow(exp2(codeBits) - 1 + 1.5 * sqrt(6), 2);
}
/* L levels on each side: a value's variance is at most a quarter of an interval's square, the ∞-norm at most the
 * 2-norm. */
static double omegaQsgd(const Method* method, const Constants* c) {
  const double levels = exp2(codeBits - 1) - 1;
  (void)method;
  return 0.25 * (double)c->d / (levels * levels);
}

/* A tensor is one block: a scale, and codes; a power law's table is a byte. */
static double bitsCodes(const Method* method, const Constants* c) {
  return (void)method, codeBits * (double)c->d + floatBits;
}
static double bitsPowerLaw(const Method* method, const Constants* c) { return bitsCodes(method, c) + 8; }

#define TRUNCATED .step = stepOf, .omega = omegaTruncated, .bits
#define QSGD .step = stepOf, .omega = omegaQsgd, .bits = bitsCodes

static const Method methods[] = {
    {.label = "uncompressed", .spec = "fp32", .step = stepOf, .bits = bitsPlain},
    {.label = "TNQSGD", .spec = "tnqsgd(bits=3, block=$b)", TRUNCATED = bitsCodes},
    {.label = "TNQSGD, threshold for 8 workers", .spec = "tnqsgd(bits=3, workers=8, block=$b)", TRUNCATED = bitsCodes},
    {.label = "truncated, uniform levels", .spec = "tqsgd(bits=3, block=$b)", TRUNCATED = bitsCodes},
    {.label = "TNQSGD, power law", .spec = "tnqsgd(bits=3, model=powerlaw, block=$b)", TRUNCATED = bitsPowerLaw},
    {.label = "TBQSGD (power law)", .spec = "tbqsgd(bits=3, block=$b)", TRUNCATED = bitsPowerLaw},
    {.label = "QSGD, ∞-norm", .spec = "qsgd(bits=3, block=$b)", QSGD},
    {.label = "QSGD, 2-norm", .spec = "qsgd(bits=3, norm=2, block=$b)", QSGD},
};

#define MUSHROOMS .kind = problemLogistic, .source = dataReal, .l2 = 0.03, .rounds = 1000
#define METHODS .methods = methods, .count = sizeof methods / sizeof *methods

static const Experiment experiments[] = {
    {.name = "tnqsgd", .title = "TNQSGD: 3 bits, one gradient", .workers = 1, MUSHROOMS, METHODS},
    {.name = "tnqsgd-alike",
     .title = "TNQSGD: 3 bits, full gradients, workers alike",
     .workers = 8,
     MUSHROOMS,
     METHODS},
    {.name = "tnqsgd-unlike",
     .title = "TNQSGD: 3 bits, full gradients, unlike workers",
     .sorted = 1,
     .workers = 8,
     MUSHROOMS,
     METHODS},
    {.name = "tnqsgd-batch", .title = "TNQSGD: 3 bits, minibatches", .workers = 8, .batch = 16, MUSHROOMS, METHODS},
};

const Paper paperTnqsgd = {"tnqsgd", "TNQSGD (arXiv 2402.01160, 2402.01798)", experiments,
                           sizeof experiments / sizeof *experiments};
