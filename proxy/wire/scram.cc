#include "proxy/wire/scram.h"

#include <algorithm>
#include <charconv>
#include <climits>
#include <optional>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "conf/check.h"
#include "proxy/wire/base64.h"
#include "proxy/wire/password.h"

namespace wire {
namespace {

constexpr std::string_view kBindingName = "tls-server-end-point";

conf::Error broken(std::string message) {
  return {conf::Errc::protocol, "SCRAM: " + std::move(message)};
}

conf::Error wrong_password() { return {conf::Errc::auth, "password authentication failed"}; }

// SHA-256 is in every OpenSSL, FIPS or not; these calls fail only without memory.
ScramHash hmac(std::string_view key, std::string_view text) {
  ENSURE(key.size() <= INT_MAX);
  ScramHash out{};
  unsigned int size = 0;
  ENSURE(HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
              reinterpret_cast<const unsigned char*>(text.data()), text.size(), out.data(),
              &size) != nullptr &&
         size == out.size());
  return out;
}

ScramHash sha256(std::string_view text) {
  ScramHash out{};
  unsigned int size = 0;
  ENSURE(EVP_Digest(text.data(), text.size(), out.data(), &size, EVP_sha256(), nullptr) == 1 &&
         size == out.size());
  return out;
}

ScramHash operator^(const ScramHash& a, const ScramHash& b) {
  ScramHash out{};
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = a[i] ^ b[i];
  return out;
}

std::optional<ScramHash> decode_hash(std::string_view text) {
  const std::optional<std::string> bytes = base64_decode(text);
  ScramHash out{};
  if (!bytes || bytes->size() != out.size()) return std::nullopt;
  std::copy(bytes->begin(), bytes->end(), out.begin());
  return out;
}

std::optional<std::uint32_t> parse_iterations(std::string_view text) {
  std::uint32_t count = 0;
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, count);
  if (error != std::errc{} || at != end || count == 0 || count > INT_MAX) return std::nullopt;
  return count;
}

// Walks "a=value,b=value". RFC 5802 fixes the order of what it names.
class Attributes {
 public:
  explicit Attributes(std::string_view text) : rest_(text) {}

  struct Attribute {
    char name = '\0';
    std::string_view value;
  };
  // The next attribute; nothing at the end, or when what follows is not one.
  std::optional<Attribute> next() {
    const auto is_letter = [](char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); };
    if (rest_.size() < 2 || !is_letter(rest_[0]) || rest_[1] != '=') return std::nullopt;
    const std::size_t comma = rest_.find(',');
    const Attribute found{
        .name = rest_[0],
        .value =
            rest_.substr(2, comma == std::string_view::npos ? std::string_view::npos : comma - 2)};
    at_end_ = comma == std::string_view::npos;
    rest_ = at_end_ ? std::string_view{} : rest_.substr(comma + 1);
    return found;
  }
  // The next attribute, which must be called `name`.
  std::optional<std::string_view> take(char name) {
    const std::optional<Attribute> found = next();
    if (!found || found->name != name) return std::nullopt;
    return found->value;
  }
  // Nothing follows, not even a comma.
  bool at_end() const { return at_end_; }

 private:
  std::string_view rest_;
  bool at_end_ = false;
};

// What may follow in later versions of the protocol: attributes that we skip.
bool only_extensions(Attributes& attributes) {
  while (!attributes.at_end()) {
    if (!attributes.next()) return false;
  }
  return true;
}

bool is_nonce(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(),
                                      [](char c) { return c > ' ' && c <= '~' && c != ','; });
}

// A user name inside a SCRAM message.
std::string escape_name(std::string_view name) {
  std::string out;
  for (const char c : name) {
    switch (c) {
      case ',': out += "=2C"; break;
      case '=': out += "=3D"; break;
      default: out.push_back(c);
    }
  }
  return out;
}

std::string auth_message(std::string_view client_first_bare, std::string_view server_first,
                         std::string_view client_final_without_proof) {
  std::string out(client_first_bare);
  out.append(",").append(server_first).append(",").append(client_final_without_proof);
  return out;
}

struct ClientFirst {
  std::string_view gs2_header;  // up to and with its second comma
  std::string_view bare;
  char flag = '\0';               // n, y or p
  std::string_view binding_name;  // with p
  std::string_view nonce;
};

Result<ClientFirst> parse_client_first(std::string_view message) {
  ClientFirst first;
  const std::size_t comma = message.find(',');
  if (comma == std::string_view::npos)
    return broken("the first message has no channel binding flag");
  const std::string_view flag = message.substr(0, comma);
  if (flag.starts_with("p=")) {
    first.binding_name = flag.substr(2);
  } else if (flag != "n" && flag != "y") {
    return broken("unexpected channel binding flag");
  }
  first.flag = flag[0];

  const std::size_t second = message.find(',', comma + 1);
  if (second == std::string_view::npos) return broken("the first message is cut off");
  if (second != comma + 1) {
    return broken("the client uses an authorization identity, but it is not supported");
  }
  first.gs2_header = message.substr(0, second + 1);
  first.bare = message.substr(second + 1);

  Attributes attributes(first.bare);
  if (first.bare.starts_with("m=")) {
    return broken("the client requires an extension that is not supported");
  }
  const std::optional<std::string_view> name = attributes.take('n');
  const std::optional<std::string_view> nonce = attributes.take('r');
  if (!name || !nonce || !is_nonce(*nonce) || !only_extensions(attributes)) {
    return broken("the first message needs a user name and a nonce of printable characters");
  }
  first.nonce = *nonce;
  return first;
}

}  // namespace

ScramKeys::~ScramKeys() {
  OPENSSL_cleanse(client_key.data(), client_key.size());
  OPENSSL_cleanse(stored_key.data(), stored_key.size());
  OPENSSL_cleanse(server_key.data(), server_key.size());
}

Result<ScramSecret> parse_scram_secret(std::string_view text) {
  const conf::Error not_one{conf::Errc::config, "parsing a SCRAM secret: it is not one"};
  const std::string prefix = std::string(kScramSha256) + "$";
  if (!text.starts_with(prefix)) return not_one;
  text.remove_prefix(prefix.size());
  const std::size_t first_colon = text.find(':');
  const std::size_t dollar = text.find('$');
  const std::size_t last_colon = text.rfind(':');
  if (dollar == std::string_view::npos || first_colon > dollar || last_colon < dollar) {
    return not_one;
  }
  const auto iterations = parse_iterations(text.substr(0, first_colon));
  auto salt = base64_decode(text.substr(first_colon + 1, dollar - first_colon - 1));
  const auto stored_key = decode_hash(text.substr(dollar + 1, last_colon - dollar - 1));
  const auto server_key = decode_hash(text.substr(last_colon + 1));
  if (!iterations || !salt || !stored_key || !server_key) return not_one;
  return ScramSecret{.iterations = *iterations,
                     .salt = std::move(*salt),
                     .stored_key = *stored_key,
                     .server_key = *server_key};
}

std::string print_scram_secret(const ScramSecret& secret) {
  return std::string(kScramSha256) + "$" + std::to_string(secret.iterations) + ":" +
         base64_encode(secret.salt) + "$" + base64_encode(as_view(secret.stored_key)) + ":" +
         base64_encode(as_view(secret.server_key));
}

ScramSecret build_scram_secret(std::string_view password, std::string_view salt,
                               std::uint32_t iterations) {
  const ScramKeys keys = scram_keys(salted_password(password, salt, iterations));
  return {.iterations = iterations,
          .salt = std::string(salt),
          .stored_key = keys.stored_key,
          .server_key = keys.server_key};
}

ScramHash salted_password(std::string_view password, std::string_view salt,
                          std::uint32_t iterations) {
  ENSURE(iterations >= 1 && iterations <= kMaxScramIterations);
  ENSURE(password.size() <= INT_MAX && salt.size() <= INT_MAX);
  ScramHash out{};
  // A null pointer means an empty password only together with its length; "" is always one.
  const char* const text = password.empty() ? "" : password.data();
  ENSURE(PKCS5_PBKDF2_HMAC(text, static_cast<int>(password.size()),
                           reinterpret_cast<const unsigned char*>(salt.data()),
                           static_cast<int>(salt.size()), static_cast<int>(iterations),
                           EVP_sha256(), static_cast<int>(out.size()), out.data()) == 1);
  return out;
}

ScramKeys scram_keys(ScramHash salted) {
  ScramKeys keys;
  keys.client_key = hmac(as_view(salted), "Client Key");
  keys.stored_key = sha256(as_view(keys.client_key));
  keys.server_key = hmac(as_view(salted), "Server Key");
  OPENSSL_cleanse(salted.data(), salted.size());
  return keys;
}

ScramKeys scram_keys(const ScramHash& client_key, const ScramHash& server_key) {
  ScramKeys keys;
  keys.client_key = client_key;
  keys.stored_key = sha256(as_view(client_key));
  keys.server_key = server_key;
  return keys;
}

ScramSecret mock_scram_secret(std::string_view key, std::string_view user,
                              std::uint32_t iterations) {
  const auto derive = [&](std::string_view purpose) {
    return hmac(key, std::string(purpose).append(user));
  };
  const ScramHash salt = derive("salt:");
  return {.iterations = iterations,
          .salt = std::string(as_view(salt).substr(0, kScramSaltLength)),
          .stored_key = derive("stored key:"),
          .server_key = derive("server key:")};
}

std::string scram_nonce(std::string_view random_bytes) { return base64_encode(random_bytes); }

Result<std::string> ScramServer::first(std::string_view mechanism, std::string_view client_first) {
  const bool fresh = state_ == State::fresh;
  state_ = State::done;
  if (!fresh) return broken("the client began twice");

  const bool offered = !options_.certificate_hash.empty();
  const bool plus = mechanism == kScramSha256Plus && offered;
  if (!plus && mechanism != kScramSha256) {
    return broken("the client selected a mechanism that was not offered");
  }
  const Result<ClientFirst> parsed = parse_client_first(client_first);
  if (!parsed) return parsed.error();
  if (plus != (parsed->flag == 'p')) {
    return broken("the channel binding flag does not go with the mechanism selected");
  }
  if (parsed->flag == 'y' && offered) {
    // Somebody between us removed the mechanism from our list.
    return broken("the client supports channel binding but thinks that the server does not");
  }
  if (plus && parsed->binding_name != kBindingName) {
    return broken("unsupported channel binding type");
  }

  binding_ = std::string(parsed->gs2_header);
  if (plus) binding_ += options_.certificate_hash;
  nonce_ = std::string(parsed->nonce) + options_.nonce;
  client_first_bare_ = std::string(parsed->bare);
  server_first_ = "r=" + nonce_ + ",s=" + base64_encode(options_.secret.salt) +
                  ",i=" + std::to_string(options_.secret.iterations);
  state_ = State::challenged;
  return server_first_;
}

Result<ScramServer::Success> ScramServer::finish(std::string_view client_final) {
  const bool challenged = state_ == State::challenged;
  state_ = State::done;
  if (!challenged) return broken("the client sent its final message out of turn");

  // The proof is the last attribute, and covers everything before its comma.
  const std::size_t proof_at = client_final.rfind(",p=");
  if (proof_at == std::string_view::npos) return broken("the final message has no proof");
  const std::string_view without_proof = client_final.substr(0, proof_at);
  const std::optional<ScramHash> proof = decode_hash(client_final.substr(proof_at + 3));
  Attributes attributes(without_proof);
  const std::optional<std::string_view> binding = attributes.take('c');
  const std::optional<std::string_view> nonce = attributes.take('r');
  if (!proof || !binding || !nonce || !only_extensions(attributes)) {
    return broken("the final message is malformed");
  }
  if (*nonce != nonce_) return broken("the nonce does not match");
  if (*binding != base64_encode(binding_)) return broken("the channel binding check failed");

  const ScramSecret& secret = options_.secret;
  const std::string message = auth_message(client_first_bare_, server_first_, without_proof);
  const ScramHash client_key = *proof ^ hmac(as_view(secret.stored_key), message);
  ScramKeys keys = scram_keys(client_key, secret.server_key);
  const bool right = same_secret(as_view(keys.stored_key), as_view(secret.stored_key));
  // Known or not, a user has cost the same up to here.
  if (!right || !options_.user_exists) return wrong_password();
  const ScramHash signature = hmac(as_view(secret.server_key), message);
  return Success{.server_final = "v=" + base64_encode(as_view(signature)), .keys = keys};
}

std::string ScramClient::gs2_header() const {
  switch (options_.binding) {
    case Binding::none: return "n,,";
    case Binding::not_offered: return "y,,";
    case Binding::bind: return "p=" + std::string(kBindingName) + ",,";
  }
  return {};
}

std::string ScramClient::first() {
  ENSURE(state_ == State::fresh && is_nonce(options_.nonce));
  state_ = State::sent_first;
  client_first_bare_ = "n=" + escape_name(options_.user) + ",r=" + options_.nonce;
  return gs2_header() + client_first_bare_;
}

Result<ScramClient::Challenge> ScramClient::challenge(std::string_view server_first) {
  const bool expected = state_ == State::sent_first;
  state_ = State::done;
  if (!expected) return broken("the server sent a challenge out of turn");

  if (server_first.starts_with("m=")) {
    return broken("the server requires an extension that is not supported");
  }
  Attributes attributes(server_first);
  const std::optional<std::string_view> nonce = attributes.take('r');
  const std::optional<std::string_view> salt_text = attributes.take('s');
  const std::optional<std::string_view> count = attributes.take('i');
  if (!nonce || !salt_text || !count || !only_extensions(attributes)) {
    return broken("the server's challenge is malformed");
  }
  if (!is_nonce(*nonce) || !nonce->starts_with(options_.nonce) ||
      nonce->size() == options_.nonce.size()) {
    return broken("the server's nonce does not extend ours");
  }
  std::optional<std::string> salt = base64_decode(*salt_text);
  const std::optional<std::uint32_t> iterations = parse_iterations(*count);
  if (!salt || !iterations) return broken("the server's salt or iteration count is malformed");
  if (*iterations > kMaxScramIterations) {
    return broken("the server asks for " + std::to_string(*iterations) +
                  " iterations, more than we grant");
  }
  nonce_ = std::string(*nonce);
  server_first_ = std::string(server_first);
  state_ = State::challenged;
  return Challenge{.salt = std::move(*salt), .iterations = *iterations};
}

std::string ScramClient::final(const ScramKeys& keys) {
  ENSURE(state_ == State::challenged);
  state_ = State::sent_final;
  std::string binding = gs2_header();
  if (options_.binding == Binding::bind) binding += options_.certificate_hash;
  const std::string without_proof = "c=" + base64_encode(binding) + ",r=" + nonce_;
  const std::string message = auth_message(client_first_bare_, server_first_, without_proof);
  expected_signature_ = hmac(as_view(keys.server_key), message);
  const ScramHash proof = keys.client_key ^ hmac(as_view(keys.stored_key), message);
  return without_proof + ",p=" + base64_encode(as_view(proof));
}

conf::Status ScramClient::verify(std::string_view server_final) {
  const bool expected = state_ == State::sent_final;
  state_ = State::done;
  if (!expected) return broken("the server sent its final message out of turn");

  Attributes attributes(server_final);
  const std::optional<Attributes::Attribute> found = attributes.next();
  if (found && found->name == 'e') {
    return conf::Error{conf::Errc::auth,
                       "SCRAM: the server reports " + std::string(found->value.substr(0, 200))};
  }
  const std::optional<ScramHash> signature =
      found && found->name == 'v' ? decode_hash(found->value) : std::nullopt;
  if (!signature || !only_extensions(attributes)) {
    return broken("the server's final message is malformed");
  }
  if (!same_secret(as_view(*signature), as_view(expected_signature_))) {
    return conf::Error{conf::Errc::auth, "SCRAM: the server does not know the password"};
  }
  return conf::ok;
}

}  // namespace wire
