#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "conf/settings.h"
#include "routing/lsn.h"

namespace routing {

using conf::Instant;
using conf::Millis;

// One Postgres instance. Numbered by the control thread when it first appears in the configuration,
// for the life of the process; the same address has the same number across reloads.
enum class NodeId : std::uint16_t {};
constexpr std::size_t index(NodeId id) { return static_cast<std::size_t>(id); }
inline constexpr std::size_t kMaxNodes = 1024;

enum class NodeRole : std::uint8_t { unknown, primary, replica };
std::string_view name(NodeRole role);

enum class NodeHealth : std::uint8_t { unknown, up, down };
std::string_view name(NodeHealth health);

// The share of reads that a node should have, beside that of the one with the most.
inline constexpr std::uint16_t kFullShare = 1024;
struct Candidate {
  NodeId id;
  std::uint16_t share;
  std::uint32_t up_to;  // the sum of the shares up to and with this one's
};

// What stands between a node and new reads: nothing; the node is left alone for a while; the next probe
// that it answers ends that.
enum class BreakerState : std::uint8_t { closed, open, half_open };
std::string_view name(BreakerState state);
inline constexpr std::size_t kBreakerReasons = 4;  // breaker.h
// The number of the newest question *sent* to each node. As with samples, a question that is numbered higher
// than what a worker loads after it has read an answer of the node is asked after that answer.
using ProbeCounts = std::array<std::atomic<std::uint64_t>, kMaxNodes>;

// A node as the last probe saw it.
struct NodeState {
  NodeId id{};
  conf::NodeAddress address;
  // numeric addresses of address.host, in the order to try; the unix folder itself for sockets
  std::vector<std::string> ips;
  NodeRole role = NodeRole::unknown;
  NodeHealth health = NodeHealth::unknown;
  std::string why;               // of the health: "refused", "timeout", "" when up
  std::optional<Millis> lag;     // of a replica; nothing: unknown, and unknown is never zero
  std::uint64_t lag_bytes = 0;   // log that it has not replayed; means something beside `lag` only
  bool lag_ok = false;           // within the limits of lag, with hysteresis; or `kept`
  bool kept = false;             // too late, and serving all the same: routing.min_replicas
  bool drained = false;          // by an operator: no new statements, idle servers are closed
  // Of a probe that is due an answer for too long: the node may have stalled. No new reads while others serve.
  bool late = false;
  std::optional<std::int64_t> active{};  // statements that others have at work there; nothing: not known
  // Far more of them than at its peers: half of its share. find_serving() finds it out.
  bool crowded = false;
  BreakerState breaker = BreakerState::closed;
  // It has left recovery and nobody has accepted it as primary yet. What it served as a replica it still has: reads
  // outside transactions go on there. `replayed` is where it left, and its probes say nothing new.
  bool promoted = false;
  std::uint16_t weight = 100;    // as configured; 0: no reads
  std::uint16_t ramp = 100;      // percent of its weight that it has now: slow start
  std::uint16_t share = kFullShare;  // both, beside the others' that serve: find_serving()
  std::uint64_t groups = 0;      // a bit for each of its groups: Topology::group()
  std::uint64_t key = 0;         // of its address: subset.h
  bool nearby = false;           // in the proxy's own zone
  std::array<std::uint64_t, kBreakerReasons> ejections{};  // so far, by BreakerReason
  Lsn replayed;                  // of a replica, at its last probe; zero when that connection is lost
  std::uint64_t probe = 0;       // the number of that probe (ClusterState::probes_sent)
  std::uint64_t system_id = 0;
  std::int64_t started_us = 0;   // of its postmaster, as pg_postmaster_start_time() says; 0: not known
  std::uint32_t timeline = 0;
  // changes when the node was found down, restarted or changed role: servers connected under
  // another incarnation are closed, not reused
  std::uint64_t incarnation = 0;
  // So many incarnations before this one its data has only gone forward: a promotion begins a new one, and loses
  // nothing that was shown.
  std::uint16_t kept_incarnations = 0;

  // Is what it shows now at or past what it showed under `then` (the low bits of an incarnation)?
  bool has_kept(std::uint16_t then) const {
    return static_cast<std::uint16_t>(incarnation - then) <= kept_incarnations;
  }
};

// All nodes of one [cluster.NAME].
struct ClusterState {
  std::string name;
  std::vector<NodeState> nodes;
  std::optional<NodeId> primary;  // the accepted primary: the only node that is ever written to
  // The replicas that may serve any read whose session has not written: filled by
  // find_serving() when the snapshot is complete, so that nobody goes through all nodes per statement.
  std::vector<Candidate> serving;  // those of our own zone in front
  std::size_t near = 0;            // how many those are
  bool even = true;                // all have the same share, and none is nearer than another
  std::uint64_t promoted = 0;      // bit i: the i-th node is NodeState::promoted
  void find_serving();
  void find_crowded();
  // Where lag leaves fewer than `least` replicas serving, those that are least late serve too. Before
  // find_serving().
  void keep_serving(std::size_t least);

  // Sampled floors (README.md): the newest sample of the primary's insert position that has
  // been answered. Samples are numbered when they are sent.
  std::uint64_t sample = 0;  // 0: none since this primary was accepted
  Lsn sample_lsn;
  // The number of the newest sample *sent*: the one thing here that changes while the snapshot is
  // shared. The control thread stores it before it sends; workers load it after they have read the
  // answer to a COMMIT.
  std::shared_ptr<std::atomic<std::uint64_t>> samples_sent;
  // The same of every node's own probes.
  std::shared_ptr<ProbeCounts> probes_sent;

  // Counts the accepted primaries (and those that came back without their end). Positions of the term before
  // this one hold up to `switched_at`, where the new primary left the old one's timeline (zero: not known);
  // beyond it they mean nothing. `first_sample` is the lowest number that a sample of this term can have.
  std::uint16_t term = 0;
  Lsn switched_at;
  std::uint64_t first_sample = 0;
  Lsn forked_at;  // where the accepted primary's timeline left the one before it; zero: not known

  // Does what `node` says of its position mean the same to `primary`? On another timeline it does not, but for
  // positions up to where that timeline was left. Where a timeline is not known it is trusted (README.md).
  bool on_same_history(const NodeState& node, const NodeState* primary_node) const {
    if (primary_node == nullptr || primary_node->timeline == 0 || node.timeline == 0 ||
        node.timeline == primary_node->timeline)
      return true;
    return node.timeline + 1 == primary_node->timeline && node.replayed != Lsn{} && node.replayed <= forked_at;
  }

  // A replica other than the accepted primary, up, reachable, neither drained nor ejected, however far
  // behind it is.
  bool may_serve_reads(const NodeState& node) const {
    return node.role == NodeRole::replica && node.health == NodeHealth::up && !node.ips.empty() &&
           !node.drained && node.breaker == BreakerState::closed && node.weight > 0 &&
           primary != node.id;
  }
  // And within the limits of lag. `max_lag` above 0: this instead of what is configured.
  bool serves_reads(const NodeState& node, Millis max_lag = Millis(0)) const {
    return may_serve_reads(node) && close_enough(node, max_lag);
  }
  static bool close_enough(const NodeState& node, Millis max_lag) {
    return max_lag.count() == 0 ? node.lag_ok : node.lag && *node.lag <= max_lag;
  }
  // Bit i of `nodes_by_place` is the i-th node's.
  bool is_among(std::uint64_t nodes_by_place, NodeId id) const {
    const NodeState* const node = find(id);
    const auto place = static_cast<std::size_t>(node - nodes.data());
    return node != nullptr && place < 64 && (nodes_by_place >> place & 1) != 0;
  }
  const NodeState* find(NodeId id) const {
    // Where it is, unless there are several clusters or nodes have been removed.
    if (index(id) < nodes.size() && nodes[index(id)].id == id) return &nodes[index(id)];
    for (const NodeState& node : nodes)
      if (node.id == id) return &node;
    return nullptr;
  }
};

// Percent of the cluster's replicas that are down or ejected; 0 while it is only one, which is what replicas are
// for. Those that operators have drained, or given no weight, are left out of the count.
std::int64_t percent_out(const ClusterState& cluster);

// What the control thread knows of every cluster. Immutable; a new one is published whenever a
// probe changes anything.
struct Topology {
  std::uint64_t version = 0;
  std::vector<ClusterState> clusters;
  // Names of groups of nodes; each is a bit in NodeState::groups, the same for the life of the process.
  std::vector<std::string> groups;
  static constexpr std::size_t kMaxGroups = 64;

  // The bit of a group for ReadNeeds::groups; 0: no node is in it.
  std::uint64_t group(std::string_view name) const {
    for (std::size_t i = 0; i < groups.size(); ++i)
      if (groups[i] == name) return std::uint64_t{1} << i;
    return 0;
  }
  const ClusterState* find(std::string_view name) const {
    for (const ClusterState& cluster : clusters)
      if (cluster.name == name) return &cluster;
    return nullptr;
  }
};

}  // namespace routing
