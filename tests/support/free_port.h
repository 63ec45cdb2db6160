#pragma once

#include <cstdint>

namespace support {

// A TCP port on 127.0.0.1 that nobody listens on. It is not handed out again, by this process or by another
// that runs tests on this machine, while this process lives.
std::uint16_t free_port();

}  // namespace support
