#include "bench/simulation/report.h"
#include "bench/simulation/text.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "bench/simulation/world.h"

namespace simulation {
namespace {

constexpr double kEnough = 0.95;  // of the goodput from before

std::size_t step_at(double seconds) { return static_cast<std::size_t>(std::lround(seconds / Record::kStep)); }

// Statements per second, in whatever unit keeps the column narrow.
std::string rate(double per_second) {
  std::string out;
  if (per_second >= 9'999.5)
    print(out, "%.0fk", per_second / 1000);
  else
    print(out, "%.0f", per_second);
  return out;
}

bool has(const Run& run, std::size_t group) {
  return run.record.sum(0, run.record.steps(), 1U << group).asked > 0;
}

// The reads that the nodes of a change got while the scenario was disturbed, beside those of as many others.
double share_of(const Run& run, const Change& change) {
  const std::vector<std::uint64_t>& reads = run.totals.reads_by_node;
  const auto replicas = static_cast<double>(run.scale.replicas);
  const auto first = 1 + static_cast<std::ptrdiff_t>(change.first * replicas);
  const auto count = static_cast<std::ptrdiff_t>(std::ceil(change.count * replicas));
  const auto sum = [&](std::ptrdiff_t from, std::ptrdiff_t to) {
    return static_cast<double>(std::accumulate(reads.begin() + from, reads.begin() + to, std::uint64_t{0}));
  };
  return sum(first, first + count) / static_cast<double>(count) /
         (sum(1, static_cast<std::ptrdiff_t>(reads.size())) / replicas);
}

std::string text(std::string_view view) { return std::string(view); }

}  // namespace

Run play(const Scale& scale, const Policy& policy, const Scenario& scenario, std::uint64_t seed) {
  World world(scale, policy, scenario, seed);
  world.run();
  return {scale, scenario, policy, world.take_record(), world.totals()};
}

std::string over_time(const Run& run) {
  std::string out;
  print(out, "\n-- %s, %s: good answers per second, P99 in ms\n%4s", text(run.scenario.name).c_str(),
        text(run.policy.name).c_str(), "s");
  for (std::size_t group = 0; group < kGroups; ++group)
    if (has(run, group)) print(out, "  |%9s %8s", text(group_name(group)).c_str(), "P99");
  out += "\n";
  const std::size_t second = step_at(1);
  for (std::size_t step = 0; step + second <= run.record.steps(); step += second) {
    print(out, "%4.0f", static_cast<double>(step) * Record::kStep);
    for (std::size_t group = 0; group < kGroups; ++group) {
      if (!has(run, group)) continue;
      const Record::Tally tally = run.record.sum(step, step + second, 1U << group);
      print(out, "  |%9s %8.2f", rate(static_cast<double>(tally.good)).c_str(), tally.p99_ms());
    }
    out += "\n";
  }
  return out;
}

std::string compared(std::span<const Run> runs) {
  const Scenario& scenario = runs.front().scenario;
  const std::size_t from = step_at(scenario.from), to = step_at(scenario.to);
  std::string out;
  print(out, "\n%s, %.0f to %.0f s: success in %% and P99 in ms by class; goodput without the surge\n",
        text(scenario.name).c_str(), scenario.from, scenario.to);
  print(out, "%-18s", "");
  for (std::size_t group = 0; group < kGroups; ++group)
    if (has(runs.front(), group)) print(out, "|%16s ", text(group_name(group)).c_str());
  print(out, "|%9s %9s %9s %9s %9s\n", "goodput/C", "refused", "run again", "spilled", "ejected");

  struct Place {
    const Run* run;
    double success, p99;
  };
  std::vector<Place> places;
  for (const Run& run : runs) {
    print(out, "%-18s", text(run.policy.name).c_str());
    for (std::size_t group = 0; group < kGroups; ++group) {
      if (!has(run, group)) continue;
      const Record::Tally tally = run.record.sum(from, to, 1U << group);
      print(out, "|%6.1f %9.2f ", 100 * tally.success(), tally.p99_ms());
    }
    const Record::Tally others = run.record.sum(from, to, Record::kOthers);
    const double goodput = static_cast<double>(others.good) / (scenario.to - scenario.from);
    print(out, "|%9.2f %9s %9s %9s %9llu\n", goodput / run.scale.capacity(),
          rate(static_cast<double>(run.totals.refused)).c_str(),
          rate(static_cast<double>(run.totals.retries)).c_str(),
          rate(static_cast<double>(run.totals.spilled)).c_str(),
          static_cast<unsigned long long>(run.totals.ejections));
    // To half a per cent: what is less is chance. What must survive is compared; others may have to give way.
    const Record::Tally first = run.record.sum(from, to, Record::kFirst);
    places.push_back({&run, std::round(200 * first.success()), first.p99_ms()});
  }
  std::ranges::stable_sort(places, [](const Place& a, const Place& b) {
    return a.success != b.success ? a.success > b.success : a.p99 < b.p99;
  });
  out += "ranking, by critical and high statements:";
  for (const Place& place : places)
    print(out, "%s %s (%.1f %%, %.2f ms)", &place == &places.front() ? "" : " >",
          text(place.run->policy.name).c_str(), place.success / 2, place.p99);
  out += "\n";
  const auto slowed = std::ranges::find(scenario.changes, Change::What::slow, &Change::what);
  if (slowed != scenario.changes.end()) {
    out += "reads at slow nodes, beside their fair share:";
    for (const Run& run : runs)
      print(out, "%s %s %.0f %%", &run == &runs.front() ? "" : ",", text(run.policy.name).c_str(),
            100 * share_of(run, *slowed));
    out += "\n";
  }
  if (scenario.back > 0)
    for (const Run& run : runs) {
      const auto after = recovery(run);
      print(out, "recovered, %s: ", text(run.policy.name).c_str());
      if (after)
        print(out, "%.1f s after the nodes' return\n", *after);
      else
        out += "never\n";
    }
  return out;
}

std::optional<double> recovery(const Run& run) {
  const std::size_t second = step_at(1), back = step_at(run.scenario.back);
  const std::size_t lost = step_at(run.scenario.from), warm = step_at(1);
  const auto per_step = [&run](std::size_t from, std::size_t to) {
    const std::uint64_t good = run.record.sum(from, to, Record::kEverybody).good;
    return static_cast<double>(good) / static_cast<double>(to - from);
  };
  const double before = per_step(warm, lost);
  std::optional<double> after;
  for (std::size_t step = back; step + second <= run.record.steps(); ++step) {
    if (per_step(step, step + second) < kEnough * before)
      after.reset();
    else if (!after)
      after = static_cast<double>(step - back) * Record::kStep;
  }
  return after;
}

}  // namespace simulation
