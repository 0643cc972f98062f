/* The SLIM_* environment variables: one table feeds the parser, slimccl-info and docs/preload.md. */
#ifndef SLIM_ENVIRONMENT_H_
#define SLIM_ENVIRONMENT_H_

#include "compress/compress.h"

#ifdef __cplusplus
extern "C" {
#endif

/* X(field, variable, kind, default, help). Plan: auto or flat; Text; Flag: 0 or 1; Count: an integer; Bytes: 512, 64K,
 * 1M, …; Seconds: a number above 0; Level: NONE, WARN, INFO or TRACE; Subsystems: as log.h reads them. */
#define SLIM_VARIABLES(X)                                                                                              \
  X(compress, SLIM_COMPRESS, Text, "", "spec for gradients: allreduce and reduce-scatter over all of the job's ranks") \
  X(policy, SLIM_POLICY, Text, "", "file of rules for what is compressed, and how; they come before SLIM_COMPRESS")    \
  X(minBytes, SLIM_MIN_BYTES, Bytes, "64K", "smaller tensors stay plain (bytes of the whole tensor)")                  \
  X(cycle, SLIM_CYCLE, Count, "0", "compressed calls a training step on a communicator; 0: found out")                 \
  X(stateBytes, SLIM_STATE_BYTES, Bytes, "1G",                                                                         \
    "memory a communicator takes for feedback; on devices, for buffers too")                                           \
  X(hierarchy, SLIM_HIERARCHY, Plan, "auto",                                                                           \
    "auto: plain inside of NVLink domains, compressed across; flat: compressed between all ranks (NCCL)")              \
  X(domain, SLIM_DOMAIN, Text, "", "ranks with the same text are an NVLink domain, instead of what is found (NCCL)")   \
  X(seed, SLIM_SEED, Count, "1", "of all random draws")                                                                \
  X(timeout, SLIM_TIMEOUT, Seconds, "600", "wait for other ranks before an error names them")                          \
  X(debug, SLIM_DEBUG, Level, "WARN", "what is logged: NONE, WARN, INFO or TRACE")                                     \
  X(debugSubsystems, SLIM_DEBUG_SUBSYS, Subsystems, "^COLL",                                                           \
    "what INFO and TRACE are about: INIT, COLL (each call), CYCLE, TUNING, ALL; ^: all but these")                     \
  X(debugFile, SLIM_DEBUG_FILE, Text, "", "log file instead of stderr; %h: host, %p: process")                         \
  X(stats, SLIM_STATS, Text, "", "1: statistics on stderr at the end and on SIGUSR1; or a JSON file (%h, %p)")         \
  X(disable, SLIM_DISABLE, Flag, "0", "1: every call is handed on untouched")                                          \
  X(ncclLibrary, SLIM_NCCL_LIB, Text, "", "NCCL's library, where none is found in the process (libslimccl_nccl.so)")   \
  X(cpu, SLIM_CPU, Text, "", "instruction set of the CPU kernels: baseline, avx2, avx512; else the best one")          \
  X(maxCtas, SLIM_MAX_CTAS, Count, "0", "thread blocks of a CUDA kernel at most; 0: as many as the device runs at once")

typedef enum { slimPlanAuto, slimPlanFlat } slimPlanKind;
#define SLIM_FIELD_Text const char*
#define SLIM_FIELD_Plan slimPlanKind
#define SLIM_FIELD_Flag bool
#define SLIM_FIELD_Count uint64_t
#define SLIM_FIELD_Bytes uint64_t
#define SLIM_FIELD_Seconds double
#define SLIM_FIELD_Level int
#define SLIM_FIELD_Subsystems int
typedef struct {
#define SLIM_FIELD_(field, variable, kind, fallback, help) SLIM_FIELD_##kind field;
  SLIM_VARIABLES(SLIM_FIELD_)
#undef SLIM_FIELD_
} slimEnvironment;

typedef struct {
  const char *name, *fallback, *help;
} slimVariable;
extern const slimVariable slimVariables[]; /* ends with name = NULL */

/* Reads the variables among list ("NAME=value" strings, ended by NULL, which must outlive the result); others have
 * their defaults. On error the message names variable and value, and says what would be right. */
slimResult_t slimEnvironmentRead(slimEnvironment* environment, char* const* list);

/* The n-th SLIM_* variable of list that is none of ours, and the most similar one that is; NULL: no more. name: room
 * for 64 bytes. */
const char* slimEnvironmentUnknown(char* const* list, int n, char* name);

/* Reads "512", "64K", "1M", "2G" at *text and moves *text behind it. */
bool slimParseBytes(const char** text, uint64_t* bytes);

/* path with %h and %p replaced by host name and process. */
void slimExpandPath(const char* path, char* out, size_t size);

#ifdef __cplusplus
}
#endif
#endif
