#include "metrics/database_stats.h"

#include <cmath>
#include <utility>

namespace metrics {

DatabaseTotals& DatabaseTotals::operator+=(const DatabaseTotals& other) {
  assignments += other.assignments;
  transactions += other.transactions;
  statements += other.statements;
  received += other.received;
  sent += other.sent;
  transaction_time += other.transaction_time;
  statement_time += other.statement_time;
  wait_time += other.wait_time;
  return *this;
}

DatabaseTotals DatabaseTotals::operator-(const DatabaseTotals& earlier) const {
  return {.assignments = assignments - earlier.assignments,
          .transactions = transactions - earlier.transactions,
          .statements = statements - earlier.statements,
          .received = received - earlier.received,
          .sent = sent - earlier.sent,
          .transaction_time = transaction_time - earlier.transaction_time,
          .statement_time = statement_time - earlier.statement_time,
          .wait_time = wait_time - earlier.wait_time};
}

DatabaseSums database_totals(std::span<const WorkerMetrics* const> workers) {
  DatabaseSums sums;
  for (const WorkerMetrics* worker : workers) {
    // Numbers are the worker's own. Those of no database that it names have gone over its limits.
    std::map<std::uint16_t, DatabaseTotals> by_number;
    worker->for_each_series([&by_number](const StatementSeries& series) {
      DatabaseTotals& sum = by_number[series.key.database];
      // In this order: what is read later may have grown, and a transaction ends with a statement.
      const std::uint64_t left_open = series.left_open.read();
      const std::uint64_t statements = series.served.read() + series.failed.read();
      sum.statements += statements;
      sum.transactions += statements - left_open;
      sum.statement_time += series.server_time();
      sum.wait_time += series.queue_time();
      sum.transaction_time +=
          series.server_time() + Nanos(static_cast<std::int64_t>(series.idle_nanos.read()));
    });
    worker->for_each_database([&sums, &by_number](const DatabaseCounters& counters) {
      DatabaseTotals& sum = sums[counters.name];
      sum += {.assignments = counters.assignments.read(),
              .received = counters.received.read(),
              .sent = counters.sent.read()};
      if (const auto found = by_number.find(counters.number); found != by_number.end()) {
        sum += found->second;
        by_number.erase(found);
      }
    });
    for (const auto& [number, left] : by_number)
      if (left.statements > 0) sums["other"] += left;
  }
  return sums;
}

void DatabaseRates::period_ended(Instant now, DatabaseSums totals) {
  if (lasted_ > Nanos(0)) {
    began_ += lasted_;
    at_begin_ = std::move(at_end_);
  }
  at_end_ = std::move(totals);
  lasted_ = now - began_;
}

DatabaseAverages DatabaseRates::over(const DatabaseTotals& done, Nanos time) const {
  const double seconds = std::chrono::duration<double>(time).count();
  const auto rate = [seconds](std::uint64_t count) {
    return seconds <= 0 ? 0 : static_cast<std::uint64_t>(std::llround(static_cast<double>(count) / seconds));
  };
  const auto each = [](Nanos sum, std::uint64_t count) {
    return count == 0 ? Nanos(0) : sum / static_cast<std::int64_t>(count);
  };
  return {.assignments = rate(done.assignments),
          .transactions = rate(done.transactions),
          .statements = rate(done.statements),
          .received = rate(done.received),
          .sent = rate(done.sent),
          .transaction_time = each(done.transaction_time, done.transactions),
          .statement_time = each(done.statement_time, done.statements),
          .wait_time = each(done.wait_time, done.assignments)};
}

DatabaseAverages DatabaseRates::average(const std::string& database, Instant now,
                                        const DatabaseTotals& total) const {
  if (lasted_ <= Nanos(0)) return over(total, now - began_);
  const auto at = [&database](const DatabaseSums& sums) {
    const auto found = sums.find(database);
    return found == sums.end() ? DatabaseTotals{} : found->second;
  };
  return over(at(at_end_) - at(at_begin_), lasted_);
}

DatabaseAverages DatabaseRates::average_of_all(Instant now, const DatabaseTotals& total) const {
  if (lasted_ <= Nanos(0)) return over(total, now - began_);
  DatabaseTotals done;
  for (const auto& [database, sums] : at_end_) done += sums;
  DatabaseTotals before;
  for (const auto& [database, sums] : at_begin_) before += sums;
  return over(done - before, lasted_);
}

}  // namespace metrics
