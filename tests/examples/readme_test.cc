// The README's C code is examples/allreduce.c, and that runs.
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include <gtest/gtest.h>

namespace {

std::string contents(const std::string& path) {
  std::ifstream in(path);
  EXPECT_TRUE(in) << path;
  std::stringstream all;
  all << in.rdbuf();
  return all.str();
}

TEST(Readme, ShowsTheExample) {
  const std::string readme = contents("README.md"), open = "\n```c\n";
  const size_t start = readme.find(open);
  ASSERT_NE(start, std::string::npos) << "the README has no C code";
  const size_t from = start + open.size(), to = readme.find("```\n", from);
  ASSERT_NE(to, std::string::npos);
  EXPECT_EQ(readme.substr(from, to - from), contents("examples/allreduce.c"));
}

TEST(Readme, ExampleRuns) { EXPECT_EQ(std::system("examples/allreduce"), 0); }

}  // namespace
