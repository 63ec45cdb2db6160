#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <random>
#include <thread>

#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// Several workers over one small pool. The thread sanitizer runs these ([multi-worker]).
using namespace integration;

namespace {

ProxyConfig four_workers() {
  return config_for(shared_cluster()).set("", "workers", "4").set("pool", "size", "2");
}

}  // namespace

TEST_SUITE("integration/workers") {
  TEST_CASE(
      "[multi-worker] a pool of 2 serves 4 workers: the limit holds for the process, servers are "
      "handed over, nobody starves") {
    PgCluster& cluster = shared_cluster();
    Table table(cluster, "workers_rows", "id int primary key, n int",
                "select i, 0 from generate_series(0, 15) i");
    ProxyProcess proxy(four_workers());
    REQUIRE(proxy.ready(2));
    std::atomic<bool> running{true};
    int most = 0;
    std::thread watcher([&] {
      while (running) {
        for (std::size_t node = 0; node < cluster.size(); ++node)
          most = std::max(most, backends(cluster, node));
        std::this_thread::sleep_for(5ms);
      }
    });
    std::array<std::atomic<int>, 16> done{};
    Stopwatch watch;
    const auto problems = at_once(16, [&](std::size_t i) -> std::string {
      Connection client = proxy.connect();
      if (!client.ok()) return client.error();
      const std::string id = std::to_string(i);
      int written = 0;
      while (watch.elapsed() < 3s) {
        const Result write = client.exec("update workers_rows set n = n + 1 where id = " + id);
        if (!write.ok()) return write.scalar();
        ++written;
        const std::string read = client.scalar("select n from workers_rows where id = " + id);
        if (read != std::to_string(written))
          return "wrote " + std::to_string(written) + ", read " + read;
        ++done[i];
      }
      return "";
    });
    running = false;
    watcher.join();
    CHECK_MESSAGE(problems.empty(), joined(problems));
    CHECK(most <= 2);
    int least = done[0];
    int sum = 0;
    for (const auto& one : done) {
      least = std::min(least, one.load());
      sum += one;
    }
    CAPTURE(least);
    CAPTURE(sum);
    CHECK(least * 16 * 5 > sum);  // nobody got less than a fifth of the fair share
    const std::string text = proxy.metrics();
    const double in = metric(text, "pgsluice_server_handovers_in_total").value_or(0);
    const double out = metric(text, "pgsluice_server_handovers_out_total").value_or(-1);
    CHECK(in > 0);
    CHECK(in == out);
  }

  TEST_CASE(
      "[multi-worker] requirement 21: prepared statements, transactions and cancels over handed-over "
      "servers") {
    ProxyProcess proxy(four_workers());
    const auto problems = at_once(12, [&proxy](std::size_t i) -> std::string {
      Connection client = proxy.connect();
      if (!client.ok()) return client.error();
      const Result made = client.prepare("s", "select $1::int * " + std::to_string(i + 1));
      if (!made.ok()) return made.scalar();
      for (int round = 0; round < 25; ++round) {
        const std::string value = client.exec_prepared("s", {std::to_string(round)}).scalar();
        if (value != std::to_string(round * static_cast<int>(i + 1))) return "prepared: " + value;
        if (!client.exec("begin").ok()) return "begin";
        const std::string inside = client.exec_prepared("s", {"7"}).scalar();
        if (inside != std::to_string(7 * static_cast<int>(i + 1)))
          return "in transaction: " + inside;
        if (!client.exec("commit").ok()) return "commit";
        if (i % 4 == 0 && round % 5 == 0) {
          client.send("select pg_sleep(20)");
          do {
            std::this_thread::sleep_for(10ms);
            client.cancel();
          } while (client.busy());
          if (client.finish().code() != "57014") return "cancel";
        }
      }
      return "";
    });
    CHECK_MESSAGE(problems.empty(), joined(problems));
  }

  TEST_CASE("[multi-worker] clients that come, fail, vanish and go leave the pool whole") {
    ProxyProcess proxy(four_workers());
    const auto problems = at_once(8, [&proxy](std::size_t i) -> std::string {
      auto random = std::mt19937_64(i);
      for (int round = 0; round < 15; ++round) {
        switch (random() % 4) {
          case 0: {
            RawClient client(proxy.port());
            if (!client.login()) return "login: " + client.login_error.field('M');
            client.send(query_message("begin; select 1"));
            client.reset();
            break;
          }
          case 1: {
            RawClient client(proxy.port());
            if (!client.login()) return "login: " + client.login_error.field('M');
            client.send(query_message("select pg_sleep(0.05)"));
            client.reset();
            break;
          }
          case 2: {
            Connection client = proxy.connect();
            if (client.exec("select 1/0").code() != "22012") return "no error";
            break;
          }
          default: {
            Connection client = proxy.connect();
            const std::string value = client.scalar("select " + std::to_string(round));
            if (value != std::to_string(round)) return value;
          }
        }
      }
      return "";
    });
    CHECK_MESSAGE(problems.empty(), joined(problems));
    const auto after = at_once(6, [&proxy](std::size_t) -> std::string {
      Connection client = proxy.connect();
      for (int i = 0; i < 20; ++i) {
        const std::string value = client.scalar("begin; select 1");
        if (value != "1" || !client.exec("commit").ok()) return value;
      }
      return "";
    });
    CHECK_MESSAGE(after.empty(), joined(after));
    for (std::size_t node = 0; node < shared_cluster().size(); ++node)
      CHECK(backends(shared_cluster(), node) <= 2);
  }

  TEST_CASE("[multi-worker] console, metrics and reload while workers are busy") {
    ProxyConfig config = four_workers();
    ProxyProcess proxy(config);
    std::atomic<bool> running{true};
    std::vector<std::thread> load;
    std::atomic<int> errors{0};
    for (int i = 0; i < 8; ++i) {
      load.emplace_back([&] {
        while (running) {
          Connection client = proxy.connect();
          for (int n = 0; n < 20; ++n) errors += client.scalar("select 1") == "1" ? 0 : 1;
        }
      });
    }
    for (int round = 0; round < 5; ++round) {
      Connection console = proxy.console();
      for (const char* what :
           {"POOLS", "CLIENTS", "SERVERS", "NODES", "TENANTS", "STATS", "CONFIG"})
        CHECK(console.exec("SHOW " + std::string(what)).ok());
      CHECK(!proxy.metrics().empty());
      proxy.rewrite(config.set("pool", "size", std::to_string(2 + round)));
      CHECK(console.exec("RELOAD").ok());
    }
    running = false;
    for (std::thread& thread : load) thread.join();
    CHECK(errors == 0);
  }

  TEST_CASE("[multi-worker] a replica dies and returns under load") {
    PgCluster cluster;
    ProxyProcess proxy(config_for(cluster).set("", "workers", "4").set("pool", "size", "4"));
    REQUIRE(proxy.ready(2));
    std::atomic<bool> running{true};
    std::atomic<int> served{0};
    std::mutex mutex;
    std::vector<std::string> errors;
    std::vector<std::thread> load;
    for (int i = 0; i < 8; ++i) {
      load.emplace_back([&] {
        Connection client = proxy.connect();
        while (running) {
          const std::string answer = client.scalar("select 1");
          if (answer == "1") {
            ++served;
          } else {
            const std::lock_guard lock(mutex);
            errors.push_back(answer);
            if (!client.ok()) client = proxy.connect();
          }
        }
      });
    }
    CHECK(eventually([&] { return served > 200; }, 20s));
    cluster.crash(1);
    const int then = served;
    CHECK(eventually([&] { return served > then + 200; }, 20s));
    cluster.start(1);
    CHECK(eventually([&] { return proxy.node_is(cluster.address(1), "up"); }));
    running = false;
    for (std::thread& thread : load) thread.join();
    CHECK_MESSAGE(errors.size() <= 8, joined(errors));  // what was in flight there
  }
}
