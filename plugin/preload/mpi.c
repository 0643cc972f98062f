/* libslimccl_mpi.so: under LD_PRELOAD, the sums of an unchanged MPI program travel compressed. MPI's profiling
 * interface makes it possible: every MPI_X that is defined here hides the library's own, which is still there as
 * PMPI_X. docs/preload.md. */
#include <mpi.h>

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/preload/channel.h"
#include "plugin/preload/log.h"
#include "plugin/preload/queue.h"
#include "plugin/preload/session.h"
#include "plugin/slimccl_mpi.h"

#define SLIM_EXPORT __attribute__((visibility("default")))

static struct {
  slimEnvironment environment;
  slimPolicy* policy;
  bool on; /* on all ranks */
  int rank, ranks;
  MPI_Group group;    /* of all ranks */
  int keyval;         /* of the attribute that ties a channel to its communicator */
  atomic_ullong seen; /* communicators */
  bool threads;       /* MPI_THREAD_MULTIPLE is given, on all ranks */
} job = {.keyval = MPI_KEYVAL_INVALID};

/* ---- Begin and end ---------------------------------------------------------------------------------------------- */

static void report(void) { slimSessionReport(&job.environment, job.rank, job.ranks); }

/* What is tied to a communicator of the program. */
typedef struct {
  slimChannel* channel;
  slimQueue* queue; /* of its nonblocking calls; made at the first one */
  MPI_Comm copy;    /* for sums by MPI that the program must not notice */
} tie;

static slimResult_t plainSum(void* context, float* values, size_t n) {
  const tie* t = context;
  const int code = PMPI_Allreduce(MPI_IN_PLACE, values, (int)n, MPI_FLOAT, MPI_SUM, t->copy);
  return code == MPI_SUCCESS ? slimSuccess : slimFail(slimSystemError, "MPI_Allreduce failed with code %d", code);
}

static int forget(MPI_Comm comm, int keyval, void* attribute, void* extra) {
  (void)comm, (void)keyval, (void)extra;
  tie* l = attribute;
  if (!l) return MPI_SUCCESS;
  slimQueueDestroy(l->queue);
  slimChannelDestroy(l->channel);
  PMPI_Comm_free(&l->copy);
  free(l);
  return MPI_SUCCESS;
}

/* On only where no rank found a mistake and all have the same rules and settings. */
static bool agree(uint64_t mine) {
  uint64_t low, high, first = mine;
  PMPI_Allreduce(&mine, &low, 1, MPI_UINT64_T, MPI_MIN, MPI_COMM_WORLD);
  PMPI_Allreduce(&mine, &high, 1, MPI_UINT64_T, MPI_MAX, MPI_COMM_WORLD);
  PMPI_Bcast(&first, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
  if (low != high && first != mine)
    slimWarn("rank %d has other SLIM_* settings than rank 0: SlimCCL is off on all ranks", job.rank);
  return low == high && mine;
}

static tie* tieOf(MPI_Comm comm, bool make);

/* The MPI that the program uses, by its own words. */
static const char* mpiName(void) {
  enum { longest = 8192 }; /* MPICH's MPI_MAX_LIBRARY_VERSION_STRING; Open MPI's is smaller */
  static char name[longest];
  int length;
  PMPI_Get_library_version(name, &length);
  for (char* c = name; *c; c++)
    if (*c == '\t') *c = ' ';
  name[strcspn(name, ",\n")] = 0;
  return name;
}

/* This library was built for the MPI that the program uses: another one's handles mean nothing here. */
static bool fits(void) {
  static const char openMpi[] = "Open MPI";
#ifdef OPEN_MPI
  const bool built = true;
#else
  const bool built = false;
#endif
  const char* name = mpiName();
  if (!strncmp(name, openMpi, strlen(openMpi)) == built) return true;
  slimWarn("this library is for %s, the program uses %s: preload the one of a build with SLIM_MPI=%s (docs/preload.md)",
           built ? openMpi : "MPICH", name, built ? "mpich" : "openmpi");
  return false;
}

/* After MPI_Init, on all ranks. */
static void start(void) {
  if (job.ranks) return;
  PMPI_Comm_rank(MPI_COMM_WORLD, &job.rank);
  PMPI_Comm_size(MPI_COMM_WORLD, &job.ranks);
  PMPI_Comm_group(MPI_COMM_WORLD, &job.group);
  slimEnvironment* e = &job.environment;
  const bool good = slimSessionOpen(e, &job.policy);
  if (job.rank == 0) slimSessionSayUnknown();
  job.on = agree(good ? slimPolicyHash(job.policy) | 1 : 0) && !e->disable;
  if (!job.on) return;
  PMPI_Allreduce(MPI_IN_PLACE, &job.environment.stateBytes, 1, MPI_UINT64_T, MPI_MIN, MPI_COMM_WORLD);
  PMPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, forget, &job.keyval, NULL);
  slimSessionWatch(e);
  int level = MPI_THREAD_SINGLE;
  PMPI_Query_thread(&level);
  PMPI_Allreduce(MPI_IN_PLACE, &level, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  job.threads = level == MPI_THREAD_MULTIPLE;
  if (job.threads && job.ranks > 1) tieOf(MPI_COMM_WORLD, true); /* nonblocking calls cannot make it */
  if (job.rank == 0)
    slimLog(slimLogInfo, slimLogInit, "SlimCCL %d.%d.%d over %s, %d ranks: SLIM_COMPRESS=%s SLIM_POLICY=%s", SLIM_MAJOR,
            SLIM_MINOR, SLIM_PATCH, mpiName(), job.ranks, *e->compress ? e->compress : "(none)",
            *e->policy ? e->policy : "(none)");
}

SLIM_EXPORT int MPI_Init(int* argc, char*** argv) {
  if (!fits()) return MPI_ERR_OTHER;
  const int code = PMPI_Init(argc, argv);
  if (code == MPI_SUCCESS) start();
  return code;
}

SLIM_EXPORT int MPI_Init_thread(int* argc, char*** argv, int required, int* provided) {
  if (!fits()) return MPI_ERR_OTHER;
  const int code = PMPI_Init_thread(argc, argv, required, provided);
  if (code == MPI_SUCCESS) start();
  return code;
}

SLIM_EXPORT int MPI_Finalize(void) {
  if (job.on) report();
  return PMPI_Finalize();
}

/* ---- Calls ------------------------------------------------------------------------------------------------------ */

static bool typeOf(MPI_Datatype type, slimDataType_t* out) {
  if (type == MPI_FLOAT || type == MPI_REAL || type == MPI_REAL4) return *out = slimFloat32, true;
  if (type == MPI_DOUBLE || type == MPI_DOUBLE_PRECISION || type == MPI_REAL8) return *out = slimFloat64, true;
  return false;
}

/* All of comm's processes belong to this job (none was spawned by another). */
static bool isOurs(MPI_Comm comm) {
  MPI_Group group, common;
  int size, shared;
  PMPI_Comm_size(comm, &size);
  PMPI_Comm_group(comm, &group);
  PMPI_Group_intersection(group, job.group, &common);
  PMPI_Group_size(common, &shared);
  PMPI_Group_free(&group);
  PMPI_Group_free(&common);
  return shared == size;
}

/* What is tied to comm; made where it is not there yet, in which all ranks of comm must take part. NULL: it stays
 * plain.
 */
static tie* tieOf(MPI_Comm comm, bool make) {
  tie* l = NULL;
  int found = 0;
  PMPI_Comm_get_attr(comm, job.keyval, &l, &found);
  if (found || !make) return l;
  if (isOurs(comm)) {
    /* Its number is the same on all its ranks. */
    unsigned long long order = atomic_load(&job.seen);
    PMPI_Allreduce(MPI_IN_PLACE, &order, 1, MPI_UNSIGNED_LONG_LONG, MPI_MAX, comm);
    atomic_store(&job.seen, order + 1);
    char name[MPI_MAX_OBJECT_NAME] = "";
    int length;
    PMPI_Comm_get_name(comm, name, &length);
    slimConfig_t config = SLIM_CONFIG_INITIALIZER;
    config.seed = job.environment.seed;
    config.timeout = job.environment.timeout;
    slimComm_t own;
    l = calloc(1, sizeof *l);
    /* Without memory there is no way to tell the others, who then wait in vain and name this rank. */
    if (l && (slimCommInitMPI(&own, comm, &config) != slimSuccess ||
              slimChannelCreate(&l->channel, own, &job.environment, order, name, plainSum, l) != slimSuccess)) {
      slimWarn("communicator %s stays plain: %s", name, slimGetLastError());
      free(l);
      l = NULL;
    }
    if (l) PMPI_Comm_dup(comm, &l->copy);
  }
  PMPI_Comm_set_attr(comm, job.keyval, l);
  return l;
}

/* One collective call of the program. */
typedef struct {
  slimCollective collective;
  const void* send;
  void* recv;
  size_t count; /* as slimAllReduce, … take it */
  MPI_Datatype type;
  MPI_Op op;
  int root;
  MPI_Comm comm;
} mpiCall;

static bool untouched(slimReason reason) {
  slimCountForwarded(reason);
  return false;
}

/* What to do with a call: a compressed one has an action. The same on all ranks of the communicator. blocking: ranks
 * may wait for each other here. */
static bool decide(const mpiCall* m, bool blocking, slimChannelCall* call, tie** to) {
  if (!job.on) return false;
  if (slimSessionAsked()) report();
  int inter = 0;
  *call = (slimChannelCall){.call = {.collective = m->collective, .op = slimSum},
                            .send = m->send,
                            .recv = m->recv,
                            .count = m->count,
                            .root = m->root};
  slimPolicyCall* p = &call->call;
  if (!typeOf(m->type, &p->type)) return untouched(slimReasonType);
  if (m->op != MPI_SUM) return untouched(slimReasonOp);
  if (m->comm == MPI_COMM_NULL || PMPI_Comm_test_inter(m->comm, &inter) != MPI_SUCCESS || inter)
    return untouched(slimReasonShape);
  PMPI_Comm_size(m->comm, &p->ranks);
  if (p->ranks < 2) return untouched(slimReasonRanks);
  const bool parts = m->collective == slimCollectiveReduceScatter || m->collective == slimCollectiveAllGather;
  p->bytes = (uint64_t)m->count * slimTypeBytes(p->type) * (uint64_t)(parts ? p->ranks : 1);
  p->whole = p->ranks == job.ranks;
  char name[MPI_MAX_OBJECT_NAME] = "";
  int length;
  PMPI_Comm_get_name(m->comm, name, &length);
  p->name = name;
  if (slimPolicyUsesOrder(job.policy)) {
    *to = tieOf(m->comm, blocking);
    if (!*to) return untouched(slimReasonShape);
    p->order = slimChannelOrder((*to)->channel);
  }
  slimReason reason;
  call->action = slimPolicyFind(job.policy, p, &reason);
  p->name = "";
  if (!call->action) return untouched(reason);
  *to = tieOf(m->comm, blocking);
  return *to || untouched(slimReasonShape);
}

/* true: done, with *code for the program; false: hand it on. */
static bool compressed(const mpiCall* m, int* code) {
  slimChannelCall call;
  tie* l;
  slimReason reason;
  bool plain;
  if (!decide(m, true, &call, &l)) return false;
  if (l->queue) slimQueueDrain(l->queue); /* calls keep their order */
  const slimResult_t result = slimChannelRun(l->channel, &call, &plain, &reason);
  if (result == slimSuccess && plain) return untouched(reason);
  *code = MPI_SUCCESS;
  if (result != slimSuccess) {
    slimWarn("%s", slimGetLastError());
    PMPI_Comm_call_errhandler(m->comm, MPI_ERR_OTHER);
    *code = MPI_ERR_OTHER;
  }
  return true;
}

/* What a caller gave for "my part is in the receive buffer". */
static const void* orOwn(const void* send, const void* own) { return send == MPI_IN_PLACE ? own : send; }
static size_t bytesOf(MPI_Datatype type) {
  int size = 0;
  PMPI_Type_size(type, &size);
  return (size_t)size;
}

/* A nonblocking sum is done by the communicator's own thread; a generalized request tells the program when. */
typedef struct {
  slimChannel* channel;
  slimChannelCall call;
  MPI_Request request;
  _Atomic(slimResult_t) result; /* written last, read by query: what either thread saw and did is then the other's */
} pending;

static void perform(void* context) {
  pending* p = context;
  bool plain = false;
  slimReason reason;
  const MPI_Request request = p->request;
  slimResult_t result = slimChannelRun(p->channel, &p->call, &plain, &reason);
  if (result == slimSuccess && plain) {
    slimCountForwarded(reason);
    result = slimChannelRunPlain(p->channel, &p->call);
  }
  if (result != slimSuccess) slimWarn("%s", slimGetLastError());
  p->result = result;
  PMPI_Grequest_complete(request); /* p belongs to the request, which may be freed now */
}
static int query(void* context, MPI_Status* status) {
  PMPI_Status_set_elements(status, MPI_BYTE, 0);
  PMPI_Status_set_cancelled(status, 0);
  status->MPI_SOURCE = status->MPI_TAG = MPI_UNDEFINED;
  return ((pending*)context)->result == slimSuccess ? MPI_SUCCESS : MPI_ERR_OTHER;
}
static int release(void* context) {
  free(context);
  return MPI_SUCCESS;
}
static int keepOn(void* context, int complete) {
  (void)context, (void)complete;
  return MPI_SUCCESS;
}

/* MPI wants the result of an in-place call at the buffer's begin, NCCL at the rank's place. */
static bool scattered(const void* send, void* recv, MPI_Count count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
                      int* code) {
  void* place = recv;
  if (send == MPI_IN_PLACE) {
    int rank;
    PMPI_Comm_rank(comm, &rank);
    place = (char*)recv + (size_t)rank * (size_t)count * bytesOf(type);
  }
  const mpiCall call = {slimCollectiveReduceScatter, orOwn(send, recv), place, (size_t)count, type, op, 0, comm};
  if (!compressed(&call, code)) return false;
  if (place != recv && *code == MPI_SUCCESS) memmove(recv, place, (size_t)count * bytesOf(type));
  return true;
}

#define SLIM_COUNT int
#define SLIM_CALL(name) name
#include "plugin/preload/mpi_calls.h"
#if MPI_VERSION >= 4
#define SLIM_COUNT MPI_Count
#define SLIM_CALL(name) name##_c
#include "plugin/preload/mpi_calls.h"
#endif

/* The program's own word that a training step begins: see docs/preload.md. */
SLIM_EXPORT void slimMarkStep(void) { slimChannelsMarkStep(); }

/* ---- Fortran: the same calls by the names that gfortran and its kin give them ----------------------------------- */

/* In mpi_f08 the code is optional. */
static void answer(MPI_Fint* code, int value) {
  if (code) *code = value;
}

/* MPICH's Fortran library calls the functions above, but for these. */
SLIM_EXPORT void mpi_init_f08_(MPI_Fint* code) { answer(code, MPI_Init(NULL, NULL)); }
SLIM_EXPORT void mpi_init_thread_f08_(const MPI_Fint* required, MPI_Fint* provided, MPI_Fint* code) {
  int level = 0;
  answer(code, MPI_Init_thread(NULL, NULL, *required, &level));
  *provided = level;
}
SLIM_EXPORT void mpi_finalize_f08_(MPI_Fint* code) { answer(code, MPI_Finalize()); }

#ifdef OPEN_MPI

/* Open MPI's Fortran constants are recognised by their addresses. */
static void* address(const void* buffer) {
  if (!buffer) return NULL;
  if (buffer == dlsym(RTLD_DEFAULT, "mpi_fortran_in_place_")) return MPI_IN_PLACE;
  if (buffer == dlsym(RTLD_DEFAULT, "mpi_fortran_bottom_")) return MPI_BOTTOM;
  return (void*)(uintptr_t)buffer;
}

SLIM_EXPORT void mpi_allreduce_(const void* send, void* recv, const MPI_Fint* count, const MPI_Fint* type,
                                const MPI_Fint* op, const MPI_Fint* comm, MPI_Fint* code) {
  answer(code, MPI_Allreduce(address(send), address(recv), *count, MPI_Type_f2c(*type), MPI_Op_f2c(*op),
                             MPI_Comm_f2c(*comm)));
}
SLIM_EXPORT void mpi_iallreduce_(const void* send, void* recv, const MPI_Fint* count, const MPI_Fint* type,
                                 const MPI_Fint* op, const MPI_Fint* comm, MPI_Fint* request, MPI_Fint* code) {
  MPI_Request started = MPI_REQUEST_NULL;
  answer(code, MPI_Iallreduce(address(send), address(recv), *count, MPI_Type_f2c(*type), MPI_Op_f2c(*op),
                              MPI_Comm_f2c(*comm), &started));
  *request = MPI_Request_c2f(started);
}
SLIM_EXPORT void mpi_reduce_(const void* send, void* recv, const MPI_Fint* count, const MPI_Fint* type,
                             const MPI_Fint* op, const MPI_Fint* root, const MPI_Fint* comm, MPI_Fint* code) {
  answer(code, MPI_Reduce(address(send), address(recv), *count, MPI_Type_f2c(*type), MPI_Op_f2c(*op), *root,
                          MPI_Comm_f2c(*comm)));
}
SLIM_EXPORT void mpi_bcast_(void* buffer, const MPI_Fint* count, const MPI_Fint* type, const MPI_Fint* root,
                            const MPI_Fint* comm, MPI_Fint* code) {
  answer(code, MPI_Bcast(address(buffer), *count, MPI_Type_f2c(*type), *root, MPI_Comm_f2c(*comm)));
}
SLIM_EXPORT void mpi_reduce_scatter_block_(const void* send, void* recv, const MPI_Fint* count, const MPI_Fint* type,
                                           const MPI_Fint* op, const MPI_Fint* comm, MPI_Fint* code) {
  answer(code, MPI_Reduce_scatter_block(address(send), address(recv), *count, MPI_Type_f2c(*type), MPI_Op_f2c(*op),
                                        MPI_Comm_f2c(*comm)));
}
_Static_assert(sizeof(MPI_Fint) == sizeof(int), "Fortran's integers are C's");
SLIM_EXPORT void mpi_reduce_scatter_(const void* send, void* recv, const MPI_Fint* counts, const MPI_Fint* type,
                                     const MPI_Fint* op, const MPI_Fint* comm, MPI_Fint* code) {
  answer(code, MPI_Reduce_scatter(address(send), address(recv), counts, MPI_Type_f2c(*type), MPI_Op_f2c(*op),
                                  MPI_Comm_f2c(*comm)));
}
SLIM_EXPORT void mpi_allgather_(const void* send, const MPI_Fint* sendCount, const MPI_Fint* sendType, void* recv,
                                const MPI_Fint* recvCount, const MPI_Fint* recvType, const MPI_Fint* comm,
                                MPI_Fint* code) {
  answer(code, MPI_Allgather(address(send), *sendCount, MPI_Type_f2c(*sendType), address(recv), *recvCount,
                             MPI_Type_f2c(*recvType), MPI_Comm_f2c(*comm)));
}

/* The same arguments, in mpif.h and mpi_f08. */
#define SLIM_SAME(name, as) SLIM_EXPORT extern __typeof__(as) name __attribute__((alias(#as)));
SLIM_SAME(mpi_init_, mpi_init_f08_)
SLIM_SAME(mpi_init_thread_, mpi_init_thread_f08_)
SLIM_SAME(mpi_finalize_, mpi_finalize_f08_)
SLIM_SAME(mpi_allreduce_f08_, mpi_allreduce_)
SLIM_SAME(mpi_iallreduce_f08_, mpi_iallreduce_)
SLIM_SAME(mpi_reduce_f08_, mpi_reduce_)
SLIM_SAME(mpi_bcast_f08_, mpi_bcast_)
SLIM_SAME(mpi_reduce_scatter_block_f08_, mpi_reduce_scatter_block_)
SLIM_SAME(mpi_reduce_scatter_f08_, mpi_reduce_scatter_)
SLIM_SAME(mpi_allgather_f08_, mpi_allgather_)

#endif
