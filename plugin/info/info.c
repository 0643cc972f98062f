/* slimccl-info: what SlimCCL finds on this machine, its settings, and what a compressor means. */
#include <dlfcn.h>
#include <getopt.h>
#include <limits.h>
#include <link.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef SLIM_WITH_MPI
#include <mpi.h>
#endif

#include "collectives/hierarchy.h"
#include "collectives/plan.h"
#include "compress/cuda/kernels.h"
#include "compress/kernels.h"
#include "plugin/info/flags.h"
#include "plugin/preload/dropin.h"
#include "plugin/preload/environment.h"
#include "plugin/preload/policy.h"
#include "plugin/slimccl.h"

static void row(const char* name) { printf("%-12s", name); }

/* ---- The machine ------------------------------------------------------------------------------------------------ */

#define SLIM_FEATURES(X) \
  X("avx2") X("fma") X("bmi2") X("avx512f") X("avx512bw") X("avx512cd") X("avx512dq") X("avx512vl")

static void showCpu(void) {
  cpu_set_t cores;
  row("CPU");
  printf("%d cores, kernels:", sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1);
  const char* const sets[] = {"baseline", "avx2", "avx512"};
  for (int i = 0; i < 3; i++)
    if (slimKernelsByName(sets[i])) printf(" %s%s", sets[i], strcmp(sets[i], slimCpuName()) ? "" : " (in use)");
#ifdef __x86_64__
  printf("; features:");
#define SLIM_SHOW_(feature) \
  if (__builtin_cpu_supports(feature)) printf(" " feature);
  SLIM_FEATURES(SLIM_SHOW_)
#endif
  putchar('\n');
}

/* Opens a library by its name or path as the system finds it; NULL: there is none. path: where it is. */
static void* open(const char* name, char path[PATH_MAX]) {
  struct link_map* map;
  void* library = dlopen(name, RTLD_LAZY | RTLD_LOCAL);
  if (library && (dlinfo(library, RTLD_DI_LINKMAP, &map) || !realpath(map->l_name, path)))
    snprintf(path, PATH_MAX, "%s", name);
  return library;
}

/* A function of a library that no header of ours declares. */
typedef int (*function)();
static function find(void* library, const char* name) {
  function found;
  *(void**)&found = dlsym(library, name);
  return found;
}

static void showCuda(void) {
  char path[PATH_MAX];
  void* driver = open("libcuda.so.1", path);
  row("CUDA");
#ifdef SLIM_WITH_CUDA
  const char* const built = "built with CUDA kernels";
#else
  const char* const built = "built without CUDA";
#endif
  if (!driver) {
    printf("no libcuda.so.1; SlimCCL was %s\n", built);
    return;
  }
  printf("%s", path);
  const function version = find(driver, "cuDriverGetVersion"), init = find(driver, "cuInit"),
                 count = find(driver, "cuDeviceGetCount"), name = find(driver, "cuDeviceGetName");
  int code = 0, devices = 0;
  char device[256];
  if (version && version(&code) == 0) printf(", for CUDA %d.%d", code / 1000, code % 1000 / 10);
  if (init && count && init(0) == 0) count(&devices);
  printf(", %d device%s; SlimCCL was %s\n", devices, devices == 1 ? "" : "s", built);
  for (int i = 0; i < devices && name; i++)
    if (name(device, (int)sizeof device, i) == 0) printf("%-12s  device %d: %s\n", "", i, device);
}

/* SLIM_NCCL_LIB's, or the system's. */
static void* openNccl(char path[PATH_MAX]) {
  const char* given = getenv("SLIM_NCCL_LIB");
  return open(given && *given ? given : "libnccl.so.2", path);
}

static void showNccl(void) {
  char path[PATH_MAX];
  void* nccl = openNccl(path);
  int code = 0;
  const function version = nccl ? find(nccl, "ncclGetVersion") : NULL;
  row("NCCL");
  printf("%s", nccl ? path : dlerror());
  if (!nccl) {
    putchar('\n');
  } else if (version && version(&code) == 0) {
    const int unit = code < 10000 ? 1000 : 10000; /* 2.9 has changed the number's form */
    printf(", %d.%d.%d\n", code / unit, code % unit / 100, code % 100);
  } else {
    puts(", which does not tell its version");
  }
}

static void showMpi(void) {
  row("MPI");
#if defined SLIM_WITH_MPI && defined OPEN_MPI
  printf("built for Open MPI %d.%d.%d\n", OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION, OMPI_RELEASE_VERSION);
#elif defined SLIM_WITH_MPI && defined MPICH_VERSION
  printf("built for MPICH %s\n", MPICH_VERSION);
#elif defined SLIM_WITH_MPI
  printf("built for an MPI of version %d.%d\n", MPI_VERSION, MPI_SUBVERSION);
#else
  puts("built without MPI");
#endif
}

/* ---- Settings -----------------------------------------------------------------------------------------------------
 */

static int showSettings(void) {
  slimEnvironment environment;
  slimPolicy* policy = NULL;
  char name[64];
  const char* nearest;
  printf("\n%-16s  %-24s  %-11s  %-7s  %s\n", "variable", "value", "source", "default", "meaning");
  for (const slimVariable* v = slimVariables; v->name; v++) {
    const char* value = getenv(v->name);
    const bool given = value && *value; /* an empty one counts as unset */
    printf("%-16s  %-24s  %-11s  %-7s  %s\n", v->name,
           given          ? value
           : *v->fallback ? v->fallback
                          : "-",
           given ? "environment" : "default", *v->fallback ? v->fallback : "-", v->help);
  }
  int failed = 0;
  for (int n = 0; (nearest = slimEnvironmentUnknown(environ, n, name)); n++)
    printf("%s is unknown: do you mean %s?\n", name, nearest), failed = 1;
  if (slimEnvironmentRead(&environment, environ) != slimSuccess ||
      slimPolicyCreate(&policy, &environment) != slimSuccess)
    printf("wrong: %s\n", slimLastMessage()), failed = 1;
  slimPolicyDestroy(policy);
  return failed;
}

/* ---- A spec -------------------------------------------------------------------------------------------------------
 */

static void showDirection(const char* name, const slimDirection* direction, slimDataType_t type) {
  const slimClass class = slimTreeClass(direction->tree);
  row(name);
  if (isfinite(class.omega)) {
    printf("unbiased, omega = %.6g", class.omega);
  } else {
    printf("biased");
  }
  if (class.delta > 0) printf("; contractive, delta = %.6g", class.delta);
  printf("; %.6g bits an element, ratio %.6g\n", class.bits, 8 * (double)slimTypeBytes(type) / class.bits);
}

static void showDevice(slimCompressor* c, const slimSettings* settings, int ranks, slimDataType_t type,
                       uint64_t count) {
  slimDevice device = slimHost; /* whose buffers this thread cannot read: that is all a plan asks */
  slimPlan plan;
  device.readable = false;
  row("on CUDA");
  if (!slimDeviceRuns(c->up.tree) || !slimDeviceRuns(c->down.tree)) {
    puts("no: there are no kernels for it");
  } else if (slimPlanAllReduce(&plan, c, settings, &device, ranks, type, count) != slimSuccess) {
    printf("no: %s\n", slimLastMessage());
  } else {
    printf("yes, %s\n", slimAlgorithmName(plan.algorithm));
  }
}

/* What an ncclComm_t with domains of this size does. */
static void showDomains(slimCompressor* c, const slimSettings* settings, int ranks, int size, slimDataType_t type,
                        uint64_t count) {
  const slimComm home = {.domains = {.size = size}};
  const uint64_t shard = slimShardElements(&home, count);
  slimDevice device = slimHost;
  slimPlan plan;
  device.readable = false;
  row("domains");
  if (size == ranks) {
    puts("one: plain (SLIM_HIERARCHY=flat compresses there)");
  } else if (ranks % size) {
    printf("of %d ranks and of %d: compressed between all ranks, as above\n", size, ranks % size);
  } else if (!shard) {
    puts("the tensor is too small for them: compressed between all ranks, as above");
  } else if (slimPlanAllReduce(&plan, c, settings, &device, ranks / size, type, shard) != slimSuccess) {
    printf("no: %s\n", slimLastMessage());
  } else {
    printf("%d of %d ranks: plain inside of each, %s of %llu elements a rank across\n", ranks / size, size,
           slimAlgorithmName(plan.algorithm), (unsigned long long)shard);
    row("across");
    printf("%llu bytes a rank, a plain ring %llu; memory %llu bytes a rank\n", (unsigned long long)plan.sentBytes,
           (unsigned long long)plan.plainBytes, (unsigned long long)plan.stateBytes);
  }
}

static int check(char* spec, uint64_t count, int ranks, int domain, slimDataType_t type) {
  slimCompressor* c;
  slimComm_t comm; /* one that shows the default settings */
  slimPlan plan;
  if (slimPolicyOpenAuto(spec)) {
    row("auto");
    puts("under preload, where it is faster than a plain sum, as measured; then one-shot or two-shot, too");
  }
  if (slimCompressorCreate(&c, spec) != slimSuccess || slimCommInitLocal(&comm, 1, NULL) != slimSuccess) {
    fprintf(stderr, "slimccl-info: %s\n", slimLastMessage());
    return 1;
  }
  row("spec");
  puts(c->text);
  showDirection("up", &c->up, type);
  showDirection("down", &c->down, type);
  row("allreduce");
  printf("%llu elements of %s over %d ranks: ", (unsigned long long)count, slimTypeName(type), ranks);
  const int failed = slimPlanAllReduce(&plan, c, &comm->settings, comm->device, ranks, type, count) != slimSuccess;
  if (failed) {
    printf("refused: %s\n", slimLastMessage());
  } else {
    printf("%s, %llu slice%s of %llu\n", slimAlgorithmName(plan.algorithm), (unsigned long long)plan.slices,
           plan.slices == 1 ? "" : "s", (unsigned long long)plan.sliceElements);
    row("sends");
    printf("%llu bytes a rank, a plain ring %llu", (unsigned long long)plan.sentBytes,
           (unsigned long long)plan.plainBytes);
    if (plan.sentBytes) printf(": ratio %.4g", (double)plan.plainBytes / (double)plan.sentBytes);
    putchar('\n');
    row("memory");
    printf("%llu bytes a rank, %.4g an element\n", (unsigned long long)plan.stateBytes,
           (double)plan.stateBytes / (double)count);
  }
  showDevice(c, &comm->settings, ranks, type, count);
  if (domain > 1 && slimDeviceRuns(c->up.tree) && slimDeviceRuns(c->down.tree))
    showDomains(c, &comm->settings, ranks, domain, type, count);
  slimCommDestroy(comm);
  slimCompressorDestroy(c);
  return failed;
}

/* ---- The drop-in --------------------------------------------------------------------------------------------------
 */

/* libslimccl_nccl.so as it lies beside this program: where it was installed, or where it was built. */
static bool findShim(char path[PATH_MAX]) {
  static const char* const places[] = {"/../lib/libslimccl_nccl.so", "/../preload/libslimccl_nccl.so"};
  char self[PATH_MAX], at[2 * PATH_MAX];
  if (!realpath("/proc/self/exe", self)) return false;
  *strrchr(self, '/') = 0;
  for (int i = 0; i < 2; i++) {
    snprintf(at, sizeof at, "%s%s", self, places[i]);
    if (realpath(at, path)) return true;
  }
  return false;
}

static int makeDropIn(const char* dir, const char* given) {
  char shim[PATH_MAX], nccl[PATH_MAX];
  if (!findShim(shim)) {
    fputs("slimccl-info: no libslimccl_nccl.so in ../lib beside this program: it was built without NCCL's header\n",
          stderr);
    return 1;
  }
  if (!given && !openNccl(nccl)) {
    fprintf(stderr, "slimccl-info: %s: give NCCL's path by --nccl\n", dlerror());
    return 1;
  }
  if (slimMakeDropIn(dir, shim, given ? given : nccl) != slimSuccess) {
    fprintf(stderr, "slimccl-info: %s\n", slimLastMessage());
    return 1;
  }
  printf("%s/libnccl.so.2: %s before %s\n", dir, shim, given ? given : nccl);
  return 0;
}

/* ---- Flags --------------------------------------------------------------------------------------------------------
 */

static void help(void) {
  puts(
      "Shows what SlimCCL finds on this machine and how it is set, or what a compressor means.\n\n"
      "  slimccl-info [flags]\n");
#define SLIM_HELP_(letter, name, argument, text)                   \
  {                                                                \
    const char* const takes = argument;                            \
    printf("  --%-11s %-5s %s\n", name, takes ? takes : "", text); \
  }
  SLIM_INFO_FLAGS(SLIM_HELP_)
}

static int wrong(const char* flag, const char* value, const char* right) {
  fprintf(stderr, "slimccl-info: --%s %s: give %s\n", flag, value, right);
  return 2;
}

int main(int argc, char** argv) {
#define SLIM_FLAG_(letter, name, argument, text) {name, (argument) ? required_argument : no_argument, NULL, letter},
  static const struct option flags[] = {SLIM_INFO_FLAGS(SLIM_FLAG_){NULL, 0, NULL, 0}};
  char* spec = NULL;
  const char *dropin = NULL, *nccl = NULL;
  uint64_t count = 1 << 20, ranks = 8, domain = 1;
  slimDataType_t type = slimFloat32;
  for (int flag; (flag = getopt_long(argc, argv, "", flags, NULL)) != -1;) {
    const char* text = optarg;
    switch (flag) {
      case 'c':
        spec = optarg;
        break;
      case 'n':
        if (!slimParseBytes(&text, &count) || *text || !count || count > UINT64_C(1) << 40)
          return wrong("count", optarg, "elements, 1 to 1024G, e.g. 25M");
        break;
      case 'r':
        if (!slimParseBytes(&text, &ranks) || *text || !ranks || ranks > 65536)
          return wrong("ranks", optarg, "1 to 65536");
        break;
      case 'g':
        if (!slimParseBytes(&text, &domain) || *text || !domain || domain > 65536)
          return wrong("domain", optarg, "1 to 65536");
        break;
      case 't':
        for (type = slimFloat16; slimTypeIsFloat(type) && strcmp(slimTypeName(type), optarg); type++) continue;
        if (!slimTypeIsFloat(type)) return wrong("type", optarg, "fp16, bf16, fp32 or fp64");
        break;
      case 'd':
        dropin = optarg;
        break;
      case 'l':
        nccl = optarg;
        break;
      case 'h':
        help();
        return 0;
      case 'v':
        printf("SlimCCL %d.%d.%d\n", SLIM_MAJOR, SLIM_MINOR, SLIM_PATCH);
        return 0;
      default:
        fputs("slimccl-info: --help shows the flags\n", stderr);
        return 2;
    }
  }
  if (optind < argc) {
    fprintf(stderr, "slimccl-info: %s: takes flags only; --help shows them\n", argv[optind]);
    return 2;
  }
  if (dropin) return makeDropIn(dropin, nccl);
  if (spec) return check(spec, count, (int)ranks, (int)domain, type);
  row("SlimCCL");
  printf("%d.%d.%d\n", SLIM_MAJOR, SLIM_MINOR, SLIM_PATCH);
  showCpu();
  showCuda();
  showNccl();
  showMpi();
  return showSettings();
}
