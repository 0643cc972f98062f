#!/usr/bin/env bash
# docs/kernels.md holds what kernel_table prints, for every kernel. Another toolkit gives kernels other registers: then the
# columns that follow from them are left out.
set -euo pipefail
"$@" >"$TEST_TMPDIR/now"
sed -n '/^Compiled by/,/^$/p; /^|/p' docs/kernels.md >"$TEST_TMPDIR/written"
if [[ $(head -n 1 "$TEST_TMPDIR/now") != "$(head -n 1 "$TEST_TMPDIR/written")" ]]; then
  for table in now written; do
    sed 1d "$TEST_TMPDIR/$table" | cut -d '|' -f 2-5,7,10- >"$TEST_TMPDIR/part"
    mv "$TEST_TMPDIR/part" "$TEST_TMPDIR/$table"
  done
fi
diff "$TEST_TMPDIR/written" "$TEST_TMPDIR/now" || {
  echo "< docs/kernels.md, > now: take over what ./bazelw run //tests/cuda:kernel_table prints"
  exit 1
}
