#include "proxy/client.h"

#include <algorithm>

#include "conf/check.h"
#include "conf/row.h"
#include "proxy/client_login.h"
#include "proxy/console_session.h"
#include "proxy/link.h"
#include "proxy/relay.h"
#include "proxy/route_question.h"
#include "proxy/scan.h"
#include "proxy/server.h"
#include "proxy/wire/backend.h"
#include "proxy/wire/framer.h"
#include "proxy/wire/frontend.h"
#include "proxy/wire/sqlstate.h"
#include "proxy/worker.h"
#include "routing/facts.h"

namespace proxy {

std::string print(const ClientId& id) {
  return "w" + std::to_string(id.worker) + "/" + std::to_string(id.slot) + "/" +
         std::to_string(id.generation);
}

std::string_view name(ClientState state) {
  switch (state) {
    case ClientState::login: return "login";
    case ClientState::idle: return "idle";
    case ClientState::waiting: return "waiting";
    case ClientState::active: return "active";
    case ClientState::console: return "console";
    case ClientState::closing: return "closing";
  }
  return "unknown";
}

std::string_view name(WaitingFor what) {
  switch (what) {
    case WaitingFor::nothing: return "nothing";
    case WaitingFor::tenant: return "tenant";
    case WaitingFor::node: return "node";
    case WaitingFor::server: return "server";
    case WaitingFor::replay: return "replay";
    case WaitingFor::resume: return "resume";
    case WaitingFor::floor: return "floor";
    case WaitingFor::replica: return "replica";
    case WaitingFor::answer: return "answer";
  }
  return "unknown";
}

std::string_view name(ClientEnd end) {
  switch (end) {
    case ClientEnd::goodbye: return "goodbye";
    case ClientEnd::gone: return "gone";
    case ClientEnd::login_failed: return "login_failed";
    case ClientEnd::login_timeout: return "login_timeout";
    case ClientEnd::probe_only: return "probe_only";
    case ClientEnd::protocol_violation: return "protocol_violation";
    case ClientEnd::slow_reader: return "slow_reader";
    case ClientEnd::idle_timeout: return "idle_timeout";
    case ClientEnd::idle_transaction_timeout: return "idle_transaction_timeout";
    case ClientEnd::transaction_timeout: return "transaction_timeout";
    case ClientEnd::server_lost: return "server_lost";
    case ClientEnd::too_many_clients: return "too_many_clients";
    case ClientEnd::draining: return "draining";
    case ClientEnd::shutdown: return "shutdown";
    case ClientEnd::killed: return "killed";
    case ClientEnd::count_: break;
  }
  return "unknown";
}

Client::Client(Worker& worker, ClientId id, NewClient&& accepted)
    : worker_(worker), from_(std::move(accepted.from)), id_(id) {
  connected_at_ = quiet_since_ = worker.now();
  const std::int64_t limit = worker.settings().listen_clients_per_address;
  login_ = std::make_unique<ClientLogin>(worker, *this, net::peer_of(accepted.socket.fd),
                                         limit > 0 && accepted.of_its_address > limit);
  socket_.attach(worker.loop(), std::move(accepted.socket), *this);
  socket_.set_keepalive(worker.settings().listen_tcp);
  worker_.client_joined(*this);
}

Client::~Client() = default;

void Client::move_to(ClientState next) {
  if (next == state_) return;
  ENSURE(may_follow(state_, next));
  const ClientState from = std::exchange(state_, next);
  worker_.client_moved(*this, from);
}

std::string Client::who() const {
  std::string text = "client=" + print(id_);
  if (login_) {
    text += " peer=" + login_->peer().text;
    if (!login_->asked().user.empty())
      text += " user=" + login_->asked().user + " database=" + login_->asked().database;
  } else if (identity != nullptr) {
    text += " user=" + identity->user + " database=" + identity->database;
  }
  return text;
}

std::string Client::peer() const {
  return login_ ? login_->peer().text : net::peer_of(socket_.fd()).text;
}

// --- bytes out -------------------------------------------------------------------------------------

void Client::send(std::span<const iovec> parts) {
  if (state_ == ClientState::closing || broken_) return;
  std::size_t total = 0;
  for (const iovec& part : parts) total += part.iov_len;
  (identity != nullptr ? identity->traffic->sent : worker_.count().client_bytes_sent).add(total);
  if (!login_ && worker_.outbox().take(*this, parts, total)) return;
  send_now(parts, total);
}

void Client::send_now(std::string_view bytes) {
  const iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  if (!broken_) send_now(std::span(&part, 1), bytes.size());
}

void Client::send_now(std::span<const iovec> parts, std::size_t total) {
  std::size_t skip = 0;
  if (unsent() == 0) {
    const net::Transfer written = socket_.write(parts);
    if (written.ended()) {
      // Whoever is sending is in the middle of something: what follows from this waits for the turn's end.
      broken_ = true;
      worker_.retire_later(*this);
      return;
    }
    skip = written.count;
  }
  if (skip == total) return;
  unsent_.append(parts, skip, worker_.now());
  socket_.want_write(true);
}

void Client::send(std::string_view bytes) {
  const iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  send(std::span(&part, 1));
}

void Client::close_socket() {
  worker_.outbox().flush();
  socket_.close();
}

void Client::on_writable() {
  if (login_ && login_->in_handshake()) {
    login_->go_on_with_handshake();
    return;
  }
  if (!unsent_.write_to(socket_, worker_.now())) {
    worker_.retire(*this, ClientEnd::gone);
    return;
  }
  if (unsent() == 0) socket_.want_write(false);
  if (unsent() * 2 < worker_.settings().limits_client_buffer.count) {
    if (server != nullptr) server->resume_reading();
    update_reading();
    if (console_) {
      console_->go_on();
      go_on();
    }
  }
  leave_if_done();
}

// It has closed its half, and has everything that it asked for. A transaction that is still open nobody can end.
void Client::leave_if_done() {
  if (!input_ended_ || unsent() > 0) return;
  const bool answered = state_ == ClientState::active && server != nullptr && server->pipeline.idle();
  if (answered || state_ == ClientState::idle || (console_ && !console_->busy()))
    worker_.retire(*this, ClientEnd::gone);
}

// --- bytes in --------------------------------------------------------------------------------------

void Client::look_at_reading() {
  if (!socket_.is_open() || input_ended_) return;
  const std::size_t limit = worker_.settings().limits_batch.count;
  const bool server_full =
      server != nullptr && (server->unsent() > worker_.settings().limits_client_buffer.count ||
                            server->pipeline.depth() > (std::size_t{1} << 15));
  const bool unread = unsent() > worker_.settings().limits_client_buffer.count;
  const bool full = server_full || unread || input_.size() > limit + Worker::kReadSize ||
                    (state_ == ClientState::waiting && input_.size() > Worker::kReadSize);
  if (full) {
    socket_.pause_reading();
  } else if (!socket_.reading()) {
    socket_.resume_reading();
    if (socket_.has_buffered()) worker_.read_again(*this);
  }
}

void Client::keep_input(std::string_view bytes) {
  worker_.take_spare(&input_);
  input_.assign(bytes);
}

void Client::input_used(std::size_t size) {
  if (size < input_.size()) {
    input_.erase(0, size);
  } else {
    worker_.give_spare(&input_);
  }
}

void Client::on_readable() {
  if (state_ == ClientState::closing) return;
  if (login_) [[unlikely]]
    log_in();
  else
    read_input();
}

void Client::log_in() {
  LoginShare& share = worker_.login_share();
  if (share.is_used_up()) {
    worker_.count().logins_deferred.add();
    socket_.pause_reading();  // the loop would say again and again that it can be read
    worker_.defer_login(id_);
    return;
  }
  const LoginShare::Step step(share);
  if (login_->at_first_byte()) login_->on_first_byte();
  if (state_ == ClientState::closing) return;
  if (login_->in_handshake())
    login_->go_on_with_handshake();
  else
    read_input();
}

void Client::log_in_again() {
  if (state_ == ClientState::closing) return;
  if (!socket_.reading()) socket_.resume_reading();
  on_readable();
  if (state_ != ClientState::closing && !login_) update_reading();
}

void Client::read_input() {
  const std::span<char> buffer = worker_.read_buffer();
  const net::Transfer got = socket_.read(buffer.first(Worker::kReadSize));
  if (!got.moved()) {
    if (got.ended()) on_end_of_input(got.state == net::Transfer::State::failed);
    return;
  }
  (identity != nullptr ? identity->traffic->received : worker_.count().client_bytes_received).add(got.count);
  if (socket_.has_buffered() && socket_.reading()) worker_.read_again(*this);
  if (input_.empty()) {
    const std::string_view bytes(buffer.data(), got.count);
    const std::size_t used = process(bytes);
    if (state_ == ClientState::closing) return;
    if (used < bytes.size()) {
      keep_input(bytes.substr(used));
      update_reading();
    }
    return;
  }
  input_.append(buffer.data(), got.count);
  go_on();
}

void Client::go_on() {
  if (in_process_ || state_ == ClientState::closing) return;
  if (!input_.empty()) {
    const std::size_t used = process(input_);
    if (state_ == ClientState::closing) return;
    input_used(used);
  }
  update_reading();
  leave_if_done();
}

void Client::on_end_of_input(bool failed) {
  if (!failed && (state_ == ClientState::waiting || unsent() > 0 || (console_ && console_->busy()) ||
                  (state_ == ClientState::active && server != nullptr && !server->pipeline.idle()))) {
    // It may have closed its half only: what it asked last is still answered.
    input_ended_ = true;
    quiet_since_ = worker_.now();
    socket_.pause_reading();
    // But an order does not outlast its console, and nobody could cancel it now.
    if (console_) worker_.shared().tell_control(ConsoleCanceled{id_, true});
    return;
  }
  if (state_ == ClientState::login && login_ && login_->said_nothing()) {
    worker_.retire(*this, ClientEnd::probe_only);
    return;
  }
  worker_.retire(*this, ClientEnd::gone);
}

namespace {

// Where the client's next Sync ends in `bytes`, or npos.
struct SyncSearch {
  std::size_t used = 0;
  std::size_t streams = 0;
  bool found = false;
  bool malformed = false;
};
SyncSearch find_sync(std::string_view bytes) {
  SyncSearch search;
  while (search.used < bytes.size()) {
    wire::Frame frame;
    const wire::Cut cut = wire::cut(bytes.substr(search.used), &frame);
    if (cut == wire::Cut::need_more) return search;
    if (cut == wire::Cut::malformed) {
      search.malformed = true;
      return search;
    }
    const std::size_t here = std::min(frame.size, bytes.size() - search.used);
    if (frame.type == wire::frontend::kTerminate) return search;
    search.used += here;
    search.streams = frame.size - here;
    if (frame.type == wire::frontend::kSync && frame.complete) {
      search.found = true;
      return search;
    }
  }
  return search;
}

std::string refusal_detail(pool::Refusal why, conf::Millis retry_after) {
  std::string detail = "reason=" + std::string(name(why));
  if (retry_after.count() > 0) detail += " retry_after_ms=" + std::to_string(retry_after.count());
  return detail;
}

}  // namespace

std::size_t Client::process(std::string_view bytes) {
  in_process_ = true;
  std::size_t used = 0;
  while (used < bytes.size() && state_ != ClientState::closing) {
    const std::string_view rest = bytes.substr(used);
    if (streaming_left_ > 0 || discarding_) scanned_ = 0;
    if (streaming_left_ > 0) {
      const std::size_t here = std::min(streaming_left_, rest.size());
      const bool to_server = server != nullptr && !discarding_ && !dropping_;
      if (to_server) {
        worker_.count().server_bytes_sent.add(here);
        server->send(rest.substr(0, here));
      }
      streaming_left_ -= here;
      if (streaming_left_ == 0) dropping_ = false;
      used += here;
      // The answer may have come before the message was whole (an error in the middle of COPY data).
      if (to_server && streaming_left_ == 0 && state_ == ClientState::active &&
          server->pipeline.idle())
        worker_.idle_link(*this, *server);
      continue;
    }
    if (state_ == ClientState::login) {
      const std::size_t now = login_->on_bytes(rest);
      used += now;
      if (state_ == ClientState::login) break;  // it has used what it can
      continue;
    }
    if (state_ == ClientState::console) {
      const std::size_t now = console_->on_bytes(rest);
      used += now;
      if (now == 0) break;
      continue;
    }
    if (discarding_) {
      const SyncSearch search = find_sync(rest);
      if (search.malformed) {
        fatal(ClientEnd::protocol_violation, wire::sqlstate::kProtocolViolation,
              "invalid message length");
        break;
      }
      used += search.used;
      streaming_left_ = search.streams;
      if (search.found) {
        discarding_ = false;
        std::string ready;
        append_ready(ready);
        send(ready);
        continue;
      }
      if (search.used > 0) continue;
      if (!rest.empty() && rest[0] == wire::frontend::kTerminate) {
        worker_.retire(*this, ClientEnd::goodbye);
      }
      break;
    }
    if (state_ == ClientState::waiting) break;

    const bool stay = must_stay(*this);
    const bool may_grow = !(stay && server->pipeline.open_sequence());
    if (scanned_ > 0 && may_grow && !grown_batch(worker_, rest, &scanned_)) {
      in_process_ = false;
      return used;
    }
    scanned_ = 0;
    Scan scan;
    scan_batch(worker_, *this, rest, may_grow, &scan);
    switch (scan.what) {
      case Scan::What::need_more:
        scanned_ = scan.whole;
        in_process_ = false;
        return used;
      case Scan::What::nothing: used += scan.size; break;
      case Scan::What::terminate:
        worker_.retire(*this, ClientEnd::goodbye);
        break;
      case Scan::What::malformed:
        worker_.refusal(pool::Refusal::protocol_violation);
        fatal(ClientEnd::protocol_violation, wire::sqlstate::kProtocolViolation, scan.problem);
        break;
      case Scan::What::refused:
        worker_.refusal(pool::Refusal::too_large);
        fatal(ClientEnd::protocol_violation, wire::sqlstate::kProgramLimitExceeded, scan.problem,
              refusal_detail(pool::Refusal::too_large, conf::Millis(0)));
        break;
      case Scan::What::copy:
        // Without a COPY in progress Postgres ignores these; so do we, unless a server can do it.
        if (server != nullptr) {
          if (rest[0] != wire::frontend::kCopyData)
            server->pipeline.sent({wire::Request::copy_end});
          worker_.count().server_bytes_sent.add(scan.size);
          server->send(rest.substr(0, scan.size));
        } else {
          dropping_ = true;
        }
        streaming_left_ = scan.streams;
        if (streaming_left_ == 0) dropping_ = false;
        used += scan.size;
        break;
      case Scan::What::batch: {
        if (held || scan.facts.begins_first) [[unlikely]] {
          std::size_t answered = 0;
          const Held verdict = judge_held(scan, stay, &answered);
          if (verdict == Held::waits) {
            in_process_ = false;
            return used;
          }
          if (verdict == Held::refused) {
            answer_refused(rest.substr(0, answered), scan.streams);
            streaming_left_ = scan.streams;
          }
          if (verdict != Held::goes_on) {
            used += answered;
            if (!held) worker_.end_if_draining(*this);
            break;
          }
        }
        if (!take_batch(rest.substr(0, scan.size), scan, stay)) {
          in_process_ = false;
          return used;
        }
        used += scan.size;
        if (state_ != ClientState::closing && streams_follow_) streaming_left_ = scan.streams;
        break;
      }
    }
  }
  in_process_ = false;
  return used;
}

// Sends the batch on, or answers it. False: it has to wait, and its bytes with it.
bool Client::take_batch(std::string_view bytes, Scan& scan, bool stay) {
  streams_follow_ = true;
  // Behind a change of the session whose outcome decides what the server must be told first.
  if (unsettled && server != nullptr && server->changes_under_way()) return false;
  if (scan.changes || scan.facts.shows_lsn) [[unlikely]] {
    const bool lsn = scan.facts.shows_lsn || scan.facts.sets_lsn;
    if (lsn && server != nullptr && server->pipeline.ready_owed() > 0) return false;
    if (refuses_settings(scan)) {
      refuse_batch(bytes, scan);
      return true;
    }
  }
  // What it is lent to see it by can only be sent to a server that is not at work for us (lending.h).
  if (scan.changes && server != nullptr && server->only_ours() && !server->pipeline.idle() &&
      std::ranges::any_of(*scan.changes, [](const auto& facts) { return facts->sees_prepared; })) [[unlikely]]
    return false;
  if (!scan.explains.empty() && (server == nullptr || !server->pipeline.open_sequence())) [[unlikely]]
    return answer_explain(scan);
  const bool refuses_pin = any(scan.facts.pins) && identity->on_pin == conf::OnPin::refuse;
  const bool is_blocked = scan.facts.overrides.blocked && !worker_.settings().routing_dry_run;
  // In a failed transaction the server refuses what would pin; what is blocked may stand behind a ROLLBACK.
  if (is_blocked || (refuses_pin && (server == nullptr || server->status != 'E'))) [[unlikely]] {
    if (server != nullptr && !stay) return false;  // until what is before it has been answered
    if (is_blocked) {
      const std::string rule = worker_.rule_name(scan.facts.overrides.rule);
      worker_.count_rule(scan.facts.overrides.rule);
      refuse(pool::Refusal::blocked, wire::sqlstate::kConfigurationLimitExceeded,
             "this statement is blocked here ([[route]] rule " + rule + ")", conf::Millis(0), "rule=" + rule);
    } else {
      refuse(pool::refusal_of(scan.facts.pins), wire::sqlstate::kFeatureNotSupported,
             "state that stays on one server (" + routing::names(scan.facts.pins) +
                 ") is not allowed here (pool.on_pin)");
    }
    refuse_batch(bytes, scan);
    return true;
  }
  const conf::Instant now = worker_.now();
  if (server != nullptr && !stay) {
    if (identity->paused) return false;
    // Pipelined behind batches that are not answered yet: goes along if its target is the same.
    const routing::ClusterState* cluster = worker_.cluster(*identity);
    if (cluster == nullptr) return false;
    routing::SessionState room;
    // What such a read must see is asked for when its turn comes; so it is when the batch before saw less.
    const conf::Consistency before = routing::seen_by(batch, route_state, room).consistency;
    const conf::Consistency fresh = routing::seen_by(scan.facts, route_state, room).consistency;
    if (fresh != before || fresh >= conf::Consistency::tenant || scan.facts.shows_lsn || scan.facts.sets_lsn)
      return false;
    const routing::Decision decision =
        routing::route(scan.facts, routing::seen_by(scan.facts, route_state, room), identity->mode);
    const routing::NodeRole role = worker_.role_of(*identity, server->node_id());
    const bool to_primary =
        decision.target == routing::Target::primary || worker_.settings().routing_dry_run;
    const bool same = (to_primary && role == routing::NodeRole::primary) ||
                      (!to_primary && decision.target == routing::Target::replica &&
                       role == routing::NodeRole::replica && !server_stale() &&
                       (cluster->promoted == 0 || decision.why == routing::RouteReason::read) &&
                       routing::alike(batch.overrides, scan.facts.overrides));
    if (!same) return false;
    stay = true;
    route_why = decision.why;
  } else if (stay) {
    route_why = routing::any(pins) ? routing::RouteReason::pinned
                : identity->mode == conf::PoolMode::session ? routing::RouteReason::session_mode
                                                            : routing::RouteReason::in_transaction;
  }
  if (stay && server->pipeline.ready_owed() > 0 && !server->pipeline.open_sequence() &&
      hinges_on_answers(scan))
    return false;
  if (batch_extras) [[unlikely]]
    batch_extras = nullptr;  // of a batch that was refused
  if ((worker_.gate() != nullptr || !worker_.limited().empty()) && refuse_limited(bytes, scan, now)) [[unlikely]]
    return true;
  batch = scan.facts;
  if (batch.overrides.service_class != 0) [[unlikely]]
    service_class = static_cast<pool::ClassId>(batch.overrides.service_class - 1);
  else if (service_class != session_class) [[unlikely]]
    service_class = session_class;
  batch_digests = scan.digests;
  batch_changes = std::move(scan.changes);
  batch_unpins = scan.unpins;
  batch_deallocates = scan.deallocates;
  arrived = waiting_since = now;
  const conf::Instant told_at = std::exchange(quiet_since_, now);
  if (stay) {
    move_to(ClientState::active);
    worker_.count_route(route_why, batch);
    std::string prefix;
    // A client that keeps its server may have reset a setting to its own start-up value.
    if (server->pipeline.idle() && server->status == 'I') prepare_session(worker_, *this, *server, prefix);
    forward_batch(worker_, *this, bytes, prefix, worker_.batch_messages());
    return true;
  }
  if (batch.overrides.may_share) [[unlikely]]
    worker_.offer_to_share(*this, scan.streams, told_at);
  switch (worker_.place(*this)) {
    case Worker::Placed::linked: {
      std::string prefix;
      if (!prepare_session(worker_, *this, *server, prefix)) {
        keep_waiting(bytes, scan);
        await_replay(prefix);
        return false;
      }
      move_to(ClientState::active);
      forward_batch(worker_, *this, bytes, prefix, worker_.batch_messages());
      return true;
    }
    case Worker::Placed::waits:
      keep_waiting(bytes, scan);
      move_to(ClientState::waiting);
      return false;
    case Worker::Placed::refused:
      batch_extras = nullptr;
      answer_refused(bytes, scan.streams);
      return true;
    case Worker::Placed::answered:
      take_answer(bytes, *worker_.take_found_answer());
      return true;
  }
  return true;
}

// It names a statement of which is not known yet whether it was prepared or closed by a batch before: if an
// error makes the server skip that, the name means something else, or the server lacks it. Or it names one that
// must be parsed by other settings than those of now, behind which it must be certain which these are.
bool Client::hinges_on_answers(const Scan& scan) const {
  if (!prepared) return false;
  const bool differs = prepared->may_differ(session->current());
  const bool unnamed_differs = unnamed_version != 0 && server->unnamed_version != unnamed_version &&
                               prepared->unnamed_facts && prepared->unnamed_settings != session->current();
  const bool under_way = !prepared->tentative.empty() || !server->parsing.empty();
  if (!differs && !unnamed_differs && !under_way) return false;
  const auto& messages = worker_.batch_messages();
  // So many names are not looked through for every batch.
  if (messages.size() == kRemembered || prepared->tentative.size() > kRemembered) return true;
  if (under_way && scan.changes) return true;
  return std::ranges::any_of(messages, [this, differs, unnamed_differs](const BatchMessage& message) {
    if (message.named != wire::Named::statement) return false;
    const bool uses = message.frame.type == wire::frontend::kBind || message.frame.type == wire::frontend::kDescribe;
    if (message.name.empty()) return unnamed_differs && uses;
    const auto known = prepared->named().find(message.name);
    if (std::ranges::any_of(prepared->tentative,
                            [&message](const Tentative& one) { return one.name == message.name; }))
      return true;
    if (known == prepared->named().end() || !known->second.statement) return false;
    const pool::Prepared& statement = *known->second.statement;
    return server->parsing.contains(statement.id) ||
           (differs && server->statements.find(statement.id) == nullptr &&
            statement.read_by.entries != pool::read_by(*session->current()).entries);
  });
}

bool Client::server_stale() const {
  return worker_.stale(*server);
}

// The batch goes on later, from the kept input. What its Parses are is known already.
void Client::keep_waiting(std::string_view bytes, const Scan& scan) {
  waiting_size_ = bytes.size();
  waiting_streams_ = scan.streams;
  if (worker_.parsed_here().empty()) return;
  preparing().waiting_version = identity->scope->version;
  prepared->waiting.clear();
  for (const ParsedHere& one : worker_.parsed_here()) prepared->waiting.push_back(one.facts);
}

void Client::await_replay(std::string_view queries) {
  waiting_for = WaitingFor::replay;
  move_to(ClientState::waiting);
  server->send(queries);
}

void Client::forward_waiting() {
  ENSURE(server != nullptr);
  if (state_ == ClientState::login) {
    std::string prefix;
    prepare_session(worker_, *this, *server, prefix);
    if (prefix.empty()) {
      greet();
      return;
    }
    waiting_for = WaitingFor::replay;
    server->send(prefix);
    return;
  }
  std::string prefix;
  if (waiting_for != WaitingFor::replay && !prepare_session(worker_, *this, *server, prefix)) {
    await_replay(prefix);
    return;
  }
  waiting_for = WaitingFor::nothing;
  move_to(ClientState::active);
  const std::size_t size = std::exchange(waiting_size_, 0);
  streaming_left_ = std::exchange(waiting_streams_, 0);
  forward_batch(worker_, *this, std::string_view(input_).substr(0, size), prefix, {});
  if (prepared) prepared->waiting.clear();
  input_used(size);
  // More may be here: a pipeline, or the rest of a large message.
  if (!input_.empty()) {
    go_on();
  } else {
    update_reading();
  }
}

namespace {

bool parameters_say(const Server& server, std::string_view parameter, std::string_view value) {
  return std::ranges::any_of(server.parameters, [&](const auto& one) {
    return one.first == parameter && one.second == value;
  });
}

}  // namespace

// The server has our start-up settings: what it says of itself is what the client hears.
void Client::greet() {
  waiting_for = WaitingFor::nothing;
  std::string parameters;
  for (const auto& [parameter, value] : server->parameters) {
    // A client that lands on a replica first must not conclude that it cannot write.
    const bool hot_standby = parameter == "in_hot_standby";
    wire::append_parameter_status(parameters,
                                  {parameter, hot_standby ? std::string_view("off") : value});
  }
  // Different application names and the like would fill it; then it starts over.
  if (identity->welcomes.size() >= 1000) identity->welcomes.clear();
  identity->welcomes[session->current()] = parameters;
  Server& lender = *server;
  identity->standard_strings = !parameters_say(lender, "standard_conforming_strings", "off");
  worker_.part(*this, lender);
  // At the end of the turn: it may greet the next client, and that one the next.
  worker_.release_later(lender);
  settings_changed();
  welcome(parameters);
  if (state_ != ClientState::closing) go_on();
}

void Client::welcome(std::string_view parameters) {
  std::string message;
  wire::append_authentication_ok(message);
  message += parameters;
  append_cancel_key(message);
  wire::append_ready_for_query(message, wire::TransactionStatus::idle);
  const std::string peer_text = login_->peer().text;
  login_ = nullptr;
  move_to(ClientState::idle);
  worker_.client_opened(*this, peer_text);
  send(message);
}

void Client::append_cancel_key(std::string& message) {
  cancel_secret = worker_.new_cancel_secret();
  const CancelKey key = worker_.cancel_key(*this);
  wire::append_backend_key_data(
      message, {key.pid, cancel_key_bytes(key, worker_.shared().cancel_secret)});
}

void Client::answer_refused(std::string_view bytes, std::size_t streams) {
  // Which end has it? A Query or a Sync is owed a ReadyForQuery; else everything up to the Sync is skipped.
  char last = 0;
  for (std::size_t at = 0; at < bytes.size();) {
    wire::Frame frame;
    if (wire::cut(bytes.substr(at), &frame) != wire::Cut::frame) break;
    last = frame.type;
    at += frame.size;
  }
  std::string message = std::move(*refusal_);
  refusal_ = nullptr;
  const bool ends = last == wire::frontend::kQuery || last == wire::frontend::kSync ||
                    last == wire::frontend::kFunctionCall;
  if (held) held->failed = true;
  if (ends) {
    append_ready(message);
  } else {
    discarding_ = true;
  }
  if (streams > 0) dropping_ = true;
  send(message);
}

// EXPLAIN ROUTE: for its own session, and without a server. False: it waits for what is before it.
bool Client::answer_explain(const Scan& scan) {
  if (server != nullptr && !server->pipeline.idle()) return false;
  forget_unnamed();
  quiet_since_ = worker_.now();
  std::string message = explain_route(worker_, *this, scan.explains);
  if (server == nullptr) append_ready(message);
  else wire::append_ready_for_query(message, wire::TransactionStatus(server->status));
  send(message);
  return true;
}

// The batch that stands in `bytes` is not run: its client hears what refuse() has prepared, and an open
// transaction fails.
void Client::refuse_batch(std::string_view bytes, const Scan& scan) {
  if (server == nullptr) return answer_refused(bytes, scan.streams);
  batch = scan.facts;
  arrived = quiet_since_ = worker_.now();
  if (scan.streams > 0) dropping_ = true;
  move_to(ClientState::active);
  const std::unique_ptr<std::string> error = std::move(refusal_);
  fail_batch(worker_, *this, bytes, std::move(*error));
}

void Client::refuse_by(const pool::LimitAnswer& answer) {
  const pool::DigestLimit& limit = *answer.limit;
  const bool of_rule = answer.why == pool::Refusal::rule_rate || answer.why == pool::Refusal::rule_concurrency;
  const std::string rule = of_rule ? conf::key_text(limit.origin) : "";
  const std::string digest = routing::print_digest(limit.key.digest);
  std::string message = "this statement is ";
  switch (limit.kind) {
    case pool::DigestLimitKind::block: message += "blocked"; break;
    case pool::DigestLimitKind::rate: message += "over its limit of " + std::to_string(limit.most) + " per second"; break;
    case pool::DigestLimitKind::concurrency: message += "over its limit of " + std::to_string(limit.most) + " at once"; break;
  }
  // Jitter, so that those refused together do not come back together.
  auto after = std::chrono::ceil<conf::Millis>(answer.retry_after);
  if (limit.kind != pool::DigestLimitKind::block)
    after += conf::Millis(static_cast<std::int64_t>(worker_.random()() % 50) * (after.count() + 1) / 100);
  refuse(answer.why, wire::sqlstate::kConfigurationLimitExceeded,
         message + (of_rule ? " ([[route]] rule " + rule + ")" : " (digest " + digest + ")"), after,
         of_rule ? "rule=" + rule : "rule=" + limit.origin + " digest=" + digest);
}

// A limit on digests stands in the way of the batch: it is answered, as one that fails. False: it may go on.
bool Client::refuse_limited(std::string_view bytes, const Scan& scan, conf::Instant now) {
  if (server != nullptr && server->status == 'E') return false;  // Postgres refuses it
  pool::DigestHold hold;
  pool::LimitAnswer answer;
  if (worker_.gate() != nullptr)
    answer = worker_.gate()->admit(worker_.gated(), identity->database, now, &hold);
  const std::vector<routing::RuleSet::Place>& limited = worker_.limited();
  for (auto rule = limited.begin(); rule != limited.end() && answer.why == pool::Refusal::none; ++rule) {
    const bool again = std::find(limited.begin(), rule, *rule) != rule;
    answer = pool::admit(worker_.limit_of(*rule), again, now, &hold);
  }
  if (answer.why == pool::Refusal::none) {
    if (!hold.empty()) batch_extras = std::make_unique<BatchExtras>(std::move(hold));
    return false;
  }
  refuse_by(answer);
  refuse_batch(bytes, scan);
  return true;
}

bool Client::barred_while_waiting() {
  if (server != nullptr || waiting_size_ == 0) return false;
  Scan scan;
  scan_batch(worker_, *this, std::string_view(input_).substr(0, waiting_size_), true, &scan);
  const auto answer = worker_.gate()->blocked(worker_.gated(), identity->database, worker_.now());
  if (answer.why == pool::Refusal::none) return false;
  refuse_by(answer);
  return true;
}

void Client::refuse(pool::Refusal why, std::string_view sqlstate, std::string_view message,
                    conf::Millis retry_after, std::string_view more_detail) {
  worker_.refusal(why);
  std::string detail = refusal_detail(why, retry_after);
  if (!more_detail.empty()) detail.append(" ").append(more_detail);
  refusal_ = std::make_unique<std::string>();
  wire::append_error(*refusal_, {.severity = state_ == ClientState::login ? "FATAL" : "ERROR",
                                .sqlstate = sqlstate,
                                .message = message,
                                .detail = detail});
}

void Client::refuse_waiting() {
  if (state_ == ClientState::login) {
    // There is no session that could stay.
    send(*refusal_);
    worker_.retire(*this, ClientEnd::login_failed, "no server for its session");
    return;
  }
  waiting_for = WaitingFor::nothing;
  batch_extras = nullptr;
  move_to(ClientState::idle);
  if (retry) worker_.retry_ended(*this, false);
  const std::size_t size = std::exchange(waiting_size_, 0);
  const std::size_t streams = std::exchange(waiting_streams_, 0);
  answer_refused(std::string_view(input_).substr(0, size), streams);
  if (state_ == ClientState::closing) return;
  streaming_left_ = streams;
  if (prepared) prepared->waiting.clear();
  input_used(size);
  go_on();
}

void Client::take_answer(std::string_view bytes, std::string_view answer) {
  note_answered(worker_, *this, bytes, answer.starts_with(wire::backend::kParseComplete));
  batch_extras = nullptr;
  has_cell = false;
  ++statements;
  touch(worker_.now());
  send(answer);
}

void Client::take_answer_waiting(std::string_view answer) {
  waiting_for = WaitingFor::nothing;
  move_to(ClientState::idle);
  const std::size_t size = std::exchange(waiting_size_, 0);
  take_answer(std::string_view(input_).substr(0, size), answer);
  if (state_ == ClientState::closing) return;
  if (prepared) prepared->waiting.clear();
  input_used(size);
  worker_.end_if_draining(*this);
  if (state_ != ClientState::closing) go_on();
}

void Client::fatal(ClientEnd end, std::string_view sqlstate, std::string_view message,
                   std::string_view detail) {
  std::string text;
  wire::append_error(
      text, {.severity = "FATAL", .sqlstate = sqlstate, .message = message, .detail = detail});
  send(text);
  worker_.retire(*this, end, message);
}

void Client::server_lost(std::string_view sqlstate, std::string_view message, std::uint32_t owed,
                         bool open_sequence, bool first_failed, bool mid_message, bool keep) {
  if (state_ == ClientState::login) {
    // Another server may still open the session, within the login's deadline.
    fatal(ClientEnd::login_failed, sqlstate, message);
    return;
  }
  if (mid_message || !keep) {
    fatal(ClientEnd::server_lost, sqlstate, message, "reason=server_lost");
    return;
  }
  if (waiting_for == WaitingFor::replay) {
    refuse(pool::Refusal::replay_failed, sqlstate, message, conf::Millis(0));
    refuse_waiting();
    return;
  }
  if (retry) worker_.retry_ended(*this, false);
  if (held) held->failed = true;
  std::string text;
  for (std::uint32_t i = 0; i < owed + (open_sequence && owed == 0 ? 1U : 0U); ++i) {
    if (!(i == 0 && first_failed))
      wire::append_error(text, {.severity = "ERROR",
                                .sqlstate = sqlstate,
                                .message = message,
                                .detail = "reason=server_lost"});
    if (i < owed) append_ready(text);
  }
  if (open_sequence) discarding_ = true;
  if (prepared) prepared->doomed.clear();
  move_to(ClientState::idle);
  send(text);
  if (state_ != ClientState::closing) go_on();
}

void Client::secret_found(conf::Result<std::optional<std::string>> secret) {
  if (login_) login_->secret_found(std::move(secret));
}

void Client::cancel_delivered() {
  if (login_) login_->cancel_delivered();
}

// --- console ---------------------------------------------------------------------------------------

void Client::open_console() {
  console_ = std::make_unique<ConsoleSession>(worker_, *this, login_->asked().user);
  login_ = nullptr;
  move_to(ClientState::console);
  console_->welcome();
}

std::string_view Client::console_user() const { return console_ ? console_->user() : std::string_view(); }

void Client::console_answer(std::string_view messages) {
  console_->answered(messages);
  if (state_ != ClientState::closing) go_on();
}

}  // namespace proxy
