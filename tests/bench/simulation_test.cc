#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bench/simulation/report.h"
#include "tests/support/rng.h"

using namespace simulation;
using namespace std::chrono_literals;

namespace {

template <class Rows>
const auto& named(const Rows& rows, std::string_view name) {
  const auto found = std::ranges::find_if(rows, [name](const auto& row) { return row.name == name; });
  REQUIRE(found != rows.end());
  return *found;
}

Run small(std::string_view scenario, std::string_view policy, std::uint64_t seed = 1) {
  return play(named(scales(), "small"), named(policies(), policy), named(scenarios(), scenario), seed);
}

// Of a group's statements while the scenario is disturbed.
Record::Tally disturbed(const Run& run, unsigned groups) {
  const auto step = [](double seconds) { return static_cast<std::size_t>(seconds / Record::kStep); };
  return run.record.sum(step(run.scenario.from), step(run.scenario.to), groups);
}

}  // namespace

TEST_SUITE("bench/simulation") {
  TEST_CASE("events come in the order of their times, whatever the order in which they were entered") {
    auto random = support::rng(5);
    EventHeap heap;
    std::vector<std::int64_t> times;
    std::int64_t last = 0;
    for (int i = 0; i < 5'000; ++i) {
      // Taken out while others are entered, as in a play.
      if (i % 3 == 2) {
        const std::int64_t first = *std::ranges::min_element(times);
        const Event event = heap.pop();
        REQUIRE(event.at == first);
        REQUIRE(event.kind() == Event::Kind::answer);
        REQUIRE(event.generation() == event.index + 1);
        times.erase(std::ranges::find(times, first));
        last = first;
      }
      const auto at = last + static_cast<std::int64_t>(random() % 1'000);
      times.push_back(at);
      heap.push(Instant(Nanos(at)), Event::Kind::answer, static_cast<std::uint32_t>(i),
                static_cast<std::uint32_t>(i + 1));
    }
  }

  TEST_CASE("draws follow their weights and their mean") {
    Dice dice(7);
    const Lottery lottery({1, 0, 3, 4});
    std::vector<int> drawn(4);
    for (int i = 0; i < 80'000; ++i) ++drawn[lottery.draw(dice)];
    CHECK(drawn[1] == 0);
    CHECK(drawn[0] == doctest::Approx(10'000).epsilon(0.05));
    CHECK(drawn[2] == doctest::Approx(30'000).epsilon(0.05));
    const Spread gaps([](double q) { return -std::log1p(-q) * 5; });
    double sum = 0;
    for (int i = 0; i < 80'000; ++i) sum += gaps.draw(dice);
    CHECK(sum / 80'000 == doctest::Approx(1).epsilon(0.03));
  }

  TEST_CASE("the same seed gives the same play, another seed another") {
    const auto printed = [](std::uint64_t seed) {
      std::vector<Run> runs;
      runs.push_back(small("dead", "pgsluice", seed));
      return over_time(runs[0]) + compared(runs) + chart(runs);
    };
    const std::string first = printed(1);
    CHECK(first == printed(1));
    CHECK(first != printed(2));
    CHECK(first.find("high statements: pgsluice") != first.npos);
    CHECK(first.find("</svg>") != first.npos);
  }

  TEST_CASE("issue 5: half of the replicas are lost, and 5 s after their return goodput is back at 95 %") {
    const Run run = small("half", "pgsluice");
    const auto after = recovery(run);
    REQUIRE(after.has_value());
    CHECK(*after <= 5);
    // And it was a loss.
    CHECK(disturbed(run, Record::kEverybody).success() < 0.9);
  }

  TEST_CASE("one tenant's flood: the others keep what they have with a fair queue, and not with a plain one") {
    const auto others = [](std::string_view policy) {
      return disturbed(small("neighbour", policy), 1U << static_cast<unsigned>(conf::Priority::high));
    };
    CHECK(others("pgsluice").success() > 3 * others("plain").success());
  }

  TEST_CASE("slow replicas: two choices keep P99 below what taking turns gives") {
    const Record::Tally two = disturbed(small("slow", "pgsluice"), Record::kOthers);
    CHECK(two.success() > 0.99);
    CHECK(two.p99_ms() < disturbed(small("slow", "plain"), Record::kOthers).p99_ms());
  }

  TEST_CASE("every policy that a scenario compares is one, and the first is pgsluice's") {
    for (const Scenario& scenario : scenarios()) {
      CAPTURE(scenario.name);
      REQUIRE(!scenario.compared.empty());
      CHECK(scenario.compared.front() == policies().front().name);
      for (const std::string_view name : scenario.compared) (void)named(policies(), name);
      CHECK(scenario.to <= scenario.length);
    }
  }
}
