/* Selectors of scope chunk and global: the k largest keys of a whole piece by counting digits, then their values
 * through the inner codec (format.md §6). One piece, several launches; what cpu/kernels.c does in slimSelectPiece. */
#ifndef SLIM_COMPRESS_CUDA_SELECT_CUH_
#define SLIM_COMPRESS_CUDA_SELECT_CUH_

/* What every launch derives from its arguments. */
typedef struct {
  const slimSelectArgs* p;
  const slimNode* selector;
  slimDraw draw;
  uint64_t step;
  double eta, down; /* momentum's; 2^−E */
  int32_t memory;   /* type of s */
  bool wide, aligned;
} slimSelecting;
SLIM_FN slimSelecting slimSelectingOf(const slimSelectArgs* p) {
  slimSelecting s;
  s.p = p;
  s.selector = slimSelector(p->tree);
  s.step = slimStepAt(p->step, &p->stamp);
  s.draw = slimDrawOf(&p->stamp, s.step, p->stamp.rank);
  s.eta = s.step == p->feedback.warmup ? 1 : p->feedback.momentum;
  s.wide = p->type == slimFloat64;
  s.memory = p->feedback.bf16 ? (int32_t)slimBfloat16 : s.wide ? (int32_t)slimFloat64 : (int32_t)slimFloat32;
  s.aligned = !s.wide && slimAt16(p->x) && slimAt16(p->s) && slimAt16(p->v);
  s.down = 1;
  return s;
}
/* E of the piece, once its maximum is known. */
SLIM_FN int slimPieceExponent(const slimSelecting* s) {
  const uint64_t most = s->p->state->most;
  return s->wide && most && !s->p->tree->absolute ? slimExponent64(most) : 0;
}

SLIM_FN float slimSumF(const slimSelecting* s, uint64_t i) {
  const slimSelectArgs* p = s->p;
  float x = slimElementF(p->type, p->x, i);
  if (p->v && s->eta != 1) x = ((const float*)p->v)[i] + (float)s->eta * (x - ((const float*)p->v)[i]);
  if (p->s) x = x + (float)p->feedback.sigma * slimElementF(s->memory, p->s, i);
  return x;
}
SLIM_FN double slimSumD(const slimSelecting* s, uint64_t i) {
  const slimSelectArgs* p = s->p;
  double x = ((const double*)p->x)[i];
  if (p->v && s->eta != 1) x = ((const double*)p->v)[i] + s->eta * (x - ((const double*)p->v)[i]);
  if (p->s) x = x + p->feedback.sigma * slimElementD(s->memory, p->s, i);
  return x;
}
SLIM_FN float slimValueAt(const slimSelecting* s, uint64_t i) {
  return s->wide ? (float)(slimSumD(s, i) * s->down) : slimSumF(s, i);
}
/* u of four elements from i, a multiple of 4; zeros behind the piece. */
SLIM_FN float4 slimValuesAt(const slimSelecting* s, uint64_t i) {
  const slimSelectArgs* p = s->p;
  if (s->aligned && i + 4 <= p->n && !p->v) {
    const float4 x = slimFour(p->type, p->x, i);
    return p->s ? slimFourSum(x, slimFour(s->memory, p->s, i), (float)p->feedback.sigma) : x;
  }
  return make_float4(i < p->n ? slimValueAt(s, i) : 0, i + 1 < p->n ? slimValueAt(s, i + 1) : 0,
                     i + 2 < p->n ? slimValueAt(s, i + 2) : 0, i + 3 < p->n ? slimValueAt(s, i + 3) : 0);
}
/* Their keys in unsigned order. */
SLIM_FN uint4 slimKeysAt(const slimSelecting* s, uint64_t i, float4 v) {
  if (s->selector->op == slimOp_topk)
    return make_uint4(slimBits(v.x) | 0x80000000u, slimBits(v.y) | 0x80000000u, slimBits(v.z) | 0x80000000u,
                      slimBits(v.w) | 0x80000000u);
  const uint4 w =
      slimDrawAt(&s->draw, slimDrawIndex, s->selector->branch, s->selector->shared, (uint32_t)((s->p->first + i) / 4));
  return make_uint4(~w.x, ~w.y, ~w.z, ~w.w);
}
SLIM_FN bool slimNeedsValues(const slimSelecting* s) { return s->selector->op == slimOp_topk; }

/* The first block clears the state. fp64 needs the largest magnitude before there are keys: a round of its own. */
SLIM_FN void slimSelectStart(const slimSelectArgs* p) {
  const slimSelecting s = slimSelectingOf(p);
  SLIM_EACH(i, SLIM_SELECT_BINS) p->state->count[i] = 0;
  if (slimThread() != 0) return;
  const bool sends = p->n && slimSends(s.selector, &s.draw, p->first);
  p->state->need = sends ? slimSelectorCount(s.selector, p->n) : 0;
  p->state->most = 0;
  p->state->low = 0;
  p->state->shift = s.wide && p->x ? 64 : 32;
  p->state->flagged = 0;
  p->state->sends = sends;
}

SLIM_FN uint32_t slimDigitBits(uint32_t shift) { return shift < 11 ? shift : 11; }

SLIM_FN void slimSelectCount(const slimSelectArgs* p) {
  __shared__ uint32_t bins[SLIM_SELECT_BINS];
  slimSelecting s = slimSelectingOf(p);
  const uint32_t shift = p->state->shift, low = p->state->low;
  const bool first = shift == 32, measures = p->x && (s.wide ? shift == 64 : first);
  if (shift == 0 || (!p->state->sends && !measures)) return;
  if (s.wide && shift != 64) s.down = slimPower2(-slimPieceExponent(&s));
  SLIM_EACH(i, SLIM_SELECT_BINS) bins[i] = 0;
  slimSync();
  const uint32_t digit = shift == 64 ? 0 : shift - slimDigitBits(shift),
                 last = first ? 0xffffffffu : (1u << shift % 32) - 1;
  const uint64_t fours = (p->n + 3) / 4, stride = (uint64_t)gridDim.x * slimThreads();
  uint64_t most = 0;
  for (uint64_t j = (uint64_t)blockIdx.x * slimThreads() + slimThread(); j < fours; j += stride) {
    const uint64_t i = 4 * j;
    if (shift == 64) {
      for (uint32_t k = 0; k < 4 && i + k < p->n; k++) {
        const uint64_t bits = slimBits64(slimSumD(&s, i + k)) & 0x7fffffffffffffffu;
        most = bits > most ? bits : most;
      }
      continue;
    }
    float4 v = make_float4(0, 0, 0, 0);
    if (measures || slimNeedsValues(&s)) v = slimValuesAt(&s, i);
    const uint4 key = slimKeysAt(&s, i, v);
    if (measures) {
      const uint32_t a = slimBits(v.x) & 0x7fffffffu, b = slimBits(v.y) & 0x7fffffffu;
      const uint32_t c = slimBits(v.z) & 0x7fffffffu, d = slimBits(v.w) & 0x7fffffffu;
      const uint32_t ab = a > b ? a : b, cd = c > d ? c : d, all = ab > cd ? ab : cd;
      most = all > most ? all : most;
    }
    if (!p->state->sends) continue;
    if (key.x - low <= last) slimAtomicAdd(&bins[(key.x - low) >> digit], 1);
    if (i + 1 < p->n && key.y - low <= last) slimAtomicAdd(&bins[(key.y - low) >> digit], 1);
    if (i + 2 < p->n && key.z - low <= last) slimAtomicAdd(&bins[(key.z - low) >> digit], 1);
    if (i + 3 < p->n && key.w - low <= last) slimAtomicAdd(&bins[(key.w - low) >> digit], 1);
  }
  slimSync();
  if (measures) {
    most = slimMostOfAll64(most);
    if (slimThread() == 0) slimAtomicMax(&p->state->most, most);
  }
  if (shift != 64) SLIM_EACH(i, SLIM_SELECT_BINS)
  if (bins[i]) slimAtomicAdd(&p->state->count[i], bins[i]);
}

/* One block: the digit that the k-th largest key has. */
SLIM_FN void slimSelectNarrow(const slimSelectArgs* p) {
  __shared__ uint32_t sums[SLIM_MAX_THREADS];
  slimSelectState* state = p->state;
  const uint32_t shift = state->shift, each = SLIM_SELECT_BINS / SLIM_MAX_THREADS;
  if (shift == 0) return;
  const slimSelecting s = slimSelectingOf(p);
  SLIM_EACH(t, SLIM_MAX_THREADS) { /* bins from the top */
    uint32_t sum = 0;
    for (uint32_t j = 0; j < each; j++) sum += state->count[SLIM_SELECT_BINS - 1 - each * t - j];
    sums[t] = sum;
  }
  slimSync();
  if (slimThread() == 0) {
    if (p->x && s.wide && shift == 64)
      state->flagged = state->most >= 0x7ff0000000000000u || slimPieceExponent(&s) >= 1000;
    else if (p->x && !s.wide && shift == 32)
      state->flagged = state->most >= SLIM_INF_BITS;
    if (shift == 64) {
      state->shift = 32;
    } else if (state->sends) {
      uint64_t need = state->need;
      uint32_t t = 0;
      while (sums[t] < need) need -= sums[t++];
      uint32_t bin = SLIM_SELECT_BINS - 1 - each * t;
      while (state->count[bin] < need) need -= state->count[bin--];
      state->need = need;
      state->shift = shift - slimDigitBits(shift);
      state->low += bin << state->shift;
    }
  }
  slimSync();
  SLIM_EACH(i, SLIM_SELECT_BINS) state->count[i] = 0;
}

/* Each tile's keys above the k-th largest, and those equal to it. */
SLIM_FN void slimSelectTally(const slimSelectArgs* p) {
  slimSelecting s = slimSelectingOf(p);
  if (!p->state->sends || p->state->flagged) return;
  if (s.wide && p->x) s.down = slimPower2(-slimPieceExponent(&s));
  const uint32_t low = p->state->low;
  const uint64_t tiles = (p->n + SLIM_PIECE_STEP - 1) / SLIM_PIECE_STEP;
  for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    uint32_t above = 0, same = 0;
    SLIM_EACH(j, SLIM_PIECE_STEP / 4) {
      const uint64_t i = tile * SLIM_PIECE_STEP + 4 * j;
      if (i >= p->n) continue;
      const float4 v = slimNeedsValues(&s) ? slimValuesAt(&s, i) : make_float4(0, 0, 0, 0);
      const uint4 key = slimKeysAt(&s, i, v);
      const bool b = i + 1 < p->n, c = i + 2 < p->n, d = i + 3 < p->n;
      above += (uint32_t)(key.x > low) + (b && key.y > low) + (c && key.z > low) + (d && key.w > low);
      same += (uint32_t)(key.x == low) + (b && key.y == low) + (c && key.z == low) + (d && key.w == low);
    }
    above = (uint32_t)slimSumOfAll((int32_t)above);
    same = (uint32_t)slimSumOfAll((int32_t)same);
    if (slimThread() == 0) {
      p->tiles[2 * tile] = above;
      p->tiles[2 * tile + 1] = same;
    }
  }
}

/* One block: for each tile, how many are taken before it, and how many of the ties stand before it. */
SLIM_FN void slimSelectScan(const slimSelectArgs* p) {
  if (!p->state->sends || p->state->flagged) return;
  const uint64_t tiles = (p->n + SLIM_PIECE_STEP - 1) / SLIM_PIECE_STEP, need = p->state->need;
  uint64_t above = 0, same = 0;
  for (uint64_t base = 0; base < tiles; base += slimThreads()) {
    const uint64_t tile = base + slimThread();
    const uint32_t a = tile < tiles ? p->tiles[2 * tile] : 0, b = tile < tiles ? p->tiles[2 * tile + 1] : 0;
    uint32_t allAbove, allSame;
    const uint64_t aboveHere = above + slimSumBefore(a, &allAbove), sameHere = same + slimSumBefore(b, &allSame);
    if (tile < tiles) {
      p->tiles[2 * tile] = (uint32_t)(aboveHere + (sameHere < need ? sameHere : need));
      p->tiles[2 * tile + 1] = (uint32_t)(sameHere < need ? sameHere : need);
    }
    above += allAbove;
    same += allSame;
  }
}

/* Indices and values, in index order. */
SLIM_FN void slimSelectTake(const slimSelectArgs* p) {
  slimSelecting s = slimSelectingOf(p);
  if (!p->state->sends || p->state->flagged) return;
  if (s.wide && p->x) s.down = slimPower2(-slimPieceExponent(&s));
  const uint32_t low = p->state->low;
  const uint64_t need = p->state->need, count = slimSelectorCount(s.selector, p->n);
  const float scale = s.selector->op == slimOp_randk ? slimRandkScale(s.selector, p->n, count) : 1;
  const uint64_t tiles = (p->n + SLIM_PIECE_STEP - 1) / SLIM_PIECE_STEP;
  for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    uint32_t at = p->tiles[2 * tile], ties = p->tiles[2 * tile + 1];
    for (uint32_t base = 0; base < SLIM_PIECE_STEP; base += 4 * slimThreads()) {
      const uint64_t i = tile * SLIM_PIECE_STEP + base + 4 * slimThread();
      float4 v = make_float4(0, 0, 0, 0);
      uint4 key = make_uint4(0, 0, 0, 0);
      if (i < p->n) {
        if (p->x) v = slimValuesAt(&s, i);
        key = slimKeysAt(&s, i, v);
      }
      const bool a = i < p->n, b = i + 1 < p->n, c = i + 2 < p->n, d = i + 3 < p->n;
      const uint32_t sameA = a && key.x == low, sameB = b && key.y == low, sameC = c && key.z == low,
                     sameD = d && key.w == low;
      uint32_t allSame, all;
      const uint32_t tie = ties + slimSumBefore(sameA + sameB + sameC + sameD, &allSame);
      const bool takeA = a && (key.x > low || (sameA && tie < need));
      const bool takeB = b && (key.y > low || (sameB && tie + sameA < need));
      const bool takeC = c && (key.z > low || (sameC && tie + sameA + sameB < need));
      const bool takeD = d && (key.w > low || (sameD && tie + sameA + sameB + sameC < need));
      uint32_t to = at + slimSumBefore((uint32_t)takeA + takeB + takeC + takeD, &all);
#define SLIM_TAKE(take, k, value)                                   \
  if (take) {                                                       \
    p->index[to] = (uint32_t)(i + k);                               \
    if (p->x) p->values[to] = scale != 1 ? (value)*scale : (value); \
    to++;                                                           \
  }
      SLIM_TAKE(takeA, 0, v.x)
      SLIM_TAKE(takeB, 1, v.y)
      SLIM_TAKE(takeC, 2, v.z)
      SLIM_TAKE(takeD, 3, v.w)
#undef SLIM_TAKE
      at += all;
      ties += allSame;
    }
  }
}

/* A unit of the values in shared memory, as one of the inner codec's. */
SLIM_FN slimBlock slimValueUnit(const slimSelecting* s, const slimLayout* l, uint64_t unit, float* scratch) {
  const slimTree* tree = s->p->tree;
  const uint64_t off = unit * tree->unit;
  slimBlock b;
  b.size = tree->unit;
  b.nv = (uint32_t)(l->values - off < tree->unit ? l->values - off : tree->unit);
  b.maxBits = 0;
  b.first = s->p->first + off;
  b.draw = &s->draw;
  b.scratch = scratch;
  b.lambda = 0;
  b.shape = NULL;
  return b;
}

/* The values into the payload; they become the decoded ones. */
SLIM_FN void slimSelectEncode(const slimSelectArgs* p, float* shared) {
  const slimSelecting s = slimSelectingOf(p);
  const slimTree* tree = p->tree;
  const slimNode* root = slimRoot(tree);
  slimPieceAt* piece = slimPieceShared();
  slimOpenWhole(piece, tree, p->type, p->n);
  const slimLayout* l = &piece->layout;
  if (blockIdx.x == 0) {
    if (slimThread() == 0) {
      slimHeaderPut(p->payload, &p->stamp, s.step, p->n, p->first, l->bytes, 0);
      if (p->n) *(uint4*)(void*)(p->payload + l->flags) = make_uint4(0, 0, 0, 0);
      if (s.wide && p->n) *(int32_t*)(void*)(p->payload + l->exponents) = slimPieceExponent(&s);
    }
    slimSync();
    slimClearGaps(tree, l, p->type, p->payload);
  }
  if (!p->state->sends || p->state->flagged) return;
  float* v = shared;
  float* arena = v + tree->unit;
  uint8_t** sec = slimParts(&arena);
  uint8_t* staging = (uint8_t*)(void*)arena;
  float* scratch = arena + slimStagingBytes(tree) / 4;
  slimStageSections(tree, staging, sec);
  for (uint64_t unit = blockIdx.x; unit < l->valueUnits; unit += gridDim.x) {
    slimBlock b = slimValueUnit(&s, l, unit, scratch);
    const uint64_t off = unit * tree->unit;
    slimSync();
    SLIM_EACH(i, b.size) v[i] = i < b.nv ? p->values[off + i] : 0;
    b.maxBits = slimMaxBits(v, b.size);
    const bool ok = b.maxBits < SLIM_INF_BITS && slimEncodeLeaf(root, &b, v, sec);
    if (!ok) {
      if (slimThread() == 0) slimAtomicOr(&p->state->flagged, 1);
      continue;
    }
    slimPutSections(tree, l, p->payload, unit, b.nv, staging, false);
    slimDecodeLeaf(root, &b, sec, v);
    slimSync();
    SLIM_EACH(i, b.nv) {
      p->values[off + i] = v[i];
      if (s.selector->op == slimOp_topk) ((uint32_t*)(void*)(p->payload + l->index))[off + i] = p->index[off + i];
    }
  }
}

/* The decoded values and, for topk, their indices. */
SLIM_FN void slimSelectDecode(const slimSelectArgs* p, float* shared) {
  const slimSelecting s = slimSelectingOf(p);
  const slimTree* tree = p->tree;
  slimPieceAt* piece = slimPieceShared();
  slimOpenWhole(piece, tree, p->type, p->n);
  const slimLayout* l = &piece->layout;
  if (!p->n || p->payload[l->flags]) return;
  float* v = shared;
  float* arena = v + tree->unit;
  uint8_t** sec = slimParts(&arena);
  uint8_t* staging = (uint8_t*)(void*)arena;
  float* scratch = arena + slimStagingBytes(tree) / 4;
  slimStageSections(tree, staging, sec);
  for (uint64_t unit = blockIdx.x; unit < l->valueUnits; unit += gridDim.x) {
    const slimBlock b = slimValueUnit(&s, l, unit, scratch);
    const uint64_t off = unit * tree->unit;
    slimGetSections(tree, l, p->payload, unit, b.nv, staging);
    slimDecodeLeaf(slimRoot(tree), &b, sec, v);
    slimSync();
    SLIM_EACH(i, b.nv) {
      p->values[off + i] = v[i];
      if (s.selector->op == slimOp_topk)
        p->index[off + i] = ((const uint32_t*)(const void*)(p->payload + l->index))[off + i];
    }
    slimSync();
  }
}

SLIM_FN uint32_t slimTileValid(uint64_t n, uint64_t off) {
  return n - off < SLIM_PIECE_STEP ? (uint32_t)(n - off) : (uint32_t)SLIM_PIECE_STEP;
}
/* The first of `count` ascending indices that is not below `at`. */
SLIM_FN uint64_t slimLowerBound(const uint32_t* index, uint64_t count, uint64_t at) {
  uint64_t low = 0, high = count;
  while (low < high) {
    const uint64_t middle = (low + high) / 2;
    if (index[middle] < at)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}
/* The selected values of a tile, zeros elsewhere. Ends with a barrier. */
SLIM_FN void slimScatterTile(const uint32_t* index, const float* values, uint64_t count, uint64_t off, uint32_t nv,
                             float* tile) {
  slimZero(tile, 4 * SLIM_PIECE_STEP);
  const uint64_t from = slimLowerBound(index, count, off), to = slimLowerBound(index, count, off + nv);
  SLIM_EACH(i, (uint32_t)(to - from)) tile[index[from + i] - off] = values[from + i];
  slimSync();
}

#endif
