#include <cmath>
#include <cstdlib>
#include <sstream>

#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// What Prometheus sees agrees with what was done.
using namespace integration;

TEST_SUITE("integration/metrics") {
  TEST_CASE(
      "/metrics is text exposition with help and type of every family, and every line parses") {
    ProxyProcess proxy(config_for(shared_cluster()));
    REQUIRE(proxy.ready(2));
    proxy.connect().exec("select 1");
    const std::string text = proxy.metrics();
    REQUIRE(!text.empty());
    for (const std::string family :
         {"pgsluice_statements_total", "pgsluice_statement_duration_seconds",
          "pgsluice_statement_server_seconds", "pgsluice_statement_queue_seconds",
          "pgsluice_refusals_total", "pgsluice_routes_total", "pgsluice_read_choices_total",
          "pgsluice_clients_idle", "pgsluice_servers_idle", "pgsluice_node_up",
          "pgsluice_node_role", "pgsluice_node_lag_seconds", "pgsluice_pool_size",
          "pgsluice_pool_in_use", "pgsluice_build_info", "pgsluice_workers"}) {
      CAPTURE(family);
      CHECK(text.find("# HELP " + std::string(family) + " ") != std::string::npos);
      CHECK(text.find("# TYPE " + std::string(family) + " ") != std::string::npos);
    }
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      if (line.empty() || line[0] == '#') continue;
      CAPTURE(line);
      // prometheus-cpp adds what it knows of its own HTTP endpoint.
      const bool ours = line.rfind("pgsluice_", 0) == 0;
      CHECK((ours || line.rfind("exposer_", 0) == 0));
      const std::string value = line.substr(line.rfind(' ') + 1);
      char* end = nullptr;
      const double number = std::strtod(value.c_str(), &end);
      CHECK(*end == '\0');
      if (ours) CHECK(std::isfinite(number));
    }
  }

  TEST_CASE(
      "promise 9: requirement 38: statements are counted once, by node, role, class, tenant and "
      "outcome, and agree with what was sent") {
    Table table(shared_cluster(), "metrics_rows", "n int");
    ProxyProcess proxy(config_for(shared_cluster()));
    REQUIRE(proxy.ready(2));
    {
      Connection client = proxy.connect();
      for (int i = 0; i < 40; ++i) CHECK(client.scalar("select 1") == "1");
      for (int i = 0; i < 10; ++i) CHECK(client.exec("select $1::int", {"1"}).ok());
      for (int i = 0; i < 20; ++i) CHECK(client.exec("insert into metrics_rows values (1)").ok());
      for (int i = 0; i < 5; ++i)
        CHECK(client.exec("insert into metrics_rows values (1/0)").code() == "22012");
      Connection other = proxy.connect("other");
      for (int i = 0; i < 7; ++i) CHECK(other.scalar("select 1") == "1");
    }
    const std::string text = proxy.metrics();
    const auto count = [&text](const std::vector<std::string>& labels) {
      return metric(text, "pgsluice_statements_total", labels).value_or(0);
    };
    CHECK(count({"tenant=\"app\"", "class=\"read\"", "outcome=\"served\""}) == 50);
    CHECK(count({"tenant=\"other\"", "class=\"read\"", "outcome=\"served\""}) == 7);
    CHECK(count({"class=\"write\"", "role=\"primary\"", "outcome=\"served\""}) == 20);
    CHECK(count({"class=\"write\"", "role=\"primary\"", "outcome=\"failed\""}) == 5);
    CHECK(count({"class=\"write\"", "role=\"replica\""}) == 0);
    CHECK(count({}) == 82);
    // Histograms hold the same statements.
    CHECK(metric(text, "pgsluice_statement_duration_seconds_count").value_or(-1) == 82);
    CHECK(
        metric(text, "pgsluice_statement_duration_seconds_bucket", {"le=\"+Inf\""}).value_or(-1) ==
        82);
    CHECK(metric(text, "pgsluice_clients_accepted_total").value_or(0) >= 2);
  }

  TEST_CASE("requirement 38: counters never fall, whoever leaves and whatever a reload takes away") {
    ProxyConfig config = config_for(shared_cluster())
                             .set("database.named", "cluster", "\"main\"")
                             .set("database.named", "dbname", "\"app\"")
                             .set("tenant.gone", "rate", "1000")
                             .set("user.other", "tenant", "\"gone\"");
    ProxyProcess proxy(config);
    REQUIRE(proxy.ready(2));
    const auto counters = [&proxy] {
      std::map<std::string, double> found;
      std::istringstream lines(proxy.metrics());
      for (std::string line; std::getline(lines, line);) {
        const std::string name = line.substr(0, line.find_first_of("{ "));
        const bool counts = name.ends_with("_total") || name.ends_with("_count") || name.ends_with("_bucket");
        if (line.starts_with('#') || !counts) continue;
        found[line.substr(0, line.rfind(' '))] = std::stod(line.substr(line.rfind(' ')));
      }
      return found;
    };
    const auto use = [&proxy] {
      for (const std::string database : {"app", "named", "nowhere"})
        for (const std::string user : {"app", "other"}) {
          Connection client = proxy.connect(user, database);
          if (!client.ok()) continue;
          for (const char* sql : {"select 1", "select 1/0", "begin", "commit", "set work_mem = '5MB'"})
            (void)client.exec(sql);
        }
    };
    const auto check = [&](const std::map<std::string, double>& before) {
      const auto after = counters();
      for (const auto& [series, value] : before) {
        CAPTURE(series);
        const auto found = after.find(series);
        REQUIRE(found != after.end());
        CHECK(found->second >= value);
      }
    };
    use();
    const auto first = counters();
    CHECK(first.size() > 50);
    proxy.rewrite(config.unset("database.named", "cluster")
                      .unset("database.named", "dbname")
                      .unset("tenant.gone", "rate")
                      .unset("user.other", "tenant")
                      .servers({shared_cluster().address(0), shared_cluster().address(1)}));
    CHECK(proxy.console().exec("reload").ok());
    check(first);
    use();
    const auto second = counters();
    check(first);
    proxy.rewrite(config.servers(
        {shared_cluster().address(0), shared_cluster().address(1), shared_cluster().address(2)}));
    CHECK(proxy.console().exec("reload").ok());
    check(second);
  }

  TEST_CASE("latencies, queue waits and server times go where they belong") {
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "1"));
    Connection holder = proxy.connect();
    CHECK(holder.exec("begin").ok());
    CHECK(holder.exec("select 1").ok());
    Connection waiter = proxy.connect("app", "app", "sslmode=disable");
    CHECK(waiter.send("create table if not exists metrics_wait(a int)"));
    CHECK(stays([&waiter] { return waiter.busy(); }, 400ms));
    CHECK(holder.exec("commit").ok());
    CHECK(waiter.finish().ok());
    CHECK(waiter.exec("drop table metrics_wait").ok());
    const std::string text = proxy.metrics();
    CHECK(metric(text, "pgsluice_statement_queue_seconds_sum", {"class=\"ddl\""}).value_or(0) >
          0.3);
    CHECK(metric(text, "pgsluice_statement_server_seconds_sum", {"class=\"ddl\""}).value_or(9) <
          0.3);
    CHECK(metric(text, "pgsluice_statement_duration_seconds_sum", {"class=\"ddl\""}).value_or(0) >
          0.3);
  }

  TEST_CASE("refusals are counted by reason") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("tenant", "rate_wait", "\"0\"")
                           .set("tenant.app", "rate", "1")
                           .set("tenant.app", "burst", "3"));
    Connection client = proxy.connect();
    int refused = 0;
    for (int i = 0; i < 20; ++i) refused += client.exec("select 1").code() == "53400" ? 1 : 0;
    CHECK(refused > 10);
    CHECK(metric(proxy.metrics(), "pgsluice_refusals_total", {"reason=\"tenant_rate\""})
              .value_or(0) == refused);
  }

  TEST_CASE("gauges follow clients and servers, and fall back to zero") {
    ProxyProcess proxy(config_for(shared_cluster()));
    const auto gauge = [&proxy](const std::string& name) {
      return metric(proxy.metrics(), name).value_or(-1);
    };
    {
      Connection idle = proxy.connect();
      Connection active = proxy.connect();
      CHECK(active.exec("begin").ok());
      CHECK(active.exec("select 1").ok());
      CHECK(eventually([&] { return gauge("pgsluice_clients_active") == 1; }));
      CHECK(eventually([&] { return gauge("pgsluice_clients_idle") == 1; }));
      CHECK(eventually([&] { return gauge("pgsluice_servers_active") == 1; }));
    }
    CHECK(eventually([&] { return gauge("pgsluice_clients_active") == 0; }));
    CHECK(eventually([&] { return gauge("pgsluice_clients_idle") == 0; }));
    CHECK(eventually([&] { return gauge("pgsluice_servers_active") == 0; }));
  }

  TEST_CASE("bad HTTP requests disturb nobody") {
    ProxyProcess proxy(config_for(shared_cluster()));
    for (const std::string& bytes : {std::string("\r\n\r\n"), std::string("BOO\r\n\r\n"),
                                     "GET /" + std::string(100000, 'a') + " HTTP/1.1\r\n\r\n"}) {
      RawClient client(proxy.metrics_port());
      client.send(bytes);
      client.read_all(500ms);
    }
    CHECK(http_get(proxy.metrics_port(), "/nothing-here").find("pgsluice_") == std::string::npos);
    CHECK(!proxy.metrics().empty());
    CHECK(proxy.connect().scalar("select 1") == "1");
  }
}
