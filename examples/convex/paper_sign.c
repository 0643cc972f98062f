/* Where the sign of the gradient never points to the minimiser (Karimireddy, Rebjock, Stich, Jaggi, arXiv 1901.09847):
 * the sign of every row's gradient is ±(1, −1), so that x keeps its distance to x* = 0 along (1, 1). */
#include "examples/convex/paper.h"

static Step stepRow(const Method* method, const Constants* c) {
  (void)method;
  return (Step){1 / c->sample, 0};
}
static double bitsSign(const Method* method, const Constants* c) {
  (void)method;
  return (double)c->d;
}
static double bitsOnebit(const Method* method, const Constants* c) { return bitsSign(method, c) + floatBits; }

static const Method signs[] = {
    {.label = "uncompressed", .spec = "fp32", .step = stepRow, .bits = bitsPlain},
    {.label = "sign", .spec = "sign", .step = stepRow, .bits = bitsSign},
    {.label = "sign and scale", .spec = "onebit(block=64)", .step = stepRow, .bits = bitsOnebit},
    {.label = "sign and scale, with error feedback",
     .spec = "ef(onebit(block=64))",
     .step = stepRow,
     .bits = bitsOnebit},
};

static const Experiment experiments[] = {{.name = "sign",
                                          .title = "Signs need error feedback",
                                          .kind = problemRidge,
                                          .source = dataSignRows,
                                          .workers = 1,
                                          .batch = 1,
                                          .rounds = 400,
                                          .methods = signs,
                                          .count = sizeof signs / sizeof *signs}};

const Paper paperSign = {"sign", "Error feedback (arXiv 1901.09847)", experiments,
                         sizeof experiments / sizeof *experiments};
