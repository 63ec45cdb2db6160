#include "routing/chooser.h"

#include <doctest/doctest.h>

#include <map>
#include <memory>
#include <vector>

using namespace routing;
using namespace std::chrono_literals;

namespace {

NodeState replica(int id, Lsn replayed = {}) {
  NodeState node;
  node.id = NodeId(id);
  node.ips = {"127.0.0.1"};
  node.role = NodeRole::replica;
  node.health = NodeHealth::up;
  node.lag = 0ms;
  node.lag_ok = true;
  node.replayed = replayed;
  node.timeline = 1;
  return node;
}

ClusterState cluster_of(std::vector<NodeState> nodes) {
  ClusterState cluster;
  cluster.name = "main";
  cluster.nodes = std::move(nodes);
  return cluster;
}

// Node 0 is the primary, 1 .. n are replicas.
ClusterState with_replicas(int n) {
  NodeState primary = replica(0);
  primary.role = NodeRole::primary;
  ClusterState cluster = cluster_of({primary});
  cluster.primary = NodeId(0);
  for (int i = 1; i <= n; ++i) cluster.nodes.push_back(replica(i));
  return cluster;
}

ReadReason why(const ClusterState& cluster, const ReadNeeds& needs) {
  static const NodeLoads loads;
  std::minstd_rand random(1);
  const ReadChoice choice = choose_replica(cluster, needs, loads, random);
  CHECK(choice.replica.has_value() == (choice.why == ReadReason::fresh_replica));
  return choice.why;
}

// A closed loop in virtual time: `clients` always have one read running, which takes the node's
// service time, jittered by a quarter. Reads served, by node.
std::map<int, int> simulate(const ClusterState& cluster,
                            const std::map<int, std::uint32_t>& slow_us, int clients, int reads,
                            unsigned seed) {
  ClusterState published = cluster;
  published.find_serving();  // as the monitor does
  auto loads = std::make_unique<NodeLoads>();
  std::minstd_rand random(seed);
  std::map<int, int> served;
  std::multimap<std::uint64_t, std::pair<int, std::uint32_t>> running;  // end -> node, time
  std::uint64_t now = 0;
  for (int i = 0; i < reads; ++i) {
    if (static_cast<int>(running.size()) == clients) {
      const auto first = running.begin();
      now = first->first;
      NodeLoad& load = (*loads)[static_cast<std::size_t>(first->second.first)];
      load.in_flight.fetch_sub(1);
      load.observe(first->second.second);
      running.erase(first);
    }
    const ReadChoice choice = choose_replica(published, {}, *loads, random);
    if (!choice.replica) FAIL("no replica was chosen");
    const int node = static_cast<int>(index(*choice.replica));
    const auto slow = slow_us.find(node);
    const std::uint32_t base = slow == slow_us.end() ? 500 : slow->second;
    const std::uint32_t us = base + static_cast<std::uint32_t>(random() % (base / 4));
    (*loads)[index(*choice.replica)].in_flight.fetch_add(1);
    running.emplace(now + us, std::pair{node, us});
    ++served[node];
  }
  return served;
}

}  // namespace

TEST_SUITE("routing/chooser") {
  TEST_CASE("a read's own max_lag counts instead of what is configured, shorter and longer") {
    ClusterState cluster = with_replicas(2);
    cluster.nodes[1].lag = 3s;
    cluster.nodes[2].lag = 1min;
    cluster.nodes[2].lag_ok = false;
    cluster.find_serving();
    CHECK(why(cluster, {}) == ReadReason::fresh_replica);
    CHECK(why(cluster, {.max_lag = 3s}) == ReadReason::fresh_replica);
    CHECK(why(cluster, {.max_lag = 2999ms}) == ReadReason::all_lagging);
    cluster.nodes[1].drained = true;
    cluster.find_serving();
    CHECK(why(cluster, {}) == ReadReason::all_lagging);
    CHECK(why(cluster, {.max_lag = 1min}) == ReadReason::fresh_replica);
    cluster.nodes[2].lag = std::nullopt;  // unknown is never zero
    CHECK(why(cluster, {.max_lag = 1h}) == ReadReason::all_lagging);
  }

  TEST_CASE("each reason to have no replica has its own word") {
    ClusterState cluster = with_replicas(2);
    CHECK(why(cluster, {}) == ReadReason::fresh_replica);
    CHECK(why(with_replicas(0), {}) == ReadReason::no_replica);
    CHECK(why(cluster, {.floor = Lsn{5}}) == ReadReason::none_has_replayed);
    cluster.nodes[1].drained = true;
    CHECK(!cluster.serves_reads(cluster.nodes[1]));
    CHECK(why(cluster, {}) == ReadReason::fresh_replica);
    for (NodeState& node : cluster.nodes) node.drained = true;
    CHECK(why(cluster, {}) == ReadReason::all_drained);
    for (NodeState& node : cluster.nodes) node.drained = false;
    for (NodeState& node : cluster.nodes) node.lag_ok = false;
    CHECK(why(cluster, {}) == ReadReason::all_lagging);
    for (NodeState& node : cluster.nodes) node.health = NodeHealth::down;
    CHECK(why(cluster, {}) == ReadReason::no_replica_up);
    for (NodeState& node : cluster.nodes) node.role = NodeRole::unknown;
    CHECK(why(cluster, {}) == ReadReason::no_replica);
  }

  TEST_CASE("a node that is down, unknown, late, without address or just failed is never picked") {
    const auto spoil = {
        +[](NodeState& node) { node.health = NodeHealth::down; },
        +[](NodeState& node) { node.health = NodeHealth::unknown; },
        +[](NodeState& node) { node.role = NodeRole::primary; },
        +[](NodeState& node) { node.role = NodeRole::unknown; },
        +[](NodeState& node) { node.lag_ok = false; },
        +[](NodeState& node) { node.ips.clear(); },
    };
    const auto loads = std::make_unique<NodeLoads>();
    for (const auto& break_it : spoil) {
      ClusterState cluster = with_replicas(3);
      break_it(cluster.nodes[2]);
      ClusterState indexed = cluster;
      indexed.find_serving();
      CHECK(indexed.serving == std::vector<NodeId>{NodeId(1), NodeId(3)});
      for (unsigned seed = 1; seed <= 200; ++seed) {
        std::minstd_rand random(seed), again(seed);
        const auto chosen = choose_replica(cluster, {}, *loads, random).replica;
        CHECK(chosen != NodeId(2));
        CHECK(choose_replica(indexed, {}, *loads, again).replica == chosen);
      }
    }
    const ClusterState cluster = with_replicas(3);
    for (unsigned seed = 1; seed <= 200; ++seed) {
      std::minstd_rand random(seed);
      CHECK(choose_replica(cluster, {.excluded = 0b1010}, *loads, random).replica == NodeId(2));
    }
    CHECK(why(cluster, {.excluded = 0b1110}) == ReadReason::no_replica_up);
  }

  TEST_CASE("a node that was just accepted as primary is not read from as a replica") {
    ClusterState cluster = with_replicas(1);
    cluster.primary = NodeId(1);
    CHECK(why(cluster, {}) == ReadReason::no_replica);
    cluster.find_serving();
    CHECK(why(cluster, {}) == ReadReason::no_replica);
  }

  TEST_CASE("after a write only replicas that have replayed it serve the session") {
    ClusterState cluster = with_replicas(2);
    cluster.nodes[1].replayed = Lsn{99};
    cluster.nodes[2].replayed = Lsn{100};
    const auto loads = std::make_unique<NodeLoads>();
    for (unsigned seed = 1; seed <= 200; ++seed) {
      std::minstd_rand random(seed);
      CHECK(choose_replica(cluster, {.floor = Lsn{100}}, *loads, random).replica == NodeId(2));
    }
  }

  TEST_CASE("a position on another timeline does not count as replayed") {
    ClusterState cluster = with_replicas(1);
    cluster.nodes[1].replayed = Lsn{500};
    cluster.nodes[0].timeline = 2;
    CHECK(why(cluster, {.floor = Lsn{100}}) == ReadReason::none_has_replayed);
    CHECK(why(cluster, {}) == ReadReason::fresh_replica);
    cluster.nodes[1].timeline = 0;  // it does not say
    CHECK(why(cluster, {.floor = Lsn{100}}) == ReadReason::fresh_replica);
  }

  TEST_CASE("reads go on when there is no primary") {
    ClusterState cluster = with_replicas(2);
    cluster.primary = std::nullopt;
    cluster.nodes[0].health = NodeHealth::down;
    CHECK(why(cluster, {}) == ReadReason::fresh_replica);
  }

  TEST_CASE("equal replicas share evenly") {
    for (const int replicas : {2, 3, 50}) {
      for (const unsigned seed : {1u, 42u, 12345u}) {
        CAPTURE(replicas);
        CAPTURE(seed);
        const int reads = replicas * 8'000;
        const auto served = simulate(with_replicas(replicas), {}, replicas * 4, reads, seed);
        REQUIRE(served.size() == static_cast<std::size_t>(replicas));
        for (const auto& [node, count] : served) {
          CAPTURE(node);
          CHECK(count > 8'000 * 0.93);
          CHECK(count < 8'000 * 1.07);
        }
      }
    }
  }

  TEST_CASE("a replica slowed twentyfold gets at most a fifth of its fair share") {
    for (const int replicas : {2, 5, 50}) {
      for (const int clients : {1, replicas, replicas * 8}) {
        for (const unsigned seed : {1u, 42u, 12345u}) {
          CAPTURE(replicas);
          CAPTURE(clients);
          CAPTURE(seed);
          const int reads = replicas * 3'000;
          auto served = simulate(with_replicas(replicas), {{1, 10'000}}, clients, reads, seed);
          CHECK(served[1] <= 3'000 / 5);
          CHECK(served[1] > 0);
        }
      }
    }
  }

  TEST_CASE("a replica that was slow once is asked again, and gets its share back") {
    const ClusterState cluster = with_replicas(2);
    const auto loads = std::make_unique<NodeLoads>();
    (*loads)[1].observe(1'000'000);
    (*loads)[2].observe(500);
    std::minstd_rand random(3);
    int late_share = 0;
    for (int i = 0; i < 100'000; ++i) {
      const NodeId node = *choose_replica(cluster, {}, *loads, random).replica;
      (*loads)[index(node)].observe(500);
      if (i >= 90'000 && node == NodeId(1)) ++late_share;
    }
    CHECK(late_share > 4'000);
  }

  TEST_CASE("a replica without any latency yet is tried beside loaded ones") {
    const ClusterState cluster = with_replicas(3);
    const auto loads = std::make_unique<NodeLoads>();
    (*loads)[1].observe(500);
    (*loads)[1].in_flight = 2;
    (*loads)[2].observe(600);
    (*loads)[2].in_flight = 2;
    std::minstd_rand random(3);
    int fresh = 0;
    for (int i = 0; i < 3000; ++i)
      fresh += choose_replica(cluster, {}, *loads, random).replica == NodeId(3) ? 1 : 0;
    CHECK(fresh > 1800);
    CHECK(fresh < 2200);  // two draws of three: it is among them two times in three
  }

  TEST_CASE("latency rises half way to a peak at once and decays by a thirty-second") {
    NodeLoad load;
    load.observe(0);
    CHECK(load.latency_us == 1);
    load.latency_us = 0;
    load.observe(1000);
    CHECK(load.latency_us == 1000);
    load.observe(9000);
    CHECK(load.latency_us == 5000);
    load.observe(1800);
    CHECK(load.latency_us == 4900);
    for (int i = 0; i < 1000; ++i) load.observe(1000);
    CHECK(load.latency_us == 1000);
    load.observe(~std::uint32_t{0});
    load.observe(~std::uint32_t{0});
    CHECK(load.latency_us > (~std::uint32_t{0} / 4) * 2);
  }
}
