#pragma once

#include <algorithm>
#include <cstdint>

#include "conf/settings.h"

namespace routing {

// The limits of what no rule says anything of; a time-out of zero never ends anything.
struct RouteDefaults {
  conf::Millis max_lag, query_timeout;
};

// What [[route]] rules and hints say of one statement, or of a whole batch, instead of the configuration.
// Small, because every client has room for one. To add an outcome: a field here and its line in join(); its
// key in conf::RouteRule; and in overrides_of() (rules.cc) who has the last word, rule or hint.
struct RouteOverrides {
  bool given : 1 = false;           // something said something; else nothing else here counts
  bool blocked : 1 = false;         // by the rule `rule`
  bool target_by_hint : 1 = false;  // else by a rule
  bool may_share : 1 = false;  // the answer is good for others who ask the same: coalesce, cache
  std::uint8_t transactions : 2 = 0;  // 1 + conf::Transactions; 0: as configured
  std::uint8_t priority : 2 = 0;      // conf::Priority of `service_class`
  conf::Consistency consistency = conf::Consistency::session;
  conf::RouteTarget target = conf::RouteTarget::any;
  std::uint8_t service_class = 0;  // 1 + pool::ClassId; 0: the session's
  std::uint16_t rule = 0;       // 1 + its place among the rules; 0: none fits
  std::uint16_t nodes_by = 0;   // 1 + the place of the rule whose groups of nodes count; 0: any node does
  std::uint32_t max_lag_ms = 0, query_timeout_ms = 0;  // 0: as configured
};

// RouteOverrides::nodes_by where two rules want different nodes: the primary serves.
inline constexpr std::uint16_t kNoNodes = UINT16_MAX;

// Does a replica that was good enough for the one do for the other too?
inline bool alike(const RouteOverrides& one, const RouteOverrides& other) {
  if (!one.given && !other.given) [[likely]] return true;
  return one.given && other.given && one.consistency == other.consistency && one.max_lag_ms == other.max_lag_ms &&
         one.nodes_by == other.nodes_by;
}

// Both go to one server, so the stricter of each counts. Of the names of two rules the one that blocks is
// kept, else the first.
inline RouteOverrides join(const RouteOverrides& a, const RouteOverrides& b, const RouteDefaults& defaults) {
  using conf::RouteTarget;
  // Of two limits; 0 stands for `usual`, and a `usual` of 0 for none.
  const auto stricter = [](std::uint32_t one, std::uint32_t other, conf::Millis usual) {
    if (one != 0 && other != 0) return std::min(one, other);
    const std::uint32_t said = std::max(one, other);
    return usual.count() == 0 || said < usual.count() ? said : 0;
  };
  RouteOverrides both = b.blocked && !a.blocked ? b : a;
  both.given = true;
  both.may_share = false;  // answers are shared one by one
  const bool one_says = a.transactions == 0 || b.transactions == 0;
  both.transactions = (a.transactions < b.transactions) == one_says ? b.transactions : a.transactions;
  // The class that waits more readily: nobody is served sooner for what it is sent with.
  const RouteOverrides& humbler = a.service_class == 0 || (b.service_class != 0 && b.priority > a.priority) ? b : a;
  both.service_class = humbler.service_class;
  both.priority = humbler.priority;
  both.nodes_by = a.nodes_by == 0 || a.nodes_by == b.nodes_by ? b.nodes_by : b.nodes_by == 0 ? a.nodes_by : kNoNodes;
  both.consistency = std::max(a.consistency, b.consistency);
  if (a.target != b.target) {
    const bool primary = a.target == RouteTarget::primary || b.target == RouteTarget::primary;
    both.target = primary ? RouteTarget::primary : RouteTarget::any;
    both.target_by_hint = a.target == RouteTarget::primary ? a.target_by_hint : b.target_by_hint;
  }
  if (both.rule == 0) both.rule = b.rule;
  both.max_lag_ms = stricter(a.max_lag_ms, b.max_lag_ms, defaults.max_lag);
  both.query_timeout_ms = stricter(a.query_timeout_ms, b.query_timeout_ms, defaults.query_timeout);
  return both;
}

}  // namespace routing
