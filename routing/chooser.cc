#include "routing/chooser.h"

#include <algorithm>
#include <bit>

namespace routing {
namespace {

// One choice in so many takes the first draw whatever it costs. Latency is only learnt from
// statements that ran: without this a replica that was slow once would never be asked again. Rare
// enough that two replicas of which one is slow keep the slow one out of the P99 (1/128 of the
// reads).
constexpr std::uint64_t kExploreOneIn = 64;

// minstd_rand yields 1 .. 2^31 - 2; the product's high part is even enough for n up to kMaxNodes.
std::size_t draw(std::minstd_rand& random, std::size_t n) {
  return static_cast<std::size_t>((std::uint64_t{random()} * n) >> 31);
}

std::uint32_t latency(const NodeLoads& loads, NodeId node) {
  return loads[index(node)].latency_us.load(std::memory_order_relaxed);
}

// Latencies that differ by less than a factor of two are noise (as everything under a millisecond is), and
// would send all reads of a quiet moment to whichever replica had the luckier last answer. So they are
// compared as powers of two, and load decides between equals.
constexpr std::uint32_t kNoiseMicros = 1024;

std::uint32_t coarse(std::uint32_t us) { return std::bit_floor(std::max(us, kNoiseMicros)); }

std::uint64_t cost(const NodeLoads& loads, NodeId node, std::uint32_t us) {
  const std::int32_t in_flight =
      loads[index(node)].in_flight.load(std::memory_order_relaxed);
  return std::uint64_t{coarse(us)} * (static_cast<std::uint64_t>(std::max(in_flight, 0)) + 1);
}

// A node without any latency yet counts as the fastest, so that it is tried.
std::uint32_t fastest(const NodeLoads& loads, std::span<const NodeId> nodes) {
  std::uint32_t least = 0;
  for (const NodeId node : nodes) {
    const std::uint32_t us = latency(loads, node);
    if (us != 0 && (least == 0 || us < least)) least = us;
  }
  return least;
}

// The less busy of two that are drawn.
ReadChoice choose(std::span<const NodeId> nodes, const NodeLoads& loads, std::minstd_rand& random) {
  const std::size_t first = draw(random, nodes.size());
  const NodeId a = nodes[first];
  if (nodes.size() == 1) return {a, ReadReason::fresh_replica};
  const std::size_t other = draw(random, nodes.size() - 1);
  const NodeId b = nodes[other + (other >= first ? 1 : 0)];
  if (draw(random, kExploreOneIn) == 0) return {a, ReadReason::fresh_replica};
  std::uint32_t a_us = latency(loads, a), b_us = latency(loads, b);
  if (a_us == 0 || b_us == 0) [[unlikely]] {
    const std::uint32_t least = fastest(loads, nodes);
    if (a_us == 0) a_us = least;
    if (b_us == 0) b_us = least;
  }
  return {cost(loads, b, b_us) < cost(loads, a, a_us) ? b : a, ReadReason::fresh_replica};
}

}  // namespace

void NodeLoad::observe(std::uint32_t us) {
  // Workers may overwrite each other's observation; one that is lost changes nothing that matters.
  const std::uint32_t before = latency_us.load(std::memory_order_relaxed);
  const std::uint32_t now = std::max<std::uint32_t>(us, 1);
  std::uint32_t next = now;
  if (before != 0 && now > before) next = before + (now - before + 1) / 2;
  if (before != 0 && now < before) next = before - std::max<std::uint32_t>((before - now) / 32, 1);
  latency_us.store(next, std::memory_order_relaxed);
}

void NodeLoad::fade() {
  const std::uint32_t before = latency_us.load(std::memory_order_relaxed);
  if (before > 16) latency_us.store(before - before / 16, std::memory_order_relaxed);
}

std::string_view name(ReadReason r) {
  switch (r) {
    case ReadReason::fresh_replica: return "fresh_replica";
    case ReadReason::no_replica: return "no_replica";
    case ReadReason::no_replica_up: return "no_replica_up";
    case ReadReason::all_lagging: return "all_lagging";
    case ReadReason::none_has_replayed: return "none_has_replayed";
    case ReadReason::all_drained: return "all_drained";
  }
  return "unknown";
}

ReadChoice choose_replica(const ClusterState& cluster, const ReadNeeds& needs,
                          const NodeLoads& loads, std::minstd_rand& random) {
  if (needs.floor == Lsn{} && needs.excluded == 0 && needs.max_lag.count() == 0 && !cluster.serving.empty())
    return choose(cluster.serving, loads, random);

  const NodeState* const primary = cluster.primary ? cluster.find(*cluster.primary) : nullptr;
  // A position on another timeline says nothing about this one's (README.md).
  const auto follows = [primary](const NodeState& node) {
    return !primary || primary->timeline == 0 || node.timeline == 0 ||
           node.timeline == primary->timeline;
  };

  std::array<NodeId, kMaxNodes> eligible;
  std::size_t count = 0;
  bool any_replica = false, any_up = false, any_close = false, any_drained = false;
  for (std::size_t i = 0; i < std::min(cluster.nodes.size(), kMaxNodes); ++i) {
    const NodeState& node = cluster.nodes[i];
    if (node.role != NodeRole::replica || &node == primary) continue;
    any_replica = true;
    if (node.health != NodeHealth::up || node.ips.empty()) continue;
    if (i < 64 && (needs.excluded >> i & 1) != 0) continue;
    any_drained |= node.drained;
    if (node.drained) continue;
    any_up = true;
    if (!cluster.serves_reads(node, needs.max_lag)) continue;
    any_close = true;
    if (needs.floor != Lsn{} && (node.replayed < needs.floor || !follows(node))) continue;
    eligible[count++] = node.id;
  }
  if (!any_replica) return {std::nullopt, ReadReason::no_replica};
  if (!any_up)
    return {std::nullopt, any_drained ? ReadReason::all_drained : ReadReason::no_replica_up};
  if (!any_close) return {std::nullopt, ReadReason::all_lagging};
  if (count == 0) return {std::nullopt, ReadReason::none_has_replayed};
  return choose(std::span(eligible).first(count), loads, random);
}

}  // namespace routing
