#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <sys/uio.h>

#include "conf/network.h"
#include "conf/result.h"
#include "conf/settings.h"
#include "proxy/net/loop.h"
#include "proxy/net/tls.h"

namespace net {

// What a Socket tells the one who uses it. Both are called on the loop; either may destroy the Socket.
class SocketOwner {
 public:
  virtual void on_readable() = 0;
  virtual void on_writable() = 0;
  // To the socket with what it has put into an Outbox. It may not put anything into one, nor be destroyed.
  virtual void send_now(std::string_view) {}

 protected:
  ~SocketOwner() = default;
};

// How a read or a write went. `count` bytes were moved when it is positive.
struct Transfer {
  enum class State : std::uint8_t { moved, would_block, closed, failed } state;
  std::size_t count = 0;
  int error = 0;  // errno of `failed`; 0 for a TLS error

  bool moved() const { return state == State::moved; }
  bool ended() const { return state == State::closed || state == State::failed; }
};

// A connected (or connecting) stream socket, TCP or unix, plain or TLS, without buffers of its own.
//
// Read interest stays on for the socket's whole life unless pause_reading() says otherwise, so an
// ordinary statement costs one read and one write per side and no change of interest. The loop calls
// on_readable() as long as there is something to read (level-triggered), so a partial read loses
// nothing.
//
// With TLS, decrypted bytes may be left inside the library where the loop cannot see them:
// has_buffered() says so, and the caller must come back by itself.
class Socket {
 public:
  Socket() = default;
  // Takes over `fd` (non-blocking).
  Socket(Loop& loop, int fd, SocketOwner& owner);
  ~Socket() { close(); }
  Socket(Socket&& other) = delete;

  // Takes over `fd` for a default-constructed or closed socket.
  void open(Loop& loop, int fd, SocketOwner& owner);
  // Starts connecting to a numeric address, or to the unix socket `.s.PGSQL.<port>` in the folder that
  // `ip` names (starts with '/'). on_writable() follows; then finish_connect().
  conf::Status connect(Loop& loop, const std::string& ip, std::uint16_t port, SocketOwner& owner);
  // Did the connection come about? 0, or the errno of the failure.
  int finish_connect();

  // Gives the descriptor (and the TLS session) away, for another loop. The socket is closed after it.
  struct Parts {
    int fd = -1;
    std::unique_ptr<TlsSession> tls;
    Parts() = default;
    Parts(Parts&&) noexcept;
    Parts& operator=(Parts&&) noexcept;
    ~Parts();
  };
  Parts detach();
  void attach(Loop& loop, Parts parts, SocketOwner& owner);

  void close();
  bool is_open() const { return fd_ >= 0; }
  int fd() const { return fd_; }

  Transfer read(std::span<char> into);
  // Writes as much as the kernel takes of `parts`, in order.
  Transfer write(std::span<const iovec> parts);
  // The next byte without taking it; nothing when there is none yet, or never will be. Not for TLS.
  std::optional<char> peek();
  bool has_buffered() const { return tls_ != nullptr && tls_->has_buffered(); }

  void pause_reading() { want(wanted_ & ~Watch::readable); }
  void resume_reading() { want(wanted_ | Watch::readable); }
  bool reading() const { return (wanted_ & Watch::readable) != 0; }
  void want_write(bool on) { want(on ? wanted_ | Watch::writable : wanted_ & ~Watch::writable); }
  // No more bytes will be written; the peer sees the end of the stream.
  void shutdown_write();

  // From here on the stream is TLS. The handshake goes on with every read or write event until it
  // returns `done`.
  void start_tls(std::unique_ptr<TlsSession> session);
  TlsSession::Step handshake();
  TlsSession* tls() { return tls_.get(); }
  const TlsSession* tls() const { return tls_.get(); }

  // How vanished peers are found out. Of no effect on unix sockets.
  void set_keepalive(const conf::TcpSettings& settings);
  // Bytes have arrived that nobody has read.
  bool has_input() const;

 private:
  void want(int events);
  void on_events(int status, int events);

  Handle<uv_poll_t> uv_;
  int fd_ = -1;
  int wanted_ = 0;
  SocketOwner* owner_ = nullptr;
  std::unique_ptr<TlsSession> tls_;
};

// Where a connection comes from.
struct Peer {
  std::string text;        // "10.1.2.3:50123", or "unix"
  bool is_local = false;   // loopback or unix socket
  std::optional<conf::IpAddress> address{};  // of TCP

  // Without the port, as Postgres calls it: "10.1.2.3", or "[local]".
  std::string host() const;
};
Peer peer_of(int fd);
// The same of our end.
Peer local_end_of(int fd);

// Where a socket of ours is bound: "127.0.0.1:6432", "[::1]:6432", a path, "@name" of an abstract one.
std::string local_name(int fd);

// Listening sockets. The descriptor is non-blocking and close-on-exec.
conf::Result<int> listen_tcp(const std::string& address, std::uint16_t port, int backlog);
conf::Result<int> listen_unix(const std::string& path, int backlog);
// Sixteen bytes of IPv6; IPv4 in its mapped form; all zero for unix sockets.
using Address = std::array<std::uint8_t, 16>;
// One waiting connection and where it comes from, or -1 with errno.
int accept_one(int listener, Address* from);

}  // namespace net
