#include "plugin/slimccl_nccl.h"

#include "collectives/cuda.h"
#include "collectives/nccl.h"
#include "plugin/slimccl_transport.h"

slimResult_t slimCommInitNCCL(slimComm_t* comm, ncclComm_t ncclComm, const slimConfig_t* config) {
#define SLIM_ADDRESS_(member, function) .member = nccl##function,
  static const slimNccl nccl = {SLIM_NCCL_CALLS(SLIM_ADDRESS_)};
  slimTransport* transport;
  int device = 0;
  if (!ncclComm) return slimFail(slimInvalidArgument, "ncclComm is NULL");
  SLIM_CHECK(slimNcclTransport(&transport, ncclComm, &nccl));
  const ncclResult_t code = nccl.commCuDevice(ncclComm, &device);
  if (code != ncclSuccess) {
    transport->destroy(transport);
    return slimFail(slimInvalidArgument, "ncclCommCuDevice: %s", nccl.getErrorString(code));
  }
  return slimCommInitTransportOn(comm, transport, device, config);
}
