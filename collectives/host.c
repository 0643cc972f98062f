/* The CPU as a device: buffers in host memory, each pass done when its function returns. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/step.h"

static void closeComm(slimComm* comm) {
  if (!comm->transport->holdsBuffers) free(comm->staging);
}

static slimResult_t enter(slimComm* comm, void* stream, bool own) {
  (void)comm, (void)own;
  return stream ? slimFail(slimInvalidArgument, "stream is not NULL: buffers in host memory take no stream")
                : slimSuccess;
}
static slimResult_t leave(slimComm* comm, slimResult_t result) {
  (void)comm;
  return result;
}
static void stay(slimComm* comm) { (void)comm; }
static slimResult_t reported(slimComm* comm) {
  (void)comm;
  return slimSuccess;
}
static bool never(const slimComm* comm) {
  (void)comm;
  return false;
}

static bool capturesOn(slimComm* comm, void* stream) {
  (void)comm, (void)stream;
  return false;
}
static slimResult_t holds(slimComm* comm, const char* name, const void* p) {
  (void)comm, (void)name, (void)p;
  return slimSuccess;
}

/* ---- Memory ----------------------------------------------------------------------------------------------------- */

static slimResult_t stage(slimComm* comm, size_t bytes) {
  if (bytes <= comm->stagingBytes) return slimSuccess;
  if (comm->broken) return slimFail(slimRemoteError, "this communicator failed earlier: %s", comm->why);
  uint8_t* staging = slimAlignedAlloc(bytes);
  if (!staging) return slimFail(slimSystemError, "out of memory: %zu bytes of buffers for payloads", bytes);
  free(comm->staging);
  comm->staging = staging;
  comm->stagingBytes = bytes;
  return slimSuccess;
}

static void* alloc(slimComm* comm, size_t bytes) {
  (void)comm;
  void* p = slimAlignedAlloc(bytes);
  if (!p) (void)slimFail(slimSystemError, "out of memory: %zu bytes", bytes);
  return p;
}
static void release(slimComm* comm, void* p) {
  (void)comm;
  free(p);
}
static slimResult_t copy(slimComm* comm, void* to, const void* from, size_t bytes) {
  (void)comm;
  if (bytes) memcpy(to, from, bytes);
  return slimSuccess;
}

/* ---- Tensors and passes ----------------------------------------------------------------------------------------- */

static slimResult_t openTensor(slimTensor* t) {
  (void)t;
  return slimSuccess;
}
static void closeTensor(slimTensor* t) { (void)t; }
static slimResult_t noStep(slimCall* call) {
  (void)call;
  return slimSuccess;
}
static slimResult_t statistics(slimTensor* t, slimPassStats* last) {
  (void)t, (void)last; /* slimStep keeps them */
  return slimSuccess;
}

/* The common λ of the unit that holds element at. */
static void* commonAt(const void* lambda, const slimTree* tree, slimDataType_t type, uint64_t at) {
  return lambda ? (char*)(uintptr_t)lambda + at / slimTreeUnit(tree) * slimRealBytes(type) : NULL;
}

static slimResult_t encode(slimCall* call, const slimEncodePass* pass, const slimSplit* split) {
  for (int i = 0; i < split->pieces; i++) {
    slimEncodePass piece = *pass;
    uint64_t at;
    slimSplitPiece(split, i, pass->n, &piece.n, &at);
    if (!piece.n) continue;
    piece.first += at;
    piece.x = slimAt(pass->x, pass->type, at);
    piece.s = pass->s ? (char*)pass->s + at * slimMemoryBytes(&pass->direction->feedback, pass->type) : NULL;
    piece.v = pass->v ? (char*)pass->v + at * slimRealBytes(pass->type) : NULL;
    piece.payload += (size_t)i * split->stride;
    piece.lambda = commonAt(pass->lambda, pass->direction->tree, pass->type, at);
    if (pass->mean) piece.mean += i, piece.table += i;
    SLIM_CHECK(slimPassEncode(&piece, call->comm->pool));
  }
  return slimSuccess;
}

static slimResult_t reduce(slimCall* call, const slimReducePass* pass) {
  return slimPassReduce(pass, call->comm->pool);
}

static slimResult_t decode(slimCall* call, const slimDecodePass* pass, const slimSplit* split) {
  for (int i = 0; i < split->pieces; i++) {
    slimDecodePass piece = *pass;
    uint64_t at;
    slimSplitPiece(split, i, pass->n, &piece.n, &at);
    if (!piece.n) continue;
    piece.first += at;
    piece.stamp.rank += (uint32_t)i;
    piece.payload += (size_t)i * split->stride;
    piece.h = pass->h ? (char*)pass->h + at * slimRealBytes(pass->type) : NULL;
    piece.lambda = commonAt(pass->lambda, pass->direction->tree, pass->type, at);
    piece.y = pass->y ? slimAtMutable(pass->y, pass->type, at) : NULL;
    const size_t bytes = slimPayloadBytes(pass->direction->tree, pass->type, piece.n);
    if (slimExpect(call, piece.payload, &piece.stamp, (slimPiece){at, piece.first, piece.n}, bytes, 0))
      SLIM_CHECK(slimPassDecode(&piece, call->comm->pool));
  }
  return slimSuccess;
}

static slimResult_t cancel(slimTensor* t, const slimDecodePass* sent, const void* x, void* s) {
  return slimPassCancel(sent, x, s, t->comm->pool);
}

/* ---- Dense ------------------------------------------------------------------------------------------------------ */

static slimResult_t denseEncode(slimCall* call, const slimStamp* stamp, const void* x, bool xIsReal, uint64_t n,
                                uint64_t first, uint8_t* payload) {
  slimDenseEncode(stamp, call->tensor->type, x, xIsReal, n, first, payload);
  return slimSuccess;
}

static slimResult_t denseReduce(slimCall* call, uint64_t n, int ranks, const uint8_t* const* payloads, void* dst) {
  slimDenseReduce(call->tensor->type, n, ranks, payloads, 1.0 / ranks, dst);
  return slimSuccess;
}

static slimResult_t fromReal(slimCall* call, const void* src, uint64_t n, double factor, void* y) {
  slimFromReal(call->tensor->type, src, n, factor, y);
  return slimSuccess;
}

static bool finiteReal(size_t real, const void* a, uint64_t i) {
  return real == 8 ? isfinite(((const double*)a)[i]) : isfinite(((const float*)a)[i]);
}

static slimResult_t copyFinite(slimCall* call, const void* src, uint64_t n, void* dst) {
  const size_t real = slimRealBytes(call->tensor->type);
  for (uint64_t i = 0; i < n; i++)
    if (finiteReal(real, src, i)) memcpy((char*)dst + i * real, (const char*)src + i * real, real);
  return slimSuccess;
}

enum { group = 64 }; /* elements that take a new shift together */

static bool groupFinite(slimDataType_t type, const void* x, uint64_t n, void* reals) {
  slimToReal(type, x, n, reals);
  bool finite = true;
  for (uint64_t i = 0; i < n; i++) finite = finiteReal(slimRealBytes(type), reals, i) && finite;
  return finite;
}

static slimResult_t takeFinite(slimCall* call, const void* x, uint64_t n, void* dst) {
  const slimDataType_t type = call->tensor->type;
  double reals[group];
  for (uint64_t i = 0; i < n; i += group) {
    const uint64_t m = n - i < group ? n - i : group;
    if (groupFinite(type, slimAt(x, type, i), m, reals))
      memcpy((char*)dst + i * slimRealBytes(type), reals, m * slimRealBytes(type));
  }
  return slimSuccess;
}

bool slimFinite(slimDataType_t type, const void* x, uint64_t n) {
  double reals[group];
  for (uint64_t i = 0; i < n; i += group)
    if (!groupFinite(type, slimAt(x, type, i), n - i < group ? n - i : group, reals)) return false;
  return true;
}

static slimResult_t scale(slimTensor* t, void* a, uint64_t n, double factor) {
  slimScaleReal(t->type, a, n, factor);
  return slimSuccess;
}

static slimResult_t scaleMemory(slimTensor* t, const slimStamp* stamp, uint16_t* a, uint64_t n, double factor) {
  (void)t;
  slimScaleMemory(stamp, a, n, factor);
  return slimSuccess;
}

const slimDevice slimHost = {.readable = true,
                             .close = closeComm,
                             .enter = enter,
                             .leave = leave,
                             .pause = stay,
                             .resume = stay,
                             .reported = reported,
                             .alarmed = never,
                             .captures = never,
                             .capturesOn = capturesOn,
                             .holds = holds,
                             .stage = stage,
                             .alloc = alloc,
                             .release = release,
                             .copy = copy,
                             .read = copy,
                             .write = copy,
                             .openTensor = openTensor,
                             .closeTensor = closeTensor,
                             .beginStep = noStep,
                             .endStep = noStep,
                             .statistics = statistics,
                             .encode = encode,
                             .reduce = reduce,
                             .decode = decode,
                             .cancel = cancel,
                             .denseEncode = denseEncode,
                             .denseReduce = denseReduce,
                             .fromReal = fromReal,
                             .copyFinite = copyFinite,
                             .takeFinite = takeFinite,
                             .scale = scale,
                             .scaleMemory = scaleMemory};
