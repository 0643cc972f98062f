/* The state file (docs/format.md §9). */
#include "collectives/hierarchy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { SLIM_STATE_VERSION = 2, checksumBytes = 8, specLimit = 1 << 16 };

typedef struct {
  char magic[8];
  uint32_t version, ranks, rank, tensors;
  uint64_t seed;
} fileHead;

typedef struct {
  uint32_t slot, started, collective, type;
  int32_t root;
  uint32_t algorithm, shifts, specBytes; /* of the printed spec, without its end */
  uint64_t count, step, slice, denseSlice;
  uint64_t pending;                  /* values of a shift that was set after the last step */
  uint32_t pendingType, domains;     /* that compress with each other; 0: ranks do */
  double lambda;                     /* the caller's, or 0 */
  uint64_t lengths[slimStateArrays]; /* reals in s, v, h, e, H, common, m */
} tensorHead;

static const char magic[8] = {'S', 'L', 'I', 'M', 'S', 'T', 'A', 'T'};

/* ---- Bytes in and out, hashed on the way ------------------------------------------------------------------------ */

typedef struct {
  FILE* file;
  XXH3_state_t* hash;
  bool failed;
} stream;

static bool openStream(stream* s, const char* path, const char* mode) {
  *s = (stream){fopen(path, mode), XXH3_createState(), false};
  if (s->hash) XXH3_64bits_reset(s->hash);
  return s->file && s->hash;
}

static void closeStream(stream* s) {
  if (s->file) s->failed = fclose(s->file) != 0 || s->failed;
  XXH3_freeState(s->hash);
  s->file = NULL;
  s->hash = NULL;
}

static void put(stream* s, const void* data, size_t bytes) {
  static const char zeros[8];
  const size_t pad = -bytes & 7;
  if (!bytes || s->failed) return;
  s->failed = fwrite(data, 1, bytes, s->file) != bytes || fwrite(zeros, 1, pad, s->file) != pad;
  XXH3_64bits_update(s->hash, data, bytes);
  XXH3_64bits_update(s->hash, zeros, pad);
}

static void get(stream* s, void* data, size_t bytes) {
  char zeros[8];
  const size_t pad = -bytes & 7;
  if (!bytes || s->failed) return;
  s->failed = fread(data, 1, bytes, s->file) != bytes || fread(zeros, 1, pad, s->file) != pad;
  if (s->failed) return;
  XXH3_64bits_update(s->hash, data, bytes);
  XXH3_64bits_update(s->hash, zeros, pad);
}

/* An array of state, wherever it lies. */
static slimResult_t putArray(stream* s, const slimTensor* t, const slimArray* a) {
  const size_t bytes = slimArrayBytes(a, t->type);
  if (t->comm->device->readable || !bytes) {
    put(s, a->data, bytes);
    return slimSuccess;
  }
  void* host = slimAlignedAlloc(bytes);
  if (!host) return slimFail(slimSystemError, "out of memory: %zu bytes of state", bytes);
  slimResult_t result = t->comm->device->read(t->comm, host, a->data, bytes);
  if (result == slimSuccess) put(s, host, bytes);
  free(host);
  return result;
}

static slimResult_t getArray(stream* s, const slimTensor* t, const slimArray* a) {
  const size_t bytes = slimArrayBytes(a, t->type);
  if (t->comm->device->readable || !bytes) {
    get(s, a->data, bytes);
    return slimSuccess;
  }
  void* host = slimAlignedAlloc(bytes);
  if (!host) return slimFail(slimSystemError, "out of memory: %zu bytes of state", bytes);
  get(s, host, bytes);
  slimResult_t result = t->comm->device->write(t->comm, a->data, host, bytes);
  free(host);
  return result;
}

/* ---- Writing ---------------------------------------------------------------------------------------------------- */

static slimResult_t putTensor(stream* s, slimTensor* t) {
  slimPassStats last;
  if (t->started) SLIM_CHECK(t->comm->device->statistics(t, &last)); /* and the step */
  const char* spec = t->compressor->text;
  tensorHead head = {
      .slot = t->slot, .specBytes = (uint32_t)strlen(spec), .shifts = t->shifts, .root = -1, .lambda = t->lambda};
  if (t->started) {
    head.started = 1;
    head.collective = t->collective;
    head.type = t->type;
    head.root = t->root;
    head.algorithm = t->algorithm;
    head.count = t->cut.count;
    head.step = t->step;
    head.slice = t->cut.slice;
    head.denseSlice = t->dense.slice;
    if (t->comm != t->comm->home) head.domains = (uint32_t)t->comm->ranks;
    for (int i = 0; i < slimStateArrays; i++) head.lengths[i] = t->arrays[i].n;
  }
  if (t->shift) {
    head.pending = t->shiftCount;
    head.pendingType = t->shiftType;
  }
  put(s, &head, sizeof head);
  put(s, spec, head.specBytes);
  if (t->started)
    for (int i = 0; i < slimStateArrays; i++) SLIM_CHECK(putArray(s, t, &t->arrays[i]));
  if (t->shift) put(s, t->shift, t->shiftCount * slimRealBytes(t->shiftType));
  return slimSuccess;
}

slimResult_t slimStateWrite(slimComm* comm, const char* path) {
  fileHead head = {.version = SLIM_STATE_VERSION,
                   .ranks = (uint32_t)comm->ranks,
                   .rank = (uint32_t)comm->rank,
                   .seed = comm->settings.seed};
  memcpy(head.magic, magic, sizeof magic);
  for (const slimTensor* t = comm->tensors; t; t = t->next) {
    if (t->spoiled)
      return slimFail(slimInvalidUsage,
                      "slot %u has no defined state: a call failed half-way; slimTensorReset comes first", t->slot);
    head.tensors++;
  }
  const size_t length = strlen(path) + 32;
  char* temporary = malloc(length);
  if (!temporary) return slimFail(slimSystemError, "out of memory");
  snprintf(temporary, length, "%s.tmp.%ld", path, (long)getpid());
  stream s;
  slimResult_t result = slimSuccess;
  if (!openStream(&s, temporary, "wb")) {
    result = slimFail(slimSystemError, "cannot write %s: %s", temporary, strerror(errno));
    closeStream(&s);
    free(temporary);
    return result;
  }
  put(&s, &head, sizeof head);
  for (slimTensor* t = comm->tensors; t && result == slimSuccess; t = t->next) result = putTensor(&s, t);
  const uint64_t checksum = XXH3_64bits_digest(s.hash);
  s.failed = s.failed || fwrite(&checksum, 1, checksumBytes, s.file) != checksumBytes || fflush(s.file) != 0 ||
             fsync(fileno(s.file)) != 0;
  const int why = errno;
  closeStream(&s);
  if (result == slimSuccess && s.failed)
    result = slimFail(slimSystemError, "cannot write %s: %s", temporary, strerror(why));
  if (result == slimSuccess && rename(temporary, path) != 0)
    result = slimFail(slimSystemError, "cannot rename %s to %s: %s", temporary, path, strerror(errno));
  if (result != slimSuccess) remove(temporary);
  free(temporary);
  return result;
}

/* ---- Reading: everything is checked and built beside the living state before any of it is replaced ------------------
 */

static slimResult_t checkFile(const char* path) {
  stream s;
  slimResult_t result = slimSuccess;
  if (!openStream(&s, path, "rb")) {
    result = slimFail(slimSystemError, "cannot read %s: %s", path, strerror(errno));
    closeStream(&s);
    return result;
  }
  char first[sizeof magic];
  if (fread(first, 1, sizeof first, s.file) != sizeof first || memcmp(first, magic, sizeof magic) != 0)
    result = slimFail(slimInvalidArgument, "%s is not a SlimCCL state file", path);
  off_t size = -1;
  if (result == slimSuccess &&
      (fseeko(s.file, 0, SEEK_END) != 0 || (size = ftello(s.file)) < 0 || fseeko(s.file, 0, SEEK_SET) != 0))
    result = slimFail(slimSystemError, "cannot read %s: %s", path, strerror(errno));
  if (result == slimSuccess && (size < (off_t)(sizeof(fileHead) + checksumBytes) || size % 8))
    result = slimFail(slimInvalidArgument, "%s is truncated: %lld bytes", path, (long long)size);
  char buffer[1 << 16];
  for (off_t left = size - checksumBytes; result == slimSuccess && left > 0;) {
    const size_t want = left < (off_t)sizeof buffer ? (size_t)left : sizeof buffer;
    if (fread(buffer, 1, want, s.file) != want)
      result = slimFail(slimSystemError, "cannot read %s: %s", path, strerror(errno));
    XXH3_64bits_update(s.hash, buffer, want);
    left -= (off_t)want;
  }
  uint64_t checksum = 0;
  if (result == slimSuccess &&
      (fread(&checksum, 1, checksumBytes, s.file) != checksumBytes || checksum != XXH3_64bits_digest(s.hash)))
    result = slimFail(slimInvalidArgument, "%s is truncated or was altered: its checksum does not match", path);
  closeStream(&s);
  return result;
}

/* Reads one tensor into fresh, a tensor beside t. */
static slimResult_t getTensor(stream* s, const char* path, const slimTensor* t, slimTensor* fresh) {
  tensorHead head = {0};
  get(s, &head, sizeof head);
  if (s->failed || head.specBytes > specLimit) return slimFail(slimInvalidArgument, "%s is truncated", path);
  if (head.slot != t->slot)
    return slimFail(slimInvalidUsage,
                    "%s holds slot %u where this communicator has slot %u: create the same tensors before loading",
                    path, head.slot, t->slot);
  char* spec = calloc(1, (size_t)head.specBytes + 1);
  if (!spec) return slimFail(slimSystemError, "out of memory");
  get(s, spec, head.specBytes);
  const bool same = !s->failed && !strcmp(spec, t->compressor->text);
  slimResult_t result = slimSuccess;
  if (!same)
    result = slimFail(slimInvalidUsage, "%s holds slot %u with spec %s; this communicator's has %s", path, t->slot,
                      spec, t->compressor->text);
  free(spec);
  SLIM_CHECK(result);

  fresh->shifts = head.shifts;
  fresh->lambda = head.lambda;
  if (head.started) {
    const bool known = head.collective >= slimCollectiveAllReduce && head.collective <= slimCollectiveAllGather &&
                       slimTypeIsFloat((slimDataType_t)head.type) && head.algorithm >= slimAlgorithmTwoShot &&
                       head.algorithm <= slimAlgorithmLinear && head.slice && head.denseSlice && head.count;
    slimComm* home = fresh->comm;
    if (head.domains ? !home->across || home->across->ranks != (int)head.domains
                     : slimHierarchyRoute(home, (slimCollective)head.collective, head.count) != home)
      return slimFail(slimInvalidUsage, "%s: slot %u was saved by %" PRIu32 " domains of ranks; here they are %d", path,
                      t->slot, head.domains, home->across ? home->across->ranks : 0);
    if (head.domains) fresh->comm = home->across;
    fresh->collective = (slimCollective)head.collective;
    fresh->type = (slimDataType_t)head.type;
    fresh->root = head.root;
    fresh->algorithm = (slimAlgorithm)head.algorithm;
    fresh->step = head.step;
    uint32_t unit = slimTreeUnit(t->compressor->up.tree);
    const bool both = fresh->collective == slimCollectiveAllReduce || fresh->collective == slimCollectiveReduce;
    if (both && fresh->algorithm == slimAlgorithmTwoShot && slimTreeUnit(t->compressor->down.tree) > unit)
      unit = slimTreeUnit(t->compressor->down.tree);
    const uint64_t first = slimShardFirst(fresh->comm, head.count, unit);
    fresh->cut = (slimCut){head.count, head.slice, unit, fresh->comm->ranks, first};
    fresh->dense = (slimCut){head.count, head.denseSlice, unit, fresh->comm->ranks, first};
    uint64_t lengths[slimStateArrays];
    if (known) slimTensorLengths(fresh, lengths);
    if (!known || memcmp(lengths, head.lengths, sizeof lengths) != 0)
      return slimFail(slimInvalidArgument, "%s: slot %u holds state that this version does not know", path, t->slot);
    fresh->hash = slimCompressorHash(t->compressor, fresh->type);
    SLIM_CHECK(slimTensorAllocate(fresh));
    fresh->started = true;
    for (int i = 0; i < slimStateArrays; i++) SLIM_CHECK(getArray(s, fresh, &fresh->arrays[i]));
  }
  if (head.pending) {
    fresh->shiftCount = head.pending;
    fresh->shiftType = (slimDataType_t)head.pendingType;
    fresh->shift =
        head.pending <= SIZE_MAX / 16 ? slimAlignedAlloc(head.pending * slimRealBytes(fresh->shiftType)) : NULL;
    if (!fresh->shift) return slimFail(slimSystemError, "out of memory for a shift");
    get(s, fresh->shift, head.pending * slimRealBytes(fresh->shiftType));
  }
  return s->failed ? slimFail(slimInvalidArgument, "%s is truncated", path) : slimSuccess;
}

static slimResult_t getHead(stream* s, const char* path, const slimComm* comm) {
  fileHead head = {0};
  get(s, &head, sizeof head);
  if (s->failed) return slimFail(slimInvalidArgument, "%s is truncated", path);
  if (head.version != SLIM_STATE_VERSION)
    return slimFail(slimInvalidUsage, "%s has version %" PRIu32 " of the state file; this SlimCCL reads version %d",
                    path, head.version, SLIM_STATE_VERSION);
  if (head.ranks != (uint32_t)comm->ranks)
    return slimFail(slimInvalidUsage, "%s was saved by one of %" PRIu32 " ranks; this communicator has %d", path,
                    head.ranks, comm->ranks);
  if (head.rank != (uint32_t)comm->rank)
    return slimFail(slimInvalidUsage, "%s was saved by rank %" PRIu32 "; this is rank %d", path, head.rank, comm->rank);
  if (head.seed != comm->settings.seed)
    return slimFail(slimInvalidUsage, "%s was saved under seed %" PRIu64 "; this communicator has %" PRIu64, path,
                    head.seed, comm->settings.seed);
  uint32_t tensors = 0;
  for (const slimTensor* t = comm->tensors; t; t = t->next) tensors++;
  if (head.tensors != tensors)
    return slimFail(slimInvalidUsage,
                    "%s holds %" PRIu32 " tensors; this communicator has %" PRIu32
                    ": create the same tensors before loading",
                    path, head.tensors, tensors);
  return slimSuccess;
}

/* What a file brings, and nothing else, goes from fresh to t. */
static void adopt(slimTensor* t, const slimTensor* fresh) {
  slimTensorForget(t);
  t->comm = fresh->comm;
  t->started = fresh->started;
  t->collective = fresh->collective;
  t->type = fresh->type;
  t->root = fresh->root;
  t->algorithm = fresh->algorithm;
  t->hash = fresh->hash;
  t->cut = fresh->cut;
  t->dense = fresh->dense;
  t->step = fresh->step;
  memcpy(t->arrays, fresh->arrays, sizeof t->arrays);
  t->shift = fresh->shift;
  t->shiftCount = fresh->shiftCount;
  t->shiftType = fresh->shiftType;
  t->shifts = fresh->shifts;
  t->lambda = fresh->lambda;
  t->sent = fresh->sent;
  t->sentStride = fresh->sentStride;
  t->onDevice = fresh->onDevice;
}

slimResult_t slimStateRead(slimComm* comm, const char* path) {
  SLIM_CHECK(checkFile(path));
  size_t tensors = 0;
  for (const slimTensor* t = comm->tensors; t; t = t->next) tensors++;
  slimTensor* fresh = calloc(tensors + 1, sizeof *fresh);
  stream s = {0};
  slimResult_t result = slimSuccess;
  if (!fresh)
    result = slimFail(slimSystemError, "out of memory");
  else if (!openStream(&s, path, "rb"))
    result = slimFail(slimSystemError, "cannot read %s: %s", path, strerror(errno));
  if (result == slimSuccess) result = getHead(&s, path, comm);
  size_t i = 0;
  for (const slimTensor* t = comm->tensors; result == slimSuccess && t; t = t->next, i++) {
    fresh[i].comm = comm;
    fresh[i].slot = t->slot;
    fresh[i].compressor = t->compressor;
    result = getTensor(&s, path, t, &fresh[i]);
  }
  uint64_t checksum = 0;
  if (result == slimSuccess &&
      (fread(&checksum, 1, checksumBytes, s.file) != checksumBytes || checksum != XXH3_64bits_digest(s.hash)))
    result = slimFail(slimInvalidArgument, "%s was altered while it was read", path);
  closeStream(&s);
  i = 0;
  for (slimTensor* t = comm->tensors; fresh && t; t = t->next, i++) {
    if (result == slimSuccess)
      adopt(t, &fresh[i]);
    else if (fresh[i].comm)
      slimTensorForget(&fresh[i]);
  }
  free(fresh);
  return result;
}
