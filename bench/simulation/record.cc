#include "bench/simulation/record.h"

#include <algorithm>
#include <cmath>

#include "bench/simulation/postgres.h"

namespace simulation {

std::string_view group_name(std::size_t group) {
  constexpr std::array<std::string_view, kGroups> kNames = {"critical", "high", "low", "sheddable", "surge"};
  return kNames[group];
}

Record::Record(double length) : cells_(static_cast<std::size_t>(std::ceil(length / kStep))) {}

Record::Cell& Record::at(Instant now, std::size_t group) {
  constexpr auto step = Nanos(static_cast<std::int64_t>(kStep * 1e9));
  const auto index = static_cast<std::size_t>((now - kBeginning) / step);
  return cells_[std::min(index, cells_.size() - 1)][group];
}

void Record::Tally::add(const Tally& other) {
  asked += other.asked;
  good += other.good;
  late += other.late;
  failed += other.failed;
  latency.merge(other.latency);
}

Record::Tally Record::sum(std::size_t from, std::size_t to, unsigned groups) const {
  Tally sum;
  for (std::size_t step = from; step < std::min(to, cells_.size()); ++step)
    for (std::size_t group = 0; group < kGroups; ++group) {
      if ((groups >> group & 1) == 0) continue;
      const Cell& cell = cells_[step][group];
      sum.asked += cell.asked;
      sum.good += cell.good;
      sum.late += cell.late;
      sum.failed += cell.failed;
      sum.latency.merge(cell.latency);
    }
  return sum;
}

}  // namespace simulation
