// What a program does with NCCL. With BY_NAME every function comes from dlsym, as in programs that open NCCL.
#include <dlfcn.h>
#include <nccl.h>
#include <stdio.h>

#include "tests/preload/linker/play.h"

ncclResult_t ncclBrandNew(int value);

#ifdef BY_NAME
#define CALL(function) ((__typeof__(&function))dlsym(nccl, #function))
#else
#define CALL(function) function
#endif
#define CHECK(call)                             \
  do {                                          \
    const ncclResult_t result_ = (call);        \
    if (result_ != ncclSuccess) return result_; \
  } while (0)

static ncclResult_t use(void* nccl) {
  (void)nccl;
  int version;
  ncclUniqueId id;
  ncclComm_t comm;
  CHECK(CALL(ncclGetVersion)(&version));
  CHECK(CALL(ncclGetUniqueId)(&id));
  CHECK(CALL(ncclCommInitRank)(&comm, 1, id, 0));
  CHECK(CALL(ncclAllReduce)(NULL, NULL, 1000, ncclFloat32, ncclSum, comm, NULL));
  CHECK(CALL(ncclAllReduce)(NULL, NULL, 10, ncclFloat32, ncclAvg, comm, NULL));
  CHECK(CALL(ncclBcast)(NULL, 2000, ncclInt8, 3, comm, NULL));
  CHECK(CALL(ncclSend)(NULL, 5, ncclInt8, 0, comm, NULL));
#ifndef OLD
  CHECK(CALL(ncclBrandNew)(4));
#endif
  CHECK(CALL(ncclCommDestroy)(comm));
  return ncclSuccess;
}

int play(void* nccl) {
  const ncclResult_t result = use(nccl);
  dprintf(1, "play %d\n", (int)result);
  return result;
}
