#include "tests/support/proxy_process.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include <doctest/doctest.h>

#include "tests/support/eventually.h"
#include "tests/support/free_port.h"
#include "tests/support/raw_client.h"

namespace support {

std::string quoted(const std::string& text) { return '"' + text + '"'; }

ProxyConfig::ProxyConfig(const PgCluster& cluster) {
  set("listen", "address", quoted("127.0.0.1"));
  set("listen", "port", "@port@");
  set("listen", "unix_socket_dir", quoted("@dir@"));
  std::vector<std::string> nodes;
  for (std::size_t i = 0; i < cluster.size(); ++i) nodes.push_back(cluster.address(i));
  servers(nodes);
  set("cluster.main", "monitor_user", quoted("pgsluice"));
  set("cluster.main", "monitor_password", quoted("pgsluice-secret"));
  set("database.\"*\"", "cluster", quoted("main"));
  set("auth", "method", quoted("trust"));
  set("probe", "interval", quoted("100ms"));
  set("routing", "floor_wait", quoted("200ms"));  // the machine may be slow; where a read goes is what is tested
  set("tls.server", "mode", quoted("disable"));
  set("metrics", "address", quoted("127.0.0.1"));
  set("metrics", "port", "@metrics@");
  set("admin", "users", "[\"postgres\"]");
}

ProxyConfig& ProxyConfig::set(const std::string& section, const std::string& key,
                              const std::string& value) {
  sections_[section][key] = value;
  return *this;
}

ProxyConfig& ProxyConfig::unset(const std::string& section, const std::string& key) {
  sections_[section].erase(key);
  return *this;
}

ProxyConfig& ProxyConfig::servers(const std::vector<std::string>& addresses) {
  nodes_ = addresses;
  std::string list;
  for (const std::string& address : addresses) list += (list.empty() ? "" : ", ") + quoted(address);
  return set("cluster.main", "servers", "[" + list + "]");
}

std::string ProxyConfig::text() const {
  std::string text;
  for (const auto& [section, values] : sections_) {
    if (values.empty()) continue;
    if (!section.empty()) text += "[" + section + "]\n";
    for (const auto& [key, value] : values) text += key + " = " + value + "\n";
  }
  return text + rules_;
}

ProxyConfig& ProxyConfig::rule(const std::string& lines) {
  rules_ += "[[auth.rule]]\n" + lines + "\n";
  return *this;
}

std::string proxy_binary() {
  if (const char* given = std::getenv("PGSLUICE_BINARY")) return given;
  return PGSLUICE_BUILT_BINARY;
}

ProxyProcess::ProxyProcess(const ProxyConfig& config,
                           std::map<std::string, std::string> environment,
                           std::vector<std::string> before)
    : config_file_(folder_ / "pgsluice.toml"),
      log_file_(folder_ / "log"),
      port_(free_port()),
      metrics_port_(free_port()) {
  write(config);
  if (proxy_binary() == "direct") {
    stopped_ = true;
    const std::string& first = config.nodes().front();
    port_ = static_cast<std::uint16_t>(std::atoi(first.c_str() + first.rfind(':') + 1));
    return;
  }
  std::vector<std::string> command = std::move(before);
  const std::string ready =
      "listening on " + (command.empty() ? "127.0.0.1:" + std::to_string(port_) : "");
  command.insert(command.end(), {proxy_binary(), config_file_});
  process_ = Process(command, {.output = log_file_, .environment = std::move(environment)});
  const bool up = eventually(
      [&] { return log().find(ready) != std::string::npos || !process_.running(); }, 20s);
  if (!up || !process_.running()) {
    stopped_ = true;
    FAIL("pgsluice did not start: " << proxy_binary() << "\n" << log() << config.text());
  }
}

ProxyProcess::~ProxyProcess() {
  if (stopped_) return;
  const std::string problem = stop();
  CHECK_MESSAGE(problem.empty(), problem);
}

void ProxyProcess::kill() {
  stopped_ = true;
  process_.signal(SIGKILL);
  process_.wait(std::chrono::seconds(5));
}

std::string ProxyProcess::stop(std::chrono::milliseconds deadline) {
  if (stopped_) return findings();
  stopped_ = true;
  process_.signal(SIGTERM);
  std::optional<int> status = process_.wait(deadline);
  if (!status) {  // clients may still hold transactions: the second one means now
    process_.signal(SIGTERM);
    status = process_.wait(std::chrono::seconds(5));
  }
  if (!status) {
    process_.signal(SIGABRT);
    process_.wait(std::chrono::seconds(5));
    return "pgsluice did not stop within its deadline\n" + log();
  }
  const std::string found = findings();
  if (!found.empty()) return found;
  if (*status != 0) return "pgsluice ended with " + std::to_string(*status) + "\n" + log();
  return "";
}

std::string ProxyProcess::findings() const {
  const std::string text = log();
  for (const char* mark :
       {"ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "runtime error:", "ThreadSanitizer",
        "broken invariant", "Assertion", "terminate called"}) {
    const std::size_t at = text.find(mark);
    if (at != std::string::npos) return text.substr(at > 200 ? at - 200 : 0, 8000);
  }
  return "";
}

void ProxyProcess::write(const ProxyConfig& config) const {
  std::string text = config.text();
  const auto replace_all = [&text](const std::string& mark, const std::string& value) {
    for (std::size_t at = text.find(mark); at != std::string::npos; at = text.find(mark))
      text.replace(at, mark.size(), value);
  };
  replace_all("@port@", std::to_string(port_));
  replace_all("@metrics@", std::to_string(metrics_port_));
  replace_all("@dir@", folder_.path());
  write_file(config_file_, text);
}

void ProxyProcess::rewrite(const ProxyConfig& config) { write(config); }

std::string ProxyProcess::conninfo(const std::string& user, const std::string& database,
                                   const std::string& more) const {
  return "host=127.0.0.1 port=" + std::to_string(port_) + " user=" + user + " dbname=" + database +
         " gssencmode=disable " + more;
}

std::string ProxyProcess::metrics() const { return http_get(metrics_port_, "/metrics"); }

bool ProxyProcess::node_is(const std::string& address, const std::string& role) const {
  Connection connection = console();
  const Result nodes = connection.exec("SHOW NODES");
  for (int row = 0; row < nodes.rows(); ++row) {
    std::string line;
    for (int column = 0; column < nodes.columns(); ++column)
      line += " " + nodes.at(row, column) + " ";
    if (line.find(address) != std::string::npos)
      return line.find(" " + role + " ") != std::string::npos;
  }
  return false;
}

namespace {

// One line for each row: what is not empty of it, with its column.
std::string text_of(const Result& result) {
  std::string text;
  for (int row = 0; row < result.rows(); ++row) {
    for (int column = 0; column < result.columns(); ++column)
      if (const std::string value = result.at(row, column); !value.empty())
        text += std::string(PQfname(result.raw(), column)) + "=" + value + " ";
    text += "\n";
  }
  return text;
}

}  // namespace

// Longer than LOG_SNAPSHOT_INTERVAL_MS of Postgres: an idle primary may have log that it has not flushed, and so its
// replicas are not where it says it is, until it next logs which transactions run (15 s).
constexpr std::chrono::seconds kReady = 25s;

bool ProxyProcess::ready(std::size_t replicas) const {
  if (proxy_binary() == "direct") return true;
  int seen = 0;
  const bool is_ready = eventually(
      [&] {
        Connection connection = console();
        const Result nodes = connection.exec("SHOW NODES");
        std::size_t primaries = 0;
        std::size_t usable = 0;
        for (int row = 0; row < nodes.rows(); ++row) {
          if (nodes.at(row, "accepted") == "primary") ++primaries;
          if (nodes.at(row, "serves_reads") == "yes") ++usable;
        }
        seen = primaries == 1 && usable >= replicas ? seen + 1 : 0;
        return seen == 2;  // what the console says reaches the workers two milliseconds later
      },
      kReady, 20ms);
  if (!is_ready) MESSAGE("not ready; SHOW NODES:\n" << text_of(console().exec("SHOW NODES")) << log());
  return is_ready;
}

std::string http_get(std::uint16_t port, const std::string& path) {
  RawClient client(port);
  if (!client.connected()) return "";
  client.send("GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
  const std::string answer = client.read_all(std::chrono::seconds(10));
  const std::size_t end = answer.find("\r\n\r\n");
  if (answer.rfind("HTTP/1.1 200", 0) != 0 || end == std::string::npos) return "";
  return answer.substr(end + 4);
}

std::optional<double> metric(const std::string& exposition, const std::string& name,
                             const std::vector<std::string>& labels) {
  std::optional<double> sum;
  std::istringstream lines(exposition);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(name, 0) != 0 || line.size() == name.size()) continue;
    if (line[name.size()] != '{' && line[name.size()] != ' ') continue;
    bool all = true;
    for (const std::string& label : labels) all = all && line.find(label) != std::string::npos;
    if (all) sum = sum.value_or(0) + std::strtod(line.c_str() + line.rfind(' ') + 1, nullptr);
  }
  return sum;
}

}  // namespace support
