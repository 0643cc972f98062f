// TNQSGD (arXiv 2402.01160, 2402.01798): thresholds, levels and errors of tnqsgd, tbqsgd and tqsgd against closed forms
// and quadrature.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "compress/payload.h"

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

std::string spec(const std::string& name, int bits, const std::string& more = "") {
  return name + "(bits=" + std::to_string(bits) + ", block=8192" + more + ")";
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

// ---- Power laws -----------------------------------------------------------------------------------------------------

// Positive levels of a power law's table.
std::vector<double> tableOf(const std::string& text, uint32_t table) {
  slimCompressor* compressor = nullptr;
  EXPECT_EQ(slimSuccess, slimCompressorCreate(&compressor, text.c_str())) << slimLastMessage();
  if (!compressor) return {};
  const slimNode* node = slimRoot(compressor->up.tree);
  const uint32_t h = 1u << (node->bits - 1), stride = (h < 16 ? 16 : h) + 1;
  const float* levels = slimTables(node) + table * stride + 1;
  std::vector<double> copy(levels, levels + h);
  EXPECT_EQ(-levels[0], levels[-1]);
  slimCompressorDestroy(compressor);
  return copy;
}

double integral(const std::function<double(double)>& f, double low, double high) {
  const int steps = 600;  // Simpson's
  const double step = (high - low) / steps;
  double sum = f(low) + f(high);
  for (int i = 1; i < steps; i++) sum += (i % 2 ? 4 : 2) * f(low + i * step);
  return high > low ? sum * step / 3 : 0;
}

// Values of magnitude up to `edge` evenly, and a tail of mass `tail` beyond 1, as x^−exponent.
struct PowerLaw {
  double exponent, tail, edge = 1;
  double density(double x) const {
    x = std::fabs(x);
    if (x < 1) return x <= edge ? (1 - tail) / (2 * edge) : 0;
    return tail / 2 * (exponent - 1) * std::pow(x, -exponent);
  }
  // Of f over 0 … x.
  double over(const std::function<double(double)>& f, double x) const {
    double sum = integral(f, 0, std::min(x, edge * (1 - 1e-14)));
    if (x > 1) sum += integral([&](double l) { return f(std::exp(l)) * std::exp(l); }, 1e-15, std::log(x));
    return sum;
  }
  double within(double x) const {
    return 2 * over([this](double y) { return density(y); }, x);
  }
  double root(double x) const {
    return over([this](double y) { return std::cbrt(density(y)); }, x);
  }
  // Σ∫(l_{k+1} − x)(x − l_k)p + 2∫(x − α)²p.
  double error(const std::vector<double>& levels) const {
    double sum = 0;
    for (size_t j = 0; j < levels.size(); j++) {
      const double low = j ? levels[j - 1] : -levels[0], high = levels[j], from = std::max(low, 0.0);
      auto f = [&](double x) { return (high - x) * (x - low) * density(x); };
      sum += over(f, high) - over(f, from);
    }
    const double a = levels.back();
    auto beyond = [&](double x) { return (x - a) * (x - a) * density(x); };
    return 2 * (sum + over(beyond, 1e9) - over(beyond, a));
  }
};

double solve(double low, double high, const std::function<double(double)>& rising) {
  for (int i = 0; i < 60; i++) {
    const double middle = (low + high) / 2;
    (rising(middle) < 0 ? low : high) = middle;
  }
  return high;
}

TEST(PowerLaw, LevelsAndThresholdsAreThePapers) {
  for (const char* name : {"tqsgd", "tnqsgd", "tbqsgd"})
    for (int bits : {2, 3, 4, 7})
      for (uint32_t table : {0u, 15u, 31u, 68u, 143u, 255u})
        for (int workers : {bits == 3 ? 64 : 1}) {
          SCOPED_TRACE(std::string(name) + ", " + std::to_string(bits) + " bits, table " + std::to_string(table));
          const bool two = name[1] == 'b', even = name[1] == 'q';
          const std::string model = two ? "" : ", model=powerlaw";
          const std::vector<double> got =
              tableOf(spec(name, bits, model + ", workers=" + std::to_string(workers)), table);
          ASSERT_EQ(1u << (bits - 1), got.size());
          const PowerLaw p = {3 + (table % 32 + 1) / 16.0, std::pow(2, -2 - (table / 32) / 2.0)};
          const double s = std::pow(2, bits) - 1, a = got.back();
          auto quality = [&](double x) {
            if (even) return p.within(x);
            if (!two) return 2 * std::pow(p.root(x), 3) / (x * x);
            double q = INFINITY;
            for (int i = 1; i < 8; i++) {
              const double k = i / 8.0, in = p.within(k * x), out = p.within(x) - in;
              q = std::min(q, std::pow(std::cbrt(in * k * k) + std::cbrt(out * (1 - k) * (1 - k)), 3));
            }
            return q;
          };
          // The threshold: truncation bias and variance balance, unless it is at an end.
          auto balance = [&](double x) {
            return std::pow(x, p.exponent - 1) * quality(x) * (p.exponent - 2) / (p.tail * s * s * workers) - 1;
          };
          if (a == 1) {
            EXPECT_GE(balance(1), -1e-6);
          } else if (a == 4096) {
            EXPECT_LE(balance(4096), 1e-6);
          } else {
            EXPECT_NEAR(a, solve(a * .99, a * 1.01, balance), 1e-6 * a);
          }
          for (size_t j = 0; j < got.size(); j++) {
            const double u = (2.0 * j + 1) / s;
            if (even) {
              EXPECT_NEAR(u * a, got[j], 1e-6 * a);
            } else if (!two) {
              EXPECT_NEAR(u * p.root(a), p.root(got[j]), 1e-6 * p.root(a));
            }
          }
          if (two) {  // two even scales; no other split at a multiple of a/32 has less variance
            size_t inner = 1;
            while (std::fabs(got[inner] - got[inner - 1] - 2 * got[0]) < 1e-6 * a) inner++;
            ASSERT_LT(inner, got.size());
            for (size_t j = inner; j < got.size(); j++)
              EXPECT_NEAR((a - got[inner - 1]) / (got.size() - inner), got[j] - got[j - 1], 2e-6 * a);
            auto variance = [&](double k, double i) {
              const double in = p.within(k * a), out = p.within(a) - in;
              return in * k * k / (i * i) + out * (1 - k) * (1 - k) / ((s - i) * (s - i));
            };
            const double best = variance(got[inner - 1] / a, 2.0 * inner - 1);
            for (int k = 1; k < 32; k++)
              for (double i = 1; i < s; i += 2) EXPECT_GE(variance(k / 32.0, i), best * (1 - 1e-5));
          }
        }
}

// Blocks of the density in their right proportions, so that no block's statistics are off; g_min is 1.
std::vector<float> paretoTailed(const PowerLaw& p, size_t blocks) {
  std::mt19937_64 random(kSeed);
  std::vector<float> x(kBlock * blocks);
  for (size_t i = 0; i < x.size(); i++) {
    const double at = ((i % kBlock) + (i / kBlock + 0.5) / blocks) / kBlock;  // (0, 1): share of larger magnitudes
    const double size =
        at < p.tail ? std::pow(at / p.tail, 1 / (1 - p.exponent)) : p.edge * (at - p.tail) / (1 - p.tail);
    x[i] = static_cast<float>(random() & 1 ? size : -size);
  }
  return x;
}

// The density whose mean magnitude is half of g_min.
PowerLaw consistent(double exponent, double tail) {
  return {exponent, tail, (1 - 2 * tail * (exponent - 1) / (exponent - 2)) / (1 - tail)};
}

TEST(PowerLaw, ErrorOnParetoTailsIsTheExactIntegral) {
  for (const char* name : {"tqsgd", "tnqsgd", "tbqsgd"})
    for (int bits : {2, 3, 4}) {
      const PowerLaw p = consistent(5, 0.0625);
      const std::vector<float> x = paretoTailed(p, 256);
      const std::string text = spec(name, bits, name[1] == 'b' ? "" : ", model=powerlaw");
      const double exact = p.error(tableOf(text, 4 * 32 + 31));
      double square = 0;
      for (float v : x) square += static_cast<double>(v) * v / static_cast<double>(x.size());
      const double mse = relativeError(text, x) * square;
      std::printf("%s, %d bits: %.5g, exact %.5g (seed %d)\n", name, bits, mse, exact, static_cast<int>(kSeed));
      EXPECT_NEAR(exact, mse, .01 * exact) << name << ", " << bits << " bits";
    }
}

TEST(PowerLaw, EveryBlockIsFittedByHillsEstimator) {
  const std::vector<double> exponents = {2.5, 3.2, 3.6, 4, 4.4, 4.8, 6};
  std::vector<float> x;
  for (double exponent : exponents) {
    const std::vector<float> block = paretoTailed({exponent, 0.1, 0.6}, 1);
    x.insert(x.end(), block.begin(), block.end());
  }
  slimCompressor* compressor = nullptr;
  ASSERT_EQ(slimSuccess, slimCompressorCreate(&compressor, spec("tbqsgd", 3).c_str()));
  const slimLayout layout = slimLayoutOf(compressor->up.tree, slimFloat32, x.size());
  std::vector<uint64_t> payload(layout.bytes / 8);
  slimEncodePass encode = {};
  encode.direction = &compressor->up;
  encode.type = slimFloat32;
  encode.x = x.data();
  encode.n = x.size();
  encode.payload = reinterpret_cast<uint8_t*>(payload.data());
  ASSERT_EQ(slimSuccess, slimPassEncode(&encode, nullptr));
  for (size_t j = 0; j < exponents.size(); j++) {
    double mean = 0, logs = 0, count = 0;
    for (size_t i = j * kBlock; i < (j + 1) * kBlock; i++) mean += std::fabs(x[i]) / kBlock;
    for (size_t i = j * kBlock; i < (j + 1) * kBlock; i++) {
      if (std::fabs(x[i]) <= 2 * mean) continue;
      count++;
      logs += std::log(std::fabs(x[i]) / (2 * mean));
    }
    const uint8_t table = encode.payload[layout.section[1] + j];
    const double exponent = std::min(std::max(1 + count / logs, 3.0625), 5.0);
    const double mass = std::min(std::max(-2 * std::log2(count / kBlock) - 4, 0.0), 7.0);
    EXPECT_NEAR(exponent, 3 + (table % 32 + 1) / 16.0, .045) << "true exponent " << exponents[j];
    EXPECT_NEAR(mass, table / 32, .501) << "true exponent " << exponents[j];
  }
  slimCompressorDestroy(compressor);
}

TEST(PowerLaw, PaysOnHeavyTails) {
  const size_t n = kBlock * 64;
  for (int freedom : {3, 4, 5}) {
    const std::vector<float> x = student(n, freedom);
    const double laplaceUniform = relativeError(spec("tqsgd", 4), x), laplace = relativeError(spec("tnqsgd", 4), x);
    const double uniform = relativeError(spec("tqsgd", 4, ", model=powerlaw"), x);
    const double biscaled = relativeError(spec("tbqsgd", 4), x);
    const double nonuniform = relativeError(spec("tnqsgd", 4, ", model=powerlaw"), x);
    std::printf(
        "Student-t(%d), 4 bits: power law: tnqsgd %.4f, tbqsgd %.4f, tqsgd %.4f; Laplace: %.4f, %.4f (seed %d)\n",
        freedom, nonuniform, biscaled, uniform, laplace, laplaceUniform, static_cast<int>(kSeed));
    EXPECT_LT(nonuniform, biscaled);
    EXPECT_LT(biscaled, uniform);
    if (freedom < 5) {
      EXPECT_LT(nonuniform, laplace);
    }
  }
}

}  // namespace
