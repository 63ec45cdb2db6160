#include "routing/explain.h"

#include <algorithm>

#include "conf/row.h"

namespace routing {
namespace {

// What the chooser would say if this were the only replica.
ReadReason judge(const ClusterState& cluster, std::size_t place, ReadNeeds needs, const NodeLoads& loads) {
  ClusterState alone = cluster;
  const NodeId id = cluster.nodes[place].id;
  // The others stay where they are, with their numbers, and cannot serve.
  for (NodeState& node : alone.nodes)
    if (node.id != id && alone.primary != node.id) node.role = NodeRole::unknown;
  alone.find_serving();
  std::minstd_rand random;
  return choose_replica(alone, needs, loads, random).why;
}

bool begins(const Facts& facts) {
  return facts.step == TransactionStep::begin || facts.step == TransactionStep::begin_read_write;
}

std::string describe(const ClusterState& cluster, std::size_t place, const ReadNeeds& needs, bool kept_from,
                     const NodeLoads& loads) {
  const NodeState& node = cluster.nodes[place];
  std::string text;
  if (cluster.primary == node.id) {
    text = "the primary";
    if (node.health != NodeHealth::up) text += ", " + std::string(name(node.health));
    return text;
  }
  const ReadReason why = judge(cluster, place, needs, loads);
  text = why == ReadReason::fresh_replica ? "eligible" : "not eligible: " + std::string(name(why));
  if (kept_from) text = "not eligible: kept from this class or tenant";
  text += " (role=" + std::string(name(node.role)) + " health=" + std::string(name(node.health));
  text += " lag=" + (node.lag ? conf::print(*node.lag) : "unknown");
  text += " replayed=" + print(node.replayed);
  if (node.drained) text += " drained";
  return text + ")";
}

}  // namespace

std::string digest_text(std::uint64_t digest) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string text(16, '0');
  for (std::size_t i = 16; i-- > 0; digest >>= 4) text[i] = kHex[digest & 15];
  return text;
}

std::vector<RouteRow> explain_route(const RouteQuestion& question, const NodeLoads& loads) {
  const Facts& facts = question.facts;
  BatchFacts batch;
  batch.add(facts);
  batch.executes = true;
  batch.overrides = question.overrides;
  SessionState room;
  const SessionState& session = seen_by(batch, question.session, room);
  const Decision decision = route(batch, session, question.mode);

  std::vector<RouteRow> rows;
  const auto row = [&rows](std::string property, std::string value) {
    rows.push_back({std::move(property), std::move(value)});
  };
  row("class", std::string(name(facts.kind)));
  row("class_reason", std::string(name(facts.why)));
  row("digest", digest_text(facts.digest));
  std::string tables;
  for (const TableName& table : facts.tables)
    tables += (tables.empty() ? "" : ", ") + (table.schema.empty() ? "" : table.schema + ".") + table.name;
  row("tables", tables);
  row("pins", names(facts.pins));
  row("rule", question.rule);
  if (!question.rule_does.empty()) row("rule_does", question.rule_does);
  row("service_class", question.service_class);
  if (begins(facts)) row("transactions", conf::plain(question.transactions));
  row("consistency", conf::plain(session.consistency));
  const RouteOverrides& said = question.overrides;
  if (said.max_lag_ms != 0) row("max_lag", conf::print(Millis(said.max_lag_ms)));
  if (said.query_timeout_ms != 0) row("query_timeout", conf::print(Millis(said.query_timeout_ms)));
  if (said.blocked) {
    row("target", question.dry_run ? "primary (dry_run; else refused)" : "none: refused");
    row("reason", "blocked");
    return rows;
  }
  row("target", question.dry_run && decision.target == Target::replica
                    ? "primary (dry_run; else replica)"
                    : std::string(name(decision.target)));
  row("reason", std::string(name(decision.why)));
  if (question.cluster == nullptr || decision.target == Target::same_server) return rows;
  const ClusterState& cluster = *question.cluster;
  ReadNeeds needs{.excluded = question.excluded, .max_lag = Millis(said.max_lag_ms),
                  .groups = question.groups};
  if (session.consistency != conf::Consistency::eventual) needs.satisfy(session.floor);
  if (needs.floor != Lsn{}) row("floor", print(needs.floor));
  if (decision.target == Target::replica) {
    std::minstd_rand random;
    needs.excluded |= question.kept_from;
    row("read_choice", std::string(name(choose_replica(cluster, needs, loads, random).why)));
  }
  for (std::size_t i = 0; i < cluster.nodes.size(); ++i)
    row("candidate " + cluster.nodes[i].address.name(),
        describe(cluster, i, needs, i < 64 && (question.kept_from >> i & 1) != 0, loads));
  return rows;
}

}  // namespace routing
