// The stand-in's libnccl: every type and operator, what callers do wrong, and the ways to make and end a communicator.
// nccl_client.c covers every collective over threads, processes and one thread with all devices.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <nccl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace {

#define OK(expression)                                                       \
  do {                                                                       \
    ASSERT_EQ(static_cast<int>(expression), 0) << ncclGetLastError(nullptr); \
  } while (0)

// Runs body(r) in a thread for each rank, with device r chosen.
void onRanks(int ranks, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; r++)
    threads.emplace_back([&body, r] {
      OK(cudaSetDevice(r));
      body(r);
    });
  for (std::thread& t : threads) t.join();
}

class Nccl : public testing::TestWithParam<int> {
 protected:
  static void SetUpTestSuite() { setenv("SIMGPU_DEVICES", "8", 1); }
  void SetUp() override {
    ranks = GetParam();
    comms.resize(static_cast<size_t>(ranks));
    streams.resize(static_cast<size_t>(ranks));
    OK(ncclCommInitAll(comms.data(), ranks, nullptr));
    for (int r = 0; r < ranks; r++) {
      OK(cudaSetDevice(r));
      OK(cudaStreamCreateWithFlags(&stream(r), cudaStreamNonBlocking));
    }
  }
  void TearDown() override {
    for (int r = 0; r < ranks; r++) {
      OK(cudaSetDevice(r));
      OK(ncclCommDestroy(comm(r)));
      OK(cudaStreamDestroy(stream(r)));
      EXPECT_EQ(cudaDeviceReset(), cudaSuccess);
    }
  }
  ncclComm_t& comm(int r) { return comms[static_cast<size_t>(r)]; }
  cudaStream_t& stream(int r) { return streams[static_cast<size_t>(r)]; }
  template <typename T>
  T* upload(int r, const std::vector<T>& host) {
    void* p = nullptr;
    EXPECT_EQ(cudaSetDevice(r), cudaSuccess);
    EXPECT_EQ(cudaMalloc(&p, host.size() * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaMemcpyAsync(p, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice, stream(r)), cudaSuccess);
    return static_cast<T*>(p);
  }
  template <typename T>
  std::vector<T> download(int r, const T* p, size_t n) {
    std::vector<T> host(n);
    EXPECT_EQ(cudaMemcpyAsync(host.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost, stream(r)), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream(r)), cudaSuccess);
    return host;
  }

  template <typename T>
  void checkType(ncclDataType_t type);

  int ranks = 0;
  std::vector<ncclComm_t> comms;
  std::vector<cudaStream_t> streams;
};
INSTANTIATE_TEST_SUITE_P(Ranks, Nccl, testing::Values(1, 2, 3, 4, 8));

double number(double x) { return x; }
double number(__half x) { return __half2float(x); }
double number(__nv_bfloat16 x) { return __bfloat162float(x); }
double number(__nv_fp8_e4m3 x) { return static_cast<float>(x); }
double number(__nv_fp8_e5m2 x) { return static_cast<float>(x); }

// Small powers of two and small integers, so that every sum and product is exact in every type.
template <typename T>
void Nccl::checkType(ncclDataType_t type) {
  const size_t n = 515;
  auto value = [](int r, size_t i) { return static_cast<float>(1 + (static_cast<size_t>(r) + i) % 2); };
  const int scale = 2;
  std::vector<T*> buffers;
  for (int r = 0; r < ranks; r++) {
    std::vector<T> host;
    for (size_t i = 0; i < n; i++) host.push_back(T(value(r, i)));
    buffers.push_back(upload(r, host));
  }
  for (int op = 0; op <= static_cast<int>(ncclNumOps); op++) {  // the last: PreMulSum
    std::vector<T*> results;
    OK(ncclGroupStart());
    for (int r = 0; r < ranks; r++) {
      OK(cudaSetDevice(r));
      void* p;
      OK(cudaMalloc(&p, n * sizeof(T)));
      results.push_back(static_cast<T*>(p));
      ncclRedOp_t reduction = static_cast<ncclRedOp_t>(op);
      T factor = T(static_cast<float>(scale));
      if (op == ncclNumOps) OK(ncclRedOpCreatePreMulSum(&reduction, &factor, type, ncclScalarHostImmediate, comm(r)));
      OK(ncclAllReduce(buffers[static_cast<size_t>(r)], p, n, type, reduction, comm(r), stream(r)));
      if (op == ncclNumOps) OK(ncclRedOpDestroy(reduction, comm(r)));  // it was copied
    }
    OK(ncclGroupEnd());
    for (int r = 0; r < ranks; r++) {
      const std::vector<T> host = download(r, results[static_cast<size_t>(r)], n);
      for (size_t i = 0; i < n; i++) {
        double sum = 0, product = 1, most = 0, least = 3;
        for (int q = 0; q < ranks; q++) {
          const double v = value(q, i);
          sum += v;
          product *= v;
          most = std::max(most, v);
          least = std::min(least, v);
        }
        const double mean = std::is_integral<T>::value ? std::floor(sum / ranks) : sum / ranks;
        const double wanted[] = {sum, product, most, least, mean, scale * sum};
        // A mean is rounded; all else is exact.
        const double found = number(host[i]);
        const double slack = sizeof(T) == 1 ? 0.125 : sizeof(T) == 2 ? 0.01 : 1e-6;
        if (op == ncclAvg && !std::is_integral<T>::value) {
          ASSERT_NEAR(found, mean, slack);
        } else {
          ASSERT_EQ(found, wanted[op]) << "type " << type << " op " << op << " element " << i;
        }
      }
      OK(cudaFree(results[static_cast<size_t>(r)]));
    }
  }
}

TEST_P(Nccl, TypesAndOperators) {
  checkType<int8_t>(ncclInt8);
  checkType<uint8_t>(ncclUint8);
  checkType<int32_t>(ncclInt32);
  checkType<uint32_t>(ncclUint32);
  checkType<int64_t>(ncclInt64);
  checkType<uint64_t>(ncclUint64);
  checkType<__half>(ncclFloat16);
  checkType<float>(ncclFloat32);
  checkType<double>(ncclFloat64);
  checkType<__nv_bfloat16>(ncclBfloat16);
  // The products of 8 twos, and sums of 16 and 32, are in range.
  checkType<__nv_fp8_e4m3>(ncclFloat8e4m3);
  checkType<__nv_fp8_e5m2>(ncclFloat8e5m2);
}

TEST_P(Nccl, ScalarsOnTheDeviceMayDiffer) {
  std::vector<float*> data, scalars;
  OK(ncclGroupStart());
  for (int r = 0; r < ranks; r++) {
    data.push_back(upload(r, std::vector<float>(10, 1)));
    scalars.push_back(upload(r, std::vector<float>(1, static_cast<float>(r + 1))));
    ncclRedOp_t op;
    OK(ncclRedOpCreatePreMulSum(&op, scalars.back(), ncclFloat, ncclScalarDevice, comm(r)));
    OK(ncclAllReduce(data.back(), data.back(), 10, ncclFloat, op, comm(r), stream(r)));
    OK(ncclRedOpDestroy(op, comm(r)));
  }
  OK(ncclGroupEnd());
  for (int r = 0; r < ranks; r++)
    for (float v : download(r, data[static_cast<size_t>(r)], 10))
      ASSERT_EQ(v, static_cast<float>(ranks * (ranks + 1) / 2));
}

TEST_P(Nccl, NothingRunsBeforeTheOutermostGroupEnd) {
  std::vector<float*> data;
  for (int r = 0; r < ranks; r++) data.push_back(upload(r, std::vector<float>(10, 1)));
  OK(ncclGroupStart());
  OK(ncclGroupStart());
  for (int r = 0; r < ranks; r++) {
    float* p = data[static_cast<size_t>(r)];
    OK(ncclAllReduce(p, p, 10, ncclFloat, ncclSum, comm(r), stream(r)));
  }
  OK(ncclGroupEnd());
  for (int r = 0; r < ranks; r++)
    for (float v : download(r, data[static_cast<size_t>(r)], 10)) ASSERT_EQ(v, 1);
  OK(ncclGroupEnd());
  for (int r = 0; r < ranks; r++)
    for (float v : download(r, data[static_cast<size_t>(r)], 10)) ASSERT_EQ(v, static_cast<float>(ranks));
  EXPECT_EQ(ncclGroupEnd(), ncclInvalidUsage);
}

// Operations of a communicator follow each other, whatever their streams.
TEST_P(Nccl, StreamsOfACommunicatorAreOrdered) {
  std::vector<float*> data;
  std::vector<cudaStream_t> others;
  for (int r = 0; r < ranks; r++) {
    data.push_back(upload(r, std::vector<float>(1000, 1)));
    cudaStream_t s;
    OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    others.push_back(s);
  }
  for (int k = 0; k < 4; k++) {
    OK(ncclGroupStart());
    for (int r = 0; r < ranks; r++) {
      float* p = data[static_cast<size_t>(r)];
      OK(ncclAllReduce(p, p, 1000, ncclFloat, ncclSum, comm(r), k % 2 ? others[static_cast<size_t>(r)] : stream(r)));
    }
    OK(ncclGroupEnd());
  }
  for (int r = 0; r < ranks; r++) {
    OK(cudaSetDevice(r));
    OK(cudaStreamSynchronize(others[static_cast<size_t>(r)]));
    for (float v : download(r, data[static_cast<size_t>(r)], 1000)) ASSERT_EQ(v, std::pow(ranks, 4));
    OK(cudaStreamDestroy(others[static_cast<size_t>(r)]));
  }
}

TEST_P(Nccl, CaptureAndReplay) {
  onRanks(ranks, [&](int r) {
    void* p;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    OK(cudaMalloc(&p, 4000));
    std::vector<float> host(1000, 1);
    OK(cudaMemcpyAsync(p, host.data(), 4000, cudaMemcpyHostToDevice, stream(r)));
    OK(cudaStreamBeginCapture(stream(r), cudaStreamCaptureModeThreadLocal));
    OK(ncclAllReduce(p, p, 1000, ncclFloat, ncclSum, comm(r), stream(r)));
    OK(cudaStreamEndCapture(stream(r), &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 3; i++) OK(cudaGraphLaunch(exec, stream(r)));
    OK(cudaMemcpyAsync(host.data(), p, 4000, cudaMemcpyDeviceToHost, stream(r)));
    for (float v : host) ASSERT_EQ(v, std::pow(ranks, 3));
    OK(cudaGraphExecDestroy(exec));
    OK(cudaGraphDestroy(graph));
  });
}

// A replay and eager calls of one communicator follow each other as they were called, on unordered streams too; so do
// the calls of one capture.
TEST_P(Nccl, ReplayBesideEagerCalls) {
  onRanks(ranks, [&](int r) {
    void *x, *y;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaStream_t other;
    cudaEvent_t event;
    OK(cudaMalloc(&x, 4000));
    OK(cudaMalloc(&y, 4000));
    OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    OK(cudaEventCreate(&event));
    std::vector<float> host(1000, 1);
    for (void* p : {x, y}) OK(cudaMemcpy(p, host.data(), 4000, cudaMemcpyHostToDevice));
    OK(cudaStreamBeginCapture(stream(r), cudaStreamCaptureModeThreadLocal));
    OK(cudaEventRecord(event, stream(r)));
    OK(cudaStreamWaitEvent(other, event, 0));
    OK(ncclAllReduce(x, x, 500, ncclFloat, ncclSum, comm(r), stream(r)));
    OK(ncclAllReduce(static_cast<float*>(x) + 500, static_cast<float*>(x) + 500, 500, ncclFloat, ncclMax, comm(r),
                     other));
    OK(cudaEventRecord(event, other));
    OK(cudaStreamWaitEvent(stream(r), event, 0));
    OK(cudaStreamEndCapture(stream(r), &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 3; i++) {
      OK(cudaGraphLaunch(exec, stream(r)));
      OK(ncclAllReduce(y, y, 1000, ncclFloat, ncclSum, comm(r), other));
    }
    OK(cudaStreamSynchronize(other));
    OK(cudaMemcpyAsync(host.data(), x, 4000, cudaMemcpyDeviceToHost, stream(r)));
    for (size_t i = 0; i < 1000; i++) ASSERT_EQ(host[i], i < 500 ? std::pow(ranks, 3) : 1);
    OK(cudaMemcpyAsync(host.data(), y, 4000, cudaMemcpyDeviceToHost, stream(r)));
    for (float v : host) ASSERT_EQ(v, std::pow(ranks, 3));
    OK(cudaGraphExecDestroy(exec));
    OK(cudaGraphDestroy(graph));
    OK(cudaEventDestroy(event));
    OK(cudaStreamDestroy(other));
  });
}

// One thread captures all devices' streams: the nodes of one graph wait for each other.
TEST_P(Nccl, OneGraphOfAllDevices) {
  std::vector<float*> p;
  for (int r = 0; r < ranks; r++) p.push_back(upload(r, std::vector<float>(1000, 1)));
  for (int r = 0; r < ranks; r++) OK(cudaStreamSynchronize(stream(r)));
  std::vector<cudaEvent_t> events(static_cast<size_t>(ranks));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  for (int r = 0; r < ranks; r++) {
    OK(cudaSetDevice(r));
    OK(cudaEventCreateWithFlags(&events[static_cast<size_t>(r)], cudaEventDisableTiming));
  }
  OK(cudaStreamBeginCapture(stream(0), cudaStreamCaptureModeThreadLocal));
  OK(cudaEventRecord(events[0], stream(0)));
  for (int r = 1; r < ranks; r++) OK(cudaStreamWaitEvent(stream(r), events[0], 0));
  OK(ncclGroupStart());
  for (int r = 0; r < ranks; r++) {
    float* own = p[static_cast<size_t>(r)];
    OK(ncclAllReduce(own, own, 1000, ncclFloat, ncclSum, comm(r), stream(r)));
  }
  OK(ncclGroupEnd());
  for (int r = 1; r < ranks; r++) {
    OK(cudaEventRecord(events[static_cast<size_t>(r)], stream(r)));
    OK(cudaStreamWaitEvent(stream(0), events[static_cast<size_t>(r)], 0));
  }
  OK(cudaStreamEndCapture(stream(0), &graph));
  OK(cudaGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 2; i++) OK(cudaGraphLaunch(exec, stream(0)));
  OK(cudaStreamSynchronize(stream(0)));
  for (int r = 0; r < ranks; r++) {
    EXPECT_EQ(download(r, p[static_cast<size_t>(r)], 1000)[999], static_cast<float>(ranks * ranks));
    OK(cudaEventDestroy(events[static_cast<size_t>(r)]));
  }
  OK(cudaGraphExecDestroy(exec));
  OK(cudaGraphDestroy(graph));
}

// Several splits of one communicator in one group, and several windows.
TEST_P(Nccl, SplitsInAGroup) {
  onRanks(ranks, [&](int r) {
    ncclComm_t all, half;
    OK(ncclGroupStart());
    OK(ncclCommSplit(comm(r), 0, r, &all, nullptr));
    OK(ncclCommSplit(comm(r), r % 2, -r, &half, nullptr));
    OK(ncclGroupEnd());
    int count, rank;
    OK(ncclCommCount(all, &count));
    EXPECT_EQ(count, ranks);
    OK(ncclCommCount(half, &count));
    EXPECT_EQ(count, (ranks + 1 - r % 2) / 2);
    OK(ncclCommUserRank(half, &rank));
    EXPECT_EQ(rank, count - 1 - r / 2);
    void *p, *q;
    ncclWindow_t one, two;
    OK(ncclMemAlloc(&p, 4096));
    OK(ncclMemAlloc(&q, 4096));
    OK(ncclGroupStart());
    OK(ncclCommWindowRegister(all, p, 4096, &one, NCCL_WIN_COLL_SYMMETRIC));
    OK(ncclCommWindowRegister(all, q, 4096, &two, NCCL_WIN_COLL_SYMMETRIC));
    OK(ncclGroupEnd());
    OK(ncclCommWindowDeregister(all, one));
    OK(ncclCommWindowDeregister(all, two));
    OK(ncclMemFree(p));
    OK(ncclMemFree(q));
    OK(ncclCommDestroy(half));
    OK(ncclCommDestroy(all));
  });
}

TEST_P(Nccl, SplitAndShrink) {
  onRanks(ranks, [&](int r) {
    ncclComm_t half, rest = nullptr;
    int rank, count;
    OK(ncclCommSplit(comm(r), r % 2, -r, &half, nullptr));  // backwards
    OK(ncclCommUserRank(half, &rank));
    OK(ncclCommCount(half, &count));
    const int same = (ranks + 1 - r % 2) / 2;
    EXPECT_EQ(count, same);
    EXPECT_EQ(rank, same - 1 - r / 2);
    void* p;
    OK(cudaMalloc(&p, 4));
    float v = static_cast<float>(r);
    OK(cudaMemcpy(p, &v, 4, cudaMemcpyHostToDevice));
    OK(ncclAllReduce(p, p, 1, ncclFloat, ncclSum, half, stream(r)));
    OK(cudaMemcpyAsync(&v, p, 4, cudaMemcpyDeviceToHost, stream(r)));
    float sum = 0;
    for (int q = r % 2; q < ranks; q += 2) sum += static_cast<float>(q);
    EXPECT_EQ(v, sum);
    OK(ncclCommDestroy(half));

    OK(ncclCommSplit(comm(r), r == 0 ? 0 : NCCL_SPLIT_NOCOLOR, 0, &half, nullptr));
    EXPECT_EQ(half != nullptr, r == 0);
    OK(ncclCommDestroy(half));

    int excluded[] = {0};
    if (ranks > 1 && r > 0) {
      OK(ncclCommShrink(comm(r), excluded, 1, &rest, nullptr, NCCL_SHRINK_DEFAULT));
      OK(ncclCommUserRank(rest, &rank));
      EXPECT_EQ(rank, r - 1);
      OK(ncclCommDestroy(rest));
    }
  });
}

TEST_P(Nccl, NonBlocking) {
  ncclUniqueId id;
  OK(ncclGetUniqueId(&id));
  onRanks(ranks, [&](int r) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t c;
    const ncclResult_t first = ncclCommInitRankConfig(&c, ranks, id, r, &config);
    EXPECT_TRUE(first == ncclInProgress || first == ncclSuccess);
    ncclResult_t state;
    do {
      OK(ncclCommGetAsyncError(c, &state));
      usleep(100);
    } while (state == ncclInProgress);
    EXPECT_EQ(state, ncclSuccess);
    OK(ncclCommFinalize(c));
    OK(ncclCommDestroy(c));
  });
  ncclConfig_t config;
  memset(&config, 0, sizeof config);
  ncclComm_t c;
  EXPECT_EQ(ncclCommInitRankConfig(&c, 1, id, 0, &config), ncclInvalidArgument);
}

TEST_P(Nccl, MemoryAndWindows) {
  onRanks(ranks, [&](int r) {
    void *p, *handle;
    ncclWindow_t window;
    OK(ncclMemAlloc(&p, 4096));
    OK(ncclCommRegister(comm(r), p, 4096, &handle));
    OK(ncclCommWindowRegister(comm(r), p, 4096, &window, NCCL_WIN_COLL_SYMMETRIC));
    OK(cudaMemsetAsync(p, 0, 4096, stream(r)));
    OK(ncclAllReduce(p, p, 1024, ncclFloat, ncclSum, comm(r), stream(r)));
    OK(cudaStreamSynchronize(stream(r)));
    OK(ncclCommWindowDeregister(comm(r), window));
    OK(ncclCommDeregister(comm(r), handle));
    OK(ncclMemFree(p));
  });
}

/* ---- What callers do wrong --------------------------------------------------------------------------------------- */

using Wrong = Nccl;
INSTANTIATE_TEST_SUITE_P(Ranks, Wrong, testing::Values(3));

TEST_P(Wrong, CountsDiffer) {
  testing::internal::CaptureStderr();
  onRanks(ranks, [&](int r) {
    void* p;
    OK(cudaMalloc(&p, 400));
    OK(ncclAllReduce(p, p, r == 1 ? 99 : 100, ncclFloat, ncclSum, comm(r), stream(r)));
    OK(cudaStreamSynchronize(stream(r)));
    ncclResult_t state;
    OK(ncclCommGetAsyncError(comm(r), &state));
    EXPECT_EQ(state, ncclInvalidUsage);
    EXPECT_EQ(ncclAllReduce(p, p, 100, ncclFloat, ncclSum, comm(r), stream(r)), ncclInvalidUsage);
  });
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("rank 0: calls AllReduce of 100 float32, sum, but rank 1 calls AllReduce of 99 float32, sum"),
            std::string::npos)
      << said;
}

TEST_P(Wrong, OrderDiffers) {
  testing::internal::CaptureStderr();
  onRanks(ranks, [&](int r) {
    void* p;
    OK(cudaMalloc(&p, 1200));
    for (const bool reduces : {r != 2, r == 2}) {
      const ncclResult_t result = reduces ? ncclAllReduce(p, p, 100, ncclFloat, ncclSum, comm(r), stream(r))
                                          : ncclBroadcast(p, p, 100, ncclFloat, 0, comm(r), stream(r));
      if (result != ncclSuccess) break;  // by then the first may have failed
    }
    OK(cudaStreamSynchronize(stream(r)));
  });
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("rank 2: calls Broadcast of 100 float32, root 0, but rank 0 calls AllReduce of 100 float32, sum"),
            std::string::npos)
      << said;
}

TEST_P(Wrong, MessagesDiffer) {
  testing::internal::CaptureStderr();
  onRanks(2, [&](int r) {
    void* p;
    OK(cudaMalloc(&p, 400));
    if (r == 0)
      OK(ncclSend(p, 100, ncclFloat, 1, comm(r), stream(r)));
    else
      OK(ncclRecv(p, 50, ncclFloat, 0, comm(r), stream(r)));
    OK(cudaStreamSynchronize(stream(r)));
  });
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("rank 1: receives 200 bytes from rank 0, which sends 400"), std::string::npos) << said;
}

TEST_P(Wrong, Arguments) {
  float* p = upload(1, std::vector<float>(100));
  float* q = upload(0, std::vector<float>(100));
  OK(cudaStreamSynchronize(stream(0)));
  float host[100];
  auto expect = [&](ncclResult_t result, const char* words) {
    EXPECT_EQ(result, ncclInvalidArgument);
    const std::string said = ncclGetLastError(nullptr);
    EXPECT_NE(said.find(words), std::string::npos) << said;
  };
  expect(ncclAllReduce(p, q, 100, ncclFloat, ncclSum, comm(0), stream(0)), "sendbuff is on device 1");
  expect(ncclAllReduce(q, q, 101, ncclFloat, ncclSum, comm(0), stream(0)), "sendbuff has 400 bytes, 404 are wanted");
  expect(ncclAllReduce(q, host, 100, ncclFloat, ncclSum, comm(0), stream(0)), "recvbuff is not device memory");
  expect(ncclAllReduce(q, q, 100, ncclFloat, ncclSum, comm(0), stream(1)), "the stream is of device 1");
  expect(ncclBroadcast(q, q, 100, ncclFloat, 3, comm(0), stream(0)), "rank 3 of 3");
  expect(ncclAllReduce(q, q, 100, ncclFloat, static_cast<ncclRedOp_t>(ncclNumOps + 4), comm(0), stream(0)),
         "there is no operator");
  ncclRedOp_t op;
  double scalar = 2;
  OK(ncclRedOpCreatePreMulSum(&op, &scalar, ncclDouble, ncclScalarHostImmediate, comm(0)));
  expect(ncclAllReduce(q, q, 100, ncclFloat, op, comm(0), stream(0)), "the operator is for float64");
  OK(ncclRedOpDestroy(op, comm(0)));
  // An error inside a group is the group's, and nothing of it is launched.
  OK(ncclGroupStart());
  EXPECT_EQ(ncclAllReduce(p, q, 100, ncclFloat, ncclSum, comm(0), stream(0)), ncclInvalidArgument);
  EXPECT_EQ(ncclGroupEnd(), ncclInvalidArgument);
  int devices[] = {0, 0}, count;
  ncclComm_t two[2];
  EXPECT_EQ(ncclCommInitAll(two, 2, devices), ncclInvalidUsage);
  EXPECT_NE(std::string(ncclGetLastError(nullptr)).find("duplicate GPU"), std::string::npos);
  EXPECT_EQ(ncclCommCount(reinterpret_cast<ncclComm_t>(host), &count), ncclInvalidArgument);
}

// A rank that aborts ends what the others wait in; its handle is dead.
TEST_P(Wrong, Abort) {
  testing::internal::CaptureStderr();
  onRanks(ranks, [&](int r) {
    void* p;
    OK(cudaMalloc(&p, 400));
    if (r > 0) OK(ncclAllReduce(p, p, 100, ncclFloat, ncclSum, comm(r), stream(r)));  // rank 0 never comes
    if (r == 0) {
      usleep(20000);  // the others wait by then, as a rule
      OK(ncclCommAbort(comm(r)));
      EXPECT_EQ(ncclAllReduce(p, p, 100, ncclFloat, ncclSum, comm(r), stream(r)), ncclInvalidArgument);
      comm(r) = nullptr;
      return;
    }
    OK(cudaStreamSynchronize(stream(r)));
    ncclResult_t state;
    OK(ncclCommGetAsyncError(comm(r), &state));
    EXPECT_EQ(state, ncclRemoteError);
  });
  testing::internal::GetCapturedStderr();
}

}  // namespace
