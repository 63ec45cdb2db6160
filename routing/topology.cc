#include "routing/topology.h"

#include <algorithm>

namespace routing {

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

void ClusterState::find_serving() {
  const auto effective = [](const NodeState& node) { return std::uint32_t{node.weight} * node.ramp; };
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
