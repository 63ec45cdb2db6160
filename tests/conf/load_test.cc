#include "conf/load.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include <doctest/doctest.h>
#include <stdlib.h>
#include <unistd.h>

#include "conf/row.h"

using namespace conf;
using namespace std::chrono_literals;

namespace {

// What every configuration needs; starts after the first lines of each test's own text.
constexpr const char* kBase =
    "[cluster.main]\n"
    "servers = [\"10.0.0.1:5432\", \"[::1]:5433\", \"/run/postgresql\"]\n"
    "monitor_user = \"monitor\"\n"
    "[database.\"*\"]\n"
    "cluster = \"main\"\n";
constexpr const char* kAuth = "[auth]\nquery_user = \"monitor\"\n";

std::shared_ptr<const Settings> loaded(const std::string& text) {
  const auto settings = load_text(text, "f.toml");
  if (settings) return *settings;
  FAIL(settings.error().message);
  return nullptr;
}

// Of `text` before a base that is right.
std::string error_of(const std::string& text,
                     const std::string& base = std::string(kBase) + kAuth) {
  const auto settings = load_text(text + base, "f.toml");
  return settings ? "" : settings.error().message;
}

// A file with that content, gone when the test is over.
class TempFile {
 public:
  explicit TempFile(const std::string& content) {
    static int number = 0;
    const std::string name =
        "pgsluice-load-test-" + std::to_string(getpid()) + "-" + std::to_string(++number);
    path_ = std::filesystem::temp_directory_path() / name;
    std::ofstream file(path_, std::ios::binary);
    file << content;
    REQUIRE(file.flush());
  }
  ~TempFile() { std::filesystem::remove(path_); }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

TEST_SUITE("conf/load") {
  TEST_CASE("the smallest useful file loads, with everything else at its default") {
    const auto settings = loaded(
        "[listen]\naddress = \"127.0.0.1\"\nport = 6433\n"
        "[cluster.main]\n"
        "servers = [\"10.0.0.1:5432\", \"10.0.0.2:5432\", \"10.0.0.3:5432\"]   # roles\n"
        "monitor_user = \"pgsluice\"\n"
        "[database.\"*\"]\ncluster = \"main\"\n"
        "[auth]\nmethod = \"scram-sha-256\"\nquery_user = \"pgsluice\"\n");
    CHECK(settings->file == "f.toml");
    CHECK(settings->listen_port == 6433);
    CHECK(settings->pool_size == 20);
    REQUIRE(settings->clusters.size() == 1);
    const auto& cluster = settings->clusters.at("main");
    CHECK(cluster.name == "main");
    CHECK(cluster.servers.size() == 3);
    CHECK(cluster.servers[1] == NodeAddress{"10.0.0.2", 5432});
    CHECK(cluster.monitor_database == "postgres");
    CHECK(settings->databases.at("*").cluster == "main");
    CHECK_FALSE(settings->databases.at("*").pool_size);
  }

  TEST_CASE("every kind of value is taken from the file") {
    const auto settings = loaded(
        "workers = 3\nshutdown_timeout = \"5s\"\n"
        "[pool]\nmode = \"session\"\nqueue_timeout = \"250ms\"\nclient_idle_timeout = 0\n"
        "[limits]\nbatch = \"2MiB\"\n"
        "[routing]\nread_functions = [\"app.f\", \"g\"]\nconsistency = \"eventual\"\n"
        "[log]\nconnections = true\n"
        "[tls.client]\nmode = \"verify-full\"\ncert = \"c\"\nkey = \"k\"\nca = \"a\"\n"
        "[user.app]\npassword = \"x\"\ntenant = \"shop\"\npool_mode = \"transaction\"\npool_size = "
        "3\n" +
        std::string(kBase) + "dbname = \"real\"\npool_size = 5\npool_mode = \"session\"\n");
    CHECK(settings->workers == 3);
    CHECK(settings->shutdown_timeout == 5s);
    CHECK(settings->pool_mode == PoolMode::session);
    CHECK(settings->pool_queue_timeout == 250ms);
    CHECK(settings->pool_client_idle_timeout == 0ms);
    CHECK(settings->limits_batch == Bytes{2 << 20});
    CHECK(settings->routing_read_functions == std::vector<std::string>{"app.f", "g"});
    CHECK(settings->routing_consistency == Consistency::eventual);
    CHECK(settings->log_connections);
    CHECK(settings->tls_client_mode == TlsMode::verify_full);
    const auto& user = settings->users.at("app");
    CHECK(user.name == "app");
    CHECK(user.password == "x");
    CHECK(user.tenant == "shop");
    CHECK(user.pool_mode == PoolMode::transaction);
    CHECK(user.pool_size == 3);
    const auto& database = settings->databases.at("*");
    CHECK(database.name == "*");
    CHECK(database.dbname == "real");
    CHECK(database.pool_size == 5);
    CHECK(database.pool_mode == PoolMode::session);
    const auto& servers = settings->clusters.at("main").servers;
    CHECK(servers[1] == NodeAddress{"::1", 5433});
    CHECK(servers[2] == NodeAddress{"/run/postgresql", 5432});
  }

  TEST_CASE("databases and users have time-outs and limits of their own; what they leave out is not set") {
    const auto settings = loaded(
        "[pool]\nquery_timeout = \"1min\"\nservers_per_node = 50\ntcp_keepalive_count = 3\n"
        "[listen]\ntcp_user_timeout = \"20s\"\n"
        "[user.app]\npassword = \"x\"\npool_query_timeout = 0\nmax_clients = 7\n"
        "pool_server_lifetime = \"10min\"\n" +
        std::string(kBase) + "pool_min_size = 2\npool_transaction_timeout = \"5s\"\nmax_servers = 9\n");
    CHECK(settings->pool_query_timeout == 1min);
    CHECK(settings->pool_servers_per_node == 50);
    CHECK(settings->pool_tcp.keepalive_count == 3);
    CHECK(settings->pool_tcp.keepalive == 1min);
    CHECK(settings->listen_tcp.user_timeout == 20s);
    const auto& user = settings->users.at("app");
    CHECK(user.pool_query_timeout == 0ms);  // off, which is not the same as not said
    CHECK(user.max_clients == 7);
    CHECK(user.pool_server_lifetime == 10min);
    CHECK_FALSE(user.pool_transaction_timeout);
    const auto& database = settings->databases.at("*");
    CHECK(database.pool_min_size == 2);
    CHECK(database.pool_transaction_timeout == 5s);
    CHECK(database.max_servers == 9);
    CHECK_FALSE(database.pool_query_timeout);
  }

  TEST_CASE("only a database with a name can name users whose pools are filled from the start") {
    CHECK(error_of("", std::string(kBase) + "min_size_users = [\"app\"]\n" + kAuth).find(
              "database.\"*\".min_size_users names users") != std::string::npos);
    CHECK(loaded(std::string(kBase) + "[database.shop]\ncluster = \"main\"\nmin_size_users = "
                                      "[\"app\"]\n[user.app]\npassword = \"x\"\n")
              ->databases.at("shop")
              .min_size_users == std::vector<std::string>{"app"});
  }

  TEST_CASE("a wrong value names file, line, key, value and what it must be") {
    CHECK(error_of("[pool]\n\nsize = 0\n") ==
          "f.toml:3: pool.size is 0; it must be an integer from 1 to 10000");
    CHECK(error_of("workers = \"4\"\n") ==
          "f.toml:1: workers is \"4\"; it must be an integer from 0 to 1024");
    CHECK(error_of("workers = 4.0\n") ==
          "f.toml:1: workers is a fraction; it must be an integer from 0 to 1024");
    CHECK(error_of("[log]\nconnections = 1\n") ==
          "f.toml:2: log.connections is 1; it must be true or false");
    CHECK(error_of("[pool]\nmode = \"statement\"\n") ==
          "f.toml:2: pool.mode is \"statement\"; it must be \"transaction\" or \"session\"");
    CHECK(error_of("[listen]\naddress = [\"a\"]\n") ==
          "f.toml:2: listen.address is a list; it must be a string");
    CHECK(error_of("[admin]\nusers = [\"a\", 5]\n") ==
          "f.toml:2: admin.users has 5; it must be a list of names, such as [\"one\", \"two\"]");
  }

  TEST_CASE("both ends of a range are allowed, one beyond is not") {
    CHECK(error_of("[pool]\nsize = 1\n") == "");
    CHECK(error_of("[pool]\nsize = 10000\n") == "");
    CHECK(error_of("[pool]\nsize = 10001\n") != "");
    CHECK(error_of("[probe]\ninterval = \"10ms\"\n") == "");
    CHECK(error_of("[probe]\ninterval = \"9ms\"\n") != "");
    CHECK(error_of("[probe]\ninterval = \"1min\"\n") == "");
    CHECK(error_of("[probe]\ninterval = \"60001ms\"\n") != "");
  }

  TEST_CASE("a duration without its unit is refused, except zero") {
    CHECK(error_of("[pool]\nqueue_timeout = 10\n") ==
          "f.toml:2: pool.queue_timeout is 10; it must be a duration from 1ms to 1d, such as "
          "\"250ms\", \"10s\" or \"5min\"");
    CHECK(error_of("[pool]\nqueue_timeout = \"10\"\n") != "");
    CHECK(error_of("[tenant]\nrate_wait = 0\n") == "");
    CHECK(error_of("[limits]\nbatch = \"64kB\"\n") ==
          "f.toml:2: limits.batch is \"64kB\"; it must be a size from 4KiB to 1GiB, such as "
          "\"64KiB\" or \"16MiB\"");
  }

  TEST_CASE("an unknown key is an error that gives the nearest known one") {
    CHECK(error_of("[pool]\nsise = 3\n") ==
          "f.toml:2: pool.sise is not an option; did you mean pool.size?");
    CHECK(error_of("port = 3\n") == "f.toml:1: port is not an option; did you mean listen.port?");
    CHECK(error_of("[pol]\nsize = 3\n") == "f.toml:1: pol is not a section; did you mean pool?");
    CHECK(error_of("[clutser.main]\n") ==
          "f.toml:1: clutser is not a section; did you mean cluster?");
    CHECK(error_of("[tls.cleint]\nmode = \"disable\"\n").find("tls.cleint is not an option") !=
          std::string::npos);
    CHECK(error_of("[database.x]\nclustre = \"main\"\ncluster = \"main\"\n") ==
          "f.toml:2: database.x.clustre is not an option; did you mean cluster?");
    CHECK(error_of("[user.x]\npasword = \"y\"\n") ==
          "f.toml:2: user.x.pasword is not an option; did you mean password?");
    CHECK(error_of("[tenant]\nrat = 5\n") ==
          "f.toml:2: tenant.rat is not an option; did you mean tenant.rate?");
  }

  TEST_CASE("a value where a section belongs, and a section where a value belongs, are errors") {
    CHECK(error_of("pool = 5\n") == "f.toml:1: pool is 5; it must be a section, [pool]");
    CHECK(error_of("user = 5\n") == "f.toml:1: user is 5; it must be a section, [user.NAME]");
    CHECK(error_of("user.x = 5\n") == "f.toml:1: user.x is 5; it must be a section, [user.x]");
    CHECK(error_of("[pool.size]\nx = 1\n") ==
          "f.toml:1: pool.size is a table; it must be an integer from 1 to 10000");
    CHECK(error_of("[tenant.rate]\nrate = 1\n").find("tenant.rate is a table") !=
          std::string::npos);
    CHECK(error_of("[[pool]]\nsize = 1\n") ==
          "f.toml:1: pool is a list; it must be a section, [pool]");
  }

  TEST_CASE("all problems are reported, in the order of the file") {
    CHECK(
        error_of("workers = -1\n[probe]\ntimeout = true\n[admin]\nusres = []\n",
                 "[cluster.main]\nservers = [\"a:x\", \"b\", \"b\"]\n") ==
        "f.toml:1: workers is -1; it must be an integer from 0 to 1024\n"
        "f.toml:3: probe.timeout is true; it must be a duration from 10ms to 1min, such as "
        "\"250ms\", \"10s\" or \"5min\"\n"
        "f.toml:5: admin.usres is not an option; did you mean admin.users?\n"
        "f.toml:6: cluster.main.monitor_user is missing; it must be a string\n"
        "f.toml:7: cluster.main.servers: address \"a:x\" has no port from 1 to 65535; it must be a "
        "list of addresses, such as [\"10.0.0.1:5432\", \"[::1]:5432\", \"/run/postgresql:5432\"]\n"
        "f.toml:7: cluster.main.servers: address \"b\" is there twice; it must be a list of "
        "addresses, such as [\"10.0.0.1:5432\", \"[::1]:5432\", \"/run/postgresql:5432\"]\n"
        "f.toml: there is no database; it must have a section such as [database.\"*\"]\n"
        "f.toml: auth.query_user is \"\"; it must be set, or a [user.NAME] must have a password, "
        "or nobody could log in with auth.method \"scram-sha-256\"");
  }

  TEST_CASE("text that is not TOML is refused with line and column") {
    const std::string message = error_of("[pool]\nsize = \n");
    CHECK(message.starts_with("f.toml:2:8: "));
    CHECK(message.find('\n') == std::string::npos);
    CHECK(error_of("[pool]\n[pool]\n").starts_with("f.toml:2:"));
    CHECK(error_of("x = \"\xff\"\n").starts_with("f.toml:1:"));
  }

  TEST_CASE("there is at least one cluster and one database") {
    const auto settings = load_text("", "f.toml");
    REQUIRE_FALSE(settings);
    CHECK(settings.error().code == Errc::config);
    CHECK(settings.error().message.starts_with(
        "f.toml: there is no cluster; it must have a section such as [cluster.main]\n"
        "f.toml: there is no database; it must have a section such as [database.\"*\"]"));
  }

  TEST_CASE("a cluster has servers and somebody to probe them") {
    const std::string database = "[database.x]\ncluster = \"main\"\n";
    CHECK(error_of("[cluster.main]\nservers = []\nmonitor_user = \"\"\n", database + kAuth) ==
          "f.toml:2: cluster.main.servers is empty; it must be a list of addresses, such as "
          "[\"10.0.0.1:5432\", \"[::1]:5432\", \"/run/postgresql:5432\"]\n"
          "f.toml:3: cluster.main.monitor_user is empty; it must be a string");
  }

  TEST_CASE("a database's cluster exists") {
    CHECK(
        error_of("[database.shop]\ncluster = \"mian\"\n") ==
        "f.toml:2: database.shop.cluster is \"mian\"; it must be the NAME of a [cluster.NAME]; did "
        "you mean main?");
    CHECK(error_of("[database.shop]\npool_size = 3\n") ==
          "f.toml:1: database.shop.cluster is missing; it must be a string");
  }

  TEST_CASE("no database takes the name of the admin console") {
    CHECK(error_of("[database.pgsluice]\ncluster = \"main\"\n")
              .starts_with("f.toml:1: database.pgsluice has the name of the admin console"));
  }

  TEST_CASE("a name has 1 to 63 bytes and no control characters") {
    CHECK(error_of("[user." + std::string(63, 'a') + "]\n") == "");
    CHECK(error_of("[user." + std::string(64, 'a') + "]\n") != "");
    CHECK(error_of("[user.\"\"]\n") != "");
    CHECK(error_of("[user.\"a\\nb\"]\n") ==
          "f.toml:1: user.\"a\\nb\" is no name; it must have 1 to 63 bytes and no control "
          "characters");
    CHECK(error_of("[user.\"a b.c\"]\n") == "");
    CHECK(error_of("[admin]\nusers = [\"\"]\n") != "");
  }

  TEST_CASE("trust is refused while strangers can connect, unless that is said to be meant") {
    const std::string trust = "[auth]\nmethod = \"trust\"\n";
    const std::string all = "[listen]\naddress = \"127.0.0.1, 10.0.0.9\"\n";
    CHECK(error_of(trust, kBase) == "");
    CHECK(error_of("[listen]\naddress = \"127.0.0.5,::1, localhost\"\n" + trust, kBase) == "");
    CHECK(error_of("[listen]\naddress = \"\"\nunix_socket_dir = \"/run/x\"\n" + trust, kBase) ==
          "");
    CHECK(error_of(all + trust, kBase)
              .starts_with("f.toml:4: auth.method is \"trust\"; it must be another while "
                           "listen.address is \"127.0.0.1, 10.0.0.9\""));
    CHECK(error_of("[listen]\naddress = \"*\"\n" + trust, kBase) != "");
    CHECK(error_of(all + trust + "trust_anywhere = true\n", kBase) == "");
  }

  TEST_CASE("somebody can log in: auth.query_user is set or a user has a password") {
    CHECK(error_of("", kBase) != "");
    CHECK(error_of("[user.a]\npool_size = 1\n", kBase) != "");
    CHECK(error_of("[user.a]\npassword = \"x\"\n", kBase) == "");
    CHECK(error_of("", std::string(kBase) + kAuth) == "");
    CHECK(error_of("", std::string(kBase) + kAuth + "query_password = \"\"\n") == "");
  }

  TEST_CASE("requirement 7: rules are read in their order, with everything that they do not say open") {
    const auto settings = loaded(
        "[[auth.rule]]\n"
        "connection = \"local\"\n"
        "method = \"trust\"\n"
        "[[auth.rule]]\n"
        "addresses = [\"10.0.0.0/8\", \"::1\"]\n"
        "databases = [\"shop\"]\n"
        "users = [\"app\", \"web\"]\n"
        "method = \"md5\"\n"
        "[[auth.rule]]\n"
        "method = \"reject\"\n" +
        std::string(kBase) + "[user.a]\npassword = \"x\"\n");
    const auto& rules = settings->auth_rules;
    REQUIRE(rules.size() == 3);
    CHECK(rules[0].connection == RuleConnection::local);
    CHECK(rules[0].method == AuthMethod::trust);
    CHECK(rules[0].users.empty());
    CHECK(rules[1].connection == RuleConnection::any);
    CHECK(rules[1].addresses.size() == 2);
    CHECK(print(rules[1].addresses[0]) == "10.0.0.0/8");
    CHECK(rules[1].users == std::vector<std::string>{"app", "web"});
    CHECK(rules[1].databases == std::vector<std::string>{"shop"});
    CHECK(rules[1].method == AuthMethod::md5);
    CHECK(rules[2].method == AuthMethod::reject);
  }

  TEST_CASE("[[route]] rules are read in their order; what they do not say is as without them") {
    const auto settings = loaded(
        "[[route]]\n"
        "name = \"reports\"\n"
        "users = [\"report\", \"etl-*\"]\n"
        "tags = [\"controller=reports*\"]\n"
        "digests = [\"1f0c5d3a90b7e642\"]\n"
        "tables = [\"audit.*\"]\n"
        "statement_classes = [\"read\", \"ddl\"]\n"
        "target = \"replica\"\n"
        "consistency = \"eventual\"\n"
        "max_lag = \"2s\"\n"
        "query_timeout = \"1min\"\n"
        "[[route]]\n"
        "block = true\n" +
        std::string(kBase) + kAuth);
    const auto& routes = settings->routes;
    REQUIRE(routes.size() == 2);
    CHECK(routes[0].name == "reports");
    CHECK(routes[0].users == std::vector<std::string>{"report", "etl-*"});
    CHECK(routes[0].statement_classes == std::vector<std::string>{"read", "ddl"});
    CHECK(routes[0].target == RouteTarget::replica);
    CHECK(routes[0].consistency == Consistency::eventual);
    CHECK(routes[0].max_lag == 2s);
    CHECK(routes[0].query_timeout == 1min);
    CHECK_FALSE(routes[0].block);
    CHECK(routes[1].name == "2");
    CHECK(routes[1].target == RouteTarget::any);
    CHECK_FALSE(routes[1].consistency.has_value());
    CHECK(routes[1].block);
    CHECK(loaded(std::string(kBase) + kAuth)->routing_hints ==
          std::vector<std::string>{"consistency", "route", "tenant", "class"});
    CHECK(loaded("[routing]\nhints = [\"route\"]\n" + std::string(kBase) + kAuth)->routing_hints ==
          std::vector<std::string>{"route"});
    CHECK(loaded("[routing]\nhints = []\n" + std::string(kBase) + kAuth)->routing_hints.empty());
  }

  TEST_CASE("a [[route]] rule that cannot be meant is refused with its line") {
    const auto error = [](const std::string& text) { return error_of("[[route]]\n" + text, std::string(kBase) + kAuth); };
    CHECK(error("users = [\"a\"]\n") == "");  // it is counted, and keeps rules that follow away
    CHECK(error("statement_classes = [\"select\"]\n").find("route.1.statement_classes has \"select\"; it must be") !=
          std::string::npos);
    CHECK(error("digests = [\"1f\"]\n").find("route.1.digests has \"1f\"; it must be 16") != std::string::npos);
    CHECK(error("tags = [\"job\"]\n").find("route.1.tags has \"job\"; it must be key=value") != std::string::npos);
    CHECK(error("name = \"a\"\n[[route]]\nname = \"a\"\n").find("route.2.name is \"a\"; it must be another") !=
          std::string::npos);
    CHECK(error("[[route]]\nname = \"1\"\n").find("route.2.name is \"1\"") != std::string::npos);
    CHECK(error("coalesce = true\nconsistency = \"primary\"\n").find("route.1.consistency is \"primary\"; it must be") !=
          std::string::npos);
    CHECK(error("block = true\ncoalesce = true\n").find("route.1.block is true; it must stand alone") !=
          std::string::npos);
    CHECK(error("block = true\ntarget = \"primary\"\n").find("route.1.block is true; it must stand alone") !=
          std::string::npos);
    CHECK(error("target = \"replica\"\nconsistency = \"primary\"\n").find("route.1.consistency is \"primary\"") !=
          std::string::npos);
    CHECK(error("target = \"primary\"\nmax_lag = \"1s\"\n").find("route.1.max_lag is set") != std::string::npos);
    CHECK(error("class = \"lwo\"\n").find("route.1.class is \"lwo\"; it must be critical") != std::string::npos);
    CHECK(error("groups = [\"reports\"]\n").find("route.1.groups has \"reports\"; it must be in the groups of") !=
          std::string::npos);
    CHECK(error("block = true\nrate = 5\n").find("route.1.block is true; it must stand alone") != std::string::npos);
    CHECK(error("transactions = \"move\"\n").find("route.1.transactions is \"move\"; it must be") != std::string::npos);
    CHECK(error("target = \"standby\"\n").find("route.1.target is \"standby\"; it must be \"any\", \"primary\"") !=
          std::string::npos);
    CHECK(error_of("[routing]\nhints = [\"rout\"]\n", std::string(kBase) + kAuth).find("routing.hints has \"rout\"") !=
          std::string::npos);
  }

  TEST_CASE("a rule that says something wrong, or that cannot be meant, is refused with its line") {
    const std::string rule = "[[auth.rule]]\n";
    const std::string query = "[auth]\nquery_user = \"m\"\n";
    const std::string tls = "[tls.client]\nmode = \"prefer\"\ncert = \"c\"\nkey = \"k\"\n";
    const auto error = [&](const std::string& text) { return error_of(query + text, kBase); };
    CHECK(error(rule + "method = \"md5\"\n") == "");
    CHECK(error(rule) ==
          "f.toml:3: auth.rule.1.method is missing; it must be \"trust\", \"password\", \"md5\", "
          "\"scram-sha-256\", \"cert\" or \"reject\"");
    CHECK(error(rule + "method = \"ident\"\n").starts_with("f.toml:4: auth.rule.1.method is \"ident\""));
    CHECK(error(rule + "method = \"md5\"\nuser = [\"a\"]\n") ==
          "f.toml:5: auth.rule.1.user is not an option; did you mean users?");
    CHECK(error(rule + "method = \"md5\"\naddresses = [\"10.0.0.0/40\"]\n")
              .starts_with("f.toml:5: auth.rule.1.addresses has \"10.0.0.0/40\", which has no number"));
    CHECK(error(rule + "method = \"md5\"\nconnection = \"local\"\naddresses = [\"::1\"]\n")
              .starts_with("f.toml:6: auth.rule.1.addresses is set"));
    CHECK(error("[auth.rule]\nmethod = \"md5\"\n").find("auth.rule is a table") != std::string::npos);
    // Certificates are shown over TLS only, and somebody must have signed them.
    CHECK(error(rule + "method = \"cert\"\nconnection = \"any\"\n")
              .starts_with("f.toml:5: auth.rule.1.connection is \"any\"; it must be \"tls\""));
    CHECK(error(rule + "method = \"md5\"\nconnection = \"tls\"\n")
              .find("while tls.client.mode is \"disable\"") != std::string::npos);
    CHECK(error(rule + "method = \"md5\"\nconnection = \"tls\"\n" + tls) == "");
    CHECK(error(rule + "method = \"md5\"\nconnection = \"tls\"\nclientcert = \"verify-ca\"\n" + tls)
              .find("tls.client.ca is \"\"; it must name a file because of auth.rule.1.clientcert") !=
          std::string::npos);
    CHECK(error(rule + "method = \"cert\"\nconnection = \"tls\"\n" + tls + "ca = \"c\"\n") == "");
    CHECK(error_of("[auth]\nmethod = \"cert\"\n", kBase).find("auth.method is \"cert\"") !=
          std::string::npos);
    CHECK(error_of("[auth]\nmethod = \"cert\"\n" + tls + "ca = \"c\"\n", kBase) == "");
  }

  TEST_CASE("trust in a rule is refused where strangers can meet it, unless that is said to be meant") {
    const std::string all = "[listen]\naddress = \"*\"\n";
    const auto error = [&](const std::string& text) {
      return error_of(all + "[[auth.rule]]\nmethod = \"trust\"\n" + text, kBase);
    };
    CHECK(error("").starts_with("f.toml:4: auth.rule.1.method is \"trust\"; it must be another"));
    CHECK(error("connection = \"local\"\n") == "");
    CHECK(error("addresses = [\"127.0.0.1/32\", \"::1\"]\n") == "");
    CHECK(error("addresses = [\"127.0.0.1/32\", \"10.0.0.0/8\"]\n") != "");
    CHECK(error("[auth]\ntrust_anywhere = true\n") == "");
    CHECK(error_of("[[auth.rule]]\nmethod = \"trust\"\n", kBase) == "");
  }

  TEST_CASE("rules that let nobody in are refused") {
    CHECK(error_of("[[auth.rule]]\nmethod = \"reject\"\n").find("lets nobody in") != std::string::npos);
    CHECK(error_of("[[auth.rule]]\nmethod = \"md5\"\n", kBase).find("lets nobody in") !=
          std::string::npos);
    CHECK(error_of("[[auth.rule]]\nmethod = \"md5\"\n[[auth.rule]]\nmethod = \"trust\"\n", kBase) == "");
    CHECK(error_of("[auth]\nmethod = \"reject\"\n", kBase).find("nobody could log in") !=
          std::string::npos);
  }

  TEST_CASE("requirement 6: auth.file tells users' secrets, and a section's password goes before it") {
    const TempFile file("\"app\" \"from file\"\n\"both\" \"from file\"\n\"bare\" \"x\"\n");
    const auto settings = loaded("[auth]\nfile = " + quote(file.path()) + "\n" + kBase +
                                 "[user.both]\npassword = \"from section\"\n[user.bare]\npool_size = 2\n");
    CHECK(settings->secret_of("app") == "from file");
    CHECK(settings->secret_of("both") == "from section");
    CHECK(settings->secret_of("bare") == "x");
    CHECK(settings->secret_of("nobody").empty());
    const TempFile broken("\"app\" hunter2\n");
    const std::string error = error_of("[auth]\nfile = " + quote(broken.path()) + "\n", kBase);
    CHECK(error.starts_with("f.toml:2: auth.file cannot be used: " + broken.path() + ":1: "));
    CHECK(error.find("hunter2") == std::string::npos);
    CHECK(error.find('\n') == std::string::npos);
    CHECK(error_of("[auth]\nfile = \"/nowhere/at/all\"\n", kBase).find("/nowhere/at/all") !=
          std::string::npos);
  }

  TEST_CASE("auth.query takes the user's name") {
    CHECK(error_of("", std::string(kBase) + kAuth + "query = \"SELECT 1\"\n") ==
          "f.toml:8: auth.query is \"SELECT 1\"; it must take the user's name as $1");
  }

  TEST_CASE("TLS toward clients needs certificate and key, and a CA where clients show theirs") {
    CHECK(error_of("[tls.client]\nmode = \"require\"\n") ==
          "f.toml:2: tls.client.cert is \"\"; it must name a file because of tls.client.mode\n"
          "f.toml:2: tls.client.key is \"\"; it must name a file because of tls.client.mode");
    CHECK(error_of("[tls.client]\nmode = \"prefer\"\ncert = \"c\"\nkey = \"k\"\n") == "");
    CHECK(error_of("[tls.client]\nmode = \"verify-ca\"\ncert = \"c\"\nkey = \"k\"\n") ==
          "f.toml:2: tls.client.ca is \"\"; it must name a file because of tls.client.mode");
    CHECK(error_of("[tls.server]\nmode = \"verify-full\"\n") ==
          "f.toml:2: tls.server.ca is \"\"; it must name a file because of tls.server.mode");
    CHECK(error_of("[tls.server]\nmode = \"require\"\n") == "");
    CHECK(error_of("[tls.server]\ncert = \"c\"\n") != "");
  }

  TEST_CASE("values that contradict each other are refused") {
    CHECK(error_of("[pool]\nconnect_backoff_min = \"10s\"\n") ==
          "f.toml:2: pool.connect_backoff_min is \"10s\"; it must be at most "
          "pool.connect_backoff_max, \"5s\"");
    CHECK(error_of("[listen]\nmax_client_connections = 8\n") ==
          "f.toml:2: listen.admin_reserved is 8; it must be less than "
          "listen.max_client_connections, 8");
    CHECK(error_of("[listen]\naddress = \"\"\n") != "");
    CHECK(error_of("[listen]\ntakeover_socket = \"run\"\n") != "");
    CHECK(error_of("[listen]\ntakeover_socket = \"/" + std::string(107, 'a') + "\"\n") != "");
    CHECK(error_of("[listen]\ntakeover_socket = \"/" + std::string(106, 'a') + "\"\n") == "");
    CHECK(error_of("[listen]\nunix_socket_dir = \"run\"\n") != "");
    CHECK(error_of("[listen]\nunix_socket_dir = \"/" + std::string(92, 'a') + "\"\n") != "");
    CHECK(error_of("[listen]\nunix_socket_dir = \"/" + std::string(91, 'a') + "\"\n") == "");
    CHECK(error_of("[routing]\nread_functions = [\"f\"]\nwrite_functions = [\"f\"]\n") ==
          "f.toml:2: routing.read_functions has \"f\"; it must not be in routing.write_functions "
          "too");
    for (const std::string list : {"read_digests", "primary_digests"}) {
      CHECK(error_of("[routing]\n" + list + " = [\"8c1d1f6a1e0b27f3\"]\n") == "");
      for (const std::string wrong : {"8c1d", "8C1D1F6A1E0B27F3", "8c1d1f6a1e0b27f30", "select 1 from t;"})
        CHECK(error_of("[routing]\n" + list + " = [\"" + wrong + "\"]\n") ==
              "f.toml:2: routing." + list + " has \"" + wrong + "\"; it must have 16 digits of 0-9 and a-f");
    }
  }

  TEST_CASE("a node's section names a server of a cluster, in whatever spelling, once") {
    const auto settings = loaded("[node.\"10.0.0.1\"]\nweight = 50\nzone = \"a\"\ngroups = [\"g\"]\n" +
                                 std::string(kBase) + kAuth);
    REQUIRE(settings->nodes.contains("10.0.0.1:5432"));
    const NodeSettings& node = settings->nodes.at("10.0.0.1:5432");
    CHECK(node.weight == 50);
    CHECK(node.zone == "a");
    CHECK(node.groups == std::vector<std::string>{"g"});
    CHECK(error_of("[node.\"[::1]:5433\"]\nweight = 1000\n") == "");
    CHECK(error_of("[node.\"10.0.0.1:5432\"]\nweight = 1001\n") != "");
    CHECK(error_of("[node.\"10.0.0.9:5432\"]\nweight = 1\n") ==
          "f.toml:1: node.\"10.0.0.9:5432\" is not a server of any cluster; it must be one that stands in "
          "cluster.NAME.servers; did you mean 10.0.0.1:5432?");
    CHECK(error_of("[node.\"10.0.0.1\"]\nweight = 1\n[node.\"10.0.0.1:5432\"]\nweight = 1\n") != "");
    std::string groups;
    for (int i = 0; i < 65; ++i) groups += "\"g" + std::to_string(i) + "\",";
    CHECK(error_of("[node.\"10.0.0.1\"]\ngroups = [" + groups + "]\n") != "");
    CHECK(error_of("[breaker]\nopen_min = \"2min\"\n") ==
          "f.toml:2: breaker.open_min is \"2min\"; it must be at most breaker.open_max, \"1min\"");
  }

  TEST_CASE("a burst needs a rate") {
    CHECK(error_of("[tenant]\nburst = 4\n") ==
          "f.toml:2: tenant.burst is 4; it must have a tenant.rate beside it");
    CHECK(error_of("[tenant]\nburst = 4\nrate = 4\n") == "");
    CHECK(error_of("[tenant.shop]\nburst = 4\n") ==
          "f.toml:2: tenant.shop.burst is 4; it must have a tenant.shop.rate beside it");
    CHECK(error_of("[tenant.shop]\nburst = 4\n[tenant]\nrate = 5\n") == "");
  }

  TEST_CASE("what a tenant's section leaves out is as in [tenant]") {
    const auto settings = loaded(
        "[tenant]\nrate = 100\nburst = 50\nconcurrency = 7\nby = \"database\"\n"
        "[tenant.more]\nrate = 1000\n"
        "[tenant.few]\nconcurrency = 2\n"
        "[tenant.free]\nrate = 0\nconcurrency = 0\n" +
        std::string(kBase) + kAuth);
    CHECK(settings->tenant_by == TenantBy::database);
    const auto& more = settings->tenants.at("more");
    CHECK(more.rate == 1000);
    CHECK(more.burst == 0);  // the burst of another rate would not fit
    CHECK(more.concurrency == 7);
    const auto& few = settings->tenants.at("few");
    CHECK(few.rate == 100);
    CHECK(few.burst == 50);
    CHECK(few.concurrency == 2);
    const auto& free = settings->tenants.at("free");
    CHECK(free.rate == 0);
    CHECK(free.burst == 0);
    CHECK(free.concurrency == 0);
  }

  TEST_CASE("a class is one of the four or has a section, and its replicas are in some cluster") {
    CHECK(error_of("[user.a]\nclass = \"low\"\n") == "");
    CHECK(error_of("[user.a]\nclass = \"reports\"\n[class.reports]\npriority = \"low\"\n") == "");
    CHECK(error_of("[user.a]\nclass = \"lowe\"\n").find("did you mean low?") != std::string::npos);
    CHECK(error_of("[class.low]\npriority = \"high\"\n") ==
          "f.toml:2: class.low.priority is high; it must be low, as its name says");
    CHECK(error_of("[class.low]\npriority = \"low\"\nceiling = 50\n") == "");
    CHECK(error_of("[class.low]\nceiling = 0\n") != "");
    CHECK(error_of("[class.low]\nceiling = 101\n") != "");
    CHECK(error_of("[class.low]\nnodes = [\"192.0.2.99\"]\n").find("it must be in the servers of a") !=
          std::string::npos);
    CHECK(error_of("[limits]\nmemory_high = 91\n").find("must not be more than limits.memory_full") !=
          std::string::npos);
    CHECK(error_of("[tenant]\nserver_burst = 4\n") ==
          "f.toml:2: tenant.server_burst is 4; it must have a tenant.server_time beside it");
  }

  TEST_CASE("a secret comes from the text, the environment or a file") {
    setenv("PGSLUICE_TEST_SECRET", "from env", 1);
    const TempFile file("from file\n");
    const auto settings = loaded(
        "[user.a]\npassword = \"plain\"\n"
        "[user.b]\npassword = { env = \"PGSLUICE_TEST_SECRET\" }\n"
        "[user.c]\npassword = { file = \"" +
        file.path() + "\" }\n" + kBase + kAuth +
        "query_password = { env = \"PGSLUICE_TEST_SECRET\" }\n");
    CHECK(settings->users.at("a").password == "plain");
    CHECK(settings->users.at("b").password == "from env");
    CHECK(settings->users.at("c").password == "from file");
    CHECK(settings->auth_query_password == "from env");
    unsetenv("PGSLUICE_TEST_SECRET");
  }

  TEST_CASE("one line end is stripped from a secret's file, whatever else is kept") {
    for (const auto& [content, secret] : {std::pair{"x\n", "x"},
                                          {"x\r\n", "x"},
                                          {"x\n\n", "x\n"},
                                          {" x ", " x "},
                                          {"\n", ""},
                                          {"", ""}}) {
      const TempFile file(content);
      CHECK(loaded("[user.c]\npassword = { file = \"" + file.path() + "\" }\n" + kBase + kAuth)
                ->users.at("c")
                .password == secret);
    }
  }

  TEST_CASE("a secret that cannot be had is an error that names where it was looked for") {
    unsetenv("PGSLUICE_TEST_SECRET");
    CHECK(error_of("[user.b]\npassword = { env = \"PGSLUICE_TEST_SECRET\" }\n") ==
          "f.toml:2: user.b.password comes from the environment variable "
          "\"PGSLUICE_TEST_SECRET\", which is not set");
    CHECK(
        error_of("[user.b]\npassword = { file = \"/nonexistent/x\" }\n") ==
        "f.toml:2: user.b.password comes from a file: reading \"/nonexistent/x\": No such file or "
        "directory");
    CHECK(error_of("[user.b]\npassword = { file = \"/dev/zero\" }\n").find("not a regular file") !=
          std::string::npos);
    CHECK(error_of("[user.b]\npassword = { file = \"/\" }\n").find("not a regular file") !=
          std::string::npos);
  }

  TEST_CASE("no message shows a secret") {
    CHECK(error_of("[user.b]\npassword = 123456\n") ==
          "f.toml:2: user.b.password is an integer; it must be a string, { env = \"NAME\" } or { "
          "file = \"path\" }");
    CHECK(error_of("[user.b]\npassword = { evn = \"hunter2\" }\n").find("hunter2") ==
          std::string::npos);
    CHECK(error_of("[user.b]\npassword = \"hunter2\\u0000\"\n") ==
          "f.toml:2: user.b.password holds a zero byte; it must be text without one");
    CHECK(error_of("[user.b]\npassword = { env = \"A\", file = \"B\" }\n").find("is a table") !=
          std::string::npos);
  }

  TEST_CASE("a long or odd value is cut and escaped, so that a message stays one line") {
    const std::string message = error_of("[pool]\nmode = \"" + std::string(5000, 'x') + "\"\n");
    CHECK(message.size() < 200);
    CHECK(error_of("[pool]\nmode = \"a\\n\\u001b[2J\"\n")
              .starts_with("f.toml:2: pool.mode is \"a\\n\\u001B[2J\"; "));
  }

  TEST_CASE("load_file reads a file and names it") {
    const TempFile file("[pool]\nsize = 0\n");
    const auto settings = load_file(file.path());
    REQUIRE_FALSE(settings);
    CHECK(settings.error().message.starts_with(file.path() + ":2: pool.size is 0"));
    const auto missing = load_file("/nonexistent.toml");
    REQUIRE_FALSE(missing);
    CHECK(missing.error().code == Errc::io);
    CHECK(missing.error().message == "reading \"/nonexistent.toml\": No such file or directory");
    const TempFile good(std::string(kBase) + kAuth);
    REQUIRE(load_file(good.path()));
    CHECK((*load_file(good.path()))->file == good.path());
  }

  TEST_CASE("keys nested deep enough to overflow a parser's stack are refused") {
    std::string deep;
    for (int i = 0; i < 500'000; ++i) deep += "a.";
    CHECK(error_of("\n" + deep + "a = 1\n") == "f.toml:2: a key has more dots than any option");
    CHECK(error_of("[" + deep + "a]\n") != "");
    CHECK(error_of("x = { " + deep + "a = 1 }\n") != "");
    std::string quoted;
    for (int i = 0; i < 100'000; ++i) quoted += "\"=\".'#'.";
    CHECK(error_of(quoted + "a = 1\n") == "f.toml:1: a key has more dots than any option");
    CHECK(error_of("x = { s = '''y'''', " + deep + "a = 1 }\n") ==
          "f.toml:1: a key has more dots than any option");
    CHECK(error_of("a = '''\n''''\n" + deep + "a = 1\n") ==
          "f.toml:3: a key has more dots than any option");
    CHECK(error_of("a = \"\"\"\\\"\"\" \n\"\"\"\n" + deep + "a = 1\n") ==
          "f.toml:3: a key has more dots than any option");
    std::string nested;
    for (int i = 0; i < 255; ++i) nested += "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a = {";
    CHECK(error_of(nested + "x = 1" + std::string(255, '}') + "\n") != "");
    CHECK(error_of("x = " + std::string(100'000, '[') + "\n") != "");
  }

  TEST_CASE("dots in strings and comments are no keys") {
    const std::string dots(1000, '.');
    CHECK(error_of("# " + dots + "\n[listen]\nunix_socket_dir = \"/" + dots.substr(0, 80) +
                   "\"\n") == "");
  }

  TEST_CASE("any bytes give settings or an error") {
    const std::string seed_text =
        std::string(
            "workers = 3\n[pool]\nsize = 1\nqueue_timeout = \"10s\" # c\n"
            "[tenant.x]\nrate = 5\n[user.\"y z\"]\npassword = { env = \"HOME\" }\n") +
        kBase + kAuth;
    constexpr const char* kPieces[] = {
        "[",    "]",        "{",       "}",        "\"",     "'",  "\"\"\"", "'''", "=",
        ".",    ",",        "\n",      "\\",       "#",      "0",  "1e9",    "nan", "1979-05-27",
        "\xff", "\xe2\x82", "\\u0000", "[[pool]]", "tenant", "\r", "\t"};
    const unsigned seed = 20261122;
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    for (int round = 0; round < 3'000; ++round) {
      std::string text = seed_text;
      for (auto edits = random() % 6 + 1; edits > 0; --edits) {
        const auto at = random() % text.size();
        switch (random() % 4) {
          case 0: text[at] = static_cast<char>(random()); break;
          case 1: text.erase(at, random() % 20); break;
          case 2: text.insert(at, kPieces[random() % std::size(kPieces)]); break;
          default: text.insert(at, text.substr(random() % text.size(), random() % 40)); break;
        }
        if (text.empty()) text = "[";
      }
      CAPTURE(text);
      const auto settings = load_text(text, "f.toml");
      const bool explained =
          settings.has_value() || settings.error().message.starts_with("f.toml:");
      CHECK(explained);
    }
  }

  TEST_CASE("one option can be changed in settings that are complete, with the checks of a load") {
    const auto settings = loaded("[pool]\nsize = 7\n[tenant.shop]\nrate = 5\n" + std::string(kBase) + kAuth);
    const auto with = [&settings](const std::string& option, const std::string& value) {
      auto changed = with_option(*settings, option, value);
      return changed ? *changed : nullptr;
    };
    const auto why = [&settings](const std::string& option, const std::string& value) {
      const auto changed = with_option(*settings, option, value);
      return changed ? "" : changed.error().message;
    };
    REQUIRE(with("pool.size", "9") != nullptr);
    CHECK(with("pool.size", "9")->pool_size == 9);
    CHECK(with("pool.size", "9")->tenants.at("shop").rate == 5);
    CHECK(with("pool.size", "9")->clusters.size() == 1);
    CHECK(with("pool.queue_timeout", "3s")->pool_queue_timeout == 3s);
    CHECK(with("log.connections", "false")->log_connections == false);
    CHECK(with("log.level", "debug")->log_level == LogLevel::debug);
    CHECK(with("auth.query_password", "123")->auth_query_password == "123");
    CHECK(with("admin.stats_users", "ann, bob")->admin_stats_users == std::vector<std::string>{"ann", "bob"});
    CHECK(with("admin.stats_users", "")->admin_stats_users.empty());
    CHECK(settings->pool_size == 7);

    CHECK(why("pool.size", "0") == "pool.size is 0; it must be an integer from 1 to 10000");
    CHECK(why("pool.size", "1; size = 2").starts_with("pool.size is \"1; size = 2\""));
    CHECK(why("pool.siz", "1").ends_with("did you mean pool.size?"));
    CHECK(why("listen.port", "1").find("restart") != std::string::npos);
    CHECK(why("auth.query_user", "").find("nobody could log in") != std::string::npos);
    CHECK(why("database.x.cluster", "other").find("not an option") != std::string::npos);
    CHECK(why("auth.query_password", std::string("a\0b", 3)).find("zero byte") != std::string::npos);
  }
}
