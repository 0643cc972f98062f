/* Log lines in NCCL's manner: "host:process:thread SlimCCL WARN text", to stderr or SLIM_DEBUG_FILE. */
#ifndef SLIM_LOG_H_
#define SLIM_LOG_H_

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { slimLogNone, slimLogWarn, slimLogInfo, slimLogTrace } slimLogLevel;

/* Of a level's name, in any case; −1: there is none such. */
int slimLogLevelOf(const char* name);
/* Lines up to level go to file ("": stderr; %h and %p as in slimExpandPath). Before the first call: WARN, stderr. */
void slimLogOpen(slimLogLevel level, const char* file);
/* One line; text gets no newline of its own. */
void slimLog(slimLogLevel level, const char* format, ...) __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
}
#endif
#endif
