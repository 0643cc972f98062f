// slimCommInitNCCL: collectives over an ncclComm_t have the bits of the same collectives between local ranks in host
// memory.
#include <cuda_runtime.h>
#include <gtest/gtest.h>
#include <nccl.h>

#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "plugin/slimccl_nccl.h"
#include "tests/collectives/group.h"

namespace slim_test {
namespace {

enum class Kind { kAllReduce, kReduce, kBroadcast, kReduceScatter, kAllGather };
const char* const kNames[] = {"AllReduce", "Reduce", "Broadcast", "ReduceScatter", "AllGather"};

struct Case {
  Kind kind;
  const char* spec;
  size_t count;  // of a rank's part, for ReduceScatter and AllGather
  slimDataType_t type = slimFloat32;
  slimAlgo_t algo = slimAlgoAuto;
};

size_t SizeOf(slimDataType_t type) {
  return type == slimFloat64 ? 8 : type == slimFloat32 || type == slimInt32 ? 4 : 2;
}

slimResult_t Call(const Case& c, int rank, const void* x, void* y, slimTensor_t tensor, slimComm_t comm, void* stream) {
  switch (c.kind) {
    case Kind::kAllReduce:
      return slimAllReduce(x, y, c.count, c.type, slimAvg, tensor, comm, stream);
    case Kind::kReduce:
      return slimReduce(x, rank == 0 ? y : nullptr, c.count, c.type, slimSum, 0, tensor, comm, stream);
    case Kind::kBroadcast:
      return slimBroadcast(x, y, c.count, c.type, 0, tensor, comm, stream);
    case Kind::kReduceScatter:
      return slimReduceScatter(x, y, c.count, c.type, slimSum, tensor, comm, stream);
    case Kind::kAllGather:
      return slimAllGather(x, y, c.count, c.type, tensor, comm, stream);
  }
  return slimInternalError;
}

constexpr int kSteps = 3;
using Results = std::vector<std::vector<Bytes>>;  // [rank][step]

Bytes Input(const Case& c, int ranks, int rank, int step) {
  return makeInput(c.type, c.kind == Kind::kReduceScatter ? c.count * ranks : c.count, rank, step);
}
size_t OutputBytes(const Case& c, int ranks) {
  return (c.kind == Kind::kAllGather ? c.count * ranks : c.count) * SizeOf(c.type);
}

Results OnHost(const Case& c, int ranks) {
  Results results(ranks);
  forEachRank(ranks, makeConfig(c.algo, 1 << 16), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, c.spec, 3), slimSuccess) << slimGetLastError();
    for (int step = 0; step < kSteps; step++) {
      Bytes x = Input(c, ranks, rank, step), y(OutputBytes(c, ranks));
      ASSERT_EQ(Call(c, rank, x.data(), y.data(), tensor, comm, nullptr), slimSuccess) << slimGetLastError();
      results[rank].push_back(y);
    }
  });
  return results;
}

// A rank's device memory, freed at the end.
struct DeviceBytes {
  explicit DeviceBytes(size_t bytes) : size(bytes) { EXPECT_EQ(cudaMalloc(&data, bytes ? bytes : 1), cudaSuccess); }
  ~DeviceBytes() { cudaFree(data); }
  void* data = nullptr;
  size_t size;
};

// Each rank a thread with a device and an ncclComm_t of its own: what a program with one device a thread does.
void WithNccl(int ranks, const std::function<void(int rank, ncclComm_t comm, cudaStream_t stream)>& body) {
  ncclUniqueId id;
  ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; r++)
    threads.emplace_back([&, r] {
      ncclComm_t nccl;
      cudaStream_t stream;
      ASSERT_EQ(cudaSetDevice(r), cudaSuccess);
      ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
      ASSERT_EQ(ncclCommInitRank(&nccl, ranks, id, r), ncclSuccess) << ncclGetLastError(nullptr);
      body(r, nccl, stream);
      EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
      EXPECT_EQ(ncclCommDestroy(nccl), ncclSuccess);
      EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
    });
  for (auto& thread : threads) thread.join();
}

Results OnDevices(const Case& c, int ranks) {
  Results results(ranks);
  WithNccl(ranks, [&](int rank, ncclComm_t nccl, cudaStream_t stream) {
    slimConfig_t config = makeConfig(c.algo, 1 << 16);
    config.deviceBytes = 8 << 20;
    slimComm_t comm;
    ASSERT_EQ(slimCommInitNCCL(&comm, nccl, &config), slimSuccess) << slimGetLastError();
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, c.spec, 3), slimSuccess) << slimGetLastError();
    DeviceBytes x(Input(c, ranks, rank, 0).size()), y(OutputBytes(c, ranks));
    for (int step = 0; step < kSteps; step++) {
      const Bytes in = Input(c, ranks, rank, step);
      Bytes out(y.size);
      EXPECT_EQ(cudaMemsetAsync(y.data, 0, y.size, stream), cudaSuccess);
      EXPECT_EQ(cudaMemcpyAsync(x.data, in.data(), in.size(), cudaMemcpyHostToDevice, stream), cudaSuccess);
      ASSERT_EQ(Call(c, rank, x.data, y.data, tensor, comm, stream), slimSuccess) << slimGetLastError();
      EXPECT_EQ(cudaMemcpyAsync(out.data(), y.data, out.size(), cudaMemcpyDeviceToHost, stream), cudaSuccess);
      EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
      results[rank].push_back(out);
    }
    slimResult_t error;
    EXPECT_EQ(slimCommGetAsyncError(comm, &error), slimSuccess);
    EXPECT_EQ(error, slimSuccess) << slimGetLastError();
    EXPECT_EQ(slimCommDestroy(comm), slimSuccess);
  });
  return results;
}

class OverNccl : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, OverNccl, testing::Values(1, 2, 3, 4, 8));

const Case kCases[] = {
    {Kind::kAllReduce, "ef(qsgd(bits=4))", 5000},
    {Kind::kAllReduce, "diana(ternary)", 700, slimFloat16},
    {Kind::kAllReduce, "ef(topk(ratio=0.05))", 3001, slimBfloat16},
    {Kind::kAllReduce, "ef(rotate(onebit))", 2500, slimFloat32, slimAlgoTwoShot},
    {Kind::kAllReduce, "qsgd(bits=8)", 1000, slimFloat32, slimAlgoOneShot},
    {Kind::kAllReduce, "ef(qsgd(bits=4))", 1},
    {Kind::kAllReduce, "ef(qsgd(bits=4))", 0},
    {Kind::kReduce, "ef(qsgd(bits=4))", 1500},
    {Kind::kBroadcast, "bf16", 1500},
    {Kind::kReduceScatter, "ef(qsgd(bits=4))", 600},
    {Kind::kAllGather, "natural", 600},
    // Several slices: exchanges run beside passes.
    {Kind::kAllReduce, "ef(qsgd(bits=4))", 80000},
    {Kind::kAllReduce, "qsgd(bits=8)", 60000, slimFloat32, slimAlgoOneShot},
    {Kind::kBroadcast, "bf16", 60000},
    {Kind::kReduceScatter, "ef(qsgd(bits=4))", 20000},
    {Kind::kAllGather, "natural", 20000},
    {Kind::kAllReduce, "fo(lambda=shared)", 3000},
    {Kind::kAllReduce, "ef(tbqsgd(bits=3,stats=previous),memory=bf16)", 3000, slimBfloat16, slimAlgoTwoShot},
};

void ExpectEqual(const Case& c, const Results& devices, const Results& host) {
  SCOPED_TRACE(std::string(kNames[static_cast<int>(c.kind)]) + " " + c.spec + " " + std::to_string(c.count));
  for (size_t r = 0; r < host.size(); r++) {
    if (c.kind == Kind::kReduce && r) continue;
    ASSERT_EQ(devices[r].size(), host[r].size());
    for (int step = 0; step < kSteps; step++)
      EXPECT_EQ(devices[r][step], host[r][step]) << "rank " << r << ", step " << step;
  }
}

TEST_P(OverNccl, HasTheBitsOfHostMemory) {
  for (const Case& c : kCases) ExpectEqual(c, OnDevices(c, GetParam()), OnHost(c, GetParam()));
}

// A process with several devices and one thread: creation and calls in groups.
TEST_P(OverNccl, OneThreadDrivesAllDevices) {
  const int ranks = GetParam();
  std::vector<ncclComm_t> nccl(ranks);
  std::vector<slimComm_t> comms(ranks);
  std::vector<cudaStream_t> streams(ranks);
  ASSERT_EQ(ncclCommInitAll(nccl.data(), ranks, nullptr), ncclSuccess);
  for (const Case& c : {kCases[0], kCases[7], kCases[8], kCases[9], kCases[10], kCases[11]}) {
    slimConfig_t config = makeConfig(c.algo, 1 << 16);
    config.deviceBytes = static_cast<size_t>(8 + ranks % 2) << 20;
    ASSERT_EQ(slimGroupStart(), slimSuccess);
    for (int r = 0; r < ranks; r++) ASSERT_EQ(slimCommInitNCCL(&comms[r], nccl[r], &config), slimSuccess);
    ASSERT_EQ(slimGroupEnd(), slimSuccess) << slimGetLastError();
    std::vector<slimTensor_t> tensors(ranks);
    std::vector<std::unique_ptr<DeviceBytes>> x, y;
    for (int r = 0; r < ranks; r++) {
      ASSERT_EQ(slimTensorCreate(&tensors[r], comms[r], c.spec, 3), slimSuccess);
      ASSERT_EQ(cudaSetDevice(r), cudaSuccess);
      ASSERT_EQ(cudaStreamCreateWithFlags(&streams[r], cudaStreamNonBlocking), cudaSuccess);
      x.push_back(std::make_unique<DeviceBytes>(Input(c, ranks, r, 0).size()));
      y.push_back(std::make_unique<DeviceBytes>(OutputBytes(c, ranks)));
    }
    Results results(ranks);
    for (int step = 0; step < kSteps; step++) {
      for (int r = 0; r < ranks; r++) {
        const Bytes in = Input(c, ranks, r, step);
        ASSERT_EQ(cudaMemcpy(x[r]->data, in.data(), in.size(), cudaMemcpyHostToDevice), cudaSuccess);
        ASSERT_EQ(cudaMemsetAsync(y[r]->data, 0, y[r]->size, streams[r]), cudaSuccess);
      }
      ASSERT_EQ(slimGroupStart(), slimSuccess);
      for (int r = 0; r < ranks; r++)
        ASSERT_EQ(Call(c, r, x[r]->data, y[r]->data, tensors[r], comms[r], streams[r]), slimSuccess)
            << slimGetLastError();
      ASSERT_EQ(slimGroupEnd(), slimSuccess) << slimGetLastError();
      for (int r = 0; r < ranks; r++) {
        Bytes out(y[r]->size);
        ASSERT_EQ(cudaStreamSynchronize(streams[r]), cudaSuccess);
        ASSERT_EQ(cudaMemcpy(out.data(), y[r]->data, out.size(), cudaMemcpyDeviceToHost), cudaSuccess);
        results[r].push_back(out);
      }
    }
    ExpectEqual(c, results, OnHost(c, ranks));
    for (int r = 0; r < ranks; r++) {
      EXPECT_EQ(slimCommDestroy(comms[r]), slimSuccess);
      EXPECT_EQ(cudaStreamDestroy(streams[r]), cudaSuccess);
    }
  }
  for (ncclComm_t comm : nccl) EXPECT_EQ(ncclCommDestroy(comm), ncclSuccess);
}

// Without a tensor, and for integers, the call is NCCL's own.
TEST_P(OverNccl, PlainIsNccls) {
  const int ranks = GetParam();
  WithNccl(ranks, [&](int rank, ncclComm_t nccl, cudaStream_t stream) {
    slimComm_t comm;
    slimConfig_t config = makeConfig();
    config.deviceBytes = 8 << 20;
    ASSERT_EQ(slimCommInitNCCL(&comm, nccl, &config), slimSuccess) << slimGetLastError();
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, "onebit", 0), slimSuccess);
    const int32_t in[3] = {rank, 10 * rank, -1};
    int32_t out[3] = {};
    DeviceBytes x(sizeof in), y(sizeof out);
    EXPECT_EQ(cudaMemcpyAsync(x.data, in, sizeof in, cudaMemcpyHostToDevice, stream), cudaSuccess);
    EXPECT_EQ(slimAllReduce(x.data, y.data, 3, slimInt32, slimSum, tensor, comm, stream), slimSuccess)
        << slimGetLastError();
    EXPECT_EQ(cudaMemcpyAsync(out, y.data, sizeof out, cudaMemcpyDeviceToHost, stream), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    const int all = ranks * (ranks - 1) / 2;
    EXPECT_EQ(out[0], all);
    EXPECT_EQ(out[1], 10 * all);
    EXPECT_EQ(out[2], -ranks);
    EXPECT_EQ(slimCommDestroy(comm), slimSuccess);
  });
}

TEST_P(OverNccl, SettingsThatDifferAreNamed) {
  const int ranks = GetParam();
  if (ranks == 1) return;
  WithNccl(ranks, [&](int rank, ncclComm_t nccl, cudaStream_t) {
    slimComm_t comm;
    slimConfig_t config = makeConfig();
    config.deviceBytes = 8 << 20;
    config.seed = rank == ranks - 1 ? 7 : 1;
    EXPECT_EQ(slimCommInitNCCL(&comm, nccl, &config), slimInvalidUsage);
    EXPECT_EQ(slimGetLastError(), "ranks disagree about the seed: rank " + std::to_string(ranks - 1) +
                                      " has 7, rank 0 has 1; all ranks must be made with the same settings");
  });
}

TEST(OverNcclErrors, BadArguments) {
  slimComm_t comm;
  EXPECT_EQ(slimCommInitNCCL(&comm, nullptr, nullptr), slimInvalidArgument);
  EXPECT_STREQ(slimGetLastError(), "ncclComm is NULL");
}

}  // namespace
}  // namespace slim_test
