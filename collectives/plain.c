#include "collectives/plain.h"

#include <stdio.h>

#include "collectives/sum.h"

typedef struct {
  slimComm* comm;
  slimCollective collective;
  const char* x;
  char* y;
  uint64_t count;
  slimDataType_t type;
  slimRedOp_t op;
  int root;
  size_t size;    /* of an element */
  uint64_t slice; /* elements; of a part in reduce-scatter */
  size_t stride;  /* bytes between staged chunks */
} plainCall;

typedef struct {
  uint64_t at, n;
} range;

static range sliceOf(const plainCall* c, uint64_t k) {
  const uint64_t at = k * c->slice, rest = c->count - at;
  return (range){at, rest < c->slice ? rest : c->slice};
}

/* The part of slice k that rank reduces, as indices of x. */
static range chunkOf(const plainCall* c, uint64_t k, int rank) {
  const range s = sliceOf(c, k);
  const uint64_t r = (uint64_t)rank, ranks = (uint64_t)c->comm->ranks;
  if (c->collective == slimCollectiveReduceScatter) return (range){r * c->count + s.at, s.n};
  const uint64_t each = (s.n / ranks + 15) / 16 * 16 + 16,
                 from = each * r < s.n ? each * r : s.n; /* whole cache lines */
  return (range){s.at + from, s.n - from < each ? s.n - from : each};
}

static char* staged(const plainCall* c, uint64_t k, int piece) {
  return (char*)c->comm->staging + ((k % 2) * (size_t)(c->comm->ranks + 1) + (size_t)piece) * c->stride;
}

/* Every rank reduces its chunk of the slice: where the result goes. */
static char* resultOf(const plainCall* c, uint64_t k) {
  if (c->collective == slimCollectiveReduceScatter) return c->y + sliceOf(c, k).at * c->size;
  const bool here = c->collective == slimCollectiveAllReduce || c->comm->rank == c->root;
  return here ? c->y + chunkOf(c, k, c->comm->rank).at * c->size : staged(c, k, c->comm->ranks);
}

static slimResult_t scatter(const plainCall* c, uint64_t k) {
  slimComm* comm = c->comm;
  const range own = chunkOf(c, k, comm->rank);
  for (int p = 0; p < comm->ranks; p++) {
    const range theirs = chunkOf(c, k, p);
    comm->lanes[p] = (slimLane){c->x + theirs.at * c->size, theirs.n * c->size, staged(c, k, p), own.n * c->size};
  }
  return slimBegin(comm, (int)(k % 2));
}

static slimResult_t combine(const plainCall* c, uint64_t k) {
  slimComm* comm = c->comm;
  SLIM_CHECK(slimWait(comm, (int)(k % 2)));
  const range own = chunkOf(c, k, comm->rank);
  for (int p = 0; p < comm->ranks; p++)
    comm->payloads[p] = (const uint8_t*)(p == comm->rank ? c->x + own.at * c->size : staged(c, k, p));
  char* result = resultOf(c, k);
  slimCombine(c->type, c->op, (const void* const*)comm->payloads, comm->ranks, own.n, result);
  if (c->collective == slimCollectiveReduceScatter) return slimSuccess;
  for (int p = 0; p < comm->ranks; p++) {
    const range theirs = chunkOf(c, k, p);
    const bool there = c->root < 0 || p == c->root, here = c->root < 0 || comm->rank == c->root;
    comm->lanes[p] = (slimLane){result, there ? own.n * c->size : 0, here ? c->y + theirs.at * c->size : NULL,
                                here ? theirs.n * c->size : 0};
  }
  return slimBegin(comm, 2 + (int)(k % 2));
}

static slimResult_t reduce(plainCall* c) {
  slimComm* comm = c->comm;
  const uint64_t slices = c->count / c->slice + (c->count % c->slice != 0);
  for (uint64_t k = 0; k < slices + 2; k++) {
    if (k < slices) SLIM_CHECK(scatter(c, k));
    if (k >= 1 && k - 1 < slices) SLIM_CHECK(combine(c, k - 1));
    if (k >= 2 && c->collective != slimCollectiveReduceScatter) SLIM_CHECK(slimWait(comm, 2 + (int)(k % 2)));
  }
  return slimSuccess;
}

static slimResult_t gather(const plainCall* c) {
  slimComm* comm = c->comm;
  const size_t bytes = c->count * c->size;
  for (int p = 0; p < comm->ranks; p++)
    if (p != comm->rank) comm->lanes[p] = (slimLane){c->x, bytes, c->y + (size_t)p * bytes, bytes};
  SLIM_CHECK(slimBegin(comm, 0));
  char* own = c->y + (size_t)comm->rank * bytes;
  if (own != c->x) SLIM_CHECK(comm->device->copy(comm, own, c->x, bytes));
  return slimWait(comm, 0);
}

static slimResult_t broadcast(const plainCall* c) {
  slimComm* comm = c->comm;
  const size_t bytes = c->count * c->size;
  if (comm->rank == c->root && c->x != c->y) SLIM_CHECK(comm->device->copy(comm, c->y, c->x, bytes));
  slimSpreadFirst(comm, c->root, (uint8_t*)c->y, bytes);
  SLIM_CHECK(slimBegin(comm, 0));
  SLIM_CHECK(slimWait(comm, 0));
  slimSpreadSecond(comm, c->root, (uint8_t*)c->y, bytes);
  SLIM_CHECK(slimBegin(comm, 1));
  return slimWait(comm, 1);
}

slimResult_t slimPlain(slimComm* comm, slimCollective collective, const void* x, void* y, uint64_t count,
                       slimDataType_t type, slimRedOp_t op, int root) {
  plainCall c = {comm, collective, x, y, count, type, op, root, slimTypeBytes(type), 0, 0};
  const uint64_t ranks = (uint64_t)comm->ranks;
  slimCallRecord record = {
      .collective = collective, .type = type, .op = op, .slot = UINT32_MAX, .root = root, .count = count};
  slimResult_t result = slimSuccess;
  const bool reduces = collective != slimCollectiveAllGather && collective != slimCollectiveBroadcast;
  if (reduces && !comm->device->readable)
    return slimFail(
        slimInvalidUsage,
        "plain %s of device memory: only all-gather and broadcast; give a tensor (spec fp32 sends all bits), "
        "and op sum or avg of floats",
        slimCollectiveName((int)collective));
  if (reduces && count) {
    c.slice = comm->settings.sliceBytes / c.size;
    if (collective == slimCollectiveReduceScatter) c.slice /= ranks;
    if (c.slice < 1024) c.slice = 1024;
    const uint64_t slice = c.slice < count ? c.slice : count;
    const uint64_t chunk = collective == slimCollectiveReduceScatter ? slice : slice / ranks + 32;
    c.stride = slimAlign64(chunk * c.size);
    result = comm->device->stage(comm, 2 * (size_t)(comm->ranks + 1) * c.stride);
  }
  record.result = result;
  if (comm->device->readable) {
    char reason[256];
    snprintf(reason, sizeof reason, "%s", slimLastMessage());
    SLIM_CHECK(slimAgreeBegin(comm, &record));
    SLIM_CHECK(slimAgreeEnd(comm, &record, reason, NULL));
  }
  SLIM_CHECK(result);
  if (!count) return slimSuccess;
  if (reduces) return reduce(&c);
  return collective == slimCollectiveAllGather ? gather(&c) : broadcast(&c);
}
