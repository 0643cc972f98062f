// SLIM_MAX_CTAS bounds the grids of all kernels and changes no bit; what is no number is refused.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <string>

#include "tests/cuda/device.h"

namespace slim_test {
namespace {

PFN_cuLaunchKernel_v4000 launch;
std::atomic<unsigned> launches, largest;

CUresult countingLaunch(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, CUstream stream, void** parameters, void** extra) {
  launches++;
  for (unsigned seen = largest; gx > seen && !largest.compare_exchange_weak(seen, gx);) {
  }
  return launch(f, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra);
}

constexpr size_t kCount = 20011;  // 40 blocks of 512

std::vector<Bytes> onHost(const char* spec, int ranks) {
  std::vector<Bytes> y(ranks);
  forEachRank(ranks, makeConfig(slimAlgoTwoShot), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, spec, 0), slimSuccess) << slimGetLastError();
    Buffer x(makeInput(slimFloat32, kCount, rank, 0)), out(4 * kCount);
    for (int step = 0; step < 2; step++)
      ASSERT_EQ(slimAllReduce(x.data(), out.data(), kCount, slimFloat32, slimAvg, tensor, comm, nullptr), slimSuccess)
          << slimGetLastError();
    y[rank] = out.content();
  });
  return y;
}

std::vector<Bytes> onDevice(const char* spec, int ranks) {
  const std::vector<int> devices(ranks, 0);
  std::vector<slimComm_t> comms(ranks);
  slimConfig_t config = makeConfig(slimAlgoTwoShot);
  config.deviceBytes = 8 << 20;
  EXPECT_EQ(slimCommInitLocalDevices(comms.data(), ranks, devices.data(), &config), slimSuccess) << slimGetLastError();
  std::vector<Bytes> y(ranks);
  inThreads(devices, [&](int rank) {
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comms[rank], spec, 0), slimSuccess) << slimGetLastError();
    Stream stream;
    DeviceBuffer x(makeInput(slimFloat32, kCount, rank, 0)), out(Bytes(4 * kCount));
    for (int step = 0; step < 2; step++)
      ASSERT_EQ(slimAllReduce(x.data(), out.data(), kCount, slimFloat32, slimAvg, tensor, comms[rank], stream),
                slimSuccess)
          << slimGetLastError();
    stream.wait();
    y[rank] = out.content();
  });
  for (auto comm : comms) slimCommDestroy(comm);
  return y;
}

// The device is made ready at its first use: so this test comes first.
TEST(MaxCtas, WhatIsNoNumberIsRefused) {
  const std::string given = std::getenv("SLIM_MAX_CTAS");
  slimComm_t comm;
  const int device = 0;
  for (const char* wrong : {"many", "3x", "-1", " 4"}) {
    setenv("SLIM_MAX_CTAS", wrong, 1);
    EXPECT_EQ(slimCommInitLocalDevices(&comm, 1, &device, nullptr), slimInvalidArgument) << wrong;
    EXPECT_NE(std::string(slimGetLastError()).find(std::string("SLIM_MAX_CTAS=") + wrong), std::string::npos)
        << slimGetLastError();
  }
  setenv("SLIM_MAX_CTAS", given.c_str(), 1);
}

TEST(MaxCtas, BoundsGridsAndChangesNoBit) {
  const unsigned most = (unsigned)std::atoi(std::getenv("SLIM_MAX_CTAS"));
  testDriver();
  launch = slimCu.LaunchKernel;
  slimCu.LaunchKernel = countingLaunch;
  for (const char* spec : {"ef(qsgd(bits=4))", "fo(lambda=shared)", "ef(tbqsgd(bits=3,stats=previous))",
                           "ef(topk(ratio=0.05,scope=chunk))", "ef(rotate(qsgd(bits=2,block=8192)))"})
    for (int ranks : {1, 2, 3, 4, 8}) {
      launches = largest = 0;
      EXPECT_EQ(onDevice(spec, ranks), onHost(spec, ranks)) << spec << " ranks=" << ranks;
      EXPECT_GT(launches, 0u);
      EXPECT_LE(largest, most) << spec;
      if (std::string(spec).find("qsgd(bits=4)") != std::string::npos) {
        EXPECT_EQ(largest, most) << spec;
      }
    }
  slimCu.LaunchKernel = launch;
}

}  // namespace
}  // namespace slim_test
