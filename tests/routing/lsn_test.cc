#include "routing/lsn.h"

#include <doctest/doctest.h>

using namespace routing;

TEST_SUITE("routing/lsn") {
  TEST_CASE("a position is read and printed as Postgres writes it") {
    CHECK(parse_lsn("16/B374D848") == Lsn{0x16B374D848});
    CHECK(print(Lsn{0x16B374D848}) == "16/B374D848");
    CHECK(parse_lsn("0/0") == Lsn{});
    CHECK(print(Lsn{}) == "0/0");
    CHECK(parse_lsn("FFFFFFFF/FFFFFFFF") == Lsn{~std::uint64_t{0}});
    CHECK(print(*parse_lsn("1/5")) == "1/5");
  }

  TEST_CASE("what is not a position is refused") {
    for (const char* text : {"", "/", "1/", "/1", "12", "1/2/3", "g/1", "1/-1", "1/ 2", "+1/2",
                             "123456789/0", "0/123456789", "0x1/2"}) {
      CAPTURE(text);
      CHECK_FALSE(parse_lsn(text).has_value());
    }
  }

  TEST_CASE("positions compare across the halves") {
    CHECK(*parse_lsn("0/FFFFFFFF") < *parse_lsn("1/0"));
    CHECK(*parse_lsn("A/1") > *parse_lsn("9/FFFFFFFF"));
  }

  TEST_CASE("a page header that is not written yet is taken off, other positions stay") {
    constexpr std::uint64_t kSegment = 16 << 20;
    CHECK(normalise_insert_lsn({3 * 8192 + 24}, kSegment) == Lsn{3 * 8192});
    CHECK(normalise_insert_lsn({3 * 8192 + 40}, kSegment) == Lsn{3 * 8192 + 40});
    CHECK(normalise_insert_lsn({2 * kSegment + 40}, kSegment) == Lsn{2 * kSegment});
    CHECK(normalise_insert_lsn({2 * kSegment + 24}, kSegment) == Lsn{2 * kSegment});
    CHECK(normalise_insert_lsn({3 * 8192 + 25}, kSegment) == Lsn{3 * 8192 + 25});
    CHECK(normalise_insert_lsn({3 * 8192}, kSegment) == Lsn{3 * 8192});
  }

  TEST_CASE("an unknown segment size only leaves out the rule that needs it") {
    CHECK(normalise_insert_lsn({8192 + 24}, 0) == Lsn{8192});
    CHECK(normalise_insert_lsn({40}, 0) == Lsn{40});
  }
}
