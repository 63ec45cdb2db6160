#include "pool/budget.h"

#include <algorithm>

#include "conf/check.h"

namespace pool {
namespace {

constexpr auto relaxed = std::memory_order_relaxed;

}  // namespace

std::string_view name(ServerLimit limit) {
  switch (limit) {
    case ServerLimit::pool: return "pool";
    case ServerLimit::node: return "node";
    case ServerLimit::database: return "database";
    case ServerLimit::user: return "user";
    case ServerLimit::count_: break;
  }
  return "unknown";
}

bool Quota::take() {
  std::int64_t open = open_.load(relaxed);
  for (;;) {
    const std::int64_t limit = limit_.load(relaxed);
    if (limit > 0 && open >= limit) return false;
    if (open_.compare_exchange_weak(open, open + 1, relaxed)) return true;
  }
}

void Quota::give_back() {
  const std::int64_t before = open_.fetch_sub(1, relaxed);
  ENSURE(before > 0);
}

std::shared_ptr<Quota> QuotaRegistry::find(const std::string& name) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<Quota>& quota = quotas_[name];
  if (!quota) quota = std::make_shared<Quota>();
  return quota;
}

bool Budget::take_below(std::int64_t most, ServerLimit* full) {
  const auto refused = [full](ServerLimit limit) {
    if (full != nullptr) *full = limit;
    return false;
  };
  std::int64_t open = open_.load(relaxed);
  do {
    if (open >= std::min(most, limit())) return refused(ServerLimit::pool);
  } while (!open_.compare_exchange_weak(open, open + 1, relaxed));
  for (std::size_t i = 0; i < shared_.size(); ++i) {
    if (!shared_[i] || shared_[i]->take()) continue;
    for (std::size_t taken = 0; taken < i; ++taken)
      if (shared_[taken]) shared_[taken]->give_back();
    open_.fetch_sub(1, relaxed);
    return refused(static_cast<ServerLimit>(i));
  }
  return true;
}

void Budget::give_back() {
  const std::int64_t before = open_.fetch_sub(1, relaxed);
  ENSURE(before > 0);
  for (const auto& quota : shared_)
    if (quota) quota->give_back();
}

void Budget::refused(Instant now, conf::Millis pause) {
  if (pause.count() == 0) return;
  std::int64_t moved = cap_moved_.load(relaxed);
  const std::int64_t at = now.time_since_epoch().count();
  const bool due = cap_.load(relaxed) == 0 || at - moved >= conf::Nanos(pause).count();
  if (due && cap_moved_.compare_exchange_strong(moved, at, relaxed)) {
    cap_.store(std::max<std::int64_t>(1, std::min(open(), limit()) * 9 / 10), relaxed);
    return;
  }
  // Those that were begun at the same time counted then, and are refused now.
  const std::int64_t left = std::max<std::int64_t>(1, open());
  for (std::int64_t cap = cap_.load(relaxed); cap > left;)
    if (cap_.compare_exchange_weak(cap, left, relaxed)) return;
}

void Budget::recover(Instant now, conf::Millis pause) {
  const std::int64_t cap = cap_.load(relaxed);
  if (cap == 0) return;
  std::int64_t moved = cap_moved_.load(relaxed);
  const std::int64_t at = now.time_since_epoch().count();
  if (at - moved < conf::Nanos(pause).count()) return;
  if (!cap_moved_.compare_exchange_strong(moved, at, relaxed)) return;
  cap_.store(cap + 1 >= limit_.load(relaxed) ? 0 : cap + 1, relaxed);
}

bool Budget::shared_exceeded() const {
  return std::ranges::any_of(shared_, [](const auto& quota) { return quota && quota->exceeded(); });
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

std::shared_ptr<Budget> BudgetRegistry::find(const PoolKey& key, const ServerLimits& limits) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<Budget>& budget = budgets_[key];
  if (!budget) {
    budget = std::make_shared<Budget>(limits.pool);
    const auto share = [&](ServerLimit limit, const std::string& whose) {
      std::string quota(name(limit));
      quota += '\0' + std::to_string(routing::index(key.node)) + '\0' + whose;
      budget->shared_[static_cast<std::size_t>(limit)] = quotas_.find(quota);
    };
    share(ServerLimit::node, "");
    share(ServerLimit::database, key.database);
    share(ServerLimit::user, key.user);
  }
  budget->set_limit(limits.pool);
  budget->shared(ServerLimit::node)->set_limit(limits.node);
  budget->shared(ServerLimit::database)->set_limit(limits.database);
  budget->shared(ServerLimit::user)->set_limit(limits.user);
  return budget;
}

std::shared_ptr<Budget> BudgetRegistry::find(const PoolKey& key) const {
  const std::lock_guard lock(mutex_);
  const auto found = budgets_.find(key);
  return found == budgets_.end() ? nullptr : found->second;
}

void BudgetRegistry::forget_unused() {
  const std::lock_guard lock(mutex_);
  // They are found under the lock only, so that whom nobody holds nobody is about to hold.
  std::erase_if(budgets_, [](const auto& entry) {
    return entry.second.use_count() == 1 && entry.second->open() == 0;
  });
  quotas_.forget_unused();
}

void QuotaRegistry::forget_unused() {
  const std::lock_guard lock(mutex_);
  std::erase_if(quotas_, [](const auto& entry) { return entry.second.use_count() == 1; });
}

std::vector<std::pair<PoolKey, std::shared_ptr<const Budget>>> BudgetRegistry::all() const {
  const std::lock_guard lock(mutex_);
  return {budgets_.begin(), budgets_.end()};
}

}  // namespace pool
