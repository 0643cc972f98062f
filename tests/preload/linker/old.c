// A program for an old NCCL that asks for a function of a newer one, as one that looks for it at run time does.
#include <dlfcn.h>
#include <nccl.h>
#include <stdio.h>

int main(void) {
  ncclUniqueId id;
  ncclComm_t comm, smaller;
  int excluded = 0;
  ncclGetUniqueId(&id);
  dprintf(1, "calls %d\n", ncclCommInitRank(&comm, 2, id, 0));
  dprintf(1, "calls %d\n", ncclAllReduce(NULL, NULL, 1000, ncclFloat32, ncclSum, comm, NULL));
  dprintf(1, "calls %d\n", ncclAllReduce(NULL, NULL, 10, ncclFloat32, ncclSum, comm, NULL));
  __typeof__(&ncclCommShrink) shrink = (__typeof__(&ncclCommShrink))dlsym(RTLD_DEFAULT, "ncclCommShrink");
  if (shrink) dprintf(1, "calls %d\n", shrink(comm, &excluded, 1, &smaller, NULL, 0));
  return 0;
}
