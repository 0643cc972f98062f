/* The flags of //examples:train. */
#ifndef SLIMCCL_EXAMPLES_OPTIONS_H_
#define SLIMCCL_EXAMPLES_OPTIONS_H_

#include "examples/flags.h"

enum { maxSpecs = 64 };

typedef struct {
  const char *text[maxTexts], *compress[maxSpecs];
  int texts, specs;
  int ranks, steps, batch, context, embed, hidden, evalEvery, evalSamples, seed;
  double rate, momentum, clip;
  const char *device, *csv, *plot;
  int accept, help;
} Options;

/* Reads the command line into options, which it fills with the defaults first. Returns 0, or −1 after a message on
 * stderr. */
int optionsParse(Options* options, int argc, char** argv);
void optionsHelp(void);

#endif
