// What the mathematics promises: unbiased codecs have the input as their mean, up to the documented bias of the dither,
// and exactly the variance that the formula gives for that very input; contractive ones contract on every path; and no
// two draws are the same where they must differ. Fixed seeds: a failure is not bad luck.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>

#include <gtest/gtest.h>

#include "tests/codec/harness.h"

namespace slim_test {
namespace {

using ref::Bytes;
using ref::Type;

const uint64_t kSeed = 20240611;

std::vector<float> floatsOf(Input input, size_t n, uint64_t seed = kSeed) {
  return ref::toReal<float>(Type::kFp32, makeInput(input, Type::kFp32, n, seed).data(), n);
}

struct Codec {
  explicit Codec(const std::string& spec) {
    EXPECT_EQ(slimSuccess, slimCompressorCreate(&compressor, ("up=" + spec).c_str())) << slimLastMessage();
  }
  ~Codec() { slimCompressorDestroy(compressor); }
  const slimDirection* up() const { return &compressor->up; }

  // û of a step; s, if given, is the memory of ef.
  std::vector<float> send(const std::vector<float>& x, uint64_t step, uint32_t rank = 0,
                          std::vector<float>* s = nullptr) const {
    return send(x, step, rank, s ? static_cast<void*>(s->data()) : nullptr);
  }
  std::vector<float> send(const std::vector<float>& x, uint64_t step, uint32_t rank, void* s) const {
    std::vector<float> y(x.size());
    slimStamp stamp = {};
    stamp.seed = kSeed;
    stamp.step = step;
    stamp.rank = rank;
    Guarded payload(slimPayloadBytes(up()->tree, slimFloat32, x.size()));
    slimEncodePass encode = {};
    encode.direction = up();
    encode.stamp = stamp;
    encode.type = slimFloat32;
    encode.x = x.data();
    encode.n = x.size();
    encode.s = s;
    encode.payload = payload.data();
    EXPECT_EQ(slimSuccess, slimPassEncode(&encode, nullptr));
    slimDecodePass decode = {};
    decode.direction = up();
    decode.stamp = stamp;
    decode.type = slimFloat32;
    decode.n = x.size();
    decode.payload = payload.data();
    decode.y = y.data();
    decode.factor = 1;
    EXPECT_EQ(slimSuccess, slimPassDecode(&decode, nullptr));
    return y;
  }
  slimCompressor* compressor = nullptr;
};

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); i++) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

double squaredDistance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); i++) sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
  return sum;
}

// Mean and standard error of a series.
struct Average {
  double sum = 0, squares = 0;
  int count = 0;
  void add(double value) {
    sum += value;
    squares += value * value;
    count++;
  }
  double mean() const { return sum / count; }
  double error() const { return std::sqrt(std::max(0.0, squares / count - mean() * mean()) / count); }
};

// ---- Exact variances for one block --------------------------------------------------------------------------------

using Variance = std::function<double(const std::vector<float>&)>;

double norm(const std::vector<float>& v, int p) {
  double sum = 0, largest = 0;
  for (float x : v) {
    sum += p == 1 ? std::fabs(x) : static_cast<double>(x) * x;
    largest = std::max(largest, static_cast<double>(std::fabs(x)));
  }
  return p == 0 ? largest : p == 1 ? sum : std::sqrt(sum);
}

// Sum over blocks of Δ² f (1 − f).
Variance qsgdVariance(double levels, int p, size_t block) {
  return [=](const std::vector<float>& x) {
    double sum = 0;
    for (size_t start = 0; start < x.size(); start += block) {
      std::vector<float> v(x.begin() + start, x.begin() + std::min(x.size(), start + block));
      double step = norm(v, p) / levels;
      for (float value : v) {
        double a = step > 0 ? std::fabs(value) / step : 0, f = a - std::floor(a);
        sum += step * step * f * (1 - f);
      }
    }
    return sum;
  };
}

// Sum over blocks of ‖v‖₁·‖v‖_p − ‖v‖².
Variance ternaryVariance(int p, size_t block) {
  return [=](const std::vector<float>& x) {
    double sum = 0;
    for (size_t start = 0; start < x.size(); start += block) {
      std::vector<float> v(x.begin() + start, x.begin() + std::min(x.size(), start + block));
      sum += norm(v, 1) * norm(v, p) - norm(v, 2) * norm(v, 2);
    }
    return sum;
  };
}

Variance randkVariance(double d, double k) {
  return [=](const std::vector<float>& x) { return (d / k - 1) * dot(x, x); };
}

double naturalVariance(const std::vector<float>& x) {
  double sum = 0;
  for (float value : x) {
    if (value == 0) continue;
    double size = std::fabs(value), low = std::exp2(std::floor(std::log2(size)));
    sum += (size - low) * (2 * low - size);
  }
  return sum;
}

// Natural dithering: levels 0, 2^(1 − s), …, ½, 1 of the block's norm.
Variance powersVariance(int s, int p, size_t block) {
  return [=](const std::vector<float>& x) {
    double sum = 0;
    for (size_t start = 0; start < x.size(); start += block) {
      std::vector<float> v(x.begin() + start, x.begin() + std::min(x.size(), start + block));
      const double least = std::ldexp(norm(v, p), 1 - s);
      for (float value : v) {
        if (value == 0) continue;
        const double size = std::fabs(value);
        if (size >= least) sum += naturalVariance({static_cast<float>(size / norm(v, p))}) * norm(v, p) * norm(v, p);
        if (size < least) sum += size * (least - size);
      }
    }
    return sum;
  };
}

double ditheredSignVariance(const std::vector<float>& x) {
  double sum = 0, largest = norm(x, 0);
  for (float value : x) sum += largest * largest - static_cast<double>(value) * value;
  return sum;
}

double inducedVariance(const std::vector<float>& x) {  // topk 16 of 512, then randk 32 of 512
  std::vector<float> sizes;
  for (float value : x) sizes.push_back(std::fabs(value));
  std::sort(sizes.rbegin(), sizes.rend());
  double rest = 0;
  for (size_t i = 16; i < sizes.size(); i++) rest += static_cast<double>(sizes[i]) * sizes[i];
  return (512.0 / 32 - 1) * rest;
}

struct Unbiased {
  const char* spec;
  size_t n;
  Variance variance;  // empty: only the mean is checked
  double step;        // bias of an element: this times the block's largest scale
};

std::ostream& operator<<(std::ostream& out, const Unbiased& codec) { return out << codec.spec; }

const double k16 = std::ldexp(1.0, -17), k32 = std::ldexp(1.0, -25);

const Unbiased kUnbiased[] = {
    {"none(ternary(norm=inf))", 512, ternaryVariance(0, 512), k16},
    {"none(ternary(norm=2))", 512, ternaryVariance(2, 512), k32},
    {"none(ternary(norm=2,block=64))", 500, ternaryVariance(2, 64), k32},
    {"none(ternary(norm=2,block=8192))", 8192, ternaryVariance(2, 8192), k32},
    {"none(qsgd(bits=3))", 512, qsgdVariance(3, 0, 512), k16},
    {"none(qsgd(bits=4))", 512, qsgdVariance(7, 0, 512), k16},
    {"none(qsgd(bits=4,norm=2))", 512, qsgdVariance(7, 2, 512), k32},
    {"none(qsgd(bits=8,block=128))", 500, qsgdVariance(127, 0, 128), k16},
    {"none(qsgd(levels=5))", 512, qsgdVariance(5, 0, 512), k16},
    {"none(qsgd(levels=2,norm=2,block=256))", 512, qsgdVariance(2, 2, 256), k32},
    {"none(natural)", 512, naturalVariance, k16},
    {"none(natural(bits=4))", 512, powersVariance(7, 0, 512), k16},
    {"none(natural(bits=3,block=128))", 500, powersVariance(3, 0, 128), k16},
    {"none(nuqsgd(bits=3))", 512, powersVariance(3, 2, 512), k32},
    {"none(nuqsgd(bits=4,block=8192))", 8192, powersVariance(7, 2, 8192), k32},
    {"none(onebit(dither,lambda=inf))", 512, ditheredSignVariance, k16},
    {"none(randk(k=32,block=512,scale=unbiased))", 512, randkVariance(512, 32), 0},
    {"none(randk(ratio=0.1,block=1024,scale=unbiased))", 1024, randkVariance(1024, 102), 0},
    {"none(randk(k=40,scope=chunk,scale=unbiased))", 777, randkVariance(777, 40), 0},
    {"none(randk(k=40,block=512,seed=shared,scale=unbiased))", 512, randkVariance(512, 40), 0},
    {"none(randk(k=0.5,block=64,scale=unbiased))", 512, randkVariance(64, 0.5), 0},
    {"none(randk(k=0.75,scope=chunk,scale=unbiased))", 64, randkVariance(64, 0.75), 0},
    {"none(randk(k=64,block=512,scale=unbiased,qsgd(bits=4)))", 512, nullptr, k16 * 8},
    {"none(induced(topk(k=16,block=512),randk(k=32,block=512)))", 512, inducedVariance, 0},
    {"none(induced(topk(ratio=0.01),qsgd(bits=4)))", 4096, nullptr, k16},
    {"none(induced(onebit,natural))", 512, nullptr, k16},
    {"none(rotate(qsgd(bits=3)))", 512, nullptr, k16},
    {"none(rotate(ternary(norm=2,block=128),block=1024))", 1024, nullptr, k16},
};

class UnbiasedCodec : public testing::TestWithParam<Unbiased> {};

TEST_P(UnbiasedCodec, HasTheInputAsMeanAndTheExactVariance) {
  const Unbiased& test = GetParam();
  Codec codec(test.spec);
  ASSERT_NE(nullptr, codec.compressor);
  slimClass guarantee = slimTreeClass(codec.up()->tree);
  EXPECT_TRUE(std::isfinite(guarantee.omega));
  for (Input input : {Input::kNormal, Input::kHeavyTail, Input::kSpike}) {
    SCOPED_TRACE(nameOf(input));
    std::vector<float> x = floatsOf(input, test.n);
    if (input == Input::kSpike) x[3] = 0.01f;
    const int steps = test.n > 2048 ? 1500 : 3000;
    // Directions: the input, all ones, two random ones.
    std::vector<std::vector<float>> directions = {
        x, std::vector<float>(test.n, 1.0f), floatsOf(Input::kNormal, test.n, 1), floatsOf(Input::kSparse, test.n, 2)};
    std::vector<Average> along(directions.size());
    std::vector<Average> element(test.n);
    Average error;
    double largest = 0;  // of |û|
    for (int step = 0; step < steps; step++) {
      std::vector<float> y = codec.send(x, static_cast<uint64_t>(step), static_cast<uint32_t>(step % 5));
      largest = std::max(largest, norm(y, 0));
      error.add(squaredDistance(x, y));
      for (size_t g = 0; g < directions.size(); g++) along[g].add(dot(y, directions[g]));
      for (size_t i = 0; i < test.n; i++) element[i].add(y[i]);
    }
    // The bias is a fraction of a step, and no step exceeds 2·max|x|, or the norm where that is the scale.
    bool wide = std::strstr(test.spec, "norm=2") || std::strstr(test.spec, "rotate");
    double bias = test.step * 2 * norm(x, wide ? 2 : 0);
    for (size_t g = 0; g < directions.size(); g++) {
      double allowed =
          4 * along[g].error() + bias * norm(directions[g], 1) + 1e-6 * norm(x, 2) * norm(directions[g], 2);
      EXPECT_NEAR(dot(x, directions[g]), along[g].mean(), allowed) << "direction " << g;
    }
    double worst = 0;
    for (size_t i = 0; i < test.n; i++) {
      double beyond = std::max(0.0, std::fabs(element[i].mean() - x[i]) - bias - 1e-6 * norm(x, 2));
      // An element that is rarely sent shows too little spread: the Bernoulli's own is the least.
      double spread = std::max(element[i].error(), std::sqrt(std::fabs(x[i]) * largest / steps));
      if (beyond > 0) worst = std::max(worst, beyond / spread);
    }
    EXPECT_LT(worst, 6.0) << "standard errors, the worst of " << test.n << " elements";
    if (test.variance) {
      double exact = test.variance(x);
      EXPECT_NEAR(exact, error.mean(), 4 * error.error() + 1e-4 * exact + 1e-9 * dot(x, x));
    }
    EXPECT_LE(error.mean(), guarantee.omega * dot(x, x) * (1 + 1e-4) + 4 * error.error()) << "omega";
  }
}

INSTANTIATE_TEST_SUITE_P(Codecs, UnbiasedCodec, testing::ValuesIn(kUnbiased));

// ---- Contraction ----------------------------------------------------------------------------------------------------

// always: ‖C(v) − v‖² ≤ (1 − delta)‖v‖² on every path; else ≤ ‖v‖² on every path, and the former in the mean.
struct Contractive {
  const char* spec;
  bool always;
};
std::ostream& operator<<(std::ostream& out, const Contractive& codec) { return out << codec.spec; }

const Contractive kContractive[] = {
    {"ef(topk(ratio=0.01,block=512))", true},
    {"ef(topk(k=3,block=64))", true},
    {"ef(topk(ratio=0.05,block=256,qsgd(bits=8)))", true},
    {"ef(topk(ratio=0.02,scope=chunk))", true},
    {"ef(onebit)", true},
    {"ef(onebit(block=64))", true},
    {"ef(rotate(onebit))", true},
    {"ef(qsgd(bits=2))", true},
    {"ef(qsgd(bits=4))", true},
    {"ef(qsgd(bits=8,norm=2))", true},
    {"ef(fp8)", true},
    {"ef21(onebit)", true},
    {"ef21(qsgd(bits=3))", true},
    {"ef(randk(k=40,block=512))", false},
    {"ef(randk(k=0.5,block=64))", false},
    {"ef(topk(k=0.25,block=64))", false},
    {"ef(topk(k=0.5,scope=chunk))", false},
    {"ef21(randk(k=0.5,scope=chunk,qsgd(bits=8)))", false},
    {"ef(qsgd(bits=2,rounding=stochastic))", false},
    {"ef(qsgd(bits=4,rounding=stochastic))", false},
    {"ef(qsgd(bits=3,norm=2,rounding=stochastic))", false},
    {"ef(ternary(norm=inf))", false},
    {"ef(ternary(norm=2,block=64))", false},
    {"ef(ternary(norm=2,block=8192))", false},
    {"ef(natural)", false},
    {"ef(natural(bits=3))", false},
    {"ef(nuqsgd(bits=4,block=64))", false},
    {"ef(tnqsgd(bits=3))", false},
    {"ef(tqsgd(bits=2,block=64))", false},
    {"ef(tnqsgd(bits=4,model=powerlaw))", false},
    {"ef(tbqsgd(bits=3,block=128))", false},
    {"ef(tnqsgd(bits=3,stats=tensor))", false},
    {"ef(tnqsgd(bits=3,model=powerlaw,stats=tensor,block=64))", false},
    {"ef(rotate(ternary(norm=inf)))", false},
    {"ef(rotate(qsgd(bits=2)))", false},
    {"ef21(ternary(norm=2))", false},
};

class ContractiveCodec : public testing::TestWithParam<Contractive> {};

TEST_P(ContractiveCodec, Contracts) {
  Codec codec(GetParam().spec);
  ASSERT_NE(nullptr, codec.compressor);
  slimClass guarantee = slimTreeClass(codec.up()->tree);
  EXPECT_GT(guarantee.delta, 0);
  EXPECT_LE(guarantee.delta, 1);
  for (Input input : kFiniteInputs) {
    if (input == Input::kHuge || input == Input::kDenormal || input == Input::kTiny) continue;
    SCOPED_TRACE(nameOf(input));
    Average ratio;
    for (int step = 0; step < 60; step++) {
      // Whole units: the bound is for full blocks.
      std::vector<float> x = floatsOf(input, 8192, static_cast<uint64_t>(step / 10)), s(x.size(), 0.0f);
      codec.send(x, static_cast<uint64_t>(step), 0, &s);
      double error = dot(s, s), size = dot(x, x);
      if (codec.up()->feedback.kind == slimFeedbackEf21) error = squaredDistance(x, s);  // s holds û
      ASSERT_LE(error, size * (1 + 1e-6)) << "step " << step;
      if (GetParam().always) {
        ASSERT_LE(error, (1 - guarantee.delta) * size * (1 + 1e-6)) << "step " << step;
      }
      if (size > 0) ratio.add(error / size);
    }
    if (ratio.count) {
      EXPECT_LE(ratio.mean(), 1 - guarantee.delta + 4 * ratio.error() + 1e-6);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Codecs, ContractiveCodec, testing::ValuesIn(kContractive));

TEST(Statistics, TheMemoryOfEveryContractiveCodecStaysBounded) {
  for (const Contractive& test : kContractive) {
    if (std::strncmp(test.spec, "ef(", 3) != 0) continue;
    Codec codec(test.spec);
    slimClass guarantee = slimTreeClass(codec.up()->tree);
    std::vector<float> s(8192, 0.0f);
    Average size;
    double largest = 0;
    for (int step = 0; step < 300; step++) {
      std::vector<float> x = floatsOf(Input::kNormal, s.size(), static_cast<uint64_t>(step));
      codec.send(x, static_cast<uint64_t>(step), 0, &s);
      size.add(norm(x, 2));
      largest = std::max(largest, norm(s, 2));
    }
    EXPECT_LT(largest, 4 / guarantee.delta * size.mean()) << test.spec;  // DESIGN's warning threshold
  }
}

// What a memory in bf16 keeps has the exact memory as its mean, is one of its two neighbours, and is a bf16.
TEST(Statistics, AMemoryInBf16IsUnbiased) {
  for (const char* spec :
       {"ef(topk(k=30,block=512),memory=bf16)", "ef(topk(k=30,scope=chunk),memory=bf16)", "ef(onebit,memory=bf16)"}) {
    Codec codec(spec);
    const size_t n = 1000;
    std::vector<float> x = floatsOf(Input::kHeavyTail, n), y(n);
    const int steps = 4000;
    std::vector<Average> kept(n);
    std::vector<float> exact(n), old(n);
    for (size_t i = 0; i < n; i++)
      old[i] = static_cast<float>(ref::fromBf16(ref::toBf16(std::sin(static_cast<double>(i)), false)));
    for (int step = 0; step < steps; step++) {
      std::vector<uint16_t> s(n);
      for (size_t i = 0; i < n; i++) s[i] = ref::toBf16(old[i], false);
      y = codec.send(x, static_cast<uint64_t>(step), 0, s.data());
      for (size_t i = 0; i < n; i++) {
        exact[i] = (old[i] + x[i]) - y[i];
        const double value = ref::fromBf16(s[i]);
        ASSERT_LE(std::fabs(value - exact[i]), std::fabs(exact[i]) / 128) << spec << " " << i;
        kept[i].add(value);
      }
    }
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
      // Between two neighbours, `up` of the way to the one away from zero: a Bernoulli's mean.
      const double size = std::fabs(exact[i]), unit = size > 0 ? std::exp2(std::floor(std::log2(size)) - 7) : 0;
      const double up = size > 0 ? size / unit - std::floor(size / unit) : 0;
      const double spread = unit * (std::sqrt(up * (1 - up) / steps) + 1.0 / steps);
      const double off = std::fabs(kept[i].mean() - exact[i]);
      if (off > 0) worst = std::max(worst, off / spread);
    }
    EXPECT_LT(worst, 5) << spec << ": standard errors, the worst of " << n;
  }
}

// A step's rescaling of such a memory is unbiased as well: rounding to nearest would never follow a factor of 0.999.
TEST(Statistics, ScalingAMemoryInBf16IsUnbiased) {
  std::vector<uint16_t> memory(4096, ref::toBf16(1.5, false));
  slimStamp stamp = {};
  stamp.seed = kSeed;
  for (stamp.step = 0; stamp.step < 500; stamp.step++) slimScaleMemory(&stamp, memory.data(), memory.size(), 0.999);
  Average mean;
  for (uint16_t value : memory) mean.add(ref::fromBf16(value));
  EXPECT_NEAR(1.5 * std::pow(0.999, 500), mean.mean(), 4 * mean.error());
}

// ---- Purposes -------------------------------------------------------------------------------------------------------

// One-bit codes of .3 from two ranks, coded again with one bit by the owner: the mean must be .3. With the owner's
// downlink dither equal to its uplink dither it would be .195.
TEST(Statistics, TheDownlinkHasADitherOfItsOwn) {
  slimCompressor* c = nullptr;
  ASSERT_EQ(slimSuccess,
            slimCompressorCreate(&c, "up=none(onebit(dither,lambda=1)); down=none(onebit(dither,lambda=1))"))
      << slimLastMessage();
  const size_t n = 4096;
  std::vector<float> x(n, 0.3f), y(n);
  Average mean;
  for (uint64_t step = 0; step < 50; step++) {
    size_t bytes = slimPayloadBytes(c->up.tree, slimFloat32, n);
    Guarded a(bytes), b(bytes), down(slimPayloadBytes(c->down.tree, slimFloat32, n));
    const uint8_t* payloads[] = {a.data(), b.data()};
    slimStamp stamp = {};
    stamp.seed = kSeed;
    stamp.step = step;
    for (uint32_t rank = 0; rank < 2; rank++) {
      stamp.rank = rank;
      slimEncodePass encode = {};
      encode.direction = &c->up;
      encode.stamp = stamp;
      encode.type = slimFloat32;
      encode.x = x.data();
      encode.n = n;
      encode.payload = rank ? b.data() : a.data();
      EXPECT_EQ(slimSuccess, slimPassEncode(&encode, nullptr));
    }
    stamp.rank = 1;
    stamp.down = true;
    slimReducePass reduce = {};
    reduce.up = &c->up;
    reduce.stamp = stamp;
    reduce.type = slimFloat32;
    reduce.n = n;
    reduce.ranks = 2;
    reduce.payloads = payloads;
    reduce.weight = 0.5;
    reduce.down = &c->down;
    reduce.payload = down.data();
    reduce.factor = 1;
    EXPECT_EQ(slimSuccess, slimPassReduce(&reduce, nullptr));
    slimDecodePass decode = {};
    decode.direction = &c->down;
    decode.stamp = stamp;
    decode.type = slimFloat32;
    decode.n = n;
    decode.payload = down.data();
    decode.y = y.data();
    decode.factor = 1;
    EXPECT_EQ(slimSuccess, slimPassDecode(&decode, nullptr));
    for (float value : y) mean.add(value);
  }
  EXPECT_NEAR(0.3, mean.mean(), 4 * mean.error() + k16);
  slimCompressorDestroy(c);
}

TEST(Statistics, RanksStepsAndSlotsDitherIndependently) {
  Codec codec("none(qsgd(bits=2))");
  std::vector<float> x = floatsOf(Input::kNormal, 8192);
  std::vector<float> a = codec.send(x, 1, 0), b = codec.send(x, 1, 1), c = codec.send(x, 2, 0),
                     again = codec.send(x, 1, 0);
  EXPECT_EQ(a, again);
  auto correlation = [&x](const std::vector<float>& p, const std::vector<float>& q) {
    double pq = 0, pp = 0, qq = 0;
    for (size_t i = 0; i < x.size(); i++) {
      double u = static_cast<double>(p[i]) - x[i], v = static_cast<double>(q[i]) - x[i];
      pq += u * v;
      pp += u * u;
      qq += v * v;
    }
    return pq / std::sqrt(pp * qq);
  };
  double allowed = 4 / std::sqrt(static_cast<double>(x.size()));
  EXPECT_NEAR(0, correlation(a, b), allowed);
  EXPECT_NEAR(0, correlation(a, c), allowed);
}

TEST(Statistics, SharedRandkTakesTheSameElementsOnAllRanksAndOwnDoesNot) {
  std::vector<float> ones(4096, 1.0f);
  Codec shared("none(randk(k=40,block=1024,seed=shared))"), own("none(randk(k=40,block=1024,seed=own))");
  EXPECT_EQ(shared.send(ones, 3, 0), shared.send(ones, 3, 5));
  EXPECT_NE(shared.send(ones, 3, 0), shared.send(ones, 4, 0));
  EXPECT_NE(own.send(ones, 3, 0), own.send(ones, 3, 5));
}

// k below 1: a block (a piece) sends one value as often as k says, or none.
TEST(Statistics, UltraSparseSendsOneValueWithProbabilityK) {
  std::vector<float> ones(64, 1.0f);
  for (double k : {0.01, 0.25, 0.9})
    for (const char* form : {"ef(topk(k=%g,block=64))", "ef(randk(k=%g,block=64))", "ef(topk(k=%g,scope=chunk))",
                             "ef(randk(k=%g,scope=global,fp16))"}) {
      char spec[64];
      snprintf(spec, sizeof spec, form, k);
      Codec codec(spec);
      const int steps = 4000;
      int sent = 0;
      for (int step = 0; step < steps; step++) {
        std::vector<float> s(64, 0.0f), y = codec.send(ones, static_cast<uint64_t>(step), 0, &s);
        const double sum = dot(y, ones);
        ASSERT_TRUE(sum == 0 || sum == 1) << spec << ": " << sum;
        ASSERT_EQ(64 - sum, dot(s, ones)) << spec;
        sent += sum == 1;
      }
      EXPECT_NEAR(k, static_cast<double>(sent) / steps, 4 * std::sqrt(k * (1 - k) / steps)) << spec;
      // One record, whatever is sent; expected bits are what a message of variable length would take.
      const double n = form[3] == 't' && std::strstr(form, "block") ? 64 : 0;
      if (n > 0) {
        EXPECT_NEAR((1 + k * (32 + 6)) / n, slimTreeClass(codec.up()->tree).bits, 1e-9) << spec;
        EXPECT_EQ(64u + 16 + 16 + 16 + 16, slimPayloadBytes(codec.up()->tree, slimFloat32, 64)) << spec;
        EXPECT_NEAR(k / n, slimTreeClass(codec.up()->tree).delta, 1e-12) << spec;
      }
    }
  // Ranks that share the selection share the coin too; a step's coin says nothing about the next.
  Codec shared("none(randk(k=0.5,block=64,seed=shared))"), own("none(randk(k=0.5,block=64))");
  std::vector<float> many(64 * 256, 1.0f);
  EXPECT_EQ(shared.send(many, 3, 0), shared.send(many, 3, 5));
  EXPECT_NE(shared.send(many, 3, 0), shared.send(many, 4, 0));
  EXPECT_NE(own.send(many, 3, 0), own.send(many, 3, 5));
}

TEST(Statistics, RotationsAreRedrawnUnlessFixed) {
  std::vector<float> x = floatsOf(Input::kNormal, 4096);
  Codec redrawn("none(rotate(onebit))"), fixed("none(rotate(onebit,signs=fixed))");
  EXPECT_NE(redrawn.send(x, 3), redrawn.send(x, 4));
  EXPECT_EQ(redrawn.send(x, 3, 0), redrawn.send(x, 3, 1));
  EXPECT_EQ(fixed.send(x, 3), fixed.send(x, 4));
}

}  // namespace
}  // namespace slim_test
