#include "routing/floor.h"

#include <doctest/doctest.h>

#include "routing/chooser.h"

using namespace routing;

namespace {

using Kind = Floor::Kind;

// Node 0 is the primary; replicas 1 and 2 have replayed up to 100.
ClusterState cluster() {
  ClusterState state;
  for (std::uint16_t id = 0; id < 3; ++id) {
    NodeState& node = state.nodes.emplace_back();
    node.id = NodeId{id};
    node.role = id == 0 ? NodeRole::primary : NodeRole::replica;
    node.health = NodeHealth::up;
    node.ips = {"10.0.0.1"};
    node.lag = Millis(0);
    node.lag_ok = true;
    node.timeline = 1;
    node.incarnation = 1;
    if (id > 0) node.replayed = Lsn{100};
  }
  state.primary = NodeId{0};
  state.samples_sent = std::make_shared<std::atomic<std::uint64_t>>(8);
  state.sample = 7;
  state.sample_lsn = Lsn{70};
  state.term = 1;
  state.first_sample = 1;
  state.find_serving();
  return state;
}

ReadChoice choose(const ClusterState& state, const Floor& floor) {
  static NodeLoads loads;
  std::minstd_rand random(7);
  ReadNeeds needs{.close = Millis(10)};
  needs.satisfy(floor);
  return choose_replica(state, needs, loads, random);
}

}  // namespace

TEST_SUITE("routing/floor") {
  TEST_CASE("after a write the floor is the sample that is sent next, and then its position") {
    ClusterState state = cluster();
    Floor floor;
    floor.raise(8);
    CHECK_FALSE(floor.learn(state));
    CHECK(floor.kind == Kind::pending);
    CHECK(choose(state, floor).why == ReadReason::floor_pending);
    CHECK(choose(state, floor).soon);
    state.sample = 8;  // sent before the write's answer was read
    floor.learn(state);
    CHECK(floor.kind == Kind::pending);
    state.sample = 10;
    state.sample_lsn = Lsn{101};
    floor.learn(state);
    CHECK(floor.kind == Kind::known);
    CHECK(floor.lsn == Lsn{101});
    CHECK(choose(state, floor).why == ReadReason::none_has_replayed);
    state.sample_lsn = Lsn{999};
    floor.learn(state);
    CHECK(floor.lsn == Lsn{101});
    state.nodes[2].replayed = Lsn{101};
    CHECK(choose(state, floor).replica == NodeId{2});
  }

  TEST_CASE("waiting has no point when every replica is far behind") {
    ClusterState state = cluster();
    Floor floor;
    floor.raise(8);
    for (NodeState& node : state.nodes) node.lag = Millis(11);
    CHECK_FALSE(choose(state, floor).soon);
    state.nodes[1].lag = Millis(10);
    CHECK(choose(state, floor).soon);
    state.nodes[1].lag_ok = false;
    CHECK_FALSE(choose(state, floor).soon);
  }

  TEST_CASE("after a read at a replica the session stays there until that node has been asked again") {
    ClusterState state = cluster();
    Floor floor;
    floor.read_at(NodeId{1}, 1, 4);
    for (int i = 0; i < 20; ++i) {
      floor.learn(state);
      CHECK(choose(state, floor).replica == NodeId{1});
      CHECK(choose(state, floor).why == ReadReason::same_replica);
    }
    state.nodes[1].probe = 4;  // asked before that read was answered
    floor.learn(state);
    CHECK(floor.kind == Kind::at_node);
    state.nodes[1].probe = 5;
    state.nodes[1].replayed = Lsn{120};
    floor.learn(state);
    CHECK(floor.kind == Kind::known);
    CHECK(floor.lsn == Lsn{120});
    CHECK(choose(state, floor).replica == NodeId{1});
    state.nodes[1].replayed = {};
    CHECK(choose(state, floor).why == ReadReason::none_has_replayed);
    state.nodes[2].replayed = Lsn{120};
    CHECK(choose(state, floor).replica == NodeId{2});
  }

  TEST_CASE("a node that was restarted, lags or is drained does not keep its readers: the primary's next sample does") {
    for (const int what : {0, 1, 2, 3}) {
      CAPTURE(what);
      ClusterState state = cluster();
      Floor floor;
      floor.read_at(NodeId{1}, 1, 4);
      NodeState& node = state.nodes[1];
      if (what == 0) node.incarnation = 2;
      if (what == 1) node.lag_ok = false;
      if (what == 2) node.drained = true;
      if (what == 3) node.health = NodeHealth::down;
      floor.learn(state);
      CHECK(floor.kind == Kind::pending);
      CHECK(floor.sample == 9);
      state.sample = 9;
      state.sample_lsn = Lsn{100};
      floor.learn(state);
      CHECK(floor.lsn == Lsn{100});
      CHECK(choose(state, floor).replica.has_value());
    }
  }

  TEST_CASE("a promotion loses nothing that a session has read: it stays, and the node's position decides nothing yet") {
    ClusterState state = cluster();
    Floor floor;
    floor.read_at(NodeId{1}, 1, 4);
    NodeState& node = state.nodes[1];
    node.promoted = true;
    node.incarnation = 2;
    node.kept_incarnations = 1;
    node.probe = 0;
    state.primary = {};
    floor.learn(state);
    CHECK(floor.kind == Kind::at_node);
    CHECK(choose(state, floor).replica == NodeId{1});
    SUBCASE("accepted") {
      state.primary = NodeId{1};
      floor.learn(state);
      CHECK(floor.kind == Kind::pending);
    }
    SUBCASE("restarted") {
      node.incarnation = 3;
      node.kept_incarnations = 0;
      floor.learn(state);
      CHECK(floor.kind == Kind::pending);
    }
  }

  TEST_CASE("a session that would leave its node is content with that node's position or the primary's, and may stay") {
    ClusterState state = cluster();
    Floor floor;
    floor.read_at(NodeId{1}, 1, 4);
    floor.leave(8);
    floor.learn(state);
    CHECK(floor.kind == Kind::leaving);
    CHECK(choose(state, floor).why == ReadReason::floor_pending);
    CHECK(choose(state, floor).soon);
    SUBCASE("the node's") {
      state.nodes[1].probe = 5;
      state.nodes[1].replayed = Lsn{100};
      state.sample = 9;
      state.sample_lsn = Lsn{120};
      floor.learn(state);
      CHECK(floor.kind == Kind::known);
      CHECK(floor.lsn == Lsn{100});
    }
    SUBCASE("the primary's") {
      state.sample = 9;
      state.sample_lsn = Lsn{100};
      floor.learn(state);
      CHECK(floor.kind == Kind::known);
      CHECK(floor.lsn == Lsn{100});
    }
    SUBCASE("neither comes") {
      floor.stay();
      floor.learn(state);
      CHECK(choose(state, floor).replica == NodeId{1});
      floor.raise_to(9, 8);  // whether its node has what others wrote is not known any more
      CHECK(floor.kind == Kind::pending);
    }
    SUBCASE("its node is gone") {
      state.nodes[1].health = NodeHealth::down;
      floor.learn(state);
      CHECK(floor.kind == Kind::pending);
    }
  }

  TEST_CASE("requirement 32: on the timeline that the primary has left, a position means something up to where it left") {
    ClusterState state = cluster();
    state.nodes[0].timeline = 2;
    state.nodes[1].timeline = 1;
    Floor floor;
    floor.raise_to(Lsn{90}, 1, 8);
    state.nodes[2].role = NodeRole::unknown;
    CHECK(choose(state, floor).why == ReadReason::none_has_replayed);  // nobody knows where
    state.forked_at = Lsn{100};
    CHECK(choose(state, floor).replica == NodeId{1});
    state.forked_at = Lsn{99};  // it has something that the primary has not
    CHECK(choose(state, floor).why == ReadReason::none_has_replayed);
    state.forked_at = Lsn{100};
    state.nodes[0].timeline = 3;
    CHECK(choose(state, floor).why == ReadReason::none_has_replayed);
  }

  TEST_CASE("half of the replicas are out when two of four are down or ejected; one alone is what replicas are for") {
    ClusterState state = cluster();
    CHECK(percent_out(state) == 0);
    state.nodes[1].health = NodeHealth::down;
    CHECK(percent_out(state) == 0);
    state.nodes[2].breaker = BreakerState::open;
    CHECK(percent_out(state) == 100);
    for (const std::uint16_t id : {std::uint16_t{3}, std::uint16_t{4}}) {
      state.nodes.push_back(state.nodes[0]);
      state.nodes.back().id = NodeId{id};
      state.nodes.back().role = NodeRole::replica;
    }
    CHECK(percent_out(state) == 50);
    state.nodes[3].drained = true;
    CHECK(percent_out(state) == 66);
    state.nodes[4].weight = 0;
    CHECK(percent_out(state) == 100);
  }

  TEST_CASE("what is known is never forgotten for something lower") {
    ClusterState state = cluster();
    Floor floor;
    floor.read_at(NodeId{1}, 1, 0);
    state.nodes[1].probe = 1;
    floor.learn(state);
    CHECK(floor.lsn == Lsn{100});
    floor.raise_to(7, 8);  // a write of somebody else's that sample 7 covers
    floor.learn(state);
    CHECK(floor.lsn == Lsn{100});
    floor.raise_to(Lsn{50}, 1, 8);
    CHECK(floor.lsn == Lsn{100});
    floor.raise_to(Lsn{150}, 1, 8);
    CHECK(floor.lsn == Lsn{150});
  }

  TEST_CASE("another session's write counts once, and after a read at a replica the next sample decides") {
    ClusterState state = cluster();
    Floor floor;
    floor.raise_to(9, 8);
    CHECK(floor.kind == Kind::pending);
    state.sample = 9;
    floor.learn(state);
    floor.raise_to(9, 9);
    CHECK(floor.kind == Kind::known);
    floor.read_at(NodeId{1}, 1, 0);
    floor.raise_to(9, 9);
    CHECK(floor.kind == Kind::at_node);
    floor.raise_to(10, 30);
    CHECK(floor.kind == Kind::pending);
    CHECK(floor.sample == 31);
    Floor other;  // a number of another cluster's
    other.raise_to(5000, 8);
    CHECK(other.sample == 9);
  }

  TEST_CASE("requirement 32: a floor up to the switch point outlives a failover, one beyond it is replaced and counted") {
    ClusterState state = cluster();
    Floor kept, lost;
    kept.raise(6);
    lost.raise(6);
    kept.learn(state);
    lost.learn(state);
    lost.raise_to(Lsn{71}, 1, 8);
    state.term = 2;
    state.switched_at = Lsn{70};
    state.first_sample = 9;
    state.sample = 0;
    state.sample_lsn = {};
    CHECK_FALSE(kept.learn(state));
    CHECK(kept.lsn == Lsn{70});
    CHECK(lost.learn(state));
    CHECK(lost.kind == Kind::pending);
    CHECK_FALSE(lost.learn(state));
    state.sample = 9;
    state.sample_lsn = Lsn{69};
    lost.learn(state);
    CHECK(lost.kind == Kind::known);
    CHECK(lost.lsn == Lsn{69});
    // Two switches later nobody knows what the two have in common.
    state.term = 4;
    CHECK(kept.learn(state));
  }

  TEST_CASE("a pending floor moves to the new primary's first sample") {
    ClusterState state = cluster();
    Floor floor;
    floor.raise(8);
    state.term = 2;
    state.first_sample = 9;
    state.sample = 0;
    CHECK_FALSE(floor.learn(state));
    CHECK(floor.kind == Kind::pending);
    state.sample = 9;
    state.sample_lsn = Lsn{60};
    floor.learn(state);
    CHECK(floor.lsn == Lsn{60});
  }

  TEST_CASE("whatever moves it makes it another than the kept answer's, and what is learnt of it does not") {
    ClusterState state = cluster();
    Floor floor;
    floor.read_at(NodeId{1}, 1, 4);
    floor.at_kept = true;
    state.nodes[1].probe = 5;
    floor.learn(state);
    CHECK(floor.kind == Floor::Kind::known);
    CHECK(bool{floor.at_kept});
    const auto moved = [&floor](auto how) {
      Floor copy = floor;
      how(copy);
      return !copy.at_kept;
    };
    CHECK(moved([](Floor& it) { it.raise(6); }));
    CHECK(moved([](Floor& it) { it.read_at(NodeId{1}, 1, 4); }));
    CHECK(moved([](Floor& it) { it.raise_to(std::uint64_t{5}, 8); }));
    CHECK(moved([](Floor& it) { it.raise_to(Lsn{1}, 1, 8); }));
    floor.raise_to(std::uint64_t{0}, 8);  // nothing that it does not know
    CHECK(bool{floor.at_kept});
  }

  TEST_CASE("it is known whether the position is one of our own samples") {
    ClusterState state = cluster();
    Floor floor;
    floor.raise_to(Lsn{50}, 1, 8);
    CHECK(bool{floor.foreign});  // a token's
    floor.raise(6);
    floor.learn(state);
    CHECK(floor.lsn == Lsn{70});
    CHECK_FALSE(bool{floor.foreign});
    floor.raise_to(Lsn{80}, 1, 8);
    floor.raise(6);
    floor.learn(state);
    CHECK(floor.lsn == Lsn{80});
    CHECK(bool{floor.foreign});
    floor.read_at(NodeId{1}, 1, 4);
    state.nodes[1].probe = 5;
    floor.learn(state);
    CHECK(bool{floor.foreign});  // a replica's
    floor.read_at(NodeId{1}, 1, 9);
    floor.raise(6);
    floor.learn(state);
    CHECK_FALSE(bool{floor.foreign});
  }
}
