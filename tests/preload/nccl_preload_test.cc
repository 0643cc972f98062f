// libslimccl_nccl.so under an NCCL program that knows nothing of it (nccl_play.c has its language), on the stand-in.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

namespace {

struct Result {
  int status = -1;
  std::map<std::string, double> values;     // "name value" lines
  std::map<std::string, std::string> bits;  // of results, by label
  std::string text;                         // everything: stderr, and files that end with .json or .log

  double operator[](const std::string& name) const {
    const auto found = values.find(name);
    if (found != values.end()) return found->second;
    ADD_FAILURE() << "no " << name << " in:\n" << text;
    return -1;
  }
};

struct Way {
  std::string environment;  // "NAME='value' …", for the shell
  std::string policy = "";  // the text of SLIM_POLICY's file
  std::string as = "threads";
  std::string flags = "";
  std::string linked = "";  // a spec: SlimCCL's own functions, without the preload
  bool findings = false;    // of the stand-in: not a mistake
};

Result Play(const Way& way, int ranks, const std::string& script) {
  std::string folder = "/tmp/slim.XXXXXX";
  if (!mkdtemp(folder.data())) return {};
  char cwd[4096];
  const std::string here = getcwd(cwd, sizeof cwd), n = std::to_string(ranks);
  if (!way.policy.empty()) std::ofstream(folder + "/rules") << way.policy;
  std::string command = "cd " + folder + " && timeout 100 env LD_LIBRARY_PATH=" + here +
                        "/tests/simgpu SIMGPU_DEVICES=8 SLIM_STATE_BYTES=8M SLIM_MIN_BYTES=1 SLIM_TIMEOUT=60 ";
  if (!way.policy.empty()) command += "SLIM_POLICY=rules ";
  command += "WORLD_SIZE=" + n + " " + way.environment + " ";
  if (way.linked.empty()) command += "LD_PRELOAD=" + here + "/plugin/preload/libslimccl_nccl.so ";
  command += here + "/tests/preload/nccl_play" + (way.linked.empty() ? "" : "_linked") + " " + way.as + " " + n + " '" +
             script + "' " + way.flags;
  if (!way.linked.empty()) command += " --linked '" + way.linked + "'";
  command += " </dev/null 2>&1; code=$?; cat *.json *.log 2>/dev/null; rm -rf " + folder + "; exit $code";
  Result result;
  FILE* pipe = popen(command.c_str(), "r");
  char line[4096];
  while (fgets(line, sizeof line, pipe)) {
    result.text += line;
    std::istringstream words(line);
    std::string name, rest;
    double value;
    if (std::istringstream one(line);
        one >> name >> rest && name.size() > 6 && name.substr(name.size() - 6) == ".bits:")
      result.bits[name.substr(0, name.size() - 6)] = rest;
    else if (words >> name >> value && !(words >> rest))
      result.values[name] = value;
  }
  const int code = pclose(pipe);
  result.status = WIFEXITED(code) ? WEXITSTATUS(code) : -1;
  EXPECT_TRUE(way.findings || result.text.find("simgpu:") == std::string::npos) << script << "\n" << result.text;
  return result;
}

int Count(const std::string& text, const std::string& what) {
  int n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) n++;
  return n;
}

// "N calls: why" of the statistics.
std::string Untouched(int calls, const std::string& why) {
  return "untouched " + std::to_string(calls) + " calls: " + why;
}

// Both messages may be wrong by one level of 127, the second of values that are larger by that much; and bf16.
constexpr double kBound8 = 2. / 127 + 1. / (127 * 127) + 1. / 256;
// One level of 7 in two messages; with feedback half a level, and what was left over of the step before.
constexpr double kBound4 = 2. / 7 + 1. / 49;

class NcclPreload : public testing::TestWithParam<int> {
 protected:
  static int ranks() { return GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Ranks, NcclPreload, testing::Values(1, 2, 3, 4, 8));

// ---- Results ------------------------------------------------------------------------------------------------------

// No two buffers of a script have the same count, so that with and without preload tensors are numbered alike.
const char kTypes[] =
    "init 0; buffers am 1501 f32; buffers bn 1502 f16; buffers co 1503 bf16; buffers dp 1504 f64;"
    "buffers e 1505 f32; buffers f 1 f32; buffers g 7 f64; buffers h 1506 f16;";

void ExpectCompressed(const Result& r, int ranks, const std::string& labels, double bound) {
  ASSERT_EQ(r.status, 0) << r.text;
  for (const char c : labels) {
    const std::string label = std::string("t") + c;
    EXPECT_LE(r[label + ".off"], bound) << label;
    EXPECT_EQ(r[label + ".differ"], 0) << label;
    if (ranks > 1) {
      EXPECT_GT(r[label + ".off"], 1e-5) << label << " was not compressed";
    }
  }
}

TEST_P(NcclPreload, AllReduceIsSlimAllReduce) {
  for (const char* op : {"sum", "avg", "half"}) {
    SCOPED_TRACE(op);
    const std::string script = std::string(kTypes) + "loop 2; fill abcdefgh random 1; allreduce mnop abcd * " + op +
                               "; check t mnop; allreduce efgh = * " + op + "; check t efgh; end; destroy 0";
    for (const char* as : {"threads", "processes", "one"}) {
      SCOPED_TRACE(as);
      const Result r = Play({"SLIM_COMPRESS='qsgd(bits=8)'", "", as}, ranks(), script);
      ExpectCompressed(r, ranks(), "mnopeh", kBound8);
      EXPECT_LE(r["tf.off"], kBound8);
      EXPECT_LE(r["tg.off"], kBound8);
      if (std::string(as) != "threads" || std::string(op) == "half" || ranks() == 1) continue;
      EXPECT_EQ(r.bits, Play({"", "", as, "", "qsgd(bits=8)"}, ranks(), script).bits);
    }
  }
}

TEST_P(NcclPreload, FeedbackHasTheBitsOfSlimAllReduce) {
  const std::string script =
      std::string(kTypes) +
      "loop 5; fill abcde random 1; allreduce mnop abcd * sum; check t mnop; allreduce e = * avg;"
      "check t e; end; destroy 0";
  const Result r = Play({"SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_CYCLE=5"}, ranks(), script);
  ExpectCompressed(r, ranks(), "mnope", kBound4);
  if (ranks() == 1) return;
  EXPECT_EQ(r.bits, Play({"", "", "threads", "", "ef(qsgd(bits=4))"}, ranks(), script).bits);
}

TEST_P(NcclPreload, ReduceScatter) {
  const std::string n = std::to_string(ranks()), all = std::to_string(701 * ranks());
  const std::string script =
      "init 0; buffers am " + all + " f32; buffers bn " + all + " f16; buffers c " + all + " bf16; buffers d " + all +
      " f64; buffers e " + n + " f32;" +
      "fill abcde random 1; reduce_scatter mn ab * sum; reduce_scatter cde = * avg;"
      "check t mncde; reduce_scatter m a 0 sum; sync; reduce_scatter n b 1 sum; check z n; destroy 0";
  for (const char* as : {"threads", "one"}) {
    const Result r = Play({"SLIM_COMPRESS='qsgd(bits=8)' SLIM_MIN_BYTES=0", "", as}, ranks(), script);
    ExpectCompressed(r, ranks(), "mncd", 1. / 127 + 1. / 256);
    EXPECT_LE(r["te.off"], 1. / 127);
    EXPECT_LE(r["zn.off"], 1. / 127 + 1. / 2048);
  }
}

TEST_P(NcclPreload, EveryCollectiveByRule) {
  const std::string script =
      "init 0; buffers ab 1001 f32; buffers m 8008 f32; buffers n 8008 bf16; fill abmn random 1;"
      "all_gather m a 1001 sum; check t m; all_gather n = 1001 sum; check t n;"
      "broadcast b a * sum 0; check t b; fill a random 1; broadcast a = * sum 0; check t a;"
      "buffers cd 1002 f64; fill cd random 1; reduce d c * sum 0; check t d; reduce c = * avg 0; check t c; destroy 0";
  for (const char* as : {"threads", "one"}) {
    const Result r = Play({"", "-> qsgd(bits=8)\n", as}, ranks(), script);
    ExpectCompressed(r, ranks(), "mnbadc", kBound8);
  }
  const Result exact = Play({"SLIM_COMPRESS='qsgd(bits=8)' SLIM_STATS=1"}, ranks(), script);
  for (const char* label : {"tm", "tb", "ta", "td"}) EXPECT_EQ(exact[label + std::string(".off")], 0) << label;
  if (ranks() > 1) {
    EXPECT_EQ(
        Count(exact.text, Untouched(6 * ranks(), "neither allreduce nor reduce-scatter, and no rule asks for it")), 1)
        << exact.text;
  }
}

// ---- auto ---------------------------------------------------------------------------------------------------------

// The lines "communicator C: auto(…" without what stands before; one a rank.
std::vector<std::string> Tables(const Result& r) {
  std::vector<std::string> tables;
  for (size_t at = r.text.find(": auto("); at != std::string::npos; at = r.text.find(": auto(", at + 1)) {
    const size_t from = r.text.rfind("communicator ", at);
    tables.push_back(r.text.substr(from, r.text.find('\n', at) - from));
  }
  return tables;
}

// Measured when the communicator is made, also in a group with another one: all ranks have the same table. Which way is
// the fastest here means nothing; sums are alike and within bounds whatever it is.
TEST_P(NcclPreload, AutoIsMeasuredAtCreation) {
  const std::string script =
      "init 0; buffers am 20000 f32; buffers bn 20001 f16; buffers co 100 f32; buffers d 70000 f64;"
      "loop 2; fill abcd random 1; allreduce mno abc * sum; check t mno; allreduce d = * avg; check t d; end;"
      "destroy 0";
  for (const std::string as : {"threads", "processes", "one"})
    for (const char* rate : {"", "SIMGPU_RATE=1000000 "}) {
      SCOPED_TRACE(as + " " + rate);
      if (*rate && (as != "one" || ranks() == 8)) continue; /* slow */
      const Result r =
          Play({std::string(rate) + "SLIM_COMPRESS='auto(qsgd(bits=8))' SLIM_STATE_BYTES=32M SLIM_DEBUG=INFO", "", as},
               ranks(), script);
      ASSERT_EQ(r.status, 0) << r.text;
      for (const char* label : {"tm", "tn", "to", "td"}) {
        EXPECT_LE(r[label + std::string(".off")], kBound8) << label;
        EXPECT_EQ(r[label + std::string(".differ")], 0) << label;
      }
      const auto tables = Tables(r);
      EXPECT_EQ(tables.size(), ranks() > 1 ? ranks() : 0) << r.text;
      for (const auto& table : tables) {
        EXPECT_EQ(table, tables[0]);
        EXPECT_EQ(table.find("communicator 0: auto(up=qsgd(bits=8)): plain "), 0) << table;
        for (const char* way : {", two-shot ", ", one-shot "}) EXPECT_NE(table.find(way), std::string::npos) << table;
      }
    }
}

// A link on which plain takes some fifty times as long: compressed, with the memory that the cycle gives, and the way
// that the table names is the one that sends.
TEST(NcclPreloadAuto, CompressesOnSlowLinks) {
  const std::string script =
      "init 0; buffers am 30000 f32; loop 3; fill a random 1; allreduce m a * sum; check t m; end; capture;"
      "allreduce m a * sum; end_capture; replay; check u m; destroy 0";
  const Result r =
      Play({"SIMGPU_RATE=200000 SLIM_COMPRESS='auto(ef(qsgd(bits=4)))' SLIM_CYCLE=1 SLIM_DEBUG=INFO SLIM_STATS=1"}, 3,
           script);
  ExpectCompressed(r, 3, "m", 2. / 7 + 1. / 49);
  EXPECT_GT(r["um.off"], 1e-5) << "the captured call was not compressed";
  EXPECT_EQ(r["um.differ"], 0);
  const auto tables = Tables(r);
  ASSERT_EQ(tables.size(), 3) << r.text;
  const std::string choices = tables[0].substr(tables[0].rfind(": "));
  std::string way;
  const std::regex entry("(one|two)-shot(?: from ([0-9.]+) KiB)?");
  for (std::sregex_iterator c(choices.begin(), choices.end(), entry), end; c != end; ++c)
    if (!(*c)[2].matched || std::stod((*c)[2]) < 117) way = (*c)[1];
  // 4 bits and a scale a 512 values: 15.5 kB. A plain ring sends 4/3 of 120 kB, one-shot twice the message, two-shot
  // 4/3 of it.
  std::smatch found;
  ASSERT_TRUE(std::regex_search(r.text, found, std::regex(" +0 +3 +30000 +([0-9.]+) "))) << r.text;
  EXPECT_NEAR(std::stod(found[1]), way == "one" ? 160. / 31 : 120. / 15.5, .3) << tables[0];
}

// No room to measure in: plain, and a warning; other communicators have theirs.
TEST(NcclPreloadAuto, NeedsRoom) {
  const Result r = Play({"SLIM_COMPRESS='auto(qsgd(bits=8))' SLIM_STATE_BYTES=1M SLIM_STATS=1"}, 2,
                        "init 0; buffers am 20000 f32; fill a random 1; allreduce m a * sum; check t m; destroy 0");
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_EQ(r["tm.off"], 0);
  EXPECT_EQ(Count(r.text, "auto(up=qsgd(bits=8)) stays plain, since it could not be measured: "), 2) << r.text;
  EXPECT_EQ(Count(r.text, Untouched(2, "plain is as fast, as auto measured")), 1) << r.text;
}

// Each rule that concerns a communicator, a spec once; the parts of a job side by side.
TEST(NcclPreloadAuto, MeasuresWhatTheRulesSay) {
  const std::string policy =
      "ranks=4 bytes=1M.. -> auto(topk(ratio=0.01))\n"
      "ranks=4 -> auto(qsgd(bits=8))\n"
      "ranks=2 -> auto(ef(qsgd(bits=8)))\n";
  const std::string script =
      "init 0; split 1 0 2; on 1; buffers am 20000 f32; fill a random 1; allreduce m a * sum; check t m; on 0;"
      "fill a random 1; allreduce m a * sum; check u m; destroy 1; destroy 0";
  for (const char* as : {"threads", "one"}) {
    const Result r = Play({"SLIM_DEBUG=INFO", policy, as}, 4, script);
    ASSERT_EQ(r.status, 0) << r.text;
    EXPECT_LE(r["tm.off"], kBound8);
    EXPECT_LE(r["um.off"], kBound8);
    EXPECT_EQ(Count(r.text, "communicator 0: auto(up=topk(ratio=0.01)): "), 4) << r.text;
    EXPECT_EQ(Count(r.text, "communicator 0: auto(up=qsgd(bits=8)): "), 4) << r.text;
    EXPECT_EQ(Count(r.text, "communicator 1: auto(up=qsgd(bits=8)): "), 4) << r.text;
    EXPECT_EQ(Tables(r).size(), 12) << r.text;
  }
}

// In a hierarchy the compressed sums go across, and plain is NCCL's own between all.
TEST(NcclPreloadAuto, MeasuresHierarchies) {
  const Result r = Play({"SIMGPU_NVLINK=2 SLIM_COMPRESS='auto(qsgd(bits=8))' SLIM_DEBUG=INFO"}, 4,
                        "init 0; buffers am 20000 f32; fill a random 1; allreduce m a * sum; check t m; destroy 0");
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_EQ(Count(r.text, "plain in each of 2 domains of 2 ranks"), 4) << r.text;
  EXPECT_EQ(Count(r.text, "communicator 0: auto(up=qsgd(bits=8)): plain "), 4) << r.text;
  EXPECT_LE(r["tm.off"], kBound8);
  EXPECT_EQ(r["tm.differ"], 0);
}

// ---- What stays NCCL's --------------------------------------------------------------------------------------------

TEST_P(NcclPreload, EverythingElseIsExact) {
  const std::string script =
      "init 0; buffers ab 3000 f32; buffers c 3000 i32; buffers d 100 f32; fill abcd random 1;"
      "allreduce b a * max; check t b; allreduce b a * min; check u b; allreduce b a * prod; check v b;"
      "allreduce c = * sum; check t c; allreduce d = * sum; check t d; split 1 0 2; on 1; fill a random 1;"
      "allreduce b a * sum; check w b; destroy 1; destroy 0";
  for (const char* as : {"threads", "one"}) {
    const Result r = Play({"SLIM_COMPRESS='qsgd(bits=4)' SLIM_MIN_BYTES=1K SLIM_STATS=1", "", as}, ranks(), script);
    ASSERT_EQ(r.status, 0) << r.text;
    for (const char* label : {"tb", "ub", "tc", "td", "wb"}) EXPECT_EQ(r[label + std::string(".off")], 0) << label;
    EXPECT_LE(r["vb.off"], 1e-6); /* each factor may round */
    EXPECT_EQ(Count(r.text, Untouched(3 * ranks(), "not a sum or average")), 1) << r.text;
    EXPECT_EQ(Count(r.text, Untouched(ranks(), "not fp16")), 1) << r.text;
    EXPECT_EQ(Count(r.text, "compressed 0 calls"), 1) << r.text;
    if (ranks() < 4) continue; /* the parts have one rank */
    EXPECT_EQ(Count(r.text, Untouched(ranks(), "smaller than SLIM_MIN_BYTES")), 1) << r.text;
    EXPECT_EQ(Count(r.text, Untouched(ranks(), "not over all ranks of the job")), 1) << r.text;
  }
}

// Without ncclAlltoAll messages go one by one, with the same bits; without splits domains are compressed flat.
TEST_P(NcclPreload, OlderNccl) {
  char cwd[4096];
  const std::string here = getcwd(cwd, sizeof cwd), folder = here + "/tests/simgpu",
                    old = " LD_LIBRARY_PATH=" + folder + "/old:" + folder;
  const std::string way = "SLIM_COMPRESS='qsgd(bits=8)'",
                    script = "init 0; buffers a 240000 f32; fill a random 1; allreduce a = * sum; check t a; destroy 0";
  const Result now = Play({way}, ranks(), script), then = Play({way + old}, ranks(), script);
  ExpectCompressed(then, ranks(), "a", kBound8);
  EXPECT_EQ(now.bits, then.bits);
  if (ranks() != 4) return;
  const std::string domains = way + " SIMGPU_NVLINK=2 SLIM_DEBUG=INFO";
  EXPECT_EQ(Count(Play({domains}, 4, script).text, "compressed across: not with this NCCL"), 0);
  const Result flat = Play({domains + old}, 4, script);
  EXPECT_EQ(Count(flat.text, "compressed across: not with this NCCL, so it is flat"), 4) << flat.text;
  EXPECT_EQ(flat.bits, now.bits);
}

// A rule may ask for communicators that are a part of the job: each has its own tensors.
TEST(NcclPreloadParts, ByRule) {
  const Result r =
      Play({"SLIM_STATS=1", "ranks=2 -> qsgd(bits=8)\nranks=3 -> qsgd(bits=4)\n"}, 4,
           "init 0; split 1 0 2; shrink 2 0 3; buffers abc 1000 f32; fill abc random 1; allreduce a = * sum;"
           "check t a; on 1; allreduce b = * sum; check s b; on 2; @0 allreduce c = * sum; @1 allreduce c ="
           " * sum; @2 allreduce c = * sum; @0 check x c; @1 check x c; @2 check x c; destroy 1; destroy 0");
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_EQ(r["ta.off"], 0);
  EXPECT_GT(r["sb.off"], 1e-4);
  EXPECT_LE(r["sb.off"], kBound8);
  EXPECT_GT(r["xc.off"], 0.02);
  EXPECT_LE(r["xc.off"], kBound4);
}

// ---- Which tensor is it? ------------------------------------------------------------------------------------------
// Bucket g is of zeros and h of huge values: another tensor's error would show in g, and h's in any other.

const char kFeedback[] = "SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_DEBUG=INFO";
const std::string kFill = "fill abcdefghijkl constant 1; fill g zero 1; fill h constant 1048576;";
const std::string kBuckets = "init 0; buffers abcdefghijkl 300 f32;";

void ExpectNoAliasing(const Result& r, const std::string& labels) {
  ASSERT_EQ(r.status, 0) << r.text;
  for (const char c : labels) {
    const std::string label = std::string("t") + c;
    EXPECT_LE(r[label + ".off"], kBound4) << label;
    EXPECT_EQ(r[label + ".differ"], 0) << label;
    if (c == 'g') {
      EXPECT_EQ(r["tg.peak"], 0);
    }
  }
}
int Starts(const Result& r, int period) {
  return Count(r.text, "its calls repeat every " + std::to_string(period) + ": error feedback starts");
}
int Breaks(const Result& r) { return Count(r.text, "a call broke the cycle"); }

TEST_P(NcclPreload, TwelveEqualBuckets) {
  for (const char* as : {"threads", "one"}) {
    const Result r =
        Play({kFeedback, "", as}, ranks(),
             kBuckets + "loop 24;" + kFill + "allreduce lkjihgfedcba = * sum; check t abfgh; end; destroy 0");
    ExpectNoAliasing(r, "abfgh");
    if (ranks() == 1) continue;
    EXPECT_EQ(Starts(r, 12), ranks()) << r.text;
    EXPECT_EQ(Breaks(r), 0);
    EXPECT_LT(r["ta.mean"], r["ta.worst"] / 3);
  }
}

// All calls of a step, or of several, in one group.
TEST_P(NcclPreload, TwelveEqualBucketsInGroups) {
  for (const char* as : {"threads", "processes", "one"}) {
    const Result r =
        Play({kFeedback, "", as}, ranks(),
             kBuckets + "loop 6;" + kFill +
                 "group; allreduce lkjihgfedcba = * avg; allreduce lkjihgfedcba = * avg;"
                 "allreduce lkjihgfedcba = * avg; allreduce lkjihgfedcba = * avg; end_group; end;"
                 "loop 6;" +
                 kFill + "group; allreduce lkjihgfedcba = * avg; end_group; check t abfgh; end; destroy 0");
    ExpectNoAliasing(r, "abfgh");
    if (ranks() > 1) {
      EXPECT_EQ(Starts(r, 12), ranks()) << r.text;
      EXPECT_EQ(Breaks(r), 0);
    }
  }
}

// DDP's second step has other buckets, in another order: here the last one first, and a palindrome.
TEST_P(NcclPreload, BucketsAreRebuilt) {
  const std::string begin =
      kBuckets + kFill + "allreduce abcdefghijkl = * sum; buffers abcdefghijkl 300 f32; loop 30;" + kFill;
  const Result r = Play({kFeedback}, ranks(), begin + "allreduce lkjihgfedcba = * sum; check t abfgh; end; destroy 0");
  ExpectNoAliasing(r, "abfgh");
  const Result palindrome = Play({kFeedback}, ranks(), begin + "allreduce abcghhgcba = * avg; check t abcgh; end");
  ExpectNoAliasing(palindrome, "abcgh");
  if (ranks() > 1) {
    EXPECT_EQ(Starts(r, 12), ranks()) << r.text;
    EXPECT_EQ(Starts(palindrome, 10), ranks()) << palindrome.text;
  }
}

TEST_P(NcclPreload, ASkippedBlock) {
  const std::string step = kFill + "allreduce abcdefghijkl = * sum; check t abfgh;";
  const Result r =
      Play({kFeedback}, ranks(),
           kBuckets + "loop 7;" + step + "end;" + kFill + "allreduce abcdefhijkl = * sum; loop 7;" + step + "end;" +
               kFill + "allreduce bcdefghijkl = * sum; check t bfgh; loop 3;" + step + "end; destroy 0");
  ExpectNoAliasing(r, "abfgh");
  if (ranks() > 1) {
    EXPECT_EQ(Breaks(r), 2 * ranks()) << r.text;
    EXPECT_EQ(Starts(r, 12), 2 * ranks()) << r.text;
  }
}

// All ranks see a call of another size at once. The next cycle has g where h was: h's error must be gone.
TEST_P(NcclPreload, ACallOfAnotherSize) {
  const std::string begin = kBuckets + "buffers m 301 f32; loop 7;" + kFill,
                    other = "end; fill m constant 1; allreduce m = * sum; loop 9;" + kFill;
  const Result r = Play({kFeedback}, ranks(),
                        begin + "allreduce abcdefghijkl = * sum; check t abfgh;" + other +
                            "allreduce abcdefhgijkl = * sum; check t abfgh; end; destroy 0");
  ExpectNoAliasing(r, "abfgh");
  if (ranks() > 1) {
    EXPECT_EQ(Breaks(r), ranks()) << r.text;
    EXPECT_EQ(Starts(r, 12), 2 * ranks()) << r.text;
  }
}

TEST_P(NcclPreload, AnEqualSizedEvaluationCall) {
  const Result r = Play({kFeedback}, ranks(),
                        kBuckets + "buffers m 300 f32; loop 7;" + kFill +
                            "allreduce abcdefghijkl = * sum; check t abfgh; end; fill m zero 1; allreduce m = * sum;"
                            "check u m; loop 7;" +
                            kFill + "allreduce abcdefghijkl = * sum; check t abfgh; end; destroy 0");
  ExpectNoAliasing(r, "abfgh");
  EXPECT_EQ(r["um.peak"], 0);
  if (ranks() > 1) {
    EXPECT_EQ(Breaks(r), ranks()) << r.text;
  }
}

// Three backward passes without communication, then one with it, is nothing new; what is: a pass that sums half of the
// buckets twice.
TEST_P(NcclPreload, GradientAccumulation) {
  const Result r = Play({kFeedback}, ranks(),
                        kBuckets + "loop 8;" + kFill + "allreduce abcdefgh = * sum;" + kFill +
                            "allreduce abcdefghijkl = * sum; check t abfgh; end; destroy 0");
  ExpectNoAliasing(r, "abfgh");
  if (ranks() > 1) {
    EXPECT_EQ(Starts(r, 20), ranks()) << r.text;
    EXPECT_EQ(Breaks(r), 0);
  }
}

TEST_P(NcclPreload, ThreeBreaksEndTheSearch) {
  const std::string step = "fill ab constant 1; fill g zero 1; fill h constant 1048576; allreduce abgh = * sum;";
  std::string script = "init 0; buffers abgh 300 f32;";
  for (const char* one : {"a", "bb", "ggg"}) script += "loop 45;" + step + "end; allreduce " + one + " = * sum;";
  const Result r = Play({kFeedback}, ranks(), script + "loop 24;" + step + "check t abgh; end; destroy 0");
  ExpectNoAliasing(r, "abgh");
  if (ranks() == 1) return;
  EXPECT_EQ(Breaks(r), 2 * ranks()) << r.text;
  EXPECT_EQ(Count(r.text, "WARN communicator 0: its calls follow no cycle"), ranks()) << r.text;
  EXPECT_NE(r.text.find("Set SLIM_CYCLE"), std::string::npos);
  EXPECT_EQ(Starts(r, 4), 3 * ranks()) << r.text;
}

// One rank's buffers change places: only that rank sees it. Nobody waits, and no error goes to another tensor.
TEST_P(NcclPreload, AnAddressDiffersOnOneRank) {
  const std::string step =
      "fill abgh constant 1; fill g zero 1; fill h constant 1048576; allreduce abgh = * sum;"
      "check t abgh; end;";
  for (const char* as : {"threads", "processes"}) {
    const Result r =
        Play({kFeedback, "", as}, ranks(),
             "init 0; buffers abgh 300 f32; loop 25;" + step + "@1 swap g h; loop 40;" + step + "destroy 0");
    ExpectNoAliasing(r, "abgh");
    if (ranks() == 1) continue;
    EXPECT_EQ(Breaks(r), ranks()) << r.text;
    EXPECT_EQ(Starts(r, 4), 2 * ranks()) << r.text;
  }
}

// The mean over steps of what was sent of a constant gradient comes to it, as 1/steps; and not without a memory.
TEST_P(NcclPreload, FeedbackWorks) {
  const std::string script =
      "init 0; buffers ab 500 f32; loop 50; fill ab constant 1; allreduce ab = * avg; check t ab;"
      "end; destroy 0";
  const Result given = Play({"SLIM_COMPRESS='ef(onebit)' SLIM_CYCLE=2"}, ranks(), script);
  ASSERT_EQ(given.status, 0) << given.text;
  const Result marked = Play({"SLIM_COMPRESS='ef(onebit)'", "", "processes"}, ranks(),
                             "init 0; buffers ab 500 f32; loop 50; step; fill ab constant 1; allreduce ab = * avg;"
                             "check t ab; end; destroy 0");
  ASSERT_EQ(marked.status, 0) << marked.text;
  const Result unknown = Play({"SLIM_COMPRESS='ef(onebit)' SLIM_STATS=1"}, ranks(),
                              "init 0; buffers ab 500 f32; loop 30; fill ab constant 1; allreduce ab = * avg;"
                              "check t ab; end; destroy 0");
  EXPECT_LT(unknown["ta.worst"], 1e-6) << "a biased codec without memory";
  if (ranks() == 1) return;
  EXPECT_EQ(Count(unknown.text, Untouched(60 * ranks(), "its codec is biased, and the cycle is not known yet")), 1)
      << unknown.text;
  for (const Result* r : {&given, &marked}) {
    EXPECT_GT((*r)["ta.worst"], 0.3);
    EXPECT_LT((*r)["ta.mean"], (*r)["ta.worst"] / 8);
    EXPECT_EQ((*r)["ta.differ"], 0);
  }
}

// Buffers move every step (FSDP): a cycle is found only where the program, or its user, says so.
TEST_P(NcclPreload, MovingBuffers) {
  const std::string script =
      "init 0; loop 40; buffers abc 301 f32; fill abc constant 1; allreduce abc = * sum;"
      "check t abc; end; destroy 0";
  const Result lost = Play({kFeedback}, ranks(), script);
  ExpectCompressed(lost, ranks(), "abc", kBound4);
  EXPECT_EQ(Starts(lost, 3), 0);
  const Result given = Play({kFeedback + std::string(" SLIM_CYCLE=3 SLIM_STATS=s.json")}, ranks(), script);
  ExpectCompressed(given, ranks(), "abc", kBound4);
  if (ranks() == 1) return;
  EXPECT_LT(given["ta.mean"], lost["ta.mean"] / 2);
  EXPECT_EQ(Breaks(given), 0);
  EXPECT_EQ(Count(given.text, "\"cycle\": 3"), ranks()) << given.text;
}

// ---- Creation -----------------------------------------------------------------------------------------------------

const char kOneCall[] = "init 0; buffers a 1000 f32; fill a random 1; allreduce a = * sum; check t a; destroy 0";

TEST(NcclPreloadCreation, SettingsDiffer) {
  const Result r = Play({"SLIM_COMPRESS='qsgd(bits=4)'", "", "processes", "--env 1 SLIM_COMPRESS=onebit"}, 3, kOneCall);
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_EQ(r["ta.off"], 0);
  EXPECT_EQ(Count(r.text, "ranks disagree about the rules and SLIM_* settings: rank 1 has"), 3) << r.text;
}

TEST(NcclPreloadCreation, AMistakeOnOneRank) {
  for (const char* wrong : {"'SLIM_COMPRESS=qsgd(bit=4)'", "SLIM_MIN_BYTES=lots"}) {
    const Result r =
        Play({"SLIM_COMPRESS='qsgd(bits=4)'", "", "processes", std::string("--env 2 ") + wrong}, 3, kOneCall);
    ASSERT_EQ(r.status, 0) << r.text;
    EXPECT_EQ(r["ta.off"], 0);
    EXPECT_EQ(Count(r.text, "SlimCCL is off"), 1) << r.text;
    EXPECT_EQ(Count(r.text, "rank 2 has"), 3) << r.text;
  }
}

TEST(NcclPreloadCreation, WithoutALauncherOnlyInitAll) {
  const Result all = Play({"SLIM_COMPRESS='qsgd(bits=4)' WORLD_SIZE=", "", "one"}, 4, kOneCall);
  EXPECT_GT(all["ta.off"], 0.01);
  const Result threads = Play({"SLIM_COMPRESS='qsgd(bits=4)' WORLD_SIZE="}, 4, kOneCall);
  EXPECT_EQ(threads["ta.off"], 0);
  EXPECT_EQ(Count(threads.text, "neither WORLD_SIZE nor a launcher says how many ranks"), 1) << threads.text;
}

TEST(NcclPreloadCreation, ADriverThatIsTooOld) {
  const Result r = Play({"SLIM_COMPRESS='qsgd(bits=4)' SIMGPU_VERSION=11080"}, 3,
                        "init 0; init 1; buffers ab 1000 f32; fill ab random 1; allreduce ab = * sum; check t ab");
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_EQ(r["ta.off"], 0);
  EXPECT_EQ(Count(r.text, "WARN"), 1) << r.text;
  EXPECT_EQ(Count(r.text, "all calls stay plain: the CUDA driver is too old: found CUDA 11.8"), 1) << r.text;
}

// Where NVLink joins all ranks NCCL is the faster one: plain, unless asked for.
TEST(NcclPreloadCreation, WithinNvlink) {
  const std::string linked = "SLIM_COMPRESS='qsgd(bits=4)' SLIM_DEBUG=INFO SIMGPU_NVLINK=1 ";
  const Result plain = Play({linked}, 3, kOneCall), flat = Play({linked + "SLIM_HIERARCHY=flat"}, 3, kOneCall);
  ASSERT_EQ(plain.status, 0) << plain.text;
  EXPECT_EQ(plain["ta.off"], 0);
  EXPECT_EQ(Count(plain.text, "NVLink joins all its ranks"), 3) << plain.text;
  ASSERT_EQ(flat.status, 0) << flat.text;
  EXPECT_GT(flat["ta.off"], 0.01);
  EXPECT_LE(flat["ta.off"], kBound4);
}

// Pairs of ranks are domains: by NVLink between pairs of devices, or by hosts, in each of which NVLink joins
// all.
TEST_P(NcclPreload, DomainsSumInsideAndCompressAcross) {
  std::string hosts;
  for (int r = 0; r < ranks(); r++)
    hosts += " --env " + std::to_string(r) + " NCCL_HOSTID=host" + std::to_string(r / 2);
  const std::string environment = "SLIM_DEBUG=INFO SLIM_CYCLE=4 SLIM_STATS=1 SLIM_COMPRESS=";
  const Way pairs = {environment + "'ef(qsgd(bits=4))' SIMGPU_NVLINK=2"};
  Way one = pairs, processes = pairs;
  one.as = "one";
  processes = {environment + "'ef(qsgd(bits=4))' SIMGPU_NVLINK=1", "", "processes", hosts};
  // e: more than the shards; f: no shards.
  const std::string script =
      "init 0; buffers am 1502 f32; buffers bn 1503 f16; buffers co 1504 bf16; buffers dp 1505 f64;"
      "buffers e 60001 f32; buffers f 97 f32;";
  for (const char* op : {"sum", "avg", "half"}) {
    SCOPED_TRACE(op);
    const std::string calls = "loop 12; fill abcdef constant 1; allreduce mo ac * " + std::string(op) +
                              "; check t mo; allreduce ef = * " + op + "; check t ef; end; destroy 0";
    const std::string all =
        "loop 3; fill abcd random 1; allreduce mnop abcd * " + std::string(op) + "; check t mnop; end; destroy 0";
    for (const Way& way : {pairs, one, processes}) {
      SCOPED_TRACE(way.as);
      const Result r = Play(way, ranks(), script + calls), types = Play(way, ranks(), script + all);
      ASSERT_EQ(r.status, 0) << r.text;
      ASSERT_EQ(types.status, 0) << types.text;
      for (const char* label : {"tm", "to", "te", "tf"}) {
        EXPECT_LE(r[label + std::string(".off")], kBound4 + 1. / 128) << label;
        EXPECT_EQ(r[label + std::string(".differ")], 0) << label;
      }
      for (const char* label : {"tm", "tn", "to", "tp"}) {
        EXPECT_LE(types[label + std::string(".off")], kBound4 + 1. / 128) << label;
        EXPECT_EQ(types[label + std::string(".differ")], 0) << label;
      }
      const int layered = Count(r.text, "allreduce is plain in each of " + std::to_string(ranks() / 2) +
                                            " domains of 2 ranks, compressed across");
      EXPECT_EQ(layered, ranks() == 4 || ranks() == 8 ? ranks() : 0) << r.text;
      EXPECT_EQ(Count(r.text, "NVLink joins all its ranks"), ranks() == 2 ? 2 : 0) << r.text;
      EXPECT_EQ(Count(r.text, "its NVLink domains have different sizes"), ranks() == 3 ? 3 : 0) << r.text;
      if (ranks() < 3) continue;
      // What was held back is sent later: the mean of the calls is better than each.
      EXPECT_GT(r["tm.worst"], 0.01);
      EXPECT_LT(r["tm.mean"], r["tm.worst"] / 3);
      EXPECT_LT(r["te.mean"], r["te.worst"] / 3);
    }
  }
}

// Without loss it is the sum; and then whatever domains there are.
TEST_P(NcclPreload, DomainsByName) {
  for (const int count : {1, 2, 3, 4}) {
    SCOPED_TRACE(count);
    std::string names;
    for (int r = 0; r < ranks(); r++)
      names += " --env " + std::to_string(r) + " SLIM_DOMAIN=d" + std::to_string(r % count);
    const Result r = Play({"SLIM_COMPRESS=fp32 SLIM_DEBUG=INFO", "", "processes", names}, ranks(),
                          "init 0; buffers am 1000 f32; buffers bn 1001 f64; buffers c 1003 f32; buffers d 3 f32;"
                          "loop 3; fill abcd random 1; allreduce mn ab * sum; check t mn; allreduce cd = * avg;"
                          "check t cd; end; destroy 0");
    ASSERT_EQ(r.status, 0) << r.text;
    for (const char* label : {"tm", "tn", "tc", "td"}) {
      EXPECT_LE(r[label + std::string(".off")], 1e-6) << label;
      EXPECT_EQ(r[label + std::string(".differ")], 0) << label;
    }
    const bool layered = count > 1 && ranks() % count == 0 && ranks() > count;
    EXPECT_EQ(Count(r.text, "compressed across"), layered ? ranks() : 0) << r.text;
  }
}

// A graph, and eager calls of the same communicator beside it.
void graphBesideCalls(const Way& way, int ranks) {
  const Result r = Play(way, ranks,
                        "init 0; buffers abcd 600 f32; fill ab constant 1; capture; allreduce ca ab * sum;"
                        "allreduce d b * sum; end_capture; stream 1; buffers e 600 f32; loop 4; stream 0;"
                        "fill ab constant 1; replay; stream 1; fill e constant 1; allreduce e = * sum; check e e;"
                        "stream 0; check t cd; end");
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_LE(r["td.off"], kBound4);
  EXPECT_LE(r["ee.off"], kBound4);
  EXPECT_EQ(r["ee.differ"], 0);
  EXPECT_EQ(r["td.differ"], 0);
}
TEST(NcclPreloadCreation, DomainsUnderGraphs) {
  graphBesideCalls({"SLIM_COMPRESS='ef(qsgd(bits=4))' SIMGPU_NVLINK=2"}, 4);
}

// Rank 0 waits in its domain for rank 1, which waits for its watchdog: that ends the domain's work too.
TEST(NcclPreloadCreation, AbortReachesDomains) {
  Way way = {"SLIM_COMPRESS='ef(qsgd(bits=4))' SIMGPU_NVLINK=2 SLIM_TIMEOUT=600"};
  way.findings = true;  // a rank that misses another one
  const Result r =
      Play(way, 4,
           "init 0; buffers a 1000 f32; fill a constant 1; loop 5; allreduce a = * sum; sync; end; barrier;"
           "@0 aborts 0; @0 ?allreduce a = * sum; @0 ?sync; @1 pause 100; @1 ?abort 0; @2 ?abort 0;"
           "@3 ?abort 0; pause 50");
  EXPECT_EQ(r.status, 0) << r.text;
}

TEST(NcclPreloadCreation, NonBlockingStaysPlain) {
  const Result r =
      Play({"SLIM_COMPRESS='qsgd(bits=4)' SLIM_DEBUG=INFO"}, 3,
           "nonblocking 0; buffers a 1000 f32; fill a random 1; allreduce a = * sum; check t a; destroy 0");
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_EQ(r["ta.off"], 0);
  EXPECT_EQ(Count(r.text, "not blocking stays plain"), 3);
}

// A profiler of NVTX sees what a preloaded program's calls do.
TEST(NcclPreloadReport, Ranges) {
  char cwd[4096];
  const std::string recorder = getcwd(cwd, sizeof cwd) + std::string("/tests/ranges/librecorder.so");
  const Result r = Play({"SLIM_COMPRESS='qsgd(bits=4)' NVTX_INJECTION64_PATH=" + recorder, "", "one"}, 3,
                        "init 0; buffers a 100000 f32; fill a random 1; allreduce a = * sum; check t a; @0 ranges;"
                        "destroy 0");
  ASSERT_EQ(r.status, 0) << r.text;
  for (const char* name : {"encode", "exchange", "reduce", "decode"})
    EXPECT_GE(r[name + std::string(".ranges")], 3) << r.text;
}

// What a program forks has its parent's numbers, and does not report them again.
TEST(NcclPreloadReport, NotByChildren) {
  const Result r =
      Play({"SLIM_COMPRESS='qsgd(bits=4)' SLIM_STATS=1", "", "processes"}, 2,
           "init 0; buffers a 1000 f32; fill a random 1; allreduce a = * sum; check t a; child; destroy 0");
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_EQ(Count(r.text, "SlimCCL statistics"), 1) << r.text;
}

// Handles' addresses come back, and so does the memory.
TEST(NcclPreloadCreation, ManyOneAfterTheOther) {
  for (const char* as : {"threads", "one"}) {
    const Result r =
        Play({"SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_CYCLE=1", "", as}, 3,
             "buffers a 1000 f32; init 0; destroy 0; init 0; used before; destroy 0; loop 20; init 0;"
             "fill a random 1; allreduce a = * sum; check t a; destroy 0; end; init 0; used after; destroy 0");
    ASSERT_EQ(r.status, 0) << r.text;
    EXPECT_GT(r["ta.last"], 0.01);
    EXPECT_LE(r["ta.off"], kBound4);
    EXPECT_LE(r["after.peak"], r["before.peak"]);
  }
}

// Rank 0 makes calls that rank 1 does not, until it has to wait; then its watchdog ends the communicator.
TEST(NcclPreloadCreation, AbortByAnotherThread) {
  Way way = {"SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_TIMEOUT=600"};
  way.findings = true;  // a rank that misses another one
  const Result r =
      Play(way, 2,
           "init 0; buffers a 1000 f32; fill a constant 1; loop 5; allreduce a = * sum; sync; end; barrier;"
           "@0 aborts 0; loop 90; @0 ?allreduce a = * sum; end; @1 pause 200; @1 ?abort 0; pause 50");
  EXPECT_EQ(r.status, 0) << r.text;
  EXPECT_NE(r.text.find("the communicator was destroyed or aborted during a call"), std::string::npos) << r.text;
}

// Two communicators of the same ranks in one group, each on a stream of its own; on another rank in another order.
TEST(NcclPreloadCreation, SeveralInAGroup) {
  const std::string first = "on 0; stream 0; allreduce ab = * sum;", second = "on 1; stream 1; allreduce cd = * sum;";
  const auto only = [](int rank, std::string commands) {
    const std::string prefix = "@" + std::to_string(rank) + " ";
    for (size_t at = 0; at < commands.size(); at = commands.find(';', at) + 1) commands.insert(at, prefix);
    return commands;
  };
  const std::string begin = "init 0; init 1; buffers abcd 500 f32; loop 60; fill abcd constant 1; group;",
                    end = "end_group; stream 0; check t ab; stream 1; check t cd; end; destroy 0; destroy 1";
  const std::string script = begin + only(0, first + second) + only(1, second + first) + only(2, first + second) + end;
  const Result r = Play({"SLIM_COMPRESS='qsgd(bits=4)'"}, 3, script), memory = Play({kFeedback}, 3, script);
  ExpectCompressed(r, 3, "abcd", kBound4);
  ExpectCompressed(memory, 3, "abcd", kBound4);
  EXPECT_EQ(Starts(memory, 2), 6) << memory.text;
}

// ---- Room ---------------------------------------------------------------------------------------------------------

// Rank 1's device is nearly full when the communicator is made: all ranks take as little as it can, or stay plain.
TEST(NcclPreloadRoom, ARankIsShortOfMemory) {
  for (const char* as : {"threads", "processes", "one"})
    for (const char* left : {"65536", "300"}) {
      const Result r = Play({"SLIM_COMPRESS='qsgd(bits=8)' SLIM_STATE_BYTES=1G SLIM_DEBUG=INFO", "", as}, 3,
                            std::string("buffers a 60000 f32; @1 hog ") + left +
                                "; init 0; loop 2; fill a random 1; allreduce a = * sum; check t a; end; destroy 0");
      ASSERT_EQ(r.status, 0) << r.text;
      EXPECT_LE(r["ta.off"], kBound8);
      EXPECT_EQ(r["ta.differ"], 0);
      EXPECT_EQ(r["ta.off"] > 0, std::string(left) != "300") << r.text;
      EXPECT_EQ(Count(r.text, "bytes of each device"), 3) << r.text;
    }
}

TEST_P(NcclPreload, StateThatDoesNotFit) {
  const std::string script =
      "init 0; buffers ab 40000 f32; loop 3; fill ab random 1; allreduce ab = * sum; check t ab;"
      "end; destroy 0";
  const Result r = Play({"SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_CYCLE=2 SLIM_STATE_BYTES=300K"}, ranks(), script);
  const Result biased = Play({"SLIM_COMPRESS='ef(onebit)' SLIM_CYCLE=2 SLIM_STATE_BYTES=64K"}, ranks(), script);
  ASSERT_EQ(r.status, 0) << r.text;
  ASSERT_EQ(biased.status, 0) << biased.text;
  EXPECT_LE(r["tb.off"], kBound4);
  EXPECT_EQ(r["tb.differ"], 0);
  EXPECT_EQ(biased["tb.off"], 0);
  if (ranks() == 1) return;
  EXPECT_EQ(Count(r.text, "Set a larger SLIM_STATE_BYTES"), ranks()) << r.text;
  EXPECT_EQ(Count(biased.text, "Set a larger SLIM_STATE_BYTES"), ranks()) << biased.text;
}

// The smallest SLIM_STATE_BYTES holds for all.
TEST(NcclPreloadRoom, OneRankHasLess) {
  const Result r =
      Play({"SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_CYCLE=2", "", "processes", "--env 1 SLIM_STATE_BYTES=800K"}, 3,
           "init 0; buffers ab 40000 f32; loop 3; fill ab random 1; allreduce ab = * sum; check t ab; end");
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_GT(r["tb.off"], 0.01);
  EXPECT_LE(r["tb.off"], kBound4);
  EXPECT_EQ(r["tb.differ"], 0);
  EXPECT_EQ(Count(r.text, "Set a larger SLIM_STATE_BYTES"), 3) << r.text;
}

// ---- Graphs -------------------------------------------------------------------------------------------------------

// The first call of all is captured; three replays; eager calls on another stream beside them.
TEST_P(NcclPreload, GraphsBesideEagerCalls) {
  for (const char* spec : {"qsgd(bits=4)", "ef(qsgd(bits=4))"})
    for (const char* as : {"threads", "processes", "one"}) {
      SCOPED_TRACE(spec);
      graphBesideCalls({std::string("SLIM_STATS=1 SLIM_COMPRESS='") + spec + "'", "", as}, ranks());
    }
}

// Each graph keeps room for itself: once it is used up, captured calls are plain, on all ranks alike.
TEST_P(NcclPreload, GraphsUntilTheRoomIsGone) {
  const Result r = Play({"SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_STATE_BYTES=3M"}, ranks(),
                        "init 0; buffers ab 40000 f32; fill ab random 1; capture; allreduce b a * sum; end_capture;"
                        "replay; check t b;"
                        "loop 40; capture; allreduce b a * sum; end_capture; replay; sync; end;"
                        "replay; check p b; destroy 0");
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_LE(r["tb.off"], kBound4);
  EXPECT_EQ(r["tb.differ"], 0);
  EXPECT_EQ(r["pb.off"], 0);
  if (ranks() == 1) return;
  EXPECT_GT(r["tb.off"], 0.01);
  EXPECT_EQ(Count(r.text, "Set a larger SLIM_STATE_BYTES"), ranks()) << r.text;
}

// Graphs that come and go, two at a time, beside an older one that stays; eager calls in between. They are far more
// than 3 MB have room for. graphs false: the same steps without. fresh: each has an output of its own.
std::string Recaptured(bool graphs, bool fresh) {
  const auto use = [](int graph) { return "graph " + std::to_string(graph) + ";"; };
  const auto make = [&](int graph, const std::string& call) {
    return graphs ? use(graph) + "capture;" + call + "end_capture;" : "";
  };
  const auto play = [&](int graph, const std::string& call, const std::string& check) {
    return (graphs ? use(graph) + "replay;" : call) + check;
  };
  const std::string old = "allreduce q p * sum;", one = "allreduce b a * sum;", two = "allreduce d a * sum;";
  std::string script =
      "init 0; buffers pq 40001 f32; buffers abd 40000 f32; buffers e 40002 f32; fill pe random 1;"
      "allreduce e = * sum; check e e;" +
      make(0, old) + play(0, old, "check o q;") + "loop 10; fill ae random 1;";
  if (fresh) script += "buffers bd 40000 f32;";
  script += make(1, one) + make(2, two);
  for (int replay = 0; replay < 2; replay++) script += play(1, one, "check t b;") + play(2, two, "check t d;");
  if (graphs) script += use(1) + "drop;" + use(2) + "drop; dropped;";
  return script + play(0, old, "check o q;") + "allreduce e = * sum; check e e; end; destroy 0";
}

void ExpectTheSame(const Result& r, const Result& other) {
  ASSERT_EQ(r.status, 0) << r.text;
  ASSERT_EQ(other.status, 0) << other.text;
  for (const char* label : {"tb", "td", "oq", "ee"}) {
    EXPECT_EQ(r[label + std::string(".differ")], 0) << label;
    EXPECT_EQ(r.bits.at(label), other.bits.at(label)) << label;
  }
}

// What graphs have held is there again for others, on all ranks alike.
TEST_P(NcclPreload, GraphsThatComeAndGo) {
  const Result eager = Play({"", "", "threads", "", "ef(qsgd(bits=4))"}, ranks(), Recaptured(false, true));
  for (const std::string as : {"threads", "processes", "one"}) {
    SCOPED_TRACE(as);
    const Result r = Play({"SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_CYCLE=1 SLIM_STATE_BYTES=6M SLIM_STATS=1", "", as},
                          ranks(), Recaptured(true, true));
    ASSERT_EQ(r.status, 0) << r.text;
    if (ranks() == 1) continue;
    ExpectTheSame(r, eager);
    EXPECT_EQ(Count(r.text, "Set a larger SLIM_STATE_BYTES"), 0) << r.text;
    const int calls = (2 + 3 * 10) * (as == "processes" ? 1 : ranks()); /* a captured one counts once */
    EXPECT_EQ(Count(r.text, "compressed " + std::to_string(calls) + " calls"), 1) << r.text;
  }
}

TEST_P(NcclPreload, GraphsOfTheApiThatComeAndGo) {
  const Way way = {"", "", "threads", "", "ef(qsgd(bits=4))"};
  Way tight = way;
  tight.environment = "PLAY_BYTES=6000000";
  ExpectTheSame(Play(tight, ranks(), Recaptured(true, false)), Play(way, ranks(), Recaptured(false, false)));
}

TEST(NcclPreloadGraphs, ComeAndGoAcrossDomains) {
  const std::string way = "SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_CYCLE=1 SIMGPU_NVLINK=2 SLIM_STATE_BYTES=";
  const Result r = Play({way + "6M"}, 4, Recaptured(true, true)), roomy = Play({way + "1G"}, 4, Recaptured(true, true));
  ExpectTheSame(r, roomy);
  EXPECT_GT(r["tb.off"], 0.01);
}

// Each rank lets go of its graphs at another time, and the driver of what they held at yet another.
TEST_P(NcclPreload, RanksDropTheirGraphsApart) {
  const int last = ranks() - 1;
  const auto drop = [](int rank, int graph) {
    const std::string who = "@" + std::to_string(rank) + " ";
    return who + "graph " + std::to_string(graph) + ";" + who + "drop;";
  };
  std::string script = "init 0; buffers abcdef 20000 f32; loop 12; fill ae random 1;";
  for (const int graph : {0, 1, 2})
    script += "graph " + std::to_string(graph) + "; capture; allreduce " + "bcd"[graph] +
              " a * sum; end_capture; replay; check t " + "bcd"[graph] + ";" + drop(0, graph) + "allreduce f e * sum;";
  for (const int graph : {2, 0, 1})
    for (int r = 1; r <= last; r++) script += (r == last ? "allreduce f e * sum;" : "") + drop(r, graph);
  script +=
      "check f f; end; dropped; loop 16; allreduce f e * sum; end; capture; allreduce b a * sum; end_capture; replay;"
      "check u b; destroy 0";
  for (const char* as : {"threads", "processes", "one"})
    for (const int seed : {1, 2}) {
      SCOPED_TRACE(as + std::to_string(seed));
      const std::string way = "SLIM_COMPRESS='qsgd(bits=4)' SLIM_STATE_BYTES=1600K SIMGPU_SEED=";
      const Result r = Play({way + std::to_string(seed), "", as}, ranks(), script);
      ASSERT_EQ(r.status, 0) << r.text;
      for (const char* label : {"tb", "tc", "td", "ff", "ub"}) {
        EXPECT_EQ(r[label + std::string(".differ")], 0) << label;
        EXPECT_LE(r[label + std::string(".off")], kBound4) << label;
      }
      if (ranks() == 1) continue;
      EXPECT_GT(r["tb.off"], 1e-5);
      EXPECT_GT(r["ub.off"], 1e-5) << "all graphs have ended, but there is no room";
    }
}

// A communicator's memory is free once its graphs are gone, too; the driver may tell of them after it.
TEST(NcclPreloadGraphs, DoNotKeepCommunicators) {
  const std::string graph = "capture; allreduce b a * sum; end_capture; replay; check t b; drop;";
  for (const char* as : {"threads", "one"}) {
    const Result r = Play({"SLIM_COMPRESS='ef(qsgd(bits=4))'", "", as}, 3,
                          "buffers ab 1000 f32; fill a random 1; init 0;" + graph + "dropped; destroy 0; init 0;" +
                              "used before; destroy 0; loop 20; init 0;" + graph +
                              "destroy 0; end; dropped; init 0; used after; destroy 0");
    ASSERT_EQ(r.status, 0) << r.text;
    EXPECT_GT(r["tb.off"], 0.01);
    EXPECT_LE(r["after.peak"], r["before.peak"]);
  }
}

// ---- Errors -------------------------------------------------------------------------------------------------------

TEST(NcclPreloadErrors, RanksThatMakeOtherCalls) {
  const Result r =
      Play({"SLIM_COMPRESS='qsgd(bits=4)'"}, 2,
           "init 0; buffers ab 1000 f32; buffers c 1000 f16; fill abc random 1; async 0; @0 allreduce a = *"
           " sum; @1 allreduce c = * sum; sync; barrier; async 0; ?allreduce b = * sum; sync; destroy 0");
  ASSERT_EQ(r.status, 0) << r.text;
  for (int rank = 0; rank < 2; rank++) {
    const std::string who = "rank " + std::to_string(rank) + ": ";
    EXPECT_EQ(Count(r.text, who + "async: no error"), 1) << r.text;
    EXPECT_EQ(Count(r.text, who + "async: internal error"), 1) << r.text;
    EXPECT_EQ(Count(r.text, who + "allreduce: internal error"), 1) << r.text;
    EXPECT_EQ(Count(r.text, "rank " + std::to_string(rank) + "'s message is not of the spec"), 1) << r.text;
  }
}

// ---- What it says -------------------------------------------------------------------------------------------------

TEST(NcclPreloadReport, Statistics) {
  const std::string script =
      "init 0; buffers a 50000 f32; loop 4; fill a random 1; allreduce a = * sum; end; sync; seal";
  const Result table = Play({"SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_CYCLE=1 SLIM_STATS=1"}, 4, script);
  ASSERT_EQ(table.status, 0) << "CUDA was called at the end: " << table.text;
  EXPECT_EQ(Count(table.text, "SlimCCL statistics, rank 0 of 4"), 1) << table.text;
  EXPECT_EQ(Count(table.text, "compressed 16 calls"), 1) << table.text;
  const Result json =
      Play({"SLIM_COMPRESS='ef(qsgd(bits=4))' SLIM_CYCLE=1 SLIM_STATS=s%p.json", "", "processes"}, 4, script);
  ASSERT_EQ(json.status, 0) << json.text;
  EXPECT_EQ(Count(json.text, "\"compressedCalls\": 4"), 4) << json.text;
  // 4 calls of 50000 floats: 2·3/4 of 4 bits each, and little more.
  const double ideal = 4 * 50000 * 1.5 / 2;
  const size_t at = json.text.rfind("\"wireBytes\": ");
  ASSERT_NE(at, std::string::npos);
  EXPECT_GT(std::stod(json.text.substr(at + 13)), ideal);
  EXPECT_LT(std::stod(json.text.substr(at + 13)), 1.1 * ideal);
  EXPECT_EQ(Count(json.text, "\"place\": 0"), 4);
  EXPECT_EQ(Count(json.text, "\"stateBytes\": 0,"), 0);
}

TEST(NcclPreloadReport, OnASignal) {
  const Result r = Play({"SLIM_COMPRESS='qsgd(bits=4)' SLIM_STATS=1"}, 2,
                        "init 0; buffers a 1000 f32; fill a random 1; allreduce a = * sum; sync; barrier; @0 signal;"
                        "barrier; allreduce a = * sum; sync; destroy 0");
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_EQ(Count(r.text, "SlimCCL statistics, rank 0 of 2"), 2) << r.text;
}

TEST(NcclPreloadReport, LogsAndVariables) {
  const Result r =
      Play({"SLIM_COMPRESS='qsgd(bits=4)' SLIM_DEBUG=INFO SLIM_DEBUG_FILE=%p.log SLIM_CYCEL=4"}, 2, kOneCall);
  ASSERT_EQ(r.status, 0) << r.text;
  EXPECT_EQ(Count(r.text, "SLIM_CYCEL is no variable of SlimCCL: did you mean SLIM_CYCLE?"), 1) << r.text;
  const size_t banner = r.text.find(" before NCCL 2.");
  ASSERT_NE(banner, std::string::npos) << r.text;
  EXPECT_GT(banner, r.text.find("ta.off")) << "not in the file";
  EXPECT_NE(r.text.find("libnccl.so.2", banner), std::string::npos);
  EXPECT_NE(r.text.find("SLIM_COMPRESS=qsgd(bits=4)", banner), std::string::npos);
}

// COLL is silent by default; what is not asked for is silent, but for warnings.
TEST(NcclPreloadReport, Subsystems) {
  const std::string environment = "SLIM_COMPRESS='qsgd(bits=4)' SLIM_DEBUG=INFO SLIM_CYCEL=4 SLIM_DEBUG_SUBSYS=";
  const Result usual = Play({environment}, 2, kOneCall), calls = Play({environment + "COLL"}, 2, kOneCall),
               none = Play({environment + "^ALL"}, 2, kOneCall);
  for (const Result* r : {&usual, &calls, &none}) {
    ASSERT_EQ(r->status, 0) << r->text;
    EXPECT_EQ(Count(r->text, "SLIM_CYCEL is no variable"), 1) << r->text;
    EXPECT_EQ(Count(r->text, " before NCCL 2."), r == &usual ? 1 : 0) << r->text;
    EXPECT_EQ(Count(r->text, "allreduce of 1000 fp32, slot 0: up=qsgd(bits=4); down=qsgd(bits=4)"), r == &calls ? 2 : 0)
        << r->text;
  }
}

TEST(NcclPreloadReport, Off) {
  for (const char* environment : {"SLIM_COMPRESS='qsgd(bits=4)' SLIM_DISABLE=1", "", "SLIM_COMPRESS='qsgd(bit=4)'"}) {
    const Result r = Play({environment}, 3, kOneCall);
    ASSERT_EQ(r.status, 0) << r.text;
    EXPECT_EQ(r["ta.off"], 0) << environment;
  }
}

}  // namespace
