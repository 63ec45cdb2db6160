#include "metrics/counter.h"
#include "metrics/name_numbers.h"

#include <doctest/doctest.h>

namespace {
enum class Colour : std::uint8_t { red, green };
}

TEST_SUITE("metrics/counter") {
  TEST_CASE("a counter starts at zero and adds up") {
    metrics::Counter counter;
    CHECK(counter.read() == 0);
    counter.add();
    counter.add(41);
    CHECK(counter.read() == 42);
  }

  TEST_CASE("a gauge goes up, down and below zero") {
    metrics::Gauge gauge;
    gauge.add(2);
    gauge.add(-5);
    CHECK(gauge.read() == -3);
    gauge.set(7);
    CHECK(gauge.read() == 7);
  }

  TEST_CASE("a name keeps its number; what comes when all are taken is called other") {
    metrics::NameNumbers numbers;
    CHECK(numbers.name(0) == "");
    CHECK(numbers.number("a") == 1);
    CHECK(numbers.number("b") == 2);
    CHECK(numbers.number("a") == 1);
    CHECK(numbers.name(2) == "b");
    CHECK(numbers.name(3) == "");
    CHECK(numbers.name(metrics::NameNumbers::kOther) == "");
    for (int i = 0; i < 1000; ++i) CHECK(numbers.number(std::to_string(i)) < metrics::CounterArray::kCapacity);
    CHECK(numbers.number("late") == metrics::NameNumbers::kOther);
    CHECK(numbers.name(metrics::NameNumbers::kOther) == "other");
    CHECK(numbers.number("b") == 2);
  }

  TEST_CASE("an array counts each enumerator apart") {
    metrics::CounterArray counts;
    counts.add(Colour::green);
    counts.add(Colour::green, 2);
    counts.add(metrics::CounterArray::kCapacity - 1);
    CHECK(counts.read(static_cast<std::size_t>(Colour::red)) == 0);
    CHECK(counts.read(static_cast<std::size_t>(Colour::green)) == 3);
    CHECK(counts.read(metrics::CounterArray::kCapacity - 1) == 1);
  }
}
