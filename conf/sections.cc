#include "conf/sections.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace conf {
namespace {

using enum Applies;
using enum Presence;

using namespace std::chrono_literals;
constexpr Millis kDay = 24h;

// What stands in [database.NAME] and in [user.NAME]. The ranges are those of the options in
// options.cc; a zero says for one section what it says there for all.
template <class O>
constexpr Row<O> kOverrides[] = {
    {"pool_mode", OwnChoice<O, PoolMode>{&O::pool_mode}, at_reload, "Its own pool.mode.", optional,
     "\"session\""},
    {"pool_on_pin", OwnChoice<O, OnPin>{&O::pool_on_pin}, at_reload, "Its own pool.on_pin.", optional,
     "\"refuse\""},
    {"routing_consistency", OwnChoice<O, Consistency>{&O::routing_consistency}, at_reload,
     "Its own routing.consistency.", optional, "\"session\""},
    {"routing_strongest_consistency", OwnChoice<O, Consistency>{&O::routing_strongest_consistency}, at_reload,
     "Its own routing.strongest_consistency.", optional, "\"tenant\""},
    {"routing_weakest_consistency", OwnChoice<O, Consistency>{&O::routing_weakest_consistency}, at_reload,
     "Its own routing.weakest_consistency.", optional, "\"session\""},
    {"routing_transactions", OwnChoice<O, Transactions>{&O::routing_transactions}, at_reload,
     "Its own routing.transactions.", optional, "\"migrate\""},
    {"pool_size", Own<O, std::int64_t>{&O::pool_size, 1, 10'000}, at_reload, "Its own pool.size.",
     optional, "20"},
    {"pool_min_size", Own<O, std::int64_t>{&O::pool_min_size, 0, 10'000}, at_reload,
     "Its own pool.min_size.", optional, "5"},
    {"pool_queue_timeout", Own<O, Millis>{&O::pool_queue_timeout, 1ms, kDay}, at_reload,
     "Its own pool.queue_timeout.", optional, "\"2s\""},
    {"pool_query_timeout", Own<O, Millis>{&O::pool_query_timeout, 0ms, 30 * kDay}, at_reload,
     "Its own pool.query_timeout.", optional, "\"30s\""},
    {"pool_transaction_timeout", Own<O, Millis>{&O::pool_transaction_timeout, 0ms, 30 * kDay},
     at_reload, "Its own pool.transaction_timeout.", optional, "\"5min\""},
    {"pool_idle_transaction_timeout", Own<O, Millis>{&O::pool_idle_transaction_timeout, 0ms, kDay},
     at_reload, "Its own pool.idle_transaction_timeout.", optional, "\"1min\""},
    {"pool_client_idle_timeout", Own<O, Millis>{&O::pool_client_idle_timeout, 0ms, 30 * kDay},
     at_reload, "Its own pool.client_idle_timeout.", optional, "\"1h\""},
    {"pool_server_idle_timeout", Own<O, Millis>{&O::pool_server_idle_timeout, 1ms, 30 * kDay},
     at_reload, "Its own pool.server_idle_timeout.", optional, "\"1min\""},
    {"pool_server_lifetime", Own<O, Millis>{&O::pool_server_lifetime, 1ms, 30 * kDay}, at_reload,
     "Its own pool.server_lifetime.", optional, "\"10min\""},
};

template <class O, std::size_t own>
constexpr auto with_overrides(const Row<O> (&rows)[own]) {
  return [&]<std::size_t... i, std::size_t... j>(std::index_sequence<i...>,
                                                 std::index_sequence<j...>) {
    return std::array<Row<O>, sizeof...(i) + sizeof...(j)>{rows[i]..., kOverrides<O>[j]...};
  }(std::make_index_sequence<own>(), std::make_index_sequence<std::size(kOverrides<O>)>());
}

using C = ClusterSettings;
constexpr Row<C> kCluster[] = {
    {"servers", Servers<C>{&C::servers}, at_reload,
     "All nodes of the cluster as \"host:port\", \"[IPv6]:port\" or \"/folder:port\"; which one is "
     "the primary is discovered.",
     required, "[\"10.0.0.1:5432\", \"10.0.0.2:5432\", \"10.0.0.3:5432\"]"},
    {"monitor_user", Text<C>{&C::monitor_user, ""}, at_reload,
     "The user that probes the nodes and reads the catalogue of functions.", required,
     "\"pgsluice\""},
    {"monitor_password", Secret<C>{&C::monitor_password}, at_reload,
     "Password of monitor_user; empty where Postgres does not ask for one.", optional,
     "{ env = \"PGSLUICE_MONITOR_PASSWORD\" }"},
    {"monitor_database", Text<C>{&C::monitor_database, "postgres"}, at_reload,
     "The database to which probes connect."},
    {"max_servers", Own<C, std::int64_t>{&C::max_servers, 0, 100'000}, at_reload,
     "Its own pool.servers_per_node.", optional, "100"},
};

using N = NodeSettings;
constexpr Row<N> kNode[] = {
    {"weight", Bounded<N, std::int64_t>{&N::weight, 100, 0, 1'000}, at_reload,
     "Its share of the reads, beside the other nodes' weights; 0 gives it none."},
    {"zone", Text<N>{&N::zone, ""}, at_reload,
     "The zone in which it is; a proxy prefers nodes of its own (routing.zone).", optional, "\"a\""},
    {"groups", Names<N>{&N::groups}, at_reload,
     "Groups of nodes that it belongs to, for whatever names a group.", optional, "[\"reports\"]"},
};

using D = DatabaseSettings;
constexpr auto kDatabase = with_overrides<D>({
    {"cluster", Text<D>{&D::cluster, ""}, at_reload, "The [cluster.NAME] that serves it.", required,
     "\"main\""},
    {"dbname", Text<D>{&D::dbname, ""}, at_reload,
     "Its name on the servers; empty is the name that the client gave."},
    {"max_clients", Own<D, std::int64_t>{&D::max_clients, 0, 1'000'000}, at_reload,
     "Its own listen.clients_per_database.", optional, "500"},
    {"max_servers", Own<D, std::int64_t>{&D::max_servers, 0, 100'000}, at_reload,
     "Its own pool.servers_per_database.", optional, "50"},
    {"min_size_users", Names<D>{&D::min_size_users}, at_reload,
     "Users whose pools in this database are filled up to pool.min_size from the start; those of "
     "others are once they have come."},
    {"class", Text<D>{&D::service_class, ""}, at_reload,
     "The class of its statements, critical, high, low, sheddable or that of a [class.NAME]; empty is "
     "high.",
     optional, "\"low\""},
});

using U = UserSettings;
constexpr auto kUser = with_overrides<U>({
    {"password", Secret<U>{&U::password}, at_reload,
     "The user's secret: plain, or as Postgres stores it (\"md5...\", \"SCRAM-SHA-256$...\"); "
     "empty looks it up with auth.query.",
     optional, "{ file = \"/etc/pgsluice/app.password\" }"},
    {"certificates", Names<U>{&U::certificates}, at_reload,
     "Names of certificates (auth.cert_name) that may log in as this user; without any it is the "
     "user's own name.",
     optional, "[\"app.example.com\"]"},
    {"tenant", Text<U>{&U::tenant, ""}, at_reload,
     "The tenant of this user's clients; empty is what tenant.by says.", optional, "\"shop\""},
    {"class", Text<U>{&U::service_class, ""}, at_reload,
     "The class of this user's statements; empty is what the database says.", optional, "\"low\""},
    {"max_clients", Own<U, std::int64_t>{&U::max_clients, 0, 1'000'000}, at_reload,
     "Its own listen.clients_per_user.", optional, "100"},
    {"max_servers", Own<U, std::int64_t>{&U::max_servers, 0, 100'000}, at_reload,
     "Its own pool.servers_per_user.", optional, "50"},
});

// The ranges are those of tenant.rate and its like in options.cc.
using T = TenantLimits;
using Limit = Bounded<T, std::int64_t>;
constexpr Row<T> kTenant[] = {
    {"rate", Limit{&T::rate, 0, 0, 1'000'000'000}, at_reload,
     "Statements per second, over the whole process; 0 sets no limit.", optional, "500"},
    {"burst", Limit{&T::burst, 0, 0, 1'000'000'000}, at_reload,
     "Statements at once after a pause; 0 is a tenth of a second's worth.", optional, "100"},
    {"concurrency", Limit{&T::concurrency, 0, 0, 1'000'000}, at_reload,
     "Statements at servers at any moment; 0 sets no limit.", optional, "10"},
    {"server_time", Limit{&T::server_time, 0, 0, 1'000'000}, at_reload,
     "Milliseconds of servers' time per second; 0 sets no limit.", optional, "2000"},
    {"server_burst", Limit{&T::server_burst, 0, 0, 1'000'000'000}, at_reload,
     "Milliseconds of servers' time at once after a pause; 0 is a second's worth.", optional, "5000"},
    {"weight", Limit{&T::weight, 1, 1, 1'000}, at_reload,
     "Its share of a pool where statements wait, beside the weights of the others.", optional, "2"},
    {"ceiling", Limit{&T::ceiling, 100, 1, 100}, at_reload,
     "Percent of a pool's servers that it may have at once.", optional, "50"},
    {"replicas", Limit{&T::replicas, 0, 0, 64}, at_reload,
     "Replicas of a cluster that it reads from; 0 is all.", optional, "3"},
    {"max_waiting", Limit{&T::max_waiting, 0, 0, 1'000'000}, at_reload,
     "Statements that may wait for a server at once; 0 sets no limit.", optional, "200"},
};

using K = ClassSettings;
constexpr Row<K> kClass[] = {
    {"priority", OwnChoice<K, Priority>{&K::priority}, at_reload,
     "What its statements are beside others: critical ones go before all, sheddable ones go first when "
     "there is too much; a class called like a priority has that one, others are high.",
     optional, "\"low\""},
    {"weight", Own<K, std::int64_t>{&K::weight, 1, 1'000}, at_reload,
     "Its share of the servers' time beside other classes, where statements wait; 16, 4 and 1 for high, low "
     "and sheddable (critical goes before).",
     optional, "4"},
    {"target", Own<K, Millis>{&K::target, 0ms, 1min}, at_reload,
     "When no statement of it has waited less than this for an interval, those that have waited twice as long "
     "are refused with 53000: longer lets queues stand; 0 never. 0 for critical and high, 100 ms for low, 20 "
     "ms for sheddable.",
     optional, "\"100ms\""},
    {"interval", Own<K, Millis>{&K::interval, 1ms, 1min}, at_reload,
     "Over which the shortest wait is looked for: longer forgives longer peaks. 100 ms for critical and high, 1 "
     "s for low, 200 ms for sheddable.",
     optional, "\"1s\""},
    {"deadline", Own<K, Millis>{&K::deadline, 0ms, kDay}, at_reload,
     "The longest that a statement of it waits for a server, answered with 53000; 0 is pool.queue_timeout. 0 "
     "for critical and high, 5 s for low, 0.5 s for sheddable.",
     optional, "\"5s\""},
    {"ceiling", Own<K, std::int64_t>{&K::ceiling, 1, 100}, at_reload,
     "Percent of a pool's servers that it and those of lower priority may have together. 100 for critical, 95 "
     "for high where somebody is critical, 80 for low, 60 for sheddable.",
     optional, "80"},
    {"nodes", Names<K>{&K::nodes}, at_reload,
     "Replicas of its own, as in servers of their cluster: no class without them here reads there.", optional,
     "[\"10.0.0.3:5432\"]"},
    {"overflow", Flag<K>{&K::overflow, true}, at_reload,
     "Whether its reads may go to other replicas, and to the primary, when none of its own can serve them."},
};

using R = AuthRule;
constexpr Row<R> kRule[] = {
    {"connection", Choice<R, RuleConnection>{&R::connection, RuleConnection::any}, at_reload,
     "How the client is connected: over a unix socket (local), over TCP, with TLS or without (plain)."},
    {"addresses", Networks<R>{&R::addresses}, at_reload,
     "Where the client comes from; without any it is anywhere, unix sockets too.", optional,
     "[\"127.0.0.0/8\", \"::1\"]"},
    {"databases", Names<R>{&R::databases}, at_reload,
     "The database as the client names it; without any it is every one, the console too.", optional,
     "[\"shop\"]"},
    {"users", Names<R>{&R::users}, at_reload, "Who it says it is; without any it is everybody.",
     optional, "[\"app\"]"},
    {"method", Choice<R, AuthMethod>{&R::method, AuthMethod::reject}, at_reload,
     "How the client proves it; reject lets nobody in.", required, "\"scram-sha-256\""},
    {"clientcert", Choice<R, ClientCert>{&R::clientcert, ClientCert::no}, at_reload,
     "Demand a certificate too: one that tls.client.ca has signed (verify-ca), or one that is also the "
     "user's (verify-full, as method cert does)."},
};

using W = RouteRule;
constexpr Row<W> kRoute[] = {
    {"name", Text<W>{&W::name, ""}, at_reload,
     "What the rule is called in SHOW ROUTES, metrics and refusals; empty is its number.", optional,
     "\"reports\""},
    {"users", Names<W>{&W::users}, at_reload, "Who is connected; * stands for any text, here and below.",
     optional, "[\"report\"]"},
    {"databases", Names<W>{&W::databases}, at_reload, "The database as the client names it.", optional,
     "[\"shop\"]"},
    {"applications", Names<W>{&W::applications}, at_reload, "The session's application_name.", optional,
     "[\"batch-*\"]"},
    {"tags", Names<W>{&W::tags}, at_reload,
     "Tags in the sqlcommenter comment of the statement, as key=value; one of them is enough.", optional,
     "[\"controller=reports*\"]"},
    {"digests", Names<W>{&W::digests}, at_reload, "Digests of statements, as 16 hexadecimal digits.",
     optional, "[\"1f0c5d3a90b7e642\"]"},
    {"tables", Names<W>{&W::tables}, at_reload,
     "Tables that the statement names, with their schema or without; one of them is enough.", optional,
     "[\"orders\", \"audit.*\"]"},
    {"statement_classes", Names<W>{&W::statement_classes}, at_reload,
     "Classes of the statement: empty, read, session, transaction, write, ddl.", optional, "[\"read\"]"},
    {"target", Choice<W, RouteTarget>{&W::target, RouteTarget::any}, at_reload,
     "Where a read goes that a replica could serve: to the primary, or to a replica even where consistency "
     "is primary. What is not proven to be a read goes to the primary whatever a rule says."},
    {"consistency", OwnChoice<W, Consistency>{&W::consistency}, at_reload,
     "Its own routing.consistency; a hint may ask for less, not for more.", optional, "\"eventual\""},
    {"max_lag", Own<W, Millis>{&W::max_lag, 1ms, kDay}, at_reload, "Its own routing.max_lag.", optional,
     "\"2s\""},
    {"query_timeout", Own<W, Millis>{&W::query_timeout, 1ms, 30 * kDay}, at_reload,
     "Its own pool.query_timeout.", optional, "\"30s\""},
    {"transactions", OwnChoice<W, Transactions>{&W::transactions}, at_reload,
     "Its own routing.transactions, for transactions whose BEGIN the rule fits.", optional, "\"migrate\""},
    {"class", Text<W>{&W::service_class, ""}, at_reload,
     "The class of the statement, critical, high, low, sheddable or that of a [class.NAME]; empty is that of "
     "the session. A hint may lower it.",
     optional, "\"low\""},
    {"groups", Names<W>{&W::groups}, at_reload,
     "Groups of nodes ([node.\"HOST:PORT\"] groups): a read runs on replicas of one of them, and where none can "
     "serve on the primary.",
     optional, "[\"reports\"]"},
    {"rate", Bounded<W, std::int64_t>{&W::rate, 0, 0, 1'000'000'000}, at_reload,
     "Statements per second that the rule fits, over the whole process; 0 sets no limit.", optional, "100"},
    {"concurrency", Bounded<W, std::int64_t>{&W::concurrency, 0, 0, 1'000'000}, at_reload,
     "Such statements at once; 0 sets no limit.", optional, "4"},
    {"block", Flag<W>{&W::block, false}, at_reload,
     "The statement is not run: 53400, with the rule's name in DETAIL."},
    {"coalesce", Flag<W>{&W::coalesce, false}, at_reload,
     "Proven reads outside of transactions that are alike to the last byte and in flight at the same time, of "
     "one user under the same settings, run once per worker and answer all who asked. Not what calls "
     "functions like random()."},
    {"cache", Own<W, Millis>{&W::cache, 1ms, 1h}, at_reload,
     "As coalesce, and the answer is kept for so long, for those who have not written since it was read.", optional,
     "\"500ms\""},
};

constexpr Sections kSections{
    Section<C>{.kind = "cluster",
               .doc = "One primary and its replicas.",
               .rows = kCluster,
               .where = &Settings::clusters,
               .example = "main",
               .active = true},
    Section<N>{.kind = "node",
               .doc = "More about one of a cluster's servers; NAME is its address as it stands there.",
               .rows = kNode,
               .where = &Settings::nodes,
               .example = "10.0.0.2:5432",
               .active = false},
    Section<D>{
        .kind = "database",
        .doc = "A database that clients may name; \"*\" serves every name without a section. What it "
               "says of pools goes before the option of that name.",
        .rows = kDatabase,
        .where = &Settings::databases,
        .example = "*",
        .active = true},
    Section<U>{.kind = "user",
               .doc = "What is known here about one user. What it says of pools goes before what the "
                      "user's database says.",
               .rows = kUser,
               .where = &Settings::users,
               .example = "app",
               .active = false},
    Section<T>{.kind = "tenant",
               .doc = "Limits of one tenant; what a section does not say is as in [tenant] (a rate "
                      "said here does not take over the burst from there).",
               .rows = kTenant,
               .where = &Settings::tenants,
               .example = "shop",
               .active = false},
    Section<K>{.kind = "class",
               .doc = "How statements of one class are treated where servers are short. A session may lower "
                      "itself with SET pgsluice.class.",
               .rows = kClass,
               .where = &Settings::classes,
               .example = "low",
               .active = false},
    ListSection<R>{.kind = "auth.rule",
                   .doc = "Who may log in how, as in pg_hba.conf: the first rule that fits a client "
                          "decides, and whom none fits is refused. Without any, auth.method is for "
                          "everybody.",
                   .rows = kRule,
                   .where = &Settings::auth_rules},
    ListSection<W>{.kind = "route",
                   .doc = "What is done with some statements instead of what holds for all: the first rule "
                          "that fits a statement decides. What is sent together goes together, by the "
                          "strictest of what its statements' rules say.",
                   .rows = kRoute,
                   .where = &Settings::routes},
};

Error refuse(std::string_view text, std::string_view why) {
  std::string message = "address ";
  message.append(quote(text.substr(0, 60))).append(" ").append(why);
  return {Errc::config, std::move(message)};
}

// Blanks and control characters are never meant; libpq would take a comma for a list of hosts.
bool host_character(char c) { return static_cast<unsigned char>(c) > ' ' && c != ',' && c != 0x7f; }

}  // namespace

const Sections& sections() { return kSections; }

Result<NodeAddress> parse_node_address(std::string_view text) {
  auto host = text;
  auto port = std::string_view{};
  bool has_port = false;
  if (text.starts_with('[')) {
    const auto close = text.find(']');
    if (close == text.npos) return refuse(text, "has no closing bracket");
    host = text.substr(1, close - 1);
    const auto rest = text.substr(close + 1);
    has_port = !rest.empty();
    if (has_port && rest[0] != ':') return refuse(text, "has text after its bracket");
    if (has_port) port = rest.substr(1);
    if (host.find(':') == host.npos) return refuse(text, "has no IPv6 address in its brackets");
  } else if (const auto colon = text.rfind(':'); colon != text.npos) {
    host = text.substr(0, colon);
    port = text.substr(colon + 1);
    has_port = true;
    if (!host.starts_with('/') && host.find(':') != host.npos)
      return refuse(text, "has several colons; write IPv6 addresses in brackets");
  }
  if (host.empty()) return refuse(text, "has no host");
  if (!std::all_of(host.begin(), host.end(), host_character))
    return refuse(text, "has a character that no host has");

  NodeAddress address{.host = std::string(host)};
  if (has_port) {
    const auto [rest, error] =
        std::from_chars(port.data(), port.data() + port.size(), address.port);
    if (error != std::errc{} || rest != port.data() + port.size() || address.port == 0)
      return refuse(text, "has no port from 1 to 65535");
  }
  return address;
}

}  // namespace conf
