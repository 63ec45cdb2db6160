#include "routing/breaker.h"

#include <doctest/doctest.h>

using namespace routing;
using namespace std::chrono_literals;

namespace {

constexpr Instant kStart{1h};
constexpr BreakerRules kRules{};

struct Driven {
  Breaker breaker;
  std::minstd_rand random{1};
  Instant now = kStart;

  void fail(int times) {
    for (int i = 0; i < times; ++i) breaker.outcome(now, false, kRules);
  }
  void eject() { breaker.eject(now, breaker.wants_out(), kRules, random); }
  // Until it is half open.
  Millis wait() {
    const Instant from = now;
    while (!breaker.tick(now)) now += 10ms;
    return std::chrono::duration_cast<Millis>(now - from);
  }
};

}  // namespace

TEST_SUITE("routing/breaker") {
  TEST_CASE("three failed connections in a row open it, two do not, and a good one between starts anew") {
    Driven one;
    one.fail(2);
    CHECK(one.breaker.wants_out() == BreakerReason::none);
    one.breaker.outcome(one.now, true, kRules);
    one.fail(2);
    CHECK(one.breaker.wants_out() == BreakerReason::none);
    one.fail(1);
    CHECK(one.breaker.wants_out() == BreakerReason::consecutive_failures);
    one.breaker.outcome(one.now, true, kRules);  // nobody could be ejected meanwhile, and it is well again
    CHECK(one.breaker.wants_out() == BreakerReason::none);
  }

  TEST_CASE("half of twenty within ten seconds open it; spread over more time they do not") {
    for (const auto& [step, why] : {std::pair{400ms, BreakerReason::failure_rate},
                                    std::pair{600ms, BreakerReason::none}}) {
      Driven one;
      BreakerReason seen = BreakerReason::none;
      for (int i = 0; i < 20; ++i) {
        one.breaker.outcome(one.now, i % 2 == 0, kRules);
        if (one.breaker.wants_out() != BreakerReason::none) seen = one.breaker.wants_out();
        one.now += step;
      }
      CHECK(seen == why);
    }
  }

  TEST_CASE("latency five times the peers' median opens it when it lasts a second") {
    Driven one;
    const auto measure = [&one](std::uint32_t own, Millis time) {
      for (const Instant until = one.now + time; one.now <= until; one.now += 100ms)
        one.breaker.measure(one.now, own, 1024, kRules);
      return one.breaker.wants_out();
    };
    CHECK(measure(5 * 1024 - 1, 10s) == BreakerReason::none);
    CHECK(measure(5 * 1024, 800ms) == BreakerReason::none);
    CHECK(measure(1024, 100ms) == BreakerReason::none);
    CHECK(measure(5 * 1024, 800ms) == BreakerReason::none);  // the second begins anew
    CHECK(measure(5 * 1024, 400ms) == BreakerReason::latency);
    CHECK(measure(1024, 100ms) == BreakerReason::none);
    one.breaker.measure(one.now, 100 * 1024, 0, kRules);  // no peers
    CHECK(one.breaker.wants_out() == BreakerReason::none);
  }

  TEST_CASE("it is open for a second, then twice as long each time, a minute at most, jittered") {
    Driven one;
    Millis expected = 1s;
    for (int round = 0; round < 9; ++round) {
      one.fail(3);
      REQUIRE(one.breaker.wants_out() != BreakerReason::none);
      one.eject();
      CHECK(one.breaker.state() == BreakerState::open);
      const Millis open = one.wait();
      CHECK(open >= expected);
      CHECK(open <= expected * 5 / 4 + 10ms);
      CHECK(one.breaker.probed(one.now, one.now));
      expected = std::min<Millis>(expected * 2, 60s);
    }
    CHECK(one.breaker.ejections() == 9);
    CHECK(one.breaker.count(BreakerReason::consecutive_failures) == 9);
    // After a long time of peace it begins with a second again.
    one.now += 10min;
    one.fail(3);
    one.eject();
    CHECK(one.wait() < 1300ms);
  }

  TEST_CASE("half open, only a probe that was asked since then closes it") {
    Driven one;
    one.fail(3);
    one.eject();
    const Instant before = one.now;
    CHECK_FALSE(one.breaker.probed(one.now, one.now));  // open
    one.wait();
    CHECK(one.breaker.state() == BreakerState::half_open);
    CHECK_FALSE(one.breaker.probed(one.now, before));
    CHECK(one.breaker.probed(one.now, one.now));
    CHECK(one.breaker.state() == BreakerState::closed);
    CHECK(one.breaker.wants_out() == BreakerReason::none);
  }

  TEST_CASE("requirement 31: slow start goes from a tenth to all in thirty seconds") {
    Driven one;
    CHECK(one.breaker.ramp(one.now, kRules) == 100);  // a process that starts spares nobody
    one.breaker.returned(one.now);
    CHECK(one.breaker.ramp(one.now, kRules) == 10);
    CHECK(one.breaker.ramp(one.now + 15s, kRules) == 55);
    CHECK(one.breaker.ramp(one.now + 30s, kRules) == 100);
    CHECK(one.breaker.ramp(one.now, {.slow_start = 0ms}) == 100);
  }

  TEST_CASE("requirement 31: at most half of the replicas are out, those that are down among them") {
    CHECK_FALSE(may_eject(1, 0, 50));
    CHECK(may_eject(2, 0, 50));
    CHECK_FALSE(may_eject(2, 1, 50));
    CHECK_FALSE(may_eject(3, 1, 50));
    CHECK(may_eject(50, 24, 50));
    CHECK_FALSE(may_eject(50, 25, 50));
    CHECK_FALSE(may_eject(4, 0, 0));
    CHECK(may_eject(1, 0, 100));
  }
}
