#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "conf/settings.h"
#include "proxy/net/loop.h"

struct pg_conn;

namespace proxy {

using conf::Millis;

// What kind of "no" it was. It decides what is done next: an address that refuses is down at once,
// a wrong password says nothing about the node.
enum class PgFailure : std::uint8_t {
  refused,        // nobody listens there (also: no such socket, no route)
  timeout,        // no answer within the deadline
  reset,          // the connection broke
  auth,           // 28xxx: wrong password, no pg_hba entry, role unknown or not allowed to log in
  starting,       // 57P03: starting up, shutting down or in recovery without hot_standby
  shutting_down,  // 57P01, 57P02: this connection was ended by an administrator or a crash
  too_many,       // 53300: no connection slot is free; the node itself is well
  sql,            // an error of the statement; the connection stays usable
  other,          // TLS, protocol, unknown database, bad local files ...
};
std::string_view name(PgFailure kind);

struct PgError {
  PgFailure kind = PgFailure::other;
  std::string sqlstate;  // empty when it was not Postgres that said no
  std::string message;   // one line, without a secret
};

using PgRow = std::vector<std::optional<std::string>>;  // text format; nothing: NULL

// Rows of a query that worked, or why it did not.
struct PgAnswer {
  std::vector<PgRow> rows;
  std::optional<PgError> error;
};

// Whom to connect to, as whom.
struct PgTarget {
  std::string host;  // name (compared with the certificate by verify_full) or unix folder
  std::string ip;    // numeric address of `host`; empty only for a unix folder
  std::uint16_t port = 5432;
  std::string user, password, database;
  std::string application_name;
  conf::TlsMode tls_mode = conf::TlsMode::prefer;
  std::string tls_cert, tls_key, tls_ca;
  friend bool operator==(const PgTarget&, const PgTarget&) = default;
};

// One connection of the control plane to Postgres: libpq in its asynchronous mode on a net::Loop.
// Not for the data path.
//
// One thing at a time: connect, then one query after the other, each with its deadline. Every call
// is answered by its callback exactly once and never from inside the call, except that close() and
// the destructor drop what is under way without calling anybody. Destroying a PgConnection is safe
// at any moment, also inside its own callbacks. Nothing here blocks: libpq gets numeric addresses
// only, so it never resolves.
//
// The session is pinned against what a database or role may have configured: search_path is
// pg_catalog, the default isolation is read committed (serializable is refused by a standby), and
// statement_timeout ends what we have stopped waiting for.
class PgConnection {
 public:
  using ConnectDone = std::function<void(std::optional<PgError> error)>;
  using QueryDone = std::function<void(PgAnswer answer)>;

  explicit PgConnection(net::Loop& loop);
  ~PgConnection();
  PgConnection(const PgConnection&) = delete;
  PgConnection& operator=(const PgConnection&) = delete;

  // Closes what was open. `done` gets nothing when the connection is ready.
  void connect(const PgTarget& target, Millis deadline, ConnectDone done);

  // Only when ready(). Parameters are sent as text, bound, never pasted. Any failure but
  // PgFailure::sql has closed the connection.
  void query(const std::string& sql, const std::vector<std::optional<std::string>>& parameters,
             Millis deadline, QueryDone done);

  // While nothing is under way the server may end the connection (restart, kill): `lost` is called
  // once with the reason. Set before connect(); stays set over reconnects.
  void watch_idle(std::function<void(PgError)> lost) { lost_ = std::move(lost); }

  // Drops everything; no callback comes any more. Free to call at any time.
  void close();

  bool ready() const { return phase_ == Phase::idle; }
  bool open() const { return phase_ != Phase::closed; }
  // What the server said at login, such as "server_version"; "" when unknown.
  std::string server_parameter(const char* parameter) const;

 private:
  enum class Phase : std::uint8_t { closed, connecting, idle, querying };
  struct Finish {
    void operator()(pg_conn* connection) const noexcept;
  };

  void on_io(int events);
  void on_deadline();
  void step_connect();
  void step_query();
  void on_idle_input();
  // Closes, then tells whoever waits: nothing of *this may be used after it.
  void fail(PgError error);
  PgError last_error(bool connecting) const;
  void watch(int events);

  net::Loop& loop_;
  std::unique_ptr<pg_conn, Finish> connection_;
  std::optional<net::Watch> watch_;  // after connection_: goes before libpq closes the descriptor
  net::Timer deadline_;
  Phase phase_ = Phase::closed;
  std::optional<PgError> early_;  // met inside the call; told by deadline_ at the next turn
  std::optional<PgError> farewell_;  // what the server said before it ended an idle connection
  ConnectDone connect_done_;
  QueryDone query_done_;
  std::function<void(PgError)> lost_;
  PgAnswer answer_;
  Millis limit_{};
};

// Address and TLS of `node` as the settings say; user, password and database are the caller's.
PgTarget pg_target(const conf::Settings& settings, const conf::NodeAddress& node,
                   const std::string& ip);

// The SQLSTATE inside a libpq message of verbose kind ("FATAL:  28P01: password ..."), and the text
// without it and without the lines that only a Postgres developer wants. Pure; for PgConnection and
// its test.
PgError read_libpq_message(std::string_view text, bool connecting);

// "pgsluice monitor <host>:<pid>", at most 63 bytes: how the processes of a fleet see each other in
// pg_stat_activity.
std::string monitor_application_name();

}  // namespace proxy
