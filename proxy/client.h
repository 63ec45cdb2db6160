#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "metrics/digest_stats.h"
#include "metrics/worker_metrics.h"
#include "pool/admission.h"
#include "pool/list.h"
#include "pool/pool.h"
#include "pool/prepared.h"
#include "pool/session_settings.h"
#include "proxy/batch_extras.h"
#include "proxy/bound_portals.h"
#include "proxy/healing.h"
#include "proxy/held_transaction.h"
#include "proxy/lending.h"
#include "proxy/messages.h"
#include "proxy/net/socket.h"
#include "proxy/unsent.h"
#include "routing/chooser.h"
#include "routing/classifier.h"
#include "routing/router.h"
#include "routing/token.h"
#include "routing/rules.h"

namespace proxy {

class ClientLogin;
class ConsoleSession;
class Server;
class Worker;
struct Identity;
struct BatchMessage;
struct Scan;

enum class ClientState : std::uint8_t {
  login,     // from accept to the first ReadyForQuery
  idle,      // nothing asked, no server held (or pinned to one)
  waiting,   // a whole batch is here; admission or a server is not
  active,    // linked to a server that works for it
  console,   // talks to pgsluice itself
  closing,   // freed at the end of the turn
};
std::string_view name(ClientState state);

constexpr bool may_follow(ClientState from, ClientState to) {
  using enum ClientState;
  if (to == closing) return from != closing;
  switch (from) {
    case login: return to == idle || to == console || to == waiting;
    case idle: return to == waiting || to == active;
    case waiting: return to == active || to == idle;
    case active: return to == idle || to == waiting;
    case console: return false;
    case closing: return false;
  }
  return false;
}

// Why a client's connection ended: log field, metric label.
enum class ClientEnd : std::uint8_t {
  goodbye,             // Terminate
  gone,                // closed or reset without one
  login_failed,
  login_timeout,
  probe_only,          // opened and closed without a word, or sent a cancel
  protocol_violation,
  slow_reader,
  idle_timeout,
  idle_transaction_timeout,
  transaction_timeout,
  server_lost,         // inside a transaction
  too_many_clients,
  draining,
  shutdown,
  killed,              // by an operator
  count_
};
std::string_view name(ClientEnd end);

// What a waiting client waits for.
enum class WaitingFor : std::uint8_t { nothing, tenant, node, server, replay, resume, replica, floor, answer };
std::string_view name(WaitingFor what);

// What a client prepared under one of its names.
struct ClientStatement {
  pool::PreparedRef statement;  // null: prepared by SQL, on the server that the client is pinned to
  std::shared_ptr<const routing::Facts> facts;
  std::uint64_t scope_version = 0;  // that `facts` were judged by
  bool commented = false;           // its text may carry hints and tags in a comment
};
struct NameHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
};
using ClientStatements = std::unordered_map<std::string, ClientStatement, NameHash, std::equal_to<>>;

// A statement that this client prepared by name and whose Parse (or Close) has not been answered yet:
// forgotten (or restored) when the server skips it.
struct Tentative {
  std::uint32_t id;
  std::string name;
  ClientStatement statement;
  bool closes;
};

// Everything about the statements that a client has prepared: most clients of the simple protocol have
// none, and do not pay for it.
class ClientPrepared {
 public:
  const ClientStatements& named() const { return named_; }
  ClientStatement* find(std::string_view name) {
    if (named_.empty()) return nullptr;
    // Asked twice per Bind, and drivers repeat themselves.
    if (last_ != nullptr && last_->first == name) return &last_->second;
    const auto found = named_.find(name);
    if (found == named_.end()) return nullptr;
    last_ = &*found;
    return &found->second;
  }
  const ClientStatement* look(std::string_view name) const {
    const auto found = named_.find(name);
    return found == named_.end() ? nullptr : &found->second;
  }
  void put(std::string name, ClientStatement statement) {
    erase(name);
    bytes_ += cost(name, statement.statement);
    named_.emplace(std::move(name), std::move(statement));
  }
  ClientStatement take(std::string_view name) {
    const auto found = named_.find(name);
    ClientStatement taken = std::move(found->second);
    bytes_ -= cost(name, taken.statement);
    last_ = nullptr;
    named_.erase(found);
    return taken;
  }
  void erase(std::string_view name) {
    if (named_.contains(name)) (void)take(name);
  }
  // What SQL prepared is gone.
  void erase_sql() {
    last_ = nullptr;
    std::erase_if(named_, [this](const auto& one) {
      if (one.second.statement) return false;
      bytes_ -= cost(one.first, nullptr);
      return true;
    });
  }
  // Wherever `spoilt` stands, `fresh` has the same text.
  void replace(const pool::PreparedRef& spoilt, const pool::PreparedRef& fresh) {
    for (auto& [name, one] : named_)
      if (one.statement == spoilt) one.statement = fresh;
  }
  void clear() {
    last_ = nullptr;
    named_.clear();
    bytes_ = 0;
  }
  // What limits.prepared counts: names, texts, and what keeping one of them costs beside.
  static std::size_t cost(std::string_view name, const pool::PreparedRef& statement) {
    constexpr std::size_t kEach = 256;
    return kEach + name.size() + (statement ? statement->tail.size() : 0);
  }
  std::size_t bytes() const { return bytes_; }

  // A statement is being prepared under these settings.
  void note_reading(const pool::SettingsRef& settings) {
    if (!first_read_by_) first_read_by_ = settings;
    if (first_read_by_ != settings) read_differently_ = true;
  }
  // May one of them have been read by other settings than these?
  bool may_differ(const pool::SettingsRef& settings) const {
    return read_differently_ || (first_read_by_ && first_read_by_ != settings);
  }

  // Taken by DEALLOCATEs that have been sent and have not succeeded yet, in order: put back if they fail.
  std::list<std::pair<std::string, ClientStatement>> deallocated;
  bool deallocate(std::string_view name) {
    if (name.empty() || !named_.contains(name)) return false;
    deallocated.emplace_back(name, take(name));
    return true;
  }
  void put_back_deallocated() {
    for (auto& [name, statement] : deallocated)
      if (!named_.contains(name)) put(std::move(name), std::move(statement));
    deallocated.clear();
  }
  std::list<Tentative> tentative;  // in the order of their requests
  // A name of that statement; "" when there is none.
  std::string_view name_of(std::uint32_t id) const {
    for (const auto& [name, statement] : named_)
      if (statement.statement && statement.statement->id == id) return name;
    for (const Tentative& one : tentative)
      if (one.id == id) return one.name;
    return {};
  }
  std::string unnamed;  // tail of the last Parse of the unnamed statement
  std::shared_ptr<const routing::Facts> unnamed_facts;
  pool::SettingsRef unnamed_settings;  // that it was parsed by
  bool unnamed_commented = false;
  // Sent so that the server refuses them, in order.
  struct Doomed {
    std::string error;  // instead of the server's own; "": that is passed on,
    std::string name;   // with the client's name for the statement
  };
  std::list<Doomed> doomed;
  std::unique_ptr<BoundPortals> portals;  // null, nearly always; gone with the transaction
  std::unique_ptr<Lending> lending;  // while a batch is sent, and between its sequence's batches
  // What the Parses of the batch that waits are, by the scope of that version.
  std::vector<std::shared_ptr<const routing::Facts>> waiting;
  std::uint64_t waiting_version = 0;

 private:
  ClientStatements named_;
  ClientStatements::value_type* last_ = nullptr;  // the one that was looked for last
  std::size_t bytes_ = 0;
  pool::SettingsRef first_read_by_;  // of the first that was prepared by name
  bool read_differently_ = false;    // another one was prepared under other settings
};

// One client connection, from accept to goodbye.
class Client final : public pool::Waiter, public net::SocketOwner {
 public:
  Client(Worker& worker, ClientId id, NewClient&& accepted);
  ~Client();

  ClientId id() const { return id_; }
  ClientState state() const { return state_; }
  void move_to(ClientState next);

  // --- set at login ---------------------------------------------------------------------------------
  Identity* identity = nullptr;
  pool::Tenant* tenant = nullptr;
  std::uint32_t cancel_secret = 0;
  bool long_cancel_key = false;        // it speaks a protocol that has them
  bool counted = false;  // among its database's and its user's clients

  // --- session --------------------------------------------------------------------------------------
  std::unique_ptr<pool::SessionSettings> session;  // null until login is complete
  routing::SessionState route_state;
  routing::ClientRules* rules = nullptr;  // [[route]] rules that it can meet, the worker's; null: none
  routing::Pin pins = routing::Pin::none;
  bool standard_strings = true;
  routing::Classifier::Encoding encoding = routing::Classifier::Encoding::ascii_safe;
  // Of its statements, settings_changed(); and of the batch that waits or runs.
  pool::ClassId session_class = pool::kHigh, service_class = pool::kHigh;
  pool::OwnClass own_class() const;
  std::unique_ptr<ClientPrepared> prepared;  // null for a client that has never prepared anything
  ClientPrepared& preparing() {
    if (!prepared) prepared = std::make_unique<ClientPrepared>();
    return *prepared;
  }
  ClientStatement* find_statement(std::string_view statement_name) {
    return prepared ? prepared->find(statement_name) : nullptr;
  }
  // The unnamed statement is gone: a simple Query, a Close, or a Parse that failed.
  void forget_unnamed() {
    if (unnamed_version == 0) return;
    unnamed_version = 0;
    prepared->unnamed_facts = nullptr;
  }
  std::uint64_t unnamed_version = 0;   // 0: none

  // --- link, made and broken by link.cc only -------------------------------------------------------
  Server* server = nullptr;
  bool wrote = false;                  // the open transaction is not proven to have only read
  bool looked = false;                 // and may have returned data
  bool redefined = false;              // and may have changed the schema, or who may see what

  // --- positions that the application carries -------------------------------------------------------
  // The last one that the batch sets; nothing: none that is valid.
  std::optional<routing::Token> token_to_set() const;
  // The session is to see at least that; `value` stands behind SET pgsluice.lsn TO.
  void take_token(std::string_view value);
  // What SHOW pgsluice.lsn will say.
  void show_token(const routing::Token& token);
  bool sticky = false;                 // a batch in flight may open a transaction or pin: follow it
  bool unsettled = false;              // a batch has changed the session: Worker::settle_session()
  routing::Pin pins_in_doubt = routing::Pin::none;  // of `pins`: may have ended, the server must be asked

  // A transaction that no server knows of; null nearly always.
  std::unique_ptr<HeldTransaction> held;
  // Its server is here, and has it from now on: returns the BEGIN that has to go ahead.
  std::string release_held();
  // ReadyForQuery while no server has anything of this client.
  void append_ready(std::string& out) const;

  // --- waiting --------------------------------------------------------------------------------------
  routing::BatchFacts batch;           // of the batch that waits
  std::unique_ptr<std::vector<std::shared_ptr<const routing::Facts>>> batch_changes;
  std::unique_ptr<BatchExtras> batch_extras;  // null: none, which is nearly always
  WaitingFor waiting_for = WaitingFor::nothing;
  routing::RouteReason route_why = routing::RouteReason::read;
  bool batch_unpins = false, batch_deallocates = false;
  bool admitted = false;               // holds a slot of its tenant
  bool spills = false;                 // its read goes to the primary in a share of the servers there
  bool has_cell = false;               // a cell of its tenant's rate is taken, due at not_before()
  Retry retry;                         // of a read that runs a second time
  // WaitingFor::tenant: not asked again before; floor: no longer than that. It stands in no queue then, and has the room of that moment.
  conf::Instant& not_before() { return queued_since; }
  metrics::DigestRuns batch_digests;   // of the statements in the batch that run
  pool::ListNode<Client> in_retry;     // Worker's list of those who wait for a tenant or a node
  conf::Instant arrived{};             // the waiting (or current) batch's last byte

  // --- moving bytes ---------------------------------------------------------------------------------
  void send(std::span<const iovec> parts);
  void send(std::string_view bytes);
  // BackendKeyData with a new secret.
  void append_cancel_key(std::string& message);
  std::size_t unsent() const { return unsent_.size(); }
  conf::Instant unsent_since() const { return unsent_.since(); }  // while something is
  // Goes on with what has arrived: called when a batch was answered, or a server is here.
  void go_on();
  // Of a login that Worker::defer_login() has kept.
  void log_in_again();
  void pause_reading() { socket_.pause_reading(); }
  // Reading goes on unless there is more input kept than one batch may have, or the stream has ended.
  void update_reading() {
    const bool at_ease = socket_.reading() && unsent() == 0 && input_.empty() && server == nullptr;
    if (!at_ease) look_at_reading();
  }

  // The batch that it has sent can be had back, and becomes the batch that waits: `sent` are its bytes.
  bool may_take_back() const;
  void take_back(std::string_view sent);

  // The kept input begins with the batch that waits: it is forwarded to `server` (linked already).
  void forward_waiting();
  // The next refusal's ErrorResponse. Sent by refuse_waiting(), or by the batch that is being taken.
  void refuse(pool::Refusal why, std::string_view sqlstate, std::string_view message,
              conf::Millis retry_after = conf::Millis(0), std::string_view more_detail = {});
  // A limit on digests has changed: true when the batch that waits must not run any more; refuse() has been
  // called.
  bool barred_while_waiting();
  // Another's answer is its answer: of the batch in `bytes`, or of the one that waits (and goes on).
  void take_answer(std::string_view bytes, std::string_view answer);
  void take_answer_waiting(std::string_view answer);
  // Answers the waiting batch with that error, and goes on.
  void refuse_waiting();
  // An error that ends the connection.
  void fatal(ClientEnd end, std::string_view sqlstate, std::string_view message,
             std::string_view detail = {});
  // The server is gone (unlinked already): all answers that are owed become errors. The connection stays
  // if `keep` and nothing of a message is half sent.
  void server_lost(std::string_view sqlstate, std::string_view message, std::uint32_t owed,
                   bool open_sequence, bool first_failed, bool mid_message, bool keep);
  // Its socket is lost; it is retired at the end of the turn.
  bool broken() const { return broken_; }
  // The stream has ended but an answer is still due.
  bool input_ended() const { return input_ended_; }

  // --- console --------------------------------------------------------------------------------------
  // A large message is on its way to the server, and not all of it has come.
  bool streaming() const { return streaming_left_ > 0 && !dropping_; }

  void console_answer(std::string_view messages);
  // What is kept of its two streams: SHOW SOCKETS.
  struct Kept {
    std::size_t input, streaming, sent, unsent;
  };
  std::string_view console_user() const;  // "" when it is no console
  Kept kept() const { return {input_.size(), streaming_left_, unsent_.sent(), unsent()}; }

  // --- login ----------------------------------------------------------------------------------------
  ClientLogin* login() { return login_.get(); }
  // The session is open: what the first server said goes out, and statements may come.
  void welcome(std::string_view parameters);
  void open_console();
  void secret_found(conf::Result<std::optional<std::string>> secret);
  void cancel_delivered();

  void close_socket();
  net::Socket& socket() { return socket_; }
  const net::Socket& socket() const { return socket_; }
  std::string peer() const;
  std::string tls_description() const {
    return socket_.tls() == nullptr ? "" : socket_.tls()->describe();
  }
  std::string who() const;  // "client=w0/17" and, once known, user and database
  conf::Instant connected_at() const { return connected_at_; }
  conf::Instant quiet_since() const { return quiet_since_; }
  void touch(conf::Instant now) { quiet_since_ = now; }
  std::uint64_t statements = 0;
  metrics::StatementSeries* last_series = nullptr;  // where its last statement was counted

  void settings_changed();   // after `session` took new values
  // What is wrong with a value of a setting of ours for this client; nothing: it is none, or well.
  struct Objection {
    std::string_view sqlstate;
    std::string message;
  };
  std::optional<Objection> object_to(std::string_view setting, std::string_view value) const;
  std::unique_ptr<std::string> tenant_next;  // SET pgsluice.tenant: taken between transactions

  pool::ListNode<Client> in_worker;  // Worker's list of those who log in, or wait

 private:
  friend class ClientLogin;
  void on_readable() override;
  void log_in();
  void read_input();
  void on_writable() override;
  void send_now(std::string_view bytes) override;
  void send_now(std::span<const iovec> parts, std::size_t total);
  std::size_t process(std::string_view bytes);
  bool take_batch(std::string_view bytes, Scan& scan, bool stay);
  // held_transaction.cc
  enum class Held : std::uint8_t {
    goes_on,   // to a server, in the transaction or before it
    waits,     // for the answers to what is before it
    answered,  // here
    refused,   // the transaction has failed: `refusal_` says so
  };
  struct FirstStatement {
    std::shared_ptr<const routing::Facts> facts;
    std::string_view text;
    std::size_t messages;  // of the batch, that make it
  };
  Held judge_held(Scan& scan, bool stay, std::size_t* size);
  conf::Transactions transactions_of(const Scan& scan) const;
  bool may_hold(const Scan& scan) const;
  std::optional<FirstStatement> first_statement();
  bool may_prepare_here(const BatchMessage& parse);
  std::size_t answer_here(std::size_t count, std::string_view tag);
  void refuse_failed();
  void answer_refused(std::string_view bytes, std::size_t streams);
  bool refuses_settings(const Scan& scan);
  bool refuse_limited(std::string_view bytes, const Scan& scan, conf::Instant now);
  void refuse_by(const pool::LimitAnswer& answer);
  void refuse_batch(std::string_view bytes, const Scan& scan);
  bool answer_explain(const Scan& scan);
  void await_replay(std::string_view queries);
  void look_at_reading();
  void keep_waiting(std::string_view bytes, const Scan& scan);
  // Bytes that cannot be used yet are kept; `size` of the kept ones have been used.
  void keep_input(std::string_view bytes);
  void input_used(std::size_t size);
  void greet();
  bool server_stale() const;
  bool hinges_on_answers(const Scan& scan) const;
  void leave_if_done();
  bool tenant_may_change() const;
  void on_end_of_input(bool failed);

  Worker& worker_;
  pool::AddressCounts::Ticket from_;
  ClientId id_;
  ClientState state_ = ClientState::login;
  bool input_ended_ = false;
  bool discarding_ = false;            // after an error: everything up to Sync is ignored
  bool in_process_ = false;
  bool dropping_ = false;              // what is streaming goes nowhere
  bool streams_follow_ = false;
  bool broken_ = false;                // a write has failed
  net::Socket socket_;
  std::unique_ptr<ClientLogin> login_;
  std::size_t streaming_left_ = 0;     // bytes of a message too large to be kept, still to come
  std::size_t scanned_ = 0;            // of the batch at the start of input_, which has not ended yet
  std::size_t waiting_size_ = 0;       // of the batch at the start of input_
  std::size_t waiting_streams_ = 0;    // bytes of its last message that are not in input_
  std::unique_ptr<std::string> refusal_;       // an ErrorResponse that is about to be sent
  std::unique_ptr<ConsoleSession> console_;    // null: no console
  std::string input_;                  // what has arrived and cannot be used yet
  Unsent unsent_;
  conf::Instant connected_at_{}, quiet_since_{};
};

}  // namespace proxy
