#!/usr/bin/env bash
# bench/all_reduce_perf on the stand-in: the table and the JSON say the same, results are right, and there are no times.
set -euo pipefail
export LD_LIBRARY_PATH=$PWD/tests/simgpu SIMGPU_DEVICES=8
out=$TEST_TMPDIR/out json=$TEST_TMPDIR/json status=0

fail() {
  echo "all_reduce_perf $*"
  cat "$out"
  status=1
}
# expect STATUS TEXT FLAGS…
expect() {
  local wanted=$1 text=$2 got=0
  shift 2
  LD_PRELOAD=${preload:-} bench/all_reduce_perf "$@" >"$out" 2>&1 || got=$?
  [[ $got == "$wanted" ]] || fail "$*: exit status $got"
  grep -qF -- "$text" "$out" || fail "$*: no '$text'"
}

# check RANKS ROWS: a row is 13 columns of nccl-tests', then error, bytes, ratio, spec.
check() {
  python3 - "$out" "$json" "$1" "$2" <<'PYTHON' || fail "the output is wrong"
import json, sys
out, result, ranks, rows = open(sys.argv[1]).read(), json.load(open(sys.argv[2])), int(sys.argv[3]), int(sys.argv[4])
assert "stand-in" in out and result["stand_in"] and result["ranks"] == ranks
lines = [line.split(None, 16) for line in out.splitlines() if not line.startswith("#")]
assert len(lines) == len(result["results"]) == rows, len(lines)
for line, row in zip(lines, result["results"]):
    assert int(line[0]) == row["size"] and int(line[1]) == row["count"]
    for at, place in ((5, "out_of_place"), (9, "in_place")):
        assert line[at:at + 3] == ["-"] * 3, line
        assert all(row[place][name] is None for name in ("time_us", "algbw", "busbw"))
        assert int(line[at + 3]) == row[place]["wrong"] == 0, line
    ring = 2 * (ranks - 1) / ranks * row["size"]
    assert abs(float(line[13]) - row["error"]) <= 1e-2 * row["error"]
    assert int(line[14]) == row["wire"]
    assert line[16] == (row["spec"] or "plain")
    if row["spec"] is None:
        assert row["error"] < 1e-6 and abs(row["wire"] - ring) < 1
    else:  # 4 bits: their error is known to be of this order, and they are a seventh of the bytes of long tensors
        assert 0.01 < row["error"] < 0.4
        assert ranks == 1 or row["wire"] < ring / (7 if row["size"] >= 1 << 18 else 3), row
assert "Out of bounds values : 0 OK" in out
PYTHON
}

for ranks in 1 2 3 4 8; do
  expect 0 'Avg bus bandwidth    : - (plain)' -b 64K -e 256K -f 4 -t $ranks -n 2 --spec 'ef(qsgd(bits=4))' -J "$json"
  check $ranks 4
done
expect 0 'Out of bounds values : 0 OK' -b 1000 -e 3000 -i 1000 -t 2 -n 2 -G 2 --spec 'ef(qsgd(bits=8))' -J "$json"
expect 0 'Out of bounds values : 0 OK' -b 64K -e 64K -t 2 -g 2 -n 2 --spec 'ef(qsgd(bits=4))' -J "$json"
check 4 2
expect 0 'Out of bounds values : 0 OK' -b 64K -e 64K -g 8 -n 2 -G 2 --spec 'ef(qsgd(bits=4))' -J "$json"
check 8 2
for type in half bfloat16 double; do
  expect 0 'Out of bounds values : 0 OK' -b 40K -e 40K -t 2 -n 2 -w 0 -d $type -o avg --spec 'qsgd(bits=8)'
done
expect 0 'N/A' -b 40K -e 40K -t 2 -n 2 -c 0 --spec bf16

preload=$PWD/tests/bench/libwrong.so expect 1 'FAILED' -b 40K -e 40K -t 2 -n 2
expect 2 "unknown option 'bit' of qsgd" --spec 'qsgd(bit=4)'
expect 2 '-o prod' -o prod
expect 2 '-d int8' -d int8
expect 2 '-b 12Q' -b 12Q
expect 1 'this machine has 8' -t 9
exit $status
