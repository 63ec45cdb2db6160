#include "proxy/worker.h"

#include <algorithm>
#include <utility>

#include "proxy/log.h"
#include "proxy/wire/sqlstate.h"

// Servers of the pools: opened, refused, handed to other workers, and closed where another pool needs the room.
namespace proxy {

using conf::Instant;
using conf::Millis;

void Worker::hand_over(Server& server, std::size_t to) {
  pool::Pool& its_pool = *server.home;
  if (server.state == pool::ServerState::active) its_pool.move_to(server, pool::ServerState::idle);
  ServerHandover message{its_pool.key(), std::move(servers_.at(&server))};
  servers_.erase(&server);
  its_pool.remove(server, false);
  forget_again(server);
  server.detach();
  metrics_->server_handovers_out.add();
  shared_.workers[to]->post(std::move(message));
}

void Worker::take_server(ServerHandover&& message) {
  metrics_->server_handovers_in.add();
  Identity* owner = identity(message.key.database, message.key.user);
  if (owner == nullptr) {  // a reload has removed its database; the socket closes itself
    shared_.budgets.find(message.key)->give_back();
    return;
  }
  Server& server = *message.server;
  pool::Pool& its_pool = pool(*owner, message.key.node);
  const pool::SettingsRef settings = interner_.adopt(server.session.current());
  server.attach(*this, *owner);
  server.adopt_settings(settings);
  servers_.emplace(&server, std::move(message.server));
  its_pool.add(server);
  server.idle_since = now();
  its_pool.budget().feed(number_);
  if (stale(server)) {
    retire(server, why_stale(server));
  } else if (const bool more = its_pool.waiting() > 1; give(server, its_pool)) {
    if (more) (void)open_servers(*owner, its_pool);
  } else if (const auto hungry = its_pool.budget().hungrier_than(number_, Instant::max())) {
    hand_over(server, *hungry);
  }
}

// Another worker starves for a server of this key: an idle one of ours is its.
void Worker::feed_others(const pool::PoolKey& key) {
  Identity* owner = identity(key.database, key.user);
  if (owner == nullptr || routing::index(key.node) >= owner->pools.size()) return;
  pool::Pool* its_pool = owner->pools[routing::index(key.node)].get();
  if (its_pool == nullptr) return;
  pool::PooledServer* record = its_pool->least_recent_idle();
  if (record == nullptr) return;
  if (const auto hungry = hungrier_worker(*its_pool))
    hand_over(*server_of(record), *hungry);
}

std::optional<pool::ServerLimit> Worker::open_servers(Identity& identity, pool::Pool& its_pool) {
  pool::Budget& budget = its_pool.budget();
  if (its_pool.connections_wanted() == 0 || !has_turn(its_pool)) return std::nullopt;
  if (budget.open() >= budget.limit() && shared_.workers.size() == 1) return pool::ServerLimit::pool;
  const routing::ClusterState* state = cluster(identity);
  const routing::NodeState* node = state == nullptr ? nullptr : state->find(its_pool.key().node);
  if (node == nullptr) return std::nullopt;
  for (std::size_t wanted = its_pool.connections_wanted(); wanted > 0 && may_open(*node); --wanted) {
    pool::ServerLimit full{};
    bool may = budget.take(&full);
    if (!may && full != pool::ServerLimit::pool && make_room(its_pool.key(), full, false))
      may = budget.take(&full);
    if (may && !pace(node->id).take(now(), settings_->pool_connect_parallel, settings_->pool_connect_rate)) {
      budget.give_back();
      return std::nullopt;  // the next tick asks again
    }
    if (!may) {
      if (shared_.workers.size() > 1 && budget.starve(number_, its_pool.queue().urgency(*classes_))) {
        for (Worker* worker : shared_.workers)
          if (worker != this) worker->post(Starving{its_pool.key()});
        if (full != pool::ServerLimit::pool) want_room(its_pool, full, false);
      }
      return full;
    }
    if (!open_server(identity, its_pool, *node)) return std::nullopt;
  }
  return std::nullopt;
}

// Is it time for one more connection to this node? They are paced, and pause when it fails.
bool Worker::may_open(const routing::NodeState& node) {
  const std::size_t at = routing::index(node.id);
  if (backoffs_.size() <= at) backoffs_.resize(at + 1);
  if (full_.size() <= at) full_.resize(at + 1);
  return !node.ips.empty() && backoffs_[at].may_try(now()) && full_[at].may_try(now()) &&
         pace(node.id).has_room(settings_->pool_connect_parallel);
}

// Its right to exist has been taken, and its place among those being made. False: it could not even be started.
bool Worker::open_server(Identity& identity, pool::Pool& its_pool, const routing::NodeState& node) {
  // All addresses of a name are tried: first the one that answers the probes, after each failure the next.
  routing::NodeState at = node;
  const std::size_t failures =
      routing::index(node.id) < backoffs_.size() ? backoffs_[routing::index(node.id)].failures() : 0;
  if (at.ips.size() > 1)
    std::ranges::rotate(at.ips, at.ips.begin() + static_cast<std::ptrdiff_t>(failures % at.ips.size()));
  auto made = std::make_unique<Server>(*this, identity, at);
  Server& server = *made;
  servers_.emplace(&server, std::move(made));
  its_pool.add(server);
  server.lifetime = jittered(identity.timeouts.server_lifetime);
  const conf::Status started = server.start();
  if (started) return true;
  // The caller is placing somebody: the consequences come at the end of the turn.
  failed_starts_.emplace_back(&server, started.error());
  return false;
}

// Servers of other pools stand in the way: one of this worker gives way, or one of another's.
void Worker::want_room(pool::Pool& its_pool, pool::ServerLimit limit, bool busy_too) {
  if (make_room(its_pool.key(), limit, busy_too)) return;
  for (Worker* worker : shared_.workers)
    if (worker != this) worker->post(RoomWanted{its_pool.key(), limit, busy_too});
}

void Worker::give_room(const RoomWanted& wanted) {
  const auto budget = shared_.budgets.find(wanted.key);
  // Another worker may have been faster.
  if (budget != nullptr && budget->shared(wanted.limit)->full())
    (void)make_room(wanted.key, wanted.limit, wanted.busy_too);
}

// A server has given way to a pool that has none: that pool is first, not the next who comes.
void Worker::use_room() {
  for (const bool without : {true, false})
    for (const auto& [key, identity] : identities_)
      for (const auto& its_pool : identity->pools)
        if (its_pool && its_pool->waiting() > 0 && (its_pool->budget().open() == 0) == without)
          (void)open_servers(*identity, *its_pool);
}

// Closes the server that has been idle longest.
void Worker::give_descriptor() {
  Server* idle = nullptr;
  for (const auto& [name, identity] : identities_)
    for (const auto& its_pool : identity->pools) {
      pool::PooledServer* record = its_pool == nullptr ? nullptr : its_pool->least_recent_idle();
      if (record != nullptr && (idle == nullptr || record->idle_since < idle->idle_since)) idle = server_of(record);
    }
  if (idle != nullptr) retire(*idle, ServerEnd::evicted);
}

// Closes the server that has been idle longest among the pools that share this limit with the pool of
// `key`. With `busy_too`, where none is idle, one of the largest such pool goes when its client is done
// with it: whoever has none at all gets one, in time, from those who have several.
bool Worker::make_room(const pool::PoolKey& key, pool::ServerLimit limit, bool busy_too) {
  Server* idle = nullptr;
  Server* busy = nullptr;
  std::int64_t most = 0;
  for (const auto& [name, identity] : identities_) {
    if (limit == pool::ServerLimit::database && identity->database != key.database) continue;
    if (limit == pool::ServerLimit::user && identity->user != key.user) continue;
    if (routing::index(key.node) >= identity->pools.size()) continue;
    pool::Pool* its_pool = identity->pools[routing::index(key.node)].get();
    if (its_pool == nullptr || its_pool->key() == key) continue;
    if (pool::PooledServer* record = its_pool->least_recent_idle())
      if (idle == nullptr || record->idle_since < idle->idle_since) idle = server_of(record);
    if (!busy_too) continue;
    for (pool::PooledServer* record = its_pool->first(pool::ServerState::active); record != nullptr;
         record = its_pool->next(*record)) {
      const Client* holder = server_of(record)->client;
      if (identity->mode == conf::PoolMode::session || (holder != nullptr && routing::any(holder->pins)))
        continue;  // it may stay for ever
      if (server_of(record)->doomed()) return true;  // one is on its way out already
      if (its_pool->budget().open() <= most) continue;
      most = its_pool->budget().open();
      busy = server_of(record);
    }
  }
  if (idle != nullptr) {
    retire(*idle, ServerEnd::evicted);
    return true;
  }
  if (busy != nullptr) busy->doom(ServerEnd::evicted);
  return busy != nullptr;
}

// Pools that are to have servers ready have one more opened per look, until they have them.
void Worker::fill_pools() {
  if (draining_) return;
  for (const auto& [key, identity] : identities_) {
    const routing::ClusterState* state = cluster(*identity);
    if (identity->min_size == 0 || state == nullptr) continue;
    const bool reads_elsewhere = identity->mode != conf::PoolMode::session &&
                                 identity->consistency != conf::Consistency::primary &&
                                 !settings_->routing_dry_run;
    for (const routing::NodeState& node : state->nodes) {
      const bool primary = state->primary == node.id;
      const bool serves =
          primary || (reads_elsewhere && node.role == routing::NodeRole::replica && node.lag_ok);
      if (!serves || node.health != routing::NodeHealth::up || !may_open(node)) continue;
      pool::Pool& its_pool = pool(*identity, node.id);
      if (now() < its_pool.not_filled_before || !its_pool.budget().take_below(identity->min_size))
        continue;
      if (!pace(node.id).take(now(), settings_->pool_connect_parallel, settings_->pool_connect_rate)) {
        its_pool.budget().give_back();
        continue;
      }
      (void)open_server(*identity, its_pool, node);
    }
  }
}

// Up to a tenth shorter, so that what began together does not end together.
Millis Worker::jittered(Millis time) {
  const std::int64_t tenth = std::max<std::int64_t>(1, time.count() / 10);
  return time - Millis(static_cast<std::int64_t>(random_()) % tenth);
}

void Worker::server_ready(Server& server) {
  metrics_->servers_opened.add();
  const std::size_t at = routing::index(server.node_id());
  pace(server.node_id()).done();
  shared_.tell_control(NodeOutcome{server.node_id(), true});
  if (at < backoffs_.size()) backoffs_[at].succeeded();
  if (at < full_.size()) full_[at].succeeded();
  pool::Pool& its_pool = *server.home;
  its_pool.move_to(server, pool::ServerState::idle);
  server.idle_since = now();
  log_debug("server=" + server.node_name() + " user=" + server.identity().user +
            " database=" + server.identity().dbname + " opened tls=" + server.tls_description());
  if (stale(server)) {
    retire(server, why_stale(server));
    return;
  }
  if (give(server, its_pool)) return;
  if (const auto hungry = its_pool.budget().hungrier_than(number_, Instant::max())) {
    hand_over(server, *hungry);
  }
}

void Worker::read_refused(const Server& server, std::uint64_t digest, std::string_view sqlstate) {
  metrics_->reads_refused.add();
  if (!routing::BatchFacts::is_of_one(digest)) return;
  const Identity& identity = server.identity();
  shared_.tell_control(ReadRefused{{.where = {identity.cluster, identity.dbname},
                                    .digest = digest,
                                    .sqlstate = std::string(sqlstate),
                                    .node = server.node_name()}});
}

void Worker::server_failed(Server& server, bool node_is_at_fault, std::string_view sqlstate,
                           std::string_view message) {
  if (server.state == pool::ServerState::closing) return;
  metrics_->server_connect_failures.add();
  pool::Pool& its_pool = *server.home;
  Identity& identity = server.identity();
  const std::size_t at = routing::index(server.node_id());
  // Class 53: the node is well, and has no room for one more just now.
  const bool no_room = sqlstate.starts_with("53");
  // This process has no descriptors left: to try again costs the node nothing, and it may be over soon.
  const bool we_lack = sqlstate == wire::sqlstate::kInsufficientResources;
  const std::string words(message);
  const std::string code(sqlstate);
  if (const auto more = we_lack ? lack_log_.due(now()) : std::optional<std::string>(""))
    log_warning("server=" + server.node_name() + " user=" + identity.user +
                " database=" + identity.dbname + " could not be opened: " + code + " " + words + *more);
  retire(server, node_is_at_fault ? ServerEnd::connect_failed : ServerEnd::login_failed);
  // A node that has given us nothing at all is left alone as one that fails; else those who wait get what we
  // have there in turn.
  const bool no_use = node_is_at_fault || (no_room && its_pool.budget().open() == 0);
  if (no_use) nodes_failing_ = true;
  if (no_use || no_room)
    (no_use ? backoffs_ : full_)[at].failed(now(), settings_->pool_connect_backoff_min,
                                            we_lack ? settings_->pool_connect_backoff_min
                                                    : settings_->pool_connect_backoff_max,
                                            random_);
  if (sqlstate == wire::sqlstate::kTooManyConnections)
    its_pool.budget().refused(now(), settings_->pool_cap_recovery);
  if (node_is_at_fault) {
    shared_.tell_control(NodeOutcome{its_pool.key().node, false});
    shared_.tell_control(NodeSuspected{its_pool.key().node});
    replace_waiters(its_pool);
    return;
  }
  if (no_room) return;  // those who wait go on waiting, for a release or for the next attempt
  its_pool.not_filled_before = now() + jittered(settings_->pool_connect_backoff_max);
  // Nobody who waits here will be let in: they hear the server's own words.
  while (pool::Waiter* waiter = its_pool.queue().any()) {
    auto& client = static_cast<Client&>(*waiter);
    stop_waiting(client);
    if (std::exchange(client.admitted, false)) pool::leave(*client.tenant);
    refusal(pool::Refusal::server_login);
    if (client.state() == ClientState::login) {
      client.fatal(ClientEnd::login_failed, code, words, "reason=server_login");
    } else {
      client.refuse(pool::Refusal::server_login, code, words);
      client.refuse_waiting();
    }
  }
}

}  // namespace proxy
