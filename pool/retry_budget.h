#pragma once

#include <cstdint>
#include <string_view>

#include "conf/units.h"

namespace pool {

using conf::Instant;

// Why a read is run again elsewhere: log, metric label, console.
// To add one: put it here and in name().
enum class RetryReason : std::uint8_t {
  server_lost,        // its connection broke, or the node shuts down
  recovery_conflict,  // the replica had to cancel it in order to replay
  wrong_node,         // the replica cannot run it: the primary can
  count_
};
std::string_view name(RetryReason reason);

// Why a read that could be run again is not: its error is passed on.
enum class RetryRefusal : std::uint8_t {
  budget,    // routing.retry_percent and routing.retry_rate are used up
  overload,  // statements queue: what fails now would only make the queue longer
  count_
};
std::string_view name(RetryRefusal why);

// How much may be run again: a share of all statements, and so many per second beside. When a node dies,
// what was in flight there is a moment's peak and fits; when all nodes refuse everything, retries add
// no more than this to the load. What nobody has used counts for the last ten seconds.
class RetryBudget {
 public:
  struct Limits {
    double share;       // of the statements
    double per_second;
  };
  // Takes one. `statements` is how many have been run since the start; it never falls. Costs some twenty
  // floating-point operations, and nothing while nothing fails.
  bool take(Instant now, std::uint64_t statements, const Limits& limits);

 private:
  double saved_ = 0;
  Instant last_{};
  std::uint64_t statements_ = 0;
};

}  // namespace pool
