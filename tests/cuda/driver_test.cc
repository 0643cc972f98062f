// What is found where the driver is absent, too old, incomplete, or without a device: each in a process of its own,
// since a process looks once.
#include "compress/cuda/driver.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

// Answers slimDriverOpen's state as the exit code, and its message on stderr.
[[noreturn]] void look(const char* version, const char* lacks, const char* init, bool driver) {
  if (version) setenv("FAKE_CUDA_VERSION", version, 1);
  if (lacks) setenv("FAKE_CUDA_LACKS", lacks, 1);
  if (init) setenv("FAKE_CUDA_INIT", init, 1);
  const char* folder = std::getenv("TEST_SRCDIR");
  const std::string fake = std::string(folder ? folder : ".") + "/slimccl/tests/cuda/libfake_driver.so";
  // Its soname is the driver's: dlopen then finds it under that name.
  if (driver && !dlopen(fake.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    std::fprintf(stderr, "%s\n", dlerror());
    std::exit(99);
  }
  const slimDriverState first = slimDriverOpen();
  const std::string message = slimLastMessage();
  (void)slimFail(slimSuccess, "something else");
  if (slimDriverOpen() != first || (first != slimDriverReady && message != slimLastMessage())) std::exit(98);
  std::fprintf(stderr, "%s\n", message.c_str());
  std::exit((int)first);
}

std::string needed() { return "needed.* " + std::to_string(CUDA_VERSION / 1000) + "\\.0 or later"; }

TEST(Driver, IsFoundAndWhole) {
  EXPECT_EXIT(look(nullptr, nullptr, nullptr, true), testing::ExitedWithCode(slimDriverReady), "");
}

TEST(Driver, OlderThanTheToolkitIsRefusedWithBothVersions) {
  const int old = (CUDA_VERSION / 1000 - 1) * 1000 + 80;
  EXPECT_EXIT(look(std::to_string(old).c_str(), nullptr, nullptr, true), testing::ExitedWithCode(slimDriverTooOld),
              "too old: found CUDA " + std::to_string(old / 1000) + "\\.8, " + needed());
  EXPECT_EXIT(look("11040", nullptr, nullptr, true), testing::ExitedWithCode(slimDriverTooOld),
              "found CUDA 11\\.4, " + needed() + ".*cuLibraryLoadData of version 12000");
}

TEST(Driver, WithoutAFunctionOfTheTableIsRefusedAndTheFunctionNamed) {
  EXPECT_EXIT(look(nullptr, "cuStreamWaitEvent", nullptr, true), testing::ExitedWithCode(slimDriverTooOld),
              "cuStreamWaitEvent of version 3020");
}

TEST(Driver, WithoutADeviceIsAbsentInTheDriversWords) {
  EXPECT_EXIT(look(nullptr, nullptr, "100", true), testing::ExitedWithCode(slimDriverAbsent),
              "cuInit: CUDA_ERROR_NO_DEVICE \\(100\\): no CUDA-capable device is detected");
}

TEST(Driver, AbsentIsSaid) {
  if (void* real = dlopen("libcuda.so.1", RTLD_LAZY)) {
    dlclose(real);
    GTEST_SKIP() << "this machine has a driver";
  }
  EXPECT_EXIT(look(nullptr, nullptr, nullptr, false), testing::ExitedWithCode(slimDriverAbsent),
              "no CUDA driver: .*libcuda\\.so\\.1.*" + needed());
}

TEST(Driver, ErrorsHaveTheDriversNameAndText) {
  EXPECT_EXIT(
      {
        setenv("FAKE_CUDA_INIT", "0", 1);
        const std::string fake = std::string(std::getenv("TEST_SRCDIR")) + "/slimccl/tests/cuda/libfake_driver.so";
        if (!dlopen(fake.c_str(), RTLD_NOW) || slimDriverOpen() != slimDriverReady) std::exit(99);
        const auto call = []() -> slimResult_t {
          SLIM_CU(EventDestroy, nullptr);
          return slimSuccess;
        };
        const slimResult_t result = call();
        std::fprintf(stderr, "%s\n", slimLastMessage());
        std::exit(result);
      },
      testing::ExitedWithCode(slimUnhandledCudaError), "cuEventDestroy: .* \\(801\\)");
}

}  // namespace
