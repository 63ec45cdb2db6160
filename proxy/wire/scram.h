#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "conf/result.h"

// SCRAM-SHA-256 (RFC 5802, RFC 7677) as Postgres speaks it, both sides, with channel binding of
// type tls-server-end-point (RFC 5929). Pure: random numbers are arguments, and the one slow
// step, salted_password(), is a function of its own that can run on another thread.
//
// What a successful login of a client teaches us, its ClientKey, is enough to log in to a server
// that stores the same secret: pass-through without a plain password.
//
// Errors: Errc::auth means that the password (or the server's knowledge of it) is wrong, and the
// answer is the same words for every cause; Errc::protocol that a message is broken or not allowed
// now, with words that name it.
namespace wire {

using conf::Result;

inline constexpr std::string_view kScramSha256 = "SCRAM-SHA-256";
inline constexpr std::string_view kScramSha256Plus = "SCRAM-SHA-256-PLUS";
// What Postgres uses for new secrets unless told otherwise.
inline constexpr std::uint32_t kDefaultScramIterations = 4096;
// A server could keep us busy by asking for more; a million cost under a second.
inline constexpr std::uint32_t kMaxScramIterations = 1'000'000;
// Bytes of salt in a new secret, as in Postgres. Any length is accepted from others.
inline constexpr std::size_t kScramSaltLength = 16;
// Random bytes behind a nonce, as in Postgres.
inline constexpr std::size_t kScramNonceLength = 18;

using ScramHash = std::array<unsigned char, 32>;

inline std::string_view as_view(const ScramHash& hash) {
  return {reinterpret_cast<const char*>(hash.data()), hash.size()};
}

// What a server stores of a password. Knowing it allows to check clients and to pose as a server,
// not to log in.
struct ScramSecret {
  std::uint32_t iterations = kDefaultScramIterations;
  std::string salt;  // raw bytes
  ScramHash stored_key{};
  ScramHash server_key{};
};

// What logs in: derived from the password, a salt and an iteration count, and valid for secrets
// with that salt and count only. Overwritten when destroyed.
struct ScramKeys {
  ScramHash client_key{};
  ScramHash stored_key{};  // the hash of client_key
  ScramHash server_key{};

  ~ScramKeys();
};

// "SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>", the last three in base64. Any count
// of iterations will do: checking a client's proof repeats none of them.
Result<ScramSecret> parse_scram_secret(std::string_view text);
std::string print_scram_secret(const ScramSecret& secret);
// Slow: see salted_password().
ScramSecret build_scram_secret(std::string_view password, std::string_view salt,
                               std::uint32_t iterations);

// PBKDF2: a few milliseconds at the usual 4096 iterations, in proportion to them. Requires
// 1 to kMaxScramIterations. Overwrite the result when done, or let scram_keys() do it.
//
// The password is used as it is. RFC 5802 wants it normalised first (SASLprep), which changes
// nothing in ASCII, nor in text that is in normal form KC already, such as precomposed accented
// letters; and a password that SASLprep refuses is used as it is by Postgres too. What is left out
// is the rest: passwords with compatibility characters, loose combining marks or non-ASCII spaces,
// whose plain form must be configured in its normalised spelling. Pass-through is not concerned:
// there the client has normalised.
ScramHash salted_password(std::string_view password, std::string_view salt,
                          std::uint32_t iterations);
// The keys that follow from salted_password(). Fast.
ScramKeys scram_keys(ScramHash salted);
// The keys for pass-through, from what ScramServer found and the user's secret.
ScramKeys scram_keys(const ScramHash& client_key, const ScramHash& server_key);

// A secret for a user that does not exist, which no password opens. The salt is always the same
// for one user and one `key`, so that asking twice tells nothing; `key` is 32 random bytes that
// stay secret, and live as long as the answers are to be stable. `iterations` should be those that
// real users have.
ScramSecret mock_scram_secret(std::string_view key, std::string_view user,
                              std::uint32_t iterations);

// A nonce from kScramNonceLength random bytes.
std::string scram_nonce(std::string_view random_bytes);

// We are the server: client-first -> server-first, client-final -> server-final.
// Each instance serves one login; an error ends it. The SASL messages are those inside
// SASLInitialResponse and the like, without the frames.
class ScramServer {
 public:
  struct Options {
    ScramSecret secret;
    bool user_exists = true;  // false: `secret` is a mock, and finish() fails whatever happens
    std::string nonce;        // scram_nonce()
    // Hash of our certificate as tls-server-end-point defines it. Empty: the connection has no
    // TLS, and SCRAM-SHA-256-PLUS was not among the mechanisms offered. Not empty: it was.
    std::string certificate_hash = {};
  };
  struct Success {
    std::string server_final;  // for AuthenticationSASLFinal
    ScramKeys keys;            // what the client proved to have; good for pass-through
  };

  explicit ScramServer(Options options) : options_(std::move(options)) {}

  // Returns the message for AuthenticationSASLContinue.
  Result<std::string> first(std::string_view mechanism, std::string_view client_first);
  Result<Success> finish(std::string_view client_final);

 private:
  enum class State : unsigned char { fresh, challenged, done };

  Options options_;
  State state_ = State::fresh;
  std::string binding_;            // what client-final must carry in c=, decoded
  std::string nonce_;              // both halves
  std::string client_first_bare_;  // these two are what is signed, with client-final
  std::string server_first_;
};

// We are the client: first() -> server-first -> final() -> server-final.
class ScramClient {
 public:
  enum class Binding : unsigned char {
    none,         // no TLS, or not wanted
    not_offered,  // we could, but the server did not offer SCRAM-SHA-256-PLUS
    bind          // use SCRAM-SHA-256-PLUS
  };
  struct Options {
    std::string nonce;  // scram_nonce()
    Binding binding = Binding::none;
    std::string certificate_hash = {};  // of the server's certificate; with Binding::bind
    std::string user = {};              // Postgres ignores it and takes the start-up packet's
  };
  // What the server wants the password mixed with. The caller takes keys for (salt, iterations)
  // from its cache, or computes them where it is allowed to be slow.
  struct Challenge {
    std::string salt;  // raw bytes
    std::uint32_t iterations = 0;
  };

  explicit ScramClient(Options options) : options_(std::move(options)) {}

  std::string_view mechanism() const {
    return options_.binding == Binding::bind ? kScramSha256Plus : kScramSha256;
  }
  std::string first();
  // Refuses iteration counts over kMaxScramIterations and nonces that do not extend ours.
  Result<Challenge> challenge(std::string_view server_first);
  // Only after challenge(), with keys for just that challenge.
  std::string final(const ScramKeys& keys);
  // Whether the server knows the secret too. Until this succeeds AuthenticationOk means nothing.
  conf::Status verify(std::string_view server_final);

 private:
  enum class State : unsigned char { fresh, sent_first, challenged, sent_final, done };

  std::string gs2_header() const;

  Options options_;
  State state_ = State::fresh;
  std::string client_first_bare_;
  std::string server_first_;
  std::string nonce_;  // both halves
  ScramHash expected_signature_{};
};

}  // namespace wire
