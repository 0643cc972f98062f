// Which tensor is this? Feedback state must never be used for another tensor than it was made for.
#include "plugin/preload/cycle.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace {

struct Call {
  std::string tensor;  // the truth, which the library does not see
  uint64_t count;
  uint64_t address;
};
using Step = std::vector<Call>;

struct Outcome {
  int stateful = 0, wrong = 0, breaks = 0;
};

// Ranks in lock step, each with addresses of its own, as a channel drives them: all-gathered proposals, and a denial
// by one rank makes all break.
class Ranks {
 public:
  explicit Ranks(int ranks, uint64_t given = 0) : cycles_(ranks), slots_(ranks) {
    for (auto& cycle : cycles_) {
      cycle = std::make_unique<slimCycle>();
      cycle->given = given;
    }
  }
  void Mark() { marks_++; }
  void Run(const Step& step, const std::vector<uint64_t>& moved = {}) {
    for (const Call& call : step) One(call, moved);
  }
  const Outcome& outcome() const { return outcome_; }

 private:
  void One(const Call& call, const std::vector<uint64_t>& moved) {
    const size_t n = cycles_.size();
    EXPECT_EQ(slimCycleDue(cycles_[0].get()), slimCycleDue(cycles_[n - 1].get()));
    if (slimCycleDue(cycles_[0].get())) {
      const uint64_t first = slimCyclePropose(cycles_[0].get());
      bool equal = first > 0;
      for (auto& cycle : cycles_) equal &= slimCyclePropose(cycle.get()) == first;
      if (equal)
        for (auto& cycle : cycles_) slimCycleCommit(cycle.get(), first);
    }
    std::vector<slimCycleVerdict> verdicts;
    std::vector<uint64_t> positions(n);
    bool denied = false;
    for (size_t r = 0; r < n; r++) {
      const uint64_t at = call.address * 16 + r + (moved.empty() ? 0 : moved[r]);
      verdicts.push_back(slimCycleNext(cycles_[r].get(), {call.count, at}, marks_, &positions[r]));
      denied |= verdicts[r] == slimCycleDenied;
    }
    if (denied) {
      for (size_t r = 0; r < n; r++) {
        slimCycleBreak(cycles_[r].get());
        uint64_t unused;
        const uint64_t at = call.address * 16 + r + (moved.empty() ? 0 : moved[r]);
        EXPECT_EQ(slimCycleNext(cycles_[r].get(), {call.count, at}, marks_, &unused), slimCycleUnknown);
      }
      Drop();
      return;
    }
    for (size_t r = 1; r < n; r++) ASSERT_EQ(verdicts[r], verdicts[0]) << "ranks disagree at " << call.tensor;
    if (verdicts[0] == slimCycleBroken) Drop();
    if (verdicts[0] != slimCycleKnown) return;
    outcome_.stateful++;
    for (size_t r = 0; r < n; r++) {
      ASSERT_EQ(positions[r], positions[0]);
      auto [slot, fresh] = slots_[r].emplace(positions[r], call.tensor);
      if (!fresh && slot->second != call.tensor) outcome_.wrong++;
    }
  }
  void Drop() {
    outcome_.breaks++;
    for (auto& slots : slots_) slots.clear();
  }

  std::vector<std::unique_ptr<slimCycle>> cycles_;
  std::vector<std::map<uint64_t, std::string>> slots_;
  uint64_t marks_ = 0;
  Outcome outcome_;
};

Step Buckets(int n, uint64_t count, uint64_t address) {
  Step step;
  for (int i = 0; i < n; i++) step.push_back({"b" + std::to_string(i), count, address + static_cast<uint64_t>(i)});
  return step;
}

class Cycle : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, Cycle, testing::Values(1, 2, 3, 4, 8));

TEST_P(Cycle, TwelveEqualBucketsAreTwelveTensors) {
  Ranks ranks(GetParam());
  for (int t = 0; t < 40; t++) ranks.Run(Buckets(12, 25, 100));
  EXPECT_EQ(ranks.outcome().wrong, 0);
  EXPECT_EQ(ranks.outcome().breaks, 0);
  EXPECT_GT(ranks.outcome().stateful, 12 * 20);
}

TEST_P(Cycle, ARebuildAfterTheFirstStep) {
  Ranks ranks(GetParam());
  ranks.Run({{"a0", 1, 1}, {"a1", 25, 2}, {"a2", 25, 3}, {"a3", 25, 4}, {"a4", 7, 5}});
  const Step rebuilt = {{"c0", 7, 11}, {"c1", 25, 12}, {"c2", 25, 13}, {"c3", 25, 14}, {"c4", 1, 15}};
  for (int t = 0; t < 40; t++) ranks.Run(rebuilt);
  EXPECT_EQ(ranks.outcome().wrong, 0);
  EXPECT_EQ(ranks.outcome().breaks, 0);
  EXPECT_GT(ranks.outcome().stateful, 5 * 20);
}

// The rebuilt order has the same counts: a, b, a becomes a, b, a in other buffers, by which it is told apart.
TEST_P(Cycle, APalindromicRebuildAfterStateBegan) {
  Ranks ranks(GetParam());
  const Step before = {{"x0", 5, 1}, {"x1", 9, 2}, {"x2", 5, 3}}, after = {{"y0", 5, 7}, {"y1", 9, 8}, {"y2", 5, 9}};
  for (int t = 0; t < 30; t++) ranks.Run(before);
  EXPECT_GT(ranks.outcome().stateful, 0);
  for (int t = 0; t < 30; t++) ranks.Run(after);
  EXPECT_EQ(ranks.outcome().wrong, 0);
  EXPECT_EQ(ranks.outcome().breaks, 1);
}

TEST_P(Cycle, ASkippedBlockShiftsNothing) {
  Ranks ranks(GetParam());
  Step skipped = Buckets(12, 25, 100);
  skipped.erase(skipped.begin() + 4);
  for (int t = 0; t < 20; t++) ranks.Run(Buckets(12, 25, 100));
  ranks.Run(skipped);
  for (int t = 0; t < 20; t++) ranks.Run(Buckets(12, 25, 100));
  EXPECT_EQ(ranks.outcome().wrong, 0);
  EXPECT_EQ(ranks.outcome().breaks, 1);
}

TEST_P(Cycle, AnEqualSizedEvaluationCall) {
  Ranks ranks(GetParam());
  for (int t = 0; t < 20; t++) ranks.Run(Buckets(4, 25, 100));
  ranks.Run({{"evaluation", 25, 500}});
  for (int t = 0; t < 40; t++) ranks.Run(Buckets(4, 25, 100));
  EXPECT_EQ(ranks.outcome().wrong, 0);
  EXPECT_EQ(ranks.outcome().breaks, 1);
}

// Accumulation: only every fourth backward pass is averaged, and other calls (too small to qualify) are not seen.
TEST_P(Cycle, GradientAccumulationIsNoTrouble) {
  Ranks ranks(GetParam());
  for (int t = 0; t < 160; t++)
    if (t % 4 == 3) ranks.Run(Buckets(5, 25, 100));
  EXPECT_EQ(ranks.outcome().wrong, 0);
  EXPECT_EQ(ranks.outcome().breaks, 0);
  EXPECT_GT(ranks.outcome().stateful, 0);
}

TEST_P(Cycle, BuffersThatMoveGetNoState) {
  Ranks ranks(GetParam());
  std::mt19937_64 random(7);
  for (int t = 0; t < 60; t++) {
    std::vector<uint64_t> moved(static_cast<size_t>(GetParam()));
    for (auto& m : moved) m = random() % 4096;
    Step step = Buckets(6, 25, 100);
    for (auto& call : step) call.address += random() % 100000;
    ranks.Run(step, moved);
  }
  EXPECT_EQ(ranks.outcome().stateful, 0);
  EXPECT_EQ(ranks.outcome().wrong, 0);
}

// One rank alone sees another buffer: it denies, and all drop their state together.
TEST_P(Cycle, OneRankMayDeny) {
  Ranks ranks(GetParam());
  std::vector<uint64_t> moved(static_cast<size_t>(GetParam()), 0);
  for (int t = 0; t < 30; t++) ranks.Run(Buckets(3, 25, 100), moved);
  EXPECT_GT(ranks.outcome().stateful, 0);
  moved.back() = 1 << 20;
  for (int t = 0; t < 30; t++) ranks.Run(Buckets(3, 25, 100), moved);
  EXPECT_EQ(ranks.outcome().breaks, 1);
  EXPECT_EQ(ranks.outcome().wrong, 0);
}

// Three breaks, and it is over: no state any more.
TEST_P(Cycle, ThreeBreaksRetire) {
  Ranks ranks(GetParam());
  for (uint64_t era = 0; era < 6; era++)
    for (int t = 0; t < 40; t++) ranks.Run(Buckets(3, 25, 1000 * era));
  EXPECT_EQ(ranks.outcome().breaks, SLIM_CYCLE_BREAKS);
  const int stateful = ranks.outcome().stateful;
  for (int t = 0; t < 400; t++) ranks.Run(Buckets(3, 25, 1));
  EXPECT_EQ(ranks.outcome().stateful, stateful);
}

// A cycle that the user gives starts at once, and does not look at addresses.
TEST_P(Cycle, GivenByTheUser) {
  Ranks ranks(GetParam(), 6);
  for (uint64_t t = 0; t < 20; t++) ranks.Run(Buckets(6, 25, 100 * t));
  EXPECT_EQ(ranks.outcome().stateful, 6 * 20);
  EXPECT_EQ(ranks.outcome().wrong, 0);
  EXPECT_EQ(ranks.outcome().breaks, 0);
}

TEST_P(Cycle, GivenButBroken) {
  Ranks ranks(GetParam(), 3);
  const Step step = {{"p", 1, 1}, {"q", 2, 2}, {"r", 3, 3}};
  for (int t = 0; t < 5; t++) ranks.Run(step);
  ranks.Run({{"p", 1, 1}, {"r", 3, 3}});
  for (int t = 0; t < 5; t++) ranks.Run(step);
  EXPECT_EQ(ranks.outcome().breaks, 1);
  EXPECT_EQ(ranks.outcome().wrong, 0);
}

TEST_P(Cycle, MarkedByTheProgram) {
  Ranks ranks(GetParam());
  for (uint64_t t = 0; t < 20; t++) {
    ranks.Mark();
    ranks.Run(Buckets(12, 25, 100 * t));
  }
  EXPECT_EQ(ranks.outcome().stateful, 12 * 20);
  EXPECT_EQ(ranks.outcome().wrong, 0);
}

// A step with one call less is noticed at the next mark at the latest; the tensors behind the gap were wrong by then
// only where neither count nor mark tells them apart.
TEST_P(Cycle, MarkedStepsOfOtherLength) {
  Ranks ranks(GetParam());
  const Step step = {{"p", 1, 1}, {"q", 2, 2}, {"r", 3, 3}}, shorter = {{"p", 1, 1}, {"r", 3, 3}};
  for (int t = 0; t < 12; t++) {
    ranks.Mark();
    ranks.Run(t == 5 ? shorter : step);
  }
  EXPECT_EQ(ranks.outcome().breaks, 1);
  EXPECT_EQ(ranks.outcome().wrong, 0);
}

}  // namespace
