#!/usr/bin/env bash
# on_stand_in.sh PROGRAM [ARGUMENTS]: PROGRAM with the stand-in as its CUDA driver.
export LD_LIBRARY_PATH=$PWD/tests/simgpu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
exec "$@"
