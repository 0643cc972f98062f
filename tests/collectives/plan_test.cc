// What slimPlanAllReduce foretells is what a call then takes: algorithm, bytes sent, state; or it fails in its words.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <mutex>

#include "collectives/plan.h"
#include "tests/collectives/group.h"

namespace slim_test {
namespace {

struct Compressor {
  explicit Compressor(const char* spec) {
    EXPECT_EQ(slimCompressorCreate(&compressor, spec), slimSuccess) << slimLastMessage();
  }
  ~Compressor() { slimCompressorDestroy(compressor); }
  slimCompressor* compressor = nullptr;
};

const char* const kSpecs[] = {"fp32",
                              "qsgd(bits=4)",
                              "ef(qsgd(bits=4))",
                              "ef(qsgd(bits=4), memory=bf16)",
                              "ef(topk(ratio=0.01))",
                              "ef(topk(ratio=0.01, scope=global))",
                              "ef(topk(k=5, scope=chunk))",
                              "ef(randk(ratio=0.05, seed=shared))",
                              "up=diana(ternary); down=diana(qsgd(bits=4, block=1024))",
                              "ef21(onebit, momentum=0.1)",
                              "fo(lambda=shared)",
                              "ef(tnqsgd(bits=3, stats=previous))",
                              "diana(induced(topk(ratio=0.1), randk(ratio=0.1)))"};

TEST(Plan, IsWhatACallTakes) {
  for (const int ranks : rankCounts())
    for (const size_t count : {1, 700, 65536})
      for (const slimAlgo_t algo : {slimAlgoAuto, slimAlgoTwoShot, slimAlgoOneShot, slimAlgoLinear})
        for (const slimDataType_t type : {slimFloat32, slimFloat64, slimBfloat16})
          for (const char* spec : kSpecs) {
            if (count > 700 && type != slimFloat32 && algo != slimAlgoAuto) continue;  // a part is enough
            SCOPED_TRACE(std::string(spec) + ", " + std::to_string(ranks) + " ranks, " + std::to_string(count) +
                         " of " + slimTypeName(type) + ", algorithm " + std::to_string(algo));
            std::mutex mutex;
            slimPlan plan = {};
            slimResult_t foretold = slimSuccess;
            uint64_t sent = 0, plain = 0, state = 0;
            forEachRank(ranks, makeConfig(algo, 65536), [&](int rank, slimComm_t comm) {
              Compressor c(spec);
              slimPlan mine = {};
              const slimResult_t planned =
                  slimPlanAllReduce(&mine, c.compressor, &comm->settings, comm->device, ranks, type, count);
              const std::string words = slimLastMessage();
              slimTensor_t tensor;
              ASSERT_EQ(slimTensorCreate(&tensor, comm, spec, 3), slimSuccess) << slimGetLastError();
              const Bytes input = makeInput(type, count, rank, 0);
              Buffer x(input), y(input.size());
              const slimResult_t called =
                  slimAllReduce(x.data(), y.data(), count, type, slimAvg, tensor, comm, nullptr);
              std::lock_guard<std::mutex> lock(mutex);
              ASSERT_EQ(planned, called) << slimGetLastError();
              foretold = planned;
              plan = mine;
              if (called != slimSuccess) {
                EXPECT_EQ(words, slimGetLastError());
                return;
              }
              slimTensorStats_t stats = {};
              stats.size = sizeof stats;
              ASSERT_EQ(slimTensorGetStats(tensor, &stats), slimSuccess);
              EXPECT_EQ(tensor->algorithm, mine.algorithm);
              EXPECT_EQ(slimSlices(&tensor->cut), mine.slices);
              sent = std::max(sent, stats.wireBytes);
              state = std::max(state, stats.stateBytes);
              plain = std::max(plain, stats.plainBytes);
            });
            if (foretold != slimSuccess) continue;
            EXPECT_EQ(sent, plan.sentBytes);
            EXPECT_EQ(state, plan.stateBytes);
            EXPECT_EQ(plain, plan.plainBytes);
          }
}

}  // namespace
}  // namespace slim_test
