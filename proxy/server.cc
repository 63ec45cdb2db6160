#include "proxy/server.h"

#include <cerrno>

#include <algorithm>
#include <array>
#include <cstring>

#include "conf/check.h"
#include "proxy/client.h"
#include "proxy/own_statements.h"
#include "proxy/server_login.h"
#include "proxy/wire/backend.h"
#include "proxy/wire/framer.h"
#include "proxy/wire/frontend.h"
#include "proxy/wire/sqlstate.h"
#include "proxy/worker.h"

namespace proxy {

namespace be = wire::backend;
using wire::For;
using wire::Request;

std::string_view name(ServerEnd end) {
  switch (end) {
    case ServerEnd::idle_too_long: return "idle_too_long";
    case ServerEnd::lifetime: return "lifetime";
    case ServerEnd::node_changed: return "node_changed";
    case ServerEnd::connect_failed: return "connect_failed";
    case ServerEnd::login_failed: return "login_failed";
    case ServerEnd::lost: return "lost";
    case ServerEnd::unexpected_message: return "unexpected_message";
    case ServerEnd::replay_failed: return "replay_failed";
    case ServerEnd::client_vanished: return "client_vanished";
    case ServerEnd::reset_failed: return "reset_failed";
    case ServerEnd::cancel_failed: return "cancel_failed";
    case ServerEnd::surplus: return "surplus";
    case ServerEnd::evicted: return "evicted";
    case ServerEnd::shutdown: return "shutdown";
    case ServerEnd::reconnect: return "reconnect";
    case ServerEnd::paused: return "paused";
    case ServerEnd::drained: return "drained";
    case ServerEnd::killed: return "killed";
    case ServerEnd::stalled: return "stalled";
    case ServerEnd::count_: break;
  }
  return "unknown";
}

Server::Server(Worker& worker, Identity& identity, const routing::NodeState& node)
    : session(worker.interner().empty()),
      worker_(&worker),
      identity_(&identity),
      node_(node.id),
      incarnation_(node.incarnation),
      node_name_(node.address.name()),
      node_host_(node.address.host),
      port_(node.address.port) {
  connected_at = worker.now();
  if (!node.ips.empty()) ip_ = node.ips.front();
  login_ = std::make_unique<ServerLogin>(worker, *this);
  ask_tls_ = worker.settings().tls_server_mode >= conf::TlsMode::prefer;
}

Server::~Server() = default;

std::string Server::tls_description() const {
  return socket_.tls() == nullptr ? "" : socket_.tls()->describe();
}

std::shared_ptr<const net::TlsContext> Server::tls_context() const {
  return socket_.tls() == nullptr ? nullptr : socket_.tls()->shared_context();
}

conf::Status Server::start() {
  errno = 0;
  const conf::Status started = socket_.connect(worker_->loop(), ip_, port_, *this);
  if (started || (errno != EMFILE && errno != ENFILE)) return started;
  socket_.close();
  return conf::Error{conf::Errc::overloaded, "no file descriptors are left"};
}

// --- bytes out -------------------------------------------------------------------------------------

void Server::send(std::span<const iovec> parts) {
  if (broken_) return;
  std::size_t total = 0;
  for (const iovec& part : parts) total += part.iov_len;
  if (!login_ && worker_->outbox().take(*this, parts, total)) return;
  send_now(parts, total);
}

void Server::send_now(std::string_view bytes) {
  const iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  if (!broken_) send_now(std::span(&part, 1), bytes.size());
}

void Server::send_now(std::span<const iovec> parts, std::size_t total) {
  std::size_t skip = 0;
  if (unsent() == 0) {
    const net::Transfer written = socket_.write(parts);
    if (written.ended()) {
      // Whoever is sending is in the middle of something: what follows from this waits for the turn's end.
      broken_ = true;
      worker_->lose_later(*this);
      return;
    }
    skip = written.count;
  }
  if (skip == total) return;
  unsent_.append(parts, skip, worker_->now());
  socket_.want_write(true);
  if (client != nullptr && unsent() > worker_->settings().limits_client_buffer.count) client->pause_reading();
}

void Server::send(std::string_view bytes) {
  const iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  send(std::span(&part, 1));
}

void Server::on_writable() {
  if (login_ && login_->stage() == ServerLogin::Stage::connecting) {
    on_connected();
    return;
  }
  if (login_ && login_->stage() == ServerLogin::Stage::tls_handshake) {
    login_->go_on_with_handshake();
    return;
  }
  if (!unsent_.write_to(socket_, worker_->now())) {
    lose("the connection was closed while a statement was being sent");
    return;
  }
  if (unsent() == 0) socket_.want_write(false);
  if (client != nullptr) client->update_reading();
}

void Server::resume_reading() {
  if (!socket_.is_open() || socket_.reading()) return;
  socket_.resume_reading();
  if (socket_.has_buffered()) worker_->read_again(*this);
}

// --- connecting ------------------------------------------------------------------------------------

void Server::on_connected() {
  if (const int error = socket_.finish_connect(); error != 0) {
    login_failed(true, std::string(wire::sqlstate::kConnectionFailure),
                 "could not connect to " + node_name_ + ": " + std::strerror(error));
    return;
  }
  socket_.set_keepalive(worker_->settings().pool_tcp);
  login_->connected();
}

void Server::login_failed(bool node_is_at_fault, std::string sqlstate, std::string message) {
  // As in libpq: where TLS is a matter of taste, a server whose pg_hba.conf refuses the first way is asked
  // the other way.
  const conf::TlsMode mode = worker_->settings().tls_server_mode;
  const bool taste = mode == conf::TlsMode::allow || mode == conf::TlsMode::prefer;
  if (taste && !tried_both_ && sqlstate == wire::sqlstate::kInvalidAuthorizationSpecification &&
      !ip_.starts_with('/') && worker_->server_tls() != nullptr) {
    tried_both_ = true;
    ask_tls_ = !ask_tls_;
    socket_.close();
    unsent_.clear();
    parameters.clear();
    spent_login_ = std::move(login_);  // it is on the stack
    login_ = std::make_unique<ServerLogin>(*worker_, *this);
    if (start()) return;
  }
  worker_->server_failed(*this, node_is_at_fault, sqlstate, message);
}

// --- bytes in --------------------------------------------------------------------------------------

void Server::lose(std::string_view why) {
  if (login_) {
    login_failed(true, std::string(wire::sqlstate::kConnectionFailure),
                 node_name_ + " closed the connection during login");
    return;
  }
  node_at_fault = true;
  worker_->retire(*this, ServerEnd::lost, why);
}

void Server::on_readable() {
  if (state == pool::ServerState::closing) return;
  if (login_ && login_->stage() == ServerLogin::Stage::connecting) return;
  if (login_ && login_->stage() == ServerLogin::Stage::tls_handshake) {
    login_->go_on_with_handshake();
    return;
  }
  const std::span<char> buffer = worker_->read_buffer();
  const std::size_t kept = carry_.size();
  if (kept > 0) std::memcpy(buffer.data(), carry_.data(), kept);
  const net::Transfer got = socket_.read(buffer.subspan(kept, Worker::kReadSize));
  if (!got.moved()) {
    if (got.ended()) lose("the server closed the connection");
    return;
  }
  worker_->count().server_bytes_received.add(got.count);
  heard = true;
  const std::string_view bytes(buffer.data(), kept + got.count);
  const bool more = socket_.has_buffered();
  ServerLogin* const login = login_.get();
  const std::size_t used = login != nullptr ? login->on_bytes(bytes) : relay(bytes);
  if (state == pool::ServerState::closing) return;
  if (login_.get() != login) return;  // it connects anew
  if (used < bytes.size()) {
    carry_.assign(bytes.substr(used));
  } else {
    carry_.clear();
  }
  if (login_ && login_->stage() == ServerLogin::Stage::done) {
    login_done();
    return;
  }
  if (more && socket_.reading()) worker_->read_again(*this);
  // Last: it may give this server to another worker, unless a cancel is on its way.
  const bool has_held_cancels = !held_cancels.empty();
  if (!login_) after_answers();
  if (has_held_cancels) [[unlikely]] worker_->send_held_cancels(*this);
}

void Server::login_done() {
  login_ = nullptr;
  spent_login_ = nullptr;
  if (!carry_.empty()) {
    worker_->retire(*this, ServerEnd::unexpected_message, "bytes after the first ReadyForQuery");
    return;
  }
  worker_->server_ready(*this);
}

namespace {

// What goes to the client of one read: runs of the server's bytes, and now and then a few of ours.
class Outgoing {
 public:
  explicit Outgoing(std::string_view bytes) : bytes_(bytes) {}

  void pass(std::size_t from, std::size_t to) {
    if (from == to) return;
    if (count_ > 0 && !mixed_ && end_ == from) {
      end_ = to;
      parts_[count_ - 1].iov_len += to - from;
      return;
    }
    if (count_ == parts_.size()) {
      mix();
    }
    if (mixed_) {
      own_.append(bytes_.substr(from, to - from));
      return;
    }
    parts_[count_++] = {const_cast<char*>(bytes_.data()) + from, to - from};
    end_ = to;
  }
  void add(std::string_view ours) {
    mix();
    own_.append(ours);
  }
  std::span<const iovec> parts() {
    if (mixed_) {
      parts_[0] = {own_.data(), own_.size()};
      count_ = own_.empty() ? 0 : 1;
    }
    return {parts_.data(), count_};
  }
  void clear() {
    count_ = 0;
    mixed_ = false;
    own_.clear();
    end_ = 0;
  }

 private:
  void mix() {
    if (mixed_) return;
    for (std::size_t i = 0; i < count_; ++i)
      own_.append(static_cast<const char*>(parts_[i].iov_base), parts_[i].iov_len);
    mixed_ = true;
  }
  std::string_view bytes_;
  std::array<iovec, 16> parts_;
  std::size_t count_ = 0;
  std::size_t end_ = 0;
  bool mixed_ = false;
  std::string own_;
};

// Postgres reports some fifteen; a server that reports without end is none.
constexpr std::size_t kMostParameters = 100;

std::string_view local_answer(Request request) {
  using namespace std::string_view_literals;
  return request == Request::close ? "3\0\0\0\4"sv : "1\0\0\0\4"sv;
}

}  // namespace

// Answers that are ours to give, as soon as everything before them has been answered.
template <class Add>
void Server::take_local(Add add) {
  while (const auto local = pipeline.take_local()) {
    if (client != nullptr) settle(local->tag);
    add(local_answer(local->request));
  }
}

void Server::answer_locally() {
  if (!pipeline.local_is_due()) return;
  std::string answers;
  take_local([&answers](std::string_view ours) { answers += ours; });
  if (!answers.empty() && client != nullptr) client->send(answers);
}

// Last words for a client that has broken the protocol: it hears them as they are, and goes with its server.
bool Server::blame_client(const wire::ErrorFields& error) {
  blames_client = client != nullptr && !healing.armed() && error.severity == "FATAL" &&
                  error.sqlstate == wire::sqlstate::kProtocolViolation;
  return blames_client;
}

std::size_t Server::relay(std::string_view bytes) {
  Outgoing out(bytes);
  std::size_t at = 0;
  std::size_t run = 0;       // bytes[run, at) go to the client as they are
  bool spoiled = false;      // said something that nobody asked for
  std::string fatal;         // the server's last words
  const auto skip_to = [&](std::size_t next) {
    out.pass(run, at);
    run = next;
  };
  // Answers of ours that waited for the server's first word (Healing).
  if (pipeline.local_is_due()) take_local([&out](std::string_view ours) { out.add(ours); });

  while (at < bytes.size()) {
    if (pass_left_ > 0) {
      const std::size_t here = std::min(pass_left_, bytes.size() - at);
      if (pass_swallow_) skip_to(at + here);
      pass_left_ -= here;
      at += here;
      continue;
    }
    wire::Frame frame;
    const wire::Cut cut = wire::cut({bytes.data() + at, bytes.size() - at}, &frame);
    if (cut == wire::Cut::need_more) break;
    if (cut == wire::Cut::malformed) {
      spoiled = true;
      break;
    }
    const bool small = frame.size <= kWhole;
    if (!frame.complete && small && frame.type != be::kDataRow && frame.type != be::kCopyData) break;

    const std::size_t here = std::min(frame.size, bytes.size() - at);
    const bool completes = frame.type == be::kCommandComplete;
    // How a transaction ended matters to settings made in it.
    const bool matters = completes && session.on_trial();
    if (!matters && pipeline.passes(frame.type)) {
      if (completes) count_rows(frame.body);
      at += here;
      if (!frame.complete) {
        pass_left_ = frame.size - here;
        pass_swallow_ = false;
      }
      if (pipeline.local_is_due()) {
        skip_to(at);
        take_local([&out](std::string_view ours) { out.add(ours); });
      }
      continue;
    }
    const wire::Pipeline::Verdict verdict = pipeline.on_answer(frame.type);
    if (verdict.unexpected) {
      if (frame.type == be::kErrorResponse) {
        const wire::ErrorFields error = wire::peek_error(frame.body);
        fatal = std::string(error.message);
        if (blame_client(error)) at += here;
      }
      spoiled = true;
      break;
    }
    bool swallow = verdict.swallow;
    std::string_view instead;
    switch (frame.type) {
      case be::kErrorResponse: {
        reconcile();
        const wire::ErrorFields error = wire::peek_error(frame.body);
        if (error.severity == "FATAL" || error.severity == "PANIC") {
          had_last_words = true;
          fatal = "the server ended the connection: " + std::string(error.message);
          healing.note_last_words(error.sqlstate);
          // Crash, recovery, shutdown; 57P01 may have been for this one connection.
          node_at_fault = error.sqlstate == "57P02" || error.sqlstate == wire::sqlstate::kCannotConnectNow;
          if (blame_client(error)) at += here;
          break;
        }
        swallow = on_error(verdict.answered, error, frame, &instead);
        if (healing.failed()) {  // the client hears nothing of it
          out.clear();
          run = at;
        }
        break;
      }
      case be::kParameterStatus: {
        const auto told = wire::decode_parameter_status(frame.body);
        if (!told || !frame.complete) break;
        // What a RESET leads to is told when it is certain.
        const bool resets = !swallow && client != nullptr && !in_flight.empty() &&
                            in_flight.front().changes && !client->session->startup()->entries.empty();
        // A server that becomes primary while we hold it says so; the client's idea does not change.
        if (told->name == "in_hot_standby") {
          swallow = true;
        } else if (resets || is_restoring()) {
          withhold(told->name);
          swallow = true;
        }
        parameter_changed(told->name, told->value);
        // Nobody has asked for that: its own default has changed, and with it what new clients are to hear.
        if (!resetting_ && !verdict.swallow && (in_flight.empty() || !in_flight.front().changes))
          identity_->welcomes.clear();
        break;
      }
      case be::kNoticeResponse:
        // "terminating connection because of crash of another server process"
        if (wire::peek_error(frame.body).sqlstate == wire::sqlstate::kCrashShutdown) {
          had_last_words = true;
          worker_->crash_heard(*this);
        }
        break;
      case be::kNotificationResponse:
        // Of a channel that it listens to, whatever we are asking just now.
        if (client != nullptr && routing::any(client->pins & routing::Pin::listen)) swallow = false;
        break;
      case be::kParseComplete:
      case be::kCloseComplete:
        if (frame.type == be::kParseComplete) parsing.erase(verdict.answered.tag);
        if (client != nullptr && verdict.answered.whom != For::nobody) settle(verdict.answered.tag);
        break;
      case be::kCommandComplete:
        if (swallow && routing::any(asked_)) on_proof(frame.body);
        if (!swallow) count_rows(frame.body);
        // A DEALLOCATE in a sequence, which is not undone by what fails behind it.
        if (client != nullptr && verdict.answered.tag == kDeallocates && !client->prepared->deallocated.empty())
          client->prepared->deallocated.pop_front();
        if (!swallow && status != 'I' && session.on_trial()) {
          if (frame.body.starts_with("COMMIT") || frame.body.starts_with("PREPARE TRANSACTION"))
            committed_ = true;
          if (frame.body.starts_with("ROLLBACK")) committed_ = false;
        }
        break;
      case be::kReadyForQuery:
        if (frame.body.size() != 1) {
          spoiled = true;
          break;
        }
        if (again_ || healing.failed()) [[unlikely]] {
          status = frame.body[0];
          swallow = true;
          if (again_) send_again();
          break;
        }
        swallow |= on_ready(frame.body[0], verdict.answered, &instead);
        break;
      case be::kCopyInResponse: reconcile(); break;
      default: break;
    }
    if (spoiled || !fatal.empty() || !replay_error_.empty()) break;

    if (swallow) skip_to(at + here);
    at += here;
    if (!instead.empty()) {
      skip_to(at);
      out.add(instead);
    }
    pass_left_ = frame.size - here;
    pass_swallow_ = swallow;

    if (pipeline.local_is_due()) {
      skip_to(at);
      take_local([&out](std::string_view ours) { out.add(ours); });
    }
  }
  out.pass(run, std::max(run, at));

  if (client != nullptr) {
    if (const auto parts = out.parts(); !parts.empty()) {
      if (flight != nullptr) [[unlikely]]
        worker_->keep_answer(*this, parts);
      if (healing.armed()) {
        deliver_head(parts);
      } else {
        client->send(parts);
      }
    }
    instead_.clear();
  }
  if (state == pool::ServerState::closing) return bytes.size();
  if (!replay_error_.empty()) {
    worker_->retire(*this, resetting_ ? ServerEnd::reset_failed : ServerEnd::replay_failed,
                    (resetting_ ? "resetting it: " : "restoring the session's settings: ") + replay_error_);
    return bytes.size();
  }
  if (spoiled || !fatal.empty()) {
    worker_->retire(*this,
                    fatal.empty()    ? ServerEnd::unexpected_message
                    : blames_client ? ServerEnd::client_vanished
                                    : ServerEnd::lost,
                    fatal);
    return bytes.size();
  }
  // Who reads slowly holds nobody up who waits for the same: what is kept for it then is bounded by what is shared.
  if (client != nullptr && !pipeline.idle() &&
      client->unsent() > worker_->settings().limits_client_buffer.count && flight == nullptr)
    socket_.pause_reading();
  return at;
}

// An ErrorResponse that ends a request but not the connection. True: not for the client as it is.
bool Server::on_error(const wire::Pipeline::Entry& failed, const wire::ErrorFields& error,
                      const wire::Frame& frame, std::string_view* instead) {
  std::size_t tentative = 0;
  const auto forget = [this, &tentative](const wire::Pipeline::Entry& entry, bool skipped) {
    if (entry.request == Request::parse && entry.tag != 0 && entry.whom != For::local) {
      // One that was skipped leaves there what an earlier one has made.
      const bool unmade = parsing.erase(entry.tag) > 0;
      if (unmade || !skipped) statements.remove(entry.tag);
    }
    if (entry.request == Request::parse && entry.tag == 0) {
      unnamed_version = 0;
      if (client != nullptr && entry.whom == For::client) client->forget_unnamed();
    }
    // One that takes back a lent statement leaves it there.
    if (entry.request == Request::close && entry.whom == For::nobody && entry.tag != kUnaccounted &&
        entry.tag != kReplays)
      statements_uncertain_ = true;
    const bool named = entry.request == Request::parse || entry.request == Request::close;
    if (named && entry.whom != For::nobody && entry.tag != 0) ++tentative;
    if (client != nullptr && entry.whom == For::doomed && !client->preparing().doomed.empty())
      client->prepared->doomed.pop_front();
  };
  // What the server calls by our name has another one for the client.
  bool swallow = false;
  const auto pass_renamed = [&](const wire::Renaming& renaming) {
    if (!frame.complete) return;
    instead_.clear();
    wire::append_renamed_error(instead_, frame.body, renaming);
    *instead = instead_;
    swallow = true;
  };
  if (failed.whom == For::doomed && client != nullptr && !client->preparing().doomed.empty()) {
    ClientPrepared::Doomed& doomed = client->prepared->doomed.front();
    if (doomed.error.empty()) {
      pass_renamed({kTakenName, doomed.name});
    } else {
      instead_ = std::move(doomed.error);
      *instead = instead_;
      swallow = true;
    }
    client->prepared->doomed.pop_front();
  }
  if (error.sqlstate == wire::sqlstate::kQueryCanceled && watch.canceled && failed.whom == For::client &&
      client != nullptr && watch.client == client->id() && watch.statement == client->statements) {
    worker_->refusal(pool::Refusal::query_timeout);
    instead_.clear();
    wire::append_error(instead_, {.severity = "ERROR",
                                  .sqlstate = wire::sqlstate::kQueryCanceled,
                                  .message = "canceling statement due to query timeout "
                                             "(pool.query_timeout)",
                                  .detail = "reason=query_timeout"});
    *instead = instead_;
    swallow = true;
  }
  if (failed.request == Request::parse && failed.tag == kQuiet) {
    swallow = true;
    // The server has a statement under a client's own name that was not taken back.
    statements_uncertain_ |= error.sqlstate == wire::sqlstate::kDuplicatePreparedStatement;
  }
  if ((failed.request == Request::query && failed.whom == For::nobody) || failed.tag == kReplays) {
    if (routing::any(asked_)) return true;  // what it has not said is still there
    replay_error_ = std::string(error.sqlstate) + " " + std::string(error.message);
    return true;
  }
  const bool of_statement = is_of_statement(failed.tag);
  std::string name;  // the client's for it, by what stands now
  if (of_statement && client != nullptr && client->prepared) name = client->prepared->name_of(failed.tag);
  // It does not know a statement that we think it has, or has one that we think it has not, or its plan
  // is of no use any more: nobody should meet that twice.
  if (of_statement &&
      (error.sqlstate == wire::sqlstate::kInvalidSqlStatementName ||
       error.sqlstate == wire::sqlstate::kDuplicatePreparedStatement ||
       error.sqlstate == wire::sqlstate::kFeatureNotSupported)) {
    spoilt(failed, error.sqlstate);
    if (again_) return true;
  }
  // Thought a read, and refused as none: everybody will know.
  if (role == routing::NodeRole::replica && status == 'I' && failed.whom == For::client && !in_flight.empty() &&
      in_flight.front().kind == routing::StatementClass::read && wire::refused_in_recovery(error))
    worker_->read_refused(*this, in_flight.front().digest, error.sqlstate);
  const bool again_elsewhere = healing.armed() && heals(error);
  if (!again_elsewhere) stop_healing();
  if (wire::refused_in_recovery(error)) [[unlikely]] doubt_role();
  // What the server skips from here to the next Sync never happened; the failed one is among it.
  bool first = true;
  for (const wire::Pipeline::Entry& entry : pipeline.skipped()) {
    if (!(first && entry.whom == For::doomed)) forget(entry, !first);
    first = false;
  }
  if (again_elsewhere) {
    undo_tentative();
    return true;
  }
  if (tentative > 0 && client != nullptr) undo_first(tentative);
  if (!name.empty()) pass_renamed({pool::server_name(failed.tag), name});
  if (!in_flight.empty()) in_flight.front().failed = true;
  return swallow;
}

// What this server has made of a named statement is of no use: whoever prepares it from now on, and this
// client, use another one, which is parsed anew wherever it comes.
void Server::spoilt(const wire::Pipeline::Entry& failed, std::string_view sqlstate) {
  const pool::PreparedRef statement = statements.find(failed.tag);
  if (statement == nullptr) {
    statements_uncertain_ = true;
    return;
  }
  const pool::PreparedRef fresh = worker_->shared().prepared.renew(statement);
  if (client != nullptr && client->prepared) client->prepared->replace(statement, fresh);
  if (may_send_again(failed, sqlstate)) {
    again_ = std::make_unique<Again>(statement, pipeline.skipped());
    retain_nothing();
  } else {
    statements_uncertain_ = true;
  }
}

bool Server::may_send_again(const wire::Pipeline::Entry& failed, std::string_view sqlstate) const {
  // Nothing of it has been answered, and nothing has been sent behind it.
  const std::vector<wire::Pipeline::Entry>& requests = pipeline.skipped();
  if (client == nullptr || status != 'I' || retained_requests_ == 0 ||
      requests.size() != retained_requests_ || pipeline.depth() != 1)
    return false;
  if (sqlstate != wire::sqlstate::kFeatureNotSupported) return true;
  // The result has other columns than before: only a client that asks which they are can read it.
  return failed.request == Request::bind &&
         std::ranges::any_of(requests, [](const wire::Pipeline::Entry& request) {
           return request.request == Request::describe_portal;
         });
}

void Server::send_again() {
  const std::unique_ptr<Again> again = std::move(again_);
  const pool::Prepared& statement = *again->statement;
  std::string bytes;
  wire::append_close(bytes, wire::Named::statement, statement.server_name);
  pipeline.sent({Request::close, For::nobody});
  const bool parses = again->requests.front().request == Request::parse;
  if (!parses) {
    wire::append_parse(bytes, statement.server_name, statement.tail);
    pipeline.sent({Request::parse, For::nobody, statement.id});
  }
  for (const wire::Pipeline::Entry& request : again->requests) pipeline.sent(request);
  pipeline.sent({Request::sync});
  worker_->count().prepared_parses_injected.add();
  send(bytes.append(retained_, retained_from_));
}

// Requests are answered in the order in which they were sent, so it is the first.
void Server::settle(std::uint32_t id) {
  if (id == 0 || !client->prepared || client->prepared->tentative.empty()) return;
  if (healing.armed()) {
    healing.settle_later();
    return;
  }
  ENSURE(client->prepared->tentative.front().id == id);
  client->prepared->tentative.pop_front();
}

void Server::undo_first(std::size_t count) {
  if (!client->prepared) return;
  std::list<Tentative>& tentative = client->prepared->tentative;
  std::list<Tentative> undone;
  undone.splice(undone.end(), tentative, tentative.begin(),
                std::next(tentative.begin(), static_cast<std::ptrdiff_t>(
                                                 std::min(count, tentative.size()))));
  for (auto it = undone.rbegin(); it != undone.rend(); ++it) {
    if (it->closes) {
      client->prepared->put(it->name, std::move(it->statement));
    } else {
      client->prepared->erase(it->name);
      // A DEALLOCATE that was skipped too must not bring it back.
      std::erase_if(client->prepared->deallocated, [&it](const auto& one) {
        return one.first == it->name && one.second.statement && one.second.statement->id == it->id;
      });
    }
  }
}

void Server::parameter_changed(std::string_view name, std::string_view value) {
  for (auto& [known, known_value] : parameters) {
    if (known != name) continue;
    known_value = value;
    return;
  }
  if (parameters.size() < kMostParameters) parameters.emplace_back(name, value);
}

// A ReadyForQuery that was owed. The only place where a finished batch is counted.
// True: the client is told so later, or by `instead`.
bool Server::on_ready(char new_status, const wire::Pipeline::Entry& answered, std::string_view* instead) {
  const char old_status = std::exchange(status, new_status);
  if (answered.whom == For::nobody) {
    if (answered.tag == kRestores) {
      tell_restored(instead);
      return true;
    }
    if (!routing::any(asked_)) return false;
    const routing::Pin gone = std::exchange(gone_, routing::Pin::none);
    asked_ = unproven_ = routing::Pin::none;
    if (client != nullptr) worker_->unpin(*client, gone);
    return false;
  }
  ENSURE(!in_flight.empty());
  InFlight done = in_flight.take_front();
  worker_->finished(*this, client, done, old_status, committed_);
  committed_ = false;
  if (client != nullptr && client->held) [[unlikely]] {
    // It ran by itself, in a transaction that no server knows of.
    client->held->failed |= done.failed;
    instead_.clear();
    client->append_ready(instead_);
    *instead = instead_;
    return true;
  }
  if (client != nullptr && client->unsettled && restore_startup_values()) return true;
  if (restoring_ == nullptr) return false;
  tell_restored(instead);
  return true;
}

// RESET goes back to the client's start-up values, which this server does not have from its own start-up: it
// is given them now. True: sent, and the ReadyForQuery waits for the answer.
bool Server::restore_startup_values() {
  if (status == 'E' || !only_ours() || session.current() == client->session->current()) return false;
  const auto replay = pool::replay_statements(*session.current(), *client->session->current());
  session.assume(client->session->current(), status == 'T');
  if (replay.empty()) return false;
  worker_->count().settings_replays.add();
  if (restoring_ == nullptr) restoring_ = std::make_unique<Restoring>();
  restoring_->ready = true;
  // Not by a Query: in a transaction the unnamed portal is still there.
  std::string messages;
  append_own(*this, replay, messages);
  wire::append_sync(messages);
  pipeline.sent({Request::sync, For::nobody, kRestores});
  send(messages);
  return true;
}

void Server::withhold(std::string_view name) {
  if (restoring_ == nullptr) restoring_ = std::make_unique<Restoring>();
  const auto known = std::ranges::find(parameters, name, &std::pair<std::string, std::string>::first);
  const auto told = std::ranges::find(restoring_->told, name, &std::pair<std::string, std::string>::first);
  if (told == restoring_->told.end() && restoring_->told.size() < kMostParameters)
    restoring_->told.emplace_back(name, known == parameters.end() ? "" : known->second);
}

namespace {

// Our SET of a list puts a blank behind each comma, whatever stood in the client's start-up packet.
bool same_list(std::string_view one, std::string_view other) {
  const auto spaced = [](std::string_view text) {
    std::string kept;
    for (const char c : text)
      if (c != ' ' || kept.empty() || kept.back() != ',') kept += c;
    return kept;
  };
  return spaced(one) == spaced(other);
}

}  // namespace

// What is different now from what the client was told last, and that its batch is answered.
void Server::tell_restored(std::string_view* instead) {
  const std::unique_ptr<Restoring> restored = std::move(restoring_);
  instead_.clear();
  for (const auto& [name, value] : parameters) {
    const auto told = std::ranges::find(restored->told, name, &std::pair<std::string, std::string>::first);
    if (told != restored->told.end() && !same_list(told->second, value))
      wire::append_parameter_status(instead_, {name, value});
  }
  wire::append_ready_for_query(instead_, static_cast<wire::TransactionStatus>(status));
  *instead = instead_;
}

void Server::give_up_restoring() {
  if (!is_restoring() || client == nullptr) return;
  std::string_view words;
  tell_restored(&words);
  client->send(words);
}

// All that has arrived is dealt with: is the server free, is something waiting for this?
void Server::after_answers() {
  if (flight != nullptr && flight->leader == nullptr) [[unlikely]]
    worker_->share_answer(*this);
  if (!pipeline.idle()) {
    if (client == nullptr) return;
    // An error before a Query of the same sequence: what ends the sequence may be waiting for an answer
    // that will not come.
    if (pipeline.skipping() && pipeline.nothing_owed()) {
      client->go_on();
    } else {
      client->update_reading();
    }
    return;
  }
  if (healing.failed() && client != nullptr) [[unlikely]] {
    if (status != 'I') {
      worker_->retire(*this, ServerEnd::unexpected_message, "a transaction that nobody began");
    } else {
      worker_->run_again(*client, *this);
    }
    return;
  }
  in_flight.clear();
  if (client == nullptr) {
    if (resetting_) {
      if (status != 'I') {
        worker_->retire(*this, ServerEnd::reset_failed, "still in a transaction");
        return;
      }
      resetting_ = false;
      must_reset = false;
      session.assume(worker_->interner().empty());
      statements.clear();
      unnamed_version = 0;
    }
    worker_->settle(*this);
    return;
  }
  worker_->idle_link(*client, *this);
}

namespace {

struct Proof {
  routing::Pin pin;
  std::string_view sql;  // a row means that there is some left
};
// Every bit of Server::kProvable, lowest first. Nothing in them can mean something else through the
// session's search_path.
constexpr Proof kProofs[] = {
    // Whatever is in the session's temporary schema depends on it. As long as search_path names it,
    // anything that is created may be temporary.
    {routing::Pin::temporary_table,
     "SELECT 1 WHERE EXISTS (SELECT FROM pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) "
     "'pg_catalog.pg_namespace'::pg_catalog.regclass AND refobjid OPERATOR(pg_catalog.=) "
     "pg_catalog.pg_my_temp_schema()) OR pg_catalog.strpos(pg_catalog.current_setting('search_path'), "
     "'pg_temp') OPERATOR(pg_catalog.>) 0;"},
    {routing::Pin::listen, "SELECT 1 FROM pg_catalog.pg_listening_channels() LIMIT 1;"},
    {routing::Pin::advisory_lock,
     "SELECT 1 FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid "
     "OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() LIMIT 1;"},
    {routing::Pin::holdable_cursor, "SELECT 1 FROM pg_catalog.pg_cursors WHERE is_holdable LIMIT 1;"},
    {routing::Pin::sql_prepare,
     "SELECT 1 FROM pg_catalog.pg_prepared_statements WHERE from_sql LIMIT 1;"},
};

}  // namespace

void Server::ask(routing::Pin about) {
  ENSURE(pipeline.idle() && status == 'I' && !routing::any(asked_) && !resetting_);
  asked_ = unproven_ = about;
  std::string sql = "SET LOCAL statement_timeout TO " +
                    std::to_string(worker_->settings().pool_cleanup_timeout.count()) + ";";
  for (const Proof& proof : kProofs)
    if (routing::any(about & proof.pin)) sql += proof.sql;
  std::string query;
  wire::append_query(query, sql);
  pipeline.sent({Request::query, For::nobody});
  unnamed_version = 0;
  send(query);
}

// "SELECT 0" or "SELECT 1", in the order in which it was asked.
void Server::on_proof(std::string_view tag) {
  constexpr std::string_view kRows = "SELECT ";
  if (!tag.starts_with(kRows)) return;
  const auto left = static_cast<unsigned>(unproven_);
  const auto next = static_cast<routing::Pin>(left & ~(left - 1));
  unproven_ = static_cast<routing::Pin>(left & (left - 1));
  if (tag.substr(kRows.size()).starts_with('0')) gone_ |= next;
}

void Server::reset() {
  ENSURE(client == nullptr && only_ours() && !resetting_);
  resume_reading();
  resetting_ = true;
  reset_since_ = worker_->now();
  std::string queries;
  if (status != 'I') {
    wire::append_query(queries, "ROLLBACK");
    pipeline.sent({Request::query, For::nobody});
  }
  wire::append_query(queries, "DISCARD ALL");
  pipeline.sent({Request::query, For::nobody});
  send(queries);
}

void Server::undo_tentative() {
  if (client == nullptr || !client->prepared) return;
  client->prepared->put_back_deallocated();
  undo_first(client->prepared->tentative.size());
}

void Server::detach() {
  worker_->outbox().flush();
  parts_ = socket_.detach();
  worker_ = nullptr;
  identity_ = nullptr;
}

void Server::attach(Worker& worker, Identity& identity) {
  worker_ = &worker;
  identity_ = &identity;
  session = pool::SessionSettings(worker.interner().empty());
  unnamed_version = 0;  // versions are the other worker's
  looked_at = 0;
  socket_.attach(worker.loop(), std::move(parts_), *this);
}

void Server::close_socket() {
  worker_->outbox().flush();
  socket_.close();
}

void Server::say_goodbye() {
  worker_->outbox().flush();
  if (login_ || unsent() > 0 || !socket_.is_open()) return;
  std::string terminate;
  wire::append_terminate(terminate);
  const iovec part{terminate.data(), terminate.size()};
  (void)socket_.write(std::span(&part, 1));
}

}  // namespace proxy
