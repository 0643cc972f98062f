#!/usr/bin/env bash
# train_mpi_test.sh MPIRUN: examples/train_mpi has the losses of as many virtual ranks, and says what time it took.
set -euo pipefail
text=$TEST_TMPDIR/text
for ((i = 0; i < 400; i++)); do echo -n "the quick brown fox jumps over the lazy dog; "; done >"$text"
for ranks in 2 3 4; do
  flags=(--text "$text" --batch 48 --steps 6 --hidden 48 --embed 8 --context 8 --eval-every 2 --eval-samples 100
    --compress 'ef(qsgd(bits=4))' --compress 'ef(topk(k=40))' --plot "$TEST_TMPDIR/plot.svg")
  examples/train --ranks $ranks "${flags[@]}" --csv "$TEST_TMPDIR/threads.csv" >"$TEST_TMPDIR/out" 2>&1
  if grep -q seconds "$TEST_TMPDIR/plot.svg"; then exit 1; fi
  third_party/mpi_test.sh "$1" $ranks examples/train_mpi "${flags[@]}" --csv "$TEST_TMPDIR/mpi.csv" \
    >"$TEST_TMPDIR/out" 2>&1 || {
    cat "$TEST_TMPDIR/out"
    exit 1
  }
  # without times
  for ways in threads mpi; do sed 's/,[^,]*$//' "$TEST_TMPDIR/$ways.csv" >"$TEST_TMPDIR/$ways"; done
  diff "$TEST_TMPDIR/threads" "$TEST_TMPDIR/mpi" || {
    echo "$ranks ranks: < threads, > processes"
    exit 1
  }
  grep -q 'seconds | to [0-9.]* |' "$TEST_TMPDIR/out"
  grep -q 'Loss against time' "$TEST_TMPDIR/plot.svg"
done
