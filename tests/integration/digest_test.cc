#include <atomic>
#include <csignal>
#include <thread>

#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// Kinds of statements: what they cost, limits on them, and answers that are shared.
using namespace integration;

namespace {

// The row of SHOW DIGESTS whose statement is `text`, or -1.
int row_of(const Result& digests, const std::string& text) {
  for (int row = 0; row < digests.rows(); ++row)
    if (digests.at(row, "statement") == text) return row;
  return -1;
}

// The digest of a statement that has run, by its text in SHOW DIGESTS; "" when there is none.
std::string digest_of(Connection& console, const std::string& text) {
  const Result shown = console.exec("SHOW DIGESTS");
  const int row = row_of(shown, text);
  return row < 0 ? "" : shown.at(row, "digest");
}

// What is wrong with a refusal that should have this reason; "" when nothing is.
std::string wrong_with(const Result& refused, const std::string& reason, const std::string& rule) {
  if (refused.ok()) return "it was not refused";
  if (refused.code() != "53400" || refused.severity() != "ERROR") return refused.scalar();
  const std::string detail = refused.detail();
  const bool right = detail.find("reason=" + reason) != std::string::npos &&
                     detail.find("rule=" + rule) != std::string::npos &&
                     detail.find("retry_after_ms=") != std::string::npos;
  return right ? "" : detail;
}

}  // namespace

TEST_SUITE("integration/digest") {
  TEST_CASE("SHOW DIGESTS has calls, errors, rows, times and tenants of each kind of statement, over all workers") {
    ProxyProcess proxy(config_for(shared_cluster()).set("", "workers", "2"));
    Connection one = proxy.connect(), other = proxy.connect();
    Connection shop = proxy.connect("app", "app", "sslmode=disable options=-cpgsluice.tenant=shop");
    for (Connection* client : {&one, &other, &shop}) {
      CHECK(client->exec("SELECT n FROM generate_series(1, 10) AS n WHERE n > 7").ok());
      CHECK(client->exec("select n from generate_series(1, 20) as n where n > 3 -- again").ok());
      CHECK(client->exec("SELECT n FROM generate_series(1, $1) AS n", {"5"}).ok());
      CHECK(client->prepare("p", "select pg_sleep(0.03), $1::text").ok());
      CHECK(client->exec_prepared("p", {"secret"}).ok());
      CHECK(client->exec_prepared("p", {"secret"}).ok());
      CHECK(client->exec("select 'secret' || no_such_column").code() == "42703");
    }
    Connection console = proxy.console();
    const Result shown = console.exec("SHOW DIGESTS");
    CAPTURE(shown.scalar());
    const int series = row_of(shown, "select n from generate_series (?) as n where n > ?");
    REQUIRE(series >= 0);
    CHECK(shown.at(series, "database") == "app");
    CHECK(shown.at(series, "calls") == "6");
    CHECK(shown.at(series, "rows") == std::to_string(3 * (3 + 17)));
    CHECK(shown.at(series, "errors") == "0");
    CHECK(shown.at(series, "digest").size() == 16);
    const std::string tenants = shown.at(series, "tenants");
    CHECK((tenants == "app, shop" || tenants == "shop, app"));
    const int parameters = row_of(shown, "select n from generate_series (?) as n");
    REQUIRE(parameters >= 0);
    CHECK(shown.at(parameters, "rows") == "15");
    CHECK(row_of(shown, "select pg_sleep (?), $1 :: text") == 0);  // most of the time
    CHECK(shown.at(0, "calls") == "6");
    CHECK(std::stol(shown.at(0, "p50_us")) >= 28'000);
    CHECK(std::stol(shown.at(0, "time_us")) >= 6 * 30'000);
    const int failed = row_of(shown, "select ? || no_such_column");
    REQUIRE(failed >= 0);
    CHECK(shown.at(failed, "errors") == "3");
    for (int row = 0; row < shown.rows(); ++row)
      CHECK(shown.at(row, "statement").find("secret") == std::string::npos);
    CHECK(console.exec("SHOW DIGESTS 1").rows() == 1);
    CHECK(console.exec("SHOW DIGESTS many").code() == "42601");
  }

  TEST_CASE("a worker keeps no more digests than digest.entries, and says how many it forgot") {
    ProxyProcess proxy(config_for(shared_cluster()).set("digest", "entries", "10"));
    Connection client = proxy.connect();
    for (int i = 0; i < 50; ++i)
      CHECK(client.exec("select 1 as column_" + std::to_string(i)).ok());
    Connection console = proxy.console();
    CHECK(console.exec("SHOW DIGESTS").rows() == 10);
    CHECK(eventually([&proxy] { return metric(proxy.metrics(), "pgsluice_digest_evictions_total") >= 40.0; }));
  }

  TEST_CASE("a blocked digest is refused in every worker, simple, prepared and in a transaction, until it is unblocked") {
    ProxyProcess proxy(config_for(shared_cluster()).set("", "workers", "2"));
    std::vector<Connection> clients;
    for (int i = 0; i < 4; ++i) clients.push_back(proxy.connect());  // of both workers
    for (Connection& client : clients) {
      CHECK(client.scalar("select 1 as bad") == "1");
      CHECK(client.prepare("p", "select 2 as bad").ok());
    }
    Connection console = proxy.console();
    const std::string digest = digest_of(console, "select ? as bad");
    REQUIRE(digest.size() == 16);
    CHECK(console.exec("BLOCK DIGEST " + digest + " FOR 10m").ok());
    for (Connection& client : clients) {
      CHECK(wrong_with(client.exec("select 3 as bad"), "digest_blocked", "console:postgres") == "");
      CHECK(wrong_with(client.exec("select $1 as good; select 4 as bad"), "digest_blocked", "") != "");
      CHECK(wrong_with(client.exec("select 3 AS Bad", std::vector<std::optional<std::string>>{}), "digest_blocked",
                       "console:postgres") == "");
      CHECK(wrong_with(client.exec_prepared("p"), "digest_blocked", "console:postgres") == "");
      CHECK(client.scalar("select 1 as good") == "1");
      CHECK(client.exec("begin").ok());
      CHECK(client.exec("select 3 as bad").code() == "53400");
      CHECK(client.transaction() == PQTRANS_INERROR);
      CHECK(client.exec("select 1 as good").code() == "25P02");
      CHECK(client.exec("rollback").ok());
      CHECK(client.exec("listen x").ok());  // keeps its server
      CHECK(client.exec("select 3 as bad").code() == "53400");
      CHECK(client.transaction() == PQTRANS_IDLE);
      CHECK(client.exec("unlisten *").ok());
    }
    const Result blocks = console.exec("SHOW BLOCKS");
    REQUIRE(blocks.rows() == 1);
    CHECK(blocks.at(0, "name") == digest);
    CHECK(blocks.at(0, "limit") == "block");
    CHECK(blocks.at(0, "origin") == "console:postgres");
    CHECK(blocks.at(0, "refused") == "20");
    CHECK(std::stol(blocks.at(0, "expires_in_s")) > 500);
    // It outlasts a reload.
    CHECK(console.exec("RELOAD").ok());
    CHECK(clients[0].exec("select 3 as bad").code() == "53400");
    CHECK(console.exec("UNBLOCK DIGEST " + digest).ok());
    for (Connection& client : clients) CHECK(client.exec_prepared("p").scalar() == "2");
    CHECK(console.exec("UNBLOCK DIGEST " + digest).code() == "55000");
    CHECK(console.exec("SHOW BLOCKS").rows() == 0);
  }

  TEST_CASE("every statement of a pipeline is looked at, and one that is blocked fails its sequence alone") {
    ProxyProcess proxy(config_for(shared_cluster()));
    Connection console = proxy.console();
    CHECK(proxy.connect().scalar("select 1 as bad") == "1");
    const std::string digest = digest_of(console, "select ? as bad");
    CHECK(console.exec("BLOCK DIGEST " + digest).ok());
    RawClient raw(proxy.port());
    REQUIRE(raw.login());
    const auto run = [](const std::string& sql) {
      return parse_message("", sql) + bind_message("", "") + execute_message("");
    };
    CHECK(raw.send(run("select 1 as good") + run("select 1 as bad") + sync_message() + run("select 2 as good") +
                   sync_message()));
    CHECK(types(raw.read_until('Z')) == "EZ");
    CHECK(types(raw.read_until('Z')) == "12DCZ");
  }

  TEST_CASE("a digest that waits for a server when it is blocked does not start") {
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "1"));
    Connection console = proxy.console();
    Connection holder = proxy.connect();
    Connection waiter = proxy.connect("app", "app", "sslmode=disable options=-cpgsluice.consistency=primary");
    CHECK(waiter.exec("select 1 as bad from pg_database where false").rows() == 0);
    const std::string digest = digest_of(console, "select ? as bad from pg_database where false");
    CHECK(holder.exec("begin").ok());
    CHECK(holder.exec("select txid_current()").ok());  // holds the only server there is
    CHECK(waiter.send("select 1 as bad from pg_database where false"));
    CHECK(eventually([&console] {
      const Result shown = console.exec("SHOW CLIENTS");
      for (int row = 0; row < shown.rows(); ++row)
        if (shown.at(row, "waiting_for") == "server") return true;
      return false;
    }));
    CHECK(console.exec("BLOCK DIGEST " + digest).ok());
    CHECK(wrong_with(waiter.finish(), "digest_blocked", "console:postgres") == "");
    CHECK(holder.exec("commit").ok());
    CHECK(waiter.scalar("select 1 as good") == "1");
  }

  TEST_CASE("LIMIT DIGEST holds a rate and a concurrency over all workers, and orders end by themselves") {
    ProxyProcess proxy(config_for(shared_cluster()).set("", "workers", "2"));
    Connection console = proxy.console();
    CHECK(proxy.connect().scalar("select pg_sleep(0) as slow") == "");
    const std::string digest = digest_of(console, "select pg_sleep (?) as slow");
    REQUIRE(digest.size() == 16);
    CHECK(console.exec("LIMIT DIGEST " + digest + " CONCURRENCY 1").ok());
    std::vector<Connection> clients;
    for (int i = 0; i < 4; ++i) clients.push_back(proxy.connect());
    CHECK(clients[0].send("select pg_sleep(30) as slow"));
    CHECK(eventually([&console] { return console.exec("SHOW BLOCKS").at(0, "running") == "1"; }));
    for (std::size_t i = 1; i < 4; ++i)
      CHECK(wrong_with(clients[i].exec("select pg_sleep(0) as slow"), "digest_concurrency", "console:postgres") == "");
    CHECK(eventually([] { return is_at_work(shared_cluster(), "select pg_sleep(30) as slow"); }));
    CHECK(clients[0].cancel());
    CHECK(clients[0].finish().code() == "57014");
    CHECK(eventually([&console] { return console.exec("SHOW BLOCKS").at(0, "running") == "0"; }));
    CHECK(clients[1].exec("select pg_sleep(0) as slow").ok());
    // A client that vanishes gives its place back.
    CHECK(clients[1].send("select pg_sleep(30) as slow"));
    CHECK(eventually([&console] { return console.exec("SHOW BLOCKS").at(0, "running") == "1"; }));
    clients[1].close();
    CHECK(eventually([&clients] { return clients[2].exec("select pg_sleep(0) as slow").ok(); }));

    CHECK(console.exec("LIMIT DIGEST " + digest + " RATE 1 FOR 1s").ok());
    int served = 0, refused = 0;
    for (const std::size_t i : {0U, 2U, 3U}) {
      const Result result = clients[i].exec("select pg_sleep(0) as slow");
      served += result.ok() ? 1 : 0;
      refused += wrong_with(result, "digest_rate", "console:postgres").empty() ? 1 : 0;
    }
    CHECK(served == 1);
    CHECK(refused == 2);
    CHECK(eventually([&console] { return console.exec("SHOW BLOCKS").rows() == 0; }));
    CHECK(clients[0].exec("select pg_sleep(0) as slow").ok());
    CHECK(clients[2].exec("select pg_sleep(0) as slow").ok());
  }

  TEST_CASE("LIMIT TENANT replaces what is configured until it ends") {
    ProxyProcess proxy(config_for(shared_cluster()).set("tenant", "rate_wait", "\"0\""));
    Connection console = proxy.console(), client = proxy.connect();
    CHECK(console.exec("LIMIT TENANT app RATE 1 FOR 10m").ok());
    CHECK(client.exec("select 1").ok());
    CHECK(client.exec("select 1").detail().find("reason=tenant_rate") != std::string::npos);
    CHECK(console.exec("RELOAD").ok());
    CHECK(console.exec("LIMIT TENANT app BURST 2 CONCURRENCY 1").ok());
    CHECK(console.exec("SHOW BLOCKS").at(0, "limit") == "rate 1, burst 2, concurrency 1");
    CHECK(console.exec("UNLIMIT TENANT app").ok());
    for (int i = 0; i < 5; ++i) CHECK(client.exec("select 1").ok());
    CHECK(console.exec("UNLIMIT TENANT app").code() == "55000");
  }

  TEST_CASE("orders that make no sense are refused with what is wrong") {
    ProxyProcess proxy(config_for(shared_cluster()));
    Connection console = proxy.console();
    for (const char* order :
         {"BLOCK DIGEST abc", "BLOCK DIGEST 00000000000000zz", "BLOCK DIGEST 0000000000000001 FOR ever",
          "BLOCK DIGEST 0000000000000001 FOR 0", "BLOCK DIGEST 0000000000000001 RATE 5",
          "LIMIT DIGEST 0000000000000001 FOR 15m", "LIMIT DIGEST 0000000000000001 RATE 5 CONCURRENCY 5",
          "LIMIT DIGEST 0000000000000001 RATE -1", "LIMIT DIGEST 0000000000000001 RATE 5 RATE 6",
          "LIMIT TENANT app FOR 15m", "LIMIT TENANT app DATABASE app RATE 1", "LIMIT TENANT app RATE 99999999999999999999"})
      CHECK_MESSAGE(console.exec(order).code() == "42601", order);
    CHECK(console.exec("SHOW BLOCKS").rows() == 0);
    CHECK(proxy.connect("pgsluice", "pgsluice").exec("BLOCK DIGEST 0000000000000001").ok() == false);
  }

  TEST_CASE("a statement that crashes its backend twice within a minute is blocked by itself; its victims are not") {
    PgCluster cluster({.replicas = 0});
    ProxyProcess proxy(config_for(cluster));
    Connection console = proxy.console();
    for (int crash = 0; crash < 2; ++crash) {
      CAPTURE(crash);
      Connection bad = proxy.connect(), victim = proxy.connect();
      CHECK(eventually([&bad] { return bad.scalar("select 1") == "1"; }, 20s));
      CHECK(eventually([&victim] { return victim.scalar("select 1") == "1"; }, 20s));
      CHECK(victim.send("select pg_sleep(60) as innocent"));
      CHECK(bad.send("select pg_sleep(60) as guilty"));
      std::string pid;
      CHECK(eventually([&] {
        pid = cluster.ask(0, "select max(pid) from pg_stat_activity where query = 'select pg_sleep(60) as guilty'"
                             " and state = 'active'");
        return !pid.empty() && cluster.ask(0, "select count(*) from pg_stat_activity where query like "
                                              "'select pg_sleep(60) as innocent' and state = 'active'") == "1";
      }));
      REQUIRE(::kill(std::stoi(pid), SIGKILL) == 0);
      CHECK(bad.finish().code() == "08006");
      CHECK(victim.finish().code() == "08006");
    }
    CHECK(eventually([&console] { return console.exec("SHOW BLOCKS").rows() == 1; }));
    CHECK(console.exec("SHOW BLOCKS").at(0, "origin") == "auto_block");
    Connection client = proxy.connect();
    CHECK(eventually([&client] { return client.scalar("select 1") == "1"; }, 20s));
    CHECK(wrong_with(client.exec("select pg_sleep(0) as guilty"), "digest_blocked", "auto_block") == "");
    CHECK(client.exec("select pg_sleep(0) as innocent").ok());
  }
}
