#include "pool/protection.h"

#include <doctest/doctest.h>

using namespace pool;
using namespace std::chrono_literals;

namespace {

// Ten looks a second.
struct Process {
  void look(const Signs& signs, int times = 1) {
    for (int i = 0; i < times; ++i) {
      now += 100ms;
      (void)protection.look(now, signs, {});
    }
  }
  Protection protection;
  Instant now = Instant(1h);
};

}  // namespace

TEST_SUITE("pool/protection") {
  TEST_CASE("one late turn changes nothing, three on end do") {
    Process p;
    p.look({.loop_delay = 30ms});
    p.look({});
    p.look({.loop_delay = 30ms}, 2);
    CHECK(p.protection.level() == 0);
    p.look({.loop_delay = 300ms});
    CHECK(p.protection.level() == 1);  // the least that all three asked for
    CHECK(p.protection.why() == Strain::loop_delay);
  }

  TEST_CASE("the level follows how late the loop is, and the limit itself is not late") {
    Process p;
    p.look({.loop_delay = 20ms}, 10);
    CHECK(p.protection.level() == 0);
    p.look({.loop_delay = 41ms}, 3);
    CHECK(p.protection.level() == 2);
    p.look({.loop_delay = 101ms}, 3);
    CHECK(p.protection.level() == 3);
  }

  TEST_CASE("memory is believed at once") {
    Process p;
    p.look({.memory_percent = 69});
    CHECK(p.protection.level() == 0);
    p.look({.memory_percent = 70});
    CHECK(p.protection.level() == 2);
    p.look({.memory_percent = 90});
    CHECK(p.protection.level() == 4);
    CHECK(p.protection.why() == Strain::memory);
  }

  TEST_CASE("a level is left one by one, each after a calm time, and a new sign begins it anew") {
    Process p;
    p.look({.memory_percent = 95});
    p.look({}, 19);
    CHECK(p.protection.level() == 4);
    p.look({});
    CHECK(p.protection.level() == 3);
    p.look({}, 19);
    p.look({.loop_delay = 200ms});
    p.look({}, 19);
    CHECK(p.protection.level() == 3);
    p.look({}, 100);
    CHECK(p.protection.level() == 0);
    CHECK(p.protection.why() == Strain::none);
  }

  TEST_CASE("replicas that are out cost sheddable statements, from the share that is configured, and 0 never does") {
    Process p;
    p.look({.replicas_out = 49}, 10);
    CHECK(p.protection.level() == 0);
    p.look({.replicas_out = 50}, 2);
    CHECK(p.protection.level() == 0);
    p.look({.replicas_out = 50});
    CHECK(p.protection.level() == 1);
    CHECK(p.protection.why() == Strain::replicas_out);
    p.look({.replicas_out = 100}, 100);
    CHECK(p.protection.level() == 1);
    p.look({}, 20);
    CHECK(p.protection.level() == 0);
    Protection deaf;
    for (int i = 1; i < 10; ++i) (void)deaf.look(Instant(i * 100ms), {.replicas_out = 100}, {.replicas_out = 0});
    CHECK(deaf.level() == 0);
  }

  TEST_CASE("queues cost sheddable statements only") {
    Process p;
    p.look({.queues_overloaded = true}, 3);
    CHECK(p.protection.level() == 1);
    CHECK(p.protection.why() == Strain::queues);
    CHECK(lowest_served(1) == Priority::low);
    CHECK_FALSE(may_run_again(1));
    CHECK(lowest_served(0) == Priority::sheddable);
    CHECK(lowest_served(2) == Priority::high);
    CHECK(lowest_served(3) == Priority::high);
    CHECK(lowest_served(4) == Priority::critical);
    CHECK_FALSE(lets_in(4));
  }

  TEST_CASE("a level gives up what those below it do, and from the third on eventual reads may be twice as late") {
    for (int level = 0; level <= kMaxProtection; ++level) {
      CAPTURE(level);
      CHECK(lowest_served(level) == (level == 0   ? Priority::sheddable
                                     : level == 1 ? Priority::low
                                     : level < 4  ? Priority::high
                                                  : Priority::critical));
      CHECK(may_run_again(level) == (level == 0));
      CHECK(lag_tolerance(level) == (level < 3 ? 1 : 2));
      CHECK(lets_in(level) == (level < 4));
    }
  }
}
