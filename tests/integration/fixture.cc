#include "tests/integration/fixture.h"

#include <cstdlib>
#include <mutex>
#include <thread>

namespace integration {

PgCluster& shared_cluster() {
  static PgCluster cluster;
  return cluster;
}

ProxyConfig config_for(const PgCluster& cluster) {
  return ProxyConfig(cluster).set("", "workers", "1").set("", "shutdown_timeout", "\"5s\"");
}

std::vector<std::string> at_once(std::size_t n,
                                 const std::function<std::string(std::size_t)>& work) {
  std::mutex mutex;
  std::vector<std::string> problems;
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < n; ++i) {
    threads.emplace_back([&mutex, &problems, &work, i] {
      const std::string problem = work(i);
      if (problem.empty()) return;
      const std::lock_guard lock(mutex);
      problems.push_back(std::to_string(i) + ": " + problem);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return problems;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

std::string node_name(const PgCluster& cluster, const std::string& port) {
  for (std::size_t i = 0; i < cluster.size(); ++i)
    if (port == std::to_string(cluster.port(i)))
      return i == 0 ? "primary" : "replica" + std::to_string(i);
  return port;
}

std::string who_answers(const PgCluster& cluster, Connection& connection, const std::string& sql) {
  return node_name(cluster, connection.scalar(sql));
}

int backends(const PgCluster& cluster, std::size_t node, const std::string& user) {
  return std::atoi(cluster
                       .ask(node, "select count(*) from pg_stat_activity where usename = '" + user +
                                      "' and backend_type = 'client backend'")
                       .c_str());
}

bool is_at_work(const PgCluster& cluster, const std::string& statement) {
  for (std::size_t node = 0; node < cluster.size(); ++node)
    if (cluster.ask(node, "select count(*) from pg_stat_activity where state = 'active' and query = $$" + statement +
                              "$$") != "0")
      return true;
  return false;
}

long resident_kib(pid_t pid) {
  const std::string status = read_file("/proc/" + std::to_string(pid) + "/status");
  const std::size_t at = status.find("VmRSS:");
  return at == std::string::npos ? -1 : std::atol(status.c_str() + at + 6);
}

Table::Table(PgCluster& cluster, const std::string& name, const std::string& columns,
             const std::string& fill)
    : cluster_(cluster), name_(name) {
  Connection connection(cluster.conninfo(0, "app"));
  connection.exec("drop table if exists " + name + " cascade");
  const Result made = connection.exec("create table " + name + " (" + columns + ")");
  REQUIRE_MESSAGE(made.ok(), made.message());
  if (!fill.empty()) {
    const Result filled = connection.exec("insert into " + name + " " + fill);
    REQUIRE_MESSAGE(filled.ok(), filled.message());
  }
  cluster.wait_replicated();
}

Table::~Table() {
  Connection connection(cluster_.conninfo(0, "app"));
  connection.exec("drop table if exists " + name_ + " cascade");
}

}  // namespace integration
