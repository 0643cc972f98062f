/* What an allreduce will take, before it is made: nothing is allocated or sent. */
#ifndef SLIM_PLAN_H_
#define SLIM_PLAN_H_

#include "collectives/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  slimAlgorithm algorithm;
  uint64_t slices, sliceElements;
  uint64_t sentBytes; /* by the rank that sends most, in a compressed step: headers and the record before it included */
  uint64_t plainBytes; /* of a plain ring */
  uint64_t stateBytes; /* feedback memory of the rank that keeps most */
} slimPlan;

/* Of count elements (above 0) over ranks with these settings on device, which only says whether buffers are host
 * memory. Fails as the tensor's first call would. */
slimResult_t slimPlanAllReduce(slimPlan* plan, slimCompressor* compressor, const slimSettings* settings,
                               const slimDevice* device, int ranks, slimDataType_t type, uint64_t count);

#ifdef __cplusplus
}
#endif
#endif
