// The methods next to the five papers (docs/papers.md), each by its spec, on a small quadratic whose workers differ:
// exact where their theory says exact, a neighbourhood where it says that, and bit for bit the algorithm where a plain
// loop is short.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "plugin/slimccl.h"
#include "tests/collectives/group.h"
#include "tests/reference/reference.h"

namespace slim_test {
namespace {

constexpr int kRanks = 4;
constexpr size_t kN = 512;

// f_i(x) = ½ Σ D_i (x − c_i)², D_i in [mu, L]: no two workers have the same minimum.
struct Quadratic {
  static constexpr double mu = 0.5, L = 1;
  std::vector<double> D[kRanks], c[kRanks];
  std::vector<double> best = std::vector<double>(kN), mean = best;  // x*, mean of D_i
  Quadratic() {
    std::mt19937_64 random(testSeed());
    auto uniform = [&] { return static_cast<double>(random() >> 11) * std::ldexp(1.0, -53); };
    for (int r = 0; r < kRanks; r++)
      for (size_t i = 0; i < kN; i++) {
        D[r].push_back(mu + (L - mu) * uniform());
        c[r].push_back(4 * uniform() - 2 + (i % 64 == 7 ? 10 : 0));
      }
    for (size_t i = 0; i < kN; i++) {
      for (int r = 0; r < kRanks; r++) {
        mean[i] += D[r][i] / kRanks;
        best[i] += D[r][i] * c[r][i] / kRanks;
      }
      best[i] /= mean[i];
    }
  }
  template <typename Real>
  void gradient(int r, const std::vector<Real>& x, std::vector<Real>* g) const {
    for (size_t i = 0; i < kN; i++) (*g)[i] = static_cast<Real>(D[r][i] * (x[i] - c[r][i]));
  }
  template <typename Real>
  double gap(const std::vector<Real>& x) const {  // f(x) − f*
    double sum = 0;
    for (size_t i = 0; i < kN; i++) sum += mean[i] * (x[i] - best[i]) * (x[i] - best[i]) / 2;
    return sum;
  }
};

const Quadratic& problem() {
  static const Quadratic quadratic;
  return quadratic;
}

// Noise of the workers' gradients: independent, of standard deviation `size`.
class Noise {
 public:
  Noise(int rank, double size) : random_(static_cast<uint64_t>(rank) * 104729 + testSeed()), size_(size) {}
  double operator()() {
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += static_cast<double>(random_() >> 11) * std::ldexp(1.0, -53);
    return size_ * sum;
  }

 private:
  std::mt19937_64 random_;
  double size_;
};

// (f − f*)/(f(x0) − f*) after each step of x ← x − gamma·allreduce(gradient), from x0 = 0, in fp64.
std::vector<double> descend(const std::string& spec, double gamma, int steps, double noise = 0) {
  std::vector<double> gaps;
  forEachRank(kRanks, makeConfig(slimAlgoTwoShot), [&](int rank, slimComm_t comm) {
    const Quadratic& p = problem();
    slimTensor_t tensor;
    ASSERT_EQ(slimSuccess, slimTensorCreate(&tensor, comm, spec.c_str(), 1)) << slimGetLastError();
    Noise draw(rank, noise);
    std::vector<double> x(kN), g(kN), y(kN);
    const double start = p.gap(x);
    for (int t = 0; t < steps; t++) {
      p.gradient(rank, x, &g);
      if (noise > 0)
        for (double& v : g) v += draw();
      ASSERT_EQ(slimSuccess, slimAllReduce(g.data(), y.data(), kN, slimFloat64, slimAvg, tensor, comm, nullptr))
          << slimGetLastError();
      for (size_t i = 0; i < kN; i++) x[i] -= gamma * y[i];
      if (rank == 0) gaps.push_back(p.gap(x) / start);
    }
  });
  return gaps;
}

// Mean over the last quarter: where a method ends up.
double plateau(const std::vector<double>& gaps) {
  double sum = 0;
  const size_t from = gaps.size() * 3 / 4;
  for (size_t t = from; t < gaps.size(); t++) sum += gaps[t];
  return sum / static_cast<double>(gaps.size() - from);
}

void show(const std::string& spec, double value) { printf("[          ] %-68s %.3g\n", spec.c_str(), value); }

// ‖∇f_i(x0)‖² in the mean, over f(x0) − f*: how far shifts of zero are off.
double shiftError() {
  const Quadratic& p = problem();
  std::vector<double> x(kN), g(kN);
  double sum = 0;
  for (int r = 0; r < kRanks; r++) {
    p.gradient(r, x, &g);
    for (double v : g) sum += v * v / kRanks;
  }
  return sum / p.gap(x);
}

// ---- EF21 (2106.05203, 2305.15155) --------------------------------------------------------------------------------

constexpr double kShare = 6.0 / 64;

// Theorem 2: gamma ≤ 1/(L + L·√(2·beta/theta)) gives f − f* ≤ (1 − gamma·mu)^t (f(x0) − f* + gamma/theta·G0).
TEST(Ef21, ConvergesAsItsTheoremSaysWhereErrorFeedbackStays) {
  const Quadratic& p = problem();
  const double theta = 1 - std::sqrt(1 - kShare), beta = (1 - kShare) / theta,
               gamma = 1 / (p.L + p.L * std::sqrt(2 * beta / theta));
  ASSERT_LT(gamma, theta / (2 * p.mu));
  const std::string codec = "topk(k=6,block=64)";
  const auto gaps = descend("up=ef21(" + codec + "); down=fp32", gamma, 1800);
  double bound = 1 + gamma / theta * shiftError();
  for (size_t t = 0; t < gaps.size(); t++) {
    bound *= 1 - gamma * p.mu;
    ASSERT_LE(gaps[t], bound + 1e-13) << "step " << t;
  }
  const double both = descend("ef21(" + codec + ")", gamma, 1800).back(),
               ef = plateau(descend("up=ef(" + codec + "); down=fp32", gamma, 1800)),
               smaller = plateau(descend("up=ef(" + codec + "); down=fp32", gamma / 4, 4000)),
               nothing = plateau(descend("up=" + codec + "; down=fp32", gamma, 1800));
  show("ef21, exact downlink", gaps.back());
  show("ef21, its own downlink", both);
  show("ef", ef);
  show("ef, a quarter of the step", smaller);
  show("topk", nothing);
  EXPECT_LT(gaps.back(), 1e-12);
  EXPECT_LT(both, 1e-12);
  EXPECT_GT(ef, 1e-7) << "a neighbourhood,";
  EXPECT_LT(smaller, ef / 4) << "which shrinks with the step";
  EXPECT_GT(nothing, 10 * ef);
}

// With minibatch noise the momentum form has less of it in its limit; without noise it is exact as well.
TEST(Ef21, MomentumAveragesTheNoise) {
  const double gamma = 0.02;
  const std::string plain = "up=ef21(topk(k=6,block=64)); down=fp32",
                    momentum = "up=ef21(topk(k=6,block=64),momentum=0.05); down=fp32";
  const double noisy = plateau(descend(plain, gamma, 2000, 1)), averaged = plateau(descend(momentum, gamma, 2000, 1)),
               exact = descend(momentum, gamma, 2500).back();
  show("ef21 with noise", noisy);
  show("ef21, momentum=0.05, with noise", averaged);
  show("ef21, momentum=0.05, without noise", exact);
  EXPECT_LT(averaged, noisy / 2);
  EXPECT_LT(exact, 1e-12);
}

// g_i ← g_i + C(∇f_i − g_i), g = mean g_i, as plain float loops.
TEST(Ef21, IsItsAlgorithmBitForBit) {
  constexpr float gamma = 0.0625f;
  const Quadratic& p = problem();
  std::vector<std::vector<float>> library(60, std::vector<float>(kN));
  forEachRank(kRanks, makeConfig(slimAlgoTwoShot), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimSuccess, slimTensorCreate(&tensor, comm, "up=ef21(topk(k=6,block=64)); down=fp32", 1));
    std::vector<float> x(kN), g(kN), y(kN);
    for (auto& seen : library) {
      p.gradient(rank, x, &g);
      ASSERT_EQ(slimSuccess, slimAllReduce(g.data(), y.data(), kN, slimFloat32, slimAvg, tensor, comm, nullptr));
      for (size_t i = 0; i < kN; i++) x[i] -= gamma * y[i];
      if (rank == 0) seen = x;
    }
  });
  std::vector<float> x(kN), g(kN), h(kN), mean(kN), own[kRanks];
  for (auto& shift : own) shift.resize(kN);
  for (size_t t = 0; t < library.size(); t++) {
    std::fill(mean.begin(), mean.end(), 0.0f);
    for (int r = 0; r < kRanks; r++) {
      p.gradient(r, x, &g);
      for (size_t block = 0; block < kN; block += 64) {
        std::vector<size_t> order(64);
        for (size_t j = 0; j < 64; j++) order[j] = block + j;
        auto size = [&](size_t i) { return std::fabs(g[i] - own[r][i]); };
        std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) { return size(i) > size(j); });
        for (size_t i : std::vector<size_t>(order.begin(), order.begin() + 6)) {
          const float sent = g[i] - own[r][i];
          mean[i] += sent;
          own[r][i] += sent;
        }
      }
    }
    for (size_t i = 0; i < kN; i++) {
      const float m = mean[i] * (1.0f / kRanks);
      h[i] += m;
      x[i] -= gamma * h[i];
    }
    ASSERT_EQ(x, library[t]) << "step " << t;
  }
}

// ---- EF-BV (2205.04180) -------------------------------------------------------------------------------------------

TEST(EfBv, ContainsDianaAndEf21BitForBit) {
  EXPECT_EQ(descend("up=ef_bv(qsgd(bits=4,block=64),lambda=0.25,nu=1); down=fp32", 0.1, 60),
            descend("up=diana(qsgd(bits=4,block=64),alpha=0.25); down=fp32", 0.1, 60));
  EXPECT_EQ(descend("up=ef_bv(topk(k=6,block=64),lambda=1,nu=1); down=fp32", 0.03, 60),
            descend("up=ef21(topk(k=6,block=64)); down=fp32", 0.03, 60));
  EXPECT_EQ(descend("up=ef_bv(topk(k=6,block=64)); down=fp32", 0.03, 60),
            descend("up=ef21(topk(k=6,block=64)); down=fp32", 0.03, 60))
      << "the automatic lambda and nu of a deterministic codec";
}

// Independent random codecs on n workers: omega_av = omega/n. Theorem 1: r = 1 − (1 − ·)… with lambda = 1/(1 + omega),
// nu = 1/(1 + omega_av); gamma = 1/(L + L·√(r_av/r)/s*).
TEST(EfBv, ConvergesAsItsTheoremSays) {
  const Quadratic& p = problem();
  const double omega = 64 / 6.0 - 1, r = omega / (1 + omega), rAv = omega / kRanks / (1 + omega / kRanks),
               s = std::sqrt((1 + r) / (2 * r)) - 1, gamma = 1 / (p.L + p.L * std::sqrt(rAv / r) / s),
               theta = s * (1 + s) * r / rAv;
  const auto gaps = descend("up=ef_bv(randk(k=6,block=64,scale=unbiased),workers=4); down=fp32", gamma, 2200);
  double bound = 1 + gamma / (2 * theta) * shiftError();
  const double rate = std::max(1 - gamma * p.mu, (r + 1) / 2);
  for (size_t t = 0; t < gaps.size(); t++) {
    bound *= rate;
    ASSERT_LE(gaps[t], bound + 1e-13) << "step " << t;
  }
  show("ef_bv(randk)", gaps.back());
  EXPECT_LT(gaps.back(), 1e-12);
}

// ---- Error feedback with half the memory --------------------------------------------------------------------------

// With minibatch noise a memory in bf16 ends where one in binary32 does.
TEST(MemoryInBf16, EndsWhereBinary32Ends) {
  for (const std::string codec : {"topk(k=6,block=64)", "onebit(block=64)", "randk(k=6,block=64)"}) {
    const double full = plateau(descend("ef(" + codec + ")", 0.02, 2000, 1)),
                 half = plateau(descend("ef(" + codec + ",memory=bf16)", 0.02, 2000, 1));
    show("ef(" + codec + ")", full);
    show("ef(" + codec + ",memory=bf16)", half);
    EXPECT_LT(half, 1.05 * full);
  }
}

// ---- DORE (1910.07561), Artemis (2006.14591) ----------------------------------------------------------------------

// Uplink of differences, downlink of the residual with what it held back: linear and exact; without the uplink's shifts
// a neighbourhood.
TEST(Dore, IsExactWhereItsUplinkWithoutShiftsIsNot) {
  const double gamma = 0.1;
  const auto dore = descend("up=diana(ternary(block=64)); down=ef(ternary(block=64))", gamma, 1500);
  const double without = plateau(descend("up=ternary(block=64); down=ef(ternary(block=64))", gamma, 1500));
  show("dore: up=diana(ternary), down=ef(ternary)", dore.back());
  show("up=ternary, down=ef(ternary)", without);
  EXPECT_LT(dore.back(), 1e-12);
  EXPECT_GT(without, 1e-5);
  // Linear: every 50 steps a factor of e^−(2·50·gamma·mu) or better, with some room for chance.
  for (size_t t = 50; t < 250; t += 50) EXPECT_LT(dore[t + 50], 0.02 * dore[t]) << t;
}

TEST(Artemis, UplinkMemoryMakesBothDirectionsExact) {
  const double gamma = 0.1;
  const std::string q = "qsgd(bits=4,block=64)";
  const double both = descend("up=diana(" + q + "); down=diana(" + q + ")", gamma, 1000).back(),
               up = descend("up=diana(" + q + "); down=" + q, gamma, 1000).back(),
               none = plateau(descend("up=" + q + "; down=" + q, gamma, 1000));
  show("artemis with both memories: up=diana(qsgd), down=diana(qsgd)", both);
  show("artemis: up=diana(qsgd), down=qsgd", up);
  show("bi-qsgd: up=qsgd, down=qsgd", none);
  EXPECT_LT(both, 1e-12);
  EXPECT_LT(up, 1e-12);
  EXPECT_GT(none, 1e-6);
}

// ---- 1-bit Adam (2102.02888) --------------------------------------------------------------------------------------

constexpr float kBeta1 = 0.9f, kBeta2 = 0.99f, kFirstRate = 0.02f, kRate = 0.003f;
constexpr int kWarmup = 600;

// The algorithm over any mean of the workers' vectors: gradients while Adam warms up, then, v frozen, momenta. mean
// gets one vector a worker of this process. Answers x after every step.
using Mean = std::function<void(int step, const std::vector<std::vector<float>>& vectors, std::vector<float>* mean)>;
std::vector<std::vector<float>> oneBitAdam(const std::vector<int>& workers, int steps, double noise, const Mean& mean) {
  const Quadratic& p = problem();
  std::vector<Noise> draw;
  for (int r : workers) draw.emplace_back(r, noise);
  std::vector<float> x(kN), m(kN), v(kN), g(kN), y(kN);
  std::vector<std::vector<float>> send(workers.size(), std::vector<float>(kN)), all;
  for (int t = 0; t < steps; t++) {
    for (size_t w = 0; w < workers.size(); w++) {
      p.gradient(workers[w], x, &g);
      for (size_t i = 0; i < kN; i++) {
        g[i] += static_cast<float>(draw[w]());
        send[w][i] = t < kWarmup ? g[i] : kBeta1 * m[i] + (1 - kBeta1) * g[i];
      }
    }
    mean(t, send, &y);
    for (size_t i = 0; i < kN; i++) {
      if (t < kWarmup) {
        m[i] = kBeta1 * m[i] + (1 - kBeta1) * y[i];
        v[i] = kBeta2 * v[i] + (1 - kBeta2) * y[i] * y[i];
      } else {
        m[i] = y[i];
      }
      x[i] -= (t < kWarmup ? kFirstRate : kRate) * m[i] / (std::sqrt(v[i]) + 1e-3f);
    }
    all.push_back(x);
  }
  return all;
}

std::vector<std::vector<float>> overSpec(const char* spec, int steps, double noise) {
  std::vector<std::vector<float>> result;
  forEachRank(kRanks, makeConfig(slimAlgoTwoShot), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimSuccess, slimTensorCreate(&tensor, comm, spec, 1)) << slimGetLastError();
    auto all = oneBitAdam(
        {rank}, steps, noise, [&](int, const std::vector<std::vector<float>>& send, std::vector<float>* mean) {
          ASSERT_EQ(slimSuccess,
                    slimAllReduce(send[0].data(), mean->data(), kN, slimFloat32, slimAvg, tensor, comm, nullptr));
        });
    if (rank == 0) result = all;
  });
  return result;
}

// u → sign(u)·mean|u| over a block; u keeps what was not sent.
void oneBit(std::vector<float>* u, size_t from, size_t block, std::vector<float>* sent) {
  std::vector<float> sizes;
  for (size_t i = from; i < from + block; i++) sizes.push_back(std::fabs((*u)[i]));
  const float scale = ref::treeSum(sizes) / static_cast<float>(block);
  for (size_t i = from; i < from + block; i++) {
    (*sent)[i] = (*u)[i] < 0 ? -scale : scale;
    (*u)[i] -= (*sent)[i];
  }
}

TEST(OneBitAdam, IsItsAlgorithmBitForBit) {
  constexpr size_t block = 64;
  std::vector<float> own[kRanks], server(kN), sent(kN);
  for (auto& memory : own) memory.resize(kN);
  const auto plain = oneBitAdam({0, 1, 2, 3}, kWarmup + 60, 1,
                                [&](int step, const std::vector<std::vector<float>>& send, std::vector<float>* mean) {
                                  std::vector<float> sum(kN);
                                  for (int r = 0; r < kRanks; r++) {
                                    for (size_t i = 0; i < kN; i++)
                                      own[r][i] = step < kWarmup ? 0 : send[r][i] + own[r][i];
                                    for (size_t b = 0; step >= kWarmup && b < kN; b += block)
                                      oneBit(&own[r], b, block, &sent);
                                    for (size_t i = 0; i < kN; i++) sum[i] += step < kWarmup ? send[r][i] : sent[i];
                                  }
                                  for (size_t i = 0; i < kN; i++) (*mean)[i] = sum[i] * (1.0f / kRanks);
                                  if (step < kWarmup) return;
                                  for (size_t i = 0; i < kN; i++) server[i] = (*mean)[i] + server[i];
                                  for (size_t b = 0; b < kN; b += block) oneBit(&server, b, block, mean);
                                });
  const auto library = overSpec("ef(onebit(block=64),warmup=600)", kWarmup + 60, 1);
  ASSERT_EQ(plain.size(), library.size());
  for (size_t t = 0; t < plain.size(); t++) ASSERT_EQ(plain[t], library[t]) << "step " << t;
}

// The compression adds a term in the square of the step to the noise's: the limit is that of uncompressed Adam up to a
// factor. Without memory it is far from it.
TEST(OneBitAdam, EndsWhereUncompressedAdamEnds) {
  auto limit = [](const char* spec) {
    const auto all = overSpec(spec, 4000, 1);
    std::vector<double> gaps;
    for (const auto& x : all) gaps.push_back(problem().gap(x) / problem().gap(std::vector<float>(kN)));
    show(spec, plateau(gaps));
    return plateau(gaps);
  };
  const double dense = limit("fp32"), compressed = limit("ef(onebit(block=64),warmup=600)"),
               forgets = limit("none(onebit(block=64),warmup=600)");
  EXPECT_LT(compressed, 1.25 * dense);
  EXPECT_GT(forgets, 4 * dense);
}

}  // namespace
}  // namespace slim_test
