#include "proxy/control.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <ranges>
#include <string>

#include <fcntl.h>
#include <spawn.h>
#include <unistd.h>

#include "conf/load.h"
#include "proxy/overloaded.h"
#include "proxy/version.h"
#include "routing/lexer.h"

namespace proxy {

using namespace std::chrono_literals;
using conf::Millis;

namespace {

// So many connections are taken per wake-up, so that probes and the console are served in a storm.
constexpr int kAcceptsPerTurn = 64;
// When descriptors have run out, waiting connections are looked at again after this.
constexpr conf::Millis kAcceptPause = 100ms;

// A successor that has not met its nodes by then takes what it knows.
constexpr conf::Millis kReadyWithin = 10s;
// The metrics port of the process before us may take a moment to be free.
constexpr conf::Millis kMetricsPause = 500ms;
// How often the service manager is told how things are.
constexpr conf::Millis kServiceReport = 5s;

// Where this program was started from, which after an upgrade is the new one.
std::string own_path() {
  char path[4096];
  const ssize_t size = ::readlink("/proc/self/exe", path, sizeof path);
  return size > 0 ? std::string(path, static_cast<std::size_t>(size)) : "pgsluice";
}

template <class Enum>
metrics::NameOf names_of() {
  return [](std::size_t value) {
    return value < static_cast<std::size_t>(Enum::count_) ? std::string(name(static_cast<Enum>(value)))
                                                          : std::string();
  };
}
// For enumerations without an end mark: `last` is their last one.
template <class Enum>
metrics::NameOf names_up_to(Enum last) {
  return [last](std::size_t value) {
    return value <= static_cast<std::size_t>(last)
               ? std::string(routing::name(static_cast<Enum>(value)))
               : std::string();
  };
}

}  // namespace

// --- status ----------------------------------------------------------------------------------------

void Status::set_topology(std::shared_ptr<const routing::Topology> topology) {
  const std::lock_guard lock(mutex_);
  for (const routing::ClusterState& cluster : topology->clusters)
    for (const routing::NodeState& node : cluster.nodes)
      names_.try_emplace(routing::index(node.id), node.address.name());
  snapshot_.topology = std::move(topology);
}

void Status::set_reload(bool ok) {
  const std::lock_guard lock(mutex_);
  snapshot_.reload_ok = ok;
  if (ok) snapshot_.reload_time = static_cast<double>(std::time(nullptr));
}

void Status::set_fleet(std::uint32_t members) {
  const std::lock_guard lock(mutex_);
  snapshot_.fleet_members = members;
}

Status::Snapshot Status::get() const {
  const std::lock_guard lock(mutex_);
  return snapshot_;
}

std::string Status::node_name(std::size_t node) const {
  const std::lock_guard lock(mutex_);
  const auto found = names_.find(node);
  return found == names_.end() ? "" : found->second;
}

metrics::Source metrics_source(const Status& status, Shared& shared) {
  metrics::Source source;
  for (const Worker* worker : shared.workers) source.workers.push_back(&worker->metrics());
  source.names = {
      .node =
          [&status](std::size_t node) {
            return node == metrics::kNoNode ? std::string("none") : status.node_name(node);
          },
      .role = names_up_to(routing::NodeRole::replica),
      .kind = names_up_to(routing::StatementClass::ddl),
      .tenant =
          [&shared](std::size_t number) {
            for (const pool::Tenant* tenant : shared.tenants.all())
              if (tenant->number == number) return tenant->name;
            return std::string();
          },
      .refusal =
          [](std::size_t value) {
            return value == 0 || value >= static_cast<std::size_t>(pool::Refusal::count_)
                       ? std::string()
                       : std::string(pool::name(static_cast<pool::Refusal>(value)));
          },
      .route = names_up_to(routing::RouteReason::dry_run),
      .read_choice = names_up_to(routing::ReadReason::none_in_group),
      .spill = names_of<Spill>(),
      .pin =
          [](std::size_t bit) {
            return bit < routing::kPins ? routing::names(static_cast<routing::Pin>(1U << bit)) : std::string();
          },
      .client_close = names_of<ClientEnd>(),
      .server_close = names_of<ServerEnd>(),
      .server_limit = names_of<pool::ServerLimit>(),
      .class_reason = names_up_to(routing::ClassReason::transaction_control),
      .retry = names_of<pool::RetryReason>(),
      .retry_refusal = names_of<pool::RetryRefusal>(),
      .rule = [&shared](std::size_t number) { return shared.rule_numbers.name(number); },
      .shared_by = names_of<SharedBy>(),
  };
  source.extra = [&status, &shared] {
    using metrics::ControlMetric;
    std::map<ControlMetric, std::vector<metrics::GaugeSample>> samples;
    const Status::Snapshot now = status.get();
    samples[ControlMetric::build_info] = {{{std::string(kVersion)}, 1}};
    samples[ControlMetric::config_reload_timestamp_seconds] = {{{}, now.reload_time}};
    samples[ControlMetric::config_reload_success] = {{{}, now.reload_ok ? 1.0 : 0.0}};
    samples[ControlMetric::fleet_members] = {{{}, static_cast<double>(now.fleet_members)}};
    const auto strain = static_cast<pool::Strain>(shared.protection_why.load(std::memory_order_relaxed));
    samples[ControlMetric::protection_level] = {
        {{std::string(name(strain))}, static_cast<double>(shared.protection.load(std::memory_order_relaxed))}};
    samples[ControlMetric::held_writes] = {
        {{}, static_cast<double>(shared.held_writes.load(std::memory_order_relaxed))}};
    samples[ControlMetric::workers] = {{{}, static_cast<double>(shared.workers.size())}};
    samples[ControlMetric::corrections] = {
        {{}, static_cast<double>(shared.corrections.load(std::memory_order_relaxed))}};
    if (now.topology) {
      for (const routing::ClusterState& cluster : now.topology->clusters) {
        samples[ControlMetric::samples_sent].push_back(
            {{cluster.name}, static_cast<double>(cluster.samples_sent->load(std::memory_order_relaxed))});
        for (const routing::NodeState& node : cluster.nodes) {
          const std::string address = node.address.name();
          const bool primary = cluster.primary && *cluster.primary == node.id;
          samples[ControlMetric::node_up].push_back(
              {{cluster.name, address}, node.health == routing::NodeHealth::up ? 1.0 : 0.0});
          samples[ControlMetric::node_role].push_back(
              {{cluster.name, address, std::string(name(node.role))}, 1});
          const routing::NodeLoad& load = shared.loads[routing::index(node.id)];
          samples[ControlMetric::node_latency_ratio].push_back(
              {{cluster.name, address},
               static_cast<double>(load.latency.load(std::memory_order_relaxed)) / routing::kNormal});
          samples[ControlMetric::node_in_flight_limit].push_back(
              {{cluster.name, address}, static_cast<double>(load.limit.load(std::memory_order_relaxed))});
          samples[ControlMetric::node_weight].push_back(
              {{cluster.name, address}, static_cast<double>(node.weight) * node.ramp / 100});
          for (const auto state : {routing::BreakerState::closed, routing::BreakerState::open,
                                   routing::BreakerState::half_open})
            samples[ControlMetric::breaker_state].push_back(
                {{cluster.name, address, std::string(name(state))}, node.breaker == state ? 1.0 : 0.0});
          for (std::size_t why = 1; why < routing::kBreakerReasons; ++why)
            samples[ControlMetric::breaker_openings].push_back(
                {{cluster.name, address, std::string(name(static_cast<routing::BreakerReason>(why)))},
                 static_cast<double>(node.ejections[why])});
          samples[ControlMetric::node_in_flight].push_back(
              {{cluster.name, address},
               static_cast<double>(
                   shared.loads[routing::index(node.id)].in_flight.load(std::memory_order_relaxed))});
          if (node.lag) {
            samples[ControlMetric::node_lag_seconds].push_back(
                {{cluster.name, address}, static_cast<double>(node.lag->count()) / 1000});
            if (!primary)
              samples[ControlMetric::node_lag_bytes].push_back(
                  {{cluster.name, address},
                   cluster.sample_lsn > node.replayed
                       ? static_cast<double>(cluster.sample_lsn.value - node.replayed.value)
                       : 0.0});
          }
        }
      }
    }
    for (const auto& [key, budget] : shared.budgets.all()) {
      const std::vector<std::string> labels = {status.node_name(routing::index(key.node)),
                                               key.database, key.user};
      const pool::Budget::Use use = budget->use();
      samples[ControlMetric::pool_size].push_back({labels, static_cast<double>(budget->limit())});
      samples[ControlMetric::pool_servers].push_back({labels, static_cast<double>(budget->open())});
      samples[ControlMetric::pool_in_use].push_back({labels, static_cast<double>(use.in_use)});
      samples[ControlMetric::pool_waiting].push_back({labels, static_cast<double>(use.waiting)});
    }
    for (const pool::Tenant* tenant : shared.tenants.all()) {
      const auto value = [](const std::atomic<std::int64_t>& word) {
        return static_cast<double>(word.load(std::memory_order_relaxed));
      };
      samples[ControlMetric::tenant_rate_limit].push_back({{tenant->name}, value(tenant->rate)});
      samples[ControlMetric::tenant_concurrency_limit].push_back(
          {{tenant->name}, value(tenant->concurrency)});
      samples[ControlMetric::tenant_running].push_back({{tenant->name}, value(tenant->running)});
      samples[ControlMetric::tenant_server_time_limit].push_back(
          {{tenant->name}, value(tenant->server_time) / 1000});
      samples[ControlMetric::tenant_waiting].push_back({{tenant->name}, value(tenant->waiting)});
    }
    std::vector<metrics::GaugeFamily> families;
    for (auto& [metric, values] : samples) families.push_back({metric, std::move(values)});
    return families;
  };
  return source;
}

// --- control ---------------------------------------------------------------------------------------

conf::Result<TlsContexts> make_tls(const conf::Settings& settings) {
  TlsContexts made;
  if (settings.tls_client_mode != conf::TlsMode::disable) {
    auto context = net::TlsContext::for_clients(settings);
    if (!context) return context.error();
    made.client = *context;
  }
  if (settings.tls_server_mode != conf::TlsMode::disable) {
    auto context = net::TlsContext::for_servers(settings);
    if (!context) return context.error();
    made.server = *context;
  }
  return made;
}

Control::Control(std::string file, std::shared_ptr<const conf::Settings> settings, Shared& shared,
                 Status& status, Notifier notifier)
    : file_(std::move(file)),
      configured_(std::move(settings)),
      settings_(configured_),
      shared_(shared),
      status_(status),
      mailbox_(loop_, [this](ControlMessage&& message) { receive(std::move(message)); }),
      orders_(*this),
      console_(*this, metrics_source(status, shared).names),
      takeover_(loop_, takeover_events()),
      notifier_(std::move(notifier)),
      program_(own_path()),
      guard_(loop_, shared_, settings_),
      accept_again_(loop_, [this] { watch_listeners(accepting_); }),
      fade_(loop_, [this] { look_at_loads(); }),
      drain_deadline_(loop_, [this] { stop_now("shutdown_timeout has passed"); }),
      ready_deadline_(loop_, [this] { look_at_nodes(true); }),
      metrics_again_(loop_, [this] { start_metrics(); }),
      service_timer_(loop_, [this] { tell_service_manager(); }),
      watchdog_timer_(loop_, [this] { feed_watchdog(); }),
      turns_seen_(shared.workers.size()) {
  shared_.tell_control = [this](ControlMessage message) { mailbox_.post(std::move(message)); };
  status_.set_reload(true);
  const auto on = [this](int number, std::function<void()> action) {
    signals_.push_back(std::make_unique<net::Signal>(loop_, number, std::move(action)));
  };
  on(SIGHUP, [this] {
    std::vector<std::string> notes;
    (void)reload(&notes);
  });
  on(SIGTERM, [this] { begin_drain("SIGTERM"); });
  on(SIGINT, [this] { begin_drain("SIGINT"); });
  on(SIGUSR2, [this] { start_successor(); });
}

Control::~Control() {
  // In the middle of a takeover somebody else has these sockets too: their files stay.
  for (Listener& one : listeners_) {
    one.watch.reset();
    takeover_.withdraw();
    close_listener(one.socket, !takeover_.is_under_way());
  }
  for (const int fd : spare_) ::close(fd);
}

conf::Status Control::listen(std::vector<ListenSocket> given, const Inheritance* heir, Metrics metrics) {
  metrics_ = std::move(metrics);
  const auto sockets = open_listeners(*settings_, std::move(given));
  if (!sockets) return sockets.error();
  monitor_ = std::make_unique<Monitor>(
      loop_, settings_,
      MonitorEvents{
          .topology = [this](std::shared_ptr<const routing::Topology> topology) {
            broadcast_topology(std::move(topology));
          },
          .catalogs =
              [this](const routing::Catalogs& found) {
                catalogs_ = found;
                publish_scopes();
              },
          .fleet = [this](pool::FleetShare share) { take_share(share); },
          .crash_heard =
              [this](routing::NodeId node) { orders_.crash_heard(static_cast<std::uint16_t>(node)); }});
  publish_scopes();
  for (const ListenSocket& one : *sockets) {
    listeners_.push_back({one, nullptr});
    if (one.from == ListenSocket::From::takeover)
      takeover_.offer(one.fd);
    else
      listeners_.back().watch =
          std::make_unique<net::Watch>(loop_, one.fd, [this, fd = one.fd](int) { accept_from(fd); });
  }
  keep_spare_descriptors();
  if (heir != nullptr) {
    orders_.adopt(heir->orders);
    takeover_.claim(heir->link);
    ready_deadline_.once(kReadyWithin);
    notifier_.say("STATUS=Getting ready to take over");
    return conf::ok;
  }
  if (const conf::Status started = metrics_.start(); !started) return started.error();
  accept_clients(true);
  return conf::ok;
}

// Latencies and limits of nodes, and what follows from them.
void Control::look_at_loads() {
  if (loop_.now() - slots_counted_ >= std::chrono::seconds(1)) {
    slots_counted_ = loop_.now();
    slots_.assign(slots_.size(), 0);
    for (const auto& [key, budget] : shared_.budgets.all()) {
      const std::size_t node = routing::index(key.node);
      if (slots_.size() <= node) slots_.resize(node + 1);
      slots_[node] += static_cast<std::int32_t>(budget->limit());
      if (const pool::Quota* all = budget->shared(pool::ServerLimit::node); all != nullptr && all->limit() > 0)
        slots_[node] = std::min(slots_[node], static_cast<std::int32_t>(all->limit()));
    }
  }
  monitor_->look_at_loads(shared_.loads, slots_);
}

bool Control::run() {
  fade_.every(routing::kFadePeriod);
  guard_.start();
  if (accepting_) notifier_.say_ready(service_status());
  if (notifier_.listening()) service_timer_.every(kServiceReport);
  // Three chances per period, so that one late look is no death.
  if (const auto period = notifier_.watchdog())
    watchdog_timer_.every(std::max(Millis(1), std::chrono::duration_cast<Millis>(*period / 3)));
  loop_.run();
  return !failed_;
}

void Control::watch_listeners(bool on) {
  for (Listener& one : listeners_)
    if (one.watch) one.watch->want(on ? net::Watch::readable : net::Watch::none);
}

void Control::accept_clients(bool on) {
  watch_listeners(on);
  if (std::exchange(accepting_, on) || !on) return;
  for (const Listener& one : listeners_)
    if (one.watch) log_info("listening on " + one.socket.where);
}

// --- a restart without a refused connection -------------------------------------------------------

Takeover::Events Control::takeover_events() {
  return {
      .give =
          [this] {
            Inheritance mine;
            for (const Listener& one : listeners_) mine.sockets.push_back(one.socket);
            mine.processes = 1U << (shared_.process & 31U);
            if (takeover_.has_predecessor()) mine.processes |= shared_.other_processes;
            mine.mock_key = shared_.mock_key;
            mine.orders = orders_.current();
            return mine;
          },
      .accept =
          [this](bool on) {
            accept_again_.stop();
            accept_clients(on);
            if (on) notifier_.say_ready(service_status());
          },
      .handed_over = [this] { hand_over(); },
      .freed = [this] { start_metrics(); },
      .cancel =
          [this](const CancelClient& request) { shared_.workers.front()->post(request); },
  };
}

// Another process accepts on our sockets: this one is over when its clients are.
void Control::hand_over() {
  accept_again_.stop();
  for (Listener& one : listeners_) {
    one.watch.reset();
    close_listener(one.socket, false);
  }
  listeners_.clear();
  // The service is the successor's; a STOPPING=1 of ours would be taken for its own.
  notifier_ = {};
  service_timer_.stop();
  watchdog_timer_.stop();
  loop_.in_background(metrics_.stop, [this] { takeover_.say_freed(); });
  if (drain_ != Drain::none) return;
  drain_ = Drain::handed_over;
  monitor_->leave_fleet();
  log_info("draining: another process has taken over timeout=" + conf::print(settings_->shutdown_timeout));
  tell_workers([] { return BeginDrain{.handed_over = true}; });
  drain_deadline_.once(settings_->shutdown_timeout);
}

// May a successor serve? When every cluster has its primary and every node has been asked; and when that
// takes too long, if there is a node at all that answers.
void Control::look_at_nodes(bool late) {
  if (asked_to_serve_ || !takeover_.waits_for_predecessor()) return;
  bool known = true, any_up = false;
  for (const routing::ClusterState& cluster : monitor_->states()) {
    known = known && cluster.primary;
    for (const routing::NodeState& node : cluster.nodes) {
      known = known && node.health != routing::NodeHealth::unknown;
      any_up = any_up || node.health == routing::NodeHealth::up;
    }
  }
  if (late && !any_up) {
    log_error("not taking over: no node answers; the running process goes on");
    failed_ = true;
    stop_now("it could not take over");
    return;
  }
  if (!known && !late) return;
  asked_to_serve_ = true;
  ready_deadline_.stop();
  takeover_.ready();
}

void Control::start_metrics() {
  const conf::Status started = metrics_.start();
  if (started) return;
  log_warning(started.error().message + "; trying again");
  metrics_again_.once(kMetricsPause);
}

// SIGUSR2: a new process of the same file takes over. It is our child, so that a service manager finds it
// where it looks for us.
void Control::start_successor() {
  if (settings_->listen_takeover_socket.empty()) {
    log_error("SIGUSR2: no successor is started: listen.takeover_socket is empty");
    return;
  }
  if (drain_ != Drain::none) return;
  // Nobody waits for it: the kernel forgets it when it ends.
  std::signal(SIGCHLD, SIG_IGN);
  std::string program = program_, file = file_, flag = "--takeover";
  char* arguments[] = {program.data(), file.data(), flag.data(), nullptr};
  pid_t pid = 0;
  const int failed = posix_spawn(&pid, program.c_str(), nullptr, nullptr, arguments, environ);
  if (failed != 0) {
    log_error("SIGUSR2: no successor is started: " + program + ": " + std::strerror(failed));
    return;
  }
  log_info("SIGUSR2: started a successor pid=" + std::to_string(pid));
}

void Control::cancel_elsewhere(CancelElsewhere&& message) {
  const auto canceled = [this](const ClientId& requester) { cancel_delivered(requester); };
  if (!takeover_.forward(message.request, canceled)) cancel_delivered(message.request.requester);
}

void Control::cancel_delivered(const ClientId& requester) {
  if (requester.worker == kElsewhere) {
    takeover_.delivered(requester);
  } else {
    shared_.workers[requester.worker]->post(CancelDelivered{requester});
  }
}

// --- the service manager ---------------------------------------------------------------------------

std::string Control::service_status() const {
  std::size_t nodes = 0, up = 0;
  for (const NodeReport& node : monitor_->report()) {
    ++nodes;
    up += node.health == routing::NodeHealth::up ? 1 : 0;
  }
  const std::string clients = std::to_string(shared_.client_count.load(std::memory_order_relaxed));
  return std::string(drain_ == Drain::none ? "Serving " : "Draining ") + clients + " clients; " +
         std::to_string(up) + " of " + std::to_string(nodes) + " nodes are up";
}

void Control::tell_service_manager() {
  if (accepting_) notifier_.say("STATUS=" + service_status());
}

// Only when every worker's loop has turned since the last look.
void Control::feed_watchdog() {
  bool all = true;
  for (std::size_t i = 0; i < turns_seen_.size(); ++i) {
    const std::uint64_t turns = shared_.workers[i]->metrics().loop_turns.read();
    if (std::exchange(turns_seen_[i], turns) != turns) {
      shared_.workers[i]->post(Nudge{});
    } else {
      all = false;
      log_error("worker " + std::to_string(i) + " is stuck: its loop has not turned");
    }
  }
  if (all) notifier_.say("WATCHDOG=1");
}

// --- the rest --------------------------------------------------------------------------------------

void Control::publish_scopes() {
  shared_.corrections.store(corrections_.size(), std::memory_order_relaxed);
  const routing::ScopeBook::Digests digests{.primary = routing::parse_digests(settings_->routing_primary_digests),
                                            .read = routing::parse_digests(settings_->routing_read_digests)};
  tell_workers([scopes = scope_book_.make(catalogs_, corrections_, digests)] { return ScopesChanged{scopes}; });
}

void Control::read_refused(const routing::Corrections::Refused& refused) {
  const auto limit = static_cast<std::size_t>(settings_->routing_corrections);
  if (!corrections_.learn(refused, limit, loop_.now())) return;
  log_warning("cluster=" + refused.where.cluster + " database=" + refused.where.database +
              " digest=" + routing::print_digest(refused.digest) + " goes to the primary from now on: " +
              refused.node + " refused it with " + refused.sqlstate);
  publish_scopes();
}

std::size_t Control::clear_corrections() {
  const std::size_t cleared = corrections_.clear();
  if (cleared > 0) publish_scopes();
  return cleared;
}

void Control::broadcast_topology(std::shared_ptr<const routing::Topology> topology) {
  status_.set_topology(topology);
  guard_.see(*topology);
  tell_workers([&topology] { return TopologyChanged{topology}; });
  look_at_nodes(false);
}

void Control::keep_spare_descriptors() {
  const auto wanted = static_cast<std::size_t>(settings_->listen_admin_reserved);
  while (spare_.size() < wanted) {
    const int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    spare_.push_back(fd);
  }
}

void Control::accept_from(int listener) {
  keep_spare_descriptors();
  for (int i = 0; i < kAcceptsPerTurn; ++i) {
    net::Address from;
    int fd = net::accept_one(listener, &from);
    const bool out = fd < 0 && (errno == EMFILE || errno == ENFILE);
    if (out) {
      tell_workers([] { return DescriptorWanted{}; });
      errno = EMFILE;
    }
    if (out && !spare_.empty()) {
      // Whoever it is can say so, and only the console is let in.
      if (const auto more = only_console_log_.due(loop_.now()))
        log_warning(std::string("only the console is let in: ") + std::strerror(EMFILE) + *more);
      ::close(spare_.back());
      spare_.pop_back();
      fd = net::accept_one(listener, &from);
    }
    if (fd < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) return;
      if (errno == ECONNABORTED || errno == EINTR) continue;
      // EMFILE, ENFILE, ENOBUFS: whoever waits is left waiting for a moment; those inside go on.
      const int error = errno;
      if (const auto more = accept_log_.due(loop_.now()))
        log_error(std::string("accepting clients is paused: ") + std::strerror(error) + *more);
      watch_listeners(false);
      accept_again_.once(kAcceptPause);
      return;
    }
    NewClient message;
    message.socket.fd = fd;
    message.only_console = out;
    // Far beyond the limit not even a refusal is affordable.
    const std::int64_t clients = shared_.client_count.load(std::memory_order_relaxed);
    if (clients > settings_->listen_max_client_connections + settings_->listen_admin_reserved + 1000)
      continue;
    message.from = shared_.addresses.enter(from, &message.of_its_address);
    Worker* fewest = shared_.workers.front();
    for (Worker* worker : shared_.workers)
      if (worker->client_count() < fewest->client_count()) fewest = worker;
    fewest->count_coming_client();
    shared_.client_count.fetch_add(1, std::memory_order_relaxed);
    fewest->post(std::move(message));
  }
}

void Control::receive(ControlMessage&& message) {
  std::visit(
      Overloaded{
          [this](NodeSuspected& m) { monitor_->suspect(m.node); },
          [this](NodeOutcome& m) { monitor_->outcome(m.node, m.good); },
          [this](SampleWanted& m) { monitor_->want_sample(m.cluster, m.sample); },
          [this](SchemaChanged& m) { monitor_->schema_changed(m.cluster); },
          [this](DatabaseMet& m) { monitor_->database_met(m.where); },
          [this](ReadRefused& m) { read_refused(m.refused); },
          [this](SecretWanted& m) {
            monitor_->look_up_secret(
                m.cluster, m.user,
                [this, client = m.client](conf::Result<std::optional<std::string>> secret) {
                  shared_.workers[client.worker]->post(SecretFound{client, std::move(secret)});
                });
          },
          [this](SecretDoubted& m) { monitor_->forget_secret(m.cluster, m.user); },
          [this](ConsoleCommand& m) { console_.command(m); },
          [this](ConsoleRows& m) { console_.rows(std::move(m)); },
          [this](ConsoleCanceled& m) {
            orders_.give_up(m.client, m.gone ? "its console is gone" : "canceled by its console");
          },
          [this](OrdersObeyed& m) { orders_.obeyed(m.ticket, m.closing); },
          [this](ServerLost& m) { orders_.server_lost(std::move(m.lost)); },
          [this](CrashHeard& m) { orders_.crash_heard(static_cast<std::uint16_t>(m.node)); },
          [this](CancelElsewhere& m) { cancel_elsewhere(std::move(m)); },
          [this](CancelDelivered& m) { cancel_delivered(m.requester); },
          [this](WorkerDrained&) {
            if (++drained_ == shared_.workers.size()) stop_now("the last client has left");
          },
      },
      message);
}

conf::Status Control::reload(std::vector<std::string>* notes) {
  const auto refused = [this](const conf::Error& error) {
    status_.set_reload(false);
    for (const auto problem : std::views::split(error.message, '\n'))  // a line each
      log_error("reload: nothing has changed: " + std::string(problem.begin(), problem.end()));
    return error;
  };
  notifier_.say_reloading();
  struct Ready {  // again, whatever comes of it
    Control& control;
    ~Ready() {
      if (control.accepting_) control.notifier_.say_ready(control.service_status());
    }
  } const ready{*this};
  auto loaded = conf::load_file(file_);
  if (!loaded) return refused(loaded.error());
  for (const std::string& option : conf::changes_needing_restart(*configured_, **loaded))
    notes->push_back(option + " takes effect at the next start");
  if (const conf::Status applied = apply(*loaded); !applied) {
    notes->clear();
    return refused(applied.error());
  }
  status_.set_reload(true);
  log_info("reloaded " + file_);
  for (const std::string& note : *notes) log_warning("reload: " + note);
  return conf::ok;
}

conf::Status Control::apply(std::shared_ptr<const conf::Settings> settings) {
  auto tls = make_tls(*settings);
  if (!tls) return tls.error();
  configured_ = std::move(settings);
  client_tls_ = tls->client;
  server_tls_ = tls->server;
  set_log_level(configured_->log_level);
  spread_settings();
  monitor_->reload(settings_);
  publish_scopes();
  return conf::ok;
}

void Control::take_share(pool::FleetShare share) {
  share_ = share;
  status_.set_fleet(share.members);
  spread_settings();
}

void Control::spread_settings() {
  const bool alone = share_ == pool::FleetShare{};
  settings_ = alone ? configured_
                    : std::make_shared<const conf::Settings>(pool::divide(*configured_, share_));
  shared_.tenants.reload(*settings_);
  shared_.classes.reload(*settings_);
  guard_.reload(settings_);
  console_.settings_changed();
  tell_workers([this] { return SettingsChanged{settings_, client_tls_, server_tls_}; });
}

conf::Status Control::set(const std::string& option, const std::string& value) {
  auto changed = conf::with_option(*configured_, option, value);
  if (!changed) return changed.error();
  return apply(*changed);
}

void Control::begin_drain(std::string_view why) {
  if (std::exchange(drain_, Drain::ordered) == Drain::ordered) {
    stop_now(why);
    return;
  }
  takeover_.withdraw();
  monitor_->leave_fleet();
  notifier_.say("STOPPING=1\nSTATUS=" + service_status());
  log_info("draining: " + std::string(why) + " timeout=" + conf::print(settings_->shutdown_timeout));
  // The console stays reachable; everybody else is told to go.
  tell_workers([] { return BeginDrain{}; });
  drain_deadline_.once(settings_->shutdown_timeout);
}

void Control::stop_now(std::string_view why) {
  log_info("stopping: " + std::string(why));
  tell_workers([] { return StopNow{}; });
  loop_.stop();
}

}  // namespace proxy
