#include "conf/options.h"

#include <set>
#include <string>
#include <tuple>
#include <utility>

#include <doctest/doctest.h>

#include "conf/sections.h"

using namespace conf;
using namespace std::chrono_literals;

namespace {

template <class T>
void check_row(const Row<T>& row) {
  CAPTURE(row.name);
  CHECK(row.doc.ends_with("."));
  CHECK_FALSE(expectation(row).empty());
}

template <class AnySection>
void check_section(const AnySection& section) {
  CHECK(section.doc.ends_with("."));
  for (const auto& row : section.rows) check_row(row);
}

std::pair<std::int64_t, std::int64_t> range(const Value<Settings>& value) {
  const auto& kind = std::get<Bounded<Settings, std::int64_t>>(value);
  return {kind.min, kind.max};
}
std::pair<std::int64_t, std::int64_t> range(const Value<TenantLimits>& value) {
  const auto& kind = std::get<Bounded<TenantLimits, std::int64_t>>(value);
  return {kind.min, kind.max};
}

}  // namespace

TEST_SUITE("conf/options") {
  TEST_CASE("every row has a sentence and says what its value must be") {
    for (const Option& option : options()) check_row(option);
    std::apply([](const auto&... each) { (check_section(each), ...); }, sections());
  }

  TEST_CASE("a number's sentence says what changes when it grows") {
    for (const Option& option : options()) {
      const bool number = std::holds_alternative<Bounded<Settings, Millis>>(option.value) ||
                          std::holds_alternative<Bounded<Settings, Bytes>>(option.value) ||
                          std::holds_alternative<Bounded<Settings, std::int64_t>>(option.value);
      if (!number || option.name.ends_with("port")) continue;
      CAPTURE(option.name);
      const bool says = option.doc.find("more ") != option.doc.npos ||
                        option.doc.find("longer ") != option.doc.npos;
      CHECK(says);
    }
  }

  TEST_CASE("no two rows write to the same field") {
    Settings settings = default_settings();
    std::set<const void*> fields;
    for (const Option& option : options()) {
      CAPTURE(option.name);
      std::visit([&](const auto& kind) { CHECK(fields.insert(&kind.field.in(settings)).second); },
                 option.value);
    }
  }

  TEST_CASE("the defaults are those that were agreed") {
    const Settings s = default_settings();
    CHECK(s.workers == 0);
    CHECK(s.listen_address == "127.0.0.1");
    CHECK(s.listen_port == 6432);
    CHECK(s.listen_backlog == 4096);
    CHECK(s.listen_max_client_connections == 10'000);
    CHECK(s.listen_admin_reserved == 8);
    CHECK(s.listen_login_timeout == 10s);
    CHECK(s.auth_method == AuthMethod::scram_sha_256);
    CHECK(s.auth_query_database == "postgres");
    CHECK(s.auth_query.find("$1") != std::string::npos);
    CHECK(s.auth_query_ttl == 60s);
    CHECK(s.pool_mode == PoolMode::transaction);
    CHECK(s.pool_size == 20);
    CHECK(s.pool_queue_timeout == 10s);
    CHECK(s.pool_server_idle_timeout == 10min);
    CHECK(s.pool_server_lifetime == 1h);
    CHECK(s.pool_connect_backoff_min == 50ms);
    CHECK(s.routing_consistency == Consistency::session);
    CHECK(s.routing_max_lag == 10s);
    CHECK(s.routing_max_statement == Bytes{65'536});
    CHECK(s.probe_interval == 500ms);
    CHECK(s.tenant_by == TenantBy::user);
    CHECK(s.tenant_default.rate == 0);
    CHECK(s.tenant_rate_wait == 100ms);
    CHECK(s.tls_client_mode == TlsMode::disable);
    CHECK(s.tls_server_mode == TlsMode::prefer);
    CHECK(s.limits_client_buffer == Bytes{256 << 10});
    CHECK(s.limits_batch == Bytes{1 << 20});
    CHECK(s.metrics_port == 9632);
    CHECK(s.log_level == LogLevel::info);
    CHECK(s.shutdown_timeout == 60s);
  }

  TEST_CASE("a word names its enumerator and back, with the hyphens of Postgres") {
    CHECK(word(AuthMethod::scram_sha_256) == "scram-sha-256");
    CHECK(word(TlsMode::verify_full) == "verify-full");
    CHECK(parse_word<TlsMode>("verify-ca") == TlsMode::verify_ca);
    CHECK(parse_word<PoolMode>("session") == PoolMode::session);
    CHECK(parse_word<TenantBy>("application_name") == TenantBy::application_name);
    CHECK_FALSE(parse_word<PoolMode>("Session"));
    CHECK_FALSE(parse_word<PoolMode>("statement"));
  }

  TEST_CASE("a tenant's section takes the same range as the default for all tenants") {
    const auto& tenants = std::get<Section<TenantLimits>>(sections());
    for (const auto& row : tenants.rows) {
      CAPTURE(row.name);
      const Option* option = find_option("tenant." + std::string(row.name));
      REQUIRE(option != nullptr);
      CHECK(range(row.value) == range(option->value));
    }
  }

  TEST_CASE("what a database or a user can say for itself has the range of the option for all") {
    const auto check = [](const auto& section) {
      std::size_t overrides = 0;
      for (const auto& row : section.rows) {
        if (!row.name.starts_with("pool_")) continue;
        CAPTURE(row.name);
        ++overrides;
        const Option* option = find_option("pool." + std::string(row.name.substr(5)));
        REQUIRE(option != nullptr);
        CHECK(expectation(row) == expectation(*option));
        CHECK(row.applies == Applies::at_reload);
      }
      CHECK(overrides == 11);
    };
    check(std::get<Section<DatabaseSettings>>(sections()));
    check(std::get<Section<UserSettings>>(sections()));
  }

  TEST_CASE("only options that apply at start need a restart, and they are named") {
    const Settings running = default_settings();
    Settings loaded = running;
    CHECK(changes_needing_restart(running, loaded).empty());
    loaded.pool_size = 7;
    loaded.tenant_default.rate = 5;
    loaded.clusters["main"] = {};
    CHECK(changes_needing_restart(running, loaded).empty());
    loaded.workers = 3;
    loaded.listen_port = 7000;
    CHECK(changes_needing_restart(running, loaded) ==
          std::vector<std::string>{"listen.port", "workers"});
  }

  TEST_CASE(
      "a node's address is a host, a bracketed IPv6 address or a folder, with or without port") {
    CHECK(*parse_node_address("db1:5433") == NodeAddress{"db1", 5433});
    CHECK(*parse_node_address("db1") == NodeAddress{"db1", 5432});
    CHECK(*parse_node_address("[::1]:6000") == NodeAddress{"::1", 6000});
    CHECK(*parse_node_address("[fe80::1%eth0]") == NodeAddress{"fe80::1%eth0", 5432});
    CHECK(*parse_node_address("/run/postgresql:5433") == NodeAddress{"/run/postgresql", 5433});
    CHECK(*parse_node_address("/run/postgresql") == NodeAddress{"/run/postgresql", 5432});
    CHECK(*parse_node_address("h:65535") == NodeAddress{"h", 65'535});
  }

  TEST_CASE("a node's address prints as it is written in the file") {
    for (const char* text : {"db1:5433", "[::1]:6000", "/run/postgresql:5433"})
      CHECK(parse_node_address(text)->name() == text);
  }

  TEST_CASE("an address that could mean something else is refused") {
    for (const char* text : {"", ":5432", "h:", "h:0", "h:65536", "h:-1", "h:54x", "h: 5432", "::1",
                             "::1:5432", "[::1", "[::1]x", "[::1]:", "[]:5432", "[db1]:5432",
                             "a,b:5432", "a b:5432", "a\n:5432"}) {
      CAPTURE(text);
      CHECK_FALSE(parse_node_address(text));
    }
  }
}
