#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <random>
#include <string_view>

#include "routing/topology.h"

namespace routing {

// Why a node's breaker opened: log field, metric label, SHOW BREAKERS.
enum class BreakerReason : std::uint8_t {
  none,
  consecutive_failures,  // connections to it that failed one after the other
  failure_rate,          // too many of the last ones
  latency,               // many times the median of its peers, for a while
};
std::string_view name(BreakerReason reason);
static_assert(static_cast<std::size_t>(BreakerReason::latency) + 1 == kBreakerReasons);

struct BreakerRules {
  unsigned failures = 3;         // in a row; 0: never
  unsigned sample = 20;          // so many outcomes, all within `window`, of which
  unsigned failure_percent = 50;  // so many failed
  Millis window{10'000};
  unsigned latency_factor = 5;   // times the peers' median; 0: never
  Millis min_open{1'000}, max_open{60'000};
  Millis slow_start{30'000};     // 0: at once
  unsigned slow_start_percent = 10;  // where it begins
};

// Takes a node out of the choice for reads when connections to it fail or it has become much slower than
// its peers, although its probes are answered; and lets it in again slowly. What never counts: SQL errors,
// cancels, 53300, and one connection that an administrator ended. One per node, kept by the control thread,
// which also sees to it that not too many are ejected (may_eject()).
//
// closed -> open: eject(). open -> half_open: time has passed (each time twice as long, jittered).
// half_open -> closed: the node answered a probe that was asked after that; slow start begins.
class Breaker {
 public:
  static constexpr unsigned kMaxSample = 100;
  // Latency must be this high for as long: one bad moment ejects nobody.
  static constexpr Millis kLatencyFor{1'000};

  // A connection to it was made, or failed because of it.
  void outcome(Instant now, bool good, const BreakerRules& rules);
  // Its latency and the median of its peers' (0: it has none), every kFadePeriod.
  void measure(Instant now, std::uint32_t latency, std::uint32_t peers_median,
               const BreakerRules& rules);
  // Closed, and there is a reason to open it.
  BreakerReason wants_out() const { return state_ == BreakerState::closed ? wish_ : BreakerReason::none; }
  void eject(Instant now, BreakerReason why, const BreakerRules& rules, std::minstd_rand& random);

  // Time has passed: true when it has become half open, and the node is to be probed.
  bool tick(Instant now);
  // The node has answered a probe that was asked `asked`. True: it has closed.
  bool probed(Instant now, Instant asked);
  // The node was down and is up again.
  void returned(Instant now);

  BreakerState state() const { return state_; }
  BreakerReason why() const { return why_; }  // of the last time that it opened
  unsigned ejections() const { return ejections_; }
  std::uint64_t count(BreakerReason why) const { return counts_[static_cast<std::size_t>(why)]; }
  unsigned failures_in_row() const { return in_row_; }
  // Until it becomes half open; zero when it is not open.
  Millis left(Instant now) const;
  // Percent of its weight that it has now.
  std::uint16_t ramp(Instant now, const BreakerRules& rules) const;

 private:
  struct Outcome {
    Instant at;
    bool good;
  };
  void start_over();

  BreakerState state_ = BreakerState::closed;
  BreakerReason why_ = BreakerReason::none, wish_ = BreakerReason::none;
  unsigned in_row_ = 0;
  std::array<Outcome, kMaxSample> last_{};  // a ring
  std::size_t next_ = 0, filled_ = 0;
  std::optional<Instant> slow_since_;
  unsigned ejections_ = 0;  // in a row, without max_open of quiet between them
  std::array<std::uint64_t, kBreakerReasons> counts_{};
  Instant until_{};         // open until then
  std::optional<Instant> closed_at_;  // and slow start began
};

// May one more of a cluster's replicas be ejected? `out`: of `replicas` so many are ejected, down or drained
// already; at most `percent` of them may be.
constexpr bool may_eject(std::size_t replicas, std::size_t out, unsigned percent) {
  return (out + 1) * 100 <= replicas * percent;
}

}  // namespace routing
