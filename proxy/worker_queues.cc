#include "proxy/worker.h"

#include <algorithm>
#include <utility>

#include "pool/protection.h"
#include "proxy/wire/sqlstate.h"

// Who waits for a server, who may have the next, and who has waited too long. What is decided is decided in
// pool/fair_queue.h and pool/protection.h.
namespace proxy {

using conf::Millis;
using conf::Priority;

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// Shorter waits are not worth a look at other queues.
constexpr Millis kLongWait{1};
// What it costs a session to leave the replica of its last read: it waits for the primary's next sample, and for a
// replica that has replayed it.
constexpr Millis kCostOfLeaving{15};
// Other queues at which a statement looks. It waits for a millisecond at least; a look takes less than one.
constexpr int kLooks = 8;

}  // namespace

// Jitter, so that those refused together do not come back together.
Millis Worker::soon(Millis at_least) {
  const std::int64_t least = std::max<std::int64_t>(1, at_least.count());
  return Millis(least + static_cast<std::int64_t>(random_()) % least);
}

Worker::Placed Worker::refused(Client& client) {
  if (std::exchange(client.admitted, false)) pool::leave(*client.tenant);
  return Placed::refused;
}

// Self-protection has left its class; nothing where it is only counted.
std::optional<Worker::Placed> Worker::refuse_class(Client& client) {
  if ((shed_classes_ >> client.service_class & 1) == 0) return std::nullopt;
  client.refuse(pool::Refusal::overloaded, wire::sqlstate::kInsufficientResources,
                "statements of class \"" + classes_->at(client.service_class).name +
                    "\" are not served now: the process protects itself",
                soon(Millis(1000)));
  return refused(client);
}

// The end of the queue of this pool; or a refusal, when so many wait already.
std::optional<Worker::Placed> Worker::join_queue(Client& client, pool::Pool& its_pool) {
  const bool login = client.state() == ClientState::login;
  pool::Tenant& tenant = *client.tenant;
  if (!login) {
    const std::int64_t most = settings_->pool_max_waiting, of_tenant = tenant.max_waiting.load(kRelaxed);
    const bool tenant_full = of_tenant > 0 && tenant.waiting.load(kRelaxed) >= of_tenant;
    if (tenant_full || (most > 0 && shared_.waiting.load(kRelaxed) >= most)) {
      client.refuse(pool::Refusal::queue_full, wire::sqlstate::kInsufficientResources,
                    tenant_full ? std::to_string(of_tenant) + " statements of tenant \"" + tenant.name +
                                      "\" wait for a server already (max_waiting)"
                                : std::to_string(most) +
                                      " statements wait for a server already (pool.max_waiting)",
                    soon(Millis(100)));
      return refused(client);
    }
  }
  client.waiting_for = WaitingFor::server;
  // Whoever logs in runs nothing there, and has a deadline of its own.
  const auto service_class = login ? static_cast<pool::ClassId>(Priority::critical) : client.service_class;
  its_pool.queue().enqueue(client, service_class, tenant, *classes_, now());
  shared_.waiting.fetch_add(1, kRelaxed);
  tenant.waiting.fetch_add(1, kRelaxed);
  return std::nullopt;
}

void Worker::left_queue(Client& client, pool::Pool& its_pool) {
  shared_.waiting.fetch_sub(1, kRelaxed);
  client.tenant->waiting.fetch_sub(1, kRelaxed);
  if (client.spills) its_pool.budget().spill(-1);  // tie() counts it again
  if (its_pool.waiting() == 0) its_pool.budget().feed(number_);
}

// Somebody waits there who may be given a server.
bool Worker::has_turn(const pool::Pool& its_pool) const {
  if (classes_->counted == 0) return its_pool.queue().has_turn(*classes_);
  const pool::FairQueue::Ceilings ceilings = its_pool.ceilings();
  return its_pool.queue().has_turn(*classes_, &ceilings);
}

// A ceiling keeps this client from an idle server.
bool Worker::held_back(const Client& client, const pool::Pool& its_pool) const {
  return client.state() != ClientState::login &&
         !its_pool.ceilings().allow(classes_->at(client.service_class), *client.tenant);
}

// An idle server there that this client may have now.
Server* Worker::free_server(const Client& client, pool::Pool& its_pool) {
  while (pool::PooledServer* record = its_pool.most_recent_idle()) {
    Server& server = *server_of(record);
    if (its_pool.waiting() > 0 && has_turn(its_pool)) return nullptr;  // they come first
    if ((special_classes_ >> client.service_class & 1) != 0 && held_back(client, its_pool)) [[unlikely]]
      return nullptr;
    if (!stale(server)) return &server;
    retire(server, why_stale(server));
  }
  return nullptr;
}

// How long one more statement of this client would wait there, guessed from what its tenant's and the others' cost.
Millis Worker::wait_at(const Client& client, const pool::Pool& its_pool) const {
  const std::int64_t servers = std::max<std::int64_t>(1, its_pool.budget().limit());
  const std::int64_t ahead = its_pool.queue().ahead_of(client.service_class, *client.tenant);
  return Millis(ahead / servers / 1000);
}

// No server that is free or can be opened there is for this client, and its wait will be long.
bool Worker::must_queue(const Client& client, const pool::Pool& its_pool) const {
  if (wait_at(client, its_pool) < kLongWait) return false;
  if (its_pool.budget().open() >= its_pool.budget().limit()) return true;
  return (special_classes_ >> client.service_class & 1) != 0 && held_back(client, its_pool);
}

// A replica has been chosen for this read, and all its servers are taken. Of a few others that would do, and that
// one: the first where a server is free, else where it waits the least.
pool::Pool& Worker::shorter_queue(const Client& client, const routing::ClusterState& state,
                                  routing::ReadNeeds needs, pool::Pool& here) {
  pool::Pool* best = &here;
  Millis least = wait_at(client, here);
  routing::NodeId seen = here.key().node;
  for (int looks = 0; looks < kLooks; ++looks) {
    const auto place = static_cast<std::size_t>(state.find(seen) - state.nodes.data());
    if (place >= 64) break;
    needs.excluded |= std::uint64_t{1} << place;
    const routing::ReadChoice choice = routing::choose_replica(state, needs, shared_.loads, random_);
    if (!choice.replica) break;
    seen = *choice.replica;
    pool::Pool& other = pool(*client.identity, seen);
    if (free_server(client, other) != nullptr) return other;
    const Millis wait = wait_at(client, other);
    if (wait >= least || (special_classes_ >> client.service_class & 1 && held_back(client, other))) continue;
    best = &other;
    least = wait;
  }
  return *best;
}

// The session stays at a replica whose servers are all taken. Would it have had its answer sooner elsewhere?
bool Worker::is_worth_leaving(const Client& client, const routing::ClusterState& state,
                              const routing::ReadNeeds& needs, const pool::Pool& here) {
  const Millis wait = wait_at(client, here);
  const auto count = static_cast<std::uint32_t>(state.serving.size());
  for (int looks = 0; looks < kLooks && count > 1; ++looks) {
    const routing::NodeId drawn = state.serving[random_() % count].id;
    pool::Pool& other = pool(*client.identity, drawn);
    if (&other == &here || state.is_among(needs.excluded, drawn)) continue;
    if (wait >= kCostOfLeaving && free_server(client, other) != nullptr) return true;
    if (wait >= wait_at(client, other) + kCostOfLeaving) return true;
  }
  return false;
}

// Takes out of the queue whose turn it is; null when it is nobody's.
Client* Worker::take_turn(pool::Pool& its_pool) {
  pool::FairQueue& queue = its_pool.queue();
  if (queue.empty()) return nullptr;
  pool::Waiter* waiter = nullptr;
  if (classes_->counted == 0) {
    waiter = queue.take(now(), *classes_);
  } else {
    const pool::FairQueue::Ceilings ceilings = its_pool.ceilings();
    waiter = queue.take(now(), *classes_, &ceilings);
  }
  if (queue.next_late() != nullptr) late_pools_.push_back(&its_pool);
  if (waiter == nullptr) return nullptr;
  auto& client = static_cast<Client&>(*waiter);
  left_queue(client, its_pool);
  return &client;
}

void Worker::sweep_queues() {
  bool overloaded = false;
  if (classes_->deadlines && shared_.waiting.load(kRelaxed) > 0)
    for (const auto& [key, identity] : identities_)
      for (const auto& its_pool : identity->pools) {
        if (!its_pool || its_pool->waiting() == 0) continue;
        its_pool->queue().sweep(now(), *classes_);
        overloaded |= its_pool->queue().overloaded(*classes_);
        if (its_pool->queue().next_late() != nullptr) late_pools_.push_back(its_pool.get());
      }
  overloaded_queue_.store(overloaded, kRelaxed);
}

void Worker::refuse_late(pool::Pool& its_pool) {
  while (pool::Waiter* waiter = its_pool.queue().next_late()) {
    auto& client = static_cast<Client&>(*waiter);
    const pool::ServiceClass& its_class = classes_->at(waiter->flow->service_class);
    stop_waiting(client);
    if (std::exchange(client.admitted, false)) pool::leave(*client.tenant);
    client.refuse(pool::Refusal::queue_deadline, wire::sqlstate::kInsufficientResources,
                  "too many statements wait for a server: one of class \"" + its_class.name +
                      "\" gave up after " +
                      std::to_string(std::chrono::duration_cast<Millis>(now() - client.waiting_since).count()) +
                      " ms",
                  soon(its_class.interval));
    client.refuse_waiting();
  }
}

// Those whom a ceiling kept from servers that are idle: another worker may have made room below it.
void Worker::serve_held_back(pool::Pool& its_pool) {
  while (pool::PooledServer* record = its_pool.most_recent_idle()) {
    Server& server = *server_of(record);
    if (stale(server)) {
      retire(server, why_stale(server));
      continue;
    }
    if (!give(server, its_pool)) return;
  }
}

// What self-protection leaves of the classes.
void Worker::protect() {
  const Priority lowest = pool::lowest_served(protection());
  shed_classes_ = 0;
  if (lowest != Priority::sheddable) [[unlikely]]
    for (std::size_t id = 0; id < classes_->classes.size(); ++id)
      if (classes_->classes[id].priority > lowest) shed_classes_ |= std::uint64_t{1} << id;
  special_classes_ = classes_->counted | shed_classes_;
}

void Worker::take_slot(Client& client, Server& server) {
  if ((classes_->counted >> client.service_class & 1) == 0) return;
  const Priority priority = classes_->priority(client.service_class);
  server.slot = static_cast<std::uint8_t>(static_cast<unsigned>(priority) + 1);
  server.home->budget().slots().take(priority, client.tenant->number);
}

void Worker::free_slot(Client& client, Server& server) {
  if (server.slot == 0) return;
  const auto priority = static_cast<Priority>(std::exchange(server.slot, std::uint8_t{0}) - 1);
  server.home->budget().slots().give_back(priority, client.tenant->number);
}

// Which replicas classes have to themselves, by position in their cluster.
void Worker::map_nodes() {
  map_rules();
  own_nodes_.clear();
  if (!classes_->own_nodes) return;
  for (const routing::ClusterState& cluster : topology_->clusters) {
    std::vector<std::uint64_t>& masks = own_nodes_.emplace_back(classes_->classes.size());
    for (std::size_t i = 0; i < std::min<std::size_t>(cluster.nodes.size(), 64); ++i) {
      const std::string name = cluster.nodes[i].address.name();
      for (std::size_t id = 0; id < masks.size(); ++id)
        if (std::ranges::count(classes_->classes[id].nodes, name) > 0) masks[id] |= std::uint64_t{1} << i;
    }
  }
}

Worker::OwnNodes Worker::own_nodes(pool::ClassId service_class, const routing::ClusterState& cluster) const {
  OwnNodes own;
  const auto at = static_cast<std::size_t>(&cluster - topology_->clusters.data());
  if (at >= own_nodes_.size()) return own;
  const std::vector<std::uint64_t>& masks = own_nodes_[at];
  own.mine = service_class < masks.size() ? masks[service_class] : 0;
  for (const std::uint64_t mask : masks) own.any |= mask;
  return own;
}

std::uint64_t Worker::outside_subset(const pool::Tenant& tenant, const routing::ClusterState& cluster,
                                     std::uint64_t barred, std::uint64_t groups) {
  const std::int64_t count = tenant.replicas.load(kRelaxed);
  if (count == 0) return 0;
  for (std::size_t i = 0; groups != 0 && i < std::min<std::size_t>(cluster.nodes.size(), 64); ++i)
    if ((cluster.nodes[i].groups & groups) == 0) barred |= std::uint64_t{1} << i;
  return routing::outside_subset(cluster, tenant.key, static_cast<std::size_t>(count), barred);
}

std::uint64_t Worker::kept_from(pool::ClassId service_class, const pool::Tenant* tenant,
                                const routing::ClusterState& cluster, std::uint64_t groups) const {
  const OwnNodes own = own_nodes(service_class, cluster);
  const bool only_own = own.mine != 0 && !classes_->at(service_class).overflow;
  const std::uint64_t barred = only_own ? ~own.mine : own.any & ~own.mine;
  return barred | (tenant == nullptr ? 0 : outside_subset(*tenant, cluster, barred, groups));
}

// A replica where classes have some to themselves, or tenants read from a few. `excluded` are those that would not do
// for anybody; what it was chosen by stays in `place`.
routing::ReadChoice Worker::choose_confined(const Client& client, const routing::ClusterState& cluster,
                                            std::uint64_t excluded, ReadPlace* place) {
  const OwnNodes own = own_nodes(client.service_class, cluster);
  const bool overflow = classes_->at(client.service_class).overflow;
  place->must_be_own = own.any != 0 && !overflow && client.state() != ClientState::login;
  const auto choose = [&](std::uint64_t barred) {
    place->needs.excluded =
        excluded | barred | outside_subset(*client.tenant, cluster, barred, place->needs.groups);
    return routing::choose_replica(cluster, place->needs, shared_.loads, random_);
  };
  if (own.mine != 0) {
    const routing::ReadChoice choice = choose(~own.mine);
    if (choice.replica || !overflow) return choice;
  }
  return choose(own.any & ~own.mine);
}

}  // namespace proxy
