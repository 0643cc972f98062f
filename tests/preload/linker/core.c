// A core for tests of the shim: says what it is told, and takes calls of 1000 elements and more.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/preload/nccl_core.h"

#define NOTE(...) dprintf(1, "core " __VA_ARGS__)

static _Atomic(const slimNccl*) real;
static __thread int queued;

// Calls of ours that come by the exported names must not come back to us.
static void callBack(void) {
  ncclResult_t (*end)(void) = (ncclResult_t(*)(void))dlsym(RTLD_DEFAULT, "ncclGroupEnd");
  ncclResult_t (*start)(void) = (ncclResult_t(*)(void))dlsym(RTLD_DEFAULT, "ncclGroupStart");
  if (start && end) start(), end();
}

static void made(const slimNcclMade* made, int n) {
  NOTE("made %d\n", n);
  for (int i = 0; i < n; i++) {
    int ranks = -1, rank = -1;
    real->commCount(made[i].comm, &ranks);
    real->commUserRank(made[i].comm, &rank);
    NOTE("comm %d of %d blocking=%d all=%d name='%s'\n", rank, ranks, made[i].blocking, made[i].all, made[i].name);
  }
  callBack();
}
static void aborted(ncclComm_t comm) {
  (void)comm;
  NOTE("aborted\n");
}
static void gone(ncclComm_t comm) {
  (void)comm;
  NOTE("gone\n");
}
static bool call(const slimNcclCall* c, bool inGroup, ncclResult_t* result) {
  static const char* const names[] = {"AllReduce", "ReduceScatter", "AllGather", "Broadcast", "Reduce"};
  NOTE("%s %zu type=%d op=%d root=%d group=%d\n", names[c->collective], c->count, (int)c->type, (int)c->op, c->root,
       inGroup);
  if (c->count < 1000 || getenv("CORE_TAKES_NONE")) return false;
  if (inGroup) queued++;
  *result = ncclSuccess;
  return true;
}
static ncclResult_t groupEnd(ncclResult_t ended) {
  NOTE("end %d: %d calls\n", (int)ended, queued);
  queued = 0;
  callBack();
  return ended;
}
static void asyncError(ncclComm_t comm, ncclResult_t* error) {
  (void)comm;
  NOTE("async %d\n", (int)*error);
  if (*error == ncclSuccess && getenv("CORE_FAILS")) *error = ncclInternalError;
}
static void opMade(ncclRedOp_t op, const void* scalar, ncclDataType_t type, ncclScalarResidence_t residence,
                   ncclComm_t comm) {
  (void)comm;
  NOTE("op %d made: %g type=%d host=%d\n", (int)op, (double)*(const float*)scalar, (int)type,
       residence == ncclScalarHostImmediate);
}
static void opGone(ncclRedOp_t op, ncclComm_t comm) {
  (void)comm;
  NOTE("op %d gone\n", (int)op);
}
static void markStep(void) { NOTE("step\n"); }

slimNcclCoreOpener slimNcclCoreOpen;
const slimNcclCore* slimNcclCoreOpen(const slimNccl* nccl, const char* path, int version) {
  static const slimNcclCore core = {sizeof core, made,       aborted, gone,   call,
                                    groupEnd,    asyncError, opMade,  opGone, markStep};
  real = nccl;
  const char* name = strrchr(path, '/');
  NOTE("open %s %d\n", name ? name + 1 : path, version);
  return getenv("CORE_REFUSES") ? NULL : &core;
}
