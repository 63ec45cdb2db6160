#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/pg.h"
#include "tests/support/pg_cluster.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"

namespace support {

// The configuration of one proxy under test, in TOML words: set("pool", "size", "2"),
// set("tenant.shop", "rate", "10"). Starts as the smallest that serves `cluster`: trust, probes
// every 100 ms, routing.floor_wait 200 ms, user postgres is admin, console and metrics on. Values are TOML text; quoted()
// makes a string of them.
class ProxyConfig {
 public:
  ProxyConfig() = default;  // empty: for tests of bad configurations
  explicit ProxyConfig(const PgCluster& cluster);

  ProxyConfig& set(const std::string& section, const std::string& key, const std::string& value);
  ProxyConfig& unset(const std::string& section, const std::string& key);
  // One more [[auth.rule]], behind those that are there: lines of TOML.
  ProxyConfig& rule(const std::string& lines);
  std::string text() const;  // what stands in the file

  // The nodes, for tests that put a Gate in front of one.
  ProxyConfig& servers(const std::vector<std::string>& addresses);
  const std::vector<std::string>& nodes() const { return nodes_; }

 private:
  std::map<std::string, std::map<std::string, std::string>> sections_;
  std::string rules_;
  std::vector<std::string> nodes_;
};

std::string quoted(const std::string& text);

// A running pgsluice: its own configuration file, TCP port, metrics port, unix socket folder. The
// binary is $PGSLUICE_BINARY, else the one of this build; "direct" means none at all: port() is
// then the first node's, so that cases marked [postgres] can be judged by Postgres itself. The
// destructor stops it, and fails the test when it did not end cleanly or reported a broken
// invariant or a sanitizer's finding.
class ProxyProcess {
 public:
  // `before`: words of a command line that pgsluice's own is appended to.
  explicit ProxyProcess(const ProxyConfig& config,
                        std::map<std::string, std::string> environment = {},
                        std::vector<std::string> before = {});
  ~ProxyProcess();
  ProxyProcess(const ProxyProcess&) = delete;
  ProxyProcess& operator=(const ProxyProcess&) = delete;

  std::uint16_t port() const { return port_; }
  std::uint16_t metrics_port() const { return metrics_port_; }
  const std::string& unix_dir() const { return folder_.path(); }
  const std::string& config_file() const { return config_file_; }
  const std::string& log_file() const { return log_file_; }
  pid_t pid() const { return process_.pid(); }
  bool running() { return process_.running(); }
  std::string log() const { return read_file(log_file_); }

  std::string conninfo(const std::string& user = "app", const std::string& database = "app",
                       const std::string& more = "sslmode=disable") const;
  Connection connect(const std::string& user = "app", const std::string& database = "app",
                     const std::string& more = "sslmode=disable") const {
    return Connection(conninfo(user, database, more));
  }
  Connection console() const { return connect("postgres", "pgsluice"); }
  std::string metrics() const;  // GET /metrics; "" when it does not answer

  // True once the console's SHOW NODES calls node `address` by `role`; how tests wait for probes.
  bool node_is(const std::string& address, const std::string& role) const;
  // Until reads can go to `replicas` replicas and writes to the primary.
  bool ready(std::size_t replicas) const;

  void rewrite(const ProxyConfig& config);  // the file only; ports stay
  void signal(int number) { process_.signal(number); }
  void kill();  // SIGKILL; how it ends is not looked at
  std::optional<int> wait(std::chrono::milliseconds deadline) { return process_.wait(deadline); }
  // SIGTERM, wait, check. Returns what is wrong with how it ended; "" when nothing is.
  std::string stop(std::chrono::milliseconds deadline = std::chrono::seconds(15));
  // What must never stand in the log: sanitizer reports and broken invariants. "" when it is clean.
  std::string findings() const;

 private:
  void write(const ProxyConfig& config) const;

  TempDir folder_;
  std::string config_file_, log_file_;
  std::uint16_t port_, metrics_port_;
  Process process_;
  bool stopped_ = false;
};

// The program under test, for runs that do not stay: `pgsluice check FILE`, `--help`.
std::string proxy_binary();

// One GET over HTTP/1.1 from 127.0.0.1; the body, or "" when that fails.
std::string http_get(std::uint16_t port, const std::string& path);

// The value of the metric whose line starts with `name` and holds all of `labels` (each as it is
// printed: role="primary"); several lines are summed. None: no such line.
std::optional<double> metric(const std::string& exposition, const std::string& name,
                             const std::vector<std::string>& labels = {});

}  // namespace support
