// The NVTX ranges of calls, as a tool sees them.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "collectives/tensor.h"
#include "tests/collectives/group.h"
#include "tests/ranges/recorder.h"

namespace slim_test {
namespace {

std::string recorderPath() {
  char* path = realpath("tests/ranges/librecorder.so", nullptr);
  EXPECT_TRUE(path) << "tests/ranges/librecorder.so";
  const std::string text = path ? path : "";
  free(path);
  return text;
}

// The recorder, from before SlimCCL's first range on.
struct Recorder {
  Recorder() {
    setenv("NVTX_INJECTION64_PATH", recorderPath().c_str(), 1);
    void* library = dlopen(recorderPath().c_str(), RTLD_NOW);
    EXPECT_TRUE(library) << dlerror();
    count = reinterpret_cast<decltype(count)>(dlsym(library, "recorderCount"));
    total = reinterpret_cast<decltype(total)>(dlsym(library, "recorderTotal"));
    depth = reinterpret_cast<decltype(depth)>(dlsym(library, "recorderDepth"));
  }
  decltype(&recorderCount) count;
  decltype(&recorderTotal) total;
  decltype(&recorderDepth) depth;
};
const Recorder& recorder() {
  static const Recorder the;
  return the;
}

const char* const kNames[] = {"SlimCCL/encode", "SlimCCL/exchange", "SlimCCL/reduce", "SlimCCL/decode"};

TEST(Ranges, OneForEachPassInADomainOfTheirOwn) {
  for (const int ranks : rankCounts()) {
    const Recorder& r = recorder();
    uint64_t before[4], slices = 0, owned = 0;
    for (int i = 0; i < 4; i++) before[i] = r.count(kNames[i]);
    forEachRank(ranks, makeConfig(slimAlgoTwoShot, 4096), [&](int rank, slimComm_t comm) {
      slimTensor_t tensor;
      ASSERT_EQ(slimTensorCreate(&tensor, comm, "ef(qsgd(bits=4,block=64))", 1), slimSuccess) << slimGetLastError();
      std::vector<float> x(3000, 1.0f), y(x.size());
      ASSERT_EQ(slimAllReduce(x.data(), y.data(), x.size(), slimFloat32, slimAvg, tensor, comm, nullptr), slimSuccess);
      EXPECT_EQ(r.depth(), 0);
      if (rank) return;
      slices = slimSlices(&tensor->cut);
      for (uint64_t k = 0; k < slices; k++)
        for (int owner = 0; owner < ranks; owner++) owned += slimChunkPiece(&tensor->cut, k, owner).n > 0;
    });
    SCOPED_TRACE(std::to_string(ranks) + " ranks, " + std::to_string(slices) + " slices");
    const uint64_t each = static_cast<uint64_t>(ranks) * slices;
    EXPECT_GT(slices, 1u);
    EXPECT_EQ(r.count(kNames[0]) - before[0], each);
    EXPECT_GE(r.count(kNames[1]) - before[1], 4 * each) << "two exchanges a slice, begun and waited for";
    EXPECT_EQ(r.count(kNames[2]) - before[2], owned);
    EXPECT_EQ(r.count(kNames[3]) - before[3], each);
    uint64_t ours = 0;
    for (const char* name : kNames) ours += r.count(name);
    EXPECT_EQ(r.total(), ours);
  }
}

TEST(Ranges, AreClosedWhereACallFails) {
  forEachRank(3, makeConfig(), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, "ef(qsgd(bits=4))", 1), slimSuccess) << slimGetLastError();
    std::vector<float> x(3000, 1.0f), y(x.size());
    const size_t count = x.size() - (rank == 1);
    EXPECT_EQ(slimAllReduce(x.data(), y.data(), count, slimFloat32, slimAvg, tensor, comm, nullptr), slimInvalidUsage);
    EXPECT_EQ(recorder().depth(), 0);
  });
}

}  // namespace
}  // namespace slim_test
