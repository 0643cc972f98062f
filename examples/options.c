#include "examples/options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum { flagSwitch, flagInteger, flagNumber, flagText, flagTexts } FlagKind;

typedef struct {
  const char *name, *value, *help;
  FlagKind kind;
  void* target;
  double min, max;
  int* count; /* flagTexts: how many there are, at most max */
} Flag;

static Options parsed; /* what the table below points into */

static const Options defaults = {.ranks = 4,
                                 .steps = 400,
                                 .batch = 256,
                                 .context = 16,
                                 .embed = 32,
                                 .hidden = 768,
                                 .evalEvery = 40,
                                 .evalSamples = 4096,
                                 .seed = 1,
                                 .rate = 3.2,
                                 .momentum = 0.0,
                                 .clip = 1.0};

static const Flag flags[] = {
    {"text", "FILE", "learn this text; may be repeated (the licenses in /usr/share/common-licenses)", flagTexts,
     parsed.text, 0, maxTexts, &parsed.texts},
    {"compress", "SPEC", "train with this compressor too; may be repeated (six that show what feedback does)",
     flagTexts, parsed.compress, 0, maxSpecs, &parsed.specs},
    {"ranks", "N", "virtual ranks, a thread each; under mpirun its processes are the ranks", flagInteger, &parsed.ranks,
     1, 1024, NULL},
    {"steps", "N", "training steps", flagInteger, &parsed.steps, 1, 1e9, NULL},
    {"batch", "N", "characters a step, all ranks together", flagInteger, &parsed.batch, 1, 1 << 24, NULL},
    {"lr", "RATE", "learning rate at its highest: it rises over the first tenth, then falls to zero", flagNumber,
     &parsed.rate, 0, 1e6, NULL},
    {"momentum", "M", "momentum of SGD, 0 to 1", flagNumber, &parsed.momentum, 0, 1, NULL},
    {"clip", "NORM", "longest gradient, after the allreduce; 0 = any", flagNumber, &parsed.clip, 0, 1e6, NULL},
    {"hidden", "N", "width of the two hidden layers", flagInteger, &parsed.hidden, 1, 16384, NULL},
    {"embed", "N", "numbers that stand for a character", flagInteger, &parsed.embed, 1, 4096, NULL},
    {"context", "N", "characters that the model sees", flagInteger, &parsed.context, 1, 4096, NULL},
    {"seed", "N", "of the start, the batches and the compressors", flagInteger, &parsed.seed, 0, 2147483647, NULL},
    {"eval-every", "N", "steps between two evaluations", flagInteger, &parsed.evalEvery, 1, 1e9, NULL},
    {"eval-samples", "N", "held-out characters an evaluation, evenly spread; 0 = all", flagInteger, &parsed.evalSamples,
     0, 1e9, NULL},
    {"csv", "FILE", "write spec,seed,step,train_loss,val_loss,bytes_per_rank: a row an evaluation", flagText,
     &parsed.csv, 0, 0, NULL},
    {"plot", "FILE.svg", "draw loss against steps and against bytes sent", flagText, &parsed.plot, 0, 0, NULL},
    {"accept", NULL, "run the acceptance: tune the rate uncompressed, then three seeds of every compressor", flagSwitch,
     &parsed.accept, 0, 0, NULL},
    {"help", NULL, "show this", flagSwitch, &parsed.help, 0, 0, NULL}};

enum { flagCount = sizeof flags / sizeof *flags };

void optionsHelp(void) {
  Options keep = parsed;
  parsed = defaults;
  puts(
      "Trains a small character-level language model with data-parallel SGD: once uncompressed and once for every\n"
      "compressor, from the same start and with the same batches. Then shows what compression did.\n\n"
      "  train [flags]                    N virtual ranks in this process\n"
      "  mpirun -n N train_mpi [flags]    N processes\n");
  for (int f = 0; f < flagCount; f++) {
    const Flag* flag = &flags[f];
    char name[48], value[32] = "";
    snprintf(name, sizeof name, "--%s %s", flag->name, flag->value ? flag->value : "");
    if (flag->kind == flagInteger) snprintf(value, sizeof value, " (%d)", *(int*)flag->target);
    if (flag->kind == flagNumber) snprintf(value, sizeof value, " (%g)", *(double*)flag->target);
    printf("  %-20s %s%s\n", name, flag->help, value);
  }
  parsed = keep;
}

static int set(const Flag* flag, const char* value) {
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
        fprintf(stderr, "train: --%s: more than %d\n", flag->name, (int)flag->max);
        return -1;
      }
      ((const char**)flag->target)[(*flag->count)++] = value;
      return 0;
    default: {
      const double number = strtod(value, &end);
      const int whole = flag->kind == flagInteger;
      if (end == value || *end || !(number >= flag->min && number <= flag->max) || (whole && number != floor(number))) {
        fprintf(stderr, "train: --%s %s: not a%s number from %.0f to %.0f\n", flag->name, value, whole ? " whole" : "",
                flag->min, flag->max);
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

int optionsParse(Options* options, int argc, char** argv) {
  parsed = defaults;
  for (int i = 1; i < argc; i++) {
    const char* argument = argv[i];
    const size_t length = strcspn(argument, "=");
    const Flag* flag = NULL;
    for (int f = 0; f < flagCount && !strncmp(argument, "--", 2); f++)
      if (strlen(flags[f].name) + 2 == length && !strncmp(flags[f].name, argument + 2, length - 2)) flag = &flags[f];
    if (!flag) {
      fprintf(stderr, "train: unknown flag '%s' (--help lists all)\n", argument);
      return -1;
    }
    const char* value = argument[length] ? argument + length + 1 : NULL;
    if (flag->kind == flagSwitch ? value != NULL : !value && ++i >= argc) {
      fprintf(stderr, "train: --%s %s\n", flag->name, value ? "takes no value" : "wants a value");
      return -1;
    }
    if (set(flag, value || flag->kind == flagSwitch ? value : argv[i])) return -1;
  }
  *options = parsed;
  return 0;
}

const char* callersPath(const char* path) {
  /* `bazel run` starts programs elsewhere and names the caller's folder; BAZELW_PWD is bazelw's word for it. */
  const char* folder = getenv("BUILD_WORKING_DIRECTORY");
  if (folder && getenv("BAZELW_PWD")) folder = getenv("BAZELW_PWD");
  if (!path || *path == '/' || !folder) return path;
  static char joined[maxTexts + 2][4096]; /* every path is asked for once */
  static int count;
  const int full = count == maxTexts + 2 || strlen(folder) + strlen(path) + 2 > sizeof *joined;
  if (full) return path;
  strcat(strcat(strcpy(joined[count], folder), "/"), path); /* fits: see above */
  return joined[count++];
}
