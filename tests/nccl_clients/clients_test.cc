// The programs of examples/nccl on the stand-in, each in several ways. Argument: mpirun.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <cstdio>
#include <string>
#include <tuple>

namespace {

std::string mpirun;

struct Mode {
  const char* name;
  const char* suffix;       // of the program's file
  const char* environment;  // before it, for the shell
  const char* flags;
  double tolerance;  // what the codec can be wrong by; 0: nothing is compressed
  int least;         // ranks from which on something is
};
#define PRELOAD "LD_PRELOAD=$here/plugin/preload/libslimccl_nccl.so SLIM_STATE_BYTES=32M "

// qsgd: a message is wrong by one level of 127 (by half of one of 7, rounding to nearest, and with feedback by what the
// step before left over as well), and there are two, the second of values that are larger by that much.
const double kEightBits = 2. / 127 + 1. / (127 * 127), kFourBits = .154 + .154 * 1.154;
const Mode kPlain = {"plain", "", "", "", 0, 0};
const Mode kLinked = {"linked", "_linked", "", "--linked 'qsgd(bits=8)'", kEightBits, 1};
const Mode kPreloaded = {"preloaded", "", PRELOAD "SLIM_COMPRESS='qsgd(bits=8)'", "", kEightBits, 2};
const Mode kFeedback = {"feedback", "_linked", "", "--linked 'ef(qsgd(bits=4))'", kFourBits, 1};
const Mode kDisabled = {"disabled", "", PRELOAD "SLIM_COMPRESS='qsgd(bits=8)' SLIM_DISABLE=1", "", 0, 0};

struct Result {
  int status = -1;
  int ranks = 0;
  double error = 0;
  std::string checksum, text;
};

Result Launch(const Mode& mode, const std::string& client, int ranks, const std::string& flags = "") {
  std::string folder = "/tmp/slim.XXXXXX";
  if (!mkdtemp(folder.data())) return {};
  const std::string n = std::to_string(ranks);
  std::string command = "here=$PWD; LD_LIBRARY_PATH=$here/tests/simgpu SIMGPU_DEVICES=8 TMPDIR=" + folder +
                        " OMPI_MCA_btl_vader_backing_directory=" + folder + " WORLD_SIZE=" + n + " ";
  if (client == "mpi") command += mpirun + " -n " + n + " ";
  command += std::string("env ") + mode.environment + " $here/tests/nccl_clients/" + client + mode.suffix + " " +
             mode.flags + " " + flags;
  if (client != "mpi") command += " --ranks " + n;
  if (mode.tolerance > 0) command += " --tolerance " + std::to_string(mode.tolerance);
  command += " </dev/null 2>&1; code=$?; rm -rf " + folder + "; exit $code";
  Result result;
  FILE* pipe = popen(command.c_str(), "r");
  char line[4096];
  while (fgets(line, sizeof line, pipe)) {
    result.text += line;
    char checksum[64] = "";
    if (sscanf(line, "%*[a-z_]: %d ranks, %*d steps, largest error %lf, checksum %63s", &result.ranks, &result.error,
               checksum) == 3)
      result.checksum = checksum;
  }
  const int code = pclose(pipe);
  result.status = WIFEXITED(code) ? WEXITSTATUS(code) : -1;
  return result;
}

class Clients : public testing::TestWithParam<std::tuple<Mode, int>> {
 protected:
  // A run that is right, and compressed if it should be. Its checksum, over the results of all steps.
  static std::string Check(const std::string& client, bool compresses = true) {
    SCOPED_TRACE(client);
    const auto& [mode, ranks] = GetParam();
    const Result r = Launch(mode, client, ranks);
    EXPECT_EQ(r.status, 0) << r.text;
    EXPECT_EQ(r.ranks, ranks) << r.text;
    EXPECT_EQ(r.text.find("never-written"), std::string::npos) << r.text;
    if (mode.tolerance > 0 && compresses && ranks >= mode.least)
      EXPECT_GT(r.error, 1e-6) << "nothing was compressed: " << r.text;
    else
      EXPECT_LT(r.error, 1e-6) << r.text;
    EXPECT_FALSE(r.checksum.empty()) << r.text;
    return r.checksum;
  }
};
std::string Name(const testing::TestParamInfo<std::tuple<Mode, int>>& info) {
  return std::get<0>(info.param).name + ("_" + std::to_string(std::get<1>(info.param)));
}
INSTANTIATE_TEST_SUITE_P(Modes, Clients,
                         testing::Combine(testing::Values(kPlain, kLinked, kPreloaded), testing::Values(1, 2, 3, 4, 8)),
                         Name);
INSTANTIATE_TEST_SUITE_P(Variants, Clients, testing::Combine(testing::Values(kFeedback, kDisabled), testing::Values(3)),
                         Name);

// The same data and calls, however ranks are spread over threads and processes.
TEST_P(Clients, ThreadsAndProcessesHaveTheSameBits) {
  const std::string threads = Check("threads");
  EXPECT_EQ(Check("fork"), threads);
  EXPECT_EQ(Check("mpi"), threads);
  EXPECT_EQ(Check("one_process"), threads);
}
// Under preload they stay plain.
TEST_P(Clients, CommunicatorsThatDoNotBlock) { Check("nonblocking", *std::get<0>(GetParam()).suffix); }
TEST_P(Clients, BuffersMayBeUnwrittenAndValuesTiny) {
  const auto& [mode, ranks] = GetParam();
  const Result r = Launch(mode, "sloppy", ranks);
  EXPECT_EQ(r.status, 0) << r.text;
}
TEST_P(Clients, RegisteredBuffersAndWindows) { Check("registration"); }
TEST_P(Clients, GraphsAreReplayed) { Check("graph"); }
TEST_P(Clients, BucketsAreRebuilt) { Check("ddp"); }
TEST_P(Clients, MovingBuffersAndExactWeights) { Check("fsdp"); }
TEST_P(Clients, OverflowIsSeenByAll) { Check("amp"); }

// Under preload, with feedback: which tensor a call means is found out, or said.
class Preloaded : public testing::TestWithParam<int> {
 protected:
  static std::string Train(const std::string& environment, const std::string& client, const std::string& flags) {
    const std::string all = PRELOAD "SLIM_STATS=1 SLIM_COMPRESS='ef(qsgd(bits=4))' " + environment;
    // Without memory, as before the cycle is known, rounding is stochastic: a level of 7 a message.
    const Mode mode = {"feedback", "", all.c_str(), "", 2. / 7 + 1. / 49, 2};
    const Result r = Launch(mode, client, GetParam(), flags);
    EXPECT_EQ(r.status, 0) << r.text;
    EXPECT_GT(r.error, 1e-6) << r.text;
    return r.text;
  }
};
INSTANTIATE_TEST_SUITE_P(Ranks, Preloaded, testing::Values(2, 3));

TEST_P(Preloaded, FindsTheCycleOfRebuiltBuckets) {
  const std::string text = Train("", "ddp", "--steps 44");
  EXPECT_NE(text.find("88 calls, a cycle of 2"), std::string::npos) << text;
  EXPECT_NE(text.find("up=ef(qsgd(bits=4)); down=ef(qsgd(bits=4))"), std::string::npos) << text;
}
TEST_P(Preloaded, IsToldTheCycleOfMovingBuffers) {
  const std::string text = Train("SLIM_CYCLE=3", "fsdp", "");
  EXPECT_NE(text.find("9 calls, a cycle of 3"), std::string::npos) << text;
  EXPECT_EQ(text.find("up=qsgd"), std::string::npos) << "without memory: " << text;
}
TEST_P(Preloaded, KeepsItsMemoryOverAnOverflow) {
  const std::string text = Train("SLIM_CYCLE=1", "amp", "");
  EXPECT_NE(text.find("4 calls, a cycle of 1"), std::string::npos) << text;
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc > 1) mpirun = argv[1];
  return RUN_ALL_TESTS();
}
