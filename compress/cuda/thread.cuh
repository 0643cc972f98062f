/* What block.cuh and warp.cuh have in common: a team of threads, slimThreads() of them, that share a unit. All threads
 * of a team come by, with the same arguments. Vectors have one lane. */
#ifndef SLIM_COMPRESS_CUDA_THREAD_CUH_
#define SLIM_COMPRESS_CUDA_THREAD_CUH_

#ifdef __CUDACC__
#define SLIM_UNROLL _Pragma("unroll")
#define SLIM_ROLLED _Pragma("unroll 1")
#define SLIM_TWOFOLD _Pragma("unroll 2")
#else
#define SLIM_UNROLL
#define SLIM_ROLLED
#define SLIM_TWOFOLD
#endif

SLIM_FN uint32_t slimLog2(uint32_t powerOfTwo) { return 31u - (uint32_t)__clz((int)powerOfTwo); }

/* n things in memory, dealt out. */
#define SLIM_SHARE(i, n) for (uint32_t i = slimThread(); i < (n); i += slimThreads())

/* ---- Vectors of one lane ---------------------------------------------------------------------------------------- */

#define SLIM_LANES 1
typedef float slimVector;
typedef uint32_t slimBitsVector;
typedef int32_t slimSignedVector;
SLIM_FN slimVector slimLoad(const float* v, uint32_t i) { return v[i]; }
SLIM_FN void slimStore(float* v, uint32_t i, slimVector x) { v[i] = x; }
SLIM_FN slimVector slimAbs(slimVector x) { return slimFloat(slimBits(x) & 0x7fffffffu); }
SLIM_FN slimVector slimAsVector(slimBitsVector x) { return slimFloat(x); }
SLIM_FN slimBitsVector slimAllBits(uint32_t x) { return x; }
SLIM_FN slimVector slimFlipped(slimVector x, slimBitsVector signs) { return slimFloat(slimBits(x) ^ signs); }
SLIM_FN slimBitsVector slimSignsOf(uint32_t stream, uint32_t j) { return stream << (31 - j) & 0x80000000u; }
SLIM_FN slimSignedVector slimBytesAt(const void* codes, uint32_t i) { return ((const uint8_t*)codes)[i]; }
SLIM_FN slimSignedVector slimHalvesAt(const void* codes, uint32_t i) { return ((const uint16_t*)codes)[i]; }
SLIM_FN slimVector slimToFloats(slimSignedVector x) { return (float)x; }
SLIM_FN slimVector slimAll(float x) { return x; }
SLIM_FN slimVector slimExactMulAdd(slimVector a, slimVector b, slimVector c) { return fmaf(a, b, c); }

/* ---- Atomics: the only ones there are -----------------------------------------------------------------------------
 */

SLIM_FN void slimAtomicAdd(uint32_t* at, uint32_t x) { atomicAdd((unsigned*)at, x); }
SLIM_FN void slimAtomicAnd(uint32_t* at, uint32_t x) { atomicAnd((unsigned*)at, x); }
SLIM_FN void slimAtomicOr(uint32_t* at, uint32_t x) { atomicOr((unsigned*)at, x); }
SLIM_FN void slimAtomicMax(uint64_t* at, uint64_t x) { atomicMax((unsigned long long*)at, (unsigned long long)x); }
SLIM_FN void slimAtomicCount(uint64_t* at, uint64_t x) { atomicAdd((unsigned long long*)at, (unsigned long long)x); }
SLIM_FN void slimAtomicSum(double* at, double x) { atomicAdd(at, x); }

/* ---- Copies ----------------------------------------------------------------------------------------------------- */

SLIM_FN bool slimIsAligned(const void* a, const void* b, uint32_t bytes, uint32_t to) {
  return (((uint32_t)(uintptr_t)a | (uint32_t)(uintptr_t)b | bytes) & (to - 1)) == 0;
}
/* From or to other memory, 16 bytes at a time where all is aligned. */
SLIM_FN void slimCopy(void* restrict to, const void* restrict from, uint32_t bytes) {
  slimSync();
  if (slimIsAligned(to, from, bytes, 16))
    SLIM_SHARE(i, bytes / 16)((uint4*)to)[i] = ((const uint4*)from)[i];
  else if (slimIsAligned(to, from, bytes, 4))
    SLIM_SHARE(i, bytes / 4)((uint32_t*)to)[i] = ((const uint32_t*)from)[i];
  else
    SLIM_SHARE(i, bytes)((uint8_t*)to)[i] = ((const uint8_t*)from)[i];
  slimSync();
}
SLIM_FN void slimZero(void* to, uint32_t bytes) {
  slimSync();
  if (slimIsAligned(to, to, bytes, 4))
    SLIM_SHARE(i, bytes / 4)((uint32_t*)to)[i] = 0;
  else
    SLIM_SHARE(i, bytes)((uint8_t*)to)[i] = 0;
  slimSync();
}
/* Into the second cache, the line that p is in. */
SLIM_FN void slimFetch(const void* p) {
#ifdef __CUDACC__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(p)));
#else
  (void)p; /* the stand-in has no caches */
#endif
}
/* Of what is not soon read again. */
SLIM_FN void slimPutStream(uint4* to, uint4 x) {
#ifdef __CUDACC__
  __stcs(to, x);
#else
  *to = x;
#endif
}
SLIM_FN void slimStoreByte(uint8_t* out, uint8_t x) {
  if (slimThread() == 0) *out = x;
}
SLIM_FN void slimStoreFloat(uint8_t* out, float x) {
  if (slimThread() == 0) *(float*)(void*)out = x;
}

/* ---- Draws ------------------------------------------------------------------------------------------------------ */

SLIM_FN uint4 slimPhiloxAt(uint32_t c0, const uint32_t counter[3], const uint32_t key[2]) {
  uint32_t x0 = c0, x1 = counter[0], x2 = counter[1], x3 = counter[2], k0 = key[0], k1 = key[1];
  SLIM_UNROLL
  for (int round = 0; round < 7; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    /* not as products of 64 bits: the compiler goes on with all 64 */
    const uint32_t a = x0 * 0xD2511F53u, aHigh = __umulhi(x0, 0xD2511F53u);
    const uint32_t b = x2 * 0xCD9E8D57u, bHigh = __umulhi(x2, 0xCD9E8D57u);
    x0 = bHigh ^ x1 ^ k0;
    x1 = b;
    x2 = aHigh ^ x3 ^ k1;
    x3 = a;
  }
  return make_uint4(x0, x1, x2, x3);
}
SLIM_FN uint4 slimDrawAt(const slimDraw* draw, uint32_t kind, uint32_t branch, bool shared, uint32_t c0) {
  const uint32_t rank = shared ? (uint32_t)SLIM_RANK_SHARED : draw->rank;
  const uint32_t purpose = kind + 8 * branch + 64 * (shared ? 0 : draw->direction);
  const uint32_t counter[3] = {draw->slot, draw->step, rank | purpose << 24};
  return slimPhiloxAt(c0, counter, draw->key);
}
SLIM_FN uint32_t slimDrawWord(const slimDraw* draw, uint32_t kind, uint32_t branch, bool shared, uint64_t e) {
  const uint4 w = slimDrawAt(draw, kind, branch, shared, (uint32_t)(e / 4));
  const uint32_t at = (uint32_t)e % 4;
  return at == 0 ? w.x : at == 1 ? w.y : at == 2 ? w.z : w.w;
}

/* ---- Bit streams ------------------------------------------------------------------------------------------------ */

/* Any n; of up to 16 bits. */
SLIM_FN void slimPackWide(uint8_t* out, const uint16_t* codes, uint32_t n, uint32_t bits) {
  slimSync();
  SLIM_SHARE(g, (n + 7) / 8) {
    const uint32_t last = n - 8 * g < 8 ? n - 8 * g : 8;
    uint8_t* to = out + g * bits;
    uint32_t acc = 0, have = 0;
    for (uint32_t j = 0; j < last; j++) {
      acc |= (uint32_t)codes[8 * g + j] << have;
      for (have += bits; have >= 8; have -= 8, acc >>= 8) *to++ = (uint8_t)acc;
    }
    if (have) *to = (uint8_t)acc;
  }
  slimSync();
}
SLIM_FN void slimUnpackWide(uint16_t* codes, const uint8_t* in, uint32_t n, uint32_t bits) {
  slimSync();
  SLIM_SHARE(g, (n + 7) / 8) {
    const uint32_t last = n - 8 * g < 8 ? n - 8 * g : 8;
    const uint8_t* from = in + g * bits;
    uint32_t acc = 0, have = 0;
    for (uint32_t j = 0; j < last; j++) {
      for (; have < bits; have += 8) acc |= (uint32_t)*from++ << have;
      codes[8 * g + j] = (uint16_t)(acc & ((1u << bits) - 1));
      acc >>= bits;
      have -= bits;
    }
  }
  slimSync();
}

#endif
