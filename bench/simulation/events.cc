#include "bench/simulation/events.h"

namespace simulation {

Lottery::Lottery(const std::vector<double>& weights) : part_(weights), other_(weights.size()) {
  double sum = 0;
  for (const double weight : weights) sum += weight;
  std::vector<std::uint32_t> poor, rich;
  for (std::uint32_t i = 0; i < weights.size(); ++i) {
    part_[i] *= static_cast<double>(weights.size()) / sum;
    (part_[i] < 1 ? poor : rich).push_back(i);
  }
  // What a place lacks of its share of the draws is given to one that has too much.
  while (!poor.empty() && !rich.empty()) {
    const std::uint32_t filled = poor.back(), giver = rich.back();
    poor.pop_back();
    other_[filled] = giver;
    part_[giver] -= 1 - part_[filled];
    if (part_[giver] >= 1) continue;
    rich.pop_back();
    poor.push_back(giver);
  }
  for (const std::uint32_t left : poor) part_[left] = 1;
  for (const std::uint32_t left : rich) part_[left] = 1;
}

}  // namespace simulation
