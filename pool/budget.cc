#include "pool/budget.h"

#include <algorithm>

#include "conf/check.h"

namespace pool {
namespace {

constexpr auto relaxed = std::memory_order_relaxed;

}  // namespace

bool Budget::take() {
  std::int64_t open = open_.load(relaxed);
  while (open < limit_.load(relaxed))
    if (open_.compare_exchange_weak(open, open + 1, relaxed)) return true;
  return false;
}

void Budget::give_back() {
  const std::int64_t before = open_.fetch_sub(1, relaxed);
  ENSURE(before > 0);
}

void Budget::report(std::size_t worker, Use use) {
  in_use_[worker].store(static_cast<std::int32_t>(use.in_use), relaxed);
  waiting_[worker].store(static_cast<std::int32_t>(use.waiting), relaxed);
}

Budget::Use Budget::use() const {
  Use sum;
  for (std::size_t worker = 0; worker < kMaxWorkers; ++worker) {
    sum.in_use += in_use_[worker].load(relaxed);
    sum.waiting += waiting_[worker].load(relaxed);
  }
  return sum;
}

bool Budget::starve(std::size_t worker, Instant since) {
  const std::int64_t ticks = std::max<std::int64_t>(1, since.time_since_epoch().count());
  const bool was_starving = since_[worker].exchange(ticks, relaxed) != 0;
  if (!was_starving) starving_.fetch_add(1, relaxed);
  return !was_starving;
}

void Budget::feed(std::size_t worker) {
  if (starving_.load(relaxed) == 0) return;
  if (since_[worker].exchange(0, relaxed) != 0) starving_.fetch_sub(1, relaxed);
}

std::optional<std::size_t> Budget::find_hungrier(std::size_t self,
                                                 Instant own_longest_waiter) const {
  std::int64_t oldest = own_longest_waiter.time_since_epoch().count();
  std::optional<std::size_t> hungriest;
  for (std::size_t worker = 0; worker < kMaxWorkers; ++worker) {
    const std::int64_t since = since_[worker].load(relaxed);
    if (worker == self || since == 0 || since >= oldest) continue;
    oldest = since;
    hungriest = worker;
  }
  return hungriest;
}

std::shared_ptr<Budget> BudgetRegistry::find(const PoolKey& key, std::int64_t limit) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<Budget>& budget = budgets_[key];
  if (!budget) budget = std::make_shared<Budget>(limit);
  budget->set_limit(limit);
  return budget;
}

std::vector<std::pair<PoolKey, std::shared_ptr<const Budget>>> BudgetRegistry::all() const {
  const std::lock_guard lock(mutex_);
  return {budgets_.begin(), budgets_.end()};
}

}  // namespace pool
