#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "conf/units.h"
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

// How many servers one (node, database, user) may have over all workers, how many it has, and which
// workers are starving: they have a client waiting, no server, and may not open one.
//
// All words are relaxed atomics, written without locks. With nobody starving, releasing a server
// costs one load here.
class Budget {
 public:
  explicit Budget(std::int64_t limit) : limit_(limit) {}

  // Takes the right to have one more server, if there is one left.
  bool take();
  // A server is gone, or was never made.
  void give_back();

  std::int64_t open() const { return open_.load(std::memory_order_relaxed); }
  std::int64_t limit() const { return limit_.load(std::memory_order_relaxed); }
  void set_limit(std::int64_t limit) { limit_.store(limit, std::memory_order_relaxed); }

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
    if (starving_.load(std::memory_order_relaxed) == 0) return std::nullopt;
    return find_hungrier(self, own_longest_waiter);
  }

 private:
  std::optional<std::size_t> find_hungrier(std::size_t self, Instant own_longest_waiter) const;

  std::atomic<std::int64_t> open_{0};
  std::atomic<std::int64_t> limit_;
  std::atomic<std::int32_t> starving_{0};
  std::array<std::atomic<std::int64_t>, kMaxWorkers> since_{};  // 0: not starving
  std::array<std::atomic<std::int32_t>, kMaxWorkers> in_use_{}, waiting_{};
};

// All budgets of the process. Looked up under a lock when a worker makes a pool, never per statement.
class BudgetRegistry {
 public:
  std::shared_ptr<Budget> find(const PoolKey& key, std::int64_t limit);
  std::vector<std::pair<PoolKey, std::shared_ptr<const Budget>>> all() const;

 private:
  mutable std::mutex mutex_;
  std::map<PoolKey, std::shared_ptr<Budget>> budgets_;
};

}  // namespace pool
