#include "compress/feedback.h"

#include <math.h>

#define SLIM_WHEN                                                                                          \
  {"warmup", slimOptionInt, "0", 0, 1e15, NULL}, {"init", slimOptionChoice, "zero", 0, 0, "zero|first"}, { \
    "resync", slimOptionInt, "0", 0, 1e15, NULL                                                            \
  }
#define SLIM_INNER \
  { "codec", slimOptionNode, NULL, 0, 0, NULL }
enum { optionWarmup = 1, optionInit, optionResync, optionOwn };

const slimOption slimOptions_none[] = {SLIM_INNER, SLIM_WHEN, SLIM_END_OPTIONS};
const slimOption slimOptions_ef[] = {
    SLIM_INNER, SLIM_WHEN, {"memory", slimOptionChoice, "fp32", 0, 0, "fp32|bf16"}, SLIM_END_OPTIONS};
const slimOption slimOptions_ef21[] = {
    SLIM_INNER, SLIM_WHEN, {"momentum", slimOptionReal, NULL, 1e-6, 1, NULL}, SLIM_END_OPTIONS};
const slimOption slimOptions_ef_bv[] = {SLIM_INNER,
                                        SLIM_WHEN,
                                        {"lambda", slimOptionReal, "auto", 1e-12, 1, "auto"},
                                        {"nu", slimOptionReal, "auto", 1e-12, 1, "auto"},
                                        {"workers", slimOptionInt, "1", 1, 1e9, NULL},
                                        SLIM_END_OPTIONS};
const slimOption slimOptions_diana[] = {
    SLIM_INNER, SLIM_WHEN, {"alpha", slimOptionReal, "auto", 0, 1, "auto"}, SLIM_END_OPTIONS};
const slimOption slimOptions_shift[] = {SLIM_INNER, SLIM_WHEN, SLIM_END_OPTIONS};
const slimOption slimOptions_rand_diana[] = {SLIM_INNER,
                                             SLIM_WHEN,
                                             {"p", slimOptionReal, "auto", 1e-12, 1, "auto"},
                                             {"refresh", slimOptionChoice, "add", 0, 0, "add|replace"},
                                             SLIM_END_OPTIONS};

/* sigma, a, b, c, nu, lambda; NAN: from the options. */
static const struct {
  double sigma, a, b, c, nu, lambda;
  bool memory, shifts;
  slimNeed need;
} table[slimNumFeedbacks] = {
    [slimFeedbackNone] = {0, 1, 0, 0, 1, 0, false, false, slimNeedsNothing},
    [slimFeedbackEf] = {1, 1, 1, -1, 1, 0, true, false, slimNeedsContraction},
    [slimFeedbackEf21] = {-1, 1, 0, 1, 1, 1, true, true, slimNeedsContraction},
    [slimFeedbackEfBv] = {-1, 1, 0, NAN, NAN, NAN, true, true, slimNeedsEither},
    [slimFeedbackDiana] = {-1, 1, 0, NAN, 1, NAN, true, true, slimNeedsUnbiased},
    [slimFeedbackShift] = {-1, 1, 0, 0, 1, 0, true, true, slimNeedsUnbiased},
    [slimFeedbackRandDiana] = {-1, 1, 0, 0, 1, 0, true, true, slimNeedsUnbiased},
};

slimNeed slimFeedbackNeed(slimFeedbackKind kind) { return table[kind].need; }

/* EF-BV (arXiv 2205.04180): min(1, (1 − eta)/((1 − eta)² + omega)). */
static double efBv(double eta, double omega) {
  const double r = 1 - eta;
  return fmin(1, r / (r * r + omega));
}

const char* slimFeedbackSetup(slimFeedback* f, slimFeedbackKind kind, const slimOptionValues* o, slimClass c,
                              bool ternary) {
  *f = (slimFeedback){.kind = kind,
                      .sigma = table[kind].sigma,
                      .a = table[kind].a,
                      .b = table[kind].b,
                      .c = table[kind].c,
                      .nu = table[kind].nu,
                      .lambda = table[kind].lambda,
                      .memory = table[kind].memory,
                      .shifts = table[kind].shifts,
                      .warmup = (uint64_t)o->value[optionWarmup],
                      .initFirst = o->value[optionInit] == 1,
                      .resync = (uint64_t)o->value[optionResync]};
  const double own = o->value[optionOwn];
  switch (kind) {
    case slimFeedbackEf:
      f->bf16 = own == 1;
      break;
    case slimFeedbackEf21:
      f->momentum = o->given[optionOwn] ? own : 0;
      break;
    case slimFeedbackEfBv: {
      const double n = o->value[optionOwn + 2], omega = isfinite(c.omega) ? c.omega : 0;
      const double eta = isfinite(c.omega) ? 0 : sqrt(1 - c.delta);
      f->lambda = own < 0 ? efBv(eta, omega) : own;
      f->nu = o->value[optionOwn + 1] < 0 ? efBv(eta, omega / n) : o->value[optionOwn + 1];
      f->c = f->lambda;
      break;
    }
    case slimFeedbackDiana: /* 1/(1 + omega); DIANA's own quantiser: alpha_p/2, alpha_p = 1/(1 + omega) */
      f->lambda = f->c = own < 0 ? (ternary ? .5 : 1) / (1 + c.omega) : own;
      break;
    case slimFeedbackRandDiana:
      f->refresh = own < 0 ? 1 / (1 + c.omega) : own;
      f->replace = o->value[optionOwn + 1] == 1;
      break;
    default:
      break;
  }
  if (f->initFirst && !f->shifts)
    return "init=first belongs to feedback with shifts: diana, ef21, ef_bv, shift, rand_diana";
  if (f->initFirst && f->warmup) return "warmup and init=first exclude each other";
  if (f->resync && !f->shifts) return "resync belongs to feedback with shifts: diana, ef21, ef_bv, shift, rand_diana";
  return NULL;
}
