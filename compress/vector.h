/* Vectors of the machine's own width, in GCC's vector arithmetic; intrinsics only for what the compiler does not find.
 */
#ifndef SLIM_COMPRESS_VECTOR_H_
#define SLIM_COMPRESS_VECTOR_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

/* Lane lists are written for the widest vectors. */
#if defined(__AVX512F__)
#define SLIM_LANES 16
#define SLIM_LIST16(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) \
  { a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p }
#define SLIM_EVEN_LANES \
  { 0, 8, 2, 10, 4, 12, 6, 14 }
#define SLIM_COUNTER_LANES \
  { 0, 4, 1, 5, 2, 6, 3, 7 }
#define SLIM_ODD_LANES \
  { 1, 9, 3, 11, 5, 13, 7, 15 }
#elif defined(__AVX2__)
#define SLIM_LANES 8
#define SLIM_LIST16(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) \
  { a, b, c, d, e, f, g, h }
#define SLIM_EVEN_LANES \
  { 0, 4, 2, 6 }
#define SLIM_COUNTER_LANES \
  { 0, 2, 1, 3 }
#define SLIM_ODD_LANES \
  { 1, 5, 3, 7 }
#else
#define SLIM_LANES 4
#define SLIM_LIST16(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) \
  { a, b, c, d }
#define SLIM_EVEN_LANES \
  { 0, 2 }
#define SLIM_COUNTER_LANES \
  { 0, 1 }
#define SLIM_ODD_LANES \
  { 1, 3 }
#endif

typedef float slimVector __attribute__((vector_size(4 * SLIM_LANES), aligned(4), may_alias));
typedef uint32_t slimBitsVector __attribute__((vector_size(4 * SLIM_LANES), aligned(4), may_alias));
typedef int32_t slimSignedVector __attribute__((vector_size(4 * SLIM_LANES), aligned(4), may_alias));
typedef int16_t slimHalfVector __attribute__((vector_size(2 * SLIM_LANES), aligned(2), may_alias));
typedef uint64_t slimWideVector __attribute__((vector_size(4 * SLIM_LANES), aligned(4), may_alias));

static inline slimVector slimLoad(const float* v, size_t i) { return *(const slimVector*)(v + i); }
static inline void slimStore(float* v, size_t i, slimVector x) { *(slimVector*)(v + i) = x; }
static inline slimVector slimAbs(slimVector x) { return (slimVector)((slimBitsVector)x & 0x7fffffffu); }

static inline slimVector slimAsVector(slimBitsVector x) { return (slimVector)x; }
static inline slimBitsVector slimAllBits(uint32_t x) { return (slimBitsVector){0} + x; }
static inline slimVector slimAll(float x) { return x - (slimVector){0}; }
static inline slimVector slimFlipped(slimVector x, slimBitsVector signs) {
  return (slimVector)((slimBitsVector)x ^ signs);
}
/* x, not below zero, with the sign of `of`. */
static inline slimVector slimSigned(float x, slimVector of) {
#if defined(__AVX512F__)
  return (slimVector)_mm512_ternarylogic_epi32((__m512i)of, _mm512_set1_epi32(INT32_MIN), (__m512i)slimAll(x),
                                               0xea); /* of & sign | x */
#else
  return (slimVector)(((slimBitsVector)of & 0x80000000u) | (slimBitsVector)slimAll(x));
#endif
}
/* a ± x, minus where signs (a constant) has the sign bit: by a fused multiplication with ±1, which rounds once, too. */
static inline slimVector slimAddSigned(slimVector a, slimVector x, slimBitsVector signs) {
#if defined(__AVX512F__)
  return (slimVector)_mm512_fmadd_ps((__m512)x, (__m512)(signs | 0x3f800000u), (__m512)a);
#elif defined(__FMA__)
  return (slimVector)_mm256_fmadd_ps((__m256)x, (__m256)(signs | 0x3f800000u), (__m256)a);
#else
  return a + slimFlipped(x, signs);
#endif
}

/* a·b + c, the product exact: by a fused multiplication, where there is one. */
static inline slimVector slimExactMulAdd(slimVector a, slimVector b, slimVector c) {
#if defined(__AVX512F__)
  return (slimVector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (slimVector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

/* The product of the low halves of 64-bit lanes. */
static inline slimWideVector slimMulLow(slimWideVector a, slimWideVector b) {
#if defined(__AVX512F__)
  return (slimWideVector)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (slimWideVector)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (slimWideVector)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}
/* The low halves of 64-bit lanes: a's below b's. */
static inline slimWideVector slimLowHalves(slimWideVector a, slimWideVector b) {
#if defined(__AVX512F__)
  return (slimWideVector)_mm512_mask_shuffle_epi32((__m512i)a, 0xaaaa, (__m512i)b, _MM_PERM_CCAA);
#elif defined(__AVX2__)
  return (slimWideVector)_mm256_blend_epi32((__m256i)a, _mm256_slli_epi64((__m256i)b, 32), 0xaa);
#else
  return (a & 0xffffffffu) | b << 32;
#endif
}
/* The tree over the 16 lanes of 16/SLIM_LANES vectors. */
static inline float slimSumOf16(const slimVector* a) {
#if SLIM_LANES == 16
  const __m256 y = _mm256_add_ps(_mm512_castps512_ps256((__m512)a[0]), _mm512_extractf32x8_ps((__m512)a[0], 1));
  const __m128 x = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
#elif SLIM_LANES == 8
  const __m256 y = (__m256)(a[0] + a[1]);
  const __m128 x = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
#else
  const slimVector x = (a[0] + a[2]) + (a[1] + a[3]);
#endif
  return (x[0] + x[2]) + (x[1] + x[3]);
}
/* Lane by lane, of integers. */
static inline slimBitsVector slimLarger(slimBitsVector a, slimBitsVector b) {
#if defined(__AVX512F__)
  return (slimBitsVector)_mm512_max_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (slimBitsVector)_mm256_max_epu32((__m256i)a, (__m256i)b);
#else
  const slimBitsVector larger = (slimBitsVector)(a > b);
  return (a & larger) | (b & ~larger);
#endif
}
static inline slimBitsVector slimLesser(slimBitsVector a, slimBitsVector b) {
#if defined(__AVX512F__)
  return (slimBitsVector)_mm512_min_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (slimBitsVector)_mm256_min_epu32((__m256i)a, (__m256i)b);
#else
  const slimBitsVector less = (slimBitsVector)(a < b);
  return (a & less) | (b & ~less);
#endif
}
static inline uint32_t slimLargest(slimBitsVector x) {
  uint32_t largest = 0;
  for (uint32_t j = 0; j < SLIM_LANES; j++) largest = x[j] > largest ? x[j] : largest;
  return largest;
}

/* Bit j: key j is at least t. */
static inline uint32_t slimAtLeast(const int32_t* keys, int32_t t) {
#if defined(__AVX512F__)
  return _mm512_cmpge_epi32_mask(_mm512_loadu_si512(keys), _mm512_set1_epi32(t));
#elif defined(__AVX2__)
  const __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(t), _mm256_loadu_si256((const __m256i*)(const void*)keys));
  return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(below)) ^ 0xff;
#elif defined(__SSE2__)
  const __m128i below = _mm_cmplt_epi32(_mm_loadu_si128((const __m128i*)(const void*)keys), _mm_set1_epi32(t));
  return (uint32_t)_mm_movemask_ps(_mm_castsi128_ps(below)) ^ 15;
#else
  uint32_t mask = 0;
  for (uint32_t j = 0; j < SLIM_LANES; j++) mask |= (uint32_t)(keys[j] >= t) << j;
  return mask;
#endif
}

/* Sign bits of lanes j … of 32, from their bit stream. j is a constant multiple of SLIM_LANES. */
static inline slimBitsVector slimSignsOf(uint32_t stream, size_t j) {
  const slimBitsVector lane = SLIM_LIST16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16);
  return ((slimBitsVector){0} + stream) << (lane - (uint32_t)j) & 0x80000000u;
}
static inline uint32_t slimStreamAt(const void* stream, size_t i) {
  uint32_t w;
  memcpy(&w, (const uint8_t*)stream + i / 32 * 4, 4);
  return w;
}

/* Bytes or 16-bit words i … as integers. (gcc 12 builds these conversions byte by byte.) */
static inline slimSignedVector slimBytesAt(const void* codes, size_t i) {
  const uint8_t* c = (const uint8_t*)codes + i;
#if defined(__AVX512F__)
  return (slimSignedVector)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)(const void*)c));
#elif defined(__AVX2__)
  return (slimSignedVector)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(const void*)c));
#else
  return (slimSignedVector){c[0], c[1], c[2], c[3]};
#endif
}
static inline slimSignedVector slimHalvesAt(const void* codes, size_t i) {
  const uint16_t* c = (const uint16_t*)codes + i;
#if defined(__AVX512F__)
  return (slimSignedVector)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(const void*)c));
#elif defined(__AVX2__)
  return (slimSignedVector)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(const void*)c));
#else
  return (slimSignedVector){c[0], c[1], c[2], c[3]};
#endif
}

#if SLIM_LANES > 4
/* Lane by lane: `high` where the bit of index is set, else `low`. */
static inline slimVector slimPick(slimSignedVector index, int32_t bit, slimVector low, slimVector high) {
  const slimSignedVector set = (index & bit) != 0;
  return (slimVector)(((slimSignedVector)high & set) | ((slimSignedVector)low & ~set));
}
/* table[index] for tables of `size` entries, a constant power of two; 16 entries at least must be there to be read.
 * Register by register, where that is faster than a gather. */
static inline __attribute__((always_inline)) slimVector slimLookUp(const float* table, const uint32_t size,
                                                                   slimSignedVector index) {
#if SLIM_LANES == 16
  enum { part = 32 };
#define SLIM_PART(i) __builtin_shuffle(slimLoad(table, 32 * (i)), slimLoad(table, 32 * (i) + 16), index)
  if (size <= 16) return __builtin_shuffle(slimLoad(table, 0), index);
#else
  enum { part = 8 };
#define SLIM_PART(i) __builtin_shuffle(slimLoad(table, 8 * (i)), index)
  if (size > 4 * part) return (slimVector)_mm256_i32gather_ps(table, (__m256i)index, 4);
#endif
  if (size <= part) return SLIM_PART(0);
  if (size == 2 * part) return slimPick(index, part, SLIM_PART(0), SLIM_PART(1));
  return slimPick(index, 2 * part, slimPick(index, part, SLIM_PART(0), SLIM_PART(1)),
                  slimPick(index, part, SLIM_PART(2), SLIM_PART(3)));
#undef SLIM_PART
}
#endif
/* 4- and 2-bit codes i …, i a multiple of SLIM_LANES, in the lowest bits of lanes; other codes may stand above. */
static inline slimSignedVector slimNibblesAt(const void* codes, size_t i) {
  const uint8_t* c = (const uint8_t*)codes + i / 2;
#if defined(__AVX512F__)
  const slimWideVector pairs = (slimWideVector)_mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i*)(const void*)c));
  return (slimSignedVector)slimMulLow(pairs, (slimWideVector){0} + 0x10000001u);
#else
  uint32_t w = 0;
  memcpy(&w, c, SLIM_LANES / 2);
  const slimBitsVector shift = SLIM_LIST16(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
  return (slimSignedVector)(((slimBitsVector){0} + w) >> shift);
#endif
}
static inline slimSignedVector slimPairsAt(const void* codes, size_t i) {
  uint32_t w = 0;
  memcpy(&w, (const uint8_t*)codes + i / 4, SLIM_LANES / 4);
  const slimBitsVector shift = SLIM_LIST16(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return (slimSignedVector)(((slimBitsVector){0} + w) >> shift);
}
/* Signed bytes i … as 16-bit lanes. */
static inline slimHalfVector slimSignedBytesAt(const void* codes, size_t i) {
  const int8_t* c = (const int8_t*)codes + i;
#if defined(__AVX512F__)
  return (slimHalfVector)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(const void*)c));
#elif defined(__AVX2__)
  return (slimHalfVector)_mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i*)(const void*)c));
#else
  return (slimHalfVector){c[0], c[1], c[2], c[3]};
#endif
}
static inline slimVector slimToFloats(slimSignedVector x) { return __builtin_convertvector(x, slimVector); }
static inline slimVector slimSmaller(slimVector a, slimVector b) {
#if defined(__AVX512F__)
  return (slimVector)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (slimVector)_mm256_min_ps((__m256)a, (__m256)b);
#else
  const slimSignedVector smaller = a < b;
  return (slimVector)(((slimSignedVector)a & smaller) | ((slimSignedVector)b & ~smaller));
#endif
}

static inline slimVector slimGreater(slimVector a, slimVector b) {
#if defined(__AVX512F__)
  return (slimVector)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (slimVector)_mm256_max_ps((__m256)a, (__m256)b);
#else
  const slimSignedVector greater = a > b;
  return (slimVector)(((slimSignedVector)a & greater) | ((slimSignedVector)b & ~greater));
#endif
}
static inline slimSignedVector slimTruncated(slimVector x) { return __builtin_convertvector(x, slimSignedVector); }
/* k + step where a is below b. */
static inline slimSignedVector slimAddWhereBelow(slimSignedVector k, slimSignedVector step, slimVector a,
                                                 slimVector b) {
#if defined(__AVX512F__)
  return (slimSignedVector)_mm512_mask_add_epi32((__m512i)k, _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ),
                                                 (__m512i)k, (__m512i)step);
#else
  return k + (step & (a < b));
#endif
}
/* sum + x where a is below b. */
static inline slimVector slimSumWhereBelow(slimVector sum, slimVector x, slimVector a, slimVector b) {
#if defined(__AVX512F__)
  return (slimVector)_mm512_mask_add_ps((__m512)sum, _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ), (__m512)sum,
                                        (__m512)x);
#else
  return sum + (slimVector)((slimSignedVector)x & (a < b));
#endif
}
/* Four vectors of 16-bit integers, brought to −most … most, plus most, as bytes, in order. */
static inline void slimStoreBytes(uint8_t* out, const slimSignedVector k[4], int32_t most) {
#if defined(__AVX512F__)
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i up = _mm512_set1_epi16((short)most), low = _mm512_set1_epi16((short)-most);
  __m512i a = _mm512_packs_epi32((__m512i)k[0], (__m512i)k[1]), b = _mm512_packs_epi32((__m512i)k[2], (__m512i)k[3]);
  a = _mm512_max_epi16(_mm512_min_epi16(a, up), low), b = _mm512_max_epi16(_mm512_min_epi16(b, up), low);
  a = _mm512_add_epi8(_mm512_packs_epi16(a, b), _mm512_set1_epi8((char)most));
  _mm512_storeu_si512(out, _mm512_permutexvar_epi32(order, a));
#elif defined(__AVX2__)
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i up = _mm256_set1_epi16((short)most), low = _mm256_set1_epi16((short)-most);
  __m256i a = _mm256_packs_epi32((__m256i)k[0], (__m256i)k[1]), b = _mm256_packs_epi32((__m256i)k[2], (__m256i)k[3]);
  a = _mm256_max_epi16(_mm256_min_epi16(a, up), low), b = _mm256_max_epi16(_mm256_min_epi16(b, up), low);
  a = _mm256_add_epi8(_mm256_packs_epi16(a, b), _mm256_set1_epi8((char)most));
  _mm256_storeu_si256((__m256i*)(void*)out, _mm256_permutevar8x32_epi32(a, order));
#elif defined(__SSE2__)
  const __m128i up = _mm_set1_epi16((short)most), low = _mm_set1_epi16((short)-most);
  __m128i a = _mm_packs_epi32((__m128i)k[0], (__m128i)k[1]), b = _mm_packs_epi32((__m128i)k[2], (__m128i)k[3]);
  a = _mm_max_epi16(_mm_min_epi16(a, up), low), b = _mm_max_epi16(_mm_min_epi16(b, up), low);
  _mm_storeu_si128((__m128i*)(void*)out, _mm_add_epi8(_mm_packs_epi16(a, b), _mm_set1_epi8((char)most)));
#else
  for (uint32_t i = 0; i < 4 * SLIM_LANES; i++) {
    const int32_t x = k[i / SLIM_LANES][i % SLIM_LANES];
    out[i] = (uint8_t)((x > most ? most : x < -most ? -most : x) + most);
  }
#endif
}

/* Four vectors of integers less `minus`, 0 … 127, below the signs of x, as bytes in order. */
static inline void slimStoreSignedBytes(uint8_t* out, const slimVector x[4], const slimSignedVector k[4],
                                        int32_t minus) {
#if defined(__AVX512F__)
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i less = _mm512_set1_epi16((short)minus);
  const __m512i a = _mm512_sub_epi16(_mm512_packs_epi32((__m512i)k[0], (__m512i)k[1]), less);
  const __m512i b = _mm512_sub_epi16(_mm512_packs_epi32((__m512i)k[2], (__m512i)k[3]), less);
  const __m512i signs = _mm512_packs_epi16(_mm512_packs_epi32((__m512i)x[0], (__m512i)x[1]),
                                           _mm512_packs_epi32((__m512i)x[2], (__m512i)x[3]));
  const __m512i bytes =
      _mm512_ternarylogic_epi32(signs, _mm512_set1_epi8(-128), _mm512_packus_epi16(a, b), 0xea); /* s & bit | byte */
  _mm512_storeu_si512(out, _mm512_permutexvar_epi32(order, bytes));
#elif defined(__AVX2__)
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), less = _mm256_set1_epi16((short)minus);
  const __m256i a = _mm256_sub_epi16(_mm256_packs_epi32((__m256i)k[0], (__m256i)k[1]), less);
  const __m256i b = _mm256_sub_epi16(_mm256_packs_epi32((__m256i)k[2], (__m256i)k[3]), less);
  const __m256i signs = _mm256_packs_epi16(_mm256_packs_epi32((__m256i)x[0], (__m256i)x[1]),
                                           _mm256_packs_epi32((__m256i)x[2], (__m256i)x[3]));
  const __m256i bytes = _mm256_or_si256(_mm256_and_si256(signs, _mm256_set1_epi8(-128)), _mm256_packus_epi16(a, b));
  _mm256_storeu_si256((__m256i*)(void*)out, _mm256_permutevar8x32_epi32(bytes, order));
#elif defined(__SSE2__)
  const __m128i less = _mm_set1_epi16((short)minus);
  const __m128i a = _mm_sub_epi16(_mm_packs_epi32((__m128i)k[0], (__m128i)k[1]), less);
  const __m128i b = _mm_sub_epi16(_mm_packs_epi32((__m128i)k[2], (__m128i)k[3]), less);
  const __m128i signs =
      _mm_packs_epi16(_mm_packs_epi32((__m128i)x[0], (__m128i)x[1]), _mm_packs_epi32((__m128i)x[2], (__m128i)x[3]));
  _mm_storeu_si128((__m128i*)(void*)out,
                   _mm_or_si128(_mm_and_si128(signs, _mm_set1_epi8(-128)), _mm_packus_epi16(a, b)));
#else
  for (uint32_t i = 0; i < 4 * SLIM_LANES; i++) {
    const uint32_t t = i / SLIM_LANES, j = i % SLIM_LANES;
    out[i] = (uint8_t)((uint32_t)(k[t][j] - minus) | (((slimBitsVector)x[t])[j] >> 24 & 0x80));
  }
#endif
}
/* Four vectors of integers plus `plus`, 0 … 15, two a byte, in order. */
static inline void slimStoreNibbles(uint8_t* out, const slimSignedVector k[4], int32_t plus) {
#if defined(__AVX512F__)
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i a = _mm512_packs_epi32((__m512i)k[0], (__m512i)k[1]);
  const __m512i b = _mm512_packs_epi32((__m512i)k[2], (__m512i)k[3]);
  const __m512i bytes = _mm512_add_epi8(_mm512_packs_epi16(a, b), _mm512_set1_epi8((char)plus));
  const __m512i pairs = _mm512_maddubs_epi16(bytes, _mm512_set1_epi16(0x1001));
  _mm256_storeu_si256((__m256i*)(void*)out, _mm512_cvtepi16_epi8(_mm512_permutexvar_epi32(order, pairs)));
#elif defined(__AVX2__)
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i a = _mm256_packs_epi32((__m256i)k[0], (__m256i)k[1]);
  const __m256i b = _mm256_packs_epi32((__m256i)k[2], (__m256i)k[3]);
  const __m256i bytes = _mm256_add_epi8(_mm256_packs_epi16(a, b), _mm256_set1_epi8((char)plus));
  const __m256i pairs = _mm256_permutevar8x32_epi32(_mm256_maddubs_epi16(bytes, _mm256_set1_epi16(0x1001)), order);
  _mm_storeu_si128((__m128i*)(void*)out,
                   _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1)));
#elif defined(__SSE2__)
  const __m128i a = _mm_packs_epi32((__m128i)k[0], (__m128i)k[1]), b = _mm_packs_epi32((__m128i)k[2], (__m128i)k[3]);
  const __m128i bytes = _mm_add_epi8(_mm_packs_epi16(a, b), _mm_set1_epi8((char)plus));
  const __m128i pairs = _mm_and_si128(_mm_or_si128(bytes, _mm_srli_epi16(bytes, 4)), _mm_set1_epi16(0xff));
  _mm_storel_epi64((__m128i*)(void*)out, _mm_packus_epi16(pairs, pairs));
#else
  for (uint32_t i = 0; i < 2 * SLIM_LANES; i++)
    out[i] = (uint8_t)((k[2 * i / SLIM_LANES][2 * i % SLIM_LANES] + plus) |
                       (k[(2 * i + 1) / SLIM_LANES][(2 * i + 1) % SLIM_LANES] + plus) << 4);
#endif
}

/* Four vectors' masks as one; k(0) … k(3), lanes of integers, as bytes (AVX2: 0–3, 16–19, 4–7, … in 32-bit lanes). */
#if defined(__AVX512F__)
#define SLIM_MASK64(k)                                                        \
  ((uint64_t)(k)[3] << 48 | (uint64_t)(k)[2] << 32 | (uint64_t)(k)[1] << 16 | \
   (uint64_t)(k)[0]) /* kunpck takes longer */
#elif defined(__AVX2__)
#define SLIM_BYTES(k)                                                      \
  _mm256_packs_epi16(_mm256_packs_epi32((__m256i)(k(0)), (__m256i)(k(1))), \
                     _mm256_packs_epi32((__m256i)(k(2)), (__m256i)(k(3))))
#elif defined(__SSE2__)
#define SLIM_BYTES(k) \
  _mm_packs_epi16(_mm_packs_epi32((__m128i)(k(0)), (__m128i)(k(1))), _mm_packs_epi32((__m128i)(k(2)), (__m128i)(k(3))))
#endif
/* A bit for each element of four vectors: it is below zero. */
static inline void slimStoreSigns(uint8_t* out, const slimVector x[4]) {
#if defined(__AVX512F__)
  __mmask16 below[4];
  for (uint32_t t = 0; t < 4; t++) below[t] = _mm512_cmp_ps_mask((__m512)x[t], _mm512_setzero_ps(), _CMP_LT_OQ);
  const uint64_t signs = SLIM_MASK64(below);
  memcpy(out, &signs, 8);
#elif defined(__AVX2__)
#define SLIM_BELOW(t) (x[t] < 0)
  const int signs = _mm256_movemask_epi8(
      _mm256_permutevar8x32_epi32(SLIM_BYTES(SLIM_BELOW), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
  memcpy(out, &signs, 4);
#elif defined(__SSE2__)
#define SLIM_BELOW(t) (x[t] < 0)
  const uint16_t signs = (uint16_t)_mm_movemask_epi8(SLIM_BYTES(SLIM_BELOW));
  memcpy(out, &signs, 2);
#else
  memset(out, 0, SLIM_LANES / 2);
  for (uint32_t i = 0; i < 4 * SLIM_LANES; i++)
    out[i / 8] |= (uint8_t)((x[i / SLIM_LANES][i % SLIM_LANES] < 0) << i % 8);
#endif
}
/* 2-bit codes of four vectors x: 1, but where y is below a 2, or 0 of negative x. How many are not 1. */
static inline uint32_t slimStoreTernary(uint8_t* out, const slimVector x[4], const slimVector y[4],
                                        const slimVector a[4]) {
#if defined(__AVX512F__)
  __mmask16 some[4];
  for (uint32_t t = 0; t < 4; t++) some[t] = _mm512_cmp_ps_mask((__m512)y[t], (__m512)a[t], _CMP_LT_OQ);
  const __mmask64 all = SLIM_MASK64(some);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
                one = _mm512_set1_epi8(1);
  const __m512i signs =
      _mm512_permutexvar_epi32(order, _mm512_packs_epi16(_mm512_packs_epi32((__m512i)x[0], (__m512i)x[1]),
                                                         _mm512_packs_epi32((__m512i)x[2], (__m512i)x[3])));
  const __m512i sign = _mm512_mask_mov_epi8(one, _mm512_movepi8_mask(signs), _mm512_set1_epi8(-1));
  const __m512i pairs = _mm512_maddubs_epi16(_mm512_mask_add_epi8(one, all, one, sign), _mm512_set1_epi16(0x0401));
  const __m512i fours = _mm512_madd_epi16(pairs, _mm512_set1_epi32(0x00100001));
  _mm_storeu_si128((__m128i*)(void*)out, _mm512_cvtepi32_epi8(fours));
  return (uint32_t)__builtin_popcountll(all);
#elif defined(__AVX2__)
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), one = _mm256_set1_epi8(1);
#define SLIM_SOME(t) (y[t] < a[t])
#define SLIM_SIGN(t) x[t]
  const __m256i some = SLIM_BYTES(SLIM_SOME);
  const __m256i sign = _mm256_or_si256(_mm256_cmpgt_epi8(_mm256_setzero_si256(), SLIM_BYTES(SLIM_SIGN)), one);
  const __m256i codes = _mm256_add_epi8(one, _mm256_and_si256(some, sign));
  const __m256i pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x0401));
  const __m256i fours = _mm256_permutevar8x32_epi32(_mm256_madd_epi16(pairs, _mm256_set1_epi32(0x00100001)), order);
  const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
  _mm_storel_epi64((__m128i*)(void*)out, _mm_packus_epi16(halves, halves));
  return (uint32_t)__builtin_popcount((uint32_t)_mm256_movemask_epi8(some));
#elif defined(__SSE2__)
#define SLIM_SOME(t) (y[t] < a[t])
#define SLIM_SIGN(t) x[t]
  const __m128i one = _mm_set1_epi8(1), some = SLIM_BYTES(SLIM_SOME);
  const __m128i sign = _mm_or_si128(_mm_cmpgt_epi8(_mm_setzero_si128(), SLIM_BYTES(SLIM_SIGN)), one);
  const __m128i codes = _mm_add_epi8(one, _mm_and_si128(some, sign));
  const __m128i pairs = _mm_or_si128(codes, _mm_srli_epi16(codes, 6));
  const __m128i fours = _mm_and_si128(_mm_or_si128(_mm_and_si128(pairs, _mm_set1_epi16(15)), _mm_srli_epi32(pairs, 12)),
                                      _mm_set1_epi32(0xff));
  const __m128i halves = _mm_packs_epi32(fours, fours);
  const int four = _mm_cvtsi128_si32(_mm_packus_epi16(halves, halves));
  memcpy(out, &four, 4);
  return (uint32_t)__builtin_popcount((uint32_t)_mm_movemask_epi8(some));
#else
  uint32_t count = 0;
  memset(out, 0, SLIM_LANES);
  for (uint32_t i = 0; i < 4 * SLIM_LANES; i++) {
    const uint32_t t = i / SLIM_LANES, j = i % SLIM_LANES, some = y[t][j] < a[t][j];
    out[i / 4] |= (uint8_t)((some ? x[t][j] < 0 ? 0u : 2u : 1u) << 2 * (i % 4));
    count += some;
  }
  return count;
#endif
}

/* Fetches what the next unit will touch: the hardware's prefetchers lose streams that are visited in turn. */
static inline void slimPrefetch(const void* at, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char*)at + i, 0, 3);
}

#endif
