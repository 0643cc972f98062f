/* encode, reduce and decode for one type of reals: included by kernels.cu and warps.cu (SLIM_WARP), with REAL,
 * SLIM_REAL_IS_FLOAT and SLIM_NAME.
 * `shape`, a constant, says which trees a kernel takes. What C's functions of the same names do in cpu/passes.h. */

/* A team's arrays for one unit: reals u, floats v (those of u, if reals are floats), the sections, the codec's scratch.
 * cuda/launch.c counts the same. A warp's are registers, but for the sections. */
typedef struct {
  REAL* u;
  float* v;
  uint8_t* staging;
  uint8_t** sec;
  float* scratch;
} SLIM_NAME(slimArrays);
SLIM_FN SLIM_NAME(slimArrays) SLIM_NAME(slimArraysAt)(float* own, float* scratch, uint32_t n, uint32_t stagingBytes) {
  SLIM_NAME(slimArrays) a;
#ifdef SLIM_WARP
  (void)n, (void)stagingBytes;
  a.u = a.v = own;
  a.sec = NULL;
  a.staging = (uint8_t*)(void*)slimWarpShared();
  a.scratch = scratch;
#else /* one behind the other */
  (void)scratch;
  a.u = (REAL*)(void*)own;
  own += n * (sizeof(REAL) / 4);
  a.v = (float*)(void*)a.u;
  if (!SLIM_REAL_IS_FLOAT) {
    a.v = own;
    own += n;
  }
  a.sec = slimParts(&own);
  a.staging = (uint8_t*)(void*)own;
  a.scratch = own + stagingBytes / 4;
#endif
  return a;
}

/* The type of s and e. */
SLIM_FN int32_t SLIM_NAME(memoryType)(const slimFeedback* f) {
  return f->bf16 ? (int32_t)slimBfloat16 : SLIM_REAL_IS_FLOAT ? (int32_t)slimFloat32 : (int32_t)slimFloat64;
}

#ifdef SLIM_WARP

/* u ← x + sigma·s of nv elements at off, padded; s NULL: x; v: ef21's momentum first. */
SLIM_FN void SLIM_NAME(loadUnit)(int32_t type, const void* x, int32_t memory, const void* s, const REAL* v, REAL sigma,
                                 REAL eta, uint64_t off, uint32_t nv, uint32_t n, REAL* u) {
  REAL t[SLIM_OWN];
  slimTakeUnit(type, x, off, nv, u);
  if (v && eta != 1) {
    slimTakeUnit(slimFloat32, v, off, nv, t);
    SLIM_EACH(i, n) u[i] = t[i] + eta * (u[i] - t[i]);
  }
  if (s) {
    slimTakeUnit(memory, s, off, nv, t);
    SLIM_EACH(i, n) u[i] = u[i] + sigma * t[i];
  }
}

/* y ← factor·out at off. */
SLIM_FN void SLIM_NAME(storeUnit)(int32_t type, void* y, uint64_t off, uint32_t nv, uint32_t n, REAL* out,
                                  REAL factor) {
  if (factor != 1) {
    SLIM_EACH(i, n) out[i] *= factor;
  }
  slimGiveUnit(type, y, off, nv, out);
}

#else

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
    slimLoadAligned(type, x, memory, s, sigma, off, n, u);
    slimSync();
    return;
  }
#endif
  SLIM_EACH(i, n) {
    const uint32_t e = slimPlace(i);
    REAL a = 0;
    if (e < nv) {
      a = SLIM_NAME(slimElement)(type, x, off + e);
      if (v && eta != 1) a = v[off + e] + eta * (a - v[off + e]);
      if (s) a = a + sigma * SLIM_NAME(slimElement)(memory, s, off + e);
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
    slimStoreAligned(type, y, off, n, out, factor);
    return;
  }
#endif
  SLIM_EACH(i, n) {
    const uint32_t e = slimPlace(i);
    if (e < nv) SLIM_NAME(slimPutElement)(type, y, off + e, factor != 1 ? out[i] * factor : out[i]);
  }
}

#endif

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
                                   const slimShape* statistics, slimPartial* partial, bool write, bool marked,
                                   slimPassStats* stats) {
  const uint32_t n = SLIM_UNIT(tree);
  const uint64_t unit = (off - piece->start) >> slimLog2(n);
  slimBlock region;
  int exponent = 0;
#if SLIM_REAL_IS_FLOAT
  region.maxBits = slimMaxBits(a->v, n);
  const bool lost = marked && slimBits(slimFirst(a->v)) == SLIM_NAN_BITS;
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
#ifdef SLIM_WARP
  float q[SLIM_OWN];
  const bool sent = SLIM_HAS_SENT(shape) && !sharedX; /* where x is held, too, there are not registers enough */
  region.sent = sent ? q : NULL;
  region.signs = slimSignsOfUnit(shape, tree, draw, first);
  (void)partial; /* a block's */
#else
  if (partial) slimPutPartial(slimRoot(tree), &region, a->v, ok, partial);
#endif
  if (ok) ok = slimEncodeShape(shape, tree, &region, a->v, a->staging, a->sec);
  slimPutSections(tree, &piece->layout, payload, unit, nv, a->staging, !ok);
  slimSetFlag(payload, &piece->layout, unit, !ok);
  if (!SLIM_REAL_IS_FLOAT && slimThread() == 0)
    *(int32_t*)(void*)(payload + piece->layout.exponents + 4 * unit) = ok ? exponent : 0;
  if (!ok) {
    slimAddStats(stats, 0, 0, 0, 0, 1);
    return;
  }
  const bool count = stats && unit % SLIM_SAMPLE == 0;
  if (!count && !(s && write)) return;

  const int32_t memory = SLIM_NAME(memoryType)(f);
#ifndef SLIM_WARP
  const bool sent = false;
  float* q = a->scratch;
#endif
  SLIM_ARENA(more, SLIM_SCRATCH, q + n);
  region.scratch = more;
#ifdef SLIM_WARP
  if (!sent) region.signs = slimSignsOfUnit(shape, tree, draw, first); /* again: kept, they take a register too many */
#endif
  if (!sent) slimDecodeShape(shape, tree, &region, a->staging, a->sec, q);
  slimSync();
  SLIM_ARENA(words, SLIM_OWN, more);
  const uint16_t* d = (const uint16_t*)(const void*)words;
  if (f->bf16) slimMemoryDraws(draw, 0, first, n, words);
#ifdef SLIM_WARP
  const bool keeps = s && write;
  const REAL* own = a->u;
  REAL t[SLIM_OWN], xi[SLIM_OWN];
  float xx = 0, uu = 0, error = 0, ss = 0;
  if (count || f->kind != slimFeedbackEf) {
    if (sharedX) {
      SLIM_EACH(i, n) xi[i] = sharedX[i];
    } else {
      slimTakeUnit(type, x, off, nv, xi);
    }
  }
  if (count) {
    SLIM_EACH(i, n) {
      if (slimPlace(i) >= nv) continue;
      xx += xi[i] * xi[i];
      uu += own[i] * own[i];
      error += (own[i] - q[i]) * (own[i] - q[i]);
    }
  }
  if (keeps) {
    if (f->kind == slimFeedbackEf) { /* (s + x) − û, and u is s + x */
      SLIM_EACH(i, n) q[i] = own[i] - q[i];
    } else {
      slimTakeUnit(slimFloat32, s, off, nv, t);
      SLIM_EACH(i, n) q[i] = ((REAL)f->a * t[i] + (REAL)f->b * xi[i]) + (REAL)f->c * q[i];
    }
    if (count) {
      SLIM_EACH(i, n) ss += slimPlace(i) < nv ? q[i] * q[i] : 0;
    }
    if (f->bf16) {
      SLIM_EACH(i, n) q[i] = slimFromBf16(slimToMemory(q[i], d[i]));
    }
    slimGiveUnit(memory, s, off, nv, q);
    if (v) {
      slimTakeUnit(slimFloat32, v, off, nv, t);
      SLIM_EACH(i, n) t[i] = eta == 1 ? xi[i] : t[i] + eta * (xi[i] - t[i]);
      slimGiveUnit(slimFloat32, v, off, nv, t);
    }
  }
#else
  const REAL up = SLIM_REAL_IS_FLOAT ? (REAL)1 : (REAL)slimPower2(exponent);
#if SLIM_REAL_IS_FLOAT
  if (nv == n && !count && f->kind == slimFeedbackEf && slimFourAligned(memory, s, off)) {
    slimKeepAligned(memory, s, off, n, a->u, q, d); /* (s + x) − û, and u is s + x */
    return;
  }
#endif
  REAL xx = 0, uu = 0, error = 0, ss = 0;
  SLIM_EACH(i, n) {
    const uint32_t e = slimPlace(i);
    if (e >= nv) continue;
    const REAL sent = SLIM_REAL_IS_FLOAT ? (REAL)q[i] : (REAL)q[i] * up, u = a->u[i];
    const REAL xi = sharedX ? sharedX[i] : SLIM_NAME(slimElement)(type, x, off + e);
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
      fresh = ((REAL)f->a * ((REAL*)s)[off + e] + (REAL)f->b * xi) + (REAL)f->c * sent;
    SLIM_NAME(putMemory)(memory, s, off + e, fresh, f->bf16 ? d[i] : 0);
    if (v) v[off + e] = eta == 1 ? xi : v[off + e] + eta * (xi - v[off + e]);
    if (count) ss += fresh * fresh;
  }
#endif
  if (count) slimAddStats(stats, (double)xx, (double)uu, (double)error, (double)ss, 0);
}

SLIM_FN void SLIM_NAME(encodeUnits)(const slimTreeShape shape, const slimEncodeArgs* p, float* shared) {
  (void)shared; /* a thread block's */
  const slimTree* tree = p->tree;
  const slimFeedback f = p->feedback;
  const uint32_t n = SLIM_UNIT(tree);
  slimPieceAt* piece = slimPieceShared();
  SLIM_ARENA(own, SLIM_OWN, shared);
  SLIM_ARENA(scratch, SLIM_SCRATCH, NULL);
  const SLIM_NAME(slimArrays) a = SLIM_NAME(slimArraysAt)(own, scratch, n, slimStagingBytes(tree));
  slimStageShape(shape, tree, a.staging, a.sec);
  const uint64_t step = slimStepAt(p->step, &p->stamp);
  const slimDraw draw = slimDrawOf(&p->stamp, step, p->stamp.rank);
  const REAL eta = step == f.warmup ? 1 : (REAL)f.momentum;

  for (uint32_t r = slimTeam(); r < p->pieces; r += (uint32_t)slimTeams()) {
    slimOpenPiece(piece, tree, p->type, p->n, p->cut, p->pieces, r, false);
    uint8_t* payload = p->payload + r * p->stride;
    if (slimThread() == 0)
      slimHeaderPut(payload, &p->stamp, step, piece->n, p->first + piece->start, piece->layout.bytes, 0);
    slimClearGaps(tree, &piece->layout, p->type, payload);
  }
  const uint64_t units = (p->n + n - 1) >> slimLog2(n);
  uint64_t end = 0; /* of the open piece */
  for (uint64_t unit = slimTeam(); unit < units; unit += slimTeams()) {
    const uint64_t off = unit * n;
    if (off >= end) {
      slimOpenPiece(piece, tree, p->type, p->n, p->cut, p->pieces, off, true);
      end = piece->start + piece->n;
    }
    const uint32_t nv = (uint32_t)(end - off < n ? end - off : n);
#ifdef SLIM_WARP /* more streams under way than x's and the payload's slow memory down */
    const bool casts = shape == slimShape_fp32 || shape == slimShape_fp16 || shape == slimShape_bf16;
    const uint64_t next = off + slimTeams() * n;
    if (!casts && !p->s && next + n <= p->n) slimFetchUnit(p->type, p->x, next);
#endif
    REAL* v = (REAL*)p->v;
    const REAL lambda = shape == slimShape_tree && p->lambda ? ((const REAL*)p->lambda)[unit] : 0;
    const bool gathers = SLIM_REAL_IS_FLOAT && (shape == slimShape_tnqsgd || shape >= slimShape_flat) && p->shapes;
    SLIM_NAME(loadUnit)(p->type, p->x, SLIM_NAME(memoryType)(&f), p->s, v, (REAL)f.sigma, eta, off, nv, n, a.u);
    SLIM_NAME(encodeUnit)
    (shape, tree, &f, piece, p->payload + piece->rank * p->stride, off, nv, p->first + off, &draw, &a, p->type, p->x,
     NULL, p->s, v, eta, lambda, gathers ? p->shapes + piece->rank : NULL,
     gathers && p->partials ? p->partials + unit : NULL, !p->keeps, p->marked, p->stats);
  }
}

#if SLIM_REAL_IS_FLOAT && !defined(SLIM_WARP)
/* The units' parts of their pieces' statistics. */
SLIM_FN void slimSurveyUnits(const slimEncodeArgs* p, float* shared) {
  const slimTree* tree = p->tree;
  const uint32_t n = tree->unit;
  slimPieceAt* piece = slimPieceShared();
  const uint64_t step = slimStepAt(p->step, &p->stamp), units = (p->n + n - 1) >> slimLog2(n);
  const float eta = step == p->feedback.warmup ? 1 : (float)p->feedback.momentum;
  uint64_t end = 0;
  for (uint64_t unit = slimTeam(); unit < units; unit += slimTeams()) {
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

#ifdef SLIM_WARP
/* û of a whole unit, from where its sections lie: those of a flagged one (true) are zeros. */
SLIM_FN bool SLIM_NAME(sourceWhole)(const slimTreeShape shape, const slimTree* tree, const slimLayout* l,
                                    const uint8_t* payload, uint64_t unit, uint64_t first, const slimDraw* draw,
                                    uint32_t signs, float* scratch, float* v) {
  const uint32_t flags = payload[l->flags + unit / 8]; /* under way with the sections */
  uint8_t* const at = (uint8_t*)(uintptr_t)payload;    /* only read */
  const uint64_t i = (uint32_t)unit;                   /* a product of 32 bits is one instruction */
  uint8_t* const sec[3] = {at + l->section[0] + i * tree->section[0].bytes,
                           at + l->section[1] + i * tree->section[1].bytes,
                           at + l->section[2] + i * tree->section[2].bytes};
  slimBlock region;
  region.size = region.nv = SLIM_WARP_UNIT;
  region.maxBits = 0;
  region.first = first;
  region.draw = draw;
  region.scratch = scratch;
  region.lambda = 0;
  region.shape = NULL;
  region.signs = signs;
  slimDecodeSections(shape, slimRoot(tree), &region, sec, v);
  return flags >> unit % 8 & 1;
}
#endif

/* û of a unit as floats, to be multiplied by 2^exponent; false: flagged. lambda: 0, or what all ranks share. sum: û is
 * a selector's and is added to it, where v stays; or NULL. Ends with a barrier. */
SLIM_FN bool SLIM_NAME(sourceUnit)(const slimTreeShape shape, const slimTree* tree, const slimLayout* l,
                                   const uint8_t* payload, uint64_t unit, uint32_t nv, uint64_t first,
                                   const slimDraw* draw, uint32_t signs, REAL lambda, uint8_t* staging, uint8_t** sec,
                                   float* scratch, float* v, float* sum, int* exponent) {
  slimBlock region;
  *exponent = 0;
#ifdef SLIM_WARP
  if (nv == SLIM_WARP_UNIT)
    return !SLIM_NAME(sourceWhole)(shape, tree, l, payload, unit, first, draw, signs, scratch, v);
  region.signs = signs;
#endif
  if (slimHasFlag(payload, l, unit)) return false;
  region.size = SLIM_UNIT(tree);
  region.nv = nv;
  region.maxBits = 0;
  region.first = first;
  region.draw = draw;
  region.scratch = scratch;
  region.shape = NULL;
  if (!SLIM_REAL_IS_FLOAT) *exponent = *(const int32_t*)(const void*)(payload + l->exponents + 4 * unit);
  if (*exponent < -1022 || *exponent > 1023) return false;
  region.lambda = SLIM_NAME(lambdaIn)(lambda, *exponent);
  slimGetSections(tree, l, payload, unit, nv, staging);
#ifdef SLIM_WARP
  (void)sum; /* a block's */
#else
  (void)signs; /* a warp's */
  if (shape == slimShape_flat)
    slimDecodeFlat(slimRoot(tree), &region, sec, sum ? sum : v, sum != NULL);
  else
#endif
  slimDecodeShape(shape, tree, &region, staging, sec, v);
  slimSync();
  return true;
}

/* out ← h + nu·m, h ← h + lambda·m, in place. */
SLIM_FN void SLIM_NAME(shift)(REAL* h, uint64_t off, uint32_t nv, uint32_t n, REAL nu, REAL lambda, REAL* m) {
#if defined(SLIM_WARP)
  REAL old[SLIM_OWN], fresh[SLIM_OWN];
  slimTakeUnit(slimFloat32, h, off, nv, old);
  SLIM_EACH(i, n) {
    fresh[i] = old[i] + lambda * m[i];
    m[i] = old[i] + nu * m[i];
  }
  slimGiveUnit(slimFloat32, h, off, nv, fresh);
#else
#if SLIM_REAL_IS_FLOAT
  if (nv == n && slimFourAligned(slimFloat32, h, off)) {
    slimSync();
    SLIM_EACH_QUAD(i, n) {
      float* at = h + off + slimPlace(i);
      const float4 q = slimQuad(m, i), old = *(const float4*)at;
      slimPutQuad(m, i, slimFourSum(old, q, nu));
      *(float4*)at = slimFourSum(old, q, lambda);
    }
    slimSync();
    return;
  }
#endif
  SLIM_EACH(i, n) {
    const uint32_t e = slimPlace(i);
    if (e >= nv) continue;
    const REAL q = m[i], old = h[off + e];
    m[i] = old + nu * q;
    h[off + e] = old + lambda * q;
  }
#endif
}

/* The first rank whose header is not the expected one, or `ranks`. */
SLIM_FN uint32_t SLIM_NAME(checkHeaders)(const slimReduceArgs* p, const slimLayout* l, uint64_t step) {
  slimStamp stamp = p->stamp;
  uint32_t worst = 0;
  SLIM_SHARE(r, p->ranks) {
    const uint32_t fault = slimHeaderFault(p->payloads + r * p->stride, &stamp, step, r, p->n, p->first, l->bytes, 0);
    if (fault && slimTeam() == 0) slimReport(p->report, fault, r, stamp.slot);
    if (fault && p->ranks - r > worst) worst = p->ranks - r;
  }
  return p->ranks - slimMostOfAll(worst);
}

/* The downlink's piece; the first block writes its header and what belongs to no unit. */
SLIM_FN void SLIM_NAME(openDown)(const slimReduceArgs* p, const slimTree* down, slimPieceAt* piece, uint64_t step,
                                 uint32_t wrong) {
  slimOpenWhole(piece, down, p->type, p->n);
  if (slimTeam() != 0) return;
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
SLIM_FN void SLIM_NAME(finishMean)(const slimReduceArgs* p, uint64_t off, uint32_t nv, uint32_t n, REAL* sum,
                                   bool* flagged, bool sound) {
  bool finite = true;
  SLIM_EACH(i, n) {
    if (slimPlace(i) >= nv) continue;
    sum[i] *= (REAL)p->weight;
    finite &= SLIM_REAL_IS_FLOAT ? slimFinite((float)sum[i]) : (slimBits64((double)sum[i]) << 1 >> 53) < 2047;
  }
  if (!p->h || !sound) return;
  if (slimMostOfAll(!finite) == 0)
    SLIM_NAME(shift)((REAL*)p->h, off, nv, n, (REAL)p->upFeedback.nu, (REAL)p->upFeedback.lambda, sum);
  else
    *flagged = true;
}

/* u ← sum + sigma·e; e NULL: sum. */
SLIM_FN void SLIM_NAME(addMemory)(int32_t memory, const void* e, REAL sigma, uint64_t off, uint32_t nv, uint32_t n,
                                  const REAL* sum, REAL* u) {
#if defined(SLIM_WARP)
  SLIM_EACH(i, n) u[i] = sum[i];
  if (!e) return;
  REAL t[SLIM_OWN];
  slimTakeUnit(memory, e, off, nv, t);
  SLIM_EACH(i, n) u[i] = sum[i] + sigma * t[i];
#else
#if SLIM_REAL_IS_FLOAT
  if (e && nv == n && slimFourAligned(memory, e, off)) {
    slimSync();
    SLIM_EACH_QUAD(i, n)
    slimPutQuad(u, i, slimFourSum(slimQuad(sum, i), slimFour(memory, e, off + slimPlace(i)), sigma));
    return;
  }
#endif
  SLIM_EACH(i, n) {
    const uint32_t at = slimPlace(i);
    u[i] = e && at < nv ? sum[i] + sigma * SLIM_NAME(slimElement)(memory, e, off + at) : sum[i];
  }
#endif
}

SLIM_FN void SLIM_NAME(reduceUnits)(const slimTreeShape shape, const slimReduceArgs* p, float* shared) {
  (void)shared;                                                                   /* a thread block's */
  const slimTree *tree = p->up, *down = shape == slimShape_tree ? NULL : p->down; /* trees: two launches */
  const slimFeedback f = p->downFeedback;
  const uint32_t n = SLIM_UNIT(tree);
  slimPieceAt* piece = slimPieceShared();
  const uint32_t upBytes = slimStagingBytes(tree), downBytes = down ? slimStagingBytes(down) : 0;
  SLIM_ARENA(arena, SLIM_OWN, shared);
  REAL* sum = (REAL*)(void*)arena;
  SLIM_ARENA(own, SLIM_OWN, arena + n * (sizeof(REAL) / 4));
  SLIM_ARENA(scratch, SLIM_SCRATCH, NULL);
  const SLIM_NAME(slimArrays) a = SLIM_NAME(slimArraysAt)(own, scratch, n, upBytes > downBytes ? upBytes : downBytes);
  const uint64_t step = slimStepAt(p->step, &p->stamp);
  slimStamp upStamp = p->stamp;
  upStamp.down = false;
  const slimDraw draw = slimDrawOf(&p->stamp, step, p->stamp.rank);

  slimOpenWhole(piece, tree, p->type, p->n);
  const slimLayout* up = &piece->layout;
  const uint32_t wrong = SLIM_NAME(checkHeaders)(p, up, step);
  __shared__ slimPieceAt downPieces[SLIM_TEAMS_HERE];
  slimPieceAt* downPiece = &downPieces[slimTeamHere()];
  if (down) SLIM_NAME(openDown)(p, down, downPiece, step, wrong);
  const bool sparse = SLIM_IS_SPARSE(shape, tree);
  const uint64_t units = (p->n + n - 1) >> slimLog2(n);
  for (uint64_t unit = slimTeam(); unit < units; unit += slimTeams()) {
    const uint64_t off = unit * n;
    const uint32_t nv = (uint32_t)(p->n - off < n ? p->n - off : n);
    bool flagged = wrong < p->ranks;
    slimSync();
    SLIM_EACH(i, n) sum[i] = 0;
    slimStageShape(shape, tree, a.staging, a.sec);
    const slimDraw signsDraw = slimDrawOf(&upStamp, step, 0); /* all ranks draw the same */
    const uint32_t signs = slimSignsOfUnit(shape, tree, &signsDraw, p->first + off);
#ifdef SLIM_WARP /* several ranks' loads are under way at once */
    if (nv == SLIM_WARP_UNIT && wrong == p->ranks) {
      SLIM_TWOFOLD
      for (uint32_t r = 0; r < p->ranks; r++) {
        const slimDraw rankDraw = slimDrawOf(&upStamp, step, r);
        float q[SLIM_OWN];
        flagged |= SLIM_NAME(sourceWhole)(shape, tree, up, p->payloads + r * p->stride, unit, p->first + off, &rankDraw,
                                          signs, a.scratch, q);
        SLIM_EACH(i, n) sum[i] += q[i];
      }
    } else
#endif
      for (uint32_t r = 0; r < p->ranks && wrong == p->ranks; r++) {
        int exponent;
        const slimDraw rankDraw = slimDrawOf(&upStamp, step, r);
        if (!SLIM_NAME(sourceUnit)(shape, tree, up, p->payloads + r * p->stride, unit, nv, p->first + off, &rankDraw,
                                   signs, 0, a.staging, a.sec, a.scratch, a.v, sparse ? (float*)(void*)sum : NULL,
                                   &exponent)) {
          flagged = true;
          continue;
        }
        if (sparse) continue;
        const REAL scale = SLIM_REAL_IS_FLOAT ? (REAL)1 : (REAL)slimPower2(exponent);
        SLIM_EACH(i, n)
        if (slimPlace(i) < nv) sum[i] += SLIM_REAL_IS_FLOAT ? (REAL)a.v[i] : (REAL)a.v[i] * scale;
      }
    SLIM_NAME(finishMean)(p, off, nv, n, sum, &flagged, wrong == p->ranks);
    if (!down) {
      if (flagged)
        slimStoreNan(p->type, p->y, off, nv);
      else
        SLIM_NAME(storeUnit)(p->type, p->y, off, nv, n, sum, (REAL)p->factor);
    } else if (flagged) {
      SLIM_NAME(flagDown)(p, down, &downPiece->layout, unit, nv);
      slimAddStats(p->stats, 0, 0, 0, 0, 1);
    } else {
      SLIM_NAME(addMemory)(SLIM_NAME(memoryType)(&f), p->e, (REAL)f.sigma, off, nv, n, sum, a.u);
      slimStageShape(shape, down, a.staging, a.sec);
      SLIM_NAME(encodeUnit)
      (shape, down, &f, downPiece, p->payload, off, nv, p->first + off, &draw, &a, p->type, NULL, sum, p->e, NULL, 1, 0,
       NULL, NULL, !p->keeps, false, p->stats);
    }
  }
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
#ifdef SLIM_WARP
    REAL s[SLIM_OWN], x[SLIM_OWN];
    slimTakeUnit(memory, p->s, off, nv, s);
    slimTakeUnit(p->type, p->x, off, nv, x);
    SLIM_EACH(i, n) s[i] = s[i] + out[i] - x[i];
    slimGiveUnit(memory, p->s, off, nv, s);
#else
    SLIM_EACH(i, n) {
      const uint32_t e = slimPlace(i);
      if (e >= nv) continue;
      const REAL fresh =
          SLIM_NAME(slimElement)(memory, p->s, off + e) + out[i] - SLIM_NAME(slimElement)(p->type, p->x, off + e);
      if (memory == slimBfloat16)
        ((uint16_t*)p->s)[off + e] = slimToBf16((float)fresh);
      else
        ((REAL*)p->s)[off + e] = fresh;
    }
#endif
    return;
  }
  if (p->h) SLIM_NAME(shift)((REAL*)p->h, off, nv, n, (REAL)p->feedback.nu, (REAL)p->feedback.lambda, out);
  if (p->y) SLIM_NAME(storeUnit)(p->type, p->y, off, nv, n, out, (REAL)p->factor);
}

SLIM_FN void SLIM_NAME(decodeUnits)(const slimTreeShape shape, const slimDecodeArgs* p, float* shared) {
  (void)shared; /* a thread block's */
  const slimTree* tree = p->tree;
  const uint32_t n = SLIM_UNIT(tree);
  slimPieceAt* piece = slimPieceShared();
  SLIM_ARENA(own, SLIM_OWN, shared);
  SLIM_ARENA(scratch, SLIM_SCRATCH, NULL);
  const SLIM_NAME(slimArrays) a = SLIM_NAME(slimArraysAt)(own, scratch, n, slimStagingBytes(tree));
  slimStageShape(shape, tree, a.staging, a.sec);
  const uint64_t step = slimStepAt(p->step, &p->stamp);
  const uint64_t units = (p->n + n - 1) >> slimLog2(n);
  uint64_t end = 0; /* of the open piece */
  uint32_t fault = 0;
  for (uint64_t unit = slimTeam(); unit < units; unit += slimTeams()) {
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
#ifdef SLIM_WARP
    if (off + slimTeams() * n + n <= end) slimFetchSections(tree, &piece->layout, payload, at + slimTeams());
#endif
    slimSync();
    const uint32_t signs = slimSignsOfUnit(shape, tree, &draw, p->first + off);
    const bool lost =
        fault || !SLIM_NAME(sourceUnit)(shape, tree, &piece->layout, payload, at, nv, p->first + off, &draw, signs,
                                        known ? *known : 0, a.staging, a.sec, a.scratch, a.v, NULL, &exponent);
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
