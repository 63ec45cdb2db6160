#include <csignal>

#include "tests/integration/fixture.h"
#include "tests/support/gate.h"
#include "tests/support/raw_client.h"

// Server connections while nobody uses them, and what costs one its place: what they say unasked, settings that
// they refuse.
using namespace integration;

namespace {

// Everything of one server of the primary goes through a Gate, so that it can be made to say what it likes.
struct Talkative {
  PgCluster& cluster = shared_cluster();
  Gate gate{cluster.port(0)};
  ProxyProcess proxy;

  explicit Talkative(const std::string& cleanup = "\"5s\"")
      : proxy(config_for(cluster)
                  .servers({gate.address()})
                  .set("pool", "size", "1")
                  .set("pool", "cleanup_timeout", cleanup)) {
    REQUIRE(proxy.ready(0));
  }
  // As server connections of user app begin; probes do not.
  void say(const std::string& bytes) { gate.say(std::string("user\0app\0", 9), bytes); }
  double closed(const std::string& why) const {
    return metric(proxy.metrics(), "pgsluice_server_closes_total", {"reason=\"" + why + "\""}).value_or(-1);
  }
};

std::string parameter_status(const std::string& name, const std::string& value) {
  return message('S', name + '\0' + value + '\0');
}
const std::string kNotice = message('N', std::string("SNOTICE\0C00000\0Mpsst\0\0", 22));
const std::string kNotification = message('A', int32_bytes(7) + std::string("news\0psst\0", 10));

}  // namespace

TEST_SUITE("integration/servers") {
  TEST_CASE("requirement 14: what an idle server tells reaches nobody, neither those who are there nor who comes next") {
    Talkative it;
    RawClient there(it.proxy.port());
    REQUIRE(there.login());
    there.send(query_message("select pg_backend_pid()"));
    const auto before = there.read_until('Z');
    REQUIRE(types(before) == "TDCZ");
    it.say(kNotice + kNotification + parameter_status("application_name", "psst"));
    const auto heard = [&it] {
      const Result servers = it.proxy.console().exec("show servers");
      return servers.rows() == 1;
    };
    CHECK(stays(heard, 100ms));
    CHECK_FALSE(there.read(50ms));
    RawClient next(it.proxy.port());
    REQUIRE(next.login());
    next.send(query_message("select pg_backend_pid()"));
    const auto after = next.read_until('Z');
    REQUIRE(types(after) == "TDCZ");
    CHECK(after[1].columns() == before[1].columns());  // and it cost the server nothing
    there.send(query_message("select 1"));
    CHECK(types(there.read_until('Z')) == "TDCZ");
    CHECK(it.closed("unexpected_message") == 0);
  }

  TEST_CASE("requirement 13: a server that says anything else unasked is closed, and the next client gets another") {
    Talkative it;
    Connection client = it.proxy.connect();
    const std::vector<std::string> words = {
        message('Z', "I"),
        message('C', std::string("SELECT 1\0", 9)),
        message('D', int16_bytes(1) + int32_bytes(1) + "x"),
        message('1', ""),
        message('G', std::string("\0\0\0", 3)),
        message('E', std::string("SERROR\0C22012\0Mlate\0\0", 22)),
        std::string("?\0\0\0\1", 5),
    };
    for (std::size_t i = 0; i < words.size(); ++i) {
      CAPTURE(i);
      CHECK(client.scalar("begin; select 1") == "1");
      CHECK(client.exec("commit").ok());
      it.say(words[i]);
      // An error is taken for its last words.
      const auto closed = [&] { return it.closed("unexpected_message") + it.closed("lost"); };
      CHECK(eventually([&] { return closed() == static_cast<double>(i + 1); }));
    }
    CHECK(client.scalar("select 2") == "2");
  }

  TEST_CASE("requirement 13: a server that cannot be cleaned in time behind a client that vanished is closed") {
    Talkative it("\"200ms\"");
    RawClient vanishing(it.proxy.port());
    REQUIRE(vanishing.login());
    vanishing.send(query_message("begin; select 1"));
    CHECK(types(vanishing.read_until('Z')) == "CTDCZ");
    it.gate.stop();
    vanishing.reset();
    CHECK(eventually([&] { return it.closed("reset_failed") + it.closed("client_vanished") == 1; }));
    it.gate.go();
    CHECK(eventually([&] { return it.proxy.connect().scalar("begin; select 2") == "2"; }));
  }

  TEST_CASE("requirement 11: a setting that a server refuses costs that server its place, and nobody his connection") {
    PgCluster& cluster = shared_cluster();
    Connection owner = cluster.connect(0);
    owner.exec("drop role if exists servers_role");
    REQUIRE(owner.exec("create role servers_role; grant servers_role to app").ok());
    ProxyProcess proxy(config_for(cluster).set("pool", "size", "1").servers({cluster.address(0)}));
    RawClient client(proxy.port());
    REQUIRE(client.login());
    client.send(query_message("set role servers_role"));
    CHECK(types(client.read_until('Z')) == "CZ");
    CHECK(proxy.connect().scalar("select current_user") == "app");
    REQUIRE(owner.exec("drop role servers_role").ok());
    client.send(query_message("select 1"));
    const auto refused = client.read_until('Z');
    REQUIRE(types(refused) == "EZ");
    CHECK(refused[0].field('S') == "ERROR");
    CHECK(refused[0].field('C') == "08006");
    CHECK(refused[0].field('M').find("select 1") == std::string::npos);
    CHECK(metric(proxy.metrics(), "pgsluice_server_closes_total", {"reason=\"replay_failed\""}) == 1);
    CHECK(proxy.connect().scalar("select current_user") == "app");
    REQUIRE(owner.exec("create role servers_role; grant servers_role to app").ok());
    client.send(query_message("select 2"));
    CHECK(types(client.read_until('Z')) == "TDCZ");
    CHECK(owner.exec("drop role servers_role").ok());
  }

  TEST_CASE("requirement 27: servers of clients run what clients say, and no look-up of ours") {
    PgCluster cluster({.replicas = 0, .settings = {"log_statement = all", "log_line_prefix = '%u|'"}});
    ProxyProcess proxy(config_for(cluster));
    REQUIRE(proxy.ready(0));
    Connection client = proxy.connect();
    const std::vector<std::string> said = {
        "create table servers_new (n int)",
        "create function servers_f() returns int stable language sql as 'select 1'",
        "select servers_f(), n from servers_new",
        "select lower('X'), nosuch()",
        "insert into servers_new values (1)",
        "select * from pg_class limit 1",
    };
    for (const std::string& sql : said) (void)client.exec(sql);
    const auto ours = [&cluster] {
      std::vector<std::string> found;
      const std::string log = cluster.log(0), mark = "app|LOG:  statement: ";
      for (std::size_t at = log.find(mark); at != std::string::npos; at = log.find(mark, at + 1))
        found.push_back(log.substr(at + mark.size(), log.find('\n', at) - at - mark.size()));
      return found;
    };
    REQUIRE(eventually([&] { return !ours().empty() && ours().back() == said.back(); }));
    std::vector<std::string> found = ours();
    // At its login each server is asked which postmaster it is of.
    std::erase_if(found, [](const std::string& sql) {
      return sql.find("pg_postmaster_start_time") != std::string::npos;
    });
    CHECK(found == said);
  }

  TEST_CASE("requirement 28: probes need no place in a pool") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("cluster.main", "max_servers", "1"));
    REQUIRE(proxy.ready(2));
    Connection holder = proxy.connect(), waiter = proxy.connect();
    CHECK(holder.scalar("begin; select 1") == "1");
    REQUIRE(waiter.send("create table servers_never (n int)"));
    CHECK(stays([&proxy] { return proxy.ready(2); }, 700ms, 50ms));
    CHECK(waiter.busy());
    CHECK(waiter.cancel());
    CHECK(waiter.finish().code() == "57014");
  }

  TEST_CASE("requirement 36: a reload keeps servers whose pool it does not change") {
    ProxyConfig config = config_for(shared_cluster()).set("pool", "size", "1");
    ProxyProcess proxy(config);
    const auto pid = [](Connection& client) {
      std::string found = client.scalar("begin; select pg_backend_pid()");
      client.exec("commit");
      return found;
    };
    Connection client = proxy.connect();
    const std::string before = pid(client);
    proxy.rewrite(config.set("user.other", "pool_size", "3").set("routing", "max_lag", "\"7s\""));
    CHECK(proxy.console().exec("reload").ok());
    CHECK(pid(client) == before);
  }

  TEST_CASE("requirement 13: our own idle servers do not stand in the way of DROP DATABASE and its kin") {
    PgCluster& cluster = shared_cluster();
    ProxyProcess proxy(config_for(cluster).set("", "workers", "2").set("pool", "min_size", "1"));
    Connection admin = proxy.connect("postgres", "postgres");
    CHECK(admin.exec("create database servers_one").ok());
    const auto use = [&](const std::string& database) {
      // More than one, so that both workers have servers there.
      std::vector<Connection> clients;
      for (int i = 0; i < 4; ++i) clients.push_back(proxy.connect("postgres", database));
      for (Connection& client : clients) CHECK(client.scalar("begin; select 1") == "1");
      clients.clear();
      CHECK(eventually([&] {
        return cluster.ask(0, "select count(*) from pg_stat_activity where datname = '" + database +
                                  "' and state = 'idle in transaction'") == "0";
      }));
      CHECK(cluster.ask(0, "select count(*) > 0 from pg_stat_activity where datname = '" + database + "'") == "t");
    };
    // Postgres waits for five seconds before it gives up; nobody needs them.
    const auto quick = [&admin](const std::string& sql) {
      Stopwatch watch;
      const Result done = admin.exec(sql);
      CHECK_MESSAGE(done.ok(), done.scalar());
      CHECK(watch.elapsed() < 4s);
    };
    use("servers_one");
    quick("alter database servers_one rename to servers_two");
    use("servers_two");
    quick("create database servers_three template servers_two");
    use("servers_three");
    quick("drop database servers_three");
    use("servers_two");
    quick("DROP DATABASE IF EXISTS \"servers_two\"");
  }
}
