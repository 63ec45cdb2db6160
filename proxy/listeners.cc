#include "proxy/listeners.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/net/pass.h"
#include "proxy/net/socket.h"

namespace proxy {

using From = ListenSocket::From;

namespace {

// The first descriptor that systemd passes (SD_LISTEN_FDS_START).
constexpr int kFirst = 3;

}  // namespace

conf::Result<std::vector<ListenSocket>> sockets_from_systemd() {
  std::vector<ListenSocket> sockets;
  const char* pid = std::getenv("LISTEN_PID");
  const char* count = std::getenv("LISTEN_FDS");
  const bool for_us = pid != nullptr && count != nullptr && std::atol(pid) == ::getpid();
  const int end = kFirst + (for_us ? std::atoi(count) : 0);
  for (const char* name : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) ::unsetenv(name);
  for (int fd = kFirst; fd < end; ++fd) {
    int listening = 0, type = 0;
    socklen_t length = sizeof listening;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) != 0 || listening == 0 ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0 || type != SOCK_STREAM)
      return conf::Error{conf::Errc::config, "descriptor " + std::to_string(fd) +
                                                 " from systemd is not a listening stream socket "
                                                 "(ListenStream= and Accept=no are what works)"};
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
    sockets.push_back({fd, From::systemd, net::local_name(fd)});
  }
  return sockets;
}

conf::Result<std::vector<ListenSocket>> open_listeners(const conf::Settings& settings,
                                                       std::vector<ListenSocket> given) {
  std::vector<ListenSocket> open;
  const auto port = static_cast<std::uint16_t>(settings.listen_port);
  const auto backlog = static_cast<int>(settings.listen_backlog);
  const auto fail = [&](const conf::Error& error) {
    for (const ListenSocket& one : open) close_listener(one, false);
    for (const ListenSocket& one : given) close_listener(one, false);
    return error;
  };
  // Takes a given one, or makes it.
  const auto add = [&](From from, const std::string& where, auto&& make) -> conf::Status {
    const auto found = std::ranges::find_if(
        given, [&](const ListenSocket& one) { return one.from == from && one.where == where; });
    if (found != given.end()) {
      if (from == From::us) ::listen(found->fd, backlog);  // it may have changed
      open.push_back(*found);
      given.erase(found);
      return conf::ok;
    }
    const conf::Result<int> fd = make();
    if (!fd) return fd.error();
    open.push_back({*fd, from, where});
    return conf::ok;
  };

  const bool activated =
      std::ranges::any_of(given, [](const ListenSocket& one) { return one.from == From::systemd; });
  if (activated) {
    for (const ListenSocket& one : given)
      if (one.from == From::systemd) open.push_back(one);
    std::erase_if(given, [](const ListenSocket& one) { return one.from == From::systemd; });
  } else {
    std::string addresses = settings.listen_address;
    while (!addresses.empty()) {
      const std::size_t comma = addresses.find(',');
      std::string one = addresses.substr(0, comma);
      addresses = comma == std::string::npos ? "" : addresses.substr(comma + 1);
      std::erase(one, ' ');
      if (one.empty()) continue;
      const conf::Status made = add(From::us, one + ":" + std::to_string(port), [&] {
        return net::listen_tcp(one == "localhost" ? "127.0.0.1" : one, port, backlog);
      });
      if (!made) return fail(made.error());
    }
    if (!settings.listen_unix_socket_dir.empty()) {
      const std::string path = settings.listen_unix_socket_dir + "/.s.PGSQL." + std::to_string(port);
      const conf::Status made = add(From::us, path, [&] { return net::listen_unix(path, backlog); });
      if (!made) return fail(made.error());
    }
    if (open.empty())
      return fail({conf::Errc::config,
                   "nothing to listen on: listen.address and listen.unix_socket_dir are empty"});
  }
  if (const std::string& path = settings.listen_takeover_socket; !path.empty()) {
    const conf::Status made = add(From::takeover, path, [&] { return net::listen_packets(path); });
    if (!made) return fail(made.error());
  }
  for (const ListenSocket& one : given) close_listener(one, true);
  return open;
}

void close_listener(const ListenSocket& socket, bool remove) {
  ::close(socket.fd);
  // systemd's sockets are systemd's, their files too.
  if (remove && socket.from != From::systemd && socket.where.starts_with('/'))
    ::unlink(socket.where.c_str());
}

}  // namespace proxy
