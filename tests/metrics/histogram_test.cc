#include "metrics/histogram.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

using metrics::Histogram;
using metrics::HistogramBuckets;
using metrics::HistogramSnapshot;
using metrics::Nanos;
using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

using Random = std::mt19937_64;

struct Distribution {
  std::string name;
  std::function<double(Random&)> draw;  // nanoseconds
};

std::vector<Distribution> distributions() {
  return {
      {"uniform",
       [d = std::uniform_real_distribution(1e3, 5e6)](Random& random) mutable {
         return d(random);
       }},
      {"narrow uniform",
       [d = std::uniform_real_distribution(2.0e6, 2.2e6)](Random& random) mutable {
         return d(random);
       }},
      {"lognormal",
       [d = std::lognormal_distribution(std::log(300e3), 0.8)](Random& random) mutable {
         return std::max(1e3, d(random));
       }},
      {"bimodal",
       [fast = std::normal_distribution(120e3, 15e3), slow = std::normal_distribution(40e6, 4e6),
        pick = std::bernoulli_distribution(0.03)](Random& random) mutable {
         return std::max(1e3, pick(random) ? slow(random) : fast(random));
       }},
      {"heavy tail (Pareto, alpha 1.2)",
       [d = std::uniform_real_distribution(1e-9, 1.0)](Random& random) mutable {
         return std::min(3.6e12, 50e3 / std::pow(d(random), 1 / 1.2));
       }},
  };
}

Nanos exact_quantile(const std::vector<Nanos>& sorted, double q) {
  const auto rank = static_cast<std::size_t>(std::ceil(q * static_cast<double>(sorted.size())));
  return sorted[std::max<std::size_t>(rank, 1) - 1];
}

double relative_error(Nanos found, Nanos exact) {
  return std::abs(static_cast<double>((found - exact).count())) /
         static_cast<double>(exact.count());
}

}  // namespace

TEST_SUITE("metrics/histogram") {
  TEST_CASE("P50, P90, P99, P99.9 are within 3 % of the exact ones, whatever the distribution") {
    double worst = 0;
    for (auto& distribution : distributions()) {
      for (const std::uint64_t seed : {1, 2, 3}) {
        CAPTURE(distribution.name);
        CAPTURE(seed);
        Random random(seed);
        Histogram histogram;
        std::vector<Nanos> all;
        for (int i = 0; i < 100'000; ++i) {
          all.emplace_back(static_cast<std::int64_t>(distribution.draw(random)));
          histogram.record(all.back());
        }
        std::sort(all.begin(), all.end());
        const HistogramSnapshot snapshot(histogram);
        CHECK(snapshot.count() == all.size());
        for (const double q : {0.5, 0.9, 0.99, 0.999}) {
          CAPTURE(q);
          const double error = relative_error(snapshot.quantile(q), exact_quantile(all, q));
          CHECK(error <= 0.03);
          worst = std::max(worst, error);
        }
      }
    }
    MESSAGE("worst error of a quantile: " << worst * 100 << " %");
    CHECK(worst <= 1.0 / 64 + 1e-6);  // what the header promises
  }

  TEST_CASE("every bucket's midpoint is in it, and buckets follow each other") {
    Nanos last(-1);
    for (std::size_t bucket = 0; bucket < HistogramBuckets::kBuckets; ++bucket) {
      const Nanos middle = HistogramBuckets::midpoint(bucket);
      CHECK(HistogramBuckets::index(middle) == bucket);
      CHECK(middle > last);
      last = middle;
    }
  }

  TEST_CASE("a value on a power of two opens its octave, one below closes the last one") {
    for (unsigned bits = 10; bits < 42; ++bits) {
      const Nanos edge(std::int64_t{1} << bits);
      CHECK(HistogramBuckets::index(edge) == (bits - 9) * HistogramBuckets::kSubBuckets);
      CHECK(HistogramBuckets::index(edge - Nanos(1)) == HistogramBuckets::index(edge) - 1);
    }
  }

  TEST_CASE("the last bucket takes what is longer than the range, the first what is negative") {
    Histogram histogram;
    histogram.record(hours(1000));
    histogram.record(Nanos::max());
    histogram.record(Nanos(-5));
    const HistogramSnapshot snapshot(histogram);
    CHECK(snapshot.count() == 3);
    CHECK(snapshot.quantile(1) > hours(1));
    CHECK(snapshot.quantile(0) < microseconds(1));
    CHECK(snapshot.count_at_most(hours(2)) == 3);
  }

  TEST_CASE("an hour is still within 1.6 %") {
    Histogram histogram;
    histogram.record(hours(1));
    CHECK(relative_error(HistogramSnapshot(histogram).quantile(0.5), hours(1)) <= 1.0 / 64);
  }

  TEST_CASE("nothing recorded: count, sum and quantiles are zero") {
    const HistogramSnapshot snapshot;
    CHECK(snapshot.count() == 0);
    CHECK(snapshot.sum() == Nanos(0));
    CHECK(snapshot.quantile(0.99) == Nanos(0));
    CHECK(snapshot.count_at_most(hours(1)) == 0);
  }

  TEST_CASE("the sum is exact") {
    Histogram histogram;
    for (int i = 1; i <= 100; ++i) histogram.record(Nanos(i * 12'345));
    CHECK(HistogramSnapshot(histogram).sum() == Nanos(5050 * 12'345));
  }

  TEST_CASE("merged snapshots equal the snapshot of everything") {
    Histogram fast, slow, both;
    for (int i = 0; i < 1000; ++i) {
      fast.record(microseconds(50 + i));
      slow.record(milliseconds(5 + i));
      both.record(microseconds(50 + i));
      both.record(milliseconds(5 + i));
    }
    HistogramSnapshot merged(fast);
    merged.merge(HistogramSnapshot(slow));
    HistogramSnapshot gathered(fast);
    gathered.merge(slow);
    const HistogramSnapshot whole(both);
    for (const auto* snapshot : {&merged, &gathered}) {
      CHECK(snapshot->count() == whole.count());
      CHECK(snapshot->sum() == whole.sum());
      for (const double q : {0.01, 0.5, 0.75, 0.99, 1.0})
        CHECK(snapshot->quantile(q) == whole.quantile(q));
    }
  }

  TEST_CASE("the count at most a bound is right but for the bucket that the bound cuts") {
    Histogram histogram;
    for (int i = 1; i <= 1000; ++i) histogram.record(microseconds(100 * i));
    const HistogramSnapshot snapshot(histogram);
    CHECK(snapshot.count_at_most(Nanos(0)) == 0);
    CHECK(snapshot.count_at_most(seconds(1)) == 1000);
    std::uint64_t last = 0;
    for (int bound = 1; bound <= 1000; ++bound) {
      const std::uint64_t found = snapshot.count_at_most(microseconds(100 * bound));
      CHECK(std::abs(static_cast<double>(found) - bound) <= 1 + bound / 64.0);
      CHECK(found >= last);
      last = found;
    }
  }

  TEST_CASE("memory grows by octave in use, not by recording") {
    Histogram histogram;
    const auto empty = histogram.memory().count;
    CHECK(empty <= 300);
    for (int i = 0; i < 10'000; ++i) histogram.record(microseconds(1100));
    CHECK(histogram.memory().count == empty + 256);
    histogram.record(seconds(3));
    CHECK(histogram.memory().count == empty + 512);
  }

  TEST_CASE("a reader beside the writer sees counts that only grow, and in the end all of them") {
    constexpr std::uint64_t kRecordings = 200'000;
    Histogram histogram;
    std::atomic<bool> done{false};
    std::thread writer([&histogram, &done] {
      Random random(7);
      for (std::uint64_t i = 0; i < kRecordings; ++i)
        histogram.record(Nanos(std::int64_t{1} << (random() % 40)));
      done.store(true, std::memory_order_release);
    });
    std::uint64_t last = 0;
    bool only_grows = true;
    while (!done.load(std::memory_order_acquire)) {
      const std::uint64_t now = HistogramSnapshot(histogram).count();
      only_grows = only_grows && now >= last;
      last = now;
    }
    writer.join();
    CHECK(only_grows);
    CHECK(HistogramSnapshot(histogram).count() == kRecordings);
  }
}
