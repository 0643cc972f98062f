/* One run of a method: all workers, one seed. */
#ifndef SLIMCCL_EXAMPLES_CONVEX_RUN_H_
#define SLIMCCL_EXAMPLES_CONVEX_RUN_H_

#include "examples/convex/paper.h"

enum { runLevels = 4 };
extern const double runLevel[runLevels]; /* 1e-2, 1e-4, 1e-8, 1e-10; a run ends at the last */

/* After `round` rounds. bits: of messages so far, a worker; wire: bytes it sent to each of the others. */
typedef struct {
  int round;
  double error, bits, wire; /* error: ‖x − x*‖² / ‖x0 − x*‖² */
} Point;

typedef struct {
  uint64_t seed;     /* of compressors and batches */
  double multiplier; /* of theory's gamma; where there is one, of eta */
  int rounds, batch;

  /* Results */
  char spec[512]; /* both directions */
  Step step;
  Point* points; /* round 0, and every `every` rounds until the end */
  int count, every;
  Point reached[runLevels]; /* first time at each level; round 0: never */
  double plateau;           /* mean error of the second half of the rounds; INFINITY where it diverged */
  int identical;            /* all workers ended with the same bits in x */
} Run;

/* Runs it. Ends the program with a message where a collective fails. */
void runMethod(const Problem* problem, const Method* method, Run* run);
void runFree(Run* run);

#endif
