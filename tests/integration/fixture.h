#pragma once

#include <cstddef>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tests/support/eventually.h"
#include "tests/support/pg.h"
#include "tests/support/pg_cluster.h"
#include "tests/support/proxy_process.h"

// What integration tests share.
namespace integration {

using namespace support;

// A primary and two replicas that all tests of the run use which disturb nothing: tables they make
// are theirs by name, and dropped. A test that stops, pauses or reconfigures a node makes its own.
PgCluster& shared_cluster();

// The configuration that most tests start from: one worker unless the test says more.
ProxyConfig config_for(const PgCluster& cluster);

// Runs `work(0) ... work(n - 1)` on n threads at once. Each returns what went wrong, "" for
// nothing; what went wrong comes back. (Assertions belong to the test's own thread.)
std::vector<std::string> at_once(std::size_t n,
                                 const std::function<std::string(std::size_t)>& work);
std::string joined(const std::vector<std::string>& lines);

// The node that answered a read of this connection: "primary", "replica1" ...; else the error.
std::string who_answers(const PgCluster& cluster, Connection& connection,
                        const std::string& sql = "select current_setting('port')");
// Calls a port by its node's role at the start of the cluster.
std::string node_name(const PgCluster& cluster, const std::string& port);

// Backends of `user` on a node now, asked for past the proxy.
int backends(const PgCluster& cluster, std::size_t node, const std::string& user = "app");

// A node has begun `statement`, and has not ended it. A cancel that comes before is none: Postgres, too, ignores it.
bool is_at_work(const PgCluster& cluster, const std::string& statement);

// Resident memory of a process in KiB.
long resident_kib(pid_t pid);

// A fresh table, made and dropped past the proxy, replicated before the test goes on.
class Table {
 public:
  Table(PgCluster& cluster, const std::string& name, const std::string& columns,
        const std::string& fill = "");
  ~Table();
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

 private:
  PgCluster& cluster_;
  std::string name_;
};

}  // namespace integration
