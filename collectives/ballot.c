#include "collectives/ballot.h"

#include <time.h>

static slimResult_t advance(slimOperation* operation, bool* done) {
  slimBallot* b = (slimBallot*)operation;
  slimComm* comm = operation->comm;
  const size_t ranks = (size_t)comm->ranks, bytes = b->words * sizeof(uint64_t);
  uint64_t *there = comm->ballot.there, *own = there + ranks * b->words;
  *done = b->begun;
  if (b->begun) {
    SLIM_CHECK(slimWait(comm, 0));
    return comm->device->copy(comm, b->here, there, ranks * bytes);
  }
  b->begun = true;
  SLIM_CHECK(comm->device->copy(comm, own, b->here + ranks * b->words, bytes));
  for (size_t p = 0; p < ranks; p++) comm->lanes[p] = (slimLane){own, bytes, there + p * b->words, bytes};
  return slimBegin(comm, 0);
}

/* A word holds the ballot's number in its upper half, so that a reader sees whether it is there. */
void slimBallotPrepare(slimBallot* b, slimComm* comm, void* stream, uint32_t value) {
  uint64_t* here = comm->device->words(comm);
  *b = (slimBallot){.base = {.comm = comm, .stream = stream, .advance = advance}, .here = here, .words = 1};
  here[comm->ranks] = (uint64_t)++comm->ballot.cast << 32 | value;
}

void slimBallotGather(slimBallot* b, slimComm* comm, void* stream, uint64_t* here) {
  *b = (slimBallot){
      .base = {.comm = comm, .stream = stream, .advance = advance}, .here = here, .words = slimBallotWords};
}

slimResult_t slimBallotRead(slimComm* comm, uint32_t* least, uint32_t* most) {
  const uint64_t* words = comm->device->words(comm);
  const double until = slimSeconds() + comm->settings.timeout;
  *least = UINT32_MAX;
  *most = 0;
  for (int r = 0; r < comm->ranks; r++) {
    uint64_t word;
    while ((word = __atomic_load_n(&words[r], __ATOMIC_ACQUIRE)) >> 32 != comm->ballot.cast) {
      if (__atomic_load_n(&comm->ballot.over, __ATOMIC_RELAXED))
        return slimFail(slimRemoteError, "the communicator was destroyed or aborted during a call");
      if (slimSeconds() > until)
        return slimFail(slimRemoteError, "rank %d of %d waited %g s for calls that were enqueued earlier to end",
                        comm->rank, comm->ranks, comm->settings.timeout);
      nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    const uint32_t value = (uint32_t)word;
    *least = value < *least ? value : *least;
    *most = value > *most ? value : *most;
  }
  return slimSuccess;
}
