/* The flags of //examples:train. */
#ifndef SLIMCCL_EXAMPLES_OPTIONS_H_
#define SLIMCCL_EXAMPLES_OPTIONS_H_

enum { maxSpecs = 64, maxTexts = 64 };

typedef struct {
  const char *text[maxTexts], *compress[maxSpecs];
  int texts, specs;
  int ranks, steps, batch, context, embed, hidden, evalEvery, evalSamples, seed;
  double rate, momentum, clip;
  const char *csv, *plot;
  int accept, help;
} Options;

/* Reads the command line into options, which it fills with the defaults first. Returns 0, or −1 after a message on
 * stderr. */
int optionsParse(Options* options, int argc, char** argv);
void optionsHelp(void);

/* path as the caller meant it: relative to the folder in which `bazel run` was typed. Valid until the program ends. */
const char* callersPath(const char* path);

#endif
