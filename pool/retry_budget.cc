#include "pool/retry_budget.h"

#include <algorithm>
#include <chrono>

namespace pool {

std::string_view name(RetryReason reason) {
  switch (reason) {
    case RetryReason::server_lost: return "server_lost";
    case RetryReason::recovery_conflict: return "recovery_conflict";
    case RetryReason::wrong_node: return "wrong_node";
    case RetryReason::count_: break;
  }
  return "unknown";
}

std::string_view name(RetryRefusal why) {
  switch (why) {
    case RetryRefusal::budget: return "budget";
    case RetryRefusal::overload: return "overload";
    case RetryRefusal::count_: break;
  }
  return "unknown";
}

bool RetryBudget::take(Instant now, std::uint64_t statements, const Limits& limits) {
  constexpr double kWindow = 10;  // seconds
  const double passed = std::max(0.0, std::chrono::duration<double>(now - last_).count());
  const double counted = std::min(passed, kWindow);  // what came before is forgotten
  const auto fresh = static_cast<double>(statements - statements_);
  const double recent = passed > kWindow ? fresh * kWindow / passed : fresh;
  saved_ = saved_ * (1 - counted / kWindow) + limits.share * recent + limits.per_second * counted;
  last_ = now;
  statements_ = statements;
  if (saved_ < 1) return false;
  saved_ -= 1;
  return true;
}

}  // namespace pool
