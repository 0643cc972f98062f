#!/usr/bin/env bash
# The packed folder runs: with the stand-in in place of the driver it passes; without a driver it says so, status 77.
set -euo pipefail
dir=$TEST_TMPDIR/dist
tests/gpu/dist.sh "$dir"
# Some of each: they have tests of their own.
few() {
  mv "$dir/tests/$1" "$dir/tests/.$1"
  printf '#!/bin/bash\nexec "%s" --gtest_filter="%s"\n' "$dir/tests/.$1" "$2" >"$dir/tests/$1"
  chmod +x "$dir/tests/$1"
}
few collectives '*InPlace*:*AreStepsOfTheirOwn*'
few kernels_test 'Pieces.*:Dense.*:Step.*:*Kernels.*/1'

if ! ldconfig -p | grep -q 'libcuda\.so\.1'; then
  status=0
  out=$("$dir/run.sh" --quick) || status=$?
  [[ $status == 77 && $out == SKIPPED:*libcuda.so.1* ]] || {
    echo "without a driver: status $status, $out"
    exit 1
  }
fi
out=$(LD_LIBRARY_PATH=$PWD/tests/simgpu SIMGPU_DEVICES=2 "$dir/run.sh" --quick) || true
echo "$out"
[[ $out == *"4 passed, 0 failed" ]]
grep -q 'Out of bounds values : 0 OK' "$dir/results/all_reduce_perf.txt"
grep -q 'copy from device to device' "$dir/results/benchmark.txt"
