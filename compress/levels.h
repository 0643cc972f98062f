/* Where the truncated codecs (tqsgd, tbqsgd, tnqsgd) put their levels: computed once, when a spec is compiled. */
#ifndef SLIM_COMPRESS_LEVELS_H_
#define SLIM_COMPRESS_LEVELS_H_

#include "compress/node.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Tables of model=powerlaw: number 32·m + e is for the exponent 3 + (e + 1)/16 and the (two-sided) tail mass
 * 2^(−2 − m/2). */
enum { SLIM_POWER_EXPONENTS = 32, SLIM_POWER_MASSES = 8, SLIM_POWER_TABLES = SLIM_POWER_EXPONENTS * SLIM_POWER_MASSES };

/* The h = 2^(bits − 1) positive levels, ascending; level j is number h + j of all 2^bits. The largest one is the
 * threshold, which suits the mean over `workers` ranks. op: the codec. format.md §5, docs/papers.md. */

/* Values of a Laplace density of mean magnitude 1 (arXiv 2402.01160); tqsgd or tnqsgd. */
void slimLaplaceLevels(slimOp op, uint32_t bits, double workers, float* levels);
/* A power-law tail beyond 1, evenly spread values below (arXiv 2402.01798). */
void slimPowerLevels(slimOp op, uint32_t bits, double workers, uint32_t table, float* levels);

#ifdef __cplusplus
}
#endif
#endif
