#include "routing/topology.h"

#include <algorithm>

namespace routing {
namespace {

// A node is crowded when others have three times as many statements at work there as at half of its peers, and ten more:
// with a few each, counted every few seconds, three times is chance. It keeps half of its share: were it left out, each
// process would see the reads of the others crowd the rest, and all would go to and fro.
constexpr std::int64_t kFarAbove = 3, kNoise = 10;

}  // namespace

std::string_view name(NodeRole role) {
  switch (role) {
    case NodeRole::unknown: return "unknown";
    case NodeRole::primary: return "primary";
    case NodeRole::replica: return "replica";
  }
  return "unknown";
}

std::string_view name(NodeHealth health) {
  switch (health) {
    case NodeHealth::unknown: return "unknown";
    case NodeHealth::up: return "up";
    case NodeHealth::down: return "down";
  }
  return "unknown";
}

std::string_view name(BreakerState state) {
  switch (state) {
    case BreakerState::closed: return "closed";
    case BreakerState::open: return "open";
    case BreakerState::half_open: return "half_open";
  }
  return "unknown";
}

std::int64_t percent_out(const ClusterState& cluster) {
  std::int64_t replicas = 0, out = 0;
  for (const NodeState& node : cluster.nodes) {
    if (node.role != NodeRole::replica || cluster.primary == node.id || node.drained || node.weight == 0) continue;
    ++replicas;
    if (node.health != NodeHealth::up || node.breaker != BreakerState::closed) ++out;
  }
  return out < 2 ? 0 : 100 * out / replicas;
}

void ClusterState::keep_serving(std::size_t least) {
  std::size_t count = 0;
  for (const NodeState& node : nodes) count += serves_reads(node) ? 1 : 0;
  for (; count < least; ++count) {
    NodeState* best = nullptr;
    for (NodeState& node : nodes) {
      if (node.lag_ok || !node.lag || !may_serve_reads(node)) continue;
      if (best == nullptr || *node.lag < *best->lag) best = &node;
    }
    if (best == nullptr) return;
    best->lag_ok = best->kept = true;
  }
}

void ClusterState::find_crowded() {
  // By what is asked of it: a node with twice the weight may have twice the work. In 10,000ths.
  const auto part = [](const NodeState& node) { return std::max<std::int64_t>(1, std::int64_t{node.weight} * node.ramp); };
  const auto is_peer = [this](const NodeState& node) { return serves_reads(node) && node.active; };
  std::vector<std::int64_t> counts;
  for (NodeState& node : nodes) {
    node.crowded = false;
    if (is_peer(node)) counts.push_back(*node.active * 10'000 / part(node));
  }
  if (counts.size() < 2) return;
  std::ranges::sort(counts);
  const std::size_t middle = (counts.size() - 2) / 2;
  for (NodeState& node : nodes) {
    if (!is_peer(node)) continue;
    const auto own = std::ranges::lower_bound(counts, *node.active * 10'000 / part(node));
    const auto place = static_cast<std::size_t>(own - counts.begin());
    const std::int64_t median = counts[middle + (middle >= place ? 1 : 0)];  // of the others
    node.crowded = *node.active >= kFarAbove * median * part(node) / 10'000 + kNoise;
  }
}

void ClusterState::find_serving() {
  find_crowded();
  const auto effective = [](const NodeState& node) {
    return std::uint32_t{node.weight} * node.ramp / (node.crowded ? 2 : 1);
  };
  // One that has just missed a probe is passed over, unless they all have.
  bool others = false;
  for (const NodeState& node : nodes) others |= serves_reads(node) && !node.late;
  std::uint32_t most = 1;
  for (const NodeState& node : nodes)
    if (serves_reads(node) && !(others && node.late)) most = std::max(most, effective(node));
  for (NodeState& node : nodes)
    node.share = static_cast<std::uint16_t>(
        std::clamp<std::uint32_t>(effective(node) * kFullShare / most, 1, kFullShare));

  promoted = 0;
  for (std::size_t i = 0; i < std::min<std::size_t>(nodes.size(), 64); ++i)
    promoted |= std::uint64_t{nodes[i].promoted} << i;
  serving.clear();
  std::uint32_t sum = 0;
  for (const bool nearby : {true, false}) {
    for (const NodeState& node : nodes)
      if (node.nearby == nearby && serves_reads(node) && !(others && node.late))
        serving.push_back({node.id, node.share, sum += node.share});
    if (nearby) near = serving.size();
  }
  even = sum == serving.size() * kFullShare && (near == 0 || near == serving.size());
}

}  // namespace routing
