/* Result codes and element types of SlimCCL: part of the public API (plugin/slimccl.h), used by every layer. */
#ifndef SLIMCCL_TYPES_H_
#define SLIMCCL_TYPES_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a call answers. Values are NCCL's where NCCL has the same. */
typedef enum {
  slimSuccess = 0,
  slimUnhandledCudaError = 1,
  slimSystemError = 2,     /* the operating system, a file, or the transport failed */
  slimInternalError = 3,   /* a bug in SlimCCL */
  slimInvalidArgument = 4, /* one argument is wrong by itself */
  slimInvalidUsage = 5,    /* arguments do not fit the state, or ranks disagree */
  slimRemoteError = 6,     /* another rank failed or did not answer in time */
  slimNumResults = 8
} slimResult_t;

/* Element types; values are NCCL's. Only the four float types are compressed; integers travel plain. */
typedef enum {
  slimInt8 = 0,
  slimUint8 = 1,
  slimInt32 = 2,
  slimUint32 = 3,
  slimInt64 = 4,
  slimUint64 = 5,
  slimFloat16 = 6,
  slimFloat32 = 7,
  slimFloat64 = 8,
  slimBfloat16 = 9
} slimDataType_t;

/* Reductions; values are NCCL's. Sum and Avg are compressed, the others travel plain. */
typedef enum { slimSum = 0, slimProd = 1, slimMax = 2, slimMin = 3, slimAvg = 4 } slimRedOp_t;

/* What goes to one rank and what comes from it in an exchange. Nothing goes where bytes is 0. */
typedef struct {
  const void* send;
  size_t sendBytes;
  void* recv;
  size_t recvBytes;
} slimLane_t;

#ifdef __cplusplus
}
#endif
#endif
