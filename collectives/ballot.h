/* Numbers from every rank of a device's communicator, without waiting: cast with one call, read at a later one. */
#ifndef SLIM_BALLOT_H_
#define SLIM_BALLOT_H_

#include "collectives/operation.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All ranks, between the same calls; the one before must have been read. Not in a capture. */
typedef struct {
  slimOperation base;
  uint64_t* here; /* [ranks + 1][words], in host memory that the device can read and write: the last are the own ones */
  size_t words;
  bool begun;
} slimBallot;
void slimBallotPrepare(slimBallot* ballot, slimComm* comm, void* stream, uint32_t value);

/* The smallest and the largest answer. Waits for them, up to settings.timeout. */
slimResult_t slimBallotRead(slimComm* comm, uint32_t* least, uint32_t* most);

/* The same of slimBallotWords words, which stand in here once what was enqueued has ended; a later one may overtake. */
void slimBallotGather(slimBallot* ballot, slimComm* comm, void* stream, uint64_t* here);

#ifdef __cplusplus
}
#endif
#endif
