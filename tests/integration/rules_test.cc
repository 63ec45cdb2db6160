#include <csignal>
#include <string>
#include <vector>

#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// [[route]] rules and hints. Every node is asked which port it listens on.
using namespace integration;

namespace {

using Parameters = std::vector<std::optional<std::string>>;

// The shared cluster's configuration with these [[route]] rules, each the keys of one.
ProxyConfig with_rules(const std::vector<std::string>& rules, ProxyConfig config = config_for(shared_cluster())) {
  std::string list;
  for (const std::string& rule : rules) list += (list.empty() ? "" : ", ") + ("{ " + rule + " }");
  return config.set("", "route", "[" + list + "]");
}

constexpr const char* kAsk = "select current_setting('port')";

bool is_replica(const std::string& node) { return node == "replica1" || node == "replica2"; }

std::string simple(Connection& client, const std::string& sql = kAsk) {
  return who_answers(shared_cluster(), client, sql);
}
std::string extended(Connection& client, const std::string& sql = kAsk) {
  return node_name(shared_cluster(), client.exec(sql, Parameters{}).scalar());
}

double counted(const ProxyProcess& proxy, const std::string& name, const std::string& label) {
  return metric(proxy.metrics(), name, {label}).value_or(-1);
}

}  // namespace

TEST_SUITE("integration/rules") {
  TEST_CASE("a rule keeps one application's reads on the primary, from its login or its SET on") {
    ProxyProcess proxy(
        with_rules({"name = \"batch\", applications = [\"batch-*\"], target = \"primary\""}));
    REQUIRE(proxy.ready(2));
    Connection batch = proxy.connect("app", "app", "sslmode=disable application_name=batch-7");
    Connection web = proxy.connect("app", "app", "sslmode=disable application_name=web");
    CHECK(batch.prepare("ask", kAsk).ok());
    for (int i = 0; i < 4; ++i) {
      CHECK(simple(batch) == "primary");
      CHECK(extended(batch) == "primary");
      CHECK(node_name(shared_cluster(), batch.exec_prepared("ask").scalar()) == "primary");
      CHECK(is_replica(simple(web)));
    }
    CHECK(counted(proxy, "pgsluice_rules_total", "rule=\"batch\"") >= 12);
    CHECK(counted(proxy, "pgsluice_routes_total", "reason=\"rule\"") >= 12);
    CHECK(web.exec("set application_name = 'batch-8'").ok());
    CHECK(simple(web) == "primary");
    CHECK(web.exec("reset application_name").ok());
    CHECK(is_replica(simple(web)));
    Connection console = proxy.console();
    const Result shown = console.exec("show routes");
    bool found = false;
    for (int row = 0; row < shown.rows(); ++row)
      found |= shown.at(row, "what") == "rules" && shown.at(row, "reason") == "batch" &&
               shown.at(row, "count") != "0";
    CHECK(found);
  }

  TEST_CASE("a blocked statement is refused with 53400 and the rule's name, over both protocols, and the client stays") {
    Table table(shared_cluster(), "rules_secret", "n int");
    ProxyProcess proxy(with_rules({"name = \"no secrets\", tables = [\"rules_secret\"], block = true"}));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    const auto is_blocked = [](const Result& result) {
      CHECK(result.code() == "53400");
      CHECK(result.severity() == "ERROR");
      CHECK(result.detail() == "reason=blocked rule=\"no secrets\"");
    };
    is_blocked(client.exec("select * from rules_secret"));
    is_blocked(client.exec("insert into rules_secret values (1)"));
    is_blocked(client.exec("select 1; select * from public.rules_secret"));
    is_blocked(client.exec("select * from rules_secret where n = $1", Parameters{"1"}));
    CHECK(client.prepare("blocked", "select * from rules_secret").ok());
    is_blocked(client.exec_prepared("blocked"));
    CHECK(client.scalar("select 'rules_secret'") == "rules_secret");
    // In a transaction it fails that, as any error does.
    CHECK(client.exec("begin").ok());
    CHECK(client.scalar("select 1") == "1");
    is_blocked(client.exec("select * from rules_secret"));
    CHECK(client.exec("select 1").code() == "25P02");
    CHECK(client.exec("rollback").ok());
    CHECK(client.scalar("select 2") == "2");
    CHECK(counted(proxy, "pgsluice_refusals_total", "reason=\"blocked\"") == 6);
    CHECK(counted(proxy, "pgsluice_rules_total", "rule=\"no secrets\"") == 6);
    Connection owner(shared_cluster().conninfo(0, "app"));
    CHECK(owner.scalar("select count(*) from rules_secret") == "0");
  }

  TEST_CASE("promise 1: a rule sends proven reads to replicas where consistency says primary, and nothing else") {
    Table table(shared_cluster(), "rules_rows", "n int");
    ProxyProcess proxy(with_rules({"users = [\"app\"], target = \"replica\""})
                           .set("routing", "consistency", "\"primary\""));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    CHECK(is_replica(simple(client)));
    CHECK(is_replica(extended(client)));
    CHECK(simple(client, "insert into rules_rows values (1) returning current_setting('port')") == "primary");
    CHECK(simple(client, "select current_setting('port'), pg_try_advisory_xact_lock(1)") == "primary");
    CHECK(client.scalar("select count(*) from rules_rows") == "1");  // its own write, all the same
    CHECK(client.exec("begin").ok());
    CHECK(simple(client) == "primary");
    CHECK(client.exec("commit").ok());
  }

  TEST_CASE("consistency and max_lag of a rule hold for its statements only") {
    PgCluster cluster({.replicas = 1});
    Table fresh(cluster, "rules_fresh", "n int", "values (0)"), stale(cluster, "rules_stale", "n int", "values (0)"),
        near(cluster, "rules_near", "n int", "values (0)");
    ProxyProcess proxy(
        with_rules({"tables = [\"rules_stale\"], consistency = \"eventual\"",
                    "tables = [\"rules_near\"], consistency = \"eventual\", max_lag = \"200ms\""},
                   config_for(cluster).set("routing", "max_lag", "\"1h\"")));
    REQUIRE(proxy.ready(1));
    Connection client = proxy.connect();
    CHECK(client.scalar("select n from rules_near") == "0");
    cluster.pause_replay(1);
    for (const char* name : {"fresh", "stale", "near"})
      CHECK(client.exec(std::string("update rules_") + name + " set n = 1").ok());
    CHECK(client.scalar("select n from rules_fresh") == "1");
    CHECK(client.scalar("select n from rules_stale") == "0");
    // Sooner or later the replica is further behind than that.
    CHECK(eventually([&client] { return client.scalar("select n from rules_near") == "1"; }, 10s));
    CHECK(client.scalar("select n from rules_stale") == "0");
    // Up to one Sync they go together, by the stricter.
    RawClient raw(proxy.port());
    REQUIRE(raw.login());
    const auto both = [&raw](const std::string& last) {
      std::string found;
      std::string bytes;
      for (const std::string& name : {std::string("stale"), last})
        bytes += parse_message("", "select n from rules_" + name) + bind_message("", "") + execute_message("");
      raw.send(bytes + sync_message());
      for (const Message& message : raw.read_until('Z'))
        if (message.type == 'D') found += message.columns().at(0);
      return found;
    };
    CHECK(both("stale") == "00");
    raw.send(query_message("update rules_fresh set n = 1"));
    raw.read_until('Z');
    CHECK(both("fresh") == "11");
    // Sent without waiting, behind one that may be stale: also once the position of the write is known.
    const auto behind = [&raw](const std::string& first, const std::string& last) {
      raw.send(query_message("select n from rules_" + first) + query_message("select n from rules_" + last));
      std::string found;
      for (int answer = 0; answer < 2; ++answer)
        for (const Message& message : raw.read_until('Z'))
          if (message.type == 'D') found += message.columns().at(0);
      return found;
    };
    for (int i = 0; i < 20; ++i) CHECK(behind("stale", "fresh") == "01");
    CHECK(behind("stale", "stale") == "00");
    cluster.resume_replay(1);
  }

  TEST_CASE("query_timeout of a rule cancels its statements and no others") {
    ProxyProcess proxy(with_rules({"tags = [\"job=report*\"], query_timeout = \"300ms\""}));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    CHECK(client.exec("select pg_sleep(30) /*job='reports'*/").code() == "57014");
    CHECK(client.exec("select pg_sleep(0.7) /*job='web'*/").ok());
    CHECK(client.prepare("sleep", "select pg_sleep(30) /*job='report%20a'*/").ok());
    CHECK(client.exec_prepared("sleep").code() == "57014");
    CHECK(client.exec("begin").ok());
    CHECK(client.exec("select pg_sleep(30) /*job='reports'*/").code() == "57014");
    CHECK(client.exec("rollback").ok());
  }

  TEST_CASE("a reload brings rules to clients that are connected, and takes them away") {
    ProxyConfig config = config_for(shared_cluster());
    ProxyProcess proxy(config);
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    CHECK(is_replica(simple(client)));
    proxy.rewrite(with_rules({"target = \"primary\""}));
    proxy.signal(SIGHUP);
    CHECK(eventually([&client] { return simple(client) == "primary"; }));
    CHECK(client.exec("set application_name = 'x'").ok());
    CHECK(simple(client) == "primary");
    proxy.rewrite(config);
    proxy.signal(SIGHUP);
    CHECK(eventually([&client] { return is_replica(simple(client)); }));
  }

  TEST_CASE("requirement 26: a hint counts for the statement that carries it, and for no other") {
    ProxyProcess proxy(config_for(shared_cluster()));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    const std::string to_primary = std::string(kAsk) + " /*pgsluice_route='primary'*/";
    const std::string in_front = std::string("/*a='b',pgsluice_route='primary'*/ ") + kAsk;
    CHECK(client.prepare("hinted", to_primary).ok());
    CHECK(client.prepare("plain", kAsk).ok());
    for (int i = 0; i < 4; ++i) {
      CHECK(simple(client, to_primary) == "primary");
      CHECK(is_replica(simple(client)));
      CHECK(extended(client, in_front) == "primary");
      CHECK(is_replica(extended(client)));
      CHECK(node_name(shared_cluster(), client.exec_prepared("hinted").scalar()) == "primary");
      CHECK(node_name(shared_cluster(), client.exec_prepared("plain").scalar()) != "primary");
    }
    CHECK(is_replica(simple(client, std::string(kAsk) + ", '/*pgsluice_route=''primary''*/'")));
    CHECK(is_replica(simple(client, std::string(kAsk) + ", $$ /*pgsluice_route='primary'*/$$")));
    CHECK(is_replica(simple(client, std::string(kAsk) + " -- /*pgsluice_route='primary'*/")));
    CHECK(counted(proxy, "pgsluice_routes_total", "reason=\"hint\"") == 12);
    // A hint makes no read of what is none.
    CHECK(simple(client, "create temp table rules_temp as select 1; select current_setting('port') "
                         "/*pgsluice_route='replica'*/") == "primary");
  }

  TEST_CASE("requirement 26: the unnamed statement keeps its hint over several Binds, and gives it to none that follows") {
    ProxyProcess proxy(config_for(shared_cluster()));
    REQUIRE(proxy.ready(2));
    RawClient client(proxy.port());
    REQUIRE(client.login());
    const auto answer = [&client]() -> std::string {
      for (const Message& message : client.read_until('Z'))
        if (message.type == 'D') return node_name(shared_cluster(), message.columns().at(0));
      return "";
    };
    const std::string run = bind_message("", "") + execute_message("") + sync_message();
    client.send(parse_message("", std::string(kAsk) + " /*pgsluice_route='primary'*/") + run);
    CHECK(answer() == "primary");
    for (int i = 0; i < 3; ++i) {
      client.send(run);
      CHECK(answer() == "primary");
    }
    client.send(parse_message("", kAsk) + run);
    CHECK(is_replica(answer()));
    client.send(run);
    CHECK(is_replica(answer()));
  }

  TEST_CASE("what a session asks for holds for all its statements, as far as the configuration allows") {
    ProxyConfig config = config_for(shared_cluster());
    ProxyProcess proxy(config);
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect("app", "app", "sslmode=disable options='-c pgsluice.route=primary'");
    CHECK(simple(client) == "primary");
    CHECK(client.exec("set pgsluice.route = 'any'").ok());
    CHECK(is_replica(simple(client)));
    CHECK(client.exec("set pgsluice.route to 'primary'").ok());
    CHECK(simple(client) == "primary");
    CHECK(is_replica(simple(client, std::string(kAsk) + " /*pgsluice_route='replica'*/")));
    CHECK(client.exec("reset pgsluice.route").ok());
    CHECK(simple(client) == "primary");  // its start-up value
    CHECK(client.exec("set pgsluice.route = 'any'").ok());
    CHECK(client.exec("set pgsluice.consistency = 'primary'").ok());
    CHECK(simple(client) == "primary");
    ProxyConfig strict = config;
    strict.set("routing", "strongest_consistency", "\"session\"");
    proxy.rewrite(strict);
    proxy.signal(SIGHUP);
    CHECK(eventually([&client] { return is_replica(simple(client)); }));
    CHECK(is_replica(simple(client, std::string(kAsk) + " /*pgsluice_route='primary'*/")));
    ProxyConfig deaf = config;
    deaf.set("routing", "hints", "[]").set("routing", "consistency", "\"primary\"");
    proxy.rewrite(deaf);
    proxy.signal(SIGHUP);
    CHECK(eventually([&client] { return simple(client) == "primary"; }));
    CHECK(simple(client, std::string(kAsk) + " /*pgsluice_route='replica'*/") == "primary");
  }

  TEST_CASE("EXPLAIN ROUTE says where a statement of this session would go, and why, without running it") {
    Table table(shared_cluster(), "rules_orders", "n int");
    ProxyProcess proxy(with_rules({"name = \"checkout\", tags = [\"controller=checkout\"], target = \"primary\"",
                                   "name = \"stop\", tables = [\"rules_orders\"], applications = [\"bad\"], block = true"}));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    const auto says = [](const Result& rows, const std::string& property) {
      for (int row = 0; row < rows.rows(); ++row)
        if (rows.at(row, "property") == property) return rows.at(row, "value");
      return std::string("(none) ") + rows.scalar();
    };
    const auto ask = [&](const std::string& sql, const std::string& property) {
      return says(client.exec("explain route " + sql), property);
    };
    const std::string read = "select * from rules_orders";
    CHECK(ask(read, "class") == "read");
    CHECK(ask(read, "tables") == "rules_orders");
    CHECK(ask(read, "target") == "replica");
    CHECK(ask(read, "candidate 127.0.0.1:" + std::to_string(shared_cluster().port(0))) == "the primary");
    CHECK(ask(read, "candidate 127.0.0.1:" + std::to_string(shared_cluster().port(1))).starts_with("eligible ("));
    CHECK(ask(read, "digest") == ask("SELECT *  FROM rules_orders -- again", "digest"));
    CHECK(ask(read + " /*controller='checkout'*/", "rule") == "checkout");
    CHECK(ask(read + " /*controller='checkout'*/", "reason") == "rule");
    CHECK(ask(read + " /*pgsluice_route='primary'*/", "reason") == "hint");
    CHECK(ask("insert into rules_orders values (1)", "class_reason") == "writes_data");
    CHECK(ask("select broken from where", "class_reason") == "unparsed");
    CHECK(client.exec("begin").ok());
    CHECK(ask(read, "reason") == "in_transaction");
    CHECK(client.transaction() == PQTRANS_INTRANS);
    CHECK(client.exec("select 1/0").code() == "22012");
    CHECK(ask(read, "target") == "same_server");
    CHECK(client.transaction() == PQTRANS_INERROR);
    CHECK(client.exec("rollback").ok());
    CHECK(client.scalar("select count(*) from rules_orders") == "0");
    // Where it cannot be answered it is what Postgres takes it for.
    CHECK(client.exec("explain route " + read, Parameters{}).code() == "42601");

    Connection console = proxy.console();
    const std::string who = "explain route user app database app application bad ";
    for (const bool prepared : {false, true}) {
      CAPTURE(prepared);
      const auto run = [&](const std::string& sql) { return prepared ? console.exec(sql, Parameters{}) : console.exec(sql); };
      CHECK(says(run(who + read), "reason") == "blocked");
      CHECK(says(run(who + read), "rule") == "stop");
      CHECK(says(run("explain route database app " + read), "target") == "replica");
      CHECK(run("explain route user app").code() == "42601");
    }
    CHECK(console.scalar("show version") != "");
  }

  TEST_CASE("a dry run sends everything to the primary, refuses nothing, and counts what would have been done") {
    Table table(shared_cluster(), "rules_dry", "n int");
    ProxyConfig config = with_rules({"tables = [\"rules_dry\"], block = true"});
    config.set("routing", "dry_run", "true");
    ProxyProcess proxy(config);
    Connection client = proxy.connect();
    CHECK(client.prepare("ask", kAsk).ok());
    for (int i = 0; i < 4; ++i) {
      CHECK(simple(client) == "primary");
      CHECK(extended(client) == "primary");
      CHECK(node_name(shared_cluster(), client.exec_prepared("ask").scalar()) == "primary");
    }
    CHECK(client.exec("begin read only").ok());
    CHECK(simple(client) == "primary");
    CHECK(client.exec("commit").ok());
    CHECK(client.scalar("select count(*) from rules_dry") == "0");
    CHECK(counted(proxy, "pgsluice_routes_total", "reason=\"dry_run\"") >= 12);
    CHECK(counted(proxy, "pgsluice_dry_routes_total", "reason=\"read\"") >= 12);
    CHECK(counted(proxy, "pgsluice_dry_routes_total", "reason=\"read_only_transaction\"") == 1);
    CHECK(counted(proxy, "pgsluice_dry_routes_total", "reason=\"blocked\"") == 1);
    CHECK(counted(proxy, "pgsluice_refusals_total", "reason=\"blocked\"") == 0);
    Connection console = proxy.console();
    CHECK(console.exec("set routing.dry_run = false").ok());
    CHECK(eventually([&client] { return is_replica(simple(client)); }));
    CHECK(client.exec("select * from rules_dry").code() == "53400");
  }
}
