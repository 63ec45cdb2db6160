#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <memory>
#include <set>
#include <thread>

#include <netinet/in.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/integration/fixture.h"
#include "tests/support/free_port.h"
#include "tests/support/raw_client.h"

// What operators do to a running pgsluice: pause, drain, kill; hand over to another process; systemd.
using namespace integration;

namespace {

// The value of `column` in the console's row of SHOW NODES for that node.
std::string node_column(const ProxyProcess& proxy, const std::string& address, const std::string& column) {
  const Result nodes = proxy.console().exec("SHOW NODES");
  for (int row = 0; row < nodes.rows(); ++row)
    if (nodes.at(row, "node") == address) return nodes.at(row, column);
  return "no such row";
}

// Who answers reads, as often as `n` times are asked.
std::set<std::string> readers(const PgCluster& cluster, Connection& client, int n = 20) {
  std::set<std::string> who;
  for (int i = 0; i < n; ++i) who.insert(who_answers(cluster, client));
  return who;
}

// A configuration whose process may be succeeded.
ProxyConfig takeover_config() {
  return config_for(shared_cluster())
      .set("", "workers", "2")
      .set("listen", "takeover_socket", "\"@dir@/takeover\"");
}

// `pgsluice FILE --takeover` for a proxy that runs. Its log goes on in a file of its own.
class Successor {
 public:
  Successor(const ProxyProcess& proxy, int number)
      : log_file_(proxy.log_file() + std::to_string(number)),
        process_({proxy_binary(), proxy.config_file(), "--takeover"}, {.output = log_file_}) {}

  Process& process() { return process_; }
  std::string log() const { return read_file(log_file_); }
  bool serves() {
    return eventually([this] { return log().find("listening on") != std::string::npos || !process_.running(); },
                      15s) &&
           process_.running();
  }
  // SIGTERM; what is wrong with how it ended.
  std::string stop() {
    process_.signal(SIGTERM);
    const std::optional<int> status = process_.wait(15s);
    return status == 0 ? "" : "status " + std::to_string(status.value_or(-1)) + "\n" + log();
  }

 private:
  std::string log_file_;
  Process process_;
};

// A connection to the takeover socket, spoken by hand.
class TakeoverPeer {
 public:
  explicit TakeoverPeer(const std::string& path) : fd_(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    const timeval patience{5, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  ~TakeoverPeer() { close(fd_); }
  TakeoverPeer(const TakeoverPeer&) = delete;
  TakeoverPeer& operator=(const TakeoverPeer&) = delete;

  bool connected() const { return connected_; }
  void send(const std::string& packet) { ::send(fd_, packet.data(), packet.size(), MSG_NOSIGNAL); }
  // The first letter of the next packet; passed descriptors are dropped. 0: closed, or nothing came.
  char read() {
    char buffer[4096];
    const ssize_t got = recv(fd_, buffer, sizeof buffer, 0);
    return got > 0 ? buffer[0] : '\0';
  }
  bool read_until(char type) {
    for (char got = read(); got != '\0'; got = read())
      if (got == type) return true;
    return false;
  }

 private:
  int fd_;
  bool connected_ = false;
};
const std::string kHello = std::string("H\x01\0\0\0", 5) + "1";

// What a service manager is: a datagram socket with an abstract name.
class ServiceManager {
 public:
  ServiceManager() : fd_(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    // Only the family: the kernel makes a name up.
    bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address.sun_family);
    socklen_t length = sizeof address;
    getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &length);
    name_ = "@" + std::string(address.sun_path + 1, length - sizeof address.sun_family - 1);
    const timeval patience{0, 50'000};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  ~ServiceManager() { close(fd_); }
  ServiceManager(const ServiceManager&) = delete;
  ServiceManager& operator=(const ServiceManager&) = delete;

  const std::string& name() const { return name_; }
  // The next message that holds `what`; "" when none comes in time.
  std::string hear(const std::string& what, std::chrono::milliseconds deadline = 10s) {
    std::string found;
    (void)eventually(
        [&] {
          char buffer[4096];
          const ssize_t got = recv(fd_, buffer, sizeof buffer, 0);
          const std::string message(buffer, static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
          if (message.find(what) != std::string::npos) found = message;
          return !found.empty();
        },
        deadline, 0ms);
    return found;
  }
  void forget() {
    char buffer[4096];
    while (recv(fd_, buffer, sizeof buffer, MSG_DONTWAIT) > 0) {
    }
  }

 private:
  int fd_;
  std::string name_;
};

// The thread of that name in a process; 0: there is none.
pid_t thread_named(pid_t pid, const std::string& name) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task"))
    if (read_file(entry.path() / "comm") == name + "\n") return std::atoi(entry.path().filename().c_str());
  return 0;
}

std::size_t descriptors(pid_t pid) {
  const std::filesystem::directory_iterator all("/proc/" + std::to_string(pid) + "/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

}  // namespace

TEST_SUITE("integration/lifecycle") {
  TEST_CASE(
      "PAUSE answers when the last server is released; statements and logins wait without failing, and go on "
      "with RESUME") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("", "workers", "2")
                           .set("listen", "login_timeout", "\"500ms\"")
                           .set("pool", "queue_timeout", "\"500ms\""));
    REQUIRE(proxy.ready(2));
    Connection busy = proxy.connect(), waits = proxy.connect();
    CHECK(waits.scalar("select 1") == "1");
    CHECK(busy.exec("begin").ok());
    CHECK(busy.scalar("select 1") == "1");
    Connection console = proxy.console();
    REQUIRE(console.send("PAUSE app"));
    CHECK(stays([&console] { return console.busy(); }, 100ms));
    CHECK(busy.scalar("select 2") == "2");  // a transaction may end
    CHECK(busy.exec("commit").ok());
    const Result paused = console.finish();
    CHECK_MESSAGE(paused.ok(), paused.scalar());
    CHECK(paused.tag() == "PAUSE");
    CHECK(eventually([] { return backends(shared_cluster(), 0) == 0 && backends(shared_cluster(), 1) == 0; }));
    CHECK(console.exec("PAUSE app").code() == "55000");
    CHECK(console.exec("PAUSE nowhere").ok());  // [database."*"] has it

    REQUIRE(waits.send("select 3"));
    RawClient fresh(proxy.port());  // its session is like that of nobody before: it needs a server
    fresh.send(startup_message({{"user", "app"}, {"database", "app"}, {"geqo", "off"}}));
    CHECK(stays([&waits] { return waits.busy(); }, 700ms));
    Connection other = proxy.connect("app", "postgres");
    CHECK(other.scalar("select 1") == "1");  // another database is not concerned

    CHECK(console.exec("RESUME app").ok());
    CHECK(waits.finish().scalar() == "3");
    CHECK(!fresh.read_until('Z', 5s).empty());
    CHECK(!fresh.closed());
    CHECK(console.exec("RESUME app").code() == "55000");
  }

  TEST_CASE("a PAUSE that is cancelled, or whose console goes away, is taken back") {
    ProxyProcess proxy(config_for(shared_cluster()));
    Connection busy = proxy.connect(), other = proxy.connect();
    CHECK(busy.exec("begin").ok());
    CHECK(busy.scalar("select 1") == "1");
    Connection console = proxy.console();
    REQUIRE(console.send("pause"));
    REQUIRE(other.send("select 1"));
    CHECK(stays([&console] { return console.busy(); }, 50ms));
    REQUIRE(console.cancel());
    const Result canceled = console.finish();
    CHECK(canceled.code() == "57014");
    CHECK(canceled.message().find("PAUSE") != std::string::npos);
    CHECK(other.finish().scalar() == "1");

    REQUIRE(console.send("PAUSE \"app\""));
    // Once it stands in the log, whatever the console asks the workers comes after it.
    REQUIRE(eventually([&proxy] { return proxy.log().find("command=PAUSE \"app\"") != std::string::npos; }));
    CHECK(proxy.console().exec("SHOW POOLS").ok());
    REQUIRE(other.send("select 2"));
    CHECK(stays([&other] { return other.busy(); }, 50ms));
    console.close();
    CHECK(other.finish().scalar() == "2");
    CHECK(busy.exec("commit").ok());
  }

  TEST_CASE("pool.pause_timeout bounds PAUSE, and how long a statement waits for RESUME") {
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "pause_timeout", "\"200ms\""));
    Connection busy = proxy.connect(), other = proxy.connect();
    CHECK(busy.exec("begin").ok());
    CHECK(busy.scalar("select 1") == "1");
    const Result late = proxy.console().exec("PAUSE app");
    CHECK(late.code() == "57014");
    CHECK(late.message().find("pool.pause_timeout") != std::string::npos);
    CHECK(other.scalar("select 1") == "1");
    CHECK(busy.exec("commit").ok());
    CHECK(proxy.console().exec("PAUSE app").ok());
    const Result refused = other.exec("select 1");
    CHECK(refused.code() == "57014");
    CHECK(refused.detail().find("reason=paused") != std::string::npos);
    CHECK(proxy.console().exec("RESUME app").ok());
    CHECK(other.scalar("select 1") == "1");  // the connection has stayed
  }

  TEST_CASE("requirement 36: a reload keeps what operators ordered, and orders work while pgsluice drains") {
    ProxyConfig config = config_for(shared_cluster());
    ProxyProcess proxy(config);
    REQUIRE(proxy.ready(2));
    const std::string replica = shared_cluster().address(1);
    Connection client = proxy.connect(), busy = proxy.connect("app", "postgres");
    CHECK(client.scalar("select 1") == "1");
    Connection console = proxy.console();
    CHECK(console.exec("DISABLE app").ok());
    CHECK(console.exec("PAUSE app").ok());
    CHECK(console.exec("DRAIN " + replica).ok());
    proxy.rewrite(config.set("pool", "size", "7"));
    CHECK(console.exec("RELOAD").ok());
    CHECK(!proxy.connect().ok());
    CHECK(node_column(proxy, replica, "drained") == "yes");
    REQUIRE(client.send("select 1"));
    CHECK(stays([&client] { return client.busy(); }, 50ms));

    CHECK(busy.exec("begin").ok());
    CHECK(busy.scalar("select 1") == "1");
    proxy.signal(SIGTERM);
    // Who waits for RESUME has nothing to finish.
    CHECK(client.finish().code() == "57P01");
    CHECK(console.exec("UNDRAIN " + replica).ok());
    CHECK(console.exec("RESUME app").ok());
    // At work, or what it sends could cross the last words of the proxy and cost it them.
    REQUIRE(busy.send("select pg_sleep(30) as at_work"));
    CHECK(eventually([] {
      return shared_cluster().ask(0, "select count(*) from pg_stat_activity where query like '%as at_work'") != "0";
    }));
    REQUIRE(console.send("KILL postgres"));  // the last client: pgsluice may be gone before the answer
    CHECK(busy.finish().code() == "57P01");
    CHECK(proxy.wait(5s) == 0);
  }

  TEST_CASE("DISABLE refuses new clients of a database with 55000 and leaves those inside alone") {
    ProxyProcess proxy(config_for(shared_cluster()));
    Connection inside = proxy.connect();
    CHECK(inside.scalar("select 1") == "1");
    Connection console = proxy.console();
    CHECK(console.exec("DISABLE").code() == "42601");
    CHECK(console.exec("DISABLE app").ok());
    const Result databases = console.exec("SHOW DATABASES");
    for (int row = 0; row < databases.rows(); ++row)
      CHECK((databases.at(row, "name") == "app") == (databases.at(row, "disabled") == "1"));
    RawClient refused(proxy.port());
    CHECK(!refused.login());
    CHECK(refused.login_error.field('C') == "55000");
    CHECK(refused.login_error.field('D') == "reason=disabled");
    CHECK(inside.scalar("select 2") == "2");
    CHECK(proxy.connect("app", "postgres").ok());
    CHECK(console.exec("ENABLE app").ok());
    CHECK(proxy.connect().ok());
  }

  TEST_CASE("RECONNECT replaces servers as they are released; WAIT_CLOSE answers when the last old one is gone") {
    ProxyProcess proxy(config_for(shared_cluster()).set("", "workers", "2"));
    REQUIRE(proxy.ready(2));
    Connection busy = proxy.connect();
    CHECK(busy.exec("begin").ok());
    const std::string pid = busy.scalar("select pg_backend_pid()");
    Connection console = proxy.console();
    CHECK(console.exec("RECONNECT app").ok());
    CHECK(busy.scalar("select pg_backend_pid()") == pid);  // until it is released
    REQUIRE(console.send("WAIT_CLOSE app"));
    CHECK(stays([&console] { return console.busy(); }, 100ms));
    CHECK(busy.exec("commit").ok());
    CHECK(console.finish().ok());
    CHECK(shared_cluster().ask(0, "select count(*) from pg_stat_activity where pid = " + pid) == "0");
    CHECK(busy.scalar("select 1") == "1");
    CHECK(console.exec("WAIT_CLOSE").ok());  // nothing to wait for
  }

  TEST_CASE("KILL closes clients and servers of a database at once and pauses it; KILL CLIENT closes one") {
    ProxyProcess proxy(config_for(shared_cluster()).set("", "workers", "2"));
    REQUIRE(proxy.ready(2));
    // Until both workers have let somebody in: one that has not could not do so while the database is paused.
    std::vector<Connection> many;
    REQUIRE(eventually([&] {
      many.push_back(proxy.connect());
      std::set<std::string> workers;
      const Result clients = proxy.console().exec("SHOW CLIENTS");
      for (int row = 0; row < clients.rows(); ++row)
        if (clients.at(row, "database") == "app") workers.insert(clients.at(row, "worker"));
      return workers.size() == 2;
    }));
    Connection busy = proxy.connect(), idle = proxy.connect(), other = proxy.connect("app", "postgres");
    CHECK(idle.scalar("select 1") == "1");
    REQUIRE(busy.send("select pg_sleep(60)"));
    Connection console = proxy.console();
    CHECK(eventually([] {
      return shared_cluster().ask(1, "select count(*) from pg_stat_activity where query like '%pg_sleep(60)'") !=
                 "0" ||
             shared_cluster().ask(2, "select count(*) from pg_stat_activity where query like '%pg_sleep(60)'") !=
                 "0";
    }));
    CHECK(console.exec("KILL app").ok());
    CHECK(busy.finish().code() == "57P01");
    CHECK(idle.exec("select 1").code() == "57P01");
    CHECK(other.scalar("select 1") == "1");
    // What the database's servers said last greets its new clients, although nobody is left there for a while.
    CHECK(stays([&console] {
      const Result pools = console.exec("SHOW POOLS");
      for (int row = 0; row < pools.rows(); ++row)
        if (pools.at(row, "database") == "app") return true;
      return false;
    }, 500ms));
    Connection later = proxy.connect();
    REQUIRE(later.send("select 2"));
    CHECK(stays([&later] { return later.busy(); }, 50ms));
    CHECK(console.exec("RESUME app").ok());
    CHECK(later.finish().scalar() == "2");

    const Result clients = console.exec("SHOW CLIENTS");
    for (int row = 0; row < clients.rows(); ++row)
      if (clients.at(row, "database") == "postgres")
        CHECK(console.exec("KILL CLIENT " + clients.at(row, "id")).ok());
    CHECK(other.exec("select 1").code() == "57P01");
    CHECK(later.scalar("select 3") == "3");
    for (const std::string nobody : {"w0/999/1", "w9/0/1", "17", "w0/0/0; drop table x"})
      CHECK(!console.exec("KILL_CLIENT \"" + nobody + "\"").ok());
  }

  TEST_CASE("DRAIN takes new statements away from a node, lets running ones end and closes its servers") {
    PgCluster& cluster = shared_cluster();
    // Sessions that move freely.
    ProxyProcess proxy(config_for(cluster).set("", "workers", "2").set("routing", "consistency", "\"eventual\""));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect(), busy = proxy.connect();
    CHECK(readers(cluster, client, 40) == std::set<std::string>{"replica1", "replica2"});
    CHECK(busy.exec("begin transaction read only").ok());
    const std::string held = who_answers(cluster, busy);
    const std::size_t node = held == "replica1" ? 1 : 2;
    const std::string other = node == 1 ? "replica2" : "replica1";
    Connection console = proxy.console();
    REQUIRE(console.send("DRAIN " + cluster.address(node)));
    CHECK(eventually([&] { return node_column(proxy, cluster.address(node), "drained") == "yes"; }));
    CHECK(stays([&console] { return console.busy(); }, 100ms));
    CHECK(readers(cluster, client) == std::set<std::string>{other});
    CHECK(who_answers(cluster, busy) == held);
    CHECK(busy.exec("commit").ok());
    CHECK(console.finish().ok());
    CHECK(eventually([&] { return backends(cluster, node) == 0; }));
    CHECK(node_column(proxy, cluster.address(node), "serves_reads") == "no");

    // With every replica drained the primary serves reads.
    CHECK(console.exec("DRAIN '" + cluster.address(node == 1 ? 2 : 1) + "'").ok());
    CHECK(readers(cluster, client, 5) == std::set<std::string>{"primary"});
    CHECK(console.exec("UNDRAIN " + cluster.address(node)).ok());
    CHECK(readers(cluster, client, 5) == std::set<std::string>{held});
    CHECK(console.exec("UNDRAIN " + cluster.address(node)).code() == "55000");
  }

  TEST_CASE("the primary is drained only by force, and says so; a node that does not answer can be drained") {
    PgCluster& cluster = shared_cluster();
    ProxyConfig config = config_for(cluster).set("routing", "primary_wait", "\"50ms\"");
    const std::string nobody = "127.0.0.1:" + std::to_string(free_port());
    config.servers({cluster.address(0), cluster.address(1), nobody});
    ProxyProcess proxy(config);
    REQUIRE(proxy.ready(1));
    Connection client = proxy.connect(), console = proxy.console();
    CHECK(console.exec("DRAIN " + cluster.address(0)).code() == "55000");
    CHECK(client.exec("create temp table t (n int)").ok());
    CHECK(console.exec("DRAIN 10.0.0.1:1").code() == "42704");
    CHECK(console.exec("DRAIN " + nobody).ok());
    CHECK(node_column(proxy, nobody, "drained") == "yes");
    client.close();
    CHECK(console.exec("DRAIN " + cluster.address(0) + " force").ok());
    CHECK(!console.notices().empty());
    Connection writer = proxy.connect();
    CHECK(writer.exec("create temp table t (n int)").code() == "57P03");
    CHECK(who_answers(cluster, writer) == "replica1");
    CHECK(console.exec("UNDRAIN " + cluster.address(0)).ok());
    CHECK(writer.exec("create temp table t (n int)").ok());
  }

  TEST_CASE("only admins give orders, and a quote that is not closed is an error") {
    ProxyProcess proxy(config_for(shared_cluster()).set("admin", "stats_users", "[\"other\"]"));
    Connection stats = proxy.connect("other", "pgsluice");
    for (const std::string order : {"PAUSE", "RESUME", "KILL", "RECONNECT", "WAIT_CLOSE", "DISABLE app",
                                    "ENABLE app", "DRAIN x", "UNDRAIN x", "KILL CLIENT x"})
      CHECK(stats.exec(order).code() == "42501");
    Connection console = proxy.console();
    CHECK(console.exec("PAUSE \"app").code() == "42601");
    CHECK(console.exec("PAUSE app and more").code() == "42601");
    CHECK(console.exec("SHOW VERSION").ok());
  }

  TEST_CASE("no connection is refused or lost while processes take over from each other under load") {
    ProxyProcess proxy(takeover_config());
    REQUIRE(proxy.ready(2));
    std::atomic<bool> stop = false;
    std::atomic<int> logins = 0;
    std::vector<std::string> problems;
    std::thread load([&] {
      problems = at_once(4, [&](std::size_t i) -> std::string {
        while (!stop) {
          // Over TCP and over the unix socket.
          Connection client(i % 2 == 0 ? proxy.conninfo()
                                       : "host=" + proxy.unix_dir() + " port=" + std::to_string(proxy.port()) +
                                             " user=app dbname=app sslmode=disable");
          if (!client.ok()) return "connecting: " + client.error();
          const std::string one = client.scalar("select 1");
          if (one != "1") return one;
          ++logins;
        }
        return "";
      });
    });
    std::vector<std::unique_ptr<Successor>> all;
    std::string failed;
    for (int i = 0; i < 3 && failed.empty(); ++i) {
      all.push_back(std::make_unique<Successor>(proxy, i));
      if (!all.back()->serves()) failed = "did not serve: " + all.back()->log();
      const std::optional<int> before =
          i == 0 ? proxy.wait(15s) : all[static_cast<std::size_t>(i) - 1]->process().wait(15s);
      if (before != 0) failed += "the one before ended with " + std::to_string(before.value_or(-1));
      const int seen = logins;
      if (!eventually([&] { return logins > seen + 20; })) failed += "nobody gets in";
    }
    stop = true;
    load.join();
    CHECK_MESSAGE(failed.empty(), failed);
    CHECK_MESSAGE(problems.empty(), joined(problems));
    // The metrics port has changed hands too.
    CHECK(eventually([&proxy] { return proxy.metrics().find("pgsluice_clients_accepted_total") != std::string::npos; }));
    const std::string ended = all.back()->stop();
    CHECK_MESSAGE(ended.empty(), ended);
    CHECK(!std::filesystem::exists(proxy.unix_dir() + "/takeover"));
  }

  TEST_CASE(
      "in a takeover transactions go on, idle clients hear 57P01, cancels reach the old process, and orders last") {
    ProxyProcess proxy(takeover_config());
    REQUIRE(proxy.ready(2));
    RawClient idle(proxy.port());
    REQUIRE(idle.login());
    Connection working = proxy.connect(), sleeping = proxy.connect();
    CHECK(working.exec("begin").ok());
    CHECK(working.scalar("select 1") == "1");
    CHECK(proxy.console().exec("DISABLE elsewhere").ok());
    CHECK(proxy.console().exec("PAUSE postgres").ok());
    REQUIRE(sleeping.send("select pg_sleep(60)"));
    struct stat mode {};
    CHECK(stat((proxy.unix_dir() + "/takeover").c_str(), &mode) == 0);
    CHECK((mode.st_mode & 0777) == 0600);

    Successor next(proxy, 1);
    REQUIRE(next.serves());
    const auto goodbye = idle.read_until('E', 5s);  // it came a moment ago: when it has been here for a second
    REQUIRE(!goodbye.empty());
    CHECK(goodbye.back().field('C') == "57P01");
    CHECK(working.scalar("select 2") == "2");
    CHECK(working.exec("commit").ok());
    CHECK(sleeping.busy());
    REQUIRE(sleeping.cancel());  // arrives at the new process
    CHECK(sleeping.finish().code() == "57014");
    sleeping.close();
    working.close();
    CHECK(proxy.wait(10s) == 0);

    CHECK(proxy.connect().scalar("select 1") == "1");
    CHECK(proxy.connect("app", "elsewhere").error().find("not currently accepting") != std::string::npos);
    Connection paused = proxy.connect("app", "postgres");
    CHECK(proxy.console().exec("RESUME postgres").ok());
    CHECK(proxy.connect("app", "postgres").scalar("select 1") == "1");
    const std::string ended = next.stop();
    CHECK_MESSAGE(ended.empty(), ended);
  }

  TEST_CASE("a successor that fails, at any point before it serves, leaves the running process serving") {
    ProxyConfig config = takeover_config();
    ProxyProcess proxy(config);
    REQUIRE(proxy.ready(2));
    Connection stays_connected = proxy.connect();
    CHECK(stays_connected.scalar("select 1") == "1");
    const auto serves = [&] { return proxy.connect().scalar("select 1") == "1"; };
    // An address that is nobody's: it has our sockets by then.
    proxy.rewrite(config.set("listen", "address", "\"127.0.0.1, 192.0.2.1\""));
    Successor wrong(proxy, 1);
    CHECK(wrong.process().wait(10s) == 1);
    CHECK(serves());
    // Killed while it waits for its nodes.
    proxy.rewrite(config.set("listen", "address", "\"127.0.0.1\"").servers({"192.0.2.1:5432"}));
    Successor killed(proxy, 2);
    CHECK(eventually([&proxy] { return proxy.log().find("gets ready") != std::string::npos; }));
    killed.process().kill();
    CHECK(eventually([&proxy] { return proxy.log().find("the successor has failed") != std::string::npos; }));
    CHECK(serves());
    {
      // Gone after it was told that it may accept.
      TakeoverPeer peer(proxy.unix_dir() + "/takeover");
      REQUIRE(peer.connected());
      peer.send(kHello);
      CHECK(peer.read_until('E'));
      TakeoverPeer second(proxy.unix_dir() + "/takeover");
      second.send(kHello);
      CHECK(second.read() == '\0');  // one at a time
      peer.send("R");
      CHECK(peer.read() == 'Y');
      RawClient waits(proxy.port());
      CHECK(waits.connected());  // in the kernel's queue: nobody accepts at this moment
    }
    CHECK(serves());
    for (const std::string& nonsense : {std::string("R"), std::string("A"), std::string("H\xff\xff\xff\xff", 5),
                                       std::string("H\x01\0\0\0" "2", 6), std::string("C\x01\0\0\0x", 6)}) {
      TakeoverPeer peer(proxy.unix_dir() + "/takeover");
      peer.send(nonsense);
    }
    CHECK(serves());
    CHECK(stays_connected.scalar("select 2") == "2");
    // Without --takeover the ports are taken, and the running process does not notice.
    proxy.rewrite(takeover_config());
    CHECK(run({proxy_binary(), proxy.config_file()}, {}, 10s).status == 1);
    CHECK(serves());
  }

  TEST_CASE("--takeover with nobody to take over from starts as usual") {
    ProxyConfig config = takeover_config();
    ProxyProcess proxy(config);
    const std::string stopped = proxy.stop();
    CHECK_MESSAGE(stopped.empty(), stopped);
    Successor first(proxy, 1);
    CHECK(first.serves());
    const std::string ended = first.stop();
    CHECK_MESSAGE(ended.empty(), ended);
  }

  TEST_CASE("sockets that systemd passes are used instead of the configured ones, and outlive the process") {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);  // not close-on-exec: it is to be inherited
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(listen(fd, 64) == 0);
    socklen_t length = sizeof address;
    getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
    const std::uint16_t port = ntohs(address.sin_port);
    const std::vector<std::string> activation = {
        "sh", "-c", "exec 3<&" + std::to_string(fd) + "; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=x exec \"$@\"", "sh"};
    const std::string where = "host=127.0.0.1 user=app dbname=app sslmode=disable gssencmode=disable port=";
    std::unique_ptr<Connection> waits;
    {
      ProxyProcess proxy(config_for(shared_cluster()), {}, activation);
      CHECK(Connection(where + std::to_string(port)).scalar("select 1") == "1");
      CHECK(!RawClient(proxy.port()).connected());
    }
    RawClient between(port);
    CHECK(between.connected());  // nobody runs, and it is not refused
    ProxyProcess proxy(config_for(shared_cluster()), {}, activation);
    CHECK(between.login());
    close(fd);
    // A socket that cannot be right is said, not ignored.
    const Finished wrong = run({"sh", "-c", "exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", "sh",
                                proxy_binary(), proxy.config_file()});
    CHECK(wrong.status == 1);
    CHECK(wrong.output.find("descriptor 3") != std::string::npos);
  }

  TEST_CASE("systemd hears READY, RELOADING, STOPPING and the watchdog, which a stuck worker trips") {
    ServiceManager manager;
    ProxyProcess proxy(config_for(shared_cluster()).set("", "workers", "2"),
                       {{"NOTIFY_SOCKET", manager.name()}, {"WATCHDOG_USEC", "600000"}});
    const std::string ready = manager.hear("READY=1");
    CHECK(ready.find("MAINPID=" + std::to_string(proxy.pid())) != std::string::npos);
    CHECK(ready.find("STATUS=Serving") != std::string::npos);
    proxy.signal(SIGHUP);
    CHECK(manager.hear("RELOADING=1").find("MONOTONIC_USEC=") != std::string::npos);
    CHECK(manager.hear("READY=1") != "");
    CHECK(manager.hear("WATCHDOG=1") != "");

    const pid_t worker = thread_named(proxy.pid(), "worker1");
    REQUIRE(worker != 0);
    REQUIRE(ptrace(PTRACE_SEIZE, worker, 0, 0) == 0);
    REQUIRE(ptrace(PTRACE_INTERRUPT, worker, 0, 0) == 0);
    REQUIRE(waitpid(worker, nullptr, __WALL) == worker);
    CHECK(eventually([&proxy] { return proxy.log().find("worker 1 is stuck") != std::string::npos; }));
    manager.forget();
    CHECK(manager.hear("WATCHDOG=1", 700ms) == "");
    REQUIRE(ptrace(PTRACE_DETACH, worker, 0, 0) == 0);
    CHECK(manager.hear("WATCHDOG=1") != "");
    proxy.signal(SIGTERM);
    CHECK(manager.hear("STOPPING=1") != "");
    CHECK(proxy.wait(10s) == 0);
  }

  TEST_CASE("SIGUSR2 starts a successor, which becomes the service's main process") {
    ServiceManager manager;
    ProxyProcess proxy(takeover_config(), {{"NOTIFY_SOCKET", manager.name()}});
    CHECK(manager.hear("READY=1") != "");
    CHECK(proxy.connect().scalar("select 1") == "1");
    proxy.signal(SIGUSR2);
    const std::string main_process = manager.hear("MAINPID=");
    const std::size_t at = main_process.find("MAINPID=");
    REQUIRE(at != std::string::npos);
    const pid_t next = std::atoi(main_process.c_str() + at + 8);
    CHECK(next != proxy.pid());
    CHECK(proxy.wait(10s) == 0);
    CHECK(proxy.connect().scalar("select 1") == "1");
    REQUIRE(kill(next, SIGTERM) == 0);
    CHECK(manager.hear("STOPPING=1") != "");
    CHECK(eventually([&proxy] { return !RawClient(proxy.port()).connected(); }));
  }

  TEST_CASE("connections that come while it stops do no harm") {
    for (int round = 0; round < 20; ++round) {
      ProxyProcess proxy(config_for(shared_cluster()));
      std::atomic<bool> gone{false};
      std::vector<std::thread> knocking;
      for (int i = 0; i < 4; ++i)
        knocking.emplace_back([&] {
          while (!gone) gone = !RawClient(proxy.port()).connected();
        });
      proxy.signal(SIGTERM);
      CHECK(proxy.wait(10s) == 0);
      for (std::thread& thread : knocking) thread.join();
    }
  }

  TEST_CASE("requirement 37: connections that are gone before they are accepted do no harm") {
    ProxyProcess proxy(config_for(shared_cluster()));
    Connection client = proxy.connect();
    proxy.signal(SIGSTOP);
    for (int i = 0; i < 30; ++i) {
      RawClient gone(proxy.port());
      gone.send(ssl_request());
      gone.reset();
    }
    RawClient waits(proxy.port());
    proxy.signal(SIGCONT);
    CHECK(waits.login());
    CHECK(client.scalar("select 1") == "1");
  }

  TEST_CASE(
      "requirement 37: when descriptors run out clients are told 53300, the console still gets in, and it passes") {
    ProxyProcess proxy(config_for(shared_cluster()));
    REQUIRE(proxy.ready(2));
    CHECK(proxy.connect().scalar("select 1") == "1");
    const rlimit few{descriptors(proxy.pid()) + 10, descriptors(proxy.pid()) + 10};
    REQUIRE(prlimit(proxy.pid(), RLIMIT_NOFILE, &few, nullptr) == 0);
    std::vector<std::unique_ptr<RawClient>> crowd;
    bool refused = false;
    for (int i = 0; i < 40 && !refused; ++i) {
      crowd.push_back(std::make_unique<RawClient>(proxy.port()));
      if (crowd.back()->login()) continue;
      refused = true;
      CHECK(crowd.back()->login_error.field('C') == "53300");
      CHECK(crowd.back()->login_error.field('D') == "reason=too_many_clients");
      CHECK(crowd.back()->login_error.field('M').find("descriptors") != std::string::npos);
    }
    CHECK(refused);
    Connection console = proxy.console();
    REQUIRE_MESSAGE(console.ok(), console.error());
    CHECK(console.exec("SHOW CLIENTS").rows() > 5);
    // Nodes are not blamed when no server can be opened.
    for (std::size_t i = 0; i + 1 < crowd.size(); ++i) crowd[i]->send(query_message("begin; select 1"));
    CHECK(eventually([&proxy] { return proxy.log().find("could not be opened: 53000") != std::string::npos; }));
    const Result nodes = console.exec("SHOW NODES");
    for (int row = 0; row < nodes.rows(); ++row) CHECK(nodes.at(row, "health") == "up");
    crowd.clear();
    CHECK(eventually([&proxy] { return proxy.connect().scalar("select 1") == "1"; }));
  }
}
