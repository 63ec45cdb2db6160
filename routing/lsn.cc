#include "routing/lsn.h"

#include <charconv>
#include <cstdio>

namespace routing {
namespace {

constexpr std::uint64_t kPage = 8192;             // XLOG_BLCKSZ of every build that is shipped
constexpr std::uint64_t kPageHeader = 24;         // SizeOfXLogShortPHD
// SizeOfXLogLongPHD, on the first page of a segment
constexpr std::uint64_t kSegmentHeader = 40;

std::optional<std::uint64_t> parse_half(std::string_view text) {
  if (text.empty() || text.size() > 8) return std::nullopt;
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

std::optional<Lsn> parse_lsn(std::string_view text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  const auto high = parse_half(text.substr(0, slash));
  const auto low = parse_half(text.substr(slash + 1));
  if (!high || !low) return std::nullopt;
  return Lsn{*high << 32 | *low};
}

std::string print(Lsn lsn) {
  char text[24];
  const int length = std::snprintf(text, sizeof text, "%llX/%llX",
                                   static_cast<unsigned long long>(lsn.value >> 32),
                                   static_cast<unsigned long long>(lsn.value & 0xFFFFFFFFu));
  return {text, static_cast<std::size_t>(length)};
}

Lsn normalise_insert_lsn(Lsn lsn, std::uint64_t wal_segment_size) {
  if (wal_segment_size != 0 && lsn.value % wal_segment_size == kSegmentHeader)
    return {lsn.value - kSegmentHeader};
  if (lsn.value % kPage == kPageHeader) return {lsn.value - kPageHeader};
  return lsn;
}

}  // namespace routing
