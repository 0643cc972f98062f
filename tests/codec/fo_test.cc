// FO-SGD (arXiv 2405.11095) and DRIVE (arXiv 2105.08339): the errors of one message below a rotation, against the
// closed forms. f = λ·√m/‖g‖.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "compress/compress.h"

namespace {

constexpr uint64_t kSeed = 11;

class Codec {
 public:
  explicit Codec(const std::string& spec) {
    EXPECT_EQ(slimSuccess, slimCompressorCreate(&compressor_, spec.c_str())) << slimLastMessage();
  }
  ~Codec() { slimCompressorDestroy(compressor_); }
  Codec(const Codec&) = delete;
  Codec& operator=(const Codec&) = delete;

  // The message as it comes out at the other end. rank: whose dither; step: whose rotation, unless signs=fixed.
  std::vector<float> send(const std::vector<float>& x, uint32_t rank = 0, uint64_t step = 0) {
    std::vector<float> y(x.size());
    slimDecodePass decode = {};
    decode.direction = &compressor_->up;
    decode.stamp = encode(x, rank, step);
    decode.type = slimFloat32;
    decode.n = x.size();
    decode.payload = payload();
    decode.y = y.data();
    decode.factor = 1;
    EXPECT_EQ(slimSuccess, slimPassDecode(&decode, nullptr));
    return y;
  }

  // What the codec below the rotation makes of x: with fp32 there, the rotated values; with onebit, ±λ of each.
  std::vector<float> rotated(const std::vector<float>& x, size_t block) {
    encode(x, 0, 0);
    const uint8_t* at = payload() + slimPayloadValuesAt(compressor_->up.tree, slimFloat32, x.size());
    std::vector<float> out(x.size());
    if (block == 0) {
      std::memcpy(out.data(), at, 4 * x.size());
      return out;
    }
    const size_t scales = x.size() / block;
    const uint8_t* signs = at + (4 * scales + 15) / 16 * 16;
    for (size_t i = 0; i < x.size(); i++) {
      float scale;
      std::memcpy(&scale, at + 4 * (i / block), 4);
      out[i] = signs[i / 8] >> i % 8 & 1 ? -scale : scale;
    }
    return out;
  }

 private:
  uint8_t* payload() { return storage_.data() + (16 - reinterpret_cast<uintptr_t>(storage_.data()) % 16) % 16; }
  slimStamp encode(const std::vector<float>& x, uint32_t rank, uint64_t step) {
    storage_.resize(slimPayloadBytes(compressor_->up.tree, slimFloat32, x.size()) + 16);
    slimEncodePass encode = {};
    encode.direction = &compressor_->up;
    encode.stamp.seed = kSeed;
    encode.stamp.rank = rank;
    encode.stamp.step = step;
    encode.type = slimFloat32;
    encode.x = x.data();
    encode.n = x.size();
    encode.payload = payload();
    EXPECT_EQ(slimSuccess, slimPassEncode(&encode, nullptr));
    return encode.stamp;
  }
  slimCompressor* compressor_ = nullptr;
  std::vector<uint8_t> storage_;
};

std::vector<float> gaussian(size_t n) {
  std::mt19937_64 random(kSeed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

double product(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); i++) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}
std::vector<float> difference(const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<float> out(a.size());
  for (size_t i = 0; i < a.size(); i++) out[i] = a[i] - b[i];
  return out;
}
double relativeError(const std::vector<float>& x, const std::vector<float>& y) {
  const std::vector<float> error = difference(x, y);
  return product(error, error) / product(x, x);
}

std::string fo(double f, const char* more) { return "fo(f=" + std::to_string(f) + ", " + more + "); down=fp32"; }

// 1-sparse: every rotated value is ±‖g‖/√m, so λ = f times each of them: the mean error is f² − 1, and f = 1 sends g
// itself. Around the mean only how many of the m signs agree varies: E = f² + 1 − 2f·a, a of mean 1/f.
TEST(Fo, OneSparseErrorIsExact) {
  const size_t block = 1024, blocks = 4096;
  std::vector<float> x(block * blocks);
  std::mt19937_64 random(kSeed);
  for (size_t b = 0; b < blocks; b++) x[b * block + random() % block] = random() & 1 ? 3.0f : -3.0f;
  EXPECT_LT(relativeError(x, Codec(fo(1, "block=1024")).send(x)), 1e-12);
  for (double f : {1.5, 2.0, 3.0}) {
    Codec codec(fo(f, "block=1024"));
    const double mse = relativeError(x, codec.send(x));
    // The same from the signs alone, to rounding.
    Codec plain("rotate(fp32, block=1024); down=fp32");
    const std::vector<float> z = plain.rotated(x, 0), q = codec.rotated(x, block);
    double agree = 0;
    for (size_t i = 0; i < z.size(); i++) agree += (z[i] < 0) == (q[i] < 0) ? 1 : -1;
    agree /= static_cast<double>(z.size());
    EXPECT_NEAR(f * f + 1 - 2 * f * agree, mse, 1e-5 * mse) << "f " << f;
    const double deviation = 2 * f * std::sqrt((1 - 1 / (f * f)) / static_cast<double>(x.size()));
    std::printf("1-sparse, f %.1f: %.5f, formula %.5f, deviation %.5f (seed %d)\n", f, mse, f * f - 1, deviation,
                static_cast<int>(kSeed));
    EXPECT_NEAR(f * f - 1, mse, 4 * deviation) << "f " << f;
  }
}

double phi(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * M_PI); }
double Phi(double x) { return std::erfc(-x / std::sqrt(2.0)) / 2; }

TEST(Fo, GaussianErrorShrinkAndBiasAreTheFormulas) {
  const size_t n = size_t{1} << 24;
  const std::vector<float> x = gaussian(n);
  Codec plain("rotate(fp32, block=8192); down=fp32");
  const std::vector<float> z = plain.rotated(x, 0);
  const double size = product(x, x);
  EXPECT_NEAR(size, product(z, z), 1e-5 * size);
  for (double f : {1.0, 1.5, 2.0, 3.0}) {
    Codec codec(fo(f, "block=8192"));
    const std::vector<float> y = codec.send(x), q = codec.rotated(x, 8192);
    const double shrink = product(x, y) / size, mse = relativeError(x, y);
    // Values beyond ±λ come out as ±λ, always: that is the bias. Those inside are right on average.
    double bias = 0, inside = 0, variance = 0;
    size_t wrong = 0;
    for (size_t i = 0; i < n; i++) {
      const double lambda = std::fabs(q[i]), over = std::fabs(z[i]) - lambda;
      if (over > 0) {
        bias += over * over;
        wrong += (z[i] < 0) != (q[i] < 0);
      } else {
        inside += (q[i] - static_cast<double>(z[i])) * z[i];
        variance += (lambda * lambda - static_cast<double>(z[i]) * z[i]) * z[i] * z[i];
      }
    }
    const double erf = std::erf(f / std::sqrt(2.0)), wantMse = f * f + 1 - 2 * erf,
                 wantBias = 2 * ((1 + f * f) * Phi(-f) - f * phi(f));
    std::printf("Gaussian, f %.1f: MSE %.4f (%.4f), shrink %.4f (%.4f), bias² %.6f (%.6f) (seed %d)\n", f, mse, wantMse,
                shrink, erf, bias / size, wantBias, static_cast<int>(kSeed));
    EXPECT_NEAR(wantMse, mse, .02 * wantMse) << "f " << f;
    EXPECT_NEAR(erf, shrink, .02 * erf) << "f " << f;
    EXPECT_NEAR(wantBias, bias / size, .02 * wantBias) << "f " << f;
    EXPECT_EQ(0u, wrong) << "f " << f;
    EXPECT_NEAR(0, inside, 4 * std::sqrt(variance)) << "f " << f;
  }
}

// The bias measured from outside, as what is left of many messages: ⟨mean₁ − g, mean₂ − g⟩ of two sets has no share of
// their variance.
TEST(Fo, MeanOfMessagesHasTheBiasOfTheFormula) {
  const size_t n = size_t{1} << 20;
  const uint32_t messages = 32;
  const std::vector<float> x = gaussian(n);
  const double size = product(x, x);
  for (double f : {1.0, 1.5}) {
    Codec codec(fo(f, "block=8192, signs=fixed"));
    std::vector<float> mean[2] = {std::vector<float>(n), std::vector<float>(n)};
    for (uint32_t k = 0; k < 2 * messages; k++) {
      const std::vector<float> y = codec.send(x, k, k);
      for (size_t i = 0; i < n; i++) mean[k % 2][i] += y[i] / static_cast<float>(messages);
    }
    const double bias = product(difference(mean[0], x), difference(mean[1], x)) / size;
    const double want = 2 * ((1 + f * f) * Phi(-f) - f * phi(f));
    std::printf("f %.1f: bias² %.5f (%.5f) (seed %d)\n", f, bias, want, static_cast<int>(kSeed));
    EXPECT_NEAR(want, bias, .02 * want) << "f " << f;
  }
}

// delta: no rotated value is beyond λ with probability 1 − delta at least, whatever g is.
TEST(Fo, DeltaClipsSeldom) {
  const size_t block = 512, blocks = 4096;
  std::vector<float> spread = gaussian(block * blocks), two(block * blocks);
  for (size_t b = 0; b < blocks; b++) two[b * block + 3] = two[b * block + 200] = 1;
  for (double delta : {0.9, 0.1}) {
    Codec codec("fo(delta=" + std::to_string(delta) + "); down=fp32"), plain("rotate(fp32); down=fp32");
    for (const auto& x : {spread, two}) {
      const std::vector<float> z = plain.rotated(x, 0), q = codec.rotated(x, block);
      size_t clipped = 0;
      for (size_t b = 0; b < blocks; b++) {
        bool any = false;
        for (size_t i = b * block; i < (b + 1) * block; i++) any = any || std::fabs(z[i]) > std::fabs(q[i]);
        clipped += any;
      }
      EXPECT_LE(static_cast<double>(clipped), delta * blocks + 4 * std::sqrt(delta * (1 - delta) * blocks));
    }
    // λ is the formula's for a block of norm 1.
    std::vector<float> one(block);
    one[7] = 1;
    EXPECT_NEAR(std::sqrt(2 * std::log(2 * block / delta) / block), std::fabs(codec.rotated(one, block)[0]), 1e-6);
  }
}

// Codecs without a scale, and induced's difference, see values of the size that they will have.
TEST(Rotate, KeepsTheSizeOfValues) {
  std::vector<float> x = gaussian(8192);
  for (float size : {1e-30f, 0.01f, 300.0f, 1e25f}) {
    std::vector<float> scaled = x;
    for (float& v : scaled) v *= size;
    for (const char* inner : {"fp32", "bf16", "topk(ratio=1)", "randk(k=512, block=512, scale=1)",
                              "induced(onebit, qsgd(bits=8))", "rotate(qsgd(bits=8), block=128)"})
      EXPECT_LT(relativeError(scaled, Codec(std::string("rotate(") + inner + "); down=fp32").send(scaled)), 1e-3)
          << inner << ", values of " << size;
  }
}

// DRIVE: the smallest error, 1 − 2/π, shrinks; the unbiased scale's error is π/2 − 1.
TEST(Drive, ErrorsOfBothScales) {
  const std::vector<float> x = gaussian(size_t{1} << 21);
  Codec mean("rotate(onebit(block=8192)); down=fp32"),
      unbiased("rotate(onebit(scale=unbiased, block=8192)); down=fp32");
  const std::vector<float> a = mean.send(x), b = unbiased.send(x);
  const double small = relativeError(x, a), large = relativeError(x, b);
  std::printf("relative MSE: mean %.4f (%.4f), unbiased %.4f (%.4f) (seed %d)\n", small, 1 - 2 / M_PI, large,
              M_PI / 2 - 1, static_cast<int>(kSeed));
  EXPECT_NEAR(1 - 2 / M_PI, small, .02 * (1 - 2 / M_PI));
  EXPECT_NEAR(M_PI / 2 - 1, large, .02 * (M_PI / 2 - 1));
  const double size = product(x, x);
  EXPECT_NEAR(2 / M_PI, product(a, x) / size, .02);
  EXPECT_NEAR(1, product(b, x) / size, 1e-5);  // by construction, block by block
}

// Over redrawn rotations the mean of unbiased messages goes to g, that of the others to 2/π of it, also where g is not
// Gaussian itself.
TEST(Drive, MeanOverRotations) {
  const size_t n = 8192 * 4;
  std::vector<float> x = gaussian(n);
  for (float& v : x) v = v * v * v;
  const uint32_t messages = 400;
  for (bool unbiased : {false, true}) {
    Codec codec(std::string("rotate(onebit(") + (unbiased ? "scale=unbiased, " : "") + "block=8192)); down=fp32");
    std::vector<float> mean(n);
    for (uint32_t k = 0; k < messages; k++) {
      const std::vector<float> y = codec.send(x, 0, k);
      for (size_t i = 0; i < n; i++) mean[i] += y[i] / static_cast<float>(messages);
    }
    const double error = relativeError(x, mean);
    std::printf("%s: error of the mean of %u messages %.5f (seed %d)\n", unbiased ? "unbiased" : "mean", messages,
                error, static_cast<int>(kSeed));
    if (unbiased)
      EXPECT_LT(error, 1.3 * (M_PI / 2 - 1) / messages);
    else
      EXPECT_NEAR(std::pow(1 - 2 / M_PI, 2), error, .01);
  }
}

}  // namespace
