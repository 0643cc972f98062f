/* The passes of compress.h on a CUDA device: the same bits, but everything is enqueued on a stream and nothing waits.
 * All pointers are the device's; payloads of a split or of several ranks lie at equal strides. */
#ifndef SLIM_COMPRESS_CUDA_PASSES_H_
#define SLIM_COMPRESS_CUDA_PASSES_H_

#include "compress/cuda/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a tensor keeps on the device besides its state: this struct itself lies there, and behind it the compressor's
 * trees with their tables, up's and then down's. */
typedef struct {
  uint64_t step; /* of the call under way; replaces the stamp's, so that a replayed graph draws afresh */
  slimPassStats stats;
} slimCudaSlot;
static inline size_t slimCudaSlotBytes(const slimCompressor* c) {
  return sizeof(slimCudaSlot) + c->up.tree->bytes + c->down.tree->bytes;
}
/* Fills slot, in host memory: step and stats are zero. */
void slimCudaSlotStart(slimCudaSlot* slot, const slimCompressor* compressor);

/* Where a tensor's passes run. */
typedef struct {
  const slimCudaDevice* device;
  CUstream stream;
  const slimCompressor* compressor; /* on the host; passes' directions are its up and down */
  slimCudaSlot* slot;
  unsigned long long* report; /* set where a header is wrong (kernels.h) */
  uint8_t* workspace;         /* slimCudaWorkspace bytes, used by one pass after the other */
  size_t workspaceBytes;
} slimCudaQueue;

/* Bytes of workspace for passes over at most n elements of type, from `ranks` ranks. */
slimResult_t slimCudaWorkspace(const slimCudaDevice* device, const slimCompressor* compressor, slimDataType_t type,
                               uint64_t n, int ranks, size_t* bytes);

/* pass->payload is the first piece's; pass->stats only says whether to count. */
slimResult_t slimCudaEncode(const slimCudaQueue* queue, const slimEncodePass* pass, const slimSplit* split);
/* pass->payloads[0] is rank 0's; stride: from one rank's to the next. Where a header is not the expected one, the piece
 * becomes NaN, or payload' an error report, and the report is set. */
slimResult_t slimCudaReduce(const slimCudaQueue* queue, const slimReducePass* pass, size_t stride);
/* The sender of piece r is rank stamp.rank + r. Wrong headers as in reduce. */
slimResult_t slimCudaDecode(const slimCudaQueue* queue, const slimDecodePass* pass, const slimSplit* split);
slimResult_t slimCudaCancel(const slimCudaQueue* queue, const slimDecodePass* sent, const void* x, void* s);

/* slimDenseEncode, slimDenseReduce (payloads at src + r·stride), slimFromReal, slimScaleReal. */
slimResult_t slimCudaDenseEncode(const slimCudaQueue* queue, const slimStamp* stamp, slimDataType_t type, const void* x,
                                 bool xIsReal, uint64_t n, uint64_t first, uint8_t* payload);
slimResult_t slimCudaDenseReduce(const slimCudaQueue* queue, slimDataType_t type, uint64_t n, int ranks,
                                 const uint8_t* payloads, size_t stride, double weight, void* dst);
slimResult_t slimCudaFromReal(const slimCudaQueue* queue, slimDataType_t type, const void* src, uint64_t n,
                              double factor, void* y);
/* y ← x times *scalar (an element of type, on the device), or, where that is NULL, times factor; elements of type. */
slimResult_t slimCudaPremultiply(const slimCudaQueue* queue, slimDataType_t type, const void* x, uint64_t n,
                                 double factor, const void* scalar, void* y);
slimResult_t slimCudaScaleReal(const slimCudaQueue* queue, slimDataType_t type, void* a, uint64_t n, double factor);
/* slimScaleMemory; the stamp's step is that after the last call's. */
slimResult_t slimCudaScaleMemory(const slimCudaQueue* queue, const slimStamp* stamp, uint16_t* a, uint64_t n,
                                 double factor);
/* dst ← those of src's n reals that are finite. */
slimResult_t slimCudaCopyFinite(const slimCudaQueue* queue, slimDataType_t type, const void* src, uint64_t n,
                                void* dst);

/* dst ← src (n elements) as reals, by groups of 64 that hold no NaN or Inf. */
slimResult_t slimCudaTakeFinite(const slimCudaQueue* queue, slimDataType_t type, const void* src, uint64_t n,
                                void* dst);

/* slot->step ← slot->step + 1. */
slimResult_t slimCudaNextStep(const slimCudaQueue* queue);

#ifdef __cplusplus
}
#endif
#endif
