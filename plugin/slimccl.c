/* The public C API: checks arguments, then hands over to collectives/. */
#include "plugin/slimccl.h"

#include "collectives/hierarchy.h"
#include "collectives/plain.h"
#include "collectives/step.h"
#include "plugin/group.h"
#include "plugin/scaled.h"
#include "plugin/slimccl_transport.h"
#ifdef SLIM_WITH_CUDA
#include "collectives/cuda.h"
#endif

#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum { defaultSliceBytes = 8 << 20, defaultDeviceBytes = 256 << 20, defaultTimeout = 600 };

_Static_assert((int)slimAlgoTwoShot == (int)slimAlgorithmTwoShot && (int)slimAlgoOneShot == (int)slimAlgorithmOneShot &&
                   (int)slimAlgoLinear == (int)slimAlgorithmLinear && (int)slimAlgoAuto == (int)slimAlgorithmAuto,
               "the API's algorithms are those of collectives/");

/* ---- Errors and version ----------------------------------------------------------------------------------------- */

slimResult_t slimGetVersion(int* version) {
  if (!version) return slimFail(slimInvalidArgument, "version is NULL");
  *version = SLIM_VERSION;
  return slimSuccess;
}

const char* slimGetErrorString(slimResult_t result) {
  switch (result) {
    case slimSuccess:
      return "no error";
    case slimUnhandledCudaError:
      return "unhandled CUDA error";
    case slimSystemError:
      return "unhandled system error";
    case slimInternalError:
      return "internal error";
    case slimInvalidArgument:
      return "invalid argument";
    case slimInvalidUsage:
      return "invalid usage";
    case slimRemoteError:
      return "remote rank failed or did not answer";
    case slimNumResults:
      break;
  }
  return "unknown result code";
}

const char* slimGetLastError(void) { return slimLastMessage(); }

/* ---- Communicators ---------------------------------------------------------------------------------------------- */

static slimResult_t settingsOf(const slimConfig_t* config, slimSettings* settings) {
  slimConfig_t c = SLIM_CONFIG_INITIALIZER;
  if (config) {
    if (config->size != sizeof c)
      return slimFail(slimInvalidArgument, "config.size is %zu, not %zu: start from SLIM_CONFIG_INITIALIZER",
                      config->size, sizeof c);
    c = *config;
  }
  if ((int)c.algo < slimAlgoAuto || c.algo > slimAlgoLinear)
    return slimFail(slimInvalidArgument, "config.algo is %d: give a slimAlgo_t, 0 to 3", (int)c.algo);
  if ((int)c.hierarchy < slimHierarchyFlat || c.hierarchy > slimHierarchyAuto)
    return slimFail(slimInvalidArgument, "config.hierarchy is %d: give a slimHierarchy_t, 0 or 1", (int)c.hierarchy);
  if (c.threads < 0 || c.threads > 4096)
    return slimFail(slimInvalidArgument, "config.threads is %d: give 0 (automatic) to 4096", c.threads);
  if (!(c.timeout >= 0))
    return slimFail(slimInvalidArgument, "config.timeout is %g: give seconds, or 0 for %d", c.timeout, defaultTimeout);
  *settings = (slimSettings){.seed = c.seed,
                             .algorithm = (slimAlgorithm)c.algo,
                             .sliceBytes = c.sliceBytes ? c.sliceBytes : defaultSliceBytes,
                             .deviceBytes = c.deviceBytes ? c.deviceBytes : defaultDeviceBytes,
                             .hierarchy = c.hierarchy == slimHierarchyAuto,
                             .domain = c.domain,
                             .timeout = c.timeout > 0 ? c.timeout : defaultTimeout,
                             .threads = c.threads};
  return slimSuccess;
}

/* A rank's part of the cores that this process may use. */
static int threadShare(int neighbours) {
  cpu_set_t cores;
  const int n = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
  return n > neighbours ? n / neighbours : 1;
}

slimResult_t slimCommInitTransport(slimComm_t* comm, slimTransport* transport, const slimConfig_t* config) {
  slimSettings settings;
  slimResult_t result = comm ? settingsOf(config, &settings) : slimFail(slimInvalidArgument, "comm is NULL");
  if (result == slimSuccess) {
    if (settings.threads == 0) settings.threads = threadShare(transport->neighbours);
    return slimCommCreate(comm, transport, &settings);
  }
  transport->destroy(transport);
  return result;
}

static slimResult_t createOn(slimComm_t* comm, slimTransport* transport, const slimSettings* settings,
                             const int* device) {
  if (!device) return slimCommCreate(comm, transport, settings);
#ifdef SLIM_WITH_CUDA
  return slimCudaCommCreate(comm, transport, settings, *device);
#else
  transport->destroy(transport);
  return slimFail(slimInvalidUsage, "this SlimCCL was built without CUDA: it serves buffers in host memory only");
#endif
}

slimResult_t slimCommInitTransportOn(slimComm_t* comm, slimTransport* transport, int device, const slimConfig_t* config,
                                     const slimPreloadSettings* preload) {
  slimSettings settings;
  slimResult_t result = comm ? settingsOf(config, &settings) : slimFail(slimInvalidArgument, "comm is NULL");
  if (result != slimSuccess) {
    transport->destroy(transport);
    return result;
  }
  settings.modest = true;
  if (preload) {
    settings.rules = preload->rules;
    settings.mirrored = preload->mirrored;
  }
  SLIM_CHECK(createOn(comm, transport, &settings, &device));
  if (preload) (*comm)->number = preload->number;
  slimComparison comparison;
  slimComparisonPrepare(&comparison, comm);
  return slimSubmit(&comparison.base, sizeof comparison);
}

/* devices NULL: host memory. */
static slimResult_t initLocal(slimComm_t* comms, int nranks, const int* devices, const slimConfig_t* config) {
  if (!comms) return slimFail(slimInvalidArgument, "comms is NULL: give an array of nranks handles");
  if (nranks < 1 || nranks > 4096) return slimFail(slimInvalidArgument, "nranks is %d: give 1 to 4096", nranks);
  slimSettings settings;
  SLIM_CHECK(settingsOf(config, &settings));
  slimTransport** transports = calloc((size_t)nranks, sizeof(slimTransport*));
  if (!transports) return slimFail(slimSystemError, "out of memory for %d local ranks", nranks);
  slimResult_t result = slimLocalTransports(transports, nranks);
  int made = 0, tried = 0;
  if (result == slimSuccess) {
    for (; tried < nranks && result == slimSuccess; tried++, made += result == slimSuccess)
      result = createOn(&comms[tried], transports[tried], &settings, devices ? &devices[tried] : NULL);
#ifdef SLIM_WITH_CUDA
    if (result == slimSuccess && devices) result = slimCudaConnect(comms, nranks);
#endif
    for (int r = 0; r < made; r++) comms[r]->clique = comms[0]->clique;
    if (result != slimSuccess) {
      for (int r = tried; r < nranks; r++) transports[r]->destroy(transports[r]);
      for (int r = 0; r < made; r++) slimCommFree(comms[r]);
    }
  }
  free(transports);
  return result;
}

slimResult_t slimCommInitLocal(slimComm_t* comms, int nranks, const slimConfig_t* config) {
  return initLocal(comms, nranks, NULL, config);
}

slimResult_t slimCommInitLocalDevices(slimComm_t* comms, int nranks, const int* devices, const slimConfig_t* config) {
  if (!devices) return slimFail(slimInvalidArgument, "devices is NULL: give one CUDA device number a rank");
  return initLocal(comms, nranks, devices, config);
}

/* What a caller asks for without a stream, between the device's enter and leave. */
#define WITH(comm, call)                            \
  do {                                              \
    const slimDevice* device_ = (comm)->device;     \
    SLIM_CHECK(device_->enter((comm), NULL, true)); \
    return device_->leave((comm), (call));          \
  } while (0)

static slimResult_t closeTensor(slimTensor* t) {
  slimTensorClose(t);
  return slimSuccess;
}

slimResult_t slimCommInitCallbacks(slimComm_t* comm, int rank, int nranks, int neighbours,
                                   const slimCallbacks_t* callbacks, const slimConfig_t* config) {
  if (!comm || !callbacks) return slimFail(slimInvalidArgument, "%s is NULL", comm ? "callbacks" : "comm");
  if (callbacks->size != sizeof *callbacks)
    return slimFail(slimInvalidArgument, "callbacks->size is %zu: set it to sizeof(slimCallbacks_t), %zu",
                    callbacks->size, sizeof *callbacks);
  if (!callbacks->begin || !callbacks->wait)
    return slimFail(slimInvalidArgument, "callbacks->%s is NULL", callbacks->begin ? "wait" : "begin");
  if (nranks < 1 || rank < 0 || rank >= nranks || neighbours < 1 || neighbours > nranks)
    return slimFail(slimInvalidArgument, "rank %d of %d with %d on this machine: give 0 <= rank < nranks >= neighbours",
                    rank, nranks, neighbours);
  slimTransport* transport;
  SLIM_CHECK(slimCallbackTransport(&transport, rank, nranks, neighbours, callbacks->context, callbacks->begin,
                                   callbacks->wait));
  return slimCommInitTransport(comm, transport, config);
}

slimResult_t slimCommDestroy(slimComm_t comm) {
  if (!comm) return slimSuccess;
  const slimDevice* device = comm->device;
  const bool entered = device->enter(comm, NULL, true) == slimSuccess; /* whatever it says: the caller is done */
  while (comm->tensors) slimTensorClose(comm->tensors);
  if (entered) (void)device->leave(comm, slimSuccess);
  slimCommFree(comm);
  return slimSuccess;
}

slimResult_t slimCommGetAsyncError(slimComm_t comm, slimResult_t* error) {
  if (!comm || !error) return slimFail(slimInvalidArgument, "%s is NULL", comm ? "error" : "comm");
  *error = comm->device->reported(comm);
  if (*error == slimSuccess && slimHierarchyIsAlarmed(comm))
    *error = slimFail(slimRemoteError, "NCCL has lost a rank, between domains or inside: destroy the communicator");
  return slimSuccess;
}

slimResult_t slimCommCount(slimComm_t comm, int* count) {
  if (!comm || !count) return slimFail(slimInvalidArgument, "%s is NULL", comm ? "count" : "comm");
  *count = comm->ranks;
  return slimSuccess;
}

slimResult_t slimCommUserRank(slimComm_t comm, int* rank) {
  if (!comm || !rank) return slimFail(slimInvalidArgument, "%s is NULL", comm ? "rank" : "comm");
  *rank = comm->rank;
  return slimSuccess;
}

/* ---- Tensors ---------------------------------------------------------------------------------------------------- */

slimResult_t slimTensorCreate(slimTensor_t* tensor, slimComm_t comm, const char* spec, uint32_t slot) {
  if (!tensor || !comm || !spec)
    return slimFail(slimInvalidArgument, "%s is NULL", !tensor ? "tensor" : !comm ? "comm" : "spec");
  return slimTensorOpen(tensor, comm, spec, slot);
}

slimResult_t slimTensorDestroy(slimTensor_t tensor) {
  if (!tensor) return slimSuccess;
  slimComm* comm = tensor->comm;
  WITH(comm, closeTensor(tensor));
}

const char* slimTensorSpec(slimTensor_t tensor) { return tensor ? tensor->compressor->text : ""; }

static slimResult_t checkTensor(slimTensor_t tensor) {
  return tensor ? slimSuccess : slimFail(slimInvalidArgument, "tensor is NULL");
}

static slimResult_t checkType(slimDataType_t type) {
  return slimTypeBytes(type) ? slimSuccess
                             : slimFail(slimInvalidArgument, "data type %d: give a slimDataType_t, 0 to 9", (int)type);
}

static slimResult_t checkBuffer(const char* name, const void* buffer, uint64_t elements, slimDataType_t type) {
  const size_t size = slimTypeBytes(type);
  if (!buffer) return slimFail(slimInvalidArgument, "%s is NULL", name);
  if ((uintptr_t)buffer % size)
    return slimFail(slimInvalidArgument, "%s is not aligned to its elements of %zu bytes (%s)", name, size,
                    slimTypeName(type));
  if (elements > (UINT64_C(1) << 56))
    return slimFail(slimInvalidArgument, "%llu elements are too many", (unsigned long long)elements);
  return slimSuccess;
}

slimResult_t slimTensorSetShift(slimTensor_t tensor, const void* shift, size_t count, slimDataType_t datatype) {
  SLIM_CHECK(checkTensor(tensor));
  SLIM_CHECK(checkType(datatype));
  if (!slimTypeIsFloat(datatype))
    return slimFail(slimInvalidArgument, "a shift is made of floats, not %s", slimTypeName(datatype));
  SLIM_CHECK(checkBuffer("shift", shift, count, datatype));
  return slimTensorShift(tensor, shift, count, datatype);
}

slimResult_t slimTensorRescale(slimTensor_t tensor, double factor) {
  SLIM_CHECK(checkTensor(tensor));
  if (!isfinite(factor) || factor <= 0)
    return slimFail(slimInvalidArgument, "factor is %g: give a finite number above 0", factor);
  WITH(tensor->comm, slimTensorScale(tensor, factor));
}

slimResult_t slimTensorSetLambda(slimTensor_t tensor, double lambda) {
  SLIM_CHECK(checkTensor(tensor));
  if (!(lambda >= 0x1p-126 && lambda <= 0x1p126))
    return slimFail(slimInvalidArgument, "lambda is %g: give a number from 2^-126 to 2^126", lambda);
  return slimTensorChooseLambda(tensor, lambda);
}

slimResult_t slimTensorCancelStep(slimTensor_t tensor, const void* sendbuff) {
  SLIM_CHECK(checkTensor(tensor));
  if (tensor->started) SLIM_CHECK(checkBuffer("sendbuff", sendbuff, tensor->cut.count, tensor->type));
  WITH(tensor->comm, slimTensorCancel(tensor, sendbuff));
}

static slimResult_t forgetTensor(slimTensor* t) {
  slimTensorForget(t);
  return slimSuccess;
}

slimResult_t slimTensorReset(slimTensor_t tensor) {
  SLIM_CHECK(checkTensor(tensor));
  WITH(tensor->comm, forgetTensor(tensor));
}

static slimResult_t deviceStatistics(slimTensor* t) {
  if (t->comm->settings.mirrored) return slimStepStatistics(t);
  WITH(t->comm, slimStepStatistics(t));
}

slimResult_t slimTensorGetStats(slimTensor_t tensor, slimTensorStats_t* stats) {
  SLIM_CHECK(checkTensor(tensor));
  if (!stats) return slimFail(slimInvalidArgument, "stats is NULL");
  if (stats->size != sizeof *stats)
    return slimFail(slimInvalidArgument, "stats->size is %zu: set it to sizeof(slimTensorStats_t), %zu", stats->size,
                    sizeof *stats);
  if (!tensor->comm->device->readable) SLIM_CHECK(deviceStatistics(tensor));
  *stats = (slimTensorStats_t){.size = sizeof *stats,
                               .calls = tensor->calls,
                               .elements = tensor->elements,
                               .wireBytes = tensor->wireBytes,
                               .plainBytes = (uint64_t)tensor->plainBytes,
                               .stateBytes = slimTensorStateBytes(tensor),
                               .flaggedUnits = tensor->flagged,
                               .relativeError = tensor->relativeError,
                               .stateRatio = tensor->stateRatio,
                               .encodeSeconds = tensor->encodeSeconds,
                               .exchangeSeconds = tensor->exchangeSeconds,
                               .reduceSeconds = tensor->reduceSeconds,
                               .decodeSeconds = tensor->decodeSeconds};
  return slimSuccess;
}

slimResult_t slimStateSave(slimComm_t comm, const char* path) {
  if (!comm || !path) return slimFail(slimInvalidArgument, "%s is NULL", comm ? "path" : "comm");
  WITH(comm, slimStateWrite(comm, path));
}

slimResult_t slimStateLoad(slimComm_t comm, const char* path) {
  if (!comm || !path) return slimFail(slimInvalidArgument, "%s is NULL", comm ? "path" : "comm");
  WITH(comm, slimStateRead(comm, path));
}

/* ---- Collectives ------------------------------------------------------------------------------------------------ */

typedef struct {
  slimCollective collective;
  const void* x;
  void* y;
  size_t count;
  slimDataType_t type;
  slimRedOp_t op;
  int root; /* −1: none */
  slimTensor_t tensor;
  slimComm_t comm;
  slimStream_t stream;
  slimScalar scalar;
} request;

/* Buffers must be equal where NCCL calls that in place (the smaller one at place inside the larger), or apart. */
static slimResult_t checkOverlap(const request* r, uint64_t sent, uint64_t received) {
  const size_t size = slimTypeBytes(r->type);
  const uintptr_t x = (uintptr_t)r->x, y = (uintptr_t)r->y, own = (uintptr_t)r->comm->rank * r->count * size;
  if (x + sent * size <= y || y + received * size <= x) return slimSuccess;
  const uintptr_t sendPlace = r->collective == slimCollectiveAllGather ? y + own : y;
  const uintptr_t recvPlace = r->collective == slimCollectiveReduceScatter ? x + own : x;
  if (r->collective == slimCollectiveAllGather ? x == sendPlace : y == recvPlace) return slimSuccess;
  return slimFail(slimInvalidArgument,
                  "sendbuff and recvbuff overlap: give buffers apart, or in place as NCCL has it for %s",
                  slimCollectiveName((int)r->collective));
}

static bool sends(const request* r) { return r->collective != slimCollectiveBroadcast || r->comm->rank == r->root; }
static bool receives(const request* r) { return r->collective != slimCollectiveReduce || r->comm->rank == r->root; }

static slimResult_t check(const request* r) {
  if (!r->comm) return slimFail(slimInvalidArgument, "comm is NULL");
  SLIM_CHECK(checkType(r->type));
  if ((int)r->op < slimSum || r->op > slimAvg)
    return slimFail(slimInvalidArgument, "op %d: give a slimRedOp_t, 0 to 4", (int)r->op);
  const bool rooted = r->collective == slimCollectiveBroadcast || r->collective == slimCollectiveReduce;
  if (rooted && (r->root < 0 || r->root >= r->comm->ranks))
    return slimFail(slimInvalidArgument, "root is %d: give 0 to %d", r->root, r->comm->ranks - 1);
  if (r->tensor && r->tensor->comm->home != r->comm)
    return slimFail(slimInvalidArgument, "the tensor of slot %u belongs to another communicator", r->tensor->slot);
  if (!r->count) return slimSuccess;
  const uint64_t wide = (uint64_t)r->comm->ranks;
  if (r->count > (UINT64_C(1) << 56) / wide)
    return slimFail(slimInvalidArgument, "%zu elements are too many", r->count);
  const uint64_t sent = r->collective == slimCollectiveReduceScatter ? r->count * wide : r->count;
  const uint64_t received = r->collective == slimCollectiveAllGather ? r->count * wide : r->count;
  if (sends(r)) SLIM_CHECK(checkBuffer("sendbuff", r->x, sent, r->type));
  if (receives(r)) SLIM_CHECK(checkBuffer("recvbuff", r->y, received, r->type));
  return sends(r) && receives(r) ? checkOverlap(r, sent, received) : slimSuccess;
}

/* A call that is not compressed. */
typedef struct {
  slimOperation base;
  request r;
} plainCall;

static slimResult_t runPlain(slimOperation* operation, bool* done) {
  const request* r = &((plainCall*)operation)->r;
  slimTransport* transport = r->comm->transport;
  *done = true;
  if (transport->plain)
    return transport->plain(transport, (int)r->collective, r->x, r->y, r->count, r->type, r->op, r->root);
  return slimPlain(r->comm, r->collective, r->x, r->y, r->count, r->type, r->op, r->root);
}

static slimResult_t run(const request* r) {
  SLIM_CHECK(check(r));
  if (r->count && sends(r)) SLIM_CHECK(r->comm->device->holds(r->comm, "sendbuff", r->x));
  if (r->count && receives(r)) SLIM_CHECK(r->comm->device->holds(r->comm, "recvbuff", r->y));
  const slimOperation base = {.comm = r->comm, .stream = r->stream};
  const bool together = r->comm->domains.kind == slimDomainsOne && r->comm->settings.hierarchy;
  if (r->tensor && !together && slimTypeIsFloat(r->type) && (r->op == slimSum || r->op == slimAvg)) {
    slimCall call = {.base = base,
                     .tensor = r->tensor,
                     .collective = r->collective,
                     .x = r->x,
                     .y = r->y,
                     .count = r->count,
                     .type = r->type,
                     .op = r->op,
                     .root = r->root,
                     .scalar = r->scalar};
    slimStepPrepare(&call);
    return slimSubmit(&call.base, sizeof call);
  }
  if (slimGroupIsOpen() && !r->comm->transport->plain)
    return slimFail(slimInvalidUsage, "a plain %s between slimGroupStart and slimGroupEnd is for NCCL communicators",
                    slimCollectiveName((int)r->collective));
  plainCall plain = {.base = base, .r = *r};
  plain.base.advance = runPlain;
  return slimSubmit(&plain.base, sizeof plain);
}

static const slimScalar unscaled;

slimResult_t slimAllReduce(const void* sendbuff, void* recvbuff, size_t count, slimDataType_t datatype, slimRedOp_t op,
                           slimTensor_t tensor, slimComm_t comm, slimStream_t stream) {
  return run(
      &(request){slimCollectiveAllReduce, sendbuff, recvbuff, count, datatype, op, -1, tensor, comm, stream, unscaled});
}

slimResult_t slimBroadcast(const void* sendbuff, void* recvbuff, size_t count, slimDataType_t datatype, int root,
                           slimTensor_t tensor, slimComm_t comm, slimStream_t stream) {
  return run(&(request){slimCollectiveBroadcast, sendbuff, recvbuff, count, datatype, slimAvg, root, tensor, comm,
                        stream, unscaled});
}

slimResult_t slimReduce(const void* sendbuff, void* recvbuff, size_t count, slimDataType_t datatype, slimRedOp_t op,
                        int root, slimTensor_t tensor, slimComm_t comm, slimStream_t stream) {
  return run(
      &(request){slimCollectiveReduce, sendbuff, recvbuff, count, datatype, op, root, tensor, comm, stream, unscaled});
}

slimResult_t slimReduceScatter(const void* sendbuff, void* recvbuff, size_t recvcount, slimDataType_t datatype,
                               slimRedOp_t op, slimTensor_t tensor, slimComm_t comm, slimStream_t stream) {
  return run(&(request){slimCollectiveReduceScatter, sendbuff, recvbuff, recvcount, datatype, op, -1, tensor, comm,
                        stream, unscaled});
}

slimResult_t slimAllGather(const void* sendbuff, void* recvbuff, size_t sendcount, slimDataType_t datatype,
                           slimTensor_t tensor, slimComm_t comm, slimStream_t stream) {
  return run(&(request){slimCollectiveAllGather, sendbuff, recvbuff, sendcount, datatype, slimAvg, -1, tensor, comm,
                        stream, unscaled});
}

slimResult_t slimCollectiveScaled(slimCollective collective, const void* sendbuff, void* recvbuff, size_t count,
                                  slimDataType_t type, slimRedOp_t op, int root, slimScalar scalar, slimTensor_t tensor,
                                  slimComm_t comm, slimStream_t stream) {
  return run(&(request){collective, sendbuff, recvbuff, count, type, op, root, tensor, comm, stream, scalar});
}
