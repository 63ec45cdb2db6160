#include <array>
#include <list>

#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// What a session is, while servers change under it: settings, pins, names of statements.
using namespace integration;

namespace {

// One server: whoever keeps it makes the others wait, and they say so soon.
ProxyConfig one_server() {
  return config_for(shared_cluster())
      .set("pool", "size", "1")
      .set("pool", "queue_timeout", "\"2s\"");
}

// The same, whatever is asked.
ProxyConfig one_server_for_all() { return one_server().servers({shared_cluster().address(0)}); }

// Why clients of user app are pinned, as the console says; "" when none is.
std::string pins(const ProxyProcess& proxy) {
  const Result clients = proxy.console().exec("show clients");
  std::string found;
  for (int row = 0; row < clients.rows(); ++row)
    if (clients.at(row, "user") == "app" && clients.at(row, "pinned") != "none")
      found += clients.at(row, "pinned") + ";";
  return found;
}
bool pinned(const ProxyProcess& proxy, const std::string& why) {
  return eventually([&] { return pins(proxy) == (why.empty() ? why : why + ";"); }, 3s);
}

// A value of the metrics page; -1 when it is not there.
double metric(const ProxyProcess& proxy, const std::string& series) {
  const std::string page = proxy.metrics();
  const std::size_t at = page.find("\n" + series + " ");
  return at == std::string::npos ? -1 : std::stod(page.substr(at + series.size() + 2));
}

using Parameters = std::vector<std::pair<std::string, std::string>>;
bool login_with(RawClient& client, Parameters parameters) {
  parameters.insert(parameters.begin(), {{"user", "app"}, {"database", "app"}});
  client.send(startup_message(parameters));
  const auto heard = client.read_until('Z');
  return !heard.empty() && heard.back().type == 'Z';
}

using Script = std::vector<std::string>;
std::string printed(const Script& script) {
  std::string text;
  for (const std::string& sql : script) text += sql + "; ";
  return text;
}

// What a connection answers to each statement: code, tag and first value.
Result run(Connection& connection, const std::string& sql, bool extended) {
  return extended ? connection.exec(sql, {}) : connection.exec(sql);
}
std::string said(const Result& result) {
  return result.ok() ? result.tag() + " " + result.scalar() : result.code() + " " + result.message();
}

}  // namespace

TEST_SUITE("integration/session") {
  TEST_CASE(
      "requirement 11: settings are followed through savepoints and transactions as Postgres does, over "
      "both protocols, and nobody is pinned") {
    ProxyProcess proxy(one_server());
    const std::vector<Script> scripts = {
        {"begin", "set work_mem = '7MB'", "savepoint s", "set work_mem = '8MB'", "rollback to s", "commit"},
        {"begin", "savepoint s", "set work_mem = '8MB'", "release s", "commit"},
        {"begin", "savepoint s", "set work_mem = '8MB'", "rollback to s", "commit"},
        {"begin", "savepoint s", "set work_mem = '8MB'", "rollback to s", "set work_mem = '9MB'", "commit"},
        {"begin", "set work_mem = '7MB'", "savepoint s", "set work_mem = '8MB'", "savepoint s",
         "set work_mem = '9MB'", "release s", "rollback to s", "commit"},
        {"begin", "set work_mem = '7MB'", "savepoint s", "set local work_mem = '8MB'", "rollback to s",
         "set local work_mem = '10MB'", "commit"},
        {"begin", "set work_mem = '7MB'", "savepoint s", "set work_mem = '8MB'", "select 1/0",
         "rollback to s", "commit"},
        {"begin", "set work_mem = '7MB'", "select 1/0", "commit"},
        {"begin", "set work_mem = '7MB'", "savepoint s", "reset work_mem", "rollback to savepoint s",
         "commit"},
        {"begin", "set work_mem = '7MB'", "commit and chain", "set work_mem = '8MB'", "rollback"},
        {"begin", "set work_mem = '7MB'", "rollback and chain", "set work_mem = '8MB'", "commit"},
        {"begin", "select set_config('work_mem', '7MB', false)", "savepoint a", "discard plans",
         "reset all", "rollback to a", "rollback to nosuch", "rollback"},
    };
    for (const bool extended : {false, true}) {
      for (const Script& script : scripts) {
        const std::string text = printed(script);
        CAPTURE(text);
        CAPTURE(extended);
        Connection client = proxy.connect();
        Connection other = proxy.connect();
        Connection direct(shared_cluster().conninfo(0, "app"));
        run(client, "set work_mem = '6MB'", extended);
        run(direct, "set work_mem = '6MB'", extended);
        for (const std::string& sql : script)
          CHECK(said(run(client, sql, extended)) == said(run(direct, sql, extended)));
        CHECK(other.scalar("select set_config('work_mem', '99MB', true)") == "99MB");
        CHECK(other.scalar("show work_mem") == "4MB");
        CHECK(client.scalar("show work_mem") == direct.scalar("show work_mem"));
        CHECK(pins(proxy) == "");
      }
    }
    // All in one string, and all up to one Sync.
    Connection client = proxy.connect();
    Connection other = proxy.connect();
    CHECK(client.exec("begin; set work_mem = '5MB'; savepoint s; set work_mem = '6MB'; "
                      "rollback to s; commit").ok());
    CHECK(other.scalar("show work_mem") == "4MB");
    CHECK(client.scalar("show work_mem") == "5MB");
    CHECK(client.exec("begin; set work_mem = '7MB'; rollback").ok());
    CHECK(other.scalar("show work_mem") == "4MB");
    CHECK(client.scalar("show work_mem") == "5MB");
    RawClient raw(proxy.port());
    REQUIRE(raw.login());
    std::string bytes;
    for (const char* sql : {"begin", "set work_mem = '8MB'", "rollback", "set enable_sort = off"})
      bytes += parse_message("", sql) + bind_message("", "") + execute_message("");
    raw.send(bytes + sync_message());
    CHECK(types(raw.read_until('Z')) == "12C12C12C12CZ");
    CHECK(other.scalar("show enable_sort") == "on");
    raw.send(query_message("select current_setting('work_mem'), current_setting('enable_sort')"));
    const auto answer = raw.read_until('Z');
    REQUIRE(types(answer) == "TDCZ");
    CHECK(answer[1].columns() == std::vector<std::string>{"4MB", "off"});
    CHECK(pins(proxy) == "");
  }

  TEST_CASE(
      "requirement 9: RESET, RESET ALL and DISCARD ALL go back to what the client began with, in a "
      "transaction too, and the client is told") {
    ProxyProcess proxy(one_server());
    Connection client = proxy.connect(
        "app", "app", "sslmode=disable application_name=web options='-c work_mem=11MB'");
    Connection other = proxy.connect();
    const auto heard = [&client](const std::string& value) {
      return eventually([&] {
        return !client.busy() && client.parameter("application_name") == value;
      }, 3s);
    };
    for (const std::string back : {"reset work_mem", "reset all", "set work_mem to default"}) {
      CAPTURE(back);
      CHECK(client.exec("begin").ok());
      CHECK(client.exec("set work_mem = '22MB'").ok());
      CHECK(client.exec(back).ok());
      CHECK(client.scalar("show work_mem") == "11MB");
      CHECK(client.exec("savepoint s").ok());
      CHECK(client.exec("set work_mem = '23MB'").ok());
      CHECK(client.exec("rollback to s").ok());
      CHECK(client.scalar("show work_mem") == "11MB");
      CHECK(client.exec("commit").ok());
      CHECK(other.scalar("show work_mem") == "4MB");
      CHECK(client.scalar("show work_mem") == "11MB");
    }
    CHECK(client.exec("set application_name = 'x'").ok());
    CHECK(heard("x"));
    CHECK(client.exec("discard all").ok());
    CHECK(heard("web"));
    CHECK(client.scalar("show application_name") == "web");
    CHECK(client.exec("begin").ok());
    CHECK(client.exec("set application_name = 'y'").ok());
    CHECK(client.exec("reset application_name").ok());
    CHECK(heard("web"));
    CHECK(client.exec("rollback").ok());
    CHECK(client.scalar("show application_name") == "web");
    CHECK(client.scalar("select current_setting('application_name')") == "web");

    // Sent at once: what stands behind the RESET waits until it is made good.
    RawClient raw(proxy.port());
    raw.send(startup_message({{"user", "app"}, {"database", "app"}, {"work_mem", "12MB"}}));
    raw.read_until('Z');
    raw.send(query_message("begin") + query_message("set work_mem = '1MB'") +
             query_message("reset work_mem") + query_message("show work_mem") +
             query_message("rollback"));
    std::string shown;
    for (int i = 0; i < 5; ++i)
      for (const auto& message : raw.read_until('Z'))
        if (message.type == 'D') shown += message.columns()[0];
    CHECK(shown == "12MB");
    raw.send(terminate_message());
    CHECK(pins(proxy) == "");
    CHECK(metric(proxy, "pgsluice_server_closes_total{reason=\"client_vanished\"}") == 0);
  }

  TEST_CASE("requirement 12: a pin ends when the server has proved that its reason is gone") {
    ProxyProcess proxy(one_server());
    Connection client = proxy.connect();
    Connection other = proxy.connect();
    struct Case {
      std::string pin;
      Script make;
      Script end;
    };
    const std::vector<Case> cases = {
        {"temporary_table", {"create temp table t1(a int)"}, {"drop table t1"}},
        {"temporary_table", {"create temp sequence q", "create temp view v as select 1"},
         {"drop sequence q", "drop view v"}},
        {"temporary_table", {"create function pg_temp.f() returns int language sql as 'select 1'"},
         {"drop function pg_temp.f()"}},
        {"temporary_table", {"create temp table t2(a int)"}, {"discard temp"}},
        {"temporary_table", {"begin", "create temp table t3(a int) on commit drop", "select 1"}, {"commit"}},
        {"temporary_table", {"begin", "create temp table t4(a int)"}, {"rollback"}},
        {"listen", {"listen a", "listen b"}, {"unlisten a", "unlisten b"}},
        {"listen", {"listen a", "listen b"}, {"unlisten *"}},
        {"advisory_lock", {"select pg_advisory_lock(1)", "select pg_advisory_lock(1)"},
         {"select pg_advisory_unlock(1)", "select pg_advisory_unlock(1)"}},
        {"advisory_lock", {"select pg_advisory_lock(1)", "select pg_advisory_lock_shared(2)"},
         {"select pg_advisory_unlock_all()"}},
        {"holdable_cursor", {"begin", "declare c cursor with hold for select 1", "commit"}, {"close c"}},
        {"holdable_cursor", {"begin", "declare c cursor with hold for select 1"}, {"rollback"}},
        {"sql_prepare", {"prepare p as select 1", "prepare q as select 2"}, {"deallocate p", "deallocate q"}},
        {"sql_prepare", {"prepare p as select 1"}, {"deallocate all"}},
        {"temporary_table,listen", {"listen a", "create temp table t5(a int)"},
         {"unlisten *", "drop table t5"}},
    };
    for (const bool extended : {false, true}) {
      for (const Case& one : cases) {
        const std::string text = printed(one.make) + printed(one.end);
        CAPTURE(text);
        CAPTURE(extended);
        for (const std::string& sql : one.make) CHECK(run(client, sql, extended).ok());
        CHECK(pinned(proxy, one.pin));
        for (std::size_t i = 0; i < one.end.size(); ++i) {
          CHECK(run(client, one.end[i], extended).ok());
          if (i + 1 < one.end.size()) CHECK(client.scalar("select 1") == "1");
          if (i + 1 < one.end.size()) CHECK(pins(proxy) != "");
        }
        CHECK(pinned(proxy, ""));
        CHECK(other.scalar("begin; select 1") == "1");
        CHECK(other.exec("rollback").ok());
      }
    }
    // A lock that was not had pins nobody for long.
    Connection holder = shared_cluster().connect(0);
    CHECK(holder.scalar("select pg_advisory_lock(77) is null") == "f");
    CHECK(client.scalar("select pg_try_advisory_lock(77)") == "f");
    CHECK(pinned(proxy, ""));
    CHECK(metric(proxy, "pgsluice_unpins_total{reason=\"listen\"}") == 6);
    CHECK(metric(proxy, "pgsluice_pins_total{reason=\"listen\"}") == 6);
    CHECK(metric(proxy, "pgsluice_server_closes_total{reason=\"client_vanished\"}") == 0);
  }

  TEST_CASE("requirement 12: while the server is asked, its client goes on, and loses no notification") {
    ProxyProcess proxy(one_server());
    Connection client = proxy.connect();
    CHECK(client.exec("listen news").ok());
    Connection sender = shared_cluster().connect(0);
    constexpr int kRounds = 60;
    for (int i = 0; i < kRounds; ++i) {
      // Each unlock makes pgsluice ask what is left, and the client does not wait for that.
      CHECK(sender.send("notify news, '" + std::to_string(i) + "'"));
      CHECK(client.exec("select pg_advisory_lock(9)").ok());
      CHECK(client.scalar("select pg_advisory_unlock(9)") == "t");
      CHECK(client.scalar("select " + std::to_string(i)) == std::to_string(i));
      CHECK(sender.finish().ok());
    }
    int heard = 0;
    CHECK(eventually([&] {
      PQconsumeInput(client.raw());
      while (PGnotify* one = PQnotifies(client.raw())) {
        ++heard;
        PQfreemem(one);
      }
      return heard == kRounds;
    }, 5s));
    CHECK(pins(proxy) == "listen;");
    // One that leaves at once after it has made an end of it leaves its server behind, clean.
    RawClient leaving(proxy.port());
    CHECK(client.exec("unlisten *").ok());
    REQUIRE(leaving.login());
    leaving.send(query_message("listen x"));
    leaving.read_until('Z');
    leaving.send(query_message("unlisten x"));
    leaving.read_until('Z');
    leaving.send(terminate_message());
    CHECK(client.scalar("begin; select count(*) from pg_listening_channels()") == "0");
    CHECK(client.exec("commit").ok());
    CHECK(metric(proxy, "pgsluice_server_closes_total{reason=\"client_vanished\"}") == 0);
  }

  TEST_CASE("requirement 12: pool.on_pin = refuse: 0A000 and a reason, and the statement is not run") {
    ProxyProcess proxy(one_server()
                           .set("pool", "on_pin", "\"refuse\"")
                           .set("user.other", "pool_on_pin", "\"allow\""));
    Connection client = proxy.connect();
    const std::vector<std::array<std::string, 2>> rows = {
        {"create temp table refused(a int)", "pin_temporary_table"},
        {"listen news", "pin_listen"},
        {"select pg_advisory_lock(4)", "pin_advisory_lock"},
        {"declare c cursor with hold for select 1", "pin_holdable_cursor"},
        {"prepare p as select 1", "pin_sql_prepare"},
        {"load 'auto_explain'", "pin_load"},
        {"select set_config('work_mem', '5' || 'MB', false)", "pin_computed_setting"},
        {"select setseed(0.5)", "pin_session_function"},
    };
    for (const bool extended : {false, true})
      for (const auto& [sql, reason] : rows) {
        CAPTURE(sql);
        const Result refused = run(client, sql, extended);
        CHECK(refused.code() == "0A000");
        CHECK(refused.severity() == "ERROR");
        CHECK(refused.detail() == "reason=" + reason);
        CHECK(refused.message().find("pool.on_pin") != std::string::npos);
        CHECK(client.transaction() == PQTRANS_IDLE);
        CHECK(client.scalar("select 7") == "7");
        // In a transaction it fails like any other statement.
        CHECK(client.exec("begin").ok());
        CHECK(run(client, sql, extended).detail() == "reason=" + reason);
        CHECK(client.transaction() == PQTRANS_INERROR);
        CHECK(client.exec("select 1").code() == "25P02");
        CHECK(run(client, sql, extended).code() == "25P02");
        CHECK(client.exec("rollback").tag() == "ROLLBACK");
      }
    CHECK(pins(proxy) == "");
    CHECK(shared_cluster().ask(
              0, "select count(*) from pg_locks where locktype = 'advisory' and objid = 4") == "0");
    CHECK(metric(proxy, "pgsluice_refusals_total{reason=\"pin_listen\"}") == 4);
    // In a pipeline everything up to Sync goes with it, and what follows is served.
    RawClient raw(proxy.port());
    REQUIRE(raw.login());
    const auto execute = [](std::string_view sql) {
      return parse_message("", sql) + bind_message("", "") + execute_message("");
    };
    raw.send(query_message("select 1") + execute("select 2") + execute("listen x") + sync_message() +
             execute("select 3") + sync_message());
    CHECK(types(raw.read_until('Z')) == "TDCZ");
    CHECK(types(raw.read_until('Z')) == "EZ");
    CHECK(types(raw.read_until('Z')) == "12DCZ");
    // Behind a Flush the sequence has begun: its rest is skipped on the server.
    raw.send(execute("select 4") + flush_message());
    const auto head = raw.read_until('C');
    CAPTURE(head[0].field('M'));
    CHECK(types(head) == "12DC");
    raw.send(execute("listen x") + flush_message());
    CHECK(types(raw.read_until('E')) == "E");
    raw.send(execute("select 5") + sync_message());
    CHECK(types(raw.read_until('Z')) == "Z");
    CHECK(proxy.connect("other").exec("listen news").ok());
  }

  TEST_CASE("requirement 12: functions that the operator names pin, until DISCARD ALL") {
    ProxyProcess proxy(one_server().set("routing", "pin_functions", "[\"public.lower\"]"));
    Connection client = proxy.connect();
    CHECK(who_answers(shared_cluster(), client, "select current_setting('port') from lower('X')") == "primary");
    CHECK(pins(proxy) == "session_function;");
    CHECK(who_answers(shared_cluster(), client) == "primary");  // reads follow the pin
    CHECK(client.exec("discard all").ok());
    CHECK(pins(proxy) == "");
  }

  TEST_CASE("[postgres] requirement 16: names of statements are one, whoever prepared them") {
    ProxyProcess proxy(one_server());
    const auto sql = [](RawClient& client, const std::string& text, bool extended) {
      client.send(extended ? parse_message("", text) + bind_message("", "") + execute_message("") +
                                 sync_message()
                           : query_message(text));
      std::string heard;
      for (const Message& message : client.read_until('Z')) {
        if (message.type == 'E') heard += message.field('C') + " ";
        if (message.type == 'C') heard += std::string(message.body.c_str()) + " ";
        if (message.type == 'D') heard += message.columns()[0] + " ";
      }
      return heard;
    };
    const auto prepare = [](RawClient& client, const std::string& name, const std::string& text) {
      client.send(parse_message(name, text) + sync_message());
      const auto answer = client.read_until('Z');
      return answer[0].type == 'E' ? answer[0].field('C') : types(answer);
    };
    const auto bind = [](RawClient& client, const std::string& name, const std::string& value) {
      client.send(bind_message("", name, {value}) + execute_message("") + sync_message());
      const auto answer = client.read_until('Z');
      return answer[0].type == 'E' ? answer[0].field('C') : answer[1].columns()[0];
    };
    for (const bool extended : {false, true}) {
      CAPTURE(extended);
      RawClient client(proxy.port());
      REQUIRE(client.login());
      CHECK(prepare(client, "Plan", "select $1::int * 2") == "1Z");
      CHECK(sql(client, "execute \"Plan\"(21)", extended) == "42 SELECT 1 ");
      CHECK(sql(client, "execute \"Plan\"(4)", extended) == "8 SELECT 1 ");
      CHECK(bind(client, "Plan", "5") == "10");
      CHECK(sql(client, "prepare \"Plan\" as select 1", extended) == "42P05 ");
      CHECK(sql(client, "execute plan(4)", extended) == "26000 ");
      CHECK(sql(client, "deallocate plan", extended) == "26000 ");
      CHECK(sql(client, "deallocate \"Plan\"", extended) == "DEALLOCATE ");
      CHECK(sql(client, "deallocate \"Plan\"", extended) == "26000 ");
      CHECK(bind(client, "Plan", "5") == "26000");
      CHECK(prepare(client, "Plan", "select $1::int * 3") == "1Z");
      CHECK(bind(client, "Plan", "5") == "15");
      // In a transaction, and after its failure.
      CHECK(sql(client, "begin", extended) == "BEGIN ");
      CHECK(sql(client, "execute \"Plan\"(1)", extended) == "3 SELECT 1 ");
      CHECK(sql(client, "select 1/0", extended) == "22012 ");
      CHECK(sql(client, "execute \"Plan\"(1)", extended) == "25P02 ");
      CHECK(sql(client, "rollback", extended) == "ROLLBACK ");
      // The other way round.
      CHECK(sql(client, "prepare other(int) as select $1 + 1", extended) == "PREPARE ");
      CHECK(bind(client, "other", "1") == "2");
      CHECK(prepare(client, "other", "select 1") == "42P05");
      CHECK(sql(client, "execute other(7)", extended) == "8 SELECT 1 ");
      client.send(close_message('S', "other") + sync_message());
      CHECK(types(client.read_until('Z')) == "3Z");
      CHECK(sql(client, "execute other(7)", extended) == "26000 ");
      CHECK(prepare(client, "other", "select $1::int - 1") == "1Z");
      CHECK(bind(client, "other", "1") == "0");
      CHECK(sql(client, "deallocate all", extended) == "DEALLOCATE ALL ");
      CHECK(bind(client, "other", "1") == "26000");
      CHECK(bind(client, "Plan", "1") == "26000");
    }
  }

  TEST_CASE("[postgres] requirement 16: a Flush between Bind and Execute changes nothing for EXECUTE and DEALLOCATE") {
    ProxyProcess proxy(one_server());
    RawClient client(proxy.port());
    REQUIRE(client.login());
    const auto in_two_pieces = [&client](const std::string& text) {
      client.send(parse_message("", text) + bind_message("", "") + flush_message());
      client.read_until('2');
      client.send(execute_message("") + sync_message());
      std::string heard;
      for (const Message& message : client.read_until('Z'))
        heard += message.type == 'E' ? message.field('C') : message.type == 'D' ? message.columns()[0] : "";
      return heard;
    };
    client.send(parse_message("plan", "select $1::int * 2") + sync_message());
    CHECK(types(client.read_until('Z')) == "1Z");
    CHECK(in_two_pieces("execute plan(21)") == "42");
    CHECK(in_two_pieces("execute plan(4)") == "8");
    CHECK(in_two_pieces("deallocate plan") == "");
    CHECK(in_two_pieces("execute plan(4)") == "26000");
    client.send(bind_message("", "plan", {"1"}) + execute_message("") + sync_message());
    CHECK(client.read_until('Z')[0].field('C') == "26000");
    client.send(parse_message("plan", "select 7") + sync_message());
    CHECK(types(client.read_until('Z')) == "1Z");
    CHECK(in_two_pieces("execute plan") == "7");
  }

  TEST_CASE("[postgres] requirement 11: what is bound before a Sync sets nothing before it is executed") {
    ProxyProcess proxy(one_server());
    RawClient client(proxy.port());
    REQUIRE(login_with(client, {{"application_name", "web"}}));
    const auto ask = [&client](const std::string& text) {
      client.send(query_message(text));
      std::string heard;
      for (const Message& message : client.read_until('Z')) {
        if (message.type == 'E') heard = message.field('C');
        if (message.type == 'D') heard = message.columns()[0];
      }
      return heard;
    };
    const auto bind_in_transaction = [&client](const std::string& portal, const std::string& text) {
      client.send(query_message("begin") + parse_message("", text) + bind_message(portal, "") +
                  sync_message());
      client.read_until('Z');
      CHECK(types(client.read_until('Z')) == "12Z");
    };
    const auto execute = [&client](const std::string& portal) {
      client.send(execute_message(portal) + sync_message());
      return types(client.read_until('Z'));
    };
    bind_in_transaction("p", "set application_name to 'later'");
    CHECK(ask("show application_name") == "web");
    CHECK(execute("p") == "CSZ");
    CHECK(ask("show application_name") == "later");
    ask("commit");
    CHECK(ask("show application_name") == "later");

    // A portal without a name is still there behind the Sync.
    bind_in_transaction("", "reset all");
    CHECK(execute("") == "CSZ");
    client.send(describe_message('P', "") + sync_message());
    CHECK(types(client.read_until('Z')) == "nZ");  // whatever it takes to give "web" back
    CHECK(ask("set transaction isolation level repeatable read") == "");
    CHECK(ask("show application_name") == "web");
    ask("rollback");
    CHECK(ask("show application_name") == "later");

    // Bound and never executed; bound, and bound again to something else.
    bind_in_transaction("", "set application_name to 'never'");
    client.send(parse_message("", "select 'else'") + bind_message("", "") + execute_message("") +
                sync_message());
    CHECK(types(client.read_until('Z')) == "12DCZ");
    ask("commit");
    CHECK(ask("show application_name") == "later");
  }

  TEST_CASE("[postgres] requirement 16: a Parse that failed is remembered nowhere, whatever follows it") {
    ProxyProcess proxy(one_server());
    RawClient client(proxy.port());
    REQUIRE(client.login());
    client.send(parse_message("s", "select * from no_such_table") + query_message("deallocate s") +
                sync_message());
    CHECK(client.read_until('Z')[0].field('C') == "42P01");
    client.send(bind_message("", "s") + sync_message());
    CHECK(client.read_until('Z')[0].field('C') == "26000");
  }

  TEST_CASE("[postgres] requirement 16: a failed transaction refuses every Parse, whatever servers know") {
    ProxyProcess proxy(one_server_for_all());
    RawClient client(proxy.port());
    REQUIRE(client.login());
    const auto parse = [&client](const std::string& name, const std::string& text) {
      client.send(close_message('S', name) + parse_message(name, text) + sync_message());
      const auto heard = client.read_until('Z');
      return heard[1].type == 'E' ? heard[1].field('C') : std::string(1, heard[1].type);
    };
    CHECK(parse("known", "select 1") == "1");
    CHECK(parse("other", "savepoint a") == "1");
    client.send(query_message("begin; select 1/0"));
    client.read_until('Z');
    CHECK(parse("other", "select 1") == "25P02");
    CHECK(parse("other", "select 2") == "25P02");
    CHECK(parse("other", "begin") == "25P02");
    CHECK(parse("other", "savepoint a") == "25P02");
    CHECK(parse("end", "rollback") == "1");
    client.send(bind_message("", "end") + execute_message("") + sync_message());
    CHECK(types(client.read_until('Z')) == "2CZ");
    client.send(bind_message("", "other") + sync_message());
    CHECK(client.read_until('Z')[0].field('C') == "26000");
    CHECK(parse("other", "select 1") == "1");
    client.send(bind_message("", "other") + bind_message("", "known") + sync_message());
    CHECK(types(client.read_until('Z')) == "22Z");

    // Behind what fails it, before anybody knows.
    client.send(query_message("begin") + query_message("select 1/0") + close_message('S', "other") +
                parse_message("other", "select 1") + sync_message());
    client.read_until('Z');
    client.read_until('Z');
    CHECK(types(client.read_until('Z')) == "3EZ");
  }

  TEST_CASE("[postgres] requirement 16: a Parse that is skipped takes away nothing that is there") {
    ProxyProcess proxy(one_server_for_all());
    RawClient client(proxy.port());
    REQUIRE(client.login());
    const std::string again = close_message('S', "s") + parse_message("s", "select 'skipped'");
    client.send(again + parse_message("", "rollback to nowhere") + bind_message("", "") +
                execute_message("") + again + sync_message());
    CHECK(types(client.read_until('Z')) == "3112EZ");
    // Behind a Query of the same sequence nothing can be repaired.
    client.send(describe_message('S', "s") + query_message("select 1"));
    CHECK(types(client.read_until('Z')) == "tTTDCZ");
  }

  TEST_CASE("[postgres] requirement 16: DEALLOCATE stands in one sequence behind the end of a failed transaction") {
    ProxyProcess proxy(one_server());
    RawClient client(proxy.port());
    REQUIRE(client.login());
    client.send(query_message("begin; select 1/0"));
    client.read_until('Z');
    client.send(parse_message("end", "commit") + bind_message("", "end") + execute_message("") +
                query_message("deallocate \"end\""));
    CHECK(types(client.read_until('Z')) == "12CCZ");
    client.send(bind_message("", "end") + sync_message());
    CHECK(client.read_until('Z')[0].field('C') == "26000");
  }

  TEST_CASE("[postgres] requirement 15: a text means what its client's settings make of it, whoever prepared it") {
    ProxyProcess proxy(one_server_for_all());
    std::list<RawClient> clients;  // they stay, and so does what they have prepared
    const auto read = [&](const Parameters& startup, const std::string& set, const std::string& text) {
      RawClient& client = clients.emplace_back(proxy.port());
      REQUIRE(login_with(client, startup));
      if (!set.empty()) {
        client.send(query_message(set));
        client.read_until('Z');
      }
      client.send(parse_message("s", text) + bind_message("", "s") + execute_message("") + sync_message());
      std::string heard;
      for (const Message& message : client.read_until('Z'))
        heard += message.type == 'E' ? message.field('C') : message.type == 'D' ? message.columns()[0] : "";
      return heard;
    };
    const std::string when = "select extract(epoch from '2001-01-01 00:00'::timestamptz)::int";
    CHECK(read({{"TimeZone", "UTC"}}, "", when) == "978307200");
    CHECK(read({}, "set timezone to 'Asia/Tokyo'", when) == "978274800");
    CHECK(read({{"TimeZone", "UTC"}}, "", when) == "978307200");
    const std::string accents = "select length('\xc3\xa9t\xc3\xa9')";
    CHECK(read({}, "", accents) == "3");
    CHECK(read({{"client_encoding", "LATIN1"}}, "", accents) == "5");
    CHECK(read({}, "set datestyle to 'ISO, DMY'", "select '02/01/2001'::date") == "2001-01-02");
    CHECK(read({}, "set datestyle to 'ISO, MDY'", "select '02/01/2001'::date") == "2001-02-01");
    const std::string strings = "select length('a\\\\b')";
    CHECK(read({}, "", strings) == "4");
    CHECK(read({}, "set standard_conforming_strings to off", strings) == "3");
  }

  TEST_CASE("[postgres] requirement 15: a text means on every server what it meant when it was parsed") {
    ProxyProcess proxy(one_server_for_all().set("pool", "size", "2"));
    const std::string when = "select extract(epoch from '2001-01-01 00:00'::timestamptz)::int";
    struct Case {
      const char* what;
      std::string text;
      std::vector<std::string> then;     // what is set behind its Parse
      std::vector<std::string> parameters;
      std::string heard, timezone;       // of its execution; and behind that
    };
    const Case cases[] = {
        {"SET", when, {"set timezone to 'Asia/Tokyo'"}, {}, "978307200", "Asia/Tokyo"},
        {"SET in a transaction", when, {"begin", "set timezone to -3"}, {}, "978307200", "<-03>+03"},
        {"SET LOCAL", when, {"set timezone to -7", "begin", "set local timezone to -8"}, {}, "978307200", "<-08>+08"},
        {"characters", "select length('\xc3\xa9t\xc3\xa9')", {"set client_encoding to 'LATIN1'"}, {}, "3", "UTC"},
        {"strings", "select length('a\\b')", {"set standard_conforming_strings to off"}, {}, "3", "UTC"},
        {"parameters", "select * from people", {"set search_path to nowhere"}, {"x"}, "08P01", "UTC"},
        {"alone in its sequence", "vacuum people", {"set timezone to -3"}, {}, "VACUUM", "<-03>+03"},
        {"of the transaction", "begin", {"set timezone to -3"}, {}, "BEGIN", "<-03>+03"},
    };
    REQUIRE(proxy.connect().exec("drop table if exists people; create table people(name text)").ok());
    for (const auto& [name, behind_another] :
         {std::pair<std::string, bool>{"", false}, {"", true}, {"s", false}, {"s", true}}) {
      for (const Case& one : cases) {
        CAPTURE(one.what);
        CAPTURE(name);
        CAPTURE(behind_another);
        RawClient client(proxy.port());
        REQUIRE(login_with(client, {{"TimeZone", "UTC"}}));
        const auto ask = [&client](const std::string& messages, const std::string& ahead = "") {
          client.send(ahead + messages + sync_message());
          if (!ahead.empty()) client.read_until('Z');
          std::string heard;
          for (const Message& message : client.read_until('Z')) {
            if (message.type == 'E') heard = message.field('C');
            if (message.type == 'D') heard = message.columns()[0];
            if (message.type == 'C' && heard.empty()) heard = message.body.c_str();
          }
          return heard;
        };
        ask(parse_message(name, one.text));
        Connection other = proxy.connect();  // takes the server that knows it
        REQUIRE(other.exec("begin; select 1").ok());
        // Not by a Query, which would forget a statement without a name.
        for (const std::string& sql : one.then)
          ask(close_message('S', "t") + parse_message("t", sql) + bind_message("", "t") + execute_message(""));
        CHECK(ask(bind_message("", name, one.parameters) + execute_message(""),
                  behind_another ? sync_message() : "") == one.heard);
        CHECK(ask(parse_message("", "show timezone") + bind_message("", "") + execute_message("")) == one.timezone);
      }
    }
    CHECK(proxy.connect().exec("drop table people").ok());
  }

  TEST_CASE("requirement 15: tenants whose tables differ can prepare one text on one server") {
    ProxyProcess proxy(one_server_for_all());
    Connection admin = proxy.connect();
    REQUIRE(admin.exec("drop schema if exists read_a, read_b cascade; "
                       "create schema read_a; create schema read_b; "
                       "create table read_a.things as select 1 as number; "
                       "create table read_b.things as select 'two'::text as name, 2 as number")
                .ok());
    std::list<RawClient> clients;
    const auto columns = [&](const std::string& schema) {
      RawClient& client = clients.emplace_back(proxy.port());
      REQUIRE(login_with(client, {{"search_path", schema}}));
      client.send(parse_message("s", "select * from things") + describe_message('S', "s") +
                  bind_message("", "s") + execute_message("") + sync_message());
      std::string heard;
      for (const Message& message : client.read_until('Z')) {
        if (message.type == 'E') heard += message.field('C');
        if (message.type == 'D') heard += message.columns().back();
      }
      return heard;
    };
    for (int i = 0; i < 2; ++i) {
      CHECK(columns("read_a") == "1");
      CHECK(columns("read_b") == "2");
    }
    CHECK(admin.exec("drop schema read_a, read_b cascade").ok());
  }

  TEST_CASE("requirement 11: what SET says a part of goes by the session's own rest") {
    ProxyProcess proxy(one_server_for_all());
    Connection one = proxy.connect();
    Connection other = proxy.connect();
    REQUIRE(one.exec("set datestyle to 'ISO, DMY'").ok());
    REQUIRE(other.exec("set datestyle to 'SQL'").ok());
    REQUIRE(one.exec("set datestyle to 'SQL'").ok());
    CHECK(other.exec("show datestyle").scalar() == "SQL, MDY");
    CHECK(one.exec("show datestyle").scalar() == "SQL, DMY");
    CHECK(other.exec("show datestyle").scalar() == "SQL, MDY");
    REQUIRE(one.exec("select set_config('search_path', '3', false)").ok());
    REQUIRE(other.exec("select 1").ok());
    CHECK(one.exec("show search_path").scalar() == "3");
  }

  TEST_CASE("promise 4: SQL reaches no statement that somebody else has prepared over the protocol") {
    ProxyProcess proxy(one_server().set("pool", "size", "1"));
    Connection owner = proxy.connect();
    Connection other = proxy.connect();
    for (const char* name : {"a", "b"})
      REQUIRE(owner.prepare(name, std::string("select 'hidden ") + name + "' from (select 1) x for update").ok());
    REQUIRE(owner.prepare("a", "select 1").code() == "42P05");  // makes a statement on the server too
    const auto look = [&other](const std::string& text, bool extended) {
      return extended ? other.exec(text, {}) : other.exec(text);
    };
    for (const bool extended : {false, true}) {
      for (const std::string name : {"pgsluice_1", "pgsluice_2", "PGSLUICE_3", "pgsluice_taken", "\"pgsluice_1\""}) {
        CAPTURE(name);
        REQUIRE(owner.exec_prepared("a").scalar() == "hidden a");  // it is on the server now
        REQUIRE(owner.exec_prepared("b").scalar() == "hidden b");
        CHECK(look("execute " + name, extended).code() == "26000");
        CHECK(look("explain execute " + name, extended).code() == "26000");
        REQUIRE(owner.exec_prepared("a").scalar() == "hidden a");
        CHECK(look("deallocate " + name, extended).code() == "26000");
        CHECK(other.exec("select 1; deallocate none; deallocate " + name).code() == "26000");
      }
      REQUIRE(owner.exec_prepared("b").scalar() == "hidden b");
      CHECK(look("select count(*) from pg_prepared_statements", extended).scalar() == "0");
      REQUIRE(owner.exec_prepared("b").scalar() == "hidden b");
      REQUIRE(other.exec("begin").ok());
      CHECK(look("select count(*) from pg_catalog.pg_prepared_statement()", extended).scalar() == "0");
      CHECK(look("execute pgsluice_2", extended).code() == "26000");
      REQUIRE(other.exec("rollback").ok());
    }
    // Neither does what one makes under such a name stand in the way of others.
    REQUIRE(owner.exec_prepared("b").scalar() == "hidden b");
    CHECK(other.exec("prepare pgsluice_2 as select 5").ok());
    CHECK(other.exec("execute pgsluice_2").scalar() == "5");
    CHECK(other.exec("deallocate pgsluice_2").ok());
    REQUIRE(owner.exec_prepared("a").scalar() == "hidden a");
    REQUIRE(owner.exec_prepared("b").scalar() == "hidden b");
  }

  TEST_CASE("promise 4: what a string leaves behind the end of a failed transaction is nobody else's, though it fails") {
    ProxyProcess proxy(one_server());
    {
      Connection one = proxy.connect();
      CHECK(one.exec("begin; select 1/0").code() == "22012");
      CHECK(one.exec("commit; prepare left_behind as select 1; select 1/0").code() == "22012");
      CHECK(pinned(proxy, "sql_prepare"));
    }
    CHECK(proxy.connect().exec("execute left_behind").code() == "26000");
  }

  TEST_CASE("[postgres] promise 5: a client sees what it has prepared itself, under its own names") {
    ProxyProcess proxy(one_server());
    Connection client = proxy.connect();
    REQUIRE(client.prepare("b", "select 2").ok());
    REQUIRE(client.prepare("a", "select $1::int").ok());
    REQUIRE(client.prepare("pgsluice_3", "select 3").ok());
    REQUIRE(client.exec("create table pg_temp.gone(x int)").ok());
    REQUIRE(client.prepare("stale", "select * from pg_temp.gone").ok());
    REQUIRE(client.exec("drop table pg_temp.gone").ok());
    REQUIRE(client.exec("deallocate stale").ok());
    const std::string names =
        "select string_agg(name || ':' || statement, ',' order by name) from pg_prepared_statements "
        "where statement !~ 'pg_prepared'";
    const std::string all = "a:select $1::int,b:select 2,pgsluice_3:select 3";
    CHECK(client.scalar(names) == all);
    CHECK(client.exec(names, {}).scalar() == all);
    CHECK(client.exec_prepared("a", {"4"}).scalar() == "4");
    CHECK(client.exec("execute pgsluice_3").scalar() == "3");
    CHECK(client.exec_prepared("pgsluice_3").scalar() == "3");
    CHECK(client.exec("deallocate b").ok());
    CHECK(client.scalar(names) == "a:select $1::int,pgsluice_3:select 3");

    // By a statement with a name, which sees itself.
    RawClient raw(proxy.port());
    REQUIRE(raw.login());
    const auto row = [&raw] {
      for (const Message& message : raw.read_until('Z'))
        if (message.type == 'D' || message.type == 'E')
          return message.type == 'D' ? message.columns()[0] : message.field('C');
      return std::string("none");
    };
    const std::string view = "select string_agg(name, ',' order by name) from pg_prepared_statements";
    raw.send(parse_message("look", view) + bind_message("", "look") + execute_message("") + sync_message());
    CHECK(row() == "look");
    raw.send(parse_message("more", "select 1") + sync_message());
    raw.read_until('Z');
    raw.send(bind_message("", "look") + execute_message("") + sync_message());
    CHECK(row() == "look,more");
    raw.send(close_message('S', "more") + bind_message("", "look") + execute_message("") + sync_message());
    CHECK(row() == "look");
    raw.send(bind_message("", "look") + execute_message("") + sync_message());
    CHECK(row() == "look");
  }

  TEST_CASE("requirement 12: what SQL prepared and the protocol closed ends the pin") {
    ProxyProcess proxy(one_server());
    RawClient client(proxy.port());
    REQUIRE(client.login());
    client.send(query_message("prepare p as select 1"));
    client.read_until('Z');
    CHECK(pinned(proxy, "sql_prepare"));
    client.send(close_message('S', "p") + sync_message());
    CHECK(types(client.read_until('Z')) == "3Z");
    CHECK(pinned(proxy, ""));
  }

  TEST_CASE("promise 8: a client may prepare so much and no more: 54000, on a connection that stays") {
    ProxyProcess proxy(one_server().set("limits", "prepared", "\"16KiB\""));
    Connection client = proxy.connect();
    const std::string text = "select 1 /* " + std::string(1000, 'x') + " */";
    int made = 0;
    Result last;
    for (; made < 100; ++made) {
      last = client.prepare("s" + std::to_string(made), text + " + " + std::to_string(made));
      if (!last.ok()) break;
    }
    CHECK(made > 8);
    CHECK(made < 16);
    CHECK(last.code() == "54000");
    CHECK(last.detail() == "reason=too_many_statements");
    CHECK(client.exec_prepared("s0").ok());
    CHECK(client.exec("deallocate s0").ok());
    CHECK(client.prepare("again", text).ok());
    CHECK(client.exec("begin").ok());
    CHECK(client.prepare("more", text + text).code() == "54000");
    CHECK(client.transaction() == PQTRANS_INERROR);
    CHECK(client.exec("rollback").ok());
    CHECK(client.exec("discard all").ok());
    CHECK(client.prepare("s1", text).ok());
    CHECK(metric(proxy, "pgsluice_refusals_total{reason=\"too_many_statements\"}") == 2);
  }
}
