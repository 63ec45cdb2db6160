#include "proxy/log.h"

#include <doctest/doctest.h>

TEST_SUITE("proxy/log") {
  TEST_CASE("an event that comes again and again is logged once in ten seconds, with how many were left out") {
    using namespace std::chrono_literals;
    proxy::SeldomLog log;
    const conf::Instant start{};
    CHECK(log.due(start) == "");
    for (int i = 1; i < 100; ++i) CHECK(!log.due(start + i * 100ms));
    CHECK(log.due(start + 10s) == " (and 99 times before that)");
    CHECK(!log.due(start + 19s));
    CHECK(log.due(start + 21s) == " (and 1 times before that)");
    CHECK(log.due(start + 40s) == "");
  }
}
