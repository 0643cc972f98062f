#include "collectives/probe.h"

#include "collectives/ballot.h"
#include "collectives/hierarchy.h"

#include <stdlib.h>

static slimCall stepOf(const slimProbe* p) {
  slimCall step = {.base = {.own = true},
                   .tensor = p->tensor,
                   .collective = slimCollectiveAllReduce,
                   .x = p->x,
                   .y = p->y,
                   .count = p->count,
                   .type = slimFloat32,
                   .op = slimSum,
                   .root = -1};
  slimStepPrepare(&step);
  return step;
}

static slimResult_t start(slimProbe* p) {
  slimTransport* transport = p->home->transport;
  if (p->tensor) {
    p->running = true;
    p->step = stepOf(p);
    return p->step.base.open(&p->step.base);
  }
  p->made++;
  return transport->plain(transport, slimCollectiveAllReduce, p->x, p->y, p->count, slimFloat32, slimSum, -1);
}

/* What a sum has begun leaves after the turn that it ends in, so the clock is for the next one. */
static slimResult_t advance(slimOperation* operation, bool* done) {
  slimProbe* p = (slimProbe*)operation;
  slimComm* comm = operation->comm;
  const slimDevice* device = comm->device;
  bool ended = false;
  if (!p->running) {
    if (p->made == 1) SLIM_CHECK(device->clock(comm, false));
    if (p->made > p->timed) {
      *done = true;
      SLIM_CHECK(device->clock(comm, true));
      SLIM_CHECK(device->idle(comm, comm->settings.timeout));
      SLIM_CHECK(device->clocked(comm, &p->seconds));
      p->seconds /= p->timed;
      return slimSuccess;
    }
    SLIM_CHECK(start(p));
    if (!p->running) return slimSuccess;
  }
  SLIM_CHECK(p->step.base.advance(&p->step.base, &ended));
  p->running = !ended;
  p->made += ended;
  return slimSuccess;
}

slimResult_t slimProbePrepare(slimProbe* p, slimComm* home, slimTensor* tensor, const void* x, void* y, uint64_t count,
                              int timed) {
  *p = (slimProbe){.base = {.comm = home, .own = true, .advance = advance},
                   .home = home,
                   .tensor = tensor,
                   .x = x,
                   .y = y,
                   .count = count,
                   .timed = timed};
  if (!tensor) return slimSuccess;
  const slimCall step = stepOf(p);
  p->base.comm = step.comm;
  return slimStepReserve(&step);
}

/* The slowest rank's time, for all. */
static slimResult_t share(slimProbe* p) {
  enum { nanosecond = 1000000000 };
  uint32_t least, most;
  SLIM_CHECK(slimBallotRead(p->home, &least, &most));
  p->seconds = (double)most / nanosecond;
  return slimSuccess;
}

static uint32_t nanoseconds(double seconds) { return seconds < 4 ? (uint32_t)(seconds * 1e9) : UINT32_C(4000000000); }

void slimProbeRun(slimProbe* probes, int n) {
  slimBallot* ballots = calloc((size_t)n, sizeof *ballots);
  slimOperation* list = NULL;
  for (int i = 0; i + 1 < n; i++) probes[i].base.next = &probes[i + 1].base;
  if (ballots && n) (void)slimRun(&probes->base);
  for (int i = n - 1; i >= 0; i--) {
    slimOperation* o = &probes[i].base;
    if (!ballots) o->result = slimFail(slimSystemError, "out of memory for %d measurements", n);
    if (o->result != slimSuccess) continue;
    slimBallotPrepare(&ballots[i], probes[i].home, NULL, nanoseconds(probes[i].seconds));
    ballots[i].base.own = true;
    ballots[i].base.next = list;
    list = &ballots[i].base;
  }
  if (list) (void)slimRun(list);
  for (int i = 0; i < n; i++) {
    slimOperation* o = &probes[i].base;
    if (o->result == slimSuccess) o->result = ballots[i].base.result;
    if (o->result == slimSuccess) o->result = share(&probes[i]);
  }
  free(ballots);
}
