// The library still writes and reads the golden payloads, in every instruction set.
#include <fstream>
#include <iterator>

#include <gtest/gtest.h>

#include "compress/kernels.h"
#include "tests/golden/cases.h"

namespace {

std::vector<uint8_t> read(const std::string& name) {
  std::ifstream file("tests/golden/" + name, std::ios::binary);
  EXPECT_TRUE(file.good()) << name;
  return std::vector<uint8_t>(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

TEST(Golden, PayloadsAreAsTheyWere) {
  for (const char* set : {"baseline", "avx2", "avx512"}) {
    if (!slimKernelsByName(set)) continue;
    slimActiveKernels = slimKernelsByName(set);
    for (const golden::Case& test : golden::kCases) {
      golden::Result result = golden::run(test);
      EXPECT_EQ(read(std::string(test.name) + ".payload"), result.payload) << test.name << " " << set;
      EXPECT_EQ(read(std::string(test.name) + ".expected"), result.expected) << test.name << " " << set;
    }
  }
}

TEST(Golden, TheIndexNamesThemAll) {
  std::string lines;
  for (const golden::Case& test : golden::kCases) lines += golden::lineOf(test);
  std::vector<uint8_t> index = read("cases.txt");
  EXPECT_EQ(lines, std::string(index.begin(), index.end()));
}

}  // namespace
