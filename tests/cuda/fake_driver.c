/* A libcuda.so.1 that has nothing but a version: for what must happen before any device is used. FAKE_CUDA_VERSION is
 * what it says it is, FAKE_CUDA_LACKS a function that it does not have, FAKE_CUDA_INIT what cuInit answers. */
#include <cudaTypedefs.h>
#include <stdlib.h>
#include <string.h>

static int number(const char* name, int otherwise) { return getenv(name) ? atoi(getenv(name)) : otherwise; }

static CUresult version(int* v) {
  *v = number("FAKE_CUDA_VERSION", CUDA_VERSION);
  return CUDA_SUCCESS;
}
static CUresult init(unsigned int flags) { return flags ? CUDA_ERROR_INVALID_VALUE : number("FAKE_CUDA_INIT", 0); }
static CUresult errorName(CUresult error, const char** name) {
  *name = error == CUDA_ERROR_NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : NULL;
  return *name ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
static CUresult errorText(CUresult error, const char** text) {
  *text = error == CUDA_ERROR_NO_DEVICE ? "no CUDA-capable device is detected" : NULL;
  return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
static CUresult nothing(void) { return CUDA_ERROR_NOT_SUPPORTED; }

__attribute__((visibility("default")))
CUresult(cuGetProcAddress_v2)(const char* name, void** function, int wanted, cuuint64_t flags,
                              CUdriverProcAddressQueryResult* status) {
  (void)flags;
  const char* lacks = getenv("FAKE_CUDA_LACKS");
  *function = NULL;
  *status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  if (lacks && !strcmp(name, lacks)) return CUDA_ERROR_NOT_FOUND;
  *status = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
  if (wanted > number("FAKE_CUDA_VERSION", CUDA_VERSION))
    return CUDA_SUCCESS; /* as the real one: no error, no address */
  *status = CU_GET_PROC_ADDRESS_SUCCESS;
  *function = !strcmp(name, "cuDriverGetVersion") ? (void*)version
              : !strcmp(name, "cuInit")           ? (void*)init
              : !strcmp(name, "cuGetErrorName")   ? (void*)errorName
              : !strcmp(name, "cuGetErrorString") ? (void*)errorText
                                                  : (void*)nothing;
  return CUDA_SUCCESS;
}
