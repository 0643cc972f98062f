// What the tests of //examples:convex share.
#ifndef SLIMCCL_TESTS_EXAMPLES_CONVEX_HARNESS_H_
#define SLIMCCL_TESTS_EXAMPLES_CONVEX_HARNESS_H_

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

extern "C" {
#include "examples/convex/run.h"
}

// A run that frees itself.
struct Result : Run {
  Result() : Run{} {}
  Result(Result&& other) : Run(other) { other.points = nullptr; }
  Result(const Result&) = delete;
  ~Result() { runFree(this); }
  int arrived() const { return reached[runLevels - 1].round; }  // at 1e-10; 0: never
  // The mean error of the points after `settled` rounds.
  double meanAfter(int settled) const {
    double sum = 0;
    int used = 0;
    for (int i = 0; i < count; i++)
      if (points[i].round > settled) sum += points[i].error, used++;
    return sum / used;
  }
};

inline Result runOf(const Problem& problem, const Method& method, uint64_t seed, int rounds, double multiplier = 1,
                    int batch = 0) {
  Result result;
  result.seed = seed;
  result.multiplier = multiplier;
  result.rounds = rounds;
  result.batch = batch;
  runMethod(&problem, &method, &result);
  EXPECT_TRUE(result.identical) << method.label;
  return result;
}

// A problem that frees itself.
struct Task : Problem {
  Task(ProblemKind kind, Data data, int workers, double l1, double l2, double spread = 0) : Problem{} {
    EXPECT_EQ(problemInit(this, kind, data, workers, l1, l2, spread, 1), 0);
  }
  Task(const Task&) = delete;
  ~Task() { problemFree(this); }
  // ∇f_i(x)
  std::vector<double> gradient(int worker, const double* x) const {
    std::vector<double> g(constants.d);
    problemGradient(this, worker, nullptr, 0, 1, x, g.data());
    return g;
  }
};

inline double square(const std::vector<double>& v) {
  double sum = 0;
  for (double x : v) sum += x * x;
  return sum;
}

inline double medianOf(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return (v[(v.size() - 1) / 2] + v[v.size() / 2]) / 2;
}

// The method of that label in the first experiment of a paper.
inline const Method& methodOf(const Paper& paper, const std::string& label) {
  for (int e = 0; e < paper.count; e++)
    for (int m = 0; m < paper.experiments[e].count; m++)
      if (paper.experiments[e].methods[m].label == label) return paper.experiments[e].methods[m];
  ADD_FAILURE() << "no method '" << label << "'";
  abort();
}

#endif
