#include <array>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <thread>

#include "tests/integration/fixture.h"
#include "tests/support/gate.h"

// Which replica, and when none: lag, weights, zones, breakers, slow and stalled nodes, the primary's share.
namespace integration {
namespace {

using namespace std::chrono_literals;

// Clients that read in a loop; what each node has answered since count() was called last, errors last.
class Readers {
 public:
  Readers(const PgCluster& cluster, const ProxyProcess& proxy, int clients) {
    for (int i = 0; i < clients; ++i)
      threads_.emplace_back([this, &cluster, &proxy] {
        Connection client = proxy.connect();
        while (!stop_) {
          const std::string node = who_answers(cluster, client);
          ++served_[node == "primary" ? 0 : node == "replica1" ? 1 : node == "replica2" ? 2 : 3];
        }
      });
  }
  ~Readers() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }
  std::array<int, 4> count() {
    std::array<int, 4> now{};
    for (std::size_t i = 0; i < now.size(); ++i) now[i] = served_[i].exchange(0);
    return now;
  }

 private:
  std::array<std::atomic<int>, 4> served_{};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};


std::string column(const ProxyProcess& proxy, const std::string& command, const std::string& node,
                   const std::string& name) {
  const Result rows = proxy.console().exec(command);
  for (int i = 0; i < rows.rows(); ++i)
    if (rows.at(i, "node") == node) return rows.at(i, name);
  return rows.ok() ? "no such row" : rows.message();
}

// As many as asked for, at once, each on a connection of its own: how each ended.
std::vector<Result> all_at_once(const ProxyProcess& proxy, int count, const std::string& sql) {
  std::vector<std::unique_ptr<Connection>> clients;
  for (int i = 0; i < count; ++i) clients.push_back(std::make_unique<Connection>(proxy.conninfo()));
  for (auto& client : clients) (void)client->send(sql);
  std::vector<Result> results;
  for (auto& client : clients) results.push_back(client->finish());
  return results;
}

TEST_SUITE("integration/balance") {
  TEST_CASE("requirement 29: lag in bytes stops new reads, but of a minimum of replicas") {
    PgCluster cluster({.replicas = 2});
    Table table(cluster, "balance_bytes", "filler text");
    ProxyConfig config = config_for(cluster).set("routing", "max_lag", "\"1h\"")
                             .set("routing", "max_lag_bytes", "\"256KiB\"")
                             .set("routing", "consistency", "\"eventual\"");
    ProxyProcess proxy(config);
    REQUIRE(proxy.ready(2));
    cluster.pause_replay(1);
    cluster.pause_replay(2);
    cluster.connect(0).exec("insert into balance_bytes select repeat('x', 1000) from generate_series(1, 1000)");
    Connection client = proxy.connect();
    CHECK(eventually([&] { return who_answers(cluster, client) == "primary"; }));
    CHECK(column(proxy, "show nodes", cluster.address(1), "serves_reads") == "no");

    proxy.rewrite(config.set("routing", "min_replicas", "1"));
    proxy.signal(SIGHUP);
    CHECK(eventually([&] { return who_answers(cluster, client) != "primary"; }));
    cluster.resume_replay(1);
    cluster.resume_replay(2);
  }

  TEST_CASE("weights, zones and what a wrong one is told: a node's own section") {
    PgCluster& cluster = shared_cluster();
    const auto section = [&cluster](std::size_t node) { return "node.\"" + cluster.address(node) + "\""; };
    ProxyConfig config = config_for(cluster).set(section(1), "weight", "0");
    ProxyProcess proxy(config);
    REQUIRE(proxy.ready(1));
    Connection client = proxy.connect();
    for (int i = 0; i < 50; ++i) CHECK(who_answers(cluster, client) == "replica2");

    config.set(section(1), "weight", "50").set(section(1), "zone", "\"a\"").set("routing", "zone", "\"a\"");
    proxy.rewrite(config.set(section(1), "groups", "[\"reports\"]"));
    proxy.signal(SIGHUP);
    REQUIRE(eventually([&] { return who_answers(cluster, client) == "replica1"; }));
    for (int i = 0; i < 50; ++i) CHECK(who_answers(cluster, client) == "replica1");
    CHECK(column(proxy, "show nodes", cluster.address(1), "weight") == "50");
    CHECK(column(proxy, "show nodes", cluster.address(1), "zone") == "a");
    CHECK(column(proxy, "show nodes", cluster.address(1), "groups") == "reports");

    proxy.rewrite(config.set("node.\"elsewhere:1\"", "weight", "1"));
    CHECK(proxy.console().exec("reload").message().find("is not a server of any cluster") != std::string::npos);
  }

  // What it does to the choice is said in tests/routing/chooser_test.cc.
  TEST_CASE("a replica is crowded while others, not we, have far more statements at work there") {
    PgCluster cluster({.replicas = 2});
    ProxyProcess proxy(config_for(cluster).set("probe", "interval", "\"50ms\""));
    REQUIRE(proxy.ready(2));
    const auto shown = [&](std::size_t node, const std::string& name) {
      return column(proxy, "show nodes", cluster.address(node), name);
    };
    std::vector<Connection> others;
    for (int i = 0; i < 12; ++i) {
      others.push_back(cluster.connect(1));
      REQUIRE(others.back().send("select pg_sleep(60)"));
    }
    REQUIRE(eventually([&] { return shown(1, "crowded") == "yes"; }));
    CHECK(eventually([&] { return shown(1, "others_active") == "12"; }));
    CHECK(shown(2, "crowded") == "no");
    for (Connection& one : others) CHECK(one.cancel());
    REQUIRE(eventually([&] { return shown(1, "crowded") == "no"; }));
    for (Connection& one : others) CHECK(one.finish().code() == "57014");

    std::vector<Connection> ours;
    for (int i = 0; i < 24; ++i) {
      ours.push_back(proxy.connect());
      REQUIRE(ours.back().send("select pg_sleep(60)"));
    }
    REQUIRE(eventually([&] { return std::stoi(shown(1, "in_flight")) + std::stoi(shown(2, "in_flight")) == 24; }));
    // A count may have come between what we sent and what the monitor knew of it.
    const auto none_is = [&] { return shown(1, "crowded") == "no" && shown(2, "crowded") == "no"; };
    CHECK(eventually([&] { return none_is() && stays(none_is, 1s); }));
    for (Connection& one : ours) CHECK(one.cancel());
  }

  // bench/drill makes it longer.
  TEST_CASE("a replica slowed twentyfold gets at most a fifth of its fair share within 5 s, is ejected, and returns") {
    const char* given = std::getenv("PGSLUICE_DRILL_SECONDS");
    const int seconds = given == nullptr ? 1 : std::max(1, std::atoi(given));
    PgCluster cluster({.replicas = 2});
    // Both behind a gate, so that the gate itself is no difference. And sessions that move freely: of eight that
    // stay where they have read last, one may be here and seven there.
    Gate other(cluster.port(1)), gate(cluster.port(2));
    ProxyProcess proxy(config_for(cluster)
                           .servers({cluster.address(0), other.address(), gate.address()})
                           .set("routing", "consistency", "\"eventual\"")
                           .set("breaker", "slow_start", "\"1s\""));
    REQUIRE(proxy.ready(2));
    constexpr int kReaders = 8;
    Readers readers(cluster, proxy, kReaders);
    std::chrono::milliseconds read_takes{0};
    const auto share = [&](std::chrono::milliseconds time) {
      (void)readers.count();
      std::this_thread::sleep_for(time);  // a measurement, not a guess
      const std::array<int, 4> served = readers.count();
      const double all = served[0] + served[1] + served[2] + served[3];
      read_takes = std::chrono::milliseconds(static_cast<int>(static_cast<double>(time.count()) * kReaders / all));
      if (given != nullptr)
        std::cout << "primary " << served[0] << " replica1 " << served[1] << " replica2 " << served[2]
                  << " errors " << served[3] << " share of replica2 " << served[2] / all << std::endl;
      CHECK(served[3] == 0);
      return served[2] / all;
    };
    REQUIRE(eventually([&] { return readers.count()[2] > 0; }));
    // A moment in which the machine does something else may be either replica's.
    CHECK(eventually([&] { return share(std::chrono::seconds(seconds)) > 0.3; }));
    gate.delay(std::max<std::chrono::milliseconds>(60ms, 20 * read_takes));  // on a busy machine a read takes long
    CHECK(eventually([&] { return share(500ms) <= 0.1; }, 5s));
    CHECK(share(std::chrono::seconds(seconds)) <= 0.1);  // of a fair half: a fifth
    CHECK(eventually([&] { return column(proxy, "show breakers", gate.address(), "latency") != "0"; }));
    CHECK(column(proxy, "show breakers", gate.address(), "reason") == "latency");
    CHECK(metric(proxy.metrics(), "pgsluice_breaker_openings", {"reason=\"latency\""}).value_or(0) >= 1);
    gate.delay(0ms);
    CHECK(eventually([&] { return share(500ms) > 0.3; }, 30s));
    CHECK(column(proxy, "show breakers", gate.address(), "state") == "closed");
    CHECK(column(proxy, "show breakers", other.address(), "latency") == "0");
  }

  TEST_CASE("a stalled node: what hangs there is ended within 3 s, and a long statement elsewhere is left alone") {
    PgCluster cluster({.replicas = 2});
    ProxyProcess proxy(config_for(cluster)
                           .set("probe", "interval", "\"200ms\"")
                           .set("probe", "timeout", "\"700ms\""));
    REQUIRE(proxy.ready(2));
    std::vector<std::unique_ptr<Connection>> clients;
    // On either replica one that sleeps for longer than all of this takes.
    std::array<Connection*, 3> on{};
    REQUIRE(eventually([&] {
      clients.push_back(std::make_unique<Connection>(proxy.conninfo()));
      (void)clients.back()->send("select current_setting('port') from pg_sleep(3)");
      for (const std::size_t node : {1, 2})
        if (on[node] == nullptr && cluster.ask(node, "select count(*) from pg_stat_activity where usename = 'app' "
                                                     "and state = 'active'") != "0")
          on[node] = clients.back().get();
      return on[1] != nullptr && on[2] != nullptr;
    }));
    cluster.pause(1);
    Stopwatch watch;
    const auto stalled = [&proxy] {
      return metric(proxy.metrics(), "pgsluice_server_closes_total", {"reason=\"stalled\""}).value_or(0);
    };
    CHECK(eventually([&] { return stalled() >= 1; }, 6s));
    CHECK(watch.elapsed() < 3s);
    CHECK(on[2]->busy());
    // Reads that were caught there are run again on the other; those there never heard of it.
    for (auto& client : clients) CHECK(client->finish().scalar() == std::to_string(cluster.port(2)));
    CHECK(stalled() < static_cast<double>(clients.size()));
    Connection client = proxy.connect();
    CHECK(who_answers(cluster, client) == "replica2");
    cluster.resume(1);
  }

  TEST_CASE("requirement 31: lag does not kill the writer: reads have a share of the primary, then stale or error") {
    PgCluster cluster({.replicas = 1});
    Table table(cluster, "balance_spill", "filler text");
    ProxyConfig config = config_for(cluster)
                             .set("routing", "max_lag_bytes", "\"64KiB\"")
                             .set("routing", "consistency", "\"eventual\"")
                             .set("routing", "spill_policy", "\"error\"")
                             .set("pool", "size", "10");
    ProxyProcess proxy(config);
    REQUIRE(proxy.ready(1));
    cluster.pause_replay(1);
    cluster.connect(0).exec("insert into balance_spill select repeat('x', 1000) from generate_series(1, 1000)");
    REQUIRE(eventually([&] {
      return column(proxy, "show nodes", cluster.address(1), "serves_reads") == "no";
    }));
    const std::string slow = "select current_setting('port') from pg_sleep(0.4)";
    const auto count = [&](const std::vector<Result>& results, const std::string& what) {
      int found = 0;
      for (const Result& one : results)
        found += (one.ok() ? node_name(cluster, one.scalar()) : one.code()) == what ? 1 : 0;
      return found;
    };
    // One of ten servers is for them; it serves one within the wait, and a writer has the other nine.
    std::vector<Result> results = all_at_once(proxy, 6, slow);
    CHECK(count(results, "primary") == 1);
    CHECK(count(results, "53000") == 5);
    for (const Result& one : results)
      if (!one.ok()) CHECK(one.detail().find("reason=primary_share") != std::string::npos);

    proxy.rewrite(config.set("routing", "spill_policy", "\"stale\""));
    CHECK(proxy.console().exec("reload").ok());
    results = all_at_once(proxy, 6, slow);
    CHECK(count(results, "primary") == 1);
    CHECK(count(results, "replica1") == 5);

    proxy.rewrite(config.set("routing", "spill_percent", "100"));
    CHECK(proxy.console().exec("reload").ok());
    CHECK(count(all_at_once(proxy, 6, slow), "primary") == 6);
    // Who waits for a server there is looked at again.
    CHECK(metric(proxy.metrics(), "pgsluice_spills_total", {"reason=\"stale\""}).value_or(0) >= 5);
    cluster.resume_replay(1);
  }

  TEST_CASE("requirement 35: connections to a node are begun at a pace, however many wait") {
    PgCluster& cluster = shared_cluster();
    ProxyProcess proxy(config_for(cluster)
                           .set("", "workers", "2")
                           .set("pool", "size", "40")
                           .set("pool", "connect_rate", "20")
                           .set("pool", "connect_parallel", "3")
                           .set("routing", "consistency", "\"primary\""));
    REQUIRE(proxy.ready(1));
    std::vector<std::unique_ptr<Connection>> clients;
    for (int i = 0; i < 20; ++i) clients.push_back(std::make_unique<Connection>(proxy.conninfo()));
    const double at_first = metric(proxy.metrics(), "pgsluice_servers_opened_total").value_or(0);
    Stopwatch watch;
    for (auto& client : clients) (void)client->send("select pg_sleep(0.4)");
    CHECK(stays(
        [&] {
          const double opened = metric(proxy.metrics(), "pgsluice_servers_opened_total").value_or(0) - at_first;
          // Asked for before, so what is allowed by now is no less.
          return opened <= 3 + 20 * static_cast<double>(watch.elapsed().count()) / 1000 + 1;
        },
        500ms));
    for (auto& client : clients) CHECK(client->finish().ok());
  }

  TEST_CASE("requirement 31: a node without room (53300) is not ejected; its pool makes do with less for a while") {
    PgCluster cluster({.replicas = 1});
    cluster.connect(0).exec("alter role app connection limit 4");
    cluster.wait_replicated();
    ProxyProcess proxy(config_for(cluster).set("pool", "size", "20").set("pool", "cap_recovery", "\"10s\""));
    REQUIRE(proxy.ready(1));
    for (const Result& one : all_at_once(proxy, 12, "select current_setting('port') from pg_sleep(0.1)"))
      CHECK(one.scalar() == std::to_string(cluster.port(1)));
    CHECK(column(proxy, "show breakers", cluster.address(1), "state") == "closed");
    std::optional<double> size;
    CHECK(eventually([&] {  // a connection may have been begun for who was served meanwhile, and be refused later
      size = metric(proxy.metrics(), "pgsluice_pool_size", {"node=\"" + cluster.address(1) + "\"", "user=\"app\""});
      return size && *size <= 4;
    }));
    CHECK(size.value_or(0) >= 1);
  }
}

}  // namespace
}  // namespace integration
