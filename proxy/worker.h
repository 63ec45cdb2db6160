#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "conf/settings.h"
#include "metrics/digest_stats.h"
#include "metrics/worker_metrics.h"
#include "pool/backoff.h"
#include "pool/list.h"
#include "pool/pool.h"
#include "pool/retry_budget.h"
#include "pool/session_settings.h"
#include "proxy/batch.h"
#include "proxy/cancel_key.h"
#include "proxy/client.h"
#include "proxy/log.h"
#include "proxy/login_share.h"
#include "proxy/messages.h"
#include "proxy/net/loop.h"
#include "proxy/net/mailbox.h"
#include "proxy/net/outbox.h"
#include "proxy/net/tls.h"
#include "proxy/server.h"
#include "proxy/shared.h"
#include "routing/chooser.h"
#include "routing/classifier.h"
#include "routing/topology.h"

namespace proxy {

class Canceller;

// What becomes of a read that no replica can serve: metric label. To add one: here and in name().
enum class Spill : std::uint8_t {
  primary,  // the primary serves it, within the share that such reads have
  waits,    // that share is in use
  stale,    // a replica serves it that is too late
  refused,
  count_
};
std::string_view name(Spill spill);

// A statement that was parsed in the batch that is being scanned.
struct ParsedHere {
  std::string_view name, text;
  std::shared_ptr<const routing::Facts> facts;
  std::string_view commented;  // its text, if there is a comment in it
};

// Under which (database, user) clients come, and everything that a worker keeps for it. Made at the
// first login, by somebody who has proved who it is; forgotten when it has neither clients nor servers.
struct Identity {
  std::string database;  // as the client named it
  std::string dbname;    // on the servers
  std::string user;
  std::string cluster;
  bool configured = true;  // false: a reload has removed its database
  conf::PoolMode mode = conf::PoolMode::transaction;
  pool::ServerLimits limits;  // of each of its pools
  std::int64_t min_size = 0;  // servers that each of them keeps
  // Zero: off (not `queue`, `server_idle` and `server_lifetime`, which always hold).
  struct TimeOuts {
    conf::Millis queue{}, query{}, transaction{}, idle_transaction{}, client_idle{};
    conf::Millis server_idle{}, server_lifetime{};
  } timeouts;
  std::shared_ptr<pool::Quota> database_clients, user_clients;  // taken by those who are logged in
  conf::OnPin on_pin = conf::OnPin::allow;  // always in session mode
  conf::Consistency consistency{}, weakest{}, strongest{};  // unless a session asks; what it may ask for
  std::size_t written_at = 0;  // the place of its cluster in pool::Tenant::written
  pool::ClassId service_class = pool::kHigh;  // of its clients, who may lower themselves
  std::shared_ptr<const routing::Scope> scope;     // what statements are judged by in its database
  const routing::ClusterState* state = nullptr;  // its cluster in the worker's topology; null: not in it
  metrics::DatabaseCounters* traffic = nullptr;  // of its database, on this worker
  std::vector<std::unique_ptr<pool::Pool>> pools;  // by node number
  // What Postgres tells a client with these start-up settings (ParameterStatus messages).
  std::unordered_map<pool::SettingsRef, std::string> welcomes;
  std::size_t clients = 0;
  pool::NameHold name;  // where "*" serves the database
  bool standard_strings = true;  // the server's own standard_conforming_strings
  std::int64_t waiting = 0;      // clients of it in state waiting
  bool paused = false;           // by an operator: statements wait until it is resumed
  conf::Transactions transactions = conf::Transactions::primary;
  // [[route]] rules that its clients can meet, by their settings (application_name).
  std::unordered_map<pool::SettingsRef, routing::ClientRules*> rules;
};

// A thread, its loop, and everything that the loop touches: clients, servers, pools, queues. No other
// thread calls anything here but post(), metrics() and client_count().
class Worker {
 public:
  using Millis = conf::Millis;

  Worker(std::size_t number, Shared& shared, std::shared_ptr<const conf::Settings> settings,
         std::shared_ptr<const net::TlsContext> client_tls,
         std::shared_ptr<const net::TlsContext> server_tls);
  ~Worker();

  void start();
  void join();
  void post(WorkerMessage message) { mailbox_.post(std::move(message)); }
  const metrics::WorkerMetrics& metrics() const { return *metrics_; }
  std::int64_t client_count() const { return client_count_.load(std::memory_order_relaxed); }
  void count_coming_client() { client_count_.fetch_add(1, std::memory_order_relaxed); }

  // --- everything below: the worker's own thread ----------------------------------------------------
  std::size_t number() const { return number_; }
  net::Loop& loop() { return loop_; }
  conf::Instant now() { return loop_.now(); }
  const conf::Settings& settings() const { return *settings_; }
  Shared& shared() { return shared_; }
  metrics::WorkerMetrics& count() { return *metrics_; }
  net::Outbox& outbox() { return outbox_; }
  routing::Classifier& classifier() { return classifier_; }
  metrics::DigestStats& digests() { return digests_; }
  pool::SettingsInterner& interner() { return interner_; }
  std::minstd_rand& random() { return random_; }
  const std::shared_ptr<const net::TlsContext>& client_tls() const { return client_tls_; }
  const std::shared_ptr<const net::TlsContext>& server_tls() const { return server_tls_; }
  const pool::ClassTable& classes() const { return *classes_; }
  // What self-protection has left: shared by all workers.
  int protection() const { return shared_.protection.load(std::memory_order_relaxed); }
  // How late this worker has been at its worst since it was last asked; is any of its queues overloaded? For the
  // control thread.
  conf::Nanos take_loop_delay() { return conf::Nanos(loop_delay_.exchange(0, std::memory_order_relaxed)); }
  bool has_overloaded_queue() const { return overloaded_queue_.load(std::memory_order_relaxed); }
  bool refuses_logins() const { return draining_ && !handed_over_; }

  // One read lands here; what is not used at once is copied out before the next. A 1 MB result
  // takes some ten of them; there is room in front for a kept beginning.
  static constexpr std::size_t kReadSize = std::size_t{128} << 10;
  static constexpr std::size_t kReadBuffer = kReadSize + Server::kWhole;
  std::span<char> read_buffer() { return {read_buffer_.get(), kReadBuffer}; }
  // Messages on their way to a server are put together here, one batch at a time.
  std::string& scratch() { return scratch_; }

  // Room for the input that a client must keep, from those who need theirs no more.
  static constexpr std::size_t kSpares = 256, kSpareSize = 4096;
  void take_spare(std::string* room) {
    if (spare_.empty()) return;
    *room = std::move(spare_.back());
    spare_.pop_back();
  }
  void give_spare(std::string* room) {
    room->clear();
    if (spare_.size() < kSpares && room->capacity() <= kSpareSize) spare_.push_back(std::move(*room));
    *room = {};
  }

  std::uint64_t next_version() { return ++version_; }

  // --- clients --------------------------------------------------------------------------------------
  Client* find(const ClientId& id);
  std::size_t count(ClientState state) const { return state_counts_[static_cast<std::size_t>(state)]; }
  // Calls see(Client&) for each client of a state, oldest first where that matters (login, waiting). `see`
  // changes nobody's state.
  template <class See>
  void each_client(ClientState state, See&& see) {
    if (auto* list = list_of(state)) {
      for (Client* client = list->front(); client != nullptr; client = list->after(*client)) see(*client);
      return;
    }
    for (const Slot& slot : slots_)
      if (slot.client && slot.state == state) see(*slot.client);
  }
  // For Client alone: it is new, or has moved.
  void client_joined(Client& client);
  void client_moved(Client& client, ClientState from);
  // Closes now, frees at the end of the turn. The caller returns without touching it again.
  void retire(Client& client, ClientEnd why, std::string_view text = {});
  void retire(Server& server, ServerEnd why, std::string_view text = {});
  // Buffered TLS bytes that the loop cannot see: read on in the next turn.
  void read_again(net::SocketOwner& owner);
  LoginShare& login_share() { return login_share_; }
  // A login whose turn did not come: it goes on in the next, before those that come then.
  void defer_login(const ClientId& client) { deferred_logins_.push_back(client); }
  // What a failed write leads to, when nobody is in the middle of anything: at the end of the turn.
  void retire_later(Client& client) { broken_clients_.push_back(client.id()); }
  void lose_later(Server& server) { broken_servers_.push_back(&server); }
  void release_later(Server& server) { released_servers_.push_back(&server); }
  void part(Client& client, Server& server);
  std::vector<ParsedHere>& parsed_here() { return parsed_here_; }
  std::vector<BatchMessage>& batch_messages() { return batch_messages_; }
  void forget_again(net::SocketOwner& owner);

  // --- statements -----------------------------------------------------------------------------------
  // Null: clients may not name this database (any more), or "*" serves too many names already: serves()
  // tells.
  Identity* identity(const std::string& database, const std::string& user);
  bool serves(const std::string& database) const {
    return settings_->databases.contains(database) || settings_->databases.contains("*");
  }
  const routing::ClusterState* cluster(const Identity& identity) const { return identity.state; }
  const routing::Topology& topology() const { return *topology_; }
  pool::Pool& pool(Identity& identity, routing::NodeId node) {
    const std::size_t at = routing::index(node);
    return at < identity.pools.size() && identity.pools[at] ? *identity.pools[at]
                                                            : make_pool(identity, node);
  }
  // Finds a server for the client's batch (Client::batch). It is linked now; or it waits in a queue, and
  // will be linked and told (Client::forward_waiting); or Client::refuse() has the reason.
  // Or the answer is known already: take_found_answer().
  enum class Placed : std::uint8_t { linked, waits, refused, answered };
  Placed place(Client& client);
  // No new work for this server: its node has been down, restarted or changed its role since it connected, or
  // an operator wants it closed (why_stale() tells them apart).
  bool stale(Server& server) const {
    if (server.looked_at != topology_->version || server.looked_at == 0) look_at(server);
    return server.is_stale;
  }
  ServerEnd why_stale(Server& server) const;
  const Orders& orders() const { return *orders_; }
  // SET CLASS for a tenant.
  std::optional<pool::ClassId> ordered_class(const pool::Tenant& tenant) const;
  // Limits on kinds of statements; null: there are none.
  const pool::DigestGate* gate() const { return gate_; }
  // While there are: the digests of the statements that run of the batch that was scanned last.
  std::vector<std::uint64_t>& gated() { return gated_; }
  // Of the same batch, the rules with limits, once per statement.
  std::vector<routing::RuleSet::Place>& limited() { return limited_; }
  const pool::RuleLimit& limit_of(routing::RuleSet::Place rule) const { return rule_limits_[rule]; }
  // The node of this server has said that one of its backends has crashed.
  void crash_heard(const Server& server);
  void client_opened(Client& client, const std::string& peer);
  std::uint32_t new_cancel_secret();
  // A server has finished for its client (unlinked already) and is clean.
  void release(Server& server);
  void release_if_free(Server& server);
  void server_ready(Server& server);
  void server_failed(Server& server, bool node_is_at_fault, std::string_view sqlstate,
                     std::string_view message);
  // A batch has been answered: counts it, and draws every conclusion about the session. `client` may be
  // gone.
  void finished(Server& server, Client* client, InFlight& done, char old_status, bool committed);
  // The link has nothing outstanding: parts it if it may be parted, and lets the client go on.
  void idle_link(Client& client, Server& server);
  // A server that its client has left in order: back to the pool, unless something about it is in doubt.
  void settle(Server& server);
  // A replica has refused (wire::refused_in_recovery) what was thought a read: statements of this digest go to
  // the primary as soon as the control thread has told everybody. Statements that are not all alike teach nothing.
  void read_refused(const Server& server, std::uint64_t digest, std::string_view sqlstate);
  // The server has said that this state of its session is gone.
  void unpin(Client& client, routing::Pin gone);
  // --- reads that are run again (healing.cc) --------------------------------------------------------
  // Takes one from the budget, or counts why not.
  bool may_retry();
  void run_again(Client& client, Server& server);
  void retry_ended(Client& client, bool served);
  // Its last batch needs that database to itself: if it still runs in a moment, nobody's idle servers stay there.
  void wants_database(const Client& client, const std::string& dbname);
  // It has refused a write: its role is asked for at once.
  void doubt_primary(routing::NodeId node);

  // A statement of the client's was answered without a server (held_transaction.cc).
  void answered_here(Client& client);
  // Everything that the client has asked for is done: it goes if the process does.
  void end_if_draining(Client& client);

  // Leaves whatever queue the client is in.
  void stop_waiting(Client& client);
  // Which nodes of the cluster have just failed here: a bit per position, for the chooser.
  std::uint64_t excluded(const routing::ClusterState& cluster) {
    return nodes_failing_ ? find_excluded(cluster) : 0;
  }
  // The same, and where the client's read has just failed.
  std::uint64_t excluded_for(const Client& client, const routing::ClusterState& cluster) {
    const std::uint64_t bits = excluded(cluster);
    return client.retry ? bits | tried(client, cluster) : bits;
  }
  // Those that reads of this class, and of this tenant (null: of any), are kept from: bits as there. `groups`: as in
  // ReadNeeds.
  std::uint64_t kept_from(pool::ClassId service_class, const pool::Tenant* tenant,
                          const routing::ClusterState& cluster, std::uint64_t groups) const;
  routing::NodeRole role_of(const Identity& identity, routing::NodeId node) const;
  metrics::StatementSeries& series(Client& client, const Server& server,
                                   routing::StatementClass kind);
  void want_sample(const Identity& identity, std::uint64_t sample);
  void refusal(pool::Refusal why) { metrics_->refusals.add(why); }

  // --- rules and hints ------------------------------------------------------------------------------
  const routing::RuleSet& rules() const { return *rules_; }
  const std::shared_ptr<const routing::RuleSet>& shared_rule_set() const { return rules_; }
  const routing::HintLimits& hint_limits() const { return hint_limits_; }
  // Null: none can ever fit it. Good until the client's settings or the rules change.
  routing::ClientRules* rules_for(const Client& client);
  // What statements are judged by in a database, as it is called on the servers.
  std::shared_ptr<const routing::Scope> scope_of(const std::string& cluster, const std::string& dbname) const {
    return scopes_->of({cluster, dbname});
  }
  // What they say of a statement; given is false: nothing. `commented`: its text, if there is a comment in it.
  routing::RouteOverrides overrides_for(routing::ClientRules* rules, const routing::SessionState& session,
                                        const pool::OwnClass& its_class, bool standard_strings,
                                        const std::shared_ptr<const routing::Facts>& facts,
                                        std::string_view commented) const;
  // Reads of such rules run on some nodes only.
  void confine(const routing::RouteOverrides& said, routing::ReadNeeds* needs) const;
  // `rule` as in RouteOverrides; it may be of rules that a reload has replaced.
  std::string rule_name(std::uint16_t rule) const;
  std::string rule_outcome(std::uint16_t rule) const;
  void count_rule(std::uint16_t rule);
  void count_route(routing::RouteReason why, const routing::BatchFacts& batch) {
    metrics_->class_reasons.add(batch.why);
    if (settings_->routing_dry_run) [[unlikely]]
      why = count_dry_route(why, batch);
    metrics_->routes.add(why);
    if (batch.overrides.rule != 0) [[unlikely]] count_rule(batch.overrides.rule);
  }
  // --- answers for several: worker_sharing.cc -------------------------------------------------------
  // The batch that the client is about to have placed takes part, if it is one that can. `streams`: bytes of it that
  // are still to come; `told_at`: when the client was told something last, or later.
  void offer_to_share(Client& client, std::size_t streams, conf::Instant told_at);
  // Placed::answered: that is the answer. Good until the next statement is placed.
  pool::ResultCache::Answer take_found_answer() { return std::move(found_answer_); }
  void leave_flight(SharedRead& read);
  // The leader's client is being sent this.
  void keep_answer(Server& server, std::span<const iovec> parts);
  // The leader has its answer, and it is dealt with: now its followers have it. They go on with what they have sent
  // meanwhile.
  void share_answer(Server& server);

  // --- cancels --------------------------------------------------------------------------------------
  void cancel(const CancelClient& request);
  // Sends a cancel for what the server is doing; `requester` is told when it has been delivered.
  void send_cancel(Server& server, std::optional<ClientId> requester);
  void refuse_canceled(Client& client);
  // Sends what was held back while the server worked on a Query of ours, unless it still does.
  void send_held_cancels(Server& server);
  void cancel_finished(Canceller& canceller);
  CancelKey cancel_key(const Client& client) const;
  void cancel_delivered(const ClientId& requester);
  static std::uint32_t cancel_pid(const Shared& shared, const ClientId& id);

  // --- console --------------------------------------------------------------------------------------
  std::size_t connected_clients() const { return live_clients_; }

 private:
  // Deadlines are looked at this often while somebody waits, and five times a second otherwise.
  static constexpr Millis kBusyTick{10}, kIdleTick{200};

  pool::Pool& make_pool(Identity& identity, routing::NodeId node);
  void look_at(Server& server) const;
  static std::uint64_t tried(const Client& client, const routing::ClusterState& cluster);
  std::uint64_t find_excluded(const routing::ClusterState& cluster);
  void use_rules();
  void map_rules();
  routing::RouteReason count_dry_route(routing::RouteReason why, const routing::BatchFacts& batch);
  routing::ClientRules* shared_rules(std::vector<routing::RuleSet::Place> candidates);
  void forget_unused_rules();
  Millis query_limit(const Client& client, Server& server) const;
  void run();
  void receive(WorkerMessage&& message);
  void take_client(NewClient&& message);
  void take_server(ServerHandover&& message);
  void feed_others(const pool::PoolKey& key);
  void topology_changed(std::shared_ptr<const routing::Topology> topology);
  void settings_changed(SettingsChanged&& message);
  void orders_changed(OrdersChanged&& message);
  void settle_settings();  // what holds for every session is made out anew
  void kill_clients(const std::string& database);
  void tell_lost(const Server& server);
  void kill_client(Client& client);
  void begin_drain(bool handed_over);
  bool may_stay(const Client& client);
  void stop_now();
  void drain_step();
  void answer_console(ConsoleAsk&& question);
  bool tell_clients(ConsoleAsk& question, Rows* rows);
  bool tell_servers(ConsoleAsk& question, Rows* rows);
  bool tell_use(ConsoleAsk& question, ConsoleRows* rows);
  Rows tell_cache();
  bool tell_digests(ConsoleAsk& question, ConsoleRows* rows);
  void turn_end();
  void resume_logins();
  void tick();
  void check_deadlines();
  void check_servers();
  void retry_waiting();
  void configure(Identity& identity);
  void forget_unused_identities(bool with_idle_servers);
  void wait(Client& client, WaitingFor what);
  // Parts of place(): worker_statements.cc. A value: that is where it has been placed.
  struct ReadPlace {
    std::optional<routing::NodeId> node;
    std::optional<routing::ReadReason> why;  // nothing: it is no read, or none for a replica
    bool must_be_own = false;                // its class reads on its own replicas or not at all
    routing::ReadNeeds needs;
  };
  std::optional<Placed> admit(Client& client);
  routing::ReadNeeds needs_of(Client& client, const routing::ClusterState& state, conf::Consistency consistency,
                              routing::RouteReason why);
  std::optional<Placed> choose_replica(Client& client, const routing::ClusterState& state, ReadPlace* place);
  Placed wait_for_node(Client& client);
  Placed place_at(Client& client, const routing::ClusterState& state, const ReadPlace& place);
  bool waits_for_floor(Client& client);
  std::optional<Placed> place_token(Client& client, const routing::ClusterState& state);
  void note_floor(const Server& server, Client& client);
  void leave_retry(Client& client);
  // Queues: worker_queues.cc.
  std::optional<Placed> refuse_class(Client& client);
  std::optional<Placed> join_queue(Client& client, pool::Pool& its_pool);
  bool has_turn(const pool::Pool& its_pool) const;
  bool held_back(const Client& client, const pool::Pool& its_pool) const;
  Server* free_server(const Client& client, pool::Pool& its_pool);
  Millis wait_at(const Client& client, const pool::Pool& its_pool) const;
  bool must_queue(const Client& client, const pool::Pool& its_pool) const;
  pool::Pool& shorter_queue(const Client& client, const routing::ClusterState& state, routing::ReadNeeds needs,
                            pool::Pool& here);
  bool is_worth_leaving(const Client& client, const routing::ClusterState& state, const routing::ReadNeeds& needs,
                        const pool::Pool& here);
  Client* take_turn(pool::Pool& its_pool);
  void left_queue(Client& client, pool::Pool& its_pool);
  void sweep_queues();
  void refuse_late(pool::Pool& its_pool);
  void serve_held_back(pool::Pool& its_pool);
  void protect();
  void map_nodes();
  // Of a class at a cluster, a bit for each node: its own, and all that some class has to itself.
  struct OwnNodes {
    std::uint64_t mine = 0, any = 0;
  };
  OwnNodes own_nodes(pool::ClassId service_class, const routing::ClusterState& cluster) const;
  static std::uint64_t outside_subset(const pool::Tenant& tenant, const routing::ClusterState& cluster,
                                      std::uint64_t barred, std::uint64_t groups);
  routing::ReadChoice choose_confined(const Client& client, const routing::ClusterState& cluster,
                                      std::uint64_t excluded, ReadPlace* place);
  Placed refused(Client& client);
  Millis soon(Millis at_least);
  void take_slot(Client& client, Server& server);
  void free_slot(Client& client, Server& server);
  void charge(pool::Tenant& tenant, conf::Nanos took) {
    const std::int64_t rate = tenant.server_time.load(std::memory_order_relaxed);
    if (rate > 0) [[unlikely]] tenant.time.pay(now(), took, rate);
  }
  std::optional<std::size_t> hungrier_worker(const pool::Pool& its_pool) const {
    const pool::Budget& budget = its_pool.budget();
    return budget.somebody_starves() ? budget.hungrier_than(number_, its_pool.queue().urgency(*classes_))
                                     : std::nullopt;
  }
  // What becomes of a batch that may be shared: it is placed as any; it waits for another's answer; it is answered.
  enum class Sharing : std::uint8_t { none, follows, answered };
  Sharing share(Client& client);
  enum class Apart : bool { no, yes };  // do those who have waited for nothing wait together again?
  void start_flight(const BatchExtras& extras, Server& server);
  void restart_flight(Server& server);
  void end_flight(pool::Flight& flight, Apart apart);
  void end_flight(Server& server, Apart apart);
  void place_soon(Client& client);
  void go_alone(Client& client);
  // The leader has its answer.
  void land(Client& client, const BatchExtras& extras);
  void forget_answers();
  void forget_older(const Redefined& change);
  void tell_redefined(Client& client, std::uint64_t sample);
  bool sees_schema(const Server& server, const pool::ReadPosition& at);
  void compare_primaries(const routing::Topology& before);
  std::size_t cache_room() const {
    return settings_->limits_result_cache.count / std::max<std::size_t>(1, shared_.workers.size());
  }
  bool may_see(Client& client, const pool::ReadPosition& at);
  void note_shared(Client& client, const pool::ReadPosition& at, SharedBy by);
  pool::ReadPosition position_of(const Server& server) const;
  std::uint64_t asked_of(const Server& server) const;
  void hurry();
  void tie(Client& client, Server& server);
  void bury();
  void after_turn();
  bool is_alive(const Server* server) const { return servers_.contains(server); }
  void hand_over(Server& server, std::size_t to);
  void place_again(Client& client);
  void pin(Client& client, routing::Pin pins);
  void apply_changes(Server& server, Client& client, const InFlight& done, char old_status);
  void conclude_pins(Server& server, Client& client, const InFlight& done, char old_status);
  void settle_session(Client& client, Server& server);
  void check_clients();
  std::optional<conf::Instant> running_since(Client& client, Server& server);
  std::optional<ClientEnd> judge_running(Client& client, Server& server);
  void cancel_slow_queries();
  Millis jittered(Millis time);
  // Opens servers for those who wait, as many as may be; if that is too few because of a limit, which.
  std::optional<pool::ServerLimit> open_servers(Identity& identity, pool::Pool& pool);
  bool may_open(const routing::NodeState& node);
  void free_databases();
  void leave_database(const DatabaseWanted& wanted);
  pool::ConnectPace& pace(routing::NodeId node) { return shared_.connects[routing::index(node)]; }
  // A read that no replica can serve, because of `why`: where it goes all the same. Nothing: it has been
  // refused, or it waits.
  struct Spilled {
    std::optional<routing::NodeId> node;
    Placed placed = Placed::waits;
  };
  Spilled spill(Client& client, const routing::ClusterState& state, routing::ReadReason why);
  void count_spill(Client& client, routing::NodeId primary, std::int64_t change);
  void watch_stalled();
  bool open_server(Identity& identity, pool::Pool& pool, const routing::NodeState& node);
  void want_room(pool::Pool& pool, pool::ServerLimit limit, bool busy_too);
  bool make_room(const pool::PoolKey& key, pool::ServerLimit limit, bool busy_too);
  void give_room(const RoomWanted& wanted);
  void use_room();
  void give_descriptor();
  void fill_pools();
  void meet_configured_users();
  // False: nobody waits there, or nobody who may be served now; the server is idle.
  bool give(Server& server, pool::Pool& pool);
  void replace_waiters(pool::Pool& pool);
  Server* server_of(pool::PooledServer* record) { return static_cast<Server*>(record); }
  void update_gauges();

  const std::size_t number_;
  Shared& shared_;
  std::shared_ptr<const conf::Settings> settings_;
  std::shared_ptr<const net::TlsContext> client_tls_, server_tls_;
  std::shared_ptr<const routing::Topology> topology_;
  std::shared_ptr<const pool::ClassTable> classes_;
  // Classes of which something must be looked at, a bit per id: those that a ceiling counts, and those that
  // self-protection does not serve (shed_).
  std::uint64_t special_classes_ = 0, shed_classes_ = 0;
  std::vector<pool::Pool*> late_pools_;  // where somebody is to be refused, of this turn
  std::vector<std::vector<std::uint64_t>> own_nodes_;  // by cluster and class; empty where no class has any
  conf::Instant last_tick_{};
  std::atomic<std::int64_t> loop_delay_{0};
  std::atomic<bool> overloaded_queue_{false};
  std::shared_ptr<const routing::Scopes> scopes_;
  std::shared_ptr<const Orders> orders_ = std::make_shared<Orders>();
  std::unique_ptr<metrics::WorkerMetrics> metrics_;
  net::Loop loop_;
  net::Outbox outbox_;
  net::Mailbox<WorkerMessage> mailbox_;
  net::Timer tick_;
  routing::Classifier classifier_;
  metrics::DigestStats digests_;
  pool::SettingsInterner interner_;
  std::shared_ptr<const routing::RuleSet> rules_;
  routing::HintLimits hint_limits_;
  // By rule, its class, groups of nodes, limits.
  std::vector<std::optional<pool::ClassId>> rule_classes_;
  std::vector<std::uint64_t> rule_groups_;  // empty where no rule names any
  std::vector<pool::RuleLimit> rule_limits_;
  std::vector<routing::RuleSet::Place> limited_;
  // Clients that can meet the same rules share what is remembered of them.
  std::map<std::vector<routing::RuleSet::Place>, std::unique_ptr<routing::ClientRules>> client_rules_;
  std::size_t forget_rules_at_ = 1000;  // entries, of which those that nobody has are forgotten then
  std::minstd_rand random_;
  std::unique_ptr<char[]> read_buffer_;
  std::string scratch_;
  std::vector<std::string> spare_;
  std::uint64_t version_ = 0;
  pool::SingleFlight flights_;
  pool::ResultCache results_;
  pool::ResultCache::Answer found_answer_;
  // What a kept answer must have seen: a change of the schema, or of who may see what.
  struct LastRedefined {
    routing::Floor floor{};
    conf::Instant told_at{};
  };
  std::map<std::string, LastRedefined> redefined_;  // by cluster

  struct Slot {
    std::unique_ptr<Client> client;
    std::uint32_t generation = 0;
    ClientState state = ClientState::closing;  // the client's, so that looking for some touches no others
  };
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_slots_;
  std::size_t live_clients_ = 0;
  std::atomic<std::int64_t> client_count_{0};
  using ClientList = pool::List<Client, &Client::in_worker>;
  ClientList* list_of(ClientState state) {
    return state == ClientState::login     ? &logging_in_
           : state == ClientState::waiting ? &waiting_
                                           : nullptr;
  }
  ClientList logging_in_, waiting_;
  std::array<std::size_t, 6> state_counts_{};
  pool::List<Client, &Client::in_retry> retry_;  // waiting for a tenant's rate, or for a node

  std::unordered_map<std::string, std::unique_ptr<Identity>> identities_;
  std::unordered_map<const Server*, std::unique_ptr<Server>> servers_;
  std::vector<pool::Backoff> backoffs_;  // by node number
  std::vector<pool::Backoff> full_;      // the same, of nodes that have no room for one more: not their fault
  routing::Baselines baselines_;
  std::vector<Server*> slow_servers_;     // that work for longer than pool.query_timeout, of this look
  std::vector<std::unique_ptr<Canceller>> cancellers_;
  std::vector<std::unique_ptr<Client>> dead_clients_;
  std::vector<std::unique_ptr<Server>> dead_servers_;
  std::vector<std::unique_ptr<Canceller>> dead_cancellers_;
  std::vector<std::unique_ptr<Identity>> dead_identities_;  // those of dead servers among them: freed last
  std::vector<net::SocketOwner*> again_, again_now_;
  LoginShare login_share_;
  std::deque<ClientId> deferred_logins_;
  std::vector<ClientId> broken_clients_;
  std::vector<const Server*> broken_servers_, released_servers_;
  std::vector<std::pair<const Server*, conf::Error>> failed_starts_;
  std::vector<ParsedHere> parsed_here_;
  std::vector<BatchMessage> batch_messages_;
  bool room_made_ = false;      // a server has given way, of this turn
  const pool::DigestGate* gate_ = nullptr;  // of orders_
  std::vector<std::uint64_t> gated_;
  bool sweep_due_ = false;      // at the end of the turn identities that nobody uses are forgotten
  bool nodes_failing_ = false;  // some backoff is not at rest
  SeldomLog lack_log_;          // no descriptors for a server
  struct WantedDatabase {
    ClientId client;
    conf::Instant sent;  // of its batch
    DatabaseWanted database;
  };
  std::vector<WantedDatabase> wanted_databases_;
  bool nodes_stalling_ = false;  // a probe of some node is late
  bool busy_tick_ = false;
  pool::RetryBudget retry_budget_;
  conf::Instant last_retry_said_{};
  std::uint64_t retries_unsaid_ = 0;
  struct {
    conf::Instant at{};
    std::uint64_t sample = 0;
  } wanted_;  // the last one that was asked for
  conf::Instant last_crash_heard_{};
  routing::NodeId last_crash_node_{};
  conf::Instant last_doubt_{};
  conf::Instant last_slow_check_{}, last_idle_check_{};
  const conf::PoolMode started_mode_;  // pool.mode takes a restart
  // How long before a hand-over "just now" is.
  static constexpr Millis kJustCame{1000};
  bool draining_ = false;
  bool stopped_ = false;  // owns nobody any more
  bool handed_over_ = false;
  bool drained_ = false;
  std::thread thread_;
};

}  // namespace proxy
