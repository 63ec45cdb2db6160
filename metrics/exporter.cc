#include "metrics/exporter.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <exception>
#include <map>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>

#include "conf/check.h"

namespace metrics {

namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

using SeriesLabels = std::array<std::string, 4>;  // values of node, role, class, tenant

MetricFamily& start_family(std::vector<MetricFamily>& families, std::string_view name,
                           std::string_view help, MetricType type) {
  families.push_back({std::string(name), std::string(help), type, {}});
  return families.back();
}

double seconds(conf::Nanos duration) { return std::chrono::duration<double>(duration).count(); }

// The length of the UTF-8 sequence at the start of `text`, 0 if it is none (Unicode 15, table 3-7).
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xc2 && first <= 0xdf   ? 2
                             : first >= 0xe0 && first <= 0xef ? 3
                             : first >= 0xf0 && first <= 0xf4 ? 4
                                                              : 0;
  if (length == 0 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0U) != 0x80) return 0;
  const unsigned second = byte(1);
  const bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
  const bool surrogate = first == 0xed && second >= 0xa0;
  const bool too_high = first == 0xf4 && second >= 0x90;
  return overlong || surrogate || too_high ? 0 : length;
}

std::string printable(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const auto first = static_cast<unsigned char>(text[0]);
    if (length == 0 || first < 0x20 || first == 0x7f) {
      result += '?';
      text.remove_prefix(1);
    } else {
      result += text.substr(0, length);
      text.remove_prefix(length);
    }
  }
  return result;
}

std::string word(const NameOf& name_of, std::size_t index) {
  return name_of ? printable(name_of(index)) : std::string();
}

std::string word_or_number(const NameOf& name_of, std::size_t index) {
  std::string text = word(name_of, index);
  return text.empty() ? std::to_string(index) : text;
}

SeriesLabels labels_of(SeriesKey key, const LabelNames& names) {
  if (key == kOverflowKey) return {"other", "other", "other", "other"};
  return {word_or_number(names.node, key.node), word_or_number(names.role, key.role),
          word_or_number(names.kind, key.kind), word_or_number(names.tenant, key.tenant)};
}

ClientMetric labelled(const SeriesLabels& values) {
  ClientMetric metric;
  metric.label = {
      {"node", values[0]}, {"role", values[1]}, {"class", values[2]}, {"tenant", values[3]}};
  return metric;
}

void collect_counters(const Source& source, std::vector<MetricFamily>& families) {
  for (const CounterRow& row : kCounters) {
    std::uint64_t sum = 0;
    for (const WorkerMetrics* worker : source.workers) {
      sum += (worker->*row.field).read();
      if (row.of_databases == nullptr) continue;
      worker->for_each_database(
          [&sum, &row](const DatabaseCounters& one) { sum += (one.*row.of_databases).read(); });
    }
    auto& family = start_family(families, row.name, row.help, MetricType::Counter);
    family.metric.emplace_back().counter.value = static_cast<double>(sum);
  }
}

void collect_gauges(const Source& source, std::vector<MetricFamily>& families) {
  for (const GaugeRow& row : kGauges) {
    std::int64_t sum = 0;
    for (const WorkerMetrics* worker : source.workers) sum += (worker->*row.field).read();
    auto& family = start_family(families, row.name, row.help, MetricType::Gauge);
    family.metric.emplace_back().gauge.value = static_cast<double>(sum);
  }
}

void collect_reasons(const Source& source, std::vector<MetricFamily>& families) {
  for (const ReasonRow& row : kReasons) {
    std::map<std::string, std::uint64_t> by_word;
    for (std::size_t i = 0; i < CounterArray::kCapacity; ++i) {
      std::uint64_t sum = 0;
      for (const WorkerMetrics* worker : source.workers) sum += (worker->*row.field).read(i);
      std::string text = word(source.names.*row.words, i);
      if (text.empty() && sum == 0) continue;
      by_word[text.empty() ? std::to_string(i) : std::move(text)] += sum;
    }
    auto& family = start_family(families, row.name, row.help, MetricType::Counter);
    for (const auto& [text, sum] : by_word) {
      ClientMetric& metric = family.metric.emplace_back();
      metric.label = {{std::string(row.label), text}};
      metric.counter.value = static_cast<double>(sum);
    }
  }
}

void fill(ClientMetric::Histogram& out, const HistogramSnapshot& in) {
  out.sample_count = in.count();
  out.sample_sum = seconds(in.sum());
  out.bucket.reserve(std::size(kBoundsSeconds) + 1);
  for (const double bound : kBoundsSeconds) {
    const conf::Nanos nanos(std::llround(bound * 1e9));
    out.bucket.push_back({in.count_at_most(nanos), bound});
  }
  out.bucket.push_back({in.count(), HUGE_VAL});  // le="+Inf"
}

void collect_series(const Source& source, std::vector<MetricFamily>& families) {
  std::map<SeriesLabels, SeriesTotals> series;
  for (SeriesTotals& sums : totals(source.workers)) {
    auto [entry, is_new] = series.try_emplace(labels_of(sums.key, source.names));
    if (is_new)
      entry->second = std::move(sums);
    else
      entry->second.merge(sums);
  }

  auto& statements =
      start_family(families, kStatementsName, kStatementsHelp, MetricType::Counter);
  for (const auto& [labels, sums] : series) {
    for (const OutcomeRow& row : kOutcomes) {
      ClientMetric metric = labelled(labels);
      metric.label.push_back({"outcome", std::string(row.outcome)});
      metric.counter.value = static_cast<double>(sums.*row.field);
      statements.metric.push_back(std::move(metric));
    }
  }
  for (const HistogramRow& row : kHistograms) {
    auto& family = start_family(families, row.name, row.help, MetricType::Histogram);
    for (const auto& [labels, sums] : series)
      fill(family.metric.emplace_back(labelled(labels)).histogram, sums.*row.field);
  }
  for (const QuantileRow& row : kQuantiles) {
    auto& family = start_family(families, row.name, row.help, MetricType::Gauge);
    for (const auto& [labels, sums] : series) {
      if ((sums.*row.field).count() == 0) continue;  // a quantile of nothing is not 0
      family.metric.emplace_back(labelled(labels)).gauge.value =
          seconds((sums.*row.field).quantile(row.q));
    }
  }
}

void collect_control(const Source& source, std::vector<MetricFamily>& families) {
  using Samples = std::map<std::vector<std::string>, double>;
  std::array<Samples, static_cast<std::size_t>(ControlMetric::count_)> by_metric;
  if (source.extra) {
    for (const GaugeFamily& family : source.extra()) {
      for (const GaugeSample& sample : family.samples) {
        std::vector<std::string> labels;
        for (const std::string& label : sample.labels) labels.push_back(printable(label));
        by_metric[static_cast<std::size_t>(family.metric)].emplace(std::move(labels), sample.value);
      }
    }
  }
  for (const ControlRow& row : kControlRows) {
    auto& family = start_family(families, row.name, row.help, MetricType::Gauge);
    for (const auto& [values, value] : by_metric[static_cast<std::size_t>(row.metric)]) {
      ClientMetric& metric = family.metric.emplace_back();
      metric.gauge.value = value;
      std::size_t i = 0;
      for (const std::string_view label : row.labels) {
        if (label.empty()) break;
        ENSURE(i < values.size());
        metric.label.push_back({std::string(label), values[i++]});
      }
      ENSURE(i == values.size());
    }
  }
}

class Workers final : public prometheus::Collectable {
 public:
  explicit Workers(Source source) : source_(std::move(source)) {}

  // Called from C code, through which an exception must not pass. An empty scrape is visible to
  // Prometheus as absent metrics.
  std::vector<MetricFamily> Collect() const override {
    try {
      return collect(source_);
    } catch (const std::exception&) {
      return {};
    }
  }

 private:
  const Source source_;
};

// Where to listen: a socket address, and the same in civetweb's words. Parsed here because
// civetweb's list syntax would let commas and letters in an address mean something else.
struct Listen {
  sockaddr_storage address{};
  socklen_t length = 0;
  std::string words;
};

std::optional<Listen> parse_listen(std::string_view address, std::uint16_t port) {
  const std::string host(address == "*"           ? std::string_view("0.0.0.0")
                         : address == "localhost" ? std::string_view("127.0.0.1")
                                                  : address);
  std::string suffix = ":";
  suffix += std::to_string(port);
  Listen listen;
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  if (inet_pton(AF_INET, host.c_str(), &v4.sin_addr) == 1) {
    listen.length = sizeof v4;
    std::memcpy(&listen.address, &v4, sizeof v4);
    listen.words = host + suffix;
    return listen;
  }
  if (inet_pton(AF_INET6, host.c_str(), &v6.sin6_addr) == 1) {
    listen.length = sizeof v6;
    std::memcpy(&listen.address, &v6, sizeof v6);
    listen.words.append("[").append(host).append("]").append(suffix);
    return listen;
  }
  return std::nullopt;
}

// The port lies at the same offset in both families.
static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
void set_port(sockaddr_storage& address, std::uint16_t port) {
  const std::uint16_t network = htons(port);
  std::memcpy(reinterpret_cast<char*>(&address) + offsetof(sockaddr_in, sin_port), &network,
              sizeof network);
}

void connect_and_leave(const Listen& listen) {
  const int fd = socket(listen.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  // Nonblocking, and the answer does not matter: the attempt itself wakes the listener.
  (void)connect(fd, reinterpret_cast<const sockaddr*>(&listen.address), listen.length);
  close(fd);
}

}  // namespace

std::vector<MetricFamily> collect(const Source& source) {
  std::vector<MetricFamily> families;
  families.reserve(std::size(kCounters) + std::size(kGauges) + std::size(kReasons) +
                   std::size(kHistograms) + std::size(kQuantiles) + std::size(kControlRows) + 1);
  collect_counters(source, families);
  collect_gauges(source, families);
  collect_reasons(source, families);
  collect_series(source, families);
  collect_control(source, families);
  return families;
}

std::string render_text(const std::vector<MetricFamily>& families) {
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, families);
  return std::move(out).str();
}

struct Exporter::Parts {
  std::shared_ptr<Workers> workers;
  std::unique_ptr<prometheus::Exposer> exposer;
  Listen listen;
  std::uint16_t port = 0;
};

Exporter::Exporter(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

// civetweb before 1.16 (Debian 12 has 1.15) looks at its stop flag only when somebody connects, or
// every two seconds (its issue 1163). Somebody does, so that a stop takes milliseconds.
Exporter::~Exporter() {
  std::atomic<bool> stopped{false};
  std::thread visitor([&stopped, this] {
    while (!stopped.load()) {
      connect_and_leave(parts_->listen);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  parts_->exposer.reset();  // first: its threads use the rest
  stopped.store(true);
  visitor.join();
}

std::uint16_t Exporter::port() const { return parts_->port; }

conf::Result<std::unique_ptr<Exporter>> Exporter::start(std::string_view address,
                                                        std::uint16_t port, Source source) {
  const std::string where =
      "metrics: listening on " + std::string(address) + ":" + std::to_string(port) + ": ";
  std::optional<Listen> listen = parse_listen(address, port);
  if (!listen)
    return conf::Error{conf::Errc::config, where + "not a numeric address, localhost or *"};
  try {
    auto parts = std::make_unique<Parts>();
    parts->workers = std::make_shared<Workers>(std::move(source));
    parts->listen = std::move(*listen);
    // Two threads: a client that hangs leaves one for the scraper. It is cut off after 5 s.
    parts->exposer = std::make_unique<prometheus::Exposer>(
        std::vector<std::string>{"listening_ports", parts->listen.words, "num_threads", "2",
                                 "request_timeout_ms", "5000"});
    parts->exposer->RegisterCollectable(parts->workers);
    const std::vector<int> ports = parts->exposer->GetListeningPorts();
    ENSURE(ports.size() == 1);
    parts->port = static_cast<std::uint16_t>(ports.front());
    set_port(parts->listen.address, parts->port);
    return std::unique_ptr<Exporter>(new Exporter(std::move(parts)));
  } catch (const std::exception& error) {
    return conf::Error{conf::Errc::io, where + error.what()};
  }
}

}  // namespace metrics
