#include "pool/rule_limits.h"

namespace pool {

DigestGate::Answer admit(const RuleLimit& limit, bool again, Instant now, DigestHold* hold) {
  DigestGate::Answer answer;
  if (limit.concurrency && !again) answer = take(limit.concurrency, now, hold);
  if (answer.why == Refusal::none && limit.rate) answer = take(limit.rate, now, hold);
  if (answer.why == Refusal::digest_rate) answer.why = Refusal::rule_rate;
  if (answer.why == Refusal::digest_concurrency) answer.why = Refusal::rule_concurrency;
  return answer;
}

RuleLimit RuleLimits::find(const std::string& rule, std::int64_t rate, std::int64_t concurrency) {
  const std::lock_guard lock(mutex_);
  RuleLimit& known = limits_[rule];
  const auto renew = [&rule](DigestLimitRef& limit, DigestLimitKind kind, std::int64_t most) {
    if (most == 0) return limit.reset();
    if (limit != nullptr && limit->most == most) return;
    auto made = std::make_shared<DigestLimit>();
    made->kind = kind;
    made->most = most;
    made->origin = rule;
    limit = std::move(made);
  };
  renew(known.rate, DigestLimitKind::rate, rate);
  renew(known.concurrency, DigestLimitKind::concurrency, concurrency);
  return known;
}

}  // namespace pool
