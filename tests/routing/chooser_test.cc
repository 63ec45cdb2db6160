#include "routing/breaker.h"
#include "routing/chooser.h"

#include <doctest/doctest.h>

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string>
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

std::vector<NodeId> ids(const ClusterState& cluster) {
  std::vector<NodeId> found;
  for (const Candidate& one : cluster.serving) found.push_back(one.id);
  return found;
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
  const auto baselines = std::make_unique<Baselines>();
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
      const std::uint32_t us = first->second.second;
      load.observe(baselines->relative(7, us), us);
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

  TEST_CASE("a lag that is tolerated adds replicas to those that serve anyhow") {
    ClusterState cluster = with_replicas(1);
    cluster.nodes[1].lag = 1min;  // kept, as one of the last
    cluster.find_serving();
    CHECK(why(cluster, {.tolerated = 3s}) == ReadReason::fresh_replica);
    cluster.nodes[1].lag_ok = false;
    cluster.find_serving();
    CHECK(why(cluster, {.tolerated = 59s}) == ReadReason::all_lagging);
    CHECK(why(cluster, {.tolerated = 1min}) == ReadReason::fresh_replica);
    cluster.nodes[1].lag_bytes = 1000;
    CHECK(why(cluster, {.tolerated = 1min, .tolerated_bytes = 999}) == ReadReason::all_lagging);
    CHECK(why(cluster, {.tolerated = 1min, .tolerated_bytes = 1000}) == ReadReason::fresh_replica);
    CHECK(why(cluster, {.tolerated = 59s, .tolerated_bytes = 1000}) == ReadReason::all_lagging);
    cluster.nodes[1].lag = std::nullopt;  // unknown is never zero
    CHECK(why(cluster, {.tolerated = 1h}) == ReadReason::all_lagging);
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
      CHECK(ids(indexed) == std::vector<NodeId>{NodeId(1), NodeId(3)});
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

  TEST_CASE("requirement 29: a minimum of replicas serves however late, the least late first") {
    ClusterState cluster = with_replicas(4);
    for (NodeState& node : cluster.nodes) node.lag_ok = false;
    cluster.nodes[1].lag = 30s;
    cluster.nodes[2].lag = 20s;
    cluster.nodes[3].lag = std::nullopt;  // unknown is never a little
    cluster.nodes[4].lag = 1s;
    cluster.nodes[4].health = NodeHealth::down;
    const auto serving = [&cluster](std::size_t least) {
      ClusterState kept = cluster;
      kept.keep_serving(least);
      kept.find_serving();
      return ids(kept);
    };
    CHECK(serving(0).empty());
    CHECK(serving(1) == std::vector<NodeId>{NodeId(2)});
    CHECK(serving(2) == std::vector<NodeId>{NodeId(1), NodeId(2)});
    CHECK(serving(9) == std::vector<NodeId>{NodeId(1), NodeId(2)});
    cluster.nodes[1].lag_ok = true;
    CHECK(serving(1) == std::vector<NodeId>{NodeId(1)});
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
    (*loads)[1].observe(Baselines::kLongest, 16'000);
    std::minstd_rand random(3);
    CHECK((*loads)[1].latency > 4 * kNormal);
    // Nobody confirms it: in a few times the decay it is as any other.
    for (int period = 0; period < 300; ++period) (*loads)[1].fade({.decay = 10s}, 0);
    int share = 0;
    for (int i = 0; i < 10'000; ++i)
      share += choose_replica(cluster, {}, *loads, random).replica == NodeId(1) ? 1 : 0;
    CHECK(share > 4'000);
    // And its own good answers do it sooner.
    for (int i = 0; i < 20; ++i) (*loads)[1].observe(Baselines::kLongest, 16'000);
    for (int i = 0; i < 2'000; ++i) (*loads)[1].observe(kNormal, 500);
    CHECK((*loads)[1].latency < 2 * kNormal);
  }

  TEST_CASE("slow queries do not make a slow node: latency is compared by digest") {
    // Node 1 happens to run what takes 50 ms, node 2 what takes 0.5 ms; both are well.
    const auto baselines = std::make_unique<Baselines>();
    const auto loads = std::make_unique<NodeLoads>();
    for (int i = 0; i < 1'000; ++i) {
      (*loads)[1].observe(baselines->relative(1, 50'000), 50'000);
      (*loads)[2].observe(baselines->relative(2, 500), 500);
    }
    CHECK((*loads)[1].latency == kNormal);
    CHECK((*loads)[2].latency == kNormal);
    // What is usual is learnt from good answers, also when half of them are twenty times as long.
    std::uint32_t late = 0, good = 0;
    for (int i = 0; i < 1'000; ++i) {
      late = baselines->relative(3, 10'000);
      good = baselines->relative(3, 500);
    }
    CHECK(late > 10 * kNormal);
    CHECK(good < 2 * kNormal);
    CHECK(baselines->relative(3, ~std::uint32_t{0}) == Baselines::kLongest);
    // A statement that has become slower everywhere is usual in time.
    for (int i = 0; i < 1'000; ++i) late = baselines->relative(3, 10'000);
    CHECK(late < 2 * kNormal);
    // Two digests at one place: the later one is remembered, and nothing is compared across them.
    CHECK(baselines->relative(std::uint32_t{3} + std::uint32_t{Baselines::kEntries}, 1'000'000) == kNormal);
    CHECK(baselines->relative(3, 500) == kNormal);
  }

  TEST_CASE("reads follow weights, under load and without") {
    ClusterState cluster = with_replicas(3);
    cluster.nodes[1].weight = 100;
    cluster.nodes[2].weight = 300;
    cluster.nodes[3].weight = 0;
    for (const int clients : {1, 40}) {
      CAPTURE(clients);
      auto served = simulate(cluster, {}, clients, 20'000, 7);
      CHECK(served[1] > 4'000);
      CHECK(served[1] < 6'000);
      CHECK(served[3] == 0);
    }
    CHECK_FALSE(cluster.serves_reads(cluster.nodes[3]));
  }

  TEST_CASE("slow start: a replica that has come back gets the part of its share that it has by now") {
    ClusterState cluster = with_replicas(2);
    cluster.nodes[1].ramp = 10;
    auto served = simulate(cluster, {}, 1, 11'000, 7);
    CHECK(served[1] > 700);
    CHECK(served[1] < 1'300);
    // Where all have just come back they share as ever.
    for (NodeState& node : cluster.nodes) node.ramp = 10;
    served = simulate(cluster, {}, 1, 10'000, 7);
    CHECK(served[1] > 4'500);
  }

  TEST_CASE("nodes of the own zone are preferred while they have room") {
    ClusterState cluster = with_replicas(4);
    cluster.nodes[3].nearby = cluster.nodes[4].nearby = true;
    cluster.find_serving();
    CHECK(cluster.near == 2);
    CHECK(ids(cluster).front() == NodeId(3));
    const auto loads = std::make_unique<NodeLoads>();
    std::minstd_rand random(3);
    const auto far = [&](const ReadNeeds& needs) {
      int count = 0;
      for (int i = 0; i < 1'000; ++i)
        count += *choose_replica(cluster, needs, *loads, random).replica < NodeId(3) ? 1 : 0;
      return count;
    };
    CHECK(far({}) == 0);
    CHECK(far({.excluded = 1}) == 0);  // also where all nodes are looked at
    for (const std::size_t near : {3, 4}) {
      (*loads)[near].limit = 8;
      (*loads)[near].in_flight = 8;
    }
    CHECK(far({}) > 900);
    (*loads)[4].in_flight = 7;
    CHECK(far({}) == 0);
  }

  TEST_CASE("a node at its limit is taken only when all are") {
    const ClusterState cluster = [] {
      ClusterState made = with_replicas(5);
      made.find_serving();
      return made;
    }();
    const auto loads = std::make_unique<NodeLoads>();
    std::minstd_rand random(3);
    for (std::size_t node = 1; node <= 5; ++node) {
      (*loads)[node].limit = 4;
      (*loads)[node].in_flight = 4;
    }
    CHECK(choose_replica(cluster, {}, *loads, random).replica);
    (*loads)[5].in_flight = 3;
    for (int i = 0; i < 100; ++i) CHECK(choose_replica(cluster, {}, *loads, random).replica == NodeId(5));
  }

  TEST_CASE("a node's limit follows its latency down to the least, and comes back") {
    NodeLoad load;
    const LoadRules rules{.decay = 10s, .least = 4, .tolerance = 200, .smoothing = 20};
    load.fade(rules, 20);
    CHECK(load.limit == 20);
    int periods = 0;
    for (; periods < 100 && load.limit > 4; ++periods) {
      load.latency = 20 * kNormal;
      load.fade(rules, 20);
    }
    CHECK(load.limit == 4);
    CHECK(periods < 50);  // five seconds
    load.latency = kNormal;
    for (int i = 0; i < 20; ++i) load.fade(rules, 20);
    CHECK(load.limit == 20);
    load.latency = kNormal * 19 / 10;  // tolerable
    for (int i = 0; i < 20; ++i) load.fade(rules, 20);
    CHECK(load.limit == 20);
    load.fade(rules, 10);  // its pools may have fewer
    CHECK(load.limit == 10);
    load.fade({.least = 0}, 20);
    CHECK(load.limit == 0);
  }

  TEST_CASE("groups: only a node of one that is named serves") {
    ClusterState cluster = with_replicas(3);
    cluster.nodes[2].groups = 0b10;
    const auto loads = std::make_unique<NodeLoads>();
    for (unsigned seed = 1; seed <= 50; ++seed) {
      std::minstd_rand random(seed);
      CHECK(choose_replica(cluster, {.groups = 0b110}, *loads, random).replica == NodeId(2));
    }
    CHECK(why(cluster, {.groups = 0b100}) == ReadReason::none_in_group);
    Topology topology;
    topology.groups = {"a", "b"};
    CHECK(topology.group("b") == 0b10);
    CHECK(topology.group("c") == 0);
  }

  TEST_CASE("an ejected node is not picked, and one whose probe is late only when all are") {
    ClusterState cluster = with_replicas(2);
    cluster.nodes[1].breaker = BreakerState::open;
    cluster.find_serving();
    CHECK(ids(cluster) == std::vector<NodeId>{NodeId(2)});
    cluster.nodes[2].breaker = BreakerState::half_open;
    CHECK(why(cluster, {.excluded = 1}) == ReadReason::all_ejected);
    for (NodeState& node : cluster.nodes) node.breaker = BreakerState::closed;
    cluster.nodes[1].late = true;
    cluster.find_serving();
    CHECK(ids(cluster) == std::vector<NodeId>{NodeId(2)});
    cluster.nodes[2].late = true;
    cluster.find_serving();
    CHECK(ids(cluster).size() == 2);
  }

  TEST_CASE("a node at which others have far more statements at work than at its peers has half of its share") {
    ClusterState cluster = with_replicas(3);
    const auto crowded = [&cluster](std::array<std::optional<std::int64_t>, 3> active) {
      for (std::size_t i = 0; i < active.size(); ++i) cluster.nodes[i + 1].active = active[i];
      cluster.find_serving();
      std::string which;
      for (std::size_t i = 1; i < cluster.nodes.size(); ++i) which += cluster.nodes[i].crowded ? '1' : '0';
      return which;
    };
    CHECK(crowded({4, 4, 4}) == "000");
    CHECK(crowded({0, 0, 9}) == "000");   // few
    CHECK(crowded({0, 0, 10}) == "001");
    CHECK(crowded({4, 21, 4}) == "000");
    CHECK(crowded({4, 22, 4}) == "010");
    CHECK(crowded({22, 22, 4}) == "110");  // half of the others has four
    CHECK(crowded({std::nullopt, 22, 4}) == "010");
    CHECK(crowded({std::nullopt, 22, std::nullopt}) == "000");  // beside whom?
    cluster.nodes[2].weight = 300;
    CHECK(crowded({4, 45, 4}) == "000");
    CHECK(crowded({4, 46, 4}) == "010");
    cluster.nodes[2].weight = 5;
    CHECK(crowded({0, 9, 0}) == "000");
    cluster.nodes[2].weight = 100;
    cluster.nodes[1].ramp = 10;  // slow start: it has less, and that makes nobody else crowded
    CHECK(crowded({4, 40, 40}) == "000");
    cluster.nodes[1].ramp = 100;

    REQUIRE(crowded({4, 40, 4}) == "010");
    REQUIRE(cluster.serving.size() == 3);
    CHECK(cluster.nodes[2].share * 2 == cluster.nodes[1].share);
    CHECK(cluster.nodes[3].share == cluster.nodes[1].share);
    // What two processes send moves to the others, and makes these no crowd: it does not come back in a wave.
    CHECK(crowded({12, 6, 12}) == "000");
  }

  TEST_CASE("however late: lag does not matter, floors do") {
    ClusterState cluster = with_replicas(1);
    cluster.nodes[1].lag_ok = false;
    cluster.nodes[1].replayed = Lsn{10};
    CHECK(why(cluster, {}) == ReadReason::all_lagging);
    CHECK(why(cluster, {.however_late = true}) == ReadReason::fresh_replica);
    CHECK(why(cluster, {.floor = Lsn{11}, .however_late = true}) == ReadReason::none_has_replayed);
  }

  TEST_CASE("a replica that nobody has asked yet is tried beside loaded ones") {
    const ClusterState cluster = with_replicas(3);
    const auto loads = std::make_unique<NodeLoads>();
    (*loads)[1].in_flight = 2;
    (*loads)[2].in_flight = 2;
    std::minstd_rand random(3);
    int fresh = 0;
    for (int i = 0; i < 3000; ++i)
      fresh += choose_replica(cluster, {}, *loads, random).replica == NodeId(3) ? 1 : 0;
    CHECK(fresh > 1800);
    CHECK(fresh < 2200);  // two draws of three: it is among them two times in three
  }

  TEST_CASE("latency rises by an eighth of the way to a peak, and one late answer is forgotten") {
    NodeLoad load;
    CHECK(load.latency == kNormal);
    load.observe(9 * kNormal, 900);
    CHECK(load.latency == 2 * kNormal);
    for (int i = 0; i < 1'000; ++i) load.observe(kNormal, 100);
    CHECK(load.latency < kNormal * 5 / 4);
    load.observe(~std::uint32_t{0} >> 1, ~std::uint32_t{0} >> 1);
    load.observe(~std::uint32_t{0} >> 1, ~std::uint32_t{0} >> 1);
    CHECK(load.latency > (~std::uint32_t{0} >> 1) / 8);
  }

  TEST_CASE("late answers now and then hide no slow node from the breaker: their mean is far below always slow") {
    NodeLoad well, slow;
    std::uint32_t least = ~std::uint32_t{0}, most = 0;
    for (int i = 0; i < 4'000; ++i) {
      well.observe(i % 40 == 0 ? Baselines::kLongest : kNormal, 100);
      if (i % 40 == 0) slow.observe(20 * kNormal, 2'000);
      if (i < 2'000) continue;
      least = std::min(least, slow.mean / well.mean);
      most = std::max(most, slow.latency / well.latency);
    }
    CHECK(least >= BreakerRules().latency_factor);
    CHECK(most < BreakerRules().latency_factor);  // as the peaks have it
    for (int period = 0; period < 1'000; ++period) slow.fade({.decay = 10s}, 0);
    CHECK(slow.mean == kNormal);
  }

  TEST_CASE("a session stays at its replica, and is told now and then that another is less busy by a factor of two") {
    ClusterState cluster;
    cluster.nodes = {replica(1), replica(2)};
    cluster.find_serving();
    static NodeLoads loads;
    std::minstd_rand random(7);
    ReadNeeds needs{.pending = true, .stay = NodeId{1}};
    const auto leaves = [&] {
      int count = 0;
      for (int i = 0; i < 10'000; ++i) {
        const ReadChoice choice = choose_replica(cluster, needs, loads, random);
        CHECK(choice.replica == NodeId{1});
        CHECK(choice.why == ReadReason::same_replica);
        count += choice.leave ? 1 : 0;
      }
      return count;
    };
    CHECK(leaves() == 0);
    loads[1].in_flight = 3;
    loads[2].in_flight = 2;
    CHECK(leaves() == 0);
    loads[2].in_flight = 1;
    const int now = leaves();
    CHECK(now > 10);
    CHECK(now < 80);
    // One that has become slow it leaves sooner: half of one in 16 looks at the other one.
    loads[1].in_flight = loads[2].in_flight = 0;
    loads[1].latency = 3 * kNormal;
    CHECK(leaves() < 80);
    loads[1].latency = 4 * kNormal;
    const int slow = leaves();
    CHECK(slow > 200);
    CHECK(slow < 420);
    // Never for one that it may not read from.
    needs.excluded = 1U << 1;
    CHECK(leaves() == 0);
    loads[1].latency = kNormal;
  }
}
