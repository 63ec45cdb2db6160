#include "proxy/net/socket.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "conf/check.h"

namespace net {
namespace {

// The largest TLS record; what one SSL_write can send at once.
constexpr std::size_t kRecord = 16384;

void set_no_delay(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // fails on unix sockets; no matter
}

bool fill_address(const std::string& ip, std::uint16_t port, sockaddr_storage* address,
                  socklen_t* length) {
  std::memset(address, 0, sizeof *address);
  if (!ip.empty() && ip[0] == '/') {
    auto* unix_address = reinterpret_cast<sockaddr_un*>(address);
    const std::string path = ip + "/.s.PGSQL." + std::to_string(port);
    if (path.size() >= sizeof unix_address->sun_path) return false;
    unix_address->sun_family = AF_UNIX;
    std::memcpy(unix_address->sun_path, path.c_str(), path.size() + 1);
    *length = sizeof *unix_address;
    return true;
  }
  auto* v4 = reinterpret_cast<sockaddr_in*>(address);
  if (inet_pton(AF_INET, ip.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    *length = sizeof *v4;
    return true;
  }
  auto* v6 = reinterpret_cast<sockaddr_in6*>(address);
  if (inet_pton(AF_INET6, ip.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    *length = sizeof *v6;
    return true;
  }
  return false;
}

conf::Error io_error(const std::string& what) {
  return {conf::Errc::io, what + ": " + std::strerror(errno)};
}

}  // namespace

Socket::Parts::Parts(Parts&& other) noexcept
    : fd(std::exchange(other.fd, -1)), tls(std::move(other.tls)) {}

Socket::Parts& Socket::Parts::operator=(Parts&& other) noexcept {
  std::swap(fd, other.fd);
  std::swap(tls, other.tls);
  return *this;
}

Socket::Parts::~Parts() {
  tls.reset();
  if (fd >= 0) ::close(fd);
}

Socket::Socket(Loop& loop, int fd, SocketOwner& owner) { open(loop, fd, owner); }

void Socket::open(Loop& loop, int fd, SocketOwner& owner) {
  ENSURE(fd_ < 0 && fd >= 0);
  int status = 0;
  uv_ = Handle<uv_poll_t>::make(
      this, [&loop, fd](uv_poll_t* uv) { return uv_poll_init(loop.raw(), uv, fd); }, &status);
  ENSURE(status == 0);
  fd_ = fd;
  owner_ = &owner;
  wanted_ = 0;
  want(Watch::readable);
}

conf::Status Socket::connect(Loop& loop, const std::string& ip, std::uint16_t port,
                             SocketOwner& owner) {
  sockaddr_storage address;
  socklen_t length = 0;
  if (!fill_address(ip, port, &address, &length))
    return conf::Error{conf::Errc::io, "connecting to " + ip + ": not an address"};
  const int fd = ::socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return io_error("making a socket");
  set_no_delay(fd);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), length) != 0 && errno != EINPROGRESS) {
    const conf::Error error = io_error("connecting to " + ip);
    ::close(fd);
    return error;
  }
  open(loop, fd, owner);
  want(Watch::writable);
  return conf::ok;
}

int Socket::finish_connect() {
  int error = 0;
  socklen_t length = sizeof error;
  getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &length);
  if (error == 0) want(Watch::readable);
  return error;
}

Socket::Parts Socket::detach() {
  Parts parts;
  uv_.reset();
  parts.fd = std::exchange(fd_, -1);
  parts.tls = std::move(tls_);
  wanted_ = 0;
  return parts;
}

void Socket::attach(Loop& loop, Parts parts, SocketOwner& owner) {
  open(loop, std::exchange(parts.fd, -1), owner);
  tls_ = std::move(parts.tls);
}

void Socket::close() {
  if (fd_ < 0) return;
  if (tls_) tls_->shutdown();
  uv_.reset();
  tls_.reset();
  ::close(std::exchange(fd_, -1));
  wanted_ = 0;
}

// recv() and send() of the C library are cancellation points, which costs a threaded process some 130
// instructions per statement; nobody cancels threads here, so the kernel is called directly.
Transfer Socket::read(std::span<char> into) {
  using enum Transfer::State;
  if (tls_) {
    std::size_t count = 0;
    switch (tls_->read(into.data(), into.size(), &count)) {
      case TlsSession::Step::done: return {moved, count};
      case TlsSession::Step::want_read: return {would_block};
      case TlsSession::Step::want_write: want_write(true); return {would_block};
      case TlsSession::Step::failed: return {tls_->closed() ? closed : failed};
    }
  }
  for (;;) {
    const ssize_t count = ::syscall(SYS_recvfrom, fd_, into.data(), into.size(), 0, nullptr, nullptr);
    if (count > 0) return {moved, static_cast<std::size_t>(count)};
    if (count == 0) return {closed};
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return {would_block};
    return {failed, 0, errno};
  }
}

std::optional<char> Socket::peek() {
  char byte = 0;
  if (::recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) != 1) return std::nullopt;
  return byte;
}

Transfer Socket::write(std::span<const iovec> parts) {
  using enum Transfer::State;
  if (tls_) {
    // Small parts are joined so that they share a record. After a write that would block, the caller
    // comes back with the same bytes in front, which is what the library asks for.
    std::size_t total = 0;
    std::size_t part = 0, offset = 0;
    while (part < parts.size()) {
      char record[kRecord];
      std::size_t filled = 0;
      std::size_t at = part, from = offset;
      while (at < parts.size() && filled < kRecord) {
        const std::size_t size = std::min(parts[at].iov_len - from, kRecord - filled);
        std::memcpy(record + filled, static_cast<const char*>(parts[at].iov_base) + from, size);
        filled += size;
        from += size;
        if (from == parts[at].iov_len) {
          ++at;
          from = 0;
        }
      }
      if (filled == 0) break;
      std::size_t count = 0;
      switch (tls_->write(record, filled, &count)) {
        case TlsSession::Step::done: break;
        case TlsSession::Step::want_read:
        case TlsSession::Step::want_write:
          return total > 0 ? Transfer{moved, total} : Transfer{would_block};
        case TlsSession::Step::failed: return {failed};
      }
      total += count;
      if (count == filled) {
        part = at;
        offset = from;
        continue;
      }
      return {moved, total};
    }
    return {moved, total};
  }
  for (;;) {
    ssize_t count = 0;
    if (parts.size() == 1) {
      count = ::syscall(SYS_sendto, fd_, parts[0].iov_base, parts[0].iov_len, MSG_NOSIGNAL, nullptr, 0);
    } else {
      msghdr message{};
      message.msg_iov = const_cast<iovec*>(parts.data());
      message.msg_iovlen = std::min<std::size_t>(parts.size(), 64);
      count = ::syscall(SYS_sendmsg, fd_, &message, MSG_NOSIGNAL);
    }
    if (count >= 0) return {moved, static_cast<std::size_t>(count)};
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return {would_block};
    return {failed, 0, errno};
  }
}

void Socket::shutdown_write() {
  if (fd_ >= 0) ::shutdown(fd_, SHUT_WR);
}

void Socket::start_tls(std::unique_ptr<TlsSession> session) {
  ENSURE(!tls_);
  tls_ = std::move(session);
  tls_->bind(fd_);
}

TlsSession::Step Socket::handshake() {
  const TlsSession::Step step = tls_->handshake();
  if (step != TlsSession::Step::failed) want_write(step == TlsSession::Step::want_write);
  return step;
}

bool Socket::has_input() const {
  char byte = 0;
  return fd_ >= 0 && ::recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

void Socket::set_keepalive(const conf::TcpSettings& settings) {
  const auto set = [this](int level, int option, std::int64_t value) {
    const int word = static_cast<int>(value);
    setsockopt(fd_, level, option, &word, sizeof word);
  };
  // In whole seconds, rounded up: none is not what somebody meant who wrote 500ms.
  const auto set_seconds = [&set](int option, conf::Millis time) {
    if (time.count() > 0) set(IPPROTO_TCP, option, (time.count() + 999) / 1000);
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set_seconds(TCP_KEEPIDLE, settings.keepalive);
  set_seconds(TCP_KEEPINTVL, settings.keepalive_interval);
  if (settings.keepalive_count > 0) set(IPPROTO_TCP, TCP_KEEPCNT, settings.keepalive_count);
  if (settings.user_timeout.count() > 0)
    set(IPPROTO_TCP, TCP_USER_TIMEOUT, settings.user_timeout.count());
}

void Socket::want(int events) {
  if (events == wanted_ || !uv_) return;
  wanted_ = events;
  if (events == 0) {
    uv_poll_stop(uv_.get());
    return;
  }
  uv_poll_start(uv_.get(), events, [](uv_poll_t* uv, int status, int happened) noexcept {
    if (auto* socket = owner_of<Socket>(uv)) socket->on_events(status, happened);
  });
}

void Socket::on_events(int status, int events) {
  // A reset arrives as an error, and libuv has stopped watching. The read that follows reports it, after
  // whatever had arrived before it.
  if (status < 0) {
    events = wanted_;
    wanted_ = 0;
    want(events);
  }
  if ((events & Watch::writable) != 0) {
    uv_poll_t* const handle = uv_.get();
    owner_->on_writable();
    // The owner may have destroyed this socket; the handle's memory outlives the callback.
    if (handle->data != this || uv_.get() != handle) return;
  }
  if ((events & Watch::readable) != 0 && (wanted_ & Watch::readable) != 0) owner_->on_readable();
}

std::string Peer::host() const {
  if (!address) return "[local]";
  return print(conf::Network{*address, 128});
}

namespace {

Peer print_address(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&address);
    inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text);
    return {std::string(text) + ":" + std::to_string(ntohs(v4->sin_port)),
            (ntohl(v4->sin_addr.s_addr) >> 24) == 127, *conf::parse_ip_address(text)};
  }
  if (address.ss_family == AF_INET6) {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address);
    inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
    conf::IpAddress bytes;
    std::memcpy(bytes.bytes.data(), &v6->sin6_addr, bytes.bytes.size());
    return {"[" + std::string(text) + "]:" + std::to_string(ntohs(v6->sin6_port)), bytes.is_loopback(),
            bytes};
  }
  return {"unix", true};
}

}  // namespace

std::string local_name(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return "unknown";
  if (address.ss_family != AF_UNIX) return print_address(address).text;
  const auto* local = reinterpret_cast<const sockaddr_un*>(&address);
  const std::size_t size = length - offsetof(sockaddr_un, sun_path);
  if (length <= offsetof(sockaddr_un, sun_path)) return "unknown";
  return local->sun_path[0] == '\0' ? "@" + std::string(local->sun_path + 1, size - 1)
                                     : std::string(local->sun_path);
}

Peer peer_of(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return {"unknown", false};
  return print_address(address);
}

Peer local_end_of(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return {"unknown", false};
  return print_address(address);
}

conf::Result<int> listen_tcp(const std::string& address, std::uint16_t port, int backlog) {
  const std::string where = (address == "*" ? "::" : address);
  const std::string what = "listening on " + address + ":" + std::to_string(port);
  sockaddr_storage bound;
  socklen_t length = 0;
  if (!fill_address(where, port, &bound, &length) || where.starts_with('/'))
    return conf::Error{conf::Errc::config, what + ": not a numeric address (or \"*\")"};
  int fd = ::socket(bound.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0 && address == "*") {  // no IPv6 on this host
    fill_address("0.0.0.0", port, &bound, &length);
    fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  }
  if (fd < 0) return io_error(what);
  const int on = 1, off = 0;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bound.ss_family == AF_INET6)
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, address == "*" ? &off : &on, sizeof on);
  if (::bind(fd, reinterpret_cast<sockaddr*>(&bound), length) != 0 || ::listen(fd, backlog) != 0) {
    const conf::Error error = io_error(what);
    ::close(fd);
    return error;
  }
  return fd;
}

conf::Result<int> listen_unix(const std::string& path, int backlog) {
  const std::string what = "listening on " + path;
  sockaddr_un address{};
  if (path.size() >= sizeof address.sun_path)
    return conf::Error{conf::Errc::config, what + ": the path is too long for a unix socket"};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return io_error(what);
  // A socket file that nobody answers on is what a killed process left behind.
  const int probe = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (probe >= 0) {
    if (::connect(probe, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 &&
        errno == ECONNREFUSED)
      ::unlink(path.c_str());
    ::close(probe);
  }
  if (::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd, backlog) != 0) {
    const conf::Error error = io_error(what);
    ::close(fd);
    return error;
  }
  ::chmod(path.c_str(), 0777);
  return fd;
}

int accept_one(int listener, Address* from) {
  sockaddr_storage peer{};
  socklen_t length = sizeof peer;
  const int fd =
      ::accept4(listener, reinterpret_cast<sockaddr*>(&peer), &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return fd;
  set_no_delay(fd);
  *from = {};
  if (peer.ss_family == AF_INET) {
    (*from)[10] = (*from)[11] = 0xff;
    std::memcpy(from->data() + 12, &reinterpret_cast<const sockaddr_in*>(&peer)->sin_addr, 4);
  } else if (peer.ss_family == AF_INET6) {
    std::memcpy(from->data(), &reinterpret_cast<const sockaddr_in6*>(&peer)->sin6_addr, 16);
  }
  return fd;
}

}  // namespace net
