#include "proxy/worker.h"

#include <algorithm>
#include <utility>

#include "conf/check.h"
#include "proxy/cancel.h"
#include "proxy/log.h"
#include "proxy/relay.h"
#include "proxy/wire/sqlstate.h"
#include "routing/chooser.h"

// What the end of a statement, or of a server, means.
namespace proxy {

using conf::Instant;

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
    server.transaction_since = at;
    client->session->end_transaction(committed);
    server.session.end_transaction(committed);
    client->settings_changed();
  }
  if (!in_transaction) {
    metrics_->transactions.add();
  } else if (old_status == 'I') {
    server.transaction_since = done.sent;
  }
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
  if (!was_open) --connecting_[routing::index(server.node_id())];
  pool::Pool& its_pool = *server.home;
  Identity& identity = server.identity();
  const bool surprising = why == ServerEnd::lost || why == ServerEnd::unexpected_message ||
                          why == ServerEnd::replay_failed || why == ServerEnd::reset_failed ||
                          why == ServerEnd::cancel_failed;
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

}  // namespace proxy
