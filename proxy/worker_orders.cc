#include "proxy/worker.h"

#include <utility>

#include "proxy/wire/sqlstate.h"

// What a worker does when operators order something: PAUSE, RECONNECT, KILL and their kin.
namespace proxy {

void Worker::orders_changed(OrdersChanged&& message) {
  const auto before = std::exchange(orders_, std::move(message.orders));
  const auto concerned = [&message](const Identity& identity) {
    return message.database.empty() || message.database == identity.database;
  };
  std::vector<Identity*> to_pause;
  for (const auto& [key, identity] : identities_) {
    const bool paused = orders_->is_paused(identity->database);
    if (paused && !identity->paused) to_pause.push_back(identity.get());
    identity->paused = paused;
  }
  // Those who wait for a server of such a database wait for its end instead, and hold nothing meanwhile.
  for (Identity* identity : to_pause)
    for (const auto& its_pool : identity->pools)
      if (its_pool) replace_waiters(*its_pool);

  if (message.action == OrderAction::kill) kill_clients(message.database);
  std::size_t closing = 0;
  std::vector<std::pair<Server*, ServerEnd>> ends;
  for (const auto& [address, server] : servers_) {
    server->looked_at = 0;
    if (message.action == OrderAction::reconnect && concerned(server->identity())) server->outdated = true;
    const bool free = server->state == pool::ServerState::idle ||
                      (server->state == pool::ServerState::connecting && server->identity().paused);
    if (message.action == OrderAction::kill && concerned(server->identity())) {
      ends.emplace_back(server.get(), ServerEnd::killed);
    } else if (free && stale(*server)) {
      ends.emplace_back(server.get(), why_stale(*server));
    } else if (server->outdated && concerned(server->identity())) {
      ++closing;
    }
  }
  for (const auto& [server, why] : ends) retire(*server, why);
  if (before->classes != orders_->classes) settle_settings();
  if (gate_ != orders_->gate.get()) {
    gate_ = orders_->gate.get();
    // What waits has not begun.
    std::vector<Client*> waiting;
    if (gate_ != nullptr)
      each_client(ClientState::waiting, [&waiting](Client& client) { waiting.push_back(&client); });
    for (Client* client : waiting) {
      if (client->state() != ClientState::waiting || !client->barred_while_waiting()) continue;
      stop_waiting(*client);
      if (std::exchange(client->admitted, false)) pool::leave(*client->tenant);
      client->refuse_waiting();
    }
  }
  // Whoever waited for a database that is not paused any more goes on.
  retry_waiting();
  if (message.ticket != 0) shared_.tell_control(OrdersObeyed{message.ticket, closing});
}

void Worker::kill_clients(const std::string& database) {
  std::vector<Client*> clients;
  for (const Slot& slot : slots_)
    if (slot.client && slot.client->identity != nullptr &&
        (database.empty() || slot.client->identity->database == database))
      clients.push_back(slot.client.get());
  for (Client* client : clients) kill_client(*client);
}

void Worker::kill_client(Client& client) {
  if (client.state() == ClientState::closing) return;
  client.fatal(ClientEnd::killed, wire::sqlstate::kAdminShutdown,
               "terminating connection due to administrator command");
}

ServerEnd Worker::why_stale(Server& server) const {
  if (server.outdated) return ServerEnd::reconnect;
  if (server.identity().paused) return ServerEnd::paused;
  const routing::ClusterState* state = cluster(server.identity());
  const routing::NodeState* node = state == nullptr ? nullptr : state->find(server.node_id());
  return node != nullptr && node->drained ? ServerEnd::drained : ServerEnd::node_changed;
}

std::optional<pool::ClassId> Worker::ordered_class(const pool::Tenant& tenant) const {
  const auto order = orders_->classes.find(tenant.name);
  if (order == orders_->classes.end()) return std::nullopt;
  return classes_->find(order->second.service_class);
}

}  // namespace proxy
