#!/usr/bin/env bash
# exports_test.sh LIBRARY HEADER…: the library shows each function of the headers, what a transport library needs, and nothing else.
set -euo pipefail
library=$1
shift
shown=$(nm -D --defined-only "$library" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort)
wanted=$({ grep -oh 'slim[A-Za-z]*(' "$@" | tr -d '('; echo slimCommInitTransport; echo slimCommInitTransportOn; echo slimFail; if (($# > 1)); then echo slimNcclCoreOpen; fi; } | sort -u)
# Names that the header's comments mention are functions too: they must exist.
diff <(echo "$wanted") <(echo "$shown")
if readelf -d "$library" | grep -iE 'NEEDED.*(mpi|stdc)'; then
  echo "the core must not need MPI or the C++ library" >&2
  exit 1
fi
# A library built with a sanitizer loads only into a program built with it.
if [[ $(nm -D "$library") =~ __(asan|tsan)_ ]]; then exit 0; fi
python3 -c 'import ctypes, sys; v = ctypes.c_int(); lib = ctypes.CDLL(sys.argv[1]); assert lib.slimGetVersion(ctypes.byref(v)) == 0 and v.value > 0' "$PWD/$library"
