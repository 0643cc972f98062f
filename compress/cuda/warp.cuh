/* compress/block.h for a warp that has a unit of SLIM_WARP_UNIT elements in its registers. Arrays are a thread's own:
 * index i is element slimPlace(i) of the unit, so lane l has the elements 4l … 4l + 3 of each row of 128: a column of
 * the reduction tree is one thread's. Loops over elements are unrolled, and the places of arrays in scratch are
 * constants, so that the compiler keeps them in registers. Streams lie in shared memory; what goes through them from
 * thread to thread passes a slimSync. All lanes come by, with the same arguments. */
#ifndef SLIM_COMPRESS_CUDA_WARP_CUH_
#define SLIM_COMPRESS_CUDA_WARP_CUH_

#define SLIM_ALL_LANES 0xffffffffu

SLIM_FN uint32_t slimThread(void) { return threadIdx.x % 32; }
SLIM_FN uint32_t slimThreads(void) { return 32; }
SLIM_FN void slimSync(void) { __syncwarp(); }
/* Teams of the grid, this one's number, and its place among those of its thread block. */
SLIM_FN uint64_t slimTeams(void) { return (uint64_t)gridDim.x * (blockDim.x / 32); }
SLIM_FN uint32_t slimTeamHere(void) { return threadIdx.x / 32; }
SLIM_FN uint32_t slimTeam(void) { return blockIdx.x * (blockDim.x / 32) + slimTeamHere(); }
enum { SLIM_TEAMS_HERE = SLIM_WARPS };

#include "compress/cuda/thread.cuh"

/* A thread's own array. Of a codec's scratch only the places in use are left. */
#define SLIM_ARENA(name, floats, inBlock) float name[floats]
enum { SLIM_SCRATCH = 3 * SLIM_WARP_UNIT };
#define SLIM_UNIT(tree) SLIM_WARP_UNIT
enum { SLIM_OWN = SLIM_WARP_UNIT / 32, SLIM_ROWS = SLIM_WARP_UNIT / 128 };
#define SLIM_EACH(i, n) SLIM_UNROLL for (uint32_t i = 0; (void)(n), i < SLIM_OWN; i++)
#define SLIM_EACH_FROM(i, from, n) \
  if ((from) < (n)) SLIM_EACH(i, n) if (slimPlace(i) >= (from))
#define SLIM_EACH_ROW(r) SLIM_UNROLL for (uint32_t r = 0; r < SLIM_ROWS; r++)
/* A thread's own signs are one word, bit i that of index i. */
#define SLIM_EACH_WORD(i, n) for (uint32_t i = 0; (void)(n), i < 1; i++)
#define SLIM_EACH_LANES(j) SLIM_UNROLL for (uint32_t j = 0; j < SLIM_OWN; j++)
#define SLIM_BIT_OF(i) (i)
#define SLIM_FIRST_WORD(first) 0
SLIM_FN uint32_t slimPlace(uint32_t i) { return i / 4 * 128 + 4 * slimThread() + i % 4; }
SLIM_FN float4 slimQuad(const float* v, uint32_t i) { return make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]); }
SLIM_FN void slimPutQuad(float* v, uint32_t i, float4 x) {
  v[i] = x.x;
  v[i + 1] = x.y;
  v[i + 2] = x.z;
  v[i + 3] = x.w;
}
SLIM_FN float slimFirst(const float* v) { return __shfl_sync(SLIM_ALL_LANES, v[0], 0); }
/* slimAddWhere, slimXorWhere: x + y, x ^ y; x where not `where`. One instruction, where of a choice the compiler makes
 * two. */
#ifdef __CUDACC__
#define SLIM_WHERE(name, instruction, operator)                                  \
  SLIM_FN uint32_t name(uint32_t x, uint32_t y, bool where) {                    \
    asm("{ .reg .pred p; setp.ne.u32 p, %1, 0; @p " instruction " %0, %0, %2; }" \
        : "+r"(x)                                                                \
        : "r"((uint32_t)where), "r"(y));                                         \
    return x;                                                                    \
  }
#else
#define SLIM_WHERE(name, instruction, operator) \
  SLIM_FN uint32_t name(uint32_t x, uint32_t y, bool where) { return where ? x operator y : x; }
#endif
SLIM_WHERE(slimAddWhere, "add.u32", +)
SLIM_WHERE(slimXorWhere, "xor.b32", ^)
#undef SLIM_WHERE

/* ---- Maxima and sums -------------------------------------------------------------------------------------------- */

SLIM_FN uint32_t slimMostOfAll(uint32_t mine) { return __reduce_max_sync(SLIM_ALL_LANES, mine); }
SLIM_FN uint32_t slimMaxBits(const float* restrict v, uint32_t n) {
  uint32_t m = 0;
  SLIM_EACH(i, n) {
    const uint32_t b = slimBits(v[i]) & 0x7fffffffu;
    m = b > m ? b : m;
  }
  return slimMostOfAll(m);
}

/* Lanes share the columns out as they add: two are left each, then one. */
SLIM_FN float slimFoldColumns(const float column[4]) {
  const bool right = slimThread() & 16, odd = slimThread() & 8;
  float x[2];
  SLIM_UNROLL
  for (uint32_t c = 0; c < 2; c++)
    x[c] = (right ? column[c + 2] : column[c]) + __shfl_xor_sync(SLIM_ALL_LANES, right ? column[c] : column[c + 2], 16);
  float y = (odd ? x[1] : x[0]) + __shfl_xor_sync(SLIM_ALL_LANES, odd ? x[0] : x[1], 8);
  SLIM_UNROLL
  for (int w = 4; w; w /= 2) y += __shfl_xor_sync(SLIM_ALL_LANES, y, w);
  y += __shfl_xor_sync(SLIM_ALL_LANES, y, 16); /* column 0 and 2, 1 and 3 */
  return y + __shfl_xor_sync(SLIM_ALL_LANES, y, 8);
}
/* Columns begin with their first values, not with +0: where all are −0, the +0 at the end makes up for it. */
#define SLIM_TREE_SUM(result, size, i, expr)                                              \
  do {                                                                                    \
    float slimColumn_[4];                                                                 \
    SLIM_EACH(i, size) slimColumn_[i % 4] = i < 4 ? (expr) : slimColumn_[i % 4] + (expr); \
    (result) = slimFoldColumns(slimColumn_) + 0.f;                                        \
  } while (0)
#define SLIM_INTEGER_SUM(result, size, i, expr)             \
  do {                                                      \
    int32_t slimSum_ = 0;                                   \
    SLIM_EACH(i, size) slimSum_ += (expr);                  \
    (result) = __reduce_add_sync(SLIM_ALL_LANES, slimSum_); \
  } while (0)

/* ---- Draws ------------------------------------------------------------------------------------------------------ */

/* Of 2 elements a word, a counter has the draws of two lanes: the even one makes those of rows 0 and 1 for both, the
 * odd one those of rows 2 and 3. Of 32, counter r has the bits of row r, a word for eight lanes, and a thread gets its
 * own ones as one word. */
SLIM_FN void slimDrawWords(const slimDraw* draw, uint32_t kind, uint32_t branch, bool shared, uint64_t first,
                           uint32_t size, uint32_t perWord, uint32_t* out) {
  const uint32_t lane = slimThread(), c0 = (uint32_t)(first / perWord / 4);
  (void)size;
  if (perWord == 1) {
    SLIM_EACH_ROW(r) {
      const uint4 w = slimDrawAt(draw, kind, branch, shared, c0 + 32 * r + lane);
      out[4 * r] = w.x;
      out[4 * r + 1] = w.y;
      out[4 * r + 2] = w.z;
      out[4 * r + 3] = w.w;
    }
    return;
  }
  if (perWord == 32) {
    const uint4 w = slimDrawAt(draw, kind, branch, shared, c0 + lane % SLIM_ROWS);
    const uint32_t word = lane < 8 ? w.x : lane < 16 ? w.y : lane < 24 ? w.z : w.w;
    uint32_t own = 0;
    SLIM_EACH_ROW(r)
    own |= (__shfl_sync(SLIM_ALL_LANES, word, (int)((lane & 24) | r)) >> 4 * (lane % 8) & 15) << 4 * r;
    out[0] = own;
    return;
  }
  const bool odd = lane & 1;
  SLIM_UNROLL
  for (uint32_t k = 0; k < SLIM_ROWS / 2; k++) {
    const uint32_t mine = odd ? SLIM_ROWS / 2 + k : k;
    const uint4 w = slimDrawAt(draw, kind, branch, shared, c0 + 16 * mine + lane / 2);
    const uint32_t x = odd ? w.z : w.x, y = odd ? w.w : w.y;
    const uint32_t otherX = __shfl_xor_sync(SLIM_ALL_LANES, odd ? w.x : w.z, 1);
    const uint32_t otherY = __shfl_xor_sync(SLIM_ALL_LANES, odd ? w.y : w.w, 1);
    out[2 * k] = odd ? otherX : x;
    out[2 * k + 1] = odd ? otherY : y;
    out[SLIM_ROWS + 2 * k] = odd ? x : otherX;
    out[SLIM_ROWS + 2 * k + 1] = odd ? y : otherY;
  }
}

/* ---- Streams ------------------------------------------------------------------------------------------------------
 */

/* A thread's own codes of a stream, and the stream made of them; what a stream holds of a thread's elements. */
SLIM_FN uint8_t* slimBytesOf(uint8_t* stream, float* scratch) {
  (void)stream;
  return (uint8_t*)(void*)scratch;
}
SLIM_FN uint16_t* slimHalvesOf(uint8_t* stream, float* scratch) {
  (void)stream;
  return (uint16_t*)(void*)scratch;
}
SLIM_FN void slimPutWords(uint8_t* stream, const uint32_t* rows) {
  SLIM_EACH_ROW(r)((uint32_t*)(void*)stream)[32 * r + slimThread()] = rows[r];
}
SLIM_FN void slimPutBytes(uint8_t* stream, const uint8_t* c, uint32_t n) {
  (void)n;
  SLIM_EACH_ROW(r)
  ((uint32_t*)(void*)stream)[32 * r + slimThread()] =
      (uint32_t)c[4 * r] | (uint32_t)c[4 * r + 1] << 8 | (uint32_t)c[4 * r + 2] << 16 | (uint32_t)c[4 * r + 3] << 24;
}
SLIM_FN void slimPutHalves(uint8_t* stream, const uint16_t* c, uint32_t n) {
  (void)n;
  SLIM_EACH_ROW(r)
  ((uint2*)(void*)stream)[32 * r + slimThread()] = make_uint2((uint32_t)c[4 * r] | (uint32_t)c[4 * r + 1] << 16,
                                                              (uint32_t)c[4 * r + 2] | (uint32_t)c[4 * r + 3] << 16);
}
SLIM_FN void slimPutFloats(uint8_t* stream, const float* v, uint32_t n) {
  (void)n;
  SLIM_EACH_ROW(r)((float4*)(void*)stream)[32 * r + slimThread()] = slimQuad(v, 4 * r);
}
SLIM_FN const uint8_t* slimTakeBytes(const uint8_t* stream, float* scratch, uint32_t n) {
  uint8_t* c = (uint8_t*)(void*)scratch;
  (void)n;
  SLIM_EACH_ROW(r) {
    const uint32_t x = ((const uint32_t*)(const void*)stream)[32 * r + slimThread()];
    SLIM_UNROLL
    for (uint32_t j = 0; j < 4; j++) c[4 * r + j] = (uint8_t)(x >> 8 * j);
  }
  return c;
}
SLIM_FN const uint16_t* slimTakeHalves(const uint8_t* stream, float* scratch, uint32_t n) {
  uint16_t* c = (uint16_t*)(void*)scratch;
  (void)n;
  SLIM_EACH_ROW(r) {
    const uint2 x = ((const uint2*)(const void*)stream)[32 * r + slimThread()];
    c[4 * r] = (uint16_t)x.x;
    c[4 * r + 1] = (uint16_t)(x.x >> 16);
    c[4 * r + 2] = (uint16_t)x.y;
    c[4 * r + 3] = (uint16_t)(x.y >> 16);
  }
  return c;
}
SLIM_FN void slimTakeFloats(float* v, const uint8_t* stream, uint32_t n) {
  (void)n;
  SLIM_EACH_ROW(r) slimPutQuad(v, 4 * r, ((const float4*)(const void*)stream)[32 * r + slimThread()]);
}

SLIM_FN bool slimIsWide(uint32_t bits) {
  (void)bits; /* up to 8 */
  return false;
}
/* A thread's codes of a row as one word, 4·bits bits of it; not of 8 bits. Where those are no whole bytes (3, 5 to 7
 * bits), two threads' are: the even lane stores both's of rows 0 and 1, the odd one of rows 2 and 3. */
SLIM_FN void slimPackRows(uint8_t* out, const uint32_t* rows, uint32_t bits) {
  const uint32_t lane = slimThread();
  if (bits == 4) {
    SLIM_EACH_ROW(r)((uint16_t*)(void*)out)[32 * r + lane] = (uint16_t)rows[r];
  } else if (bits == 2) {
    SLIM_EACH_ROW(r) out[32 * r + lane] = (uint8_t)rows[r];
  } else {
    const bool odd = lane & 1;
    uint64_t both[SLIM_ROWS / 2];
    uint8_t* to = out + (16 * (odd ? SLIM_ROWS / 2 : 0) + lane / 2) * bits;
    SLIM_UNROLL
    for (uint32_t k = 0; k < SLIM_ROWS / 2; k++) {
      const uint32_t upper = rows[SLIM_ROWS / 2 + k];
      const uint32_t other = __shfl_xor_sync(SLIM_ALL_LANES, odd ? rows[k] : upper, 1);
      const uint64_t low = odd ? other : rows[k], high = odd ? upper : other;
      both[k] = low | high << 4 * bits;
    }
    SLIM_UNROLL
    for (uint32_t j = 0; j < 7; j++) {
      if (j >= 3 && j == bits) break;
      SLIM_UNROLL
      for (uint32_t k = 0; k < SLIM_ROWS / 2; k++) to[16 * bits * k + j] = (uint8_t)(both[k] >> 8 * j);
    }
  }
}
/* More bits may follow a row's. */
SLIM_FN void slimUnpackRows(uint32_t* rows, const uint8_t* in, uint32_t bits) {
  const uint32_t lane = slimThread();
  if (bits == 4) {
    SLIM_EACH_ROW(r) rows[r] = ((const uint16_t*)(const void*)in)[32 * r + lane];
  } else if (bits == 2) {
    SLIM_EACH_ROW(r) rows[r] = in[32 * r + lane];
  } else {
    const uint32_t at = 4 * bits * lane;
    const uint32_t* words = (const uint32_t*)(const void*)in + at / 32;
    SLIM_EACH_ROW(r) {
      const bool last = r == SLIM_ROWS - 1 && at / 32 == 4 * bits - 1; /* of the stream */
      rows[r] = (uint32_t)(((uint64_t)words[last ? 0 : 1] << 32 | words[0]) >> at % 32);
      words += 4 * bits;
    }
  }
}
SLIM_FN void slimPack(uint8_t* out, const uint8_t* codes, uint32_t n, uint32_t bits) {
  if (bits == 8) {
    slimPutBytes(out, codes, n);
    return;
  }
  uint32_t rows[SLIM_ROWS];
  SLIM_EACH_ROW(r)
  rows[r] = (uint32_t)codes[4 * r] | (uint32_t)codes[4 * r + 1] << bits | (uint32_t)codes[4 * r + 2] << 2 * bits |
            (uint32_t)codes[4 * r + 3] << 3 * bits;
  slimPackRows(out, rows, bits);
}
SLIM_FN void slimUnpack(uint8_t* codes, const uint8_t* in, uint32_t n, uint32_t bits) {
  const uint32_t mask = (1u << bits) - 1;
  if (bits == 8) {
    (void)slimTakeBytes(in, (float*)(void*)codes, n);
    return;
  }
  uint32_t rows[SLIM_ROWS];
  slimUnpackRows(rows, in, bits);
  SLIM_EACH(i, n) codes[i] = (uint8_t)(rows[i / 4] >> i % 4 * bits & mask);
}

/* Two threads share a byte of signs. */
SLIM_FN void slimPutSigns(uint8_t* out, uint32_t own) {
  const uint32_t lane = slimThread(), other = __shfl_xor_sync(SLIM_ALL_LANES, own, 1);
  const uint32_t low = lane & 1 ? other : own, high = lane & 1 ? own : other;
  SLIM_UNROLL
  for (uint32_t k = 0; k < SLIM_ROWS / 2; k++) {
    const uint32_t r = SLIM_ROWS / 2 * (lane & 1) + k;
    out[16 * r + lane / 2] = (uint8_t)((low >> 4 * r & 15) | (high >> 4 * r & 15) << 4);
  }
}
#define SLIM_PACK_SIGNS(out, n, i, expr)                     \
  do {                                                       \
    uint32_t slimOwn_ = 0;                                   \
    SLIM_EACH(i, n) slimOwn_ |= ((expr) < 0 ? 1u : 0u) << i; \
    slimPutSigns(out, slimOwn_);                             \
    slimSync();                                              \
  } while (0)
SLIM_FN uint32_t slimStreamAt(const void* stream, uint32_t i) {
  const uint32_t lane = slimThread();
  uint32_t own = 0;
  (void)i;
  SLIM_EACH_ROW(r)
  own |= ((uint32_t)((const uint8_t*)stream)[16 * r + lane / 2] >> 4 * (lane & 1) & 15) << 4 * r;
  return own;
}

/* ---- Rotation --------------------------------------------------------------------------------------------------- */

/* Strides 1 and 2 between a thread's elements, 4 to 64 between lanes, the others between rows. n: SLIM_WARP_UNIT. */
SLIM_FN void slimHadamards(float* v, uint32_t size, uint32_t n) {
  const uint32_t lane = slimThread();
  (void)size, (void)n;
#define SLIM_BUTTERFLIES(h)                 \
  SLIM_UNROLL                               \
  for (uint32_t i = 0; i < SLIM_OWN; i++)   \
    if (!(i & (h))) {                       \
      const float a = v[i], b = v[i + (h)]; \
      v[i] = a + b;                         \
      v[i + (h)] = a - b;                   \
    }
  SLIM_BUTTERFLIES(1)
  SLIM_BUTTERFLIES(2)
  SLIM_UNROLL
  for (uint32_t h = 1; h < 32; h *= 2) {
    const float sign = lane & h ? -1.f : 1.f;
    SLIM_EACH(i, size) v[i] = fmaf(v[i], sign, __shfl_xor_sync(SLIM_ALL_LANES, v[i], (int)h));
  }
  SLIM_BUTTERFLIES(4)
  SLIM_BUTTERFLIES(8)
#undef SLIM_BUTTERFLIES
}

#endif
