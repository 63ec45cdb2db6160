#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "metrics/digest_stats.h"
#include "pool/pool.h"
#include "pool/prepared.h"
#include "pool/session_settings.h"
#include "proxy/batch_extras.h"
#include "proxy/fifo.h"
#include "proxy/healing.h"
#include "proxy/messages.h"
#include "proxy/net/socket.h"
#include "proxy/unsent.h"
#include "proxy/wire/backend.h"
#include "proxy/wire/framer.h"
#include "proxy/wire/pipeline.h"
#include "routing/router.h"

namespace proxy {

class Client;
class ServerLogin;
class Worker;
struct Identity;

// Why a server connection ended: log field, metric label, console.
// To add one: put it here and in name().
enum class ServerEnd : std::uint8_t {
  idle_too_long,
  lifetime,
  node_changed,        // the node is down, restarted, or no longer has the role that it had
  connect_failed,
  login_failed,
  lost,                // closed or reset by the server
  unexpected_message,  // spoke when it was not asked
  replay_failed,       // the session's settings could not be restored
  client_vanished,     // in the middle of a statement
  reset_failed,
  cancel_failed,
  surplus,             // a limit has become smaller
  evicted,             // for another pool that shares a limit with this one
  shutdown,
  reconnect,           // by an operator, as the following
  paused,
  drained,
  killed,
  stalled,             // nothing came of it, and its node has stopped answering probes
  count_
};
std::string_view name(ServerEnd end);

// Statements that change session settings, or name prepared statements, in order; null: none, which is
// nearly always.
using Changes = std::unique_ptr<std::vector<std::shared_ptr<const routing::Facts>>>;

// One batch that has been sent to a server and waits for its ReadyForQuery.
struct InFlight {
  conf::Instant arrived{};  // its last byte was read from the client
  conf::Instant sent{};
  routing::StatementClass kind = routing::StatementClass::empty;
  routing::TransactionStep step = routing::TransactionStep::none;
  std::uint64_t digest = 0;  // as in BatchFacts
  routing::Pin pins = routing::Pin::none;
  routing::Pin may_unpin = routing::Pin::none;
  bool failed = false;      // an ErrorResponse has gone to the client
  bool unpins = false;      // DISCARD ALL
  bool deallocates = false;
  bool executes = false;    // runs something; else it only parses
  bool looks = false;       // may have returned data
  bool unread = false;      // its text was too large to be looked at
  bool gives_away = false;  // a statement was lent for it that its DEALLOCATE must take away
  std::uint32_t query_timeout_ms = 0;  // of a [[route]] rule; 0: its client's
  Changes changes;          // the statements that change the session, in order
  metrics::DigestRuns digests;  // of the statements that run
  std::uint64_t rows = 0;       // that Postgres says it has returned or changed
  std::unique_ptr<BatchExtras> extras;
};

// One connection from us to Postgres, from connect to goodbye. The pool's record is its base; the
// socket and what is known of the session on the other side are added here.
class Server final : public pool::PooledServer, public net::SocketOwner {
 public:
  Server(Worker& worker, Identity& identity, const routing::NodeState& node);
  ~Server();

  // Connects; what comes of it is told to the worker (server_ready, server_failed).
  conf::Status start();

  conf::Millis lifetime{};  // after it no new work; jittered
  ServerEnd doomed_by = ServerEnd::lifetime;  // why it ends then
  // It goes when its client is done with it.
  void doom(ServerEnd why) {
    lifetime = conf::Millis(0);
    doomed_by = why;
  }
  bool doomed() const { return lifetime.count() == 0; }

  // --- link, made and broken by link.cc only -------------------------------------------------------
  Client* client = nullptr;
  pool::Flight* flight = nullptr;  // whose answer it is giving; nearly always null

  // --- what is known of the session on the other side ----------------------------------------------
  wire::Pipeline pipeline;
  std::uint64_t looked_at = 0;      // the version of the topology that these two are from
  bool is_stale = false;
  bool outdated = false;            // RECONNECT: closed when it is released
  routing::NodeRole role = routing::NodeRole::unknown;
  bool is_warm = false;             // it has run a statement
  std::uint8_t slot = 0;            // counted by its pool's ceilings: a priority, and one; 0: not
  bool heard = true;                // bytes have come since Worker::watch_stalled() looked
  bool watched = false;             // its node's probe is late, and it owes an answer: looked at
  conf::Instant watched_since{};    // then
  bool node_at_fault = false;       // it ends, and not because somebody wanted this one connection to
  bool was_primary = false;         // it has been written to: cut when somebody else is primary
  Fifo<InFlight> in_flight;         // batches whose ReadyForQuery is due, oldest first
  char status = 'I';                // transaction status of the last ReadyForQuery
  conf::Instant transaction_since{};  // while `status` says that there is one
  // What time-outs know of the statement that it works on: kept by Worker::running_since() alone, for
  // clients that have such a time-out.
  struct Watch {
    ClientId client;
    std::uint64_t statement = 0;  // Client::statements while it runs
    conf::Instant since{};
    bool canceled = false;        // for pool.query_timeout
  } watch;
  conf::Instant ready_at{};         // in a transaction: since when its client has the word
  pool::SessionSettings session;    // RESET goes back to nothing: the server's own defaults
  pool::ServerStatements statements;
  std::unordered_set<std::uint32_t> parsing;  // those of them whose Parse has not been answered
  bool had_last_words = false;        // it has said that it is about to end the connection
  bool blames_client = false;         // and its client has heard it: it has broken the protocol
  bool must_reset = false;            // before anybody else gets it: what it has run may have left anything behind
  std::uint64_t unnamed_version = 0;  // whose unnamed statement it has (Client::unnamed_version)
  std::vector<std::pair<std::string, std::string>> parameters;  // as ParameterStatus told

  // --- what it is -----------------------------------------------------------------------------------
  routing::NodeId node_id() const { return node_; }
  std::uint64_t incarnation() const { return incarnation_; }
  std::uint32_t backend_pid() const { return backend_pid_; }
  const std::string& cancel_key() const { return cancel_key_; }
  const std::string& node_name() const { return node_name_; }
  const std::string& node_host() const { return node_host_; }
  const std::string& ip() const { return ip_; }
  std::uint16_t port() const { return port_; }
  Identity& identity() { return *identity_; }
  const Identity& identity() const { return *identity_; }
  bool uses_tls() const { return socket_.tls() != nullptr; }
  std::string tls_description() const;
  bool is_reset_running() const { return resetting_; }
  conf::Instant reset_since() const { return reset_since_; }

  // --- moving bytes ---------------------------------------------------------------------------------
  // Sends what fits, keeps the rest. A connection that turns out to be lost is dealt with at the end of the
  // turn.
  void send(std::span<const iovec> parts);
  void send(std::string_view bytes);
  std::size_t unsent() const { return unsent_.size(); }
  void pause_reading() { socket_.pause_reading(); }
  void resume_reading();
  // Bytes of a message that has begun to go to the client and is not whole yet.
  bool mid_message() const { return pass_left_ > 0; }
  // What is kept of its two streams: SHOW SOCKETS.
  struct Kept {
    std::size_t input, passing, sent, unsent;
  };
  Kept kept() const { return {carry_.size(), pass_left_, unsent_.sent(), unsent()}; }
  const net::Socket& socket() const { return socket_; }

  // --- a batch that can be sent again ---------------------------------------------------------------
  struct Ahead {
    std::size_t bytes, requests;
  };
  // The batch that has just been sent, outside a transaction and behind nothing but what was sent `ahead`
  // of it, was these bytes, which are taken (`bytes` gets other room). If its first request fails because
  // of what this server has made of a named statement, nothing has run: the statement is parsed anew and
  // the batch sent again.
  void retain(std::string& bytes, Ahead ahead) {
    retained_.swap(bytes);
    retained_from_ = ahead.bytes;
    retained_requests_ = pipeline.depth() - 1 - ahead.requests;
  }
  void retain_nothing() { retained_requests_ = 0; }

  // --- a read that another node can run again -------------------------------------------------------
  // Armed while such a one is all that this server has to answer.
  Healing healing;
  // Its answer, as far as it has come, is the client's from here on.
  void stop_healing();
  // May what has just failed be run again? Costs one of the budget.
  bool may_run_again();

  // --- questions and changes of ours ----------------------------------------------------------------
  // Nothing that it has still to answer is a client's: what is under way, if anything, is our own.
  bool only_ours() const { return pipeline.ready_owed() == 0 && !pipeline.open_sequence(); }
  // A batch that changes the session is under way, and nothing of a later one has been sent.
  bool changes_under_way() {
    return !pipeline.open_sequence() && !pipeline.copying_in() && !in_flight.empty() &&
           in_flight.back().changes != nullptr;
  }
  // Asks which of these kinds of state its session still has; Worker::unpin() is told which it has not.
  // Whatever else happens, the answer never reaches the client. Bounded by the server's own
  // statement_timeout: who waits longer than that waits for a server that answers nobody.
  void ask(routing::Pin about);
  // Pins that ask() has a question for.
  static constexpr routing::Pin kProvable =
      routing::Pin::temporary_table | routing::Pin::listen | routing::Pin::advisory_lock |
      routing::Pin::holdable_cursor | routing::Pin::sql_prepare;
  // Tags of requests that are about no statement of the registry. A Parse of ours whose error nobody needs
  // to hear: what follows it says the same;
  static constexpr std::uint32_t kQuiet = 0xffffffff;
  // one of ours about a statement that nobody keeps account of;
  static constexpr std::uint32_t kUnaccounted = kQuiet - 1;
  // what ends the restoring of the client's start-up values: a Query, or a Sync;
  static constexpr std::uint32_t kRestores = kQuiet - 2;
  // an Execute of a DEALLOCATE, for which ClientPrepared::deallocated has an entry;
  static constexpr std::uint32_t kDeallocates = kQuiet - 3;
  // statements of ours (own_statements.h), which must not fail.
  static constexpr std::uint32_t kReplays = kQuiet - 4;
  static bool is_of_statement(std::uint32_t tag) { return tag != 0 && tag < kReplays; }

  // Undoes whatever the last client left (ROLLBACK if `status` says so, DISCARD ALL), then releases
  // itself; closes itself when that fails.
  void reset();

  // --- cancels --------------------------------------------------------------------------------------
  // While a cancel is on its way here the server is not given to anybody else.
  int cancels = 0;
  // Who asked for those of them that wait until a Query of ours has ended: they are not meant for that.
  std::vector<ClientId> held_cancels;

  // --- handing over to another worker ---------------------------------------------------------------
  void detach();
  void attach(Worker& worker, Identity& identity);
  // The settings that it had on the other worker, as this one's.
  void adopt_settings(const pool::SettingsRef& settings) { session.assume(settings); }

  // Worker only: close the socket now; the object is freed at the end of the turn.
  void close_socket();
  // Terminate, if it fits: Postgres then ends the session without a line in its log.
  void say_goodbye();
  // in_flight has one entry per ReadyForQuery that is owed, and one more while a sequence is open.
  void reconcile() {
    in_flight.drop_behind_first(pipeline.ready_owed() + std::size_t{1});
  }
  // After a batch was forwarded: gives the answers that no byte of the server's has to wait for.
  void answer_locally();
  void lose(std::string_view why);
  bool broken() const { return broken_; }
  // The session is no longer what we think: of no use to anybody else.
  bool uncertain() const { return pipeline.uncertain() || statements_uncertain_; }
  void statements_are_uncertain() { statements_uncertain_ = true; }
  // The client's last batch is answered but for its ReadyForQuery, which waits until the server has the
  // client's start-up values again. To give up: the server is lost, the client need not be.
  bool is_restoring() const { return restoring_ != nullptr && restoring_->ready; }
  void give_up_restoring();
  // None of the Parses and Closes that are under way will be answered.
  void undo_tentative();
  std::shared_ptr<const net::TlsContext> tls_context() const;

  // Too large to be looked at whole; its fields are read from its head.
  static constexpr std::size_t kWhole = std::size_t{16} << 10;

 private:
  friend class ServerLogin;
  void on_readable() override;
  void on_writable() override;
  void send_now(std::string_view bytes) override;
  void send_now(std::span<const iovec> parts, std::size_t total);
  void on_connected();
  // Goes through what has arrived; returns how much of it was used (the rest is kept).
  std::size_t relay(std::string_view bytes);
  bool blame_client(const wire::ErrorFields& error);
  void deliver_head(std::span<const iovec> parts);
  bool heals(const wire::ErrorFields& error);
  void doubt_role();
  bool on_error(const wire::Pipeline::Entry& failed, const wire::ErrorFields& error,
                const wire::Frame& frame, std::string_view* instead);
  bool on_ready(char new_status, const wire::Pipeline::Entry& answered, std::string_view* instead);
  bool restore_startup_values();
  // Of a client's statement that has ended.
  void count_rows(std::string_view tag) {
    if (!in_flight.empty()) in_flight.front().rows += wire::affected_rows(tag);
  }
  void withhold(std::string_view name);
  void tell_restored(std::string_view* instead);
  void on_proof(std::string_view tag);
  void spoilt(const wire::Pipeline::Entry& failed, std::string_view sqlstate);
  bool may_send_again(const wire::Pipeline::Entry& failed, std::string_view sqlstate) const;
  void send_again();
  void after_answers();
  template <class Add>
  void take_local(Add add);
  void settle(std::uint32_t id);   // the statement's Parse or Close was answered
  void undo_first(std::size_t count);  // so many of them were skipped
  void parameter_changed(std::string_view name, std::string_view value);
  void login_done();
  void login_failed(bool node_is_at_fault, std::string sqlstate, std::string message);

  Worker* worker_;
  Identity* identity_;
  routing::NodeId node_;
  std::uint64_t incarnation_;
  std::string node_name_, node_host_, ip_;
  std::uint16_t port_;
  net::Socket socket_;
  net::Socket::Parts parts_;            // between two workers
  std::unique_ptr<ServerLogin> login_;  // until logged in
  std::uint32_t backend_pid_ = 0;
  std::string cancel_key_;

  std::string carry_;        // the beginning of a message whose rest has not arrived
  std::size_t pass_left_ = 0;  // bytes of the current message still to pass (or to swallow)
  bool pass_swallow_ = false;
  Unsent unsent_;
  bool resetting_ = false;
  conf::Instant reset_since_{};
  std::string retained_;                // a batch as it was sent
  std::size_t retained_from_ = 0;       // before it stands what must not be sent again
  std::size_t retained_requests_ = 0;   // of it, without its Sync; 0: not to be used
  struct Again {
    pool::PreparedRef statement;
    std::vector<wire::Pipeline::Entry> requests;
  };
  std::unique_ptr<Again> again_;        // the batch has failed, and goes out again after its ReadyForQuery
  routing::Pin asked_ = routing::Pin::none, unproven_ = routing::Pin::none, gone_ = routing::Pin::none;
  bool broken_ = false;                 // a write has failed
  bool ask_tls_ = false, tried_both_ = false;
  std::unique_ptr<ServerLogin> spent_login_;
  bool committed_ = false;              // the last transaction ended with COMMIT
  bool statements_uncertain_ = false;   // a Close of ours was skipped
  std::string instead_;                 // an error of ours on its way to the client
  struct Restoring {
    std::vector<std::pair<std::string, std::string>> told;  // parameters, as the client knows them
    bool ready = false;
  };
  std::unique_ptr<Restoring> restoring_;
  std::string replay_error_;  // the server's words when a replayed setting was refused
};

}  // namespace proxy
