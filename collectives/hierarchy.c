#include "collectives/hierarchy.h"

enum { shardAlign = 64 }; /* elements */

/* ---- Who is where ----------------------------------------------------------------------------------------------- */

static bool joined(const uint64_t* domain, int a, int b) { return a == b || (domain[a] && domain[a] == domain[b]); }

/* The lowest rank of r's domain. */
static int headOf(const uint64_t* domain, int r) {
  int head = 0;
  while (!joined(domain, head, r)) head++;
  return head;
}

slimDomains slimDomainsOf(const uint64_t* domain, int ranks, int rank) {
  slimDomains d = {0};
  const int mine = headOf(domain, rank);
  int uneven = 0;
  for (int r = 0; r < ranks; r++) {
    if (r < rank) d.place += joined(domain, r, rank);
    if (headOf(domain, r) != r) continue;
    int size = 0;
    for (int s = r; s < ranks; s++) size += joined(domain, r, s);
    if (r < mine) d.own++;
    d.count++;
    d.size = d.count == 1 ? size : d.size;
    uneven += size != d.size;
  }
  d.kind = uneven            ? slimDomainsUneven
           : d.size == 1     ? slimDomainsApart
           : d.size == ranks ? slimDomainsOne
                             : slimDomainsLayered;
  return d;
}

/* ---- Life ------------------------------------------------------------------------------------------------------- */

slimResult_t slimHierarchySplit(slimComm* comm, bool across) {
  const slimDomains* d = &comm->domains;
  slimTransport* transport = comm->transport;
  return across ? transport->split(transport, d->place, d->own, d->count, &comm->between)
                : transport->split(transport, d->own, d->place, d->size, &comm->inside);
}

slimResult_t slimHierarchyJoin(slimComm* comm) {
  slimTransport* between = comm->between;
  slimSettings settings = comm->settings;
  settings.threads = 1;
  comm->between = NULL;
  SLIM_CHECK(slimCommCreate(&comm->across, between, &settings));
  slimComm* a = comm->across;
  a->home = comm;
  a->device = comm->device;
  a->cuda = comm->cuda;
  a->clique = comm->clique;
  comm->inside->copier = between->copier = comm->transport->copier;
  return slimSuccess;
}

void slimHierarchyFree(slimComm* comm) {
  slimTransport* const transports[] = {comm->inside, comm->between};
  if (comm->across) slimCommFree(comm->across);
  for (int i = 0; i < 2; i++)
    if (transports[i]) transports[i]->destroy(transports[i]);
}

bool slimHierarchyIsAlarmed(const slimComm* comm) {
  return comm->across &&
         (comm->inside->alarmed(comm->inside) || comm->across->transport->alarmed(comm->across->transport));
}

void slimHierarchyAbort(slimComm* comm) {
  if (!comm->across) return;
  comm->inside->abort(comm->inside);
  comm->across->transport->abort(comm->across->transport);
}

/* ---- Calls ------------------------------------------------------------------------------------------------------ */

uint64_t slimShardElements(const slimComm* home, uint64_t count) {
  return count / ((uint64_t)home->domains.size * shardAlign) * shardAlign;
}

slimComm* slimHierarchyRoute(slimComm* home, slimCollective collective, uint64_t count) {
  return home->across && collective == slimCollectiveAllReduce && slimShardElements(home, count) ? home->across : home;
}

uint64_t slimShardFirst(const slimComm* comm, uint64_t shard, uint32_t unit) {
  if (!comm->home || comm->home == comm) return 0;
  return (uint64_t)comm->home->domains.place * ((shard + unit - 1) / unit * unit);
}

slimResult_t slimHierarchySum(slimCall* call) {
  const slimComm* home = call->comm->home;
  const uint64_t shard = call->count, cut = shard * (uint64_t)home->domains.size;
  void* own = slimAtMutable(call->y, call->type, shard * (uint64_t)home->domains.place);
  SLIM_CHECK(
      home->inside->plain(home->inside, slimCollectiveReduceScatter, call->x, own, shard, call->type, call->op, -1));
  if (cut < call->whole)
    SLIM_CHECK(home->transport->plain(home->transport, slimCollectiveAllReduce, slimAt(call->x, call->type, cut),
                                      slimAtMutable(call->y, call->type, cut), call->whole - cut, call->type, call->op,
                                      -1));
  call->x = call->y = own;
  return slimSuccess;
}

slimResult_t slimHierarchyGather(slimCall* call) {
  const slimComm* home = call->comm->home;
  const uint64_t before = call->count * (uint64_t)home->domains.place;
  void* y = (char*)call->y - before * slimTypeBytes(call->type);
  return home->inside->plain(home->inside, slimCollectiveAllGather, call->x, y, call->count, call->type, call->op, -1);
}
