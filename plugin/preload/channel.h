/* A communicator under preload: finds each call's tensor (its place in the cycle) and runs it; what the NCCL and the
 * MPI preload share above the public API. */
#ifndef SLIM_CHANNEL_H_
#define SLIM_CHANNEL_H_

#include "plugin/preload/auto.h"
#include "plugin/preload/policy.h"
#include "plugin/scaled.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct slimChannel slimChannel;

typedef struct {
  slimPolicyCall call;
  const slimPolicyAction* action;
  const void* send; /* MPI_IN_PLACE and the like resolved: then equal to recv, or at this rank's place in it */
  void* recv;
  size_t count; /* as the slim… function takes it */
  int root;     /* broadcast, reduce */
  slimScalar scalar;
  slimStream_t stream;
} slimChannelCall;

/* Takes comm over, also on error. plain: what auto compares with, at its first call; NULL: slimChannelsMeasure does. */
slimResult_t slimChannelCreate(slimChannel** channel, slimComm_t comm, const slimEnvironment* environment,
                               uint64_t order, const char* name, slimPlainSum plain, void* context);
void slimChannelDestroy(slimChannel* channel);
uint64_t slimChannelOrder(const slimChannel* channel);

/* For the auto rules of policy: measures new channels (NULL: none) of this thread, of whose kinds the rules speak, side
 * by side with the other ranks. What has not been measured stays plain. */
void slimChannelsMeasure(slimChannel* const* channels, const slimPolicyCall* kinds, int n, const slimPolicy* policy);

/* Runs the call, or (*plain) leaves it to the caller, on all ranks alike and with no buffer changed: *reason says why.
 * On error the call has failed for good. Else slimChannelSettle must follow: inside slimGroupStart and slimGroupEnd,
 * where what it runs is kept until the end, after that. */
slimResult_t slimChannelRun(slimChannel* channel, const slimChannelCall* call, bool* plain, slimReason* reason);

/* Frees what the calls so far have left behind. */
void slimChannelSettle(slimChannel* channel);
/* Other ranks will not come any more: ends a call that waits for them. From any thread. */
void slimChannelStop(slimChannel* channel);
/* Ends what is under way on the device: the communicator works no more. From any thread. */
void slimChannelAbort(slimChannel* channel);
/* Calls may not have ended on the device: it must not be destroyed yet. */
bool slimChannelIsBusy(const slimChannel* channel);
/* Kernels of earlier calls found something wrong: the next call will say what. From any thread. */
bool slimChannelIsAlarmed(const slimChannel* channel);

/* The same call uncompressed, for callers that cannot take it back. */
slimResult_t slimChannelRunPlain(slimChannel* channel, const slimChannelCall* call);

/* The program says that a training step begins (all channels of the process). */
void slimChannelsMarkStep(void);

/* ---- Statistics ------------------------------------------------------------------------------------------------- */

/* A call that was handed on untouched. */
void slimCountForwarded(slimReason reason);

/* What a channel, or one of its tensors, did. */
typedef struct {
  const char* name;
  uint64_t order, calls, period; /* of the channel */
  int64_t place;                 /* of the tensor in the cycle; -1: without state, -2: in a graph */
  const char* spec;
  slimTensorStats_t stats;
} slimChannelRow;
typedef struct {
  uint64_t calls, plainBytes, wireBytes;
} slimTotals;
typedef struct {
  void (*channel)(void* context, const slimChannelRow* row);
  void (*tensor)(void* context, const slimChannelRow* row);
  void (*end)(void* context, const slimTotals* totals, const uint64_t forwarded[slimNumReasons]);
} slimVisitor;
/* Shows all channels with their tensors, and then the totals, those of tensors that are no more included. From any
 * thread; a channel whose call does not end in time is left out, with a warning. */
void slimChannelsVisit(const slimVisitor* visitor, void* context);

#ifdef __cplusplus
}
#endif
#endif
