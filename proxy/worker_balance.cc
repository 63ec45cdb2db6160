#include <algorithm>
#include <utility>

#include "proxy/log.h"
#include "proxy/wire/sqlstate.h"
#include "proxy/worker.h"
#include "routing/chooser.h"

// What a worker does for the good of nodes: the primary is spared reads that it was not meant to serve, and
// nobody waits for a node that has stalled.
namespace proxy {

using conf::Millis;

std::string_view name(Spill spill) {
  switch (spill) {
    case Spill::primary: return "primary";
    case Spill::waits: return "waits";
    case Spill::stale: return "stale";
    case Spill::refused: return "refused";
    case Spill::count_: break;
  }
  return "unknown";
}

void Worker::count_spill(Client& client, routing::NodeId primary, std::int64_t change) {
  pool(*client.identity, primary).budget().spill(change);
}

Worker::Spilled Worker::spill(Client& client, const routing::ClusterState& state, routing::ReadReason why) {
  // Where there are no replicas at all the primary is there for reads.
  const bool meant_for_it = why == routing::ReadReason::no_replica || settings_->routing_spill_percent >= 100 ||
                            client.state() == ClientState::login;
  if (meant_for_it || !state.primary) return {state.primary};
  const pool::Budget& budget = pool(*client.identity, *state.primary).budget();
  const std::int64_t share =
      std::max<std::int64_t>(1, budget.limit() * settings_->routing_spill_percent / 100);
  if (budget.spilled() < share) {
    client.spills = true;
    metrics_->spills.add(Spill::primary);
    return {state.primary};
  }
  const bool first_look = client.waiting_for != WaitingFor::replica;
  if (now() - client.waiting_since < settings_->routing_spill_wait) {
    if (first_look) metrics_->spills.add(Spill::waits);
    wait(client, WaitingFor::replica);
    return {};
  }
  if (settings_->routing_spill_policy == conf::SpillPolicy::error) {
    metrics_->spills.add(Spill::refused);
    if (std::exchange(client.admitted, false)) pool::leave(*client.tenant);
    client.refuse(pool::Refusal::primary_share, wire::sqlstate::kInsufficientResources,
                  "no replica can serve this read (" + std::string(name(why)) +
                      "), and the primary's share for such reads is in use",
                  Millis(100 + static_cast<std::int64_t>(random_() % 100)));
    return {std::nullopt, Placed::refused};
  }
  // Late, but not without what the session itself has written.
  ReadPlace late;
  late.needs = {.excluded = excluded(state), .however_late = true};
  if (client.batch.overrides.nodes_by != 0) confine(client.batch.overrides, &late.needs);
  if (client.route_state.consistency != conf::Consistency::eventual) late.needs.satisfy(client.route_state.floor);
  late.node = choose_confined(client, state, late.needs.excluded, &late).replica;
  if (late.node) {
    metrics_->spills.add(Spill::stale);
    return {late.node};
  }
  wait(client, WaitingFor::replica);  // until pool.queue_timeout
  return {};
}

// A probe of a node is late: from then on its servers that owe an answer must say something between two looks.
// When the node is given up for dead, those that have not are closed: nobody waits for the kernel's time-outs. A
// long statement on a node whose probes are answered is left alone. Looks are taken with each new topology and,
// while a node stalls, at the slow pace of tick().
void Worker::watch_stalled() {
  std::vector<Server*> dead;
  nodes_stalling_ = false;
  for (const routing::ClusterState& state : topology_->clusters)
    for (const routing::NodeState& node : state.nodes) nodes_stalling_ |= node.late;
  for (const auto& [address, owner] : servers_) {
    Server& server = *owner;
    const routing::ClusterState* state = nodes_stalling_ ? cluster(server.identity()) : nullptr;
    const routing::NodeState* node = state == nullptr ? nullptr : state->find(server.node_id());
    const bool owes = server.state == pool::ServerState::active && !server.pipeline.nothing_owed();
    if (node == nullptr || !node->late || !owes) {
      server.watched = false;
      continue;
    }
    if (server.watched && !server.heard && node->health == routing::NodeHealth::down) dead.push_back(&server);
    // Between two topologies may be no time at all.
    if (server.watched && now() - server.watched_since < kIdleTick) continue;
    server.watched_since = now();
    server.watched = true;
    server.heard = false;
  }
  for (Server* server : dead)
    if (is_alive(server))
      retire(*server, ServerEnd::stalled, "node " + server->node_name() + " has stopped answering");
}

}  // namespace proxy
