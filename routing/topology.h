#pragma once

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
  bool lag_ok = false;           // within routing.max_lag, with hysteresis
  bool drained = false;          // by an operator: no new statements, idle servers are closed
  Lsn replayed;                  // of a replica, at its last probe
  std::uint64_t system_id = 0;
  std::uint32_t timeline = 0;
  // changes when the node was found down, restarted or changed role: servers connected under
  // another incarnation are closed, not reused
  std::uint64_t incarnation = 0;
};

// All nodes of one [cluster.NAME].
struct ClusterState {
  std::string name;
  std::vector<NodeState> nodes;
  std::optional<NodeId> primary;  // the accepted primary: the only node that is ever written to
  // The replicas that may serve any read whose session has not written: filled by
  // find_serving() when the snapshot is complete, so that nobody goes through all nodes per statement.
  std::vector<NodeId> serving;
  void find_serving();

  // Sampled floors (README.md): the newest sample of the primary's insert position that has
  // been answered. Samples are numbered when they are sent.
  std::uint64_t sample = 0;
  Lsn sample_lsn;
  // The number of the newest sample *sent*: the one thing here that changes while the snapshot is
  // shared. The control thread stores it before it sends; workers load it after they have read the
  // answer to a COMMIT.
  std::shared_ptr<std::atomic<std::uint64_t>> samples_sent;

  // A replica other than the accepted primary, up, reachable, within max_lag and not drained. `max_lag`
  // above 0: this instead of what is configured.
  bool serves_reads(const NodeState& node, Millis max_lag = Millis(0)) const {
    const bool close = max_lag.count() == 0 ? node.lag_ok : node.lag && *node.lag <= max_lag;
    return node.role == NodeRole::replica && node.health == NodeHealth::up && !node.ips.empty() && close &&
           !node.drained && primary != node.id;
  }
  const NodeState* find(NodeId id) const {
    for (const NodeState& node : nodes)
      if (node.id == id) return &node;
    return nullptr;
  }
};

// What the control thread knows of every cluster. Immutable; a new one is published whenever a
// probe changes anything.
struct Topology {
  std::uint64_t version = 0;
  std::vector<ClusterState> clusters;

  const ClusterState* find(std::string_view name) const {
    for (const ClusterState& cluster : clusters)
      if (cluster.name == name) return &cluster;
    return nullptr;
  }
};

}  // namespace routing
