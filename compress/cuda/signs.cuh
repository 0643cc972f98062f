/* reduce for lambda=shared, for one type of reals: included by kernels.cu as passes.cuh is. Signs are counted, or
 * weighted where no λ is known yet, below the rotation (format.md §7). */

/* The λ of a rank that has no common one. */
SLIM_FN REAL SLIM_NAME(ownLambda)(const slimLayout* l, const uint8_t* payload, uint64_t unit) {
  int exponent = 0;
  if (!SLIM_REAL_IS_FLOAT) exponent = *(const int32_t*)(const void*)(payload + l->exponents + 4 * unit);
  return SLIM_NAME(widen)(slimWantedAt(l, payload, unit), exponent < -1022 || exponent > 1023 ? 0 : exponent);
}

/* z ← the mean of the ranks' ±λ_r, divided by 2^exponent: r·(ranks − 2c), c of the ranks' bits being 1 (popcount), or
 * each rank's with its own λ. A warp has 32 values, one word of a rank; its lanes take a rank each and pass the words
 * round. */
SLIM_FN void SLIM_NAME(sumSigns)(const slimReduceArgs* p, const slimLayout* l, uint64_t unit, uint32_t n, bool popcount,
                                 float r, int exponent, float* z) {
  const REAL weight = (REAL)p->weight, down = SLIM_REAL_IS_FLOAT ? (REAL)1 : (REAL)slimPower2(-exponent);
  SLIM_EACH_WORD(i, n) {
    const uint32_t lane = slimThread() & 31;
    int32_t ones = 0;
    REAL sum = 0;
    for (uint32_t base = 0; base < p->ranks; base += 32) {
      const uint8_t* payload = p->payloads + (base + lane) * p->stride;
      uint32_t word = 0;
      REAL own = 0;
      if (base + lane < p->ranks) {
        word = *(const uint32_t*)(const void*)(payload + l->section[1] + unit * (n / 8) + i / 8);
        if (!popcount) own = SLIM_NAME(ownLambda)(l, payload, unit);
      }
      for (uint32_t k = 0; k < 32 && base + k < p->ranks; k++) {
        const uint32_t bit = __shfl_sync(0xffffffffu, word, (int)k) >> lane & 1;
        ones += (int32_t)bit;
        if (popcount) continue;
        const REAL x = __shfl_sync(0xffffffffu, own, (int)k);
        sum += bit ? -x : x;
      }
    }
    z[i + lane] = popcount ? (float)((int32_t)p->ranks - 2 * ones) * r : (float)(sum * weight * down);
  }
}

SLIM_FN void SLIM_NAME(reduceSigns)(const slimReduceArgs* p, float* shared) {
  const slimTree *tree = p->up, *down = p->down;
  const slimNode *rotation = slimRoot(tree), *node = slimInner(rotation, 0);
  const uint32_t n = tree->unit;
  float *z = shared, *scratch = z + n; /* rotating back finds its scratch behind z */
  uint8_t* staging = (uint8_t*)(void*)(scratch + n / 2 + 16);
  float* out = scratch + n / 2 + 16 + slimStagingBytes(tree) / 4;
  REAL* reals = SLIM_REAL_IS_FLOAT ? (REAL*)(void*)out : (REAL*)(void*)(out + n);
  const uint64_t step = slimStepAt(p->step, &p->stamp);
  const slimDraw draw = slimDrawOf(&p->stamp, step, p->stamp.rank);
  uint32_t lost = 0;

  slimPieceAt* piece = slimPieceShared();
  slimOpenWhole(piece, tree, p->type, p->n);
  const slimLayout* l = &piece->layout;
  const uint32_t wrong = SLIM_NAME(checkHeaders)(p, l, step);
  __shared__ slimPieceAt downPiece;
  if (down) SLIM_NAME(openDown)(p, down, &downPiece, step, wrong);
  const uint64_t units = (p->n + n - 1) >> slimLog2(n);
  for (uint64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const uint64_t off = unit * n;
    const uint32_t nv = (uint32_t)(p->n - off < n ? p->n - off : n);
    REAL* known = (REAL*)p->lambda + unit;
    uint32_t flagged = wrong < p->ranks, most = 0;
    uint64_t mostReal = 0;
    SLIM_EACH(r, wrong < p->ranks ? 0 : p->ranks) {
      const uint8_t* payload = p->payloads + r * p->stride;
      const float asked = slimWantedAt(l, payload, unit);
      const double own = (double)SLIM_NAME(ownLambda)(l, payload, unit);
      flagged |= slimHasFlag(payload, l, unit);
      if (asked > 0 && slimBits(asked) > most) most = slimBits(asked);
      if (own > 0 && slimBits64(own) > mostReal) mostReal = slimBits64(own);
    }
    flagged = slimMostOfAll(flagged);
    most = slimMostOfAll(most);
    mostReal = slimMostOfAll64(mostReal);
    const REAL common = *known;
    slimSync();
    if (flagged) {
      if (down) {
        SLIM_NAME(flagDown)(p, down, &downPiece.layout, unit, nv);
        lost++;
      } else {
        slimStoreNan(p->type, p->y, off, nv);
        if (slimThread() == 0) *known = 0;
      }
      continue;
    }
    const bool popcount = common > 0;
    const REAL largest = (REAL)__longlong_as_double((long long)mostReal);
    const int exponent = SLIM_NAME(exponentOf)(popcount ? slimBits64((double)common) : mostReal);
    const float lambda = SLIM_NAME(lambdaIn)(popcount ? common : largest, exponent);
    const float wanted = popcount ? slimFloat(most) : lambda;
    SLIM_NAME(sumSigns)(p, l, unit, n, popcount, lambda * (float)p->weight, exponent, z);

    slimBlock b;
    b.size = n;
    b.nv = nv;
    b.maxBits = 0;
    b.first = p->first + off;
    b.draw = &draw;
    b.scratch = scratch;
    b.lambda = lambda;
    b.shape = NULL;
    if (down) {
      slimStoreFloat(staging, wanted);
      slimDitherSigns(node, &b, z, 1, lambda, staging + 16);
      slimPutSections(down, &downPiece.layout, p->payload, unit, nv, staging, false);
      slimSetFlag(p->payload, &downPiece.layout, unit, false);
      if (!SLIM_REAL_IS_FLOAT && slimThread() == 0)
        *(int32_t*)(void*)(p->payload + downPiece.layout.exponents + 4 * unit) = exponent;
    } else {
      slimRotateBack(rotation, &b, out, z);
      if (!SLIM_REAL_IS_FLOAT) SLIM_EACH(i, n) reals[i] = SLIM_NAME(widen)(out[i], exponent);
      SLIM_NAME(storeUnit)(p->type, p->y, off, nv, n, reals, (REAL)p->factor);
      if (slimThread() == 0) *known = SLIM_NAME(widen)(wanted, exponent);
    }
    slimSync();
  }
  slimAddStats(down ? p->stats : NULL, 0, 0, 0, 0, lost);
}
