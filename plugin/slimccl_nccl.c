#include "plugin/slimccl_nccl.h"

#include <dlfcn.h>
#include <pthread.h>

#include "collectives/cuda.h"
#include "collectives/nccl.h"
#include "plugin/slimccl_transport.h"

static slimNccl nccl;
static const char* missing;

/* The functions of the NCCL that this process has loaded, by their second names: the first ones may be another
 * interposer's. */
static void find(void) {
  void* library = dlopen("libnccl.so.2", RTLD_LAZY | RTLD_NOLOAD);
  void* from[] = {RTLD_DEFAULT, library};
#define SLIM_FIND_(member, function)          \
  for (int i = 0; i < 2 && !nccl.member; i++) \
    if (from[i] || i == 0) *(void**)&nccl.member = dlsym(from[i], "pnccl" #function);
  SLIM_NCCL_CALLS(SLIM_FIND_)
  SLIM_NCCL_NEWER_CALLS(SLIM_FIND_)
#undef SLIM_FIND_
#define SLIM_MISS_(member, function) \
  if (!nccl.member) missing = "nccl" #function;
  SLIM_NCCL_CALLS(SLIM_MISS_)
#undef SLIM_MISS_
}

slimResult_t slimCommInitNCCL(slimComm_t* comm, ncclComm_t ncclComm, const slimConfig_t* config) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  slimTransport* transport;
  int device = 0;
  pthread_once(&once, find);
  if (!ncclComm) return slimFail(slimInvalidArgument, "ncclComm is NULL");
  if (missing) return slimFail(slimSystemError, "this process has no NCCL, or one without %s", missing);
  SLIM_CHECK(slimNcclTransport(&transport, ncclComm, &nccl));
  const ncclResult_t code = nccl.commCuDevice(ncclComm, &device);
  if (code != ncclSuccess) {
    transport->destroy(transport);
    return slimFail(slimInvalidArgument, "ncclCommCuDevice: %s", nccl.getErrorString(code));
  }
  return slimCommInitTransportOn(comm, transport, device, config, NULL);
}
