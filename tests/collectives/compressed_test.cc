// Every compressed collective × algorithm × spec × length × ranks against Model, over several steps: outputs and state.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <iterator>

#include "collectives/tensor.h"
#include "tests/collectives/model.h"

namespace slim_test {
namespace {

slimResult_t call(const Case& setup, slimRedOp_t op, int rank, slimTensor_t tensor, slimComm_t comm, const void* x,
                  void* y) {
  switch (setup.kind) {
    case Kind::kAllReduce:
      return slimAllReduce(x, y, setup.count, setup.type, op, tensor, comm, nullptr);
    case Kind::kReduce:
      return slimReduce(x, rank == setup.root ? y : nullptr, setup.count, setup.type, op, setup.root, tensor, comm,
                        nullptr);
    case Kind::kBroadcast:
      return slimBroadcast(rank == setup.root ? x : nullptr, y, setup.count, setup.type, setup.root, tensor, comm,
                           nullptr);
    case Kind::kReduceScatter:
      return slimReduceScatter(x, y, setup.count, setup.type, op, tensor, comm, nullptr);
    case Kind::kAllGather:
      return slimAllGather(x, y, setup.count, setup.type, tensor, comm, nullptr);
  }
  return slimInternalError;
}

Bytes stateOf(const slimArray& a, slimDataType_t type) {
  const auto* bytes = static_cast<const uint8_t*>(a.data);
  return a.data ? Bytes(bytes, bytes + slimArrayBytes(&a, type)) : Bytes();
}

Bytes slice(const Bytes& all, size_t from, size_t n) {
  return Bytes(all.begin() + (long)from, all.begin() + (long)(from + n));
}

// The receiver's h and the owner's e, found in the model's whole arrays, a value of which has `each` bytes.
Bytes expectedOwned(const slimTensor* t, const Bytes& whole, int rank, size_t each) {
  Bytes out;
  for (uint64_t k = 0; k < slimSlices(&t->cut) && !whole.empty(); k++) {
    const slimPiece p = slimChunkPiece(&t->cut, k, rank);
    const Bytes piece = slice(whole, p.at * each, p.n * each);
    out.insert(out.end(), piece.begin(), piece.end());
  }
  return out;
}

void checkState(const Case& setup, const slimTensor* t, const Model& model, int rank) {
  const size_t real = slimRealBytes(setup.type);
  const bool twoShot = setup.algo == slimAlgoTwoShot;
  EXPECT_EQ(stateOf(t->s, setup.type), model.s[rank]) << "s";
  EXPECT_EQ(stateOf(t->v, setup.type), model.v[rank]) << "v";
  Bytes h = model.h;
  const bool sums = setup.kind == Kind::kAllReduce || setup.kind == Kind::kReduce;
  if (sums && twoShot) h = expectedOwned(t, model.h, rank, real);
  if (sums && !twoShot && setup.kind == Kind::kReduce && rank != setup.root) h.clear();
  if (setup.kind == Kind::kReduceScatter && !h.empty())
    h = slice(h, (size_t)rank * setup.count * real, setup.count * real);
  if (setup.kind == Kind::kBroadcast && rank == setup.root) {
    EXPECT_TRUE(h.empty() || h == model.s[rank]) << "the root's s is its h";
    h.clear();
  }
  EXPECT_EQ(stateOf(t->h, setup.type), h) << "h";
  EXPECT_EQ(stateOf(t->common, setup.type), model.common) << "common";
  const bool hears = setup.kind == Kind::kAllReduce || rank == setup.root;
  if (sums && hears) {
    EXPECT_EQ(stateOf(t->H, setup.type), model.H) << "H";
  }
  if (sums && !model.e.empty()) {
    EXPECT_EQ(stateOf(t->e, setup.type), expectedOwned(t, model.e, rank, t->e.bf16 ? 2 : real)) << "e";
  }
  if (sums && !hears) {
    EXPECT_EQ(stateOf(t->e, setup.type),
              expectedOwned(t, model.H.empty() ? model.e : model.H, rank, t->e.bf16 ? 2 : real))
        << "H of an owner";
  }
}

void runCase(Case setup, int steps, Fill fill = Fill::kNormal, bool inPlace = false) {
  SCOPED_TRACE(setup.name());
  Model model(setup);
  std::vector<std::vector<Bytes>> x(steps), y(steps);
  std::vector<Bytes> shifts;
  const bool shift = setup.spec.find("shift(") != std::string::npos;
  for (int r = 0; r < setup.ranks && shift; r++) shifts.push_back(makeInput(setup.type, setup.sendCount(), r, 77));
  if (shift) model.setShift(shifts);
  std::vector<std::vector<Bytes>> states;
  for (int k = 0; k < steps; k++) {
    for (int r = 0; r < setup.ranks; r++)
      x[k].push_back(makeInput(setup.type, setup.sendCount(), r, k, k == 1 ? fill : Fill::kNormal));
    y[k] = model.step(x[k], k % 2 ? slimSum : slimAvg);
  }
  forEachRank(setup.ranks, makeConfig(setup.algo, setup.sliceBytes), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, setup.spec.c_str(), setup.slot), slimSuccess) << slimGetLastError();
    if (shift) {
      ASSERT_EQ(slimTensorSetShift(tensor, shifts[rank].data(), setup.sendCount(), setup.type), slimSuccess);
    }
    const size_t size = slimTypeBytes(setup.type), own = (size_t)rank * setup.count * size;
    for (int k = 0; k < steps; k++) {
      SCOPED_TRACE("rank " + std::to_string(rank) + " step " + std::to_string(k));
      Buffer in(x[k][rank]), out(setup.recvCount() * size);
      uint8_t *from = in.data(), *to = out.data();
      if (inPlace && setup.kind == Kind::kReduceScatter)
        to = from + own;
      else if (inPlace && setup.kind == Kind::kAllGather)
        from = to + own, std::memcpy(from, x[k][rank].data(), x[k][rank].size());
      else if (inPlace)
        to = from;
      ASSERT_EQ(call(setup, k % 2 ? slimSum : slimAvg, rank, tensor, comm, from, to), slimSuccess)
          << slimGetLastError();
      EXPECT_TRUE(in.intact() && out.intact());
      if (!inPlace) {
        EXPECT_EQ(in.content(), x[k][rank]) << "sendbuff was written";
      }
      if (setup.kind == Kind::kReduce && rank != setup.root) continue;
      const Bytes got(to, to + setup.recvCount() * size);
      ASSERT_EQ(got, y[k][rank]);
    }
    if (setup.count) checkState(setup, tensor, model, rank);
  });
}

const char* const kSpecs[] = {
    "fp32",
    "ef(fp16)",
    "qsgd(bits=4)",
    "ef(topk(ratio=0.05))",
    "ef(onebit)",
    "diana(qsgd(bits=4))",
    "ef21(topk(ratio=0.1))",
    "ef21(topk(ratio=0.1),momentum=0.5)",
    "ef_bv(randk(ratio=0.1))",
    "ef(rotate(qsgd(bits=2)))",
    "ef(randk(ratio=0.1,seed=shared))",
    "ef(topk(ratio=0.05,scope=chunk))",
    "shift(qsgd(bits=4))",
    "rand_diana(qsgd(bits=4),p=0.5)",
    "rand_diana(qsgd(bits=4),p=0.5,refresh=replace)",
    "diana(ternary,init=first)",
    "ef(onebit,warmup=2)",
    "ef(topk(ratio=0.02),memory=bf16)",
    "diana(qsgd(bits=4),resync=2)",
    "tnqsgd(bits=3,stats=previous)",
    "ef(tbqsgd(bits=3,stats=tensor))",
    "ef(tnqsgd(bits=2,model=powerlaw,stats=previous),warmup=1)",
};
const char* const kDownSpecs[] = {
    "up=ef(onebit); down=diana(qsgd(bits=8))",
    "up=diana(qsgd(bits=4)); down=ef(qsgd(bits=8))",
    "up=ef(onebit); down=ef21(topk(ratio=0.1))",
    "up=qsgd(bits=4); down=rand_diana(qsgd(bits=8),p=0.5)",
    "up=qsgd(bits=4); down=rand_diana(qsgd(bits=8),p=0.5,refresh=replace)",
    "up=diana(qsgd(bits=4),init=first); down=diana(qsgd(bits=8))",
    "up=qsgd(bits=4); down=diana(qsgd(bits=8),init=first)",
    "up=none(onebit); down=ef(rotate(qsgd(bits=4),block=1024))",
    "up=ef(topk(ratio=0.05)); down=none(fp32)",
    "up=diana(qsgd(bits=4)); down=ef(qsgd(bits=8),memory=bf16)",
    "up=shift(qsgd(bits=4)); down=shift(qsgd(bits=8))",
};
constexpr size_t kSmallSlice = 16 << 10;

// Over MPI fewer specs: each process computes the model of all ranks.
std::vector<const char*> some(const char* const* specs, size_t n) {
  std::vector<const char*> out;
  for (size_t i = 0; i < n; i++)
    if (!overMpi() || i % 6 == 0) out.push_back(specs[i]);
  return out;
}

std::string compact(const std::string& text) {
  std::string out;
  for (char c : text) out += isalnum((unsigned char)c) ? c : '_';
  return out;
}

class Compressed : public testing::TestWithParam<const char*> {};

TEST_P(Compressed, AllReduceAndReduce) {
  const std::string spec = GetParam();
  const bool down = spec.find("down=") != std::string::npos,
             linear = spec == "fp32" || spec.find("seed=shared") != std::string::npos;
  for (int ranks : rankCounts())
    for (size_t count : {1, 11003})
      for (Kind kind : {Kind::kAllReduce, Kind::kReduce}) {
        Case setup{kind, spec, slimFloat32, count, ranks, ranks - 1, slimAlgoTwoShot, kSmallSlice, 3};
        runCase(setup, 4);
        if (HasFailure()) return;
        if (down) continue;
        setup.algo = slimAlgoOneShot;
        runCase(setup, 4);
        setup.algo = slimAlgoLinear;
        if (linear) runCase(setup, 4);
        if (HasFailure()) return;
      }
}

TEST_P(Compressed, NonFiniteUnits) {
  const std::string spec = GetParam();
  const bool down = spec.find("down=") != std::string::npos,
             linear = spec == "fp32" || spec.find("seed=shared") != std::string::npos;
  for (int ranks : rankCounts()) {
    if (ranks > 4 && !overMpi()) continue;
    for (slimAlgo_t algo : {slimAlgoTwoShot, slimAlgoOneShot, slimAlgoLinear}) {
      if ((down && algo != slimAlgoTwoShot) || (!linear && algo == slimAlgoLinear)) continue;
      runCase({Kind::kAllReduce, spec, slimFloat32, 11003, ranks, 0, algo, kSmallSlice, 4}, 3, Fill::kNonFinite);
      if (HasFailure()) return;
    }
  }
}

TEST_P(Compressed, InPlace) {
  const std::string spec = GetParam();
  for (int ranks : rankCounts())
    for (Kind kind : {Kind::kAllReduce, Kind::kReduce, Kind::kBroadcast, Kind::kReduceScatter, Kind::kAllGather}) {
      if (kind > Kind::kReduce && spec.find("down=") != std::string::npos) continue;
      if (kind == Kind::kBroadcast && spec.find("down=") != std::string::npos) continue;
      runCase({kind, spec, slimFloat32, 5999, ranks, 0, slimAlgoTwoShot, kSmallSlice, 5}, 3, Fill::kNonFinite, true);
      if (HasFailure()) return;
    }
}

TEST_P(Compressed, OneWayCollectives) {
  const std::string spec = GetParam();
  if (spec.find("down=") != std::string::npos) return;
  for (int ranks : rankCounts())
    for (size_t count : {1, 3001})
      for (Kind kind : {Kind::kBroadcast, Kind::kReduceScatter, Kind::kAllGather}) {
        runCase({kind, spec, slimFloat32, count, ranks, ranks / 2, slimAlgoTwoShot, kSmallSlice, 6}, 4);
        if (HasFailure()) return;
      }
}

std::string specName(const testing::TestParamInfo<const char*>& info) { return compact(info.param); }
INSTANTIATE_TEST_SUITE_P(BothWays, Compressed, testing::ValuesIn(some(kSpecs, std::size(kSpecs))), specName);
INSTANTIATE_TEST_SUITE_P(Downlinks, Compressed, testing::ValuesIn(some(kDownSpecs, std::size(kDownSpecs))), specName);

class Types : public testing::TestWithParam<slimDataType_t> {};
TEST_P(Types, AllCollectives) {
  for (const char* spec :
       {"ef(qsgd(bits=4))", "diana(natural)", "ef21(topk(ratio=0.1),init=first)", "rand_diana(ternary,p=0.5)"})
    for (int ranks : rankCounts())
      for (Kind kind : {Kind::kAllReduce, Kind::kReduce, Kind::kBroadcast, Kind::kReduceScatter, Kind::kAllGather}) {
        runCase({kind, spec, GetParam(), 5003, ranks, 0, slimAlgoTwoShot, kSmallSlice, 7}, 3);
        if (HasFailure()) return;
      }
}
std::vector<slimDataType_t> types() {
  if (overMpi()) return {slimFloat64};
  return {slimFloat16, slimBfloat16, slimFloat32, slimFloat64};
}
INSTANTIATE_TEST_SUITE_P(Floats, Types, testing::ValuesIn(types()),
                         [](const auto& info) { return std::string(slimTypeName(info.param)); });

TEST(PieceStatistics, RefuseFloat64) {
  if (overMpi()) GTEST_SKIP() << "wants two ranks in one process";
  for (const char* spec : {"tnqsgd(bits=3,stats=tensor)", "up=qsgd(bits=4); down=tnqsgd(bits=3,stats=previous)"})
    forEachRank(2, makeConfig(slimAlgoTwoShot), [&](int, slimComm_t comm) {
      slimTensor_t tensor;
      ASSERT_EQ(slimTensorCreate(&tensor, comm, spec, 0), slimSuccess) << slimGetLastError();
      std::vector<double> x(100), y(100);
      EXPECT_EQ(slimAllReduce(x.data(), y.data(), x.size(), slimFloat64, slimAvg, tensor, comm, nullptr),
                slimInvalidUsage);
      EXPECT_NE(std::string(slimGetLastError()).find("stats="), std::string::npos) << slimGetLastError();
    });
}

// The kept means are in units of x, the tables are not.
TEST(PieceStatistics, FollowARescale) {
  if (overMpi()) GTEST_SKIP() << "wants two ranks in one process";
  std::vector<std::vector<float>> runs;
  for (float unit : {1.0f, 0.25f})
    forEachRank(2, makeConfig(slimAlgoTwoShot), [&](int rank, slimComm_t comm) {
      slimTensor_t tensor;
      ASSERT_EQ(slimTensorCreate(&tensor, comm, "tbqsgd(bits=3,stats=previous)", 0), slimSuccess) << slimGetLastError();
      for (int k = 0; k < 4; k++) {
        std::vector<float> x(5000);
        for (size_t i = 0; i < x.size(); i++)
          x[i] = std::ldexp(static_cast<float>((i * 7919 + (size_t)(k + rank) * 104729) % 1000) - 500, (int)(i % 9));
        if (k == 2) {
          ASSERT_EQ(slimTensorRescale(tensor, unit), slimSuccess);
        }
        for (float& v : x) v *= k < 2 ? 1 : unit;
        ASSERT_EQ(slimAllReduce(x.data(), x.data(), x.size(), slimFloat32, slimAvg, tensor, comm, nullptr),
                  slimSuccess);
        if (rank == 0 && k == 2) runs.push_back(x);
      }
    });
  ASSERT_EQ(2u, runs.size());
  for (size_t i = 0; i < runs[0].size(); i++) ASSERT_EQ(runs[0][i] * 0.25f, runs[1][i]) << i;
}

TEST(Global, TopkGoesOneShot) {
  for (int ranks : rankCounts())
    for (Kind kind : {Kind::kAllReduce, Kind::kBroadcast, Kind::kAllGather})
      runCase(
          {kind, "ef(topk(ratio=0.01,scope=global))", slimFloat32, 30011, ranks, 0, slimAlgoOneShot, kSmallSlice, 8},
          3);
}

// A λ that all ranks share: allreduce, two-shot and one-shot, to the bit and with the same λ on all ranks; in step 1 a
// unit may hold NaN, after which it starts anew.
TEST(SharedLambda, AllReduce) {
  for (int ranks : rankCounts())
    for (slimAlgo_t algo : {slimAlgoTwoShot, slimAlgoOneShot})
      for (const char* spec : {"fo(lambda=shared)", "none(fo(f=2, lambda=shared, block=64, signs=fixed), warmup=1)"})
        for (slimDataType_t type : types())
          for (size_t count : {1, 11003}) {
            runCase({Kind::kAllReduce, spec, type, count, ranks, 0, algo, kSmallSlice, 9}, 4, Fill::kNormal);
            runCase({Kind::kAllReduce, spec, type, count, ranks, 0, algo, kSmallSlice, 9}, 4, Fill::kNonFinite, true);
            if (HasFailure()) return;
          }
}

TEST(Threads, AnyNumberGivesTheSameBits) {
  const size_t count = 300007;
  for (int ranks : rankCounts()) {
    if (ranks > 2 && !overMpi()) continue;
    std::vector<Bytes> outs(8);
    for (int threads : {1, 3}) {
      slimConfig_t config = makeConfig(slimAlgoTwoShot, 1 << 20);
      config.threads = threads;
      forEachRank(ranks, config, [&](int rank, slimComm_t comm) {
        slimTensor_t tensor;
        ASSERT_EQ(slimTensorCreate(&tensor, comm, "ef(qsgd(bits=4))", 1), slimSuccess);
        const Bytes x = makeInput(slimFloat32, count, rank, 0);
        Bytes y(x.size());
        for (int k = 0; k < 2; k++)
          ASSERT_EQ(slimAllReduce(x.data(), y.data(), count, slimFloat32, slimAvg, tensor, comm, nullptr), slimSuccess);
        if (rank != 0) return;
        if (threads == 1)
          outs[0] = y;
        else {
          EXPECT_TRUE(y == outs[0]);
        }
      });
    }
  }
}

// Which algorithm Auto takes, as docs/design.md says.
TEST(Auto, ChoosesBySizeSpecAndRanks) {
  struct Want {
    const char* spec;
    size_t count;
    int ranks;
    slimAlgorithm algorithm;
  } const wants[] = {
      {"ef(qsgd(bits=8))", 1000000, 4, slimAlgorithmTwoShot},
      {"ef(qsgd(bits=8))", 1000000, 2, slimAlgorithmOneShot},
      {"ef(qsgd(bits=8))", 1000, 4, slimAlgorithmOneShot},
      {"up=ef(qsgd(bits=8)); down=ef(qsgd(bits=8))", 1000, 4, slimAlgorithmTwoShot},
      {"ef(topk(ratio=0.01,scope=global))", 1000000, 4, slimAlgorithmOneShot},
      {"fp32", 1000000, 4, slimAlgorithmLinear},
      {"ef(randk(ratio=0.1,seed=shared))", 1000000, 4, slimAlgorithmLinear},
      {"ef(randk(ratio=0.1,seed=shared))", 1000, 4, slimAlgorithmOneShot},
  };
  for (const Want& want : wants) {
    if (overMpi() && want.ranks != rankCounts()[0]) continue;
    SCOPED_TRACE(want.spec);
    forEachRank(want.ranks, makeConfig(), [&](int, slimComm_t comm) {
      slimTensor_t tensor;
      ASSERT_EQ(slimTensorCreate(&tensor, comm, want.spec, 1), slimSuccess);
      std::vector<float> x(want.count, 1), y(want.count);
      ASSERT_EQ(slimAllReduce(x.data(), y.data(), x.size(), slimFloat32, slimAvg, tensor, comm, nullptr), slimSuccess)
          << slimGetLastError();
      EXPECT_EQ(tensor->algorithm, want.algorithm);
    });
  }
}

}  // namespace
}  // namespace slim_test
