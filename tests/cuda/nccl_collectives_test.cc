// slimCommInitNCCL: collectives over an ncclComm_t have the bits of the same collectives between local ranks in host
// memory.
#include <cuda_runtime.h>
#include <gtest/gtest.h>
#include <nccl.h>

#include <cstdio>
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
  Fill fill = Fill::kNormal;
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
  return makeInput(c.type, c.kind == Kind::kReduceScatter ? c.count * ranks : c.count, rank, step, c.fill);
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

using Domains = std::vector<uint64_t>;  // of each rank, or empty: flat

slimConfig_t ConfigOf(const Case& c, const Domains& domains, int rank) {
  slimConfig_t config = makeConfig(c.algo, 1 << 16);
  config.deviceBytes = 8 << 20;
  if (domains.empty()) return config;
  config.hierarchy = slimHierarchyAuto;
  config.domain = domains[rank];
  return config;
}

Results OnDevices(const Case& c, int ranks, const Domains& domains = {}) {
  Results results(ranks);
  WithNccl(ranks, [&](int rank, ncclComm_t nccl, cudaStream_t stream) {
    const slimConfig_t config = ConfigOf(c, domains, rank);
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

// The stand-in's NCCL adds in rank order, as host memory does; a real one in an order of its own.
const Case kLinearCases[] = {
    {Kind::kAllReduce, "fp32", 5000, slimFloat32, slimAlgoLinear},
    {Kind::kAllReduce, "fp32", 5000, slimFloat32, slimAlgoLinear, Fill::kNonFinite},
    {Kind::kAllReduce, "ef(randk(ratio=0.1,seed=shared))", 3001, slimFloat16, slimAlgoLinear},
    {Kind::kAllReduce, "ef(randk(ratio=0.1,seed=shared))", 5001, slimFloat32, slimAlgoLinear, Fill::kNonFinite},
    {Kind::kAllReduce, "randk(ratio=0.02,seed=shared)", 1, slimFloat32, slimAlgoLinear},
    {Kind::kAllReduce, "randk(ratio=0.02,seed=shared)", 0, slimFloat32, slimAlgoLinear},
    {Kind::kReduce, "ef(fp32)", 1500, slimBfloat16, slimAlgoLinear},
    {Kind::kAllReduce, "ef(randk(ratio=0.5,seed=shared))", 80000, slimFloat32, slimAlgoLinear},  // several slices
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

// ---- Hierarchies
// ------------------------------------------------------------------------------------------------------

struct Layout {
  Domains domains;
  int size;  // of each domain, where they are layered
};
std::vector<Layout> LayoutsOf(int ranks) {
  switch (ranks) {
    case 4:
      return {{{7, 7, 9, 9}, 2}, {{7, 9, 9, 7}, 2}};
    case 8:
      return {{{1, 1, 2, 2, 3, 3, 4, 4}, 2}, {{2, 1, 2, 1, 2, 1, 2, 1}, 4}};
    default:
      return {};
  }
}

// What a hierarchy is to do, in host memory: sums of shards inside, allreduce of each shard across, the rest exact.
// Specs must draw nothing: a shard's draws are its own.
template <typename T>
Results LayeredOnHost(const Case& c, const Layout& layout) {
  const int ranks = static_cast<int>(layout.domains.size()), count = ranks / layout.size;
  const size_t shard = c.count / (64 * layout.size) * 64, cut = shard * layout.size;
  std::vector<std::vector<int>> members;  // [domain][place]
  std::vector<uint64_t> names;
  for (int r = 0; r < ranks; r++) {
    size_t d = 0;
    while (d < names.size() && names[d] != layout.domains[r]) d++;
    if (d == names.size()) names.push_back(layout.domains[r]), members.emplace_back();
    members[d].push_back(r);
  }
  const auto mean = [&](const std::vector<int>& of, int step, size_t at, size_t n) {
    std::vector<T> sum(n);
    for (const int r : of) {
      const Bytes in = Input(c, ranks, r, step);
      for (size_t i = 0; i < n; i++) sum[i] += reinterpret_cast<const T*>(in.data())[at + i];
    }
    for (T& v : sum) v /= static_cast<T>(of.size());
    return sum;
  };
  Results results(1, std::vector<Bytes>(kSteps, Bytes(c.count * sizeof(T))));
  for (int place = 0; place < layout.size; place++)
    forEachRank(count, makeConfig(c.algo, 1 << 16), [&](int domain, slimComm_t comm) {
      slimTensor_t tensor;
      ASSERT_EQ(slimTensorCreate(&tensor, comm, c.spec, 3), slimSuccess) << slimGetLastError();
      for (int step = 0; step < kSteps; step++) {
        std::vector<T> x = mean(members[domain], step, place * shard, shard), y(shard);
        ASSERT_EQ(slimAllReduce(x.data(), y.data(), shard, c.type, slimAvg, tensor, comm, nullptr), slimSuccess)
            << slimGetLastError();
        if (domain == 0) memcpy(results[0][step].data() + place * shard * sizeof(T), y.data(), shard * sizeof(T));
      }
    });
  std::vector<int> all(ranks);
  for (int r = 0; r < ranks; r++) all[r] = r;
  for (int step = 0; step < kSteps && cut < c.count; step++) {
    const std::vector<T> rest = mean(all, step, cut, c.count - cut);
    memcpy(results[0][step].data() + cut * sizeof(T), rest.data(), rest.size() * sizeof(T));
  }
  results.resize(ranks, results[0]);
  return results;
}

const Case kLayeredCases[] = {
    {Kind::kAllReduce, "fp32", 5000},
    {Kind::kAllReduce, "ef(qsgd(bits=4))", 5003},
    {Kind::kAllReduce, "ef(topk(ratio=0.05))", 3001, slimFloat64},
    {Kind::kAllReduce, "ef(onebit)", 2500, slimFloat32, slimAlgoTwoShot},
    {Kind::kAllReduce, "ef21(topk(ratio=0.1),momentum=0.5)", 2560, slimFloat32, slimAlgoOneShot},
    {Kind::kAllReduce, "ef(qsgd(bits=4))", 256},
    {Kind::kAllReduce, "ef(qsgd(bits=4))", 80001},  // several slices
    {Kind::kAllReduce, "fp32", 3000, slimFloat32, slimAlgoLinear},
};

TEST_P(OverNccl, AHierarchySumsInsideAndCompressesAcross) {
  for (const Layout& layout : LayoutsOf(GetParam()))
    for (const Case& c : kLayeredCases)
      ExpectEqual(c, OnDevices(c, GetParam(), layout.domains),
                  c.type == slimFloat64 ? LayeredOnHost<double>(c, layout) : LayeredOnHost<float>(c, layout));
}

// What a hierarchy leaves flat, and domains that are none.
TEST_P(OverNccl, WhatAHierarchyLeavesFlat) {
  const int ranks = GetParam();
  const Case cases[] = {{Kind::kAllReduce, "ef(qsgd(bits=4))", 127},
                        {Kind::kAllReduce, "qsgd(bits=4)", 1},
                        {Kind::kAllReduce, "ef(qsgd(bits=4))", 0},
                        {Kind::kReduce, "ef(qsgd(bits=4))", 1500},
                        {Kind::kBroadcast, "bf16", 1500},
                        {Kind::kReduceScatter, "ef(qsgd(bits=4))", 600},
                        {Kind::kAllGather, "natural", 600}};
  for (const Layout& layout : LayoutsOf(ranks))
    for (const Case& c : cases) ExpectEqual(c, OnDevices(c, ranks, layout.domains), OnHost(c, ranks));
  Domains apart(ranks), uneven(ranks, 5);
  uneven[ranks - 1] = 0;
  for (int r = 0; r < ranks; r++) apart[r] = r % 2 ? 10 + r : 0;
  ExpectEqual(kCases[0], OnDevices(kCases[0], ranks, apart), OnHost(kCases[0], ranks));
  ExpectEqual(kCases[0], OnDevices(kCases[0], ranks, uneven), OnHost(kCases[0], ranks));
  if (ranks == 1) return;
  const Case exact = {Kind::kAllReduce, "fp32", 700};
  const Results one = OnDevices({Kind::kAllReduce, "onebit", 700}, ranks, Domains(ranks, 5));
  for (int step = 0; step < kSteps; step++) {
    std::vector<float> mean(exact.count);
    for (int r = 0; r < ranks; r++) {
      const Bytes in = Input(exact, ranks, r, step);
      for (size_t i = 0; i < mean.size(); i++) mean[i] += reinterpret_cast<const float*>(in.data())[i];
    }
    for (float& v : mean) v /= static_cast<float>(ranks);
    for (int r = 0; r < ranks; r++)
      EXPECT_EQ(memcmp(one[r][step].data(), mean.data(), one[r][step].size()), 0) << "one domain is plain";
  }
}

// Shards with the same values must not be rounded alike, and all ranks have the same bits.
TEST(OverNcclHierarchy, ShardsDrawForThemselves) {
  std::mutex lock;
  std::vector<std::vector<float>> results;
  WithNccl(4, [&](int rank, ncclComm_t nccl, cudaStream_t stream) {
    slimConfig_t config = makeConfig();
    config.deviceBytes = 8 << 20;
    config.hierarchy = slimHierarchyAuto;
    config.domain = 1 + rank / 2;
    slimComm_t comm;
    slimTensor_t tensor;
    ASSERT_EQ(slimCommInitNCCL(&comm, nccl, &config), slimSuccess) << slimGetLastError();
    ASSERT_EQ(slimTensorCreate(&tensor, comm, "qsgd(bits=4)", 0), slimSuccess);
    std::vector<float> in(4096), out(in.size());
    for (size_t i = 0; i < in.size(); i++) in[i] = static_cast<float>(i % 2048 % 97) / 97;
    DeviceBytes x(in.size() * 4);
    EXPECT_EQ(cudaMemcpyAsync(x.data, in.data(), x.size, cudaMemcpyHostToDevice, stream), cudaSuccess);
    ASSERT_EQ(slimAllReduce(x.data, x.data, in.size(), slimFloat32, slimSum, tensor, comm, stream), slimSuccess)
        << slimGetLastError();
    EXPECT_EQ(cudaMemcpyAsync(out.data(), x.data, x.size, cudaMemcpyDeviceToHost, stream), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    slimTensorStats_t stats = {};
    stats.size = sizeof stats;
    EXPECT_EQ(slimTensorGetStats(tensor, &stats), slimSuccess);
    EXPECT_EQ(stats.elements, 2048u);
    EXPECT_EQ(slimTensorCancelStep(tensor, x.data), slimInvalidUsage);
    EXPECT_EQ(slimCommDestroy(comm), slimSuccess);
    std::lock_guard<std::mutex> guard(lock);
    results.push_back(out);
  });
  ASSERT_EQ(results.size(), 4u);
  for (const auto& r : results) EXPECT_EQ(r, results[0]);
  int equal = 0;
  for (size_t i = 0; i < 2048; i++) {
    equal += results[0][i] == results[0][2048 + i];
    EXPECT_NEAR(results[0][i], 4 * static_cast<float>(i % 97) / 97, 4 * 2 / 7. + .1);
  }
  EXPECT_LT(equal, 1500);
}

TEST(OverNcclHierarchy, WantsACommunicatorThatBlocks) {
  ncclUniqueId id;
  ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
  std::vector<std::thread> threads;
  for (int r = 0; r < 4; r++)
    threads.emplace_back([&, r] {
      ncclComm_t nccl;
      ncclConfig_t nonblocking = NCCL_CONFIG_INITIALIZER;
      nonblocking.blocking = 0;
      ASSERT_EQ(cudaSetDevice(r), cudaSuccess);
      ncclResult_t state = ncclCommInitRankConfig(&nccl, 4, id, r, &nonblocking);
      while (state == ncclInProgress) ASSERT_EQ(ncclCommGetAsyncError(nccl, &state), ncclSuccess);
      ASSERT_EQ(state, ncclSuccess);
      slimComm_t comm;
      const slimConfig_t config = ConfigOf(kCases[0], {1, 1, 2, 2}, r);
      EXPECT_EQ(slimCommInitNCCL(&comm, nccl, &config), slimInvalidUsage);
      EXPECT_STREQ(slimGetLastError(), "a hierarchy wants an ncclComm_t that blocks: use slimHierarchyFlat");
      EXPECT_EQ(ncclCommDestroy(nccl), ncclSuccess);
    });
  for (auto& thread : threads) thread.join();
}

// A state file goes on; one of ranks that were flat is refused; and a tensor that starts anew may do something else.
TEST(OverNcclHierarchy, StateFilesAndReset) {
  const std::string path = testing::TempDir() + "layered.state.";
  const Case c = kLayeredCases[1];
  const Domains domains = {1, 1, 2, 2};
  const Results whole = OnDevices(c, 4, domains);
  WithNccl(4, [&](int rank, ncclComm_t nccl, cudaStream_t stream) {
    const std::string own = path + std::to_string(rank);
    DeviceBytes x(c.count * 4), y(c.count * 4);
    Bytes out(y.size);
    for (const bool second : {false, true}) {
      slimConfig_t config = ConfigOf(c, domains, rank);
      slimComm_t comm;
      slimTensor_t tensor;
      ASSERT_EQ(slimCommInitNCCL(&comm, nccl, &config), slimSuccess) << slimGetLastError();
      ASSERT_EQ(slimTensorCreate(&tensor, comm, c.spec, 3), slimSuccess);
      if (second) {
        ASSERT_EQ(slimStateLoad(comm, own.c_str()), slimSuccess) << slimGetLastError();
      }
      for (int step = second ? 1 : 0; step < (second ? kSteps : 1); step++) {
        const Bytes in = Input(c, 4, rank, step);
        EXPECT_EQ(cudaMemcpyAsync(x.data, in.data(), in.size(), cudaMemcpyHostToDevice, stream), cudaSuccess);
        ASSERT_EQ(Call(c, rank, x.data, y.data, tensor, comm, stream), slimSuccess) << slimGetLastError();
        EXPECT_EQ(cudaMemcpyAsync(out.data(), y.data, out.size(), cudaMemcpyDeviceToHost, stream), cudaSuccess);
        EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
        EXPECT_EQ(out, whole[rank][step]) << "step " << step;
      }
      if (second) {
        ASSERT_EQ(slimTensorReset(tensor), slimSuccess);
        EXPECT_EQ(slimBroadcast(x.data, y.data, c.count, c.type, 1, tensor, comm, stream), slimSuccess)
            << slimGetLastError();
      } else {
        EXPECT_EQ(slimStateSave(comm, own.c_str()), slimSuccess) << slimGetLastError();
      }
      EXPECT_EQ(slimCommDestroy(comm), slimSuccess);
    }
    slimConfig_t flat = ConfigOf(c, {}, rank);
    slimComm_t comm;
    slimTensor_t tensor;
    ASSERT_EQ(slimCommInitNCCL(&comm, nccl, &flat), slimSuccess) << slimGetLastError();
    ASSERT_EQ(slimTensorCreate(&tensor, comm, c.spec, 3), slimSuccess);
    EXPECT_EQ(slimStateLoad(comm, own.c_str()), slimInvalidUsage);
    EXPECT_NE(std::string(slimGetLastError()).find("was saved by 2 domains of ranks"), std::string::npos)
        << slimGetLastError();
    EXPECT_EQ(slimCommDestroy(comm), slimSuccess);
    remove(own.c_str());
  });
}

// A process with several devices and one thread: creation and calls in groups.
TEST_P(OverNccl, OneThreadDrivesAllDevices) {
  const int ranks = GetParam();
  std::vector<ncclComm_t> nccl(ranks);
  std::vector<slimComm_t> comms(ranks);
  std::vector<cudaStream_t> streams(ranks);
  ASSERT_EQ(ncclCommInitAll(nccl.data(), ranks, nullptr), ncclSuccess);
  std::vector<Layout> layouts = LayoutsOf(ranks);
  layouts.push_back({{}, 1});
  for (const Layout& layout : layouts)
    for (const Case& c : {kCases[0], kCases[7], kCases[8], kCases[9], kCases[10], kCases[11]}) {
      ASSERT_EQ(slimGroupStart(), slimSuccess);
      for (int r = 0; r < ranks; r++) {
        const slimConfig_t config = ConfigOf(c, layout.domains, r);
        ASSERT_EQ(slimCommInitNCCL(&comms[r], nccl[r], &config), slimSuccess);
      }
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
      const bool layered = layout.size > 1 && c.kind == Kind::kAllReduce;
      ExpectEqual(c, results, layered ? LayeredOnHost<float>(c, layout) : OnHost(c, ranks));
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

TEST_P(OverNccl, LinearLeavesTheSumToNccl) {
  for (const Case& c : kLinearCases) ExpectEqual(c, OnDevices(c, GetParam()), OnHost(c, GetParam()));
}

// 2·3/4 of the values, and headers.
TEST(OverNcclLinear, BytesAndRefusals) {
  WithNccl(4, [&](int rank, ncclComm_t nccl, cudaStream_t stream) {
    slimConfig_t config = makeConfig(slimAlgoLinear);
    config.deviceBytes = 8 << 20;
    slimComm_t comm;
    slimTensor_t tensor, shifted;
    ASSERT_EQ(slimCommInitNCCL(&comm, nccl, &config), slimSuccess) << slimGetLastError();
    ASSERT_EQ(slimTensorCreate(&tensor, comm, "fp32", 0), slimSuccess);
    ASSERT_EQ(slimTensorCreate(&shifted, comm, "diana(randk(ratio=0.5,seed=shared))", 1), slimSuccess);
    DeviceBytes x(40000);
    EXPECT_EQ(cudaMemsetAsync(x.data, rank, x.size, stream), cudaSuccess);
    EXPECT_EQ(slimAllReduce(x.data, x.data, 10000, slimFloat32, slimSum, shifted, comm, stream), slimInvalidUsage);
    EXPECT_NE(std::string(slimGetLastError()).find("which shifts must have"), std::string::npos);
    ASSERT_EQ(slimAllReduce(x.data, x.data, 10000, slimFloat32, slimSum, tensor, comm, stream), slimSuccess);
    slimTensorStats_t stats = {};
    stats.size = sizeof stats;
    ASSERT_EQ(slimTensorGetStats(tensor, &stats), slimSuccess);
    EXPECT_GE(stats.wireBytes, 60000u);
    EXPECT_LE(stats.wireBytes, 61000u);
    EXPECT_EQ(slimCommDestroy(comm), slimSuccess);
  });
}

TEST(OverNcclErrors, BadArguments) {
  slimComm_t comm;
  EXPECT_EQ(slimCommInitNCCL(&comm, nullptr, nullptr), slimInvalidArgument);
  EXPECT_STREQ(slimGetLastError(), "ncclComm is NULL");
}

}  // namespace
}  // namespace slim_test
