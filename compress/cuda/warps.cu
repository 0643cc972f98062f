/* The CUDA kernels of codecs by themselves, of blocks of SLIM_WARP_UNIT elements: a warp has one in its registers
 * (warp.cuh). The passes and the block mathematics are those of kernels.cu. */
#define SLIM_CUDA 1
#define SLIM_WARP 1

#include "compress/cuda/kernels.h"

#include "compress/codec/float.h"
#include "compress/codec/fp8.h"
#include "compress/codec/natural.h"
#include "compress/codec/onebit.h"
#include "compress/codec/qsgd.h"
#include "compress/codec/rotate.h"
#include "compress/codec/tnqsgd.h"
#include "compress/cuda/unit.cuh"

#include "compress/cuda/shapes.cuh"

#define REAL float
#define SLIM_REAL_IS_FLOAT 1
#define SLIM_NAME(name) name##F
#include "compress/cuda/passes.cuh"

/* Thread blocks that a multiprocessor's registers hold: as many as need no spill. */
#if __CUDA_ARCH__ < 900
enum { SLIM_ENCODE_BLOCKS = 3, SLIM_REDUCE_BLOCKS = 3 };
#elif __CUDA_ARCH__ < 1000
enum { SLIM_ENCODE_BLOCKS = 4, SLIM_REDUCE_BLOCKS = 4 };
#else
enum { SLIM_ENCODE_BLOCKS = 4, SLIM_REDUCE_BLOCKS = 3 };
#endif
enum { SLIM_LARGE_REDUCE_BLOCKS = 3 /* of tnqsgd, and below rotate */, SLIM_DECODE_BLOCKS = 6 };

#define SLIM_WARP_KERNEL(blocks, name, args) \
  extern "C" __global__ void __launch_bounds__(32 * SLIM_WARPS, blocks) slim_warp_##name(const args a)
#define SLIM_WARP_KERNELS_OF(name, reduceBlocks)                                                                    \
  SLIM_WARP_KERNEL(SLIM_ENCODE_BLOCKS, encode_##name, slimEncodeArgs) { encodeUnitsF(slimShape_##name, &a, NULL); } \
  SLIM_WARP_KERNEL(reduceBlocks, reduce_##name, slimReduceArgs) { reduceUnitsF(slimShape_##name, &a, NULL); }       \
  SLIM_WARP_KERNEL(SLIM_DECODE_BLOCKS, decode_##name, slimDecodeArgs) { decodeUnitsF(slimShape_##name, &a, NULL); }
#define SLIM_LEAF_KERNELS(name, blocks) \
  SLIM_WARP_KERNELS_OF(name, slimShape_##name == slimShape_tnqsgd ? SLIM_LARGE_REDUCE_BLOCKS : SLIM_REDUCE_BLOCKS)
#define SLIM_CAST_KERNELS(name) SLIM_WARP_KERNELS_OF(name, SLIM_REDUCE_BLOCKS)
#define SLIM_TURNED_KERNELS(name) SLIM_WARP_KERNELS_OF(turned_##name, SLIM_LARGE_REDUCE_BLOCKS)
SLIM_LEAVES(SLIM_LEAF_KERNELS)
SLIM_CASTS(SLIM_CAST_KERNELS)
SLIM_TURNED(SLIM_TURNED_KERNELS)
