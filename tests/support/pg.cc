#include "tests/support/pg.h"

#include <utility>

#include <poll.h>

namespace support {

namespace {

std::string field(const PGresult* result, int code) {
  const char* text = PQresultErrorField(result, code);
  return text != nullptr ? text : "";
}

std::string trimmed(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// True once `events` are there; false when the time is over.
bool wait_socket(int socket, short events, std::chrono::steady_clock::time_point give_up) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      give_up - std::chrono::steady_clock::now());
  if (left.count() <= 0) return false;
  pollfd waited{.fd = socket, .events = events, .revents = 0};
  return poll(&waited, 1, static_cast<int>(left.count())) > 0;
}

std::vector<const char*> pointers(const std::vector<std::optional<std::string>>& parameters) {
  std::vector<const char*> values;
  for (const auto& value : parameters) values.push_back(value ? value->c_str() : nullptr);
  return values;
}

}  // namespace

Result Result::failed(std::string code, std::string message) {
  Result result;
  result.code_ = std::move(code);
  result.message_ = std::move(message);
  return result;
}

ExecStatusType Result::status() const {
  return result_ ? PQresultStatus(result_.get()) : PGRES_FATAL_ERROR;
}

std::string Result::code() const {
  if (!code_.empty() || !result_) return code_;
  const ExecStatusType now = status();
  if (now == PGRES_PIPELINE_ABORTED) return "ABORTED";
  if (now != PGRES_FATAL_ERROR && now != PGRES_BAD_RESPONSE) return "";
  const std::string state = field(result_.get(), PG_DIAG_SQLSTATE);
  return state.empty() ? "LOST" : state;
}

std::string Result::message() const {
  if (!message_.empty() || !result_) return message_;
  const std::string text = field(result_.get(), PG_DIAG_MESSAGE_PRIMARY);
  return text.empty() ? trimmed(PQresultErrorMessage(result_.get())) : text;
}

std::string Result::detail() const {
  return result_ ? field(result_.get(), PG_DIAG_MESSAGE_DETAIL) : "";
}

std::string Result::severity() const {
  return result_ ? field(result_.get(), PG_DIAG_SEVERITY_NONLOCALIZED) : "";
}

std::string Result::tag() const { return result_ ? PQcmdStatus(result_.get()) : ""; }

bool Result::is_null(int row, int column) const {
  return row >= rows() || column >= columns() || PQgetisnull(result_.get(), row, column) != 0;
}

std::string Result::at(int row, int column) const {
  if (row >= rows() || column < 0 || column >= columns()) return "";
  return {PQgetvalue(result_.get(), row, column),
          static_cast<std::size_t>(PQgetlength(result_.get(), row, column))};
}

std::string Result::at(int row, std::string_view column) const {
  return result_ ? at(row, PQfnumber(result_.get(), std::string(column).c_str())) : "";
}

bool Result::has_column(std::string_view column) const {
  return result_ && PQfnumber(result_.get(), std::string(column).c_str()) >= 0;
}

std::string Result::scalar() const {
  if (!ok()) return code() + ": " + message();
  return rows() > 0 ? at(0, 0) : "";
}

Connection::Connection(const std::string& conninfo) {
  pg_.reset(PQconnectStart(conninfo.c_str()), &PQfinish);
  if (!pg_) return;
  PQsetNoticeReceiver(
      pg_.get(),
      [](void* notices, const PGresult* result) {
        static_cast<std::vector<std::string>*>(notices)->push_back(
            field(result, PG_DIAG_MESSAGE_PRIMARY));
      },
      notices_.get());
  give_up_ = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  PostgresPollingStatusType wanted = PGRES_POLLING_WRITING;
  while (PQstatus(pg_.get()) != CONNECTION_BAD && wanted != PGRES_POLLING_OK &&
         wanted != PGRES_POLLING_FAILED) {
    if (!wait_socket(PQsocket(pg_.get()), wanted == PGRES_POLLING_READING ? POLLIN : POLLOUT,
                     give_up_)) {
      pg_.reset();
      return;
    }
    wanted = PQconnectPoll(pg_.get());
  }
  if (ok()) PQsetnonblocking(pg_.get(), 1);
}

std::string Connection::error() const {
  return pg_ ? trimmed(PQerrorMessage(pg_.get())) : "TIMEOUT while connecting";
}

std::string Connection::parameter(const char* name) const {
  const char* value = pg_ ? PQparameterStatus(pg_.get(), name) : nullptr;
  return value != nullptr ? value : "";
}

bool Connection::flush() {
  while (true) {
    const int rest = PQflush(pg_.get());
    if (rest <= 0) return rest == 0;
    if (!wait_socket(PQsocket(pg_.get()), POLLIN | POLLOUT, give_up_)) return false;
    if (PQconsumeInput(pg_.get()) == 0) return false;
  }
}

bool Connection::wait_input() {
  while (PQisBusy(pg_.get()) != 0) {
    if (!flush() && std::chrono::steady_clock::now() >= give_up_) return false;
    if (PQsocket(pg_.get()) < 0) return true;
    if (!wait_socket(PQsocket(pg_.get()), POLLIN, give_up_)) return false;
    if (PQconsumeInput(pg_.get()) == 0) return true;  // lost: PQgetResult has the message
  }
  return true;
}

Result Connection::next() {
  if (!pg_) return Result::failed("LOST", "not connected");
  give_up_ = std::chrono::steady_clock::now() + deadline_;
  if (!wait_input()) {
    pg_.reset();  // nothing sensible can follow
    return Result::failed("TIMEOUT", "no answer within the deadline");
  }
  PGresult* result = PQgetResult(pg_.get());
  return result != nullptr ? Result(result) : Result();
}

Result Connection::collect() {
  Result last;
  while (true) {
    Result result = next();
    if (result.code() == "TIMEOUT") return result;
    if (result.raw() == nullptr) return last.raw() ? last : Result::failed("LOST", error());
    const ExecStatusType status = result.status();
    if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH)
      return result;
    if (last.raw() == nullptr || last.ok()) last = std::move(result);
  }
}

Result Connection::exec(const std::string& sql) {
  return send(sql) ? collect() : Result::failed("LOST", error());
}

Result Connection::exec(const std::string& sql,
                        const std::vector<std::optional<std::string>>& parameters) {
  if (!pg_) return Result::failed("LOST", "not connected");
  give_up_ = std::chrono::steady_clock::now() + deadline_;
  if (PQsendQueryParams(pg_.get(), sql.c_str(), static_cast<int>(parameters.size()), nullptr,
                        pointers(parameters).data(), nullptr, nullptr, 0) == 0 ||
      !flush()) {
    return Result::failed("LOST", error());
  }
  return collect();
}

Result Connection::prepare(const std::string& name, const std::string& sql) {
  if (!pg_) return Result::failed("LOST", "not connected");
  give_up_ = std::chrono::steady_clock::now() + deadline_;
  if (PQsendPrepare(pg_.get(), name.c_str(), sql.c_str(), 0, nullptr) == 0 || !flush())
    return Result::failed("LOST", error());
  return collect();
}

Result Connection::exec_prepared(const std::string& name,
                                 const std::vector<std::optional<std::string>>& parameters) {
  if (!pg_) return Result::failed("LOST", "not connected");
  give_up_ = std::chrono::steady_clock::now() + deadline_;
  if (PQsendQueryPrepared(pg_.get(), name.c_str(), static_cast<int>(parameters.size()),
                          pointers(parameters).data(), nullptr, nullptr, 0) == 0 ||
      !flush()) {
    return Result::failed("LOST", error());
  }
  return collect();
}

bool Connection::send(const std::string& sql) {
  if (!pg_) return false;
  give_up_ = std::chrono::steady_clock::now() + deadline_;
  return PQsendQuery(pg_.get(), sql.c_str()) != 0 && flush();
}

Result Connection::finish() { return collect(); }

bool Connection::busy() {
  if (!pg_ || PQconsumeInput(pg_.get()) == 0) return false;
  return PQisBusy(pg_.get()) != 0;
}

bool Connection::cancel() {
  const std::shared_ptr<PGcancel> key(PQgetCancel(pg_.get()), &PQfreeCancel);
  char error[256];
  return key && PQcancel(key.get(), error, sizeof error) == 1;
}

Result Connection::copy_in(const std::string& sql, std::string_view data, const char* failure) {
  const Result started = exec(sql);
  if (!started.ok() || started.status() != PGRES_COPY_IN) return started;
  give_up_ = std::chrono::steady_clock::now() + deadline_;
  constexpr std::size_t kPiece = 64 * 1024;
  for (std::size_t at = 0; at < data.size(); at += kPiece) {
    const std::string_view piece = data.substr(at, kPiece);
    if (PQputCopyData(pg_.get(), piece.data(), static_cast<int>(piece.size())) < 0 || !flush())
      break;  // the result says why
  }
  PQputCopyEnd(pg_.get(), failure);
  flush();
  return collect();
}

Result Connection::copy_out(const std::string& sql, std::string& data) {
  const Result started = exec(sql);
  if (!started.ok() || started.status() != PGRES_COPY_OUT) return started;
  give_up_ = std::chrono::steady_clock::now() + deadline_;
  while (true) {
    char* row = nullptr;
    const int length = PQgetCopyData(pg_.get(), &row, 1);
    if (length > 0) {
      data.append(row, static_cast<std::size_t>(length));
      PQfreemem(row);
    } else if (length == 0) {
      if (!wait_socket(PQsocket(pg_.get()), POLLIN, give_up_))
        return Result::failed("TIMEOUT", "no more COPY data within the deadline");
      if (PQconsumeInput(pg_.get()) == 0) break;
    } else {
      break;
    }
  }
  return collect();
}

}  // namespace support
