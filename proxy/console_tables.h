#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "proxy/wire/backend.h"

// The columns of every table that the console shows. Those that PgBouncer (1.18 to 1.24) has too come
// first, under its names and in its order, where they mean the same; ours follow.
//
// To add a column: here, and at the same place of each row that console_tables.cc (or, for clients and
// servers, worker_console.cc) makes.
namespace proxy::columns {

using wire::Column;
using enum wire::ColumnType;

template <std::size_t A, std::size_t B>
constexpr std::array<Column, A + B> join(const Column (&first)[A], const Column (&second)[B]) {
  std::array<Column, A + B> all;
  std::copy_n(first, A, all.begin());
  std::copy_n(second, B, all.begin() + A);
  return all;
}

// What SHOW CLIENTS, SERVERS and SOCKETS begin with.
inline constexpr Column kConnection[] = {
    {"type", text},          {"user", text},       {"database", text},     {"state", text},
    {"addr", text},          {"port", int8},       {"local_addr", text},   {"local_port", int8},
    {"connect_time", text},  {"request_time", text}, {"wait", int8},       {"wait_us", int8},
    {"close_needed", int8},  {"ptr", text},        {"link", text},         {"remote_pid", int8},
    {"tls", text},           {"application_name", text}, {"prepared_statements", int8}, {"id", text}};
inline constexpr auto kClients = join(
    kConnection, {{"waiting_for", text}, {"tenant", text}, {"node", text}, {"pinned", text}, {"floor", text},
                  {"statements", int8}, {"age_seconds", int8}, {"quiet_seconds", int8}, {"worker", int8}});
inline constexpr auto kServers =
    join(kConnection, {{"node", text}, {"role", text}, {"transaction", text}, {"age_seconds", int8},
                       {"idle_seconds", int8}, {"worker", int8}});
inline constexpr auto kSockets =
    join(kConnection, {{"recv_pos", int8}, {"pkt_pos", int8}, {"pkt_remain", int8}, {"send_pos", int8},
                       {"send_remain", int8}, {"pkt_avail", int8}, {"send_avail", int8}, {"worker", int8}});

inline constexpr Column kPools[] = {
    {"database", text},      {"user", text},
    {"cl_active", int8},     {"cl_waiting", int8},
    {"cl_active_cancel_req", int8}, {"cl_waiting_cancel_req", int8},
    {"sv_active", int8},     {"sv_active_cancel", int8}, {"sv_being_canceled", int8},
    {"sv_idle", int8},       {"sv_used", int8},
    {"sv_tested", int8},     {"sv_login", int8},
    {"maxwait", int8},       {"maxwait_us", int8},
    {"pool_mode", text}};
inline constexpr Column kNodePools[] = {
    {"database", text},      {"user", text},        {"node", text},       {"role", text},
    {"cl_waiting", int8},    {"sv_active", int8},   {"sv_active_cancel", int8},
    {"sv_being_canceled", int8}, {"sv_idle", int8}, {"sv_tested", int8},  {"sv_login", int8},
    {"maxwait", int8},       {"maxwait_us", int8},  {"pool_size", int8},  {"pool_mode", text}};
inline constexpr Column kDatabases[] = {
    {"name", text},          {"host", text},          {"port", int8},
    {"database", text},      {"force_user", text},    {"pool_size", int8},
    {"min_pool_size", int8}, {"reserve_pool", int8},  {"pool_mode", text},
    {"max_connections", int8}, {"current_connections", int8},
    {"paused", int8},        {"disabled", int8},
    {"current_client_connections", int8}, {"cluster", text}, {"max_client_connections", int8}};
inline constexpr Column kUsers[] = {
    {"name", text},          {"pool_mode", text},     {"pool_size", int8},
    {"current_connections", int8}, {"current_client_connections", int8},
    {"tenant", text},        {"console", text},       {"min_pool_size", int8},
    {"max_user_connections", int8}, {"max_user_client_connections", int8}};
inline constexpr Column kLists[] = {{"list", text}, {"items", int8}};
inline constexpr Column kMem[] = {
    {"name", text}, {"size", int8}, {"used", int8}, {"free", int8}, {"memtotal", int8}};

inline constexpr Column kStats[] = {
    {"database", text},
    {"total_xact_count", int8}, {"total_query_count", int8}, {"total_received", int8},
    {"total_sent", int8},       {"total_xact_time", int8},   {"total_query_time", int8},
    {"total_wait_time", int8},
    {"avg_xact_count", int8},   {"avg_query_count", int8},   {"avg_recv", int8},
    {"avg_sent", int8},         {"avg_xact_time", int8},     {"avg_query_time", int8},
    {"avg_wait_time", int8},
    {"total_server_assignment_count", int8}, {"avg_server_assignment_count", int8}};
// Of SHOW STATS_TOTALS and SHOW STATS_AVERAGES.
inline constexpr Column kStatsPart[] = {
    {"database", text},   {"xact_count", int8}, {"query_count", int8},
    {"bytes_received", int8}, {"bytes_sent", int8}, {"xact_time", int8},
    {"query_time", int8}, {"wait_time", int8},  {"server_assignment_count", int8}};
inline constexpr Column kTotals[] = {{"name", text}, {"value", int8}};

inline constexpr Column kHelp[] = {{"command", text}, {"who", text}, {"what", text}};
inline constexpr Column kVersion[] = {{"version", text}};
inline constexpr Column kState[] = {{"key", text}, {"value", text}};
inline constexpr Column kConfig[] = {{"key", text}, {"value", text}, {"default", text}, {"changeable", text}};
inline constexpr Column kDnsHosts[] = {{"hostname", text}, {"ttl", int8}, {"addrs", text}};
inline constexpr Column kDnsZones[] = {{"zonename", text}, {"serial", int8}, {"count", int8}};
inline constexpr Column kPeers[] = {{"peer_id", int8}, {"host", text}, {"port", int8}, {"pool_size", int8}};
inline constexpr Column kPeerPools[] = {
    {"peer_id", int8}, {"cl_active_cancel_req", int8}, {"cl_waiting_cancel_req", int8},
    {"sv_active_cancel", int8}, {"sv_login", int8}};

inline constexpr Column kNodes[] = {
    {"cluster", text},      {"node", text},        {"address", text},      {"role", text},
    {"health", text},       {"why", text},         {"accepted", text},     {"lag_ms", int8},
    {"serves_reads", text}, {"lsn", text},         {"timeline", int8},     {"in_flight", int8},
    {"latency_us", int8},   {"probe_us", int8},    {"probe_age_ms", int8}, {"system_id", text},
    {"version", text},      {"error", text},       {"drained", text},      {"lag_bytes", int8},
    {"latency_percent", int8}, {"in_flight_limit", int8}, {"weight", int8}, {"slow_start_percent", int8},
    {"zone", text},         {"groups", text},      {"breaker", text},      {"late", text},
    {"others_active", int8}, {"crowded", text}};
inline constexpr Column kBreakers[] = {
    {"cluster", text},      {"node", text},        {"state", text},        {"reason", text},
    {"open_ms", int8},      {"failures_in_row", int8}, {"consecutive_failures", int8}, {"failure_rate", int8},
    {"latency", int8},      {"latency_percent", int8}, {"slow_start_percent", int8}};
inline constexpr Column kFleet[] = {
    {"cluster", text}, {"member", text}, {"self", text}, {"counted", text}, {"silent_ms", int8}};
inline constexpr Column kTenants[] = {
    {"tenant", text},      {"rate", int8},    {"burst", int8},  {"concurrency", int8}, {"running", int8},
    {"served", int8},      {"failed", int8},  {"p50_us", int8}, {"p99_us", int8},
    {"waiting", int8},     {"max_waiting", int8}, {"weight", int8}, {"ceiling", int8},
    {"server_time", int8}, {"server_burst", int8}, {"cost_us", int8}, {"replicas", int8}};
inline constexpr Column kClasses[] = {
    {"class", text},       {"priority", text},    {"weight", int8},  {"target_ms", int8},
    {"interval_ms", int8}, {"deadline_ms", int8}, {"ceiling", int8}, {"nodes", text},
    {"overflow", text},    {"served", text}};
inline constexpr Column kQueues[] = {
    {"database", text}, {"user", text},     {"node", text},        {"class", text},     {"tenant", text},
    {"waiting", int8},  {"maxwait_us", int8}, {"cost_us", int8}, {"overloaded", text}};
inline constexpr Column kStatements[] = {
    {"node", text},         {"role", text},   {"class", text},  {"tenant", text},
    {"served", int8},       {"failed", int8}, {"p50_us", int8}, {"p99_us", int8},
    {"server_p50_us", int8}, {"server_p99_us", int8}, {"queue_p99_us", int8}};
inline constexpr Column kDigests[] = {
    {"digest", text},  {"database", text}, {"statement", text}, {"calls", int8}, {"errors", int8},
    {"rows", int8},    {"shared", int8},   {"time_us", int8},   {"p50_us", int8}, {"p99_us", int8},
    {"tenants", text}};
inline constexpr Column kBlocks[] = {
    {"what", text},        {"name", text},    {"database", text}, {"limit", text}, {"origin", text},
    {"expires_in_s", int8}, {"running", int8}, {"refused", int8}};
inline constexpr Column kExplainRoute[] = {{"property", text}, {"value", text}};
inline constexpr Column kCorrections[] = {{"cluster", text},  {"database", text}, {"digest", text},
                                          {"sqlstate", text}, {"node", text},     {"refusals", int8},
                                          {"first_s", int8},  {"last_s", int8}};
inline constexpr Column kCache[] = {
    {"worker", int8}, {"entries", int8}, {"bytes", int8},   {"hits", int8}, {"misses", int8},
    {"behind", int8}, {"evicted", int8}, {"flights", int8}, {"followers", int8}};
inline constexpr Column kRoutes[] = {{"what", text}, {"reason", text}, {"count", int8}, {"rule_does", text}};
inline constexpr Column kReasons[] = {{"what", text}, {"reason", text}, {"count", int8}};

}  // namespace proxy::columns
