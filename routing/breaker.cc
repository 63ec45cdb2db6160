#include "routing/breaker.h"

#include <algorithm>

namespace routing {

std::string_view name(BreakerReason reason) {
  switch (reason) {
    case BreakerReason::none: return "";
    case BreakerReason::consecutive_failures: return "consecutive_failures";
    case BreakerReason::failure_rate: return "failure_rate";
    case BreakerReason::latency: return "latency";
  }
  return "unknown";
}

void Breaker::outcome(Instant now, bool good, const BreakerRules& rules) {
  if (state_ != BreakerState::closed) return;
  in_row_ = good ? 0 : in_row_ + 1;
  last_[next_] = {now, good};
  next_ = (next_ + 1) % last_.size();
  filled_ = std::min(filled_ + 1, last_.size());
  if (good) {
    if (wish_ != BreakerReason::latency) wish_ = BreakerReason::none;
    return;
  }
  if (rules.failures > 0 && in_row_ >= rules.failures) {
    wish_ = BreakerReason::consecutive_failures;
    return;
  }
  const std::size_t sample = std::clamp<std::size_t>(rules.sample, 1, kMaxSample);
  if (filled_ < sample) return;
  std::size_t failed = 0;
  for (std::size_t back = 1; back <= sample; ++back) {
    const Outcome& one = last_[(next_ + last_.size() - back) % last_.size()];
    if (now - one.at > rules.window) return;
    failed += one.good ? 0 : 1;
  }
  if (failed * 100 >= sample * rules.failure_percent) wish_ = BreakerReason::failure_rate;
}

void Breaker::measure(Instant now, std::uint32_t latency, std::uint32_t peers_median,
                      const BreakerRules& rules) {
  const bool slow = rules.latency_factor > 0 && peers_median > 0 &&
                    latency >= std::uint64_t{peers_median} * rules.latency_factor;
  if (!slow || state_ != BreakerState::closed) {
    slow_since_.reset();
    if (wish_ == BreakerReason::latency) wish_ = BreakerReason::none;
    return;
  }
  if (!slow_since_) slow_since_ = now;
  if (now - *slow_since_ >= kLatencyFor && wish_ == BreakerReason::none) wish_ = BreakerReason::latency;
}

void Breaker::eject(Instant now, BreakerReason why, const BreakerRules& rules,
                    std::minstd_rand& random) {
  // Who has been well for long begins anew.
  if (closed_at_ && now - *closed_at_ > rules.max_open + rules.slow_start) ejections_ = 0;
  Millis time = rules.min_open;
  for (unsigned i = 0; i < ejections_ && time < rules.max_open; ++i) time *= 2;
  time = std::min(time, std::max(rules.min_open, rules.max_open));
  ++ejections_;
  ++counts_[static_cast<std::size_t>(why)];
  // Up to a quarter longer, so that processes that ejected it together do not come back together.
  const auto quarter = std::max<std::int64_t>(1, time.count() / 4);
  until_ = now + time + Millis(static_cast<std::int64_t>(random()) % quarter);
  state_ = BreakerState::open;
  why_ = why;
  start_over();
}

void Breaker::start_over() {
  in_row_ = 0;
  filled_ = 0;
  slow_since_.reset();
  wish_ = BreakerReason::none;
}

bool Breaker::tick(Instant now) {
  if (state_ != BreakerState::open || now < until_) return false;
  state_ = BreakerState::half_open;
  return true;
}

bool Breaker::probed(Instant now, Instant asked) {
  if (state_ != BreakerState::half_open || asked < until_) return false;
  state_ = BreakerState::closed;
  start_over();
  closed_at_ = now;
  return true;
}

void Breaker::returned(Instant now) {
  start_over();
  closed_at_ = now;
}

Millis Breaker::left(Instant now) const {
  if (state_ != BreakerState::open || now >= until_) return Millis(0);
  return std::chrono::ceil<Millis>(until_ - now);
}

std::uint16_t Breaker::ramp(Instant now, const BreakerRules& rules) const {
  if (!closed_at_ || state_ != BreakerState::closed) return 100;
  const auto past = std::max(Instant::duration::zero(), now - *closed_at_);
  if (past >= rules.slow_start) return 100;
  const unsigned first = std::clamp(rules.slow_start_percent, 1U, 100U);
  const auto part = static_cast<double>(past.count()) /
                    static_cast<double>(Instant::duration(rules.slow_start).count());
  return static_cast<std::uint16_t>(first + (100 - first) * part);
}

}  // namespace routing
