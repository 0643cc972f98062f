// The rules file and the SLIM_* variables: what is understood, what is refused and in which words.
#include "plugin/preload/log.h"
#include "plugin/preload/policy.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "plugin/preload/environment.h"

namespace {

class Environment {
 public:
  explicit Environment(std::vector<std::string> variables) : variables_(std::move(variables)) {
    for (auto& v : variables_) list_.push_back(v.data());
    list_.push_back(nullptr);
  }
  slimResult_t Read() { return slimEnvironmentRead(&values, list_.data()); }
  char* const* list() const { return list_.data(); }
  slimEnvironment values = {};

 private:
  std::vector<std::string> variables_;
  std::vector<char*> list_;
};

class Policy {
 public:
  Policy(const std::string& rules, const std::string& compress) {
    path_ = testing::TempDir() + "policy" + std::to_string(counter_++) + ".txt";
    std::ofstream(path_) << rules;
    std::vector<std::string> variables = {"SLIM_COMPRESS=" + compress};
    if (!rules.empty()) variables.push_back("SLIM_POLICY=" + path_);
    environment_ = std::make_unique<Environment>(variables);
    EXPECT_EQ(environment_->Read(), slimSuccess);
    result = slimPolicyCreate(&policy_, &environment_->values);
    if (result != slimSuccess) error = slimLastMessage();
    const size_t at = error.find(path_);
    if (at != std::string::npos) error.replace(at, path_.size(), "FILE");
  }
  ~Policy() { slimPolicyDestroy(policy_); }
  // The spec, or the reason in brackets.
  std::string Find(slimPolicyCall call) {
    slimReason reason;
    const slimPolicyAction* action = slimPolicyFind(policy_, &call, &reason);
    return action ? action->spec[slimSpecFull] : std::string("[") + slimReasonText(reason) + "]";
  }
  const slimPolicyAction* Action(slimPolicyCall call) {
    slimReason reason;
    return slimPolicyFind(policy_, &call, &reason);
  }
  slimPolicy* get() { return policy_; }
  slimResult_t result;
  std::string error;

 private:
  static int counter_;
  std::string path_;
  std::unique_ptr<Environment> environment_;
  slimPolicy* policy_ = nullptr;
};
int Policy::counter_ = 0;

slimPolicyCall Gradient(uint64_t bytes = 1 << 20) {
  return {slimCollectiveAllReduce, slimFloat32, slimSum, bytes, 4, true, 0, ""};
}
std::string Up(const std::string& spec) { return spec.substr(0, spec.find(';')); }

TEST(Policy, CompressMeansGradientsOnly) {
  Policy policy("", "ef(qsgd(bits=4))");
  ASSERT_EQ(policy.result, slimSuccess) << policy.error;
  EXPECT_EQ(Up(policy.Find(Gradient())), "up=ef(qsgd(bits=4))");
  slimPolicyCall call = Gradient();
  call.collective = slimCollectiveReduceScatter;
  EXPECT_EQ(Up(policy.Find(call)), "up=ef(qsgd(bits=4))");
  for (slimCollective weights : {slimCollectiveBroadcast, slimCollectiveAllGather, slimCollectiveReduce}) {
    call = Gradient();
    call.collective = weights;
    EXPECT_EQ(policy.Find(call), "[neither allreduce nor reduce-scatter, and no rule asks for it]");
  }
  call = Gradient();
  call.whole = false;
  EXPECT_EQ(policy.Find(call), "[not over all ranks of the job]");
  EXPECT_EQ(policy.Find(Gradient(1000)), "[smaller than SLIM_MIN_BYTES]");
  call = Gradient();
  call.type = slimInt32;
  EXPECT_EQ(policy.Find(call), "[not fp16, bf16, fp32 or fp64]");
  call = Gradient();
  call.op = slimMax;
  EXPECT_EQ(policy.Find(call), "[not a sum or average]");
  call = Gradient();
  call.ranks = 1;
  EXPECT_EQ(policy.Find(call), "[one rank]");
}

TEST(Policy, WhatTheSpecNeeds) {
  Policy biased("", "ef(topk(ratio=0.01))"), unbiased("", "diana(ternary)"), bare("", "qsgd(bits=8)");
  EXPECT_TRUE(biased.Action(Gradient())->memory);
  EXPECT_TRUE(biased.Action(Gradient())->biased);
  EXPECT_TRUE(unbiased.Action(Gradient())->memory);
  EXPECT_FALSE(unbiased.Action(Gradient())->biased);
  EXPECT_FALSE(bare.Action(Gradient())->memory);
  EXPECT_STREQ(unbiased.Action(Gradient())->spec[slimSpecStateless], "up=ternary");
  Policy both("", "up=diana(ternary); down=ef(qsgd(bits=8))");
  EXPECT_STREQ(both.Action(Gradient())->spec[slimSpecFull], "up=diana(ternary); down=ef(qsgd(bits=8))");
  EXPECT_STREQ(both.Action(Gradient())->spec[slimSpecStateless], "up=ternary; down=qsgd(bits=8)");
  EXPECT_STREQ(both.Action(Gradient())->spec[slimSpecOneWay], "up=diana(ternary)");
  EXPECT_STREQ(both.Action(Gradient())->spec[slimSpecOneWay | slimSpecStateless], "up=ternary");
}

TEST(Policy, AutoIsMeasured) {
  Policy automatic("", "auto(ef(qsgd(bits=4)))"), mistaken("bytes=1.. -> auto(ef(qsgd(bit=4)))\n", "");
  ASSERT_EQ(automatic.result, slimSuccess) << automatic.error;
  EXPECT_TRUE(automatic.Action(Gradient())->measured);
  EXPECT_STREQ(automatic.Action(Gradient())->spec[slimSpecStateless], "up=qsgd(bits=4)");
  EXPECT_FALSE(Policy("", "qsgd(bits=4)").Action(Gradient())->measured);
  EXPECT_EQ(mistaken.error.substr(0, 21), "FILE:1:27: bad spec: ") << mistaken.error;
}

TEST(Policy, TheFirstRuleThatMatchesWins) {
  Policy policy(
      "# weights of the tensor-parallel group\n"
      "name=tp* -> off\n"
      "\n"
      "collective=broadcast bytes=1M.. -> bf16   # the first weights\n"
      "type=float16,bfloat16 op=avg -> fp8\n"
      "ranks=8..64 bytes=..64K -> off\n"
      "  ranks=8.. -> ef(onebit)\n"
      "order=3 -> qsgd(bits=8)\n",
      "ef(qsgd(bits=4))");
  ASSERT_EQ(policy.result, slimSuccess) << policy.error;
  slimPolicyCall call = Gradient();
  call.name = "tp0";
  EXPECT_EQ(policy.Find(call), "[a rule says off]");
  call = Gradient();
  call.collective = slimCollectiveBroadcast;
  EXPECT_EQ(Up(policy.Find(call)), "up=bf16");
  call.bytes = 1 << 19;
  EXPECT_EQ(policy.Find(call), "[neither allreduce nor reduce-scatter, and no rule asks for it]");
  call = Gradient();
  call.type = slimBfloat16;
  call.op = slimAvg;
  EXPECT_EQ(Up(policy.Find(call)), "up=fp8");
  call = Gradient();
  call.ranks = 8;
  EXPECT_EQ(Up(policy.Find(call)), "up=ef(onebit)");
  call.bytes = 65536;
  EXPECT_EQ(policy.Find(call), "[a rule says off]");
  call = Gradient();
  call.order = 3;
  call.whole = false;
  EXPECT_EQ(Up(policy.Find(call)), "up=qsgd(bits=8)");
  EXPECT_EQ(Up(policy.Find(Gradient())), "up=ef(qsgd(bits=4))");
  EXPECT_TRUE(slimPolicyUsesOrder(policy.get()));
}

TEST(Policy, WithoutCompressOnlyTheFileCounts) {
  Policy policy("collective=allreduce -> qsgd(bits=4)\n", "");
  slimPolicyCall call = Gradient();
  call.collective = slimCollectiveReduceScatter;
  EXPECT_EQ(policy.Find(call), "[no rule matches]");
  EXPECT_EQ(policy.Find(Gradient(100)), "[smaller than SLIM_MIN_BYTES]");
  Policy sized("bytes=64.. -> qsgd(bits=4)\n", "");
  EXPECT_EQ(Up(sized.Find(Gradient(100))), "up=qsgd(bits=4)");
  EXPECT_FALSE(slimPolicyUsesOrder(sized.get()));
}

TEST(Policy, MistakesAreNamedWithTheirPlace) {
  const struct {
    const char *rules, *error;
  } cases[] = {
      {"type=float32 -> ef(qsgd(bit=4))\n", "FILE:1:25: bad spec: unknown option 'bit' of qsgd"},
      {"\n\nsize=4 -> off\n", "FILE:3:1: unknown key: the keys are collective, type, op, bytes, ranks, order and name"},
      {"type=float8 -> off\n", "FILE:1:6: unknown value: give one or more of float16 bfloat16 float32 float64"},
      {"collective=allreduce,scan -> off\n", "FILE:1:22: unknown value"},
      {"bytes=4.. type=float32\n", "FILE:1:23: no -> in this rule: it ends with -> spec or -> off"},
      {"bytes=x -> off\n", "FILE:1:7: not a range: give N, N.., ..N or N..M, e.g. 1M.."},
      {"bytes=9..3 -> off\n", "FILE:1:7: not a range"},
      {"type=float32 ->  # nothing\n", "FILE:1:18: no spec after ->"},
      {"float32 -> off\n", "FILE:1:1: a condition is key=value"},
      {"name= -> off\n", "FILE:1:6: name is empty"},
  };
  for (const auto& c : cases) {
    Policy policy(c.rules, "");
    EXPECT_EQ(policy.result, slimInvalidArgument) << c.rules;
    EXPECT_EQ(policy.error.substr(0, std::string(c.error).size()), c.error);
  }
  Policy policy("", "ef(top(k=1))");
  EXPECT_EQ(policy.error.substr(0, 22), "SLIM_COMPRESS: spec:1:") << policy.error;
}

TEST(Policy, TheHashTellsSettingsApart) {
  Policy a("", "ef(qsgd(bits=4))"), same("", "ef(qsgd(bits=4))"), other("", "ef(qsgd(bits=8))"),
      ruled("-> off\n", "ef(qsgd(bits=4))");
  EXPECT_EQ(slimPolicyHash(a.get()), slimPolicyHash(same.get()));
  EXPECT_NE(slimPolicyHash(a.get()), slimPolicyHash(other.get()));
  EXPECT_NE(slimPolicyHash(a.get()), slimPolicyHash(ruled.get()));
}

TEST(Environment, DefaultsAndValues) {
  Environment none({"PATH=/bin", "SLIM_COMPRESS="}), some({"SLIM_MIN_BYTES=2M", "SLIM_CYCLE=12", "SLIM_SEED=7",
                                                           "SLIM_TIMEOUT=2.5", "SLIM_DEBUG=info", "SLIM_DISABLE=1"});
  ASSERT_EQ(none.Read(), slimSuccess);
  EXPECT_STREQ(none.values.compress, "");
  EXPECT_EQ(none.values.minBytes, 65536u);
  EXPECT_EQ(none.values.seed, 1u);
  ASSERT_EQ(some.Read(), slimSuccess);
  EXPECT_EQ(some.values.minBytes, 2u << 20);
  EXPECT_EQ(some.values.cycle, 12u);
  EXPECT_EQ(some.values.seed, 7u);
  EXPECT_EQ(some.values.timeout, 2.5);
  EXPECT_EQ(some.values.debug, 2);
  EXPECT_TRUE(some.values.disable);
}

TEST(Environment, SubsystemsAreNamedOrExcluded) {
  const std::pair<const char*, int> cases[] = {{"", slimLogAll & ~slimLogColl},
                                               {"INIT", slimLogInit},
                                               {"coll,Cycle", slimLogColl | slimLogCycle},
                                               {"ALL", slimLogAll},
                                               {"^COLL,TUNING", slimLogInit | slimLogCycle},
                                               {"^ALL", 0}};
  for (const auto& c : cases) {
    Environment environment({std::string("SLIM_DEBUG_SUBSYS=") + c.first});
    ASSERT_EQ(environment.Read(), slimSuccess) << slimLastMessage();
    EXPECT_EQ(environment.values.debugSubsystems, c.second) << c.first;
  }
  for (const char* wrong : {"INI", "INITS", "COLL,", ",", "^", "COLL,^INIT"})
    EXPECT_EQ(slimLogSubsystemsOf(wrong), -1) << wrong;
}

TEST(Environment, MistakesAreNamed) {
  const struct {
    const char *variable, *error;
  } cases[] = {
      {"SLIM_MIN_BYTES=lots", "SLIM_MIN_BYTES is \"lots\": give bytes, e.g. 65536, 64K or 1M"},
      {"SLIM_MIN_BYTES=99999999999G", "SLIM_MIN_BYTES is \"99999999999G\": give bytes, e.g. 65536, 64K or 1M"},
      {"SLIM_CYCLE=-1", "SLIM_CYCLE is \"-1\": give an integer from 0"},
      {"SLIM_CYCLE=4097", "SLIM_CYCLE is \"4097\": give at most 4096"},
      {"SLIM_TIMEOUT=0", "SLIM_TIMEOUT is \"0\": give seconds, e.g. 600"},
      {"SLIM_DEBUG=loud", "SLIM_DEBUG is \"loud\": give NONE, WARN, INFO or TRACE"},
      {"SLIM_DEBUG_SUBSYS=INIT,NET",
       "SLIM_DEBUG_SUBSYS is \"INIT,NET\": give INIT, COLL, CYCLE, TUNING or ALL, with commas; or ^ and those that "
       "shall not be"},
      {"SLIM_DISABLE=yes", "SLIM_DISABLE is \"yes\": give 0 or 1"},
  };
  for (const auto& c : cases) {
    Environment environment({c.variable});
    EXPECT_EQ(environment.Read(), slimInvalidArgument);
    EXPECT_STREQ(slimLastMessage(), c.error);
  }
}

TEST(Environment, UnknownVariablesGetTheNearestName) {
  Environment environment({"SLIM_COMPRES=x", "SLIM_STATS=1", "SLIM_MINBYTES=1", "SLIM_CUDA=0", "OTHER=1"});
  char name[64];
  EXPECT_STREQ(slimEnvironmentUnknown(environment.list(), 0, name), "SLIM_COMPRESS");
  EXPECT_STREQ(name, "SLIM_COMPRES");
  EXPECT_STREQ(slimEnvironmentUnknown(environment.list(), 1, name), "SLIM_MIN_BYTES");
  EXPECT_EQ(slimEnvironmentUnknown(environment.list(), 2, name), nullptr);
}

}  // namespace
