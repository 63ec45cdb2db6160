#include "proxy/console_tables.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <set>
#include <utility>

#include <unistd.h>

#include "conf/options.h"
#include "conf/render.h"
#include "conf/row.h"
#include "conf/words.h"
#include "pool/protection.h"
#include "proxy/client_login.h"
#include "proxy/console.h"
#include "proxy/control.h"
#include "proxy/version.h"
#include "proxy/wire/sqlstate.h"
#include "routing/lexer.h"
#include "routing/rules.h"

// What SHOW shows.
namespace proxy {
namespace {

using Row = std::vector<std::optional<std::string>>;

std::string number(std::uint64_t value) { return std::to_string(value); }
std::string number(std::int64_t value) { return std::to_string(value); }
std::string microseconds(conf::Nanos time) { return number(time.count() / 1000); }
// Of a wait: whole seconds, and the rest in microseconds, as PgBouncer splits it.
std::string wait_seconds(conf::Micros wait) { return number(wait.count() / 1'000'000); }
std::string wait_rest(conf::Micros wait) { return number(wait.count() % 1'000'000); }

template <class T, class Print>
std::optional<std::string> optional(const std::optional<T>& value, Print&& print) {
  return value ? std::optional<std::string>(print(*value)) : std::nullopt;
}
template <class T>
std::optional<std::string> optional(const std::optional<T>& value) {
  return optional(value, [](const T& one) { return conf::plain(one); });
}

void add(PoolUse& sum, const PoolUse& more) {
  sum.waiting += more.waiting;
  sum.active += more.active;
  sum.idle += more.idle;
  sum.cleaning += more.cleaning;
  sum.connecting += more.connecting;
  sum.cancels += more.cancels;
  sum.canceled += more.canceled;
  sum.longest_wait = std::max(sum.longest_wait, more.longest_wait);
}

std::int64_t servers(const PoolUse& use) { return use.active + use.idle + use.cleaning + use.connecting; }

// The same (database, user) in several workers is one: counts are added, the longest wait is its wait.
struct Joined {
  IdentityUse identity;
  PoolUse sum;                           // over its nodes
  std::map<std::string, PoolUse> nodes;  // by node
};
using ByIdentity = std::map<std::pair<std::string, std::string>, Joined>;

ByIdentity join(const std::vector<IdentityUse>& identities) {
  ByIdentity all;
  for (const IdentityUse& one : identities) {
    Joined& joined = all[{one.database, one.user}];
    const std::int64_t clients = joined.identity.clients + one.clients;
    const std::int64_t waiting = joined.identity.waiting + one.waiting;
    const conf::Micros wait = std::max(joined.identity.longest_wait, one.longest_wait);
    joined.identity = {.database = one.database, .user = one.user, .mode = one.mode, .clients = clients,
                       .waiting = waiting, .longest_wait = wait, .pools = {}};
    for (const PoolUse& pool : one.pools) {
      add(joined.sum, pool);
      PoolUse& node = joined.nodes[pool.node];
      node.node = pool.node;
      node.role = pool.role;
      node.limit = pool.limit;
      add(node, pool);
    }
  }
  return all;
}

// One line of SHOW STATS, by columns of the two halves.
Row total_columns(const metrics::DatabaseTotals& all) {
  return {number(all.transactions),
          number(all.statements),
          number(all.received),
          number(all.sent),
          microseconds(all.transaction_time),
          microseconds(all.statement_time),
          microseconds(all.wait_time)};
}
Row average_columns(const metrics::DatabaseAverages& all) {
  return {number(all.transactions),
          number(all.statements),
          number(all.received),
          number(all.sent),
          microseconds(all.transaction_time),
          microseconds(all.statement_time),
          microseconds(all.wait_time)};
}

void append(Row& row, Row&& more) { std::ranges::move(more, std::back_inserter(row)); }

std::uint64_t resident_pages() {
  std::uint64_t size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident;
}

}  // namespace

// --- the process -----------------------------------------------------------------------------------

void Console::show_version(const ConsoleCommand& asked) {
  show(asked, columns::kVersion, {{"pgsluice " + std::string(kVersion)}});
}

void Console::show_config(const ConsoleCommand& asked) {
  Rows rows;
  for (const conf::ConfigRow& row : conf::config_rows(control_.configured()))
    rows.push_back({row.key, row.value, row.default_value, row.changeable ? "yes" : "no"});
  show(asked, columns::kConfig, rows);
}

void Console::show_state(const ConsoleCommand& asked) {
  const bool draining = control_.draining();
  show(asked, columns::kState,
       {{"active", draining ? "no" : "yes"},
        {"paused", control_.orders().current().all_paused ? "yes" : "no"},
        {"suspended", "no"},
        {"draining", draining ? "yes" : "no"},
        {"protection_level", number(std::int64_t{control_.shared().protection.load(std::memory_order_relaxed)})},
        {"protection_reason", std::string(name(static_cast<pool::Strain>(
                                  control_.shared().protection_why.load(std::memory_order_relaxed))))},
        {"waiting", number(control_.shared().waiting.load(std::memory_order_relaxed))},
        {"held_writes", number(control_.shared().held_writes.load(std::memory_order_relaxed))}});
}

// Empty for what there is none of here, so that tools which ask for everything go on.
void Console::show_nothing(const ConsoleCommand& asked) {
  show(asked, understand(console_words(asked.words)).columns, {});
}

void Console::show_fds(const ConsoleCommand& asked) {
  std::string out;
  wire::append_error(out, {.severity = "ERROR",
                           .sqlstate = wire::sqlstate::kFeatureNotSupported,
                           .message = "SHOW FDS hands sockets, cancel keys and secrets to whoever asks",
                           .detail = "pgsluice does not restart that way, so there is nothing that it is good "
                                     "for.",
                           .hint = "SHOW SOCKETS shows every connection."});
  answer(asked.client, std::move(out));
}

// --- nodes, tenants, reasons -----------------------------------------------------------------------

static std::string percent_of_usual(const std::atomic<std::uint32_t>& latency) {
  return number(std::uint64_t{latency.load(std::memory_order_relaxed)} * 100 / routing::kNormal);
}

void Console::show_nodes(const ConsoleCommand& asked) {
  const std::vector<ClusterReport> clusters = control_.monitor().clusters();
  // As the workers see it: what lag, breakers and operators make of it together.
  std::vector<routing::NodeId> serving;
  for (const routing::ClusterState& state : control_.monitor().published())
    for (const routing::Candidate& one : state.serving) serving.push_back(one.id);
  const auto serves_reads = [&serving](routing::NodeId id) {
    return std::ranges::find(serving, id) != serving.end();
  };
  Rows rows;
  for (const NodeReport& node : control_.monitor().report()) {
    const auto cluster = std::ranges::find(clusters, node.cluster, &ClusterReport::name);
    const bool accepted =
        cluster != clusters.end() && cluster->primary && *cluster->primary == node.id;
    const bool drained = std::ranges::any_of(control_.orders().current().drained, [&node](const auto& one) {
      return one.first.name() == node.address;
    });
    const routing::NodeLoad& load = control_.shared().loads[routing::index(node.id)];
    rows.push_back(
        {node.cluster, node.address, node.ip, std::string(name(node.role)),
         std::string(name(node.health)), node.why,
         accepted ? "primary" : node.role == routing::NodeRole::primary ? "fenced" : "",
         optional(node.lag, [](conf::Millis lag) { return number(lag.count()); }),
         node.role == routing::NodeRole::replica
             ? (serves_reads(node.id) ? "yes" : "no")
             : "",
         routing::print(node.position), number(static_cast<std::uint64_t>(node.timeline)),
         number(static_cast<std::int64_t>(load.in_flight.load(std::memory_order_relaxed))),
         number(static_cast<std::uint64_t>(load.latency_us.load(std::memory_order_relaxed))),
         optional(node.latency, [](conf::Micros time) { return number(time.count()); }),
         optional(node.last_success, [](conf::Millis age) { return number(age.count()); }),
         number(node.system_id), node.server_version, node.error, drained ? "yes" : "no",
         node.lag ? std::optional(number(node.lag_bytes)) : std::nullopt, percent_of_usual(load.latency),
         number(static_cast<std::int64_t>(load.limit.load(std::memory_order_relaxed))),
         number(node.settings.weight), number(std::uint64_t{node.ramp}), node.settings.zone,
         conf::plain(node.settings.groups), std::string(name(node.breaker)), node.late ? "yes" : "no",
         optional(node.others_active, [](std::int64_t count) { return number(count); }),
         node.crowded ? "yes" : "no"});
  }
  show(asked, columns::kNodes, rows);
}

void Console::show_fleet(const ConsoleCommand& asked) {
  Rows rows;
  for (const MonitorFleet::Member& member : control_.monitor().fleet())
    rows.push_back({member.cluster, member.name, member.own ? "yes" : "no", member.counted ? "yes" : "no",
                    number(member.silent.count())});
  show(asked, columns::kFleet, rows);
}

void Console::show_breakers(const ConsoleCommand& asked) {
  using routing::BreakerReason;
  Rows rows;
  for (const NodeReport& node : control_.monitor().report()) {
    const auto opened = [&node](BreakerReason why) {
      return number(node.ejections[static_cast<std::size_t>(why)]);
    };
    rows.push_back({node.cluster, node.address, std::string(name(node.breaker)),
                    std::string(name(node.breaker_why)), number(node.open_for.count()),
                    number(std::uint64_t{node.failures_in_row}), opened(BreakerReason::consecutive_failures),
                    opened(BreakerReason::failure_rate), opened(BreakerReason::latency),
                    percent_of_usual(control_.shared().loads[routing::index(node.id)].mean),
                    number(std::uint64_t{node.ramp})});
  }
  show(asked, columns::kBreakers, rows);
}

void Console::show_dns_hosts(const ConsoleCommand& asked) {
  std::map<std::string, Row> hosts;  // several nodes may share a name
  for (const NodeReport& node : control_.monitor().report()) {
    if (!MonitorResolver::needs_lookup(node.host)) continue;
    std::string addresses;
    for (const std::string& ip : node.ips) addresses += (addresses.empty() ? "" : ",") + ip;
    hosts[node.host] = {node.host,
                        number(std::chrono::duration_cast<std::chrono::seconds>(node.next_look_up).count()),
                        addresses};
  }
  Rows rows;
  for (auto& [host, row] : hosts) rows.push_back(std::move(row));
  show(asked, columns::kDnsHosts, rows);
}

void Console::show_tenants(const ConsoleCommand& asked) {
  std::map<std::uint16_t, metrics::SeriesTotals> by_tenant;
  for (const metrics::SeriesTotals& series : metrics::totals(worker_metrics()))
    by_tenant[series.key.tenant].merge(series);
  Rows rows;
  for (const pool::Tenant* tenant : control_.shared().tenants.all()) {
    const metrics::SeriesTotals& totals = by_tenant[tenant->number];
    const auto value = [](const std::atomic<std::int64_t>& word) {
      return number(word.load(std::memory_order_relaxed));
    };
    rows.push_back({tenant->name, value(tenant->rate), value(tenant->burst),
                    value(tenant->concurrency), value(tenant->running), number(totals.served),
                    number(totals.failed), microseconds(totals.total.quantile(0.5)),
                    microseconds(totals.total.quantile(0.99)), value(tenant->waiting),
                    value(tenant->max_waiting), value(tenant->weight), value(tenant->ceiling),
                    value(tenant->server_time), value(tenant->server_burst), value(tenant->cost),
                    value(tenant->replicas)});
  }
  show(asked, columns::kTenants, rows);
}

void Console::show_classes(const ConsoleCommand& asked) {
  const auto table = control_.shared().classes.table();
  const conf::Priority lowest =
      pool::lowest_served(control_.shared().protection.load(std::memory_order_relaxed));
  Rows rows;
  for (const pool::ServiceClass& one : table->classes) {
    if (!one.configured) continue;
    std::string nodes;
    for (const std::string& node : one.nodes) nodes += (nodes.empty() ? "" : ",") + node;
    rows.push_back({one.name, std::string(conf::word(one.priority)), number(one.weight),
                    number(one.target.count()), number(one.interval.count()), number(one.deadline.count()),
                    number(one.ceiling), nodes, one.overflow ? "yes" : "no",
                    one.priority <= lowest ? "yes" : "no"});
  }
  show(asked, columns::kClasses, rows);
}

// The queues of all workers, joined by what they are told apart by.
void Console::show_queues(const ConsoleCommand& asked) {
  ask_use(asked, [this](const ConsoleCommand& command, Heard&& heard, std::string notices) {
    std::map<std::array<std::string, 5>, QueueUse> queues;
    for (const IdentityUse& identity : heard.identities)
      for (const PoolUse& its_pool : identity.pools)
        for (const QueueUse& queue : its_pool.queues) {
          QueueUse& sum = queues[{identity.database, identity.user, its_pool.node, queue.service_class, queue.tenant}];
          sum.waiting += queue.waiting;
          sum.longest_wait = std::max(sum.longest_wait, queue.longest_wait);
          sum.cost = queue.cost;
          sum.overloaded |= queue.overloaded;
        }
    Rows rows;
    for (const auto& [key, queue] : queues)
      rows.push_back({key[0], key[1], key[2], key[3], key[4], number(queue.waiting),
                      number(queue.longest_wait.count()), number(queue.cost.count()),
                      queue.overloaded ? "yes" : "no"});
    show(command, columns::kQueues, rows, std::move(notices));
  });
}

void Console::show_statements(const ConsoleCommand& asked) {
  const std::vector<const pool::Tenant*> tenants = control_.shared().tenants.all();
  Rows rows;
  for (const metrics::SeriesTotals& series : metrics::totals(worker_metrics())) {
    const auto tenant = std::ranges::find(tenants, series.key.tenant, &pool::Tenant::number);
    rows.push_back({names_.node(series.key.node), names_.role(series.key.role), names_.kind(series.key.kind),
                    tenant == tenants.end() ? "other" : (*tenant)->name, number(series.served),
                    number(series.failed), microseconds(series.total.quantile(0.5)),
                    microseconds(series.total.quantile(0.99)),
                    microseconds(series.server.quantile(0.5)),
                    microseconds(series.server.quantile(0.99)),
                    microseconds(series.queue.quantile(0.99))});
  }
  show(asked, columns::kStatements, rows);
}

// The counted reasons of the metrics, by what they are asked for.
void Console::show_reasons(const ConsoleCommand& asked) {
  using metrics::WorkerMetrics;
  const auto table_of = [](metrics::CounterArray WorkerMetrics::*field) -> std::string_view {
    if (field == &WorkerMetrics::routes || field == &WorkerMetrics::read_choices ||
        field == &WorkerMetrics::class_reasons || field == &WorkerMetrics::rules ||
        field == &WorkerMetrics::dry_routes || field == &WorkerMetrics::shared_answers)
      return "SHOW ROUTES";
    if (field == &WorkerMetrics::retries_served || field == &WorkerMetrics::retries_failed ||
        field == &WorkerMetrics::retry_refusals)
      return "SHOW RETRIES";
    return field == &WorkerMetrics::pins ? "SHOW PINS" : "SHOW REFUSALS";
  };
  const bool routes = asked.words == "SHOW ROUTES";
  const std::vector<conf::RouteRule>& rules = control_.settings().routes;
  Rows rows;
  for (const metrics::ReasonRow& family : metrics::kReasons) {
    if (table_of(family.field) != asked.words) continue;
    std::string what(family.name.substr(std::string_view("pgsluice_").size()));
    what.erase(what.size() - std::string_view("_total").size());
    for (std::size_t i = 0; i < metrics::CounterArray::kCapacity; ++i) {
      std::uint64_t sum = 0;
      for (const WorkerMetrics* worker : worker_metrics()) sum += (worker->*family.field).read(i);
      const std::string word = (names_.*family.words)(i);
      if (word.empty()) continue;
      rows.push_back({what, word, number(sum)});
      if (!routes) continue;
      const auto rule = std::ranges::find(rules, word, &conf::RouteRule::name);
      rows.back().push_back(family.field == &WorkerMetrics::rules && rule != rules.end()
                                ? routing::outcome_text(*rule) : "");
    }
  }
  if (routes) return show(asked, columns::kRoutes, rows);
  show(asked, columns::kReasons, rows);
}

void Console::show_corrections(const ConsoleCommand& asked) {
  const auto seconds_ago = [now = control_.loop().now()](conf::Instant then) {
    return number(static_cast<std::int64_t>(std::chrono::duration_cast<std::chrono::seconds>(now - then).count()));
  };
  Rows rows;
  for (const routing::Corrections::Correction& one : control_.corrections().all())
    rows.push_back({one.where.cluster, one.where.database, routing::print_digest(one.digest), one.sqlstate, one.node,
                    number(one.refusals), seconds_ago(one.first), seconds_ago(one.last)});
  show(asked, columns::kCorrections, rows);
}

// --- statistics ------------------------------------------------------------------------------------

std::vector<const metrics::WorkerMetrics*> Console::worker_metrics() const {
  std::vector<const metrics::WorkerMetrics*> workers;
  for (const Worker* worker : control_.shared().workers) workers.push_back(&worker->metrics());
  return workers;
}

metrics::DatabaseSums Console::database_totals() const { return metrics::database_totals(worker_metrics()); }

void Console::show_stats(const ConsoleCommand& asked) {
  const conf::Instant now = control_.loop().now();
  Rows rows;
  for (const auto& [database, totals] : database_totals()) {
    const metrics::DatabaseAverages averages = rates_.average(database, now, totals);
    Row row{database};
    append(row, total_columns(totals));
    append(row, average_columns(averages));
    append(row, {number(totals.assignments), number(averages.assignments)});
    rows.push_back(std::move(row));
  }
  show(asked, columns::kStats, rows);
}

void Console::show_stats_totals(const ConsoleCommand& asked) {
  Rows rows;
  for (const auto& [database, totals] : database_totals()) {
    Row row{database};
    append(row, total_columns(totals));
    append(row, {number(totals.assignments)});
    rows.push_back(std::move(row));
  }
  show(asked, columns::kStatsPart, rows);
}

void Console::show_stats_averages(const ConsoleCommand& asked) {
  Rows rows;
  for (const auto& [database, totals] : database_totals()) {
    const metrics::DatabaseAverages averages = rates_.average(database, control_.loop().now(), totals);
    Row row{database};
    append(row, average_columns(averages));
    append(row, {number(averages.assignments)});
    rows.push_back(std::move(row));
  }
  show(asked, columns::kStatsPart, rows);
}

void Console::show_totals(const ConsoleCommand& asked) {
  metrics::DatabaseTotals all;
  for (const auto& [database, totals] : database_totals()) all += totals;
  const metrics::DatabaseAverages averages = rates_.average_of_all(control_.loop().now(), all);
  // PgBouncer's names in this table: what clients send are client bytes, what servers answer server bytes.
  constexpr std::string_view words[] = {"xact_count", "query_count", "client_bytes", "server_bytes",
                                        "xact_time",  "query_time",  "wait_time"};
  Rows rows;
  const auto half = [&rows, &words](std::string_view prefix, Row values) {
    for (std::size_t i = 0; i < std::size(words); ++i)
      rows.push_back({std::string(prefix) + std::string(words[i]), std::move(values[i])});
  };
  half("total_", total_columns(all));
  half("avg_", average_columns(averages));
  rows.push_back({"total_server_assignment_count", number(all.assignments)});
  rows.push_back({"avg_server_assignment_count", number(averages.assignments)});
  show(asked, columns::kTotals, rows);
}

// --- what the workers are asked for ----------------------------------------------------------------

void Console::show_clients(const ConsoleCommand& asked) {
  ask_rows(asked, columns::kClients, ConsoleQuestion::clients);
}
void Console::show_servers(const ConsoleCommand& asked) {
  ask_rows(asked, columns::kServers, ConsoleQuestion::servers);
}
void Console::show_sockets(const ConsoleCommand& asked) {
  ask_rows(asked, columns::kSockets, ConsoleQuestion::sockets);
}
void Console::show_active_sockets(const ConsoleCommand& asked) {
  ask_rows(asked, columns::kSockets, ConsoleQuestion::active_sockets);
}

void Console::show_pools(const ConsoleCommand& asked) {
  ask_use(asked, [this](const ConsoleCommand& command, Heard&& heard, std::string notices) {
    Rows rows;
    for (const auto& [key, one] : join(heard.identities)) {
      const PoolUse& all = one.sum;
      const conf::Micros wait = std::max(one.identity.longest_wait, all.longest_wait);
      rows.push_back({one.identity.database, one.identity.user,
                      number(one.identity.clients - one.identity.waiting), number(one.identity.waiting),
                      number(all.cancels), number(std::int64_t{0}), number(all.active), number(all.cancels),
                      number(all.canceled), number(all.idle), number(std::int64_t{0}), number(all.cleaning),
                      number(all.connecting), wait_seconds(wait), wait_rest(wait),
                      std::string(conf::word(one.identity.mode))});
    }
    show(command, columns::kPools, rows, std::move(notices));
  });
}

void Console::show_node_pools(const ConsoleCommand& asked) {
  ask_use(asked, [this](const ConsoleCommand& command, Heard&& heard, std::string notices) {
    Rows rows;
    for (const auto& [key, one] : join(heard.identities))
      for (const auto& [name, node] : one.nodes)
        rows.push_back({one.identity.database, one.identity.user, node.node, node.role, number(node.waiting),
                        number(node.active), number(node.cancels), number(node.canceled), number(node.idle),
                        number(node.cleaning), number(node.connecting), wait_seconds(node.longest_wait),
                        wait_rest(node.longest_wait), number(node.limit),
                        std::string(conf::word(one.identity.mode))});
    show(command, columns::kNodePools, rows, std::move(notices));
  });
}

void Console::show_databases(const ConsoleCommand& asked) {
  ask_use(asked, [this](const ConsoleCommand& command, Heard&& heard, std::string notices) {
    const conf::Settings& settings = control_.settings();
    struct Use {
      std::int64_t servers = 0, clients = 0;
    };
    std::map<std::string, Use> used;
    const Orders& orders = control_.orders().current();
    for (const auto& [name, database] : settings.databases) used[name];
    for (const auto* ordered : {&orders.paused, &orders.disabled})
      for (const std::string& name : *ordered) used[name];
    for (const auto& [key, one] : join(heard.identities)) {
      Use& use = used[one.identity.database];
      use.servers += servers(one.sum);
      use.clients += one.identity.clients;
    }
    Rows rows;
    for (const auto& [name, use] : used) {
      auto section = settings.databases.find(name);
      if (section == settings.databases.end()) section = settings.databases.find("*");
      if (section == settings.databases.end()) continue;  // a reload has taken it away
      const conf::DatabaseSettings& database = section->second;
      std::string hosts;
      std::optional<std::string> port;
      if (const auto cluster = settings.clusters.find(database.cluster); cluster != settings.clusters.end()) {
        for (const conf::NodeAddress& node : cluster->second.servers)
          hosts += (hosts.empty() ? "" : ",") + node.host;
        port = number(std::int64_t{cluster->second.servers.front().port});
      }
      rows.push_back({name, hosts, port, database.dbname.empty() ? name : database.dbname, std::nullopt,
                      number(database.pool_size.value_or(settings.pool_size)),
                      number(database.pool_min_size.value_or(settings.pool_min_size)), "0",
                      optional(database.pool_mode),
                      number(database.max_servers.value_or(settings.pool_servers_per_database)),
                      number(use.servers), orders.is_paused(name) ? "1" : "0",
                      orders.is_disabled(name) ? "1" : "0", number(use.clients), database.cluster,
                      number(database.max_clients.value_or(settings.listen_clients_per_database))});
    }
    show(command, columns::kDatabases, rows, std::move(notices));
  });
}

void Console::show_users(const ConsoleCommand& asked) {
  ask_use(asked, [this](const ConsoleCommand& command, Heard&& heard, std::string notices) {
    const conf::Settings& settings = control_.settings();
    struct Use {
      std::int64_t servers = 0, clients = 0;
    };
    std::map<std::string, Use> used;
    for (const auto& [name, user] : settings.users) used[name];
    for (const std::string& name : settings.admin_users) used[name];
    for (const std::string& name : settings.admin_stats_users) used[name];
    for (const auto& [key, one] : join(heard.identities)) {
      Use& use = used[one.identity.user];
      use.servers += servers(one.sum);
      use.clients += one.identity.clients;
    }
    const auto listed = [](const std::vector<std::string>& users, const std::string& name) {
      return std::ranges::find(users, name) != users.end();
    };
    Rows rows;
    const conf::UserSettings none;
    for (const auto& [name, use] : used) {
      const auto found = settings.users.find(name);
      const conf::UserSettings& user = found != settings.users.end() ? found->second : none;
      rows.push_back({name, optional(user.pool_mode), optional(user.pool_size), number(use.servers),
                      number(use.clients), user.tenant,
                      listed(settings.admin_users, name)         ? "admin"
                      : listed(settings.admin_stats_users, name) ? "stats"
                                                                 : "",
                      optional(user.pool_min_size),
                      number(user.max_servers.value_or(settings.pool_servers_per_user)),
                      number(user.max_clients.value_or(settings.listen_clients_per_user))});
    }
    show(command, columns::kUsers, rows, std::move(notices));
  });
}

void Console::show_lists(const ConsoleCommand& asked) {
  ask_use(asked, [this](const ConsoleCommand& command, Heard&& heard, std::string notices) {
    const ByIdentity identities = join(heard.identities);
    std::set<std::string> databases, users, names;
    for (const auto& [name, database] : control_.settings().databases) databases.insert(name);
    for (const auto& [name, user] : control_.settings().users) users.insert(name);
    for (const auto& [key, one] : identities) {
      databases.insert(one.identity.database);
      users.insert(one.identity.user);
    }
    const std::vector<NodeReport> nodes = control_.monitor().report();
    for (const NodeReport& node : nodes)
      if (MonitorResolver::needs_lookup(node.host)) names.insert(node.host);
    WorkerUse use;
    for (const WorkerUse& one : heard.workers) {
      use.clients += one.clients;
      use.logging_in += one.logging_in;
      use.consoles += one.consoles;
      use.free_slots += one.free_slots;
      use.servers += one.servers;
    }
    const auto items = [](std::size_t size) { return number(static_cast<std::uint64_t>(size)); };
    show(command, columns::kLists,
         {{"databases", items(databases.size())},
          {"users", items(users.size())},
          {"peers", "0"},
          {"pools", items(identities.size())},
          {"peer_pools", "0"},
          {"free_clients", number(use.free_slots)},
          {"used_clients", number(use.clients)},
          {"login_clients", number(use.logging_in)},
          {"free_servers", "0"},  // nothing is kept of a server that is closed
          {"used_servers", number(use.servers)},
          {"dns_names", items(names.size())},
          {"dns_zones", "0"},
          {"dns_queries", items(control_.monitor().look_ups())},
          {"dns_pending", "0"},
          {"console_clients", number(use.consoles)},
          {"nodes", items(nodes.size())},
          {"tenants", items(control_.shared().tenants.all().size())},
          {"workers", items(control_.shared().workers.size())}},
         std::move(notices));
  });
}

void Console::show_mem(const ConsoleCommand& asked) {
  ask_use(asked, [this](const ConsoleCommand& command, Heard&& heard, std::string notices) {
    std::int64_t clients = 0, logins = 0, servers = 0, spare = 0;
    for (const WorkerUse& one : heard.workers) {
      clients += one.clients;
      logins += one.logging_in;
      servers += one.servers;
      spare += one.spare_buffers;
    }
    std::int64_t series = 0;
    for (const metrics::WorkerMetrics* worker : worker_metrics())
      worker->for_each_series([&series](const metrics::StatementSeries&) { ++series; });
    Rows rows;
    const auto row = [&rows](std::string_view name, std::size_t size, std::int64_t used, std::int64_t free) {
      const auto each = static_cast<std::int64_t>(size);
      rows.push_back({std::string(name), number(each), number(used), number(free),
                      number(each * (used + free))});
    };
    // Objects themselves, without what strings in them hold elsewhere; the last row is everything.
    row("client", sizeof(Client), clients, 0);
    row("client_login", sizeof(ClientLogin), logins, 0);
    row("server", sizeof(Server), servers, 0);
    row("input_buffer", Worker::kSpareSize, 0, spare);
    row("read_buffer", Worker::kReadBuffer, static_cast<std::int64_t>(heard.workers.size()), 0);
    row("prepared_statement", sizeof(pool::Prepared),
        static_cast<std::int64_t>(control_.shared().prepared.size()), 0);
    row("statement_series", sizeof(metrics::StatementSeries), series, 0);
    row("resident_page", static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)),
        static_cast<std::int64_t>(resident_pages()), 0);
    show(command, columns::kMem, rows, std::move(notices));
  });
}

}  // namespace proxy
