#include "collectives/step.h"

#include "collectives/hierarchy.h"
#include "collectives/ranges.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Buffers ---------------------------------------------------------------------------------------------------- */

slimBuffers slimBuffersOf(int pieces, size_t bytes, int depth) {
  return (slimBuffers){NULL, slimAlign64(bytes), pieces, depth, false};
}

slimBuffers slimSendBuffers(slimCall* call, size_t bytes, int depth) {
  const slimTensor* t = call->tensor;
  if (!t->sent) return slimBuffersOf(slimSendPieces(t), bytes, depth);
  return (slimBuffers){t->sent, t->sentStride, slimSendPieces(t), (int)slimSlices(&t->cut), true};
}

static uint64_t largestPiece(const slimTensor* t) {
  const uint64_t slice = t->dense.slice > t->cut.slice ? t->dense.slice : t->cut.slice;
  return slice < t->cut.count ? slice : t->cut.count;
}

/* The elements that this rank sends: of x, s and v. */
static uint64_t sentElements(const slimTensor* t) {
  if (!slimIsSender(t)) return 0;
  return t->collective == slimCollectiveReduceScatter ? t->cut.count * (uint64_t)t->comm->ranks : t->cut.count;
}

/* A multiplied x lies in y, where there is room for it, else at the start of staging. */
static bool scaledInY(const slimCall* call) {
  return !call->scalar.given || call->collective == slimCollectiveAllReduce;
}

/* Gives the buffers that lay described their places; with base NULL only counts bytes. */
static size_t place(slimCall* call, uint8_t* base) {
  const slimTensor* t = call->tensor;
  size_t at = scaledInY(call) ? 0 : slimAlign64(sentElements(t) * slimTypeBytes(t->type));
  slimBuffers* all[] = {&call->send, &call->recv, &call->down};
  for (int i = 0; i < 3; i++) {
    slimBuffers* b = all[i];
    if (b->kept) continue;
    if (base) b->base = base + at;
    at += b->stride * (size_t)b->pieces * (size_t)b->depth;
  }
  const size_t scratch = slimAlign64(largestPiece(t) * 8);
  if (base) call->reals = base + at, call->elements = base + at + scratch;
  return at + 2 * scratch;
}

static size_t layout(slimCall* call, const slimMover* mover, bool dense, uint8_t* base) {
  call->send = call->recv = call->down = (slimBuffers){0};
  (dense ? mover->layDense : mover->lay)(call);
  return place(call, base);
}

/* ---- Pieces ----------------------------------------------------------------------------------------------------- */

static void* sendState(const slimTensor* t, const slimArray* a, slimPiece p) { return slimRealAt(a, t->type, p.at); }

/* The pieces of split, which together are p. mean: what is kept of the first one. */
static slimResult_t encodePieces(slimCall* call, slimPiece p, float* mean, uint8_t* payload, const slimSplit* split) {
  slimTensor* t = call->tensor;
  if (!p.n) return slimSuccess;
  const slimEncodePass pass = {.direction = &call->up,
                               .stamp = slimStampOf(t, call->comm->rank, false),
                               .type = t->type,
                               .x = slimAt(call->x, t->type, p.at),
                               .n = p.n,
                               .first = p.first,
                               .s = t->aside ? NULL : sendState(t, &t->s, p),
                               .v = sendState(t, &t->v, p),
                               .payload = payload,
                               .stats = &call->stats,
                               .lambda = slimCommonAt(t, p),
                               .mean = mean,
                               .table = slimKeptTable(t, mean)};
  SLIM_CHECK(call->comm->device->encode(call, &pass, split));
  return call->refresh ? call->comm->device->takeFinite(call, pass.x, p.n, pass.s) : slimSuccess;
}

slimResult_t slimEncodeSlice(slimCall* call, uint64_t k) {
  SLIM_RANGE("encode");
  slimTensor* t = call->tensor;
  const double start = slimSeconds();
  const int pieces = slimSendPieces(t);
  slimResult_t result = slimSuccess;
  if (t->collective == slimCollectiveReduceScatter) { /* parts lie apart */
    for (int i = 0; i < pieces && result == slimSuccess; i++)
      result = encodePieces(call, slimSendPiece(t, k, i), slimKeptMean(t, false, k, i), slimBuffer(&call->send, k, i),
                            &(slimSplit){1, t->cut.unit, call->send.stride});
  } else {
    const slimPiece all = pieces > 1 ? slimSlicePiece(&t->cut, k) : slimSendPiece(t, k, 0);
    result = encodePieces(call, all, slimKeptMean(t, false, k, 0), slimBuffer(&call->send, k, 0),
                          &(slimSplit){pieces, t->cut.unit, call->send.stride});
  }
  t->encodeSeconds += slimSeconds() - start;
  return result;
}

slimResult_t slimReducePiece(slimCall* call, const slimReducePass* pass) {
  SLIM_RANGE("reduce");
  const double start = slimSeconds();
  slimResult_t result = call->comm->device->reduce(call, pass);
  call->tensor->reduceSeconds += slimSeconds() - start;
  return result;
}

slimResult_t slimDecodePieces(slimCall* call, const slimDecodePass* pass, const slimSplit* split) {
  SLIM_RANGE("decode");
  const double start = slimSeconds();
  slimResult_t result = call->comm->device->decode(call, pass, split);
  call->tensor->decodeSeconds += slimSeconds() - start;
  return result;
}

slimResult_t slimDecodePiece(slimCall* call, const slimDecodePass* pass) {
  return slimDecodePieces(call, pass, &(slimSplit){1, call->tensor->cut.unit, 0});
}

bool slimExpect(slimCall* call, const uint8_t* payload, const slimStamp* stamp, slimPiece piece, uint64_t bytes,
                int flags) {
  if (!call->comm->device->readable ||
      slimHeaderCheck(payload, stamp, piece.n, piece.first, bytes, flags) == slimSuccess)
    return true;
  if (!call->wrong) snprintf(call->message, sizeof call->message, "%s", slimLastMessage());
  call->wrong = true;
  return false;
}

/* ---- Dense ------------------------------------------------------------------------------------------------------ */

slimResult_t slimDenseWrite(slimCall* call, const void* x, const void* s, slimPiece piece, const slimStamp* stamp,
                            uint8_t* payload) {
  const double start = slimSeconds();
  const bool state = call->dense & slimDenseFromState;
  slimResult_t result =
      call->comm->device->denseEncode(call, stamp, state ? s : x, state, piece.n, piece.first, payload);
  call->tensor->encodeSeconds += slimSeconds() - start;
  return result;
}

slimResult_t slimDenseMean(slimCall* call, uint64_t n, int ranks, const uint8_t* const* payloads, void* reals) {
  const double start = slimSeconds();
  slimResult_t result = call->comm->device->denseReduce(call, n, ranks, payloads, reals);
  call->tensor->reduceSeconds += slimSeconds() - start;
  return result;
}

slimResult_t slimDenseDeliver(slimCall* call, const void* reals, uint64_t n, void* y, void* h, void* H) {
  const slimDevice* device = call->comm->device;
  const double start = slimSeconds();
  if (y && call->dense & slimDenseToOutput) SLIM_CHECK(device->fromReal(call, reals, n, call->factor, y));
  if (h && call->dense & slimDenseToShift) SLIM_CHECK(device->copyFinite(call, reals, n, h));
  if (H && call->dense & slimDenseToDown) SLIM_CHECK(device->copyFinite(call, reals, n, H));
  call->tensor->decodeSeconds += slimSeconds() - start;
  return slimSuccess;
}

/* ---- Phases ----------------------------------------------------------------------------------------------------- */

/* One turn of the pipeline: stage i of slice k follows stage i − 1 of slice k + 1, so that while one slice is on the
 * wire, the next is encoded. */
static slimResult_t turn(slimCall* call, uint64_t slices, const slimStage stages[3], uint64_t k) {
  slimTransport* transport = call->comm->transport;
  for (uint64_t i = 0; i < 3 && i <= k; i++) {
    if (k - i >= slices || !stages[i]) continue;
    slimResult_t result = stages[i](call, k - i);
    if (result != slimSuccess) return slimBreak(call->comm, result);
    if (transport->poll) transport->poll(transport);
  }
  return slimSuccess;
}

static slimStepPlan planOf(const slimTensor* t, slimCall* call) {
  const slimFeedback *up = &t->compressor->up.feedback, *down = &t->compressor->down.feedback;
  const bool downlink = slimMoverOf(t) == &slimTwoShot;
  const slimSettings* set = &t->comm->settings;
  uint64_t warmup = up->warmup;
  if (downlink && down->warmup > warmup) warmup = down->warmup;
  slimStepPlan p = {0};
  p.warmup = t->step < warmup;
  if (p.warmup) return p;
  const bool first = t->step == warmup;
  p.init = first && up->initFirst && up->shifts;
  p.initDown = first && downlink && down->shifts && (down->initFirst || p.init);
  p.prime = first && up->momentum > 0;
  p.resync = up->resync && up->shifts && t->step && t->step % up->resync == 0;
  if (p.init || p.initDown) return p;
  const bool coin = up->kind == slimFeedbackRandDiana && slimCoin(set->seed, t->slot, t->step, up->refresh);
  p.replace = coin && up->replace;
  call->refresh = coin && !up->replace;
  call->refreshDown = !p.replace && downlink && down->kind == slimFeedbackRandDiana &&
                      slimCoin(set->seed, t->slot, t->step, down->refresh);
  return p;
}

/* All steps from now on move the same way. */
static bool alike(const slimTensor* t) {
  const slimFeedback *up = &t->compressor->up.feedback, *down = &t->compressor->down.feedback;
  return !up->resync && up->kind != slimFeedbackRandDiana && down->kind != slimFeedbackRandDiana;
}

/* dst ← x over all that this rank sends, in groups counted from the start of the tensor, or of each part. */
static slimResult_t takeAll(slimCall* call, const slimArray* dst) {
  const slimTensor* t = call->tensor;
  const uint64_t sent = sentElements(t), part = t->cut.count;
  for (uint64_t at = 0; at < sent && dst->data; at += part)
    SLIM_CHECK(call->comm->device->takeFinite(call, slimAt(call->x, t->type, at), part, slimRealAt(dst, t->type, at)));
  return slimSuccess;
}

static double plainRingBytes(const slimTensor* t) {
  const double n = t->comm->ranks, bytes = (double)t->cut.count * (double)slimTypeBytes(t->type);
  switch (t->collective) {
    case slimCollectiveAllReduce:
      return 2 * (n - 1) / n * bytes;
    case slimCollectiveReduceScatter:
    case slimCollectiveAllGather:
      return (n - 1) * bytes;
    default:
      return (n - 1) / n * bytes;
  }
}

static void addPhase(slimCall* call, slimPhase phase) { call->phases[call->numPhases++] = phase; }

/* What the plan comes to. Called when the step is certain to take place. */
static slimResult_t layPhases(slimCall* call) {
  slimTensor* t = call->tensor;
  const slimStepPlan* p = &call->plan;
  if (t->shift) {
    if (t->s.data)
      SLIM_CHECK(call->comm->device->write(call->comm, t->s.data, t->shift, t->s.n * slimRealBytes(t->type)));
    free(t->shift);
    t->shift = NULL;
    const bool down = t->compressor->down.feedback.kind == slimFeedbackShift;
    addPhase(call, (slimPhase){.dense = slimDenseFromState | slimDenseToShift | (down ? slimDenseToDown : 0)});
  } else if (p->resync) {
    addPhase(call, (slimPhase){.dense = slimDenseFromState | slimDenseToShift});
  }
  const int down = p->initDown ? slimDenseToDown : 0, shift = slimDenseFromState | slimDenseToShift | down;
  if (p->warmup) {
    addPhase(call, (slimPhase){.dense = slimDenseToOutput});
  } else if (p->init || p->replace) {
    slimPhase phase = {.takeMomentum = p->prime, .takeState = true, .dense = slimDenseToOutput};
    if (call->finite) phase.dense |= shift;
    addPhase(call, phase);
    if (!call->finite) addPhase(call, (slimPhase){.dense = shift}); /* NaN and Inf go to y, and not into the state */
  } else if (p->initDown) {
    addPhase(call, (slimPhase){.takeMomentum = p->prime, .dense = slimDenseToOutput | down});
  } else {
    addPhase(call, (slimPhase){.takeMomentum = p->prime});
    if (call->refresh) addPhase(call, (slimPhase){.dense = slimDenseFromState | slimDenseToShift});
  }
  return slimSuccess;
}

static slimResult_t beginPhase(slimCall* call, const slimPhase* phase, uint64_t slices) {
  if (phase->takeMomentum) SLIM_CHECK(takeAll(call, &call->tensor->v));
  if (phase->takeState) SLIM_CHECK(takeAll(call, &call->tensor->s));
  layout(call, slimMoverOf(call->tensor), phase->dense, call->comm->staging);
  call->dense = phase->dense;
  slimCopier* copier = call->comm->transport->copier;
  if (copier) copier->apart = slices > 1;
  return slimSuccess;
}

/* One turn of the phase under way; *done: it was the last one's last. */
static slimResult_t move(slimCall* call, bool* done) {
  const slimTensor* t = call->tensor;
  const slimMover* mover = slimMoverOf(t);
  const slimPhase* phase = &call->phases[call->phase];
  const bool sum = t->collective == slimCollectiveAllReduce || t->collective == slimCollectiveReduce;
  const uint64_t slices = slimSlices(phase->dense && sum ? &t->dense : &t->cut);
  if (call->turn == 0) SLIM_CHECK(beginPhase(call, phase, slices));
  SLIM_CHECK(turn(call, slices, phase->dense ? mover->denseStages : mover->stages, call->turn));
  if (++call->turn < slices + 2) return slimSuccess;
  call->turn = 0;
  *done = ++call->phase == call->numPhases;
  return slimSuccess;
}

static void rate(slimTensor* t, const slimPassStats* s) {
  t->relativeError = s->uu > 0 ? sqrt(s->error / s->uu) : 0;
  t->stateRatio = t->s.data && s->xx > 0 ? sqrt(s->ss / s->xx) : 0;
}

slimResult_t slimStepStatistics(slimTensor* t) {
  slimPassStats last = {0};
  if (!t->started || t->comm->device->readable) return slimSuccess;
  SLIM_CHECK(t->comm->device->statistics(t, &last));
  rate(t, &last);
  return slimSuccess;
}

static void finish(slimCall* call, bool compressed) {
  slimTensor* t = call->tensor;
  const slimPassStats* s = &call->stats;
  t->aside = false;
  t->last = !compressed ? slimLastDense : call->x == call->y ? slimLastInPlace : slimLastCompressed;
  if (t->collective == slimCollectiveAllGather && compressed &&
      call->x == slimAt(call->y, t->type, (uint64_t)t->comm->rank * t->cut.count))
    t->last = slimLastInPlace;
  if (!t->comm->device->captures(t->comm)) t->step++; /* a graph's steps are the device's to count */
  t->calls++;
  t->elements += sentElements(t);
  t->wireBytes += call->comm->sentBytes - call->sentBefore;
  t->plainBytes += plainRingBytes(t);
  t->exchangeSeconds += call->comm->waitSeconds - call->waitedBefore;
  t->flagged += s->flagged;
  rate(t, s);
  if (t->warned || t->comm->rank != 0 || t->compressor->up.feedback.kind != slimFeedbackEf) return;
  const double delta = slimTreeClass(t->compressor->up.tree).delta;
  if (!(delta > 0) || t->stateRatio <= 4 / delta) return;
  t->warned = true;
  fprintf(stderr,
          "slimccl: warning: slot %u, step %llu, %s: the memory is %.3g times the tensor, more than 4/delta = %.3g: "
          "the compression "
          "may be too strong, or x changed its unit (slimTensorRescale)\n",
          t->slot, (unsigned long long)(t->step - 1), t->compressor->text, t->stateRatio, 4 / delta);
}

static slimResult_t check(slimCall* call, slimCallRecord* record) {
  slimComm* comm = call->comm;
  slimTensor* t = call->tensor;
  if (t->shift && call->whole)
    return slimFail(slimInvalidUsage,
                    "slot %u: slimTensorSetShift gives a rank's shift, but in a hierarchy domains compress: make the "
                    "communicator with slimHierarchyFlat",
                    t->slot);
  if (!t->started) t->comm = comm;
  SLIM_CHECK(slimTensorStart(t, call->collective, call->type, call->count, call->root));
  if (t->shift &&
      (t->shiftCount != call->count * (call->collective == slimCollectiveReduceScatter ? (uint64_t)comm->ranks : 1) ||
       t->shiftType != call->type))
    return slimFail(slimInvalidUsage, "slot %u: the shift has %llu elements of %s, this call %llu of %s", t->slot,
                    (unsigned long long)t->shiftCount, slimTypeName(t->shiftType), (unsigned long long)call->count,
                    slimTypeName(call->type));
  const slimMover* mover = slimMoverOf(t);
  const slimStepPlan* p = &call->plan;
  call->plan = planOf(t, call);
  call->up = t->compressor->up;
  call->downlink = t->compressor->down;
  if (t->aside) call->up.feedback = call->downlink.feedback = (slimFeedback){0};
  record->algorithm = t->algorithm;
  record->hash = t->hash;
  record->step = t->step;
  record->slice = t->cut.slice;
  record->shifts = t->shifts;
  record->lambda = t->lambda;
  slimCompressorSetLambda(t->compressor, t->lambda);
  /* Where the caller's thread cannot look, as if x were not finite: the same values, in two dense messages. */
  if (p->init || p->replace) record->finite = comm->device->readable && slimFinite(t->type, call->x, sentElements(t));
  const bool dense = t->shift || p->resync || p->warmup || p->init || p->initDown || p->replace || call->refresh;
  if (comm->device->captures(comm) && (dense || !alike(t)))
    return slimFail(slimInvalidUsage,
                    "slot %u: %s sends full precision at this step or at some later one, which a graph cannot do: "
                    "capture after the warm-up, and neither resync nor rand_diana",
                    t->slot, t->compressor->text);
  const size_t thin = layout(call, mover, false, NULL), wide = dense ? layout(call, mover, true, NULL) : 0;
  return comm->device->stage(comm, thin > wide ? thin : wide);
}

/* As if the call had not been. */
static void abandon(slimOperation* operation) {
  slimCall* call = (slimCall*)operation;
  slimTensor* t = call->tensor;
  if (!call->fresh || !t->started) return;
  void* shift = t->shift;
  const uint32_t shifts = t->shifts;
  const double lambda = t->lambda;
  t->shift = NULL;
  slimTensorForget(t);
  t->shift = shift;
  t->shifts = shifts;
  t->lambda = lambda;
}

static slimResult_t open(slimOperation* operation) {
  slimCall* call = (slimCall*)operation;
  call->fresh = call->count && !call->tensor->started;
  call->sentBefore = call->comm->sentBytes;
  call->waitedBefore = call->comm->waitSeconds;
  call->record = (slimCallRecord){.collective = call->collective,
                                  .type = call->type,
                                  .op = call->op,
                                  .slot = call->tensor->slot,
                                  .root = call->root,
                                  .count = call->count,
                                  .finite = 1};
  const slimResult_t result = call->count ? check(call, &call->record) : slimSuccess;
  if (call->comm->device->readable) { /* the other ranks will hear of it */
    call->record.result = result;
    if (result != slimSuccess) snprintf(call->message, sizeof call->message, "%s", slimLastMessage());
    return slimSuccess;
  }
  if (result != slimSuccess) abandon(operation);
  return result;
}

/* Ranks agree, where they can; then the phases are laid. */
static slimResult_t begin(slimCall* call, bool* done) {
  slimComm* comm = call->comm;
  call->finite = call->record.finite;
  if (comm->device->readable) {
    slimResult_t result = call->asked ? slimAgreeEnd(comm, &call->record, call->message, &call->finite)
                                      : slimAgreeBegin(comm, &call->record);
    if (result != slimSuccess) abandon(&call->base);
    if (result != slimSuccess || !call->asked) {
      call->asked = true;
      return result;
    }
  }
  call->begun = true;
  call->message[0] = 0;
  *done = !call->count;
  if (!call->count) return slimSuccess;
  SLIM_CHECK(comm->device->beginStep(call));
  if (call->scalar.given) {
    void* y = scaledInY(call) ? call->y : comm->staging;
    const uint64_t n = call->whole ? call->whole : sentElements(call->tensor);
    SLIM_CHECK(comm->device->premultiply(call, call->x, n, y));
    call->x = y;
  }
  if (call->whole) SLIM_CHECK(slimHierarchySum(call));
  return layPhases(call);
}

static slimResult_t advance(slimOperation* operation, bool* done) {
  slimCall* call = (slimCall*)operation;
  slimTensor* t = call->tensor;
  if (!call->begun) {
    slimResult_t result = begin(call, done);
    if (result != slimSuccess && call->begun) t->spoiled = true;
    if (result != slimSuccess || *done || !call->begun || call->whole) return result; /* the domain's sum comes first */
  }
  slimResult_t result = move(call, done);
  if (*done && call->wrong) result = slimFail(slimInvalidUsage, "%s", call->message);
  if (result != slimSuccess) {
    t->spoiled = true;
    return result;
  }
  const slimStepPlan* p = &call->plan;
  if (*done && call->whole) SLIM_CHECK(slimHierarchyGather(call));
  if (*done) SLIM_CHECK(call->comm->device->endStep(call));
  if (*done) finish(call, !(p->warmup || p->init || p->initDown || p->replace));
  return slimSuccess;
}

slimResult_t slimStepReserve(const slimCall* wanted) {
  slimCall call = *wanted;
  slimComm* comm = call.comm;
  slimCallRecord record = {0};
  const bool fresh = !call.tensor->started;
  SLIM_CHECK(comm->device->enter(comm, call.base.stream, call.base.own));
  const slimResult_t result = comm->device->leave(comm, check(&call, &record));
  call.fresh = fresh;
  if (result != slimSuccess) abandon(&call.base);
  return result;
}

/* Graphs end when each rank's program and driver let go of them. */
static slimOperation* before(slimOperation* operation) {
  slimCall* call = (slimCall*)operation;
  slimComm* home = call->comm->home;
  uint64_t* gone = home->device->readable ? NULL : home->device->graphsGone(home, operation->stream);
  if (!gone) return NULL;
  slimBallotGather(&call->ballot, home, operation->stream, gone);
  return &call->ballot.base;
}

void slimStepPrepare(slimCall* call) {
  slimComm* home = call->tensor->comm->home;
  call->base.comm = call->comm = slimHierarchyRoute(home, call->collective, call->count);
  if (call->comm != home) {
    call->whole = call->count;
    call->count = slimShardElements(home, call->count);
  }
  call->base.before = before;
  call->base.open = open;
  call->base.abandon = abandon;
  call->base.advance = advance;
  call->factor = call->op == slimSum ? call->comm->ranks : 1;
}

const slimMover* slimMoverOf(const slimTensor* t) {
  switch (t->collective) {
    case slimCollectiveBroadcast:
      return &slimBroadcastMover;
    case slimCollectiveReduceScatter:
      return &slimReduceScatterMover;
    case slimCollectiveAllGather:
      return &slimAllGatherMover;
    default:
      return t->algorithm == slimAlgorithmOneShot   ? &slimOneShot
             : t->algorithm == slimAlgorithmTwoShot ? &slimTwoShot
             : t->comm->device->readable            ? &slimLinear
                                                    : &slimLinearByTransport;
  }
}
