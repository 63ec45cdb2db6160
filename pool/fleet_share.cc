#include "pool/fleet_share.h"

#include <algorithm>
#include <iterator>
#include <optional>

namespace pool {

FleetShare share_of(const std::string& own, const std::set<std::string>& members) {
  const auto before = std::distance(members.begin(), members.lower_bound(own));
  return {static_cast<std::uint32_t>(members.size() + (members.contains(own) ? 0 : 1)),
          static_cast<std::uint32_t>(before)};
}

std::int64_t part(std::int64_t whole, FleetShare share, std::int64_t at_least) {
  if (whole <= 0) return whole;
  const std::int64_t members = share.members;
  const std::int64_t mine = whole / members + (share.rank < whole % members ? 1 : 0);
  return std::max(mine, at_least);
}

conf::Settings divide(const conf::Settings& whole, FleetShare share) {
  conf::Settings mine = whole;
  const auto take = [share](std::int64_t& limit) { limit = part(limit, share); };
  const auto take_some = [share](std::optional<std::int64_t>& limit) {
    if (limit) limit = part(*limit, share);
  };
  // Nobody needs to keep a server ready when somebody else does.
  const auto take_minimum = [share](std::int64_t& limit) { limit = part(limit, share, 0); };
  const auto take_overrides = [&](conf::PoolOverrides& section) {
    take_some(section.pool_size);
    if (section.pool_min_size) take_minimum(*section.pool_min_size);
    take_some(section.max_servers);
  };
  const auto take_tenant = [&](conf::TenantLimits& tenant) {
    take(tenant.rate);
    take(tenant.burst);
    take(tenant.concurrency);
    take(tenant.server_time);
    take(tenant.server_burst);
  };
  take(mine.pool_size);
  take_minimum(mine.pool_min_size);
  take(mine.pool_servers_per_node);
  take(mine.pool_servers_per_database);
  take(mine.pool_servers_per_user);
  take_tenant(mine.tenant_default);
  for (auto& [name, cluster] : mine.clusters) take_some(cluster.max_servers);
  for (auto& [name, database] : mine.databases) take_overrides(database);
  for (auto& [name, user] : mine.users) take_overrides(user);
  for (auto& [name, tenant] : mine.tenants) take_tenant(tenant);
  return mine;
}

}  // namespace pool
