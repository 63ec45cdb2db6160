#include <map>
#include <mutex>

#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// Which node answers. Every node is asked which port it listens on; current_setting is stable, so
// the question itself is a read.
using namespace integration;

namespace {

const std::set<std::string> kReplicas = {"replica1", "replica2"};

// Who answers `sql` in 12 executions, over both protocols.
std::set<std::string> answerers(ProxyProcess& proxy, const std::string& sql) {
  std::set<std::string> found;
  Connection client = proxy.connect();
  for (int i = 0; i < 12; ++i) {
    const Result result =
        i % 2 == 0 ? client.exec(sql) : client.exec(sql, std::vector<std::optional<std::string>>{});
    found.insert(node_name(shared_cluster(), result.scalar()));
  }
  return found;
}

struct Routing {
  Table table{shared_cluster(), "routing_rows", "id serial primary key, n int",
              "(n) select generate_series(1, 10)"};
  ProxyProcess proxy{config_for(shared_cluster())};

  Routing() { REQUIRE(proxy.ready(2)); }
};

constexpr const char* kPort = "current_setting('port')";

}  // namespace

TEST_SUITE("integration/routing") {
  TEST_CASE("reads of many clients are spread over both replicas and spare the primary") {
    Routing routing;
    std::mutex mutex;
    std::map<std::string, int> counts;
    const auto problems = at_once(8, [&](std::size_t) -> std::string {
      Connection client = routing.proxy.connect();
      std::map<std::string, int> own;
      for (int i = 0; i < 60; ++i) {
        ++own[who_answers(shared_cluster(), client,
                          "select current_setting('port'), count(*) from routing_rows")];
      }
      const std::lock_guard lock(mutex);
      for (const auto& [node, count] : own) counts[node] += count;
      return "";
    });
    CHECK(problems.empty());
    CAPTURE(counts["replica1"]);
    CAPTURE(counts["replica2"]);
    CHECK(counts["primary"] == 0);
    CHECK(counts["replica1"] + counts["replica2"] == 480);
    CHECK(counts["replica1"] > 48);  // the quicker one is preferred, but neither starves
    CHECK(counts["replica2"] > 48);
  }

  TEST_CASE("promise 1: requirement 24: a write goes to the primary, in whatever it hides") {
    Routing routing;
    {
      Connection owner(shared_cluster().conninfo(0, "app"));
      CHECK(
          owner
              .exec(
                  "create or replace function routing_sneaky() returns text language plpgsql as $$ "
                  "begin insert into routing_rows(n) values (0); return current_setting('port'); "
                  "end $$")
              .ok());
      shared_cluster().wait_replicated();
    }
    const std::string port = kPort;
    for (const std::string& sql : {
             "insert into routing_rows(n) values (1) returning " + port,
             "update routing_rows set n = n + 1 where id = 1 returning " + port,
             "delete from routing_rows where id < 0 or id = 2 returning " + port,
             "with w as (insert into routing_rows(n) values (2) returning n) select " + port +
                 " from w",
             "select " + port + " from routing_rows where id = 1 for update",
             "select " + port + " from routing_rows where id = 1 for share",
             "select " + port + " from (select * from routing_rows where id = 1 for key share) x",
             "select " + port + ", nextval('routing_rows_id_seq')",
             std::string("select routing_sneaky()"),
             "select " + port + ", pg_try_advisory_xact_lock(1)",
             "select " + port + ", pg_current_xact_id()",
             "select " + port + " from (select routing_sneaky()) x",
             std::string("/* select */ insert into routing_rows(n) values (3) returning ") + port,
         }) {
      CAPTURE(sql);
      const auto found = answerers(routing.proxy, sql);
      const bool only_primary = found == std::set<std::string>{"primary"} ||
                                found == std::set<std::string>{"", "primary"};
      CHECK_MESSAGE(only_primary, joined({found.begin(), found.end()}));
    }
    Connection owner(shared_cluster().conninfo(0, "app"));
    owner.exec("drop function routing_sneaky()");
  }

  TEST_CASE("a read stays a read in all its forms") {
    Routing routing;
    const std::string port = kPort;
    for (const std::string& sql : {
             "select " + port,
             "SELECT " + port + " -- insert into x\n",
             "select " + port + " from routing_rows where n = 1 or true limit 1",
             "with w as (select 1) select " + port + " from w",
             "select " + port + " union select " + port,
             "values (" + port + ")",
             "select " + port + ", random(), clock_timestamp()",
             "select " + port + ", 'insert into x; update y for update'",
             "table routing_rows limit 0; select " + port,
         }) {
      CAPTURE(sql);
      if (sql.find(';') != std::string::npos && sql.rfind("table", 0) == 0) {
        Connection client = routing.proxy.connect();
        CHECK(kReplicas.count(who_answers(shared_cluster(), client, sql)) == 1);
        continue;
      }
      const auto found = answerers(routing.proxy, sql);
      for (const std::string& node : found) CHECK_MESSAGE(kReplicas.count(node) == 1, node);
    }
  }

  TEST_CASE("requirement 24: functions are judged by the primary's catalogue") {
    Routing routing;
    Connection owner(shared_cluster().conninfo(0, "app"));
    CHECK(
        owner
            .exec("create or replace function routing_stable() returns text language sql stable as "
                  "$$ select current_setting('port') $$")
            .ok());
    CHECK(owner
              .exec("create or replace function routing_volatile() returns text language sql "
                    "volatile as "
                    "$$ select current_setting('port') $$")
              .ok());
    shared_cluster().wait_replicated();
    // Known already by a proxy that starts after them.
    ProxyProcess proxy(config_for(shared_cluster()));
    REQUIRE(proxy.ready(2));
    CHECK(eventually(
        [&proxy] {
          const auto found = answerers(proxy, "select routing_stable()");
          return found.count("primary") == 0;
        },
        10s, 100ms));
    CHECK(answerers(proxy, "select routing_volatile()") == std::set<std::string>{"primary"});
    {
      ProxyProcess told(config_for(shared_cluster())
                            .set("routing", "read_functions", "[\"routing_volatile\"]")
                            .set("routing", "write_functions", "[\"routing_stable\"]"));
      REQUIRE(told.ready(2));
      CHECK(answerers(told, "select routing_volatile()").count("primary") == 0);
      CHECK(answerers(told, "select routing_stable()") == std::set<std::string>{"primary"});
    }
    owner.exec("drop function routing_stable(); drop function routing_volatile()");
  }

  TEST_CASE("requirement 25: transactions go to the primary, READ ONLY ones to a replica, and stay there") {
    Routing routing;
    Connection client = routing.proxy.connect();
    const auto inside = [&client](const std::string& begin) {
      std::set<std::string> found;
      CHECK(client.exec(begin).ok());
      for (int i = 0; i < 4; ++i) found.insert(who_answers(shared_cluster(), client));
      CHECK(client.exec("commit").ok());
      return found;
    };
    for (const std::string begin :
         {"begin", "start transaction", "begin isolation level repeatable read"}) {
      CAPTURE(begin);
      CHECK(inside(begin) == std::set<std::string>{"primary"});
    }
    for (const std::string begin : {"begin read only", "start transaction read only",
                                    "begin isolation level repeatable read read only"}) {
      CAPTURE(begin);
      // What it has seen on the primary a replica must have replayed first.
      CHECK(eventually([&] { return kReplicas.count(*inside(begin).begin()) == 1; }, 25s));
      for (int i = 0; i < 4; ++i) {
        const auto found = inside(begin);
        CHECK(found.size() == 1);
        CHECK(kReplicas.count(*found.begin()) == 1);
      }
    }
    // What a standby refuses, a read-only transaction refuses.
    CHECK(client.exec("begin read only").ok());
    CHECK(client.exec("insert into routing_rows(n) values (1)").code() == "25006");
    CHECK(client.exec("rollback").ok());
  }

  TEST_CASE("requirement 23: several statements in one string take their strongest class") {
    Routing routing;
    Connection client = routing.proxy.connect();
    Connection reader = routing.proxy.connect();  // one without writes of its own to wait for
    for (int i = 0; i < 6; ++i) {
      CHECK(who_answers(shared_cluster(), client,
                        "insert into routing_rows(n) values (5); select current_setting('port')") ==
            "primary");
      CHECK(kReplicas.count(who_answers(shared_cluster(), reader,
                                        "select 1; select current_setting('port')")) == 1);
    }
  }

  TEST_CASE("requirement 23: what stands before one Sync takes its strongest class") {
    Routing routing;
    RawClient client(routing.proxy.port());
    REQUIRE(client.login());
    const auto one = [](const std::string& sql) {
      return parse_message("", sql) + bind_message("", "") + execute_message("");
    };
    const std::string who = one("select current_setting('port')");
    const std::string write = one("insert into routing_rows(n) values (6)");
    const auto answerer = [&client](const std::string& batch) {
      client.send(batch + sync_message());
      for (const Message& message : client.read_until('Z'))
        if (message.type == 'D') return node_name(shared_cluster(), message.columns()[0]);
      return std::string("nobody");
    };
    for (int i = 0; i < 4; ++i) {
      CHECK(answerer(who + write) == "primary");
      CHECK(answerer(write + who) == "primary");
      CHECK(answerer(who + one("select 1") + write) == "primary");
    }
    CHECK(eventually([&] { return kReplicas.count(answerer(who + one("select 1"))) == 1; }));
  }

  TEST_CASE("requirement 22: each execution is routed by what its statement is, not by what its name was") {
    Routing routing;
    RawClient client(routing.proxy.port());
    REQUIRE(client.login());
    const auto answerer = [&client](const std::string& batch) {
      client.send(batch + sync_message());
      std::string found = "nobody";
      for (const Message& message : client.read_until('Z'))
        if (message.type == 'D') found = node_name(shared_cluster(), message.columns()[0]);
      return found;
    };
    const std::string run = bind_message("", "s") + execute_message("");
    const std::string read = "select current_setting('port')";
    const std::string write = "insert into routing_rows(n) values (8) returning current_setting('port')";
    CHECK(kReplicas.count(answerer(parse_message("s", read) + run)) == 1);
    for (int i = 0; i < 3; ++i) {
      CHECK(answerer(close_message('S', "s") + parse_message("s", write)) == "nobody");
      CHECK(answerer(run) == "primary");
      CHECK(answerer(close_message('S', "s") + parse_message("s", read)) == "nobody");
      CHECK(eventually([&] { return kReplicas.count(answerer(run)) == 1; }));
    }
  }

  TEST_CASE("requirement 22: what does not parse, and what is too long to be parsed, goes to the primary") {
    ProxyProcess proxy(config_for(shared_cluster()).set("routing", "max_statement", "\"1KiB\""));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    Connection reader = proxy.connect();
    CHECK(client.exec("selec 1").code() == "42601");
    CHECK(client.scalar("select 1") == "1");
    const std::string padding(2000, ' ');
    for (int i = 0; i < 4; ++i) {
      CHECK(who_answers(shared_cluster(), client, "select" + padding + "current_setting('port')") ==
            "primary");
      CHECK(kReplicas.count(who_answers(shared_cluster(), reader)) == 1);
    }
  }

  TEST_CASE("promise 2: a session reads its own writes, whichever node serves it") {
    Table table(shared_cluster(), "routing_own", "id int primary key, n int",
                "select i, 0 from generate_series(0, 7) i");
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "4"));
    REQUIRE(proxy.ready(2));
    const auto problems = at_once(8, [&proxy](std::size_t i) -> std::string {
      Connection client = proxy.connect();
      const std::string id = std::to_string(i);
      for (int n = 1; n <= 200; ++n) {
        const Result written = client.exec("update routing_own set n = n + 1 where id = " + id);
        if (!written.ok()) return written.scalar();
        const std::string read = client.scalar("select n from routing_own where id = " + id);
        if (read != std::to_string(n)) return "wrote " + std::to_string(n) + ", read " + read;
      }
      return "";
    });
    CHECK_MESSAGE(problems.empty(), joined(problems));
  }

  TEST_CASE(
      "a session that has written reads from replicas again as soon as they have replayed it") {
    Routing routing;
    Connection client = routing.proxy.connect();
    for (int i = 0; i < 5; ++i) {
      CHECK(client.exec("insert into routing_rows(n) values (6)").ok());
      CHECK(eventually(
          [&client] { return kReplicas.count(who_answers(shared_cluster(), client)) == 1; }, 3s));
    }
  }

  TEST_CASE("promise 2: also while every replica has stopped replaying") {
    PgCluster cluster;
    Table table(cluster, "routing_paused", "n int", "values (0)");
    ProxyProcess proxy(config_for(cluster));
    REQUIRE(proxy.ready(2));
    cluster.pause_replay(1);
    cluster.pause_replay(2);
    Connection writer = proxy.connect();
    CHECK(writer.exec("update routing_paused set n = 1").ok());
    for (int i = 0; i < 10; ++i) CHECK(writer.scalar("select n from routing_paused") == "1");
    cluster.resume_replay(1);
    cluster.resume_replay(2);
  }

  TEST_CASE("consistency = primary sends every read to the primary") {
    ProxyProcess proxy(config_for(shared_cluster()).set("routing", "consistency", "\"primary\""));
    REQUIRE(proxy.ready(2));
    CHECK(answerers(proxy, "select current_setting('port')") == std::set<std::string>{"primary"});
  }

  TEST_CASE("with no replica at all the primary serves everything") {
    PgCluster cluster({.replicas = 0});
    ProxyProcess proxy(config_for(cluster));
    Connection client = proxy.connect();
    for (int i = 0; i < 5; ++i) CHECK(who_answers(cluster, client) == "primary");
    CHECK(client.exec("create table t(a int)").ok());
  }

  TEST_CASE("requirement 28: replicas may be listed first: roles are discovered, not assumed") {
    PgCluster& cluster = shared_cluster();
    ProxyProcess proxy(
        config_for(cluster).servers({cluster.address(2), cluster.address(1), cluster.address(0)}));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    Connection reader = proxy.connect();
    CHECK(who_answers(cluster, client,
                      "select current_setting('port') from (select 1) x for update") == "primary");
    CHECK(kReplicas.count(who_answers(cluster, reader)) == 1);
  }
}
