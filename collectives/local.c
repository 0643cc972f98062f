/* The local transport: ranks are threads of one process. A sender posts where its bytes lie; the receiver copies them,
 * once, when it waits. Every rank sleeps on its own condition variable, so ranks may outnumber cores. */
#include "collectives/transport.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct message {
  struct message* next; /* in the receiver's inbox */
  const void* data;
  size_t bytes;
  int id;
  bool queued; /* guarded by the receiver's lock */
} message;

typedef struct group group;

typedef struct {
  slimTransport base;
  group* group;
  pthread_mutex_t lock; /* guards inbox and pending */
  pthread_cond_t wake;
  message** inbox;            /* [source]: posted to this rank, oldest first */
  int pending[slimExchanges]; /* own messages that their receivers have not copied yet */
  message* out;               /* [id][destination] */
  slimLane* lanes;            /* [id][peer] */
} endpoint;

struct group {
  int ranks;
  endpoint* endpoints;
  atomic_int alive;  /* handles not yet destroyed */
  atomic_int failed; /* set once why is written */
  pthread_mutex_t lock;
  char why[256];
};

static void breakGroup(group* g, const char* why) {
  pthread_mutex_lock(&g->lock);
  if (!atomic_load(&g->failed)) {
    snprintf(g->why, sizeof g->why, "%s", why);
    atomic_store(&g->failed, 1);
  }
  pthread_mutex_unlock(&g->lock);
  for (int r = 0; r < g->ranks; r++) {
    endpoint* e = &g->endpoints[r];
    pthread_mutex_lock(&e->lock);
    pthread_cond_broadcast(&e->wake);
    pthread_mutex_unlock(&e->lock);
  }
}

/* After a failure: takes back what nobody has copied, and lets copies under way end, so that buffers may be freed. */
static slimResult_t withdraw(endpoint* me) {
  group* g = me->group;
  for (int p = 0; p < g->ranks; p++) {
    endpoint* peer = &g->endpoints[p];
    int taken[slimExchanges] = {0};
    pthread_mutex_lock(&peer->lock);
    for (int id = 0; id < slimExchanges; id++) {
      message* m = &me->out[id * g->ranks + p];
      if (!m->queued) continue;
      message** link = &peer->inbox[me->base.rank];
      while (*link != m) link = &(*link)->next;
      *link = m->next;
      m->queued = false;
      taken[id] = 1;
    }
    pthread_mutex_unlock(&peer->lock);
    pthread_mutex_lock(&me->lock);
    for (int id = 0; id < slimExchanges; id++) me->pending[id] -= taken[id];
    pthread_mutex_unlock(&me->lock);
  }
  pthread_mutex_lock(&me->lock);
  for (int id = 0; id < slimExchanges; id++)
    while (me->pending[id]) pthread_cond_wait(&me->wake, &me->lock);
  pthread_mutex_unlock(&me->lock);
  return slimFail(slimRemoteError, "%s", g->why);
}

static slimResult_t begin(slimTransport* transport, int id, const slimLane* lanes) {
  endpoint* me = (endpoint*)transport;
  group* g = me->group;
  const int self = me->base.rank;
  slimCopier* copier = me->base.copier;
  if (atomic_load(&g->failed)) return withdraw(me);
  if (copier) {
    const slimLane* own = &lanes[self];
    if (own->sendBytes && own->recvBytes && own->send != own->recv)
      SLIM_CHECK(copier->copy(copier, own->recv, own->send, own->recvBytes));
    SLIM_CHECK(copier->mark(copier, id));
  }
  slimLane* kept = me->lanes + (size_t)id * g->ranks;
  memcpy(kept, lanes, sizeof *lanes * g->ranks);
  kept[self] = (slimLane){0};

  int sends = 0;
  for (int p = 0; p < g->ranks; p++) sends += kept[p].sendBytes > 0;
  pthread_mutex_lock(&me->lock);
  me->pending[id] = sends;
  pthread_mutex_unlock(&me->lock);

  for (int d = 1; d < g->ranks; d++) { /* each rank starts with its neighbour, so that no inbox is crowded */
    const int p = (self + d) % g->ranks;
    if (!kept[p].sendBytes) continue;
    endpoint* peer = &g->endpoints[p];
    message* m = &me->out[id * g->ranks + p];
    *m = (message){.data = kept[p].send, .bytes = kept[p].sendBytes, .id = id, .queued = true};
    pthread_mutex_lock(&peer->lock);
    message** link = &peer->inbox[self];
    while (*link) link = &(*link)->next;
    *link = m;
    pthread_cond_signal(&peer->wake);
    pthread_mutex_unlock(&peer->lock);
  }
  return slimSuccess;
}

static slimResult_t breakWith(endpoint* me, const char* why) {
  breakGroup(me->group, why);
  return withdraw(me);
}

static void fail(slimTransport* transport, const char* why) { (void)breakWith((endpoint*)transport, why); }

/* Names the ranks that lanes still wait for. */
static void sayMissing(const endpoint* me, const slimLane* lanes, const int* waiting, double timeout, char* text,
                       size_t bytes) {
  size_t at = (size_t)snprintf(text, bytes, "not heard from in %g s: rank", timeout);
  bool named = false;
  for (int p = 0; p < me->base.ranks && at < bytes; p++)
    if (lanes[p].recvBytes) {
      at += (size_t)snprintf(text + at, bytes - at, "%s %d", named ? "," : "", p);
      named = true;
    }
  for (int p = 0; p < me->base.ranks && !named && at < bytes; p++)
    if (waiting[p]) at += (size_t)snprintf(text + at, bytes - at, " %d", p);
}

/* What p posted, into place; on a device p's next use of its buffer waits for the copy. */
static slimResult_t take(endpoint* me, int p, int id, void* to, const void* from, size_t bytes) {
  slimCopier* copier = me->base.copier;
  if (!copier) {
    memcpy(to, from, bytes);
    return slimSuccess;
  }
  SLIM_CHECK(copier->await(copier, me->group->endpoints[p].base.copier, id));
  SLIM_CHECK(copier->copy(copier, to, from, bytes));
  return copier->mark(copier, slimExchanges + id);
}

/* On a device: the buffers of exchange id are this rank's again once its receivers have copied them. */
static slimResult_t release(endpoint* me, int id) {
  slimCopier* copier = me->base.copier;
  const slimLane* lanes = me->lanes + (size_t)id * me->group->ranks;
  for (int p = 0; copier && p < me->group->ranks; p++)
    if (lanes[p].sendBytes) SLIM_CHECK(copier->await(copier, me->group->endpoints[p].base.copier, slimExchanges + id));
  return slimSuccess;
}

/* Takes what has arrived of exchange id; *missing: not all has. me->lock is held, but let go in between. */
static slimResult_t takeArrived(endpoint* me, int id, bool* missing) {
  group* g = me->group;
  slimLane* lanes = me->lanes + (size_t)id * g->ranks;
  for (bool moved = true; moved;) {
    moved = *missing = false;
    for (int p = 0; p < g->ranks && !atomic_load(&g->failed); p++) {
      if (!lanes[p].recvBytes) continue;
      message** link = &me->inbox[p];
      while (*link && (*link)->id != id) link = &(*link)->next;
      message* m = *link;
      if (!m) {
        *missing = true;
        continue;
      }
      *link = m->next;
      m->queued = false;
      pthread_mutex_unlock(&me->lock);
      const size_t got = m->bytes, wanted = lanes[p].recvBytes;
      slimResult_t result = take(me, p, id, lanes[p].recv, m->data, got < wanted ? got : wanted);
      lanes[p].recvBytes = 0;
      endpoint* peer = &g->endpoints[p];
      pthread_mutex_lock(&peer->lock);
      if (--peer->pending[id] == 0) pthread_cond_signal(&peer->wake);
      pthread_mutex_unlock(&peer->lock);
      if (result != slimSuccess) {
        result = breakWith(me, slimLastMessage());
      } else if (got != wanted) {
        char why[160];
        snprintf(why, sizeof why, "rank %d sent %zu bytes where rank %d expected %zu: ranks disagree about the call", p,
                 got, me->base.rank, wanted);
        result = breakWith(me, why);
      }
      pthread_mutex_lock(&me->lock);
      if (result != slimSuccess) return result;
      moved = true;
    }
  }
  return slimSuccess;
}

/* So that one thread can drive several ranks: what one has begun is taken before it waits. Errors stand in the group.
 */
static void poll(slimTransport* transport) {
  endpoint* me = (endpoint*)transport;
  bool missing;
  pthread_mutex_lock(&me->lock);
  for (int id = 0; id < slimExchanges; id++) (void)takeArrived(me, id, &missing);
  pthread_mutex_unlock(&me->lock);
}

static slimResult_t await(slimTransport* transport, int id, double timeout) {
  endpoint* me = (endpoint*)transport;
  group* g = me->group;
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  const double seconds = timeout < 1e9 ? timeout : 1e9;
  until.tv_sec += (time_t)seconds;
  until.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
  if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;

  bool late = false;
  pthread_mutex_lock(&me->lock);
  while (!atomic_load(&g->failed)) {
    bool missing;
    const slimResult_t result = takeArrived(me, id, &missing);
    if (result != slimSuccess) {
      pthread_mutex_unlock(&me->lock);
      return result;
    }
    if (!missing && me->pending[id] == 0) {
      pthread_mutex_unlock(&me->lock);
      return release(me, id);
    }
    if (late) {
      char why[256];
      pthread_mutex_unlock(&me->lock);
      int* waiting = calloc((size_t)g->ranks, sizeof *waiting);
      for (int p = 0; waiting && p < g->ranks; p++) {
        pthread_mutex_lock(&g->endpoints[p].lock);
        waiting[p] = me->out[id * g->ranks + p].queued;
        pthread_mutex_unlock(&g->endpoints[p].lock);
      }
      const slimLane* lanes = me->lanes + (size_t)id * g->ranks;
      if (waiting) sayMissing(me, lanes, waiting, timeout, why, sizeof why);
      free(waiting);
      return breakWith(me, waiting ? why : "out of memory");
    }
    if (me->base.copier) me->base.copier->turn(me->base.copier, false);
    late = pthread_cond_timedwait(&me->wake, &me->lock, &until) != 0;
    if (me->base.copier) { /* who has the turn may want the lock */
      pthread_mutex_unlock(&me->lock);
      me->base.copier->turn(me->base.copier, true);
      pthread_mutex_lock(&me->lock);
    }
  }
  pthread_mutex_unlock(&me->lock);
  return withdraw(me);
}

static void freeGroup(group* g) {
  for (int r = 0; r < g->ranks; r++) {
    endpoint* e = &g->endpoints[r];
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->wake);
    free(e->inbox);
    free(e->out);
    free(e->lanes);
  }
  pthread_mutex_destroy(&g->lock);
  free(g->endpoints);
  free(g);
}

static void destroy(slimTransport* transport) {
  group* g = ((endpoint*)transport)->group;
  if (atomic_fetch_sub(&g->alive, 1) == 1) freeGroup(g);
}

slimResult_t slimLocalTransports(slimTransport** transports, int ranks) {
  group* g = calloc(1, sizeof *g);
  endpoint* endpoints = g ? calloc((size_t)ranks, sizeof *endpoints) : NULL;
  if (!endpoints) {
    free(g);
    return slimFail(slimSystemError, "out of memory for %d local ranks", ranks);
  }
  g->ranks = ranks;
  g->endpoints = endpoints;
  atomic_init(&g->alive, ranks);
  atomic_init(&g->failed, 0);
  pthread_mutex_init(&g->lock, NULL);
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  bool complete = true;
  for (int r = 0; r < ranks; r++) {
    endpoint* e = &endpoints[r];
    e->base = (slimTransport){.rank = r,
                              .ranks = ranks,
                              .neighbours = ranks,
                              .oneGraph = true,
                              .begin = begin,
                              .wait = await,
                              .poll = poll,
                              .fail = fail,
                              .destroy = destroy};
    e->group = g;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->wake, &monotonic);
    e->inbox = calloc((size_t)ranks, sizeof *e->inbox);
    e->out = calloc((size_t)ranks * slimExchanges, sizeof *e->out);
    e->lanes = calloc((size_t)ranks * slimExchanges, sizeof *e->lanes);
    complete = complete && e->inbox && e->out && e->lanes;
    transports[r] = &e->base;
  }
  pthread_condattr_destroy(&monotonic);
  if (complete) return slimSuccess;
  freeGroup(g);
  return slimFail(slimSystemError, "out of memory for %d local ranks", ranks);
}
