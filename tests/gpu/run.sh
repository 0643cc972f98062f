#!/usr/bin/env bash
# What `bazelw run //tests/gpu:dist -- DIR` packs: SlimCCL's device tests, its kernel benchmark and its allreduce over NCCL
# for this machine's NVIDIA GPUs. Needs the driver and glibc 2.34 or later; NCCL for the last one, which is skipped
# without.
#   run.sh [--quick]     --quick: a small benchmark, and no compute-sanitizer
# Results go to results/ here, or to $OUT. The last line is `N passed, N failed`. Exit status: 0 all passed, 1 something failed,
# 77 there is no driver, none that is new enough, or no device.
set -uo pipefail
here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
quick=0
[[ ${1:-} == --quick ]] && quick=1
# The packed C++ library wants a newer glibc than the programs do: only where the machine has none that will do.
if ldd "$here"/bin/* "$here"/tests/* 2>&1 | grep -qE "lib(stdc\+\+|gcc_s).*(not found)"; then
  export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
TEST_TMPDIR=$(mktemp -d)
export TEST_TMPDIR
trap 'rm -rf "$TEST_TMPDIR"' EXIT
results=${OUT:-$here/results}
mkdir -p "$results" || {
  echo "FAILED: $results cannot be written: set OUT to a folder for the results"
  exit 1
}

probe=$("$here/bin/device" --mib 1 --repeats 1 --only fp16 2>&1)
status=$?
if ((status == 77)); then
  echo "SKIPPED: nothing to test here: $probe"
  exit 77
elif ((status)); then
  echo "FAILED: the first kernel did not run: $probe"
  exit 1
fi

passed=0 failed=0
# run NAME command…: its output to results/NAME.txt, the last lines to the terminal where it fails
run() {
  local name=$1
  shift
  if "$@" >"$results/$name.txt" 2>&1; then
    echo "passed: $name"
    ((++passed))
  else
    echo "FAILED: $name (see $results/$name.txt)"
    tail -n 15 "$results/$name.txt"
    ((++failed))
  fi
}

# in_shards command…: a GoogleTest program's tests, as many shards at once as there are cores, up to eight
shards=$(nproc 2>/dev/null || echo 1)
((shards <= 8)) || shards=8
in_shards() {
  local pids=() status=0 wrong=()
  for ((i = 0; i < shards; i++)); do
    GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$i "$@" >"$TEST_TMPDIR/shard.$i" 2>&1 &
    pids+=($!)
  done
  for ((i = 0; i < shards; i++)); do
    if wait "${pids[i]}"; then
      cat "$TEST_TMPDIR/shard.$i"
    else
      status=$?
      wrong+=("$TEST_TMPDIR/shard.$i")
    fi
  done
  ((status == 0)) || cat "${wrong[@]}"
  return $status
}

for test in "$here"/tests/*; do run "${test##*/}" in_shards "$test"; done

sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if ((quick)); then
  :
elif [[ -x $sanitizer ]]; then
  for tool in memcheck racecheck synccheck initcheck; do
    run "$tool-kernels" in_shards "$sanitizer" --tool "$tool" --error-exitcode 9 "$here/tests/kernels_test"
  done
  # racecheck loses track of launches by several threads; initcheck, it seems, of copies behind another stream's kernels.
  for tool in memcheck synccheck; do
    run "$tool-collectives" "$sanitizer" --tool "$tool" --error-exitcode 9 "$here/tests/collectives" \
      --gtest_filter='*InPlace*:*Replays*'
  done
else
  echo "compute-sanitizer is not here: skipped"
fi

sizes=(--mib 256)
((quick)) && sizes=(--mib 1 --repeats 1 --only onebit)
run benchmark "$here/bin/device" "${sizes[@]}"
((quick)) || cat "$results/benchmark.txt"

if ldd "$here/bin/all_reduce_perf" | grep -q 'libnccl.*not found'; then
  echo "libnccl.so.2 is not here (LD_LIBRARY_PATH?): all_reduce_perf skipped"
else
  gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU') || gpus=1
  sizes=(-b 1M -e 1G -f 4)
  ((quick)) && sizes=(-b 64K -e 64K -n 2)
  run all_reduce_perf "$here/bin/all_reduce_perf" "${sizes[@]}" -t "$gpus" -J "$results/all_reduce_perf.json" \
    --spec 'ef(qsgd(bits=4))' --spec 'ef(onebit)' --spec bf16
  ((quick)) || cat "$results/all_reduce_perf.txt"
fi

echo "$passed passed, $failed failed"
((failed == 0))
