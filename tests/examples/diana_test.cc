// The claims of DIANA (arXiv 1901.09269) on regression with unlike workers, and its special cases.
#include <thread>

#include "slimccl.h"
#include "tests/examples/convex_harness.h"

namespace {

// 30 rows a worker for 256 coefficients: each worker alone would settle elsewhere.
const Task& ridge() {
  static Task task = [] {
    Data data;
    dataRegression(&data, 300, 256, 1);
    return Task(problemRidge, data, 10, 0, 0.1);
  }();
  return task;
}

TEST(Diana, ConvergesLinearlyWithinTheTheoremsBound) {
  const Task& p = ridge();
  const Constants& c = p.constants;
  int rounds[2][2]; /* [2-norm][one block] */
  const char* const labels[2][2] = {{"DIANA, ∞-norm, blocks of 64", "DIANA, ∞-norm, one block"},
                                    {"DIANA, 2-norm, blocks of 64", "DIANA, 2-norm, one block"}};
  double atSolution = 0;
  for (int i = 0; i < c.n; i++) atSolution += square(p.gradient(i, p.solution)) / c.n;
  for (uint64_t seed = 1; seed <= 3; seed++) {
    for (int two = 0; two < 2; two++)
      for (int whole = 0; whole < 2; whole++) {
        const Method& m = methodOf(paperDiana, labels[two][whole]);
        SCOPED_TRACE(std::string(m.label) + ", seed " + std::to_string(seed));
        const Result run = runOf(p, m, seed, 5000);
        rounds[two][whole] = run.arrived();
        ASSERT_GT(run.arrived(), 0);
        // V = ‖x − x*‖² + c·gamma²/n·Σ‖h_i − ∇f_i(x*)‖² shrinks by 1 − gamma·mu a round.
        const double alphaP = 1 / (1 + m.omega(&m, &c)), gamma = run.step.gamma;
        const double cc = 4 * (1 - alphaP) / (c.n * alphaP * alphaP);
        const double lead = 1 + cc * gamma * gamma * atSolution / p.startDistance;
        for (int i = 0; i < run.count; i++)
          ASSERT_LE(run.points[i].error, lead * std::pow(1 - gamma * c.mu, run.points[i].round));
        // Linear: each factor of 10⁴ takes as long, after the first.
        const double first = run.reached[2].round - run.reached[1].round, /* 1e-4 to 1e-8, */
            last = 2.0 * (run.reached[3].round - run.reached[2].round);   /* and 1e-8 to 1e-10, twice */
        EXPECT_NEAR(last / first, 1, 0.15);
      }
    printf("seed %d: ∞-norm %d and %d, 2-norm %d and %d rounds\n", (int)seed, rounds[0][0], rounds[0][1], rounds[1][0],
           rounds[1][1]);
    EXPECT_LT(rounds[0][0], rounds[0][1]);
    EXPECT_LT(rounds[0][1], rounds[1][0]);
    EXPECT_LT(rounds[1][0], rounds[1][1]);
  }
}

TEST(Diana, StallsWithoutMemory) {
  const Task& p = ridge();
  for (uint64_t seed = 1; seed <= 3; seed++)
    for (const char* label : {"TernGrad (α = 0, ∞-norm)", "QSGD (α = 0, 2-norm)"}) {
      const Result run = runOf(p, methodOf(paperDiana, label), seed, 1000);
      printf("seed %d, %s: %.2g\n", (int)seed, label, run.plateau);
      EXPECT_EQ(run.reached[2].round, 0) << label;
      EXPECT_GT(run.plateau, 1e-4) << label;
      EXPECT_LT(run.plateau, 1e-1) << label;
    }
}

TEST(Diana, ProxAndMomentumReachTheSameSolution) {
  Data data;
  dataRegression(&data, 300, 64, 2);
  const Task p(problemRidge, data, 10, 20, 0.1);
  const size_t zeros = (size_t)std::count(p.solution, p.solution + 64, 0.0);
  EXPECT_GT(zeros, 10u);
  EXPECT_LT(zeros, 60u);
  for (const char* label : {"DIANA", "DIANA, ℓ2 in the prox", "DIANA, momentum 0.5"})
    EXPECT_GT(runOf(p, methodOf(paperDiana, label), 1, 3000).arrived(), 0) << label;
}

// Batches of alike workers: what is left is noise, and DIANA does not help. With unlike workers it does.
TEST(Diana, RemovesDifferencesAndNotNoise) {
  for (const bool unlike : {false, true}) {
    Data data;
    dataRegression(&data, 4000, 64, 3);
    for (size_t i = 0; i < data.rows; i++) { /* features of one sign on average: a label's gradients agree */
      data.label[i] = data.label[i] > 0;
      for (size_t at = data.start[i]; at < data.start[i + 1]; at++) data.value[at] += 0.5;
    }
    if (unlike) dataSort(&data);
    const Task p(problemLogistic, data, 10, 0, 0.5);
    Method with = methodOf(paperDiana, "DIANA"), without = methodOf(paperDiana, "TernGrad (α = 0)");
    with.step = without.step = [](const Method*, const Constants* c) { return Step{0.3 / c->L, 0}; };
    std::vector<double> ratio, exact;
    for (uint64_t seed = 1; seed <= 3; seed++) {
      ratio.push_back(runOf(p, with, seed, 800, 1, 16).plateau / runOf(p, without, seed, 800, 1, 16).plateau);
      exact.push_back(runOf(p, with, seed, 800).arrived());
    }
    printf("%s workers: error with DIANA / without %.2f to %.2f\n", unlike ? "unlike" : "alike",
           *std::min_element(ratio.begin(), ratio.end()), *std::max_element(ratio.begin(), ratio.end()));
    for (double r : ratio) {
      if (unlike) {
        EXPECT_LT(r, 0.7);
      } else {
        EXPECT_GT(r, 0.9);
      }
    }
    for (double rounds : exact) EXPECT_GT(rounds, 0) << "full gradients";
  }
}

// ---- Special cases, bit for bit ------------------------------------------------------------------------------------

constexpr int kCount = 320, kSteps = 24;

// What rank 0 receives in kSteps allreduces of kCount values a rank, the downlink uncompressed.
std::vector<float> received(const std::string& up, int ranks) {
  const std::string spec = "up=" + up + "; down=fp32";
  std::vector<slimComm_t> comms(ranks);
  EXPECT_EQ(slimCommInitLocal(comms.data(), ranks, nullptr), slimSuccess);
  std::vector<float> all;
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; r++)
    threads.emplace_back([&, r] {
      slimTensor_t tensor;
      ASSERT_EQ(slimTensorCreate(&tensor, comms[r], spec.c_str(), 3), slimSuccess) << slimGetLastError();
      std::vector<float> x(kCount), y(kCount);
      for (uint32_t step = 0; step < kSteps; step++) {
        for (uint32_t i = 0; i < kCount; i++) x[i] = (float)drawNormal(step, drawFeature, i, (uint32_t)r);
        ASSERT_EQ(slimAllReduce(x.data(), y.data(), kCount, slimFloat32, slimAvg, tensor, comms[r], nullptr),
                  slimSuccess)
            << slimGetLastError();
        if (r == 0) all.insert(all.end(), y.begin(), y.end());
      }
      EXPECT_EQ(slimTensorDestroy(tensor), slimSuccess);
    });
  for (auto& thread : threads) thread.join();
  for (slimComm_t comm : comms) EXPECT_EQ(slimCommDestroy(comm), slimSuccess);
  return all;
}

TEST(Diana, SpecialCasesHaveTheSameBits) {
  static const struct {
    const char *name, *spec, *same, *different;
  } cases[] = {
      {"TernGrad", "diana(ternary(block=64), alpha=0)", "ternary(norm=inf, block=64)", "diana(ternary(block=64))"},
      {"QSGD of one level", "diana(ternary(norm=2, block=64), alpha=0)", "qsgd(levels=1, norm=2, block=64)",
       "diana(ternary(norm=2, block=64))"},
      {"DQGD", "diana(qsgd(bits=4, norm=2), alpha=0)", "qsgd(bits=4, norm=2)", "diana(qsgd(bits=4, norm=2))"},
      {"alpha_2/2 = 1/√64/2", "diana(ternary(norm=2, block=64))", "diana(ternary(norm=2, block=64), alpha=0.0625)",
       "diana(ternary(norm=2, block=64), alpha=0.125)"},
      {"alpha_∞/2 = 1/(1 + √64)", "diana(ternary(block=64))", "diana(ternary(block=64), alpha=0.1111111111111111)",
       "diana(ternary(block=64), alpha=0.2222222222222222)"},
      {"p = 1/(1 + omega)", "rand_diana(randk(k=32, block=64))", "rand_diana(randk(k=32, block=64), p=0.5)",
       "rand_diana(randk(k=32, block=64), p=0.25)"},
  };
  for (const int ranks : {1, 2, 3, 4, 8})
    for (const auto& c : cases) {
      SCOPED_TRACE(std::string(c.name) + ", " + std::to_string(ranks) + " ranks");
      const std::vector<float> a = received(c.spec, ranks), b = received(c.same, ranks),
                               d = received(c.different, ranks);
      ASSERT_EQ(a.size(), (size_t)kCount * kSteps);
      ASSERT_EQ(a.size(), b.size());
      ASSERT_EQ(a.size(), d.size());
      EXPECT_EQ(memcmp(a.data(), b.data(), a.size() * sizeof a[0]), 0);
      EXPECT_NE(memcmp(a.data(), d.data(), a.size() * sizeof a[0]), 0);
    }
}

}  // namespace
