#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "pool/admission.h"

// The first stage of admission: limits on kinds of statements.
namespace pool {

// Which statements: a digest, in one database ("": in all).
struct DigestKey {
  std::uint64_t digest = 0;
  std::string database;
  friend auto operator<=>(const DigestKey&, const DigestKey&) = default;
};

enum class DigestLimitKind : std::uint8_t { block, rate, concurrency };
std::string_view name(DigestLimitKind kind);

// One limit. What it says never changes; what it has counted is shared by all workers, so that rates and
// caps hold for the process.
struct DigestLimit {
  DigestKey key;
  DigestLimitKind kind = DigestLimitKind::block;
  std::int64_t most = 0;              // per second, or at once
  Instant expires = Instant::max();
  std::string origin;                 // who set it: what the client is told

  mutable Gcra bucket;
  mutable std::atomic<std::int64_t> running{0};
  mutable std::atomic<std::uint64_t> refused{0};
};
using DigestLimitRef = std::shared_ptr<const DigestLimit>;

// The places that one batch has taken under limits of concurrency: given back when it ends.
class DigestHold {
 public:
  DigestHold() = default;
  DigestHold(DigestHold&& other) noexcept : limits_(std::exchange(other.limits_, {})) {}
  DigestHold& operator=(DigestHold&&) = delete;
  ~DigestHold() { give_back(); }
  void add(DigestLimitRef limit) { limits_.push_back(std::move(limit)); }
  // Those of another batch are given back with these.
  void join(DigestHold&& other);
  void give_back();
  bool empty() const { return limits_.empty(); }

 private:
  std::vector<DigestLimitRef> limits_;
};

// One limit that is met, of a rate or of concurrency. Refused: it has taken nothing.
struct LimitAnswer {
  Refusal why = Refusal::none;
  Nanos retry_after{0};  // when asking again may help
  const DigestLimit* limit = nullptr;
};
LimitAnswer take(const DigestLimitRef& limit, Instant now, DigestHold* hold);

// The limits in force. Immutable; a new one is made when operators say so. Asked per statement only while
// there is one: a look-up, and for a limit that is met one or two atomic operations.
class DigestGate {
 public:
  explicit DigestGate(const std::vector<DigestLimitRef>& limits);

  using Answer = LimitAnswer;
  // May a batch of these digests run now? If not, it has taken nothing but what its earlier statements took
  // of rates. A digest that stands there twice counts twice for rates, once for concurrency.
  Answer admit(std::span<const std::uint64_t> digests, std::string_view database, Instant now,
               DigestHold* hold) const;

  // Is one of them blocked? Takes nothing.
  Answer blocked(std::span<const std::uint64_t> digests, std::string_view database, Instant now) const;


 private:
  std::unordered_multimap<std::uint64_t, DigestLimitRef> by_digest_;
};

// Which statements bring servers down: those that were at work on a connection that ended without a word,
// while Postgres told its other connections (57P02) that a backend had crashed. Pure but for what it
// remembers; the control thread's.
class CrashRecord {
 public:
  // A word and the silence that go together come within this time of each other.
  static constexpr Millis kTogether{5'000};
  // Two crashes within this time are enough.
  static constexpr Millis kMemory{60'000};

  struct Lost {
    std::uint16_t node = 0;
    Instant connected_at{};  // the connection that was lost
    std::vector<DigestKey> digests;
  };
  // Both return the statements that have just been in flight at their second crash.
  std::vector<DigestKey> lost(Lost lost, Instant now);
  std::vector<DigestKey> crashed(std::uint16_t node, Instant now);

 private:
  struct Suspicion {
    Lost lost;
    Instant at{};
  };
  std::vector<DigestKey> convict(const Lost& lost, Instant now);
  void forget(Instant now);

  std::deque<Suspicion> suspicions_;            // not confirmed yet
  std::map<std::uint16_t, Instant> crashes_;    // by node: the last that Postgres told of
  std::map<DigestKey, Instant> first_;          // digests that were in flight at a crash: when
};

}  // namespace pool
