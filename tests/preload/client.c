/* An MPI program as anybody writes it: it knows nothing of SlimCCL. Each mode prints "name value" lines on rank 0.
 *
 *   client train STEPS BUCKETS ELEMENTS    gradients of BUCKETS tensors, averaged each step
 *   client calls ELEMENTS                  every collective that may be compressed, in and out of place
 *   client other                           what must never change: other types and ops, small, part communicators
 *   client nonblocking STEPS ELEMENTS      MPI_Iallreduce of several tensors at once
 *   client long                            one sum of more than 2³¹ bytes, nearly all of them zero
 */
#include <math.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int rank, ranks;

static void say(const char* name, double value) {
  double most;
  MPI_Reduce(&value, &most, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
  if (rank == 0) printf("%s %.9g\n", name, most);
}

/* A gradient that every rank can compute for every rank. */
static float gradient(int r, int bucket, int step, int i) {
  uint32_t h = (uint32_t)r * 73856093u ^ (uint32_t)bucket * 19349663u ^ (uint32_t)i * 83492791u;
  h = (h ^ h >> 15) * 2246822519u;
  h = (h ^ h >> 13) * 3266489917u;
  return (float)(h >> 8) / 8388608.0f - 1 + (float)(step % 3) * 0.1f;
}
static double sum(int bucket, int step, int i) {
  double s = 0;
  for (int r = 0; r < ranks; r++) s += gradient(r, bucket, step, i);
  return s;
}

/* 1 where all ranks hold the same bytes. */
static int same(const void* data, size_t bytes) {
  unsigned char* root = malloc(bytes);
  memcpy(root, data, bytes);
  MPI_Bcast(root, (int)bytes, MPI_BYTE, 0, MPI_COMM_WORLD);
  const int equal = !memcmp(root, data, bytes);
  free(root);
  return equal;
}

/* Relative error of the sums, of one step and of the mean over all steps; whether ranks hold the same. */
static void train(int steps, int buckets, int n) {
  float** buffer = malloc((size_t)buckets * sizeof *buffer);
  double** total = malloc((size_t)buckets * sizeof *total);
  for (int b = 0; b < buckets; b++) {
    buffer[b] = malloc((size_t)n * sizeof **buffer);
    total[b] = calloc((size_t)n, sizeof **total);
  }
  int equal = 1;
  double one = 0, norm = 0;
  for (int t = 0; t < steps; t++)
    for (int b = buckets - 1; b >= 0; b--) {
      for (int i = 0; i < n; i++) buffer[b][i] = gradient(rank, b, t, i);
      MPI_Allreduce(MPI_IN_PLACE, buffer[b], n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      if (t == steps - 1) equal &= same(buffer[b], (size_t)n * 4);
      for (int i = 0; i < n; i++) {
        const double error = buffer[b][i] - sum(b, t, i);
        total[b][i] += error;
        if (t < steps - 1) continue;
        one += error * error;
        norm += sum(b, t, i) * sum(b, t, i);
      }
    }
  double all = 0;
  for (int b = 0; b < buckets; b++)
    for (int i = 0; i < n; i++) all += total[b][i] / steps * (total[b][i] / steps);
  say("step_error", sqrt(one / norm));
  say("mean_error", sqrt(all / norm));
  say("ranks_differ", !equal);
  for (int b = 0; b < buckets; b++) free(buffer[b]), free(total[b]);
  free(buffer);
  free(total);
}

static double errorOf(const float* got, int at, int n) {
  double e = 0, s = 0;
  for (int i = 0; i < n; i++) {
    const double right = sum(0, 0, at + i);
    e += (got[i] - right) * (got[i] - right);
    s += right * right;
  }
  return sqrt(e / s);
}

static void calls(int n) {
  const int all = n * ranks;
  float *mine = malloc((size_t)all * 4), *out = malloc((size_t)all * 4);
  for (int i = 0; i < all; i++) mine[i] = gradient(rank, 0, 0, i);
  float* kept = malloc((size_t)all * 4);
  memcpy(kept, mine, (size_t)all * 4);

  MPI_Allreduce(mine, out, all, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  say("allreduce", errorOf(out, 0, all));
  say("allreduce_differs", !same(out, (size_t)all * 4));
  memset(out, 0, (size_t)all * 4);
  MPI_Reduce(mine, out, all, MPI_FLOAT, MPI_SUM, ranks - 1, MPI_COMM_WORLD);
  say("reduce", rank == ranks - 1 ? errorOf(out, 0, all) : 0);
  MPI_Reduce_scatter_block(mine, out, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  say("reduce_scatter_block", errorOf(out, rank * n, n));
  int* counts = malloc((size_t)ranks * sizeof *counts);
  for (int r = 0; r < ranks; r++) counts[r] = n;
  MPI_Reduce_scatter(mine, out, counts, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  say("reduce_scatter", errorOf(out, rank * n, n));
  say("input_changed", memcmp(mine, kept, (size_t)all * 4) != 0);
  memcpy(out, mine, (size_t)all * 4);
  MPI_Reduce_scatter_block(MPI_IN_PLACE, out, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  say("reduce_scatter_in_place", errorOf(out, rank * n, n));
  counts[0] = 0;
  counts[ranks - 1] += n;
  memset(out, 0, (size_t)all * 4);
  MPI_Reduce_scatter(mine, out, counts, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  int at = 0;
  for (int r = 0; r < rank; r++) at += counts[r];
  say("reduce_scatter_unequal", counts[rank] ? errorOf(out, at, counts[rank]) : 0);

  double* wide = malloc((size_t)all * 8);
  for (int i = 0; i < all; i++) wide[i] = gradient(rank, 0, 0, i);
  MPI_Allreduce(MPI_IN_PLACE, wide, all, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  for (int i = 0; i < all; i++) out[i] = (float)wide[i];
  say("allreduce_double", errorOf(out, 0, all));

#if MPI_VERSION >= 4 /* large counts */
  MPI_Allreduce_c(mine, out, all, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  say("allreduce_large", errorOf(out, 0, all));
  MPI_Reduce_c(mine, out, all, MPI_FLOAT, MPI_SUM, 0, MPI_COMM_WORLD);
  say("reduce_large", rank == 0 ? errorOf(out, 0, all) : 0);
  MPI_Reduce_scatter_block_c(mine, out, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  say("reduce_scatter_block_large", errorOf(out, rank * n, n));
  MPI_Count* large = malloc((size_t)ranks * sizeof *large);
  for (int r = 0; r < ranks; r++) large[r] = n;
  MPI_Reduce_scatter_c(mine, out, large, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  say("reduce_scatter_large", errorOf(out, rank * n, n));
  free(large);
  for (int i = 0; i < all; i++) out[i] = rank == 0 ? (float)sum(0, 0, i) : 0;
  MPI_Bcast_c(out, all, MPI_FLOAT, 0, MPI_COMM_WORLD);
  say("broadcast_large", errorOf(out, 0, all));
  float* part = malloc((size_t)n * 4);
  for (int i = 0; i < n; i++) part[i] = (float)sum(0, 0, rank * n + i);
  MPI_Allgather_c(part, n, MPI_FLOAT, out, n, MPI_FLOAT, MPI_COMM_WORLD);
  say("all_gather_large", errorOf(out, 0, all));
  free(part);
#endif

  /* A weight matrix, and its parts. */
  for (int i = 0; i < all; i++) out[i] = rank == 0 ? (float)sum(0, 0, i) : 0;
  MPI_Bcast(out, all, MPI_FLOAT, 0, MPI_COMM_WORLD);
  say("broadcast", errorOf(out, 0, all));
  say("broadcast_differs", !same(out, (size_t)all * 4));
  for (int i = 0; i < n; i++) mine[i] = (float)sum(0, 0, rank * n + i);
  MPI_Allgather(mine, n, MPI_FLOAT, out, n, MPI_FLOAT, MPI_COMM_WORLD);
  say("all_gather", errorOf(out, 0, all));
  for (int i = 0; i < n; i++) out[rank * n + i] = (float)sum(0, 0, rank * n + i);
  MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, out, n, MPI_FLOAT, MPI_COMM_WORLD);
  say("all_gather_in_place", errorOf(out, 0, all));

  /* Communicators come and go. */
  for (int i = 0; i < all; i++) mine[i] = gradient(rank, 0, 0, i);
  for (int i = 0; i < 3; i++) {
    MPI_Comm copy;
    MPI_Comm_dup(MPI_COMM_WORLD, &copy);
    MPI_Allreduce(mine, out, all, MPI_FLOAT, MPI_SUM, copy);
    MPI_Comm_free(&copy);
  }
  say("duplicate", errorOf(out, 0, all));
  free(mine), free(out), free(kept), free(counts), free(wide);
}

/* 0 where each result is exactly MPI's. */
static void other(void) {
  enum { n = 100000 };
  static float x[n], y[n];
  static int k[n], l[n];
  double wrong = 0;
  for (int i = 0; i < n; i++) x[i] = (float)(i % 7 + rank), k[i] = i + rank;
  MPI_Allreduce(x, y, n, MPI_FLOAT, MPI_MAX, MPI_COMM_WORLD);
  for (int i = 0; i < n; i++) wrong += y[i] != (float)(i % 7 + ranks - 1);
  say("max", wrong);
  MPI_Allreduce(k, l, n, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  wrong = 0;
  for (int i = 0; i < n; i++) wrong += l[i] != ranks * i + ranks * (ranks - 1) / 2;
  say("integers", wrong);
  for (int i = 0; i < 100; i++) x[i] = 0.1f * (float)(i + rank + 1);
  MPI_Allreduce(x, y, 100, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  PMPI_Allreduce(x, y + 100, 100, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  say("small", memcmp(y, y + 100, 400) != 0);
  MPI_Datatype pairs;
  MPI_Type_contiguous(2, MPI_FLOAT, &pairs);
  MPI_Type_commit(&pairs);
  for (int i = 0; i < n; i++) x[i] = rank == 0 ? 0.1f * (float)i : 0;
  MPI_Bcast(x, n / 2, pairs, 0, MPI_COMM_WORLD);
  wrong = 0;
  for (int i = 0; i < n; i++) wrong += x[i] != 0.1f * (float)i;
  say("derived", wrong);
  MPI_Type_free(&pairs);
  MPI_Comm half;
  MPI_Comm_split(MPI_COMM_WORLD, rank % 2, rank, &half);
  for (int i = 0; i < n; i++) x[i] = 0.1f * (float)(i % 1000 + rank);
  MPI_Allreduce(x, y, n, MPI_FLOAT, MPI_SUM, half);
  float* z = malloc(sizeof y);
  PMPI_Allreduce(x, z, n, MPI_FLOAT, MPI_SUM, half);
  say("part", memcmp(y, z, sizeof y) != 0);
  free(z);
  wrong = 0;
  if (ranks > 1) {
    MPI_Comm inter;
    MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, 1 - rank % 2, 1, &inter);
    for (int i = 0; i < n; i++) x[i] = (float)(i % 7 + rank);
    MPI_Allreduce(x, y, n, MPI_FLOAT, MPI_SUM, inter); /* of the other group */
    MPI_Comm_free(&inter);
    for (int i = 0; i < n; i++) {
      float there = 0;
      for (int r = 1 - rank % 2; r < ranks; r += 2) there += (float)(i % 7 + r);
      wrong += y[i] != there;
    }
  }
  say("intercommunicator", wrong);
  MPI_Comm_free(&half);
  MPI_Allreduce(x, y, 0, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  say("empty", 0);
}

static void nonblocking(int steps, int n) {
  enum { tensors = 4 };
  float* buffer[tensors];
  double one = 0, norm = 0;
  int equal = 1;
  for (int b = 0; b < tensors; b++) buffer[b] = malloc((size_t)n * 4);
  for (int t = 0; t < steps; t++) {
    MPI_Request requests[tensors];
    for (int b = 0; b < tensors; b++) {
      for (int i = 0; i < n; i++) buffer[b][i] = gradient(rank, b, t, i);
#if MPI_VERSION >= 4
      if (b == 1)
        MPI_Iallreduce_c(MPI_IN_PLACE, buffer[b], n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &requests[b]);
      else
#endif
        MPI_Iallreduce(MPI_IN_PLACE, buffer[b], n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &requests[b]);
      /* A message between the begin and the end of the sum, which needs the neighbour to go on. */
      int token = rank, got;
      MPI_Sendrecv(&token, 1, MPI_INT, (rank + 1) % ranks, b, &got, 1, MPI_INT, (rank + ranks - 1) % ranks, b,
                   MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
    int done = 0;
    while (!done) MPI_Testall(2, requests, &done, MPI_STATUSES_IGNORE);
    MPI_Waitall(tensors - 2, requests + 2, MPI_STATUSES_IGNORE);
    for (int b = 0; t == steps - 1 && b < tensors; b++) {
      equal &= same(buffer[b], (size_t)n * 4);
      for (int i = 0; i < n; i++) {
        one += (buffer[b][i] - sum(b, t, i)) * (buffer[b][i] - sum(b, t, i));
        norm += sum(b, t, i) * sum(b, t, i);
      }
    }
  }
  say("step_error", sqrt(one / norm));
  say("ranks_differ", !equal);
  for (int b = 0; b < tensors; b++) free(buffer[b]);
}

/* Ones among zeros, which every codec keeps: at both ends, and where a count of bytes of 31 or 32 bits might break. */
static void longSum(void) {
  const size_t n = ((size_t)1 << 29) + 4099, places[] = {0, (1 << 28) - 1, 1 << 28, (1 << 29) - 1, 1 << 29, n - 1};
  enum { numPlaces = sizeof places / sizeof *places };
  float* x = calloc(n, sizeof *x);
  double wrong = 0, others = 0;
  for (int i = 0; i < numPlaces; i++) x[places[i]] = 1;
  MPI_Allreduce(MPI_IN_PLACE, x, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  for (int i = 0; i < numPlaces; i++) wrong += x[places[i]] != (float)ranks;
  for (size_t i = 0; i < n; i++) others += x[i] != 0;
  say("wrong", wrong);
  say("not_zero", others - numPlaces);
  free(x);
}

int main(int argc, char** argv) {
  int provided;
  if (argc > 1 && !strcmp(argv[1], "nonblocking"))
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  else
    MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  if (argc == 5 && !strcmp(argv[1], "train")) train(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
  if (argc == 3 && !strcmp(argv[1], "calls")) calls(atoi(argv[2]));
  if (argc == 2 && !strcmp(argv[1], "other")) other();
  if (argc == 2 && !strcmp(argv[1], "long")) longSum();
  if (argc == 4 && !strcmp(argv[1], "nonblocking")) nonblocking(atoi(argv[2]), atoi(argv[3]));
  MPI_Finalize();
  return 0;
}
