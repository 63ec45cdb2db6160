#include "metrics/worker_metrics.h"

#include <map>
#include <utility>

namespace metrics {

namespace {

std::uint64_t packed(SeriesKey key) {
  return std::uint64_t{key.node} | std::uint64_t{key.role} << 16 | std::uint64_t{key.kind} << 24 |
         std::uint64_t{key.tenant} << 32 | std::uint64_t{key.database} << 48;
}

}  // namespace

StatementSeries& WorkerMetrics::series(SeriesKey key) {
  if (auto known = by_key_.find(packed(key)); known != by_key_.end()) return known->second->series;
  if (by_key_.size() < kMaxSeries) return append(key);

  series_overflows.add();
  auto overflow = by_key_.find(packed(kOverflowKey));
  return overflow != by_key_.end() ? overflow->second->series : append(kOverflowKey);
}

StatementSeries& WorkerMetrics::append(SeriesKey key) {
  std::unique_ptr<Node> node(
      new Node{StatementSeries(key), newest_.load(std::memory_order_relaxed)});
  Node& added = *by_key_.emplace(packed(key), std::move(node)).first->second;
  newest_.store(&added, std::memory_order_release);
  return added.series;
}

DatabaseCounters& WorkerMetrics::database(std::string_view name) {
  const auto make = [this](std::string_view called, std::size_t number) {
    std::unique_ptr<DatabaseNode> node(
        new DatabaseNode{{std::string(called), static_cast<std::uint16_t>(number)},
                         newest_database_.load(std::memory_order_relaxed)});
    newest_database_.store(node.get(), std::memory_order_release);
    return node;
  };
  if (const auto known = databases_.find(name); known != databases_.end()) return known->second->counters;
  if (databases_.size() < kMaxDatabases) {
    auto node = make(name, databases_.size() + 1);
    return databases_.emplace(name, std::move(node)).first->second->counters;
  }
  if (!other_databases_) other_databases_ = make("other", 0);
  return other_databases_->counters;
}

void SeriesTotals::merge(const SeriesTotals& other) {
  total.merge(other.total);
  server.merge(other.server);
  queue.merge(other.queue);
  served += other.served;
  failed += other.failed;
}

void SeriesTotals::merge(const StatementSeries& series) {
  const HistogramSnapshot at_once(series.at_once_);
  total.merge(at_once);
  server.merge(at_once);
  queue.add_zeros(at_once.count());
  total.merge(series.total_);
  server.merge(series.server_);
  queue.merge(series.queue_);
  served += series.served.read();
  failed += series.failed.read();
}

std::vector<SeriesTotals> totals(std::span<const WorkerMetrics* const> workers) {
  std::map<SeriesKey, SeriesTotals> sums;
  for (const WorkerMetrics* worker : workers) {
    worker->for_each_series([&sums](const StatementSeries& series) {
      SeriesKey key = series.key;
      key.database = 0;
      SeriesTotals& sum = sums[key];
      sum.key = key;
      sum.merge(series);
    });
  }
  std::vector<SeriesTotals> result;
  result.reserve(sums.size());
  for (auto& [key, sum] : sums) result.push_back(std::move(sum));
  return result;
}

}  // namespace metrics
