#include "pool/admission.h"

#include <doctest/doctest.h>

#include <set>
#include <thread>

using namespace pool;
using namespace std::chrono_literals;

namespace {

Instant at(Nanos since_start) { return Instant(1h) + since_start; }

conf::Settings with(const conf::TenantLimits& standard,
                    std::map<std::string, conf::TenantLimits> tenants = {}) {
  conf::Settings settings{};
  settings.tenant_default = standard;
  settings.tenants = std::move(tenants);
  return settings;
}

using Answer = Admission::Answer;

}  // namespace

TEST_SUITE("pool/admission") {
  TEST_CASE("over ten seconds no more is admitted than rate and burst allow, and no less") {
    for (const std::int64_t rate : {1, 3, 7, 100, 999, 12'345}) {
      for (const std::int64_t burst : {1, 2, 10, 500}) {
        CAPTURE(rate);
        CAPTURE(burst);
        Gcra bucket;
        std::int64_t admitted = 0;
        Instant now = at(0s);
        while (now < at(10s)) {
          const Nanos wait = bucket.take(now, rate, burst);
          if (wait == 0ns)
            ++admitted;
          else
            now += wait;
        }
        CHECK(admitted <= rate * 10 + burst);
        CHECK(admitted >= rate * 10 + burst - 2);
      }
    }
  }

  TEST_CASE("the wait is exact: a nanosecond earlier is refused, then admitted") {
    Gcra bucket;
    CHECK(bucket.take(at(0s), 10, 2) == 0ns);
    CHECK(bucket.take(at(0s), 10, 2) == 0ns);
    CHECK(bucket.take(at(0s), 10, 2) == 100ms);
    CHECK(bucket.take(at(100ms - 1ns), 10, 2) == 1ns);
    CHECK(bucket.take(at(100ms), 10, 2) == 0ns);
    CHECK(bucket.take(at(100ms), 10, 2) == 100ms);
  }

  TEST_CASE("a pause earns the burst and not more") {
    Gcra bucket;
    for (int i = 0; i < 5; ++i) CHECK(bucket.take(at(0s), 10, 5) == 0ns);
    int admitted = 0;
    while (bucket.take(at(1h), 10, 5) == 0ns) ++admitted;
    CHECK(admitted == 5);
  }

  TEST_CASE("extreme rates and bursts do not overflow") {
    Gcra bucket;
    constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
    CHECK(bucket.take(at(0s), 1, kMax) == 0ns);
    CHECK(bucket.take(at(0s), 1'000'000'000, kMax) == 0ns);
    CHECK(bucket.take(at(0s), 0, 0) == 0ns);
    CHECK(Gcra().take(at(0s), 1, -5) == 0ns);
  }

  TEST_CASE("workers that ask at once share one bucket without giving a cell twice") {
    constexpr std::int64_t kRate = 1000, kBurst = 100;
    Gcra bucket;
    std::atomic<std::int64_t> admitted{0};
    std::vector<std::thread> workers;
    for (int w = 0; w < 4; ++w) {
      workers.emplace_back([&bucket, &admitted] {
        // Every worker walks through the same ten virtual seconds, at its own pace.
        for (std::int64_t ms = 0; ms < 10'000; ++ms)
          for (int i = 0; i < 3; ++i)
            if (bucket.take(at(Millis(ms)), kRate, kBurst) == 0ns) ++admitted;
      });
    }
    for (std::thread& worker : workers) worker.join();
    CHECK(admitted <= kRate * 10 + kBurst);
    CHECK(admitted >= kRate * 10 - 1);
  }

  TEST_CASE("workers that ask at one moment get the burst together") {
    Gcra bucket;
    std::atomic<int> admitted{0};
    std::vector<std::thread> workers;
    for (int w = 0; w < 4; ++w) {
      workers.emplace_back([&bucket, &admitted] {
        for (int i = 0; i < 10'000; ++i)
          if (bucket.take(at(0s), 1, 5000) == 0ns) ++admitted;
      });
    }
    for (std::thread& worker : workers) worker.join();
    CHECK(admitted == 5000);
  }

  TEST_CASE("without limits everything is admitted, and counted") {
    TenantRegistry registry(with({}));
    Tenant& tenant = registry.find("shop");
    for (int i = 0; i < 1000; ++i)
      CHECK(admit(tenant, at(0s), at(0s), 100ms).answer == Answer::admit);
    CHECK(tenant.running == 1000);
    for (int i = 0; i < 1000; ++i) leave(tenant);
    CHECK(tenant.running == 0);
  }

  TEST_CASE("over the rate a statement waits when that helps in time, else it is refused at once") {
    TenantRegistry registry(with({.rate = 10, .burst = 1}));
    Tenant& tenant = registry.find("shop");
    CHECK(admit(tenant, at(0s), at(0s), 100ms).answer == Answer::admit);

    const Admission waits = admit(tenant, at(50ms), at(50ms), 100ms);
    CHECK(waits.answer == Answer::wait);
    CHECK(waits.why == Refusal::tenant_rate);
    CHECK(waits.retry_after == 50ms);
    CHECK(waits.has_cell);

    const Admission refused = admit(tenant, at(50ms), at(0s), 99ms);
    CHECK(refused.answer == Answer::refuse);
    CHECK(refused.why == Refusal::tenant_rate);
    CHECK(refused.retry_after == 150ms);  // behind the one that waits
    CHECK_FALSE(refused.has_cell);
    CHECK(tenant.running == 1);

    CHECK(admit(tenant, at(100ms), at(50ms), 100ms, waits.has_cell).answer == Answer::admit);
    CHECK(tenant.running == 2);
  }

  TEST_CASE("who waits for the rate is served in the order of asking, not overtaken by newcomers") {
    Gcra bucket;
    CHECK(bucket.take(at(0s), 10, 1, 1s) == 0ns);
    CHECK(bucket.take(at(0s), 10, 1, 1s) == 100ms);
    CHECK(bucket.take(at(0s), 10, 1, 1s) == 200ms);
    // A newcomer at the moment when the first waiter's cell is due comes after both.
    CHECK(bucket.take(at(100ms), 10, 1, 1s) == 200ms);
    CHECK(bucket.take(at(100ms), 10, 1, 0s) == 300ms);  // not taken
    CHECK(bucket.take(at(100ms), 10, 1, 1s) == 300ms);
  }

  TEST_CASE("the concurrency cap is kept, frees itself, and costs no cell of the rate") {
    TenantRegistry registry(with({.rate = 10, .burst = 2, .concurrency = 1}));
    Tenant& tenant = registry.find("shop");
    CHECK(admit(tenant, at(0s), at(0s), 100ms).answer == Answer::admit);
    const Admission waits = admit(tenant, at(0s), at(0s), 100ms);
    CHECK(waits.answer == Answer::wait);
    CHECK(waits.why == Refusal::tenant_concurrency);
    CHECK(waits.retry_after > 0ms);
    CHECK(admit(tenant, at(99ms), at(0s), 100ms).retry_after == 1ms);
    const Admission refused = admit(tenant, at(100ms), at(0s), 100ms);
    CHECK(refused.answer == Answer::refuse);
    CHECK(refused.why == Refusal::tenant_concurrency);
    CHECK(admit(tenant, at(0s), at(0s), 0ms).answer == Answer::refuse);
    leave(tenant);
    CHECK(admit(tenant, at(0s), at(0s), 0ms).answer == Answer::admit);
  }

  TEST_CASE("workers never exceed the concurrency cap together") {
    TenantRegistry registry(with({.concurrency = 3}));
    Tenant& tenant = registry.find("shop");
    std::atomic<int> inside{0}, most{0};
    std::vector<std::thread> workers;
    for (int w = 0; w < 4; ++w) {
      workers.emplace_back([&tenant, &inside, &most] {
        for (int i = 0; i < 20'000; ++i) {
          if (admit(tenant, at(0s), at(0s), 0ms).answer != Answer::admit) continue;
          const int here = ++inside;
          for (int seen = most; seen < here && !most.compare_exchange_weak(seen, here);) {
          }
          if (i % 16 == 0) std::this_thread::yield();
          --inside;
          leave(tenant);
        }
      });
    }
    for (std::thread& worker : workers) worker.join();
    CHECK(most <= 3);
    CHECK(tenant.running == 0);
  }

  TEST_CASE("one name is one tenant; each has its number, and 0 is other") {
    TenantRegistry registry(with({.rate = 100}, {{"big", {.rate = 5000, .burst = 7}}}));
    CHECK(&registry.find("shop") == &registry.find("shop"));
    CHECK(&registry.find("shop") != &registry.find("blog"));
    CHECK(registry.find("other").number == 0);
    CHECK(&registry.find("") == &registry.find("other"));
    CHECK(registry.find("big").number == 1);
    CHECK(registry.find("big").rate == 5000);
    CHECK(registry.find("big").burst == 7);
    CHECK(registry.find("shop").rate == 100);
    CHECK(registry.find("shop").burst == 10);  // a tenth of a second's worth

    const auto all = registry.all();
    REQUIRE(all.size() == 4);
    for (std::size_t i = 0; i < all.size(); ++i) CHECK(all[i]->number == i);
    CHECK(all[0]->name == "other");
  }

  TEST_CASE("a burst is at least one statement") {
    TenantRegistry registry(with({.rate = 3}));
    CHECK(registry.find("shop").burst == 1);
  }

  TEST_CASE(
      "promise 6: requirement 38: the clients of one user cannot take all numbers of tenants by "
      "inventing names") {
    TenantRegistry registry(with({.rate = 100}, {{"gold", {.rate = 5000}}}));
    for (int i = 0; i < 5000; ++i) registry.find("made up " + std::to_string(i), "eve");
    CHECK(registry.all().size() == 2 + TenantRegistry::kMaxNamedByUser);
    CHECK(&registry.find("one more", "eve") == &registry.find("other"));
    CHECK(registry.find("gold", "eve").rate == 5000);  // known names stay known
    CHECK(registry.find("made up 7", "eve").name == "made up 7");
    CHECK(registry.find("one more", "bob").name == "one more");
    CHECK(registry.find("one more", "eve").name == "one more");
    CHECK(&registry.find("", "eve") == &registry.find("other"));
  }

  TEST_CASE("requirement 38: invented names do not grow memory: past the limit they share one tenant") {
    TenantRegistry registry(with({.rate = 100}));
    std::set<std::uint16_t> numbers;
    for (int i = 0; i < 5000; ++i) numbers.insert(registry.find("t" + std::to_string(i)).number);
    CHECK(registry.all().size() == TenantRegistry::kMaxTenants);
    CHECK(numbers.size() == TenantRegistry::kMaxTenants);
    CHECK(*numbers.rbegin() == TenantRegistry::kMaxTenants - 1);
    CHECK(&registry.find("t4999") == &registry.find("other"));
    CHECK(&registry.find("t0") != &registry.find("other"));
  }

  TEST_CASE("a reload changes limits in place, forgives debts only where they changed") {
    TenantRegistry registry(with({.rate = 1, .burst = 1}, {{"big", {.rate = 1, .burst = 1}}}));
    Tenant& shop = registry.find("shop");
    Tenant& big = registry.find("big");
    CHECK(admit(shop, at(0s), at(0s), 0ms).answer == Answer::admit);
    CHECK(admit(big, at(0s), at(0s), 0ms).answer == Answer::admit);
    registry.reload(with({.rate = 1, .burst = 1}, {{"big", {.rate = 1000}}, {"new", {.rate = 9}}}));
    CHECK(admit(shop, at(1ms), at(1ms), 0ms).answer == Answer::refuse);
    CHECK(admit(big, at(1ms), at(1ms), 0ms).answer == Answer::admit);
    CHECK(big.burst == 100);
    CHECK(registry.find("new").rate == 9);
    registry.reload(with({}));
    CHECK(admit(shop, at(2ms), at(2ms), 0ms).answer == Answer::admit);
    CHECK(shop.rate == 0);
  }

  TEST_CASE("servers' time is paid after the fact: what one statement overdraws the next waits for") {
    TimeBucket bucket;
    CHECK(bucket.wait(at(0s), 500, 200) == 0ns);
    bucket.pay(at(1s), 100ms, 500);
    CHECK(bucket.wait(at(1s), 500, 200) == 0ns);  // within the burst
    bucket.pay(at(1s), 1100ms, 500);              // 1.2 s used at half a second per second; 0.2 s are free
    CHECK(bucket.wait(at(1s), 500, 200) == 2s);
    CHECK(bucket.wait(at(2s), 500, 200) == 1s);
    CHECK(bucket.wait(at(3s), 500, 200) == 0ns);
    CHECK(bucket.wait(at(1s), 0, 200) == 0ns);  // no limit
  }

  TEST_CASE("over a long time a tenant gets the servers' time that it has, whatever its statements take") {
    for (const std::int64_t rate : {50, 1000, 4000}) {
      CAPTURE(rate);
      TimeBucket bucket;
      std::int64_t used = 0;
      Nanos took = 1ms;
      for (Instant now = at(0s); now < at(60s); now += 1ms) {
        if (bucket.wait(now, rate, 100) > 0ns) continue;
        took = took * 7 % 300'000'007ns + 1ms;
        bucket.pay(now, took, rate);
        used += took.count() / 1'000'000;
      }
      CHECK(used >= rate * 60 * 99 / 100);
      CHECK(used <= rate * 60 + 100 + 301);
    }
  }

  TEST_CASE(
      "a tenant that owes time waits up to rate_wait, then hears tenant_server_time; a reload forgives") {
    TenantRegistry registry(with({.server_time = 1000, .server_burst = 100}));
    Tenant& shop = registry.find("shop");
    shop.time.pay(at(0s), 400ms, 1000);
    Admission answer = admit(shop, at(0s), at(0s), 1000ms);
    CHECK(answer.answer == Answer::wait);
    CHECK(answer.why == Refusal::tenant_server_time);
    CHECK(answer.retry_after == 300ms);
    answer = admit(shop, at(0s), at(0s), 100ms);
    CHECK(answer.answer == Answer::refuse);
    CHECK(shop.running == 0);
    CHECK(admit(shop, at(300ms), at(0s), 1000ms).answer == Answer::admit);
    shop.time.pay(at(1s), 10s, 1000);
    registry.reload(with({.server_time = 2000}));
    CHECK(shop.server_burst == 2000);
    CHECK(admit(shop, at(1s), at(1s), 0ms).answer == Answer::admit);
  }

  TEST_CASE("what a tenant's statements cost follows what they took") {
    Tenant tenant;
    for (int i = 0; i < 100; ++i) tenant.observe_cost(50ms);
    CHECK(tenant.cost == 50'000);
    for (int i = 0; i < 100; ++i) tenant.observe_cost(0ms);
    CHECK(tenant.cost == 0);
  }

  TEST_CASE("every refusal has its own word") {
    std::set<std::string_view> words;
    for (int i = 0; i < static_cast<int>(Refusal::count_); ++i)
      words.insert(name(static_cast<Refusal>(i)));
    CHECK(words.size() == static_cast<std::size_t>(Refusal::count_));
    CHECK(words.count("unknown") == 0);
  }
}
