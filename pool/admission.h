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
#include <vector>

#include "conf/settings.h"
#include "routing/facts.h"

namespace pool {

using conf::Instant;
using conf::Millis;
using conf::Nanos;

// Why a statement waits or is refused: log, metric label, console, the DETAIL that a client reads.
// To add one: put it here and in name().
enum class Refusal : std::uint8_t {
  none,
  tenant_rate,          // 53400
  tenant_concurrency,   // 53400
  tenant_server_time,   // 53400: its statements took more of the servers' time than it has
  queue_deadline,       // 53000: waited longer than its class allows, in a queue that stands
  queue_full,           // 53000: pool.max_waiting, or its tenant's
  overloaded,           // 53000 or 53300: self-protection serves no such class, or lets nobody in
  queue_timeout,        // 57014: waited pool.queue_timeout for a server
  no_primary,           // 57P03
  too_many_clients,     // 53300
  too_many_databases,   // 53300: names that "*" serves
  server_login,         // the server refused our login; its own words are passed on
  draining,             // 57P01
  replay_failed,        // the session's settings could not be restored on a server
  protocol_violation,   // 08P01
  too_large,            // 54000
  canceled,             // 57014: by its own request, while it waited
  query_timeout,        // 57014: ran for pool.query_timeout
  transaction_timeout,  // 25P04
  too_many_clients_of_address,   // 53300
  too_many_clients_of_database,  // 53300
  too_many_clients_of_user,      // 53300
  too_many_statements,  // 54000: limits.prepared
  paused,               // 57014: an operator paused the database, for longer than pool.pause_timeout
  disabled,             // 55000: an operator disabled the database
  invalid_setting,      // 22023, 42501, 25001: of pgsluice's own settings
  digest_blocked,       // 53400, as the following two
  digest_rate,
  digest_concurrency,
  rule_rate,            // 53400, as the following: a [[route]] rule has a limit
  rule_concurrency,
  blocked,              // 53400: a [[route]] rule says so
  primary_share,        // 53000: no replica can serve the read, and the primary's share for such is in use
  // pool.on_pin = "refuse", one per bit of routing::Pin, in the same order: 0A000
  pin_temporary_table,
  pin_listen,
  pin_advisory_lock,
  pin_holdable_cursor,
  pin_sql_prepare,
  pin_load,
  pin_computed_setting,
  pin_session_setting,
  pin_session_function,
  count_
};
std::string_view name(Refusal r);
// For the first of these pins.
Refusal refusal_of(routing::Pin pins);

// The generic cell rate algorithm (ITU-T I.371, "virtual scheduling"): `rate` per second, up to
// `burst` at once. One atomic word, shared by all workers; a check costs one load and, when it
// admits, one compare-and-swap.
class Gcra {
 public:
  // Takes one cell. Zero: it is due now (always, when rate <= 0). Up to `longest`: it is taken and due
  // after so long, in the order of asking, so nobody who comes later gets in front. More than
  // `longest`: nothing was taken, and this is how long it would have been. Within any span of t
  // seconds at most burst + t x rate come due, exactly, however many threads ask. A burst below 1
  // counts as 1.
  Nanos take(Instant now, std::int64_t rate, std::int64_t burst, Nanos longest = Nanos{0});
  // For a change of rate or burst: what was taken under the old one is no debt under the new.
  void forget() { theoretical_arrival_.store(0, std::memory_order_relaxed); }

 private:
  std::atomic<std::int64_t> theoretical_arrival_{0};  // nanoseconds on the monotonic clock
};

// A bucket of servers' time that is paid when a statement has ended and it is known what it took; so it may be
// overdrawn, and then the next wait until that is made up for. One atomic word, shared by all workers.
class TimeBucket {
 public:
  // How long until the next may start: zero while no more than `burst` is owed. Both in milliseconds of
  // servers' time, `rate` per second; a rate of zero or less is no limit.
  Nanos wait(Instant now, std::int64_t rate, std::int64_t burst) const;
  void pay(Instant now, Nanos took, std::int64_t rate);
  void forget() { paid_until_.store(0, std::memory_order_relaxed); }

 private:
  std::atomic<std::int64_t> paid_until_{0};  // nanoseconds on the monotonic clock: when nothing is owed
};

// Who shares a limit. Lives as long as the process; counters are written by all workers.
struct Tenant {
  std::string name;
  // for metrics; 0 is "other", which all tenants beyond the limit of numbers share
  std::uint16_t number = 0;
  Gcra bucket;
  // 0: no limit; a reload stores new values. burst is the effective one, never 0.
  std::atomic<std::int64_t> rate{0}, burst{0}, concurrency{0};
  // Consistency "tenant": the newest sample that is past one of its writes, by cluster. Several clusters may
  // share a place: a number too high makes their reads wait for one sample more (routing::Floor::raise_to).
  // From 1: at the start nobody knows what was written before.
  static constexpr std::size_t kClusters = 4;
  std::array<std::atomic<std::uint64_t>, kClusters> written{1, 1, 1, 1};
  void wrote(std::size_t cluster, std::uint64_t sample) {
    std::atomic<std::uint64_t>& place = written[cluster % kClusters];
    std::uint64_t before = place.load();
    while (before < sample && !place.compare_exchange_weak(before, sample)) {
    }
  }
  // statements or transactions at servers now
  std::atomic<std::int64_t> running{0};

  TimeBucket time;
  std::atomic<std::int64_t> server_time{0}, server_burst{0};  // as in the configuration; the burst is never 0
  std::atomic<std::int64_t> weight{1}, ceiling{100};
  std::atomic<std::int64_t> replicas{0};  // that it reads from; 0: all
  std::uint64_t key = 0;                  // of its name: routing/subset.h
  std::atomic<std::int64_t> max_waiting{0}, waiting{0};  // for a server
  // Microseconds that its statements take at servers, smoothed over those that had to wait: what the next is
  // taken to cost where statements wait (pool/fair_queue.h).
  std::atomic<std::int64_t> cost{1000};
  void observe_cost(Nanos took) {
    const std::int64_t before = cost.load(std::memory_order_relaxed);
    const std::int64_t now = std::chrono::duration_cast<conf::Micros>(took).count();
    // Rounded so that it gets to every value. Workers may overwrite each other's: it is an estimate.
    cost.store(before + (now - before + (now > before ? 7 : -7)) / 8, std::memory_order_relaxed);
  }
};

// What operators have ordered for one tenant instead of what is configured, until it expires. A rate without
// a burst comes with the default burst.
struct TenantOrder {
  std::optional<std::int64_t> rate, burst, concurrency;
  Instant expires = Instant::max();
  friend bool operator==(const TenantOrder&, const TenantOrder&) = default;
};

// All tenants seen so far. Looked up once per login (and per SET pgsluice.tenant), under a lock;
// bounded: past kMaxTenants ("other" counted) new names share the tenant "other", as does the empty
// name. Its limits are the default's unless [tenant.other] says so. Configured tenants come first,
// so they always have their own number. A tenant is never removed: references stay valid, and
// numbers stay below kMaxTenants.
class TenantRegistry {
 public:
  static constexpr std::size_t kMaxTenants = 1000;
  // So many of them may be made by what the clients of one user say: they could be one client's.
  static constexpr std::size_t kMaxNamedByUser = 100;

  explicit TenantRegistry(const conf::Settings& settings);
  Tenant& find(std::string_view name);
  // The same for a name that a client of `user` has made up (pgsluice.tenant, application_name). One that is
  // new, past kMaxNamedByUser, is "other".
  Tenant& find(std::string_view name, const std::string& user);
  void reload(const conf::Settings& settings);
  // By tenant, all that is ordered now. A tenant of that name need not have come yet.
  void overrule(std::map<std::string, TenantOrder, std::less<>> orders);
  std::vector<const Tenant*> all() const;  // number 0 ("other") first

 private:
  mutable std::mutex mutex_;
  Tenant& add(std::string_view name);
  conf::TenantLimits limits(std::string_view name) const;

  std::map<std::string, std::unique_ptr<Tenant>, std::less<>> tenants_;
  std::vector<Tenant*> by_number_;
  std::map<std::string, std::size_t, std::less<>> named_by_;  // users: how many tenants their clients have made
  conf::TenantLimits default_;
  std::map<std::string, conf::TenantLimits> configured_;
  std::map<std::string, TenantOrder, std::less<>> orders_;
};

struct Admission {
  enum class Answer : std::uint8_t { admit, wait, refuse } answer;
  Refusal why = Refusal::none;
  // wait: ask again then; refuse: what the client is told (with jitter added by the caller)
  Millis retry_after{0};
  // wait: its cell of the rate is taken already, and due then; say so when asking again
  bool has_cell = false;
};

// May `tenant` run one more batch now? On `admit` one concurrency slot and one cell of the rate are
// taken: give the slot back with leave() when the server is released. `waiting_since` is when this
// batch first asked (== now at first); past rate_wait a wait becomes a refusal. A statement that
// would have to wait longer than what is left of rate_wait is refused at once. Concurrency is
// looked at first, so a statement that waits for a slot costs no cell.
Admission admit(Tenant& tenant, Instant now, Instant waiting_since, Millis rate_wait,
                bool has_cell = false);
void leave(Tenant& tenant);

}  // namespace pool
