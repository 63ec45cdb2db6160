#include "conf/options.h"

#include <chrono>
#include <iterator>

namespace conf {
namespace {

using namespace std::chrono_literals;
using S = Settings;
using Int = Bounded<S, std::int64_t>;
using Time = Bounded<S, Millis>;
using Size = Bounded<S, Bytes>;
using Bool = Flag<S>;
using String = Text<S>;
using Password = Secret<S>;
using List = Names<S>;
using Auth = Choice<S, AuthMethod>;
using Certs = Choice<S, CertName>;
using Mode = Choice<S, PoolMode>;
using Tls = Choice<S, TlsMode>;
using Fresh = Choice<S, Consistency>;
using Moving = Choice<S, Transactions>;
using Pinning = Choice<S, OnPin>;
using Spill = Choice<S, SpillPolicy>;
using By = Choice<S, TenantBy>;
using Level = Choice<S, LogLevel>;

using enum Applies;
constexpr Bytes kMiB{1 << 20};
constexpr Bytes kGiB{1 << 30};
constexpr Millis kDay = 24h;
// What Linux takes (MAX_TCP_KEEPIDLE, MAX_TCP_KEEPCNT).
constexpr Millis kMaxKeepalive = 32'767s;
constexpr std::int64_t kMaxProbes = 127;

// Rates and bursts up to here keep the nanosecond arithmetic of the rate limiter exact.
constexpr std::size_t kTebibyte = std::size_t{1} << 40;
constexpr std::int64_t kMaxRate = 1'000'000'000;
constexpr std::int64_t kMaxConcurrency = 1'000'000;

constexpr std::string_view kAuthQuery =
    "SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin "
    "AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now())";

// Sorted by name; this is the order of SHOW CONFIG. To add an option: its field in settings.h, its
// row here, then render the sample and the reference anew (README.md says how). Ranges: a lower end
// of zero is only given where zero means something, and the sentence says what.
constexpr Option kOptions[] = {
    {"admin.stats_period", Time{&S::admin_stats_period, 60s, 100ms, kDay}, at_reload,
     "Over how long the averages of SHOW STATS are taken: longer is steadier and shows changes later."},
    {"admin.stats_users", List{&S::admin_stats_users}, at_reload,
     "Users who may read on the admin console (SHOW); nobody may by default."},
    {"admin.users", List{&S::admin_users}, at_reload,
     "Users who may do everything on the admin console; nobody may by default."},
    {"auth.cert_name", Certs{&S::auth_cert_name, CertName::cn}, at_reload,
     "What of a client's certificate is compared with the user: its common name, its distinguished "
     "name (as RFC 2253 writes it), or any of its alternative names."},
    {"auth.file", String{&S::auth_file, ""}, at_reload,
     "File of users and secrets in the format of PgBouncer's userlist.txt, read anew at every "
     "reload; a password in [user.NAME] goes before it, and auth.query comes after it."},
    {"auth.method", Auth{&S::auth_method, AuthMethod::scram_sha_256}, at_reload,
     "How clients prove who they are where there is no [[auth.rule]]."},
    {"auth.query", String{&S::auth_query, kAuthQuery}, at_reload,
     "Finds a user's name and secret in Postgres, given the name as $1; no row means no such "
     "user."},
    {"auth.query_database", String{&S::auth_query_database, "postgres"}, at_reload,
     "The database in which auth.query runs."},
    {"auth.query_password", Password{&S::auth_query_password}, at_reload,
     "Password of auth.query_user; empty where Postgres does not ask for one."},
    {"auth.query_ttl", Time{&S::auth_query_ttl, 60s, 0ms, kDay}, at_reload,
     "How long an answer of auth.query is remembered: longer asks Postgres less often and notices "
     "a changed password later; 0 asks at every login."},
    {"auth.query_user", String{&S::auth_query_user, ""}, at_reload,
     "The user that looks other users up with auth.query; empty looks nobody up, so that only "
     "[user.NAME] sections know secrets.",
     Presence::shown, "\"pgsluice\""},
    {"auth.trust_anywhere", Bool{&S::auth_trust_anywhere, false}, at_reload,
     "Allow method \"trust\" although clients can connect from other machines."},
    {"breaker.failure_percent", Int{&S::breaker_failure_percent, 50, 1, 100}, at_reload,
     "A replica is ejected when so many percent of the last breaker.failure_sample connections to it "
     "failed: more tolerates flakier nodes."},
    {"breaker.failure_sample", Int{&S::breaker_failure_sample, 20, 1, 100}, at_reload,
     "How many connections, all within breaker.failure_window, breaker.failure_percent is of: more is surer "
     "and later."},
    {"breaker.failure_window", Time{&S::breaker_failure_window, 10s, 100ms, 1h}, at_reload,
     "How long an attempt to connect counts for breaker.failure_percent: longer catches rarer failures."},
    {"breaker.failures", Int{&S::breaker_failures, 3, 0, 1'000}, at_reload,
     "A replica is ejected after so many connections in a row that failed: more tolerates longer "
     "disturbances; 0 never."},
    {"breaker.latency_factor", Int{&S::breaker_latency_factor, 5, 0, 1'000}, at_reload,
     "A replica is ejected when its latency, beside what its statements usually take, is so many times the "
     "median of its peers' for a second: more tolerates slower nodes; 0 never."},
    {"breaker.max_ejected", Int{&S::breaker_max_ejected, 50, 0, 100}, at_reload,
     "At most so many percent of a cluster's replicas are ejected or down before nobody more is "
     "ejected: more trusts breakers more; 0 ejects nobody."},
    {"breaker.open_max", Time{&S::breaker_open_max, 60s, 1ms, kDay}, at_reload,
     "The longest time for which a replica is ejected: longer spares clients a node that is sick again and "
     "again, and misses it longer."},
    {"breaker.open_min", Time{&S::breaker_open_min, 1s, 1ms, kDay}, at_reload,
     "How long a replica is ejected the first time, doubled each time after it; then one answered "
     "probe lets it in: longer is gentler and misses it longer."},
    {"breaker.slow_start", Time{&S::breaker_slow_start, 30s, 0ms, 1h}, at_reload,
     "How long a replica that was ejected or down takes to get its whole share of reads again: longer spares "
     "cold caches; 0 gives it at once."},
    {"breaker.slow_start_percent", Int{&S::breaker_slow_start_percent, 10, 1, 100}, at_reload,
     "Percent of its share with which it begins: more comes back faster and onto colder caches."},
    {"digest.auto_block", Time{&S::digest_auto_block, 5min, 0ms, kDay}, at_reload,
     "How long a statement is refused that was at work at two crashes of a server within a minute: "
     "longer keeps servers up and its users without it; 0 never."},
    {"digest.entries", Int{&S::digest_entries, 1'000, 0, 60'000}, at_reload,
     "Statement shapes of which each worker keeps statistics (SHOW DIGESTS), the least recently used "
     "making way: more remembers rarer ones and takes up to 1.8 kB each; 0 keeps none."},
    {"digest.order_expiry", Time{&S::digest_order_expiry, 15min, 1ms, 30 * kDay}, at_reload,
     "How long an order of the console on a digest or a tenant holds that does not say FOR how long: longer "
     "outlasts longer incidents, and being forgotten."},
    {"fleet.gone_after", Time{&S::fleet_gone_after, 3s, 200ms, 1min}, at_reload,
     "How long another process of the fleet may be silent before its part is divided among the others: "
     "longer forgives stalls and leaves the part of a vanished one unused for longer."},
    {"fleet.interval", Time{&S::fleet_interval, 1s, 100ms, 10s}, at_reload,
     "How often the primary is asked which processes of the fleet are there: longer asks less and follows "
     "changes later."},
    {"fleet.name", String{&S::fleet_name, ""}, at_reload,
     "Processes with the same name (up to 16 letters, digits, - and _) in front of the same primary divide "
     "servers and limits of tenants among them; empty: this process takes all for itself.",
     Presence::shown, "\"shop\""},
    {"limits.batch", Size{&S::limits_batch, kMiB, {4 << 10}, kGiB}, at_reload,
     "How much of one batch (everything up to Sync) is collected to be classified: more lets "
     "larger batches go to replicas and takes more memory; a larger batch streams to the primary."},
    {"limits.client_buffer", Size{&S::limits_client_buffer, {256 << 10}, {4 << 10}, kGiB},
     at_reload,
     "Unsent bytes kept for a client before its server is no longer read: more frees servers from "
     "slow clients sooner and takes more memory."},
    {"limits.loop_delay", Time{&S::limits_loop_delay, 20ms, 0ms, 1min}, at_reload,
     "A worker that comes this late to its turn raises the level of self-protection, more with twice and five "
     "times of it; with five times eventual reads may also be twice as late as otherwise: longer protects "
     "later; 0 never."},
    {"limits.memory", Size{&S::limits_memory, {0}, {0}, {kTebibyte}}, at_reload,
     "Memory that self-protection measures the process by: more protects later; 0 is what the machine or its "
     "control group has."},
    {"limits.memory_full", Int{&S::limits_memory_full, 90, 1, 100}, at_reload,
     "Percent of limits.memory at which only critical statements are served and nobody new is let in: more "
     "protects later."},
    {"limits.memory_high", Int{&S::limits_memory_high, 70, 1, 100}, at_reload,
     "Percent of limits.memory at which neither low nor sheddable statements are served: more protects later."},
    {"limits.prepared", Size{&S::limits_prepared, {16 << 20}, {16 << 10}, kGiB}, at_reload,
     "Statements that one client may have prepared by name, in bytes of their texts and names and 256 for "
     "each; one more is refused with 54000: more suits larger applications and takes more memory."},
    {"limits.protection_hold", Time{&S::limits_protection_hold, 2s, 100ms, 1h}, at_reload,
     "How long a level of self-protection is kept after its reason has gone: longer changes less often."},
    {"limits.replicas_out", Int{&S::limits_replicas_out, 50, 0, 100}, at_reload,
     "Percent of a cluster's replicas, two at least, that are down or ejected when sheddable statements are not "
     "served and nothing is run a second time: more gives that up later; 0 never does."},
    {"limits.result_cache", Size{&S::limits_result_cache, {16 << 20}, {0}, kGiB}, at_reload,
     "Answers that are kept for as long as the cache of a [[route]] rule says, with what they belong to, over "
     "all workers; the least recently used make way: more keeps more of them; 0 keeps none."},
    {"limits.shared_answer", Size{&S::limits_shared_answer, kMiB, {1 << 10}, {64 << 20}}, at_reload,
     "The largest answer that coalesce and cache of a [[route]] rule give to others: more shares larger ones "
     "and takes more memory. Who waited for a larger one runs its statement itself."},
    {"limits.shared_followers", Int{&S::limits_shared_followers, 1'000, 1, 1'000'000}, at_reload,
     "Statements that wait for the answer of one in flight: more of them run once where very many ask the "
     "same, and take longer to be answered."},
    {"limits.shared_wait", Time{&S::limits_shared_wait, 1s, 1ms, 1h}, at_reload,
     "How long a statement waits for the answer of another; then it runs by itself: longer runs slow "
     "statements once."},
    {"limits.slow_reader_timeout", Time{&S::limits_slow_reader_timeout, 60s, 10ms, kDay}, at_reload,
     "How long a client may take nothing of its answer before it is cut off: longer is kinder to "
     "clients that stall and holds their servers longer."},
    {"limits.wildcard_databases", Int{&S::limits_wildcard_databases, 1'000, 1, 1'000'000}, at_reload,
     "Database names that [database.\"*\"] serves at once, over all workers: more lets clients use more "
     "and takes more memory; one more is refused with 53300 once those without clients are forgotten."},
    {"listen.address", String{&S::listen_address, "127.0.0.1"}, at_start,
     "Where clients connect over TCP: a numeric address or localhost, several separated by commas, "
     "\"*\" for all addresses, empty for no TCP."},
    {"listen.admin_reserved", Int{&S::listen_admin_reserved, 8, 0, 1'000}, at_reload,
     "Connections out of max_client_connections that only the admin console may use: more leaves "
     "fewer to clients."},
    {"listen.backlog", Int{&S::listen_backlog, 4'096, 1, 65'535}, at_start,
     "Connections that the kernel holds until they are accepted: more survives a larger burst of "
     "logins (the kernel's somaxconn caps it)."},
    {"listen.clients_per_address", Int{&S::listen_clients_per_address, 0, 0, 1'000'000}, at_reload,
     "Clients at once from one address (all unix sockets are one); the next is refused with 53300 "
     "before it says who it is: more lets one machine take a larger part; 0 sets no limit."},
    {"listen.clients_per_database", Int{&S::listen_clients_per_database, 0, 0, 1'000'000},
     at_reload,
     "Clients at once in one database; the next is refused with 53300: more lets one database take "
     "a larger part; 0 sets no limit."},
    {"listen.clients_per_user", Int{&S::listen_clients_per_user, 0, 0, 1'000'000}, at_reload,
     "Clients at once of one user; the next is refused with 53300: more lets one user take a larger "
     "part; 0 sets no limit."},
    {"listen.login_timeout", Time{&S::listen_login_timeout, 10s, 10ms, 1h}, at_reload,
     "How long a client may take to log in: longer is kinder to slow networks and lets strangers "
     "hold connections longer."},
    {"listen.max_client_connections", Int{&S::listen_max_client_connections, 10'000, 1, 1'000'000},
     at_reload,
     "Clients at once; one more is refused with 53300: more needs memory and file descriptors."},
    {"listen.port", Int{&S::listen_port, 6432, 1, 65'535}, at_start,
     "The TCP port, and the number in the unix socket's name."},
    {"listen.takeover_socket", String{&S::listen_takeover_socket, ""}, at_start,
     "Path of the socket through which `pgsluice FILE --takeover` gets the listening sockets of the running "
     "process; empty: a restart closes them."},
    {"listen.tcp_keepalive", Time{{&S::listen_tcp, &TcpSettings::keepalive}, 60s, 0ms, kMaxKeepalive},
     at_reload,
     "Silence before TCP asks whether a client is still there, of connections made from then on: "
     "longer notices vanished clients later; 0 leaves it to the system."},
    {"listen.tcp_keepalive_count",
     Int{{&S::listen_tcp, &TcpSettings::keepalive_count}, 0, 0, kMaxProbes}, at_reload,
     "Such questions without an answer after which a client is gone: more forgives longer outages "
     "of the network; 0 leaves it to the system."},
    {"listen.tcp_keepalive_interval",
     Time{{&S::listen_tcp, &TcpSettings::keepalive_interval}, 10s, 0ms, kMaxKeepalive}, at_reload,
     "Time between two such questions: longer notices vanished clients later; 0 leaves it to the "
     "system."},
    {"listen.tcp_user_timeout",
     Time{{&S::listen_tcp, &TcpSettings::user_timeout}, 0ms, 0ms, kDay}, at_reload,
     "How long bytes sent to a client may stay unacknowledged before it is gone: longer forgives "
     "longer outages of the network; 0 leaves it to the system."},
    {"listen.unix_socket_dir", String{&S::listen_unix_socket_dir, ""}, at_start,
     "Folder of the unix socket .s.PGSQL.PORT; empty for none."},
    {"log.connections", Bool{&S::log_connections, false}, at_reload,
     "Log a line when a client logs in and when it leaves."},
    {"log.level", Level{&S::log_level, LogLevel::info}, at_reload,
     "The least important lines that are logged."},
    {"log.slow_statement", Time{&S::log_slow_statement, 0ms, 0ms, kDay}, at_reload,
     "Log statements that take at least this long: longer logs fewer; 0 logs none."},
    {"metrics.address", String{&S::metrics_address, "127.0.0.1"}, at_start,
     "The address on which /metrics is served."},
    {"metrics.port", Int{&S::metrics_port, 9'632, 0, 65'535}, at_start,
     "The port on which /metrics is served; 0 serves none."},
    {"pool.cancel_timeout", Time{&S::pool_cancel_timeout, 5s, 10ms, 10min}, at_reload,
     "How long a cancel may be on its way to a node, and a server may go on after one for "
     "pool.query_timeout, before that server is closed: longer saves servers of slow nodes and "
     "keeps those that hang."},
    {"pool.cap_recovery", Time{&S::pool_cap_recovery, 1s, 0ms, 1h}, at_reload,
     "A node that has no room (53300) caps the pool at nine tenths of the servers that it has; after each of "
     "these it may have one more: longer asks a full node less often; 0 sets no cap."},
    {"pool.cleanup_timeout", Time{&S::pool_cleanup_timeout, 5s, 1ms, 1h}, at_reload,
     "How long a server may take to be cleaned behind a client that left (ROLLBACK, DISCARD ALL) before it "
     "is closed, and how long a client that has closed its half is still answered: longer saves more "
     "connections and holds busy ones longer."},
    {"pool.client_idle_timeout", Time{&S::pool_client_idle_timeout, 0ms, 0ms, 30 * kDay}, at_reload,
     "A client that is silent outside a transaction for this long is disconnected: longer keeps "
     "more idle clients; 0 never."},
    {"pool.connect_backoff_max", Time{&S::pool_connect_backoff_max, 5s, 1ms, 1h}, at_reload,
     "The longest pause between attempts to connect to a failing node: longer spares it and "
     "notices its return later."},
    {"pool.connect_backoff_min", Time{&S::pool_connect_backoff_min, 50ms, 1ms, 1h}, at_reload,
     "The pause after the first failed attempt, doubled after each further one: longer spares a "
     "failing node and delays recovery from a single failure."},
    {"pool.connect_parallel", Int{&S::pool_connect_parallel, 4, 1, 1'000}, at_reload,
     "Connections made at once, per node and over all workers: more fills a pool faster after an outage "
     "and hits the node harder."},
    {"pool.connect_rate", Int{&S::pool_connect_rate, 50, 0, 100'000}, at_reload,
     "Connections begun per second, per node and over all workers: more fills pools faster and hits "
     "the node harder; 0 sets no limit."},
    {"pool.connect_timeout", Time{&S::pool_connect_timeout, 5s, 10ms, 10min}, at_reload,
     "How long connecting and logging in to a node may take: longer waits for slow nodes instead "
     "of trying again."},
    {"pool.idle_transaction_timeout", Time{&S::pool_idle_transaction_timeout, 0ms, 0ms, kDay},
     at_reload,
     "A client that is silent inside a transaction for this long is disconnected: longer lets it "
     "hold its server and locks longer; 0 never."},
    {"pool.max_prepared_statements", Int{&S::pool_max_prepared_statements, 500, 1, 100'000},
     at_reload,
     "Prepared statements kept on each server connection: more prepares again less often and takes "
     "more of the server's memory."},
    {"pool.max_waiting", Int{&S::pool_max_waiting, 0, 0, 10'000'000}, at_reload,
     "Statements that may wait for a server at once, in the whole process; one more is refused with 53000: "
     "more rides out larger peaks; 0 sets no limit beside that of clients."},
    {"pool.min_size", Int{&S::pool_min_size, 0, 0, 10'000}, at_reload,
     "Server connections that a pool is kept at from its first client on, though nobody uses them "
     "(at most pool.size): more are ready for a sudden load and take more of max_connections; 0 "
     "keeps none."},
    {"pool.mode", Mode{&S::pool_mode, PoolMode::transaction}, at_start,
     "When a server goes back to its pool: after each transaction, or when its client leaves."},
    {"pool.on_pin", Pinning{&S::pool_on_pin, OnPin::allow}, at_reload,
     "What happens to a statement that makes state which cannot be moved between servers (temporary table, "
     "LISTEN, advisory lock ...): allowed, and its client keeps its server while the state exists; or refused "
     "with 0A000. Session mode allows everything."},
    {"pool.pause_timeout", Time{&S::pool_pause_timeout, 2min, 0ms, kDay}, at_reload,
     "How long a statement waits while its database is paused, answered with 57014, and how long PAUSE and "
     "DRAIN wait for servers that are in use: longer outlasts slower maintenance; 0 waits for ever."},
    {"pool.query_timeout", Time{&S::pool_query_timeout, 0ms, 0ms, 30 * kDay}, at_reload,
     "A statement that runs for this long is canceled and answered with 57014: longer lets slower "
     "statements finish and hold their servers; 0 never."},
    {"pool.queue_timeout", Time{&S::pool_queue_timeout, 10s, 1ms, kDay}, at_reload,
     "The longest wait for a server, answered with 57014: longer rides out longer peaks and tells "
     "clients later."},
    {"pool.server_idle_timeout", Time{&S::pool_server_idle_timeout, 10min, 1ms, 30 * kDay},
     at_reload,
     "An unused server connection is closed after this: longer keeps more of them ready."},
    {"pool.server_lifetime", Time{&S::pool_server_lifetime, 1h, 1ms, 30 * kDay}, at_reload,
     "A server connection is closed when it is this old and free: longer reconnects less often and "
     "keeps grown backends longer."},
    {"pool.servers_per_database", Int{&S::pool_servers_per_database, 0, 0, 100'000}, at_reload,
     "Server connections of one database on each node, over all its users: more runs more at once "
     "and takes more of max_connections; 0 sets no limit."},
    {"pool.servers_per_node", Int{&S::pool_servers_per_node, 0, 0, 100'000}, at_reload,
     "Server connections to each node, over all pools (probes have their own): more runs more at "
     "once and takes more of max_connections; 0 sets no limit."},
    {"pool.servers_per_user", Int{&S::pool_servers_per_user, 0, 0, 100'000}, at_reload,
     "Server connections of one user on each node, over all its databases: more runs more at once "
     "and takes more of max_connections; 0 sets no limit."},
    {"pool.size", Int{&S::pool_size, 20, 1, 10'000}, at_reload,
     "Server connections per node, database and user, over all workers: more runs more statements "
     "at once and takes more of max_connections."},
    {"pool.tcp_keepalive", Time{{&S::pool_tcp, &TcpSettings::keepalive}, 60s, 0ms, kMaxKeepalive},
     at_reload,
     "Silence before TCP asks whether a server is still there, of connections made from then on: "
     "longer notices vanished nodes later; 0 leaves it to the system."},
    {"pool.tcp_keepalive_count",
     Int{{&S::pool_tcp, &TcpSettings::keepalive_count}, 0, 0, kMaxProbes}, at_reload,
     "Such questions without an answer after which a server is gone: more forgives longer outages "
     "of the network; 0 leaves it to the system."},
    {"pool.tcp_keepalive_interval",
     Time{{&S::pool_tcp, &TcpSettings::keepalive_interval}, 10s, 0ms, kMaxKeepalive}, at_reload,
     "Time between two such questions: longer notices vanished nodes later; 0 leaves it to the "
     "system."},
    {"pool.tcp_user_timeout", Time{{&S::pool_tcp, &TcpSettings::user_timeout}, 0ms, 0ms, kDay},
     at_reload,
     "How long bytes sent to a server may stay unacknowledged before it is gone: longer forgives "
     "longer outages of the network; 0 leaves it to the system."},
    {"pool.transaction_timeout", Time{&S::pool_transaction_timeout, 0ms, 0ms, 30 * kDay}, at_reload,
     "A client whose transaction, or single statement, takes this long is disconnected with 25P04: "
     "longer lets it hold its server and locks longer; 0 never."},
    {"probe.dns_ttl", Time{&S::probe_dns_ttl, 30s, 1s, 1h}, at_reload,
     "How old the addresses of a node's name may be before it is looked up again (it is at once when the node "
     "fails): longer asks less and goes on longer with an address that the name has lost."},
    {"probe.interval", Time{&S::probe_interval, 500ms, 10ms, 1min}, at_reload,
     "Pause between two questions to a node about its role and lag: longer asks less and notices "
     "failure, promotion and lag later."},
    {"probe.timeout", Time{&S::probe_timeout, 1s, 10ms, 1min}, at_reload,
     "How long a node may take to answer a probe before it counts as failed: longer forgives slow "
     "nodes and notices dead ones later."},
    {"routing.cache_entries", Int{&S::routing_cache_entries, 10'000, 1, 10'000'000}, at_reload,
     "Statement shapes whose class each worker remembers: more parses less often and takes more "
     "memory."},
    {"routing.consistency", Fresh{&S::routing_consistency, Consistency::session}, at_reload,
     "How fresh reads are: anything within max_lag (eventual); never older than what the session has read "
     "(monotonic), or than a token that it brings (token), or than its own writes (session), or than its "
     "tenant's (tenant), or than anything committed (strong); or from the primary."},
    {"routing.corrections", Int{&S::routing_corrections, 1000, 0, 100'000}, at_reload,
     "Statement shapes that go to the primary because a replica has refused one of them as no read: more "
     "remembers more, 0 remembers none."},
    {"routing.dry_run", Bool{&S::routing_dry_run, false}, at_reload,
     "Everything goes to the primary and no rule blocks or ends anything; where statements would have gone is "
     "counted and shown (SHOW ROUTES)."},
    {"routing.floor_wait", Time{&S::routing_floor_wait, 20ms, 0ms, 10s}, at_reload,
     "How long a read waits for a replica to replay what it must see, before the primary serves it: longer "
     "spares the primary and makes such reads slower; 0 does not wait."},
    {"routing.hints", List{&S::routing_hints, {"consistency, route, tenant, class"}}, at_reload,
     "What clients may say themselves, by start-up option, SET or comment: pgsluice.consistency, "
     "pgsluice.route, pgsluice.tenant, pgsluice.class. What is not listed is not heard."},
    {"routing.latency_decay", Time{&S::routing_latency_decay, 10s, 100ms, 1h}, at_reload,
     "In how long a replica's latency, while nobody confirms it, comes two thirds of the way back to normal: "
     "longer shuns a node that was slow for longer."},
    {"routing.limit_min", Int{&S::routing_limit_min, 4, 0, 10'000}, at_reload,
     "Statements at once that a replica may still have, however slow it has become, before others are "
     "preferred whatever they cost: more relieves it less; 0 sets no such limit."},
    {"routing.limit_smoothing", Int{&S::routing_limit_smoothing, 20, 1, 100}, at_reload,
     "Percent of the way to the limit that fits its latency that a replica's limit goes every 100 ms: more "
     "follows faster and jumps more."},
    {"routing.limit_tolerance", Int{&S::routing_limit_tolerance, 200, 100, 10'000}, at_reload,
     "The latency, in percent of the usual, from which a replica's limit of statements falls: more tolerates "
     "slower answers."},
    {"routing.max_lag", Time{&S::routing_max_lag, 10s, 1ms, kDay}, at_reload,
     "A replica further behind than this gets no new reads: longer tolerates staler answers and "
     "keeps more replicas serving."},
    {"routing.max_lag_bytes", Size{&S::routing_max_lag_bytes, {0}, {0}, {std::int64_t{1} << 50}}, at_reload,
     "A replica that has more log than this still to replay gets no new reads: more tolerates staler "
     "answers; 0 sets no limit."},
    {"routing.max_statement", Size{&S::routing_max_statement, {64 << 10}, {0}, {16 << 20}},
     at_reload,
     "A longer statement is not parsed and goes to the primary: more lets larger reads go to "
     "replicas and costs more parsing; 0 parses none."},
    {"routing.min_replicas", Int{&S::routing_min_replicas, 0, 0, 1'000}, at_reload,
     "Replicas that go on serving when all are further behind than max_lag and max_lag_bytes allow, the "
     "least late first: more spares the primary and gives staler answers; 0 keeps to the limits."},
    {"routing.pin_functions", List{&S::routing_pin_functions}, at_reload,
     "Functions that leave state in the session, by name or schema.name: a client that calls one keeps its "
     "server until DISCARD ALL."},
    {"routing.primary_digests", List{&S::routing_primary_digests}, at_reload,
     "Digests (16 hexadecimal digits) whose statements are no reads, whatever they look like."},
    {"routing.primary_tables", List{&S::routing_primary_tables}, at_reload,
     "Tables and views that are only read on the primary, by name or schema.name."},
    {"routing.primary_wait", Time{&S::routing_primary_wait, 5s, 0ms, 10min}, at_reload,
     "How long a write waits while no primary is accepted, answered with 57P03: longer rides out "
     "slower promotions; 0 refuses at once."},
    {"routing.primary_waiters", Int{&S::routing_primary_waiters, 1'000, 0, 10'000'000}, at_reload,
     "Statements that may wait for a primary at once; one more is refused with 57P03: more loses fewer in a "
     "promotion and hits the new primary with more at once; 0 sets no limit."},
    {"routing.read_digests", List{&S::routing_read_digests}, at_reload,
     "Digests whose statements are reads although they name functions or tables that are none; not those "
     "that write by their own words."},
    {"routing.read_functions", List{&S::routing_read_functions}, at_reload,
     "Functions that count as reads although Postgres calls them volatile, by name or "
     "schema.name."},
    {"routing.read_tables", List{&S::routing_read_tables}, at_reload,
     "Foreign tables, sequences and views that may be read on replicas although the catalogue speaks against "
     "it, by name or schema.name."},
    {"routing.retry_percent", Int{&S::routing_retry_percent, 10, 0, 100}, at_reload,
     "Reads lost with a replica, or refused by it, are run again on another node, up to this share of all "
     "statements: more heals worse failures and lets retries add more load; 0 leaves routing.retry_rate alone."},
    {"routing.retry_rate", Int{&S::routing_retry_rate, 10, 0, 1'000'000}, at_reload,
     "Reads per second that may be run again beside routing.retry_percent; what is not used in ten seconds "
     "adds up: more heals where statements are few; 0 for both runs nothing again."},
    {"routing.spill_percent", Int{&S::routing_spill_percent, 10, 1, 100}, at_reload,
     "How many percent of its pool's servers on the primary, one at least, reads may use that no replica "
     "can serve: more answers them sooner and leaves less to writes; 100 sets no limit."},
    {"routing.spill_policy", Spill{&S::routing_spill_policy, SpillPolicy::stale}, at_reload,
     "What such a read gets that has waited for routing.spill_wait: an answer of a replica that is too late "
     "(never one without the session's own writes; without such a replica it waits on), or an error "
     "(53000)."},
    {"routing.spill_wait", Time{&S::routing_spill_wait, 100ms, 0ms, 10min}, at_reload,
     "How long such a read waits for its part of the primary: longer gives fewer stale answers and "
     "errors."},
    {"routing.strongest_consistency", Fresh{&S::routing_strongest_consistency, Consistency::primary}, at_reload,
     "The strongest routing.consistency that a session may ask for with pgsluice.consistency: a weaker one "
     "spares the primary."},
    {"routing.transactions", Moving{&S::routing_transactions, Transactions::primary}, at_reload,
     "Where transactions go that are not READ ONLY: to the primary at once, or with their first statement "
     "(hold), so that SET TRANSACTION READ ONLY still counts; or there at their first statement that is not a "
     "proven read (migrate), while those before it run on replicas, each by itself; README.md says what "
     "that changes."},
    {"routing.weakest_consistency", Fresh{&S::routing_weakest_consistency, Consistency::eventual}, at_reload,
     "The weakest routing.consistency that a session may ask for: a stronger one keeps applications from reading "
     "what is old."},
    {"routing.write_functions", List{&S::routing_write_functions}, at_reload,
     "Functions that count as writes although Postgres calls them harmless, by name or "
     "schema.name."},
    {"routing.zone", String{&S::routing_zone, ""}, at_reload,
     "The zone in which this proxy is: reads go to nodes of the same zone while these have room; empty prefers "
     "none."},
    {"shutdown_timeout", Time{&S::shutdown_timeout, 60s, 0ms, kDay}, at_reload,
     "How long a shutdown waits for transactions to end before it cuts them: longer loses fewer "
     "and stops later."},
    {"tenant.burst", Int{{&S::tenant_default, &TenantLimits::burst}, 0, 0, kMaxRate}, at_reload,
     "Statements that a tenant may send at once after a pause: more forgives peaks above its rate; "
     "0 is a tenth of a second's worth."},
    {"tenant.by", By{&S::tenant_by, TenantBy::user}, at_reload,
     "What names a client's tenant when it does not say pgsluice.tenant itself."},
    {"tenant.ceiling", Int{{&S::tenant_default, &TenantLimits::ceiling}, 100, 1, 100}, at_reload,
     "Percent of a pool's servers that one tenant may have at once: more leaves less to others that come "
     "suddenly."},
    {"tenant.concurrency",
     Int{{&S::tenant_default, &TenantLimits::concurrency}, 0, 0, kMaxConcurrency}, at_reload,
     "Statements of one tenant at servers at any moment: more lets it take a larger share; 0 sets "
     "no limit."},
    {"tenant.max_waiting",
     Int{{&S::tenant_default, &TenantLimits::max_waiting}, 0, 0, 1'000'000}, at_reload,
     "Statements of one tenant that may wait for a server at once; one more is refused with 53000: more rides "
     "out larger peaks; 0 sets no limit."},
    {"tenant.rate", Int{{&S::tenant_default, &TenantLimits::rate}, 0, 0, kMaxRate}, at_reload,
     "Statements per second of one tenant, over the whole process: more lets it take a larger "
     "share; 0 sets no limit."},
    {"tenant.rate_wait", Time{&S::tenant_rate_wait, 100ms, 0ms, 1min}, at_reload,
     "The longest that a statement over its tenant's rate waits, answered with 53400: longer "
     "smooths more and refuses later; 0 refuses at once."},
    {"tenant.replicas", Int{{&S::tenant_default, &TenantLimits::replicas}, 0, 0, 64}, at_reload,
     "Replicas of a cluster that one tenant reads from, by its name always the same: more spreads its reads further, "
     "fewer keep what it breaks from the others; 0 is all."},
    {"tenant.server_burst",
     Int{{&S::tenant_default, &TenantLimits::server_burst}, 0, 0, 1'000'000'000}, at_reload,
     "Milliseconds of servers' time that a tenant may use at once after a pause: more forgives peaks; 0 is a "
     "second's worth."},
    {"tenant.server_time",
     Int{{&S::tenant_default, &TenantLimits::server_time}, 0, 0, 1'000'000}, at_reload,
     "Milliseconds of servers' time per second for one tenant, over the whole process: its next statements wait "
     "for what the last ones took; more lets it take a larger share; 0 sets no limit."},
    {"tenant.weight", Int{{&S::tenant_default, &TenantLimits::weight}, 1, 1, 1'000}, at_reload,
     "A tenant's share of a pool where statements wait, beside the weights of the others: more gives it more of "
     "the servers' time."},
    {"tls.client.ca", String{&S::tls_client_ca, ""}, at_reload,
     "File of the authorities that must have signed a client's certificate."},
    {"tls.client.cert", String{&S::tls_client_cert, ""}, at_reload,
     "File of the certificate chain that clients are shown."},
    {"tls.client.key", String{&S::tls_client_key, ""}, at_reload,
     "File of the private key of tls.client.cert."},
    {"tls.client.mode", Tls{&S::tls_client_mode, TlsMode::disable}, at_reload,
     "TLS toward clients: never, where they ask, always, or always with a client certificate (the "
     "verify words)."},
    {"tls.server.ca", String{&S::tls_server_ca, ""}, at_reload,
     "File of the authorities that must have signed a node's certificate."},
    {"tls.server.cert", String{&S::tls_server_cert, ""}, at_reload,
     "File of the certificate that nodes are shown; empty shows none."},
    {"tls.server.key", String{&S::tls_server_key, ""}, at_reload,
     "File of the private key of tls.server.cert."},
    {"tls.server.mode", Tls{&S::tls_server_mode, TlsMode::prefer}, at_reload,
     "TLS toward nodes, with the words and meanings of libpq's sslmode."},
    {"workers", Int{&S::workers, 0, 0, 1'024}, at_start,
     "Threads that serve clients: more use more cores; 0 is one per core."},
};

constexpr bool sorted_by_name() {
  for (std::size_t i = 1; i < std::size(kOptions); ++i)
    if (!(kOptions[i - 1].name < kOptions[i].name)) return false;
  return true;
}
static_assert(sorted_by_name());

constexpr bool defaults_in_range() {
  for (const Option& option : kOptions) {
    const bool fits = std::visit(
        [](const auto& kind) {
          if constexpr (requires { kind.fallback < kind.min; })
            return kind.min <= kind.fallback && kind.fallback <= kind.max;
          else
            return true;
        },
        option.value);
    if (!fits) return false;
  }
  return true;
}
static_assert(defaults_in_range());

}  // namespace

std::span<const Option> options() { return kOptions; }

const Option* find_option(std::string_view name) {
  for (const Option& option : kOptions)
    if (option.name == name) return &option;
  return nullptr;
}

Settings default_settings() {
  Settings settings{};
  for (const Option& option : kOptions) set_default(option, settings);
  return settings;
}

std::vector<std::string> changes_needing_restart(const Settings& running, const Settings& loaded) {
  std::vector<std::string> names;
  for (const Option& option : kOptions)
    if (option.applies == Applies::at_start && differs(option, running, loaded))
      names.emplace_back(option.name);
  return names;
}

}  // namespace conf
