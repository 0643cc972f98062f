// One thread that drives several ranks: calls between slimGroupStart and slimGroupEnd have the bits of the same calls
// by a thread each.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/collectives/group.h"

namespace slim_test {
namespace {

constexpr size_t kCount = 3000;
constexpr int kSteps = 3;

// The calls of one step: two tensors, each rank its own turn.
struct Rank {
  slimComm_t comm;
  slimTensor_t sum, scatter;
  Bytes y = Bytes(kCount * 4), part = Bytes(kCount * 4);

  void Open(slimComm_t c) {
    comm = c;
    ASSERT_EQ(slimTensorCreate(&sum, comm, "ef(qsgd(bits=4))", 0), slimSuccess) << slimGetLastError();
    ASSERT_EQ(slimTensorCreate(&scatter, comm, "diana(ternary, init=first)", 1), slimSuccess) << slimGetLastError();
  }
  void Call(const Bytes& x, const Bytes& wide) {
    ASSERT_EQ(slimAllReduce(x.data(), y.data(), kCount, slimFloat32, slimAvg, sum, comm, nullptr), slimSuccess)
        << slimGetLastError();
    ASSERT_EQ(slimReduceScatter(wide.data(), part.data(), kCount, slimFloat32, slimSum, scatter, comm, nullptr),
              slimSuccess)
        << slimGetLastError();
  }
};

TEST(GroupCalls, OneThreadHasTheBitsOfManyThreads) {
  for (int ranks : {1, 2, 3, 4, 8}) {
    SCOPED_TRACE(std::to_string(ranks) + " ranks");
    const slimConfig_t config = makeConfig(slimAlgoTwoShot, 4096);
    std::vector<std::vector<Bytes>> wanted(ranks);
    auto input = [&](int rank, int step) { return makeInput(slimFloat32, kCount, rank, step); };
    auto wide = [&](int rank, int step) { return makeInput(slimFloat32, kCount * ranks, rank, step + 100); };
    forEachRank(ranks, config, [&](int r, slimComm_t comm) {
      Rank me;
      me.Open(comm);
      for (int step = 0; step < kSteps; step++) {
        me.Call(input(r, step), wide(r, step));
        wanted[r].push_back(me.y);
        wanted[r].push_back(me.part);
      }
    });

    std::vector<slimComm_t> comms(ranks);
    std::vector<Rank> all(ranks);
    ASSERT_EQ(slimCommInitLocal(comms.data(), ranks, &config), slimSuccess);
    for (int r = 0; r < ranks; r++) all[r].Open(comms[r]);
    for (int step = 0; step < kSteps; step++) {
      std::vector<Bytes> x, w;
      for (int r = 0; r < ranks; r++) x.push_back(input(r, step)), w.push_back(wide(r, step));
      ASSERT_EQ(slimGroupStart(), slimSuccess);
      for (int r = 0; r < ranks; r++) {
        ASSERT_EQ(slimGroupStart(), slimSuccess);  // groups nest
        all[r].Call(x[r], w[r]);
        ASSERT_EQ(slimGroupEnd(), slimSuccess);
      }
      ASSERT_EQ(slimGroupEnd(), slimSuccess) << slimGetLastError();
      for (int r = 0; r < ranks; r++) {
        EXPECT_EQ(all[r].y, wanted[r][2 * step]) << "rank " << r << ", step " << step;
        EXPECT_EQ(all[r].part, wanted[r][2 * step + 1]) << "rank " << r << ", step " << step;
      }
    }
    for (slimComm_t comm : comms) EXPECT_EQ(slimCommDestroy(comm), slimSuccess);
  }
}

// Ranks of different groups in one thread: as if called one after the other.
TEST(GroupCalls, TwoCommunicators) {
  slimComm_t a[2], b[2];
  ASSERT_EQ(slimCommInitLocal(a, 2, nullptr), slimSuccess);
  ASSERT_EQ(slimCommInitLocal(b, 2, nullptr), slimSuccess);
  std::vector<slimTensor_t> tensors(4);
  std::vector<std::vector<float>> x(4, std::vector<float>(100)), y(4, std::vector<float>(100));
  for (int i = 0; i < 4; i++) {
    ASSERT_EQ(slimTensorCreate(&tensors[i], i < 2 ? a[i] : b[i - 2], "fp32", 0), slimSuccess);
    for (int j = 0; j < 100; j++) x[i][j] = static_cast<float>(i * j);
  }
  ASSERT_EQ(slimGroupStart(), slimSuccess);
  for (int i : {0, 3, 1, 2})
    ASSERT_EQ(slimAllReduce(x[i].data(), y[i].data(), 100, slimFloat32, slimSum, tensors[i], i < 2 ? a[i] : b[i - 2],
                            nullptr),
              slimSuccess);
  ASSERT_EQ(slimGroupEnd(), slimSuccess) << slimGetLastError();
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 100; j++) EXPECT_EQ(y[i][j], static_cast<float>(i < 2 ? j : 5 * j));
  for (slimComm_t comm : {a[0], a[1], b[0], b[1]}) EXPECT_EQ(slimCommDestroy(comm), slimSuccess);
}

// Where one rank cannot make its call, none does, and all go on.
TEST(GroupCalls, OneCannot) {
  slimComm_t comms[2];
  slimTensor_t tensors[2];
  ASSERT_EQ(slimCommInitLocal(comms, 2, nullptr), slimSuccess);
  std::vector<float> x(1000, 1), y[2] = {std::vector<float>(1000), std::vector<float>(1000)};
  for (int r = 0; r < 2; r++) ASSERT_EQ(slimTensorCreate(&tensors[r], comms[r], "ef(onebit)", 0), slimSuccess);
  for (size_t count : {1000, 500, 1000}) {
    ASSERT_EQ(slimGroupStart(), slimSuccess);
    for (int r = 0; r < 2; r++)
      ASSERT_EQ(
          slimAllReduce(x.data(), y[r].data(), r ? 1000 : count, slimFloat32, slimAvg, tensors[r], comms[r], nullptr),
          slimSuccess);
    if (count == 1000) {
      EXPECT_EQ(slimGroupEnd(), slimSuccess) << slimGetLastError();
    } else {
      EXPECT_EQ(slimGroupEnd(), slimInvalidUsage);
      EXPECT_NE(std::string(slimGetLastError()).find("1000 elements"), std::string::npos) << slimGetLastError();
    }
  }
  for (int r = 0; r < 2; r++) {
    slimTensorStats_t stats = {};
    stats.size = sizeof stats;
    ASSERT_EQ(slimTensorGetStats(tensors[r], &stats), slimSuccess);
    EXPECT_EQ(stats.calls, 2u);
    EXPECT_EQ(slimCommDestroy(comms[r]), slimSuccess);
  }
}

TEST(GroupCalls, Refusals) {
  EXPECT_EQ(slimGroupEnd(), slimInvalidUsage);
  EXPECT_STREQ(slimGetLastError(), "slimGroupEnd without slimGroupStart");
  slimComm_t comms[2];
  float x = 1, y;
  ASSERT_EQ(slimCommInitLocal(comms, 2, nullptr), slimSuccess);
  ASSERT_EQ(slimGroupStart(), slimSuccess);
  EXPECT_EQ(slimAllReduce(&x, &y, 1, slimFloat32, slimSum, nullptr, comms[0], nullptr), slimInvalidUsage);
  EXPECT_EQ(slimGroupEnd(), slimSuccess);
  for (slimComm_t comm : comms) EXPECT_EQ(slimCommDestroy(comm), slimSuccess);
}

}  // namespace
}  // namespace slim_test
