// What the tests of compress/ share: inputs, guarded buffers, specs, and one whole step of N ranks run by the library
// and by the scalar reference side by side.
#ifndef SLIM_TESTS_CODEC_HARNESS_H_
#define SLIM_TESTS_CODEC_HARNESS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "compress/compress.h"
#include "tests/reference/reference.h"

namespace slim_test {

// ---- Inputs ---------------------------------------------------------------------------------------------------------

enum class Input {
  kNormal,
  kLaplace,
  kHeavyTail,  // Student-t, 2 degrees of freedom
  kSparse,     // one in a hundred
  kConstant,
  kDenormal,
  kZero,       // +0 and −0
  kHuge,       // up to the type's largest, 3e38 for fp32
  kTiny,       // 1e-39
  kSpike,      // one element in a block
  kScales,     // each block another power of ten
  kTies,       // few magnitudes, many times each
  kInteger,    // small integers and halves: sums and roundings hit ties
  kPlateaus,   // 64 times the same magnitude: all sit at the top level, which rounding may overshoot
  kNonFinite,  // normal, with NaN, Inf and −Inf in some places
  kComb,       // one large value in 512: where a sample of a piece begins
  kGaps,       // rising, but zero where a sample of a piece looks
  kExponents,  // each 512 elements below another power of two, from the least to the largest of fp32
};
const char* nameOf(Input input);
extern const std::vector<Input> kFiniteInputs;

// n elements of type, the same for the same arguments on every machine.
ref::Bytes makeInput(Input input, ref::Type type, size_t n, uint64_t seed);

// ---- Buffers --------------------------------------------------------------------------------------------------------

// Bytes between two canaries, filled with a pattern; starts at a multiple of 64, plus offset.
class Guarded {
 public:
  Guarded(size_t bytes, size_t offset = 0);
  Guarded(const ref::Bytes& content, size_t offset = 0);
  uint8_t* data() { return all_.data() + start_; }
  const uint8_t* data() const { return all_.data() + start_; }
  size_t size() const { return bytes_; }
  ref::Bytes content() const { return ref::Bytes(data(), data() + bytes_); }
  bool intact() const;  // the canaries are

 private:
  ref::Bytes all_;
  size_t start_, bytes_;
};

template <typename Real>
ref::Bytes bytesOf(const std::vector<Real>& values) {
  const uint8_t* at = reinterpret_cast<const uint8_t*>(values.data());
  return ref::Bytes(at, at + sizeof(Real) * values.size());
}

// ---- Specs ----------------------------------------------------------------------------------------------------------

// A parsed spec of the library, beside the reference's idea of it. Feedback numbers are the library's (spec_test checks
// those); the trees are read separately.
class Compressor {
 public:
  Compressor(const std::string& up, const std::string& down);
  ~Compressor() { slimCompressorDestroy(compressor_); }
  Compressor(const Compressor&) = delete;
  Compressor& operator=(const Compressor&) = delete;
  bool ok() const { return compressor_ != nullptr; }
  const slimCompressor* get() const { return compressor_; }
  const ref::Direction& up() const { return up_; }
  const ref::Direction& down() const { return down_; }

 private:
  slimCompressor* compressor_ = nullptr;
  ref::Direction up_, down_;
};

// ---- Runs -----------------------------------------------------------------------------------------------------------

// Every instruction set that this machine has; the active one is the last chosen.
std::vector<std::string> instructionSets();
void useInstructionSet(const std::string& name);

// The caller's floating-point mode: with flush set, FTZ and DAZ are on, as after -ffast-math. The destructor checks
// that the library left the mode alone, and restores it.
class CallerMode {
 public:
  explicit CallerMode(bool flush);
  ~CallerMode();

 private:
  unsigned saved_, set_;
};

struct Scenario {
  std::string up = "none(fp32)", down = "none(fp32)";
  ref::Type type = ref::Type::kFp32;
  size_t n = 0;
  uint64_t first = 0;
  Input input = Input::kNormal;
  int ranks = 2, steps = 2;
  int threads = 0;      // 0: no pool
  bool flush = false;   // FTZ and DAZ
  bool offset = false;  // x, y and the states start one element beside an aligned address
  bool allSets = true;  // every instruction set, else the active one
  uint64_t seed = 0x5eed0f5115c0ffee;
};
std::string nameOf(const Scenario& run);

// Runs the steps on both sides; the first difference becomes a test failure and ends the run.
void compareWithReference(const Scenario& run);

}  // namespace slim_test

#endif
