#include "collectives/hierarchy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { smallMessage = 16 * 1024 }; /* bytes that one message's latency is worth */

/* ---- Life ------------------------------------------------------------------------------------------------------- */

slimResult_t slimTensorOpen(slimTensor** tensor, slimComm* comm, const char* spec, uint32_t slot) {
  slimTensor** link = &comm->tensors;
  while (*link && (*link)->slot < slot) link = &(*link)->next;
  if (*link && (*link)->slot == slot)
    return slimFail(slimInvalidUsage,
                    "slot %u of this communicator already holds a tensor (%s); slots are numbered once", slot,
                    (*link)->compressor->text);
  slimTensor* t = calloc(1, sizeof *t);
  if (!t) return slimFail(slimSystemError, "out of memory for a tensor");
  slimResult_t result = slimCompressorCreate(&t->compressor, spec);
  if (result != slimSuccess) {
    free(t);
    return result;
  }
  t->comm = comm;
  t->slot = slot;
  t->next = *link;
  *link = t;
  *tensor = t;
  return slimSuccess;
}

void slimTensorForget(slimTensor* t) {
  const slimDevice* device = t->comm->device;
  for (int i = 0; i < slimStateArrays; i++) {
    device->release(t->comm, t->arrays[i].data);
    t->arrays[i] = (slimArray){0};
  }
  if (!t->comm->transport->holdsBuffers) device->release(t->comm, t->sent);
  device->closeTensor(t);
  free(t->shift);
  t->sent = NULL;
  t->shift = NULL;
  t->shifts = 0;
  t->started = t->spoiled = false;
  t->step = 0;
  t->lambda = 0;
  t->last = slimLastNone;
  t->comm = t->comm->home;
}

void slimTensorClose(slimTensor* t) {
  slimTensor** link = &t->comm->home->tensors;
  while (*link != t) link = &(*link)->next;
  *link = t->next;
  slimTensorForget(t);
  slimCompressorDestroy(t->compressor);
  free(t);
}

/* ---- Pieces ----------------------------------------------------------------------------------------------------- */

static uint64_t min64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t divideUp(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }

uint64_t slimSlices(const slimCut* cut) { return divideUp(cut->count, cut->slice); }

slimPiece slimSlicePiece(const slimCut* cut, uint64_t slice) {
  const uint64_t base = slice * cut->slice;
  return (slimPiece){base, cut->first + base, min64(cut->slice, cut->count - base)};
}

slimPiece slimChunkPiece(const slimCut* cut, uint64_t slice, int rank) {
  const slimPiece s = slimSlicePiece(cut, slice);
  const uint64_t units = divideUp(s.n, cut->unit), n = (uint64_t)cut->ranks, r = (uint64_t)rank;
  const uint64_t from = min64(r * units / n * cut->unit, s.n), to = min64((r + 1) * units / n * cut->unit, s.n);
  return (slimPiece){s.at + from, s.first + from, to - from};
}

slimPiece slimPartPiece(const slimCut* cut, uint64_t slice, int rank) {
  const slimPiece s = slimSlicePiece(cut, slice);
  const uint64_t r = (uint64_t)rank;
  return (slimPiece){r * cut->count + s.at, r * divideUp(cut->count, cut->unit) * cut->unit + s.at, s.n};
}

uint64_t slimOwnedAt(const slimCut* cut, uint64_t slice) { return slice * (cut->slice / (uint64_t)cut->ranks); }

uint64_t slimLargestChunk(const slimCut* cut) {
  const uint64_t n = min64(cut->slice, cut->count);
  return min64(n, divideUp(divideUp(n, cut->unit), (uint64_t)cut->ranks) * cut->unit);
}

bool slimIsSender(const slimTensor* t) { return t->collective != slimCollectiveBroadcast || t->root == t->comm->rank; }
bool slimIsReceiver(const slimTensor* t) { return t->collective != slimCollectiveReduce || t->root == t->comm->rank; }

int slimSendPieces(const slimTensor* t) {
  return t->algorithm == slimAlgorithmTwoShot &&
                 (t->collective == slimCollectiveAllReduce || t->collective == slimCollectiveReduce ||
                  t->collective == slimCollectiveReduceScatter)
             ? t->comm->ranks
             : 1;
}

slimPiece slimSendPiece(const slimTensor* t, uint64_t slice, int i) {
  if (t->collective == slimCollectiveReduceScatter) return slimPartPiece(&t->cut, slice, i);
  if (t->collective == slimCollectiveAllGather) {
    slimPiece p = slimPartPiece(&t->cut, slice, t->comm->rank);
    p.at -= (uint64_t)t->comm->rank * t->cut.count;
    return p;
  }
  if (slimSendPieces(t) == 1) return slimSlicePiece(&t->cut, slice);
  return slimChunkPiece(&t->cut, slice, i);
}

void* slimCommonAt(const slimTensor* t, slimPiece p) {
  return t->common.data ? slimRealAt(&t->common, t->type, p.at / slimTreeUnit(t->compressor->up.tree)) : NULL;
}
static uint64_t keptUp(const slimTensor* t) {
  return slimTreeRemembers(t->compressor->up.tree) && slimIsSender(t)
             ? slimSlices(&t->cut) * (uint64_t)slimSendPieces(t)
             : 0;
}
float* slimKeptMean(const slimTensor* t, bool down, uint64_t slice, int piece) {
  if (!slimTreeRemembers(down ? t->compressor->down.tree : t->compressor->up.tree)) return NULL;
  return (float*)t->m.data + (down ? keptUp(t) + slice : slice * (uint64_t)slimSendPieces(t) + (uint64_t)piece);
}

slimStamp slimStampOf(const slimTensor* t, int rank, bool down) {
  return (slimStamp){t->hash, t->comm->settings.seed, t->step, t->slot, (uint32_t)rank, down};
}

/* ---- First use -------------------------------------------------------------------------------------------------- */

/* The one place where the algorithm is chosen. Only allreduce and reduce have a choice; the others are an uplink. */
static slimResult_t choose(const slimTensor* t, uint64_t count, slimAlgorithm* chosen) {
  const slimCompressor* c = t->compressor;
  const slimTree* up = c->up.tree;
  const slimAlgorithm asked = t->asked != slimAlgorithmAuto ? t->asked : t->comm->settings.algorithm;
  const char* name = slimCollectiveName((int)t->collective);
  const bool global = slimTreeIsGlobal(up) || slimTreeIsGlobal(c->down.tree);
  const bool linear = slimTreeIsLinear(up) && t->type != slimFloat64, host = t->comm->device->readable;
  if (slimTreeSharesLambda(up) && t->collective != slimCollectiveAllReduce)
    return slimFail(slimInvalidUsage,
                    "lambda=shared comes from the messages of all ranks to all ranks, which allreduce has; use f= for "
                    "%s in %s",
                    name, c->text);
  if (t->collective != slimCollectiveAllReduce && t->collective != slimCollectiveReduce) {
    if (c->downGiven)
      return slimFail(slimInvalidUsage, "%s has no downlink: leave `down=` out of the spec %s", name, c->text);
    if (slimTreeIsGlobal(up) && t->collective == slimCollectiveReduceScatter)
      return slimFail(slimInvalidUsage, "reduce-scatter cuts the tensor: use scope=chunk instead of scope=global in %s",
                      c->text);
    *chosen = slimAlgorithmTwoShot;
    return slimSuccess;
  }
  switch (asked) {
    case slimAlgorithmTwoShot:
      if (global)
        return slimFail(slimInvalidUsage, "two-shot cuts the tensor: use scope=chunk, or slimAlgoOneShot, for %s",
                        c->text);
      break;
    case slimAlgorithmLinear:
      if (!host && !(t->comm->transport && t->comm->transport->plain))
        return slimFail(slimInvalidUsage, "slimAlgoLinear wants buffers in host memory, or an NCCL communicator");
      if (!linear)
        return slimFail(slimInvalidUsage,
                        "slimAlgoLinear adds payloads as they are: it wants fp32 or randk(seed=shared) over fp32 (k "
                        "not below 1), of a "
                        "tensor other than "
                        "float64; not %s of %s",
                        c->text, slimTypeName(t->type));
      if (!host && c->up.feedback.shifts)
        return slimFail(
            slimInvalidUsage,
            "slimAlgoLinear of device memory loses the finite part of a unit that another rank flags, which "
            "shifts must have: use none or ef, or slimAlgoTwoShot, for %s",
            c->text);
      /* fall through */
    case slimAlgorithmOneShot:
      if (c->downGiven)
        return slimFail(slimInvalidUsage,
                        "%s has no downlink: leave `down=` out of the spec, or use slimAlgoTwoShot, for %s",
                        asked == slimAlgorithmLinear ? "slimAlgoLinear" : "slimAlgoOneShot", c->text);
      break;
    case slimAlgorithmAuto: {
      const uint64_t payload = slimPayloadBytes(up, t->type, count), ranks = (uint64_t)t->comm->ranks;
      if (slimTreeIsGlobal(up) && c->downGiven)
        return slimFail(slimInvalidUsage, "scope=global has no downlink: leave `down=` out, or use scope=chunk, for %s",
                        c->text);
      if (c->downGiven && global)
        return slimFail(slimInvalidUsage, "a downlink cuts the tensor: use scope=chunk instead of scope=global in %s",
                        c->text);
      if (c->downGiven)
        *chosen = slimAlgorithmTwoShot;
      else if (slimTreeIsGlobal(up) || (double)(ranks - 1) * (double)payload <=
                                           2 * (double)(ranks - 1) / (double)ranks * (double)payload + smallMessage)
        *chosen = slimAlgorithmOneShot;
      else
        *chosen = linear && host ? slimAlgorithmLinear : slimAlgorithmTwoShot;
      return slimSuccess;
    }
  }
  *chosen = asked;
  return slimSuccess;
}

void slimTensorLengths(const slimTensor* t, uint64_t lengths[slimStateArrays]) {
  const slimFeedback *up = &t->compressor->up.feedback, *down = &t->compressor->down.feedback;
  const uint64_t ranks = (uint64_t)t->comm->ranks, n = t->cut.count;
  const bool receiver = slimIsReceiver(t);
  uint64_t sent = n, heard = receiver ? n : 0, owned = 0;
  switch (t->collective) {
    case slimCollectiveAllReduce:
    case slimCollectiveReduce:
      if (t->algorithm != slimAlgorithmTwoShot) break;
      if (n) {
        const uint64_t last = slimSlices(&t->cut) - 1;
        owned = slimOwnedAt(&t->cut, last) + slimChunkPiece(&t->cut, last, t->comm->rank).n;
      }
      heard = owned;
      break;
    case slimCollectiveReduceScatter:
      sent = n * ranks;
      break;
    case slimCollectiveAllGather:
      heard = n * ranks;
      break;
    case slimCollectiveBroadcast: /* the root's s is its h */
      if (slimIsSender(t))
        heard = 0;
      else
        sent = 0;
      break;
  }
  const bool downlink = (t->collective == slimCollectiveAllReduce || t->collective == slimCollectiveReduce) &&
                        t->algorithm == slimAlgorithmTwoShot;
  lengths[0] = up->memory ? sent : 0;
  lengths[1] = up->momentum > 0 ? sent : 0;
  lengths[2] = up->shifts ? heard : 0;
  lengths[3] = downlink && (down->shifts ? !receiver : down->memory) ? owned : 0;
  lengths[4] = downlink && down->shifts && receiver ? n : 0;
  const slimTree* tree = t->compressor->up.tree;
  lengths[5] = slimTreeSharesLambda(tree) ? divideUp(n, slimTreeUnit(tree)) : 0;
  lengths[6] = 2 * (keptUp(t) + (downlink && slimTreeRemembers(t->compressor->down.tree) ? slimSlices(&t->cut) : 0));
}

static bool isEf(const slimFeedback* f) { return f->memory && f->sigma == 1 && f->a == 1 && f->b == 1 && f->c == -1; }

void slimTensorShape(slimTensor* t) {
  uint64_t lengths[slimStateArrays];
  slimTensorLengths(t, lengths);
  for (int i = 0; i < slimStateArrays; i++) t->arrays[i] = (slimArray){NULL, lengths[i], false};
  t->s.bf16 = t->compressor->up.feedback.bf16;
  t->e.bf16 = t->compressor->down.feedback.bf16;
}

/* Ranks of a device cannot tell each other that there is no room: all take what the largest piece wants. */
static size_t largestOwned(const slimTensor* t, size_t bytes) {
  if (t->algorithm != slimAlgorithmTwoShot || !t->cut.count) return bytes;
  const uint64_t last = slimSlices(&t->cut) - 1, most = slimOwnedAt(&t->cut, last) + slimLargestChunk(&t->cut);
  const size_t wanted = most * slimRealBytes(t->type);
  return wanted > bytes ? wanted : bytes;
}

slimResult_t slimTensorAllocate(slimTensor* t) {
  const slimDevice* device = t->comm->device;
  slimResult_t result = slimSuccess;
  slimTensorShape(t);
  for (int i = 0; i < slimStateArrays && result == slimSuccess; i++) {
    slimArray* a = &t->arrays[i];
    if (!a->n) continue;
    size_t bytes = a->n > SIZE_MAX / 16 ? SIZE_MAX / 2 : slimArrayBytes(a, t->type);
    if (!device->readable && (a == &t->h || a == &t->e)) bytes = largestOwned(t, bytes);
    a->data = device->alloc(t->comm, bytes);
    if (!a->data) {
      char why[256];
      snprintf(why, sizeof why, "%s", slimLastMessage());
      result =
          slimFail(slimSystemError, "no room for the state of slot %u (%s): %s", t->slot, t->compressor->text, why);
    }
  }
  if (result == slimSuccess && isEf(&t->compressor->up.feedback) && slimIsSender(t) && t->cut.count &&
      t->comm == t->comm->home) {
    const int pieces = slimSendPieces(t);
    const uint64_t largest = pieces > 1 && t->collective != slimCollectiveReduceScatter
                                 ? slimLargestChunk(&t->cut)
                                 : min64(t->cut.slice, t->cut.count);
    t->sentStride = slimAlign64(slimPayloadBytes(t->compressor->up.tree, t->type, largest));
    t->sent = device->alloc(t->comm, slimSlices(&t->cut) * (uint64_t)pieces * t->sentStride);
    if (!t->sent) result = slimFail(slimSystemError, "out of memory: payloads of slot %u", t->slot);
  }
  if (result == slimSuccess) result = device->openTensor(t);
  if (result != slimSuccess)
    for (int i = 0; i < slimStateArrays; i++) {
      device->release(t->comm, t->arrays[i].data);
      t->arrays[i] = (slimArray){0};
    }
  if (result != slimSuccess) {
    device->release(t->comm, t->sent);
    t->sent = NULL;
  }
  return result;
}

static uint64_t sliceOf(const slimTensor* t, uint32_t unit) {
  const uint64_t ranks = (uint64_t)t->comm->ranks, n = t->comm->settings.sliceBytes / (4 * ranks * unit);
  return (n ? n : 1) * ranks * unit;
}

slimResult_t slimTensorFix(slimTensor* t, slimCollective collective, slimDataType_t type, uint64_t count, int root) {
  const slimCompressor* c = t->compressor;
  if (c->down.feedback.momentum > 0)
    return slimFail(slimInvalidUsage, "momentum belongs to the uplink: leave it out of the downlink of %s", c->text);
  t->collective = collective;
  t->type = type;
  t->root = root;
  SLIM_CHECK(choose(t, count, &t->algorithm));
  if (type == slimFloat64 && (slimTreeGathers(c->up.tree) || slimTreeGathers(c->down.tree)))
    return slimFail(slimInvalidUsage,
                    "stats=tensor and stats=previous are for types other than float64; leave stats out of %s", c->text);
  t->hash = slimCompressorHash(c, type);

  const bool both = collective == slimCollectiveAllReduce || collective == slimCollectiveReduce;
  uint32_t unit = slimTreeUnit(c->up.tree);
  if (both && t->algorithm == slimAlgorithmTwoShot && slimTreeUnit(c->down.tree) > unit)
    unit = slimTreeUnit(c->down.tree);
  uint64_t slice = sliceOf(t, unit);
  const uint64_t first = slimShardFirst(t->comm, count, unit);
  t->dense = (slimCut){count, slice, unit, t->comm->ranks, first};
  if (!both && collective != slimCollectiveBroadcast) slice /= (uint64_t)t->comm->ranks;
  if (slimTreeIsGlobal(c->up.tree)) slice = count ? count : 1;
  t->cut = (slimCut){count, slice, unit, t->comm->ranks, first};
  return slimSuccess;
}

slimResult_t slimTensorStart(slimTensor* t, slimCollective collective, slimDataType_t type, uint64_t count, int root) {
  if (t->spoiled)
    return slimFail(slimInvalidUsage,
                    "slot %u: an earlier call failed half-way and left its state undefined; slimTensorReset or "
                    "slimStateLoad makes it usable again",
                    t->slot);
  if (t->started) {
    if (collective == t->collective && type == t->type && count == t->cut.count && root == t->root) return slimSuccess;
    return slimFail(slimInvalidUsage,
                    "slot %u holds %llu elements of %s for %s (root %d); this call has %llu of %s for %s (root %d): "
                    "use another slot, "
                    "or slimTensorReset",
                    t->slot, (unsigned long long)t->cut.count, slimTypeName(t->type),
                    slimCollectiveName((int)t->collective), t->root, (unsigned long long)count, slimTypeName(type),
                    slimCollectiveName((int)collective), root);
  }
  SLIM_CHECK(slimTensorFix(t, collective, type, count, root));
  SLIM_CHECK(slimTensorAllocate(t));
  t->started = true;
  t->step = 0;
  t->last = slimLastNone;
  return slimSuccess;
}

/* ---- Between steps ---------------------------------------------------------------------------------------------- */

uint64_t slimTensorStateBytes(const slimTensor* t) {
  uint64_t bytes = 0;
  for (int i = 0; i < slimStateArrays; i++) bytes += t->arrays[i].data ? slimArrayBytes(&t->arrays[i], t->type) : 0;
  return t->started ? bytes : 0;
}

uint64_t slimTensorMostStateBytes(const slimTensor* t) {
  slimComm comm = {.device = t->comm->device, .ranks = t->comm->ranks, .settings = t->comm->settings};
  slimTensor other = *t;
  uint64_t most = 0;
  other.comm = &comm;
  for (; comm.rank < comm.ranks; comm.rank++) {
    uint64_t bytes = 0;
    slimTensorShape(&other);
    for (int i = 0; i < slimStateArrays; i++) bytes += slimArrayBytes(&other.arrays[i], other.type);
    if (bytes > most) most = bytes;
  }
  return most;
}

slimResult_t slimTensorShift(slimTensor* t, const void* shift, uint64_t count, slimDataType_t type) {
  if (t->compressor->up.feedback.kind != slimFeedbackShift)
    return slimFail(slimInvalidUsage, "slimTensorSetShift wants an uplink shift(…), not %s", t->compressor->text);
  const size_t bytes = slimRealBytes(type);
  void* copy = count <= SIZE_MAX / 16 ? slimAlignedAlloc(count * bytes) : NULL;
  if (!copy) return slimFail(slimSystemError, "out of memory for a shift of %llu elements", (unsigned long long)count);
  slimToReal(type, shift, count, copy);
  for (uint64_t i = 0; i < count; i++)
    if (!(bytes == 8 ? isfinite(((double*)copy)[i]) : isfinite(((float*)copy)[i]))) {
      free(copy);
      return slimFail(slimInvalidArgument, "element %llu of the shift is not finite", (unsigned long long)i);
    }
  free(t->shift);
  t->shift = copy;
  t->shiftCount = count;
  t->shiftType = type;
  t->shifts++;
  return slimSuccess;
}

slimResult_t slimTensorScale(slimTensor* t, double factor) {
  if (t->spoiled)
    return slimFail(slimInvalidUsage, "slot %u has no defined state to rescale: slimTensorReset comes first", t->slot);
  for (int i = 0; i < slimStateArrays; i++) {
    const slimArray* a = &t->arrays[i];
    const slimStamp stamp = slimStampOf(t, t->comm->rank, a == &t->e);
    if (!a->data) continue;
    if (a->bf16)
      SLIM_CHECK(t->comm->device->scaleMemory(t, &stamp, a->data, a->n, factor));
    else
      SLIM_CHECK(t->comm->device->scale(t, a->data, a == &t->m ? a->n / 2 : a->n, factor));
  }
  if (t->shift) slimScaleReal(t->shiftType, t->shift, t->shiftCount, factor);
  t->last = slimLastNone;
  return slimSuccess;
}

slimResult_t slimTensorChooseLambda(slimTensor* t, double lambda) {
  if (!slimCompressorSetLambda(t->compressor, lambda))
    return slimFail(slimInvalidUsage, "slimTensorSetLambda wants lambda=x in the spec, e.g. fo(lambda=0.1), not %s",
                    t->compressor->text);
  t->lambda = lambda;
  return slimSuccess;
}

slimResult_t slimTensorCancel(slimTensor* t, const void* x) {
  const slimCompressor* c = t->compressor;
  if (!isEf(&c->up.feedback))
    return slimFail(slimInvalidUsage,
                    "slimTensorCancelStep takes back what ef's memory has sent; %s has an uplink of another kind",
                    c->text);
  if (t->spoiled || t->last == slimLastNone)
    return slimFail(slimInvalidUsage,
                    "slot %u has no step to take back: slimTensorCancelStep is for the last call, once, before any "
                    "rescale, reset or load",
                    t->slot);
  if (t->comm != t->comm->home)
    return slimFail(slimInvalidUsage,
                    "slot %u: what was sent is the sum of a domain, of which a rank has only its own x", t->slot);
  if (t->last == slimLastInPlace)
    return slimFail(slimInvalidUsage, "slot %u: the last call was in place, so its x is gone", t->slot);
  const uint64_t slices = t->last == slimLastCompressed && t->sent ? slimSlices(&t->cut) : 0;
  const int pieces = slimSendPieces(t);
  t->step--; /* the payloads' step */
  slimStamp stamp = slimStampOf(t, t->comm->rank, false);
  t->step++;
  for (uint64_t k = 0; k < slices; k++)
    for (int i = 0; i < pieces; i++) {
      const slimPiece p = slimSendPiece(t, k, i);
      if (!p.n) continue;
      const slimDecodePass sent = {.direction = &c->up,
                                   .stamp = stamp,
                                   .type = t->type,
                                   .n = p.n,
                                   .first = p.first,
                                   .payload = t->sent + (k * (uint64_t)pieces + (uint64_t)i) * t->sentStride};
      slimResult_t result =
          t->comm->device->cancel(t, &sent, slimAt(x, t->type, p.at), slimRealAt(&t->s, t->type, p.at));
      if (result != slimSuccess) {
        t->spoiled = true;
        return result;
      }
    }
  t->last = slimLastNone;
  return slimSuccess;
}
