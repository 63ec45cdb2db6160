#include "conf/units.h"

#include <limits>

#include <doctest/doctest.h>

using conf::Bytes;
using conf::Millis;
using conf::parse_bytes;
using conf::parse_duration;
using conf::print;
using namespace std::chrono_literals;

TEST_SUITE("conf/units") {
  TEST_CASE("a duration is a whole number and its unit") {
    CHECK(*parse_duration("250ms") == 250ms);
    CHECK(*parse_duration("10s") == 10s);
    CHECK(*parse_duration("5min") == 5min);
    CHECK(*parse_duration("2h") == 2h);
    CHECK(*parse_duration("1d") == 24h);
  }

  TEST_CASE("zero needs no unit, every other number does") {
    CHECK(*parse_duration("0") == 0ms);
    CHECK(*parse_duration("0h") == 0ms);
    CHECK(*parse_bytes("0") == Bytes{0});
    CHECK(parse_duration("10").error().message ==
          "duration \"10\" has no unit; write it like \"250ms\", \"10s\", \"5min\", \"2h\" or "
          "\"1d\"");
    CHECK_FALSE(parse_bytes("512"));
  }

  TEST_CASE("signs, fractions, blanks and other units are refused") {
    for (const char* text : {"", "s", "-1s", "+1s", "1.5h", "10 s", " 10s", "10s ", "10S", "10m",
                             "10sec", "1us", "0x10s", "1h30min"}) {
      CAPTURE(text);
      CHECK_FALSE(parse_duration(text));
    }
    for (const char* text : {"", "B", "-1B", "1.5MiB", "64 KiB", "64kB", "64KB", "64MB", "1GB",
                             "64K", "64kib", "1TiB"}) {
      CAPTURE(text);
      CHECK_FALSE(parse_bytes(text));
    }
  }

  TEST_CASE("a size is a whole number and a unit of powers of 1024") {
    CHECK(*parse_bytes("512B") == Bytes{512});
    CHECK(*parse_bytes("64KiB") == Bytes{65'536});
    CHECK(*parse_bytes("16MiB") == Bytes{16u << 20});
    CHECK(*parse_bytes("1GiB") == Bytes{1u << 30});
  }

  TEST_CASE("a number that does not fit is refused, before and after its unit is applied") {
    CHECK(*parse_duration("9223372036854775807ms") == Millis::max());
    CHECK_FALSE(parse_duration("9223372036854775808ms"));
    CHECK_FALSE(parse_duration("99999999999999999999999999s"));
    CHECK(*parse_duration("106751991167d") == Millis{106'751'991'167 * 86'400'000});
    CHECK_FALSE(parse_duration("106751991168d"));
    CHECK(parse_bytes("8589934591GiB"));
    CHECK_FALSE(parse_bytes("8589934592GiB"));
  }

  TEST_CASE("a value prints in its largest exact unit") {
    CHECK(print(Millis{0}) == "0");
    CHECK(print(Millis{1'500}) == "1500ms");
    CHECK(print(Millis{90s}) == "90s");
    CHECK(print(Millis{10min}) == "10min");
    CHECK(print(Millis{1h}) == "1h");
    CHECK(print(Millis{48h}) == "2d");
    CHECK(print(Bytes{0}) == "0");
    CHECK(print(Bytes{1'000}) == "1000B");
    CHECK(print(Bytes{64 << 10}) == "64KiB");
    CHECK(print(Bytes{1u << 30}) == "1GiB");
  }

  TEST_CASE("what is printed reads back to the same value") {
    for (const std::int64_t count :
         {std::int64_t{0}, std::int64_t{1}, std::int64_t{999}, std::int64_t{60'000},
          std::int64_t{86'400'000}, std::int64_t{86'400'001},
          std::numeric_limits<std::int64_t>::max()}) {
      CAPTURE(count);
      CHECK(*parse_duration(print(Millis{count})) == Millis{count});
      const Bytes size{static_cast<std::uint64_t>(count)};
      CHECK(*parse_bytes(print(size)) == size);
    }
  }
}
