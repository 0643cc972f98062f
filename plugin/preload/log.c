#include "plugin/preload/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "plugin/preload/environment.h"

static const char* const names[] = {"NONE", "WARN", "INFO", "TRACE"};
static slimLogLevel most = slimLogWarn;
static FILE* out; /* NULL: stderr */

int slimLogLevelOf(const char* name) {
  for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
    if (!strcasecmp(name, names[i])) return i;
  return -1;
}

void slimLogOpen(slimLogLevel level, const char* file) {
  most = level;
  if (!*file || level == slimLogNone) return;
  char path[4096];
  slimExpandPath(file, path, sizeof path);
  FILE* opened = fopen(path, "ae");
  if (opened)
    out = opened;
  else
    slimLog(slimLogWarn, "cannot write to %s (SLIM_DEBUG_FILE): logging to stderr", path);
}

void slimLog(slimLogLevel level, const char* format, ...) {
  if (level > most) return;
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
