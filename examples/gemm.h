/* A matrix product for the examples: blocked, in registers, for the instruction set of the machine that runs it. */
#ifndef SLIMCCL_EXAMPLES_GEMM_H_
#define SLIMCCL_EXAMPLES_GEMM_H_

#include <stddef.h>

/* c = a·b with a of m × k, b of k × n and c of m × n. Element (i, p) of a stands at a[i·aRow + p·aCol], so that a may
 * be a transposed view; rows of b and c are contiguous, rowB and rowC apart. c overlaps neither a nor b. */
void gemm(int m, int n, int k, const float* a, size_t aRow, size_t aCol, const float* b, size_t rowB, float* c,
          size_t rowC);

#endif
