#include "proxy/pg_connection.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include <libpq-fe.h>
#include <unistd.h>

#include "conf/check.h"

namespace proxy {
namespace {

using conf::TlsMode;

const char* sslmode(TlsMode mode) {
  switch (mode) {
    case TlsMode::disable: return "disable";
    case TlsMode::allow: return "allow";
    case TlsMode::prefer: return "prefer";
    case TlsMode::require: return "require";
    case TlsMode::verify_ca: return "verify-ca";
    case TlsMode::verify_full: return "verify-full";
  }
  return "prefer";
}

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

PgFailure kind_of_sqlstate(std::string_view sqlstate, bool connecting) {
  if (sqlstate.starts_with("28")) return PgFailure::auth;
  if (sqlstate == "57P03") return PgFailure::starting;
  if (sqlstate == "57P01" || sqlstate == "57P02") return PgFailure::shutting_down;
  if (sqlstate == "53300") return PgFailure::too_many;
  return connecting ? PgFailure::other : PgFailure::sql;
}

// libpq gives no error number. The process never calls setlocale, so these texts are the C
// locale's.
PgFailure kind_of_text(std::string_view text) {
  if (has(text, "Connection refused") || has(text, "No such file or directory") ||
      has(text, "No route to host") || has(text, "etwork is unreachable") ||
      has(text, "Host is down") || has(text, "Permission denied"))
    return has(text, "certificate") || has(text, "private key") ? PgFailure::other
                                                                : PgFailure::refused;
  if (has(text, "timed out") || has(text, "timeout expired")) return PgFailure::timeout;
  if (has(text, "closed the connection") || has(text, "reset by peer") ||
      has(text, "Broken pipe") || has(text, "no connection to the server") ||
      has(text, "connection not open") || has(text, "unexpected eof") ||
      has(text, "SYSCALL error") || has(text, "could not receive data"))
    return PgFailure::reset;
  if (has(text, "no password supplied") || has(text, "password retrieved from file"))
    return PgFailure::auth;
  return PgFailure::other;
}

// "...:  28P01: text": where the five characters begin, or npos.
std::size_t find_sqlstate(std::string_view text) {
  for (std::size_t at = text.find(":  "); at != std::string_view::npos;
       at = text.find(":  ", at + 1)) {
    const std::string_view rest = text.substr(at + 3);
    if (rest.size() < 6 || rest[5] != ':') continue;
    const bool plausible = std::all_of(rest.begin(), rest.begin() + 5, [](char c) {
      return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z');
    });
    if (plausible) return at + 3;
  }
  return std::string_view::npos;
}

std::string one_line(std::string_view text) {
  std::string line;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view part = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    while (!part.empty() && std::isspace(static_cast<unsigned char>(part.front())))
      part.remove_prefix(1);
    if (part.empty() || part.starts_with("LOCATION:") || part.starts_with("Is the server running"))
      continue;
    if (!line.empty()) line += "; ";
    line += part;
  }
  return line;
}

}  // namespace

std::string_view name(PgFailure kind) {
  switch (kind) {
    case PgFailure::refused: return "refused";
    case PgFailure::timeout: return "timeout";
    case PgFailure::reset: return "reset";
    case PgFailure::auth: return "auth";
    case PgFailure::starting: return "starting";
    case PgFailure::shutting_down: return "shutting_down";
    case PgFailure::too_many: return "too_many_connections";
    case PgFailure::sql: return "sql_error";
    case PgFailure::other: return "failed";
  }
  return "failed";
}

PgError read_libpq_message(std::string_view text, bool connecting) {
  PgError error;
  const std::size_t at = find_sqlstate(text);
  if (at == std::string_view::npos) {
    error.kind = kind_of_text(text);
    // "connection to server at ... failed: reason": whoever reads this knows where.
    constexpr std::string_view kFailed = " failed: ";
    if (const std::size_t told = text.find(kFailed);
        text.starts_with("connection to server") && told != std::string_view::npos)
      text.remove_prefix(told + kFailed.size());
    error.message = one_line(text);
    return error;
  }
  error.sqlstate = text.substr(at, 5);
  error.kind = kind_of_sqlstate(error.sqlstate, connecting);
  std::string_view message = text.substr(at + 6);
  while (message.starts_with(' ')) message.remove_prefix(1);
  error.message = one_line(message);
  return error;
}

std::string monitor_application_name() {
  char host[31] = "";
  if (gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
  host[sizeof host - 1] = '\0';
  return "pgsluice monitor " + std::string(host) + ":" + std::to_string(getpid());
}

PgTarget pg_target(const conf::Settings& settings, const conf::NodeAddress& node,
                   const std::string& ip) {
  PgTarget target;
  target.host = node.host;
  target.ip = node.host.starts_with('/') ? "" : ip;
  target.port = node.port;
  target.application_name = monitor_application_name();
  target.tls_mode = settings.tls_server_mode;
  target.tls_cert = settings.tls_server_cert;
  target.tls_key = settings.tls_server_key;
  target.tls_ca = settings.tls_server_ca;
  return target;
}

void PgConnection::Finish::operator()(pg_conn* connection) const noexcept { PQfinish(connection); }

PgConnection::PgConnection(net::Loop& loop)
    : loop_(loop), deadline_(loop, [this] { on_deadline(); }) {}

PgConnection::~PgConnection() { close(); }

void PgConnection::close() {
  deadline_.stop();
  watch_.reset();
  connection_.reset();
  phase_ = Phase::closed;
  connect_done_ = nullptr;
  query_done_ = nullptr;
  early_.reset();
  farewell_.reset();
  answer_ = {};
}

void PgConnection::connect(const PgTarget& target, Millis deadline, ConnectDone done) {
  close();
  phase_ = Phase::connecting;
  connect_done_ = std::move(done);
  limit_ = deadline;

  const std::string port = std::to_string(target.port);
  // Blanks inside a value of `options` are escaped by a backslash. The deadline of queries is ours;
  // statement_timeout only makes sure that the server does not work on after we have left.
  const std::string options =
      "-c search_path=pg_catalog -c default_transaction_isolation=read\\ committed"
      " -c statement_timeout=60000 -c jit=off";
  std::array<const char*, 20> keys{};
  std::array<const char*, 20> values{};
  std::size_t count = 0;
  const auto add = [&](const char* key, const std::string& value) {
    ENSURE(count + 1 < keys.size());
    keys[count] = key;
    values[count++] = value.c_str();
  };
  const std::string mode = sslmode(target.tls_mode);
  const std::string encoding = "UTF8";
  const std::string off = "disable";
  add("host", target.host);
  if (!target.ip.empty()) add("hostaddr", target.ip);
  add("port", port);
  add("user", target.user);
  if (!target.password.empty()) add("password", target.password);
  add("dbname", target.database);
  add("application_name", target.application_name);
  add("options", options);
  add("client_encoding", encoding);
  add("gssencmode", off);  // it would look for a ticket in files and sockets of its own
  add("sslmode", mode);
  if (!target.tls_cert.empty()) add("sslcert", target.tls_cert);
  if (!target.tls_key.empty()) add("sslkey", target.tls_key);
  if (!target.tls_ca.empty()) add("sslrootcert", target.tls_ca);

  connection_.reset(PQconnectStartParams(keys.data(), values.data(), 0));
  if (connection_ == nullptr || PQstatus(connection_.get()) == CONNECTION_BAD) {
    early_ = connection_ == nullptr ? PgError{PgFailure::other, "", "libpq is out of memory"}
                                    : last_error(true);
    connection_.reset();
    deadline_.once(Millis(0));
    return;
  }
  PQsetErrorVerbosity(connection_.get(), PQERRORS_VERBOSE);
  // While nothing is asked libpq hands even a FATAL message to the notice receiver.
  PQsetNoticeReceiver(
      connection_.get(),
      [](void* self, const PGresult* notice) noexcept {
        const char* state = PQresultErrorField(notice, PG_DIAG_SQLSTATE);
        const char* text = PQresultErrorField(notice, PG_DIAG_MESSAGE_PRIMARY);
        if (state == nullptr || !std::string_view(state).starts_with("57P")) return;
        static_cast<PgConnection*>(self)->farewell_ =
            PgError{kind_of_sqlstate(state, false), state, one_line(text == nullptr ? "" : text)};
      },
      this);
  deadline_.once(deadline);
  watch(net::Watch::writable);
}

void PgConnection::watch(int events) {
  if (!watch_) watch_.emplace(loop_, PQsocket(connection_.get()), [this](int got) { on_io(got); });
  watch_->want(events);
}

void PgConnection::on_io(int events) {
  switch (phase_) {
    case Phase::closed: return;
    case Phase::connecting: return step_connect();
    case Phase::idle: return on_idle_input();
    case Phase::querying:
      if ((events & net::Watch::writable) != 0 && PQflush(connection_.get()) == 0)
        watch(net::Watch::readable);
      return step_query();
  }
}

void PgConnection::step_connect() {
  // libpq may close this socket and open another one (TLS refused, next try without): the watch
  // must be gone before that, or the loop would mistake a new descriptor of the same number for the
  // old one.
  watch_.reset();
  switch (PQconnectPoll(connection_.get())) {
    case PGRES_POLLING_READING: return watch(net::Watch::readable);
    case PGRES_POLLING_WRITING:
    case PGRES_POLLING_ACTIVE: return watch(net::Watch::writable);
    case PGRES_POLLING_FAILED: return fail(last_error(true));
    case PGRES_POLLING_OK: break;
  }
  PQsetnonblocking(connection_.get(), 1);
  deadline_.stop();
  phase_ = Phase::idle;
  watch(net::Watch::readable);
  const ConnectDone done = std::exchange(connect_done_, nullptr);
  done(std::nullopt);
}

void PgConnection::query(const std::string& sql,
                         const std::vector<std::optional<std::string>>& parameters, Millis deadline,
                         QueryDone done) {
  ENSURE(ready());
  std::vector<const char*> values;
  values.reserve(parameters.size());
  for (const auto& parameter : parameters)
    values.push_back(parameter ? parameter->c_str() : nullptr);

  phase_ = Phase::querying;
  query_done_ = std::move(done);
  answer_ = {};
  limit_ = deadline;
  const bool sent = PQsendQueryParams(connection_.get(), sql.c_str(),
                                      static_cast<int>(values.size()), nullptr, values.data(),
                                      nullptr, nullptr, 0) == 1;
  const int flushed = sent ? PQflush(connection_.get()) : -1;
  if (flushed < 0) {
    early_ = last_error(false);
    if (early_->kind == PgFailure::sql) early_->kind = PgFailure::reset;
    watch_.reset();
    deadline_.once(Millis(0));
    return;
  }
  deadline_.once(deadline);
  watch(flushed == 0 ? net::Watch::readable : net::Watch::readable | net::Watch::writable);
}

void PgConnection::step_query() {
  if (PQconsumeInput(connection_.get()) == 0) return fail(last_error(false));
  while (PQisBusy(connection_.get()) == 0) {
    const std::unique_ptr<PGresult, void (*)(PGresult*)> result(PQgetResult(connection_.get()),
                                                                PQclear);
    if (result == nullptr) break;
    const ExecStatusType status = PQresultStatus(result.get());
    if (status == PGRES_TUPLES_OK) {
      const int columns = PQnfields(result.get());
      for (int row = 0; row < PQntuples(result.get()); ++row) {
        PgRow& cells = answer_.rows.emplace_back();
        for (int column = 0; column < columns; ++column) {
          if (PQgetisnull(result.get(), row, column) != 0)
            cells.emplace_back(std::nullopt);
          else
            cells.emplace_back(PQgetvalue(result.get(), row, column));
        }
      }
    } else if (status == PGRES_FATAL_ERROR && !answer_.error) {
      PgError error = read_libpq_message(PQresultErrorMessage(result.get()), false);
      if (const char* state = PQresultErrorField(result.get(), PG_DIAG_SQLSTATE)) {
        error.sqlstate = state;
        error.kind = kind_of_sqlstate(error.sqlstate, false);
      }
      if (const char* text = PQresultErrorField(result.get(), PG_DIAG_MESSAGE_PRIMARY))
        error.message = one_line(text);
      // Without an SQLSTATE it was libpq that spoke: the connection is lost.
      if (error.sqlstate.empty() && error.kind == PgFailure::sql) error.kind = PgFailure::reset;
      answer_.error = std::move(error);
    } else if (status != PGRES_COMMAND_OK && status != PGRES_EMPTY_QUERY && !answer_.error) {
      // COPY and the like: not for this class, and there is no clean way out of it.
      answer_.error = PgError{PgFailure::other, "", "the query asked for another protocol mode"};
    }
    if (answer_.error && answer_.error->kind != PgFailure::sql) return fail(*answer_.error);
  }
  if (PQisBusy(connection_.get()) != 0) return;
  if (PQstatus(connection_.get()) == CONNECTION_BAD) return fail(last_error(false));
  deadline_.stop();
  phase_ = Phase::idle;
  watch(net::Watch::readable);
  const QueryDone done = std::exchange(query_done_, nullptr);
  done(std::exchange(answer_, {}));
}

void PgConnection::on_idle_input() {
  const bool alive = PQconsumeInput(connection_.get()) == 1;
  (void)PQisBusy(connection_.get());  // reads the messages; the notice receiver may get a farewell
  if (alive && !farewell_ && PQstatus(connection_.get()) != CONNECTION_BAD) return;
  PgError error = farewell_ ? *farewell_ : last_error(false);
  if (error.kind == PgFailure::sql) error.kind = PgFailure::reset;
  fail(std::move(error));
}

void PgConnection::on_deadline() {
  if (early_) {
    PgError error = *early_;
    return fail(std::move(error));
  }
  const bool connecting = phase_ == Phase::connecting;
  fail({PgFailure::timeout, "",
        std::string(connecting ? "no connection" : "no answer") + " within " +
            std::to_string(limit_.count()) + " ms"});
}

void PgConnection::fail(PgError error) {
  const Phase was = phase_;
  const ConnectDone connected = std::exchange(connect_done_, nullptr);
  const QueryDone answered = std::exchange(query_done_, nullptr);
  const auto lost = lost_;
  close();
  switch (was) {
    case Phase::closed: return;
    case Phase::connecting: return connected(std::move(error));
    case Phase::querying: return answered({{}, std::move(error)});
    case Phase::idle:
      if (lost) lost(std::move(error));
      return;
  }
}

PgError PgConnection::last_error(bool connecting) const {
  PgError error = read_libpq_message(PQerrorMessage(connection_.get()), connecting);
  if (error.message.empty()) error.message = "the connection was lost";
  if (!connecting && error.kind == PgFailure::other) error.kind = PgFailure::reset;
  return error;
}

std::string PgConnection::server_parameter(const char* parameter) const {
  if (connection_ == nullptr) return "";
  const char* value = PQparameterStatus(connection_.get(), parameter);
  return value == nullptr ? "" : value;
}

}  // namespace proxy
