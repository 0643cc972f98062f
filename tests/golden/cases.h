// The golden payloads: small messages that stand for the format. tests/golden/make writes them, golden_test compares
// the library of today with them, and tests/decode_payload.py decodes them from docs/format.md alone.
#ifndef SLIM_TESTS_GOLDEN_CASES_H_
#define SLIM_TESTS_GOLDEN_CASES_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "compress/compress.h"

namespace golden {

struct Case {
  const char* name;
  const char* tree;
  const char* feedback;  // "none", or "ef": its codecs are fitted
  slimDataType_t type;
  size_t n;
  bool down;
  int nanAt;  // −1: none
};

const Case kCases[] = {
    {"fp32", "fp32", "none", slimFloat32, 21, false, -1},
    {"fp16", "fp16", "none", slimFloat32, 37, false, -1},
    {"bf16", "bf16", "none", slimFloat64, 37, false, -1},
    {"e4m3", "fp8(format=e4m3,block=64)", "none", slimFloat32, 70, false, -1},
    {"e5m2", "fp8(format=e5m2,block=64)", "none", slimFloat16, 70, false, -1},
    {"sign", "sign(scale=0.25)", "none", slimFloat32, 70, false, -1},
    {"onebit", "onebit(block=64)", "ef", slimFloat32, 150, false, 77},
    {"dither", "onebit(dither,f=1.5,block=64)", "none", slimFloat32, 100, true, -1},
    {"ternary", "ternary(norm=2,block=64)", "none", slimFloat32, 100, false, -1},
    {"qsgd4", "qsgd(bits=4,norm=inf,rounding=stochastic,block=64)", "none", slimFloat32, 131, false, -1},
    {"qsgd3", "qsgd(bits=3,norm=2,rounding=stochastic,block=64)", "ef", slimFloat64, 131, false, 5},
    {"levels", "qsgd(levels=256,norm=inf,rounding=nearest,block=64)", "none", slimFloat32, 65, true, -1},
    {"natural", "natural(block=64)", "ef", slimFloat32, 67, false, -1},
    {"dithering", "natural(bits=4,norm=inf,block=64)", "none", slimFloat32, 67, true, -1},
    {"nuqsgd", "nuqsgd(bits=3,block=64)", "ef", slimFloat32, 130, false, -1},
    {"tqsgd", "tqsgd(bits=2,workers=4,block=64)", "none", slimFloat32, 67, false, -1},
    {"tnqsgd", "tnqsgd(bits=3,block=64)", "ef", slimFloat32, 131, true, -1},
    {"tnqsgdpower", "tnqsgd(bits=5,model=powerlaw,block=64)", "none", slimFloat64, 70, false, -1},
    {"tbqsgd", "tbqsgd(bits=4,block=64)", "none", slimFloat32, 130, false, 66},
    {"topk", "topk(k=5,block=64,qsgd(bits=5,norm=inf,rounding=nearest))", "none", slimFloat32, 150, false, -1},
    {"topkall", "topk(k=9,scope=chunk,fp16)", "none", slimFloat32, 101, false, -1},
    {"randk", "randk(k=6,block=64,scale=unbiased,seed=own)", "none", slimFloat32, 150, true, -1},
    {"randkshared", "randk(k=70,scope=chunk,scale=1,seed=shared,onebit(block=64))", "none", slimFloat64, 200, false,
     -1},
    {"rotate", "rotate(onebit(block=64),block=128,signs=redrawn)", "none", slimFloat32, 140, false, -1},
    {"rotatefixed", "rotate(qsgd(bits=2,norm=inf,rounding=stochastic,block=64),block=64,signs=fixed)", "ef",
     slimFloat32, 64, true, -1},
    {"induced", "induced(topk(k=3,block=64),qsgd(bits=3,norm=inf,rounding=stochastic,block=64))", "none", slimFloat32,
     100, false, -1},
    {"ultra", "topk(k=0.5,block=64,fp16)", "ef", slimFloat32, 300, false, -1},
    {"ultraunbiased", "randk(k=0.5,block=64,scale=unbiased)", "none", slimFloat64, 300, true, 70},
    {"ultranothing", "randk(k=0.01,scope=chunk,scale=1,sign)", "none", slimFloat32, 100, false, -1},
    {"ultraone", "topk(k=0.999,scope=chunk,qsgd(bits=8,norm=inf,rounding=nearest))", "ef", slimFloat64, 100, true, -1},
};

const uint64_t kSeed = 0x0123456789abcdef;

inline slimStamp stampOf(const Case& test, uint64_t hash) {
  slimStamp stamp = {};
  stamp.hash = hash;
  stamp.seed = kSeed;
  stamp.step = 0x500000007;
  stamp.slot = 42;
  stamp.rank = 3;
  stamp.down = test.down;
  return stamp;
}

// The same on every machine: integers, scaled by powers of two.
inline std::vector<double> inputOf(const Case& test) {
  std::vector<double> x(test.n);
  for (size_t i = 0; i < x.size(); i++) {
    uint32_t mixed = static_cast<uint32_t>(i + 1) * 2654435761u;
    x[i] = std::ldexp(static_cast<double>(mixed >> 22) - 512, static_cast<int>(i * 5 % 7) - 12);
  }
  return x;
}

struct Result {
  std::vector<uint8_t> payload, expected;  // expected: the decoded elements, of the case's type
};

inline Result run(const Case& test) {
  std::vector<double> values = inputOf(test);
  size_t each = slimTypeBytes(test.type);
  std::vector<uint8_t> x(test.n * each), s(test.n * 8, 0);
  if (test.type == slimFloat64) {
    if (test.nanAt >= 0) values[static_cast<size_t>(test.nanAt)] = NAN;
    std::memcpy(x.data(), values.data(), x.size());
  } else {
    std::vector<float> floats(values.begin(), values.end());
    if (test.nanAt >= 0) floats[static_cast<size_t>(test.nanAt)] = NAN;
    slimFromReal(test.type, floats.data(), test.n, 1, x.data());
  }
  std::string spec = "up=" + std::string(test.feedback) + "(" + test.tree + "); down=none(fp32)";
  slimCompressor* c = nullptr;
  if (slimCompressorCreate(&c, spec.c_str()) != slimSuccess) throw std::runtime_error(slimLastMessage());
  Result result;
  // The hash is a constant here: the printed form of a spec may grow options without touching any other bit.
  slimStamp stamp = stampOf(test, 0x5107cc15107cc151);
  size_t bytes = slimPayloadBytes(c->up.tree, test.type, test.n);
  std::vector<uint64_t> aligned(bytes / 8 + 2);
  uint8_t* payload = reinterpret_cast<uint8_t*>(aligned.data());
  if (reinterpret_cast<uintptr_t>(payload) % 16) payload += 8;
  slimEncodePass encode = {};
  encode.direction = &c->up;
  encode.stamp = stamp;
  encode.type = test.type;
  encode.x = x.data();
  encode.n = test.n;
  encode.first = 8192;
  encode.s = c->up.feedback.memory ? s.data() : nullptr;
  encode.payload = payload;
  if (slimPassEncode(&encode, nullptr) != slimSuccess) throw std::runtime_error(slimLastMessage());
  result.payload.assign(payload, payload + bytes);
  result.expected.resize(x.size());
  slimDecodePass decode = {};
  decode.direction = &c->up;
  decode.stamp = stamp;
  decode.type = test.type;
  decode.n = test.n;
  decode.first = 8192;
  decode.payload = payload;
  decode.y = result.expected.data();
  decode.factor = 1;
  if (slimPassDecode(&decode, nullptr) != slimSuccess) throw std::runtime_error(slimLastMessage());
  slimCompressorDestroy(c);
  return result;
}

// A line of cases.txt, which decode_payload.py reads: name, type, direction, seed, tree.
inline std::string lineOf(const Case& test) {
  const char* type = test.type == slimFloat64 ? "fp64" : test.type == slimFloat16 ? "fp16" : "fp32";
  char seed[32];
  snprintf(seed, sizeof seed, "0x%016llx", static_cast<unsigned long long>(kSeed));
  return std::string(test.name) + " " + type + " " + (test.down ? "down" : "up") + " " + seed + " " + test.tree + "\n";
}

}  // namespace golden

#endif
