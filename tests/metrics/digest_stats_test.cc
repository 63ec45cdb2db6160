#include "metrics/digest_stats.h"

#include <doctest/doctest.h>

#include <string>

using namespace std::chrono_literals;
using metrics::DatabaseCounters;
using metrics::DigestOutcome;
using metrics::DigestRef;
using metrics::DigestRuns;
using metrics::DigestStats;

namespace {

struct Digests {
  DigestStats stats;
  DatabaseCounters shop{"shop", 1}, web{"web", 2};
  int texts = 0;

  explicit Digests(std::size_t places) : stats(places) {}
  DigestRef find(std::uint64_t digest, std::uint16_t& hint, const DatabaseCounters& database) {
    return stats.find(digest, database, hint, [&] {
      ++texts;
      return "text " + std::to_string(digest);
    });
  }
  DigestRef find(std::uint64_t digest) {
    std::uint16_t hint = 0;
    return find(digest, hint, shop);
  }
  void run(DigestRef ref, DigestOutcome outcome = {.server = 1ms}) {
    DigestRuns runs;
    runs.add(ref, false);
    stats.count(runs, outcome);
  }
  DigestStats::Use use(DigestRef ref) const { return stats.use(ref.slot); }
};

}  // namespace

TEST_SUITE("metrics/digest_stats") {
  TEST_CASE("a digest keeps its place, whether or not it is found by the hint") {
    Digests all(10);
    std::uint16_t hint = 0, no_hint = 7;
    const DigestRef first = all.find(0xabc, hint, all.shop);
    CHECK(hint == first.slot);
    CHECK(all.find(0xabc, hint, all.shop) == first);
    CHECK(all.find(0xabc, no_hint, all.shop) == first);
    CHECK(no_hint == first.slot);
    CHECK(all.texts == 1);
  }

  TEST_CASE("the same digest in another database is counted by itself") {
    Digests all(10);
    std::uint16_t hint = 0;
    const DigestRef in_shop = all.find(1, hint, all.shop);
    const DigestRef in_web = all.find(1, hint, all.web);
    CHECK(in_shop != in_web);
    all.run(in_web);
    CHECK(all.use(in_shop).counts.calls == 0);
    CHECK(all.use(in_web).counts.calls == 1);
    CHECK(all.use(in_web).database == "web");
  }

  TEST_CASE("calls, errors, rows, time, tenants and percentiles are those of its statements") {
    Digests all(10);
    const DigestRef ref = all.find(5);
    for (int i = 0; i < 98; ++i) all.run(ref, {.server = 1ms, .rows = 2, .tenant = 3});
    all.run(ref, {.server = 100ms, .rows = 0, .failed = true, .tenant = 4});
    all.run(ref, {.server = 100ms, .rows = 0, .failed = true, .tenant = 4});
    const DigestStats::Use use = all.use(ref);
    CHECK(use.digest == 5);
    CHECK(use.text == "text 5");
    CHECK(use.counts.calls == 100);
    CHECK(use.counts.failed == 2);
    CHECK(use.counts.rows == 196);
    CHECK(use.counts.time == 298ms);
    CHECK(use.tenants == std::vector<std::uint16_t>{3, 4});
    CHECK_FALSE(use.more_tenants);
    CHECK(use.times.quantile(0.5) > 930us);
    CHECK(use.times.quantile(0.5) < 1070us);
    CHECK(use.times.quantile(0.99) > 93ms);
    CHECK(use.times.quantile(0.99) < 107ms);
  }

  TEST_CASE("so many tenants are named, and that there are more") {
    Digests all(10);
    const DigestRef ref = all.find(5);
    for (std::uint16_t tenant = 0; tenant <= DigestStats::kTenants; ++tenant) all.run(ref, {.tenant = tenant});
    CHECK(all.use(ref).tenants.size() == DigestStats::kTenants);
    CHECK(all.use(ref).more_tenants);
  }

  TEST_CASE("when all places are taken the least recently used makes way, and its late counts go to no other") {
    Digests all(3);
    const DigestRef first = all.find(1), second = all.find(2), third = all.find(3);
    all.run(second);
    (void)all.find(1);
    (void)all.find(3);
    (void)all.find(4);  // the hand spares those that were used since it last came by
    CHECK(all.stats.size() == 4);
    CHECK(all.stats.evictions() == 1);
    CHECK(all.stats.digest_of(second) == 0);
    CHECK(all.stats.digest_of(first) == 1);
    CHECK(all.stats.digest_of(third) == 3);
    all.run(second);  // it was still on its way
    CHECK(all.stats.use(0).counts.calls == 1);
    CHECK(all.stats.use(second.slot).counts.calls == 0);
    CHECK(all.stats.use(second.slot).digest == 4);
  }

  TEST_CASE("however many digests come, there are never more places than were asked for") {
    Digests all(50);
    for (std::uint64_t digest = 1; digest < 10'000; ++digest) all.run(all.find(digest));
    CHECK(all.stats.size() == 51);
    CHECK(all.stats.evictions() == 9'999 - 50);
  }

  TEST_CASE("with no places everything is counted together") {
    Digests all(0);
    all.run(all.find(1));
    all.run(all.find(2));
    CHECK(all.texts == 0);
    CHECK(all.stats.use(0).counts.calls == 2);
  }

  TEST_CASE("another number of places forgets everything; what is on its way is nobody's") {
    Digests all(3);
    const DigestRef old = all.find(1);
    all.run(old);
    all.stats.resize(3);
    CHECK(all.use(old).counts.calls == 1);
    all.stats.resize(5);
    const DigestRef fresh = all.find(2);
    CHECK(fresh.slot == old.slot);
    all.run(old);
    CHECK(all.use(fresh).counts.calls == 0);
  }

  TEST_CASE("the statements of a batch share its time and rows; transaction control has none of them") {
    Digests all(10);
    const DigestRef begin = all.find(1), select = all.find(2), update = all.find(3);
    DigestRuns runs;
    runs.add(begin, true);
    runs.add(select, false);
    runs.add(update, false);
    runs.add(update, false);
    all.stats.count(runs, {.server = 30ms, .rows = 7, .failed = true, .tenant = 1});
    CHECK(all.use(begin).counts.calls == 1);
    CHECK(all.use(begin).counts.time == 0ms);
    CHECK(all.use(begin).counts.failed == 0);
    CHECK(all.use(select).counts.time == 10ms);
    CHECK(all.use(select).counts.rows == 3);
    CHECK(all.use(update).counts.calls == 2);
    CHECK(all.use(update).counts.time == 20ms);
    CHECK(all.use(update).counts.rows == 4);
    CHECK(all.use(update).times.quantile(0.5) < 10'700us);
    CHECK(all.use(update).counts.failed == 1);
  }

  TEST_CASE("transaction control alone has its time") {
    Digests all(10);
    const DigestRef begin = all.find(1), set = all.find(2);
    DigestRuns runs;
    runs.add(begin, true);
    runs.add(set, true);
    all.stats.count(runs, {.server = 4ms, .tenant = 1});
    CHECK(all.use(begin).counts.time + all.use(set).counts.time == 4ms);
  }

  TEST_CASE("of more digests in one batch than it remembers, the rest is counted as others") {
    Digests all(10);
    DigestRuns runs;
    for (std::uint64_t digest = 1; digest <= 5; ++digest) runs.add(all.find(digest), false);
    all.stats.count(runs, {.server = 9ms, .tenant = 1});
    CHECK(all.use(all.find(1)).counts.calls == 1);
    CHECK(all.use(all.find(2)).counts.calls == 1);
    CHECK(all.use(all.find(5)).counts.calls == 0);
    CHECK(all.stats.use(0).counts.calls == 1);
  }

  TEST_CASE("an answer that was shared is counted, and takes no time") {
    Digests all(10);
    DigestRuns runs;
    runs.add(all.find(1), false);
    all.stats.count_shared(runs, 6);
    const DigestStats::Use use = all.use(all.find(1));
    CHECK(use.counts.shared == 1);
    CHECK(use.counts.calls == 0);
    CHECK(use.counts.time == 0ms);
    CHECK(use.tenants == std::vector<std::uint16_t>{6});
  }

  TEST_CASE("percentiles of two workers are those of all of their statements") {
    metrics::DigestHistogram one, other;
    for (int i = 0; i < 10; ++i) one.record(1ms);
    other.record(50ms, 90);
    one.merge(other);
    CHECK(one.quantile(0.05) < 1070us);
    CHECK(one.quantile(0.5) > 46ms);
    CHECK(one.quantile(0.5) < 54ms);
  }

  TEST_CASE("a count that goes over its end is halved with all others") {
    metrics::DigestHistogram times;
    times.record(1ms, UINT32_MAX);
    times.record(1s, UINT32_MAX);
    times.record(1ms, 1);
    CHECK(times.quantile(0.49) < 1070us);
    CHECK(times.quantile(0.51) > 930ms);
  }
}
