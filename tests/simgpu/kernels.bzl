"""Kernels for the stand-in: .cu files as C++, every access to memory a call."""

COPTS = [
    "-fno-sanitize=all",
    "-fsanitize=thread",
    "-fsanitize=alignment,bounds",
    "--param=tsan-instrument-func-entry-exit=0",
    "-include",
    "tests/simgpu/device.h",
    "-fvisibility=hidden",
    "-g",
]

def simgpu_kernels(name, srcs, cu, deps = [], target_compatible_with = []):
    """lib<name>.so, a kernel library for SIMGPU_KERNELS.

    Args:
      name: what the library is called.
      srcs: .cc files that include the .cu files; one of them ends with SIMGPU_LIBRARY (library.h).
      cu: the .cu files and whatever they include that is no library.
      deps: libraries whose headers they include.
      target_compatible_with: as everywhere.
    """
    native.cc_binary(
        name = "lib%s.so" % name,
        srcs = srcs + ["//tests/simgpu:device.h"],
        copts = COPTS,
        linkopts = ["-Wl,--no-undefined"],
        linkshared = True,
        target_compatible_with = target_compatible_with,
        deps = deps + [
            ":%s_cu" % name,
            "//tests/simgpu:engine",
        ],
    )
    native.cc_library(
        name = "%s_cu" % name,
        textual_hdrs = cu,
        target_compatible_with = target_compatible_with,
    )
