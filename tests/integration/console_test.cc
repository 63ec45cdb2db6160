#include <csignal>
#include <thread>

#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// The admin console, and the signals that do the same.
using namespace integration;

namespace {

// The row of `result` whose `column` is `value`, or -1.
int row_with(const Result& result, const std::string& column, const std::string& value) {
  for (int row = 0; row < result.rows(); ++row)
    if (result.at(row, column) == value) return row;
  return -1;
}

}  // namespace

TEST_SUITE("integration/console") {
  TEST_CASE(
      "every SHOW command answers with columns, over the simple protocol, in any case, with or "
      "without a semicolon") {
    ProxyProcess proxy(config_for(shared_cluster()));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    CHECK(client.scalar("select 1") == "1");
    Connection console = proxy.console();
    REQUIRE_MESSAGE(console.ok(), console.error());
    for (const std::string what : {"POOLS", "CLIENTS", "SERVERS", "NODES", "TENANTS", "STATS",
                                   "CONFIG", "VERSION", "HELP"}) {
      for (const std::string& sql : {"SHOW " + what, "show " + what + ";"}) {
        CAPTURE(sql);
        const Result result = console.exec(sql);
        CHECK_MESSAGE(result.ok(), result.scalar());
        CHECK(result.columns() >= 1);
        CHECK(result.rows() >= 1);
      }
    }
    CHECK(!console.exec("SHOW NONSENSE").ok());
    CHECK(!console.exec("select 1 from nowhere").ok());
    CHECK(console.exec("SHOW VERSION").ok());  // an error does not end the console
  }

  TEST_CASE("SHOW POOLS, CLIENTS and SERVERS carry PgBouncer's column names") {
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "3"));
    Connection client = proxy.connect("app", "app", "sslmode=disable application_name=seen");
    CHECK(client.exec("begin").ok());
    CHECK(client.scalar("select 1") == "1");
    Connection console = proxy.console();
    const Result pools = console.exec("SHOW POOLS");
    for (const std::string column :
         {"database", "user", "cl_active", "cl_waiting", "sv_active", "sv_idle", "pool_mode"}) {
      CAPTURE(column);
      CHECK(pools.has_column(column));
    }
    const Result clients = console.exec("SHOW CLIENTS");
    for (const std::string column : {"type", "user", "database", "state", "addr", "port"}) {
      CAPTURE(column);
      CHECK(clients.has_column(column));
    }
    const int own = row_with(clients, "user", "app");
    REQUIRE(own >= 0);
    CHECK(clients.at(own, "database") == "app");
    CHECK(clients.at(own, "state") == "active");
    const Result servers = console.exec("SHOW SERVERS");
    for (const std::string column : {"type", "user", "database", "state", "addr", "port"}) {
      CAPTURE(column);
      CHECK(servers.has_column(column));
    }
    bool active = false;
    for (int row = 0; row < servers.rows(); ++row)
      active = active || (servers.at(row, "user") == "app" && servers.at(row, "state") == "active");
    CHECK(active);
    CHECK(client.exec("commit").ok());
  }

  TEST_CASE("SHOW NODES tells roles and lag as they are") {
    PgCluster& cluster = shared_cluster();
    ProxyProcess proxy(config_for(cluster));
    REQUIRE(proxy.ready(2));
    Connection console = proxy.console();
    const Result nodes = console.exec("SHOW NODES");
    CHECK(nodes.rows() == 3);
    CHECK(nodes.has_column("role"));
    CHECK(proxy.node_is(cluster.address(0), "primary"));
    CHECK(proxy.node_is(cluster.address(1), "replica"));
    CHECK(proxy.node_is(cluster.address(2), "replica"));
  }

  TEST_CASE("SHOW CONFIG shows values in force and keeps secrets to itself") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("pool", "size", "17")
                           .set("user.other", "password", "\"other-secret\""));
    const Result config = proxy.console().exec("SHOW CONFIG");
    CHECK(config.has_column("key"));
    CHECK(config.has_column("value"));
    const int size = row_with(config, "key", "pool.size");
    REQUIRE(size >= 0);
    CHECK(config.at(size, "value") == "17");
    for (int row = 0; row < config.rows(); ++row)
      for (int column = 0; column < config.columns(); ++column)
        CHECK(config.at(row, column).find("-secret") == std::string::npos);
  }

  TEST_CASE("ordinary users get nothing, stats_users read, admin users act") {
    ProxyProcess proxy(config_for(shared_cluster()).set("admin", "stats_users", "[\"other\"]"));
    CHECK(!proxy.connect("app", "pgsluice").ok());
    Connection stats = proxy.connect("other", "pgsluice");
    REQUIRE_MESSAGE(stats.ok(), stats.error());
    CHECK(stats.exec("SHOW POOLS").ok());
    CHECK(stats.exec("SHUTDOWN").code() == "42501");
    CHECK(stats.exec("RELOAD").code() == "42501");
    CHECK(proxy.running());
    CHECK(proxy.console().exec("RELOAD").ok());
  }

  TEST_CASE("RELOAD and SIGHUP take a new configuration; a bad one changes nothing and says why") {
    ProxyConfig config = config_for(shared_cluster());
    ProxyProcess proxy(config);
    Connection stays_connected = proxy.connect();
    CHECK(stays_connected.scalar("select 1") == "1");
    const auto size = [&proxy] {
      const Result shown = proxy.console().exec("SHOW CONFIG");
      const int row = row_with(shown, "key", "pool.size");
      return row < 0 ? std::string() : shown.at(row, "value");
    };
    proxy.rewrite(config.set("pool", "size", "7"));
    CHECK(proxy.console().exec("RELOAD").ok());
    CHECK(eventually([&] { return size() == "7"; }, 5s));
    proxy.rewrite(config.set("pool", "size", "8"));
    proxy.signal(SIGHUP);
    CHECK(eventually([&] { return size() == "8"; }, 5s));
    proxy.rewrite(config.set("pool", "size", "\"many\""));
    const Result refused = proxy.console().exec("RELOAD");
    CHECK(!refused.ok());
    CHECK((refused.message() + refused.detail()).find("pool.size") != std::string::npos);
    CHECK(size() == "8");
    proxy.signal(SIGHUP);
    CHECK(eventually([&proxy] { return proxy.log().find("pool.size") != std::string::npos; }, 5s));
    CHECK(size() == "8");
    CHECK(stays_connected.scalar("select 1") == "1");
  }

  TEST_CASE("a reload applies new limits to tenants that are connected") {
    ProxyConfig config = config_for(shared_cluster()).set("tenant", "rate_wait", "\"0\"");
    ProxyProcess proxy(config);
    Connection client = proxy.connect();
    for (int i = 0; i < 20; ++i) CHECK(client.scalar("select 1") == "1");
    proxy.rewrite(config.set("tenant.app", "rate", "1").set("tenant.app", "burst", "1"));
    CHECK(proxy.console().exec("RELOAD").ok());
    CHECK(eventually([&client] { return client.exec("select 1").code() == "53400"; }, 5s));
  }

  TEST_CASE(
      "SIGTERM lets transactions finish, tells clients 57P01, refuses new ones, and ends with 0") {
    ProxyProcess proxy(config_for(shared_cluster()).set("", "shutdown_timeout", "\"20s\""));
    Table table(shared_cluster(), "console_drain", "n int");
    RawClient idle(proxy.port());
    REQUIRE(idle.login());
    Connection working = proxy.connect();
    CHECK(working.exec("begin").ok());
    CHECK(working.exec("insert into console_drain values (1)").ok());
    proxy.signal(SIGTERM);
    const auto goodbye = idle.read_until('E', 5s);
    REQUIRE(!goodbye.empty());
    CHECK(goodbye.back().field('C') == "57P01");
    CHECK(goodbye.back().field('S') == "FATAL");
    CHECK(idle.wait_closed());
    CHECK(working.exec("insert into console_drain values (2)").ok());
    CHECK(working.exec("commit").ok());
    CHECK(proxy.wait(5s) == 0);
    CHECK(shared_cluster().ask(0, "select count(*) from console_drain") == "2");
  }

  TEST_CASE("a second SIGTERM ends at once") {
    ProxyProcess proxy(config_for(shared_cluster()).set("", "shutdown_timeout", "\"60s\""));
    Connection working = proxy.connect();
    CHECK(working.exec("begin").ok());
    CHECK(working.exec("select 1").ok());
    proxy.signal(SIGTERM);
    CHECK(!proxy.wait(400ms));
    proxy.signal(SIGTERM);
    CHECK(proxy.wait(3s).has_value());
  }

  TEST_CASE("shutdown_timeout bounds the drain") {
    ProxyProcess proxy(config_for(shared_cluster()).set("", "shutdown_timeout", "\"500ms\""));
    Connection working = proxy.connect();
    CHECK(working.exec("begin").ok());
    CHECK(working.exec("select 1").ok());
    proxy.signal(SIGTERM);
    CHECK(proxy.wait(5s) == 0);
    CHECK(!working.exec("select 1").ok());
  }

  TEST_CASE("SHUTDOWN on the console ends the proxy cleanly") {
    ProxyProcess proxy(config_for(shared_cluster()));
    Connection client = proxy.connect();
    CHECK(client.scalar("select 1") == "1");
    proxy.console().exec("SHUTDOWN");
    CHECK(proxy.wait(10s) == 0);
  }
}
