#include "proxy/worker.h"

#include <utility>

#include "proxy/cancel.h"
#include "proxy/client_login.h"
#include "proxy/log.h"
#include "proxy/wire/sqlstate.h"

// What happens because time has passed.
namespace proxy {

using conf::Instant;
using conf::Millis;
using namespace std::chrono_literals;

void Worker::turn_end() {
  metrics_->loop_turns.add();
  const auto& counters = classifier_.counters();
  metrics_->classifier_hits.add(counters.hits - metrics_->classifier_hits.read());
  metrics_->classifier_misses.add(counters.misses - metrics_->classifier_misses.read());
  metrics_->digest_evictions.add(digests_.evictions() - metrics_->digest_evictions.read());
  resume_logins();
  // Those with plaintext that the loop cannot see are served again before it sleeps.
  if (!again_.empty()) {
    again_now_.swap(again_);
    for (std::size_t i = 0; i < again_now_.size(); ++i)
      if (again_now_[i] != nullptr) again_now_[i]->on_readable();
    again_now_.clear();
    if (!again_.empty()) loop_.wake();
  }
  if (std::exchange(room_made_, false)) use_room();
  do {
    outbox_.flush();
    after_turn();
  } while (!outbox_.empty());
  bury();
  if (std::exchange(sweep_due_, false)) forget_unused_identities(false);
}

// Those whose turn has not come, the oldest first. Whoever comes while they are not through waits behind them.
void Worker::resume_logins() {
  login_share_.begin_turn();
  while (!deferred_logins_.empty() && !login_share_.is_used_up()) {
    const ClientId id = deferred_logins_.front();
    deferred_logins_.pop_front();
    if (Client* const client = find(id)) client->log_in_again();
  }
  if (!deferred_logins_.empty()) loop_.wake();
}

// What could not be done while somebody was in the middle of something. Each may cause more of it.
void Worker::after_turn() {
  while (!broken_clients_.empty() || !broken_servers_.empty() || !released_servers_.empty() ||
         !failed_starts_.empty() || !late_pools_.empty()) {
    for (const ClientId& id : std::exchange(broken_clients_, {}))
      if (Client* client = find(id)) retire(*client, ClientEnd::gone);
    for (const Server* server : std::exchange(broken_servers_, {}))
      if (is_alive(server)) servers_.at(server)->lose("the connection was closed while it was written to");
    for (const Server* server : std::exchange(released_servers_, {}))
      if (is_alive(server) && server->client == nullptr) settle(*servers_.at(server));
    for (pool::Pool* its_pool : std::exchange(late_pools_, {})) refuse_late(*its_pool);
    for (const auto& [server, why] : std::exchange(failed_starts_, {}))
      // That we have no room for it is not the node's fault: those who wait for it go on waiting.
      if (const bool ours = why.code == conf::Errc::overloaded; is_alive(server))
        server_failed(*servers_.at(server), !ours,
                      ours ? wire::sqlstate::kInsufficientResources : wire::sqlstate::kConnectionFailure,
                      why.message);
  }
}

void Worker::bury() {
  // Destructors may retire others: the lists are swapped out before they are emptied.
  for (auto batch = std::exchange(dead_clients_, {}); auto& one : batch) one.reset();
  for (auto batch = std::exchange(dead_servers_, {}); auto& one : batch) one.reset();
  for (auto batch = std::exchange(dead_cancellers_, {}); auto& one : batch) one.reset();
  if (dead_identities_.empty()) return;
  dead_identities_.clear();
  shared_.budgets.forget_unused();
  shared_.database_clients.forget_unused();
  shared_.user_clients.forget_unused();
}

void Worker::tick() {
  const conf::Nanos late = now() - last_tick_ - (busy_tick_ ? kBusyTick : kIdleTick);
  last_tick_ = now();
  if (late.count() > loop_delay_.load(std::memory_order_relaxed))
    loop_delay_.store(late.count(), std::memory_order_relaxed);
  protect();
  sweep_queues();
  check_deadlines();
  retry_waiting();
  if (now() - last_slow_check_ >= kIdleTick) {
    check_clients();
    last_slow_check_ = now();
    check_servers();
    free_databases();
    fill_pools();
    if (nodes_stalling_) watch_stalled();
    update_gauges();
    results_.sweep(now());
    sweep_due_ = true;
  }
  const bool somebody_waits = !retry_.empty() || count(ClientState::waiting) > 0;
  if (busy_tick_ && !somebody_waits) {
    busy_tick_ = false;
    tick_.every(kIdleTick);
    last_tick_ = now();
  }
}

// Clients that wait: for how long they may.
void Worker::check_deadlines() {
  const Instant at = now();
  std::vector<std::pair<Client*, pool::Refusal>> late;
  std::vector<Server*> hung;
  std::vector<Client*> impatient;
  for (const ClientState state : {ClientState::waiting, ClientState::login})
    each_client(state, [&](Client& client) {
      if (client.waiting_for == WaitingFor::nothing) return;
      const auto waited = at - client.waiting_since;
      const Millis queue_timeout = client.identity->timeouts.queue;
      if (client.waiting_for == WaitingFor::resume) {
        if (settings_->pool_pause_timeout.count() > 0 && waited > settings_->pool_pause_timeout)
          late.emplace_back(&client, pool::Refusal::paused);
      } else if (client.waiting_for == WaitingFor::answer) {
        if (at - client.batch_extras->shared->joined_at > settings_->limits_shared_wait) impatient.push_back(&client);
      } else if (client.waiting_for == WaitingFor::node && waited > settings_->routing_primary_wait) {
        late.emplace_back(&client, pool::Refusal::no_primary);
      } else if (waited > queue_timeout && client.server == nullptr) {
        late.emplace_back(&client, pool::Refusal::queue_timeout);
      } else if (waited > queue_timeout + settings_->pool_connect_timeout && client.server != nullptr) {
        hung.push_back(client.server);  // its settings are being restored there
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
    } else if (why == pool::Refusal::paused) {
      client->refuse(why, wire::sqlstate::kQueryCanceled,
                     "canceled after waiting " + conf::print(settings_->pool_pause_timeout) +
                         " for the database to be resumed (pool.pause_timeout)");
    } else {
      client->refuse(why, wire::sqlstate::kQueryCanceled,
                     "canceled after waiting " + conf::print(client->identity->timeouts.queue) +
                         " for a server connection (pool.queue_timeout)",
                     Millis(100 + static_cast<std::int64_t>(random_() % 100)));
    }
    client->refuse_waiting();
  }
  for (Client* client : impatient)
    if (client->waiting_for == WaitingFor::answer) go_alone(*client);
  for (Server* server : hung)
    if (is_alive(server))
      retire(*server, ServerEnd::replay_failed, "restoring the session's settings took too long");
  // Pools with waiters whose connections failed, or whose budget has room again.
  const bool slow = at - last_slow_check_ >= kIdleTick;
  for (const auto& [key, identity] : identities_)
    for (const auto& its_pool : identity->pools) {
      if (!its_pool || its_pool->waiting() == 0) continue;
      if (classes_->counted != 0) serve_held_back(*its_pool);
      const auto full = open_servers(*identity, *its_pool);
      if (slow && full && *full != pool::ServerLimit::pool)
        want_room(*its_pool, *full, its_pool->budget().open() == 0);
    }
}

// When the statement that the server works on began; nothing while it works on none. Pipelined statements are
// sent together, and when each of them begins is not noted, because that would cost every statement: such
// a one is taken to begin at the last look at which another was in front, or none.
std::optional<Instant> Worker::running_since(Client& client, Server& server) {
  Server::Watch& watch = server.watch;
  if (server.in_flight.empty() || server.pipeline.nothing_owed()) {
    watch = {};
    return std::nullopt;
  }
  if (watch.client != client.id() || watch.statement != client.statements)
    watch = {.client = client.id(),
             .statement = client.statements,
             .since = std::max(server.in_flight.front().sent, last_slow_check_)};
  return watch.since;
}

// How long the statement that runs now may take; 0: for ever.
Millis Worker::query_limit(const Client& client, Server& server) const {
  const bool unruled = server.in_flight.empty() || settings_->routing_dry_run;
  const std::uint32_t own = unruled ? 0 : server.in_flight.front().query_timeout_ms;
  return own != 0 ? Millis(own) : client.identity->timeouts.query;
}

// A client that holds a server: has it held it for too long? Statements that take too long are noted in
// slow_servers_.
std::optional<ClientEnd> Worker::judge_running(Client& client, Server& server) {
  const Instant at = now();
  const Identity::TimeOuts& timeouts = client.identity->timeouts;
  const bool in_transaction = server.status != 'I';
  if (in_transaction && server.pipeline.idle() && timeouts.idle_transaction.count() > 0 &&
      at - client.quiet_since() > timeouts.idle_transaction)
    return ClientEnd::idle_transaction_timeout;
  const Millis query = query_limit(client, server);
  if (query.count() == 0 && timeouts.transaction.count() == 0) return std::nullopt;
  const std::optional<Instant> running = running_since(client, server);
  if (timeouts.transaction.count() > 0) {
    // As in Postgres 17, a single statement is a transaction too.
    const std::optional<Instant> since = in_transaction ? server.transaction_since
                                         : client.held  ? client.held->since
                                                        : running;
    if (since && at - *since > timeouts.transaction) return ClientEnd::transaction_timeout;
  }
  if (running && query.count() > 0 && at - *running > query) slow_servers_.push_back(&server);
  return std::nullopt;
}

void Worker::cancel_slow_queries() {
  const Instant at = now();
  for (Server* server : std::exchange(slow_servers_, {})) {
    if (!is_alive(server) || server->client == nullptr) continue;
    const Client& client = *server->client;
    const Millis limit = query_limit(client, *server);
    if (!std::exchange(server->watch.canceled, true)) {
      log_info(client.who() + " canceling its statement: query_timeout after " + conf::print(limit));
      send_cancel(*server, std::nullopt);
    } else if (at - server->watch.since > limit + settings_->pool_cancel_timeout) {
      retire(*server, ServerEnd::cancel_failed,
             "the server did not end a statement that was canceled after pool.query_timeout");
    }
  }
}

void Worker::check_clients() {
  const Instant at = now();
  struct Verdict {
    Client* client;
    ClientEnd end;
  };
  std::vector<Verdict> verdicts;
  // Many may be overdue together; the others are not to wait for all of their ends. The rest is for the next
  // look.
  constexpr std::size_t kEndsPerLook = 200;
  const auto look = [&](ClientState state, auto&& judge) {
    each_client(state, [&](Client& client) {
      if (verdicts.size() >= kEndsPerLook) return;
      if (const std::optional<ClientEnd> end = judge(client)) verdicts.push_back({&client, *end});
    });
  };
  look(ClientState::login, [&](Client& client) -> std::optional<ClientEnd> {
    if (client.login() != nullptr) client.login()->ask_again();
    // Who waits for a paused database has logged in as far as it can; its time begins when that ends.
    if (client.waiting_for != WaitingFor::resume &&
        at - std::max(client.connected_at(), client.waiting_since) > settings_->listen_login_timeout)
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
    return client.server == nullptr ? std::nullopt : judge_running(client, *client.server);
  });
  // Those who were left alone when the drain began.
  if (draining_)
    look(ClientState::idle, [&](Client& client) -> std::optional<ClientEnd> {
      if (may_stay(client) || client.held || client.socket().has_input()) return std::nullopt;
      return ClientEnd::draining;
    });
  // There may be very many of these.
  if (at - last_idle_check_ >= 1s) {
    last_idle_check_ = at;
    for (const ClientState state : {ClientState::idle, ClientState::waiting, ClientState::console})
      look(state, [&](Client& client) -> std::optional<ClientEnd> {
        if (slow(client)) return ClientEnd::slow_reader;
        if (state != ClientState::idle) return std::nullopt;
        const Identity::TimeOuts& timeouts = client.identity->timeouts;
        if (client.held) {
          if (timeouts.transaction.count() > 0 && at - client.held->since > timeouts.transaction)
            return ClientEnd::transaction_timeout;
          if (timeouts.idle_transaction.count() > 0 && at - client.quiet_since() > timeouts.idle_transaction)
            return ClientEnd::idle_transaction_timeout;
          return std::nullopt;
        }
        const Millis limit = timeouts.client_idle;
        if (limit.count() > 0 && at - client.quiet_since() > limit) return ClientEnd::idle_timeout;
        return std::nullopt;
      });
  }
  for (const Verdict& verdict : verdicts) {
    Client& client = *verdict.client;
    if (client.state() == ClientState::closing) continue;
    const std::string reason = "reason=" + std::string(name(verdict.end));
    switch (verdict.end) {
      case ClientEnd::login_timeout:
        metrics_->login_failures.add();
        client.fatal(verdict.end, wire::sqlstate::kProtocolViolation,
                     "login took longer than " + conf::print(settings_->listen_login_timeout) +
                         " (listen.login_timeout)",
                     reason);
        break;
      case ClientEnd::idle_transaction_timeout:
        client.fatal(verdict.end, wire::sqlstate::kIdleInTransactionSessionTimeout,
                     "terminating connection due to idle-in-transaction timeout "
                     "(pool.idle_transaction_timeout)",
                     reason);
        break;
      case ClientEnd::draining:
        client.fatal(verdict.end, wire::sqlstate::kAdminShutdown,
                     "terminating connection: pgsluice is shutting down");
        break;
      case ClientEnd::idle_timeout:
        client.fatal(verdict.end, wire::sqlstate::kIdleSessionTimeout,
                     "terminating connection due to idle-session timeout (pool.client_idle_timeout)",
                     reason);
        break;
      case ClientEnd::transaction_timeout:
        refusal(pool::Refusal::transaction_timeout);
        // In the middle of a message there is no place for another one.
        if (client.server != nullptr && client.server->mid_message()) {
          retire(client, verdict.end);
          break;
        }
        client.fatal(verdict.end, wire::sqlstate::kTransactionTimeout,
                     "terminating connection due to transaction timeout (pool.transaction_timeout)",
                     reason);
        break;
      default: retire(client, verdict.end); break;
    }
  }
  cancel_slow_queries();
}

void Worker::check_servers() {
  const Instant at = now();
  const auto surplus = [](const Server& server) {
    const pool::Budget& budget = server.home->budget();
    return budget.open() > budget.limit() || budget.shared_exceeded();
  };
  const auto spare = [](Server& server) {
    return server.home->budget().open() > server.identity().min_size;
  };
  std::vector<std::pair<Server*, ServerEnd>> ends;
  Server* busy_surplus = nullptr;
  for (const auto& [address, owner] : servers_) {
    Server& server = *owner;
    switch (server.state) {
      case pool::ServerState::connecting:
        if (at - server.connected_at > settings_->pool_connect_timeout)
          ends.emplace_back(&server, ServerEnd::connect_failed);
        break;
      case pool::ServerState::idle:
        if (at - server.connected_at > server.lifetime)
          ends.emplace_back(&server, server.doomed_by);
        else if (at - server.idle_since > server.identity().timeouts.server_idle && spare(server))
          ends.emplace_back(&server, ServerEnd::idle_too_long);
        else if (surplus(server))
          ends.emplace_back(&server, ServerEnd::surplus);
        break;
      case pool::ServerState::active:
        if (server.is_reset_running() && at - server.reset_since() > settings_->pool_cleanup_timeout)
          ends.emplace_back(&server, ServerEnd::reset_failed);
        else if (server.home->budget().shared_exceeded() && !server.doomed())
          busy_surplus = &server;
        break;
      case pool::ServerState::closing: break;
    }
  }
  for (const auto& [server, why] : ends) {
    // An earlier one's end may have put this one to use, or made it needed.
    if (server->state == pool::ServerState::closing ||
        (server->state == pool::ServerState::active && !server->is_reset_running()))
      continue;
    if ((why == ServerEnd::surplus && !surplus(*server)) ||
        (why == ServerEnd::idle_too_long && !spare(*server)))
      continue;
    if (why == ServerEnd::connect_failed) {
      server_failed(*server, true, wire::sqlstate::kConnectionFailure,
                    "connecting to " + server->node_name() + " took longer than " +
                        conf::print(settings_->pool_connect_timeout) + " (pool.connect_timeout)");
    } else {
      retire(*server, why);
    }
  }
  // One per look: those that are idle have gone first.
  if (busy_surplus != nullptr && is_alive(busy_surplus) && surplus(*busy_surplus))
    busy_surplus->doom(ServerEnd::surplus);
  std::vector<Canceller*> overdue;
  for (const auto& canceller : cancellers_)
    if (at - canceller->started > settings_->pool_cancel_timeout) overdue.push_back(canceller.get());
  for (Canceller* canceller : overdue) {
    // Where it is now nobody knows: the server that it may still hit goes with it.
    Server* aim = std::exchange(canceller->server, nullptr);
    cancel_finished(*canceller);
    if (aim == nullptr) continue;
    --aim->cancels;
    aim->doom(ServerEnd::cancel_failed);  // its client may go on with it, nobody else
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
      its_pool->budget().recover(now(), settings_->pool_cap_recovery);
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

void Worker::hurry() {
  if (std::exchange(busy_tick_, true)) return;
  tick_.every(kBusyTick);
  last_tick_ = now();
}

}  // namespace proxy
