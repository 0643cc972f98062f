/* Shifted compression (Shulgin, Richtárik, arXiv 2206.10452): what is compressed is the distance to a shift. The step
 * sizes are those of its theorems, with omega of the codec. */
#include <math.h>

#include "examples/convex/paper.h"

/* DCGD, and any fixed shift: 1 / (L + 2·max(L_i·omega)/n). */
static Step stepFixed(const Method* method, const Constants* c) {
  return (Step){1 / (c->L + 2 * c->Lmax * method->omega(method, c) / c->n), 0};
}

static Step stepStar(const Method* method, const Constants* c) {
  return (Step){1 / (c->L + c->Lmax * method->omega(method, c) / c->n), 0};
}

/* DIANA and Rand-DIANA, with alpha or p = 1/(1 + omega). */
static Step stepLearned(const Method* method, const Constants* c) {
  return (Step){1 / (c->L + 6 * c->Lmax * method->omega(method, c) / c->n), 0};
}

/* GDCI, noise = 2, and VR-GDCI, noise = 6: at eta's bound gamma is 1/mu. */
static Step stepIterates(const Method* method, const Constants* c, double noise) {
  const double omega = method->omega(method, c), over = noise * omega / c->n;
  const double eta = 1 / (c->L / c->mu + over * (c->Lmax / c->mu - 1));
  return (Step){(1 + eta * over) / (eta * (c->L + over * c->Lmax)), eta};
}
static Step stepGdci(const Method* method, const Constants* c) { return stepIterates(method, c, 2); }
static Step stepVrGdci(const Method* method, const Constants* c) { return stepIterates(method, c, 6); }

/* Top-k and rand-k of the same k: omega·(1 − delta), delta = k/d; both are sent, and top-k's indices. */
static double omegaInduced(const Method* method, const Constants* c) {
  return omegaRandk(method, c) * (1 - methodKept(method, c) / (double)c->d);
}
static double bitsInduced(const Method* method, const Constants* c) {
  return bitsRandk(method, c) + methodKept(method, c) * (floatBits + ceil(log2((double)c->d)));
}

/* Rand-DIANA: with probability p the gradient travels in full precision, beside the message or in its place. */
static double bitsRefreshed(const Method* method, const Constants* c) {
  return bitsRandk(method, c) + bitsPlain(method, c) / (1 + omegaRandk(method, c));
}
static double bitsReplaced(const Method* method, const Constants* c) {
  return bitsRefreshed(method, c) - bitsRandk(method, c) / (1 + omegaRandk(method, c));
}
#define RARE 0.02
static double bitsRare(const Method* method, const Constants* c) {
  return bitsRandk(method, c) + bitsPlain(method, c) * RARE;
}

#define TEXT(number) #number
#define TEXT_OF(number) TEXT(number)
#define RANDK "randk(k=$k, block=$b)"
#define INDUCED "induced(topk(k=$k, block=$b), " RANDK ")"
#define COUNTED .share = 0.5, .omega = omegaRandk, .bits
#define COMMON COUNTED = bitsRandk

static Step stepPlain(const Method* method, const Constants* c) {
  (void)method;
  return (Step){1 / c->L, 0};
}

static const Method ridge[] = {
    {.label = "uncompressed", .spec = "fp32", .step = stepPlain, .bits = bitsPlain},
    {.label = "DCGD", .spec = RANDK, .step = stepFixed, COMMON},
    {.label = "fixed shift ∇f_i(x⁰)", .spec = "shift(" RANDK ")", .step = stepFixed, .shift = shiftStart, COMMON},
    {.label = "DCGD-STAR", .spec = "shift(" RANDK ")", .step = stepStar, .shift = shiftSolution, COMMON},
    {.label = "DCGD-STAR with top-k",
     .spec = "shift(" INDUCED ")",
     .share = 0.5,
     .step = stepStar,
     .shift = shiftSolution,
     .omega = omegaInduced,
     .bits = bitsInduced},
    {.label = "DIANA", .spec = "diana(" RANDK ", alpha=$a)", .step = stepLearned, COMMON},
    {.label = "DIANA with top-k",
     .spec = "diana(" INDUCED ", alpha=$a)",
     .share = 0.5,
     .step = stepLearned,
     .omega = omegaInduced,
     .bits = bitsInduced},
    {.label = "Rand-DIANA", .spec = "rand_diana(" RANDK ", p=$a)", .step = stepLearned, COUNTED = bitsRefreshed},
    {.label = "Rand-DIANA, replacing",
     .spec = "rand_diana(" RANDK ", p=$a, refresh=replace)",
     .step = stepLearned,
     COUNTED = bitsReplaced},
    {.label = "Rand-DIANA, p = " TEXT_OF(RARE),
     .spec = "rand_diana(" RANDK ", p=" TEXT_OF(RARE) ")",
     .step = stepLearned,
     COUNTED = bitsRare},
    {.label = "GDCI", .spec = RANDK, .step = stepGdci, .iterates = 1, COMMON},
    {.label = "VR-GDCI", .spec = "diana(" RANDK ", alpha=$a)", .step = stepVrGdci, .iterates = 1, COMMON},
};

/* A tenth of the coordinates: omega = 9. */
#define TENTH .share = 0.1, .omega = omegaRandk, .bits
static const Method sparse[] = {
    {.label = "uncompressed", .spec = "fp32", .step = stepPlain, .bits = bitsPlain},
    {.label = "DCGD", .spec = RANDK, .step = stepFixed, TENTH = bitsRandk},
    {.label = "DCGD-STAR", .spec = "shift(" RANDK ")", .step = stepStar, .shift = shiftSolution, TENTH = bitsRandk},
    {.label = "DIANA", .spec = "diana(" RANDK ", alpha=$a)", .step = stepLearned, TENTH = bitsRandk},
    {.label = "Rand-DIANA", .spec = "rand_diana(" RANDK ", p=$a)", .step = stepLearned, TENTH = bitsRefreshed},
};

static const Experiment experiments[] = {
    {.name = "shifted",
     .title = "Shifted compression: ridge regression, half of the coordinates sent",
     .kind = problemRidge,
     .source = dataRegressionRows,
     .rows = 100,
     .columns = 80,
     .l2 = 0.01,
     .spread = 10,
     .workers = 10,
     .rounds = 5000,
     .methods = ridge,
     .count = sizeof ridge / sizeof *ridge},
    {.name = "shifted-tenth",
     .title = "Shifted compression: a tenth of the coordinates sent",
     .kind = problemRidge,
     .source = dataRegressionRows,
     .rows = 100,
     .columns = 80,
     .l2 = 0.01,
     .spread = 10,
     .workers = 10,
     .rounds = 5000,
     .methods = sparse,
     .count = sizeof sparse / sizeof *sparse},
};

const Paper paperShifted = {"shifted", "Shifted compression (arXiv 2206.10452)", experiments,
                            sizeof experiments / sizeof *experiments};
