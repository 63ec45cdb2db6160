#include <algorithm>
#include <utility>

#include "bench/simulation/world.h"

// Where statements go: what Worker::place(), spill(), may_retry() and their kin do
// (proxy/worker_statements.cc, worker_queues.cc, worker_balance.cc, healing.cc).
namespace simulation {
namespace {

using namespace std::chrono_literals;
using routing::index;

// As in proxy/worker_statements.cc.
constexpr Millis kNearly{30};

routing::BatchFacts batch_of(routing::StatementClass kind) {
  routing::BatchFacts batch;
  batch.kind = batch.ran = kind;
  batch.executes = true;
  return batch;
}

}  // namespace

void World::place(Statement& statement) {
  static const routing::BatchFacts kRead = batch_of(routing::StatementClass::read);
  static const routing::BatchFacts kWrite = batch_of(routing::StatementClass::write);

  Session& session = sessions_[statement.session];
  const Waits before = std::exchange(statement.waits, Waits::nothing);
  if ((shed_ >> statement.service_class & 1) != 0) return refuse(statement);
  if (!statement.admitted) {
    const pool::Admission admission =
        pool::admit(*session.tenant, now_, statement.waiting_since, settings_->tenant_rate_wait,
                    std::exchange(statement.has_cell, false));
    switch (admission.answer) {
      case pool::Admission::Answer::admit: statement.admitted = true; break;
      case pool::Admission::Answer::wait:
        statement.has_cell = admission.has_cell;
        statement.queued_since = now_ + admission.retry_after;
        return wait(statement, Waits::tenant);
      case pool::Admission::Answer::refuse: return refuse(statement);
    }
  }

  const routing::ClusterState& cluster = monitor_.cluster();
  const routing::Decision decision =
      routing::route(statement.write ? kWrite : kRead, session.state, conf::PoolMode::transaction);
  std::optional<std::size_t> at;
  statement.spills = false;
  if (decision.target == routing::Target::replica) {
    routing::ReadNeeds needs{.excluded = excluded(statement)};
    routing::Floor& floor = session.state.floor;
    if (session.state.consistency != conf::Consistency::eventual) {
      (void)floor.learn(cluster);
      needs.satisfy(floor);
      needs.close = settings_->routing_floor_wait + kNearly;
    }
    routing::ReadChoice choice = choose(needs);
    if (choice.leave && before != Waits::floor) {
      floor.leave(monitor_.samples_sent());
      choice = {.why = routing::ReadReason::floor_pending, .soon = true};
    }
    if (floor.kind == routing::Floor::Kind::leaving) {
      if (choice.soon && wait_for_floor(statement, before)) return monitor_.want_sample(now_, floor.sample);
      floor.stay();
      needs.satisfy(floor);
      choice = choose(needs);
    }
    const bool floor_fails = choice.why == routing::ReadReason::floor_pending ||
                             choice.why == routing::ReadReason::none_has_replayed;
    if (floor.kind == routing::Floor::Kind::at_node && floor_fails) floor.raise(monitor_.samples_sent());
    if (floor_fails) monitor_.want_sample(now_, floor.sample);
    if (choice.soon && wait_for_floor(statement, before)) return;
    if (choice.replica)
      at = index(*choice.replica);
    else if (!spill(statement, choice.why, at))
      return;
  } else {
    at = index(*cluster.primary);
  }

  Node& node = nodes_[*at];
  pool::Pool& its_pool = *node.pool;
  while (pool::PooledServer* record = its_pool.most_recent_idle()) {
    if (its_pool.waiting() > 0 && has_turn(its_pool)) break;  // they come first
    if (held_back(statement, its_pool)) break;
    if (stale(server_of(record))) {
      retire(server_of(record));
      continue;
    }
    return tie(statement, server_of(record));
  }
  const std::int64_t most = settings_->pool_max_waiting;
  if (most > 0 && queued_ >= most) return refuse(statement);
  statement.waits = Waits::server;
  statement.queued = true;
  its_pool.queue().enqueue(statement, statement.service_class, *session.tenant, *classes_, now_);
  ++queued_;
  if (statement.spills) node.budget->spill(1);
  open_servers(*at);
}

// No replica has replayed what this read must see, but one may have soon. False: it has waited long enough.
bool World::wait_for_floor(Statement& statement, Waits before) {
  if (before == Waits::replica || settings_->routing_floor_wait.count() == 0) return false;
  if (before != Waits::floor)
    statement.queued_since = now_ + settings_->routing_floor_wait;
  else if (now_ >= statement.queued_since)
    return false;
  wait(statement, Waits::floor);
  return true;
}

// What the session has seen or written: its next reads must not be older.
void World::note_floor(const Statement& statement, const Server& server) {
  routing::SessionState& state = sessions_[statement.session].state;
  if (state.consistency == conf::Consistency::eventual) return;
  if (server.node == 0) return state.floor.raise(monitor_.samples_sent());
  state.floor.read_at(routing::NodeId(static_cast<std::uint16_t>(server.node)), server.incarnation,
                      monitor_.probes_sent(server.node));
}

// A read that no replica can serve: the primary serves a few, and the others wait a moment for a replica, and
// are then served by one that is late. False: it waits.
bool World::spill(Statement& statement, routing::ReadReason why, std::optional<std::size_t>& node) {
  const std::size_t primary = index(*monitor_.cluster().primary);
  const pool::Budget& budget = *nodes_[primary].budget;
  const std::int64_t share =
      std::max<std::int64_t>(1, budget.limit() * settings_->routing_spill_percent / 100);
  if (why == routing::ReadReason::no_replica || budget.spilled() < share) {
    node = primary;
    statement.spills = why != routing::ReadReason::no_replica;
    ++totals_.spilled;
    return true;
  }
  if (now_ - statement.waiting_since >= settings_->routing_spill_wait) {
    routing::ReadNeeds needs{.excluded = excluded(statement), .however_late = true};
    const routing::SessionState& session = sessions_[statement.session].state;
    if (session.consistency != conf::Consistency::eventual) needs.satisfy(session.floor);
    const routing::ReadChoice late = routing::choose_replica(monitor_.cluster(), needs, *loads_, random_);
    if (late.replica) {
      node = index(*late.replica);
      return true;
    }
  }
  wait(statement, Waits::replica);
  return false;
}

// What is compared with pgsluice's choice sees as much as that does: who serves, who has replayed the floor.
routing::ReadChoice World::choose(const routing::ReadNeeds& needs) {
  const routing::ClusterState& cluster = monitor_.cluster();
  if (policy_.balance == Balance::two_choices || needs.pending)
    return routing::choose_replica(cluster, needs, *loads_, random_);
  const std::size_t count = cluster.serving.size();
  const routing::Candidate* best = nullptr;
  std::int64_t least = 0;
  ++next_replica_;
  for (std::size_t i = 0; i < count; ++i) {
    const routing::Candidate& one = cluster.serving[(next_replica_ + i) % count];
    const std::size_t at = index(one.id);
    if ((needs.excluded >> at & 1) != 0 || cluster.nodes[at].replayed < needs.floor) continue;
    if (policy_.balance == Balance::round_robin) return {one.id, routing::ReadReason::fresh_replica};
    const std::int64_t busy = (*loads_)[at].in_flight.load(std::memory_order_relaxed) + 1 +
                              static_cast<std::int64_t>(nodes_[at].pool->waiting());
    const std::int64_t cost = busy * routing::kFullShare / one.share;
    if (best != nullptr && cost >= least) continue;
    best = &one;
    least = cost;
  }
  if (best != nullptr) return {best->id, routing::ReadReason::fresh_replica};
  // Why there is none is asked of the real one.
  return routing::choose_replica(cluster, needs, *loads_, random_);
}

// As bits: nodes that just failed.
std::uint64_t World::excluded(const Statement& statement) {
  std::uint64_t bits = statement.not_on == 0 ? 0 : std::uint64_t{1} << statement.not_on;
  if (!nodes_failing_) return bits;
  nodes_failing_ = false;
  for (std::size_t at = 0; at < nodes_.size(); ++at) {
    if (!nodes_[at].backoff.may_try(now_)) bits |= std::uint64_t{1} << at;
    nodes_failing_ |= nodes_[at].backoff.failures() > 0;
  }
  return bits;
}

void World::wait(Statement& statement, Waits what) {
  statement.waits = what;
  waiting_.push_back(statement.index);
}

void World::retry_waiting() {
  for (const std::uint32_t at : std::exchange(waiting_, {})) {
    Statement& statement = statements_[at];
    if (now_ - statement.waiting_since > settings_->pool_queue_timeout)
      refuse(statement);
    else if (statement.waits == Waits::tenant && now_ < statement.queued_since)
      waiting_.push_back(at);
    else
      place(statement);
  }
}

void World::refuse(Statement& statement) {
  if (std::exchange(statement.admitted, false)) pool::leave(*sessions_[statement.session].tenant);
  ++totals_.refused;
  failed(statement);
}

void World::left_queue(Statement& statement, Node& node) {
  --queued_;
  statement.waits = Waits::nothing;
  if (statement.spills) node.budget->spill(-1);  // tie() counts it again
}

void World::stop_queueing(Statement& statement) {
  pool::Pool& its_pool = statement.flow->home;
  its_pool.queue().remove(statement);
  left_queue(statement, nodes_[index(its_pool.key().node)]);
}

// Whoever has waited for longer than its class allows, or than anybody may.
void World::sweep_queues() {
  queues_overloaded_ = false;
  const bool slow = (now_ - kBeginning) % 200ms < 10ms;
  for (Node& node : nodes_) {
    pool::FairQueue& queue = node.pool->queue();
    if (queue.empty()) continue;
    if (classes_->deadlines) {
      queue.sweep(now_, *classes_);
      queues_overloaded_ |= queue.overloaded(*classes_);
    }
    while (pool::Waiter* late = queue.next_late()) {
      auto& statement = static_cast<Statement&>(*late);
      stop_queueing(statement);
      refuse(statement);
    }
    if (!slow || now_ - queue.waiting_since() <= settings_->pool_queue_timeout) continue;
    std::vector<Statement*> overdue;
    queue.for_each_flow([&](const pool::Flow& flow) {
      for (pool::Waiter* one = flow.waiters.front(); one != nullptr; one = flow.waiters.after(*one))
        if (now_ - one->waiting_since > settings_->pool_queue_timeout)
          overdue.push_back(static_cast<Statement*>(one));
    });
    for (Statement* one : overdue) {
      stop_queueing(*one);
      refuse(*one);
    }
  }
}

// Those who wait at a node that has failed look for another place.
void World::replace_waiters(Node& node) {
  std::vector<Statement*> all;
  while (pool::Waiter* waiter = node.pool->queue().any()) {
    all.push_back(static_cast<Statement*>(waiter));
    stop_queueing(*all.back());
  }
  std::ranges::stable_sort(all, {}, [](const Statement* one) { return one->waiting_since; });
  for (Statement* one : all) place(*one);
}

// As Worker::may_retry(); without a budget as proxies do that try so often.
bool World::may_run_again(const Statement& statement) {
  if (statement.write) return false;
  if (!policy_.budget) return statement.runs < 3;
  if (statement.runs > 1 || !pool::may_run_again(protection_.level())) return false;
  constexpr int kLooks = 64;
  constexpr Millis kOverload{100};
  for (const Asking& asking : asking_) {
    int looks = 0;
    for (std::uint32_t at = asking.oldest; at != kNobody && looks < kLooks; ++looks) {
      const Statement& one = statements_[at];
      if (one.waits == Waits::server && now_ - one.waiting_since > kOverload) return false;
      at = one.younger;
    }
  }
  return retry_budget_.take(now_, totals_.statements,
                            {.share = static_cast<double>(settings_->routing_retry_percent) / 100,
                             .per_second = static_cast<double>(settings_->routing_retry_rate)});
}

// It has failed at a node through no fault of its own, and its server has been taken from it.
bool World::run_again(Statement& statement, std::size_t not_on) {
  if (!may_run_again(statement)) return false;
  ++totals_.retries;
  statement.not_on = static_cast<std::uint16_t>(not_on);
  statement.waiting_since = now_;
  return true;
}

}  // namespace simulation
