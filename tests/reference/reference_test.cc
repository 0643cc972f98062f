// The oracle's own check: known answers, and identities that hold for any right implementation of docs/format.md.
#include "tests/reference/reference.h"

#include <cmath>
#include <cstring>
#include <random>

#include <gtest/gtest.h>

namespace {

using ref::Type;

TEST(Reference, PhiloxOfSevenRoundsGivesItsKnownAnswer) {
  // Random123's kat_vectors: philox4x32 7, counter and key zero.
  ref::Stamp stamp;
  EXPECT_EQ(0x5f6fb709u, ref::draw32(stamp, ref::kDither, 0, false, 0));
  EXPECT_EQ(0x0d893f64u, ref::draw32(stamp, ref::kDither, 0, false, 1));
  EXPECT_EQ(0x4f121f81u, ref::draw32(stamp, ref::kDither, 0, false, 2));
  EXPECT_EQ(0x4f730a48u, ref::draw32(stamp, ref::kDither, 0, false, 3));
  // The same 128 bits as 16-bit and as single draws.
  EXPECT_EQ(0xb709u, ref::draw16(stamp, ref::kDither, 0, false, 0));
  EXPECT_EQ(0x5f6fu, ref::draw16(stamp, ref::kDither, 0, false, 1));
  EXPECT_EQ(0x4f73u, ref::draw16(stamp, ref::kDither, 0, false, 7));
  EXPECT_EQ(1u, ref::draw1(stamp, ref::kDither, 0, false, 0));
  EXPECT_EQ(0u, ref::draw1(stamp, ref::kDither, 0, false, 1));
  EXPECT_EQ(0u, ref::draw1(stamp, ref::kDither, 0, false, 127));
  EXPECT_EQ(1u, ref::draw1(stamp, ref::kDither, 0, false, 126));
}

TEST(Reference, PurposesRanksAndStepsDrawDifferently) {
  ref::Stamp up, down, step, rank, slot;
  down.down = true;
  step.step = 1;
  rank.rank = 1;
  slot.slot = 1;
  uint32_t of = ref::draw32(up, ref::kDither, 0, false, 9);
  EXPECT_NE(of, ref::draw32(down, ref::kDither, 0, false, 9));
  EXPECT_NE(of, ref::draw32(step, ref::kDither, 0, false, 9));
  EXPECT_NE(of, ref::draw32(rank, ref::kDither, 0, false, 9));
  EXPECT_NE(of, ref::draw32(slot, ref::kDither, 0, false, 9));
  EXPECT_NE(of, ref::draw32(up, ref::kIndex, 0, false, 9));
  EXPECT_NE(of, ref::draw32(up, ref::kDither, 1, false, 9));
  EXPECT_EQ(ref::draw1(up, ref::kRotation, 0, true, 9), ref::draw1(down, ref::kRotation, 0, true, 9));
}

TEST(Reference, TreeSumsInItsOwnOrder) {
  EXPECT_EQ(0.0f, ref::treeSum({}));
  EXPECT_EQ(6.0f, ref::treeSum({1, 2, 3}));
  // Rows before columns: 2^24 + 1 (row 1 of column 0) is lost; 1 of column 64 is added after it and is lost too, while
  // columns 1 and 65 make 2 first.
  std::vector<float> v(256, 0.0f);
  v[0] = 16777216.0f;
  v[128] = 1.0f;
  EXPECT_EQ(16777216.0f, ref::treeSum(v));
  v[64] = 1.0f;
  EXPECT_EQ(16777216.0f, ref::treeSum(v));
  v[1] = v[65] = 1.0f;
  EXPECT_EQ(16777218.0f, ref::treeSum(v));
}

TEST(Reference, SmallFormatsRoundTripAndRoundToEven) {
  for (uint32_t code = 0; code < 65536; code++) {
    double half = ref::fromFp16(static_cast<uint16_t>(code)), brain = ref::fromBf16(static_cast<uint16_t>(code));
    if (std::isfinite(half)) {
      ASSERT_EQ(code, ref::toFp16(half, true));
    }
    if (std::isfinite(brain)) {
      ASSERT_EQ(code, ref::toBf16(brain, true));
    }
  }
  for (uint32_t code = 0; code < 256; code++) {
    double e4m3 = ref::fromFp8(static_cast<uint8_t>(code), false),
           e5m2 = ref::fromFp8(static_cast<uint8_t>(code), true);
    if (std::isfinite(e4m3)) {
      ASSERT_EQ(code, ref::toFp8(e4m3, false));
    }
    if (std::isfinite(e5m2)) {
      ASSERT_EQ(code, ref::toFp8(e5m2, true));
    }
  }
  EXPECT_EQ(448.0, ref::fromFp8(0x7e, false));
  EXPECT_EQ(57344.0, ref::fromFp8(0x7b, true));
  EXPECT_EQ(0x3c00, ref::toFp16(1.0 + 1.0 / 2048, true));  // a tie, to even
  EXPECT_EQ(0x3c02, ref::toFp16(1.0 + 3.0 / 2048, true));
  EXPECT_EQ(0x7bff, ref::toFp16(1e6, true));
  EXPECT_EQ(0x7c00, ref::toFp16(65520.0, false));
  EXPECT_EQ(0x7bff, ref::toFp16(65519.0, false));
  EXPECT_EQ(0xff7f, ref::toBf16(-3.4028235e38, true));
  EXPECT_EQ(0xff80, ref::toBf16(-3.4028235e38, false));
  EXPECT_EQ(0x7e, ref::toFp8(1e9, false));
  EXPECT_EQ(0x80, ref::toFp8(-1e-9, false));
  for (int i = 0; i < 100000; i++) {  // against the compiler's conversion
    float value = static_cast<float>(std::ldexp(std::sin(i), i % 40 - 26));
    _Float16 half = static_cast<_Float16>(value);
    uint16_t bits;
    std::memcpy(&bits, &half, 2);
    ASSERT_EQ(bits, ref::toFp16(value, false)) << value;
  }
}

const char* const kTrees[] = {"fp32",
                              "fp16",
                              "bf16",
                              "fp8",
                              "fp8(format=e5m2)",
                              "sign(scale=0.25)",
                              "onebit",
                              "onebit(dither,f=1.5)",
                              "onebit(dither,lambda=inf)",
                              "onebit(dither,lambda=0.5)",
                              "ternary(norm=2,block=64)",
                              "qsgd(bits=2)",
                              "qsgd(bits=3)",
                              "qsgd(levels=5,norm=2)",
                              "qsgd(levels=256)",
                              "natural",
                              "topk(ratio=0.01,block=512)",
                              "topk(k=9,qsgd(bits=5),block=256)",
                              "topk(ratio=0.1,scope=chunk,qsgd(bits=3,block=64))",
                              "randk(ratio=0.02,block=512)",
                              "randk(k=70,scope=global,onebit(block=64))",
                              "rotate(onebit,block=512)",
                              "rotate(qsgd(bits=2,block=64),block=1024)",
                              "induced(topk(ratio=0.01,block=512),qsgd(bits=4))"};

// Decoding the bytes gives what the encoder took away from the memory, and the size is as computed.
TEST(Reference, DecodesWhatItEncodes) {
  for (const char* tree : kTrees) {
    ref::Direction direction;
    direction.tree = ref::parse(tree).tree;
    direction.feedback = ref::parse("ef(fp32)").feedback;
    for (size_t n : {0, 1, 63, 64, 512, 513, 2777}) {
      std::mt19937 random(7);
      std::normal_distribution<float> normal;
      std::vector<float> x(n), s(n, 0.0f);
      for (float& value : x) value = normal(random);
      ref::Stamp stamp;
      stamp.seed = 0x123456789abcdef;
      stamp.step = 3;
      stamp.rank = 2;
      ref::Bytes payload = ref::encode<float>(direction, stamp, Type::kFp32, x, 1024, &s, nullptr, false);
      ASSERT_EQ(payload.size(), ref::payloadBytes(direction.tree, Type::kFp32, n)) << tree << " n=" << n;
      ASSERT_EQ(0u, payload.size() % 16);
      ref::Decoded<float> got = ref::decodePayload<float>(direction.tree, stamp, Type::kFp32, n, 1024, payload.data());
      for (size_t i = 0; i < n; i++) {
        ASSERT_EQ(0, got.flagged[i]);
        ASSERT_EQ(s[i], x[i] - got.values[i]) << tree << " n=" << n << " i=" << i;
      }
    }
  }
}

TEST(Reference, RotationKeepsTheNorm) {
  ref::Direction direction = ref::parse("rotate(qsgd(levels=32767),block=1024)");
  std::vector<float> x(1024);
  for (size_t i = 0; i < x.size(); i++) x[i] = i == 17 ? 1.0f : 0.0f;
  ref::Bytes payload = ref::encode<float>(direction, {}, Type::kFp32, x, 0, nullptr, nullptr, false);
  ref::Decoded<float> got = ref::decodePayload<float>(direction.tree, {}, Type::kFp32, 1024, 0, payload.data());
  for (size_t i = 0; i < x.size(); i++) EXPECT_NEAR(x[i], got.values[i], 1e-3);
}

}  // namespace
