// FO-SGD (arXiv 2405.11095) through the API: it converges where one bit without the rotation explodes, with nothing
// remembered; λ from the caller, and λ that the ranks share.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "collectives/tensor.h"
#include "tests/collectives/group.h"

namespace slim_test {
namespace {

constexpr size_t kDimension = 1024;
constexpr int kRanks = 8;

double noise(std::mt19937_64* random) {
  double sum = -6;
  for (int i = 0; i < 12; i++) sum += static_cast<double>((*random)() >> 11) * 0x1p-53;
  return sum;
}

// Gradient descent on ‖x − x*‖²/2 from x = 0 with allreduced gradients; the last step, or the first one whose error is
// above `enough`, and ‖x − x*‖²/‖x*‖² then. nonzero: 0 full gradients; else a rank draws so many coordinates and scales
// the gradient there by dimension/nonzero, which leaves its mean.
struct Result {
  int steps;
  double error;
};
Result descend(const char* spec, double rate, int steps, size_t nonzero, double enough) {
  std::vector<double> target(kDimension);
  std::mt19937_64 random(testSeed());
  for (double& t : target) t = noise(&random);
  double norm = 0;
  for (double t : target) norm += t * t;
  std::vector<Result> results(kRanks);
  forEachRank(kRanks, makeConfig(slimAlgoTwoShot), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, spec, 1), slimSuccess) << slimGetLastError();
    std::vector<double> x(kDimension), g(kDimension), mean(kDimension);
    std::mt19937_64 own(testSeed() * 1000 + static_cast<uint64_t>(rank));
    Result result = {0, 1};
    while (result.steps < steps && result.error < enough) {
      for (size_t i = 0; i < kDimension; i++) g[i] = nonzero ? 0 : x[i] - target[i];
      for (size_t drawn = 0; drawn < nonzero;) {
        const size_t i = own() % kDimension;
        if (g[i] != 0) continue;
        g[i] = (x[i] - target[i]) * static_cast<double>(kDimension) / static_cast<double>(nonzero);
        drawn++;
      }
      ASSERT_EQ(slimAllReduce(g.data(), mean.data(), kDimension, slimFloat64, slimAvg, tensor, comm, nullptr),
                slimSuccess)
          << slimGetLastError();
      result.error = 0;
      for (size_t i = 0; i < kDimension; i++) {
        x[i] -= rate * mean[i];
        result.error += (x[i] - target[i]) * (x[i] - target[i]) / norm;
      }
      result.steps++;
    }
    results[static_cast<size_t>(rank)] = result;
  });
  for (const Result& r : results) EXPECT_EQ(results[0].error, r.error) << "ranks differ";
  std::printf("%s: error %.3g after %d steps (seed %d)\n", spec, results[0].error, results[0].steps,
              static_cast<int>(testSeed()));
  return results[0];
}

// One bit both ways, no memory: exact convergence on full gradients. Without the rotation, unbiased one bit needs λ =
// ‖g‖₂ (f = √1024), whose noise makes the same step diverge.
TEST(Fo, ConvergesLinearlyBothWaysWherePlainOneBitDiverges) {
  for (const char* spec : {"up=fo(f=2, block=1024); down=fo(f=2, block=1024)", "fo(f=2, lambda=shared, block=1024)"}) {
    const Result fo = descend(spec, .1, 400, 0, 1e6);
    EXPECT_EQ(400, fo.steps);
    EXPECT_LE(std::sqrt(fo.error), 1e-12) << spec;
  }
  const Result plain = descend("onebit(dither, f=32, block=1024)", .1, 50, 0, 1e6);
  EXPECT_GE(plain.error, 1e6);
}

// 4-sparse stochastic gradients, a common λ. Nothing is clipped without the rotation if λ = ‖g‖_∞, but its energy is
// then 1024·λ².
TEST(Fo, SparseStochasticGradients) {
  const Result fo = descend("fo(f=1.5, lambda=shared, block=1024)", 3e-4, 3000, 4, 1e6);
  EXPECT_EQ(3000, fo.steps);
  EXPECT_LT(fo.error, .5);
  const Result plain = descend("onebit(dither, lambda=inf, block=1024)", 3e-4, 3000, 4, 1e6);
  EXPECT_GE(plain.error, 1e6);
}

std::vector<float> gradient(size_t n, int rank, int step) {
  const Bytes bytes = makeInput(slimFloat32, n, rank, step);
  std::vector<float> x(n);
  std::memcpy(x.data(), bytes.data(), bytes.size());
  return x;
}
float common(slimTensor_t tensor, size_t unit) { return static_cast<const float*>(tensor->common.data)[unit]; }
float rms(const std::vector<float>& x, size_t from, size_t n) {
  double sum = 0;
  for (size_t i = from; i < from + n; i++) sum += static_cast<double>(x[i]) * x[i];
  return static_cast<float>(std::sqrt(sum / static_cast<double>(n)));
}

// λ of the next step is f times the largest rms of the ranks; NaN and zeros forget it; it is in units of x.
TEST(SharedLambda, IsTheLargestOfTheRanksInTheStepBefore) {
  const size_t n = 2048, unit = 512;
  for (slimAlgo_t algo : {slimAlgoTwoShot, slimAlgoOneShot})
    for (int ranks : {1, 2, 3, 4, 8})
      forEachRank(ranks, makeConfig(algo), [&](int rank, slimComm_t comm) {
        slimTensor_t tensor;
        ASSERT_EQ(slimTensorCreate(&tensor, comm, "fo(f=2, lambda=shared)", 1), slimSuccess);
        std::vector<float> y(n);
        auto step = [&](const std::vector<float>& x) {
          ASSERT_EQ(slimAllReduce(x.data(), y.data(), n, slimFloat32, slimAvg, tensor, comm, nullptr), slimSuccess)
              << slimGetLastError();
        };
        for (int k = 0; k < 3; k++) {
          step(gradient(n, rank, k));
          for (size_t u = 0; u < n / unit; u++) {
            float most = 0;
            for (int r = 0; r < ranks; r++) most = std::max(most, rms(gradient(n, r, k), u * unit, unit));
            EXPECT_NEAR(2 * most, common(tensor, u), 1e-5 * most);
          }
        }
        // A step with a known λ puts out values of rms λ at most, and of just that where the downlink is one bit too.
        const float before = common(tensor, 0);
        step(gradient(n, rank, 3));
        EXPECT_LE(rms(y, 0, unit), before * 1.0001f);
        if (algo == slimAlgoTwoShot) {
          EXPECT_NEAR(rms(y, 0, unit), before, 1e-4 * before);
        }
        const float after = common(tensor, 0);
        ASSERT_EQ(slimTensorRescale(tensor, 0.25), slimSuccess);
        EXPECT_EQ(after / 4, common(tensor, 0));
        std::vector<float> x = gradient(n, rank, 5);
        if (rank == ranks - 1) x[3] = NAN;
        std::fill(x.begin() + 3 * unit, x.end(), 0.0f);
        step(x);
        EXPECT_TRUE(std::isnan(y[0]) && std::isnan(y[unit - 1]) && std::isfinite(y[unit]));
        EXPECT_EQ(0, common(tensor, 0));
        EXPECT_GT(common(tensor, 1), 0);
        EXPECT_EQ(0, common(tensor, 3)); /* zero on all ranks: noise in this step, and none in the next */
        step(x);
        for (size_t i = 3 * unit; i < n; i++) ASSERT_EQ(0, y[i]);
        ASSERT_EQ(slimTensorReset(tensor), slimSuccess);
        EXPECT_EQ(nullptr, tensor->common.data);
      });
}

// One rank 50 times larger than the others: its own λ and theirs must not be mixed up. The mean over many steps goes to
// the mean of the gradients.
TEST(SharedLambda, IsRightOnAverageForUnlikeRanks) {
  const size_t n = 512;
  const int steps = 2000;
  forEachRank(4, makeConfig(slimAlgoTwoShot), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, "fo(f=4, lambda=shared)", 1), slimSuccess);
    std::vector<double> sum(n), want(n);
    std::vector<float> y(n);
    auto of = [&](int r) {
      std::vector<float> x = gradient(n, r, 0);
      for (float& v : x) v *= r == 1 ? 50 : 1;
      return x;
    };
    for (int r = 0; r < 4; r++) {
      const std::vector<float> x = of(r);
      for (size_t i = 0; i < n; i++) want[i] += x[i] / 4.0;
    }
    const std::vector<float> x = of(rank);
    for (int k = 0; k < steps; k++) {
      ASSERT_EQ(slimAllReduce(x.data(), y.data(), n, slimFloat32, slimAvg, tensor, comm, nullptr), slimSuccess);
      for (size_t i = 0; i < n; i++) sum[i] += static_cast<double>(y[i]) / steps;
    }
    double error = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
      error += (sum[i] - want[i]) * (sum[i] - want[i]);
      size += want[i] * want[i];
    }
    /* A step's noise is at most n·λ², λ = 4·50·rms, against a mean of about 50/4·rms. */
    EXPECT_LT(error / size, 1.2 * 16 * 16 / steps);
    if (rank == 0) std::printf("error of the mean of %d steps: %.4f\n", steps, error / size);
  });
}

TEST(SharedLambda, IsRefusedWhereItCannotBeShared) {
  forEachRank(2, makeConfig(), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, "fo(lambda=shared)", 1), slimSuccess);
    std::vector<float> x(128, 1), y(256);
    EXPECT_EQ(slimBroadcast(x.data(), y.data(), 128, slimFloat32, 0, tensor, comm, nullptr), slimInvalidUsage);
    EXPECT_NE(std::string::npos, std::string(slimGetLastError()).find("lambda=shared")) << slimGetLastError();
    EXPECT_EQ(slimReduce(x.data(), y.data(), 128, slimFloat32, slimAvg, 0, tensor, comm, nullptr), slimInvalidUsage);
    EXPECT_EQ(slimReduceScatter(x.data(), y.data(), 64, slimFloat32, slimAvg, tensor, comm, nullptr), slimInvalidUsage);
    EXPECT_EQ(slimAllGather(x.data(), y.data(), 128, slimFloat32, tensor, comm, nullptr), slimInvalidUsage);
    EXPECT_EQ(slimAllReduce(x.data(), y.data(), 128, slimFloat32, slimAvg, tensor, comm, nullptr), slimSuccess);
    (void)rank;
  });
}

// slimTensorSetLambda is lambda=x, from the next step on, and in the state file.
TEST(SetLambda, TakesThePlaceOfTheSpecs) {
  const size_t n = 3000;
  const char* dir = std::getenv("TEST_TMPDIR");
  const std::string path = std::string(dir ? dir : "/tmp") + "/lambda." + std::to_string(getpid()) + ".";
  for (int ranks : {1, 2, 3})
    forEachRank(ranks, makeConfig(), [&](int rank, slimComm_t comm) {
      slimTensor_t set, spec, again;
      ASSERT_EQ(slimTensorCreate(&set, comm, "rotate(onebit(dither, lambda=0.5))", 1), slimSuccess);
      ASSERT_EQ(slimTensorCreate(&spec, comm, "rotate(onebit(dither, lambda=0.125))", 2), slimSuccess);
      std::vector<float> y[2] = {std::vector<float>(n), std::vector<float>(n)};
      const std::vector<float> x = gradient(n, rank, 0);
      auto step = [&](slimTensor_t tensor, std::vector<float>* out) {
        tensor->slot = 1; /* the same draws */
        ASSERT_EQ(slimAllReduce(x.data(), out->data(), n, slimFloat32, slimAvg, tensor, comm, nullptr), slimSuccess)
            << slimGetLastError();
      };
      step(set, &y[0]);
      step(spec, &y[1]);
      EXPECT_NE(y[0], y[1]);
      ASSERT_EQ(slimTensorSetLambda(set, 0.125), slimSuccess) << slimGetLastError();
      step(set, &y[0]);
      step(spec, &y[1]);
      EXPECT_EQ(y[0], y[1]);
      ASSERT_EQ(slimTensorRescale(set, 8), slimSuccess);
      step(set, &y[0]);
      step(spec, &y[1]);
      EXPECT_EQ(y[0], y[1]);
      ASSERT_EQ(slimTensorDestroy(spec), slimSuccess);

      const std::string file = path + std::to_string(rank);
      ASSERT_EQ(slimStateSave(comm, file.c_str()), slimSuccess) << slimGetLastError();
      step(set, &y[0]);
      ASSERT_EQ(slimTensorReset(set), slimSuccess);
      ASSERT_EQ(slimStateLoad(comm, file.c_str()), slimSuccess) << slimGetLastError();
      step(set, &y[1]);
      EXPECT_EQ(y[0], y[1]);
      std::remove(file.c_str());

      ASSERT_EQ(slimTensorReset(set), slimSuccess); /* back to the spec's */
      ASSERT_EQ(slimTensorCreate(&again, comm, "rotate(onebit(dither, lambda=0.5))", 3), slimSuccess);
      step(set, &y[0]);
      const uint64_t hash = set->hash;
      step(again, &y[1]);
      EXPECT_EQ(hash, again->hash);
      EXPECT_EQ(y[0], y[1]);
    });
}

TEST(SetLambda, WrongCallsChangeNothing) {
  forEachRank(2, makeConfig(), [&](int rank, slimComm_t comm) {
    slimTensor_t fixed, other;
    ASSERT_EQ(slimTensorCreate(&fixed, comm, "fo(lambda=0.5)", 1), slimSuccess);
    ASSERT_EQ(slimTensorCreate(&other, comm, "fo(f=2)", 2), slimSuccess);
    EXPECT_EQ(slimTensorSetLambda(nullptr, 1), slimInvalidArgument);
    for (double bad : {0.0, -1.0, std::nan(""), std::ldexp(1, 127), std::ldexp(1, -127)})
      EXPECT_EQ(slimTensorSetLambda(fixed, bad), slimInvalidArgument) << bad;
    EXPECT_EQ(slimTensorSetLambda(other, 1), slimInvalidUsage);
    EXPECT_NE(std::string::npos, std::string(slimGetLastError()).find("lambda=x")) << slimGetLastError();
    // Ranks that disagree fail the next call, and go on once they agree.
    ASSERT_EQ(slimTensorSetLambda(fixed, rank ? 2 : 1), slimSuccess);
    std::vector<float> x(700, 1), y(700);
    EXPECT_EQ(slimAllReduce(x.data(), y.data(), 700, slimFloat32, slimAvg, fixed, comm, nullptr), slimInvalidUsage);
    EXPECT_NE(std::string::npos, std::string(slimGetLastError()).find("lambda (slimTensorSetLambda): rank 1 has 2"))
        << slimGetLastError();
    ASSERT_EQ(slimTensorSetLambda(fixed, 2), slimSuccess);
    EXPECT_EQ(slimAllReduce(x.data(), y.data(), 700, slimFloat32, slimAvg, fixed, comm, nullptr), slimSuccess)
        << slimGetLastError();
  });
}

}  // namespace
}  // namespace slim_test
