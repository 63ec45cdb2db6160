#include <csignal>
#include <filesystem>
#include <set>
#include <thread>

#include <sys/ptrace.h>
#include <sys/wait.h>

#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// The admin console, and the signals that do the same.
using namespace integration;

namespace {

// The row of `result` whose `column` is `value`, or -1.
int row_with(const Result& result, const std::string& column, const std::string& value) {
  for (int row = 0; row < result.rows(); ++row)
    if (result.at(row, column) == value) return row;
  return -1;
}

// "type user database": the names of the columns.
std::string columns_of(const Result& result) {
  std::string names;
  for (int column = 0; column < result.columns(); ++column)
    names += (names.empty() ? "" : " ") + std::string(PQfname(result.raw(), column));
  return names;
}

// The figures of one database in SHOW STATS, by column.
std::map<std::string, long> stats_of(Connection& console, const std::string& database) {
  const Result shown = console.exec("SHOW STATS");
  std::map<std::string, long> figures;
  if (const int row = row_with(shown, "database", database); row >= 0)
    for (int column = 1; column < shown.columns(); ++column)
      figures[PQfname(shown.raw(), column)] = std::stol(shown.at(row, column));
  return figures;
}

// One thread of a process stands still while this lives.
class FrozenThread {
 public:
  FrozenThread(pid_t pid, const std::string& name) {
    for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task"))
      if (read_file((entry.path() / "comm").string()) == name + "\n")
        thread_ = std::stoi(entry.path().filename().string());
    frozen_ = thread_ > 0 && ptrace(PTRACE_SEIZE, thread_, nullptr, nullptr) == 0 &&
              ptrace(PTRACE_INTERRUPT, thread_, nullptr, nullptr) == 0 &&
              waitpid(thread_, nullptr, __WALL) == thread_;
  }
  ~FrozenThread() {
    if (frozen_) ptrace(PTRACE_DETACH, thread_, nullptr, nullptr);
  }
  FrozenThread(const FrozenThread&) = delete;
  FrozenThread& operator=(const FrozenThread&) = delete;
  bool frozen() const { return frozen_; }

 private:
  pid_t thread_ = 0;
  bool frozen_ = false;
};

}  // namespace

TEST_SUITE("integration/console") {
  TEST_CASE(
      "every SHOW command answers with columns, over the simple protocol, in any case, with or "
      "without a semicolon") {
    ProxyProcess proxy(config_for(shared_cluster()));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    CHECK(client.scalar("select 1") == "1");
    Connection console = proxy.console();
    REQUIRE_MESSAGE(console.ok(), console.error());
    for (const std::string what : {"POOLS", "CLIENTS", "SERVERS", "NODES", "TENANTS", "STATS",
                                   "STATEMENTS", "CONFIG", "VERSION", "HELP"}) {
      for (const std::string& sql : {"SHOW " + what, "show " + what + ";"}) {
        CAPTURE(sql);
        const Result result = console.exec(sql);
        CHECK_MESSAGE(result.ok(), result.scalar());
        CHECK(result.columns() >= 1);
        CHECK(result.rows() >= 1);
      }
    }
    CHECK(!console.exec("SHOW NONSENSE").ok());
    CHECK(!console.exec("select 1 from nowhere").ok());
    CHECK(console.exec("SHOW VERSION").ok());  // an error does not end the console
  }

  TEST_CASE("tables of PgBouncer's names begin with its columns, numbers are int8, and an unused one is empty") {
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "3"));
    Connection client = proxy.connect("app", "app", "sslmode=disable application_name=seen");
    CHECK(client.exec("begin").ok());
    CHECK(client.scalar("select 1") == "1");
    Connection console = proxy.console();
    const std::string connection =
        "type user database state addr port local_addr local_port connect_time request_time wait wait_us "
        "close_needed ptr link remote_pid tls application_name";
    const std::string part =
        "database xact_count query_count bytes_received bytes_sent xact_time query_time wait_time";
    const std::map<std::string, std::string> expected = {
        {"CLIENTS", connection},
        {"SERVERS", connection},
        {"SOCKETS", connection},
        {"ACTIVE_SOCKETS", connection},
        {"POOLS", "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active "
                  "sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us "
                  "pool_mode"},
        {"LISTS", "list items"},
        {"USERS", "name pool_mode"},
        {"DATABASES", "name host port database force_user pool_size min_pool_size reserve_pool pool_mode "
                      "max_connections current_connections paused disabled"},
        {"STATS", "database total_xact_count total_query_count total_received total_sent total_xact_time "
                  "total_query_time total_wait_time avg_xact_count avg_query_count avg_recv avg_sent "
                  "avg_xact_time avg_query_time avg_wait_time"},
        {"STATS_TOTALS", part},
        {"STATS_AVERAGES", part},
        {"TOTALS", "name value"},
        {"MEM", "name size used free memtotal"},
        {"CONFIG", "key value default changeable"},
        {"STATE", "key value"},
        {"VERSION", "version"},
        {"DNS_HOSTS", "hostname ttl addrs"},
        {"DNS_ZONES", "zonename serial count"},
        {"PEERS", "peer_id host port pool_size"},
        {"PEER_POOLS", "peer_id cl_active_cancel_req cl_waiting_cancel_req sv_active_cancel sv_login"}};
    for (const auto& [table, columns] : expected) {
      CAPTURE(table);
      const Result shown = console.exec("SHOW " + table);
      REQUIRE_MESSAGE(shown.ok(), shown.scalar());
      CHECK(columns_of(shown).starts_with(columns));
      for (int column = 0; column < shown.columns(); ++column) {
        const Oid type = PQftype(shown.raw(), column);
        CHECK((type == 20 || type == 25));
      }
    }
    CHECK(console.exec("SHOW PEERS").rows() == 0);
    const Result refused = console.exec("SHOW FDS");
    CHECK(refused.code() == "0A000");

    const Result clients = console.exec("SHOW CLIENTS");
    const int own = row_with(clients, "user", "app");
    REQUIRE(own >= 0);
    CHECK(clients.at(own, "database") == "app");
    CHECK(clients.at(own, "state") == "active");
    CHECK(clients.at(own, "application_name") == "seen");
    CHECK(clients.at(own, "local_port") == std::to_string(proxy.port()));
    CHECK(clients.at(own, "connect_time").ends_with(" UTC"));
    const Result servers = console.exec("SHOW SERVERS");
    const int link = row_with(servers, "id", clients.at(own, "link"));
    REQUIRE(link >= 0);
    CHECK(servers.at(link, "user") == "app");
    CHECK(servers.at(link, "state") == "active");
    CHECK(servers.at(link, "link") == clients.at(own, "id"));
    CHECK(client.exec("commit").ok());
  }

  TEST_CASE("SHOW POOLS has one row per database and user, with its clients, servers and the longest wait") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("", "workers", "2")
                           .set("pool", "size", "1")
                           .set("pool", "servers_per_database", "30")
                           .set("listen", "clients_per_database", "60")
                           .set("listen", "clients_per_user", "70"));
    REQUIRE(proxy.ready(2));
    Connection holder = proxy.connect(), waiter = proxy.connect(), idle = proxy.connect();
    CHECK(idle.scalar("select 1") == "1");
    CHECK(holder.exec("begin").ok());
    CHECK(holder.scalar("select 1") == "1");
    CHECK(waiter.send("begin"));
    Connection console = proxy.console();
    const auto shown = [&console] {
      const Result pools = console.exec("SHOW POOLS");
      std::string rows;
      for (int row = 0; row < pools.rows(); ++row)
        for (const std::string column : {"database", "user", "cl_active", "cl_waiting", "sv_active", "pool_mode"})
          rows += pools.at(row, column) + " ";
      return rows;
    };
    CHECK_MESSAGE(eventually([&] { return shown() == "app app 2 1 1 transaction "; }), shown());
    CHECK(eventually([&] { return std::stol(console.exec("SHOW POOLS").at(0, "maxwait_us")) > 0; }));
    const Result nodes = console.exec("SHOW NODE_POOLS");
    const int primary = row_with(nodes, "role", "primary");
    REQUIRE(primary >= 0);
    CHECK(nodes.at(primary, "sv_active") == "1");
    CHECK(nodes.at(primary, "cl_waiting") == "1");
    CHECK(nodes.at(primary, "pool_size") == "1");
    const Result databases = console.exec("SHOW DATABASES");
    const int app = row_with(databases, "name", "app");
    REQUIRE(app >= 0);
    CHECK(databases.at(app, "current_client_connections") == "3");
    CHECK(std::stol(databases.at(app, "current_connections")) >= 1);
    const Result users = console.exec("SHOW USERS");
    CHECK(users.at(row_with(users, "name", "app"), "current_client_connections") == "3");
    const int user = row_with(users, "name", "app");
    CHECK(users.at(user, "max_user_connections") == "0");
    CHECK(users.at(user, "max_user_client_connections") == "70");
    CHECK(databases.at(app, "min_pool_size") == "0");
    CHECK(databases.at(app, "max_connections") == "30");
    CHECK(databases.at(app, "max_client_connections") == "60");
    CHECK(users.at(row_with(users, "name", "postgres"), "console") == "admin");
    const Result lists = console.exec("SHOW LISTS");
    CHECK(lists.at(row_with(lists, "list", "used_clients"), "items") == "4");
    CHECK(lists.at(row_with(lists, "list", "pools"), "items") == "1");
    CHECK(holder.exec("rollback").ok());
    CHECK(waiter.finish().ok());
    CHECK(waiter.exec("rollback").ok());
    for (Connection* one : {&holder, &waiter, &idle}) one->close();
    CHECK_MESSAGE(eventually([&] { return shown() == "app app 0 0 0 transaction "; }), shown());
  }

  TEST_CASE("SHOW STATS counts transactions, statements, bytes and times by database, and averages of a period") {
    ProxyProcess proxy(config_for(shared_cluster()).set("admin", "stats_period", "\"300ms\""));
    REQUIRE(proxy.ready(2));
    Connection console = proxy.console();
    Connection client = proxy.connect();
    CHECK(client.scalar("select 1") == "1");
    const auto before = stats_of(console, "app");
    for (int i = 0; i < 3; ++i) CHECK(client.scalar("select 1") == "1");
    CHECK(client.exec("begin").ok());
    std::this_thread::sleep_for(50ms);  // this is measured
    CHECK(client.scalar("select 1") == "1");
    CHECK(client.exec("commit").ok());
    CHECK(client.exec("select 1/0").code() == "22012");
    const auto after = stats_of(console, "app");
    const auto more = [&](const std::string& column) { return after.at(column) - before.at(column); };
    CHECK(more("total_query_count") == 7);
    CHECK(more("total_xact_count") == 5);
    CHECK(more("total_server_assignment_count") == 5);
    CHECK(more("total_received") > 50);
    CHECK(more("total_sent") > 300);
    CHECK(more("total_query_time") > 0);
    CHECK(more("total_xact_time") - more("total_query_time") >= 50'000);
    CHECK(more("total_xact_time") - more("total_query_time") < 5'000'000);
    const auto received = metric(proxy.metrics(), "pgsluice_client_received_bytes_total");
    REQUIRE(received.has_value());
    CHECK(*received > static_cast<double>(after.at("total_received")));  // and what was sent at login
    CHECK(eventually([&] {
      CHECK(client.scalar("select 1") == "1");
      const auto now = stats_of(console, "app");
      return now.at("avg_query_count") > 0 && now.at("avg_query_time") > 0 && now.at("avg_recv") > 0;
    }));
    CHECK(eventually([&] { return stats_of(console, "app").at("avg_query_count") == 0; }));  // a quiet period
    const Result totals = console.exec("SHOW TOTALS");
    CHECK(std::stol(totals.at(row_with(totals, "name", "total_query_count"), "value")) >= 7);
    CHECK(console.exec("SHOW STATS_TOTALS").at(0, "query_count") == std::to_string(stats_of(console, "app").at("total_query_count")));
    const Result routes = console.exec("SHOW ROUTES");
    CHECK(std::stol(routes.at(row_with(routes, "reason", "read"), "count")) > 0);
  }

  TEST_CASE("several statements in one text are answered one after the other; the first error ends them") {
    ProxyProcess proxy(config_for(shared_cluster()));
    RawClient raw(proxy.port());
    REQUIRE(raw.login("postgres", "pgsluice"));
    raw.send(query_message("show version; -- and\nshow state; select 1"));
    CHECK(types(raw.read_until('Z')) == "TDCTDDDDDDDDCTDCZ");
    raw.send(query_message("show version; show nothing; show version"));
    const auto failed = raw.read_until('Z');
    CHECK(types(failed) == "TDCEZ");
    CHECK(failed[3].field('C') == "42601");
    raw.send(query_message(" ; "));
    CHECK(types(raw.read_until('Z')) == "IZ");
    raw.send(query_message("show 'version"));
    CHECK(types(raw.read_until('Z')) == "EZ");
  }

  TEST_CASE("what is misspelt gets a suggestion") {
    ProxyProcess proxy(config_for(shared_cluster()));
    Connection console = proxy.console();
    const auto hint = [&console](const std::string& sql) {
      const Result result = console.exec(sql);
      CHECK(result.code() == "42601");
      const char* text = PQresultErrorField(result.raw(), PG_DIAG_MESSAGE_HINT);
      return std::string(text == nullptr ? "" : text);
    };
    CHECK(hint("show clinets").find("SHOW CLIENTS") != std::string::npos);
    CHECK(hint("relaod").find("RELOAD") != std::string::npos);
    CHECK(hint("select * from pg_class") == "SHOW HELP lists the commands.");
    CHECK(hint("reload now please") != "");
  }

  TEST_CASE("the extended protocol: described without being run, in pieces, errors up to Sync, no parameters") {
    ProxyProcess proxy(config_for(shared_cluster()));
    RawClient raw(proxy.port());
    REQUIRE(raw.login("postgres", "pgsluice"));
    // A described SHUTDOWN does not shut down.
    raw.send(parse_message("s", "shutdown") + describe_message('S', "s") + sync_message());
    CHECK(types(raw.read_until('Z')) == "1tnZ");
    raw.send(parse_message("lists", "SHOW LISTS;") + describe_message('S', "lists") + sync_message());
    CHECK(types(raw.read_until('Z')) == "1tTZ");
    raw.send(bind_message("p", "lists") + describe_message('P', "p") + execute_message("p", 2) +
             execute_message("p", 3) + execute_message("p") + close_message('P', "p") + sync_message());
    const std::string answer = types(raw.read_until('Z'));
    CHECK(answer.starts_with("2TDDsDDDsDDD"));
    CHECK(answer.ends_with("DC3Z"));
    // An error discards what follows, up to Sync.
    raw.send(parse_message("", "show nothing") + bind_message("", "") + execute_message("") + sync_message());
    CHECK(types(raw.read_until('Z')) == "EZ");
    const auto refused = [&raw](const std::string& messages) {
      raw.send(messages + sync_message());
      const auto answers = raw.read_until('Z');
      for (const Message& one : answers)
        if (one.type == 'E') return one.field('C');
      return std::string();
    };
    CHECK(refused(parse_message("lists", "show lists")) == "42P05");
    CHECK(refused(parse_message("", "show lists; show lists")) == "42601");
    CHECK(refused(bind_message("", "unknown")) == "26000");
    CHECK(refused(execute_message("unknown")) == "34000");
    CHECK(refused(bind_message("", "lists", {"1"})) == "08P01");
    for (int i = 0; i < 20; ++i) raw.send(bind_message("p" + std::to_string(i), "lists"));
    CHECK(refused("") == "54000");
    raw.send(message('F', int32_bytes(1)));  // needs no Sync
    CHECK(raw.read_until('Z').front().field('C') == "0A000");
    // Portals end with Sync, as outside a transaction in Postgres.
    CHECK(refused(execute_message("p1")) == "34000");
    CHECK(refused(bind_message("", "lists") + execute_message("")) == "");
    raw.send(message('?', ""));
    CHECK(raw.read_until('E').back().field('C') == "08P01");
    CHECK(raw.wait_closed());
    CHECK(proxy.running());
  }

  TEST_CASE("a transaction is believed in: its state is told, and an error has to be rolled back") {
    ProxyProcess proxy(config_for(shared_cluster()));
    Connection console = proxy.console();
    CHECK(console.exec("begin").ok());
    CHECK(console.transaction() == PQTRANS_INTRANS);
    CHECK(console.exec("show version").ok());
    CHECK(!console.exec("show nothing").ok());
    CHECK(console.transaction() == PQTRANS_INERROR);
    CHECK(console.exec("show version").code() == "25P02");
    CHECK(console.exec("commit").tag() == "ROLLBACK");
    CHECK(console.transaction() == PQTRANS_IDLE);
    CHECK(console.exec("show version").ok());
  }

  TEST_CASE("SET changes a live option until the file is read again, and tells what it will not change") {
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "5").set("admin", "stats_users", "[\"other\"]"));
    Connection console = proxy.console();
    const auto size = [&console] {
      const Result config = console.exec("SHOW CONFIG");
      return config.at(row_with(config, "key", "pool.size"), "value");
    };
    CHECK(console.exec("SET pool.size = 9").ok());
    CHECK(size() == "9");
    CHECK(console.exec("set pool.size to '8'").ok());
    CHECK(size() == "8");
    CHECK(console.exec("SET pool.size = 0").code() == "22023");
    CHECK(console.exec("SET pool.siz = 1").code() == "42704");
    CHECK(console.exec("SET listen.port = 1").code() == "22023");
    CHECK(console.exec("SET pool.size").code() == "42601");
    CHECK(proxy.connect("other", "pgsluice").exec("SET pool.size = 1").code() == "42501");
    CHECK(size() == "8");
    CHECK(console.exec("SET auth.query_password = 'never-shown'").ok());
    CHECK(proxy.log().find("never-shown") == std::string::npos);
    CHECK(proxy.log().find("auth.query_password") != std::string::npos);
    CHECK(console.exec("RELOAD").ok());
    CHECK(size() == "5");
    // What an admin is no longer, counts from the next command on.
    CHECK(console.exec("SET admin.users = 'somebody'").ok());
    CHECK(eventually([&console] { return console.exec("RELOAD").code() == "42501"; }));
  }

  TEST_CASE("requirement 36: the console works while the proxy drains, and shows it") {
    ProxyProcess proxy(config_for(shared_cluster()).set("", "shutdown_timeout", "\"20s\""));
    Connection working = proxy.connect();
    CHECK(working.exec("begin").ok());
    CHECK(working.scalar("select 1") == "1");
    proxy.signal(SIGTERM);
    Connection console = proxy.console();
    REQUIRE_MESSAGE(console.ok(), console.error());
    CHECK(eventually([&console] {
      const Result state = console.exec("SHOW STATE");
      return state.at(row_with(state, "key", "draining"), "value") == "yes";
    }));
    CHECK(row_with(console.exec("SHOW CLIENTS"), "user", "app") >= 0);
    CHECK(console.exec("SHOW POOLS").rows() == 1);
    CHECK(working.exec("commit").ok());
    CHECK(proxy.wait(5s) == 0);
  }

  TEST_CASE("a worker that does not answer is left out after a while, and the answer says so") {
    ProxyProcess proxy(config_for(shared_cluster()).set("", "workers", "2"));
    std::vector<Connection> clients;
    for (int i = 0; i < 4; ++i) clients.push_back(proxy.connect());
    Connection console = proxy.console();
    const Result whole = console.exec("SHOW CLIENTS");
    const int own = row_with(whole, "state", "console");
    REQUIRE(own >= 0);
    CHECK(console.notices().empty());
    const std::string other = whole.at(own, "worker") == "0" ? "1" : "0";
    {
      const FrozenThread frozen(proxy.pid(), "worker" + other);
      REQUIRE(frozen.frozen());
      const Stopwatch watch;
      const Result part = console.exec("SHOW CLIENTS");
      CHECK(watch.elapsed() < 5s);
      CHECK(part.ok());
      CHECK(row_with(part, "state", "console") >= 0);
      CHECK(row_with(part, "worker", other) < 0);
      REQUIRE(console.notices().size() == 1);
      CHECK(console.notices()[0].find("worker " + other) != std::string::npos);
      CHECK(console.exec("SHOW STATS").ok());  // needs no worker
    }
    CHECK(eventually([&] { return console.exec("SHOW CLIENTS").rows() == whole.rows(); }));
  }

  TEST_CASE("a thousand clients are shown whole, and a console that reads nothing costs no more than its buffer") {
    ProxyProcess proxy(config_for(shared_cluster()).set("", "workers", "2"));
    std::vector<RawClient> clients;
    for (int i = 0; i < 1000; ++i) {
      clients.emplace_back(proxy.port());
      REQUIRE(clients.back().login());
    }
    Connection console = proxy.console();
    const Result shown = console.exec("SHOW CLIENTS");
    CHECK(shown.rows() == 1001);
    std::set<std::string> ids;
    for (int row = 0; row < shown.rows(); ++row) ids.insert(shown.at(row, "id"));
    CHECK(ids.size() == 1001);
    RawClient deaf(proxy.port());
    deaf.set_receive_buffer(65536);
    REQUIRE(deaf.login("postgres", "pgsluice"));
    std::string many;
    for (int i = 0; i < 1500; ++i) many += "show config;";
    deaf.send(query_message(many));
    const auto unsent = [&console] {
      const Result sockets = console.exec("SHOW ACTIVE_SOCKETS");
      long most = 0;
      for (int row = 0; row < sockets.rows(); ++row) most = std::max(most, std::stol(sockets.at(row, "send_avail")));
      return most;
    };
    CHECK(eventually([&] { return unsent() > 0; }));
    CHECK(stays([&] { return unsent() < 1'000'000; }, 1s));  // the whole is some 20 MB
    std::string answer = types(deaf.read_until('Z', 30s));
    CHECK(std::count(answer.begin(), answer.end(), 'C') == 1500);
    CHECK(answer.ends_with("CZ"));
  }

  TEST_CASE("SHOW NODES tells roles and lag as they are") {
    PgCluster& cluster = shared_cluster();
    ProxyProcess proxy(config_for(cluster));
    REQUIRE(proxy.ready(2));
    Connection console = proxy.console();
    const Result nodes = console.exec("SHOW NODES");
    CHECK(nodes.rows() == 3);
    CHECK(nodes.has_column("role"));
    CHECK(proxy.node_is(cluster.address(0), "primary"));
    CHECK(proxy.node_is(cluster.address(1), "replica"));
    CHECK(proxy.node_is(cluster.address(2), "replica"));
  }

  TEST_CASE("SHOW CONFIG shows values in force and keeps secrets to itself") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("pool", "size", "17")
                           .set("user.other", "password", "\"other-secret\""));
    const Result config = proxy.console().exec("SHOW CONFIG");
    CHECK(config.has_column("key"));
    CHECK(config.has_column("value"));
    const int size = row_with(config, "key", "pool.size");
    REQUIRE(size >= 0);
    CHECK(config.at(size, "value") == "17");
    for (int row = 0; row < config.rows(); ++row)
      for (int column = 0; column < config.columns(); ++column)
        CHECK(config.at(row, column).find("-secret") == std::string::npos);
  }

  TEST_CASE("ordinary users get nothing, stats_users read, admin users act") {
    ProxyProcess proxy(config_for(shared_cluster()).set("admin", "stats_users", "[\"other\"]"));
    CHECK(!proxy.connect("app", "pgsluice").ok());
    Connection stats = proxy.connect("other", "pgsluice");
    REQUIRE_MESSAGE(stats.ok(), stats.error());
    CHECK(stats.exec("SHOW POOLS").ok());
    CHECK(stats.exec("SHUTDOWN").code() == "42501");
    CHECK(stats.exec("RELOAD").code() == "42501");
    CHECK(proxy.running());
    CHECK(proxy.console().exec("RELOAD").ok());
  }

  TEST_CASE("RELOAD and SIGHUP take a new configuration; a bad one changes nothing and says why") {
    ProxyConfig config = config_for(shared_cluster());
    ProxyProcess proxy(config);
    Connection stays_connected = proxy.connect();
    CHECK(stays_connected.scalar("select 1") == "1");
    const auto size = [&proxy] {
      const Result shown = proxy.console().exec("SHOW CONFIG");
      const int row = row_with(shown, "key", "pool.size");
      return row < 0 ? std::string() : shown.at(row, "value");
    };
    proxy.rewrite(config.set("pool", "size", "7"));
    CHECK(proxy.console().exec("RELOAD").ok());
    CHECK(eventually([&] { return size() == "7"; }, 5s));
    proxy.rewrite(config.set("pool", "size", "8"));
    proxy.signal(SIGHUP);
    CHECK(eventually([&] { return size() == "8"; }, 5s));
    proxy.rewrite(config.set("pool", "size", "\"many\"").set("routing", "max_lag", "\"very\""));
    const Result refused = proxy.console().exec("RELOAD");
    CHECK(!refused.ok());
    CHECK((refused.message() + refused.detail()).find("pool.size") != std::string::npos);
    CHECK(size() == "8");
    proxy.signal(SIGHUP);
    CHECK(eventually([&proxy] { return proxy.log().find("routing.max_lag") != std::string::npos; }, 5s));
    for (const std::string wrong : {"pool.size is \"many\"", "routing.max_lag is \"very\""}) {  // a line each
      const std::string log = proxy.log();
      const std::string until = log.substr(0, log.find(wrong) + wrong.size());
      const std::string line = until.substr(until.rfind('\n') + 1);
      CHECK(line.find("error reload: nothing has changed: ") != line.npos);
      CHECK(line.find(" is \"") == line.rfind(" is \""));
    }
    CHECK(size() == "8");
    CHECK(stays_connected.scalar("select 1") == "1");
  }

  TEST_CASE("a reload applies new limits to tenants that are connected") {
    ProxyConfig config = config_for(shared_cluster()).set("tenant", "rate_wait", "\"0\"");
    ProxyProcess proxy(config);
    Connection client = proxy.connect();
    for (int i = 0; i < 20; ++i) CHECK(client.scalar("select 1") == "1");
    proxy.rewrite(config.set("tenant.app", "rate", "1").set("tenant.app", "burst", "1"));
    CHECK(proxy.console().exec("RELOAD").ok());
    CHECK(eventually([&client] { return client.exec("select 1").code() == "53400"; }, 5s));
  }

  TEST_CASE(
      "requirement 36: SIGTERM lets transactions finish, tells clients 57P01, refuses new ones, and "
      "ends with 0") {
    ProxyProcess proxy(config_for(shared_cluster()).set("", "shutdown_timeout", "\"20s\""));
    Table table(shared_cluster(), "console_drain", "n int");
    RawClient idle(proxy.port());
    REQUIRE(idle.login());
    Connection working = proxy.connect();
    CHECK(working.exec("begin").ok());
    CHECK(working.exec("insert into console_drain values (1)").ok());
    proxy.signal(SIGTERM);
    const auto goodbye = idle.read_until('E', 5s);
    REQUIRE(!goodbye.empty());
    CHECK(goodbye.back().field('C') == "57P01");
    CHECK(goodbye.back().field('S') == "FATAL");
    CHECK(idle.wait_closed());
    CHECK(working.exec("insert into console_drain values (2)").ok());
    CHECK(working.exec("commit").ok());
    CHECK(proxy.wait(5s) == 0);
    CHECK(shared_cluster().ask(0, "select count(*) from console_drain") == "2");
  }

  TEST_CASE("requirement 36: a second SIGTERM ends at once") {
    ProxyProcess proxy(config_for(shared_cluster()).set("", "shutdown_timeout", "\"60s\""));
    Connection working = proxy.connect();
    CHECK(working.exec("begin").ok());
    CHECK(working.exec("select 1").ok());
    proxy.signal(SIGTERM);
    CHECK(!proxy.wait(400ms));
    proxy.signal(SIGTERM);
    CHECK(proxy.wait(3s).has_value());
  }

  TEST_CASE("shutdown_timeout bounds the drain") {
    ProxyProcess proxy(config_for(shared_cluster()).set("", "shutdown_timeout", "\"500ms\""));
    Connection working = proxy.connect();
    CHECK(working.exec("begin").ok());
    CHECK(working.exec("select 1").ok());
    proxy.signal(SIGTERM);
    CHECK(proxy.wait(5s) == 0);
    CHECK(!working.exec("select 1").ok());
  }

  TEST_CASE("SHUTDOWN on the console ends the proxy cleanly") {
    ProxyProcess proxy(config_for(shared_cluster()));
    Connection client = proxy.connect();
    CHECK(client.scalar("select 1") == "1");
    proxy.console().exec("SHUTDOWN");
    CHECK(proxy.wait(10s) == 0);
  }
}
