// auto(spec): decisions from lines, and what a channel does with what it measures. The plain sum of these tests takes
// as long as they say, so that it is clear which way must win.
#include <gtest/gtest.h>
#include <time.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <regex>
#include <thread>
#include <vector>

#include "collectives/plan.h"
#include "plugin/preload/channel.h"
#include "plugin/preload/log.h"

namespace {

// ---- Lines --------------------------------------------------------------------------------------------------------

constexpr slimAutoLine kNone = {false, 0, 0};

slimAutoModel Model(slimAutoLine plain, slimAutoLine twoShot, slimAutoLine oneShot, slimAutoLine linear = kNone) {
  slimAutoModel m = {};
  m.line[slimAutoPlain] = plain;
  m.line[slimAlgorithmTwoShot] = twoShot;
  m.line[slimAlgorithmOneShot] = oneShot;
  m.line[slimAlgorithmLinear] = linear;
  return m;
}

std::string Describe(const slimAutoModel& m) {
  char text[512];
  slimAutoDescribe(&m, text, sizeof text);
  return text;
}

// By hand: .95 (1 + 8 b) = 2 + 2 b at b = .1875 MB, and 2 + 2 b = 3 + b at 1 MB.
TEST(Auto, ChoosesByTheLines) {
  const slimAutoModel m = Model({true, 1e-3, 8e-9}, {true, 3e-3, 1e-9}, {true, 2e-3, 2e-9});
  EXPECT_EQ(slimAutoChoose(&m, slimFloat32, 100), slimAutoPlain);
  EXPECT_EQ(slimAutoChoose(&m, slimFloat32, 46800), slimAutoPlain);
  EXPECT_EQ(slimAutoChoose(&m, slimFloat32, 46900), slimAlgorithmOneShot);
  EXPECT_EQ(slimAutoChoose(&m, slimFloat32, 249900), slimAlgorithmOneShot);
  EXPECT_EQ(slimAutoChoose(&m, slimFloat32, 250100), slimAlgorithmTwoShot);
  EXPECT_EQ(slimAutoChoose(&m, slimFloat32, UINT64_C(1) << 40), slimAlgorithmTwoShot);
  EXPECT_EQ(Describe(m),
            "plain 1.000 ms + 8.000 ms/MB, two-shot 3.000 ms + 1.000 ms/MB, one-shot 2.000 ms + 2.000 ms/MB: plain, "
            "one-shot from 183.1 KiB, two-shot from 976.6 KiB");
  // Plain time goes by bytes: .95 + 15.2 e = 2 + 8 e at .1458 million elements; .95 + 60.8 e = 2 + 8 e at .01989.
  EXPECT_EQ(slimAutoChoose(&m, slimFloat16, 145000), slimAutoPlain);
  EXPECT_EQ(slimAutoChoose(&m, slimBfloat16, 146500), slimAlgorithmOneShot);
  EXPECT_EQ(slimAutoChoose(&m, slimFloat64, 19800), slimAutoPlain);
  EXPECT_EQ(slimAutoChoose(&m, slimFloat64, 20000), slimAlgorithmOneShot);
}

TEST(Auto, WhatIsNotPossibleIsNotChosen) {
  const slimAutoLine slow = {true, 1, 1}, fast = {true, 0, 0};
  EXPECT_EQ(Describe(Model(slow, fast, kNone)),
            "plain 1000.000 ms + 1000000000.000 ms/MB, two-shot 0.000 ms + 0.000 ms/MB: two-shot");
  slimAutoModel m = Model(slow, kNone, fast);
  EXPECT_EQ(slimAutoChoose(&m, slimFloat32, 1000000), slimAlgorithmOneShot);
  m = Model(slow, kNone, kNone, fast);
  EXPECT_EQ(slimAutoChoose(&m, slimFloat32, 1000000), slimAlgorithmLinear);
  for (const slimAutoModel& n : {Model(slow, kNone, kNone), Model(kNone, fast, fast), slimAutoModel{}}) {
    EXPECT_EQ(slimAutoChoose(&n, slimFloat32, 1000000), slimAutoPlain);
    EXPECT_EQ(slimAutoChange(&n, slimFloat32, 0), UINT64_MAX);
  }
  // 5% are left to plain.
  const slimAutoLine line = {true, 0, 1e-9}, four = {true, 0, .96e-9}, six = {true, 0, .94e-9};
  m = Model(line, four, kNone);
  EXPECT_EQ(slimAutoChoose(&m, slimFloat32, 1000000), slimAutoPlain);
  m = Model(line, six, kNone);
  EXPECT_EQ(slimAutoChoose(&m, slimFloat32, 1000000), slimAlgorithmTwoShot);
  // A start of nothing is what a line through two larger sizes says, not what was timed.
  m = Model({true, 1e-5, 1e-9}, kNone, {true, 0, 8e-9});
  EXPECT_EQ(slimAutoChoose(&m, slimFloat32, 10), slimAutoPlain);
}

// The table of a random model says of every size what is chosen for it, and that is the fastest.
TEST(Auto, TheTableIsWhatIsChosen) {
  constexpr unsigned kSeed = 20241122;
  SCOPED_TRACE(kSeed);
  std::mt19937 random(kSeed);
  std::uniform_real_distribution<double> power(-1, 1);
  for (int trial = 0; trial < 300; trial++) {
    slimAutoModel m = {};
    for (auto& line : m.line)
      line = {trial % 3 > 0 || random() % 3 > 0, 1e-3 * std::pow(10, power(random)),
              1e-8 * std::pow(10, power(random))};
    m.line[slimAutoPlain].possible = true;
    int changes = 0;
    for (uint64_t from = 0, to; from < UINT64_MAX; from = to, changes++) {
      const int way = slimAutoChoose(&m, slimFloat32, from);
      to = slimAutoChange(&m, slimFloat32, from);
      ASSERT_GT(to, from);
      ASSERT_TRUE(to == UINT64_MAX || slimAutoChoose(&m, slimFloat32, to) != way);
      const uint64_t last = to < UINT64_MAX ? to - 1 : from + (UINT64_C(1) << 40);
      for (uint64_t n : {from, from + (last - from) / 1000, from + (last - from) / 2, last}) {
        ASSERT_EQ(slimAutoChoose(&m, slimFloat32, n), way) << n;
        const auto time = [&](int w) {
          return (w == slimAutoPlain ? .95 : 1) * (m.line[w].start + m.line[w].perByte * 4 * static_cast<double>(n));
        };
        for (int other = 0; other < slimAutoWays && n >= slimAutoSmallest; other++)
          ASSERT_TRUE(!m.line[other].possible || time(way) <= time(other)) << n;
      }
    }
    ASSERT_LE(changes, slimAutoWays);
  }
}

// ---- Channels -----------------------------------------------------------------------------------------------------

// MPI's sum, as it were: takes a while a byte.
struct Plain {
  slimComm_t comm;
  double perByte;
  int calls = 0;
};
slimResult_t PlainSum(void* context, float* values, size_t n) {
  auto* p = static_cast<Plain*>(context);
  const double seconds = p->perByte * 4 * static_cast<double>(n);
  const timespec time = {static_cast<time_t>(seconds), static_cast<long>(1e9 * std::fmod(seconds, 1))};
  nanosleep(&time, nullptr);
  p->calls++;
  return slimAllReduce(values, values, n, slimFloat32, slimSum, nullptr, p->comm, nullptr);
}

float ValueOf(int rank, size_t i) { return static_cast<float>((i * 2654435761u + rank * 40503u) % 2001) / 1000 - 1; }

struct Outcome {
  slimResult_t result;
  bool plain;
  std::vector<float> values;
  uint64_t wireBytes;  // of all of this channel's calls so far
};

uint64_t WireBytesOf(const char* name) {
  struct Sum {
    std::string name;
    bool mine;
    uint64_t bytes;
  } sum = {name, false, 0};
  const slimVisitor visitor = {
      [](void* s, const slimChannelRow* row) { static_cast<Sum*>(s)->mine = static_cast<Sum*>(s)->name == row->name; },
      [](void* s, const slimChannelRow* row) {
        if (static_cast<Sum*>(s)->mine) static_cast<Sum*>(s)->bytes += row->stats.wireBytes;
      },
      [](void*, const slimTotals*, const uint64_t*) {}};
  slimChannelsVisit(&visitor, &sum);
  return sum.bytes;
}

class Job {
 public:
  Job(int ranks, const char* spec, double perByte, uint64_t cycle) : outcomes(ranks), ranks_(ranks) {
    char* none[] = {nullptr};
    EXPECT_EQ(slimEnvironmentRead(&environment_, none), slimSuccess);
    environment_.compress = spec;
    environment_.cycle = cycle;
    EXPECT_EQ(slimPolicyCreate(&policy_, &environment_), slimSuccess) << slimGetLastError();
    std::vector<slimComm_t> comms(ranks), copies(ranks);
    EXPECT_EQ(slimCommInitLocal(comms.data(), ranks, nullptr), slimSuccess);
    EXPECT_EQ(slimCommInitLocal(copies.data(), ranks, nullptr), slimSuccess);
    channels_.resize(ranks);
    for (int r = 0; r < ranks; r++) {
      plains.push_back(std::make_unique<Plain>(Plain{copies[r], perByte}));
      const std::string name = "rank" + std::to_string(r);
      EXPECT_EQ(slimChannelCreate(&channels_[r], comms[r], &environment_, 0, name.c_str(), PlainSum, plains[r].get()),
                slimSuccess);
    }
  }
  ~Job() {
    for (auto* c : channels_) slimChannelDestroy(c);
    for (auto& p : plains) slimCommDestroy(p->comm);
    slimPolicyDestroy(policy_);
  }

  // counts: of each rank; in place.
  void Sum(const std::vector<size_t>& counts) {
    std::vector<std::thread> threads;
    for (int r = 0; r < ranks_; r++)
      threads.emplace_back([&, r] {
        Outcome& o = outcomes[r];
        const size_t n = counts[r];
        o.values.resize(n);
        for (size_t i = 0; i < n; i++) o.values[i] = ValueOf(r, i);
        slimReason reason;
        slimChannelCall call = {};
        call.call = {slimCollectiveAllReduce, slimFloat32, slimSum, n * 4, ranks_, true, 0, ""};
        call.action = slimPolicyFind(policy_, &call.call, &reason);
        call.send = call.recv = o.values.data();
        call.count = n;
        o.result = slimChannelRun(channels_[r], &call, &o.plain, &reason);
        o.wireBytes = WireBytesOf(("rank" + std::to_string(r)).c_str());
      });
    for (auto& t : threads) t.join();
  }
  void Sum(size_t n) { Sum(std::vector<size_t>(ranks_, n)); }

  std::vector<Outcome> outcomes;
  std::vector<std::unique_ptr<Plain>> plains;

 private:
  int ranks_;
  slimEnvironment environment_;
  slimPolicy* policy_ = nullptr;
  std::vector<slimChannel*> channels_;
};

// What the table says of a size in KiB; empty where that is too near a change to tell.
std::string SaysOf(const std::string& table, double kib) {
  std::string way;
  const std::regex entry("(plain|two-shot|one-shot|linear)(?: from ([0-9.]+) KiB)?(?:, |$)");
  const std::string choices = table.substr(table.rfind(": ") + 2);
  for (std::sregex_iterator i(choices.begin(), choices.end(), entry), end; i != end; ++i) {
    const double from = (*i)[2].matched ? std::stod((*i)[2]) : 0;
    if (std::abs(from - kib) < 1) return "";
    if (from < kib) way = (*i)[1];
  }
  return way;
}

uint64_t PlannedBytes(const char* spec, int ranks, size_t n, slimAlgorithm algorithm) {
  slimCompressor* c;
  slimPlan plan;
  slimComm_t comm;  // one that shows the default settings
  EXPECT_EQ(slimCompressorCreate(&c, spec), slimSuccess);
  EXPECT_EQ(slimCommInitLocal(&comm, 1, nullptr), slimSuccess);
  slimSettings settings = comm->settings;
  settings.algorithm = algorithm;
  EXPECT_EQ(slimPlanAllReduce(&plan, c, &settings, comm->device, ranks, slimFloat32, n), slimSuccess);
  slimCommDestroy(comm);
  slimCompressorDestroy(c);
  return plan.sentBytes;
}

class AutoRanks : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, AutoRanks, testing::Values(2, 3, 4, 8));

// All ranks have the same table, do what it says, and get the same sums.
TEST_P(AutoRanks, DoWhatTheTableSays) {
  const int ranks = GetParam();
  const std::vector<size_t> sizes = {16384, 20000, 100000, 400000};
  for (const char* spec : {"qsgd(bits=8)", "ef(qsgd(bits=8))"}) {
    SCOPED_TRACE(spec);
    testing::internal::CaptureStderr();
    slimLogOpen(slimLogInfo, slimLogTuning, "");
    Job job(ranks, ("auto(" + std::string(spec) + ")").c_str(), 2e-7, sizes.size());
    std::vector<std::pair<size_t, uint64_t>> sent;  // of a call, by the rank that sends most
    for (int step = 0; step < 2; step++)
      for (size_t n : sizes) {
        uint64_t most = 0;
        const std::vector<Outcome> before = job.outcomes;
        job.Sum(n);
        for (int r = 0; r < ranks; r++) {
          const Outcome& o = job.outcomes[r];
          ASSERT_EQ(o.result, slimSuccess) << slimGetLastError();
          EXPECT_FALSE(o.plain) << n << ": plain takes 200 ms/MB";
          EXPECT_EQ(o.values, job.outcomes[0].values);
          most = std::max(most, o.wireBytes - before[r].wireBytes);
        }
        double worst = 0;
        for (size_t i = 0; i < n; i++) {
          double sum = 0;
          for (int r = 0; r < ranks; r++) sum += ValueOf(r, i);
          worst = std::max(worst, std::abs(job.outcomes[0].values[i] - sum) / ranks);
        }
        EXPECT_LE(worst, 2. / 127 + 1. / (127 * 127) + 1e-6);
        EXPECT_GT(worst, 1e-4);
        sent.push_back({n, most});
      }
    slimLogOpen(slimLogWarn, slimLogAll, "");
    std::istringstream log(testing::internal::GetCapturedStderr());
    std::string line, table;
    int tables = 0;
    while (std::getline(log, line)) {
      const size_t at = line.find(": auto(up=qsgd(bits=8)): plain ");
      if (at == std::string::npos) continue;
      if (!tables++) table = line.substr(at);
      EXPECT_EQ(line.substr(at), table);
    }
    EXPECT_EQ(tables, ranks);
    for (const auto& [n, bytes] : sent) {
      const std::string way = SaysOf(table, static_cast<double>(n) * 4 / 1024);
      if (way.empty()) continue;
      EXPECT_EQ(bytes, PlannedBytes(spec, ranks, n, way == "one-shot" ? slimAlgorithmOneShot : slimAlgorithmTwoShot))
          << n << " by " << way << " as " << table;
    }
  }
}

// Plain takes no longer than it must. Whatever is chosen, all choose it, and what a call leaves to its caller is as it
// was.
TEST_P(AutoRanks, ChooseAlike) {
  Job job(GetParam(), "auto(ef(tnqsgd(bits=3)))", 0, 0);
  for (size_t n : {20000, 50000}) {
    job.Sum(n);
    for (int r = 0; r < GetParam(); r++) {
      const Outcome& o = job.outcomes[r];
      ASSERT_EQ(o.result, slimSuccess);
      EXPECT_EQ(o.plain, job.outcomes[0].plain);
      if (!o.plain) continue;
      for (size_t i = 0; i < n; i++) ASSERT_EQ(o.values[i], ValueOf(r, i));
    }
  }
  for (const auto& p : job.plains) EXPECT_EQ(p->calls, job.plains[0]->calls); /* two sizes, measured once */
}

// Ranks that make different calls are told so, and their data is as it was.
TEST_P(AutoRanks, DifferentCallsChangeNothing) {
  Job job(GetParam(), "auto(qsgd(bits=8))", 2e-7, 0);
  job.Sum(40000);
  std::vector<size_t> counts(GetParam(), 40000);
  counts.back() = 50000;
  job.Sum(counts);
  for (int r = 0; r < GetParam(); r++) {
    const Outcome& o = job.outcomes[r];
    EXPECT_EQ(o.result, slimSuccess);
    EXPECT_TRUE(o.plain);
    for (size_t i = 0; i < counts[r]; i++) ASSERT_EQ(o.values[i], ValueOf(r, i));
  }
  job.Sum(40000);
  for (const Outcome& o : job.outcomes) EXPECT_FALSE(o.plain);
}

}  // namespace
