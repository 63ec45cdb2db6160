#include "proxy/wire/password.h"

#include <algorithm>

#include <openssl/crypto.h>

#include "proxy/wire/md5.h"
#include "proxy/wire/scram.h"

namespace wire {

PasswordKind password_kind(std::string_view stored) {
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (stored.size() == 35 && stored.starts_with("md5") &&
      std::all_of(stored.begin() + 3, stored.end(), is_hex)) {
    return PasswordKind::md5;
  }
  return parse_scram_secret(stored) ? PasswordKind::scram : PasswordKind::plain;
}

bool verify_cleartext(std::string_view stored, std::string_view user, std::string_view password,
                      ScramKeys* proved) {
  switch (password_kind(stored)) {
    case PasswordKind::plain: return same_secret(stored, password);
    case PasswordKind::md5: {
      const Result<std::string> computed = md5_stored(password, user);
      return computed.has_value() && same_secret(*computed, stored);
    }
    case PasswordKind::scram: {
      const Result<ScramSecret> secret = parse_scram_secret(stored);
      if (!secret || secret->iterations > kMaxScramIterations) return false;
      const ScramKeys keys =
          scram_keys(salted_password(password, secret->salt, secret->iterations));
      const bool right = same_secret(as_view(keys.stored_key), as_view(secret->stored_key));
      if (right && proved != nullptr) *proved = keys;
      return right;
    }
  }
  return false;
}

bool same_secret(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

void cleanse(std::string& secret) {
  OPENSSL_cleanse(secret.data(), secret.size());
  secret.clear();
}

}  // namespace wire
