/* Work that one thread does in order, behind the caller's back: for nonblocking collectives. */
#ifndef SLIM_QUEUE_H_
#define SLIM_QUEUE_H_

#include "compress/compress.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct slimQueue slimQueue;

slimResult_t slimQueueCreate(slimQueue** queue);
/* Waits for all work, ends the thread. NULL is allowed. */
void slimQueueDestroy(slimQueue* queue);
slimResult_t slimQueuePush(slimQueue* queue, void (*work)(void*), void* context);
/* Until all that was pushed is done. */
void slimQueueDrain(slimQueue* queue);

#ifdef __cplusplus
}
#endif
#endif
