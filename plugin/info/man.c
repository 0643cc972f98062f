/* Writes the manual pages, slimccl-info(1) or slimccl(7), from the tables that the programs read, and slimccl(3) from
 * the headers: man 1, man 7, man 3 HEADER.... */
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/spec.h"
#include "plugin/info/flags.h"
#include "plugin/preload/environment.h"
#include "plugin/slimccl.h"

/* The code point at *s, which is moved to its last byte. */
static unsigned codePoint(const char** s) {
  const unsigned char first = (unsigned char)**s;
  const int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
  unsigned c = first & (0x3Fu >> more);
  for (int i = 0; i < more && (*s)[1]; i++) c = c << 6 | ((unsigned char)*++*s & 0x3F);
  return c;
}

/* Text as it is, whatever roff reads in it. */
static void text(const char* s) {
  for (int first = 1; *s; s++, first = 0) {
    if (*s & 0x80) {
      printf("\\[u%04X]", codePoint(&s));
    } else if (*s == '-') {
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
  line("slimccl-info(1), slimccl(3)");
}

/* ---- Headers: comments at a line's start, each before what it is about ------------------------------------------- */

enum { mostText = 1 << 14 };
typedef struct {
  char comment[mostText], code[mostText]; /* lines, each with its end */
} topic;

static void append(char* lines, const char* line) {
  if (strlen(lines) + strlen(line) + 2 > mostText) {
    fputs("man: a comment or declaration is too long\n", stderr);
    exit(1);
  }
  strcat(strcat(lines, line), "\n");
}

/* Each line of lines, without its end. */
static void eachLine(char* lines, void (*say)(char*)) {
  for (char* at = strtok(lines, "\n"); at; at = strtok(NULL, "\n")) say(at);
}

static void sayCode(char* code) { line(strncmp(code, "SLIM_API ", 9) ? code : code + 9); }

static void sayComment(char* words) {
  char* end = words + strlen(words);
  if (end - words >= 2 && !strcmp(end - 2, "*/")) end[-2] = 0;
  words += !strncmp(words, "/*", 2) ? 2 : !strncmp(words, " *", 2) ? 2 : 0;
  words += *words == ' ';
  if (!strncmp(words, "---- ", 5)) {
    char* name = words + 5;
    for (char* c = name; *c; c++) *c = (char)toupper((unsigned char)*c);
    *strstr(name, " --") = 0;
    section(name);
  } else if (!strncmp(words, "- ", 2)) {
    puts(".IP \\(bu 2");
    line(words + 2);
  } else if (words[strspn(words, " ")]) {
    line(words + strspn(words, " "));
  }
}

static void say(topic* t) {
  if (*t->code) {
    fputs(".PP\n.nf\n.ft B\n", stdout);
    eachLine(t->code, sayCode);
    fputs(".ft R\n.fi\n", stdout);
    if (*t->comment) fputs(".RS 4\n", stdout);
  } else if (*t->comment) {
    fputs(".PP\n", stdout);
  }
  eachLine(t->comment, sayComment);
  if (*t->code && *t->comment) fputs(".RE\n", stdout);
  *t = (topic){"", ""};
}

static bool header(const char* path) {
  static topic now;
  char at[1024];
  FILE* file = fopen(path, "r");
  if (!file) return perror(path), false;
  bool inComment = false, inDirective = false;
  int depth = 0; /* of braces and parentheses, in code */
  while (fgets(at, sizeof at, file)) {
    at[strcspn(at, "\n")] = 0;
    const size_t n = strlen(at);
    if (inDirective || (!inComment && *at == '#')) {
      inDirective = n && at[n - 1] == '\\';
    } else if (inComment || (!depth && !strncmp(at, "/*", 2))) {
      if (!inComment && (*now.code || *now.comment)) say(&now);
      append(now.comment, at);
      inComment = !strstr(at, "*/");
    } else if (!depth && (!*at || !strncmp(at, "extern", 6) || !strcmp(at, "}"))) {
      say(&now);
    } else {
      append(now.code, at);
      for (const char* c = at; *c && strncmp(c, "/*", 2); c++)
        depth += (*c == '{' || *c == '(') - (*c == '}' || *c == ')');
    }
  }
  say(&now);
  return fclose(file) == 0;
}

static int api(char** headers) {
  title("slimccl", 3, "the C API of compressed collectives");
  section("SYNOPSIS");
  for (char** h = headers; *h; h++) {
    const char* name = strrchr(*h, '/');
    printf(".B #include <%s>\n.br\n", name ? name + 1 : *h);
  }
  line("cc program.c $(pkg-config --cflags --libs slimccl)");
  section("DESCRIPTION");
  for (char** h = headers; *h; h++)
    if (!header(*h)) return 1;
  section("SEE ALSO");
  line("slimccl(7), slimccl-info(1)");
  return 0;
}

int main(int argc, char** argv) {
  if (argc > 2 && !strcmp(argv[1], "3")) return api(argv + 2);
  if (argc == 2 && !strcmp(argv[1], "1")) return info(), 0;
  if (argc == 2 && !strcmp(argv[1], "7")) return overview(), 0;
  fputs("man 1, man 7, or man 3 HEADER...\n", stderr);
  return 2;
}
