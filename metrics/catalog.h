#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "metrics/worker_metrics.h"

// Every metric there is, one row each. The exporter, the console, the reference and the golden test
// loop over these tables; nothing else knows a metric's name.
//
// Names: prefix pgsluice_, then what is counted, units last (_seconds, _bytes), _total on counters.
// To add a metric: a field in worker_metrics.h and a row here; then run the golden test with
// PGSLUICE_UPDATE_GOLDEN=1 and commit the line that it adds. README.md explains when to add one.
namespace metrics {

// Turns a small integer into a label's text. "" means that there is no such value. Called on HTTP
// threads, so what it reads must be immutable or locked.
using NameOf = std::function<std::string(std::size_t)>;

// The words of the layers above, given at wiring. For an array of counters every index below
// CounterArray::kCapacity is asked for: those with a word are shown even at zero, so that a rate
// starts with the first event; those without are shown by number once they count something.
struct LabelNames {
  NameOf node, role, kind, tenant;
  NameOf refusal, route, read_choice, spill, pin, client_close, server_close, server_limit, class_reason,
      retry, retry_refusal, rule, shared_by;
};

struct CounterRow {
  std::string_view name, help;
  Counter WorkerMetrics::*field;
  Counter DatabaseCounters::*of_databases = nullptr;  // counted there for clients that have a database
};
inline constexpr CounterRow kCounters[] = {
    {"pgsluice_clients_accepted_total", "Client connections accepted.",
     &WorkerMetrics::clients_accepted},
    {"pgsluice_clients_authenticated_total", "Clients that proved who they are.",
     &WorkerMetrics::clients_authenticated},
    {"pgsluice_clients_closed_total", "Client connections ended; client_closes_total says why.",
     &WorkerMetrics::clients_closed},
    {"pgsluice_login_failures_total", "Clients turned away at login.",
     &WorkerMetrics::login_failures},
    {"pgsluice_logins_deferred_total",
     "Steps of logins that waited for their worker's next turn, because logins had had their share of this one.",
     &WorkerMetrics::logins_deferred},
    {"pgsluice_servers_opened_total", "Server connections that reached ReadyForQuery after login.",
     &WorkerMetrics::servers_opened},
    {"pgsluice_servers_closed_total", "Server connections ended; server_closes_total says why.",
     &WorkerMetrics::servers_closed},
    {"pgsluice_server_connect_failures_total", "Attempts to connect to a server that failed.",
     &WorkerMetrics::server_connect_failures},
    {"pgsluice_server_handovers_in_total", "Server connections taken over from another worker.",
     &WorkerMetrics::server_handovers_in},
    {"pgsluice_server_handovers_out_total", "Server connections given to a starving worker.",
     &WorkerMetrics::server_handovers_out},
    {"pgsluice_client_received_bytes_total", "Bytes read from clients, before TLS.",
     &WorkerMetrics::client_bytes_received, &DatabaseCounters::received},
    {"pgsluice_client_sent_bytes_total", "Bytes written to clients, before TLS.",
     &WorkerMetrics::client_bytes_sent, &DatabaseCounters::sent},
    {"pgsluice_server_received_bytes_total", "Bytes read from servers, before TLS.",
     &WorkerMetrics::server_bytes_received},
    {"pgsluice_server_sent_bytes_total", "Bytes written to servers, before TLS.",
     &WorkerMetrics::server_bytes_sent},
    {"pgsluice_transactions_total", "Transactions ended, those of one statement included.",
     &WorkerMetrics::transactions},
    {"pgsluice_cancels_received_total", "Cancel requests from clients, with any key.",
     &WorkerMetrics::cancels_received},
    {"pgsluice_cancels_forwarded_total", "Cancel requests passed on to a server.",
     &WorkerMetrics::cancels_forwarded},
    {"pgsluice_prepared_parses_injected_total",
     "Parse messages sent because the server borrowed did not know the client's statement.",
     &WorkerMetrics::prepared_parses_injected},
    {"pgsluice_settings_replays_total",
     "Times that a client's session settings were set on the server borrowed.",
     &WorkerMetrics::settings_replays},
    {"pgsluice_floor_waits_total",
     "Reads that waited until a replica had replayed what they must see, and found one.",
     &WorkerMetrics::floor_waits},
    {"pgsluice_floor_waits_in_vain_total",
     "Reads that waited for that as long as they may, and went to the primary.",
     &WorkerMetrics::floor_waits_in_vain},
    {"pgsluice_floors_lost_total",
     "Positions that sessions had seen and that were lost with an old primary.",
     &WorkerMetrics::floors_lost},
    {"pgsluice_classifier_hits_total", "Statements whose class was remembered.",
     &WorkerMetrics::classifier_hits},
    {"pgsluice_classifier_misses_total", "Statements that had to be parsed.",
     &WorkerMetrics::classifier_misses},
    {"pgsluice_digest_evictions_total",
     "Statement shapes whose statistics were forgotten for others (digest.entries).",
     &WorkerMetrics::digest_evictions},
    {"pgsluice_reads_refused_total", "Statements thought to be reads that a replica refused as none.",
     &WorkerMetrics::reads_refused},
    {"pgsluice_loop_turns_total", "Turns of the workers' event loops.",
     &WorkerMetrics::loop_turns},
    {"pgsluice_series_overflows_total",
     "Statements, or the callers of a cached one, whose labels read other because there are too "
     "many combinations.",
     &WorkerMetrics::series_overflows},
};

struct GaugeRow {
  std::string_view name, help;
  Gauge WorkerMetrics::*field;
};
inline constexpr GaugeRow kGauges[] = {
    {"pgsluice_clients_idle", "Clients connected that run nothing.", &WorkerMetrics::clients_idle},
    {"pgsluice_clients_active", "Clients that hold a server.", &WorkerMetrics::clients_active},
    {"pgsluice_clients_waiting", "Clients that wait for admission or a server.",
     &WorkerMetrics::clients_waiting},
    {"pgsluice_servers_idle", "Server connections that wait in their pool.",
     &WorkerMetrics::servers_idle},
    {"pgsluice_servers_active", "Server connections lent to a client.",
     &WorkerMetrics::servers_active},
    {"pgsluice_servers_connecting", "Server connections being made.",
     &WorkerMetrics::servers_connecting},
};

struct ReasonRow {
  std::string_view name, help;
  CounterArray WorkerMetrics::*field;
  NameOf LabelNames::*words;
  std::string_view label = "reason";
};
inline constexpr ReasonRow kReasons[] = {
    {"pgsluice_refusals_total", "Statements and logins refused by pgsluice, by why.",
     &WorkerMetrics::refusals, &LabelNames::refusal},
    {"pgsluice_routes_total", "Batches routed, by why they went where they went.",
     &WorkerMetrics::routes, &LabelNames::route},
    {"pgsluice_read_choices_total",
     "Choices of a replica for a read, by why one was found or why the primary had to serve.",
     &WorkerMetrics::read_choices, &LabelNames::read_choice},
    {"pgsluice_spills_total",
     "Times that a read which no replica could serve was looked at, by what became of it.",
     &WorkerMetrics::spills, &LabelNames::spill},
    {"pgsluice_pins_total", "Clients tied to their server, by the state that cannot be moved.",
     &WorkerMetrics::pins, &LabelNames::pin},
    {"pgsluice_shared_answers_total",
     "Statements answered without a server, by whose answer it was: of one in flight, or kept.",
     &WorkerMetrics::shared_answers, &LabelNames::shared_by},
    {"pgsluice_unpins_total",
     "Clients tied no longer, by the state that their server has proved gone.",
     &WorkerMetrics::unpins, &LabelNames::pin},
    {"pgsluice_retries_served_total",
     "Reads run again on another node and answered there, by why the first had failed.",
     &WorkerMetrics::retries_served, &LabelNames::retry},
    {"pgsluice_retries_failed_total",
     "Reads run again on another node that failed there too, by why the first had failed.",
     &WorkerMetrics::retries_failed, &LabelNames::retry},
    {"pgsluice_retry_refusals_total",
     "Reads that could have been run again and were not, by why: their error was passed on.",
     &WorkerMetrics::retry_refusals, &LabelNames::retry_refusal},
    {"pgsluice_client_closes_total", "Client connections ended, by why.",
     &WorkerMetrics::client_closes, &LabelNames::client_close},
    {"pgsluice_server_closes_total", "Server connections ended, by why.",
     &WorkerMetrics::server_closes, &LabelNames::server_close},
    {"pgsluice_server_limits_total",
     "Times that a server was wanted and not opened, by the limit that was in the way.",
     &WorkerMetrics::server_limits, &LabelNames::server_limit},
    {"pgsluice_class_reasons_total", "Statements classified, by why they have their class.",
     &WorkerMetrics::class_reasons, &LabelNames::class_reason},
    {"pgsluice_dry_routes_total",
     "Batches that routing.dry_run has sent to the primary, by why they would have gone where they would.",
     &WorkerMetrics::dry_routes, &LabelNames::route},
    {"pgsluice_rules_total", "Batches that a [[route]] rule fitted, by its name.", &WorkerMetrics::rules,
     &LabelNames::rule, "rule"},
};

// Statement metrics have the labels node, role, class, tenant.
struct HistogramRow {
  std::string_view name, help;
  HistogramSnapshot SeriesTotals::*field;
};
inline constexpr HistogramRow kHistograms[] = {
    {"pgsluice_statement_duration_seconds",
     "Time from a statement's arrival to its ReadyForQuery, waiting included.",
     &SeriesTotals::total},
    {"pgsluice_statement_server_seconds", "The part of it that a server took.",
     &SeriesTotals::server},
    {"pgsluice_statement_queue_seconds",
     "The part of it spent waiting for admission and for a server.", &SeriesTotals::queue},
};

// From the fine histogram: within 1.6 % of the exact quantile, over everything since the start.
struct QuantileRow {
  std::string_view name, help;
  HistogramSnapshot SeriesTotals::*field;
  double q;
};
inline constexpr QuantileRow kQuantiles[] = {
    {"pgsluice_statement_duration_p50_seconds",
     "Median statement duration since the start, within 1.6 %.", &SeriesTotals::total, 0.50},
    {"pgsluice_statement_duration_p99_seconds",
     "99th percentile of statement durations since the start, within 1.6 %.",
     &SeriesTotals::total, 0.99},
};

// One family; each row is a value of its further label `outcome`.
inline constexpr std::string_view kStatementsName = "pgsluice_statements_total";
inline constexpr std::string_view kStatementsHelp =
    "Statements ended: served, or failed with an ErrorResponse of Postgres or pgsluice.";
struct OutcomeRow {
  std::string_view outcome;
  std::uint64_t SeriesTotals::*field;
};
inline constexpr OutcomeRow kOutcomes[] = {
    {"served", &SeriesTotals::served},
    {"failed", &SeriesTotals::failed},
};

// The upper bounds of the exposed histogram buckets in seconds: six steps per decade from 50 us to
// 60 s, so that the bounds that objectives are written in (1, 5, 10, 100, 500 ms) are among them.
// A quantile that Prometheus computes is right to within its step, a factor of 1.3 to 1.7 (2 above
// 30 s); those of the quantile rows above are not affected.
inline constexpr double kBoundsSeconds[] = {
    0.00005, 0.00007, 0.0001, 0.00015, 0.0002, 0.0003, 0.0005, 0.0007, 0.001, 0.0015, 0.002, 0.003,
    0.005,   0.007,   0.01,   0.015,   0.02,   0.03,   0.05,   0.07,   0.1,   0.15,   0.2,   0.3,
    0.5,     0.7,     1,      1.5,     2,      3,      5,      7,      10,    15,     20,    30,
    60};

// What the control thread knows and no worker counts. It fills them in through Source::extra; a
// family that it leaves out is shown empty.
// To add one: put it here and in kControlRows, in the same order.
enum class ControlMetric : std::uint8_t {
  build_info,
  config_reload_timestamp_seconds,
  config_reload_success,
  workers,
  fleet_members,
  corrections,
  node_up,
  node_role,
  node_lag_seconds,
  node_lag_bytes,
  node_in_flight,
  samples_sent,
  node_in_flight_limit,
  node_latency_ratio,
  node_weight,
  breaker_state,
  breaker_openings,
  pool_size,
  pool_servers,
  pool_in_use,
  pool_waiting,
  tenant_rate_limit,
  tenant_concurrency_limit,
  tenant_running,
  tenant_server_time_limit,
  tenant_waiting,
  protection_level,
  held_writes,
  count_
};

struct ControlRow {
  ControlMetric metric;
  std::string_view name, help;
  std::array<std::string_view, 3> labels;  // "" where there are fewer
};
inline constexpr ControlRow kControlRows[] = {
    {ControlMetric::build_info, "pgsluice_build_info", "Always 1; the label is the version.",
     {"version"}},
    {ControlMetric::config_reload_timestamp_seconds, "pgsluice_config_reload_timestamp_seconds",
     "When the configuration in use was loaded, in seconds since 1970.", {}},
    {ControlMetric::config_reload_success, "pgsluice_config_reload_success",
     "1 if the last reload was accepted, 0 if it was refused and the old one kept.", {}},
    {ControlMetric::workers, "pgsluice_workers", "Worker threads.", {}},
    {ControlMetric::fleet_members, "pgsluice_fleet_members",
     "Processes among which limits are divided, this one too; 1 without fleet.name.", {}},
    {ControlMetric::corrections, "pgsluice_corrections",
     "Digests that go to the primary because a replica has refused them.", {}},
    {ControlMetric::node_up, "pgsluice_node_up", "1 if the last probe reached the node, else 0.",
     {"cluster", "node"}},
    {ControlMetric::node_role, "pgsluice_node_role", "Always 1; the label role is what it is now.",
     {"cluster", "node", "role"}},
    {ControlMetric::node_lag_seconds, "pgsluice_node_lag_seconds",
     "How old a replica's data is; absent while unknown.", {"cluster", "node"}},
    {ControlMetric::node_lag_bytes, "pgsluice_node_lag_bytes",
     "WAL that a replica has yet to replay; absent while unknown.", {"cluster", "node"}},
    {ControlMetric::node_in_flight, "pgsluice_node_in_flight", "Statements at the node now.",
     {"cluster", "node"}},
    {ControlMetric::samples_sent, "pgsluice_samples_sent",
     "Times that the primary has been asked for its position.", {"cluster"}},
    {ControlMetric::node_in_flight_limit, "pgsluice_node_in_flight_limit",
     "Statements beyond which reads go to other nodes while they can; 0 is no limit.", {"cluster", "node"}},
    {ControlMetric::node_latency_ratio, "pgsluice_node_latency_ratio",
     "Latency of the node beside what its statements usually take; 1 is as usual.", {"cluster", "node"}},
    {ControlMetric::node_weight, "pgsluice_node_weight", "Weight that the node has now, slow start included.",
     {"cluster", "node"}},
    {ControlMetric::breaker_state, "pgsluice_breaker_state",
     "1 for the state in which the node's breaker is, 0 for the others.", {"cluster", "node", "state"}},
    {ControlMetric::breaker_openings, "pgsluice_breaker_openings",
     "Times that the node's breaker has opened since the start, by why.", {"cluster", "node", "reason"}},
    {ControlMetric::pool_size, "pgsluice_pool_size", "Server connections that the pool may have.",
     {"node", "database", "user"}},
    {ControlMetric::pool_servers, "pgsluice_pool_servers", "Server connections that it has.",
     {"node", "database", "user"}},
    {ControlMetric::pool_in_use, "pgsluice_pool_in_use", "Of these, lent to clients.",
     {"node", "database", "user"}},
    {ControlMetric::pool_waiting, "pgsluice_pool_waiting",
     "Clients that wait for one of its servers.",
     {"node", "database", "user"}},
    {ControlMetric::tenant_rate_limit, "pgsluice_tenant_rate_limit",
     "Statements per second that the tenant may run; 0 is no limit.", {"tenant"}},
    {ControlMetric::tenant_concurrency_limit, "pgsluice_tenant_concurrency_limit",
     "Statements that the tenant may have at servers at once; 0 is no limit.", {"tenant"}},
    {ControlMetric::tenant_running, "pgsluice_tenant_running",
     "Statements that the tenant has at servers now.", {"tenant"}},
    {ControlMetric::tenant_server_time_limit, "pgsluice_tenant_server_time_limit",
     "Seconds of servers' time per second that the tenant may use; 0 is no limit.", {"tenant"}},
    {ControlMetric::tenant_waiting, "pgsluice_tenant_waiting",
     "Statements of the tenant that wait for a server now.", {"tenant"}},
    {ControlMetric::protection_level, "pgsluice_protection_level",
     "How much the process gives up to go on living, 0 to 4; the label is why.", {"reason"}},
    {ControlMetric::held_writes, "pgsluice_held_writes", "Statements that wait for a primary now.", {}},
};

// What the control thread says about one ControlMetric. All are gauges.
struct GaugeSample {
  std::vector<std::string> labels;  // values, as many as the row has labels and in its order
  double value = 0;
};
struct GaugeFamily {
  ControlMetric metric;
  std::vector<GaugeSample> samples;
};

// One line of the list of all metrics, for the reference, the console and the golden test.
struct MetricInfo {
  std::string_view name;
  std::string_view type;  // "counter", "gauge", "histogram"
  std::string labels;     // "node,role,class,tenant"; "" when there are none
  std::string_view help;
};
std::vector<MetricInfo> all_metrics();

}  // namespace metrics
