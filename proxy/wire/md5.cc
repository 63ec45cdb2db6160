#include "proxy/wire/md5.h"

#include <openssl/evp.h>

#include "conf/check.h"
#include "proxy/wire/password.h"

namespace wire {
namespace {

constexpr std::string_view kPrefix = "md5";
constexpr std::string_view kDigits = "0123456789abcdef";

Result<std::string> prefixed_hex_md5(std::string_view text) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  if (EVP_Digest(text.data(), text.size(), digest, &size, EVP_md5(), nullptr) != 1) {
    return conf::Error{conf::Errc::auth, "computing MD5: this OpenSSL does not offer it"};
  }
  std::string hex(kPrefix);
  for (unsigned int i = 0; i < size; ++i) {
    hex.push_back(kDigits[digest[i] >> 4]);
    hex.push_back(kDigits[digest[i] & 0xf]);
  }
  return hex;
}

}  // namespace

Result<std::string> md5_stored(std::string_view password, std::string_view user) {
  std::string text(password);
  text.append(user);
  Result<std::string> stored = prefixed_hex_md5(text);
  cleanse(text);
  return stored;
}

Result<std::string> md5_response(std::string_view stored, std::string_view salt) {
  ENSURE(password_kind(stored) == PasswordKind::md5);
  std::string text(stored.substr(kPrefix.size()));
  text.append(salt);
  return prefixed_hex_md5(text);
}

bool md5_verify(std::string_view stored, std::string_view salt, std::string_view response) {
  const Result<std::string> expected = md5_response(stored, salt);
  return expected.has_value() && same_secret(*expected, response);
}

}  // namespace wire
