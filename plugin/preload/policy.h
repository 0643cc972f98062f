/* What is compressed, and how: the rules of SLIM_POLICY's file, then SLIM_COMPRESS's. docs/preload.md has the grammar.
 */
#ifndef SLIM_POLICY_H_
#define SLIM_POLICY_H_

#include "collectives/comm.h"
#include "plugin/preload/environment.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A collective call, as far as rules look at it; the same on all ranks. */
typedef struct {
  slimCollective collective;
  slimDataType_t type;
  slimRedOp_t op;   /* of broadcast and all-gather: slimSum */
  uint64_t bytes;   /* of the whole tensor: reduce-scatter's input, all-gather's output */
  int ranks;        /* of the communicator */
  bool whole;       /* these are all of the job's ranks */
  uint64_t order;   /* 0, 1, …: the communicators of this process as they first came */
  const char* name; /* the communicator's; "" */
} slimPolicyCall;

/* Why a call is handed on untouched. X(name, words) */
#define SLIM_REASONS(X)                                                          \
  X(Type, "not fp16, bf16, fp32 or fp64")                                        \
  X(Op, "not a sum or average")                                                  \
  X(Small, "smaller than SLIM_MIN_BYTES")                                        \
  X(Ranks, "one rank")                                                           \
  X(Group, "not over all ranks of the job")                                      \
  X(Collective, "neither allreduce nor reduce-scatter, and no rule asks for it") \
  X(NoRule, "no rule matches")                                                   \
  X(Off, "a rule says off")                                                      \
  X(Auto, "plain is as fast, as auto measured")                                  \
  X(Learning, "its codec is biased, and the cycle is not known yet")             \
  X(Room, "no room for it in SLIM_STATE_BYTES")                                  \
  X(Thread, "nonblocking, and MPI_THREAD_MULTIPLE is not given")                 \
  X(Shape, "not supported in this form")                                         \
  X(Differ, "ranks or settings differ")                                          \
  X(Disabled, "SlimCCL is off")
#define SLIM_REASON_(name, words) slimReason##name,
typedef enum { SLIM_REASONS(SLIM_REASON_) slimNumReasons } slimReason;
#undef SLIM_REASON_
const char* slimReasonText(slimReason reason);

enum { slimSpecFull = 0, slimSpecStateless = 1, slimSpecOneWay = 2 };
typedef struct {
  char* spec[4]; /* as written; without feedback; each without downlink too. All NULL: off */
  bool memory;   /* it has feedback */
  bool biased;   /* without it, it is not unbiased, and would hurt */
  bool measured; /* auto(spec): only where it is faster than plain */
} slimPolicyAction;

/* "auto(S)" is S, where that is faster: whether spec is one, which then becomes S, as far from its start as before, for
 * the columns of errors. */
bool slimPolicyOpenAuto(char* spec);

typedef struct slimPolicy slimPolicy;

/* Reads SLIM_POLICY's file and SLIM_COMPRESS. Errors name file, line and column. */
slimResult_t slimPolicyCreate(slimPolicy** policy, const slimEnvironment* environment);
void slimPolicyDestroy(slimPolicy* policy);
/* The first rule that matches, or NULL and the reason. */
const slimPolicyAction* slimPolicyFind(const slimPolicy* policy, const slimPolicyCall* call, slimReason* reason);
/* Some rule compresses calls on such a communicator; call: as far as it is known of all of them. */
bool slimPolicyConcerns(const slimPolicy* policy, const slimPolicyCall* call);
/* Rules, in their order; the action of one that is auto and compresses calls on such a communicator, else NULL. */
int slimPolicyRules(const slimPolicy* policy);
const slimPolicyAction* slimPolicyMeasured(const slimPolicy* policy, int rule, const slimPolicyCall* call);
/* Some rule looks at the call's order. */
bool slimPolicyUsesOrder(const slimPolicy* policy);
/* Of everything that ranks must have alike: rules and settings. */
uint64_t slimPolicyHash(const slimPolicy* policy);

#ifdef __cplusplus
}
#endif
#endif
