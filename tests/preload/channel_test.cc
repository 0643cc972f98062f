// A channel's statistics are shown to other threads while its calls run.
#include "plugin/preload/channel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Seen {
  std::vector<std::string> channels;
  slimTotals ofRows, totals;
};

Seen Visit() {
  Seen seen = {};
  const slimVisitor visitor = {
      [](void* s, const slimChannelRow* row) { static_cast<Seen*>(s)->channels.push_back(row->name); },
      [](void* s, const slimChannelRow* row) { static_cast<Seen*>(s)->ofRows.calls += row->stats.calls; },
      [](void* s, const slimTotals* totals, const uint64_t*) { static_cast<Seen*>(s)->totals = *totals; }};
  slimChannelsVisit(&visitor, &seen);
  return seen;
}

// Ranks are threads; a cycle of two calls is given.
class Channels : public testing::Test {
 protected:
  static constexpr int kRanks = 2;

  void SetUp() override {
    char* none[] = {nullptr};
    ASSERT_EQ(slimEnvironmentRead(&environment_, none), slimSuccess);
    environment_.compress = "ef(qsgd(bits=4))";
    environment_.cycle = 2;
    ASSERT_EQ(slimPolicyCreate(&policy_, &environment_), slimSuccess) << slimGetLastError();
    slimComm_t comms[kRanks];
    ASSERT_EQ(slimCommInitLocal(comms, kRanks, nullptr), slimSuccess);
    for (int r = 0; r < kRanks; r++)
      ASSERT_EQ(slimChannelCreate(&channels_[r], comms[r], &environment_, 0, ("rank" + std::to_string(r)).c_str(),
                                  nullptr, nullptr),
                slimSuccess);
    before_ = Visit().totals.calls;
  }
  void TearDown() override {
    for (auto* c : channels_) slimChannelDestroy(c);
    EXPECT_EQ(Visit().totals.calls - before_, compressed_) << "what channels did that are no more";
    slimPolicyDestroy(policy_);
  }

  // In place, of n elements.
  void Sum(int rank, size_t n) {
    std::vector<float> values(n, 1);
    slimReason reason;
    bool plain;
    slimChannelCall call = {};
    call.call = {slimCollectiveAllReduce, slimFloat32, slimSum, n * 4, kRanks, true, 0, ""};
    call.action = slimPolicyFind(policy_, &call.call, &reason);
    ASSERT_NE(call.action, nullptr);
    call.send = call.recv = values.data();
    call.count = n;
    EXPECT_EQ(slimChannelRun(channels_[rank], &call, &plain, &reason), slimSuccess) << slimGetLastError();
    compressed_ += !plain;
  }

  slimEnvironment environment_;
  slimPolicy* policy_ = nullptr;
  slimChannel* channels_[kRanks];
  std::atomic<uint64_t> compressed_{0};
  uint64_t before_;
};

// Another size breaks the cycle: all tensors go, with what they did.
TEST_F(Channels, AreShownWhileTheirTensorsComeAndGo) {
  std::atomic<int> working{kRanks};
  const auto train = [&](int rank) {
    for (size_t step = 0; step < 60; step++) {
      Sum(rank, 20000);
      Sum(rank, step % 10 == 9 ? 40000 + step : 30000);
    }
    working--;
  };
  std::thread ranks[kRanks];
  for (int r = 0; r < kRanks; r++) ranks[r] = std::thread(train, r);
  while (working) {
    const Seen seen = Visit();
    EXPECT_LE(seen.ofRows.calls, seen.totals.calls);
    EXPECT_LE(seen.totals.calls - before_, 2 * 60 * kRanks);
    std::this_thread::yield();
  }
  for (auto& rank : ranks) rank.join();
  const Seen seen = Visit();
  EXPECT_EQ(seen.channels.size(), kRanks);
  EXPECT_EQ(seen.totals.calls - before_, compressed_);
  EXPECT_GT(compressed_, 0u);
}

// A thread that looks may be the one that a call waits for.
TEST_F(Channels, WhoseCallWaitsAreLeftOut) {
  std::atomic<bool> ended{false};
  std::thread first([&] {
    Sum(0, 20000);
    ended = true;
  });
  std::vector<std::string> shown;
  testing::internal::CaptureStderr();
  do {
    std::this_thread::yield();
    shown = Visit().channels;
  } while (shown.size() == kRanks && !ended);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(shown, std::vector<std::string>{"rank1"});
  EXPECT_NE(said.find("communicator rank0"), std::string::npos) << said;
  Sum(1, 20000);
  first.join();
  EXPECT_EQ(Visit().channels.size(), kRanks);
}

}  // namespace
