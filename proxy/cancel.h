#pragma once

#include <optional>
#include <string>

#include "conf/units.h"
#include "proxy/messages.h"
#include "proxy/net/socket.h"

namespace proxy {

class Server;
class Worker;

// One CancelRequest on its way to a node: connects (over TLS where that is configured), sends the key,
// waits until Postgres has closed the connection, which is when the signal has been sent. Until then the
// server that it aims at is given to nobody else.
class Canceller final : public net::SocketOwner {
 public:
  Canceller(Worker& worker, Server& server, std::optional<ClientId> requester);

  Server* server;  // null when it ended first
  const std::optional<ClientId> requester;
  const conf::Instant started;
  void close() { socket_.close(); }
  // Over, well or not: closes the socket. The worker frees it at the end of the turn.
  void finish() {
    finished_ = true;
    socket_.close();
  }
  bool is_finished() const { return finished_; }

 private:
  void on_readable() override;
  void on_writable() override;
  void send_request();

  enum class Stage : std::uint8_t { connecting, tls_answer, tls_handshake, sent } stage_ = Stage::connecting;
  bool finished_ = false;
  Worker& worker_;
  std::shared_ptr<const net::TlsContext> tls_;  // null: the server's connection has none
  net::Socket socket_;
  std::string host_;
  std::string request_;
};

}  // namespace proxy
