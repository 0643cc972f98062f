#include "collectives/hierarchy.h"
#include "collectives/operation.h"
#include "collectives/ranges.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SLIM_RECORD_MAGIC = 0x434d4c53 /* "SLMC" */, SLIM_RECORD_VERSION = 2, agreeExchange = 0 };

double slimSeconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void* slimAlignedAlloc(size_t bytes) {
  if (bytes > SIZE_MAX - 128) return NULL;
  bytes = slimAlign64(bytes ? bytes : 1);
  void* p = aligned_alloc(64, bytes);
  if (p) memset(p, 0, bytes);
  return p;
}

const char* slimCollectiveName(int collective) {
  static const char* const names[] = {"?", "allreduce", "broadcast", "reduce", "reduce-scatter", "all-gather"};
  return collective > 0 && collective <= slimCollectiveAllGather ? names[collective] : names[0];
}

const char* slimAlgorithmName(slimAlgorithm algorithm) {
  static const char* const names[] = {"auto", "two-shot", "one-shot", "linear"};
  return names[algorithm];
}

slimResult_t slimCommCreate(slimComm** comm, slimTransport* transport, const slimSettings* settings) {
  slimComm* c = calloc(1, sizeof *c);
  if (!c) {
    transport->destroy(transport);
    return slimFail(slimSystemError, "out of memory for a communicator");
  }
  c->transport = transport;
  c->home = c;
  c->device = &slimHost;
  c->rank = transport->rank;
  c->ranks = transport->ranks;
  c->settings = *settings;
  c->clique = (uint64_t)(uintptr_t)c;
  const size_t n = (size_t)c->ranks;
  c->lanes = calloc(n, sizeof *c->lanes);
  c->records = calloc(n + 1, sizeof *c->records);
  c->payloads = calloc(n, sizeof *c->payloads);
  slimResult_t result = slimSuccess;
  if (!c->lanes || !c->records || !c->payloads)
    result = slimFail(slimSystemError, "out of memory for a communicator of %d ranks", c->ranks);
  if (result == slimSuccess && settings->threads > 1) result = slimPoolCreate(&c->pool, settings->threads);
  if (result != slimSuccess) {
    slimCommFree(c);
    return result;
  }
  *comm = c;
  return slimSuccess;
}

void slimCommFree(slimComm* comm) {
  if (comm->pool) slimPoolDestroy(comm->pool);
  if (comm->home == comm) comm->device->close(comm);
  slimHierarchyFree(comm);
  comm->transport->destroy(comm->transport);
  free(comm->lanes);
  free(comm->records);
  free(comm->payloads);
  free(comm);
}

static slimResult_t remember(slimComm* comm, slimResult_t result) {
  if (result == slimSuccess || comm->broken) return result;
  comm->broken = true;
  snprintf(comm->why, sizeof comm->why, "%s", slimLastMessage());
  return result;
}

slimResult_t slimBegin(slimComm* comm, int id) {
  SLIM_RANGE("exchange");
  if (comm->broken) return slimFail(slimRemoteError, "this communicator failed earlier: %s", comm->why);
  const double start = slimSeconds();
  for (int p = 0; p < comm->ranks; p++)
    if (p != comm->rank) comm->sentBytes += comm->lanes[p].sendBytes;
  slimResult_t result = comm->ranks > 1 || comm->transport->copier
                            ? comm->transport->begin(comm->transport, id, comm->lanes)
                            : slimSuccess;
  memset(comm->lanes, 0, sizeof *comm->lanes * (size_t)comm->ranks);
  comm->waitSeconds += slimSeconds() - start;
  return remember(comm, result);
}

slimResult_t slimWait(slimComm* comm, int id) {
  SLIM_RANGE("exchange");
  if (comm->broken) return slimFail(slimRemoteError, "this communicator failed earlier: %s", comm->why);
  const double start = slimSeconds();
  slimResult_t result =
      comm->ranks > 1 ? comm->transport->wait(comm->transport, id, comm->settings.timeout) : slimSuccess;
  comm->waitSeconds += slimSeconds() - start;
  return remember(comm, result);
}

slimResult_t slimBreak(slimComm* comm, slimResult_t result) {
  if (result == slimSuccess || comm->broken) return result;
  char why[sizeof comm->why];
  snprintf(why, sizeof why, "rank %d: %s", comm->rank, slimLastMessage());
  comm->broken = true;
  memcpy(comm->why, why, sizeof why);
  comm->transport->fail(comm->transport, why);
  return slimFail(result, "%s", why);
}

typedef struct {
  size_t at, bytes;
} part;

static part partOf(int ranks, size_t bytes, int rank) {
  const size_t each = slimAlign64(bytes / (size_t)ranks + 1), from = each * (size_t)rank;
  if (from >= bytes) return (part){bytes, 0};
  return (part){from, bytes - from < each ? bytes - from : each};
}

void slimSpreadFirst(slimComm* comm, int root, uint8_t* data, size_t bytes) {
  const part own = partOf(comm->ranks, bytes, comm->rank);
  for (int p = 0; p < comm->ranks; p++) {
    const part theirs = partOf(comm->ranks, bytes, p);
    if (comm->rank == root) comm->lanes[p] = (slimLane){data + theirs.at, theirs.bytes, NULL, 0};
  }
  if (comm->rank != root) comm->lanes[root] = (slimLane){NULL, 0, data + own.at, own.bytes};
}

void slimSpreadSecond(slimComm* comm, int root, uint8_t* data, size_t bytes) {
  const part own = partOf(comm->ranks, bytes, comm->rank);
  for (int p = 0; p < comm->ranks; p++) {
    const part theirs = partOf(comm->ranks, bytes, p);
    comm->lanes[p] =
        (slimLane){data + own.at, p == root ? 0 : own.bytes, data + theirs.at, comm->rank == root ? 0 : theirs.bytes};
  }
}

/* The fields in which all ranks must agree, in the order in which differences are reported. */
static const struct {
  const char* name;
  size_t at, bytes;
} fields[] = {
#define FIELD(name, member) \
  { name, offsetof(slimCallRecord, member), sizeof((slimCallRecord){0}.member) }
    FIELD("message format", magic),
    FIELD("library version", version),
    FIELD("collective", collective),
    FIELD("tensor slot", slot),
    FIELD("element count", count),
    FIELD("data type", type),
    FIELD("op", op),
    FIELD("root", root),
    FIELD("seed", seed),
    FIELD("algorithm", algorithm),
    FIELD("spec", hash),
    FIELD("step", step),
    FIELD("slice", slice),
    FIELD("number of slimTensorSetShift calls", shifts),
    FIELD("lambda (slimTensorSetLambda)", lambda),
    FIELD("hierarchy", hierarchy),
#undef FIELD
};

static uint64_t fieldOf(const slimCallRecord* record, size_t field) {
  uint64_t wide = 0;
  uint32_t narrow = 0;
  if (fields[field].bytes == sizeof wide) {
    memcpy(&wide, (const char*)record + fields[field].at, sizeof wide);
    return wide;
  }
  memcpy(&narrow, (const char*)record + fields[field].at, sizeof narrow);
  return narrow;
}

static void sayValue(const slimCallRecord* record, size_t field, char* text, size_t bytes) {
  const uint64_t value = fieldOf(record, field);
  const char* name = fields[field].name;
  if (!strcmp(name, "collective"))
    snprintf(text, bytes, "%s", slimCollectiveName((int)value));
  else if (!strcmp(name, "data type"))
    snprintf(text, bytes, "%s", slimTypeName((slimDataType_t)value));
  else if (!strcmp(name, "spec"))
    snprintf(text, bytes, "hash %016" PRIx64, value);
  else if (!strcmp(name, "root") || !strcmp(name, "tensor slot"))
    snprintf(text, bytes, "%d", (int)value); /* −1: none */
  else if (!strncmp(name, "lambda", 6))
    snprintf(text, bytes, "%.9g", record->lambda);
  else
    snprintf(text, bytes, "%" PRIu64, value);
}

/* "ranks 1, 3": those whose record satisfies differs. */
static void sayRanks(const slimCallRecord* records, int ranks, int field, char* text, size_t bytes) {
  int found = 0;
  size_t at = 0;
  text[0] = 0;
  for (int r = 0; r < ranks && at < bytes; r++) {
    const bool named = field < 0 ? records[r].result != slimSuccess
                                 : fieldOf(&records[r], (size_t)field) != fieldOf(&records[0], (size_t)field);
    if (!named) continue;
    at += (size_t)snprintf(text + at, bytes - at, found++ ? ", %d" : "%d", r);
  }
}

/* comm->records are all ranks': they must be equal. */
static slimResult_t compareRecords(const slimComm* comm) {
  const slimCallRecord* records = comm->records;
  char who[128], theirs[64], ours[64], call[128] = "";
  const char *right = "be made with the same settings", *name;
  for (size_t f = 0; f < sizeof fields / sizeof *fields; f++) {
    sayRanks(records, comm->ranks, (int)f, who, sizeof who);
    if (!who[0]) continue;
    int other = 0;
    while (fieldOf(&records[other], f) == fieldOf(&records[0], f)) other++;
    sayValue(&records[other], f, theirs, sizeof theirs);
    sayValue(&records[0], f, ours, sizeof ours);
    name = fields[f].name;
    if (!records[0].collective && !strcmp(name, "spec")) name = "rules and SLIM_* settings";
    if (records[0].collective) {
      snprintf(call, sizeof call, " (rank 0: %s, slot %d, step %" PRIu64 ")",
               slimCollectiveName((int)records[0].collective), (int)records[0].slot, records[0].step);
      right = "make the same calls in the same order";
    }
    return slimFail(slimInvalidUsage, "ranks disagree about the %s: rank %s has %s, rank 0 has %s%s; all ranks must %s",
                    name, who, theirs, ours, call, right);
  }
  return slimSuccess;
}

slimResult_t slimAgreeBegin(slimComm* comm, const slimCallRecord* mine) {
  slimCallRecord* own = &comm->records[comm->ranks];
  *own = *mine;
  own->magic = SLIM_RECORD_MAGIC;
  own->version = SLIM_RECORD_VERSION;
  own->seed = comm->settings.seed;
  for (int p = 0; p < comm->ranks; p++) comm->lanes[p] = (slimLane){own, sizeof *own, &comm->records[p], sizeof *own};
  return slimBegin(comm, agreeExchange);
}

slimResult_t slimAgreeEnd(slimComm* comm, const slimCallRecord* mine, const char* reason, bool* finite) {
  const int ranks = comm->ranks;
  SLIM_CHECK(slimWait(comm, agreeExchange));
  const slimCallRecord* records = comm->records;
  comm->records[comm->rank] = comm->records[ranks];
  if (mine->result != slimSuccess) return slimFail((slimResult_t)mine->result, "%s", reason);
  char who[128];
  sayRanks(records, ranks, -1, who, sizeof who);
  if (who[0])
    return slimFail(slimRemoteError, "no rank made this %s: rank %s could not (its own message says why)",
                    slimCollectiveName((int)mine->collective), who);
  SLIM_CHECK(compareRecords(comm));
  if (finite) {
    *finite = true;
    for (int r = 0; r < ranks; r++) *finite = *finite && records[r].finite;
  }
  return slimSuccess;
}

/* ---- Comparison of settings ------------------------------------------------------------------------------------- */

typedef struct {
  slimCallRecord settings;
  uint64_t clique, number, domain, deviceBytes;
} introduction;

/* What no other communicator, here or elsewhere, is likely to have. */
static uint64_t cliqueOf(const slimComm* comm) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  uint64_t h = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
  h ^= (uint64_t)(uintptr_t)comm << 20 ^ (uint64_t)getpid() << 44;
  return h * 0x9E3779B97F4A7C15u | 1;
}

static slimResult_t introduce(slimComparison* c) {
  slimComm* comm = c->base.comm;
  const size_t ranks = (size_t)comm->ranks;
  const introduction mine = {.settings = {.magic = SLIM_RECORD_MAGIC,
                                          .version = SLIM_RECORD_VERSION,
                                          .algorithm = (uint32_t)comm->settings.algorithm,
                                          .slice = comm->settings.sliceBytes,
                                          .hash = comm->settings.rules,
                                          .seed = comm->settings.seed,
                                          .hierarchy = comm->settings.hierarchy && comm->transport->split},
                             .clique = cliqueOf(comm),
                             .number = comm->number,
                             .domain = comm->settings.domain ? comm->settings.domain : comm->device->domain(comm),
                             .deviceBytes = comm->settings.deviceBytes};
  introduction* there = comm->device->alloc(comm, (ranks + 1) * sizeof *there);
  if (!there) return slimSystemError;
  c->there = there;
  SLIM_CHECK(comm->device->write(comm, there + ranks, &mine, sizeof mine));
  for (size_t p = 0; p < ranks; p++)
    comm->lanes[p] = (slimLane){there + ranks, sizeof *there, there + p, sizeof *there};
  return slimBegin(comm, agreeExchange);
}

static slimResult_t compare(slimComparison* c) {
  slimComm* comm = c->base.comm;
  const size_t ranks = (size_t)comm->ranks;
  introduction* all = malloc(ranks * sizeof *all);
  uint64_t* domain = malloc(ranks * sizeof *domain);
  slimResult_t result = all && domain ? slimSuccess : slimFail(slimSystemError, "out of memory for a communicator");
  if (result == slimSuccess) result = slimWait(comm, agreeExchange);
  if (result == slimSuccess) result = comm->device->idle(comm, comm->settings.timeout);
  if (result == slimSuccess) result = comm->device->read(comm, all, c->there, ranks * sizeof *all);
  uint64_t bytes = comm->settings.deviceBytes;
  for (size_t r = 0; r < ranks && result == slimSuccess; r++) {
    domain[r] = all[r].domain;
    comm->records[r] = all[r].settings;
    bytes = all[r].deviceBytes < bytes ? all[r].deviceBytes : bytes;
    comm->number = all[r].number > comm->number ? all[r].number : comm->number;
  }
  if (result == slimSuccess) {
    comm->clique = all[0].clique;
    comm->domains = slimDomainsOf(domain, comm->ranks, comm->rank);
  }
  free(all);
  free(domain);
  if (result == slimSuccess) comm->device->release(comm, c->there);
  if (result == slimSuccess) result = compareRecords(comm);
  if (result == slimSuccess) comm->device->limit(comm, comm->settings.deviceBytes = bytes);
  return result;
}

static slimResult_t advance(slimOperation* operation, bool* done) {
  slimComparison* c = (slimComparison*)operation;
  slimComm* comm = operation->comm;
  switch (c->turn++) {
    case 0:
      return introduce(c);
    case 1:
      SLIM_CHECK(compare(c));
      *done = comm->domains.kind != slimDomainsLayered || !comm->records[comm->rank].hierarchy;
      return *done ? slimSuccess : slimHierarchySplit(comm, false);
    case 2: /* one split at a time: both talk through the same communicator */
      return slimHierarchySplit(comm, true);
    default:
      *done = true;
      return slimHierarchyJoin(comm);
  }
}

static void end(slimOperation* operation) {
  slimComparison* c = (slimComparison*)operation;
  if (operation->result == slimSuccess) return;
  slimCommFree(operation->comm);
  *c->made = NULL;
}

void slimComparisonPrepare(slimComparison* c, slimComm** made) {
  (*made)->clique = 0; /* new ones belong together, until it is known */
  *c = (slimComparison){.base = {.comm = *made, .own = true, .advance = advance, .end = end}, .made = made};
}
