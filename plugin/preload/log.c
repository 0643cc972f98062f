#include "plugin/preload/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "plugin/preload/environment.h"

static const char* const names[] = {"NONE", "WARN", "INFO", "TRACE"};
static slimLogLevel most = slimLogWarn;
static int subsystems = slimLogAll;
static FILE* out; /* NULL: stderr */

int slimLogLevelOf(const char* name) {
  for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
    if (!strcasecmp(name, names[i])) return i;
  return -1;
}

int slimLogSubsystemsOf(const char* list) {
#define SLIM_LOG_NAME_(name, text) #text,
  static const char* const subsystemNames[] = {SLIM_LOG_SUBSYSTEMS(SLIM_LOG_NAME_) "ALL"};
#undef SLIM_LOG_NAME_
  const bool but = *list == '^';
  int named = 0;
  list += but;
  for (size_t n; n = strcspn(list, ","), true; list += n + 1) {
    int i = 0;
    while (i <= slimLogSubsystems && (strncasecmp(list, subsystemNames[i], n) || subsystemNames[i][n])) i++;
    if (i > slimLogSubsystems) return -1;
    named |= i < slimLogSubsystems ? 1 << i : slimLogAll;
    if (!list[n]) break;
  }
  return but ? slimLogAll & ~named : named;
}

void slimLogOpen(slimLogLevel level, int about, const char* file) {
  most = level;
  subsystems = about;
  if (!*file || level == slimLogNone) return;
  char path[4096];
  slimExpandPath(file, path, sizeof path);
  FILE* opened = fopen(path, "ae");
  if (opened)
    out = opened;
  else
    slimWarn("cannot write to %s (SLIM_DEBUG_FILE): logging to stderr", path);
}

void slimLog(slimLogLevel level, slimLogSubsystem about, const char* format, ...) {
  if (level > most || (level > slimLogWarn && !(subsystems & (int)about))) return;
  char host[64] = "", text[2048];
  gethostname(host, sizeof host - 1);
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  FILE* file = out ? out : stderr;
  fprintf(file, "%s:%d:%ld SlimCCL %s %s\n", host, (int)getpid(), syscall(SYS_gettid), names[level], text);
  fflush(file);
}
