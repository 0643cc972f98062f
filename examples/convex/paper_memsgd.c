/* Mem-SGD (Stich, Cordonnier, Jaggi, arXiv 1809.07599): one worker, one row a step, one value sent; step sizes
 * gamma/(t + a) inside the memory, and the average of the iterates by weights (t + a)². */
#include <math.h>
#include <stddef.h>

#include "examples/convex/paper.h"

static Step stepDecreasing(const Method* method, const Constants* c) {
  (void)method;
  return (Step){1 / c->mu, 0};
}

static double delayD(const Method* method, const Constants* c) {
  return (double)c->d / (method->share > 0 ? method->share : 1);
}
static double delayOne(const Method* method, const Constants* c) { return (void)method, (void)c, 1; }

/* As the authors count: a value and an index, 32 bits each; QSGD of s = 2^b levels. */
static double bitsValue(const Method* method, const Constants* c) {
  return (void)c, 2 * floatBits * (method->share > 0 ? method->share : 1);
}
static double bitsQsgd(int b, const Constants* c) {
  const double s = exp2(b), d = (double)c->d;
  return fmin((b + 1) * d, 3 * s * (s + sqrt(d)) + floatBits);
}
static double bitsQsgd2(const Method* method, const Constants* c) { return (void)method, bitsQsgd(2, c); }
static double bitsQsgd4(const Method* method, const Constants* c) { return (void)method, bitsQsgd(4, c); }
static double bitsQsgd8(const Method* method, const Constants* c) { return (void)method, bitsQsgd(8, c); }

#define MEMSGD(name, text, count, a) \
  { .label = name, .spec = text, .share = count, .step = stepDecreasing, .delay = a, .bits = bitsValue }
#define QSGD(b, levels)                                                                                         \
  {                                                                                                             \
    .label = "QSGD, " #b " bits", .spec = "qsgd(levels=" #levels ", norm=2, block=$b)", .step = stepDecreasing, \
    .delay = delayD, .bits = bitsQsgd##b                                                                        \
  }

static const Method methods[] = {
    {.label = "SGD", .spec = "fp32", .step = stepDecreasing, .delay = delayD, .bits = bitsPlain},
    MEMSGD("top-1", "ef(topk(k=1, block=$b))", 1, delayD),
    MEMSGD("top-1, every other step", "ef(topk(k=0.5, block=$b))", 0.5, delayD),
    MEMSGD("rand-1", "ef(randk(k=1, block=$b))", 1, delayD),
    MEMSGD("rand-1, a = 1", "ef(randk(k=1, block=$b))", 1, delayOne),
    MEMSGD("top-1 without memory", "topk(k=1, block=$b)", 1, delayD),
    QSGD(2, 4),
    QSGD(4, 16),
    QSGD(8, 256),
};

static const Experiment experiments[] = {{.name = "memsgd",
                                          .title = "Mem-SGD: one value a step",
                                          .kind = problemLogistic,
                                          .source = dataReal,
                                          .l2 = 0.03,
                                          .spread = 1e-4,
                                          .workers = 1,
                                          .batch = 1,
                                          .rounds = 12000,
                                          .methods = methods,
                                          .count = sizeof methods / sizeof *methods}};

const Paper paperMemsgd = {"memsgd", "Mem-SGD (arXiv 1809.07599)", experiments,
                           sizeof experiments / sizeof *experiments};
