#!/usr/bin/env bash
# nccl_client_test.sh CLIENT: one thread with all devices, a thread a device, a process a device; 1 to 8 ranks.
set -uo pipefail
export SIMGPU_DEVICES=8
status=0
for ranks in 1 2 3 4 8; do
  for mode in group threads fork; do
    [[ $("$1" $mode $ranks) == ok ]] || { echo "$mode, $ranks ranks: failed"; status=1; }
  done
done
exit $status
