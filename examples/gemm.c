#include "examples/gemm.h"

enum { blockColumns = 256 }; /* so many columns of b stay in the second-level cache while all rows of a pass by */

/* A tile of `rows` × 2 vectors is summed in registers, over the whole depth k. At the right and lower edge the last
 * tile overlaps the one before it. */
#define DEFINE_GEMM(name, attributes, lanes, rows)                                                           \
  typedef float name##Vector __attribute__((vector_size(4 * (lanes)), aligned(4), may_alias));               \
  attributes static void name(int m, int n, int k, const float* a, size_t aRow, size_t aCol, const float* b, \
                              size_t rowB, float* c, size_t rowC) {                                          \
    const int tile = 2 * (lanes);                                                                            \
    for (int block = 0; block < n; block += blockColumns) {                                                  \
      const int end = block + blockColumns < n ? block + blockColumns : n;                                   \
      for (int row = 0; row < m; row += (rows)) {                                                            \
        const int i = row + (rows) <= m ? row : m - (rows);                                                  \
        for (int column = block; column < end; column += tile) {                                             \
          const int j = column + tile <= n ? column : n - tile;                                              \
          const float *x = a + (size_t)i * aRow, *y = b + j;                                                 \
          name##Vector sum[rows][2] = {{{0}}};                                                               \
          for (int p = 0; p < k; p++, x += aCol, y += rowB) {                                                \
            const name##Vector left = *(const name##Vector*)y, right = *(const name##Vector*)(y + (lanes));  \
            _Pragma("GCC unroll 8") for (int r = 0; r < (rows); r++) {                                       \
              sum[r][0] += left * x[(size_t)r * aRow];                                                       \
              sum[r][1] += right * x[(size_t)r * aRow];                                                      \
            }                                                                                                \
          }                                                                                                  \
          _Pragma("GCC unroll 8") for (int r = 0; r < (rows); r++) {                                         \
            float* out = c + (size_t)(i + r) * rowC + j;                                                     \
            *(name##Vector*)out = sum[r][0];                                                                 \
            *(name##Vector*)(out + (lanes)) = sum[r][1];                                                     \
          }                                                                                                  \
        }                                                                                                    \
      }                                                                                                      \
    }                                                                                                        \
  }

DEFINE_GEMM(gemmBaseline, , 4, 4)
#if defined(__x86_64__)
DEFINE_GEMM(gemmAvx2, __attribute__((target("avx2,fma"))), 8, 6)
DEFINE_GEMM(gemmAvx512, __attribute__((target("avx512f,fma"))), 16, 8)
#endif

/* Any size; for matrices that are smaller than a tile. */
static void gemmSmall(int m, int n, int k, const float* a, size_t aRow, size_t aCol, const float* b, size_t rowB,
                      float* c, size_t rowC) {
  for (int i = 0; i < m; i++) {
    float* out = c + (size_t)i * rowC;
    for (int j = 0; j < n; j++) out[j] = 0;
    for (int p = 0; p < k; p++) {
      const float x = a[(size_t)i * aRow + (size_t)p * aCol], *y = b + (size_t)p * rowB;
      for (int j = 0; j < n; j++) out[j] += x * y[j];
    }
  }
}

void gemm(int m, int n, int k, const float* a, size_t aRow, size_t aCol, const float* b, size_t rowB, float* c,
          size_t rowC) {
#if defined(__x86_64__)
  if (m >= 8 && n >= 32 && __builtin_cpu_supports("avx512f")) {
    gemmAvx512(m, n, k, a, aRow, aCol, b, rowB, c, rowC);
    return;
  }
  if (m >= 6 && n >= 16 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    gemmAvx2(m, n, k, a, aRow, aCol, b, rowB, c, rowC);
    return;
  }
#endif
  if (m >= 4 && n >= 8) {
    gemmBaseline(m, n, k, a, aRow, aCol, b, rowB, c, rowC);
  } else {
    gemmSmall(m, n, k, a, aRow, aCol, b, rowB, c, rowC);
  }
}
