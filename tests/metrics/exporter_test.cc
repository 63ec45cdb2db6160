#include "metrics/exporter.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <prometheus/check_names.h>
#include <prometheus/metric_family.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using metrics::ControlMetric;
using metrics::GaugeFamily;
using metrics::Source;
using metrics::WorkerMetrics;
using std::chrono::microseconds;
using std::chrono::milliseconds;

namespace {

metrics::NameOf words(std::vector<std::string> list) {
  return [list](std::size_t i) { return i < list.size() ? list[i] : std::string(); };
}

// Two workers, one series on both of them; one reason array in use.
struct Fixture {
  WorkerMetrics a, b;
  Source source;

  Fixture() {
    a.clients_accepted.add(3);
    b.clients_accepted.add(4);
    a.clients_idle.set(2);
    b.clients_idle.set(-1);
    a.refusals.add(1, 7);
    b.refusals.add(9);
    for (WorkerMetrics* worker : {&a, &b}) {
      auto& series = worker->series({.node = 1, .role = 1, .kind = 0, .tenant = 0});
      for (int i = 1; i <= 100; ++i) {
        series.record(microseconds(40 * i), microseconds(60 * i));
        series.served.add();
      }
      series.failed.add(2);
    }
    source.workers = {&a, &b};
    source.names.node = words({"10.0.0.1:5432", "10.0.0.2:5432"});
    source.names.role = words({"unknown", "replica"});
    source.names.kind = words({"read", "write"});
    source.names.tenant = words({"shop"});
    source.names.refusal = words({"", "tenant_rate", "queue_timeout"});
    source.extra = [] {
      return std::vector<GaugeFamily>{
          {ControlMetric::node_up,
           {{{"main", "10.0.0.2:5432"}, 1}, {{"main", "10.0.0.1:5432"}, 0}}},
          {ControlMetric::tenant_running, {{{"shop"}, 12}}}};
    };
  }

  std::string text() const { return metrics::render_text(metrics::collect(source)); }
};

bool has(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

std::string value_of(const std::string& text, const std::string& series) {
  const auto at = ("\n" + text).find("\n" + series + " ");
  if (at == std::string::npos) return "absent";
  const auto start = at + series.size() + 1;
  return text.substr(start, text.find('\n', start) - start);
}

std::string http(std::uint16_t port, const std::string& request) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string answer;
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
      send(fd, request.data(), request.size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(request.size())) {
    char buffer[4096];
    for (ssize_t n; (n = recv(fd, buffer, sizeof buffer, 0)) > 0;)
      answer.append(buffer, static_cast<std::size_t>(n));
  }
  close(fd);
  return answer;
}

std::string get(std::uint16_t port, const std::string& path) {
  return http(port, "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
}

// The build tells where the sources are; a build by hand starts the tests in the project's root.
#ifndef PGSLUICE_SOURCE_ROOT
#define PGSLUICE_SOURCE_ROOT "."
#endif
const std::filesystem::path kRoot = PGSLUICE_SOURCE_ROOT;

std::string read_all(const std::filesystem::path& path) {
  std::ifstream file(path);
  REQUIRE_MESSAGE(file, "cannot read " << path.string());
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

}  // namespace

TEST_SUITE("metrics/exporter") {
  TEST_CASE("names and help texts are those of the golden file") {
    std::ostringstream found;
    for (const auto& metric : metrics::all_metrics())
      found << metric.name << " " << metric.type << " {" << metric.labels << "} " << metric.help
            << "\n";

    const auto path = kRoot / "tests/metrics/metrics_golden.txt";
    if (std::getenv("PGSLUICE_UPDATE_GOLDEN") != nullptr) std::ofstream(path) << found.str();
    CHECK(found.str() == read_all(path));
  }

  TEST_CASE("the folder's README says what each metric answers") {
    const std::string readme = read_all(kRoot / "metrics/README.md");
    for (const auto& metric : metrics::all_metrics()) {
      CAPTURE(metric.name);
      CHECK(readme.find("| `" + std::string(metric.name) + "` |") != std::string::npos);
    }
  }

  TEST_CASE("a scrape shows exactly the catalogue's metrics, in its order") {
    const Fixture fixture;
    const auto families = metrics::collect(fixture.source);
    const auto all = metrics::all_metrics();
    REQUIRE(families.size() == all.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      CAPTURE(all[i].name);
      CHECK(families[i].name == all[i].name);
      CHECK(families[i].help == all[i].help);
      for (const auto& metric : families[i].metric) {
        std::string labels;
        for (const auto& label : metric.label) labels += (labels.empty() ? "" : ",") + label.name;
        CHECK(labels == all[i].labels);
      }
    }
  }

  TEST_CASE("names are valid, unique, prefixed, and counters end in _total") {
    std::set<std::string> seen;
    for (const auto& metric : metrics::all_metrics()) {
      const std::string name(metric.name);
      CAPTURE(name);
      CHECK(prometheus::CheckMetricName(name));
      CHECK(name.starts_with("pgsluice_"));
      CHECK(seen.insert(name).second);
      CHECK(name.ends_with("_total") == (metric.type == "counter"));
      CHECK(metric.help.ends_with("."));
    }
  }

  TEST_CASE("requirement 38: counters and gauges are summed over the workers") {
    const std::string text = Fixture().text();
    CHECK(has(text, "# TYPE pgsluice_clients_accepted_total counter"));
    CHECK(has(text, "pgsluice_clients_accepted_total 7"));
    CHECK(has(text, "# TYPE pgsluice_clients_idle gauge"));
    CHECK(has(text, "pgsluice_clients_idle 1"));
  }

  TEST_CASE("a reason with a word is shown at zero, one without only when it has happened") {
    const std::string text = Fixture().text();
    CHECK(has(text, "pgsluice_refusals_total{reason=\"tenant_rate\"} 7"));
    CHECK(has(text, "pgsluice_refusals_total{reason=\"queue_timeout\"} 0"));
    CHECK(has(text, "pgsluice_refusals_total{reason=\"9\"} 1"));
    CHECK(text.find("pgsluice_refusals_total{reason=\"0\"}") == std::string::npos);
    CHECK(text.find("pgsluice_routes_total{") == std::string::npos);
  }

  TEST_CASE("statement histograms count what lies at or below each bound") {
    const std::string text = Fixture().text();
    const std::string labels =
        "{node=\"10.0.0.2:5432\",role=\"replica\",class=\"read\",tenant=\"shop\"";
    const std::string name = "pgsluice_statement_duration_seconds";
    CHECK(has(text, name + "_count" + labels + "} 200"));
    CHECK(value_of(text, name + "_sum" + labels + "}").substr(0, 4) == "1.01");
    CHECK(has(text, name + "_bucket" + labels + ",le=\"+Inf\"} 200"));
    CHECK(has(text, name + "_bucket" + labels + ",le=\"60\"} 200"));
    CHECK(has(text, name + "_bucket" + labels + ",le=\"0.003\"} 60"));
    CHECK(has(text, name + "_bucket" + labels + ",le=\"5e-05\"} 0"));
    CHECK(has(text, "pgsluice_statement_server_seconds_count" + labels + "} 200"));
    CHECK(has(text, "pgsluice_statement_queue_seconds_count" + labels + "} 200"));
    CHECK(has(text, "pgsluice_statements_total" + labels + ",outcome=\"served\"} 200"));
    CHECK(has(text, "pgsluice_statements_total" + labels + ",outcome=\"failed\"} 4"));

    const std::string quantile = "pgsluice_statement_duration_p";
    const double p99 = std::stod(value_of(text, quantile + "99_seconds" + labels + "}"));
    CHECK(p99 == doctest::Approx(0.0099).epsilon(0.016));
    const double p50 = std::stod(value_of(text, quantile + "50_seconds" + labels + "}"));
    CHECK(p50 == doctest::Approx(0.0050).epsilon(0.016));
  }

  TEST_CASE("a series in which nothing was recorded has no quantiles") {
    WorkerMetrics worker;
    worker.series({});
    Source source;
    source.workers = {&worker};
    const std::string text = metrics::render_text(metrics::collect(source));
    CHECK(text.find("pgsluice_statement_duration_p99_seconds{") == std::string::npos);
    CHECK(has(text, "pgsluice_statements_total{node=\"0\",role=\"0\",class=\"0\",tenant=\"0\","
                    "outcome=\"served\"} 0"));
  }

  TEST_CASE("keys whose labels read the same are one series, for Prometheus refuses doubles") {
    WorkerMetrics worker;
    worker.series({.node = 0, .role = 0, .kind = 0, .tenant = 1}).served.add(2);
    worker.series({.node = 0, .role = 0, .kind = 0, .tenant = 2}).served.add(3);
    Source source;
    source.workers = {&worker};
    source.names.tenant = [](std::size_t) { return "other"; };
    const std::string text = metrics::render_text(metrics::collect(source));
    CHECK(has(text, "pgsluice_statements_total{node=\"0\",role=\"0\",class=\"0\","
                    "tenant=\"other\",outcome=\"served\"} 5"));
  }

  TEST_CASE("the overflow series reads other in every label") {
    auto worker = std::make_unique<WorkerMetrics>();
    for (std::size_t i = 0; i <= WorkerMetrics::kMaxSeries; ++i)
      worker->series({.tenant = static_cast<std::uint16_t>(i)}).served.add();
    Source source;
    source.workers = {worker.get()};
    const std::string text = metrics::render_text(metrics::collect(source));
    CHECK(has(text, "pgsluice_statements_total{node=\"other\",role=\"other\",class=\"other\","
                    "tenant=\"other\",outcome=\"served\"} 1"));
  }

  TEST_CASE("what a client puts into its tenant's name cannot break the exposition") {
    const std::vector<std::pair<std::string, std::string>> cases{
        {"a\"b\\c", "a\\\"b\\\\c"},
        {"two\nlines", "two?lines"},
        {"caf\xc3\xa9", "caf\xc3\xa9"},
        {"\xe2\x82\xac\xf0\x9f\x90\x98", "\xe2\x82\xac\xf0\x9f\x90\x98"},
        {"bad\xff\xc3", "bad??"},
        {"\xc0\xaf", "??"},           // overlong
        {"\xed\xa0\x80", "???"},      // a surrogate
        {"\xf4\x90\x80\x80", "????"}  // beyond U+10FFFF
    };
    for (const auto& [name, shown] : cases) {
      WorkerMetrics worker;
      worker.series({}).served.add();
      Source source;
      source.workers = {&worker};
      source.names.tenant = [tenant = name](std::size_t) { return tenant; };
      source.extra = [tenant = name] {
        return std::vector<GaugeFamily>{{ControlMetric::tenant_running, {{{tenant}, 1}}}};
      };
      const std::string text = metrics::render_text(metrics::collect(source));
      CAPTURE(shown);
      CHECK(text.find(",tenant=\"" + shown + "\",outcome=\"served\"} 1\n") != std::string::npos);
      CHECK(has(text, "pgsluice_tenant_running{tenant=\"" + shown + "\"} 1"));
    }
  }

  TEST_CASE("control metrics are shown with their row's labels, sorted; absent ones are not zero") {
    const std::string text = Fixture().text();
    CHECK(has(text, "pgsluice_node_up{cluster=\"main\",node=\"10.0.0.1:5432\"} 0\n"
                    "pgsluice_node_up{cluster=\"main\",node=\"10.0.0.2:5432\"} 1"));
    CHECK(has(text, "pgsluice_tenant_running{tenant=\"shop\"} 12"));
    CHECK(has(text, "# TYPE pgsluice_node_lag_seconds gauge"));
    CHECK(text.find("\npgsluice_node_lag_seconds{") == std::string::npos);
  }

  TEST_CASE("two scrapes of an idle process are the same text") {
    const Fixture fixture;
    CHECK(fixture.text() == fixture.text());
  }

  TEST_CASE("a scrape over HTTP answers with the text, on a port that the system chose") {
    const Fixture fixture;
    auto exporter = metrics::Exporter::start("127.0.0.1", 0, fixture.source);
    REQUIRE(exporter);
    const std::uint16_t port = (*exporter)->port();
    REQUIRE(port != 0);

    const std::string answer = get(port, "/metrics");
    CHECK(answer.starts_with("HTTP/1.1 200 OK\r\n"));
    CHECK(answer.find("text/plain") != std::string::npos);
    CHECK(has(answer, "pgsluice_clients_accepted_total 7"));
    CHECK(answer.find(fixture.text()) != std::string::npos);
  }

  TEST_CASE("other paths are 404, files are not served, and nonsense disturbs nobody") {
    const Fixture fixture;
    auto exporter = metrics::Exporter::start("127.0.0.1", 0, fixture.source);
    REQUIRE(exporter);
    const std::uint16_t port = (*exporter)->port();
    for (const std::string path : {"/", "/etc/passwd", "/meson.build", "/../../etc/passwd"}) {
      CAPTURE(path);
      const std::string answer = get(port, path);
      CAPTURE(answer);
      CHECK(answer.starts_with("HTTP/1.1 4"));
      CHECK(answer.find("root:") == std::string::npos);
    }
    http(port, "\x16\x03\x01 not http at all\r\n\r\n");
    CHECK(get(port, "/metrics").starts_with("HTTP/1.1 200 OK\r\n"));
  }

  TEST_CASE("scrapes run beside a worker that counts") {
    auto worker = std::make_unique<WorkerMetrics>();
    Source source;
    source.workers = {worker.get()};
    auto exporter = metrics::Exporter::start("127.0.0.1", 0, source);
    REQUIRE(exporter);
    std::atomic<bool> stop{false};
    std::thread writer([&worker, &stop] {
      for (std::size_t i = 0; !stop.load(std::memory_order_relaxed); ++i) {
        auto& series = worker->series({.tenant = static_cast<std::uint16_t>(i % 20)});
        series.record(std::chrono::nanoseconds(0), microseconds(i % 5000));
        series.served.add();
        worker->refusals.add(i % 8);
      }
    });
    for (int i = 0; i < 10; ++i)
      CHECK(get((*exporter)->port(), "/metrics").starts_with("HTTP/1.1 200 OK\r\n"));
    stop.store(true, std::memory_order_relaxed);
    writer.join();
  }

  TEST_CASE("a port in use and an address that is none are errors that name both") {
    const Fixture fixture;
    auto first = metrics::Exporter::start("127.0.0.1", 0, fixture.source);
    REQUIRE(first);
    auto second = metrics::Exporter::start("127.0.0.1", (*first)->port(), fixture.source);
    REQUIRE_FALSE(second);
    CHECK(second.error().code == conf::Errc::io);
    CHECK(second.error().message.find("127.0.0.1:" + std::to_string((*first)->port())) !=
          std::string::npos);

    for (const char* address : {"", "nonsense", "127.0.0.1:1,127.0.0.1", "1.2.3"}) {
      auto third = metrics::Exporter::start(address, 0, fixture.source);
      REQUIRE_FALSE(third);
      CHECK(third.error().code == conf::Errc::config);
    }
  }

  TEST_CASE("an exception in what the control thread supplies ends in the exporter") {
    Source source;
    source.extra = []() -> std::vector<GaugeFamily> { throw std::runtime_error("no"); };
    auto exporter = metrics::Exporter::start("127.0.0.1", 0, source);
    REQUIRE(exporter);
    const std::string answer = get((*exporter)->port(), "/metrics");
    CHECK(answer.starts_with("HTTP/1.1 200 OK\r\n"));
    CHECK(answer.find("pgsluice_") == std::string::npos);
  }

  TEST_CASE("an exporter stops within half a second, and then its port is free") {
    const Fixture fixture;
    auto first = metrics::Exporter::start("127.0.0.1", 0, fixture.source);
    REQUIRE(first);
    const std::uint16_t port = (*first)->port();
    const auto before = std::chrono::steady_clock::now();
    *first = nullptr;
    CHECK(std::chrono::steady_clock::now() - before < milliseconds(500));
    CHECK(metrics::Exporter::start("127.0.0.1", port, fixture.source));
  }
}
