/* The memory limit: plain loops over the streams of each pass, built for the machine's widest vectors. */
#ifndef SLIM_BENCH_STREAMS_H_
#define SLIM_BENCH_STREAMS_H_

#include <stddef.h>
#include <stdint.h>

enum { STREAM_BLOCK = 512 };

/* Each block: STREAM_BLOCK floats beside `each` payload bytes. */
void streamEncode(const float* x, uint8_t* out, size_t blocks, size_t each);
void streamEncodeState(const float* x, float* s, uint8_t* out, size_t blocks, size_t each);
void streamReduce(const uint8_t* const in[4], float* s, uint8_t* out, size_t blocks, size_t each);
void streamDecode(const uint8_t* in, float* y, size_t blocks, size_t each);
void streamDecodeAdd(const uint8_t* in, float* y, size_t blocks, size_t each);

/* task(context, part, parts) on `parts` threads, the caller's among them. */
void streamRun(void (*task)(void* context, int part, int parts), void* context, int parts);

#endif
