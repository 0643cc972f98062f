#include "tests/collectives/group.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>

#include "compress/compress.h"

namespace slim_test {

uint64_t testSeed() {
  static const uint64_t seed = [] {
    const char* text = std::getenv("SLIM_TEST_SEED");
    const uint64_t value = text ? std::strtoull(text, nullptr, 0) : 1;
    std::printf("[ seed     ] SLIM_TEST_SEED=%llu\n", (unsigned long long)value);
    return value;
  }();
  return seed;
}

slimConfig_t makeConfig(slimAlgo_t algo, size_t sliceBytes) {
  slimConfig_t config = SLIM_CONFIG_INITIALIZER;
  config.seed = testSeed();
  config.algo = algo;
  config.sliceBytes = sliceBytes;
  config.threads = 1;
  config.timeout = 20;
  return config;
}

Bytes makeInput(slimDataType_t type, size_t count, int rank, int step, Fill fill) {
  std::seed_seq sequence{(uint32_t)testSeed(), (uint32_t)rank, (uint32_t)step, (uint32_t)count, (uint32_t)type};
  std::mt19937_64 random(sequence);
  Bytes out(count * slimTypeBytes(type));
  if (!slimTypeIsFloat(type)) {
    for (auto& byte : out) byte = (uint8_t)random();
    return out;
  }
  std::normal_distribution<double> normal;
  std::vector<double> reals(count);
  for (auto& r : reals) r = fill == Fill::kInteger ? (double)(int)(random() % 17) - 8 : normal(random) * (1 + rank);
  if (fill == Fill::kNonFinite && count) {
    const double strange[] = {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                              -std::numeric_limits<double>::infinity()};
    for (int i = 0; i < 3; i++) reals[random() % count] = strange[i];
  }
  if (count == 0) return out;
  if (type == slimFloat64) {
    std::memcpy(out.data(), reals.data(), out.size());
  } else {
    std::vector<float> floats(reals.begin(), reals.end());
    slimFromReal(type, floats.data(), count, 1, out.data());
  }
  return out;
}

namespace {
constexpr uint8_t kMark = 0xa5;
constexpr size_t kMargin = 64;
}  // namespace

Buffer::Buffer(size_t bytes) : storage_(bytes + 3 * kMargin, kMark), bytes_(bytes) {
  start_ = kMargin + (kMargin - (uintptr_t)storage_.data() % kMargin) % kMargin;
}
Buffer::Buffer(const Bytes& content) : Buffer(content.size()) {
  if (!content.empty()) std::memcpy(data(), content.data(), content.size());
}
bool Buffer::intact() const {
  for (size_t i = 0; i < storage_.size(); i++)
    if ((i < start_ || i >= start_ + bytes_) && storage_[i] != kMark) return false;
  return true;
}

}  // namespace slim_test
