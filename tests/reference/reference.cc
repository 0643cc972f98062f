#include "tests/reference/reference.h"

#include <Random123/philox.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <stdexcept>
#include <tuple>

namespace ref {
namespace {

uint32_t bitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

float floatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

uint32_t magnitude(float value) { return bitsOf(value) & 0x7fffffffu; }

size_t ceilDiv(size_t a, size_t b) { return (a + b - 1) / b; }
size_t align16(size_t bytes) { return ceilDiv(bytes, 16) * 16; }

void putBits(Bytes* stream, size_t at, unsigned count, uint32_t value) {
  for (unsigned i = 0; i < count; i++, at++) {
    if (at / 8 < stream->size() && (value >> i & 1)) (*stream)[at / 8] |= static_cast<uint8_t>(1u << at % 8);
  }
}

uint32_t getBits(const Bytes& stream, size_t at, unsigned count) {
  uint32_t value = 0;
  for (unsigned i = 0; i < count; i++, at++) {
    if (at / 8 < stream.size() && (stream[at / 8] >> at % 8 & 1)) value |= 1u << i;
  }
  return value;
}

template <typename T>
void append(Bytes* bytes, T value) {
  for (size_t i = 0; i < sizeof(T); i++) bytes->push_back(static_cast<uint8_t>(static_cast<uint64_t>(value) >> 8 * i));
}

// ---- Randomness (§3) ----------------------------------------------------------------------------------------------

void philox(const Stamp& stamp, Draw kind, int branch, bool allRanks, uint64_t c0, uint32_t words[4]) {
  bool down = stamp.down && !allRanks;
  uint32_t purpose = static_cast<uint32_t>(kind) + 8u * static_cast<uint32_t>(branch) + (down ? 64u : 0u);
  uint32_t rank = allRanks ? 0xffffffu : stamp.rank;
  philox4x32_ctr_t counter = {
      {static_cast<uint32_t>(c0), stamp.slot, static_cast<uint32_t>(stamp.step), rank + purpose * (1u << 24)}};
  philox4x32_key_t key = {{static_cast<uint32_t>(stamp.seed), static_cast<uint32_t>(stamp.seed >> 32)}};
  philox4x32_ctr_t out = philox4x32_R(7, counter, key);
  for (int i = 0; i < 4; i++) words[i] = out.v[i];
}

}  // namespace

uint32_t draw32(const Stamp& stamp, Draw kind, int branch, bool allRanks, uint64_t e) {
  uint32_t w[4];
  philox(stamp, kind, branch, allRanks, e / 4, w);
  return w[e % 4];
}

uint32_t draw16(const Stamp& stamp, Draw kind, int branch, bool allRanks, uint64_t e) {
  uint32_t w[4];
  philox(stamp, kind, branch, allRanks, e / 8, w);
  unsigned h = e % 8;
  return w[h / 2] >> 16 * (h % 2) & 0xffff;
}

uint32_t draw1(const Stamp& stamp, Draw kind, int branch, bool allRanks, uint64_t e) {
  uint32_t w[4];
  philox(stamp, kind, branch, allRanks, e / 128, w);
  return w[e % 128 / 32] >> e % 32 & 1;
}

// ---- Reduction tree (§2) ------------------------------------------------------------------------------------------

float treeSum(const std::vector<float>& values) {
  std::vector<float> columns(128, 0.0f);
  for (size_t row = 0; row * 128 < values.size(); row++) {
    for (size_t j = 0; j < 128; j++) {
      size_t i = row * 128 + j;
      columns[j] = columns[j] + (i < values.size() ? values[i] : 0.0f);
    }
  }
  for (size_t w = 64; w >= 1; w /= 2) {
    for (size_t j = 0; j < w; j++) columns[j] = columns[j] + columns[j + w];
  }
  return columns[0];
}

// ---- Small formats ------------------------------------------------------------------------------------------------

namespace {

// The code of the nearest value of a format with the given mantissa bits, exponent bits and bias: the value is divided
// by the format's step at its magnitude, which is exact in binary64, and rounded to an integer. largest: the greatest
// finite magnitude; what rounds above it becomes overflowCode.
uint32_t roundToFormat(double value, int mantissa, int exponentBits, int bias, double largest, uint32_t overflowCode) {
  uint32_t sign = std::signbit(value) ? 1u << (mantissa + exponentBits) : 0u;
  double size = std::fabs(value);
  if (size == 0) return sign;
  int exponent = std::max(std::ilogb(size), 1 - bias);
  double steps = std::nearbyint(std::scalbn(size, mantissa - exponent));
  if (std::scalbn(steps, exponent - mantissa) > largest) return sign | overflowCode;
  if (steps >= std::scalbn(1.0, mantissa + 1)) {
    steps /= 2;
    exponent++;
  }
  uint32_t whole = static_cast<uint32_t>(steps);
  if (whole < 1u << mantissa) return sign | whole;  // denormal
  return sign | static_cast<uint32_t>(exponent + bias) << mantissa | (whole - (1u << mantissa));
}

double valueOfFormat(uint32_t code, int mantissa, int exponentBits, int bias, bool hasInf) {
  uint32_t field = code >> mantissa & ((1u << exponentBits) - 1);
  uint32_t fraction = code & ((1u << mantissa) - 1);
  double sign = code >> (mantissa + exponentBits) & 1 ? -1.0 : 1.0;
  if (hasInf && field == (1u << exponentBits) - 1) {
    return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  }
  if (field == 0) return sign * std::scalbn(static_cast<double>(fraction), 1 - bias - mantissa);
  return sign *
         std::scalbn(static_cast<double>(fraction + (1u << mantissa)), static_cast<int>(field) - bias - mantissa);
}

}  // namespace

uint16_t toFp16(double value, bool saturate) {
  if (std::isnan(value)) return 0x7e00;
  return static_cast<uint16_t>(roundToFormat(value, 10, 5, 15, 65504.0, saturate ? 0x7bff : 0x7c00));
}

uint16_t toBf16(double value, bool saturate) {
  if (std::isnan(value)) return 0x7fc0;
  return static_cast<uint16_t>(
      roundToFormat(value, 7, 8, 127, std::scalbn(255.0, 127 - 7), saturate ? 0x7f7f : 0x7f80));
}

uint8_t toFp8(double value, bool e5m2) {
  if (e5m2) return static_cast<uint8_t>(roundToFormat(value, 2, 5, 15, 57344.0, 0x7b));
  return static_cast<uint8_t>(roundToFormat(value, 3, 4, 7, 448.0, 0x7e));
}

double fromFp16(uint16_t code) { return valueOfFormat(code, 10, 5, 15, true); }
double fromBf16(uint16_t code) { return valueOfFormat(code, 7, 8, 127, true); }
double fromFp8(uint8_t code, bool e5m2) {
  if (e5m2) return valueOfFormat(code, 2, 5, 15, true);
  if ((code & 0x7f) == 0x7f) return std::numeric_limits<double>::quiet_NaN();
  return valueOfFormat(code, 3, 4, 7, false);
}

size_t typeBytes(Type type) {
  switch (type) {
    case Type::kFp16:
    case Type::kBf16:
      return 2;
    case Type::kFp32:
      return 4;
    case Type::kFp64:
      return 8;
  }
  return 0;
}

template <typename Real>
std::vector<Real> toReal(Type type, const uint8_t* elements, size_t n) {
  std::vector<Real> reals(n);
  for (size_t i = 0; i < n; i++) {
    const uint8_t* at = elements + i * typeBytes(type);
    if (type == Type::kFp32) {
      float value;
      std::memcpy(&value, at, 4);
      reals[i] = value;
    } else if (type == Type::kFp64) {
      double value;
      std::memcpy(&value, at, 8);
      reals[i] = static_cast<Real>(value);
    } else {
      uint16_t code;
      std::memcpy(&code, at, 2);
      reals[i] = static_cast<Real>(type == Type::kFp16 ? fromFp16(code) : fromBf16(code));
    }
  }
  return reals;
}

template <typename Real>
void fromReal(Type type, Real value, uint8_t* element) {
  if (type == Type::kFp32) {
    float out = static_cast<float>(value);
    uint32_t bits = std::isnan(out) ? 0x7fc00000u : bitsOf(out);
    std::memcpy(element, &bits, 4);
  } else if (type == Type::kFp64) {
    double out = value;
    uint64_t bits;
    std::memcpy(&bits, &out, 8);
    if (std::isnan(out)) bits = 0x7ff8000000000000u;
    std::memcpy(element, &bits, 8);
  } else {
    uint16_t code = type == Type::kFp16 ? toFp16(value, false) : toBf16(value, false);
    std::memcpy(element, &code, 2);
  }
}

uint32_t canonicalNan32() { return 0x7fc00000u; }

// ---- Blocks (§5) --------------------------------------------------------------------------------------------------

namespace {

// Where a node stands: which draws it makes.
struct Place {
  Stamp stamp;
  int branch = 0;
  float common = 0;             // lambda=shared: λ, if it is known
  const Kept* shape = nullptr;  // stats=tensor, stats=previous
};

bool isLeaf(const Node& node) {
  return node.kind != Kind::kInduced && node.kind != Kind::kTopk && node.kind != Kind::kRandk &&
         node.kind != Kind::kRotate;
}

bool hasScale(const Node& leaf) {
  return leaf.kind == Kind::kFp8 || leaf.kind == Kind::kOnebit || leaf.kind == Kind::kQsgd ||
         leaf.kind == Kind::kNatural || leaf.kind == Kind::kPowers || leaf.kind == Kind::kTruncated;
}

bool hasTable(const Node& leaf) { return leaf.kind == Kind::kTruncated && leaf.powerlaw; }

std::vector<unsigned> streamsOf(const Node& leaf) {
  switch (leaf.kind) {
    case Kind::kFp32:
      return {32};
    case Kind::kFp16:
    case Kind::kBf16:
      return {16};
    case Kind::kFp8:
      return {8};
    case Kind::kSign:
    case Kind::kOnebit:
      return {1};
    case Kind::kQsgd:
    case Kind::kPowers:
    case Kind::kTruncated:
      return {leaf.bits};
    case Kind::kNatural:
      return {1, 8};
    default:
      throw std::logic_error("not a leaf");
  }
}

// The root of a rising function, to the last bit.
double rootOf(double low, double high, const std::function<double(double)>& rising) {
  for (int i = 0; i < 200; i++) {
    double middle = low + (high - low) / 2;
    (rising(middle) < 0 ? low : high) = middle;
  }
  return high;
}

// A power law's levels for one of its 256 tables.
std::vector<double> powerLevels(const Node& leaf, uint32_t table) {
  double gamma = 3 + (table % 32 + 1) / 16.0, mu = std::exp2(-2 - (table / 32) / 2.0);
  size_t h = size_t{1} << (leaf.bits - 1);
  double s = 2.0 * static_cast<double>(h) - 1;
  auto within = [=](double x) { return x <= 1 ? (1 - mu) * x : 1 - mu * std::pow(x, 1 - gamma); };
  double inner = std::cbrt((1 - mu) / 2), outer = std::cbrt(mu * (gamma - 1) / 2);
  auto root = [=](double x) {
    double r = inner * std::min(x, 1.0);
    if (x > 1) r += outer * (1 - std::pow(x, 1 - gamma / 3)) / (gamma / 3 - 1);
    return r;
  };
  auto quality = [&](double a) {
    if (!leaf.biscaled && !leaf.nonuniform) return within(a);
    if (leaf.nonuniform) return 2 * std::pow(root(a), 3) / (a * a);
    double least = std::numeric_limits<double>::infinity();
    for (double k = 0.125; k < 1; k += 0.125) {
      double i = std::cbrt(within(k * a) * k * k), o = std::cbrt((within(a) - within(k * a)) * (1 - k) * (1 - k));
      least = std::min(least, std::pow(i + o, 3));
    }
    return least;
  };
  auto rising = [&](double a) { return std::pow(a, gamma - 1) * quality(a) - mu * s * s * leaf.workers / (gamma - 2); };
  double a = rising(1) >= 0 ? 1 : rising(4096) <= 0 ? 4096 : rootOf(1, 4096, rising);
  double k = 0, inside = 0, least = std::numeric_limits<double>::infinity();  // tbqsgd's
  for (double part = 1 / 32.0; part < 1; part += 1 / 32.0) {
    for (double i = 1; i <= s - 2; i += 2) {
      double variance = within(part * a) * part * part / (i * i) +
                        (within(a) - within(part * a)) * (1 - part) * (1 - part) / ((s - i) * (s - i));
      if (variance >= least * (1 - 1e-9)) continue;
      least = variance;
      k = part;
      inside = i;
    }
  }
  std::vector<double> levels(h);
  for (size_t j = 0; j < h; j++) {
    double i = 2.0 * static_cast<double>(j) + 1;
    levels[j] = i / s * a;
    if (leaf.biscaled) {
      levels[j] = i <= inside ? i / inside * k * a : k * a + (i - inside) / (s - inside) * (a - k * a);
    }
    if (leaf.nonuniform) {
      double y = i / s * root(a);
      levels[j] = y <= inner ? y / inner : std::pow(1 - (y - inner) * (gamma / 3 - 1) / outer, 1 / (1 - gamma / 3));
    }
  }
  return levels;
}

std::vector<double> laplaceLevels(const Node& leaf) {
  size_t h = size_t{1} << (leaf.bits - 1);
  double s = 2.0 * static_cast<double>(h) - 1, a = 3 * std::log(1 + s * std::sqrt(6 * leaf.workers) / 9);
  if (!leaf.nonuniform) {
    a = rootOf(0, 100, [&](double x) { return x * std::exp(x) - s * s * leaf.workers; });
  }
  std::vector<double> levels(h);
  for (size_t j = 0; j < h; j++) {
    double u = (2.0 * static_cast<double>(j) + 1) / s;
    levels[j] = leaf.nonuniform ? -3 * std::log(1 - u * (1 - std::exp(-a / 3))) : u * a;
  }
  return levels;
}

// tqsgd, tbqsgd, tnqsgd: the positive levels of a table (§5).
const std::vector<float>& truncatedLevels(const Node& leaf, uint32_t table) {
  static std::map<std::tuple<bool, bool, bool, uint32_t, double, uint32_t>, std::vector<float>> known;
  static std::mutex lock;
  std::lock_guard<std::mutex> hold(lock);
  std::vector<float>& levels = known[{leaf.biscaled, leaf.nonuniform, leaf.powerlaw, leaf.bits, leaf.workers, table}];
  if (levels.empty()) {
    for (double level : leaf.powerlaw ? powerLevels(leaf, table) : laplaceLevels(leaf)) {
      levels.push_back(static_cast<float>(level));
    }
  }
  return levels;
}

// Of magnitudes over g_min: how many are above 1, and the sum of their logarithms.
struct Tail {
  double count = 0, logs = 0;
};
Tail tailOf(const std::vector<float>& sizes) {
  Tail tail;
  std::vector<float> logs(sizes.size());
  for (size_t i = 0; i < sizes.size(); i++) {
    if (!(sizes[i] > 1)) continue;
    tail.count++;
    int k = std::ilogb(sizes[i]);
    float f = std::ldexp(sizes[i], -k) - 1.0f;
    float bend = f * (1.0f - f) * (0.421875f - 0.15625f * f);
    logs[i] = (static_cast<float>(k) + f) + bend;
  }
  tail.logs = treeSum(logs);
  return tail;
}

uint32_t tableOf(const Tail& tail, double nv) {
  double exponent = 64;
  if (tail.logs > 0) exponent = std::floor(16 * tail.count / (0.6931471805599453 * tail.logs) + 0.5);
  uint32_t e = static_cast<uint32_t>(std::min(std::max(exponent, 33.0), 64.0)) - 33, m = 0;
  double share = tail.count / nv;
  for (int i = -9; i >= -21; i -= 2) m += share * share * share * share < std::ldexp(1.0, i);
  return 32 * m + e;
}

// One block of a codec: its scale (if it has one) and a code an element in each of its streams.
struct Block {
  float scale = 0;
  uint32_t table = 0;  // of a power law
  std::vector<std::vector<uint32_t>> codes;
  bool overflow = false;
};

int exponentOf(const std::vector<float>& v) {
  uint32_t largest = 0;
  for (float x : v) largest = std::max(largest, magnitude(x));
  return std::max(static_cast<int>(largest >> 23), 1) - 127;
}

float decodeElement(const Node& leaf, float scale, uint32_t table, uint32_t code, uint32_t code2) {
  switch (leaf.kind) {
    case Kind::kFp32:
      return floatOf(code);
    case Kind::kFp16:
      return static_cast<float>(fromFp16(static_cast<uint16_t>(code)));
    case Kind::kBf16:
      return static_cast<float>(fromBf16(static_cast<uint16_t>(code)));
    case Kind::kFp8:
      return static_cast<float>(fromFp8(static_cast<uint8_t>(code), leaf.e5m2)) * scale;
    case Kind::kSign:
      return code ? -leaf.signScale : leaf.signScale;
    case Kind::kOnebit:
      return code ? -scale : scale;
    case Kind::kQsgd:
      return static_cast<float>(static_cast<int>(code) - static_cast<int>(leaf.levels)) * scale;
    case Kind::kPowers: {
      int k = static_cast<int>(code) - static_cast<int>(leaf.levels);
      float size = k ? std::ldexp(1.0f, std::abs(k) - static_cast<int>(leaf.levels)) : 0.0f;
      return (k < 0 ? -size : size) * scale;
    }
    case Kind::kTruncated: {
      const std::vector<float>& levels = truncatedLevels(leaf, table);
      size_t h = levels.size();
      return code >= h ? levels[code - h] * scale : -(levels[h - 1 - code] * scale);
    }
    case Kind::kNatural: {
      float size = floatOf(code2 << 23);
      return (code ? -size : size) * scale;
    }
    default:
      throw std::logic_error("not a leaf");
  }
}

// The bit of one dithered value.
uint32_t dithered(float w, float lambda, uint64_t e, const Place& place) {
  int d = static_cast<int>(draw16(place.stamp, kDither, place.branch, false, e));
  float t = std::ldexp(static_cast<float>(2 * d - 65535), -16);
  return w + lambda * t < 0;
}

// v: a block, nv of it valid, the others zero. e0: what counts the draw of v[0].
Block encodeBlock(const Node& leaf, const std::vector<float>& v, size_t nv, uint64_t e0, const Place& place) {
  Block block;
  block.codes.assign(streamsOf(leaf).size(), std::vector<uint32_t>(v.size(), 0));
  std::vector<uint32_t>& codes = block.codes[0];

  if (leaf.kind == Kind::kFp32 || leaf.kind == Kind::kFp16 || leaf.kind == Kind::kBf16 || leaf.kind == Kind::kSign) {
    for (size_t i = 0; i < v.size(); i++) {
      if (leaf.kind == Kind::kFp32) codes[i] = bitsOf(v[i]);
      if (leaf.kind == Kind::kFp16) codes[i] = toFp16(v[i], true);
      if (leaf.kind == Kind::kBf16) codes[i] = toBf16(v[i], true);
      if (leaf.kind == Kind::kSign) codes[i] = v[i] < 0;
    }
    return block;
  }

  uint32_t largest = 0;
  for (float x : v) largest = std::max(largest, magnitude(x));
  bool fixedLambda = leaf.kind == Kind::kOnebit && leaf.dither && leaf.lambda == Node::kFixed;
  int e = fixedLambda ? 0 : exponentOf(v);  // p = 1
  bool means = leaf.kind == Kind::kOnebit && !leaf.dither && !leaf.unbiasedScale;
  if (means && largest >= bitsOf(std::ldexp(1.0f, -60)) && largest < bitsOf(std::ldexp(1.0f, 60))) e = 0;
  if (place.shape) e = exponentOf(std::vector<float>{place.shape->mean});
  float p = std::ldexp(1.0f, -e);
  std::vector<float> w(v.size());
  for (size_t i = 0; i < v.size(); i++) w[i] = v[i] * p;
  std::vector<float> sizes(v.size()), squares(v.size());
  for (size_t i = 0; i < v.size(); i++) {
    sizes[i] = std::fabs(w[i]);
    squares[i] = w[i] * w[i];
  }
  float maximum = *std::max_element(sizes.begin(), sizes.end());

  if (place.common > 0) {
    for (size_t i = 0; i < v.size(); i++) codes[i] = dithered(v[i], place.common, e0 + i, place);
    block.scale =
        largest == 0 ? 0 : leaf.f * std::sqrt(treeSum(squares) / static_cast<float>(nv)) * std::ldexp(1.0f, e);
    block.overflow = !std::isfinite(block.scale);
    return block;
  }

  if (largest == 0 || (place.shape && place.shape->mean == 0)) {  // stored scale 0, codes of zero
    for (size_t i = 0; i < v.size(); i++) {
      if (leaf.kind == Kind::kQsgd || leaf.kind == Kind::kPowers) codes[i] = leaf.levels;
      if (leaf.kind == Kind::kFp8) codes[i] = toFp8(v[i], leaf.e5m2);  // −0 stays −0
    }
    return block;
  }

  float stored = 0;            // before 2^e
  float largestDecodable = 0;  // before the scale
  std::vector<float> q(v.size());

  if (leaf.kind == Kind::kFp8) {
    stored = std::ldexp(1.0f, leaf.e5m2 ? -14 : -7);
    largestDecodable = std::ldexp(1.0f, leaf.e5m2 ? 15 : 8);
    for (size_t i = 0; i < v.size(); i++) codes[i] = toFp8(static_cast<double>(w[i]) / stored, leaf.e5m2);
  } else if (leaf.kind == Kind::kOnebit) {
    largestDecodable = 1;
    if (!leaf.dither) {
      for (size_t i = 0; i < v.size(); i++) codes[i] = v[i] < 0;
      stored = leaf.unbiasedScale ? treeSum(squares) / treeSum(sizes) : treeSum(sizes) / static_cast<float>(nv);
    } else {
      float lambda = leaf.lambdaValue;
      if (leaf.lambda == Node::kF || leaf.lambda == Node::kShared)
        lambda = leaf.f * std::sqrt(treeSum(squares) / static_cast<float>(nv));
      if (leaf.lambda == Node::kInf) lambda = maximum;
      for (size_t i = 0; i < v.size(); i++) codes[i] = dithered(w[i], lambda, e0 + i, place);
      stored = lambda;
    }
    for (size_t i = 0; i < v.size(); i++) q[i] = i < nv ? (codes[i] ? -1.0f : 1.0f) : 0.0f;
  } else if (leaf.kind == Kind::kQsgd) {
    float levels = static_cast<float>(leaf.levels);
    largestDecodable = levels;
    float m = leaf.norm2 ? std::sqrt(treeSum(squares)) : maximum;
    float r = levels / m;
    for (size_t i = 0; i < v.size(); i++) {
      float a = sizes[i] * r;
      float k;
      if (leaf.nearest) {
        k = std::min(std::floor(a + 0.5f), levels);
      } else {
        float k0 = std::floor(a);
        float y;
        if (leaf.norm2) {
          uint32_t d = draw32(place.stamp, kDither, place.branch, false, e0 + i) >> 8;
          y = (static_cast<float>(d) + 0.5f) * std::ldexp(1.0f, -24);
        } else {
          uint32_t d = draw16(place.stamp, kDither, place.branch, false, e0 + i);
          y = (static_cast<float>(d) + 0.5f) * std::ldexp(1.0f, -16);
        }
        k = std::min(k0 + (y < a - k0 ? 1.0f : 0.0f), levels);
      }
      q[i] = v[i] < 0 ? -k : k;
      codes[i] = static_cast<uint32_t>(static_cast<int>(q[i]) + static_cast<int>(leaf.levels));
    }
    stored = m / levels;
  } else if (leaf.kind == Kind::kPowers) {
    int levels = static_cast<int>(leaf.levels);
    largestDecodable = 1;
    stored = leaf.norm2 ? std::sqrt(treeSum(squares)) : maximum;
    float r = 1.0f / stored;
    for (size_t i = 0; i < v.size(); i++) {
      float a = sizes[i] * r * std::ldexp(1.0f, levels - 1), y;
      uint32_t fraction;
      if (leaf.norm2) {
        uint32_t d = draw32(place.stamp, kDither, place.branch, false, e0 + i);
        y = (static_cast<float>(d >> 8) + 0.5f) * std::ldexp(1.0f, -24);
        fraction = d >> 9;
      } else {
        uint32_t d = draw16(place.stamp, kDither, place.branch, false, e0 + i);
        y = (static_cast<float>(d) + 0.5f) * std::ldexp(1.0f, -16);
        fraction = 128 * d + 64;
      }
      int k = y < a ? 1 : 0;
      if (a >= 1) k = std::min(static_cast<int>((bitsOf(a) + fraction) >> 23) - 126, levels);
      codes[i] = static_cast<uint32_t>(v[i] < 0 ? levels - k : levels + k);
      q[i] = decodeElement(leaf, 1, 0, codes[i], 0);
    }
  } else if (leaf.kind == Kind::kTruncated) {
    stored = place.shape ? place.shape->mean * p : treeSum(sizes) / static_cast<float>(nv);
    if (leaf.powerlaw) stored = 2.0f * stored;
    float r = 1.0f / stored;
    if (leaf.powerlaw && !place.shape) {
      std::vector<float> over(v.size());
      for (size_t i = 0; i < v.size(); i++) over[i] = std::fabs(w[i] * r);
      block.table = tableOf(tailOf(over), static_cast<double>(nv));
    }
    if (place.shape) block.table = place.shape->table;
    const std::vector<float>& levels = truncatedLevels(leaf, block.table);
    size_t h = levels.size();
    largestDecodable = levels.back();
    for (size_t i = 0; i < v.size(); i++) {
      float a = std::fabs(w[i] * r);
      size_t j = 0;
      while (j + 1 < h && a >= levels[j]) j++;
      float low = j ? levels[j - 1] : -levels[0];
      uint32_t d = draw16(place.stamp, kDither, place.branch, false, e0 + i);
      float y = (static_cast<float>(d) + 0.5f) * std::ldexp(1.0f, -16);
      size_t m = j + (y * (levels[j] - low) < a - low ? 1 : 0);
      codes[i] = static_cast<uint32_t>(w[i] * r < 0 ? h - m : h - 1 + m);
      q[i] = i < nv ? decodeElement(leaf, 1, block.table, codes[i], 0) : 0;
    }
  } else {  // natural
    largestDecodable = 2;
    stored = 1;
    for (size_t i = 0; i < v.size(); i++) {
      uint32_t d = draw16(place.stamp, kDither, place.branch, false, e0 + i);
      uint32_t exponent = (bitsOf(sizes[i]) + 128 * d + 64) >> 23;
      block.codes[1][i] = exponent;
      codes[i] = v[i] < 0 && exponent > 0;
      q[i] = codes[i] ? -floatOf(exponent << 23) : floatOf(exponent << 23);
    }
  }

  if (leaf.fit) {
    std::vector<float> wq(v.size()), qq(v.size());
    for (size_t i = 0; i < v.size(); i++) {
      wq[i] = w[i] * q[i];
      qq[i] = q[i] * q[i];
    }
    float below = treeSum(qq);
    stored = below == 0 ? 0.0f : treeSum(wq) / below;
  }
  block.scale = stored * std::ldexp(1.0f, e);
  if (fixedLambda && !leaf.fit) block.scale = leaf.lambdaValue;
  block.overflow = !std::isfinite(block.scale) || !std::isfinite(largestDecodable * block.scale);
  return block;
}

// ---- Trees of a unit (§4, §6) ------------------------------------------------------------------------------------

// What a unit adds to each section.
struct Unit {
  std::vector<Bytes> sections;
  std::vector<float> decoded;
  bool overflow = false;
  bool nothing = false;  // a piece-wide selector with k below 1 sends nothing
};

uint64_t selected(const Node& node, uint64_t of) {
  uint64_t k = node.k ? node.k : std::max<uint64_t>(1, static_cast<uint64_t>(std::floor(node.ratio * of + 0.5)));
  return std::min(k, of);
}

unsigned log2Of(size_t power) {
  unsigned log = 0;
  while (size_t{1} << log < power) log++;
  return log;
}

// Bytes that a unit of `size` elements, nv of them valid, adds to each section. whole: below rotate or a selector.
std::vector<size_t> sectionBytes(const Node& node, size_t size, size_t nv, bool whole) {
  std::vector<size_t> bytes;
  auto addBlocks = [&bytes](size_t blocks, const std::vector<size_t>& each) {
    for (size_t b : each) bytes.push_back(blocks * b);
  };
  switch (node.kind) {
    case Kind::kInduced:
      for (const Node& child : node.children) {
        for (size_t b : sectionBytes(child, size, nv, whole)) bytes.push_back(b);
      }
      break;
    case Kind::kRotate: {
      size_t stretch = std::max(node.block, unitOf(node.children[0]));
      addBlocks(size / stretch, sectionBytes(node.children[0], stretch, stretch, true));
    } break;
    case Kind::kTopk:
    case Kind::kRandk:
      if (node.scope == Scope::kBlock) {
        size_t k = selected(node, node.block);
        Node inner = node.children[0];
        inner.block = k;
        if (node.kind == Kind::kTopk) bytes.push_back(size / node.block * ceilDiv(k * log2Of(node.block), 8));
        if (node.chance < 1) bytes.push_back(size / node.block);
        addBlocks(size / node.block, sectionBytes(inner, k, k, true));
      } else {
        size_t k = selected(node, nv);
        const Node& inner = node.children[0];
        if (node.kind == Kind::kTopk) bytes.push_back(4 * k);
        for (size_t b : sectionBytes(inner, ceilDiv(k, inner.block) * inner.block, k, false)) bytes.push_back(b);
      }
      break;
    default:
      if (hasScale(node)) bytes.push_back(4 * ceilDiv(size, node.block));
      if (hasTable(node)) bytes.push_back(ceilDiv(size, node.block));
      for (unsigned bits : streamsOf(node)) bytes.push_back(ceilDiv((whole ? size : nv) * bits, 8));
  }
  return bytes;
}

std::vector<Bytes> emptySections(const Node& node, size_t size, size_t nv, bool whole) {
  std::vector<Bytes> sections;
  for (size_t bytes : sectionBytes(node, size, nv, whole)) sections.emplace_back(bytes, uint8_t{0});
  return sections;
}

// The elements that a selector takes of nv, in index order. e0: the virtual index of the first.
std::vector<size_t> select(const Node& node, const std::vector<float>& v, size_t nv, size_t k, uint64_t e0,
                           const Place& place) {
  std::vector<size_t> order(nv);
  std::vector<uint32_t> key(nv);
  for (size_t i = 0; i < nv; i++) {
    order[i] = i;
    key[i] = node.kind == Kind::kTopk ? 0x7fffffffu - magnitude(v[i])
                                      : draw32(place.stamp, kIndex, place.branch, node.shared, e0 + i);
  }
  std::sort(order.begin(), order.end(),
            [&key](size_t i, size_t j) { return key[i] != key[j] ? key[i] < key[j] : i < j; });
  order.resize(std::min(k, nv));
  std::sort(order.begin(), order.end());
  return order;
}

Unit encodeUnit(const Node& node, const std::vector<float>& v, size_t nv, uint64_t e0, const Place& place, bool whole);
std::vector<float> decodeUnit(const Node& node, const std::vector<Bytes>& sections, size_t size, size_t nv, uint64_t e0,
                              const Place& place);

Unit encodeLeaf(const Node& leaf, const std::vector<float>& v, size_t nv, uint64_t e0, const Place& place, bool whole) {
  Unit unit;
  unit.sections = emptySections(leaf, v.size(), nv, whole);
  std::vector<unsigned> streams = streamsOf(leaf);
  size_t firstStream = (hasScale(leaf) ? 1 : 0) + (hasTable(leaf) ? 1 : 0);
  for (size_t start = 0; start < v.size(); start += leaf.block) {
    size_t size = std::min(leaf.block, v.size() - start);
    std::vector<float> values(v.begin() + start, v.begin() + start + size);
    size_t valid = nv < start ? 0 : std::min(nv - start, size);
    Block block = encodeBlock(leaf, values, valid, e0 + start, place);
    unit.overflow = unit.overflow || block.overflow;
    if (hasScale(leaf)) std::memcpy(&unit.sections[0][4 * (start / leaf.block)], &block.scale, 4);
    if (hasTable(leaf)) unit.sections[1][start / leaf.block] = static_cast<uint8_t>(block.table);
    for (size_t s = 0; s < streams.size(); s++) {
      for (size_t i = 0; i < size; i++) {
        putBits(&unit.sections[firstStream + s], (start + i) * streams[s], streams[s], block.codes[s][i]);
      }
    }
    for (size_t i = 0; i < size; i++) {
      unit.decoded.push_back(
          decodeElement(leaf, block.scale, block.table, block.codes[0][i], streams.size() > 1 ? block.codes[1][i] : 0));
    }
  }
  return unit;
}

std::vector<float> decodeLeaf(const Node& leaf, const std::vector<Bytes>& sections, size_t size, const Place& place) {
  std::vector<unsigned> streams = streamsOf(leaf);
  size_t firstStream = (hasScale(leaf) ? 1 : 0) + (hasTable(leaf) ? 1 : 0);
  std::vector<float> decoded(size);
  for (size_t i = 0; i < size; i++) {
    float scale = 0;
    if (hasScale(leaf)) std::memcpy(&scale, &sections[0][4 * (i / leaf.block)], 4);
    if (place.common > 0) scale = place.common;
    uint32_t code[2] = {0, 0};
    for (size_t s = 0; s < streams.size(); s++) {
      code[s] = getBits(sections[firstStream + s], i * streams[s], streams[s]);
    }
    decoded[i] = decodeElement(leaf, scale, hasTable(leaf) ? sections[1][i / leaf.block] : 0, code[0], code[1]);
  }
  return decoded;
}

void butterflies(std::vector<float>* w, float times) {
  for (size_t stride = 1; stride < w->size(); stride *= 2) {
    for (size_t i = 0; i < w->size(); i++) {
      if (i / stride % 2) continue;
      float a = (*w)[i], b = (*w)[i + stride];
      (*w)[i] = a + b;
      (*w)[i + stride] = a - b;
    }
  }
  float c = static_cast<float>(std::pow(2.0, -0.5 * log2Of(w->size()))) * times;
  for (float& x : *w) x = x * c;
}

void flipSigns(const Node& node, const Place& place, uint64_t e0, std::vector<float>* w) {
  Stamp stamp = place.stamp;
  if (node.fixedSigns) stamp.step = 0;
  for (size_t i = 0; i < w->size(); i++) {
    if (draw1(stamp, kRotation, place.branch, true, e0 + i)) (*w)[i] = -(*w)[i];
  }
}

void appendSections(std::vector<Bytes>* to, const std::vector<Bytes>& from) {
  if (to->empty()) to->resize(from.size());
  for (size_t s = 0; s < from.size(); s++) (*to)[s].insert((*to)[s].end(), from[s].begin(), from[s].end());
}

// Takes each section's next bytes for one stretch.
std::vector<Bytes> takeSections(const std::vector<Bytes>& sections, size_t firstSection,
                                const std::vector<size_t>& bytes, size_t index) {
  std::vector<Bytes> taken;
  for (size_t s = 0; s < bytes.size(); s++) {
    const Bytes& section = sections[firstSection + s];
    taken.emplace_back(section.begin() + index * bytes[s], section.begin() + (index + 1) * bytes[s]);
  }
  return taken;
}

// The stretch that rotate scales together: its own block or the inner codec's, whichever is larger.
size_t stretchOf(const Node& rotate) { return std::max(rotate.block, unitOf(rotate.children[0])); }

// times: 2^e on the way forward.
void transform(const Node& node, const Place& place, uint64_t e0, bool forward, float times, std::vector<float>* w) {
  if (forward) flipSigns(node, place, e0, w);
  for (size_t start = 0; start < w->size(); start += node.block) {
    std::vector<float> block(w->begin() + start, w->begin() + start + node.block);
    butterflies(&block, times);
    std::copy(block.begin(), block.end(), w->begin() + start);
  }
  if (!forward) flipSigns(node, place, e0, w);
}

Unit encodeRotate(const Node& node, const std::vector<float>& v, uint64_t e0, const Place& place) {
  Unit unit;
  size_t stretch = stretchOf(node);
  for (size_t start = 0; start < v.size(); start += stretch) {
    std::vector<float> w(v.begin() + start, v.begin() + start + stretch);
    int e = exponentOf(w);
    if (e >= 100) unit.overflow = true;
    for (float& x : w) x = x * std::ldexp(1.0f, -e);
    transform(node, place, e0 + start, true, std::ldexp(1.0f, e), &w);
    Unit inner = encodeUnit(node.children[0], w, w.size(), e0 + start, place, true);
    unit.overflow = unit.overflow || inner.overflow;
    appendSections(&unit.sections, inner.sections);
    transform(node, place, e0 + start, false, 1, &inner.decoded);
    unit.decoded.insert(unit.decoded.end(), inner.decoded.begin(), inner.decoded.end());
  }
  return unit;
}

std::vector<float> decodeRotate(const Node& node, const std::vector<Bytes>& sections, size_t size, uint64_t e0,
                                const Place& place) {
  std::vector<float> decoded;
  const Node& child = node.children[0];
  size_t stretch = stretchOf(node);
  std::vector<size_t> bytes = sectionBytes(child, stretch, stretch, true);
  for (size_t start = 0; start < size; start += stretch) {
    std::vector<float> w =
        decodeUnit(child, takeSections(sections, 0, bytes, start / stretch), stretch, stretch, e0 + start, place);
    transform(node, place, e0 + start, false, 1, &w);
    decoded.insert(decoded.end(), w.begin(), w.end());
  }
  return decoded;
}

float gainOf(const Node& node, size_t nv, size_t k) {
  if (node.kind == Kind::kTopk || !node.unbiased || k == 0) return 1;
  return static_cast<float>(nv) / (node.chance < 1 ? static_cast<float>(node.chance) : static_cast<float>(k));
}

// k below 1: whether a block sends its value. first: its virtual index.
bool sends(const Node& node, size_t nv, uint64_t first, const Place& place) {
  if (node.chance >= 1) return true;
  bool shared = node.kind == Kind::kRandk && node.shared;
  return nv > 0 && std::ldexp(draw32(place.stamp, kCoin, place.branch, shared, first + 1), -32) < node.chance;
}

Unit encodeSelector(const Node& node, const std::vector<float>& v, size_t nv, uint64_t e0, const Place& place) {
  Unit unit;
  unit.decoded.assign(v.size(), 0.0f);
  size_t firstInner = (node.kind == Kind::kTopk ? 1 : 0) + (node.chance < 1 && node.scope == Scope::kBlock ? 1 : 0);

  auto values = [&](const std::vector<size_t>& indices, size_t start, size_t size, size_t valid) {
    std::vector<float> picked(size, 0.0f);
    for (size_t j = 0; j < indices.size(); j++) {
      picked[j] = v[start + indices[j]];
      if (node.unbiased) picked[j] = picked[j] * gainOf(node, valid, indices.size());
      if (!std::isfinite(picked[j])) unit.overflow = true;
    }
    return picked;
  };

  if (node.scope != Scope::kBlock) {
    if (!sends(node, nv, e0, place)) {
      unit.sections = emptySections(node, v.size(), nv, false);
      unit.nothing = true;
      return unit;
    }
    size_t k = selected(node, nv);
    std::vector<size_t> indices = select(node, v, nv, k, e0, place);
    const Node& inner = node.children[0];
    Unit below = encodeUnit(inner, values(indices, 0, ceilDiv(k, inner.block) * inner.block, nv), k, e0, place, false);
    if (node.kind == Kind::kTopk) {
      unit.sections.emplace_back();
      for (size_t i : indices) append<uint32_t>(&unit.sections[0], static_cast<uint32_t>(i));
    }
    for (const Bytes& section : below.sections) unit.sections.push_back(section);
    for (size_t j = 0; j < k; j++) unit.decoded[indices[j]] = below.decoded[j];
    unit.overflow = unit.overflow || below.overflow;
    return unit;
  }

  size_t k = selected(node, node.block);
  uint64_t drawsEach = ceilDiv(k, 8) * 8;
  Node inner = node.children[0];
  inner.block = drawsEach;
  unit.sections.assign(sectionBytes(node, node.block, node.block, false).size(), Bytes());
  for (size_t start = 0; start < v.size(); start += node.block) {
    size_t valid = nv < start ? 0 : std::min(nv - start, node.block);
    if (!sends(node, valid, e0 + start, place)) {
      appendSections(&unit.sections, emptySections(node, node.block, valid, false));
      continue;
    }
    std::vector<float> block(v.begin() + start, v.begin() + start + node.block);
    std::vector<size_t> indices = select(node, block, valid, k, e0 + start, place);
    // Coded as K values, the last K − k zero; the code sections keep the bytes of k.
    Unit below = encodeUnit(inner, values(indices, start, drawsEach, valid), indices.size(),
                            (e0 + start) / node.block * drawsEach, place, true);
    std::vector<size_t> kept = sectionBytes(inner, k, k, true);
    for (size_t s = 0; s < kept.size(); s++) below.sections[s].resize(kept[s]);
    if (node.kind == Kind::kTopk) {
      unsigned bits = log2Of(node.block);
      Bytes stream(ceilDiv(k * bits, 8), 0);
      for (size_t j = 0; j < indices.size(); j++) putBits(&stream, j * bits, bits, static_cast<uint32_t>(indices[j]));
      unit.sections[0].insert(unit.sections[0].end(), stream.begin(), stream.end());
    }
    if (node.chance < 1) unit.sections[firstInner - 1].push_back(1);
    for (size_t s = 0; s < below.sections.size(); s++) {
      Bytes& to = unit.sections[firstInner + s];
      to.insert(to.end(), below.sections[s].begin(), below.sections[s].end());
    }
    for (size_t j = 0; j < indices.size(); j++) unit.decoded[start + indices[j]] = below.decoded[j];
    unit.overflow = unit.overflow || below.overflow;
  }
  return unit;
}

std::vector<float> decodeSelector(const Node& node, const std::vector<Bytes>& sections, size_t size, size_t nv,
                                  uint64_t e0, const Place& place) {
  std::vector<float> decoded(size, 0.0f);
  bool pieceWide = node.scope != Scope::kBlock;
  size_t firstInner = (node.kind == Kind::kTopk ? 1 : 0) + (node.chance < 1 && !pieceWide ? 1 : 0);
  size_t blockSize = pieceWide ? size : node.block;
  size_t k = selected(node, pieceWide ? nv : node.block);
  Node inner = node.children[0];
  if (!pieceWide) inner.block = k;
  size_t innerSize = pieceWide ? ceilDiv(k, inner.block) * inner.block : k;
  std::vector<size_t> innerBytes = sectionBytes(inner, innerSize, k, !pieceWide);
  for (size_t start = 0; start < size; start += blockSize) {
    size_t valid = nv < start ? 0 : std::min(nv - start, blockSize);
    size_t count = std::min(k, valid);
    size_t index = start / blockSize;
    if (node.chance < 1 && !pieceWide && sections[firstInner - 1][index] == 0) continue;
    std::vector<size_t> indices;
    if (node.kind == Kind::kRandk) {
      indices = select(node, {}, valid, k, e0 + start, place);
    } else {
      unsigned bits = pieceWide ? 32 : log2Of(node.block);
      Bytes stream = takeSections(sections, 0, {ceilDiv(k * bits, 8)}, index)[0];
      for (size_t j = 0; j < count; j++) indices.push_back(getBits(stream, j * bits, bits));
    }
    std::vector<float> values =
        decodeUnit(inner, takeSections(sections, firstInner, innerBytes, index), innerSize, count, 0, place);
    for (size_t j = 0; j < count; j++) decoded[start + indices[j]] = values[j];
  }
  return decoded;
}

Unit encodeInduced(const Node& node, const std::vector<float>& v, size_t nv, uint64_t e0, const Place& place,
                   bool whole) {
  Place c = place, q = place;
  c.branch = 1;
  q.branch = 2;
  Unit unit = encodeUnit(node.children[0], v, nv, e0, c, whole);
  std::vector<float> rest(v.size(), 0.0f);
  for (size_t i = 0; i < nv; i++) rest[i] = v[i] - unit.decoded[i];
  Unit second = encodeUnit(node.children[1], rest, nv, e0, q, whole);
  for (const Bytes& section : second.sections) unit.sections.push_back(section);
  for (size_t i = 0; i < v.size(); i++) unit.decoded[i] = unit.decoded[i] + second.decoded[i];
  unit.overflow = unit.overflow || second.overflow;
  return unit;
}

Unit encodeUnit(const Node& node, const std::vector<float>& v, size_t nv, uint64_t e0, const Place& place, bool whole) {
  switch (node.kind) {
    case Kind::kInduced:
      return encodeInduced(node, v, nv, e0, place, whole);
    case Kind::kRotate:
      return encodeRotate(node, v, e0, place);
    case Kind::kTopk:
    case Kind::kRandk:
      return encodeSelector(node, v, nv, e0, place);
    default:
      return encodeLeaf(node, v, nv, e0, place, whole);
  }
}

std::vector<float> decodeUnit(const Node& node, const std::vector<Bytes>& sections, size_t size, size_t nv, uint64_t e0,
                              const Place& place) {
  switch (node.kind) {
    case Kind::kInduced: {
      Place c = place, q = place;
      c.branch = 1;
      q.branch = 2;
      size_t ofC = sectionBytes(node.children[0], size, nv, false).size();
      std::vector<Bytes> first(sections.begin(), sections.begin() + ofC),
          second(sections.begin() + ofC, sections.end());
      std::vector<float> sum = decodeUnit(node.children[0], first, size, nv, e0, c);
      std::vector<float> more = decodeUnit(node.children[1], second, size, nv, e0, q);
      for (size_t i = 0; i < size; i++) sum[i] = sum[i] + more[i];
      return sum;
    }
    case Kind::kRotate:
      return decodeRotate(node, sections, size, e0, place);
    case Kind::kTopk:
    case Kind::kRandk:
      return decodeSelector(node, sections, size, nv, e0, place);
    default:
      return decodeLeaf(node, sections, size, place);
  }
}

// fp32 by itself, without feedback, for tensors that are not fp64.
bool neverFlags(const Direction& direction, Type type) {
  return direction.tree.kind == Kind::kFp32 && !direction.feedback.memory && !direction.feedback.shifts &&
         type != Type::kFp64;
}

// sign, or a fixed lambda, anywhere: values have a scale of their own.
bool isAbsolute(const Node& node) {
  if (node.kind == Kind::kSign) return true;
  if (node.kind == Kind::kOnebit && node.dither && node.lambda == Node::kFixed) return true;
  return std::any_of(node.children.begin(), node.children.end(), isAbsolute);
}

size_t largestBlock(const Node& node) {
  bool selector = node.kind == Kind::kTopk || node.kind == Kind::kRandk;
  if (selector) return node.scope == Scope::kBlock ? node.block : 0;
  if (node.kind == Kind::kInduced) {
    size_t c = largestBlock(node.children[0]), q = largestBlock(node.children[1]);
    return c == 0 || q == 0 ? 0 : std::max(c, q);
  }
  if (node.kind == Kind::kRotate) return std::max(node.block, largestBlock(node.children[0]));
  return node.block;
}

// 2^exponent of the largest magnitude, as fp64 tensors are scaled.
int exponentOfUnit(const std::vector<double>& u) {
  double largest = 0;
  for (double x : u) largest = std::max(largest, std::fabs(x));
  if (largest == 0) return 0;
  return std::max(std::ilogb(largest), -1022);
}

// A real as the tree's floats, in a unit of this exponent.
template <typename Real>
float inUnit(Real value, int exponent) {
  return static_cast<float>(sizeof(Real) == 8 ? static_cast<double>(value) * std::ldexp(1.0, -exponent) : value);
}

struct Layout {
  size_t unit, units, flags, exponents, total;
  std::vector<size_t> sectionAt;
};

Layout layoutOf(const Node& tree, Type type, uint64_t n) {
  Layout layout;
  layout.unit = unitOf(tree, n);
  layout.units = n == 0 ? 0 : ceilDiv(n, layout.unit);
  layout.flags = 64;
  layout.exponents = layout.flags + align16(ceilDiv(layout.units, 8));
  size_t at = layout.exponents + (type == Type::kFp64 ? align16(4 * layout.units) : 0);
  size_t fullUnits = n == 0 ? 0 : n / layout.unit, rest = n == 0 ? 0 : n % layout.unit;
  if (n != 0) {
    std::vector<size_t> full = sectionBytes(tree, layout.unit, layout.unit, false);
    std::vector<size_t> last = sectionBytes(tree, layout.unit, rest ? rest : layout.unit, false);
    for (size_t s = 0; s < full.size(); s++) {
      layout.sectionAt.push_back(at);
      at += align16(fullUnits * full[s] + (rest ? last[s] : 0));
    }
  }
  layout.total = at;
  return layout;
}

Bytes header(const Stamp& stamp, uint64_t n, uint64_t first, uint64_t bytes) {
  Bytes h;
  append<uint32_t>(&h, 0x314d4c53);
  append<uint16_t>(&h, 1);
  append<uint16_t>(&h, 0);
  append<uint64_t>(&h, stamp.hash);
  append<uint64_t>(&h, stamp.step);
  append<uint32_t>(&h, stamp.slot);
  append<uint32_t>(&h, stamp.rank);
  append<uint64_t>(&h, n);
  append<uint64_t>(&h, first);
  append<uint64_t>(&h, bytes);
  append<uint64_t>(&h, 0);
  return h;
}

}  // namespace

bool isUnbiased(const Node& node) {
  if (node.kind == Kind::kQsgd) return !node.nearest;
  if (node.kind == Kind::kNatural || node.kind == Kind::kPowers || node.kind == Kind::kTruncated) return true;
  return node.kind == Kind::kOnebit && node.dither;
}

size_t unitOf(const Node& tree) { return largestBlock(tree); }

size_t unitOf(const Node& tree, uint64_t n) {
  size_t unit = largestBlock(tree);
  return unit ? unit : n;
}

size_t payloadBytes(const Node& tree, Type type, uint64_t n) { return layoutOf(tree, type, n).total; }

// ---- Passes (§7) --------------------------------------------------------------------------------------------------

namespace {

// û and flags of one piece, and its payload. u: x + sigma·s. x: for the flags alone. lost: elements that come from a
// flagged unit, or null.
template <typename Real>
struct Sent {
  Bytes payload;
  Decoded<Real> decoded;
};

// The statistics of a piece (§5), whose tail is counted with what is in use; false: no unit counts.
template <typename Real>
bool gather(const Node& tree, const std::vector<Real>& u, const std::vector<uint8_t>* lost, const Kept& use,
            Kept* out) {
  double columns[2][128] = {}, count = 0, nv = 0;
  for (size_t start = 0, index = 0; start < u.size(); start += tree.block, index++) {
    std::vector<float> v(tree.block, 0.0f), sizes(tree.block);
    size_t valid = std::min(tree.block, u.size() - start);
    bool counts = true;
    for (size_t i = 0; i < valid; i++) {
      v[i] = static_cast<float>(u[start + i]);
      if (!std::isfinite(v[i]) || (lost && (*lost)[start + i])) counts = false;
    }
    if (!counts) continue;
    int e = exponentOf(v);
    for (size_t i = 0; i < tree.block; i++) sizes[i] = std::fabs(v[i] * std::ldexp(1.0f, -e));
    columns[0][index % 128] += static_cast<double>(treeSum(sizes)) * std::ldexp(1.0, e);
    nv += static_cast<double>(valid);
    if (!tree.powerlaw || use.mean == 0) continue;
    float p = std::ldexp(1.0f, -exponentOf(std::vector<float>{use.mean})), r = 1.0f / (2.0f * (use.mean * p));
    for (size_t i = 0; i < tree.block; i++) sizes[i] = std::fabs(v[i] * p * r);
    Tail tail = tailOf(sizes);
    count += tail.count;
    columns[1][index % 128] += tail.logs;
  }
  if (nv == 0) return false;
  for (size_t w = 64; w >= 1; w /= 2) {
    for (size_t j = 0; j < w; j++) {
      columns[0][j] += columns[0][j + w];
      columns[1][j] += columns[1][j + w];
    }
  }
  out->mean = static_cast<float>(columns[0][0] / nv);
  out->table = tree.powerlaw ? tableOf({count, columns[1][0]}, nv) : 0;
  return true;
}

template <typename Real>
Sent<Real> send(const Direction& direction, const Stamp& stamp, Type type, const std::vector<Real>& x,
                const std::vector<Real>& u, uint64_t first, const std::vector<uint8_t>* lost,
                const std::vector<Real>* common, Kept* kept) {
  const Node& tree = direction.tree;
  bool never = neverFlags(direction, type);
  uint64_t n = x.size();
  Layout layout = layoutOf(tree, type, n);
  Sent<Real> sent;
  sent.payload = header(stamp, n, first, layout.total);
  sent.payload.resize(layout.total, 0);
  sent.decoded.values.assign(n, Real(0));
  sent.decoded.flagged.assign(n, 0);
  std::vector<Bytes> sections(layout.sectionAt.size());
  Place place;
  place.stamp = stamp;
  Kept shape;
  if (tree.stats != Node::kBlock) {
    place.shape = &shape;
    if (tree.stats == Node::kPrevious && kept) shape = *kept;
    if (shape.mean == 0) {
      shape = Kept();
      gather(tree, u, lost, shape, &shape);
      gather(tree, u, lost, Kept(shape), &shape);
    }
    if (tree.stats == Node::kPrevious && kept) gather(tree, u, lost, shape, kept);
  }
  for (size_t index = 0; index < layout.units; index++) {
    size_t start = index * layout.unit, nv = std::min<size_t>(layout.unit, n - start);
    bool flagged = false;
    for (size_t i = 0; i < nv; i++) {
      if (!std::isfinite(x[start + i]) || !std::isfinite(u[start + i])) flagged = true;
    }
    if (never) flagged = false;
    for (size_t i = 0; i < nv; i++) {
      if (lost && (*lost)[start + i]) flagged = true;
    }
    std::vector<float> v(layout.unit, 0.0f);
    int exponent = 0;
    if (sizeof(Real) == 8 && !flagged) {
      std::vector<double> wide(u.begin() + start, u.begin() + start + nv);
      exponent = isAbsolute(tree) ? 0 : exponentOfUnit(wide);
      if (common && (*common)[index] > 0) exponent = exponentOfUnit({static_cast<double>((*common)[index])});
      if (exponent >= 1000) flagged = true;
      for (size_t i = 0; i < nv; i++) v[i] = static_cast<float>(wide[i] * std::ldexp(1.0, -exponent));
    } else if (!flagged) {
      for (size_t i = 0; i < nv; i++) v[i] = static_cast<float>(u[start + i]);
    }
    place.common = common ? inUnit((*common)[index], exponent) : 0;
    Unit unit;
    if (!flagged) {
      for (float value : v) {
        if (!std::isfinite(value) && !never) flagged = true;  // fp64 values beyond binary32
      }
      if (!flagged) unit = encodeUnit(tree, v, nv, first + start, place, false);
      flagged = flagged || (unit.overflow && !never);
    }
    if (flagged) {
      unit.sections = emptySections(tree, layout.unit, nv, false);
      unit.decoded.assign(layout.unit, 0.0f);
      exponent = 0;
      sent.payload[layout.flags + index / 8] |= static_cast<uint8_t>(1u << index % 8);
    } else if (unit.nothing) {
      exponent = 0;
      sent.payload[layout.flags] |= 2;
    }
    if (sizeof(Real) == 8) std::memcpy(&sent.payload[layout.exponents + 4 * index], &exponent, 4);
    for (size_t s = 0; s < sections.size(); s++) {
      sections[s].insert(sections[s].end(), unit.sections[s].begin(), unit.sections[s].end());
    }
    for (size_t i = 0; i < nv; i++) {
      Real value = static_cast<Real>(unit.decoded[i]);
      if (sizeof(Real) == 8) value = value * static_cast<Real>(std::ldexp(1.0, exponent));
      sent.decoded.values[start + i] = value;
      sent.decoded.flagged[start + i] = flagged;
    }
  }
  for (size_t s = 0; s < sections.size(); s++) {
    std::copy(sections[s].begin(), sections[s].end(), sent.payload.begin() + layout.sectionAt[s]);
  }
  return sent;
}

// A memory's value in bf16: the neighbour away from zero with the probability that makes the mean over d right.
float roundMemory(float value, uint32_t d) {
  float size = std::fabs(value), low = floatOf(magnitude(value) / 65536 * 65536);
  uint32_t above = magnitude(size) - magnitude(low);  // of 65536
  float high = floatOf(magnitude(low) + 65536);
  float kept = d >= 65536 - above ? high : low;
  const float largest = floatOf(0x7f7f0000u);
  if (!(kept <= largest)) kept = largest;
  return std::signbit(value) ? -kept : kept;
}

// u = x + sigma·s; with an s of the sender, s ← (a·s + b·x) + c·û where the unit is not flagged.
template <typename Real>
Bytes encodeWith(const Direction& direction, const Stamp& stamp, Type type, const std::vector<Real>& x, uint64_t first,
                 std::vector<Real>* s, std::vector<Real>* v, bool firstStep, bool updateState,
                 const std::vector<uint8_t>* lost, const std::vector<Real>* common, Kept* kept) {
  const Feedback& f = direction.feedback;
  Real sigma = static_cast<Real>(f.sigma), a = static_cast<Real>(f.a), b = static_cast<Real>(f.b),
       c = static_cast<Real>(f.c), eta = static_cast<Real>(f.momentum);
  std::vector<Real> u(x.size()), averaged(x.size());
  for (size_t i = 0; i < x.size(); i++) {
    Real base = x[i];
    if (v) {
      averaged[i] = firstStep ? x[i] : (*v)[i] + eta * (x[i] - (*v)[i]);
      base = averaged[i];
    }
    u[i] = s && sigma != 0 ? base + sigma * (*s)[i] : base;
  }
  Sent<Real> sent = send(direction, stamp, type, x, u, first, lost, common, kept);
  for (size_t i = 0; i < x.size(); i++) {
    if (sent.decoded.flagged[i]) continue;
    if (v) (*v)[i] = averaged[i];
    if (!s || !updateState) continue;
    (*s)[i] = (a * (*s)[i] + b * x[i]) + c * sent.decoded.values[i];
    if (f.bf16) (*s)[i] = roundMemory(static_cast<float>((*s)[i]), draw16(stamp, kMemory, 0, false, first + i));
  }
  return sent.payload;
}

}  // namespace

template <typename Real>
Bytes encode(const Direction& direction, const Stamp& stamp, Type type, const std::vector<Real>& x, uint64_t first,
             std::vector<Real>* s, std::vector<Real>* v, bool firstStep, const std::vector<Real>* common, Kept* kept) {
  return encodeWith<Real>(direction, stamp, type, x, first, s, v, firstStep, true, nullptr, common, kept);
}

template <typename Real>
Decoded<Real> decodePayload(const Node& tree, const Stamp& stamp, Type type, uint64_t n, uint64_t first,
                            const uint8_t* payload, const std::vector<Real>* common) {
  Layout layout = layoutOf(tree, type, n);
  Decoded<Real> decoded;
  decoded.values.assign(n, Real(0));
  decoded.flagged.assign(n, 0);
  Place place;
  place.stamp = stamp;
  for (size_t index = 0; index < layout.units; index++) {
    size_t start = index * layout.unit, nv = std::min<size_t>(layout.unit, n - start);
    bool flagged = payload[layout.flags + index / 8] >> index % 8 & 1;
    std::vector<size_t> full = sectionBytes(tree, layout.unit, layout.unit, false);
    std::vector<size_t> own = sectionBytes(tree, layout.unit, nv, false);
    std::vector<Bytes> sections;
    for (size_t s = 0; s < own.size(); s++) {
      const uint8_t* at = payload + layout.sectionAt[s] + index * full[s];
      sections.emplace_back(at, at + own[s]);
    }
    int32_t exponent = 0;
    if (sizeof(Real) == 8) std::memcpy(&exponent, payload + layout.exponents + 4 * index, 4);
    place.common = common ? inUnit((*common)[index], exponent) : 0;
    std::vector<float> values(layout.unit, 0.0f);
    bool nothing = unitOf(tree) == 0 && (payload[layout.flags] & 2);
    if (!flagged && !nothing) values = decodeUnit(tree, sections, layout.unit, nv, first + start, place);
    for (size_t i = 0; i < nv; i++) {
      Real value = static_cast<Real>(values[i]);
      if (sizeof(Real) == 8) value = value * static_cast<Real>(std::ldexp(1.0, exponent));
      decoded.values[start + i] = value;
      decoded.flagged[start + i] = flagged;
    }
  }
  return decoded;
}

namespace {

// A unit of lambda=shared, undecoded.
template <typename Real>
struct Signs {
  bool flagged;
  float scale;  // 0 if flagged
  Real wanted;  // the same as a real
  int32_t exponent = 0;
  std::vector<uint32_t> minus;
};

template <typename Real>
Signs<Real> signsOf(const Node& tree, Type type, uint64_t n, const uint8_t* payload, size_t index) {
  Layout layout = layoutOf(tree, type, n);
  Signs<Real> signs;
  signs.flagged = payload[layout.flags + index / 8] >> index % 8 & 1;
  if (sizeof(Real) == 8) std::memcpy(&signs.exponent, payload + layout.exponents + 4 * index, 4);
  std::memcpy(&signs.scale, payload + layout.sectionAt[0] + 4 * index, 4);
  signs.wanted = static_cast<Real>(signs.scale);
  if (sizeof(Real) == 8) signs.wanted = signs.wanted * static_cast<Real>(std::ldexp(1.0, signs.exponent));
  const uint8_t* at = payload + layout.sectionAt[1] + index * (layout.unit / 8);
  Bytes stream(at, at + layout.unit / 8);
  for (size_t i = 0; i < layout.unit; i++) signs.minus.push_back(getBits(stream, i, 1));
  return signs;
}

template <typename Real>
Reduced<Real> reduceSigns(const Node& tree, const Stamp& stamp, Type type, uint64_t n, uint64_t first,
                          const std::vector<const uint8_t*>& payloads, double weight, bool downlink, double factor,
                          std::vector<Real>* common) {
  Layout layout = layoutOf(tree, type, n);
  Reduced<Real> result;
  result.payload = header(stamp, n, first, layout.total);
  result.payload.resize(layout.total, 0);
  result.y.resize(n * typeBytes(type));
  Place owner;
  owner.stamp = stamp;
  owner.stamp.down = true;
  for (size_t index = 0; index < layout.units; index++) {
    size_t start = index * layout.unit, nv = std::min<size_t>(layout.unit, n - start);
    std::vector<Signs<Real>> all;
    bool flagged = false;
    Real most = 0;
    float largest = 0;
    for (const uint8_t* payload : payloads) {
      all.push_back(signsOf<Real>(tree, type, n, payload, index));
      flagged = flagged || all.back().flagged;
      most = std::max(most, all.back().wanted);
      largest = std::max(largest, all.back().scale);
    }
    if (flagged) {
      if (downlink) {
        result.payload[layout.flags + index / 8] |= static_cast<uint8_t>(1u << index % 8);
      } else {
        (*common)[index] = 0;
      }
      for (size_t i = 0; i < nv; i++)
        fromReal<Real>(type, static_cast<Real>(floatOf(canonicalNan32())), &result.y[(start + i) * typeBytes(type)]);
      continue;
    }
    Real known = (*common)[index];
    int32_t exponent = 0;
    if (sizeof(Real) == 8) exponent = exponentOfUnit({static_cast<double>(known > 0 ? known : most)});
    float lambda = inUnit(known > 0 ? known : most, exponent), wanted = known > 0 ? largest : inUnit(most, exponent);
    std::vector<float> v(layout.unit);
    for (size_t i = 0; i < layout.unit; i++) {
      if (known > 0) {
        int k = 0;
        for (const Signs<Real>& one : all) k += one.minus[i] ? -1 : 1;
        v[i] = static_cast<float>(k) * (lambda * static_cast<float>(weight));
      } else {
        Real sum = 0;
        for (const Signs<Real>& one : all) sum = sum + (one.minus[i] ? -one.wanted : one.wanted);
        v[i] = inUnit(static_cast<Real>(sum * static_cast<Real>(weight)), exponent);
      }
    }
    if (downlink) {
      Bytes stream(layout.unit / 8, 0);
      for (size_t i = 0; i < layout.unit; i++) putBits(&stream, i, 1, dithered(v[i], lambda, first + start + i, owner));
      if (sizeof(Real) == 8) std::memcpy(&result.payload[layout.exponents + 4 * index], &exponent, 4);
      std::memcpy(&result.payload[layout.sectionAt[0] + 4 * index], &wanted, 4);
      std::copy(stream.begin(), stream.end(), result.payload.begin() + layout.sectionAt[1] + index * (layout.unit / 8));
      continue;
    }
    transform(tree, owner, first + start, false, 1, &v);
    for (size_t i = 0; i < nv; i++) {
      Real out = static_cast<Real>(v[i]);
      if (sizeof(Real) == 8) out = out * static_cast<Real>(std::ldexp(1.0, exponent));
      fromReal<Real>(type, static_cast<Real>(factor) * out, &result.y[(start + i) * typeBytes(type)]);
    }
    (*common)[index] = most;
  }
  return result;
}

}  // namespace

template <typename Real>
Reduced<Real> reduce(const Direction& up, const Stamp& stamp, Type type, uint64_t n, uint64_t first,
                     const std::vector<const uint8_t*>& payloads, double weight, std::vector<Real>* h,
                     const Direction* down, std::vector<Real>* e, double factor, std::vector<Real>* common,
                     Kept* kept) {
  if (common)
    return reduceSigns<Real>(up.tree, stamp, type, n, first, payloads, weight, down != nullptr, factor, common);
  std::vector<Real> sum(n, Real(0)), out(n);
  std::vector<uint8_t> flagged(n, 0);
  for (size_t rank = 0; rank < payloads.size(); rank++) {
    Stamp sender = stamp;
    sender.down = false;
    sender.rank = static_cast<uint32_t>(rank);
    Decoded<Real> got = decodePayload<Real>(up.tree, sender, type, n, first, payloads[rank]);
    for (size_t i = 0; i < n; i++) {
      if (got.flagged[i]) {
        flagged[i] = 1;
      } else {
        sum[i] = sum[i] + got.values[i];
      }
    }
  }
  Real nu = static_cast<Real>(up.feedback.nu), lambda = static_cast<Real>(up.feedback.lambda);
  size_t unit = n ? unitOf(up.tree, n) : 1;
  for (size_t start = 0; start < n; start += unit) {
    size_t end = std::min<size_t>(n, start + unit);
    // A mean that is not finite must not enter h: the unit is lost like a flagged one.
    bool lost = false;
    for (size_t i = start; i < end; i++) {
      sum[i] = sum[i] * static_cast<Real>(weight);
      if (h && !std::isfinite(sum[i])) lost = true;
    }
    for (size_t i = start; i < end; i++) {
      Real m = sum[i];
      out[i] = h ? (*h)[i] + nu * m : m;
      if (h && !lost) (*h)[i] = (*h)[i] + lambda * m;
      if (lost) flagged[i] = 1;
      if (flagged[i]) out[i] = static_cast<Real>(floatOf(canonicalNan32()));
    }
  }
  Reduced<Real> result;
  if (down) {
    Stamp owner = stamp;
    owner.down = true;
    // Shifts H are updated by decode, on every rank.
    result.payload = encodeWith<Real>(*down, owner, type, out, first, e, nullptr, false, !down->feedback.shifts,
                                      &flagged, nullptr, kept);
    return result;
  }
  result.y.resize(n * typeBytes(type));
  for (size_t i = 0; i < n; i++) {
    fromReal<Real>(type, static_cast<Real>(factor) * out[i], &result.y[i * typeBytes(type)]);
  }
  return result;
}

template <typename Real>
Bytes decode(const Direction& direction, const Stamp& stamp, Type type, uint64_t n, uint64_t first,
             const uint8_t* payload, std::vector<Real>* h, double factor, std::vector<Real>* common) {
  Decoded<Real> got = decodePayload<Real>(direction.tree, stamp, type, n, first, payload, common);
  for (size_t index = 0; common && index < common->size(); index++)
    (*common)[index] = signsOf<Real>(direction.tree, type, n, payload, index).wanted;
  Real nu = static_cast<Real>(direction.feedback.nu), lambda = static_cast<Real>(direction.feedback.lambda);
  Bytes y(n * typeBytes(type));
  for (size_t i = 0; i < n; i++) {
    Real out = h ? (*h)[i] + nu * got.values[i] : got.values[i];
    out = static_cast<Real>(factor) * out;
    if (got.flagged[i]) {
      out = static_cast<Real>(floatOf(canonicalNan32()));
    } else if (h) {
      (*h)[i] = (*h)[i] + lambda * got.values[i];
    }
    fromReal<Real>(type, out, &y[i * typeBytes(type)]);
  }
  return y;
}

#define INSTANTIATE(Real)                                                                                         \
  template std::vector<Real> toReal<Real>(Type, const uint8_t*, size_t);                                          \
  template void fromReal<Real>(Type, Real, uint8_t*);                                                             \
  template Bytes encode<Real>(const Direction&, const Stamp&, Type, const std::vector<Real>&, uint64_t,           \
                              std::vector<Real>*, std::vector<Real>*, bool, const std::vector<Real>*, Kept*);     \
  template Decoded<Real> decodePayload<Real>(const Node&, const Stamp&, Type, uint64_t, uint64_t, const uint8_t*, \
                                             const std::vector<Real>*);                                           \
  template Reduced<Real> reduce<Real>(const Direction&, const Stamp&, Type, uint64_t, uint64_t,                   \
                                      const std::vector<const uint8_t*>&, double, std::vector<Real>*,             \
                                      const Direction*, std::vector<Real>*, double, std::vector<Real>*, Kept*);   \
  template Bytes decode<Real>(const Direction&, const Stamp&, Type, uint64_t, uint64_t, const uint8_t*,           \
                              std::vector<Real>*, double, std::vector<Real>*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

// ---- Specs --------------------------------------------------------------------------------------------------------

namespace {

struct Ast {
  std::string name, key;  // key: "key=" before it; a value is a name without arguments
  std::vector<Ast> args;
};

struct Parser {
  std::string text;
  size_t at = 0;
  char peek() {
    while (at < text.size() && text[at] == ' ') at++;
    return at < text.size() ? text[at] : '\0';
  }
  std::string word() {
    peek();
    size_t start = at;
    while (at < text.size() && !std::strchr("(),=; ", text[at])) at++;
    if (at == start) throw std::runtime_error("reference: a word is missing in " + text);
    return text.substr(start, at - start);
  }
  Ast node() {
    Ast ast;
    ast.name = word();
    if (peek() != '(') return ast;
    at++;
    while (peek() != ')') {
      Ast arg = node();
      if (peek() == '=') {
        at++;
        std::string key = arg.name;
        arg = node();
        arg.key = key;
      }
      ast.args.push_back(arg);
      if (peek() == ',') at++;
    }
    at++;
    return ast;
  }
};

Node build(const Ast& ast, bool contractive, bool nearestByDefault, bool unbiasedRandk) {
  Node node;
  bool given = false;  // rounding=
  auto child = [&](const Ast& arg, bool c, bool nearest, bool unbiased) {
    node.children.push_back(build(arg, c, nearest, unbiased));
  };
  if (ast.name == "fp32") node.kind = Kind::kFp32;
  if (ast.name == "fp16") node.kind = Kind::kFp16;
  if (ast.name == "bf16") node.kind = Kind::kBf16;
  if (ast.name == "fp8") node.kind = Kind::kFp8;
  if (ast.name == "sign") node.kind = Kind::kSign;
  if (ast.name == "onebit") node.kind = Kind::kOnebit;
  if (ast.name == "qsgd" || ast.name == "ternary") node.kind = Kind::kQsgd;
  if (ast.name == "natural") node.kind = Kind::kNatural;
  if (ast.name == "nuqsgd") node.kind = Kind::kPowers;
  node.norm2 = ast.name == "nuqsgd";
  if (ast.name == "tqsgd" || ast.name == "tbqsgd" || ast.name == "tnqsgd") node.kind = Kind::kTruncated;
  node.biscaled = ast.name == "tbqsgd";
  node.nonuniform = ast.name == "tnqsgd";
  node.powerlaw = ast.name == "tbqsgd";
  if (ast.name == "induced") node.kind = Kind::kInduced;
  if (ast.name == "topk") node.kind = Kind::kTopk;
  if (ast.name == "randk") node.kind = Kind::kRandk;
  if (ast.name == "rotate") node.kind = Kind::kRotate;
  bool selector = node.kind == Kind::kTopk || node.kind == Kind::kRandk;
  if (selector) node.block = 4096;
  if (node.kind == Kind::kRotate) node.block = 0;
  if (node.kind == Kind::kRandk) node.unbiased = unbiasedRandk;
  for (const Ast& arg : ast.args) {
    const std::string& value = arg.name;
    double number = std::strtod(value.c_str(), nullptr);
    if (arg.key.empty() || arg.key == "inner" || arg.key == "C" || arg.key == "Q") {
      if (value == "dither") {
        node.dither = true;
      } else if (node.kind == Kind::kInduced) {
        bool first = arg.key == "C" || (arg.key.empty() && node.children.empty());
        child(arg, first || contractive, first || nearestByDefault, !first && !contractive);
      } else {
        child(arg, contractive, nearestByDefault, unbiasedRandk);
      }
    } else if (arg.key == "block") {
      node.block = static_cast<size_t>(number);
    } else if (arg.key == "format") {
      node.e5m2 = value == "e5m2";
    } else if (arg.key == "scale" && node.kind == Kind::kSign) {
      node.signScale = static_cast<float>(number);
    } else if (arg.key == "scale" && node.kind == Kind::kOnebit) {
      node.unbiasedScale = value == "unbiased";
    } else if (arg.key == "delta") {
      node.delta = number;
    } else if (arg.key == "scale") {
      if (value == "1") node.unbiased = false;
      if (value == "unbiased") node.unbiased = true;
    } else if (arg.key == "dither") {
      node.dither = value == "true" || value == "1" || value == "yes";
    } else if (arg.key == "f") {
      node.dither = true;
      node.f = static_cast<float>(number);
    } else if (arg.key == "lambda") {
      node.dither = true;
      node.lambda = value == "inf" ? Node::kInf : value == "shared" ? Node::kShared : Node::kFixed;
      node.lambdaValue = static_cast<float>(number);
    } else if (arg.key == "norm") {
      node.norm2 = value == "2";
    } else if (arg.key == "bits") {
      if (node.kind == Kind::kNatural) node.kind = Kind::kPowers;
      node.bits = static_cast<uint32_t>(number);
      node.levels = (1u << (node.bits - 1)) - 1;
    } else if (arg.key == "levels") {
      node.levels = static_cast<uint32_t>(number);
      node.bits = log2Of(2 * node.levels + 1);
    } else if (arg.key == "stats") {
      node.stats = value == "tensor" ? Node::kTensor : value == "previous" ? Node::kPrevious : Node::kBlock;
    } else if (arg.key == "model") {
      node.powerlaw = value == "powerlaw";
    } else if (arg.key == "workers") {
      node.workers = number;
    } else if (arg.key == "rounding") {
      given = true;
      node.nearest = value == "nearest";
    } else if (arg.key == "ratio") {
      node.ratio = number;
    } else if (arg.key == "k") {
      node.k = static_cast<uint64_t>(std::ceil(number));
      node.chance = std::min(number, 1.0);
    } else if (arg.key == "scope") {
      node.scope = value == "block" ? Scope::kBlock : value == "chunk" ? Scope::kChunk : Scope::kGlobal;
    } else if (arg.key == "seed") {
      node.shared = value == "shared";
    } else if (arg.key == "signs") {
      node.fixedSigns = value == "fixed";
    } else {
      throw std::runtime_error("reference: unknown option " + arg.key);
    }
  }
  if (ast.name == "ternary") {
    node.levels = 1;
    node.bits = 2;
  } else if (node.kind == Kind::kQsgd && !given) {
    node.nearest = nearestByDefault && !node.norm2;
  }
  if (selector && node.children.empty()) node.children.push_back(Node());
  if (node.kind == Kind::kRotate && node.block == 0) node.block = unitOf(node.children.at(0));
  if (node.delta > 0)
    node.f = static_cast<float>(std::sqrt(2 * std::log(2 * static_cast<double>(node.block) / node.delta)));
  if (isLeaf(node)) node.fit = contractive && isUnbiased(node);
  return node;
}

}  // namespace

Direction parse(const std::string& text) {
  Parser parser;
  parser.text = text;
  Ast ast = parser.node();
  Direction direction;
  Feedback& f = direction.feedback;
  static const char* const kNames[] = {"none", "ef", "ef21", "ef_bv", "diana", "shift", "rand_diana"};
  const char* const* name =
      std::find_if(std::begin(kNames), std::end(kNames), [&ast](const char* known) { return ast.name == known; });
  if (name == std::end(kNames)) {
    direction.tree = build(ast, false, false, true);
    return direction;
  }
  f.name = ast.name;
  bool contractive = ast.name == "ef" || ast.name == "ef21";
  for (const Ast& arg : ast.args) {
    double number = std::strtod(arg.name.c_str(), nullptr);
    if (arg.key.empty()) direction.tree = build(arg, contractive, contractive, !contractive && ast.name != "ef_bv");
    if (arg.key == "momentum") f.momentum = number;
    if (arg.key == "alpha" && arg.name != "auto") f.lambda = number;
    if (arg.key == "lambda" && arg.name != "auto") f.lambda = number;
    if (arg.key == "nu" && arg.name != "auto") f.nu = number;
  }
  if (ast.name == "none") return direction;
  f.memory = true;
  f.a = 1;
  if (ast.name == "ef") {
    f.sigma = 1;
    f.b = 1;
    f.c = -1;
    return direction;
  }
  f.sigma = -1;
  f.shifts = true;
  if (ast.name == "ef21") f.lambda = 1;
  if (ast.name != "ef_bv") f.nu = 1;
  f.c = f.lambda;
  return direction;
}

}  // namespace ref
