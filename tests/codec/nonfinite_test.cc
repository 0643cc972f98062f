// The contract of non-finite values, told without the reference: a unit that holds NaN, Inf or an overflow decodes to
// canonical NaN, leaves its states alone, and concerns no other unit; h = mean of the h_i goes on holding. Also the
// cancelled step, dense messages, headers and conversions.
#include <cmath>
#include <cstring>
#include <limits>

#include <gtest/gtest.h>

#include "tests/codec/harness.h"

namespace slim_test {
namespace {

using ref::Bytes;
using ref::Type;

const uint64_t kSeed = 77;

slimStamp stampOf(uint64_t step, uint32_t rank, bool down = false) {
  slimStamp stamp = {};
  stamp.hash = 0x0123456789abcdef;
  stamp.seed = kSeed;
  stamp.step = step;
  stamp.slot = 3;
  stamp.rank = rank;
  stamp.down = down;
  return stamp;
}

struct Parsed {
  explicit Parsed(const std::string& spec) {
    EXPECT_EQ(slimSuccess, slimCompressorCreate(&c, spec.c_str())) << slimLastMessage();
  }
  ~Parsed() { slimCompressorDestroy(c); }
  slimCompressor* c = nullptr;
};

Bytes encode(const slimDirection& direction, slimStamp stamp, slimDataType_t type, const void* x, size_t n, void* s) {
  Guarded payload(slimPayloadBytes(direction.tree, type, n));
  slimPassStats stats = {};
  slimEncodePass pass = {};
  pass.direction = &direction;
  pass.stamp = stamp;
  pass.type = type;
  pass.x = x;
  pass.n = n;
  pass.s = s;
  pass.payload = payload.data();
  pass.stats = &stats;
  EXPECT_EQ(slimSuccess, slimPassEncode(&pass, nullptr));
  EXPECT_TRUE(payload.intact());
  return payload.content();
}

void decode(const slimDirection& direction, slimStamp stamp, slimDataType_t type, const Bytes& payload, size_t n,
            void* h, void* y) {
  Guarded aligned(payload);
  slimDecodePass pass = {};
  pass.direction = &direction;
  pass.stamp = stamp;
  pass.type = type;
  pass.n = n;
  pass.payload = aligned.data();
  pass.h = h;
  pass.y = y;
  pass.factor = 1;
  EXPECT_EQ(slimSuccess, slimPassDecode(&pass, nullptr));
}

std::vector<float> normalFloats(size_t n, uint64_t seed) {
  return ref::toReal<float>(Type::kFp32, makeInput(Input::kNormal, Type::kFp32, n, seed).data(), n);
}

uint32_t bitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

class NonFinite : public testing::TestWithParam<const char*> {};

TEST_P(NonFinite, UnitsAreFlaggedAloneAndLeaveTheirMemory) {
  Parsed parsed(GetParam());
  ASSERT_NE(nullptr, parsed.c);
  const slimDirection& up = parsed.c->up;
  size_t unit = slimTreeUnit(up.tree), n = 4 * unit + 9;
  for (float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
    std::vector<float> clean = normalFloats(n, 5), s0 = normalFloats(n, 6), x = clean;
    size_t at[] = {unit + 3, 4 * unit + 8};  // the second and the partial last unit
    for (size_t i : at) x[i] = bad;
    std::vector<float> sClean = s0, s = s0, yClean(n), y(n);
    void *state = up.feedback.memory ? s.data() : nullptr, *stateClean = up.feedback.memory ? sClean.data() : nullptr;
    Bytes payload = encode(up, stampOf(1, 0), slimFloat32, x.data(), n, state);
    Bytes payloadClean = encode(up, stampOf(1, 0), slimFloat32, clean.data(), n, stateClean);
    decode(up, stampOf(1, 0), slimFloat32, payload, n, nullptr, y.data());
    decode(up, stampOf(1, 0), slimFloat32, payloadClean, n, nullptr, yClean.data());
    EXPECT_EQ(0x12, payload[64]);
    EXPECT_EQ(0x00, payloadClean[64]);
    for (size_t i = 0; i < n; i++) {
      if (i / unit == 1 || i / unit == 4) {
        ASSERT_EQ(0x7fc00000u, bitsOf(y[i])) << i;
        ASSERT_EQ(bitsOf(s0[i]), bitsOf(s[i])) << i;
      } else {
        ASSERT_EQ(bitsOf(yClean[i]), bitsOf(y[i])) << i;
        ASSERT_EQ(bitsOf(sClean[i]), bitsOf(s[i])) << i;
      }
    }
  }
}

TEST_P(NonFinite, AnOverflowOfInputAndMemoryCounts) {
  Parsed parsed(GetParam());
  ASSERT_NE(nullptr, parsed.c);
  const slimDirection& up = parsed.c->up;
  if (!up.feedback.memory) return;
  size_t unit = slimTreeUnit(up.tree), n = 2 * unit;
  std::vector<float> x = normalFloats(n, 5), s0 = normalFloats(n, 6), y(n);
  x[unit + 1] = 3e38f;
  s0[unit + 1] = up.feedback.sigma > 0 ? 3e38f : -3e38f;
  std::vector<float> s = s0;
  Bytes payload = encode(up, stampOf(1, 0), slimFloat32, x.data(), n, s.data());
  decode(up, stampOf(1, 0), slimFloat32, payload, n, nullptr, y.data());
  EXPECT_EQ(0x02, payload[64]);
  for (size_t i = unit; i < n; i++) {
    ASSERT_EQ(0x7fc00000u, bitsOf(y[i]));
    ASSERT_EQ(bitsOf(s0[i]), bitsOf(s[i]));
  }
}

TEST_P(NonFinite, OneRankFlagsForAll) {
  Parsed parsed(GetParam());
  ASSERT_NE(nullptr, parsed.c);
  const slimDirection &up = parsed.c->up, &down = parsed.c->down;
  size_t unit = std::max(slimTreeUnit(up.tree), slimTreeUnit(down.tree)), n = 3 * unit;
  std::vector<float> x[3], s(n, 0.0f), h(n, 0.0f), e0 = normalFloats(n, 9), e = e0, y(n);
  Bytes payloads[3];
  std::vector<Guarded> aligned;
  const uint8_t* pointers[3];
  for (uint32_t r = 0; r < 3; r++) {
    x[r] = normalFloats(n, r);
    if (r == 1) x[r][unit] = INFINITY;
    s.assign(n, 0.0f);
    aligned.emplace_back(
        encode(up, stampOf(1, r), slimFloat32, x[r].data(), n, up.feedback.memory ? s.data() : nullptr));
  }
  for (int r = 0; r < 3; r++) pointers[r] = aligned[r].data();
  Guarded payload(slimPayloadBytes(down.tree, slimFloat32, n));
  slimReducePass pass = {};
  pass.up = &up;
  pass.stamp = stampOf(1, 2, true);
  pass.type = slimFloat32;
  pass.n = n;
  pass.ranks = 3;
  pass.payloads = pointers;
  pass.weight = 1.0 / 3;
  pass.h = up.feedback.shifts ? h.data() : nullptr;
  pass.down = &down;
  pass.e = down.feedback.memory || down.feedback.shifts ? e.data() : nullptr;
  pass.payload = payload.data();
  pass.factor = 1;
  EXPECT_EQ(slimSuccess, slimPassReduce(&pass, nullptr));
  decode(down, stampOf(1, 2, true), slimFloat32, payload.content(), n, down.feedback.shifts ? e.data() : nullptr,
         y.data());
  size_t upUnit = slimTreeUnit(up.tree), downUnit = slimTreeUnit(down.tree);
  for (size_t i = 0; i < n; i++) {
    if (i / upUnit == unit / upUnit) {
      ASSERT_EQ(0x7fc00000u, bitsOf(y[i])) << i;
      ASSERT_TRUE(!pass.e || bitsOf(e0[i]) == bitsOf(e[i])) << i;
    } else if (i / downUnit != unit / downUnit) {
      ASSERT_TRUE(std::isfinite(y[i])) << i;
    }
    ASSERT_TRUE(std::isfinite(h[i])) << i;
    ASSERT_TRUE(!pass.e || std::isfinite(e[i])) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Specs, NonFinite,
    testing::Values("none(fp16)", "ef(onebit)", "ef(qsgd(bits=4))", "none(sign)", "none(fp8)", "none(natural)",
                    "none(tnqsgd(bits=3))", "ef(tbqsgd(bits=4))", "none(nuqsgd(bits=4))", "ef(rotate(onebit))",
                    "ef(rotate(qsgd(bits=2),block=2048))", "ef(topk(ratio=0.01,qsgd(bits=8)))", "ef(topk(ratio=0.01))",
                    "ef(randk(ratio=0.01))", "none(ternary(norm=2))", "diana(qsgd(bits=4))",
                    "ef21(topk(ratio=0.05,qsgd(bits=8)))", "none(induced(topk(ratio=0.01,block=512),qsgd(bits=4)))",
                    "up=diana(ternary(norm=inf)); down=diana(natural)",
                    "up=ef(qsgd(bits=4)); down=ef(topk(ratio=0.01))", "up=ef21(onebit); down=ef21(onebit)"));

// Server and workers: h = mean of the h_i through steps in which now and then a rank's unit is not finite.
TEST(NonFiniteShifts, HStaysTheMean) {
  for (const char* spec : {"diana(qsgd(bits=4))", "ef21(onebit)", "ef_bv(qsgd(bits=4),lambda=0.5,nu=0.5)",
                           "diana(randk(ratio=0.1,block=512))", "ef21(topk(ratio=0.1,block=512,qsgd(bits=8)))"}) {
    Parsed parsed(spec);
    ASSERT_NE(nullptr, parsed.c);
    const slimDirection& up = parsed.c->up;
    const size_t n = 4 * 512;
    std::vector<std::vector<float>> s(4, std::vector<float>(n, 0.0f));
    std::vector<float> h(n, 0.0f), y(n);
    for (uint64_t step = 0; step < 40; step++) {
      std::vector<Guarded> payloads;
      const uint8_t* pointers[4];
      for (uint32_t r = 0; r < 4; r++) {
        std::vector<float> x = normalFloats(n, r);
        if (step % 3 == 0) x[(step + r * 700) % n] = step % 2 ? NAN : INFINITY;
        payloads.emplace_back(encode(up, stampOf(step, r), slimFloat32, x.data(), n, s[r].data()));
      }
      for (int r = 0; r < 4; r++) pointers[r] = payloads[r].data();
      slimReducePass pass = {};
      pass.up = &up;
      pass.stamp = stampOf(step, 0);
      pass.type = slimFloat32;
      pass.n = n;
      pass.ranks = 4;
      pass.payloads = pointers;
      pass.weight = 0.25;
      pass.h = h.data();
      pass.y = y.data();
      pass.factor = 1;
      EXPECT_EQ(slimSuccess, slimPassReduce(&pass, nullptr));
    }
    for (size_t i = 0; i < n; i++) {
      double mean = (static_cast<double>(s[0][i]) + s[1][i] + s[2][i] + s[3][i]) / 4;
      ASSERT_NEAR(mean, h[i], 1e-5) << spec << " " << i;
    }
  }
}

TEST(Cancel, GivesTheMemoryBackWhatWasSent) {
  for (const std::string& set : instructionSets()) {
    useInstructionSet(set);
    for (const char* spec : {"ef(qsgd(bits=4))", "ef(topk(ratio=0.1,block=512,qsgd(bits=8)))", "ef(rotate(onebit))",
                             "ef(topk(ratio=0.1,scope=chunk))"}) {
      Parsed parsed(spec);
      ASSERT_NE(nullptr, parsed.c);
      const slimDirection& up = parsed.c->up;
      const size_t n = 3 * 512 + 5;
      std::vector<float> x = normalFloats(n, 1), s0 = normalFloats(n, 2), s = s0, sent(n);
      bool piece = std::strstr(spec, "chunk") != nullptr;
      if (!piece) x[600] = NAN;
      Bytes payload = encode(up, stampOf(4, 1), slimFloat32, x.data(), n, s.data());
      decode(up, stampOf(4, 1), slimFloat32, payload, n, nullptr, sent.data());
      std::vector<float> expected = s;
      for (size_t i = 0; i < n; i++) {
        if (!piece && i / 512 == 1) continue;
        float sum = s[i] + sent[i];
        expected[i] = sum - x[i];
      }
      Guarded aligned(payload);
      slimDecodePass pass = {};
      pass.direction = &up;
      pass.stamp = stampOf(4, 1);
      pass.type = slimFloat32;
      pass.n = n;
      pass.payload = aligned.data();
      pass.factor = 1;
      EXPECT_EQ(slimSuccess, slimPassCancel(&pass, x.data(), s.data(), nullptr));
      for (size_t i = 0; i < n; i++) {
        ASSERT_EQ(bitsOf(expected[i]), bitsOf(s[i])) << spec << " " << i << " " << set;
        ASSERT_NEAR(s0[i], s[i], 1e-5);
      }
    }
  }
}

// ---- Dense messages and conversions ---------------------------------------------------------------------------------

template <typename Real>
void denseRoundTrip(Type type) {
  slimDataType_t t = static_cast<slimDataType_t>(type);
  for (size_t n : {0, 1, 5, 1000, 4099}) {
    ASSERT_EQ((64 + n * sizeof(Real) + 15) / 16 * 16, slimDensePayloadBytes(t, n));
    std::vector<Guarded> payloads;
    std::vector<const uint8_t*> pointers;
    std::vector<Real> sum(n, Real(0));
    for (uint32_t r = 0; r < 3; r++) {
      Bytes x = makeInput(r == 2 && n == 5 ? Input::kDenormal : Input::kScales, type, n, r);
      std::vector<Real> reals = ref::toReal<Real>(type, x.data(), n);
      payloads.emplace_back(slimDensePayloadBytes(t, n));
      slimStamp stamp = stampOf(9, r);
      {
        CallerMode mode(true);
        slimDenseEncode(&stamp, t, r == 1 ? static_cast<const void*>(reals.data()) : x.data(), r == 1, n, 640,
                        payloads[r].data());
      }
      ASSERT_TRUE(payloads[r].intact());
      Bytes content = payloads[r].content();
      ASSERT_EQ(0, std::memcmp(content.data(), "SLM1\x01\0\x02\0", 8));
      ASSERT_TRUE(n == 0 || std::memcmp(&content[64], reals.data(), n * sizeof(Real)) == 0);
      for (size_t i = 64 + n * sizeof(Real); i < content.size(); i++) ASSERT_EQ(0, content[i]);
      for (size_t i = 0; i < n; i++) sum[i] = sum[i] + reals[i];
    }
    for (Guarded& payload : payloads) pointers.push_back(payload.data());
    for (Real& value : sum) value = value * static_cast<Real>(1.0 / 3);
    Guarded dst(n * sizeof(Real), sizeof(Real));
    {
      CallerMode mode(true);
      slimDenseReduce(t, n, 3, pointers.data(), 1.0 / 3, dst.data());
    }
    ASSERT_TRUE(dst.intact());
    ASSERT_TRUE(dst.content() == bytesOf(sum));
    for (double factor : {1.0, 3.0, 0.5}) {
      Guarded y(n * typeBytes(type), typeBytes(type));
      Bytes expected(n * typeBytes(type));
      for (size_t i = 0; i < n; i++) {
        ref::fromReal<Real>(type, static_cast<Real>(factor) * sum[i], expected.data() + i * typeBytes(type));
      }
      {
        CallerMode mode(true);
        slimFromReal(t, dst.data(), n, factor, y.data());
      }
      ASSERT_TRUE(y.intact());
      ASSERT_TRUE(y.content() == expected) << factor;
      Guarded scaled(dst.content());
      slimScaleReal(t, scaled.data(), n, factor);
      std::vector<Real> want = sum;
      for (Real& value : want) value = static_cast<Real>(factor) * value;
      ASSERT_TRUE(scaled.content() == bytesOf(want));
    }
  }
}

TEST(Dense, MessagesCarryFullPrecision) {
  for (const std::string& set : instructionSets()) {
    useInstructionSet(set);
    denseRoundTrip<float>(Type::kFp32);
    denseRoundTrip<float>(Type::kFp16);
    denseRoundTrip<float>(Type::kBf16);
    denseRoundTrip<double>(Type::kFp64);
  }
}

// Every 16-bit value, its neighbours and the ties between, both ways.
TEST(Conversions, AreExactOrRoundToNearestEven) {
  for (const std::string& set : instructionSets()) {
    useInstructionSet(set);
    for (Type type : {Type::kFp16, Type::kBf16}) {
      slimDataType_t t = static_cast<slimDataType_t>(type);
      std::vector<uint16_t> codes(65536);
      for (size_t i = 0; i < codes.size(); i++) codes[i] = static_cast<uint16_t>(i);
      std::vector<float> wide(codes.size());
      {
        CallerMode mode(true);
        slimToReal(t, codes.data(), codes.size(), wide.data());
      }
      std::vector<float> around;
      for (size_t i = 0; i < codes.size(); i++) {
        double value = type == Type::kFp16 ? ref::fromFp16(codes[i]) : ref::fromBf16(codes[i]);
        if (std::isnan(value)) {
          ASSERT_TRUE(std::isnan(wide[i])) << i;
          around.push_back(wide[i]);
          continue;
        }
        ASSERT_EQ(bitsOf(static_cast<float>(value)), bitsOf(wide[i])) << i << " " << set;
        double next = type == Type::kFp16 ? ref::fromFp16(codes[i] + 1) : ref::fromBf16(codes[i] + 1);
        if (!std::isfinite(next)) next = value;
        float middle = static_cast<float>((value + next) / 2);
        for (float v :
             {static_cast<float>(value), middle, std::nextafter(middle, 0.0f), std::nextafter(middle, INFINITY)}) {
          around.push_back(v);
        }
      }
      for (float v : {65504.0f, 65519.99f, 65520.0f, 1e6f, 3.4e38f, std::numeric_limits<float>::max()}) {
        around.push_back(v);
        around.push_back(-v);
      }
      std::vector<uint16_t> back(around.size());
      {
        CallerMode mode(true);
        slimFromReal(t, around.data(), around.size(), 1, back.data());
      }
      for (size_t i = 0; i < around.size(); i++) {
        uint16_t expected = type == Type::kFp16 ? ref::toFp16(around[i], false) : ref::toBf16(around[i], false);
        ASSERT_EQ(expected, back[i]) << around[i] << " " << set;
      }
    }
  }
}

// ---- Statistics of a pass -------------------------------------------------------------------------------------------

TEST(PassStats, SumOverEverySixteenthUnit) {
  for (int threads : {0, 3}) {
    slimPool* pool = nullptr;
    if (threads) {
      ASSERT_EQ(slimSuccess, slimPoolCreate(&pool, threads));
    }
    Parsed parsed("ef(qsgd(bits=4))");
    const slimDirection& up = parsed.c->up;
    const size_t n = 300 * 512 + 70;
    std::vector<float> x = normalFloats(n, 1), s0 = normalFloats(n, 2), s = s0;
    x[3 * 512] = NAN;
    x[9 * 512 + 5] = INFINITY;
    Guarded payload(slimPayloadBytes(up.tree, slimFloat32, n));
    slimPassStats stats = {};
    slimEncodePass pass = {};
    pass.direction = &up;
    pass.stamp = stampOf(1, 0);
    pass.type = slimFloat32;
    pass.x = x.data();
    pass.n = n;
    pass.s = s.data();
    pass.payload = payload.data();
    pass.stats = &stats;
    ASSERT_EQ(slimSuccess, slimPassEncode(&pass, pool));
    double xx = 0, uu = 0, error = 0, ss = 0;
    for (size_t i = 0; i < n; i++) {
      if (i / 512 % 16) continue;
      double u = static_cast<double>(x[i]) + s0[i];
      xx += static_cast<double>(x[i]) * x[i];
      uu += u * u;
      error += static_cast<double>(s[i]) * s[i];  // under ef the new memory is the error
      ss += static_cast<double>(s[i]) * s[i];
    }
    EXPECT_EQ(2u, stats.flagged);
    EXPECT_NEAR(xx, stats.xx, 1e-4 * xx);
    EXPECT_NEAR(uu, stats.uu, 1e-4 * uu);
    EXPECT_NEAR(error, stats.error, 1e-4 * error);
    EXPECT_NEAR(ss, stats.ss, 1e-4 * ss);
    slimPoolDestroy(pool);
  }
}

// ---- Headers --------------------------------------------------------------------------------------------------------

TEST(Headers, AreWrittenAsDocumentedAndEveryFieldIsChecked) {
  slimStamp stamp = stampOf(0x1122334455667788, 5);
  stamp.slot = 0x99aabbcc;
  Bytes payload(64, 0xee);
  slimHeaderWrite(payload.data(), &stamp, 1000, 4096, 640, 0);
  const uint8_t expected[64] = {
      'S',  'L',  'M',  '1',  1,    0,    0,    0,                                 // magic, version, flags
      0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01,                              // hash
      0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,                              // step
      0xcc, 0xbb, 0xaa, 0x99, 5,    0,    0,    0,                                 // slot, rank
      0xe8, 0x03, 0,    0,    0,    0,    0,    0,    0, 0x10, 0, 0, 0, 0, 0, 0,   // n, first
      0x80, 0x02, 0,    0,    0,    0,    0,    0,    0, 0,    0, 0, 0, 0, 0, 0};  // bytes, zero
  EXPECT_EQ(Bytes(expected, expected + 64), payload);
  EXPECT_EQ(slimSuccess, slimHeaderCheck(payload.data(), &stamp, 1000, 4096, 640, 0));
  for (size_t i = 0; i < 56; i++) {
    Bytes altered = payload;
    altered[i] ^= 0x40;
    EXPECT_NE(slimSuccess, slimHeaderCheck(altered.data(), &stamp, 1000, 4096, 640, 0)) << "byte " << i;
    EXPECT_STRNE("", slimLastMessage());
  }
  EXPECT_NE(slimSuccess, slimHeaderCheck(payload.data(), &stamp, 1000, 4096, 640, slimHeaderDense));
}

TEST(Coin, FallsWithItsProbabilityAndTheSameEverywhere) {
  for (double p : {0.0, 0.03, 0.5, 1.0}) {
    int heads = 0;
    const int tosses = 20000;
    for (int step = 0; step < tosses; step++) {
      bool head = slimCoin(kSeed, 4, static_cast<uint64_t>(step), p);
      ref::Stamp stamp;
      stamp.seed = kSeed;
      stamp.slot = 4;
      stamp.step = static_cast<uint64_t>(step);
      stamp.down = true;  // all ranks share it: the direction does not matter
      EXPECT_EQ(std::ldexp(static_cast<double>(ref::draw32(stamp, ref::kCoin, 0, true, 0)), -32) < p, head);
      heads += head;
    }
    EXPECT_NEAR(p * tosses, heads, 4 * std::sqrt(p * (1 - p) * tosses));
  }
}

}  // namespace
}  // namespace slim_test
