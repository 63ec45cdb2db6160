#include <cstdlib>
#include <filesystem>

#include "tests/integration/fixture.h"

// Drivers as applications use them, with their default settings, in transaction mode over a pool
// smaller than the number of clients. Each program in tests/clients/ makes its own clients, checks
// its own results and ends with 0; it finds the proxy through PGHOST, PGPORT, PGUSER and
// PGDATABASE.
using namespace integration;

namespace {

const std::string kClients = std::string(PGSLUICE_SOURCE_ROOT) + "/tests/clients/";

Finished drive(ProxyProcess& proxy, const std::vector<std::string>& command, const std::string& user = "app",
               const std::string& database = "app") {
  return run(command,
             {.environment = {{"PGHOST", "127.0.0.1"},
                              {"PGPORT", std::to_string(proxy.port())},
                              {"PGUSER", user},
                              {"PGDATABASE", database},
                              {"PGPASSWORD", user + "-secret"},
                              {"CLIENTS", "12"},
                              {"ROUNDS", "40"}}},
             180s);
}

struct Driven {
  Table table{shared_cluster(), "driver_accounts", "id int primary key, owner text, balance bigint",
              "select i, 'nobody', 0 from generate_series(0, 999) i"};
  // Passwords by SCRAM, as an application would; a pool a quarter of the clients.
  ProxyProcess proxy{config_for(shared_cluster())
                         .set("", "workers", "2")
                         .set("pool", "size", "3")
                         .set("auth", "method", "\"scram-sha-256\"")
                         .set("user.app", "password", "\"app-secret\"")
                         .set("user.postgres", "password", "\"postgres-secret\"")};

  void check(const std::vector<std::string>& command) {
    const Finished finished = drive(proxy, command);
    CHECK_MESSAGE(finished.status == 0, finished.output);
    CHECK(finished.output.find("ok ") != std::string::npos);
    for (std::size_t node = 0; node < shared_cluster().size(); ++node)
      CHECK(backends(shared_cluster(), node) <= 3);
  }
};

std::string prepared_folder(const char* variable) {
  const char* folder = std::getenv(variable);
  return folder != nullptr ? folder : "";
}

}  // namespace

TEST_SUITE("integration/clients") {
  TEST_CASE("promise 5: psycopg 3 works unchanged") {
    Driven driven;
    driven.check({"/usr/bin/python3", kClients + "psycopg3_client.py"});
  }

  TEST_CASE("promise 5: psycopg2 works unchanged") {
    Driven driven;
    driven.check({"/usr/bin/python3", kClients + "psycopg2_client.py"});
  }

  TEST_CASE("promise 5: asyncpg works unchanged") {
    Driven driven;
    driven.check({"/usr/bin/python3", kClients + "asyncpg_client.py"});
  }

  // tests/run prepares the next two (npm or Debian's node-pg, javac) and says where they are.
  TEST_CASE("promise 5: node-postgres works unchanged" *
            doctest::skip(std::getenv("PGSLUICE_NODE_MODULES") == nullptr)) {
    Driven driven;
    driven.check({"env", "NODE_PATH=" + prepared_folder("PGSLUICE_NODE_MODULES"), "node",
                  kClients + "node_client.js"});
  }

  TEST_CASE("promise 5: the JDBC driver works unchanged" *
            doctest::skip(std::getenv("PGSLUICE_JAVA_CLASSES") == nullptr)) {
    Driven driven;
    driven.check({"java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp",
                  prepared_folder("PGSLUICE_JAVA_CLASSES") + ":/usr/share/java/postgresql.jar",
                  "JdbcClient"});
  }

  TEST_CASE("the admin console works through psycopg 3, psycopg2, asyncpg, and node-postgres and JDBC if they are here") {
    Driven driven;
    std::vector<std::vector<std::string>> programs = {{"/usr/bin/python3", kClients + "console_client.py"}};
    if (const std::string modules = prepared_folder("PGSLUICE_NODE_MODULES"); !modules.empty())
      programs.push_back({"env", "NODE_PATH=" + modules, "node", kClients + "console_client.js"});
    if (const std::string classes = prepared_folder("PGSLUICE_JAVA_CLASSES"); !classes.empty())
      programs.push_back({"java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp",
                          classes + ":/usr/share/java/postgresql.jar", "ConsoleClient"});
    for (const auto& program : programs) {
      const Finished finished = drive(driven.proxy, program, "postgres", "pgsluice");
      CHECK_MESSAGE(finished.status == 0, finished.output);
      CHECK(finished.output.find("ok console") != std::string::npos);
    }
  }
}
