#include "collectives/sum.h"

#include "compress/fpenv.h"

#include <string.h>

enum { tile = 512 }; /* elements that stay in the first-level cache while all ranks' are added */

static uint64_t tileOf(uint64_t n, uint64_t i) { return n - i < tile ? n - i : tile; }

void slimSumFloats(const float* const* src, int ranks, uint64_t n, float* dst) {
  const slimFpState state = slimFpEnter();
  float sum[tile];
  for (uint64_t i = 0; i < n; i += tile) {
    const uint64_t m = tileOf(n, i);
    for (uint64_t j = 0; j < m; j++) sum[j] = 0.0f + src[0][i + j];
    for (int r = 1; r < ranks; r++)
      for (uint64_t j = 0; j < m; j++) sum[j] += src[r][i + j];
    memcpy(dst + i, sum, m * sizeof *sum);
  }
  slimFpLeave(state);
}

/* One step of op on a tile: a ← a op b. U: the type in which sums and products may wrap. */
#define COMBINE(T, U)                                                                      \
  static void combine_##T(slimRedOp_t op, T* a, const T* b, uint64_t n) {                  \
    switch (op) {                                                                          \
      case slimSum:                                                                        \
      case slimAvg:                                                                        \
        for (uint64_t j = 0; j < n; j++) a[j] = (T)((U)a[j] + (U)b[j]);                    \
        break;                                                                             \
      case slimProd:                                                                       \
        for (uint64_t j = 0; j < n; j++) a[j] = (T)((U)a[j] * (U)b[j]);                    \
        break;                                                                             \
      case slimMax:                                                                        \
        for (uint64_t j = 0; j < n; j++) a[j] = b[j] > a[j] || b[j] != b[j] ? b[j] : a[j]; \
        break;                                                                             \
      case slimMin:                                                                        \
        for (uint64_t j = 0; j < n; j++) a[j] = b[j] < a[j] || b[j] != b[j] ? b[j] : a[j]; \
        break;                                                                             \
    }                                                                                      \
  }
#define COMBINE_ALL(T, U, AVERAGE)                                                                \
  COMBINE(T, U)                                                                                   \
  static void all_##T(slimRedOp_t op, const void* const* src, int ranks, uint64_t n, void* dst) { \
    T a[tile];                                                                                    \
    for (uint64_t i = 0; i < n; i += tile) {                                                      \
      const uint64_t m = tileOf(n, i);                                                            \
      memcpy(a, (const T*)src[0] + i, m * sizeof *a);                                             \
      for (int r = 1; r < ranks; r++) combine_##T(op, a, (const T*)src[r] + i, m);                \
      if (op == slimAvg)                                                                          \
        for (uint64_t j = 0; j < m; j++) AVERAGE;                                                 \
      memcpy((T*)dst + i, a, m * sizeof *a);                                                      \
    }                                                                                             \
  }
#define INTEGER(T, U) COMBINE_ALL(T, U, a[j] = (T)(a[j] / (T)ranks))
INTEGER(int8_t, uint32_t)
INTEGER(uint8_t, uint32_t)
INTEGER(int32_t, uint32_t)
INTEGER(uint32_t, uint32_t)
INTEGER(int64_t, uint64_t)
INTEGER(uint64_t, uint64_t)
COMBINE_ALL(float, float, a[j] *= 1.0f / (float)ranks)
COMBINE_ALL(double, double, a[j] *= 1.0 / (double)ranks)

static void allHalf(slimDataType_t type, slimRedOp_t op, const void* const* src, int ranks, uint64_t n, void* dst) {
  float a[tile], b[tile];
  const size_t size = slimTypeBytes(type);
  for (uint64_t i = 0; i < n; i += tile) {
    const uint64_t m = tileOf(n, i);
    slimToReal(type, (const char*)src[0] + i * size, m, a);
    for (int r = 1; r < ranks; r++) {
      slimToReal(type, (const char*)src[r] + i * size, m, b);
      combine_float(op, a, b, m);
    }
    slimFromReal(type, a, m, op == slimAvg ? 1.0 / ranks : 1.0, (char*)dst + i * size);
  }
}

void slimCombine(slimDataType_t type, slimRedOp_t op, const void* const* src, int ranks, uint64_t n, void* dst) {
  const slimFpState state = slimFpEnter();
  switch (type) {
    case slimInt8:
      all_int8_t(op, src, ranks, n, dst);
      break;
    case slimUint8:
      all_uint8_t(op, src, ranks, n, dst);
      break;
    case slimInt32:
      all_int32_t(op, src, ranks, n, dst);
      break;
    case slimUint32:
      all_uint32_t(op, src, ranks, n, dst);
      break;
    case slimInt64:
      all_int64_t(op, src, ranks, n, dst);
      break;
    case slimUint64:
      all_uint64_t(op, src, ranks, n, dst);
      break;
    case slimFloat32:
      all_float(op, src, ranks, n, dst);
      break;
    case slimFloat64:
      all_double(op, src, ranks, n, dst);
      break;
    case slimFloat16:
    case slimBfloat16:
      allHalf(type, op, src, ranks, n, dst);
      break;
  }
  slimFpLeave(state);
}
