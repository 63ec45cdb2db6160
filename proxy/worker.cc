#include "proxy/worker.h"

#include <algorithm>
#include <utility>

#include "conf/check.h"
#include "proxy/cancel.h"
#include "proxy/client_login.h"
#include "proxy/log.h"
#include "proxy/overloaded.h"
#include "proxy/random.h"
#include "proxy/relay.h"
#include "proxy/wire/backend.h"
#include "proxy/wire/sqlstate.h"
#include "routing/chooser.h"

namespace proxy {

using conf::Instant;
using conf::Millis;
using namespace std::chrono_literals;

namespace {

// Deadlines are looked at this often while somebody waits, and five times a second otherwise.
constexpr Millis kBusyTick = 10ms;
constexpr Millis kIdleTick = 200ms;
// Bits of the first word of a cancel key: process, worker, slot; the sign stays clear.
constexpr unsigned kSlotBits = 20, kWorkerBits = 6;

routing::Classifier::Limits classifier_limits(const conf::Settings& settings) {
  return {.cache_entries = static_cast<std::size_t>(settings.routing_cache_entries),
          .max_statement = settings.routing_max_statement.count};
}

}  // namespace

Worker::Worker(std::size_t number, Shared& shared, std::shared_ptr<const conf::Settings> settings,
               std::shared_ptr<const net::TlsContext> client_tls,
               std::shared_ptr<const net::TlsContext> server_tls)
    : number_(number),
      shared_(shared),
      settings_(std::move(settings)),
      client_tls_(std::move(client_tls)),
      server_tls_(std::move(server_tls)),
      topology_(std::make_shared<routing::Topology>()),
      catalog_(std::make_shared<routing::Catalog>(0, std::vector<routing::Catalog::Function>{},
                                                  settings_->routing_read_functions,
                                                  settings_->routing_write_functions)),
      metrics_(std::make_unique<metrics::WorkerMetrics>()),
      mailbox_(loop_, [this](WorkerMessage&& message) { receive(std::move(message)); }),
      tick_(loop_, [this] { tick(); }),
      classifier_(classifier_limits(*settings_)),
      random_(random_u32()),
      read_buffer_(std::make_unique<char[]>(kReadSize + Server::kWhole)),
      started_mode_(settings_->pool_mode) {
  classifier_.use(catalog_);
  loop_.at_turn_end([this] { turn_end(); });
}

Worker::~Worker() = default;

void Worker::start() {
  thread_ = std::thread([this] { run(); });
}

void Worker::join() {
  if (thread_.joinable()) thread_.join();
}

void Worker::run() {
  tick_.every(kIdleTick);
  loop_.run();
  bury();
}

void Worker::receive(WorkerMessage&& message) {
  std::visit(
      Overloaded{
          [this](NewClient& m) { take_client(std::move(m)); },
          [this](SettingsChanged& m) { settings_changed(std::move(m)); },
          [this](TopologyChanged& m) { topology_changed(std::move(m.topology)); },
          [this](CatalogChanged& m) {
            catalog_ = std::move(m.catalog);
            classifier_.use(catalog_);
          },
          [this](CancelClient& m) { cancel(m); },
          [this](CancelDelivered& m) {
            if (Client* client = find(m.requester)) client->cancel_delivered();
          },
          [this](ServerHandover& m) { take_server(std::move(m)); },
          [this](Starving& m) { feed_others(m.key); },
          [this](SecretFound& m) {
            if (Client* client = find(m.client)) client->secret_found(std::move(m.secret));
          },
          [this](ConsoleAsk& m) { answer_console(m); },
          [this](ConsoleAnswer& m) {
            if (Client* client = find(m.client)) client->console_answer(m.messages);
          },
          [this](BeginDrain&) { begin_drain(); },
          [this](StopNow&) { stop_now(); },
      },
      message);
}

// --- clients ---------------------------------------------------------------------------------------

Client* Worker::find(const ClientId& id) {
  if (id.worker != number_ || id.slot >= slots_.size()) return nullptr;
  Slot& slot = slots_[id.slot];
  if (!slot.client || slot.generation != id.generation) return nullptr;
  return slot.client->state() == ClientState::closing ? nullptr : slot.client.get();
}

void Worker::take_client(NewClient&& message) {
  metrics_->clients_accepted.add();
  if (free_slots_.empty() && slots_.size() >= (std::size_t{1} << kSlotBits)) {
    client_count_.fetch_sub(1, std::memory_order_relaxed);
    shared_.client_count.fetch_sub(1, std::memory_order_relaxed);
    return;
  }
  std::uint32_t number = 0;
  if (free_slots_.empty()) {
    number = static_cast<std::uint32_t>(slots_.size());
    slots_.emplace_back();
  } else {
    number = free_slots_.back();
    free_slots_.pop_back();
  }
  Slot& slot = slots_[number];
  ++slot.generation;
  ++live_clients_;
  slot.client = std::make_unique<Client>(
      *this,
      ClientId{static_cast<std::uint16_t>(number_), number, slot.generation},
      std::move(message.socket));
}

void Worker::client_joined(Client& client) {
  slots_[client.id().slot].state = client.state();
  ++state_counts_[static_cast<std::size_t>(client.state())];
  logging_in_.push_back(client);
}

void Worker::client_moved(Client& client, ClientState from) {
  const ClientState to = client.state();
  slots_[client.id().slot].state = to;
  --state_counts_[static_cast<std::size_t>(from)];
  ++state_counts_[static_cast<std::size_t>(to)];
  if (ClientList* list = list_of(from)) list->remove(client);
  if (ClientList* list = list_of(to)) list->push_back(client);
}

void Worker::client_opened(Client& client, const std::string& peer) {
  if (settings_->log_connections)
    log_info(client.who() + " peer=" + peer + " tenant=" + client.tenant->name + " opened");
}

std::uint32_t Worker::new_cancel_secret() { return random_u32(); }

std::uint32_t Worker::cancel_pid(const Shared& shared, const ClientId& id) {
  return static_cast<std::uint32_t>(shared.process & 31U) << (kSlotBits + kWorkerBits) |
         static_cast<std::uint32_t>(id.worker) << kSlotBits | id.slot;
}

void Worker::retire(Client& client, ClientEnd why, std::string_view text) {
  if (client.state() == ClientState::closing) return;
  metrics_->clients_closed.add();
  metrics_->client_closes.add(why);
  const bool ordinary = why == ClientEnd::goodbye || why == ClientEnd::probe_only ||
                        why == ClientEnd::gone || why == ClientEnd::draining;
  if (!ordinary || settings_->log_connections) {
    std::string line = client.who() + " closing: " + std::string(name(why));
    if (!text.empty()) line += ": " + std::string(text);
    line += " statements=" + std::to_string(client.statements);
    log(ordinary ? conf::LogLevel::info : conf::LogLevel::warning, line);
  }
  stop_waiting(client);
  client.move_to(ClientState::closing);
  if (Server* server = client.server) {
    const bool pinned = routing::any(client.pins);
    const bool keeps_session = client.identity->mode == conf::PoolMode::session;
    const bool half_sent = client.streaming();
    server->undo_tentative();
    part(client, *server);
    if (server->state == pool::ServerState::closing) {
      // it is the one that ends us
    } else if (!server->pipeline.idle() || half_sent) {
      if (!server->pipeline.nothing_owed()) send_cancel(*server, std::nullopt);
      retire(*server, ServerEnd::client_vanished);
    } else if ((server->status != 'I' || pinned || keeps_session) && !server->uncertain()) {
      server->reset();
    } else if (server->status != 'I') {
      retire(*server, ServerEnd::client_vanished);
    } else {
      settle(*server);
    }
  } else if (client.admitted) {
    pool::leave(*client.tenant);
    client.admitted = false;
  }
  client.close_socket();
  forget_again(client);
  client_count_.fetch_sub(1, std::memory_order_relaxed);
  shared_.client_count.fetch_sub(1, std::memory_order_relaxed);
  --live_clients_;
  Slot& slot = slots_[client.id().slot];
  dead_clients_.push_back(std::move(slot.client));
  free_slots_.push_back(client.id().slot);
  if (draining_) drain_step();
}

void Worker::read_again(net::SocketOwner& owner) {
  if (std::ranges::find(again_, &owner) == again_.end()) again_.push_back(&owner);
}

void Worker::forget_again(net::SocketOwner& owner) {
  std::erase(again_, &owner);
  std::ranges::replace(again_now_, &owner, nullptr);
}

// --- where statements go ---------------------------------------------------------------------------

Identity* Worker::identity(const std::string& database, const std::string& user) {
  const std::string key = database + '\0' + user;
  if (const auto found = identities_.find(key); found != identities_.end()) return found->second.get();
  auto entry = settings_->databases.find(database);
  if (entry == settings_->databases.end()) entry = settings_->databases.find("*");
  if (entry == settings_->databases.end()) return nullptr;
  auto made = std::make_unique<Identity>();
  made->database = database;
  made->user = user;
  configure(*made);
  return identities_.emplace(key, std::move(made)).first->second.get();
}

// What the configuration says of an identity; again after every reload.
void Worker::configure(Identity& identity) {
  auto entry = settings_->databases.find(identity.database);
  if (entry == settings_->databases.end()) entry = settings_->databases.find("*");
  if (entry == settings_->databases.end()) return;
  const conf::DatabaseSettings& database = entry->second;
  identity.cluster = database.cluster;
  identity.dbname = database.dbname.empty() ? identity.database : database.dbname;
  identity.mode = started_mode_;
  identity.state = topology_->find(identity.cluster);
  identity.pool_size = settings_->pool_size;
  const auto override_with = [&identity](const auto& section) {
    if (section.pool_mode) identity.mode = *section.pool_mode;
    if (section.pool_size) identity.pool_size = *section.pool_size;
  };
  override_with(database);
  if (const auto user = settings_->users.find(identity.user); user != settings_->users.end())
    override_with(user->second);
  for (const auto& pool : identity.pools)
    if (pool) pool->budget().set_limit(identity.pool_size);
}

pool::Pool& Worker::make_pool(Identity& identity, routing::NodeId node) {
  const std::size_t at = routing::index(node);
  if (identity.pools.size() <= at) identity.pools.resize(at + 1);
  std::unique_ptr<pool::Pool>& pool = identity.pools[at];
  if (!pool) {
    pool::PoolKey key{node, identity.database, identity.user};
    auto budget = shared_.budgets.find(key, identity.pool_size);
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
                               .tenant = client.tenant->number};
  // Clients repeat themselves: most look-ups end here.
  if (client.last_series == nullptr || client.last_series->key != key)
    client.last_series = &metrics_->series(key);
  return *client.last_series;
}

void Worker::want_sample(const Identity& identity) {
  // At most every 5 ms: the control thread does not send more (CONSISTENCY.md).
  if (now() - last_sample_wanted_ < 5ms) return;
  last_sample_wanted_ = now();
  shared_.tell_control(SampleWanted{identity.cluster});
}

void Worker::look_at(Server& server) const {
  server.looked_at = topology_->version;
  server.role = role_of(server.identity(), server.node_id());
  server.is_stale = true;
  for (const routing::ClusterState& state : topology_->clusters)
    if (const routing::NodeState* node = state.find(server.node_id()))
      server.is_stale = node->incarnation != server.incarnation();
}

Worker::Placed Worker::place(Client& client) {
  const Instant at = now();
  const bool login = client.state() == ClientState::login;
  if (client.tenant_next) {
    client.tenant = &shared_.tenants.find(*client.tenant_next);
    client.tenant_next = nullptr;
  }
  if (!client.admitted && !login) {
    const pool::Admission admission =
        pool::admit(*client.tenant, at, client.waiting_since, settings_->tenant_rate_wait,
                    std::exchange(client.has_cell, false));
    switch (admission.answer) {
      case pool::Admission::Answer::admit: client.admitted = true; break;
      case pool::Admission::Answer::wait:
        client.has_cell = admission.has_cell;
        client.not_before = at + admission.retry_after;
        wait(client, WaitingFor::tenant);
        return Placed::waits;
      case pool::Admission::Answer::refuse: {
        // Jitter, so that those refused together do not come back together.
        const auto after = admission.retry_after +
                           Millis(static_cast<std::int64_t>(random_() % 50) *
                                  std::max<std::int64_t>(1, admission.retry_after.count()) / 100);
        client.refuse(admission.why, wire::sqlstate::kConfigurationLimitExceeded,
                      "tenant \"" + client.tenant->name + "\" is over its " +
                          (admission.why == pool::Refusal::tenant_rate
                               ? "limit of statements per second"
                               : "limit of concurrent statements"),
                      after);
        return Placed::refused;
      }
    }
  }

  Identity& identity = *client.identity;
  const routing::ClusterState* state = cluster(identity);
  std::optional<routing::NodeId> node;
  std::optional<routing::ReadReason> read_why;
  routing::Decision decision{routing::Target::primary, routing::RouteReason::write};
  if (state != nullptr) {
    client.route_state.floor.learn(*state);
    decision = login && client.batch.kind == routing::StatementClass::read
                   ? routing::Decision{routing::Target::replica, routing::RouteReason::read}
                   : routing::route(client.batch, client.route_state, identity.mode);
    if (decision.why == routing::RouteReason::floor_pending) want_sample(identity);
    if (decision.target == routing::Target::replica) {
      const routing::ReadChoice choice = routing::choose_replica(
          *state,
          {.floor = routing::read_floor(client.route_state), .excluded = excluded(*state)},
          shared_.loads, random_);
      node = choice.replica;
      read_why = choice.why;
      if (choice.why == routing::ReadReason::none_has_replayed) want_sample(identity);
    }
    if (!node) node = state->primary;
    // A primary that has just refused us is left alone for a moment; nobody else takes writes.
    if (nodes_failing_ && node && routing::index(*node) < backoffs_.size() &&
        !backoffs_[routing::index(*node)].may_try(at) &&
        pool(identity, *node).most_recent_idle() == nullptr)
      node = std::nullopt;
  }
  client.route_why = decision.why;
  if (!node) {
    wait(client, WaitingFor::node);
    return Placed::waits;
  }

  pool::Pool& its_pool = pool(identity, *node);
  while (pool::PooledServer* record = its_pool.most_recent_idle()) {
    Server& server = *server_of(record);
    if (its_pool.longest_waiter() != nullptr) break;  // they come first
    if (stale(server)) {
      retire(server, ServerEnd::node_changed);
      continue;
    }
    if (read_why) metrics_->read_choices.add(*read_why);
    tie(client, server);
    return Placed::linked;
  }
  if (read_why) metrics_->read_choices.add(*read_why);
  client.waiting_for = WaitingFor::server;
  its_pool.enqueue(client);
  client.queued_at = &its_pool;
  open_servers(identity, its_pool);
  hurry();
  return Placed::waits;
}

// The list of those who wait for time to pass or for a node to come.
void Worker::wait(Client& client, WaitingFor what) {
  client.waiting_for = what;
  if (!client.in_retry.linked()) retry_.push_back(client);
  hurry();
}

void Worker::hurry() {
  if (std::exchange(busy_tick_, true)) return;
  tick_.every(kBusyTick);
}

void Worker::tie(Client& client, Server& server) {
  server.home->move_to(server, pool::ServerState::active);
  server.resume_reading();
  (void)stale(server);  // its role, by the newest topology
  server.was_primary |= server.role == routing::NodeRole::primary;
  link(client, server);
  shared_.loads[routing::index(server.node_id())].in_flight.fetch_add(1, std::memory_order_relaxed);
  if (client.state() == ClientState::login) return;
  metrics_->routes.add(client.route_why);
  metrics_->class_reasons.add(client.batch.why);
}

void Worker::part(Client& client, Server& server) {
  unlink(client, server);
  shared_.loads[routing::index(server.node_id())].in_flight.fetch_sub(1, std::memory_order_relaxed);
  if (std::exchange(client.admitted, false)) pool::leave(*client.tenant);
}

void Worker::stop_waiting(Client& client) {
  if (client.in_retry.linked()) retry_.remove(client);
  if (client.queued_at != nullptr) {
    client.queued_at->dequeue(client);
    if (client.queued_at->waiting() == 0) client.queued_at->budget().feed(number_);
    client.queued_at = nullptr;
  }
}

void Worker::give(Server& server, pool::Pool& its_pool) {
  auto& client = static_cast<Client&>(*its_pool.longest_waiter());
  stop_waiting(client);
  tie(client, server);
  client.forward_waiting();
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
    retire(server, ServerEnd::node_changed);
    return;
  }
  if (now() - server.connected_at > server.lifetime) {
    retire(server, ServerEnd::lifetime);
    return;
  }
  if (its_pool.budget().open() > its_pool.budget().limit()) {
    retire(server, ServerEnd::surplus);
    return;
  }
  if (const auto hungry = its_pool.budget().hungrier_than(number_, its_pool.waiting_since())) {
    hand_over(server, *hungry);
    return;
  }
  its_pool.move_to(server, pool::ServerState::idle);
  server.idle_since = now();
  if (its_pool.longest_waiter() != nullptr) give(server, its_pool);
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
    shared_.budgets.find(message.key, 0)->give_back();
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
  if (its_pool.longest_waiter() != nullptr) {
    const bool more = its_pool.waiting() > 1;
    give(server, its_pool);
    if (more) open_servers(*owner, its_pool);
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
  if (const auto hungry = its_pool->budget().hungrier_than(number_, its_pool->waiting_since()))
    hand_over(*server_of(record), *hungry);
}

void Worker::open_servers(Identity& identity, pool::Pool& its_pool) {
  const routing::ClusterState* state = cluster(identity);
  const routing::NodeState* node = state == nullptr ? nullptr : state->find(its_pool.key().node);
  if (node == nullptr || node->ips.empty()) return;
  const std::size_t at = routing::index(node->id);
  if (backoffs_.size() <= at) backoffs_.resize(at + 1);
  if (!backoffs_[at].may_try(now())) return;
  const auto parallel = static_cast<std::size_t>(settings_->pool_connect_parallel);
  for (std::size_t wanted = its_pool.connections_wanted();
       wanted > 0 && its_pool.count(pool::ServerState::connecting) < parallel; --wanted) {
    if (!its_pool.budget().take()) {
      if (shared_.workers.size() > 1 &&
          its_pool.budget().starve(number_, its_pool.waiting_since()))
        for (Worker* worker : shared_.workers)
          if (worker != this) worker->post(Starving{its_pool.key()});
      return;
    }
    auto made = std::make_unique<Server>(*this, identity, *node);
    Server& server = *made;
    servers_.emplace(&server, std::move(made));
    its_pool.add(server);
    server.lifetime = jittered(settings_->pool_server_lifetime);
    if (const conf::Status started = server.start(); !started) {
      // The caller is placing somebody: the consequences come at the end of the turn.
      failed_starts_.emplace_back(&server, started.error().message);
      return;
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
  if (at < backoffs_.size()) backoffs_[at].succeeded();
  pool::Pool& its_pool = *server.home;
  its_pool.move_to(server, pool::ServerState::idle);
  server.idle_since = now();
  log_debug("server=" + server.node_name() + " user=" + server.identity().user +
            " database=" + server.identity().dbname + " opened tls=" + server.tls_description());
  if (stale(server)) {
    retire(server, ServerEnd::node_changed);
    return;
  }
  if (its_pool.longest_waiter() != nullptr) {
    give(server, its_pool);
  } else if (const auto hungry = its_pool.budget().hungrier_than(number_, Instant::max())) {
    hand_over(server, *hungry);
  }
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
  const std::string words(message);
  const std::string code(sqlstate);
  log_warning("server=" + server.node_name() + " user=" + identity.user +
              " database=" + identity.dbname + " could not be opened: " + code + " " + words);
  retire(server, node_is_at_fault ? ServerEnd::connect_failed : ServerEnd::login_failed);
  if (node_is_at_fault || no_room) nodes_failing_ = true;
  if (node_is_at_fault || no_room)
    backoffs_[at].failed(now(), settings_->pool_connect_backoff_min,
                         settings_->pool_connect_backoff_max, random_);
  if (node_is_at_fault) {
    shared_.tell_control(NodeSuspected{its_pool.key().node});
    replace_waiters(its_pool);
    return;
  }
  if (no_room) return;  // those who wait go on waiting, for a release or for the next attempt
  // Nobody who waits here will be let in: they hear the server's own words.
  while (its_pool.longest_waiter() != nullptr) {
    auto& client = static_cast<Client&>(*its_pool.longest_waiter());
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
  while (its_pool.longest_waiter() != nullptr) {
    auto& client = static_cast<Client&>(*its_pool.longest_waiter());
    stop_waiting(client);
    clients.push_back(&client);
  }
  for (Client* client : clients) place_again(*client);
}

void Worker::place_again(Client& client) {
  if (client.state() == ClientState::closing) return;
  switch (place(client)) {
    case Placed::linked: client.forward_waiting(); break;
    case Placed::waits: break;
    case Placed::refused: client.refuse_waiting(); break;
  }
}

void Worker::retry_waiting() {
  std::vector<Client*> clients;
  for (Client* client = retry_.front(); client != nullptr; client = retry_.after(*client))
    clients.push_back(client);
  for (Client* client : clients) {
    if (client->state() == ClientState::closing || !client->in_retry.linked()) continue;
    if (client->waiting_for == WaitingFor::tenant && now() < client->not_before) continue;
    retry_.remove(*client);
    place_again(*client);
  }
}

// --- the end of statements and servers -------------------------------------------------------------

void Worker::finished(Server& server, Client* client, InFlight& done, char old_status,
                      bool committed) {
  if (client == nullptr) return;
  const Instant at = now();
  metrics::StatementSeries& statements = series(*client, server, done.kind);
  statements.record(done.sent - done.arrived, at - done.sent);
  (done.failed ? statements.failed : statements.served).add();
  ++client->statements;
  const auto server_us = std::chrono::duration_cast<conf::Micros>(at - done.sent).count();
  // The first statement of a server pays for Postgres's cold caches; it says nothing about the node.
  const bool warm = std::exchange(server.is_warm, true);
  if (warm && done.kind <= routing::StatementClass::read)
    shared_.loads[routing::index(server.node_id())].observe(static_cast<std::uint32_t>(
        std::clamp<std::int64_t>(server_us, 1, std::int64_t{0xffffffff})));
  if (settings_->log_slow_statement.count() > 0 && at - done.arrived > settings_->log_slow_statement)
    log_info(client->who() + " slow statement class=" + std::string(name(done.kind)) +
             " node=" + server.node_name() + " server_us=" + std::to_string(server_us) +
             " queue_us=" +
             std::to_string(std::chrono::duration_cast<conf::Micros>(done.sent - done.arrived).count()));

  const bool in_transaction = server.status != 'I';
  if (done.changes && !done.failed) {
    for (const auto& facts : *done.changes) {
      client->session->apply(facts->settings, in_transaction, interner_);
      server.session.apply(facts->settings, in_transaction, interner_);
    }
    client->settings_changed();
  }
  if (done.step == routing::TransactionStep::savepoint && client->session->on_trial()) {
    // A rollback to a savepoint may have undone some of them; only this server knows which.
    pin(*client, routing::Pin::session_setting);
  }
  if (old_status != 'I' &&
      (!in_transaction || done.step == routing::TransactionStep::chained_end)) {
    client->session->end_transaction(committed);
    server.session.end_transaction(committed);
    client->settings_changed();
  }
  if (!in_transaction) metrics_->transactions.add();
  if (done.unpins && !done.failed) client->pins = routing::Pin::none;
  if (done.deallocates && done.failed) server.statements_are_uncertain();
  if (done.deallocates && !done.failed) {
    if (client->prepared) {
      client->prepared->last = nullptr;
      client->prepared->named.clear();
    }
    client->forget_unnamed();
    server.unnamed_version = 0;
    server.statements.clear();
  }
  // What is not undone by a rollback is there although a later statement of the batch failed; and where
  // the batch ended a transaction itself, nobody knows what was.
  constexpr routing::Pin lasting = routing::Pin::advisory_lock | routing::Pin::sql_prepare |
                                   routing::Pin::load | routing::Pin::session_function;
  const bool certain = !done.failed || done.step != routing::TransactionStep::none;
  const routing::Pin made = certain ? done.pins : done.pins & lasting;
  if (routing::any(made)) pin(*client, made);

  // A text that nobody has read may have left anything behind.
  server.unread_text |= done.unread;
  client->wrote |= done.executes && done.kind >= routing::StatementClass::write;
  if (client->wrote && !in_transaction) {
    client->wrote = false;
    // Sample number `sent + 1` is sent after this answer was read: it is at or past the commit.
    const routing::ClusterState* state = cluster(*client->identity);
    if (state != nullptr && state->samples_sent)
      client->route_state.floor.raise(state->samples_sent->load());
  }
  if (done.kind == routing::StatementClass::ddl && !done.failed)
    shared_.tell_control(SchemaChanged{client->identity->cluster});
}

void Worker::pin(Client& client, routing::Pin pins) {
  const auto fresh = static_cast<unsigned>(pins) & ~static_cast<unsigned>(client.pins);
  for (std::size_t bit = 0; bit < 16; ++bit)
    if ((fresh >> bit & 1U) != 0) metrics_->pins.add(bit);
  client.pins |= pins;
}

// A server that its client has left in order: back to the pool, unless something about it is in doubt.
void Worker::settle(Server& server) {
  if (server.unread_text && !server.uncertain()) {
    server.reset();
  } else {
    release(server);
  }
}

void Worker::idle_link(Client& client, Server& server) {
  client.touch(now());
  if (client.streaming() || client.broken()) return;  // the rest of a large message must go where it began
  if (client.waiting_for == WaitingFor::replay) {
    client.forward_waiting();
    return;
  }
  client.sticky = false;
  if (server.status != 'I') {
    client.go_on();
    return;
  }
  if (must_stay(client)) {
    if (std::exchange(client.admitted, false)) pool::leave(*client.tenant);
    client.move_to(ClientState::idle);
  } else {
    part(client, server);
    client.move_to(ClientState::idle);
    settle(server);
  }
  if (client.state() == ClientState::closing) return;
  if (draining_ && client.state() == ClientState::idle) {
    refusal(pool::Refusal::draining);
    client.fatal(ClientEnd::draining, wire::sqlstate::kAdminShutdown,
                 "terminating connection: pgsluice is shutting down");
    return;
  }
  client.go_on();
}

void Worker::retire(Server& server, ServerEnd why, std::string_view text) {
  if (server.state == pool::ServerState::closing) return;
  metrics_->server_closes.add(why);
  const bool was_open = server.state != pool::ServerState::connecting;
  if (was_open) metrics_->servers_closed.add();
  pool::Pool& its_pool = *server.home;
  Identity& identity = server.identity();
  const bool surprising = why == ServerEnd::lost || why == ServerEnd::unexpected_message ||
                          why == ServerEnd::replay_failed || why == ServerEnd::reset_failed;
  if (surprising)
    log_warning("server=" + server.node_name() + " user=" + identity.user +
                " database=" + identity.dbname + " closing: " + std::string(name(why)) +
                (text.empty() ? "" : ": " + std::string(text)));

  // What the client needs to hear is taken down before anything is undone.
  Client* const client = server.client;
  const std::uint32_t owed = server.pipeline.ready_owed();
  const bool open_sequence = server.pipeline.open_sequence();
  const bool mid_message = server.mid_message();
  const bool first_failed = !server.in_flight.empty() && server.in_flight.front().failed;
  // The server's last words may have come in one read with the whole answer: then nobody is owed anything.
  const bool answered = client != nullptr && server.pipeline.idle() && server.status == 'I' &&
                        !mid_message && !client->streaming() && !routing::any(client->pins) &&
                        client->identity->mode != conf::PoolMode::session &&
                        client->waiting_for != WaitingFor::replay;
  bool ending = false;
  for (const InFlight& batch : server.in_flight)
    ending |= batch.step == routing::TransactionStep::end ||
              batch.step == routing::TransactionStep::chained_end;
  bool keep = server.status == 'I' && (owed > 0 || open_sequence ||
                                       (client != nullptr && client->waiting_for == WaitingFor::replay));
  if (client != nullptr)
    keep = keep && !routing::any(client->pins) && client->identity->mode != conf::PoolMode::session;
  for (std::size_t i = 0; i + 1 < server.in_flight.size(); ++i)
    keep = keep && server.in_flight[i].step == routing::TransactionStep::none;

  if (why != ServerEnd::lost && why != ServerEnd::connect_failed) server.say_goodbye();
  its_pool.move_to(server, pool::ServerState::closing);
  for (const auto& canceller : cancellers_)
    if (canceller->server == &server) canceller->server = nullptr;
  server.close_socket();
  forget_again(server);
  its_pool.remove(server, true);
  const auto found = servers_.find(&server);
  ENSURE(found != servers_.end());
  dead_servers_.push_back(std::move(found->second));
  servers_.erase(found);

  if (why == ServerEnd::lost) shared_.tell_control(NodeSuspected{its_pool.key().node});
  if (client != nullptr) {
    server.undo_tentative();
    const std::string message =
        text.empty() ? "the connection to the server was lost" : std::string(text);
    part(*client, server);
    if (answered) {
      client->move_to(ClientState::idle);
      client->go_on();
    } else {
      client->server_lost(ending ? wire::sqlstate::kTransactionResolutionUnknown
                                 : wire::sqlstate::kConnectionFailure,
                          message, owed, open_sequence, first_failed, mid_message, keep);
    }
  }
  // Its place may go to somebody who waits: here, or at another worker.
  if (its_pool.waiting() > 0) hurry();
}

// --- cancels ---------------------------------------------------------------------------------------

void Worker::cancel(const CancelClient& request) {
  const std::uint32_t process = request.pid >> (kSlotBits + kWorkerBits);
  const std::size_t worker = request.pid >> kSlotBits & ((1U << kWorkerBits) - 1);
  const std::uint32_t slot = request.pid & ((1U << kSlotBits) - 1);
  const auto done = [&] {
    if (request.requester.worker == number_) {
      if (Client* requester = find(request.requester)) requester->cancel_delivered();
    } else {
      shared_.workers[request.requester.worker]->post(CancelDelivered{request.requester});
    }
  };
  if (process != (shared_.process & 31U) || worker >= shared_.workers.size()) {
    done();
    return;
  }
  if (worker != number_) {
    shared_.workers[worker]->post(request);
    return;
  }
  Client* client = slot < slots_.size() ? slots_[slot].client.get() : nullptr;
  if (client == nullptr || client->state() == ClientState::closing ||
      client->state() == ClientState::login || client->cancel_secret == 0 ||
      request.key.size() != 4 || wire::load_u32(request.key.data()) != client->cancel_secret) {
    done();
    return;
  }
  if (client->state() == ClientState::waiting && client->server == nullptr) {
    stop_waiting(*client);
    if (std::exchange(client->admitted, false)) pool::leave(*client->tenant);
    client->refuse(pool::Refusal::canceled, wire::sqlstate::kQueryCanceled,
                   "canceling statement due to user request");
    client->refuse_waiting();
    done();
    return;
  }
  // A flood of cancels for one statement is one cancel.
  constexpr int kCancelsAtOnce = 4;
  if (client->server == nullptr || client->server->pipeline.nothing_owed() ||
      client->server->cancels >= kCancelsAtOnce) {
    done();
    return;
  }
  metrics_->cancels_forwarded.add();
  send_cancel(*client->server, request.requester);
}

void Worker::send_cancel(Server& server, std::optional<ClientId> requester) {
  ++server.cancels;
  // It may finish in its constructor; cancel_finished() then finds it by its address.
  auto made = std::make_unique<Canceller>(*this, server, requester);
  if (made->is_finished()) {
    dead_cancellers_.push_back(std::move(made));
  } else {
    cancellers_.push_back(std::move(made));
  }
}

void Worker::cancel_finished(Canceller& canceller) {
  if (canceller.is_finished()) return;
  canceller.finish();
  for (auto& one : cancellers_) {
    if (one.get() != &canceller) continue;
    dead_cancellers_.push_back(std::move(one));
    std::swap(one, cancellers_.back());
    cancellers_.pop_back();
    break;
  }
  if (canceller.requester) {
    if (canceller.requester->worker == number_) {
      if (Client* requester = find(*canceller.requester)) requester->cancel_delivered();
    } else {
      shared_.workers[canceller.requester->worker]->post(CancelDelivered{*canceller.requester});
    }
  }
  Server* server = std::exchange(canceller.server, nullptr);
  if (server == nullptr) return;
  --server->cancels;
  if (server->cancels == 0 && server->client == nullptr && server->pipeline.idle() &&
      server->state == pool::ServerState::active && !server->is_reset_running())
    release(*server);
}

// --- time ------------------------------------------------------------------------------------------

void Worker::turn_end() {
  metrics_->loop_turns.add();
  const auto& counters = classifier_.counters();
  metrics_->classifier_hits.add(counters.hits - metrics_->classifier_hits.read());
  metrics_->classifier_misses.add(counters.misses - metrics_->classifier_misses.read());
  // Those with plaintext that the loop cannot see are served again before it sleeps.
  if (!again_.empty()) {
    again_now_.swap(again_);
    for (std::size_t i = 0; i < again_now_.size(); ++i)
      if (again_now_[i] != nullptr) again_now_[i]->on_readable();
    again_now_.clear();
    if (!again_.empty()) loop_.wake();
  }
  after_turn();
  bury();
}

// What could not be done while somebody was in the middle of something. Each may cause more of it.
void Worker::after_turn() {
  while (!broken_clients_.empty() || !broken_servers_.empty() || !released_servers_.empty() ||
         !failed_starts_.empty()) {
    for (const ClientId& id : std::exchange(broken_clients_, {}))
      if (Client* client = find(id)) retire(*client, ClientEnd::gone);
    for (const Server* server : std::exchange(broken_servers_, {}))
      if (is_alive(server)) servers_.at(server)->lose("the connection was closed while it was written to");
    for (const Server* server : std::exchange(released_servers_, {}))
      if (is_alive(server) && server->client == nullptr) settle(*servers_.at(server));
    for (const auto& [server, why] : std::exchange(failed_starts_, {}))
      if (is_alive(server))
        server_failed(*servers_.at(server), true, wire::sqlstate::kConnectionFailure, why);
  }
}

void Worker::bury() {
  // Destructors may retire others: the lists are swapped out before they are emptied.
  for (auto batch = std::exchange(dead_clients_, {}); auto& one : batch) one.reset();
  for (auto batch = std::exchange(dead_servers_, {}); auto& one : batch) one.reset();
  for (auto batch = std::exchange(dead_cancellers_, {}); auto& one : batch) one.reset();
}

void Worker::tick() {
  check_deadlines();
  retry_waiting();
  if (now() - last_slow_check_ >= kIdleTick) {
    last_slow_check_ = now();
    check_clients();
    check_servers();
    update_gauges();
  }
  const bool somebody_waits = !retry_.empty() || count(ClientState::waiting) > 0;
  if (busy_tick_ && !somebody_waits) {
    busy_tick_ = false;
    tick_.every(kIdleTick);
  }
}

// Clients that wait: for how long they may.
void Worker::check_deadlines() {
  const Instant at = now();
  std::vector<std::pair<Client*, pool::Refusal>> late;
  for (const ClientState state : {ClientState::waiting, ClientState::login})
    each_client(state, [&](Client& client) {
      if (client.waiting_for == WaitingFor::nothing) return;
      const auto waited = at - client.waiting_since;
      if (client.waiting_for == WaitingFor::node && waited > settings_->routing_primary_wait) {
        late.emplace_back(&client, pool::Refusal::no_primary);
      } else if (waited > settings_->pool_queue_timeout && client.server == nullptr) {
        late.emplace_back(&client, pool::Refusal::queue_timeout);
      }
    });
  for (const auto& [client, why] : late) {
    if (client->state() != ClientState::waiting && client->state() != ClientState::login) continue;
    stop_waiting(*client);
    if (std::exchange(client->admitted, false)) pool::leave(*client->tenant);
    if (why == pool::Refusal::no_primary) {
      client->refuse(why, wire::sqlstate::kCannotConnectNow,
                     "no primary is known at the moment (waited " +
                         conf::print(settings_->routing_primary_wait) + ")",
                     Millis(500 + static_cast<std::int64_t>(random_() % 500)));
    } else {
      client->refuse(why, wire::sqlstate::kQueryCanceled,
                     "canceled after waiting " + conf::print(settings_->pool_queue_timeout) +
                         " for a server connection (pool.queue_timeout)",
                     Millis(100 + static_cast<std::int64_t>(random_() % 100)));
    }
    client->refuse_waiting();
  }
  // Pools with waiters whose connections failed, or whose budget has room again.
  for (const auto& [key, identity] : identities_)
    for (const auto& its_pool : identity->pools)
      if (its_pool && its_pool->waiting() > 0) open_servers(*identity, *its_pool);
}

void Worker::check_clients() {
  const Instant at = now();
  struct Verdict {
    Client* client;
    ClientEnd end;
  };
  std::vector<Verdict> verdicts;
  const auto look = [&](ClientState state, auto&& judge) {
    each_client(state, [&](Client& client) {
      if (const std::optional<ClientEnd> end = judge(client)) verdicts.push_back({&client, *end});
    });
  };
  look(ClientState::login, [&](Client& client) -> std::optional<ClientEnd> {
    if (client.login() != nullptr) client.login()->ask_again();
    if (at - client.connected_at() > settings_->listen_login_timeout)
      return ClientEnd::login_timeout;
    return std::nullopt;
  });
  const auto slow = [&](const Client& client) {
    return client.unsent() > 0 && at - client.unsent_since() > settings_->limits_slow_reader_timeout;
  };
  look(ClientState::active, [&](Client& client) -> std::optional<ClientEnd> {
    if (slow(client)) return ClientEnd::slow_reader;
    if (client.input_ended() && at - client.quiet_since() > settings_->pool_cleanup_timeout)
      return ClientEnd::gone;
    const bool idle_in_transaction = client.server != nullptr && client.server->pipeline.idle() &&
                                     client.server->status != 'I';
    if (idle_in_transaction && settings_->pool_idle_transaction_timeout.count() > 0 &&
        at - client.quiet_since() > settings_->pool_idle_transaction_timeout)
      return ClientEnd::idle_transaction_timeout;
    return std::nullopt;
  });
  // There may be very many of these.
  if (at - last_idle_check_ >= 1s) {
    last_idle_check_ = at;
    for (const ClientState state : {ClientState::idle, ClientState::waiting, ClientState::console})
      look(state, [&](Client& client) -> std::optional<ClientEnd> {
        if (slow(client)) return ClientEnd::slow_reader;
        if (state == ClientState::idle && settings_->pool_client_idle_timeout.count() > 0 &&
            at - client.quiet_since() > settings_->pool_client_idle_timeout)
          return ClientEnd::idle_timeout;
        return std::nullopt;
      });
  }
  for (const Verdict& verdict : verdicts) {
    Client& client = *verdict.client;
    if (client.state() == ClientState::closing) continue;
    switch (verdict.end) {
      case ClientEnd::login_timeout:
        metrics_->login_failures.add();
        client.fatal(verdict.end, wire::sqlstate::kProtocolViolation,
                     "login took longer than " + conf::print(settings_->listen_login_timeout) +
                         " (listen.login_timeout)");
        break;
      case ClientEnd::idle_transaction_timeout:
        client.fatal(verdict.end, "25P03",
                     "terminating connection due to idle-in-transaction timeout "
                     "(pool.idle_transaction_timeout)");
        break;
      case ClientEnd::idle_timeout:
        client.fatal(verdict.end, "57P05",
                     "terminating connection due to idle-session timeout (pool.client_idle_timeout)");
        break;
      default: retire(client, verdict.end); break;
    }
  }
}

void Worker::check_servers() {
  const Instant at = now();
  std::vector<std::pair<Server*, ServerEnd>> ends;
  for (const auto& [server, owner] : servers_) {
    switch (server->state) {
      case pool::ServerState::connecting:
        if (at - server->connected_at > settings_->pool_connect_timeout)
          ends.emplace_back(owner.get(), ServerEnd::connect_failed);
        break;
      case pool::ServerState::idle:
        if (at - server->connected_at > server->lifetime)
          ends.emplace_back(owner.get(), ServerEnd::lifetime);
        else if (at - server->idle_since > settings_->pool_server_idle_timeout)
          ends.emplace_back(owner.get(), ServerEnd::idle_too_long);
        else if (server->home->budget().open() > server->home->budget().limit())
          ends.emplace_back(owner.get(), ServerEnd::surplus);
        break;
      case pool::ServerState::active:
        if (server->is_reset_running() && at - server->reset_since() > settings_->pool_cleanup_timeout)
          ends.emplace_back(owner.get(), ServerEnd::reset_failed);
        break;
      case pool::ServerState::closing: break;
    }
  }
  for (const auto& [server, why] : ends) {
    // An earlier one's end may have put this one to use.
    if (server->state == pool::ServerState::closing ||
        (server->state == pool::ServerState::active && !server->is_reset_running()))
      continue;
    if (why == ServerEnd::connect_failed) {
      server_failed(*server, true, wire::sqlstate::kConnectionFailure,
                    "connecting to " + server->node_name() + " took longer than " +
                        conf::print(settings_->pool_connect_timeout) + " (pool.connect_timeout)");
    } else if (why != ServerEnd::surplus ||
               server->home->budget().open() > server->home->budget().limit()) {
      retire(*server, why);
    }
  }
  std::vector<Canceller*> overdue;
  for (const auto& canceller : cancellers_)
    if (at - canceller->started > 5s) overdue.push_back(canceller.get());
  for (Canceller* canceller : overdue) {
    // Where it is now nobody knows: the server that it may still hit goes with it.
    Server* aim = std::exchange(canceller->server, nullptr);
    cancel_finished(*canceller);
    if (aim == nullptr) continue;
    --aim->cancels;
    aim->lifetime = Millis(0);  // its client may go on with it, nobody else
    if (aim->client == nullptr) retire(*aim, ServerEnd::cancel_failed);
  }
}

void Worker::update_gauges() {
  metrics_->clients_idle.set(static_cast<std::int64_t>(count(ClientState::idle)));
  metrics_->clients_active.set(static_cast<std::int64_t>(count(ClientState::active)));
  metrics_->clients_waiting.set(static_cast<std::int64_t>(count(ClientState::waiting)));
  std::int64_t idle = 0, active = 0, connecting = 0;
  for (const auto& [key, identity] : identities_)
    for (const auto& its_pool : identity->pools) {
      if (!its_pool) continue;
      its_pool->budget().report(
          number_, {static_cast<std::int64_t>(its_pool->count(pool::ServerState::active)),
                    static_cast<std::int64_t>(its_pool->waiting())});
      idle += static_cast<std::int64_t>(its_pool->count(pool::ServerState::idle));
      active += static_cast<std::int64_t>(its_pool->count(pool::ServerState::active));
      connecting += static_cast<std::int64_t>(its_pool->count(pool::ServerState::connecting));
    }
  metrics_->servers_idle.set(idle);
  metrics_->servers_active.set(active);
  metrics_->servers_connecting.set(connecting);
}

// --- news ------------------------------------------------------------------------------------------

void Worker::topology_changed(std::shared_ptr<const routing::Topology> topology) {
  topology_ = std::move(topology);
  for (const auto& [key, identity] : identities_) identity->state = topology_->find(identity->cluster);
  // After a switch nothing is left that could write to the old primary.
  std::vector<Server*> cut;
  for (const auto& [address, server] : servers_) {
    const routing::ClusterState* state = cluster(server->identity());
    const bool was_primary = server->was_primary;
    const bool other_primary = state != nullptr && state->primary && *state->primary != server->node_id();
    if (was_primary && other_primary) {
      cut.push_back(server.get());
    } else if (server->state == pool::ServerState::idle && stale(*server)) {
      cut.push_back(server.get());
    }
  }
  for (Server* server : cut) retire(*server, ServerEnd::node_changed, "the node is no longer the primary");
  // Whoever waits at a node that is down, or for what it no longer is, looks for another place.
  for (const auto& [key, identity] : identities_) {
    const routing::ClusterState* state = cluster(*identity);
    for (const auto& its_pool : identity->pools) {
      if (!its_pool || its_pool->waiting() == 0) continue;
      const routing::NodeState* node =
          state == nullptr ? nullptr : state->find(its_pool->key().node);
      const bool fit = node != nullptr && node->health == routing::NodeHealth::up &&
                       (state->primary == node->id || node->lag_ok);
      if (!fit) replace_waiters(*its_pool);
    }
  }
  retry_waiting();
}

void Worker::settings_changed(SettingsChanged&& message) {
  settings_ = std::move(message.settings);
  client_tls_ = std::move(message.client_tls);
  server_tls_ = std::move(message.server_tls);
  classifier_.set_limits(classifier_limits(*settings_));
  for (const auto& [key, identity] : identities_) configure(*identity);
}

void Worker::begin_drain() {
  draining_ = true;
  std::vector<Client*> idle;
  for (const ClientState state : {ClientState::login, ClientState::idle})
    each_client(state, [&idle](Client& client) { idle.push_back(&client); });
  for (Client* client : idle) {
    if (client->state() == ClientState::closing) continue;
    client->fatal(ClientEnd::draining, wire::sqlstate::kAdminShutdown,
                  "terminating connection: pgsluice is shutting down");
  }
  drain_step();
}

void Worker::drain_step() {
  if (drained_ || live_clients_ > count(ClientState::console)) return;
  drained_ = true;
  shared_.tell_control(WorkerDrained{number_});
}

void Worker::stop_now() {
  draining_ = true;
  std::vector<Client*> all;
  for (const Slot& slot : slots_)
    if (slot.client) all.push_back(slot.client.get());
  for (Client* client : all) {
    if (client->state() == ClientState::closing) continue;
    client->fatal(ClientEnd::shutdown, wire::sqlstate::kAdminShutdown,
                  "terminating connection: pgsluice is shutting down");
  }
  std::vector<Server*> servers;
  for (const auto& [server, owner] : servers_) servers.push_back(owner.get());
  for (Server* server : servers) retire(*server, ServerEnd::shutdown);
  for (const auto& canceller : cancellers_) canceller->close();
  loop_.stop();
}

}  // namespace proxy
