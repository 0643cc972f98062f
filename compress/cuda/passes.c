#include "compress/cuda/passes.h"

#include <string.h>

/* ---- Launching -------------------------------------------------------------------------------------------------- */

static slimLaunch launchOf(const slimCudaDevice* device, slimDeviceKernel first, const slimTree* tree,
                           const slimTree* down, slimDataType_t type, uint64_t n) {
  return slimLaunchOf(first, tree, down, type, n, device->sharedLimit);
}

/* The device's copy of one of the compressor's trees. */
static const slimTree* onDevice(const slimCudaQueue* q, const slimTree* tree) {
  const uint8_t* trees = (const uint8_t*)(q->slot + 1);
  return (const slimTree*)(const void*)(tree == q->compressor->up.tree ? trees : trees + q->compressor->up.tree->bytes);
}

void slimCudaSlotStart(slimCudaSlot* slot, const slimCompressor* c) {
  *slot = (slimCudaSlot){0};
  uint8_t* trees = (uint8_t*)(slot + 1);
  memcpy(trees, c->up.tree, c->up.tree->bytes);
  memcpy(trees + c->up.tree->bytes, c->down.tree, c->down.tree->bytes);
}

/* What is left of the workspace from `used` bytes on. */
static float* scratchAt(const slimCudaQueue* q, const slimLaunch* launch, size_t used) {
  return launch->scratchFloats ? (float*)(void*)(q->workspace + used) : NULL;
}

static slimResult_t run(const slimCudaQueue* q, const slimLaunch* launch, const void* args, size_t used) {
  return slimCudaLaunch(q->device, launch, args, q->workspaceBytes - used, q->stream);
}

/* ---- Selectors over a whole piece: several launches, sharing lists of what was selected ------------------------- */

/* Where the lists of `lists` payloads lie in the workspace, from `used` on. */
typedef struct {
  size_t state, tiles, index, values, end;
  uint64_t indexStride, valueStride; /* between payloads, in words */
} selection;

static size_t align(size_t at) { return (at + 255) & ~(size_t)255; }

static selection selectionOf(const slimTree* tree, slimDataType_t type, uint64_t n, int lists, size_t used) {
  const slimLayout layout = slimLayoutOf(tree, type, n);
  selection s = {
      .state = align(used), .indexStride = layout.values, .valueStride = slimRoundUp(layout.values, tree->unit)};
  s.tiles = align(s.state + sizeof(slimSelectState));
  s.index = align(s.tiles + 2 * sizeof(uint32_t) * ((n + SLIM_PIECE_STEP - 1) / SLIM_PIECE_STEP));
  s.values = align(s.index + sizeof(uint32_t) * s.indexStride * (uint64_t)lists);
  s.end = align(s.values + sizeof(float) * s.valueStride * (uint64_t)lists);
  return s;
}

static slimSelectArgs selectArgs(const slimCudaQueue* q, const slimDirection* direction, const selection* s, int list,
                                 const slimStamp* stamp, slimDataType_t type, uint64_t n, uint64_t first,
                                 uint8_t* payload) {
  return (slimSelectArgs){.tree = onDevice(q, direction->tree),
                          .step = &q->slot->step,
                          .payload = payload,
                          .state = (slimSelectState*)(void*)(q->workspace + s->state),
                          .tiles = (uint32_t*)(void*)(q->workspace + s->tiles),
                          .index = (uint32_t*)(void*)(q->workspace + s->index) + (uint64_t)list * s->indexStride,
                          .values = (float*)(void*)(q->workspace + s->values) + (uint64_t)list * s->valueStride,
                          .feedback = direction->feedback,
                          .stamp = *stamp,
                          .n = n,
                          .first = first,
                          .type = (int32_t)type};
}

static slimResult_t selectStage(const slimCudaQueue* q, slimDeviceKernel kernel, const slimTree* tree,
                                slimSelectArgs* args, size_t used) {
  const slimLaunch launch = launchOf(q->device, kernel, tree, NULL, (slimDataType_t)args->type, args->n);
  args->scratch = scratchAt(q, &launch, used);
  args->scratchFloats = launch.scratchFloats;
  return run(q, &launch, args, used);
}

/* Finds the k largest keys: their indices, in order, and with x their values. */
static slimResult_t selectKeys(const slimCudaQueue* q, const slimTree* tree, slimSelectArgs* args, size_t used) {
  SLIM_CHECK(selectStage(q, slimKernel_select_start, tree, args, used));
  for (int i = 0; i < slimSelectRounds(args); i++) {
    SLIM_CHECK(selectStage(q, slimKernel_select_count, tree, args, used));
    SLIM_CHECK(selectStage(q, slimKernel_select_narrow, tree, args, used));
  }
  SLIM_CHECK(selectStage(q, slimKernel_select_tally, tree, args, used));
  SLIM_CHECK(selectStage(q, slimKernel_select_scan, tree, args, used));
  return selectStage(q, slimKernel_select_take, tree, args, used);
}

static slimResult_t encodeSelected(const slimCudaQueue* q, const slimEncodePass* p, size_t used) {
  const slimTree* tree = p->direction->tree;
  const selection s = selectionOf(tree, p->type, p->n, 1, used);
  slimSelectArgs args = selectArgs(q, p->direction, &s, 0, &p->stamp, p->type, p->n, p->first, p->payload);
  args.x = p->x;
  args.s = p->s;
  args.v = p->v;
  args.stats = p->stats ? &q->slot->stats : NULL;
  SLIM_CHECK(selectKeys(q, tree, &args, s.end));
  SLIM_CHECK(selectStage(q, slimKernel_select_encode, tree, &args, s.end));
  return selectStage(q, slimKernel_select_update, tree, &args, s.end);
}

/* The list of one payload's indices and values. */
static slimResult_t openSelected(const slimCudaQueue* q, const slimDirection* direction, const selection* s, int list,
                                 const slimStamp* stamp, slimDataType_t type, uint64_t n, uint64_t first,
                                 const uint8_t* payload) {
  const slimTree* tree = direction->tree;
  slimSelectArgs args =
      selectArgs(q, direction, s, list, stamp, type, n, first, (uint8_t*)(uintptr_t)payload /* only read */);
  if (slimSelector(tree)->op == slimOp_randk) SLIM_CHECK(selectKeys(q, tree, &args, s->end));
  return selectStage(q, slimKernel_select_decode, tree, &args, s->end);
}

/* ---- Statistics of pieces: stats=tensor and stats=previous (format.md §5) ---------------------------------------- */

/* Where they lie in the workspace, from `used` on. */
typedef struct {
  size_t shapes, partials, end;
} survey;

static survey surveyOf(const slimTree* tree, uint64_t n, int pieces, size_t used) {
  survey s = {.shapes = align(used)};
  s.partials = align(s.shapes + sizeof(slimShape) * (size_t)pieces);
  s.end = align(s.partials + sizeof(slimPartial) * ((n + tree->unit - 1) / tree->unit));
  return s;
}

/* args: of the encode that follows. What has been kept makes the kernels skip the survey: whether there is something is
 * known on the device alone. */
static slimResult_t gather(const slimCudaQueue* q, const slimEncodePass* p, const survey* s, slimEncodeArgs* args) {
  const slimTree* tree = p->direction->tree;
  const bool kept = slimTreeRemembers(tree) && p->mean;
  slimPartial* partials = (slimPartial*)(void*)(q->workspace + s->partials);
  slimShape* shapes = (slimShape*)(void*)(q->workspace + s->shapes);
  const slimLaunch units = launchOf(q->device, slimKernel_survey, tree, NULL, p->type, p->n);
  const slimLaunch pieces = slimShapeLaunch(args->pieces);
  slimEncodeArgs each = *args;
  each.mean = kept ? p->mean : NULL;
  each.partials = partials;
  each.scratch = scratchAt(q, &units, s->end);
  each.scratchFloats = units.scratchFloats;
  const slimShapeArgs all = {.tree = args->tree,
                             .partials = partials,
                             .shapes = shapes,
                             .mean = kept ? p->mean : NULL,
                             .table = kept ? p->table : NULL,
                             .n = p->n,
                             .cut = args->cut,
                             .pieces = args->pieces};
  for (int tails = 0; tails <= slimRoot(tree)->powerlaw; tails++) {
    each.shapes = tails ? shapes : NULL;
    SLIM_CHECK(run(q, &units, &each, s->end));
    SLIM_CHECK(run(q, &pieces, &all, s->end));
  }
  args->shapes = shapes;
  args->partials = kept ? partials : NULL;
  return slimSuccess;
}

/* What the step leaves for the next one. */
static slimResult_t keep(const slimCudaQueue* q, const slimEncodePass* p, const slimEncodeArgs* args, size_t used) {
  const slimShapeArgs all = {.tree = args->tree,
                             .partials = args->partials,
                             .mean = p->mean,
                             .table = p->table,
                             .n = p->n,
                             .cut = args->cut,
                             .pieces = args->pieces,
                             .last = true};
  const slimLaunch pieces = slimShapeLaunch(args->pieces);
  return run(q, &pieces, &all, used);
}

/* ---- Passes ----------------------------------------------------------------------------------------------------- */

/* marked: slimEncodeArgs. */
static slimResult_t encodeAt(const slimCudaQueue* q, const slimEncodePass* p, const slimSplit* split, size_t used,
                             bool marked) {
  const slimTree* tree = p->direction->tree;
  if (slimSelector(tree)) {
    for (int i = 0; i < split->pieces; i++) {
      slimEncodePass piece = *p;
      slimSplitPiece(split, i, p->n, &piece.n, &piece.first);
      if (!piece.n) continue;
      const uint64_t at = piece.first;
      piece.first += p->first;
      piece.x = (const char*)p->x + at * slimTypeBytes(p->type);
      piece.s = p->s ? (char*)p->s + at * slimMemoryBytes(&p->direction->feedback, p->type) : NULL;
      piece.v = p->v ? (char*)p->v + at * slimRealBytes(p->type) : NULL;
      piece.payload = p->payload + (size_t)i * split->stride;
      SLIM_CHECK(encodeSelected(q, &piece, used));
    }
    return slimSuccess;
  }
  slimEncodeArgs args = {.tree = onDevice(q, tree),
                         .step = &q->slot->step,
                         .x = p->x,
                         .s = p->s,
                         .v = p->v,
                         .payload = p->payload,
                         .stats = p->stats ? &q->slot->stats : NULL,
                         .lambda = p->lambda,
                         .feedback = p->direction->feedback,
                         .stamp = p->stamp,
                         .n = p->n,
                         .first = p->first,
                         .cut = split->unit,
                         .stride = split->stride,
                         .pieces = (uint32_t)split->pieces,
                         .type = (int32_t)p->type,
                         .marked = marked};
  if (slimTreeGathers(tree)) {
    const survey s = surveyOf(tree, p->n, split->pieces, used);
    SLIM_CHECK(gather(q, p, &s, &args));
    used = s.end;
  }
  const slimLaunch launch = launchOf(q->device, slimKernel_encode_fp8, tree, NULL, p->type, p->n);
  args.scratch = scratchAt(q, &launch, used);
  args.scratchFloats = launch.scratchFloats;
  SLIM_CHECK(run(q, &launch, &args, used));
  return args.partials ? keep(q, p, &args, used) : slimSuccess;
}

slimResult_t slimCudaEncode(const slimCudaQueue* q, const slimEncodePass* p, const slimSplit* split) {
  return encodeAt(q, p, split, 0, false);
}

static slimResult_t reduceAt(const slimCudaQueue* q, const slimReducePass* p, size_t stride, size_t used) {
  const slimTree *tree = p->up->tree, *down = p->down ? p->down->tree : NULL;
  const bool selected = slimSelector(tree) != NULL;
  selection s = {.end = used};
  if (selected) s = selectionOf(tree, p->type, p->n, p->ranks, used);
  for (int r = 0; r < p->ranks && selected; r++) {
    slimStamp stamp = p->stamp;
    stamp.rank = (uint32_t)r;
    stamp.down = false;
    SLIM_CHECK(openSelected(q, p->up, &s, r, &stamp, p->type, p->n, p->first, p->payloads[0] + (size_t)r * stride));
  }
  const slimDeviceKernel first = selected ? slimKernel_reduce_select : slimKernel_reduce_fp8;
  const slimLaunch launch = launchOf(q->device, first, tree, down, p->type, p->n);
  slimReduceArgs args = {.up = onDevice(q, tree),
                         .down = down ? onDevice(q, down) : NULL,
                         .step = &q->slot->step,
                         .payloads = p->payloads[0],
                         .h = p->h,
                         .e = p->e,
                         .payload = p->payload,
                         .y = p->y,
                         .stats = p->stats ? &q->slot->stats : NULL,
                         .report = q->report,
                         .index = selected ? (const uint32_t*)(const void*)(q->workspace + s.index) : NULL,
                         .values = selected ? (const float*)(const void*)(q->workspace + s.values) : NULL,
                         .scratch = scratchAt(q, &launch, s.end),
                         .upFeedback = p->up->feedback,
                         .stamp = p->stamp,
                         .n = p->n,
                         .first = p->first,
                         .stride = stride,
                         .scratchFloats = launch.scratchFloats,
                         .weight = p->weight,
                         .factor = p->factor,
                         .ranks = (uint32_t)p->ranks,
                         .type = (int32_t)p->type};
  if (down) {
    args.downFeedback = p->down->feedback;
    args.keeps = p->down->feedback.kind != slimFeedbackEf;
  }
  return run(q, &launch, &args, s.end);
}

/* lambda=shared: below the rotation, in one launch. */
static slimResult_t reduceSigns(const slimCudaQueue* q, const slimReducePass* p, size_t stride) {
  const slimTree* tree = p->up->tree;
  const slimLaunch launch = launchOf(q->device, slimKernel_reduce_signs, tree, NULL, p->type, p->n);
  const slimReduceArgs args = {.up = onDevice(q, tree),
                               .down = p->down ? onDevice(q, p->down->tree) : NULL,
                               .step = &q->slot->step,
                               .payloads = p->payloads[0],
                               .payload = p->payload,
                               .y = p->y,
                               .stats = p->stats ? &q->slot->stats : NULL,
                               .report = q->report,
                               .scratch = scratchAt(q, &launch, 0),
                               .lambda = p->lambda,
                               .stamp = p->stamp,
                               .n = p->n,
                               .first = p->first,
                               .stride = stride,
                               .scratchFloats = launch.scratchFloats,
                               .weight = p->weight,
                               .factor = p->factor,
                               .ranks = (uint32_t)p->ranks,
                               .type = (int32_t)p->type};
  return run(q, &launch, &args, 0);
}

static slimDataType_t realType(slimDataType_t type) { return type == slimFloat64 ? slimFloat64 : slimFloat32; }

slimResult_t slimCudaReduce(const slimCudaQueue* q, const slimReducePass* p, size_t stride) {
  if (p->lambda) return reduceSigns(q, p, stride);
  if (!p->down || slimReducesInOne(p->up->tree, p->down->tree, p->type)) return reduceAt(q, p, stride, 0);
  /* to reals at the start of the workspace, then encode */
  const size_t used = align(p->n * slimRealBytes(p->type));
  slimReducePass up = *p;
  up.down = NULL;
  up.e = NULL;
  up.payload = NULL;
  up.type = realType(p->type);
  up.y = q->workspace;
  up.factor = 1;
  SLIM_CHECK(reduceAt(q, &up, stride, used));
  slimDirection down = *p->down;
  if (down.feedback.kind != slimFeedbackEf) { /* the owner's stretch of H is written by decode, on all ranks alike */
    down.feedback.a = 1;
    down.feedback.b = down.feedback.c = 0;
  }
  const slimEncodePass encode = {.direction = &down,
                                 .stamp = p->stamp,
                                 .type = up.type,
                                 .x = q->workspace,
                                 .n = p->n,
                                 .first = p->first,
                                 .s = p->e,
                                 .payload = p->payload,
                                 .stats = p->stats,
                                 .mean = p->mean,
                                 .table = p->table};
  const bool marked = !slimSelector(p->up->tree) && p->up->tree->unit == down.tree->unit;
  return encodeAt(q, &encode, &(slimSplit){1, slimTreeUnit(down.tree), 0}, used, marked);
}

static slimResult_t decodeAt(const slimCudaQueue* q, const slimDecodePass* p, const slimSplit* split, const void* x,
                             void* s) {
  const slimTree* tree = p->direction->tree;
  const bool selected = slimSelector(tree) != NULL;
  selection list = {0};
  if (selected) {
    list = selectionOf(tree, p->type, p->n, 1, 0);
    SLIM_CHECK(openSelected(q, p->direction, &list, 0, &p->stamp, p->type, p->n, p->first, p->payload));
  }
  const slimDeviceKernel first = selected ? slimKernel_decode_select : slimKernel_decode_fp8;
  const slimLaunch launch = launchOf(q->device, first, tree, NULL, p->type, p->n);
  const slimDecodeArgs args = {.tree = onDevice(q, tree),
                               .step = &q->slot->step,
                               .payload = p->payload,
                               .h = p->h,
                               .y = p->y,
                               .x = x,
                               .s = s,
                               .report = q->report,
                               .index = selected ? (const uint32_t*)(const void*)(q->workspace + list.index) : NULL,
                               .values = selected ? (const float*)(const void*)(q->workspace + list.values) : NULL,
                               .scratch = scratchAt(q, &launch, list.end),
                               .lambda = p->lambda,
                               .feedback = p->direction->feedback,
                               .stamp = p->stamp,
                               .n = p->n,
                               .first = p->first,
                               .cut = split->unit,
                               .stride = split->stride,
                               .scratchFloats = launch.scratchFloats,
                               .factor = p->factor,
                               .pieces = (uint32_t)split->pieces,
                               .type = (int32_t)p->type};
  return run(q, &launch, &args, list.end);
}

slimResult_t slimCudaDecode(const slimCudaQueue* q, const slimDecodePass* p, const slimSplit* split) {
  if (!slimSelector(p->direction->tree) || split->pieces == 1) return decodeAt(q, p, split, NULL, NULL);
  for (int i = 0; i < split->pieces; i++) {
    slimDecodePass piece = *p;
    slimSplitPiece(split, i, p->n, &piece.n, &piece.first);
    if (!piece.n) continue;
    const uint64_t at = piece.first;
    piece.first += p->first;
    piece.stamp.rank += (uint32_t)i;
    piece.payload = p->payload + (size_t)i * split->stride;
    piece.h = p->h ? (char*)p->h + at * slimRealBytes(p->type) : NULL;
    piece.y = p->y ? (char*)p->y + at * slimTypeBytes(p->type) : NULL;
    SLIM_CHECK(decodeAt(q, &piece, &(slimSplit){1, split->unit, 0}, NULL, NULL));
  }
  return slimSuccess;
}

slimResult_t slimCudaCancel(const slimCudaQueue* q, const slimDecodePass* sent, const void* x, void* s) {
  return decodeAt(q, sent, &(slimSplit){1, slimTreeUnit(sent->direction->tree), 0}, x, s);
}

slimResult_t slimCudaWorkspace(const slimCudaDevice* device, const slimCompressor* c, slimDataType_t type, uint64_t n,
                               int ranks, size_t* bytes) {
  const slimTree *up = c->up.tree, *down = c->down.tree;
  const struct {
    slimDeviceKernel first;
    const slimTree *tree, *down;
  } block[] = {
      {slimKernel_encode_fp8, up, NULL},   {slimKernel_decode_fp8, up, NULL}, {slimKernel_encode_fp8, down, NULL},
      {slimKernel_decode_fp8, down, NULL}, {slimKernel_reduce_fp8, up, NULL}, {slimKernel_reduce_fp8, up, down},
      {slimKernel_survey, up, NULL},       {slimKernel_survey, down, NULL},   {slimKernel_reduce_signs, up, NULL}};
  const slimDeviceKernel whole[] = {slimKernel_reduce_select, slimKernel_decode_select, slimKernel_select_count,
                                    slimKernel_select_tally,  slimKernel_select_take,   slimKernel_select_encode,
                                    slimKernel_select_decode, slimKernel_select_update};
  const bool one = slimReducesInOne(up, down, type);
  size_t scratch = 0, lists = 0;
  for (size_t i = 0; i < sizeof block / sizeof *block; i++) {
    if (slimSelector(block[i].tree) || (block[i].down && !one)) continue;
    if (block[i].first == slimKernel_survey && !slimTreeGathers(block[i].tree)) continue;
    if (block[i].first == slimKernel_reduce_signs && !slimTreeSharesLambda(block[i].tree)) continue;
    const slimLaunch launch = launchOf(device, block[i].first, block[i].tree, block[i].down, type, n);
    size_t need;
    SLIM_CHECK(slimCudaScratch(device, &launch, &need));
    if (need > scratch) scratch = need;
  }
  for (int d = 0; d < 2; d++) {
    const slimTree* tree = d ? down : up;
    const survey gathered = surveyOf(tree, n, ranks, 0);
    if (slimTreeGathers(tree) && gathered.end > lists) lists = gathered.end;
    if (!slimSelector(tree)) continue;
    const selection s = selectionOf(tree, type, n, d ? 1 : ranks, 0);
    if (s.end > lists) lists = s.end;
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
      const slimLaunch launch = launchOf(device, whole[i], tree, NULL, type, n);
      size_t need;
      SLIM_CHECK(slimCudaScratch(device, &launch, &need));
      if (need > scratch) scratch = need;
    }
  }
  *bytes = align((one ? 0 : align(n * slimRealBytes(type))) + lists + scratch);
  return slimSuccess;
}

/* ---- Dense ------------------------------------------------------------------------------------------------------ */

/* By tiles; no scratch. */
static slimResult_t runDense(const slimCudaQueue* q, slimDeviceKernel kernel, const slimDenseArgs* args) {
  const slimLaunch launch = {
      .kernel = kernel, .threads = SLIM_MAX_THREADS, .blocks = (args->n + SLIM_PIECE_STEP - 1) / SLIM_PIECE_STEP};
  return slimCudaLaunch(q->device, &launch, args, 0, q->stream);
}

slimResult_t slimCudaDenseEncode(const slimCudaQueue* q, const slimStamp* stamp, slimDataType_t type, const void* x,
                                 bool xIsReal, uint64_t n, uint64_t first, uint8_t* payload) {
  return runDense(q, slimKernel_dense_encode,
                  &(slimDenseArgs){.step = &q->slot->step,
                                   .src = x,
                                   .dst = payload,
                                   .stamp = *stamp,
                                   .n = n,
                                   .first = first,
                                   .type = (int32_t)type,
                                   .real = xIsReal});
}

slimResult_t slimCudaDenseReduce(const slimCudaQueue* q, slimDataType_t type, uint64_t n, int ranks,
                                 const uint8_t* payloads, size_t stride, double weight, void* dst) {
  return runDense(q, slimKernel_dense_reduce,
                  &(slimDenseArgs){.src = payloads,
                                   .dst = dst,
                                   .n = n,
                                   .stride = stride,
                                   .factor = weight,
                                   .ranks = (uint32_t)ranks,
                                   .type = (int32_t)type});
}

slimResult_t slimCudaFromReal(const slimCudaQueue* q, slimDataType_t type, const void* src, uint64_t n, double factor,
                              void* y) {
  return runDense(q, slimKernel_from_real,
                  &(slimDenseArgs){.src = src, .dst = y, .n = n, .factor = factor, .type = (int32_t)type});
}

slimResult_t slimCudaPremultiply(const slimCudaQueue* q, slimDataType_t type, const void* x, uint64_t n, double factor,
                                 const void* scalar, void* y) {
  return runDense(
      q, slimKernel_premultiply,
      &(slimDenseArgs){.scalar = scalar, .src = x, .dst = y, .n = n, .factor = factor, .type = (int32_t)type});
}

slimResult_t slimCudaScaleReal(const slimCudaQueue* q, slimDataType_t type, void* a, uint64_t n, double factor) {
  return runDense(q, slimKernel_scale,
                  &(slimDenseArgs){.src = a, .dst = a, .n = n, .factor = factor, .type = (int32_t)type});
}

slimResult_t slimCudaScaleMemory(const slimCudaQueue* q, const slimStamp* stamp, uint16_t* a, uint64_t n,
                                 double factor) {
  return runDense(q, slimKernel_scale_memory,
                  &(slimDenseArgs){.step = &q->slot->step, .dst = a, .stamp = *stamp, .n = n, .factor = factor});
}

slimResult_t slimCudaCopyFinite(const slimCudaQueue* q, slimDataType_t type, const void* src, uint64_t n, void* dst) {
  return runDense(q, slimKernel_copy_finite, &(slimDenseArgs){.src = src, .dst = dst, .n = n, .type = (int32_t)type});
}

slimResult_t slimCudaTakeFinite(const slimCudaQueue* q, slimDataType_t type, const void* src, uint64_t n, void* dst) {
  return runDense(q, slimKernel_take_finite, &(slimDenseArgs){.src = src, .dst = dst, .n = n, .type = (int32_t)type});
}

slimResult_t slimCudaNextStep(const slimCudaQueue* q) {
  const slimLaunch launch = {.kernel = slimKernel_next_step, .threads = 32, .blocks = 1};
  const slimStepArgs args = {.step = &q->slot->step};
  return slimCudaLaunch(q->device, &launch, &args, 0, q->stream);
}
