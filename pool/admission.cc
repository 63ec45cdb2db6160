#include "pool/admission.h"

#include <algorithm>
#include <bit>

#include "routing/subset.h"

namespace pool {
namespace {

// A full concurrency cap frees itself when a statement ends, which nobody can foretell: ask again
// soon.
constexpr Millis kAskAgain{5};

constexpr std::int64_t kSecond = 1'000'000'000;
// Keeps (burst x interval) within 64 bits: more than a century.
constexpr std::int64_t kLongestTolerance = std::int64_t{1} << 62;

Millis whole_millis(Nanos wait) {
  return std::max(std::chrono::ceil<Millis>(wait), Millis{1});
}

void store(Tenant& tenant, const conf::TenantLimits& limits) {
  const std::int64_t burst =
      limits.burst > 0 ? limits.burst : std::max<std::int64_t>(1, limits.rate / 10);
  const bool same_burst = tenant.burst.exchange(burst, std::memory_order_relaxed) == burst;
  const bool same_rate =
      tenant.rate.exchange(limits.rate, std::memory_order_relaxed) == limits.rate;
  if (!same_burst || !same_rate) tenant.bucket.forget();
  tenant.concurrency.store(limits.concurrency, std::memory_order_relaxed);
  const std::int64_t time_burst =
      limits.server_burst > 0 ? limits.server_burst : std::max<std::int64_t>(1, limits.server_time);
  const bool same_time =
      tenant.server_time.exchange(limits.server_time, std::memory_order_relaxed) == limits.server_time;
  if (tenant.server_burst.exchange(time_burst, std::memory_order_relaxed) != time_burst || !same_time)
    tenant.time.forget();
  tenant.weight.store(limits.weight, std::memory_order_relaxed);
  tenant.ceiling.store(limits.ceiling, std::memory_order_relaxed);
  tenant.replicas.store(limits.replicas, std::memory_order_relaxed);
  tenant.max_waiting.store(limits.max_waiting, std::memory_order_relaxed);
}

}  // namespace

std::string_view name(Refusal r) {
  switch (r) {
    case Refusal::none: return "none";
    case Refusal::tenant_rate: return "tenant_rate";
    case Refusal::tenant_concurrency: return "tenant_concurrency";
    case Refusal::tenant_server_time: return "tenant_server_time";
    case Refusal::queue_deadline: return "queue_deadline";
    case Refusal::queue_full: return "queue_full";
    case Refusal::overloaded: return "overloaded";
    case Refusal::queue_timeout: return "queue_timeout";
    case Refusal::no_primary: return "no_primary";
    case Refusal::too_many_clients: return "too_many_clients";
    case Refusal::too_many_databases: return "too_many_databases";
    case Refusal::server_login: return "server_login";
    case Refusal::draining: return "draining";
    case Refusal::replay_failed: return "replay_failed";
    case Refusal::protocol_violation: return "protocol_violation";
    case Refusal::too_large: return "too_large";
    case Refusal::canceled: return "canceled";
    case Refusal::query_timeout: return "query_timeout";
    case Refusal::transaction_timeout: return "transaction_timeout";
    case Refusal::too_many_clients_of_address: return "too_many_clients_of_address";
    case Refusal::too_many_clients_of_database: return "too_many_clients_of_database";
    case Refusal::too_many_clients_of_user: return "too_many_clients_of_user";
    case Refusal::too_many_statements: return "too_many_statements";
    case Refusal::invalid_setting: return "invalid_setting";
    case Refusal::paused: return "paused";
    case Refusal::disabled: return "disabled";
    case Refusal::digest_blocked: return "digest_blocked";
    case Refusal::digest_rate: return "digest_rate";
    case Refusal::digest_concurrency: return "digest_concurrency";
    case Refusal::rule_rate: return "rule_rate";
    case Refusal::rule_concurrency: return "rule_concurrency";
    case Refusal::blocked: return "blocked";
    case Refusal::primary_share: return "primary_share";
    case Refusal::pin_temporary_table: return "pin_temporary_table";
    case Refusal::pin_listen: return "pin_listen";
    case Refusal::pin_advisory_lock: return "pin_advisory_lock";
    case Refusal::pin_holdable_cursor: return "pin_holdable_cursor";
    case Refusal::pin_sql_prepare: return "pin_sql_prepare";
    case Refusal::pin_load: return "pin_load";
    case Refusal::pin_computed_setting: return "pin_computed_setting";
    case Refusal::pin_session_setting: return "pin_session_setting";
    case Refusal::pin_session_function: return "pin_session_function";
    case Refusal::count_: break;
  }
  return "unknown";
}

Refusal refusal_of(routing::Pin pins) {
  static_assert(static_cast<std::size_t>(Refusal::count_) -
                    static_cast<std::size_t>(Refusal::pin_temporary_table) ==
                routing::kPins);
  const auto first = std::countr_zero(static_cast<unsigned>(pins));
  return static_cast<Refusal>(static_cast<int>(Refusal::pin_temporary_table) + first);
}

Nanos Gcra::take(Instant now, std::int64_t rate, std::int64_t burst, Nanos longest) {
  if (rate <= 0) return Nanos{0};
  // Rounded up, so that rounding never admits more than the rate.
  const std::int64_t interval = (kSecond + rate - 1) / rate;
  const std::int64_t cells = std::clamp<std::int64_t>(burst, 1, kLongestTolerance / interval);
  const std::int64_t tolerance = (cells - 1) * interval;
  const std::int64_t at = now.time_since_epoch().count();

  std::int64_t stored = theoretical_arrival_.load(std::memory_order_relaxed);
  for (;;) {
    const std::int64_t arrival = std::max(stored, at);
    const std::int64_t due = std::max<std::int64_t>(0, arrival - at - tolerance);
    if (due > longest.count()) return Nanos{due};
    if (theoretical_arrival_.compare_exchange_weak(stored, arrival + interval,
                                                   std::memory_order_relaxed))
      return Nanos{due};
  }
}

Nanos TimeBucket::wait(Instant now, std::int64_t rate, std::int64_t burst) const {
  if (rate <= 0) return Nanos{0};
  const std::int64_t owed = paid_until_.load(std::memory_order_relaxed) - now.time_since_epoch().count();
  return std::max(Nanos{0}, Nanos{owed - kSecond / rate * burst});
}

void TimeBucket::pay(Instant now, Nanos took, std::int64_t rate) {
  if (rate <= 0) return;
  // A day at once is as good as for ever.
  const std::int64_t nanos = std::clamp<std::int64_t>(took.count(), 0, 86'400 * kSecond);
  const std::int64_t at = now.time_since_epoch().count();
  std::int64_t stored = paid_until_.load(std::memory_order_relaxed);
  while (!paid_until_.compare_exchange_weak(stored, std::max(stored, at) + nanos / rate * 1000,
                                            std::memory_order_relaxed)) {
  }
}

TenantRegistry::TenantRegistry(const conf::Settings& settings) {
  const std::lock_guard lock(mutex_);
  default_ = settings.tenant_default;
  configured_ = settings.tenants;
  add("other");
  for (const auto& [name, limits] : configured_) add(name);
}

Tenant& TenantRegistry::find(std::string_view name) {
  const std::lock_guard lock(mutex_);
  const auto it = tenants_.find(name);
  if (it != tenants_.end()) return *it->second;
  return name.empty() ? *by_number_.front() : add(name);
}

Tenant& TenantRegistry::find(std::string_view name, const std::string& user) {
  const std::lock_guard lock(mutex_);
  if (const auto it = tenants_.find(name); it != tenants_.end()) return *it->second;
  if (name.empty()) return *by_number_.front();
  std::size_t& made = named_by_[user];
  if (made == kMaxNamedByUser) return *by_number_.front();
  ++made;
  return add(name);
}

// The caller holds mutex_.
Tenant& TenantRegistry::add(std::string_view name) {
  if (const auto it = tenants_.find(name); it != tenants_.end()) return *it->second;
  if (by_number_.size() == kMaxTenants) return *by_number_.front();
  auto tenant = std::make_unique<Tenant>();
  tenant->name = name;
  tenant->key = routing::subset_key(name);
  tenant->number = static_cast<std::uint16_t>(by_number_.size());
  store(*tenant, limits(name));
  by_number_.push_back(tenant.get());
  return *tenants_.emplace(std::string(name), std::move(tenant)).first->second;
}

conf::TenantLimits TenantRegistry::limits(std::string_view name) const {
  const auto it = configured_.find(std::string(name));
  conf::TenantLimits limits = it == configured_.end() ? default_ : it->second;
  if (const auto ordered = orders_.find(name); ordered != orders_.end()) {
    const TenantOrder& order = ordered->second;
    if (order.rate) limits.burst = 0;  // it belonged to the other rate
    limits.rate = order.rate.value_or(limits.rate);
    limits.burst = order.burst.value_or(limits.burst);
    limits.concurrency = order.concurrency.value_or(limits.concurrency);
  }
  return limits;
}

void TenantRegistry::overrule(std::map<std::string, TenantOrder, std::less<>> orders) {
  const std::lock_guard lock(mutex_);
  orders_.swap(orders);
  for (const auto& [name, tenant] : tenants_)
    if (orders.contains(name) || orders_.contains(name)) store(*tenant, limits(name));
}

void TenantRegistry::reload(const conf::Settings& settings) {
  const std::lock_guard lock(mutex_);
  default_ = settings.tenant_default;
  configured_ = settings.tenants;
  for (const auto& [name, tenant] : tenants_) store(*tenant, limits(name));
  for (const auto& [name, limits] : configured_) add(name);
}

std::vector<const Tenant*> TenantRegistry::all() const {
  const std::lock_guard lock(mutex_);
  return {by_number_.begin(), by_number_.end()};
}

Admission admit(Tenant& tenant, Instant now, Instant waiting_since, Millis rate_wait,
                bool has_cell) {
  using enum Admission::Answer;
  const Nanos left = std::max(Nanos{0}, waiting_since + rate_wait - now);

  // The slot is taken first and given back when it was one too many, so that no two workers can
  // both take the last one.
  const std::int64_t cap = tenant.concurrency.load(std::memory_order_relaxed);
  const std::int64_t before = tenant.running.fetch_add(1, std::memory_order_relaxed);
  if (cap > 0 && before >= cap) {
    leave(tenant);
    if (left <= Nanos{0}) return {refuse, Refusal::tenant_concurrency, kAskAgain};
    return {wait, Refusal::tenant_concurrency, std::min(kAskAgain, whole_millis(left)), has_cell};
  }
  // What earlier ones took comes before the rate: who waits for it costs no cell.
  if (const std::int64_t time = tenant.server_time.load(std::memory_order_relaxed); time > 0) {
    const Nanos owed = tenant.time.wait(now, time, tenant.server_burst.load(std::memory_order_relaxed));
    if (owed > Nanos{0}) {
      leave(tenant);
      return {owed > left ? refuse : wait, Refusal::tenant_server_time, whole_millis(owed), has_cell};
    }
  }
  if (has_cell) return {admit};

  const Nanos until = tenant.bucket.take(now, tenant.rate.load(std::memory_order_relaxed),
                                         tenant.burst.load(std::memory_order_relaxed), left);
  if (until == Nanos{0}) return {admit};
  leave(tenant);
  if (until > left) return {refuse, Refusal::tenant_rate, whole_millis(until)};
  return {wait, Refusal::tenant_rate, whole_millis(until), true};
}

void leave(Tenant& tenant) { tenant.running.fetch_sub(1, std::memory_order_relaxed); }

}  // namespace pool
