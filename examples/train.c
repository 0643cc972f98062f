/* Trains the same small language model uncompressed and with compressed gradients, and shows the difference. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/options.h"
#include "examples/plot.h"
#include "examples/table.h"
#include "examples/text.h"
#include "examples/trainer.h"

static const char* const defaultSpecs[] = {
    "ef(onebit)", "ef(topk(ratio=0.01))", "ef(rotate(onebit))", "ef(qsgd(bits=4))", "onebit", "topk(ratio=0.01)"};
enum { defaultSpecCount = sizeof defaultSpecs / sizeof *defaultSpecs };

static int onCuda(const Options* options) { return !strcmp(options->device, "cuda"); }

static double finalLoss(const Run* run) {
  const double loss = run->evaluations[run->count - 1].valid;
  return isfinite(loss) ? loss : INFINITY;
}

/* ---- Tables ------------------------------------------------------------------------------------------------------ */

static void bytesCell(Table* table, int column, double bytes) {
  if (bytes < 1e6) {
    tableCell(table, column, "%.1f kB", bytes / 1e3);
  } else {
    tableCell(table, column, "%.2f MB", bytes / 1e6);
  }
}

static void ratioCell(Table* table, int column, const Run* run) {
  if (run->stepBytes > 0) {
    tableCell(table, column, "%.1f", run->plainBytes / run->stepBytes);
  } else {
    tableCell(table, column, "-");
  }
}

/* ---- CSV and plot -------------------------------------------------------------------------------------------------
 */

static int csvWrite(const char* path, const Run* runs, int count) {
  FILE* out = fopen(path, "w");
  if (!out) return -1;
  fputs("spec,seed,step,train_loss,val_loss,bytes_per_rank,seconds\n", out);
  for (int r = 0; r < count; r++)
    for (int i = 0; i < runs[r].count; i++) {
      const Evaluation* e = &runs[r].evaluations[i];
      fprintf(out, "\"%s\",%llu,%d,%.17g,%.17g,%.0f,%.6f\n", runs[r].spec ? runs[r].spec : "uncompressed",
              (unsigned long long)runs[r].seed, e->step, e->train, e->valid, e->bytes, e->seconds);
    }
  const int failed = ferror(out);
  return fclose(out) || failed ? -1 : 0;
}

/* 1 if spec is what `other` is with error feedback around it. */
static int isWithoutFeedback(const char* spec, const char* other) {
  const size_t length = strlen(spec);
  return strlen(other) == length + 4 && !strncmp(other, "ef(", 3) && !strncmp(other + 3, spec, length);
}

static int plotRuns(const char* path, const Options* options, size_t parameters, const Run* runs, int count) {
  PlotSeries *steps = calloc((size_t)count, sizeof *steps), *bytes = calloc((size_t)count, sizeof *bytes);
  PlotSeries* times = calloc((size_t)count, sizeof *times);
  int points = 0, done = -1, dashed = 0, color = 0;
  for (int r = 0; r < count; r++) points += runs[r].count;
  double *data = malloc((size_t)points * 4 * sizeof *data), *next = data;
  if (steps && bytes && times && data) {
    double low = INFINITY;
    for (int r = 0; r < count; r++) {
      const size_t n = (size_t)runs[r].count;
      double *x = next, *y = next + n, *z = next + 2 * n, *t = next + 3 * n;
      next += 4 * n;
      for (size_t i = 0; i < n; i++) {
        x[i] = runs[r].evaluations[i].step;
        y[i] = runs[r].evaluations[i].valid;
        z[i] = runs[r].evaluations[i].bytes;
        t[i] = runs[r].evaluations[i].seconds;
        if (y[i] < low) low = y[i];
      }
      PlotSeries* s = &steps[r];
      *s = (PlotSeries){runs[r].spec ? runs[r].spec : "uncompressed", x, y, n, r ? ++color : 0, 0, NULL, NULL};
      for (int other = 1; other < r; other++)
        if (isWithoutFeedback(runs[r].spec, runs[other].spec)) {
          s->color = steps[other].color;
          s->dashed = 1;
          dashed = 1;
          color--;
          break;
        }
      bytes[r] = times[r] = *s;
      bytes[r].x = z;
      times[r].x = t;
    }
    char title[160], subtitle[256];
    const double start = runs[0].evaluations[0].valid;
    snprintf(title, sizeof title, "SlimCCL: the same training, with fewer bytes sent");
    snprintf(subtitle, sizeof subtitle,
             "Character model of %.1f million parameters, %d ranks, %d steps of %d characters, learning rate %g%s",
             (double)parameters / 1e6, trainerRanks(options), options->steps, options->batch, runs[0].rate,
             dashed ? "; dashed: without error feedback" : "");
    const char* loss = "held-out loss (nats per character)";
    const PlotPanel panels[] = {
        {"Loss against steps", "training step", loss, 0, 0, low, start, steps, (size_t)count},
        {"Loss against bytes sent", "bytes sent per rank (logarithmic scale)", loss, 1, 0, low, start, bytes,
         (size_t)count},
        {"Loss against time", "seconds, without evaluations", loss, 0, 0, low, start, times, (size_t)count}};
    done = plotWrite(path, title, subtitle, panels, trainerProcesses() ? 3 : 2);
  }
  free(steps);
  free(bytes);
  free(times);
  free(data);
  return done;
}

/* Writes the files that were asked for. The CSV gets all runs, the plot those of the first seed. */
static int writeFiles(const Options* options, size_t parameters, const Run* runs, int count, int plotted) {
  int failed = 0;
  if (options->csv && csvWrite(callersPath(options->csv), runs, count)) {
    fprintf(stderr, "train: %s: %s\n", options->csv, strerror(errno));
    failed = 1;
  }
  if (options->plot && plotRuns(callersPath(options->plot), options, parameters, runs, plotted)) {
    fprintf(stderr, "train: %s: %s\n", options->plot, strerror(errno));
    failed = 1;
  }
  return failed;
}

/* ---- The two jobs ---------------------------------------------------------------------------------------------------
 */

static void describe(const Options* options, const Text* text, size_t parameters) {
  const int ranks = trainerRanks(options);
  printf("Text: %zu characters of %d files, %d distinct; %zu to train, %zu held out\n", text->length, text->files,
         text->vocabulary, text->trainCount, text->validCount);
  printf("Model: %d characters × %d numbers, two hidden layers of %d; %zu parameters\n", options->context,
         options->embed, options->hidden, parameters);
  printf("Training: %d ranks × %d characters a step, %d steps, momentum %g, gradients clipped at norm %g\n", ranks,
         options->batch / ranks, options->steps, options->momentum, options->clip);
  fflush(stdout);
}

static int replicasAgree(const Run* runs, int count) {
  int agree = 1;
  for (int r = 0; r < count; r++) agree &= runs[r].identical;
  return agree;
}

static void printReplicas(int agree) {
  printf("Replicas: %s\n",
         agree ? "all ranks ended every run with bit-identical parameters" : "RANKS ENDED WITH DIFFERENT PARAMETERS");
}

static double target(const Run* uncompressed) { return 1.01 * finalLoss(uncompressed); }

/* When a run's loss was first no more than `loss`; infinite: never. */
static double secondsTo(const Run* run, double loss) {
  for (int i = 0; i < run->count; i++)
    if (run->evaluations[i].valid <= loss) return run->evaluations[i].seconds;
  return INFINITY;
}

static void printRuns(const Options* options, const Run* runs, int count) {
  static const char* const headings[] = {"spec",     "final loss", "vs uncompressed", "sent a step and rank",
                                         "ratio",    "encode ms",  "exchange ms",     "reduce ms",
                                         "decode ms"};
  Table table = {0};
  for (int c = 0; c < 9; c++) tableCell(&table, c, "%s", headings[c]);
  if (trainerProcesses()) {
    tableCell(&table, 9, "seconds");
    tableCell(&table, 10, "to %.4f", target(&runs[0]));
  }
  for (int r = 0; r < count; r++) {
    const Run* run = &runs[r];
    tableCell(&table, 0, "%s", run->printed);
    tableCell(&table, 1, "%.4f", finalLoss(run));
    if (r) {
      tableCell(&table, 2, "%+.1f%%", 100 * (finalLoss(run) / finalLoss(&runs[0]) - 1));
    } else {
      tableCell(&table, 2, "-");
    }
    bytesCell(&table, 3, run->stepBytes);
    ratioCell(&table, 4, run);
    const double seconds[] = {run->encodeSeconds, run->exchangeSeconds, run->reduceSeconds, run->decodeSeconds};
    for (int i = 0; i < 4; i++) {
      if (onCuda(options)) {
        tableCell(&table, 5 + i, "-"); /* the host's clock knows nothing of a device's work */
      } else if (r || i == 1) {
        tableCell(&table, 5 + i, "%.2f", 1e3 * seconds[i]);
      } else {
        tableCell(&table, 5 + i, "-");
      }
    }
    if (trainerProcesses()) {
      const double reached = secondsTo(run, target(&runs[0]));
      tableCell(&table, 9, "%.1f", run->evaluations[run->count - 1].seconds);
      tableCell(&table, 10, isfinite(reached) ? "%.1f" : "never", reached);
    }
  }
  tablePrint(&table);
}

static int compare(const Options* options, const Text* text) {
  const size_t parameters = trainerParameters(options, text);
  const int given = options->specs, count = 1 + (given ? given : defaultSpecCount);
  Run* runs = calloc((size_t)count, sizeof *runs);
  if (!runs) abort();
  if (trainerPrints()) {
    describe(options, text, parameters);
    printf("Learning rate %g, seed %d\n", options->rate, options->seed);
    fflush(stdout);
  }
  for (int r = 0; r < count; r++) {
    if (r) runs[r].spec = given ? options->compress[r - 1] : defaultSpecs[r - 1];
    runs[r].seed = (uint64_t)options->seed;
    runs[r].rate = options->rate;
    runs[r].number = r + 1;
    runs[r].total = count;
    trainerRun(options, text, &runs[r]);
  }
  const int agree = replicasAgree(runs, count);
  int failed = !agree;
  if (trainerPrints()) {
    putchar('\n');
    printRuns(options, runs, count);
    printf("\nLoss: nats per character on held-out text; it was %.4f at the start.\n", runs[0].evaluations[0].valid);
    if (trainerProcesses())
      puts("Seconds: without evaluations; the last column: until the loss was within 1% of uncompressed' final one.");
    printReplicas(agree);
    failed |= writeFiles(options, parameters, runs, count, count);
  }
  for (int r = 0; r < count; r++) trainerFreeRun(&runs[r]);
  free(runs);
  return failed;
}

/* ---- Acceptance ----------------------------------------------------------------------------------------------------
 */

enum { acceptSeeds = 3, acceptRuns = 1 + defaultSpecCount };

static int verdict(int passed, const char* what) {
  printf("%s  %s\n", passed ? "PASS" : "FAIL", what);
  return !passed;
}

static int acceptVerdicts(const Options* options, Run (*runs)[acceptRuns]) {
  /* With feedback: at most 1% worse on average, 3% for each seed. Without: at least so much worse. */
  static const double worseWithout[] = {0, 0, 0, 0, 5, 2};
  Table table = {0};
  tableCell(&table, 0, "spec");
  for (int s = 0; s < acceptSeeds; s++) tableCell(&table, 1 + s, "seed %d", options->seed + s);
  tableCell(&table, 1 + acceptSeeds, "mean difference");
  tableCell(&table, 2 + acceptSeeds, "ratio");
  tableCell(&table, 3 + acceptSeeds, "required");
  tableCell(&table, 4 + acceptSeeds, "verdict");
  int failed = 0, agree = 1;
  char lines[acceptRuns][256];
  int passes[acceptRuns];
  double least = INFINITY;
  for (int s = 0; s < acceptSeeds; s++)
    least = fmin(least, 100 * (1 - finalLoss(&runs[s][0]) / runs[s][0].evaluations[0].valid));
  for (int r = 0; r < acceptRuns; r++) {
    const Run* first = &runs[0][r];
    double mean = 0, largest = -INFINITY, ratio = INFINITY;
    tableCell(&table, 0, "%s", first->printed);
    for (int s = 0; s < acceptSeeds; s++) {
      const double loss = finalLoss(&runs[s][r]);
      const double difference = 100 * (loss / finalLoss(&runs[s][0]) - 1);
      mean += difference / acceptSeeds;
      largest = fmax(largest, difference);
      ratio = fmin(ratio, runs[s][r].plainBytes / runs[s][r].stepBytes);
      agree &= runs[s][r].identical;
      if (r) {
        tableCell(&table, 1 + s, "%.4f (%+.2f%%)", loss, difference);
      } else {
        tableCell(&table, 1 + s, "%.4f", loss);
      }
    }
    if (r == 0) {
      passes[r] = least >= 35;
      tableCell(&table, 1 + acceptSeeds, "-");
      tableCell(&table, 3 + acceptSeeds, "falls by ≥ 35%%");
      snprintf(lines[r], sizeof lines[r], "uncompressed: falls by %.1f%% or more from its start (required 35%%)",
               least);
    } else if (worseWithout[r - 1] > 0) {
      passes[r] = mean >= worseWithout[r - 1];
      tableCell(&table, 1 + acceptSeeds, "%+.2f%%", mean);
      tableCell(&table, 3 + acceptSeeds, "≥ +%.0f%%", worseWithout[r - 1]);
      snprintf(lines[r], sizeof lines[r], "%s, without feedback: %+.2f%% (required at least +%.0f%%)", first->spec,
               mean, worseWithout[r - 1]);
    } else {
      /* Full ratio is asked of 4 bits, the least compressed of the four; the others send far less. */
      passes[r] = mean <= 1 && largest <= 3 && ratio >= 7.5;
      tableCell(&table, 1 + acceptSeeds, "%+.2f%%", mean);
      tableCell(&table, 3 + acceptSeeds, "≤ +1%%");
      snprintf(lines[r], sizeof lines[r],
               "%s: mean %+.2f%% (at most 1%%), worst seed %+.2f%% (at most 3%%), ratio %.1f (at least 7.5)",
               first->spec, mean, largest, ratio);
    }
    ratioCell(&table, 2 + acceptSeeds, first);
    tableCell(&table, 4 + acceptSeeds, "%s", passes[r] ? "PASS" : "FAIL");
  }
  tablePrint(&table);
  putchar('\n');
  for (int r = 0; r < acceptRuns; r++) failed |= verdict(passes[r], lines[r]);
  return failed | verdict(agree, "all ranks ended every run with bit-identical parameters");
}

static int accept(const Options* given, const Text* text) {
  static const double grid[] = {0.2, 0.4, 0.8, 1.6, 3.2, 6.4};
  enum { gridCount = sizeof grid / sizeof *grid, total = gridCount + acceptSeeds * acceptRuns };
  const size_t parameters = trainerParameters(given, text);
  Options options = *given;
  options.evalSamples = 0;
  options.evalEvery = options.steps;
  if (trainerPrints()) describe(&options, text, parameters);

  Table table = {0};
  tableCell(&table, 0, "learning rate");
  tableCell(&table, 1, "final loss, uncompressed, seed %d", options.seed);
  int best = 0, number = 0;
  double losses[gridCount];
  for (int g = 0; g < gridCount; g++) {
    Run run = {.seed = (uint64_t)options.seed, .rate = grid[g], .number = ++number, .total = total};
    trainerRun(&options, text, &run);
    losses[g] = finalLoss(&run);
    if (losses[g] < losses[best]) best = g;
    trainerFreeRun(&run);
  }
  for (int g = 0; g < gridCount; g++) {
    tableCell(&table, 0, "%g", grid[g]);
    tableCell(&table, 1, "%.4f%s", losses[g], g == best ? " (chosen)" : "");
  }
  if (trainerPrints()) {
    putchar('\n');
    tablePrint(&table);
    if (best == 0 || best == gridCount - 1) puts("Note: the best rate is at the edge of the grid.");
    fflush(stdout);
  }

  static Run runs[acceptSeeds][acceptRuns];
  for (int s = 0; s < acceptSeeds; s++)
    for (int r = 0; r < acceptRuns; r++) {
      runs[s][r] = (Run){.spec = r ? defaultSpecs[r - 1] : NULL,
                         .seed = (uint64_t)(options.seed + s),
                         .rate = grid[best],
                         .number = ++number,
                         .total = total};
      trainerRun(&options, text, &runs[s][r]);
    }
  int failed = 0;
  if (trainerPrints()) {
    putchar('\n');
    failed = acceptVerdicts(&options, runs);
    failed |= writeFiles(&options, parameters, runs[0], acceptSeeds * acceptRuns, acceptRuns);
    puts(failed ? "Acceptance: FAIL" : "Acceptance: PASS");
  }
  for (int r = 0; r < acceptSeeds * acceptRuns; r++) trainerFreeRun(&runs[0][0] + r);
  return failed;
}

static int usage(const char* message) {
  if (trainerPrints()) fprintf(stderr, "train: %s\n", message);
  return 2;
}

static int trainMain(int argc, char** argv) {
  Options options;
  if (optionsParse(&options, argc, argv)) return 2;
  if (options.help) {
    if (trainerPrints()) optionsHelp();
    return 0;
  }
  const int ranks = trainerRanks(&options);
  if (options.accept && options.specs) return usage("--accept has its own compressors: leave out --compress");
  if (options.batch % ranks) return usage("--batch must be a multiple of the number of ranks");
  if (!onCuda(&options) && strcmp(options.device, "cpu")) return usage("--device is cpu or cuda");
  if (onCuda(&options) && trainerOnCuda()) return 1;
  for (int s = 0; s < options.specs; s++)
    if (trainerCheckSpec(options.compress[s])) return 2;
  for (int t = 0; t < options.texts; t++) options.text[t] = callersPath(options.text[t]);

  Text text;
  if (textLoad(&text, options.text, options.texts, options.context)) return 1;
  const int failed = options.accept ? accept(&options, &text) : compare(&options, &text);
  textFree(&text);
  return failed;
}

int main(int argc, char** argv) {
  trainerInit(&argc, &argv);
  const int status = trainMain(argc, argv);
  trainerFinish();
  return status;
}
