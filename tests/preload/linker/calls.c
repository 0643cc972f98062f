// calls WHAT: what programs do with communicators, groups, threads and processes.
#include <dlfcn.h>
#include <nccl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAY(...) dprintf(1, "calls " __VA_ARGS__)

static ncclUniqueId id;

static ncclComm_t comm(void) {
  ncclComm_t c = NULL;
  ncclCommInitRank(&c, 4, id, 1);
  return c;
}
static ncclResult_t reduce(ncclComm_t c, size_t count) {
  return ncclAllReduce(NULL, NULL, count, ncclFloat32, ncclSum, c, NULL);
}

// Every function that the shim has.
static void every(void) {
  ncclComm_t pair[2], c = NULL;
  SAY("%d\n", ncclCommInitAll(pair, 2, NULL));
  for (int i = 0; i < 2; i++) ncclCommDestroy(pair[i]);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.commName = "tp";
  SAY("%d\n", ncclCommInitRankConfig(&c, 3, id, 2, &config));
  ncclComm_t s[4];
  SAY("%d\n", ncclCommInitRankScalable(&s[0], 5, 4, 1, &id, NULL));
  SAY("%d\n", ncclCommSplit(c, 7, 1, &s[1], NULL));  // inherits the name
  config.commName = NULL;
  SAY("%d\n", ncclCommSplit(c, 7, 1, &s[2], &config));
  SAY("%d\n", ncclCommSplit(c, NCCL_SPLIT_NOCOLOR, 1, &s[3], NULL));
  int excluded = 0;
  config.commName = "small";
  SAY("%d\n", ncclCommShrink(c, &excluded, 1, &s[3], &config, NCCL_SHRINK_DEFAULT));
  for (int i = 0; i < 4; i++) ncclCommDestroy(s[i]);
  SAY("%d\n", ncclCommShrink(c, &excluded, 1, &s[3], &config, NCCL_SHRINK_ABORT));
  ncclCommDestroy(s[3]);
  SAY("%d\n", ncclReduceScatter(NULL, NULL, 1000, ncclFloat16, ncclAvg, c, NULL));
  SAY("%d\n", ncclAllGather(NULL, NULL, 1001, ncclInt8, c, NULL));
  SAY("%d\n", ncclBroadcast(NULL, NULL, 1002, ncclInt8, 2, c, NULL));
  SAY("%d\n", ncclReduce(NULL, NULL, 1003, ncclFloat64, ncclMax, 1, c, NULL));
  SAY("%d\n", ncclReduceScatter(NULL, NULL, 10, ncclFloat16, ncclAvg, c, NULL));
  SAY("%d\n", ncclAllGather(NULL, NULL, 11, ncclInt8, c, NULL));
  SAY("%d\n", ncclReduce(NULL, NULL, 12, ncclFloat64, ncclMax, 1, c, NULL));
  void (*step)(void) = (void (*)(void))dlsym(RTLD_DEFAULT, "slimMarkStep");
  if (step) step();
  ncclResult_t error;
  SAY("%d\n", ncclCommGetAsyncError(c, &error));
  SAY("error %d\n", error);
  SAY("%d\n", ncclCommRevoke(c, NCCL_REVOKE_DEFAULT));
  SAY("%d\n", ncclCommAbort(c));
  SAY("null %d\n", ncclCommInitRank(&c, 1, id, 2));
}

static void groups(void) {
  ncclComm_t c = comm();
  SAY("%d\n", ncclGroupEnd());  // of no group
  ncclGroupStart();
  reduce(c, 1000);
  ncclGroupStart();
  reduce(c, 2000);
  reduce(c, 10);
  SAY("inner %d\n", ncclGroupEnd());
  reduce(c, 3000);
  SAY("outer %d\n", ncclGroupEnd());
  reduce(c, 4000);
}

// As PyTorch makes a communicator where groups are open: it closes them all, and opens as many again.
static void reopen(void) {
  ncclComm_t c = comm();
  for (int i = 0; i < 3; i++) ncclGroupStart();
  reduce(c, 1000);
  for (int i = 0; i < 3; i++) ncclGroupEnd();
  ncclComm_t d = comm();
  for (int i = 0; i < 3; i++) ncclGroupStart();
  reduce(d, 2000);
  for (int i = 0; i < 3; i++) ncclGroupEnd();
  reduce(c, 3000);
}

static void simulate(void) {
  ncclComm_t c = comm();
  ncclSimInfo_t info = NCCL_SIM_INFO_INITIALIZER;
  ncclGroupStart();
  reduce(c, 1000);
  SAY("%d\n", ncclGroupSimulateEnd(&info));
  reduce(c, 2000);  // no group is open
}

static void creation(void) {
  ncclComm_t c[6];
  char name[] = "first";
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.commName = name;
  ncclGroupStart();
  ncclCommInitRankConfig(&c[0], 4, id, 3, &config);
  name[0] = '?';  // NCCL has copied it
  ncclCommInitAll(&c[1], 2, NULL);
  ncclGroupStart();
  ncclCommInitRank(&c[3], 4, id, 0);
  ncclGroupEnd();
  SAY("end\n");
  ncclGroupEnd();
  ncclGroupStart();
  ncclCommSplit(c[0], NCCL_SPLIT_NOCOLOR, 0, &c[4], NULL);
  ncclCommSplit(c[0], 1, 1, &c[5], NULL);
  ncclGroupEnd();
}

static void premul(void) {
  ncclComm_t c = comm();
  float half = 0.5f;
  ncclRedOp_t op;
  ncclGroupStart();
  ncclRedOpCreatePreMulSum(&op, &half, ncclFloat32, ncclScalarHostImmediate, c);
  ncclAllReduce(NULL, NULL, 1000, ncclFloat32, op, c, NULL);
  ncclRedOpDestroy(op, c);
  ncclGroupEnd();
}

static void nonblocking(void) {
  ncclComm_t c, d;
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  SAY("%d\n", ncclCommInitRankConfig(&c, 4, id, 0, &config));
  SAY("%d\n", ncclCommSplit(c, 0, 1, &d, NULL));  // inherits it
  ncclGroupStart();
  ncclCommInitRankConfig(&d, 4, id, 2, &config);
  SAY("%d\n", ncclGroupEnd());
  config.size = offsetof(ncclConfig_t, commName);  // of an older NCCL
  config.commName = "nobody may read this";
  config.blocking = NCCL_CONFIG_UNDEF_INT;
  SAY("%d\n", ncclCommInitRankConfig(&d, 4, id, 3, &config));
}

static void* abortSoon(void* c) {
  usleep(100000);
  ncclCommAbort(c);
  return NULL;
}
static void aborted(void) {
  ncclComm_t c = comm();
  pthread_t thread;
  pthread_create(&thread, NULL, abortSoon, c);
  SAY("%d\n", reduce(c, 77));
  pthread_join(thread, NULL);
}

// Each thread has a group of its own open, at another depth, while the others' end.
static void* inThread(void* context) {
  const int n = (int)(size_t)context;
  ncclComm_t c[2];
  for (int round = 0; round < 50; round++) {
    for (int i = 0; i < n; i++) ncclGroupStart();
    for (int i = 0; i < 2; i++) ncclCommInitRank(&c[i], 8, id, n);
    for (int i = 0; i < n; i++) ncclGroupEnd();
    for (int i = 0; i < n; i++) ncclGroupStart();
    for (int i = 0; i < n; i++) reduce(c[i % 2], 1000);
    for (int i = 0; i < n; i++) ncclGroupEnd();
    for (int i = 0; i < 2; i++) ncclCommDestroy(c[i]);
  }
  return NULL;
}
static void threads(void) {
  pthread_t thread[7];
  for (size_t i = 0; i < 7; i++) pthread_create(&thread[i], NULL, inThread, (void*)(i + 1));
  for (int i = 0; i < 7; i++) pthread_join(thread[i], NULL);
}

static void forked(void) {
  for (int i = 0; i < 2; i++)
    if (!fork()) {
      reduce(comm(), 1000);
      _exit(0);
    }
  while (wait(NULL) > 0) continue;
}

// Answers that need no device.
static void errors(void) {
  int version = 0;
  ncclComm_t c;
  SAY("%d\n", ncclGetVersion(&version));
  SAY("version %d\n", version);
  SAY("%d\n", ncclGroupEnd());
  SAY("%d\n", ncclGroupStart());
  SAY("%d\n", ncclGroupStart());
  SAY("%d\n", ncclGroupEnd());
  SAY("%d\n", ncclGroupEnd());
  SAY("%d\n", ncclGroupEnd());
  SAY("%d\n", ncclCommInitRank(&c, 1, id, 2));
  SAY("%d\n", reduce(NULL, 1000));
  SAY("%d\n", ncclCommGetAsyncError(NULL, NULL));
  SAY("%d\n", ncclBcast(NULL, 10, ncclInt8, 0, NULL, NULL));
}

int main(int argc, char** argv) {
  static const struct {
    const char* name;
    void (*run)(void);
  } what[] = {{"every", every},
              {"groups", groups},
              {"reopen", reopen},
              {"simulate", simulate},
              {"creation", creation},
              {"premul", premul},
              {"nonblocking", nonblocking},
              {"abort", aborted},
              {"threads", threads},
              {"fork", forked},
              {"errors", errors}};
  if (chdir("/")) return 2;
  for (size_t i = 0; argc > 1 && i < sizeof what / sizeof *what; i++)
    if (!strcmp(argv[1], what[i].name)) return what[i].run(), 0;
  return 2;
}
