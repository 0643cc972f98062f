// //examples:convex: its problems and data, the counter-example to signs, and the program as a user calls it.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <sys/wait.h>

#include "tests/examples/convex_harness.h"

namespace {

std::string temporary(const std::string& name) { return testing::TempDir() + "/" + name; }

std::string fileOf(const std::string& name, const std::string& text) {
  std::ofstream(temporary(name)) << text;
  return temporary(name);
}

// ---- Problems ------------------------------------------------------------------------------------------------------

TEST(Problem, GradientsAndSolutions) {
  for (const bool logistic : {false, true})
    for (const double l1 : {0.0, logistic ? 0.01 : 5.0}) {
      SCOPED_TRACE(std::string(logistic ? "logistic" : "ridge") + ", l1 = " + std::to_string(l1));
      Data data;
      dataRegression(&data, 95, 12, 7); /* workers of 13 and 14 rows */
      for (size_t i = 0; logistic && i < data.rows; i++) data.label[i] = data.label[i] > 0;
      const Task p(logistic ? problemLogistic : problemRidge, data, 7, l1, 0.2, 1);
      // Each worker's gradient is the slope of its value.
      std::vector<double> x(p.start, p.start + 12);
      for (int worker = 0; worker < 7; worker++) {
        const std::vector<double> g = p.gradient(worker, x.data());
        for (int j = 0; j < 12; j++) {
          const double h = 1e-5, keep = x[j];
          x[j] = keep + h;
          const double high = problemValue(&p, worker, x.data());
          x[j] = keep - h;
          const double low = problemValue(&p, worker, x.data());
          x[j] = keep;
          EXPECT_NEAR((high - low) / (2 * h), g[j] + std::copysign(l1, keep), 1e-5 * (1 + std::fabs(g[j])));
        }
      }
      // At x* the mean gradient is minus a subgradient of l1·‖x‖₁.
      std::vector<double> mean(12);
      for (int worker = 0; worker < 7; worker++) {
        const std::vector<double> g = p.gradient(worker, p.solution);
        for (int j = 0; j < 12; j++) mean[j] += g[j] / 7;
      }
      for (int j = 0; j < 12; j++) {
        if (p.solution[j] != 0) {
          EXPECT_NEAR(mean[j], -std::copysign(l1, p.solution[j]), 1e-9);
        } else {
          EXPECT_LE(std::fabs(mean[j]), l1);
        }
      }
    }
}

TEST(Problem, BatchesAverageToTheGradient) {
  Data data;
  dataRegression(&data, 20, 5, 7);
  const Task p(problemRidge, data, 2, 0, 0.1, 1);
  std::vector<double> sum(5), g(5);
  for (size_t row = 10; row < 20; row++) {
    problemGradient(&p, 1, &row, 1, 1, p.start, g.data());
    for (int j = 0; j < 5; j++) sum[j] += g[j] / 10;
  }
  const std::vector<double> whole = p.gradient(1, p.start);
  for (int j = 0; j < 5; j++) EXPECT_NEAR(sum[j], whole[j], 1e-10 * (1 + std::fabs(whole[j])));
}

TEST(Data, ReadsLibsvmAndFann) {
  Data a, b;
  ASSERT_EQ(dataLoad(&a, fileOf("a.libsvm", "+1 1:0.5 3:-2\n# remark\n\n-1 2:1e1\n+1\n").c_str()), 0);
  EXPECT_EQ(a.rows, 3u);
  EXPECT_EQ(a.columns, 3u);
  EXPECT_EQ(std::vector<size_t>(a.start, a.start + 4), (std::vector<size_t>{0, 2, 3, 3}));
  EXPECT_EQ(std::vector<uint32_t>(a.column, a.column + 3), (std::vector<uint32_t>{0, 2, 1}));
  EXPECT_EQ(std::vector<double>(a.value, a.value + 3), (std::vector<double>{0.5, -2, 10}));
  EXPECT_EQ(std::vector<double>(a.label, a.label + 3), (std::vector<double>{1, -1, 1}));
  ASSERT_EQ(dataLoad(&b, fileOf("b.train", "2 3 2\n0 1 0\n0 1\n2 0 0\n1 0\n").c_str()), 0);
  EXPECT_EQ(b.rows, 2u);
  EXPECT_EQ(b.columns, 3u);
  EXPECT_EQ(std::vector<double>(b.label, b.label + 2), (std::vector<double>{0, 1}));
  EXPECT_EQ(std::vector<double>(b.value, b.value + 2), (std::vector<double>{1, 2}));
  dataSort(&a);
  EXPECT_EQ(std::vector<double>(a.label, a.label + 3), (std::vector<double>{-1, 1, 1}));
  EXPECT_EQ(std::vector<double>(a.value, a.value + 3), (std::vector<double>{10, 0.5, -2}));
  dataFree(&a);
  dataFree(&b);
  for (const char* wrong :
       {"1 0:1\n", "1 1:x\n", "1 1.5:1\n", "one 1:1\n", "1 1:1 2\n", "1 1:inf\n", "2 3 2\n0 1 0\n0 1\n", ""})
    EXPECT_EQ(dataLoad(&a, fileOf("wrong", wrong).c_str()), -1) << wrong;
  EXPECT_EQ(dataLoad(&a, temporary("absent").c_str()), -1);
}

// ---- Bits ----------------------------------------------------------------------------------------------------------

// What a paper counts is what travels, but for the header, the flags, an exponent a unit (fp64) and padding to 16
// bytes.
TEST(Bits, AreThoseOnTheWire) {
  Data data;
  dataRegression(&data, 100, 80, 1);
  const Task p(problemRidge, data, 4, 0, 0.1);
  for (const Paper* paper : {&paperDiana, &paperShifted, &paperSign, &paperTnqsgd})
    for (int e = 0; e < paper->count; e++)
      for (int m = 0; m < paper->experiments[e].count; m++) {
        const Method& method = paper->experiments[e].methods[m];
        if (strstr(method.spec, "rand_diana")) continue; /* its refreshes come now and then */
        const Result run = runOf(p, method, 1, 8);
        const double beside = 8 * run.points[8].wire - 8 * run.points[7].wire - run.points[8].bits + run.points[7].bits;
        EXPECT_GE(beside, 8 * 64 - floatBits) << method.label; /* the 32 bits of rand-k's seed do not travel */
        EXPECT_LE(beside, 8 * (96 + 64 + 6 * 16)) << method.label;
      }
}

// ---- Signs (arXiv 1901.09847) --------------------------------------------------------------------------------------

TEST(Sign, NeverConvergesWithoutFeedback) {
  for (const double multiplier : {0.01, 0.1, 1.0, 4.0})
    for (uint64_t seed = 1; seed <= 3; seed++) {
      Data data;
      dataSigns(&data);
      const Task p(problemRidge, data, 1, 0, 0);
      EXPECT_NEAR(p.constants.L, 2, 1e-9);
      EXPECT_NEAR(p.constants.mu, 0.5, 1e-9);
      for (const char* label : {"sign", "sign and scale"}) {
        const Result run = runOf(p, methodOf(paperSign, label), seed, 400, multiplier, 1);
        for (int i = 0; i < run.count; i++) ASSERT_GE(run.points[i].error, 1 - 1e-6) << label << ", seed " << seed;
      }
      if (multiplier == 1) {
        const Result run = runOf(p, methodOf(paperSign, "sign and scale, with error feedback"), seed, 400, 1, 1);
        EXPECT_GT(run.arrived(), 0) << "seed " << seed;
      }
    }
}

// ---- Mem-SGD (arXiv 1809.07599); its claims: tests/papers/memsgd_test.cc
// ---------------------------------------------

TEST(MemSgd, OneValueAStepKeepsUpWithSgd) {
  Data data;
  dataRegression(&data, 1000, 20, 1);
  for (size_t i = 0; i < data.rows; i++) data.label[i] = data.label[i] > 0 ? 1 : -1;
  const Task p(problemLogistic, data, 1, 0, 0.1, 1e-4);
  for (uint64_t seed = 1; seed <= 3; seed++) {
    auto end = [&](const char* label) {
      const Result run = runOf(p, methodOf(paperMemsgd, label), seed, 6000, 1, 1);
      return run.points[run.count - 1].error;
    };
    const double sgd = end("SGD");
    EXPECT_LT(sgd, 0.1) << "seed " << seed;
    EXPECT_LE(end("top-1"), 2 * sgd) << "seed " << seed;
    EXPECT_LE(end("top-1, every other step"), 2 * sgd) << "seed " << seed;
    EXPECT_GE(end("top-1 without memory"), 10 * sgd) << "seed " << seed;
  }
}

// ---- TNQSGD (arXiv 2402.01160, 2402.01798); its levels and errors: tests/codec/truncated_test.cc --------------------

Data mushrooms(bool sorted) {
  Data data;
  EXPECT_EQ(dataLoad(&data, "/usr/share/doc/libfann-dev/examples/datasets/mushroom.train"), 0);
  if (sorted) dataSort(&data);
  return data;
}

TEST(Tnqsgd, ThreeBitsFollowOneGradient) {
  const Task p(problemLogistic, mushrooms(false), 1, 0, 0.03);
  const Result plain = runOf(p, methodOf(paperTnqsgd, "uncompressed"), 1, 1500, 2);
  ASSERT_GT(plain.arrived(), 0);
  for (uint64_t seed = 1; seed <= 3; seed++)
    for (const char* label : {"TNQSGD", "truncated, uniform levels", "TBQSGD (power law)"}) {
      const Result run = runOf(p, methodOf(paperTnqsgd, label), seed, 1500, 2);
      EXPECT_GT(run.reached[2].round, 0) << label << ", seed " << seed;
      EXPECT_LE(run.reached[2].bits, plain.reached[2].bits / 4) << label << ", seed " << seed;
    }
}

// What is cut off is a bias: where workers differ it keeps x away from x*, whatever the step size. A threshold for the
// mean of eight cuts less off.
TEST(Tnqsgd, TruncationBiasesUnlikeWorkers) {
  const Task p(problemLogistic, mushrooms(true), 8, 0, 0.03);
  for (uint64_t seed = 1; seed <= 3; seed++) {
    auto plateau = [&](const char* label, double multiplier) {
      return runOf(p, methodOf(paperTnqsgd, label), seed, 1000, multiplier).plateau;
    };
    const double large = plateau("TNQSGD", 4), small = plateau("TNQSGD", 1);
    const double eight = plateau("TNQSGD, threshold for 8 workers", 1), qsgd = plateau("QSGD, ∞-norm", 1);
    std::printf("seed %d: %.2e, a quarter of the step %.2e, for 8 workers %.2e, QSGD %.2e\n", static_cast<int>(seed),
                large, small, eight, qsgd);
    EXPECT_GT(small, large / 2) << "seed " << seed;
    EXPECT_LT(eight, small / 10) << "seed " << seed;
    EXPECT_LT(qsgd, small / 10) << "seed " << seed;
  }
}

// ---- The program ---------------------------------------------------------------------------------------------------

struct Output {
  int status;
  std::string text;
};

Output convex(const std::string& arguments) {
  FILE* pipe = popen(("examples/convex " + arguments + " 2>&1").c_str(), "r");
  Output output{-1, ""};
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) output.text.append(buffer, n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) output.status = WEXITSTATUS(status);
  return output;
}

std::string contents(const std::string& path) {
  std::ifstream in(path);
  std::stringstream all;
  all << in.rdbuf();
  return all.str();
}

TEST(Convex, PrintsAndWritesCsvAndPictures) {
  const std::string csv = temporary("convex.csv");
  const Output output = convex("--paper sign --seeds 3 --rounds 60 --csv " + csv + " --plot " + testing::TempDir());
  ASSERT_EQ(output.status, 0) << output.text;
  EXPECT_NE(output.text.find("| sign and scale, with error feedback |"), std::string::npos) << output.text;
  EXPECT_EQ(output.text.find("DIFFER"), std::string::npos) << output.text;

  std::ifstream in(csv);
  std::string line;
  ASSERT_TRUE(std::getline(in, line));
  EXPECT_EQ(line, "experiment,method,seed,step_size,round,error,bits,wire_bytes");
  std::set<std::string> runs;
  while (std::getline(in, line)) {
    double step, error, bits, wire;
    int seed, round;
    const size_t quote = line.rfind("\",");
    ASSERT_EQ(line.compare(0, 6, "sign,\""), 0) << line;
    ASSERT_EQ(sscanf(line.c_str() + quote, "\",%d,%lf,%d,%lf,%lf,%lf", &seed, &step, &round, &error, &bits, &wire), 6);
    EXPECT_TRUE(round > 0 || error == 1) << line;
    runs.insert(line.substr(0, quote + 3));
  }
  EXPECT_EQ(runs.size(), 12u) << "four methods, three seeds";

  const std::string svg = contents(testing::TempDir() + "/sign.svg");
  EXPECT_NE(svg.find("class=\"band\""), std::string::npos);
  EXPECT_EQ(svg.compare(svg.size() - 7, 7, "</svg>\n"), 0);
}

TEST(Convex, ReadsAFileAndRefusesWhatIsWrong) {
  const std::string good = fileOf("good.libsvm", "1 1:1 2:1\n0 1:-1 3:1\n1 1:2 2:0.5\n0 3:2\n");
  Output output = convex("--paper diana --theory --seeds 1 --ranks 2 --rounds 20 --data " + good);
  EXPECT_EQ(output.status, 0) << output.text;
  EXPECT_NE(output.text.find("4 rows, 3 columns, 2 workers"), std::string::npos) << output.text;

  output = convex("--paper nobody");
  EXPECT_EQ(output.status, 2);
  EXPECT_NE(output.text.find("nobody"), std::string::npos) << output.text;
  output = convex("--paper diana --ranks 9 --data " + good);
  EXPECT_EQ(output.status, 1);
  EXPECT_NE(output.text.find("too few for 9 workers"), std::string::npos) << output.text;
  output = convex("--paper diana --data " + fileOf("bad.libsvm", "1 1:1\n1 0:1\n"));
  EXPECT_EQ(output.status, 1);
  EXPECT_NE(output.text.find("bad.libsvm:2:"), std::string::npos) << output.text;
  output = convex("--paper diana --ranks 2 --data " + fileOf("three.libsvm", "1 1:1\n2 1:1\n3 2:1\n"));
  EXPECT_EQ(output.status, 1);
  EXPECT_NE(output.text.find("two different labels"), std::string::npos) << output.text;
}

}  // namespace
