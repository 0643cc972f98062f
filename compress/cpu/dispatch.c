#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/kernels.h"

extern const slimKernels slimKernels_baseline;
#ifdef __x86_64__
extern const slimKernels slimKernels_avx2, slimKernels_avx512;
#endif

const slimKernels* slimActiveKernels;

const slimKernels* slimKernelsByName(const char* name) {
  if (strcmp(name, "baseline") == 0) return &slimKernels_baseline;
#ifdef __x86_64__
  __builtin_cpu_init();
  if (strcmp(name, "avx2") == 0 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") &&
      __builtin_cpu_supports("fma"))
    return &slimKernels_avx2;
  if (strcmp(name, "avx512") == 0 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd"))
    return &slimKernels_avx512;
#endif
  return NULL;
}

const slimKernels* slimKernelsInUse(void) {
  const slimKernels* k = __atomic_load_n(&slimActiveKernels, __ATOMIC_ACQUIRE);
  if (k) return k;
  const char* forced = getenv("SLIM_CPU");
  if (forced) k = slimKernelsByName(forced);
  if (forced && !k)
    fprintf(stderr,
            "slimccl: warning: SLIM_CPU=%s is not one of baseline, avx2, avx512 that this machine has; ignored\n",
            forced);
  if (!k) k = slimKernelsByName("avx512");
  if (!k) k = slimKernelsByName("avx2");
  if (!k) k = &slimKernels_baseline;
  __atomic_store_n(&slimActiveKernels, k, __ATOMIC_RELEASE);
  return k;
}

const char* slimCpuName(void) { return slimKernelsInUse()->name; }
