#include "proxy/control.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <cstring>

#include <unistd.h>

#include "conf/load.h"
#include "proxy/log.h"
#include "proxy/overloaded.h"
#include "proxy/version.h"

namespace proxy {

using namespace std::chrono_literals;

namespace {

// So many connections are taken per wake-up, so that probes and the console are served in a storm.
constexpr int kAcceptsPerTurn = 64;
// When descriptors have run out, waiting connections are looked at again after this.
constexpr conf::Millis kAcceptPause = 100ms;

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
      .node = [&status](std::size_t node) { return status.node_name(node); },
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
      .route = names_up_to(routing::RouteReason::serializable),
      .read_choice = names_up_to(routing::ReadReason::none_has_replayed),
      .pin =
          [](std::size_t bit) {
            return bit < routing::kPins ? routing::names(static_cast<routing::Pin>(1U << bit)) : std::string();
          },
      .client_close = names_of<ClientEnd>(),
      .server_close = names_of<ServerEnd>(),
      .server_limit = names_of<pool::ServerLimit>(),
      .class_reason = names_up_to(routing::ClassReason::transaction_control),
  };
  source.extra = [&status, &shared] {
    using metrics::ControlMetric;
    std::map<ControlMetric, std::vector<metrics::GaugeSample>> samples;
    const Status::Snapshot now = status.get();
    samples[ControlMetric::build_info] = {{{std::string(kVersion)}, 1}};
    samples[ControlMetric::config_reload_timestamp_seconds] = {{{}, now.reload_time}};
    samples[ControlMetric::config_reload_success] = {{{}, now.reload_ok ? 1.0 : 0.0}};
    samples[ControlMetric::workers] = {{{}, static_cast<double>(shared.workers.size())}};
    if (now.topology) {
      for (const routing::ClusterState& cluster : now.topology->clusters) {
        for (const routing::NodeState& node : cluster.nodes) {
          const std::string address = node.address.name();
          const bool primary = cluster.primary && *cluster.primary == node.id;
          samples[ControlMetric::node_up].push_back(
              {{cluster.name, address}, node.health == routing::NodeHealth::up ? 1.0 : 0.0});
          samples[ControlMetric::node_role].push_back(
              {{cluster.name, address, std::string(name(node.role))}, 1});
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
                 Status& status)
    : file_(std::move(file)),
      settings_(std::move(settings)),
      shared_(shared),
      status_(status),
      mailbox_(loop_, [this](ControlMessage&& message) { receive(std::move(message)); }),
      console_(*this, metrics_source(status, shared).names),
      accept_again_(loop_,
                    [this] {
                      for (Listener& one : listeners_)
                        if (one.watch) one.watch->want(net::Watch::readable);
                    }),
      fade_(loop_,
            [this] {
              const auto topology = status_.get().topology;
              if (!topology) return;
              for (const routing::ClusterState& cluster : topology->clusters)
                for (const routing::NodeState& node : cluster.nodes)
                  shared_.loads[routing::index(node.id)].fade();
            }),
      drain_deadline_(loop_, [this] { stop_now("shutdown_timeout has passed"); }) {
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
}

Control::~Control() {
  for (Listener& one : listeners_) {
    one.watch.reset();
    ::close(one.fd);
    if (!one.unix_path.empty()) ::unlink(one.unix_path.c_str());
  }
}

conf::Status Control::listen() {
  const auto port = static_cast<std::uint16_t>(settings_->listen_port);
  const auto backlog = static_cast<int>(settings_->listen_backlog);
  std::string addresses = settings_->listen_address;
  std::vector<std::string> names;
  while (!addresses.empty()) {
    const std::size_t comma = addresses.find(',');
    std::string one = addresses.substr(0, comma);
    addresses = comma == std::string::npos ? "" : addresses.substr(comma + 1);
    std::erase(one, ' ');
    if (one.empty()) continue;
    const auto fd = net::listen_tcp(one == "localhost" ? "127.0.0.1" : one, port, backlog);
    if (!fd) return fd.error();
    listeners_.push_back({*fd, "", nullptr});
    names.push_back(one + ":" + std::to_string(port));
  }
  if (!settings_->listen_unix_socket_dir.empty()) {
    const std::string path =
        settings_->listen_unix_socket_dir + "/.s.PGSQL." + std::to_string(port);
    const auto fd = net::listen_unix(path, backlog);
    if (!fd) return fd.error();
    listeners_.push_back({*fd, path, nullptr});
    names.push_back(path);
  }
  if (listeners_.empty())
    return conf::Error{conf::Errc::config,
                       "nothing to listen on: listen.address and listen.unix_socket_dir are empty"};
  monitor_ = std::make_unique<Monitor>(
      loop_, settings_,
      MonitorEvents{
          .topology = [this](std::shared_ptr<const routing::Topology> topology) {
            broadcast_topology(std::move(topology));
          },
          .catalog =
              [this](std::shared_ptr<const routing::Catalog> catalog) {
                tell_workers([&catalog] { return CatalogChanged{catalog}; });
              }});
  for (Listener& one : listeners_) {
    one.watch = std::make_unique<net::Watch>(loop_, one.fd,
                                             [this, fd = one.fd](int) { accept_from(fd); });
    one.watch->want(net::Watch::readable);
  }
  for (const std::string& where : names) log_info("listening on " + where);
  return conf::ok;
}

void Control::run() {
  fade_.every(routing::kFadePeriod);
  loop_.run();
}

void Control::broadcast_topology(std::shared_ptr<const routing::Topology> topology) {
  status_.set_topology(topology);
  tell_workers([&topology] { return TopologyChanged{topology}; });
}

void Control::accept_from(int listener) {
  for (int i = 0; i < kAcceptsPerTurn; ++i) {
    net::Address from;
    const int fd = net::accept_one(listener, &from);
    if (fd < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) return;
      if (errno == ECONNABORTED || errno == EINTR) continue;
      // EMFILE, ENFILE, ENOBUFS: whoever waits is left waiting for a moment; those inside go on.
      log_error(std::string("accepting clients is paused: ") + std::strerror(errno));
      for (Listener& one : listeners_)
        if (one.watch) one.watch->want(net::Watch::none);
      accept_again_.once(kAcceptPause);
      return;
    }
    NewClient message;
    message.socket.fd = fd;
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
          [this](SampleWanted& m) { monitor_->want_sample(m.cluster); },
          [this](SchemaChanged& m) { monitor_->schema_changed(m.cluster); },
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
          [this](WorkerDrained&) {
            if (++drained_ == shared_.workers.size()) stop_now("the last client has left");
          },
      },
      message);
}

conf::Status Control::reload(std::vector<std::string>* notes) {
  const auto refused = [this](const conf::Error& error) {
    status_.set_reload(false);
    log_error("reload: nothing has changed: " + error.message);
    return error;
  };
  auto loaded = conf::load_file(file_);
  if (!loaded) return refused(loaded.error());
  for (const std::string& option : conf::changes_needing_restart(*settings_, **loaded))
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
  settings_ = std::move(settings);
  client_tls_ = tls->client;
  server_tls_ = tls->server;
  set_log_level(settings_->log_level);
  shared_.tenants.reload(*settings_);
  monitor_->reload(settings_);
  console_.settings_changed();
  tell_workers([this] { return SettingsChanged{settings_, client_tls_, server_tls_}; });
  return conf::ok;
}

conf::Status Control::set(const std::string& option, const std::string& value) {
  auto changed = conf::with_option(*settings_, option, value);
  if (!changed) return changed.error();
  return apply(*changed);
}

void Control::begin_drain(std::string_view why) {
  if (std::exchange(draining_, true)) {
    stop_now(why);
    return;
  }
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
