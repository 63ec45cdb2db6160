#include "proxy/worker.h"

#include <algorithm>
#include <utility>

// Who logs in where: what the configuration says of a database and a user, and their pools.
namespace proxy {

using conf::Millis;

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
  const auto unused = [this, with_idle_servers](const Identity& identity, bool idle_too) {
    // What is to be ready before anybody comes stays.
    if (identity.min_size > 0 && settings_->databases.contains(identity.database)) return false;
    // While it is paused no server can say again what new clients are to hear.
    if (identity.paused && identity.configured && !identity.welcomes.empty() && !with_idle_servers) return false;
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

}  // namespace proxy
