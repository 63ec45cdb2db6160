#include "metrics/worker_metrics.h"

#include <doctest/doctest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

using metrics::SeriesKey;
using metrics::StatementSeries;
using metrics::WorkerMetrics;
using metrics::Nanos;
using std::chrono::microseconds;
using std::chrono::milliseconds;

namespace {

std::size_t count_series(const WorkerMetrics& worker) {
  std::size_t count = 0;
  worker.for_each_series([&count](const StatementSeries&) { ++count; });
  return count;
}

SeriesKey numbered(std::size_t i) {
  return {.node = static_cast<std::uint16_t>(i & 0xff),
          .role = static_cast<std::uint8_t>(i >> 8 & 1),
          .kind = static_cast<std::uint8_t>(i >> 9 & 3),
          .tenant = static_cast<std::uint16_t>(i >> 11)};
}

}  // namespace

TEST_SUITE("metrics/worker_metrics") {
  TEST_CASE("a key has one series, and its reference stays good while others are added") {
    WorkerMetrics worker;
    StatementSeries& first = worker.series(numbered(0));
    first.served.add();
    for (std::size_t i = 1; i < 2000; ++i) worker.series(numbered(i)).served.add();
    CHECK(&worker.series(numbered(0)) == &first);
    CHECK(first.served.read() == 1);
    CHECK(count_series(worker) == 2000);
  }

  TEST_CASE("keys that differ in one field are different series") {
    WorkerMetrics worker;
    const SeriesKey key{.node = 1, .role = 1, .kind = 1, .tenant = 1};
    StatementSeries* base = &worker.series(key);
    for (SeriesKey other : {SeriesKey{2, 1, 1, 1}, SeriesKey{1, 2, 1, 1}, SeriesKey{1, 1, 2, 1},
                            SeriesKey{1, 1, 1, 2}}) {
      StatementSeries* series = &worker.series(other);
      CHECK(series != base);
      CHECK(series->key == other);
    }
    CHECK(count_series(worker) == 5);
  }

  TEST_CASE(
      "requirement 38: beyond the limit new keys share one series, which is counted; old keys keep "
      "theirs") {
    auto worker = std::make_unique<WorkerMetrics>();
    for (std::size_t i = 0; i < WorkerMetrics::kMaxSeries; ++i) worker->series(numbered(i));
    CHECK(worker->series_overflows.read() == 0);

    StatementSeries& overflow = worker->series(numbered(WorkerMetrics::kMaxSeries));
    CHECK(overflow.key == metrics::kOverflowKey);
    CHECK(&worker->series(numbered(WorkerMetrics::kMaxSeries + 1)) == &overflow);
    CHECK(worker->series_overflows.read() == 2);
    CHECK(count_series(*worker) == WorkerMetrics::kMaxSeries + 1);

    CHECK(worker->series(numbered(5)).key == numbered(5));
    CHECK(worker->series_overflows.read() == 2);
  }

  TEST_CASE("totals sum each key over the workers, in the keys' order") {
    WorkerMetrics a, b;
    const SeriesKey shared{.node = 2, .role = 1, .kind = 1, .tenant = 3};
    const SeriesKey own{.node = 1, .role = 2, .kind = 1, .tenant = 3};
    for (WorkerMetrics* worker : {&a, &b}) {
      StatementSeries& series = worker->series(shared);
      series.record(milliseconds(1), milliseconds(2));
      series.served.add(5);
      series.failed.add(1);
    }
    b.series(own).served.add();

    const std::vector<const WorkerMetrics*> workers{&a, &b};
    const auto sums = metrics::totals(workers);
    REQUIRE(sums.size() == 2);
    CHECK(sums[0].key == own);
    CHECK(sums[0].served == 1);
    CHECK(sums[0].total.count() == 0);
    CHECK(sums[1].key == shared);
    CHECK(sums[1].served == 10);
    CHECK(sums[1].failed == 2);
    CHECK(sums[1].total.sum() == milliseconds(6));
    CHECK(sums[1].server.sum() == milliseconds(4));
    CHECK(sums[1].queue.sum() == milliseconds(2));
  }

  TEST_CASE("a statement that did not wait counts in all three histograms, with a wait of zero") {
    WorkerMetrics worker;
    StatementSeries& series = worker.series({});
    for (int i = 0; i < 98; ++i) series.record(Nanos(0), milliseconds(2));
    for (int i = 0; i < 2; ++i) series.record(milliseconds(8), milliseconds(4));
    const std::vector<const WorkerMetrics*> workers{&worker};
    const auto sums = metrics::totals(workers);
    REQUIRE(sums.size() == 1);
    CHECK(sums[0].total.count() == 100);
    CHECK(sums[0].server.count() == 100);
    CHECK(sums[0].queue.count() == 100);
    CHECK(sums[0].total.sum() == milliseconds(98 * 2 + 2 * 12));
    CHECK(sums[0].server.sum() == milliseconds(98 * 2 + 2 * 4));
    CHECK(sums[0].queue.sum() == milliseconds(2 * 8));
    CHECK(sums[0].queue.quantile(0.98) < microseconds(1));
    CHECK(sums[0].queue.quantile(0.99) > milliseconds(7));
    CHECK(sums[0].total.quantile(0.99) > milliseconds(11));
  }

  TEST_CASE("totals of no workers are empty") { CHECK(metrics::totals({}).empty()); }

  TEST_CASE("a reader may walk the series while the worker adds to them") {
    WorkerMetrics worker;
    std::atomic<bool> done{false};
    std::thread writer([&worker, &done] {
      for (std::size_t i = 0; i < 20'000; ++i) {
        StatementSeries& series = worker.series(numbered(i % 1000));
        series.record(Nanos(0), milliseconds(i % 50));
        series.served.add();
      }
      done.store(true, std::memory_order_release);
    });
    const std::vector<const WorkerMetrics*> workers{&worker};
    std::size_t last = 0;
    bool only_grows = true;
    while (!done.load(std::memory_order_acquire)) {
      const std::size_t now = metrics::totals(workers).size();
      only_grows = only_grows && now >= last;
      last = now;
    }
    writer.join();
    CHECK(only_grows);
    std::uint64_t served = 0;
    for (const auto& sum : metrics::totals(workers)) served += sum.served;
    CHECK(served == 20'000);
  }
}
