#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "conf/settings.h"

namespace pool {

// Processes that stand in front of the same clusters are a fleet, and together may put no more on Postgres than
// one of them alone: each takes its part of every limit that protects Postgres. Who is there is found out by
// proxy::MonitorFleet; what follows from it is said here.
struct FleetShare {
  std::uint32_t members = 1;
  std::uint32_t rank = 0;  // from 0, by name: who gets what does not divide evenly
  friend bool operator==(const FleetShare&, const FleetShare&) = default;
};

// `own` counts whether it is among `members` or not.
FleetShare share_of(const std::string& own, const std::set<std::string>& members);

// Parts of all ranks add up to `whole`, but for the fleet with more members than there is to divide, where
// everybody has `at_least`. A limit of 0 is none, whoever has it.
std::int64_t part(std::int64_t whole, FleetShare share, std::int64_t at_least = 1);

// The settings as this member is to follow them. Divided are the servers (sizes of pools, what a node, a
// database and a user may have) and the limits of tenants (rate, burst, concurrency); not divided is what
// protects the process itself, such as the number of clients.
conf::Settings divide(const conf::Settings& whole, FleetShare share);

}  // namespace pool
