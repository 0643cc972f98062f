/* Threads of one rank, and scratch of each thread. */
#ifndef SLIM_COMPRESS_POOL_H_
#define SLIM_COMPRESS_POOL_H_

#include "compress/compress.h"

/* Calls work(context, task) once for each task < tasks, on the pool's threads and the caller's; returns when all are
 * done. The floating-point environment is the default one in every call. pool may be NULL. */
void slimPoolRun(slimPool* pool, void (*work)(void* context, uint64_t task), void* context, uint64_t tasks);

/* SLIM_SCRATCH_FLOATS floats of the calling thread, 64-byte aligned; NULL if there is no memory. */
float* slimScratch(void);

#endif
