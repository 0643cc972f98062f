#!/usr/bin/env bash
# bazelw run //tests/gpu:dist -- DIR: packs DIR, which runs on a bare x86-64 machine with NVIDIA GPUs (run.sh says what).
set -euo pipefail
[[ $# == 1 ]] || {
  echo "usage: bazelw run //tests/gpu:dist -- DIR" >&2
  exit 2
}
cd "${BAZELW_PWD:+$PWD}" 2>/dev/null || true
to=$1
[[ $to == /* || -z ${BAZELW_PWD:-} ]] || to=$BAZELW_PWD/$to
if [[ -e $to && ! -e $to/run.sh ]] && [[ -n $(ls -A "$to") ]]; then
  echo "$to is not empty: give a new folder" >&2
  exit 2
fi
rm -rf "$to/bin" "$to/lib" "$to/tests"
mkdir -p "$to/bin" "$to/lib" "$to/tests"
install -m 755 tests/gpu/run.sh "$to/run.sh"
install -s -m 755 bench/all_reduce_perf bench/device "$to/bin/"
for test in tests/cuda/collectives tests/cuda/kernels_test; do install -s -m 755 "$test" "$to/tests/"; done
# For a machine without a C++ library, or with one that is older than the tests'.
ldd "$to"/bin/* "$to"/tests/* | awk '/lib(stdc\+\+|gcc_s|xxhash)\.so/ { print $3 }' | sort -u | xargs -I{} cp -L {} "$to/lib/"
size=$(du -sm "$to" | cut -f1)
((size <= 60)) || {
  echo "$to has $size MiB, more than 60" >&2
  exit 1
}
echo "$to: $size MiB; copy it to a machine with a GPU, and there: run.sh"
