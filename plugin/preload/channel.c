#include "plugin/preload/channel.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "collectives/ballot.h"
#include "collectives/hierarchy.h"
#include "plugin/group.h"
#include "plugin/preload/cycle.h"
#include "plugin/preload/log.h"

/* ballotCalls: at least so many calls lie between two ballots, and between a ballot and its reading. patience: seconds
 * that statistics wait for calls under way, which may themselves wait for this thread's next call. */
enum { mostStateless = 1024, ballotCalls = 16, patience = 1 };

/* A tensor without state, for all calls that look alike. */
typedef struct {
  uint64_t key;
  slimTensor_t tensor;
} stateless;

/* What auto measured for a spec. */
typedef struct {
  const char* spec; /* an action's, without feedback */
  slimAutoModel model;
} measurement;

struct slimChannel {
  slimComm_t comm;
  uint64_t order;
  char name[128];
  pthread_mutex_t lock; /* from slimChannelRun to slimChannelSettle, since other threads look (slimChannelsVisit) */
  bool held;            /* by the thread whose calls these are */
  slimCycle cycle;
  slimTensor_t* places; /* of the cycle; NULL where not yet visited */
  uint64_t numPlaces;
  uint64_t room, taken; /* bytes for their state in host memory, by the rank that keeps most */
  stateless* bare;
  int numBare;
  slimTensor_t* captured; /* of calls that a graph has captured: each has its own, since each replay is a step */
  int numCaptured;
  slimTensor_t* garbage; /* state that is void, until slimChannelSettle */
  int numGarbage;
  uint32_t slots; /* given away so far */
  slimTensor_t denial;
  /* Where ranks do not agree before each call: */
  bool asynchronous;
  enum { noBallot, ballotOfPeriods, ballotOfDenials } ballot; /* under way */
  uint64_t ballotAt;                                          /* the call that it was cast before */
  uint32_t denials;                                           /* by this rank, since the last one */
  bool full;                                                  /* there was no room for some state */
  slimPlainSum plain;
  void* context; /* of plain */
  measurement* measurements;
  int numMeasurements;
  uint64_t calls;
  struct slimChannel* next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the list */
static slimChannel* channels;
static uint64_t forwarded[slimNumReasons];
static uint64_t marks;
static slimTotals gone; /* of tensors that are no more; taking a lock could wait for who waits for this call */

void slimChannelsMarkStep(void) { __atomic_add_fetch(&marks, 1, __ATOMIC_RELAXED); }
void slimCountForwarded(slimReason reason) {
  slimLog(slimLogInfo, slimLogColl, "a call is handed on: %s", slimReasonText(reason));
  __atomic_add_fetch(&forwarded[reason], 1, __ATOMIC_RELAXED);
}

/* ---- Tensors ---------------------------------------------------------------------------------------------------- */

static uint64_t numTensors(const slimChannel* c) {
  return c->numPlaces + (uint64_t)c->numBare + (uint64_t)c->numCaptured;
}
/* The i-th of them, and its place: −1 without state, −2 in a graph. NULL: an empty place. */
static slimTensor_t tensorAt(const slimChannel* c, uint64_t i, int64_t* place) {
  if (i < c->numPlaces) return *place = (int64_t)i, c->places[i];
  i -= c->numPlaces;
  if (i < (uint64_t)c->numBare) return *place = -1, c->bare[i].tensor;
  return *place = -2, c->captured[i - (uint64_t)c->numBare];
}

/* What a tensor did, before it goes. */
static void addTotals(slimTensor_t tensor) {
  __atomic_add_fetch(&gone.calls, tensor->calls, __ATOMIC_RELAXED);
  __atomic_add_fetch(&gone.plainBytes, (uint64_t)tensor->plainBytes, __ATOMIC_RELAXED);
  __atomic_add_fetch(&gone.wireBytes, tensor->wireBytes, __ATOMIC_RELAXED);
}

/* The same of all that c has. */
static void keepTotals(slimChannel* c) {
  int64_t place;
  for (uint64_t i = 0; i < numTensors(c); i++) {
    slimTensor_t tensor = tensorAt(c, i, &place);
    if (tensor) addTotals(tensor);
  }
}

/* Appends tensor to a list of n. */
static slimResult_t append(slimTensor_t** list, int* n, slimTensor_t tensor) {
  slimTensor_t* grown = realloc(*list, (size_t)(*n + 1) * sizeof(slimTensor_t));
  if (!grown) return slimFail(slimSystemError, "no memory for a tensor");
  *list = grown;
  grown[(*n)++] = tensor;
  return slimSuccess;
}

/* All state is void. Calls that are kept for the end of a group may still need the tensors. What graphs have captured
 * is theirs. */
static slimResult_t dropState(slimChannel* c) {
  const int captured = c->numCaptured;
  slimResult_t result = slimSuccess;
  int64_t place;
  c->numCaptured = 0;
  keepTotals(c);
  for (uint64_t i = 0; i < numTensors(c) && result == slimSuccess; i++) {
    const slimTensor_t tensor = tensorAt(c, i, &place);
    if (tensor) result = append(&c->garbage, &c->numGarbage, tensor);
  }
  free(c->places);
  c->places = NULL;
  c->numPlaces = 0;
  c->taken = 0;
  c->numBare = 0;
  c->numCaptured = captured;
  c->full = false;
  return result;
}

static void hold(slimChannel* c) {
  if (!c->held) pthread_mutex_lock(&c->lock);
  c->held = true;
}
static void letGo(slimChannel* c) {
  if (!c->held) return;
  c->held = false;
  pthread_mutex_unlock(&c->lock);
}

void slimChannelSettle(slimChannel* c) {
  hold(c);
  for (int i = 0; i < c->numGarbage; i++) slimTensorDestroy(c->garbage[i]);
  c->numGarbage = 0;
  letGo(c);
}

void slimChannelStop(slimChannel* c) { __atomic_store_n(&c->comm->ballot.over, true, __ATOMIC_RELAXED); }
bool slimChannelIsBusy(const slimChannel* c) { return c->asynchronous && c->comm->device->busy(c->comm); }
void slimChannelAbort(slimChannel* c) { slimHierarchyAbort(c->comm); }
bool slimChannelIsAlarmed(const slimChannel* c) {
  return c->comm->device->alarmed(c->comm) || slimHierarchyIsAlarmed(c->comm);
}

slimResult_t slimChannelCreate(slimChannel** out, slimComm_t comm, const slimEnvironment* e, uint64_t order,
                               const char* name, slimPlainSum plain, void* context) {
  slimChannel* c = calloc(1, sizeof *c);
  *out = c;
  if (!c) {
    slimCommDestroy(comm);
    return slimFail(slimSystemError, "no memory for a communicator");
  }
  c->comm = comm;
  c->order = order;
  snprintf(c->name, sizeof c->name, "%s", name);
  c->cycle.given = e->cycle;
  c->room = e->stateBytes;
  c->plain = plain;
  c->context = context;
  c->asynchronous = !comm->device->readable;
  pthread_mutex_init(&c->lock, NULL);
  pthread_mutex_lock(&lock);
  c->next = channels;
  channels = c;
  pthread_mutex_unlock(&lock);
  return slimSuccess;
}

void slimChannelDestroy(slimChannel* c) {
  if (!c) return;
  pthread_mutex_lock(&lock);
  for (slimChannel** at = &channels; *at; at = &(*at)->next)
    if (*at == c) {
      *at = c->next;
      break;
    }
  pthread_mutex_unlock(&lock);
  keepTotals(c);
  free(c->places);
  free(c->bare);
  free(c->captured);
  free(c->garbage);
  free(c->measurements);
  pthread_mutex_destroy(&c->lock);
  slimCommDestroy(c->comm); /* with its tensors */
  free(c);
}

uint64_t slimChannelOrder(const slimChannel* c) { return c->order; }

/* ---- auto ------------------------------------------------------------------------------------------------------- */

static const slimAutoModel* modelOf(const slimChannel* c, const char* spec) {
  for (int i = 0; i < c->numMeasurements; i++)
    if (!strcmp(c->measurements[i].spec, spec)) return &c->measurements[i].model;
  return NULL;
}

/* The way that auto chose for call's size; slimAutoPlain also where it has nothing to choose. */
static int wayOf(const slimChannel* c, const slimChannelCall* call) {
  const slimPolicyAction* action = call->action;
  const slimAutoModel* model = action->measured ? modelOf(c, action->spec[slimSpecStateless]) : NULL;
  const slimPolicyCall* p = &call->call;
  return model ? slimAutoChoose(model, p->type, p->bytes / slimTypeBytes(p->type)) : slimAutoPlain;
}

static void keep(slimChannel* c, const slimAutoJob* job) {
  char text[512];
  measurement* grown = realloc(c->measurements, (size_t)(c->numMeasurements + 1) * sizeof *grown);
  if (!grown) return slimWarn("communicator %s: no memory for what auto measured: %s stays plain", c->name, job->spec);
  c->measurements = grown;
  grown[c->numMeasurements++] = (measurement){job->spec, job->model};
  slimAutoDescribe(&job->model, text, sizeof text);
  bool some = false;
  for (int way = slimAutoPlain + 1; way < slimAutoWays; way++) some |= job->model.line[way].possible;
  if (some && job->model.line[slimAutoPlain].possible)
    slimLog(slimLogInfo, slimLogTuning, "communicator %s: auto(%s): %s", c->name, job->spec, text);
  else
    slimWarn("communicator %s: auto(%s) stays plain, since it could not be measured: %s", c->name, job->spec, job->why);
}

void slimChannelsMeasure(slimChannel* const* channels, const slimPolicyCall* kinds, int n, const slimPolicy* policy) {
  slimAutoJob* jobs = calloc((size_t)n, sizeof *jobs);
  slimChannel** whose = calloc((size_t)n, sizeof *whose);
  for (int rule = 0; jobs && whose && rule < slimPolicyRules(policy); rule++) {
    int count = 0;
    for (int i = 0; i < n; i++) {
      slimChannel* c = channels[i];
      const slimPolicyAction* action = c ? slimPolicyMeasured(policy, rule, &kinds[i]) : NULL;
      if (!action || modelOf(c, action->spec[slimSpecStateless])) continue;
      jobs[count] = (slimAutoJob){.comm = c->comm, .spec = action->spec[slimSpecStateless], .slot = c->slots++};
      whose[count++] = c;
    }
    if (count) slimAutoMeasure(jobs, count);
    for (int i = 0; i < count; i++) keep(whose[i], &jobs[i]);
  }
  if (!jobs || !whose) slimWarn("no memory to measure %d communicators: auto stays plain", n);
  free(jobs);
  free(whose);
}

/* Where ranks may wait for each other in a call, its first one is early enough. */
static void measureNow(slimChannel* c, const char* spec) {
  slimAutoJob job = {.comm = c->comm, .spec = spec, .slot = c->slots++, .plain = c->plain, .context = c->context};
  slimAutoMeasure(&job, 1);
  keep(c, &job);
}

/* ---- A call's tensor -------------------------------------------------------------------------------------------- */

static const char* specOf(const slimChannelCall* call, int part) {
  const slimCollective c = call->call.collective;
  const bool both = c == slimCollectiveAllReduce || c == slimCollectiveReduce;
  return call->action->spec[part | (both ? 0 : slimSpecOneWay)];
}

static int rootOf(const slimChannelCall* call) {
  const slimCollective c = call->call.collective;
  return c == slimCollectiveBroadcast || c == slimCollectiveReduce ? call->root : -1;
}

static void sayFull(slimChannel* c, const char* why) {
  if (!c->full)
    slimWarn(
        "communicator %s: %s: compressing without feedback, or not at all where the codec is biased. Set a larger "
        "SLIM_STATE_BYTES",
        c->name, why);
  c->full = true;
}

static slimResult_t openTensor(slimChannel* c, const slimChannelCall* call, const char* spec, slimTensor_t* tensor) {
  SLIM_CHECK(slimTensorCreate(tensor, c->comm, spec, c->slots));
  c->slots++;
  (*tensor)->asked = (slimAlgorithm)wayOf(c, call);
  return slimSuccess;
}

/* Whether the device has room for tensor's state: the same on all ranks. Where it has not, the tensor is gone. */
static slimResult_t reserve(slimChannel* c, const slimChannelCall* call, slimTensor_t* tensor) {
  const slimPolicyCall* p = &call->call;
  if (!c->asynchronous) return slimSuccess;
  slimCall step = {.base = {.stream = call->stream},
                   .tensor = *tensor,
                   .collective = p->collective,
                   .x = call->send,
                   .y = call->recv,
                   .count = call->count,
                   .type = p->type,
                   .op = p->op,
                   .root = rootOf(call)};
  slimStepPrepare(&step);
  const slimResult_t result = slimStepReserve(&step);
  if (result != slimSystemError) return result;
  sayFull(c, slimGetLastError());
  slimTensorDestroy(*tensor);
  *tensor = NULL;
  return slimSuccess;
}

/* The same in host memory, where the tensor is still a place of the cycle: ranks that see another buffer than its must
 * find the others at it. */
static slimResult_t reserveOnHost(slimChannel* c, const slimChannelCall* call, slimTensor_t* tensor) {
  const slimPolicyCall* p = &call->call;
  char why[256];
  if (slimTensorFix(*tensor, p->collective, p->type, call->count, rootOf(call)) != slimSuccess)
    return slimSuccess; /* the call will say why */
  const uint64_t bytes = slimTensorMostStateBytes(*tensor);
  if (bytes <= c->room && c->taken <= c->room - bytes) return c->taken += bytes, slimSuccess;
  snprintf(why, sizeof why, "no room for the state of slot %u (%s): %llu bytes beside %llu", (*tensor)->slot,
           slimTensorSpec(*tensor), (unsigned long long)bytes, (unsigned long long)c->taken);
  sayFull(c, why);
  slimTensorDestroy(*tensor);
  *tensor = NULL;
  return openTensor(c, call, call->action->biased ? "fp32" : specOf(call, slimSpecStateless), tensor);
}

/* *tensor NULL: there is no room. */
static slimResult_t bareTensor(slimChannel* c, const slimChannelCall* call, uint64_t key, slimTensor_t* tensor) {
  for (int i = 0; i < c->numBare; i++)
    if (c->bare[i].key == key) return *tensor = c->bare[i].tensor, slimSuccess;
  if (c->numBare == mostStateless)
    return slimFail(slimInvalidUsage, "more than %d kinds of compressed calls on a communicator", mostStateless);
  stateless* grown = realloc(c->bare, (size_t)(c->numBare + 1) * sizeof *grown);
  if (!grown) return slimFail(slimSystemError, "no memory for a tensor");
  c->bare = grown;
  SLIM_CHECK(openTensor(c, call, specOf(call, slimSpecStateless), tensor));
  SLIM_CHECK(reserve(c, call, tensor));
  c->bare[c->numBare++] = (stateless){key, *tensor};
  return slimSuccess;
}

static slimResult_t statefulTensor(slimChannel* c, const slimChannelCall* call, slimTensor_t* tensor) {
  SLIM_CHECK(openTensor(c, call, specOf(call, slimSpecFull), tensor));
  return c->asynchronous ? reserve(c, call, tensor) : reserveOnHost(c, call, tensor);
}

/* *tensor NULL: there is no room. */
static slimResult_t placeTensor(slimChannel* c, const slimChannelCall* call, uint64_t place, slimTensor_t* tensor) {
  if (place >= c->numPlaces) {
    slimTensor_t* grown = realloc(c->places, (place + 1) * sizeof *grown);
    if (!grown) return slimFail(slimSystemError, "no memory for a tensor");
    memset(grown + c->numPlaces, 0, (place + 1 - c->numPlaces) * sizeof *grown);
    c->places = grown;
    c->numPlaces = place + 1;
  }
  if (!c->places[place]) SLIM_CHECK(statefulTensor(c, call, &c->places[place]));
  *tensor = c->places[place];
  return slimSuccess;
}

/* Tensors whose graph has ended, and with it their memory, which the device freed. */
static void dropEnded(slimChannel* c) {
  int kept = 0;
  for (int i = 0; i < c->numCaptured; i++) {
    const slimTensor_t tensor = c->captured[i];
    if (tensor->started) {
      c->captured[kept++] = tensor;
      continue;
    }
    addTotals(tensor);
    slimTensorClose(tensor);
  }
  c->numCaptured = kept;
}

static slimResult_t capturedTensor(slimChannel* c, const slimChannelCall* call, slimTensor_t* tensor) {
  SLIM_CHECK(openTensor(c, call, specOf(call, slimSpecFull), tensor));
  (*tensor)->ofGraph = true;
  SLIM_CHECK(reserve(c, call, tensor));
  dropEnded(c);
  return *tensor ? append(&c->captured, &c->numCaptured, *tensor) : slimSuccess;
}

/* ---- Calls ------------------------------------------------------------------------------------------------------ */

static uint64_t mix(uint64_t h, uint64_t x) { return (h ^ x) * 0x9E3779B97F4A7C15u ^ (h >> 29); }
static uint64_t keyOf(const slimChannelCall* call) {
  uint64_t h = mix(1, (uint64_t)call->call.collective);
  h = mix(h, (uint64_t)call->call.type);
  h = mix(h, (uint64_t)call->call.op);
  h = mix(h, call->count);
  return mix(h, (uint64_t)(uint32_t)call->root);
}

static slimResult_t run(slimChannel* c, const slimChannelCall* call, slimTensor_t tensor) {
  const slimPolicyCall* p = &call->call;
  const bool rooted = p->collective == slimCollectiveReduce || p->collective == slimCollectiveBroadcast;
  slimLog(slimLogInfo, slimLogColl, "communicator %s: %s of %zu %s, slot %u: %s", c->name,
          slimCollectiveName((int)p->collective), call->count, slimTypeName(p->type),
          tensor ? tensor->slot : UINT32_MAX, tensor ? slimTensorSpec(tensor) : "plain");
  return slimCollectiveScaled(p->collective, call->send, call->recv, call->count, p->type, p->op,
                              rooted ? call->root : -1, call->scalar, tensor, c->comm, call->stream);
}

slimResult_t slimChannelRunPlain(slimChannel* c, const slimChannelCall* call) { return run(c, call, NULL); }

/* All ranks compare the periods that they see. */
static slimResult_t learn(slimChannel* c) {
  int ranks;
  SLIM_CHECK(slimCommCount(c->comm, &ranks));
  uint64_t mine = slimCyclePropose(&c->cycle);
  uint64_t* all = malloc((size_t)ranks * sizeof *all);
  if (!all) return slimFail(slimSystemError, "no memory for %d proposals", ranks);
  slimResult_t result = slimAllGather(&mine, all, 1, slimUint64, NULL, c->comm, NULL);
  bool equal = mine > 0;
  for (int r = 0; r < ranks && result == slimSuccess; r++) equal &= all[r] == mine;
  free(all);
  if (result != slimSuccess) return result;
  if (equal) {
    slimCycleCommit(&c->cycle, mine);
    slimLog(slimLogInfo, slimLogCycle, "communicator %s: its calls repeat every %llu: error feedback starts", c->name,
            (unsigned long long)mine);
  }
  return slimSuccess;
}

static void sayBroken(const slimChannel* c) {
  if (c->cycle.breaks < SLIM_CYCLE_BREAKS)
    slimLog(slimLogInfo, slimLogCycle,
            "communicator %s: a call broke the cycle: feedback memory is dropped, and starts again", c->name);
  else
    slimWarn(
        "communicator %s: its calls follow no cycle: compressing without feedback from now on, or not at all where "
        "the codec is biased. Set SLIM_CYCLE to the compressed calls a step, or call slimMarkStep at each step's "
        "begin",
        c->name);
}

/* This rank sees another buffer than the cycle's: asks all ranks to drop it, by a tensor that no two ranks share. */
static slimResult_t deny(slimChannel* c, slimTensor_t* tensor) {
  if (!c->denial) {
    int rank;
    SLIM_CHECK(slimCommUserRank(c->comm, &rank));
    SLIM_CHECK(slimTensorCreate(&c->denial, c->comm, "fp32", UINT32_MAX - (uint32_t)rank));
  }
  *tensor = c->denial;
  return slimTensorReset(c->denial);
}

/* What ranks were asked some calls ago. */
static slimResult_t readBallot(slimChannel* c) {
  uint32_t least, most;
  const int asked = c->ballot;
  c->ballot = noBallot;
  SLIM_CHECK(slimBallotRead(c->comm, &least, &most));
  if (asked == ballotOfPeriods && least == most && least > 0 && !c->cycle.period) {
    slimCycleCommit(&c->cycle, least);
    slimLog(slimLogInfo, slimLogCycle, "communicator %s: its calls repeat every %u: error feedback starts", c->name,
            least);
  } else if (asked == ballotOfDenials && most > 0 && c->cycle.byAddress) {
    slimCycleBreak(&c->cycle);
    SLIM_CHECK(dropState(c));
    sayBroken(c);
  }
  return slimSuccess;
}

/* Ranks exchange what they alone see, without waiting: first the periods that they propose; in a known cycle whether
 * their buffers were the cycle's. All at the same numbers of calls. */
static slimResult_t consult(slimChannel* c, const slimChannelCall* call) {
  slimCycle* cycle = &c->cycle;
  slimBallot ballot;
  const bool rest = cycle->period && cycle->byAddress && (cycle->at == 0 || cycle->at == cycle->period);
  const bool due = slimCycleDue(cycle);
  if (c->ballot != noBallot && c->calls >= c->ballotAt + ballotCalls) SLIM_CHECK(readBallot(c));
  if (c->ballot != noBallot || !(due || (rest && c->calls >= c->ballotAt + ballotCalls))) return slimSuccess;
  slimBallotPrepare(&ballot, c->comm, call->stream, due ? (uint32_t)slimCyclePropose(cycle) : c->denials);
  c->ballot = due ? ballotOfPeriods : ballotOfDenials;
  c->ballotAt = c->calls;
  c->denials = 0;
  return slimSubmit(&ballot.base, sizeof ballot);
}

/* Another buffer than the cycle's, as this rank sees it. Its error is not this tensor's: ef's memory stays aside. A
 * shift is what the receivers hold too, so it cannot. */
static void leaveAside(slimChannel* c, slimTensor_t tensor) {
  const slimCompressor* k = tensor->compressor;
  slimCycleAccept(&c->cycle);
  c->denials++;
  tensor->aside = !k->up.feedback.shifts && !k->down.feedback.shifts;
}

static slimResult_t runBare(slimChannel* c, const slimChannelCall* call, uint64_t key, bool* plain,
                            slimReason* reason) {
  slimTensor_t tensor;
  if (call->action->memory && call->action->biased) {
    *plain = true;
    *reason = slimReasonLearning;
    return slimSuccess;
  }
  SLIM_CHECK(bareTensor(c, call, key, &tensor));
  if (!tensor) {
    *plain = true;
    *reason = slimReasonRoom;
    return slimSuccess;
  }
  const slimResult_t result = run(c, call, tensor);
  if (result != slimInvalidUsage || c->asynchronous) return result;
  slimWarn("communicator %s: %s: handed on uncompressed", c->name, slimGetLastError());
  *plain = true;
  *reason = slimReasonDiffer;
  return slimSuccess;
}

/* Without agreement before each call. */
static slimResult_t runAsynchronously(slimChannel* c, const slimChannelCall* call, uint64_t key, bool* plain,
                                      slimReason* reason) {
  slimTensor_t tensor = NULL;
  if (c->comm->device->capturesOn(c->comm, call->stream)) {
    SLIM_CHECK(capturedTensor(c, call, &tensor));
    if (tensor) return run(c, call, tensor);
    *plain = true; /* a tensor of eager calls may run beside the graph's replays */
    *reason = slimReasonRoom;
    return slimSuccess;
  }
  if (!call->action->memory) return runBare(c, call, key, plain, reason);
  SLIM_CHECK(consult(c, call));
  const slimCycleCall place = {key, (uintptr_t)(call->recv ? call->recv : call->send)};
  uint64_t position;
  const slimCycleVerdict verdict =
      slimCycleNext(&c->cycle, place, __atomic_load_n(&marks, __ATOMIC_RELAXED), &position);
  if (verdict == slimCycleBroken) {
    SLIM_CHECK(dropState(c));
    sayBroken(c);
  }
  if (verdict == slimCycleKnown || verdict == slimCycleDenied) SLIM_CHECK(placeTensor(c, call, position, &tensor));
  if (verdict == slimCycleDenied && tensor) leaveAside(c, tensor);
  return tensor ? run(c, call, tensor) : runBare(c, call, key, plain, reason);
}

/* Ranks compare each call before they make it: where they disagree, it has not been made. */
static slimResult_t runAgreed(slimChannel* c, const slimChannelCall* call, uint64_t key, bool* plain,
                              slimReason* reason) {
  slimTensor_t tensor = NULL;
  if (!call->action->memory) return runBare(c, call, key, plain, reason);
  if (slimCycleDue(&c->cycle)) SLIM_CHECK(learn(c));
  const slimCycleCall place = {key, (uintptr_t)(call->recv ? call->recv : call->send)};
  const uint64_t steps = __atomic_load_n(&marks, __ATOMIC_RELAXED);
  uint64_t position;
  slimCycleVerdict verdict = slimCycleNext(&c->cycle, place, steps, &position);
  if (verdict == slimCycleKnown)
    SLIM_CHECK(placeTensor(c, call, position, &tensor));
  else if (verdict == slimCycleDenied)
    SLIM_CHECK(deny(c, &tensor));
  if (tensor) {
    const slimResult_t result = run(c, call, tensor);
    if (result != slimInvalidUsage) return result;
    slimLog(slimLogTrace, slimLogCycle, "communicator %s: %s", c->name, slimGetLastError());
    slimCycleBreak(&c->cycle);
    slimCycleNext(&c->cycle, place, steps, &position);
  }
  if (tensor || verdict == slimCycleBroken) {
    SLIM_CHECK(dropState(c));
    sayBroken(c);
  }
  return runBare(c, call, key, plain, reason);
}

static slimResult_t runHeld(slimChannel* c, const slimChannelCall* call, bool* plain, slimReason* reason) {
  const uint64_t key = keyOf(call);
  *plain = false;
  c->calls++;
  const char* bare = call->action->spec[slimSpecStateless];
  if (call->action->measured && c->plain && !modelOf(c, bare)) measureNow(c, bare);
  if (call->action->measured && wayOf(c, call) == slimAutoPlain) {
    *plain = true;
    *reason = slimReasonAuto;
    return slimSuccess;
  }
  return c->asynchronous ? runAsynchronously(c, call, key, plain, reason) : runAgreed(c, call, key, plain, reason);
}

slimResult_t slimChannelRun(slimChannel* c, const slimChannelCall* call, bool* plain, slimReason* reason) {
  hold(c);
  const slimResult_t result = runHeld(c, call, plain, reason);
  if (!c->asynchronous) slimChannelSettle(c);
  if (result != slimSuccess) letGo(c);
  return result;
}

/* ---- Statistics ------------------------------------------------------------------------------------------------- */

void slimChannelsVisit(const slimVisitor* visitor, void* context) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += patience;
  slimTotals totals = {__atomic_load_n(&gone.calls, __ATOMIC_RELAXED),
                       __atomic_load_n(&gone.plainBytes, __ATOMIC_RELAXED),
                       __atomic_load_n(&gone.wireBytes, __ATOMIC_RELAXED)};
  pthread_mutex_lock(&lock);
  for (slimChannel* c = channels; c; c = c->next) {
    if (pthread_mutex_timedlock(&c->lock, &until) != 0) {
      slimWarn("communicator %s: its call has not ended: no statistics of it", c->name);
      continue;
    }
    slimChannelRow row = {c->name, c->order, c->calls, c->cycle.period, 0, NULL, {.size = sizeof row.stats}};
    visitor->channel(context, &row);
    for (uint64_t i = 0; i < numTensors(c); i++) {
      slimTensor_t tensor = tensorAt(c, i, &row.place);
      if (!tensor || slimTensorGetStats(tensor, &row.stats) != slimSuccess || !row.stats.calls) continue;
      row.spec = slimTensorSpec(tensor);
      totals.calls += row.stats.calls;
      totals.plainBytes += row.stats.plainBytes;
      totals.wireBytes += row.stats.wireBytes;
      visitor->tensor(context, &row);
    }
    pthread_mutex_unlock(&c->lock);
  }
  pthread_mutex_unlock(&lock);
  uint64_t handedOn[slimNumReasons];
  for (int i = 0; i < slimNumReasons; i++) handedOn[i] = __atomic_load_n(&forwarded[i], __ATOMIC_RELAXED);
  visitor->end(context, &totals, handedOn);
}
