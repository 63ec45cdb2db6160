#include "bench/simulation/monitor.h"

#include <algorithm>

namespace simulation {
namespace {

using namespace std::chrono_literals;
using routing::FailureKind;
using routing::NodeHealth;
using routing::NodeState;

// As in proxy/monitor_cluster.h.
constexpr Millis kSampleFloor{5}, kFastProbe{20}, kFastFor{1000}, kMaxRetry{1000}, kRetryFloor{50};
// From a question to its answer, where the network and the node are well.
constexpr Nanos kRoundTrip = 300us;

}  // namespace

Monitor::Monitor(const conf::Settings& settings, bool breakers, const Postgres& postgres, EventHeap& events,
                 routing::NodeLoads& loads, std::uint64_t seed)
    : settings_(settings),
      breakers_(breakers),
      postgres_(postgres),
      events_(events),
      loads_(loads),
      random_(static_cast<std::uint32_t>(seed | 1)) {
  const auto count = [](std::int64_t number) { return static_cast<unsigned>(number); };
  breaker_rules_ = {.failures = count(settings.breaker_failures),
                    .sample = count(settings.breaker_failure_sample),
                    .failure_percent = count(settings.breaker_failure_percent),
                    .window = settings.breaker_failure_window,
                    .latency_factor = count(settings.breaker_latency_factor),
                    .min_open = settings.breaker_open_min,
                    .max_open = settings.breaker_open_max,
                    .slow_start = breakers ? settings.breaker_slow_start : Millis(0),
                    .slow_start_percent = count(settings.breaker_slow_start_percent)};
  load_rules_ = {.decay = settings.routing_latency_decay,
                 .least = static_cast<std::int32_t>(settings.routing_limit_min),
                 .tolerance = count(settings.routing_limit_tolerance),
                 .smoothing = count(settings.routing_limit_smoothing)};
  const std::size_t nodes = settings.clusters.at("main").servers.size();
  nodes_.resize(nodes);
  cluster_.name = "main";
  cluster_.primary = routing::NodeId(0);
  cluster_.samples_sent = std::make_shared<std::atomic<std::uint64_t>>(0);
  cluster_.probes_sent = std::make_shared<routing::ProbeCounts>();
  for (std::size_t at = 0; at < nodes; ++at) {
    NodeState& state = cluster_.nodes.emplace_back();
    state.id = routing::NodeId(static_cast<std::uint16_t>(at));
    state.ips = {"127.0.0.1"};
    state.role = at == 0 ? routing::NodeRole::primary : routing::NodeRole::replica;
    state.timeline = 1;
  }
  ring_.add(kBeginning, postgres.position(0, kBeginning));
  for (std::size_t at = 0; at < nodes; ++at) {
    // All are known when the play begins; from then on each is asked in its turn.
    nodes_[at].tracker.succeeded(
        kBeginning, {.system_id = 1, .postmaster_start_us = 1, .in_recovery = at > 0});
    nodes_[at].answered = kBeginning;
    if (at > 0) take_position(kBeginning, at);
    schedule(at, kBeginning + settings.probe_interval * (at + 1) / nodes);
  }
  publish(kBeginning);
}

void Monitor::schedule(std::size_t at, Instant when) {
  events_.push(when, Event::Kind::probe, static_cast<std::uint32_t>(at), ++nodes_[at].generation);
}

void Monitor::ask(Instant now, std::size_t at, std::uint32_t generation) {
  Node& node = nodes_[at];
  if (generation != (node.generation & Event::kGenerations)) return;
  node.asking = true;
  node.asked = now;
  node.number = ++(*cluster_.probes_sent)[at];
  node.no_answer = postgres_.node(at).fault == NodeFault::silent;
  const Nanos takes = node.no_answer ? Nanos(settings_.probe_timeout) : kRoundTrip;
  events_.push(now + takes, Event::Kind::probed, static_cast<std::uint32_t>(at), node.generation);
}

void Monitor::answer(Instant now, std::size_t at, std::uint32_t generation) {
  Node& node = nodes_[at];
  if (generation != (node.generation & Event::kGenerations)) return;
  const Postgres::Node& real = postgres_.node(at);
  if (real.fault == NodeFault::silent && !node.no_answer) {  // since it was asked
    node.no_answer = true;
    events_.push(node.asked + settings_.probe_timeout, Event::Kind::probed, static_cast<std::uint32_t>(at),
                 node.generation);
    return;
  }
  node.asking = false;
  const bool was_up = node.tracker.health() == NodeHealth::up;
  if (real.fault == NodeFault::none && !node.no_answer) {
    node.answered = now;
    node.tracker.succeeded(now, {.system_id = 1, .postmaster_start_us = real.started, .in_recovery = at > 0});
    if (std::exchange(node.was_down, false) && breakers_) node.breaker.returned(now);
    (void)node.breaker.probed(now, node.asked);
    if (at == 0) {
      sample_asked_ = node.asked;
      ring_.add(now, postgres_.position(0, now));
    } else {
      cluster_.nodes[at].probe = std::max(cluster_.nodes[at].probe, node.number);
      take_position(now, at);
    }
    schedule(at, node.asked + settings_.probe_interval);
  } else {
    const FailureKind kind = node.no_answer ? FailureKind::timeout : FailureKind::refused;
    node.tracker.failed(now, kind);
    const bool up = node.tracker.health() == NodeHealth::up;
    node.was_down |= was_up && !up;
    schedule(at, now + (up ? kRetryFloor : std::min(settings_.probe_interval, kMaxRetry)));
  }
  publish(now);
}

void Monitor::take_position(Instant now, std::size_t at) {
  NodeState& state = cluster_.nodes[at];
  state.replayed = postgres_.position(at, now);
  state.lag = ring_.lag(state.replayed, now);
  const std::uint64_t ahead = cluster_.sample_lsn.value;
  state.lag_bytes = ahead > state.replayed.value ? ahead - state.replayed.value : 0;
  const Millis margin = std::min(settings_.probe_interval, settings_.routing_max_lag / 4);
  const bool was = std::exchange(
      state.lag_ok, nodes_[at].gate.update(state.lag, state.lag_bytes, {settings_.routing_max_lag - margin}));
  if (was != state.lag_ok) publish(now);
}

void Monitor::want_sample(Instant now, std::uint64_t number) {
  wanted_ = now;
  if (number <= samples_sent() || std::exchange(sampling_, true)) return;
  events_.push(std::max(now, sample_asked_ + kSampleFloor), Event::Kind::sample);
}

void Monitor::sample(Instant now) {
  sample_number_ = ++*cluster_.samples_sent;
  sample_asked_ = now;
  sample_read_ = postgres_.position(0, now);
  events_.push(now + kRoundTrip, Event::Kind::sampled);
}

void Monitor::sampled(Instant) {
  sampling_ = false;
  ring_.add(sample_asked_, sample_read_);
  cluster_.sample = sample_number_;
  cluster_.sample_lsn = sample_read_;
  news_ = true;
}

void Monitor::tick(Instant now) {
  if (now - wanted_ > kFastFor || (now - kBeginning) % kFastProbe >= 10ms) return;
  for (std::size_t at = 1; at < nodes_.size(); ++at)
    if (nodes_[at].tracker.health() == NodeHealth::up && postgres_.node(at).fault == NodeFault::none) {
      cluster_.nodes[at].probe = ++(*cluster_.probes_sent)[at];
      take_position(now, at);
    }
  news_ = true;
}

void Monitor::look(Instant now, std::int32_t slots) {
  std::vector<std::uint32_t> latencies;
  const auto latency = [this](std::size_t at) { return loads_[at].latency.load(std::memory_order_relaxed); };
  const auto serves = [this](std::size_t at) {
    return at > 0 && nodes_[at].tracker.health() == NodeHealth::up &&
           nodes_[at].breaker.state() == routing::BreakerState::closed;
  };
  for (std::size_t at = 0; at < nodes_.size(); ++at) {
    loads_[at].fade(load_rules_, slots);
    if (serves(at)) latencies.push_back(latency(at));
  }
  std::ranges::sort(latencies);
  bool returning = false;
  for (std::size_t at = 0; at < nodes_.size(); ++at) {
    std::uint32_t median = 0;
    if (serves(at) && latencies.size() > 1) {
      const std::size_t middle = (latencies.size() - 2) / 2;
      median = latencies[middle] < latency(at) ? latencies[middle] : latencies[middle + 1];
    }
    nodes_[at].breaker.measure(now, latency(at), median, breaker_rules_);
    returning |= cluster_.nodes[at].ramp < 100;
    const bool late = nodes_[at].asking && now - nodes_[at].asked >= settings_.probe_timeout / 2;
    returning |= late != cluster_.nodes[at].late;
  }
  judge_breakers(now);
  if (returning) publish(now);
}

void Monitor::outcome(Instant now, std::size_t at, bool good) {
  nodes_[at].breaker.outcome(now, good, breaker_rules_);
  if (!good) judge_breakers(now);
}

void Monitor::judge_breakers(Instant now) {
  if (!breakers_) return;
  std::size_t out = 0;
  bool changed = false;
  for (std::size_t at = 1; at < nodes_.size(); ++at) {
    Node& node = nodes_[at];
    if (node.breaker.tick(now)) {
      changed = true;
      if (!node.asking) schedule(at, now);
    }
    const bool well = node.tracker.health() == NodeHealth::up &&
                      node.breaker.state() == routing::BreakerState::closed;
    out += well ? 0 : 1;
  }
  for (std::size_t at = 1; at < nodes_.size(); ++at) {
    Node& node = nodes_[at];
    const routing::BreakerReason why = node.breaker.wants_out();
    if (why == routing::BreakerReason::none || node.tracker.health() != NodeHealth::up ||
        !routing::may_eject(nodes_.size() - 1, out, static_cast<unsigned>(settings_.breaker_max_ejected)))
      continue;
    ++out;
    node.breaker.eject(now, why, breaker_rules_, random_);
    changed = true;
  }
  if (changed) publish(now);
}

// The connection to it is suspected: it is asked at once.
void Monitor::suspect(Instant now, std::size_t at) {
  if (nodes_[at].asking) return;
  schedule(at, std::max(now, nodes_[at].asked + kRetryFloor));
}

void Monitor::publish(Instant now) {
  for (std::size_t at = 0; at < nodes_.size(); ++at) {
    Node& node = nodes_[at];
    NodeState& state = cluster_.nodes[at];
    state.health = node.tracker.health();
    state.incarnation = node.tracker.incarnation();
    state.late = node.asking && now - node.asked >= settings_.probe_timeout / 2;
    state.breaker = node.breaker.state();
    state.ramp = node.breaker.ramp(now, breaker_rules_);
    if (state.health == NodeHealth::up) continue;
    state.replayed = {};
    state.lag.reset();
    state.lag_ok = node.gate.update(std::nullopt, 0, {settings_.routing_max_lag});
  }
  cluster_.keep_serving(static_cast<std::size_t>(settings_.routing_min_replicas));
  cluster_.find_serving();
  news_ = true;
}

std::uint64_t Monitor::ejections() const {
  std::uint64_t sum = 0;
  for (const Node& node : nodes_)
    for (std::size_t why = 1; why < routing::kBreakerReasons; ++why)
      sum += node.breaker.count(static_cast<routing::BreakerReason>(why));
  return sum;
}

}  // namespace simulation
