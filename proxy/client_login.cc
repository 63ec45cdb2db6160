#include "proxy/client_login.h"

#include <algorithm>
#include <array>

#include "conf/row.h"
#include "pool/protection.h"
#include "proxy/auth_rules.h"
#include "conf/sections.h"
#include "proxy/client.h"
#include "proxy/log.h"
#include "proxy/random.h"
#include "proxy/wire/backend.h"
#include "proxy/wire/framer.h"
#include "proxy/wire/frontend.h"
#include "proxy/wire/md5.h"
#include "proxy/wire/password.h"
#include "proxy/wire/sqlstate.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

// The name of the console's database (PgBouncer's is "pgbouncer").
constexpr std::string_view kConsole = conf::kAdminDatabase;

}  // namespace

static_assert(sizeof(ClientLogin) >= sizeof(Client));

ClientLogin::ClientLogin(Worker& worker, Client& client, net::Peer peer, bool one_too_many)
    : worker_(worker), client_(client), peer_(std::move(peer)), one_too_many_(one_too_many) {}

void ClientLogin::fail(std::string_view sqlstate, std::string_view message) {
  worker_.count().login_failures.add();
  client_.fatal(ClientEnd::login_failed, sqlstate, message);
}

void ClientLogin::refuse_one_too_many(pool::Refusal why, std::string_view of_what,
                                      std::string_view option) {
  worker_.refusal(why);
  client_.fatal(ClientEnd::too_many_clients, wire::sqlstate::kTooManyConnections,
                "too many clients of " + std::string(of_what) + " already (" + std::string(option) + ")",
                "reason=" + std::string(name(why)));
}

void ClientLogin::reject() {
  const conf::Settings& settings = worker_.settings();
  if (!settings.auth_query_user.empty() && settings.secret_of(asked_.user).empty())
    worker_.shared().tell_control(SecretDoubted{cluster_, asked_.user});
  fail(wire::sqlstate::kInvalidPassword,
       "password authentication failed for user \"" + asked_.user + "\"");
}

std::size_t ClientLogin::on_bytes(std::string_view bytes) {
  // Opening the session destroys this: `client` is what remains to be asked.
  Client& client = client_;
  std::size_t used = 0;
  while (used < bytes.size() && client.state() == ClientState::login && client.login() == this) {
    const std::string_view rest = bytes.substr(used);
    std::size_t now = 0;
    switch (stage_) {
      case Stage::first_byte:
      case Stage::packet: now = on_packet(rest); break;
      case Stage::tls_handshake:
      case Stage::secret:
      case Stage::welcome: return used;       // kept until its turn comes
      case Stage::cancelling: return bytes.size();  // nothing more is expected; ignored
      case Stage::password:
      case Stage::sasl_first:
      case Stage::sasl_final: {
        wire::Frame frame;
        const wire::Cut cut = wire::cut(rest, &frame);
        if (cut == wire::Cut::need_more) return used;
        if (cut == wire::Cut::malformed || frame.type != wire::frontend::kPassword ||
            frame.size > wire::kMaxAuthMessage + 1) {
          fail(wire::sqlstate::kProtocolViolation, "expected a password or SASL message");
          return bytes.size();
        }
        if (!frame.complete) return used;
        now = frame.size;
        if (stage_ == Stage::password) on_password(frame.body);
        else if (stage_ == Stage::sasl_first) on_sasl_first(frame.body);
        else on_sasl_final(frame.body);
        // on_…() may have opened the session and destroyed this.
        return used + now;
      }
    }
    if (now == 0) return used;
    used += now;
  }
  return used;
}

void ClientLogin::on_first_byte() {
  const std::optional<char> first = client_.socket().peek();
  if (!first) return;  // the end of the stream: whoever reads is told
  stage_ = Stage::packet;
  if (!wire::begins_tls({&*first, 1})) return;
  // An answer in the clear would be noise to whoever expects TLS.
  if (one_too_many_) {
    worker_.refusal(pool::Refusal::too_many_clients_of_address);
    worker_.retire(client_, ClientEnd::too_many_clients, "listen.clients_per_address");
    return;
  }
  if (worker_.client_tls() == nullptr || !peer_.address) {
    worker_.count().login_failures.add();
    worker_.retire(client_, ClientEnd::login_failed, "TLS was begun where there is none (tls.client.mode)");
    return;
  }
  direct_tls_ = true;
  client_.socket().start_tls(net::TlsSession::accept(worker_.client_tls()));
  stage_ = Stage::tls_handshake;
}

std::size_t ClientLogin::on_packet(std::string_view bytes) {
  const conf::Settings& settings = worker_.settings();
  const auto length = wire::startup_packet_length(bytes);
  if (!length) {
    fail(wire::sqlstate::kProtocolViolation, length.error().message);
    return bytes.size();
  }
  if (!*length || bytes.size() < **length) return 0;
  const std::size_t size = **length;
  const auto packet = wire::decode_startup(bytes.substr(0, size));
  if (!packet) {
    fail(wire::sqlstate::kProtocolViolation, packet.error().message);
    return bytes.size();
  }
  const bool secure = client_.socket().tls() != nullptr;
  if (std::holds_alternative<wire::SslRequest>(*packet) ||
      std::holds_alternative<wire::GssEncRequest>(*packet)) {
    const bool ssl = std::holds_alternative<wire::SslRequest>(*packet);
    bool& asked = ssl ? asked_tls_ : asked_gss_;
    if (asked || secure) {
      fail(wire::sqlstate::kProtocolViolation, "encryption was asked for twice");
      return bytes.size();
    }
    asked = true;
    if (bytes.size() > size) {
      fail(wire::sqlstate::kProtocolViolation,
           "unencrypted bytes arrived after a request for encryption");
      return bytes.size();
    }
    const bool has_tls = ssl && worker_.client_tls() != nullptr && peer_.text != "unix";
    if (one_too_many_ && has_tls && settings.tls_client_mode >= conf::TlsMode::require) {
      refuse_one_too_many(pool::Refusal::too_many_clients_of_address, "this address",
                          "listen.clients_per_address");
      return bytes.size();
    }
    // One that will be refused is not worth a handshake.
    const bool offer = has_tls && !one_too_many_;
    client_.send(offer ? "S" : "N");
    if (client_.state() == ClientState::closing) return bytes.size();
    if (offer) {
      client_.socket().start_tls(net::TlsSession::accept(worker_.client_tls()));
      stage_ = Stage::tls_handshake;
    }
    return size;
  }
  if (const auto* cancel = std::get_if<wire::CancelRequest>(&*packet)) {
    worker_.count().cancels_received.add();
    stage_ = Stage::cancelling;
    worker_.cancel({cancel->pid, std::string(cancel->key), client_.id()});
    return bytes.size();
  }
  if (one_too_many_) {
    refuse_one_too_many(pool::Refusal::too_many_clients_of_address, "this address",
                        "listen.clients_per_address");
    return bytes.size();
  }
  if (const auto* unsupported = std::get_if<wire::UnsupportedVersion>(&*packet)) {
    fail(wire::sqlstate::kFeatureNotSupported, wire::unsupported_version(*unsupported));
    return bytes.size();
  }
  if (settings.tls_client_mode >= conf::TlsMode::require && !secure && peer_.text != "unix") {
    fail(wire::sqlstate::kInvalidAuthorizationSpecification,
         "this server takes encrypted connections only (tls.client.mode)");
    return bytes.size();
  }
  on_startup(std::get<wire::Startup>(*packet));  // may have opened the session and destroyed this
  return size;
}

void ClientLogin::go_on_with_handshake() {
  switch (client_.socket().handshake()) {
    case net::TlsSession::Step::done:
      stage_ = Stage::packet;
      // Postgres demands it, so that no other protocol's client can be led here.
      if (direct_tls_ && client_.socket().tls()->alpn() != net::kAlpnName) {
        fail(wire::sqlstate::kProtocolViolation,
             "TLS without SSLRequest must name its protocol by ALPN: \"postgresql\"");
        break;
      }
      // The start-up packet may have come with the last message of the handshake.
      if (client_.socket().has_buffered()) worker_.read_again(client_);
      break;
    case net::TlsSession::Step::want_read:
    case net::TlsSession::Step::want_write: break;
    case net::TlsSession::Step::failed: {
      const std::string why = client_.socket().tls()->error();
      worker_.count().login_failures.add();
      worker_.retire(client_, ClientEnd::login_failed, "the TLS handshake failed: " + why);
      break;
    }
  }
}

void ClientLogin::on_startup(const wire::Startup& startup) {
  auto interpreted = wire::interpret(startup);
  if (const auto* refusal = std::get_if<wire::StartupRefusal>(&interpreted)) {
    fail(refusal->sqlstate, refusal->message);
    return;
  }
  asked_ = std::move(std::get<wire::Login>(interpreted));
  client_.long_cancel_key = asked_.minor >= wire::kLongCancelKeysSince;
  if (asked_.replication != wire::Replication::none) {
    fail(wire::sqlstate::kFeatureNotSupported,
         "replication connections do not go through pgsluice; connect to the node itself");
    return;
  }
  if (asked_.negotiate) {
    std::string answer;
    wire::append_negotiate_protocol_version(answer, asked_.minor, asked_.protocol_options);
    client_.send(answer);
    if (client_.state() == ClientState::closing) return;
  }
  const conf::Settings& settings = worker_.settings();
  const std::int64_t clients = worker_.shared().client_count.load(std::memory_order_relaxed);
  const bool console = asked_.database == kConsole;
  const bool no_descriptors = only_console_ && !console;
  if (no_descriptors ||
      clients > settings.listen_max_client_connections - (console ? 0 : settings.listen_admin_reserved)) {
    worker_.refusal(pool::Refusal::too_many_clients);
    client_.fatal(ClientEnd::too_many_clients, wire::sqlstate::kTooManyConnections,
                  no_descriptors ? "too many clients already (no file descriptors are left)"
                                 : "too many clients already (listen.max_client_connections)",
                  "reason=" + std::string(name(pool::Refusal::too_many_clients)));
    return;
  }
  if (!pool::lets_in(worker_.protection()) && !console) {
    worker_.refusal(pool::Refusal::overloaded);
    client_.fatal(ClientEnd::too_many_clients, wire::sqlstate::kTooManyConnections,
                  "no new clients are let in: the process protects itself",
                  "reason=" + std::string(name(pool::Refusal::overloaded)) + " retry_after_ms=1000");
    return;
  }
  if (worker_.refuses_logins() && !console) {
    worker_.refusal(pool::Refusal::draining);
    client_.fatal(ClientEnd::draining, wire::sqlstate::kAdminShutdown, "pgsluice is shutting down");
    return;
  }
  begin_authentication();
}

void ClientLogin::begin_authentication() {
  const conf::Settings& settings = worker_.settings();
  if (!peer_.address && !peer_.is_local) {
    // It has reset the connection and nobody can say who it was. What it sent can still be read.
    worker_.retire(client_, ClientEnd::gone);
    return;
  }
  const LoginAttempt attempt{.address = peer_.address,
                             .tls = client_.socket().tls() != nullptr,
                             .user = asked_.user,
                             .database = asked_.database};
  const LoginDemand wanted = demand(settings, attempt);
  method_ = wanted.method;
  if (method_ == conf::AuthMethod::reject) {
    fail(wire::sqlstate::kInvalidAuthorizationSpecification,
         refusal_text(wanted, attempt, peer_.host()));
    return;
  }
  const bool trust = method_ == conf::AuthMethod::trust;
  const bool cert = method_ == conf::AuthMethod::cert;
  if (trust && !peer_.is_local && !settings.auth_trust_anywhere) {
    fail(wire::sqlstate::kInvalidAuthorizationSpecification,
         "method \"trust\" is for loopback and unix sockets only (auth.trust_anywhere)");
    return;
  }
  if (!certificate_fits(cert ? conf::ClientCert::verify_full : wanted.clientcert)) return;
  if (trust || cert) {
    authenticated();
    return;
  }
  secret_ = settings.secret_of(asked_.user);
  user_exists_ = !secret_.empty();
  if (!user_exists_ && !settings.auth_query_user.empty() && asked_.database != kConsole) {
    stage_ = Stage::secret;
    cluster_ = cluster_wanted();
    worker_.shared().tell_control(SecretWanted{client_.id(), cluster_, asked_.user});
    return;
  }
  challenge();
}

const std::string& ClientLogin::cluster_wanted() const {
  const conf::Settings& settings = worker_.settings();
  const auto database = settings.databases.find(asked_.database);
  const auto chosen = database != settings.databases.end() ? database : settings.databases.find("*");
  return chosen != settings.databases.end() ? chosen->second.cluster : settings.clusters.begin()->first;
}

bool ClientLogin::certificate_fits(conf::ClientCert demanded) {
  if (demanded == conf::ClientCert::no) return true;
  const net::TlsSession* tls = client_.socket().tls();
  if (tls == nullptr || !tls->peer_verified()) {
    fail(wire::sqlstate::kInvalidAuthorizationSpecification,
         "connection requires a valid client certificate");
    return false;
  }
  if (demanded == conf::ClientCert::verify_ca) return true;
  const conf::Settings& settings = worker_.settings();
  std::vector<std::string> allowed{asked_.user};
  if (const auto user = settings.users.find(asked_.user);
      user != settings.users.end() && !user->second.certificates.empty())
    allowed = user->second.certificates;
  const std::vector<std::string> names = tls->peer_names(settings.auth_cert_name);
  for (const std::string& one : names)
    if (std::ranges::find(allowed, one) != allowed.end()) return true;
  std::string shown;
  for (const std::string& one : names) shown += " " + conf::quote(one);
  log_warning(client_.who() + " its certificate is for" + (shown.empty() ? " nobody" : shown));
  fail(wire::sqlstate::kInvalidAuthorizationSpecification,
       "certificate authentication failed for user \"" + asked_.user + "\"");
  return false;
}

void ClientLogin::secret_found(conf::Result<std::optional<std::string>> secret) {
  if (stage_ != Stage::secret) return;
  if (!secret) {
    // Nobody can be reached at the moment, or nobody is known yet: worth waiting for, within the login's
    // deadline. Anything else is a mistake in the configuration.
    if (secret.error().code != conf::Errc::auth && secret.error().code != conf::Errc::config) {
      look_up_failed_ = true;
      return;
    }
    log_warning(client_.who() + " looking up its secret failed: " + secret.error().message);
    fail(wire::sqlstate::kCannotConnectNow, "the user's secret could not be looked up right now");
    return;
  }
  if (*secret && !(*secret)->empty()) {
    secret_ = **secret;
    user_exists_ = true;
  }
  Client& client = client_;
  challenge();
  if (client.state() == ClientState::login) client.go_on();
}

void ClientLogin::ask_again() {
  if (!std::exchange(look_up_failed_, false)) return;
  worker_.shared().tell_control(SecretWanted{client_.id(), cluster_, asked_.user});
}

bool ClientLogin::may_be_console() const {
  return stage_ <= Stage::tls_handshake || asked_.database == kConsole;
}

void ClientLogin::challenge() {
  const bool md5_is_usual = worker_.settings().auth_query_user.empty();
  // Of somebody unknown Postgres supposes what password_encryption says; so do we where we look up there.
  const wire::PasswordKind kind = user_exists_   ? wire::password_kind(secret_)
                                  : md5_is_usual ? wire::PasswordKind::md5
                                                 : wire::PasswordKind::scram;
  std::string message;
  if (method_ == conf::AuthMethod::password) {
    stage_ = Stage::password;
    wire::append_authentication_cleartext(message);
  } else if (method_ == conf::AuthMethod::md5 && kind != wire::PasswordKind::scram) {
    // As in Postgres: method md5 asks for SCRAM where the secret is one.
    stage_ = Stage::password;
    salt_ = random_bytes(4);
    wire::append_authentication_md5(message, salt_);
  } else {
    stage_ = Stage::sasl_first;
    std::array<std::string_view, 2> mechanisms = {wire::kScramSha256Plus, wire::kScramSha256};
    const bool binding = client_.socket().tls() != nullptr &&
                         !client_.socket().tls()->context().certificate_hash().empty();
    wire::append_authentication_sasl(message,
                                     std::span(mechanisms).subspan(binding ? 0 : 1));
  }
  client_.send(message);
}

void ClientLogin::on_password(std::string_view payload) {
  const auto password = wire::decode_password(payload);
  if (!password) {
    fail(wire::sqlstate::kProtocolViolation, password.error().message);
    return;
  }
  if (!salt_.empty()) {
    std::string stored = secret_;
    if (user_exists_ && wire::password_kind(stored) == wire::PasswordKind::plain) {
      const auto made = wire::md5_stored(stored, asked_.user);
      stored = made ? *made : "";
    }
    if (!user_exists_ || stored.empty() || !wire::md5_verify(stored, salt_, *password)) {
      reject();
      return;
    }
    authenticated();
    return;
  }
  if (password->empty()) {
    fail(wire::sqlstate::kInvalidPassword, "empty password returned by client");
    return;
  }
  // Against a SCRAM secret this takes milliseconds, and for a user that does not exist, or whose secret is of
  // another kind, it takes as long: time tells nobody who exists.
  struct Check {
    std::string secret, user, password;
    bool exists, right = false;
    wire::ScramKeys proved{};
  };
  auto check = std::make_shared<Check>(Check{secret_, asked_.user, std::string(*password), user_exists_});
  if (!user_exists_)
    check->secret = wire::print_scram_secret(wire::mock_scram_secret(
        worker_.shared().mock_key, asked_.user, wire::kDefaultScramIterations));
  stage_ = Stage::secret;
  worker_.loop().in_background(
      [check] {
        check->right = wire::verify_cleartext(check->secret, check->user, check->password, &check->proved);
        if (wire::password_kind(check->secret) != wire::PasswordKind::scram)
          (void)wire::salted_password(check->password, check->user, wire::kDefaultScramIterations);
      },
      [this, check, alive = alive_] {
        wire::cleanse(check->password);
        if (!*alive || client_.state() != ClientState::login) return;
        Client& client = client_;
        if (!check->right || !check->exists) {
          reject();
        } else {
          if (const auto stored = wire::parse_scram_secret(check->secret))
            worker_.shared().credentials.learn({cluster_wanted(), asked_.user}, stored->salt,
                                               stored->iterations, check->proved);
          authenticated();
        }
        if (client.state() != ClientState::closing) client.go_on();
      });
}

void ClientLogin::on_sasl_first(std::string_view payload) {
  const auto initial = wire::decode_sasl_initial(payload);
  if (!initial) {
    fail(wire::sqlstate::kProtocolViolation, initial.error().message);
    return;
  }
  const bool binding = client_.socket().tls() != nullptr;
  if (initial->mechanism != wire::kScramSha256 &&
      !(binding && initial->mechanism == wire::kScramSha256Plus)) {
    fail(wire::sqlstate::kProtocolViolation, "client selected an invalid SASL authentication mechanism");
    return;
  }
  if (!initial->response) {  // Postgres answers an absent first message with an empty challenge
    fail(wire::sqlstate::kProtocolViolation, "the client's first SASL message is missing");
    return;
  }
  const auto answer = [this](const wire::ScramSecret& secret, bool exists, std::string mechanism,
                             std::string first) {
    scram_secret_ = secret;
    wire::ScramServer::Options options{
        .secret = secret,
        .user_exists = exists,
        .nonce = wire::scram_nonce(random_bytes(wire::kScramNonceLength))};
    if (client_.socket().tls() != nullptr)
      options.certificate_hash = client_.socket().tls()->context().certificate_hash();
    scram_ = std::make_unique<wire::ScramServer>(std::move(options));
    const auto server_first = scram_->first(mechanism, first);
    if (!server_first) {
      fail(wire::sqlstate::kProtocolViolation, server_first.error().message);
      return;
    }
    std::string message;
    wire::append_authentication_sasl_continue(message, *server_first);
    stage_ = Stage::sasl_final;
    client_.send(message);
  };
  const std::string mechanism(initial->mechanism);
  const std::string first(*initial->response);
  const auto mock = [this] {
    return wire::mock_scram_secret(worker_.shared().mock_key, asked_.user,
                                   wire::kDefaultScramIterations);
  };
  if (!user_exists_ || wire::password_kind(secret_) == wire::PasswordKind::md5) {
    answer(mock(), false, mechanism, first);
    return;
  }
  if (wire::password_kind(secret_) == wire::PasswordKind::scram) {
    const auto parsed = wire::parse_scram_secret(secret_);
    answer(parsed ? *parsed : mock(), parsed.has_value(), mechanism, first);
    return;
  }
  if (const auto known = worker_.shared().credentials.derived(asked_.user, secret_)) {
    answer(*known, true, mechanism, first);
    return;
  }
  struct Derivation {
    std::string password, salt;
    wire::ScramSecret secret;
  };
  auto derivation = std::make_shared<Derivation>(
      Derivation{secret_, random_bytes(wire::kScramSaltLength), {}});
  stage_ = Stage::secret;
  worker_.loop().in_background(
      [derivation] {
        derivation->secret = wire::build_scram_secret(derivation->password, derivation->salt,
                                                      wire::kDefaultScramIterations);
      },
      [this, derivation, answer, mechanism, first, alive = alive_] {
        if (!*alive || client_.state() != ClientState::login) return;
        worker_.shared().credentials.remember(asked_.user, derivation->password, derivation->secret);
        answer(derivation->secret, true, mechanism, first);
        if (client_.state() == ClientState::login) client_.go_on();
      });
}

void ClientLogin::on_sasl_final(std::string_view payload) {
  auto success = scram_->finish(payload);
  if (!success) {
    if (success.error().code == conf::Errc::auth) {
      reject();
    } else {
      fail(wire::sqlstate::kProtocolViolation, success.error().message);
    }
    return;
  }
  // What the client has proved opens the servers too, where the same secret is stored.
  worker_.shared().credentials.learn({cluster_wanted(), asked_.user}, scram_secret_.salt,
                                     scram_secret_.iterations, success->keys);
  std::string message;
  wire::append_authentication_sasl_final(message, success->server_final);
  client_.send(message);
  if (client_.state() == ClientState::login) authenticated();
}

void ClientLogin::authenticated() {
  if (!cluster_.empty() && wire::password_kind(secret_) != wire::PasswordKind::scram)
    worker_.shared().credentials.keep({cluster_, asked_.user}, secret_);
  wire::cleanse(secret_);
  scram_ = nullptr;
  const conf::Settings& settings = worker_.settings();
  worker_.count().clients_authenticated.add();
  if (asked_.database == kConsole) {
    const auto listed = [this](const std::vector<std::string>& users) {
      return std::ranges::find(users, asked_.user) != users.end();
    };
    if (!listed(settings.admin_users) && !listed(settings.admin_stats_users)) {
      fail(wire::sqlstate::kInsufficientPrivilege,
           "user \"" + asked_.user + "\" is not among admin.users or admin.stats_users");
      return;
    }
    client_.open_console();
    return;
  }
  open_session();
}

void ClientLogin::open_session() {
  const conf::Settings& settings = worker_.settings();
  Identity* identity = worker_.identity(asked_.database, asked_.user);
  if (identity == nullptr && worker_.serves(asked_.database)) {
    worker_.refusal(pool::Refusal::too_many_databases);
    worker_.count().login_failures.add();
    client_.fatal(ClientEnd::login_failed, wire::sqlstate::kTooManyConnections,
                  "too many databases are in use already (limits.wildcard_databases)",
                  "reason=" + std::string(name(pool::Refusal::too_many_databases)));
    return;
  }
  if (identity == nullptr) {
    fail(wire::sqlstate::kInvalidCatalogName,
         "database \"" + asked_.database + "\" does not exist (no [database.\"" + asked_.database +
             "\"] here, and no \"*\")");
    return;
  }
  if (worker_.orders().is_disabled(identity->database)) {
    worker_.refusal(pool::Refusal::disabled);
    client_.fatal(ClientEnd::login_failed, wire::sqlstate::kObjectNotInPrerequisiteState,
                  "database \"" + identity->database + "\" is not currently accepting connections (DISABLE)",
                  "reason=" + std::string(name(pool::Refusal::disabled)));
    return;
  }
  if (!identity->database_clients->take()) {
    refuse_one_too_many(pool::Refusal::too_many_clients_of_database,
                        "database \"" + asked_.database + "\"", "listen.clients_per_database");
    return;
  }
  if (!identity->user_clients->take()) {
    identity->database_clients->give_back();
    refuse_one_too_many(pool::Refusal::too_many_clients_of_user, "user \"" + asked_.user + "\"",
                        "listen.clients_per_user");
    return;
  }
  client_.identity = identity;
  ++identity->clients;
  client_.counted = true;

  std::string tenant;
  bool made_up = false;
  if (const std::string* asked = asked_.setting("pgsluice.tenant"); asked != nullptr && worker_.hint_limits().tenant) {
    tenant = *asked;
    made_up = true;
  }
  if (const auto user = settings.users.find(asked_.user);
      user != settings.users.end() && !user->second.tenant.empty()) {
    tenant = user->second.tenant;  // what the operator says is not the client's to change
    made_up = false;
  }
  if (tenant.empty()) {
    switch (settings.tenant_by) {
      case conf::TenantBy::user: tenant = asked_.user; break;
      case conf::TenantBy::database: tenant = asked_.database; break;
      case conf::TenantBy::application_name:
        if (const std::string* application = asked_.setting("application_name")) tenant = *application;
        made_up = true;
        break;
    }
  }
  pool::TenantRegistry& tenants = worker_.shared().tenants;
  if (tenant.empty()) tenant = asked_.user;
  client_.tenant = made_up ? &tenants.find(tenant, asked_.user) : &tenants.find(tenant);

  std::vector<pool::Setting> start;
  for (const wire::StartupSetting& setting : asked_.settings) {
    std::string lower = setting.name;
    std::ranges::transform(lower, lower.begin(), [](unsigned char c) {
      return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
    });
    if (const auto objection = client_.object_to(lower, setting.value)) {
      worker_.refusal(pool::Refusal::invalid_setting);
      worker_.count().login_failures.add();
      client_.fatal(ClientEnd::login_failed, objection->sqlstate, objection->message,
                    "reason=" + std::string(name(pool::Refusal::invalid_setting)));
      return;
    }
    start.push_back({lower, setting.value, true});
  }
  client_.session = std::make_unique<pool::SessionSettings>(worker_.interner().intern(std::move(start)));
  client_.settings_changed();
  if (const std::string* token = asked_.setting("pgsluice.lsn")) client_.take_token(*token);
  stage_ = Stage::welcome;
  if (const auto known = identity->welcomes.find(client_.session->current());
      known != identity->welcomes.end()) {
    client_.welcome(known->second);
    return;
  }
  // The first with these settings: a server says what the session looks like to a client.
  client_.arrived = client_.waiting_since = worker_.now();
  const routing::ClusterState* cluster = worker_.cluster(*identity);
  const bool primary = cluster != nullptr && cluster->primary &&
                       cluster->find(*cluster->primary)->health == routing::NodeHealth::up;
  client_.batch = {};
  client_.batch.kind = primary ? routing::StatementClass::session : routing::StatementClass::read;
  switch (worker_.place(client_)) {
    case Worker::Placed::linked: client_.forward_waiting(); break;
    case Worker::Placed::waits: break;  // the worker goes on with it
    case Worker::Placed::refused: client_.refuse_waiting(); break;
    case Worker::Placed::answered: break;  // a login asks nothing
  }
}

void ClientLogin::cancel_delivered() {
  if (stage_ == Stage::cancelling) worker_.retire(client_, ClientEnd::probe_only);
}

}  // namespace proxy
