#include "proxy/worker.h"

#include <algorithm>
#include <utility>

#include "conf/check.h"
#include "proxy/log.h"
#include "proxy/relay.h"
#include "proxy/wire/sqlstate.h"
#include "routing/chooser.h"

// Where statements go: a server for each, or a place in a queue.
namespace proxy {

using conf::Instant;
using conf::Millis;
using namespace std::chrono_literals;

namespace {

// A replica whose lag at its last probe was so much above routing.floor_wait has a chance to be there in time: a
// lag is measured with the grain of samples and probes.
constexpr Millis kNearly{30};

}  // namespace

Identity* Worker::identity(const std::string& database, const std::string& user) {
  const std::string key = database + '\0' + user;
  if (const auto found = identities_.find(key); found != identities_.end())
    return found->second->configured ? found->second.get() : nullptr;
  if (!serves(database)) return nullptr;
  auto made = std::make_unique<Identity>();
  made->database = database;
  made->user = user;
  if (!settings_->databases.contains(database)) {
    const std::int64_t limit = settings_->limits_wildcard_databases;
    if (!shared_.wildcard_names.take(database, limit)) {
      forget_unused_identities(true);
      if (!shared_.wildcard_names.take(database, limit)) return nullptr;
    }
    made->name = {shared_.wildcard_names, database};
  }
  made->database_clients = shared_.database_clients.find(database);
  made->user_clients = shared_.user_clients.find(user);
  made->traffic = &metrics_->database(database);
  configure(*made);
  shared_.tell_control(DatabaseMet{{made->cluster, made->dbname}});
  return identities_.emplace(key, std::move(made)).first->second.get();
}

// What the configuration says of an identity; again after every reload.
void Worker::configure(Identity& identity) {
  identity.rules.clear();
  identity.paused = orders_->is_paused(identity.database);
  const conf::Settings& settings = *settings_;
  auto entry = settings.databases.find(identity.database);
  if (entry == settings.databases.end()) entry = settings.databases.find("*");
  identity.configured = entry != settings.databases.end();
  if (!identity.configured) {
    identity.min_size = 0;
    return;
  }
  const conf::DatabaseSettings& database = entry->second;
  static const conf::UserSettings kNothing;
  const auto found = settings.users.find(identity.user);
  const conf::UserSettings& user = found == settings.users.end() ? kNothing : found->second;
  const auto cluster = settings.clusters.find(database.cluster);
  identity.cluster = database.cluster;
  identity.dbname = database.dbname.empty() ? identity.database : database.dbname;
  identity.state = topology_->find(identity.cluster);
  identity.scope = scope_of(identity.cluster, identity.dbname);

  // The user's word goes before the database's, and that before the option.
  using conf::PoolOverrides;
  const auto choose = [&](auto PoolOverrides::*own, const auto& option) {
    if (user.*own) return *(user.*own);
    return (database.*own).value_or(option);
  };
  identity.mode = choose(&PoolOverrides::pool_mode, started_mode_);
  identity.on_pin = identity.mode == conf::PoolMode::session
                        ? conf::OnPin::allow
                        : choose(&PoolOverrides::pool_on_pin, settings.pool_on_pin);
  identity.consistency = choose(&PoolOverrides::routing_consistency, settings.routing_consistency);
  identity.weakest = choose(&PoolOverrides::routing_weakest_consistency, settings.routing_weakest_consistency);
  identity.strongest =
      choose(&PoolOverrides::routing_strongest_consistency, settings.routing_strongest_consistency);
  identity.written_at = std::hash<std::string>{}(identity.cluster);
  identity.transactions = choose(&PoolOverrides::routing_transactions, settings.routing_transactions);
  identity.min_size = choose(&PoolOverrides::pool_min_size, settings.pool_min_size);
  identity.service_class = classes_->find(user.service_class, classes_->find(database.service_class));
  const Millis old_lifetime = identity.timeouts.server_lifetime;
  identity.timeouts = {
      .queue = choose(&PoolOverrides::pool_queue_timeout, settings.pool_queue_timeout),
      .query = choose(&PoolOverrides::pool_query_timeout, settings.pool_query_timeout),
      .transaction = choose(&PoolOverrides::pool_transaction_timeout, settings.pool_transaction_timeout),
      .idle_transaction =
          choose(&PoolOverrides::pool_idle_transaction_timeout, settings.pool_idle_transaction_timeout),
      .client_idle = choose(&PoolOverrides::pool_client_idle_timeout, settings.pool_client_idle_timeout),
      .server_idle = choose(&PoolOverrides::pool_server_idle_timeout, settings.pool_server_idle_timeout),
      .server_lifetime = choose(&PoolOverrides::pool_server_lifetime, settings.pool_server_lifetime)};
  if (old_lifetime.count() > 0 && old_lifetime != identity.timeouts.server_lifetime)
    for (const auto& [address, server] : servers_)
      if (&server->identity() == &identity && !server->doomed())
        server->lifetime = jittered(identity.timeouts.server_lifetime);

  // These do not replace each other: each holds for itself.
  identity.database_clients->set_limit(
      database.max_clients.value_or(settings.listen_clients_per_database));
  identity.user_clients->set_limit(user.max_clients.value_or(settings.listen_clients_per_user));
  const std::optional<std::int64_t> per_node =
      cluster == settings.clusters.end() ? std::nullopt : cluster->second.max_servers;
  identity.limits = {.pool = choose(&PoolOverrides::pool_size, settings.pool_size),
                     .node = per_node.value_or(settings.pool_servers_per_node),
                     .database = database.max_servers.value_or(settings.pool_servers_per_database),
                     .user = user.max_servers.value_or(settings.pool_servers_per_user)};
  for (const auto& pool : identity.pools)
    if (pool) (void)shared_.budgets.find(pool->key(), identity.limits);
}

// Pools that are to be full before anybody has come; one worker keeps them for all.
void Worker::meet_configured_users() {
  if (number_ != 0) return;
  for (const auto& [name, database] : settings_->databases)
    for (const std::string& user : database.min_size_users) (void)identity(name, user);
}

// What has neither clients nor servers is made anew when somebody comes. Names come from clients, so that
// nothing may be kept of every one that has ever been tried. `with_idle_servers`: room is needed, and
// servers that "*" has led to and nobody uses make it.
void Worker::forget_unused_identities(bool with_idle_servers) {
  const auto unused = [this](const Identity& identity, bool idle_too) {
    // What is to be ready before anybody comes stays.
    if (identity.min_size > 0 && settings_->databases.contains(identity.database)) return false;
    return identity.clients == 0 && std::ranges::all_of(identity.pools, [idle_too](const auto& its_pool) {
             return !its_pool || (its_pool->waiting() == 0 &&
                                  its_pool->count(pool::ServerState::connecting) == 0 &&
                                  its_pool->count(pool::ServerState::active) == 0 &&
                                  (idle_too || its_pool->count(pool::ServerState::idle) == 0));
           });
  };
  if (with_idle_servers) {
    std::vector<Server*> idle;
    for (const auto& [key, identity] : identities_) {
      if (settings_->databases.contains(identity->database) || !unused(*identity, true)) continue;
      for (const auto& its_pool : identity->pools) {
        if (!its_pool) continue;
        for (auto* record = its_pool->first(pool::ServerState::idle); record != nullptr;
             record = its_pool->next(*record))
          idle.push_back(server_of(record));
      }
    }
    for (Server* server : idle) retire(*server, ServerEnd::surplus);
  }
  for (auto entry = identities_.begin(); entry != identities_.end();) {
    Identity& identity = *entry->second;
    if (!unused(identity, false)) {
      ++entry;
      continue;
    }
    for (const auto& its_pool : identity.pools) {
      if (!its_pool) continue;
      its_pool->budget().feed(number_);
      its_pool->budget().report(number_, {});
    }
    identity.name = {};
    // Servers that have just been closed still know it.
    dead_identities_.push_back(std::move(entry->second));
    entry = identities_.erase(entry);
  }
}

pool::Pool& Worker::make_pool(Identity& identity, routing::NodeId node) {
  const std::size_t at = routing::index(node);
  if (identity.pools.size() <= at) identity.pools.resize(at + 1);
  std::unique_ptr<pool::Pool>& pool = identity.pools[at];
  if (!pool) {
    pool::PoolKey key{node, identity.database, identity.user};
    auto budget = shared_.budgets.find(key, identity.limits);
    pool = std::make_unique<pool::Pool>(std::move(key), std::move(budget));
  }
  return *pool;
}

std::uint64_t Worker::find_excluded(const routing::ClusterState& cluster) {
  std::uint64_t bits = 0;

  const std::size_t count = std::min<std::size_t>(cluster.nodes.size(), 64);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t node = routing::index(cluster.nodes[i].id);
    if (node < backoffs_.size() && !backoffs_[node].may_try(now())) bits |= std::uint64_t{1} << i;
  }
  if (bits == 0)
    nodes_failing_ = std::ranges::any_of(
        backoffs_, [](const pool::Backoff& backoff) { return backoff.failures() > 0; });
  return bits;
}

routing::NodeRole Worker::role_of(const Identity& identity, routing::NodeId node) const {
  const routing::ClusterState* state = cluster(identity);
  if (state == nullptr) return routing::NodeRole::unknown;
  if (state->primary && *state->primary == node) return routing::NodeRole::primary;
  const routing::NodeState* found = state->find(node);
  return found != nullptr && found->role == routing::NodeRole::replica ? routing::NodeRole::replica
                                                                       : routing::NodeRole::unknown;
}

metrics::StatementSeries& Worker::series(Client& client, const Server& server,
                                         routing::StatementClass kind) {
  const metrics::SeriesKey key{.node = static_cast<std::uint16_t>(server.node_id()),
                               .role = static_cast<std::uint8_t>(server.role),
                               .kind = static_cast<std::uint8_t>(kind),
                               .tenant = client.tenant->number,
                               .database = client.identity->traffic->number};
  // Clients repeat themselves: most look-ups end here.
  if (client.last_series == nullptr || client.last_series->key != key)
    client.last_series = &metrics_->series(key);
  return *client.last_series;
}

// The number that a session waits for; one that has been sent already may still want the replicas to be asked.
void Worker::want_sample(const Identity& identity, std::uint64_t sample) {
  // One word per 5 ms and sample: the control thread does not send more.
  if (sample <= wanted_.sample && now() - wanted_.at < 5ms) return;
  wanted_ = {now(), sample};
  shared_.tell_control(SampleWanted{identity.cluster, sample});
}

void Worker::look_at(Server& server) const {
  server.looked_at = topology_->version;
  server.role = role_of(server.identity(), server.node_id());
  server.is_stale = true;
  for (const routing::ClusterState& state : topology_->clusters)
    if (const routing::NodeState* node = state.find(server.node_id()))
      server.is_stale = node->incarnation != server.incarnation() || node->drained ||
                        // Its name stands for other addresses now.
                        (!node->ips.empty() && std::ranges::find(node->ips, server.ip()) == node->ips.end());
  server.is_stale |= server.outdated || server.identity().paused;
}

Worker::Placed Worker::place(Client& client) {
  const Instant at = now();
  const bool login = client.state() == ClientState::login;
  if (client.identity->paused) [[unlikely]] {
    if (std::exchange(client.admitted, false)) pool::leave(*client.tenant);
    wait(client, WaitingFor::resume);
    return Placed::waits;
  }
  if (client.tenant_next) {
    client.tenant = &shared_.tenants.find(*client.tenant_next, client.identity->user);
    if (!orders_->classes.empty()) client.settings_changed();
    client.tenant_next = nullptr;
  }
  const bool special = (special_classes_ >> client.service_class & 1) != 0;
  if (special && !login) [[unlikely]]
    if (const auto refused = refuse_class(client)) return *refused;
  if (!client.admitted && !login) {
    const pool::Admission admission =
        pool::admit(*client.tenant, at, client.waiting_since, settings_->tenant_rate_wait,
                    std::exchange(client.has_cell, false));
    switch (admission.answer) {
      case pool::Admission::Answer::admit: client.admitted = true; break;
      case pool::Admission::Answer::wait:
        client.has_cell = admission.has_cell;
        client.not_before() = at + admission.retry_after;
        wait(client, WaitingFor::tenant);
        return Placed::waits;
      case pool::Admission::Answer::refuse: {
        // Jitter, so that those refused together do not come back together.
        const auto after = admission.retry_after +
                           Millis(static_cast<std::int64_t>(random_() % 50) *
                                  std::max<std::int64_t>(1, admission.retry_after.count()) / 100);
        client.refuse(admission.why, wire::sqlstate::kConfigurationLimitExceeded,
                      "tenant \"" + client.tenant->name + "\" is over its " +
                          (admission.why == pool::Refusal::tenant_rate ? "limit of statements per second"
                           : admission.why == pool::Refusal::tenant_server_time
                               ? "limit of servers' time"
                               : "limit of concurrent statements"),
                      after);
        return Placed::refused;
      }
    }
  }

  if (client.batch_extras) [[unlikely]]
    switch (share(client)) {
      case Sharing::none: break;
      case Sharing::follows: return Placed::waits;
      case Sharing::answered: return Placed::answered;
    }

  Identity& identity = *client.identity;
  const routing::ClusterState* state = cluster(identity);
  client.spills = false;
  std::optional<routing::NodeId> node;
  std::optional<routing::ReadReason> read_why;
  bool must_be_own = false;  // its class reads on its own replicas or not at all
  routing::ReadNeeds needs;
  routing::Decision decision{routing::Target::primary, routing::RouteReason::write};
  if (state != nullptr) {
    if (client.batch.shows_lsn || client.batch.sets_lsn) [[unlikely]]
      if (const auto placed = place_token(client, *state)) return *placed;
    routing::SessionState room;
    const routing::SessionState& session = routing::seen_by(client.batch, client.route_state, room);
    decision = login && client.batch.kind == routing::StatementClass::read
                   ? routing::Decision{routing::Target::replica, routing::RouteReason::read}
                   : routing::route(client.batch, session, identity.mode);
    if (client.retry && client.retry.why == pool::RetryReason::wrong_node) [[unlikely]]
      decision = {routing::Target::primary, routing::RouteReason::retry};
    if (decision.target == routing::Target::replica) {
      needs.excluded = excluded_for(client, *state);
      needs.max_lag = Millis(client.batch.overrides.max_lag_ms);
      if (client.batch.overrides.nodes_by != 0) [[unlikely]]
        confine(client.batch.overrides, &needs);
      routing::Floor& floor = client.route_state.floor;
      const conf::Consistency consistency = session.consistency;
      if (consistency != conf::Consistency::eventual) {
        if (consistency == conf::Consistency::tenant || consistency == conf::Consistency::strong) [[unlikely]] {
          const std::uint64_t sent = state->samples_sent->load();
          if (consistency == conf::Consistency::tenant)
            floor.raise_to(client.tenant->written[identity.written_at % pool::Tenant::kClusters].load(), sent);
          else if (client.waiting_for != WaitingFor::floor && client.waiting_for != WaitingFor::replica)
            floor.raise(sent);
        }
        if (floor.learn(*state)) metrics_->floors_lost.add();
        needs.satisfy(floor);
        needs.close = settings_->routing_floor_wait + kNearly;
      }
      // A transaction could still be made one that writes.
      if (state->promoted != 0 && decision.why == routing::RouteReason::read_only_transaction) [[unlikely]]
        needs.excluded |= state->promoted;
      const auto choose = [&] {
        const auto own = own_nodes_.empty() ? std::nullopt : choose_own(client, *state, needs);
        must_be_own = own && !login && !classes_->at(client.service_class).overflow;
        return own ? *own : routing::choose_replica(*state, needs, shared_.loads, random_);
      };
      routing::ReadChoice choice = choose();
      if (choice.leave && client.waiting_for != WaitingFor::floor) [[unlikely]] {
        floor.leave(state->samples_sent->load());
        choice = {.why = routing::ReadReason::floor_pending, .soon = true};
      }
      if (floor.kind == routing::Floor::Kind::leaving) [[unlikely]] {
        if (choice.soon && waits_for_floor(client)) {
          want_sample(identity, floor.sample);
          return Placed::waits;
        }
        floor.stay();  // nobody has said in time where else it may go
        needs.satisfy(floor);
        choice = choose();
      }
      node = choice.replica;
      read_why = choice.why;
      const bool floor_fails = choice.why == routing::ReadReason::floor_pending ||
                               choice.why == routing::ReadReason::none_has_replayed;
      // Its node has just failed us: what it had is told by the primary's next sample.
      if (floor.kind == routing::Floor::Kind::at_node && floor_fails) floor.raise(state->samples_sent->load());
      if (floor_fails) want_sample(identity, floor.sample);
      if (choice.soon && waits_for_floor(client)) return Placed::waits;
      if (client.waiting_for == WaitingFor::floor) {
        client.waiting_for = WaitingFor::nothing;
        (node ? metrics_->floor_waits : metrics_->floor_waits_in_vain).add();
      }
      if (choice.why == routing::ReadReason::floor_pending) decision.why = routing::RouteReason::floor_pending;
      if (!node && !must_be_own && !settings_->routing_dry_run) [[unlikely]] {
        const Spilled spilled = spill(client, *state, choice.why);
        node = spilled.node;
        if (!node && (state->primary || spilled.placed == Placed::refused)) {
          client.route_why = decision.why;
          return spilled.placed;
        }
      }
    }
    if (settings_->routing_dry_run && !login) [[unlikely]] {
      node = std::nullopt;
      must_be_own = false;
    }
    if (!node && !must_be_own) node = state->primary;
    // A primary that has just refused us is left alone for a moment; nobody else takes writes.
    if (nodes_failing_ && node && routing::index(*node) < backoffs_.size() &&
        !backoffs_[routing::index(*node)].may_try(at) &&
        pool(identity, *node).most_recent_idle() == nullptr)
      node = std::nullopt;
  }
  client.route_why = decision.why;
  if (!node) {
    const std::int64_t most = settings_->routing_primary_waiters;
    if (most > 0 && !login && shared_.held_writes.load(std::memory_order_relaxed) >= most) {
      client.refuse(pool::Refusal::no_primary, wire::sqlstate::kCannotConnectNow,
                    "no primary is known at the moment, and " + std::to_string(most) +
                        " statements wait for one already (routing.primary_waiters)",
                    soon(Millis(500)));
      return refused(client);
    }
    wait(client, WaitingFor::node);
    return Placed::waits;
  }

  pool::Pool* its_pool = &pool(identity, *node);
  Server* server = free_server(client, *its_pool);
  // A read may run where others wait less, at the price of a sample when its session stays with a replica.
  const bool may_move = read_why && node != state->primary && !must_be_own && !login;
  if (server == nullptr && may_move && must_queue(client, *its_pool)) {
    if (*read_why == routing::ReadReason::fresh_replica) {
      its_pool = &shorter_queue(client, *state, needs, *its_pool);
      node = its_pool->key().node;
      server = free_server(client, *its_pool);
    } else if (*read_why == routing::ReadReason::same_replica && is_worth_leaving(client, *state, *its_pool)) {
      routing::Floor& floor = client.route_state.floor;
      floor.raise(state->samples_sent->load());
      if (waits_for_floor(client)) {
        want_sample(identity, floor.sample);
        return Placed::waits;
      }
    }
  }
  if (read_why) metrics_->read_choices.add(*read_why);
  if (server != nullptr) {
    tie(client, *server);
    return Placed::linked;
  }
  if (const auto refused = join_queue(client, *its_pool)) return *refused;
  if (client.spills) count_spill(client, *node, 1);
  if (const auto full = open_servers(identity, *its_pool)) metrics_->server_limits.add(*full);
  hurry();
  return Placed::waits;
}

// No replica has replayed what this read must see, but one may have soon. False: it has waited long enough.
bool Worker::waits_for_floor(Client& client) {
  if (client.waiting_for == WaitingFor::replica) return false;
  if (client.waiting_for != WaitingFor::floor)
    client.not_before() = now() + settings_->routing_floor_wait;
  else if (now() >= client.not_before())
    return false;
  if (settings_->routing_floor_wait.count() == 0 || client.state() == ClientState::login) return false;
  wait(client, WaitingFor::floor);
  return true;
}

// The batch brings a position, or asks for one. Nothing: go on.
std::optional<Worker::Placed> Worker::place_token(Client& client, const routing::ClusterState& state) {
  routing::Floor& floor = client.route_state.floor;
  const auto refuse = [this, &client](std::string_view sqlstate, const std::string& message) {
    client.refuse(pool::Refusal::invalid_setting, sqlstate, message);
    return refused(client);
  };
  if (client.batch.shows_lsn && client.batch.kind > routing::StatementClass::read)
    return refuse(wire::sqlstate::kFeatureNotSupported,
                  "SHOW pgsluice.lsn must stand alone: what the same batch does is not in it");
  const bool waited = client.waiting_for == WaitingFor::floor;
  if (floor.learn(state)) metrics_->floors_lost.add();
  if (client.batch.sets_lsn) {
    const std::optional<routing::Token> token = client.token_to_set();
    if (!token) return std::nullopt;  // it has been told why
    switch (routing::judge_token(*token, state)) {
      case routing::TokenVerdict::good:
      case routing::TokenVerdict::lost: return std::nullopt;
      case routing::TokenVerdict::other_system:
        return refuse(wire::sqlstate::kInvalidParameterValue,
                      "pgsluice.lsn " + print(*token) + " is of another database system");
      case routing::TokenVerdict::ahead: break;
    }
    if (waited && floor.kind == routing::Floor::Kind::known)
      return refuse(wire::sqlstate::kInvalidParameterValue,
                    "pgsluice.lsn " + print(*token) + " is ahead of everything that has been written");
  }
  // A sample that is sent from now on is past what others have written and what this session has seen.
  const bool seen = floor.kind == routing::Floor::Kind::none || floor.has_node();
  if (seen || (client.batch.sets_lsn && !waited)) floor.raise(state.samples_sent->load());
  if (floor.kind == routing::Floor::Kind::known) {
    client.show_token(routing::token_of(floor.lsn, state));
    return std::nullopt;
  }
  if (now() - client.waiting_since > settings_->routing_primary_wait) {
    client.refuse(pool::Refusal::no_primary, wire::sqlstate::kCannotConnectNow,
                  "the primary does not tell its position at the moment (waited " +
                      conf::print(settings_->routing_primary_wait) + ")");
    return refused(client);
  }
  want_sample(*client.identity, floor.sample);
  wait(client, WaitingFor::floor);
  return Placed::waits;
}

// The list of those who wait for time to pass or for a node to come.
void Worker::wait(Client& client, WaitingFor what) {
  if (client.in_retry.linked()) leave_retry(client);
  client.waiting_for = what;
  if (what == WaitingFor::node) shared_.held_writes.fetch_add(1, std::memory_order_relaxed);
  retry_.push_back(client);
  hurry();
}

void Worker::leave_retry(Client& client) {
  if (client.waiting_for == WaitingFor::node) shared_.held_writes.fetch_sub(1, std::memory_order_relaxed);
  retry_.remove(client);
}

void Worker::tie(Client& client, Server& server) {
  server.home->move_to(server, pool::ServerState::active);
  server.resume_reading();
  (void)stale(server);  // its role, by the newest topology
  server.was_primary |= server.role == routing::NodeRole::primary;
  link(client, server);
  if ((special_classes_ >> client.service_class & 1) != 0) [[unlikely]] take_slot(client, server);
  if (client.spills) [[unlikely]] count_spill(client, server.node_id(), 1);
  shared_.loads[routing::index(server.node_id())].in_flight.fetch_add(1, std::memory_order_relaxed);
  if (client.batch_extras) [[unlikely]] start_flight(*client.batch_extras, server);
  if (client.state() == ClientState::login) return;
  client.identity->traffic->assignments.add();
  count_route(client.route_why, client.batch);
}

void Worker::part(Client& client, Server& server) {
  if (server.slot != 0) [[unlikely]] free_slot(client, server);
  unlink(client, server);
  if (client.spills) [[unlikely]] {
    count_spill(client, server.node_id(), -1);
    client.spills = false;
  }
  shared_.loads[routing::index(server.node_id())].in_flight.fetch_sub(1, std::memory_order_relaxed);
  if (std::exchange(client.admitted, false)) pool::leave(*client.tenant);
}

void Worker::stop_waiting(Client& client) {
  if (client.in_retry.linked()) leave_retry(client);
  if (client.flow != nullptr) {
    pool::Pool& its_pool = client.flow->home;
    its_pool.queue().remove(client);
    left_queue(client, its_pool);
  }
}

bool Worker::give(Server& server, pool::Pool& its_pool) {
  Client* client = take_turn(its_pool);
  if (client == nullptr) return false;
  tie(*client, server);
  client->forward_waiting();
  return true;
}

void Worker::release(Server& server) {
  // A cancel that is still on its way would hit the next client.
  if (server.cancels > 0 || server.state != pool::ServerState::active || server.broken()) return;
  ENSURE(server.client == nullptr && server.pipeline.idle() && server.status == 'I');
  if (server.uncertain()) {
    retire(server, ServerEnd::unexpected_message, "its state is not certain after an error");
    return;
  }
  pool::Pool& its_pool = *server.home;
  if (draining_ && its_pool.waiting() == 0) {
    retire(server, ServerEnd::shutdown);
    return;
  }
  if (stale(server)) {
    retire(server, why_stale(server));
    return;
  }
  if (now() - server.connected_at > server.lifetime) {
    retire(server, server.doomed_by);
    return;
  }
  if (its_pool.budget().open() > its_pool.budget().limit()) {
    retire(server, ServerEnd::surplus);
    return;
  }
  if (const auto hungry = hungrier_worker(its_pool)) {
    hand_over(server, *hungry);
    return;
  }
  its_pool.move_to(server, pool::ServerState::idle);
  server.idle_since = now();
  if (its_pool.waiting() > 0) (void)give(server, its_pool);
}

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

// Everybody who waits at this pool is placed anew: its node has failed, or is no longer what it was.
void Worker::replace_waiters(pool::Pool& its_pool) {
  std::vector<Client*> clients;
  while (pool::Waiter* waiter = its_pool.queue().any()) {
    auto& client = static_cast<Client&>(*waiter);
    stop_waiting(client);
    clients.push_back(&client);
  }
  std::ranges::stable_sort(clients, {}, [](const Client* client) { return client->waiting_since; });
  for (Client* client : clients) place_again(*client);
}

void Worker::place_again(Client& client) {
  if (client.state() == ClientState::closing) return;
  switch (place(client)) {
    case Placed::linked: client.forward_waiting(); break;
    case Placed::waits: break;
    case Placed::refused: client.refuse_waiting(); break;
    case Placed::answered: client.take_answer_waiting(*take_found_answer()); break;
  }
}

void Worker::retry_waiting() {
  std::vector<Client*> clients;
  for (Client* client = retry_.front(); client != nullptr; client = retry_.after(*client))
    clients.push_back(client);
  for (Client* client : clients) {
    if (client->state() == ClientState::closing || !client->in_retry.linked()) continue;
    if (client->waiting_for == WaitingFor::tenant && now() < client->not_before()) continue;
    if (client->waiting_for == WaitingFor::resume) {
      if (client->identity->paused) continue;
      client->waiting_since = now();  // for a server, from here on
    }
    leave_retry(*client);
    place_again(*client);
  }
}

}  // namespace proxy
