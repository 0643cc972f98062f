// //examples:train as a user calls it, with a tiny model.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <sys/wait.h>
#include <vector>

#include <gtest/gtest.h>

namespace {

struct Result {
  int status;
  std::string output;  // stdout and stderr
};

Result run(const std::string& arguments, const std::string& environment = "") {
  const std::string command = environment + " examples/train " + arguments + " 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  EXPECT_NE(pipe, nullptr);
  Result result{-1, ""};
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) result.output.append(buffer, n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) result.status = WEXITSTATUS(status);
  return result;
}

std::string temporary(const std::string& name) { return testing::TempDir() + "/" + name; }

// A text whose next character is easy to guess.
std::string textFile() {
  const std::string path = temporary("text.txt");
  std::ofstream out(path);
  for (int i = 0; i < 400; i++) out << "the quick brown fox jumps over the lazy dog; ";
  return path;
}

std::string tiny() {
  return "--text " + textFile() +
         " --ranks 3 --batch 48 --steps 40 --hidden 48 --embed 8 --context 8 --eval-every 10 --eval-samples 200 ";
}

size_t countOf(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) count++;
  return count;
}

std::string contents(const std::string& path) {
  std::ifstream in(path);
  std::stringstream all;
  all << in.rdbuf();
  return all.str();
}

TEST(Train, ComparesAndWritesCsvAndPlot) {
  const std::string csv = temporary("run.csv"), plot = temporary("run.svg");
  const Result result = run(tiny() + "--compress 'ef(qsgd(bits=4))' --compress 'ef(onebit)' --compress onebit --csv " +
                            csv + " --plot=" + plot);
  ASSERT_EQ(result.status, 0) << result.output;
  EXPECT_NE(result.output.find("bit-identical parameters"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("down=ef("), std::string::npos) << result.output;

  std::ifstream in(csv);
  std::string line;
  ASSERT_TRUE(std::getline(in, line));
  EXPECT_EQ(line, "spec,seed,step,train_loss,val_loss,bytes_per_rank,seconds");
  std::map<std::string, std::vector<std::vector<double>>> rows;
  while (std::getline(in, line)) {
    ASSERT_EQ(line[0], '"') << line;
    const size_t quote = line.find('"', 1);
    ASSERT_NE(quote, std::string::npos) << line;
    std::vector<double> row;
    std::stringstream rest(line.substr(quote + 2));
    for (std::string field; std::getline(rest, field, ',');) {
      char* end;
      row.push_back(std::strtod(field.c_str(), &end));
      EXPECT_EQ(*end, 0) << line;
    }
    ASSERT_EQ(row.size(), 6u) << line;
    rows[line.substr(1, quote - 1)].push_back(row);
  }
  ASSERT_EQ(rows.size(), 4u);
  const auto& plain = rows["uncompressed"];
  for (const auto& [spec, points] : rows) {
    ASSERT_EQ(points.size(), 7u) << spec;  // 0, 2, 5, 10, 20, 30, 40
    EXPECT_EQ(points.front()[1], 0);
    EXPECT_EQ(points.back()[1], 40);
    EXPECT_EQ(points.front()[3], plain.front()[3]) << "another start: " << spec;
    EXPECT_EQ(points.front()[2], plain.front()[2]) << "another batch: " << spec;
    EXPECT_LT(points.back()[3], points.front()[3]) << "learnt nothing: " << spec;
    EXPECT_EQ(points.front()[4], 0);
    for (size_t i = 1; i < points.size(); i++) EXPECT_GT(points[i][5], points[i - 1][5]) << spec;
    EXPECT_GT(points.back()[4], 0);
    if (spec != "uncompressed") {
      EXPECT_LT(points.back()[4], plain.back()[4] / 3) << spec;
    }
  }

  const std::string svg = contents(plot);
  EXPECT_EQ(svg.compare(0, 4, "<svg"), 0);
  EXPECT_EQ(countOf(svg, "<g"), countOf(svg, "</g>"));
  EXPECT_EQ(countOf(svg, "<text"), countOf(svg, "</text>"));
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
  for (const char* word : {"uncompressed", "ef(qsgd(bits=4))", "training step", "bytes sent per rank", "held-out loss"})
    EXPECT_NE(svg.find(word), std::string::npos) << word;
  const std::string parse = "/usr/bin/python3 -c 'import sys, xml.dom.minidom as m; m.parse(sys.argv[1])' " + plot;
  EXPECT_EQ(std::system(parse.c_str()), 0);
}

TEST(Train, SameSeedGivesSameLosses) {
  const std::string first = temporary("first.csv"), second = temporary("second.csv"), other = temporary("other.csv");
  const std::string arguments = tiny() + "--compress 'ef(rotate(onebit))' --csv ";
  for (const std::string& rest : {first, second, other + " --seed 2"}) {
    const Result result = run(arguments + rest);
    ASSERT_EQ(result.status, 0) << result.output;
  }
  const auto losses = [](const std::string& path) {
    return std::regex_replace(contents(path), std::regex(",[^,]*\n"), "\n");
  };
  EXPECT_EQ(losses(first), losses(second));
  EXPECT_NE(losses(first), losses(other));
}

TEST(Train, OneRankAndMomentum) {
  const Result result = run(tiny() + "--ranks 1 --momentum 0.9 --lr 0.05 --compress 'ef(topk(ratio=0.1))'");
  EXPECT_EQ(result.status, 0) << result.output;
}

TEST(Train, PathsAreTheCallers) {
  const Result result =
      run(tiny() + "--compress fp16 --csv relative.csv", "BUILD_WORKING_DIRECTORY=" + testing::TempDir());
  ASSERT_EQ(result.status, 0) << result.output;
  EXPECT_FALSE(contents(temporary("relative.csv")).empty());
}

TEST(Train, HelpNamesEveryFlag) {
  const Result result = run("--help");
  ASSERT_EQ(result.status, 0);
  for (const char* flag : {"--text", "--compress", "--ranks", "--device", "--steps", "--batch", "--lr", "--momentum",
                           "--hidden", "--embed", "--context", "--seed", "--csv", "--plot", "--accept", "--eval-every"})
    EXPECT_NE(result.output.find(flag), std::string::npos) << flag;
}

TEST(Train, WrongFlagsAreRefused) {
  struct {
    const char *arguments, *message;
  } const wrong[] = {{"--stepz 3", "unknown flag '--stepz'"},
                     {"steps", "unknown flag 'steps'"},
                     {"--steps", "wants a value"},
                     {"--steps 2.5", "whole number"},
                     {"--steps 0", "--steps 0"},
                     {"--lr fast", "--lr fast"},
                     {"--help=yes", "takes no value"},
                     {"--ranks 3 --batch 64", "multiple"},
                     {"--accept --compress onebit", "--accept"},
                     {"--device gpu", "--device is cpu or cuda"},
                     {"--compress 'ef(qsgd(bit=4))'", "unknown option 'bit' of qsgd"},
                     {"--compress nothing", "nothing"}};
  for (const auto& w : wrong) {
    const Result result = run(w.arguments);
    EXPECT_EQ(result.status, 2) << w.arguments << "\n" << result.output;
    EXPECT_NE(result.output.find(w.message), std::string::npos) << w.arguments << "\n" << result.output;
  }
  const Result without = run("--device cuda", "CUDA_VISIBLE_DEVICES=");
  EXPECT_EQ(without.status, 1);
  EXPECT_NE(without.output.find("train: --device cuda: "), std::string::npos) << without.output;
  const Result missing = run("--text /nowhere/at/all");
  EXPECT_EQ(missing.status, 1);
  EXPECT_NE(missing.output.find("/nowhere/at/all"), std::string::npos);
}

}  // namespace
