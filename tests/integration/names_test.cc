#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

#include "tests/integration/fixture.h"
#include "tests/support/gate.h"
#include "tests/support/raw_client.h"

// Nodes that are configured by name. The names stand in a file of the test's own, which the proxy sees in the
// place of /etc/hosts: in a mount namespace of its own, which root may make, but not in every container. Where it
// may not, these cases say so and check nothing.
using namespace integration;

namespace {

struct Names {
  TempDir folder;
  const std::string file = folder / "hosts";

  // Of node.example, in the order of the lines.
  void mean(const std::vector<std::string>& addresses) const {
    std::string text = "127.0.0.1 localhost\n";
    for (const std::string& address : addresses) text += address + " node.example\n";
    write_file(file, text);
  }
  std::vector<std::string> before() const {
    const std::string servers = folder / "servers";
    write_file(servers, "nameserver 127.0.0.77\noptions timeout:2 attempts:1\n");
    return {"unshare", "-m", "sh", "-c",
            "mount --bind " + file + " /etc/hosts && mount --bind " + servers +
                " /etc/resolv.conf && exec \"$@\"",
            "sh"};
  }
};

bool may_mount() {
  static const bool may = std::system("unshare -m mount --bind /etc/hosts /etc/hosts 2>/dev/null") == 0;
  if (!may) MESSAGE("not checked: mount namespaces are not allowed here");
  return may;
}

ProxyConfig by_name(std::uint16_t port) {
  return config_for(shared_cluster())
      .servers({"node.example:" + std::to_string(port)})
      .set("pool", "connect_timeout", "\"1s\"");
}

// The addresses of the servers that the console shows, each once.
std::string addresses(const ProxyProcess& proxy) {
  const Result servers = proxy.console().exec("show servers");
  std::set<std::string> found;
  for (int row = 0; row < servers.rows(); ++row) found.insert(servers.at(row, "addr"));
  std::string text;
  for (const std::string& one : found) text += one + ";";
  return text;
}

}  // namespace

TEST_SUITE("integration/names") {
  TEST_CASE("requirement 34: all addresses of a name are tried, and those that answer are used") {
    if (!may_mount()) return;
    Names names;
    names.mean({"127.0.0.8", "127.0.0.9", "127.0.0.1"});  // nobody listens at the first two
    ProxyProcess proxy(by_name(shared_cluster().port(0)), {}, names.before());
    REQUIRE(proxy.ready(0));
    for (int i = 0; i < 5; ++i) CHECK(proxy.connect().scalar("begin; select 1") == "1");
    CHECK(addresses(proxy) == "127.0.0.1;");
    CHECK(metric(proxy.metrics(), "pgsluice_server_connect_failures_total") == 0);
  }

  TEST_CASE("requirement 34: servers of an address that its name has lost are closed when they are released") {
    if (!may_mount()) return;
    PgCluster& cluster = shared_cluster();
    Names names;
    names.mean({"127.0.0.1"});
    Gate gate(cluster.port(0)), other(cluster.port(0), "127.0.0.2", gate.port());
    ProxyProcess proxy(by_name(gate.port()), {}, names.before());
    REQUIRE(proxy.ready(0));
    Connection holder = proxy.connect(), idle = proxy.connect();
    const std::string pid = holder.scalar("begin; select pg_backend_pid()");
    CHECK(idle.scalar("begin; select 1") == "1");
    CHECK(idle.exec("commit").ok());
    CHECK(addresses(proxy) == "127.0.0.1;");
    names.mean({"127.0.0.2"});
    CHECK(proxy.console().exec("reload").ok());  // names are looked up again at once
    CHECK(eventually([&] { return idle.scalar("select 1") == "1" && addresses(proxy) == "127.0.0.1;127.0.0.2;"; }));
    CHECK(holder.scalar("select pg_backend_pid()") == pid);
    CHECK(holder.exec("commit").ok());
    CHECK(holder.scalar("select 1") == "1");
    CHECK(eventually([&] { return addresses(proxy) == "127.0.0.2;"; }));
  }

  TEST_CASE("requirement 34: a name is looked up again after probe.dns_ttl, though its node is well") {
    if (!may_mount()) return;
    PgCluster& cluster = shared_cluster();
    Names names;
    names.mean({"127.0.0.1"});
    Gate gate(cluster.port(0)), other(cluster.port(0), "127.0.0.2", gate.port());
    ProxyProcess proxy(by_name(gate.port()).set("probe", "dns_ttl", "\"1s\""), {}, names.before());
    REQUIRE(proxy.ready(0));
    Connection client = proxy.connect();
    CHECK(client.scalar("select 1") == "1");
    CHECK(addresses(proxy) == "127.0.0.1;");
    names.mean({"127.0.0.2"});
    CHECK(eventually([&] { return client.scalar("select 1") == "1" && addresses(proxy) == "127.0.0.2;"; }));
  }

  TEST_CASE("requirement 34: a name is looked up again when its node fails, and servers follow") {
    if (!may_mount()) return;
    PgCluster& cluster = shared_cluster();
    Names names;
    names.mean({"127.0.0.1"});
    Gate gate(cluster.port(0)), other(cluster.port(0), "127.0.0.2", gate.port());
    ProxyProcess proxy(by_name(gate.port()), {}, names.before());
    REQUIRE(proxy.ready(0));
    Connection client = proxy.connect();
    CHECK(client.scalar("select 1") == "1");
    gate.refuse(true);
    gate.cut();
    CHECK(eventually([&] { return !proxy.node_is("node.example:" + std::to_string(gate.port()), "up"); }));
    names.mean({"127.0.0.2"});
    CHECK(eventually([&] { return proxy.connect().scalar("begin; select 1") == "1"; }));
    CHECK(addresses(proxy) == "127.0.0.2;");
  }

  TEST_CASE("requirement 34: a resolver that hangs stops nobody but the nodes whose names it keeps") {
    if (!may_mount()) return;
    // Takes every question and answers none.
    const int silent = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), on = 1;
    // Another run of this may have one beside it.
    REQUIRE(setsockopt(silent, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) == 0);
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_port = htons(53);
    inet_pton(AF_INET, "127.0.0.77", &where.sin_addr);
    REQUIRE(bind(silent, reinterpret_cast<const sockaddr*>(&where), sizeof where) == 0);
    Names names;
    names.mean({});
    ProxyConfig config = config_for(shared_cluster())
                             .servers({shared_cluster().address(0), "a.example:1", "b.example:1", "c.example:1",
                                       "d.example:1", "e.example:1"})
                             .set("auth", "method", "\"scram-sha-256\"")
                             .set("user.app", "password", "\"secret\"");
    ProxyProcess proxy(config, {}, names.before());
    CHECK(eventually([&] {
      return proxy.connect("app", "app", "sslmode=disable password=secret").scalar("begin; select 1") == "1";
    }));
    for (int i = 0; i < 3; ++i) {
      // Key derivation shares the threads that look names up.
      Stopwatch watch;
      Connection client = proxy.connect("app", "app", "sslmode=disable password=secret");
      CHECK_MESSAGE(client.scalar("begin; select 1") == "1", client.error());
      CHECK(watch.elapsed() < 3s);
    }
    close(silent);
  }
}
