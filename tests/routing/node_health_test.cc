#include "routing/node_health.h"

#include <doctest/doctest.h>

using namespace routing;
using namespace std::chrono_literals;

namespace {

Instant at(Millis since_start) { return Instant(1h) + since_start; }
constexpr NodeIdentity kReplica{.system_id = 7, .postmaster_start_us = 1000, .in_recovery = true};

}  // namespace

TEST_SUITE("routing/node_health") {
  TEST_CASE("a node nobody has asked is unknown, and one success makes it up") {
    NodeHealthTracker node;
    CHECK(node.health() == NodeHealth::unknown);
    CHECK_FALSE(node.heard());
    node.succeeded(at(1s), kReplica);
    CHECK(node.health() == NodeHealth::up);
    CHECK(node.heard());
    CHECK(node.why() == "");
    CHECK(node.last_success() == at(1s));
    CHECK(node.incarnation() == 1);
  }

  TEST_CASE("requirement 31: a refused connection, a reset and a shutdown mean down at once") {
    for (const FailureKind kind :
         {FailureKind::refused, FailureKind::reset, FailureKind::shutting_down}) {
      NodeHealthTracker node;
      node.succeeded(at(1s), kReplica);
      node.failed(at(2s), kind);
      CHECK(node.health() == NodeHealth::down);
      CHECK(node.why() == name(kind));
      CHECK(node.changed() == at(2s));
      CHECK(node.last_success() == at(1s));
    }
  }

  TEST_CASE("requirement 31: one time-out is not an outage, the second in a row is") {
    NodeHealthTracker node;
    node.succeeded(at(1s), kReplica);
    node.failed(at(2s), FailureKind::timeout);
    CHECK(node.health() == NodeHealth::up);
    CHECK(node.why() == "timeout");
    node.succeeded(at(3s), kReplica);
    node.failed(at(4s), FailureKind::timeout);
    CHECK(node.health() == NodeHealth::up);
    node.failed(at(5s), FailureKind::resolve);
    CHECK(node.health() == NodeHealth::down);
  }

  TEST_CASE("requirement 31: our own login, a full node and SQL errors never take a node down") {
    for (const FailureKind kind : {FailureKind::auth, FailureKind::too_many, FailureKind::other,
                                   FailureKind::terminated}) {
      NodeHealthTracker node;
      node.succeeded(at(1s), kReplica);
      for (int i = 0; i < 10; ++i) node.failed(at(2s), kind);
      CHECK(node.health() == NodeHealth::up);
      CHECK(node.why() == name(kind));
      CHECK(node.incarnation() == 1);
    }
  }

  TEST_CASE("a node that was down and now refuses our login lives, but is not up") {
    NodeHealthTracker node;
    node.failed(at(1s), FailureKind::refused);
    node.failed(at(2s), FailureKind::auth);
    CHECK(node.health() == NodeHealth::unknown);
    node.succeeded(at(3s), kReplica);
    CHECK(node.health() == NodeHealth::up);
  }

  TEST_CASE("servers of an earlier life are told apart: outage, restart, promotion, other system") {
    NodeHealthTracker node;
    node.succeeded(at(1s), kReplica);
    CHECK(node.incarnation() == 1);
    node.succeeded(at(2s), kReplica);
    CHECK(node.incarnation() == 1);

    node.failed(at(3s), FailureKind::reset);
    node.failed(at(4s), FailureKind::refused);
    CHECK(node.incarnation() == 2);
    node.succeeded(at(5s), kReplica);
    CHECK(node.incarnation() == 2);

    NodeIdentity next = kReplica;
    next.postmaster_start_us = 2000;
    node.succeeded(at(6s), next);
    CHECK(node.incarnation() == 3);
    next.in_recovery = false;
    node.succeeded(at(7s), next);
    CHECK(node.incarnation() == 4);
    next.system_id = 8;
    node.succeeded(at(8s), next);
    CHECK(node.incarnation() == 5);
  }

  TEST_CASE("what a probe could not read is no change of identity") {
    NodeHealthTracker node;
    node.succeeded(at(1s), {.system_id = 7, .in_recovery = true});
    node.succeeded(at(2s), kReplica);
    CHECK(node.incarnation() == 1);
  }
}
