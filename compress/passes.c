/* The passes of compress.h: headers, threads, and the floating-point environment around the kernels. */
#include <stdlib.h>
#include <string.h>

#include "compress/codec/tnqsgd.h"
#include "compress/cpu/pool.h"
#include "compress/fpenv.h"
#include "compress/kernels.h"

/* Units a task: some 64k elements, and whole bytes of flags. */
static uint64_t unitsPerTask(const slimTree* tree) {
  const uint64_t units = (65536 / tree->unit + 7) / 8 * 8;
  return units < 8 ? 8 : units;
}

typedef struct {
  const void* pass;
  const slimLayout *layout, *down;
  const slimSurvey* survey;
  uint64_t units, perTask;
  slimPassStats* stats; /* one a task, or NULL */
  const slimKernels* kernels;
  slimResult_t result;
} slimJob;

static slimResult_t runJob(slimJob* job, slimPool* pool, void (*work)(void*, uint64_t), const slimTree* tree,
                           slimPassStats* stats) {
  job->kernels = slimKernelsInUse();
  job->result = slimSuccess;
  job->perTask = slimSelector(tree) ? job->units : unitsPerTask(tree);
  const uint64_t tasks = job->units ? (job->units + job->perTask - 1) / job->perTask : 0;
  slimPassStats one = {0};
  job->stats = NULL;
  if (stats) {
    job->stats = tasks > 1 ? calloc(tasks, sizeof *job->stats) : &one;
    if (!job->stats) return slimFail(slimSystemError, "no memory for statistics");
  }
  slimPoolRun(pool, work, job, tasks);
  for (uint64_t t = 0; stats && t < tasks; t++) {
    stats->xx += job->stats[t].xx;
    stats->uu += job->stats[t].uu;
    stats->error += job->stats[t].error;
    stats->ss += job->stats[t].ss;
    stats->flagged += job->stats[t].flagged;
  }
  if (job->stats && job->stats != &one) free(job->stats);
  return job->result;
}

/* Every function below runs one task of a job; only piece-wide selectors, which are one task, can fail. */
#define SLIM_TASK(name, call)                                                                          \
  static void name(void* context, uint64_t task) {                                                     \
    slimJob* job = context;                                                                            \
    const uint64_t u0 = task * job->perTask;                                                           \
    const uint64_t u1 = u0 + job->perTask < job->units ? u0 + job->perTask : job->units;               \
    slimPassStats* stats = job->stats ? &job->stats[task] : NULL;                                      \
    float* scratch = slimScratch();                                                                    \
    (void)stats;                                                                                       \
    slimResult_t result = scratch ? (call) : slimFail(slimSystemError, "no memory for scratch space"); \
    if (result != slimSuccess) __atomic_store_n(&job->result, result, __ATOMIC_RELAXED);               \
  }

SLIM_TASK(encodeTask, job->kernels->encode(job->pass, job->layout, job->survey, u0, u1, stats, scratch))
SLIM_TASK(reduceTask, job->kernels->reduce(job->pass, job->layout, job->down, u0, u1, stats, scratch))
SLIM_TASK(decodeTask, job->kernels->decode(job->pass, job->layout, u0, u1, scratch))

/* Flags, and the gaps between parts, before the kernels fill the rest. */
static void clearPayload(const slimTree* tree, const slimLayout* layout, slimDataType_t type, uint8_t* payload) {
  memset(payload + layout->flags, 0, layout->exponents - layout->flags);
  size_t end = tree->sections ? layout->section[0] : layout->bytes;
  if (type == slimFloat64) {
    const size_t used = layout->exponents + 4 * layout->units;
    memset(payload + used, 0, layout->index - used);
  }
  if (end > layout->index) {
    const size_t used = layout->index + 4 * layout->values;
    memset(payload + used, 0, end - used);
  }
  const uint64_t full = layout->values / tree->unit;
  const uint32_t rest = (uint32_t)(layout->values % tree->unit);
  for (uint32_t i = 0; i < tree->sections; i++) {
    end = i + 1 < tree->sections ? layout->section[i + 1] : layout->bytes;
    const size_t used = layout->section[i] + full * tree->section[i].bytes +
                        (rest ? slimSectionBytes(tree->section[i], tree->unit, rest) : 0);
    memset(payload + used, 0, end - used);
  }
}

/* The statistics that the units' parts make (format.md §5); false: there are none. */
static bool shapeOf(const slimPartial* partial, uint64_t units, bool powerlaw, slimShape* shape) {
  double sum[128] = {0}, logs[128] = {0}, count = 0, nv = 0;
  for (uint64_t u = 0; u < units; u++) {
    sum[u % 128] += partial[u].sum;
    logs[u % 128] += partial[u].logs;
    count += partial[u].count;
    nv += partial[u].nv;
  }
  for (int w = 64; w; w /= 2)
    for (int j = 0; j < w; j++) sum[j] += sum[j + w], logs[j] += logs[j + w];
  if (!(nv > 0)) return false;
  *shape = (slimShape){(float)(sum[0] / nv), powerlaw ? slimPowerTable(count, nv, logs[0]) : 0};
  return true;
}

/* stats=tensor, stats=previous. */
static slimResult_t encodeGathered(const slimEncodePass* pass, slimJob* job, slimPool* pool) {
  const slimTree* tree = pass->direction->tree;
  const bool powerlaw = slimRoot(tree)->powerlaw, kept = slimTreeRemembers(tree) && pass->mean;
  slimPartial* partials = calloc(job->units ? job->units : 1, sizeof *partials);
  if (!partials) return slimFail(slimSystemError, "no memory for statistics");
  const slimFpState fp = slimFpEnter(); /* statistics may be denormal */
  slimSurvey survey = {.partials = partials, .only = true};
  job->survey = &survey;
  slimResult_t result = slimSuccess;
  if (kept) survey.shape = (slimShape){*pass->mean, (uint32_t)*pass->table};
  if (!(survey.shape.mean > 0)) {
    result = runJob(job, pool, encodeTask, tree, NULL);
    shapeOf(partials, job->units, powerlaw, &survey.shape);
    if (result == slimSuccess && powerlaw) {
      result = runJob(job, pool, encodeTask, tree, NULL);
      shapeOf(partials, job->units, powerlaw, &survey.shape);
    }
  }
  survey.only = false;
  if (!kept) survey.partials = NULL;
  if (result == slimSuccess) result = runJob(job, pool, encodeTask, tree, pass->stats);
  if (result == slimSuccess && kept && shapeOf(partials, job->units, powerlaw, &survey.shape)) {
    *pass->mean = survey.shape.mean;
    *pass->table = (float)survey.shape.table;
  }
  slimFpLeave(fp);
  free(partials);
  return result;
}

slimResult_t slimPassEncode(const slimEncodePass* pass, slimPool* pool) {
  const slimTree* tree = pass->direction->tree;
  const slimLayout layout = slimLayoutOf(tree, pass->type, pass->n);
  slimHeaderWrite(pass->payload, &pass->stamp, pass->n, pass->first, layout.bytes, 0);
  clearPayload(tree, &layout, pass->type, pass->payload);
  slimJob job = {.pass = pass, .layout = &layout, .units = layout.units};
  if (slimTreeGathers(tree)) return encodeGathered(pass, &job, pool);
  return runJob(&job, pool, encodeTask, tree, pass->stats);
}

/* Where up- and downlink do not share units, or the downlink looks at the whole piece first: reduce to reals, then
 * encode. */
static slimResult_t reduceInTwo(const slimReducePass* pass, slimPool* pool) {
  const slimDataType_t real = pass->type == slimFloat64 ? slimFloat64 : slimFloat32;
  void* mean = malloc(pass->n ? pass->n * slimRealBytes(pass->type) : 1);
  if (!mean) return slimFail(slimSystemError, "no memory for %llu elements", (unsigned long long)pass->n);
  slimReducePass up = *pass;
  up.down = NULL;
  up.type = real;
  up.y = mean;
  up.factor = 1;
  slimResult_t result = slimPassReduce(&up, pool);
  if (result == slimSuccess) {
    slimDirection down = *pass->down;
    if (down.feedback.kind != slimFeedbackEf) { /* the owner's slice of H is written by decode, on all ranks alike */
      down.feedback.a = 1;
      down.feedback.b = down.feedback.c = 0;
    }
    const slimEncodePass encode = {.direction = &down,
                                   .stamp = pass->stamp,
                                   .type = real,
                                   .x = mean,
                                   .n = pass->n,
                                   .first = pass->first,
                                   .s = pass->e,
                                   .payload = pass->payload,
                                   .stats = pass->stats,
                                   .mean = pass->mean,
                                   .table = pass->table};
    result = slimPassEncode(&encode, pool);
  }
  free(mean);
  return result;
}

slimResult_t slimPassReduce(const slimReducePass* pass, slimPool* pool) {
  const slimTree* tree = pass->up->tree;
  if (pass->down && (slimSelector(tree) || slimSelector(pass->down->tree) || tree->unit != pass->down->tree->unit ||
                     slimTreeGathers(pass->down->tree)))
    return reduceInTwo(pass, pool);
  const slimLayout layout = slimLayoutOf(tree, pass->type, pass->n);
  slimLayout down = {0};
  if (pass->down) {
    down = slimLayoutOf(pass->down->tree, pass->type, pass->n);
    slimHeaderWrite(pass->payload, &pass->stamp, pass->n, pass->first, down.bytes, 0);
    clearPayload(pass->down->tree, &down, pass->type, pass->payload);
  }
  slimJob job = {.pass = pass, .layout = &layout, .down = &down, .units = layout.units};
  if (slimSelector(tree)) job.units = (pass->n + SLIM_PIECE_STEP - 1) / SLIM_PIECE_STEP;
  return runJob(&job, pool, reduceTask, tree, pass->down ? pass->stats : NULL);
}

slimResult_t slimPassDecode(const slimDecodePass* pass, slimPool* pool) {
  const slimTree* tree = pass->direction->tree;
  const slimLayout layout = slimLayoutOf(tree, pass->type, pass->n);
  slimJob job = {.pass = pass, .layout = &layout, .units = layout.units};
  if (slimSelector(tree)) job.units = (pass->n + SLIM_PIECE_STEP - 1) / SLIM_PIECE_STEP;
  return runJob(&job, pool, decodeTask, tree, NULL);
}

slimResult_t slimPassCancel(const slimDecodePass* sent, const void* x, void* s, slimPool* pool) {
  (void)pool;
  float* scratch = slimScratch();
  if (!scratch) return slimFail(slimSystemError, "no memory for scratch space");
  const slimLayout layout = slimLayoutOf(sent->direction->tree, sent->type, sent->n);
  slimFpState fp = slimFpEnter();
  slimResult_t result = slimKernelsInUse()->cancel(sent, &layout, x, s, scratch);
  slimFpLeave(fp);
  return result;
}

void slimDenseEncode(const slimStamp* stamp, slimDataType_t type, const void* x, bool xIsReal, uint64_t n,
                     uint64_t first, uint8_t* payload) {
  const size_t bytes = slimDensePayloadBytes(type, n), used = sizeof(slimHeader) + n * slimRealBytes(type);
  slimHeaderWrite(payload, stamp, n, first, bytes, slimHeaderDense);
  if (xIsReal && n)
    memcpy(payload + sizeof(slimHeader), x, n * slimRealBytes(type));
  else if (n)
    slimToReal(type, x, n, payload + sizeof(slimHeader));
  memset(payload + used, 0, bytes - used);
}

#define SLIM_IN_DEFAULT_FP(call)    \
  do {                              \
    slimFpState fp = slimFpEnter(); \
    slimKernelsInUse()->call;       \
    slimFpLeave(fp);                \
  } while (0)

void slimDenseReduce(slimDataType_t type, uint64_t n, int ranks, const uint8_t* const* payloads, double weight,
                     void* dst) {
  SLIM_IN_DEFAULT_FP(denseReduce(type, n, ranks, payloads, weight, dst));
}
void slimFromReal(slimDataType_t type, const void* src, uint64_t n, double factor, void* y) {
  SLIM_IN_DEFAULT_FP(fromReal(type, src, n, factor, y));
}
void slimToReal(slimDataType_t type, const void* src, uint64_t n, void* dst) {
  SLIM_IN_DEFAULT_FP(toReal(type, src, n, dst));
}
void slimScaleReal(slimDataType_t type, void* a, uint64_t n, double factor) {
  SLIM_IN_DEFAULT_FP(scale(type, a, n, factor));
}
void slimScaleMemory(const slimStamp* stamp, uint16_t* a, uint64_t n, double factor) {
  SLIM_IN_DEFAULT_FP(scaleMemory(stamp, a, n, factor));
}
