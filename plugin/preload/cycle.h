/* Which tensor is this? Under preload a call carries no name, so a slot of feedback state is a place in a cycle of
 * calls that repeats every training step. State starts only once the cycle is known: given (SLIM_CYCLE, slimMarkStep),
 * or found by every rank alike. Counts alone would confuse tensors of equal size; addresses tell them apart, but are
 * each rank's own: what they say takes effect only by agreement (docs/preload.md). */
#ifndef SLIM_CYCLE_H_
#define SLIM_CYCLE_H_

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SLIM_CYCLE_HISTORY = 4096, SLIM_CYCLE_BREAKS = 3 };

/* One call that qualifies for compression. key: what all ranks see alike (collective, count, type, op, root); address:
 * this rank's buffer. */
typedef struct {
  uint64_t key, address;
} slimCycleCall;

typedef struct {
  uint64_t given;                         /* calls a cycle by SLIM_CYCLE; 0: to be found */
  uint64_t marks;                         /* slimMarkStep calls seen so far */
  uint64_t calls;                         /* since the start, or the last break */
  uint64_t period, at;                    /* of the known cycle, and the place that comes next; period 0: unknown */
  bool recording;                         /* a given cycle's first round */
  bool byAddress;                         /* found by ranks, so that addresses count too */
  int breaks;                             /* SLIM_CYCLE_BREAKS: stateless for good */
  slimCycleCall call[SLIM_CYCLE_HISTORY]; /* the known cycle; else the last calls, a ring */
} slimCycle;

typedef enum {
  slimCycleUnknown, /* no state for this call */
  slimCycleKnown,   /* its place is *position */
  slimCycleBroken,  /* on all ranks alike: all state is void now; this call has none */
  slimCycleDenied   /* on this rank only: another buffer than in the cycle, at *position; then slimCycleAccept, or, if
                       ranks agree on it, slimCycleBreak */
} slimCycleVerdict;

/* The place of the next call. marks: slimMarkStep calls of the program so far. */
slimCycleVerdict slimCycleNext(slimCycle* cycle, slimCycleCall call, uint64_t marks, uint64_t* position);

/* The call denied last takes its place in the cycle all the same. */
void slimCycleAccept(slimCycle* cycle);

/* Before a call, at numbers that are the same on all ranks (64, 256, 1024, … calls): ranks should compare what they
 * propose, and commit it where all are equal and above 0. */
bool slimCycleDue(const slimCycle* cycle);
/* The period of this rank's calls, 0 if it sees none: over half of the calls so far and at least three rounds. */
uint64_t slimCyclePropose(const slimCycle* cycle);
void slimCycleCommit(slimCycle* cycle, uint64_t period);

/* The cycle does not hold any more: state is void, learn again (or, after SLIM_CYCLE_BREAKS breaks, never). */
void slimCycleBreak(slimCycle* cycle);

#ifdef __cplusplus
}
#endif
#endif
