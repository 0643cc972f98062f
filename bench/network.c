/* Allreduce over a real network, or netlab.sh's: time, speed-up over MPI's own in fp32, and what compression cost.
 *
 *   network measure --rate LABEL --csv FILE [--mib 1,16,100]     under mpirun, one rank a host; adds rows to FILE. With
 *                                                                libslimccl_mpi.so preloaded also what that makes of
 *                                                                MPI_Allreduce by SLIM_COMPRESS
 *   network show --csv FILE [--plot FILE.svg]                    a table and a picture of all rows
 */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "examples/plot.h"
#include "examples/table.h"
#include "plugin/slimccl_mpi.h"

static const char* const specs[] = {
    "fp16", "ef(qsgd(bits=8))",     "ef(qsgd(bits=4))",      "ef(ternary)",
    "fo",   "ef(topk(ratio=0.01))", "ef(topk(ratio=0.001))",
};
enum { numSpecs = sizeof specs / sizeof *specs, mostSizes = 8, mostRows = 1024, mostMethods = 32 };

static int rank, ranks;

static void stop(const char* what) {
  fprintf(stderr, "network: rank %d: %s\n", rank, what);
  MPI_Abort(MPI_COMM_WORLD, 1);
}

/* ---- Measuring -------------------------------------------------------------------------------------------------- */

static void fill(float* x, size_t n) {
  uint64_t state = 0x9E3779B97F4A7C15u * (uint64_t)(rank + 1);
  for (size_t i = 0; i < n; i++) { /* a triangle: two uniform numbers' sum */
    state = state * 6364136223846793005u + 1442695040888963407u;
    x[i] = (float)((double)(uint32_t)(state >> 32) + (double)(uint32_t)(state >> 8 & 0xffffffffu)) * 0x1p-32f - 1;
  }
}

/* Seconds of one call, of the slowest rank; the median of calls, which go on for some two seconds. */
static double timed(void (*call)(void*), void* context) {
  enum { most = 25 };
  double seconds[most], all = 0;
  call(context); /* connections, buffers */
  int n = 0;
  while (n < 3 || (n < most && all < 2)) {
    MPI_Barrier(MPI_COMM_WORLD);
    double took = -MPI_Wtime();
    call(context);
    took += MPI_Wtime();
    MPI_Allreduce(MPI_IN_PLACE, &took, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    all += took;
    int at = n++;
    for (; at > 0 && seconds[at - 1] > took; at--) seconds[at] = seconds[at - 1];
    seconds[at] = took;
  }
  return seconds[n / 2];
}

typedef struct {
  const float* x;
  float* y;
  size_t n;
  slimComm_t comm;
  slimTensor_t tensor;
} Sum;
static void plainSum(void* context) {
  Sum* s = context;
  PMPI_Allreduce(s->x, s->y, (int)s->n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}
static void preloadedSum(void* context) {
  Sum* s = context;
  MPI_Allreduce(s->x, s->y, (int)s->n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}
static void slimSum_(void* context) {
  Sum* s = context;
  if (slimAllReduce(s->x, s->y, s->n, slimFloat32, slimSum, s->tensor, s->comm, NULL) != slimSuccess)
    stop(slimGetLastError());
}

static double distance(const float* y, const float* right, size_t n) {
  double e = 0, r = 0;
  for (size_t i = 0; i < n; i++) {
    e += ((double)y[i] - right[i]) * ((double)y[i] - right[i]);
    r += (double)right[i] * right[i];
  }
  return sqrt(e / r);
}

static void measure(const char* rate, const char* path, const int* mib, int sizes) {
  slimComm_t comm;
  if (slimCommInitMPI(&comm, MPI_COMM_WORLD, NULL) != slimSuccess) stop(slimGetLastError());
  FILE* csv = rank == 0 ? fopen(path, "a") : NULL;
  if (rank == 0 && !csv) stop("cannot write the CSV file");
  uint32_t slot = 0;
  for (int i = 0; i < sizes; i++) {
    const size_t n = (size_t)mib[i] << 18;
    float *x = malloc(4 * n), *y = malloc(4 * n), *right = malloc(4 * n);
    if (!x || !y || !right) stop("out of memory");
    fill(x, n);
    Sum s = {x, right, n, comm, NULL};
    const double plain = timed(plainSum, &s);
    if (csv) fprintf(csv, "%s,%d,%d,MPI fp32,%.6g,1,0\n", rate, ranks, mib[i], plain);
    s.y = y;
    const char* preloaded = getenv("SLIM_COMPRESS");
    if (preloaded) {
      const double seconds = timed(preloadedSum, &s);
      if (csv)
        fprintf(csv, "%s,%d,%d,\"%s\",%.6g,nan,%.4g\n", rate, ranks, mib[i], preloaded, seconds, distance(y, right, n));
    }
    for (int k = 0; k < numSpecs; k++) {
      if (slimTensorCreate(&s.tensor, comm, specs[k], slot++) != slimSuccess) stop(slimGetLastError());
      slimSum_(&s); /* without memory: what one step loses */
      const double error = distance(y, right, n);
      const double seconds = timed(slimSum_, &s);
      slimTensorStats_t stats = {.size = sizeof stats};
      slimTensorGetStats(s.tensor, &stats);
      slimTensorDestroy(s.tensor);
      if (!csv) continue;
      fprintf(csv, "%s,%d,%d,\"%s\",%.6g,%.4g,%.4g\n", rate, ranks, mib[i], specs[k], seconds,
              (double)stats.plainBytes / (double)stats.wireBytes, error);
      fflush(csv);
      fprintf(stderr, "%s, %d MiB, %s: %.1f ms (MPI fp32: %.1f ms)\n", rate, mib[i], specs[k], 1e3 * seconds,
              1e3 * plain);
    }
    free(x), free(y), free(right);
  }
  if (csv) fclose(csv);
  slimCommDestroy(comm);
}

/* ---- Showing ---------------------------------------------------------------------------------------------------- */

typedef struct {
  char rate[32], method[64];
  int hosts, mib;
  double seconds, ratio, error;
} Row;

static int readRows(const char* path, Row* rows) {
  FILE* csv = fopen(path, "r");
  if (!csv) return -1;
  char line[256];
  int n = 0;
  while (n < mostRows && fgets(line, sizeof line, csv)) {
    Row* r = &rows[n];
    n += sscanf(line, "%31[^,],%d,%d,\"%63[^\"]\",%lf,%lf,%lf", r->rate, &r->hosts, &r->mib, r->method, &r->seconds,
                &r->ratio, &r->error) == 7 ||
         sscanf(line, "%31[^,],%d,%d,%63[^,],%lf,%lf,%lf", r->rate, &r->hosts, &r->mib, r->method, &r->seconds,
                &r->ratio, &r->error) == 7;
  }
  fclose(csv);
  return n;
}

static const Row* plainOf(const Row* rows, int n, const Row* row) {
  for (int i = 0; i < n; i++)
    if (!strcmp(rows[i].rate, row->rate) && rows[i].mib == row->mib && !strcmp(rows[i].method, "MPI fp32"))
      return &rows[i];
  return row;
}

/* A panel a size: speed-up against the link's rate, a line a method; dashed: what are not specs of this program. */
static int draw(const Row* rows, int n, const char* path) {
  static const char* const rates[] = {"100mbit", "1gbit", "10gbit"};
  static const double gigabits[] = {0.1, 1, 10};
  int mib[mostSizes], sizes = 0, methods = 0, others = 0;
  const char* method[mostMethods];
  for (int i = 0; i < n; i++) {
    int known = 0;
    for (int k = 0; k < sizes; k++) known |= mib[k] == rows[i].mib;
    if (!known && sizes < mostSizes) mib[sizes++] = rows[i].mib;
    known = 0;
    for (int k = 0; k < methods; k++) known |= !strcmp(method[k], rows[i].method);
    if (!known && methods < mostMethods) method[methods++] = rows[i].method;
  }
  static double speedup[mostSizes][mostMethods][3];
  static PlotSeries series[mostSizes][mostMethods];
  static char titles[mostSizes][64];
  PlotPanel panels[mostSizes];
  for (int k = 0; k < methods; k++) {
    int spec = 0;
    while (spec < numSpecs && strcmp(specs[spec], method[k])) spec++;
    const int color = spec < numSpecs ? spec + 1 : others++;
    for (int p = 0; p < sizes; p++) {
      for (int r = 0; r < 3; r++) {
        speedup[p][k][r] = NAN;
        for (int i = 0; i < n; i++)
          if (rows[i].mib == mib[p] && !strcmp(rows[i].rate, rates[r]) && !strcmp(rows[i].method, method[k]))
            speedup[p][k][r] = plainOf(rows, n, &rows[i])->seconds / rows[i].seconds;
      }
      series[p][k] = (PlotSeries){.label = method[k],
                                  .x = gigabits,
                                  .y = speedup[p][k],
                                  .count = 3,
                                  .color = color,
                                  .dashed = spec == numSpecs};
    }
  }
  for (int p = 0; p < sizes; p++) {
    snprintf(titles[p], sizeof titles[p], "%d MiB", mib[p]);
    panels[p] = (PlotPanel){.title = titles[p],
                            .xLabel = "link, Gbit/s",
                            .yLabel = "speed-up over MPI_Allreduce in fp32",
                            .xLog = 1,
                            .yLog = 1,
                            .series = series[p],
                            .count = (size_t)methods};
  }
  char subtitle[128];
  snprintf(subtitle, sizeof subtitle, "%d hosts, links shaped in both directions; all hosts share one machine's cores",
           rows[0].hosts);
  return plotWrite(path, "Allreduce over slow links", subtitle, panels, (size_t)sizes);
}

static int show(const char* path, const char* plot) {
  static Row rows[mostRows];
  const int n = readRows(path, rows);
  if (n <= 0) return fprintf(stderr, "network: no rows in %s\n", path), 1;
  Table table = {0};
  static const char* const heads[] = {"link", "MiB", "method", "ms", "speed-up", "ratio", "of the ideal", "error"};
  for (int c = 0; c < 8; c++) tableCell(&table, c, "%s", heads[c]);
  for (int i = 0; i < n; i++) {
    const Row* r = &rows[i];
    const double speedup = plainOf(rows, n, r)->seconds / r->seconds;
    tableCell(&table, 0, "%s", r->rate);
    tableCell(&table, 1, "%d", r->mib);
    tableCell(&table, 2, "%s", r->method);
    tableCell(&table, 3, "%.1f", 1e3 * r->seconds);
    tableCell(&table, 4, "%.2f", speedup);
    tableCell(&table, 5, isnan(r->ratio) ? "-" : "%.1f", r->ratio);
    tableCell(&table, 6, isnan(r->ratio) ? "-" : "%.2f", speedup / r->ratio);
    tableCell(&table, 7, "%.2g", r->error);
  }
  tablePrint(&table);
  if (!plot || draw(rows, n, plot) == 0) return 0;
  perror(plot);
  return 1;
}

int main(int argc, char** argv) {
  const char *rate = "none", *csv = NULL, *plot = NULL;
  int mib[mostSizes] = {1, 16, 100}, sizes = 3, wrong = argc < 2;
  for (int i = 2; i + 1 < argc; i += 2) {
    if (!strcmp(argv[i], "--rate")) {
      rate = argv[i + 1];
    } else if (!strcmp(argv[i], "--csv")) {
      csv = argv[i + 1];
    } else if (!strcmp(argv[i], "--plot")) {
      plot = argv[i + 1];
    } else if (!strcmp(argv[i], "--mib")) {
      sizes = 0;
      for (char* at = argv[i + 1]; *at && sizes < mostSizes; at += *at == ',') {
        mib[sizes] = (int)strtol(at, &at, 10);
        if (mib[sizes] < 1 || mib[sizes] > 1024 || (*at && *at != ',')) wrong = 1;
        if (wrong) break;
        sizes++;
      }
    } else {
      wrong = 1;
    }
  }
  const int measures = !wrong && !strcmp(argv[1], "measure"), shows = !wrong && !strcmp(argv[1], "show");
  if (argc % 2 || !csv || !(measures || shows)) {
    fprintf(stderr,
            "network measure --rate LABEL --csv FILE [--mib 1,16,100]   under mpirun\n"
            "network show --csv FILE [--plot FILE.svg]\n");
    return 2;
  }
  if (shows) return show(csv, plot);
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  measure(rate, csv, mib, sizes);
  MPI_Finalize();
  return 0;
}
