#include "pool/fair_queue.h"

#include <doctest/doctest.h>

#include <deque>
#include <map>
#include <string>
#include <vector>

#include "pool/pool.h"
#include "tests/support/rng.h"

using namespace pool;
using namespace std::chrono_literals;

namespace {

Instant at(conf::Millis since_start) { return Instant(1h) + since_start; }

constexpr ClassId kCritical = 0, kLow = 2, kSheddable = 3;

// A pool's queue with tenants a, b and c (numbers 0 to 2) and clients that are named when they are served.
struct Fixture {
  explicit Fixture(std::map<std::string, conf::ClassSettings> said = {}) {
    conf::Settings settings{};
    settings.classes = std::move(said);
    classes = ClassRegistry(settings).table();
    for (std::uint16_t number = 0; number < 3; ++number) tenants[number].number = number;
  }
  ~Fixture() {
    while (Waiter* waiter = queue().any()) queue().remove(*waiter);
  }
  struct Client : Waiter {
    std::string name;
  };
  Client& wait(std::string name, ClassId service_class, int tenant, conf::Millis when) {
    clients.emplace_back();
    clients.back().name = std::move(name);
    clients.back().waiting_since = at(when);
    queue().enqueue(clients.back(), service_class, tenants[tenant], *classes, at(when));
    return clients.back();
  }
  std::string take(conf::Millis when) {
    Waiter* waiter = queue().take(at(when), *classes);
    return waiter == nullptr ? "" : static_cast<Client*>(waiter)->name;
  }
  std::string late() {
    std::string names;
    while (Waiter* waiter = queue().next_late()) {
      names += static_cast<Client*>(waiter)->name + " ";
      queue().remove(*waiter);
    }
    return names;
  }
  FairQueue& queue() { return pool.queue(); }

  std::shared_ptr<const ClassTable> classes;
  std::array<Tenant, 3> tenants;
  std::deque<Client> clients;
  std::shared_ptr<Budget> budget = std::make_shared<Budget>(10);
  Pool pool{{routing::NodeId{1}, "shop", "alice"}, budget};
};

conf::ClassSettings with_target(conf::Millis target, conf::Millis interval) {
  conf::ClassSettings said;
  said.target = target;
  said.interval = interval;
  return said;
}

}  // namespace

TEST_SUITE("pool/fair_queue") {
  TEST_CASE("of one class and one tenant, who came first is served first") {
    Fixture f;
    CHECK(f.take(0ms).empty());
    f.wait("first", kHigh, 0, 1ms);
    f.wait("second", kHigh, 0, 2ms);
    auto& third = f.wait("third", kHigh, 0, 3ms);
    CHECK(f.queue().waiting_since() == at(1ms));
    CHECK(f.take(9ms) == "first");
    f.queue().remove(third);
    CHECK(f.queue().size() == 1);
    CHECK(f.take(9ms) == "second");
    CHECK(f.queue().waiting_since() == Instant::max());
    CHECK(f.queue().empty());
  }

  TEST_CASE("critical statements go before all others, whoever came first") {
    Fixture f;
    f.wait("high", kHigh, 0, 1ms);
    f.wait("low", kLow, 0, 1ms);
    f.wait("critical", kCritical, 1, 5ms);
    CHECK(f.queue().urgency(*f.classes) < at(0ms));
    CHECK(f.take(9ms) == "critical");
    CHECK(f.take(9ms) == "high");
    CHECK(f.take(9ms) == "low");
  }

  TEST_CASE("high, low and sheddable share the servers' time as 16 to 4 to 1") {
    Fixture f;
    std::map<std::string, int> served;
    const auto refill = [&f](const char* name, ClassId id) { f.wait(name, id, 0, 0ms); };
    for (int i = 0; i < 5; ++i) {
      refill("high", kHigh);
      refill("low", kLow);
      refill("sheddable", kSheddable);
    }
    for (int i = 0; i < 2100; ++i) {
      const std::string who = f.take(0ms);
      ++served[who];
      refill(who.c_str(), who == "high" ? kHigh : who == "low" ? kLow : kSheddable);
    }
    CHECK(served["high"] == doctest::Approx(1600).epsilon(0.02));
    CHECK(served["low"] == doctest::Approx(400).epsilon(0.02));
    CHECK(served["sheddable"] == doctest::Approx(100).epsilon(0.05));
  }

  TEST_CASE(
      "tenants share the servers' time by weight, whatever their statements cost and however many wait") {
    auto random = support::rng(11);
    for (int round = 0; round < 20; ++round) {
      Fixture f;
      std::array<std::int64_t, 3> used{};
      std::int64_t weights = 0;
      for (Tenant& tenant : f.tenants) {
        tenant.cost = static_cast<std::int64_t>(random() % 50'000 + 1);
        tenant.weight = static_cast<std::int64_t>(random() % 5 + 1);
        weights += tenant.weight;
      }
      for (int i = 0; i < 100; ++i) f.wait("0", kHigh, 0, 0ms);  // it comes with a crowd
      for (int i = 0; i < 3; ++i) f.wait("1", kHigh, 1, 0ms);
      for (int i = 0; i < 3; ++i) f.wait("2", kHigh, 2, 0ms);
      std::int64_t all = 0;
      for (int i = 0; i < 20'000; ++i) {
        const std::string who = f.take(0ms);
        const int tenant = who[0] - '0';
        used[static_cast<std::size_t>(tenant)] += f.tenants[static_cast<std::size_t>(tenant)].cost;
        all += f.tenants[static_cast<std::size_t>(tenant)].cost;
        f.wait(who, kHigh, tenant, 0ms);
      }
      for (std::size_t tenant = 0; tenant < 3; ++tenant) {
        CAPTURE(tenant);
        const double share = static_cast<double>(used[tenant]) / static_cast<double>(all);
        const double due = static_cast<double>(f.tenants[tenant].weight) / static_cast<double>(weights);
        CHECK(share == doctest::Approx(due).epsilon(0.1));
      }
    }
  }

  TEST_CASE("a tenant's long statements get no more than its share beside many that ask one at a time") {
    Fixture f;
    f.tenants[0].cost = 600'000;
    f.tenants[1].cost = f.tenants[2].cost = 100'000;
    for (int i = 0; i < 100; ++i) f.wait("0", kHigh, 0, 0ms);
    f.wait("1", kHigh, 1, 0ms);
    f.wait("2", kHigh, 2, 0ms);
    std::array<int, 3> served{};
    for (int i = 0; i < 13 * 20; ++i) {
      const std::string who = f.take(0ms);
      ++served[static_cast<std::size_t>(who[0] - '0')];
      if (who != "0") f.wait(who, kHigh, who[0] - '0', 0ms);
    }
    CHECK(served[0] == 20);
    CHECK(served[1] == 120);
    CHECK(served[2] == 120);
  }

  TEST_CASE("what is ahead of one more statement is its tenant's own, and of others what their shares let before it") {
    Fixture f;
    f.tenants[0].cost = 1000;
    f.tenants[1].cost = 5000;
    CHECK(f.queue().ahead_of(kHigh, f.tenants[0]) == 1000);
    for (int i = 0; i < 3; ++i) f.wait("own", kHigh, 0, 0ms);
    CHECK(f.queue().ahead_of(kHigh, f.tenants[0]) == 4000);
    for (int i = 0; i < 100; ++i) f.wait("crowd", kHigh, 1, 0ms);
    CHECK(f.queue().ahead_of(kHigh, f.tenants[0]) == 8000);
    CHECK(f.queue().ahead_of(kHigh, f.tenants[2]) == 3 * 1000);  // its first: each of the others as much
    f.tenants[1].weight = 3;
    CHECK(f.queue().ahead_of(kHigh, f.tenants[0]) == 4000 + 12'000);
    CHECK(f.queue().ahead_of(kHigh, f.tenants[1]) == 101 * 5000 + 3000);  // all that the small one has
    CHECK(f.queue().ahead_of(kLow, f.tenants[1]) == 5000);
  }

  TEST_CASE("what a tenant has used is forgotten when nobody waits any more") {
    Fixture f;
    f.tenants[0].cost = 600'000'000;
    f.wait("much", kHigh, 0, 0ms);
    CHECK(f.take(0ms) == "much");
    for (int i = 0; i < 5; ++i) f.wait("other", kHigh, 1, 1ms);
    f.wait("much", kHigh, 0, 1ms);
    CHECK(f.take(1ms) == "other");
    CHECK(f.take(1ms) == "much");
  }

  TEST_CASE("who was at its ceiling has no claim on what others used meanwhile") {
    Fixture f;
    f.tenants[0].ceiling = 10;
    Slots& slots = f.budget->slots();
    slots.take(Priority::high, 0);
    const FairQueue::Ceilings ceilings = f.pool.ceilings();
    const auto who = [&f, &ceilings] {
      return static_cast<Fixture::Client*>(f.queue().take(at(1ms), *f.classes, &ceilings))->name;
    };
    for (int i = 0; i < 10; ++i) f.wait("held", kHigh, 0, 0ms);
    for (int i = 0; i < 60; ++i) f.wait("other", kHigh, 1, 0ms);
    for (int i = 0; i < 50; ++i) CHECK(who() == "other");
    slots.give_back(Priority::high, 0);
    int held = 0;
    for (int i = 0; i < 10; ++i) held += who() == "held";
    CHECK(held <= 6);
  }

  TEST_CASE("a tenant that comes beside a crowd is served within one turn, not behind it") {
    Fixture f;
    for (int i = 0; i < 1000; ++i) f.wait("crowd", kHigh, 0, 0ms);
    for (int i = 0; i < 7; ++i) CHECK(f.take(1ms) == "crowd");
    f.wait("one", kHigh, 1, 2ms);
    int before = 0;
    while (f.take(2ms) == "crowd") ++before;
    CHECK(before <= 2);
  }

  TEST_CASE("a class that has waited for nothing has no claim on what others used meanwhile") {
    Fixture f;
    for (int i = 0; i < 1000; ++i) f.wait("high", kHigh, 0, 0ms);
    for (int i = 0; i < 900; ++i) (void)f.take(0ms);
    for (int i = 0; i < 50; ++i) f.wait("low", kLow, 0, 0ms);
    int low = 0;
    for (int i = 0; i < 40; ++i) low += f.take(0ms) == "low";
    CHECK(low == doctest::Approx(8).epsilon(0.3));
  }

  TEST_CASE(
      "a queue that stands refuses those who have waited twice the target, and serves the newest first") {
    Fixture f({{"high", with_target(10ms, 100ms)}});
    // Every millisecond one comes, every 2 ms one is served: the queue grows.
    std::size_t refused = 0, number = 0;
    bool newest = false;
    for (conf::Millis now = 0ms; now < 1000ms; now += 1ms) {
      f.wait(std::to_string(number++), kHigh, 0, now);
      if (now.count() % 2 == 1) {
        const std::string who = f.take(now);
        if (now > 500ms && !who.empty()) newest |= std::stoul(who) + 1 == number;
      }
      if (now.count() % 10 == 0) f.queue().sweep(at(now), *f.classes);
      while (Waiter* late = f.queue().next_late()) {
        f.queue().remove(*late);
        ++refused;
      }
      if (now > 300ms) CHECK(at(now) - f.queue().waiting_since() <= 31ms);
    }
    CHECK(refused > 300);
    CHECK(newest);
    CHECK(f.queue().overloaded(*f.classes));
  }

  TEST_CASE("a queue that fills and drains refuses nobody, however long some wait") {
    Fixture f({{"high", with_target(10ms, 100ms)}});
    for (int burst = 0; burst < 20; ++burst) {
      const conf::Millis start = burst * 60ms;
      for (int i = 0; i < 40; ++i) f.wait("some", kHigh, 0, start);
      for (int i = 0; i < 40; ++i) CHECK(f.take(start + i * 1ms) == "some");
    }
    f.queue().sweep(at(2s), *f.classes);
    CHECK(f.late().empty());
  }

  TEST_CASE("a queue from which nobody is taken is swept all the same, and calms down when it is served") {
    Fixture f({{"high", with_target(10ms, 100ms)}});
    f.wait("first", kHigh, 0, 0ms);
    conf::Millis now = 0ms;
    for (; now <= 250ms; now += 10ms) {
      f.queue().sweep(at(now), *f.classes);
      if (now < 150ms) CHECK(f.late().empty());
    }
    CHECK(f.late() == "first ");
    for (; now < 600ms; now += 10ms) {
      f.wait("quick", kHigh, 0, now);
      CHECK(f.take(now + 1ms) == "quick");
    }
    f.wait("last", kHigh, 0, now);
    f.queue().sweep(at(now + 30ms), *f.classes);
    CHECK(f.late().empty());
  }

  TEST_CASE("a deadline holds without any overload, and the late ones leave like others") {
    conf::ClassSettings said;
    said.deadline = 50ms;
    Fixture f({{"high", said}});
    f.wait("old", kHigh, 0, 0ms);
    f.wait("older client", kHigh, 0, 1ms);
    f.wait("new", kHigh, 0, 40ms);
    CHECK(f.take(60ms) == "new");
    CHECK(f.queue().size() == 2);
    CHECK(f.late() == "old older client ");
    CHECK(f.queue().empty());
  }

  TEST_CASE("without targets and deadlines nobody is ever late") {
    Fixture f;
    f.wait("patient", kHigh, 0, 0ms);
    f.queue().sweep(at(24h), *f.classes);
    CHECK(f.late().empty());
    CHECK(f.take(24h) == "patient");
  }

  TEST_CASE("one tenant's standing queue costs its neighbour nothing") {
    Fixture f({{"high", with_target(10ms, 100ms)}});
    std::size_t late_neighbours = 0;
    for (conf::Millis now = 0ms; now < 2000ms; now += 1ms) {
      f.wait("crowd", kHigh, 0, now);
      f.wait("crowd", kHigh, 0, now);
      if (now.count() % 5 == 0) f.wait("neighbour", kHigh, 1, now);
      (void)f.take(now);
      if (now.count() % 10 == 0) f.queue().sweep(at(now), *f.classes);
      late_neighbours += f.late().find("neighbour") != std::string::npos;
    }
    CHECK(late_neighbours == 0);
  }

  TEST_CASE("whom a ceiling holds back is passed over, and comes when there is room") {
    Fixture f;
    Slots& slots = f.budget->slots();
    for (int i = 0; i < 8; ++i) slots.take(Priority::low, 0);  // of 10; low may have 80 %
    const FairQueue::Ceilings ceilings = f.pool.ceilings();
    f.wait("low", kLow, 0, 0ms);
    CHECK_FALSE(f.queue().has_turn(*f.classes, &ceilings));
    CHECK(f.queue().take(at(1ms), *f.classes, &ceilings) == nullptr);
    f.wait("high", kHigh, 0, 0ms);
    CHECK(f.queue().has_turn(*f.classes, &ceilings));
    CHECK(f.queue().take(at(1ms), *f.classes, &ceilings) == &f.clients[1]);
    slots.give_back(Priority::low, 0);
    CHECK(f.queue().take(at(1ms), *f.classes, &ceilings) == &f.clients[0]);
    while (slots.running(Priority::low) > 0) slots.give_back(Priority::low, 0);
  }

  TEST_CASE("what is kept for critical statements, and no high one may take, is not for low ones") {
    conf::ClassSettings reserve;
    reserve.ceiling = 90;
    Fixture f({{"high", reserve}});
    Slots& slots = f.budget->slots();
    for (int i = 0; i < 9; ++i) slots.take(Priority::high, 0);  // of 10
    const FairQueue::Ceilings ceilings = f.pool.ceilings();
    f.wait("high", kHigh, 0, 0ms);
    f.wait("low", kLow, 0, 0ms);
    f.wait("sheddable", kSheddable, 1, 0ms);
    CHECK_FALSE(f.queue().has_turn(*f.classes, &ceilings));
    CHECK(f.queue().take(at(1ms), *f.classes, &ceilings) == nullptr);
    f.wait("critical", kCritical, 2, 1ms);
    CHECK(f.queue().take(at(1ms), *f.classes, &ceilings) == &f.clients[3]);
    slots.give_back(Priority::high, 0);
    CHECK(f.queue().take(at(1ms), *f.classes, &ceilings) == &f.clients[0]);
    while (slots.running(Priority::high) > 0) slots.give_back(Priority::high, 0);
  }

  TEST_CASE("a class at its ceiling loses nobody's turn, however often it is passed over") {
    Fixture f;
    Slots& slots = f.budget->slots();
    for (int i = 0; i < 8; ++i) slots.take(Priority::low, 0);  // of 10; low may have 80 %
    const FairQueue::Ceilings ceilings = f.pool.ceilings();
    for (const int tenant : {2, 0, 1}) f.wait("low", kLow, tenant, 0ms);
    for (int i = 0; i < 5; ++i) {
      f.wait("high", kHigh, 0, 1ms);
      CHECK(f.queue().take(at(1ms), *f.classes, &ceilings) == &f.clients.back());
      CHECK(f.queue().take(at(1ms), *f.classes, &ceilings) == nullptr);
    }
    slots.give_back(Priority::low, 0);
    for (const std::size_t turn : {0, 1, 2})
      CHECK(f.queue().take(at(2ms), *f.classes, &ceilings) == &f.clients[turn]);
    while (slots.running(Priority::low) > 0) slots.give_back(Priority::low, 0);
  }

  TEST_CASE("a tenant at its ceiling waits although servers are left, its neighbour does not") {
    Fixture f;
    f.tenants[0].ceiling = 50;
    Slots& slots = f.budget->slots();
    for (int i = 0; i < 5; ++i) slots.take(Priority::high, 0);
    const FairQueue::Ceilings ceilings = f.pool.ceilings();
    f.wait("much", kHigh, 0, 0ms);
    f.wait("little", kHigh, 1, 0ms);
    CHECK(f.queue().take(at(1ms), *f.classes, &ceilings) == &f.clients[1]);
    CHECK(f.queue().take(at(1ms), *f.classes, &ceilings) == nullptr);
  }

  TEST_CASE("flows of tenants that are gone are forgotten when nobody waits") {
    Fixture f;
    std::deque<Tenant> many(100);
    for (std::uint16_t i = 0; i < 100; ++i) {
      many[i].number = i;
      f.clients.emplace_back();
      f.queue().enqueue(f.clients.back(), kHigh, many[i], *f.classes, at(0ms));
    }
    std::size_t flows = 0;
    f.queue().for_each_flow([&flows](const Flow&) { ++flows; });
    CHECK(flows == 100);
    for (int i = 0; i < 100; ++i) CHECK(f.queue().take(at(1ms), *f.classes) != nullptr);
    CHECK(f.queue().empty());
  }

  TEST_CASE("whoever comes, leaves, is taken or late: nobody is lost, nobody served twice") {
    auto random = support::rng(12);
    for (int run = 0; run < 30; ++run) {
      Fixture f({{"high", with_target(5ms, 50ms)}});
      std::vector<Fixture::Client*> waiting;
      conf::Millis now = 0ms;
      std::size_t come = 0, gone = 0;
      for (int event = 0; event < 2000; ++event) {
        now += conf::Millis(static_cast<std::int64_t>(random() % 3));
        switch (random() % 5) {
          case 0:
          case 1:
            waiting.push_back(&f.wait("", static_cast<ClassId>(random() % 4), static_cast<int>(random() % 3), now));
            ++come;
            break;
          case 2:
            if (Waiter* taken = f.queue().take(at(now), *f.classes)) {
              REQUIRE(std::erase(waiting, static_cast<Fixture::Client*>(taken)) == 1);
              ++gone;
            }
            break;
          case 3:
            if (!waiting.empty() && random() % 4 == 0) {
              f.queue().remove(*waiting.back());
              waiting.pop_back();
              ++gone;
            }
            break;
          case 4:
            f.queue().sweep(at(now), *f.classes);
            while (Waiter* late = f.queue().next_late()) {
              REQUIRE(std::erase(waiting, static_cast<Fixture::Client*>(late)) == 1);
              f.queue().remove(*late);
              ++gone;
            }
            break;
        }
        REQUIRE(f.queue().size() == waiting.size());
        REQUIRE(come - gone == waiting.size());
      }
    }
  }
}
