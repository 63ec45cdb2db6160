#include "proxy/random.h"

#include <openssl/rand.h>

#include "conf/check.h"

namespace proxy {

std::string random_bytes(std::size_t count) {
  std::string bytes(count, '\0');
  ENSURE(RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(count)) == 1);
  return bytes;
}

std::uint32_t random_u32() {
  std::uint32_t value = 0;
  ENSURE(RAND_bytes(reinterpret_cast<unsigned char*>(&value), sizeof value) == 1);
  return value;
}

}  // namespace proxy
