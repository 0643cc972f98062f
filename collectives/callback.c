/* The callback transport: somebody else's communication library moves the bytes. */
#include <stdlib.h>

#include "collectives/transport.h"

typedef struct {
  slimTransport base;
  void* context;
  int (*start)(void* context, int id, const slimLane* lanes);
  int (*finish)(void* context, int id, double timeout);
  bool broken;
} endpoint;

static slimResult_t answer(endpoint* me, int code, const char* what) {
  if (code == 0) return slimSuccess;
  me->broken = true;
  me->base.holdsBuffers = true; /* nobody knows what the caller's library still reads */
  return slimFail(slimRemoteError, "the caller's %s function answered %d: the exchange failed", what, code);
}

static slimResult_t begin(slimTransport* transport, int id, const slimLane* lanes) {
  endpoint* me = (endpoint*)transport;
  if (me->broken) return slimFail(slimRemoteError, "an earlier exchange by the caller's functions failed");
  return answer(me, me->start(me->context, id, lanes), "begin");
}

static slimResult_t await(slimTransport* transport, int id, double timeout) {
  endpoint* me = (endpoint*)transport;
  if (me->broken) return slimFail(slimRemoteError, "an earlier exchange by the caller's functions failed");
  return answer(me, me->finish(me->context, id, timeout), "wait");
}

static void fail(slimTransport* transport, const char* why) {
  (void)why;
  ((endpoint*)transport)->broken = true;
}

static void destroy(slimTransport* transport) { free(transport); }

slimResult_t slimCallbackTransport(slimTransport** transport, int rank, int ranks, int neighbours, void* context,
                                   int (*start)(void*, int, const slimLane*), int (*finish)(void*, int, double)) {
  endpoint* me = calloc(1, sizeof *me);
  if (!me) return slimFail(slimSystemError, "out of memory for a communicator");
  *me = (endpoint){.base = {.rank = rank,
                            .ranks = ranks,
                            .neighbours = neighbours,
                            .begin = begin,
                            .wait = await,
                            .fail = fail,
                            .destroy = destroy},
                   .context = context,
                   .start = start,
                   .finish = finish};
  *transport = &me->base;
  return slimSuccess;
}
