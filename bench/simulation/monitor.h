#pragma once

#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "bench/simulation/postgres.h"
#include "conf/settings.h"
#include "routing/breaker.h"
#include "routing/chooser.h"
#include "routing/lag.h"
#include "routing/node_health.h"

namespace simulation {

// What pgsluice's control thread does, in the words of proxy/monitor_cluster.cc and in virtual time: probes,
// health, samples, lag, breakers, slow start. Every decision is routing's.
class Monitor {
 public:
  Monitor(const conf::Settings& settings, bool breakers, const Postgres& postgres, EventHeap& events,
          routing::NodeLoads& loads, std::uint64_t seed);

  const routing::ClusterState& cluster() const { return cluster_; }
  std::uint64_t incarnation(std::size_t at) const { return nodes_[at].tracker.incarnation(); }
  std::uint64_t samples_sent() const { return *cluster_.samples_sent; }
  std::uint64_t probes_sent(std::size_t at) const { return (*cluster_.probes_sent)[at]; }
  std::uint64_t ejections() const;
  // Something changed that those who wait, and servers, must hear of.
  bool take_news() { return std::exchange(news_, false); }

  // Events.
  void ask(Instant now, std::size_t at, std::uint32_t generation);
  void answer(Instant now, std::size_t at, std::uint32_t generation);
  void sample(Instant now);
  void sampled(Instant now);
  // Every 10 ms: replicas are asked more often while somebody waits for a position.
  void tick(Instant now);
  // Every 100 ms.
  void look(Instant now, std::int32_t slots);

  // What workers tell it.
  void outcome(Instant now, std::size_t at, bool good);
  void suspect(Instant now, std::size_t at);
  void want_sample(Instant now, std::uint64_t number);

 private:
  struct Node {
    routing::NodeHealthTracker tracker;
    routing::Breaker breaker;
    routing::LagGate gate;
    bool asking = false, was_down = false;
    bool no_answer = false;  // it was silent when it was asked
    std::uint64_t number = 0;  // of the question under way
    Instant asked{}, answered{};
    std::uint32_t generation = 0;  // of the probe that is due
  };
  void schedule(std::size_t at, Instant when);
  void take_position(Instant now, std::size_t at);
  void judge_breakers(Instant now);
  void publish(Instant now);

  const conf::Settings& settings_;
  const bool breakers_;
  const Postgres& postgres_;
  EventHeap& events_;
  routing::NodeLoads& loads_;
  routing::BreakerRules breaker_rules_;
  routing::LoadRules load_rules_;
  std::minstd_rand random_;
  std::vector<Node> nodes_;
  routing::ClusterState cluster_;
  routing::LagRing ring_;
  bool sampling_ = false;  // one is due, or under way
  std::uint64_t sample_number_ = 0;
  Instant sample_asked_{}, wanted_{};
  routing::Lsn sample_read_{};
  bool news_ = false;
};

}  // namespace simulation
