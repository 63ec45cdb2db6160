#pragma once

#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "routing/chooser.h"
#include "routing/facts.h"
#include "routing/router.h"

namespace routing {

// What EXPLAIN ROUTE asks: where would this statement of this session go now?
struct RouteQuestion {
  const Facts& facts;
  const SessionState& session;
  conf::PoolMode mode;
  RouteOverrides overrides{};  // what rules and hints say of it; given is false: nothing
  std::string rule{};          // the name of the one that fits; "": none
  std::string rule_does{};     // outcome_text()
  std::string service_class{};
  conf::Transactions transactions = conf::Transactions::primary;
  std::uint64_t groups = 0;    // as in ReadNeeds
  const ClusterState* cluster = nullptr;  // null: it is not known (yet)
  std::uint64_t excluded = 0;  // as in ReadNeeds
  std::uint64_t kept_from = 0;  // the same, because they are another class's own or outside the tenant's subset
  bool dry_run = false;
};

struct RouteRow {
  std::string property, value;
};

// The answer, and why: class, digest, rule, target, and every node with the reason why it may not serve.
// route() and choose_replica() are asked, so that it cannot say anything else than they do.
std::vector<RouteRow> explain_route(const RouteQuestion& question, const NodeLoads& loads);

// A digest as it is shown and as rules name it: 16 hexadecimal digits.
std::string digest_text(std::uint64_t digest);

}  // namespace routing
