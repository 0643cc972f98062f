"""Finds MPI on this machine through its compiler wrapper, mpicc.

@mpi//:mpi       a cc_library: headers and link options (incompatible where there is no MPI)
@mpi//:headers   the headers alone
@mpi//:defs.bzl  MPI_AVAILABLE (bool), MPI_FLAVOUR ("openmpi" or "mpich"), MPI_CC, MPI_FORTRAN, MPI_RUN (paths of mpicc,
                 mpifort, mpirun, "" where absent) and requires_mpi(), for the target_compatible_with of each target
                 that needs MPI

SLIM_MPI in the environment says which: openmpi or mpich, by Debian's names (mpicc.openmpi) or as mpicc; 0 makes it look
as if there were none. Unset: whatever mpicc is; and @mpich is then Debian's MPICH beside it, where that is installed and
another one.
"""

_DEFS = """\
MPI_AVAILABLE = {available}

MPI_FLAVOUR = "{flavour}"

MPI_CC = "{cc}"

MPI_FORTRAN = "{fortran}"

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

def _describe(ctx, mpicc):
    """(flavour, the compiler and linker options that mpicc adds), or None where it does not say."""
    compile = ctx.execute([mpicc, "--showme:compile"])  # Open MPI
    link = ctx.execute([mpicc, "--showme:link"])
    if compile.return_code == 0 and link.return_code == 0:
        return "openmpi", (compile.stdout.strip() + " " + link.stdout.strip()).split(" ")
    show = ctx.execute([mpicc, "-show"])  # MPICH and its kin
    return ("mpich", show.stdout.strip().split(" ")) if show.return_code == 0 else None

def _find(ctx, wanted):
    """flavour, flags, mpicc, mpifort, mpirun; None where there is no such MPI. wanted "": any."""
    for suffix in (["." + wanted] if wanted else []) + [""]:
        mpicc = ctx.which("mpicc" + suffix)
        run = ctx.which("mpirun" + suffix)
        found = _describe(ctx, mpicc) if mpicc and run else None
        if found and (not wanted or found[0] == wanted):
            return struct(
                flavour = found[0],
                flags = found[1],
                cc = mpicc,
                fortran = ctx.which("mpifort" + suffix) or "",
                run = run,
            )
    return None

def _mpi_configure_impl(ctx):
    wanted = ctx.os.environ.get("SLIM_MPI", "")
    if wanted not in ["", "0", "openmpi", "mpich"]:
        fail("SLIM_MPI is \"%s\": give openmpi, mpich, or 0 for none" % wanted)
    found = _find(ctx, wanted) if wanted != "0" else None
    if ctx.attr.beside:
        other = _find(ctx, ctx.attr.beside) if not wanted else None
        found = other if found and other and found.flavour != other.flavour else None
    elif not found:
        print("no MPI (mpicc, mpirun) found: the targets that need it are skipped")  # buildifier: disable=print
    if not found:
        constraint = ["@platforms//:incompatible"]
        ctx.file("defs.bzl", _DEFS.format(
            available = False,
            flavour = "",
            cc = "",
            fortran = "",
            run = "",
            constraint = constraint,
        ))
        ctx.file("BUILD", _BUILD.format(srcs = [], hdrs = [], includes = [], linkopts = [], constraint = constraint))
        return

    includes = []
    for flag in found.flags:
        if flag.startswith("-I") and ctx.path(flag[2:]).exists:
            ctx.symlink(flag[2:], "include%d" % len(includes))
            includes.append("include%d" % len(includes))
    ctx.symlink(ctx.attr._sanitizers, "sanitizers.c")
    ctx.file("defs.bzl", _DEFS.format(
        available = True,
        flavour = found.flavour,
        cc = found.cc,
        fortran = found.fortran,
        run = found.run,
        constraint = [],
    ))
    ctx.file("BUILD", _BUILD.format(
        srcs = ["sanitizers.c"],
        hdrs = ["%s/**/*.h" % dir for dir in includes],
        includes = includes,
        linkopts = [flag for flag in found.flags if flag[:2] in ["-L", "-l"] or flag.startswith("-Wl,")],
        constraint = [],
    ))

mpi_configure = repository_rule(
    implementation = _mpi_configure_impl,
    attrs = {
        "beside": attr.string(doc = "the flavour to look for beside the one that the build uses"),
        "_sanitizers": attr.label(default = "//third_party:mpi_sanitizers.c"),
    },
    configure = True,
    environ = ["PATH", "SLIM_MPI"],
    local = True,
)
