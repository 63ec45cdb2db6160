#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "conf/units.h"
#include "pool/slots.h"
#include "routing/topology.h"

namespace pool {

using conf::Instant;

inline constexpr std::size_t kMaxWorkers = 64;

// Whose servers a pool holds. One pool per key and worker; one Budget per key and process.
struct PoolKey {
  routing::NodeId node{};
  std::string database;
  std::string user;
  friend auto operator<=>(const PoolKey&, const PoolKey&) = default;
};

// How many of something there may be in the process, and how many there are. Exact, however many
// threads ask; a limit of 0 is none. A lower limit takes nothing away from those who have.
class Quota {
 public:
  bool take();
  void give_back();

  std::int64_t open() const { return open_.load(std::memory_order_relaxed); }
  std::int64_t limit() const { return limit_.load(std::memory_order_relaxed); }
  void set_limit(std::int64_t limit) { limit_.store(limit, std::memory_order_relaxed); }
  bool full() const { return limit() > 0 && open() >= limit(); }
  bool exceeded() const { return limit() > 0 && open() > limit(); }

 private:
  std::atomic<std::int64_t> open_{0}, limit_{0};
};

// Quotas by name, each made when it is first asked for and kept for good. Looked up under a lock when
// a worker meets a database or a user for the first time.
class QuotaRegistry {
 public:
  std::shared_ptr<Quota> find(const std::string& name);
  // Those that nobody holds are gone.
  void forget_unused();

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Quota>> quotas_;
};

// What limits the servers of a pool: its own size, and what it shares with other pools. In the order
// in which they are taken; metric label.
enum class ServerLimit : std::uint8_t { pool, node, database, user, count_ };
std::string_view name(ServerLimit limit);

// The limits of one pool, as configured. 0: none (but for `pool`, which then gives nothing).
struct ServerLimits {
  std::int64_t pool = 0, node = 0, database = 0, user = 0;
};

// How many servers one (node, database, user) may have over all workers, how many it has, and which
// workers are starving: they have a client waiting, no server, and may not open one. A server counts
// for its pool, and for the quotas of its node and of the database and the user on that node.
//
// All words are relaxed atomics, written without locks. With nobody starving, releasing a server
// costs one load here.
class Budget {
 public:
  explicit Budget(std::int64_t limit) : limit_(limit) {}

  // Takes the right to have one more server, if there is one left. If not, `full` (when given) is the
  // limit that is in the way.
  bool take(ServerLimit* full = nullptr) { return take_below(limit(), full); }
  // The same while there are fewer than `most` servers, which may be less than the limit.
  bool take_below(std::int64_t most, ServerLimit* full = nullptr);
  // A server is gone, or was never made.
  void give_back();
  // The quota behind one of the limits; null for the pool's own, and where nothing is shared.
  Quota* shared(ServerLimit limit) const { return shared_[static_cast<std::size_t>(limit)].get(); }
  // A reload has lowered a limit that is shared below what is open.
  bool shared_exceeded() const;

  std::int64_t open() const { return open_.load(std::memory_order_relaxed); }
  // As configured, or less for a while after refused().
  std::int64_t limit() const {
    const std::int64_t cap = cap_.load(std::memory_order_relaxed);
    const std::int64_t configured = limit_.load(std::memory_order_relaxed);
    return cap == 0 || cap > configured ? configured : cap;
  }
  void set_limit(std::int64_t limit) { limit_.store(limit, std::memory_order_relaxed); }

  // What of it has been lent to whom, where there are ceilings.
  Slots& slots() { return slots_; }
  const Slots& slots() const { return slots_; }

  // The node had no room for one more (53300; it is not counted any more): from now on nine tenths of the servers
  // that there are, one at least, must do. A full node refuses many at once: until `pause` has passed, the others
  // that it refuses only leave no more than those that there are then.
  void refused(Instant now, conf::Millis pause);
  // Lets the pool have one server more after each `pause` without a refusal, until it is as configured.
  void recover(Instant now, conf::Millis pause);
  bool capped() const { return cap_.load(std::memory_order_relaxed) != 0; }

  // Reads that the primary serves, or is to serve, because no replica can. Workers look before they add one:
  // there may be one too many per worker for a moment.
  std::int64_t spilled() const { return spilled_.load(std::memory_order_relaxed); }
  void spill(std::int64_t change) { spilled_.fetch_add(change, std::memory_order_relaxed); }

  // What the workers have last said of their part: servers lent, clients waiting. For display.
  struct Use {
    std::int64_t in_use = 0, waiting = 0;
  };
  void report(std::size_t worker, Use use);
  Use use() const;

  // `worker`'s longest waiter has been waiting since `since`. True when it was not starving before:
  // then the others must be told once, since those with idle servers release none.
  bool starve(std::size_t worker, Instant since);
  void feed(std::size_t worker);

  // The worker other than `self` that has starved longest, if that is longer than `self`'s own longest
  // waiter (Instant::max() when it has none). Hand it a server.
  std::optional<std::size_t> hungrier_than(std::size_t self, Instant own_longest_waiter) const {
    if (!somebody_starves()) return std::nullopt;
    return find_hungrier(self, own_longest_waiter);
  }
  bool somebody_starves() const { return starving_.load(std::memory_order_relaxed) != 0; }

 private:
  friend class BudgetRegistry;
  std::optional<std::size_t> find_hungrier(std::size_t self, Instant own_longest_waiter) const;

  std::atomic<std::int64_t> open_{0};
  std::atomic<std::int64_t> limit_;
  std::atomic<std::int64_t> cap_{0};         // 0: none
  std::atomic<std::int64_t> cap_moved_{0};   // when, in nanoseconds
  std::atomic<std::int64_t> spilled_{0};
  std::atomic<std::int32_t> starving_{0};
  std::array<std::atomic<std::int64_t>, kMaxWorkers> since_{};  // 0: not starving
  std::array<std::atomic<std::int32_t>, kMaxWorkers> in_use_{}, waiting_{};
  Slots slots_;
  // By ServerLimit; set when it is made.
  std::array<std::shared_ptr<Quota>, static_cast<std::size_t>(ServerLimit::count_)> shared_;
};

// All budgets of the process. Looked up under a lock when a worker makes a pool, never per statement.
class BudgetRegistry {
 public:
  // Its limits become these.
  std::shared_ptr<Budget> find(const PoolKey& key, const ServerLimits& limits);
  // Null: there has never been such a pool.
  std::shared_ptr<Budget> find(const PoolKey& key) const;
  std::vector<std::pair<PoolKey, std::shared_ptr<const Budget>>> all() const;
  // Those that no pool uses and no server counts for are gone.
  void forget_unused();

 private:
  mutable std::mutex mutex_;
  std::map<PoolKey, std::shared_ptr<Budget>> budgets_;
  QuotaRegistry quotas_;
};

}  // namespace pool
