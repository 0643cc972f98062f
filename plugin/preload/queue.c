#include "plugin/preload/queue.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

typedef struct item {
  void (*work)(void*);
  void* context;
  struct item* next;
} item;

struct slimQueue {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  pthread_t thread;
  item *first, **end;
  bool busy, ending;
};

static void* serve(void* context) {
  slimQueue* q = context;
  pthread_mutex_lock(&q->lock);
  for (;;) {
    while (!q->first && !q->ending) pthread_cond_wait(&q->changed, &q->lock);
    item* one = q->first;
    if (!one) break;
    q->first = one->next;
    if (!q->first) q->end = &q->first;
    q->busy = true;
    pthread_mutex_unlock(&q->lock);
    one->work(one->context);
    free(one);
    pthread_mutex_lock(&q->lock);
    q->busy = false;
    pthread_cond_broadcast(&q->changed);
  }
  pthread_mutex_unlock(&q->lock);
  return NULL;
}

slimResult_t slimQueueCreate(slimQueue** out) {
  slimQueue* q = calloc(1, sizeof *q);
  *out = NULL;
  if (!q) return slimFail(slimSystemError, "no memory for a queue");
  q->end = &q->first;
  pthread_mutex_init(&q->lock, NULL);
  pthread_cond_init(&q->changed, NULL);
  sigset_t all, before; /* signals are the program's threads' */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int error = pthread_create(&q->thread, NULL, serve, q);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error) {
    free(q);
    return slimFail(slimSystemError, "no thread for a queue");
  }
  *out = q;
  return slimSuccess;
}

slimResult_t slimQueuePush(slimQueue* q, void (*work)(void*), void* context) {
  item* one = malloc(sizeof *one);
  if (!one) return slimFail(slimSystemError, "no memory for a queue");
  *one = (item){work, context, NULL};
  pthread_mutex_lock(&q->lock);
  *q->end = one;
  q->end = &one->next;
  pthread_cond_broadcast(&q->changed);
  pthread_mutex_unlock(&q->lock);
  return slimSuccess;
}

void slimQueueDrain(slimQueue* q) {
  pthread_mutex_lock(&q->lock);
  while (q->first || q->busy) pthread_cond_wait(&q->changed, &q->lock);
  pthread_mutex_unlock(&q->lock);
}

void slimQueueDestroy(slimQueue* q) {
  if (!q) return;
  pthread_mutex_lock(&q->lock);
  q->ending = true;
  pthread_cond_broadcast(&q->changed);
  pthread_mutex_unlock(&q->lock);
  pthread_join(q->thread, NULL);
  pthread_mutex_destroy(&q->lock);
  pthread_cond_destroy(&q->changed);
  free(q);
}
