// slimStateSave and slimStateLoad: a run that is saved, stopped, loaded and continued has the bits of one that never
// stopped; a file that does not fit is refused, and changes nothing.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "collectives/tensor.h"
#include "tests/collectives/group.h"

namespace slim_test {
namespace {

constexpr size_t kCount = 5001;
constexpr size_t kSlice = 16 << 10;

std::string folder() {
  const char* dir = std::getenv("TEST_TMPDIR");
  return dir ? dir : "/tmp";
}
std::string pathOf(const std::string& name, int rank) {
  return folder() + "/" + name + "." + std::to_string(getpid()) + "." + std::to_string(rank);
}

Bytes readFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}
void writeFile(const std::string& path, const Bytes& content) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(content.data()), (long)content.size());
}

struct Slot {
  const char* spec;
  slimDataType_t type;
  char kind;  // a: allreduce, r: reduce, b: broadcast, s: reduce-scatter, g: all-gather
};
const Slot kSlots[] = {
    {"ef(topk(ratio=0.05))", slimFloat32, 'a'},
    {"up=diana(qsgd(bits=4)); down=ef(qsgd(bits=8))", slimFloat32, 'a'},
    {"up=ef(onebit); down=diana(qsgd(bits=8))", slimFloat64, 'a'},
    {"ef21(topk(ratio=0.1),momentum=0.5)", slimFloat16, 'a'},
    {"up=ef(onebit); down=diana(qsgd(bits=8))", slimFloat32, 'r'},
    {"diana(natural)", slimFloat32, 'b'},
    {"ef(qsgd(bits=4))", slimBfloat16, 's'},
    {"rand_diana(ternary,p=0.5)", slimFloat32, 'g'},
    {"shift(qsgd(bits=4))", slimFloat32, 'a'},
    {"qsgd(bits=4)", slimFloat32, 'a'},
    {"fo(lambda=shared)", slimFloat32, 'a'},
    {"fo(lambda=shared)", slimFloat64, 'a'},
    {"ef(onebit,memory=bf16)", slimFloat32, 'a'},
    {"tnqsgd(bits=3,stats=previous)", slimFloat32, 'a'},
    {"ef(tbqsgd(bits=3,stats=previous))", slimFloat16, 's'},
};

// Runs steps [from, to) of all slots; appends rank's outputs.
void run(slimComm_t comm, int rank, const std::vector<slimTensor_t>& tensors, int from, int to,
         std::vector<Bytes>* out) {
  int ranks = 0;
  slimCommCount(comm, &ranks);
  for (int k = from; k < to; k++)
    for (size_t i = 0; i < tensors.size(); i++) {
      const Slot& slot = kSlots[i];
      const size_t size = slimTypeBytes(slot.type), wide = slot.kind == 's' ? (size_t)ranks : 1;
      const Bytes x = makeInput(slot.type, kCount * wide, rank, k);
      Bytes y(kCount * size * (slot.kind == 'g' ? (size_t)ranks : 1));
      slimResult_t result = slimInternalError;
      if (slot.kind == 'a')
        result = slimAllReduce(x.data(), y.data(), kCount, slot.type, slimAvg, tensors[i], comm, nullptr);
      if (slot.kind == 'r')
        result = slimReduce(x.data(), y.data(), kCount, slot.type, slimAvg, 0, tensors[i], comm, nullptr);
      if (slot.kind == 'b')
        result = slimBroadcast(x.data(), y.data(), kCount, slot.type, 1 % ranks, tensors[i], comm, nullptr);
      if (slot.kind == 's')
        result = slimReduceScatter(x.data(), y.data(), kCount, slot.type, slimAvg, tensors[i], comm, nullptr);
      if (slot.kind == 'g') result = slimAllGather(x.data(), y.data(), kCount, slot.type, tensors[i], comm, nullptr);
      ASSERT_EQ(result, slimSuccess) << slot.spec << ": " << slimGetLastError();
      out->push_back(y);
    }
}

std::vector<slimTensor_t> create(slimComm_t comm) {
  std::vector<slimTensor_t> tensors(std::size(kSlots));
  for (size_t i = 0; i < tensors.size(); i++)
    EXPECT_EQ(slimTensorCreate(&tensors[i], comm, kSlots[i].spec, (uint32_t)(20 - i)), slimSuccess)
        << slimGetLastError();
  return tensors;
}

TEST(State, AContinuedRunHasTheBitsOfOneThatNeverStopped) {
  for (slimAlgo_t algo : {slimAlgoTwoShot, slimAlgoAuto})
    for (int ranks : {1, 2, 3}) {
      SCOPED_TRACE(ranks);
      std::vector<std::vector<Bytes>> whole(ranks), parts(ranks);
      auto set = [](slimTensor_t t, int rank) {
        const Bytes shift = makeInput(slimFloat32, kCount, rank, 99);
        EXPECT_EQ(slimTensorSetShift(t, shift.data(), kCount, slimFloat32), slimSuccess);
      };
      forEachRank(ranks, makeConfig(algo, kSlice), [&](int rank, slimComm_t comm) {
        auto tensors = create(comm);
        run(comm, rank, tensors, 0, 3, &whole[rank]);
        set(tensors[8], rank);
        run(comm, rank, tensors, 3, 6, &whole[rank]);
      });
      forEachRank(ranks, makeConfig(algo, kSlice), [&](int rank, slimComm_t comm) {
        auto tensors = create(comm);
        run(comm, rank, tensors, 0, 3, &parts[rank]);
        set(tensors[8], rank);
        ASSERT_EQ(slimStateSave(comm, pathOf("run", rank).c_str()), slimSuccess) << slimGetLastError();
      });
      forEachRank(ranks, makeConfig(algo, 4 * kSlice), [&](int rank, slimComm_t comm) {  // the slice is the file's
        auto tensors = create(comm);
        if (rank % 2) run(comm, rank, {}, 0, 0, &parts[rank]);
        ASSERT_EQ(slimStateLoad(comm, pathOf("run", rank).c_str()), slimSuccess) << slimGetLastError();
        run(comm, rank, tensors, 3, 6, &parts[rank]);
        std::remove(pathOf("run", rank).c_str());
      });
      for (int r = 0; r < ranks; r++) EXPECT_TRUE(parts[r] == whole[r]) << "rank " << r;
    }
}

class Refused : public testing::Test {
 protected:
  void SetUp() override {
    slimConfig_t config = makeConfig(slimAlgoTwoShot, kSlice);
    ASSERT_EQ(slimCommInitLocal(&comm_, 1, &config), slimSuccess);
    tensors_ = create(comm_);
    std::vector<Bytes> out;
    run(comm_, 0, tensors_, 0, 2, &out);
    ASSERT_EQ(slimStateSave(comm_, path_.c_str()), slimSuccess) << slimGetLastError();
    good_ = readFile(path_);
    run(comm_, 0, tensors_, 2, 3, &out);
    ASSERT_EQ(slimStateSave(comm_, later_.c_str()), slimSuccess);
  }
  void TearDown() override {
    slimCommDestroy(comm_);
    for (auto& p : {path_, later_, again_}) std::remove(p.c_str());
  }
  // Loading must fail with a message that holds part, and leave the state as it was: it saves to the same bytes.
  void expectRefused(const char* part) {
    EXPECT_NE(slimStateLoad(comm_, path_.c_str()), slimSuccess) << part;
    EXPECT_NE(std::string(slimGetLastError()).find(part), std::string::npos) << slimGetLastError();
    ASSERT_EQ(slimStateSave(comm_, again_.c_str()), slimSuccess);
    EXPECT_TRUE(readFile(again_) == readFile(later_)) << "the state was changed";
  }
  slimComm_t comm_;
  std::vector<slimTensor_t> tensors_;
  std::string path_ = pathOf("refused", 0), later_ = pathOf("later", 0), again_ = pathOf("again", 0);
  Bytes good_;
};

TEST_F(Refused, TruncatedAtAnyLength) {
  for (size_t n : {(size_t)0, (size_t)7, (size_t)8, (size_t)31, (size_t)40, good_.size() / 2, good_.size() / 2 / 8 * 8,
                   good_.size() - 8, good_.size() - 1}) {
    writeFile(path_, Bytes(good_.begin(), good_.begin() + (long)n));
    expectRefused(n < 8 ? "not a SlimCCL state file" : "truncated");
  }
  Bytes longer = good_;
  longer.resize(good_.size() + 8);
  writeFile(path_, longer);
  expectRefused("altered");
}

TEST_F(Refused, AlteredAnywhere) {
  for (size_t i = 8; i < good_.size(); i += 1 + good_.size() / 97) {
    Bytes bad = good_;
    bad[i] ^= 0x10;
    writeFile(path_, bad);
    expectRefused("altered");
  }
}

TEST_F(Refused, NoFile) {
  std::remove(path_.c_str());
  expectRefused("cannot read");
  EXPECT_EQ(slimStateSave(comm_, "/nonexistent/folder/file"), slimSystemError);
  EXPECT_EQ(slimStateSave(comm_, nullptr), slimInvalidArgument);
}

// Loads path into a communicator made for it; the message.
std::string loadInto(const std::string& path, int ranks, int rank, uint64_t seed,
                     const std::vector<std::pair<const char*, uint32_t>>& slots) {
  slimConfig_t config = makeConfig(slimAlgoTwoShot, kSlice);
  config.seed = seed;
  std::vector<slimComm_t> comms(ranks);
  EXPECT_EQ(slimCommInitLocal(comms.data(), ranks, &config), slimSuccess);
  for (auto& s : slots) {
    slimTensor_t tensor;
    EXPECT_EQ(slimTensorCreate(&tensor, comms[rank], s.first, s.second), slimSuccess);
  }
  EXPECT_EQ(slimStateLoad(comms[rank], path.c_str()), slimInvalidUsage);
  const std::string message = slimGetLastError();
  for (auto c : comms) slimCommDestroy(c);
  return message;
}

TEST(State, MustFitTheCommunicator) {
  const std::string path = pathOf("fit", 0);
  forEachRank(2, makeConfig(), [&](int rank, slimComm_t comm) {
    slimTensor_t tensor;
    ASSERT_EQ(slimTensorCreate(&tensor, comm, "ef(onebit)", 5), slimSuccess);
    std::vector<float> x(100, 1);
    ASSERT_EQ(slimAllReduce(x.data(), x.data(), 100, slimFloat32, slimSum, tensor, comm, nullptr), slimSuccess);
    if (rank == 0) {
      ASSERT_EQ(slimStateSave(comm, path.c_str()), slimSuccess);
    }
  });
  auto has = [](const std::string& text, const char* part) { EXPECT_NE(text.find(part), std::string::npos) << text; };
  const uint64_t seed = testSeed();
  has(loadInto(path, 3, 0, seed, {{"ef(onebit)", 5}}), "one of 2 ranks; this communicator has 3");
  has(loadInto(path, 2, 1, seed, {{"ef(onebit)", 5}}), "saved by rank 0; this is rank 1");
  has(loadInto(path, 2, 0, seed + 1, {{"ef(onebit)", 5}}), "seed");
  has(loadInto(path, 2, 0, seed, {{"ef(qsgd(bits=4))", 5}}), "with spec up=ef(onebit");
  has(loadInto(path, 2, 0, seed, {{"ef(onebit)", 6}}), "holds slot 5");
  has(loadInto(path, 2, 0, seed, {}), "holds 1 tensors; this communicator has 0");
  has(loadInto(path, 2, 0, seed, {{"ef(onebit)", 5}, {"ef(onebit)", 6}}), "holds 1 tensors");
  std::remove(path.c_str());
}

}  // namespace
}  // namespace slim_test
