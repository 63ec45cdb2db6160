#include "proxy/monitor_cluster.h"

#include <algorithm>
#include <utility>

#include "proxy/log.h"
#include "proxy/monitor_node.h"
#include "proxy/random.h"
#include "proxy/wire/sqlstate.h"

namespace proxy {

using conf::Millis;
using routing::FailureKind;
using routing::Lsn;
using routing::NodeHealth;
using routing::NodeId;
using routing::NodeRole;
using routing::NodeState;
using routing::PrimaryReason;

namespace {

Millis whole(Instant::duration duration) {
  return std::chrono::ceil<Millis>(std::max(duration, Instant::duration::zero()));
}

bool same(const NodeState& a, const NodeState& b) {
  return a.ips == b.ips && a.role == b.role && a.health == b.health && a.why == b.why &&
         a.lag == b.lag && a.lag_bytes == b.lag_bytes && a.lag_ok == b.lag_ok && a.replayed == b.replayed &&
         a.late == b.late && a.active == b.active && a.breaker == b.breaker && a.ramp == b.ramp && a.weight == b.weight &&
         a.groups == b.groups && a.nearby == b.nearby && a.ejections == b.ejections &&
         a.system_id == b.system_id && a.started_us == b.started_us && a.timeline == b.timeline &&
         a.incarnation == b.incarnation && a.promoted == b.promoted;
}

std::string describe(const ProbeAnswer& answer) {
  return std::string("in_recovery=") + (answer.in_recovery ? "true" : "false") +
         " position=" + print(answer.position) + " timeline=" + std::to_string(answer.timeline) +
         " system=" + std::to_string(answer.system_id);
}

}  // namespace

ClusterMonitor::ClusterMonitor(net::Loop& loop, MonitorResolver& resolver, std::string name,
                               Events events)
    : loop_(loop),
      resolver_(resolver),
      name_(std::move(name)),
      events_(std::move(events)),
      random_(random_u32()),
      samples_sent_(std::make_shared<std::atomic<std::uint64_t>>(0)),
      probes_sent_(std::make_shared<routing::ProbeCounts>()),
      house_keeping_(loop, [this] { on_house_keeping(); }),
      sample_timer_(loop, [this] { try_sample(); }),
      fast_(loop, [this] { on_fast(); }) {}

ClusterMonitor::~ClusterMonitor() = default;

void ClusterMonitor::configure(const conf::Settings& settings, const std::vector<Member>& members) {
  interval_ = settings.probe_interval;
  timeout_ = settings.probe_timeout;
  lag_limits_ = {settings.routing_max_lag, settings.routing_max_lag_bytes.count};
  const conf::ClusterSettings& cluster = settings.clusters.at(name_);
  const auto count = [](std::int64_t number) { return static_cast<unsigned>(number); };
  breaker_rules_ = {.failures = count(settings.breaker_failures),
                    .sample = count(settings.breaker_failure_sample),
                    .failure_percent = count(settings.breaker_failure_percent),
                    .window = settings.breaker_failure_window,
                    .latency_factor = count(settings.breaker_latency_factor),
                    .min_open = settings.breaker_open_min,
                    .max_open = settings.breaker_open_max,
                    .slow_start = settings.breaker_slow_start,
                    .slow_start_percent = count(settings.breaker_slow_start_percent)};
  max_ejected_ = count(settings.breaker_max_ejected);
  load_rules_ = {.decay = settings.routing_latency_decay,
                 .least = static_cast<std::int32_t>(settings.routing_limit_min),
                 .tolerance = count(settings.routing_limit_tolerance),
                 .smoothing = count(settings.routing_limit_smoothing)};

  std::vector<std::unique_ptr<Node>> kept;
  for (const Member& member : members) {
    const auto known = std::find_if(nodes_.begin(), nodes_.end(), [&member](const auto& node) {
      return node != nullptr && node->id == member.id;
    });
    kept.push_back(known != nodes_.end() ? std::move(*known)
                                         : std::make_unique<Node>(*this, loop_, member));
    Node& node = *kept.back();
    const auto section = settings.nodes.find(member.address.name());
    node.settings = section == settings.nodes.end() ? conf::NodeSettings{} : section->second;
    node.groups = member.groups;
    node.nearby = !settings.routing_zone.empty() && node.settings.zone == settings.routing_zone;
  }
  nodes_ = std::move(kept);
  for (const auto& node : nodes_) {
    PgTarget target = pg_target(settings, node->address, "");
    target.user = cluster.monitor_user;
    target.password = cluster.monitor_password;
    target.database = cluster.monitor_database;
    node->prober.configure(std::move(target), timeout_, settings.probe_dns_ttl);
    node->due.once(Millis(0));
  }
  house_keeping_.every(std::clamp(interval_, Millis(10), Millis(250)));
  judge();
  if (events_.changed) events_.changed();
}

// --- what the nodes say ---

void ClusterMonitor::on_asking(Node& node) {
  node.asked_at = loop_.now();
  node.sample_asked = 0;
  node.probe_asked = (*probes_sent_)[index(node.id)].fetch_add(1, std::memory_order_seq_cst) + 1;
  if (verdict_.primary != node.id) return;
  // The number is out before the question is: a worker that has read a COMMIT's answer and then
  // loads g knows that sample g + 1 is asked later than that.
  node.sample_asked = samples_sent_->load(std::memory_order_relaxed) + 1;
  samples_sent_->store(node.sample_asked, std::memory_order_seq_cst);
  last_sample_sent_ = node.asked_at;
  sample_wanted_ = false;
}

ClusterMonitor::Asked ClusterMonitor::on_answer(Node& node) {
  // Taken before anything else: what follows may ask this node the next question.
  const Asked asked{*node.asked_at, std::exchange(node.sample_asked, 0), node.probe_asked};
  node.answered_at = loop_.now();
  node.latency = std::chrono::duration_cast<Micros>(*node.answered_at - asked.at);
  return asked;
}

void ClusterMonitor::on_full(Node& node, const ProbeAnswer& answer) {
  const Asked asked = on_answer(node);
  node.error.clear();
  node.retry_soon = false;
  node.server_version = node.prober.server_version();
  // Without the probe itself, and our own reads, which are more where there is more to be had.
  if (answer.active_backends)
    node.others_active = std::max<std::int64_t>(0, *answer.active_backends - 1 - node.in_flight);
  if (!answer.sees_everything) node.others_active = std::nullopt;

  const std::uint32_t seen = node.last && node.last->started_us == answer.started_us &&
                                     node.last->system_id == answer.system_id
                                 ? node.last->timeline
                                 : 0;
  const std::uint64_t before = node.incarnation();
  const bool promoted = node.last && node.last->in_recovery && !answer.in_recovery &&
                        node.last->started_us == answer.started_us && node.last->system_id == answer.system_id;
  node.last = answer;
  // Within one postmaster's life a timeline never falls, even when the receiver that showed it is
  // gone.
  if (answer.in_recovery) node.last->timeline = std::max(answer.timeline, seen);
  node.tracker.succeeded(*node.answered_at, {.system_id = answer.system_id,
                               .postmaster_start_us = answer.started_us,
                               .in_recovery = answer.in_recovery});
  node.note_incarnation(before, promoted);
  if (answer.in_recovery) node.recovering_at = asked.at;
  node.late = false;
  if (std::exchange(node.was_down, false)) node.breaker.returned(*node.answered_at);
  if (node.breaker.probed(*node.answered_at, asked.at))
    log_info("cluster=" + name_ + " node=" + node.address.name() +
             " breaker half_open -> closed: it answers, and gets its reads back slowly");
  judge();
  take_position(node, answer.position, asked);
  settle(node, describe(*node.last));
}

void ClusterMonitor::on_quick(Node& node, const QuickAnswer& answer) {
  const Asked asked = on_answer(node);
  node.late = false;
  if (answer.in_recovery != node.last->in_recovery ||
      (!answer.in_recovery && answer.timeline != node.last->timeline)) {
    node.prober.probe(false);  // promoted, just now: hear everything before believing anything
    return;
  }
  const Lsn position = answer.in_recovery
                           ? answer.position
                           : routing::normalise_insert_lsn(answer.position,
                                                           node.last->wal_segment_size);
  take_position(node, position, asked);
  publish_if_changed(node);
  if (!node.due.armed()) schedule(node);
  try_sample();
}

void ClusterMonitor::on_failed(Node& node, FailureKind kind, const PgError& error) {
  node.error = error.message;
  if (error.sqlstate == wire::sqlstate::kCrashShutdown && events_.crash_heard) events_.crash_heard(node.id);
  const bool was_up = node.tracker.health() == NodeHealth::up;
  const std::uint64_t before = node.incarnation();
  node.tracker.failed(loop_.now(), kind);
  node.was_down |= was_up && node.tracker.health() == NodeHealth::down;
  // A standby whose processes were restarted recovers again, under the same postmaster, and may stand lower than
  // it did. That somebody ended this one connection (57P01) is no sign of that.
  if (kind == FailureKind::terminated && error.sqlstate != "57P01" && node.last && node.last->in_recovery)
    ++node.replaced;
  node.note_incarnation(before, false);
  forget_position(node);
  // Once more at once, where one failure says little.
  node.retry_soon = node.tracker.health() == NodeHealth::up &&
                    (kind == FailureKind::terminated || kind == FailureKind::timeout ||
                     kind == FailureKind::resolve);
  judge();
  settle(node, std::string(name(kind)) + ": " + error.message +
                   (error.sqlstate.empty() ? "" : " sqlstate=" + error.sqlstate));
}

void ClusterMonitor::take_position(Node& node, Lsn position, Asked asked) {
  node.last->position = position;
  node.position_known = true;
  node.probe = asked.probe;
  if (node.last->in_recovery || is_promoted(node)) {
    update_lag(node);
    return;
  }
  node.lag.reset();
  node.lag_ok = false;
  // Sampled before a switch, or asked before this node was accepted: not a sample.
  if (asked.sample == 0 || verdict_.primary != node.id) return;
  // The moment of asking is the earliest that the position can be from, so lag is never too small.
  ring_.add(asked.at, position);
  if (position < sample_lsn_) {
    log_warning("cluster=" + name_ + " node=" + node.address.name() + " stands at " + print(position) +
                " after " + print(sample_lsn_) + ": it has lost what was not yet on its disk");
    begin_term(position);
    first_sample_ = asked.sample;
  }
  sample_ = asked.sample;
  sample_lsn_ = position;
  if (events_.changed) events_.changed();
}

void ClusterMonitor::settle(Node& node, const std::string& how) {
  const NodeState now = state_of(node);
  Logged& was = node.logged;
  if (now.role != was.role || now.health != was.health || now.why != was.why) {
    const bool bad = now.health != NodeHealth::up || !now.why.empty();
    std::string line = "cluster=" + name_ + " node=" + node.address.name();
    if (now.health != was.health)
      line += " health " + std::string(name(was.health)) + " -> " + std::string(name(now.health));
    if (now.role != was.role)
      line += " role " + std::string(name(was.role)) + " -> " + std::string(name(now.role));
    if (!now.why.empty() && !how.starts_with(now.why)) line += " why=" + now.why;
    log(bad ? conf::LogLevel::warning : conf::LogLevel::info, line + ": " + how);
    was = {now.role, now.health, now.why};
  }
  publish_if_changed(node);
  schedule(node);
  try_sample();
}

void ClusterMonitor::publish_if_changed(Node& node) {
  NodeState now = state_of(node);
  if (same(now, node.shown)) return;
  node.shown = std::move(now);
  if (events_.changed) events_.changed();
}

// --- decisions ---

void ClusterMonitor::judge() {
  std::vector<routing::ProbeResult> results;
  results.reserve(nodes_.size());
  for (const auto& node : nodes_) {
    routing::ProbeResult& result = results.emplace_back();
    result.id = node->id;
    result.health = node->tracker.health();
    result.heard = node->tracker.heard();
    result.last_seen = node->tracker.last_success();
    if (!node->last) continue;
    result.writable = !node->last->in_recovery;
    result.system_id = node->last->system_id;
    result.timeline = node->last->in_recovery ? node->last->following : node->last->timeline;
  }
  const routing::Verdict before = verdict_;
  verdict_ = judge_primary(results, before.accepted, loop_.now(), routing::kFailoverConfirm);
  const auto& accepted = verdict_.accepted;
  if (verdict_.primary == before.primary && verdict_.why == before.why &&
      accepted == before.accepted)
    return;

  if (before.accepted.timeline != 0 && accepted.timeline > before.accepted.timeline)
    switched_ = true;
  if (before.accepted.system_id != 0 && accepted.system_id != before.accepted.system_id)
    ring_.reset();
  // The ring is not emptied when a replica of the same system takes over: positions up to the
  // switch are common to both, so replicas keep a lag (too large rather than too small) and go on
  // serving. If the new primary stands lower, add() forgets.
  const bool another = accepted.primary != before.accepted.primary;
  if (another || accepted.timeline != before.accepted.timeline) {
    const Node* taker = primary();
    const bool next = before.accepted.system_id == accepted.system_id &&
                      accepted.timeline == before.accepted.timeline + 1;
    forked_at_ = taker != nullptr && next ? taker->last->left_at : Lsn{};
    // While it was a replica nothing newer than that existed: who has it is no later than since then, however long
    // there was no primary.
    if (forked_at_ != Lsn{} && forked_at_ >= sample_lsn_ && taker->recovering_at > ring_.newest())
      ring_.add(*taker->recovering_at, forked_at_);
    begin_term(forked_at_);
  }
  if (another && before.accepted.primary)
    if (Node* old = find(*before.accepted.primary)) {
      ++old->replaced;
      old->note_incarnation(old->incarnation() - 1, false);
    }

  Node* now = primary();
  if (now != nullptr) now->logged.role = NodeRole::primary;  // the line below says so
  if (verdict_.primary != before.primary || verdict_.why != before.why)
    log(verdict_.why == PrimaryReason::accepted ? conf::LogLevel::info : conf::LogLevel::warning,
        "cluster=" + name_ + " primary=" + (now == nullptr ? "none" : now->address.name()) + ": " +
            std::string(name(verdict_.why)) + " timeline=" + std::to_string(accepted.timeline) +
            (now == nullptr ? " (writes wait, reads go on)" : ""));

  for (const auto& node : nodes_) {
    if (node->position_known && (node->last->in_recovery || is_promoted(*node))) update_lag(*node);
    publish_if_changed(*node);
  }
  if (events_.changed) events_.changed();
  if (verdict_.primary != before.primary && verdict_.primary) {
    want_sample();  // floors that are pending, and the ring, need the new primary's position
    if (events_.accepted) events_.accepted();
  }
}

// What was sampled before means something up to `common` only.
void ClusterMonitor::begin_term(Lsn common) {
  ++term_;
  switched_at_ = common;
  sample_ = 0;
  sample_lsn_ = {};
  first_sample_ = samples_sent_->load(std::memory_order_relaxed) + 1;
}

bool ClusterMonitor::foreign(const Node& node) const {
  return node.last && node.last->system_id != 0 && verdict_.accepted.system_id != 0 &&
         node.last->system_id != verdict_.accepted.system_id;
}

// Why a node that is well is not used all the same; "": it is.
std::string_view ClusterMonitor::misfit(const Node& node) const {
  if (!node.last || verdict_.primary == node.id) return "";
  if (foreign(node)) return "other_system";
  if (is_promoted(node)) return "promoted";
  if (verdict_.accepted.timeline != 0 && stale_timeline(node)) return "older_timeline";
  return node.last->in_recovery || !verdict_.primary ? "" : "second_primary";
}

// On an older timeline than the primary's a replica may hold what the primary lost.
bool ClusterMonitor::stale_timeline(const Node& node) const {
  if (node.last->timeline == 0) return switched_;
  return node.last->timeline < verdict_.accepted.timeline;
}

// It still has everything up to where the primary left that timeline.
bool ClusterMonitor::may_have_diverged(const Node& node) const {
  const bool before_the_fork = node.position_known && forked_at_ != Lsn{} &&
                               node.last->timeline + 1 == verdict_.accepted.timeline &&
                               node.last->position <= forked_at_;
  return stale_timeline(node) && !before_the_fork;
}

// It was a replica, and would be the primary: until that is judged, it has at least what it had.
bool ClusterMonitor::is_promoted(const Node& node) const {
  return node.left_recovery && !foreign(node) && verdict_.primary != node.id && node.last->left_at != Lsn{} &&
         node.last->timeline > verdict_.accepted.timeline;
}

Lsn ClusterMonitor::replayed_by(const Node& node) const {
  return is_promoted(node) ? node.last->left_at : node.last->position;
}

void ClusterMonitor::update_lag(Node& node) {
  const Instant now = loop_.now();
  const Node* source = primary();
  // While there is no primary to fall behind of, time does not make a replica later: reads survive
  // the loss of the primary. What counts is how far it was behind at the last sample.
  const bool sampled = source != nullptr && source->tracker.health() == NodeHealth::up;
  const Instant as_of = sampled ? now : std::min(now, ring_.newest().value_or(now));
  node.lag.reset();
  const Lsn position = replayed_by(node);
  if (!foreign(node) && !may_have_diverged(node)) node.lag = ring_.lag(position, as_of);
  // The answer stands until the next probe, and lag can grow by that much meanwhile.
  const Millis margin = std::min(interval_, lag_limits_.time / 4);
  const std::uint64_t ahead = sample_lsn_.value, replayed = position.value;
  node.lag_bytes = ahead > replayed ? ahead - replayed : 0;
  node.lag_ok = node.gate.update(node.lag, node.lag_bytes,
                                 {lag_limits_.time - margin, lag_limits_.bytes});
}

void ClusterMonitor::forget_position(Node& node) {
  node.position_known = false;
  node.sample_asked = 0;
  if (node.tracker.health() == NodeHealth::up) return;
  node.lag.reset();
  node.lag_ok = node.gate.update(std::nullopt, 0, lag_limits_);
}

void ClusterMonitor::on_house_keeping() {
  const Instant now = loop_.now();
  for (const auto& node : nodes_) {
    // Late: unknown, and unknown does not serve.
    if (node->lag && (!node->answered_at || now - *node->answered_at > interval_ + 2 * timeout_)) {
      node->lag.reset();
      node->lag_ok = node->gate.update(std::nullopt, 0, lag_limits_);
      publish_if_changed(*node);
    }
    look_for_late(*node);
    // One that is still fed by the old primary must be found out soon.
    if (node->last && node->lag_ok && node->last->in_recovery && stale_timeline(*node)) ask_fast();
    if (!node->due.armed() && !node->prober.busy()) schedule(*node);
  }
  judge();
}

// A probe that is due an answer for half of its time is late. By itself it means no more than that others are
// preferred; workers watch what they have under way there.
void ClusterMonitor::look_for_late(Node& node) {
  const bool waits = node.asked_at && (!node.answered_at || *node.asked_at > *node.answered_at);
  if (node.late || !waits || loop_.now() - *node.asked_at < timeout_ / 2) return;
  node.late = true;
  publish_if_changed(node);
}

// --- breakers ---

void ClusterMonitor::outcome(NodeId id, bool good) {
  Node* node = find(id);
  if (node == nullptr) return;
  node->breaker.outcome(loop_.now(), good, breaker_rules_);
  if (!good) judge_breakers();
}

void ClusterMonitor::look_at_loads(routing::NodeLoads& loads, std::span<const std::int32_t> slots) {
  std::vector<std::uint32_t> latencies;  // of replicas that serve
  const auto serves = [this](const Node& node) {
    return role_of(node) == NodeRole::replica && node.tracker.health() == NodeHealth::up &&
           node.breaker.state() == routing::BreakerState::closed;
  };
  for (const auto& node : nodes_) {
    const std::size_t at = index(node->id);
    loads[at].fade(load_rules_, at < slots.size() ? slots[at] : 0);
    node->in_flight = loads[at].in_flight.load(std::memory_order_relaxed);
    if (serves(*node)) latencies.push_back(loads[at].mean.load(std::memory_order_relaxed));
  }
  std::ranges::sort(latencies);
  for (const auto& node : nodes_) {
    const std::uint32_t own = loads[index(node->id)].mean.load(std::memory_order_relaxed);
    std::uint32_t median = 0;
    if (serves(*node) && latencies.size() > 1) {
      // Without its own: those above it move one place down.
      const std::size_t middle = (latencies.size() - 2) / 2;
      median = latencies[middle] < own ? latencies[middle] : latencies[middle + 1];
    }
    node->breaker.measure(loop_.now(), own, median, breaker_rules_);
  }
  judge_breakers();
}

void ClusterMonitor::judge_breakers() {
  const Instant now = loop_.now();
  std::size_t replicas = 0, out = 0;
  for (const auto& node : nodes_) {
    if (node->breaker.tick(now)) {
      log_info("cluster=" + name_ + " node=" + node->address.name() + " breaker open -> half_open");
      publish_if_changed(*node);
      if (!node->prober.busy()) node->due.once(Millis(0));
    }
    if (role_of(*node) != NodeRole::replica) continue;
    ++replicas;
    const bool well = node->tracker.health() == NodeHealth::up &&
                      node->breaker.state() == routing::BreakerState::closed;
    out += well ? 0 : 1;
  }
  for (const auto& node : nodes_) {
    const routing::BreakerReason why = node->breaker.wants_out();
    if (why == routing::BreakerReason::none || role_of(*node) != NodeRole::replica ||
        node->tracker.health() != NodeHealth::up || !routing::may_eject(replicas, out, max_ejected_))
      continue;
    ++out;
    node->breaker.eject(now, why, breaker_rules_, random_);
    log_warning("cluster=" + name_ + " node=" + node->address.name() + " breaker closed -> open: " +
                std::string(name(why)) + " for=" + conf::print(node->breaker.left(now)));
    publish_if_changed(*node);
  }
}

// --- rhythm ---

void ClusterMonitor::schedule(Node& node) {
  if (node.retry_soon) return node.due.once(MonitorProber::kRetryFloor);
  const Instant now = loop_.now();
  const Instant asked = node.asked_at.value_or(now);
  if (node.tracker.health() != NodeHealth::up) {
    node.due.once(std::min(interval_, kMaxRetry));
    return;
  }
  const Node* source = primary();
  if (source == nullptr || source == &node || source->tracker.health() != NodeHealth::up) {
    node.due.once(whole(asked + std::min(interval_, source == &node ? interval_ : kSearching) - now));
    return;
  }
  // Replicas are asked in the middle half of the time between two samples, one after the other:
  // right after a sample every one of them would look late.
  std::size_t place = 0;
  while (place < nodes_.size() && nodes_[place].get() != &node) ++place;
  const auto share = Instant::duration(interval_) / 4 +
                     Instant::duration(interval_) / 2 * static_cast<std::int64_t>(place) /
                         static_cast<std::int64_t>(nodes_.size());
  const Instant earliest = now + interval_ / 2;
  const Instant first = *source->asked_at + share;
  const auto rounds = first < earliest ? (earliest - first) / Instant::duration(interval_) + 1 : 0;
  node.due.once(whole(first + interval_ * rounds - now));
}

void ClusterMonitor::suspect(NodeId id) {
  Node* node = find(id);
  if (node == nullptr) return;
  // What was read over the old connection may be another postmaster's.
  forget_position(*node);
  publish_if_changed(*node);
  node->prober.suspect();
}

void ClusterMonitor::want_sample(std::uint64_t sample) {
  sample_wanted_ |= sample > samples_sent_->load(std::memory_order_relaxed);
  try_sample();
  ask_fast();
}

void ClusterMonitor::ask_fast() {
  wanted_at_ = loop_.now();
  if (!fast_.armed()) fast_.once(kFastTurn);
}

void ClusterMonitor::try_sample() {
  Node* source = primary();
  if (!sample_wanted_ || source == nullptr || source->prober.busy()) return;
  const Instant now = loop_.now();
  if (last_sample_sent_ && now - *last_sample_sent_ < kSampleFloor) {
    if (!sample_timer_.armed()) sample_timer_.once(whole(*last_sample_sent_ + kSampleFloor - now));
    return;
  }
  source->prober.quick();  // not connected: the probe that reconnects will be the sample
}

void ClusterMonitor::on_fast() {
  if (!wanted_at_ || loop_.now() - *wanted_at_ > kFastFor) return;
  std::vector<Node*> replicas;
  for (const auto& node : nodes_)
    if (node->last && node->last->in_recovery && node->tracker.health() == NodeHealth::up)
      replicas.push_back(node.get());
  // A few are asked twice as often, which costs them little.
  constexpr auto kTurns = static_cast<std::size_t>(kFastProbe / kFastTurn);
  const std::size_t turns = replicas.size() < kTurns ? kTurns / 2 : kTurns;
  for (std::size_t i = 0; i < replicas.size(); ++i)
    if (i * turns / replicas.size() == fast_turn_ % turns) replicas[i]->prober.quick();
  ++fast_turn_;
  fast_.once(kFastTurn);
}

}  // namespace proxy
