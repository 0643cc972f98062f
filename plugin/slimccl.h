/* SlimCCL: compressed collectives for distributed training. The public C API.
 *
 * Every function returns a slimResult_t; slimGetLastError() says in words what was wrong and what would be right.
 * On error no buffer and no state has been changed, unless the call's comment says otherwise.
 * A communicator handle belongs to one rank and is used by one thread at a time.
 */
#ifndef SLIMCCL_H_
#define SLIMCCL_H_

#include "slimccl_types.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SLIM_API __attribute__((visibility("default")))

#define SLIM_MAJOR 0
#define SLIM_MINOR 1
#define SLIM_PATCH 0
#define SLIM_VERSION (SLIM_MAJOR * 10000 + SLIM_MINOR * 100 + SLIM_PATCH)

typedef struct slimComm* slimComm_t;     /* one rank's handle on a group of ranks */
typedef struct slimTensor* slimTensor_t; /* what SlimCCL remembers about one tensor: its spec and its feedback state */

/* ---- Errors and version --------------------------------------------------------------------------------------- */

/* SLIM_VERSION of the library that is running. */
SLIM_API slimResult_t slimGetVersion(int* version);
/* The name of a result code, e.g. "invalid argument". Never NULL. */
SLIM_API const char* slimGetErrorString(slimResult_t result);
/* What the last failing call of this thread had to say. Never NULL; "" if none failed. */
SLIM_API const char* slimGetLastError(void);

/* ---- Communicators -------------------------------------------------------------------------------------------- */

/* How the pieces travel (docs/design.md). Auto chooses per tensor from its size and the rank count. */
typedef enum {
  slimAlgoAuto = 0,
  slimAlgoTwoShot = 1, /* all-to-all, reduce at each chunk's owner, all-gather: 2(N-1)/N payloads a rank */
  slimAlgoOneShot = 2, /* all-gather, every rank decodes all: N-1 payloads a rank, no downlink */
  slimAlgoLinear = 3   /* payloads are added on the way: fp32, and randk(seed=shared) over fp32; over NCCL by its own
                        * allreduce, without shifts */
} slimAlgo_t;

/* Domains are ranks that fast links join. NCCL communicators only; others are flat. */
typedef enum {
  slimHierarchyFlat = 0, /* all ranks compress with each other */
  slimHierarchyAuto = 1  /* several domains of one size, above one rank: slimAllReduce is plain inside of them and
                          * compressed across (tensors of fewer than 64 elements for each rank of a domain stay flat);
                          * one domain of all ranks: all collectives are plain; otherwise flat */
} slimHierarchy_t;

/* Settings of a communicator; all ranks give the same, but for domain. Start from SLIM_CONFIG_INITIALIZER. */
typedef struct {
  size_t size;        /* sizeof(slimConfig_t): lets the struct grow */
  uint64_t seed;      /* of all random draws; the same seed gives the same bits. Default 1 */
  slimAlgo_t algo;    /* default slimAlgoAuto */
  int threads;        /* CPU threads a rank for encode, reduce, decode; 0 = cores left to this rank (local: 1) */
  size_t sliceBytes;  /* tensor bytes a pipeline slice; 0 = default (8 MiB); never changes results of block codecs
                         except through which rank owns what */
  double timeout;     /* seconds to wait for other ranks before slimRemoteError names them; 0 = 600 */
  size_t deviceBytes; /* on a CUDA device: memory that a rank reserves for all state and buffers; 0 = 256 MiB */
  slimHierarchy_t hierarchy; /* default slimHierarchyFlat */
  uint64_t domain; /* this rank's: ranks with the same number are joined; 0 = found out: devices with NVLink between all
                    * of them, of one machine, that this process sees */
} slimConfig_t;
#define SLIM_CONFIG_INITIALIZER \
  { sizeof(slimConfig_t), 1, slimAlgoAuto, 0, 0, 0, 0, slimHierarchyFlat, 0 }

/* nranks virtual ranks inside this process: comms[r] is rank r's handle, to be used by a thread of its own, or by
 * one thread for all ranks, between slimGroupStart and slimGroupEnd. config may be NULL. */
SLIM_API slimResult_t slimCommInitLocal(slimComm_t* comms, int nranks, const slimConfig_t* config);
/* The same with buffers in the memory of CUDA devices: rank r lives on device devices[r] (CUDA's ordinals; the same one
 * several times is allowed). Reserves config.deviceBytes a rank, and loads all kernels: nothing else allocates on a
 * device. slimUnhandledCudaError: no driver, or one that is too old (the message has both versions), or no room. */
SLIM_API slimResult_t slimCommInitLocalDevices(slimComm_t* comms, int nranks, const int* devices,
                                               const slimConfig_t* config);
/* For programs that have a communication library of their own: its functions move the bytes between processes. Both
 * answer 0 for success; anything else ends the communicator with slimRemoteError. They are called by the thread that
 * called SlimCCL. */
typedef struct {
  size_t size; /* sizeof(slimCallbacks_t), set by the caller */
  void* context;
  /* Starts exchange id (0 to 5, not under way): for each rank p but the own one, send lanes[p].send to p and receive
   * lanes[p].recv from it. Both sides know the sizes; messages of different ids between two ranks must not mix (id can
   * be the tag). All ranks begin the same exchanges in the same order. lanes is valid during the call, its buffers
   * until wait has returned. */
  int (*begin)(void* context, int id, const slimLane_t* lanes);
  /* Until exchange id is done, at most timeout seconds. */
  int (*wait)(void* context, int id, double timeout);
} slimCallbacks_t;
/* This process is rank of nranks; neighbours of them (itself included) share this machine's cores. config may be NULL.
 */
SLIM_API slimResult_t slimCommInitCallbacks(slimComm_t* comm, int rank, int nranks, int neighbours,
                                            const slimCallbacks_t* callbacks, const slimConfig_t* config);
/* Frees the rank's handle and all its tensors. NULL is allowed. For local ranks: call it once for each handle, after
 * all ranks' calls ended, and graphs that captured them are gone. */
SLIM_API slimResult_t slimCommDestroy(slimComm_t comm);
/* What kernels of earlier calls found wrong, as the next call would report it: slimSuccess or slimInvalidUsage in
 * *error (slimGetLastError has the words, once); slimRemoteError: NCCL has, in a hierarchy. Does not wait for calls
 * under way. */
SLIM_API slimResult_t slimCommGetAsyncError(slimComm_t comm, slimResult_t* error);
/* How many ranks comm has, and which one the handle is. */
SLIM_API slimResult_t slimCommCount(slimComm_t comm, int* count);
SLIM_API slimResult_t slimCommUserRank(slimComm_t comm, int* rank);

/* ---- Tensors: which compressor, and its memory ---------------------------------------------------------------- */

/* A tensor slot of comm. spec: a compressor (docs/specs.md), e.g. "ef(topk(ratio=0.01))" or
 * "up=diana(qsgd(bits=4)); down=ef(qsgd(bits=8))". slot: the tensor's number, the same on all ranks, unused so far.
 * Count, type, collective, root and algorithm are fixed by the first call that uses the tensor; its state is allocated
 * then.
 */
SLIM_API slimResult_t slimTensorCreate(slimTensor_t* tensor, slimComm_t comm, const char* spec, uint32_t slot);
/* Frees the tensor and its state. NULL is allowed. */
SLIM_API slimResult_t slimTensorDestroy(slimTensor_t tensor);
/* The spec as understood, both directions written out. Valid while the tensor lives. */
SLIM_API const char* slimTensorSpec(slimTensor_t tensor);
/* shift: sets this rank's constant shift h_i (n values of the tensor's type; all ranks call it with the same n;
 * DCGD-SHIFT, DCGD-STAR, arXiv 2206.10452). Before the first use, or between steps. The mean of the shifts is formed at
 * the next call, in full precision. */
SLIM_API slimResult_t slimTensorSetShift(slimTensor_t tensor, const void* shift, size_t count, slimDataType_t datatype);
/* Multiplies all state by factor = new unit / old unit of x, e.g. new over old loss scale (AMP), or old over new
 * learning rate where the rate is inside the memory (Mem-SGD, arXiv 1809.07599). Same factor on all ranks; finite, > 0.
 */
SLIM_API slimResult_t slimTensorRescale(slimTensor_t tensor, double factor);
/* The dither amplitude λ of the next steps, in place of the spec's `lambda=x` (both directions; FO-SGD, arXiv
 * 2405.11095). In units of x, not touched by slimTensorRescale; the same on all ranks, which the next call checks in
 * host memory; 2⁻¹²⁶ to 2¹²⁶. slimTensorReset returns to x. On a CUDA device the next call must not be captured. */
SLIM_API slimResult_t slimTensorSetLambda(slimTensor_t tensor, double lambda);
/* Takes back what the last step sent: s += û − x, for a step that the optimiser skips. Uplink ef only; once, after a
 * call that was not in place nor in a hierarchy, before any rescale, reset or load. sendbuff: the x of that call,
 * unchanged. The downlink's memory keeps what it held back of that step. */
SLIM_API slimResult_t slimTensorCancelStep(slimTensor_t tensor, const void* sendbuff);
/* Forgets all state and starts again from step 0, like a new tensor: another count or collective may follow. Wanted
 * after a call that failed half-way (its error says so). */
SLIM_API slimResult_t slimTensorReset(slimTensor_t tensor);

/* What a tensor's calls did so far on this rank. Errors are of the last call unless said otherwise. */
typedef struct {
  size_t size;           /* sizeof(slimTensorStats_t), set by the caller */
  uint64_t calls;        /* compressed calls */
  uint64_t elements;     /* elements of all calls */
  uint64_t wireBytes;    /* bytes this rank sent, headers included, all calls */
  uint64_t plainBytes;   /* bytes a plain ring collective of the same tensors sends: allreduce 2(N-1)/N·n·size */
  uint64_t stateBytes;   /* feedback memory of this rank, now, without the payloads kept for slimTensorCancelStep */
  uint64_t flaggedUnits; /* units with NaN, Inf or overflow that this rank encoded, all calls */
  double relativeError;  /* ‖u − û‖ / ‖u‖ of this rank's uplink, from every 16th unit */
  double stateRatio;     /* ‖s‖ / ‖x‖ after the last call, from every 16th unit; 0 without uplink state */
  double encodeSeconds, exchangeSeconds, reduceSeconds, decodeSeconds; /* all calls */
} slimTensorStats_t;
SLIM_API slimResult_t slimTensorGetStats(slimTensor_t tensor, slimTensorStats_t* stats);

/* Writes all tensors of comm (this rank's state) to a file, or reads them back. Loading wants a communicator of the
 * same size, the same rank, and tensors created with the same slots and specs; then a continued run has the bits of one
 * that never stopped. A truncated or altered file is refused. Versioned, checksummed (docs/format.md §9). */
SLIM_API slimResult_t slimStateSave(slimComm_t comm, const char* path);
SLIM_API slimResult_t slimStateLoad(slimComm_t comm, const char* path);

/* ---- Collectives --------------------------------------------------------------------------------------------------
 * Buffers are host memory, aligned to their element. tensor = NULL: plain, uncompressed; so are integer types and ops
 * other than sum and avg. In place where NCCL allows it. All ranks end with identical bits. stream: NULL on the CPU.
 * (On a CUDA device: see below.)
 *
 * First all ranks compare what they are about to do. Where they differ, each returns slimInvalidUsage with the same
 * words, naming field and ranks; where a rank cannot make the call, the others return slimRemoteError naming it;
 * nothing has changed then, and the communicator goes on. (A single wrong argument, like NULL, is answered at once on
 * its own rank.) A rank that does not come within the timeout: slimRemoteError names it, and the communicator is of no
 * more use. Plain: max and min of NaN are NaN, integers wrap around, their avg rounds towards zero. */
typedef void* slimStream_t;

/* On a CUDA device buffers are that device's memory, and stream is a CUstream or cudaStream_t of it. A call enqueues
 * its work there and returns; it waits only for the other local ranks to have made the same call. Then:
 * - The state of a tensor is allocated by its first call. Once a tensor is past steps in full precision (warm-up,
 *   init=first, a new shift), its calls may be captured in a graph (all ranks' streams in one):
 *   each replay is a step of its own, with random draws of its own. resync and rand_diana are refused in a capture.
 *   A graph keeps buffers (of config.deviceBytes) until it is gone on all ranks and eager calls with a tensor have told
 *   them so: later captures have them then.
 * - Ranks do not compare their calls beforehand. A payload's header is checked by the kernel that reads it: where it is
 *   wrong that piece becomes NaN, and the next call on the communicator (or slimCommGetAsyncError) says
 *   slimInvalidUsage and names rank and slot.
 * - Calls of one communicator run in the order in which they were made, whatever their streams. Not so replays: order
 *   those behind other calls of the same tensors yourself.
 * - NCCL communicators only, else slimInvalidUsage: slimAlgoLinear, and plain reductions (tensor NULL, integers, max,
 *   min, prod). */

/* For a thread that drives several ranks (a process with several devices): calls in between are kept, and run together
 * at the outermost slimGroupEnd, which answers their first error; arguments are checked at once. Groups nest. For calls
 * with a tensor, for all calls of NCCL communicators, and for slimCommInitNCCL, whose handle is there after the end. */
SLIM_API slimResult_t slimGroupStart(void);
SLIM_API slimResult_t slimGroupEnd(void);

/* recvbuff[i] = sum or mean over ranks of sendbuff[i]. */
SLIM_API slimResult_t slimAllReduce(const void* sendbuff, void* recvbuff, size_t count, slimDataType_t datatype,
                                    slimRedOp_t op, slimTensor_t tensor, slimComm_t comm, slimStream_t stream);
/* Root's count elements to all; the root's recvbuff also holds the decoded values. sendbuff is read on the root only.
 */
SLIM_API slimResult_t slimBroadcast(const void* sendbuff, void* recvbuff, size_t count, slimDataType_t datatype,
                                    int root, slimTensor_t tensor, slimComm_t comm, slimStream_t stream);
/* slimAllReduce whose result only the root receives (recvbuff unused elsewhere). */
SLIM_API slimResult_t slimReduce(const void* sendbuff, void* recvbuff, size_t count, slimDataType_t datatype,
                                 slimRedOp_t op, int root, slimTensor_t tensor, slimComm_t comm, slimStream_t stream);
/* sendbuff: ranks·recvcount elements; rank r receives elements r·recvcount … of the reduction. Uplink only. */
SLIM_API slimResult_t slimReduceScatter(const void* sendbuff, void* recvbuff, size_t recvcount, slimDataType_t datatype,
                                        slimRedOp_t op, slimTensor_t tensor, slimComm_t comm, slimStream_t stream);
/* recvbuff: ranks·sendcount elements, rank r's at r·sendcount. Uplink only. */
SLIM_API slimResult_t slimAllGather(const void* sendbuff, void* recvbuff, size_t sendcount, slimDataType_t datatype,
                                    slimTensor_t tensor, slimComm_t comm, slimStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
