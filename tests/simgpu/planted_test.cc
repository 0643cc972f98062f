// Every detector of the stand-in finds the mistake that was planted for it, and finds nothing in the twin without it.
#include <cuda.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/simgpu/service.h"

namespace {

constexpr size_t kWords = 4096;

class Planted : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    testing::FLAGS_gtest_death_test_style = "threadsafe";
    setenv("SIMGPU_KERNELS", "tests/simgpu/libplanted.so", 0);
    setenv("SIMGPU_DEVICES", "2", 0);
    ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
    ASSERT_EQ(cuDevicePrimaryCtxRetain(&context, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuDevicePrimaryCtxRetain(&otherContext, 1), CUDA_SUCCESS);
  }
  void SetUp() override {
    ASSERT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
    for (CUstream* s : {&a, &b}) ASSERT_EQ(cuStreamCreate(s, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    testing::internal::CaptureStderr();
  }
  void TearDown() override {
    clean();
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
    for (CUstream s : {a, b}) EXPECT_EQ(cuStreamDestroy(s), CUDA_SUCCESS);
    for (CUdevice d : {0, 1}) EXPECT_EQ(cuDevicePrimaryCtxReset(d), CUDA_SUCCESS);
  }

  static CUdeviceptr allocate(size_t bytes) {
    CUdeviceptr p = 0;
    EXPECT_EQ(cuMemAlloc(&p, bytes), CUDA_SUCCESS);
    return p;
  }
  // Of zeros.
  static CUdeviceptr zeros(size_t bytes) {
    const CUdeviceptr p = allocate(bytes);
    EXPECT_EQ(cuMemsetD8(p, 0, bytes), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    return p;
  }
  template <typename... A>
  static void launch(const char* name, unsigned blocks, unsigned threads, unsigned shared, CUstream stream,
                     A... arguments) {
    static CUlibrary library;
    if (!library) {
      ASSERT_EQ(cuLibraryLoadData(&library, "", nullptr, nullptr, 0, nullptr, nullptr, 0), CUDA_SUCCESS);
    }
    CUkernel kernel;
    CUfunction function;
    ASSERT_EQ(cuLibraryGetKernel(&kernel, library, name), CUDA_SUCCESS) << name;
    ASSERT_EQ(cuKernelGetFunction(&function, kernel), CUDA_SUCCESS);
    void* parameters[] = {&arguments..., nullptr};
    ASSERT_EQ(cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, shared, stream, parameters, nullptr), CUDA_SUCCESS);
  }
  // What has run was found to be wrong: the device says so, and the report has these words. The device is usable again.
  void expectFound(CUresult error, const std::vector<std::string>& words) {
    EXPECT_EQ(cuCtxSynchronize(), error);
    const std::string report = testing::internal::GetCapturedStderr();
    for (const std::string& word : words) EXPECT_NE(report.find(word), std::string::npos) << word << "\n" << report;
    int device;
    ASSERT_EQ(cuCtxGetDevice(&device), CUDA_SUCCESS);
    ASSERT_EQ(cuDevicePrimaryCtxReset(device), CUDA_SUCCESS);
    testing::internal::CaptureStderr();
  }
  void clean() { EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS); }

  static CUcontext context, otherContext;
  CUstream a, b;
};
CUcontext Planted::context, Planted::otherContext;

const CUresult kWrong = CUDA_ERROR_LAUNCH_FAILED;

TEST_F(Planted, MissingBarrier) {
  launch("reverse_unsynchronised", 1, 256, 0, a, zeros(1024));
  expectFound(kWrong, {"simgpu: race", "reverse_unsynchronised", "block (0,0,0), thread", "a __shared__ variable",
                       "with no barrier between", "planted.cu:"});
  launch("reverse", 1, 256, 0, a, zeros(1024));
}

TEST_F(Planted, BytesAndBlocksAreToldApart) {
  launch("reverse_blocks", 8, 256, 0, a, zeros(8 * 1024));
  launch("bytes_in_place", 8, 64, 0, a, zeros(512));
  launch("bytes_in_turns", 1, 64, 0, a, zeros(64));
  clean();
  launch("bytes_read_by_others", 1, 64, 0, a, zeros(64), allocate(64));
  expectFound(kWrong, {"simgpu: race", "of its block"});
}

TEST_F(Planted, MissingWarpBarrier) {
  launch("neighbours_unsynchronised", 1, 64, 256, a, zeros(256));
  expectFound(kWrong, {"simgpu: race", "dynamic shared memory + "});
  launch("neighbours", 1, 64, 256, a, zeros(256));
}

TEST_F(Planted, MissingAtomic) {
  launch("count_plainly", 8, 32, 0, a, zeros(4));
  expectFound(kWrong, {"simgpu: unordered access", "of the same launch"});
  const CUdeviceptr p = zeros(4);
  launch("count", 8, 32, 0, a, p);
  clean();
  unsigned total;
  ASSERT_EQ(cuMemcpyDtoH(&total, p, 4), CUDA_SUCCESS);
  EXPECT_EQ(total, 256u);
}

TEST_F(Planted, MissingFence) {
  launch("last_block_unfenced", 8, 32, 0, a, zeros(32), zeros(4), zeros(4));
  expectFound(kWrong, {"simgpu: unordered access", "of the same launch"});
  const CUdeviceptr p = zeros(4);
  launch("last_block", 8, 32, 0, a, zeros(32), zeros(4), p);
  clean();
  unsigned total;
  ASSERT_EQ(cuMemcpyDtoH(&total, p, 4), CUDA_SUCCESS);
  EXPECT_EQ(total, 36u);
}

TEST_F(Planted, Overrun) {
  launch("fill_too_far", 2, 64, 0, a, allocate(400), 100u);
  expectFound(CUDA_ERROR_ILLEGAL_ADDRESS,
              {"simgpu: invalid access", "fill_too_far", "0 bytes past the end of allocation", "400 bytes, device 0"});
  launch("fill", 2, 64, 0, a, allocate(400), 100u);
}

TEST_F(Planted, OverrunInSharedMemory) {
  launch("shared_too_far", 1, 32, 0, a, zeros(128));
  expectFound(CUDA_ERROR_ILLEGAL_ADDRESS, {"simgpu: invalid access", "element 32", "planted.cu:"});
  launch("dynamic_too_far", 1, 32, 128, a, zeros(128));
  expectFound(CUDA_ERROR_ILLEGAL_ADDRESS, {"simgpu: invalid access", "dynamic shared memory + 128 of 128 bytes"});
  launch("dynamic_too_far", 1, 32, 132, a, zeros(128));
}

TEST_F(Planted, UseAfterFree) {
  const CUdeviceptr p = zeros(400);
  ASSERT_EQ(cuMemFree(p), CUDA_SUCCESS);
  launch("fill", 2, 64, 0, a, p, 100u);
  expectFound(CUDA_ERROR_ILLEGAL_ADDRESS, {"simgpu: invalid access", "byte ", "400 bytes, device 0, freed"});
  // Freed in another stream's order, while this one still works on it.
  const CUdeviceptr q = zeros(400);
  launch("fill", 2, 64, 0, a, q, 100u);
  ASSERT_EQ(cuMemFreeAsync(q, b), CUDA_SUCCESS);
  const CUresult error = cuCtxSynchronize();  // whichever came first
  EXPECT_TRUE(error == CUDA_ERROR_ILLEGAL_ADDRESS || error == kWrong) << error;
  expectFound(error, {"simgpu: "});
  const CUdeviceptr r = zeros(400);
  launch("fill", 2, 64, 0, a, r, 100u);
  ASSERT_EQ(cuMemFreeAsync(r, a), CUDA_SUCCESS);
}

TEST_F(Planted, NeverWritten) {
  launch("add", 1, 32, 0, a, allocate(128), allocate(128), 32u);
  expectFound(kWrong, {"simgpu: never-written read", "byte ", "which nobody has written"});
  launch("shared_unwritten", 1, 32, 0, a, allocate(128));
  expectFound(kWrong, {"simgpu: never-written read", "a __shared__ variable"});
  char bytes[128];
  EXPECT_EQ(cuMemcpyDtoH(bytes, allocate(128), 128), kWrong);
  expectFound(kWrong, {"simgpu: never-written read", "a copy"});
  // A copy on the device hands on what is not known, and says nothing.
  const CUdeviceptr from = allocate(128), to = allocate(128);
  ASSERT_EQ(cuMemcpyDtoD(to, from, 128), CUDA_SUCCESS);
  clean();
  launch("add", 1, 32, 0, a, to, allocate(128), 32u);
  expectFound(kWrong, {"simgpu: never-written read"});
  launch("add", 1, 32, 0, a, zeros(128), allocate(128), 32u);
  // In memory of a program, as libcudart allocates it, the device goes on.
  const CUdeviceptr sloppy = allocate(128);
  ASSERT_EQ(simgpuTolerate(sloppy), CUDA_SUCCESS);
  launch("add", 1, 32, 0, a, sloppy, zeros(128), 32u);
  expectFound(CUDA_SUCCESS, {"simgpu: never-written read", "byte ", "which nobody has written"});
}

TEST_F(Planted, Misaligned) {
  launch("load_misaligned", 1, 1, 0, a, zeros(64), allocate(16));
  expectFound(CUDA_ERROR_MISALIGNED_ADDRESS, {"simgpu: misaligned", "planted.cu:"});
}

TEST_F(Planted, Barriers) {
  launch("leaves_early", 1, 64, 0, a, zeros(256), 40u);
  expectFound(kWrong, {"simgpu: barrier", "has left the kernel"});
  launch("two_barriers", 1, 64, 0, a, zeros(256));
  expectFound(kWrong, {"simgpu: barrier", "but thread 0 at that of line"});
  launch("half_a_warp", 1, 32, 0, a, zeros(256));
  expectFound(kWrong, {"simgpu: barrier", "for all lanes of ffffffff"});
  launch("leaves_early", 1, 64, 0, a, zeros(256), 64u);
}

TEST_F(Planted, MissingEvent) {
  const CUdeviceptr x = zeros(4 * kWords), y = allocate(4 * kWords), z = allocate(4 * kWords);
  launch("add", kWords / 64, 64, 0, a, x, y, (unsigned)kWords);
  ASSERT_EQ(cuMemcpyAsync(z, y, 4 * kWords, b), CUDA_SUCCESS);
  expectFound(kWrong, {"simgpu: ", "nothing orders the two"});

  const CUdeviceptr x2 = zeros(4 * kWords), y2 = allocate(4 * kWords), z2 = allocate(4 * kWords);
  CUevent event;
  ASSERT_EQ(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
  launch("add", kWords / 64, 64, 0, a, x2, y2, (unsigned)kWords);
  ASSERT_EQ(cuEventRecord(event, a), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamWaitEvent(b, event, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyAsync(z2, y2, 4 * kWords, b), CUDA_SUCCESS);
  clean();
  // An event that was recorded too early is as good as none.
  ASSERT_EQ(cuEventRecord(event, a), CUDA_SUCCESS);
  launch("add", kWords / 64, 64, 0, a, z2, y2, (unsigned)kWords);
  ASSERT_EQ(cuStreamWaitEvent(b, event, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyAsync(z2, y2, 4 * kWords, b), CUDA_SUCCESS);
  expectFound(kWrong, {"simgpu: ", "nothing orders the two"});
  ASSERT_EQ(cuEventDestroy(event), CUDA_SUCCESS);
}

TEST_F(Planted, StreamZeroWaitsForBlockingStreams) {
  CUstream blocking;
  ASSERT_EQ(cuStreamCreate(&blocking, CU_STREAM_DEFAULT), CUDA_SUCCESS);
  const CUdeviceptr x = zeros(4 * kWords), y = allocate(4 * kWords), z = allocate(4 * kWords);
  launch("add", kWords / 64, 64, 0, blocking, x, y, (unsigned)kWords);
  launch("add", kWords / 64, 64, 0, nullptr, y, z, (unsigned)kWords);
  launch("add", kWords / 64, 64, 0, blocking, z, y, (unsigned)kWords);
  std::vector<float> host(kWords);
  ASSERT_EQ(cuStreamSynchronize(blocking), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyDtoH(host.data(), y, 4 * kWords), CUDA_SUCCESS);
  for (float v : host) ASSERT_EQ(v, 3);
  ASSERT_EQ(cuStreamDestroy(blocking), CUDA_SUCCESS);
}

TEST_F(Planted, HostAccess) {
  const CUdeviceptr p = zeros(64);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_DEATH(*(volatile char*)p = 1, "simgpu: host access: .*byte 0 of allocation");
  char bytes[64];
  EXPECT_DEATH(memcpy(bytes, (void*)(p + 1), 8), "simgpu: host access: .*byte 1 of allocation");
  testing::internal::CaptureStderr();
  ASSERT_EQ(cuMemcpyDtoH(bytes, p, 64), CUDA_SUCCESS);
}

TEST_F(Planted, NotAnArgument) {
  const CUdeviceptr p = zeros(128), inner = allocate(8);
  ASSERT_EQ(cuMemcpyHtoD(inner, &p, 8), CUDA_SUCCESS);
  launch("pointer_in_memory", 1, 32, 0, a, inner);
  expectFound(CUDA_ERROR_ILLEGAL_ADDRESS, {"by an address that was not an argument"});
  float host[32];
  launch("fill", 1, 32, 0, a, host, 32u);
  expectFound(CUDA_ERROR_ILLEGAL_ADDRESS, {"which is not device memory"});
}

TEST_F(Planted, PeerAccess) {
  ASSERT_EQ(cuCtxSetCurrent(otherContext), CUDA_SUCCESS);
  const CUdeviceptr p = zeros(400);
  ASSERT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
  launch("fill", 2, 64, 0, a, p, 100u);
  expectFound(CUDA_ERROR_ILLEGAL_ADDRESS, {"another device's memory without peer access"});
  ASSERT_EQ(cuCtxEnablePeerAccess(otherContext, 0), CUDA_SUCCESS);
  launch("fill", 2, 64, 0, a, p, 100u);
}

TEST_F(Planted, RefusedCalls) {
  const CUdeviceptr p = zeros(400);
  char bytes[800];
  EXPECT_EQ(cuMemcpyDtoH(bytes, p, 401), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemsetD8(p + 1, 0, 400), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemFree(p + 16), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemFree(p), CUDA_SUCCESS);
  EXPECT_EQ(cuMemFree(p), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemcpyDtoH(bytes, p, 1), CUDA_ERROR_INVALID_VALUE);
  CUstream gone;
  ASSERT_EQ(cuStreamCreate(&gone, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamDestroy(gone), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(gone), CUDA_ERROR_INVALID_HANDLE);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("refused: cuMemFree of byte 16 of allocation"), std::string::npos) << said;
  EXPECT_NE(said.find("freed"), std::string::npos) << said;
  testing::internal::CaptureStderr();
}

/* ---- What kernels compute ---------------------------------------------------------------------------------------- */

TEST_F(Planted, StructArguments) {
  struct {
    unsigned n;
    CUdeviceptr x, seen;
  } arguments = {1000, allocate(4000), zeros(4)};
  launch("by_struct", 4, 256, 0, a, arguments);
  std::vector<float> host(1000);
  unsigned seen;
  ASSERT_EQ(cuStreamSynchronize(a), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyDtoH(host.data(), arguments.x, 4000), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyDtoH(&seen, arguments.seen, 4), CUDA_SUCCESS);
  for (unsigned i = 0; i < 1000; i++) ASSERT_EQ(host[i], (float)i);
  EXPECT_EQ(seen, 1000u);
}

TEST_F(Planted, NumbersAreNotAddresses) {
  const CUdeviceptr p = zeros(8);
  launch("number", 1, 32, 0, a, (unsigned long long)p, p);
  clean();
  unsigned long long seen;
  ASSERT_EQ(cuMemcpyDtoH(&seen, p, 8), CUDA_SUCCESS);
  EXPECT_EQ(seen, p);
}

TEST_F(Planted, WarpOperations) {
  const unsigned threads = 128;
  const CUdeviceptr p = allocate(threads * 2 * 64);
  launch("warp_operations", 2, threads, 0, a, p);
  clean();
  std::vector<unsigned> out(threads * 2 * 16);
  ASSERT_EQ(cuMemcpyDtoH(out.data(), p, out.size() * 4), CUDA_SUCCESS);
  for (unsigned t = 0; t < 2 * threads; t++) {
    const unsigned lane = t & 31, *o = &out[16 * t];
    unsigned ballot = 0, exclusive = 0;
    for (unsigned l = 0; l < 32; l++) {
      ballot |= (l % 3 == 0) << l;
      exclusive ^= l | 64;
    }
    EXPECT_EQ(o[0], 15u);
    EXPECT_EQ(o[1], lane < 3 ? lane : lane - 3);
    EXPECT_EQ(o[2], (lane & 7) + 3 >= 8 ? lane : lane + 3);
    EXPECT_EQ(o[3], lane ^ 9);
    EXPECT_EQ(o[4], ballot);
    EXPECT_EQ(o[5], 1u);
    EXPECT_EQ(o[6], 496u);
    EXPECT_EQ((int)o[7], -7);
    EXPECT_EQ(o[8], 155u);
    EXPECT_EQ(o[9], exclusive);
    EXPECT_EQ(o[10], lane < 31 ? lane + 1 : 31);
    EXPECT_EQ(o[11], 26u); /* of 0 … 127 */
    unsigned ones = 0, leading = 32, first = 0, reversed = 0, permuted = 0;
    for (unsigned bit = 0; bit < 32; bit++) {
      ones += lane >> bit & 1;
      if (lane >> bit & 1) leading = 31 - bit;
      if (!first && lane >> bit & 1) first = bit + 1;
      reversed |= (lane >> bit & 1) << (31 - bit);
    }
    EXPECT_EQ(o[12], ones | leading << 8 | first << 16);
    for (unsigned i = 0; i < 4; i++) permuted |= ((0x7530 ^ (lane & 7)) >> 4 * i & 7) << 8 * i; /* byte k holds k */
    EXPECT_EQ(o[13], permuted);
    EXPECT_EQ(o[14], (unsigned)((0x0123456789abcdefull << lane) >> 32));
    EXPECT_EQ(o[15], (unsigned)((uint64_t)(0x9E3779B9u * lane) * 0xBB67AE85u >> 32) ^ reversed);
  }
}

// 16-bit floats round to nearest, ties to even; NaN is not compared: what its bits are differs between machines.
TEST_F(Planted, HalvesRoundToNearestEven) {
  std::vector<float> x;
  for (unsigned h = 0; h < 1u << 16; h++) {
    const unsigned top = h << 16;
    for (unsigned low : {0x0000u, 0x0fffu, 0x1000u, 0x1001u, 0x3000u, 0x7fffu, 0x8000u, 0x8001u}) {
      const unsigned bits = top | low;
      float v;
      memcpy(&v, &bits, 4);
      if (!std::isnan(v)) x.push_back(v);
    }
  }
  const unsigned n = (unsigned)x.size();
  const CUdeviceptr px = allocate(4 * n), half = allocate(2 * n), bf16 = allocate(2 * n);
  ASSERT_EQ(cuMemcpyHtoD(px, x.data(), 4 * n), CUDA_SUCCESS);
  launch("round_trip", (n + 255) / 256, 256, 0, a, px, half, bf16, n);
  clean();
  std::vector<uint16_t> h(n), g(n);
  ASSERT_EQ(cuMemcpyDtoH(h.data(), half, 2 * n), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyDtoH(g.data(), bf16, 2 * n), CUDA_SUCCESS);
  // The value of a pattern by its definition; a pattern is right if no neighbour is nearer, nor as near and even.
  auto valueOf = [](unsigned bits, int mantissa, int bias) {
    const unsigned magnitude = bits & 0x7fff, exponent = magnitude >> mantissa;
    const double fraction = magnitude & ((1u << mantissa) - 1), unit = std::ldexp(1, -mantissa);
    const double v =
        exponent ? std::ldexp(1 + fraction * unit, (int)exponent - bias) : std::ldexp(fraction * unit, 1 - bias);
    return bits & 0x8000 ? -v : v;
  };
  auto check = [&](float v, unsigned bits, int mantissa, int bias) {
    const unsigned infinity = 0x7fffu >> mantissa << mantissa;
    ASSERT_EQ(bits >> 15, (unsigned)std::signbit(v));
    ASSERT_LE(bits & 0x7fff, infinity) << v;
    if (std::isinf(v)) {
      ASSERT_EQ(bits & 0x7fff, infinity);
      return;
    }
    const double error = std::fabs(valueOf(bits, mantissa, bias) - (double)v);
    for (int step : {-1, 1}) {
      const int other = (int)(bits & 0x7fff) + step;
      if (other < 0 || other > (int)infinity) continue;
      const double theirs = std::fabs(valueOf((bits & 0x8000) | (unsigned)other, mantissa, bias) - (double)v);
      ASSERT_TRUE(error < theirs || (error == theirs && !(bits & 1))) << v << " became " << bits;
    }
  };
  for (unsigned i = 0; i < n; i++) {
    check(x[i], h[i], 10, 15);
    check(x[i], g[i], 7, 127);
  }
}

TEST_F(Planted, MappedMemory) {
  void* p;
  ASSERT_EQ(cuMemHostAlloc(&p, 4, CU_MEMHOSTALLOC_DEVICEMAP), CUDA_SUCCESS);
  CUdeviceptr device;
  ASSERT_EQ(cuMemHostGetDevicePointer(&device, p, 0), CUDA_SUCCESS);
  launch("tell_host", 1, 32, 0, a, device, 7u);
  while (*(volatile unsigned*)p != 7) usleep(100);
  clean();
  ASSERT_EQ(cuMemFreeHost(p), CUDA_SUCCESS);
}

/* ---- Capture ----------------------------------------------------------------------------------------------------- */

TEST_F(Planted, GraphForksAndJoins) {
  for (const bool joined : {true, false}) {
    const CUdeviceptr x = zeros(4 * kWords), y = zeros(4 * kWords), z = zeros(4 * kWords);
    CUevent event;
    ASSERT_EQ(cuEventCreate(&event, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), CUDA_SUCCESS);
    ASSERT_EQ(cuEventRecord(event, a), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamWaitEvent(b, event, 0), CUDA_SUCCESS);
    launch("add", kWords / 64, 64, 0, b, x, y, (unsigned)kWords);
    if (joined) {  // else the second kernel reads y beside the first
      ASSERT_EQ(cuEventRecord(event, b), CUDA_SUCCESS);
      ASSERT_EQ(cuStreamWaitEvent(a, event, 0), CUDA_SUCCESS);
    }
    launch("add", kWords / 64, 64, 0, a, y, z, (unsigned)kWords);
    launch("add", kWords / 64, 64, 0, a, z, x, (unsigned)kWords);
    if (!joined) {
      ASSERT_EQ(cuEventRecord(event, b), CUDA_SUCCESS);
      ASSERT_EQ(cuStreamWaitEvent(a, event, 0), CUDA_SUCCESS);
    }
    CUgraph graph;
    CUgraphExec exec;
    ASSERT_EQ(cuStreamEndCapture(a, &graph), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphInstantiate(&exec, graph, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphLaunch(exec, a), CUDA_SUCCESS);
    if (joined) {
      for (CUstream s : {b, a}) ASSERT_EQ(cuGraphLaunch(exec, s), CUDA_SUCCESS);
      clean();
      std::vector<float> host(kWords);
      ASSERT_EQ(cuMemcpyDtoH(host.data(), x, 4 * kWords), CUDA_SUCCESS);
      for (float v : host) ASSERT_EQ(v, 9); /* three more at each launch */
    } else {
      expectFound(kWrong, {"nothing orders the two"});
    }
    ASSERT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
    ASSERT_EQ(cuEventDestroy(event), CUDA_SUCCESS);
  }
}

TEST_F(Planted, ThreadsThatCaptureIntoOneGraphAtOnce) {
  const CUdeviceptr p = zeros(16), q = zeros(16);
  for (const bool takeTurns : {true, false}) {
    CUevent event;
    CUgraph graph = nullptr;
    std::mutex turn;
    std::atomic<int> here{0};
    ASSERT_EQ(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
    ASSERT_EQ(cuEventRecord(event, a), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamWaitEvent(b, event, 0), CUDA_SUCCESS);
    auto add = [&](CUstream s, CUdeviceptr to) {
      EXPECT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
      for (here++; here < 2;) std::this_thread::yield();
      CUresult result = CUDA_SUCCESS;
      for (int i = 0; result == CUDA_SUCCESS && i < (takeTurns ? 50 : 20000); i++) {  // until it is found
        std::unique_lock<std::mutex> mine(turn, std::defer_lock);
        if (takeTurns) mine.lock();
        result = cuMemsetD8Async(to, 0, 16, s);
      }
      EXPECT_EQ(result, takeTurns ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    };
    std::thread other(add, b, q);
    add(a, p);
    other.join();
    if (takeTurns) {
      EXPECT_EQ(cuEventRecord(event, b), CUDA_SUCCESS);
      EXPECT_EQ(cuStreamWaitEvent(a, event, 0), CUDA_SUCCESS);
    }
    EXPECT_EQ(cuStreamEndCapture(a, &graph), takeTurns ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    if (takeTurns)
      clean();
    else
      expectFound(kWrong, {"simgpu: capture by two threads at once", "while another thread adds to the same graph"});
    EXPECT_TRUE(!graph || cuGraphDestroy(graph) == CUDA_SUCCESS);
    EXPECT_EQ(cuEventDestroy(event), CUDA_SUCCESS);
  }
}

/* ---- User objects ------------------------------------------------------------------------------------------------ */

// One that counts its ends.
struct Told {
  std::atomic<int> ended{0};
  std::thread::id by;
  CUresult answer = CUDA_SUCCESS;  // to a call of the driver from there
  CUuserObject object = nullptr;
  explicit Told(unsigned held = 1) {
    EXPECT_EQ(cuUserObjectCreate(&object, this, end, held, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC), CUDA_SUCCESS);
  }
  static void end(void* p) {
    Told* told = static_cast<Told*>(p);
    told->by = std::this_thread::get_id();
    told->answer = cuCtxSynchronize();
    told->ended++;
  }
  void wait() const {
    while (!ended) std::this_thread::yield();
  }
  // Whether it has ended or is about to: they end in the order in which they were let go.
  bool isOver() const {
    Told fence;
    EXPECT_EQ(cuUserObjectRelease(fence.object, 1), CUDA_SUCCESS);
    fence.wait();
    return ended;
  }
};

// The graph of add(x, y), which holds told.
CUgraph holding(Told* told, CUstream s, const std::function<void()>& add) {
  CUgraph graph = nullptr, under = nullptr;
  CUstreamCaptureStatus status;
  cuuint64_t id;
  EXPECT_EQ(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamGetCaptureInfo(s, &status, &id, &under, nullptr, nullptr, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphRetainUserObject(under, told->object, 1, CU_GRAPH_USER_OBJECT_MOVE), CUDA_SUCCESS);
  add();
  EXPECT_EQ(cuStreamEndCapture(s, &graph), CUDA_SUCCESS);
  EXPECT_EQ(graph, under);
  return graph;
}

TEST_F(Planted, UserObjectsEndWithTheLastThatHoldsThem) {
  const CUdeviceptr x = zeros(64);
  const auto add = [&] { ASSERT_EQ(cuMemsetD8Async(x, 1, 64, a), CUDA_SUCCESS); };
  Told first, second, broken;
  CUgraph clone, nested, graph = holding(&first, a, add), other = holding(&second, a, add);
  CUgraphExec exec, whole;
  CUgraphExecUpdateResultInfo info;
  ASSERT_EQ(cuGraphInstantiate(&exec, graph, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphClone(&clone, graph), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphLaunch(exec, a), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamEndCapture(a, &nested), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphInstantiate(&whole, nested, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphDestroy(nested), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphDestroy(clone), CUDA_SUCCESS);
  EXPECT_FALSE(first.isOver());
  ASSERT_EQ(cuGraphExecUpdate(exec, other, &info), CUDA_SUCCESS); /* from now on it holds the second */
  ASSERT_EQ(cuGraphDestroy(other), CUDA_SUCCESS);
  EXPECT_FALSE(first.isOver()) << "a graph that was launched under capture is a part of it";
  EXPECT_FALSE(second.isOver());
  ASSERT_EQ(cuGraphExecDestroy(whole), CUDA_SUCCESS);
  EXPECT_TRUE(first.isOver());
  EXPECT_FALSE(second.isOver());
  ASSERT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
  EXPECT_TRUE(second.isOver());
  for (const Told* told : {&first, &second}) {
    EXPECT_EQ(told->ended, 1);
    EXPECT_NE(told->by, std::this_thread::get_id());
    EXPECT_EQ(told->answer, CUDA_ERROR_NOT_PERMITTED);
  }

  CUgraph under;
  CUstreamCaptureStatus status;
  cuuint64_t id;
  ASSERT_EQ(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamGetCaptureInfo(a, &status, &id, &under, nullptr, nullptr, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphRetainUserObject(under, broken.object, 1, CU_GRAPH_USER_OBJECT_MOVE), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(a), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  EXPECT_EQ(cuStreamEndCapture(a, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  EXPECT_TRUE(broken.isOver());
}

TEST_F(Planted, UserObjectsAreCounted) {
  const CUdeviceptr x = zeros(64);
  Told told(2), moved;
  CUuserObject object;
  const auto end = [](void*) {};
  for (const unsigned count : {0u, 1u})
    EXPECT_EQ(cuUserObjectCreate(&object, nullptr, end, count, count ? 0 : CU_USER_OBJECT_NO_DESTRUCTOR_SYNC),
              CUDA_ERROR_INVALID_VALUE);
  CUgraph graph = holding(&moved, a, [&] { ASSERT_EQ(cuMemsetD8Async(x, 1, 64, a), CUDA_SUCCESS); });
  ASSERT_EQ(cuGraphRetainUserObject(graph, told.object, 2, 0), CUDA_SUCCESS); /* two more */
  ASSERT_EQ(cuUserObjectRetain(told.object, 1), CUDA_SUCCESS);
  EXPECT_EQ(cuUserObjectRelease(told.object, 4), CUDA_ERROR_INVALID_VALUE);
  ASSERT_EQ(cuUserObjectRelease(told.object, 3), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphReleaseUserObject(graph, told.object, 3), CUDA_ERROR_INVALID_VALUE);
  ASSERT_EQ(cuGraphReleaseUserObject(graph, told.object, 1), CUDA_SUCCESS);
  EXPECT_FALSE(told.isOver());
  ASSERT_EQ(cuGraphReleaseUserObject(graph, told.object, 1), CUDA_SUCCESS);
  EXPECT_TRUE(told.isOver());
  EXPECT_FALSE(moved.isOver());
  ASSERT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
  EXPECT_TRUE(moved.isOver());
}

// Launches under way hold it too; once it has ended they have, and what they used is free for anybody.
TEST_F(Planted, UserObjectsEndAfterLaunches) {
  const CUdeviceptr x = zeros(4 * kWords), y = zeros(4 * kWords);
  for (const bool awaited : {true, false}) {
    Told told;
    std::atomic<bool> go{false};
    CUgraph graph = holding(&told, a, [&] { launch("add", kWords / 64, 64, 0, a, x, y, (unsigned)kWords); });
    CUgraphExec exec;
    ASSERT_EQ(cuGraphInstantiate(&exec, graph, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
    const auto hold = [](void* p) {
      while (!*static_cast<std::atomic<bool>*>(p)) std::this_thread::yield();
    };
    ASSERT_EQ(cuLaunchHostFunc(a, hold, &go), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphLaunch(exec, a), CUDA_SUCCESS);
    if (awaited) {
      ASSERT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
      EXPECT_FALSE(told.isOver());
    }
    go = true;
    if (awaited) told.wait();
    ASSERT_EQ(cuMemsetD8Async(y, 0, 4 * kWords, b), CUDA_SUCCESS);
    if (awaited) {
      clean();
      continue;
    }
    expectFound(kWrong, {"nothing orders the two"});
    ASSERT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
    told.wait();
  }
}

TEST_F(Planted, CallsThatMayNotBeCaptured) {
  CUdeviceptr p;
  CUgraph graph;
  ASSERT_EQ(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  EXPECT_EQ(cuMemAlloc(&p, 16), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  EXPECT_EQ(cuStreamEndCapture(a, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

  ASSERT_EQ(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  ASSERT_EQ(cuThreadExchangeStreamCaptureMode(&mode), CUDA_SUCCESS);
  EXPECT_EQ(cuMemAlloc(&p, 16), CUDA_SUCCESS);
  ASSERT_EQ(cuThreadExchangeStreamCaptureMode(&mode), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(a), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  EXPECT_EQ(cuStreamEndCapture(a, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

  CUevent event;
  ASSERT_EQ(cuEventCreate(&event, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuEventRecord(event, b), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamWaitEvent(a, event, 0), CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
  EXPECT_EQ(cuStreamEndCapture(a, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

  ASSERT_EQ(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
  ASSERT_EQ(cuEventRecord(event, a), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamWaitEvent(b, event, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuMemsetD8Async(p, 0, 16, b), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamEndCapture(a, &graph), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
  ASSERT_EQ(cuEventDestroy(event), CUDA_SUCCESS);
}

TEST_F(Planted, FunctionsByNameAndVersion) {
  void* f = nullptr;
  CUdriverProcAddressQueryResult status;
  EXPECT_EQ(cuGetProcAddress("cuMemAlloc", &f, 3020, 0, &status), CUDA_SUCCESS);
  EXPECT_EQ(f, (void*)&cuMemAlloc);
  EXPECT_EQ(cuGetProcAddress("cuMemAlloc", &f, 2000, 0, &status), CUDA_SUCCESS);
  EXPECT_EQ(f, nullptr);
  EXPECT_EQ(status, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
  void* g = nullptr;
  EXPECT_EQ(cuGetProcAddress("cuStreamGetCaptureInfo", &f, 11030, 0, &status), CUDA_SUCCESS);
  EXPECT_EQ(cuGetProcAddress("cuStreamGetCaptureInfo", &g, 13000, 0, &status), CUDA_SUCCESS);
  EXPECT_NE(f, g);
  EXPECT_EQ(cuGetProcAddress("cuMemcpyAsync", &g, 13000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, &status),
            CUDA_SUCCESS);
  EXPECT_NE(g, (void*)&cuMemcpyAsync);
  EXPECT_EQ(cuGetProcAddress("cuNothing", &f, 13000, 0, &status), CUDA_ERROR_NOT_FOUND);
  EXPECT_EQ(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
}

}  // namespace
