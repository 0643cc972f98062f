// Prints docs/kernels.md's tables: ./bazelw run //tests/cuda:kernel_table. What a kernel moves follows from the
// payload's layout, what it needs from ptxas' report; nothing here was timed. A kernel that no row shows is an error.
#include <cuda.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>
#include <set>
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

constexpr uint64_t kCount = 1 << 28;
constexpr unsigned kRanks = 8;

// A multiprocessor of compute capability 9.0.
constexpr double kRegisters = 65536, kShared = 228 * 1024, kBlocks = 32, kThreads = 2048;

std::map<std::string, Use> uses;
std::set<std::string> shown;

// bytes: an element of n = 2²⁸.
void row(const char* spec, const char* pass, const slimLaunch& l, double bytes) {
  const std::string name = kNames[l.kernel];
  const Use& use = uses.at(name);
  const unsigned shared = l.sharedBytes + use.shared;
  const double perThread = (use.registers + 7) / 8 * 8,
               blocks =
                   std::min({kBlocks, std::floor(kThreads / l.threads), std::floor(kRegisters / perThread / l.threads),
                             std::floor(kShared / (shared + 1024))});
  std::printf("| %s | %s | `%s` | %.2f | %u | %u | %.1f | %.0f %% | %.0f | %.0f |\n", spec, pass, name.c_str(), bytes,
              use.registers, l.threads, shared / 1024.0, 100 * blocks * l.threads / kThreads, bytes * kCount / 3.35e6,
              bytes * kCount / 8e6);
  shown.insert(name);
}

class Compressor {
 public:
  explicit Compressor(const std::string& spec) : name_("`" + spec + "`") {
    if (slimCompressorCreate(&c_, spec.c_str()) == slimSuccess) return;
    std::fprintf(stderr, "%s\n", slimLastMessage());
    std::exit(1);
  }
  ~Compressor() { slimCompressorDestroy(c_); }
  const slimTree* up() const { return c_->up.tree; }
  const slimTree* down() const { return c_->down.tree; }
  const char* name() const { return name_.c_str(); }
  // Bytes of payload an element.
  double sent(slimDataType_t type) const { return (double)slimPayloadBytes(up(), type, kCount) / (double)kCount; }

 private:
  std::string name_;
  slimCompressor* c_ = nullptr;
};

slimLaunch launchOf(slimDeviceKernel first, const slimTree* tree, const slimTree* down, slimDataType_t type) {
  return slimLaunchOf(first, tree, down, type, kCount, 227 * 1024);
}

// A unit at a time.
void unitRows(const std::string& spec, slimDataType_t type) {
  const Compressor c(spec);
  const slimTree *up = c.up(), *down = slimReducesInOne(up, c.down(), type) ? c.down() : nullptr;
  const bool shares = slimTreeSharesLambda(up);
  const double real = (double)slimRealBytes(type), sent = c.sent(type), lambda = shares ? real / slimTreeUnit(up) : 0;
  const std::string name = c.name() + std::string(type == slimFloat64 ? " of fp64" : "");
  const auto print = [&](const char* pass, slimDeviceKernel first, const slimTree* to, double bytes) {
    row(name.c_str(), pass, launchOf(first, up, to, type), bytes);
  };
  if (slimTreeGathers(up))
    print("survey", slimKernel_survey, nullptr, real + (double)sizeof(slimPartial) / slimTreeUnit(up));
  print("encode", slimKernel_encode_fp8, nullptr, real + sent + lambda);
  if (!shares) print("encode, ef", slimKernel_encode_fp8, nullptr, 3 * real + sent);
  print("reduce of 8", shares ? slimKernel_reduce_signs : slimKernel_reduce_fp8, down,
        kRanks * sent + (down || shares ? sent + lambda : real));
  print("decode", slimKernel_decode_fp8, nullptr, real + sent + 2 * lambda);
  if (slimTreeGathers(up))
    row(name.c_str(), "after the survey", slimShapeLaunch(kRanks), (double)sizeof(slimPartial) / slimTreeUnit(up));
}

// A whole piece, in several launches; with ef.
void pieceRows(const std::string& spec) {
  const Compressor c(spec);
  const slimTree* tree = c.up();
  const slimLayout layout = slimLayoutOf(tree, slimFloat32, kCount);
  const double sent = c.sent(slimFloat32), list = 8.0 * (double)layout.values / (double)kCount,
               tiles = 8.0 / SLIM_PIECE_STEP;
  slimSelectArgs args = {};
  args.type = slimFloat32;
  args.x = &args;
  const int rounds = slimSelectRounds(&args);
  const std::string times = std::to_string(rounds) + " times";
  const auto print = [&](const char* pass, slimDeviceKernel first, double bytes) {
    row(c.name(), pass, launchOf(first, tree, nullptr, slimFloat32), bytes);
  };
  print("encode, ef", slimKernel_select_start, 0);
  print(("encode, ef, " + times).c_str(), slimKernel_select_count, 8);
  print(("encode, ef, " + times).c_str(), slimKernel_select_narrow, 0);
  print("encode, ef", slimKernel_select_tally, 8 + tiles);
  print("encode, ef", slimKernel_select_scan, 2 * tiles);
  print("encode, ef", slimKernel_select_take, 8 + tiles + list);
  print("encode, ef", slimKernel_select_encode, list + sent + list / 2); /* the decoded values replace the values */
  print("encode, ef", slimKernel_select_update, 12 + list);
  print("reduce, decode: each payload", slimKernel_select_decode, sent + list);
  print("reduce of 8", slimKernel_reduce_select, kRanks * list + 4);
  print("decode", slimKernel_decode_select, list + 4);
}

void arrayRow(const char* what, slimDeviceKernel kernel, double bytes) {
  slimLaunch l = {};
  l.kernel = kernel;
  l.threads = kernel == slimKernel_next_step ? 32 : SLIM_MAX_THREADS;
  row("any", what, l, bytes);
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; i++)
    if (std::string(argv[i]).find("sm_90") != std::string::npos)
      for (const auto& use : usesOf(argv[i])) uses.insert(use);
  if (uses.empty()) {
    std::fprintf(stderr, "usage: kernel_table REPORT...: ptxas' reports, one of them for sm_90\n");
    return 1;
  }
  std::printf(
      "Compiled by the CUDA Toolkit %d.%d:\n\n"
      "| codec | pass | kernel | bytes an element | registers | threads | shared KiB | occupancy | H100 µs | B200 µs "
      "|\n"
      "|---|---|---|---|---|---|---|---|---|---|\n",
      CUDA_VERSION / 1000, CUDA_VERSION % 1000 / 10);
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
                           "tnqsgd(bits=3, stats=tensor)",
                           "qsgd(bits=4, block=2048)",
                           "onebit(block=2048)",
                           "fp8(block=2048)",
                           "natural(block=2048)"})
    unitRows(spec, slimFloat32);
  pieceRows("topk(ratio=0.01, scope=global)");
  unitRows("qsgd(bits=4)", slimFloat64);
  arrayRow("full precision: encode", slimKernel_dense_encode, 8);
  arrayRow("full precision: reduce of 8", slimKernel_dense_reduce, 4 * kRanks + 4);
  arrayRow("full precision: decode", slimKernel_from_real, 8);
  arrayRow("a scalar, or a mean", slimKernel_premultiply, 8);
  arrayRow("rescale", slimKernel_scale, 8);
  arrayRow("rescale, `memory=bf16`", slimKernel_scale_memory, 4);
  arrayRow("h, of a rank's NaN", slimKernel_copy_finite, 8);
  arrayRow("s, of this rank's NaN", slimKernel_take_finite, 8);
  arrayRow("each step", slimKernel_next_step, 0);
  int status = 0;
  for (const char* name : kNames)
    if (!shown.count(name)) {
      std::fprintf(stderr, "no row shows %s\n", name);
      status = 1;
    }
  return status;
}
