#include "pool/result_cache.h"

#include <doctest/doctest.h>

#include <string>

using namespace pool;
using namespace std::chrono_literals;
using routing::Lsn;

namespace {

Instant at(conf::Nanos since_start) { return Instant(1h) + since_start; }

const SettingsRef kSettings = std::make_shared<const SettingsSet>();
const ReadPosition kReplica{.primary = false, .lsn = Lsn{100}};

// The answer for a session that has to see so much.
ResultCache::Answer ask(ResultCache& cache, const std::string& key, Instant now, Lsn floor = {}) {
  return cache.find(key, now, [floor](const ReadPosition& at) { return floor <= at.lsn; }).answer;
}

}  // namespace

TEST_SUITE("pool/result_cache") {
  TEST_CASE("an answer is there until its time is over, and not a moment longer") {
    ResultCache cache(1 << 20);
    CHECK(ask(cache, "key", at(0s)) == nullptr);
    cache.put("key", kSettings, "answer", kReplica, at(500ms));
    REQUIRE(ask(cache, "key", at(499ms)) != nullptr);
    CHECK(*ask(cache, "key", at(499ms)) == "answer");
    CHECK(ask(cache, "key", at(500ms)) == nullptr);
    CHECK(cache.size() == 0);
    CHECK(cache.bytes() == 0);
    CHECK(cache.counters().hits == 2);
    CHECK(cache.counters().misses == 2);
  }

  TEST_CASE("promise 2: who has written since is not given an answer from before") {
    ResultCache cache(1 << 20);
    cache.put("key", kSettings, "answer", kReplica, at(1s));
    CHECK(ask(cache, "key", at(0s), Lsn{100}) != nullptr);
    CHECK(ask(cache, "key", at(0s), Lsn{101}) == nullptr);
    CHECK(cache.counters().behind == 1);
    CHECK(ask(cache, "key", at(0s)) != nullptr);
  }

  TEST_CASE("a newer answer takes the place of the older one") {
    ResultCache cache(1 << 20);
    cache.put("key", kSettings, "old", kReplica, at(1s));
    cache.put("key", kSettings, "newer", kReplica, at(2s));
    CHECK(*ask(cache, "key", at(1500ms)) == "newer");
    CHECK(cache.size() == 1);
  }

  TEST_CASE("every kept answer has its own number, and who looks sees it") {
    ResultCache cache(1 << 20);
    const std::uint32_t first = cache.put("key", kSettings, "x", kReplica, at(1s));
    const std::uint32_t second = cache.put("key", kSettings, "x", kReplica, at(1s));
    CHECK(first != 0);
    CHECK(second != 0);
    CHECK(first != second);
    std::uint32_t seen = 0;
    const auto found = cache.find("key", at(0s), [&seen](const ReadPosition& position) {
      seen = position.kept;
      return true;
    });
    CHECK(seen == second);
    CHECK(found.at.kept == second);
  }

  TEST_CASE("a slow answer does not take the place of one that began later") {
    ResultCache cache(1 << 20);
    ReadPosition early = kReplica, late = kReplica;
    early.began = at(1s);
    late.began = at(2s);
    CHECK(cache.put("key", kSettings, "late", late, at(5s)) != 0);
    CHECK(cache.put("key", kSettings, "early", early, at(6s)) == 0);
    CHECK(*ask(cache, "key", at(3s)) == "late");
    late.began = at(3s);
    CHECK(cache.put("key", kSettings, "later", late, at(6s)) != 0);
    CHECK(*ask(cache, "key", at(3s)) == "later");
  }

  TEST_CASE("never more bytes than allowed: the least recently used goes first") {
    constexpr std::size_t kRoom = 10'000;
    ResultCache cache(kRoom);
    const std::string answer(600, 'x');
    for (int i = 0; i < 100; ++i) {
      cache.put("key " + std::to_string(i), kSettings, answer, kReplica, at(1s));
      CHECK(ask(cache, "key 0", at(0s)) != nullptr);
      CHECK(cache.bytes() <= kRoom);
    }
    CHECK(cache.size() == kRoom / (600 + 5 + ResultCache::kOverhead));
    CHECK(cache.counters().evicted > 80);
    cache.set_limit(0);
    CHECK(cache.size() == 0);
    CHECK(cache.bytes() == 0);
  }

  TEST_CASE("settings that an answer keeps alive count too") {
    ResultCache cache(80'000);
    for (int i = 0; i < 100; ++i) {
      SettingsSet large;
      large.entries.push_back({"app.tenant", std::string(9'000, 'x') + std::to_string(i)});
      CHECK(cache.put("key " + std::to_string(i), std::make_shared<const SettingsSet>(large), "x", kReplica, at(1s)) != 0);
      CHECK(cache.size() <= 8);
    }
    SettingsSet huge;
    huge.entries.push_back({"app.tenant", std::string(20'000, 'x')});
    CHECK(cache.put("huge", std::make_shared<const SettingsSet>(huge), "x", kReplica, at(1s)) == 0);
  }

  TEST_CASE("one answer does not drive all others out") {
    ResultCache cache(10'000);
    cache.put("small", kSettings, "x", kReplica, at(1s));
    CHECK(cache.put("large", kSettings, std::string(2'000, 'x'), kReplica, at(1s)) == 0);
    CHECK(ask(cache, "large", at(0s)) == nullptr);
    CHECK(ask(cache, "small", at(0s)) != nullptr);
  }

  TEST_CASE("what is over is swept away, though nobody asks for it") {
    ResultCache cache(1 << 20);
    cache.put("one", kSettings, "x", kReplica, at(1s));
    cache.put("other", kSettings, "x", kReplica, at(2s));
    cache.sweep(at(1s));
    CHECK(cache.size() == 1);
  }

  TEST_CASE("all that is kept can be forgotten at once") {
    ResultCache cache(1 << 20);
    cache.put("key", kSettings, "answer", kReplica, at(1s));
    cache.clear();
    CHECK(ask(cache, "key", at(0s)) == nullptr);
    CHECK(cache.size() == 0);
    CHECK(cache.bytes() == 0);
  }

  TEST_CASE("an answer that was found stays good while it is used") {
    ResultCache cache(1 << 20);
    cache.put("key", kSettings, "answer", kReplica, at(1s));
    const ResultCache::Answer found = ask(cache, "key", at(0s));
    cache.set_limit(0);
    CHECK(*found == "answer");
  }
}
