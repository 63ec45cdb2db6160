// What a worker tells the console about itself.
#include "proxy/client_login.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

std::string seconds(conf::Nanos time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::seconds>(time).count());
}

// "10.1.2.3:50123" -> "10.1.2.3" and "50123"; "unix" has no port.
std::string host_of(const std::string& peer) { return peer.substr(0, peer.rfind(':')); }
std::optional<std::string> port_of(const std::string& peer) {
  const std::size_t colon = peer.rfind(':');
  if (colon == std::string::npos) return std::nullopt;
  return peer.substr(colon + 1);
}

std::string print(const routing::Floor& floor) {
  switch (floor.kind) {
    case routing::Floor::Kind::none: return "";
    case routing::Floor::Kind::pending: return "pending";
    case routing::Floor::Kind::known: return routing::print(floor.lsn);
  }
  return "";
}

}  // namespace

void Worker::answer_console(const ConsoleAsk& question) {
  Rows rows;
  const conf::Instant at = now();
  switch (question.question) {
    case ConsoleQuestion::clients:
      for (const Slot& slot : slots_) {
        if (!slot.client || slot.client->state() == ClientState::closing) continue;
        const Client& client = *slot.client;
        const Server* server = client.server;
        rows.push_back(
            {"C", host_of(client.peer()), port_of(client.peer()), proxy::print(client.id()), std::string(name(client.state())),
             client.waiting_for == WaitingFor::nothing ? "" : std::string(name(client.waiting_for)),
             client.identity == nullptr ? "" : client.identity->user,
             client.identity == nullptr ? "" : client.identity->database,
             client.tenant == nullptr ? "" : client.tenant->name, client.peer(),
             server == nullptr ? "" : server->node_name(),
             server == nullptr ? std::nullopt
                               : std::optional(std::to_string(server->backend_pid())),
             routing::names(client.pins), print(client.route_state.floor),
             std::to_string(client.statements), seconds(at - client.connected_at()),
             seconds(at - client.quiet_since()),
             std::to_string(client.prepared ? client.prepared->named().size() : 0),
             client.tls_description()});
      }
      break;
    case ConsoleQuestion::servers:
      for (const auto& [address, owner] : servers_) {
        Server& server = *owner;
        rows.push_back(
            {"S", server.ip(), std::to_string(server.port()), server.node_name(), std::string(name(role_of(server.identity(), server.node_id()))),
             std::string(name(server.state)), server.identity().user, server.identity().dbname,
             std::to_string(server.backend_pid()),
             server.client == nullptr ? "" : proxy::print(server.client->id()),
             std::string(1, server.status), std::to_string(server.statements.size()),
             seconds(at - server.connected_at),
             server.state == pool::ServerState::idle ? std::optional(seconds(at - server.idle_since))
                                                     : std::nullopt,
             server.tls_description(), std::to_string(number_)});
      }
      break;
    case ConsoleQuestion::pools:
      for (const auto& [key, identity] : identities_) {
        for (const auto& its_pool : identity->pools) {
          if (!its_pool) continue;
          const routing::ClusterState* state = cluster(*identity);
          const routing::NodeState* node =
              state == nullptr ? nullptr : state->find(its_pool->key().node);
          const auto count_of = [&its_pool](pool::ServerState of) {
            return std::to_string(its_pool->count(of));
          };
          rows.push_back(
              {identity->database, identity->user,
               node == nullptr ? "(removed)" : node->address.name(),
               std::string(name(role_of(*identity, its_pool->key().node))),
               count_of(pool::ServerState::active), std::to_string(its_pool->waiting()),
               count_of(pool::ServerState::active), count_of(pool::ServerState::idle),
               count_of(pool::ServerState::connecting),
               std::to_string(its_pool->budget().limit()),
               std::to_string(its_pool->waiting() == 0
                                  ? 0
                                  : std::chrono::duration_cast<conf::Micros>(
                                        at - its_pool->waiting_since())
                                        .count()),
               identity->mode == conf::PoolMode::session ? "session" : "transaction"});
        }
      }
      break;
  }
  shared_.tell_control(ConsoleRows{question.ticket, std::move(rows)});
}

}  // namespace proxy
