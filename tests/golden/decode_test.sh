#!/bin/bash
# The NumPy decoder reads every golden payload. Without NumPy there is nothing to test, and the log says so.
if ! /usr/bin/python3 -c 'import numpy' 2>/dev/null; then
  echo 'SKIPPED: /usr/bin/python3 has no NumPy (package python3-numpy); the golden payloads were not decoded.' >&2
  exit 0
fi
exec /usr/bin/python3 tests/decode_payload.py --check tests/golden
