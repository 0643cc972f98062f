/* auto(spec): plain, or compressed by the algorithm that is the fastest. Measured, not modelled: for a communicator and
 * a spec sums of two sizes are timed in every way, and a line through each tells the time of every other size. */
#ifndef SLIM_AUTO_H_
#define SLIM_AUTO_H_

#include "collectives/comm.h"
#include "plugin/slimccl.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The library's own sum over the communicator's ranks, in place. */
typedef slimResult_t (*slimPlainSum)(void* context, float* values, size_t n);

/* Seconds of a sum of b bytes in fp32: start + perByte·b. */
typedef struct {
  bool possible;
  double start, perByte;
} slimAutoLine;

/* Ways are algorithms, and in place of slimAlgorithmAuto plain. The lines are the same on all ranks. */
enum { slimAutoPlain = slimAlgorithmAuto, slimAutoWays = slimAlgorithmLinear + 1 };
typedef struct {
  slimAutoLine line[slimAutoWays];
} slimAutoModel;

/* What is to be measured, of one communicator. */
typedef struct {
  slimComm_t comm;
  const char* spec;   /* without feedback */
  uint32_t slot;      /* unused so far */
  slimPlainSum plain; /* NULL: the transport's */
  void* context;
  slimAutoModel model; /* what comes out; nothing is possible where it could not be measured: slimAutoChoose is plain */
  char why[256];       /* then */
} slimAutoJob;

/* All ranks of each communicator together; those of one thread side by side. */
void slimAutoMeasure(slimAutoJob* jobs, int n);

enum { slimAutoSmallest = 1 << 14 }; /* elements of the smallest sum that is timed */
/* The fastest way for so many elements; compressed only where that is faster by more than what timing can tell. Plain
 * time goes by bytes, compressed time by elements. Smaller ones than the smallest that was timed are compressed only
 * where that one is. */
int slimAutoChoose(const slimAutoModel* model, slimDataType_t type, uint64_t elements);
/* From how many elements on, above those, the choice is another one; UINT64_MAX: never. */
uint64_t slimAutoChange(const slimAutoModel* model, slimDataType_t type, uint64_t elements);
/* In words, for fp32: "plain 0.010 ms + 8.00 ms/MB, …: plain, one-shot from 12.3 KiB, …". */
void slimAutoDescribe(const slimAutoModel* model, char* text, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
