#include "tests/cuda/device.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>

namespace slim_test {

void check(CUresult error, const char* what) {
  if (error == CUDA_SUCCESS) return;
  (void)slimDriverFail(error, "%s", what);
  std::fprintf(stderr, "%s\n", slimLastMessage());
  std::exit(1);
}

void useDevice(int ordinal) {
  static std::mutex lock;
  static std::map<int, CUcontext> contexts;
  std::lock_guard<std::mutex> guard(lock);
  CUcontext& context = contexts[ordinal];
  if (!context) {
    CUdevice device;
    CU(DeviceGet, &device, ordinal);
    CU(DevicePrimaryCtxRetain, &context, device);
  }
  CU(CtxPushCurrent, context);
}

const TestDriver& testDriver() {
  static const TestDriver driver = [] {
    if (slimDriverOpen() != slimDriverReady) {
      std::fprintf(stderr, "%s\n", slimLastMessage());
      std::exit(1);
    }
    TestDriver d;
#define FIND(name, version)                                                                    \
  if (slimDriverFind(reinterpret_cast<void**>(&d.name), "cu" #name, version) != slimSuccess) { \
    std::fprintf(stderr, "%s\n", slimLastMessage());                                           \
    std::exit(1);                                                                              \
  }
    SLIM_TEST_DRIVER_FUNCTIONS(FIND)
#undef FIND
    return d;
  }();
  static thread_local bool entered = (useDevice(0), true);
  (void)entered;
  return driver;
}

int deviceCount() {
  testDriver();
  int count = 0;
  CU(DeviceGetCount, &count);
  return count;
}

namespace {
constexpr uint8_t kMark = 0xa5;
constexpr size_t kMargin = 256;

void transfer(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  Stream stream;
  if (bytes) CU(MemcpyAsync, to, from, bytes, stream);
  stream.wait();
}
CUdeviceptr address(const void* p) { return reinterpret_cast<CUdeviceptr>(p); }
}  // namespace

DeviceBuffer::DeviceBuffer(const Bytes& content, size_t shift) : margin_(kMargin + shift), bytes_(content.size()) {
  CU(MemAlloc, &base_, margin_ + bytes_ + kMargin);
  const Bytes marks(margin_ + bytes_ + kMargin, kMark);
  transfer(base_, address(marks.data()), marks.size());
  set(content);
}
DeviceBuffer::~DeviceBuffer() { slimCu.MemFree(base_); }

void DeviceBuffer::set(const Bytes& content) { transfer(base_ + margin_, address(content.data()), bytes_); }

Bytes DeviceBuffer::whole() const {
  Bytes all(margin_ + bytes_ + kMargin);
  transfer(address(all.data()), base_, all.size());
  return all;
}
Bytes DeviceBuffer::content() const {
  const Bytes all = whole();
  return Bytes(all.begin() + (long)margin_, all.begin() + (long)(margin_ + bytes_));
}
bool DeviceBuffer::intact() const {
  const Bytes all = whole();
  for (size_t i = 0; i < all.size(); i++)
    if ((i < margin_ || i >= margin_ + bytes_) && all[i] != kMark) return false;
  return true;
}

void inThreads(const std::vector<int>& devices, const std::function<void(int rank)>& body) {
  std::vector<std::thread> threads;
  for (int r = 0; r < (int)devices.size(); r++)
    threads.emplace_back([&, r] {
      useDevice(devices[r]);
      body(r);
    });
  for (auto& t : threads) t.join();
}

void waitForDriver() {
  CUuserObject last;
  std::atomic<bool> told{false};
  const auto tell = [](void* p) { *static_cast<std::atomic<bool>*>(p) = true; };
  CU(UserObjectCreate, &last, &told, tell, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC);
  CU(UserObjectRelease, last, 1);
  while (!told) std::this_thread::yield();
}

CUgraphExec capture(const std::vector<int>& devices, const std::vector<CUstream>& streams,
                    const std::function<void(int rank)>& body) {
  CUevent fork, joined;
  CU(EventCreate, &fork, CU_EVENT_DISABLE_TIMING);
  CU_TEST(StreamBeginCapture, streams[0], CU_STREAM_CAPTURE_MODE_RELAXED);
  CU(EventRecord, fork, streams[0]);
  for (size_t r = 1; r < streams.size(); r++) CU(StreamWaitEvent, streams[r], fork, 0);
  inThreads(devices, body);
  std::vector<CUevent> ends;
  for (size_t r = 1; r < streams.size(); r++) {
    useDevice(devices[r]);
    CU(EventCreate, &joined, CU_EVENT_DISABLE_TIMING);
    CU(EventRecord, joined, streams[r]);
    CUcontext popped;
    CU(CtxPopCurrent, &popped);
    CU(StreamWaitEvent, streams[0], joined, 0);
    ends.push_back(joined);
  }
  CUgraph graph;
  CU_TEST(StreamEndCapture, streams[0], &graph);
  CUgraphExec exec;
  CU_TEST(GraphInstantiateWithFlags, &exec, graph, 0);
  CU_TEST(GraphDestroy, graph);
  ends.push_back(fork);
  for (auto e : ends) slimCu.EventDestroy(e);
  return exec;
}

}  // namespace slim_test
