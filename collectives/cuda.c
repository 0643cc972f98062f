#include "collectives/cuda.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "collectives/step.h"
#include "compress/cuda/passes.h"

/* Buffers of a call. One set for all eager calls, in the order of their streams; one for each graph, since its replays
 * may run beside anything else. */
typedef struct space {
  struct space* next;
  cuuint64_t capture; /* id; 0: eager */
  int* holders;       /* of a graph's space: itself, and the graph, until that and what was made of it have ended */
  uint8_t *staging, *passes;
  size_t stagingBytes, passesBytes;
  CUevent last; /* end of the last call in it; never crosses the border of a capture */
  CUstream side;
  CUevent forked, landed[2]; /* of side's batches, by parity */
  bool recorded;
} space;

/* A stretch of the arena; all of them, in order of place. */
typedef struct span {
  struct span* next;
  size_t at, bytes;
  bool used;
  const space* of; /* whose buffer it is; NULL: a tensor's, or none's */
} span;

typedef struct slimCudaComm {
  slimCopier copier;
  slimCudaDevice* device;
  CUstream own;        /* for what has no stream */
  CUstream stream;     /* of the call under way */
  cuuint64_t capture;  /* of that stream; 0: none */
  bool takesTurns;     /* the call under way shares its graph with other threads' */
  space *spaces, *now; /* newest first; of the call under way */
  bool captured;       /* something, since ranks last told each other which graphs have ended, */
  unsigned calls;      /* and so many eager ones */
  CUevent mark[slimMarks];
  CUevent started, stopped; /* of the clock */
  bool stuck;               /* work that may never end: what it uses stays */
  uint8_t* arena;
  span* spans;
  /* In pinned memory: */
  unsigned long long *report, *reportOnDevice; /* what kernels found wrong */
  size_t pinnedBytes;
  uint64_t* words;
  uint64_t* gone;        /* [ranks + 1][slimBallotWords]: a bit for each of the newest graphs, newest first */
  slimCudaSlot* mirrors; /* of tensors, if settings.mirrored */
  int numMirrors;
  slimCudaSlot* spare;         /* mirrors of tensors that went with graphs: each holds the next one's address */
  uint8_t *firsts, *firstsEnd; /* room for what tensors start with */
} cudaComm;

/* What a tensor has besides its arrays. */
typedef struct {
  slimCudaSlot* slot;    /* on the device */
  slimCudaSlot* first;   /* what it starts with: stays, since the copy is asynchronous. From firsts, since copies of */
  bool ownsFirst;        /* other memory wait for the stream; or, where that was full, its own */
  double lambda;         /* slimTensorSetLambda's, as slot's trees have it */
  slimCudaSlot* mirror;  /* of slot, as a step left it; NULL: none */
  const space* graph;    /* whose end is the tensor's; NULL: none's */
  size_t workspaceBytes; /* of its passes */
} cudaTensor;

enum {
  mostMirrors = 2048,
  firstsBytes = 1 << 20,
  arenaAlign = 256,
  mostGraphs = 64 * slimBallotWords, /* whose end is noticed at the same time */
  graphCalls = 16,                   /* eager calls between two ballots about graphs */
  countedEachCall = offsetof(slimPassStats, flagged)
};

static CUdeviceptr at(const void* p) { return (CUdeviceptr)(uintptr_t)p; }

/* ---- The arena: reserved when the communicator is made, so that no call allocates ------------------------------- */

static uint8_t* take(cudaComm* c, size_t bytes, const space* of) {
  bytes = (bytes + arenaAlign - 1) / arenaAlign * arenaAlign;
  size_t largest = 0, unused = 0;
  for (span* s = c->spans; s; s = s->next) {
    if (s->used) continue;
    unused += s->bytes;
    largest = s->bytes > largest ? s->bytes : largest;
    if (s->bytes < bytes) continue;
    if (s->bytes > bytes) {
      span* rest = malloc(sizeof *rest);
      if (!rest) break;
      *rest = (span){.next = s->next, .at = s->at + bytes, .bytes = s->bytes - bytes};
      s->next = rest;
      s->bytes = bytes;
    }
    s->used = true;
    s->of = of;
    return c->arena + s->at;
  }
  (void)slimFail(slimSystemError,
                 "%zu bytes do not fit into this communicator's device memory (%zu unused, %zu in one piece): give a "
                 "larger config.deviceBytes",
                 bytes, unused, largest);
  return NULL;
}

static void giveBack(cudaComm* c, const void* p) {
  span* before = NULL;
  for (span* s = c->spans; s && p; before = s, s = s->next) {
    if (c->arena + s->at != p) continue;
    s->used = false;
    span* next = s->next;
    if (next && !next->used) {
      s->bytes += next->bytes;
      s->next = next->next;
      free(next);
    }
    if (before && !before->used) {
      before->bytes += s->bytes;
      before->next = s->next;
      free(s);
    }
    return;
  }
}

static slimResult_t drain(cudaComm* c);

/* What a call sets up, as no part of a graph under capture. */
static slimResult_t setUp(cudaComm* c, void* to, const void* from, size_t bytes) {
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  const CUstream stream = c->capture ? c->own : c->stream;
  if (c->capture) SLIM_CHECK(drain(c));
  SLIM_CU(ThreadExchangeStreamCaptureMode, &mode);
  CUresult error =
      from ? slimCu.MemcpyAsync(at(to), at(from), bytes, stream) : slimCu.MemsetD8Async(at(to), 0, bytes, stream);
  if (error == CUDA_SUCCESS && c->capture) error = slimCu.StreamSynchronize(stream);
  SLIM_CU(ThreadExchangeStreamCaptureMode, &mode);
  return error == CUDA_SUCCESS ? slimSuccess : slimDriverFail(error, from ? "MemcpyAsync" : "MemsetD8Async");
}

/* Calls that use a stretch after another has given it back are ordered behind it by their space's event: all eager
 * ones are. */
static void* alloc(slimComm* comm, size_t bytes) {
  uint8_t* p = take(comm->cuda, bytes, NULL);
  if (!p || setUp(comm->cuda, p, NULL, bytes) == slimSuccess) return p;
  giveBack(comm->cuda, p);
  return NULL;
}

static void release(slimComm* comm, void* p) { giveBack(comm->cuda, p); }

static slimResult_t copy(slimComm* comm, void* to, const void* from, size_t bytes) {
  if (bytes) SLIM_CU(MemcpyAsync, at(to), at(from), bytes, comm->cuda->stream);
  return slimSuccess;
}

static slimResult_t clear(slimComm* comm, void* p, size_t bytes) {
  if (bytes) SLIM_CU(MemsetD8Async, at(p), 0, bytes, comm->cuda->stream);
  return slimSuccess;
}

/* Both ways the caller waits: state files and shifts, never a step. */
static slimResult_t exchange(slimComm* comm, void* to, const void* from, size_t bytes) {
  SLIM_CHECK(copy(comm, to, from, bytes));
  SLIM_CU(StreamSynchronize, comm->cuda->stream);
  return slimSuccess;
}

static slimResult_t idle(slimComm* comm, double timeout) {
  const double until = slimSeconds() + timeout;
  for (;;) {
    const CUresult state = slimCu.StreamQuery(comm->cuda->stream);
    if (state == CUDA_SUCCESS) return slimSuccess;
    if (state != CUDA_ERROR_NOT_READY) return slimDriverFail(state, "StreamQuery");
    if (slimSeconds() > until) {
      comm->cuda->stuck = true;
      return slimFail(slimRemoteError, "rank %d of %d waited %g s for the others: all ranks must make this call",
                      comm->rank, comm->ranks, timeout);
    }
    nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
  }
}

static slimResult_t clockOf(slimComm* comm, bool stop) {
  cudaComm* c = comm->cuda;
  SLIM_CU(EventRecord, stop ? c->stopped : c->started, c->stream);
  return slimSuccess;
}

static slimResult_t clocked(slimComm* comm, double* seconds) {
  float milliseconds = 0;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  SLIM_CU(ThreadExchangeStreamCaptureMode, &mode);
  const CUresult error = slimCu.EventElapsedTime(&milliseconds, comm->cuda->started, comm->cuda->stopped);
  SLIM_CU(ThreadExchangeStreamCaptureMode, &mode);
  *seconds = 1e-3 * (double)milliseconds;
  return error == CUDA_SUCCESS ? slimSuccess : slimDriverFail(error, "EventElapsedTime");
}

/* Atomics that a peer carries out are NVLink's. */
static bool linked(int a, int b) {
  int yes = 0;
  return a == b ||
         (slimCu.DeviceGetP2PAttribute(&yes, CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED, a, b) == CUDA_SUCCESS &&
          yes);
}

static uint64_t mix(uint64_t h, const char* text) {
  for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x100000001b3u;
  return h;
}

/* The devices that are linked with the own one, if they all are with each other: named by the machine (as NCCL has it,
 * or in whatever container) and their first. */
static uint64_t domain(const slimComm* comm) {
  const int own = comm->cuda->device->ordinal;
  int devices = 0, first = -1, members = 0;
  if (slimCu.DeviceGetCount(&devices) != CUDA_SUCCESS) return 0;
  for (int d = 0; d < devices; d++) {
    if (!linked(own, d)) continue;
    for (int e = 0; e < d; e++)
      if (linked(own, e) && !linked(d, e)) return 0;
    if (first < 0) first = d;
    members++;
  }
  if (members < 2) return 0;
  const char* host = getenv("NCCL_HOSTID");
  char boot[64] = "";
  FILE* file = host ? NULL : fopen("/proc/sys/kernel/random/boot_id", "re");
  if (file && !fgets(boot, sizeof boot, file)) *boot = 0;
  if (file) fclose(file);
  return host || *boot ? mix((uint64_t)first + 1, host ? host : boot) | 1 : 0;
}

static void limit(slimComm* comm, size_t bytes) {
  span* last = comm->cuda->spans;
  while (last->next) last = last->next;
  if (!last->used && last->at < bytes && last->at + last->bytes > bytes) last->bytes = bytes - last->at;
}

static slimResult_t grow(cudaComm* c, uint8_t** block, size_t* has, size_t bytes) {
  if (bytes <= *has) return slimSuccess;
  if (!c->capture) giveBack(c, *block); /* a graph under capture still uses it */
  *has = 0;
  *block = take(c, bytes, c->now);
  if (!*block) return slimSystemError;
  *has = bytes;
  return slimSuccess;
}

static slimResult_t stage(slimComm* comm, size_t bytes) {
  cudaComm* c = comm->cuda;
  SLIM_CHECK(grow(c, &c->now->staging, &c->now->stagingBytes, bytes));
  comm->staging = c->now->staging;
  comm->stagingBytes = c->now->stagingBytes;
  return slimSuccess;
}

/* ---- Calls and streams ------------------------------------------------------------------------------------------ */

/* A graph is not safe for threads: those that capture into one take turns at it. */
static pthread_mutex_t graphLock = PTHREAD_MUTEX_INITIALIZER;
static void turn(slimCopier* copier, bool take) {
  const cudaComm* c = (const cudaComm*)copier;
  if (c->takesTurns) (void)(take ? pthread_mutex_lock(&graphLock) : pthread_mutex_unlock(&graphLock));
}

/* A graph's buffers may have been an eager call's: those calls must have ended before a replay. */
static slimResult_t drain(cudaComm* c) {
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  SLIM_CU(ThreadExchangeStreamCaptureMode, &mode);
  CUresult error = CUDA_SUCCESS;
  for (const space* s = c->spaces; s; s = s->next)
    if (!s->capture && s->recorded) error = slimCu.StreamWaitEvent(c->own, s->last, 0);
  if (error == CUDA_SUCCESS) error = slimCu.StreamSynchronize(c->own);
  SLIM_CU(ThreadExchangeStreamCaptureMode, &mode);
  return error == CUDA_SUCCESS ? slimSuccess : slimDriverFail(error, "StreamSynchronize");
}

/* Also called by the driver, on a thread of its own, when the communicator may be gone: no function of CUDA's, and no
 * memory but this. */
static void letGo(void* holders) {
  if (holders && __atomic_sub_fetch((int*)holders, 1, __ATOMIC_ACQ_REL) == 0) free(holders);
}

/* Its graph has ended: no launch of it is under way or will be. */
static bool isOver(const space* s) { return s->capture && __atomic_load_n(s->holders, __ATOMIC_ACQUIRE) == 1; }

static void closeSpace(space* s) {
  const CUevent events[] = {s->last, s->forked, s->landed[0], s->landed[1]};
  for (int i = 0; i < 4; i++)
    if (events[i]) (void)slimCu.EventDestroy(events[i]);
  if (s->side) (void)slimCu.StreamDestroy(s->side);
  letGo(s->holders);
  free(s);
}

/* A capture begins, and this rank's eager calls have ended: frees what belongs to graphs that all ranks have said to be
 * done with. They are as many on each rank, in the same order, and the same ones. */
static void freeGraphs(slimComm* home) {
  cudaComm* c = home->cuda;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  int at = 0;
  (void)slimCu.ThreadExchangeStreamCaptureMode(&mode);
  for (space** link = &c->spaces; *link && at < mostGraphs;) {
    space* s = *link;
    bool over = s->capture;
    for (int r = 0; r < home->ranks && over; r++) over = c->gone[r * slimBallotWords + at / 64] >> at % 64 & 1;
    at += s->capture != 0;
    if (!over) {
      link = &s->next;
      continue;
    }
    *link = s->next;
    for (slimTensor* t = home->tensors; t; t = t->next)
      if (t->onDevice && ((const cudaTensor*)t->onDevice)->graph == s) slimTensorForget(t);
    for (span* p = c->spans; p;) { /* giving back joins it with its neighbours */
      const bool its = p->used && p->of == s;
      if (its) giveBack(c, c->arena + p->at);
      p = its ? c->spans : p->next;
    }
    closeSpace(s);
  }
  (void)slimCu.ThreadExchangeStreamCaptureMode(&mode);
  memset(c->gone, 0, sizeof *c->gone * slimBallotWords * (size_t)home->ranks); /* the graphs' numbers have changed */
}

/* The graph holds a user object, as do its copies and what is made of it; the driver destroys that when the last of
 * them has gone and has ended, some time later. */
static slimResult_t tie(cudaComm* c, space* s, CUgraph graph) {
  CUuserObject object;
  s->holders = malloc(sizeof *s->holders);
  if (!s->holders) return slimFail(slimSystemError, "out of memory for a communicator's buffers");
  *s->holders = 1; /* until the driver has the other one */
  SLIM_CU(UserObjectCreate, &object, s->holders, letGo, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC);
  *s->holders = 2;
  turn(&c->copier, true);
  const CUresult error = slimCu.GraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE);
  turn(&c->copier, false);
  if (error == CUDA_SUCCESS) return slimSuccess;
  (void)slimCu.UserObjectRelease(object, 1);
  return slimDriverFail(error, "GraphRetainUserObject");
}

static slimResult_t spaceOf(slimComm* comm, cuuint64_t capture, CUgraph graph) {
  cudaComm* c = comm->cuda;
  for (space* s = c->spaces; s; s = s->next)
    if (s->capture == capture) {
      c->now = s;
      return slimSuccess;
    }
  if (capture) {
    SLIM_CHECK(drain(c));
    freeGraphs(comm->home);
  }
  space* s = calloc(1, sizeof *s);
  if (!s) return slimFail(slimSystemError, "out of memory for a communicator's buffers");
  CUevent* const events[] = {&s->last, &s->forked, &s->landed[0], &s->landed[1]};
  CUresult error = slimCu.StreamCreate(&s->side, CU_STREAM_NON_BLOCKING);
  for (int i = 0; i < 4 && error == CUDA_SUCCESS; i++) error = slimCu.EventCreate(events[i], CU_EVENT_DISABLE_TIMING);
  if (error != CUDA_SUCCESS) {
    closeSpace(s);
    return slimDriverFail(error, "StreamCreate or EventCreate");
  }
  const slimResult_t result = capture ? tie(c, s, graph) : slimSuccess;
  if (result != slimSuccess) {
    closeSpace(s);
    return result;
  }
  c->captured |= capture != 0;
  s->capture = capture;
  s->next = c->spaces;
  c->spaces = c->now = s;
  return slimSuccess;
}

/* What a kernel of an earlier call found. The tensor's state is not what the other ranks think it is. */
static slimResult_t reported(slimComm* comm) {
  const unsigned long long word = __atomic_exchange_n(comm->cuda->report, 0, __ATOMIC_ACQ_REL);
  if (!word) return slimSuccess;
  const unsigned rank = (unsigned)(word >> 32) & 0xffffff, slot = (unsigned)word;
  const char* who = "rank";
  for (slimTensor* t = comm->home->tensors; t; t = t->next)
    if (t->slot == slot) {
      t->spoiled = true;
      if (t->comm != comm->home) who = "domain";
    }
  if (word >> 56 == slimReportRemote)
    return slimFail(slimInvalidUsage,
                    "an earlier call of slot %u gave NaN: %s %u reports that another %s's message was not of the "
                    "spec, type, count, slot and step that it expected; slimTensorReset comes next, on all ranks",
                    slot, who, rank, who);
  return slimFail(slimInvalidUsage,
                  "an earlier call of slot %u gave NaN: %s %u's message is not of the spec, type, count, slot and "
                  "step that this rank has; all ranks must make the same calls in the same order; slimTensorReset "
                  "comes next, on all ranks",
                  slot, who, rank);
}

static bool alarmed(const slimComm* comm) { return __atomic_load_n(comm->cuda->report, __ATOMIC_ACQUIRE) != 0; }

static uint64_t* words(slimComm* comm) { return comm->cuda->words; }

/* What a graph's replays do is not known, while there may be any. */
static bool busy(slimComm* comm) {
  for (const space* s = comm->cuda->spaces; s; s = s->next)
    if (s->capture ? !isOver(s) : s->recorded && slimCu.EventQuery(s->last) == CUDA_ERROR_NOT_READY) return true;
  return false;
}

static slimResult_t begin(slimComm* comm, CUstream stream) {
  cudaComm* c = comm->cuda;
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  CUgraph graph = NULL;
  SLIM_CHECK(reported(comm));
  c->stream = c->copier.stream = stream;
  c->capture = 0;
  if (stream != c->own) SLIM_CU(StreamGetCaptureInfo, stream, &status, &c->capture, &graph, NULL, NULL);
  if (status == CU_STREAM_CAPTURE_STATUS_INVALIDATED)
    return slimFail(slimInvalidUsage, "the stream's capture has become invalid: an earlier operation broke it");
  if (status != CU_STREAM_CAPTURE_STATUS_ACTIVE) c->capture = 0;
  c->takesTurns = c->capture && comm->transport->oneGraph;
  SLIM_CHECK(spaceOf(comm, c->capture, graph));
  c->copier.side = c->now->side;
  c->copier.apart = false;
  turn(&c->copier, true);
  const CUresult error = c->now->recorded ? slimCu.StreamWaitEvent(stream, c->now->last, 0) : (CUresult)CUDA_SUCCESS;
  if (error == CUDA_SUCCESS) return slimSuccess;
  turn(&c->copier, false);
  c->takesTurns = false;
  return slimDriverFail(error, "StreamWaitEvent");
}

static slimResult_t enter(slimComm* comm, void* stream, bool own) {
  SLIM_CHECK(slimCudaEnter(comm->cuda->device));
  slimResult_t result = begin(comm, own ? comm->cuda->own : stream);
  if (result != slimSuccess) slimCudaLeave();
  return result;
}

static slimResult_t leave(slimComm* comm, slimResult_t result) {
  space* s = comm->cuda->now;
  const CUresult error = slimCu.EventRecord(s->last, comm->cuda->stream);
  s->recorded = s->recorded || error == CUDA_SUCCESS;
  turn(&comm->cuda->copier, false);
  comm->cuda->takesTurns = false;
  slimCudaLeave();
  return error == CUDA_SUCCESS || result != slimSuccess ? result : slimDriverFail(error, "EventRecord");
}

static void pauseCall(slimComm* comm) {
  turn(&comm->cuda->copier, false);
  slimCudaLeave();
}
/* The context was entered before: it cannot fail now. */
static void resumeCall(slimComm* comm) {
  (void)slimCudaEnter(comm->cuda->device);
  turn(&comm->cuda->copier, true);
}

static bool captures(const slimComm* comm) { return comm->cuda->capture != 0; }

static bool capturesOn(slimComm* comm, void* stream) {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  cuuint64_t id;
  if (slimCudaEnter(comm->cuda->device) != slimSuccess) return false;
  (void)slimCu.StreamGetCaptureInfo(stream, &status, &id, NULL, NULL, NULL);
  slimCudaLeave();
  return status != CU_STREAM_CAPTURE_STATUS_NONE;
}

/* With the first eager call after a capture, which may have replaced a graph; and with every graphCalls-th, while there
 * are graphs: all that ranks have in common. */
static uint64_t* graphsGone(slimComm* home, void* stream) {
  cudaComm* c = home->cuda;
  uint64_t* own = c->gone + slimBallotWords * (size_t)home->ranks;
  bool some = false;
  for (const space* s = c->spaces; s; s = s->next) some |= s->capture != 0;
  if (!some || capturesOn(home, stream) || (++c->calls < graphCalls && !c->captured)) return NULL;
  c->captured = false;
  c->calls = 0;
  memset(own, 0, sizeof *own * slimBallotWords);
  int at = 0;
  for (const space* s = c->spaces; s && at < mostGraphs; s = s->next) {
    if (isOver(s)) own[at / 64] |= UINT64_C(1) << at % 64;
    at += s->capture != 0;
  }
  return c->gone;
}

static slimResult_t holds(slimComm* comm, const char* name, const void* p) {
  CUmemorytype type;
  SLIM_CHECK(slimCudaEnter(comm->cuda->device));
  const CUresult known = slimCu.PointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, at(p));
  slimCudaLeave();
  if (known == CUDA_SUCCESS) return slimSuccess;
  return slimFail(slimInvalidArgument, "%s is not memory of a CUDA device: this communicator's rank %d is on device %d",
                  name, comm->rank, comm->cuda->device->ordinal);
}

static slimResult_t mark(slimCopier* copier, int m) {
  cudaComm* c = (cudaComm*)copier;
  SLIM_CU(EventRecord, c->mark[m], c->stream);
  return slimSuccess;
}
static slimResult_t await(slimCopier* copier, const slimCopier* other, int m) {
  SLIM_CU(StreamWaitEvent, ((cudaComm*)copier)->stream, ((const cudaComm*)other)->mark[m], 0);
  return slimSuccess;
}
static slimResult_t move(slimCopier* copier, void* to, const void* from, size_t bytes) {
  SLIM_CU(MemcpyAsync, at(to), at(from), bytes, ((cudaComm*)copier)->stream);
  return slimSuccess;
}

static slimResult_t forkSide(slimCopier* copier) {
  cudaComm* c = (cudaComm*)copier;
  SLIM_CU(EventRecord, c->now->forked, c->stream);
  SLIM_CU(StreamWaitEvent, c->now->side, c->now->forked, 0);
  return slimSuccess;
}
static slimResult_t landSide(slimCopier* copier, unsigned batch) {
  const space* now = ((cudaComm*)copier)->now;
  SLIM_CU(EventRecord, now->landed[batch % 2], now->side);
  return slimSuccess;
}
static slimResult_t joinSide(slimCopier* copier, unsigned batch) {
  cudaComm* c = (cudaComm*)copier;
  SLIM_CU(StreamWaitEvent, c->stream, c->now->landed[batch % 2], 0);
  return slimSuccess;
}

/* ---- Tensors and passes ----------------------------------------------------------------------------------------- */

static slimCudaQueue queueOf(const slimTensor* t) {
  const cudaComm* c = t->comm->cuda;
  const cudaTensor* own = t->onDevice;
  return (slimCudaQueue){.device = c->device,
                         .stream = c->stream,
                         .compressor = t->compressor,
                         .slot = own->slot,
                         .report = c->reportOnDevice,
                         .workspace = c->now->passes,
                         .workspaceBytes = c->now->passesBytes};
}

static void closeTensor(slimTensor* t) {
  cudaTensor* own = t->onDevice;
  if (!own) return;
  cudaComm* c = t->comm->cuda;
  giveBack(c, own->slot);
  if (own->graph && own->mirror) { /* no step is under way that would still write it */
    memcpy(own->mirror, &c->spare, sizeof c->spare);
    c->spare = own->mirror;
  }
  if (own->ownsFirst) free(own->first);
  free(own);
  t->onDevice = NULL;
}

static slimCudaSlot* newMirror(cudaComm* c) {
  slimCudaSlot* m = c->spare;
  if (!m) return c->numMirrors < mostMirrors ? &c->mirrors[c->numMirrors++] : NULL;
  memcpy(&c->spare, m, sizeof c->spare);
  memset(m, 0, sizeof *m);
  return m;
}

static slimResult_t openTensor(slimTensor* t) {
  if (!slimDeviceRuns(t->compressor->up.tree) || !slimDeviceRuns(t->compressor->down.tree))
    return slimFail(slimInvalidUsage,
                    "there are no CUDA kernels for %s: a transform or selector stands in a place that "
                    "they do not know",
                    t->compressor->text);
  cudaTensor* own = calloc(1, sizeof *own);
  if (!own) return slimFail(slimSystemError, "out of memory for a tensor");
  t->onDevice = own;
  cudaComm* c = t->comm->cuda;
  if (t->comm->settings.mirrored) own->mirror = newMirror(c);
  if (t->ofGraph && c->capture) own->graph = c->now;
  const size_t bytes = slimCudaSlotBytes(t->compressor);
  const uint64_t slice = t->cut.slice < t->cut.count ? t->cut.slice : t->cut.count;
  slimResult_t result =
      slimCudaWorkspace(t->comm->cuda->device, t->compressor, t->type, slice, t->comm->ranks, &own->workspaceBytes);
  if (result == slimSuccess) result = grow(c, &c->now->passes, &c->now->passesBytes, own->workspaceBytes);
  own->ownsFirst = c->capture || bytes > (size_t)(c->firstsEnd - c->firsts); /* nothing stays under way in a capture */
  own->first = own->ownsFirst ? malloc(bytes) : (slimCudaSlot*)(void*)c->firsts;
  if (!own->ownsFirst) c->firsts += (bytes + 63) / 64 * 64;
  if (result == slimSuccess && !own->first) result = slimFail(slimSystemError, "out of memory for a tensor");
  if (result == slimSuccess) {
    slimCudaSlotStart(own->first, t->compressor);
    own->first->step = t->step - 1; /* a step begins by counting itself */
    own->lambda = t->lambda;
    own->slot = alloc(t->comm, bytes);
    result = own->slot ? setUp(t->comm->cuda, own->slot, own->first, bytes) : slimSystemError;
  }
  if (result != slimSuccess) closeTensor(t);
  return result;
}

/* slimTensorSetLambda has changed the trees since the last step. */
static slimResult_t renewTrees(slimTensor* t) {
  cudaTensor* own = t->onDevice;
  if (t->comm->cuda->capture)
    return slimFail(slimInvalidUsage, "slot %u: slimTensorSetLambda came before this call: make one outside of graphs",
                    t->slot);
  const size_t bytes = slimCudaSlotBytes(t->compressor);
  slimCudaSlot* now = malloc(bytes);
  if (!now) return slimFail(slimSystemError, "out of memory for a tensor");
  slimCudaSlotStart(now, t->compressor);
  const slimResult_t result = copy(t->comm, own->slot + 1, now + 1, bytes - sizeof *now);
  own->lambda = t->lambda;
  free(now); /* the driver has taken it: it is not pinned */
  return result;
}

static slimResult_t beginStep(slimCall* call) {
  cudaComm* c = call->comm->cuda;
  const cudaTensor* own = call->tensor->onDevice;
  if (own->lambda != call->tensor->lambda) SLIM_CHECK(renewTrees(call->tensor));
  SLIM_CHECK(grow(c, &c->now->passes, &c->now->passesBytes, own->workspaceBytes));
  SLIM_CU(MemsetD8Async, at(&own->slot->stats), 0, countedEachCall, c->stream);
  const slimCudaQueue q = queueOf(call->tensor);
  return slimCudaNextStep(&q);
}

static slimResult_t endStep(slimCall* call) {
  const cudaTensor* own = call->tensor->onDevice;
  return own->mirror ? copy(call->comm, own->mirror, own->slot, sizeof *own->mirror) : slimSuccess;
}

static slimResult_t statistics(slimTensor* t, slimPassStats* last) {
  const cudaTensor* own = t->onDevice;
  slimCudaSlot now;
  if (own->mirror)
    now = *own->mirror;
  else
    SLIM_CHECK(exchange(t->comm, &now, own->slot, sizeof now));
  *last = now.stats;
  t->flagged = now.stats.flagged;
  t->step = now.step + 1;
  return slimSuccess;
}

static slimResult_t encode(slimCall* call, const slimEncodePass* pass, const slimSplit* split) {
  const slimCudaQueue q = queueOf(call->tensor);
  return slimCudaEncode(&q, pass, split);
}

static slimResult_t reduce(slimCall* call, const slimReducePass* pass) {
  const slimCudaQueue q = queueOf(call->tensor);
  return slimCudaReduce(&q, pass, call->recv.stride);
}

static slimResult_t decode(slimCall* call, const slimDecodePass* pass, const slimSplit* split) {
  const slimCudaQueue q = queueOf(call->tensor);
  return slimCudaDecode(&q, pass, split);
}

static slimResult_t cancel(slimTensor* t, const slimDecodePass* sent, const void* x, void* s) {
  cudaComm* c = t->comm->cuda;
  SLIM_CHECK(grow(c, &c->now->passes, &c->now->passesBytes, ((cudaTensor*)t->onDevice)->workspaceBytes));
  const slimCudaQueue q = queueOf(t);
  return slimCudaCancel(&q, sent, x, s);
}

/* ---- Dense ------------------------------------------------------------------------------------------------------ */

static slimResult_t denseEncode(slimCall* call, const slimStamp* stamp, const void* x, bool xIsReal, uint64_t n,
                                uint64_t first, uint8_t* payload) {
  const slimCudaQueue q = queueOf(call->tensor);
  return slimCudaDenseEncode(&q, stamp, call->tensor->type, x, xIsReal, n, first, payload);
}

static slimResult_t denseReduce(slimCall* call, uint64_t n, int ranks, const uint8_t* const* payloads, void* dst) {
  const slimCudaQueue q = queueOf(call->tensor);
  return slimCudaDenseReduce(&q, call->tensor->type, n, ranks, payloads[0], call->recv.stride, 1.0 / ranks, dst);
}

static slimResult_t fromReal(slimCall* call, const void* src, uint64_t n, double factor, void* y) {
  const slimCudaQueue q = queueOf(call->tensor);
  return slimCudaFromReal(&q, call->tensor->type, src, n, factor, y);
}

static slimResult_t premultiply(slimCall* call, const void* x, uint64_t n, void* y) {
  const slimCudaQueue q = queueOf(call->tensor);
  return slimCudaPremultiply(&q, call->tensor->type, x, n, call->scalar.value, call->scalar.there, y);
}

static slimResult_t copyFinite(slimCall* call, const void* src, uint64_t n, void* dst) {
  const slimCudaQueue q = queueOf(call->tensor);
  return slimCudaCopyFinite(&q, call->tensor->type, src, n, dst);
}

static slimResult_t takeFinite(slimCall* call, const void* x, uint64_t n, void* dst) {
  const slimCudaQueue q = queueOf(call->tensor);
  return slimCudaTakeFinite(&q, call->tensor->type, x, n, dst);
}

static slimResult_t scale(slimTensor* t, void* a, uint64_t n, double factor) {
  const slimCudaQueue q = queueOf(t);
  return slimCudaScaleReal(&q, t->type, a, n, factor);
}

static slimResult_t scaleMemory(slimTensor* t, const slimStamp* stamp, uint16_t* a, uint64_t n, double factor) {
  const slimCudaQueue q = queueOf(t);
  return slimCudaScaleMemory(&q, stamp, a, n, factor);
}

/* ---- Pinned memory ---------------------------------------------------------------------------------------------- */

/* Kept for the next communicator, since freeing it would wait for all devices, where ranks may be waiting for this one.
 */
typedef struct pinned {
  struct pinned* next;
  size_t bytes;
} pinned;
static pthread_mutex_t pinnedLock = PTHREAD_MUTEX_INITIALIZER;
static pinned* unused;

static void* reuse(size_t* bytes) {
  pthread_mutex_lock(&pinnedLock);
  pinned** at = &unused;
  while (*at && (*at)->bytes < *bytes) at = &(*at)->next;
  pinned* found = *at;
  if (found) *at = found->next, *bytes = found->bytes;
  pthread_mutex_unlock(&pinnedLock);
  return found;
}

static void keep(void* p, size_t bytes) {
  pinned* one = p;
  one->bytes = bytes;
  pthread_mutex_lock(&pinnedLock);
  one->next = unused;
  unused = one;
  pthread_mutex_unlock(&pinnedLock);
}

/* ---- Life ------------------------------------------------------------------------------------------------------- */

static void discard(cudaComm* c) {
  if (c->stuck) return;
  for (const space* s = c->spaces; s; s = s->next)
    if (!s->capture && s->recorded) (void)slimCu.StreamWaitEvent(c->own, s->last, 0);
  if (c->own) (void)slimCu.StreamSynchronize(c->own);
  while (c->spaces) {
    space* next = c->spaces->next;
    closeSpace(c->spaces);
    c->spaces = next;
  }
  for (int m = 0; m < slimMarks; m++)
    if (c->mark[m]) (void)slimCu.EventDestroy(c->mark[m]);
  if (c->started) (void)slimCu.EventDestroy(c->started);
  if (c->stopped) (void)slimCu.EventDestroy(c->stopped);
  if (c->own) (void)slimCu.StreamDestroy(c->own);
  if (c->arena) (void)slimCu.MemFree(at(c->arena));
  if (c->report) keep(c->report, c->pinnedBytes);
  while (c->spans) {
    span* next = c->spans->next;
    free(c->spans);
    c->spans = next;
  }
}

static void closeComm(slimComm* comm) {
  cudaComm* c = comm->cuda;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  const bool entered = slimCudaEnter(c->device) == slimSuccess;
  (void)slimCu.ThreadExchangeStreamCaptureMode(&mode);
  discard(c);
  (void)slimCu.ThreadExchangeStreamCaptureMode(&mode);
  if (entered) slimCudaLeave();
  if (!c->stuck) free(c);
}

static const slimDevice slimCuda = {.readable = false,
                                    .close = closeComm,
                                    .enter = enter,
                                    .leave = leave,
                                    .pause = pauseCall,
                                    .resume = resumeCall,
                                    .reported = reported,
                                    .alarmed = alarmed,
                                    .captures = captures,
                                    .capturesOn = capturesOn,
                                    .holds = holds,
                                    .graphsGone = graphsGone,
                                    .idle = idle,
                                    .domain = domain,
                                    .limit = limit,
                                    .busy = busy,
                                    .clock = clockOf,
                                    .clocked = clocked,
                                    .words = words,
                                    .stage = stage,
                                    .alloc = alloc,
                                    .release = release,
                                    .copy = copy,
                                    .clear = clear,
                                    .read = exchange,
                                    .write = exchange,
                                    .openTensor = openTensor,
                                    .closeTensor = closeTensor,
                                    .beginStep = beginStep,
                                    .endStep = endStep,
                                    .statistics = statistics,
                                    .encode = encode,
                                    .reduce = reduce,
                                    .decode = decode,
                                    .cancel = cancel,
                                    .denseEncode = denseEncode,
                                    .denseReduce = denseReduce,
                                    .fromReal = fromReal,
                                    .premultiply = premultiply,
                                    .copyFinite = copyFinite,
                                    .takeFinite = takeFinite,
                                    .scale = scale,
                                    .scaleMemory = scaleMemory};

/* Copies between two devices go straight where the machine allows it; elsewhere the driver finds a way. */
slimResult_t slimCudaConnect(slimComm* const* comms, int ranks) {
  for (int a = 0; a < ranks; a++)
    for (int b = 0; b < ranks; b++) {
      const slimCudaDevice *from = comms[a]->cuda->device, *to = comms[b]->cuda->device;
      int can = 0;
      if (from == to) continue;
      SLIM_CU(DeviceCanAccessPeer, &can, from->ordinal, to->ordinal);
      if (!can) continue;
      SLIM_CHECK(slimCudaEnter(from));
      const CUresult error = slimCu.CtxEnablePeerAccess(to->context, 0);
      slimCudaLeave();
      if (error != CUDA_SUCCESS && error != CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED)
        return slimDriverFail(error, "CtxEnablePeerAccess");
    }
  return slimSuccess;
}

/* A quarter of what is free at most, where less will do: the program may not have begun yet. A rank that took nothing
 * could not tell the others that it has nothing. */
static slimResult_t beModest(slimSettings* settings) {
  enum { least = 64 << 10 };
  size_t unused, total;
  SLIM_CU(MemGetInfo, &unused, &total);
  const size_t most = unused / 4 > least ? unused / 4 : least;
  if (settings->deviceBytes > most) settings->deviceBytes = most;
  return slimSuccess;
}

static slimResult_t reserve(cudaComm* c, int ranks, slimSettings* settings) {
  CUdeviceptr arena, report;
  if (settings->modest) SLIM_CHECK(beModest(settings));
  const size_t ballot = (size_t)(ranks + 1) * slimBallotWords * sizeof(uint64_t);
  const size_t first = (ballot + arenaAlign - 1) / arenaAlign * arenaAlign; /* of the arena's spans */
  const size_t bytes = settings->deviceBytes > first ? settings->deviceBytes : first;
  const size_t mirrors = settings->mirrored ? mostMirrors * sizeof(slimCudaSlot) : 0;
  c->pinnedBytes = slimAlign64(sizeof(uint64_t) * (size_t)(ranks + 2) + ballot + mirrors) + firstsBytes;
  SLIM_CU(StreamCreate, &c->own, CU_STREAM_NON_BLOCKING);
  for (int m = 0; m < slimMarks; m++) SLIM_CU(EventCreate, &c->mark[m], CU_EVENT_DISABLE_TIMING);
  SLIM_CU(EventCreate, &c->started, CU_EVENT_DEFAULT);
  SLIM_CU(EventCreate, &c->stopped, CU_EVENT_DEFAULT);
  SLIM_CU(MemAlloc, &arena, bytes);
  c->arena = (uint8_t*)(uintptr_t)arena;
  c->report = reuse(&c->pinnedBytes);
  if (!c->report)
    SLIM_CU(MemHostAlloc, (void**)&c->report, c->pinnedBytes, CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_PORTABLE);
  memset(c->report, 0, c->pinnedBytes);
  c->words = (uint64_t*)c->report + 1;
  c->firsts = (uint8_t*)c->report + c->pinnedBytes - firstsBytes;
  c->firstsEnd = c->firsts + firstsBytes;
  c->gone = c->words + ranks + 1;
  c->mirrors = (slimCudaSlot*)(void*)(c->gone + (ranks + 1) * slimBallotWords);
  SLIM_CU(MemHostGetDevicePointer, &report, c->report, 0);
  c->reportOnDevice = (unsigned long long*)(uintptr_t)report;
  c->spans = calloc(1, sizeof *c->spans);
  if (!c->spans) return slimFail(slimSystemError, "out of memory for a communicator");
  c->spans->at = first;
  c->spans->bytes = bytes / arenaAlign * arenaAlign - first;
  return slimSuccess;
}

slimResult_t slimCudaCommCreate(slimComm** comm, slimTransport* transport, const slimSettings* settings, int ordinal) {
  slimComm* made;
  SLIM_CHECK(slimCommCreate(&made, transport, settings));
  slimCudaDevice* device;
  cudaComm* c = NULL;
  slimResult_t result = slimCudaDeviceOf(&device, ordinal);
  if (result == slimSuccess && !(c = calloc(1, sizeof *c)))
    result = slimFail(slimSystemError, "out of memory for a communicator");
  if (result == slimSuccess) result = slimCudaEnter(device);
  if (result == slimSuccess) {
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED; /* somebody else may be capturing */
    (void)slimCu.ThreadExchangeStreamCaptureMode(&mode);
    *c = (cudaComm){.copier = {.mark = mark,
                               .await = await,
                               .copy = move,
                               .turn = turn,
                               .fork = forkSide,
                               .land = landSide,
                               .join = joinSide},
                    .device = device};
    result = reserve(c, made->ranks, &made->settings);
    if (result != slimSuccess) discard(c);
    (void)slimCu.ThreadExchangeStreamCaptureMode(&mode);
    slimCudaLeave();
  }
  if (result != slimSuccess) {
    free(c);
    slimCommFree(made);
    return result;
  }
  made->cuda = c;
  made->ballot.there = c->arena;
  made->device = &slimCuda;
  transport->copier = &c->copier;
  *comm = made;
  return slimSuccess;
}
