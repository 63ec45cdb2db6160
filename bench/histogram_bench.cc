#include <prometheus/metric_family.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "metrics/exporter.h"
#include "metrics/histogram.h"
#include "metrics/worker_metrics.h"

// What counting costs: a recording, a look-up of a series, and a scrape of a thousand series.

namespace {

// CPU time of this thread, because wall time measures the neighbours as well.
double cpu_nanos() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

// The best of five: what disturbs a run only ever adds.
template <class Work>
double best_nanos(Work&& work) {
  double best = HUGE_VAL;
  for (int run = 0; run < 5; ++run) {
    const double start = cpu_nanos();
    work();
    best = std::min(best, cpu_nanos() - start);
  }
  return best;
}

std::vector<metrics::Nanos> latencies(std::size_t count) {
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> draw(std::log(300e3), 0.8);
  std::vector<metrics::Nanos> all;
  for (std::size_t i = 0; i < count; ++i) all.emplace_back(static_cast<std::int64_t>(draw(random)));
  return all;
}

}  // namespace

int main() {
  constexpr std::size_t kRounds = 400;
  const auto sample = latencies(1 << 14);

  metrics::Histogram histogram;
  const double recording = best_nanos([&] {
    for (std::size_t round = 0; round < kRounds; ++round)
      for (const auto latency : sample) histogram.record(latency);
  });
  std::printf("record: %.2f ns, %llu bytes\n",
              recording / static_cast<double>(kRounds * sample.size()),
              static_cast<unsigned long long>(histogram.memory().count));

  auto worker = std::make_unique<metrics::WorkerMetrics>();
  constexpr std::size_t kSeries = 1000;
  const auto key = [](std::size_t i) {
    return metrics::SeriesKey{.node = static_cast<std::uint16_t>(i % 50),
                              .role = 1,
                              .kind = 1,
                              .tenant = static_cast<std::uint16_t>(i / 50)};
  };
  for (std::size_t i = 0; i < kSeries; ++i) {
    auto& series = worker->series(key(i));
    for (std::size_t n = 0; n < 1000; ++n) {
      const auto latency = sample[(i * 1000 + n) % sample.size()];
      series.total.record(latency);
      series.server.record(latency * 3 / 4);
      series.queue.record(latency / 4);
      series.served.add();
    }
  }
  constexpr std::size_t kLookups = 1'000'000;
  const double looking = best_nanos([&] {
    for (std::size_t i = 0; i < kLookups; ++i) worker->series(key(i % kSeries)).served.add();
  });
  std::printf("series look-up: %.1f ns\n", looking / static_cast<double>(kLookups));

  double bytes = 0;
  worker->for_each_series([&bytes](const metrics::StatementSeries& series) {
    bytes += static_cast<double>(sizeof series - 3 * sizeof series.total +
                                 series.total.memory().count + series.server.memory().count +
                                 series.queue.memory().count);
  });
  std::printf("memory per series: %.0f bytes\n", bytes / kSeries);

  metrics::Source source;
  source.workers = {worker.get()};
  std::vector<prometheus::MetricFamily> families;
  const double collecting = best_nanos([&] { families = metrics::collect(source); });
  std::string text;
  const double rendering = best_nanos([&] { text = metrics::render_text(families); });
  std::printf("scrape of %zu series: collect %.1f ms, render %.1f ms, %.1f MB\n", kSeries,
              collecting / 1e6, rendering / 1e6, static_cast<double>(text.size()) / 1e6);
}
