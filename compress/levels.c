#include "compress/levels.h"

#include <math.h>

/* tnqsgd: 3·ln(1 + s·√(6N)/9) minimises variance/N + truncation bias. tqsgd: a·e^a = s²·N (Newton's method). */
static double laplaceThreshold(bool uniform, double s, double workers) {
  if (!uniform) return 3 * log(1 + s * sqrt(6 * workers) / 9);
  const double target = 2 * log(s) + log(workers);
  double a = target > 1 ? target - log(target) : 0.5;
  for (int i = 0; i < 50; i++) a -= (a + log(a) - target) / (1 + 1 / a);
  return a;
}

void slimLaplaceLevels(slimOp op, uint32_t bits, double workers, float* levels) {
  const bool uniform = op == slimOp_tqsgd;
  const uint32_t h = 1u << (bits - 1);
  const double s = 2.0 * h - 1, a = laplaceThreshold(uniform, s, workers), reach = 1 - exp(-a / 3);
  for (uint32_t j = 0; j < h; j++) {
    const double u = (2.0 * j + 1) / s;
    levels[j] = (float)(uniform ? u * a : -3 * log(1 - u * reach));
  }
}

/* ---- Power law ------------------------------------------------------------------------------------------------ */

/* Density p: mass `tail` spread as c·x^−exponent beyond 1 on either side, the rest evenly below. */
typedef struct {
  double exponent, tail;
} density;

/* Of [−x, x]. */
static double mass(density p, double x) { return x <= 1 ? (1 - p.tail) * x : 1 - p.tail * pow(x, 1 - p.exponent); }

/* ∫_0^x p^(1/3) = inner·x up to 1, and outer·(1 − x^−bend)/bend more beyond. */
typedef struct {
  double inner, outer, bend;
} cubeRoot;
static cubeRoot cubeRootOf(density p) {
  return (cubeRoot){cbrt((1 - p.tail) / 2), cbrt(p.tail / 2 * (p.exponent - 1)), p.exponent / 3 - 1};
}
static double rootTo(cubeRoot r, double x) {
  return x <= 1 ? r.inner * x : r.inner + r.outer * (1 - pow(x, -r.bend)) / r.bend;
}
static double rootInverse(cubeRoot r, double y) {
  return y <= r.inner ? y / r.inner : pow(1 - (y - r.inner) * r.bend / r.outer, -1 / r.bend);
}

/* tbqsgd: two even scales, which meet at k·a, with as many intervals as they deserve. */
static double biscaledQuality(density p, double a) {
  const double all = mass(p, a);
  double least = INFINITY;
  for (int i = 1; i < 8; i++) {
    const double k = i / 8.0, within = mass(p, k * a);
    least = fmin(least, pow(cbrt(within * k * k) + cbrt((all - within) * (1 - k) * (1 - k)), 3));
  }
  return least;
}

/* The best k and whole (odd) number of inner intervals out of s. */
typedef struct {
  double k, inside, variance;
} scales;
static scales bestScales(density p, double a, double s) {
  scales best = {0, 0, INFINITY};
  const double all = mass(p, a);
  for (int i = 1; i < 32; i++) {
    const double k = i / 32.0, within = mass(p, k * a);
    const double inner = within * k * k, outer = (all - within) * (1 - k) * (1 - k);
    for (double n = 1; n < s; n += 2) {
      const double variance = inner / (n * n) + outer / ((s - n) * (s - n));
      if (variance < best.variance * (1 - 1e-9)) best = (scales){k, n, variance};
    }
  }
  return best;
}

/* Q: the codec's variance over that of evenly spread values on [−a, a]. */
static double quality(slimOp op, density p, double a) {
  switch (op) {
    case slimOp_tqsgd:
      return mass(p, a);
    case slimOp_tbqsgd:
      return biscaledQuality(p, a);
    default:
      return 2 * pow(rootTo(cubeRootOf(p), a), 3) / (a * a);
  }
}

/* a^(exponent − 1)·Q(a) = tail·s²·N/(exponent − 2). Not below 1, where the tail begins, nor above 4096: no value of a
 * block is that many times twice its mean magnitude. */
static double powerThreshold(slimOp op, density p, double s, double workers) {
  const double target = p.tail * s * s * workers / (p.exponent - 2);
  double low = 1, high = SLIM_MAX_BLOCK / 2;
  if (quality(op, p, low) >= target) return low;
  if (pow(high, p.exponent - 1) * quality(op, p, high) <= target) return high;
  for (;;) {
    const double a = (low + high) / 2;
    if (!(low < a && a < high)) return a;
    if (pow(a, p.exponent - 1) * quality(op, p, a) < target)
      low = a;
    else
      high = a;
  }
}

void slimPowerLevels(slimOp op, uint32_t bits, double workers, uint32_t table, float* levels) {
  const density p = {3 + (table % SLIM_POWER_EXPONENTS + 1) / 16.0, pow(2, -2 - table / SLIM_POWER_EXPONENTS / 2.0)};
  const uint32_t h = 1u << (bits - 1);
  const double s = 2.0 * h - 1, a = powerThreshold(op, p, s, workers);
  const cubeRoot root = cubeRootOf(p);
  scales two = {0};
  if (op == slimOp_tbqsgd) two = bestScales(p, a, s);
  for (uint32_t j = 0; j < h; j++) {
    const double u = 2.0 * j + 1;
    double x;
    if (op == slimOp_tqsgd)
      x = u / s * a;
    else if (op == slimOp_tnqsgd)
      x = rootInverse(root, u / s * rootTo(root, a));
    else
      x = u <= two.inside ? u / two.inside * (two.k * a)
                          : two.k * a + (u - two.inside) / (s - two.inside) * (a - two.k * a);
    levels[j] = (float)x;
  }
}
