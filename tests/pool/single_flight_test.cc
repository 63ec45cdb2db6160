#include "pool/single_flight.h"

#include <doctest/doctest.h>

#include <memory>
#include <vector>

using namespace pool;
using namespace std::chrono_literals;
using routing::Floor;
using routing::Lsn;

namespace {

routing::SessionState session(Floor floor = {}, conf::Consistency consistency = conf::Consistency::session) {
  routing::SessionState state;
  state.consistency = consistency;
  state.floor = floor;
  return state;
}
Floor pending(std::uint64_t sample) {
  Floor floor;
  floor.raise(sample - 1);
  return floor;
}
Floor known(Lsn lsn, std::uint64_t sample = 1) {
  return {.kind = Floor::Kind::known, .term = 1, .sample = sample, .lsn = lsn};
}
Floor brought(Lsn lsn) { return {.kind = Floor::Kind::known, .foreign = true, .term = 1, .lsn = lsn}; }
Floor at_node(routing::NodeId node, std::uint64_t probe, std::uint16_t incarnation = 1) {
  Floor floor;
  floor.read_at(node, incarnation, probe - 1);
  return floor;
}

constexpr routing::NodeId kNode{3}, kOther{4};
const ReadPosition kReplica{.node = kNode, .incarnation = 1, .term = 1, .lsn = Lsn{100}, .asked = 7};
const ReadPosition kPrimary{.primary = true, .term = 1, .lsn = Lsn{100}, .asked = 7};

constexpr auto kAnything = [](const ReadPosition&) { return true; };
const SettingsRef kSettings = std::make_shared<const SettingsSet>();

}  // namespace

TEST_SUITE("pool/single_flight") {
  TEST_CASE("promise 2: an answer from a replica is good for those whose writes it had replayed when it began") {
    CHECK(covers(kReplica, session()));
    CHECK(covers(kReplica, session(known(Lsn{99}))));
    CHECK(covers(kReplica, session(known(Lsn{100}))));
    CHECK_FALSE(covers(kReplica, session(known(Lsn{101}))));
    CHECK_FALSE(covers(kReplica, session(pending(1))));
    CHECK_FALSE(covers(kReplica, session(known(Lsn{101})), true));
    Floor later = known(Lsn{1});
    later.term = 2;  // of another primary: positions are not to be compared
    CHECK_FALSE(covers(kReplica, session(later)));
  }

  TEST_CASE("promise 2: what was read at a replica is not older than what its session has seen there") {
    CHECK(covers(kReplica, session(at_node(kNode, 7))));
    CHECK_FALSE(covers(kReplica, session(at_node(kNode, 8))));  // the session read after the last probe
    CHECK(covers(kReplica, session(at_node(kNode, 8)), true));
    CHECK_FALSE(covers(kReplica, session(at_node(kNode, 7, 2))));  // in another life of the node
    CHECK_FALSE(covers(kReplica, session(at_node(kOther, 1)), true));
    CHECK_FALSE(covers(kPrimary, session(at_node(kNode, 1))));
    CHECK(covers(kPrimary, session(at_node(kNode, 1)), true));
  }

  TEST_CASE("promise 2: an answer from the primary is good for those who had written before it began") {
    CHECK(covers(kPrimary, session()));
    CHECK(covers(kPrimary, session(pending(7))));
    CHECK_FALSE(covers(kPrimary, session(pending(8))));
    CHECK(covers(kPrimary, session(pending(8)), true));
    CHECK(covers(kPrimary, session(known(Lsn{100}, 7))));
    CHECK_FALSE(covers(kPrimary, session(known(Lsn{100}, 8))));
    // A position that others have brought: a commit there may become visible behind an equal one.
    CHECK(covers(kPrimary, session(brought(Lsn{99}))));
    CHECK_FALSE(covers(kPrimary, session(brought(Lsn{100}))));
  }

  TEST_CASE("promise 2: what has no position covers nobody who has read or written") {
    CHECK(covers({}, session()));
    CHECK_FALSE(covers({}, session(known(Lsn{1}))));
    CHECK_FALSE(covers({.primary = true}, session(pending(1))));
  }

  TEST_CASE("who takes anything takes any answer; who wants the state of now takes none") {
    using conf::Consistency;
    CHECK(covers(kPrimary, session(known(Lsn{200}, 8), Consistency::eventual)));
    for (const Consistency scope : {Consistency::strong, Consistency::primary}) {
      CHECK_FALSE(covers(kPrimary, session({}, scope)));
      CHECK_FALSE(covers(kPrimary, session({}, scope), true));
    }
    for (const Consistency scope :
         {Consistency::monotonic, Consistency::token, Consistency::session, Consistency::tenant}) {
      CHECK(covers(kReplica, session(known(Lsn{100}), scope)));
      CHECK_FALSE(covers(kReplica, session(known(Lsn{101}), scope)));
    }
  }

  TEST_CASE("promise 2: who is told another's answer reads nothing older from then on") {
    ReadPosition at = kReplica;
    at.told = 9;
    routing::SessionState seen = session(known(Lsn{50}));
    const Floor& floor = seen.floor;
    note_seen(at, 20, &seen);
    CHECK(floor.kind == Floor::Kind::at_node);
    CHECK(floor.node == kNode);
    CHECK(floor.probe == 10);
    at = kPrimary;
    at.told = 9;
    note_seen(at, 20, &seen);  // from the replica to the primary: past both
    CHECK(floor.kind == Floor::Kind::pending);
    CHECK(floor.sample == 21);
    seen.floor = known(Lsn{50}, 5);
    note_seen(at, 20, &seen);
    CHECK(floor.kind == Floor::Kind::pending);
    CHECK(floor.sample == 10);
    seen.floor = known(Lsn{500}, 15);  // it has seen more
    note_seen(at, 20, &seen);
    CHECK(floor.kind == Floor::Kind::known);
    CHECK(floor.lsn == Lsn{500});
  }

  TEST_CASE("promise 2: a kept answer is told again to whom it was told last, and no other with the same position is") {
    using conf::Consistency;
    for (ReadPosition at : {kReplica, kPrimary}) {
      CAPTURE(at.primary);
      at.told = 8;
      at.kept = 4;
      routing::SessionState seen = session();
      note_seen(at, 20, &seen);
      CHECK(covers(at, seen));
      // What else is as old, it may be older.
      for (const std::uint32_t other : {0U, 3U, 5U}) {
        ReadPosition another = at;
        another.kept = other;
        CHECK_FALSE(covers(another, seen));
      }
      // The floor's position has become known: it is still what that answer has put there.
      routing::SessionState learnt = seen;
      learnt.floor.kind = Floor::Kind::known;
      learnt.floor.lsn = Lsn{300};
      learnt.floor.term = 1;
      CHECK(covers(at, learnt));
      for (const Consistency scope : {Consistency::strong, Consistency::primary}) {
        learnt.consistency = scope;
        CHECK_FALSE(covers(at, learnt));
      }
      // It has written; it has read elsewhere; it was given a token; others have written.
      routing::SessionState wrote = seen, read = seen, given = seen, others = seen;
      wrote.floor.raise(20);
      read.floor.read_at(kOther, 1, 3);
      given.floor.raise_to(Lsn{1}, 1, 20);
      others.floor.raise_to(std::uint64_t{15}, 20);
      for (const routing::SessionState& moved : {wrote, read, given, others}) CHECK_FALSE(covers(at, moved));
      // It was told another's answer that nobody keeps.
      ReadPosition passing = at;
      passing.kept = 0;
      note_seen(passing, 20, &seen);
      CHECK_FALSE(covers(at, seen));
    }
  }

  TEST_CASE("promise 2: what was told by turns is not told again: the one is older than the other") {
    ReadPosition one = kReplica, other = kReplica;
    one.told = other.told = 7;
    one.kept = 1;
    other.kept = 2;
    routing::SessionState seen = session();
    note_seen(one, 20, &seen);
    note_seen(other, 20, &seen);
    CHECK(covers(other, seen));
    CHECK_FALSE(covers(one, seen));
  }

  TEST_CASE("those who ask for the same follow the first, and are let go in the order in which they came") {
    SingleFlight flights;
    FlightMember leader, first, second;
    Flight& flight = flights.open("key", kSettings, 0ms, leader);
    CHECK(flights.find("key") == &flight);
    CHECK(flights.find("another") == nullptr);
    flights.join(flight, first);
    flights.join(flight, second);
    CHECK(leader.leads());
    CHECK_FALSE(first.leads());
    std::vector<FlightMember*> released;
    flights.close(flight, [&](FlightMember& member) { released.push_back(&member); });
    CHECK(released == std::vector<FlightMember*>{&first, &second});
    CHECK(leader.flight == nullptr);
    CHECK(first.flight == nullptr);
    CHECK(flights.size() == 0);
  }

  TEST_CASE("one who is let go may lead the next flight of the same key") {
    SingleFlight flights;
    FlightMember leader, follower;
    Flight& flight = flights.open("key", kSettings, 0ms, leader);
    flights.join(flight, follower);
    flights.close(flight, [&](FlightMember& member) { flights.open("key", kSettings, 0ms, member); });
    CHECK(follower.leads());
    flights.close(*follower.flight, [](FlightMember&) {});
  }

  TEST_CASE("a follower may leave") {
    SingleFlight flights;
    FlightMember leader, follower;
    Flight& flight = flights.open("key", kSettings, 0ms, leader);
    flights.join(flight, follower);
    flights.leave(follower);
    int released = 0;
    flights.close(flight, [&](FlightMember&) { ++released; });
    CHECK(released == 0);
  }

  TEST_CASE("a flight that has started takes only those who may see its answer; before that everybody") {
    SingleFlight flights;
    FlightMember leader;
    Flight& flight = flights.open("key", kSettings, 0ms, leader);
    const auto sees = [](const ReadPosition& at) { return at.lsn >= Lsn{100}; };
    CHECK(SingleFlight::takes(flight, 1, sees));
    flight.started = true;
    flight.at.lsn = Lsn{100};
    CHECK(SingleFlight::takes(flight, 1, sees));
    flight.at.lsn = Lsn{99};
    CHECK_FALSE(SingleFlight::takes(flight, 1, sees));
    // It begins anew, where nobody knows yet.
    flight.answer = "half";
    SingleFlight::restart(flight);
    CHECK(flight.answer.empty());
    CHECK(SingleFlight::takes(flight, 1, sees));
    flights.close(flight, [](FlightMember&) {});
  }

  TEST_CASE("a flight takes so many followers and no more") {
    SingleFlight flights;
    FlightMember leader;
    Flight& flight = flights.open("key", kSettings, 0ms, leader);
    std::vector<std::unique_ptr<FlightMember>> followers;
    while (SingleFlight::takes(flight, 3, kAnything)) {
      followers.push_back(std::make_unique<FlightMember>());
      flights.join(flight, *followers.back());
    }
    CHECK(followers.size() == 3);
    flights.close(flight, [](FlightMember&) {});
  }

  TEST_CASE("behind a change of the primary nobody joins what began before, and its followers stay") {
    SingleFlight flights;
    FlightMember leader, follower;
    Flight& flight = flights.open("key", kSettings, 0ms, leader);
    flights.join(flight, follower);
    flights.outdate();
    CHECK_FALSE(SingleFlight::takes(flight, 10, kAnything));
    CHECK(follower.follows());
    flights.close(flight, [](FlightMember&) {});
  }
}
