#!/usr/bin/env bash
# bazel run -c opt //plugin:install -- PREFIX: libraries, headers, slimccl-info, pkg-config's files and man pages under
# PREFIX. Called by Bazel as install.sh FILE... -- PREFIX, or install.sh --tar FILE... -- TARBALL.
set -euo pipefail
usage() {
  echo "usage: bazel run -c opt //plugin:install -- PREFIX" >&2
  exit 2
}
tar=
if [[ $1 == --tar ]]; then
  tar=yes
  shift
fi
files=()
while [[ $1 != -- ]]; do
  files+=("$1")
  shift
done
[[ $# == 2 && $2 != -* ]] || usage
to=$2

info=
for file in "${files[@]}"; do [[ $file != */slimccl-info ]] || info=$file; done
version=$("$info" --version)
version=${version#SlimCCL }
major=${version%%.*}

archive=$to
if [[ $tar ]]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  to=$folder/slimccl-$version
elif [[ $to != /* ]]; then
  to=${BAZELW_PWD:-$PWD}/$to
fi
mkdir -p "$to"/{bin,include,lib/pkgconfig,share/doc/slimccl,share/man/man1,share/man/man3,share/man/man7}

# pkg-config's file NAME.pc: NAME, description, libraries, what it requires. The prefix is where the file lies.
pc() {
  cat >"$to/lib/pkgconfig/$1.pc" <<PC
prefix=\${pcfiledir}/../..
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: $1
Description: $2
Version: $version
Requires: ${4:-}
Cflags: -I\${includedir}
Libs: -L\${libdir} $3
PC
}

for file in "${files[@]}"; do
  name=${file##*/}
  case $name in
    # To be linked: NAME.so → NAME.so.MAJOR (the SONAME) → NAME.so.VERSION
    libslimccl.so | libslimccl_mpi_transport.so)
      install -m 755 "$file" "$to/lib/$name.$version"
      ln -sfn "$name.$version" "$to/lib/$name.$major"
      ln -sfn "$name.$major" "$to/lib/$name"
      ;;
    *.so) install -m 755 "$file" "$to/lib/$name" ;; # to be preloaded
    *.h) install -m 644 "$file" "$to/include/$name" ;;
    *.1 | *.3 | *.7) install -m 644 "$file" "$to/share/man/man${name##*.}/$name" ;;
    LICENSE) install -m 644 "$file" "$to/share/doc/slimccl/$name" ;;
    slimccl-info) install -m 755 "$file" "$to/bin/$name" ;;
    *) echo "install.sh does not know where $name goes" >&2 && exit 1 ;;
  esac
done
pc slimccl "Compressed collectives for distributed training" -lslimccl
[[ ! -e $to/include/slimccl_mpi.h ]] ||
  pc slimccl-mpi "SlimCCL over MPI; compile with mpicc" -lslimccl_mpi_transport slimccl

if [[ $tar ]]; then
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$folder" -c "slimccl-$version" | gzip -n >"$archive"
else
  echo "SlimCCL $version: $to"
fi
