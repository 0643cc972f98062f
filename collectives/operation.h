/* What a communicator does in one exchange after another: a step, a plain collective, a comparison of settings. One
 * thread may drive several communicators (a process with several devices): their operations then advance side by side,
 * from exchange to exchange, since none ends without the others. */
#ifndef SLIM_OPERATION_H_
#define SLIM_OPERATION_H_

#include "collectives/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct slimOperation slimOperation;
struct slimOperation {
  slimComm* comm;
  void* stream; /* as slimDevice's enter takes it, */
  bool own;     /* and this */
  /* An operation that runs first; NULL: none. Itself NULL: never any. */
  slimOperation* (*before)(slimOperation* operation);
  /* Checks. NULL: nothing to check. */
  slimResult_t (*open)(slimOperation* operation);
  /* What open did is undone: the operation does not take place. NULL: nothing to undo. */
  void (*abandon)(slimOperation* operation);
  /* Goes on until it would wait for an exchange that it has begun; *done: it has ended. */
  slimResult_t (*advance)(slimOperation* operation, bool* done);
  /* Last, outside of the device: result stands. NULL: nothing to do. */
  void (*end)(slimOperation* operation);
  slimResult_t result;
  bool done;
  slimOperation* next; /* in a list */
};

/* Runs a list of operations, of different communicators, beside each other. The first error; where a check fails, none
 * takes place. */
slimResult_t slimRun(slimOperation* list);
/* Ends operations that are not run. */
void slimDrop(slimOperation* list, slimResult_t why);

/* Of a new communicator whose ranks cannot agree before each call (its device is not readable): all must have been made
 * with the same settings; the smallest of their deviceBytes holds for all. Else it is freed, and *made is NULL. Where
 * the settings ask for it, the transports of a hierarchy are made too. */
typedef struct {
  slimOperation base;
  slimComm** made;
  int turn;
  void* there; /* what ranks say of themselves, on the device */
} slimComparison;
void slimComparisonPrepare(slimComparison* comparison, slimComm** made);

#ifdef __cplusplus
}
#endif
#endif
