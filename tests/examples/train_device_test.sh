#!/usr/bin/env bash
# examples/train --device cuda on the stand-in: every loss has the bits of --device cpu.
set -euo pipefail
export LD_LIBRARY_PATH=$PWD/tests/simgpu SIMGPU_DEVICES=2
text=$TEST_TMPDIR/text
for ((i = 0; i < 400; i++)); do echo -n "the quick brown fox jumps over the lazy dog; "; done >"$text"
for ranks in 1 2 3 4 8; do
  for device in cpu cuda; do
    examples/train --text "$text" --ranks $ranks --batch 48 --steps 6 --hidden 48 --embed 8 --context 8 --eval-every 2 \
      --eval-samples 100 --compress 'ef(qsgd(bits=4))' --compress 'diana(ternary)' --compress 'ef(topk(k=40))' \
      --device $device --csv "$TEST_TMPDIR/$device.csv" >"$TEST_TMPDIR/$device.txt" 2>&1 || {
      cat "$TEST_TMPDIR/$device.txt"
      exit 1
    }
    # without times, and the bytes: ranks in host memory also exchange what they are about to do
    sed 's/,[^,]*,[^,]*$//' "$TEST_TMPDIR/$device.csv" >"$TEST_TMPDIR/$device"
  done
  diff "$TEST_TMPDIR/cpu" "$TEST_TMPDIR/cuda" || {
    echo "$ranks ranks: < in host memory, > on devices"
    exit 1
  }
  [[ $(wc -l <"$TEST_TMPDIR/cuda") == 21 ]] || { # a heading, and 4 runs with steps 0, 1, 2, 4, 6
    cat "$TEST_TMPDIR/cuda"
    exit 1
  }
done
