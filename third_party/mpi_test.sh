#!/usr/bin/env bash
# mpi_test.sh MPIRUN RANKS PROGRAM ARGS...: runs PROGRAM under mpirun, apart from every other MPI program of the machine.
# Open MPI names its files after the process id, which in Bazel's sandboxes is the same for many: each run gets a folder.
set -euo pipefail
mpirun=$1 ranks=$2
shift 2
TMPDIR=$(mktemp -d /tmp/slim.XXXXXX)
trap 'rm -rf "$TMPDIR"' EXIT
export TMPDIR OMPI_MCA_btl_vader_backing_directory=$TMPDIR
# Only rank 0 may write the test's XML.
"$mpirun" -n "$ranks" bash -c '
  if ((${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}})); then unset XML_OUTPUT_FILE; fi
  exec "$@"' rank "$@" </dev/null
