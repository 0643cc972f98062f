#include "plugin/preload/environment.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plugin/preload/cycle.h"
#include "plugin/preload/log.h"

#define SLIM_ROW_(field, variable, kind, fallback, help) {#variable, fallback, help},
const slimVariable slimVariables[] = {SLIM_VARIABLES(SLIM_ROW_){NULL, NULL, NULL}};

bool slimParseBytes(const char** text, uint64_t* bytes) {
  const char* p = *text;
  uint64_t n = 0;
  if (!isdigit((unsigned char)*p)) return false;
  for (; isdigit((unsigned char)*p); p++) {
    if (n > (UINT64_MAX >> 34) / 10) return false;
    n = 10 * n + (uint64_t)(*p - '0');
  }
  const char* units = "KMG";
  const char* unit = *p ? strchr(units, toupper((unsigned char)*p)) : NULL;
  if (unit) {
    n <<= 10 * (unit - units + 1);
    p++;
  }
  *text = p;
  *bytes = n;
  return true;
}

static const char* readText(const char* value, const char** out) {
  *out = value;
  return NULL;
}
static const char* readFlag(const char* value, bool* out) {
  if (strcmp(value, "0") && strcmp(value, "1")) return "0 or 1";
  *out = *value == '1';
  return NULL;
}
static const char* readCount(const char* value, uint64_t* out) {
  const char* end = value;
  for (; isdigit((unsigned char)*end); end++) {
  }
  if (*end || end == value || end - value > 18) return "an integer from 0";
  *out = strtoull(value, NULL, 10);
  return NULL;
}
static const char* readBytes(const char* value, uint64_t* out) {
  return slimParseBytes(&value, out) && !*value ? NULL : "bytes, e.g. 65536, 64K or 1M";
}
static const char* readSeconds(const char* value, double* out) {
  char* end;
  *out = strtod(value, &end);
  return end != value && !*end && isfinite(*out) && *out > 0 ? NULL : "seconds, e.g. 600";
}
static const char* readPlan(const char* value, slimPlanKind* out) {
  *out = strcmp(value, "flat") ? slimPlanAuto : slimPlanFlat;
  return *out == slimPlanFlat || !strcmp(value, "auto") ? NULL : "auto or flat";
}
static const char* readLevel(const char* value, int* out) {
  *out = slimLogLevelOf(value);
  return *out >= 0 ? NULL : "NONE, WARN, INFO or TRACE";
}

static const char* readSubsystems(const char* value, int* out) {
  *out = slimLogSubsystemsOf(value);
  return *out >= 0 ? NULL : "INIT, COLL, CYCLE, TUNING or ALL, with commas; or ^ and those that shall not be";
}

static const char* valueOf(const char* name, char* const* list) {
  const size_t n = strlen(name);
  for (; *list; list++)
    if (!strncmp(*list, name, n) && (*list)[n] == '=') return *list + n + 1;
  return NULL;
}

slimResult_t slimEnvironmentRead(slimEnvironment* e, char* const* list) {
  const char *value, *right;
#define SLIM_READ_(field, variable, kind, fallback, help)            \
  value = valueOf(#variable, list);                                  \
  right = read##kind(value && *value ? value : fallback, &e->field); \
  if (right) return slimFail(slimInvalidArgument, "%s is \"%s\": give %s", #variable, value ? value : fallback, right);
  SLIM_VARIABLES(SLIM_READ_)
#undef SLIM_READ_
  if (e->cycle > SLIM_CYCLE_HISTORY)
    return slimFail(slimInvalidArgument, "SLIM_CYCLE is \"%llu\": give at most %d", (unsigned long long)e->cycle,
                    SLIM_CYCLE_HISTORY);
  return slimSuccess;
}

static bool known(const char* name, size_t n) {
  for (const slimVariable* v = slimVariables; v->name; v++)
    if (strlen(v->name) == n && !strncmp(name, v->name, n)) return true;
  /* What bazelw and its build read, for programs started by it. */
  static const char* const build[] = {"SLIM_MPI", "SLIM_CUDA", "SLIM_TORCH"};
  for (int i = 0; i < 3; i++)
    if (strlen(build[i]) == n && !strncmp(name, build[i], n)) return true;
  return false;
}

/* Insertions, deletions and replacements between a (n ≤ 63 bytes) and b. */
static size_t distance(const char* a, size_t n, const char* b) {
  size_t row[64];
  for (size_t i = 0; i <= n; i++) row[i] = i;
  for (size_t j = 1; b[j - 1]; j++) {
    size_t corner = row[0];
    row[0] = j;
    for (size_t i = 1; i <= n; i++) {
      const size_t up = row[i];
      size_t best = corner + (a[i - 1] != b[j - 1]);
      if (up + 1 < best) best = up + 1;
      if (row[i - 1] + 1 < best) best = row[i - 1] + 1;
      corner = up;
      row[i] = best;
    }
  }
  return row[n];
}

const char* slimEnvironmentUnknown(char* const* list, int n, char* name) {
  for (; *list; list++) {
    if (strncmp(*list, "SLIM_", 5)) continue;
    size_t length = strcspn(*list, "=");
    if (known(*list, length) || n-- > 0) continue;
    if (length > 63) length = 63;
    memcpy(name, *list, length);
    name[length] = 0;
    const slimVariable* nearest = slimVariables;
    for (const slimVariable* v = slimVariables; v->name; v++)
      if (distance(name, length, v->name) < distance(name, length, nearest->name)) nearest = v;
    return nearest->name;
  }
  return NULL;
}

void slimExpandPath(const char* path, char* out, size_t size) {
  size_t n = 0;
  for (; *path && n + 1 < size; path++) {
    if (path[0] == '%' && path[1] == 'p') {
      n += (size_t)snprintf(out + n, size - n, "%d", (int)getpid());
      path++;
    } else if (path[0] == '%' && path[1] == 'h') {
      char host[256] = "";
      gethostname(host, sizeof host - 1);
      n += (size_t)snprintf(out + n, size - n, "%s", host);
      path++;
    } else {
      out[n++] = *path;
    }
  }
  out[n < size ? n : size - 1] = 0;
}
