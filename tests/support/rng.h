#pragma once

#include <cstdint>
#include <cstdlib>
#include <random>

namespace support {

// The seed of this run: PGSLUICE_SEED, or drawn anew. tests/main.cc prints it, so that a failure
// can be run again with the same randomness.
inline std::uint64_t seed() {
  static const std::uint64_t value = [] {
    if (const char* given = std::getenv("PGSLUICE_SEED")) return std::strtoull(given, nullptr, 10);
    std::random_device device;
    return (static_cast<unsigned long long>(device()) << 32) | device();
  }();
  return value;
}

// A generator for one test. `salt` keeps two tests in one binary from walking the same sequence.
inline std::mt19937_64 rng(std::uint64_t salt = 0) {
  return std::mt19937_64(seed() ^ (salt * 0x9e3779b97f4a7c15ULL));
}

}  // namespace support
