#!/usr/bin/env bash
# nccl_abi_test.sh CUDA_HOME: each function of the real library, weak and strong alike, and no other.
set -euo pipefail
exports() { nm -D --defined-only "$1" | awk '$3 ~ /^p?nccl/ {print $2, $3}' | sort; }
ours=$PWD/tests/simgpu/libnccl.so.2
[[ $(objdump -p "$ours" | awk '$1 == "SONAME" {print $2}') == libnccl.so.2 ]] || { echo "wrong soname"; exit 1; }
weak=$(nm -D --defined-only "$ours" | awk '$2 == "W" && $3 ~ /^nccl/ {print $1, $3}' | sort)
strong=$(nm -D --defined-only "$ours" | awk '$2 == "T" && $3 ~ /^pnccl/ {sub(/^p/, "", $3); print $1, $3}' | sort)
[[ $weak == "$strong" ]] || { echo "ncclX and pncclX differ"; exit 1; }
# Calls from inside go through the exported names.
relocations=$(readelf -rW "$ours")
for name in ncclBroadcast ncclGetUniqueId ncclCommInitRank ncclGroupStart ncclGroupEnd; do
  grep -q "JUMP_SLO.* $name " <<<"$relocations" || { echo "$name is not called by its exported name"; exit 1; }
done
real=
for each in /usr/lib/x86_64-linux-gnu/libnccl.so.2 "$1"/lib*/libnccl.so.2; do [[ -e $each ]] && real=$each; done
[[ $real ]] || { echo "libnccl.so.2 is not installed: nothing to compare with"; exit 0; }
diff <(exports "$ours") <(exports "$real") || { echo "< the stand-in, > $real"; exit 1; }
