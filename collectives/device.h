/* Where a communicator's buffers and state lie, and who works on them: the CPU, at once, or a CUDA device, by what is
 * enqueued on the caller's stream. Movers and step.c say what is to be done; a device does it. */
#ifndef SLIM_DEVICE_H_
#define SLIM_DEVICE_H_

#include "compress/compress.h"

#ifdef __cplusplus
extern "C" {
#endif

struct slimCall;
struct slimComm;
struct slimTensor;

enum { slimBallotWords = 4 }; /* of a rank, at most */

typedef struct slimDevice {
  /* The caller's thread can read buffers: it checks headers, and ranks agree before each call. Otherwise the device
   * checks headers, and what it finds is reported by a later call. */
  bool readable;

  /* With the communicator. Closing frees staging too. */
  void (*close)(struct slimComm* comm);

  /* Around whatever a caller asks for. stream: of a collective; NULL with `own`: for what has no stream. Leave answers
   * result, or what went wrong while enqueueing. */
  slimResult_t (*enter)(struct slimComm* comm, void* stream, bool own);
  slimResult_t (*leave)(struct slimComm* comm, slimResult_t result);
  /* In between, where the caller's thread turns to another communicator, and comes back. */
  void (*pause)(struct slimComm* comm);
  void (*resume)(struct slimComm* comm);
  /* What earlier calls' passes found wrong: slimSuccess, or an error, once. Does not wait. */
  slimResult_t (*reported)(struct slimComm* comm);
  /* There is something for reported to say. From any thread. */
  bool (*alarmed)(const struct slimComm* comm);
  /* A graph is being captured: what is enqueued runs later, and more than once. */
  bool (*captures)(const struct slimComm* comm);
  /* The same of a stream, before a call enters. */
  bool (*capturesOn)(struct slimComm* comm, void* stream);
  /* Refuses a pointer that this device cannot use; name: of the argument. */
  slimResult_t (*holds)(struct slimComm* comm, const char* name, const void* p);

  /* Until what was enqueued for comm is done; after timeout seconds slimRemoteError. NULL where readable. */
  slimResult_t (*idle)(struct slimComm* comm, double timeout);
  /* A number that ranks share whose devices reach each other over NVLink; 0: none that this process sees. NULL where
   * readable. */
  uint64_t (*domain)(const struct slimComm* comm);
  /* Of a new communicator: keeps bytes of its memory, and gives up the rest. NULL where readable. */
  void (*limit)(struct slimComm* comm, size_t bytes);

  /* Calls may not have ended yet. NULL where readable. */
  bool (*busy)(struct slimComm* comm);
  /* A clock that starts and stops as what was enqueued before has ended, and the seconds in between once it has. NULL
   * where readable. */
  slimResult_t (*clock)(struct slimComm* comm, bool stop);
  slimResult_t (*clocked)(struct slimComm* comm, double* seconds);
  /* Before an eager call on stream: whether ranks are to tell each other now which graphs they have done with. Then the
   * words of slimBallotGather, of which this rank's are filled in; what all are done with is free when the next capture
   * begins, on all ranks alike. NULL: not now. NULL where readable. */
  uint64_t* (*graphsGone)(struct slimComm* comm, void* stream);
  /* ranks + 1 words in host memory that the device can read and write. NULL where readable. */
  uint64_t* (*words)(struct slimComm* comm);

  /* At least bytes of comm->staging; what it held is lost. */
  slimResult_t (*stage)(struct slimComm* comm, size_t bytes);
  /* Zeroed, 64-byte aligned; NULL: there is no room (slimLastMessage says how much is missing). */
  void* (*alloc)(struct slimComm* comm, size_t bytes);
  void (*release)(struct slimComm* comm, void* p); /* NULL is allowed */
  slimResult_t (*copy)(struct slimComm* comm, void* to, const void* from, size_t bytes);
  /* p ← zeros. NULL where readable. */
  slimResult_t (*clear)(struct slimComm* comm, void* p, size_t bytes);
  /* From and to the caller's thread; when they return, it may go on using host. */
  slimResult_t (*read)(struct slimComm* comm, void* host, const void* from, size_t bytes);
  slimResult_t (*write)(struct slimComm* comm, void* to, const void* host, size_t bytes);

  /* A tensor's first call: what the device wants to know of it. Every call: the step is tensor->step. */
  slimResult_t (*openTensor)(struct slimTensor* tensor);
  void (*closeTensor)(struct slimTensor* tensor);
  slimResult_t (*beginStep)(struct slimCall* call);
  slimResult_t (*endStep)(struct slimCall* call);
  /* What the device has counted, where it counts: the last call's statistics, tensor->flagged and tensor->step. */
  slimResult_t (*statistics)(struct slimTensor* tensor, slimPassStats* last);

  /* Passes: of the pieces of split, where a header is not the expected one, call->wrong is set (a device that is not
   * readable reports it later). reduce: payloads lie in comm->payloads, at equal strides if the device is not readable.
   */
  slimResult_t (*encode)(struct slimCall* call, const slimEncodePass* pass, const slimSplit* split);
  slimResult_t (*reduce)(struct slimCall* call, const slimReducePass* pass);
  slimResult_t (*decode)(struct slimCall* call, const slimDecodePass* pass, const slimSplit* split);
  slimResult_t (*cancel)(struct slimTensor* tensor, const slimDecodePass* sent, const void* x, void* s);

  /* compress.h's. dense_reduce: payloads as in reduce. copyFinite: of n reals. takeFinite: dst ← x (elements), by
   * groups of 64 that hold no NaN or Inf. scale: n reals. scaleMemory: n bf16, by the stamp's draws. */
  slimResult_t (*denseEncode)(struct slimCall* call, const slimStamp* stamp, const void* x, bool xIsReal, uint64_t n,
                              uint64_t first, uint8_t* payload);
  slimResult_t (*denseReduce)(struct slimCall* call, uint64_t n, int ranks, const uint8_t* const* payloads, void* dst);
  slimResult_t (*fromReal)(struct slimCall* call, const void* src, uint64_t n, double factor, void* y);
  slimResult_t (*copyFinite)(struct slimCall* call, const void* src, uint64_t n, void* dst);
  slimResult_t (*takeFinite)(struct slimCall* call, const void* x, uint64_t n, void* dst);
  /* y ← x times call->scalar; n elements. NULL where readable. */
  slimResult_t (*premultiply)(struct slimCall* call, const void* x, uint64_t n, void* y);
  slimResult_t (*scale)(struct slimTensor* tensor, void* a, uint64_t n, double factor);
  slimResult_t (*scaleMemory)(struct slimTensor* tensor, const slimStamp* stamp, uint16_t* a, uint64_t n,
                              double factor);
} slimDevice;

extern const slimDevice slimHost;

#ifdef __cplusplus
}
#endif
#endif
