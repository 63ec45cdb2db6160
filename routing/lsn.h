#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace routing {

// A position in Postgres's write-ahead log. Zero is "before everything".
struct Lsn {
  std::uint64_t value = 0;
  friend constexpr auto operator<=>(const Lsn&, const Lsn&) = default;
};

// "16/B374D848", as Postgres prints it.
std::optional<Lsn> parse_lsn(std::string_view text);
std::string print(Lsn lsn);

// pg_current_wal_insert_lsn() counts a page header that is not written yet: on a page boundary it
// reads 24 bytes (40 at the start of a segment) further than a replica will reach while the primary
// is idle. This takes them off (measured on Postgres 15).
Lsn normalise_insert_lsn(Lsn lsn, std::uint64_t wal_segment_size);

}  // namespace routing
