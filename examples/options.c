#include "examples/options.h"

#include <stdio.h>

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
                                 .clip = 1.0,
                                 .device = "cpu"};

static const Flag flags[] = {
    {"text", "FILE", "learn this text; may be repeated (the licenses in /usr/share/common-licenses)", flagTexts,
     parsed.text, 0, maxTexts, &parsed.texts},
    {"compress", "SPEC", "train with this compressor too; may be repeated (six that show what feedback does)",
     flagTexts, parsed.compress, 0, maxSpecs, &parsed.specs},
    {"ranks", "N", "virtual ranks, a thread each; under mpirun its processes are the ranks", flagInteger, &parsed.ranks,
     1, 1024, NULL},
    {"device", "cpu|cuda", "where gradients are compressed and exchanged; the model computes on the CPU (cpu)",
     flagText, &parsed.device, 0, 0, NULL},
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
    {"csv", "FILE", "write spec,seed,step,train_loss,val_loss,bytes_per_rank,seconds: a row an evaluation", flagText,
     &parsed.csv, 0, 0, NULL},
    {"plot", "FILE.svg", "draw loss against steps and bytes sent; under mpirun against time too", flagText,
     &parsed.plot, 0, 0, NULL},
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
  flagsHelp(flags, flagCount);
  parsed = keep;
}

int optionsParse(Options* options, int argc, char** argv) {
  parsed = defaults;
  if (flagsParse("train", flags, flagCount, argc, argv)) return -1;
  *options = parsed;
  return 0;
}
