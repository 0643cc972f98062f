/* Writes the manual pages, slimccl-info(1) or slimccl(7), from the tables that the programs read: man 1, man 7. */
#include <stdio.h>
#include <string.h>

#include "compress/spec.h"
#include "plugin/info/flags.h"
#include "plugin/preload/environment.h"
#include "plugin/slimccl.h"

/* Text as it is, whatever roff reads in it. */
static void text(const char* s) {
  for (int first = 1; *s; s++, first = 0) {
    if (*s == '-') {
      fputs("\\-", stdout);
    } else if (*s == '\\') {
      fputs("\\e", stdout);
    } else if (first && (*s == '.' || *s == '\'')) {
      printf("\\&%c", *s);
    } else {
      putchar(*s);
    }
  }
}
static void line(const char* s) {
  text(s);
  putchar('\n');
}
static void section(const char* name) { printf(".SH %s\n", name); }
static void item(const char* head) {
  fputs(".TP\n.B ", stdout);
  line(head);
}

static void title(const char* name, int number, const char* what) {
  printf(".TH %s %d \"\" \"SlimCCL %d.%d.%d\"\n.ad l\n.nh\n", name, number, SLIM_MAJOR, SLIM_MINOR, SLIM_PATCH);
  section("NAME");
  text(name);
  fputs(" \\- ", stdout);
  line(what);
}

static void variables(void) {
  section("ENVIRONMENT");
  for (const slimVariable* v = slimVariables; v->name; v++) {
    item(v->name);
    text(v->help);
    if (*v->fallback) printf(" (default "), text(v->fallback), putchar(')');
    putchar('\n');
  }
}

static void options(const slimOption* o) {
  for (const char* comma = ""; o->name; o++, comma = ", ") {
    fputs(comma, stdout);
    text(o->name);
    if (o->kind == slimOptionInt || o->kind == slimOptionReal) printf("=%g..%g", o->low, o->high);
    if (o->kind == slimOptionBlock) fputs("=64..8192", stdout);
    if (o->kind == slimOptionNode) fputs("=codec", stdout);
    if (o->words && o->kind != slimOptionInt) putchar(o->kind == slimOptionChoice ? '=' : '|'), text(o->words);
    if (o->fallback && *o->fallback && o->kind != slimOptionFlag) printf(" ("), text(o->fallback), putchar(')');
  }
}

static void compressors(void) {
  static const char* const kinds[] = {"Codecs", "Selectors", "Transforms", "Feedback", "Short forms"};
  section("COMPRESSORS");
  line("Names, their options with what they may be, and defaults in brackets. docs/specs.md says what each is.");
  for (int kind = 0; kind < (int)(sizeof kinds / sizeof *kinds); kind++) {
    printf(".SS %s\n", kinds[kind]);
    for (const slimName* name = slimNames; name->name; name++) {
      if ((int)name->kind != kind) continue;
      item(name->name);
      if (name->options->name) options(name->options);
      putchar('\n');
    }
  }
}

static void flag(const char* name, const char* takes, const char* help) {
  fputs(".TP\n.BI \\-\\-", stdout);
  text(name);
  printf(" \" %s\"\n", takes ? takes : "");
  line(help);
}

static void info(void) {
  title("slimccl-info", 1, "show what SlimCCL finds and how it is set, or explain a compressor");
  section("SYNOPSIS");
  fputs(".B slimccl\\-info\n", stdout);
  section("DESCRIPTION");
  line(
      "Shows SlimCCL's version, the CPU's kernels, the CUDA driver and NCCL that are found, the MPI that it was built");
  line(
      "for, and every setting with its value and where that is from. A wrong setting, or an unknown SLIM_ variable, "
      "is");
  line("named, and the exit status is 1.");
  section("OPTIONS");
#define SLIM_ITEM_(letter, name, argument, help) flag(name, argument, help);
  SLIM_INFO_FLAGS(SLIM_ITEM_)
  variables();
  section("SEE ALSO");
  line("slimccl(7)");
}

static void overview(void) {
  title("slimccl", 7, "compressed collectives for distributed training");
  section("SYNOPSIS");
  line("cc program.c $(pkg-config --cflags --libs slimccl)");
  fputs(".br\n", stdout);
  line("SLIM_COMPRESS='ef(qsgd(bits=4))' mpirun -x SLIM_COMPRESS -x LD_PRELOAD=libslimccl_mpi.so program");
  section("DESCRIPTION");
  line(
      "SlimCCL compresses what collectives send. A program calls it (slimccl.h), or it is preloaded under a program "
      "that");
  line(
      "knows nothing of it. A compressor is written as a spec: feedback around a codec, up=... and down=... for the "
      "two");
  line("directions.");
  compressors();
  variables();
  section("SEE ALSO");
  line("slimccl-info(1)");
}

int main(int argc, char** argv) {
  if (argc == 2 && !strcmp(argv[1], "1")) return info(), 0;
  if (argc == 2 && !strcmp(argv[1], "7")) return overview(), 0;
  fputs("man 1, or man 7\n", stderr);
  return 2;
}
