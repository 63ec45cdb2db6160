#include <csignal>

#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// Promise 3: what is run again on another node, and what never is.
using namespace integration;

namespace {

// Replicas that give way to recovery at once. The cases kill backends, so they share none with others.
PgCluster& nodes() {
  static PgCluster cluster({.settings = {"max_standby_streaming_delay = 0", "max_standby_archive_delay = 0",
                                         "hot_standby_feedback = off", "log_recovery_conflict_waits = off"}});
  return cluster;
}

struct Runs {
  std::size_t node = 0;
  pid_t pid = 0;
};

// Where a statement that contains `mark` runs now. Waits for it.
Runs where_is(const std::string& mark) {
  Runs found;
  REQUIRE(eventually([&] {
    for (std::size_t node = 0; node < nodes().size(); ++node) {
      const std::string pid = nodes().ask(
          node, "select pid from pg_stat_activity where usename = 'app' and state = 'active' and "
                "query like '%" + mark + "%'");
      if (pid.empty() || pid.find(':') != std::string::npos) continue;
      found = {node, static_cast<pid_t>(std::atoi(pid.c_str()))};
      return true;
    }
    return false;
  }));
  return found;
}

void terminate(const Runs& it) {
  CHECK(nodes().ask(it.node, "select pg_terminate_backend(" + std::to_string(it.pid) + ")") == "t");
}

double retries(const ProxyProcess& proxy, const std::string& outcome, const std::string& reason) {
  return metric(proxy.metrics(), "pgsluice_retries_" + outcome + "_total", {"reason=\"" + reason + "\""})
      .value_or(-1);
}

struct Healing {
  // What is killed here again and again is not to be taken for what kills servers.
  ProxyProcess proxy{config_for(nodes()).set("digest", "auto_block", "\"0s\"")};
  Healing() { REQUIRE(proxy.ready(2)); }
};

// A function that the catalogue calls stable, and that writes all the same: no look at the text shows it.
struct LyingFunction {
  Table table{nodes(), "healing_rows", "n int", ""};
  Connection owner{nodes().conninfo(0, "app")};

  LyingFunction() {
    CHECK(owner.exec("create or replace function healing_writes() returns void language plpgsql volatile as "
                     "$$ begin insert into healing_rows values (1); end $$").ok());
    CHECK(owner.exec("create or replace function healing_lies() returns text language plpgsql stable as "
                     "$$ begin perform healing_writes(); return current_setting('port'); end $$").ok());
    nodes().wait_replicated();
  }
  ~LyingFunction() { (void)owner.exec("drop function healing_lies(); drop function healing_writes()"); }
  std::string rows() { return owner.scalar("select count(*) from healing_rows"); }
};

// Until the proxy's catalogue has this function and calls it a read.
bool knows(ProxyProcess& proxy, const std::string& function) {
  return eventually([&] {
    const auto reads = [&] {
      return metric(proxy.metrics(), "pgsluice_class_reasons_total", {"reason=\"proven_read\""}).value_or(0);
    };
    const double before = reads();
    (void)proxy.connect().exec("select " + function + "() where false");
    return reads() > before;
  });
}

// Long enough to be found while it runs, on a slow machine too.
const std::string kSlow = ", pg_sleep(2)";

}  // namespace

TEST_SUITE("integration/healing") {
  TEST_CASE("promise 3: kill -9 of the backend that runs a read: another node answers, over both protocols") {
    Healing healing;
    Connection client = healing.proxy.connect();
    CHECK(client.exec("set work_mem = '7MB'").ok());
    CHECK(client.prepare("slow", "select current_setting('port'), current_setting('work_mem')" + kSlow +
                                     ", 'healing prepared'").ok());
    const auto ask = [&](int kind) {
      if (kind == 1) return PQsendQueryPrepared(client.raw(), "slow", 0, nullptr, nullptr, nullptr, 0) == 1;
      const std::string sql = "select current_setting('port'), current_setting('work_mem')" + kSlow +
                              ", 'healing " + (kind == 0 ? "simple'" : "extended'");
      if (kind == 0) return client.send(sql);
      return PQsendQueryParams(client.raw(), sql.c_str(), 0, nullptr, nullptr, nullptr, nullptr, 0) == 1;
    };
    const char* const marks[] = {"healing simple", "healing prepared", "healing extended"};
    for (int kind = 0; kind < 3; ++kind) {
      CAPTURE(kind);
      REQUIRE(ask(kind));
      const Runs first = where_is(marks[kind]);
      CHECK(first.node != 0);
      CHECK(::kill(first.pid, SIGKILL) == 0);
      const Result result = client.finish();
      CHECK_MESSAGE(result.ok(), result.scalar());
      CHECK(result.rows() == 1);
      CHECK(result.scalar() != std::to_string(nodes().port(first.node)));
      CHECK(result.at(0, 1) == "7MB");
      CHECK(retries(healing.proxy, "served", "server_lost") == kind + 1);
      REQUIRE(eventually([&] { return nodes().is_up(first.node); }));
      REQUIRE(healing.proxy.ready(2));
    }
    CHECK(healing.proxy.log().find("runs a read again elsewhere: server_lost") != std::string::npos);
    Connection console = healing.proxy.console();
    const Result shown = console.exec("show retries");
    bool seen = false;
    for (int row = 0; row < shown.rows(); ++row)
      seen |= shown.at(row, "what") == "retries_served" && shown.at(row, "reason") == "server_lost" &&
              shown.at(row, "count") == "3";
    CHECK(seen);
  }

  TEST_CASE(
      "promise 3: requirement 30: a read that a replica cancels in order to replay is answered "
      "elsewhere") {
    Table table(nodes(), "healing_vacuumed", "n int", "select generate_series(1, 1000)");
    Healing healing;
    // The other replica could be about to replay the same.
    CHECK(healing.proxy.console().exec("drain " + nodes().address(2)).ok());
    Connection client = healing.proxy.connect();
    REQUIRE(client.send("select current_setting('port'), count(*), pg_sleep(1)::text from healing_vacuumed"));
    CHECK(where_is("pg_sleep(1)").node == 1);
    Connection owner(nodes().conninfo(0, "app"));
    CHECK(owner.exec("delete from healing_vacuumed where n > 100").ok());
    CHECK(owner.exec("vacuum healing_vacuumed").ok());
    const Result result = client.finish();
    CHECK_MESSAGE(result.ok(), result.scalar());
    CHECK(node_name(nodes(), result.scalar()) == "primary");
    CHECK(result.at(0, 1) == "100");
    CHECK(retries(healing.proxy, "served", "recovery_conflict") == 1);
    CHECK(client.scalar("select 1") == "1");
  }

  TEST_CASE("requirement 30: 0A000 and 55000 of recovery, too, are answered by the primary") {
    Table table(nodes(), "healing_unlogged", "n int", "values (1)");
    Connection owner(nodes().conninfo(0, "app"));
    CHECK(owner.exec("alter table healing_unlogged set unlogged").ok());
    const auto make = [&owner](const std::string& name, const std::string& body) {
      CHECK(owner.exec("create or replace function " + name + "() returns text language plpgsql stable as $$ begin "
                       "perform " + body + "; return current_setting('port'); end $$").ok());
    };
    make("healing_of_unlogged", "n from healing_unlogged");
    make("healing_of_wal", "pg_current_wal_lsn()");
    nodes().wait_replicated();
    for (const auto& [function, code] : {std::pair{"healing_of_unlogged", "0A000"}, {"healing_of_wal", "55000"}}) {
      CAPTURE(function);
      const std::string ask = std::string("select ") + function + "()";
      CHECK(Connection(nodes().conninfo(1, "app")).exec(ask).code() == code);
      Healing healing;
      REQUIRE(knows(healing.proxy, function));
      CHECK(node_name(nodes(), healing.proxy.connect().scalar(ask)) == "primary");
      CHECK(retries(healing.proxy, "served", "wrong_node") == 1);
    }
    CHECK(owner.exec("drop function healing_of_unlogged(), healing_of_wal()").ok());
  }

  TEST_CASE("requirement 30: a read that writes in hiding runs once, on the primary") {
    LyingFunction lies;
    Healing healing;
    REQUIRE(knows(healing.proxy, "healing_lies"));
    Connection client = healing.proxy.connect();
    CHECK(node_name(nodes(), client.scalar("select healing_lies()")) == "primary");
    CHECK(lies.rows() == "1");
    const std::vector<std::optional<std::string>> none;
    CHECK(node_name(nodes(), client.exec("select healing_lies(), 'extended'", none).scalar()) == "primary");
    CHECK(lies.rows() == "2");
    Connection reader = healing.proxy.connect();
    REQUIRE(reader.prepare("lie", "select healing_lies(), 'prepared'").ok());
    CHECK(node_name(nodes(), reader.exec_prepared("lie").scalar()) == "primary");
    CHECK(lies.rows() == "3");
    CHECK(retries(healing.proxy, "served", "wrong_node") >= 1);
    // A message behind the refused one is answered after it.
    RawClient raw(healing.proxy.port());
    REQUIRE(raw.login());
    raw.send(parse_message("p", "select healing_lies(), 'raw'") + bind_message("", "p") +
             describe_message('P', "") + execute_message("") + sync_message());
    CHECK(types(raw.read_until('Z')) == "12TDCZ");
    raw.send(query_message("select 1"));
    CHECK(types(raw.read_until('Z')) == "TDCZ");
    raw.send(parse_message("p", "select 2") + sync_message());  // the name is known, once
    const auto doubled = raw.read_until('Z');
    REQUIRE(types(doubled) == "EZ");
    CHECK(doubled[0].field('C') == "42P05");
    CHECK(lies.rows() == "4");
  }

  TEST_CASE("promise 3: nothing is run again when its budget is empty, and the error is the node's own") {
    LyingFunction lies;
    ProxyProcess proxy(
        config_for(nodes()).set("routing", "retry_percent", "0").set("routing", "retry_rate", "0"));
    REQUIRE(proxy.ready(2));
    REQUIRE(knows(proxy, "healing_lies"));
    Connection client = proxy.connect();
    const Result refused = client.exec("select healing_lies(), 'budget'");
    CHECK(refused.code() == "25006");
    CHECK(lies.rows() == "0");
    CHECK(metric(proxy.metrics(), "pgsluice_retry_refusals_total", {"reason=\"budget\""}) == 1);
    CHECK(client.scalar("select 1") == "1");
  }

  TEST_CASE("promise 3: an answer of which something has been told is not given a second time") {
    Healing healing;
    RawClient client(healing.proxy.port());
    REQUIRE(client.login());
    client.send(query_message("select repeat('x', 9000), case when g = 5 then pg_sleep(10) end, 'healing half' "
                              "from generate_series(1, 5) g"));
    REQUIRE(client.read_until('D').back().type == 'D');
    terminate(where_is("healing half"));
    std::string rest = types(client.read_until('Z'));
    CHECK_MESSAGE(rest.find('E') != std::string::npos, rest);
    CHECK(rest.find('C') == std::string::npos);
    CHECK(rest.find('T') == std::string::npos);
    CHECK(retries(healing.proxy, "served", "server_lost") == 0);
    CHECK(retries(healing.proxy, "failed", "server_lost") == 0);
  }

  TEST_CASE("promise 3: what came before the first row is held back, and told once") {
    Connection owner(nodes().conninfo(0, "app"));
    CHECK(owner.exec("create or replace function healing_says() returns int language plpgsql stable as "
                     "$$ begin raise notice 'here'; return 1; end $$").ok());
    nodes().wait_replicated();
    Healing healing;
    REQUIRE(knows(healing.proxy, "healing_says"));
    RawClient client(healing.proxy.port());
    REQUIRE(client.login());
    // The notice makes Postgres send all that it has.
    client.send(parse_message("", "select healing_says()" + kSlow + ", 'healing head'") + bind_message("", "") +
                describe_message('P', "") + execute_message("") + sync_message());
    terminate(where_is("healing head"));
    CHECK(types(client.read_until('Z')) == "12TNDCZ");
    CHECK(retries(healing.proxy, "served", "server_lost") == 1);
    // And what is held back comes, though not before the rest, when nothing happens.
    client.send(query_message("select healing_says(), 'healing calm'"));
    CHECK(types(client.read_until('Z')) == "TNDCZ");
    (void)owner.exec("drop function healing_says()");
  }

  TEST_CASE("promise 3: neither writes, nor transactions, nor pipelines are run again") {
    Table table(nodes(), "healing_once", "n int", "values (0)");
    Healing healing;
    {
      Connection client = healing.proxy.connect();
      REQUIRE(client.send("update healing_once set n = n + 1 from (select pg_sleep(10)) healing_write"));
      terminate(where_is("healing_write"));
      CHECK(client.finish().code() == "08006");
      CHECK(nodes().ask(0, "select n from healing_once") == "0");
    }
    {
      Connection client = healing.proxy.connect();
      CHECK(client.exec("begin read only").ok());
      REQUIRE(client.send("select pg_sleep(10), 'healing transaction'"));
      terminate(where_is("healing transaction"));
      CHECK(client.finish().code() == "08006");
      CHECK_FALSE(client.ok());
    }
    {
      RawClient client(healing.proxy.port());
      REQUIRE(client.login());
      client.send(query_message("select pg_sleep(10), 'healing pipeline'") + query_message("select 2"));
      terminate(where_is("healing pipeline"));
      CHECK(types(client.read_until('Z')).ends_with("EZ"));  // Postgres may have sent a T
      CHECK(types(client.read_until('Z')) == "EZ");
    }
    CHECK(metric(healing.proxy.metrics(), "pgsluice_retries_served_total") == 0);
    CHECK(metric(healing.proxy.metrics(), "pgsluice_retries_failed_total") == 0);
  }

  TEST_CASE("promise 3: a server lost while it commits is 08007, because nobody knows what became of it") {
    Table table(nodes(), "healing_fate", "n int", "values (0)");
    Healing healing;
    // No commit is answered as long as nobody has confirmed it.
    nodes().set(0, "synchronous_standby_names = 'nobody'\n");
    const auto lose = [&](const std::string& mark) {
      const Runs it = where_is(mark);
      REQUIRE(eventually([&] {
        return nodes().ask(0, "select wait_event from pg_stat_activity where pid = " + std::to_string(it.pid)) ==
               "SyncRep";
      }));
      terminate(it);
    };
    {
      Connection client = healing.proxy.connect();
      CHECK(client.exec("begin").ok());
      CHECK(client.exec("update healing_fate set n = n + 1").ok());
      REQUIRE(client.send("commit /* healing fate */"));
      lose("healing fate");
      CHECK(client.finish().code() == "08007");
      CHECK_FALSE(client.ok());  // it was in a transaction
    }
    {
      Connection client = healing.proxy.connect();
      REQUIRE(client.send("begin; update healing_fate set n = n + 1; commit /* healing string */"));
      lose("healing string");
      CHECK(client.finish().code() == "08007");
      CHECK(client.ok());
    }
    nodes().set(0, "synchronous_standby_names = ''\n");
    CHECK(nodes().ask(0, "select n from healing_fate") == "2");
  }

  TEST_CASE("promise 3: a read that is lost a second time is an error") {
    Healing healing;
    Connection client = healing.proxy.connect();
    REQUIRE(client.send("select pg_sleep(10), 'healing twice'"));
    const Runs first = where_is("healing twice");
    terminate(first);
    Runs second;
    REQUIRE(eventually([&] { return (second = where_is("healing twice")).pid != first.pid; }));
    CHECK(second.node != first.node);
    terminate(second);
    const Result lost = client.finish();
    CHECK(lost.code() == "08006");
    CHECK(client.ok());
    CHECK(retries(healing.proxy, "failed", "server_lost") == 1);
    CHECK(client.scalar("select 1") == "1");
  }
}
