#include "collectives/plan.h"

#include <stdlib.h>

/* ---- What the movers' lanes add up to: sent[r] bytes of rank r --------------------------------------------------- */

static void addTwoShot(const slimTensor* t, uint64_t* sent) {
  const slimCompressor* c = t->compressor;
  const int ranks = t->comm->ranks;
  for (uint64_t k = 0; k < slimSlices(&t->cut); k++) {
    uint64_t all = 0;
    for (int r = 0; r < ranks; r++) {
      const uint64_t n = slimChunkPiece(&t->cut, k, r).n, up = n ? slimPayloadBytes(c->up.tree, t->type, n) : 0;
      all += up;
      sent[r] += (n ? (uint64_t)(ranks - 1) * slimPayloadBytes(c->down.tree, t->type, n) : 0) - up;
    }
    for (int r = 0; r < ranks; r++) sent[r] += all;
  }
}

static void addOneShot(const slimTensor* t, uint64_t* sent) {
  const int ranks = t->comm->ranks;
  for (uint64_t k = 0; k < slimSlices(&t->cut); k++) {
    const uint64_t bytes = slimPayloadBytes(t->compressor->up.tree, t->type, slimSlicePiece(&t->cut, k).n);
    for (int r = 0; r < ranks; r++) sent[r] += (uint64_t)(ranks - 1) * bytes;
  }
}

/* Reduce-scatter and all-gather of the values, in shares of whole cache lines; headers and flags to all. */
static void addLinear(const slimTensor* t, uint64_t* sent) {
  const slimTree* tree = t->compressor->up.tree;
  const uint64_t ranks = (uint64_t)t->comm->ranks;
  for (uint64_t k = 0; k < slimSlices(&t->cut); k++) {
    const uint64_t n = slimSlicePiece(&t->cut, k).n, head = slimPayloadValuesAt(tree, t->type, n);
    const uint64_t values = slimPayloadBytes(tree, t->type, n) - head, each = slimAlign64(values / ranks + 1);
    for (uint64_t r = 0; r < ranks; r++) {
      const uint64_t at = r * each, own = at >= values ? 0 : values - at < each ? values - at : each;
      sent[r] += values - own + (ranks - 1) * (head + own);
    }
  }
}

slimResult_t slimPlanAllReduce(slimPlan* plan, slimCompressor* compressor, const slimSettings* settings,
                               const slimDevice* device, int ranks, slimDataType_t type, uint64_t count) {
  slimComm comm = {.device = device, .ranks = ranks, .settings = *settings};
  slimTensor t = {.comm = &comm, .compressor = compressor};
  SLIM_CHECK(slimTensorFix(&t, slimCollectiveAllReduce, type, count, -1));
  uint64_t* sent = calloc((size_t)ranks, sizeof *sent);
  if (!sent) return slimFail(slimSystemError, "out of memory for a plan of %d ranks", ranks);
  if (t.algorithm == slimAlgorithmTwoShot)
    addTwoShot(&t, sent);
  else if (t.algorithm == slimAlgorithmOneShot)
    addOneShot(&t, sent);
  else
    addLinear(&t, sent);
  *plan = (slimPlan){.algorithm = t.algorithm,
                     .slices = slimSlices(&t.cut),
                     .sliceElements = t.cut.slice < count ? t.cut.slice : count,
                     .stateBytes = slimTensorMostStateBytes(&t),
                     .plainBytes = 2 * (uint64_t)(ranks - 1) * count * slimTypeBytes(type) / (uint64_t)ranks};
  for (int r = 0; r < ranks; r++)
    if (sent[r] > plan->sentBytes) plan->sentBytes = sent[r];
  if (device->readable) plan->sentBytes += (uint64_t)(ranks - 1) * sizeof(slimCallRecord);
  free(sent);
  return slimSuccess;
}
