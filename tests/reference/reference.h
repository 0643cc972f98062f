// The scalar reference: docs/format.md in the plainest C++, written from that page alone and never from compress/. It
// is the oracle of the tests: slow, one element after the other, one rounding where the page says one.
#ifndef SLIM_TESTS_REFERENCE_REFERENCE_H_
#define SLIM_TESTS_REFERENCE_REFERENCE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace ref {

using Bytes = std::vector<uint8_t>;

// Values are slimDataType_t's.
enum class Type { kFp16 = 6, kFp32 = 7, kFp64 = 8, kBf16 = 9 };
size_t typeBytes(Type type);

enum class Kind {
  kFp32,
  kFp16,
  kBf16,
  kFp8,
  kSign,
  kOnebit,
  kQsgd,
  kNatural,
  kPowers,
  kTruncated,
  kInduced,
  kTopk,
  kRandk,
  kRotate
};
enum class Scope { kBlock, kChunk, kGlobal };

// One node of a codec tree, with every option written out. Which options count follows from the kind.
struct Node {
  Kind kind = Kind::kFp32;
  size_t block = 512;
  bool fit = false;  // the least-squares scale in place of the norm's

  bool e5m2 = false;    // fp8
  float signScale = 1;  // sign
  bool dither = false;  // onebit
  enum { kF, kInf, kFixed, kShared } lambda = kF;
  float f = 1.5f, lambdaValue = 0;                     // onebit with dither
  double delta = 0;                                    // onebit with dither: gives f, if not 0
  bool unbiasedScale = false;                          // onebit without dither
  uint32_t levels = 1, bits = 2;                       // qsgd, powers: L and b; ternary is L = 1
  bool norm2 = false, nearest = false;                 // qsgd
  bool biscaled = false;                               // truncated: tbqsgd; with bits
  bool nonuniform = false;                             // truncated: tnqsgd; neither: tqsgd
  bool powerlaw = false;                               // truncated
  double workers = 1;                                  // truncated
  enum { kBlock, kTensor, kPrevious } stats = kBlock;  // truncated
  double ratio = 0;                                    // selectors: ratio, or
  uint64_t k = 0;                                      //   k if it is not 0
  double chance = 1;                                   //   k below 1: that the one value is sent
  Scope scope = Scope::kBlock;                         // selectors
  bool shared = false, unbiased = false;               // randk
  bool fixedSigns = false;                             // rotate
  std::vector<Node> children;                          // induced: C, Q; selectors and rotate: the inner node
};

// One row of the feedback table: u = x + sigma·s; s ← (a·s + b·x) + c·û; out = h + nu·m; h ← h + lambda·m.
struct Feedback {
  std::string name = "none";
  double sigma = 0, a = 0, b = 0, c = 0, nu = 1, lambda = 0, momentum = 0;
  bool memory = false, shifts = false;
  bool bf16 = false;  // the memory's values are rounded to bf16
};

struct Direction {
  Feedback feedback;
  Node tree;
};

// Builds one direction from a spec node, e.g. "ef(qsgd(bits=4))". Feedback parameters that depend on a codec's class
// (alpha=auto and the like) are left at 1 and set by the caller. Throws std::runtime_error.
Direction parse(const std::string& node);

// A codec that may be unbiased, so that ef, ef21 and induced's C fit its scale.
bool isUnbiased(const Node& node);

size_t unitOf(const Node& tree);              // 0: the whole piece
size_t unitOf(const Node& tree, uint64_t n);  // the same, with the piece's length put in
size_t payloadBytes(const Node& tree, Type type, uint64_t n);

struct Stamp {
  uint64_t hash = 0, seed = 0, step = 0;
  uint32_t slot = 0, rank = 0;
  bool down = false;
};

// Real is double for fp64 tensors, float for all others.
template <typename Real>
struct Decoded {
  std::vector<Real> values;      // û
  std::vector<uint8_t> flagged;  // an element of a flagged unit
};

// What stats=previous keeps of a piece: G and the table.
struct Kept {
  float mean = 0;
  uint32_t table = 0;
};

// common, here and below: lambda=shared's Λ, a real a unit; encode and decodePayload read it, decode and a reduce to y
// move it on.

// s, v and kept may be null; they are updated. Momentum: v ← x in the step named first.
template <typename Real>
Bytes encode(const Direction& direction, const Stamp& stamp, Type type, const std::vector<Real>& x, uint64_t first,
             std::vector<Real>* s, std::vector<Real>* v, bool firstStep, const std::vector<Real>* common = nullptr,
             Kept* kept = nullptr);

template <typename Real>
Decoded<Real> decodePayload(const Node& tree, const Stamp& stamp, Type type, uint64_t n, uint64_t first,
                            const uint8_t* payload, const std::vector<Real>* common = nullptr);

// The mean of the ranks' û (and h, if not null), then y (down is null) or the downlink's payload.
template <typename Real>
struct Reduced {
  Bytes payload;
  Bytes y;
};
template <typename Real>
Reduced<Real> reduce(const Direction& up, const Stamp& stamp, Type type, uint64_t n, uint64_t first,
                     const std::vector<const uint8_t*>& payloads, double weight, std::vector<Real>* h,
                     const Direction* down, std::vector<Real>* e, double factor, std::vector<Real>* common = nullptr,
                     Kept* kept = nullptr);

// y = factor·(H + nu·û), H ← H + lambda·û; without H: y = factor·û. Answers y as elements of type.
template <typename Real>
Bytes decode(const Direction& direction, const Stamp& stamp, Type type, uint64_t n, uint64_t first,
             const uint8_t* payload, std::vector<Real>* h, double factor, std::vector<Real>* common = nullptr);

// Elements to reals and back (round to nearest even; NaN becomes the type's canonical one).
template <typename Real>
std::vector<Real> toReal(Type type, const uint8_t* elements, size_t n);
template <typename Real>
void fromReal(Type type, Real value, uint8_t* element);
uint32_t canonicalNan32();

// Small formats: the nearest representable value, ties to even, as its code. Saturating or to Inf.
uint16_t toFp16(double value, bool saturate);
uint16_t toBf16(double value, bool saturate);
uint8_t toFp8(double value, bool e5m2);
double fromFp16(uint16_t code);
double fromBf16(uint16_t code);
double fromFp8(uint8_t code, bool e5m2);

// §2 and §3.
float treeSum(const std::vector<float>& values);
enum Draw { kDither = 0, kIndex = 1, kRotation = 2, kCoin = 3, kMemory = 4 };
uint32_t draw32(const Stamp& stamp, Draw kind, int branch, bool allRanks, uint64_t e);
uint32_t draw16(const Stamp& stamp, Draw kind, int branch, bool allRanks, uint64_t e);
uint32_t draw1(const Stamp& stamp, Draw kind, int branch, bool allRanks, uint64_t e);

}  // namespace ref

#endif
