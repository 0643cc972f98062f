#include <gtest/gtest.h>

#include <thread>

#include "tests/collectives/group.h"

namespace slim_test {

bool overMpi() { return false; }
std::vector<int> rankCounts() { return {1, 2, 3, 4, 8}; }

void forEachRank(int ranks, const slimConfig_t& config, const Body& body) {
  std::vector<slimComm_t> comms(ranks);
  ASSERT_EQ(slimCommInitLocal(comms.data(), ranks, &config), slimSuccess) << slimGetLastError();
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; r++) threads.emplace_back(body, r, comms[r]);
  for (auto& t : threads) t.join();
  for (auto comm : comms) slimCommDestroy(comm);
}

}  // namespace slim_test
