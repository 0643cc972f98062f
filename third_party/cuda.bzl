"""Finds the CUDA Toolkit on this machine: CUDA_HOME, then nvcc in PATH, then /usr/local/cuda.

@cuda//:headers   a cc_library: cuda.h and its kin (incompatible where there is no toolkit)
@cuda//:defs.bzl  CUDA_AVAILABLE, NCCL_AVAILABLE (bool), CUDA_HOME and NVCC (paths, "" where absent) and
                  requires_cuda(), for the target_compatible_with of each target that needs the toolkit;
                  requires_nccl() for those that need nccl.h beside it too; NVTX_AVAILABLE (bool): nvtx3/ is there

SLIM_CUDA=0 in the environment makes it look as if there were no toolkit.
"""

_DEFS = """\
CUDA_AVAILABLE = {available}

NCCL_AVAILABLE = {nccl_available}

CUDA_HOME = "{home}"

NVCC = "{nvcc}"

NVTX_AVAILABLE = {nvtx}

def requires_cuda():
    return {constraint}

def requires_nccl():
    return {nccl}
"""

_BUILD = """\
package(default_visibility = ["//visibility:public"])

cc_library(
    name = "headers",
    hdrs = glob({hdrs}),
    includes = {includes},
    target_compatible_with = {constraint},
)
"""

def _find(ctx):
    """The toolkit's folder, or None."""
    if ctx.os.environ.get("SLIM_CUDA", "") == "0":
        return None
    nvcc = ctx.which("nvcc")
    candidates = [
        ctx.os.environ.get("CUDA_HOME", ""),
        str(nvcc.realpath.dirname.dirname) if nvcc else "",
        "/usr/local/cuda",
    ]
    for home in candidates:
        if home and ctx.path(home + "/bin/nvcc").exists and ctx.path(home + "/include/cuda.h").exists:
            return home
    return None

def _cuda_configure_impl(ctx):
    home = _find(ctx)
    if not home:
        print("no CUDA Toolkit found: the targets that need it are skipped")  # buildifier: disable=print
        constraint = ["@platforms//:incompatible"]
        ctx.file("defs.bzl", _DEFS.format(available = False, home = "", nvcc = "", nvtx = False, constraint = constraint, nccl = constraint, nccl_available = False))
        ctx.file("BUILD", _BUILD.format(hdrs = [], includes = [], constraint = constraint))
        return

    nccl = []
    if not ctx.path(home + "/include/nccl.h").exists:
        print("no nccl.h in %s/include: the targets that need it are skipped" % home)  # buildifier: disable=print
        nccl = ["@platforms//:incompatible"]

    nvtx = ctx.path(home + "/include/nvtx3/nvToolsExt.h").exists
    hdrs, includes = [], []
    if home != "/usr":  # where a distribution put it, the compiler finds the headers by itself
        ctx.symlink(home + "/include", "include")
        hdrs, includes = ["include/*.h", "include/*.hpp", "include/crt/*", "include/nvtx3/**"], ["include"]
    ctx.file("defs.bzl", _DEFS.format(available = True, home = home, nvcc = home + "/bin/nvcc", nvtx = nvtx, constraint = [], nccl = nccl, nccl_available = not nccl))
    ctx.file("BUILD", _BUILD.format(hdrs = hdrs, includes = includes, constraint = []))

cuda_configure = repository_rule(
    implementation = _cuda_configure_impl,
    configure = True,
    environ = ["CUDA_HOME", "PATH", "SLIM_CUDA"],
    local = True,
)
