#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "metrics/worker_metrics.h"

// Statistics by database, as PgBouncer's SHOW STATS words them.
namespace metrics {

using conf::Instant;

// Since the start, over all workers. Only grows.
struct DatabaseTotals {
  std::uint64_t assignments = 0;   // a client got a server
  std::uint64_t transactions = 0;  // ended; a statement outside of one is one
  std::uint64_t statements = 0;
  std::uint64_t received = 0, sent = 0;  // bytes from and to clients
  Nanos transaction_time{0};             // statements, and what clients do between those of a transaction
  Nanos statement_time{0};
  Nanos wait_time{0};  // for admission and for a server

  DatabaseTotals& operator+=(const DatabaseTotals& other);
  DatabaseTotals operator-(const DatabaseTotals& earlier) const;
};

// By name. Any thread; blocks nobody.
using DatabaseSums = std::map<std::string, DatabaseTotals>;
DatabaseSums database_totals(std::span<const WorkerMetrics* const> workers);

// What happened per second, and how long it took on average.
struct DatabaseAverages {
  std::uint64_t assignments = 0, transactions = 0, statements = 0, received = 0, sent = 0;  // per second
  Nanos transaction_time{0}, statement_time{0};                                             // per one
  Nanos wait_time{0};                                                                       // per assignment
};

// Averages over the last whole period; before the first has ended, over what there is of it. Pure: whoever
// owns the clock says when a period ends.
class DatabaseRates {
 public:
  explicit DatabaseRates(Instant start) : began_(start) {}

  void period_ended(Instant now, DatabaseSums totals);
  DatabaseAverages average(const std::string& database, Instant now, const DatabaseTotals& total) const;
  // The same over all databases.
  DatabaseAverages average_of_all(Instant now, const DatabaseTotals& total) const;

 private:
  DatabaseAverages over(const DatabaseTotals& done, Nanos time) const;

  Instant began_;   // the last whole period; or the one that has not ended yet
  Nanos lasted_{0};  // zero: no period has ended
  DatabaseSums at_begin_, at_end_;
};

}  // namespace metrics
