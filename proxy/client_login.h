#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "conf/result.h"
#include "pool/admission.h"
#include "proxy/net/socket.h"
#include "proxy/wire/scram.h"
#include "proxy/wire/startup.h"

namespace proxy {

class Client;
class Worker;

// What a client goes through before it may ask anything: TLS, start-up packet, proof of who it is,
// welcome. Gone when the session is open, so that an idle client does not carry it.
class ClientLogin {
 public:
  // `one_too_many`: of its address; it may send a cancel, and is refused otherwise.
  ClientLogin(Worker& worker, Client& client, net::Peer peer, bool one_too_many);
  ~ClientLogin() { *alive_ = false; }

  // Bytes have arrived: returns how many were used.
  std::size_t on_bytes(std::string_view bytes);
  // The first byte says whether TLS begins without being asked for (sslnegotiation=direct): the
  // handshake wants it back, so it is looked at before anything is read.
  bool at_first_byte() const { return stage_ == Stage::first_byte; }
  void on_first_byte();
  bool in_handshake() const { return stage_ == Stage::tls_handshake; }
  void go_on_with_handshake();
  void secret_found(conf::Result<std::optional<std::string>> secret);
  // The secret could not be looked up (no node is known yet, or none answers): asks once more.
  void ask_again();
  void cancel_delivered();
  // Nothing that a person sent has arrived yet, or it was a cancel: not worth a warning when it ends.
  bool said_nothing() const { return stage_ <= Stage::packet || stage_ == Stage::cancelling; }
  // It asks for the console, or has not said yet what it asks for.
  bool may_be_console() const;
  // File descriptors have run out: nobody else is let in.
  void let_in_only_console() { only_console_ = true; }
  const net::Peer& peer() const { return peer_; }
  const wire::Login& asked() const { return asked_; }

 private:
  enum class Stage : std::uint8_t {
    first_byte,
    packet,         // waits for a start-up packet
    tls_handshake,
    secret,         // waits for auth_query, or for a key derivation
    password,       // waits for a password message
    sasl_first,
    sasl_final,
    welcome,        // authenticated; waits for a server to say what the session looks like
    cancelling,     // waits until a cancel is delivered
  };

  std::size_t on_packet(std::string_view bytes);
  void on_startup(const wire::Startup& startup);
  void begin_authentication();
  // False: it does not, and the login has failed.
  const std::string& cluster_wanted() const;  // of the database that is asked for
  bool certificate_fits(conf::ClientCert demanded);
  void challenge();
  void on_password(std::string_view payload);
  void on_sasl_first(std::string_view payload);
  void on_sasl_final(std::string_view payload);
  void authenticated();
  void open_session();
  void refuse_one_too_many(pool::Refusal why, std::string_view of_what, std::string_view option);
  void reject();  // wrong password, unknown user: the same words
  void fail(std::string_view sqlstate, std::string_view message);

  Worker& worker_;
  Client& client_;
  net::Peer peer_;
  Stage stage_ = Stage::first_byte;
  conf::AuthMethod method_ = conf::AuthMethod::reject;  // that this client has to use
  bool asked_tls_ = false, asked_gss_ = false, direct_tls_ = false;
  const bool one_too_many_;
  bool only_console_ = false;
  wire::Login asked_;
  std::string secret_;        // as stored: plain, md5 or SCRAM; empty: no such user
  bool user_exists_ = false;
  bool look_up_failed_ = false;
  std::string cluster_;       // that auth_query asked; empty: it was not
  std::string salt_;          // of md5
  std::string sasl_first_;    // kept while the secret of a plain password is derived
  std::unique_ptr<wire::ScramServer> scram_;
  wire::ScramSecret scram_secret_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  // Makes it as large as a Client: the memory that a finished login gives back then holds the next client.
  // Smaller, each login left a hole that nothing filled (300 bytes for every idle client).
  [[maybe_unused]] char as_large_as_a_client_[240] = {};
};

}  // namespace proxy
