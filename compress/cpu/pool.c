#include "compress/cpu/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "compress/fpenv.h"
#include "compress/kernels.h"

struct slimPool {
  pthread_mutex_t lock;
  pthread_cond_t wake, idle;
  void (*work)(void*, uint64_t);
  void* context;
  uint64_t tasks, round;
  _Atomic uint64_t next;
  int busy, threads; /* workers, without the caller */
  bool stop;
  pthread_t thread[];
};

static void runTasks(slimPool* pool, void (*work)(void*, uint64_t), void* context, uint64_t tasks) {
  for (uint64_t t; (t = atomic_fetch_add(&pool->next, 1)) < tasks;) work(context, t);
}

static void* worker(void* arg) {
  slimPool* pool = arg;
  (void)slimFpEnter(); /* for the thread's life */
  uint64_t seen = 0;
  pthread_mutex_lock(&pool->lock);
  for (;;) {
    while (pool->round == seen && !pool->stop) pthread_cond_wait(&pool->wake, &pool->lock);
    if (pool->stop) break;
    seen = pool->round;
    void (*work)(void*, uint64_t) = pool->work;
    void* context = pool->context;
    uint64_t tasks = pool->tasks;
    pthread_mutex_unlock(&pool->lock);
    runTasks(pool, work, context, tasks);
    pthread_mutex_lock(&pool->lock);
    if (--pool->busy == 0) pthread_cond_signal(&pool->idle);
  }
  pthread_mutex_unlock(&pool->lock);
  return NULL;
}

slimResult_t slimPoolCreate(slimPool** out, int threads) {
  *out = NULL;
  if (threads < 1 || threads > 1024)
    return slimFail(slimInvalidArgument, "%d threads: 1 to 1024 are possible", threads);
  slimPool* pool = calloc(1, sizeof *pool + (size_t)threads * sizeof(pthread_t));
  if (!pool) return slimFail(slimSystemError, "no memory for %d threads", threads);
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->wake, NULL);
  pthread_cond_init(&pool->idle, NULL);
  for (; pool->threads < threads - 1; pool->threads++)
    if (pthread_create(&pool->thread[pool->threads], NULL, worker, pool) != 0) {
      slimPoolDestroy(pool);
      return slimFail(slimSystemError, "cannot start %d threads", threads);
    }
  *out = pool;
  return slimSuccess;
}

void slimPoolDestroy(slimPool* pool) {
  if (!pool) return;
  pthread_mutex_lock(&pool->lock);
  pool->stop = true;
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->lock);
  for (int i = 0; i < pool->threads; i++) pthread_join(pool->thread[i], NULL);
  pthread_cond_destroy(&pool->idle);
  pthread_cond_destroy(&pool->wake);
  pthread_mutex_destroy(&pool->lock);
  free(pool);
}

void slimPoolRun(slimPool* pool, void (*work)(void*, uint64_t), void* context, uint64_t tasks) {
  slimFpState fp = slimFpEnter();
  if (!pool || pool->threads == 0 || tasks < 2) {
    for (uint64_t t = 0; t < tasks; t++) work(context, t);
    slimFpLeave(fp);
    return;
  }
  pthread_mutex_lock(&pool->lock);
  pool->work = work;
  pool->context = context;
  pool->tasks = tasks;
  atomic_store(&pool->next, 0);
  pool->busy = pool->threads;
  pool->round++;
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->lock);
  runTasks(pool, work, context, tasks);
  pthread_mutex_lock(&pool->lock);
  while (pool->busy) pthread_cond_wait(&pool->idle, &pool->lock);
  pthread_mutex_unlock(&pool->lock);
  slimFpLeave(fp);
}

static pthread_key_t scratchKey;
static pthread_once_t scratchOnce = PTHREAD_ONCE_INIT;
static void makeKey(void) { pthread_key_create(&scratchKey, free); }

float* slimScratch(void) {
  static _Thread_local float* scratch;
  if (scratch) return scratch;
  pthread_once(&scratchOnce, makeKey);
  scratch = aligned_alloc(64, SLIM_SCRATCH_FLOATS * sizeof(float));
  pthread_setspecific(scratchKey, scratch);
  return scratch;
}
