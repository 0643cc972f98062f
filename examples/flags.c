#include "examples/flags.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void flagsHelp(const Flag* flags, int count) {
  for (int f = 0; f < count; f++) {
    const Flag* flag = &flags[f];
    char name[48], value[32] = "";
    snprintf(name, sizeof name, "--%s %s", flag->name, flag->value ? flag->value : "");
    if (flag->kind == flagInteger) snprintf(value, sizeof value, " (%d)", *(int*)flag->target);
    if (flag->kind == flagNumber) snprintf(value, sizeof value, " (%g)", *(double*)flag->target);
    printf("  %-20s %s%s\n", name, flag->help, value);
  }
}

static int set(const char* program, const Flag* flag, const char* value) {
  char* end;
  switch (flag->kind) {
    case flagSwitch:
      *(int*)flag->target = 1;
      return 0;
    case flagText:
      *(const char**)flag->target = value;
      return 0;
    case flagTexts:
      if (*flag->count >= (int)flag->max) {
        fprintf(stderr, "%s: --%s: more than %d\n", program, flag->name, (int)flag->max);
        return -1;
      }
      ((const char**)flag->target)[(*flag->count)++] = value;
      return 0;
    default: {
      const double number = strtod(value, &end);
      const int whole = flag->kind == flagInteger;
      if (end == value || *end || !(number >= flag->min && number <= flag->max) || (whole && number != floor(number))) {
        fprintf(stderr, "%s: --%s %s: not a%s number from %.0f to %.0f\n", program, flag->name, value,
                whole ? " whole" : "", flag->min, flag->max);
        return -1;
      }
      if (whole) {
        *(int*)flag->target = (int)number;
      } else {
        *(double*)flag->target = number;
      }
      return 0;
    }
  }
}

int flagsParse(const char* program, const Flag* flags, int count, int argc, char** argv) {
  for (int i = 1; i < argc; i++) {
    const char* argument = argv[i];
    const size_t length = strcspn(argument, "=");
    const Flag* flag = NULL;
    for (int f = 0; f < count && !strncmp(argument, "--", 2); f++)
      if (strlen(flags[f].name) + 2 == length && !strncmp(flags[f].name, argument + 2, length - 2)) flag = &flags[f];
    if (!flag) {
      fprintf(stderr, "%s: unknown flag '%s' (--help lists all)\n", program, argument);
      return -1;
    }
    const char* value = argument[length] ? argument + length + 1 : NULL;
    if (flag->kind == flagSwitch ? value != NULL : !value && ++i >= argc) {
      fprintf(stderr, "%s: --%s %s\n", program, flag->name, value ? "takes no value" : "wants a value");
      return -1;
    }
    if (set(program, flag, value || flag->kind == flagSwitch ? value : argv[i])) return -1;
  }
  return 0;
}

const char* callersPath(const char* path) {
  /* `bazel run` starts programs elsewhere and names the caller's folder; BAZELW_PWD is bazelw's word for it. */
  const char* folder = getenv("BUILD_WORKING_DIRECTORY");
  if (folder && getenv("BAZELW_PWD")) folder = getenv("BAZELW_PWD");
  if (!path || *path == '/' || !folder) return path;
  enum { maxPaths = maxTexts + 2 };
  static char joined[maxPaths][4096]; /* every path is asked for once */
  static int count;
  const int full = count == maxPaths || strlen(folder) + strlen(path) + 2 > sizeof *joined;
  if (full) return path;
  strcat(strcat(strcpy(joined[count], folder), "/"), path); /* fits: see above */
  return joined[count++];
}
