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
  return (void)method, (Step){2 / (constants->L + constants->mu), 0};
}

static const Method full[] = {
    {.label = "uncompressed", .spec = "fp32", .step = stepPlain, .bits = bitsPlain},
    {.label = "DIANA, ∞-norm, blocks of 64",
     .spec = "diana(ternary(block=64))",
     .block = 64,
     .step = stepDiana,
     .omega = omegaTernary,
     .bits = bitsTernary},
    {.label = "DIANA, ∞-norm, one block",
     .spec = "diana(ternary(block=$b))",
     .step = stepDiana,
     .omega = omegaTernary,
     .bits = bitsTernary},
    {.label = "DIANA, 2-norm, blocks of 64",
     .spec = "diana(ternary(norm=2, block=64))",
     .block = 64,
     .step = stepDiana,
     .omega = omegaTernary2,
     .bits = bitsTernary},
    {.label = "DIANA, 2-norm, one block",
     .spec = "diana(ternary(norm=2, block=$b))",
     .step = stepDiana,
     .omega = omegaTernary2,
     .bits = bitsTernary},
    {.label = "TernGrad (α = 0)",
     .spec = "ternary(block=$b)",
     .step = stepDiana,
     .omega = omegaTernary,
     .bits = bitsTernary},
    {.label = "QSGD, 1 level (α = 0)",
     .spec = "qsgd(levels=1, norm=2, block=$b)",
     .step = stepDiana,
     .omega = omegaTernary2,
     .bits = bitsTernary},
};

static const Experiment experiments[] = {
    {.name = "diana",
     .title = "DIANA: full gradients, unlike workers",
     .kind = problemLogistic,
     .source = dataReal,
     .sorted = 1,
     .l2 = 0.03,
     .workers = 10,
     .rounds = 2500,
     .methods = full,
     .count = sizeof full / sizeof *full},
};

const Paper paperDiana = {"diana", "DIANA (arXiv 1901.09269)", experiments, sizeof experiments / sizeof *experiments};
