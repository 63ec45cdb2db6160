#include "pool/budget.h"

#include <doctest/doctest.h>

#include <atomic>
#include <latch>
#include <thread>
#include <vector>

using namespace pool;
using namespace std::chrono_literals;

namespace {

Instant at(conf::Millis since_start) { return Instant(1h) + since_start; }
constexpr Instant kNobody = Instant::max();

}  // namespace

TEST_SUITE("pool/budget") {
  TEST_CASE("rights last up to the limit, and each that comes back can be taken again") {
    Budget budget(2);
    CHECK(budget.take());
    CHECK(budget.take());
    CHECK_FALSE(budget.take());
    CHECK(budget.open() == 2);
    budget.give_back();
    CHECK(budget.open() == 1);
    CHECK(budget.take());
    CHECK_FALSE(budget.take());
  }

  TEST_CASE("a limit of nothing gives nothing") {
    Budget budget(0);
    CHECK_FALSE(budget.take());
    CHECK(budget.open() == 0);
  }

  TEST_CASE("a lower limit takes nothing away, and gives nothing until enough have come back") {
    Budget budget(3);
    for (int i = 0; i < 3; ++i) CHECK(budget.take());
    budget.set_limit(1);
    CHECK(budget.open() == 3);
    budget.give_back();
    budget.give_back();
    CHECK_FALSE(budget.take());
    budget.give_back();
    CHECK(budget.take());
    budget.set_limit(2);
    CHECK(budget.limit() == 2);
    CHECK(budget.take());
    CHECK_FALSE(budget.take());
  }

  TEST_CASE("with nobody starving a released server is handed to nobody") {
    Budget budget(1);
    CHECK_FALSE(budget.hungrier_than(0, kNobody).has_value());
    budget.feed(0);  // who does not starve may be fed all the same
    CHECK_FALSE(budget.hungrier_than(1, kNobody).has_value());
  }

  TEST_CASE("starving is news once, until the worker was fed") {
    Budget budget(1);
    CHECK(budget.starve(3, at(10ms)));
    CHECK_FALSE(budget.starve(3, at(10ms)));
    CHECK_FALSE(budget.starve(3, at(20ms)));
    budget.feed(3);
    CHECK(budget.starve(3, at(30ms)));
  }

  TEST_CASE("of those who starve, the one that starved first is the hungriest") {
    Budget budget(1);
    budget.starve(2, at(20ms));
    budget.starve(5, at(10ms));
    budget.starve(9, at(30ms));
    CHECK(budget.hungrier_than(0, kNobody) == 5);
    budget.feed(5);
    CHECK(budget.hungrier_than(0, kNobody) == 2);
    budget.feed(2);
    CHECK(budget.hungrier_than(0, kNobody) == 9);
    budget.feed(9);
    CHECK_FALSE(budget.hungrier_than(0, kNobody).has_value());
  }

  TEST_CASE("a worker does not feed itself through the budget") {
    Budget budget(1);
    budget.starve(4, at(10ms));
    CHECK_FALSE(budget.hungrier_than(4, kNobody).has_value());
    budget.starve(6, at(20ms));
    CHECK(budget.hungrier_than(4, kNobody) == 6);
  }

  TEST_CASE("only who has waited longer than our own longest waiter is hungrier than we are") {
    Budget budget(1);
    budget.starve(1, at(10ms));
    CHECK(budget.hungrier_than(0, at(11ms)) == 1);
    CHECK_FALSE(budget.hungrier_than(0, at(10ms)).has_value());
    CHECK_FALSE(budget.hungrier_than(0, at(9ms)).has_value());
  }

  TEST_CASE("a newer word about the longest waiter replaces the older one") {
    Budget budget(1);
    budget.starve(1, at(10ms));
    budget.starve(2, at(20ms));
    budget.starve(1, at(30ms));
    CHECK(budget.hungrier_than(0, kNobody) == 2);
  }

  TEST_CASE("the first moment of the clock is a moment like others") {
    Budget budget(1);
    CHECK(budget.starve(1, Instant{}));
    CHECK(budget.hungrier_than(0, kNobody) == 1);
    budget.feed(1);
    CHECK_FALSE(budget.hungrier_than(0, kNobody).has_value());
  }

  TEST_CASE("the last worker number counts as well as the first") {
    Budget budget(1);
    CHECK(budget.starve(kMaxWorkers - 1, at(1ms)));
    CHECK(budget.hungrier_than(0, kNobody) == kMaxWorkers - 1);
    CHECK(budget.starve(0, at(0ms)));
    CHECK(budget.hungrier_than(kMaxWorkers - 1, kNobody) == 0);
  }

  TEST_CASE("use is the sum of what the workers said last") {
    Budget budget(1);
    budget.report(0, {.in_use = 3, .waiting = 1});
    budget.report(7, {.in_use = 2, .waiting = 5});
    budget.report(0, {.in_use = 1, .waiting = 0});
    CHECK(budget.use().in_use == 3);
    CHECK(budget.use().waiting == 5);
  }

  TEST_CASE("threads that take and give back at once never have more than the limit together") {
    constexpr std::int64_t kLimit = 3;
    Budget budget(kLimit);
    std::atomic<std::int64_t> held{0}, most{0}, taken{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&budget, &held, &most, &taken] {
        for (int round = 0; round < 20'000; ++round) {
          if (!budget.take()) continue;
          const std::int64_t now = held.fetch_add(1) + 1;
          std::int64_t seen = most.load();
          while (now > seen && !most.compare_exchange_weak(seen, now)) {
          }
          taken.fetch_add(1);
          if (round % 64 == 0) std::this_thread::yield();
          held.fetch_sub(1);
          budget.give_back();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(most.load() <= kLimit);
    CHECK(taken.load() > 0);
    CHECK(budget.open() == 0);
  }

  TEST_CASE("threads that only take share the limit exactly") {
    // Long enough for the threads to be at it together.
    constexpr std::int64_t kLimit = 500'000;
    Budget budget(kLimit);
    std::atomic<std::int64_t> taken{0};
    std::latch all_there(4);
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&budget, &taken, &all_there] {
        std::int64_t mine = 0;
        all_there.arrive_and_wait();
        while (budget.take()) ++mine;
        taken.fetch_add(mine);
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(taken.load() == kLimit);
    CHECK(budget.open() == kLimit);
  }

  TEST_CASE("workers that starve and are fed at once leave nobody marked") {
    Budget budget(1);
    std::vector<std::thread> threads;
    for (std::size_t worker = 0; worker < 4; ++worker) {
      threads.emplace_back([&budget, worker] {
        for (int round = 0; round < 20'000; ++round) {
          budget.starve(worker, at(conf::Millis(round)));
          if (const auto hungry = budget.hungrier_than(worker, kNobody)) budget.feed(*hungry);
          budget.feed(worker);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK_FALSE(budget.hungrier_than(9, kNobody).has_value());
    // The count of the starving is zero too: the next one is found.
    CHECK(budget.starve(0, at(1ms)));
    CHECK(budget.hungrier_than(9, kNobody) == 0);
    budget.feed(0);
    CHECK_FALSE(budget.hungrier_than(9, kNobody).has_value());
  }
}

TEST_SUITE("pool/budget registry") {
  TEST_CASE("one key has one budget, and the newest limit") {
    BudgetRegistry registry;
    const PoolKey key{routing::NodeId{1}, "shop", "alice"};
    const auto first = registry.find(key, {.pool = 5});
    CHECK(first->take());
    const auto again = registry.find(key, {.pool = 9});
    CHECK(again == first);
    CHECK(first->limit() == 9);
    CHECK(first->open() == 1);
  }

  TEST_CASE("another node, database or user is another budget") {
    BudgetRegistry registry;
    const auto one = registry.find({routing::NodeId{1}, "shop", "alice"}, {.pool = 5});
    CHECK(registry.find({routing::NodeId{2}, "shop", "alice"}, {.pool = 5}) != one);
    CHECK(registry.find({routing::NodeId{1}, "mall", "alice"}, {.pool = 5}) != one);
    CHECK(registry.find({routing::NodeId{1}, "shop", "bob"}, {.pool = 5}) != one);
    CHECK(registry.all().size() == 4);
  }

  TEST_CASE("workers that ask at once get the same budget") {
    BudgetRegistry registry;
    std::vector<std::shared_ptr<Budget>> got(4);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < got.size(); ++i)
      threads.emplace_back([&registry, &got, i] {
        for (int round = 0; round < 500; ++round)
          got[i] = registry.find({routing::NodeId{1}, "shop", std::to_string(round)}, {.pool = 5});
      });
    for (std::thread& thread : threads) thread.join();
    CHECK(registry.all().size() == 500);
    for (const auto& budget : got) CHECK(budget == got[0]);
  }

  TEST_CASE("a quota gives up to its limit, and everything when it has none") {
    Quota quota;
    for (int i = 0; i < 100; ++i) CHECK(quota.take());
    CHECK_FALSE(quota.full());
    quota.set_limit(101);
    CHECK(quota.take());
    CHECK_FALSE(quota.take());
    CHECK(quota.full());
    CHECK_FALSE(quota.exceeded());
    quota.set_limit(100);
    CHECK(quota.exceeded());
    quota.give_back();
    CHECK_FALSE(quota.take());
    quota.give_back();
    CHECK(quota.take());
    CHECK_FALSE(quota.take());
  }

  TEST_CASE("a server counts for its node, its database and its user there; the limit that is full is named") {
    BudgetRegistry registry;
    const ServerLimits limits{.pool = 3, .node = 5, .database = 4, .user = 2};
    const auto node = [](std::uint16_t number) { return static_cast<routing::NodeId>(number); };
    const auto shop_app = registry.find({node(1), "shop", "app"}, limits);
    const auto shop_web = registry.find({node(1), "shop", "web"}, limits);
    const auto shop_job = registry.find({node(1), "shop", "job"}, limits);
    const auto blog_app = registry.find({node(1), "blog", "app"}, limits);
    const auto blog_web = registry.find({node(1), "blog", "web"}, limits);
    const auto elsewhere = registry.find({node(2), "shop", "app"}, limits);
    ServerLimit full = ServerLimit::count_;
    CHECK(shop_app->take(&full));
    CHECK(shop_app->take(&full));
    CHECK_FALSE(shop_app->take(&full));
    CHECK(full == ServerLimit::user);
    CHECK(shop_app->open() == 2);  // what was taken on the way has been given back
    CHECK_FALSE(blog_app->take(&full));
    CHECK(full == ServerLimit::user);
    CHECK(shop_web->take(&full));
    CHECK(shop_web->take(&full));
    CHECK_FALSE(shop_job->take(&full));
    CHECK(full == ServerLimit::database);
    CHECK(shop_app->shared(ServerLimit::database)->full());
    CHECK(elsewhere->take(&full));  // limits are each node's
    shop_web->give_back();
    CHECK(blog_web->take(&full));
    CHECK(shop_job->take(&full));
    const auto blog_job = registry.find({node(1), "blog", "job"}, limits);
    CHECK_FALSE(blog_job->take(&full));
    CHECK(full == ServerLimit::node);
    CHECK_FALSE(blog_job->shared_exceeded());
    (void)registry.find({node(1), "shop", "app"}, {.pool = 3, .node = 4, .database = 4, .user = 2});
    CHECK(blog_job->shared_exceeded());
    CHECK(registry.find({node(3), "shop", "app"}) == nullptr);
    CHECK(registry.find({node(2), "shop", "app"}) == elsewhere);
  }

  TEST_CASE("what keeps a pool filled takes no more than its minimum, and never more than the limit") {
    Budget budget(3);
    CHECK(budget.take_below(2));
    CHECK(budget.take_below(2));
    CHECK_FALSE(budget.take_below(2));
    CHECK(budget.take());
    budget.set_limit(1);
    CHECK_FALSE(budget.take_below(10));
    CHECK(budget.open() == 3);
  }

  TEST_CASE("shared limits hold exactly, however many threads take and give back") {
    BudgetRegistry registry;
    std::vector<std::shared_ptr<Budget>> budgets;
    for (const char* user : {"a", "b", "c", "d"})
      budgets.push_back(registry.find({static_cast<routing::NodeId>(1), "shop", user},
                                      {.pool = 10, .node = 7, .database = 5}));
    std::atomic<std::int64_t> most{0};
    std::vector<std::thread> threads;
    for (const auto& budget : budgets)
      threads.emplace_back([&most, budget] {
        for (int i = 0; i < 5000; ++i) {
          if (!budget->take()) continue;
          const std::int64_t open = budget->shared(ServerLimit::database)->open();
          std::int64_t before = most;
          while (open > before && !most.compare_exchange_weak(before, open)) {
          }
          budget->give_back();
        }
      });
    for (std::thread& thread : threads) thread.join();
    CHECK(most <= 5);
    CHECK(most >= 1);
    for (const auto& budget : budgets) CHECK(budget->open() == 0);
    CHECK(budgets[0]->shared(ServerLimit::node)->open() == 0);
    CHECK(budgets[0]->shared(ServerLimit::database)->open() == 0);
  }
}
