/* Encode and reduce of whole units of fp32 with ef or without feedback, for the codecs of add.h: what most training
 * does, without what the other cases ask unit by unit. A unit that is partial, or flagged, or of which statistics are
 * taken, goes through passes.h. */
#ifndef SLIM_COMPRESS_CPU_FUSED_H_
#define SLIM_COMPRESS_CPU_FUSED_H_

/* The memory of this direction is ef's, in fp32. */
static bool slimIsPlainEf(const slimDirection* direction) {
  return direction->feedback.kind == slimFeedbackEf && !direction->feedback.bf16;
}
static bool slimIsFusedEncode(const slimEncodePass* p, const slimSurvey* survey) {
  return p->type == slimFloat32 && !p->v && !p->lambda && !survey && slimIsAddedUp(p->direction->tree) &&
         (!p->s || slimIsPlainEf(p->direction));
}
/* Codes of 16 bits are nearly as much memory as the rest: in loops of their own, they come more evenly. */
static bool slimIsFusedReduce(const slimReducePass* p) {
  return p->type != slimFloat64 && !p->h && p->down && p->e && slimIsPlainEf(p->down) && slimIsAddedUp(p->up->tree) &&
         slimIsAddedUp(p->down->tree) && p->up->tree->unit == p->down->tree->unit && slimRoot(p->up->tree)->bits < 16;
}

/* Whether the codec asks for tree(|v|), of whole columns: who makes v adds it up on the way. */
static bool slimSumsMagnitudes(const slimNode* node) {
  return node->op == slimOp_onebit && node->lambda == slimLambdaNone && !node->unbiased && node->block >= 128;
}

/* Codes of u, whose largest bits are b's, and u minus what they say into s, unless NULL; false: nothing is written to
 * s. fetch: s's memory ahead; half of it before the codes, since a loop that asks for more than can be on its way
 * waits. */
SLIM_ALWAYS bool slimEncodeFused(const slimAdded* added, const slimLayout* layout, const slimBlock* b, uint8_t* payload,
                                 uint64_t unit, const float* u, float* s, bool fetch) {
  const slimNode* node = added->node;
  const uint32_t half = b->size / 2;
  uint8_t* sec[3];
  for (uint32_t i = 0; i < node->sections; i++) sec[i] = payload + layout->section[i] + unit * node->section[i].bytes;
  if (s && fetch) slimPrefetch((const char*)s + SLIM_AHEAD_OF_TWO, half * sizeof *s);
  if (b->maxBits >= SLIM_INF_BITS || !slimEncodeBlock(node, b, u, sec)) return false;
  if (s) slimTakeUnit(added, b->size, payload, unit, u, s, fetch ? half : b->size);
  return true;
}

static void slimEncodeUnitsFused(const slimEncodePass* p, const slimLayout* layout, uint64_t u0, uint64_t u1,
                                 slimPassStats* stats, float* scratch) {
  const uint32_t n = p->direction->tree->unit;
  const slimAdded added = slimAddedOf(p->direction->tree, layout);
  const slimDraw draw = slimDrawOf(&p->stamp);
  slimBlock b = {n, n, 0, 0, &draw, scratch + n, 0, NULL, 0};
  float* u = scratch;
  const bool magnitudes = slimSumsMagnitudes(added.node);
  for (uint64_t unit = u0; unit < u1; unit++) {
    const uint64_t off = unit * n;
    if (off + n <= p->n && !(stats && unit % SLIM_SAMPLE == 0)) {
      const float* x = (const float*)p->x + off;
      float* s = p->s ? (float*)p->s + off : NULL;
      b.first = p->first + off;
      if (magnitudes) {
        slimVector columns[SLIM_COLUMNS];
        slimTreeStart(columns);
        b.maxBits = s ? sumF(u, x, s, 1, n, columns) : sumF(NULL, x, NULL, 1, n, columns);
        b.magnitudes = slimTreeFold(columns);
      } else {
        b.maxBits = s ? sumF(u, x, s, 1, n, NULL) : sumF(NULL, x, NULL, 1, n, NULL);
      }
      if (slimEncodeFused(&added, layout, &b, p->payload, unit, s ? u : x, s, true)) continue;
    }
    encodeUnitsF(p, layout, NULL, unit, unit + 1, stats, scratch);
  }
}

static void slimReduceUnitsFused(const slimReducePass* p, slimSource* source, const slimLayout* down, uint64_t u0,
                                 uint64_t u1, slimPassStats* stats, float* scratch) {
  const uint32_t n = p->up->tree->unit;
  const slimLayout* up = source->layout;
  const slimAdded from = slimAddedOf(p->up->tree, up), to = slimAddedOf(p->down->tree, down);
  const slimDraw draw = slimDrawOf(&p->stamp);
  slimBlock b = {n, n, 0, 0, &draw, scratch + n, 0, NULL, 0};
  float* u = scratch;
  const bool magnitudes = slimSumsMagnitudes(to.node);
  uint8_t flags = 0; /* of eight units, of all ranks */
  for (uint64_t unit = u0; unit < u1; unit++) {
    const uint64_t off = unit * n;
    if (unit % 8 == 0 || unit == u0) {
      flags = 0;
      for (int r = 0; r < p->ranks; r++) flags |= p->payloads[r][up->flags + unit / 8];
    }
    const bool whole = off + n <= p->n && !(stats && unit % SLIM_SAMPLE == 0) && !(flags >> unit % 8 & 1);
    if (whole) {
      float* e = (float*)p->e + off;
      b.first = p->first + off;
      b.maxBits = slimAddUnits(&from, n, p->payloads, p->ranks, unit, (float)p->weight, e, u,
                               magnitudes ? &b.magnitudes : NULL);
      if (slimEncodeFused(&to, down, &b, p->payload, unit, u, e, false)) continue;
    }
    reduceUnitsF(p, source, down, unit, unit + 1, stats, scratch);
  }
}

#endif
