// libslimccl_nccl.so before a NCCL that only says what is called (toy_nccl.c), with a core that only says what it is
// told (core.c): every way in which programs reach NCCL, and every way in. Argument: CUDA_HOME, for the real NCCL.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "compress/compress.h"
#include "plugin/preload/dropin.h"

namespace {

std::string here, cudaHome;  // the folder with the programs

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
void Copy(const std::string& from, const std::string& to, mode_t mode = 0755) {
  std::ofstream(to, std::ios::binary) << Read(from);
  chmod(to.c_str(), mode);
}

struct Result {
  int status = -1;
  std::string out, err;
};

std::vector<std::string> Lines(const std::string& text, const std::string& beginning = "") {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);)
    if (line.rfind(beginning, 0) == 0) lines.push_back(line);
  return lines;
}
int Count(const std::string& text, const std::string& what) {
  int n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) n++;
  return n;
}

class NcclShim : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = "/tmp/slim.XXXXXX";
    ASSERT_TRUE(mkdtemp(folder_.data()));
    for (const char* name : {"libslimccl_nccl.so", "libslimccl_audit.so"})
      Copy(here + "/../../../plugin/preload/" + name, folder_ + "/" + name);
    Copy(here + "/core/libslimccl.so", folder_ + "/libslimccl.so");
    shim_ = folder_ + "/libslimccl_nccl.so";
    preload_ = "LD_PRELOAD=" + shim_;
    audit_ = "LD_AUDIT=" + folder_ + "/libslimccl_audit.so";
  }
  void TearDown() override { EXPECT_EQ(system(("rm -rf " + folder_).c_str()), 0); }

  // program: beside this test, with arguments.
  Result Run(const std::string& environment, const std::string& program) {
    const std::string out = folder_ + "/out", err = folder_ + "/err";
    const std::string command =
        "env " + environment + " timeout 100 " + here + "/" + program + " >" + out + " 2>" + err;
    const int code = system(command.c_str());
    return {WIFEXITED(code) ? WEXITSTATUS(code) : -1, Read(out), Read(err)};
  }

  std::string folder_, shim_, preload_, audit_;
};

const char kBypassed[] =
    "nccl CommInitRank 0\n"
    "nccl AllReduce 1000\n"
    "nccl AllReduce 10\n"
    "nccl Bcast 2000\n"
    "nccl Broadcast 2000\n"
    "nccl Send 5\n"
    "nccl BrandNew 4\n"
    "nccl CommDestroy\n"
    "play 0\n";

// The core takes calls of 1000 elements and more. NCCL's ncclBcast comes by as ncclBroadcast; a function that the shim
// does not know reaches NCCL.
std::string Caught(const std::string& library = "libnccl.so.2") {
  return "nccl CommInitRank 0\n"
         "core open " +
         library +
         " 22809\n"
         "core made 1\n"
         "core comm 0 of 1 blocking=1 all=0 name=''\n"
         "core AllReduce 1000 type=7 op=0 root=0 group=0\n"
         "core AllReduce 10 type=7 op=4 root=0 group=0\n"
         "nccl AllReduce 10\n"
         "nccl Bcast 2000\n"
         "core Broadcast 2000 type=0 op=0 root=3 group=0\n"
         "nccl Send 5\n"
         "nccl BrandNew 4\n"
         "core gone\n"
         "nccl CommDestroy\n"
         "play 0\n";
}

/* ---- Ways in ---------------------------------------------------------------------------------------------------- */

struct Row {
  const char* name;
  std::string program;  // %: this folder
  bool preloads, audits;
  std::string library = "libnccl.so.2";
};
std::ostream& operator<<(std::ostream& out, const Row& row) { return out << row.name; }

const Row kRows[] = {
    {"LinkedProgram", "linked", true, true},
    {"LinkedProgramWithRpath", "linked_rpath", true, true},
    {"LinkedProgramBoundAtStart", "linked_now", true, true},
    {"LinkedProgramWithoutPlt", "linked_no_plt", true, false},
    {"PluginGlobal", "host global %/libplugin.so", true, true},
    {"PluginLocal", "host local %/libplugin.so", true, true},  // Python's extensions
    {"PluginDeepBind", "host deepbind %/libplugin.so", false, true},
    {"OpenedByPath", "host open %/libnccl.so.2", false, true},
    {"OpenedByName", "host open libnccl.so.2", false, true},
    {"StaticInALibrary", "host local %/libstatic.so", true, true, "libstatic.so"},
    {"StaticInAGlobalLibrary", "host global %/libstatic.so", true, true, "libstatic.so"},
    {"StaticAndSymbolic", "host local %/libsymbolic.so", false, false},
};

class NcclShimRow : public NcclShim, public testing::WithParamInterface<Row> {
 protected:
  Result Play(const std::string& environment) {
    std::string program = GetParam().program;
    const size_t at = program.find('%');
    if (at != std::string::npos) program.replace(at, 1, here);
    return Run("LD_LIBRARY_PATH=" + here + " " + environment, program);
  }
  void Expect(const Result& r, bool caught) {
    EXPECT_EQ(r.status, 0);
    EXPECT_EQ(r.out, caught ? Caught(GetParam().library) : kBypassed);
    EXPECT_EQ(r.err, "");
  }
};
INSTANTIATE_TEST_SUITE_P(Rows, NcclShimRow, testing::ValuesIn(kRows),
                         [](const testing::TestParamInfo<Row>& row) { return row.param.name; });

TEST_P(NcclShimRow, WithoutIt) { Expect(Play(""), false); }
TEST_P(NcclShimRow, Preloaded) { Expect(Play(preload_), GetParam().preloads); }
TEST_P(NcclShimRow, Audited) { Expect(Play(audit_), GetParam().audits); }
TEST_P(NcclShimRow, PreloadedAndAudited) {
  Expect(Play(preload_ + " " + audit_), GetParam().preloads || GetParam().audits);
}
TEST_P(NcclShimRow, Disabled) {
  Expect(Play(preload_ + " SLIM_DISABLE=1"), false);
  Expect(Play(audit_ + " SLIM_DISABLE=1"), false);
}
TEST_P(NcclShimRow, WithoutACore) {
  unlink((folder_ + "/libslimccl.so").c_str());
  const Result r = Play(preload_);
  EXPECT_EQ(r.out, kBypassed);
  EXPECT_EQ(Count(r.err, "SlimCCL WARN"), GetParam().preloads) << r.err;
  EXPECT_EQ(Count(r.err, "libslimccl.so: cannot open shared object file"), GetParam().preloads) << r.err;
}
TEST_P(NcclShimRow, ACoreThatRefuses) {
  const Result r = Play(preload_ + " CORE_REFUSES=1");
  EXPECT_EQ(r.out.find("core made"), std::string::npos);
  EXPECT_EQ(Count(r.out, "nccl AllReduce"), 2);
  EXPECT_EQ(r.err, "");
}

TEST_F(NcclShim, AMissingPreloadFileIsTheLoadersToReport) {
  const Result r = Run("LD_PRELOAD=" + folder_ + "/none.so", "linked");
  EXPECT_EQ(r.out, kBypassed);
  EXPECT_NE(r.err.find("cannot be preloaded"), std::string::npos) << r.err;
}

TEST_F(NcclShim, AProgramWithoutNcclNoticesNothing) {
  for (const std::string& environment :
       {preload_, audit_, preload_ + " LD_BIND_NOW=1", preload_ + " SLIM_COMPRESS=fp16"}) {
    const Result r = Run(environment, "host");
    EXPECT_EQ(r.status, 0);
    EXPECT_EQ(r.out + r.err, "");
  }
}

// Also where NCCL is part of the program, and a look for the function there leads back to us.
TEST_F(NcclShim, AnOldNcclLacksWhatItLacks) {
  const std::string warning = "SlimCCL WARN ncclCommShrink was called, but this NCCL (";
  const Result linked = Run(preload_, "linked_old");
  EXPECT_EQ(linked.status, 0);
  EXPECT_EQ(linked.out,
            "nccl CommInitRank 0\ncore open libnccl.so.2 21500\ncore made 1\n"
            "core comm 0 of 2 blocking=1 all=0 name=''\n"
            "calls 0\ncore AllReduce 1000 type=7 op=0 root=0 group=0\ncalls 0\n"
            "core AllReduce 10 type=7 op=0 root=0 group=0\nnccl AllReduce 10\ncalls 0\ncalls 5\n");
  EXPECT_EQ(Count(linked.err, warning), 1) << linked.err;
  const Result inside = Run(preload_, "static_old");
  EXPECT_EQ(inside.status, 0);
  EXPECT_EQ(inside.out,
            "nccl CommInitRank 0\ncalls 0\nnccl AllReduce 1000\ncalls 0\nnccl AllReduce 10\ncalls 0\ncalls 5\n");
  EXPECT_EQ(Count(inside.err, warning), 1) << inside.err;
}

TEST_F(NcclShim, OfTwoCopiesTheCallersOwnCounts) {
  const Result r = Run(preload_, "host local " + here + "/libnccl.so.2 " + here + "/libstatic.so");
  EXPECT_EQ(r.out, Caught("libstatic.so"));
}

TEST_F(NcclShim, SaysLoudlyThatNothingCameBy) {
  const std::string opened = "host open " + here + "/libcuda.so.1 " + here + "/libnccl.so.2";
  for (const char* variable : {"SLIM_COMPRESS=fp16", "SLIM_POLICY=/nowhere"}) {
    const Result r = Run(preload_ + " " + variable, opened);
    EXPECT_EQ(r.out, kBypassed);
    EXPECT_EQ(Lines(r.err).size(), 1u) << r.err;
    EXPECT_EQ(Count(r.err, "NOTHING WAS COMPRESSED"), 1) << r.err;
    EXPECT_EQ(Count(r.err, here + "/libnccl.so.2"), 1) << r.err;
  }
  EXPECT_EQ(Run(preload_, opened).err, "");
  EXPECT_EQ(Run(preload_ + " SLIM_COMPRESS=fp16 SLIM_DISABLE=1", opened).err, "");
  EXPECT_EQ(Run(preload_ + " SLIM_COMPRESS=fp16 SLIM_DEBUG=NONE", opened).err, "");
  EXPECT_EQ(Run(preload_ + " SLIM_COMPRESS=fp16", "linked").err, "");
  EXPECT_EQ(Run(audit_ + " SLIM_COMPRESS=fp16", opened).err, "");
}

/* ---- The drop-in ------------------------------------------------------------------------------------------------ */

class NcclDropIn : public NcclShim {
 protected:
  void SetUp() override {
    NcclShim::SetUp();
    dir_ = folder_ + "/dropin";
    ASSERT_EQ(slimMakeDropIn(dir_.c_str(), shim_.c_str(), (here + "/libnccl.so.2").c_str()), slimSuccess)
        << slimLastMessage();
  }
  std::string dir_;
};

TEST_F(NcclDropIn, ServesWhoeverComesByName) {
  for (const char* program : {"linked", "linked_now", "host open libnccl.so.2", "host open libnccl.so"}) {
    const Result r = Run("LD_LIBRARY_PATH=" + dir_, program);
    EXPECT_EQ(r.out, Caught()) << program << "\n" << r.err;
    EXPECT_EQ(r.err, "");
  }
  for (const char* way : {"global", "local", "deepbind"})
    EXPECT_EQ(Run("LD_LIBRARY_PATH=" + dir_, std::string("host ") + way + " " + here + "/libplugin.so").out, Caught());
  EXPECT_EQ(Run("A=1", "host open " + dir_ + "/libnccl.so.2").out, Caught());  // by its path
}

// RPATH comes before LD_LIBRARY_PATH; a program may open NCCL by its path first (JAX's plugin) and then by name.
TEST_F(NcclDropIn, PreloadedComesBeforeAnyPath) {
  const std::string nccl = here + "/libnccl.so.2";
  EXPECT_EQ(Run("LD_LIBRARY_PATH=" + dir_, "linked_rpath").out, kBypassed);
  EXPECT_EQ(Run("LD_LIBRARY_PATH=" + dir_, "host open " + nccl + " libnccl.so.2").out, kBypassed);
  const std::string preload = "LD_PRELOAD=" + dir_ + "/libnccl.so.2";
  for (const std::string& program :
       {std::string("linked"), std::string("linked_rpath"), "host open " + nccl + " libnccl.so.2",
        "host local " + here + "/libplugin.so", "host deepbind " + here + "/libplugin.so"}) {
    const Result r = Run(preload, program);
    EXPECT_EQ(r.out, Caught()) << program << "\n" << r.err;
    EXPECT_EQ(r.err, "");
  }
}

TEST_F(NcclDropIn, IsWrittenAgainAndReplacesNothingElse) {
  const std::string nccl = here + "/libnccl.so.2", drop = dir_ + "/libnccl.so.2";
  const std::string before = Read(drop);
  EXPECT_EQ(slimMakeDropIn(dir_.c_str(), shim_.c_str(), nccl.c_str()), slimSuccess);
  EXPECT_EQ(Read(drop), before);
  // A path through a link stays that path: what it leads to may change.
  ASSERT_EQ(symlink((here + "/libnccl.so.2").c_str(), (folder_ + "/libnccl.so.2").c_str()), 0);
  ASSERT_EQ(slimMakeDropIn(dir_.c_str(), shim_.c_str(), (folder_ + "/libnccl.so.2").c_str()), slimSuccess);
  EXPECT_NE(Read(drop).find(folder_ + "/libnccl.so.2"), std::string::npos);

  EXPECT_EQ(slimMakeDropIn(folder_.c_str(), shim_.c_str(), nccl.c_str()), slimInvalidUsage);  // NCCL itself is there
  EXPECT_EQ(Read(folder_ + "/libnccl.so.2"), Read(nccl));
  EXPECT_EQ(slimMakeDropIn(dir_.c_str(), shim_.c_str(), drop.c_str()), slimInvalidArgument);
  EXPECT_NE(std::string(slimLastMessage()).find("is a drop-in itself"), std::string::npos);
  EXPECT_EQ(slimMakeDropIn(dir_.c_str(), shim_.c_str(), "/none/libnccl.so.2"), slimInvalidArgument);
  EXPECT_EQ(slimMakeDropIn(dir_.c_str(), (shim_ + ".none").c_str(), nccl.c_str()), slimInvalidArgument);
  EXPECT_EQ(slimMakeDropIn(dir_.c_str(), shim_.c_str(), (here + "/libcuda.so.1").c_str()), slimInvalidArgument);
  EXPECT_NE(std::string(slimLastMessage()).find("is not NCCL"), std::string::npos) << slimLastMessage();
  EXPECT_EQ(slimMakeDropIn((folder_ + "/a/b").c_str(), shim_.c_str(), nccl.c_str()), slimSystemError);
}

/* ---- What the core is told -------------------------------------------------------------------------------------- */

TEST_F(NcclShim, EveryFunction) {
  const Result r = Run(preload_ + " CORE_FAILS=1", "calls every");
  EXPECT_EQ(r.err, "");
  EXPECT_EQ(r.out,
            "nccl CommInitAll 2\nnccl CommInitRank 0\nnccl CommInitRank 1\ncore open libnccl.so.2 22809\n"
            "core made 2\ncore comm 0 of 2 blocking=1 all=1 name=''\ncore comm 1 of 2 blocking=1 all=1 name=''\n"
            "calls 0\ncore gone\nnccl CommDestroy\ncore gone\nnccl CommDestroy\n"
            "nccl CommInitRankConfig 2\ncore made 1\ncore comm 2 of 3 blocking=1 all=0 name='tp'\ncalls 0\n"
            "nccl CommInitRankScalable 4\ncore made 1\ncore comm 4 of 5 blocking=1 all=0 name=''\ncalls 0\n"
            "nccl CommSplit 7\ncore made 1\ncore comm 1 of 3 blocking=1 all=0 name='tp'\ncalls 0\n"
            "nccl CommSplit 7\ncore made 1\ncore comm 1 of 3 blocking=1 all=0 name=''\ncalls 0\n"
            "nccl CommSplit -1\ncalls 0\n"
            "nccl CommShrink 1\ncore made 1\ncore comm 2 of 2 blocking=1 all=0 name='small'\ncalls 0\n"
            "core gone\nnccl CommDestroy\ncore gone\nnccl CommDestroy\n"
            "core gone\nnccl CommDestroy\ncore gone\nnccl CommDestroy\n"
            "core aborted\nnccl CommShrink 1\ncore made 1\ncore comm 2 of 2 blocking=1 all=0 name='small'\ncalls 0\n"
            "core gone\nnccl CommDestroy\n"
            "core ReduceScatter 1000 type=6 op=4 root=0 group=0\ncalls 0\n"
            "core AllGather 1001 type=0 op=0 root=0 group=0\ncalls 0\n"
            "core Broadcast 1002 type=0 op=0 root=2 group=0\ncalls 0\n"
            "core Reduce 1003 type=8 op=2 root=1 group=0\ncalls 0\n"
            "core ReduceScatter 10 type=6 op=4 root=0 group=0\nnccl ReduceScatter 10\ncalls 0\n"
            "core AllGather 11 type=0 op=0 root=0 group=0\nnccl AllGather 11\ncalls 0\n"
            "core Reduce 12 type=8 op=2 root=1 group=0\nnccl Reduce 12\ncalls 0\n"
            "core step\ncore async 0\ncalls 0\ncalls error 3\n"
            "core aborted\nnccl CommRevoke 0\ncalls 0\n"
            "core aborted\ncore gone\nnccl CommAbort\ncalls 0\n"
            "nccl CommInitRank 2\ncalls null 4\n");
}

// What is left of NCCL's and the program's own lines is the same as without us, also where the core is off.
TEST_F(NcclShim, ForwardsAllAlike) {
  for (const char* what :
       {"every", "groups", "reopen", "simulate", "creation", "premul", "nonblocking", "abort", "errors"}) {
    const std::string program = std::string("calls ") + what;
    const Result plain = Run("A=1", program), off = Run(preload_ + " SLIM_DISABLE=1", program),
                 forwards = Run(preload_ + " CORE_TAKES_NONE=1", program);
    EXPECT_EQ(plain.out, off.out) << what;
    std::vector<std::string> others;
    for (const std::string& line : Lines(forwards.out))
      if (line.rfind("core", 0)) others.push_back(line);
    EXPECT_EQ(Lines(plain.out), others) << what;
    EXPECT_EQ(plain.err + off.err + forwards.err, "") << what;
  }
}

const std::string kMade =
    "nccl CommInitRank 1\ncore open libnccl.so.2 22809\ncore made 1\ncore comm 1 of 4 blocking=1 all=0 name=''\n";

TEST_F(NcclShim, GroupsEndOnce) {
  EXPECT_EQ(Run(preload_, "calls groups").out,
            kMade +
                "calls 5\n"
                "core AllReduce 1000 type=7 op=0 root=0 group=1\n"
                "core AllReduce 2000 type=7 op=0 root=0 group=1\n"
                "core AllReduce 10 type=7 op=0 root=0 group=1\nnccl AllReduce 10\ncalls inner 0\n"
                "core AllReduce 3000 type=7 op=0 root=0 group=1\n"
                "core end 0: 3 calls\ncalls outer 0\n"
                "core AllReduce 4000 type=7 op=0 root=0 group=0\n");
}

TEST_F(NcclShim, GroupsCloseAndReopen) {
  EXPECT_EQ(Run(preload_, "calls reopen").out,
            kMade +
                "core AllReduce 1000 type=7 op=0 root=0 group=1\ncore end 0: 1 calls\n"
                "nccl CommInitRank 1\ncore made 1\ncore comm 1 of 4 blocking=1 all=0 name=''\n"
                "core AllReduce 2000 type=7 op=0 root=0 group=1\ncore end 0: 1 calls\n"
                "core AllReduce 3000 type=7 op=0 root=0 group=0\n");
}

// A simulated end closes the group, and its calls are dropped.
TEST_F(NcclShim, ASimulatedGroupEnds) {
  EXPECT_EQ(Run(preload_, "calls simulate").out,
            kMade +
                "core AllReduce 1000 type=7 op=0 root=0 group=1\nnccl GroupSimulateEnd 1\ncore end 5: 1 calls\n"
                "calls 0\ncore AllReduce 2000 type=7 op=0 root=0 group=0\n");
}

TEST_F(NcclShim, CommunicatorsOfAGroupAreMadeTogether) {
  EXPECT_EQ(Run(preload_, "calls creation").out,
            "nccl CommInitRankConfig 3\nnccl CommInitAll 2\nnccl CommInitRank 0\nnccl CommInitRank 1\n"
            "nccl CommInitRank 0\ncalls end\n"
            "core open libnccl.so.2 22809\ncore made 4\n"
            "core comm 3 of 4 blocking=1 all=0 name='first'\ncore comm 0 of 2 blocking=1 all=1 name=''\n"
            "core comm 1 of 2 blocking=1 all=1 name=''\ncore comm 0 of 4 blocking=1 all=0 name=''\n"
            "core end 0: 0 calls\n"
            "nccl CommSplit -1\nnccl CommSplit 1\n"
            "core made 1\ncore comm 1 of 4 blocking=1 all=0 name='first'\ncore end 0: 0 calls\n");
}

TEST_F(NcclShim, AnOperatorMayEndBeforeItsGroup) {
  EXPECT_EQ(Run(preload_, "calls premul").out,
            kMade +
                "core op 6 made: 0.5 type=7 host=1\ncore AllReduce 1000 type=7 op=6 root=0 group=1\n"
                "core op 6 gone\nnccl RedOpDestroy 6\ncore end 0: 1 calls\n");
}

TEST_F(NcclShim, NonblockingCommunicators) {
  const std::string begin = "nccl CommInitRankConfig 0\ncore open libnccl.so.2 22809\n";
  EXPECT_EQ(Run(preload_, "calls nonblocking").out,
            begin +
                "core made 1\ncore comm 0 of 4 blocking=0 all=0 name=''\ncalls 7\n"
                "nccl CommSplit 0\ncore made 1\ncore comm 1 of 4 blocking=0 all=0 name=''\ncalls 7\n"
                "nccl CommInitRankConfig 2\ncore made 1\ncore comm 2 of 4 blocking=0 all=0 name=''\n"
                "core end 7: 0 calls\ncalls 7\n"
                "nccl CommInitRankConfig 3\ncore made 1\ncore comm 3 of 4 blocking=1 all=0 name=''\ncalls 0\n");
  EXPECT_EQ(Count(Run(preload_ + " NCCL_COMM_BLOCKING=0", "calls groups").out, "blocking=0"), 1);
}

TEST_F(NcclShim, AbortReachesACallThatHangs) {
  const Result r = Run(preload_, "calls abort");
  EXPECT_EQ(r.status, 0);
  EXPECT_EQ(r.out, kMade +
                       "core AllReduce 77 type=7 op=0 root=0 group=0\nnccl AllReduce 77\n"
                       "core aborted\ncore gone\nnccl CommAbort\ncalls 2\n");
}

// Groups are each thread's own; depth n has n calls in it.
TEST_F(NcclShim, ThreadsDoNotMeet) {
  const Result r = Run(preload_, "calls threads");
  ASSERT_EQ(r.status, 0);
  const int rounds = 50;
  for (int n = 1; n <= 7; n++) EXPECT_EQ(Count(r.out, "core end 0: " + std::to_string(n) + " calls\n"), rounds) << n;
  EXPECT_EQ(Count(r.out, "core end 0: 0 calls\n"), 7 * rounds);
  EXPECT_EQ(Count(r.out, "core made 2\n"), 7 * rounds);
  EXPECT_EQ(Count(r.out, "core made"), 7 * rounds);
  EXPECT_EQ(Count(r.out, "core gone\n"), 14 * rounds);
  EXPECT_EQ(Count(r.out, "nccl AllReduce"), 0);
  EXPECT_EQ(Count(r.out, "group=0"), 0);
}

// Each process opens a core of its own; the shim lies at a relative path, and the program has changed its folder.
TEST_F(NcclShim, ForkBeforeTheFirstCommunicator) {
  const std::string base = folder_.substr(folder_.rfind('/') + 1);
  const Result r = Run("-C /tmp LD_PRELOAD=./" + base + "/libslimccl_nccl.so", "calls fork");
  EXPECT_EQ(Count(r.out, "core open"), 2) << r.out << r.err;
  EXPECT_EQ(Count(r.out, "core AllReduce 1000"), 2);
  EXPECT_EQ(Count(r.out, "nccl AllReduce"), 0);
}

TEST_F(NcclShim, WithoutNcclSaysWhereToFindIt) {
  void* shim = dlopen(shim_.c_str(), RTLD_NOW | RTLD_LOCAL);
  ASSERT_TRUE(shim) << dlerror();
  int (*start)() = reinterpret_cast<int (*)()>(dlsym(shim, "ncclGroupStart"));
  testing::internal::CaptureStderr();
  EXPECT_EQ(start(), 2);
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_EQ(Lines(text).size(), 1u);
  EXPECT_EQ(Count(text, "SlimCCL WARN ncclGroupStart was called, but no NCCL is in this process (SLIM_NCCL_LIB may"), 1)
      << text;
  setenv("SLIM_NCCL_LIB", (here + "/libnccl.so.2").c_str(), 1);
  EXPECT_EQ(start(), 0);
  unsetenv("SLIM_NCCL_LIB");
  dlclose(shim);
}

/* ---- The libraries themselves ----------------------------------------------------------------------------------- */

std::set<std::string> Words(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  std::set<std::string> words;
  char word[256];
  while (fscanf(pipe, "%255s", word) == 1) words.insert(word);
  EXPECT_EQ(pclose(pipe), 0) << command;
  return words;
}
std::set<std::string> Exports(const std::string& library) {
  return Words("nm -D --defined-only " + library + " | awk '{print $3}'");
}
std::set<std::string> Needed(const std::string& library) {
  return Words("readelf -d " + library + " | sed -n 's/.*NEEDED.*\\[\\(.*\\)\\]/\\1/p'");
}

std::string RealNccl() {
  for (const std::string& folder : {std::string("/usr/lib/x86_64-linux-gnu"), cudaHome + "/lib64", cudaHome + "/lib"})
    if (!access((folder + "/libnccl.so.2").c_str(), R_OK)) return folder + "/libnccl.so.2";
  return "";
}

TEST_F(NcclShim, NeedsLibcAlone) {
  for (const std::string& library : {shim_, folder_ + "/libslimccl_audit.so"})
    for (const std::string& name : Needed(library))
      EXPECT_TRUE(name.rfind("libc.so.", 0) == 0 || name.rfind("libdl.so.", 0) == 0 || name.rfind("ld-linux", 0) == 0 ||
                  name.rfind("libubsan.so.", 0) == 0 /* --config=ubsan */)
          << library << " needs " << name;
  EXPECT_EQ(Exports(folder_ + "/libslimccl_audit.so"),
            (std::set<std::string>{"la_version", "la_objopen", "la_symbind64"}));
}

// That their types are the header's the compiler has seen.
TEST_F(NcclShim, StandsBeforeFunctionsThatNcclHas) {
  std::set<std::string> ours = Exports(shim_);
  EXPECT_EQ(ours.erase("slimMarkStep"), 1u);
  for (const char* name : {"ncclBcast", "ncclSend", "ncclRecv", "ncclGetVersion"}) EXPECT_EQ(ours.count(name), 0u);
  std::set<std::string> both = Exports(here + "/libnccl.so.2");
  for (const std::string& name : ours) EXPECT_TRUE(both.count(name)) << name;
  const std::string real = RealNccl();
  if (real.empty()) GTEST_SKIP() << "libnccl.so.2 is not installed";
  both = Exports(real);
  for (const std::string& name : ours) EXPECT_TRUE(both.count(name)) << real << " has no " << name;
}

// The installed NCCL answers as it does without us.
TEST_F(NcclShim, BeforeTheRealNccl) {
  const std::string real = RealNccl();
  if (real.empty()) GTEST_SKIP() << "libnccl.so.2 is not installed";
  const std::string folder = "LD_LIBRARY_PATH=" + real.substr(0, real.rfind('/'));
  const std::string dir = folder_ + "/real";
  const Result plain = Run(folder, "calls errors");
  EXPECT_NE(Run("A=1", "calls errors").out, plain.out) << "that was not " << real;
  ASSERT_EQ(slimMakeDropIn(dir.c_str(), shim_.c_str(), real.c_str()), slimSuccess) << slimLastMessage();
  for (const std::string& way : {folder + " " + preload_, folder + " " + audit_, "LD_LIBRARY_PATH=" + dir}) {
    const Result r = Run(way, "calls errors");
    EXPECT_EQ(r.status, 0);
    EXPECT_EQ(r.out, plain.out) << way;
    EXPECT_EQ(Count(r.err, "SlimCCL"), 0) << r.err;
  }
}

// The stand-in's NCCL computes: a client of it gets its results through the shim.
TEST_F(NcclShim, BeforeAnNcclThatComputes) {
  for (const char* mode : {"group", "threads", "fork"})
    for (int ranks : {1, 2, 4}) {
      const Result r = Run(preload_ + " CORE_TAKES_NONE=1 SIMGPU_DEVICES=8",
                           std::string("../../simgpu/nccl_client ") + mode + " " + std::to_string(ranks));
      EXPECT_EQ(r.status, 0) << mode << ranks << r.err;
      const auto lines = Lines(r.out);
      EXPECT_EQ(std::count(lines.begin(), lines.end(), "ok"), 1) << mode << " " << ranks << " ranks: " << r.err;
      EXPECT_GT(Lines(r.out, "core AllReduce").size(), 0u);
      EXPECT_EQ(r.err, "");
    }
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  cudaHome = argc > 1 ? argv[1] : "none";
  char folder[4096];
  if (!getcwd(folder, sizeof folder)) return 1;
  here = std::string(folder) + "/tests/preload/linker";
  return RUN_ALL_TESTS();
}
