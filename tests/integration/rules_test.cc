#include <csignal>
#include <set>
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

// What EXPLAIN ROUTE says of one property.
std::string explained(Connection& client, const std::string& sql, const std::string& property) {
  const Result rows = client.exec("explain route " + sql);
  for (int row = 0; row < rows.rows(); ++row)
    if (rows.at(row, "property") == property) return rows.at(row, "value");
  return "(none) " + rows.message();
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
    // Else what a read has seen at the primary may keep the next one there.
    ProxyProcess proxy(config_for(shared_cluster()).set("routing", "consistency", "\"eventual\""));
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

  TEST_CASE("requirement 25: a rule says where transactions go, of one application or of a BEGIN with a tag") {
    Table table(shared_cluster(), "rules_moves", "n int", "values (0)");
    ProxyProcess proxy(with_rules({"name = \"movers\", applications = [\"mover\"], transactions = \"migrate\"",
                                   "tags = [\"tx=moves\"], transactions = \"migrate\"",
                                   "tags = [\"tx=held\"], transactions = \"hold\""}));
    REQUIRE(proxy.ready(2));
    Connection mover = proxy.connect("app", "app", "sslmode=disable application_name=mover");
    Connection other = proxy.connect();
    const auto reads_at = [](Connection& client, const std::string& begin) {
      CHECK(client.exec(begin).ok());
      const std::string at = simple(client);
      CHECK(client.exec("commit").ok());
      return at;
    };
    CHECK(is_replica(reads_at(mover, "begin")));
    CHECK(is_replica(reads_at(other, "begin /*tx='moves'*/")));
    CHECK(reads_at(other, "begin /*tx='held'*/") == "primary");
    CHECK(reads_at(other, "begin") == "primary");
    // From the first write on it is on the primary, as everywhere.
    CHECK(mover.exec("begin").ok());
    CHECK(is_replica(simple(mover)));
    CHECK(mover.exec("update rules_moves set n = 1").ok());
    CHECK(simple(mover) == "primary");
    CHECK(mover.scalar("select n from rules_moves") == "1");
    CHECK(mover.exec("commit").ok());
    CHECK(explained(mover, "begin", "transactions") == "migrate");
    CHECK(explained(other, "begin", "transactions") == "primary");
    CHECK(explained(other, "begin /*tx='held'*/", "rule_does") == "transactions=hold");
  }

  TEST_CASE("reads that a rule gives to a group of nodes run there, and on the primary when none of them can") {
    PgCluster& cluster = shared_cluster();
    Table table(cluster, "rules_groups", "n int", "values (0)");
    ProxyProcess proxy(with_rules({"name = \"reports\", tags = [\"job=report\"], groups = [\"reports\"]"})
                           .set("node." + quoted(cluster.address(2)), "groups", "[\"reports\", \"spare\"]"));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    const std::string report = std::string(kAsk) + " /*job='report'*/";
    std::set<std::string> others;
    for (int i = 0; i < 10; ++i) {
      CHECK(simple(client, report) == "replica2");
      CHECK(extended(client, report) == "replica2");
      Connection fresh = proxy.connect("app", "app", "sslmode=disable options='-c pgsluice.consistency=eventual'");
      others.insert(simple(fresh));
      CHECK(simple(fresh, report) == "replica2");
    }
    CHECK(others.count("replica1") == 1);
    CHECK(client.exec("update rules_groups set n = 1").ok());
    CHECK(client.scalar("select n from rules_groups /*job='report'*/") == "1");
    const std::string first = "candidate " + cluster.address(1), second = "candidate " + cluster.address(2);
    CHECK(explained(client, report, first).find("none_in_group") != std::string::npos);
    CHECK(explained(client, kAsk, first).find("none_in_group") == std::string::npos);
    CHECK(explained(client, report, "rule_does") == "groups=reports");
    Connection console = proxy.console();
    REQUIRE(console.exec("drain " + quoted(cluster.address(2))).ok());
    CHECK(eventually([&] { return simple(client, report) == "primary"; }));
    CHECK(eventually([&] { return simple(client) == "replica1"; }));
    REQUIRE(console.exec("undrain " + quoted(cluster.address(2))).ok());
    CHECK(eventually([&] { return simple(client, report) == "replica2"; }));
    const Result routes = console.exec("show routes");
    bool told = false;
    for (int row = 0; row < routes.rows(); ++row)
      told |= routes.at(row, "reason") == "reports" && routes.at(row, "rule_does") == "groups=reports";
    CHECK(told);
  }

  TEST_CASE("a rule sets its statements' class, and a comment or SET lowers it, as far as routing.hints lets it") {
    PgCluster& cluster = shared_cluster();
    // Where a statement runs tells its class: low ones have a replica to themselves, and the others the other one.
    ProxyConfig config =
        with_rules({"name = \"batch\", applications = [\"batch\"], class = \"low\"",
                    "name = \"checkout\", tags = [\"controller=checkout\"], class = \"critical\""})
            .set("routing", "consistency", "\"eventual\"")
            .set("class.low", "nodes", "[" + quoted(cluster.address(2)) + "]")
            .set("class.low", "overflow", "false");
    ProxyProcess proxy(config);
    REQUIRE(proxy.ready(2));
    Connection batch = proxy.connect("app", "app", "sslmode=disable application_name=batch");
    Connection client = proxy.connect();
    const std::string ask = kAsk, low = ask + " /*pgsluice_class='low'*/", high = ask + " /*pgsluice_class='high'*/";
    CHECK(client.prepare("low", low).ok());
    CHECK(client.prepare("plain", ask).ok());
    for (int i = 0; i < 5; ++i) {
      CHECK(simple(batch) == "replica2");
      CHECK(simple(batch, high) == "replica2");  // a hint never raises it
      CHECK(simple(client) == "replica1");
      CHECK(simple(client, low) == "replica2");
      CHECK(extended(client) == "replica1");
      CHECK(node_name(cluster, client.exec_prepared("low").scalar()) == "replica2");
      CHECK(node_name(cluster, client.exec_prepared("plain").scalar()) == "replica1");
    }
    CHECK(explained(batch, ask, "service_class") == "low");
    CHECK(explained(client, ask + " /*controller='checkout'*/", "service_class") == "critical");
    CHECK(explained(client, ask + " /*controller='checkout',pgsluice_class='low'*/", "service_class") == "low");
    CHECK(explained(client, ask + " /*pgsluice_class='critical'*/", "service_class") == "high");
    CHECK(explained(client, ask + " /*pgsluice_class='none'*/", "service_class") == "high");
    CHECK(client.exec("set pgsluice.class = 'low'").ok());
    CHECK(simple(client) == "replica2");
    CHECK(simple(client, high) == "replica1");  // no more than what is configured for it
    CHECK(explained(client, ask + " /*controller='checkout'*/", "service_class") == "low");
    // An operator has the last word.
    Connection console = proxy.console();
    REQUIRE(console.exec("set class app high").ok());
    CHECK(eventually([&] { return simple(client, low) == "replica1" && simple(batch) == "replica1"; }));
    REQUIRE(console.exec("unset class app").ok());
    CHECK(eventually([&] { return simple(client) == "replica2" && simple(batch) == "replica2"; }));
    proxy.rewrite(config.set("routing", "hints", "[\"route\"]"));
    proxy.signal(SIGHUP);
    CHECK(eventually([&] { return simple(client) == "replica1"; }));
    CHECK(simple(client, low) == "replica1");
    CHECK(simple(batch) == "replica2");
  }

  TEST_CASE("a rule's rate and concurrency hold for all statements that it fits, over all workers, and for no others") {
    ProxyProcess proxy(with_rules({"name = \"one report\", tags = [\"job=report\"], concurrency = 1",
                                   "name = \"seldom\", tags = [\"job=seldom\"], rate = 1"})
                           .set("", "workers", "2"));
    REQUIRE(proxy.ready(2));
    Connection first = proxy.connect(), second = proxy.connect(), third = proxy.connect();
    REQUIRE(first.send("select pg_sleep(30) /*job='report'*/"));
    const char* const running = "select count(*) from pg_stat_activity where pid <> pg_backend_pid() and state = 'active'"
                                " and query like '%pg_sleep(30) /*job%'";
    REQUIRE(eventually([&] {
      return shared_cluster().ask(1, running) == "1" || shared_cluster().ask(2, running) == "1";
    }));
    const auto is_refused = [](const Result& result, const std::string& why, const std::string& rule) {
      CAPTURE(result.message());
      return result.code() == "53400" && result.severity() == "ERROR" &&
             result.detail().find("reason=" + why + " ") != std::string::npos &&
             result.detail().find("rule=" + rule) != std::string::npos &&
             result.detail().find("retry_after_ms=") != std::string::npos;
    };
    for (Connection* client : {&second, &third}) {
      CHECK(eventually([&] {
        return is_refused(client->exec("select 1 /*job='report'*/"), "rule_concurrency", "\"one report\"");
      }));
      CHECK(client->scalar("select 1") == "1");
      CHECK(is_refused(client->exec("select $1::int /*job='report'*/", Parameters{"1"}), "rule_concurrency",
                       "\"one report\""));
    }
    CHECK(second.exec("begin").ok());
    CHECK(is_refused(second.exec("select 1 /*job='report'*/"), "rule_concurrency", "\"one report\""));
    CHECK(second.exec("select 1").code() == "25P02");
    CHECK(second.exec("rollback").ok());
    CHECK(first.cancel());
    CHECK(first.finish().code() == "57014");
    CHECK(second.scalar("select 1 /*job='report'*/") == "1");
    CHECK(third.scalar("select 1 /*job='report'*/") == "1");

    CHECK(second.scalar("select 1 /*job='seldom'*/") == "1");
    CHECK(is_refused(third.exec("select 1 /*job='seldom'*/"), "rule_rate", "seldom"));
    CHECK(eventually([&] { return third.exec("select 1 /*job='seldom'*/").ok(); }));
    CHECK(explained(first, "select 1 /*job='report'*/", "rule_does") == "concurrency=1");
    CHECK(counted(proxy, "pgsluice_refusals_total", "reason=\"rule_concurrency\"") >= 5);
    CHECK(counted(proxy, "pgsluice_refusals_total", "reason=\"rule_rate\"") >= 1);
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
    // Without floors: nobody waits for a position, and is counted as one who did.
    config.set("routing", "dry_run", "true").set("routing", "consistency", "\"eventual\"");
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
