#include "pool/digest_gate.h"

#include <doctest/doctest.h>

#include <thread>

using namespace pool;
using namespace std::chrono_literals;

namespace {

Instant at(Nanos since_start) { return Instant(1h) + since_start; }

std::shared_ptr<DigestLimit> limit(std::uint64_t digest, DigestLimitKind kind, std::int64_t most = 0,
                                   const std::string& database = "") {
  auto made = std::make_shared<DigestLimit>();
  made->key = {digest, database};
  made->kind = kind;
  made->most = most;
  return made;
}

Refusal ask(const DigestGate& gate, std::vector<std::uint64_t> digests, Instant now = at(0s),
            const std::string& database = "shop") {
  DigestHold hold;
  return gate.admit(digests, database, now, &hold).why;
}

using enum DigestLimitKind;

}  // namespace

TEST_SUITE("pool/digest_gate") {
  TEST_CASE("a blocked digest is refused wherever it stands in the batch, until the block expires") {
    const auto block = limit(7, DigestLimitKind::block);
    block->expires = at(10s);
    const DigestGate gate({block});
    CHECK(ask(gate, {7}) == Refusal::digest_blocked);
    CHECK(ask(gate, {1, 2, 7}) == Refusal::digest_blocked);
    CHECK(ask(gate, {1, 2}) == Refusal::none);
    CHECK(ask(gate, {}) == Refusal::none);
    CHECK(ask(gate, {7}, at(10s - 1ns)) == Refusal::digest_blocked);
    CHECK(ask(gate, {7}, at(10s)) == Refusal::none);
    CHECK(block->refused == 3);
  }

  TEST_CASE("a limit of one database is none in another") {
    const DigestGate gate({limit(7, DigestLimitKind::block, 0, "shop")});
    CHECK(ask(gate, {7}) == Refusal::digest_blocked);
    CHECK(ask(gate, {7}, at(0s), "web") == Refusal::none);
  }

  TEST_CASE("a rate lets its number pass each second, and says when to come again") {
    const DigestGate gate({limit(7, rate, 10)});
    DigestHold hold;
    int passed = 0;
    for (Nanos time{0}; time < 10s; time += 1ms) passed += ask(gate, {7}, at(time)) == Refusal::none ? 1 : 0;
    CHECK(passed == 100);
    const std::uint64_t digests[] = {7};
    CHECK(gate.admit(digests, "shop", at(10s), &hold).why == Refusal::none);
    const DigestGate::Answer refused = gate.admit(digests, "shop", at(10s), &hold);
    CHECK(refused.why == Refusal::digest_rate);
    CHECK(refused.retry_after == 100ms);
    CHECK(refused.limit->key.digest == 7);
  }

  TEST_CASE("a batch that runs it twice takes two of the rate, and one place") {
    const DigestGate rated({limit(7, rate, 20)});  // two at once
    CHECK(ask(rated, {7, 7}) == Refusal::none);
    CHECK(ask(rated, {7}) == Refusal::digest_rate);
    const DigestGate capped({limit(7, concurrency, 1)});
    CHECK(ask(capped, {7, 7}) == Refusal::none);
  }

  TEST_CASE("no more than its cap hold a place, and each gives it back once") {
    const auto cap = limit(7, concurrency, 2);
    const DigestGate gate({cap});
    const std::uint64_t digests[] = {7};
    DigestHold first, second, third;
    CHECK(gate.admit(digests, "shop", at(0s), &first).why == Refusal::none);
    CHECK(gate.admit(digests, "shop", at(0s), &second).why == Refusal::none);
    CHECK(gate.admit(digests, "shop", at(0s), &third).why == Refusal::digest_concurrency);
    CHECK(cap->running == 2);
    DigestHold moved(std::move(first));
    first.give_back();
    CHECK(cap->running == 2);
    second.join(std::move(moved));
    second.give_back();
    second.give_back();
    CHECK(cap->running == 0);
  }

  TEST_CASE("a batch that is refused keeps no place") {
    const auto cap = limit(7, concurrency, 2);
    const DigestGate gate({cap, limit(8, DigestLimitKind::block)});
    CHECK(ask(gate, {7, 8}) == Refusal::digest_blocked);
    CHECK(cap->running == 0);
  }

  TEST_CASE("waiting statements are asked about blocks only") {
    const auto cap = limit(7, concurrency, 1);
    const DigestGate gate({cap, limit(8, DigestLimitKind::block)});
    const std::uint64_t both[] = {7, 8}, one[] = {7};
    CHECK(gate.blocked(both, "shop", at(0s)).why == Refusal::digest_blocked);
    CHECK(gate.blocked(one, "shop", at(0s)).why == Refusal::none);
    CHECK(cap->running == 0);
  }

  TEST_CASE("caps hold over all workers") {
    const auto cap = limit(7, concurrency, 3);
    const DigestGate gate({cap});
    std::atomic<int> inside{0}, most{0};
    std::vector<std::thread> workers;
    for (int i = 0; i < 4; ++i)
      workers.emplace_back([&] {
        const std::uint64_t digests[] = {7};
        for (int n = 0; n < 5'000; ++n) {
          DigestHold hold;
          if (gate.admit(digests, "shop", at(0s), &hold).why != Refusal::none) continue;
          const int now = ++inside;
          for (int seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {}
          --inside;
        }
      });
    for (std::thread& worker : workers) worker.join();
    CHECK(most <= 3);
    CHECK(cap->running == 0);
  }

  TEST_CASE("a digest at work at two crashes within a minute is guilty; at one it is not") {
    CrashRecord record;
    const DigestKey key{7, "shop"};
    CHECK(record.lost({1, at(0s), {key}}, at(10s)).empty());
    CHECK(record.crashed(1, at(10s) + 100ms).empty());
    CHECK(record.lost({1, at(11s), {key}}, at(20s)).empty());
    CHECK(record.crashed(1, at(21s)) == std::vector<DigestKey>{key});
    // It has been told.
    CHECK(record.lost({1, at(22s), {key}}, at(23s)).empty());
  }

  TEST_CASE("that a crash was told may be heard first") {
    CrashRecord record;
    const DigestKey key{7, "shop"};
    CHECK(record.crashed(1, at(10s)).empty());
    CHECK(record.lost({1, at(0s), {key}}, at(10s) + 50ms).empty());
    CHECK(record.crashed(1, at(20s)).empty());
    CHECK(record.lost({1, at(11s), {key}}, at(20s) + 50ms) == std::vector<DigestKey>{key});
  }

  TEST_CASE("two connections lost in one crash are one crash") {
    CrashRecord record;
    const DigestKey key{7, "shop"};
    CHECK(record.crashed(1, at(10s)).empty());
    CHECK(record.lost({1, at(0s), {key}}, at(10s)).empty());
    CHECK(record.lost({1, at(1s), {key}}, at(10s) + 10ms).empty());
  }

  TEST_CASE("without the word of Postgres a lost connection is no crash; that of another node does not count") {
    CrashRecord record;
    const DigestKey key{7, "shop"};
    for (int i = 0; i < 5; ++i) {
      CHECK(record.lost({1, at(i * 10s), {key}}, at(i * 10s + 9s)).empty());
      CHECK(record.crashed(2, at(i * 10s + 9s)).empty());
    }
    CHECK(record.lost({1, at(100s), {key}}, at(101s)).empty());
    CHECK(record.crashed(1, at(101s) + CrashRecord::kTogether + 1ms).empty());
  }

  TEST_CASE("a crash is forgotten after a minute") {
    CrashRecord record;
    const DigestKey key{7, "shop"};
    CHECK(record.crashed(1, at(0s)).empty());
    CHECK(record.lost({1, at(-1s), {key}}, at(0s)).empty());
    CHECK(record.crashed(1, at(61s)).empty());
    CHECK(record.lost({1, at(1s), {key}}, at(61s)).empty());
    CHECK(record.crashed(1, at(70s)).empty());
    CHECK(record.lost({1, at(62s), {key}}, at(70s)) == std::vector<DigestKey>{key});
  }

  TEST_CASE("crashes by ever new statements are not remembered without end") {
    CrashRecord record;
    for (std::uint64_t digest = 1; digest < 5'000; ++digest) {
      CHECK(record.lost({1, at(0s), {{digest, "shop"}}}, at(1s)).empty());
      if (digest % 100 == 0) CHECK(record.crashed(1, at(1s)).empty());
    }
  }
}
