#!/usr/bin/env bash
# A sum of more than 2³¹ bytes under libslimccl_mpi.so: mpi_preload_long_test.sh MPIRUN LIBRARY CLIENT
set -euo pipefail
mpirun=$1 library=$(readlink -f "$2") client=$(readlink -f "$3")
if (($(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo) < 6000000)); then
  echo "skipped: wants 6 GB of free memory"
  exit 0
fi
TMPDIR=$(mktemp -d /tmp/slim.XXXXXX)
trap 'rm -rf "$TMPDIR"' EXIT
export TMPDIR OMPI_MCA_btl_vader_backing_directory=$TMPDIR
out=$("$mpirun" -n 2 env LD_PRELOAD="$library" SLIM_COMPRESS='qsgd(bits=2)' SLIM_STATS=1 "$client" long </dev/null 2>&1)
echo "$out"
for line in 'wrong 0' 'not_zero 0' 'SlimCCL   compressed 1 calls:'; do
  grep -q "^$line" <<<"$out" || { echo "no line \"$line\""; exit 1; }
done
