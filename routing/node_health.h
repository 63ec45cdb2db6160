#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "routing/topology.h"

namespace routing {

// How a probe, or a worker's attempt to connect, failed. What it means for the node is in
// NodeHealthTracker; the word is NodeState::why, the log field and the metric label.
// To add one: put it here, in name() and in NodeHealthTracker::failed().
enum class FailureKind : std::uint8_t {
  refused,        // ECONNREFUSED, no route, no socket file
  timeout,        // no answer within probe.timeout
  reset,          // the connection ended without a word
  shutting_down,  // 57P02, 57P03 (also: starting up, not yet consistent)
  terminated,     // 57P01: somebody ended this one connection, or a shutdown begins
  resolve,        // the name has no address
  auth,           // class 28, 3D000: the node is there, our login is wrong
  too_many,       // 53300: the node is there and full
  other,          // any other error that Postgres itself answered
};
std::string_view name(FailureKind kind);

// What tells one life of a node from the next. Zero fields: not known.
struct NodeIdentity {
  std::uint64_t system_id = 0;
  std::int64_t postmaster_start_us = 0;  // pg_postmaster_start_time(), microseconds; only compared
  bool in_recovery = false;
  friend bool operator==(const NodeIdentity&, const NodeIdentity&) = default;
};

// Turns the outcomes of probes of one node into NodeState::health, why and incarnation:
//  - refused, reset and shutting_down mean down at once;
//  - timeout and resolve mean down at the second in a row (one slow answer is not an outage);
//  - terminated says nothing yet: the next probe, which reconnects, will;
//  - auth, too_many and other come from a Postgres that lives: a node that was up stays up, one
//    that was down becomes unknown; they only show in `why`;
//  - one success means up.
// Health never changes a role: the only writer that misses probes stays the writer. Used by the
// control thread; `now` is the loop's. Outcomes reported by workers may be mixed in.
class NodeHealthTracker {
 public:
  static constexpr unsigned kTimeoutsForDown = 2;

  void succeeded(Instant now, const NodeIdentity& identity);
  void failed(Instant now, FailureKind kind);

  NodeHealth health() const { return health_; }
  // name() of the last failure, "" after a success (static storage).
  std::string_view why() const { return why_; }
  // Changes whenever servers connected before must not be reused: the node went down, or answered
  // as another postmaster, another system or in another role. Starts at 1.
  std::uint64_t incarnation() const { return incarnation_; }
  // any probe has ended, well or not
  bool heard() const { return heard_; }
  std::optional<Instant> last_success() const { return last_success_; }
  Instant changed() const { return changed_; }                     // when health last changed

 private:
  void become(NodeHealth health, Instant now);

  NodeHealth health_ = NodeHealth::unknown;
  std::string_view why_;
  unsigned silent_ = 0;  // time-outs and failed look-ups in a row
  std::uint64_t incarnation_ = 1;
  NodeIdentity identity_;
  bool identified_ = false, heard_ = false;
  std::optional<Instant> last_success_;
  Instant changed_{};
};

}  // namespace routing
