#pragma once

#include <cstddef>
#include <memory>

#include "pool/budget.h"
#include "pool/fair_queue.h"
#include "pool/list.h"

namespace pool {

// The states of a server, and the pool's list of each.
enum class ServerState : std::uint8_t { connecting, idle, active, closing };
std::string_view name(ServerState state);

constexpr bool may_follow(ServerState from, ServerState to) {
  using enum ServerState;
  if (to == closing) return from != closing;  // anything may fail
  switch (from) {
    case connecting: return to == idle;
    case idle: return to == active;
    case active: return to == idle;
    case closing: return false;
  }
  return false;
}
static_assert(!may_follow(ServerState::closing, ServerState::idle));
static_assert(!may_follow(ServerState::connecting, ServerState::active));

class Pool;

// The pool's record of one server connection. proxy::Server derives from it and adds the socket; the
// pool and its tests need only this.
struct PooledServer {
  ServerState state = ServerState::connecting;
  Instant connected_at{};
  Instant idle_since{};
  Pool* home = nullptr;
  ListNode<PooledServer> in_pool;
};

// The servers of one (node, database, user) in one worker, and the clients waiting for them
// (pool/fair_queue.h). It decides nothing by itself and touches no socket: it answers "which", and proxy/
// acts.
//
// What proxy/ keeps true: nobody waits while a server is idle, but for those whom a ceiling holds back.
class Pool {
 public:
  Pool(PoolKey key, std::shared_ptr<Budget> budget) : key_(std::move(key)), budget_(std::move(budget)) {}

  const PoolKey& key() const { return key_; }
  Budget& budget() { return *budget_; }
  const Budget& budget() const { return *budget_; }

  // A server joins in state `connecting` (its right to exist has been taken from the budget), or `idle`
  // when another worker handed it over.
  void add(PooledServer& server);
  // Leaves for good: closed, or handed over. The right to exist goes back only when `gone`.
  void remove(PooledServer& server, bool gone);
  // The one mover: checks that the move is legal and keeps the lists true.
  void move_to(PooledServer& server, ServerState next) {
    ENSURE(server.home == this && may_follow(server.state, next));
    list(server.state).remove(server);
    server.state = next;
    list(next).push_back(server);
  }

  // The idle server that was used last (its caches are warm, and those at the other end age out).
  PooledServer* most_recent_idle() const { return list(ServerState::idle).back(); }
  PooledServer* least_recent_idle() const { return list(ServerState::idle).front(); }
  PooledServer* next(const PooledServer& server) const;

  FairQueue& queue() { return queue_; }
  const FairQueue& queue() const { return queue_; }
  // Must be asked by whoever takes or counts from the queue, where `classes` have ceilings.
  FairQueue::Ceilings ceilings() const { return {budget_->slots(), budget_->limit()}; }

  // How many connections to start so that no waiter waits for lack of one (the budget and the pace of
  // connecting limit it further).
  std::size_t connections_wanted() const {
    const std::size_t connecting = count(ServerState::connecting);
    return queue_.size() > connecting ? queue_.size() - connecting : 0;
  }

  // Not filled up to its minimum before: its servers were refused a moment ago.
  Instant not_filled_before{};

  std::size_t waiting() const { return queue_.size(); }
  std::size_t count(ServerState state) const { return list(state).size(); }
  PooledServer* first(ServerState state) const { return list(state).front(); }

 private:
  using Servers = List<PooledServer, &PooledServer::in_pool>;
  Servers& list(ServerState state) { return servers_[static_cast<std::size_t>(state)]; }
  const Servers& list(ServerState state) const { return servers_[static_cast<std::size_t>(state)]; }

  PoolKey key_;
  std::shared_ptr<Budget> budget_;
  Servers servers_[4];  // by state
  FairQueue queue_{*this};
};

}  // namespace pool
