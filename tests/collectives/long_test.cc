// Messages of more than 2³¹ bytes, as they are: an all-gather of two ranks over either transport. What is sent is
// mostly a mapping's untouched zeros, which take no memory: some 4.3 GB in all are received.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>

#include "tests/collectives/group.h"

namespace slim_test {
namespace {

constexpr size_t kCount = (size_t{1} << 31) + 12345;
constexpr double kNeeds = 6e9;  // bytes of free memory

double availableBytes() {
  long long kilobytes = 0;
  char line[128];
  FILE* file = std::fopen("/proc/meminfo", "r");
  while (file && std::fgets(line, sizeof line, file))
    if (std::sscanf(line, "MemAvailable: %lld", &kilobytes) == 1) break;
  if (file) std::fclose(file);
  return 1024.0 * static_cast<double>(kilobytes);
}

// Where bytes differ from zero: both ends, and around every place where a count of 31 or 32 bits, or a transport's
// longest message, might break.
std::vector<size_t> places() {
  std::vector<size_t> at = {0, kCount - 1};
  for (size_t power : {size_t{1} << 30, size_t{1} << 31})
    for (size_t near : {power - 1, power, power + 1}) at.push_back(near);
  return at;
}
int8_t mark(int rank, size_t place) { return static_cast<int8_t>(1 + rank * 50 + place % 41); }

TEST(Long, AMessageOfMoreThanTwoGigabytesArrives) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "a sanitizer's shadow of this much memory is too large";
#endif
  if (availableBytes() < kNeeds) GTEST_SKIP() << "wants " << kNeeds << " bytes of free memory";
  slimConfig_t config = makeConfig();
  config.timeout = 250;  // of a machine that is busy
  forEachRank(2, config, [](int rank, slimComm_t comm) {
    void* all = mmap(nullptr, 2 * kCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ASSERT_NE(MAP_FAILED, all);
    madvise(all, 2 * kCount, MADV_HUGEPAGE);
    auto* recv = static_cast<int8_t*>(all);
    int8_t* own = recv + static_cast<size_t>(rank) * kCount;
    for (size_t place : places()) own[place] = mark(rank, place);
    EXPECT_EQ(slimSuccess, slimAllGather(own, recv, kCount, slimInt8, nullptr, comm, nullptr)) << slimGetLastError();
    size_t marked = 0;
    const int8_t* other = recv + static_cast<size_t>(1 - rank) * kCount;
    for (size_t i = 0; i < kCount; i++) marked += other[i] != 0;
    EXPECT_EQ(places().size(), marked);
    for (int r = 0; r < 2; r++)
      for (size_t place : places())
        EXPECT_EQ(mark(r, place), recv[static_cast<size_t>(r) * kCount + place]) << "of rank " << r << ": " << place;
    munmap(all, 2 * kCount);
  });
}

}  // namespace
}  // namespace slim_test
