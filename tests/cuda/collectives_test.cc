// Collectives on device memory: the CPU's bits, eagerly and from graphs, and what goes wrong.
#include <gtest/gtest.h>

#include <limits>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "compress/compress.h"
#include "tests/collectives/model.h"
#include "tests/cuda/device.h"

namespace slim_test {
namespace {

std::vector<int> devicesFor(int ranks, bool several) {
  std::vector<int> devices(ranks);
  for (int r = 0; r < ranks && several; r++) devices[r] = r % deviceCount();
  return devices;
}

slimConfig_t configOf(const Case& setup) {
  slimConfig_t config = makeConfig(setup.algo, setup.sliceBytes);
  config.deviceBytes = 8 << 20;
  return config;
}

slimResult_t call(const Case& setup, slimRedOp_t op, int rank, slimTensor_t tensor, slimComm_t comm, const void* x,
                  void* y, slimStream_t stream) {
  switch (setup.kind) {
    case Kind::kAllReduce:
      return slimAllReduce(x, y, setup.count, setup.type, op, tensor, comm, stream);
    case Kind::kReduce:
      return slimReduce(x, rank == setup.root ? y : nullptr, setup.count, setup.type, op, setup.root, tensor, comm,
                        stream);
    case Kind::kBroadcast:
      return slimBroadcast(rank == setup.root ? x : nullptr, y, setup.count, setup.type, setup.root, tensor, comm,
                           stream);
    case Kind::kReduceScatter:
      return slimReduceScatter(x, y, setup.count, setup.type, op, tensor, comm, stream);
    case Kind::kAllGather:
      return slimAllGather(x, y, setup.count, setup.type, tensor, comm, stream);
  }
  return slimInternalError;
}

Bytes fileContent(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}
std::string stateFile(int rank) {
  const char* folder = std::getenv("TEST_TMPDIR");
  return std::string(folder ? folder : "/tmp") + "/slimccl_" + std::to_string(getpid()) + "_" + std::to_string(rank);
}
Bytes savedState(slimComm_t comm, int rank) {
  EXPECT_EQ(slimStateSave(comm, stateFile(rank).c_str()), slimSuccess) << slimGetLastError();
  const Bytes content = fileContent(stateFile(rank));
  std::remove(stateFile(rank).c_str());
  return content;
}

slimRedOp_t opOf(int step) { return step % 2 ? slimSum : slimAvg; }

// What each rank gives and gets, step by step; and its state file after the last.
struct Record {
  std::vector<std::vector<Bytes>> x, y;  // [step][rank]
  std::vector<Bytes> shift, state;       // [rank]
  std::vector<double> errors;            // [rank]: relative error of the last step
  std::vector<uint64_t> flagged;
};

Record inputsOf(const Case& setup, int steps, Fill fill) {
  Record run;
  run.x.resize(steps);
  for (int k = 0; k < steps; k++)
    for (int r = 0; r < setup.ranks; r++)
      run.x[k].push_back(makeInput(setup.type, setup.sendCount(), r, k, k == 1 ? fill : Fill::kNormal));
  if (setup.spec.find("shift(") != std::string::npos)
    for (int r = 0; r < setup.ranks; r++) run.shift.push_back(makeInput(setup.type, setup.sendCount(), r, 77));
  run.y.assign(steps, std::vector<Bytes>(setup.ranks));
  run.state.resize(setup.ranks);
  run.errors.resize(setup.ranks);
  run.flagged.resize(setup.ranks);
  return run;
}

slimTensor_t open(const Case& setup, const Record& run, int rank, slimComm_t comm) {
  slimTensor_t tensor = nullptr;
  EXPECT_EQ(slimTensorCreate(&tensor, comm, setup.spec.c_str(), setup.slot), slimSuccess) << slimGetLastError();
  if (!run.shift.empty()) {
    EXPECT_EQ(slimTensorSetShift(tensor, run.shift[rank].data(), setup.sendCount(), setup.type), slimSuccess);
  }
  return tensor;
}

void note(Record& run, int rank, slimTensor_t tensor, slimComm_t comm) {
  slimTensorStats_t stats = {};
  stats.size = sizeof stats;
  EXPECT_EQ(slimTensorGetStats(tensor, &stats), slimSuccess) << slimGetLastError();
  run.errors[rank] = stats.relativeError;
  run.flagged[rank] = stats.flaggedUnits;
  run.state[rank] = savedState(comm, rank);
}

Record onHost(const Case& setup, int steps, Fill fill) {
  Record run = inputsOf(setup, steps, fill);
  forEachRank(setup.ranks, configOf(setup), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor = open(setup, run, rank, comm);
    for (int k = 0; k < steps; k++) {
      Buffer in(run.x[k][rank]), out(setup.recvCount() * slimTypeBytes(setup.type));
      ASSERT_EQ(call(setup, opOf(k), rank, tensor, comm, in.data(), out.data(), nullptr), slimSuccess)
          << slimGetLastError();
      if (setup.kind != Kind::kReduce || rank == setup.root) run.y[k][rank] = out.content();
    }
    note(run, rank, tensor, comm);
  });
  return run;
}

class DeviceGroup {
 public:
  DeviceGroup(int ranks, const slimConfig_t& config, bool several = false)
      : devices(devicesFor(ranks, several)), comms(ranks) {
    testDriver();
    if (slimCommInitLocalDevices(comms.data(), ranks, devices.data(), &config) != slimSuccess) {
      ADD_FAILURE() << slimGetLastError();
      std::exit(1);
    }
  }
  ~DeviceGroup() {
    for (auto comm : comms) slimCommDestroy(comm);
  }
  const std::vector<int> devices;
  std::vector<slimComm_t> comms;
};

Record onDevice(const Case& setup, int steps, Fill fill, bool several, size_t shift = 0, bool inPlace = false) {
  Record run = inputsOf(setup, steps, fill);
  DeviceGroup group(setup.ranks, configOf(setup), several);
  inThreads(group.devices, [&](int rank) {
    slimComm_t comm = group.comms[rank];
    slimTensor_t tensor = open(setup, run, rank, comm);
    const size_t size = slimTypeBytes(setup.type), own = (size_t)rank * setup.count * size;
    Stream stream;
    for (int k = 0; k < steps; k++) {
      DeviceBuffer in(run.x[k][rank], shift), out(Bytes(setup.recvCount() * size), shift);
      uint8_t *from = in.data(), *to = out.data();
      if (inPlace && setup.kind == Kind::kReduceScatter) {
        to = from + own;
      } else if (inPlace && setup.kind == Kind::kAllGather) {
        Bytes whole(setup.recvCount() * size);
        std::copy(run.x[k][rank].begin(), run.x[k][rank].end(), whole.begin() + (long)own);
        out.set(whole);
        from = to + own;
      } else if (inPlace) {
        to = from;
      }
      ASSERT_EQ(call(setup, opOf(k), rank, tensor, comm, from, to, stream), slimSuccess) << slimGetLastError();
      stream.wait();
      EXPECT_TRUE(in.intact() && out.intact());
      if (!inPlace) {
        EXPECT_EQ(in.content(), run.x[k][rank]) << "sendbuff was written";
      }
      if (setup.kind == Kind::kReduce && rank != setup.root) continue;
      const DeviceBuffer& holder = to >= in.data() && to < in.data() + run.x[k][rank].size() ? in : out;
      const Bytes all = holder.content();
      const long at = to - holder.data();
      run.y[k][rank] = Bytes(all.begin() + at, all.begin() + at + (long)(setup.recvCount() * size));
    }
    note(run, rank, tensor, comm);
  });
  return run;
}

// A sum's NaN is the processor's: of fp32, which passes NaN on, all are one here.
Bytes withOneNan(const Case& setup, Bytes y) {
  if (setup.type != slimFloat32) return y;
  for (size_t i = 0; i + 4 <= y.size(); i += 4) {
    float x;
    std::memcpy(&x, &y[i], 4);
    if (x != x) x = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(&y[i], &x, 4);
  }
  return y;
}

void expectSame(const Case& setup, const Record& device, const Record& host) {
  for (size_t k = 0; k < host.y.size(); k++)
    for (size_t r = 0; r < host.y[k].size(); r++)
      ASSERT_EQ(withOneNan(setup, device.y[k][r]), withOneNan(setup, host.y[k][r])) << "step " << k << " rank " << r;
  for (size_t r = 0; r < host.state.size(); r++) {
    EXPECT_EQ(device.state[r], host.state[r]) << "state of rank " << r;
    EXPECT_EQ(device.flagged[r], host.flagged[r]) << "rank " << r;
    EXPECT_NEAR(device.errors[r], host.errors[r], 1e-3 * host.errors[r] + 1e-12) << "rank " << r;
  }
}

void runCase(const Case& setup, int steps = 3, Fill fill = Fill::kNormal, bool several = false, size_t shift = 0,
             bool inPlace = false) {
  SCOPED_TRACE(setup.name());
  expectSame(setup, onDevice(setup, steps, fill, several, shift, inPlace), onHost(setup, steps, fill));
}

const int kRanks[] = {1, 2, 3, 4, 8};
// Slices of a few units, so that a call has several.
constexpr size_t kSlice = 16 << 10;

const char* const kSpecs[] = {
    "fp32",
    "ef(fp16)",
    "qsgd(bits=4)",
    "ef(onebit)",
    "diana(qsgd(bits=4))",
    "ef21(qsgd(bits=3),momentum=0.5)",
    "shift(qsgd(bits=4))",
    "ef(onebit,warmup=1)",
    "diana(ternary,init=first)",
    "diana(natural,resync=2)",
    "rand_diana(qsgd(bits=4),p=0.5)",
    "up=ef(onebit); down=ef(qsgd(bits=8))",
    "up=diana(qsgd(bits=4)); down=diana(qsgd(bits=8))",
};

TEST(DeviceCollectives, AllReduceHasTheCpusBits) {
  for (const char* spec : kSpecs)
    for (int ranks : kRanks) {
      Case setup;
      setup.spec = spec;
      setup.ranks = ranks;
      setup.count = 10007;
      setup.sliceBytes = kSlice;
      runCase(setup);
    }
}

TEST(DeviceCollectives, SelectorsAndTransformsHaveTheCpusBits) {
  for (const char* spec : {"ef(topk(ratio=0.05))", "ef(topk(ratio=0.05,scope=chunk))", "ef_bv(randk(ratio=0.1))",
                           "ef(randk(ratio=0.1,seed=shared,scope=chunk))", "ef(rotate(qsgd(bits=2)))",
                           "up=ef(rotate(onebit)); down=none(fp32)", "diana(induced(topk(ratio=0.05),qsgd(bits=4)))",
                           "up=ef(onebit); down=ef21(topk(ratio=0.1))"})
    for (int ranks : {1, 3}) {
      Case setup;
      setup.spec = spec;
      setup.ranks = ranks;
      setup.count = 20011;
      setup.sliceBytes = 2 * kSlice;
      runCase(setup, 2);
    }
  Case global;
  global.spec = "ef(topk(ratio=0.01,scope=global))";
  global.algo = slimAlgoOneShot;
  global.ranks = 3;
  global.count = 20011;
  runCase(global, 2, Fill::kNonFinite);
}

// What ranks share or keep of a unit or a piece, and a memory of half the size.
const char* const kKeepers[] = {
    "fo(lambda=shared)",
    "none(fo(f=2,lambda=shared,block=64),warmup=1)",
    "tnqsgd(bits=3,stats=tensor)",
    "ef(tnqsgd(bits=3,model=powerlaw,stats=tensor))",
    "ef(tbqsgd(bits=3,stats=previous),memory=bf16)",
    "up=qsgd(bits=4); down=tnqsgd(bits=2,stats=previous)",
    "ef(onebit,memory=bf16)",
};
TEST(DeviceCollectives, SharedAndKeptStatisticsHaveTheCpusBits) {
  for (const char* spec : kKeepers)
    for (slimAlgo_t algo : {slimAlgoTwoShot, slimAlgoOneShot})
      for (int ranks : kRanks) {
        if (algo == slimAlgoOneShot && (ranks % 2 || std::string(spec).find("down=") != std::string::npos)) continue;
        Case setup;
        setup.spec = spec;
        setup.algo = algo;
        setup.ranks = ranks;
        setup.count = 4001;
        setup.sliceBytes = kSlice;
        runCase(setup, 3, ranks == 3 ? Fill::kNonFinite : Fill::kNormal, false, ranks == 2 ? 4 : 0);
      }
}

TEST(DeviceCollectives, SharedAndKeptStatisticsOfOtherTypesAndKindsHaveTheCpusBits) {
  for (const char* spec : {"fo(lambda=shared,block=256)", "ef(onebit,memory=bf16)"})
    for (slimAlgo_t algo : {slimAlgoTwoShot, slimAlgoOneShot}) {
      Case setup;
      setup.spec = spec;
      setup.algo = algo;
      setup.ranks = 3;
      setup.count = 5003;
      setup.type = slimFloat64;
      setup.sliceBytes = 2 * kSlice;
      runCase(setup, 3, Fill::kNonFinite);
    }
  for (Kind kind : {Kind::kReduce, Kind::kBroadcast, Kind::kReduceScatter, Kind::kAllGather})
    for (const char* spec : {"tbqsgd(bits=3,stats=previous)", "ef(topk(ratio=0.05,scope=chunk),memory=bf16)"}) {
      Case setup;
      setup.kind = kind;
      setup.spec = spec;
      setup.ranks = 3;
      setup.root = 1;
      setup.count = 9001;
      setup.type = slimFloat16;
      setup.sliceBytes = kSlice;
      runCase(setup);
    }
}

TEST(DeviceCollectives, OneShotHasTheCpusBits) {
  for (const char* spec : {"qsgd(bits=4)", "ef(onebit)", "diana(qsgd(bits=4))", "diana(ternary,init=first)"})
    for (int ranks : kRanks) {
      Case setup;
      setup.spec = spec;
      setup.algo = slimAlgoOneShot;
      setup.ranks = ranks;
      setup.count = 5003;
      setup.sliceBytes = kSlice;
      runCase(setup);
    }
}

TEST(DeviceCollectives, OtherKindsHaveTheCpusBits) {
  for (Kind kind : {Kind::kReduce, Kind::kBroadcast, Kind::kReduceScatter, Kind::kAllGather})
    for (const char* spec : {"qsgd(bits=4)", "ef(onebit)", "diana(qsgd(bits=4),init=first)"})
      for (int ranks : kRanks) {
        Case setup;
        setup.kind = kind;
        setup.spec = spec;
        setup.ranks = ranks;
        setup.root = ranks / 2;
        setup.count = 3001;
        setup.sliceBytes = kSlice;
        runCase(setup);
        if (kind == Kind::kReduceScatter || kind == Kind::kAllGather) runCase(setup, 2, Fill::kNormal, false, 0, true);
      }
}

TEST(DeviceCollectives, TypesLengthsAndAlignmentsHaveTheCpusBits) {
  for (slimDataType_t type : {slimFloat16, slimBfloat16, slimFloat32, slimFloat64})
    for (size_t count : {0, 1, 511, 512, 513, 4100})
      for (size_t shift : {size_t(0), slimTypeBytes(type)}) {
        Case setup;
        setup.spec = "ef(qsgd(bits=4))";
        setup.type = type;
        setup.ranks = 3;
        setup.count = count;
        setup.sliceBytes = kSlice;
        runCase(setup, 2, Fill::kNormal, false, shift);
      }
}

TEST(DeviceCollectives, NonFiniteElementsHaveTheCpusBits) {
  for (const char* spec : {"qsgd(bits=4)", "ef(onebit)", "diana(qsgd(bits=4))", "diana(ternary,init=first)", "fp32",
                           "rand_diana(qsgd(bits=4),p=0.5)"})
    for (slimAlgo_t algo : {slimAlgoTwoShot, slimAlgoOneShot}) {
      Case setup;
      setup.spec = spec;
      setup.algo = algo;
      setup.ranks = 3;
      setup.count = 9001;
      setup.sliceBytes = kSlice;
      runCase(setup, 3, Fill::kNonFinite);
    }
}

TEST(DeviceCollectives, InPlaceAndOverSeveralDevicesHaveTheCpusBits) {
  Case setup;
  setup.spec = "ef(onebit)";
  setup.count = 9001;
  setup.sliceBytes = kSlice;
  for (int ranks : kRanks) {
    setup.ranks = ranks;
    runCase(setup, 2, Fill::kNormal, true);
    runCase(setup, 2, Fill::kNormal, true, 0, true);
  }
}

// What needs no arithmetic is served for all types, without a tensor too; what does is refused in words.
TEST(DeviceCollectives, PlainAllGatherAndBroadcastMoveAllTypes) {
  for (slimDataType_t type : {slimInt8, slimInt64, slimFloat16})
    for (int ranks : kRanks) {
      SCOPED_TRACE("type " + std::to_string(type) + " ranks " + std::to_string(ranks));
      const size_t count = 1001, size = slimTypeBytes(type);
      const int root = ranks / 2;
      DeviceGroup group(ranks, configOf(Case()));
      inThreads(group.devices, [&](int rank) {
        slimComm_t comm = group.comms[rank];
        Stream stream;
        Bytes all;
        for (int r = 0; r < ranks; r++) {
          const Bytes one = makeInput(type, count, r, 0);
          all.insert(all.end(), one.begin(), one.end());
        }
        const Bytes roots = makeInput(type, count, root, 0);
        DeviceBuffer x(makeInput(type, count, rank, 0)), gathered(Bytes(all.size())), spread(Bytes(count * size));
        ASSERT_EQ(slimAllGather(x.data(), gathered.data(), count, type, nullptr, comm, stream), slimSuccess)
            << slimGetLastError();
        ASSERT_EQ(slimBroadcast(x.data(), spread.data(), count, type, root, nullptr, comm, stream), slimSuccess)
            << slimGetLastError();
        stream.wait();
        EXPECT_EQ(gathered.content(), all);
        EXPECT_EQ(spread.content(), roots);
        EXPECT_EQ(slimAllReduce(x.data(), spread.data(), count, type, slimMax, nullptr, comm, stream),
                  slimInvalidUsage);
      });
    }
}

// A state file knows no device: saved by one, it goes on on the other.
TEST(DeviceCollectives, AStateSavedOnTheCpuGoesOnOnADevice) {
  Case setup;
  setup.spec = "diana(qsgd(bits=4))";
  setup.ranks = 2;
  setup.count = 5000;
  setup.sliceBytes = kSlice;
  const Record two = onHost(setup, 2, Fill::kNormal), three = onHost(setup, 3, Fill::kNormal);
  DeviceGroup group(setup.ranks, configOf(setup));
  inThreads(group.devices, [&](int rank) {
    slimTensor_t tensor = open(setup, two, rank, group.comms[rank]);
    {
      std::ofstream out(stateFile(rank), std::ios::binary);
      out.write(reinterpret_cast<const char*>(two.state[rank].data()), (std::streamsize)two.state[rank].size());
    }
    ASSERT_EQ(slimStateLoad(group.comms[rank], stateFile(rank).c_str()), slimSuccess) << slimGetLastError();
    std::remove(stateFile(rank).c_str());
    Stream stream;
    DeviceBuffer in(three.x[2][rank]), out(three.x[2][rank]);
    ASSERT_EQ(call(setup, opOf(2), rank, tensor, group.comms[rank], in.data(), out.data(), stream), slimSuccess)
        << slimGetLastError();
    stream.wait();
    EXPECT_EQ(out.content(), three.y[2][rank]);
    EXPECT_EQ(savedState(group.comms[rank], rank), three.state[rank]);
  });
}

class RescaleCancelAndReset : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Specs, RescaleCancelAndReset,
                         testing::Values("ef(onebit)", "ef(onebit,memory=bf16)",
                                         "ef(tbqsgd(bits=3,stats=previous),memory=bf16)"));
TEST_P(RescaleCancelAndReset, HaveTheCpusBits) {
  Case setup;
  setup.spec = GetParam();
  setup.ranks = 2;
  setup.count = 5000;
  setup.sliceBytes = kSlice;
  Record host = inputsOf(setup, 4, Fill::kNormal), device = host;
  const auto steps = [&](Record& run, int rank, slimComm_t comm, slimTensor_t tensor, auto&& one, auto&& at) {
    one(0);
    ASSERT_EQ(slimTensorRescale(tensor, 0.25), slimSuccess) << slimGetLastError();
    one(1);
    ASSERT_EQ(slimTensorCancelStep(tensor, at(1)), slimSuccess) << slimGetLastError();
    one(2);
    run.state[rank] = savedState(comm, rank);
    ASSERT_EQ(slimTensorReset(tensor), slimSuccess) << slimGetLastError();
    one(3);
  };
  forEachRank(setup.ranks, configOf(setup), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor = open(setup, host, rank, comm);
    std::vector<Buffer> in;
    for (int k = 0; k < 4; k++) in.emplace_back(host.x[k][rank]);
    steps(
        host, rank, comm, tensor,
        [&](int k) {
          Buffer out(in[k].content().size());
          ASSERT_EQ(call(setup, slimAvg, rank, tensor, comm, in[k].data(), out.data(), nullptr), slimSuccess);
          host.y[k][rank] = out.content();
        },
        [&](int k) { return in[k].data(); });
  });
  DeviceGroup group(setup.ranks, configOf(setup));
  inThreads(group.devices, [&](int rank) {
    slimTensor_t tensor = open(setup, device, rank, group.comms[rank]);
    Stream stream;
    std::vector<std::unique_ptr<DeviceBuffer>> in;
    for (int k = 0; k < 4; k++) in.push_back(std::make_unique<DeviceBuffer>(device.x[k][rank]));
    DeviceBuffer out(device.x[0][rank]);
    steps(
        device, rank, group.comms[rank], tensor,
        [&](int k) {
          ASSERT_EQ(call(setup, slimAvg, rank, tensor, group.comms[rank], in[k]->data(), out.data(), stream),
                    slimSuccess)
              << slimGetLastError();
          stream.wait();
          device.y[k][rank] = out.content();
        },
        [&](int k) { return in[k]->data(); });
  });
  EXPECT_EQ(device.y, host.y);
  EXPECT_EQ(device.state, host.state);
}

std::string lastError() { return slimGetLastError(); }

// ---- Graphs --------------------------------------------------------------------------------------------------------

// slimTensorSetLambda between steps: a schedule.
TEST(DeviceCollectives, AScheduledLambdaHasTheCpusBits) {
  for (const char* spec : {"fo(lambda=0.5)", "ef(onebit(dither,lambda=2))"})
    for (int ranks : kRanks) {
      Case setup;
      setup.spec = spec;
      setup.ranks = ranks;
      setup.count = 3001;
      SCOPED_TRACE(setup.name());
      const int steps = 4;
      Record host = inputsOf(setup, steps, Fill::kNormal);
      const auto schedule = [&](int k, slimTensor_t tensor) {
        if (k % 2 == 0) return;
        ASSERT_EQ(slimTensorSetLambda(tensor, 1.0 / k), slimSuccess) << slimGetLastError();
      };
      forEachRank(ranks, configOf(setup), [&](int rank, slimComm_t comm) {
        slimTensor_t tensor = open(setup, host, rank, comm);
        for (int k = 0; k < steps; k++) {
          Buffer in(host.x[k][rank]), out(host.x[k][rank].size());
          schedule(k, tensor);
          ASSERT_EQ(call(setup, slimAvg, rank, tensor, comm, in.data(), out.data(), nullptr), slimSuccess);
          host.y[k][rank] = out.content();
        }
      });
      DeviceGroup group(ranks, configOf(setup));
      inThreads(group.devices, [&](int rank) {
        Stream stream;
        slimTensor_t tensor = open(setup, host, rank, group.comms[rank]);
        for (int k = 0; k < steps; k++) {
          DeviceBuffer in(host.x[k][rank]), out(host.x[k][rank]);
          schedule(k, tensor);
          ASSERT_EQ(call(setup, slimAvg, rank, tensor, group.comms[rank], in.data(), out.data(), stream), slimSuccess)
              << slimGetLastError();
          stream.wait();
          EXPECT_EQ(out.content(), host.y[k][rank]) << "step " << k << ", rank " << rank;
        }
      });
    }
}

// One eager step, then three replays of one captured step: each with its own draws, as if they were plain steps.
TEST(DeviceGraphs, ReplaysAreStepsOfTheirOwn) {
  for (const char* spec : {"qsgd(bits=4)", "ef(onebit)", "diana(ternary)", "ef21(qsgd(bits=3),momentum=0.5)",
                           "fo(lambda=shared)", "ef(tnqsgd(bits=3,stats=previous),memory=bf16)"})
    for (int ranks : kRanks)
      for (int eager : {1, 0}) {  // the first call may be captured too: its state starts then
        Case setup;
        setup.spec = spec;
        setup.ranks = ranks;
        setup.count = 9001;
        setup.sliceBytes = kSlice;
        SCOPED_TRACE(setup.name());
        Record host = inputsOf(setup, 4, Fill::kNormal);
        for (int k = eager + 1; k < 4; k++) host.x[k] = host.x[eager]; /* a graph reads the same buffer */
        forEachRank(ranks, configOf(setup), [&](int rank, slimComm_t comm) {
          slimTensor_t tensor = open(setup, host, rank, comm);
          for (int k = 0; k < 4; k++) {
            Buffer in(host.x[k][rank]), out(host.x[k][rank].size());
            ASSERT_EQ(call(setup, slimAvg, rank, tensor, comm, in.data(), out.data(), nullptr), slimSuccess);
            host.y[k][rank] = out.content();
          }
          host.state[rank] = savedState(comm, rank);
        });

        DeviceGroup group(ranks, configOf(setup));
        std::vector<std::unique_ptr<Stream>> own;
        std::vector<CUstream> streams;
        std::vector<std::unique_ptr<DeviceBuffer>> in, out;
        std::vector<slimTensor_t> tensors(ranks);
        for (int r = 0; r < ranks; r++) {
          own.push_back(std::make_unique<Stream>());
          streams.push_back(*own.back());
          in.push_back(std::make_unique<DeviceBuffer>(host.x[0][r]));
          out.push_back(std::make_unique<DeviceBuffer>(host.x[0][r]));
          tensors[r] = open(setup, host, r, group.comms[r]);
        }
        const auto step = [&](int r) {
          ASSERT_EQ(call(setup, slimAvg, r, tensors[r], group.comms[r], in[r]->data(), out[r]->data(), streams[r]),
                    slimSuccess)
              << slimGetLastError();
        };
        if (eager) inThreads(group.devices, step);
        for (auto s : streams) CU(StreamSynchronize, s);
        for (int r = 0; r < ranks && eager; r++) EXPECT_EQ(out[r]->content(), host.y[0][r]);
        CUgraphExec graph = capture(group.devices, streams, step);
        for (int r = 0; r < ranks; r++) {
          EXPECT_EQ(out[r]->content(), eager ? host.y[0][r] : host.x[0][r]) << "capturing ran something";
          in[r]->set(host.x[1][r]);
        }
        std::vector<Bytes> seen;
        for (int k = eager; k < 4; k++) {
          CU_TEST(GraphLaunch, graph, streams[0]);
          CU(StreamSynchronize, streams[0]);
          for (int r = 0; r < ranks; r++) ASSERT_EQ(out[r]->content(), host.y[k][r]) << "replay " << k << " rank " << r;
          seen.push_back(out[0]->content());
        }
        if (setup.spec == "qsgd(bits=4)") {
          EXPECT_TRUE(seen[0] != seen[1] && seen[1] != seen[2] && seen[0] != seen[2])
              << "a replay drew what another drew";
        }
        for (int r = 0; r < ranks; r++) EXPECT_EQ(savedState(group.comms[r], r), host.state[r]);
        CU_TEST(GraphExecDestroy, graph);
      }
}

// A graph's buffers are its own: eager calls of another tensor on another stream, at the same time, disturb nothing.
void replayBeside(const char* eagerSpec) {
  Case graphed, eager;
  graphed.spec = "ef(qsgd(bits=4))";
  graphed.ranks = eager.ranks = 2;
  graphed.count = eager.count = 30011;
  graphed.sliceBytes = eager.sliceBytes = kSlice;
  eager.spec = eagerSpec;
  eager.slot = 1;
  const int steps = 6;
  Record hostGraphed = inputsOf(graphed, 1, Fill::kNormal), hostEager = onHost(eager, steps, Fill::kNormal);
  std::vector<Bytes> last(2);
  forEachRank(2, configOf(graphed), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor = open(graphed, hostGraphed, rank, comm);
    for (int k = 0; k < steps; k++) {
      Buffer in(hostGraphed.x[0][rank]), out(hostGraphed.x[0][rank].size());
      ASSERT_EQ(call(graphed, slimAvg, rank, tensor, comm, in.data(), out.data(), nullptr), slimSuccess);
      last[rank] = out.content();
    }
  });

  DeviceGroup group(2, configOf(graphed));
  Stream a0, a1, b0, b1;
  const std::vector<CUstream> a = {a0, a1}, b = {b0, b1};
  std::vector<std::unique_ptr<DeviceBuffer>> in, out, eagerIn, eagerOut;
  std::vector<slimTensor_t> tensors(2), others(2);
  for (int r = 0; r < 2; r++) {
    in.push_back(std::make_unique<DeviceBuffer>(hostGraphed.x[0][r]));
    out.push_back(std::make_unique<DeviceBuffer>(hostGraphed.x[0][r]));
    tensors[r] = open(graphed, hostGraphed, r, group.comms[r]);
    others[r] = open(eager, hostEager, r, group.comms[r]);
    for (int k = 0; k < steps; k++) {
      eagerIn.push_back(std::make_unique<DeviceBuffer>(hostEager.x[k][r]));
      eagerOut.push_back(std::make_unique<DeviceBuffer>(hostEager.x[k][r]));
    }
  }
  const auto step = [&](int r) {
    ASSERT_EQ(call(graphed, slimAvg, r, tensors[r], group.comms[r], in[r]->data(), out[r]->data(), a[r]), slimSuccess)
        << slimGetLastError();
  };
  inThreads(group.devices, step);
  for (auto s : a) CU(StreamSynchronize, s);
  CUgraphExec graph = capture(group.devices, a, step);
  for (int k = 1; k < steps; k++) CU_TEST(GraphLaunch, graph, a0);
  inThreads(group.devices, [&](int r) {
    for (int k = 0; k < steps; k++)
      ASSERT_EQ(call(eager, opOf(k), r, others[r], group.comms[r], eagerIn[r * steps + k]->data(),
                     eagerOut[r * steps + k]->data(), b[r]),
                slimSuccess)
          << slimGetLastError();
  });
  for (auto s : {a[0], a[1], b[0], b[1]}) CU(StreamSynchronize, s);
  for (int r = 0; r < 2; r++) {
    EXPECT_EQ(out[r]->content(), last[r]);
    for (int k = 0; k < steps; k++) EXPECT_EQ(eagerOut[r * steps + k]->content(), hostEager.y[k][r]);
  }
  CU_TEST(GraphExecDestroy, graph);
}
// The second one's buffers are no larger than the graph's: they would do for it, too.
TEST(DeviceGraphs, ReplaysRunBesideEagerCalls) {
  replayBeside("diana(qsgd(bits=4))");
  replayBeside("ef(qsgd(bits=4))");
}

// Far more graphs than there is room for, one after the other, beside one that stays; eager calls in between.
TEST(DeviceGraphs, RoomComesBack) {
  const int times = 8;
  for (int ranks : kRanks) {
    Case setup, eager;
    setup.spec = eager.spec = "ef(qsgd(bits=4))";
    setup.ranks = eager.ranks = ranks;
    setup.count = eager.count = 9001;
    setup.sliceBytes = eager.sliceBytes = kSlice;
    eager.slot = 1;
    SCOPED_TRACE(setup.name());
    const Record hostEager = onHost(eager, times, Fill::kNormal);
    Record host = inputsOf(setup, 1, Fill::kNormal); /* each step takes the same */
    host.y.assign(3 * times + 1, std::vector<Bytes>(ranks));
    forEachRank(ranks, configOf(setup), [&](int rank, slimComm_t comm) {
      slimTensor_t tensor = open(setup, host, rank, comm);
      for (auto& y : host.y) {
        Buffer in(host.x[0][rank]), out(host.x[0][rank].size());
        ASSERT_EQ(call(setup, slimAvg, rank, tensor, comm, in.data(), out.data(), nullptr), slimSuccess);
        y[rank] = out.content();
      }
    });
    for (const bool dropped : {true, false}) {
      slimConfig_t config = configOf(setup);
      config.deviceBytes = 640 << 10;
      DeviceGroup group(ranks, config);
      std::vector<std::unique_ptr<Stream>> own;
      std::vector<CUstream> streams;
      std::vector<std::unique_ptr<DeviceBuffer>> in, out;
      std::vector<slimTensor_t> tensors(ranks), others(ranks);
      std::vector<slimResult_t> answer(ranks);
      for (int r = 0; r < ranks; r++) {
        own.push_back(std::make_unique<Stream>());
        streams.push_back(*own.back());
        in.push_back(std::make_unique<DeviceBuffer>(host.x[0][r]));
        out.push_back(std::make_unique<DeviceBuffer>(host.x[0][r]));
        tensors[r] = open(setup, host, r, group.comms[r]);
        others[r] = open(eager, hostEager, r, group.comms[r]);
      }
      const auto step = [&](int r) {
        answer[r] = call(setup, slimAvg, r, tensors[r], group.comms[r], in[r]->data(), out[r]->data(), streams[r]);
      };
      int steps = 0;
      const auto replay = [&](CUgraphExec graph) {
        CU_TEST(GraphLaunch, graph, streams[0]);
        CU(StreamSynchronize, streams[0]);
        for (int r = 0; r < ranks; r++) ASSERT_EQ(out[r]->content(), host.y[steps][r]) << "step " << steps;
        steps++;
      };
      std::vector<CUgraphExec> graphs = {capture(group.devices, streams, step)};
      replay(graphs[0]);
      for (int k = 0; k < times; k++) {
        graphs.push_back(capture(group.devices, streams, step));
        if (answer[0] != slimSuccess) break;
        replay(graphs.back());
        replay(graphs[0]);
        if (dropped) {
          CU_TEST(GraphExecDestroy, graphs.back());
          graphs.pop_back();
          waitForDriver();
        }
        inThreads(group.devices, [&](int r) {
          DeviceBuffer eagerIn(hostEager.x[k][r]), eagerOut(hostEager.x[k][r]);
          ASSERT_EQ(call(eager, opOf(k), r, others[r], group.comms[r], eagerIn.data(), eagerOut.data(), streams[r]),
                    slimSuccess)
              << slimGetLastError();
          CU(StreamSynchronize, streams[r]);
          EXPECT_EQ(eagerOut.content(), hostEager.y[k][r]);
        });
      }
      EXPECT_EQ(answer, std::vector<slimResult_t>(ranks, dropped ? slimSuccess : slimSystemError)) << lastError();
      for (auto graph : graphs) CU_TEST(GraphExecDestroy, graph);
    }
  }
}

// Eager calls of one communicator share buffers: on changing streams they still run one after the other.
TEST(DeviceCollectives, CallsOnDifferentStreamsAreOrdered) {
  Case setup;
  setup.spec = "ef(onebit)";
  setup.ranks = 2;
  setup.count = 30011;
  setup.sliceBytes = kSlice;
  const int steps = 6;
  const Record host = onHost(setup, steps, Fill::kNormal);
  DeviceGroup group(2, configOf(setup));
  inThreads(group.devices, [&](int rank) {
    slimTensor_t tensor = open(setup, host, rank, group.comms[rank]);
    Stream streams[2];
    std::vector<std::unique_ptr<DeviceBuffer>> in, out;
    for (int k = 0; k < steps; k++) {
      in.push_back(std::make_unique<DeviceBuffer>(host.x[k][rank]));
      out.push_back(std::make_unique<DeviceBuffer>(host.x[k][rank]));
    }
    for (int k = 0; k < steps; k++)
      ASSERT_EQ(call(setup, opOf(k), rank, tensor, group.comms[rank], in[k]->data(), out[k]->data(), streams[k % 2]),
                slimSuccess)
          << slimGetLastError();
    streams[0].wait();
    streams[1].wait();
    for (int k = 0; k < steps; k++) EXPECT_EQ(out[k]->content(), host.y[k][rank]) << "step " << k;
  });
}

// ---- Errors --------------------------------------------------------------------------------------------------------

TEST(DeviceErrors, ArgumentsAreRefusedInWords) {
  slimConfig_t config = makeConfig();
  config.deviceBytes = 8 << 20;
  slimComm_t comm;
  int none = deviceCount();
  EXPECT_EQ(slimCommInitLocalDevices(&comm, 1, &none, &config), slimInvalidArgument);
  EXPECT_NE(lastError().find("device " + std::to_string(none)), std::string::npos) << lastError();
  EXPECT_EQ(slimCommInitLocalDevices(&comm, 1, nullptr, &config), slimInvalidArgument);

  DeviceGroup group(1, config);
  slimTensor_t tensor, greedy, linear;
  ASSERT_EQ(slimTensorCreate(&tensor, group.comms[0], "ef(onebit)", 0), slimSuccess);
  ASSERT_EQ(slimTensorCreate(&greedy, group.comms[0], "ef(onebit)", 1), slimSuccess);
  std::vector<float> host(4 << 20);
  DeviceBuffer x(Bytes(4096)), big(Bytes(host.size() * 4));
  EXPECT_EQ(slimAllReduce(host.data(), x.data(), 1024, slimFloat32, slimAvg, tensor, group.comms[0], nullptr),
            slimInvalidArgument);
  EXPECT_NE(lastError().find("sendbuff is not memory of a CUDA device"), std::string::npos) << lastError();
  EXPECT_EQ(slimAllReduce(big.data(), big.data(), host.size(), slimFloat32, slimAvg, greedy, group.comms[0], nullptr),
            slimSystemError);
  EXPECT_NE(lastError().find("deviceBytes"), std::string::npos) << lastError();
  EXPECT_EQ(slimAllReduce(x.data(), x.data(), 1024, slimFloat32, slimAvg, tensor, group.comms[0], nullptr), slimSuccess)
      << lastError();

  config.algo = slimAlgoLinear;
  DeviceGroup other(1, config);
  ASSERT_EQ(slimTensorCreate(&linear, other.comms[0], "fp32", 0), slimSuccess);
  EXPECT_EQ(slimAllReduce(x.data(), x.data(), 1024, slimFloat32, slimAvg, linear, other.comms[0], nullptr),
            slimInvalidUsage);
}

// Payloads of one size and two specs: found by the kernels, reported by the next call.
TEST(DeviceErrors, RanksThatDisagreeLearnItFromTheNextCall) {
  Case setup;
  setup.ranks = 2;
  setup.count = 2000;
  DeviceGroup group(2, configOf(setup));
  inThreads(group.devices, [&](int rank) {
    slimComm_t comm = group.comms[rank];
    slimTensor_t tensor, fine;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, rank ? "qsgd(bits=4,norm=2)" : "qsgd(bits=4)", 7), slimSuccess);
    ASSERT_EQ(slimTensorCreate(&fine, comm, "qsgd(bits=4)", 8), slimSuccess);
    Stream stream;
    DeviceBuffer in(makeInput(slimFloat32, setup.count, rank, 0)), out(in.content());
    ASSERT_EQ(slimAllReduce(in.data(), out.data(), setup.count, slimFloat32, slimAvg, tensor, comm, stream),
              slimSuccess)
        << slimGetLastError();
    stream.wait();
    const Bytes got = out.content();
    for (size_t i = 0; i < setup.count; i++) {
      float value;
      std::memcpy(&value, &got[4 * i], 4);
      ASSERT_TRUE(value != value) << "element " << i << " of rank " << rank;
    }
    slimResult_t error = slimSuccess;
    ASSERT_EQ(slimCommGetAsyncError(comm, &error), slimSuccess);
    EXPECT_EQ(error, slimInvalidUsage);
    EXPECT_NE(lastError().find("slot 7"), std::string::npos) << lastError();
    EXPECT_NE(lastError().find("rank "), std::string::npos) << lastError();
    ASSERT_EQ(slimCommGetAsyncError(comm, &error), slimSuccess);
    EXPECT_EQ(error, slimSuccess) << "said once";
    EXPECT_EQ(slimAllReduce(in.data(), out.data(), setup.count, slimFloat32, slimAvg, tensor, comm, stream),
              slimInvalidUsage);
    EXPECT_NE(lastError().find("slimTensorReset"), std::string::npos) << lastError();
    EXPECT_EQ(slimAllReduce(in.data(), out.data(), setup.count, slimFloat32, slimAvg, fine, comm, stream), slimSuccess)
        << "the communicator goes on: " << slimGetLastError();
    stream.wait();
  });
}

TEST(DeviceErrors, WhatAGraphCannotDoIsRefused) {
  Case setup;
  setup.count = 2000;
  DeviceGroup group(1, configOf(setup));
  Stream stream;
  DeviceBuffer in(makeInput(slimFloat32, setup.count, 0, 0)), out(in.content());
  uint32_t slot = 0;
  const auto make = [&](const char* spec, int calls) {
    slimTensor_t tensor;
    EXPECT_EQ(slimTensorCreate(&tensor, group.comms[0], spec, slot++), slimSuccess);
    for (int k = 0; k < calls; k++)
      EXPECT_EQ(slimAllReduce(in.data(), out.data(), setup.count, slimFloat32, slimAvg, tensor, group.comms[0], stream),
                slimSuccess)
          << slimGetLastError();
    return tensor;
  };
  const auto tryCapture = [&](slimTensor_t tensor) {
    slimResult_t result = slimSuccess;
    std::string message;
    CUgraphExec graph = capture({0}, {stream}, [&](int) {
      result = slimAllReduce(in.data(), out.data(), setup.count, slimFloat32, slimAvg, tensor, group.comms[0], stream);
      message = slimGetLastError();
    });
    CU_TEST(GraphExecDestroy, graph);
    return result == slimSuccess ? std::string() : message;
  };
  EXPECT_EQ(tryCapture(make("ef(onebit)", 0)), "");
  EXPECT_NE(tryCapture(make("ef(onebit,warmup=2)", 1)).find("full precision"), std::string::npos);
  EXPECT_EQ(tryCapture(make("ef(onebit,warmup=2)", 3)), "");
  EXPECT_NE(tryCapture(make("rand_diana(qsgd(bits=4),p=0.01)", 1)).find("rand_diana"), std::string::npos);
  EXPECT_NE(tryCapture(make("diana(qsgd(bits=4),resync=100)", 1)).find("resync"), std::string::npos);
  const slimTensor_t plain = make("ef(onebit)", 1);
  EXPECT_EQ(tryCapture(plain), "");
  EXPECT_EQ(slimAllReduce(in.data(), out.data(), setup.count, slimFloat32, slimAvg, plain, group.comms[0], stream),
            slimSuccess)
      << "eager after a capture: " << slimGetLastError();
  stream.wait();
}

}  // namespace
}  // namespace slim_test
