#pragma once

#include <cstdint>
#include <string>

namespace proxy {

// Random bytes that nobody can guess: for secrets, nonces, cancel keys. Choices that only want to be
// even use the worker's own generator.
std::string random_bytes(std::size_t count);
std::uint32_t random_u32();

}  // namespace proxy
