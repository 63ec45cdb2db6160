#include "routing/subset.h"

#include <bit>
#include <map>
#include <string>

#include <doctest/doctest.h>

using namespace routing;

namespace {

ClusterState with_nodes(std::size_t count) {
  ClusterState cluster;
  for (std::size_t i = 0; i < count; ++i) {
    NodeState& node = cluster.nodes.emplace_back();
    node.id = static_cast<NodeId>(i);
    node.role = i == 0 ? NodeRole::primary : NodeRole::replica;
    node.key = subset_key("10.0.0." + std::to_string(i) + ":5432");
  }
  cluster.primary = static_cast<NodeId>(0);
  return cluster;
}

std::uint64_t all_of(const ClusterState& cluster) { return (std::uint64_t{1} << cluster.nodes.size()) - 1; }

// Bits of the replicas that the tenant reads from.
std::uint64_t subset(const ClusterState& cluster, int tenant, std::size_t count, std::uint64_t barred = 0) {
  const std::uint64_t key = subset_key("tenant" + std::to_string(tenant));
  return all_of(cluster) & ~outside_subset(cluster, key, count, barred) & ~barred & ~std::uint64_t{1};
}

}  // namespace

TEST_SUITE("routing/subset") {
  TEST_CASE("a tenant has as many replicas as it may, always the same, never the primary for one of them") {
    const ClusterState cluster = with_nodes(51);
    for (int tenant = 0; tenant < 200; ++tenant)
      for (const std::size_t count : {1U, 3U, 49U}) {
        CHECK(std::popcount(subset(cluster, tenant, count)) == static_cast<int>(count));
        CHECK(subset(cluster, tenant, count) == subset(cluster, tenant, count));
      }
    for (const std::size_t count : {50U, 51U, 64U})
      CHECK(outside_subset(cluster, subset_key("tenant"), count, 0) == 0);
  }

  TEST_CASE("tenants are spread evenly, and two of them seldom have all in common") {
    const ClusterState cluster = with_nodes(51);
    std::map<std::size_t, int> tenants_at;
    std::map<std::uint64_t, int> alike;
    for (int tenant = 0; tenant < 5000; ++tenant) {
      const std::uint64_t own = subset(cluster, tenant, 3);
      ++alike[own];
      for (std::size_t i = 1; i < 51; ++i) tenants_at[i] += own >> i & 1 ? 1 : 0;
    }
    for (std::size_t i = 1; i < 51; ++i) {  // 300 each; four standard deviations of 17
      CHECK(tenants_at[i] > 232);
      CHECK(tenants_at[i] < 368);
    }
    for (const auto& [own, count] : alike) CHECK(count < 10);  // of 19,600 subsets
  }

  TEST_CASE("a node that comes moves those who get it alone, one that goes those who had it") {
    const ClusterState few = with_nodes(50), more = with_nodes(51);
    const std::uint64_t fresh = std::uint64_t{1} << 50;
    int moved = 0;
    for (int tenant = 0; tenant < 1000; ++tenant) {
      const std::uint64_t before = subset(few, tenant, 3), after = subset(more, tenant, 3);
      if ((after & fresh) == 0) {
        CHECK(after == before);
      } else {
        ++moved;
        CHECK(std::popcount(before & after) == 2);
      }
    }
    CHECK(moved > 20);
    CHECK(moved < 120);  // 60 of 1000
  }

  TEST_CASE("one that is down keeps its place, a promoted one gives it away, and what is barred counts for nothing") {
    ClusterState cluster = with_nodes(6);
    const std::uint64_t own = subset(cluster, 1, 2);
    for (NodeState& node : cluster.nodes) node.health = NodeHealth::down;
    CHECK(subset(cluster, 1, 2) == own);
    const std::uint64_t without = subset(cluster, 1, 2, own);
    CHECK(std::popcount(without) == 2);
    CHECK((without & own) == 0);
    const int first = std::countr_zero(own);
    cluster.primary = static_cast<NodeId>(first);
    const std::uint64_t key = subset_key("tenant1");
    const std::uint64_t allowed = all_of(cluster) & ~outside_subset(cluster, key, 2, 0);
    CHECK(std::popcount(allowed) == 3);  // two and the primary, which no read is offered as a replica
    CHECK((allowed & own) == own);
  }
}
