/* The MPI transport: an exchange is one non-blocking receive and one send for each peer; a long message goes in
 * several. */
#include "collectives/mpi.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { longest = 1 << 30 }; /* bytes in a message: MPI counts in int */

typedef struct {
  MPI_Request* requests;
  int* peers; /* of each request: rank, or −1 − rank of a send */
  int n, room;
} exchange;

typedef struct {
  slimTransport base;
  MPI_Comm comm;
  exchange exchanges[slimExchanges];
  bool crowded; /* this machine's ranks outnumber its cores */
  bool broken;
  char why[256];
} endpoint;

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static slimResult_t saysMpi(endpoint* me, const char* what, int code) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  me->broken = true;
  snprintf(me->why, sizeof me->why, "%s: %.200s", what, text);
  return slimFail(slimSystemError, "%s", me->why);
}

static void fail(slimTransport* transport, const char* why) {
  endpoint* me = (endpoint*)transport;
  if (!me->broken) snprintf(me->why, sizeof me->why, "%s", why);
  me->broken = true;
  /* Receives are taken back, so that nothing arrives late; sends that nobody fetched keep their buffers. */
  for (int id = 0; id < slimExchanges; id++) {
    exchange* e = &me->exchanges[id];
    for (int i = 0; i < e->n; i++) {
      if (e->requests[i] == MPI_REQUEST_NULL) continue;
      if (e->peers[i] >= 0)
        MPI_Cancel(&e->requests[i]);
      else
        me->base.holdsBuffers = true;
      MPI_Request_free(&e->requests[i]);
    }
    e->n = 0;
  }
}

static bool grow(exchange* e, size_t need) {
  if (need <= (size_t)e->room) return true;
  MPI_Request* requests = realloc(e->requests, need * sizeof *requests);
  if (requests) e->requests = requests;
  int* peers = realloc(e->peers, need * sizeof *peers);
  if (peers) e->peers = peers;
  if (!requests || !peers) return false;
  e->room = (int)need;
  return true;
}

static int messages(size_t bytes) { return (int)(bytes / longest + (bytes % longest != 0)); }

static slimResult_t begin(slimTransport* transport, int id, const slimLane* lanes) {
  endpoint* me = (endpoint*)transport;
  if (me->broken) return slimFail(slimRemoteError, "%s", me->why);
  exchange* e = &me->exchanges[id];
  const int self = me->base.rank, ranks = me->base.ranks;
  size_t need = 0;
  for (int p = 0; p < ranks; p++)
    if (p != self) need += (size_t)(messages(lanes[p].sendBytes) + messages(lanes[p].recvBytes));
  if (!grow(e, need)) {
    fail(transport, "out of memory for requests");
    return slimFail(slimSystemError, "%s", me->why);
  }
  e->n = 0;
  int code = MPI_SUCCESS;
  for (int way = 0; way < 2; way++) /* receives first, so that no message comes unexpected */
    for (int d = 1; d < ranks; d++) {
      const int p = way ? (self + d) % ranks : (self + ranks - d) % ranks;
      const size_t bytes = way ? lanes[p].sendBytes : lanes[p].recvBytes;
      for (size_t at = 0; at < bytes && code == MPI_SUCCESS; at += longest) {
        const int n = bytes - at < longest ? (int)(bytes - at) : longest;
        e->peers[e->n] = way ? -1 - p : p;
        code = way ? MPI_Isend((const char*)lanes[p].send + at, n, MPI_BYTE, p, id, me->comm, &e->requests[e->n])
                   : MPI_Irecv((char*)lanes[p].recv + at, n, MPI_BYTE, p, id, me->comm, &e->requests[e->n]);
        if (code == MPI_SUCCESS) e->n++;
      }
    }
  if (code == MPI_SUCCESS) return slimSuccess;
  fail(transport, "MPI failed");
  return saysMpi(me, "MPI could not start a message", code);
}

static void sayMissing(const endpoint* me, const exchange* e, double timeout, char* text, size_t bytes) {
  size_t at = (size_t)snprintf(text, bytes, "not heard from in %g s: rank", timeout);
  for (int sends = 0, named = 0; sends < 2 && !named; sends++)
    for (int p = 0; p < me->base.ranks; p++) {
      bool open = false;
      for (int i = 0; i < e->n; i++)
        open = open || (e->requests[i] != MPI_REQUEST_NULL && e->peers[i] == (sends ? -1 - p : p));
      if (open && at < bytes) at += (size_t)snprintf(text + at, bytes - at, named++ ? ", %d" : " %d", p);
    }
}

static slimResult_t await(slimTransport* transport, int id, double timeout) {
  endpoint* me = (endpoint*)transport;
  if (me->broken) return slimFail(slimRemoteError, "%s", me->why);
  exchange* e = &me->exchanges[id];
  const double start = seconds();
  for (unsigned turn = 1;; turn++) {
    int done = 1;
    const int code = MPI_Testall(e->n, e->requests, &done, MPI_STATUSES_IGNORE);
    if (code != MPI_SUCCESS) {
      fail(transport, "MPI failed");
      return saysMpi(me, "MPI could not finish a message", code);
    }
    if (done) break;
    if (!me->crowded && turn % 16) continue;
    sched_yield();
    const double waited = seconds() - start;
    if (waited > (me->crowded ? 1e-4 : 1e-3)) nanosleep(&(struct timespec){0, 20000}, NULL);
    if (waited <= timeout) continue;
    for (int i = 0; i < e->n; i++) { /* Testall leaves requests whole until all are done */
      int one = 0;
      if (e->requests[i] != MPI_REQUEST_NULL) MPI_Test(&e->requests[i], &one, MPI_STATUS_IGNORE);
    }
    char why[256];
    sayMissing(me, e, timeout, why, sizeof why);
    fail(transport, why);
    return slimFail(slimRemoteError, "%s", me->why);
  }
  e->n = 0;
  return slimSuccess;
}

static void poll(slimTransport* transport) {
  endpoint* me = (endpoint*)transport;
  for (int id = 0; id < slimExchanges && !me->broken; id++) {
    exchange* e = &me->exchanges[id];
    int done;
    for (int i = 0; i < e->n; i++)
      if (e->requests[i] != MPI_REQUEST_NULL) {
        MPI_Test(&e->requests[i], &done, MPI_STATUS_IGNORE);
        break; /* one test moves everything on */
      }
  }
}

static void destroy(slimTransport* transport) {
  endpoint* me = (endpoint*)transport;
  int finalized = 1;
  MPI_Finalized(&finalized);
  if (!finalized && !me->broken) MPI_Comm_free(&me->comm);
  for (int id = 0; id < slimExchanges; id++) {
    free(me->exchanges[id].requests);
    free(me->exchanges[id].peers);
  }
  free(me);
}

slimResult_t slimMpiTransport(slimTransport** transport, MPI_Comm comm) {
  int initialized = 0, finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (!initialized || finalized)
    return slimFail(slimInvalidUsage, "MPI_Init comes before slimCommInitMPI, MPI_Finalize after slimCommDestroy");
  if (comm == MPI_COMM_NULL) return slimFail(slimInvalidArgument, "the communicator is MPI_COMM_NULL");
  endpoint* me = calloc(1, sizeof *me);
  if (!me) return slimFail(slimSystemError, "out of memory for a communicator");
  MPI_Comm node;
  int code = MPI_Comm_dup(comm, &me->comm);
  if (code != MPI_SUCCESS) {
    slimResult_t result = saysMpi(me, "MPI_Comm_dup", code);
    free(me);
    return result;
  }
  MPI_Comm_set_errhandler(me->comm, MPI_ERRORS_RETURN);
  me->base = (slimTransport){
      .ranks = 1, .neighbours = 1, .begin = begin, .wait = await, .poll = poll, .fail = fail, .destroy = destroy};
  MPI_Comm_rank(me->comm, &me->base.rank);
  MPI_Comm_size(me->comm, &me->base.ranks);
  if (MPI_Comm_split_type(me->comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node) == MPI_SUCCESS) {
    MPI_Comm_size(node, &me->base.neighbours);
    MPI_Comm_free(&node);
  }
  me->crowded = me->base.neighbours > sysconf(_SC_NPROCESSORS_ONLN);
  *transport = &me->base;
  return slimSuccess;
}
