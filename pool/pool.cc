#include "pool/pool.h"

#include "conf/check.h"

namespace pool {

std::string_view name(ServerState state) {
  switch (state) {
    case ServerState::connecting: return "connecting";
    case ServerState::idle: return "idle";
    case ServerState::active: return "active";
    case ServerState::closing: return "closing";
  }
  return "?";
}

void Pool::add(PooledServer& server) {
  ENSURE(server.home == nullptr);
  ENSURE(server.state == ServerState::connecting || server.state == ServerState::idle);
  server.home = this;
  list(server.state).push_back(server);
}

void Pool::remove(PooledServer& server, bool gone) {
  ENSURE(server.home == this);
  list(server.state).remove(server);
  server.home = nullptr;
  if (gone) budget_->give_back();
}

PooledServer* Pool::next(const PooledServer& server) const { return list(server.state).after(server); }

}  // namespace pool
