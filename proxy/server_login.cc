#include "proxy/server_login.h"

#include "proxy/random.h"
#include "proxy/server.h"
#include "proxy/wire/backend.h"
#include "proxy/wire/framer.h"
#include "proxy/wire/frontend.h"
#include "proxy/wire/md5.h"
#include "proxy/wire/password.h"
#include "proxy/wire/sqlstate.h"
#include "proxy/wire/startup.h"
#include "proxy/worker.h"

namespace proxy {

namespace be = wire::backend;

namespace {

// As the probes ask (monitor_probe.cc).
constexpr std::string_view kWhichPostmaster =
    "select (extract(epoch from pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint";

}  // namespace

ServerLogin::ServerLogin(Worker& worker, Server& server) : worker_(worker), server_(server) {
  const Identity& identity = *server.identity_;
  secret_ = worker.settings().secret_of(identity.user);
  if (secret_.empty()) secret_ = worker.shared().credentials.kept({identity.cluster, identity.user});
}

bool ServerLogin::fail(std::string_view message) {
  server_.login_failed(false, std::string(wire::sqlstate::kConnectionFailure), std::string(message));
  return false;
}

void ServerLogin::connected() {
  const bool unix_socket = server_.ip_.starts_with('/');
  if (!server_.ask_tls_ || worker_.server_tls() == nullptr || unix_socket) {
    send_startup();
    return;
  }
  stage_ = Stage::tls_answer;
  std::string request;
  wire::append_ssl_request(request);
  server_.send(request);
}

std::size_t ServerLogin::on_bytes(std::string_view bytes) {
  if (stage_ == Stage::tls_answer) {
    // One byte, and nothing behind it: what follows in the clear could have been put there by anybody.
    if (bytes.size() != 1) {
      fail("the server sent unencrypted bytes after its answer to SSLRequest");
    } else if (bytes[0] == 'S' && worker_.server_tls() != nullptr) {
      stage_ = Stage::tls_handshake;
      server_.socket_.start_tls(net::TlsSession::connect(worker_.server_tls(), server_.node_host_,
                                                         worker_.settings().tls_server_mode));
      go_on_with_handshake();
    } else if (bytes[0] == 'N' && worker_.settings().tls_server_mode <= conf::TlsMode::prefer) {
      send_startup();
    } else if (bytes[0] == 'N') {
      fail("the server does not offer TLS, but tls.server.mode demands it");
    } else {
      fail("the server's answer to SSLRequest is none");
    }
    return bytes.size();
  }
  std::size_t used = 0;
  while (used < bytes.size()) {
    wire::Frame frame;
    switch (wire::cut(bytes.substr(used), &frame)) {
      case wire::Cut::need_more: return used;
      case wire::Cut::malformed: fail("the server does not speak the protocol"); return bytes.size();
      case wire::Cut::frame: break;
    }
    if (frame.size > Server::kWhole) {
      fail("the server sent a message of unreasonable size during login");
      return bytes.size();
    }
    if (!frame.complete) return used;
    used += frame.size;
    if (!on_message(frame.type, frame.body)) return bytes.size();
    if (stage_ == Stage::done) return used;
  }
  return used;
}

void ServerLogin::go_on_with_handshake() {
  switch (server_.socket_.handshake()) {
    case net::TlsSession::Step::done: send_startup(); break;
    case net::TlsSession::Step::want_read:
    case net::TlsSession::Step::want_write: break;
    case net::TlsSession::Step::failed:
      fail("the TLS handshake with the server failed: " + server_.socket_.tls()->error());
      break;
  }
}

void ServerLogin::send_startup() {
  stage_ = Stage::startup;
  std::string packet;
  // No settings of a client's: the connection must have the server's own defaults to go back to.
  // Servers before Postgres 18 know 3.0 only, and say so in a NegotiateProtocolVersion.
  wire::append_startup(packet, wire::kMaxMinorVersion,
                       {{"user", server_.identity_->user}, {"database", server_.identity_->dbname}});
  server_.send(packet);
}

// A position that a probe has read says something of a server only if both talk to the same life of the same
// Postgres. Behind one address there can be another by now: restarted, moved, or beside it behind a balancer.
bool ServerLogin::on_identity(char type, std::string_view body) {
  switch (type) {
    case be::kDataRow: {
      const routing::ClusterState* state = worker_.cluster(*server_.identity_);
      const routing::NodeState* node = state == nullptr ? nullptr : state->find(server_.node_);
      if (node == nullptr || node->started_us == 0) return true;
      // One column: its number, its length, its text.
      constexpr std::size_t kBefore = 6;
      const std::string_view said = body.size() < kBefore ? body : body.substr(kBefore);
      same_postmaster_ = said == std::to_string(node->started_us);
      return true;
    }
    case be::kReadyForQuery:
      stage_ = Stage::done;
      if (same_postmaster_) return true;
      server_.login_failed(true, std::string(wire::sqlstate::kConnectionFailure),
                           "another postmaster answers here than the one that was probed: it has been restarted, "
                           "or something between hands connections to several");
      return false;
    // Who may not ask is not told; then the probe's word stands alone.
    case be::kErrorResponse:
      if (wire::peek_error(body).severity != "FATAL") return true;
      return fail("the server ended the connection when it was asked which one it is");
    case be::kRowDescription:
    case be::kCommandComplete:
    case be::kNoticeResponse: return true;
    case be::kParameterStatus: return on_message(type, body);
    default: return fail("the server sent an unexpected message during login");
  }
}

bool ServerLogin::on_message(char type, std::string_view body) {
  if (stage_ == Stage::identity && type != be::kParameterStatus) return on_identity(type, body);
  switch (type) {
    case be::kAuthentication: return on_authentication(body);
    case be::kErrorResponse: {
      const wire::ErrorFields error = wire::peek_error(body);
      // Class 57 (starting, shutting down, crashed) and 53 (no room) speak of the node; the rest is about
      // who we say we are.
      const bool node = error.sqlstate.starts_with("57");
      // Changed since we looked it up: the next login here asks Postgres again.
      if (error.sqlstate == wire::sqlstate::kInvalidPassword)
        worker_.shared().tell_control(
            SecretDoubted{server_.identity_->cluster, server_.identity_->user});
      server_.login_failed(node, std::string(error.sqlstate), std::string(error.message));
      return false;
    }
    case be::kNoticeResponse: return true;
    case be::kNegotiateProtocolVersion: {
      const auto spoken = wire::decode_negotiate_protocol_version(body);
      if (!spoken) return fail(spoken.error().message);
      if (spoken->minor > wire::kMaxMinorVersion || !spoken->unknown_options.empty())
        return fail("the server negotiates a protocol that it was not asked for");
      return true;
    }
    case be::kParameterStatus: {
      const auto status = wire::decode_parameter_status(body);
      if (!status) return fail(status.error().message);
      server_.parameters.emplace_back(status->name, status->value);
      return true;
    }
    case be::kBackendKeyData: {
      const auto key = wire::decode_backend_key_data(body);
      if (!key) return fail(key.error().message);
      server_.backend_pid_ = key->pid;
      server_.cancel_key_ = key->key;
      return true;
    }
    case be::kReadyForQuery:
      if (!authenticated_) return fail("the server is ready before it has authenticated us");
      stage_ = Stage::identity;
      return true;
    default: return fail("the server sent an unexpected message during login");
  }
}

bool ServerLogin::on_authentication(std::string_view body) {
  const auto request = wire::decode_authentication(body);
  if (!request) return fail(request.error().message);
  const std::string& user = server_.identity_->user;
  const bool plain_known = !secret_.empty() &&
                           wire::password_kind(secret_) == wire::PasswordKind::plain;
  const std::string no_password =
      "the server asks user \"" + user + "\" for a password, and none is known here";
  std::string answer;
  switch (request->kind) {
    case wire::AuthenticationKind::ok:
      if (scram_) return fail("the server accepted us without proving that it knows the password");
      authenticated_ = true;
      // At once: its answer comes right behind the first ReadyForQuery.
      wire::append_query(answer, kWhichPostmaster);
      break;
    case wire::AuthenticationKind::cleartext_password:
      if (!plain_known) return fail(no_password);
      wire::append_password(answer, secret_);
      break;
    case wire::AuthenticationKind::md5_password: {
      std::string stored = secret_;
      if (plain_known) {
        const auto made = wire::md5_stored(secret_, user);
        if (!made) return fail(made.error().message);
        stored = *made;
      }
      if (stored.empty() || wire::password_kind(stored) != wire::PasswordKind::md5)
        return fail(no_password + " that answers md5");
      const auto response = wire::md5_response(stored, request->data);
      if (!response) return fail(response.error().message);
      wire::append_password(answer, *response);
      break;
    }
    case wire::AuthenticationKind::sasl: {
      bool plain = false, plus = false;
      for (const std::string_view mechanism : request->mechanisms) {
        plain |= mechanism == wire::kScramSha256;
        plus |= mechanism == wire::kScramSha256Plus;
      }
      if (!plain && !plus) return fail("the server offers no SASL mechanism that we know");
      wire::ScramClient::Options options{.nonce = wire::scram_nonce(random_bytes(wire::kScramNonceLength))};
      if (const net::TlsSession* tls = server_.socket_.tls()) {
        options.certificate_hash = tls->peer_certificate_hash();
        options.binding = plus && !options.certificate_hash.empty()
                              ? wire::ScramClient::Binding::bind
                              : wire::ScramClient::Binding::not_offered;
        if (options.binding == wire::ScramClient::Binding::not_offered && plus)
          options.binding = wire::ScramClient::Binding::none;
      }
      scram_ = std::make_unique<wire::ScramClient>(std::move(options));
      const std::string first = scram_->first();
      wire::append_sasl_initial(answer, scram_->mechanism(), first);
      break;
    }
    case wire::AuthenticationKind::sasl_continue: {
      if (!scram_) return fail("the server continues a SASL exchange that was not begun");
      const auto challenge = scram_->challenge(request->data);
      if (!challenge) return fail(challenge.error().message);
      Credentials& credentials = worker_.shared().credentials;
      const Credentials::Whose whose{server_.identity_->cluster, user};
      if (const auto keys = credentials.keys(whose, challenge->salt, challenge->iterations)) {
        answer_challenge(*keys);
        return true;
      }
      if (!plain_known)
        return fail(no_password + " (its secret on this server differs from the one that the client proved)");
      // Key derivation takes milliseconds: not on this loop.
      auto keys = std::make_shared<wire::ScramKeys>();
      worker_.loop().in_background(
          [keys, password = secret_, salt = challenge->salt,
           iterations = challenge->iterations] {
            *keys = wire::scram_keys(wire::salted_password(password, salt, iterations));
          },
          [this, alive = alive_, keys, whose, salt = challenge->salt, iterations = challenge->iterations] {
            if (!*alive) return;
            worker_.shared().credentials.learn(whose, salt, iterations, *keys);
            answer_challenge(*keys);
          });
      return true;
    }
    case wire::AuthenticationKind::sasl_final: {
      if (!scram_) return fail("the server ends a SASL exchange that was not begun");
      const conf::Status verified = scram_->verify(request->data);
      if (!verified) return fail(verified.error().message);
      scram_ = nullptr;
      return true;
    }
    case wire::AuthenticationKind::kerberos_v5:
    case wire::AuthenticationKind::gss:
    case wire::AuthenticationKind::gss_continue:
    case wire::AuthenticationKind::sspi:
      return fail("the server asks for an authentication method that pgsluice does not speak");
  }
  server_.send(answer);
  return true;
}

void ServerLogin::answer_challenge(const wire::ScramKeys& keys) {
  std::string answer;
  wire::append_sasl_response(answer, scram_->final(keys));
  server_.send(answer);
}

}  // namespace proxy
