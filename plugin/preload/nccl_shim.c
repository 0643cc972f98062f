/* libslimccl_nccl.so: stands before NCCL's functions, by LD_PRELOAD, drop-in or LD_AUDIT, and hands the program's calls
 * to the core (nccl_core.h), then to the NCCL that the program uses. Needs libc alone and does nothing when it is
 * loaded; the core is opened at the first communicator. No lock is held across a call of NCCL, the core or the loader.
 */
#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "plugin/preload/nccl_core.h"

#define SLIM_EXPORT __attribute__((visibility("default")))

/* A warning, as log.c writes it. */
__attribute__((format(printf, 1, 2))) static void warn(const char* format, ...) {
  const char* debug = getenv("SLIM_DEBUG");
  if (debug && !strcasecmp(debug, "NONE")) return;
  char host[64] = "", text[1024];
  gethostname(host, sizeof host - 1);
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  fprintf(stderr, "%s:%d:%ld SlimCCL WARN %s\n", host, (int)getpid(), syscall(SYS_gettid), text);
}

static bool isSet(const char* variable) {
  const char* value = getenv(variable);
  return value && *value;
}

static bool disabled(void) {
  const char* value = getenv("SLIM_DISABLE");
  return value && !strcmp(value, "1");
}

/* ---- The NCCL that the program uses ----------------------------------------------------------------------------- */

/* What is loaded may change at any time, so names are gathered first: the loader must not be called from its own
 * iteration. */
typedef struct {
  char** name;
  size_t n;
} nameList;

static int addName(struct dl_phdr_info* info, size_t size, void* context) {
  (void)size;
  nameList* list = context;
  char** name = realloc(list->name, (list->n + 1) * sizeof *name);
  if (!name) return 1;
  list->name = name;
  list->name[list->n] = strdup(info->dlpi_name);
  if (list->name[list->n]) list->n++;
  return 0;
}

/* symbol as the loaded object of this name ("": the program) sees it in itself and in what it needs. */
static void* symbolIn(const char* object, const char* symbol) {
  void* handle = dlopen(object, RTLD_NOLOAD | RTLD_LAZY);
  if (!handle) return NULL;
  void* address = dlsym(handle, symbol);
  dlclose(handle);
  return address;
}

static void* symbolAnywhere(const char* symbol) {
  nameList loaded = {NULL, 0};
  void* address = NULL;
  dl_iterate_phdr(addName, &loaded);
  for (size_t i = 0; i < loaded.n; i++) {
    if (!address) address = symbolIn(loaded.name[i], symbol);
    free(loaded.name[i]);
  }
  free(loaded.name);
  return address;
}

static struct link_map* mapOf(const void* address) {
  Dl_info info;
  struct link_map* map;
  return address && dladdr1(address, &info, (void**)&map, RTLD_DL_LINKMAP) ? map : NULL;
}

/* The name by which the loader knows what address lies in; NULL: nothing. */
static const char* objectOf(const void* address) {
  const struct link_map* map = mapOf(address);
  return map ? map->l_name : NULL;
}

/* As the program would find it without us: behind us; among what the caller itself needs, where that was loaded
 * RTLD_LOCAL (Python's extensions) or holds NCCL in itself; else in whatever is loaded. */
static void* visible(const char* symbol, const void* caller) {
  void* address = dlsym(RTLD_NEXT, symbol);
  const char* object = objectOf(caller);
  if (!address && object) address = symbolIn(object, symbol);
  return address ? address : symbolAnywhere(symbol);
}

/* A handle of it, found once; NULL: there is none. pncclX and ncclX are the same function, but the first cannot lead
 * back to us or to another library that stands before NCCL. */
static void* library(const void* caller) {
  static _Atomic(void*) found;
  void* handle = atomic_load(&found);
  if (handle) return handle;
  void* address = visible("pncclGetVersion", caller);
  if (!address) address = visible("ncclGetVersion", caller);
  if (address)
    handle = dlopen(objectOf(address), RTLD_NOLOAD | RTLD_LAZY);
  else if (isSet("SLIM_NCCL_LIB"))
    handle = dlopen(getenv("SLIM_NCCL_LIB"), RTLD_LAZY | RTLD_LOCAL);
  void* before = NULL;
  return atomic_compare_exchange_strong(&found, &before, handle) ? handle : before;
}

static bool isOurs(const void* address) { return mapOf(address) == mapOf((void*)isOurs); }

/* function: without "nccl". NULL: this NCCL lacks it, or there is none. */
static void* lookUp(const char* function, const void* caller) {
  void* handle = library(caller);
  if (!handle) return NULL;
  char symbol[64];
  snprintf(symbol, sizeof symbol, "pnccl%s", function);
  void* address = dlsym(handle, symbol);
  if (!address) address = dlsym(handle, symbol + 1);
  return address && !isOurs(address) ? address : NULL;
}

static void* find(_Atomic(void*)* known, const char* function, const void* caller) {
  void* address = atomic_load_explicit(known, memory_order_acquire);
  if (address) return address;
  address = lookUp(function, caller);
  if (address) atomic_store_explicit(known, address, memory_order_release);
  return address;
}

static ncclResult_t missing(const char* function) {
  const struct link_map* handle = library(NULL);
  if (!handle) {
    warn("nccl%s was called, but no NCCL is in this process (SLIM_NCCL_LIB may name it)", function);
    return ncclSystemError;
  }
  warn("nccl%s was called, but this NCCL (%s) has no such function", function,
       *handle->l_name ? handle->l_name : "in the program");
  return ncclInvalidUsage;
}

/* In each entry point: real is NCCL's function of the same name. */
#define REAL(function)                                                                    \
  static _Atomic(void*) known_;                                                           \
  const __typeof__(&nccl##function) real =                                                \
      (__typeof__(&nccl##function))find(&known_, #function, __builtin_return_address(0)); \
  if (!real) return missing(#function)

/* ---- This thread ------------------------------------------------------------------------------------------------ */

/* Communicators that one call makes; in a group they are there only after its end. */
typedef struct {
  ncclComm_t* out;
  int n;
  char* name;
  bool blocking, all;
} creation;

static __thread struct {
  int inside; /* NCCL or the core, whose own calls of NCCL's functions are not the program's */
  int depth;  /* of the program's groups */
  creation* created;
  size_t n; /* of those */
} mine;

/* Declares result, of a call that may come back here. */
#define FORWARD(call)                 \
  mine.inside++;                      \
  const ncclResult_t result = (call); \
  mine.inside--

/* ---- The core --------------------------------------------------------------------------------------------------- */

static const slimNcclCore none;
static _Atomic(const slimNcclCore*) core; /* NULL: no communicator yet; &none: all calls are NCCL's */

/* NULL: this call is NCCL's alone. */
static const slimNcclCore* theCore(void) {
  const slimNcclCore* now = atomic_load_explicit(&core, memory_order_acquire);
  return now == &none || mine.inside ? NULL : now;
}

/* What is told to the core, if there is one for this call. */
#define TELL(statement)                 \
  do {                                  \
    const slimNcclCore* to = theCore(); \
    if (!to) break;                     \
    mine.inside++;                      \
    statement;                          \
    mine.inside--;                      \
  } while (0)

/* The running NCCL's functions, which stay; NULL, with the reason: not all are there. */
static const slimNccl* functions(char* why, size_t size) {
  static _Atomic(slimNccl*) all;
  slimNccl *table = calloc(1, sizeof *table), *first = NULL;
  if (!table) return snprintf(why, size, "out of memory"), NULL;
#define FIND(member, function)                                        \
  table->member = (__typeof__(table->member))lookUp(#function, NULL); \
  if (!table->member) return free(table), snprintf(why, size, "this NCCL has no nccl%s", #function), NULL;
  SLIM_NCCL_CALLS(FIND)
#undef FIND
#define FIND_NEWER(member, function) table->member = (__typeof__(table->member))lookUp(#function, NULL);
  SLIM_NCCL_NEWER_CALLS(FIND_NEWER)
#undef FIND_NEWER
  if (atomic_compare_exchange_strong(&all, &first, table)) return table;
  free(table);
  return first;
}

/* &none, with the reason if it is one to tell. */
static const slimNcclCore* load(char* why, size_t size) {
  *why = 0;
  if (disabled()) return &none;
  char path[2 * PATH_MAX] = ""; /* the loader's note of our folder: the program may have gone to another since */
  if (dlinfo(mapOf((void*)load), RTLD_DI_ORIGIN, path)) return snprintf(why, size, "%s", dlerror()), &none;
  strcat(path, "/libslimccl.so");
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  slimNcclCoreOpener* opener = handle ? (slimNcclCoreOpener*)dlsym(handle, SLIM_NCCL_CORE_ENTRY) : NULL;
  if (!opener) return snprintf(why, size, "%s", dlerror()), &none;
  const slimNccl* nccl = functions(why, size);
  if (!nccl) return &none;
  int version = 0;
  const __typeof__(&ncclGetVersion) getVersion = (__typeof__(&ncclGetVersion))lookUp("GetVersion", NULL);
  if (getVersion) getVersion(&version);
  const slimNcclCore* opened = opener(nccl, objectOf((void*)nccl->allReduce), version);
  if (!opened) return &none;
  if (opened->size == sizeof *opened) return opened;
  return snprintf(why, size, "%s is of another version", path), &none;
}

/* At a communicator's creation. Threads that come together open it each: that is the same core. */
static void openCore(void) {
  char why[512];
  mine.inside++;
  if (!atomic_load(&core)) {
    const slimNcclCore *before = NULL, *opened = load(why, sizeof why);
    if (atomic_compare_exchange_strong(&core, &before, opened) && *why)
      warn("libslimccl_nccl.so: %s: SlimCCL is off", why);
  }
  mine.inside--;
}

/* ---- Communicators ---------------------------------------------------------------------------------------------- */

/* What NCCL lets a split or shrunk communicator inherit. */
typedef struct family {
  ncclComm_t comm;
  char* name;
  bool blocking;
  struct family* next;
} family;
static family* families;
static pthread_mutex_t familyLock = PTHREAD_MUTEX_INITIALIZER;

static void remember(ncclComm_t comm, const char* name, bool blocking) {
  family* f = malloc(sizeof *f);
  if (!f) return;
  *f = (family){comm, strdup(name), blocking, NULL};
  pthread_mutex_lock(&familyLock);
  f->next = families;
  families = f;
  pthread_mutex_unlock(&familyLock);
}

static void forget(ncclComm_t comm) {
  family* gone = NULL;
  pthread_mutex_lock(&familyLock);
  for (family** f = &families; *f; f = &(*f)->next)
    if ((*f)->comm == comm) {
      gone = *f;
      *f = gone->next;
      break;
    }
  pthread_mutex_unlock(&familyLock);
  if (gone) free(gone->name);
  free(gone);
}

/* name: to be freed. */
static void inherit(ncclComm_t parent, char** name, bool* blocking) {
  *name = NULL;
  *blocking = true;
  pthread_mutex_lock(&familyLock);
  for (const family* f = families; f; f = f->next)
    if (f->comm == parent) {
      *name = f->name ? strdup(f->name) : NULL;
      *blocking = f->blocking;
      break;
    }
  pthread_mutex_unlock(&familyLock);
}

/* Outside of groups, after the call or group that ended so: the communicators are there. Takes list over. */
static void announce(creation* list, size_t n, ncclResult_t ended) {
  size_t room = 0, made = 0;
  for (size_t i = 0; i < n; i++) room += (size_t)list[i].n;
  slimNcclMade* all = ended == ncclSuccess || ended == ncclInProgress ? calloc(room, sizeof *all) : NULL;
  for (size_t i = 0; all && i < n; i++)
    for (int k = 0; k < list[i].n; k++) {
      const ncclComm_t comm = list[i].out[k];
      if (!comm) continue; /* a split without colour */
      const char* name = list[i].name ? list[i].name : "";
      const bool blocking = list[i].blocking && ended == ncclSuccess;
      remember(comm, name, blocking);
      all[made++] = (slimNcclMade){.comm = comm, .name = name, .blocking = blocking, .all = list[i].all};
    }
  if (made) {
    openCore();
    TELL(to->made(all, (int)made));
  }
  for (size_t i = 0; i < n; i++) free(list[i].name);
  free(list);
  free(all);
}

/* The field is set, in a configuration that may be of an older NCCL. */
#define HAS(config, field) \
  ((config)->magic == 0xcafebeef && (config)->size >= offsetof(ncclConfig_t, field) + sizeof((config)->field))

static atomic_bool seen; /* a program that makes communicators. NCCL's own calls come by in any case. */

/* NCCL has answered result to a call that makes n communicators. */
static void created(ncclResult_t result, ncclComm_t* out, int n, const ncclConfig_t* config, ncclComm_t parent,
                    bool all) {
  if (mine.inside) return;
  atomic_store(&seen, true);
  if (result != ncclSuccess && result != ncclInProgress) return;
  creation* list = realloc(mine.depth ? mine.created : NULL, (mine.n + 1) * sizeof *list);
  if (!list) return;
  creation c = {.out = out, .n = n, .blocking = true, .all = all};
  if (config) {
    if (HAS(config, commName) && config->commName) c.name = strdup(config->commName);
    if (HAS(config, blocking)) c.blocking = config->blocking != 0; /* undefined: blocking */
  } else if (parent) {
    inherit(parent, &c.name, &c.blocking);
  }
  const char* always = getenv("NCCL_COMM_BLOCKING"); /* comes before the configuration */
  if (always && (!strcmp(always, "0") || !strcmp(always, "1"))) c.blocking = *always == '1';
  if (mine.depth) {
    mine.created = list;
    mine.created[mine.n++] = c;
  } else {
    *list = c;
    announce(list, 1, result);
  }
}

SLIM_EXPORT ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
  REAL(CommInitRank);
  FORWARD(real(comm, ranks, id, rank));
  created(result, comm, 1, NULL, NULL, false);
  return result;
}

SLIM_EXPORT ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                                ncclConfig_t* config) {
  REAL(CommInitRankConfig);
  FORWARD(real(comm, ranks, id, rank, config));
  created(result, comm, 1, config, NULL, false);
  return result;
}

SLIM_EXPORT ncclResult_t ncclCommInitRankScalable(ncclComm_t* comm, int ranks, int rank, int nIds, ncclUniqueId* ids,
                                                  ncclConfig_t* config) {
  REAL(CommInitRankScalable);
  FORWARD(real(comm, ranks, rank, nIds, ids, config));
  created(result, comm, 1, config, NULL, false);
  return result;
}

SLIM_EXPORT ncclResult_t ncclCommInitAll(ncclComm_t* comms, int n, const int* devices) {
  REAL(CommInitAll);
  FORWARD(real(comms, n, devices));
  created(result, comms, n, NULL, NULL, true);
  return result;
}

SLIM_EXPORT ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* out, ncclConfig_t* config) {
  REAL(CommSplit);
  FORWARD(real(comm, color, key, out, config));
  created(result, out, 1, config, comm, false);
  return result;
}

SLIM_EXPORT ncclResult_t ncclCommShrink(ncclComm_t comm, int* excluded, int n, ncclComm_t* out, ncclConfig_t* config,
                                        int flags) {
  REAL(CommShrink);
  if (flags & NCCL_SHRINK_ABORT) TELL(to->aborted(comm));
  FORWARD(real(comm, excluded, n, out, config, flags));
  created(result, out, 1, config, comm, false);
  return result;
}

static void gone(ncclComm_t comm) {
  if (!comm || mine.inside) return;
  forget(comm);
  TELL(to->gone(comm));
}

SLIM_EXPORT ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  REAL(CommDestroy);
  gone(comm);
  FORWARD(real(comm));
  return result;
}

SLIM_EXPORT ncclResult_t ncclCommAbort(ncclComm_t comm) {
  REAL(CommAbort);
  TELL(to->aborted(comm));
  gone(comm);
  FORWARD(real(comm));
  return result;
}

SLIM_EXPORT ncclResult_t ncclCommRevoke(ncclComm_t comm, int flags) {
  REAL(CommRevoke);
  TELL(to->aborted(comm));
  FORWARD(real(comm, flags));
  return result;
}

SLIM_EXPORT ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  REAL(CommGetAsyncError);
  FORWARD(real(comm, error));
  if (result == ncclSuccess) TELL(to->asyncError(comm, error));
  return result;
}

/* ---- Operators -------------------------------------------------------------------------------------------------- */

SLIM_EXPORT ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t* op, void* scalar, ncclDataType_t type,
                                                  ncclScalarResidence_t residence, ncclComm_t comm) {
  REAL(RedOpCreatePreMulSum);
  FORWARD(real(op, scalar, type, residence, comm));
  if (result == ncclSuccess) TELL(to->opMade(*op, scalar, type, residence, comm));
  return result;
}

SLIM_EXPORT ncclResult_t ncclRedOpDestroy(ncclRedOp_t op, ncclComm_t comm) {
  REAL(RedOpDestroy);
  TELL(to->opGone(op, comm));
  FORWARD(real(op, comm));
  return result;
}

/* ---- Groups ----------------------------------------------------------------------------------------------------- */

SLIM_EXPORT ncclResult_t ncclGroupStart(void) {
  REAL(GroupStart);
  FORWARD(real());
  if (!mine.inside && result == ncclSuccess) mine.depth++;
  return result;
}

/* NCCL has answered result to the end of a group. simulated: its calls have not run, and will not. */
static ncclResult_t leave(ncclResult_t result, bool simulated) {
  if (mine.inside || !mine.depth || --mine.depth) return result;
  creation* list = mine.created;
  const size_t n = mine.n;
  mine.created = NULL;
  mine.n = 0;
  announce(list, n, result);
  ncclResult_t answer = result;
  TELL(answer = to->groupEnd(simulated ? ncclInvalidUsage : result));
  return simulated ? result : answer;
}

SLIM_EXPORT ncclResult_t ncclGroupEnd(void) {
  REAL(GroupEnd);
  FORWARD(real());
  return leave(result, false);
}

/* Ends a group, too. */
SLIM_EXPORT ncclResult_t ncclGroupSimulateEnd(ncclSimInfo_t* info) {
  REAL(GroupSimulateEnd);
  FORWARD(real(info));
  return leave(result, true);
}

/* ---- Collectives ------------------------------------------------------------------------------------------------ */

static bool taken(const slimNcclCall* call, ncclResult_t* result) {
  bool is = false;
  TELL(is = to->call(call, mine.depth > 0, result));
  return is;
}

SLIM_EXPORT ncclResult_t ncclAllReduce(const void* send, void* recv, size_t count, ncclDataType_t type, ncclRedOp_t op,
                                       ncclComm_t comm, cudaStream_t stream) {
  REAL(AllReduce);
  const slimNcclCall call = {slimNcclAllReduce, send, recv, count, type, op, 0, comm, stream};
  ncclResult_t answer;
  if (taken(&call, &answer)) return answer;
  FORWARD(real(send, recv, count, type, op, comm, stream));
  return result;
}

SLIM_EXPORT ncclResult_t ncclReduceScatter(const void* send, void* recv, size_t count, ncclDataType_t type,
                                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  REAL(ReduceScatter);
  const slimNcclCall call = {slimNcclReduceScatter, send, recv, count, type, op, 0, comm, stream};
  ncclResult_t answer;
  if (taken(&call, &answer)) return answer;
  FORWARD(real(send, recv, count, type, op, comm, stream));
  return result;
}

SLIM_EXPORT ncclResult_t ncclAllGather(const void* send, void* recv, size_t count, ncclDataType_t type, ncclComm_t comm,
                                       cudaStream_t stream) {
  REAL(AllGather);
  const slimNcclCall call = {slimNcclAllGather, send, recv, count, type, ncclSum, 0, comm, stream};
  ncclResult_t answer;
  if (taken(&call, &answer)) return answer;
  FORWARD(real(send, recv, count, type, comm, stream));
  return result;
}

/* ncclBcast comes by here. */
SLIM_EXPORT ncclResult_t ncclBroadcast(const void* send, void* recv, size_t count, ncclDataType_t type, int root,
                                       ncclComm_t comm, cudaStream_t stream) {
  REAL(Broadcast);
  const slimNcclCall call = {slimNcclBroadcast, send, recv, count, type, ncclSum, root, comm, stream};
  ncclResult_t answer;
  if (taken(&call, &answer)) return answer;
  FORWARD(real(send, recv, count, type, root, comm, stream));
  return result;
}

SLIM_EXPORT ncclResult_t ncclReduce(const void* send, void* recv, size_t count, ncclDataType_t type, ncclRedOp_t op,
                                    int root, ncclComm_t comm, cudaStream_t stream) {
  REAL(Reduce);
  const slimNcclCall call = {slimNcclReduce, send, recv, count, type, op, root, comm, stream};
  ncclResult_t answer;
  if (taken(&call, &answer)) return answer;
  FORWARD(real(send, recv, count, type, op, root, comm, stream));
  return result;
}

/* The program's own word that a training step begins: see docs/preload.md. */
SLIM_EXPORT void slimMarkStep(void) { TELL(to->markStep()); }

/* ---- The end ---------------------------------------------------------------------------------------------------- */

/* Settings that had no effect, in a program that seems to have used NCCL (which opens the driver), are worth a loud
 * line. */
__attribute__((destructor)) static void sayIfUnused(void) {
  if (atomic_load(&seen) || disabled() || !(isSet("SLIM_COMPRESS") || isSet("SLIM_POLICY"))) return;
  struct rusage children;
  if (getrusage(RUSAGE_CHILDREN, &children) == 0 && children.ru_maxrss > 0) return; /* those of a launcher did */
  if (!dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_LAZY)) return;
  void* nccl = symbolAnywhere("pncclGetVersion");
  if (!nccl) nccl = symbolAnywhere("ncclGetVersion");
  if (nccl)
    warn(
        "NOTHING WAS COMPRESSED: SLIM_COMPRESS or SLIM_POLICY is set and NCCL was loaded (%s), but no communicator "
        "came by. A program that opens NCCL by itself (dlopen, RTLD_DEEPBIND) needs another way in: a drop-in "
        "(slimccl-info --make-dropin) or LD_AUDIT=libslimccl_audit.so; see docs/preload.md",
        objectOf(nccl));
}
