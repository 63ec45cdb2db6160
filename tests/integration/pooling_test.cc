#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>

#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// Many clients, few servers, and nobody notices.
using namespace integration;

TEST_SUITE("integration/pooling") {
  TEST_CASE(
      "promise 5: more clients than servers run transactions side by side, and the pool's size "
      "holds") {
    PgCluster& cluster = shared_cluster();
    Table table(cluster, "pooling_counter", "id int primary key, n int",
                "select i, 0 from generate_series(0, 19) i");
    ProxyProcess proxy(config_for(cluster).set("pool", "size", "2"));
    std::atomic<bool> running{true};
    int most = 0;
    std::thread watcher([&] {
      while (running) {
        for (std::size_t node = 0; node < cluster.size(); ++node)
          most = std::max(most, backends(cluster, node));
        std::this_thread::sleep_for(5ms);
      }
    });
    const auto problems = at_once(20, [&proxy](std::size_t i) -> std::string {
      Connection client = proxy.connect();
      if (!client.ok()) return client.error();
      const std::string id = std::to_string(i);
      for (int round = 0; round < 30; ++round) {
        for (const std::string& sql :
             {std::string("begin"), "update pooling_counter set n = n + 1 where id = " + id,
              "select n from pooling_counter where id = " + id, std::string("commit")}) {
          const Result result = client.exec(sql);
          if (!result.ok()) return sql + ": " + result.scalar();
        }
      }
      return client.scalar("begin; select n from pooling_counter where id = " + id) == "30"
                 ? ""
                 : "lost an update";
    });
    running = false;
    watcher.join();
    CHECK_MESSAGE(problems.empty(), joined(problems));
    CHECK(most >= 1);
    CHECK(most <= 2);
  }

  TEST_CASE("promise 4: a Query in a sequence without a Sync, after which Postgres 18 fails, costs nobody else a statement") {
    PgCluster& cluster = shared_cluster();
    ProxyProcess proxy(config_for(cluster).servers({cluster.address(0)}).set("pool", "size", "1"));
    RawClient client(proxy.port()), other(proxy.port());
    REQUIRE(client.login());
    REQUIRE(other.login());
    client.send(parse_message("", "select 1") + bind_message("", "") + execute_message("") + query_message("select 2") +
                sync_message());
    CHECK(types(client.read_until('Z')) == "12DCTDCZ");
    CHECK(types(client.read_until('Z')) == "Z");
    // Its server is reset first; where that fails, it is closed.
    const bool may_fail = std::stoi(cluster.ask(0, "show server_version_num")) >= 180000;
    CHECK(eventually([&] {
      const auto closed = metric(proxy.metrics(), "pgsluice_server_closes_total", {"reason=\"reset_failed\""});
      return (may_fail && closed == 1) ||
             cluster.ask(0, "select query from pg_stat_activity where usename = 'app'") == "DISCARD ALL";
    }));
    other.send(query_message("select 3"));
    CHECK(types(other.read_until('Z')) == "TDCZ");
  }

  TEST_CASE("a transaction stays on one server, and its server serves nobody else meanwhile") {
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "1"));
    Connection holder = proxy.connect();
    holder.exec("begin");
    const std::string pid = holder.scalar("select pg_backend_pid()");
    Connection waiter = proxy.connect();
    REQUIRE(waiter.send("begin; select pg_backend_pid(); commit"));
    CHECK(stays([&waiter] { return waiter.busy(); }, 300ms));
    CHECK(holder.scalar("select pg_backend_pid()") == pid);
    CHECK(holder.exec("commit").ok());
    CHECK(waiter.finish().ok());
  }

  TEST_CASE(
      "a client that waits longer than pool.queue_timeout gets 57014 and keeps its connection") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("pool", "size", "1")
                           .set("pool", "queue_timeout", "\"300ms\""));
    Connection holder = proxy.connect();
    holder.exec("begin");
    Connection waiter = proxy.connect();
    Stopwatch watch;
    const Result refused = waiter.exec("create table never(a int)");
    CHECK(refused.code() == "57014");
    CHECK(refused.severity() == "ERROR");
    CHECK(refused.detail().find("reason=queue_timeout") != std::string::npos);
    CHECK(watch.elapsed() >= 290ms);
    CHECK(watch.elapsed() < 3s);
    CHECK(waiter.transaction() == PQTRANS_IDLE);
    holder.exec("commit");
    CHECK(waiter.scalar("begin; select 1") == "1");
  }

  TEST_CASE("waiting clients are served in the order in which they came") {
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "1"));
    Table table(shared_cluster(), "pooling_order", "n int, at serial");
    Connection holder = proxy.connect();
    holder.exec("begin");
    holder.exec("select 1");
    std::vector<Connection> waiters;
    for (int i = 0; i < 5; ++i) {
      waiters.push_back(proxy.connect());
      waiters.back().send("insert into pooling_order values (" + std::to_string(i) + ")");
      CHECK(stays([&] { return waiters.back().busy(); }, 50ms));
    }
    holder.exec("commit");
    for (Connection& waiter : waiters) CHECK(waiter.finish().ok());
    CHECK(shared_cluster().ask(
              0, "select string_agg(n::text, '' order by at) from pooling_order") == "01234");
  }

  TEST_CASE("in session mode a client keeps its server until it leaves") {
    ProxyProcess proxy(
        config_for(shared_cluster()).set("pool", "mode", "\"session\"").set("pool", "size", "1"));
    std::string pid;
    {
      Connection first = proxy.connect();
      pid = first.scalar("select pg_backend_pid()");
      CHECK(first.exec("create temp table mine(a int)").ok());
      CHECK(first.exec("select set_config('work_mem', '9MB', false)").ok());
      Connection second = proxy.connect();
      const bool queued_at_login = !second.ok();
      if (!queued_at_login) {
        second.send("begin; select pg_backend_pid(); commit");
        CHECK(stays([&second] { return second.busy(); }, 300ms));
      }
      CHECK(first.scalar("select pg_backend_pid()") == pid);
      first.close();
      if (!queued_at_login) CHECK(second.finish().ok());
    }
    Connection third = proxy.connect();
    CHECK(third.scalar("select to_regclass('pg_temp.mine') is null") == "t");
    CHECK(third.scalar("show work_mem") == "4MB");
  }

  TEST_CASE("unused servers are closed after server_idle_timeout, old ones after server_lifetime") {
    PgCluster& cluster = shared_cluster();
    {
      ProxyProcess proxy(config_for(cluster).set("pool", "server_idle_timeout", "\"300ms\""));
      Connection client = proxy.connect();
      client.exec("begin");
      CHECK(backends(cluster, 0) == 1);
      CHECK(stays([&cluster] { return backends(cluster, 0) == 1; }, 600ms));  // in use: it stays
      client.exec("commit");
      CHECK(eventually([&cluster] { return backends(cluster, 0) == 0; }, 5s));
      CHECK(client.scalar("begin; select 1") == "1");
    }
    {
      ProxyProcess proxy(config_for(cluster).set("pool", "server_lifetime", "\"400ms\""));
      Connection client = proxy.connect();
      const auto pid = [&client] {
        client.exec("begin");
        std::string answer = client.scalar("select pg_backend_pid()");
        client.exec("commit");
        return answer;
      };
      const std::string first = pid();
      CHECK(eventually([&] { return pid() != first; }, 5s, 50ms));
    }
  }

  TEST_CASE(
      "promise 4: requirement 13: a client that vanishes inside a transaction leaves no transaction, "
      "lock or setting") {
    PgCluster& cluster = shared_cluster();
    Table table(cluster, "pooling_vanish", "id int primary key, n int", "values (1, 0)");
    ProxyProcess proxy(config_for(cluster).set("pool", "size", "1"));
    for (const std::string last : {"", "select pg_sleep(30)"}) {
      CAPTURE(last);
      RawClient vanishing(proxy.port());
      REQUIRE(vanishing.login());
      vanishing.send(
          query_message("begin; set work_mem = '33MB'; update pooling_vanish set n = n + 1"));
      vanishing.read_until('Z');
      if (!last.empty()) vanishing.send(query_message(last));
      vanishing.reset();
      Connection next = proxy.connect();
      Stopwatch watch;
      CHECK(next.scalar("update pooling_vanish set n = n returning n") == "0");
      CHECK(watch.elapsed() < 8s);
      CHECK(next.scalar("begin; show work_mem") == "4MB");
      CHECK(next.exec("commit").ok());
    }
  }

  TEST_CASE(
      "promise 4: requirement 13: a client that goes away before its BEGIN is answered leaves no "
      "transaction behind it") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("pool", "size", "1")
                           .set("pool", "cleanup_timeout", "\"1min\""));
    Connection holder = proxy.connect();
    CHECK(holder.exec("begin; set transaction read write").ok());
    {
      RawClient leaving(proxy.port());
      REQUIRE(leaving.login());
      leaving.send(query_message("begin; select 1"));
      Connection console = proxy.console();
      CHECK(eventually([&console] {
        const Result clients = console.exec("SHOW CLIENTS");
        for (int row = 0; row < clients.rows(); ++row)
          if (clients.at(row, "waiting_for") == "server") return true;
        return false;
      }));
    }
    CHECK(holder.exec("commit").ok());
    CHECK(holder.scalar("begin; select 2") == "2");
  }

  TEST_CASE(
      "promise 4: requirement 11: what one client sets, another never sees, and it itself always does") {
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "1"));
    Connection one = proxy.connect();
    Connection two = proxy.connect();
    CHECK(one.exec("set work_mem = '11MB'").ok());
    CHECK(one.exec("set search_path = one, public").ok());
    CHECK(one.exec("set application_name = 'one'").ok());
    CHECK(one.exec("set pgsluice.tenant = 'one'").ok());
    CHECK(two.exec("set work_mem = '22MB'").ok());
    for (int i = 0; i < 5; ++i) {
      CHECK(one.scalar("show work_mem") == "11MB");
      CHECK(two.scalar("show work_mem") == "22MB");
      CHECK(two.scalar("show search_path") == "\"$user\", public");
      CHECK(one.scalar("show search_path") == "one, public");
      CHECK(one.scalar("select current_setting('application_name')") == "one");
      CHECK(two.scalar("select current_setting('pgsluice.tenant', true)") == "");
      CHECK(one.scalar("select current_setting('pgsluice.tenant')") == "one");
    }
    CHECK(one.exec("reset work_mem").ok());
    CHECK(one.scalar("show work_mem") == "4MB");
    // One statement at a time: several in one string would pin the client to the only server.
    const auto run_all = [&one](const std::vector<std::string>& statements) {
      for (const std::string& sql : statements) CHECK(one.exec(sql).ok());
    };
    run_all({"begin", "set work_mem = '44MB'", "rollback"});
    CHECK(one.scalar("show work_mem") == "4MB");
    run_all({"begin", "set local work_mem = '45MB'", "commit"});
    CHECK(one.scalar("show work_mem") == "4MB");
    CHECK(two.scalar("show work_mem") == "22MB");
    CHECK(two.exec("discard all").ok());
    CHECK(two.scalar("show work_mem") == "4MB");
    Connection three = proxy.connect();
    CHECK(three.scalar("show work_mem") == "4MB");
    CHECK(three.scalar("show search_path") == "\"$user\", public");
  }

  TEST_CASE("promise 5: requirement 12: state that cannot be moved keeps its client on its server") {
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "3"));
    Connection temporary = proxy.connect();
    CHECK(temporary.exec("create temp table pinned(a int)").ok());
    Connection locker = proxy.connect();
    CHECK(locker.exec("select pg_advisory_lock(4711)").ok());
    Connection listener = proxy.connect();
    CHECK(listener.exec("listen news").ok());
    std::vector<Connection> crowd;
    for (int i = 0; i < 4; ++i) crowd.push_back(proxy.connect());
    for (int round = 0; round < 5; ++round) {
      CHECK(temporary.exec("insert into pinned values (1)").ok());
      CHECK(temporary.scalar("select count(*) from pinned") == std::to_string(round + 1));
    }
    CHECK(shared_cluster().ask(0, "select pg_try_advisory_lock(4711)") == "f");
    CHECK(locker.scalar("select pg_advisory_unlock(4711)") == "t");
    CHECK(shared_cluster().connect(0).exec("notify news, 'hello'").ok());
    PGnotify* heard = nullptr;
    CHECK(eventually([&] {
      PQconsumeInput(listener.raw());
      heard = PQnotifies(listener.raw());
      return heard != nullptr;
    }));
    if (heard != nullptr) {
      CHECK(std::string(heard->extra) == "hello");
      PQfreemem(heard);
    }
    // When they leave, their servers serve others and carry nothing over.
    temporary.close();
    locker.close();
    listener.close();
    for (Connection& one : crowd) {
      CHECK(one.scalar("begin; select to_regclass('pg_temp.pinned') is null") == "t");
      CHECK(one.exec("commit").ok());
    }
    CHECK(shared_cluster().ask(0, "select count(*) from pg_locks where locktype = 'advisory'") ==
          "0");
  }

  TEST_CASE("clients that idle too long are disconnected: outside and inside a transaction") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("pool", "client_idle_timeout", "\"500ms\"")
                           .set("pool", "idle_transaction_timeout", "\"300ms\""));
    RawClient idle(proxy.port());
    REQUIRE(idle.login());
    RawClient in_transaction(proxy.port());
    REQUIRE(in_transaction.login());
    in_transaction.send(query_message("begin; select 1"));
    in_transaction.read_until('Z');
    CHECK(in_transaction.wait_closed(3s));
    CHECK(idle.wait_closed(3s));
    CHECK(eventually([] {
      return shared_cluster().ask(0,
                                  "select count(*) from pg_stat_activity where usename = 'app' and "
                                  "state like 'idle in transaction%'") == "0";
    }));
    RawClient busy(proxy.port());
    REQUIRE(busy.login());
    busy.send(query_message("select pg_sleep(1)"));  // running is not idling
    CHECK(types(busy.read_until('Z')) == "TDCZ");
  }

  TEST_CASE("pool size and mode can be given per database and per user") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("pool", "size", "5")
                           .set("pool", "queue_timeout", "\"300ms\"")
                           .set("user.other", "pool_size", "1"));
    Connection one = proxy.connect("other");
    CHECK(one.exec("begin").ok());
    CHECK(one.exec("select 1").ok());
    Connection two = proxy.connect("other");
    CHECK(two.exec("begin; select pg_backend_pid()").code() == "57014");
    CHECK(proxy.connect("app").scalar("begin; select 1") == "1");
  }

  TEST_CASE("a pool of each user logs in as that user") {
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "1"));
    for (int i = 0; i < 3; ++i) {
      CHECK(proxy.connect("app").scalar("select current_user") == "app");
      CHECK(proxy.connect("other").scalar("select current_user") == "other");
      CHECK(proxy.connect("app", "postgres").scalar("select current_database()") == "postgres");
    }
  }
}
