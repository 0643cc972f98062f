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

// "sm_90" of a file of that architecture; there is one of kernels.cu and one of warps.cu.
std::string archOf(const std::string& path) {
  std::smatch match;
  EXPECT_TRUE(std::regex_search(path, match, std::regex("\\.(sm_\\d+)\\."))) << path;
  return match[1];
}

TEST(Binary, EveryArchitectureHasEveryKernel) {
  std::map<std::string, std::set<std::string>> all;  // by architecture
  for (const std::string& cubin : files("CUBINS")) {
    std::set<std::string>& found = all[archOf(cubin)];
    FILE* pipe = popen(("readelf -sW " + cubin).c_str(), "r");
    ASSERT_TRUE(pipe);
    char line[1024];
    while (fgets(line, sizeof line, pipe)) {
      std::smatch match;
      const std::string text = line;
      if (std::regex_search(text, match, std::regex("FUNC +GLOBAL.* (slim_\\w+)\n"))) found.insert(match[1]);
    }
    EXPECT_EQ(0, pclose(pipe));
  }
  EXPECT_EQ(3u, all.size());
  for (const auto& arch : all)
    EXPECT_EQ(std::set<std::string>(std::begin(kNames), std::end(kNames)), arch.second) << arch.first;
}

struct Use {
  unsigned registers = 0, stack = 0, spills = 0, shared = 0;
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
    if (std::regex_search(line, match, std::regex("(\\d+) bytes smem")))
      uses[name].shared = (unsigned)std::stoul(match[1]);
  }
  return uses;
}

// A multiprocessor has 65536 registers. A warp that has a unit in registers: 512 threads at once, which is 16 units of
// 512 elements in flight, 768 decoding; 384 on sm_80, in reduces of sm_100, and in those of tnqsgd and below a
// rotation. A thread block, codecs by themselves: fp8 1024, those that compute more 768, or 512; a selector over a
// codec 512, or decoded 768; any tree 256, or decoded 512.
unsigned mostRegisters(const std::string& name, const std::string& arch) {
  const auto is = [&](std::initializer_list<const char*> ends) {
    return std::any_of(ends.begin(), ends.end(), [&](const std::string& end) {
      return name.size() >= end.size() && !name.compare(name.size() - end.size(), end.size(), end);
    });
  };
  const bool decode = name.rfind("slim_decode_", 0) == 0;
  unsigned threads = 512;
  const auto starts = [&](const char* with) { return name.rfind(with, 0) == 0; };
  if (starts("slim_warp_decode_")) return 65536 / 768 / 8 * 8;
  const bool large = starts("slim_warp_reduce_turned_") || is({"_reduce_tnqsgd"});
  const bool few = arch == "sm_80" || large || (starts("slim_warp_reduce_") && arch == "sm_100");
  if (starts("slim_warp_")) return 65536 / (few ? 384 : 512) / 8 * 8;
  if (is({"_fp8"})) threads = 1024;
  if (is({"_onebit", "_qsgd", "_natural"}) || (decode && is({"_flat"}))) threads = 768;
  if (is({"_tnqsgd"}) || (decode && is({"_tree", "_wide"}))) threads = 512;
  if (!decode && is({"_tree", "_wide"})) threads = 256;
  return 65536 / threads / 8 * 8;
}

TEST(Binary, RegistersAllowTheIntendedOccupancy) {
  std::map<std::string, std::map<std::string, Use>> all;  // by architecture
  for (const std::string& path : files("REPORTS"))
    for (const auto& use : report(path)) all[archOf(path)].insert(use);
  EXPECT_EQ(3u, all.size());
  for (auto& [path, uses] : all) {
    for (const char* name : kNames) {
      ASSERT_TRUE(uses.count(name)) << name << " in " << path;
      EXPECT_LE(uses[name].registers, mostRegisters(name, path)) << name << " in " << path;
      EXPECT_GT(uses[name].registers, 0u) << name;
      EXPECT_EQ(0u, uses[name].stack) << name << " in " << path;
      EXPECT_EQ(0u, uses[name].spills) << name << " in " << path;
      // What cuda/launch.c leaves of the 99 KiB that every device gives a thread block.
      EXPECT_LE(uses[name].shared, 11u * 1024) << name << " in " << path;
    }
  }
}

TEST(Binary, AccessesAreSixteenBytesWide) {
  std::string ptx;
  for (const std::string& path : files("PTX")) ptx += contentOf(path);
  for (const std::string name : kNames) {
    const size_t at = ptx.find(".entry " + name + "(");
    ASSERT_NE(std::string::npos, at) << name;
    const std::string body = ptx.substr(at, ptx.find("\n}", at) - at);
    const bool wide = name.find("_wide") != std::string::npos;
    const auto has = [&](const char* what) { return std::regex_search(body, std::regex(what)); };
    const bool pass = std::regex_search(name, std::regex("^slim_(warp_)?(encode|decode|reduce)_"));
    if (wide || !pass) continue;
    EXPECT_TRUE(has("st\\.global(\\.cs)?\\.v4\\.[fu]32")) << name << " stores no 16 bytes";
    if (std::regex_search(name, std::regex("_(select|signs)$"))) continue;  // read lists of values, words of many ranks
    EXPECT_TRUE(has("ld\\.global(\\.nc)?\\.v4\\.[fu]32")) << name << " loads no 16 bytes";
  }
}

}  // namespace
