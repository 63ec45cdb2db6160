#include "conf/nearest.h"

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

namespace conf {
namespace {

std::string_view leaf(std::string_view path) {
  const auto dot = path.rfind('.');
  return dot == path.npos ? path : path.substr(dot + 1);
}

}  // namespace

std::size_t edit_distance(std::string_view one, std::string_view other) {
  std::vector<std::size_t> row(other.size() + 1);
  for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (std::size_t i = 0; i < one.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < other.size(); ++j) {
      const auto replaced = diagonal + (one[i] == other[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

std::string_view nearest(std::string_view name, std::span<const std::string_view> candidates) {
  std::string_view best;
  std::pair<std::size_t, std::size_t> best_score{~std::size_t{0}, 0};
  if (name.size() > 100) return best;  // nobody meant that; and the work is bounded
  for (const auto candidate : candidates) {
    const auto whole = edit_distance(name, candidate);
    const std::pair score{std::min(whole, edit_distance(leaf(name), leaf(candidate)) + 1), whole};
    if (score < best_score) std::tie(best, best_score) = std::pair(candidate, score);
  }
  return best;
}

}  // namespace conf
