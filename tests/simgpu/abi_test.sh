#!/usr/bin/env bash
# The stand-in's libraries as a loader sees them: names, versions, twins; and a program that nvcc makes runs on them.
set -euo pipefail
cuda_home=$1 folder=tests/simgpu
status=0
fail() { echo "$*"; status=1; }
exports() { nm -D --defined-only "$1" | awk '$2 != "A" {print $3}' | sort; }

exports $folder/libcudart.so.13 >"$TEST_TMPDIR/ours"
# What is weak only says that it is not served.
nm -D --defined-only $folder/libcudart.so.13 | awk '$2 != "W" && $2 != "A" {print $3}' | sort >"$TEST_TMPDIR/served"
[[ $(objdump -p $folder/libcudart.so.13 | awk '$1 == "SONAME" {print $2}') == libcudart.so.13 ]] || fail "wrong soname"
grep -qv '@@libcudart\.so\.13$' "$TEST_TMPDIR/ours" && fail "a symbol without the version that programs ask for"

# What the programs of NVIDIA's NCCL examples and user guide call.
for name in GetDeviceCount GetDeviceProperties GetErrorString SetDevice StreamCreate StreamDestroy StreamSynchronize \
  Malloc Free Memcpy Memset; do
  grep -q "^cuda$name@" "$TEST_TMPDIR/served" || fail "cuda$name is not served"
done

real=
for each in "$cuda_home"/lib*/libcudart.so.13 "$cuda_home"/targets/x86_64-linux/lib/libcudart.so.13; do
  [[ -e $each ]] && real=$each
done
if [[ $real ]]; then
  exports "$real" >"$TEST_TMPDIR/theirs"
  invented=$(comm -23 "$TEST_TMPDIR/ours" "$TEST_TMPDIR/theirs")
  [[ -z $invented ]] || fail "not in the real library:" $invented
  while IFS=@ read -r name _; do
    for twin in "${name}_ptsz" "${name}_ptds"; do
      grep -q "^$twin@" "$TEST_TMPDIR/theirs" && ! grep -q "^$twin@" "$TEST_TMPDIR/served" && fail "$twin is missing"
    done
  done <"$TEST_TMPDIR/served"
  absent=$(comm -13 "$TEST_TMPDIR/ours" "$TEST_TMPDIR/theirs" | sed 's/@.*//')
  grep -vE '^__cuda|GL|Egl|VDPAU|^cudaCreateChannelDesc$' <<<"$absent" && fail "programs that mention these do not load"
  echo "$(wc -l <"$TEST_TMPDIR/served") of $(wc -l <"$TEST_TMPDIR/theirs") symbols of $real are served. Not served:"
  comm -13 "$TEST_TMPDIR/served" "$TEST_TMPDIR/theirs" | sed 's/@.*//'
else
  echo "libcudart.so.13 is not installed: nothing to compare with"
fi

stub=
for each in "$cuda_home"/lib*/stubs/libcuda.so; do [[ -e $each ]] && stub=$each; done
if [[ $stub ]]; then
  invented=$(comm -23 <(exports $folder/libcuda.so.1 | grep -v ^simgpu) <(exports "$stub"))
  [[ -z $invented ]] || fail "libcuda.so.1: not in the real library:" $invented
fi

# A library built with a sanitizer loads only into a program built with it.
[[ $(objdump -p $folder/libcuda.so.1) =~ NEEDED\ +libasan ]] && exit $status
export LD_LIBRARY_PATH=$PWD/$folder SIMGPU_KERNELS=$folder/libplanted.so
"$cuda_home/bin/nvcc" -cudart shared -arch=sm_90 -o "$TEST_TMPDIR/client" $folder/nvcc_client.cu
[[ $("$TEST_TMPDIR/client") == "no error 100" ]] || fail "nvcc's program does not run"

# A statically linked runtime asks the driver for tables that no header has: that is said, in one line.
"$cuda_home/bin/nvcc" -cudart static -arch=sm_90 -o "$TEST_TMPDIR/static" $folder/nvcc_client.cu
"$TEST_TMPDIR/static" >/dev/null 2>"$TEST_TMPDIR/said" && fail "a static runtime is not expected to work"
[[ $(grep -c 'cudart shared' "$TEST_TMPDIR/said") == 1 ]] ||
  fail "nothing is said to a static runtime: $(cat "$TEST_TMPDIR/said")"
exit $status
