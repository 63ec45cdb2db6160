#include "proxy/console.h"

#include <algorithm>
#include <cctype>
#include <cstdio>

#include "conf/render.h"
#include "proxy/control.h"
#include "proxy/log.h"
#include "proxy/version.h"
#include "proxy/wire/sqlstate.h"

namespace proxy {
namespace {

using wire::Column;
using enum wire::ColumnType;

constexpr Column kClientColumns[] = {
    {"type", text},       {"addr", text},            {"port", int8},
    {"id", text},         {"state", text},           {"waiting_for", text}, {"user", text},
    {"database", text},   {"tenant", text},          {"peer", text},        {"node", text},
    {"server_pid", int8}, {"pinned", text},          {"floor", text},       {"statements", int8},
    {"age_seconds", int8}, {"quiet_seconds", int8},  {"prepared", int8},    {"tls", text}};
constexpr Column kServerColumns[] = {
    {"type", text},     {"addr", text},        {"port", int8},
    {"node", text},     {"role", text},        {"state", text},       {"user", text},
    {"database", text}, {"pid", int8},         {"client", text},      {"transaction", text},
    {"prepared", int8}, {"age_seconds", int8}, {"idle_seconds", int8}, {"tls", text},
    {"worker", int8}};
constexpr Column kPoolColumns[] = {
    {"database", text}, {"user", text},      {"node", text},    {"role", text},
    {"cl_active", int8}, {"cl_waiting", int8}, {"sv_active", int8}, {"sv_idle", int8},
    {"sv_login", int8}, {"pool_size", int8}, {"maxwait_us", int8}, {"pool_mode", text}};

std::string number(std::uint64_t value) { return std::to_string(value); }
std::string number(std::int64_t value) { return std::to_string(value); }

std::string microseconds(conf::Nanos time) { return number(time.count() / 1000); }

void ready(std::string& out) {
  wire::append_ready_for_query(out, wire::TransactionStatus::idle);
}

std::string table(std::span<const Column> columns, const Rows& rows) {
  std::string out;
  wire::append_row_description(out, columns);
  for (const auto& row : rows) wire::append_data_row(out, row);
  wire::append_command_complete(out, "SHOW");
  ready(out);
  return out;
}

std::string error(std::string_view sqlstate, std::string_view message, std::string_view hint = {}) {
  std::string out;
  wire::append_error(
      out, {.severity = "ERROR", .sqlstate = sqlstate, .message = message, .detail = {}, .hint = hint});
  ready(out);
  return out;
}

// "  show  Pools ; " -> "SHOW POOLS"
std::string canonical(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool blank = std::isspace(static_cast<unsigned char>(c)) != 0 || c == ';';
    if (blank) {
      if (!out.empty() && out.back() != ' ') out += ' ';
    } else {
      out += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    }
  }
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

}  // namespace

std::span<const Column> client_columns() { return kClientColumns; }
std::span<const Column> server_columns() { return kServerColumns; }
std::span<const Column> pool_columns() { return kPoolColumns; }

struct Console::Command {
  std::string_view words;
  std::string_view help;
  bool acts;  // for admin.users only
  void (Console::*run)(const ConsoleCommand&);
};

// To add a command: a row here (SHOW HELP and dispatch follow from it) and its method.
const Console::Command Console::kCommands[] = {
    {"SHOW HELP", "this list", false, &Console::show_help},
    {"SHOW NODES", "every node: role, health, lag, position", false, &Console::show_nodes},
    {"SHOW POOLS", "servers and clients per node, database and user", false, &Console::show_pools},
    {"SHOW CLIENTS", "every client connection", false, &Console::show_clients},
    {"SHOW SERVERS", "every server connection", false, &Console::show_servers},
    {"SHOW TENANTS", "limits and use of every tenant", false, &Console::show_tenants},
    {"SHOW STATS", "statements by node, class and tenant, with percentiles in microseconds", false,
     &Console::show_stats},
    {"SHOW CONFIG", "every option, its value and default", false, &Console::show_config},
    {"SHOW VERSION", "the version of this program", false, &Console::show_version},
    {"RELOAD", "read the configuration file again", true, &Console::reload},
    {"SHUTDOWN", "finish transactions, then exit; a second time: exit now", true,
     &Console::shutdown},
};

void Console::answer(const ClientId& client, std::string messages) {
  control_.shared().workers[client.worker]->post(ConsoleAnswer{client, std::move(messages)});
}

void Console::command(const ConsoleCommand& asked) {
  const std::string words = canonical(asked.text);
  if (words.empty()) {
    std::string out;
    wire::append_empty_query_response(out);
    ready(out);
    answer(asked.client, std::move(out));
    return;
  }
  for (const Command& command : kCommands) {
    if (command.words != words && !(words == "HELP" && command.words == "SHOW HELP")) continue;
    if (command.acts && !asked.may_act) {
      answer(asked.client,
             error(wire::sqlstate::kInsufficientPrivilege,
                   "user \"" + asked.user + "\" may look but not act: it is not among admin.users"));
      return;
    }
    if (command.acts) log_info("console user=" + asked.user + " command=" + words);
    (this->*command.run)(asked);
    return;
  }
  answer(asked.client, error(wire::sqlstate::kSyntaxError, "unknown console command \"" + words + "\"",
                             "SHOW HELP lists the commands."));
}

void Console::ask_workers(const ClientId& client, ConsoleQuestion question, std::string argument,
                          std::function<std::string(Rows)> finish) {
  const std::uint64_t ticket = ++last_ticket_;
  pending_[ticket] = {client, control_.shared().workers.size(), {}, std::move(finish)};
  for (Worker* worker : control_.shared().workers)
    worker->post(ConsoleAsk{ticket, question, argument});
}

void Console::rows(ConsoleRows&& message) {
  const auto found = pending_.find(message.ticket);
  if (found == pending_.end()) return;
  Pending& pending = found->second;
  std::ranges::move(message.rows, std::back_inserter(pending.rows));
  if (--pending.left > 0) return;
  answer(pending.client, pending.finish(std::move(pending.rows)));
  pending_.erase(found);
}

void Console::show_help(const ConsoleCommand& asked) {
  constexpr Column columns[] = {{"command", text}, {"who", text}, {"what", text}};
  Rows rows;
  for (const Command& command : kCommands)
    rows.push_back({std::string(command.words), command.acts ? "admin.users" : "admin.stats_users",
                    std::string(command.help)});
  answer(asked.client, table(columns, rows));
}

void Console::show_version(const ConsoleCommand& asked) {
  constexpr Column columns[] = {{"version", text}};
  answer(asked.client, table(columns, {{"pgsluice " + std::string(kVersion)}}));
}

void Console::show_config(const ConsoleCommand& asked) {
  constexpr Column columns[] = {
      {"key", text}, {"value", text}, {"default", text}, {"changeable", text}};
  Rows rows;
  for (const conf::ConfigRow& row : conf::config_rows(control_.settings()))
    rows.push_back({row.key, row.value, row.default_value, row.changeable ? "yes" : "no"});
  answer(asked.client, table(columns, rows));
}

void Console::show_nodes(const ConsoleCommand& asked) {
  constexpr Column columns[] = {
      {"cluster", text},      {"node", text},        {"address", text},   {"role", text},
      {"health", text},       {"why", text},         {"accepted", text},  {"lag_ms", int8},
      {"serves_reads", text}, {"lsn", text},         {"timeline", int8},  {"in_flight", int8},
      {"latency_us", int8},   {"probe_us", int8},    {"probe_age_ms", int8}, {"system_id", text},
      {"version", text},      {"error", text}};
  const std::vector<ClusterReport> clusters = control_.monitor().clusters();
  Rows rows;
  for (const NodeReport& node : control_.monitor().report()) {
    const auto cluster = std::ranges::find(clusters, node.cluster, &ClusterReport::name);
    const bool accepted =
        cluster != clusters.end() && cluster->primary && *cluster->primary == node.id;
    const routing::NodeLoad& load = control_.shared().loads[routing::index(node.id)];
    const auto optional = [](const auto& value, auto&& print) {
      return value ? std::optional<std::string>(print(*value)) : std::nullopt;
    };
    rows.push_back(
        {node.cluster, node.address, node.ip, std::string(name(node.role)),
         std::string(name(node.health)), node.why,
         accepted ? "primary" : node.role == routing::NodeRole::primary ? "fenced" : "",
         optional(node.lag, [](conf::Millis lag) { return number(lag.count()); }),
         node.role == routing::NodeRole::replica
             ? (node.health == routing::NodeHealth::up && node.lag_ok ? "yes" : "no")
             : "",
         routing::print(node.position), number(static_cast<std::uint64_t>(node.timeline)),
         number(static_cast<std::int64_t>(load.in_flight.load(std::memory_order_relaxed))),
         number(static_cast<std::uint64_t>(load.latency_us.load(std::memory_order_relaxed))),
         optional(node.latency, [](conf::Micros time) { return number(time.count()); }),
         optional(node.last_success, [](conf::Millis age) { return number(age.count()); }),
         number(node.system_id), node.server_version, node.error});
  }
  answer(asked.client, table(columns, rows));
}

void Console::show_tenants(const ConsoleCommand& asked) {
  constexpr Column columns[] = {{"tenant", text},  {"rate", int8},   {"burst", int8},
                                {"concurrency", int8}, {"running", int8}, {"served", int8},
                                {"failed", int8},  {"p50_us", int8}, {"p99_us", int8}};
  std::vector<const metrics::WorkerMetrics*> workers;
  for (const Worker* worker : control_.shared().workers) workers.push_back(&worker->metrics());
  std::map<std::uint16_t, metrics::SeriesTotals> by_tenant;
  for (const metrics::SeriesTotals& series : metrics::totals(workers))
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
                    microseconds(totals.total.quantile(0.99))});
  }
  answer(asked.client, table(columns, rows));
}

void Console::show_stats(const ConsoleCommand& asked) {
  constexpr Column columns[] = {{"node", text},         {"role", text},          {"class", text},
                                {"tenant", text},       {"served", int8},        {"failed", int8},
                                {"p50_us", int8},       {"p99_us", int8},        {"server_p50_us", int8},
                                {"server_p99_us", int8}, {"queue_p99_us", int8}};
  std::vector<const metrics::WorkerMetrics*> workers;
  for (const Worker* worker : control_.shared().workers) workers.push_back(&worker->metrics());
  const std::vector<const pool::Tenant*> tenants = control_.shared().tenants.all();
  Rows rows;
  for (const metrics::SeriesTotals& series : metrics::totals(workers)) {
    const auto tenant = std::ranges::find(tenants, series.key.tenant, &pool::Tenant::number);
    std::string node;
    for (const NodeReport& report : control_.monitor().report())
      if (routing::index(report.id) == series.key.node) node = report.address;
    rows.push_back({node, std::string(name(static_cast<routing::NodeRole>(series.key.role))),
                    std::string(name(static_cast<routing::StatementClass>(series.key.kind))),
                    tenant == tenants.end() ? "other" : (*tenant)->name, number(series.served),
                    number(series.failed), microseconds(series.total.quantile(0.5)),
                    microseconds(series.total.quantile(0.99)),
                    microseconds(series.server.quantile(0.5)),
                    microseconds(series.server.quantile(0.99)),
                    microseconds(series.queue.quantile(0.99))});
  }
  answer(asked.client, table(columns, rows));
}

void Console::show_clients(const ConsoleCommand& asked) {
  ask_workers(asked.client, ConsoleQuestion::clients, {},
              [](Rows rows) { return table(kClientColumns, rows); });
}

void Console::show_servers(const ConsoleCommand& asked) {
  ask_workers(asked.client, ConsoleQuestion::servers, {},
              [](Rows rows) { return table(kServerColumns, rows); });
}

// The same pool in several workers is one pool: counts are added, the longest wait is the pool's.
void Console::show_pools(const ConsoleCommand& asked) {
  ask_workers(asked.client, ConsoleQuestion::pools, {}, [](Rows rows) {
    std::map<std::vector<std::optional<std::string>>, std::vector<std::optional<std::string>>> pools;
    for (auto& row : rows) {
      const std::vector<std::optional<std::string>> key(row.begin(), row.begin() + 4);
      const auto [found, fresh] = pools.try_emplace(key, row);
      if (fresh) continue;
      for (std::size_t column = 4; column <= 8; ++column)
        found->second[column] =
            std::to_string(std::stoll(*found->second[column]) + std::stoll(*row[column]));
      found->second[10] = std::to_string(std::max(std::stoll(*found->second[10]), std::stoll(*row[10])));
    }
    Rows joined;
    for (auto& [key, row] : pools) joined.push_back(std::move(row));
    return table(kPoolColumns, joined);
  });
}

void Console::reload(const ConsoleCommand& asked) {
  std::vector<std::string> notes;
  const conf::Status status = control_.reload(&notes);
  if (!status) {
    answer(asked.client,
           error("F0000", "nothing has changed: " + status.error().message));  // config_file_error
    return;
  }
  std::string out;
  for (const std::string& note : notes)
    wire::append_notice(out, {.severity = "NOTICE", .sqlstate = "00000", .message = note});
  wire::append_command_complete(out, "RELOAD");
  ready(out);
  answer(asked.client, std::move(out));
}

void Console::shutdown(const ConsoleCommand& asked) {
  std::string out;
  wire::append_command_complete(out, "SHUTDOWN");
  ready(out);
  answer(asked.client, std::move(out));
  control_.begin_drain("console user=" + asked.user);
}

}  // namespace proxy
