// Ranks whose bytes are moved by functions of the caller: here the local transport behind them.
#include <gtest/gtest.h>

#include <thread>

#include "collectives/transport.h"
#include "tests/collectives/group.h"

namespace slim_test {

bool overMpi() { return false; }
std::vector<int> rankCounts() { return {1, 2, 3, 4, 8}; }

namespace {

int Begin(void* context, int id, const slimLane_t* lanes) {
  auto* local = static_cast<slimTransport*>(context);
  return local->begin(local, id, lanes);
}
int Wait(void* context, int id, double timeout) {
  auto* local = static_cast<slimTransport*>(context);
  return local->wait(local, id, timeout);
}

}  // namespace

void forEachRank(int ranks, const slimConfig_t& config, const Body& body) {
  std::vector<slimTransport*> locals(ranks);
  ASSERT_EQ(slimLocalTransports(locals.data(), ranks), slimSuccess);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; r++)
    threads.emplace_back([&, r] {
      const slimCallbacks_t callbacks = {sizeof callbacks, locals[r], Begin, Wait};
      slimComm_t comm;
      ASSERT_EQ(slimCommInitCallbacks(&comm, r, ranks, ranks, &callbacks, &config), slimSuccess) << slimGetLastError();
      body(r, comm);
      slimCommDestroy(comm);
    });
  for (auto& t : threads) t.join();
  for (auto* local : locals) local->destroy(local);
}

}  // namespace slim_test
