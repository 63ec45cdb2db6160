#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "routing/topology.h"

namespace routing {

// What the control thread knows of one node when it asks who the primary is.
struct ProbeResult {
  NodeId id{};
  NodeHealth health = NodeHealth::unknown;  // NodeHealthTracker::health()
  bool heard = false;                       // at least one probe has ended, well or not
  bool writable = false;                    // pg_is_in_recovery() was false at the last success
  std::uint64_t system_id = 0;              // 0: never seen
  // Out of recovery: of pg_walfile_name(pg_current_wal_insert_lsn()), which is right at once after
  // a promotion. In recovery: pg_stat_wal_receiver.received_tli, or 0 when it is not readable (it
  // needs pg_monitor) or there is no receiver. Not pg_control_checkpoint(): it is late by a
  // checkpoint.
  std::uint32_t timeline = 0;
  std::optional<Instant> last_seen{};       // last success
};

// What is remembered of a cluster between verdicts.
struct Accepted {
  std::optional<NodeId> primary;  // the last one accepted, even while writes are fenced
  std::uint64_t system_id = 0;
  std::uint32_t timeline = 0;     // the highest accepted; never falls
  friend bool operator==(const Accepted&, const Accepted&) = default;
};

// Why there is this primary, or none. Log field and column of SHOW NODES.
enum class PrimaryReason : std::uint8_t {
  accepted,             // one node is out of recovery, and nothing contradicts
  unreachable,          // the primary does not answer; it keeps its role until another is accepted
  no_writable_node,     // fenced: every node that answers is in recovery
  waiting_for_probes,   // fenced: at start, some node has not been heard yet
  confirming_failover,  // fenced: a successor is there, the old primary is not gone for long enough
  two_writable_nodes,   // fenced: and it is not certain which one is right
  older_timeline,       // fenced: the only writable nodes are older than what was accepted, or than
                        // what most replicas follow
  other_system,         // fenced: writable nodes have another system identifier (or differ in it)
};
std::string_view name(PrimaryReason reason);

struct Verdict {
  std::optional<NodeId> primary;  // ClusterState::primary; empty: writes are fenced, reads go on
  PrimaryReason why;
  Accepted accepted;  // to be passed in next time
};

// Decides which node is written to (README.md, "Who is the primary"):
//  1. Only nodes that are up, out of recovery and of the accepted system identifier can be
//     accepted.
//  2. A timeline below the highest accepted never is again: an old primary that comes back stays
//     out.
//  3. The accepted primary keeps its role while it does not answer, until another one is accepted.
//  4. A successor (another node, timeline not lower) is accepted when the old primary is in
//     recovery, or left the configuration, or has not answered for `confirm`, or, its timeline
//     being higher, most replicas that say what they follow already follow it.
//  5. Two that are writable: the lower timeline loses if it is that of no accepted primary, or most
//     replicas follow the higher; else nobody is written to.
//  6. A writable node while most replicas follow a newer timeline is an old primary: nobody is
//     written to.
//  7. At start all nodes are heard first, dead ones included; then one writable node is enough.
// A node of another system must not be shown as a replica either; compare with
// Verdict::accepted.system_id.
//
// Pure. When `accepted.primary` or `primary` changes: reset the LagRing, change the incarnation of
// the old node and send a new sample for pending floors. Call it after every probe and once per
// probe interval (rule 4 needs time to pass).
Verdict judge_primary(std::span<const ProbeResult> nodes, const Accepted& accepted, Instant now,
                      Millis confirm);

// So long must a new primary look like one before it is believed.
inline constexpr Millis kFailoverConfirm = std::chrono::seconds(2);

}  // namespace routing
