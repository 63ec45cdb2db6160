#include "proxy/worker.h"

#include <algorithm>
#include <utility>

#include "conf/check.h"
#include "proxy/cancel.h"
#include "proxy/link.h"
#include "proxy/log.h"
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
  if (!done.digests.empty())
    digests_.count(done.digests, {at - done.sent, done.rows, done.failed, client->tenant->number});
  ++client->statements;
  if (client->retry) [[unlikely]] retry_ended(*client, !done.failed);
  if (done.sent != done.arrived) client->tenant->observe_cost(at - done.sent);  // it had to wait
  charge(*client->tenant, at - done.sent);
  const auto server_us = std::chrono::duration_cast<conf::Micros>(at - done.sent).count();
  // The first statement of a server pays for Postgres's cold caches; it says nothing about the node.
  const bool warm = std::exchange(server.is_warm, true);
  if (warm && done.kind <= routing::StatementClass::read && routing::BatchFacts::is_of_one(done.digest)) {
    const auto us =
        static_cast<std::uint32_t>(std::clamp<std::int64_t>(server_us, 1, std::int64_t{0x7fffffff}));
    const std::uint32_t relative = baselines_.relative(static_cast<std::uint32_t>(done.digest), us);
    shared_.loads[routing::index(server.node_id())].observe(relative, us);
  }
  if (settings_->log_slow_statement.count() > 0 && at - done.arrived > settings_->log_slow_statement)
    log_info(client->who() + " slow statement class=" + std::string(name(done.kind)) +
             " node=" + server.node_name() + " server_us=" + std::to_string(server_us) +
             " queue_us=" +
             std::to_string(std::chrono::duration_cast<conf::Micros>(done.sent - done.arrived).count()));

  const bool in_transaction = server.status != 'I';
  if (done.changes) apply_changes(server, *client, done, old_status);
  const bool ended = old_status != 'I' &&
                     (!in_transaction || done.step == routing::TransactionStep::chained_end);
  if (old_status != 'I' && done.sent > server.ready_at)
    statements.idle_nanos.add(static_cast<std::uint64_t>((done.sent - server.ready_at).count()));
  if (ended) server.transaction_since = at;
  if (ended && !(done.changes && !done.failed)) {
    client->session->end_transaction(committed);
    server.session.end_transaction(committed);
    client->settings_changed();
  }
  if (in_transaction) {
    statements.left_open.add();
    server.ready_at = at;
    if (old_status == 'I') server.transaction_since = done.sent;
  } else if (client->held) {
    statements.left_open.add();
  } else {
    metrics_->transactions.add();
  }
  if (done.unpins && !done.failed) client->pins = client->pins_in_doubt = routing::Pin::none;
  if (done.deallocates && done.failed) server.statements_are_uncertain();
  if (done.deallocates && !done.failed) {
    if (client->prepared) client->prepared->clear();
    server.statements.clear();
  }
  if (routing::any(done.pins) || routing::any(done.may_unpin)) conclude_pins(server, *client, done, old_status);

  server.must_reset |= done.unread;  // a text that nobody has read
  if (done.kind == routing::StatementClass::ddl && !done.failed) {
    client->redefined = true;
    shared_.tell_control(SchemaChanged{client->identity->cluster});
  }
  if (done.executes) {
    client->wrote |= done.kind >= routing::StatementClass::write;
    client->looked |= done.looks;
    if (!in_transaction) note_floor(server, *client);
  }
  if (done.extras) [[unlikely]] land(*client, *done.extras);
}

// A transaction has ended, or its server is lost: what the session's next reads must not be older than.
void Worker::note_floor(const Server& server, Client& client) {
  const bool wrote = std::exchange(client.wrote, false), looked = std::exchange(client.looked, false);
  const routing::ClusterState* state = cluster(*client.identity);
  if (state == nullptr || !state->samples_sent) return;
  // What a rule let read older data says nothing of how new the session's own view is.
  routing::SessionState room;
  const conf::Consistency consistency = routing::seen_by(client.batch, client.route_state, room).consistency;
  const bool counts_looks = consistency != conf::Consistency::eventual;
  if (server.role == routing::NodeRole::replica) {
    if (looked && counts_looks)
      client.route_state.floor.read_at(
          server.node_id(), server.incarnation(),
          (*state->probes_sent)[routing::index(server.node_id())].load());
    return;
  }
  // Sample number `sent + 1` is sent after this answer was read: it is at or past what was committed or seen.
  const std::uint64_t sent = state->samples_sent->load();
  const bool counts_writes = consistency != conf::Consistency::monotonic && consistency != conf::Consistency::token;
  if ((wrote && counts_writes) || (looked && counts_looks)) client.route_state.floor.raise(sent);
  if (!wrote) return;
  client.tenant->wrote(client.identity->written_at, sent + 1);
  if (client.redefined) [[unlikely]] tell_redefined(client, sent + 1);
}

// What the batch's statements did to the session's settings and to the names of statements.
void Worker::apply_changes(Server& server, Client& client, const InFlight& done, char old_status) {
  const auto& changes = *done.changes;
  bool sets = false, saves = false, controls = false;
  for (const auto& facts : changes)
    for (const routing::SettingChange& change : facts->settings) {
      sets |= !change.is_control();
      controls |= change.is_control();
      saves |= change.what == routing::SettingChange::What::savepoint;
    }
  if (client.prepared) {
    if (done.failed) client.prepared->put_back_deallocated();
    client.prepared->deallocated.clear();
  }
  if (done.failed && done.gives_away) server.statements_are_uncertain();
  if (done.failed) {
    // How far it came, and so what a rollback undoes, only this server knows.
    if (saves || (controls && sets)) pin(client, routing::Pin::session_setting);
    return;
  }
  // Only a first statement that ends it, or goes back in it, can succeed in a failed transaction.
  bool aborted = old_status == 'E';
  for (const auto& facts : changes) {
    if (!facts->settings.empty()) {
      aborted &= facts->settings.front().is_control();
      client.session->apply(facts->settings, aborted, interner_);
      server.session.apply(facts->settings, aborted, interner_);
      aborted = false;
      for (const routing::SettingChange& change : facts->settings)
        if (change.name == "pgsluice.lsn" && change.what == routing::SettingChange::What::set)
          client.take_token(change.value);
    }
    for (const std::string& name : facts->prepares_names) client.preparing().put(name, {});
  }
  if (server.status == 'I') {
    client.session->end_transaction(true);
    server.session.end_transaction(true);
  }
  client.settings_changed();
}

// Pins that the batch made, and those that it may have ended.
void Worker::conclude_pins(Server& server, Client& client, const InFlight& done, char old_status) {
  // None of it ran, unless it began with the transaction's end.
  if (done.failed && old_status == 'E' && done.step == routing::TransactionStep::none) return;
  // What is not undone by a rollback is there although a later statement of the batch failed; and where
  // the batch ended a transaction itself, nobody knows what was.
  constexpr routing::Pin lasting = routing::Pin::advisory_lock | routing::Pin::sql_prepare |
                                   routing::Pin::load | routing::Pin::session_function;
  const bool ends = done.step != routing::TransactionStep::none;
  const routing::Pin made = !done.failed || ends ? done.pins : done.pins & lasting;
  if (routing::any(made)) pin(client, made);
  // A transaction that made a pin may have undone it at its end, and a lock that was tried may not have
  // been had.
  const bool uncertain = done.failed || ends || server.status != 'I';
  const routing::Pin doubt =
      done.may_unpin | (uncertain ? made : made & routing::Pin::advisory_lock);
  client.pins_in_doubt |= doubt & client.pins & Server::kProvable;
}

void Worker::pin(Client& client, routing::Pin pins) {
  const auto fresh = static_cast<unsigned>(pins) & ~static_cast<unsigned>(client.pins);
  for (std::size_t bit = 0; bit < 16; ++bit)
    if ((fresh >> bit & 1U) != 0) metrics_->pins.add(bit);
  client.pins |= pins;
}

void Worker::unpin(Client& client, routing::Pin gone) {
  gone = gone & client.pins;
  for (std::size_t bit = 0; bit < routing::kPins; ++bit)
    if ((static_cast<unsigned>(gone) >> bit & 1U) != 0) metrics_->unpins.add(bit);
  client.pins = client.pins & ~gone;
  if (routing::any(gone & routing::Pin::sql_prepare) && client.prepared) client.prepared->erase_sql();
}

void Worker::settle(Server& server) {
  if (server.must_reset && !server.uncertain()) {
    server.reset();
  } else {
    release(server);
  }
}

// A batch has changed the session.
void Worker::settle_session(Client& client, Server& server) {
  if (server.status == 'E') return;  // its end decides
  const bool in_transaction = server.status != 'I';
  if (!in_transaction && client.prepared) client.prepared->portals = nullptr;
  client.unsettled = in_transaction && (routing::any(client.pins_in_doubt) ||
                                        (client.prepared && client.prepared->portals));
  if (client.unsettled || client.identity->mode == conf::PoolMode::session) return;
  const routing::Pin doubt = std::exchange(client.pins_in_doubt, routing::Pin::none) & client.pins;
  if (routing::any(doubt)) server.ask(doubt);
}

void Worker::idle_link(Client& client, Server& server) {
  client.touch(now());
  if (client.streaming() || client.broken()) return;  // the rest of a large message must go where it began
  if (client.waiting_for == WaitingFor::replay) {
    if (server.held_cancels.empty() || must_stay(client)) {
      client.forward_waiting();
    } else {  // nothing of it has been sent
      part(client, server);
      refuse_canceled(client);
    }
    return;
  }
  if (client.unsettled) settle_session(client, server);
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
  end_if_draining(client);
  if (client.state() != ClientState::closing) client.go_on();
}

void Worker::end_if_draining(Client& client) {
  if (!draining_ || client.state() != ClientState::idle || client.held || may_stay(client)) return;
  refusal(pool::Refusal::draining);
  client.fatal(ClientEnd::draining, wire::sqlstate::kAdminShutdown,
               "terminating connection: pgsluice is shutting down");
}

// What it was working on may be what has brought it down.
void Worker::tell_lost(const Server& server) {
  pool::CrashRecord::Lost lost{.node = static_cast<std::uint16_t>(server.node_id()),
                               .connected_at = server.connected_at,
                               .digests = {}};
  for (const metrics::DigestRuns::One& run : server.in_flight[0].digests.all())
    if (const std::uint64_t digest = run.calls == 0 ? 0 : digests_.digest_of(run.ref); digest != 0)
      lost.digests.push_back({digest, digests_.database_of(run.ref)->name});
  if (!lost.digests.empty()) shared_.tell_control(ServerLost{std::move(lost)});
}

// Every connection to that node hears it: one of them tells.
void Worker::crash_heard(const Server& server) {
  constexpr conf::Millis kOneCrash{100};
  if (server.node_id() == last_crash_node_ && now() - last_crash_heard_ < kOneCrash) return;
  last_crash_node_ = server.node_id();
  last_crash_heard_ = now();
  shared_.tell_control(CrashHeard{server.node_id()});
}

void Worker::retire(Server& server, ServerEnd why, std::string_view text) {
  if (server.state == pool::ServerState::closing) return;
  metrics_->server_closes.add(why);
  const bool was_open = server.state != pool::ServerState::connecting;
  if (was_open) metrics_->servers_closed.add();
  if (!was_open) pace(server.node_id()).done();
  pool::Pool& its_pool = *server.home;
  Identity& identity = server.identity();
  const bool surprising = why == ServerEnd::lost || why == ServerEnd::unexpected_message ||
                          why == ServerEnd::replay_failed || why == ServerEnd::reset_failed ||
                          why == ServerEnd::cancel_failed || why == ServerEnd::stalled;
  if (surprising)
    log_warning("server=" + server.node_name() + " user=" + identity.user +
                " database=" + identity.dbname + " closing: " + std::string(name(why)) +
                (text.empty() ? "" : ": " + std::string(text)));

  // What the client needs to hear is taken down before anything is undone.
  Client* const client = server.client;
  const std::uint32_t owed = server.pipeline.ready_owed();
  const bool open_sequence = server.pipeline.open_sequence();
  const bool mid_message = server.mid_message();
  // A read of which nothing has been told is run again elsewhere.
  const bool taken_away = why == ServerEnd::lost || why == ServerEnd::stalled;
  const bool again = client != nullptr && (taken_away || why == ServerEnd::node_changed) && server.healing.armed() &&
                     (server.healing.failed() || server.may_run_again());
  const bool first_failed = !server.in_flight.empty() && server.in_flight.front().failed;
  // The server's last words may have come in one read with the whole answer: then nobody is owed anything.
  const bool answered = client != nullptr && server.only_ours() && server.status == 'I' &&
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

  if (why == ServerEnd::lost && !server.had_last_words && !server.in_flight.empty()) tell_lost(server);
  if (!taken_away && why != ServerEnd::connect_failed) server.say_goodbye();
  if (client != nullptr) free_slot(*client, server);
  its_pool.move_to(server, pool::ServerState::closing);
  for (const auto& canceller : cancellers_)
    if (canceller->server == &server) canceller->server = nullptr;
  for (const ClientId& requester : std::exchange(server.held_cancels, {})) cancel_delivered(requester);
  server.close_socket();
  forget_again(server);
  its_pool.remove(server, true);
  const auto found = servers_.find(&server);
  ENSURE(found != servers_.end());
  dead_servers_.push_back(std::move(found->second));
  servers_.erase(found);

  // It may have been committed without an answer.
  if (client != nullptr && server.role == routing::NodeRole::primary &&
      (client->wrote || ending || std::ranges::any_of(server.in_flight, [](const InFlight& batch) {
         return batch.kind >= routing::StatementClass::write;
       }))) {
    client->wrote = true;
    note_floor(server, *client);
  }
  if (why == ServerEnd::lost) shared_.tell_control(NodeSuspected{its_pool.key().node});
  room_made_ |= why == ServerEnd::evicted;
  if (why == ServerEnd::lost && client != nullptr && server.node_at_fault)
    shared_.tell_control(NodeOutcome{its_pool.key().node, false});
  if (server.flight != nullptr && !again) [[unlikely]] end_flight(server, Apart::no);
  if (client != nullptr) {
    client->touch(now());  // what it is told now is news: SharedRead::told_at
    server.undo_tentative();
    server.give_up_restoring();
    const std::string message =
        text.empty() ? "the connection to the server was lost" : std::string(text);
    if (again) {
      run_again(*client, server);
      if (its_pool.waiting() > 0) hurry();
      return;
    }
    part(*client, server);
    if (server.blames_client) {
      retire(*client, ClientEnd::protocol_violation, message);
    } else if (answered) {
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

void Worker::wants_database(const Client& client, const std::string& dbname) {
  wanted_databases_.push_back(
      {client.id(), client.server->in_flight.back().sent, {client.identity->cluster, dbname}});
}

// Postgres looks five seconds long whether the others have left. Who may not give such an order is told so at
// once, and has no servers closed that others want.
void Worker::free_databases() {
  static constexpr Millis kStillRuns{200};
  std::erase_if(wanted_databases_, [this](const WantedDatabase& wanted) {
    if (now() - wanted.sent < kStillRuns) return false;
    const Client* client = find(wanted.client);
    if (client == nullptr || client->server == nullptr) return true;
    for (const InFlight& batch : client->server->in_flight) {
      if (batch.sent != wanted.sent) continue;
      for (Worker* worker : shared_.workers) worker->post(DatabaseWanted(wanted.database));
    }
    return true;
  });
}

void Worker::leave_database(const DatabaseWanted& wanted) {
  constexpr Millis kAsLongAsPostgresWaits{5000};
  for (const auto& [key, identity] : identities_) {
    if (identity->cluster != wanted.cluster || identity->dbname != wanted.dbname) continue;
    for (const auto& its_pool : identity->pools) {
      if (its_pool == nullptr) continue;
      its_pool->not_filled_before = std::max(its_pool->not_filled_before, now() + kAsLongAsPostgresWaits);
      while (pool::PooledServer* record = its_pool->least_recent_idle())
        retire(*server_of(record), ServerEnd::evicted);
    }
  }
}

}  // namespace proxy
