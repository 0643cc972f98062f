/* compress/block.h for a thread block that shares a unit. Element i of an array belongs to thread i mod slimThreads()
 * (SLIM_EACH), so a loop may read what another loop over the same elements wrote; whatever goes from thread to thread
 * passes a slimSync. Functions that read an array in another order start with one, those that write one so end with
 * one. */
#ifndef SLIM_COMPRESS_CUDA_BLOCK_CUH_
#define SLIM_COMPRESS_CUDA_BLOCK_CUH_

SLIM_FN uint32_t slimThread(void) { return threadIdx.x; }
SLIM_FN uint32_t slimThreads(void) { return blockDim.x; }
SLIM_FN void slimSync(void) { __syncthreads(); }
/* Teams of the grid, this one's number, and its place among those of its thread block. */
SLIM_FN uint64_t slimTeams(void) { return gridDim.x; }
SLIM_FN uint32_t slimTeam(void) { return blockIdx.x; }
enum { SLIM_TEAMS_HERE = 1 };
SLIM_FN uint32_t slimTeamHere(void) { return 0; }

#include "compress/cuda/thread.cuh"

#define SLIM_UNIT(tree) (tree)->unit
#define SLIM_ARENA(name, ofWarp, inBlock) float* name = inBlock /* a unit's array */
#define SLIM_EACH(i, n) SLIM_SHARE(i, n)
#define SLIM_EACH_FROM(i, from, n) for (uint32_t i = (from) + slimThread(); i < (n); i += slimThreads())
#define SLIM_EACH_QUAD(i, n) for (uint32_t i = 4 * slimThread(); i < (n); i += 4 * slimThreads())
#define SLIM_EACH_VECTOR(i, n) SLIM_EACH(i, n)
#define SLIM_EACH_WORD(i, n) for (uint32_t i = slimThread() & ~31u; i < (n); i += slimThreads())
#define SLIM_EACH_LANES(j) for (uint32_t j = slimThread() & 31, slimOnce_ = 1; slimOnce_; slimOnce_ = 0)
#define SLIM_BIT_OF(i) ((i) % 32)
#define SLIM_FIRST_WORD(first) ((first) % 128 / 32)
/* Which element of the unit has index i; four from i on; the first one. */
SLIM_FN uint32_t slimPlace(uint32_t i) { return i; }
SLIM_FN float4 slimQuad(const float* v, uint32_t i) { return *(const float4*)(v + i); }
SLIM_FN void slimPutQuad(float* v, uint32_t i, float4 x) { *(float4*)(v + i) = x; }
SLIM_FN float slimFirst(const float* v) { return v[0]; }
SLIM_FN uint32_t slimStreamAt(const void* stream, uint32_t i) { return ((const uint32_t*)stream)[i / 32]; }

/* ---- Maxima and sums -------------------------------------------------------------------------------------------- */

/* The largest of the threads' values. */
SLIM_FN uint32_t slimMostOfAll(uint32_t mine) {
  __shared__ uint32_t most[32];
  for (uint32_t d = 16; d; d /= 2) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, mine, (int)d);
    mine = other > mine ? other : mine;
  }
  if (slimThreads() == 32) return mine;
  slimSync();
  if (slimThread() % 32 == 0) most[slimThread() / 32] = mine;
  slimSync();
  for (uint32_t w = 0; w < slimThreads() / 32; w++) mine = most[w] > mine ? most[w] : mine;
  return mine;
}
SLIM_FN uint32_t slimMaxBits(const float* restrict v, uint32_t n) {
  uint32_t m = 0;
  slimSync();
  SLIM_EACH(i, n) {
    const uint32_t b = slimBits(v[i]) & 0x7fffffffu;
    m = b > m ? b : m;
  }
  return slimMostOfAll(m);
}

/* A thread adds up whole columns; the first warp folds them. */
SLIM_FN float* slimColumns(void) {
  __shared__ float columns[128];
  return columns;
}
SLIM_FN float slimFoldColumns(float* column) {
  slimSync();
  if (slimThread() < 32) {
    const uint32_t j = slimThread();
    float a = (column[j] + column[j + 64]) + (column[j + 32] + column[j + 96]);
    for (uint32_t w = 16; w; w /= 2) a += __shfl_down_sync(0xffffffffu, a, w);
    if (j == 0) column[0] = a;
  }
  slimSync();
  return column[0];
}
#define SLIM_TREE_SUM(result, size, i, expr)                          \
  do {                                                                \
    float* slimColumn_ = slimColumns();                               \
    slimSync();                                                       \
    SLIM_EACH(slimC_, 128) {                                          \
      float slimA_ = 0;                                               \
      for (uint32_t i = slimC_; i < (size); i += 128) slimA_ += expr; \
      slimColumn_[slimC_] = slimA_;                                   \
    }                                                                 \
    (result) = slimFoldColumns(slimColumn_);                          \
  } while (0)

SLIM_FN int32_t slimSumOfAll(int32_t mine) {
  __shared__ int32_t sum[32];
  for (uint32_t d = 16; d; d /= 2) mine += __shfl_xor_sync(0xffffffffu, mine, (int)d);
  slimSync();
  if (slimThread() % 32 == 0) sum[slimThread() / 32] = mine;
  slimSync();
  mine = 0;
  for (uint32_t w = 0; w < slimThreads() / 32; w++) mine += sum[w];
  return mine;
}
#define SLIM_INTEGER_SUM(result, size, i, expr) \
  do {                                          \
    int32_t slimSum_ = 0;                       \
    SLIM_EACH(i, size) slimSum_ += (expr);      \
    (result) = slimSumOfAll(slimSum_);          \
  } while (0)

/* ---- Draws ------------------------------------------------------------------------------------------------------ */

/* out: 16-byte aligned. */
SLIM_FN void slimDrawWords(const slimDraw* draw, uint32_t kind, uint32_t branch, bool shared, uint64_t first,
                           uint32_t size, uint32_t perWord, uint32_t* out) {
  const uint32_t n = (size / perWord + 3) / 4, c0 = (uint32_t)(first / perWord / 4);
  slimSync();
  SLIM_EACH(i, n)((uint4*)(void*)out)[i] = slimDrawAt(draw, kind, branch, shared, c0 + i);
  slimSync();
}
/* ---- Bit streams ------------------------------------------------------------------------------------------------ */

/* Eight codes are `bits` bytes: a thread makes them as one word. */
SLIM_FN void slimStoreBytes(uint8_t* out, uint64_t x, uint32_t bytes) {
  if (bytes == 4 && ((uintptr_t)out & 3) == 0)
    *(uint32_t*)(void*)out = (uint32_t)x;
  else
    for (uint32_t j = 0; j < bytes; j++) out[j] = (uint8_t)(x >> 8 * j);
}
SLIM_FN void slimPack(uint8_t* restrict out, const uint8_t* restrict codes, uint32_t n, uint32_t bits) {
  slimSync();
  SLIM_EACH(g, n / 8) {
    const uint2 c = ((const uint2*)(const void*)codes)[g];
    uint64_t x = 0;
    SLIM_UNROLL
    for (uint32_t j = 0; j < 4; j++) {
      x |= (uint64_t)(c.x >> 8 * j & 255) << j * bits;
      x |= (uint64_t)(c.y >> 8 * j & 255) << (4 + j) * bits;
    }
    slimStoreBytes(out + g * bits, x, bits);
  }
  slimSync();
}
SLIM_FN void slimUnpack(uint8_t* restrict codes, const uint8_t* restrict in, uint32_t n, uint32_t bits) {
  const uint32_t mask = (1u << bits) - 1;
  slimSync();
  SLIM_EACH(g, n / 8) {
    uint64_t x = 0;
    const uint8_t* at = in + g * bits;
    if (bits == 4 && ((uintptr_t)at & 3) == 0)
      x = *(const uint32_t*)(const void*)at;
    else
      for (uint32_t j = 0; j < bits; j++) x |= (uint64_t)at[j] << 8 * j;
    uint2 c = make_uint2(0, 0);
    SLIM_UNROLL
    for (uint32_t j = 0; j < 4; j++) {
      c.x |= ((uint32_t)(x >> j * bits) & mask) << 8 * j;
      c.y |= ((uint32_t)(x >> (4 + j) * bits) & mask) << 8 * j;
    }
    ((uint2*)(void*)codes)[g] = c;
  }
  slimSync();
}

#define SLIM_PACK_SIGNS(out, n, i, expr)                                 \
  do {                                                                   \
    slimSync();                                                          \
    SLIM_EACH(i, n) {                                                    \
      const uint32_t slimVote_ = __ballot_sync(0xffffffffu, (expr) < 0); \
      if (i % 32 == 0) ((uint32_t*)(void*)(out))[i / 32] = slimVote_;    \
    }                                                                    \
    slimSync();                                                          \
  } while (0)

/* ---- Rotation --------------------------------------------------------------------------------------------------- */

/* Strides 1 to 16 between the lanes of a warp, the others between registers of a thread. */
SLIM_FN void slimHadamards(float* v, uint32_t size, uint32_t n) {
  slimSync();
  SLIM_EACH(i, size) {
    float x = v[i];
    SLIM_UNROLL
    for (uint32_t h = 1; h < 32; h *= 2) {
      const float y = __shfl_xor_sync(0xffffffffu, x, (int)h);
      x = i & h ? y - x : y + x;
    }
    v[i] = x;
  }
  slimSync();
  uint32_t h = 32;
  for (; 4 * h <= n; h *= 4) {
    SLIM_EACH(t, size / 4) {
      float* at = v + ((t & ~(h - 1)) * 4 | (t & (h - 1)));
      const float a = at[0] + at[h], b = at[0] - at[h], c = at[2 * h] + at[3 * h], d = at[2 * h] - at[3 * h];
      at[0] = a + c;
      at[h] = b + d;
      at[2 * h] = a - c;
      at[3 * h] = b - d;
    }
    slimSync();
  }
  if (h < n) {
    SLIM_EACH(t, size / 2) {
      float* at = v + ((t & ~(h - 1)) * 2 | (t & (h - 1)));
      const float a = at[0], b = at[h];
      at[0] = a + b;
      at[h] = a - b;
    }
    slimSync();
  }
}

/* ---- Selection -------------------------------------------------------------------------------------------------- */

/* The sum of the values of the threads before this one, and of all. */
SLIM_FN uint32_t slimSumBefore(uint32_t mine, uint32_t* total) {
  __shared__ uint32_t sum[32];
  const uint32_t warp = slimThread() / 32, lane = slimThread() % 32;
  uint32_t upTo = mine;
  for (uint32_t d = 1; d < 32; d *= 2) {
    const uint32_t other = __shfl_up_sync(0xffffffffu, upTo, d);
    upTo += lane >= d ? other : 0;
  }
  slimSync();
  if (lane == 31) sum[warp] = upTo;
  slimSync();
  uint32_t before = upTo - mine, all = 0;
  for (uint32_t w = 0; w < slimThreads() / 32; w++) {
    before += w < warp ? sum[w] : 0;
    all += sum[w];
  }
  *total = all;
  return before;
}

/* The k-th largest of n keys digit by digit, then those above it and the first ones equal to it, in index order: a warp
 * has a stretch of the keys, 32 at a time. Wide digits spread magnitudes, which have few exponents, over more bins;
 * threads that add to the same one wait for each other. n is at most 65536. */
SLIM_FN void slimSelectLargest(uint16_t* restrict index, const int32_t* restrict keys, uint32_t n, uint32_t k,
                               float* scratch) {
  __shared__ uint32_t bins[2048];
  __shared__ uint32_t found[2], taken[32], tied[32];
  (void)scratch;
  if (k == 0) return;
  const uint32_t digit = n < 2048 ? 8 : 11, size = 1u << digit, each = (size + slimThreads() - 1) / slimThreads();
  uint32_t t = 0, need = k, all; /* keys ^ 2^31 in unsigned order; need: of those that share t's digits so far */
  for (uint32_t left = 32; left;) {
    const uint32_t shift = left < digit ? 0 : left - digit;
    slimSync();
    SLIM_EACH(b, size) bins[b] = 0;
    slimSync();
    SLIM_EACH(i, n) {
      const uint32_t key = (uint32_t)keys[i] ^ 0x80000000u;
      if (left == 32 || (key ^ t) >> left == 0) slimAtomicAdd(&bins[key >> shift & (size - 1)], 1);
    }
    slimSync();
    const uint32_t top = size - 1 - each * slimThread(); /* a thread has `each` bins, from this one down */
    uint32_t own = 0;
    for (uint32_t j = 0; j < each && each * slimThread() + j < size; j++) own += bins[top - j];
    uint32_t above = slimSumBefore(own, &all);
    if (above < need && need <= above + own) {
      uint32_t b = top;
      while (above + bins[b] < need) above += bins[b--];
      found[0] = b;
      found[1] = need - above;
    }
    slimSync();
    t |= found[0] << shift;
    need = found[1];
    left = shift;
  }
  const uint32_t warps = slimThreads() / 32, warp = slimThread() / 32, lane = slimThread() % 32;
  const uint32_t stretch = (n + slimThreads() - 1) / slimThreads() * 32;
  const uint32_t from = warp * stretch, to = from + stretch < n ? from + stretch : n;
  uint32_t above = 0, ties = 0; /* of this thread's keys */
  for (uint32_t i = from + lane; i < to; i += 32) {
    const uint32_t key = (uint32_t)keys[i] ^ 0x80000000u;
    above += key > t;
    ties += key == t;
  }
  for (uint32_t d = 16; d; d /= 2) {
    above += __shfl_xor_sync(0xffffffffu, above, (int)d);
    ties += __shfl_xor_sync(0xffffffffu, ties, (int)d);
  }
  if (lane == 0) {
    taken[warp] = above;
    tied[warp] = ties;
  }
  slimSync();
  above = ties = 0; /* of the warps before */
  for (uint32_t w = 0; w < warps && w < warp; w++) {
    above += taken[w];
    ties += tied[w];
  }
  for (uint32_t base = from; base < to; base += 32) {
    const uint32_t i = base + lane, before = (1u << lane) - 1;
    const uint32_t key = i < to ? (uint32_t)keys[i] ^ 0x80000000u : 0;
    const uint32_t more = __ballot_sync(0xffffffffu, i < to && key > t);
    const uint32_t same = __ballot_sync(0xffffffffu, i < to && key == t);
    const uint32_t tie = ties + (uint32_t)__popc(same & before); /* before this one */
    const uint32_t at = above + (uint32_t)__popc(more & before) + (tie < need ? tie : need);
    if (i < to && (key > t || (key == t && tie < need))) index[at] = (uint16_t)i;
    above += (uint32_t)__popc(more);
    ties += (uint32_t)__popc(same);
  }
  slimSync();
}

#endif
