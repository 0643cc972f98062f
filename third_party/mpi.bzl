"""Finds MPI on this machine through its compiler wrapper, mpicc.

@mpi//:mpi       a cc_library: headers and link options (incompatible where there is no MPI)
@mpi//:headers   the headers alone
@mpi//:defs.bzl  MPI_AVAILABLE (bool), MPI_RUN (path of mpirun, "" where absent) and
                 requires_mpi(), for the target_compatible_with of each target that needs MPI

SLIM_MPI=0 in the environment makes it look as if there were no MPI.
"""

_DEFS = """\
MPI_AVAILABLE = {available}

MPI_RUN = "{run}"

def requires_mpi():
    return {constraint}
"""

_BUILD = """\
package(default_visibility = ["//visibility:public"])

cc_library(
    name = "headers",
    hdrs = glob({hdrs}),
    includes = {includes},
    # MPI's old C++ interface needs a library of its own.
    defines = ["OMPI_SKIP_MPICXX", "MPICH_SKIP_MPICXX"],
    target_compatible_with = {constraint},
)

cc_library(
    name = "mpi",
    srcs = {srcs},
    linkopts = {linkopts},
    target_compatible_with = {constraint},
    deps = [":headers"],
    alwayslink = True,
)
"""

def _flags(ctx, mpicc):
    """The compiler and linker options that mpicc adds, or None where it does not say."""
    compile = ctx.execute([mpicc, "--showme:compile"])  # Open MPI
    link = ctx.execute([mpicc, "--showme:link"])
    if compile.return_code == 0 and link.return_code == 0:
        return (compile.stdout.strip() + " " + link.stdout.strip()).split(" ")
    show = ctx.execute([mpicc, "-show"])  # MPICH and its kin
    return show.stdout.strip().split(" ") if show.return_code == 0 else None

def _mpi_configure_impl(ctx):
    mpicc = ctx.which("mpicc")
    run = ctx.which("mpirun")
    flags = None
    if ctx.os.environ.get("SLIM_MPI", "") != "0" and mpicc and run:
        flags = _flags(ctx, mpicc)
    if flags == None:
        print("no MPI (mpicc, mpirun) found: the targets that need it are skipped")  # buildifier: disable=print
        constraint = ["@platforms//:incompatible"]
        ctx.file("defs.bzl", _DEFS.format(available = False, run = "", constraint = constraint))
        ctx.file("BUILD", _BUILD.format(srcs = [], hdrs = [], includes = [], linkopts = [], constraint = constraint))
        return

    includes = []
    for flag in flags:
        if flag.startswith("-I") and ctx.path(flag[2:]).exists:
            ctx.symlink(flag[2:], "include%d" % len(includes))
            includes.append("include%d" % len(includes))
    ctx.symlink(ctx.attr._sanitizers, "sanitizers.c")
    ctx.file("defs.bzl", _DEFS.format(available = True, run = run, constraint = []))
    ctx.file("BUILD", _BUILD.format(
        srcs = ["sanitizers.c"],
        hdrs = ["%s/**/*.h" % dir for dir in includes],
        includes = includes,
        linkopts = [flag for flag in flags if flag[:2] in ["-L", "-l"] or flag.startswith("-Wl,")],
        constraint = [],
    ))

mpi_configure = repository_rule(
    implementation = _mpi_configure_impl,
    attrs = {"_sanitizers": attr.label(default = "//third_party:mpi_sanitizers.c")},
    configure = True,
    environ = ["PATH", "SLIM_MPI"],
    local = True,
)
