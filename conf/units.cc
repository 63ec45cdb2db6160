#include "conf/units.h"

#include <array>
#include <charconv>
#include <limits>
#include <span>
#include <utility>

namespace conf {
namespace {

struct Unit {
  std::string_view suffix;
  std::int64_t factor;
};

// Smallest first: print() takes the last one that divides the value.
constexpr std::array kDurations = {
    Unit{"ms", 1},        Unit{"s", 1'000},      Unit{"min", 60'000},
    Unit{"h", 3'600'000}, Unit{"d", 86'400'000},
};
constexpr std::array kSizes = {
    Unit{"B", 1},
    Unit{"KiB", 1 << 10},
    Unit{"MiB", 1 << 20},
    Unit{"GiB", 1 << 30},
};

struct Wanted {
  std::string_view what;      // "duration"
  std::string_view examples;  // how to write one
};

Error refuse(const Wanted& wanted, std::string_view text, std::string_view why) {
  std::string message;
  message.append(wanted.what).append(" \"").append(text.substr(0, 40));
  if (text.size() > 40) message += "...";
  message.append("\" ").append(why).append("; write it like ").append(wanted.examples);
  return {Errc::config, std::move(message)};
}

Result<std::int64_t> parse(std::string_view text, std::span<const Unit> units,
                           const Wanted& wanted) {
  std::int64_t number = 0;
  // from_chars would take a minus sign, so the first character must be a digit.
  if (text.empty() || text[0] < '0' || text[0] > '9')
    return refuse(wanted, text, "does not start with a number");
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{}) return refuse(wanted, text, "is too large");
  const auto suffix = text.substr(static_cast<std::size_t>(rest - text.data()));
  if (suffix.empty() && number == 0) return std::int64_t{0};
  if (suffix.empty()) return refuse(wanted, text, "has no unit");
  for (const Unit& unit : units) {
    if (unit.suffix != suffix) continue;
    if (number > std::numeric_limits<std::int64_t>::max() / unit.factor)
      return refuse(wanted, text, "is too large");
    return number * unit.factor;
  }
  return refuse(wanted, text, "has an unknown unit");
}

}  // namespace

Result<Millis> parse_duration(std::string_view text) {
  constexpr Wanted wanted{.what = "duration",
                          .examples = "\"250ms\", \"10s\", \"5min\", \"2h\" or \"1d\""};
  const auto count = parse(text, kDurations, wanted);
  if (!count) return count.error();
  return Millis{*count};
}

Result<Bytes> parse_bytes(std::string_view text) {
  constexpr Wanted wanted{.what = "size", .examples = "\"512B\", \"64KiB\", \"16MiB\" or \"1GiB\""};
  const auto count = parse(text, kSizes, wanted);
  if (!count) return count.error();
  return Bytes{static_cast<std::uint64_t>(*count)};
}

std::string print(Millis duration) {
  if (duration.count() == 0) return "0";
  const Unit* best = &kDurations[0];
  for (const Unit& unit : kDurations)
    if (duration.count() % unit.factor == 0) best = &unit;
  return std::to_string(duration.count() / best->factor).append(best->suffix);
}

std::string print(Bytes size) {
  if (size.count == 0) return "0";
  const Unit* best = &kSizes[0];
  for (const Unit& unit : kSizes)
    if (size.count % static_cast<std::uint64_t>(unit.factor) == 0) best = &unit;
  return std::to_string(size.count / static_cast<std::uint64_t>(best->factor)).append(best->suffix);
}

}  // namespace conf
