#include "metrics/database_stats.h"

#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <vector>

using metrics::DatabaseRates;
using metrics::DatabaseSums;
using metrics::DatabaseTotals;
using metrics::Instant;
using metrics::Nanos;
using metrics::StatementSeries;
using metrics::WorkerMetrics;
using namespace std::chrono_literals;

namespace {

// A statement of one database on one worker.
void statement(WorkerMetrics& worker, const std::string& database, Nanos queue, Nanos server,
               bool leaves_open = false) {
  StatementSeries& series = worker.series({.node = 1, .database = worker.database(database).number});
  series.record(queue, server);
  series.served.add();
  if (leaves_open) series.left_open.add();
}

}  // namespace

TEST_SUITE("metrics/database_stats") {
  TEST_CASE("a database has one sum over all workers, whatever numbers they gave it") {
    WorkerMetrics a, b;
    a.database("only here");
    statement(a, "shop", 1ms, 2ms);
    statement(b, "shop", 0ms, 4ms);
    b.database("shop").received.add(10);
    a.database("shop").received.add(1);
    a.database("shop").assignments.add(2);
    const std::vector<const WorkerMetrics*> workers{&a, &b};
    const DatabaseSums sums = metrics::database_totals(workers);
    REQUIRE(sums.size() == 2);
    const DatabaseTotals& shop = sums.at("shop");
    CHECK(shop.statements == 2);
    CHECK(shop.transactions == 2);
    CHECK(shop.statement_time == 6ms);
    CHECK(shop.wait_time == 1ms);
    CHECK(shop.received == 11);
    CHECK(shop.assignments == 2);
    CHECK(sums.at("only here").statements == 0);
  }

  TEST_CASE("statements that leave a transaction open are part of one, with the time between them") {
    WorkerMetrics worker;
    statement(worker, "shop", 0ms, 1ms, true);
    statement(worker, "shop", 0ms, 1ms, true);
    statement(worker, "shop", 0ms, 1ms);
    worker.series({.node = 1, .database = 1}).idle_nanos.add(5'000'000);
    const std::vector<const WorkerMetrics*> workers{&worker};
    const DatabaseTotals shop = metrics::database_totals(workers).at("shop");
    CHECK(shop.statements == 3);
    CHECK(shop.transactions == 1);
    CHECK(shop.statement_time == 3ms);
    CHECK(shop.transaction_time == 8ms);
  }

  TEST_CASE("beyond the limit of databases the rest is \"other\", and one that is called so keeps its own") {
    auto worker = std::make_unique<WorkerMetrics>();
    statement(*worker, "other", 0ms, 1ms);
    for (std::size_t i = 1; i < WorkerMetrics::kMaxDatabases; ++i) worker->database(std::to_string(i));
    statement(*worker, "one too many", 0ms, 1ms);
    statement(*worker, "two too many", 0ms, 1ms);
    CHECK(&worker->database("one too many") == &worker->database("two too many"));
    CHECK(worker->database("one too many").number == 0);
    CHECK(worker->database("other").number == 1);
    const std::vector<const WorkerMetrics*> workers{worker.get()};
    CHECK(metrics::database_totals(workers).at("other").statements == 3);
  }

  TEST_CASE("the series of a database is none to the exporter: totals leave it out of the key") {
    WorkerMetrics worker;
    statement(worker, "one", 0ms, 1ms);
    statement(worker, "two", 0ms, 1ms);
    const std::vector<const WorkerMetrics*> workers{&worker};
    const auto sums = metrics::totals(workers);
    REQUIRE(sums.size() == 1);
    CHECK(sums[0].served == 2);
  }

  TEST_CASE("averages are of the last whole period, and of what there is before the first has ended") {
    const Instant start{};
    DatabaseRates rates(start);
    const auto after = [](std::uint64_t n) {
      return DatabaseTotals{.assignments = n,
                            .transactions = n,
                            .statements = 2 * n,
                            .received = 100 * n,
                            .sent = 0,
                            .transaction_time = Nanos(6ms) * n,
                            .statement_time = Nanos(4ms) * n,
                            .wait_time = Nanos(1ms) * n};
    };
    CHECK(rates.average("shop", start, {}).statements == 0);  // no time, no division
    CHECK(rates.average("shop", start + 2s, after(20)).statements == 20);

    rates.period_ended(start + 10s, {{"shop", after(100)}});
    CHECK(rates.average("shop", start + 12s, after(500)).transactions == 10);
    CHECK(rates.average("unknown", start + 12s, after(500)).transactions == 0);

    rates.period_ended(start + 20s, {{"shop", after(400)}, {"new", after(50)}});
    const auto shop = rates.average("shop", start + 25s, after(900));
    CHECK(shop.transactions == 30);
    CHECK(shop.statements == 60);
    CHECK(shop.received == 3000);
    CHECK(shop.transaction_time == 6ms);
    CHECK(shop.statement_time == 2ms);
    CHECK(shop.wait_time == 1ms);
    CHECK(rates.average("new", start + 25s, {}).transactions == 5);
    CHECK(rates.average_of_all(start + 25s, {}).transactions == 35);
  }
}
