// The claims of arXiv 2206.10452 on ridge regression: each method of //examples:convex, at the step size of its
// theorem, against an independent NumPy program (shifted_reference.py) on the same instance, and against the theorem's
// bound.
#include <cstdio>
#include <map>

#include "tests/examples/convex_harness.h"

namespace {

constexpr int kSeeds = 5, kSettled = 1000;

std::map<std::string, double> reference() {
  std::map<std::string, double> values;
  FILE* pipe = popen("/usr/bin/python3 tests/examples/shifted_reference.py", "r");
  char name[64];
  for (double value; fscanf(pipe, "%63s %lf", name, &value) == 2;) values[name] = value;
  if (pclose(pipe)) values.clear();
  return values;
}

const Task& ridge() {
  static Task task = [] {
    Data data;
    dataRegression(&data, 100, 80, 1);
    return Task(problemRidge, data, 10, 0, 0.01, 10);
  }();
  return task;
}

// All numbers below are of squared distances to x*, relative to the start's.
struct Method5 {
  std::string label, reference;
  bool exact;
  // The theorem: E‖xᵏ − x*‖² ≤ rateᵏ·lead + floor.
  double rate, lead, floor;
};

std::vector<Method5> methods() {
  const Task& p = ridge();
  const Constants& c = p.constants;
  const double n = c.n, omega = 1, induced = 0.5, r0 = p.startDistance;
  double atStart = 0, atSolution = 0; /* means of ‖∇f_i(x*) − h_i‖², h_i = ∇f_i(x0) and 0 */
  for (int i = 0; i < c.n; i++) {
    std::vector<double> g = p.gradient(i, p.solution), first = p.gradient(i, p.start);
    atSolution += square(g) / n;
    for (size_t j = 0; j < g.size(); j++) g[j] -= first[j];
    atStart += square(g) / n;
  }
  const auto iterate = [&](double gamma) { /* mean of ‖x* − gamma·∇f_i(x*)‖² */
                                           double sum = 0;
                                           for (int i = 0; i < c.n; i++) {
                                             std::vector<double> g = p.gradient(i, p.solution);
                                             for (size_t j = 0; j < g.size(); j++) g[j] = p.solution[j] - gamma * g[j];
                                             sum += square(g) / n;
                                           }
                                           return sum;
  };
  const auto step = [&](const char* label) {
    const Method& m = methodOf(paperShifted, label);
    return m.step(&m, &c);
  };
  const auto learned = [&](const char* label, double w) { /* DIANA and Rand-DIANA, alpha = p = 1/(1 + w) */
                                                          const double gamma = step(label).gamma, alpha = 1 / (1 + w),
                                                                       M = 4 * w / (n * alpha);
                                                          return std::make_pair(
                                                              std::max(1 - gamma * c.mu, 1 - alpha / 2),
                                                              1 + M * gamma * gamma * atSolution / r0);
  };
  const double gamma = step("DCGD").gamma, star = step("DCGD-STAR").gamma;
  const Step gdci = step("GDCI"), vr = step("VR-GDCI");
  const auto diana = learned("DIANA", omega), topk = learned("DIANA with top-k", induced);
  const auto rand = learned("Rand-DIANA", omega);
  const double M = 4 * omega / n * (1 + omega);
  return {
      {"DCGD", "DCGD", false, 1 - gamma * c.mu, 1, 2 * gamma * omega * atSolution / (c.mu * n * r0)},
      {"fixed shift ∇f_i(x⁰)", "fixed", false, 1 - gamma * c.mu, 1, 2 * gamma * omega * atStart / (c.mu * n * r0)},
      {"DCGD-STAR", "DCGD-STAR", true, 1 - star * c.mu, 1, 0},
      {"DIANA", "DIANA", true, diana.first, diana.second, 0},
      {"DIANA with top-k", "induced", true, topk.first, topk.second, 0},
      {"Rand-DIANA", "Rand-DIANA", true, rand.first, rand.second, 0},
      {"GDCI", "GDCI", false, 1 - gdci.eta, 1, gdci.eta * 2 * omega * iterate(gdci.gamma) / (n * r0)},
      {"VR-GDCI", "VR-GDCI", true, std::max(1 - vr.eta, 1 - 0.25), 1 + M * vr.eta * vr.eta * iterate(vr.gamma) / r0, 0},
  };
}

TEST(Shifted, AgreesWithTheReferenceAndTheTheorems) {
  const std::map<std::string, double> expected = reference();
  ASSERT_EQ(expected.size(), 12u) << "python3 with NumPy must run tests/examples/shifted_reference.py";
  const Task& p = ridge();
  EXPECT_NEAR(p.constants.L / expected.at("L"), 1, 1e-9);
  EXPECT_NEAR(p.constants.mu / expected.at("mu"), 1, 1e-6);
  EXPECT_NEAR(p.constants.Lmax / expected.at("Lmax"), 1, 1e-9);
  EXPECT_NEAR(p.startDistance / expected.at("start"), 1, 1e-9);

  std::map<std::string, double> middle, bits;
  for (const Method5& m : methods()) {
    SCOPED_TRACE(m.label);
    std::vector<double> values, sent;
    for (uint64_t seed = 1; seed <= kSeeds; seed++) {
      const Result run = runOf(p, methodOf(paperShifted, m.label), seed, m.exact ? 6000 : 4000);
      for (int i = 0; i < run.count; i++)
        ASSERT_LE(run.points[i].error, std::pow(m.rate, run.points[i].round) * m.lead + m.floor)
            << "seed " << seed << ", round " << run.points[i].round;
      ASSERT_EQ(run.arrived() > 0, m.exact) << "seed " << seed;
      values.push_back(m.exact ? run.arrived() : run.meanAfter(kSettled));
      sent.push_back(run.points[run.count - 1].bits);
    }
    middle[m.label] = medianOf(values);
    bits[m.label] = medianOf(sent);
    EXPECT_NEAR(middle[m.label] / expected.at(m.reference), 1, 0.15);
    printf("%-24s median %.4g, reference %.4g\n", m.label.c_str(), middle[m.label], expected.at(m.reference));
  }

  // In rounds: shifts that know the solution, then those helped by top-k, then those that only learn. The last three
  // differ by less than their spread.
  EXPECT_LT(middle["DCGD-STAR"], 0.8 * middle["DIANA with top-k"]);
  for (const char* learns : {"DIANA", "Rand-DIANA", "VR-GDCI"}) {
    EXPECT_LT(middle["DIANA with top-k"], 0.8 * middle[learns]) << learns;
    EXPECT_NEAR(middle[learns] / middle["DIANA"], 1, 0.1) << learns;
  }
  // A shift far from ∇f_i(x*) is worse than none.
  EXPECT_GT(middle["fixed shift ∇f_i(x⁰)"], 100 * middle["DCGD"]);
  // In bits: Rand-DIANA's full-precision refreshes cost as much again as its messages.
  EXPECT_NEAR(bits["Rand-DIANA"] / bits["DIANA"], 2, 0.2);
}

// Fewer refreshes, or such that take a message's place, cost less and are exact too.
TEST(Shifted, RandDianasRefreshesCanBeCheap) {
  const auto bits = [](const char* label) {
    const Result run = runOf(ridge(), methodOf(paperShifted, label), 1, 6000);
    EXPECT_GT(run.arrived(), 0) << label;
    return run.reached[runLevels - 1].bits;
  };
  const double diana = bits("DIANA"), replacing = bits("Rand-DIANA, replacing"), rare = bits("Rand-DIANA, p = 0.02");
  printf("bits over DIANA's: replacing %.2f, p = 0.02 %.2f\n", replacing / diana, rare / diana);
  EXPECT_NEAR(replacing / diana, 1.5, 0.15);
  EXPECT_NEAR(rare / diana, 1.1, 0.15);
}

}  // namespace
