#include "routing/subset.h"

#include <algorithm>
#include <array>
#include <utility>

namespace routing {
namespace {

// The finalizer of MurmurHash3: every bit of the two keys moves every bit of the weight.
std::uint64_t weight(std::uint64_t tenant, std::uint64_t node) {
  std::uint64_t mixed = tenant ^ (node * 0x9e3779b97f4a7c15U);
  mixed = (mixed ^ (mixed >> 33)) * 0xff51afd7ed558ccdU;
  mixed = (mixed ^ (mixed >> 33)) * 0xc4ceb9fe1a85ec53U;
  return mixed ^ (mixed >> 33);
}

}  // namespace

std::uint64_t subset_key(std::string_view name) {
  std::uint64_t key = 0xcbf29ce484222325U;
  for (const char c : name) key = (key ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return key;
}

std::uint64_t outside_subset(const ClusterState& cluster, std::uint64_t tenant_key, std::size_t count,
                             std::uint64_t barred) {
  struct Ranked {
    std::uint64_t weight;
    std::uint64_t bit;
  };
  std::array<Ranked, 64> ranked;
  std::size_t found = 0;
  for (std::size_t i = 0; i < std::min(cluster.nodes.size(), ranked.size()); ++i) {
    const std::uint64_t bit = std::uint64_t{1} << i;
    if (cluster.primary == cluster.nodes[i].id || (barred & bit) != 0) continue;
    ranked[found++] = {weight(tenant_key, cluster.nodes[i].key), bit};
  }
  if (found <= count) return 0;
  const auto begin = ranked.begin(), end = begin + static_cast<std::ptrdiff_t>(found);
  const auto kept = begin + static_cast<std::ptrdiff_t>(count);
  std::nth_element(begin, kept, end, [](const Ranked& a, const Ranked& b) { return a.weight > b.weight; });
  std::uint64_t outside = 0;
  for (auto one = kept; one != end; ++one) outside |= one->bit;
  return outside;
}

}  // namespace routing
