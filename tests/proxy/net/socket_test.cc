#include "proxy/net/socket.h"

#include <array>
#include <cstdlib>
#include <string>

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/eventually.h"

using namespace net;
using namespace std::chrono_literals;

namespace {

struct Nobody final : SocketOwner {
  void on_readable() override {}
  void on_writable() override {}
};

std::uint16_t port_of(int listener) {
  sockaddr_in address{};
  socklen_t length = sizeof address;
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length);
  return ntohs(address.sin_port);
}

int option(int fd, int level, int name) {
  int value = -1;
  socklen_t length = sizeof value;
  getsockopt(fd, level, name, &value, &length);
  return value;
}

// Port 0: the system chooses one.
int listen_somewhere(const std::string& address) {
  const auto listener = listen_tcp(address, 0, 8);
  return listener ? *listener : -1;
}

// Connects to the listener, and accepts that.
struct Pair {
  Pair(int listener, const std::string& ip, std::uint16_t port) {
    const auto started = outgoing.connect(loop, ip, port, nobody);
    connected = static_cast<bool>(started) &&
                support::eventually([&] { return (accepted = accept_one(listener, &from)) >= 0; });
  }
  ~Pair() {
    outgoing.close();
    if (accepted >= 0) ::close(accepted);
  }
  Nobody nobody;
  Loop loop;
  Socket outgoing;
  Address from{};
  int accepted = -1;
  bool connected = false;
};

Address mapped(std::uint32_t ip) {
  Address address{};
  address[10] = address[11] = 0xff;
  for (std::size_t i = 0; i < 4; ++i) address[12 + i] = static_cast<std::uint8_t>(ip >> (24 - 8 * i));
  return address;
}

}  // namespace

TEST_SUITE("proxy/net/socket") {
  TEST_CASE("TCP is told how to find out that a peer has vanished; what is zero is left to the system") {
    const int listener = listen_somewhere("127.0.0.1");
    REQUIRE(listener >= 0);
    Pair pair(listener, "127.0.0.1", port_of(listener));
    REQUIRE(pair.connected);
    const int fd = pair.outgoing.fd();
    const int before = option(fd, IPPROTO_TCP, TCP_KEEPCNT);
    pair.outgoing.set_keepalive(
        {.keepalive = 90s, .keepalive_interval = 1500ms, .keepalive_count = 0, .user_timeout = 0ms});
    CHECK(option(fd, SOL_SOCKET, SO_KEEPALIVE) == 1);
    CHECK(option(fd, IPPROTO_TCP, TCP_KEEPIDLE) == 90);
    CHECK(option(fd, IPPROTO_TCP, TCP_KEEPINTVL) == 2);  // whole seconds, rounded up
    CHECK(option(fd, IPPROTO_TCP, TCP_KEEPCNT) == before);
    CHECK(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT) == 0);
    pair.outgoing.set_keepalive(
        {.keepalive = 0ms, .keepalive_interval = 0ms, .keepalive_count = 4, .user_timeout = 12'345ms});
    CHECK(option(fd, IPPROTO_TCP, TCP_KEEPIDLE) == 90);
    CHECK(option(fd, IPPROTO_TCP, TCP_KEEPCNT) == 4);
    CHECK(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT) == 12'345);
    ::close(listener);
  }

  TEST_CASE("an accepted connection tells its address: IPv4 the same on every listener, unix sockets as one") {
    const int v4 = listen_somewhere("127.0.0.1");
    REQUIRE(v4 >= 0);
    CHECK(Pair(v4, "127.0.0.1", port_of(v4)).from == mapped(0x7f000001));
    ::close(v4);
    const int all = listen_somewhere("*");
    REQUIRE(all >= 0);
    CHECK(Pair(all, "127.0.0.1", port_of(all)).from == mapped(0x7f000001));
    const Pair v6(all, "::1", port_of(all));
    Address loopback{};
    loopback[15] = 1;
    if (v6.connected) CHECK(v6.from == loopback);  // where the host has IPv6
    ::close(all);
    char folder[] = "/tmp/pgsluice-socket-test-XXXXXX";
    REQUIRE(::mkdtemp(folder) != nullptr);
    const std::string path = std::string(folder) + "/.s.PGSQL.1";
    const auto local = listen_unix(path, 8);
    REQUIRE(local);
    const Pair unix_pair(*local, folder, 1);
    CHECK(unix_pair.connected);
    CHECK(unix_pair.from == Address{});
    ::close(*local);
    ::unlink(path.c_str());
    ::rmdir(folder);
  }
}
