#include "bench/streams.h"

#include <pthread.h>
#include <string.h>

#ifdef __x86_64__
#define WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDEST
#endif

static volatile float floatSink;
static volatile uint8_t byteSink;

/* One add an element read; the payload's bytes are written from what was read. */
WIDEST void streamEncode(const float* restrict x, uint8_t* restrict out, size_t blocks, size_t each) {
  float sum[STREAM_BLOCK] = {0};
  for (size_t b = 0; b < blocks; b++, x += STREAM_BLOCK, out += each) {
    for (size_t i = 0; i < STREAM_BLOCK; i++) sum[i] += x[i];
    memcpy(out, sum, each < sizeof sum ? each : sizeof sum);
  }
  floatSink = sum[0];
}
WIDEST void streamEncodeState(const float* restrict x, float* restrict s, uint8_t* restrict out, size_t blocks,
                              size_t each) {
  for (size_t b = 0; b < blocks; b++, x += STREAM_BLOCK, s += STREAM_BLOCK, out += each) {
    for (size_t i = 0; i < STREAM_BLOCK; i++) s[i] += x[i];
    memcpy(out, s, each < 4 * STREAM_BLOCK ? each : 4 * STREAM_BLOCK);
  }
}
WIDEST void streamReduce(const uint8_t* const in[4], float* restrict s, uint8_t* restrict out, size_t blocks,
                         size_t each) {
  for (size_t b = 0; b < blocks; b++, s += STREAM_BLOCK) {
    for (size_t i = 0; i < STREAM_BLOCK; i++) s[i] += 1;
    for (size_t i = 0; i < each; i++)
      out[b * each + i] =
          (uint8_t)(in[0][b * each + i] + in[1][b * each + i] + in[2][b * each + i] + in[3][b * each + i]);
  }
}
WIDEST void streamDecode(const uint8_t* restrict in, float* restrict y, size_t blocks, size_t each) {
  uint8_t sum[4 * STREAM_BLOCK] = {0};
  const size_t n = each < sizeof sum ? each : sizeof sum;
  for (size_t b = 0; b < blocks; b++, y += STREAM_BLOCK, in += each) {
    for (size_t i = 0; i < n; i++) sum[i] = (uint8_t)(sum[i] + in[i]);
    const float first = (float)sum[0];
    for (size_t i = 0; i < STREAM_BLOCK; i++) y[i] = first;
  }
  byteSink = sum[0];
}
WIDEST void streamDecodeAdd(const uint8_t* restrict in, float* restrict y, size_t blocks, size_t each) {
  uint8_t sum[4 * STREAM_BLOCK] = {0};
  const size_t n = each < sizeof sum ? each : sizeof sum;
  for (size_t b = 0; b < blocks; b++, y += STREAM_BLOCK, in += each) {
    for (size_t i = 0; i < n; i++) sum[i] = (uint8_t)(sum[i] + in[i]);
    const float first = (float)sum[0];
    for (size_t i = 0; i < STREAM_BLOCK; i++) y[i] += first;
  }
  byteSink = sum[0];
}

typedef struct {
  void (*task)(void*, int, int);
  void* context;
  int part, parts;
} job;

static void* runJob(void* arg) {
  job* j = arg;
  j->task(j->context, j->part, j->parts);
  return NULL;
}

void streamRun(void (*task)(void*, int, int), void* context, int parts) {
  pthread_t thread[64];
  job jobs[64];
  if (parts > 64) parts = 64;
  for (int p = 1; p < parts; p++) {
    jobs[p] = (job){task, context, p, parts};
    pthread_create(&thread[p], NULL, runJob, &jobs[p]);
  }
  task(context, 0, parts);
  for (int p = 1; p < parts; p++) pthread_join(thread[p], NULL);
}
