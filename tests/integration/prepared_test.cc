#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// Named prepared statements while servers change under them.
using namespace integration;

namespace {

ProxyConfig small_pool() { return config_for(shared_cluster()).set("pool", "size", "2"); }

}  // namespace

TEST_SUITE("integration/prepared") {
  TEST_CASE(
      "promise 5: requirement 15: named statements work across servers, and two clients may use one "
      "name for different text") {
    ProxyProcess proxy(small_pool());
    const auto problems = at_once(12, [&proxy](std::size_t i) -> std::string {
      Connection client = proxy.connect();
      if (!client.ok()) return client.error();
      const std::string own = std::to_string(i);
      // "read" goes to the replicas, "any" to the primary: FOR UPDATE locks.
      Result result = client.prepare("read", "select $1::int + " + own);
      if (!result.ok()) return result.scalar();
      result =
          client.prepare("any", "select $1::text || '/" + own + "' from (select 1) x for update");
      if (!result.ok()) return result.scalar();
      for (int round = 0; round < 50; ++round) {
        const std::string sum = client.exec_prepared("read", {std::to_string(round)}).scalar();
        if (sum != std::to_string(round + static_cast<int>(i))) return "read: " + sum;
        const std::string text =
            client.exec_prepared("any", {"r" + std::to_string(round)}).scalar();
        if (text != "r" + std::to_string(round) + "/" + own) return "any: " + text;
      }
      return "";
    });
    CHECK_MESSAGE(problems.empty(), joined(problems));
  }

  TEST_CASE("requirement 15: more statements than a server keeps are prepared again, unnoticed") {
    ProxyProcess proxy(small_pool().set("pool", "max_prepared_statements", "5"));
    const auto problems = at_once(4, [&proxy](std::size_t i) -> std::string {
      Connection client = proxy.connect();
      for (int n = 0; n < 20; ++n) {
        const Result made = client.prepare(
            "s" + std::to_string(n), "select " + std::to_string(n * 100 + static_cast<int>(i)));
        if (!made.ok()) return made.scalar();
      }
      for (int round = 0; round < 5; ++round) {
        for (int n = 0; n < 20; ++n) {
          const std::string value = client.exec_prepared("s" + std::to_string(n)).scalar();
          if (value != std::to_string(n * 100 + static_cast<int>(i))) return value;
        }
      }
      return "";
    });
    CHECK_MESSAGE(problems.empty(), joined(problems));
    for (std::size_t node = 0; node < shared_cluster().size(); ++node)
      CHECK(backends(shared_cluster(), node) <= 2);
  }

  TEST_CASE(
      "[postgres] requirement 16: Parse of a name in use is 42P05, an unknown name 26000; the "
      "connection stays") {
    ProxyProcess proxy(small_pool());
    Connection client = proxy.connect();
    CHECK(client.prepare("s", "select 1").ok());
    CHECK(client.prepare("s", "select 2").code() == "42P05");
    CHECK(client.exec_prepared("s").scalar() == "1");
    CHECK(client.exec_prepared("unknown").code() == "26000");
    CHECK(client.exec("deallocate s").ok());
    CHECK(client.exec_prepared("s").code() == "26000");
    CHECK(client.prepare("s", "select 3").ok());
    CHECK(client.exec_prepared("s").scalar() == "3");
    CHECK(client.exec("deallocate all").ok());
    CHECK(client.exec_prepared("s").code() == "26000");
    CHECK(client.prepare("s", "select 4").ok());
    CHECK(client.exec("discard all").ok());
    CHECK(client.exec_prepared("s").code() == "26000");
  }

  TEST_CASE("[postgres] requirement 16: an error calls a statement by the client's name for it") {
    ProxyProcess proxy(small_pool());
    RawClient client(proxy.port());
    REQUIRE(client.login());
    client.send(parse_message("mine", "select $1::int") + sync_message());
    CHECK(types(client.read_until('Z')) == "1Z");
    client.send(bind_message("", "mine", {"1", "2"}) + sync_message() + close_message('S', "mine") +
                sync_message());
    const auto wrong = client.read_until('Z');
    REQUIRE(types(wrong) == "EZ");
    CHECK(wrong[0].field('M').find("prepared statement \"mine\" requires 1") != std::string::npos);
    CHECK(types(client.read_until('Z')) == "3Z");
  }

  TEST_CASE("[postgres] requirement 16: a second Parse of a name fails as Postgres finds fit") {
    ProxyProcess proxy(small_pool());
    RawClient client(proxy.port());
    REQUIRE(client.login());
    client.send(parse_message("mine", "select 1") + sync_message());
    CHECK(types(client.read_until('Z')) == "1Z");
    // Not because of the name, if there is something else; and with all that Postgres says about it.
    for (const auto& [sql, sqlstate, routine] :
         {std::tuple("select 2", "42P05", "StorePreparedStatement"),
          std::tuple("selekt 2", "42601", "scanner_yyerror"),
          std::tuple("select nonsense", "42703", "errorMissingColumn"),
          std::tuple("", "42P05", "StorePreparedStatement")}) {
      client.send(parse_message("mine", sql) + sync_message());
      const auto refused = client.read_until('Z');
      REQUIRE(types(refused) == "EZ");
      CHECK(refused[0].field('C') == sqlstate);
      CHECK(refused[0].field('R') == routine);
      if (refused[0].field('C') == "42P05")
        CHECK(refused[0].field('M') == "prepared statement \"mine\" already exists");
    }
    client.send(bind_message("", "mine") + execute_message("") + sync_message());
    CHECK(types(client.read_until('Z')) == "2DCZ");
  }

  TEST_CASE("[postgres] requirement 16: what a pipeline names after its Parse was skipped is unknown") {
    ProxyProcess proxy(small_pool());
    RawClient client(proxy.port());
    REQUIRE(client.login());
    const std::string run = bind_message("", "mine") + execute_message("") + sync_message();
    // A text that the server has, and one that it has not.
    for (const std::string sql : {"select 1", "select 'only once'"}) {
      client.send(parse_message("other", "select 1") + close_message('S', "other") + sync_message());
      client.read_until('Z');
      client.send(describe_message('S', "unknown") + parse_message("mine", sql) + sync_message() + run);
      CHECK(types(client.read_until('Z')) == "EZ");
      const auto unknown = client.read_until('Z');
      REQUIRE(types(unknown) == "EZ");
      CHECK(unknown[0].field('M') == "prepared statement \"mine\" does not exist");
    }
    // Of a text that is on its way to the server, under another name.
    client.send(describe_message('S', "unknown") + parse_message("first", "select 'skipped'") + sync_message() +
                parse_message("mine", "select 'skipped'") + run);
    CHECK(types(client.read_until('Z')) == "EZ");
    CHECK(types(client.read_until('Z')) == "12DCZ");
    client.send(close_message('S', "mine") + sync_message());
    client.read_until('Z');
    // And a Close that was skipped has closed nothing.
    client.send(parse_message("mine", "select 1") + sync_message());
    client.read_until('Z');
    client.send(describe_message('S', "unknown") + close_message('S', "mine") + sync_message() + run);
    CHECK(types(client.read_until('Z')) == "EZ");
    CHECK(types(client.read_until('Z')) == "2DCZ");
  }

  TEST_CASE("[postgres] requirement 16: DEALLOCATE over the extended protocol, and what a failed one leaves") {
    ProxyProcess proxy(small_pool());
    RawClient client(proxy.port());
    REQUIRE(client.login());
    const std::string make = parse_message("mine", "select 1") + sync_message();
    const std::string run = bind_message("", "mine") + execute_message("") + sync_message();
    const std::string drop = parse_message("", "deallocate mine") + bind_message("", "") +
                             execute_message("");
    const auto say = [&client](const std::string& bytes) {
      client.send(bytes);
      return types(client.read_until('Z'));
    };
    for (int i = 0; i < 3; ++i) {
      CHECK(say(make) == "1Z");
      CHECK(say(run) == "2DCZ");
      CHECK(say(drop + sync_message()) == "12CZ");
      CHECK(say(run) == "EZ");
    }
    // In one sequence with what takes the name again.
    CHECK(say(make) == "1Z");
    CHECK(say(drop + parse_message("mine", "select 2") + sync_message()) == "12C1Z");
    CHECK(say(run) == "2DCZ");
    // As a Query behind messages without a Sync, which an error before it skips.
    CHECK(say(parse_message("short", "select 3") + query_message("deallocate short")) == "1CZ");
    CHECK(say(describe_message('S', "short") + sync_message()) == "EZ");
    CHECK(say(describe_message('S', "unknown") + query_message("deallocate mine") + sync_message()) == "EZ");
    CHECK(say(run) == "2DCZ");
    // Skipped, and refused in a failed transaction, over both protocols.
    CHECK(say(describe_message('S', "unknown") + drop + sync_message()) == "EZ");
    CHECK(say(run) == "2DCZ");
    CHECK(say(query_message("begin; select 1/0")) == "CEZ");
    CHECK(say(drop + sync_message()) == "EZ");
    CHECK(say(query_message("deallocate mine")) == "EZ");
    CHECK(say(parse_message("other", "") + close_message('S', "mine") + describe_message('S', "mine") +
              sync_message()) == "13EZ");
    CHECK(say(query_message("rollback")) == "CZ");
    CHECK(say(make) == "1Z");
    CHECK(say(run) == "2DCZ");
    CHECK(say(query_message("deallocate mine")) == "CZ");
    CHECK(say(run) == "EZ");
  }

  TEST_CASE("[postgres] requirement 16: DEALLOCATE ALL acts at its place in a pipeline") {
    ProxyProcess proxy(small_pool());
    RawClient client(proxy.port());
    REQUIRE(client.login());
    const std::string run = bind_message("", "mine") + execute_message("") + sync_message();
    client.send(parse_message("mine", "select 1") + sync_message() + query_message("deallocate all") + run +
                parse_message("mine", "select 2") + sync_message() + run);
    for (const char* answer : {"1Z", "CZ", "EZ", "1Z", "2DCZ"})
      CHECK(types(client.read_until('Z')) == answer);
    // The unnamed statement is not among them.
    client.send(parse_message("", "deallocate all") + bind_message("", "") + execute_message("") +
                sync_message() + describe_message('S', "") + sync_message());
    CHECK(types(client.read_until('Z')) == "12CZ");
    CHECK(types(client.read_until('Z')) == "tnZ");
  }

  TEST_CASE("[postgres] requirement 15: a Parse that failed is remembered nowhere") {
    ProxyProcess proxy(small_pool());
    Connection client = proxy.connect();
    CHECK(client.prepare("s", "select nonsense from nowhere").code() == "42P01");
    CHECK(client.exec_prepared("s").code() == "26000");
    CHECK(client.prepare("s", "select 1").ok());
    CHECK(client.exec_prepared("s").scalar() == "1");
  }

  TEST_CASE("[postgres] Describe and Close of statements") {
    ProxyProcess proxy(small_pool());
    RawClient client(proxy.port());
    REQUIRE(client.login());
    client.send(parse_message("s", "select $1::int as a, 'x'::text as b") + sync_message());
    CHECK(types(client.read_until('Z')) == "1Z");
    client.send(describe_message('S', "s") + sync_message());
    CHECK(types(client.read_until('Z')) == "tTZ");
    client.send(close_message('S', "never there") + close_message('S', "s") + sync_message());
    CHECK(types(client.read_until('Z')) == "33Z");
    client.send(bind_message("", "s", {"1"}) + execute_message("") + sync_message());
    CHECK(types(client.read_until('Z')) == "EZ");
    client.send(parse_message("s", "select 2") + bind_message("", "s") + execute_message("") +
                sync_message());
    CHECK(types(client.read_until('Z')) == "12DCZ");
  }

  TEST_CASE(
      "[postgres] requirement 16: the unnamed statement lives from Sync to Sync and dies with a simple "
      "Query") {
    ProxyProcess proxy(small_pool());
    RawClient client(proxy.port());
    REQUIRE(client.login());
    client.send(parse_message("", "select 11") + sync_message());
    CHECK(types(client.read_until('Z')) == "1Z");
    client.send(bind_message("", "") + execute_message("") + sync_message());
    CHECK(types(client.read_until('Z')) == "2DCZ");
    client.send(query_message("select 1"));
    client.read_until('Z');
    client.send(bind_message("", "") + execute_message("") + sync_message());
    const auto answer = client.read_until('Z');
    CHECK(types(answer) == "EZ");
    CHECK(answer[0].field('C') == "26000");
  }

  TEST_CASE("the unnamed statement follows its client to another server") {
    ProxyProcess proxy(small_pool().set("pool", "size", "1"));
    RawClient one(proxy.port());
    RawClient two(proxy.port());
    REQUIRE(one.login());
    REQUIRE(two.login());
    one.send(parse_message("", "select 'one'") + sync_message());
    CHECK(types(one.read_until('Z')) == "1Z");
    two.send(parse_message("", "select 'two'") + sync_message());
    CHECK(types(two.read_until('Z')) == "1Z");
    one.send(bind_message("", "") + execute_message("") + sync_message());
    const auto answer = one.read_until('Z');
    REQUIRE(types(answer) == "2DCZ");
    CHECK(answer[1].columns()[0] == "one");
  }

  TEST_CASE("[postgres] SQL's PREPARE, EXECUTE and DEALLOCATE work") {
    ProxyProcess proxy(small_pool());
    const auto problems = at_once(2, [&proxy](std::size_t i) -> std::string {
      Connection client = proxy.connect();
      Result made = client.exec("prepare plan(int) as select $1 * " + std::to_string(i + 2));
      if (!made.ok()) return made.scalar();
      for (int n = 0; n < 10; ++n) {
        const std::string value = client.scalar("execute plan(" + std::to_string(n) + ")");
        if (value != std::to_string(n * static_cast<int>(i + 2))) return value;
      }
      return client.exec("deallocate plan").ok() ? "" : "deallocate";
    });
    CHECK_MESSAGE(problems.empty(), joined(problems));
  }

  TEST_CASE("[postgres] libpq's pipeline mode: many statements, errors in the middle") {
    ProxyProcess proxy(small_pool());
    const auto problems = at_once(6, [&proxy](std::size_t i) -> std::string {
      Connection client = proxy.connect();
      PGconn* pg = client.raw();
      if (client.prepare("add", "select $1::int + $2::int").code() != "") return "prepare";
      if (PQenterPipelineMode(pg) != 1) return "no pipeline mode";
      for (int n = 0; n < 100; ++n) {
        const std::string a = std::to_string(n);
        const std::string b = std::to_string(i);
        const char* values[] = {a.c_str(), b.c_str()};
        const bool bad = n % 10 == 9;
        const int sent =
            bad ? PQsendQueryParams(pg, "select 1/0", 0, nullptr, nullptr, nullptr, nullptr, 0)
                : PQsendQueryPrepared(pg, "add", 2, values, nullptr, nullptr, 0);
        if (sent != 1 || PQpipelineSync(pg) != 1) return "cannot send";
      }
      for (int n = 0; n < 100; ++n) {
        const Result answer = client.next();
        if (n % 10 == 9) {
          if (answer.code() != "22012") return "expected an error, got " + answer.scalar();
        } else if (answer.scalar() != std::to_string(n + static_cast<int>(i))) {
          return std::to_string(n) + " got " + answer.scalar();
        }
        if (client.next().raw() != nullptr) return "more results than one";
        if (client.next().status() != PGRES_PIPELINE_SYNC) return "no sync";
      }
      return PQexitPipelineMode(pg) == 1 ? "" : "cannot leave pipeline mode";
    });
    CHECK_MESSAGE(problems.empty(), joined(problems));
  }

  TEST_CASE("requirement 22: prepared reads go to replicas and prepared writes to the primary") {
    PgCluster& cluster = shared_cluster();
    Table table(cluster, "prepared_rows", "a int");
    ProxyProcess proxy(small_pool());
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    Connection writer = proxy.connect();
    CHECK(client.prepare("r", "select current_setting('port')").ok());
    CHECK(
        writer
            .prepare("w", "insert into prepared_rows values ($1) returning current_setting('port')")
            .ok());
    std::set<std::string> readers;
    for (int i = 0; i < 40; ++i)
      readers.insert(node_name(cluster, client.exec_prepared("r").scalar()));
    CHECK(readers.count("primary") == 0);
    for (const std::string& reader : readers) CHECK(reader.rfind("replica", 0) == 0);
    CHECK(node_name(cluster, writer.exec_prepared("w", {"1"}).scalar()) == "primary");
  }

  TEST_CASE(
      "requirement 16: a plan that ALTER TABLE has spoilt is made anew, unnoticed by who asks for the "
      "columns") {
    PgCluster& cluster = shared_cluster();
    Table table(cluster, "prepared_altered", "a int", "values (1)");
    ProxyProcess proxy(small_pool());
    Connection one = proxy.connect();
    Connection two = proxy.connect();
    for (Connection* client : {&one, &two}) {
      CHECK(client->prepare("w", "update prepared_altered set a = a returning *").ok());
      CHECK(client->exec("begin").ok());  // so that both servers have it
      CHECK(client->exec_prepared("w").columns() == 1);
      if (client == &one) CHECK(client->exec("commit").ok());
    }
    CHECK(two.exec("commit").ok());
    CHECK(cluster.connect(0).exec("alter table prepared_altered add b int default 2").ok());
    for (int round = 0; round < 4; ++round)
      for (Connection* client : {&one, &two}) {
        const Result result = client->exec_prepared("w");
        CHECK_MESSAGE(result.ok(), result.message());
        CHECK(result.columns() == 2);
      }
    // In a transaction it is an error, as from Postgres; afterwards it is cured.
    CHECK(one.exec("begin").ok());
    CHECK(one.exec_prepared("w").ok());
    CHECK(one.exec("rollback").ok());
    CHECK(cluster.connect(0).exec("alter table prepared_altered drop b").ok());
    CHECK(one.exec("begin").ok());
    CHECK(one.exec_prepared("w").code() == "0A000");
    CHECK(one.exec("rollback").ok());
    CHECK(one.exec("begin").ok());
    CHECK(one.exec_prepared("w").columns() == 1);
    CHECK(one.exec("commit").ok());
  }

  TEST_CASE(
      "requirement 16: who does not ask for the columns gets Postgres's error, and Close and a new Parse "
      "cure it on every server") {
    PgCluster& cluster = shared_cluster();
    Table table(cluster, "prepared_cured", "a int", "values (1)");
    ProxyProcess proxy(small_pool());
    std::vector<RawClient> clients;
    for (int i = 0; i < 2; ++i) {
      clients.emplace_back(proxy.port());
      REQUIRE(clients[i].login());
      clients[i].send(query_message("begin"));
      clients[i].read_until('Z');
      clients[i].send(parse_message("s", "update prepared_cured set a = a returning *") + sync_message());
      CHECK(types(clients[i].read_until('Z')) == "1Z");
    }
    const std::string execute = bind_message("", "s") + execute_message("") + sync_message();
    for (RawClient& client : clients) {  // both servers have a plan
      client.send(execute + query_message("commit"));
      CHECK(types(client.read_until('Z')) == "2DCZ");
      CHECK(types(client.read_until('Z')) == "CZ");
    }
    CHECK(cluster.connect(0).exec("alter table prepared_cured add b int").ok());
    clients[0].send(execute);
    const auto failed = clients[0].read_until('Z');
    CHECK(types(failed) == "EZ");
    CHECK(failed[0].field('C') == "0A000");
    for (RawClient& client : clients) {
      client.send(close_message('S', "s") + parse_message("s", "update prepared_cured set a = a returning *") +
                  execute);
      const auto answer = client.read_until('Z');
      CHECK(types(answer) == "312DCZ");
      CHECK(answer[3].columns().size() == 2);
    }
  }

  TEST_CASE("requirement 16: 26000 and 42P05 that are none of the client's doing are repaired") {
    ProxyProcess proxy(small_pool().set("pool", "size", "1"));
    Connection client = proxy.connect();
    Connection other = proxy.connect();
    CHECK(client.prepare("s", "select $1::int + 1 from (select 1) x for update").ok());
    CHECK(client.exec_prepared("s", {"1"}).scalar() == "2");
    // Out of sight of everybody the server forgets it.
    CHECK(other.exec("do $$ begin execute 'deallocate all'; end $$").ok());
    CHECK(client.exec_prepared("s", {"2"}).scalar() == "3");
    // The same behind settings that the server is given ahead of the batch.
    CHECK(client.exec("set work_mem = '7MB'").ok());
    CHECK(other.exec("do $$ begin execute 'deallocate all'; end $$").ok());
    CHECK(client.exec_prepared("s", {"2"}).scalar() == "3");
    CHECK(client.scalar("show work_mem") == "7MB");
    CHECK(client.exec("begin").ok());
    const std::string name = client.scalar("select max(name) from pg_prepared_statements");
    CHECK(client.exec("commit").ok());
    REQUIRE(name.rfind("pgsluice_", 0) == 0);
    // And here it knows the names that come next.
    const int number = std::atoi(name.c_str() + 9);
    for (int next = number + 1; next < number + 5; ++next)
      CHECK(other.exec("do $$ begin execute 'prepare pgsluice_" + std::to_string(next) +
                       " as select 99'; end $$").ok());
    CHECK(client.prepare("t", "select $1::int * 10 from (select 1) x for update").ok());
    CHECK(client.exec_prepared("t", {"4"}).scalar() == "40");
    CHECK(client.exec_prepared("s", {"5"}).scalar() == "6");
    CHECK(other.prepare("u", "select $1::int * 11 from (select 1) x for update").ok());
    CHECK(other.exec_prepared("u", {"4"}).scalar() == "44");
    // A name that the client itself does not know stays its own error.
    CHECK(client.exec_prepared("nosuch").code() == "26000");
    CHECK(client.prepare("s", "select 1").code() == "42P05");
  }
}
