#pragma once

#include <map>
#include <mutex>
#include <string>

#include "pool/digest_gate.h"

namespace pool {

// The limits of one [[route]] rule on all statements that it fits, together. Null: it has no such limit.
struct RuleLimit {
  DigestLimitRef rate, concurrency;
  bool any() const { return rate != nullptr || concurrency != nullptr; }
};

// May a batch with a statement of this rule run now? A statement counts for the rate each, for concurrency once
// per batch (`again`: an earlier statement of the batch was of the same rule).
DigestGate::Answer admit(const RuleLimit& limit, bool again, Instant now, DigestHold* hold);

// The limits of all rules, by the rules' names, so that all workers count together and a reload that leaves a rule
// as it is forgets nothing of it. Asked when rules are new.
class RuleLimits {
 public:
  RuleLimit find(const std::string& rule, std::int64_t rate, std::int64_t concurrency);

 private:
  std::mutex mutex_;
  std::map<std::string, RuleLimit> limits_;
};

}  // namespace pool
