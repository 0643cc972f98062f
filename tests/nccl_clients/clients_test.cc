// The programs of examples/nccl on the stand-in, each in several ways. Argument: mpirun.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <sstream>
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
};

// qsgd: a message is wrong by one level of 127 (by half of one of 7, rounding to nearest, and with feedback by what the
// step before left over as well), and there are two, the second of values that are larger by that much.
const Mode kModes[] = {
    {"plain", "", "", "", 0},
    {"linked", "_linked", "", "--linked 'qsgd(bits=8)'", 2. / 127 + 1. / (127 * 127)},
    {"linked with feedback", "_linked", "", "--linked 'ef(qsgd(bits=4))'", .154 + .154 * 1.154},
};

struct Result {
  int status = -1;
  int ranks = 0;
  double error = 0;
  std::string checksum, text;
};

Result Launch(const Mode& mode, const std::string& client, int ranks) {
  std::string folder = "/tmp/slim.XXXXXX";
  if (!mkdtemp(folder.data())) return {};
  char cwd[4096];
  const std::string here = getcwd(cwd, sizeof cwd), n = std::to_string(ranks);
  std::string command = "LD_LIBRARY_PATH=" + here + "/tests/simgpu SIMGPU_DEVICES=8 TMPDIR=" + folder +
                        " OMPI_MCA_btl_vader_backing_directory=" + folder + " WORLD_SIZE=" + n + " ";
  if (client == "mpi") command += mpirun + " -n " + n + " env ";
  command +=
      std::string(mode.environment) + " " + here + "/tests/nccl_clients/" + client + mode.suffix + " " + mode.flags;
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
    if (mode.tolerance > 0 && compresses)
      EXPECT_GT(r.error, 1e-6) << "nothing was compressed: " << r.text;
    else
      EXPECT_LT(r.error, 1e-6) << r.text;
    EXPECT_FALSE(r.checksum.empty()) << r.text;
    return r.checksum;
  }
};
INSTANTIATE_TEST_SUITE_P(Modes, Clients, testing::Combine(testing::ValuesIn(kModes), testing::Values(1, 2, 3, 4, 8)),
                         [](const auto& info) {
                           std::string name = std::get<0>(info.param).name;
                           for (char& c : name)
                             if (c == ' ') c = '_';
                           return name + "_" + std::to_string(std::get<1>(info.param));
                         });

// The same data and calls, however ranks are spread over threads and processes.
TEST_P(Clients, ThreadsAndProcessesHaveTheSameBits) {
  const std::string threads = Check("threads");
  EXPECT_EQ(Check("fork"), threads);
  EXPECT_EQ(Check("mpi"), threads);
  EXPECT_EQ(Check("one_process"), threads);
}
TEST_P(Clients, CommunicatorsThatDoNotBlockStayPlain) {
  if (std::string(std::get<0>(GetParam()).suffix).empty()) Check("nonblocking", false);
}
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

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc > 1) mpirun = argv[1];
  return RUN_ALL_TESTS();
}
