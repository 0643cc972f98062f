// Prints docs/kernels.md's tables: ./bazelw run //tests/cuda:kernel_table. What a kernel moves follows from the
// payload's layout, what it needs from ptxas' report; nothing here was timed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>
#include <string>

#include "compress/cuda/kernels.h"

namespace {

const char* const kNames[] = {
#define NAME(name, args) "slim_" #name,
    SLIM_DEVICE_KERNELS(NAME)
#undef NAME
};

struct Use {
  unsigned registers = 0, shared = 0;  // shared: bytes that it has by itself
};
std::map<std::string, Use> usesOf(const std::string& path) {
  std::ifstream in(path);
  std::map<std::string, Use> uses;
  std::string name;
  std::smatch match;
  for (std::string line; std::getline(in, line);) {
    if (std::regex_search(line, match, std::regex("Compiling entry function '(\\w+)'"))) name = match[1];
    if (std::regex_search(line, match, std::regex("Used (\\d+) registers")))
      uses[name].registers = (unsigned)std::stoul(match[1]);
    if (std::regex_search(line, match, std::regex("(\\d+) bytes smem")))
      uses[name].shared = (unsigned)std::stoul(match[1]);
  }
  return uses;
}

// A multiprocessor of compute capability 9.0.
constexpr double kRegisters = 65536, kShared = 228 * 1024, kBlocks = 32, kThreads = 2048;

void row(const char* spec, const char* pass, slimDeviceKernel first, const slimTree* tree, const slimTree* down,
         double bytes, const std::map<std::string, Use>& uses) {
  const slimLaunch l = slimLaunchOf(first, tree, down, slimFloat32, 1 << 28, 227 * 1024);
  const auto use = uses.find(kNames[l.kernel]);
  if (use == uses.end()) return;
  const unsigned registers = use->second.registers, shared = l.sharedBytes + use->second.shared;
  const double perThread = (registers + 7) / 8 * 8,
               blocks = std::min({kBlocks, kThreads / l.threads, std::floor(kRegisters / perThread / l.threads),
                                  std::floor(kShared / (shared + 1024))});
  std::printf("| `%s` | %s | `%s` | %.2f | %u | %u | %.1f | %.0f %% | %.0f | %.0f |\n", spec, pass, kNames[l.kernel],
              bytes, registers, l.threads, shared / 1024.0, 100 * blocks * l.threads / kThreads,
              bytes * (1 << 28) / 3.35e6, bytes * (1 << 28) / 8e6);
}

}  // namespace

int main(int argc, char** argv) {
  std::map<std::string, Use> uses;
  for (int i = 1; i < argc; i++)
    if (std::string(argv[i]).find("sm_90") != std::string::npos)
      for (const auto& use : usesOf(argv[i])) uses.insert(use);
  if (uses.empty()) {
    std::fprintf(stderr, "usage: kernel_table REPORT...: ptxas' reports, one of them for sm_90\n");
    return 1;
  }
  std::printf(
      "| codec | pass | kernel | bytes an element | registers | threads | shared KiB | occupancy | H100 µs | B200 µs "
      "|\n"
      "|---|---|---|---|---|---|---|---|---|---|\n");
  for (const char* spec : {"qsgd(bits=4)",
                           "qsgd(bits=8)",
                           "ternary",
                           "onebit",
                           "onebit(dither)",
                           "sign",
                           "fp32",
                           "fp16",
                           "bf16",
                           "fp8",
                           "natural",
                           "nuqsgd(bits=4)",
                           "tnqsgd(bits=3)",
                           "rotate(onebit)",
                           "rotate(qsgd(bits=4))",
                           "topk(ratio=0.01)",
                           "randk(ratio=0.01)",
                           "induced(topk(ratio=0.01), qsgd(bits=4))",
                           "fo(lambda=shared)",
                           "tnqsgd(bits=3, stats=tensor)"}) {
    slimCompressor* c;
    if (slimCompressorCreate(&c, spec) != slimSuccess) {
      std::fprintf(stderr, "%s\n", slimLastMessage());
      return 1;
    }
    const slimTree *up = c->up.tree, *down = slimReducesInOne(up, c->down.tree, slimFloat32) ? c->down.tree : nullptr;
    const uint64_t n = 1 << 28;
    const double sent = (double)slimPayloadBytes(up, slimFloat32, n) / (double)n;
    const bool shares = slimTreeSharesLambda(up);
    const double lambda = shares ? 4.0 / slimTreeUnit(up) : 0;
    if (slimTreeGathers(up))
      row(spec, "survey", slimKernel_survey, up, nullptr, 4 + (double)sizeof(slimPartial) / slimTreeUnit(up), uses);
    row(spec, "encode", slimKernel_encode_fp32, up, nullptr, 4 + sent + lambda, uses);
    if (!shares) row(spec, "encode, ef", slimKernel_encode_fp32, up, nullptr, 12 + sent, uses);
    row(spec, "reduce of 8", shares ? slimKernel_reduce_signs : slimKernel_reduce_fp32, up, down,
        8 * sent + (down || shares ? sent + lambda : 4), uses);
    row(spec, "decode", slimKernel_decode_fp32, up, nullptr, 4 + sent + 2 * lambda, uses);
    slimCompressorDestroy(c);
  }
  return 0;
}
