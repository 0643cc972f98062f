/* The three passes over units, for one type of reals: included by kernels.c with REAL = float and REAL = double.
 * For double, a unit is brought to float by its exponent E, and the codecs see floats (format.md §4). */

#define RVEC SLIM_NAME(slimVec)
#define RLANES (4 * SLIM_LANES / sizeof(REAL))
typedef REAL RVEC __attribute__((vector_size(4 * SLIM_LANES), aligned(sizeof(REAL)), may_alias));

static inline REAL* SLIM_NAME(buffer)(float** scratch, uint32_t n) {
  REAL* b = (REAL*)(void*)*scratch;
  *scratch += n * (sizeof(REAL) / 4);
  return b;
}

/* n elements of type at x + off as reals, padded with zeros to `size`; x itself where nothing is to be done. */
static const REAL* SLIM_NAME(load)(slimDataType_t type, const void* x, uint64_t off, uint32_t n, uint32_t size,
                                   REAL* buffer) {
  if (SLIM_IS_OWN(type)) {
    if (n == size) return (const REAL*)x + off;
    memcpy(buffer, (const REAL*)x + off, n * sizeof(REAL));
  } else {
    SLIM_NAME(toReals)(type, (const uint8_t*)x + off * slimTypeBytes(type), n, buffer);
  }
  memset(buffer + n, 0, (size - n) * sizeof(REAL));
  return buffer;
}

/* û of one unit from its decoded floats: û = v̂·2^E. */
static inline void SLIM_NAME(widen)(REAL* restrict out, const float* restrict v, uint32_t n, int exponent) {
#if SLIM_REAL_IS_FLOAT
  (void)exponent;
  memcpy(out, v, 4 * (size_t)n);
#else
  const double up = slimPower2(exponent);
  for (uint32_t i = 0; i < n; i++) out[i] = (double)v[i] * up;
#endif
}

/* 2^exponent is the largest power of two in x; 0 for 0. */
static inline int SLIM_NAME(exponentOf)(REAL x) {
#if SLIM_REAL_IS_FLOAT
  (void)x;
  return 0;
#else
  uint64_t bits;
  memcpy(&bits, &x, 8);
  return bits ? slimExponent64(bits) : 0;
#endif
}

/* Brings u, whose largest bits are m, to the floats that the tree sees, by the unit's largest or by a λ that all ranks
 * share (0: none); false: NaN, Inf or too large. */
static inline bool SLIM_NAME(narrow)(const slimTree* tree, const REAL* restrict u, SLIM_BITS m, uint32_t n, REAL lambda,
                                     float* restrict v, const float** seen, int* exponent, uint32_t* maxBits) {
#if SLIM_REAL_IS_FLOAT
  (void)tree, (void)n, (void)v, (void)lambda;
  *seen = u;
  *exponent = 0;
  *maxBits = m;
  return m < SLIM_INF_BITS;
#else
  if (m >= 0x7ff0000000000000u) return false;
  *exponent = lambda > 0 ? SLIM_NAME(exponentOf)(lambda) : m && !tree->absolute ? slimExponent64(m) : 0;
  if (*exponent >= 1000) return false;
  const double down = slimPower2(-*exponent);
  for (uint32_t i = 0; i < n; i++) v[i] = (float)(u[i] * down);
  *seen = v;
  *maxBits = slimMaxBits(v, n);
  return *maxBits < SLIM_INF_BITS;
#endif
}

/* u = x + sigma·s, unless s is NULL; the largest magnitude's bits, of x then. columns: the tree's, to which magnitudes
 * are added; or NULL. On the way, x's memory ahead is fetched:
 * long loops over what is in L1 leave the hardware's prefetchers behind, and a burst would block the loads after it. */
SLIM_ALWAYS SLIM_BITS SLIM_NAME(sum)(REAL* restrict u, const REAL* restrict x, const REAL* restrict s, REAL sigma,
                                     uint32_t n, slimVector* columns) {
  SLIM_ASSUME_BLOCK(n);
#if SLIM_REAL_IS_FLOAT
  slimBitsVector most = {0};
  if (columns) { /* n is a multiple of 128; sigma is 1 */
    for (size_t at = 0; at < n; at += 128) SLIM_UNROLLED for (size_t j = 0; j < SLIM_COLUMNS; j++) {
        const size_t i = at + j * SLIM_LANES;
        if (i % 16 == 0) slimPrefetch((const char*)(x + i) + (s ? SLIM_AHEAD_OF_TWO : SLIM_AHEAD), 64);
        slimVector a = slimLoad(x, i);
        if (s) {
          a += slimLoad(s, i);
          slimStore(u, i, a);
        }
        a = slimAbs(a);
        columns[j] += a;
        most = slimLarger(most, (slimBitsVector)a);
      }
    return slimLargest(most);
  }
#pragma GCC unroll 4
  for (size_t i = 0; i < n; i += SLIM_LANES) {
    if (i % 16 == 0) slimPrefetch((const char*)(x + i) + (s ? SLIM_AHEAD_OF_TWO : SLIM_AHEAD), 64);
    slimVector a = slimLoad(x, i);
    if (s) {
      slimVector more = slimLoad(s, i);
      if (sigma != 1) more *= sigma;
      a += more;
      slimStore(u, i, a);
    }
    most = slimLarger(most, (slimBitsVector)slimAbs(a));
  }
  return slimLargest(most);
#else
  (void)columns;
  slimPrefetch((const char*)x + SLIM_AHEAD, n * sizeof(REAL));
  for (size_t i = 0; s && i < n; i++) u[i] = x[i] + sigma * s[i];
  return SLIM_NAME(maxBits)(s ? u : x, n);
#endif
}

/* Statistics: sums of squares, in no order that anything else depends on. */
static inline double SLIM_NAME(square)(const REAL* a, uint32_t n) {
  RVEC sum[4] = {{0}}; /* additions take their time */
  double total = 0;
  uint32_t i = 0;
  for (; i + 4 * RLANES <= n; i += 4 * RLANES)
    for (uint32_t j = 0; j < 4; j++) {
      const RVEC x = *(const RVEC*)(a + i + j * RLANES);
      sum[j] += x * x;
    }
  for (; i < n; i += RLANES) sum[0] += *(const RVEC*)(a + i) * *(const RVEC*)(a + i);
  sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  for (uint32_t j = 0; j < RLANES; j++) total += (double)sum[0][j];
  return total;
}
static void SLIM_NAME(count)(const REAL* x, const REAL* u, const REAL* sent, uint32_t n, slimPassStats* stats) {
  RVEC sum = {0};
  for (uint32_t i = 0; i < n; i += RLANES) {
    const RVEC error = *(const RVEC*)(u + i) - *(const RVEC*)(sent + i);
    sum += error * error;
  }
  for (uint32_t j = 0; j < RLANES; j++) stats->error += (double)sum[j];
  stats->xx += SLIM_NAME(square)(x, n);
  stats->uu += SLIM_NAME(square)(u, n);
}

/* A memory of nv bf16 as reals, padded with zeros to n; and back, by stochastic rounding. */
static void SLIM_NAME(loadMemory)(REAL* restrict out, const uint16_t* restrict s, uint32_t nv, uint32_t n) {
  for (uint32_t i = 0; i < nv; i++) out[i] = (REAL)slimFromBf16(s[i]);
  memset(out + nv, 0, (n - nv) * sizeof(REAL));
}
static void SLIM_NAME(storeMemory)(uint16_t* restrict s, const REAL* restrict v, uint32_t nv, const slimDraw* draw,
                                   uint64_t first, float* scratch) {
  const uint16_t* restrict d = slimMemoryDraws(draw, 0, first, (nv + 1) & ~1u, (uint32_t*)(void*)scratch);
  for (uint32_t i = 0; i < nv; i++) s[i] = slimToMemory((float)v[i], d[i]);
}
/* Value `off` of a memory; NULL stays NULL. */
static inline void* SLIM_NAME(memoryAt)(const slimDirection* direction, void* s, uint64_t off) {
  return s ? (uint8_t*)s + off * (direction->feedback.bf16 ? 2 : sizeof(REAL)) : NULL;
}

/* One unit into the payload: u = x + sigma·s, codes, and (write) the new state. x is padded to the tree's unit. s, v:
 * state at this unit (nv values) or NULL. lambda: 0, or what all ranks share. survey: may be NULL. */
static void SLIM_NAME(encodeValues)(const slimDirection* direction, const slimStamp* stamp, const slimLayout* layout,
                                    const slimSurvey* survey, uint8_t* payload, uint64_t unit, uint32_t nv,
                                    uint64_t first, const REAL* x, void* s, REAL* v, REAL lambda, bool write,
                                    slimPassStats* stats, float* scratch) {
  const slimTree* tree = direction->tree;
  const slimFeedback* f = &direction->feedback;
  const uint32_t n = tree->unit;
  const bool partial = nv < n, apart = partial || f->bf16; /* s is worked on in scratch */
  REAL* u = NULL;
  REAL *sb = s, *vb = NULL;
  const REAL* in = x;
  if (v) { /* ef21's momentum: v ← v + eta·(x − v) */
    const REAL eta = stamp->step == f->warmup ? 1 : (REAL)f->momentum;
    vb = SLIM_NAME(buffer)(&scratch, n);
    memset(vb, 0, n * sizeof(REAL));
    if (eta == 1)
      memcpy(vb, x, nv * sizeof(REAL));
    else
      for (uint32_t i = 0; i < nv; i++) vb[i] = v[i] + eta * (x[i] - v[i]);
    in = vb;
  }
  float* narrow = SLIM_REAL_IS_FLOAT ? NULL : scratch;
  if (narrow) scratch += n;
  const float* seen = NULL;
  int exponent = 0;
  uint32_t maxBits = 0;
  SLIM_BITS most;
  if (s) {
    u = SLIM_NAME(buffer)(&scratch, n);
    if (apart) sb = SLIM_NAME(buffer)(&scratch, n);
    if (f->bf16) {
      SLIM_NAME(loadMemory)(sb, s, nv, n);
    } else if (partial) {
      memcpy(sb, s, nv * sizeof(REAL));
      memset(sb + nv, 0, (n - nv) * sizeof(REAL));
    }
    most = f->sigma == 1 ? SLIM_NAME(sum)(u, in, sb, 1, n, NULL) : SLIM_NAME(sum)(u, in, sb, (REAL)f->sigma, n, NULL);
    in = u;
  } else {
    most = SLIM_NAME(sum)(NULL, in, NULL, 0, n, NULL);
  }
  bool ok = SLIM_NAME(narrow)(tree, in, most, n, lambda, narrow, &seen, &exponent, &maxBits);
  if (!ok && SLIM_REAL_IS_FLOAT && slimPassesAnything(direction)) ok = true;
  slimDraw draw = slimDrawOf(stamp);
  slimBlock region = {n,
                      nv,
                      maxBits,
                      first,
                      &draw,
                      scratch,
                      slimLambdaIn(&lambda, !SLIM_REAL_IS_FLOAT, 0, exponent),
                      survey ? &survey->shape : NULL,
                      0};
  if (ok && survey && survey->partials) survey->partials[unit] = slimGatherTruncated(slimRoot(tree), &region, seen);
  if (survey && survey->only) return;
  if (ok) ok = slimEncodeUnit(tree, layout, payload, unit, nv, &region, seen);
  if (!ok) {
    slimFlagUnit(tree, layout, payload, unit, nv);
    if (stats) stats->flagged++;
    return;
  }
  if (!SLIM_REAL_IS_FLOAT) memcpy(payload + layout->exponents + 4 * unit, &exponent, 4);
  const bool sampled = stats && unit % SLIM_SAMPLE == 0;
  const bool keeps = s && write;
  if (!sampled && !keeps) return;

  const bool taken = SLIM_REAL_IS_FLOAT && !partial && (!keeps || f->kind == slimFeedbackEf) && slimIsAddedUp(tree);
  if (s && (!taken || f->bf16)) slimPrefetch((const char*)s + SLIM_AHEAD, n * (f->bf16 ? 2 : sizeof(REAL)));
  if (taken) {
    REAL* rest = keeps ? sb : (REAL*)(void*)scratch;
    const slimAdded added = slimAddedOf(tree, layout);
    slimTakeUnit(&added, n, payload, unit, (const float*)(const void*)in, (float*)(void*)rest, keeps ? 0 : n);
    if (sampled) {
      const double xx = SLIM_NAME(square)(x, n), error = SLIM_NAME(square)(rest, n);
      stats->xx += xx;
      stats->uu += in == x ? xx : SLIM_NAME(square)(in, n);
      stats->error += error;
      if (keeps) stats->ss += error;
    }
    if (keeps && f->bf16) SLIM_NAME(storeMemory)(s, sb, nv, &draw, first, scratch);
    return;
  }
  if (SLIM_REAL_IS_FLOAT && !sampled && !partial && f->kind == slimFeedbackEf && slimIsSparse(tree)) {
    memcpy(sb, in, n * sizeof(REAL));
    slimAddSelected(tree, layout, payload, unit, nv, &region, -1, (float*)(void*)sb);
    if (f->bf16) SLIM_NAME(storeMemory)(s, sb, nv, &draw, first, scratch);
    return;
  }
  float* q = scratch;
  region.scratch = scratch + n;
  slimDecodeUnit(tree, layout, payload, unit, nv, &region, q);
  REAL* sent = (REAL*)(void*)q;
  if (!SLIM_REAL_IS_FLOAT) {
    sent = (REAL*)(void*)region.scratch;
    SLIM_NAME(widen)(sent, q, n, exponent);
  }
  if (partial)
    for (uint32_t i = nv; i < n; i++) sent[i] = 0;
  if (sampled) SLIM_NAME(count)(x, in, sent, n, stats);
  if (keeps) {
    if (f->kind == slimFeedbackEf) { /* (s + x) − û, and u is s + x */
      SLIM_ASSUME_BLOCK(n);
      for (uint32_t i = 0; i < n; i++) sb[i] = in[i] - sent[i];
    } else {
      const REAL a = (REAL)f->a, b = (REAL)f->b, c = (REAL)f->c;
      for (uint32_t i = 0; i < n; i++) sb[i] = (a * sb[i] + b * x[i]) + c * sent[i];
    }
    if (f->bf16)
      SLIM_NAME(storeMemory)(s, sb, nv, &draw, first, (float*)(void*)(sent + n));
    else if (partial)
      memcpy(s, sb, nv * sizeof(REAL));
    if (v) memcpy(v, vb, nv * sizeof(REAL));
    if (sampled) stats->ss += SLIM_NAME(square)(sb, n);
  }
}

static void SLIM_NAME(encodeUnits)(const slimEncodePass* p, const slimLayout* layout, const slimSurvey* survey,
                                   uint64_t u0, uint64_t u1, slimPassStats* stats, float* scratch) {
  const uint32_t n = p->direction->tree->unit;
  REAL* xb = SLIM_NAME(buffer)(&scratch, n);
  for (uint64_t unit = u0; unit < u1; unit++) {
    const uint64_t off = unit * n;
    const uint32_t nv = (uint32_t)(p->n - off < n ? p->n - off : n);
    const REAL* x = SLIM_NAME(load)(p->type, p->x, off, nv, n, xb);
    SLIM_NAME(encodeValues)
    (p->direction, &p->stamp, layout, survey, p->payload, unit, nv, p->first + off, x,
     SLIM_NAME(memoryAt)(p->direction, p->s, off), p->v ? (REAL*)p->v + off : NULL,
     p->lambda ? ((const REAL*)p->lambda)[unit] : 0, true, stats, scratch);
  }
}

/* factor·out as nv elements of y's type; NaN where flagged. */
static void SLIM_NAME(store)(slimDataType_t type, void* y, uint64_t off, uint32_t nv, REAL* restrict out, double factor,
                             bool flagged) {
  if (flagged) {
    slimStoreNan(type, y, off, nv);
    return;
  }
  if (factor != 1)
    for (uint32_t i = 0; i < nv; i++) out[i] *= (REAL)factor;
  SLIM_NAME(fromReals)(type, out, nv, (uint8_t*)y + off * slimTypeBytes(type));
}

/* The mean over ranks of one unit (or step of a piece) of n values; false: one of them is flagged. v: n floats; wide:
 * n reals, of double. */
static bool SLIM_NAME(meanOfUnit)(const slimReducePass* p, slimSource* source, uint64_t unit, uint32_t nv, uint32_t n,
                                  REAL* restrict sum, REAL* restrict wide, float* restrict v, float* scratch) {
  const REAL weight = (REAL)p->weight;
  const bool sparse = SLIM_REAL_IS_FLOAT && slimIsSparse(p->up->tree);
  bool whole = true;
  int added = 0;
  SLIM_ASSUME_BLOCK(n);
  if (sparse) memset(sum, 0, n * sizeof(REAL));
  for (int r = 0; r < p->ranks; r++) {
    int exponent;
    float* to = SLIM_REAL_IS_FLOAT && (!added || sparse) ? (float*)(void*)sum : v;
    if (!slimSourceUnit(&source[r], unit, nv, p->first + unit * n, sparse, to, &exponent, scratch)) {
      whole = false;
      continue;
    }
    added++;
    if (sparse) continue;
    const REAL* one = (const REAL*)(void*)v;
    if (!SLIM_REAL_IS_FLOAT) {
      SLIM_NAME(widen)(added > 1 ? wide : sum, v, n, exponent);
      one = wide;
    }
    if (added == 2) /* the sum starts at +0 */
      for (uint32_t i = 0; i < n; i++) sum[i] = (0 + sum[i]) + one[i];
    else if (added > 2)
      for (uint32_t i = 0; i < n; i++) sum[i] += one[i];
  }
  if (!added) memset(sum, 0, n * sizeof(REAL));
  for (uint32_t i = nv; i < n; i++) sum[i] = 0;
  for (uint32_t i = 0; i < n; i++) sum[i] = (0 + sum[i]) * weight;
  return whole;
}

/* Mean over ranks, the receiver's shift, and either the downlink's payload or y. */
static void SLIM_NAME(reduceUnits)(const slimReducePass* p, slimSource* source, const slimLayout* down, uint64_t u0,
                                   uint64_t u1, slimPassStats* stats, float* scratch) {
  const slimTree* tree = p->up->tree;
  const uint32_t n = slimSourceStep(tree); /* elements looked at at a time */
  REAL* sum = SLIM_NAME(buffer)(&scratch, n);
  REAL* wide = SLIM_REAL_IS_FLOAT ? NULL : SLIM_NAME(buffer)(&scratch, n);
  float* v = scratch;
  scratch += n;
  const REAL nu = (REAL)p->up->feedback.nu, lambda = (REAL)p->up->feedback.lambda;
  const bool adds = SLIM_REAL_IS_FLOAT && slimIsAddedUp(tree);
  const slimAdded added = adds ? slimAddedOf(tree, source->layout) : (slimAdded){0};
  const bool own = p->down && p->down->feedback.kind == slimFeedbackEf;
  for (uint64_t unit = u0; unit < u1; unit++) {
    const uint64_t off = unit * n;
    const uint32_t nv = (uint32_t)(p->n - off < n ? p->n - off : n);
    bool flagged = false, together = adds && nv == n;
    for (int r = 0; r < p->ranks; r++) together = together && !slimFlaggedAt(source->layout, p->payloads[r], unit);
    if (!together)
      flagged = !SLIM_NAME(meanOfUnit)(p, source, unit, nv, n, sum, wide, v, scratch);
    else
      slimAddUnits(&added, n, p->payloads, p->ranks, unit, (float)p->weight, NULL, (float*)(void*)sum, NULL);
    if (own && p->e) slimPrefetch((char*)SLIM_NAME(memoryAt)(p->down, p->e, off) + SLIM_AHEAD, n * sizeof(REAL));
    if (p->h) {
      REAL* h = (REAL*)p->h + off;
      if (SLIM_NAME(finite)(sum, n))
        for (uint32_t i = 0; i < nv; i++) {
          const REAL m = sum[i], old = h[i];
          sum[i] = old + nu * m;
          h[i] = old + lambda * m;
        }
      else
        flagged = true;
    }
    if (!p->down) {
      SLIM_NAME(store)(p->type, p->y, off, nv, sum, p->factor, flagged);
    } else if (flagged) {
      slimFlagUnit(p->down->tree, down, p->payload, unit, nv);
      if (stats) stats->flagged++;
    } else {
      SLIM_NAME(encodeValues)
      (p->down, &p->stamp, down, NULL, p->payload, unit, nv, p->first + off, sum,
       SLIM_NAME(memoryAt)(p->down, p->e, off), NULL, 0, own, stats, scratch);
    }
  }
}

/* reduce for lambda=shared: signs are counted, or weighted where no λ is known yet, below the rotation. streams: room
 * for a pointer a rank. */
static void SLIM_NAME(reduceSigns)(const slimReducePass* p, const slimLayout* up, const slimLayout* down, uint64_t u0,
                                   uint64_t u1, const uint8_t** streams, slimPassStats* stats, float* scratch) {
  const slimNode* rotation = slimRoot(p->up->tree);
  const uint32_t n = p->up->tree->unit, ranks = (uint32_t)p->ranks;
  const slimDraw draw = slimDrawOf(&p->stamp);
  REAL* wide = SLIM_NAME(buffer)(&scratch, n);
  REAL* sum = SLIM_NAME(buffer)(&scratch, n);
  float* z = scratch;
  for (uint64_t unit = u0; unit < u1; unit++) {
    const uint64_t off = unit * n;
    const uint32_t nv = (uint32_t)(p->n - off < n ? p->n - off : n);
    REAL* known = (REAL*)p->lambda + unit;
    bool flagged = false;
    float wanted = 0;
    for (uint32_t r = 0; r < ranks; r++) {
      const float one = slimWantedAt(up, p->payloads[r], unit);
      wanted = one > wanted ? one : wanted;
      flagged |= slimFlaggedAt(up, p->payloads[r], unit);
      streams[r] = p->payloads[r] + up->section[1] + unit * (n / 8);
    }
    if (flagged) {
      if (p->down) {
        slimFlagUnit(p->down->tree, down, p->payload, unit, nv);
        if (stats) stats->flagged++;
      } else {
        slimStoreNan(p->type, p->y, off, nv);
        *known = 0;
      }
      continue;
    }

    int exponent;
    float lambda;
    if (*known > 0) {
      exponent = SLIM_NAME(exponentOf)(*known);
      lambda = slimLambdaIn(known, !SLIM_REAL_IS_FLOAT, 0, exponent);
      slimSumSigns(z, streams, ranks, lambda * (float)p->weight, n, (uint32_t*)(void*)(z + n));
    } else {
      REAL most = 0;
      memset(sum, 0, n * sizeof(REAL));
      for (uint32_t r = 0; r < ranks; r++) {
        int e = 0;
        if (!SLIM_REAL_IS_FLOAT) memcpy(&e, p->payloads[r] + up->exponents + 4 * unit, 4);
        e = e < -1022 || e > 1023 ? 0 : e;
        const float one = slimWantedAt(up, p->payloads[r], unit);
        REAL own;
        SLIM_NAME(widen)(&own, &one, 1, e);
        most = own > most ? own : most;
        slimUnpackSigns(z, streams[r], n, one);
        SLIM_NAME(widen)(wide, z, n, e);
        for (uint32_t i = 0; i < n; i++) sum[i] += wide[i];
      }
      exponent = SLIM_NAME(exponentOf)(most);
      const REAL weight = (REAL)p->weight;
      for (uint32_t i = 0; i < n; i++) sum[i] *= weight;
#if SLIM_REAL_IS_FLOAT
      memcpy(z, sum, 4 * (size_t)n);
      lambda = wanted = most;
#else
      const double to = slimPower2(-exponent);
      for (uint32_t i = 0; i < n; i++) z[i] = (float)(sum[i] * to);
      lambda = wanted = (float)(most * to);
#endif
    }

    const slimBlock b = {n, nv, 0, p->first + off, &draw, z + n, lambda, NULL, 0};
    if (p->down) {
      uint8_t* signs = p->payload + down->section[1] + unit * (n / 8);
      if (!SLIM_REAL_IS_FLOAT) memcpy(p->payload + down->exponents + 4 * unit, &exponent, 4);
      slimStoreFloat(p->payload + down->section[0] + 4 * unit, wanted);
      slimDitherSigns(slimInner(rotation, 0), &b, z, 1, lambda, signs);
    } else {
      float* out = (float*)(void*)sum;
      slimRotateBack(rotation, &b, out, z);
      SLIM_NAME(widen)(wide, out, n, exponent);
      SLIM_NAME(store)(p->type, p->y, off, nv, wide, p->factor, false);
      SLIM_NAME(widen)(known, &wanted, 1, exponent);
    }
  }
}

static void SLIM_NAME(decodeUnits)(const slimDecodePass* p, slimSource* source, uint64_t u0, uint64_t u1,
                                   float* scratch) {
  const uint32_t n = slimSourceStep(p->direction->tree);
  float* v = scratch;
  scratch += n;
  REAL* out = (REAL*)(void*)v;
  if (!SLIM_REAL_IS_FLOAT) out = SLIM_NAME(buffer)(&scratch, n);
  const REAL nu = (REAL)p->direction->feedback.nu, lambda = (REAL)p->direction->feedback.lambda;
  for (uint64_t unit = u0; unit < u1; unit++) {
    const uint64_t off = unit * n;
    const uint32_t nv = (uint32_t)(p->n - off < n ? p->n - off : n);
    int exponent;
    const bool direct = SLIM_REAL_IS_FLOAT && p->type == slimFloat32 && !p->h && p->factor == 1 && nv == n;
    float* to = direct ? (float*)p->y + off : v;
    REAL* common = p->lambda ? (REAL*)p->lambda + unit : NULL;
    if (!slimSourceUnit(source, unit, nv, p->first + off, false, to, &exponent, scratch)) {
      if (p->y) slimStoreNan(p->type, p->y, off, nv);
      if (common) *common = 0;
      continue;
    }
    if (common) {
      const float wanted = slimWantedAt(source->layout, p->payload, unit);
      SLIM_NAME(widen)(common, &wanted, 1, exponent);
    }
    if (direct) continue;
    if (!SLIM_REAL_IS_FLOAT) SLIM_NAME(widen)(out, v, n, exponent);
    if (p->h) {
      REAL* h = (REAL*)p->h + off;
      for (uint32_t i = 0; i < nv; i++) {
        const REAL q = out[i], old = h[i];
        out[i] = old + nu * q;
        h[i] = old + lambda * q;
      }
    }
    if (p->y) SLIM_NAME(store)(p->type, p->y, off, nv, out, p->factor, false);
  }
}

/* s ← s + û − x, in units that were not flagged. */
static void SLIM_NAME(cancelUnits)(const slimDecodePass* p, slimSource* source, const void* x, void* s,
                                   float* scratch) {
  const uint32_t n = slimSourceStep(p->direction->tree);
  const bool bf16 = p->direction->feedback.bf16;
  float* v = scratch;
  scratch += n;
  REAL* xb = SLIM_NAME(buffer)(&scratch, n);
  REAL* wide = SLIM_NAME(buffer)(&scratch, n);
  REAL* sb = SLIM_NAME(buffer)(&scratch, n);
  for (uint64_t off = 0, unit = 0; off < p->n; off += n, unit++) {
    const uint32_t nv = (uint32_t)(p->n - off < n ? p->n - off : n);
    int exponent;
    if (!slimSourceUnit(source, unit, nv, p->first + off, false, v, &exponent, scratch)) continue;
    SLIM_NAME(widen)(wide, v, n, exponent);
    const REAL* xi = SLIM_NAME(load)(p->type, x, off, nv, n, xb);
    REAL* si = bf16 ? sb : (REAL*)s + off;
    uint16_t* kept = (uint16_t*)s + off;
    if (bf16) SLIM_NAME(loadMemory)(sb, kept, nv, n);
    for (uint32_t i = 0; i < nv; i++) si[i] = si[i] + wide[i] - xi[i];
    for (uint32_t i = 0; bf16 && i < nv; i++) kept[i] = slimToBf16((float)si[i]);
  }
}

/* ---- Selectors over a whole piece: chunk and global (format.md §6) --------------------------------------------------
 */

/* u = x + sigma·s of elements off …, padded with zeros. */
static void SLIM_NAME(pieceSum)(const slimEncodePass* p, uint64_t off, uint32_t nv, uint32_t n, REAL* restrict u,
                                float* scratch) {
  const slimFeedback* f = &p->direction->feedback;
  const REAL sigma = (REAL)f->sigma, eta = p->stamp.step == f->warmup ? 1 : (REAL)f->momentum;
  REAL* xb = SLIM_NAME(buffer)(&scratch, n);
  const REAL* x = SLIM_NAME(load)(p->type, p->x, off, nv, n, xb);
  const REAL* s = SLIM_NAME(memoryAt)(p->direction, p->s, off);
  if (s && f->bf16) {
    REAL* sb = SLIM_NAME(buffer)(&scratch, n);
    SLIM_NAME(loadMemory)(sb, (const uint16_t*)(const void*)s, nv, n);
    s = sb;
  }
  const REAL* v = p->v ? (const REAL*)p->v + off : NULL;
  if (v && eta != 1) {
    for (uint32_t i = 0; i < nv; i++) u[i] = v[i] + eta * (x[i] - v[i]);
    x = u;
  }
  if (s)
    for (uint32_t i = 0; i < nv; i++) u[i] = x[i] + sigma * s[i];
  else if (x != u)
    memcpy(u, x, nv * sizeof(REAL));
  memset(u + nv, 0, (n - nv) * sizeof(REAL));
}
/* The floats that the tree sees there: u·2^−E. */
static void SLIM_NAME(pieceValues)(const slimEncodePass* p, uint64_t off, uint32_t nv, uint32_t n, int exponent,
                                   float* v, float* scratch) {
#if SLIM_REAL_IS_FLOAT
  (void)exponent;
  SLIM_NAME(pieceSum)(p, off, nv, n, v, scratch);
#else
  REAL* u = SLIM_NAME(buffer)(&scratch, n);
  SLIM_NAME(pieceSum)(p, off, nv, n, u, scratch);
  const double down = slimPower2(-exponent);
  for (uint32_t i = 0; i < n; i++) v[i] = (float)(u[i] * down);
#endif
}

/* false: NaN, Inf or too large anywhere in the piece. */
static bool SLIM_NAME(pieceExponent)(const slimEncodePass* p, int* exponent, float* scratch) {
  const uint32_t n = SLIM_PIECE_STEP;
  REAL* u = SLIM_NAME(buffer)(&scratch, n);
  float* narrow = scratch;
  const float* seen;
  *exponent = -1022;
  bool zero = true;
  for (uint64_t off = 0; off < p->n; off += n) {
    const uint32_t nv = (uint32_t)(p->n - off < n ? p->n - off : n);
    int e;
    uint32_t maxBits;
    SLIM_NAME(pieceSum)(p, off, nv, n, u, scratch + n);
    if (!SLIM_NAME(narrow)(p->direction->tree, u, SLIM_NAME(maxBits)(u, n), n, 0, narrow, &seen, &e, &maxBits))
      return false;
    if (!maxBits) continue;
    zero = false;
    *exponent = e > *exponent ? e : *exponent;
  }
  if (zero || SLIM_REAL_IS_FLOAT) *exponent = 0;
  return true;
}

/* s ← (a·s + b·x) + c·û and the momentum of nv elements. ss: Σs² is added to it, unless NULL. */
static void SLIM_NAME(pieceUpdate)(const slimEncodePass* p, uint64_t off, uint32_t nv, const slimDraw* draw,
                                   const REAL* restrict x, const REAL* restrict sent, double* ss, float* scratch) {
  const slimFeedback* f = &p->direction->feedback;
  const REAL a = (REAL)f->a, b = (REAL)f->b, c = (REAL)f->c;
  if (p->v) {
    const REAL eta = p->stamp.step == f->warmup ? 1 : (REAL)f->momentum;
    REAL* restrict v = (REAL*)p->v + off;
    if (eta == 1)
      memcpy(v, x, nv * sizeof(REAL));
    else
      for (uint32_t i = 0; i < nv; i++) v[i] = v[i] + eta * (x[i] - v[i]);
  }
  void* kept = SLIM_NAME(memoryAt)(p->direction, p->s, off);
  REAL* restrict s = kept;
  if (f->bf16) {
    s = SLIM_NAME(buffer)(&scratch, SLIM_PIECE_STEP);
    SLIM_NAME(loadMemory)(s, kept, nv, nv);
  }
  for (uint32_t i = 0; i < nv; i++) s[i] = (a * s[i] + b * x[i]) + c * sent[i];
  if (f->bf16) SLIM_NAME(storeMemory)(kept, s, nv, draw, p->first + off, scratch);
  if (!ss) return;
  const uint32_t whole = (uint32_t)(nv / RLANES * RLANES);
  *ss += SLIM_NAME(square)(s, whole);
  for (uint32_t i = whole; i < nv; i++) *ss += (double)(s[i] * s[i]);
}

typedef struct {
  const slimEncodePass* pass;
  const slimDraw* draw;
  int exponent;
} SLIM_NAME(pieceKeys);
static const float* SLIM_NAME(keysOfPiece)(const void* context, uint64_t off, uint32_t nv, uint32_t n, int32_t* keys,
                                           float* v, float* scratch) {
  const SLIM_NAME(pieceKeys)* k = context;
  const slimEncodePass* p = k->pass;
  const float* u = v;
  if (SLIM_REAL_IS_FLOAT && p->type == slimFloat32 && !p->s && !p->v && nv == n)
    u = (const float*)p->x + off;
  else
    SLIM_NAME(pieceValues)(p, off, nv, n, k->exponent, v, scratch);
  slimPieceKeys(slimSelector(p->direction->tree), k->draw, p->first + off, u, n, keys);
  return u;
}

static slimResult_t SLIM_NAME(encodePiece)(const slimEncodePass* p, const slimLayout* layout, slimPassStats* stats,
                                           float* scratch) {
  const slimTree* tree = p->direction->tree;
  const uint32_t n = SLIM_PIECE_STEP;
  slimDraw draw = slimDrawOf(&p->stamp);
  /* The largest key of few tells what another pass would. */
  const bool sends = slimSends(slimSelector(tree), &draw, p->first);
  const bool byKeys =
      sends && SLIM_REAL_IS_FLOAT && slimSelector(tree)->op == slimOp_topk && slimSelectsFew(p->n, layout->values);
  int exponent = 0;
  int32_t largest = 0;
  bool ok = byKeys || SLIM_NAME(pieceExponent)(p, &exponent, scratch);
  uint32_t* index = malloc(layout->values * (sizeof(uint32_t) + sizeof(float)));
  if (!index)
    return slimFail(slimSystemError, "no memory for %llu selected values", (unsigned long long)layout->values);
  float* values = (float*)(void*)(index + layout->values);
  if (ok && sends) {
    const SLIM_NAME(pieceKeys) keys = {p, &draw, exponent};
    slimResult_t result = slimSelectPiece(SLIM_NAME(keysOfPiece), &keys, p->n, layout->values, index, values,
                                          byKeys ? &largest : NULL, scratch);
    if (result != slimSuccess) {
      free(index);
      return result;
    }
  }
  ok = ok && largest < SLIM_INF_BITS;
  const uint64_t taken = sends ? layout->values : 0;
  const float scale = slimRandkScale(slimSelector(tree), p->n, taken);
  for (uint64_t i = 0; ok && scale != 1 && i < taken; i++) values[i] *= scale;
  float* rest = scratch;

  ok = ok && (!sends || slimEncodeValues(tree, layout, p->payload, values, p->first, &draw, rest));
  if (!ok) {
    slimFlagPiece(layout, p->payload, slimPieceLost);
    if (stats) stats->flagged++;
    free(index);
    return slimSuccess;
  }
  if (sends) {
    if (!SLIM_REAL_IS_FLOAT) memcpy(p->payload + layout->exponents, &exponent, 4);
    if (slimSelector(tree)->op == slimOp_topk) memcpy(p->payload + layout->index, index, 4 * layout->values);
    slimDecodeValues(tree, layout, p->payload, values, p->first, &draw, rest);
  } else {
    slimFlagPiece(layout, p->payload, slimPieceSendsNothing);
  }

  float* left = scratch;
  REAL* xb = SLIM_NAME(buffer)(&left, n);
  REAL* u = SLIM_NAME(buffer)(&left, n);
  REAL* sent = SLIM_NAME(buffer)(&left, n);
  uint64_t at = 0;
  for (uint64_t off = 0, step = 0; off < p->n; off += n, step++) {
    const uint32_t nv = (uint32_t)(p->n - off < n ? p->n - off : n);
    const bool sampled = stats && step % SLIM_SAMPLE == 0;
    memset(sent, 0, n * sizeof(REAL));
    for (; at < taken && index[at] < off + nv; at++)
      SLIM_NAME(widen)(sent + (index[at] - off), values + at, 1, exponent);
    if (!p->s && !sampled) continue;
    const REAL* x = SLIM_NAME(load)(p->type, p->x, off, nv, n, xb);
    if (sampled) {
      SLIM_NAME(pieceSum)(p, off, nv, n, u, left);
      SLIM_NAME(count)(x, u, sent, n, stats);
    }
    if (!p->s) continue;
    SLIM_NAME(pieceUpdate)(p, off, nv, &draw, x, sent, sampled ? &stats->ss : NULL, left);
  }
  free(index);
  return slimSuccess;
}

#undef RVEC
#undef RLANES
