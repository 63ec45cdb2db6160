#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string_view>

#include "routing/floor.h"
#include "routing/topology.h"

namespace routing {

// How a node's latency, and what it may have at once, are followed.
struct LoadRules {
  Millis decay{10'000};       // an old peak loses all but 1/e of its weight in this time
  std::int32_t least = 4;     // statements at once that a slow node may still have; 0: no limit at all
  std::uint32_t tolerance = 200;  // percent of its usual latency that a node may have before its limit falls
  std::uint32_t smoothing = 20;   // percent of the way to its new limit that it goes per period
};
inline constexpr Millis kFadePeriod{100};

// Latencies are compared as multiples of what the statement usually takes (Baselines), in 1024ths, so
// that slow queries do not make a slow node.
inline constexpr std::uint32_t kNormal = 1024;

// How busy a node is, as this process sees it: shared by all workers, written by relaxed atomics.
struct NodeLoad {
  std::atomic<std::int32_t> in_flight{0};  // statements at this node now
  std::atomic<std::int32_t> limit{0};      // more than these go elsewhere while they can; 0: no limit
  std::atomic<std::uint32_t> latency{kNormal};  // peak-sensitive moving average, kNormal is as usual
  // Plain moving average of the same, for the breaker. On a machine whose answers are late now and then the peaks
  // of a well node come near the longest that is counted (Baselines::kLongest), and hide one that is always slow.
  std::atomic<std::uint32_t> mean{kNormal};
  std::atomic<std::uint32_t> latency_us{0};     // moving average of server time, for display; 0: none yet

  // A statement took `us` at the node, `relative` to what it usually takes. An eighth of the way up to a
  // peak, 1/256 of the way down: a node that turns slow, or stops again and again, is seen within a few
  // statements, and one late answer is forgotten.
  void observe(std::uint32_t relative, std::uint32_t us);
  // Called every kFadePeriod: a latency that nobody confirms becomes normal, so that a node which nobody asks
  // any more is tried again. And the limit follows the latency, within `slots` (gradient: a node that
  // takes longer than `tolerance` times the usual may have fewer at once, and gets them back when it is well
  // and they are used).
  void fade(const LoadRules& rules, std::int32_t slots);
};
using NodeLoads = std::array<NodeLoad, kMaxNodes>;

// What the statements of one worker usually take, by digest. A table of fixed size: of two digests at one
// place the later one is remembered. Costs one cache line per statement, and no allocation.
class Baselines {
 public:
  // How long `us` is beside what this statement usually takes, in 1024ths, at most kLongest; and learns from
  // it. Falls quickly and rises slowly: what counts as usual is a good answer of a healthy node, also when
  // one of the nodes is slow.
  std::uint32_t relative(std::uint32_t digest, std::uint32_t us);

  static constexpr std::size_t kEntries = 4096;
  static constexpr std::uint32_t kLongest = 32 * kNormal;

 private:
  struct Entry {
    std::uint32_t digest = 0, us = 0;
  };
  std::array<Entry, kEntries> entries_{};
};

struct ReadNeeds {
  Lsn floor{};           // what a replica must have replayed; Lsn{}: nothing
  bool pending = false;  // or that position is not known yet, and only `stay` will do
  std::optional<NodeId> stay{};  // this one satisfies the floor, whatever is known of its position
  Millis close{};        // see ReadChoice::soon
  // bit i: the i-th node of the cluster must not serve (it just failed there)
  std::uint64_t excluded = 0;
  Millis max_lag{0};               // of a replica that serves; 0: as configured
  std::uint64_t groups = 0;        // only nodes of one of these groups (Topology::group); 0: of any
  Millis tolerated{0};             // nor keeps a lag up to this a replica from serving,
  std::uint64_t tolerated_bytes = 0;  // if it is up to this, too; 0: any
  bool however_late = false;       // lag does not matter

  void satisfy(const Floor& session) {
    switch (session.kind) {
      case Floor::Kind::none: break;
      case Floor::Kind::pending:
      case Floor::Kind::leaving: pending = true; break;
      case Floor::Kind::known: floor = session.lsn; break;
      case Floor::Kind::at_node:
        pending = true;
        stay = session.node;
        break;
    }
  }
};

enum class ReadReason : std::uint8_t {
  fresh_replica,
  same_replica,        // that of the session's last read: the only one known to be no older
  floor_pending,       // what a replica must have replayed is not known yet
  no_replica,          // the cluster has none configured or recognised
  no_replica_up,
  all_lagging,
  none_has_replayed,
  all_drained,         // by operators, those that are up
  all_ejected,         // by their breakers, those that are up
  none_in_group,
};
std::string_view name(ReadReason r);

struct ReadChoice {
  std::optional<NodeId> replica{};  // empty: the primary serves this read
  ReadReason why;                 // becomes the log field and the metric label
  // There is a much less busy one than that to stay at: it is time to find out where the session may go.
  bool leave = false;
  // None has replayed the floor, but one whose lag is at most ReadNeeds::close may have in a moment.
  bool soon = false;
};

// Picks the replica that serves one read: it must be up, not ejected, within the limits of lag, and have
// replayed the floor, or be the one to stay at. Among those two are drawn at random, by weight, and the one with
// the lower latency x (1 + in flight / weight) wins; two random choices are nearly as even as always taking
// the best, and workers that cannot see each other do not all pick the same node
// (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
// Nodes of the own zone go first while one that is drawn has room; a node at its limit is taken when all are.
// A session stays at its replica while others write and it reads all the time. Now and then one that is busy is
// left all the same, at the price of a wait for the primary's next sample.
// Pure but for `random`. Cost: two draws when the cluster's serving replicas are known and the session
// needs no more than that; else one pass over the nodes. No allocation.
ReadChoice choose_replica(const ClusterState& cluster, const ReadNeeds& needs,
                          const NodeLoads& loads, std::minstd_rand& random);

}  // namespace routing
