#include <algorithm>

#include "proxy/monitor_node.h"
#include "routing/subset.h"

// What a ClusterMonitor tells others.
namespace proxy {

using conf::Millis;
using routing::NodeHealth;
using routing::NodeId;
using routing::NodeRole;
using routing::NodeState;

ClusterMonitor::Node* ClusterMonitor::find(NodeId id) const {
  for (const auto& node : nodes_)
    if (node->id == id) return node.get();
  return nullptr;
}

ClusterMonitor::Node* ClusterMonitor::primary() const {
  return verdict_.primary ? find(*verdict_.primary) : nullptr;
}

bool ClusterMonitor::any_up() const {
  return std::any_of(nodes_.begin(), nodes_.end(), [](const auto& node) {
    return node->tracker.health() == NodeHealth::up;
  });
}

NodeRole ClusterMonitor::role_of(const Node& node) const {
  if (verdict_.primary == node.id) return NodeRole::primary;
  if (node.last && ((node.last->in_recovery && !foreign(node)) || is_promoted(node))) return NodeRole::replica;
  return NodeRole::unknown;
}

NodeState ClusterMonitor::state_of(const Node& node) const {
  NodeState state;
  state.id = node.id;
  state.address = node.address;
  state.ips = node.prober.ips();
  state.role = role_of(node);
  state.health = node.tracker.health();
  state.why = node.tracker.why();
  if (state.why.empty()) state.why = misfit(node);
  state.lag = node.lag;
  state.lag_bytes = node.lag_bytes;
  state.lag_ok = node.lag_ok;
  state.incarnation = node.incarnation();
  state.kept_incarnations = node.kept_incarnations;
  state.late = node.late;
  if (state.health == NodeHealth::up) state.active = node.others_active;
  state.breaker = node.breaker.state();
  state.ramp = node.breaker.ramp(loop_.now(), breaker_rules_);
  for (std::size_t i = 0; i < routing::kBreakerReasons; ++i)
    state.ejections[i] = node.breaker.count(static_cast<routing::BreakerReason>(i));
  state.weight = static_cast<std::uint16_t>(node.settings.weight);
  state.key = routing::subset_key(state.address.name());
  state.groups = node.groups;
  state.nearby = node.nearby;
  if (!node.last) return state;
  state.promoted = is_promoted(node);
  if ((node.last->in_recovery || state.promoted) && node.position_known) state.replayed = replayed_by(node);
  // What it says of itself now may be less than what it shows.
  if (!state.promoted) state.probe = node.probe;
  state.system_id = node.last->system_id;
  state.started_us = node.last->started_us;
  state.timeline = node.last->timeline;
  return state;
}

routing::ClusterState ClusterMonitor::state() const {
  routing::ClusterState state;
  state.name = name_;
  for (const auto& node : nodes_) state.nodes.push_back(state_of(*node));
  state.primary = verdict_.primary;
  state.sample = sample_;
  state.sample_lsn = sample_lsn_;
  state.samples_sent = samples_sent_;
  state.probes_sent = probes_sent_;
  state.term = term_;
  state.switched_at = switched_at_;
  state.forked_at = forked_at_;
  state.first_sample = first_sample_;
  return state;
}

std::vector<NodeReport> ClusterMonitor::report() const {
  std::vector<NodeReport> rows;
  routing::ClusterState whole = this->state();
  whole.find_crowded();
  for (const auto& node : nodes_) {
    const NodeState state = state_of(*node);
    NodeReport& row = rows.emplace_back();
    row.cluster = name_;
    row.address = node->address.name();
    row.ip = state.ips.empty() ? "" : state.ips.front();
    row.host = node->address.host;
    row.ips = state.ips;
    row.next_look_up = node->prober.next_look_up();
    row.id = node->id;
    row.role = state.role;
    row.health = state.health;
    row.why = state.why;
    row.error = node->error;
    row.lag = state.lag;
    row.lag_bytes = state.lag_bytes;
    row.lag_ok = state.lag_ok;
    row.late = state.late;
    row.crowded = whole.find(node->id)->crowded;
    row.settings = node->settings;
    row.ramp = state.ramp;
    row.breaker = state.breaker;
    row.breaker_why = node->breaker.why();
    row.ejections = state.ejections;
    row.failures_in_row = node->breaker.failures_in_row();
    row.open_for = node->breaker.left(loop_.now());
    row.timeline = state.timeline;
    row.system_id = state.system_id;
    row.incarnation = state.incarnation;
    row.latency = node->latency;
    if (const auto success = node->tracker.last_success())
      row.last_success = std::chrono::duration_cast<Millis>(loop_.now() - *success);
    row.others_active = state.active;
    row.server_version = node->server_version;
    if (!node->last) continue;
    row.position = node->last->position;
    row.receiver_running = node->last->receiver_running;
    row.sees_everything = node->last->sees_everything;
  }
  return rows;
}

ClusterReport ClusterMonitor::summary() const {
  return {.name = name_,
          .primary = verdict_.primary,
          .why = std::string(name(verdict_.why)),
          .samples_sent = samples_sent_->load(std::memory_order_relaxed),
          .sample = sample_,
          .sample_lsn = sample_lsn_};
}

std::vector<PgTarget> ClusterMonitor::targets(const conf::Settings& settings) const {
  std::vector<PgTarget> targets;
  const Node* first = primary();
  const auto add = [&](const Node& node) {
    if (node.tracker.health() != NodeHealth::up || node.prober.ips().empty() || foreign(node))
      return;
    targets.push_back(pg_target(settings, node.address, node.prober.ips().front()));
  };
  if (first != nullptr) add(*first);
  for (const auto& node : nodes_)
    if (node.get() != first) add(*node);
  return targets;
}

}  // namespace proxy
