#include "proxy/worker.h"

#include <algorithm>
#include <utility>

#include <pthread.h>

#include "proxy/cancel.h"
#include "proxy/client_login.h"
#include "proxy/log.h"
#include "proxy/overloaded.h"
#include "proxy/random.h"
#include "proxy/wire/sqlstate.h"

namespace proxy {
namespace {

// Bits of the first word of a cancel key: process, worker, slot; the sign stays clear.
constexpr unsigned kSlotBits = 20, kWorkerBits = 6;

// So many beyond listen.clients_per_address are heard, and hear why they are refused: a client at the limit
// can send its cancels. The rest is closed at once, so that silence costs nobody a place.
constexpr std::int64_t kBeyondAddress = 16;

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
      scopes_(std::make_shared<const routing::Scopes>()),
      metrics_(std::make_unique<metrics::WorkerMetrics>()),
      mailbox_(loop_, [this](WorkerMessage&& message) { receive(std::move(message)); }),
      tick_(loop_, [this] { tick(); }),
      classifier_(classifier_limits(*settings_)),
      digests_(static_cast<std::size_t>(settings_->digest_entries)),
      random_(random_u32()),
      read_buffer_(std::make_unique<char[]>(kReadBuffer)),
      results_(0),
      started_mode_(settings_->pool_mode) {
  classes_ = shared_.classes.table();
  special_classes_ = classes_->counted;
  use_rules();
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
  // For top -H and the like.
  pthread_setname_np(pthread_self(), ("worker" + std::to_string(number_)).c_str());
  tick_.every(kIdleTick);
  last_tick_ = now();
  results_.set_limit(cache_room());
  meet_configured_users();
  loop_.run();
  bury();
}

void Worker::receive(WorkerMessage&& message) {
  if (stopped_) return;  // a client or a server that comes now goes with the message
  std::visit(
      Overloaded{
          [this](NewClient& m) { take_client(std::move(m)); },
          [this](SettingsChanged& m) { settings_changed(std::move(m)); },
          [this](TopologyChanged& m) { topology_changed(std::move(m.topology)); },
          [this](ScopesChanged& m) {
            scopes_ = std::move(m.scopes);
            bool same = true;
            for (const auto& [key, identity] : identities_) {
              const auto before = std::exchange(identity->scope, scope_of(identity->cluster, identity->dbname));
              same &= identity->scope == before;
            }
            if (!same) forget_answers();
          },
          [this](Redefined& m) { forget_older(m); },
          [this](CancelClient& m) { cancel(m); },
          [this](CancelDelivered& m) {
            if (Client* client = find(m.requester)) client->cancel_delivered();
          },
          [this](ServerHandover& m) { take_server(std::move(m)); },
          [this](Starving& m) { feed_others(m.key); },
          [this](RoomWanted& m) { give_room(m); },
          [this](DatabaseWanted& m) { leave_database(m); },
          [this](DescriptorWanted&) { give_descriptor(); },
          [this](SecretFound& m) {
            if (Client* client = find(m.client)) client->secret_found(std::move(m.secret));
          },
          [this](ConsoleAsk& m) { answer_console(std::move(m)); },
          [this](ConsoleAnswer& m) {
            if (Client* client = find(m.client)) client->console_answer(m.messages);
          },
          [this](OrdersChanged& m) { orders_changed(std::move(m)); },
          [this](KillClient& m) {
            Client* client = find(m.client);
            if (client != nullptr) kill_client(*client);
            shared_.tell_control(OrdersObeyed{m.ticket, client == nullptr ? 0U : 1U});
          },
          [this](BeginDrain& m) { begin_drain(m.handed_over); },
          [](Nudge&) {},
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
  const std::int64_t per_address = settings_->listen_clients_per_address;
  const bool crowd = per_address > 0 && message.of_its_address > per_address + kBeyondAddress;
  if (crowd) refusal(pool::Refusal::too_many_clients_of_address);
  if (crowd || (free_slots_.empty() && slots_.size() >= (std::size_t{1} << kSlotBits))) {
    metrics_->clients_closed.add();
    metrics_->client_closes.add(ClientEnd::too_many_clients);
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
      ClientId{static_cast<std::uint16_t>(number_), number, slot.generation}, std::move(message));
  if (message.only_console) slot.client->login()->let_in_only_console();
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
  if (ClientList* list = list_of(from)) {
    list->remove(client);
    if (from == ClientState::waiting) --client.identity->waiting;
  }
  if (ClientList* list = list_of(to)) {
    list->push_back(client);
    if (to == ClientState::waiting) ++client.identity->waiting;
  }
}

void Worker::client_opened(Client& client, const std::string& peer) {
  if (settings_->log_connections)
    log_info(client.who() + " peer=" + peer + " tenant=" + client.tenant->name + " opened");
}

std::uint32_t Worker::new_cancel_secret() { return random_u32(); }

CancelKey Worker::cancel_key(const Client& client) const {
  return {.pid = cancel_pid(shared_, client.id()),
          .secret = client.cancel_secret,
          .is_long = client.long_cancel_key};
}

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
  if (client.state() == ClientState::console) shared_.tell_control(ConsoleCanceled{client.id(), true});
  stop_waiting(client);
  if (client.retry) retry_ended(client, false);
  client.move_to(ClientState::closing);
  if (client.batch_extras) client.batch_extras = nullptr;
  if (Server* server = client.server) {
    if (server->flight != nullptr) [[unlikely]] end_flight(*server, Apart::no);
    const bool pinned = routing::any(client.pins);
    const bool keeps_session = client.identity->mode == conf::PoolMode::session;
    const bool half_sent = client.streaming();
    server->undo_tentative();
    part(client, *server);
    if (server->state == pool::ServerState::closing) {
      // it is the one that ends us
    } else if (!server->only_ours() || half_sent) {
      // What it has used so far is paid for, although nobody will hear the end.
      if (!server->in_flight.empty()) charge(*client.tenant, now() - server->in_flight.front().sent);
      if (!server->pipeline.nothing_owed()) send_cancel(*server, std::nullopt);
      retire(*server, ServerEnd::client_vanished);
    } else if ((server->status != 'I' || pinned || keeps_session) && !server->uncertain()) {
      server->reset();
    } else if (server->status != 'I') {
      retire(*server, ServerEnd::client_vanished);
    } else if (server->pipeline.idle()) {
      settle(*server);
    } else {
      server->reset();  // we have asked it something, and it has a deadline now
    }
  } else if (client.admitted) {
    pool::leave(*client.tenant);
    client.admitted = false;
  }
  if (client.counted) {
    client.identity->database_clients->give_back();
    client.identity->user_clients->give_back();
  }
  if (client.identity != nullptr) --client.identity->clients;
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

// --- cancels ---------------------------------------------------------------------------------------

void Worker::cancel(const CancelClient& request) {
  const std::uint32_t process = request.pid >> (kSlotBits + kWorkerBits);
  const std::size_t worker = request.pid >> kSlotBits & ((1U << kWorkerBits) - 1);
  const std::uint32_t slot = request.pid & ((1U << kSlotBits) - 1);
  const auto done = [&] { cancel_delivered(request.requester); };
  if (process != (shared_.process & 31U)) {
    shared_.tell_control(CancelElsewhere{request});
    return;
  }
  if (worker >= shared_.workers.size()) {
    done();
    return;
  }
  if (worker != number_) {
    shared_.workers[worker]->post(request);
    return;
  }
  Client* client = slot < slots_.size() ? slots_[slot].client.get() : nullptr;
  if (client == nullptr || client->state() == ClientState::closing ||
      client->state() == ClientState::login ||
      !is_cancel_key(request.key, cancel_key(*client), shared_.cancel_secret)) {
    done();
    return;
  }
  if (client->state() == ClientState::console) {
    shared_.tell_control(ConsoleCanceled{client->id(), false});
    done();
    return;
  }
  if (client->state() == ClientState::waiting && client->server == nullptr) {
    stop_waiting(*client);
    if (std::exchange(client->admitted, false)) pool::leave(*client->tenant);
    refuse_canceled(*client);
    done();
    return;
  }
  // A flood of cancels for one statement is one cancel.
  constexpr int kCancelsAtOnce = 4;
  Server* server = client->server;
  if (server == nullptr || server->cancels >= kCancelsAtOnce) {
    done();
  } else if (server->pipeline.query_of_ours()) {
    // Its settings are being restored: without them the statement would run as another, or not at all.
    ++server->cancels;
    server->held_cancels.push_back(request.requester);
  } else if (server->only_ours() || server->pipeline.nothing_owed()) {
    done();
  } else {
    metrics_->cancels_forwarded.add();
    send_cancel(*server, request.requester);
  }
}

void Worker::refuse_canceled(Client& client) {
  client.refuse(pool::Refusal::canceled, wire::sqlstate::kQueryCanceled, "canceling statement due to user request");
  client.refuse_waiting();
}

void Worker::send_held_cancels(Server& server) {
  if (server.pipeline.query_of_ours()) return;
  const bool too_late = server.client == nullptr || server.only_ours() || server.pipeline.nothing_owed();
  for (const ClientId& requester : std::exchange(server.held_cancels, {})) {
    --server.cancels;
    if (too_late) {
      cancel_delivered(requester);
    } else {
      metrics_->cancels_forwarded.add();
      send_cancel(server, requester);
    }
  }
  release_if_free(server);
}

void Worker::cancel_delivered(const ClientId& requester) {
  if (requester.worker == number_) {
    if (Client* client = find(requester)) client->cancel_delivered();
  } else if (requester.worker == kElsewhere) {
    shared_.tell_control(CancelDelivered{requester});
  } else {
    shared_.workers[requester.worker]->post(CancelDelivered{requester});
  }
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
  if (canceller.requester) cancel_delivered(*canceller.requester);
  Server* server = std::exchange(canceller.server, nullptr);
  if (server == nullptr) return;
  --server->cancels;
  release_if_free(*server);
}

void Worker::release_if_free(Server& server) {
  if (server.cancels == 0 && server.client == nullptr && server.pipeline.idle() &&
      server.state == pool::ServerState::active && !server.is_reset_running())
    release(server);
}

// --- news ------------------------------------------------------------------------------------------

namespace {

// Which node is the primary, and in which of its lives; none while there is none.
std::optional<std::pair<routing::NodeId, std::uint64_t>> life_of_primary(const routing::ClusterState* state) {
  const routing::NodeState* node = state == nullptr || !state->primary ? nullptr : state->find(*state->primary);
  if (node == nullptr) return std::nullopt;
  return std::pair{node->id, node->incarnation};
}

}  // namespace

void Worker::topology_changed(std::shared_ptr<const routing::Topology> topology) {
  const auto before = std::exchange(topology_, std::move(topology));
  compare_primaries(*before);
  map_nodes();
  for (const auto& [key, identity] : identities_) {
    const routing::ClusterState* const was = std::exchange(identity->state, topology_->find(identity->cluster));
    // Another primary, or one that has been started anew, may be of another version and have other defaults.
    if (life_of_primary(was) != life_of_primary(identity->state)) identity->welcomes.clear();
  }
  // After a switch nothing is left that could write to the old primary.
  std::vector<std::pair<Server*, ServerEnd>> cut;
  for (const auto& [address, server] : servers_) {
    const routing::ClusterState* state = cluster(server->identity());
    const bool was_primary = server->was_primary;
    const bool other_primary = state != nullptr && state->primary && *state->primary != server->node_id();
    if (was_primary && other_primary) {
      cut.emplace_back(server.get(), ServerEnd::node_changed);
    } else if (server->state == pool::ServerState::idle && stale(*server)) {
      cut.emplace_back(server.get(), why_stale(*server));
    }
  }
  for (const auto& [server, why] : cut) retire(*server, why, "the node is no longer the primary");
  // Whoever waits at a node that is down, or for what it no longer is, looks for another place.
  for (const auto& [key, identity] : identities_) {
    const routing::ClusterState* state = cluster(*identity);
    for (const auto& its_pool : identity->pools) {
      if (!its_pool || its_pool->waiting() == 0) continue;
      const routing::NodeState* node =
          state == nullptr ? nullptr : state->find(its_pool->key().node);
      const bool fit = node != nullptr && node->health == routing::NodeHealth::up && !node->drained &&
                       (state->primary == node->id || state->serves_reads(*node));
      if (!fit) replace_waiters(*its_pool);
    }
  }
  watch_stalled();
  retry_waiting();
}

void Worker::settings_changed(SettingsChanged&& message) {
  settings_ = std::move(message.settings);
  classes_ = shared_.classes.table();
  protect();
  map_nodes();
  client_tls_ = std::move(message.client_tls);
  server_tls_ = std::move(message.server_tls);
  classifier_.set_limits(classifier_limits(*settings_));
  digests_.resize(static_cast<std::size_t>(settings_->digest_entries));
  results_.set_limit(cache_room());
  forget_answers();
  for (const auto& [key, identity] : identities_) configure(*identity);
  use_rules();
  meet_configured_users();
}

// Whoever came shortly before the hand-over came to a server that serves: it is told later, when it is idle.
bool Worker::may_stay(const Client& client) {
  return handed_over_ && now() - client.connected_at() < kJustCame;
}

void Worker::begin_drain(bool handed_over) {
  draining_ = true;
  handed_over_ = handed_over;
  std::vector<Client*> idle;
  if (!handed_over)
    each_client(ClientState::login, [&idle](Client& client) {
      if (!client.login()->may_be_console()) idle.push_back(&client);
    });
  // A statement that has arrived already is still answered.
  each_client(ClientState::idle, [&](Client& client) {
    if (!may_stay(client) && !client.held && !client.socket().has_input()) idle.push_back(&client);
  });
  // Nothing of theirs has begun, and nobody knows when it might.
  each_client(ClientState::waiting, [&idle](Client& client) {
    if (client.waiting_for == WaitingFor::resume) idle.push_back(&client);
  });
  for (Client* client : idle) {
    if (client->state() == ClientState::closing) continue;
    client->fatal(ClientEnd::draining, wire::sqlstate::kAdminShutdown,
                  "terminating connection: pgsluice is shutting down");
  }
  drain_step();
}

void Worker::drain_step() {
  if (drained_ || live_clients_ > count(ClientState::console) + count(ClientState::login)) return;
  // Nobody waits for those who have not said what they want; after a hand-over they are served.
  bool somebody = false;
  each_client(ClientState::login, [this, &somebody](Client& client) {
    somebody |= handed_over_ || client.login() == nullptr || !client.login()->may_be_console();
  });
  if (somebody) return;
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
  stopped_ = true;
  loop_.stop();
}

}  // namespace proxy
