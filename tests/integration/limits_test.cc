#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <thread>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/integration/fixture.h"
#include "tests/support/gate.h"
#include "tests/support/raw_client.h"

// Time-outs and limits: what takes too long is ended, what is too much is refused, each with a reason.
using namespace integration;

namespace {

std::string reason(const Message& error) {
  const std::string detail = error.field('D');
  const std::size_t at = detail.find("reason=");
  return at == std::string::npos ? "" : detail.substr(at + 7, detail.find(' ', at) - at - 7);
}

double refusals(const ProxyProcess& proxy, const std::string& why) {
  return metric(proxy.metrics(), "pgsluice_refusals_total", {"reason=\"" + why + "\""}).value_or(-1);
}

double server_closes(const ProxyProcess& proxy, const std::string& why) {
  return metric(proxy.metrics(), "pgsluice_server_closes_total", {"reason=\"" + why + "\""}).value_or(-1);
}

// Why a login ends, in the words of its ErrorResponse: "SQLSTATE reason"; "" when it succeeds.
std::string refused_login(std::uint16_t port, const std::string& user = "app",
                          const std::string& database = "app") {
  RawClient client(port);
  if (client.login(user, database)) return "";
  if (client.login_error.type != 'E') return "closed";
  return client.login_error.field('C') + " " + reason(client.login_error);
}

// A connection from another address of this machine's loopback network, which says nothing.
class Stranger {
 public:
  Stranger(const char* from, std::uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    const timeval deadline{.tv_sec = 10, .tv_usec = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof deadline);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    ::inet_pton(AF_INET, from, &address.sin_addr);
    ::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address);
    ::inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    address.sin_port = htons(port);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~Stranger() { ::close(fd_); }
  Stranger(const Stranger&) = delete;
  Stranger& operator=(const Stranger&) = delete;

  bool connected() const { return connected_; }
  // What it hears when it asks for this: the first byte of the answer.
  char hears(const std::string& request) {
    char first = 0;
    if (::send(fd_, request.data(), request.size(), MSG_NOSIGNAL) < 0) return 0;
    return ::recv(fd_, &first, 1, 0) == 1 ? first : '\0';
  }

 private:
  int fd_;
  bool connected_ = false;
};

}  // namespace

TEST_SUITE("integration/limits") {
  TEST_CASE(
      "a statement that runs for longer than pool.query_timeout is canceled at its server; client, "
      "transaction and connection go on as after any error") {
    PgCluster& cluster = shared_cluster();
    ProxyProcess proxy(config_for(cluster).set("pool", "query_timeout", "\"300ms\""));
    Connection client = proxy.connect();
    Stopwatch watch;
    const Result slow = client.exec("select pg_sleep(30)");
    CHECK(slow.code() == "57014");
    CHECK(slow.severity() == "ERROR");
    CHECK(slow.message().find("pool.query_timeout") != std::string::npos);
    CHECK(slow.detail() == "reason=query_timeout");
    CHECK(watch.elapsed() >= 290ms);
    CHECK(watch.elapsed() < 5s);
    CHECK(client.scalar("select 1") == "1");
    CHECK(client.exec("begin").ok());
    CHECK(client.exec("select pg_sleep(30), $1::int", {"1"}).code() == "57014");  // extended protocol
    CHECK(client.transaction() == PQTRANS_INERROR);
    CHECK(client.exec("rollback").ok());
    CHECK(client.scalar("select 2") == "2");
    CHECK(eventually([&cluster] {
      return cluster.ask(0, "select count(*) from pg_stat_activity where query like '%pg_sleep(30)%' "
                            "and state = 'active' and usename = 'app'") == "0";
    }));
    CHECK(refusals(proxy, "query_timeout") == 2);
  }

  TEST_CASE("pool.query_timeout is each statement's, not a pipeline's; and a cancel stays a cancel") {
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "query_timeout", "\"900ms\""));
    RawClient pipelined(proxy.port());
    REQUIRE(pipelined.login());
    std::string batch;
    for (int i = 0; i < 7; ++i) batch += query_message("select pg_sleep(0.2)");
    REQUIRE(pipelined.send(batch));
    for (int i = 0; i < 7; ++i) CHECK(types(pipelined.read_until('Z')) == "TDCZ");
    Connection canceled = proxy.connect();
    REQUIRE(canceled.send("select pg_sleep(30)"));
    CHECK(stays([&canceled] { return canceled.busy(); }, 200ms));
    CHECK(canceled.cancel());
    const Result result = canceled.finish();
    CHECK(result.code() == "57014");
    CHECK(result.detail().empty());
    CHECK(refusals(proxy, "query_timeout") == 0);
  }

  TEST_CASE("a server that does not end a canceled statement is closed, and its client goes on") {
    PgCluster& cluster = shared_cluster();
    Gate gate(cluster.port(0));
    ProxyProcess proxy(config_for(cluster)
                           .servers({gate.address()})
                           .set("pool", "query_timeout", "\"300ms\"")
                           .set("pool", "cancel_timeout", "\"300ms\""));
    Connection client = proxy.connect();
    REQUIRE(client.scalar("select 1") == "1");
    gate.stop();
    Stopwatch watch;
    const Result lost = client.exec("select 2");
    CHECK(lost.code() == "08006");
    CHECK(watch.elapsed() >= 590ms);
    CHECK(watch.elapsed() < 5s);
    gate.go();
    CHECK(eventually([&client] { return client.scalar("select 3") == "3"; }));
    CHECK(server_closes(proxy, "cancel_failed") >= 1);
  }

  TEST_CASE("a transaction longer than pool.transaction_timeout ends with its connection, as in Postgres 17") {
    PgCluster& cluster = shared_cluster();
    Table table(cluster, "limits_transaction", "id int primary key, n int", "values (1, 0)");
    ProxyProcess proxy(config_for(cluster).set("pool", "transaction_timeout", "\"1500ms\""));
    // Many short ones, one after the other, are none that is long.
    Connection busy = proxy.connect();
    Stopwatch watch;
    while (watch.elapsed() < 1700ms) {
      for (const char* sql : {"begin", "update limits_transaction set n = n + 1", "commit"}) {
        const Result result = busy.exec(sql);
        REQUIRE_MESSAGE(result.ok(), result.scalar());
      }
    }
    // And neither is the time between two of them.
    for (const char* sql : {"select pg_sleep(0.8)", "select pg_sleep(0.8)", "begin", "select pg_sleep(0.4)",
                            "update limits_transaction set n = 0", "commit"})
      CHECK(busy.exec(sql).ok());

    // Busy all the time, in one transaction.
    RawClient chatty(proxy.port());
    REQUIRE(chatty.login());
    chatty.send(query_message("begin; update limits_transaction set n = 7"));
    chatty.read_until('Z');
    std::vector<Message> answer;
    do {
      chatty.send(query_message("select pg_sleep(0.05)"));
      answer = chatty.read_until('Z');
    } while (!answer.empty() && answer.back().type == 'Z');
    REQUIRE(!answer.empty());
    CHECK(answer.back().field('S') == "FATAL");
    CHECK(answer.back().field('C') == "25P04");
    CHECK(reason(answer.back()) == "transaction_timeout");
    CHECK(chatty.wait_closed(2s));
    // A single statement is a transaction too.
    Connection single = proxy.connect();
    CHECK(single.exec("select pg_sleep(30)").code() == "25P04");
    // Rolled back, the lock released.
    CHECK(busy.scalar("update limits_transaction set n = n + 1 returning n") == "1");
    CHECK(refusals(proxy, "transaction_timeout") == 2);
    CHECK(metric(proxy.metrics(), "pgsluice_client_closes_total", {"reason=\"transaction_timeout\""}) == 2);
  }

  TEST_CASE("time-outs: the user's word goes before the database's, that before the option; a reload changes them") {
    ProxyConfig config = config_for(shared_cluster())
                             .set("pool", "query_timeout", "\"30s\"")
                             .set("database.app", "cluster", "\"main\"")
                             .set("database.app", "pool_query_timeout", "\"300ms\"")
                             .set("user.other", "pool_query_timeout", "0");
    ProxyProcess proxy(config);
    const std::string slow = "select pg_sleep(0.8)";
    Connection app = proxy.connect("app", "app");
    Connection other = proxy.connect("other", "app");
    Connection elsewhere = proxy.connect("app", "postgres");
    REQUIRE(elsewhere.send(slow));
    REQUIRE(other.send(slow));
    CHECK(app.exec(slow).code() == "57014");
    CHECK(other.finish().ok());
    CHECK(elsewhere.finish().ok());

    config.set("user.other", "pool_query_timeout", "\"200ms\"").unset("database.app", "pool_query_timeout");
    proxy.rewrite(config);
    CHECK(proxy.console().exec("reload").ok());
    REQUIRE(app.send(slow));
    CHECK(other.exec(slow).code() == "57014");
    CHECK(app.finish().ok());
    const Result shown = proxy.console().exec("show config");
    std::string value;
    for (int row = 0; row < shown.rows(); ++row)
      if (shown.at(row, "key") == "user.other.pool_query_timeout") value = shown.at(row, "value");
    CHECK(value == "200ms");
  }

  TEST_CASE("idle time-outs can be a user's own") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("user.other", "pool_client_idle_timeout", "\"300ms\"")
                           .set("user.other", "pool_idle_transaction_timeout", "\"300ms\""));
    RawClient idle(proxy.port()), in_transaction(proxy.port()), bystander(proxy.port());
    REQUIRE(idle.login("other"));
    REQUIRE(in_transaction.login("other"));
    REQUIRE(bystander.login("app"));
    bystander.send(query_message("begin"));
    bystander.read_until('Z');
    in_transaction.send(query_message("begin"));
    in_transaction.read_until('Z');
    const auto told = in_transaction.read();
    REQUIRE(told);
    CHECK(told->field('C') == "25P03");
    CHECK(reason(*told) == "idle_transaction_timeout");
    const auto idle_told = idle.read();
    REQUIRE(idle_told);
    CHECK(idle_told->field('C') == "57P05");
    CHECK(reason(*idle_told) == "idle_timeout");
    bystander.send(query_message("commit"));
    CHECK(types(bystander.read_until('Z')) == "CZ");
  }

  TEST_CASE("clients per database and per user are refused with 53300 after they have proved who they are") {
    ProxyConfig config = config_for(shared_cluster())
                             .set("listen", "clients_per_user", "3")
                             .set("listen", "clients_per_database", "4")
                             .set("user.other", "max_clients", "1");
    ProxyProcess proxy(config);
    std::vector<Connection> apps;
    for (int i = 0; i < 3; ++i) {
      apps.push_back(proxy.connect());
      CHECK(apps.back().ok());
    }
    CHECK(refused_login(proxy.port()) == "53300 too_many_clients_of_user");
    Connection other = proxy.connect("other");
    CHECK(other.ok());
    CHECK(refused_login(proxy.port(), "other", "postgres") == "53300 too_many_clients_of_user");
    CHECK(refused_login(proxy.port(), "postgres") == "53300 too_many_clients_of_database");
    CHECK(proxy.connect("postgres", "postgres").ok());
    // Who leaves makes room, who was refused took none; and a reload moves the limit.
    apps.pop_back();
    CHECK(eventually([&proxy] { return refused_login(proxy.port(), "postgres").empty(); }));
    CHECK(eventually([&proxy] { return refused_login(proxy.port(), "app").empty(); }));
    config.set("user.other", "max_clients", "0").set("listen", "clients_per_database", "0");
    proxy.rewrite(config);
    CHECK(proxy.console().exec("reload").ok());
    CHECK(refused_login(proxy.port(), "other") == "");
    CHECK(refusals(proxy, "too_many_clients_of_user") >= 2);
    CHECK(refusals(proxy, "too_many_clients_of_database") >= 1);
  }

  TEST_CASE("requirement 5: an unknown database or a wrong password hears nothing of limits") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("auth", "method", "\"scram-sha-256\"")
                           .set("user.app", "password", "\"right\"")
                           .set("user.app", "max_clients", "1"));
    Connection first = proxy.connect("app", "app", "sslmode=disable password=right");
    CHECK(first.ok());
    const Connection wrong = proxy.connect("app", "app", "sslmode=disable password=wrong");
    CHECK_MESSAGE(wrong.error().find("password authentication failed") != std::string::npos, wrong.error());
    const Connection second = proxy.connect("app", "app", "sslmode=disable password=right");
    CHECK_MESSAGE(second.error().find("too many clients of user") != std::string::npos, second.error());
  }

  TEST_CASE("clients per address are refused before they say who they are; cancels still come through") {
    ProxyProcess proxy(config_for(shared_cluster()).set("listen", "clients_per_address", "2"));
    Connection one = proxy.connect();
    {
      RawClient two(proxy.port());
      REQUIRE(two.login());
      CHECK(refused_login(proxy.port(), "nobody", "nowhere") == "53300 too_many_clients_of_address");
      RawClient ssl(proxy.port());
      ssl.send(ssl_request());
      CHECK(ssl.read_byte() == 'N');
      REQUIRE(one.send("select pg_sleep(30) as one_of_two"));
      CHECK(eventually([] { return is_at_work(shared_cluster(), "select pg_sleep(30) as one_of_two"); }));
      CHECK(one.cancel());
      CHECK(one.finish().code() == "57014");
      // Another address is none of theirs; and neither are unix sockets, which together are one.
      CHECK(Stranger("127.0.0.2", proxy.port()).hears(ssl_request()) == 'N');
      Stranger other("127.0.0.2", proxy.port());
      CHECK(other.hears(startup_message({{"user", "app"}, {"database", "app"}})) == 'R');
      const std::string local = "host=" + proxy.unix_dir() + " port=" + std::to_string(proxy.port()) +
                                " user=app dbname=app";
      Connection unix_one(local), unix_two(local), unix_three(local);
      CHECK(unix_one.ok());
      CHECK(unix_two.ok());
      CHECK_MESSAGE(unix_three.error().find("too many clients of this address") != std::string::npos,
                    unix_three.error());
    }
    CHECK(eventually([&proxy] { return refused_login(proxy.port()).empty(); }));
    // Far beyond the limit nobody is heard: the silent ones cannot fill the process.
    std::vector<RawClient> crowd;
    for (int i = 0; i < 25; ++i) crowd.emplace_back(proxy.port());
    CHECK(eventually([&proxy] { return refusals(proxy, "too_many_clients_of_address") >= 8; }));
    CHECK(crowd.back().wait_closed(3s));
    CHECK(one.scalar("select 1") == "1");
  }

  TEST_CASE("where TLS is required, one client too many of its address hears so in the clear") {
    const Certificates& files = certificates();
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("listen", "clients_per_address", "1")
                           .set("tls.client", "mode", "\"require\"")
                           .set("tls.client", "cert", quoted(files.server_cert))
                           .set("tls.client", "key", quoted(files.server_key)));
    Connection first = proxy.connect("app", "app", "sslmode=require");
    CHECK(first.ok());
    RawClient next(proxy.port());
    next.send(ssl_request());
    const auto told = next.read();
    REQUIRE(told);
    CHECK(told->field('C') == "53300");
    CHECK(reason(*told) == "too_many_clients_of_address");
  }

  TEST_CASE("server connections per node: a pool that needs one gets it from those who have several") {
    PgCluster& cluster = shared_cluster();
    ProxyProcess proxy(config_for(cluster)
                           .set("pool", "servers_per_node", "2")
                           .set("pool", "queue_timeout", "\"5s\""));
    Connection one = proxy.connect(), two = proxy.connect();
    CHECK(one.exec("begin").ok());
    CHECK(two.exec("begin").ok());
    CHECK(one.scalar("select 1") == "1");
    CHECK(two.scalar("select 1") == "1");
    CHECK(one.exec("commit").ok());
    CHECK(two.exec("commit").ok());
    // Idle ones give way at once.
    Connection other = proxy.connect("other");
    Stopwatch watch;
    CHECK(other.scalar("begin; select 5") == "5");
    CHECK(watch.elapsed() < 3s);
    CHECK(other.exec("commit").ok());
    CHECK(server_closes(proxy, "evicted") >= 1);

    // Busy ones give way when their clients are done with them.
    std::atomic<bool> running{true};
    std::atomic<int> most{0};
    std::vector<std::string> problems;
    std::thread crowd([&] {
      problems = at_once(4, [&](std::size_t) -> std::string {
        Connection client = proxy.connect();
        while (running) {
          const Result result = client.exec("begin; select pg_sleep(0.01); commit");
          if (!result.ok()) return result.scalar();
        }
        return "";
      });
    });
    // As pgsluice has them: a backend ends a moment after its connection was closed.
    std::thread watcher([&] {
      Connection console = proxy.console();
      while (running) {
        most = std::max<int>(most, console.exec("SHOW SERVERS").rows());
        std::this_thread::sleep_for(10ms);
      }
    });
    CHECK(eventually([&] { return backends(cluster, 0) == 2; }));
    const Result served = other.exec("begin; select 6; commit");
    CHECK_MESSAGE(served.ok(), served.scalar());
    running = false;
    crowd.join();
    watcher.join();
    CHECK_MESSAGE(problems.empty(), joined(problems));
    CHECK(most == 2);
    CHECK(metric(proxy.metrics(), "pgsluice_server_limits_total", {"reason=\"node\""}).value_or(0) >= 1);
  }

  TEST_CASE("[multi-worker] server connections per database and per user hold over all workers") {
    PgCluster& cluster = shared_cluster();
    ProxyProcess proxy(config_for(cluster)
                           .set("", "workers", "3")
                           .set("pool", "servers_per_user", "3")
                           .set("database.app", "cluster", "\"main\"")
                           .set("database.app", "max_servers", "2")
                           .set("user.other", "max_servers", "1"));
    std::atomic<bool> running{true};
    std::atomic<int> in_app{0}, of_app{0}, of_other{0};
    std::thread watcher([&] {
      const auto count = [&cluster](const std::string& where) {
        return std::atoi(cluster.ask(0, "select count(*) from pg_stat_activity where backend_type = "
                                        "'client backend' and usename in ('app', 'other') and " + where)
                             .c_str());
      };
      while (running) {
        in_app = std::max<int>(in_app, count("datname = 'app'"));
        of_app = std::max<int>(of_app, count("usename = 'app'"));
        of_other = std::max<int>(of_other, count("usename = 'other'"));
        std::this_thread::sleep_for(5ms);
      }
    });
    const auto problems = at_once(12, [&proxy](std::size_t i) -> std::string {
      Connection client = proxy.connect(i % 3 == 0 ? "other" : "app", i % 2 == 0 ? "app" : "postgres");
      if (!client.ok()) return client.error();
      for (int round = 0; round < 15; ++round) {
        const Result result = client.exec("begin; select pg_sleep(0.005); commit");
        if (!result.ok()) return result.scalar();
      }
      return "";
    });
    running = false;
    watcher.join();
    CHECK_MESSAGE(problems.empty(), joined(problems));
    CHECK(in_app >= 1);
    CHECK(in_app <= 2);
    CHECK(of_app <= 3);
    CHECK(of_other <= 1);
  }

  TEST_CASE("a limit of servers that a reload lowers is reached again") {
    PgCluster& cluster = shared_cluster();
    ProxyConfig config = config_for(cluster);
    ProxyProcess proxy(config);
    std::vector<Connection> clients;
    for (int i = 0; i < 4; ++i) clients.push_back(proxy.connect());
    for (Connection& client : clients) CHECK(client.exec("begin").ok());
    for (Connection& client : clients) CHECK(client.scalar("select 1") == "1");
    CHECK(backends(cluster, 0) == 4);
    config.set("cluster.main", "max_servers", "1");
    proxy.rewrite(config);
    CHECK(proxy.console().exec("reload").ok());
    for (Connection& client : clients) CHECK(client.exec("commit").ok());
    CHECK(eventually([&cluster] { return backends(cluster, 0) <= 1; }));
    CHECK(clients[0].scalar("begin; select 1") == "1");
  }

  TEST_CASE("pool.min_size servers are kept ready once somebody has come, though nobody uses them") {
    PgCluster& cluster = shared_cluster();
    ProxyConfig config = config_for(cluster)
                             .set("pool", "min_size", "2")
                             .set("pool", "size", "3")
                             .set("pool", "server_idle_timeout", "\"100ms\"");
    ProxyProcess proxy(config);
    CHECK(backends(cluster, 0) == 0);
    CHECK(proxy.connect().scalar("select 1") == "1");
    const auto everywhere = [&cluster](int wanted) {
      for (std::size_t node = 0; node < cluster.size(); ++node)
        if (backends(cluster, node) != wanted) return false;
      return true;
    };
    CHECK(eventually([&] { return everywhere(2); }));
    CHECK(stays([&] { return everywhere(2); }, 500ms, 100ms));  // longer than server_idle_timeout
    cluster.ask(0, "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'app'");
    CHECK(eventually([&] { return everywhere(2); }));
    config.set("pool", "min_size", "0");
    proxy.rewrite(config);
    CHECK(proxy.console().exec("reload").ok());
    CHECK(eventually([&] { return everywhere(0); }));
  }

  TEST_CASE("pools of configured users are filled before anybody comes; a refused one is not asked for all the time") {
    PgCluster& cluster = shared_cluster();
    ProxyProcess proxy(config_for(cluster)
                           .set("database.app", "cluster", "\"main\"")
                           .set("database.app", "pool_min_size", "3")
                           .set("database.app", "min_size_users", "[\"other\", \"no_such_user\"]"));
    CHECK(eventually([&cluster] { return backends(cluster, 0, "other") == 3; }));
    CHECK(backends(cluster, 0) == 0);
    const auto failures = [&proxy] {
      return metric(proxy.metrics(), "pgsluice_server_connect_failures_total").value_or(0);
    };
    CHECK(eventually([&failures] { return failures() >= 1; }));
    CHECK(stays([&] { return failures() <= 2 * static_cast<double>(cluster.size()); }, 700ms, 100ms));
  }

  TEST_CASE(
      "promise 8: clients that log in a byte at a time hold little memory, are cut off, and disturb nobody") {
    // PGSLUICE_SLOW_LOGINS=2000 for the figures of the requirement: then it takes longer, and the neighbour's P99 is
    // compared with its own on a quiet proxy, which takes a quiet machine.
    const char* given = std::getenv("PGSLUICE_SLOW_LOGINS");
    const int count = given == nullptr ? 300 : std::atoi(given);
    ProxyProcess proxy(config_for(shared_cluster()).set("listen", "login_timeout", given == nullptr ? "\"1500ms\"" : "\"8s\""));
    Connection bystander = proxy.connect();
    using Micros = std::chrono::microseconds;
    const auto ask = [&bystander] {
      const auto begin = std::chrono::steady_clock::now();
      CHECK(bystander.scalar("select 2") == "2");
      return std::chrono::duration_cast<Micros>(std::chrono::steady_clock::now() - begin);
    };
    const auto p99 = [](std::vector<Micros> times) {
      std::ranges::sort(times);
      return times[times.size() * 99 / 100];
    };
    std::vector<Micros> quiet, beside;
    while (quiet.size() < (given == nullptr ? 500 : 5000)) quiet.push_back(ask());
    const long before = resident_kib(proxy.pid());
    const std::string packet = startup_message({{"user", "app"}, {"options", std::string(5000, 'x')}});
    std::vector<RawClient> slow;
    slow.reserve(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) slow.emplace_back(proxy.port());
    // Half of them have sent nearly all of a large packet. Then each sends a byte a second.
    std::vector<std::size_t> sent(static_cast<std::size_t>(count), 0);
    for (std::size_t i = 0; i < sent.size(); i += 2) {
      sent[i] = 4000;
      slow[i].send_some(packet.substr(0, sent[i]));
    }
    std::size_t bytes = 0;
    long most = before;
    Stopwatch watch;
    const auto cut_off = [&proxy] {
      return metric(proxy.metrics(), "pgsluice_client_closes_total", {"reason=\"login_timeout\""}).value_or(0);
    };
    // Rarely looked at, because a look costs the neighbour something, too.
    while (watch.elapsed() < 20s && (beside.size() % 100 != 0 || cut_off() < count)) {
      const auto due = static_cast<std::size_t>(watch.elapsed().count()) * sent.size() / 1000;
      for (; bytes < due; ++bytes) {
        const std::size_t i = bytes % sent.size();
        slow[i].send_some(packet.substr(sent[i]++, 1));
      }
      beside.push_back(ask());
      if (beside.size() % 100 == 0) most = std::max(most, resident_kib(proxy.pid()));
    }
    CHECK(cut_off() == count);
    CHECK(*std::ranges::max_element(beside) < 1s);
    if (given != nullptr) {
      std::cout << count << " slow logins: the neighbour's P99 is " << p99(quiet).count() << " us without them and "
                << p99(beside).count() << " us beside them (" << beside.size() << " statements)\n";
      CHECK(p99(beside) < 2 * p99(quiet));
    }
    CAPTURE(most - before);
    if (std::getenv("PGSLUICE_SANITIZED") == nullptr) CHECK(most - before < 4096 + 16L * count);
    CHECK(refused_login(proxy.port()) == "");
  }
}
