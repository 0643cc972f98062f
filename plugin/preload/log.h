/* Log lines in NCCL's manner: "host:process:thread SlimCCL WARN text", to stderr or SLIM_DEBUG_FILE. */
#ifndef SLIM_LOG_H_
#define SLIM_LOG_H_

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { slimLogNone, slimLogWarn, slimLogInfo, slimLogTrace } slimLogLevel;

/* What INFO and TRACE are about: settings and communicators; each call; which calls repeat; what auto has measured. */
#define SLIM_LOG_SUBSYSTEMS(X) X(Init, INIT) X(Coll, COLL) X(Cycle, CYCLE) X(Tuning, TUNING)
#define SLIM_LOG_NUMBER_(name, text) slimLogNumber##name,
enum { SLIM_LOG_SUBSYSTEMS(SLIM_LOG_NUMBER_) slimLogSubsystems };
#undef SLIM_LOG_NUMBER_
#define SLIM_LOG_BIT_(name, text) slimLog##name = 1 << slimLogNumber##name,
typedef enum { SLIM_LOG_SUBSYSTEMS(SLIM_LOG_BIT_) slimLogAll = (1 << slimLogSubsystems) - 1 } slimLogSubsystem;
#undef SLIM_LOG_BIT_

/* Of a level's name, in any case; −1: there is none such. */
int slimLogLevelOf(const char* name);
/* Of "INIT,COLL", "ALL", "^COLL" (all but those), in any case; −1: a name is wrong. */
int slimLogSubsystemsOf(const char* list);
/* Lines up to level about subsystems go to file ("": stderr; %h and %p as in slimExpandPath). Before the first call:
 * WARN, stderr. */
void slimLogOpen(slimLogLevel level, int subsystems, const char* file);
/* One line; text gets no newline of its own. Warnings are about anything. */
void slimLog(slimLogLevel level, slimLogSubsystem about, const char* format, ...) __attribute__((format(printf, 3, 4)));
#define slimWarn(...) slimLog(slimLogWarn, slimLogAll, __VA_ARGS__)

#ifdef __cplusplus
}
#endif
#endif
