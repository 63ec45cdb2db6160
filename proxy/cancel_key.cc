#include "proxy/cancel_key.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "conf/check.h"
#include "proxy/wire/message.h"

namespace proxy {

std::string cancel_key_bytes(const CancelKey& key, std::string_view process_secret) {
  std::string text(8, '\0');
  wire::store_u32(text.data(), key.pid);
  wire::store_u32(text.data() + 4, key.secret);
  std::string bytes = text.substr(4);
  if (!key.is_long) return bytes;
  unsigned char hash[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  ENSURE(HMAC(EVP_sha256(), process_secret.data(), static_cast<int>(process_secret.size()),
              reinterpret_cast<const unsigned char*>(text.data()), text.size(), hash, &size) != nullptr);
  ENSURE(size >= kLongCancelKey - bytes.size());
  return bytes.append(reinterpret_cast<const char*>(hash), kLongCancelKey - bytes.size());
}

bool is_cancel_key(std::string_view bytes, const CancelKey& key, std::string_view process_secret) {
  if (key.secret == 0 || bytes.size() != (key.is_long ? kLongCancelKey : sizeof key.secret) ||
      wire::load_u32(bytes.data()) != key.secret)
    return false;
  const std::string expected = cancel_key_bytes(key, process_secret);
  return CRYPTO_memcmp(bytes.data(), expected.data(), expected.size()) == 0;
}

}  // namespace proxy
