/* What the passes share on a device: pieces of a slice, headers and flags, elements to and from shared memory. */
#ifndef SLIM_COMPRESS_CUDA_UNIT_CUH_
#define SLIM_COMPRESS_CUDA_UNIT_CUH_

SLIM_FN void slimReport(unsigned long long* at, uint32_t reason, uint32_t rank, uint32_t slot) {
  if (at) slimAtomicMax((uint64_t*)at, (uint64_t)reason << 56 | (uint64_t)rank << 32 | slot);
}

/* ---- Pieces -------------------------------------------------------------------------------------------------------
 */

/* One piece of a slice, in shared memory. Of `units` units of `cut` elements, piece r holds those from ⌊r·units/pieces⌋
 * on; divisions of 64 bits are slow, so a quotient and its remainder are kept. */
typedef struct {
  slimLayout layout;
  uint64_t start, n; /* elements, from the slice's start */
  uint64_t each;
  uint32_t rest, rank;
} slimPieceAt;
SLIM_FN slimPieceAt* slimPieceShared(void) {
  __shared__ slimPieceAt piece[SLIM_TEAMS_HERE];
  return &piece[slimTeamHere()];
}

/* By one thread. As slimLayoutOf; the unit is a power of two. */
SLIM_FN void slimLayoutAt(slimLayout* l, const slimTree* tree, int32_t type, uint64_t n) {
  const slimNode* selector = slimSelector(tree);
  const uint32_t shift = slimLog2(tree->unit);
  l->units = selector ? (n > 0) : (n + tree->unit - 1) >> shift;
  l->values = selector && n ? slimSelectorCount(selector, n) : n;
  l->valueUnits = (l->values + tree->unit - 1) >> shift;
  l->flags = sizeof(slimHeader);
  l->exponents = l->flags + slimRoundUp((l->units + 7) / 8, 16);
  l->index = l->exponents + (type == slimFloat64 ? slimRoundUp(4 * l->units, 16) : 0);
  size_t at = l->index + (selector && selector->op == slimOp_topk ? slimRoundUp(4 * l->values, 16) : 0);
  const uint64_t full = l->values >> shift;
  const uint32_t rest = (uint32_t)l->values & (tree->unit - 1);
  for (uint32_t i = 0; i < tree->sections; i++) {
    l->section[i] = at;
    at += slimRoundUp(full * tree->section[i].bytes + (rest ? slimSectionBytes(tree->section[i], tree->unit, rest) : 0),
                      16);
  }
  for (uint32_t i = tree->sections; i < SLIM_MAX_SECTIONS; i++) l->section[i] = at;
  l->bytes = at;
}

/* At most 65535 pieces. */
SLIM_FN uint64_t slimPieceStart(const slimPieceAt* piece, uint64_t n, uint64_t cut, uint32_t pieces, uint32_t r) {
  const uint64_t at = (piece->each * r + piece->rest * r / pieces) * cut;
  return at < n ? at : n;
}
/* The piece that holds element `at`, or piece `at` itself (ofElement false). */
SLIM_FN void slimOpenPiece(slimPieceAt* piece, const slimTree* tree, int32_t type, uint64_t n, uint64_t cut,
                           uint32_t pieces, uint64_t at, bool ofElement) {
  slimSync();
  if (slimThread() == 0) {
    uint64_t units = 0, rest = n ? (n - 1 + cut) >> (63 - __clzll((long long)cut)) : 0;
    if (rest >> 32 == 0) {
      units = (uint32_t)rest / pieces;
      rest = (uint32_t)rest % pieces;
    } else {
      for (uint32_t k = (uint32_t)__clzll((long long)pieces) + 1; k-- > 0;)
        if (rest >> k >= pieces) {
          rest -= (uint64_t)pieces << k;
          units |= 1ull << k;
        }
    }
    piece->each = units;
    piece->rest = (uint32_t)rest;
    uint32_t r = (uint32_t)at;
    if (ofElement) {
      uint32_t above = pieces;
      for (r = 0; above - r > 1;) {
        const uint32_t middle = (r + above) / 2;
        if (slimPieceStart(piece, n, cut, pieces, middle) <= at)
          r = middle;
        else
          above = middle;
      }
    }
    piece->rank = r;
    piece->start = slimPieceStart(piece, n, cut, pieces, r);
    piece->n = slimPieceStart(piece, n, cut, pieces, r + 1) - piece->start;
    slimLayoutAt(&piece->layout, tree, type, piece->n);
  }
  slimSync();
}
/* A slice of one piece. */
SLIM_FN void slimOpenWhole(slimPieceAt* piece, const slimTree* tree, int32_t type, uint64_t n) {
  slimSync();
  if (slimThread() == 0) {
    piece->rank = 0;
    piece->start = 0;
    piece->n = n;
    slimLayoutAt(&piece->layout, tree, type, n);
  }
  slimSync();
}

/* ---- Headers, flags, gaps -----------------------------------------------------------------------------------------
 */

enum { SLIM_MAGIC = 0x314d4c53, SLIM_FORMAT = 1 };

SLIM_FN uint64_t slimStepAt(const uint64_t* step, const slimStamp* stamp) { return step ? *step : stamp->step; }
SLIM_FN slimDraw slimDrawOf(const slimStamp* stamp, uint64_t step, uint32_t rank) {
  slimDraw d;
  d.key[0] = (uint32_t)stamp->seed;
  d.key[1] = (uint32_t)(stamp->seed >> 32);
  d.slot = stamp->slot;
  d.step = (uint32_t)step;
  d.rank = rank;
  d.direction = stamp->down;
  return d;
}
/* By one thread. */
SLIM_FN void slimHeaderPut(uint8_t* payload, const slimStamp* stamp, uint64_t step, uint64_t n, uint64_t first,
                           uint64_t bytes, uint32_t flags) {
  slimHeader h;
  h.magic = SLIM_MAGIC;
  h.version = SLIM_FORMAT;
  h.flags = (uint16_t)flags;
  h.hash = stamp->hash;
  h.step = step;
  h.slot = stamp->slot;
  h.rank = stamp->rank;
  h.n = n;
  h.first = first;
  h.bytes = bytes;
  h.zero = 0;
  *(slimHeader*)(void*)payload = h;
}
/* 0, or the reason for the report. */
SLIM_FN uint32_t slimHeaderFault(const uint8_t* payload, const slimStamp* stamp, uint64_t step, uint32_t rank,
                                 uint64_t n, uint64_t first, uint64_t bytes, uint32_t flags) {
  const slimHeader* h = (const slimHeader*)(const void*)payload;
  if (h->magic == SLIM_MAGIC && h->version == SLIM_FORMAT && (h->flags & slimHeaderError)) return slimReportRemote;
  const bool same = h->magic == SLIM_MAGIC && h->version == SLIM_FORMAT && h->flags == flags &&
                    h->hash == stamp->hash && h->step == step && h->slot == stamp->slot && h->rank == rank &&
                    h->n == n && h->first == first && h->bytes == bytes;
  return same ? 0 : slimReportHeader;
}
/* Zeros from `used` to `end`, less than 16 bytes behind. */
SLIM_FN void slimFillGap(uint8_t* payload, uint64_t used, uint64_t end) {
  const uint32_t gap = (uint32_t)(end - used);
  SLIM_SHARE(i, gap) payload[used + i] = 0;
}
/* All that belongs to no unit. Flags of units are set one by one, so only the bits behind them are cleared here. */
SLIM_FN void slimClearGaps(const slimTree* tree, const slimLayout* l, int32_t type, uint8_t* payload) {
  uint32_t* flags = (uint32_t*)(void*)(payload + l->flags);
  const uint64_t words = (l->exponents - l->flags) / 4;
  const uint32_t behind = (uint32_t)(words - l->units / 32); /* at most 4 */
  SLIM_SHARE(i, behind) slimAtomicAnd(flags + l->units / 32 + i, i ? 0 : (1u << l->units % 32) - 1);
  if (type == slimFloat64) slimFillGap(payload, l->exponents + 4 * l->units, l->index);
  const uint64_t first = tree->sections ? l->section[0] : l->bytes;
  if (first > l->index) slimFillGap(payload, l->index + 4 * l->values, first);
  const uint64_t full = l->values >> slimLog2(tree->unit);
  const uint32_t rest = (uint32_t)l->values & (tree->unit - 1);
  for (uint32_t i = 0; i < tree->sections; i++)
    slimFillGap(payload,
                l->section[i] + full * tree->section[i].bytes +
                    (rest ? slimSectionBytes(tree->section[i], tree->unit, rest) : 0),
                i + 1 < tree->sections ? l->section[i + 1] : l->bytes);
}
SLIM_FN void slimSetFlag(uint8_t* payload, const slimLayout* l, uint64_t unit, bool flagged) {
  uint32_t* word = (uint32_t*)(void*)(payload + l->flags) + unit / 32;
  if (slimThread() != 0) return;
  if (flagged)
    slimAtomicOr(word, 1u << unit % 32);
  else
    slimAtomicAnd(word, ~(1u << unit % 32));
}
SLIM_FN bool slimHasFlag(const uint8_t* payload, const slimLayout* l, uint64_t unit) {
  return payload[l->flags + unit / 8] >> unit % 8 & 1;
}

/* lambda=shared: the λ that a payload asks for. */
SLIM_FN float slimWantedAt(const slimLayout* l, const uint8_t* payload, uint64_t unit) {
  return *(const float*)(const void*)(payload + l->section[0] + 4 * unit);
}

/* ---- A unit's sections, in shared memory --------------------------------------------------------------------------
 */

enum { SLIM_LEAF_SECTIONS = 3 }; /* of a codec by itself; those that it has none of have no bytes */

SLIM_FN uint32_t slimStagingBytes(const slimTree* tree) {
  uint32_t bytes = 0;
  for (uint32_t i = 0; i < tree->sections; i++) bytes += (uint32_t)slimRoundUp(tree->section[i].bytes, 16);
  return bytes;
}
/* Ends with a barrier. */
SLIM_FN void slimStageSections(const slimTree* tree, uint8_t* staging, uint8_t** sec) {
  slimSync();
  if (slimThread() == 0)
    for (uint32_t i = 0; i < tree->sections; i++) {
      sec[i] = staging;
      staging += slimRoundUp(tree->section[i].bytes, 16);
    }
  slimSync();
}
/* Out: all of the unit's bytes, or zeros. */
SLIM_FN void slimPutSections(const slimTree* tree, const slimLayout* l, uint8_t* payload, uint64_t unit, uint32_t nv,
                             const uint8_t* staging, bool zeros) {
#ifdef SLIM_WARP /* a whole unit's are multiples of 16 bytes, or fewer */
  if (nv == SLIM_WARP_UNIT) {
    slimSync();
    SLIM_UNROLL
    for (uint32_t i = 0; i < SLIM_LEAF_SECTIONS; i++) {
      const uint32_t bytes = tree->section[i].bytes, at = slimThread();
      uint8_t* to = payload + l->section[i] + (uint64_t)(uint32_t)unit * bytes;
      if (bytes < 16 && at < bytes) to[at] = zeros ? 0 : staging[at];
      SLIM_ROLLED SLIM_SHARE(j, bytes / 16)((uint4*)(void*)to)[j] =
          zeros ? make_uint4(0, 0, 0, 0) : ((const uint4*)(const void*)staging)[j];
      staging += bytes < 16 ? 16 : bytes;
    }
    slimSync();
    return;
  }
#endif
  for (uint32_t i = 0; i < tree->sections; i++) {
    const uint32_t bytes = (uint32_t)slimSectionBytes(tree->section[i], tree->unit, nv);
    uint8_t* to = payload + l->section[i] + unit * tree->section[i].bytes;
    if (zeros)
      slimZero(to, bytes);
    else
      slimCopy(to, staging, bytes);
    staging += slimRoundUp(tree->section[i].bytes, 16);
  }
}
SLIM_FN void slimGetSections(const slimTree* tree, const slimLayout* l, const uint8_t* payload, uint64_t unit,
                             uint32_t nv, uint8_t* staging) {
  for (uint32_t i = 0; i < tree->sections; i++) {
    const uint32_t bytes = (uint32_t)slimSectionBytes(tree->section[i], tree->unit, nv);
    slimCopy(staging, payload + l->section[i] + unit * tree->section[i].bytes, bytes);
    if (bytes < tree->section[i].bytes) slimZero(staging + bytes, tree->section[i].bytes - bytes);
    staging += slimRoundUp(tree->section[i].bytes, 16);
  }
}

/* ---- Elements -----------------------------------------------------------------------------------------------------
 */

SLIM_FN uint32_t slimElementBytes(int32_t type) { return type == slimFloat64 ? 8 : type == slimFloat32 ? 4 : 2; }
SLIM_FN bool slimAt16(const void* p) { return ((uintptr_t)p & 15) == 0; }

SLIM_FN float slimElementF(int32_t type, const void* x, uint64_t i) {
  if (type == slimFloat32) return ((const float*)x)[i];
  const uint16_t h = ((const uint16_t*)x)[i];
  return type == slimFloat16 ? slimFromHalf(h) : slimFromBf16(h);
}
SLIM_FN void slimPutElementF(int32_t type, void* y, uint64_t i, float x) {
  if (type == slimFloat32)
    ((float*)y)[i] = x;
  else
    ((uint16_t*)y)[i] = type == slimFloat16 ? slimToHalf(x) : slimToBf16(x);
}
SLIM_FN double slimElementD(int32_t type, const void* x, uint64_t i) {
  return type == slimBfloat16 ? (double)slimFromBf16(((const uint16_t*)x)[i]) : ((const double*)x)[i];
}
SLIM_FN void slimPutElementD(int32_t type, void* y, uint64_t i, double x) {
  (void)type;
  ((double*)y)[i] = x;
}
SLIM_FN void slimStoreNan(int32_t type, void* y, uint64_t off, uint32_t n) {
  SLIM_SHARE(i, n) switch (type) {
    case slimFloat16:
      ((uint16_t*)y)[off + i] = SLIM_NAN_HALF;
      break;
    case slimBfloat16:
      ((uint16_t*)y)[off + i] = SLIM_NAN_BF16;
      break;
    case slimFloat64:
      ((uint64_t*)y)[off + i] = 0x7ff8000000000000u;
      break;
    default:
      ((uint32_t*)y)[off + i] = SLIM_NAN_BITS;
  }
}

/* Four elements from `at`, 16 bytes of fp32 or 8 of the others at a time. */
SLIM_FN float4 slimFourHalves(int32_t type, uint2 h) {
  const uint16_t a = (uint16_t)h.x, b = (uint16_t)(h.x >> 16), c = (uint16_t)h.y, d = (uint16_t)(h.y >> 16);
  if (type == slimFloat16) return make_float4(slimFromHalf(a), slimFromHalf(b), slimFromHalf(c), slimFromHalf(d));
  return make_float4(slimFromBf16(a), slimFromBf16(b), slimFromBf16(c), slimFromBf16(d));
}
SLIM_FN float4 slimFour(int32_t type, const void* x, uint64_t at) {
  if (type == slimFloat32) return *(const float4*)((const float*)x + at);
  return slimFourHalves(type, *(const uint2*)((const uint16_t*)x + at));
}
/* Two of fp16 or bf16. */
SLIM_FN uint32_t slimTwo(int32_t type, float a, float b) {
  const bool half = type == slimFloat16;
  const uint32_t low = half ? slimToHalf(a) : slimToBf16(a), high = half ? slimToHalf(b) : slimToBf16(b);
  return low | high << 16;
}
SLIM_FN void slimPutFour(int32_t type, void* y, uint64_t at, float4 v) {
  if (type == slimFloat32)
    *(float4*)((float*)y + at) = v;
  else
    *(uint2*)((uint16_t*)y + at) = make_uint2(slimTwo(type, v.x, v.y), slimTwo(type, v.z, v.w));
}
/* 16 bytes of elements: what the four (fp32) or eight floats from v on become. One store takes them: the compiler would
 * cut one a type in two. */
SLIM_FN uint4 slimSixteen(int32_t type, const float* v, float factor) {
  float4 a = *(const float4*)v;
  if (factor != 1) a = make_float4(a.x * factor, a.y * factor, a.z * factor, a.w * factor);
  if (type == slimFloat32) return make_uint4(slimBits(a.x), slimBits(a.y), slimBits(a.z), slimBits(a.w));
  float4 b = *(const float4*)(v + 4);
  if (factor != 1) b = make_float4(b.x * factor, b.y * factor, b.z * factor, b.w * factor);
  return make_uint4(slimTwo(type, a.x, a.y), slimTwo(type, a.z, a.w), slimTwo(type, b.x, b.y), slimTwo(type, b.z, b.w));
}
SLIM_FN bool slimFourAligned(int32_t type, const void* x, uint64_t off) {
  return slimAt16((const uint8_t*)x + off * slimElementBytes(type));
}
SLIM_FN float4 slimFourSum(float4 x, float4 s, float sigma) {
  return make_float4(x.x + sigma * s.x, x.y + sigma * s.y, x.z + sigma * s.z, x.w + sigma * s.w);
}

/* ---- Memory in bf16 (format.md §7) ----------------------------------------------------------------------------------
 */

/* 16 bits for each of n values, the first of virtual index e, a multiple of 64. words: n/2 of shared memory. Ends with
 * a barrier. */
SLIM_FN const uint16_t* slimMemoryDraws(const slimDraw* draw, uint32_t branch, uint64_t e, uint32_t n, float* words) {
  slimDrawWords(draw, slimDrawMemory, branch, false, e, n, 2, (uint32_t*)(void*)words);
  return (const uint16_t*)(const void*)words;
}
/* Eight values and their draws. */
SLIM_FN uint4 slimEightToMemory(float4 a, float4 b, uint4 d) {
#define SLIM_TWO(x, y, d) slimToMemory(x, (d)&0xffff) | (uint32_t)slimToMemory(y, (d) >> 16) << 16
  return make_uint4(SLIM_TWO(a.x, a.y, d.x), SLIM_TWO(a.z, a.w, d.y), SLIM_TWO(b.x, b.y, d.z), SLIM_TWO(b.z, b.w, d.w));
#undef SLIM_TWO
}

/* ---- Units ----------------------------------------------------------------------------------------------------------
 */

#ifdef SLIM_WARP

enum { SLIM_LINE_BYTES = 128 };
/* The lines of the whole unit at off, and of a whole unit's sections: fetched while another unit is worked on. */
SLIM_FN void slimFetchUnit(int32_t type, const void* x, uint64_t off) {
  const uint32_t half = SLIM_LINE_BYTES / 2 * slimThread(), each = slimElementBytes(type);
  if (half < SLIM_WARP_UNIT * each) slimFetch((const uint8_t*)x + off * each + half);
}
SLIM_FN void slimFetchSections(const slimTree* tree, const slimLayout* l, const uint8_t* payload, uint64_t unit) {
  const uint32_t line = SLIM_LINE_BYTES * slimThread();
  const uint8_t* at[SLIM_LEAF_SECTIONS];
  bool some[SLIM_LEAF_SECTIONS];
  SLIM_UNROLL
  for (uint32_t i = 0; i < SLIM_LEAF_SECTIONS; i++) {
    const uint32_t bytes = tree->section[i].bytes;
    some[i] = line < bytes;
    at[i] = payload + l->section[i] + (uint64_t)(uint32_t)unit * bytes + line;
  }
  SLIM_UNROLL
  for (uint32_t i = 0; i < SLIM_LEAF_SECTIONS; i++)
    if (some[i]) slimFetch(at[i]);
}

/* A warp's shared memory: the sections of a unit, or its elements on their way (they are not both needed at once). */
SLIM_FN float* slimWarpShared(void) {
  __shared__ float4 bytes[SLIM_WARPS][SLIM_WARP_UNIT / 4];
  return (float*)(void*)bytes[slimTeamHere()];
}

/* v ← the unit at off, its nv elements padded with zeros. Rows are loaded at once, so that all loads are under way
 * before the first one is used; what is cut or not aligned goes through shared memory. */
SLIM_FN void slimTakeUnit(int32_t type, const void* x, uint64_t off, uint32_t nv, float* v) {
  if (nv == SLIM_WARP_UNIT && slimFourAligned(type, x, off)) {
    if (type == slimFloat32) {
      const float4* from = (const float4*)((const float*)x + off) + slimThread();
      SLIM_EACH_ROW(r) slimPutQuad(v, 4 * r, from[32 * r]);
      return;
    }
    const uint2* from = (const uint2*)((const uint16_t*)x + off) + slimThread();
    uint2 h[SLIM_ROWS];
    SLIM_EACH_ROW(r) h[r] = from[32 * r];
    if (type == slimFloat16) {
      SLIM_EACH_ROW(r) slimPutQuad(v, 4 * r, slimFourHalves(slimFloat16, h[r]));
    } else {
      SLIM_EACH_ROW(r) slimPutQuad(v, 4 * r, slimFourHalves(slimBfloat16, h[r]));
    }
    return;
  }
  float* shared = slimWarpShared();
  slimSync();
  SLIM_ROLLED SLIM_SHARE(e, SLIM_WARP_UNIT) shared[e] = e < nv ? slimElementF(type, x, off + e) : 0;
  slimSync();
  SLIM_EACH_ROW(r) slimPutQuad(v, 4 * r, ((const float4*)(const void*)shared)[32 * r + slimThread()]);
  slimSync();
}
/* And back. */
SLIM_FN void slimGiveUnit(int32_t type, void* y, uint64_t off, uint32_t nv, const float* v) {
  if (nv == SLIM_WARP_UNIT && slimFourAligned(type, y, off)) {
    if (type == slimFloat32) {
      uint4* to = (uint4*)((float*)y + off) + slimThread();
      SLIM_EACH_ROW(r)
      slimPutStream(to + 32 * r, make_uint4(slimBits(v[4 * r]), slimBits(v[4 * r + 1]), slimBits(v[4 * r + 2]),
                                            slimBits(v[4 * r + 3])));
    } else {
      uint2* to = (uint2*)((uint16_t*)y + off) + slimThread();
      SLIM_EACH_ROW(r)
      to[32 * r] = make_uint2(slimTwo(type, v[4 * r], v[4 * r + 1]), slimTwo(type, v[4 * r + 2], v[4 * r + 3]));
    }
    return;
  }
  float* shared = slimWarpShared();
  slimSync();
  SLIM_EACH_ROW(r)((float4*)(void*)shared)[32 * r + slimThread()] = slimQuad(v, 4 * r);
  slimSync();
  SLIM_ROLLED SLIM_SHARE(e, nv) slimPutElementF(type, y, off + e, shared[e]);
  slimSync();
}

#else

/* Where all is aligned: u ← x + sigma·s; s NULL: x. */
SLIM_FN void slimLoadAligned(int32_t type, const void* x, int32_t memory, const void* s, float sigma, uint64_t off,
                             uint32_t n, float* u) {
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
    slimPutQuad(u, 4 * j, a);
    if (two) slimPutQuad(u, 4 * (j + t), b);
  }
}
/* y ← factor·out. */
SLIM_FN void slimStoreAligned(int32_t type, void* y, uint64_t off, uint32_t n, const float* out, float factor) {
  const uint32_t each = slimElementBytes(type), several = 16 / each;
  uint4* to = (uint4*)(void*)((uint8_t*)y + off * each);
  SLIM_EACH(j, n / several) to[j] = slimSixteen(type, out + several * j, factor);
}
/* s ← u − q; d: the draws for bf16. */
SLIM_FN void slimKeepAligned(int32_t memory, void* s, uint64_t off, uint32_t n, const float* u, const float* q,
                             const uint16_t* d) {
  const float4 *b = (const float4*)(const void*)u, *c = (const float4*)(const void*)q;
  if (memory == slimBfloat16) {
    uint4* to = (uint4*)(void*)((uint16_t*)s + off);
    SLIM_EACH(j, n / 8)
    to[j] = slimEightToMemory(slimFourSum(b[2 * j], c[2 * j], -1), slimFourSum(b[2 * j + 1], c[2 * j + 1], -1),
                              ((const uint4*)(const void*)d)[j]);
  } else {
    SLIM_EACH(j, n / 4) * (float4*)((float*)s + off + 4 * j) = slimFourSum(b[j], c[j], -1);
  }
}

#endif

/* ---- fp64 ---------------------------------------------------------------------------------------------------------
 */

SLIM_FN uint64_t slimBits64(double x) { return (uint64_t)__double_as_longlong(x); }
SLIM_FN double slimPower2(int e) {
  return __longlong_as_double((long long)(e > -1023 ? (uint64_t)(e + 1023) << 52 : 1ull << 51));
}
SLIM_FN int slimExponent64(uint64_t bits) {
  const int field = (int)(bits >> 52);
  return (field < 1 ? 1 : field) - 1023;
}
SLIM_FN uint64_t slimMostOfAll64(uint64_t mine) {
  const uint32_t high = slimMostOfAll((uint32_t)(mine >> 32));
  const uint32_t low = slimMostOfAll((uint32_t)(mine >> 32) == high ? (uint32_t)mine : 0);
  return (uint64_t)high << 32 | low;
}

/* ---- Statistics ---------------------------------------------------------------------------------------------------
 */

SLIM_FN double slimSumOfWarp(double x) {
  for (uint32_t d = 16; d; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, (int)d);
  return x;
}
SLIM_FN void slimAddStats(slimPassStats* stats, double xx, double uu, double error, double ss, uint32_t flagged) {
  if (!stats) return;
  xx = slimSumOfWarp(xx);
  uu = slimSumOfWarp(uu);
  error = slimSumOfWarp(error);
  ss = slimSumOfWarp(ss);
  if (slimThread() % 32 == 0) {
    if (xx != 0) slimAtomicSum(&stats->xx, xx);
    if (uu != 0) slimAtomicSum(&stats->uu, uu);
    if (error != 0) slimAtomicSum(&stats->error, error);
    if (ss != 0) slimAtomicSum(&stats->ss, ss);
    if (slimThread() == 0 && flagged) slimAtomicCount(&stats->flagged, flagged);
  }
}

#endif
