#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "conf/result.h"
#include "metrics/catalog.h"
#include "metrics/worker_metrics.h"

namespace prometheus {
struct MetricFamily;
}

// The catalogue as Prometheus sees it. exporter.cc is the only file that includes prometheus-cpp;
// its exceptions end there.
namespace metrics {

// Where a scrape looks. Everything in it must stay valid, and callable from any thread, for as long
// as the exporter lives.
struct Source {
  std::vector<const WorkerMetrics*> workers;
  LabelNames names;
  std::function<std::vector<GaugeFamily>()> extra;  // may be empty: no control metrics
};

// Reads all workers once and sums them. The order is the catalogue's, within a family that of the
// labels' text; two keys whose labels read the same are one. Labels come from clients in part, so
// what is not printable UTF-8 in them becomes '?': one bad byte would make Prometheus drop
// the whole scrape. Any thread; blocks nobody. Cost: about 50 us per statement series.
std::vector<prometheus::MetricFamily> collect(const Source& source);

// The text that a scrape answers with: 12 kB and 0.1 ms per statement series.
std::string render_text(const std::vector<prometheus::MetricFamily>& families);

// Serves GET /metrics over HTTP on two threads of its own until destroyed. Every other path is 404.
class Exporter {
 public:
  // `address` is numeric (IPv4 or IPv6), "localhost", or "*" for all IPv4 addresses. Port 0 takes a
  // free one. What is no address is Errc::config, one that cannot be listened on is Errc::io.
  static conf::Result<std::unique_ptr<Exporter>> start(std::string_view address,
                                                       std::uint16_t port, Source source);
  ~Exporter();  // waits for the scrapes that are under way: milliseconds, 5 s if a client hangs
  Exporter(const Exporter&) = delete;
  Exporter& operator=(const Exporter&) = delete;

  std::uint16_t port() const;  // the one that is bound

 private:
  struct Parts;
  explicit Exporter(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace metrics
