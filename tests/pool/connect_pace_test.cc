#include "pool/connect_pace.h"

#include <doctest/doctest.h>

#include "pool/budget.h"

using namespace pool;
using namespace std::chrono_literals;

TEST_SUITE("pool/connect_pace") {
  TEST_CASE("requirement 35: so many at once, and no more than so many per second") {
    ConnectPace pace;
    conf::Instant now{1h};
    for (int i = 0; i < 4; ++i) CHECK(pace.take(now, 4, 50));
    CHECK_FALSE(pace.take(now, 4, 50));
    CHECK_FALSE(pace.has_room(4));
    pace.done();
    CHECK(pace.has_room(4));
    CHECK_FALSE(pace.take(now, 4, 50));  // four have been begun in this moment
    CHECK(pace.making() == 3);           // and what was refused takes no place
    CHECK(pace.take(now + 20ms, 4, 50));
    // Over a long time, however fast they are made: fifty per second.
    int begun = 0;
    for (int ms = 0; ms < 10'000; ++ms) {
      now += 1ms;
      while (pace.making() > 0) pace.done();
      while (pace.take(now, 4, 50)) ++begun;
    }
    CHECK(begun >= 495);
    CHECK(begun <= 505);
    while (pace.making() > 0) pace.done();
    for (int i = 0; i < 1000; ++i) CHECK(pace.take(now, 1'000, 0));  // no limit per second
  }

  TEST_CASE("requirement 31: 53300 caps a pool at nine tenths of what it has, and it grows back") {
    Budget budget(20);
    conf::Instant now{1h};
    for (int i = 0; i < 10; ++i) CHECK(budget.take());
    budget.refused(now, 1s);
    CHECK(budget.capped());
    CHECK(budget.limit() == 9);
    budget.refused(now + 10ms, 1s);  // many are refused at once: that is one lesson
    CHECK(budget.limit() == 9);
    CHECK_FALSE(budget.take());
    // Of those that counted, some were still being made, and are refused, too.
    for (int i = 0; i < 4; ++i) {
      budget.give_back();
      budget.refused(now + 20ms, 1s);
    }
    CHECK(budget.limit() == 6);
    CHECK(budget.open() == 6);
    budget.recover(now + 500ms, 1s);
    CHECK(budget.limit() == 6);
    for (int i = 1; i <= 14; ++i) {
      now += 1s;
      budget.recover(now, 1s);
      CHECK(budget.limit() == 6 + i);
    }
    CHECK_FALSE(budget.capped());
    CHECK(budget.limit() == 20);
    Budget one(5);
    CHECK(one.take());
    one.refused(now, 1s);
    CHECK(one.limit() == 1);  // never none
    one.refused(now, 0ms);
    Budget off(5);
    off.refused(now, 0ms);
    CHECK(off.limit() == 5);
  }
}
