// The kernel library that a program finds by default: SlimCCL's own kernels.
#include "compress/cuda/kernels.cu"

#include "tests/simgpu/library.h"

#define DECLARE(name, args) extern "C" void slim_##name(const args);
SLIM_WARP_KERNELS(DECLARE)
#undef DECLARE

#define AT SIMGPU_AT
SIMGPU_POINTERS(slimEncodeArgs, AT(tree), AT(step), AT(x), AT(s), AT(v), AT(payload), AT(stats), AT(scratch),
                AT(lambda), AT(shapes), AT(partials), AT(mean))
SIMGPU_POINTERS(slimShapeArgs, AT(tree), AT(partials), AT(shapes), AT(mean), AT(table))
SIMGPU_POINTERS(slimReduceArgs, AT(up), AT(down), AT(step), AT(payloads), AT(h), AT(e), AT(payload), AT(y), AT(stats),
                AT(report), AT(index), AT(values), AT(scratch), AT(lambda))
SIMGPU_POINTERS(slimDecodeArgs, AT(tree), AT(step), AT(payload), AT(h), AT(y), AT(x), AT(s), AT(report), AT(index),
                AT(values), AT(scratch), AT(lambda))
SIMGPU_POINTERS(slimSelectArgs, AT(tree), AT(step), AT(x), AT(s), AT(v), AT(payload), AT(stats), AT(state), AT(tiles),
                AT(index), AT(values), AT(scratch))
SIMGPU_POINTERS(slimDenseArgs, AT(step), AT(src), AT(dst), AT(scalar))
SIMGPU_POINTERS(slimStepArgs, AT(step))
#undef AT

#define ENTRY(name, args) SIMGPU_KERNEL(slim_##name),
static const simgpu::Kernel simgpuKernels[] = {SLIM_DEVICE_KERNELS(ENTRY)};
extern "C" __attribute__((visibility("default"))) const simgpu::Library simgpuLibrary;
const simgpu::Library simgpuLibrary = {simgpuKernels, slimNumDeviceKernels, simgpu::runBlock};
