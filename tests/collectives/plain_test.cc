// Uncompressed collectives: every element type and op against sums written here, in rank order.
#include <gtest/gtest.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

#include "compress/compress.h"
#include "tests/collectives/group.h"

namespace slim_test {
namespace {

template <typename T>
T apply(slimRedOp_t op, T a, T b) {
  using Wide = std::conditional_t<std::is_floating_point_v<T>, T,
                                  std::make_unsigned_t<std::conditional_t<std::is_floating_point_v<T>, int, T>>>;
  switch (op) {
    case slimProd:
      return (T)(Wide)((uint64_t)0 + (Wide)a * (Wide)b);
    case slimMax:
      return std::max(a, b);
    case slimMin:
      return std::min(a, b);
    default:
      return (T)(Wide)((Wide)a + (Wide)b);
  }
}
template <>
float apply(slimRedOp_t op, float a, float b) {
  return op == slimProd ? a * b : op == slimMax ? std::max(a, b) : op == slimMin ? std::min(a, b) : a + b;
}
template <>
double apply(slimRedOp_t op, double a, double b) {
  return op == slimProd ? a * b : op == slimMax ? std::max(a, b) : op == slimMin ? std::min(a, b) : a + b;
}

template <typename T>
Bytes reduceAs(slimRedOp_t op, const std::vector<Bytes>& x) {
  Bytes out = x[0];
  T* sum = reinterpret_cast<T*>(out.data());
  for (size_t i = 0; i < out.size() / sizeof(T); i++) {
    for (size_t r = 1; r < x.size(); r++) sum[i] = apply<T>(op, sum[i], reinterpret_cast<const T*>(x[r].data())[i]);
    if (op == slimAvg)
      sum[i] = std::is_floating_point_v<T> ? (T)(sum[i] * (T)((T)1 / (T)x.size())) : (T)(sum[i] / (T)x.size());
  }
  return out;
}

Bytes reduced(slimDataType_t type, slimRedOp_t op, const std::vector<Bytes>& x) {
  switch (type) {
    case slimInt8:
      return reduceAs<int8_t>(op, x);
    case slimUint8:
      return reduceAs<uint8_t>(op, x);
    case slimInt32:
      return reduceAs<int32_t>(op, x);
    case slimUint32:
      return reduceAs<uint32_t>(op, x);
    case slimInt64:
      return reduceAs<int64_t>(op, x);
    case slimUint64:
      return reduceAs<uint64_t>(op, x);
    case slimFloat32:
      return reduceAs<float>(op, x);
    case slimFloat64:
      return reduceAs<double>(op, x);
    default:
      break;
  }
  std::vector<Bytes> floats;
  const size_t n = x[0].size() / 2;
  for (auto& one : x) {
    floats.emplace_back(4 * n);
    slimToReal(type, one.data(), n, floats.back().data());
  }
  Bytes sum = reduceAs<float>(op == slimAvg ? slimSum : op, floats), out(2 * n);
  slimFromReal(type, sum.data(), n, op == slimAvg ? 1.0 / (double)x.size() : 1, out.data());
  return out;
}

class Plain : public testing::TestWithParam<slimDataType_t> {};

TEST_P(Plain, EveryOpAndCollective) {
  const slimDataType_t type = GetParam();
  const size_t size = slimTypeBytes(type);
  for (int ranks : rankCounts())
    for (size_t count : {0, 1, 3, 1000, 20011}) {
      SCOPED_TRACE("ranks " + std::to_string(ranks) + " count " + std::to_string(count));
      std::vector<Bytes> x, wide;
      for (int r = 0; r < ranks; r++) {
        x.push_back(makeInput(type, count, r, 0, Fill::kInteger));
        wide.push_back(makeInput(type, count * (size_t)ranks, r, 1, Fill::kInteger));
      }
      std::vector<Bytes> sums, parts;
      for (int op = slimSum; op <= slimAvg; op++) {
        sums.push_back(reduced(type, (slimRedOp_t)op, x));
        parts.push_back(reduced(type, (slimRedOp_t)op, wide));
      }
      const int root = ranks - 1;
      forEachRank(ranks, makeConfig(slimAlgoAuto, 16 << 10), [&](int rank, slimComm_t comm) {
        for (int o = slimSum; o <= slimAvg; o++)
          for (bool inPlace : {false, true}) {
            SCOPED_TRACE("rank " + std::to_string(rank) + " op " + std::to_string(o) + (inPlace ? " in place" : ""));
            const auto op = (slimRedOp_t)o;
            {
              Buffer in(x[rank]), out(count * size);
              uint8_t* to = inPlace ? in.data() : out.data();
              ASSERT_EQ(slimAllReduce(in.data(), to, count, type, op, nullptr, comm, nullptr), slimSuccess)
                  << slimGetLastError();
              EXPECT_TRUE(Bytes(to, to + count * size) == sums[o]);
              EXPECT_TRUE(in.intact() && out.intact());
            }
            {
              Buffer in(x[rank]), out(count * size);
              uint8_t* to = inPlace ? in.data() : out.data();
              ASSERT_EQ(
                  slimReduce(in.data(), rank == root ? to : nullptr, count, type, op, root, nullptr, comm, nullptr),
                  slimSuccess);
              if (rank == root) {
                EXPECT_TRUE(Bytes(to, to + count * size) == sums[o]);
              }
              if (!inPlace) {
                EXPECT_TRUE(in.content() == x[rank]);
              }
            }
            Buffer in(wide[rank]), out(count * size);
            const size_t own = (size_t)rank * count * size;
            uint8_t* to = inPlace ? in.data() + own : out.data();
            ASSERT_EQ(slimReduceScatter(in.data(), to, count, type, op, nullptr, comm, nullptr), slimSuccess);
            EXPECT_TRUE(std::equal(to, to + count * size, parts[o].begin() + (long)own));
          }
        for (bool inPlace : {false, true}) {
          Buffer in(x[rank]), out(count * size * (size_t)ranks);
          uint8_t* from = inPlace ? out.data() + (size_t)rank * count * size : in.data();
          if (inPlace && count) std::memcpy(from, x[rank].data(), x[rank].size());
          ASSERT_EQ(slimAllGather(from, out.data(), count, type, nullptr, comm, nullptr), slimSuccess);
          for (int r = 0; r < ranks; r++)
            EXPECT_TRUE(std::equal(x[r].begin(), x[r].end(), out.data() + (size_t)r * count * size));
          EXPECT_TRUE(out.intact());
          Buffer data(x[rank]), other(count * size);
          uint8_t* to = inPlace ? data.data() : other.data();
          ASSERT_EQ(slimBroadcast(rank == root ? data.data() : nullptr, to, count, type, root, nullptr, comm, nullptr),
                    slimSuccess);
          EXPECT_TRUE(std::equal(x[root].begin(), x[root].end(), to));
        }
      });
    }
}
// Over MPI fewer: the sums are the same code.
std::vector<slimDataType_t> types() {
  if (overMpi()) return {slimInt8, slimBfloat16, slimFloat64};
  std::vector<slimDataType_t> all;
  for (int t = slimInt8; t <= slimBfloat16; t++) all.push_back((slimDataType_t)t);
  return all;
}
INSTANTIATE_TEST_SUITE_P(Types, Plain, testing::ValuesIn(types()),
                         [](const auto& info) { return std::string(slimTypeName(info.param)); });

TEST(PlainFloats, MaxAndMinPassNanOn) {
  for (int ranks : rankCounts())
    for (slimRedOp_t op : {slimMax, slimMin})
      forEachRank(ranks, makeConfig(), [&](int rank, slimComm_t comm) {
        float x[2] = {(float)rank, rank == 0 ? std::numeric_limits<float>::quiet_NaN() : 1.0f}, y[2];
        ASSERT_EQ(slimAllReduce(x, y, 2, slimFloat32, op, nullptr, comm, nullptr), slimSuccess);
        EXPECT_EQ(y[0], op == slimMax ? (float)(ranks - 1) : 0.0f);
        EXPECT_TRUE(y[1] != y[1]);
      });
}

// A caller linked with -ffast-math flushes denormals: not while SlimCCL adds.
TEST(PlainFloats, DenormalsSurviveACallersFastMath) {
#if defined(__x86_64__)
  for (int ranks : rankCounts())
    forEachRank(ranks, makeConfig(), [&](int, slimComm_t comm) {
      uint32_t denormal = 3, sum = 0;
      const unsigned before = _mm_getcsr();
      _mm_setcsr(before | 0x8040);
      const slimResult_t result = slimAllReduce(&denormal, &sum, 1, slimFloat32, slimSum, nullptr, comm, nullptr);
      const unsigned after = _mm_getcsr();
      _mm_setcsr(before);
      EXPECT_EQ(result, slimSuccess);
      EXPECT_EQ(sum, 3u * (uint32_t)ranks);
      EXPECT_EQ(after & 0xffc0, (before | 0x8040) & 0xffc0) << "the caller's mode is given back";
    });
#endif
}

// Every rank learns of a count that differs, and the communicator lives on.
TEST(Agreement, ACountThatDiffersIsNamed) {
  for (int ranks : rankCounts()) {
    if (ranks < 2) continue;
    forEachRank(ranks, makeConfig(), [&](int rank, slimComm_t comm) {
      std::vector<float> x(101, 1);
      const size_t count = rank == ranks - 1 ? 101 : 100;
      EXPECT_EQ(slimAllReduce(x.data(), x.data(), count, slimFloat32, slimSum, nullptr, comm, nullptr),
                slimInvalidUsage);
      const std::string part = "element count: rank " + std::to_string(ranks - 1) + " has 101, rank 0 has 100";
      EXPECT_NE(std::string(slimGetLastError()).find(part), std::string::npos) << slimGetLastError();
      EXPECT_EQ(x, std::vector<float>(101, 1));
      EXPECT_EQ(slimAllReduce(x.data(), x.data(), 101, slimFloat32, slimSum, nullptr, comm, nullptr), slimSuccess);
      EXPECT_EQ(x, std::vector<float>(101, (float)ranks));
    });
  }
}

// The last rank never calls: the others do not hang. (Over MPI each rank finds out for itself.)
TEST(Agreement, ARankThatNeverCallsIsNamed) {
  for (int ranks : rankCounts()) {
    if (ranks < 2) continue;
    slimConfig_t config = makeConfig();
    config.timeout = 0.3;
    forEachRank(ranks, config, [&](int rank, slimComm_t comm) {
      if (rank == ranks - 1) return;
      float x = 1;
      EXPECT_EQ(slimAllReduce(&x, &x, 1, slimFloat32, slimSum, nullptr, comm, nullptr), slimRemoteError);
      const std::string part = "not heard from in 0.3 s: rank " + std::to_string(ranks - 1);
      EXPECT_NE(std::string(slimGetLastError()).find(part), std::string::npos) << slimGetLastError();
      EXPECT_EQ(x, 1);
    });
  }
}

// Integers and other ops pass by the tensor: it stays unused.
TEST(PlainTensor, TensorsAreLeftAlone) {
  for (int ranks : rankCounts())
    forEachRank(ranks, makeConfig(), [&](int, slimComm_t comm) {
      slimTensor_t tensor;
      ASSERT_EQ(slimTensorCreate(&tensor, comm, "ef(onebit)", 1), slimSuccess);
      int32_t i = 3;
      ASSERT_EQ(slimAllReduce(&i, &i, 1, slimInt32, slimSum, tensor, comm, nullptr), slimSuccess);
      EXPECT_EQ(i, 3 * ranks);
      float f = 0.3f;
      ASSERT_EQ(slimAllReduce(&f, &f, 1, slimFloat32, slimMax, tensor, comm, nullptr), slimSuccess);
      EXPECT_EQ(f, 0.3f);
      slimTensorStats_t stats = {};
      stats.size = sizeof stats;
      ASSERT_EQ(slimTensorGetStats(tensor, &stats), slimSuccess);
      EXPECT_EQ(stats.calls, 0u);
      EXPECT_EQ(stats.stateBytes, 0u);
    });
}

}  // namespace
}  // namespace slim_test
