#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string_view>

#include "routing/topology.h"

namespace routing {

inline constexpr Millis kFadePeriod{100};

// How busy a node is, as this process sees it: shared by all workers, written by relaxed atomics.
struct NodeLoad {
  std::atomic<std::int32_t> in_flight{0};       // statements at this node now
  // peak-sensitive moving average of server time; 0: none yet
  std::atomic<std::uint32_t> latency_us{0};

  // A statement took `us` microseconds at the node. Rises at once to a new peak's half way, decays
  // by 1/32 per observation: a node that turns slow is seen within a few statements.
  void observe(std::uint32_t us);
  // Called every kFadePeriod: an old latency loses half of its weight in a second, so that a node which
  // nobody asks any more is tried again soon. A busy node's own answers outweigh this by far.
  void fade();
};
using NodeLoads = std::array<NodeLoad, kMaxNodes>;

struct ReadNeeds {
  Lsn floor{};                     // the session's own last write; Lsn{}: it has not written
  // bit i: the i-th node of the cluster must not serve (it just failed there)
  std::uint64_t excluded = 0;
  Millis max_lag{0};               // 0: as configured
};

enum class ReadReason : std::uint8_t {
  fresh_replica,
  no_replica,          // the cluster has none configured or recognised
  no_replica_up,
  all_lagging,
  none_has_replayed,
  all_drained,         // by operators, those that are up
};
std::string_view name(ReadReason r);

struct ReadChoice {
  std::optional<NodeId> replica;  // empty: the primary serves this read
  ReadReason why;                 // becomes the log field and the metric label
};

// Picks the replica that serves one read: it must be up, within max_lag, and have replayed the
// session's own writes. Among those, of two drawn at random the one with the lower
// latency x (in flight + 1) wins; two random choices are nearly as even as always taking the best,
// and workers that cannot see each other do not all pick the same node
// (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
// Pure but for `random`. Cost: two draws when the cluster's serving replicas are known and the session
// needs no more than that; else one pass over the nodes. No allocation.
ReadChoice choose_replica(const ClusterState& cluster, const ReadNeeds& needs,
                          const NodeLoads& loads, std::minstd_rand& random);

}  // namespace routing
