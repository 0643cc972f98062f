#include "compress/cuda/driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

slimDriverTable slimCu;

/* Cubins need a driver of the toolkit's major version (minor versions are compatible), and cuLibrary… needs 12.0. */
enum { neededVersion = CUDA_VERSION / 1000 * 1000 };
_Static_assert(CUDA_VERSION >= 12000, "SlimCCL needs a CUDA Toolkit of version 12.0 or later");

#define ROW(name, version) {"cu" #name, version},
static const struct {
  const char* name;
  int version;
} functions[] = {SLIM_DRIVER_FUNCTIONS(ROW)};
#undef ROW
enum { functionCount = sizeof functions / sizeof *functions };
_Static_assert(sizeof slimCu == functionCount * sizeof(void*), "one member a function, in the order of the list");

static slimDriverState state;
static PFN_cuGetProcAddress_v12000 find;
static char why[512];

static slimDriverState tooOld(int found, const char* detail) {
  char version[32] = "older than 12.0";
  if (found) snprintf(version, sizeof version, "%d.%d", found / 1000, found % 1000 / 10);
  snprintf(
      why, sizeof why,
      "the CUDA driver is too old: found CUDA %s, needed %d.%d or later (%s); install a newer driver, or a SlimCCL "
      "that was built with an older CUDA Toolkit",
      version, neededVersion / 1000, neededVersion % 1000 / 10, detail);
  return slimDriverTooOld;
}

static slimDriverState open(void) {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* error = dlerror();
    snprintf(why, sizeof why, "no CUDA driver: %s; needed: libcuda.so.1 of CUDA %d.%d or later",
             error ? error : "dlopen failed", neededVersion / 1000, neededVersion % 1000 / 10);
    return slimDriverAbsent;
  }
  *(void**)&find = dlsym(library, "cuGetProcAddress_v2");
  if (!find) return tooOld(0, "it has no cuGetProcAddress_v2");

  int found = 0;
  for (size_t i = 0; i < functionCount; i++) {
    CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    void** member = (void**)&slimCu + i;
    const CUresult error = find(functions[i].name, member, functions[i].version, CU_GET_PROC_ADDRESS_DEFAULT, &status);
    if (error != CUDA_SUCCESS || !*member) {
      char detail[96];
      snprintf(detail, sizeof detail, "it lacks %s of version %d", functions[i].name, functions[i].version);
      return tooOld(found, detail);
    }
    if (i == 0 && slimCu.DriverGetVersion(&found) != CUDA_SUCCESS) found = 0;
  }
  if (found < neededVersion) return tooOld(found, "this SlimCCL's kernels are of that version");
  const CUresult error = slimCu.Init(0);
  if (error == CUDA_SUCCESS) return slimDriverReady;
  (void)slimDriverFail(error, "Init");
  snprintf(why, sizeof why, "no CUDA device can be used: %s", slimLastMessage());
  return slimDriverAbsent;
}

static void openOnce(void) { state = open(); }

slimDriverState slimDriverOpen(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, openOnce);
  if (state != slimDriverReady) (void)slimFail(slimUnhandledCudaError, "%s", why);
  return state;
}

slimResult_t slimDriverFind(void** function, const char* name, int version) {
  CUdriverProcAddressQueryResult status;
  *function = NULL;
  if (find(name, function, version, CU_GET_PROC_ADDRESS_DEFAULT, &status) == CUDA_SUCCESS && *function)
    return slimSuccess;
  return slimFail(slimUnhandledCudaError, "the CUDA driver has no %s of version %d", name, version);
}

slimResult_t slimDriverFail(CUresult error, const char* format, ...) {
  const char *name = NULL, *text = NULL;
  char call[160];
  va_list args;
  va_start(args, format);
  vsnprintf(call, sizeof call, format, args);
  va_end(args);
  if (slimCu.GetErrorName(error, &name) != CUDA_SUCCESS || !name) name = "an error that the driver does not know";
  if (slimCu.GetErrorString(error, &text) != CUDA_SUCCESS || !text) text = "no text";
  return slimFail(slimUnhandledCudaError, "cu%s: %s (%d): %s", call, name, (int)error, text);
}
