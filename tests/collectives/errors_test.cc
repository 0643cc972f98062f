// Wrong calls: an error that says what is wrong, on every rank, no hang, and nothing changed.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>

#include "collectives/tensor.h"
#include "plugin/slimccl_transport.h"
#include "tests/collectives/group.h"

namespace slim_test {
namespace {

using testing::PrintToString;
constexpr size_t kCount = 3000;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// One call in which rank `odd` differs; every rank's answer and message.
struct Answers {
  std::vector<slimResult_t> result;
  std::vector<std::string> message;
};
using Call = std::function<slimResult_t(int rank, slimComm_t comm, slimTensor_t tensor, float* x, float* y)>;

Answers disagree(int ranks, const Call& wrong, const char* spec = "ef(qsgd(bits=4))",
                 slimAlgo_t algo = slimAlgoTwoShot) {
  Answers answers{std::vector<slimResult_t>(ranks), std::vector<std::string>(ranks)};
  forEachRank(ranks, makeConfig(algo), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, spec, 1), slimSuccess) << slimGetLastError();
    std::vector<float> x(2 * kCount * (size_t)ranks, 1.5f), y(2 * kCount * (size_t)ranks);
    ASSERT_EQ(slimAllReduce(x.data(), y.data(), kCount, slimFloat32, slimAvg, tensor, comm, nullptr), slimSuccess)
        << slimGetLastError();
    const float* s = static_cast<float*>(tensor->s.data);
    const std::vector<float> before(s, s + kCount);
    const uint64_t step = tensor->step;
    std::vector<float> marked(y.size(), -7.0f);
    answers.result[rank] = wrong(rank, comm, tensor, x.data(), marked.data());
    answers.message[rank] = slimGetLastError();
    EXPECT_EQ(marked, std::vector<float>(y.size(), -7.0f)) << "recvbuff was written";
    const float* now = static_cast<float*>(tensor->s.data);
    EXPECT_EQ(std::vector<float>(now, now + kCount), before) << "state was changed";
    if (tensor->step != step) return;  // the case of a step that differs
    EXPECT_EQ(slimAllReduce(x.data(), y.data(), kCount, slimFloat32, slimAvg, tensor, comm, nullptr), slimSuccess)
        << "the communicator still works: " << slimGetLastError();
  });
  return answers;
}

void expectNamed(const Answers& answers, int ranks, const std::string& part) {
  for (int r = 0; r < ranks; r++) {
    EXPECT_EQ(answers.result[r], slimInvalidUsage) << r;
    EXPECT_EQ(answers.message[r], answers.message[0]);
  }
  EXPECT_TRUE(contains(answers.message[0], part)) << answers.message[0];
}

TEST(Disagreement, NamesTheRanksAndTheField) {
  const int ranks = 4;
  auto reduce = [](slimComm_t comm, slimTensor_t t, float* x, float* y, size_t n, slimRedOp_t op) {
    return slimAllReduce(x, y, n, slimFloat32, op, t, comm, nullptr);
  };
  expectNamed(disagree(ranks, [&](int r, slimComm_t c, slimTensor_t t, float* x,
                                  float* y) { return reduce(c, t, x, y, kCount, r == 2 ? slimSum : slimAvg); }),
              ranks, "op: rank 2 has");
  expectNamed(disagree(ranks, [&](int r, slimComm_t c, slimTensor_t t, float* x,
                                  float* y) { return reduce(c, r % 2 ? nullptr : t, x, y, kCount, slimAvg); }),
              ranks, "tensor slot: rank 1, 3 has");
  expectNamed(disagree(ranks,
                       [&](int r, slimComm_t c, slimTensor_t t, float* x, float* y) {
                         return r == 0 ? slimReduce(x, y, kCount, slimFloat32, slimAvg, 0, nullptr, c, nullptr)
                                       : reduce(c, nullptr, x, y, kCount, slimAvg);
                         (void)t;
                       }),
              ranks, "collective: rank 1, 2, 3 has allreduce, rank 0 has reduce");
  expectNamed(
      disagree(ranks, [&](int r, slimComm_t c, slimTensor_t, float* x,
                          float* y) { return reduce(c, nullptr, x, y, r == 3 ? kCount + 1 : kCount, slimAvg); }),
      ranks, "element count: rank 3 has 3001, rank 0 has 3000");
  expectNamed(
      disagree(ranks, [&](int r, slimComm_t c, slimTensor_t, float* x,
                          float* y) { return slimBroadcast(x, y, kCount, slimFloat32, r == 1, nullptr, c, nullptr); }),
      ranks, "root: rank 1 has 1, rank 0 has 0");
  expectNamed(disagree(ranks,
                       [&](int r, slimComm_t c, slimTensor_t, float* x, float* y) {
                         return slimAllReduce(x, y, kCount, r ? slimFloat32 : slimInt32, slimSum, nullptr, c, nullptr);
                       }),
              ranks, "data type: rank 1, 2, 3 has fp32, rank 0 has int32");
}

TEST(Disagreement, StepsAndSpecs) {
  const int ranks = 3;
  std::vector<std::string> step(ranks), spec(ranks);
  forEachRank(ranks, makeConfig(), [&](int rank, slimComm_t comm) {
    slimTensor_t a, b;
    ASSERT_EQ(slimTensorCreate(&a, comm, "ef(qsgd(bits=4))", 1), slimSuccess);
    ASSERT_EQ(slimTensorCreate(&b, comm, rank == 1 ? "ef(qsgd(bits=5))" : "ef(qsgd(bits=4))", 2), slimSuccess);
    std::vector<float> x(kCount, 1);
    ASSERT_EQ(slimAllReduce(x.data(), x.data(), kCount, slimFloat32, slimAvg, a, comm, nullptr), slimSuccess);
    if (rank == 2) {
      ASSERT_EQ(slimTensorReset(a), slimSuccess);
    }
    EXPECT_EQ(slimAllReduce(x.data(), x.data(), kCount, slimFloat32, slimAvg, a, comm, nullptr), slimInvalidUsage);
    step[rank] = slimGetLastError();
    EXPECT_EQ(slimAllReduce(x.data(), x.data(), kCount, slimFloat32, slimAvg, b, comm, nullptr), slimInvalidUsage);
    spec[rank] = slimGetLastError();
    EXPECT_FALSE(b->started) << "as if the call had not been";
  });
  for (int r = 0; r < ranks; r++) {
    EXPECT_TRUE(contains(step[r], "step: rank 2 has 0, rank 0 has 1")) << step[r];
    EXPECT_TRUE(contains(spec[r], "spec: rank 1 has hash")) << spec[r];
  }
}

// A rank that cannot make the call says why; the others learn which rank it was.
TEST(Disagreement, OneRankCannot) {
  const int ranks = 3;
  Answers answers = disagree(ranks, [&](int r, slimComm_t c, slimTensor_t t, float* x, float* y) {
    return slimAllReduce(x, y, r == 1 ? kCount / 2 : kCount, slimFloat32, slimAvg, t, c, nullptr);
  });
  EXPECT_EQ(answers.result[1], slimInvalidUsage);
  EXPECT_TRUE(contains(answers.message[1], "slot 1 holds 3000 elements of fp32 for allreduce")) << answers.message[1];
  for (int r : {0, 2}) {
    EXPECT_EQ(answers.result[r], slimRemoteError);
    EXPECT_TRUE(contains(answers.message[r], "rank 1 could not")) << answers.message[r];
  }
}

TEST(Disagreement, ShiftsSetOnSomeRanks) {
  std::vector<std::string> message(3);
  forEachRank(3, makeConfig(), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, "shift(qsgd(bits=4))", 1), slimSuccess) << slimGetLastError();
    std::vector<float> x(kCount, 1);
    if (rank != 1) {
      ASSERT_EQ(slimTensorSetShift(tensor, x.data(), kCount, slimFloat32), slimSuccess);
    }
    EXPECT_EQ(slimAllReduce(x.data(), x.data(), kCount, slimFloat32, slimAvg, tensor, comm, nullptr), slimInvalidUsage);
    message[rank] = slimGetLastError();
    if (rank == 1) {
      ASSERT_EQ(slimTensorSetShift(tensor, x.data(), kCount, slimFloat32), slimSuccess);
    }
    EXPECT_EQ(slimAllReduce(x.data(), x.data(), kCount, slimFloat32, slimAvg, tensor, comm, nullptr), slimSuccess)
        << slimGetLastError();
    EXPECT_EQ(x, std::vector<float>(kCount, 1)) << "x equals its shift: nothing is left to round";
    x[5] = INFINITY;
    EXPECT_EQ(slimTensorSetShift(tensor, x.data(), kCount, slimFloat32), slimInvalidArgument);
  });
  EXPECT_TRUE(contains(message[0], "slimTensorSetShift calls: rank 1 has 0, rank 0 has 1")) << message[0];
}

TEST(Absent, ATimeoutNamesTheRanks) {
  std::vector<std::string> message(4);
  slimConfig_t config = makeConfig();
  config.timeout = 0.2;
  const auto start = std::chrono::steady_clock::now();
  forEachRank(4, config, [&](int rank, slimComm_t comm) {
    if (rank == 1 || rank == 3) return;
    std::vector<float> x(kCount, 1);
    EXPECT_EQ(slimAllReduce(x.data(), x.data(), kCount, slimFloat32, slimAvg, nullptr, comm, nullptr), slimRemoteError);
    message[rank] = slimGetLastError();
    EXPECT_EQ(slimAllReduce(x.data(), x.data(), kCount, slimFloat32, slimAvg, nullptr, comm, nullptr), slimRemoteError)
        << "for good";
  });
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  for (int r : {0, 2}) EXPECT_TRUE(contains(message[r], "not heard from in 0.2 s: rank 1, 3")) << message[r];
}

// A transport that turns one bit of what arrives in one exchange.
struct Faulty {
  slimTransport base;
  slimTransport* inner;
  int exchange, countdown, peer;
  size_t byte;
  std::vector<slimLane> lanes[slimExchanges];
};

slimTransport* makeFaulty(slimTransport* inner, int exchange, int countdown, int peer, size_t byte) {
  auto* f = new Faulty{*inner, inner, exchange, countdown, peer, byte, {}};
  f->base.begin = [](slimTransport* t, int id, const slimLane* lanes) {
    auto* me = reinterpret_cast<Faulty*>(t);
    me->lanes[id].assign(lanes, lanes + me->base.ranks);
    return me->inner->begin(me->inner, id, lanes);
  };
  f->base.wait = [](slimTransport* t, int id, double timeout) {
    auto* me = reinterpret_cast<Faulty*>(t);
    slimResult_t result = me->inner->wait(me->inner, id, timeout);
    if (id == me->exchange && me->countdown-- == 0) static_cast<uint8_t*>(me->lanes[id][me->peer].recv)[me->byte] ^= 1;
    return result;
  };
  f->base.poll = [](slimTransport* t) {
    slimTransport* to = reinterpret_cast<Faulty*>(t)->inner;
    to->poll(to);
  };
  f->base.fail = [](slimTransport* t, const char* why) {
    reinterpret_cast<Faulty*>(t)->inner->fail(reinterpret_cast<Faulty*>(t)->inner, why);
  };
  f->base.destroy = [](slimTransport* t) {
    auto* me = reinterpret_cast<Faulty*>(t);
    me->inner->destroy(me->inner);
    delete me;
  };
  return &f->base;
}

// A header that is not what it must be, found by the chunk's owner: an error report reaches all ranks, none hangs.
TEST(Corruption, AnOwnersReportReachesAllRanks) {
  const int ranks = 4;
  std::vector<slimTransport*> transports(ranks);
  ASSERT_EQ(slimLocalTransports(transports.data(), ranks), slimSuccess);
  transports[2] =
      makeFaulty(transports[2], 0, 1, 1, 24);  // past the agreement, rank 1's payload, the slot in its header
  std::vector<std::thread> threads;
  std::vector<std::string> message(ranks);
  for (int rank = 0; rank < ranks; rank++)
    threads.emplace_back([&, rank] {
      slimComm_t comm;
      const slimConfig_t config = makeConfig(slimAlgoTwoShot);
      ASSERT_EQ(slimCommInitTransport(&comm, transports[rank], &config), slimSuccess);
      slimTensor_t tensor;
      ASSERT_EQ(slimTensorCreate(&tensor, comm, "ef(qsgd(bits=4))", 1), slimSuccess);
      std::vector<float> x(kCount, 1), y(kCount);
      EXPECT_EQ(slimAllReduce(x.data(), y.data(), kCount, slimFloat32, slimAvg, tensor, comm, nullptr),
                slimInvalidUsage);
      message[rank] = slimGetLastError();
      EXPECT_EQ(slimAllReduce(x.data(), y.data(), kCount, slimFloat32, slimAvg, tensor, comm, nullptr),
                slimInvalidUsage);
      EXPECT_TRUE(contains(slimGetLastError(), "slimTensorReset")) << slimGetLastError();
      EXPECT_EQ(slimStateSave(comm, "never_written"), slimInvalidUsage);
      ASSERT_EQ(slimTensorReset(tensor), slimSuccess);
      EXPECT_EQ(slimAllReduce(x.data(), y.data(), kCount, slimFloat32, slimAvg, tensor, comm, nullptr), slimSuccess)
          << slimGetLastError();
      slimCommDestroy(comm);
    });
  for (auto& t : threads) t.join();
  for (int r = 0; r < ranks; r++)
    EXPECT_TRUE(contains(message[r], "rank 2 reports that rank 1 disagrees about tensor slot 1")) << message[r];
}

TEST(Arguments, AreCheckedBeforeAnythingMoves) {
  slimConfig_t config = makeConfig();
  slimComm_t comm;
  EXPECT_EQ(slimCommInitLocal(nullptr, 1, &config), slimInvalidArgument);
  EXPECT_EQ(slimCommInitLocal(&comm, 0, &config), slimInvalidArgument);
  config.size = 4;
  EXPECT_EQ(slimCommInitLocal(&comm, 1, &config), slimInvalidArgument);
  EXPECT_TRUE(contains(slimGetLastError(), "SLIM_CONFIG_INITIALIZER"));
  config = makeConfig((slimAlgo_t)9);
  EXPECT_EQ(slimCommInitLocal(&comm, 1, &config), slimInvalidArgument);
  slimComm_t pair[2];
  ASSERT_EQ(slimCommInitLocal(pair, 2, nullptr), slimSuccess);
  comm = pair[0];
  int n = 0;
  EXPECT_EQ(slimCommCount(comm, &n), slimSuccess);
  EXPECT_EQ(n, 2);
  EXPECT_EQ(slimCommUserRank(pair[1], &n), slimSuccess);
  EXPECT_EQ(n, 1);
  slimTensor_t tensor, other;
  EXPECT_EQ(slimTensorCreate(&tensor, comm, "ef(topk(ration=0.1))", 1), slimInvalidArgument);
  EXPECT_TRUE(contains(slimGetLastError(), "spec:1:9")) << slimGetLastError();
  ASSERT_EQ(slimTensorCreate(&tensor, comm, "ef(onebit)", 1), slimSuccess);
  EXPECT_EQ(slimTensorCreate(&other, comm, "ef(onebit)", 1), slimInvalidUsage);
  EXPECT_TRUE(contains(slimGetLastError(), "slot 1"));
  EXPECT_STREQ(slimTensorSpec(tensor), slimTensorSpec(tensor));
  alignas(64) float x[64] = {0}, y[64];
  auto refused = [&](slimResult_t result, const char* part) {
    EXPECT_EQ(result, slimInvalidArgument) << part;
    EXPECT_TRUE(contains(slimGetLastError(), part)) << slimGetLastError();
  };
  refused(slimAllReduce(nullptr, y, 8, slimFloat32, slimSum, tensor, comm, nullptr), "sendbuff is NULL");
  refused(slimAllReduce(x, nullptr, 8, slimFloat32, slimSum, tensor, comm, nullptr), "recvbuff is NULL");
  refused(slimAllReduce(x, y, 8, (slimDataType_t)11, slimSum, tensor, comm, nullptr), "data type 11");
  refused(slimAllReduce(x, y, 8, slimFloat32, (slimRedOp_t)5, tensor, comm, nullptr), "op 5");
  refused(slimAllReduce(x, y, 8, slimFloat32, slimSum, tensor, nullptr, nullptr), "comm is NULL");
  refused(slimAllReduce(x, y, 8, slimFloat32, slimSum, tensor, comm, x), "stream");
  refused(slimAllReduce(x, (char*)y + 1, 8, slimFloat32, slimSum, tensor, comm, nullptr), "aligned");
  refused(slimAllReduce(x, x + 4, 8, slimFloat32, slimSum, tensor, comm, nullptr), "overlap");
  refused(slimAllReduce(x, y, SIZE_MAX / 4, slimFloat32, slimSum, tensor, comm, nullptr), "too many");
  refused(slimAllReduce(x, y, 8, slimFloat32, slimSum, tensor, pair[1], nullptr), "another communicator");
  refused(slimBroadcast(x, y, 8, slimFloat32, 2, tensor, comm, nullptr), "root is 2");
  refused(slimReduceScatter(x, x + 8, 8, slimFloat32, slimSum, tensor, comm, nullptr),
          "overlap");  // rank 0's place is x
  EXPECT_EQ(slimTensorSetShift(tensor, x, 8, slimFloat32), slimInvalidUsage);
  EXPECT_EQ(slimCommDestroy(nullptr), slimSuccess);
  for (auto c : pair) slimCommDestroy(c);
  EXPECT_STREQ(slimGetErrorString(slimRemoteError), "remote rank failed or did not answer");
  EXPECT_STREQ(slimGetErrorString((slimResult_t)77), "unknown result code");
}

TEST(Arguments, SpecsThatTheCollectiveCannotHave) {
  auto tried = [](slimAlgo_t algo, const char* spec,
                  const std::function<slimResult_t(slimTensor_t, slimComm_t, float*)>& call) {
    slimConfig_t config = makeConfig(algo);
    slimComm_t comm;
    EXPECT_EQ(slimCommInitLocal(&comm, 1, &config), slimSuccess);
    slimTensor_t tensor;
    EXPECT_EQ(slimTensorCreate(&tensor, comm, spec, 1), slimSuccess) << slimGetLastError();
    std::vector<float> x(128);
    EXPECT_EQ(call(tensor, comm, x.data()), slimInvalidUsage) << spec;
    const std::string message = slimGetLastError();
    slimCommDestroy(comm);
    return message;
  };
  auto all = [](slimTensor_t t, slimComm_t c, float* x) {
    return slimAllReduce(x, x, 128, slimFloat32, slimSum, t, c, nullptr);
  };
  const char* both = "up=ef(onebit); down=ef(onebit)";
  EXPECT_TRUE(contains(tried(slimAlgoOneShot, both, all), "no downlink"));
  EXPECT_TRUE(contains(tried(slimAlgoLinear, "up=fp32; down=fp32", all), "no downlink"));
  EXPECT_TRUE(contains(tried(slimAlgoLinear, "ef(onebit)", all), "slimAlgoLinear adds payloads"));
  EXPECT_TRUE(contains(tried(slimAlgoTwoShot, "ef(topk(ratio=0.1,scope=global))", all), "scope=chunk"));
  EXPECT_TRUE(contains(tried(slimAlgoAuto, both,
                             [](slimTensor_t t, slimComm_t c, float* x) {
                               return slimBroadcast(x, x, 128, slimFloat32, 0, t, c, nullptr);
                             }),
                       "broadcast has no downlink"));
  EXPECT_TRUE(contains(tried(slimAlgoAuto, "ef(topk(ratio=0.1,scope=global))",
                             [](slimTensor_t t, slimComm_t c, float* x) {
                               return slimReduceScatter(x, x, 128, slimFloat32, slimSum, t, c, nullptr);
                             }),
                       "scope=chunk"));
}

TEST(Empty, CountZeroSucceedsAndIsNoStep) {
  for (int ranks : {1, 3})
    forEachRank(ranks, makeConfig(), [&](int, slimComm_t comm) {
      slimTensor_t tensor;
      ASSERT_EQ(slimTensorCreate(&tensor, comm, "ef(onebit)", 1), slimSuccess);
      float x[4] = {1, 2, 3, 4};
      for (int k = 0; k < 2; k++) {
        EXPECT_EQ(slimAllReduce(nullptr, nullptr, 0, slimFloat32, slimSum, tensor, comm, nullptr), slimSuccess);
        EXPECT_EQ(slimReduceScatter(nullptr, nullptr, 0, slimFloat32, slimSum, tensor, comm, nullptr), slimSuccess);
        EXPECT_EQ(tensor->step, (uint64_t)k);
        EXPECT_EQ(slimAllReduce(x, x, 4, slimFloat32, slimSum, tensor, comm, nullptr), slimSuccess);
      }
    });
}

}  // namespace
}  // namespace slim_test
