#include "routing/lag.h"

#include <doctest/doctest.h>

#include <random>

using namespace routing;
using namespace std::chrono_literals;

namespace {

Instant at(Millis since_start) { return Instant(std::chrono::hours(1)) + since_start; }

}  // namespace

TEST_SUITE("routing/lag") {
  TEST_CASE("requirement 29: without a sample, or without a position, lag is unknown and not zero") {
    LagRing ring;
    CHECK_FALSE(ring.lag(Lsn{100}, at(0s)).has_value());
    ring.add(at(0s), Lsn{100});
    CHECK_FALSE(ring.lag(Lsn{}, at(1s)).has_value());
  }

  TEST_CASE("lag is the age of the newest sample that the replica has replayed") {
    LagRing ring;
    ring.add(at(0s), Lsn{100});
    ring.add(at(1s), Lsn{200});
    ring.add(at(2s), Lsn{300});
    CHECK(ring.lag(Lsn{100}, at(3s)) == 3s);
    CHECK(ring.lag(Lsn{199}, at(3s)) == 3s);
    CHECK(ring.lag(Lsn{200}, at(3s)) == 2s);
    CHECK(ring.lag(Lsn{300}, at(3s)) == 0s);
    CHECK(ring.lag(Lsn{999}, at(3s)) == 0s);
  }

  TEST_CASE(
      "requirement 29: an idle primary makes no lag, and its first write does not count the idle time") {
    LagRing ring;
    for (int i = 0; i <= 10'000; ++i) ring.add(at(i * 500ms), Lsn{100});
    CHECK(ring.size() == 1);
    CHECK(ring.lag(Lsn{100}, at(9000s)) == 0s);
    ring.add(at(5000s + 500ms), Lsn{200});
    CHECK(ring.lag(Lsn{100}, at(5001s)) == 1s);
  }

  TEST_CASE("requirement 29: a replica whose receiver is cut falls behind by the clock") {
    LagRing ring;
    for (std::uint64_t i = 0; i <= 100; ++i)
      ring.add(at(static_cast<int>(i) * 500ms), Lsn{100 + i});
    CHECK(ring.lag(Lsn{110}, at(50s)) == 45s);
    CHECK(ring.lag(Lsn{110}, at(51s)) == 46s);
  }

  TEST_CASE("behind everything known is unknown, until what is known is long enough") {
    LagRing ring;
    ring.add(at(0s), Lsn{100});
    CHECK_FALSE(ring.lag(Lsn{99}, at(1s)).has_value());
    ring.add(at(3599s), Lsn{200});
    CHECK_FALSE(ring.lag(Lsn{99}, at(3599s)).has_value());
    CHECK(ring.lag(Lsn{99}, at(3600s)) == 3600s);
  }

  TEST_CASE("a position that goes backwards forgets what another timeline said") {
    LagRing ring;
    ring.add(at(0s), Lsn{100});
    ring.add(at(1s), Lsn{500});
    ring.add(at(2s), Lsn{300});
    CHECK(ring.size() == 1);
    CHECK(ring.lag(Lsn{300}, at(3s)) == 0s);
    CHECK_FALSE(ring.lag(Lsn{200}, at(3s)).has_value());
  }

  TEST_CASE("the ring stays bounded, spans hours, and errs by a few per cent upward only") {
    // One position per sample: position n was reached at n x spacing.
    for (const Millis spacing : {5ms, 100ms, 500ms}) {
      CAPTURE(spacing.count());
      LagRing ring;
      const std::int64_t samples = 2h / spacing;
      std::size_t largest = 0;
      for (std::int64_t i = 1; i <= samples; ++i) {
        ring.add(at(i * spacing), Lsn{static_cast<std::uint64_t>(i)});
        largest = std::max(largest, ring.size());
      }
      CHECK(largest <= LagRing::kEntries);
      const Instant now = at(samples * spacing);
      std::mt19937 random(7);
      for (int i = 0; i < 2000; ++i) {
        const Millis behind{std::uniform_int_distribution<std::int64_t>(0, 7'100'000)(random)};
        const std::int64_t replayed = (2h - behind) / spacing;
        const auto lag = ring.lag(Lsn{static_cast<std::uint64_t>(replayed)}, now);
        REQUIRE(lag.has_value());
        const Millis truth = 2h - replayed * spacing;
        CHECK(*lag >= (replayed == samples ? 0ms : truth));
        CHECK(*lag <= truth * 21 / 20 + spacing);
      }
    }
  }

  TEST_CASE(
      "requirement 29: a lag at the limit serves, one beyond does not, and is back at three quarters") {
    LagGate gate;
    CHECK(gate.update(10s, 0, {10s}));
    CHECK_FALSE(gate.update(10'001ms, 0, {10s}));
    CHECK_FALSE(gate.update(10s, 0, {10s}));
    CHECK_FALSE(gate.update(7501ms, 0, {10s}));
    CHECK(gate.update(7500ms, 0, {10s}));
    CHECK(gate.update(9s, 0, {10s}));
  }

  TEST_CASE("requirement 29: lag in bytes has a limit of its own, with the same hysteresis") {
    LagGate gate;
    constexpr LagLimits limits{10s, 1000};
    CHECK(gate.update(0ms, 1000, limits));
    CHECK_FALSE(gate.update(0ms, 1001, limits));
    CHECK_FALSE(gate.update(0ms, 751, limits));
    CHECK(gate.update(0ms, 750, limits));
    CHECK_FALSE(gate.update(11s, 0, limits));
    CHECK_FALSE(gate.update(0ms, 900, limits));  // back within one limit is not back within both
    CHECK(gate.update(7500ms, 750, limits));
    CHECK(gate.update(0ms, ~std::uint64_t{0}, {10s}));  // no limit of bytes
  }

  TEST_CASE("an unknown lag never serves, but one lost sample does not ask for hysteresis") {
    LagGate gate;
    CHECK_FALSE(gate.update(std::nullopt, 0, {10s}));
    CHECK(gate.update(9s, 0, {10s}));
    CHECK_FALSE(gate.update(std::nullopt, 0, {10s}));
    CHECK(gate.update(9s, 0, {10s}));
  }
}
