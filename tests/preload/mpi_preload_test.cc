// libslimccl_mpi.so under programs that know nothing of it. Arguments: mpirun, the library, that
// for another MPI or "-", the client, the mpi4py program or "-", Fortran programs.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

std::string mpirun, library, otherLibrary, client, training;
std::vector<std::string> fortran;
bool hydra;  // MPICH's mpirun

// What must be loaded before a library that was built with a sanitizer.
#if defined(__SANITIZE_ADDRESS__)
const std::string kRuntime = "libasan.so.8:", kSettings = "ASAN_OPTIONS=detect_leaks=0 ";
#elif defined(__SANITIZE_THREAD__)
const std::string kRuntime = "libtsan.so.2:", kSettings = "TSAN_OPTIONS=history_size=7:suppressions=suppressions ";
#else
const std::string kRuntime, kSettings;
#endif
extern "C" const char* __tsan_default_suppressions();  // of programs that are linked with MPI; others need a file

struct Result {
  int status = -1;
  std::map<std::string, double> values;  // "name value" lines
  std::string text;                      // everything, stderr too
};

// environment: "NAME='value' …", for the shell.
Result Launch(int ranks, const std::string& environment, const std::string& program,
              const std::string& preload = library) {
  std::string folder = "/tmp/slim.XXXXXX";
  if (!mkdtemp(folder.data())) return {};
  std::ofstream(folder + "/suppressions") << __tsan_default_suppressions();
  const std::string command =
      "cd " + folder + " && TMPDIR=" + folder + " OMPI_MCA_btl_vader_backing_directory=" + folder + " " + kSettings +
      environment + " " + mpirun + " -n " + std::to_string(ranks) +
      (preload.empty() ? "" : (hydra ? " -genv LD_PRELOAD " : " -x LD_PRELOAD=") + kRuntime + preload) + " " + program +
      " </dev/null 2>&1; code=$?; cat *.json 2>/dev/null; rm -rf " + folder + "; exit $code";
  Result result;
  FILE* pipe = popen(command.c_str(), "r");
  std::array<char, 4096> line;
  while (fgets(line.data(), line.size(), pipe)) {
    result.text += line.data();
    std::istringstream words(line.data());
    std::string name, rest;
    double value;
    if (words >> name >> value && !(words >> rest)) result.values[name] = value;
  }
  const int code = pclose(pipe);
  result.status = WIFEXITED(code) ? WEXITSTATUS(code) : -1;
  return result;
}

int Count(const std::string& text, const std::string& what) {
  int n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) n++;
  return n;
}

class MpiPreload : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, MpiPreload, testing::Values(1, 2, 3, 4, 8));

// 3 tensors: the cycle is known after 64 calls, and from then on the mean error over steps falls below a step's.
TEST_P(MpiPreload, TrainsWithErrorFeedback) {
  const Result r = Launch(GetParam(), "SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_DEBUG=INFO", client + " train 60 3 20000");
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_EQ(r.values.at("ranks_differ"), 0);
  if (GetParam() == 1) {
    EXPECT_LT(r.values.at("step_error"), 1e-6);
    return;
  }
  EXPECT_GT(r.values.at("step_error"), 0.01) << "nothing was compressed";
  EXPECT_LT(r.values.at("step_error"), 0.4);
  EXPECT_LT(r.values.at("mean_error"), r.values.at("step_error") / 6);
  EXPECT_EQ(Count(r.text, "its calls repeat every 3: error feedback starts"), GetParam()) << r.text;
}

// A biased codec without its memory would hurt, so the calls stay plain until the cycle is known.
TEST_P(MpiPreload, ABiasedCodecWaitsForItsMemory) {
  const Result before = Launch(GetParam(), "SLIM_COMPRESS='ef(topk(ratio=0.05))'", client + " train 20 3 20000");
  ASSERT_EQ(before.status, 0) << before.text;
  EXPECT_LT(before.values.at("step_error"), 1e-6);
  const Result given =
      Launch(GetParam(), "SLIM_COMPRESS='ef(topk(ratio=0.05))' SLIM_CYCLE=3", client + " train 20 3 20000");
  ASSERT_EQ(given.status, 0) << given.text;
  EXPECT_EQ(given.values.at("ranks_differ"), 0);
  if (GetParam() > 1) {
    EXPECT_GT(given.values.at("step_error"), 0.1);
  }
}

// Of three tensors one or two have room for their memory: the others go without, on all ranks, and it is said once.
TEST_P(MpiPreload, MemoryIsLimited) {
  const auto run = [](const std::string& spec) {
    return Launch(GetParam(), "SLIM_COMPRESS='" + spec + "' SLIM_CYCLE=3 SLIM_STATE_BYTES=170K SLIM_STATS=1",
                  client + " train 12 3 20000");
  };
  for (const std::string codec : {"qsgd(bits=4)", "topk(ratio=0.05)"}) {
    const Result r = run("ef(" + codec + ")");
    ASSERT_EQ(r.status, 0) << r.text;
    EXPECT_EQ(r.values.at("ranks_differ"), 0);
    if (GetParam() == 1) continue;
    EXPECT_EQ(Count(r.text, "Set a larger SLIM_STATE_BYTES"), GetParam()) << r.text;
    const int with = Count(r.text, "  up=ef(" + codec),
              without = Count(r.text, codec[0] == 'q' ? "  up=qsgd" : "  up=fp32");
    EXPECT_GE(with, 1) << r.text;
    EXPECT_EQ(with + without, 3) << r.text;
  }
}

// The smallest SLIM_STATE_BYTES holds for all.
TEST(MpiPreloadRoom, OneRankHasLess) {
  const Result r = Launch(3, "SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_CYCLE=3",
                          "sh -c 'test ${OMPI_COMM_WORLD_RANK:-$PMI_RANK} = 1 && export SLIM_STATE_BYTES=170K; exec "
                          "\"$0\" \"$@\"' " +
                              client + " train 12 3 20000");
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_GT(r.values.at("step_error"), 0.01);
  EXPECT_EQ(r.values.at("ranks_differ"), 0);
  EXPECT_EQ(Count(r.text, "Set a larger SLIM_STATE_BYTES"), 3) << r.text;
}

// Which way auto decides depends on the machine (auto_test decides for it); it must do so for all ranks alike, and say
// it.
TEST_P(MpiPreload, AutoDecidesForAllRanks) {
  const Result r = Launch(GetParam(), "SLIM_COMPRESS='auto(qsgd(bits=8))' SLIM_DEBUG=INFO SLIM_STATS=1",
                          client + " train 4 2 100000");
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_EQ(r.values.at("ranks_differ"), 0);
  EXPECT_LT(r.values.at("step_error"), 0.03);
  if (GetParam() == 1) return;
  const std::string start = "communicator MPI_COMM_WORLD: auto(up=qsgd(bits=8)): plain ";
  const size_t at = r.text.find(start);
  ASSERT_NE(at, std::string::npos) << r.text;
  const std::string table = r.text.substr(at, r.text.find('\n', at) - at);
  EXPECT_EQ(Count(r.text, table + "\n"), GetParam()) << r.text;
  for (const char* way : {", two-shot ", ", one-shot "}) EXPECT_NE(table.find(way), std::string::npos) << table;
  const bool compressed = r.values.at("step_error") > 1e-4;
  EXPECT_EQ(Count(r.text, "compressed 8 calls"), compressed) << r.text;
  EXPECT_EQ(Count(r.text, "untouched 8 calls: plain is as fast, as auto measured"), !compressed) << r.text;
}

// Every call by a rule: errors of 8 bits, each.
Result RunAllByRule(int ranks, const std::string& program) {
  std::string rules = "/tmp/slim_rules.XXXXXX";
  close(mkstemp(rules.data()));
  std::ofstream(rules) << "-> qsgd(bits=8)\n";
  const Result r = Launch(ranks, "SLIM_MIN_BYTES=1 SLIM_POLICY=" + rules, program);
  unlink(rules.c_str());
  return r;
}
void ExpectCompressed(const Result& r, int ranks, const std::string& name) {
  const double error = r.values.at(name);
  EXPECT_LT(error, 0.03) << name;
  if (ranks > 1) {
    EXPECT_GT(error, 1e-4) << name << " was not compressed";
  }
}

TEST_P(MpiPreload, EveryCollectiveByRule) {
  const Result r = RunAllByRule(GetParam(), client + " calls 20000");
  ASSERT_EQ(r.status, 0) << r.text;
  for (const char* name : {"allreduce", "reduce", "reduce_scatter_block", "reduce_scatter", "reduce_scatter_in_place",
                           "allreduce_double", "broadcast", "all_gather", "all_gather_in_place", "duplicate"})
    ExpectCompressed(r, GetParam(), name);
  if (r.values.count("allreduce_large"))  // MPI 4
    for (const char* name : {"allreduce_large", "reduce_large", "reduce_scatter_block_large", "reduce_scatter_large",
                             "broadcast_large", "all_gather_large"})
      ExpectCompressed(r, GetParam(), name);
  for (const char* name : {"allreduce_differs", "input_changed", "broadcast_differs"})
    EXPECT_EQ(r.values.at(name), 0) << name;
  EXPECT_LT(r.values.at("reduce_scatter_unequal"), 1e-6);
}

TEST_P(MpiPreload, Fortran) {
  for (const std::string& program : fortran) {
    const Result r = RunAllByRule(GetParam(), program);
    ASSERT_EQ(r.status, 0) << r.text;
    for (const char* name : {"allreduce_in_place", "allreduce", "allreduce_double", "iallreduce",
                             "reduce_scatter_block", "reduce_scatter", "reduce", "broadcast", "all_gather"})
      ExpectCompressed(r, GetParam(), name);
  }
}

// Gradients only: with SLIM_COMPRESS alone, weights travel untouched.
TEST_P(MpiPreload, WeightsStayExact) {
  const Result r = Launch(GetParam(), "SLIM_MIN_BYTES=1 SLIM_COMPRESS='qsgd(bits=4)'", client + " calls 20000");
  ASSERT_EQ(r.status, 0) << r.text;
  for (const char* name : {"reduce", "broadcast", "all_gather", "all_gather_in_place"})
    EXPECT_LT(r.values.at(name), 1e-6) << name;
  if (GetParam() > 1) {
    EXPECT_GT(r.values.at("reduce_scatter_block"), 0.01);
  }
}

TEST_P(MpiPreload, NothingElseChanges) {
  const Result r = Launch(GetParam(), "SLIM_COMPRESS='qsgd(bits=4)' SLIM_STATS=1", client + " other");
  ASSERT_EQ(r.status, 0) << r.text;
  for (const char* name : {"max", "integers", "small", "derived", "part", "intercommunicator", "empty"})
    EXPECT_EQ(r.values.at(name), 0) << name;
  EXPECT_NE(r.text.find("not a sum or average"), std::string::npos);
  EXPECT_NE(r.text.find("compressed 0 calls"), std::string::npos) << r.text;
}

// MPI_Iallreduce must return before its neighbours call it.
TEST_P(MpiPreload, NonblockingSums) {
  const Result r = Launch(GetParam(), "SLIM_COMPRESS='ef(qsgd(bits=4))'", client + " nonblocking 30 20000");
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_EQ(r.values.at("ranks_differ"), 0);
  EXPECT_LT(r.values.at("step_error"), 0.4);
  if (GetParam() > 1) {
    EXPECT_GT(r.values.at("step_error"), 0.01) << "nothing was compressed";
  }
}

// Unchanged bits: disabled, without settings, and with a mistake in them, which is named.
TEST(MpiPreloadOff, IsOff) {
  for (const char* environment :
       {"SLIM_COMPRESS='qsgd(bits=4)' SLIM_DISABLE=1", "", "SLIM_COMPRESS='qsgd(bit=4)'", "SLIM_MIN_BYTES=lots"}) {
    const Result r = Launch(3, environment, client + " train 3 2 20000");
    ASSERT_EQ(r.status, 0) << r.text;
    EXPECT_LT(r.values.at("step_error"), 1e-6) << environment;
  }
  EXPECT_EQ(
      Count(Launch(3, "SLIM_COMPRESS='qsgd(bit=4)'", client + " train 3 2 20000").text, "unknown option 'bit' of qsgd"),
      3);
  const Result r = Launch(2, "SLIM_COMPRES='qsgd(bits=4)'", client + " train 3 2 20000");
  EXPECT_EQ(Count(r.text, "SLIM_COMPRES is no variable of SlimCCL: did you mean SLIM_COMPRESS?"), 1) << r.text;
}

// One rank with other settings: all stay plain, and it is named; nothing hangs.
TEST(MpiPreloadOff, SettingsThatDiffer) {
  const Result r =
      Launch(3, "SLIM_COMPRESS='qsgd(bits=4)'",
             "sh -c 'test ${OMPI_COMM_WORLD_RANK:-$PMI_RANK} = 1 && export SLIM_COMPRESS=onebit; exec \"$0\" \"$@\"' " +
                 client + " train 3 2 20000");
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_LT(r.values.at("step_error"), 1e-6);
  EXPECT_EQ(Count(r.text, "rank 1 has other SLIM_* settings than rank 0"), 1) << r.text;
}

// Under another MPI than its own: a message says so, and the program ends with MPI's own error, not with a crash.
TEST(MpiPreloadOff, AnotherMpi) {
  if (otherLibrary == "-") GTEST_SKIP() << "there is one MPI here";
  const Result r = Launch(2, "", client + " train 3 2 20000", otherLibrary);
  EXPECT_NE(r.status, 0);
  EXPECT_NE(r.text.find("preload the one of a build with SLIM_MPI="), std::string::npos) << r.text;
  EXPECT_EQ(r.text.find("ranks_differ"), std::string::npos) << r.text;
}

TEST(MpiPreloadStatistics, AsJson) {
  const Result r =
      Launch(4, "SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_CYCLE=2 SLIM_STATS=s.json", client + " train 10 2 50000");
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_NE(r.text.find("\"compressedCalls\": 20"), std::string::npos) << r.text;
  EXPECT_NE(r.text.find("\"cycle\": 2"), std::string::npos);
  const size_t at = r.text.find("\"wireBytes\": ");
  ASSERT_NE(at, std::string::npos);
  // 10 calls of 50000 floats: 2·3/4 of 4 bits each, and little more.
  const double ideal = 10 * 50000 * 1.5 / 2;
  EXPECT_GT(std::stod(r.text.substr(at + 13)), ideal);
  EXPECT_LT(std::stod(r.text.substr(at + 13)), 1.1 * ideal);
}

// Data-parallel training in NumPy over mpi4py, as its users write it.
TEST(MpiPreloadMpi4py, TrainsAsWellAsPlain) {
  if (training == "-") GTEST_SKIP() << "mpi4py is for another MPI";
  const std::string program = "/usr/bin/python3 '" + training + "'";  // the workspace's path may hold a space
  const Result plain = Launch(4, "", program, ""),
               slim = Launch(4, "SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_MIN_BYTES=1K", program);
  ASSERT_EQ(plain.status, 0) << plain.text;
  ASSERT_EQ(slim.status, 0) << slim.text;
  EXPECT_EQ(slim.values.at("ranks_differ"), 0);
  EXPECT_NE(slim.values.at("loss"), plain.values.at("loss")) << "nothing was compressed";
  EXPECT_LT(slim.values.at("loss"), 1.02 * plain.values.at("loss"));
  EXPECT_LT(plain.values.at("loss"), 0.5 * plain.values.at("first_loss"));
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc < 6) return 2;
  const auto path = [](const char* name) {
    char* full = realpath(name, nullptr);
    const std::string result = full ? full : name;
    free(full);
    return result;
  };
  mpirun = path(argv[1]);
  library = path(argv[2]);
  otherLibrary = path(argv[3]);
  client = path(argv[4]);
  training = path(argv[5]);
  for (int i = 6; i < argc; i++) fortran.push_back(path(argv[i]));
  hydra = system((mpirun + " --version </dev/null 2>&1 | grep -q HYDRA").c_str()) == 0;
  return RUN_ALL_TESTS();
}
