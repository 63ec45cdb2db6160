#include "conf/sections.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace conf {
namespace {

using enum Applies;
using enum Presence;

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
};

using D = DatabaseSettings;
constexpr Row<D> kDatabase[] = {
    {"cluster", Text<D>{&D::cluster, ""}, at_reload, "The [cluster.NAME] that serves it.", required,
     "\"main\""},
    {"dbname", Text<D>{&D::dbname, ""}, at_reload,
     "Its name on the servers; empty is the name that the client gave."},
    {"pool_mode", OwnMode<D>{&D::pool_mode}, at_reload, "pool.mode for this database.", optional,
     "\"session\""},
    {"pool_size", OwnInt<D>{&D::pool_size, 1, 10'000}, at_reload, "pool.size for this database.",
     optional, "20"},
};

using U = UserSettings;
constexpr Row<U> kUser[] = {
    {"password", Secret<U>{&U::password}, at_reload,
     "The user's secret: plain, or as Postgres stores it (\"md5...\", \"SCRAM-SHA-256$...\"); "
     "empty looks it up with auth.query.",
     optional, "{ file = \"/etc/pgsluice/app.password\" }"},
    {"tenant", Text<U>{&U::tenant, ""}, at_reload,
     "The tenant of this user's clients; empty is what tenant.by says.", optional, "\"shop\""},
    {"pool_mode", OwnMode<U>{&U::pool_mode}, at_reload, "pool.mode for this user.", optional,
     "\"session\""},
    {"pool_size", OwnInt<U>{&U::pool_size, 1, 10'000}, at_reload, "pool.size for this user.",
     optional, "20"},
};

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
};

constexpr Sections kSections{
    Section<C>{.kind = "cluster",
               .doc = "One primary and its replicas.",
               .rows = kCluster,
               .where = &Settings::clusters,
               .example = "main",
               .active = true},
    Section<D>{
        .kind = "database",
        .doc = "A database that clients may name; \"*\" serves every name without a section.",
        .rows = kDatabase,
        .where = &Settings::databases,
        .example = "*",
        .active = true},
    Section<U>{.kind = "user",
               .doc = "What is known here about one user.",
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
