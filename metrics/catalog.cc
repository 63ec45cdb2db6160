#include "metrics/catalog.h"

namespace metrics {

namespace {

constexpr bool control_rows_in_order() {
  std::size_t i = 0;
  for (const ControlRow& row : kControlRows)
    if (static_cast<std::size_t>(row.metric) != i++) return false;
  return i == static_cast<std::size_t>(ControlMetric::count_);
}
static_assert(control_rows_in_order(), "kControlRows is indexed by ControlMetric");

std::string joined(const ControlRow& row) {
  std::string text;
  for (const std::string_view label : row.labels) {
    if (label.empty()) break;
    if (!text.empty()) text += ',';
    text += label;
  }
  return text;
}

}  // namespace

std::vector<MetricInfo> all_metrics() {
  const std::string series = "node,role,class,tenant";
  std::vector<MetricInfo> all;
  for (const auto& row : kCounters) all.push_back({row.name, "counter", "", row.help});
  for (const auto& row : kGauges) all.push_back({row.name, "gauge", "", row.help});
  for (const auto& row : kReasons) all.push_back({row.name, "counter", std::string(row.label), row.help});
  all.push_back({kStatementsName, "counter", series + ",outcome", kStatementsHelp});
  for (const auto& row : kHistograms) all.push_back({row.name, "histogram", series, row.help});
  for (const auto& row : kQuantiles) all.push_back({row.name, "gauge", series, row.help});
  for (const auto& row : kControlRows) all.push_back({row.name, "gauge", joined(row), row.help});
  return all;
}

}  // namespace metrics
