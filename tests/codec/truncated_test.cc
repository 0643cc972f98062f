// TNQSGD (arXiv 2402.01160): thresholds, levels and errors of tnqsgd and tqsgd against the closed forms.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "compress/compress.h"

namespace {

constexpr uint32_t kBlock = 8192;
constexpr uint64_t kSeed = 7;

std::vector<float> decoded(const std::string& spec, const std::vector<float>& x, uint64_t step = 0) {
  slimCompressor* compressor = nullptr;
  EXPECT_EQ(slimSuccess, slimCompressorCreate(&compressor, spec.c_str())) << slimLastMessage();
  std::vector<float> y(x.size());
  if (!compressor) return y;
  std::vector<uint8_t> payload(slimPayloadBytes(compressor->up.tree, slimFloat32, x.size()) + 16);
  auto* aligned = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(payload.data()) + 15) / 16 * 16);
  slimStamp stamp = {};
  stamp.seed = kSeed;
  stamp.step = step;
  slimEncodePass encode = {};
  encode.direction = &compressor->up;
  encode.stamp = stamp;
  encode.type = slimFloat32;
  encode.x = x.data();
  encode.n = x.size();
  encode.payload = aligned;
  EXPECT_EQ(slimSuccess, slimPassEncode(&encode, nullptr));
  slimDecodePass decode = {};
  decode.direction = &compressor->up;
  decode.stamp = stamp;
  decode.type = slimFloat32;
  decode.n = x.size();
  decode.payload = aligned;
  decode.y = y.data();
  decode.factor = 1;
  EXPECT_EQ(slimSuccess, slimPassDecode(&decode, nullptr));
  slimCompressorDestroy(compressor);
  return y;
}

std::string spec(const char* name, int bits) {
  return std::string(name) + "(bits=" + std::to_string(bits) + ", block=8192)";
}

// A block whose mean magnitude is 1, up to rounding, and whose values reach every level of up to 8 bits.
std::vector<float> spread(double reach) {
  std::vector<float> x(kBlock);
  double sum = 0;
  for (uint32_t i = 0; i < kBlock; i++) {
    double u = (i + 0.5) / kBlock * 2 - 1;
    x[i] = static_cast<float>(reach * u * u * u * u * u * (1 + 0.5 * u * u));
    sum += std::fabs(x[i]);
  }
  for (float& v : x) v = static_cast<float>(v * kBlock / sum);
  return x;
}

double threshold(bool uniform, double s) {
  if (!uniform) return 3 * std::log(1 + std::sqrt(6.0) * s / 9);
  double a = 1;
  for (int i = 0; i < 200; i++) a -= (a * std::exp(a) - s * s) / ((1 + a) * std::exp(a));
  return a;
}

TEST(Truncated, LevelsAndThresholdsAreThePapers) {
  for (bool uniform : {false, true})
    for (int bits : {2, 3, 4}) {
      const double s = std::pow(2, bits) - 1, a = threshold(uniform, s), k = 1 - std::exp(-a / 3);
      std::vector<double> wanted;
      for (int i = 0; i <= s; i++) {
        const double u = 2 * i / s - 1, size = uniform ? std::fabs(u) * a : -3 * std::log(1 - std::fabs(u) * k);
        wanted.push_back(u < 0 ? -size : size);
      }
      const std::vector<float> x = spread(40);
      double gamma = 0;
      for (float v : x) gamma += std::fabs(v) / kBlock;
      std::set<float> seen;
      for (uint64_t step = 0; step < 4; step++)
        for (float v : decoded(spec(uniform ? "tqsgd" : "tnqsgd", bits), x, step)) seen.insert(v);
      ASSERT_EQ(wanted.size(), seen.size()) << bits << " bits";
      auto at = seen.begin();
      for (double level : wanted) EXPECT_NEAR(level, *at++ / gamma, 1e-6 * a) << bits << " bits";
    }
  // Published and tabulated thresholds over gamma.
  EXPECT_NEAR(1.7907, threshold(false, 3), 5e-5);
  EXPECT_NEAR(3.1995, threshold(false, 7), 5e-5);
  EXPECT_NEAR(4.8774, threshold(false, 15), 5e-5);
  EXPECT_NEAR(12.7627, threshold(false, 255), 5e-5);
  EXPECT_NEAR(1.679, threshold(true, 3), 5e-4);
  EXPECT_NEAR(2.846, threshold(true, 7), 5e-4);
}

std::vector<float> laplace(size_t n) {
  std::mt19937_64 random(kSeed);
  std::exponential_distribution<double> size(1);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(random() & 1 ? size(random) : -size(random));
  return x;
}
std::vector<float> student(size_t n, double freedom) {
  std::mt19937_64 random(kSeed);
  std::student_t_distribution<double> t(freedom);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(t(random));
  return x;
}

double relativeError(const std::string& text, const std::vector<float>& x) {
  const std::vector<float> y = decoded(text, x);
  double error = 0, size = 0;
  for (size_t i = 0; i < x.size(); i++) {
    error += (static_cast<double>(x[i]) - y[i]) * (static_cast<double>(x[i]) - y[i]);
    size += static_cast<double>(x[i]) * x[i];
  }
  return error / size;
}

TEST(Truncated, ErrorOnLaplaceIsTheExactIntegral) {
  const std::vector<float> x = laplace(kBlock * 256);
  double square = 0;
  for (float v : x) square += static_cast<double>(v) * v / static_cast<double>(x.size());
  const struct {
    int bits;
    double exact; /* Σ∫(l_{k+1} − g)(g − l_k)p + 2γ²e^{−α/γ}, over γ² */
  } cases[] = {{2, .52162}, {3, .18673}, {4, .05699}, {8, 2.71e-4}};
  for (const auto& c : cases) {
    const double s = std::pow(2, c.bits) - 1, bound = 27 / std::pow(s + 1.5 * std::sqrt(6.0), 2);
    const double mse = relativeError(spec("tnqsgd", c.bits), x) * square;
    std::printf("%d bits: %.5g, exact %.5g, bound %.5g (seed %d)\n", c.bits, mse, c.exact, bound,
                static_cast<int>(kSeed));
    EXPECT_NEAR(c.exact, mse, .01 * c.exact) << c.bits << " bits";
    EXPECT_LT(mse, bound) << c.bits << " bits";
  }
}

TEST(Truncated, NonuniformBeatsUniformBeatsQsgd) {
  const size_t n = kBlock * 64;
  std::vector<std::pair<std::string, std::vector<float>>> inputs = {{"Laplace", laplace(n)}};
  for (int freedom : {3, 4, 5}) inputs.emplace_back("Student-t(" + std::to_string(freedom) + ")", student(n, freedom));
  for (const auto& input : inputs) {
    const double nonuniform = relativeError(spec("tnqsgd", 3), input.second);
    const double uniform = relativeError(spec("tqsgd", 3), input.second);
    const double qsgd = relativeError(spec("qsgd", 3), input.second);
    std::printf("%s: tnqsgd %.3f, tqsgd %.3f, qsgd %.3f (seed %d)\n", input.first.c_str(), nonuniform, uniform, qsgd,
                static_cast<int>(kSeed));
    EXPECT_LT(nonuniform, uniform) << input.first;
    EXPECT_LT(uniform, qsgd / 2) << input.first;
  }
}

}  // namespace
