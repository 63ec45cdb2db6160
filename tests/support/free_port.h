#pragma once

#include <cstdint>

namespace support {

// A TCP port on 127.0.0.1 that nobody listened on a moment ago. The system picks it; ports handed
// out by this process are not handed out again.
std::uint16_t free_port();

}  // namespace support
