#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "proxy/monitor_cluster.h"

// What a ClusterMonitor keeps of each node: for its two files, which probe and judge (monitor_cluster.cc) and tell
// others (monitor_view.cc).
namespace proxy {

struct ClusterMonitor::Logged {
  routing::NodeRole role = routing::NodeRole::unknown;
  routing::NodeHealth health = routing::NodeHealth::unknown;
  std::string why;
};

struct ClusterMonitor::Node {
  Node(ClusterMonitor& owner, net::Loop& loop, const Member& member)
      : id(member.id),
        address(member.address),
        prober(loop, owner.resolver_, member.address,
               {.asking = [this, &owner] { owner.on_asking(*this); },
                .full = [this, &owner](const ProbeAnswer& answer) { owner.on_full(*this, answer); },
                .quick = [this, &owner](const QuickAnswer& said) { owner.on_quick(*this, said); },
                .failed =
                    [this, &owner](routing::FailureKind kind, const PgError& said) {
                      owner.on_failed(*this, kind, said);
                    }}),
        due(loop, [this] { prober.probe(probes++ % kBackendsEvery == 0); }) {}

  const routing::NodeId id;
  const conf::NodeAddress address;
  conf::NodeSettings settings;
  std::uint64_t groups = 0;
  bool nearby = false;
  MonitorProber prober;
  net::Timer due;
  unsigned probes = 0;

  routing::NodeHealthTracker tracker;
  routing::Breaker breaker;
  bool late = false;       // a probe is
  bool was_down = false;
  routing::LagGate gate;
  std::optional<ProbeAnswer> last;  // of the last full probe, its position that of the last probe
  bool position_known = false;      // the connection that read it lives
  std::optional<conf::Millis> lag;
  std::uint64_t lag_bytes = 0;
  bool lag_ok = false;
  std::uint64_t replaced = 0;  // times that another primary took over from this one, or its life is in doubt
  // Since its postmaster's start it has left recovery, and nothing has happened to it since.
  bool left_recovery = false;
  std::uint16_t kept_incarnations = 0;  // NodeState::kept_incarnations
  std::optional<Instant> recovering_at;  // when it was asked last of those times that it was in recovery

  std::optional<Instant> asked_at, answered_at;
  std::optional<Micros> latency;
  std::uint64_t sample_asked = 0;  // number of the sample that is under way; 0: not a sample
  std::uint64_t probe_asked = 0, probe = 0;  // of the question under way; of the last answer with a position
  std::string error;
  bool retry_soon = false;
  std::optional<std::int64_t> others_active;  // statements at work there that are not ours
  std::int64_t in_flight = 0;                 // ours, a moment ago
  std::string server_version;
  routing::NodeState shown;  // what was published last
  Logged logged;    // and what the log says

  std::uint64_t incarnation() const { return tracker.incarnation() + replaced; }
  // Something has been heard of it, and it may have begun a new incarnation since `before`.
  void note_incarnation(std::uint64_t before, bool by_promotion) {
    if (incarnation() == before) return;
    kept_incarnations = by_promotion ? static_cast<std::uint16_t>(kept_incarnations + incarnation() - before) : 0;
    left_recovery = by_promotion;
  }
};

}  // namespace proxy
