/* A drop-in libnccl.so.2, for programs that open NCCL by name. */
#ifndef SLIM_DROPIN_H_
#define SLIM_DROPIN_H_

#include "compress/slimccl_types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Writes dir/libnccl.so.2 (and libnccl.so, a link to it; makes dir): a shared library without code that needs shim
 * (libslimccl_nccl.so), then nccl (the libnccl.so.2 that the program used so far), both by absolute path. So functions
 * that the shim does not know are NCCL's. An older drop-in is replaced; another file there is slimInvalidUsage. No NCCL
 * or no shim by these paths: slimInvalidArgument; cannot be written: slimSystemError. */
slimResult_t slimMakeDropIn(const char* dir, const char* shim, const char* nccl);

#ifdef __cplusplus
}
#endif
#endif
