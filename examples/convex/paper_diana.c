/* DIANA (Mishchenko, Gorbunov, Takáč, Richtárik, arXiv 1901.09269): quantised differences of gradients. */
#include <math.h>

#include "examples/convex/paper.h"

/* Of the strongly convex theorem, with its alpha = alpha_p/2 and c = 4(1 − alpha_p)/(n·alpha_p²). */
static Step stepDiana(const Method* method, const Constants* constants) {
  const double alphaP = 1 / (1 + method->omega(method, constants)), alpha = alphaP / 2;
  const double c = 4 * (1 - alphaP) / (constants->n * alphaP * alphaP);
  const double gamma = fmin(alpha / constants->mu, 2 / ((constants->L + constants->mu) * (1 + c * alpha)));
  return (Step){(1 - method->momentum) * gamma, 0};
}

static Step stepPlain(const Method* method, const Constants* constants) {
  (void)method;
  return (Step){2 / (constants->L + constants->mu), 0};
}

static Step stepSgd(const Method* method, const Constants* constants) {
  (void)method;
  return (Step){1 / constants->sample, 0};
}

/* Blocks of 64, and one block. */
#define SMALL .block = 64, .bits = bitsTernary, .omega
#define WHOLE .bits = bitsTernary, .omega
#define UNCOMPRESSED .label = "uncompressed", .spec = "fp32", .bits = bitsPlain

static const Method full[] = {
    {UNCOMPRESSED, .step = stepPlain},
    {.label = "DIANA, ∞-norm, blocks of 64",
     .spec = "diana(ternary(block=64))",
     .step = stepDiana,
     SMALL = omegaTernary},
    {.label = "DIANA, ∞-norm, one block", .spec = "diana(ternary(block=$b))", .step = stepDiana, WHOLE = omegaTernary},
    {.label = "DIANA, 2-norm, blocks of 64",
     .spec = "diana(ternary(norm=2, block=64))",
     .step = stepDiana,
     SMALL = omegaTernary2},
    {.label = "DIANA, 2-norm, one block",
     .spec = "diana(ternary(norm=2, block=$b))",
     .step = stepDiana,
     WHOLE = omegaTernary2},
    {.label = "TernGrad (α = 0, ∞-norm)", .spec = "ternary(block=$b)", .step = stepDiana, WHOLE = omegaTernary},
    {.label = "QSGD (α = 0, 2-norm)",
     .spec = "qsgd(levels=1, norm=2, block=$b)",
     .step = stepDiana,
     WHOLE = omegaTernary2},
};

static const Method sparse[] = {
    {UNCOMPRESSED, .step = stepPlain},
    {.label = "DIANA", .spec = "diana(ternary(block=64))", .step = stepDiana, SMALL = omegaTernary},
    {.label = "DIANA, ℓ2 in the prox",
     .spec = "diana(ternary(block=64))",
     .step = stepDiana,
     .proxL2 = 1,
     SMALL = omegaTernary},
    {.label = "DIANA, momentum 0.5",
     .spec = "diana(ternary(block=64))",
     .step = stepDiana,
     .momentum = 0.5,
     SMALL = omegaTernary},
    {.label = "TernGrad (α = 0)", .spec = "ternary(block=64)", .step = stepDiana, SMALL = omegaTernary},
};

static const Method noisy[] = {
    {UNCOMPRESSED, .step = stepSgd},
    {.label = "DIANA", .spec = "diana(ternary(block=64))", .step = stepSgd, SMALL = omegaTernary},
    {.label = "TernGrad (α = 0)", .spec = "ternary(block=64)", .step = stepSgd, SMALL = omegaTernary},
};

#define MUSHROOMS .kind = problemLogistic, .source = dataReal, .l2 = 0.03, .workers = 10
#define METHODS(list) .methods = list, .count = sizeof list / sizeof *list

static const Experiment experiments[] = {
    {.name = "diana",
     .title = "DIANA: full gradients, unlike workers",
     .sorted = 1,
     .rounds = 2000,
     MUSHROOMS,
     METHODS(full)},
    {.name = "diana-prox",
     .title = "DIANA: with an ℓ1 regulariser",
     .sorted = 1,
     .l1 = 0.003,
     .rounds = 2000,
     MUSHROOMS,
     METHODS(sparse)},
    {.name = "diana-batch-unlike",
     .title = "DIANA: minibatches, unlike workers",
     .sorted = 1,
     .batch = 16,
     .untuned = 1,
     .rounds = 2000,
     MUSHROOMS,
     METHODS(noisy)},
    {.name = "diana-batch-alike",
     .title = "DIANA: minibatches, workers alike",
     .batch = 16,
     .untuned = 1,
     .rounds = 2000,
     MUSHROOMS,
     METHODS(noisy)},
};

const Paper paperDiana = {"diana", "DIANA (arXiv 1901.09269)", experiments, sizeof experiments / sizeof *experiments};
