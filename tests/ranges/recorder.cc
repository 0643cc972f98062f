#include "tests/ranges/recorder.h"

#include <nvtx3/nvToolsExt.h>

#include <map>
#include <mutex>
#include <string>

namespace {

struct Domain {
  std::string name;
};
std::mutex mutex;
std::map<std::string, uint64_t> counts;
thread_local long depth;

nvtxDomainHandle_t NVTX_API create(const char* name) {
  return reinterpret_cast<nvtxDomainHandle_t>(new Domain{name});  // for the life of the process
}
int NVTX_API push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* range) {
  std::lock_guard<std::mutex> lock(mutex);
  counts[(domain ? reinterpret_cast<Domain*>(domain)->name : "") + "/" + range->message.ascii]++;
  return static_cast<int>(depth++);
}
int NVTX_API pop(nvtxDomainHandle_t) { return static_cast<int>(--depth); }

}  // namespace

extern "C" {

int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t tables) {
  const auto* callbacks = static_cast<const NvtxExportTableCallbacks*>(tables(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable functions = nullptr;
  unsigned size = 0;
  if (!callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &functions, &size)) return 0;
  if (size <= NVTX_CBID_CORE2_DomainCreateA) return 0;
  *functions[NVTX_CBID_CORE2_DomainCreateA] = reinterpret_cast<NvtxFunctionPointer>(create);
  *functions[NVTX_CBID_CORE2_DomainRangePushEx] = reinterpret_cast<NvtxFunctionPointer>(push);
  *functions[NVTX_CBID_CORE2_DomainRangePop] = reinterpret_cast<NvtxFunctionPointer>(pop);
  return 1;
}

uint64_t recorderCount(const char* name) {
  std::lock_guard<std::mutex> lock(mutex);
  const auto found = counts.find(name);
  return found == counts.end() ? 0 : found->second;
}
uint64_t recorderTotal() {
  std::lock_guard<std::mutex> lock(mutex);
  uint64_t total = 0;
  for (const auto& c : counts) total += c.second;
  return total;
}
long recorderDepth() { return depth; }
}
