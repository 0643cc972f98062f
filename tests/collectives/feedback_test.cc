// What feedback promises over many steps, through the collectives: nothing is lost, and h is the mean of the shifts.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <mutex>

#include "collectives/tensor.h"
#include "tests/collectives/group.h"

namespace slim_test {
namespace {

constexpr size_t kCount = 7001;

std::vector<double> doubles(const Bytes& x) {
  std::vector<double> out(x.size() / 8);
  std::memcpy(out.data(), x.data(), x.size());
  return out;
}

// All ranks' state of a two-shot tensor of doubles, put together. Over MPI a rank sees only its own: these tests are
// local.
struct Gathered {
  std::vector<double> s = std::vector<double>(kCount), h = s, e = s, H;  // s: the mean
  std::mutex lock;
  void add(const slimTensor* t, int rank, int ranks) {
    std::lock_guard<std::mutex> guard(lock);
    for (size_t i = 0; i < kCount && t->s.data; i++) s[i] += static_cast<double*>(t->s.data)[i] / ranks;
    for (uint64_t k = 0; k < slimSlices(&t->cut); k++) {
      const slimPiece p = slimChunkPiece(&t->cut, k, rank);
      for (uint64_t i = 0; i < p.n; i++) {
        if (t->h.data) h[p.at + i] = static_cast<double*>(t->h.data)[slimOwnedAt(&t->cut, k) + i];
        if (t->e.data) e[p.at + i] = static_cast<double*>(t->e.data)[slimOwnedAt(&t->cut, k) + i];
      }
    }
    if (t->H.data) H.assign(static_cast<double*>(t->H.data), static_cast<double*>(t->H.data) + kCount);
  }
};

// Σ outputs + mean s + e = Σ mean x, for every mixture of error feedbacks.
TEST(Ledger, NothingIsLost) {
  for (const char* spec : {"up=ef(topk(ratio=0.02)); down=none(fp32)", "ef(topk(ratio=0.02))", "ef(onebit)",
                           "ef(qsgd(bits=2))", "ef(rotate(onebit))", "ef(randk(ratio=0.05,seed=shared))", "ef(natural)",
                           "ef(fp8)", "ef(tnqsgd(bits=3))", "ef(topk(ratio=0.01,scope=chunk))",
                           "ef(randk(ratio=0.1,qsgd(bits=4)))", "ef(induced(topk(ratio=0.01),qsgd(bits=4)))"})
    for (int ranks : rankCounts()) {
      SCOPED_TRACE(std::string(spec) + " ranks " + std::to_string(ranks));
      constexpr int steps = 12;
      std::vector<double> in(kCount), out(kCount);
      for (int k = 0; k < steps; k++)
        for (int r = 0; r < ranks; r++) {
          const auto x = doubles(makeInput(slimFloat64, kCount, r, k));
          for (size_t i = 0; i < kCount; i++) in[i] += x[i] / ranks;
        }
      Gathered state;
      forEachRank(ranks, makeConfig(slimAlgoTwoShot, 16 << 10), [&](int rank, slimComm_t comm) {
        slimTensor_t tensor;
        ASSERT_EQ(slimTensorCreate(&tensor, comm, spec, 9), slimSuccess) << slimGetLastError();
        for (int k = 0; k < steps; k++) {
          const Bytes x = makeInput(slimFloat64, kCount, rank, k);
          Bytes y(x.size());
          ASSERT_EQ(slimAllReduce(x.data(), y.data(), kCount, slimFloat64, slimAvg, tensor, comm, nullptr), slimSuccess)
              << slimGetLastError();
          if (rank) continue;
          const auto got = doubles(y);
          for (size_t i = 0; i < kCount; i++) out[i] += got[i];
        }
        state.add(tensor, rank, ranks);
      });
      double worst = 0, largest = 0;
      for (size_t i = 0; i < kCount; i++) {
        worst = std::max(worst, std::fabs(out[i] + state.s[i] + state.e[i] - in[i]));
        largest = std::max(largest, std::fabs(state.s[i]) + std::fabs(state.e[i]));
      }
      /* fp32 as a downlink has no memory: of doubles it loses what binary32 has no room for. */
      const bool rounds = std::strstr(spec, "none(fp32)") || std::strstr(spec, "seed=shared");
      EXPECT_LT(worst, (rounds ? 1e-6 : 1e-12) * (1 + largest) * steps);
      if (ranks > 1) {
        EXPECT_GT(largest, 1e-3) << "there was nothing to keep";
      }
    }
}

// h = mean of the senders' shifts, also after units with NaN and Inf.
TEST(Shifts, HIsTheMeanOfTheSendersShifts) {
  for (const char* spec :
       {"diana(qsgd(bits=4))", "ef21(topk(ratio=0.1))", "ef_bv(topk(ratio=0.1))", "rand_diana(qsgd(bits=4),p=0.4)",
        "diana(natural,init=first)", "diana(qsgd(bits=4),resync=3)", "up=diana(ternary); down=diana(qsgd(bits=8))"})
    for (int ranks : rankCounts())
      for (Fill fill : {Fill::kNormal, Fill::kNonFinite}) {
        SCOPED_TRACE(std::string(spec) + " ranks " + std::to_string(ranks));
        Gathered state;
        std::vector<Bytes> H(ranks);
        forEachRank(ranks, makeConfig(slimAlgoTwoShot, 16 << 10), [&](int rank, slimComm_t comm) {
          slimTensor_t tensor;
          ASSERT_EQ(slimTensorCreate(&tensor, comm, spec, 9), slimSuccess) << slimGetLastError();
          for (int k = 0; k < 8; k++) {
            const Bytes x = makeInput(slimFloat64, kCount, rank, k, fill);
            Bytes y(x.size());
            ASSERT_EQ(slimAllReduce(x.data(), y.data(), kCount, slimFloat64, slimAvg, tensor, comm, nullptr),
                      slimSuccess)
                << slimGetLastError();
          }
          state.add(tensor, rank, ranks);
          const auto* bytes = static_cast<uint8_t*>(tensor->H.data);
          if (bytes) H[rank] = Bytes(bytes, bytes + kCount * 8);
        });
        double worst = 0, largest = 0;
        for (size_t i = 0; i < kCount; i++) {
          worst = std::max(worst, std::fabs(state.h[i] - state.s[i]));
          largest = std::max(largest, std::fabs(state.s[i]));
        }
        EXPECT_LT(worst, 1e-12 * (1 + largest)) << "NaN fails too: " << worst;
        EXPECT_GT(largest, 0.1);
        for (int r = 1; r < ranks; r++) EXPECT_EQ(H[r], H[0]) << "every rank has the same downlink shift";
      }
}

// Step by step: what arrives is h and nu/lambda times what the senders added to their shifts.
TEST(Ledger, WhatArrivesIsWhatTheSendersNoted) {
  for (const char* codec :
       {"diana(qsgd(bits=4))", "diana(ternary)", "ef21(topk(ratio=0.1))", "ef21(onebit,momentum=0.25)",
        "ef_bv(randk(ratio=0.1),lambda=0.5,nu=0.75)", "ef_bv(qsgd(bits=4),workers=3)"})
    for (int ranks : rankCounts()) {
      SCOPED_TRACE(std::string(codec) + " ranks " + std::to_string(ranks));
      constexpr int steps = 6;
      std::vector<Gathered> state(steps + 1);
      std::vector<std::vector<double>> y(steps, std::vector<double>(kCount));
      double nu = 0, lambda = 0;
      forEachRank(ranks, makeConfig(slimAlgoTwoShot, 16 << 10), [&](int rank, slimComm_t comm) {
        slimTensor_t tensor;
        const std::string spec = "up=" + std::string(codec) + "; down=none(fp32)";
        ASSERT_EQ(slimTensorCreate(&tensor, comm, spec.c_str(), 9), slimSuccess) << slimGetLastError();
        for (int k = 0; k < steps; k++) {
          const Bytes x = makeInput(slimFloat64, kCount, rank, k);
          Bytes out(x.size());
          ASSERT_EQ(slimAllReduce(x.data(), out.data(), kCount, slimFloat64, slimAvg, tensor, comm, nullptr),
                    slimSuccess)
              << slimGetLastError();
          state[k + 1].add(tensor, rank, ranks);
          if (rank == 0) y[k] = doubles(out);
        }
        if (rank) return;
        nu = tensor->compressor->up.feedback.nu;
        lambda = tensor->compressor->up.feedback.lambda;
      });
      double worst = 0, largest = 0;
      for (int k = 0; k < steps; k++)
        for (size_t i = 0; i < kCount; i++) {
          const double sent = nu / lambda * (state[k + 1].s[i] - state[k].s[i]);
          worst = std::max(worst, std::fabs(y[k][i] - state[k].h[i] - sent));
          largest = std::max(largest, std::fabs(sent));
        }
      EXPECT_LT(worst, 1e-6 * largest) << "the downlink is fp32";
      EXPECT_GT(largest, 0.1);
    }
}

// Rows whose shift does not follow what is sent: over an exact codec the mean of x comes out, whatever the shift.
TEST(Ledger, ShiftsThatAreGivenOrRefreshedCancelOut) {
  for (const char* spec : {"fp32", "shift(fp32)", "rand_diana(fp32,p=0.4)", "rand_diana(fp32,p=0.4,refresh=replace)"})
    for (int ranks : rankCounts()) {
      SCOPED_TRACE(std::string(spec) + " ranks " + std::to_string(ranks));
      forEachRank(ranks, makeConfig(slimAlgoTwoShot, 16 << 10), [&](int rank, slimComm_t comm) {
        slimTensor_t tensor;
        const std::string both = "up=" + std::string(spec) + "; down=fp32";
        ASSERT_EQ(slimTensorCreate(&tensor, comm, both.c_str(), 9), slimSuccess) << slimGetLastError();
        const Bytes shift = makeInput(slimFloat64, kCount, rank, 77);
        if (std::strstr(spec, "shift")) {
          ASSERT_EQ(slimTensorSetShift(tensor, shift.data(), kCount, slimFloat64), slimSuccess);
        }
        for (int k = 0; k < 8; k++) {
          const Bytes x = makeInput(slimFloat64, kCount, rank, k);
          std::vector<double> y(kCount), mean(kCount);
          ASSERT_EQ(slimAllReduce(x.data(), y.data(), kCount, slimFloat64, slimAvg, tensor, comm, nullptr), slimSuccess)
              << slimGetLastError();
          for (int r = 0; r < ranks; r++) {
            const auto other = doubles(makeInput(slimFloat64, kCount, r, k));
            for (size_t i = 0; i < kCount; i++) mean[i] += other[i] / ranks;
          }
          for (size_t i = 0; i < kCount; i++) ASSERT_NEAR(y[i], mean[i], 1e-5) << "step " << k << ", element " << i;
        }
      });
    }
}

// DIANA on a constant gradient that differs between workers: the shifts learn it, and the output becomes exact.
TEST(Shifts, DianaLearnsAConstantGradient) {
  forEachRank(4, makeConfig(slimAlgoTwoShot), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, "up=diana(qsgd(bits=4)); down=none(fp32)", 1), slimSuccess);
    const auto x = doubles(makeInput(slimFloat64, kCount, rank, 0));
    std::vector<double> mean(kCount), y(kCount);
    for (int r = 0; r < 4; r++) {
      const auto other = doubles(makeInput(slimFloat64, kCount, r, 0));
      for (size_t i = 0; i < kCount; i++) mean[i] += other[i] / 4;
    }
    double first = 0, last = 0;
    for (int k = 0; k < 60; k++) {
      ASSERT_EQ(slimAllReduce(x.data(), y.data(), kCount, slimFloat64, slimAvg, tensor, comm, nullptr), slimSuccess);
      double error = 0;
      for (size_t i = 0; i < kCount; i++) error += (y[i] - mean[i]) * (y[i] - mean[i]);
      (k ? last : first) = error;
    }
    EXPECT_LT(last, 1e-8 * first);
  });
}

// A memory in bf16: half the bytes, and the ledger holds in the mean, whatever its rounding gains or loses in an
// element.
TEST(Ledger, AMemoryInBf16LosesNothingInTheMean) {
  for (const char* codec : {"topk(ratio=0.02)", "onebit", "topk(ratio=0.02,scope=chunk)"})
    for (int ranks : rankCounts()) {
      const std::string spec = "ef(" + std::string(codec) + ",memory=bf16)";
      SCOPED_TRACE(spec + " ranks " + std::to_string(ranks));
      constexpr int steps = 30;
      std::vector<double> in(kCount), out(kCount), memories(kCount);
      std::mutex lock;
      forEachRank(ranks, makeConfig(slimAlgoTwoShot, 16 << 10), [&](int rank, slimComm_t comm) {
        slimTensor_t tensor;
        ASSERT_EQ(slimTensorCreate(&tensor, comm, spec.c_str(), 9), slimSuccess) << slimGetLastError();
        std::vector<float> x(kCount), y(kCount);
        for (int k = 0; k < steps; k++) {
          const Bytes bytes = makeInput(slimFloat32, kCount, rank, k);
          std::memcpy(x.data(), bytes.data(), bytes.size());
          ASSERT_EQ(slimAllReduce(x.data(), y.data(), kCount, slimFloat32, slimAvg, tensor, comm, nullptr), slimSuccess)
              << slimGetLastError();
          std::lock_guard<std::mutex> guard(lock);
          for (size_t i = 0; i < kCount; i++) in[i] += x[i] / ranks;
          for (size_t i = 0; i < kCount && rank == 0; i++) out[i] += y[i];
        }
        std::lock_guard<std::mutex> guard(lock);
        auto value = [](const slimArray& a, uint64_t i) {
          const uint32_t bits = (uint32_t) static_cast<uint16_t*>(a.data)[i] << 16;
          float v;
          std::memcpy(&v, &bits, 4);
          return (double)v;
        };
        for (size_t i = 0; i < kCount; i++) memories[i] += value(tensor->s, i) / ranks;
        uint64_t owned = 0;
        for (uint64_t k = 0; k < slimSlices(&tensor->cut); k++) {
          const slimPiece p = slimChunkPiece(&tensor->cut, k, rank);
          for (uint64_t i = 0; i < p.n; i++) memories[p.at + i] += value(tensor->e, slimOwnedAt(&tensor->cut, k) + i);
          owned = p.n ? slimOwnedAt(&tensor->cut, k) + p.n : owned;
        }
        slimTensorStats_t stats = {};
        stats.size = sizeof stats;
        ASSERT_EQ(slimTensorGetStats(tensor, &stats), slimSuccess);
        EXPECT_EQ(stats.stateBytes, 2 * (kCount + owned));
      });
      double sum = 0, squares = 0, size = 0;
      for (size_t i = 0; i < kCount; i++) {
        const double error = out[i] + memories[i] - in[i];
        sum += error;
        squares += error * error;
        size += memories[i] * memories[i];
      }
      const double mean = sum / kCount, deviation = std::sqrt(squares / kCount);
      EXPECT_LT(std::fabs(mean), 4 * deviation / std::sqrt((double)kCount));
      EXPECT_LT(deviation, std::sqrt(2.0 * steps) / 256 * std::sqrt(size / kCount) * 2) << "random, not a drift";
      EXPECT_GT(deviation, 0);
    }
}

TEST(Cancel, AMemoryInBf16ComesBackUpToItsRounding) {
  forEachRank(2, makeConfig(slimAlgoTwoShot), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, "ef(onebit,memory=bf16)", 1), slimSuccess);
    std::vector<float> y(kCount);
    std::vector<uint16_t> before(kCount);
    Bytes x;
    for (int k = 0; k < 3; k++) {
      std::memcpy(before.data(), tensor->s.data ? tensor->s.data : before.data(), 2 * kCount);
      x = makeInput(slimFloat32, kCount, rank, k);
      ASSERT_EQ(slimAllReduce(x.data(), y.data(), kCount, slimFloat32, slimSum, tensor, comm, nullptr), slimSuccess);
    }
    ASSERT_EQ(slimTensorCancelStep(tensor, x.data()), slimSuccess) << slimGetLastError();
    std::vector<float> was(kCount), is(kCount);
    slimToReal(slimBfloat16, before.data(), kCount, was.data());
    slimToReal(slimBfloat16, tensor->s.data, kCount, is.data());
    for (size_t i = 0; i < kCount; i++) ASSERT_NEAR(was[i], is[i], (std::fabs(was[i]) + 20) / 64);
  });
}

TEST(Cancel, TakesBackTheLastStep) {
  for (slimAlgo_t algo : {slimAlgoTwoShot, slimAlgoOneShot})
    forEachRank(3, makeConfig(algo, 16 << 10), [&](int rank, slimComm_t comm) {
      slimTensor_t tensor;
      ASSERT_EQ(slimTensorCreate(&tensor, comm, "ef(topk(ratio=0.05))", 1), slimSuccess);
      EXPECT_EQ(slimTensorCancelStep(tensor, &rank), slimInvalidUsage) << "nothing to take back yet";
      std::vector<double> y(kCount), before;
      for (int k = 0; k < 3; k++) {
        const auto x = doubles(makeInput(slimFloat64, kCount, rank, k));
        if (k == 2) before.assign(static_cast<double*>(tensor->s.data), static_cast<double*>(tensor->s.data) + kCount);
        ASSERT_EQ(slimAllReduce(x.data(), y.data(), kCount, slimFloat64, slimSum, tensor, comm, nullptr), slimSuccess);
        if (k < 2) continue;
        ASSERT_EQ(slimTensorCancelStep(tensor, x.data()), slimSuccess) << slimGetLastError();
        for (size_t i = 0; i < kCount; i++) ASSERT_NEAR(static_cast<double*>(tensor->s.data)[i], before[i], 1e-12);
        EXPECT_EQ(slimTensorCancelStep(tensor, x.data()), slimInvalidUsage) << "only once";
      }
      ASSERT_EQ(slimAllReduce(y.data(), y.data(), kCount, slimFloat64, slimSum, tensor, comm, nullptr), slimSuccess);
      EXPECT_EQ(slimTensorCancelStep(tensor, y.data()), slimInvalidUsage) << "x was overwritten";
    });
}

// State is in units of x: a change of unit with slimTensorRescale gives the same run, scaled.
TEST(Rescale, AChangeOfUnitIsInvisible) {
  forEachRank(2, makeConfig(slimAlgoTwoShot), [&](int rank, slimComm_t comm) {
    slimTensor_t a, b;
    ASSERT_EQ(slimTensorCreate(&a, comm, "ef(onebit)", 1), slimSuccess);
    ASSERT_EQ(slimTensorCreate(&b, comm, "ef(onebit)", 2), slimSuccess);
    for (int k = 0; k < 6; k++) {
      auto x = doubles(makeInput(slimFloat64, kCount, rank, k)), z = x;
      const double unit = k < 3 ? 1 : 0.25;
      for (auto& v : z) v *= unit;
      if (k == 3) {
        ASSERT_EQ(slimTensorRescale(b, 0.25), slimSuccess);
      }
      ASSERT_EQ(slimAllReduce(x.data(), x.data(), kCount, slimFloat64, slimSum, a, comm, nullptr), slimSuccess);
      ASSERT_EQ(slimAllReduce(z.data(), z.data(), kCount, slimFloat64, slimSum, b, comm, nullptr), slimSuccess);
      for (size_t i = 0; i < kCount; i++) ASSERT_EQ(x[i] * unit, z[i]);
    }
    EXPECT_EQ(slimTensorRescale(a, 0), slimInvalidArgument);
    EXPECT_EQ(slimTensorRescale(a, -1), slimInvalidArgument);
    EXPECT_EQ(slimTensorRescale(a, INFINITY), slimInvalidArgument);
  });
}

TEST(Reset, StartsAgainFromTheBeginning) {
  forEachRank(2, makeConfig(slimAlgoTwoShot), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, "ef(qsgd(bits=4,rounding=stochastic))", 1), slimSuccess)
        << slimGetLastError();
    const Bytes x = makeInput(slimFloat32, kCount, rank, 0);
    Bytes first(x.size()), y(x.size());
    ASSERT_EQ(slimAllReduce(x.data(), first.data(), kCount, slimFloat32, slimSum, tensor, comm, nullptr), slimSuccess);
    ASSERT_EQ(slimAllReduce(x.data(), y.data(), kCount, slimFloat32, slimSum, tensor, comm, nullptr), slimSuccess);
    EXPECT_NE(y, first);
    ASSERT_EQ(slimTensorReset(tensor), slimSuccess);
    ASSERT_EQ(slimAllReduce(x.data(), y.data(), kCount, slimFloat32, slimSum, tensor, comm, nullptr), slimSuccess);
    EXPECT_EQ(y, first);
    ASSERT_EQ(slimTensorReset(tensor), slimSuccess);
    ASSERT_EQ(slimAllReduce(x.data(), y.data(), 100, slimFloat32, slimSum, tensor, comm, nullptr), slimSuccess)
        << "another length";
  });
}

// A tensor whose unit shrinks a million times without slimTensorRescale: the memory is then far above 4/delta.
TEST(Stats, WarnOnceOfAMemoryThatIsTooLarge) {
  constexpr size_t count = 4096;
  std::vector<float> x(count), y(count);
  testing::internal::CaptureStderr();
  forEachRank(1, makeConfig(slimAlgoAuto, 0), [&](int, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, "ef(qsgd(bits=8))", 3), slimSuccess) << slimGetLastError();
    for (int step = 0; step < 4; step++) {
      for (size_t i = 0; i < count; i++) x[i] = (step ? 1e-6f : 1.0f) * std::sin(static_cast<float>(i * (step + 1)));
      ASSERT_EQ(slimAllReduce(x.data(), y.data(), count, slimFloat32, slimAvg, tensor, comm, nullptr), slimSuccess);
      slimTensorStats_t stats = {};
      stats.size = sizeof stats;
      ASSERT_EQ(slimTensorGetStats(tensor, &stats), slimSuccess);
      EXPECT_EQ(stats.stateRatio > 5, step == 1) << "step " << step << ": " << stats.stateRatio;
    }
  });
  const std::string printed = testing::internal::GetCapturedStderr();
  const size_t first = printed.find("slot 3, step 1");
  EXPECT_NE(first, std::string::npos) << printed;
  EXPECT_NE(printed.find("4/delta"), std::string::npos) << printed;
  EXPECT_EQ(printed.find("slot 3", first + 1), std::string::npos) << "once only: " << printed;
}

TEST(Stats, CountWhatWasSent) {
  forEachRank(4, makeConfig(slimAlgoTwoShot, 1 << 20), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, "ef(qsgd(bits=4))", 1), slimSuccess);
    const size_t count = 1 << 20;
    const Bytes x = makeInput(slimFloat32, count, rank, 0);
    Bytes y(x.size());
    for (int k = 0; k < 2; k++)
      ASSERT_EQ(slimAllReduce(x.data(), y.data(), count, slimFloat32, slimSum, tensor, comm, nullptr), slimSuccess);
    slimTensorStats_t stats = {};
    stats.size = sizeof stats;
    ASSERT_EQ(slimTensorGetStats(tensor, &stats), slimSuccess);
    EXPECT_EQ(stats.calls, 2u);
    EXPECT_EQ(stats.elements, 2 * count);
    EXPECT_EQ(stats.plainBytes, 2 * 3 * count * 4 / 2);
    EXPECT_GT((double)stats.plainBytes / (double)stats.wireBytes, 7.7);
    EXPECT_LT((double)stats.plainBytes / (double)stats.wireBytes, 8);
    EXPECT_EQ(stats.stateBytes, count * 4 + count);
    EXPECT_GT(stats.relativeError, 0.01);
    EXPECT_LT(stats.relativeError, 0.5);
    EXPECT_GT(stats.stateRatio, 0);
    EXPECT_EQ(stats.flaggedUnits, 0u);
    stats.size = 3;
    EXPECT_EQ(slimTensorGetStats(tensor, &stats), slimInvalidArgument);
  });
}

}  // namespace
}  // namespace slim_test
