#pragma once

#include <optional>
#include <span>
#include <string>

#include "bench/simulation/record.h"

namespace simulation {

// One scenario under one policy, played to its end.
struct Run {
  const Scale& scale;
  const Scenario& scenario;
  const Policy& policy;
  Record record;
  Totals totals;
};
Run play(const Scale& scale, const Policy& policy, const Scenario& scenario, std::uint64_t seed);

// Goodput and P99 by class, a line per second. Plain text; the same for the same seed.
std::string over_time(const Run& run);

// All policies of one scenario side by side while it is disturbed, and who is better.
std::string compared(std::span<const Run> runs);

// For how long after the lost nodes' return less than 95 % of the goodput from before was reached, looked at
// over whole seconds; nothing: it never came back for good.
std::optional<double> recovery(const Run& run);

// The same as pictures: goodput and P99 by class, a line per policy. An SVG document.
std::string chart(std::span<const Run> runs);

}  // namespace simulation
