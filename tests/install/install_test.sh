#!/usr/bin/env bash
# install_test.sh INSTALL ALLREDUCE.C MPI_CLIENT.C MPICC|- MPIRUN|- CUDA_HOME|- NCCL FILE...: installs into a new
# prefix, which has a space in its name; builds programs against it with plain gcc and pkg-config, and runs them.
set -euo pipefail
install=$1 program=$2 client=$3 mpicc=$4 mpirun=$5 cuda=$6 nccl=$7
shift 7
files=("$@")
prefix="$TEST_TMPDIR/a prefix"
fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# ---- What lies where
(cd "$TEST_TMPDIR" && mkdir elsewhere)
"$install" "${files[@]}" -- "$prefix"
"$install" "${files[@]}" -- "$prefix" >/dev/null # once more, over itself
BAZELW_PWD=$TEST_TMPDIR/elsewhere "$install" "${files[@]}" -- relative >/dev/null
diff -r "$prefix" "$TEST_TMPDIR/elsewhere/relative"
"$install" "${files[@]}" -- 2>/dev/null && fail "no PREFIX, and no complaint"
info=$prefix/bin/slimccl-info
version=$("$info" --version)
version=${version#SlimCCL }
for header in "$prefix"/include/*.h; do
  for macro in SLIM_MAJOR SLIM_MINOR SLIM_PATCH; do
    number=$(sed -n "s/^#define $macro \([0-9]*\)$/\1/p" "$header")
    [[ ! $number ]] || numbers=${numbers:+$numbers.}$number
  done
done
[[ $numbers == "$version" ]] || fail "slimccl-info says $version, the header $numbers"
libraries=("$prefix/lib/libslimccl.so")
[[ $mpirun == - ]] || libraries+=("$prefix/lib/libslimccl_mpi_transport.so")
for library in "${libraries[@]}"; do
  name=${library##*/}
  soname=$(readelf -d "$library" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
  [[ $soname == "$name.${version%%.*}" ]] || fail "$name: SONAME $soname"
  [[ $(readlink "$library") == "$soname" && $(readlink "${library%/*}/$soname") == "$name.$version" ]] || fail "$name: links"
  [[ ! $(readelf -d "$library" | grep -E 'R(UN)?PATH' | grep -v '\[\$ORIGIN\]') ]] || fail "$name: a foreign RUNPATH"
done
[[ $mpirun == - || -f $prefix/lib/libslimccl_mpi.so ]] || fail "no libslimccl_mpi.so"

# A library built with a sanitizer loads only into a program built with it.
if [[ $(nm -D "$prefix/lib/libslimccl.so") =~ __(asan|tsan)_ ]]; then exit 0; fi

# ---- Each header by itself, as C and as C++
compiler=gcc
[[ $mpirun == - ]] || compiler=$mpicc
for header in "$prefix"/include/*.h; do
  for language in c c++; do
    echo "#include \"${header##*/}\"" | $compiler -x $language -DOMPI_SKIP_MPICXX -DMPICH_SKIP_MPICXX -Wall -Wextra -Werror -fsyntax-only -I"$prefix/include" -isystem "$cuda/include" -
  done
done

# ---- pkg-config, gcc, and a run
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
[[ $(pkg-config --modversion slimccl) == "$version" ]] || fail "pkg-config's version"
export LD_LIBRARY_PATH=$prefix/lib
cd "$TEST_TMPDIR"
eval "gcc -O2 -Wall -Werror -o allreduce '$TEST_SRCDIR/$TEST_WORKSPACE/$program' $(pkg-config --cflags --libs slimccl) -lpthread"
./allreduce | tee said
[[ $(grep -c "relative error" said) == 4 ]] || fail "allreduce did not run"
readelf -d allreduce | grep -q "NEEDED.*\[libslimccl.so.${version%%.*}\]" || fail "allreduce does not need libslimccl.so"
if [[ $mpirun != - ]]; then
  eval "$mpicc -O2 -Wall -Werror -DOMPI_SKIP_MPICXX -o mpi_client '$TEST_SRCDIR/$TEST_WORKSPACE/$client' $(pkg-config --cflags --libs slimccl-mpi) -lm"
  for ranks in 1 2 3 4 8; do
    HOME=$TEST_TMPDIR "$mpirun" -n $ranks ./mpi_client | tee said
    grep -q "^$ranks ranks, ratio" said || fail "mpi_client on $ranks ranks"
  done
  shown=$(nm -D --defined-only "$prefix/lib/libslimccl_mpi_transport.so" | awk '{ print $3 }')
  [[ $shown == slimCommInitMPI ]] || fail "libslimccl_mpi_transport.so shows $shown"
fi

if [[ -e $prefix/include/slimccl_nccl.h ]]; then # the library holds slimCommInitNCCL, and needs no NCCL
  cat >nccl.c <<'C'
#include <slimccl_nccl.h>
int main(void) {
  slimComm_t comm;
  return slimCommInitNCCL(&comm, NULL, NULL) != slimInvalidArgument || !*slimGetLastError();
}
C
  eval "gcc -Wall -Werror -o nccl nccl.c -isystem $cuda/include $(pkg-config --cflags --libs slimccl)"
  ./nccl || fail "slimCommInitNCCL without a communicator"
fi

# ---- The installed libraries, preloaded under programs that know nothing of them
built=$TEST_SRCDIR/$TEST_WORKSPACE/tests
lib=$TEST_TMPDIR/lib # without a space, at which LD_PRELOAD would be cut
ln -s "$prefix/lib" "$lib"
if [[ $mpirun != - ]]; then
  HOME=$TEST_TMPDIR SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_CYCLE=3 SLIM_STATS=1 \
    "$mpirun" -n 3 env LD_PRELOAD=$lib/libslimccl_mpi.so "$built/preload/mpi_client" train 12 3 20000 2>&1 | tee said
  grep -q "compressed 36 calls" said || fail "nothing was compressed by the installed libslimccl_mpi.so"
fi
if [[ -x $built/preload/nccl_play ]]; then
  WORLD_SIZE=3 SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_CYCLE=1 SLIM_STATS=1 SLIM_STATE_BYTES=8M SIMGPU_DEVICES=3 \
    LD_LIBRARY_PATH=$built/simgpu LD_PRELOAD=$lib/libslimccl_nccl.so "$built/preload/nccl_play" threads 3 \
    'init 0; buffers a 50000 f32; loop 4; fill a random 1; allreduce a = * sum; check t a; end; destroy 0' 2>&1 | tee said
  grep -q "compressed 12 calls" said || fail "nothing was compressed by the installed libslimccl_nccl.so"
fi

# ---- A drop-in, made by the installed slimccl-info: the shim first, then the NCCL that was named
if [[ -e $prefix/lib/libslimccl_nccl.so ]]; then
  nccl=$(realpath "$TEST_SRCDIR/$TEST_WORKSPACE/$nccl")
  "$info" --make-dropin "a drop-in" --nccl "$nccl"
  needed=$(readelf -d "a drop-in/libnccl.so.2" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p')
  [[ $needed == "$(realpath "$prefix/lib/libslimccl_nccl.so")"$'\n'"$nccl" ]] || fail "the drop-in needs $needed"
  SLIM_NCCL_LIB=$nccl "$info" --make-dropin second
  diff second/libnccl.so.2 "a drop-in/libnccl.so.2"
  python3 -c 'import ctypes, sys; v = ctypes.c_int(); ctypes.CDLL(sys.argv[1]).ncclGetVersion(ctypes.byref(v)); assert v.value == 22307' \
    "$PWD/a drop-in/libnccl.so.2"
  "$info" --make-dropin third --nccl nowhere 2>said && fail "a drop-in before nothing"
  grep -q nowhere said || fail "the message does not name the file"
  [[ -f $prefix/lib/libslimccl_audit.so ]] || fail "no libslimccl_audit.so"
fi

# ---- The manual has every variable and flag, and its pages are good roff
"$info" | awk '/^SLIM_/ { print $1 }' >variables
[[ -s variables ]] || fail "slimccl-info lists no variables"
for page in man1/slimccl-info.1 man7/slimccl.7; do
  while read -r variable; do
    grep -q "^\.B $variable$" "$prefix/share/man/$page" || fail "$page lacks $variable"
  done <variables
  if command -v groff >/dev/null; then
    [[ ! $(groff -man -Tutf8 -ww "$prefix/share/man/$page" 2>&1 >/dev/null) ]] || fail "groff has something to say of $page"
  fi
done
"$info" --help | sed -n 's/^  --\([a-z-]*\).*/\1/p' >flags
[[ -s flags ]] || fail "slimccl-info has no flags"
while read -r flag; do
  grep -qF ".BI \\-\\-${flag//-/\\-} " "$prefix/share/man/man1/slimccl-info.1" || fail "slimccl-info.1 lacks --$flag"
done <flags

# ---- So has slimccl(3) every function and type of the headers, each with what is said of it
page=$prefix/share/man/man3/slimccl.3
sed 's/\\-/-/g' "$page" >plain.3
cat "$prefix"/include/*.h | grep -oE '\bslim[A-Z][A-Za-z]*\(|\bslim[A-Z][A-Za-z]*_t\b' | sort -u >names
[[ $(wc -l <names) -gt 40 ]] || fail "the headers have few functions"
while read -r name; do
  grep -qF "$name" plain.3 || fail "slimccl.3 lacks $name"
done <names
for words in "recvbuff[i] = sum or mean over ranks of sendbuff[i]." "uint64_t seed;" "COLLECTIVES" "config may be NULL"; do
  grep -qF "$words" plain.3 || fail "slimccl.3 does not say: $words"
done
if command -v groff >/dev/null; then
  [[ ! $(groff -man -Tutf8 -ww "$page" 2>&1 >/dev/null) ]] || fail "groff has something to say of $page"
fi

# ---- The tarball holds the same
"$TEST_SRCDIR/$TEST_WORKSPACE/$install" --tar "${files[@]/#/$TEST_SRCDIR/$TEST_WORKSPACE/}" -- "$TEST_TMPDIR/packed.tar.gz"
mkdir unpacked
tar -xf packed.tar.gz -C unpacked
diff -r "$prefix" "unpacked/slimccl-$version"
