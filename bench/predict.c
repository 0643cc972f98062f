/* What compression should gain where it has not been measured: time = bytes a rank sends / link + tensor / pipeline.
 * Bytes are the library's own plan; the pipeline's rate is given. Latency is left out. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "collectives/plan.h"
#include "examples/flags.h"
#include "examples/table.h"
#include "plugin/slimccl.h"

static const char* const specs[] = {
    "fp16", "ef(qsgd(bits=8))",     "ef(qsgd(bits=4))",      "ef(ternary)",
    "fo",   "ef(topk(ratio=0.01))", "ef(topk(ratio=0.001))",
};
static const double links[] = {25, 50, 100, 200, 400}; /* Gbit/s */
static const int groups[] = {8, 64, 256, 1024};        /* ranks */
static const double pipelines[] = {6, 50, 500};        /* GB/s of fp32 elements: encode, reduce and decode together */
#define COUNT(array) ((int)(sizeof array / sizeof *array))

static struct {
  int mib, ranks, help;
  double link, pipeline;
} options = {.mib = 100};

static const Flag flags[] = {
    {"mib", "N", "size of the tensor, fp32", flagInteger, &options.mib, 1, 1 << 20, NULL},
    {"ranks", "N", "with --link: one setting, all methods", flagInteger, &options.ranks, 2, 65536, NULL},
    {"link", "GBIT", "with --ranks: Gbit/s of a rank's link", flagNumber, &options.link, 1e-3, 1e6, NULL},
    {"pipeline", "GB", "GB/s of elements through encode, reduce and decode; 0 = 6, 50 and 500", flagNumber,
     &options.pipeline, 0, 1e6, NULL},
    {"help", NULL, "show this", flagSwitch, &options.help, 0, 0, NULL}};

static double size(void) { return options.mib * 1048576.0; } /* bytes */

static slimPlan planOf(const char* spec, int ranks) {
  slimCompressor* c;
  slimComm_t comm; /* whose settings are the default ones */
  slimPlan plan;
  if (slimCompressorCreate(&c, spec) != slimSuccess || slimCommInitLocal(&comm, 1, NULL) != slimSuccess ||
      slimPlanAllReduce(&plan, c, &comm->settings, comm->device, ranks, slimFloat32, (uint64_t)size() / 4) !=
          slimSuccess) {
    fprintf(stderr, "predict: %s: %s\n", spec, slimGetLastError());
    exit(1);
  }
  slimCommDestroy(comm);
  slimCompressorDestroy(c);
  return plan;
}

static double ratio(const slimPlan* p) { return (double)p->plainBytes / (double)p->sentBytes; }
static double bytesPerSecond(double gbit) { return gbit * 1e9 / 8; }
static double plainTime(const slimPlan* p, double gbit) { return (double)p->plainBytes / bytesPerSecond(gbit); }
static double slimTime(const slimPlan* p, double gbit, double pipeline) {
  return (double)p->sentBytes / bytesPerSecond(gbit) + size() / (pipeline * 1e9);
}
/* The pipeline's rate, in GB/s, at which both take the same time. */
static double breakEven(const slimPlan* p, double gbit) {
  return size() / ((double)(p->plainBytes - p->sentBytes) / bytesPerSecond(gbit)) / 1e9;
}

static void linkHeadings(Table* t, int column) {
  for (int l = 0; l < COUNT(links); l++) tableCell(t, column + l, "%g Gbit/s", links[l]);
}

static void showBreakEven(int ranks) {
  Table t = {0};
  printf(
      "\nGB/s of elements through encode, reduce and decode above which compression is faster, %d ranks, %d MiB:\n\n",
      ranks, options.mib);
  tableCell(&t, 0, "method");
  tableCell(&t, 1, "ratio");
  linkHeadings(&t, 2);
  for (int s = 0; s < COUNT(specs); s++) {
    const slimPlan p = planOf(specs[s], ranks);
    tableCell(&t, 0, "`%s`", specs[s]);
    tableCell(&t, 1, "%.1f", ratio(&p));
    for (int l = 0; l < COUNT(links); l++) tableCell(&t, 2 + l, "%.1f", breakEven(&p, links[l]));
  }
  tablePrint(&t);
}

static void showSpeedUps(const char* spec) {
  Table t = {0};
  printf("\nPredicted speed-up of `%s` over a plain ring, %d MiB:\n\n", spec, options.mib);
  tableCell(&t, 0, "ranks");
  tableCell(&t, 1, "pipeline");
  tableCell(&t, 2, "ratio");
  linkHeadings(&t, 3);
  for (int g = 0; g < COUNT(groups); g++) {
    const slimPlan p = planOf(spec, groups[g]);
    for (int c = 0; c < (options.pipeline > 0 ? 1 : COUNT(pipelines)); c++) {
      const double pipeline = options.pipeline > 0 ? options.pipeline : pipelines[c];
      tableCell(&t, 0, "%d", groups[g]);
      tableCell(&t, 1, "%g GB/s", pipeline);
      tableCell(&t, 2, "%.1f", ratio(&p));
      for (int l = 0; l < COUNT(links); l++)
        tableCell(&t, 3 + l, "%.2f", plainTime(&p, links[l]) / slimTime(&p, links[l], pipeline));
    }
  }
  tablePrint(&t);
}

static void showSetting(void) {
  Table t = {0};
  const double pipeline = options.pipeline > 0 ? options.pipeline : *pipelines;
  printf("\nPredicted, %d ranks, %g Gbit/s, %d MiB, %g GB/s of elements:\n\n", options.ranks, options.link, options.mib,
         pipeline);
  tableCell(&t, 0, "method");
  tableCell(&t, 1, "ratio");
  tableCell(&t, 2, "plain ring, ms");
  tableCell(&t, 3, "compressed, ms");
  tableCell(&t, 4, "speed-up");
  for (int s = 0; s < COUNT(specs); s++) {
    const slimPlan p = planOf(specs[s], options.ranks);
    const double plain = plainTime(&p, options.link), slim = slimTime(&p, options.link, pipeline);
    tableCell(&t, 0, "`%s`", specs[s]);
    tableCell(&t, 1, "%.1f", ratio(&p));
    tableCell(&t, 2, "%.1f", 1e3 * plain);
    tableCell(&t, 3, "%.1f", 1e3 * slim);
    tableCell(&t, 4, "%.2f", plain / slim);
  }
  tablePrint(&t);
}

int main(int argc, char** argv) {
  if (flagsParse("predict", flags, COUNT(flags), argc, argv)) return 2;
  if (options.help) {
    puts("Predicts what compression gains from a link's and a pipeline's rate.\n\n  predict [flags]\n");
    flagsHelp(flags, COUNT(flags));
    return 0;
  }
  if (options.ranks && options.link > 0) return showSetting(), 0;
  showBreakEven(groups[0]);
  showBreakEven(groups[COUNT(groups) - 1]);
  showSpeedUps("ef(qsgd(bits=4))");
  showSpeedUps("ef(topk(ratio=0.01))");
  return 0;
}
