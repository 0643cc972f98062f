/* The core behind the NCCL shim (nccl_core.h): which calls are compressed, and how; docs/preload.md. */
#include "plugin/preload/nccl_core.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/cuda/driver.h"
#include "plugin/preload/channel.h"
#include "plugin/preload/log.h"
#include "plugin/preload/session.h"
#include "plugin/slimccl_transport.h"

enum { minimalBytes = 1 << 20 }; /* for comparing settings only */

/* What goes with a communicator of the program. Looked up by its handle, and counted: another thread may destroy it
 * while a call is under way. */
typedef struct entry {
  struct entry* next;
  ncclComm_t comm;
  slimChannel* channel; /* NULL: plain */
  int ranks, device, users;
  bool whole, inWave;
  uint64_t order;
  char name[128];
} entry;

/* A premultiplied sum of the program's. */
typedef struct factor {
  struct factor* next;
  ncclComm_t comm;
  ncclRedOp_t op;
  ncclDataType_t type;
  slimScalar scalar;
} factor;

static struct {
  slimNccl nccl;
  slimEnvironment environment;
  slimPolicy* policy;   /* NULL: all calls stay plain */
  bool driverless;      /* no driver that will do: the same */
  int jobRanks;         /* 0: unknown */
  int rank, ranks;      /* in the first communicator */
  pthread_mutex_t lock; /* of the lists, and of users */
  entry *entries, *graves;
  factor* factors;
  uint64_t seen; /* communicators */
} job = {.lock = PTHREAD_MUTEX_INITIALIZER};

static ncclResult_t ncclOf(slimResult_t result) {
  switch (result) {
    case slimSuccess:
      return ncclSuccess;
    case slimUnhandledCudaError:
      return ncclUnhandledCudaError;
    case slimSystemError:
      return ncclSystemError;
    case slimInvalidArgument:
      return ncclInvalidArgument;
    case slimRemoteError:
      return ncclRemoteError;
    default: /* invalid usage here is what kernels found wrong */
      return ncclInternalError;
  }
}

static ncclResult_t answer(slimResult_t result) {
  if (result != slimSuccess) slimWarn("%s", slimGetLastError());
  return ncclOf(result);
}

/* ---- Communicators ---------------------------------------------------------------------------------------------- */

static entry* take(ncclComm_t comm) {
  pthread_mutex_lock(&job.lock);
  entry* e = job.entries;
  while (e && e->comm != comm) e = e->next;
  if (e) e->users++;
  pthread_mutex_unlock(&job.lock);
  return e;
}

static void giveBack(entry* e) {
  pthread_mutex_lock(&job.lock);
  e->users--;
  pthread_mutex_unlock(&job.lock);
}

/* Frees those that are gone, and that neither a thread nor the device uses any more. Freeing memory waits for the whole
 * device, so only for the caller's own: another one may be waiting for this rank. */
static void sweep(int device) {
  entry* free_ = NULL;
  pthread_mutex_lock(&job.lock);
  for (entry** at = &job.graves; *at;) {
    entry* e = *at;
    if (e->device != device || e->users || (e->channel && slimChannelIsBusy(e->channel))) {
      at = &e->next;
      continue;
    }
    *at = e->next;
    e->next = free_;
    free_ = e;
  }
  pthread_mutex_unlock(&job.lock);
  while (free_) {
    entry* next = free_->next;
    slimChannelDestroy(free_->channel);
    free(free_);
    free_ = next;
  }
}

static void aborted(ncclComm_t comm) {
  entry* e = take(comm);
  if (e && e->channel) slimChannelAbort(e->channel);
  if (e) giveBack(e);
}

static void gone(ncclComm_t comm) {
  pthread_mutex_lock(&job.lock);
  for (entry** at = &job.entries; *at; at = &(*at)->next) {
    entry* e = *at;
    if (e->comm != comm) continue;
    if (e->channel) slimChannelStop(e->channel);
    *at = e->next;
    e->next = job.graves;
    job.graves = e;
    break;
  }
  pthread_mutex_unlock(&job.lock);
}

/* What the rules say of its kind of communicator. */
static slimPolicyCall kindOf(const entry* e) {
  return (slimPolicyCall){.ranks = e->ranks, .whole = e->whole, .order = e->order, .name = e->name};
}

static bool concerns(const entry* e) {
  const slimPolicyCall kind = kindOf(e);
  return job.policy && slimPolicyConcerns(job.policy, &kind);
}

/* Settings that all ranks must have alike. 0: this rank's are wrong. */
static uint64_t rules(void) {
  return job.policy ? (slimPolicyHash(job.policy) ^ (uint64_t)job.jobRanks * 0x9E3779B97F4A7C15u) | 1 : 0;
}

/* 0: none is given. */
static uint64_t domainOf(const char* text) {
  uint64_t h = 0;
  for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x100000001b3u | 1;
  return h;
}

/* In a group: *comm is there, and compared, after its end. */
static slimResult_t compare(entry* e, slimComm_t* comm) {
  slimTransport* transport;
  slimConfig_t config = SLIM_CONFIG_INITIALIZER;
  config.seed = job.environment.seed;
  config.timeout = job.environment.timeout;
  config.deviceBytes = concerns(e) ? job.environment.stateBytes : minimalBytes;
  config.domain = domainOf(job.environment.domain);
  config.hierarchy = concerns(e) && job.environment.hierarchy == slimPlanAuto ? slimHierarchyAuto : slimHierarchyFlat;
  const slimPreloadSettings preload = {.rules = rules(), .number = job.seen, .mirrored = *job.environment.stats};
  SLIM_CHECK(slimNcclTransport(&transport, e->comm, &job.nccl));
  return slimCommInitTransportOn(comm, transport, e->device, &config, &preload);
}

/* All ranks have the same settings. */
static void open(entry* e, slimComm_t comm) {
  e->order = comm->number;
  if (job.seen <= e->order) job.seen = e->order + 1;
  char label[sizeof e->name];
  snprintf(label, sizeof label, "%s", e->name);
  if (!*label) snprintf(label, sizeof label, "%llu", (unsigned long long)e->order);
  const slimDomains domains = comm->domains;
  const size_t bytes = comm->settings.deviceBytes;
  const bool layers = job.environment.hierarchy == slimPlanAuto;
  if (domains.kind == slimDomainsOne && layers) {
    slimLog(slimLogInfo, slimLogInit,
            "communicator %s stays plain: NVLink joins all its ranks (SLIM_HIERARCHY=flat compresses there)", label);
    slimCommDestroy(comm);
  } else if (!concerns(e)) {
    slimLog(slimLogInfo, slimLogInit,
            "communicator %s of %d ranks stays plain: no rule is for it. In SLIM_POLICY: \"ranks=%d -> SPEC\"", label,
            e->ranks, e->ranks);
    slimCommDestroy(comm);
  } else if (slimChannelCreate(&e->channel, comm, &job.environment, e->order, label, NULL, NULL) != slimSuccess) {
    slimWarn("communicator %s stays plain: %s", label, slimGetLastError());
    e->channel = NULL;
  } else if (domains.kind == slimDomainsLayered && layers) {
    slimLog(slimLogInfo, slimLogInit,
            "communicator %s: allreduce is plain in each of %d domains of %d ranks, compressed across%s", label,
            domains.count, domains.size, comm->across ? "" : ": not with this NCCL, so it is flat");
  } else if (domains.kind == slimDomainsUneven && layers) {
    slimLog(slimLogInfo, slimLogInit,
            "communicator %s: its NVLink domains have different sizes: compressed between all ranks", label);
  }
  if (e->channel && bytes < job.environment.stateBytes)
    slimLog(slimLogInfo, slimLogInit,
            "communicator %s takes %zu bytes of each device: a rank has SLIM_STATE_BYTES set so, or four times as much "
            "memory left",
            label, bytes);
}

static entry* add(const slimNcclMade* made) {
  entry* e = calloc(1, sizeof *e);
  int rank = 0;
  if (!e) return NULL;
  e->comm = made->comm;
  snprintf(e->name, sizeof e->name, "%s", made->name);
  if (!made->blocking || job.nccl.commCount(e->comm, &e->ranks) != ncclSuccess ||
      job.nccl.commUserRank(e->comm, &rank) != ncclSuccess ||
      job.nccl.commCuDevice(e->comm, &e->device) != ncclSuccess) {
    free(e);
    return NULL;
  }
  pthread_mutex_lock(&job.lock);
  if (!job.ranks) job.ranks = e->ranks, job.rank = rank;
  if (rank < job.rank) job.rank = rank; /* several devices a process */
  pthread_mutex_unlock(&job.lock);
  e->whole = job.jobRanks ? e->ranks == job.jobRanks : made->all;
  return e;
}

/* Now, since later no call may wait. */
static void measure(entry* const* entries, int n) {
  slimChannel** channels = calloc((size_t)n, sizeof *channels);
  slimPolicyCall* kinds = calloc((size_t)n, sizeof *kinds);
  for (int i = 0; i < n && channels && kinds; i++) {
    if (!entries[i]) continue;
    channels[i] = entries[i]->channel;
    kinds[i] = kindOf(entries[i]);
  }
  if (channels && kinds && job.policy) slimChannelsMeasure(channels, kinds, n, job.policy);
  free(channels);
  free(kinds);
}

static void made(const slimNcclMade* list, int n) {
  if (job.driverless) return;
  entry** entries = calloc((size_t)n, sizeof(entry*));
  slimComm_t* comms = calloc((size_t)n, sizeof *comms);
  if (!entries || !comms) {
    slimWarn("no memory for %d communicators, which stay plain; the other ranks will wait in vain", n);
    free(entries);
    free(comms);
    return;
  }
  slimGroupStart();
  for (int i = 0; i < n; i++) {
    entries[i] = add(&list[i]);
    if (entries[i]) sweep(entries[i]->device);
    if (!entries[i]) {
      slimLog(slimLogInfo, slimLogInit, "a communicator that is not blocking stays plain");
    } else if (entries[i]->ranks > 1 && compare(entries[i], &comms[i]) != slimSuccess) {
      comms[i] = NULL;
      slimWarn("a communicator of %d ranks stays plain: %s", entries[i]->ranks, slimGetLastError());
    }
  }
  if (slimGroupEnd() != slimSuccess) slimWarn("%s. The communicator stays plain", slimGetLastError());
  for (int i = 0; i < n; i++)
    if (comms[i]) open(entries[i], comms[i]);
  measure(entries, n);
  for (int i = 0; i < n; i++) {
    if (!entries[i]) continue;
    pthread_mutex_lock(&job.lock);
    entries[i]->next = job.entries;
    job.entries = entries[i];
    pthread_mutex_unlock(&job.lock);
  }
  free(entries);
  free(comms);
}

static void asyncError(ncclComm_t comm, ncclResult_t* error) {
  entry* e = take(comm);
  if (!e) return;
  if (*error == ncclSuccess && e->channel && slimChannelIsAlarmed(e->channel)) *error = ncclInternalError;
  giveBack(e);
}

/* ---- Premultiplied sums ----------------------------------------------------------------------------------------- */

static void opMade(ncclRedOp_t op, const void* scalar, ncclDataType_t type, ncclScalarResidence_t residence,
                   ncclComm_t comm) {
  const slimDataType_t own = (slimDataType_t)type;
  factor* f = (int)type >= 0 && type <= ncclBfloat16 && slimTypeIsFloat(own) ? malloc(sizeof *f) : NULL;
  if (!f) return; /* its calls stay plain */
  *f = (factor){NULL, comm, op, type, {.given = true}};
  double wide = 0;
  float narrow = 0;
  if (residence == ncclScalarDevice)
    f->scalar.there = scalar;
  else
    slimToReal(own, scalar, 1, own == slimFloat64 ? (void*)&wide : (void*)&narrow);
  f->scalar.value = own == slimFloat64 ? wide : narrow;
  pthread_mutex_lock(&job.lock);
  f->next = job.factors;
  job.factors = f;
  pthread_mutex_unlock(&job.lock);
}

static void opGone(ncclRedOp_t op, ncclComm_t comm) {
  pthread_mutex_lock(&job.lock);
  factor** at = &job.factors;
  while (*at && ((*at)->op != op || (*at)->comm != comm)) at = &(*at)->next;
  factor* f = *at;
  if (f) *at = f->next;
  pthread_mutex_unlock(&job.lock);
  free(f);
}

/* Calls keep a copy: programs destroy the operation before the group ends. */
static bool scalarOf(const slimNcclCall* m, slimScalar* scalar) {
  pthread_mutex_lock(&job.lock);
  const factor* f = job.factors;
  while (f && (f->op != m->op || f->comm != m->comm)) f = f->next;
  const bool found = f && f->type == m->type;
  if (found) *scalar = f->scalar;
  pthread_mutex_unlock(&job.lock);
  return found;
}

/* ---- Calls ------------------------------------------------------------------------------------------------------ */

typedef struct deferred {
  struct deferred* next;
  entry* to;
  slimChannelCall call;
  slimNcclCall nccl;
  bool ran;
} deferred;

static _Thread_local struct { deferred *first, **end; } group;

static bool untouched(slimReason reason) {
  slimCountForwarded(reason);
  return false;
}

static slimCollective collectiveOf(slimNcclCollective c) {
  switch (c) {
    case slimNcclAllReduce:
      return slimCollectiveAllReduce;
    case slimNcclReduceScatter:
      return slimCollectiveReduceScatter;
    case slimNcclAllGather:
      return slimCollectiveAllGather;
    case slimNcclBroadcast:
      return slimCollectiveBroadcast;
    case slimNcclReduce:
      break;
  }
  return slimCollectiveReduce;
}

/* On all ranks alike: nothing here looks at a buffer. */
static bool decide(const slimNcclCall* m, slimChannelCall* call, const entry* e) {
  slimReason reason;
  const bool parts = m->collective == slimNcclReduceScatter || m->collective == slimNcclAllGather;
  const bool reduces = m->collective != slimNcclBroadcast && m->collective != slimNcclAllGather;
  if ((int)m->type < 0 || m->type > ncclBfloat16) return untouched(slimReasonType);
  slimScalar scalar = {.given = false};
  if (reduces && (int)m->op >= (int)ncclNumOps && !scalarOf(m, &scalar)) return untouched(slimReasonOp);
  *call = (slimChannelCall){.call = kindOf(e),
                            .send = m->send,
                            .recv = m->recv,
                            .count = m->count,
                            .root = m->root,
                            .scalar = scalar,
                            .stream = m->stream};
  slimPolicyCall* p = &call->call;
  p->collective = collectiveOf(m->collective);
  p->type = (slimDataType_t)m->type;
  p->op = reduces && !scalar.given ? (slimRedOp_t)m->op : slimSum;
  p->bytes = (uint64_t)m->count * slimTypeBytes(p->type) * (uint64_t)(parts ? e->ranks : 1);
  call->action = slimPolicyFind(job.policy, p, &reason);
  if (!call->action) return untouched(reason);
  p->name = "";
  return e->channel || untouched(slimReasonShape);
}

static ncclResult_t forward(const slimNcclCall* m) {
  const slimNccl* nccl = &job.nccl;
  switch (m->collective) {
    case slimNcclAllReduce:
      return nccl->allReduce(m->send, m->recv, m->count, m->type, m->op, m->comm, m->stream);
    case slimNcclReduceScatter:
      return nccl->reduceScatter(m->send, m->recv, m->count, m->type, m->op, m->comm, m->stream);
    case slimNcclAllGather:
      return nccl->allGather(m->send, m->recv, m->count, m->type, m->comm, m->stream);
    case slimNcclBroadcast:
      return nccl->broadcast(m->send, m->recv, m->count, m->type, m->root, m->comm, m->stream);
    case slimNcclReduce:
      break;
  }
  return nccl->reduce(m->send, m->recv, m->count, m->type, m->op, m->root, m->comm, m->stream);
}

/* A call of an operation that the program may have destroyed by now. */
static ncclResult_t forwardScaled(const slimNcclCall* m, const slimScalar* scalar) {
  slimNcclCall again = *m;
  double element;
  if (m->type == ncclFloat64)
    element = scalar->value;
  else
    slimFromReal((slimDataType_t)m->type, &(float){(float)scalar->value}, 1, 1, &element);
  ncclResult_t code =
      job.nccl.redOpCreatePreMulSum(&again.op, scalar->there ? (void*)(uintptr_t)scalar->there : &element, m->type,
                                    scalar->there ? ncclScalarDevice : ncclScalarHostImmediate, m->comm);
  if (code != ncclSuccess) return code;
  code = forward(&again);
  const ncclResult_t destroyed = job.nccl.redOpDestroy(again.op, m->comm);
  return code != ncclSuccess ? code : destroyed;
}

static bool call(const slimNcclCall* m, bool inGroup, ncclResult_t* result) {
  slimChannelCall todo;
  slimReason reason;
  bool plain;
  if (!job.policy) return untouched(slimReasonDisabled);
  if (slimSessionAsked()) slimSessionReport(&job.environment, job.rank, job.ranks);
  entry* e = take(m->comm);
  if (!e) return untouched(slimReasonShape);
  if (!decide(m, &todo, e)) {
    giveBack(e);
    return false;
  }
  if (inGroup) {
    deferred* d = malloc(sizeof *d);
    *result = d ? ncclSuccess : ncclSystemError;
    if (!d) {
      giveBack(e);
      return true;
    }
    *d = (deferred){NULL, e, todo, *m, false};
    if (!group.first) group.end = &group.first;
    *group.end = d;
    group.end = &d->next;
    return true;
  }
  const slimResult_t ran = slimChannelRun(e->channel, &todo, &plain, &reason);
  if (ran == slimSuccess) slimChannelSettle(e->channel);
  giveBack(e);
  if (ran == slimSuccess && plain) return untouched(reason);
  *result = answer(ran);
  return true;
}

/* The next call of each handle of the communicator that comes first, so that a call finds those before it on their way,
 * on all ranks. Those that are not compressed after all go to the list that ends at *end. */
static slimResult_t runWave(deferred* list, deferred*** end) {
  slimReason reason;
  slimResult_t result = slimSuccess;
  slimGroupStart();
  for (deferred* d = list; d && result == slimSuccess; d = d->next) {
    if (d->ran || d->to->inWave || d->to->order != list->to->order) continue;
    bool plain;
    d->ran = d->to->inWave = true;
    result = slimChannelRun(d->to->channel, &d->call, &plain, &reason);
    if (result != slimSuccess || !plain) continue;
    slimCountForwarded(reason);
    deferred* copy = malloc(sizeof *copy);
    if (!copy) result = slimFail(slimSystemError, "no memory for a group");
    if (!copy) break;
    *copy = *d;
    copy->next = NULL;
    **end = copy;
    *end = &copy->next;
  }
  for (deferred* d = list; d; d = d->next) d->to->inWave = false;
  char why[512] = "";
  if (result != slimSuccess) snprintf(why, sizeof why, "%s", slimGetLastError());
  const slimResult_t ended = slimGroupEnd();
  return result != slimSuccess ? slimFail(result, "%s", why) : ended;
}

/* Those that are compressed after all, and then those that are not. */
static ncclResult_t runAll(deferred* list) {
  slimResult_t result = slimSuccess;
  deferred *plains = NULL, **end = &plains;
  while (list && result == slimSuccess) {
    result = runWave(list, &end);
    while (list && list->ran) list = list->next;
  }
  ncclResult_t code = answer(result);
  const bool some = plains && code == ncclSuccess;
  if (some) code = job.nccl.groupStart();
  while (plains) {
    deferred* next = plains->next;
    if (code == ncclSuccess)
      code = plains->call.scalar.given ? forwardScaled(&plains->nccl, &plains->call.scalar) : forward(&plains->nccl);
    free(plains);
    plains = next;
  }
  if (some) {
    const ncclResult_t closed = job.nccl.groupEnd();
    if (code == ncclSuccess) code = closed;
  }
  return code;
}

static ncclResult_t groupEnd(ncclResult_t ended) {
  deferred* list = group.first;
  group.first = NULL;
  if (!list) return ended;
  const bool good = ended == ncclSuccess || ended == ncclInProgress; /* of communicators that are not blocking */
  const ncclResult_t ran = good ? runAll(list) : ended;
  while (list) {
    deferred* next = list->next;
    slimChannelSettle(list->to->channel);
    giveBack(list->to);
    free(list);
    list = next;
  }
  return ran == ncclSuccess ? ended : ran;
}

/* ---- Begin and end ---------------------------------------------------------------------------------------------- */

/* How many ranks the launcher has started; 0: it does not say. */
static int launched(void) {
  static const char* const variables[] = {"WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"};
  for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
    const char* value = getenv(variables[i]);
    const int n = value ? atoi(value) : 0;
    if (n > 0) return n;
  }
  return 0;
}

/* CUDA may be gone by then, so statistics are read from the host's memory. */
static void report(void) { slimSessionReport(&job.environment, job.rank, job.ranks); }

static const slimNcclCore core = {.size = sizeof core,
                                  .made = made,
                                  .aborted = aborted,
                                  .gone = gone,
                                  .call = call,
                                  .groupEnd = groupEnd,
                                  .asyncError = asyncError,
                                  .opMade = opMade,
                                  .opGone = opGone,
                                  .markStep = slimChannelsMarkStep};

static const char* foundPath;
static int foundVersion;

static void start(void) {
  const slimEnvironment* e = &job.environment;
  job.jobRanks = launched();
  slimSessionOpen(&job.environment, &job.policy);
  slimSessionSayUnknown();
  job.driverless = slimDriverOpen() != slimDriverReady;
  if (job.driverless && job.policy) slimWarn("all calls stay plain: %s", slimGetLastError());
  slimSessionWatch(e);
  if (*e->stats) atexit(report);
  slimLog(slimLogInfo, slimLogInit, "SlimCCL %d.%d.%d before NCCL %d.%d.%d (%s): SLIM_COMPRESS=%s SLIM_POLICY=%s",
          SLIM_MAJOR, SLIM_MINOR, SLIM_PATCH, foundVersion / 10000, foundVersion / 100 % 100, foundVersion % 100,
          foundPath, *e->compress ? e->compress : "(none)", *e->policy ? e->policy : "(none)");
  if (*e->compress && !job.jobRanks)
    slimWarn(
        "neither WORLD_SIZE nor a launcher says how many ranks the job has: SLIM_COMPRESS is for communicators of "
        "ncclCommInitAll only; set WORLD_SIZE, or write rules (SLIM_POLICY)");
}

SLIM_API const slimNcclCore* slimNcclCoreOpen(const slimNccl* nccl, const char* ncclPath, int ncclVersion);
const slimNcclCore* slimNcclCoreOpen(const slimNccl* nccl, const char* ncclPath, int ncclVersion) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
  pthread_mutex_lock(&opening);
  if (!foundPath) {
    job.nccl = *nccl;
    foundPath = ncclPath ? ncclPath : "in the program";
    foundVersion = ncclVersion;
  }
  pthread_mutex_unlock(&opening);
  pthread_once(&once, start);
  return &core;
}
