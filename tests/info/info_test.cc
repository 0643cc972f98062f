// slimccl-info: each line says what the library says.
#include <gtest/gtest.h>
#ifdef SLIM_WITH_MPI
#include <mpi.h>
#endif
#include <sys/wait.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "collectives/plan.h"
#include "compress/cuda/kernels.h"
#include "compress/kernels.h"
#include "plugin/preload/environment.h"
#include "plugin/slimccl.h"

namespace {

std::string program, libraries;

struct Output {
  int status = -1;
  std::string text;
  // The rest of the line that begins with this word; words in it.
  std::string line(const std::string& name) const {
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);)
      if (line.compare(0, name.size() + 1, name + " ") == 0) {
        const size_t at = line.find_first_not_of(' ', name.size());
        return at == std::string::npos ? "" : line.substr(at);
      }
    return "(no line " + name + ")";
  }
};

// With these variables, and none else of ours.
Output info(const std::string& arguments, const std::string& variables = "") {
  FILE* pipe = popen(("env -i " + variables + " " + program + " " + arguments + " 2>&1").c_str(), "r");
  Output output;
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) output.text.append(buffer, n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) output.status = WEXITSTATUS(status);
  return output;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::string versionText() {
  int version = 0;
  EXPECT_EQ(slimGetVersion(&version), slimSuccess);
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

TEST(Info, Version) {
  EXPECT_EQ(info("--version").text, "SlimCCL " + versionText() + "\n");
  EXPECT_EQ(info("").line("SlimCCL"), versionText());
}

TEST(Info, Cpu) {
  const std::string line = info("").line("CPU");
  for (const char* set : {"baseline", "avx2", "avx512"}) {
    EXPECT_EQ(has(line, std::string(" ") + set + " ") || has(line, std::string(" ") + set + ";"),
              slimKernelsByName(set) != nullptr)
        << line;
    if (!slimKernelsByName(set)) continue;
    const std::string forced = info("", std::string("SLIM_CPU=") + set).line("CPU");
    EXPECT_TRUE(has(forced, std::string(set) + " (in use)")) << forced;
  }
  unsetenv("SLIM_CPU");
  EXPECT_TRUE(has(line, std::string(slimCpuName()) + " (in use)")) << line;
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string flags;
  while (std::getline(cpuinfo, flags) && flags.compare(0, 5, "flags") != 0) {
  }
  if (flags.empty()) GTEST_SKIP() << "this machine's /proc/cpuinfo names no flags";
  for (const char* feature : {"avx2", "fma", "bmi2", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
    EXPECT_EQ(has(line + " ", std::string(" ") + feature + " "), has(flags + " ", std::string(" ") + feature + " "))
        << feature;
}

TEST(Info, FindsCudaAndNccl) {
  const Output found = info("", "LD_LIBRARY_PATH=" + libraries);
  const std::string nccl = found.line("NCCL"), cuda = found.line("CUDA");
  EXPECT_EQ(nccl.substr(nccl.rfind('/')), "/libnccl.so.2, 2.23.7") << found.text;
  EXPECT_EQ(info("", "SLIM_NCCL_LIB=" + libraries + "/libnccl.so.2").line("NCCL"), nccl);
  EXPECT_TRUE(has(info("", "SLIM_NCCL_LIB=/nowhere/nccl.so").line("NCCL"), "/nowhere/nccl.so: ")) << "named";
  EXPECT_TRUE(has(cuda, "/libcuda.so.1, for CUDA 12.8, 2 devices")) << found.text;
  EXPECT_TRUE(has(found.text, "device 1: B")) << found.text;
}

TEST(Info, Mpi) {
  const std::string line = info("").line("MPI");
#ifndef SLIM_WITH_MPI
  EXPECT_EQ(line, "built without MPI");
#elif defined OPEN_MPI
  EXPECT_EQ(line, "built for Open MPI " + std::to_string(OMPI_MAJOR_VERSION) + "." +
                      std::to_string(OMPI_MINOR_VERSION) + "." + std::to_string(OMPI_RELEASE_VERSION));
#else
  EXPECT_TRUE(has(line, "built for ")) << line;
#endif
}

// ---- Settings ------------------------------------------------------------------------------------------------------

TEST(Info, EveryVariableWithValueAndSource) {
  const std::map<std::string, std::string> given = {
      {"SLIM_COMPRESS", "ef(qsgd(bits=4))"}, {"SLIM_MIN_BYTES", "1M"}, {"SLIM_TIMEOUT", "3"}};
  std::string variables;
  for (const auto& v : given) variables += v.first + "='" + v.second + "' ";
  const Output output = info("", variables + "SLIM_SEED=");
  EXPECT_EQ(output.status, 0) << output.text;
  for (const slimVariable* v = slimVariables; v->name; v++) {
    std::istringstream line(output.line(v->name));
    std::string value, source, fallback;  // no value holds a space
    line >> value >> source >> fallback;
    const std::string usual = *v->fallback ? v->fallback : "-";
    EXPECT_EQ(value, given.count(v->name) ? given.at(v->name) : usual) << output.text;
    EXPECT_EQ(source, given.count(v->name) ? "environment" : "default") << v->name;
    EXPECT_EQ(fallback, usual) << v->name;
    EXPECT_TRUE(has(output.line(v->name), v->help)) << v->name;
  }
}

TEST(Info, WrongSettingsAreNamed) {
  Output output = info("", "SLIM_MINBYTES=1 SLIM_COMPRES=fp32");
  EXPECT_EQ(output.status, 1);
  EXPECT_TRUE(has(output.text, "SLIM_MINBYTES is unknown: do you mean SLIM_MIN_BYTES?")) << output.text;
  EXPECT_TRUE(has(output.text, "SLIM_COMPRES is unknown: do you mean SLIM_COMPRESS?")) << output.text;
  output = info("", "SLIM_TIMEOUT=soon");
  EXPECT_EQ(output.status, 1);
  EXPECT_TRUE(has(output.text, "wrong: SLIM_TIMEOUT is \"soon\"")) << output.text;
  output = info("", "SLIM_COMPRESS='ef(qsgd(bit=4))'");
  EXPECT_EQ(output.status, 1);
  EXPECT_TRUE(has(output.text, ":9: unknown option 'bit' of qsgd")) << output.text;
}

// ---- Specs ---------------------------------------------------------------------------------------------------------

// The number behind a word.
double numberAfter(const std::string& text, const std::string& words) {
  const size_t at = text.find(words);
  return at == std::string::npos ? NAN : strtod(text.c_str() + at + words.size(), nullptr);
}

void checkDirection(const std::string& line, const slimDirection& direction, double typeBits) {
  const slimClass c = slimTreeClass(direction.tree);
  EXPECT_EQ(has(line, "unbiased"), std::isfinite(c.omega)) << line;
  EXPECT_EQ(has(line, "; contractive"), c.delta > 0) << line;
  if (std::isfinite(c.omega)) {
    EXPECT_NEAR(numberAfter(line, "omega = "), c.omega, 1e-5 * c.omega);
  } else {
    EXPECT_EQ(line.compare(0, 6, "biased"), 0) << line;
  }
  if (c.delta > 0) {
    EXPECT_NEAR(numberAfter(line, "delta = "), c.delta, 1e-5 * c.delta);
  }
  EXPECT_NEAR(numberAfter("=" + line.substr(line.rfind("; ") + 2), "="), c.bits, 1e-5 * c.bits);
  EXPECT_NEAR(numberAfter(line, ", ratio "), typeBits / c.bits, 1e-5 * typeBits / c.bits);
}

TEST(Check, ExplainsASpec) {
  const struct {
    const char *spec, *type;
    slimDataType_t number;
    uint64_t count;
    int ranks;
  } cases[] = {{"ef(qsgd(bits=4))", "fp32", slimFloat32, 1 << 20, 8},
               {"up=diana(ternary); down=ef(qsgd(bits=8))", "bf16", slimBfloat16, 25 << 20, 64},
               {"ef(topk(ratio=0.01))", "fp64", slimFloat64, 100000, 3},
               {"ef(randk(ratio=0.05,seed=shared))", "fp32", slimFloat32, 1 << 20, 16},
               {"fo(lambda=shared)", "fp32", slimFloat32, 4096, 4},
               {"ef(tnqsgd(bits=3,stats=previous))", "fp32", slimFloat32, 1 << 20, 4},
               {"qsgd(bits=4)", "fp16", slimFloat16, 1, 1}};
  slimComm_t comm;
  ASSERT_EQ(slimCommInitLocal(&comm, 1, nullptr), slimSuccess);
  for (const auto& c : cases) {
    const Output output = info("--check '" + std::string(c.spec) + "' --type " + c.type + " --count " +
                               std::to_string(c.count) + " --ranks " + std::to_string(c.ranks));
    SCOPED_TRACE(output.text);
    EXPECT_EQ(output.status, 0);
    slimCompressor* compressor;
    ASSERT_EQ(slimCompressorCreate(&compressor, c.spec), slimSuccess);
    slimPlan plan;
    ASSERT_EQ(slimPlanAllReduce(&plan, compressor, &comm->settings, comm->device, c.ranks, c.number, c.count),
              slimSuccess);
    EXPECT_EQ(output.line("spec"), compressor->text);
    const double typeBits = 8.0 * static_cast<double>(slimTypeBytes(c.number));
    checkDirection(output.line("up"), compressor->up, typeBits);
    checkDirection(output.line("down"), compressor->down, typeBits);
    EXPECT_EQ(output.line("allreduce"),
              std::to_string(c.count) + " elements of " + c.type + " over " + std::to_string(c.ranks) +
                  " ranks: " + slimAlgorithmName(plan.algorithm) + ", " + std::to_string(plan.slices) + " slice" +
                  (plan.slices == 1 ? "" : "s") + " of " + std::to_string(plan.sliceElements));
    EXPECT_EQ(numberAfter("=" + output.line("sends"), "="), static_cast<double>(plan.sentBytes));
    EXPECT_EQ(numberAfter(output.line("sends"), "plain ring "), static_cast<double>(plan.plainBytes));
    if (plan.sentBytes) {
      EXPECT_NEAR(numberAfter(output.line("sends"), "ratio "),
                  static_cast<double>(plan.plainBytes) / static_cast<double>(plan.sentBytes), 0.01);
    }
    EXPECT_EQ(numberAfter("=" + output.line("memory"), "="), static_cast<double>(plan.stateBytes));
    slimDevice device = slimHost;
    device.readable = false;
    const bool kernels = slimDeviceRuns(compressor->up.tree) && slimDeviceRuns(compressor->down.tree);
    const bool runs = kernels && slimPlanAllReduce(&plan, compressor, &comm->settings, &device, c.ranks, c.number,
                                                   c.count) == slimSuccess;
    EXPECT_EQ(output.line("on CUDA"), runs      ? std::string("yes, ") + slimAlgorithmName(plan.algorithm)
                                      : kernels ? std::string("no: ") + slimLastMessage()
                                                : "no: there are no kernels for it");
    slimCompressorDestroy(compressor);
  }
  slimCommDestroy(comm);
}

// 8 ranks by 4: what two ranks do with a quarter of the tensor.
TEST(Check, KnowsDomains) {
  const std::string spec = "--check 'ef(qsgd(bits=4))' --count 1M --ranks 8";
  const Output layered = info(spec + " --domain 4"), pair = info("--check 'ef(qsgd(bits=4))' --count 256K --ranks 2");
  slimDevice device = slimHost;
  device.readable = false;
  slimCompressor* compressor;
  slimComm_t comm;
  slimPlan plan;
  ASSERT_EQ(slimCompressorCreate(&compressor, "ef(qsgd(bits=4))"), slimSuccess);
  ASSERT_EQ(slimCommInitLocal(&comm, 1, nullptr), slimSuccess);
  ASSERT_EQ(slimPlanAllReduce(&plan, compressor, &comm->settings, &device, 2, slimFloat32, 256 << 10), slimSuccess);
  EXPECT_EQ(layered.line("domains"), std::string("2 of 4 ranks: plain inside of each, ") +
                                         slimAlgorithmName(plan.algorithm) + " of 262144 elements a rank across");
  EXPECT_EQ(numberAfter("=" + layered.line("across"), "="), static_cast<double>(plan.sentBytes));
  EXPECT_EQ(numberAfter(layered.line("across"), "memory "), static_cast<double>(plan.stateBytes));
  EXPECT_EQ(numberAfter(layered.line("across"), "memory "), numberAfter("=" + pair.line("memory"), "="));
  slimCompressorDestroy(compressor);
  slimCommDestroy(comm);
  EXPECT_TRUE(has(info(spec + " --domain 8").line("domains"), "one: plain"));
  EXPECT_TRUE(has(info(spec + " --domain 3").line("domains"), "of 3 ranks and of 2: compressed between all ranks"));
  EXPECT_TRUE(has(info("--check 'qsgd(bits=4)' --count 100 --domain 4").line("domains"), "too small"));
  EXPECT_EQ(info(spec).line("domains"), "(no line domains)");
}

TEST(Check, RefusesInTheLibrarysWords) {
  Output output = info("--check 'ef(qsgd(bit=4))'");
  EXPECT_EQ(output.status, 1);
  slimCompressor* compressor;
  ASSERT_NE(slimCompressorCreate(&compressor, "ef(qsgd(bit=4))"), slimSuccess);
  EXPECT_EQ(output.text, std::string("slimccl-info: ") + slimLastMessage() + "\n");
  EXPECT_TRUE(has(output.text, "spec:1:9:")) << output.text;
  output = info("--check 'auto(ef(qsgd(bit=4)))'");
  EXPECT_EQ(output.status, 1);
  EXPECT_TRUE(has(output.text, "spec:1:14: unknown option 'bit' of qsgd")) << output.text;
  output = info("--check 'up=topk(k=3,scope=global); down=fp32'");
  EXPECT_EQ(output.status, 1);
  EXPECT_TRUE(has(output.text, "refused: scope=global has no downlink")) << output.text;
}

TEST(Flags, WrongOnesAreRefused) {
  const std::pair<const char*, const char*> cases[] = {{"--ranks 0 --check fp32", "--ranks 0: give 1 to"},
                                                       {"--count 1X --check fp32", "--count 1X: give elements"},
                                                       {"--type int8", "--type int8: give fp16"},
                                                       {"--check", "requires an argument"},
                                                       {"--unknown", "unrecognized option"},
                                                       {"more", "more: takes flags only"}};
  for (const auto& c : cases) {
    const Output output = info(c.first);
    EXPECT_EQ(output.status, 2) << c.first;
    EXPECT_TRUE(has(output.text, c.second)) << output.text;
  }
  const Output help = info("--help");
  EXPECT_EQ(help.status, 0);
  for (const char* flag : {"--check", "--make-dropin", "--nccl", "--count", "--ranks", "--type", "--help", "--version"})
    EXPECT_TRUE(has(help.text, flag)) << help.text;
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc != 3) return 2;
  program = argv[1];
  libraries = argv[2];
  libraries.resize(libraries.rfind('/'));
  return RUN_ALL_TESTS();
}
