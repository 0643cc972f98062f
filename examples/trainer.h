/* One training run of the example: all ranks, one compressor. */
#ifndef SLIMCCL_EXAMPLES_TRAINER_H_
#define SLIMCCL_EXAMPLES_TRAINER_H_

#include <stdint.h>

#include "examples/options.h"
#include "examples/text.h"

typedef struct {
  int step;
  double
      train; /* mean loss of the batches since the last evaluation (at step 0: of the first batch), nats a character */
  double valid;   /* loss on held-out text */
  double bytes;   /* sent so far, mean over ranks */
  double seconds; /* since the start, without evaluations; this rank's clock */
} Evaluation;

typedef struct {
  const char* spec; /* NULL: uncompressed */
  uint64_t seed;
  double rate;
  int number, total; /* for the progress line: run number of total */

  /* Results: the same on every rank */
  char printed[512]; /* the spec with both directions */
  Evaluation* evaluations;
  int count;
  double stepBytes, plainBytes;                                        /* a step and rank */
  double encodeSeconds, exchangeSeconds, reduceSeconds, decodeSeconds; /* a step, mean over ranks */
  int identical; /* all ranks ended with the same bits in all parameters */
} Run;

/* Makes the ranks of all runs exchange their gradients in the memory of CUDA devices, rank r on device r modulo their
 * number. Returns 0, or −1 after a message on stderr. */
int trainerOnCuda(void);
/* Starts MPI where the program was built with it; trainerRanks: how many ranks train. Both end the program with a
 * message where something is wrong. */
void trainerInit(int* argc, char*** argv);
int trainerRanks(const Options* options);
/* 1 where ranks are processes, and so what they send takes time. */
int trainerProcesses(void);
/* 1 on the rank that prints. */
int trainerPrints(void);
void trainerFinish(void);

/* Checks a spec as far as that is possible without data. Returns 0, or −1 after the library's message on stderr. */
int trainerCheckSpec(const char* spec);
/* Trains; fills run's results. Ends the program with a message where a collective fails. */
void trainerRun(const Options* options, const Text* text, Run* run);
void trainerFreeRun(Run* run);
/* Parameters of the model. */
size_t trainerParameters(const Options* options, const Text* text);

#endif
