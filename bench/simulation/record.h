#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "bench/simulation/events.h"
#include "bench/simulation/plan.h"
#include "metrics/histogram.h"

namespace simulation {

// Whose statements are told apart: those of each priority, and those of the tenant of a surge.
inline constexpr std::size_t kGroups = conf::kPriorities + 1;
inline constexpr std::size_t kSurge = conf::kPriorities;
std::string_view group_name(std::size_t group);

// What users got, over time: figures for each half of a second.
class Record {
 public:
  static constexpr double kStep = 0.5;  // seconds

  explicit Record(double length);

  struct Tally {
    std::uint64_t asked = 0;   // by users, their further tries not counted
    std::uint64_t good = 0;    // answered in time
    std::uint64_t late = 0;    // answered when nobody cared any more
    std::uint64_t failed = 0;  // users who have given up, refused or too late
    metrics::HistogramSnapshot latency{};  // of all answers, from the first try on
    void add(const Tally& other);
    double success() const { return asked == 0 ? 1 : static_cast<double>(good) / static_cast<double>(asked); }
    double p99_ms() const { return static_cast<double>(latency.quantile(0.99).count()) / 1e6; }
  };

  void asked(Instant now, std::size_t group) { ++at(now, group).asked; }
  void failed(Instant now, std::size_t group) { ++at(now, group).failed; }
  void answered(Instant now, std::size_t group, Nanos took, bool in_time) {
    Cell& cell = at(now, group);
    ++(in_time ? cell.good : cell.late);
    cell.latency.record(took);
  }

  std::size_t steps() const { return cells_.size(); }
  // Of some groups (bits), from one step to another.
  static constexpr unsigned kEverybody = (1U << kGroups) - 1, kOthers = kEverybody & ~(1U << kSurge);
  static constexpr unsigned kFirst = 0b11;  // critical and high
  Tally sum(std::size_t from, std::size_t to, unsigned groups) const;

 private:
  struct Cell {
    std::uint64_t asked = 0, good = 0, late = 0, failed = 0;
    metrics::Histogram latency;
  };
  Cell& at(Instant now, std::size_t group);

  std::vector<std::array<Cell, kGroups>> cells_;
};

// What one run was like beside what users saw.
struct Totals {
  std::uint64_t statements = 0;   // that ended at servers
  std::uint64_t retries = 0;      // reads run again by the proxy
  std::uint64_t refused = 0;      // by the proxy, with an error at once or after waiting
  std::uint64_t spilled = 0;      // reads that the primary served
  std::uint64_t ejections = 0;
  std::uint64_t connects = 0;
  std::size_t most_waiting = 0;
  double wall_seconds = 0, cpu_seconds = 0;
  std::vector<std::uint64_t> reads_by_node{};  // between `from` and `to`
};

}  // namespace simulation
