/* Block mathematics that every codec shares: bits of floats, the reduction tree, random draws, bit packing.
 * format.md §2, §3, §5. Loops are written so that the compiler vectorises them for the instruction set at hand. */
#ifndef SLIM_COMPRESS_BLOCK_H_
#define SLIM_COMPRESS_BLOCK_H_

#include <math.h>
#include <string.h>

#include "compress/node.h"
#ifndef SLIM_CUDA
#include "compress/vector.h"
#endif

/* What a codec is told about the block before it. */
typedef struct {
  uint32_t size;    /* elements, padded with zeros: 64 or a multiple of 128 */
  uint32_t nv;      /* valid ones */
  uint32_t maxBits; /* largest bits & 0x7fffffff; the caller has checked that it is finite */
  uint64_t first;   /* virtual index of element 0, for draws */
  const slimDraw* draw;
  float* scratch;         /* free for the codec, 64-byte aligned */
  float lambda;           /* lambda=shared: the ranks' common λ; 0: not known, or none */
  const slimShape* shape; /* of the piece; NULL: the block's own */
#ifdef SLIM_WARP
  float* sent;    /* where û goes, of codecs that have it at hand (tnqsgd, qsgd); or NULL */
  uint32_t signs; /* rotate: the thread's own (slimTurnSigns) */
#endif
#ifndef SLIM_CUDA
  float magnitudes; /* tree(|v|), where who made v has it (slimSumsMagnitudes); or 0 */
#endif
} slimBlock;

#define SLIM_ASSUME_BLOCK(n)                           \
  do {                                                 \
    if ((n) == 0 || (n) % 64) __builtin_unreachable(); \
  } while (0)

SLIM_FN uint32_t slimBits(float x) {
  uint32_t b;
  memcpy(&b, &x, 4);
  return b;
}
SLIM_FN float slimFloat(uint32_t b) {
  float x;
  memcpy(&x, &b, 4);
  return x;
}

enum { SLIM_INF_BITS = 0x7f800000, SLIM_NAN_BITS = 0x7fc00000 };
SLIM_FN bool slimFinite(float x) { return (slimBits(x) & 0x7fffffffu) < SLIM_INF_BITS; }

/* e = exponent of the block's maximum, p = 2^-e, up = 2^e. */
typedef struct {
  float p, up;
  int e;
} slimNormal;
SLIM_FN slimNormal slimNormalise(uint32_t maxBits) {
  int field = (int)(maxBits >> 23);
  if (field < 1) field = 1;
  slimNormal n = {field == 254 ? 0x1p-127f : slimFloat((uint32_t)(254 - field) << 23), slimFloat((uint32_t)field << 23),
                  field - 127};
  return n;
}

/* The same where sums of magnitudes need no power: 1 between 2^-60 and 2^60. */
SLIM_FN slimNormal slimNormaliseSum(uint32_t maxBits) {
  const slimNormal one = {1, 1, 0};
  return maxBits >= (127 - 60) << 23 && maxBits < (127 + 60) << 23 ? one : slimNormalise(maxBits);
}

#if defined(SLIM_WARP)
#include "compress/cuda/warp.cuh"
#elif defined(SLIM_CUDA)
#include "compress/cuda/block.cuh"
#else

/* ---- What a thread block shares on the other target; here one thread does it all ------------------------------ */

#define SLIM_EACH(i, n) for (size_t i = 0; i < (n); i++)
#define SLIM_EACH_FROM(i, from, n) for (size_t i = (from); i < (n); i++)
#define SLIM_BIT_OF(i) ((i) % 32)
#define SLIM_FIRST_WORD(first) ((first) % 128 / 32)
#define SLIM_EACH_VECTOR(i, n) for (size_t i = 0; i < (n); i += SLIM_LANES)
/* The elements i + j, by words of 32 signs. */
#define SLIM_EACH_WORD(i, n) for (size_t i = 0; i < (n); i += 32)
#define SLIM_EACH_LANES(j) for (size_t j = 0; j < 32; j += SLIM_LANES)
static inline void slimSync(void) {}
static inline uint32_t slimLog2(uint32_t powerOfTwo) { return (uint32_t)__builtin_ctz(powerOfTwo); }
static inline uint32_t slimMostOfAll(uint32_t mine) { return mine; }
static inline void slimCopy(void* restrict to, const void* restrict from, uint32_t bytes) { memcpy(to, from, bytes); }
static inline void slimZero(void* to, uint32_t bytes) { memset(to, 0, bytes); }

static inline uint32_t slimMaxBits(const float* restrict v, uint32_t n) {
  SLIM_ASSUME_BLOCK(n);
  uint32_t m = 0;
  for (size_t i = 0; i < n; i++) {
    uint32_t b = slimBits(v[i]) & 0x7fffffffu;
    m = b > m ? b : m;
  }
  return m;
}

#define SLIM_INTEGER_SUM(result, size, i, expr)             \
  do {                                                      \
    (result) = 0;                                           \
    for (size_t i = 0; i < (size); i++) (result) += (expr); \
  } while (0)

#define SLIM_ALWAYS static inline __attribute__((always_inline))
#define SLIM_UNROLLED _Pragma("GCC unroll 32")

/* The reduction tree's columns: element i is added to lane i % 128 (of 64 elements: to lane i). */
enum { SLIM_COLUMNS = 128 / SLIM_LANES };
SLIM_ALWAYS void slimTreeStart(slimVector* a) {
  SLIM_UNROLLED for (uint32_t j = 0; j < SLIM_COLUMNS; j++) a[j] = (slimVector){0};
}
/* What they add up to: lanes 64 apart first. */
SLIM_ALWAYS float slimTreeFold(slimVector* a) {
  SLIM_UNROLLED for (uint32_t j = 0; j < SLIM_COLUMNS / 2; j++) a[j] += a[j + SLIM_COLUMNS / 2];
  SLIM_UNROLLED for (uint32_t j = 0; j < SLIM_COLUMNS / 4; j++) a[j] += a[j + SLIM_COLUMNS / 4];
  SLIM_UNROLLED for (uint32_t j = 0; j < SLIM_COLUMNS / 8; j++) a[j] += a[j + SLIM_COLUMNS / 8];
  return slimSumOf16(a);
}
/* The tree over size elements: expr is a slimVector at elements i … i + SLIM_LANES − 1. */
#define SLIM_TREE_SUM(result, size, i, expr)                                                      \
  do {                                                                                            \
    slimVector slimA_[SLIM_COLUMNS];                                                              \
    slimTreeStart(slimA_);                                                                        \
    if ((size) >= 128) {                                                                          \
      for (size_t slimR_ = 0; slimR_ < (size); slimR_ += 128) {                                   \
        SLIM_UNROLLED for (size_t slimC_ = 0; slimC_ < SLIM_COLUMNS; slimC_++) {                  \
          const size_t i = slimR_ + SLIM_LANES * slimC_;                                          \
          slimA_[slimC_] += (expr);                                                               \
        }                                                                                         \
      }                                                                                           \
    } else {                                                                                      \
      SLIM_UNROLLED for (size_t i = 0; i < 64; i += SLIM_LANES) slimA_[i / SLIM_LANES] += (expr); \
    }                                                                                             \
    (result) = slimTreeFold(slimA_);                                                              \
  } while (0)

/* ---- Draws ---------------------------------------------------------------------------------------------------- */

/* Philox4x32-7 of counters that share all but their first word. Its first rounds keep what they share: the scalars
 * here, in place of keys where `mixed`. */
typedef struct {
  uint32_t mixed[4], key[5][2];
} slimPhiloxKeys;
static inline slimPhiloxKeys slimPhiloxKeysOf(const uint32_t counter[3], const uint32_t key[2]) {
  enum { step0 = 0x9E3779B9u, step1 = 0xBB67AE85u };
  slimPhiloxKeys k;
  const uint64_t b = (uint64_t)counter[1] * 0xCD9E8D57u;
  const uint64_t a = (uint64_t)((uint32_t)(b >> 32) ^ counter[0] ^ key[0]) * 0xD2511F53u;
  k.mixed[0] = counter[2] ^ key[1];
  k.mixed[1] = (uint32_t)b ^ (key[0] + step0);
  k.mixed[2] = (uint32_t)(a >> 32) ^ (key[1] + step1);
  k.mixed[3] = (uint32_t)a ^ (key[1] + 2 * step1);
  for (uint32_t i = 0; i < 5; i++) {
    k.key[i][0] = key[0] + (i + 2) * step0;
    k.key[i][1] = key[1] + (i + 2) * step1;
  }
  return k;
}
/* `together` vectors of counters from `at`, a constant: several hide the multiplier's latency. A 64-bit lane holds one
 * counter's word in its low half; what stands above never reaches it. */
SLIM_ALWAYS void slimPhiloxVectors(uint32_t* restrict words, slimWideVector at, const uint32_t together,
                                   const slimPhiloxKeys* k) {
  enum { lanes = SLIM_LANES / 2 };
  const slimWideVector zero = {0}, m0 = zero + 0xD2511F53u, m1 = zero + 0xCD9E8D57u;
  slimWideVector x0[4], x1[4], x2[4], x3[4];
#pragma GCC unroll 4
  for (uint32_t t = 0; t < together; t++, at += lanes) {
    x3[t] = slimMulLow(at, m0);
    x1[t] = slimMulLow(x3[t] >> 32 ^ (zero + k->mixed[0]), m1);
    x0[t] = x1[t] >> 32 ^ (zero + k->mixed[1]);
    x2[t] = x3[t] ^ (zero + k->mixed[2]);
  }
#pragma GCC unroll 5
  for (int round = 0; round < 5; round++)
#pragma GCC unroll 4
    for (uint32_t t = 0; t < together; t++) {
      const slimWideVector a = slimMulLow(x0[t], m0), b = slimMulLow(x2[t], m1);
      x0[t] = b >> 32 ^ x1[t] ^ (zero + k->key[round][0]);
      x1[t] = b;
      x2[t] = round ? a >> 32 ^ x3[t] ^ (zero + k->key[round][1]) : a >> 32 ^ (zero + k->mixed[3]);
      x3[t] = a;
    }
#pragma GCC unroll 4
  for (uint32_t t = 0; t < together; t++, words += 4 * lanes) {
    const slimWideVector w01 = slimLowHalves(x0[t], x1[t]), w23 = slimLowHalves(x2[t], x3[t]);
    *(slimWideVector*)words = __builtin_shuffle(w01, w23, (slimWideVector)SLIM_EVEN_LANES);
    *(slimWideVector*)(words + 2 * lanes) = __builtin_shuffle(w01, w23, (slimWideVector)SLIM_ODD_LANES);
  }
}
/* Draws of one purpose, from some element on; elements share words by perWord (1, 2 or 32). */
typedef struct {
  slimPhiloxKeys keys;
  uint32_t counter;
} slimDraws;
static inline slimDraws slimDrawsOf(const slimDraw* draw, uint32_t kind, uint32_t branch, bool shared, uint64_t first,
                                    uint32_t perWord) {
  const uint32_t rank = shared ? SLIM_RANK_SHARED : draw->rank;
  const uint32_t purpose = kind + 8 * branch + 64 * (shared ? 0 : draw->direction);
  const uint32_t counter[3] = {draw->slot, draw->step, rank | purpose << 24};
  return (slimDraws){slimPhiloxKeysOf(counter, draw->key), (uint32_t)(first / perWord / 4)};
}
/* Words of `counters` counters, a constant multiple of 8, from the at-th on. A loop that makes what it needs as it
 * goes keeps multipliers and the rest busy at once. */
SLIM_ALWAYS void slimDrawSome(const slimDraws* draws, uint32_t at, const uint32_t counters, uint32_t* restrict words) {
  enum { lanes = SLIM_LANES / 2 };
  /* pairs of lanes are lanes/2 counters apart, so that the words come out in order */
  const slimWideVector lane = SLIM_COUNTER_LANES;
  _Pragma("GCC unroll 1") for (uint32_t i = 0; i < counters; i += 4 * lanes)
      slimPhiloxVectors(words + 4 * i, lane + (draws->counter + at + i),
                        counters - i < 4 * lanes ? (counters - i) / lanes : 4, &draws->keys);
}
/* Words of `kind` for elements first … . out holds size/perWord words, rounded up to 64. */
static inline void slimDrawWords(const slimDraw* draw, uint32_t kind, uint32_t branch, bool shared, uint64_t first,
                                 uint32_t size, uint32_t perWord, uint32_t* restrict out) {
  const slimDraws draws = slimDrawsOf(draw, kind, branch, shared, first, perWord);
  const uint32_t words = size / perWord;
  uint32_t i = 0;
  for (; i + 128 <= words; i += 128) slimDrawSome(&draws, i / 4, 32, out + i);
  for (; i + 32 < words; i += 64) slimDrawSome(&draws, i / 4, 16, out + i);
  if (i < words) slimDrawSome(&draws, i / 4, 8, out + i);
}

/* The 32-bit draw of one element. */
static inline uint32_t slimDrawWord(const slimDraw* draw, uint32_t kind, uint32_t branch, bool shared, uint64_t e) {
  uint32_t words[64];
  slimDrawWords(draw, kind, branch, shared, e, 1, 1, words);
  return words[e % 4];
}

/* ---- Bit streams: element i at bits i·b … i·b + b − 1, least significant bit first ----------------------------------
 */

/* Eight codes in a 64-bit word at a time, for widths that no byte is a multiple of; bits is a constant. Whole words are
 * moved, which overlap; the last two groups go byte by byte, to stay inside. */
SLIM_ALWAYS void slimPackOdd(uint8_t* restrict out, const uint8_t* restrict codes, uint32_t n, const uint32_t bits) {
  for (size_t i = 0; i < n / 8; i++) {
    uint64_t x;
    memcpy(&x, codes + 8 * i, 8);
    x = (x & 0x00ff00ff00ff00ffu) | (x & 0xff00ff00ff00ff00u) >> (8 - bits);
    x = (x & 0x0000ffff0000ffffu) | (x & 0xffff0000ffff0000u) >> (16 - 2 * bits);
    x = (x & 0x00000000ffffffffu) | (x & 0xffffffff00000000u) >> (32 - 4 * bits);
    if (i + 2 < n / 8)
      memcpy(out + bits * i, &x, 8);
    else
      for (uint32_t j = 0; j < bits; j++) out[bits * i + j] = (uint8_t)(x >> 8 * j);
  }
}
SLIM_ALWAYS void slimUnpackOdd(uint8_t* restrict codes, const uint8_t* restrict in, uint32_t n, const uint32_t bits) {
  const uint64_t one = (1ull << bits) - 1, two = (1ull << 2 * bits) - 1, four = (1ull << 4 * bits) - 1;
  for (size_t i = 0; i < n / 8; i++) {
    uint64_t x = 0;
    if (i + 2 < n / 8)
      memcpy(&x, in + bits * i, 8);
    else
      for (uint32_t j = 0; j < bits; j++) x |= (uint64_t)in[bits * i + j] << 8 * j;
    x = (x & four) | (x >> 4 * bits & four) << 32;
    x = (x & 0x0000000100000001u * two) | (x & 0x0000000100000001u * (two << 2 * bits)) << (16 - 2 * bits);
    x = (x & 0x0001000100010001u * one) | (x & 0x0001000100010001u * (one << bits)) << (8 - bits);
    memcpy(codes + 8 * i, &x, 8);
  }
}

/* Codes of at most 8 bits, one a byte → n·bits/8 bytes. n is a multiple of 64. */
static inline void slimPack(uint8_t* restrict out, const uint8_t* restrict codes, uint32_t n, uint32_t bits) {
  SLIM_ASSUME_BLOCK(n);
  switch (bits) {
    case 8:
      memcpy(out, codes, n);
      return;
    case 4:
      for (size_t i = 0; i < n / 2; i++) out[i] = (uint8_t)(codes[2 * i] | codes[2 * i + 1] << 4);
      return;
    case 2:
      for (size_t i = 0; i < n / 8; i++) {
        uint64_t x;
        memcpy(&x, codes + 8 * i, 8);
        x = (x | x >> 6) & 0x000f000f000f000fu;
        x = (x | x >> 12) & 0x000000ff000000ffu;
        const uint16_t packed = (uint16_t)(x | x >> 24);
        memcpy(out + 2 * i, &packed, 2);
      }
      return;
    case 1:
      for (size_t i = 0; i < n / 8; i++) {
        uint64_t x;
        memcpy(&x, codes + 8 * i, 8);
        out[i] = (uint8_t)((x * 0x0102040810204080u) >> 56);
      }
      return;
    case 3:
      slimPackOdd(out, codes, n, 3);
      return;
    case 5:
      slimPackOdd(out, codes, n, 5);
      return;
    case 6:
      slimPackOdd(out, codes, n, 6);
      return;
    default:
      slimPackOdd(out, codes, n, 7);
  }
}

static inline void slimUnpack(uint8_t* restrict codes, const uint8_t* restrict in, uint32_t n, uint32_t bits) {
  SLIM_ASSUME_BLOCK(n);
  switch (bits) {
    case 8:
      memcpy(codes, in, n);
      return;
    case 4:
      for (size_t i = 0; i < n / 2; i++) {
        codes[2 * i] = in[i] & 15;
        codes[2 * i + 1] = in[i] >> 4;
      }
      return;
    case 2:
      for (size_t i = 0; i < n / 4; i++) {
        codes[4 * i] = in[i] & 3;
        codes[4 * i + 1] = in[i] >> 2 & 3;
        codes[4 * i + 2] = in[i] >> 4 & 3;
        codes[4 * i + 3] = in[i] >> 6;
      }
      return;
    case 1:
      for (size_t i = 0; i < n / 8; i++) {
        uint64_t x = ((uint64_t)in[i] * 0x8040201008040201u >> 7) & 0x0101010101010101u;
        x = __builtin_bswap64(x);
        memcpy(codes + 8 * i, &x, 8);
      }
      return;
    case 3:
      slimUnpackOdd(codes, in, n, 3);
      return;
    case 5:
      slimUnpackOdd(codes, in, n, 5);
      return;
    case 6:
      slimUnpackOdd(codes, in, n, 6);
      return;
    default:
      slimUnpackOdd(codes, in, n, 7);
  }
}

/* Codes of 9 to 16 bits, or selector indices: any n. out is zeroed by the caller. */
static inline void slimPackWide(uint8_t* out, const uint16_t* codes, uint32_t n, uint32_t bits) {
  uint64_t acc = 0;
  uint32_t have = 0;
  for (uint32_t i = 0; i < n; i++) {
    acc |= (uint64_t)codes[i] << have;
    for (have += bits; have >= 8; have -= 8, acc >>= 8) *out++ = (uint8_t)acc;
  }
  if (have) *out = (uint8_t)acc;
}
static inline void slimUnpackWide(uint16_t* codes, const uint8_t* in, uint32_t n, uint32_t bits) {
  uint64_t acc = 0;
  uint32_t have = 0;
  for (uint32_t i = 0; i < n; i++) {
    for (; have < bits; have += 8) acc |= (uint64_t)*in++ << have;
    codes[i] = (uint16_t)(acc & ((1u << bits) - 1));
    acc >>= bits;
    have -= bits;
  }
}

/* Bit i of a stream: the i-th value is below zero. */
#define SLIM_PACK_SIGNS(out, n, i, expr)                            \
  for (size_t slimW_ = 0; slimW_ < (n); slimW_ += 4 * SLIM_LANES) { \
    slimVector slimX_[4];                                           \
    SLIM_UNROLLED for (size_t slimJ_ = 0; slimJ_ < 4; slimJ_++) {   \
      const size_t i = slimW_ + slimJ_ * SLIM_LANES;                \
      slimX_[slimJ_] = (expr);                                      \
    }                                                               \
    slimStoreSigns((uint8_t*)(out) + slimW_ / 8, slimX_);           \
  }

static inline void slimStoreByte(uint8_t* out, uint8_t x) { *out = x; }
static inline void slimStoreFloat(uint8_t* out, float x) { memcpy(out, &x, 4); }

#endif

#ifndef SLIM_WARP /* codecs read and write streams where they lie */
SLIM_FN uint8_t* slimBytesOf(uint8_t* stream, float* scratch) {
  (void)scratch;
  return stream;
}
SLIM_FN uint16_t* slimHalvesOf(uint8_t* stream, float* scratch) {
  (void)scratch;
  return (uint16_t*)(void*)stream;
}
SLIM_FN void slimPutBytes(uint8_t* stream, const uint8_t* codes, uint32_t n) { (void)stream, (void)codes, (void)n; }
SLIM_FN void slimPutHalves(uint8_t* stream, const uint16_t* codes, uint32_t n) { (void)stream, (void)codes, (void)n; }
SLIM_FN void slimPutFloats(uint8_t* stream, const float* v, uint32_t n) { slimCopy(stream, v, 4 * n); }
SLIM_FN const uint8_t* slimTakeBytes(const uint8_t* stream, float* scratch, uint32_t n) {
  (void)scratch, (void)n;
  return stream;
}
SLIM_FN const uint16_t* slimTakeHalves(const uint8_t* stream, float* scratch, uint32_t n) {
  (void)scratch, (void)n;
  return (const uint16_t*)(const void*)stream;
}
SLIM_FN void slimTakeFloats(float* v, const uint8_t* stream, uint32_t n) { slimCopy(v, stream, 4 * n); }
/* Codes that bytes do not hold. */
SLIM_FN bool slimIsWide(uint32_t bits) { return bits > 8; }
#endif

SLIM_FN float slimLoadFloat(const uint8_t* in) {
#ifdef SLIM_CUDA /* sections are aligned there */
  return *(const float*)(const void*)in;
#else
  float x;
  memcpy(&x, in, 4);
  return x;
#endif
}

/* Stores a scale, x·2^e; false if it or max times it is not finite (the unit is then flagged). */
SLIM_FN bool slimStoreScale(uint8_t* out, float x, slimNormal normal, float max) {
  float scale = x * normal.up;
  slimStoreFloat(out, scale);
  return slimFinite(scale) && slimFinite(scale * max);
}

#endif
