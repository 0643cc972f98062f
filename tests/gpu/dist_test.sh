#!/usr/bin/env bash
# The packed folder runs from anywhere, with an empty environment: with the stand-in in place of the driver it passes;
# without a driver, or a device, it says so, status 77.
set -euo pipefail
dir=$TEST_TMPDIR/a\ dist
tests/gpu/dist.sh "$dir"

# As run.sh promises.
newest=$(objdump -T "$dir"/bin/* "$dir"/tests/* | grep -o 'GLIBC_2\.[0-9]*' | sort -uV | tail -n 1)
[[ $newest == "$(printf '%s\n' "$newest" GLIBC_2.34 | sort -V | head -n 1)" ]] || {
  echo "the programs want $newest"
  exit 1
}
# This machine's C++ library will do, so the packed one, which wants a newer glibc, is not in use.
echo broken >"$dir/lib/libstdc++.so.6"

# Some of each: they have tests of their own.
few() {
  mv "$dir/tests/$1" "$dir/tests/.$1"
  printf '#!/bin/bash\nexec "%s" --gtest_filter="%s"\n' "$dir/tests/.$1" "$2" >"$dir/tests/$1"
  chmod +x "$dir/tests/$1"
}

# status=N run NAME=VALUE…: run.sh's output in $out
status=0
run() {
  local got=0
  out=$(cd / && env -i "$@" "$dir/run.sh" --quick 2>&1) || got=$?
  ((got == status)) || {
    echo "$* run.sh: status $got instead of $status: $out"
    exit 1
  }
}
expect() {
  [[ $out == $1 ]] || {
    echo "$out"
    exit 1
  }
}

if ! PATH=$PATH:/sbin:/usr/sbin ldconfig -p | grep -q 'libcuda\.so\.1'; then
  status=77 run
  expect 'SKIPPED:*libcuda.so.1*'
fi
mkdir "$TEST_TMPDIR/fake"
cp -L tests/cuda/libfake_driver.so "$TEST_TMPDIR/fake/libcuda.so.1"
status=77 run LD_LIBRARY_PATH="$TEST_TMPDIR/fake" FAKE_CUDA_INIT=100
expect 'SKIPPED:*no CUDA device*'
status=77 run LD_LIBRARY_PATH="$TEST_TMPDIR/fake" FAKE_CUDA_VERSION=11080
expect 'SKIPPED:*driver is too old: found CUDA 11.8*'

few collectives '*InPlace*:*AreStepsOfTheirOwn*'
few kernels_test 'Pieces.*:Dense.*:Step.*:*Kernels.*/1'
stand_in=(LD_LIBRARY_PATH="$PWD/tests/simgpu" SIMGPU_DEVICES=2)
rm -rf "$dir/results"
touch "$dir/results"
status=1 run "${stand_in[@]}"
expect '*FAILED:*set OUT*'
status=0 run "${stand_in[@]}" OUT="$TEST_TMPDIR/the results"
echo "$out"
expect '*4 passed, 0 failed'
grep -q 'Out of bounds values : 0 OK' "$TEST_TMPDIR/the results/all_reduce_perf.txt"
grep -q 'copy from device to device' "$TEST_TMPDIR/the results/benchmark.txt"
