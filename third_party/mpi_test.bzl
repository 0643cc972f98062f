"""mpi_test: a C or C++ test program that runs once under mpirun for each number of ranks."""

load("@mpi//:defs.bzl", "MPI_RUN", "requires_mpi")

def mpi_test(name, ranks, srcs, deps = [], args = [], **kwargs):
    """Tests NAME_2, NAME_4, ... for ranks = [2, 4, ...], and the suite NAME of them all.

    The program itself calls MPI_Init and MPI_Finalize. Rank 0 writes the XML that counts GoogleTest's cases. Skipped
    where there is no MPI.

    Args:
      name: the suite's name; the program is NAME_program
      ranks: numbers of ranks
      srcs: the program's sources
      deps: its libraries; @mpi//:mpi is added
      args: its arguments
      **kwargs: for each test (size, data, env, tags, ...)
    """
    native.cc_binary(
        name = name + "_program",
        testonly = True,
        srcs = srcs,
        target_compatible_with = requires_mpi(),
        deps = deps + ["@mpi//:mpi"],
    )
    tests = ["%s_%d" % (name, n) for n in ranks]
    data = kwargs.pop("data", []) + [":%s_program" % name]
    for test, n in zip(tests, ranks):
        native.sh_test(
            name = test,
            srcs = ["//third_party:mpi_test.sh"],
            args = [MPI_RUN, str(n), "$(location :%s_program)" % name] + args,
            data = data,
            target_compatible_with = requires_mpi(),
            **kwargs
        )
    native.test_suite(
        name = name,
        tests = tests,
    )
