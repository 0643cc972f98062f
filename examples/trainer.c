#include "examples/trainer.h"

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "examples/device.h"
#include "examples/model.h"
#include "slimccl.h"
#ifdef SLIM_MPI
#include "slimccl_mpi.h"
#endif

static int processRank, processCount = 1;
static int devices; /* CUDA's, where gradients are exchanged; 0: in host memory */

/* Ends the program from whichever rank came first. */
__attribute__((format(printf, 1, 2), noreturn)) static void fatal(const char* format, ...) {
  static atomic_flag ended = ATOMIC_FLAG_INIT;
  if (atomic_flag_test_and_set(&ended))
    for (;;) pause();
  va_list arguments;
  va_start(arguments, format);
  fputs("train: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  fflush(NULL);
#ifdef SLIM_MPI
  if (processCount > 1) MPI_Abort(MPI_COMM_WORLD, 1);
#endif
  _exit(1);
}

static void check(slimResult_t result, const char* what) {
  if (result != slimSuccess) fatal("%s: %s: %s", what, slimGetErrorString(result), slimGetLastError());
}

static void checkDevice(const char* failed) {
  if (failed) fatal("the CUDA driver refused %s", failed);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void trainerInit(int* argc, char*** argv) {
#ifdef SLIM_MPI
  MPI_Init(argc, argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &processRank);
  MPI_Comm_size(MPI_COMM_WORLD, &processCount);
#else
  (void)argc, (void)argv;
  static const char* const launchers[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE"};
  for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
    const char* size = getenv(launchers[i]);
    if (size && atoi(size) > 1) fatal("this program was built without MPI: under mpirun use train_mpi");
  }
#endif
}

void trainerFinish(void) {
#ifdef SLIM_MPI
  MPI_Finalize();
#endif
}

int trainerProcesses(void) { return processCount > 1; }
int trainerRanks(const Options* options) { return processCount > 1 ? processCount : options->ranks; }
int trainerPrints(void) { return processRank == 0; }

int trainerOnCuda(void) {
  const char* why = "ranks are threads of one process there: leave out mpirun";
  devices = processCount > 1 ? 0 : devicesOpen(&why);
  if (!devices) fprintf(stderr, "train: --device cuda: %s\n", why);
  return devices ? 0 : -1;
}

static ModelShape shapeOf(const Options* options, const Text* text) {
  return (ModelShape){text->vocabulary, options->context, options->embed, options->hidden};
}

size_t trainerParameters(const Options* options, const Text* text) {
  const size_t v = (size_t)text->vocabulary, e = (size_t)options->embed, h = (size_t)options->hidden;
  return v * e + (size_t)options->context * e * h + h * h + h * v + h + h + v;
}

int trainerCheckSpec(const char* spec) {
  slimComm_t comm;
  slimTensor_t tensor;
  check(slimCommInitLocal(&comm, 1, NULL), "slimCommInitLocal");
  const slimResult_t result = slimTensorCreate(&tensor, comm, spec, 0);
  if (result != slimSuccess) {
    if (trainerPrints()) fprintf(stderr, "train: --compress '%s': %s\n", spec, slimGetLastError());
  } else {
    check(slimTensorDestroy(tensor), "slimTensorDestroy");
  }
  check(slimCommDestroy(comm), "slimCommDestroy");
  return result == slimSuccess ? 0 : -1;
}

/* ---- One rank -------------------------------------------------------------------------------------------------- */

typedef struct {
  const Options* options;
  const Text* text;
  Run* run;             /* written by one rank of a process alone: `keeps` */
  slimComm_t comm;      /* in host memory: losses, and gradients where devices == 0 */
  slimComm_t gradients; /* where gradients are */
} Worker;

/* Sum over ranks of n doubles, the same bits everywhere. */
static void sumOverRanks(double* values, size_t n, slimComm_t comm) {
  check(slimAllReduce(values, values, n, slimFloat64, slimSum, NULL, comm, NULL), "slimAllReduce");
}

static void progress(const Run* run, int steps, const Evaluation* last, double started, int done) {
  static double printed;
  const int tty = isatty(STDERR_FILENO);
  const double t = now();
  if (!trainerPrints() || (!done && t - printed < (tty ? 0.1 : 20))) return;
  printed = t;
  fprintf(stderr, "%s[%d/%d] %s  step %d/%d  train %.3f  validation %.3f  %.1f s%s", tty ? "\r\033[K" : "", run->number,
          run->total, run->spec ? run->spec : "uncompressed", last->step, steps, last->train, last->valid, t - started,
          tty && !done ? "" : "\n");
  fflush(stderr);
}

/* What the tensors' calls sent and took on this rank so far. */
static slimTensorStats_t statsOf(const slimTensor_t* tensors) {
  slimTensorStats_t sum = {.size = sizeof sum};
  for (int t = 0; t < modelTensors; t++) {
    slimTensorStats_t stats = {.size = sizeof stats};
    check(slimTensorGetStats(tensors[t], &stats), "slimTensorGetStats");
    sum.wireBytes += stats.wireBytes;
    sum.plainBytes += stats.plainBytes;
    sum.encodeSeconds += stats.encodeSeconds;
    sum.exchangeSeconds += stats.exchangeSeconds;
    sum.reduceSeconds += stats.reduceSeconds;
    sum.decodeSeconds += stats.decodeSeconds;
  }
  return sum;
}

static int evaluates(const Options* options, int step) {
  const int every = options->evalEvery;
  return step % every == 0 || step == options->steps || step == every / 2 || step == every / 4;
}

/* The learning rate rises over the first tenth of the training and then falls, linearly, to zero. */
static double schedule(int step, int steps) {
  const double rise = (step + 1) / (0.1 * steps), fall = (double)(steps - step) / (0.9 * steps);
  return fmin(1, fmin(rise, fall));
}

/* What a gradient longer than `clip` is multiplied by. All ranks see the same gradient, so all get the same number. */
static double clipping(const Model* model, double clip) {
  double squares = 0;
  for (size_t i = 0; i < model->count; i++) squares += (double)model->gradient[i] * model->gradient[i];
  return clip > 0 && squares > clip * clip ? clip / sqrt(squares) : 1;
}

/* The bits of all parameters, as one number. */
static uint64_t fingerprint(const Model* model) {
  uint64_t hash = 14695981039346656037u; /* FNV-1a over words */
  for (size_t i = 0; i < model->count; i++) {
    uint32_t word;
    memcpy(&word, &model->weight[i], sizeof word);
    hash = (hash ^ word) * 1099511628211u;
  }
  return hash;
}

/* gradient ← its mean over ranks, by way of a device's buffer where that is not NULL. Plain sums are not to be had
 * there: fp32 is the compressor that changes nothing. */
static void exchangeGradients(Model* model, const slimTensor_t* tensors, slimComm_t comm, const DeviceBuffer* buffer) {
  float* gradient = buffer ? buffer->data : model->gradient;
  const size_t bytes = model->count * sizeof *gradient;
  if (buffer) checkDevice(deviceWrite(buffer, model->gradient, bytes));
  for (int t = 0; t < modelTensors; t++) {
    float* part = gradient + model->offset[t];
    const size_t count = model->offset[t + 1] - model->offset[t];
    check(slimAllReduce(part, part, count, slimFloat32, slimAvg, tensors[t], comm, buffer ? buffer->stream : NULL),
          "slimAllReduce");
  }
  if (buffer) checkDevice(deviceRead(buffer, model->gradient, bytes));
}

static void* train(void* argument) {
  Worker* worker = argument;
  const Options* options = worker->options;
  const Text* text = worker->text;
  Run* run = worker->run;
  const char* spec = run->spec;
  slimComm_t comm = worker->comm, gradients = worker->gradients;
  int rank, ranks;
  check(slimCommUserRank(comm, &rank), "slimCommUserRank");
  check(slimCommCount(comm, &ranks), "slimCommCount");

  const int keeps = rank == 0 || processCount > 1;
  const int batch = options->batch / ranks;
  Model* model = modelCreate(shapeOf(options, text), batch, run->seed);
  const size_t samples = options->evalSamples && (size_t)options->evalSamples < text->validCount
                             ? (size_t)options->evalSamples
                             : text->validCount;
  const size_t from = samples * (size_t)rank / (size_t)ranks, to = samples * (size_t)(rank + 1) / (size_t)ranks;
  uint32_t *valid = malloc((to - from + 1) * sizeof *valid), *positions = malloc((size_t)batch * sizeof *positions);
  if (!model || !valid || !positions) fatal("out of memory");
  for (size_t i = from; i < to; i++) valid[i - from] = text->valid[i * text->validCount / samples];

  slimTensor_t tensors[modelTensors] = {NULL};
  for (uint32_t t = 0; t < modelTensors && (spec || devices); t++)
    check(slimTensorCreate(&tensors[t], gradients, spec ? spec : "fp32", t), "slimTensorCreate");
  DeviceBuffer buffer = {NULL, NULL};
  if (devices) checkDevice(deviceOpen(&buffer, rank % devices, model->count * sizeof(float)));

  const double ringBytes = 2.0 * (ranks - 1) / ranks * sizeof(float) * (double)model->count;
  const double started = now();
  double trainLoss = 0, exchange = 0, paused = 0;
  int trainBatches = 0;
  Evaluation last = {0};
  for (int step = 0;; step++) {
    /* Every rank draws its own part of one batch, which does not depend on the number of ranks. */
    for (int i = 0; i < batch; i++) {
      const uint64_t bits = randomBits(run->seed, 1000 + (uint64_t)step, (uint64_t)(rank * batch + i));
      positions[i] = text->train[bits % text->trainCount];
    }
    if (evaluates(options, step)) {
      const double reached = now();
      if (step == 0) trainLoss = modelLoss(model, text->codes, positions, batch), trainBatches = 1;
      const double sent = spec ? (double)statsOf(tensors).wireBytes : ringBytes * step;
      double sums[3] = {modelLoss(model, text->codes, valid, (int)(to - from)), trainLoss, sent};
      sumOverRanks(sums, 3, comm);
      last = (Evaluation){step, sums[1] / trainBatches / batch / ranks, sums[0] / (double)samples, sums[2] / ranks,
                          reached - started - paused};
      trainLoss = trainBatches = 0;
      if (keeps) {
        run->evaluations = realloc(run->evaluations, (size_t)(run->count + 1) * sizeof last);
        if (!run->evaluations) fatal("out of memory");
        run->evaluations[run->count++] = last;
      }
      paused += now() - reached;
    }
    if (step == options->steps) break;
    if (keeps) {
      last.step = step;
      progress(run, options->steps, &last, started, 0);
    }

    trainLoss += modelGradient(model, text->codes, positions, batch);
    trainBatches++;
    double ready = 0;
    sumOverRanks(&ready, 1, comm); /* so that the times below are the exchange's, not the wait for the slowest rank */
    const double before = now();
    exchangeGradients(model, tensors, gradients, devices ? &buffer : NULL);
    exchange += now() - before;
    const double rate = run->rate * schedule(step, options->steps) * clipping(model, options->clip);
    modelStep(model, (float)rate, (float)options->momentum);
  }

  /* Do all replicas have the same bits? The smallest and the largest fingerprint tell. */
  uint64_t low = fingerprint(model), high = low;
  check(slimAllReduce(&low, &low, 1, slimUint64, slimMin, NULL, comm, NULL), "slimAllReduce");
  check(slimAllReduce(&high, &high, 1, slimUint64, slimMax, NULL, comm, NULL), "slimAllReduce");

  double sums[6] = {ringBytes * options->steps, ringBytes * options->steps, 0, exchange, 0, 0};
  if (spec) {
    const slimTensorStats_t stats = statsOf(tensors);
    sums[0] = (double)stats.wireBytes;
    sums[1] = (double)stats.plainBytes;
    sums[2] = stats.encodeSeconds;
    sums[3] = stats.exchangeSeconds;
    sums[4] = stats.reduceSeconds;
    sums[5] = stats.decodeSeconds;
  }
  sumOverRanks(sums, 6, comm);
  if (keeps) {
    const double each = 1.0 / ranks / options->steps;
    run->identical = low == high;
    run->stepBytes = sums[0] * each;
    run->plainBytes = sums[1] * each;
    run->encodeSeconds = sums[2] * each;
    run->exchangeSeconds = sums[3] * each;
    run->reduceSeconds = sums[4] * each;
    run->decodeSeconds = sums[5] * each;
    snprintf(run->printed, sizeof run->printed, "%s", spec ? slimTensorSpec(tensors[0]) : "uncompressed");
    progress(run, options->steps, &last, started, 1);
  }
  if (devices) checkDevice(deviceClose(&buffer));
  for (int t = 0; t < modelTensors && tensors[t]; t++) check(slimTensorDestroy(tensors[t]), "slimTensorDestroy");
  modelDestroy(model);
  free(valid);
  free(positions);
  return NULL;
}

void trainerRun(const Options* options, const Text* text, Run* run) {
  slimConfig_t config = SLIM_CONFIG_INITIALIZER;
  config.seed = run->seed;
  run->evaluations = NULL;
  run->count = 0;
#ifdef SLIM_MPI
  if (processCount > 1) {
    Worker worker = {options, text, run, NULL, NULL};
    check(slimCommInitMPI(&worker.comm, MPI_COMM_WORLD, &config), "slimCommInitMPI");
    worker.gradients = worker.comm;
    train(&worker);
    check(slimCommDestroy(worker.comm), "slimCommDestroy");
    return;
  }
#endif
  const int ranks = options->ranks;
  slimComm_t *comms = calloc((size_t)ranks, sizeof *comms), *gradients = comms;
  pthread_t* threads = calloc((size_t)ranks, sizeof *threads);
  Worker* workers = calloc((size_t)ranks, sizeof *workers);
  if (!comms || !threads || !workers) fatal("out of memory");
  check(slimCommInitLocal(comms, ranks, &config), "slimCommInitLocal");
  if (devices) {
    int* device = malloc((size_t)ranks * sizeof *device);
    gradients = calloc((size_t)ranks, sizeof *gradients);
    if (!device || !gradients) fatal("out of memory");
    for (int r = 0; r < ranks; r++) device[r] = r % devices;
    check(slimCommInitLocalDevices(gradients, ranks, device, &config), "slimCommInitLocalDevices");
    free(device);
  }
  for (int r = 0; r < ranks; r++) {
    workers[r] = (Worker){options, text, run, comms[r], gradients[r]};
    if (pthread_create(&threads[r], NULL, train, &workers[r])) fatal("could not start a thread for rank %d", r);
  }
  for (int r = 0; r < ranks; r++) pthread_join(threads[r], NULL);
  for (int r = 0; r < ranks; r++) {
    if (devices) check(slimCommDestroy(gradients[r]), "slimCommDestroy");
    check(slimCommDestroy(comms[r]), "slimCommDestroy");
  }
  if (devices) free(gradients);
  free(comms);
  free(threads);
  free(workers);
}

void trainerFreeRun(Run* run) {
  free(run->evaluations);
  run->evaluations = NULL;
  run->count = 0;
}
