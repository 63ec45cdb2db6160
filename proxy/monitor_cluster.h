#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "conf/settings.h"
#include "proxy/monitor_prober.h"
#include "routing/breaker.h"
#include "routing/chooser.h"
#include "routing/lag.h"
#include "routing/node_health.h"
#include "routing/primary_judge.h"
#include "routing/topology.h"

namespace proxy {

// Everything that SHOW NODES wants to know of one node.
struct NodeReport {
  std::string cluster, address, ip;  // ip: the numeric address in use; empty: none known
  std::string host;                  // of the address
  std::vector<std::string> ips;      // all that are known of it
  conf::Millis next_look_up{0};      // of the name, if nothing fails before
  routing::NodeId id{};
  routing::NodeRole role = routing::NodeRole::unknown;
  routing::NodeHealth health = routing::NodeHealth::unknown;
  std::string why;    // one word, "" when all is well
  std::string error;  // the last failure in full, "" after a success
  std::optional<conf::Millis> lag;
  bool lag_ok = false;
  routing::Lsn position;  // primary: insert position; replica: replayed
  std::uint32_t timeline = 0;
  std::uint64_t system_id = 0;
  std::uint64_t incarnation = 0;
  std::optional<Micros> latency;             // of the last probe that was answered
  std::optional<conf::Millis> last_success;  // so long ago
  std::optional<std::int64_t> others_active;  // statements at work there that are not ours
  std::uint64_t lag_bytes = 0;
  bool late = false;              // a probe is
  bool crowded = false;           // far more statements than its peers
  conf::NodeSettings settings;    // weight, zone, groups
  std::uint16_t ramp = 100;       // percent of the weight that it has now
  routing::BreakerState breaker{};
  routing::BreakerReason breaker_why{};  // of the last time that it opened
  std::array<std::uint64_t, routing::kBreakerReasons> ejections{};
  unsigned failures_in_row = 0;
  conf::Millis open_for{0};       // from now on
  bool receiver_running = false;  // replica
  bool sees_everything = false;   // the monitor role has pg_monitor
  std::string server_version;
};

// And of one cluster: who may be written to, and why or why not.
struct ClusterReport {
  std::string name;
  std::optional<routing::NodeId> primary;
  std::string why;  // routing::PrimaryReason
  std::uint64_t samples_sent = 0, sample = 0;
  routing::Lsn sample_lsn;
};

// Watches the nodes of one [cluster.NAME]: asks each of them (MonitorProber), feeds the pure
// deciders of routing/ (health, lag, primary) with what they say, and keeps the ClusterState that
// workers see.
//
// Rhythm: every node each probe.interval, spread so that replicas are asked between two samples of
// the primary; a node that is not up at least every second; a suspected one at once; all that are up every
// kSearching while there is no primary. While sessions wait for a floor (want_sample) the primary is sampled as often as every kSampleFloor and replicas
// are asked every kFastProbe, one after the other: who waits is content with any of them.
class ClusterMonitor {
 public:
  struct Events {
    std::function<void()> changed;   // state() differs from what it was
    std::function<void()> accepted;  // another primary was accepted
    std::function<void(routing::NodeId)> crash_heard;  // a node has told of a crash (57P02)
  };

  ClusterMonitor(net::Loop& loop, MonitorResolver& resolver, std::string name, Events events);
  ~ClusterMonitor();

  struct Member {
    routing::NodeId id;
    conf::NodeAddress address;
    std::uint64_t groups = 0;  // NodeState::groups
  };
  // Nodes that stay keep their connection and everything that is known of them.
  void configure(const conf::Settings& settings, const std::vector<Member>& members);

  void suspect(routing::NodeId id);
  // Somebody waits for this sample, or for a replica to replay it. kNext: for one that is sent from now on.
  void want_sample(std::uint64_t sample = kNext);
  static constexpr std::uint64_t kNext = ~std::uint64_t{0};
  // A worker has made a connection to it, or failed to because of the node.
  void outcome(routing::NodeId id, bool good);
  // Every kFadePeriod: latencies fade, limits follow, breakers open and half open. `slots`: by node number,
  // how many servers its pools may have.
  void look_at_loads(routing::NodeLoads& loads, std::span<const std::int32_t> slots);

  routing::ClusterState state() const;
  std::vector<NodeReport> report() const;
  ClusterReport summary() const;
  // Nodes that answer, the primary first: where a query of the control plane may go.
  std::vector<PgTarget> targets(const conf::Settings& settings) const;
  bool any_up() const;

  static constexpr conf::Millis kSampleFloor{5};
  static constexpr conf::Millis kFastProbe{20};
  static constexpr conf::Millis kFastTurn{5};     // between two of them
  static constexpr conf::Millis kFastFor{100};    // after the last want_sample()
  static constexpr conf::Millis kMaxRetry{1000};  // a node that is not up is asked as often
  static constexpr conf::Millis kSearching{100};  // the others, while there is no primary
  static constexpr unsigned kBackendsEvery = 10;  // probes per count of active backends

 private:
  struct Node;
  struct Logged;
  struct Asked {
    Instant at;
    std::uint64_t sample;  // 0: this was no sample
    std::uint64_t probe;
  };

  Asked on_answer(Node& node);
  void on_asking(Node& node);
  void on_full(Node& node, const ProbeAnswer& answer);
  void on_quick(Node& node, const QuickAnswer& answer);
  void on_failed(Node& node, routing::FailureKind kind, const PgError& error);
  void on_house_keeping();
  void on_fast();

  void settle(Node& node, const std::string& how);
  void take_position(Node& node, routing::Lsn position, Asked asked);
  void judge();
  void begin_term(routing::Lsn common);
  void judge_breakers();
  void look_for_late(Node& node);
  void try_sample();
  void schedule(Node& node);
  void update_lag(Node& node);
  void forget_position(Node& node);
  void publish_if_changed(Node& node);
  bool stale_timeline(const Node& node) const;
  bool may_have_diverged(const Node& node) const;
  bool is_promoted(const Node& node) const;
  routing::Lsn replayed_by(const Node& node) const;
  void ask_fast();
  bool foreign(const Node& node) const;
  std::string_view misfit(const Node& node) const;
  routing::NodeRole role_of(const Node& node) const;
  routing::NodeState state_of(const Node& node) const;
  Node* find(routing::NodeId id) const;
  Node* primary() const;

  net::Loop& loop_;
  MonitorResolver& resolver_;
  const std::string name_;
  const Events events_;
  conf::Millis interval_{500}, timeout_{1000};
  routing::LagLimits lag_limits_{conf::Millis(10'000), 0};
  routing::BreakerRules breaker_rules_;
  unsigned max_ejected_ = 50;  // percent
  routing::LoadRules load_rules_;
  std::minstd_rand random_;

  std::vector<std::unique_ptr<Node>> nodes_;
  routing::LagRing ring_;
  routing::Verdict verdict_{std::nullopt, routing::PrimaryReason::waiting_for_probes, {}};
  bool switched_ = false;  // a timeline newer than the first one was accepted in our life

  std::shared_ptr<std::atomic<std::uint64_t>> samples_sent_;
  std::shared_ptr<routing::ProbeCounts> probes_sent_;
  std::uint64_t sample_ = 0;
  routing::Lsn sample_lsn_;
  std::uint16_t term_ = 0;  // as the following in routing::ClusterState
  routing::Lsn switched_at_, forked_at_;
  std::uint64_t first_sample_ = 0;
  unsigned fast_turn_ = 0;
  std::optional<Instant> last_sample_sent_;
  bool sample_wanted_ = false;
  std::optional<Instant> wanted_at_;

  net::Timer house_keeping_, sample_timer_, fast_;
};

}  // namespace proxy
