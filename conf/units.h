#pragma once

#include <chrono>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "conf/result.h"

namespace conf {

using Millis = std::chrono::milliseconds;
using Micros = std::chrono::microseconds;
using Nanos = std::chrono::nanoseconds;

// A moment on the monotonic clock of this process (nanoseconds). Only differences mean anything.
// Deciding code takes it as an argument; proxy::net::Loop is where it is read, once per loop turn.
using Instant = std::chrono::time_point<std::chrono::steady_clock, Nanos>;

// A size in memory or on the wire.
struct Bytes {
  std::uint64_t count = 0;
  friend constexpr auto operator<=>(const Bytes&, const Bytes&) = default;
};

// "250ms", "10s", "5min", "2h", "1d"; "0" is zero in any unit. A bare number is an error, because
// nobody remembers which unit a knob is in.
Result<Millis> parse_duration(std::string_view text);
// "512B", "64KiB", "16MiB", "1GiB" (also kB, MB, GB as powers of 1000 are refused: say KiB).
Result<Bytes> parse_bytes(std::string_view text);
// The shortest exact form that parses back to the same value.
std::string print(Millis duration);
std::string print(Bytes size);

}  // namespace conf
