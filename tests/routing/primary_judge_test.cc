#include "routing/primary_judge.h"

#include <doctest/doctest.h>

#include <vector>

using namespace routing;
using namespace std::chrono_literals;

namespace {

constexpr std::uint64_t kSystem = 42;
const Instant kNow = Instant(1h);

ProbeResult node(int id, bool writable, std::uint32_t timeline) {
  return {.id = NodeId(id), .health = NodeHealth::up, .heard = true, .writable = writable,
          .system_id = kSystem, .timeline = timeline, .last_seen = kNow};
}
ProbeResult primary(int id, std::uint32_t timeline) { return node(id, true, timeline); }
ProbeResult replica(int id, std::uint32_t timeline) { return node(id, false, timeline); }

ProbeResult down(ProbeResult result, Millis for_how_long) {
  result.health = NodeHealth::down;
  result.last_seen = kNow - for_how_long;
  return result;
}

constexpr Accepted kFirst{.primary = NodeId(0), .system_id = kSystem, .timeline = 1};

Verdict judge(const std::vector<ProbeResult>& nodes, const Accepted& accepted) {
  return judge_primary(nodes, accepted, kNow, kFailoverConfirm);
}

void check_fenced(const Verdict& verdict, PrimaryReason why, const Accepted& before) {
  CHECK_FALSE(verdict.primary.has_value());
  CHECK(name(verdict.why) == name(why));
  CHECK(verdict.accepted == before);
}

void check_primary(const Verdict& verdict, int id, PrimaryReason why = PrimaryReason::accepted) {
  CHECK(verdict.primary == NodeId(id));
  CHECK(name(verdict.why) == name(why));
}

}  // namespace

TEST_SUITE("routing/primary_judge") {
  TEST_CASE("at start the one node out of recovery is accepted, when all have been heard") {
    const Verdict verdict = judge({primary(0, 3), replica(1, 3), replica(2, 0)}, {});
    check_primary(verdict, 0);
    CHECK(verdict.accepted == Accepted{NodeId(0), kSystem, 3});

    ProbeResult silent{.id = NodeId(2)};
    check_fenced(judge({primary(0, 3), replica(1, 3), silent}, {}),
                 PrimaryReason::waiting_for_probes, {});
    silent.heard = true;
    silent.health = NodeHealth::down;
    check_primary(judge({primary(0, 3), replica(1, 3), silent}, {}), 0);
  }

  TEST_CASE("at start an old primary that came up again is not accepted beside its successor") {
    check_primary(judge({primary(0, 1), primary(1, 2), replica(2, 2)}, {}), 1);
    check_fenced(judge({primary(0, 1), primary(1, 2)}, {}), PrimaryReason::two_writable_nodes, {});
    check_fenced(judge({primary(0, 1), replica(1, 2), replica(2, 2)}, {}),
                 PrimaryReason::older_timeline, {});
  }

  TEST_CASE("at start two systems are nobody's") {
    ProbeResult stranger = primary(1, 1);
    stranger.system_id = 43;
    check_fenced(judge({primary(0, 1), stranger}, {}), PrimaryReason::other_system, {});
  }

  TEST_CASE("without a node out of recovery nobody is written to") {
    check_fenced(judge({replica(0, 1), replica(1, 1)}, {}), PrimaryReason::no_writable_node, {});
    check_fenced(judge({replica(0, 1), replica(1, 1)}, kFirst), PrimaryReason::no_writable_node,
                 kFirst);
  }

  TEST_CASE(
      "requirement 28: a primary that misses its probes keeps its role until another one is accepted") {
    const Verdict verdict = judge({down(primary(0, 1), 1h), replica(1, 1), replica(2, 1)}, kFirst);
    check_primary(verdict, 0, PrimaryReason::unreachable);
    CHECK(verdict.accepted == kFirst);
  }

  TEST_CASE("a promoted replica is followed when the old primary is gone for long enough") {
    check_fenced(judge({down(primary(0, 1), 1999ms), primary(1, 2)}, kFirst),
                 PrimaryReason::confirming_failover, kFirst);
    const Verdict verdict = judge({down(primary(0, 1), 2s), primary(1, 2)}, kFirst);
    check_primary(verdict, 1);
    CHECK(verdict.accepted == Accepted{NodeId(1), kSystem, 2});
  }

  TEST_CASE("or at once when most replicas follow it already") {
    check_primary(judge({down(primary(0, 1), 100ms), primary(1, 2), replica(2, 2), replica(3, 2),
                         replica(4, 1)},
                        kFirst),
                  1);
    check_fenced(judge({down(primary(0, 1), 100ms), primary(1, 2), replica(2, 2), replica(3, 1)},
                       kFirst),
                 PrimaryReason::confirming_failover, kFirst);
  }

  TEST_CASE("or when the old primary is a replica now, or left the configuration") {
    check_primary(judge({replica(0, 1), primary(1, 2)}, kFirst), 1);
    check_primary(judge({primary(1, 2), replica(2, 0)}, kFirst), 1);
  }

  TEST_CASE("requirement 32: an old primary that returns is never written to again") {
    const Accepted second{NodeId(1), kSystem, 2};
    check_primary(judge({primary(0, 1), primary(1, 2)}, second), 1);
    check_primary(judge({primary(0, 1), down(primary(1, 2), 1h)}, second), 1,
                  PrimaryReason::unreachable);
    check_fenced(judge({primary(0, 1), replica(1, 2)}, second), PrimaryReason::older_timeline,
                 second);
  }

  TEST_CASE(
      "requirement 32: two writable nodes: the higher timeline when replicas follow it, else nobody") {
    check_primary(judge({primary(0, 1), primary(1, 2), replica(2, 2)}, kFirst), 1);
    check_fenced(judge({primary(0, 1), primary(1, 2), replica(2, 1)}, kFirst),
                 PrimaryReason::two_writable_nodes, kFirst);
    check_fenced(judge({primary(0, 1), primary(1, 2)}, kFirst), PrimaryReason::two_writable_nodes,
                 kFirst);
    check_fenced(judge({primary(0, 1), primary(1, 1), replica(2, 1)}, kFirst),
                 PrimaryReason::two_writable_nodes, kFirst);
  }

  TEST_CASE("two strangers with the highest timeline are not decided by their order") {
    const std::vector<ProbeResult> nodes = {down(primary(0, 1), 1h), primary(1, 2), primary(2, 2)};
    check_fenced(judge(nodes, kFirst), PrimaryReason::two_writable_nodes, kFirst);
    check_fenced(judge({nodes[0], nodes[2], nodes[1]}, kFirst), PrimaryReason::two_writable_nodes,
                 kFirst);
    check_primary(judge({primary(2, 3), nodes[0], nodes[1]}, kFirst), 2);
    check_primary(judge({nodes[1], nodes[0], primary(2, 3)}, kFirst), 2);
  }

  TEST_CASE("a primary that most replicas have left is an old one, wherever the new one is") {
    check_fenced(judge({primary(0, 1), replica(1, 2), replica(2, 2), replica(3, 1)}, kFirst),
                 PrimaryReason::older_timeline, kFirst);
    check_fenced(judge({down(primary(0, 1), 1h), replica(1, 2)}, kFirst),
                 PrimaryReason::older_timeline, kFirst);
    check_primary(judge({primary(0, 1), replica(1, 2), replica(2, 1)}, kFirst), 0);
  }

  TEST_CASE("requirement 32: a fence lifts by itself when what caused it is gone") {
    const Verdict fenced = judge({primary(0, 1), primary(1, 2)}, kFirst);
    check_primary(judge({down(primary(0, 1), 2s), primary(1, 2)}, fenced.accepted), 1);
    check_primary(judge({primary(0, 1), down(primary(1, 2), 2s)}, fenced.accepted), 0);
  }

  TEST_CASE("a node of another system is neither accepted nor asked") {
    ProbeResult stranger = primary(1, 9);
    stranger.system_id = 43;
    check_primary(judge({primary(0, 1), stranger}, kFirst), 0);
    check_fenced(judge({replica(0, 1), stranger}, kFirst), PrimaryReason::other_system, kFirst);
    ProbeResult foreign_replica = replica(2, 9);
    foreign_replica.system_id = 43;
    check_primary(judge({primary(0, 1), foreign_replica}, kFirst), 0);
  }
}
