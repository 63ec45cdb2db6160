#include <array>
#include <atomic>
#include <csignal>
#include <mutex>
#include <thread>

#include "tests/integration/fixture.h"
#include "tests/support/gate.h"
#include "tests/support/raw_client.h"

// Nodes that die, hang, lag, return and change roles. Each case has a cluster of its own.
using namespace integration;

namespace {

// Read load of several clients until it is destroyed; keeps what it saw.
class ReadLoad {
 public:
  ReadLoad(const PgCluster& cluster, ProxyProcess& proxy, std::size_t clients = 6,
           std::string sql = "select current_setting('port'), pg_sleep(0.001)")
      : cluster_(cluster), sql_(std::move(sql)) {
    for (std::size_t i = 0; i < clients; ++i) threads_.emplace_back([this, &proxy] { run(proxy); });
  }
  ~ReadLoad() { stop(); }

  void stop() {
    running_ = false;
    for (std::thread& thread : threads_)
      if (thread.joinable()) thread.join();
  }
  long served(std::size_t node) const { return served_[node]; }
  long total() const {
    long sum = 0;
    for (const auto& one : served_) sum += one;
    return sum;
  }
  long lost_connections() const { return lost_; }
  std::vector<std::string> errors() {
    const std::lock_guard lock(mutex_);
    return errors_;
  }
  std::chrono::milliseconds longest() const { return std::chrono::milliseconds(longest_.load()); }

 private:
  void run(ProxyProcess& proxy) {
    Connection client = proxy.connect();
    while (running_) {
      if (!client.ok()) {
        ++lost_;
        client = proxy.connect();
        std::this_thread::sleep_for(20ms);
        continue;
      }
      Stopwatch watch;
      const Result result = client.exec(sql_);
      const auto took = watch.elapsed().count();
      for (auto seen = longest_.load();
           took > seen && !longest_.compare_exchange_weak(seen, took);) {
      }
      if (!result.ok()) {
        const std::lock_guard lock(mutex_);
        errors_.push_back(result.scalar() + " " + result.detail());
        continue;
      }
      for (std::size_t i = 0; i < cluster_.size(); ++i)
        if (result.scalar() == std::to_string(cluster_.port(i))) ++served_[i];
    }
  }

  const PgCluster& cluster_;
  std::string sql_;
  std::vector<std::thread> threads_;
  std::atomic<bool> running_{true};
  std::array<std::atomic<long>, 8> served_{};
  std::atomic<long> lost_{0};
  std::atomic<std::int64_t> longest_{0};
  std::mutex mutex_;
  std::vector<std::string> errors_;
};

// Did `node` serve anything during 200 ms? A look, which takes that long; callers repeat it to a deadline.
bool serves(ReadLoad& load, std::size_t node) {
  const long before = load.served(node);
  std::this_thread::sleep_for(200ms);
  return load.served(node) > before;
}

}  // namespace

TEST_SUITE("integration/failure") {
  TEST_CASE(
      "promise 3: kill -9 of a replica under read load: only statements in flight there fail, "
      "traffic moves within 3 s and is back within 5 s") {
    PgCluster cluster;
    ProxyProcess proxy(config_for(cluster).unset("probe", "interval"));
    REQUIRE(proxy.ready(2));
    ReadLoad load(cluster, proxy, 6);
    REQUIRE(eventually([&] { return load.served(1) > 50 && load.served(2) > 50; }));
    cluster.crash(1);
    Stopwatch since_crash;
    CHECK(eventually([&] { return load.total() > 0 && !serves(load, 1) && serves(load, 2); }, 3s));
    CHECK(since_crash.elapsed() < 3s);
    const std::size_t errors_at_crash = load.errors().size();
    CHECK(errors_at_crash <= 6);  // one statement in flight per client at most
    for (const std::string& error : load.errors())
      CHECK_MESSAGE((error.rfind("08006", 0) == 0 || error.rfind("57P01", 0) == 0), error);
    CHECK(stays([&] { return load.errors().size() == errors_at_crash; }, 500ms));
    CHECK(load.lost_connections() == 0);
    cluster.start(1);
    Stopwatch since_return;
    CHECK(eventually([&] { return serves(load, 1); }, 5s));
    CHECK(since_return.elapsed() < 5s);
    load.stop();
    CHECK(load.errors().size() == errors_at_crash);
    CHECK(load.lost_connections() == 0);
  }

  TEST_CASE("a replica that hangs is noticed, and reads go elsewhere") {
    PgCluster cluster;
    ProxyProcess proxy(config_for(cluster)
                           .set("probe", "interval", "\"100ms\"")
                           .set("probe", "timeout", "\"500ms\""));
    REQUIRE(proxy.ready(2));
    ReadLoad load(cluster, proxy, 6);
    REQUIRE(eventually([&] { return load.served(1) > 20 && load.served(2) > 20; }));
    cluster.pause(1);
    CHECK(eventually([&] { return !serves(load, 1) && serves(load, 2); }, 4s));
    CHECK(eventually([&proxy, &cluster] { return !proxy.node_is(cluster.address(1), "up"); }, 4s));
    // Whoever was caught there gets an answer too, in bounded time.
    cluster.resume(1);
    CHECK(eventually([&] { return serves(load, 1); }, 5s));
    load.stop();
    CHECK(load.errors().size() <= 6);
  }

  TEST_CASE("promise 2: requirement 29: with replay paused, no read is older than max_lag") {
    PgCluster cluster;
    Table table(cluster, "failure_lag", "at timestamptz", "values (clock_timestamp())");
    ProxyProcess proxy(config_for(cluster)
                           .set("routing", "consistency", "\"eventual\"")
                           .set("routing", "max_lag", "\"1s\""));
    REQUIRE(proxy.ready(2));
    std::atomic<bool> running{true};
    std::thread writer([&] {  // the primary's time, twenty times a second, past the proxy
      Connection direct(cluster.conninfo(0, "app"));
      while (running) {
        direct.exec("update failure_lag set at = clock_timestamp()");
        std::this_thread::sleep_for(50ms);
      }
    });
    cluster.pause_replay(1);
    cluster.pause_replay(2);
    Connection client = proxy.connect();
    double oldest = 0;
    Stopwatch watch;
    while (watch.elapsed() < 4s) {
      // One machine, one clock: the age of the row is the age of the read.
      const std::string age =
          client.scalar("select extract(epoch from clock_timestamp() - at) from failure_lag");
      CHECK_MESSAGE(age.find(':') == std::string::npos, age);
      oldest = std::max(oldest, std::strtod(age.c_str(), nullptr));
      std::this_thread::sleep_for(10ms);
    }
    running = false;
    writer.join();
    CAPTURE(oldest);
    CHECK(oldest < 1.5);  // the limit, one probe interval, and the writer's own pace
    CHECK(who_answers(cluster, client) == "primary");
    cluster.resume_replay(1);
    CHECK(eventually([&] { return who_answers(cluster, client) == "replica1"; }, 5s));
    cluster.resume_replay(2);
  }

  TEST_CASE("requirement 29: an idle primary is not lag") {
    PgCluster cluster({.replicas = 1});
    ProxyProcess proxy(config_for(cluster).set("routing", "max_lag", "\"500ms\""));
    REQUIRE(proxy.ready(1));
    Connection client = proxy.connect();
    CHECK(stays([&] { return who_answers(cluster, client) == "replica1"; }, 2s));
  }

  TEST_CASE(
      "promise 7: requirement 33: reads survive the loss of the primary, writes wait, and go on after "
      "a promotion without a restart") {
    PgCluster cluster;
    Table table(cluster, "failure_promotion", "n int", "values (0)");
    ProxyProcess proxy(config_for(cluster).set("routing", "primary_wait", "\"20s\""));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    CHECK(client.exec("update failure_promotion set n = 1").ok());
    cluster.wait_replicated();
    cluster.crash(0);
    Connection reader = proxy.connect();
    for (int i = 0; i < 5; ++i) {
      CHECK(reader.scalar("select n from failure_promotion") == "1");
      std::this_thread::sleep_for(100ms);
    }
    Connection writer = proxy.connect();
    REQUIRE(writer.send("update failure_promotion set n = 2"));
    CHECK(stays([&writer] { return writer.busy(); }, 500ms));
    cluster.promote(1);
    cluster.follow(2, 1);
    CHECK(writer.finish().scalar() == "");
    CHECK(cluster.ask(1, "select n from failure_promotion") == "2");
    for (int i = 0; i < 5; ++i) CHECK(writer.scalar("select n from failure_promotion") == "2");
    CHECK(eventually([&proxy, &cluster] { return proxy.node_is(cluster.address(1), "primary"); }));
    const auto answers = [&] {
      Connection one = proxy.connect();
      return one.scalar("select current_setting('port')");
    };
    CHECK(eventually([&] { return answers() == std::to_string(cluster.port(2)); }));
  }

  TEST_CASE(
      "promise 7: requirement 32: nothing is written to an old primary that returns; requirement 16: "
      "statements prepared before a failover work after it") {
    PgCluster cluster({.replicas = 1});
    Table table(cluster, "failure_old", "n int", "values (0)");
    ProxyProcess proxy(config_for(cluster).set("routing", "primary_wait", "\"15s\""));
    REQUIRE(proxy.ready(1));
    Connection client = proxy.connect();
    CHECK(client.prepare("set", "update failure_old set n = $1").ok());
    CHECK(client.exec_prepared("set", {"1"}).ok());
    cluster.wait_replicated();
    cluster.crash(0);
    cluster.promote(1);
    CHECK(client.exec_prepared("set", {"2"}).ok());
    cluster.start(0);  // it believes that it is the primary, on the older timeline
    for (int i = 0; i < 30; ++i) {
      const Result written =
          client.exec("update failure_old set n = n + 1 returning current_setting('port')");
      if (written.ok()) CHECK(written.scalar() == std::to_string(cluster.port(1)));
      std::this_thread::sleep_for(50ms);
    }
    CHECK(cluster.ask(0, "select n from failure_old") == "1");
    CHECK(std::atoi(cluster.ask(1, "select n from failure_old").c_str()) >= 20);
  }

  TEST_CASE(
      "requirement 33: without a primary a write waits routing.primary_wait, then gets 57P03 and keeps "
      "its connection") {
    PgCluster cluster({.replicas = 1});
    ProxyProcess proxy(config_for(cluster).set("routing", "primary_wait", "\"500ms\""));
    REQUIRE(proxy.ready(1));
    Connection client = proxy.connect();
    CHECK(client.scalar("select 1") == "1");
    cluster.stop(0);
    REQUIRE(eventually([&] { return !proxy.node_is(cluster.address(0), "up"); }));
    Stopwatch watch;
    const Result refused = client.exec("create table nobody(a int)");
    CHECK(refused.code() == "57P03");
    CHECK(refused.severity() == "ERROR");
    CHECK(refused.detail().find("reason=no_primary") != std::string::npos);
    CHECK(watch.elapsed() >= 400ms);
    CHECK(watch.elapsed() < 4s);
    CHECK(client.scalar("select 2") == "2");
    cluster.start(0);
    CHECK(eventually([&] { return client.exec("create table if not exists somebody(a int)").ok(); },
                     10s));
  }

  TEST_CASE(
      "promise 3: a server lost in the middle of a write is 08006, the write is not repeated, the "
      "client stays") {
    PgCluster& cluster = shared_cluster();
    Table table(cluster, "failure_once", "n int", "values (0)");
    ProxyProcess proxy(config_for(cluster));
    Connection client = proxy.connect();
    CHECK(client.scalar("begin; select 1") == "1");
    CHECK(client.exec("commit").ok());
    REQUIRE(client.send("update failure_once set n = n + 1 from (select pg_sleep(2)) x"));
    REQUIRE(eventually([&cluster] {
      return cluster.ask(
                 0,
                 "select count(pg_terminate_backend(pid)) from pg_stat_activity where "
                 "usename = 'app' and query like 'update failure_once%' and state = 'active'") ==
             "1";
    }));
    const Result lost = client.finish();
    CHECK_MESSAGE((lost.code() == "08006" || lost.code() == "57P01"), lost.scalar());
    CHECK(lost.severity() == "ERROR");
    CHECK(client.ok());
    CHECK(client.scalar("begin; select n from failure_once") == "0");
  }

  TEST_CASE("requirement 8: servers that Postgres closes while idle are replaced unnoticed") {
    PgCluster& cluster = shared_cluster();
    ProxyProcess proxy(config_for(cluster));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    for (int round = 0; round < 5; ++round) {
      CHECK(client.scalar("select 1") == "1");
      CHECK(client.scalar("begin; select 2") == "2");
      CHECK(client.exec("commit").ok());
      for (std::size_t node = 0; node < cluster.size(); ++node)
        cluster.ask(
            node,
            "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'app'");
      for (std::size_t node = 0; node < cluster.size(); ++node)
        CHECK(eventually([&, node] { return backends(cluster, node) == 0; }));
      std::this_thread::sleep_for(20ms);  // what Postgres said on its way out must reach the proxy
    }
    CHECK(client.scalar("select 3") == "3");
  }

  TEST_CASE("requirement 28: a start with every node down waits for them") {
    PgCluster cluster({.replicas = 1});
    cluster.stop(1);
    cluster.stop(0);
    ProxyProcess proxy(config_for(cluster).set("routing", "primary_wait", "\"300ms\""));
    CHECK(proxy.console().ok());
    cluster.start(0);
    cluster.start(1);
    CHECK(eventually([&] { return proxy.connect().scalar("select 1") == "1"; }, 10s));
    CHECK(eventually(
        [&] { return proxy.connect().exec("create table if not exists t(a int)").ok(); }, 10s));
  }

  TEST_CASE(
      "requirement 13: a network that cuts an answer in its middle costs that client its connection at "
      "most, nobody else anything") {
    PgCluster& cluster = shared_cluster();
    Gate gate(cluster.port(0));
    ProxyProcess proxy(config_for(cluster).servers({gate.address()}).set("pool", "size", "4"));
    REQUIRE(proxy.ready(0));
    Connection bystander = proxy.connect();
    CHECK(bystander.scalar("select 1") == "1");
    for (const std::size_t bytes : {1UL, 5UL, 100UL, 70000UL}) {
      CAPTURE(bytes);
      Connection client = proxy.connect();
      REQUIRE_MESSAGE(client.ok(), client.error());
      gate.cut_after(1UL << 40U);
      REQUIRE(client.send("select pg_sleep(0.05), repeat('x', 1000) from generate_series(1, 1000)"));
      std::this_thread::sleep_for(50ms);
      gate.cut_after(bytes);
      const Result result = client.finish();
      CHECK(!result.ok());
      gate.cut_after(1UL << 40U);
      CHECK(eventually([&] {
        if (!bystander.ok()) return false;
        return bystander.scalar("select 2") == "2";
      }));
    }
  }

  TEST_CASE("an answer that arrives together with the server's last words is whole, and the client stays") {
    PgCluster& cluster = shared_cluster();
    Gate gate(cluster.port(0));
    ProxyProcess proxy(config_for(cluster).servers({gate.address()}).set("pool", "size", "1"));
    REQUIRE(proxy.ready(0));
    Connection direct(cluster.conninfo(0, "postgres"));
    Connection client = proxy.connect();
    const std::string pid = client.scalar("begin; select pg_backend_pid()");
    client.exec("commit");
    const auto state_is = [&](const std::string& wanted) {
      return eventually([&] {
        return direct.scalar("select coalesce((select state from pg_stat_activity where pid = " + pid +
                             "), 'gone')") == wanted;
      });
    };
    REQUIRE(client.send("select pg_sleep(0.2), 'an answer'"));
    REQUIRE(state_is("active"));
    gate.stop();
    REQUIRE(state_is("idle"));
    REQUIRE(direct.exec("select pg_terminate_backend(" + pid + ")").ok());
    REQUIRE(state_is("gone"));
    gate.go();
    CHECK(client.finish().ok());
    CHECK(client.scalar("select 'still here'") == "still here");
  }

  TEST_CASE("a node behind a hung network does not delay reads of the others") {
    PgCluster& cluster = shared_cluster();
    Gate gate(cluster.port(1));
    ProxyProcess proxy(config_for(cluster)
                           .servers({cluster.address(0), gate.address(), cluster.address(2)})
                           .set("probe", "timeout", "\"500ms\""));
    REQUIRE(proxy.ready(2));
    gate.stop();
    CHECK(eventually([&] { return !proxy.node_is(gate.address(), "up"); }, 5s));
    Connection client = proxy.connect();
    for (int i = 0; i < 20; ++i) {
      Stopwatch watch;
      CHECK(client.scalar("select 1") == "1");
      CHECK(watch.elapsed() < 500ms);
    }
    gate.go();
    CHECK(eventually([&] { return proxy.node_is(gate.address(), "up"); }, 5s));
  }
}
