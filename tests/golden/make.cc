// Writes the golden payloads anew: bazel run //tests/golden:make. Only for a new version of the format.
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "tests/golden/cases.h"

int main() {
  const char* workspace = getenv("BUILD_WORKSPACE_DIRECTORY");
  if (!workspace) {
    fprintf(stderr, "Run it by: bazel run //tests/golden:make\n");
    return 1;
  }
  std::string folder = std::string(workspace) + "/tests/golden/";
  std::ofstream index(folder + "cases.txt", std::ios::binary);
  for (const golden::Case& test : golden::kCases) {
    golden::Result result = golden::run(test);
    std::ofstream(folder + test.name + ".payload", std::ios::binary)
        .write(reinterpret_cast<const char*>(result.payload.data()),
               static_cast<std::streamsize>(result.payload.size()));
    std::ofstream(folder + test.name + ".expected", std::ios::binary)
        .write(reinterpret_cast<const char*>(result.expected.data()),
               static_cast<std::streamsize>(result.expected.size()));
    index << golden::lineOf(test);
  }
  return index.good() ? 0 : 1;
}
