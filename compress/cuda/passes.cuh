/* encode, reduce and decode for one type of reals: included by kernels.cu with REAL, SLIM_REAL_IS_FLOAT and SLIM_NAME.
 * `shape`, a constant, says which trees a kernel takes. What C's functions of the same names do in cpu/passes.h. */

/* A thread block's arrays for one unit: reals u, floats v (those of u, if reals are floats), the sections, the codec's
 * scratch. cuda/launch.c counts the same. */
typedef struct {
  REAL* u;
  float* v;
  uint8_t* staging;
  uint8_t** sec;
  float* scratch;
} SLIM_NAME(slimArrays);
SLIM_FN SLIM_NAME(slimArrays) SLIM_NAME(slimArraysAt)(float* arena, const slimTree* tree, uint32_t stagingBytes) {
  SLIM_NAME(slimArrays) a;
  a.u = (REAL*)(void*)arena;
  arena += tree->unit * (sizeof(REAL) / 4);
  a.v = (float*)(void*)a.u;
  if (!SLIM_REAL_IS_FLOAT) {
    a.v = arena;
    arena += tree->unit;
  }
  a.sec = slimParts(&arena);
  a.staging = (uint8_t*)(void*)arena;
  a.scratch = arena + stagingBytes / 4;
  return a;
}

/* The type of s and e. */
SLIM_FN int32_t SLIM_NAME(memoryType)(const slimFeedback* f) {
  return f->bf16 ? (int32_t)slimBfloat16 : SLIM_REAL_IS_FLOAT ? (int32_t)slimFloat32 : (int32_t)slimFloat64;
}
/* Value i of it; d: 16 bits drawn for bf16. */
SLIM_FN void SLIM_NAME(putMemory)(int32_t memory, void* s, uint64_t i, REAL value, uint32_t d) {
  if (memory == slimBfloat16)
    ((uint16_t*)s)[i] = slimToMemory((float)value, d);
  else
    ((REAL*)s)[i] = value;
}

/* u ← x + sigma·s of nv elements at off, padded; s NULL: x; v: ef21's momentum first. */
SLIM_FN void SLIM_NAME(loadUnit)(int32_t type, const void* x, int32_t memory, const void* s, const REAL* v, REAL sigma,
                                 REAL eta, uint64_t off, uint32_t nv, uint32_t n, REAL* u) {
  slimSync();
#if SLIM_REAL_IS_FLOAT
  if (nv == n && !v && slimFourAligned(type, x, off) && (!s || slimFourAligned(memory, s, off))) {
    const uint32_t fours = n / 4, t = slimThreads();
    for (uint32_t j = slimThread(); j < fours; j += 2 * t) {
      const bool two = j + t < fours;
      const uint64_t at = off + 4 * j, next = two ? at + 4 * t : at;
      float4 a = slimFour(type, x, at), b = slimFour(type, x, next);
      if (s) {
        const float4 c = slimFour(memory, s, at), d = slimFour(memory, s, next);
        a = slimFourSum(a, c, sigma);
        b = slimFourSum(b, d, sigma);
      }
      ((float4*)(void*)u)[j] = a;
      if (two) ((float4*)(void*)u)[j + t] = b;
    }
    slimSync();
    return;
  }
#endif
  SLIM_EACH(i, n) {
    REAL a = 0;
    if (i < nv) {
      a = SLIM_NAME(slimElement)(type, x, off + i);
      if (v && eta != 1) a = v[off + i] + eta * (a - v[off + i]);
      if (s) a = a + sigma * SLIM_NAME(slimElement)(memory, s, off + i);
    }
    u[i] = a;
  }
  slimSync();
}

/* y ← factor·out at off. */
SLIM_FN void SLIM_NAME(storeUnit)(int32_t type, void* y, uint64_t off, uint32_t nv, uint32_t n, const REAL* out,
                                  REAL factor) {
  slimSync();
  (void)n;
#if SLIM_REAL_IS_FLOAT
  if (nv == n && slimFourAligned(type, y, off)) {
    const uint32_t each = slimElementBytes(type), several = 16 / each;
    uint4* to = (uint4*)(void*)((uint8_t*)y + off * each);
    SLIM_EACH(j, n / several) to[j] = slimSixteen(type, out + several * j, factor);
    return;
  }
#endif
  SLIM_EACH(i, nv) SLIM_NAME(slimPutElement)(type, y, off + i, factor != 1 ? out[i] * factor : out[i]);
}

/* Statistics, a thread's share. */
typedef struct {
  double xx, uu, error, ss;
  uint32_t flagged;
} SLIM_NAME(slimSums);

/* 2^exponent is the largest power of two in a double of these bits; 0 for 0. */
SLIM_FN int SLIM_NAME(exponentOf)(uint64_t bits) { return !SLIM_REAL_IS_FLOAT && bits ? slimExponent64(bits) : 0; }

/* A λ that all ranks share as the floats of a tree whose units have this exponent. */
SLIM_FN float SLIM_NAME(lambdaIn)(REAL lambda, int exponent) {
  return SLIM_REAL_IS_FLOAT ? (float)lambda : (float)((double)lambda * slimPower2(-exponent));
}
/* And back. */
SLIM_FN REAL SLIM_NAME(widen)(float x, int exponent) {
  return SLIM_REAL_IS_FLOAT ? (REAL)x : (REAL)x * (REAL)slimPower2(exponent);
}

/* u → payload, new state. x: the padded elements in shared memory, or NULL: they are read again. lambda: 0, or what all
 * ranks share; statistics: the piece's, or NULL; partial: what the unit adds to them goes there; or NULL. */
SLIM_FN void SLIM_NAME(encodeUnit)(const slimTreeShape shape, const slimTree* tree, const slimFeedback* f,
                                   const slimPieceAt* piece, uint8_t* payload, uint64_t off, uint32_t nv,
                                   uint64_t first, const slimDraw* draw, const SLIM_NAME(slimArrays) * a, int32_t type,
                                   const void* x, const REAL* sharedX, void* s, REAL* v, REAL eta, REAL lambda,
                                   const slimShape* statistics, slimPartial* partial, bool write, bool count,
                                   bool marked, SLIM_NAME(slimSums) * sums) {
  const uint32_t n = tree->unit;
  const uint64_t unit = (off - piece->start) >> slimLog2(n);
  slimBlock region;
  int exponent = 0;
#if SLIM_REAL_IS_FLOAT
  region.maxBits = slimMaxBits(a->v, n);
  const bool lost = marked && slimBits(a->v[0]) == SLIM_NAN_BITS;
  bool ok =
      region.maxBits < SLIM_INF_BITS || (f->kind == slimFeedbackNone && slimRoot(tree)->op == slimOp_fp32 && !lost);
#else
  (void)marked;
  uint64_t most = 0;
  SLIM_EACH(i, n) {
    const uint64_t bits = slimBits64(a->u[i]) & 0x7fffffffffffffffu;
    most = bits > most ? bits : most;
  }
  most = slimMostOfAll64(most);
  exponent = SLIM_NAME(exponentOf)(lambda > 0 ? slimBits64(lambda) : tree->absolute ? 0 : most);
  bool ok = most < 0x7ff0000000000000u && exponent < 1000;
  const double down = slimPower2(ok ? -exponent : 0);
  SLIM_EACH(i, n) a->v[i] = (float)(a->u[i] * down);
  region.maxBits = slimMaxBits(a->v, n);
  ok = ok && region.maxBits < SLIM_INF_BITS;
#endif
  region.size = n;
  region.nv = nv;
  region.first = first;
  region.draw = draw;
  region.scratch = a->scratch;
  region.lambda = SLIM_NAME(lambdaIn)(lambda, ok ? exponent : 0);
  region.shape = statistics;
  if (partial) slimPutPartial(slimRoot(tree), &region, a->v, ok, partial);
  if (ok) ok = slimEncodeShape(shape, tree, &region, a->v, a->staging, a->sec);
  slimPutSections(tree, &piece->layout, payload, unit, nv, a->staging, !ok);
  slimSetFlag(payload, &piece->layout, unit, !ok);
  if (!SLIM_REAL_IS_FLOAT && slimThread() == 0)
    *(int32_t*)(void*)(payload + piece->layout.exponents + 4 * unit) = ok ? exponent : 0;
  if (!ok) {
    sums->flagged++;
    return;
  }
  count = count && unit % SLIM_SAMPLE == 0;
  if (!count && !(s && write)) return;

  const int32_t memory = SLIM_NAME(memoryType)(f);
  float* q = a->scratch;
  region.scratch = q + n;
  slimDecodeShape(shape, tree, &region, a->staging, a->sec, q);
  slimSync();
  const REAL up = SLIM_REAL_IS_FLOAT ? (REAL)1 : (REAL)slimPower2(exponent);
  const uint16_t* d = f->bf16 ? slimMemoryDraws(draw, 0, first, n, q + n) : NULL;
#if SLIM_REAL_IS_FLOAT
  if (nv == n && !count && f->kind == slimFeedbackEf && slimFourAligned(memory, s, off)) {
    const float4 *b = (const float4*)(const void*)a->u, *c = (const float4*)(const void*)q;
    if (f->bf16) {
      uint4* to = (uint4*)(void*)((uint16_t*)s + off);
      SLIM_EACH(j, n / 8)
      to[j] = slimEightToMemory(slimFourSum(b[2 * j], c[2 * j], -1), slimFourSum(b[2 * j + 1], c[2 * j + 1], -1),
                                ((const uint4*)(const void*)d)[j]);
    } else { /* (s + x) − û, and u is s + x */
      SLIM_EACH(j, n / 4) * (float4*)((float*)s + off + 4 * j) = slimFourSum(b[j], c[j], -1);
    }
    return;
  }
#endif
  REAL xx = 0, uu = 0, error = 0, ss = 0;
  SLIM_EACH(i, nv) {
    const REAL sent = SLIM_REAL_IS_FLOAT ? (REAL)q[i] : (REAL)q[i] * up, u = a->u[i];
    const REAL xi = sharedX ? sharedX[i] : SLIM_NAME(slimElement)(type, x, off + i);
    if (count) {
      xx += xi * xi;
      uu += u * u;
      error += (u - sent) * (u - sent);
    }
    if (!(s && write)) continue;
    REAL fresh;
    if (f->kind == slimFeedbackEf)
      fresh = u - sent;
    else
      fresh = ((REAL)f->a * ((REAL*)s)[off + i] + (REAL)f->b * xi) + (REAL)f->c * sent;
    SLIM_NAME(putMemory)(memory, s, off + i, fresh, d ? d[i] : 0);
    if (v) v[off + i] = eta == 1 ? xi : v[off + i] + eta * (xi - v[off + i]);
    if (count) ss += fresh * fresh;
  }
  sums->xx += (double)xx;
  sums->uu += (double)uu;
  sums->error += (double)error;
  sums->ss += (double)ss;
}

SLIM_FN void SLIM_NAME(encodeUnits)(const slimTreeShape shape, const slimEncodeArgs* p, float* shared) {
  const slimTree* tree = p->tree;
  const slimFeedback f = p->feedback;
  const uint32_t n = tree->unit;
  slimPieceAt* piece = slimPieceShared();
  const SLIM_NAME(slimArrays) a = SLIM_NAME(slimArraysAt)(shared, tree, slimStagingBytes(tree));
  slimStageShape(shape, tree, a.staging, a.sec);
  const uint64_t step = slimStepAt(p->step, &p->stamp);
  const slimDraw draw = slimDrawOf(&p->stamp, step, p->stamp.rank);
  const REAL eta = step == f.warmup ? 1 : (REAL)f.momentum;
  SLIM_NAME(slimSums) sums = {0, 0, 0, 0, 0};

  for (uint32_t r = blockIdx.x; r < p->pieces; r += gridDim.x) {
    slimOpenPiece(piece, tree, p->type, p->n, p->cut, p->pieces, r, false);
    uint8_t* payload = p->payload + r * p->stride;
    if (slimThread() == 0)
      slimHeaderPut(payload, &p->stamp, step, piece->n, p->first + piece->start, piece->layout.bytes, 0);
    slimClearGaps(tree, &piece->layout, p->type, payload);
  }
  const uint64_t units = (p->n + n - 1) >> slimLog2(n);
  uint64_t end = 0; /* of the open piece */
  for (uint64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const uint64_t off = unit * n;
    if (off >= end) {
      slimOpenPiece(piece, tree, p->type, p->n, p->cut, p->pieces, off, true);
      end = piece->start + piece->n;
    }
    const uint32_t nv = (uint32_t)(end - off < n ? end - off : n);
    REAL* v = (REAL*)p->v;
    const REAL lambda = shape == slimShape_tree && p->lambda ? ((const REAL*)p->lambda)[unit] : 0;
    const bool gathers = SLIM_REAL_IS_FLOAT && (shape == slimShape_tnqsgd || shape == slimShape_tree) && p->shapes;
    SLIM_NAME(loadUnit)(p->type, p->x, SLIM_NAME(memoryType)(&f), p->s, v, (REAL)f.sigma, eta, off, nv, n, a.u);
    SLIM_NAME(encodeUnit)
    (shape, tree, &f, piece, p->payload + piece->rank * p->stride, off, nv, p->first + off, &draw, &a, p->type, p->x,
     NULL, p->s, v, eta, lambda, gathers ? p->shapes + piece->rank : NULL,
     gathers && p->partials ? p->partials + unit : NULL, !p->keeps, p->stats != NULL, p->marked, &sums);
  }
  slimAddStats(p->stats, sums.xx, sums.uu, sums.error, sums.ss, sums.flagged);
}

#if SLIM_REAL_IS_FLOAT
/* The units' parts of their pieces' statistics. */
SLIM_FN void slimSurveyUnits(const slimEncodeArgs* p, float* shared) {
  const slimTree* tree = p->tree;
  const uint32_t n = tree->unit;
  slimPieceAt* piece = slimPieceShared();
  const uint64_t step = slimStepAt(p->step, &p->stamp), units = (p->n + n - 1) >> slimLog2(n);
  const float eta = step == p->feedback.warmup ? 1 : (float)p->feedback.momentum;
  uint64_t end = 0;
  for (uint64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const uint64_t off = unit * n;
    if (off >= end) {
      slimOpenPiece(piece, tree, p->type, p->n, p->cut, p->pieces, off, true);
      end = piece->start + piece->n;
    }
    if (p->mean && p->mean[piece->rank] > 0) continue;
    const uint32_t nv = (uint32_t)(end - off < n ? end - off : n);
    loadUnitF(p->type, p->x, memoryTypeF(&p->feedback), p->s, (const float*)p->v, (float)p->feedback.sigma, eta, off,
              nv, n, shared);
    slimShape shape = {0, 0};
    if (p->shapes) shape.mean = p->shapes[piece->rank].mean;
    slimBlock b;
    b.size = n;
    b.nv = nv;
    b.maxBits = slimMaxBits(shared, n);
    b.first = 0;
    b.draw = NULL;
    b.scratch = shared + n;
    b.lambda = 0;
    b.shape = &shape;
    slimPutPartial(slimRoot(tree), &b, shared, b.maxBits < SLIM_INF_BITS, p->partials + unit);
  }
}
#endif

/* û of a unit as floats, to be multiplied by 2^exponent; false: flagged. lambda: 0, or what all ranks share. Ends with
 * a barrier. */
SLIM_FN bool SLIM_NAME(sourceUnit)(const slimTreeShape shape, const slimTree* tree, const slimLayout* l,
                                   const uint8_t* payload, uint64_t unit, uint32_t nv, uint64_t first,
                                   const slimDraw* draw, REAL lambda, uint8_t* staging, uint8_t** sec, float* scratch,
                                   float* v, int* exponent) {
  *exponent = 0;
  if (slimHasFlag(payload, l, unit)) return false;
  if (!SLIM_REAL_IS_FLOAT) *exponent = *(const int32_t*)(const void*)(payload + l->exponents + 4 * unit);
  if (*exponent < -1022 || *exponent > 1023) return false;
  slimGetSections(tree, l, payload, unit, nv, staging);
  slimBlock region;
  region.size = tree->unit;
  region.nv = nv;
  region.maxBits = 0;
  region.first = first;
  region.draw = draw;
  region.scratch = scratch;
  region.lambda = SLIM_NAME(lambdaIn)(lambda, *exponent);
  region.shape = NULL;
  slimDecodeShape(shape, tree, &region, staging, sec, v);
  slimSync();
  return true;
}

/* out ← h + nu·m, h ← h + lambda·m, in place. */
SLIM_FN void SLIM_NAME(shift)(REAL* h, uint64_t off, uint32_t nv, REAL nu, REAL lambda, REAL* m) {
  SLIM_EACH(i, nv) {
    const REAL q = m[i], old = h[off + i];
    m[i] = old + nu * q;
    h[off + i] = old + lambda * q;
  }
}

/* The first rank whose header is not the expected one, or `ranks`. */
SLIM_FN uint32_t SLIM_NAME(checkHeaders)(const slimReduceArgs* p, const slimLayout* l, uint64_t step) {
  slimStamp stamp = p->stamp;
  uint32_t worst = 0;
  SLIM_EACH(r, p->ranks) {
    const uint32_t fault = slimHeaderFault(p->payloads + r * p->stride, &stamp, step, r, p->n, p->first, l->bytes, 0);
    if (fault && blockIdx.x == 0) slimReport(p->report, fault, r, stamp.slot);
    if (fault && p->ranks - r > worst) worst = p->ranks - r;
  }
  return p->ranks - slimMostOfAll(worst);
}

/* The downlink's piece; the first block writes its header and what belongs to no unit. */
SLIM_FN void SLIM_NAME(openDown)(const slimReduceArgs* p, const slimTree* down, slimPieceAt* piece, uint64_t step,
                                 uint32_t wrong) {
  slimOpenWhole(piece, down, p->type, p->n);
  if (blockIdx.x != 0) return;
  if (slimThread() == 0)
    slimHeaderPut(p->payload, &p->stamp, step, wrong < p->ranks ? wrong : p->n, p->first, piece->layout.bytes,
                  wrong < p->ranks ? slimHeaderError : 0);
  slimClearGaps(down, &piece->layout, p->type, p->payload);
}
SLIM_FN void SLIM_NAME(flagDown)(const slimReduceArgs* p, const slimTree* down, const slimLayout* l, uint64_t unit,
                                 uint32_t nv) {
  slimPutSections(down, l, p->payload, unit, nv, NULL, true);
  slimSetFlag(p->payload, l, unit, true);
  if (!SLIM_REAL_IS_FLOAT && slimThread() == 0) *(int32_t*)(void*)(p->payload + l->exponents + 4 * unit) = 0;
}

/* The sum becomes the mean, then what the receiver puts out; h moves where it is finite. */
SLIM_FN void SLIM_NAME(finishMean)(const slimReduceArgs* p, uint64_t off, uint32_t nv, REAL* sum, bool* flagged,
                                   bool sound) {
  bool finite = true;
  SLIM_EACH(i, nv) {
    sum[i] *= (REAL)p->weight;
    finite &= SLIM_REAL_IS_FLOAT ? slimFinite((float)sum[i]) : (slimBits64((double)sum[i]) << 1 >> 53) < 2047;
  }
  if (!p->h || !sound) return;
  if (slimMostOfAll(!finite) == 0)
    SLIM_NAME(shift)((REAL*)p->h, off, nv, (REAL)p->upFeedback.nu, (REAL)p->upFeedback.lambda, sum);
  else
    *flagged = true;
}

SLIM_FN void SLIM_NAME(reduceUnits)(const slimTreeShape shape, const slimReduceArgs* p, float* shared) {
  const slimTree *tree = p->up, *down = shape == slimShape_tree ? NULL : p->down; /* trees: two launches */
  const slimFeedback f = p->downFeedback;
  const uint32_t n = tree->unit;
  slimPieceAt* piece = slimPieceShared();
  const uint32_t upBytes = slimStagingBytes(tree), downBytes = down ? slimStagingBytes(down) : 0;
  REAL* sum = (REAL*)(void*)shared;
  const SLIM_NAME(slimArrays) a =
      SLIM_NAME(slimArraysAt)(shared + n * (sizeof(REAL) / 4), tree, upBytes > downBytes ? upBytes : downBytes);
  const uint64_t step = slimStepAt(p->step, &p->stamp);
  slimStamp upStamp = p->stamp;
  upStamp.down = false;
  const slimDraw draw = slimDrawOf(&p->stamp, step, p->stamp.rank);
  SLIM_NAME(slimSums) sums = {0, 0, 0, 0, 0};

  slimOpenWhole(piece, tree, p->type, p->n);
  const slimLayout* up = &piece->layout;
  const uint32_t wrong = SLIM_NAME(checkHeaders)(p, up, step);
  __shared__ slimPieceAt downPiece;
  if (down) SLIM_NAME(openDown)(p, down, &downPiece, step, wrong);
  const uint64_t units = (p->n + n - 1) >> slimLog2(n);
  for (uint64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const uint64_t off = unit * n;
    const uint32_t nv = (uint32_t)(p->n - off < n ? p->n - off : n);
    bool flagged = wrong < p->ranks;
    slimSync();
    SLIM_EACH(i, n) sum[i] = 0;
    slimStageShape(shape, tree, a.staging, a.sec);
    for (uint32_t r = 0; r < p->ranks && wrong == p->ranks; r++) {
      int exponent;
      const slimDraw rankDraw = slimDrawOf(&upStamp, step, r);
      if (!SLIM_NAME(sourceUnit)(shape, tree, up, p->payloads + r * p->stride, unit, nv, p->first + off, &rankDraw, 0,
                                 a.staging, a.sec, a.scratch, a.v, &exponent)) {
        flagged = true;
        continue;
      }
      const REAL scale = SLIM_REAL_IS_FLOAT ? (REAL)1 : (REAL)slimPower2(exponent);
      SLIM_EACH(i, nv) sum[i] += SLIM_REAL_IS_FLOAT ? (REAL)a.v[i] : (REAL)a.v[i] * scale;
    }
    SLIM_NAME(finishMean)(p, off, nv, sum, &flagged, wrong == p->ranks);
    if (!down) {
      if (flagged)
        slimStoreNan(p->type, p->y, off, nv);
      else
        SLIM_NAME(storeUnit)(p->type, p->y, off, nv, n, sum, (REAL)p->factor);
    } else if (flagged) {
      SLIM_NAME(flagDown)(p, down, &downPiece.layout, unit, nv);
      sums.flagged++;
    } else {
      SLIM_EACH(i, n)
      a.u[i] = p->e && i < nv
                   ? sum[i] + (REAL)f.sigma * SLIM_NAME(slimElement)(SLIM_NAME(memoryType)(&f), p->e, off + i)
                   : sum[i];
      slimStageShape(shape, down, a.staging, a.sec);
      SLIM_NAME(encodeUnit)
      (shape, down, &f, &downPiece, p->payload, off, nv, p->first + off, &draw, &a, p->type, NULL, sum, p->e, NULL, 1,
       0, NULL, NULL, !p->keeps, p->stats != NULL, false, &sums);
    }
  }
  slimAddStats(down ? p->stats : NULL, sums.xx, sums.uu, sums.error, sums.ss, sums.flagged);
}

/* y and h, or cancel, of a unit that was decoded to floats v. */
SLIM_FN void SLIM_NAME(deliverUnit)(const slimDecodeArgs* p, uint64_t off, uint32_t nv, uint32_t n, REAL* out,
                                    const float* v, int exponent) {
  if (!SLIM_REAL_IS_FLOAT) {
    const REAL up = (REAL)slimPower2(exponent);
    SLIM_EACH(i, n) out[i] = (REAL)v[i] * up;
  }
  if (p->s) {
    const int32_t memory = SLIM_NAME(memoryType)(&p->feedback);
    SLIM_EACH(i, nv) {
      const REAL fresh =
          SLIM_NAME(slimElement)(memory, p->s, off + i) + out[i] - SLIM_NAME(slimElement)(p->type, p->x, off + i);
      if (memory == slimBfloat16)
        ((uint16_t*)p->s)[off + i] = slimToBf16((float)fresh);
      else
        ((REAL*)p->s)[off + i] = fresh;
    }
    return;
  }
  if (p->h) SLIM_NAME(shift)((REAL*)p->h, off, nv, (REAL)p->feedback.nu, (REAL)p->feedback.lambda, out);
  if (p->y) SLIM_NAME(storeUnit)(p->type, p->y, off, nv, n, out, (REAL)p->factor);
}

SLIM_FN void SLIM_NAME(decodeUnits)(const slimTreeShape shape, const slimDecodeArgs* p, float* shared) {
  const slimTree* tree = p->tree;
  const uint32_t n = tree->unit;
  slimPieceAt* piece = slimPieceShared();
  const SLIM_NAME(slimArrays) a = SLIM_NAME(slimArraysAt)(shared, tree, slimStagingBytes(tree));
  slimStageShape(shape, tree, a.staging, a.sec);
  const uint64_t step = slimStepAt(p->step, &p->stamp);
  const uint64_t units = (p->n + n - 1) >> slimLog2(n);
  uint64_t end = 0;
  uint32_t fault = 0;
  for (uint64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const uint64_t off = unit * n;
    if (off >= end) {
      slimOpenPiece(piece, tree, p->type, p->n, p->cut, p->pieces, off, true);
      end = piece->start + piece->n;
      fault = slimHeaderFault(p->payload + piece->rank * p->stride, &p->stamp, step, p->stamp.rank + piece->rank,
                              piece->n, p->first + piece->start, piece->layout.bytes, 0);
      if (fault && slimThread() == 0) slimReport(p->report, fault, p->stamp.rank + piece->rank, p->stamp.slot);
    }
    const uint32_t nv = (uint32_t)(end - off < n ? end - off : n);
    const slimDraw draw = slimDrawOf(&p->stamp, step, p->stamp.rank + piece->rank);
    const uint8_t* payload = p->payload + piece->rank * p->stride;
    const uint64_t at = (off - piece->start) >> slimLog2(n); /* the unit in its piece */
    REAL* known = shape == slimShape_tree && p->lambda ? (REAL*)p->lambda + unit : NULL;
    int exponent = 0;
    slimSync();
    const bool lost =
        fault || !SLIM_NAME(sourceUnit)(shape, tree, &piece->layout, payload, at, nv, p->first + off, &draw,
                                        known ? *known : 0, a.staging, a.sec, a.scratch, a.v, &exponent);
    if (known) {
      slimSync();
      if (slimThread() == 0) *known = lost ? 0 : SLIM_NAME(widen)(slimWantedAt(&piece->layout, payload, at), exponent);
    }
    if (!lost)
      SLIM_NAME(deliverUnit)(p, off, nv, n, a.u, a.v, exponent);
    else if (p->y)
      slimStoreNan(p->type, p->y, off, nv);
  }
}
