#include "collectives/ranges.h"

#ifdef SLIM_WITH_NVTX
#include <nvtx3/nvToolsExt.h>
#include <pthread.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static nvtxDomainHandle_t domain; /* NULL: no tool is attached */

static void create(void) { domain = nvtxDomainCreateA("SlimCCL"); }

int slimRangeBegin(const char* name) {
  pthread_once(&once, create);
  if (!domain) return 0;
  const nvtxEventAttributes_t range = {.version = NVTX_VERSION,
                                       .size = NVTX_EVENT_ATTRIB_STRUCT_SIZE,
                                       .messageType = NVTX_MESSAGE_TYPE_ASCII,
                                       .message.ascii = name};
  nvtxDomainRangePushEx(domain, &range);
  return 1;
}

void slimRangeEnd(const int* range) {
  if (*range) nvtxDomainRangePop(domain);
}
#endif
