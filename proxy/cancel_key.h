#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace proxy {

// The secret part of the key with which a client may cancel its statements.
//
// Up to protocol 3.1 it has four bytes: the client's random number. From 3.2 on it has
// kLongCancelKey: that number, and 28 bytes of an HMAC-SHA-256 of the key's public part and the number
// under a secret of this process. So a long key needs no room per client, and cannot be guessed by
// trying all numbers.
inline constexpr std::size_t kLongCancelKey = 32;  // what Postgres 18 uses

struct CancelKey {
  std::uint32_t pid = 0;     // the public part: Worker::cancel_pid()
  std::uint32_t secret = 0;  // the client's random number; 0: it has no key
  bool is_long = false;
};

// The bytes that the client is sent.
std::string cancel_key_bytes(const CancelKey& key, std::string_view process_secret);
// Are these the bytes of `key`? A wrong number costs one comparison, the rest takes the same time
// whatever differs.
bool is_cancel_key(std::string_view bytes, const CancelKey& key, std::string_view process_secret);

}  // namespace proxy
