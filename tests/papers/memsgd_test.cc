// Mem-SGD (arXiv 1809.07599) as its authors use it: one worker, one sample a step, step sizes inside the memory, the
// (a + t)² weighted average; logistic regression on seeded rows of unit length.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "plugin/slimccl.h"
#include "tests/collectives/group.h"

namespace slim_test {
namespace {

// f(x) = mean log(1 + exp(−b·aᵀx)) + lambda/2·‖x‖². The paper has lambda = 1/n and n/d = 200 or more; here n/d is 40,
// and lambda ten times larger, so that the steps of the first tenth of an epoch, 2/(lambda·t), are as harmless to SGD
// itself.
struct Logistic {
  static constexpr size_t n = 4000, d = 100;
  static constexpr double lambda = 10.0 / n;
  std::vector<double> a = std::vector<double>(n * d), b = std::vector<double>(n);
  double best;  // f*

  Logistic() {
    std::mt19937_64 random(testSeed());
    auto uniform = [&] { return (static_cast<double>(random() >> 11) + 0.5) * std::ldexp(1.0, -53); };
    auto normal = [&] { return std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform()); };
    std::vector<double> w(d);
    for (double& v : w) v = normal();
    for (size_t i = 0; i < n; i++) {
      double square = 0, product = 0;
      for (size_t j = 0; j < d; j++) {
        a[i * d + j] = normal();
        square += a[i * d + j] * a[i * d + j];
      }
      for (size_t j = 0; j < d; j++) product += (a[i * d + j] /= std::sqrt(square)) * w[j];
      b[i] = uniform() < 1 / (1 + std::exp(-5 * product)) ? 1 : -1;
    }
    // Nesterov's method; kappa = (1/4 + lambda)/lambda.
    const double smooth = 0.25 + lambda, root = std::sqrt(lambda / smooth), momentum = (1 - root) / (1 + root);
    std::vector<double> x(d), y(d), g(d);
    for (int k = 0; k < 400; k++) {
      for (size_t j = 0; j < d; j++) g[j] = lambda * y[j];
      for (size_t i = 0; i < n; i++) {
        const double s = slope(i, y) / n;
        for (size_t j = 0; j < d; j++) g[j] += s * a[i * d + j];
      }
      for (size_t j = 0; j < d; j++) {
        const double next = y[j] - g[j] / smooth;
        y[j] = next + momentum * (next - x[j]);
        x[j] = next;
      }
    }
    best = value(x);
  }
  double margin(size_t i, const std::vector<double>& x) const {
    double sum = 0;
    for (size_t j = 0; j < d; j++) sum += a[i * d + j] * x[j];
    return b[i] * sum;
  }
  double slope(size_t i, const std::vector<double>& x) const { return -b[i] / (1 + std::exp(margin(i, x))); }
  double value(const std::vector<double>& x) const {
    double sum = 0, square = 0;
    for (size_t i = 0; i < n; i++) {
      const double m = margin(i, x);
      sum += m > 0 ? std::log1p(std::exp(-m)) : -m + std::log1p(std::exp(m));
    }
    for (double v : x) square += v * v;
    return sum / n + lambda / 2 * square;
  }
};

const Logistic& problem() {
  static const Logistic logistic;
  return logistic;
}

constexpr int kSeeds = 3;
constexpr size_t kTenth = Logistic::n / 10, kEpoch = Logistic::n;

struct Outcome {
  double first, gap,
      most;  // f(x0); f − f* of the average at the end; largest f of the average, every tenth of an epoch
};

// Steps eta = 2/(lambda·(t + shift)); the spec's memory is in units of the gradient, so each change of eta rescales it.
Outcome run(const char* spec, double shift, size_t steps, int seed) {
  const Logistic& p = problem();
  Outcome out = {};
  slimConfig_t config = makeConfig();
  config.seed = static_cast<uint64_t>(seed) + 1;
  forEachRank(1, config, [&](int, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimSuccess, slimTensorCreate(&tensor, comm, spec, 1)) << slimGetLastError();
    std::mt19937_64 random(static_cast<uint64_t>(seed) * 7919 + 17);
    std::vector<double> x(p.d), average;
    for (double& v : x) v = 0.01 * (static_cast<double>(random() >> 11) * std::ldexp(1.0, -52) - 1);
    average = x;
    out.first = out.most = p.value(x);
    std::vector<float> g(p.d), sent(p.d);
    double before = 0;
    for (size_t step = 0; step < steps; step++) {
      const double t = static_cast<double>(step), eta = 2 / (p.lambda * (t + shift));
      const size_t i = random() % p.n;
      const double slope = p.slope(i, x);
      for (size_t j = 0; j < p.d; j++) g[j] = static_cast<float>(slope * p.a[i * p.d + j] + p.lambda * x[j]);
      if (step) {
        ASSERT_EQ(slimSuccess, slimTensorRescale(tensor, before / eta));
      }
      ASSERT_EQ(slimSuccess, slimAllReduce(g.data(), sent.data(), p.d, slimFloat32, slimAvg, tensor, comm, nullptr))
          << slimGetLastError();
      before = eta;
      const double weight =
          6 * (t + shift) * (t + shift) / ((1 + t) * (6 * shift * shift + t + 6 * shift * t + 2 * t * t));
      for (size_t j = 0; j < p.d; j++) {
        x[j] -= eta * sent[j];
        average[j] += weight * (x[j] - average[j]);
      }
      if ((step + 1) % kTenth == 0) {
        out.gap = p.value(average) - p.best;
        out.most = std::max(out.most, out.gap + p.best);
      }
    }
  });
  return out;
}

// T = 120·d/k: with its memory, one value a step does what all of them do; without, it does not.
TEST(MemSgd, TopOneWithMemoryKeepsUpWithSgd) {
  for (int seed = 0; seed < kSeeds; seed++) {
    const double d = problem().d;
    const double sgd = run("fp32", d, 3 * kEpoch, seed).gap,
                 top = run("ef(topk(k=1,scope=global))", d, 3 * kEpoch, seed).gap,
                 forgets = run("topk(k=1,scope=global)", d, 3 * kEpoch, seed).gap,
                 rare = run("ef(topk(k=0.5,scope=global))", 2 * d, 3 * kEpoch, seed).gap;
    printf("[          ] seed %d: f - f* of SGD %.3g, top-1 %.3g, without memory %.3g, top-1 every other step %.3g\n",
           seed, sgd, top, forgets, rare);
    EXPECT_GT(sgd, 0);
    EXPECT_LE(top, 2 * sgd + 1e-4);
    EXPECT_LE(rare, 2 * sgd + 1e-4) << "ultra-sparse: T is 60·d/k";
    EXPECT_GE(forgets, 10 * sgd);
  }
}

// The shift a keeps the first steps in bounds: the memory of rand-k holds d/k steps' worth of gradients.
TEST(MemSgd, RandOneNeedsTheShift) {
  for (int seed = 0; seed < kSeeds; seed++) {
    const char* spec = "ef(randk(k=1,scope=global))";
    const Outcome with = run(spec, problem().d, 3 * kTenth, seed), without = run(spec, 1, 3 * kTenth, seed);
    printf("[          ] seed %d: f(x0) %.3g, most with a = d/k %.3g, with a = 1 %.3g\n", seed, with.first, with.most,
           without.most);
    EXPECT_LE(with.most, 2 * with.first);
    EXPECT_GE(without.most, 10 * without.first);
  }
}

// Bits a step as the authors count them: 64 for one value and its index; QSGD with s = 2^b levels:
// min((b + 1)·d, 3s(s + √d) + 32).
double qsgdBits(int b, double d) {
  const double s = std::ldexp(1.0, b);
  return std::min((b + 1) * d, 3 * s * (s + std::sqrt(d)) + 32);
}

TEST(MemSgd, BitsAreCountedAsThePaperCountsThem) {  // its table for epsilon, d = 2000
  EXPECT_NEAR(617, qsgdBits(2, 2000), 0.5);
  EXPECT_NEAR(2947, qsgdBits(4, 2000), 0.5);
  EXPECT_NEAR(18000, qsgdBits(8, 2000), 0.5);
}

TEST(MemSgd, TopOneReachesQsgdsLossWithFewerBits) {
  const double d = problem().d;
  for (int seed = 0; seed < kSeeds; seed++) {
    const double top = run("ef(topk(k=1,scope=global))", d, 3 * kEpoch, seed).gap;
    for (int b : {2, 4, 8}) {
      const std::string spec = "qsgd(levels=" + std::to_string(1 << b) + ",norm=2,block=128)";
      const double qsgd = run(spec.c_str(), d, 3 * kEpoch, seed).gap, ratio = qsgdBits(b, d) / 64;
      printf("[          ] seed %d: f - f* of top-1 %.3g, of %s %.3g with %.1f times the bits\n", seed, top,
             spec.c_str(), qsgd, ratio);
      EXPECT_LE(top, 1.1 * qsgd);
      EXPECT_GE(ratio, 3);
    }
  }
}

// Algorithm 1 line by line, in floats; eta is halved now and then, so that the rescaling of the memory is exact.
TEST(MemSgd, IsAlgorithmOneBitForBit) {
  const Logistic& p = problem();
  forEachRank(1, makeConfig(), [&](int, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimSuccess, slimTensorCreate(&tensor, comm, "ef(topk(k=3,scope=global))", 1));
    std::mt19937_64 random(testSeed());
    std::vector<float> x(p.d, 0.0f), y = x, memory(p.d, 0.0f), u(p.d), g(p.d), sent(p.d);
    auto gradient = [&](size_t i, const std::vector<float>& at) {
      const double slope = p.slope(i, std::vector<double>(at.begin(), at.end()));
      for (size_t j = 0; j < p.d; j++) g[j] = static_cast<float>(slope * p.a[i * p.d + j] + p.lambda * at[j]);
    };
    float before = 0;
    for (int t = 0; t < 400; t++) {
      const float eta = std::ldexp(1.0f, 3 - t / 60);
      const size_t i = random() % p.n;
      gradient(i, x);
      std::vector<size_t> order(p.d);
      for (size_t j = 0; j < p.d; j++) {
        u[j] = memory[j] + eta * g[j];
        order[j] = j;
      }
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t j, size_t k) { return std::fabs(u[j]) > std::fabs(u[k]); });
      memory = u;
      for (size_t j : std::vector<size_t>(order.begin(), order.begin() + 3)) {
        x[j] -= u[j];
        memory[j] = 0;
      }
      gradient(i, y);
      if (t) {
        ASSERT_EQ(slimSuccess, slimTensorRescale(tensor, before / eta));
      }
      before = eta;
      ASSERT_EQ(slimSuccess, slimAllReduce(g.data(), sent.data(), p.d, slimFloat32, slimAvg, tensor, comm, nullptr));
      for (size_t j = 0; j < p.d; j++) y[j] -= eta * sent[j];
      ASSERT_EQ(x, y) << "step " << t;
    }
  });
}

}  // namespace
}  // namespace slim_test
