/* FO-SGD (Stollenwerk, Jacques, arXiv 2405.11095): one dithered bit a rotated coordinate, both ways, no memory. */
#include <math.h>

#include "examples/convex/paper.h"

/* The square of a message is `power` times its gradient's: 1/(L·power) descends, and tuning sees what the way back and
 * the mean over workers change. One dithered bit a coordinate: power = m·λ²/‖g‖², which is f² for FO, and between 1 and
 * m for λ = ‖g‖_∞: taken as √m. The paper's own rule is not publicly known. */
static Step stepOf(const Constants* c, double power) { return (Step){1 / (power * c->L), 0}; }
static Step stepPlain(const Method* method, const Constants* c) { return (void)method, stepOf(c, 1); }
static Step stepFo1(const Method* method, const Constants* c) { return (void)method, stepOf(c, 1.5 * 1.5); }
static Step stepFo2(const Method* method, const Constants* c) { return (void)method, stepOf(c, 2 * 2); }
static Step stepDrive(const Method* method, const Constants* c) { return (void)method, stepOf(c, acos(0)); } /* π/2 */
static Step stepDither(const Method* method, const Constants* c) { return (void)method, stepOf(c, sqrt((double)c->d)); }

/* Both ways. */
static double bitsBoth(const Method* method, const Constants* c) { return 2 * bitsPlain(method, c); }
static double bitsSigns(const Method* method, const Constants* c) {
  const int block = methodBlock(method, c);
  return 2 * (block + floatBits) * ceil((double)c->d / block);
}

#define BOTH(codec) .spec = "up=" codec "; down=" codec, .bits = bitsSigns
static const Method bits[] = {
    {.label = "uncompressed", .spec = "up=fp32; down=fp32", .step = stepPlain, .bits = bitsBoth},
    {.label = "FO-SGD, f = 1.5", .step = stepFo1, BOTH("fo(block=$b)")},
    {.label = "FO-SGD, f = 2", .step = stepFo2, BOTH("fo(f=2, block=$b)")},
    {.label = "FO-SGD, f = 2, shared λ", .step = stepFo2, BOTH("fo(f=2, lambda=shared, block=$b)")},
    {.label = "dithered bit, not rotated", .step = stepDither, BOTH("onebit(dither, lambda=inf, block=$b)")},
    {.label = "DRIVE, unbiased scale", .step = stepDrive, BOTH("rotate(onebit(scale=unbiased, block=$b))")},
    {.label = "sign and scale", .step = stepPlain, BOTH("onebit(block=$b)")},
    {.label = "sign and scale, error feedback", .step = stepPlain, BOTH("ef(onebit(block=$b))")},
};

#define MUSHROOMS .kind = problemLogistic, .source = dataReal, .l2 = 0.03
#define METHODS .methods = bits, .count = sizeof bits / sizeof *bits

static const Experiment experiments[] = {
    {.name = "fo", .title = "FO-SGD: one gradient", .workers = 1, .rounds = 1000, MUSHROOMS, METHODS},
    {.name = "fo-alike",
     .title = "FO-SGD: full gradients, workers alike",
     .workers = 10,
     .rounds = 1000,
     MUSHROOMS,
     METHODS},
    {.name = "fo-unlike",
     .title = "FO-SGD: full gradients, unlike workers",
     .sorted = 1,
     .workers = 10,
     .rounds = 1000,
     MUSHROOMS,
     METHODS},
    {.name = "fo-batch", .title = "FO-SGD: single rows", .workers = 10, .batch = 1, .rounds = 1000, MUSHROOMS, METHODS},
};

const Paper paperFo = {"fo", "FO-SGD (arXiv 2405.11095)", experiments, sizeof experiments / sizeof *experiments};
