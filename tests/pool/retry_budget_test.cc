#include "pool/retry_budget.h"

#include <doctest/doctest.h>

using namespace std::chrono_literals;
using pool::RetryBudget;

namespace {

// How many of `tries` are let through at this moment.
int taken(RetryBudget& budget, pool::Instant now, std::uint64_t statements, RetryBudget::Limits limits,
          int tries = 100'000) {
  int count = 0;
  for (int i = 0; i < tries; ++i) count += budget.take(now, statements, limits) ? 1 : 0;
  return count;
}

const pool::Instant kStart = pool::Instant{} + 1h;

}  // namespace

TEST_SUITE("pool/retry_budget") {
  TEST_CASE("without statements the rate of ten seconds may be run again, and not more") {
    RetryBudget budget;
    CHECK(taken(budget, kStart, 0, {.share = 0.1, .per_second = 10}) == 100);
    CHECK(taken(budget, kStart + 1s, 0, {.share = 0.1, .per_second = 10}) == 10);
    CHECK(taken(budget, kStart + 1s, 0, {.share = 0.1, .per_second = 10}) == 0);
  }

  TEST_CASE("a share of the statements may be run again") {
    RetryBudget budget;
    CHECK(taken(budget, kStart, 0, {.share = 0.1, .per_second = 0}) == 0);
    CHECK(taken(budget, kStart + 1s, 5'000, {.share = 0.1, .per_second = 0}) == 500);
    CHECK(taken(budget, kStart + 2s, 5'000, {.share = 0.1, .per_second = 0}) == 0);
  }

  TEST_CASE("what was run long ago lends nothing") {
    RetryBudget budget;
    (void)taken(budget, kStart, 0, {.share = 0.1, .per_second = 0});
    // A million statements in 1000 seconds: 10,000 in the last ten.
    CHECK(taken(budget, kStart + 1000s, 1'000'000, {.share = 0.1, .per_second = 0}) == 1000);
  }

  TEST_CASE("when everything fails, over a minute retries stay within share and rate") {
    RetryBudget budget;
    std::uint64_t statements = 0;
    int retries = 0;
    for (int tenth = 0; tenth < 600; ++tenth) {
      const int now = taken(budget, kStart + tenth * 100ms, statements, {.share = 0.1, .per_second = 10}, 100);
      retries += now;
      statements += 100 + static_cast<std::uint64_t>(now);
    }
    // 60,000 statements and those run again, a minute's rate, and the burst of the first ten seconds.
    CHECK(retries > 6'000);
    CHECK(retries <= 7'450);  // r = (60,000 + r) / 10 + 600 + 100
  }

  TEST_CASE("limits of zero let nothing through") {
    RetryBudget budget;
    CHECK(taken(budget, kStart, 1'000'000, {.share = 0, .per_second = 0}) == 0);
  }
}
