#include <atomic>
#include <thread>

#include "tests/integration/fixture.h"

// Who is served where servers are short, and what the others hear. The drills with figures are bench/admission.
using namespace integration;

namespace {

// A slow machine is no reason for self-protection here.
ProxyConfig config() {
  return config_for(shared_cluster()).set("limits", "loop_delay", "0").set("", "workers", "1");
}

std::string reason(const Result& result) { return result.detail(); }
bool has_reason(const Result& result, const std::string& why) {
  return reason(result).find("reason=" + why) != std::string::npos;
}

// A client's session with a class of its own.
Connection of_class(const ProxyProcess& proxy, const std::string& service_class,
                    const std::string& tenant = "app") {
  return proxy.connect("app", "app",
                       "sslmode=disable application_name=" + tenant + " options='-c pgsluice.class=" +
                           service_class + "'");
}

// Takes all servers of the pool until it is told to give them back.
struct Hold {
  Hold(const ProxyProcess& proxy, int servers) {
    for (int i = 0; i < servers; ++i) {
      holders.push_back(proxy.connect());
      REQUIRE(holders.back().exec("begin").ok());
      REQUIRE(holders.back().exec("select pg_backend_pid(), txid_current()").ok());
    }
  }
  void release() {
    for (Connection& holder : holders) CHECK(holder.exec("commit").ok());
  }
  std::vector<Connection> holders;
};

std::string state(Connection& console, const std::string& key) {
  const Result rows = console.exec("show state");
  for (int row = 0; row < rows.rows(); ++row)
    if (rows.at(row, "key") == key) return rows.at(row, "value");
  return "";
}

bool waits(Connection& console, std::size_t clients) {
  return eventually([&] { return state(console, "waiting") == std::to_string(clients); });
}

constexpr const char* kOnPrimary = "select txid_current()";
// When it ran, in microseconds; on the primary.
constexpr const char* kWhen =
    "select (extract(epoch from clock_timestamp()) * 1000000)::bigint, txid_current()";

}  // namespace

TEST_SUITE("integration/admission") {
  TEST_CASE(
      "a busy pool alone refuses nobody: clients wait, as long as pool.queue_timeout, first come first "
      "served") {
    ProxyProcess proxy(config().set("pool", "size", "1"));
    Connection console = proxy.console();
    std::vector<Connection> clients;
    for (int i = 0; i < 6; ++i) clients.push_back(proxy.connect());
    Hold hold(proxy, 1);
    for (std::size_t i = 0; i < clients.size(); ++i) {
      REQUIRE(clients[i].send(kWhen));
      REQUIRE(waits(console, i + 1));
    }
    const Result queues = console.exec("show queues");
    REQUIRE(queues.rows() == 1);
    CHECK(queues.at(0, "class") == "high");
    CHECK(queues.at(0, "tenant") == "app");
    CHECK(queues.at(0, "waiting") == "6");
    CHECK(stays([&] { return state(console, "waiting") == "6"; }, 400ms));  // longer than any interval
    hold.release();
    long last = 0;
    for (Connection& client : clients) {
      const Result result = client.finish();
      REQUIRE(result.ok());
      CHECK(std::stol(result.scalar()) > last);
      last = std::stol(result.scalar());
    }
    CHECK(waits(console, 0));
  }

  TEST_CASE(
      "critical statements go before those that wait already, sheddable ones behind; a session only "
      "lowers itself") {
    ProxyProcess proxy(config()
                           .set("pool", "size", "1")
                           .set("class.sheddable", "deadline", "\"20s\"")
                           .set("class.sheddable", "target", "0")
                           .set("user.other", "class", "\"critical\""));
    Connection console = proxy.console();
    Connection shed = of_class(proxy, "sheddable");
    Connection claims = of_class(proxy, "critical");  // of a user who is high
    Connection high = proxy.connect();
    Hold hold(proxy, 1);
    std::size_t waiting = 0;
    for (Connection* client : {&shed, &claims, &high}) {
      REQUIRE(client->send(kWhen));
      REQUIRE(waits(console, ++waiting));
    }
    const Result queues = console.exec("show queues");
    REQUIRE(queues.rows() == 2);
    CHECK(queues.at(0, "class") == "high");
    CHECK(queues.at(0, "waiting") == "2");
    hold.release();
    const long of_shed = std::stol(shed.finish().scalar());
    CHECK(std::stol(claims.finish().scalar()) < of_shed);
    CHECK(std::stol(high.finish().scalar()) < of_shed);
  }

  TEST_CASE("SET pgsluice.class counts from the next statement on, and RESET takes it back") {
    ProxyProcess proxy(config().set("pool", "size", "1").set("class.low", "deadline", "\"100ms\""));
    Connection client = proxy.connect();
    REQUIRE(client.exec("set pgsluice.class = 'low'").ok());
    Hold hold(proxy, 1);
    const Result refused = client.exec(kOnPrimary);
    CHECK(refused.code() == "53000");
    CHECK(has_reason(refused, "queue_deadline"));
    CHECK(reason(refused).find("retry_after_ms=") != std::string::npos);
    CHECK(client.ok());
    hold.release();
    REQUIRE(client.exec("reset pgsluice.class").ok());
    Hold again(proxy, 1);
    REQUIRE(client.send(kOnPrimary));
    CHECK(stays([&] { return client.busy(); }, 300ms));
    again.release();
    CHECK(client.finish().ok());
  }

  TEST_CASE("SET CLASS puts a tenant's statements, also of sessions that are there, into another class until it ends") {
    ProxyProcess proxy(config()
                           .set("pool", "size", "1")
                           .set("tenant", "by", "\"application_name\"")
                           .set("class.low", "deadline", "\"100ms\""));
    Connection console = proxy.console();
    Connection noisy = of_class(proxy, "high", "noisy"), quiet = of_class(proxy, "high", "quiet");
    CHECK(console.exec("SET CLASS noisy nonsense").code() == "42704");
    CHECK(console.exec("SET CLASS noisy low RATE 1").code() == "42601");
    CHECK(console.exec("UNSET CLASS noisy").code() == "55000");
    Hold hold(proxy, 1);
    CHECK(console.exec("SET CLASS noisy low FOR 10m").ok());
    const Result orders = console.exec("SHOW BLOCKS");
    REQUIRE(orders.rows() == 1);
    CHECK(orders.at(0, "name") == "noisy");
    CHECK(orders.at(0, "limit") == "class low");
    CHECK(console.exec("RELOAD").ok());
    REQUIRE(quiet.send(kOnPrimary));
    CHECK(has_reason(noisy.exec(kOnPrimary), "queue_deadline"));
    Connection later = of_class(proxy, "high", "noisy");
    CHECK(has_reason(later.exec(kOnPrimary), "queue_deadline"));
    CHECK(quiet.busy());
    CHECK(console.exec("UNSET CLASS noisy").ok());
    REQUIRE(noisy.send(kOnPrimary));
    CHECK(stays([&] { return noisy.busy(); }, 300ms));
    hold.release();
    CHECK(noisy.finish().ok());
    CHECK(quiet.finish().ok());
    CHECK(console.exec("SET CLASS noisy low FOR 50ms").ok());
    CHECK(eventually([&] { return console.exec("SHOW BLOCKS").rows() == 0; }));
  }

  TEST_CASE(
      "a queue that stands refuses with 53000 queue_deadline and keeps the connection; its end ends the "
      "refusals") {
    ProxyProcess proxy(config()
                           .set("pool", "size", "2")
                           .set("class.high", "target", "\"10ms\"")
                           .set("class.high", "interval", "\"100ms\""));
    std::atomic<int> served{0}, refused{0};
      Stopwatch watch;
    // Closed loop of 16 clients on two servers of 20 ms each: nobody would wait less than 100 ms.
    const auto problems = at_once(16, [&](std::size_t number) -> std::string {
      Connection client = proxy.connect();
      while (watch.elapsed() < 1200ms) {
        const Result result = client.exec("select pg_sleep(0.02), txid_current()");
        if (result.ok())
          ++served;
        else if (result.code() == "53000" && has_reason(result, "queue_deadline"))
          ++refused;
        else
          return result.scalar();
        if (number == 0) continue;
        if (!client.ok()) return "disconnected";
      }
      return "";
    });
    CHECK_MESSAGE(problems.empty(), joined(problems));
    CHECK(refused > 0);
    CHECK(served > 20);
    Connection after = proxy.connect();
    CHECK(after.exec(kOnPrimary).ok());
    CHECK(metric(proxy.metrics(), "pgsluice_refusals_total", {"reason=\"queue_deadline\""}) == refused.load());
  }

  TEST_CASE(
      "promise 6: a tenant with many waiting statements does not put another's at the end of the queue") {
    ProxyProcess proxy(config().set("pool", "size", "1").set("tenant", "by", "\"application_name\""));
    Connection console = proxy.console();
    const auto of_tenant = [&proxy](const std::string& tenant) {
      return proxy.connect("app", "app", "sslmode=disable application_name=" + tenant);
    };
    std::vector<Connection> crowd;
    for (int i = 0; i < 12; ++i) crowd.push_back(of_tenant("crowd"));
    Connection small = of_tenant("small");
    Hold hold(proxy, 1);
    for (Connection& client : crowd) REQUIRE(client.send(kWhen));
    REQUIRE(waits(console, 12));
    REQUIRE(small.send(kWhen));
    REQUIRE(waits(console, 13));
    hold.release();
    const long of_small = std::stol(small.finish().scalar());
    int before = 0;
    for (Connection& client : crowd) before += std::stol(client.finish().scalar()) < of_small;
    CHECK(before <= 2);
  }

  TEST_CASE(
      "queues are bounded in all and per tenant: one more hears 53000 queue_full at once and stays "
      "connected") {
    ProxyProcess proxy(config()
                           .set("pool", "size", "1")
                           .set("pool", "max_waiting", "3")
                           .set("tenant", "by", "\"application_name\"")
                           .set("tenant.small", "max_waiting", "1"));
    Connection console = proxy.console();
    std::vector<Connection> clients;
    for (const char* tenant : {"small", "small", "large", "large", "large"})
      clients.push_back(proxy.connect("app", "app", std::string("sslmode=disable application_name=") + tenant));
    Hold hold(proxy, 1);
    const auto refused = [](Connection& client) {
      Stopwatch watch;
      const Result result = client.exec(kOnPrimary);
      CHECK(result.code() == "53000");
      CHECK(has_reason(result, "queue_full"));
      CHECK(watch.elapsed() < 1s);
      CHECK(client.ok());
    };
    REQUIRE(clients[0].send(kOnPrimary));
    REQUIRE(waits(console, 1));
    refused(clients[1]);
    for (std::size_t waiting : {2, 3}) {
      REQUIRE(clients[waiting].send(kOnPrimary));
      REQUIRE(waits(console, waiting));
    }
    refused(clients[4]);
    hold.release();
    for (std::size_t i : {0, 2, 3}) CHECK(clients[i].finish().ok());
    CHECK(clients[4].exec(kOnPrimary).ok());
    const Result tenants = console.exec("show tenants");
    for (int row = 0; row < tenants.rows(); ++row) CHECK(tenants.at(row, "waiting") == "0");
  }

  TEST_CASE("a ceiling leaves servers to those above it, and a tenant's ceiling to its neighbours") {
    ProxyProcess proxy(config()
                           .set("pool", "size", "4")
                           .set("class.low", "ceiling", "50")
                           .set("class.low", "deadline", "\"200ms\"")
                           .set("tenant", "by", "\"application_name\"")
                           .set("tenant.much", "ceiling", "50"));
    Connection console = proxy.console();
    {
      std::vector<Connection> low;
      for (int i = 0; i < 2; ++i) {
        low.push_back(of_class(proxy, "low"));
        REQUIRE(low.back().exec("begin").ok());
        REQUIRE(low.back().exec(kOnPrimary).ok());
      }
      Connection third = of_class(proxy, "low");
      CHECK(has_reason(third.exec(kOnPrimary), "queue_deadline"));
      Connection high = proxy.connect();
      CHECK(high.exec(kOnPrimary).ok());  // beside an idle server that low ones may not have
      REQUIRE(low[0].exec("commit").ok());
      CHECK(third.exec(kOnPrimary).ok());
      REQUIRE(low[1].exec("commit").ok());
    }
    std::vector<Connection> much;
    for (int i = 0; i < 2; ++i) {
      much.push_back(proxy.connect("app", "app", "sslmode=disable application_name=much"));
      REQUIRE(much.back().exec("begin").ok());
      REQUIRE(much.back().exec(kOnPrimary).ok());
    }
    Connection third = proxy.connect("app", "app", "sslmode=disable application_name=much");
    REQUIRE(third.send(kOnPrimary));
    REQUIRE(waits(console, 1));
    Connection neighbour = proxy.connect("app", "app", "sslmode=disable application_name=little");
    CHECK(neighbour.exec(kOnPrimary).ok());
    CHECK(third.busy());
    REQUIRE(much[0].exec("commit").ok());
    CHECK(third.finish().ok());
    REQUIRE(much[1].exec("commit").ok());
  }

  TEST_CASE(
      "a tenant pays for its servers' time: after a long statement the next is refused until it is paid") {
    ProxyProcess proxy(config()
                           .set("tenant", "rate_wait", "\"10ms\"")
                           .set("tenant.app", "server_time", "200")
                           .set("tenant.app", "server_burst", "50"));
    Connection client = proxy.connect();
    REQUIRE(client.exec("select 1").ok());
    REQUIRE(client.exec("select pg_sleep(0.2)").ok());  // a second's worth
    const Result refused = client.exec("select 1");
    CHECK(refused.code() == "53400");
    CHECK(has_reason(refused, "tenant_server_time"));
    CHECK(client.ok());
    CHECK(proxy.connect("other").exec("select 1").ok());
    CHECK(eventually([&] { return client.exec("select 1").ok(); }, 5s, 50ms));
  }

  TEST_CASE(
      "as many writes wait for a primary as routing.primary_waiters says; one more hears 57P03 at once") {
    PgCluster cluster({.replicas = 0});
    ProxyProcess proxy(config_for(cluster)
                           .set("limits", "loop_delay", "0")
                           .set("routing", "primary_wait", "\"20s\"")
                           .set("routing", "primary_waiters", "2"));
    Connection console = proxy.console();
    std::vector<Connection> clients;
    for (int i = 0; i < 3; ++i) clients.push_back(proxy.connect());
    for (Connection& client : clients) REQUIRE(client.exec(kOnPrimary).ok());
    cluster.stop(0);
    REQUIRE(eventually([&] { return proxy.node_is(cluster.address(0), "unknown") || !cluster.is_up(0); }));
    for (std::size_t i = 0; i < 2; ++i) {
      REQUIRE(clients[i].send("select txid_current()"));
      REQUIRE(eventually([&] { return state(console, "held_writes") == std::to_string(i + 1); }));
    }
    const Result refused = clients[2].exec(kOnPrimary);
    CHECK(refused.code() == "57P03");
    CHECK(has_reason(refused, "no_primary"));
    CHECK(clients[2].ok());
    cluster.start(0);
    for (std::size_t i = 0; i < 2; ++i) CHECK(clients[i].finish().ok());
    CHECK(clients[2].exec(kOnPrimary).ok());
    CHECK(state(console, "held_writes") == "0");
  }

  TEST_CASE(
      "a replica that a class has to itself serves nobody else, and without overflow the class nowhere "
      "else") {
    PgCluster& cluster = shared_cluster();
    ProxyProcess proxy(config()
                           .set("class.low", "nodes", "[" + quoted(cluster.address(2)) + "]")
                           .set("class.low", "overflow", "false"));
    REQUIRE(proxy.ready(2));
    Connection high = proxy.connect();
    Connection low = of_class(proxy, "low");
    const std::string ask = "select inet_server_port()";
    for (int i = 0; i < 20; ++i) {
      CHECK(high.scalar(ask) == std::to_string(cluster.port(1)));
      CHECK(low.scalar(ask) == std::to_string(cluster.port(2)));
    }
    CHECK(low.exec(kOnPrimary).ok());  // what must go to the primary goes there
  }

  TEST_CASE("who waits long at a replica is not moved to one that another class has to itself") {
    PgCluster& cluster = shared_cluster();
    ProxyProcess proxy(config()
                           .set("class.low", "nodes", "[" + quoted(cluster.address(2)) + "]")
                           .set("pool", "size", "1"));
    REQUIRE(proxy.ready(2));
    const auto ask = [&proxy](std::size_t) {
      Connection client = proxy.connect("app", "app", "sslmode=disable options=-cpgsluice.consistency=eventual");
      for (int i = 0; i < 10; ++i) {
        const std::string node = client.scalar("select inet_server_port() from pg_sleep(0.01)");
        if (node == std::to_string(shared_cluster().port(2))) return std::string("at the other class's");
      }
      return std::string();
    };
    CHECK(joined(at_once(8, ask)) == "");
  }

  TEST_CASE("a tenant with a subset of the replicas reads there alone, also when they are gone") {
    PgCluster cluster({.replicas = 2});
    ProxyProcess proxy(config_for(cluster)
                           .set("limits", "loop_delay", "0")
                           .set("tenant", "by", "\"application_name\"")
                           .set("tenant", "replicas", "1")
                           .set("tenant.everywhere", "replicas", "0"));
    REQUIRE(proxy.ready(2));
    const auto of_tenant = [&proxy](const std::string& name) {
      return proxy.connect("app", "app", "sslmode=disable application_name=" + name +
                                             " options=-cpgsluice.consistency=eventual");
    };
    const auto reads_at = [&cluster](Connection& client) {
      std::set<std::string> nodes;
      for (int i = 0; i < 40; ++i) nodes.insert(who_answers(cluster, client));
      return nodes;
    };
    const std::set<std::string> both = {"replica1", "replica2"};
    Connection everywhere = of_tenant("everywhere");
    CHECK(reads_at(everywhere) == both);
    std::set<std::string> seen;
    std::string confined;  // one whose replica is the first
    for (int i = 0; i < 20; ++i) {
      const std::string name = "tenant" + std::to_string(i);
      Connection client = of_tenant(name);
      const std::set<std::string> nodes = reads_at(client);
      REQUIRE(nodes.size() == 1);
      Connection again = of_tenant(name);
      CHECK(reads_at(again) == nodes);
      seen.insert(nodes.begin(), nodes.end());
      if (*nodes.begin() == "replica1") confined = name;
    }
    CHECK(seen == both);
    REQUIRE(confined != "");
    const Result tenants = proxy.console().exec("SHOW TENANTS");
    for (int row = 0; row < tenants.rows(); ++row)
      CHECK(tenants.at(row, "replicas") == (tenants.at(row, "tenant") == "everywhere" ? "0" : "1"));
    Connection client = of_tenant(confined);
    const auto says = [&client](const std::string& node) {
      const Result told = client.exec("explain route select 1");
      for (int row = 0; row < told.rows(); ++row)
        if (told.at(row, "property") == "candidate " + node) return told.at(row, "value");
      return std::string();
    };
    CHECK(says(cluster.address(1)).starts_with("eligible"));
    CHECK(says(cluster.address(2)).starts_with("not eligible: kept from this class or tenant"));
    cluster.crash(1);
    CHECK(eventually([&] { return reads_at(client) == std::set<std::string>{"primary"}; }));
    CHECK(eventually([&] { return reads_at(everywhere) == std::set<std::string>{"replica2"}; }));
    cluster.start(1);
    CHECK(eventually([&] { return reads_at(client) == std::set<std::string>{"replica1"}; }));
  }

  TEST_CASE("where half of the replicas are out, sheddable statements are not served, until they are back") {
    PgCluster cluster({.replicas = 2});
    ProxyProcess proxy(
        config_for(cluster).set("limits", "loop_delay", "0").set("limits", "protection_hold", "\"100ms\""));
    REQUIRE(proxy.ready(2));
    Connection console = proxy.console(), high = proxy.connect(), sheddable = of_class(proxy, "sheddable");
    REQUIRE(sheddable.exec("select 1").ok());
    cluster.stop(1);
    REQUIRE(eventually([&] { return !proxy.node_is(cluster.address(1), "up"); }));
    CHECK(stays([&] { return state(console, "protection_level") == "0"; }, 1s));  // one alone is what they are for
    CHECK(sheddable.exec("select 1").ok());
    cluster.stop(2);
    REQUIRE(eventually([&] { return state(console, "protection_level") == "1"; }));
    CHECK(state(console, "protection_reason") == "replicas_out");
    CHECK(metric(proxy.metrics(), "pgsluice_protection_level", {"reason=\"replicas_out\""}) == 1);
    CHECK(eventually([&] { return has_reason(sheddable.exec("select 1"), "overloaded"); }));
    CHECK(high.exec("select 1").ok());
    CHECK(high.exec(kOnPrimary).ok());
    cluster.start(2);
    CHECK(eventually([&] { return state(console, "protection_level") == "0"; }));
    CHECK(eventually([&] { return sheddable.exec("select 1").ok(); }));
  }

  TEST_CASE("a process that protects itself reads eventually from replicas that are up to twice as late") {
    PgCluster cluster({.replicas = 1});
    cluster.set(1, "recovery_min_apply_delay = '3s'\n");
    ProxyProcess proxy(config_for(cluster)
                           .set("", "workers", "1")
                           .set("limits", "loop_delay", "0")
                           .set("limits", "protection_hold", "\"100ms\"")
                           .set("user.app", "class", "\"critical\"")
                           .set("routing", "max_lag", "\"2s\""));
    REQUIRE(proxy.ready(1));
    Connection console = proxy.console();
    const auto with = [&proxy](const std::string& consistency) {
      return proxy.connect("app", "app", "sslmode=disable options=-cpgsluice.consistency=" + consistency);
    };
    Connection eventual = with("eventual"), session = with("session");
    REQUIRE(eventual.ok());
    REQUIRE(session.ok());
    Connection writer(cluster.conninfo(0, "app"));
    CHECK(writer.exec("create table late_by_three (n int)").ok());
    // A node that has everything is not late: the lag is seen while there is something to replay.
    const auto reads_at = [&](Connection& client) {
      (void)writer.exec("insert into late_by_three values (1)");
      return who_answers(cluster, client);
    };
    REQUIRE(eventually([&] { return reads_at(eventual) == "primary"; }));
    REQUIRE(stays([&] { return reads_at(eventual) == "primary"; }, 500ms));
    REQUIRE(console.exec("set limits.memory = '1MiB'").ok());
    CHECK(eventually([&] { return reads_at(eventual) == "replica1"; }));
    CHECK(reads_at(session) == "primary");
    REQUIRE(console.exec("set limits.memory = '0'").ok());
    CHECK(eventually([&] { return reads_at(eventual) == "primary"; }));
    cluster.set(1, "recovery_min_apply_delay = 0\n");
  }

  TEST_CASE(
      "where memory runs out only critical statements are served, nobody new is let in, and it ends by "
      "itself") {
    ProxyProcess proxy(config()
                           .set("user.other", "class", "\"critical\"")
                           .set("limits", "protection_hold", "\"100ms\""));
    Connection console = proxy.console();
    Connection high = proxy.connect("app"), critical = proxy.connect("other");
    REQUIRE(high.exec(kOnPrimary).ok());
    REQUIRE(console.exec("set limits.memory = '1MiB'").ok());
    REQUIRE(eventually([&] { return state(console, "protection_level") == "4"; }));
    CHECK(state(console, "protection_reason") == "memory");
    CHECK(eventually([&] { return high.exec(kOnPrimary).code() == "53000"; }));
    CHECK(has_reason(high.exec(kOnPrimary), "overloaded"));
    CHECK(high.ok());
    CHECK(critical.exec(kOnPrimary).ok());
    Connection late(proxy.conninfo());
    CHECK(!late.ok());
    CHECK(late.error().find("protects itself") != std::string::npos);
    CHECK(metric(proxy.metrics(), "pgsluice_protection_level", {"reason=\"memory\""}) == 4);
    REQUIRE(console.exec("set limits.memory = '0'").ok());
    CHECK(eventually([&] { return state(console, "protection_level") == "0"; }));
    CHECK(eventually([&] { return high.exec(kOnPrimary).ok(); }));
    const Result classes = console.exec("show classes");
    CHECK(classes.rows() == 4);
    CHECK(classes.at(3, "class") == "sheddable");
    CHECK(classes.at(3, "served") == "yes");
  }
}
