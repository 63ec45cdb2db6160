#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "conf/result.h"
#include "proxy/wire/scram.h"

namespace proxy {

class Server;
class Worker;

// What a Server does between connect and the moment when it can be used: asks for TLS, says who it is, proves
// it, and asks which postmaster this is. Gone when the login is over.
class ServerLogin {
 public:
  ServerLogin(Worker& worker, Server& server);

  enum class Stage : std::uint8_t { connecting, tls_answer, tls_handshake, startup, identity, done };
  Stage stage() const { return stage_; }

  // The socket is connected.
  void connected();
  // Bytes have arrived (or the handshake may go on). Returns how many were used.
  std::size_t on_bytes(std::string_view bytes);
  void go_on_with_handshake();

 private:
  void send_startup();
  bool on_identity(char type, std::string_view body);
  bool on_message(char type, std::string_view body);
  bool on_authentication(std::string_view body);
  void answer_challenge(const wire::ScramKeys& keys);
  bool fail(std::string_view message);

  Worker& worker_;
  Server& server_;
  Stage stage_ = Stage::connecting;
  bool authenticated_ = false;
  bool same_postmaster_ = true;  // as far as it says
  std::string secret_;  // that is configured, or that auth.query found; empty: none
  std::unique_ptr<wire::ScramClient> scram_;
  // Work in the background may end after this login has: it holds a copy of this and looks.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);

 public:
  ~ServerLogin() { *alive_ = false; }
};

}  // namespace proxy
