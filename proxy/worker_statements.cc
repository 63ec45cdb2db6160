#include "proxy/worker.h"

#include <algorithm>
#include <utility>

#include "conf/check.h"
#include "pool/protection.h"
#include "proxy/link.h"
#include "proxy/wire/sqlstate.h"
#include "routing/chooser.h"

// Where statements go: a server for each, or a place in a queue.
namespace proxy {

using conf::Instant;
using conf::Millis;
using namespace std::chrono_literals;

namespace {

// A replica whose lag at its last probe was so much above routing.floor_wait has a chance to be there in time: a
// lag is measured with the grain of samples and probes.
constexpr Millis kNearly{30};

}  // namespace

std::uint64_t Worker::find_excluded(const routing::ClusterState& cluster) {
  std::uint64_t bits = 0;

  const std::size_t count = std::min<std::size_t>(cluster.nodes.size(), 64);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t node = routing::index(cluster.nodes[i].id);
    if (node < backoffs_.size() && !backoffs_[node].may_try(now())) bits |= std::uint64_t{1} << i;
  }
  if (bits == 0)
    nodes_failing_ = std::ranges::any_of(
        backoffs_, [](const pool::Backoff& backoff) { return backoff.failures() > 0; });
  return bits;
}

routing::NodeRole Worker::role_of(const Identity& identity, routing::NodeId node) const {
  const routing::ClusterState* state = cluster(identity);
  if (state == nullptr) return routing::NodeRole::unknown;
  if (state->primary && *state->primary == node) return routing::NodeRole::primary;
  const routing::NodeState* found = state->find(node);
  return found != nullptr && found->role == routing::NodeRole::replica ? routing::NodeRole::replica
                                                                       : routing::NodeRole::unknown;
}

metrics::StatementSeries& Worker::series(Client& client, const Server& server,
                                         routing::StatementClass kind) {
  const metrics::SeriesKey key{.node = static_cast<std::uint16_t>(server.node_id()),
                               .role = static_cast<std::uint8_t>(server.role),
                               .kind = static_cast<std::uint8_t>(kind),
                               .tenant = client.tenant->number,
                               .database = client.identity->traffic->number};
  // Clients repeat themselves: most look-ups end here.
  if (client.last_series == nullptr || client.last_series->key != key)
    client.last_series = &metrics_->series(key);
  return *client.last_series;
}

// The number that a session waits for; one that has been sent already may still want the replicas to be asked.
void Worker::want_sample(const Identity& identity, std::uint64_t sample) {
  // One word per 5 ms and sample: the control thread does not send more.
  if (sample <= wanted_.sample && now() - wanted_.at < 5ms) return;
  wanted_ = {now(), sample};
  shared_.tell_control(SampleWanted{identity.cluster, sample});
}

void Worker::look_at(Server& server) const {
  server.looked_at = topology_->version;
  server.role = role_of(server.identity(), server.node_id());
  server.is_stale = true;
  for (const routing::ClusterState& state : topology_->clusters)
    if (const routing::NodeState* node = state.find(server.node_id()))
      server.is_stale = node->incarnation != server.incarnation() || node->drained ||
                        // Its name stands for other addresses now.
                        (!node->ips.empty() && std::ranges::find(node->ips, server.ip()) == node->ips.end());
  server.is_stale |= server.outdated || server.identity().paused;
}

// Its tenant's limits. Nothing: it may go on.
std::optional<Worker::Placed> Worker::admit(Client& client) {
  const pool::Admission admission = pool::admit(*client.tenant, now(), client.waiting_since, settings_->tenant_rate_wait,
                                                std::exchange(client.has_cell, false));
  switch (admission.answer) {
    case pool::Admission::Answer::admit: client.admitted = true; return std::nullopt;
    case pool::Admission::Answer::wait:
      client.has_cell = admission.has_cell;
      client.not_before() = now() + admission.retry_after;
      wait(client, WaitingFor::tenant);
      return Placed::waits;
    case pool::Admission::Answer::refuse: break;
  }
  // Jitter, so that those refused together do not come back together.
  const auto after = admission.retry_after + Millis(static_cast<std::int64_t>(random_() % 50) *
                                                    std::max<std::int64_t>(1, admission.retry_after.count()) / 100);
  client.refuse(admission.why, wire::sqlstate::kConfigurationLimitExceeded,
                "tenant \"" + client.tenant->name + "\" is over its " +
                    (admission.why == pool::Refusal::tenant_rate          ? "limit of statements per second"
                     : admission.why == pool::Refusal::tenant_server_time ? "limit of servers' time"
                                                                          : "limit of concurrent statements"),
                after);
  return Placed::refused;
}

// What a read must find at its node: not excluded, not too late, and as far as its session has seen.
routing::ReadNeeds Worker::needs_of(Client& client, const routing::ClusterState& state, conf::Consistency consistency,
                                    routing::RouteReason why) {
  routing::ReadNeeds needs;
  needs.excluded = excluded_for(client, state);
  needs.max_lag = Millis(client.batch.overrides.max_lag_ms);
  if (client.batch.overrides.nodes_by != 0) [[unlikely]]
    confine(client.batch.overrides, &needs);
  if (consistency != conf::Consistency::eventual) {
    routing::Floor& floor = client.route_state.floor;
    if (consistency == conf::Consistency::tenant || consistency == conf::Consistency::strong) [[unlikely]] {
      const std::uint64_t sent = state.samples_sent->load();
      if (consistency == conf::Consistency::tenant)
        floor.raise_to(client.tenant->written[client.identity->written_at % pool::Tenant::kClusters].load(), sent);
      else if (client.waiting_for != WaitingFor::floor && client.waiting_for != WaitingFor::replica)
        floor.raise(sent);
    }
    if (floor.learn(state)) metrics_->floors_lost.add();
    needs.satisfy(floor);
    needs.close = settings_->routing_floor_wait + kNearly;
  }
  // What a rule or the client itself says of lag holds all the same.
  if (const int times = pool::lag_tolerance(protection()); times > 1 && needs.max_lag.count() == 0 &&
                                                           consistency == conf::Consistency::eventual) [[unlikely]] {
    needs.tolerated = times * settings_->routing_max_lag;
    needs.tolerated_bytes = static_cast<std::uint64_t>(times) * settings_->routing_max_lag_bytes.count;
  }
  // A transaction could still be made one that writes.
  if (state.promoted != 0 && why == routing::RouteReason::read_only_transaction) [[unlikely]]
    needs.excluded |= state.promoted;
  return needs;
}

// A replica for a read. A value: it has been placed otherwise. Nothing, and no node either: the primary's.
std::optional<Worker::Placed> Worker::choose_replica(Client& client, const routing::ClusterState& state,
                                                     ReadPlace* place) {
  routing::Floor& floor = client.route_state.floor;
  const std::uint64_t excluded = place->needs.excluded;
  const bool confined = !own_nodes_.empty() || client.tenant->replicas.load(std::memory_order_relaxed) > 0;
  const auto choose = [&] {
    if (confined) [[unlikely]]
      return choose_confined(client, state, excluded, place);
    return routing::choose_replica(state, place->needs, shared_.loads, random_);
  };
  routing::ReadChoice choice = choose();
  if (choice.leave && client.waiting_for != WaitingFor::floor) [[unlikely]] {
    floor.leave(state.samples_sent->load());
    choice = {.why = routing::ReadReason::floor_pending, .soon = true};
  }
  if (floor.kind == routing::Floor::Kind::leaving) [[unlikely]] {
    if (choice.soon && waits_for_floor(client)) {
      want_sample(*client.identity, floor.sample);
      return Placed::waits;
    }
    floor.stay();  // nobody has said in time where else it may go
    place->needs.satisfy(floor);
    choice = choose();
  }
  place->node = choice.replica;
  place->why = choice.why;
  const bool floor_fails = choice.why == routing::ReadReason::floor_pending ||
                           choice.why == routing::ReadReason::none_has_replayed;
  // Its node has just failed us: what it had is told by the primary's next sample.
  if (floor.kind == routing::Floor::Kind::at_node && floor_fails) floor.raise(state.samples_sent->load());
  if (floor_fails) want_sample(*client.identity, floor.sample);
  if (choice.soon && waits_for_floor(client)) return Placed::waits;
  if (client.waiting_for == WaitingFor::floor) {
    client.waiting_for = WaitingFor::nothing;
    (place->node ? metrics_->floor_waits : metrics_->floor_waits_in_vain).add();
  }
  if (choice.why == routing::ReadReason::floor_pending) client.route_why = routing::RouteReason::floor_pending;
  if (place->node || place->must_be_own || settings_->routing_dry_run) [[likely]]
    return std::nullopt;
  const Spilled spilled = spill(client, state, choice.why);
  place->node = spilled.node;
  if (!place->node && (state.primary || spilled.placed == Placed::refused)) return spilled.placed;
  return std::nullopt;
}

// No node is known that takes it: it waits for one, unless too many do.
Worker::Placed Worker::wait_for_node(Client& client) {
  const std::int64_t most = settings_->routing_primary_waiters;
  const bool too_many = most > 0 && client.state() != ClientState::login &&
                        shared_.held_writes.load(std::memory_order_relaxed) >= most;
  if (too_many) {
    client.refuse(pool::Refusal::no_primary, wire::sqlstate::kCannotConnectNow,
                  "no primary is known at the moment, and " + std::to_string(most) +
                      " statements wait for one already (routing.primary_waiters)",
                  soon(Millis(500)));
    return refused(client);
  }
  wait(client, WaitingFor::node);
  return Placed::waits;
}

Worker::Placed Worker::place(Client& client) {
  const bool login = client.state() == ClientState::login;
  Identity& identity = *client.identity;
  if (identity.paused) [[unlikely]] {
    if (std::exchange(client.admitted, false)) pool::leave(*client.tenant);
    wait(client, WaitingFor::resume);
    return Placed::waits;
  }
  if (client.tenant_next) {
    client.tenant = &shared_.tenants.find(*client.tenant_next, identity.user);
    if (!orders_->classes.empty()) client.settings_changed();
    client.tenant_next = nullptr;
  }
  const bool special = (special_classes_ >> client.service_class & 1) != 0;
  if (special && !login) [[unlikely]]
    if (const auto refused = refuse_class(client)) return *refused;
  if (!client.admitted && !login)
    if (const auto placed = admit(client)) return *placed;
  if (client.batch_extras) [[unlikely]]
    switch (share(client)) {
      case Sharing::none: break;
      case Sharing::follows: return Placed::waits;
      case Sharing::answered: return Placed::answered;
    }

  client.spills = false;
  client.route_why = routing::RouteReason::write;
  const routing::ClusterState* const state = cluster(identity);
  if (state == nullptr) return wait_for_node(client);
  if (client.batch.shows_lsn || client.batch.sets_lsn) [[unlikely]]
    if (const auto placed = place_token(client, *state)) return *placed;
  routing::SessionState room;
  const routing::SessionState& session = routing::seen_by(client.batch, client.route_state, room);
  routing::Decision decision = login && client.batch.kind == routing::StatementClass::read
                                   ? routing::Decision{routing::Target::replica, routing::RouteReason::read}
                                   : routing::route(client.batch, session, identity.mode);
  if (client.retry && client.retry.why == pool::RetryReason::wrong_node) [[unlikely]]
    decision = {routing::Target::primary, routing::RouteReason::retry};
  client.route_why = decision.why;
  ReadPlace place;
  if (decision.target == routing::Target::replica) {
    place.needs = needs_of(client, *state, session.consistency, decision.why);
    if (const auto placed = choose_replica(client, *state, &place)) return *placed;
  }
  if (settings_->routing_dry_run && !login) [[unlikely]] {
    place.node = std::nullopt;
    place.must_be_own = false;
  }
  if (!place.node && !place.must_be_own) place.node = state->primary;
  // A primary that has just refused us is left alone for a moment; nobody else takes writes.
  if (nodes_failing_ && place.node && routing::index(*place.node) < backoffs_.size() &&
      !backoffs_[routing::index(*place.node)].may_try(now()) &&
      pool(identity, *place.node).most_recent_idle() == nullptr)
    place.node = std::nullopt;
  if (!place.node) return wait_for_node(client);
  return place_at(client, *state, place);
}

// At that node, or where a read waits less.
Worker::Placed Worker::place_at(Client& client, const routing::ClusterState& state, const ReadPlace& place) {
  Identity& identity = *client.identity;
  pool::Pool* its_pool = &pool(identity, *place.node);
  Server* server = free_server(client, *its_pool);
  // A read may run where others wait less, at the price of a sample when its session stays with a replica.
  const bool may_move = place.why && place.node != state.primary && !place.must_be_own &&
                        client.state() != ClientState::login;
  if (server == nullptr && may_move && must_queue(client, *its_pool)) {
    if (*place.why == routing::ReadReason::fresh_replica) {
      its_pool = &shorter_queue(client, state, place.needs, *its_pool);
      server = free_server(client, *its_pool);
    } else if (*place.why == routing::ReadReason::same_replica && is_worth_leaving(client, state, place.needs, *its_pool)) {
      routing::Floor& floor = client.route_state.floor;
      floor.raise(state.samples_sent->load());
      if (waits_for_floor(client)) {
        want_sample(identity, floor.sample);
        return Placed::waits;
      }
    }
  }
  if (place.why) metrics_->read_choices.add(*place.why);
  if (server != nullptr) {
    tie(client, *server);
    return Placed::linked;
  }
  if (const auto full = join_queue(client, *its_pool)) return *full;
  if (client.spills) count_spill(client, its_pool->key().node, 1);
  if (const auto full = open_servers(identity, *its_pool)) metrics_->server_limits.add(*full);
  hurry();
  return Placed::waits;
}

// No replica has replayed what this read must see, but one may have soon. False: it has waited long enough.
bool Worker::waits_for_floor(Client& client) {
  if (client.waiting_for == WaitingFor::replica) return false;
  if (client.waiting_for != WaitingFor::floor)
    client.not_before() = now() + settings_->routing_floor_wait;
  else if (now() >= client.not_before())
    return false;
  if (settings_->routing_floor_wait.count() == 0 || client.state() == ClientState::login) return false;
  wait(client, WaitingFor::floor);
  return true;
}

// The batch brings a position, or asks for one. Nothing: go on.
std::optional<Worker::Placed> Worker::place_token(Client& client, const routing::ClusterState& state) {
  routing::Floor& floor = client.route_state.floor;
  const auto refuse = [this, &client](std::string_view sqlstate, const std::string& message) {
    client.refuse(pool::Refusal::invalid_setting, sqlstate, message);
    return refused(client);
  };
  if (client.batch.shows_lsn && client.batch.kind > routing::StatementClass::read)
    return refuse(wire::sqlstate::kFeatureNotSupported,
                  "SHOW pgsluice.lsn must stand alone: what the same batch does is not in it");
  const bool waited = client.waiting_for == WaitingFor::floor;
  if (floor.learn(state)) metrics_->floors_lost.add();
  if (client.batch.sets_lsn) {
    const std::optional<routing::Token> token = client.token_to_set();
    if (!token) return std::nullopt;  // it has been told why
    switch (routing::judge_token(*token, state)) {
      case routing::TokenVerdict::good:
      case routing::TokenVerdict::lost: return std::nullopt;
      case routing::TokenVerdict::other_system:
        return refuse(wire::sqlstate::kInvalidParameterValue,
                      "pgsluice.lsn " + print(*token) + " is of another database system");
      case routing::TokenVerdict::ahead: break;
    }
    if (waited && floor.kind == routing::Floor::Kind::known)
      return refuse(wire::sqlstate::kInvalidParameterValue,
                    "pgsluice.lsn " + print(*token) + " is ahead of everything that has been written");
  }
  // A sample that is sent from now on is past what others have written and what this session has seen.
  const bool seen = floor.kind == routing::Floor::Kind::none || floor.has_node();
  if (seen || (client.batch.sets_lsn && !waited)) floor.raise(state.samples_sent->load());
  if (floor.kind == routing::Floor::Kind::known) {
    client.show_token(routing::token_of(floor.lsn, state));
    return std::nullopt;
  }
  if (now() - client.waiting_since > settings_->routing_primary_wait) {
    client.refuse(pool::Refusal::no_primary, wire::sqlstate::kCannotConnectNow,
                  "the primary does not tell its position at the moment (waited " +
                      conf::print(settings_->routing_primary_wait) + ")");
    return refused(client);
  }
  want_sample(*client.identity, floor.sample);
  wait(client, WaitingFor::floor);
  return Placed::waits;
}

// The list of those who wait for time to pass or for a node to come.
void Worker::wait(Client& client, WaitingFor what) {
  if (client.in_retry.linked()) leave_retry(client);
  client.waiting_for = what;
  if (what == WaitingFor::node) shared_.held_writes.fetch_add(1, std::memory_order_relaxed);
  retry_.push_back(client);
  hurry();
}

void Worker::leave_retry(Client& client) {
  if (client.waiting_for == WaitingFor::node) shared_.held_writes.fetch_sub(1, std::memory_order_relaxed);
  retry_.remove(client);
}

void Worker::tie(Client& client, Server& server) {
  server.home->move_to(server, pool::ServerState::active);
  server.resume_reading();
  (void)stale(server);  // its role, by the newest topology
  server.was_primary |= server.role == routing::NodeRole::primary;
  link(client, server);
  if ((special_classes_ >> client.service_class & 1) != 0) [[unlikely]] take_slot(client, server);
  if (client.spills) [[unlikely]] count_spill(client, server.node_id(), 1);
  shared_.loads[routing::index(server.node_id())].in_flight.fetch_add(1, std::memory_order_relaxed);
  if (client.batch_extras) [[unlikely]] start_flight(*client.batch_extras, server);
  if (client.state() == ClientState::login) return;
  client.identity->traffic->assignments.add();
  count_route(client.route_why, client.batch);
}

void Worker::part(Client& client, Server& server) {
  if (server.slot != 0) [[unlikely]] free_slot(client, server);
  unlink(client, server);
  if (client.spills) [[unlikely]] {
    count_spill(client, server.node_id(), -1);
    client.spills = false;
  }
  shared_.loads[routing::index(server.node_id())].in_flight.fetch_sub(1, std::memory_order_relaxed);
  if (std::exchange(client.admitted, false)) pool::leave(*client.tenant);
}

void Worker::stop_waiting(Client& client) {
  if (client.in_retry.linked()) leave_retry(client);
  if (client.flow != nullptr) {
    pool::Pool& its_pool = client.flow->home;
    its_pool.queue().remove(client);
    left_queue(client, its_pool);
  }
}

bool Worker::give(Server& server, pool::Pool& its_pool) {
  Client* client = take_turn(its_pool);
  if (client == nullptr) return false;
  tie(*client, server);
  client->forward_waiting();
  return true;
}

void Worker::release(Server& server) {
  // A cancel that is still on its way would hit the next client.
  if (server.cancels > 0 || server.state != pool::ServerState::active || server.broken()) return;
  ENSURE(server.client == nullptr && server.pipeline.idle() && server.status == 'I');
  if (server.uncertain()) {
    retire(server, ServerEnd::unexpected_message, "its state is not certain after an error");
    return;
  }
  pool::Pool& its_pool = *server.home;
  if (draining_ && its_pool.waiting() == 0) {
    retire(server, ServerEnd::shutdown);
    return;
  }
  if (stale(server)) {
    retire(server, why_stale(server));
    return;
  }
  if (now() - server.connected_at > server.lifetime) {
    retire(server, server.doomed_by);
    return;
  }
  if (its_pool.budget().open() > its_pool.budget().limit()) {
    retire(server, ServerEnd::surplus);
    return;
  }
  if (const auto hungry = hungrier_worker(its_pool)) {
    hand_over(server, *hungry);
    return;
  }
  its_pool.move_to(server, pool::ServerState::idle);
  server.idle_since = now();
  if (its_pool.waiting() > 0) (void)give(server, its_pool);
}

// Everybody who waits at this pool is placed anew: its node has failed, or is no longer what it was.
void Worker::replace_waiters(pool::Pool& its_pool) {
  std::vector<Client*> clients;
  while (pool::Waiter* waiter = its_pool.queue().any()) {
    auto& client = static_cast<Client&>(*waiter);
    stop_waiting(client);
    clients.push_back(&client);
  }
  std::ranges::stable_sort(clients, {}, [](const Client* client) { return client->waiting_since; });
  for (Client* client : clients) place_again(*client);
}

void Worker::place_again(Client& client) {
  if (client.state() == ClientState::closing) return;
  switch (place(client)) {
    case Placed::linked: client.forward_waiting(); break;
    case Placed::waits: break;
    case Placed::refused: client.refuse_waiting(); break;
    case Placed::answered: client.take_answer_waiting(*take_found_answer()); break;
  }
}

void Worker::retry_waiting() {
  std::vector<Client*> clients;
  for (Client* client = retry_.front(); client != nullptr; client = retry_.after(*client))
    clients.push_back(client);
  for (Client* client : clients) {
    if (client->state() == ClientState::closing || !client->in_retry.linked()) continue;
    if (client->waiting_for == WaitingFor::tenant && now() < client->not_before()) continue;
    if (client->waiting_for == WaitingFor::resume) {
      if (client->identity->paused) continue;
      client->waiting_since = now();  // for a server, from here on
    }
    leave_retry(*client);
    place_again(*client);
  }
}

}  // namespace proxy
