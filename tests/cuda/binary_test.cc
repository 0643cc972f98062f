// What nvcc made of the kernels: each is in the image of every architecture, needs no local memory and no more
// registers than its occupancy allows, and loads and stores elements and payloads 16 bytes at a time.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "compress/cuda/kernels.h"

namespace {

const char* const kNames[] = {
#define NAME(name, args) "slim_" #name,
    SLIM_DEVICE_KERNELS(NAME)
#undef NAME
};

std::vector<std::string> files(const char* variable) {
  const char* value = std::getenv(variable);
  EXPECT_TRUE(value) << variable << " is not set";
  std::istringstream words(value ? value : "");
  std::vector<std::string> all;
  for (std::string word; words >> word;) all.push_back(word);
  return all;
}

std::string contentOf(const std::string& path) {
  std::ifstream in(path);
  EXPECT_TRUE(in) << path;
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST(Binary, EveryArchitectureHasEveryKernel) {
  const std::vector<std::string> cubins = files("CUBINS");
  EXPECT_EQ(3u, cubins.size());
  for (const std::string& cubin : cubins) {
    std::set<std::string> found;
    FILE* pipe = popen(("readelf -sW " + cubin).c_str(), "r");
    ASSERT_TRUE(pipe);
    char line[1024];
    while (fgets(line, sizeof line, pipe)) {
      std::smatch match;
      const std::string text = line;
      if (std::regex_search(text, match, std::regex("FUNC +GLOBAL.* (slim_\\w+)\n"))) found.insert(match[1]);
    }
    EXPECT_EQ(0, pclose(pipe));
    EXPECT_EQ(std::set<std::string>(std::begin(kNames), std::end(kNames)), found) << cubin;
  }
}

struct Use {
  unsigned registers = 0, stack = 0, spills = 0;
};
std::map<std::string, Use> report(const std::string& path) {
  std::istringstream text(contentOf(path));
  std::map<std::string, Use> uses;
  std::string name;
  std::smatch match;
  for (std::string line; std::getline(text, line);) {
    if (std::regex_search(line, match, std::regex("Compiling entry function '(\\w+)'"))) name = match[1];
    if (std::regex_search(line, match, std::regex("(\\d+) bytes stack frame, (\\d+) bytes spill stores"))) {
      uses[name].stack = (unsigned)std::stoul(match[1]);
      uses[name].spills = (unsigned)std::stoul(match[2]);
    }
    if (std::regex_search(line, match, std::regex("Used (\\d+) registers")))
      uses[name].registers = (unsigned)std::stoul(match[1]);
  }
  return uses;
}

// A multiprocessor has 65536 registers. Codecs by themselves: 1024 threads at once, which is 16 units of 512 elements
// in flight; those that compute more 768, or 512; any tree 256, or decoded 512.
unsigned mostRegisters(const std::string& name) {
  const auto is = [&](std::initializer_list<const char*> ends) {
    return std::any_of(ends.begin(), ends.end(), [&](const std::string& end) {
      return name.size() >= end.size() && !name.compare(name.size() - end.size(), end.size(), end);
    });
  };
  const bool decode = name.rfind("slim_decode_", 0) == 0;
  unsigned threads = 512;
  if (is({"_fp32", "_fp16", "_bf16", "_fp8", "_sign"})) threads = 1024;
  if (is({"_onebit", "_qsgd", "_natural"})) threads = 768;
  if (is({"_tnqsgd"}) || (decode && is({"_tree", "_wide"}))) threads = 512;
  if (!decode && is({"_tree", "_wide"})) threads = 256;
  return 65536 / threads / 8 * 8;
}

TEST(Binary, RegistersAllowTheIntendedOccupancy) {
  const std::vector<std::string> reports = files("REPORTS");
  EXPECT_EQ(3u, reports.size());
  for (const std::string& path : reports) {
    std::map<std::string, Use> uses = report(path);
    for (const char* name : kNames) {
      ASSERT_TRUE(uses.count(name)) << name << " in " << path;
      EXPECT_LE(uses[name].registers, mostRegisters(name)) << name << " in " << path;
      EXPECT_GT(uses[name].registers, 0u) << name;
      EXPECT_EQ(0u, uses[name].stack) << name << " in " << path;
      EXPECT_EQ(0u, uses[name].spills) << name << " in " << path;
    }
  }
}

TEST(Binary, AccessesAreSixteenBytesWide) {
  const std::vector<std::string> paths = files("PTX");
  ASSERT_EQ(1u, paths.size());
  const std::string ptx = contentOf(paths[0]);
  for (const std::string name : kNames) {
    const size_t at = ptx.find(".entry " + name + "(");
    ASSERT_NE(std::string::npos, at) << name;
    const std::string body = ptx.substr(at, ptx.find("\n}", at) - at);
    const bool wide = name.find("_wide") != std::string::npos;
    const auto has = [&](const char* what) { return std::regex_search(body, std::regex(what)); };
    const bool pass = std::regex_search(name, std::regex("^slim_(encode|decode|reduce)_"));
    if (wide || !pass) continue;
    EXPECT_TRUE(has("st\\.global\\.v4\\.[fu]32")) << name << " stores no 16 bytes";
    if (std::regex_search(name, std::regex("_(select|signs)$"))) continue;  // read lists of values, words of many ranks
    EXPECT_TRUE(has("ld\\.global(\\.nc)?\\.v4\\.[fu]32")) << name << " loads no 16 bytes";
  }
}

}  // namespace
