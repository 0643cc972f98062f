/* What nvcc gives to a .cu file, for g++: force-included (-include) in front of the kernels, which are then ordinary
 * C++ functions that tests/simgpu/engine.cc runs, one fibre a thread. Kernels keep to a few rules (README.md): extern
 * "C", dynamic shared memory by SLIM_DYN_SHARED, __shared__ only inside functions and uninitialised. */
#ifndef SLIM_SIMGPU_DEVICE_H_
#define SLIM_SIMGPU_DEVICE_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <type_traits>

#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#undef __noinline__
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
/* Blocks run one at a time, so static storage serves; the section's bounds tell shared memory from other data. */
#define __shared__ static __attribute__((section("simgpu_shared")))
#define SLIM_DYN_SHARED(T, name) T* name = (T*)simDynamicShared()

/* ---- Where a thread is: constant as long as it lives, so that the compiler asks once ----------------------------- */

#define SIM_CONST __attribute__((const))
uint3 simThreadIdx() SIM_CONST;
uint3 simBlockIdx() SIM_CONST;
dim3 simBlockDim() SIM_CONST;
dim3 simGridDim() SIM_CONST;
void* simDynamicShared() SIM_CONST;
#define threadIdx simThreadIdx()
#define blockIdx simBlockIdx()
#define blockDim simBlockDim()
#define gridDim simGridDim()
#define warpSize 32

/* ---- Barriers, votes, shuffles: the line is part of the report where threads meet at different ones -------------- */

enum simWarpOp {
  simSyncwarp,
  simShuffle, /* argument: the lane to read */
  simBallot,
  simAdd,
  simMinSigned,
  simMaxSigned,
  simMinUnsigned,
  simMaxUnsigned,
  simAnd,
  simOr,
  simXor,
};
enum simVote { simNone, simCount, simAll, simAny };
#define SIM_LINE int line = __builtin_LINE()
int simBarrier(simVote vote, int predicate, int line);
uint64_t simWarp(simWarpOp op, unsigned mask, uint64_t value, unsigned argument, int line);
unsigned simLane();

static inline void __syncthreads(SIM_LINE) { simBarrier(simNone, 0, line); }
static inline int __syncthreads_count(int p, SIM_LINE) { return simBarrier(simCount, p, line); }
static inline int __syncthreads_and(int p, SIM_LINE) { return simBarrier(simAll, p, line); }
static inline int __syncthreads_or(int p, SIM_LINE) { return simBarrier(simAny, p, line); }
static inline void __syncwarp(unsigned mask = ~0u, SIM_LINE) { simWarp(simSyncwarp, mask, 0, 0, line); }

static inline unsigned __ballot_sync(unsigned mask, int p, SIM_LINE) {
  return (unsigned)simWarp(simBallot, mask, !!p, 0, line);
}
static inline int __any_sync(unsigned mask, int p, SIM_LINE) { return __ballot_sync(mask, p, line) != 0; }
static inline int __all_sync(unsigned mask, int p, SIM_LINE) { return !__ballot_sync(mask, !p, line); }

/* Of int or unsigned. */
#define SIM_REDUCE(name, isSigned, isUnsigned)                       \
  static inline int name(unsigned mask, int v, SIM_LINE) {           \
    return (int)simWarp(isSigned, mask, (uint64_t)v, 0, line);       \
  }                                                                  \
  static inline unsigned name(unsigned mask, unsigned v, SIM_LINE) { \
    return (unsigned)simWarp(isUnsigned, mask, v, 0, line);          \
  }
SIM_REDUCE(__reduce_add_sync, simAdd, simAdd)
SIM_REDUCE(__reduce_min_sync, simMinSigned, simMinUnsigned)
SIM_REDUCE(__reduce_max_sync, simMaxSigned, simMaxUnsigned)
#undef SIM_REDUCE
static inline unsigned __reduce_and_sync(unsigned mask, unsigned v, SIM_LINE) {
  return (unsigned)simWarp(simAnd, mask, v, 0, line);
}
static inline unsigned __reduce_or_sync(unsigned mask, unsigned v, SIM_LINE) {
  return (unsigned)simWarp(simOr, mask, v, 0, line);
}
static inline unsigned __reduce_xor_sync(unsigned mask, unsigned v, SIM_LINE) {
  return (unsigned)simWarp(simXor, mask, v, 0, line);
}

template <typename T>
static inline T simShuffleFrom(unsigned mask, T value, unsigned lane, int line) {
  static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof value);
  bits = simWarp(simShuffle, mask, bits, lane, line);
  __builtin_memcpy((void*)&value, &bits, sizeof value);
  return value;
}
template <typename T>
static inline T __shfl_sync(unsigned mask, T v, int from, unsigned width = 32, SIM_LINE) {
  return simShuffleFrom(mask, v, (simLane() & ~(width - 1)) | ((unsigned)from & (width - 1)), line);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T v, unsigned delta, unsigned width = 32, SIM_LINE) {
  const unsigned lane = simLane();
  return simShuffleFrom(mask, v, (lane & (width - 1)) < delta ? lane : lane - delta, line);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T v, unsigned delta, unsigned width = 32, SIM_LINE) {
  const unsigned lane = simLane();
  return simShuffleFrom(mask, v, (lane & (width - 1)) + delta >= width ? lane : lane + delta, line);
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T v, int bits, unsigned width = 32, SIM_LINE) {
  const unsigned lane = simLane(), from = (unsigned)bits ^ lane;
  return simShuffleFrom(mask, v, from >= (lane & ~(width - 1)) + width ? lane : from, line);
}

void simFence();
static inline void __threadfence() { simFence(); }
static inline void __threadfence_system() { simFence(); }
static inline void __threadfence_block() {}
void __trap() __attribute__((noreturn));

/* ---- Atomics: only one block runs at any time, and a fibre is never interrupted; the engine checks the address --- */

void simAtomic(const void* p, unsigned bytes);

#define SIM_ATOMIC_ __attribute__((no_sanitize("thread"), noinline)) static
template <typename T, typename Operation>
SIM_ATOMIC_ T simUpdate(T* p, Operation f) {
  simAtomic(p, sizeof(T));
  const T old = *p;
  *p = f(old);
  return old;
}
#define SIM_UPDATE(name, type, expression)                                                     \
  static inline type name(type* p, type v) {                                                   \
    return simUpdate(                                                                          \
        p, [v](type old) __attribute__((no_sanitize("thread")))->type { return expression; }); \
  }                                                                                            \
  static inline type name##_block(type* p, type v) { return name(p, v); }                      \
  static inline type name##_system(type* p, type v) { return name(p, v); }
#define SIM_UPDATE_INTEGERS(name, expression) \
  SIM_UPDATE(name, int, expression)           \
  SIM_UPDATE(name, unsigned, expression)      \
  SIM_UPDATE(name, unsigned long long, expression)
SIM_UPDATE_INTEGERS(atomicAdd, old + v)
SIM_UPDATE(atomicAdd, float, old + v)
SIM_UPDATE(atomicAdd, double, old + v)
SIM_UPDATE(atomicSub, int, old - v)
SIM_UPDATE(atomicSub, unsigned, old - v)
SIM_UPDATE_INTEGERS(atomicMin, v < old ? v : old)
SIM_UPDATE(atomicMin, long long, v < old ? v : old)
SIM_UPDATE_INTEGERS(atomicMax, v > old ? v : old)
SIM_UPDATE(atomicMax, long long, v > old ? v : old)
SIM_UPDATE_INTEGERS(atomicAnd, old& v)
SIM_UPDATE_INTEGERS(atomicOr, old | v)
SIM_UPDATE_INTEGERS(atomicXor, old ^ v)
SIM_UPDATE_INTEGERS(atomicExch, (void(old), v))
SIM_UPDATE(atomicExch, float, (void(old), v))
SIM_UPDATE(atomicInc, unsigned, old >= v ? 0 : old + 1)
SIM_UPDATE(atomicDec, unsigned, old == 0 || old > v ? v : old - 1)
#undef SIM_UPDATE_INTEGERS
#undef SIM_UPDATE
template <typename T>
SIM_ATOMIC_ T simCompareAndSwap(T* p, T expected, T v) {
  simAtomic(p, sizeof(T));
  const T old = *p;
  if (old == expected) *p = v;
  return old;
}
#define SIM_CAS(type) \
  static inline type atomicCAS(type* p, type expected, type v) { return simCompareAndSwap(p, expected, v); }
SIM_CAS(int)
SIM_CAS(unsigned)
SIM_CAS(unsigned long long)
SIM_CAS(unsigned short)
#undef SIM_CAS
#undef SIM_ATOMIC_

/* ---- Integers ---------------------------------------------------------------------------------------------------- */

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __brev(unsigned x) {
  x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
  x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
  x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
  return __builtin_bswap32(x);
}
static inline unsigned long long __brevll(unsigned long long x) {
  return (unsigned long long)__brev((unsigned)x) << 32 | __brev((unsigned)(x >> 32));
}
/* Selector nibbles 0 … 7 choose a byte of y:x; bit 3 of a nibble replicates the byte's sign. */
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = (uint64_t)y << 32 | x;
  unsigned r = 0;
  for (unsigned i = 0; i < 4; i++) {
    const unsigned s = selector >> 4 * i & 15, b = (unsigned)(bytes >> 8 * (s & 7)) & 255;
    r |= (s & 8 ? (b & 128 ? 255u : 0u) : b) << 8 * i;
  }
  return r;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)(((uint64_t)high << 32 | low) << (shift & 31) >> 32);
}
static inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned shift) {
  return shift >= 32 ? low : __funnelshift_l(low, high, shift);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
}
static inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned shift) {
  return shift >= 32 ? high : __funnelshift_r(low, high, shift);
}
static inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
static inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffff) * (b & 0xffffff); }

#define SIM_MIN_MAX(type)                                          \
  static inline type min(type a, type b) { return b < a ? b : a; } \
  static inline type max(type a, type b) { return a < b ? b : a; }
SIM_MIN_MAX(int)
SIM_MIN_MAX(unsigned)
SIM_MIN_MAX(long)
SIM_MIN_MAX(unsigned long)
SIM_MIN_MAX(long long)
SIM_MIN_MAX(unsigned long long)
#undef SIM_MIN_MAX
/* As PTX: the number where one operand is NaN, and −0 < +0, which the C library leaves open. */
static inline float simMin(float a, float b) { return a != a ? b : b != b || a < b || (a == b && signbit(a)) ? a : b; }
static inline float simMax(float a, float b) { return a != a ? b : b != b || a > b || (a == b && signbit(b)) ? a : b; }
static inline double simMin(double a, double b) {
  return a != a ? b : b != b || a < b || (a == b && signbit(a)) ? a : b;
}
static inline double simMax(double a, double b) {
  return a != a ? b : b != b || a > b || (a == b && signbit(b)) ? a : b;
}
#define fminf(a, b) simMin((float)(a), (float)(b))
#define fmaxf(a, b) simMax((float)(a), (float)(b))
#define fmin(a, b) simMin((double)(a), (double)(b))
#define fmax(a, b) simMax((double)(a), (double)(b))
static inline float min(float a, float b) { return simMin(a, b); }
static inline float max(float a, float b) { return simMax(a, b); }
static inline double min(double a, double b) { return simMin(a, b); }
static inline double max(double a, double b) { return simMax(a, b); }

/* ---- Floating point: IEEE with subnormals, and no contraction (-ffp-contract=off here, -fmad=false there) -------- */

template <typename To, typename From>
static inline To simCast(From x) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}
static inline int __float_as_int(float x) { return simCast<int>(x); }
static inline unsigned __float_as_uint(float x) { return simCast<unsigned>(x); }
static inline float __int_as_float(int x) { return simCast<float>(x); }
static inline float __uint_as_float(unsigned x) { return simCast<float>(x); }
static inline long long __double_as_longlong(double x) { return simCast<long long>(x); }
static inline double __longlong_as_double(long long x) { return simCast<double>(x); }
static inline int __double2hiint(double x) { return (int)(simCast<uint64_t>(x) >> 32); }
static inline int __double2loint(double x) { return (int)simCast<uint64_t>(x); }
static inline double __hiloint2double(int high, int low) {
  return simCast<double>((uint64_t)(unsigned)high << 32 | (unsigned)low);
}

static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return sqrt(a); }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }

/* Conversions to integers saturate, and NaN becomes 0 (64-bit results: the most negative, as the hardware does). */
template <typename To, typename From>
static inline To simToInteger(From x) {
  const From top = ldexp((From)1, (int)(8 * sizeof(To)) - (std::is_signed<To>::value ? 1 : 0));
  const To least = std::is_signed<To>::value ? (To)((uint64_t)1 << (8 * sizeof(To) - 1)) : (To)0;
  if (x != x) return sizeof(To) == 8 ? (To)((uint64_t)1 << 63) : (To)0;
  if (x >= top) return (To)~least;
  if (x < (std::is_signed<To>::value ? -top : (From)0)) return least;
  return (To)x;
}
#define SIM_TO_INTEGER(name, To, From)                                                              \
  static inline To name##_rn(From x) { return simToInteger<To>((From)__builtin_rint((double)x)); }  \
  static inline To name##_rz(From x) { return simToInteger<To>((From)__builtin_trunc((double)x)); } \
  static inline To name##_rd(From x) { return simToInteger<To>((From)__builtin_floor((double)x)); } \
  static inline To name##_ru(From x) { return simToInteger<To>((From)__builtin_ceil((double)x)); }
SIM_TO_INTEGER(__float2int, int, float)
SIM_TO_INTEGER(__float2uint, unsigned, float)
SIM_TO_INTEGER(__float2ll, long long, float)
SIM_TO_INTEGER(__float2ull, unsigned long long, float)
SIM_TO_INTEGER(__double2int, int, double)
SIM_TO_INTEGER(__double2uint, unsigned, double)
SIM_TO_INTEGER(__double2ll, long long, double)
SIM_TO_INTEGER(__double2ull, unsigned long long, double)
#undef SIM_TO_INTEGER
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline float __ll2float_rn(long long x) { return (float)x; }
static inline float __ull2float_rn(unsigned long long x) { return (float)x; }
static inline float __double2float_rn(double x) { return (float)x; }
static inline double __int2double_rn(int x) { return (double)x; }
static inline double __uint2double_rn(unsigned x) { return (double)x; }
static inline double __ll2double_rn(long long x) { return (double)x; }
static inline double __ull2double_rn(unsigned long long x) { return (double)x; }

/* ---- Memory: cache hints mean nothing here; memcpy and memset of a length that is not small and constant are checked
 */

#define SIM_LOAD(name)               \
  template <typename T>              \
  static inline T name(const T* p) { \
    return *p;                       \
  }
SIM_LOAD(__ldg)
SIM_LOAD(__ldca)
SIM_LOAD(__ldcg)
SIM_LOAD(__ldcs)
SIM_LOAD(__ldcv)
SIM_LOAD(__ldlu)
#undef SIM_LOAD
#define SIM_STORE(name)                                               \
  template <typename T>                                               \
  static inline void name(T* p, typename std::remove_cv<T>::type v) { \
    *p = v;                                                           \
  }
SIM_STORE(__stwb)
SIM_STORE(__stcg)
SIM_STORE(__stcs)
SIM_STORE(__stwt)
#undef SIM_STORE

void* simMemcpy(void* to, const void* from, size_t bytes);
void* simMemset(void* to, int byte, size_t bytes);
#define memcpy(to, from, bytes)                                                              \
  (__builtin_constant_p(bytes) && (bytes) <= 16 ? __builtin_memcpy((void*)(to), from, bytes) \
                                                : simMemcpy((void*)(to), from, bytes))
#define memset(to, byte, bytes) simMemset((void*)(to), byte, bytes)

#endif
