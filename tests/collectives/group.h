// Ranks for a test: the same test runs over the local transport (each rank a thread) and, built with the other group,
// under mpirun (each rank a process).
#ifndef SLIM_TESTS_COLLECTIVES_GROUP_H_
#define SLIM_TESTS_COLLECTIVES_GROUP_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "plugin/slimccl.h"

namespace slim_test {

using Body = std::function<void(int rank, slimComm_t comm)>;

// The numbers of ranks that tests go through: 1, 2, 3, 4, 8; under mpirun the number that was started.
std::vector<int> rankCounts();
// Runs body once for each rank (of this process) with a communicator of its own.
void forEachRank(int ranks, const slimConfig_t& config, const Body& body);
bool overMpi();

slimConfig_t makeConfig(slimAlgo_t algo = slimAlgoAuto, size_t sliceBytes = 0);
// Of inputs and draws: SLIM_TEST_SEED, or 1; printed once.
uint64_t testSeed();

using Bytes = std::vector<uint8_t>;
enum class Fill { kNormal, kNonFinite, kInteger };
// count elements of type that depend on nothing but the arguments and the seed.
Bytes makeInput(slimDataType_t type, size_t count, int rank, int step, Fill fill = Fill::kNormal);

// A buffer as a caller has it: aligned to 64 bytes, and one past each end watched.
class Buffer {
 public:
  explicit Buffer(size_t bytes);
  explicit Buffer(const Bytes& content);
  uint8_t* data() { return storage_.data() + start_; }
  Bytes content() const { return Bytes(storage_.begin() + (long)start_, storage_.begin() + (long)(start_ + bytes_)); }
  bool intact() const;

 private:
  Bytes storage_;
  size_t start_, bytes_;
};

}  // namespace slim_test
#endif
