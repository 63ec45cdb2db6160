#include <atomic>
#include <cstdlib>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "tests/integration/fixture.h"

// What reads may not miss: the session's own writes, what it has read before, what a tenant has written, what a
// token says; while replicas stop, lag, die and take over. The checker and the drill grow with the environment:
// PGSLUICE_CONSISTENCY_SECONDS, PGSLUICE_DRILLS (bench/README.md).
using namespace integration;

namespace {

int from_environment(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoi(value);
}

bool is_replica(const std::string& node) { return node.rfind("replica", 0) == 0; }

// Replicas that stand still for a while, and go on whatever becomes of the test.
class Standstill {
 public:
  Standstill(PgCluster& cluster, std::vector<std::size_t> replicas)
      : cluster_(cluster), replicas_(std::move(replicas)) {
    for (const std::size_t replica : replicas_) cluster_.pause_replay(replica);
  }
  ~Standstill() { end(); }
  void end() {
    for (const std::size_t replica : std::exchange(replicas_, {})) cluster_.resume_replay(replica);
  }

 private:
  PgCluster& cluster_;
  std::vector<std::size_t> replicas_;
};

// ---- The checker: each session increments a row of its own and reads it back, and they hand tokens to each
// other.

struct Tally {
  std::atomic<long> pairs{0}, tokens{0}, at_replicas{0}, reads{0}, errors{0}, violations{0};
  std::mutex mutex;
  std::string first;  // violation

  void violated(const std::string& what) {
    ++violations;
    const std::lock_guard lock(mutex);
    if (first.empty()) first = what;
  }
};

struct Handed {
  std::size_t row;
  long value;
  std::string token;
};

class Checker {
 public:
  Checker(PgCluster& cluster, ProxyProcess& proxy, std::size_t sessions, std::string primary_port)
      : cluster_(cluster), proxy_(proxy), primary_port_(std::move(primary_port)) {
    for (std::size_t i = 0; i < sessions; ++i) threads_.emplace_back([this, i] { run(i); });
  }
  ~Checker() { stop(); }

  void stop() {
    stop_ = true;
    for (std::thread& thread : threads_)
      if (thread.joinable()) thread.join();
  }
  void primary_is(const std::string& port) {
    const std::lock_guard lock(mutex_);
    primary_port_ = port;
  }
  Tally tally;

 private:
  bool on_primary(const std::string& port) {
    const std::lock_guard lock(mutex_);
    return port == primary_port_;
  }

  // The value, or nothing after an error.
  std::optional<long> read(Connection& client, std::size_t row) {
    const Result result =
        client.exec("select n, current_setting('port') from checked where id = " + std::to_string(row));
    if (!result.ok() || result.rows() != 1) return std::nullopt;
    ++tally.reads;
    if (!on_primary(result.at(0, 1))) ++tally.at_replicas;
    return std::atol(result.at(0, 0).c_str());
  }

  void run(std::size_t row) {
    Connection client = proxy_.connect();
    long written = 0;
    std::vector<long> seen(64, 0);  // the highest value of each row
    for (long turn = 0; !stop_; ++turn) {
      if (!client.ok()) {
        client = proxy_.connect();
        std::fill(seen.begin(), seen.end(), 0);  // another session
        if (!client.ok()) std::this_thread::sleep_for(20ms);
        if (!client.ok()) continue;
      }
      const Result update = client.exec("update checked set n = n + 1 where id = " + std::to_string(row) +
                                        " returning n");
      if (update.ok()) {
        written = std::atol(update.scalar().c_str());
      } else {
        ++tally.errors;
        continue;
      }
      seen[row] = std::max(seen[row], written);
      for (int i = 0; i < 2; ++i) {
        const auto value = read(client, row);
        if (!value) {
          ++tally.errors;
          continue;
        }
        ++tally.pairs;
        if (*value < seen[row])
          tally.violated("session " + std::to_string(row) + " knew " + std::to_string(seen[row]) + ", read " +
                         std::to_string(*value));
        seen[row] = std::max(seen[row], *value);
      }
      if (turn % 4 == 0) hand_on(client, row, written);
      if (turn % 4 == 2) take(client, row, seen);
    }
  }

  void hand_on(Connection& client, std::size_t row, long written) {
    const Result token = client.exec("show pgsluice.lsn");
    if (!token.ok()) {
      ++tally.errors;
      return;
    }
    const std::lock_guard lock(mutex_);
    handed_.push_back({row, written, token.scalar()});
    if (handed_.size() > 16) handed_.erase(handed_.begin());
  }

  void take(Connection& client, std::size_t row, std::vector<long>& seen) {
    std::optional<Handed> found;
    {
      const std::lock_guard lock(mutex_);
      for (auto one = handed_.rbegin(); one != handed_.rend() && !found; ++one)
        if (one->row != row) found = *one;
    }
    if (!found) return;
    if (!client.exec("set pgsluice.lsn = '" + found->token + "'").ok()) {
      ++tally.errors;
      return;
    }
    const auto value = read(client, found->row);
    if (!value) {
      ++tally.errors;
      return;
    }
    ++tally.tokens;
    long& known = seen[found->row];
    known = std::max(known, found->value);
    if (*value < known)
      tally.violated("token " + found->token + " is for " + std::to_string(known) + ", read " +
                     std::to_string(*value));
    known = std::max(known, *value);
  }

  PgCluster& cluster_;
  ProxyProcess& proxy_;
  std::mutex mutex_;
  std::string primary_port_;
  std::vector<Handed> handed_;
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

long samples_sent(ProxyProcess& proxy) {
  return static_cast<long>(metric(proxy.metrics(), "pgsluice_samples_sent").value_or(0));
}

std::string told(const Tally& tally) {
  return std::to_string(tally.pairs) + " pairs, " + std::to_string(tally.tokens) + " tokens, " +
         std::to_string(tally.reads == 0 ? 0 : 100 * tally.at_replicas / tally.reads) + " % of " +
         std::to_string(tally.reads) + " reads at replicas, " + std::to_string(tally.errors) + " errors, " +
         std::to_string(tally.violations) + " violations " + tally.first;
}

}  // namespace

TEST_SUITE("integration/consistency") {
  TEST_CASE("promise 2: sessions read what they wrote at replicas that keep up, and nearly always there") {
    PgCluster& cluster = shared_cluster();
    Table table(cluster, "checked", "id int primary key, n bigint", "select i, 0 from generate_series(0, 63) i");
    ProxyProcess proxy(config_for(cluster).set("routing", "floor_wait", "\"20ms\""));
    REQUIRE(proxy.ready(2));
    const Stopwatch watch;
    const long before = samples_sent(proxy);
    Checker checker(cluster, proxy, 8, std::to_string(cluster.port(0)));
    const int seconds = from_environment("PGSLUICE_CONSISTENCY_SECONDS", 1);
    CHECK(eventually([&] { return watch.elapsed() > std::chrono::seconds(seconds) && checker.tally.tokens > 5; },
                     std::chrono::seconds(seconds + 10)));
    const double took = static_cast<double>(watch.elapsed().count()) / 1000.0;
    const long sampled = samples_sent(proxy) - before;
    checker.stop();
    MESSAGE(told(checker.tally), ", ", static_cast<double>(sampled) / took, " samples per second");
    CHECK(checker.tally.violations == 0);
    CHECK(checker.tally.errors == 0);
    CHECK(checker.tally.pairs > 20);
    CHECK(static_cast<double>(sampled) <= 200 * took + 2);
    CHECK(checker.tally.at_replicas * 2 > checker.tally.reads);
  }

  TEST_CASE("promise 2: also while replicas pause, lag, and die and come back with less than they had") {
    PgCluster cluster;
    Table table(cluster, "checked", "id int primary key, n bigint", "select i, 0 from generate_series(0, 63) i");
    ProxyProcess proxy(config_for(cluster).set("routing", "floor_wait", "\"20ms\""));
    REQUIRE(proxy.ready(2));
    Checker checker(cluster, proxy, 8, std::to_string(cluster.port(0)));
    const int seconds = from_environment("PGSLUICE_CONSISTENCY_SECONDS", 2);
    std::minstd_rand random(7);
    const Stopwatch watch;
    const auto moves_on = [&checker](long by) {
      const long from = checker.tally.pairs;
      return eventually([&] { return checker.tally.pairs > from + by; }, 30s);
    };
    for (int round = 0; round < 2 || watch.elapsed() < std::chrono::seconds(seconds); ++round) {
      const std::size_t replica = 1 + static_cast<std::size_t>(round) % 2;
      switch (round % 4) {
        case 0:
        case 2:
          cluster.pause_replay(replica);
          CHECK(moves_on(20));
          cluster.resume_replay(replica);
          break;
        case 1:
          cluster.crash(replica);
          CHECK(moves_on(20));
          cluster.start(replica);
          break;
        case 3:
          cluster.set(replica, "recovery_min_apply_delay = " + std::to_string(random() % 5000) + "\n");
          CHECK(moves_on(200));
          cluster.set(replica, "recovery_min_apply_delay = 0\n");
          break;
      }
      CHECK(moves_on(20));
    }
    checker.stop();
    MESSAGE(told(checker.tally));
    CHECK(checker.tally.violations == 0);
    CHECK(checker.tally.tokens > 0);
  }

  TEST_CASE("promise 2: a session never reads backwards, though replicas are apart") {
    PgCluster& cluster = shared_cluster();
    Table table(cluster, "monotonic", "n bigint", "values (0)");
    ProxyProcess proxy(config_for(cluster).set("routing", "consistency", "\"monotonic\""));
    REQUIRE(proxy.ready(2));
    const Standstill one(cluster, {1});
    const auto problems = at_once(6, [&](std::size_t i) -> std::string {
      if (i == 0) {
        Connection writer(cluster.conninfo(0, "app"));
        for (int n = 0; n < 300; ++n)
          if (!writer.exec("update monotonic set n = n + 1").ok()) return "no write";
        return "";
      }
      Connection client = proxy.connect();
      long seen = 0;
      for (int n = 0; n < 200; ++n) {
        const long now = std::atol(client.scalar("select n from monotonic").c_str());
        if (now < seen) return "read " + std::to_string(now) + " after " + std::to_string(seen);
        seen = now;
      }
      return "";
    });
    CHECK_MESSAGE(problems.empty(), joined(problems));
  }

  TEST_CASE("a read after a write waits for a replica, at most routing.floor_wait") {
    PgCluster& cluster = shared_cluster();
    Table table(cluster, "waits", "n bigint", "values (0)");
    ProxyProcess patient(config_for(cluster).set("routing", "floor_wait", "\"5s\""));
    ProxyProcess hasty(config_for(cluster).set("routing", "floor_wait", "\"0ms\""));
    REQUIRE(patient.ready(2));
    REQUIRE(hasty.ready(2));
    Connection client = patient.connect();
    for (int i = 0; i < 5; ++i) {
      CHECK(client.exec("update waits set n = n + 1").ok());
      CHECK(is_replica(who_answers(cluster, client)));
    }
    CHECK(metric(patient.metrics(), "pgsluice_floor_waits_total").value_or(0) >= 1);
    Connection other = hasty.connect();
    CHECK(other.exec("update waits set n = n + 1").ok());
    CHECK(who_answers(cluster, other) == "primary");
    CHECK(metric(hasty.metrics(), "pgsluice_floor_waits_total") == 0);
  }

  TEST_CASE("consistency tenant: what any session of a tenant has written, all of them read") {
    PgCluster& cluster = shared_cluster();
    Table table(cluster, "of_tenant", "n bigint", "values (0)");
    ProxyProcess proxy(config_for(cluster).set("", "workers", "2").set("database.app", "cluster", "\"main\"")
                           .set("database.app", "routing_consistency", "\"tenant\""));
    REQUIRE(proxy.ready(2));
    Standstill replicas(cluster, {1, 2});
    Connection writer = proxy.connect(), reader = proxy.connect(), other = proxy.connect();
    CHECK(reader.scalar("select n from of_tenant") == "0");
    CHECK(other.exec("set pgsluice.tenant = 'somebody else'").ok());
    CHECK(other.exec("set pgsluice.consistency = 'session'").ok());
    for (int n = 1; n <= 5; ++n) {
      CHECK(writer.exec("update of_tenant set n = n + 1").ok());
      CHECK(reader.scalar("select n from of_tenant") == std::to_string(n));
    }
    replicas.end();
    CHECK(eventually([&] { return is_replica(who_answers(cluster, reader)); }));
  }

  TEST_CASE("consistency strong: a read sees what anybody has committed, at a replica when one is there") {
    PgCluster& cluster = shared_cluster();
    Table table(cluster, "strong", "n bigint", "values (0)");
    ProxyProcess proxy(config_for(cluster).set("routing", "floor_wait", "\"2s\""));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect("app", "app", "sslmode=disable options=-cpgsluice.consistency=strong");
    Connection writer(cluster.conninfo(0, "app"));
    for (int n = 1; n <= 10; ++n) {
      CHECK(writer.exec("update strong set n = n + 1").ok());
      const Result read = client.exec("select n, current_setting('port') from strong");
      CHECK(read.scalar() == std::to_string(n));
      CHECK(is_replica(node_name(cluster, read.at(0, 1))));
    }
  }

  TEST_CASE("consistency token: SHOW pgsluice.lsn in one process, SET pgsluice.lsn in another") {
    PgCluster& cluster = shared_cluster();
    Table table(cluster, "tokens", "n bigint", "values (0)");
    ProxyProcess one(config_for(cluster).set("routing", "consistency", "\"token\""));
    ProxyProcess two(config_for(cluster).set("routing", "consistency", "\"token\""));
    REQUIRE(one.ready(2));
    REQUIRE(two.ready(2));
    Connection writer = one.connect(), reader = two.connect();
    const std::string nothing = writer.scalar("show pgsluice.lsn");
    CHECK(nothing.find('@') != std::string::npos);
    Standstill replicas(cluster, {1, 2});
    CHECK(writer.exec("update tokens set n = 1").ok());
    CHECK(reader.scalar("select n from tokens") == "0");
    for (int i = 0; i < 3; ++i) {
      const Result token = i == 0 ? writer.exec("show pgsluice.lsn")
                                  : writer.exec("show pgsluice.lsn", std::vector<std::optional<std::string>>{});
      REQUIRE(token.ok());
      CHECK(reader.exec("set pgsluice.lsn = '" + token.scalar() + "'").ok());
      CHECK(reader.scalar("select n from tokens") == "1");
      CHECK(reader.scalar("show pgsluice.lsn") >= token.scalar());
    }
    replicas.end();
    CHECK(eventually([&] { return is_replica(who_answers(cluster, reader)); }));
  }

  TEST_CASE("a token that is none, of another system, or ahead of everything is refused, and the connection stays") {
    PgCluster& cluster = shared_cluster();
    ProxyProcess proxy(config_for(cluster));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    const std::string good = client.scalar("show pgsluice.lsn");
    for (const std::string& bad : {std::string("x"), std::string(""), std::string("0/1@1.1"), std::string("FFFFFF/0"),
                                   "FFFFFF/0" + good.substr(good.find('@')), std::string(20000, '9')}) {
      CAPTURE(bad.substr(0, 40));
      const Result refused = client.exec("set pgsluice.lsn = '" + bad + "'");
      CHECK(refused.code() == "22023");
      CHECK(refused.detail().find("invalid_setting") != std::string::npos);
      CHECK(refused.message().size() < 200);
      CHECK(is_replica(who_answers(cluster, client)));
    }
    CHECK(client.exec("set pgsluice.lsn = '" + good + "'").ok());
    CHECK(client.exec("begin").ok());
    CHECK(client.exec("show pgsluice.lsn").code() == "25001");
    CHECK(client.exec("select 1").code() == "25P02");
    CHECK(client.exec("rollback").ok());
    CHECK(client.exec("update pg_am set amname = amname where false; show pgsluice.lsn").code() == "0A000");
    CHECK_FALSE(proxy.connect("app", "app", "sslmode=disable options=-cpgsluice.lsn=x").ok());
    // Nobody else is shown it.
    Connection other = proxy.connect();
    CHECK(other.scalar("select coalesce(current_setting('pgsluice.lsn', true), '')") == "");
  }

  TEST_CASE("a session may ask for the consistency that the configuration allows, and for no other") {
    PgCluster& cluster = shared_cluster();
    ProxyProcess proxy(config_for(cluster)
                           .set("routing", "weakest_consistency", "\"session\"")
                           .set("routing", "strongest_consistency", "\"strong\""));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    for (const char* allowed : {"session", "tenant", "strong"})
      CHECK(client.exec("set pgsluice.consistency = '" + std::string(allowed) + "'").ok());
    for (const char* refused : {"eventual", "monotonic", "token", "primary"})
      CHECK(client.exec("set pgsluice.consistency = '" + std::string(refused) + "'").code() == "42501");
    CHECK(client.exec("set pgsluice.consistency = 'nonsense'").code() == "22023");
    CHECK_FALSE(proxy.connect("app", "app", "sslmode=disable options=-cpgsluice.consistency=primary").ok());
    CHECK(is_replica(who_answers(cluster, client)));
  }
}
