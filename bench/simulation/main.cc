#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "bench/simulation/report.h"

// The command: what it plays, what it prints, and how it ends. README.md of bench/ says what the figures mean.
namespace {

using namespace simulation;

constexpr const char* kHelp = R"(Plays disasters in virtual time, under pgsluice's policies and under others.

    simulation [--scale NAME] [--scenario NAME]... [--policy NAME]... [--load PART] [--seed N]
               [--svg FOLDER] [--brief]

  --scale      small (default), full, or admission and drill: as bench/admission and bench/drill are
  --scenario   only these; else all
  --policy     these, instead of those that a scenario compares
  --load       this part of what there is, instead of the scenario's
  --svg        draws each scenario into this folder
  --brief      without the tables over time
  --list       names everything that there is

The same seed gives the same output. How fast it was is said on standard error. Exit code 1 when the
loss of half of the replicas is not over 5 s after their return.
)";
constexpr double kRecoverWithin = 5;  // seconds

struct Wanted {
  const Scale* scale = &scales().front();
  std::vector<const Scenario*> scenarios;
  std::vector<const Policy*> policies;
  double load = 0;  // 0: the scenario's
  std::uint64_t seed = 1;
  std::string svg;
  bool brief = false;
};

template <class Rows>
auto* find(const Rows& rows, std::string_view name) {
  const auto found = std::ranges::find_if(rows, [name](const auto& row) { return row.name == name; });
  return found == rows.end() ? nullptr : &*found;
}

template <class Rows>
void list(const char* what, const Rows& rows) {
  std::printf("%s:\n", what);
  for (const auto& row : rows) std::printf("  %s\n", std::string(row.name).c_str());
}

template <class Number>
bool number(std::string_view text, Number& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

std::optional<Wanted> parse(int count, char** words) {
  Wanted wanted;
  for (int i = 1; i < count; ++i) {
    const std::string_view word = words[i];
    if (word == "--brief") {
      wanted.brief = true;
      continue;
    }
    if (i + 1 == count) return std::nullopt;
    const std::string_view value = words[++i];
    bool good = true;
    if (word == "--scale") {
      good = (wanted.scale = find(scales(), value)) != nullptr;
    } else if (word == "--scenario") {
      wanted.scenarios.push_back(find(scenarios(), value));
      good = wanted.scenarios.back() != nullptr;
    } else if (word == "--policy") {
      wanted.policies.push_back(find(policies(), value));
      good = wanted.policies.back() != nullptr;
    } else if (word == "--seed") {
      good = number(value, wanted.seed);
    } else if (word == "--load") {
      good = number(value, wanted.load) && wanted.load > 0 && wanted.load <= 10;
    } else if (word == "--svg") {
      wanted.svg = value;
    } else {
      good = false;
    }
    if (!good) {
      std::fprintf(stderr, "simulation: there is no %s %s\n", words[i - 1], words[i]);
      return std::nullopt;
    }
  }
  if (wanted.scenarios.empty())
    for (const Scenario& one : scenarios()) wanted.scenarios.push_back(&one);
  return wanted;
}

// False: pgsluice did not recover in time.
bool play_one(const Wanted& wanted, Scenario scenario) {
  if (wanted.load > 0) scenario.load = wanted.load;
  std::printf("\n== %s: %s\n   scale %s, C = %.0f statements per second, load %.1f C, seed %llu\n",
              std::string(scenario.name).c_str(), std::string(scenario.says).c_str(),
              std::string(wanted.scale->name).c_str(), wanted.scale->capacity(), scenario.load,
              static_cast<unsigned long long>(wanted.seed));
  std::vector<const Policy*> chosen = wanted.policies;
  if (chosen.empty())
    for (const std::string_view name : scenario.compared) chosen.push_back(find(policies(), name));
  std::vector<Run> runs;
  bool good = true;
  for (const Policy* policy : chosen) {
    runs.push_back(play(*wanted.scale, *policy, scenario, wanted.seed));
    const Run& run = runs.back();
    if (!wanted.brief) std::fputs(over_time(run).c_str(), stdout);
    const double millions = static_cast<double>(run.totals.statements) / 1e6;
    std::fprintf(stderr,
                 "%s, %s: %.2f million statements, %.2f million per virtual second, %.2f per second of "
                 "real time, %.2f of CPU time\n",
                 std::string(scenario.name).c_str(), std::string(policy->name).c_str(), millions,
                 millions / scenario.length, millions / run.totals.wall_seconds,
                 millions / run.totals.cpu_seconds);
    if (scenario.back > 0 && policy == &policies().front()) {
      const std::optional<double> after = recovery(run);
      good = after && *after <= kRecoverWithin;
    }
  }
  std::fputs(compared(runs).c_str(), stdout);
  if (scenario.back > 0)
    std::printf("95 %% of goodput within %.0f s of the nodes' return: %s\n", kRecoverWithin,
                good ? "met" : "MISSED");
  std::fflush(stdout);
  if (!wanted.svg.empty()) {
    std::filesystem::create_directories(wanted.svg);
    std::ofstream(std::filesystem::path(wanted.svg) / (std::string(scenario.name) + ".svg")) << chart(runs);
  }
  return good;
}

}  // namespace

int main(int count, char** words) try {
  if (count == 2 && std::strcmp(words[1], "--list") == 0) {
    list("scales", scales());
    list("scenarios", scenarios());
    list("policies", policies());
    return 0;
  }
  const std::optional<Wanted> wanted = parse(count, words);
  if (!wanted) {
    std::fputs(kHelp, stderr);
    return 2;
  }
  bool good = true;
  for (const Scenario* scenario : wanted->scenarios) good = play_one(*wanted, *scenario) && good;
  return good ? 0 : 1;
} catch (const std::exception& problem) {
  std::fprintf(stderr, "simulation: %s\n", problem.what());
  return 2;
}
