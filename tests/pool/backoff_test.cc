#include "pool/backoff.h"

#include <doctest/doctest.h>

#include <set>

using namespace pool;
using namespace std::chrono_literals;

namespace {

Instant at(Millis since_start) { return Instant(1h) + since_start; }

}  // namespace

TEST_SUITE("pool/backoff") {
  TEST_CASE("a node that never failed may be tried, and so may one that works again") {
    std::minstd_rand random(1);
    Backoff backoff;
    CHECK(backoff.may_try(at(0s)));
    backoff.failed(at(0s), 50ms, 5s, random);
    CHECK(backoff.failures() == 1);
    CHECK_FALSE(backoff.may_try(at(24ms)));
    CHECK(backoff.may_try(at(50ms)));
    backoff.succeeded();
    CHECK(backoff.may_try(at(0s)));
    CHECK(backoff.failures() == 0);
  }

  TEST_CASE("requirement 35: waits double from min to max, with jitter in the upper half") {
    std::minstd_rand random(1);
    for (int run = 0; run < 200; ++run) {
      Backoff backoff;
      Millis expected = 50ms;
      for (int i = 0; i < 20; ++i) {
        backoff.failed(at(0s), 50ms, 5s, random);
        const auto wait = backoff.not_before() - at(0s);
        CHECK(wait >= expected / 2);
        CHECK(wait <= expected);
        expected = std::min<Millis>(expected * 2, 5s);
      }
    }
  }

  TEST_CASE("requirement 35: many that failed together do not come back together") {
    std::minstd_rand random(1);
    std::set<Instant> moments;
    for (int i = 0; i < 100; ++i) {
      Backoff backoff;
      backoff.failed(at(0s), 1s, 5s, random);
      moments.insert(backoff.not_before());
    }
    CHECK(moments.size() > 90);
    CHECK(*moments.rbegin() - *moments.begin() > 400ms);
  }

  TEST_CASE("any number of failures and odd limits stay in range") {
    std::minstd_rand random(1);
    Backoff backoff;
    for (int i = 0; i < 10'000; ++i) backoff.failed(at(0s), 50ms, 5s, random);
    CHECK(backoff.not_before() - at(0s) <= 5s);
    Backoff none;
    none.failed(at(0s), 0ms, 0ms, random);
    CHECK(none.not_before() - at(0s) <= 1ms);
    Backoff swapped;
    swapped.failed(at(0s), 5s, 50ms, random);
    CHECK(swapped.not_before() - at(0s) <= 5s);
  }
}
