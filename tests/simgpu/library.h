/* The table of a kernel library. A .cc file that includes the .cu files ends with
 *   SIMGPU_LIBRARY(SIMGPU_KERNEL(first), SIMGPU_KERNEL(second)) */
#ifndef SLIM_SIMGPU_LIBRARY_H_
#define SLIM_SIMGPU_LIBRARY_H_

#include <utility>

#include "tests/simgpu/engine.h"

namespace simgpu {

bool runBlock(const Launch&, uint3 block, const Hooks&);

template <auto kernel>
struct KernelOf;
template <typename... A, void (*kernel)(A...)>
struct KernelOf<kernel> {
  static constexpr size_t sizes[sizeof...(A) + 1] = {sizeof(A)...};

  template <size_t... I>
  __attribute__((no_sanitize("thread"))) static void call(void* const* parameters, std::index_sequence<I...>) {
    kernel(*static_cast<typename std::remove_reference<A>::type*>(parameters[I])...);
  }
  __attribute__((no_sanitize("thread"))) static void invoke(void* const* parameters) {
    call(parameters, std::index_sequence_for<A...>());
  }
  static constexpr Kernel entry(const char* name) { return {name, invoke, sizeof...(A), sizes}; }
};

}  // namespace simgpu

#define SIMGPU_KERNEL(name) simgpu::KernelOf<name>::entry(#name)
#define SIMGPU_LIBRARY(...)                                                              \
  static const simgpu::Kernel simgpuKernels[] = {__VA_ARGS__};                           \
  extern "C" __attribute__((visibility("default"))) const simgpu::Library simgpuLibrary; \
  const simgpu::Library simgpuLibrary = {simgpuKernels, sizeof simgpuKernels / sizeof *simgpuKernels, simgpu::runBlock};

#endif
