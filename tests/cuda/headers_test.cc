// The CUDA Toolkit's headers, as the build finds them.
#include <cuda.h>
#include <gtest/gtest.h>

TEST(CudaHeaders, AreOfAToolkitThatWeBuildFor) { EXPECT_GE(CUDA_VERSION, 12000); }
