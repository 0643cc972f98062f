// A test's own view of the driver: memory, streams and graphs, beside the functions that the library uses.
#ifndef SLIM_TESTS_CUDA_DEVICE_H_
#define SLIM_TESTS_CUDA_DEVICE_H_

#include <functional>
#include <vector>

#include "compress/cuda/driver.h"
#include "plugin/slimccl.h"
#include "tests/collectives/group.h"

namespace slim_test {

#define SLIM_TEST_DRIVER_FUNCTIONS(X) \
  X(StreamBeginCapture, 10010)        \
  X(StreamEndCapture, 10000)          \
  X(GraphInstantiateWithFlags, 11040) \
  X(GraphLaunch, 10000)               \
  X(GraphExecDestroy, 10000)          \
  X(GraphDestroy, 10000)
struct TestDriver {
#define SLIM_TEST_DRIVER_MEMBER(name, version) PFN_cu##name##_v##version name;
  SLIM_TEST_DRIVER_FUNCTIONS(SLIM_TEST_DRIVER_MEMBER)
#undef SLIM_TEST_DRIVER_MEMBER
};
// Opens the driver and makes the primary context of device 0 current on this thread. Ends the test program where there
// is none.
const TestDriver& testDriver();
int deviceCount();
// The primary context of a device becomes the thread's.
void useDevice(int ordinal);
void check(CUresult error, const char* what);
#define CU(name, ...) ::slim_test::check(slimCu.name(__VA_ARGS__), #name)
#define CU_TEST(name, ...) ::slim_test::check(::slim_test::testDriver().name(__VA_ARGS__), #name)

// Device memory with a watched margin around it; `shift` bytes off a 256-byte boundary.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(const Bytes& content, size_t shift = 0);
  ~DeviceBuffer();
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  uint8_t* data() const { return reinterpret_cast<uint8_t*>(base_) + margin_; }
  // On a stream of its own: what made the content must have ended, or be ordered by the caller.
  void set(const Bytes& content);
  Bytes content() const;
  bool intact() const;

 private:
  CUdeviceptr base_ = 0;
  size_t margin_, bytes_;
  Bytes whole() const;
};

class Stream {
 public:
  Stream() { CU(StreamCreate, &stream_, CU_STREAM_NON_BLOCKING); }
  ~Stream() { slimCu.StreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator CUstream() const { return stream_; }
  void wait() const { CU(StreamSynchronize, stream_); }

 private:
  CUstream stream_ = nullptr;
};

// A thread a rank, each with its device's context: body(rank).
void inThreads(const std::vector<int>& devices, const std::function<void(int rank)>& body);
// Until the driver has told the owners of what was destroyed before.
void waitForDriver();
// Enqueues what body(rank) does on streams[rank], in threads, into one graph whose origin is streams[0].
CUgraphExec capture(const std::vector<int>& devices, const std::vector<CUstream>& streams,
                    const std::function<void(int rank)>& body);

}  // namespace slim_test
#endif
