#pragma once

#include <cstddef>
#include <memory>

#include "pool/budget.h"
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

// The pool's record of one client that waits for a server. proxy::Client derives from it.
struct Waiter {
  Instant waiting_since{};
  ListNode<Waiter> in_queue;
};

// The servers of one (node, database, user) in one worker, and the clients waiting for them, longest
// first. It decides nothing by itself and touches no socket: it answers "which", and proxy/ acts.
//
// What proxy/ keeps true: nobody waits while a server is idle.
class Pool {
 public:
  Pool(PoolKey key, std::shared_ptr<Budget> budget) : key_(std::move(key)), budget_(std::move(budget)) {}

  const PoolKey& key() const { return key_; }
  Budget& budget() { return *budget_; }

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

  void enqueue(Waiter& waiter) { waiters_.push_back(waiter); }
  void enqueue_first(Waiter& waiter) { waiters_.push_front(waiter); }
  void dequeue(Waiter& waiter) { waiters_.remove(waiter); }
  Waiter* longest_waiter() const { return waiters_.front(); }
  Waiter* next(const Waiter& waiter) const { return waiters_.after(waiter); }
  // When the longest waiter came, or Instant::max().
  Instant waiting_since() const {
    return waiters_.empty() ? Instant::max() : waiters_.front()->waiting_since;
  }

  // How many connections to start so that no waiter waits for lack of one (the budget and the pace of
  // connecting limit it further).
  std::size_t connections_wanted() const {
    const std::size_t connecting = count(ServerState::connecting);
    return waiters_.size() > connecting ? waiters_.size() - connecting : 0;
  }

  // Not filled up to its minimum before: its servers were refused a moment ago.
  Instant not_filled_before{};

  std::size_t waiting() const { return waiters_.size(); }
  std::size_t count(ServerState state) const { return list(state).size(); }
  PooledServer* first(ServerState state) const { return list(state).front(); }

 private:
  using Servers = List<PooledServer, &PooledServer::in_pool>;
  Servers& list(ServerState state) { return servers_[static_cast<std::size_t>(state)]; }
  const Servers& list(ServerState state) const { return servers_[static_cast<std::size_t>(state)]; }

  PoolKey key_;
  std::shared_ptr<Budget> budget_;
  Servers servers_[4];  // by state
  List<Waiter, &Waiter::in_queue> waiters_;
};

}  // namespace pool
