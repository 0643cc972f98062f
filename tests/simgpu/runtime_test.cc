// An ordinary client of the CUDA runtime, linked to the stand-in's libcudart.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

extern "C" cudaError_t cudaMemcpyAsync_ptsz(void*, const void*, size_t, cudaMemcpyKind, cudaStream_t);
extern "C" cudaError_t cudaStreamSynchronize_ptsz(cudaStream_t);
extern "C" cudaError_t cudaStreamGetId_ptsz(cudaStream_t, unsigned long long*);

namespace {

// Programs have static objects that own streams and memory, and go after all that threads have.
const struct AtTheEnd {
  ~AtTheEnd() {
    void* p;
    if (cudaSetDevice(1) != cudaSuccess || cudaMalloc(&p, 16) != cudaSuccess ||
        cudaDeviceSynchronize() != cudaSuccess || cudaStreamSynchronize(cudaStreamPerThread) != cudaSuccess)
      _exit(1);
  }
} atTheEnd;

#define OK(expression) ASSERT_EQ(expression, cudaSuccess)

class Runtime : public testing::Test {
 protected:
  static void SetUpTestSuite() { setenv("SIMGPU_DEVICES", "8", 1); }
  void SetUp() override { OK(cudaSetDevice(0)); }
};

TEST_F(Runtime, Devices) {
  int count, device, value;
  OK(cudaGetDeviceCount(&count));
  EXPECT_EQ(count, 8);
  OK(cudaSetDevice(5));
  OK(cudaGetDevice(&device));
  EXPECT_EQ(device, 5);
  std::thread([] {
    int own = -1;
    EXPECT_EQ(cudaGetDevice(&own), cudaSuccess);
    EXPECT_EQ(own, 0) << "each thread has its own";
  }).join();
  EXPECT_EQ(cudaSetDevice(8), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  cudaDeviceProp p;
  OK(cudaGetDeviceProperties(&p, 3));
  EXPECT_NE(std::string(p.name).find("stand-in"), std::string::npos);
  OK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 3));
  EXPECT_EQ(value, p.multiProcessorCount);
  EXPECT_EQ(p.warpSize, 32);
  char id[32];
  OK(cudaDeviceGetPCIBusId(id, sizeof id, 6));
  OK(cudaDeviceGetByPCIBusId(&device, id));
  EXPECT_EQ(device, 6);
  int version;
  OK(cudaRuntimeGetVersion(&version));
  EXPECT_EQ(version, CUDART_VERSION);
}

// A program that only times something reads what it never wrote: that is reported, and no fault.
TEST_F(Runtime, NeverWrittenMemoryIsReadable) {
  void *p, *q;
  char bytes[64];
  OK(cudaMalloc(&p, sizeof bytes));
  OK(cudaMallocAsync(&q, sizeof bytes, nullptr));
  testing::internal::CaptureStderr();
  OK(cudaMemcpy(bytes, p, sizeof bytes, cudaMemcpyDeviceToHost));
  OK(cudaMemcpy(bytes, q, sizeof bytes, cudaMemcpyDeviceToHost));
  const std::string report = testing::internal::GetCapturedStderr();
  const size_t first = report.find("never-written read");
  EXPECT_NE(first, std::string::npos) << report;
  EXPECT_NE(report.find("never-written read", first + 1), std::string::npos) << report;
  OK(cudaMemset(p, 0, sizeof bytes));
  testing::internal::CaptureStderr();
  OK(cudaMemcpy(bytes, p, sizeof bytes, cudaMemcpyDeviceToHost));
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  OK(cudaFree(p));
  OK(cudaFree(q));
}

TEST_F(Runtime, ManagedMemoryIsEverywhere) {
  int *managed, *device, out = 0;
  cudaPointerAttributes attributes;
  OK(cudaSetDevice(2));
  OK(cudaMallocManaged(reinterpret_cast<void**>(&managed), sizeof *managed, cudaMemAttachGlobal));
  OK(cudaMalloc(reinterpret_cast<void**>(&device), sizeof *device));
  *managed = 7;
  OK(cudaPointerGetAttributes(&attributes, managed));
  EXPECT_EQ(attributes.type, cudaMemoryTypeManaged);
  EXPECT_EQ(attributes.device, 2);
  OK(cudaMemPrefetchAsync(managed, sizeof *managed, {cudaMemLocationTypeDevice, 2}, 0, nullptr));
  OK(cudaMemcpy(device, managed, sizeof *managed, cudaMemcpyDeviceToDevice));
  OK(cudaMemset(managed, 0, sizeof *managed));
  OK(cudaDeviceSynchronize());
  EXPECT_EQ(*managed, 0);
  OK(cudaMemcpy(managed, device, sizeof *managed, cudaMemcpyDefault));
  EXPECT_EQ(*managed, 7);
  OK(cudaMemcpy(&out, managed, sizeof out, cudaMemcpyDeviceToHost));
  EXPECT_EQ(out, 7);
  EXPECT_EQ(cudaMemPrefetchAsync(device, sizeof *device, {cudaMemLocationTypeDevice, 2}, 0, nullptr),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(managed), cudaErrorInvalidValue);
  OK(cudaFree(managed));
  OK(cudaFree(device));
}

TEST_F(Runtime, Errors) {
  EXPECT_STREQ(cudaGetErrorName(cudaErrorInvalidValue), "cudaErrorInvalidValue");
  EXPECT_STREQ(cudaGetErrorName(cudaErrorContained), "cudaErrorContained");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorInvalidMemcpyDirection), "invalid copy direction for memcpy");
  void* p;
  EXPECT_EQ(cudaMalloc(&p, size_t{1} << 50), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaFree(nullptr), cudaSuccess);
}

TEST_F(Runtime, Memory) {
  const size_t n = 1 << 20;
  std::vector<char> host(n, 7), back(n);
  void *a, *b, *pinned;
  OK(cudaMalloc(&a, n));
  OK(cudaMalloc(&b, n));
  OK(cudaMallocHost(&pinned, n));
  OK(cudaMemcpy(a, host.data(), n, cudaMemcpyHostToDevice));
  OK(cudaMemset(static_cast<char*>(a) + 1, 9, 1));
  OK(cudaMemcpy(b, a, n, cudaMemcpyDeviceToDevice));
  OK(cudaMemcpy(back.data(), b, n, cudaMemcpyDefault));
  host[1] = 9;
  EXPECT_EQ(back, host);
  cudaStream_t s;
  OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
  memset(pinned, 3, n);
  OK(cudaMemcpyAsync(a, pinned, n, cudaMemcpyHostToDevice, s));
  OK(cudaMemcpyAsync(b, a, n, cudaMemcpyDeviceToDevice, s));
  OK(cudaMemcpyAsync(back.data(), b, n, cudaMemcpyDeviceToHost, s));  // pageable: done when it returns
  EXPECT_EQ(back, std::vector<char>(n, 3));
  EXPECT_EQ(cudaMemcpy(back.data(), b, n, cudaMemcpyHostToHost), cudaErrorInvalidValue);

  cudaPointerAttributes what;
  OK(cudaPointerGetAttributes(&what, static_cast<char*>(a) + 100));
  EXPECT_EQ(what.type, cudaMemoryTypeDevice);
  EXPECT_EQ(what.device, 0);
  OK(cudaPointerGetAttributes(&what, pinned));
  EXPECT_EQ(what.type, cudaMemoryTypeHost);
  OK(cudaPointerGetAttributes(&what, host.data()));
  EXPECT_EQ(what.type, cudaMemoryTypeUnregistered);

  size_t before, after, total;
  OK(cudaMemGetInfo(&before, &total));
  void* later;
  OK(cudaMallocAsync(&later, n, s));
  OK(cudaMemsetAsync(later, 1, n, s));
  OK(cudaMemGetInfo(&after, &total));
  EXPECT_EQ(before - after, n);
  OK(cudaFreeAsync(later, s));
  OK(cudaStreamSynchronize(s));
  OK(cudaMemGetInfo(&after, &total));
  EXPECT_EQ(before, after);
  OK(cudaStreamDestroy(s));
  OK(cudaFreeHost(pinned));
  OK(cudaFree(a));
  OK(cudaFree(b));
  EXPECT_EQ(cudaFree(b), cudaErrorInvalidValue);
  cudaGetLastError();
}

// Streams 0, 1 and 2: legacy, legacy by name, the thread's own; the twins take 0 for the thread's own.
TEST_F(Runtime, StreamHandles) {
  unsigned long long zero, legacy, own, twin, other;
  OK(cudaStreamGetId(nullptr, &zero));
  OK(cudaStreamGetId(cudaStreamLegacy, &legacy));
  OK(cudaStreamGetId(cudaStreamPerThread, &own));
  OK(cudaStreamGetId_ptsz(nullptr, &twin));
  EXPECT_EQ(zero, legacy);
  EXPECT_EQ(own, twin);
  EXPECT_NE(zero, own);
  std::thread([&] {
    EXPECT_EQ(cudaSetDevice(0), cudaSuccess);
    EXPECT_EQ(cudaStreamGetId(cudaStreamPerThread, &other), cudaSuccess);
  }).join();
  EXPECT_NE(own, other);
  int value = 4, back = 0, least, greatest;
  void* p;
  OK(cudaMalloc(&p, 4));
  OK(cudaMemcpyAsync_ptsz(p, &value, 4, cudaMemcpyHostToDevice, nullptr));
  OK(cudaStreamSynchronize_ptsz(nullptr));
  OK(cudaMemcpy(&back, p, 4, cudaMemcpyDeviceToHost));
  EXPECT_EQ(back, 4);
  OK(cudaFree(p));
  OK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  cudaStream_t s;
  OK(cudaStreamCreateWithPriority(&s, cudaStreamNonBlocking, greatest));
  int priority;
  unsigned flags;
  OK(cudaStreamGetPriority(s, &priority));
  OK(cudaStreamGetFlags(s, &flags));
  EXPECT_EQ(priority, greatest);
  EXPECT_LT(greatest, least);
  EXPECT_EQ(flags, static_cast<unsigned>(cudaStreamNonBlocking));
  OK(cudaStreamDestroy(s));
}

TEST_F(Runtime, EventsAndHostFunctions) {
  cudaStream_t s;
  cudaEvent_t from, to;
  OK(cudaStreamCreate(&s));
  OK(cudaEventCreate(&from));
  OK(cudaEventCreate(&to));
  std::atomic<int> calls{0};
  auto call = [](void* p) { (*static_cast<std::atomic<int>*>(p))++; };
  OK(cudaEventRecord(from, s));
  for (int i = 0; i < 10; i++) OK(cudaLaunchHostFunc(s, call, &calls));
  OK(cudaStreamAddCallback(
      s, [](cudaStream_t, cudaError_t, void* p) { (*static_cast<std::atomic<int>*>(p))++; }, &calls, 0));
  OK(cudaEventRecord(to, s));
  OK(cudaEventSynchronize(to));
  EXPECT_EQ(calls, 11);
  EXPECT_EQ(cudaEventQuery(to), cudaSuccess);
  float milliseconds = -1;
  OK(cudaEventElapsedTime(&milliseconds, from, to));
  EXPECT_GE(milliseconds, 0);
  std::atomic<bool> go{false};
  OK(cudaLaunchHostFunc(
      s,
      [](void* p) {
        while (!*static_cast<std::atomic<bool>*>(p)) std::this_thread::yield();
      },
      &go));
  OK(cudaEventRecord(to, s));
  EXPECT_EQ(cudaEventQuery(to), cudaErrorNotReady);
  EXPECT_EQ(cudaStreamQuery(s), cudaErrorNotReady);
  go = true;
  OK(cudaStreamSynchronize(s));
  cudaGetLastError();
  OK(cudaEventDestroy(from));
  OK(cudaEventDestroy(to));
  OK(cudaStreamDestroy(s));
}

TEST_F(Runtime, CaptureAndReplay) {
  const size_t n = 4096;
  cudaStream_t s;
  void *a, *b, *pinned;
  OK(cudaStreamCreate(&s));
  OK(cudaMalloc(&a, n));
  OK(cudaMalloc(&b, n));
  OK(cudaMallocHost(&pinned, n));
  OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
  cudaStreamCaptureStatus status;
  unsigned long long id = 0;
  OK(cudaStreamGetCaptureInfo(s, &status, &id, nullptr, nullptr, nullptr, nullptr));
  EXPECT_EQ(status, cudaStreamCaptureStatusActive);
  EXPECT_NE(id, 0u);
  OK(cudaMemcpyAsync(a, pinned, n, cudaMemcpyHostToDevice, s));
  OK(cudaMemcpyAsync(b, a, n, cudaMemcpyDeviceToDevice, s));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  size_t nodes;
  OK(cudaStreamEndCapture(s, &graph));
  OK(cudaGraphGetNodes(graph, nullptr, &nodes));
  EXPECT_EQ(nodes, 2u);
  OK(cudaGraphInstantiate(&exec, graph, 0));
  OK(cudaGraphDestroy(graph));
  for (int value : {5, 6}) {
    std::vector<char> back(n);
    memset(pinned, value, n);
    OK(cudaGraphLaunch(exec, s));
    OK(cudaMemcpyAsync(back.data(), b, n, cudaMemcpyDeviceToHost, s));
    EXPECT_EQ(back, std::vector<char>(n, static_cast<char>(value)));
  }
  OK(cudaGraphExecDestroy(exec));
  OK(cudaFreeHost(pinned));
  OK(cudaFree(a));
  OK(cudaFree(b));
  OK(cudaStreamDestroy(s));
}

TEST_F(Runtime, UserObjects) {
  std::atomic<int> ended{0};
  const auto end = [](void* p) { ++*static_cast<std::atomic<int>*>(p); };
  cudaUserObject_t object;
  cudaStream_t s;
  cudaGraph_t graph, under;
  unsigned long long id;
  cudaStreamCaptureStatus status;
  OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
  OK(cudaUserObjectCreate(&object, &ended, end, 1, cudaUserObjectNoDestructorSync));
  OK(cudaUserObjectRetain(object, 1));
  OK(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
  OK(cudaStreamGetCaptureInfo(s, &status, &id, &under, nullptr, nullptr, nullptr));
  OK(cudaGraphRetainUserObject(under, object, 1, cudaGraphUserObjectMove));
  OK(cudaStreamEndCapture(s, &graph));
  OK(cudaGraphRetainUserObject(graph, object, 1, 0));
  OK(cudaGraphReleaseUserObject(graph, object, 1));
  OK(cudaUserObjectRelease(object, 1));
  EXPECT_EQ(cudaUserObjectRelease(object, 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(ended, 0);
  OK(cudaGraphDestroy(graph));
  while (!ended) std::this_thread::yield();
  EXPECT_EQ(ended, 1);
  OK(cudaStreamDestroy(s));
}

// Another graph of the same shape may take an executable's place; one that is launched under capture becomes a part.
TEST_F(Runtime, GraphsAreUpdatedClonedAndNested) {
  const size_t n = 64;
  cudaStream_t s;
  char *a, *back;
  OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
  OK(cudaMalloc(reinterpret_cast<void**>(&a), n));
  OK(cudaMallocHost(reinterpret_cast<void**>(&back), n));
  auto capture = [&](cudaGraph_t* graph, int value, cudaGraphExec_t inside) {
    EXPECT_EQ(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    EXPECT_EQ(cudaMemsetAsync(a, value, n, s), cudaSuccess);
    if (inside) {
      EXPECT_EQ(cudaGraphLaunch(inside, s), cudaSuccess);
    }
    EXPECT_EQ(cudaMemcpyAsync(back, a, n, cudaMemcpyDeviceToHost, s), cudaSuccess);
    EXPECT_EQ(cudaStreamEndCapture(s, graph), cudaSuccess);
  };
  auto play = [&](cudaGraphExec_t exec) {
    EXPECT_EQ(cudaGraphUpload(exec, s), cudaSuccess);
    EXPECT_EQ(cudaGraphLaunch(exec, s), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(s), cudaSuccess);
    return static_cast<int>(back[n - 1]);
  };
  cudaGraph_t first, second, nested, clone;
  cudaGraphExec_t exec, whole;
  cudaGraphExecUpdateResultInfo info;
  capture(&first, 1, nullptr);
  capture(&second, 2, nullptr);
  OK(cudaGraphInstantiate(&exec, first, 0));
  EXPECT_EQ(play(exec), 1);
  OK(cudaGraphExecUpdate(exec, second, &info));
  EXPECT_EQ(play(exec), 2);
  capture(&nested, 3, exec);
  EXPECT_EQ(cudaGraphExecUpdate(exec, nested, &info), cudaErrorGraphExecUpdateFailure);
  EXPECT_EQ(info.result, cudaGraphExecUpdateErrorTopologyChanged);
  EXPECT_EQ(cudaGetLastError(), cudaErrorGraphExecUpdateFailure);
  OK(cudaGraphClone(&clone, nested));
  OK(cudaGraphDestroy(nested));
  cudaGraphInstantiateParams params = {};
  OK(cudaGraphInstantiateWithParams(&whole, clone, &params));
  EXPECT_EQ(params.result_out, cudaGraphInstantiateSuccess);
  EXPECT_EQ(play(whole), 2) << "the graph inside comes after the memset before it";
  for (cudaGraph_t graph : {first, second, clone}) OK(cudaGraphDestroy(graph));
  for (cudaGraphExec_t each : {exec, whole}) OK(cudaGraphExecDestroy(each));
  OK(cudaFreeHost(back));
  OK(cudaFree(a));
  OK(cudaStreamDestroy(s));
}

// Programs, and SlimCCL, reserve what they may never need.
TEST_F(Runtime, ReservedMemoryCostsNothing) {
  const size_t gigabyte = size_t{1} << 30;
  auto resident = [] {
    size_t all = 0, pages = 0;
    FILE* file = fopen("/proc/self/statm", "re");
    EXPECT_EQ(fscanf(file, "%zu %zu", &all, &pages), 2);
    fclose(file);
    return pages * 4096;
  };
  char *p, byte, *again;
  const size_t before = resident();
  OK(cudaMalloc(reinterpret_cast<void**>(&p), 4 * gigabyte));
  OK(cudaMemset(p + gigabyte, 5, 100));
  OK(cudaMemcpy(&byte, p + gigabyte + 99, 1, cudaMemcpyDeviceToHost));
  EXPECT_EQ(byte, 5);
  EXPECT_LT(resident(), before + (gigabyte >> 5));
  OK(cudaFree(p));
  OK(cudaMalloc(reinterpret_cast<void**>(&again), gigabyte));
  testing::internal::CaptureStderr();
  OK(cudaMemcpy(&byte, again + gigabyte / 2, 1, cudaMemcpyDeviceToHost));
  const std::string report = testing::internal::GetCapturedStderr();
  EXPECT_NE(report.find("never-written read"), std::string::npos) << report;
  OK(cudaFree(again));
}

// Addresses come back when all have been used; what lives stays where it is.
TEST_F(Runtime, MemoryComesAndGoes) {
  const size_t gigabyte = size_t{1} << 30;
  char *kept, *p, byte = 0;
  OK(cudaSetDevice(3));
  OK(cudaMalloc(reinterpret_cast<void**>(&kept), 4096));
  OK(cudaMemset(kept, 7, 4096));
  for (int i = 0; i < 150; i++) {
    OK(cudaMalloc(reinterpret_cast<void**>(&p), gigabyte + static_cast<size_t>(i)));
    ASSERT_TRUE(kept + 4096 <= p || p + gigabyte + i <= kept);
    OK(cudaMemset(p + gigabyte - 1, 1, 1));
    OK(cudaFree(p));
  }
  OK(cudaMemcpy(&byte, kept + 4095, 1, cudaMemcpyDeviceToHost));
  EXPECT_EQ(byte, 7);
  testing::internal::CaptureStderr();
  EXPECT_EQ(cudaMemset(p, 1, 1), cudaErrorInvalidValue) << "freed";
  EXPECT_NE(testing::internal::GetCapturedStderr().find(", freed)"), std::string::npos);
  cudaGetLastError();
  OK(cudaFree(kept));
}

TEST_F(Runtime, CopiesOfTwoAndThreeDimensions) {
  const size_t width = 37, height = 5, depth = 3;
  std::vector<char> in(width * height * depth), out(in.size(), -1);
  for (size_t i = 0; i < in.size(); i++) in[i] = static_cast<char>(i * 7);
  char *p, *q;
  size_t pitch;
  cudaPitchedPtr box;
  cudaStream_t s;
  OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
  OK(cudaMallocPitch(reinterpret_cast<void**>(&p), &pitch, width, height));
  OK(cudaMalloc(reinterpret_cast<void**>(&q), width * height));
  OK(cudaMemset2D(p, pitch, 9, width, height));
  OK(cudaMemcpy2D(p, pitch, in.data(), width, width - 1, height, cudaMemcpyHostToDevice));
  OK(cudaMemcpy2DAsync(q, width, p, pitch, width, height, cudaMemcpyDeviceToDevice, s));
  OK(cudaMemcpy2DAsync(out.data(), width, q, width, width, height, cudaMemcpyDefault, s));
  OK(cudaStreamSynchronize(s));
  for (size_t i = 0; i < width * height; i++) ASSERT_EQ(out[i], i % width == width - 1 ? 9 : in[i]) << i;
  EXPECT_EQ(cudaMemcpy2D(p, pitch, in.data(), 2, width, height, cudaMemcpyHostToDevice), cudaErrorInvalidPitchValue);
  EXPECT_EQ(cudaMemcpy2D(p, pitch, in.data(), width, width, height + 1, cudaMemcpyHostToDevice), cudaErrorInvalidValue);

  OK(cudaMalloc3D(&box, {width, height, depth}));
  cudaMemcpy3DParms up = {};
  up.srcPtr = {in.data(), width, width, height};
  up.dstPtr = box;
  up.extent = {width, height, depth};
  up.kind = cudaMemcpyHostToDevice;
  OK(cudaMemcpy3D(&up));
  cudaMemcpy3DParms down = {};  // a corner of it
  down.srcPtr = box;
  down.srcPos = {1, 2, 1};
  down.dstPtr = {out.data(), 10, 10, 3};
  down.extent = {10, 3, 2};
  down.kind = cudaMemcpyDeviceToHost;
  OK(cudaMemcpy3D(&down));
  for (size_t z = 0; z < 2; z++)
    for (size_t y = 0; y < 3; y++)
      for (size_t x = 0; x < 10; x++)
        ASSERT_EQ(out[(z * 3 + y) * 10 + x], in[((z + 1) * height + y + 2) * width + x + 1]);
  cudaGetLastError();
  OK(cudaFree(box.ptr));
  OK(cudaFree(p));
  OK(cudaFree(q));
  OK(cudaStreamDestroy(s));
}

TEST_F(Runtime, Pools) {
  cudaMemPool_t own, pool, now;
  cudaStream_t s;
  void *p, *q;
  uint64_t value = UINT64_MAX;
  OK(cudaStreamCreate(&s));
  OK(cudaDeviceGetDefaultMemPool(&own, 0));
  OK(cudaMemPoolSetAttribute(own, cudaMemPoolAttrReleaseThreshold, &value));
  value = 0;
  OK(cudaMemPoolGetAttribute(own, cudaMemPoolAttrReleaseThreshold, &value));
  EXPECT_EQ(value, UINT64_MAX);
  cudaMemPoolProps props = {};
  props.allocType = cudaMemAllocationTypePinned;
  props.location = {cudaMemLocationTypeDevice, 0};
  OK(cudaMemPoolCreate(&pool, &props));
  OK(cudaDeviceSetMemPool(0, pool));
  OK(cudaDeviceGetMemPool(&now, 0));
  EXPECT_EQ(now, pool);
  OK(cudaMallocAsync(&p, 1000, s));
  OK(cudaMallocFromPoolAsync(&q, 500, own, s));
  OK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &value));
  EXPECT_EQ(value, 1000u);
  OK(cudaFreeAsync(p, s));
  OK(cudaFreeAsync(q, s));
  OK(cudaStreamSynchronize(s));
  OK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &value));
  EXPECT_EQ(value, 0u);
  OK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &value));
  EXPECT_EQ(value, 1000u);
  int reuse = 0;
  OK(cudaMemPoolSetAttribute(pool, cudaMemPoolReuseAllowOpportunistic, &reuse));
  reuse = 1;
  OK(cudaMemPoolGetAttribute(pool, cudaMemPoolReuseAllowOpportunistic, &reuse));
  EXPECT_EQ(reuse, 0);
  cudaMemAccessDesc peer = {{cudaMemLocationTypeDevice, 1}, cudaMemAccessFlagsProtReadWrite};
  cudaMemAccessFlags flags;
  OK(cudaMemPoolGetAccess(&flags, pool, &peer.location));
  EXPECT_EQ(flags, cudaMemAccessFlagsProtNone);
  OK(cudaMemPoolSetAccess(pool, &peer, 1));
  OK(cudaMemPoolGetAccess(&flags, pool, &peer.location));
  EXPECT_EQ(flags, cudaMemAccessFlagsProtReadWrite);
  OK(cudaMemPoolTrimTo(pool, 0));
  OK(cudaMemPoolDestroy(pool));
  OK(cudaDeviceGetMemPool(&now, 0));
  EXPECT_EQ(now, own);
  EXPECT_EQ(cudaMemPoolDestroy(own), cudaErrorInvalidValue);
  cudaGetLastError();
  OK(cudaStreamDestroy(s));
}

// Streams that do not block do not wait for stream 0 on a device either, but for cudaMemset and its like programs count
// on it, and nearly always get away with it.
TEST_F(Runtime, PlainMemsetAndCopyComeFirst) {
  const size_t n = 1 << 20;
  cudaStream_t s;
  char *p, *q;
  std::vector<char> back(n);
  OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
  OK(cudaMalloc(reinterpret_cast<void**>(&p), n));
  OK(cudaMalloc(reinterpret_cast<void**>(&q), n));
  for (int value : {1, 2, 3, 4}) {
    OK(cudaMemset(p, value, n));
    OK(cudaMemcpy(q, p, n, cudaMemcpyDeviceToDevice));
    OK(cudaMemcpyAsync(back.data(), q, n, cudaMemcpyDeviceToHost, s));
    OK(cudaStreamSynchronize(s));
    EXPECT_EQ(back, std::vector<char>(n, static_cast<char>(value)));
  }
  OK(cudaFree(p));
  OK(cudaFree(q));
  OK(cudaStreamDestroy(s));
}

TEST_F(Runtime, WhatIsNotServedSaysSo) {
  void* p;
  cudaIpcMemHandle_t handle;
  OK(cudaMalloc(&p, 16));
  testing::internal::CaptureStderr();
  EXPECT_EQ(cudaIpcGetMemHandle(&handle, p), cudaErrorNotSupported);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "simgpu: cudaIpcGetMemHandle is not served by this stand-in: it answers cudaErrorNotSupported\n");
  EXPECT_EQ(cudaGetLastError(), cudaErrorNotSupported);
  OK(cudaFree(p));
}

TEST_F(Runtime, Peers) {
  void *a, *b;
  int can;
  OK(cudaDeviceCanAccessPeer(&can, 0, 1));
  EXPECT_EQ(can, 1);
  OK(cudaDeviceGetP2PAttribute(&can, cudaDevP2PAttrAccessSupported, 0, 1));
  EXPECT_EQ(can, 1);
  OK(cudaMalloc(&a, 16));
  OK(cudaMemset(a, 1, 16));
  OK(cudaDeviceSynchronize());
  OK(cudaSetDevice(1));
  OK(cudaMalloc(&b, 16));
  OK(cudaMemcpyPeer(b, 1, a, 0, 16));
  OK(cudaDeviceEnablePeerAccess(0, 0));
  EXPECT_EQ(cudaDeviceEnablePeerAccess(0, 0), cudaErrorPeerAccessAlreadyEnabled);
  OK(cudaDeviceDisablePeerAccess(0));
  cudaGetLastError();
  OK(cudaDeviceSynchronize());
  OK(cudaFree(a));
  OK(cudaFree(b));
}

}  // namespace
