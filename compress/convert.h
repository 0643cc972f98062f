/* fp16, bf16 and fp8 by integer arithmetic (round to nearest even, denormals kept): the same bits on every machine. */
#ifndef SLIM_COMPRESS_CONVERT_H_
#define SLIM_COMPRESS_CONVERT_H_

#include "compress/block.h"

#if defined(__F16C__) && !defined(SLIM_CUDA)
#include <immintrin.h>
#endif

enum { SLIM_NAN_HALF = 0x7e00, SLIM_NAN_BF16 = 0x7fc0 };

/* NaN becomes the constant; values that round above the largest become Inf. */
SLIM_FN uint16_t slimToBf16(float x) {
  uint32_t b = slimBits(x);
  uint32_t r = (b + 0x7fff + (b >> 16 & 1)) >> 16;
  return (uint16_t)((b & 0x7fffffffu) > SLIM_INF_BITS ? (uint32_t)SLIM_NAN_BF16 : r);
}
SLIM_FN float slimFromBf16(uint16_t h) { return slimFloat((uint32_t)h << 16); }
/* A memory's value, rounded stochastically by the 16 bits d: the mean over d is x (format.md §7). */
SLIM_FN uint16_t slimToMemory(float x, uint32_t d) {
  const uint32_t bits = slimBits(x), size = ((bits & 0x7fffffffu) + d) >> 16;
  return (uint16_t)((bits >> 16 & 0x8000u) | (size < 0x7f7f ? size : 0x7f7f));
}

SLIM_FN uint16_t slimToHalf(float x) {
  uint32_t b = slimBits(x), sign = b >> 16 & 0x8000, a = b & 0x7fffffffu;
  /* Denormal results: adding 0.5 aligns the mantissa so that the FPU rounds it at 2^-24. */
  uint32_t low = slimBits(slimFloat(a) + 0.5f) - 0x3f000000u;
  uint32_t high = (a - 0x38000000u + 0xfff + (a >> 13 & 1)) >> 13;
  uint32_t h = a < 0x38800000u ? low : high;
  h = a >= 0x477ff000u ? 0x7c00 : h;
  h = a > SLIM_INF_BITS ? (uint32_t)SLIM_NAN_HALF : h;
  return (uint16_t)(a > SLIM_INF_BITS ? h : (h | sign));
}
SLIM_FN float slimFromHalf(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, a = h & 0x7fff;
  uint32_t normal = (a << 13) + 0x38000000u;
  uint32_t low = slimBits((float)(int32_t)a * 0x1p-24f);
  uint32_t b = a < 0x400 ? low : normal;
  b = a >= 0x7c00 ? (a << 13) + 0x70000000u : b;
  return slimFloat(b | sign);
}

#ifdef SLIM_CUDA
SLIM_FN void slimHalvesToFloats(float* restrict out, const uint16_t* restrict h, uint32_t n) {
  SLIM_EACH(i, n) out[i] = slimFromHalf(h[i]);
}
#else
static inline void slimFloatsToHalves(uint16_t* restrict out, const float* restrict v, size_t n) {
  size_t i = 0;
#ifdef __F16C__ /* gcc 12 does not vectorise _Float16 conversions; NaN is made constant afterwards */
  for (; i + 8 <= n; i += 8) {
    __m256 x = _mm256_loadu_ps(v + i);
    __m128i h = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    __m128i nan16 = _mm_packs_epi32(_mm256_castsi256_si128(nan), _mm256_extracti128_si256(nan, 1));
    _mm_storeu_si128((__m128i*)(void*)(out + i), _mm_blendv_epi8(h, _mm_set1_epi16(SLIM_NAN_HALF), nan16));
  }
#endif
  for (; i < n; i++) out[i] = slimToHalf(v[i]);
}
static inline void slimHalvesToFloats(float* restrict out, const uint16_t* restrict h, size_t n) {
  size_t i = 0;
#ifdef __F16C__
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(const void*)(h + i))));
#endif
  for (; i < n; i++) out[i] = slimFromHalf(h[i]);
}
#endif
/* Finite input; magnitudes above 65504 become 65504. n is a multiple of 64. */
SLIM_FN void slimFloatsToHalvesSaturated(uint16_t* restrict out, const float* restrict v, uint32_t n) {
  SLIM_ASSUME_BLOCK(n);
#if defined(__AVX512F__) && !defined(SLIM_CUDA)
  const __m512 most = _mm512_set1_ps(65504), least = _mm512_set1_ps(-65504);
  for (uint32_t i = 0; i < n; i += 16) {
    const __m512 x = _mm512_max_ps(_mm512_min_ps(_mm512_loadu_ps(v + i), most), least);
    _mm256_storeu_si256((__m256i*)(void*)(out + i), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__F16C__) && !defined(SLIM_CUDA)
  const __m256 most = _mm256_set1_ps(65504), least = _mm256_set1_ps(-65504);
  for (uint32_t i = 0; i < n; i += 8) {
    const __m256 x = _mm256_max_ps(_mm256_min_ps(_mm256_loadu_ps(v + i), most), least);
    _mm_storeu_si128((__m128i*)(void*)(out + i), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
#else
  SLIM_EACH(i, n) {
    const uint16_t h = slimToHalf(v[i]);
    out[i] = (uint16_t)((h & 0x7fff) == 0x7c00 ? h - 1 : h);
  }
#endif
}

/* fp8 of a magnitude that is finite and inside the format's range: exponent bias and mantissa bits of e4m3 or e5m2. */
SLIM_FN uint8_t slimToFp8(float x, int bias, int mantissa) {
  uint32_t b = slimBits(x), a = b & 0x7fffffffu;
  uint32_t shift = (uint32_t)(23 - mantissa);
  uint32_t smallest = (uint32_t)(128 - bias) << 23; /* bits of the smallest normal, 2^(1 − bias) */
  float align = slimFloat((uint32_t)(128 - bias + 23 - mantissa) << 23); /* its ulp is the denormals' */
  uint32_t low = slimBits(slimFloat(a) + align) - slimBits(align);
  uint32_t high = (a - ((uint32_t)(127 - bias) << 23) + (1u << (shift - 1)) - 1 + (a >> shift & 1)) >> shift;
  return (uint8_t)((a < smallest ? low : high) | b >> 31 << 7);
}
SLIM_FN float slimFromFp8(uint8_t c, int bias, int mantissa) {
  uint32_t a = c & 0x7f, shift = (uint32_t)(23 - mantissa);
  uint32_t normal = (a << shift) + ((uint32_t)(127 - bias) << 23);
  uint32_t low = slimBits((float)(int32_t)a * slimFloat((uint32_t)(128 - bias - mantissa) << 23));
  return slimFloat((a >> mantissa ? normal : low) | (uint32_t)(c & 0x80) << 24);
}

#ifndef SLIM_CUDA
/* The same of four vectors v·p·up. Adding 2^(23 − mantissa) times its own power of two (at least the smallest normal)
 * rounds a magnitude, and leaves its mantissa in the lowest bits. */
static inline __attribute__((always_inline)) void slimToFp8s(uint8_t* out, const float* v, float p, float up,
                                                             const int bias, const int mantissa) {
  const uint32_t smallest = (uint32_t)(128 - bias) << 23, shift = (uint32_t)(23 - mantissa);
  slimVector x[4];
  slimSignedVector code[4];
  for (uint32_t t = 0; t < 4; t++) {
    x[t] = slimLoad(v, t * SLIM_LANES) * p * up;
    const slimVector a = slimAbs(x[t]);
    const slimBitsVector power = slimLarger((slimBitsVector)a, slimAllBits(smallest)) & 0x7f800000u;
    const slimBitsVector align = power + (shift << 23);
    code[t] = (slimSignedVector)((slimBitsVector)(a + (slimVector)align) - align + (power >> shift));
  }
  slimStoreSignedBytes(out, x, code, (int32_t)(smallest >> shift));
}
/* A vector of fp16 as floats; of fp8 (e5m2 has fp16's exponent; no code that encode sends has its largest). */
static inline slimVector slimHalfFloats(slimHalfVector h) {
#if defined(__AVX512F__)
  return (slimVector)_mm512_cvtph_ps((__m256i)h);
#elif defined(__F16C__)
  return (slimVector)_mm256_cvtph_ps((__m128i)h);
#else
  slimVector x;
  for (uint32_t j = 0; j < SLIM_LANES; j++) x[j] = slimFromHalf((uint16_t)h[j]);
  return x;
#endif
}
static inline slimVector slimE5m2At(const void* codes, size_t i) {
  return slimHalfFloats(slimSignedBytesAt(codes, i) << 8);
}
/* e4m3 divided by 2^8, which are fp16's exponents. */
static inline slimVector slimE4m3At(const void* codes, size_t i) {
  return slimHalfFloats((slimSignedBytesAt(codes, i) << 7) & (int16_t)0xbf80);
}
#endif

#endif
