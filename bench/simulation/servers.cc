#include <algorithm>
#include <utility>

#include "bench/simulation/world.h"

// Connections to nodes, and what runs on them (proxy/worker_servers.cc, worker_statements.cc, worker.cc).
namespace simulation {
namespace {

using namespace std::chrono_literals;
using pool::ServerState;

constexpr Nanos kConnects = 20ms;  // TCP, TLS, authentication, a new backend
constexpr Nanos kRefused = 500us;
// A SYN that nobody answers is sent again after 1, 3 and 7 s.
constexpr Nanos kSynAgain[] = {1s, 3s, 7s};

}  // namespace

bool World::stale(const Server& server) const {
  return server.incarnation != monitor_.cluster().nodes[server.node].incarnation;
}

// At the beginning all connections are there already.
void World::open_all() {
  const auto per_node = static_cast<std::size_t>(scale_.servers);
  servers_ = std::make_unique<Server[]>(nodes_.size() * per_node);
  for (std::size_t at = 0; at < nodes_.size(); ++at) {
    Node& node = nodes_[at];
    node.budget = std::make_shared<pool::Budget>(settings_->pool_size);
    node.pool = std::make_unique<pool::Pool>(
        pool::PoolKey{routing::NodeId(static_cast<std::uint16_t>(at)), "app", "app"}, node.budget);
    for (std::size_t i = 0; i < per_node; ++i) {
      Server& server = servers_[at * per_node + i];
      server.index = static_cast<std::uint32_t>(at * per_node + i);
      server.node = static_cast<std::uint32_t>(at);
      server.incarnation = monitor_.cluster().nodes[at].incarnation;
      ENSURE(node.budget->take());
      node.pool->add(server);
      node.pool->move_to(server, ServerState::idle);
    }
  }
}

bool World::has_turn(const pool::Pool& its_pool) const {
  if (classes_->counted == 0) return its_pool.queue().has_turn(*classes_);
  const pool::FairQueue::Ceilings ceilings = its_pool.ceilings();
  return its_pool.queue().has_turn(*classes_, &ceilings);
}

bool World::held_back(const Statement& statement, const pool::Pool& its_pool) const {
  if ((classes_->counted >> statement.service_class & 1) == 0) return false;
  const pool::Tenant& tenant = *sessions_[statement.session].tenant;
  return !its_pool.ceilings().allow(classes_->at(statement.service_class), tenant);
}

void World::open_servers(std::size_t at) {
  Node& node = nodes_[at];
  if (node.pool->connections_wanted() == 0 || node.spare.empty() || !has_turn(*node.pool)) return;
  for (std::size_t wanted = node.pool->connections_wanted(); wanted > 0 && !node.spare.empty(); --wanted) {
    if (!node.backoff.may_try(now_) || !node.pace.has_room(settings_->pool_connect_parallel)) return;
    if (!node.budget->take()) return;
    if (!node.pace.take(now_, settings_->pool_connect_parallel, settings_->pool_connect_rate)) {
      node.budget->give_back();
      return;
    }
    Server& server = servers_[node.spare.back()];
    node.spare.pop_back();
    server.state = ServerState::connecting;
    server.incarnation = monitor_.cluster().nodes[at].incarnation;
    server.began = now_;
    node.pool->add(server);
    const NodeFault fault = postgres_.node(at).fault;
    const Nanos takes = fault == NodeFault::none      ? kConnects
                        : fault == NodeFault::refuses ? kRefused
                                                      : kSynAgain[0];
    events_.push(now_ + takes, Event::Kind::connected, server.index, ++server.generation);
  }
}

// It is connected; or has failed; or still waits for a node that says nothing.
void World::connected(Server& server) {
  Node& node = nodes_[server.node];
  const NodeFault fault = postgres_.node(server.node).fault;
  if (fault == NodeFault::refuses) return connect_failed(server);
  const Nanos tried = now_ - server.began;
  if (fault == NodeFault::silent) {
    if (tried >= settings_->pool_connect_timeout) return connect_failed(server);
    const Nanos* next = std::ranges::upper_bound(kSynAgain, tried);
    const Instant then = std::min(server.began + *next, server.began + settings_->pool_connect_timeout);
    events_.push(then, Event::Kind::connected, server.index, server.generation);
    return;
  }
  ++totals_.connects;
  node.pace.done();
  monitor_.outcome(now_, server.node, true);
  node.backoff.succeeded();
  node.pool->move_to(server, ServerState::idle);
  server.idle_since = now_;
  if (stale(server)) return retire(server);
  (void)give(server);
}

void World::connect_failed(Server& server) {
  Node& node = nodes_[server.node];
  retire(server);
  nodes_failing_ = true;
  node.backoff.failed(now_, settings_->pool_connect_backoff_min, settings_->pool_connect_backoff_max, random_);
  monitor_.outcome(now_, server.node, false);
  monitor_.suspect(now_, server.node);
  replace_waiters(node);
}

void World::tie(Statement& statement, Server& server) {
  Node& node = nodes_[server.node];
  node.pool->move_to(server, ServerState::active);
  server.statement = statement.index;
  server.began = now_;
  if ((classes_->counted >> statement.service_class & 1) != 0) {
    const conf::Priority priority = classes_->priority(statement.service_class);
    server.slot = static_cast<std::uint8_t>(1 + static_cast<unsigned>(priority));
    node.budget->slots().take(priority, sessions_[statement.session].tenant->number);
  }
  if (statement.spills) node.budget->spill(1);
  (*loads_)[server.node].in_flight.fetch_add(1, std::memory_order_relaxed);
  statement.waits = Waits::nothing;
  ++statement.runs;
  if (server.node > 0 && now_ >= after(scenario_.from) && now_ < after(scenario_.to))
    ++totals_.reads_by_node[server.node];
  ++server.generation;
  if (postgres_.node(server.node).fault == NodeFault::silent) return;  // never to be answered
  events_.push(now_ + postgres_.begin(server.node, statement.usual), Event::Kind::answer, server.index,
               server.generation);
}

// Its server is no longer its own.
void World::part(Statement& statement, Server& server) {
  Node& node = nodes_[server.node];
  pool::Tenant& tenant = *sessions_[statement.session].tenant;
  if (server.slot != 0)
    node.budget->slots().give_back(
        static_cast<conf::Priority>(std::exchange(server.slot, std::uint8_t{0}) - 1), tenant.number);
  if (std::exchange(statement.spills, false)) node.budget->spill(-1);
  (*loads_)[server.node].in_flight.fetch_sub(1, std::memory_order_relaxed);
  if (std::exchange(statement.admitted, false)) pool::leave(tenant);
  server.statement = kNobody;
}

// The statement that ran there has ended.
void World::end(Server& server) {
  if (postgres_.node(server.node).fault == NodeFault::silent) return;  // its answer is lost
  postgres_.end(server.node);
  Statement& statement = statements_[server.statement];
  Session& session = sessions_[statement.session];
  const Nanos took = now_ - server.began;
  const auto us = static_cast<std::uint32_t>(std::chrono::duration_cast<conf::Micros>(took).count());
  (*loads_)[server.node].observe(baselines_->relative(statement.kind + 1U, us), us);
  if (statement.queued) session.tenant->observe_cost(took);
  ++totals_.statements;
  part(statement, server);
  const double conflicts = postgres_.node(server.node).conflicts;
  const bool canceled = !statement.write && conflicts > 0 && dice_.part() < conflicts;
  if (!canceled && statement.write) postgres_.commit(now_);
  if (!canceled) note_floor(statement, server);
  release(server);
  if (!canceled) return answered(statement);
  if (run_again(statement, server.node)) return place(statement);
  failed(statement);
}

void World::release(Server& server) {
  Node& node = nodes_[server.node];
  if (stale(server) || node.budget->open() > node.budget->limit()) return retire(server);
  node.pool->move_to(server, ServerState::idle);
  server.idle_since = now_;
  if (node.pool->waiting() > 0) (void)give(server);
}

// To whom it is due; false: to nobody.
bool World::give(Server& server) {
  Node& node = nodes_[server.node];
  pool::FairQueue& queue = node.pool->queue();
  if (queue.empty()) return false;
  if (stale(server)) {
    retire(server);
    return false;
  }
  pool::Waiter* waiter = nullptr;
  if (classes_->counted == 0) {
    waiter = queue.take(now_, *classes_);
  } else {
    const pool::FairQueue::Ceilings ceilings = node.pool->ceilings();
    waiter = queue.take(now_, *classes_, &ceilings);
  }
  if (waiter == nullptr) return false;
  auto& statement = static_cast<Statement&>(*waiter);
  left_queue(statement, node);
  tie(statement, server);
  return true;
}

void World::retire(Server& server) {
  Node& node = nodes_[server.node];
  if (server.state == ServerState::connecting) node.pace.done();
  const std::uint32_t lost = server.statement;
  if (lost != kNobody) part(statements_[lost], server);
  node.pool->move_to(server, ServerState::closing);
  node.pool->remove(server, true);
  ++server.generation;
  node.spare.push_back(server.index);
  if (lost == kNobody) return;
  Statement& statement = statements_[lost];
  if (run_again(statement, server.node)) return place(statement);
  failed(statement);
}

// All connections to a node end.
void World::lose_all(std::size_t at) {
  const auto per_node = static_cast<std::size_t>(scale_.servers);
  bool any = false;
  for (std::size_t i = at * per_node; i < (at + 1) * per_node; ++i) {
    Server& server = servers_[i];
    if (server.home == nullptr || server.state == ServerState::connecting) continue;
    any = true;
    if (server.statement != kNobody) monitor_.outcome(now_, at, false);
    retire(server);
  }
  postgres_.node(at).running = 0;
  if (any) monitor_.suspect(now_, at);
}

// Servers of another life of their node are closed, and those of a node that has been silent until it was given
// up; who waits at a node that serves no longer looks for another place.
void World::topology_changed() {
  const auto per_node = static_cast<std::size_t>(scale_.servers);
  for (std::size_t at = 0; at < nodes_.size(); ++at) {
    const routing::NodeState& state = monitor_.cluster().nodes[at];
    const bool dead = state.health == routing::NodeHealth::down;
    for (std::size_t i = at * per_node; i < (at + 1) * per_node; ++i) {
      Server& server = servers_[i];
      if (server.home == nullptr || server.state == ServerState::connecting || !stale(server)) continue;
      if (server.state == ServerState::idle || dead) retire(server);
    }
    const bool fit = state.health == routing::NodeHealth::up &&
                     (monitor_.cluster().primary == state.id || monitor_.cluster().serves_reads(state));
    if (!fit && nodes_[at].pool->waiting() > 0) replace_waiters(nodes_[at]);
  }
  retry_waiting();
}

}  // namespace simulation
