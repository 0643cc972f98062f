#include "collectives/ballot.h"

#include <time.h>

/* A word holds the ballot's number in its upper half, so that a reader sees whether it is there. */
static slimResult_t advance(slimOperation* operation, bool* done) {
  slimBallot* b = (slimBallot*)operation;
  slimComm* comm = operation->comm;
  const size_t ranks = (size_t)comm->ranks;
  uint64_t *there = comm->ballot.there, *here = comm->device->words(comm);
  *done = b->begun;
  if (b->begun) {
    SLIM_CHECK(slimWait(comm, 0));
    return comm->device->copy(comm, here, there, ranks * sizeof *there);
  }
  b->begun = true;
  SLIM_CHECK(comm->device->copy(comm, there + ranks, here + ranks, sizeof *there));
  for (size_t p = 0; p < ranks; p++)
    comm->lanes[p] = (slimLane){there + ranks, sizeof *there, there + p, sizeof *there};
  return slimBegin(comm, 0);
}

static slimResult_t open(slimOperation* operation) {
  slimComm* comm = operation->comm;
  if (!comm->ballot.there) comm->ballot.there = comm->device->alloc(comm, sizeof(uint64_t) * (size_t)(comm->ranks + 1));
  return comm->ballot.there ? slimSuccess : slimSystemError;
}

void slimBallotPrepare(slimBallot* b, slimComm* comm, void* stream, uint32_t value) {
  *b = (slimBallot){.base = {.comm = comm, .stream = stream, .open = open, .advance = advance}};
  comm->device->words(comm)[comm->ranks] = (uint64_t)++comm->ballot.cast << 32 | value;
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
