#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// Transactions whose BEGIN is held back, and those that begin on replicas (routing.transactions).
using namespace integration;

namespace {

struct Held {
  Table table{shared_cluster(), "held_rows", "id int primary key, n int", "values (1, 0), (2, 0)"};
  ProxyProcess proxy;

  explicit Held(const std::string& mode)
      : proxy(config_for(shared_cluster()).set("routing", "transactions", quoted(mode))) {
    REQUIRE(proxy.ready(2));
  }
};

bool on_replica(const std::string& node) { return node.starts_with("replica"); }

// Runs `sql` by simple Query or, with `extended`, by Parse, Bind and Execute.
Result run(Connection& client, const std::string& sql, bool extended) {
  return extended ? client.exec(sql, std::vector<std::optional<std::string>>{}) : client.exec(sql);
}
std::string who(Connection& client, bool extended) {
  return node_name(shared_cluster(), run(client, "select current_setting('port')", extended).scalar());
}

std::string extended(const std::string& name, const std::string& sql) {
  return parse_message(name, sql) + bind_message("", name) + execute_message("");
}

}  // namespace

TEST_SUITE("integration/held_transaction") {
  TEST_CASE("requirement 25: a BEGIN that is held back lets SET TRANSACTION READ ONLY choose a replica") {
    Held held("hold");
    for (const bool extended : {false, true}) {
      CAPTURE(extended);
      Connection client = held.proxy.connect();  // without writes of its own to wait for
      CHECK(run(client, "begin", extended).tag() == "BEGIN");
      CHECK(client.transaction() == PQTRANS_INTRANS);
      CHECK(run(client, "set transaction read only", extended).tag() == "SET");
      const std::string first = who(client, extended);
      CHECK(on_replica(first));
      CHECK(who(client, extended) == first);
      CHECK(run(client, "update held_rows set n = 1", extended).code() == "25006");
      CHECK(client.transaction() == PQTRANS_INERROR);
      CHECK(run(client, "rollback", extended).tag() == "ROLLBACK");

      CHECK(run(client, "begin", extended).ok());
      CHECK(who(client, extended) == "primary");
      CHECK(run(client, "update held_rows set n = n + 1 where id = 1", extended).tag() == "UPDATE 1");
      CHECK(client.transaction() == PQTRANS_INTRANS);
      CHECK(run(client, "commit", extended).tag() == "COMMIT");
      CHECK(client.transaction() == PQTRANS_IDLE);

      // No standby takes this one.
      CHECK(run(client, "begin isolation level serializable", extended).ok());
      CHECK(run(client, "set transaction read only", extended).ok());
      CHECK(who(client, extended) == "primary");
      CHECK(client.scalar("show transaction_isolation") == "serializable");
      CHECK(run(client, "commit", extended).ok());
    }
    CHECK(shared_cluster().ask(0, "select n from held_rows where id = 1") == "2");
  }

  TEST_CASE("a transaction that ends before its first statement needs no server") {
    Held held("hold");
    Connection client = held.proxy.connect();
    CHECK(client.exec("begin").ok());
    CHECK(client.exec("rollback").tag() == "ROLLBACK");
    CHECK(client.exec("begin").ok());
    CHECK(client.exec("commit").tag() == "COMMIT");
    CHECK(client.transaction() == PQTRANS_IDLE);
    CHECK(client.exec("commit").tag() == "COMMIT");  // with Postgres's own warning
    CHECK(client.notices().size() == 1);
  }

  TEST_CASE("transactions that only read are served by replicas, over both protocols (migrate)") {
    Held held("migrate");
    Connection client = held.proxy.connect();
    for (const bool extended : {false, true})
      for (int i = 0; i < 6; ++i) {
        CHECK(run(client, "begin", extended).tag() == "BEGIN");
        CHECK(on_replica(who(client, extended)));
        CHECK(client.transaction() == PQTRANS_INTRANS);
        CHECK(run(client, "select n from held_rows where id = 1", extended).scalar() == "0");
        const bool commits = i % 2 == 0;
        CHECK(run(client, commits ? "commit" : "rollback", extended).tag() == (commits ? "COMMIT" : "ROLLBACK"));
        CHECK(client.transaction() == PQTRANS_IDLE);
      }
    const std::string metrics = held.proxy.metrics();
    CHECK(metric(metrics, "pgsluice_statements_total", {"role=\"primary\"", "class=\"read\""}).value_or(0) == 0);
    CHECK(metric(metrics, "pgsluice_statements_total", {"node=\"none\"", "outcome=\"served\""}) == 24);
  }

  TEST_CASE("promise 2: a transaction moves to the primary at its first write, and sees it from there on") {
    Held held("migrate");
    Connection client = held.proxy.connect();
    for (int n = 1; n <= 20; ++n) {
      const bool extended = n % 2 == 0;
      CAPTURE(n);
      CHECK(run(client, "begin", extended).ok());
      CHECK(run(client, "select n from held_rows where id = 1", extended).scalar() == std::to_string(n - 1));
      CHECK(run(client, "update held_rows set n = n + 1 where id = 1", extended).tag() == "UPDATE 1");
      CHECK(run(client, "select n from held_rows where id = 1", extended).scalar() == std::to_string(n));
      CHECK(who(client, extended) == "primary");
      CHECK(shared_cluster().ask(0, "select n from held_rows where id = 1") == std::to_string(n - 1));
      CHECK(run(client, "commit", extended).tag() == "COMMIT");
      CHECK(client.scalar("select n from held_rows where id = 1") == std::to_string(n));
    }
    CHECK(client.exec("begin").ok());
    CHECK(client.exec("select 1").ok());
    CHECK(client.exec("update held_rows set n = -1").ok());
    CHECK(client.exec("rollback").ok());
    CHECK(client.scalar("select n from held_rows where id = 1") == "20");
  }

  TEST_CASE("savepoints and SET LOCAL move a transaction to the primary, and hold there (migrate)") {
    Held held("migrate");
    Connection client = held.proxy.connect();
    CHECK(client.exec("begin").ok());
    CHECK(on_replica(who(client, false)));
    CHECK(client.exec("savepoint a").tag() == "SAVEPOINT");
    CHECK(client.exec("update held_rows set n = 5 where id = 1").ok());
    CHECK(client.exec("rollback to a").ok());
    CHECK(client.exec("update held_rows set n = 7 where id = 2").ok());
    CHECK(client.exec("commit").tag() == "COMMIT");
    CHECK(client.scalar("select string_agg(n::text, ',' order by id) from held_rows") == "0,7");

    CHECK(client.exec("begin").ok());
    CHECK(client.exec("select 1").ok());
    CHECK(client.exec("set local work_mem = '9MB'").ok());
    CHECK(client.scalar("select current_setting('work_mem')") == "9MB");
    CHECK(who(client, false) == "primary");
    CHECK(client.exec("commit").ok());
    CHECK(client.scalar("select current_setting('work_mem')") != "9MB");
  }

  TEST_CASE("a read that fails fails its transaction, as in Postgres (migrate)") {
    Held held("migrate");
    Connection client = held.proxy.connect();
    for (const bool extended : {false, true}) {
      CAPTURE(extended);
      CHECK(run(client, "begin", extended).ok());
      CHECK(run(client, "select 1/0 from held_rows", extended).code() == "22012");
      CHECK(client.transaction() == PQTRANS_INERROR);
      CHECK(run(client, "select 1", extended).code() == "25P02");
      CHECK(run(client, "update held_rows set n = 9", extended).code() == "25P02");
      CHECK(client.transaction() == PQTRANS_INERROR);
      CHECK(run(client, "commit", extended).tag() == "ROLLBACK");
      CHECK(client.transaction() == PQTRANS_IDLE);
      CHECK(run(client, "select n from held_rows where id = 1", extended).scalar() == "0");
    }
  }

  TEST_CASE("BEGIN and its first statements may come before one Sync, as JDBC sends them (migrate)") {
    Held held("migrate");
    RawClient client(held.proxy.port());
    REQUIRE(client.login());
    client.send(query_message("set pgsluice.consistency = 'eventual'"));  // its own writes are not waited for
    CHECK(types(client.read_until('Z')) == "CZ");
    const std::string read = parse_message("", "select current_setting('port')") + bind_message("", "") +
                             describe_message('P', "") + execute_message("");
    for (int round = 0; round < 3; ++round) {
      const std::string begin = round == 0 ? extended("S_1", "BEGIN")
                                           : bind_message("", "S_1") + execute_message("");
      client.send(begin + read + sync_message());
      const auto first = client.read_until('Z');
      REQUIRE(types(first) == (round == 0 ? "12C12TDCZ" : "2C12TDCZ"));
      CHECK(first.back().body == "T");
      CHECK(on_replica(node_name(shared_cluster(), first[round == 0 ? 6 : 5].columns()[0])));
      client.send(extended("", "update held_rows set n = n + 1 where id = 2") + sync_message());
      CHECK(types(client.read_until('Z')) == "12CZ");
      client.send(extended("", "COMMIT") + sync_message());
      const auto last = client.read_until('Z');
      CHECK(types(last) == "12CZ");
      CHECK(last.back().body == "I");
    }
    CHECK(shared_cluster().ask(0, "select n from held_rows where id = 2") == "3");
    // An error skips the rest up to the Sync, and the transaction has failed.
    client.send(bind_message("", "S_1") + execute_message("") + extended("", "select 1/0 from held_rows") +
                read + sync_message());
    const auto failed = client.read_until('Z');
    CHECK(failed.back().body == "E");
    client.send(query_message("rollback"));
    CHECK(client.read_until('Z').back().body == "I");
  }

  TEST_CASE("a pipeline of BEGIN, reads, writes and COMMIT is answered in its order (migrate)") {
    Held held("migrate");
    RawClient client(held.proxy.port());
    REQUIRE(client.login());
    client.send(query_message("begin") + query_message("select 1") + query_message("select 2") +
                query_message("update held_rows set n = 3 where id = 1") +
                query_message("select n from held_rows where id = 1") + query_message("commit"));
    std::string all;
    for (int i = 0; i < 6; ++i) {
      const auto part = client.read_until('Z');
      all += types(part);
      CHECK(part.back().body == (i < 5 ? "T" : "I"));
      if (i == 4) CHECK(part[1].columns()[0] == "3");
    }
    CHECK(all == "CZTDCZTDCZCZTDCZCZ");
  }

  TEST_CASE("a cursor keeps its transaction on one server (migrate)") {
    Held held("migrate");
    Connection client = held.proxy.connect();
    CHECK(client.exec("begin").ok());
    CHECK(on_replica(who(client, false)));
    CHECK(client.exec("declare c cursor for select id from held_rows order by id").ok());
    CHECK(client.scalar("fetch c") == "1");
    CHECK(client.scalar("select 7") == "7");
    CHECK(client.scalar("fetch c") == "2");
    CHECK(client.exec("commit").ok());
  }

  TEST_CASE("a portal that is read in pieces keeps its transaction on one server (migrate)") {
    Held held("migrate");
    RawClient client(held.proxy.port());
    REQUIRE(client.login());
    client.send(query_message("begin"));
    CHECK(types(client.read_until('Z')) == "CZ");
    client.send(parse_message("", "select id from held_rows order by id") + bind_message("c", "") +
                execute_message("c", 1) + sync_message());
    CHECK(types(client.read_until('Z')) == "12DsZ");
    client.send(execute_message("c", 1) + sync_message());
    const auto second = client.read_until('Z');
    REQUIRE(types(second).starts_with("D"));
    CHECK(second[0].columns()[0] == "2");
    client.send(query_message("commit"));
    CHECK(client.read_until('Z').back().body == "I");
  }

  TEST_CASE("higher isolation and other databases stay on the primary (migrate)") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("database.app", "cluster", "\"main\"")
                           .set("database.app", "routing_transactions", "\"migrate\""));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    CHECK(client.exec("begin isolation level repeatable read").ok());
    CHECK(who(client, false) == "primary");
    CHECK(client.exec("commit").ok());
    CHECK(client.exec("begin").ok());
    CHECK(on_replica(who(client, false)));
    CHECK(client.exec("commit").ok());
    CHECK(client.exec("set default_transaction_isolation = 'repeatable read'").ok());
    CHECK(client.exec("begin").ok());
    CHECK(who(client, false) == "primary");
    CHECK(client.exec("commit").ok());
    Connection other = proxy.connect("postgres", "postgres");
    CHECK(other.exec("begin").ok());
    CHECK(who(other, false) == "primary");
    CHECK(other.exec("commit").ok());
  }

  TEST_CASE("a transaction that is held back is silent no longer than pool.idle_transaction_timeout") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("routing", "transactions", "\"hold\"")
                           .set("pool", "idle_transaction_timeout", "\"200ms\""));
    REQUIRE(proxy.ready(2));
    RawClient client(proxy.port());
    REQUIRE(client.login());
    client.send(query_message("begin"));
    CHECK(types(client.read_until('Z')) == "CZ");
    const auto last = client.read();
    REQUIRE(last);
    CHECK(last->type == 'E');
    CHECK(last->field('C') == "25P03");
  }
}
