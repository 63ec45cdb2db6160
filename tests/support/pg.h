#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <libpq-fe.h>

namespace support {

// What one statement answered. `code` is the SQLSTATE; "" is success; "TIMEOUT" means that the
// answer did not come within the deadline, "LOST" that the connection ended without an error
// message.
class Result {
 public:
  Result() = default;
  explicit Result(PGresult* result) : result_(result, &PQclear) {}
  static Result failed(std::string code, std::string message);

  bool ok() const { return code().empty(); }
  std::string code() const;
  std::string message() const;  // primary message; of a lost connection: what libpq says
  std::string detail() const;
  std::string severity() const;
  std::string tag() const;  // "INSERT 0 1"
  ExecStatusType status() const;
  PGresult* raw() const { return result_.get(); }

  int rows() const { return result_ ? PQntuples(result_.get()) : 0; }
  int columns() const { return result_ ? PQnfields(result_.get()) : 0; }
  bool is_null(int row, int column) const;
  std::string at(int row, int column) const;
  std::string at(int row, std::string_view column) const;  // "" when there is no such column
  bool has_column(std::string_view column) const;
  // The first value of the first row; of an error: "CODE: message", which reads well in a failed
  // test.
  std::string scalar() const;

 private:
  std::shared_ptr<PGresult> result_;
  std::string code_, message_;
};

// One libpq connection: the independent client of the tests. Every call has a deadline, so that a
// proxy that hangs fails a test instead of stopping the run.
class Connection {
 public:
  // At most 10 s. On failure ok() is false and error() says why.
  explicit Connection(const std::string& conninfo);

  bool ok() const { return pg_ && PQstatus(pg_.get()) == CONNECTION_OK; }
  std::string error() const;
  PGconn* raw() const { return pg_.get(); }
  int backend_pid() const { return PQbackendPID(pg_.get()); }
  PGTransactionStatusType transaction() const { return PQtransactionStatus(pg_.get()); }
  std::string parameter(const char* name) const;
  void set_deadline(std::chrono::milliseconds deadline) { deadline_ = deadline; }
  void close() { pg_.reset(); }

  // The last result, or the first that failed.
  Result exec(const std::string& sql);
  Result exec(const std::string& sql, const std::vector<std::optional<std::string>>& parameters);
  Result prepare(const std::string& name, const std::string& sql);
  Result exec_prepared(const std::string& name,
                       const std::vector<std::optional<std::string>>& parameters = {});
  std::string scalar(const std::string& sql) { return exec(sql).scalar(); }

  // Sends without waiting; finish() collects. For statements that are to be in flight.
  bool send(const std::string& sql);
  Result finish();
  Result next();  // the next result of what was sent; an empty Result (no raw()) at its end
  bool busy();    // true while the answer is not complete
  std::vector<std::string> notices() const { return *notices_; }

  // PQcancel on a new connection. False: it could not even be sent.
  bool cancel();

  // COPY: `sql` must be COPY ... FROM STDIN. Sends `data`, ends with success or, when `failure` is
  // given, with CopyFail.
  Result copy_in(const std::string& sql, std::string_view data, const char* failure = nullptr);
  // COPY ... TO STDOUT into `data`.
  Result copy_out(const std::string& sql, std::string& data);

 private:
  bool wait_input();
  bool flush();
  Result collect();

  std::shared_ptr<PGconn> pg_;
  std::shared_ptr<std::vector<std::string>> notices_ = std::make_shared<std::vector<std::string>>();
  std::chrono::milliseconds deadline_ = std::chrono::seconds(30);
  std::chrono::steady_clock::time_point give_up_;
};

}  // namespace support
