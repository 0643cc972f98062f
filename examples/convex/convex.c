/* Papers on compressed methods, each tried on its kind of problem: ridge and logistic regression over workers with
 * unlike data. Prints a table an experiment, and writes CSV and pictures. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "examples/convex/run.h"
#include "examples/flags.h"
#include "examples/plot.h"
#include "examples/table.h"

static const Paper* const papers[] = {&paperDiana, &paperFo, &paperTnqsgd, &paperShifted, &paperMemsgd, &paperSign};
enum { paperCount = sizeof papers / sizeof *papers, maxSeeds = 32 };

/* What every method's step size is tuned over: multiples of theory's. */
static const double grid[] = {0.5, 1, 2, 4, 8, 16};
enum { gridCount = sizeof grid / sizeof *grid };

static struct {
  const char *paper, *data, *csv, *plot;
  int ranks, seeds, rounds, theory, help;
  double l2;
} options = {.paper = "all", .seeds = 3};

static const char realData[] = "/usr/share/doc/libfann-dev/examples/datasets/mushroom.train";

static const Flag flags[] = {
    {"paper", "NAME", "one of those below, or all (all)", flagText, &options.paper, 0, 0, NULL},
    {"data", "FILE", "a LIBSVM file in place of the experiments' own data", flagText, &options.data, 0, 0, NULL},
    {"ranks", "N", "workers, a thread each; 0 = the experiment's", flagInteger, &options.ranks, 0, 1024, NULL},
    {"seeds", "N", "of the compressors and batches: 1 to N", flagInteger, &options.seeds, 1, maxSeeds, NULL},
    {"rounds", "N", "at most; 0 = the experiment's", flagInteger, &options.rounds, 0, 1e7, NULL},
    {"l2", "X", "weight of the squared norm; 0 = the experiment's", flagNumber, &options.l2, 0, 1e6, NULL},
    {"theory", NULL, "take the step sizes of theory as they are; else they are tuned", flagSwitch, &options.theory, 0,
     0, NULL},
    {"csv", "FILE", "write a row for each point of each run", flagText, &options.csv, 0, 0, NULL},
    {"plot", "FOLDER", "draw each experiment's picture, NAME.svg", flagText, &options.plot, 0, 0, NULL},
    {"help", NULL, "show this", flagSwitch, &options.help, 0, 0, NULL}};
enum { flagCount = sizeof flags / sizeof *flags };

/* ---- Runs ------------------------------------------------------------------------------------------------------- */

typedef struct {
  int theory; /* rounds to the last level at theory's step size with the first seed; 0: not reached */
  Run runs[maxSeeds];
} Trial;

static void progress(const Experiment* e, const Method* m, const char* what, int number) {
  const int tty = isatty(STDERR_FILENO);
  if (tty) fprintf(stderr, "\r\033[K%s: %s: %s %d", e->name, m->label, what, number);
  fflush(stderr);
}

/* The lower the better: first the level below which the run ends, then the rounds until it got there; above all levels,
 * the error. */
static double score(const Run* run) {
  const double farthest = 1e9;
  for (int l = runLevels - 1; l >= 0; l--)
    if (run->reached[l].round && (run->plateau <= runLevel[l] || l == runLevels - 1))
      return run->reached[l].round - farthest * (l + 1);
  return run->plateau;
}

static int untuned(const Experiment* e) { return options.theory || e->untuned; }

static void try(const Problem* problem, const Experiment* e, const Method* m, Trial* trial) {
  const int rounds = options.rounds ? options.rounds : e->rounds;
  double multiplier = 1, best = INFINITY;
  for (int g = 0; g < gridCount && !untuned(e); g++) {
    Run run = {.seed = 1, .multiplier = grid[g], .rounds = rounds, .batch = e->batch};
    progress(e, m, "step size", g + 1);
    runMethod(problem, m, &run);
    if (score(&run) < best) best = score(&run), multiplier = grid[g];
    if (grid[g] == 1) trial->theory = run.reached[runLevels - 1].round;
    runFree(&run);
  }
  for (int s = 0; s < options.seeds; s++) {
    trial->runs[s] = (Run){.seed = (uint64_t)s + 1, .multiplier = multiplier, .rounds = rounds, .batch = e->batch};
    progress(e, m, "seed", s + 1);
    runMethod(problem, m, &trial->runs[s]);
  }
  if (untuned(e)) trial->theory = trial->runs->reached[runLevels - 1].round;
}

/* ---- Results ---------------------------------------------------------------------------------------------------- */

static int ascending(const void* left, const void* right) {
  const double a = *(const double*)left, b = *(const double*)right;
  return a < b ? -1 : a > b;
}

static double median(double* values, int count) {
  qsort(values, (size_t)count, sizeof *values, ascending);
  return 0.5 * (values[(count - 1) / 2] + values[count / 2]);
}

static void bitsText(char* text, size_t size, double bits) {
  if (bits < 1e6) {
    snprintf(text, size, "%.1f kbit", bits / 1e3);
  } else {
    snprintf(text, size, "%.2f Mbit", bits / 1e6);
  }
}

static void printTrials(const Experiment* e, const Trial* trials) {
  static const char* const headings[] = {"method",   "step size", "to 1e-2",      "to 1e-4",     "to 1e-8",
                                         "to 1e-10", "plateau",   "bits a round", "on the wire", "theory to 1e-10"};
  Table table = {0};
  for (int c = 0; c < (int)(sizeof headings / sizeof *headings); c++) tableCell(&table, c, "%s", headings[c]);
  for (int m = 0; m < e->count; m++) {
    const Run* runs = trials[m].runs;
    double values[maxSeeds], bits[maxSeeds];
    tableCell(&table, 0, "%s", e->methods[m].label);
    tableCell(&table, 1, "%.4g (%g×)", runs->step.eta > 0 ? runs->step.eta : runs->step.gamma, runs->multiplier);
    for (int l = 0; l < runLevels; l++) {
      int reached = 0;
      for (int s = 0; s < options.seeds; s++)
        if (runs[s].reached[l].round) {
          values[reached] = runs[s].reached[l].round;
          bits[reached++] = runs[s].reached[l].bits;
        }
      if (reached == options.seeds) {
        char text[32];
        bitsText(text, sizeof text, median(bits, reached));
        tableCell(&table, 2 + l, "%.0f, %s", median(values, reached), text);
      } else {
        tableCell(&table, 2 + l, reached ? "%d of %d" : "-", reached, options.seeds);
      }
    }
    int stuck = 0;
    for (int s = 0; s < options.seeds; s++)
      if (!runs[s].reached[runLevels - 1].round) values[stuck++] = runs[s].plateau;
    if (stuck) {
      const double plateau = median(values, stuck);
      tableCell(&table, 6, isfinite(plateau) ? "%.1e" : "diverges", plateau);
    } else {
      tableCell(&table, 6, "-");
    }
    const Point* last = &runs->points[runs->count - 1];
    tableCell(&table, 7, "%.0f", last->bits / last->round);
    tableCell(&table, 8, "%.0f", 8 * last->wire / last->round);
    tableCell(&table, 9, trials[m].theory ? "%d" : "-", trials[m].theory);
  }
  putchar('\n');
  tablePrint(&table);
}

static void csvWrite(FILE* out, const Experiment* e, const Trial* trials) {
  for (int m = 0; m < e->count; m++)
    for (int s = 0; s < options.seeds; s++) {
      const Run* run = &trials[m].runs[s];
      for (int i = 0; i < run->count; i++) {
        const Point* p = &run->points[i];
        fprintf(out, "%s,\"%s\",%llu,%.9g,%d,%.9e,%.0f,%.0f\n", e->name, e->methods[m].label,
                (unsigned long long)run->seed, run->step.eta > 0 ? run->step.eta : run->step.gamma, p->round, p->error,
                p->bits, p->wire);
      }
    }
}

/* A method's line: the median over seeds, between the least and the largest. A run that has ended stays where it was.
 */
typedef struct {
  double *round, *bits, *middle, *low, *high;
  size_t count;
} Line;

static Line lineOf(const Trial* trial) {
  Line line = {0};
  for (int s = 0; s < options.seeds; s++)
    if ((size_t)trial->runs[s].count > line.count) line.count = (size_t)trial->runs[s].count;
  double* all = calloc(5 * line.count, sizeof *all);
  if (!all) abort();
  line = (Line){all, all + line.count, all + 2 * line.count, all + 3 * line.count, all + 4 * line.count, line.count};
  for (size_t i = 0; i < line.count; i++) {
    double errors[maxSeeds], bits[maxSeeds], rounds[maxSeeds];
    for (int s = 0; s < options.seeds; s++) {
      const Run* run = &trial->runs[s];
      const Point* p = &run->points[i < (size_t)run->count ? i : (size_t)run->count - 1];
      errors[s] = p->error, bits[s] = p->bits, rounds[s] = p->round;
    }
    line.middle[i] = median(errors, options.seeds); /* which orders them */
    line.low[i] = errors[0];
    line.high[i] = errors[options.seeds - 1];
    line.bits[i] = median(bits, options.seeds);
    line.round[i] = median(rounds, options.seeds);
  }
  return line;
}

/* Rounds to show: a third more than the slowest method that arrives; all if none does. */
static double shownRounds(const Experiment* e, const Trial* trials) {
  double most = 0;
  for (int m = 0; m < e->count; m++)
    for (int s = 0; s < options.seeds; s++)
      if (trials[m].runs[s].reached[runLevels - 1].round)
        most = fmax(most, trials[m].runs[s].reached[runLevels - 1].round);
  return most > 0 ? 4 * most / 3 : INFINITY;
}

static int plot(const char* folder, const Problem* problem, const Experiment* e, const Trial* trials) {
  PlotSeries *rounds = calloc(2 * (size_t)e->count, sizeof *rounds), *bits = rounds + e->count;
  Line* lines = calloc((size_t)e->count, sizeof *lines);
  if (!rounds || !lines) abort();
  const double shown = shownRounds(e, trials);
  for (int m = 0; m < e->count; m++) {
    lines[m] = lineOf(&trials[m]);
    while (lines[m].count > 1 && lines[m].round[lines[m].count - 1] > shown) lines[m].count--;
    rounds[m] = (PlotSeries){.label = e->methods[m].label,
                             .x = lines[m].round,
                             .y = lines[m].middle,
                             .low = lines[m].low,
                             .high = lines[m].high,
                             .count = lines[m].count,
                             .color = m,
                             .dashed = m > 7};
    bits[m] = rounds[m];
    bits[m].x = lines[m].bits;
  }
  char path[4096], subtitle[256];
  snprintf(path, sizeof path, "%s/%s.svg", folder, e->name);
  snprintf(subtitle, sizeof subtitle,
           "%s regression, %zu rows × %zu, %d worker%s, L/mu = %.0f; step sizes: %s; median and range of %d seeds",
           e->kind == problemRidge ? "Ridge" : "Logistic", problem->data.rows, problem->data.columns,
           problem->constants.n, problem->constants.n == 1 ? "" : "s", problem->constants.L / problem->constants.mu,
           untuned(e) ? "theory's" : "theory's times the best of 1/2, 1, 2 … 16", options.seeds);
  const char* label = "‖x − x*‖² / ‖x⁰ − x*‖²";
  double low = 1;
  for (int m = 0; m < e->count; m++)
    for (size_t i = 0; i < lines[m].count; i++) low = fmin(low, lines[m].middle[i]);
  low = fmax(pow(10, floor(log10(low))), runLevel[runLevels - 1]);
  const PlotPanel panels[] = {{"Error against rounds", "rounds", label, 0, 1, low, 10, rounds, (size_t)e->count},
                              {"Error against bits sent", "bits a worker sent (logarithmic scale)", label, 1, 1, low,
                               10, bits, (size_t)e->count}};
  const int failed = plotWrite(path, e->title, subtitle, panels, 2);
  if (failed) fprintf(stderr, "convex: %s: %s\n", path, strerror(errno));
  for (int m = 0; m < e->count; m++) free(lines[m].round);
  free(lines);
  free(rounds);
  return failed;
}

/* ---- Experiments ------------------------------------------------------------------------------------------------ */

static int makeProblem(const Experiment* e, Problem* problem) {
  Data data;
  const char* path = options.data ? options.data : realData;
  printf("\n## %s\n\n", e->title);
  if (e->source == dataSignRows) {
    dataSigns(&data);
  } else if (e->source == dataRegressionRows && !options.data) {
    dataRegression(&data, e->rows, e->columns, 1);
  } else if (dataLoad(&data, path)) {
    if (!options.data) fputs("convex: bazelw installs it (package libfann-doc); or give a file: --data FILE\n", stderr);
    return -1;
  } else {
    printf("%s: ", path);
  }
  if (e->sorted) dataSort(&data);
  const double l2 = options.l2 > 0 ? options.l2 : e->l2;
  if (problemInit(problem, e->kind, data, options.ranks ? options.ranks : e->workers, e->l1, l2, e->spread, 1)) {
    problemFree(problem);
    return -1;
  }
  const Constants* c = &problem->constants;
  printf("%zu rows, %zu columns, %d workers, l2 = %g, l1 = %g: L = %.4g, largest L_i = %.4g, mu = %.4g, L/mu = %.0f\n",
         problem->data.rows, c->d, c->n, problem->l2, problem->l1, c->L, c->Lmax, c->mu, c->L / c->mu);
  fflush(stdout);
  return 0;
}

static int experiment(const Experiment* e, FILE* csv, const char* folder) {
  Problem problem;
  if (makeProblem(e, &problem)) return -1;
  Trial* trials = calloc((size_t)e->count, sizeof *trials);
  if (!trials) abort();
  int failed = 0;
  for (int m = 0; m < e->count; m++) {
    try(&problem, e, &e->methods[m], &trials[m]);
    for (int s = 0; s < options.seeds; s++)
      if (!trials[m].runs[s].identical) failed = -1, printf("%s: WORKERS DIFFER\n", e->methods[m].label);
  }
  progress(e, e->methods, "done", 0);
  fputs(isatty(STDERR_FILENO) ? "\r\033[K" : "", stderr);
  printTrials(e, trials);
  if (csv) csvWrite(csv, e, trials);
  if (folder) failed |= plot(folder, &problem, e, trials);
  for (int m = 0; m < e->count; m++)
    for (int s = 0; s < options.seeds; s++) runFree(&trials[m].runs[s]);
  free(trials);
  problemFree(&problem);
  return failed;
}

int main(int argc, char** argv) {
  if (flagsParse("convex", flags, flagCount, argc, argv)) return 2;
  if (options.help) {
    puts("Tries what papers on compressed methods claim, on ridge and logistic regression.\n\n  convex [flags]\n");
    flagsHelp(flags, flagCount);
    puts("\nPapers:");
    for (int p = 0; p < paperCount; p++) printf("  %-20s %s\n", papers[p]->name, papers[p]->title);
    return 0;
  }
  options.data = callersPath(options.data);
  const char* folder = callersPath(options.plot);
  FILE* csv = options.csv ? fopen(callersPath(options.csv), "w") : NULL;
  if (options.csv && !csv) {
    fprintf(stderr, "convex: %s: %s\n", options.csv, strerror(errno));
    return 1;
  }
  if (csv) fputs("experiment,method,seed,step_size,round,error,bits,wire_bytes\n", csv);
  int known = 0, failed = 0;
  for (int p = 0; p < paperCount; p++) {
    if (strcmp(options.paper, "all") && strcmp(options.paper, papers[p]->name)) continue;
    known = 1;
    printf("# %s\n", papers[p]->title);
    for (int i = 0; i < papers[p]->count && !failed; i++) failed |= experiment(&papers[p]->experiments[i], csv, folder);
  }
  if (!known) {
    fprintf(stderr, "convex: --paper %s: not one of those that --help lists\n", options.paper);
    return 2;
  }
  if (csv && (ferror(csv) | fclose(csv))) {
    fprintf(stderr, "convex: %s: could not be written\n", options.csv);
    return 1;
  }
  return failed ? 1 : 0;
}
