#include "pool/rule_limits.h"

#include <doctest/doctest.h>

using namespace pool;
using namespace std::chrono_literals;

namespace {
constexpr Instant kNow{1h};
}

TEST_SUITE("pool/rule_limits") {
  TEST_CASE("a rule's concurrency counts batches until they end, and says who refused") {
    RuleLimits rules;
    const RuleLimit limit = rules.find("reports", 0, 2);
    CHECK(limit.any());
    DigestHold one, two, three;
    CHECK(admit(limit, false, kNow, &one).why == Refusal::none);
    CHECK(admit(limit, true, kNow, &one).why == Refusal::none);  // the same batch
    CHECK(admit(limit, false, kNow, &two).why == Refusal::none);
    const LimitAnswer refused = admit(limit, false, kNow, &three);
    CHECK(refused.why == Refusal::rule_concurrency);
    CHECK(refused.limit->origin == "reports");
    CHECK(three.empty());
    one.give_back();
    CHECK(admit(limit, false, kNow, &three).why == Refusal::none);
  }

  TEST_CASE("a rule's rate counts every statement, and says when to come back") {
    RuleLimits rules;
    const RuleLimit limit = rules.find("reports", 20, 0);
    DigestHold hold;
    CHECK(admit(limit, false, kNow, &hold).why == Refusal::none);
    CHECK(admit(limit, true, kNow, &hold).why == Refusal::none);
    const LimitAnswer refused = admit(limit, true, kNow, &hold);
    CHECK(refused.why == Refusal::rule_rate);
    CHECK(refused.retry_after > 0ns);
    CHECK(refused.retry_after <= 50ms);
    CHECK(admit(limit, false, kNow + 50ms, &hold).why == Refusal::none);
    CHECK(hold.empty());
  }

  TEST_CASE("workers share a rule's limits by its name, and a reload that leaves them as they are keeps the count") {
    RuleLimits rules;
    const RuleLimit first = rules.find("a", 5, 1), same = rules.find("a", 5, 1), other = rules.find("b", 5, 1);
    CHECK(first.rate == same.rate);
    CHECK(first.concurrency == same.concurrency);
    CHECK(first.rate != other.rate);
    const RuleLimit changed = rules.find("a", 5, 3);
    CHECK(changed.rate == first.rate);
    CHECK(changed.concurrency != first.concurrency);
    CHECK_FALSE(rules.find("a", 0, 0).any());
  }
}
