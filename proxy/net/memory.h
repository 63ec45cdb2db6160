#pragma once

#include <cstdint>

namespace net {

// Bytes that the process may have: of the machine, or of its control group if that has less. 0: unknown.
std::uint64_t memory_allowed();
// Bytes that it has in memory now. 0: unknown. Reads /proc.
std::uint64_t memory_in_use();

}  // namespace net
