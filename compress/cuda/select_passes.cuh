/* What follows a selection, for one type of reals: included by kernels.cu as passes.cuh is. */

/* Header or state says it all, or s ← (a·s + b·x) + c·û, tile by tile. */
SLIM_FN void SLIM_NAME(selectUpdate)(const slimSelectArgs* p, float* tile) {
  const slimSelecting s = slimSelectingOf(p);
  const slimFeedback* f = &p->feedback;
  slimPieceAt* piece = slimPieceShared();
  slimOpenWhole(piece, p->tree, p->type, p->n);
  const slimLayout* l = &piece->layout;
  const bool flagged = p->state->flagged, sends = p->state->sends;
  if (flagged || !sends) {
    uint4* to = (uint4*)(void*)(p->payload + l->flags);
    const uint64_t words = (l->bytes - l->flags) / 16, stride = (uint64_t)gridDim.x * slimThreads();
    for (uint64_t i = (uint64_t)blockIdx.x * slimThreads() + slimThread(); i < words; i += stride)
      to[i] = make_uint4(i ? 0 : flagged ? (uint32_t)slimPieceLost : (uint32_t)slimPieceSendsNothing, 0, 0, 0);
  }
  if (flagged) {
    if (blockIdx.x == 0 && slimThread() == 0 && p->stats) slimAtomicCount(&p->stats->flagged, 1);
    return;
  }
  if (!p->stats && (!p->s || p->keeps)) return;
  const REAL up = SLIM_REAL_IS_FLOAT ? (REAL)1 : (REAL)slimPower2(slimPieceExponent(&s));
  const uint64_t count = sends ? l->values : 0;
  REAL* v = (REAL*)p->v;
  double xx = 0, uu = 0, error = 0, ss = 0;
  const uint64_t tiles = (p->n + SLIM_PIECE_STEP - 1) / SLIM_PIECE_STEP;
  for (uint64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const uint64_t off = t * SLIM_PIECE_STEP;
    const uint32_t nv = slimTileValid(p->n, off);
    const bool counts = p->stats && t % SLIM_SAMPLE == 0;
    slimScatterTile(p->index, p->values, count, off, nv, tile);
    const uint16_t* d =
        f->bf16 ? slimMemoryDraws(&s.draw, 0, p->first + off, SLIM_PIECE_STEP, tile + SLIM_PIECE_STEP) : NULL;
    SLIM_EACH(i, nv) {
      const REAL sent = SLIM_REAL_IS_FLOAT ? (REAL)tile[i] : (REAL)tile[i] * up;
      const REAL x = SLIM_NAME(slimElement)(p->type, p->x, off + i);
      if (counts) {
        const REAL u = SLIM_NAME(slimSum)(&s, off + i);
        xx += (double)(x * x);
        uu += (double)(u * u);
        error += (double)((u - sent) * (u - sent));
      }
      if (!p->s || p->keeps) continue;
      const REAL old = SLIM_NAME(slimElement)(s.memory, p->s, off + i);
      const REAL fresh = ((REAL)f->a * old + (REAL)f->b * x) + (REAL)f->c * sent;
      if (v) v[off + i] = s.eta == 1 ? x : v[off + i] + (REAL)s.eta * (x - v[off + i]);
      SLIM_NAME(putMemory)(s.memory, p->s, off + i, fresh, d ? d[i] : 0);
      if (counts) ss += (double)(fresh * fresh);
    }
  }
  slimAddStats(p->stats, xx, uu, error, ss, 0);
}

SLIM_FN void SLIM_NAME(reduceSelected)(const slimReduceArgs* p, float* shared) {
  const slimTree* tree = p->up;
  slimPieceAt* piece = slimPieceShared();
  slimOpenWhole(piece, tree, p->type, p->n);
  const slimLayout* l = &piece->layout;
  float* tile = shared;
  REAL* sum = (REAL*)(void*)(tile + SLIM_PIECE_STEP);
  const uint64_t step = slimStepAt(p->step, &p->stamp), room = slimRoundUp(l->values, tree->unit);
  const uint32_t wrong = SLIM_NAME(checkHeaders)(p, l, step);
  const uint64_t tiles = (p->n + SLIM_PIECE_STEP - 1) / SLIM_PIECE_STEP;
  for (uint64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const uint64_t off = t * SLIM_PIECE_STEP;
    const uint32_t nv = slimTileValid(p->n, off);
    bool flagged = wrong < p->ranks;
    slimSync();
    SLIM_EACH(i, SLIM_PIECE_STEP) sum[i] = 0;
    for (uint32_t r = 0; r < p->ranks && wrong == p->ranks; r++) {
      const uint8_t* payload = p->payloads + r * p->stride;
      const uint8_t flag = payload[l->flags];
      const int exponent = SLIM_REAL_IS_FLOAT ? 0 : *(const int32_t*)(const void*)(payload + l->exponents);
      if (flag & 1 || exponent < -1022 || exponent > 1023) {
        flagged = true;
        continue;
      }
      slimScatterTile(p->index + r * l->values, p->values + r * room, flag ? 0 : l->values, off, nv, tile);
      const REAL scale = SLIM_REAL_IS_FLOAT ? (REAL)1 : (REAL)slimPower2(exponent);
      SLIM_EACH(i, nv) sum[i] += SLIM_REAL_IS_FLOAT ? (REAL)tile[i] : (REAL)tile[i] * scale;
    }
    SLIM_NAME(finishMean)(p, off, nv, SLIM_PIECE_STEP, sum, &flagged, wrong == p->ranks);
    if (flagged)
      slimStoreNan(p->type, p->y, off, nv);
    else
      SLIM_NAME(storeUnit)(p->type, p->y, off, nv, SLIM_PIECE_STEP, sum, (REAL)p->factor);
  }
}

SLIM_FN void SLIM_NAME(decodeSelected)(const slimDecodeArgs* p, float* shared) {
  const slimTree* tree = p->tree;
  slimPieceAt* piece = slimPieceShared();
  slimOpenWhole(piece, tree, p->type, p->n);
  const slimLayout* l = &piece->layout;
  float* tile = shared;
  REAL* out = SLIM_REAL_IS_FLOAT ? (REAL*)(void*)tile : (REAL*)(void*)(tile + SLIM_PIECE_STEP);
  const uint64_t step = slimStepAt(p->step, &p->stamp);
  const uint32_t fault = slimHeaderFault(p->payload, &p->stamp, step, p->stamp.rank, p->n, p->first, l->bytes, 0);
  if (fault && blockIdx.x == 0 && slimThread() == 0) slimReport(p->report, fault, p->stamp.rank, p->stamp.slot);
  const uint8_t flag = p->n ? p->payload[l->flags] : 0;
  const int exponent = SLIM_REAL_IS_FLOAT || !p->n ? 0 : *(const int32_t*)(const void*)(p->payload + l->exponents);
  const bool bad = fault || flag & 1 || exponent < -1022 || exponent > 1023;
  const uint64_t tiles = (p->n + SLIM_PIECE_STEP - 1) / SLIM_PIECE_STEP;
  for (uint64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const uint64_t off = t * SLIM_PIECE_STEP;
    const uint32_t nv = slimTileValid(p->n, off);
    slimSync();
    if (bad) {
      if (p->y) slimStoreNan(p->type, p->y, off, nv);
      continue;
    }
    slimScatterTile(p->index, p->values, flag ? 0 : l->values, off, nv, tile);
    SLIM_NAME(deliverUnit)(p, off, nv, SLIM_PIECE_STEP, out, tile, exponent);
  }
}
