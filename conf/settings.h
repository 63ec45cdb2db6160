#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "conf/network.h"
#include "conf/units.h"
#include "conf/users_file.h"

namespace conf {

// When a server goes back to its pool: after each transaction, or when its client leaves.
enum class PoolMode : std::uint8_t { transaction, session };

// How a client proves who it is: with nothing, a password in one of three forms, or a certificate.
// `reject` is for rules.
enum class AuthMethod : std::uint8_t { trust, password, md5, scram_sha_256, cert, reject };

// By which way clients come that an [[auth.rule]] is for: tcp is tls or plain, local a unix socket.
enum class RuleConnection : std::uint8_t { any, local, tcp, tls, plain };

// What an [[auth.rule]] demands beside its method: no certificate; one that a known authority has
// signed; one that is also the user's.
enum class ClientCert : std::uint8_t { no, verify_ca, verify_full };

// What of a client's certificate names its user: the common name, the whole distinguished name
// (RFC 2253), or any of the alternative names (DNS, e-mail, URI).
enum class CertName : std::uint8_t { cn, dn, san };

// libpq's sslmode words. Toward clients: disable, allow (= prefer), prefer (TLS if the client
// asks), require, verify_ca and verify_full (a client certificate is demanded). Toward servers as
// in libpq.
enum class TlsMode : std::uint8_t { disable, allow, prefer, require, verify_ca, verify_full };

// How fresh a read must be: anything within max_lag; at least the session's own writes; always the
// primary. From the least fresh on: hints and rules are compared by this order.
enum class Consistency : std::uint8_t { eventual, monotonic, token, session, tenant, strong, primary };

// Where a transaction goes of which is not known that it only reads: to the primary, at its BEGIN, or with
// its first statement, when it may have become READ ONLY; or there at its first statement that is not
// a proven read, while those before run on replicas.
enum class Transactions : std::uint8_t { primary, hold, migrate };

// May a client make state that cannot be moved between servers?
enum class OnPin : std::uint8_t { allow, refuse };

// What happens to a read that no replica may serve when the primary's share for such reads is in use: it is
// served by a replica that is too late, or refused.
enum class SpillPolicy : std::uint8_t { stale, error };

// What names a client's tenant when it does not say `pgsluice.tenant` itself.
enum class TenantBy : std::uint8_t { user, database, application_name };

// How much a class of work matters, from the most to the least.
enum class Priority : std::uint8_t { critical, high, low, sheddable };
inline constexpr std::size_t kPriorities = 4;

enum class LogLevel : std::uint8_t { error, warning, info, debug };

// Where a node listens. `host` is a name, an address, or a folder (starts with '/') that holds the
// unix socket ".s.PGSQL.<port>".
struct NodeAddress {
  std::string host;
  std::uint16_t port = 5432;
  friend auto operator<=>(const NodeAddress&, const NodeAddress&) = default;
  // As it is written in the file; an IPv6 address in brackets.
  std::string name() const {
    const bool ipv6 = host.find(':') != host.npos && !host.starts_with('/');
    return (ipv6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
  }
};

// What a [database.NAME] or a [user.NAME] can say for itself instead of the option of that name
// (pool.size is pool_size). A user's value goes before its database's, and that before the option's.
struct PoolOverrides {
  std::optional<PoolMode> pool_mode;
  std::optional<OnPin> pool_on_pin;
  std::optional<Consistency> routing_consistency, routing_weakest_consistency, routing_strongest_consistency;
  std::optional<Transactions> routing_transactions;
  std::optional<std::int64_t> pool_size;
  std::optional<std::int64_t> pool_min_size;
  std::optional<Millis> pool_queue_timeout;
  std::optional<Millis> pool_query_timeout;
  std::optional<Millis> pool_transaction_timeout;
  std::optional<Millis> pool_idle_transaction_timeout;
  std::optional<Millis> pool_client_idle_timeout;
  std::optional<Millis> pool_server_idle_timeout;
  std::optional<Millis> pool_server_lifetime;
  // Limits of its own, beside each other: a login must fit into its database's and its user's.
  std::optional<std::int64_t> max_clients;
  std::optional<std::int64_t> max_servers;
};

// [cluster.NAME]: one primary and its replicas; which is which is discovered.
struct ClusterSettings {
  std::string name;
  std::vector<NodeAddress> servers;
  std::string monitor_user;
  std::string monitor_password;
  std::string monitor_database = "postgres";
  std::optional<std::int64_t> max_servers;  // to each of its nodes
};

// [node."host:port"]: more about one of a cluster's servers.
struct NodeSettings {
  std::string name;  // its address, as it stands in `servers`
  std::int64_t weight = 100;
  std::string zone;
  std::vector<std::string> groups;
};

// [database.NAME]: what clients may connect to. The name "*" serves every name not listed.
struct DatabaseSettings : PoolOverrides {
  std::string name;
  std::string cluster;
  std::string dbname;  // the database on the servers; empty: the name that the client gave
  std::vector<std::string> min_size_users;  // whose pools are filled before they have come
  std::string service_class;  // "": high
};

// [user.NAME]: secrets known here (plain, "md5...", or "SCRAM-SHA-256$..."), and overrides.
struct UserSettings : PoolOverrides {
  std::string name;
  std::string password;
  // Names of certificates that may log in as this user; empty: the user's own name.
  std::vector<std::string> certificates;
  std::string tenant;
  std::string service_class;  // "": what the database says
};

// [[auth.rule]]: how those may log in whom it fits. Empty lists fit everybody.
struct AuthRule {
  RuleConnection connection = RuleConnection::any;
  std::vector<Network> addresses;  // not empty: no unix socket
  std::vector<std::string> databases;
  std::vector<std::string> users;
  AuthMethod method = AuthMethod::reject;
  ClientCert clientcert = ClientCert::no;
};

// Where a [[route]] or a hint sends what could be served elsewhere too.
enum class RouteTarget : std::uint8_t { any, primary, replica };

// [[route]]: which statements, and what is done with them instead of what holds for all. Empty lists fit
// everything. In patterns * stands for any text.
struct RouteRule {
  std::string name;  // "": its number among the rules, "2"
  std::vector<std::string> users, databases, applications;  // patterns
  std::vector<std::string> tags;               // "key=pattern", of sqlcommenter tags: one of them
  std::vector<std::string> digests;            // as the console and the metrics print them
  std::vector<std::string> tables;             // patterns, "name" or "schema.name": one of those in the text
  std::vector<std::string> statement_classes;  // kStatementClasses
  // What is done.
  RouteTarget target = RouteTarget::any;
  std::optional<Consistency> consistency;
  std::optional<Millis> max_lag;
  std::optional<Millis> query_timeout;
  std::optional<Transactions> transactions;    // of a BEGIN
  std::string service_class;                   // "": as for others
  std::vector<std::string> groups;             // of nodes, for reads: one of them; empty: all
  std::int64_t rate = 0, concurrency = 0;      // of all statements that it fits; 0: no limit
  bool block = false;
  bool coalesce = false;        // identical reads in flight run once
  std::optional<Millis> cache;  // and their answer is kept for so long
};

// The limits of one tenant. Zero means no limit.
struct TenantLimits {
  std::int64_t rate = 0;  // statements per second, over the whole process
  // Statements admitted at once after a pause; 0: a tenth of a second's worth, at least 1.
  std::int64_t burst = 0;
  std::int64_t concurrency = 0;  // statements at servers (queued ones not counted) at any moment
  // Milliseconds of servers' time per second, paid when a statement has ended; how many at once after a
  // pause, 0: a second's worth.
  std::int64_t server_time = 0, server_burst = 0;
  std::int64_t weight = 1;       // its share of a full pool, beside the others'
  std::int64_t ceiling = 100;    // percent of a pool's servers that it may have at once
  std::int64_t replicas = 0;     // that it reads from; 0: all
  std::int64_t max_waiting = 0;  // statements of it that wait for a server
};

// Classes with sections of their own; those called like a priority are there without one.
inline constexpr std::size_t kMaxClasses = 48;

// [class.NAME]: how work of this class is treated where servers are short. What it does not say follows
// from its priority (pool/service_class.h).
struct ClassSettings {
  std::string name;
  std::optional<Priority> priority;  // of a class called like one: that one; else high
  std::optional<std::int64_t> weight;
  std::optional<Millis> target, interval, deadline;
  std::optional<std::int64_t> ceiling;  // percent
  std::vector<std::string> nodes;       // replicas of its own; empty: those of nobody
  bool overflow = true;                 // may use the others when none of its own can serve
};

// How TCP finds out that a peer has vanished. Zero leaves each to the system.
struct TcpSettings {
  Millis keepalive;           // silence before the first probe
  Millis keepalive_interval;  // between two probes
  std::int64_t keepalive_count = 0;  // probes without an answer until the connection is lost
  Millis user_timeout;        // the same for bytes that were sent and are not acknowledged
};

// Everything an operator can say, checked and complete. Immutable once loaded; a reload makes a new
// one. Scalar fields have no initialisers here: their defaults stand in the option table only
// (options.cc), and `load` fills every one.
struct Settings {
  std::string file;  // where it was loaded from

  std::int64_t workers;  // 0: one per core

  std::string listen_address;  // "" : no TCP; "*" : all addresses; several separated by commas
  std::int64_t listen_port;
  std::string listen_unix_socket_dir;  // "": none
  std::string listen_takeover_socket;  // "": no process can take over
  std::int64_t listen_backlog;
  std::int64_t listen_max_client_connections;
  std::int64_t listen_admin_reserved;
  // Zero: no limit. Of one database and one user: unless its section says more (max_clients).
  std::int64_t listen_clients_per_address;
  std::int64_t listen_clients_per_database;
  std::int64_t listen_clients_per_user;
  Millis listen_login_timeout;
  TcpSettings listen_tcp;

  AuthMethod auth_method;
  std::string auth_query_user;  // "": no auth_query
  std::string auth_query_password;
  std::string auth_query_database;
  std::string auth_query;
  Millis auth_query_ttl;
  std::string auth_file;  // names and secrets; "": none
  CertName auth_cert_name;
  bool auth_trust_anywhere;  // trust from addresses other than loopback and unix sockets

  PoolMode pool_mode;
  std::int64_t pool_size;
  std::int64_t pool_min_size;  // kept open once somebody has come; 0: none
  // Zero: no limit. On each node; unless the section of the cluster, database or user says more.
  std::int64_t pool_servers_per_node;
  std::int64_t pool_servers_per_database;
  std::int64_t pool_servers_per_user;
  Millis pool_queue_timeout;        // longest wait for a server; 57014 after it
  std::int64_t pool_max_waiting;    // statements that wait for a server, in all; 0: no limit
  Millis pool_query_timeout;        // 0: off; 57014 after it
  Millis pool_transaction_timeout;  // 0: off; 25P04 after it
  Millis pool_server_idle_timeout;
  Millis pool_server_lifetime;
  Millis pool_connect_timeout;
  std::int64_t pool_connect_parallel;  // connections being made at once, per node
  std::int64_t pool_connect_rate;      // and per second; 0: no limit
  Millis pool_cap_recovery;            // after 53300: one more server after each of these; 0: no cap
  Millis pool_connect_backoff_min;
  Millis pool_connect_backoff_max;
  std::int64_t pool_max_prepared_statements;  // per server connection (LRU)
  OnPin pool_on_pin;
  Millis pool_idle_transaction_timeout;       // 0: off
  Millis pool_client_idle_timeout;            // 0: off
  Millis pool_pause_timeout;                  // longest wait for a paused database; 0: for ever
  Millis pool_cleanup_timeout;                // cancel + drain of a vanished client's server
  Millis pool_cancel_timeout;                 // how long a cancel may be on its way to a node
  TcpSettings pool_tcp;

  Consistency routing_consistency;
  Consistency routing_weakest_consistency, routing_strongest_consistency;  // that a session may ask for
  Millis routing_floor_wait;  // for a replica to replay what a read must see; then the primary; 0: not at all
  // When a node is ejected, and how it comes back (routing/breaker.h).
  std::int64_t breaker_failures;         // 0: never for failures in a row
  std::int64_t breaker_failure_percent;
  std::int64_t breaker_failure_sample;
  Millis breaker_failure_window;
  std::int64_t breaker_latency_factor;   // 0: never for latency
  Millis breaker_open_min;
  Millis breaker_open_max;
  std::int64_t breaker_max_ejected;      // percent of a cluster's replicas; 0: nobody is ejected
  Millis breaker_slow_start;             // 0: full weight at once
  std::int64_t breaker_slow_start_percent;

  Millis routing_latency_decay;
  std::int64_t routing_limit_min;        // statements at once at a slow node; 0: no limit
  std::int64_t routing_limit_smoothing;
  std::int64_t routing_limit_tolerance;
  Millis routing_max_lag;
  Bytes routing_max_lag_bytes;         // 0: no limit
  std::int64_t routing_min_replicas;   // that serve however late they are
  Bytes routing_max_statement;         // longer text is not parsed and goes to the primary
  std::int64_t routing_cache_entries;  // digests remembered per worker
  std::int64_t routing_corrections;    // digests that replicas have refused, of all databases
  // What is a read though it is not proven to be one, and what is none although it looks like one.
  std::vector<std::string> routing_read_functions, routing_read_tables, routing_read_digests;
  std::vector<std::string> routing_primary_tables, routing_primary_digests;
  std::vector<std::string> routing_write_functions;
  std::vector<std::string> routing_pin_functions;  // that leave state in the session
  std::vector<std::string> routing_hints;          // kHints that clients may give
  bool routing_dry_run;  // everything goes to the primary; what would have been done is counted
  std::int64_t routing_retry_percent;  // of the statements may be reads run again; 0 with rate 0: none is
  std::int64_t routing_retry_rate;     // so many per second beside, over the whole process
  Transactions routing_transactions;
  Millis routing_primary_wait;  // how long a write waits for a primary to be accepted; then 57P03
  std::int64_t routing_primary_waiters;  // how many wait for it at once; 0: no limit

  SpillPolicy routing_spill_policy;
  std::int64_t routing_spill_percent;  // of the primary's servers; 100: no limit
  Millis routing_spill_wait;
  std::string routing_zone;     // where this proxy is; "": nowhere, and no zone is preferred
  std::string fleet_name;  // "": this process is alone
  Millis fleet_interval;
  Millis fleet_gone_after;

  Millis digest_auto_block;     // of a digest that was in flight at two crashes; 0: never
  Millis digest_order_expiry;   // of limits that the console sets without FOR
  std::int64_t digest_entries;  // digests that each worker keeps statistics of

  Millis probe_dns_ttl;
  Millis probe_interval;
  Millis probe_timeout;

  TenantBy tenant_by;
  TenantLimits tenant_default;  // rate, burst, concurrency of tenants without a section
  Millis tenant_rate_wait;      // longest time that a statement over the rate waits

  TlsMode tls_client_mode;
  std::string tls_client_cert, tls_client_key, tls_client_ca;
  TlsMode tls_server_mode;
  std::string tls_server_cert, tls_server_key, tls_server_ca;

  Bytes limits_client_buffer;  // unsent bytes kept for a client before its server is no longer read
  Bytes limits_batch;  // a batch larger than this is not collected: it streams to the primary
  Bytes limits_result_cache;  // answers that are kept for rules with `cache`, over all workers
  Bytes limits_shared_answer;  // a larger one is nobody else's
  std::int64_t limits_shared_followers;  // statements that wait for the answer of one
  Millis limits_shared_wait;  // so long; then they run by themselves
  Bytes limits_prepared;  // statements that one client may have prepared by name
  std::int64_t limits_wildcard_databases;  // names that [database."*"] serves at once
  Millis limits_loop_delay;  // a worker later than this is overloaded; 0: off
  Bytes limits_memory;       // of the process; 0: what the machine or the control group has
  std::int64_t limits_memory_high, limits_memory_full;  // percent of it
  std::int64_t limits_replicas_out;  // percent of a cluster's replicas; 0: off
  Millis limits_protection_hold;  // calm for so long before a level of self-protection is left
  Millis limits_slow_reader_timeout;  // a client that takes nothing for so long is cut off

  std::string metrics_address;
  std::int64_t metrics_port;  // 0: no exporter

  std::vector<std::string> admin_users;
  std::vector<std::string> admin_stats_users;
  Millis admin_stats_period;  // of the averages in SHOW STATS

  LogLevel log_level;
  bool log_connections;
  Millis log_slow_statement;  // 0: off

  Millis shutdown_timeout;  // how long a drain waits for transactions; then they are cut

  std::map<std::string, ClusterSettings> clusters;
  std::map<std::string, NodeSettings> nodes;  // by address, as NodeAddress::name() has it
  std::map<std::string, DatabaseSettings> databases;
  std::map<std::string, UserSettings> users;
  std::vector<AuthRule> auth_rules;  // the first that fits decides; none: auth_method for everybody
  std::vector<RouteRule> routes;     // the first that fits a statement decides
  UserSecrets file_secrets;          // what auth_file says
  // The user's secret that is known here, of [user.NAME] or else of auth.file; "": none.
  std::string_view secret_of(std::string_view user) const {
    if (const auto section = users.find(std::string(user));
        section != users.end() && !section->second.password.empty())
      return section->second.password;
    const auto line = file_secrets.find(user);
    return line == file_secrets.end() ? std::string_view() : line->second;
  }

  std::map<std::string, ClassSettings> classes;
  std::map<std::string, TenantLimits> tenants;  // complete: gaps are filled from tenant_default
};

}  // namespace conf
