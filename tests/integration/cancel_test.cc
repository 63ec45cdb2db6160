#include <algorithm>
#include <future>
#include <string_view>
#include <thread>
#include <utility>

#include "tests/integration/fixture.h"
#include "tests/support/gate.h"
#include "tests/support/raw_client.h"

// A cancel reaches the statement that it was meant for, and nothing else.
using namespace integration;

namespace {

// A client whose statement ends by itself while its cancel is held up before the node.
struct LateCancel {
  RawClient client, canceller;

  LateCancel(const ProxyProcess& proxy, Gate& gate) : client(proxy.port()), canceller(proxy.port()) {
    REQUIRE(client.login());
    client.send(query_message("select pg_sleep(1)"));
    gate.hold(std::string("\x04\xd2\x16\x2e", 4));
    // It may come before the statement has begun, and then leads nowhere.
    CHECK(stays([this] { return !client.read(1ms); }, 200ms));
    canceller.send(cancel_request(client.pid, client.key));
    REQUIRE(eventually([&gate] { return gate.held(); }));
  }
};

}  // namespace

TEST_SUITE("integration/cancel") {
  TEST_CASE(
      "[postgres] requirement 21: a running statement is cancelled with 57014, and the connection stays") {
    ProxyProcess proxy(config_for(shared_cluster()));
    Connection client = proxy.connect();
    for (int i = 0; i < 3; ++i) {
      REQUIRE(client.send("select pg_sleep(30)"));
      CHECK(eventually([] {
        PgCluster& cluster = shared_cluster();
        for (std::size_t node = 0; node < cluster.size(); ++node) {
          if (cluster.ask(node,
                          "select count(*) from pg_stat_activity where usename = 'app' and state = "
                          "'active' and query like '%pg_sleep%'") == "1")
            return true;
        }
        return false;
      }));
      Stopwatch watch;
      CHECK(client.cancel());
      CHECK(client.finish().code() == "57014");
      CHECK(watch.elapsed() < 3s);
      CHECK(client.scalar("select 1") == "1");
    }
  }

  TEST_CASE(
      "promise 4: requirement 21: a cancel hits only its own client's statement, whatever servers they "
      "share") {
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "4"));
    const auto problems = at_once(12, [&proxy](std::size_t i) -> std::string {
      Connection client = proxy.connect();
      if (!client.ok()) return client.error();
      for (int round = 0; round < 15; ++round) {
        if (i % 2 == 0) {  // those who cancel: at once, late, or when it is over
          client.send(round % 3 == 0 ? "select 1" : "select pg_sleep(20)");
          if (round % 3 != 1) std::this_thread::sleep_for(20ms);
          if (!client.cancel()) return "cancel could not be sent";
          // A cancel that comes too early or too late does nothing, as on Postgres: repeat it, until the
          // statement itself ends, which is then the failure.
          while (round % 3 != 0 && client.busy()) {
            client.cancel();
            std::this_thread::sleep_for(20ms);
          }
          const Result result = client.finish();
          if (round % 3 != 0 && result.code() != "57014")
            return "not cancelled: " + result.scalar();
          if (round % 3 == 0 && !result.ok() && result.code() != "57014") return result.scalar();
        } else {  // those who must never be hit
          const std::string value =
              client.scalar("select pg_sleep(0.02) is null, " + std::to_string(i));
          if (value != "f") return "a bystander was hit: " + value;
        }
      }
      return "";
    });
    CHECK_MESSAGE(problems.empty(), joined(problems));
  }

  TEST_CASE(
      "requirement 21: the cancel of a client that waits for a server takes it out of the queue with "
      "57014") {
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "1"));
    Connection holder = proxy.connect();
    holder.exec("begin");
    holder.exec("select 1");
    Connection waiter = proxy.connect();
    REQUIRE(waiter.send("create table never(a int)"));
    CHECK(stays([&waiter] { return waiter.busy(); }, 200ms));
    CHECK(waiter.cancel());
    const Result result = waiter.finish();
    CHECK(result.code() == "57014");
    CHECK(holder.exec("commit").ok());
    CHECK(waiter.scalar("begin; select to_regclass('never') is null") == "t");
  }

  TEST_CASE(
      "requirement 21: a cancel with a wrong key does nothing, and its connection is closed without an "
      "answer") {
    ProxyProcess proxy(config_for(shared_cluster()));
    RawClient victim(proxy.port());
    REQUIRE(victim.login());
    victim.send(query_message("select pg_sleep(1.5)"));
    for (const auto& [pid, key] :
         {std::pair{victim.pid, victim.key ^ 1U}, std::pair{victim.pid + 1, victim.key},
          std::pair{0U, 0U}, std::pair{~0U, ~0U}}) {
      RawClient stranger(proxy.port());
      stranger.send(cancel_request(pid, key));
      CHECK(stranger.read_all(5s).empty());
      CHECK(stranger.closed());
    }
    CHECK(types(victim.read_until('Z')) == "TDCZ");
  }

  TEST_CASE(
      "requirement 3: a client of protocol 3.2 gets a cancel key of 32 bytes, of which every byte counts") {
    ProxyProcess proxy(config_for(shared_cluster()));
    RawClient client(proxy.port());
    client.send(startup_message({{"user", "app"}, {"database", "app"}}, (3 << 16) | 2));
    const auto welcome = client.read_until('Z');
    CHECK(types(welcome).find('v') == std::string::npos);
    const auto found = std::find_if(welcome.begin(), welcome.end(),
                                    [](const Message& message) { return message.type == 'K'; });
    REQUIRE(found != welcome.end());
    REQUIRE(found->body.size() == 4 + 32);
    const auto pid = static_cast<std::uint32_t>(found->int32());
    const std::string key = found->body.substr(4);

    client.send(query_message("select pg_sleep(30)"));
    std::vector<std::string> wrong = {key.substr(0, 4), key.substr(0, 31), key + '\0', std::string(256, 'x')};
    for (const std::size_t at : {std::size_t{0}, std::size_t{4}, std::size_t{31}}) {
      wrong.push_back(key);
      wrong.back()[at] = static_cast<char>(wrong.back()[at] ^ 1);
    }
    for (const std::string& guess : wrong) {
      RawClient stranger(proxy.port());
      stranger.send(cancel_request(pid, guess));
      CHECK(stranger.read_all(5s).empty());
    }
    CHECK_FALSE(client.read(100ms));
    // It may come before the statement has begun: it is repeated until it meets it.
    std::optional<Message> answer;
    CHECK(eventually([&] {
      RawClient canceller(proxy.port());
      canceller.send(cancel_request(pid, key));
      canceller.read_all(5s);
      answer = client.read(50ms);
      return answer.has_value();
    }));
    REQUIRE(answer);
    if (answer->type != 'E') answer = client.read_until('E').back();
    CHECK(answer->field('C') == "57014");
  }

  TEST_CASE(
      "requirement 3: servers are asked for protocol 3.2, and a cancel uses whatever key they give") {
    PgCluster& cluster = shared_cluster();
    Gate gate(cluster.port(0));
    ProxyProcess proxy(config_for(cluster).servers({gate.address()}));
    Connection client = proxy.connect();
    REQUIRE(client.send("select pg_sleep(30)"));
    CHECK(eventually([&] {
      return cluster.ask(0, "select count(*) from pg_stat_activity where usename = 'app' and state = "
                            "'active' and query like '%pg_sleep(30)%'") == "1";
    }));
    CHECK(client.cancel());
    CHECK(client.finish().code() == "57014");

    const auto some = [&](bool from_target, std::string_view part) {
      const auto heads = gate.heads(from_target);
      return std::any_of(heads.begin(), heads.end(), [part](const std::string& head) {
        return head.find(part) != std::string::npos;
      });
    };
    using namespace std::string_view_literals;
    CHECK(some(false, "\0\3\0\2user\0app\0"sv));
    // Postgres 18 gives 32 bytes; older ones speak 3.0 and give four.
    const bool speaks_it = std::stoi(cluster.ask(0, "show server_version_num")) >= 180000;
    CHECK(some(true, "K\0\0\0\x28"sv) == speaks_it);
    CHECK(some(false, "\0\0\0\x2c\x04\xd2\x16\x2e"sv) == speaks_it);
    CHECK(some(false, "\0\0\0\x10\x04\xd2\x16\x2e"sv) != speaks_it);
  }

  TEST_CASE("requirement 21: a cancel that comes while the session's settings are restored hits the statement, not them") {
    PgCluster& cluster = shared_cluster();
    // What must be certain before the statement runs is waited for, all else goes ahead of it in one write.
    for (const std::string certain : {"", "set role app"}) {
      CAPTURE(certain);
      ProxyProcess proxy(config_for(cluster).servers({cluster.address(0)}).set("pool", "size", "2"));
      REQUIRE(proxy.ready(0));
      Connection client = proxy.connect(), other = proxy.connect();
      REQUIRE(client.exec("begin").ok());  // while the other opens the second server
      REQUIRE(other.exec("begin").ok());
      REQUIRE(other.exec("commit").ok());
      REQUIRE(client.exec("commit").ok());
      REQUIRE(client.exec("set default_text_search_config = 'pg_catalog.finnish'").ok());
      if (!certain.empty()) REQUIRE(client.exec(certain).ok());
      const std::string its_server = client.scalar("select pg_backend_pid()");
      // Until the server has looked the setting up, it is not there: and cannot be looked up now.
      Connection lock = cluster.connect(0);
      REQUIRE(lock.exec("begin; lock table pg_ts_config in access exclusive mode").ok());
      RawClient holder(proxy.port());
      REQUIRE(holder.login());
      std::string held;
      REQUIRE(eventually([&] {  // whichever is given first
        holder.send(query_message("begin; select pg_backend_pid()"));
        for (const Message& message : holder.read_until('Z'))
          if (message.type == 'D') held = message.columns()[0];
        if (held == its_server) return true;
        holder.send(query_message("rollback"));
        holder.read_until('Z');
        return false;
      }));
      REQUIRE(client.send("select pg_sleep(30)"));
      REQUIRE(eventually([&] {
        return cluster.ask(0, "select count(*) from pg_stat_activity where usename = 'app' and state = 'active' and "
                              "wait_event_type = 'Lock' and query like '%finnish%'") == "1";
      }));
      auto is_sent = std::async(std::launch::async, [&client] { return client.cancel(); });
      CHECK(eventually([&] { return metric(proxy.metrics(), "pgsluice_cancels_received_total") == 1; }));
      REQUIRE(lock.exec("rollback").ok());
      CHECK(is_sent.get());
      // What was sent ahead may not have begun when its cancel comes; what was not sent never will.
      if (certain.empty()) CHECK(eventually([&client] { return !client.busy() || !client.cancel(); }));
      const Result result = client.finish();
      CHECK_MESSAGE(result.code() == "57014", result.scalar());
      CHECK(client.scalar("show default_text_search_config") == "pg_catalog.finnish");
    }
  }

  TEST_CASE("requirement 21: a server whose cancel is still on its way is nobody else's, so that the next is not hit") {
    PgCluster& cluster = shared_cluster();
    Gate gate(cluster.port(0));
    ProxyProcess proxy(config_for(cluster).servers({gate.address()}).set("pool", "size", "1"));
    REQUIRE(proxy.ready(0));
    LateCancel late(proxy, gate);
    Connection next = proxy.connect();
    CHECK(types(late.client.read_until('Z')) == "TDCZ");
    REQUIRE(next.send("select pg_sleep(0.3), 'not hit'"));
    CHECK(stays([&cluster] {
      return cluster.ask(0, "select count(*) from pg_stat_activity where query like '%not hit%' and pid <> "
                            "pg_backend_pid()") == "0";
    }, 200ms));
    gate.release();
    CHECK(late.canceller.wait_closed());
    const Result result = next.finish();
    CHECK_MESSAGE(result.ok(), result.scalar());
  }

  TEST_CASE("requirement 21: a cancel that does not arrive costs its server its place after pool.cancel_timeout") {
    PgCluster& cluster = shared_cluster();
    Gate gate(cluster.port(0));
    ProxyProcess proxy(config_for(cluster)
                           .servers({gate.address()})
                           .set("pool", "size", "1")
                           .set("pool", "cancel_timeout", "\"300ms\""));
    REQUIRE(proxy.ready(0));
    LateCancel late(proxy, gate);
    CHECK(types(late.client.read_until('Z')) == "TDCZ");
    CHECK(proxy.connect().scalar("begin; select 1") == "1");
    CHECK(metric(proxy.metrics(), "pgsluice_server_closes_total", {"reason=\"cancel_failed\""}) == 1);
    gate.release();
  }

  TEST_CASE("requirement 21: however often a statement is cancelled, few cancels are under way for it") {
    PgCluster& cluster = shared_cluster();
    Gate gate(cluster.port(0));
    ProxyProcess proxy(config_for(cluster).servers({gate.address()}));
    REQUIRE(proxy.ready(0));
    LateCancel late(proxy, gate);
    constexpr int kFlood = 60;
    for (int i = 0; i < kFlood; ++i) {
      RawClient canceller(proxy.port());
      canceller.send(cancel_request(late.client.pid, late.client.key));
    }
    const auto count = [&proxy](const std::string& what) {
      return metric(proxy.metrics(), "pgsluice_cancels_" + what + "_total").value_or(0);
    };
    CHECK(eventually([&] { return count("received") == 1 + kFlood; }));
    CHECK(count("forwarded") <= 4);
    gate.release();
    CHECK(late.canceller.wait_closed());
  }

  TEST_CASE("requirement 21: the keys of two clients differ and cannot be told from each other") {
    ProxyProcess proxy(config_for(shared_cluster()));
    std::set<std::pair<std::uint32_t, std::uint32_t>> keys;
    std::set<std::uint32_t> secrets;
    for (int i = 0; i < 50; ++i) {
      RawClient client(proxy.port());
      REQUIRE(client.login());
      keys.insert({client.pid, client.key});
      secrets.insert(client.key);
    }
    CHECK(keys.size() == 50);
    CHECK(secrets.size() == 50);
  }

  TEST_CASE("requirement 21: the cancel of an idle client does nothing to its next statement") {
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "1"));
    Connection client = proxy.connect();
    Connection other = proxy.connect();
    for (int i = 0; i < 20; ++i) {
      CHECK(client.scalar("select 1") == "1");
      CHECK(client.cancel());
      CHECK(other.scalar("select 2") == "2");
    }
  }
}
