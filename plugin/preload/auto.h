/* auto(spec): compress only where it is faster. Measured, not modelled: once per communicator and spec, plain and
 * compressed sums of two sizes are timed, and a line through each tells the time of every other size. */
#ifndef SLIM_AUTO_H_
#define SLIM_AUTO_H_

#include "compress/compress.h"
#include "plugin/slimccl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The library's own sum over the communicator's ranks, in place. */
typedef slimResult_t (*slimPlainSum)(void* context, float* values, size_t n);

/* Seconds of a sum of b bytes: start + perByte·b; the same on all ranks. */
typedef struct {
  double plainStart, plainPerByte, slimStart, slimPerByte;
} slimAutoModel;

/* All ranks of comm together. spec: without feedback; slot: unused so far. */
slimResult_t slimAutoMeasure(slimAutoModel* model, slimComm_t comm, const char* spec, uint32_t slot, slimPlainSum plain,
                             void* context);
/* Compressed is the faster one for a tensor of bytes, by more than what timing can tell. */
bool slimAutoCompresses(const slimAutoModel* model, uint64_t bytes);
/* The smallest tensor that is compressed, in bytes; UINT64_MAX: none. */
uint64_t slimAutoThreshold(const slimAutoModel* model);

#ifdef __cplusplus
}
#endif
#endif
