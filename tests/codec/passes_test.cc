// encode, reduce and decode are equal to the scalar reference in every bit: every codec, selector, transform and
// feedback × sizes × inputs × types × instruction sets × threads, also when the caller flushes denormals.
#include <algorithm>

#include <gtest/gtest.h>

#include "tests/codec/harness.h"

namespace slim_test {
namespace {

using ref::Type;

struct Spec {
  const char *up, *down;
};

std::ostream& operator<<(std::ostream& out, const Spec& spec) { return out << spec.up << "; " << spec.down; }

const Spec kSpecs[] = {
    // Codecs, without and with a memory.
    {"none(fp32)", "none(fp32)"},
    {"none(fp16)", "none(fp16)"},
    {"ef(fp16)", "ef(bf16)"},
    {"none(bf16)", "none(bf16)"},
    {"none(fp8)", "none(fp8(format=e5m2))"},
    {"ef(fp8(format=e5m2,block=64))", "ef(fp8(format=e4m3,block=8192))"},
    {"none(sign)", "none(sign(scale=0.003))"},
    {"none(onebit)", "none(onebit(block=64))"},
    {"ef(onebit)", "ef(onebit)"},
    {"ef(onebit(block=8192))", "ef(onebit(block=128))"},
    {"none(onebit(dither,f=1.5))", "none(onebit(dither,f=2,block=64))"},
    {"none(onebit(dither,lambda=inf))", "none(onebit(dither,lambda=inf,block=1024))"},
    {"none(onebit(dither,lambda=0.5))", "none(onebit(dither,lambda=0.25,block=64))"},
    {"none(ternary(norm=inf))", "none(ternary(norm=2))"},
    {"ef(ternary(norm=inf,block=64))", "ef(ternary(norm=2,block=64))"},
    {"none(ternary(norm=2,block=8192))", "ef(ternary(norm=inf,block=8192))"},
    {"none(qsgd(bits=2))", "none(qsgd(bits=8))"},
    {"none(qsgd(bits=3))", "none(qsgd(bits=7,norm=2))"},
    {"none(qsgd(bits=4))", "none(qsgd(bits=6,rounding=nearest))"},
    {"none(qsgd(bits=5,block=64))", "none(qsgd(bits=5,block=2048))"},
    {"none(qsgd(bits=4,norm=2))", "none(qsgd(bits=2,rounding=nearest))"},
    {"none(qsgd(levels=1,norm=2))", "none(qsgd(levels=2,norm=inf))"},
    {"none(qsgd(levels=5))", "none(qsgd(levels=5,norm=2,rounding=nearest))"},
    {"none(qsgd(levels=127))", "none(qsgd(levels=256))"},
    {"none(qsgd(levels=256,norm=2))", "none(qsgd(levels=16,block=128))"},
    {"none(qsgd(levels=32767,block=64))", "none(qsgd(levels=9999,norm=2,block=64))"},
    {"ef(qsgd(bits=4))", "ef(qsgd(bits=4))"},
    {"ef(qsgd(bits=2,rounding=stochastic))", "ef(qsgd(bits=3,rounding=stochastic,norm=2))"},
    {"ef(qsgd(bits=8,norm=2,block=64))", "ef(qsgd(bits=8))"},
    {"none(natural)", "none(natural(block=64))"},
    {"ef(natural)", "ef(natural(block=4096))"},
    {"none(natural(bits=4))", "none(nuqsgd(bits=3,block=64))"},
    {"ef(natural(bits=8,block=64))", "ef(natural(bits=5,norm=2))"},
    {"diana(nuqsgd(bits=4))", "none(topk(ratio=0.1,block=256,natural(bits=3)))"},
    {"none(tnqsgd(bits=3))", "none(tqsgd(bits=4,block=64))"},
    {"ef(tqsgd(bits=2))", "ef(tnqsgd(bits=8,workers=4))"},
    {"none(topk(ratio=0.1,block=256,tnqsgd(bits=4)))", "ef(rotate(tqsgd(bits=5,workers=2)))"},
    {"none(tnqsgd(bits=5,block=64))", "ef(tnqsgd(bits=6))"},
    {"none(tnqsgd(bits=7))", "none(tqsgd(bits=8))"},
    {"none(tnqsgd(bits=3,model=powerlaw))", "ef(tnqsgd(bits=2,model=powerlaw,block=64))"},
    {"ef(tqsgd(bits=4,model=powerlaw,workers=8))", "none(tnqsgd(bits=8,model=powerlaw))"},
    {"none(tbqsgd(bits=3))", "ef(tbqsgd(bits=4,block=128,workers=2))"},
    {"none(tnqsgd(bits=3,stats=tensor))", "ef(tqsgd(bits=4,stats=tensor,block=64))"},
    {"none(tnqsgd(bits=3,stats=previous))", "none(tqsgd(bits=2,stats=previous,block=128))"},
    {"ef(tbqsgd(bits=3,stats=tensor,block=64))", "none(tnqsgd(bits=4,model=powerlaw,stats=tensor))"},
    {"ef(tnqsgd(bits=2,model=powerlaw,stats=previous,block=64))", "ef(tbqsgd(bits=5,stats=previous,block=64))"},
    {"none(topk(ratio=0.1,block=256,tbqsgd(bits=2)))", "none(rotate(tnqsgd(bits=5,model=powerlaw)))"},
    {"ef(topk(ratio=0.05,scope=chunk,tnqsgd(bits=6,model=powerlaw)))", "none(tbqsgd(bits=7))"},
    // Selectors.
    {"none(topk(ratio=0.01))", "none(topk(k=5,block=64))"},
    {"ef(topk(ratio=0.01))", "ef(topk(ratio=0.01))"},
    {"ef(topk(k=13,block=512,qsgd(bits=4)))", "ef(topk(ratio=0.1,block=256,qsgd(bits=8)))"},
    {"ef(topk(ratio=0.05,block=1024,onebit))", "ef(topk(k=130,block=8192,fp16))"},
    {"ef(topk(ratio=0.01,scope=chunk))", "ef(topk(ratio=0.02,scope=chunk,qsgd(bits=8,block=64)))"},
    {"ef(topk(k=7,scope=global))", "ef(topk(k=300,scope=chunk,bf16))"},
    {"none(randk(ratio=0.02))", "none(randk(ratio=0.02,scale=1,block=256))"},
    {"ef(randk(k=20,block=512))", "ef(randk(k=9,block=512,qsgd(bits=4)))"},
    {"none(randk(ratio=0.1,scale=unbiased,block=256,qsgd(bits=5)))", "none(randk(ratio=0.1,scope=chunk))"},
    {"none(randk(ratio=0.01,scope=chunk,fp16))", "none(randk(k=40,scope=global,scale=1))"},
    {"none(topk(k=0.5,block=64))", "none(randk(k=0.25,block=64,scale=unbiased))"},
    {"ef(topk(k=0.75,block=256,qsgd(bits=8)))", "ef(randk(k=0.5,block=64,seed=shared))"},
    {"ef(randk(k=0.3,block=512))", "none(topk(k=0.9,block=128,sign))"},
    {"ef(topk(k=0.5,scope=chunk))", "ef(randk(k=0.5,scope=chunk))"},
    {"none(randk(k=0.6,scope=global,natural))", "none(randk(k=0.5,scope=chunk,seed=shared,scale=unbiased))"},
    {"diana(induced(randk(k=0.5,block=64),qsgd(bits=4)))", "none(topk(k=0.4,scope=chunk,sign))"},
    // Transforms.
    {"none(rotate(onebit))", "none(rotate(onebit))"},
    {"ef(rotate(onebit))", "ef(rotate(onebit))"},
    {"ef(rotate(qsgd(bits=2)))", "ef(rotate(qsgd(bits=2)))"},
    {"none(rotate(qsgd(bits=2,block=64),block=64))", "none(rotate(qsgd(bits=4,block=64),block=8192))"},
    {"none(rotate(onebit(dither,f=1.5,block=512),block=4096))", "ef(rotate(onebit(block=256),block=1024,signs=fixed))"},
    {"ef(rotate(qsgd(bits=3,norm=2),block=1024,signs=fixed))", "none(rotate(natural,block=2048))"},
    {"none(rotate(ternary(norm=inf,block=128),block=128))", "none(rotate(fp8,block=512,signs=redrawn))"},
    {"ef(rotate(onebit(block=2048),block=64))", "none(rotate(qsgd(bits=3,block=512),block=128))"},
    {"none(rotate(onebit(dither,lambda=0.5)))", "ef(rotate(onebit(dither)))"},
    {"none(rotate(onebit(dither,lambda=shared)))", "none(rotate(onebit(dither,lambda=shared)))"},
    {"none(rotate(onebit(dither,f=2,lambda=shared,block=64),signs=fixed))",
     "none(rotate(onebit(dither,f=2,lambda=shared,block=64),signs=fixed))"},
    {"none(onebit(scale=unbiased))", "none(rotate(onebit(scale=unbiased,block=1024),block=128))"},
    {"none(rotate(onebit(dither,delta=0.01)))", "ef(rotate(onebit(dither,delta=0.5,block=64)))"},
    {"ef(onebit(dither,f=1.5))", "ef(onebit(dither,lambda=0.5))"},
    {"ef(onebit(dither,lambda=inf,block=64))", "ef21(onebit(dither,f=3,block=256))"},
    {"ef(randk(ratio=0.05,block=512,seed=shared))", "none(randk(ratio=0.05,block=512,seed=shared,scale=1))"},
    {"none(randk(k=33,scope=global,seed=shared))", "ef(randk(k=12,scope=chunk,seed=shared))"},
    // Two messages.
    {"none(induced(topk(ratio=0.01,block=512),randk(ratio=0.02,block=512)))", "none(fp32)"},
    {"none(induced(topk(ratio=0.01),qsgd(bits=4)))", "none(induced(onebit,natural))"},
    {"none(induced(qsgd(bits=3),qsgd(bits=3,block=64)))", "none(induced(topk(k=3,block=64,fp16),ternary(norm=inf)))"},
    // Feedback.
    {"ef(onebit,memory=bf16)", "ef(qsgd(bits=4,block=64),memory=bf16)"},
    {"ef(topk(ratio=0.01),memory=bf16)", "ef(rotate(onebit))"},
    {"ef(qsgd(bits=4))", "ef(rotate(onebit),memory=bf16)"},
    {"ef(topk(k=30,scope=chunk),memory=bf16)", "ef(randk(k=20,scope=chunk,fp16),memory=bf16)"},
    {"ef(randk(k=0.5,block=64),memory=bf16)", "ef(induced(onebit,natural),memory=bf16)"},
    {"ef21(topk(ratio=0.05,block=512))", "ef21(onebit)"},
    {"ef21(qsgd(bits=4),momentum=0.25)", "ef21(qsgd(bits=4))"},
    {"ef21(rotate(onebit))", "ef21(qsgd(bits=8))"},
    {"ef_bv(topk(ratio=0.05,block=512),lambda=0.75,nu=0.5)", "ef_bv(qsgd(bits=4),lambda=0.5,nu=0.25)"},
    {"ef_bv(randk(ratio=0.1,block=512))", "ef(qsgd(bits=8))"},
    {"diana(ternary(norm=inf))", "diana(ternary(norm=2,block=64))"},
    {"diana(qsgd(bits=4),alpha=0.5)", "ef(qsgd(bits=8))"},
    {"diana(randk(ratio=0.1,block=512))", "diana(natural)"},
    {"diana(induced(topk(ratio=0.01,block=512),randk(ratio=0.05,block=512)))", "ef(qsgd(bits=8))"},
    {"diana(rotate(qsgd(bits=2)))", "diana(onebit(dither,lambda=inf))"},
    {"ef(induced(topk(ratio=0.01,block=512),qsgd(bits=4)))", "ef(induced(onebit,ternary))"},
    {"ef21(topk(ratio=0.05,scope=chunk,qsgd(bits=8)))", "ef21(topk(ratio=0.05,scope=chunk))"},
    {"ef21(topk(k=20,scope=chunk),momentum=0.5)", "ef(topk(k=20,scope=chunk))"},
    {"diana(randk(ratio=0.1,scope=chunk))", "diana(qsgd(bits=4))"},
    {"ef(topk(ratio=0.1,block=64,ternary))", "ef(topk(ratio=0.1,block=128,natural))"},
    {"ef(topk(ratio=0.1,block=256,fp8(format=e5m2)))", "none(topk(ratio=0.1,block=64,sign))"},
    {"none(topk(k=17,block=64,onebit(dither,lambda=inf)))", "none(randk(k=17,block=64,natural))"},
    {"shift(qsgd(bits=3))", "shift(qsgd(bits=5))"},
    {"rand_diana(qsgd(bits=4),p=0.1)", "ef(qsgd(bits=8))"},
};

size_t unitOf(const std::string& node, size_t pieceWide) {
  size_t unit = ref::unitOf(ref::parse(node).tree);
  return unit ? unit : pieceWide;
}

class Passes : public testing::TestWithParam<Spec> {
 protected:
  Passes() {
    run_.up = GetParam().up;
    run_.down = GetParam().down;
    unit_ = std::max(unitOf(run_.up, 512), unitOf(run_.down, 512));
  }
  // The modes that must not matter take turns.
  void next() {
    static int turn = 0;
    turn++;
    run_.threads = turn % 4;
    run_.flush = turn % 3 == 1;
    run_.offset = turn % 2 == 1;
    run_.first = unit_ * (turn % 5 == 0 ? 0x3fffffff0u / unit_ : turn % 5 == 1 ? 0 : turn % 5);
    compareWithReference(run_);
  }
  Scenario run_;
  size_t unit_;
};

TEST_P(Passes, EverySize) {
  for (size_t n : {size_t{0}, size_t{1}, size_t{2}, size_t{61}, unit_ - 1, unit_, unit_ + 1, 2 * unit_ + 67}) {
    run_.n = n;
    next();
    if (HasFailure()) return;
  }
  run_.n = 10007;
  run_.steps = 1;
  next();
}

TEST_P(Passes, EveryInput) {
  run_.n = std::max<size_t>(unit_ + 77, 2777);
  for (Input input : kFiniteInputs) {
    run_.input = input;
    next();
    if (HasFailure()) return;
  }
}

TEST_P(Passes, EveryType) {
  for (Type type : {Type::kFp16, Type::kBf16, Type::kFp64}) {
    run_.type = type;
    for (size_t n : {size_t{0}, size_t{1}, unit_ - 1, unit_ + 131}) {
      run_.n = n;
      next();
      if (HasFailure()) return;
    }
    for (Input input : {Input::kHuge, Input::kTiny, Input::kDenormal, Input::kTies, Input::kZero, Input::kScales}) {
      run_.input = input;
      run_.n = 1543;
      next();
      if (HasFailure()) return;
    }
    run_.input = Input::kNormal;
  }
}

TEST_P(Passes, NonFiniteInput) {
  run_.input = Input::kNonFinite;
  run_.n = 5 * 512 + 13;
  for (Type type : {Type::kFp32, Type::kFp16, Type::kBf16, Type::kFp64}) {
    run_.type = type;
    next();
    if (HasFailure()) return;
  }
}

TEST_P(Passes, ThreeRanksAndOne) {
  run_.n = unit_ + 300;
  run_.ranks = 3;
  run_.steps = 3;
  next();
  run_.ranks = 1;
  next();
}

// Popcounts: every number of planes, and gradients whose size changes from step to step.
TEST(SharedLambda, AnyNumberOfRanks) {
  for (Type type : {Type::kFp32, Type::kFp16, Type::kFp64})
    for (Input input : {Input::kNormal, Input::kScales, Input::kNonFinite})
      for (int ranks : {1, 2, 3, 4, 7, 8, 9, 33}) {
        Scenario run;
        run.up = run.down = "none(rotate(onebit(dither,lambda=shared,block=256)))";
        run.type = type;
        run.input = input;
        run.n = 3 * 256 + 19;
        run.first = 512;
        run.ranks = ranks;
        run.steps = 3;
        compareWithReference(run);
        if (HasFailure()) return;
      }
}

INSTANTIATE_TEST_SUITE_P(Specs, Passes, testing::ValuesIn(kSpecs));

// Long pieces: many units a thread, every pool.
class LongPieces : public testing::TestWithParam<Spec> {};

TEST_P(LongPieces, AreTheSameForAnyNumberOfThreads) {
  Scenario run;
  run.up = GetParam().up;
  run.down = GetParam().down;
  run.n = 1000003;
  run.ranks = 1;
  run.steps = 1;
  run.threads = 3;
  compareWithReference(run);
}

const Spec kLong[] = {
    {"none(qsgd(bits=4))", "none(fp32)"},
    {"ef(onebit)", "none(fp16)"},
    {"ef(rotate(qsgd(bits=2)))", "none(fp32)"},
    {"ef(topk(ratio=0.01,qsgd(bits=8)))", "ef(qsgd(bits=8))"},
    {"ef(topk(ratio=0.001,scope=chunk))", "none(bf16)"},
    {"none(randk(ratio=0.01,scope=chunk))", "none(fp32)"},
};
INSTANTIATE_TEST_SUITE_P(Specs, LongPieces, testing::ValuesIn(kLong));

// Selectors of a piece take few values in one pass above a guessed bound: also where far more values are above it, or
// too few.
TEST(PieceWideSelectors, AnyDistribution) {
  for (Input input : {Input::kNormal, Input::kConstant, Input::kZero, Input::kTies, Input::kComb, Input::kGaps}) {
    Scenario run;
    run.up = "ef(topk(ratio=0.01,scope=chunk))";
    run.down = "ef(topk(k=3,scope=global))";
    run.input = input;
    run.n = 131072;
    run.ranks = 1;
    run.steps = 1;
    compareWithReference(run);
    if (HasFailure()) return;
  }
}

TEST(InstructionSets, TheLastOneListedIsTheDefault) {
  std::vector<std::string> sets = instructionSets();
  ASSERT_FALSE(sets.empty());
  EXPECT_EQ("baseline", sets[0]);
  for (const std::string& set : sets) printf("[          ] instruction set %s\n", set.c_str());
}

}  // namespace
}  // namespace slim_test
