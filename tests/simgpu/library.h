/* The table of a kernel library. A .cc file that includes the .cu files ends with
 *   SIMGPU_LIBRARY(SIMGPU_KERNEL(first), SIMGPU_KERNEL(second))
 * after SIMGPU_POINTERS for each struct that a kernel takes. */
#ifndef SLIM_SIMGPU_LIBRARY_H_
#define SLIM_SIMGPU_LIBRARY_H_

#include <stddef.h>

#include <array>
#include <type_traits>
#include <utility>

#include "tests/simgpu/engine.h"

namespace simgpu {

bool runBlock(const Launch&, uint3 block, const Hooks&);

/* Where the pointers of a parameter of type T lie in it. */
template <typename T>
struct Pointers {
  static_assert(!std::is_class<T>::value, "SIMGPU_POINTERS names the pointers of a struct that is a parameter");
  static constexpr std::array<size_t, std::is_pointer<T>::value> offsets = {};
};

template <auto kernel>
struct KernelOf;
template <typename... A, void (*kernel)(A...)>
struct KernelOf<kernel> {
  static constexpr size_t sizes[sizeof...(A) + 1] = {sizeof(A)...};

  static constexpr size_t kPointers = (Pointers<std::remove_cv_t<A>>::offsets.size() + ... + 0);
  static constexpr std::array<Pointer, kPointers + 1> find() {
    std::array<Pointer, kPointers + 1> all = {};
    size_t n = 0;
    unsigned parameter = 0;
    const auto add = [&](const auto& offsets) {
      for (size_t at : offsets) all[n++] = {parameter, at};
      parameter++;
    };
    (add(Pointers<std::remove_cv_t<A>>::offsets), ...);
    return all;
  }
  static constexpr std::array<Pointer, kPointers + 1> pointers = find();

  template <size_t... I>
  __attribute__((no_sanitize("thread"))) static void call(void* const* parameters, std::index_sequence<I...>) {
    kernel(*static_cast<typename std::remove_reference<A>::type*>(parameters[I])...);
  }
  __attribute__((no_sanitize("thread"))) static void invoke(void* const* parameters) {
    call(parameters, std::index_sequence_for<A...>());
  }
  static constexpr Kernel entry(const char* name) {
    return {name, invoke, sizeof...(A), sizes, kPointers, pointers.data()};
  }
};

template <typename Member>
constexpr size_t pointerAt(size_t offset) {
  static_assert(std::is_pointer<Member>::value, "SIMGPU_AT names a pointer");
  return offset;
}

}  // namespace simgpu

/* SIMGPU_POINTERS(type, SIMGPU_AT(member), …): all of its members that are pointers. */
#define SIMGPU_POINTERS(type, ...)                       \
  template <>                                            \
  struct simgpu::Pointers<type> {                        \
    using Struct = type;                                 \
    static constexpr std::array offsets = {__VA_ARGS__}; \
  };
#define SIMGPU_AT(member) simgpu::pointerAt<decltype(Struct::member)>(offsetof(Struct, member))

#define SIMGPU_KERNEL(name) simgpu::KernelOf<name>::entry(#name)
#define SIMGPU_LIBRARY(...)                                                              \
  static const simgpu::Kernel simgpuKernels[] = {__VA_ARGS__};                           \
  extern "C" __attribute__((visibility("default"))) const simgpu::Library simgpuLibrary; \
  const simgpu::Library simgpuLibrary = {simgpuKernels, sizeof simgpuKernels / sizeof *simgpuKernels, simgpu::runBlock};

#endif
