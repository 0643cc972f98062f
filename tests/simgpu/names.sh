#!/usr/bin/env bash
# Folder of the toolkit's headers, errors.inc, functions.inc: all names that cudaError_t has, and all functions of
# cuda_runtime_api.h that answer one, with their twins.
set -euo pipefail
sed -nE 's/^ *(cuda(Success|Error[A-Za-z0-9]*)) *= *[0-9]+.*/SIMGPU_ERROR(\1)/p' "$1/driver_types.h" >"$2"
sed -nE -e 's/^ *extern .*cudaError_t CUDARTAPI(_CDECL)? *(cuda[A-Za-z0-9_]+)\(.*/SIMGPU_FUNCTION(\2)/p' \
  -e 's/.*__CUDART_API_PT(SZ|DS)\((cuda[A-Za-z0-9_]+)\).*/SIMGPU_FUNCTION(\2_pt\L\1)/p' \
  "$1/cuda_runtime_api.h" | sort -u >"$3"
