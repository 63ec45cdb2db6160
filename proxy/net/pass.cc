#include "proxy/net/pass.h"

#include <cerrno>
#include <cstring>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

namespace net {
namespace {

// How long a process that starts waits for the one that it succeeds.
constexpr timeval kPatience{5, 0};

bool same_user(int fd) {
  ucred peer{};
  socklen_t length = sizeof peer;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.uid == geteuid();
}

bool fill(const std::string& path, sockaddr_un* address) {
  if (path.empty() || path.size() >= sizeof address->sun_path) return false;
  address->sun_family = AF_UNIX;
  std::memcpy(address->sun_path, path.c_str(), path.size() + 1);
  return true;
}

conf::Error problem(const std::string& path) {
  return {conf::Errc::io, path + ": " + std::strerror(errno)};
}

}  // namespace

std::string encode(char type, const std::vector<std::string>& fields) {
  std::string bytes(1, type);
  for (const std::string& field : fields) {
    const auto size = static_cast<std::uint32_t>(field.size());
    bytes.append(reinterpret_cast<const char*>(&size), sizeof size).append(field);
  }
  return bytes;
}

std::optional<Packet> decode(std::string_view bytes) {
  if (bytes.empty()) return std::nullopt;
  Packet packet;
  packet.type = bytes.front();
  bytes.remove_prefix(1);
  while (!bytes.empty()) {
    std::uint32_t size = 0;
    if (bytes.size() < sizeof size) return std::nullopt;
    std::memcpy(&size, bytes.data(), sizeof size);
    bytes.remove_prefix(sizeof size);
    if (size > bytes.size()) return std::nullopt;
    packet.fields.emplace_back(bytes.substr(0, size));
    bytes.remove_prefix(size);
  }
  return packet;
}

bool send_packet(int fd, char type, const std::vector<std::string>& fields, int passed) {
  std::string bytes = encode(type, fields);
  iovec part{bytes.data(), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (passed >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &passed, sizeof passed);
  }
  return ::sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(bytes.size());
}

Got receive_packet(int fd, Packet* packet) {
  // Neither on the stack nor in thread-local storage, which comes out of every thread's stack.
  std::string buffer(kMaxPacket, '\0');
  iovec part{buffer.data(), buffer.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t got = ::recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  if (got < 0)
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? Got::nothing : Got::closed;
  int passed = -1;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header))
    if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
      std::memcpy(&passed, CMSG_DATA(header), sizeof passed);
  std::optional<Packet> decoded;
  if (got > 0 && (message.msg_flags & MSG_TRUNC) == 0)
    decoded = decode(std::string_view(buffer).substr(0, static_cast<std::size_t>(got)));
  if (!decoded) {
    if (passed >= 0) ::close(passed);
    return Got::closed;
  }
  *packet = std::move(*decoded);
  packet->fd = passed;
  return Got::packet;
}

conf::Result<int> listen_packets(const std::string& path) {
  sockaddr_un address{};
  if (!fill(path, &address))
    return conf::Error{conf::Errc::config, path + ": the path is too long for a unix socket"};
  const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return problem(path);
  const auto found = connect_packets(path);
  if (!found || *found) {
    if (found) ::close(**found);
    ::close(fd);
    return found ? conf::Error{conf::Errc::io, path + ": another process listens there already"}
                 : found.error();
  }
  ::unlink(path.c_str());
  // The file gets the socket's own mode, so that there is no moment in which others may connect.
  if (::fchmod(fd, 0600) != 0 || ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd, 4) != 0) {
    const conf::Error error = problem(path);
    ::close(fd);
    return error;
  }
  return fd;
}

int accept_packets(int listener) {
  const int fd = ::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0 || same_user(fd)) return fd;
  ::close(fd);
  return -1;
}

conf::Result<std::optional<int>> connect_packets(const std::string& path) {
  sockaddr_un address{};
  if (!fill(path, &address))
    return conf::Error{conf::Errc::config, path + ": the path is too long for a unix socket"};
  const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0) return problem(path);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    const conf::Error error = problem(path);
    const bool nobody = errno == ENOENT || errno == ECONNREFUSED;
    ::close(fd);
    if (nobody) return std::optional<int>();
    return error;
  }
  if (!same_user(fd)) {
    ::close(fd);
    return conf::Error{conf::Errc::auth, path + ": the process that listens there runs as another user"};
  }
  return std::optional<int>(fd);
}

}  // namespace net
