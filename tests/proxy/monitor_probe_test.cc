#include "proxy/monitor_probe.h"

#include <doctest/doctest.h>

using namespace proxy;

TEST_SUITE("proxy/monitor_probe") {
  constexpr auto kNull = std::nullopt;

  PgRow primary_row() {
    return {"f", "7711", kNull, kNull, "00000003000000010000002A", "1/2A000148", "1795362883002507",
            "f", "16777216", "t", "12", "1/29FFFFB8"};
  }
  PgRow replica_row() {
    return {"t", "7711", "3", "2", kNull, "1/2A000100", "1795362883002507", "t", "16777216", "t",
            kNull, kNull};
  }

  TEST_CASE("a primary's answer gives position and timeline of its insert position") {
    const auto answer = read_full_probe({primary_row()});
    REQUIRE(answer);
    CHECK_FALSE(answer->in_recovery);
    CHECK(answer->system_id == 7711);
    CHECK(answer->timeline == 3);
    CHECK(answer->position == routing::Lsn{0x12A000148});
    CHECK(answer->started_us == 1795362883002507);
    CHECK(answer->active_backends == 12);
    CHECK(answer->left_at == routing::Lsn{0x129FFFFB8});
  }

  TEST_CASE("a page header that is not written yet is taken off a primary's position") {
    PgRow row = primary_row();
    row[5] = "1/2A002018";  // 24 bytes into a page
    CHECK(read_full_probe({row})->position == routing::Lsn{0x12A002000});
    row[5] = "1/2A000028";  // 40 bytes into a segment
    CHECK(read_full_probe({row})->position == routing::Lsn{0x12A000000});
  }

  TEST_CASE("a replica's answer: what its receiver follows, and the highest timeline to be seen") {
    const auto answer = read_full_probe({replica_row()});
    REQUIRE(answer);
    CHECK(answer->in_recovery);
    CHECK(answer->following == 3);
    CHECK(answer->timeline == 3);
    CHECK(answer->position == routing::Lsn{0x12A000100});
    CHECK(answer->receiver_running);
  }

  TEST_CASE("what a role without rights cannot see is unknown, not wrong") {
    PgRow row = replica_row();
    row[1] = row[2] = row[3] = row[10] = kNull;
    row[9] = "f";
    const auto answer = read_full_probe({row});
    REQUIRE(answer);
    CHECK(answer->system_id == 0);
    CHECK(answer->following == 0);
    CHECK(answer->timeline == 0);
    CHECK_FALSE(answer->sees_everything);
    CHECK_FALSE(answer->active_backends);
  }

  TEST_CASE("a replica that has replayed nothing stands before everything") {
    PgRow row = replica_row();
    row[5] = kNull;
    CHECK(read_full_probe({row})->position == routing::Lsn{});
  }

  TEST_CASE("an answer that makes no sense is none") {
    CHECK_FALSE(read_full_probe({}));
    CHECK_FALSE(read_full_probe({primary_row(), primary_row()}));
    CHECK_FALSE(read_full_probe({PgRow{"f"}}));
    for (const std::size_t broken : {0u, 4u, 5u, 6u, 8u}) {
      CAPTURE(broken);
      PgRow row = primary_row();
      row[broken] = "nonsense";
      CHECK_FALSE(read_full_probe({row}));
      row[broken] = kNull;
      CHECK_FALSE(read_full_probe({row}));
    }
    CHECK_FALSE(read_quick_probe({}));
    CHECK_FALSE(read_quick_probe({PgRow{"x", kNull, "0/1"}}));
    CHECK_FALSE(read_quick_probe({PgRow{"f", kNull, "0/1"}}));
  }

  TEST_CASE("a quick answer has role, timeline and position") {
    const auto primary = read_quick_probe({PgRow{"f", "000000020000000000000001", "0/1000"}});
    REQUIRE(primary);
    CHECK(primary->timeline == 2);
    CHECK(primary->position == routing::Lsn{0x1000});
    const auto replica = read_quick_probe({PgRow{"t", kNull, "0/2000"}});
    REQUIRE(replica);
    CHECK(replica->in_recovery);
    CHECK(replica->position == routing::Lsn{0x2000});
  }
}
