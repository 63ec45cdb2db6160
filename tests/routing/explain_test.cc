#include "routing/explain.h"

#include <memory>
#include <string>

#include <doctest/doctest.h>

namespace {

using namespace routing;
using namespace std::chrono_literals;

NodeState node(int id, NodeRole role) {
  NodeState made;
  made.id = NodeId(id);
  made.address = {"10.0.0." + std::to_string(id + 1), 5432};
  made.ips = {"127.0.0.1"};
  made.role = role;
  made.health = NodeHealth::up;
  made.lag = 0ms;
  made.lag_ok = true;
  made.timeline = 1;
  return made;
}

ClusterState cluster() {
  ClusterState made;
  made.nodes = {node(0, NodeRole::primary), node(1, NodeRole::replica), node(2, NodeRole::replica)};
  made.primary = NodeId(0);
  made.nodes[2].lag = 42s;
  made.nodes[2].lag_ok = false;
  made.find_serving();
  return made;
}

Facts read() {
  Facts facts;
  facts.kind = StatementClass::read;
  facts.why = ClassReason::proven_read;
  facts.digest = 0x8c1d1f6a1e0b27f3;
  facts.tables = {{"", "orders"}, {"audit", "log"}};
  return facts;
}

std::string value(const std::vector<RouteRow>& rows, const std::string& property) {
  for (const RouteRow& row : rows)
    if (row.property == property) return row.value;
  return "(none)";
}

std::vector<RouteRow> explain(const RouteQuestion& question) {
  static const auto loads = std::make_unique<NodeLoads>();
  return explain_route(question, *loads);
}

}  // namespace

TEST_SUITE("routing/explain") {
  TEST_CASE("EXPLAIN ROUTE names the class, the digest, the target, and of every node why it may not serve") {
    const Facts facts = read();
    const ClusterState nodes = cluster();
    const SessionState session;
    const auto rows = explain({.facts = facts, .session = session, .mode = conf::PoolMode::transaction, .cluster = &nodes});
    CHECK(value(rows, "class") == "read");
    CHECK(value(rows, "class_reason") == "proven_read");
    CHECK(value(rows, "digest") == "8c1d1f6a1e0b27f3");
    CHECK(value(rows, "tables") == "orders, audit.log");
    CHECK(value(rows, "rule") == "");
    CHECK(value(rows, "target") == "replica");
    CHECK(value(rows, "reason") == "read");
    CHECK(value(rows, "read_choice") == "fresh_replica");
    CHECK(value(rows, "candidate 10.0.0.1:5432") == "the primary");
    CHECK(value(rows, "candidate 10.0.0.2:5432").starts_with("eligible (role=replica health=up lag=0"));
    CHECK(value(rows, "candidate 10.0.0.3:5432").starts_with("not eligible: all_lagging (role=replica health=up lag=42s"));
  }

  TEST_CASE("EXPLAIN ROUTE tells what a rule, a floor, a dry run or an open transaction makes of it") {
    const Facts facts = read();
    const ClusterState nodes = cluster();
    SessionState session;
    RouteQuestion question{.facts = facts, .session = session, .mode = conf::PoolMode::transaction, .cluster = &nodes};
    question.overrides = {.given = true, .consistency = conf::Consistency::eventual, .rule = 1, .max_lag_ms = 60'000,
                          .query_timeout_ms = 1500};
    question.rule = "reports";
    auto rows = explain(question);
    CHECK(value(rows, "rule") == "reports");
    CHECK(value(rows, "consistency") == "eventual");
    CHECK(value(rows, "max_lag") == "1min");
    CHECK(value(rows, "query_timeout") == "1500ms");
    CHECK(value(rows, "candidate 10.0.0.3:5432").starts_with("eligible"));
    question.dry_run = true;
    CHECK(value(explain(question), "target") == "primary (dry_run; else replica)");
    question.overrides.blocked = true;
    CHECK(value(explain(question), "target") == "primary (dry_run; else refused)");
    question.dry_run = false;
    CHECK(value(explain(question), "target") == "none: refused");
    CHECK(value(explain(question), "reason") == "blocked");
    question.overrides = {};
    session.floor.kind = Floor::Kind::known;
    session.floor.lsn = Lsn{0x3000};
    rows = explain(question);
    CHECK(value(rows, "floor") == print(Lsn{0x3000}));
    CHECK(value(rows, "read_choice") == "none_has_replayed");
    CHECK(value(rows, "candidate 10.0.0.2:5432").starts_with("not eligible: none_has_replayed"));
    session.in_transaction = true;
    rows = explain(question);
    CHECK(value(rows, "target") == "same_server");
    CHECK(value(rows, "reason") == "in_transaction");
    CHECK(value(rows, "candidate 10.0.0.2:5432") == "(none)");
  }
}
