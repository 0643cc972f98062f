/* Trees without recursion: [rotate] [induced] [rotate] [topk, randk] codec, each step over the blocks of its node. What
 * C's functions of the same names do in cpu/kernels.c; which trees fit: slimDeviceRuns. */
#ifndef SLIM_COMPRESS_CUDA_TREE_CUH_
#define SLIM_COMPRESS_CUDA_TREE_CUH_

SLIM_FN bool slimEncodeLeaf(const slimNode* node, const slimBlock* b, const float* v, uint8_t* const* sec) {
  switch (node->op) {
#define SLIM_CASE(name) \
  case slimOp_##name:   \
    return slimEncode_##name(node, b, v, sec);
    SLIM_CASE(fp32)
    SLIM_CASE(fp16)
    SLIM_CASE(bf16)
    SLIM_CASE(fp8)
    SLIM_CASE(sign)
    SLIM_CASE(onebit)
    SLIM_CASE(natural)
#undef SLIM_CASE
    case slimOp_nuqsgd:
      return slimEncode_natural(node, b, v, sec);
    case slimOp_ternary:
    case slimOp_qsgd:
      return slimEncode_qsgd(node, b, v, sec);
    case slimOp_tqsgd:
    case slimOp_tbqsgd:
    case slimOp_tnqsgd:
      return slimEncode_tnqsgd(node, b, v, sec);
    default:
      return false;
  }
}
SLIM_FN void slimDecodeLeaf(const slimNode* node, const slimBlock* b, uint8_t* const* sec, float* out) {
  switch (node->op) {
#define SLIM_CASE(name)                   \
  case slimOp_##name:                     \
    slimDecode_##name(node, b, sec, out); \
    break;
    SLIM_CASE(fp32)
    SLIM_CASE(fp16)
    SLIM_CASE(bf16)
    SLIM_CASE(fp8)
    SLIM_CASE(sign)
    SLIM_CASE(onebit)
    SLIM_CASE(natural)
#undef SLIM_CASE
    case slimOp_nuqsgd:
      slimDecode_natural(node, b, sec, out);
      break;
    case slimOp_ternary:
    case slimOp_qsgd:
      slimDecode_qsgd(node, b, sec, out);
      break;
    case slimOp_tqsgd:
    case slimOp_tbqsgd:
    case slimOp_tnqsgd:
      slimDecode_tnqsgd(node, b, sec, out);
      break;
    default:
      break;
  }
}

/* Pointers to sections, in the scratch: an array in a thread's own memory could not be indexed. */
enum { SLIM_PARTS_FLOATS = 32 };
SLIM_FN uint8_t** slimParts(float** scratch) {
  uint8_t** parts = (uint8_t**)(void*)*scratch;
  *scratch += SLIM_PARTS_FLOATS;
  return parts;
}
/* Block `at` of a region, and the places of its sections. */
SLIM_FN slimBlock slimBlockAt(const slimNode* node, const slimBlock* region, uint32_t at, uint8_t* const* sec,
                              uint8_t** part, float* scratch) {
  slimBlock b = *region;
  b.size = node->block;
  b.nv = region->nv <= at ? 0 : region->nv - at < b.size ? region->nv - at : b.size;
  b.first = region->first + at;
  b.scratch = scratch;
  slimSync();
  SLIM_EACH(i, node->allSections) part[i] = sec[i] + (at / node->block) * node->section[i].bytes;
  slimSync();
  return b;
}
SLIM_FN uint32_t slimBlockMax(const slimNode* node, const slimBlock* region, const float* v) {
  return region->size != node->block || !region->maxBits ? slimMaxBits(v, node->block) : region->maxBits;
}
SLIM_FN bool slimIsSelector(const slimNode* node) { return node->op == slimOp_topk || node->op == slimOp_randk; }
SLIM_FN void slimTempSections(const slimNode* node, const slimSelected* s, uint8_t** temp) {
  slimSync();
  if (slimThread() == 0) slimSelectedSections(node, s, temp);
  slimSync();
}

/* A codec, by itself or below a selector. */
SLIM_FN bool slimEncodeFlat(const slimNode* node, const slimBlock* region, const float* v, uint8_t* const* sec) {
  const bool selects = slimIsSelector(node);
  const slimNode* leaf = selects ? slimInner(node, 0) : node;
  float* scratch = region->scratch;
  uint8_t** part = slimParts(&scratch);
  uint8_t** temp = slimParts(&scratch);
  bool ok = true;
  for (uint32_t at = 0; at < region->size; at += node->block) {
    slimBlock b = slimBlockAt(node, region, at, sec, part, scratch);
    const float* values = v + at;
    b.maxBits = slimBlockMax(node, region, values);
    bool sends = true;
    if (selects) {
      sends = slimEncodePresence(node, &b, part);
      if (sends) {
        slimSelected s = slimSelectedOf(node, &b);
        slimTempSections(node, &s, temp);
        slimEncodeIndices(node, &b, values, &s, part);
        sends = slimGather(node, &b, values, &s);
        ok &= sends;
        b = s.block;
        values = s.values;
        b.maxBits = slimMaxBits(values, b.size);
      }
    }
    if (!sends) continue;
    ok &= slimEncodeLeaf(leaf, &b, values, selects ? temp : part);
    slimSync();
    if (selects) slimCutSections(node, part, temp);
  }
  return ok;
}
SLIM_FN void slimAddSelected(const slimBlock* b, const slimSelected* s, float* out) {
  slimSync();
  SLIM_EACH(i, s->taken) out[s->index[i] & (b->size - 1)] += s->values[i];
  slimSync();
}
/* adds: a selector's values are added to what out holds. */
SLIM_FN void slimDecodeFlat(const slimNode* node, const slimBlock* region, uint8_t* const* sec, float* out, bool adds) {
  const bool selects = slimIsSelector(node);
  const slimNode* leaf = selects ? slimInner(node, 0) : node;
  float* scratch = region->scratch;
  uint8_t** part = slimParts(&scratch);
  uint8_t** temp = slimParts(&scratch);
  for (uint32_t at = 0; at < region->size; at += node->block) {
    const slimBlock b = slimBlockAt(node, region, at, sec, part, scratch);
    slimBlock inner = b;
    slimSelected s = {NULL, NULL, NULL, 0, inner};
    float* values = out + at;
    if (selects) {
      if (!slimDecodePresence(node, &b, part, adds ? scratch : values)) continue;
      s = slimSelectedOf(node, &b);
      slimTempSections(node, &s, temp);
      slimDecodeIndices(node, &b, &s, part);
      slimUncutSections(node, part, temp);
      inner = s.block;
      values = s.values;
    }
    slimDecodeLeaf(leaf, &inner, selects ? temp : part, values);
    slimSync();
    if (selects && adds)
      slimAddSelected(&b, &s, out + at);
    else if (selects)
      slimScatter(&b, &s, out + at);
  }
}

/* One step of a tree, where it has it, and what is inside: the same for the two rotations. */
#define SLIM_TURN(name, inside)                                                                                       \
  SLIM_FN bool slimEncode##name(const slimNode* node, const slimBlock* region, const float* v, uint8_t* const* sec) { \
    const bool turns = node->op == slimOp_rotate;                                                                     \
    float* scratch = region->scratch;                                                                                 \
    uint8_t** part = slimParts(&scratch);                                                                             \
    bool ok = true;                                                                                                   \
    for (uint32_t at = 0; at < region->size; at += turns ? node->block : region->size) {                              \
      slimBlock b = *region;                                                                                          \
      const float* values = v;                                                                                        \
      b.scratch = scratch;                                                                                            \
      if (turns) {                                                                                                    \
        slimBlock inner;                                                                                              \
        b = slimBlockAt(node, region, at, sec, part, scratch);                                                        \
        b.maxBits = slimBlockMax(node, region, v + at);                                                               \
        if (!slimRotate(node, &b, v + at, scratch, &inner)) return false;                                             \
        values = scratch;                                                                                             \
        b = inner;                                                                                                    \
      }                                                                                                               \
      ok &= slimEncode##inside(turns ? slimInner(node, 0) : node, &b, values, turns ? part : sec);                    \
    }                                                                                                                 \
    return ok;                                                                                                        \
  }                                                                                                                   \
  SLIM_FN void slimDecode##name(const slimNode* node, const slimBlock* region, uint8_t* const* sec, float* out) {     \
    const bool turns = node->op == slimOp_rotate;                                                                     \
    float* scratch = region->scratch;                                                                                 \
    uint8_t** part = slimParts(&scratch);                                                                             \
    for (uint32_t at = 0; at < region->size; at += turns ? node->block : region->size) {                              \
      slimBlock b = *region;                                                                                          \
      b.scratch = scratch;                                                                                            \
      float* values = out;                                                                                            \
      if (turns) {                                                                                                    \
        b = slimBlockAt(node, region, at, sec, part, scratch + node->block);                                          \
        b.nv = b.size;                                                                                                \
        values = scratch;                                                                                             \
      }                                                                                                               \
      slimDecode##inside(turns ? slimInner(node, 0) : node, &b, turns ? part : sec, values);                          \
      slimSync();                                                                                                     \
      if (turns) slimRotateBack(node, &b, out + at, values);                                                          \
      slimSync();                                                                                                     \
    }                                                                                                                 \
  }
SLIM_FN void slimDecodeAlone(const slimNode* node, const slimBlock* region, uint8_t* const* sec, float* out) {
  slimDecodeFlat(node, region, sec, out, false);
}
#define slimEncodeAlone slimEncodeFlat
SLIM_TURN(Turned, Alone)

SLIM_FN bool slimEncodeTwice(const slimNode* node, const slimBlock* region, const float* v, uint8_t* const* sec) {
  const bool twice = node->op == slimOp_induced;
  float* scratch = region->scratch;
  uint8_t** part = slimParts(&scratch);
  bool ok = true;
  for (uint32_t at = 0; at < region->size; at += twice ? node->block : region->size) {
    slimBlock b = *region;
    b.scratch = scratch;
    const float* values = v + at;
    uint8_t* const* to = sec;
    if (twice) {
      b = slimBlockAt(node, region, at, sec, part, scratch + node->block);
      b.maxBits = slimBlockMax(node, region, values);
      to = part;
    }
    for (int q = 0; q < (twice ? 2 : 1); q++) {
      const slimNode* inner = twice ? slimInner(node, q) : node;
      if (q == 1) {
        slimDecodeTurned(slimInner(node, 0), &b, to, scratch);
        slimLeave(&b, values, scratch);
        values = scratch;
        b.maxBits = slimMaxBits(values, b.size);
        to += slimInner(node, 0)->allSections;
      }
      const bool good = slimEncodeTurned(inner, &b, values, to);
      slimSync();
      ok &= good;
      if (!good) break;
    }
  }
  return ok;
}
SLIM_FN void slimDecodeTwice(const slimNode* node, const slimBlock* region, uint8_t* const* sec, float* out) {
  const bool twice = node->op == slimOp_induced;
  float* scratch = region->scratch;
  uint8_t** part = slimParts(&scratch);
  for (uint32_t at = 0; at < region->size; at += twice ? node->block : region->size) {
    slimBlock b = *region;
    b.scratch = scratch;
    uint8_t* const* from = sec;
    if (twice) {
      b = slimBlockAt(node, region, at, sec, part, scratch + node->block);
      from = part;
    }
    for (int q = 0; q < (twice ? 2 : 1); q++) {
      const slimNode* inner = twice ? slimInner(node, q) : node;
      if (q == 1) from += slimInner(node, 0)->allSections;
      slimDecodeTurned(inner, &b, from, q == 1 ? scratch : out + at);
    }
    if (twice) slimAdd(b.size, scratch, out + at);
    slimSync();
  }
}
SLIM_TURN(Tree, Twice)

#endif
