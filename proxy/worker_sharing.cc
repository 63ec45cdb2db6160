#include <algorithm>
#include <type_traits>
#include <utility>

#include "proxy/batch.h"
#include "proxy/client.h"
#include "proxy/server.h"
#include "proxy/wire/backend.h"
#include "proxy/wire/framer.h"
#include "proxy/worker.h"

// One answer for several: reads that are in flight already are not run again, and answers are kept for a
// moment, where a [[route]] rule says so. Whose answer is good for whom is decided in pool/single_flight.h.
namespace proxy {

using conf::Instant;
namespace be = wire::backend;

namespace {

// Of all who are sent one answer: what they have not taken yet is kept for each. When so much is kept, the
// others run their statement themselves, at the pace at which they read.
constexpr std::size_t kMostUnread = std::size_t{64} << 20;

// What the leader's client was sent, up to its ReadyForQuery, as others are to hear it: without what its
// server says of itself.
struct SharedAnswer {
  std::string bytes;
  std::string sqlstate;  // of its first error; "": none
  bool whole = false;
};

SharedAnswer cut_answer(std::string_view sent) {
  SharedAnswer answer;
  while (!sent.empty()) {
    wire::Frame frame;
    if (wire::cut(sent, &frame) != wire::Cut::frame || !frame.complete) return answer;
    if (frame.type == be::kErrorResponse && answer.sqlstate.empty())
      answer.sqlstate = wire::peek_error(frame.body).sqlstate;
    if (frame.type != be::kParameterStatus && frame.type != be::kNotificationResponse)
      answer.bytes.append(sent.substr(0, frame.size));
    sent.remove_prefix(frame.size);
    if (frame.type != be::kReadyForQuery) continue;
    answer.whole = frame.body == "I";
    return answer;
  }
  return answer;
}

// The error speaks of the statement: whoever says the same under the same settings hears the same. Any other
// speaks of this run: cancelled, no memory, a conflict with replay.
bool of_the_statement(std::string_view sqlstate) {
  return std::ranges::any_of(std::initializer_list<std::string_view>{"21", "22", "42", "P0"},
                             [sqlstate](std::string_view which) { return sqlstate.starts_with(which); });
}

// What the client asks, of whom and under which settings; then all who have the same key are told the same.
// Nothing: its batch is not of a shape that is shared.
std::optional<std::string> key_of(const Client& client, std::span<const BatchMessage> messages) {
  std::string key = client.identity->database + '\0' + client.identity->user + '\0';
  const auto add = [&key](const auto& value) {
    static_assert(std::is_scalar_v<std::remove_cvref_t<decltype(value)>>);
    key.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  // Sets of settings are one object each in a worker, and whoever keeps the key keeps it.
  add(client.session->current().get());
  const routing::RouteOverrides& overrides = client.batch.overrides;
  add(overrides.rule);
  add(overrides.consistency);
  add(overrides.target);
  add(overrides.max_lag_ms);
  if (!append_question(client, messages, &key)) return std::nullopt;
  return key;
}

}  // namespace

std::string_view name(SharedBy by) {
  switch (by) {
    case SharedBy::flight: return "flight";
    case SharedBy::cache: return "cache";
    case SharedBy::count_: break;
  }
  return "unknown";
}

SharedRead::~SharedRead() {
  if (flight != nullptr) worker.leave_flight(*this);
}

// May the client be told what is read there? As its floor stands, or with what its cluster has learnt since: a position
// that is learnt late is higher than it need be.
bool Worker::may_see(Client& client, const pool::ReadPosition& at) {
  routing::Floor& floor = client.route_state.floor;
  const routing::ClusterState* const state = cluster(*client.identity);
  routing::SessionState room;
  const conf::Consistency scope = routing::seen_by(client.batch, client.route_state, room).consistency;
  if (scope == conf::Consistency::tenant) {
    if (state == nullptr || !state->samples_sent) return false;
    floor.raise_to(client.tenant->written[client.identity->written_at % pool::Tenant::kClusters].load(),
                   state->samples_sent->load());
  }
  // What others have written has been told to them at any time.
  const bool later = scope != conf::Consistency::tenant && at.began > client.batch_extras->shared->told_at;
  if (pool::covers(at, routing::seen_by(client.batch, client.route_state, room), later)) return true;
  if (state == nullptr) return false;
  if (floor.learn(*state)) metrics_->floors_lost.add();
  return pool::covers(at, routing::seen_by(client.batch, client.route_state, room), later);
}

// It is told that: its next reads are not older.
void Worker::note_shared(Client& client, const pool::ReadPosition& at, SharedBy by) {
  routing::SessionState room;
  const conf::Consistency scope = routing::seen_by(client.batch, client.route_state, room).consistency;
  const routing::ClusterState* const state = cluster(*client.identity);
  if (scope != conf::Consistency::eventual && state != nullptr && state->samples_sent)
    pool::note_seen(at, state->samples_sent->load(), &client.route_state);
  metrics_->shared_answers.add(by);
  metrics_->transactions.add();
  digests_.count_shared(client.batch_digests, client.tenant->number);
  count_rule(client.batch.overrides.rule);
}

void Worker::offer_to_share(Client& client, std::size_t streams, Instant told_at) {
  const routing::BatchFacts& batch = client.batch;
  const bool fits = batch.kind == routing::StatementClass::read && batch.plain && batch.executes &&
                    streams == 0 && !batch.open_ended && !batch.too_large && !client.batch_changes &&
                    !client.held && !batch.shows_lsn && !batch.sets_lsn &&
                    !client.route_state.serializable_default && !settings_->routing_dry_run &&
                    client.identity->mode != conf::PoolMode::session;
  routing::SessionState room;
  const conf::Consistency scope = routing::seen_by(batch, client.route_state, room).consistency;
  if (!fits || scope >= conf::Consistency::strong) return;
  std::optional<std::string> key = key_of(client, batch_messages_);
  if (!key) return;
  const conf::RouteRule& rule = rules_->rule(static_cast<routing::RuleSet::Place>(batch.overrides.rule - 1));
  if (!client.batch_extras) client.batch_extras = std::make_unique<BatchExtras>();
  client.batch_extras->shared = std::make_unique<SharedRead>(
      *this, client, std::move(*key), client.session->current(), rule.cache.value_or(Millis(0)), told_at);
}

Worker::Sharing Worker::share(Client& client) {
  if (!client.batch_extras->shared) return Sharing::none;
  SharedRead& read = *client.batch_extras->shared;
  if (read.alone || read.flight != nullptr) return Sharing::none;
  const auto sees = [this, &client](const pool::ReadPosition& at) { return may_see(client, at); };
  if (read.cache_for.count() > 0)
    if (pool::ResultCache::Found found = results_.find(read.key, now(), sees); found.answer) {
      found_answer_ = std::move(found.answer);
      if (std::exchange(client.admitted, false)) pool::leave(*client.tenant);
      note_shared(client, found.at, SharedBy::cache);
      return Sharing::answered;
    }
  pool::Flight* const flight = flights_.find(read.key);
  if (flight == nullptr) {
    flights_.open(read.key, read.settings, read.cache_for, read);
    return Sharing::none;
  }
  const auto most = static_cast<std::size_t>(settings_->limits_shared_followers);
  if (!pool::SingleFlight::takes(*flight, most, sees)) {
    read.alone = true;
    return Sharing::none;
  }
  flights_.join(*flight, read);
  if (std::exchange(client.admitted, false)) pool::leave(*client.tenant);
  client.has_cell = true;  // should it have to be placed again
  if (read.joined_at == Instant()) read.joined_at = now();
  client.waiting_for = WaitingFor::answer;
  hurry();
  return Sharing::follows;
}

// What an answer will show that this server begins to give after now.
pool::ReadPosition Worker::position_of(const Server& server) const {
  const routing::ClusterState* const state = cluster(server.identity());
  pool::ReadPosition at{.primary = server.role == routing::NodeRole::primary,
                        .node = server.node_id(),
                        .incarnation = static_cast<std::uint16_t>(server.incarnation()),
                        .asked = asked_of(server)};
  if (state == nullptr) return at;
  at.term = state->term;
  if (at.primary) {
    if (state->sample != 0) at.lsn = state->sample_lsn;
    return at;
  }
  const routing::NodeState* const node = state->find(server.node_id());
  const routing::NodeState* const primary = state->primary ? state->find(*state->primary) : nullptr;
  // A position on another timeline says nothing about this one's.
  const bool comparable = primary == nullptr || primary->timeline == 0 ||
                          (node != nullptr && (node->timeline == 0 || node->timeline == primary->timeline));
  if (node != nullptr && comparable) at.lsn = node->replayed;
  return at;
}

// The newest number of a question for its position that has been sent to that node.
std::uint64_t Worker::asked_of(const Server& server) const {
  const routing::ClusterState* const state = cluster(server.identity());
  if (state == nullptr || !state->samples_sent || !state->probes_sent) return 0;
  return server.role == routing::NodeRole::primary
             ? state->samples_sent->load()
             : (*state->probes_sent)[routing::index(server.node_id())].load();
}

// A server is about to work for the leader; nothing has been sent to it.
void Worker::start_flight(const BatchExtras& extras, Server& server) {
  if (!extras.shared || !extras.shared->leads()) return;
  SharedRead& leader = *extras.shared;
  pool::Flight& flight = *leader.flight;
  leader.server = &server;
  server.flight = &flight;
  pool::SingleFlight::restart(flight);
  flight.started = true;
  flight.at = position_of(server);
  flight.at.began = now();
  for (pool::FlightMember* next = flight.followers.front(); next != nullptr;) {
    auto& follower = static_cast<SharedRead&>(*next);
    next = flight.followers.after(*next);
    if (may_see(follower.client, flight.at)) continue;
    flights_.leave(follower);
    follower.alone = true;
    place_soon(follower.client);
  }
}

void Worker::keep_answer(Server& server, std::span<const iovec> parts) {
  pool::Flight& flight = *server.flight;
  std::size_t size = flight.answer.size();
  for (const iovec& part : parts) size += part.iov_len;
  if (size > settings_->limits_shared_answer.count) return end_flight(server, Apart::yes);
  for (const iovec& part : parts) flight.answer.append(static_cast<const char*>(part.iov_base), part.iov_len);
}

// Its answer is on the way to the client; share_answer() follows, and says which number it is kept by.
void Worker::land(Client& client, const BatchExtras& extras) {
  if (!extras.shared || !extras.shared->leads()) return;
  std::exchange(extras.shared->flight, nullptr)->leader = nullptr;
  routing::SessionState room;
  const conf::Consistency scope = routing::seen_by(client.batch, client.route_state, room).consistency;
  client.route_state.floor.at_kept = scope != conf::Consistency::eventual;
  client.route_state.kept = 0;
}

void Worker::share_answer(Server& server) {
  pool::Flight& flight = *server.flight;
  if (flight.followers.empty() && flight.cache_for.count() == 0) return end_flight(server, Apart::no);
  SharedAnswer answer = cut_answer(flight.answer);
  const bool good = answer.sqlstate.empty();
  if (!answer.whole || (!good && !of_the_statement(answer.sqlstate))) return end_flight(server, Apart::no);
  flight.at.told = asked_of(server);
  if (flight.cache_for.count() > 0 && good && !flight.outdated && sees_schema(server, flight.at))
    flight.at.kept = results_.put(flight.key, flight.settings, answer.bytes, flight.at, now() + flight.cache_for);
  const pool::ReadPosition at = flight.at;
  // The leader was told it as any answer, and perhaps another one since: then it is not the last.
  if (Client* const leader = server.client; leader != nullptr && leader->route_state.kept == 0)
    leader->route_state.kept = at.kept;
  std::vector<ClientId> clients;
  server.flight = nullptr;
  flights_.close(flight, [&clients](pool::FlightMember& follower) {
    clients.push_back(static_cast<SharedRead&>(follower).client.id());
  });
  std::size_t unread = 0;
  for (const ClientId& id : clients) {
    // Each goes on with what it has sent meanwhile, and may have changed anything for those behind it.
    Client* const client = find(id);
    if (client == nullptr || client->waiting_for != WaitingFor::answer) continue;
    if (unread > kMostUnread) {
      client->batch_extras->shared->alone = true;
      place_soon(*client);
      continue;
    }
    note_shared(*client, at, SharedBy::flight);
    client->take_answer_waiting(answer.bytes);
    if (find(id) == client) unread += client->unsent();
  }
}

// It has no answer for others. Its followers are placed anew, each by itself or with a leader from among
// them.
void Worker::end_flight(pool::Flight& flight, Apart apart) {
  flights_.close(flight, [this, apart](pool::FlightMember& member) {
    auto& follower = static_cast<SharedRead&>(member);
    follower.alone |= apart == Apart::yes;
    place_soon(follower.client);
  });
}

void Worker::end_flight(Server& server, Apart apart) {
  end_flight(*std::exchange(server.flight, nullptr), apart);
}

// The leader's read begins anew elsewhere.
void Worker::restart_flight(Server& server) {
  pool::Flight& flight = *std::exchange(server.flight, nullptr);
  if (flight.leader != nullptr) static_cast<SharedRead*>(flight.leader)->server = nullptr;
  pool::SingleFlight::restart(flight);
}

void Worker::leave_flight(SharedRead& read) {
  if (read.follows()) return flights_.leave(read);
  if (read.server != nullptr) read.server->flight = nullptr;
  end_flight(*read.flight, Apart::no);
}

// A follower that is none any more, with the next tick: who tells it is in the middle of something else. Its
// time for a server begins now.
void Worker::place_soon(Client& client) {
  if (client.state() != ClientState::waiting) return;
  client.waiting_since = now();
  wait(client, WaitingFor::answer);
}

void Worker::go_alone(Client& client) {
  SharedRead& read = *client.batch_extras->shared;
  if (read.follows()) flights_.leave(read);
  stop_waiting(client);
  read.alone = true;
  client.waiting_since = now();
  place_again(client);
}

// What was read by now is given to nobody who asks from now on.
void Worker::forget_answers() {
  results_.clear();
  flights_.outdate();
}

// A client has changed what others may see, on the primary.
void Worker::tell_redefined(Client& client, std::uint64_t sample) {
  client.redefined = false;
  const auto shares = [](const conf::RouteRule& rule) { return rule.coalesce || rule.cache; };
  if (std::ranges::none_of(settings_->routes, shares)) return;
  const Redefined change{client.identity->cluster, sample};
  forget_older(change);
  for (Worker* const worker : shared_.workers)
    if (worker != this) worker->post(change);
}

void Worker::forget_older(const Redefined& change) {
  forget_answers();
  LastRedefined& last = redefined_[change.cluster];
  last.told_at = now();
  const routing::ClusterState* const state = topology_->find(change.cluster);
  last.floor.raise_to(change.sample, state != nullptr && state->samples_sent ? state->samples_sent->load() : change.sample);
}

// A replica that has not replayed a REVOKE still answers; that is not kept.
bool Worker::sees_schema(const Server& server, const pool::ReadPosition& at) {
  const auto found = redefined_.find(server.identity().cluster);
  if (found == redefined_.end()) return true;
  auto& [floor, told_at] = found->second;
  if (const routing::ClusterState* const state = cluster(server.identity())) (void)floor.learn(*state);
  return pool::covers(at, {.floor = floor}, at.began > told_at);
}

// Positions of before and after a change of the primary are not to be compared.
void Worker::compare_primaries(const routing::Topology& before) {
  if (results_.size() == 0 && flights_.size() == 0) return;
  const auto same = [&before](const routing::ClusterState& now) {
    const routing::ClusterState* const then = before.find(now.name);
    return then != nullptr && then->primary == now.primary && then->term == now.term;
  };
  if (!std::ranges::all_of(topology_->clusters, same)) forget_answers();
}

// SHOW CACHE: one row.
Rows Worker::tell_cache() {
  const pool::ResultCache::Counters& counters = results_.counters();
  const auto text = [](std::uint64_t value) { return std::to_string(value); };
  return {{text(number_), text(results_.size()), text(results_.bytes()), text(counters.hits),
           text(counters.misses), text(counters.behind), text(counters.evicted), text(flights_.size()),
           text(metrics_->shared_answers.read(static_cast<std::size_t>(SharedBy::flight)))}};
}

}  // namespace proxy
