// The kernel library that a program finds by default: SlimCCL's own kernels.
#include "compress/cuda/kernels.cu"

#include "tests/simgpu/library.h"

#define ENTRY(name, args) SIMGPU_KERNEL(slim_##name),
static const simgpu::Kernel simgpuKernels[] = {SLIM_DEVICE_KERNELS(ENTRY)};
extern "C" __attribute__((visibility("default"))) const simgpu::Library simgpuLibrary;
const simgpu::Library simgpuLibrary = {simgpuKernels, slimNumDeviceKernels, simgpu::runBlock};
