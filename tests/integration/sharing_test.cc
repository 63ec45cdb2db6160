#include <set>
#include <string>
#include <vector>

#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// Answers that are shared: `coalesce` and `cache` of [[route]] rules. What Postgres ran is read from its log.
using namespace integration;

namespace {

// What the primary has logged in passing, when it cleaned a page, goes to replicas with the next commit only; till then
// they stand below the primary's position. Where nobody else writes, this is that commit.
void commit_something(const PgCluster& cluster) {
  CHECK(cluster.connect(0).exec("select pg_logical_emit_message(true, 'test', '')").ok());
}

// Logs every statement; has a table `gate` of one row, which a Barrier keeps shut.
PgCluster& logging_cluster() {
  static PgCluster cluster({.replicas = 1, .settings = {"log_statement = 'all'"}});
  static const bool made = [] {
    Connection direct = cluster.connect(0);
    return direct.exec("create table gate as select 1 as n").ok() && direct.exec("grant select on gate to public").ok();
  }();
  CHECK(made);
  commit_something(cluster);
  cluster.wait_replicated();
  return cluster;
}

// While it lives, whoever reads `gate` waits.
class Barrier {
 public:
  explicit Barrier(const PgCluster& cluster) : holder_(cluster.connect(0)) {
    CHECK(holder_.exec("begin").ok());
    CHECK(holder_.exec("lock table gate in access exclusive mode").ok());
  }
  void open() { CHECK(holder_.exec("rollback").ok()); }

 private:
  Connection holder_;
};

// Reads run on the primary, where the barrier is, unless the rule says otherwise; nobody is impatient.
ProxyConfig with_rule(const PgCluster& cluster, const std::string& rule) {
  return config_for(cluster)
      .set("", "route", "[{ " + rule + " }]")
      .set("limits", "shared_wait", "\"1min\"")
      .set("pool", "size", "50");
}
const std::string kCoalesce = "target = \"primary\", statement_classes = [\"read\"], coalesce = true";

std::size_t count_of(const std::string& text, const std::string& what) {
  std::size_t count = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

// How often servers have begun a statement that begins so.
std::size_t runs(const PgCluster& cluster, const std::string& statement) {
  std::size_t count = 0;
  for (std::size_t node = 0; node < cluster.size(); ++node) {
    const std::string log = cluster.log(node);
    count += count_of(log, "  statement: " + statement) + count_of(log, ">: " + statement);
    for (int number = 1; number < 10; ++number)
      count += count_of(log, "  execute pgsluice_" + std::to_string(number) + ": " + statement);
  }
  return count;
}

// Servers of the primary that are at work on a statement that begins so. (One that waits in its Parse is not
// in the log yet.)
int at_work(const PgCluster& cluster, const std::string& statement) {
  return std::stoi(cluster.connect(0)
                       .exec("select count(*) from pg_stat_activity where state = 'active' and starts_with(query, $1)",
                             {statement})
                       .scalar());
}

// What is kept before the proxy has the catalogue, and calls any function a read, is forgotten then.
void wait_for_catalogue(const ProxyProcess& proxy) {
  Connection client = proxy.connect();
  CHECK(eventually([&] {
    const Result told = client.exec("explain route select pg_conversion_is_visible(1)");
    for (int row = 0; row < told.rows(); ++row)
      if (told.at(row, 0) == "class_reason") return told.at(row, 1) == "proven_read";
    return false;
  }));
}

// Clients that wait for another's answer.
int following(const ProxyProcess& proxy) {
  Connection console = proxy.console();
  const Result shown = console.exec("SHOW CLIENTS");
  int count = 0;
  for (int row = 0; row < shown.rows(); ++row) count += shown.at(row, "waiting_for") == "answer" ? 1 : 0;
  return count;
}

// So many clients that are logged in.
std::vector<RawClient> crowd(const ProxyProcess& proxy, std::size_t count) {
  std::vector<RawClient> clients;
  for (std::size_t i = 0; i < count; ++i) {
    clients.emplace_back(proxy.port());
    REQUIRE(clients.back().login());
  }
  return clients;
}

// An answer as "types first-column" or "types SQLSTATE".
std::string told(RawClient& client) {
  const std::vector<Message> said = client.read_until('Z', 20s);
  std::string answer = types(said);
  for (const Message& message : said) {
    if (message.type == 'D') answer += " " + message.columns().front();
    if (message.type == 'E') answer += " " + message.field('C');
  }
  return answer;
}

// Everybody says the same while the barrier is shut; what they are told, which is one thing when it is equal.
std::set<std::string> all_say(const PgCluster& cluster, const ProxyProcess& proxy, std::vector<RawClient>& clients,
                              std::size_t leaders, const std::string& bytes) {
  Barrier barrier(cluster);
  for (RawClient& client : clients) CHECK(client.send(bytes));
  const auto followers = static_cast<int>(clients.size() - leaders);
  CHECK(eventually([&] { return following(proxy) >= followers; }));
  barrier.open();
  std::set<std::string> answers;
  for (RawClient& client : clients) answers.insert(told(client));
  return answers;
}

std::string extended(const std::string& sql, const std::vector<std::string>& parameters = {}) {
  return parse_message("", sql) + bind_message("", "", parameters) + describe_message('P', "") + execute_message("") +
         sync_message();
}

}  // namespace

TEST_SUITE("integration/sharing") {
  TEST_CASE("stampede: a hundred clients ask the same at once, and Postgres runs it at most once per worker") {
    PgCluster& cluster = logging_cluster();
    ProxyProcess proxy(with_rule(cluster, kCoalesce).set("", "workers", "2"));
    REQUIRE(proxy.ready(1));
    std::vector<RawClient> clients = crowd(proxy, 100);
    CHECK(all_say(cluster, proxy, clients, 2, query_message("select 'simple' from gate")) ==
          std::set<std::string>{"TDCZ simple"});
    CHECK(runs(cluster, "select 'simple'") <= 2);
    CHECK(all_say(cluster, proxy, clients, 2, extended("select 'extended', $1::text from gate", {"a"})) ==
          std::set<std::string>{"12TDCZ extended"});
    CHECK(runs(cluster, "select 'extended'") <= 2);
    // What was not sent anywhere is the client's unnamed statement all the same.
    for (RawClient& client : clients) CHECK(client.send(bind_message("", "", {"b"}) + execute_message("") + sync_message()));
    for (RawClient& client : clients) CHECK(told(client) == "2DCZ extended");
    // Names count by what they stand for.
    for (std::size_t i = 0; i < clients.size(); ++i) {
      CHECK(clients[i].send(parse_message("mine" + std::to_string(i % 2), "select 'prepared' from gate") + sync_message()));
      CHECK(told(clients[i]) == "1Z");
    }
    {
      Barrier barrier(cluster);
      for (std::size_t i = 0; i < clients.size(); ++i)
        CHECK(clients[i].send(bind_message("", "mine" + std::to_string(i % 2)) + execute_message("") + sync_message()));
      CHECK(eventually([&] { return following(proxy) >= 98; }));
      barrier.open();
      for (RawClient& client : clients) CHECK(told(client) == "2DCZ prepared");
    }
    CHECK(runs(cluster, "select 'prepared'") <= 2);
    CHECK(metric(proxy.metrics(), "pgsluice_shared_answers_total", {"reason=\"flight\""}).value_or(0) >= 3 * 98);
    Connection console = proxy.console();
    const Result shown = console.exec("SHOW DIGESTS");
    for (int row = 0; row < shown.rows(); ++row)
      if (shown.at(row, "statement") == "select ? from gate") CHECK(std::stoi(shown.at(row, "shared")) >= 98);
    CHECK(console.exec("SHOW CACHE").rows() == 2);
  }

  TEST_CASE("promise 4: who asks as somebody else, of something else, or in another way, runs it by itself") {
    PgCluster& cluster = logging_cluster();
    ProxyProcess proxy(with_rule(cluster, "target = \"primary\", applications = [\"shares\"], coalesce = true"));
    REQUIRE(proxy.ready(1));
    const std::string more = "sslmode=disable application_name=shares";
    std::vector<Connection> clients;
    for (int i = 0; i < 2; ++i) clients.push_back(proxy.connect("app", "app", more));
    clients.push_back(proxy.connect("postgres", "app", more));  // another user
    clients.push_back(proxy.connect("app", "app", more));       // other settings
    CHECK(clients[3].exec("set extra_float_digits = 0").ok());
    clients.push_back(proxy.connect("app", "app", more));  // in a transaction
    CHECK(clients[4].exec("begin").ok());
    clients.push_back(proxy.connect("app", "app", more));  // pinned
    CHECK(clients[5].exec("create temp table own (n int)").ok());
    clients.push_back(proxy.connect("app", "app", "sslmode=disable application_name=other"));  // no rule
    {
      Barrier barrier(cluster);
      for (Connection& client : clients) CHECK(client.send("select 'alike' from gate"));
      CHECK(eventually([&] { return runs(cluster, "select 'alike'") == 6 && following(proxy) == 1; }));
      barrier.open();
    }
    for (Connection& client : clients) CHECK(client.finish().scalar() == "alike");
    CHECK(runs(cluster, "select 'alike'") == 6);
    // Other parameters; a limit of rows; what says something else each time.
    for (int i = 2; i < 7; ++i) clients.pop_back();
    CHECK(clients[0].exec("prepare_nothing").code() == "42601");
    const auto each = [&](const std::string& sql, const char* first, const char* second) {
      Barrier barrier(cluster);
      const char* values[] = {first, second};
      for (int i = 0; i < 2; ++i)
        CHECK(PQsendQueryParams(clients[static_cast<std::size_t>(i)].raw(), sql.c_str(), 1, nullptr, &values[i],
                                nullptr, nullptr, 0) == 1);
      CHECK(eventually([&] { return at_work(cluster, sql) == 2; }));
      CHECK(following(proxy) == 0);
      barrier.open();
      std::vector<std::string> said;
      for (int i = 0; i < 2; ++i) said.push_back(clients[static_cast<std::size_t>(i)].finish().scalar());
      return said;
    };
    CHECK(each("select 'p' || $1::text from gate", "one", "two") == std::vector<std::string>{"pone", "ptwo"});
    const std::vector<std::string> drawn = each("select $1::text || random() from gate", "r", "r");
    CHECK(drawn[0] != drawn[1]);
    const std::vector<std::string> made = each("select $1::text || gen_random_uuid() from gate", "u", "u");
    CHECK(made[0] != made[1]);
    (void)each("select $1::text || 'sampled' from gate tablesample bernoulli (100)", "s", "s");
  }

  TEST_CASE("a portal that is read in pieces is its client's alone, and so is what is behind a Flush") {
    PgCluster& cluster = logging_cluster();
    ProxyProcess proxy(with_rule(cluster, kCoalesce));
    REQUIRE(proxy.ready(1));
    std::vector<RawClient> clients = crowd(proxy, 2);
    Barrier barrier(cluster);
    const std::string bound = parse_message("", "select 'pieces' from gate, generate_series(1, 3)") + bind_message("", "");
    for (RawClient& client : clients) CHECK(client.send(bound + execute_message("", 1) + sync_message()));
    CHECK(eventually([&] { return at_work(cluster, "select 'pieces'") == 2; }));
    CHECK(following(proxy) == 0);
    barrier.open();
    for (RawClient& client : clients) CHECK(told(client) == "12DsZ pieces");
    Barrier again(cluster);
    for (RawClient& client : clients) CHECK(client.send(bound + execute_message("") + flush_message() + sync_message()));
    CHECK(eventually([&] { return at_work(cluster, "select 'pieces'") == 2; }));
    again.open();
    for (RawClient& client : clients) CHECK(told(client) == "12DDDCZ pieces pieces pieces");
  }

  TEST_CASE("promise 2: who has written is not given an answer from before, in flight or kept") {
    PgCluster& cluster = logging_cluster();
    Table table(cluster, "shared_rows", "n int");
    ProxyProcess proxy(with_rule(cluster, "statement_classes = [\"read\"], cache = \"1min\"")
                           .set("routing", "max_lag", "\"1h\""));
    REQUIRE(proxy.ready(1));
    const std::string ask = "select (select count(*) from shared_rows), pg_sleep(0.5)";
    wait_for_catalogue(proxy);
    Connection early = proxy.connect(), writer = proxy.connect(), other = proxy.connect();
    CHECK(early.send(ask));
    CHECK(eventually([&] { return runs(cluster, ask) == 1; }));
    CHECK(other.send(ask));
    CHECK(eventually([&] { return following(proxy) == 1; }));
    CHECK(writer.exec("insert into shared_rows values (1)").ok());
    CHECK(writer.scalar(ask) == "1");
    CHECK(early.finish().scalar() == "0");
    CHECK(other.finish().scalar() == "0");
    CHECK(runs(cluster, ask) == 2);
    // What was kept meanwhile is not for it, but for others; then its own answer is.
    CHECK(proxy.connect().scalar(ask) == "0");
    CHECK(runs(cluster, ask) == 2);
    CHECK(writer.scalar(ask) == "1");
    CHECK(runs(cluster, ask) == 3);
    CHECK(writer.scalar(ask) == "1");
    CHECK(proxy.connect().scalar(ask) == "1");
    CHECK(runs(cluster, ask) == 3);
    // At the primary too.
    Connection one = proxy.connect(), another = proxy.connect();
    for (Connection* client : {&writer, &one, &another}) CHECK(client->exec("set pgsluice.route = 'primary'").ok());
    const std::string count = "select count(*), 'primary' from shared_rows";
    CHECK(one.scalar(count) == "1");
    CHECK(writer.exec("insert into shared_rows values (2)").ok());
    CHECK(writer.scalar(count) == "2");
    CHECK(another.scalar(count) == "2");
    CHECK(runs(cluster, count) == 2);
    for (const char* scope : {"strong", "primary"}) {
      CAPTURE(scope);
      const std::size_t before = runs(cluster, count);
      for (Connection* client : {&one, &another}) {
        CHECK(client->exec("set pgsluice.consistency = '" + std::string(scope) + "'").ok());
        CHECK(client->scalar(count) == "2");
      }
      CHECK(runs(cluster, count) == before + 2);
    }
  }

  TEST_CASE("promise 2: who was told a newer answer is not told an older one that is kept") {
    PgCluster& cluster = logging_cluster();
    Table table(cluster, "seen_rows", "n int");
    ProxyProcess proxy(with_rule(cluster, "applications = [\"keeps\"], cache = \"1min\""));
    REQUIRE(proxy.ready(1));
    const std::string ask = "select count(*) from seen_rows";
    wait_for_catalogue(proxy);
    Connection keeper = proxy.connect(), fresh = proxy.connect(), session = proxy.connect();
    for (Connection* client : {&keeper, &fresh}) CHECK(client->exec("set application_name = 'keeps'").ok());
    CHECK(keeper.scalar(ask) == "0");
    CHECK(cluster.connect(0).exec("insert into seen_rows values (1)").ok());
    cluster.wait_replicated();
    CHECK(session.scalar(ask) == "1");
    CHECK(session.exec("set application_name = 'keeps'").ok());
    CHECK(fresh.scalar(ask) == "0");
    CHECK(runs(cluster, ask) == 2);
    CHECK(session.scalar(ask) == "1");
    CHECK(runs(cluster, ask) == 3);
  }

  TEST_CASE("promise 2: a session is told the same kept answer again, until it has seen or written anything else") {
    PgCluster& cluster = logging_cluster();
    Table table(cluster, "again_rows", "n int");
    ProxyProcess proxy(with_rule(cluster, "tables = [\"again_rows\"], statement_classes = [\"read\"], cache = \"1min\""));
    REQUIRE(proxy.ready(1));
    wait_for_catalogue(proxy);
    const std::string ask = "select count(*) from again_rows";
    const auto others_write = [&] {
      CHECK(cluster.connect(0).exec("insert into again_rows values (1)").ok());
      cluster.wait_replicated();
    };
    // Whoever ran it, and whoever was given it, while the primary moves on and replicas are probed.
    Connection leader = proxy.connect(), other = proxy.connect();
    for (int round = 0; round < 3; ++round) {
      for (Connection* client : {&leader, &other})
        for (int i = 0; i < 3; ++i) CHECK(client->scalar(ask) == "0");
      const std::size_t probes = cluster.log(1).size();
      others_write();
      CHECK(eventually([&] { return cluster.log(1).size() > probes; }));
    }
    CHECK(runs(cluster, ask) == 1);
    // It has seen something else; what it is told now is kept in the place of the other.
    CHECK(leader.scalar("select 1") == "1");
    CHECK(leader.scalar(ask) == "3");
    CHECK(runs(cluster, ask) == 2);
    CHECK(leader.scalar(ask) == "3");
    CHECK(runs(cluster, ask) == 2);
    // The other is not told what it was told before by another's number, but something newer.
    others_write();
    CHECK(std::stoi(other.scalar(ask)) >= 3);
    CHECK(other.exec("insert into again_rows values (2)").ok());
    CHECK(other.scalar(ask) == "5");
    CHECK(other.scalar(ask) == "5");
    // What it has seen in a transaction is newer than what is kept.
    others_write();
    CHECK(other.exec("begin").ok());
    CHECK(other.scalar(ask) == "6");
    CHECK(other.exec("commit").ok());
    CHECK(other.scalar(ask) == "6");
    CHECK(other.exec("insert into again_rows values (3)").ok());
    CHECK(other.scalar(ask) == "7");
  }

  TEST_CASE("promise 4: rows that a policy shows by a setting or a role are kept for who has the same") {
    PgCluster& cluster = logging_cluster();
    Connection direct = cluster.connect(0);
    for (const char* sql : {"create role auditor", "grant auditor to app", "create schema first", "create schema second",
                            "create table rls (tenant text)", "insert into rls values ('a'), ('b')",
                            "alter table rls enable row level security",
                            "create policy own on rls to app using (tenant = current_setting('app.tenant', true))",
                            "create policy every on rls using (current_user = 'auditor')", "grant select on rls to app, auditor",
                            "create table first.place as select 'first' as name",
                            "create table second.place as select 'second' as name",
                            "grant usage on schema first, second to app", "grant select on first.place, second.place to app",
                            "create table public.place as select 'app' as name", "grant select on public.place to app"}) {
      CAPTURE(sql);
      CHECK(direct.exec(sql).ok());
    }
    cluster.wait_replicated();
    ProxyProcess proxy(with_rule(cluster, "statement_classes = [\"read\"], consistency = \"eventual\", cache = \"1h\""));
    REQUIRE(proxy.ready(1));
    wait_for_catalogue(proxy);
    const std::string ask = "select coalesce(string_agg(tenant, ',' order by tenant), 'none') from rls";
    const std::string with_a = "sslmode=disable options='-c app.tenant=a'";
    Connection a = proxy.connect("app"), b = proxy.connect("app"), none = proxy.connect("app"),
               started = proxy.connect("app", "app", with_a), super = proxy.connect("postgres");
    CHECK(a.exec("set app.tenant = 'a'").ok());
    CHECK(b.exec("set app.tenant to b").ok());
    for (int i = 0; i < 3; ++i) {
      CHECK(a.scalar(ask) == "a");
      CHECK(b.scalar(ask) == "b");
      CHECK(none.scalar(ask) == "none");
      CHECK(started.scalar(ask) == "a");
      CHECK(super.scalar(ask) == "a,b");
    }
    CHECK(runs(cluster, ask) == 5);
    CHECK(a.exec("select set_config('app.tenant', 'b', false)").ok());
    CHECK(a.scalar(ask) == "b");
    CHECK(a.exec("reset app.tenant").ok());
    CHECK(a.scalar(ask) == "none");
    CHECK(a.exec("set role auditor").ok());
    CHECK(a.scalar(ask) == "a,b");
    CHECK(a.exec("reset role").ok());
    CHECK(a.scalar(ask) == "none");
    CHECK(a.exec("begin").ok());
    CHECK(a.exec("set local app.tenant = 'a'").ok());
    CHECK(a.scalar(ask) == "a");
    CHECK(a.exec("commit").ok());
    CHECK(a.scalar(ask) == "none");
    CHECK(a.exec("begin; set local app.tenant = 'b'; commit; " + ask).scalar() == "none");
    CHECK(a.exec("set local app.tenant = 'b'; " + ask).scalar() == "b");
    CHECK(a.exec("select set_config('app.tenant', 'b', true); " + ask).scalar() == "b");
    CHECK(a.scalar(ask) == "none");
    // Where names are looked up; another database; a temporary table in front of all; a text read by another zone.
    const std::string where = "select name from place";
    Connection first = proxy.connect("app"), second = proxy.connect("app"), elsewhere = proxy.connect("app", "postgres");
    CHECK(first.exec("set search_path = first").ok());
    CHECK(second.exec("set search_path = second").ok());
    for (int i = 0; i < 2; ++i) {
      CHECK(a.scalar(where) == "app");
      CHECK(first.scalar(where) == "first");
      CHECK(second.scalar(where) == "second");
      CHECK(elsewhere.exec(where).code() == "42P01");
    }
    CHECK(second.exec("create temp table place as select 'own' as name").ok());
    CHECK(second.scalar("select name from pg_temp.place") == "own");
    CHECK(first.scalar(where) == "first");
    const std::string epoch = "select extract(epoch from timestamptz '2020-01-01')::int8 / 3600 % 24";
    CHECK(a.exec("set timezone = 'Asia/Tokyo'").ok());
    CHECK(a.prepare("when", epoch).ok());
    CHECK(b.exec("set timezone = 'Asia/Kolkata'").ok());
    CHECK(b.prepare("when", epoch).ok());
    for (Connection* client : {&a, &b}) CHECK(client->exec("set timezone = 'UTC'").ok());
    CHECK(b.exec("reset app.tenant").ok());
    const std::string in_tokyo = a.exec_prepared("when").scalar();
    CHECK(b.exec_prepared("when").scalar() != in_tokyo);
    CHECK(a.exec_prepared("when").scalar() == in_tokyo);
    // What is prepared is each session's own.
    const std::string names = "select count(*) from pg_prepared_statements where name = 'mine'";
    CHECK(a.prepare("mine", "select 1").ok());
    CHECK(a.scalar(names) == "1");
    CHECK(none.scalar(names) == "0");
    for (const char* sql : {"drop table rls, first.place, second.place, public.place", "drop schema first, second",
                            "revoke auditor from app", "drop role auditor"})
      CHECK(direct.exec(sql).ok());
  }

  TEST_CASE("promise 4: a right that is taken away takes kept answers with it, on every worker") {
    PgCluster& cluster = logging_cluster();
    Connection direct = cluster.connect(0);
    CHECK(direct.exec("create table granted_rows as select 1 as n").ok());
    ProxyProcess proxy(with_rule(cluster, "users = [\"app\"], consistency = \"eventual\", target = \"replica\", cache = \"1h\"")
                           .set("", "workers", "2")
                           .set("routing", "max_lag", "\"1h\""));
    REQUIRE(proxy.ready(1));
    std::vector<Connection> clients;
    for (int i = 0; i < 8; ++i) clients.push_back(proxy.connect("app"));
    Connection owner = proxy.connect("postgres");
    const std::string ask = "select * from granted_rows";
    const auto kept = [&] {
      commit_something(cluster);
      const Result shown = proxy.console().exec("SHOW CACHE");
      return std::stoi(shown.at(0, "entries")) + std::stoi(shown.at(1, "entries"));
    };
    const auto all_are_told = [&](const std::string& what) {
      return eventually([&] {
        for (Connection& client : clients) {
          const Result told = client.exec(ask);
          if ((told.ok() ? told.scalar() : told.code()) != what) return false;
        }
        return true;
      });
    };
    CHECK(all_are_told("42501"));
    CHECK(owner.exec("grant select on granted_rows to app").ok());
    CHECK(all_are_told("1"));
    CHECK(owner.exec("begin").ok());
    CHECK(owner.exec("revoke select on granted_rows from app").ok());
    // Not at once: the word of the grant may come to a worker that has kept an answer since.
    CHECK(eventually([&] { return all_are_told("1") && kept() == 2; }));
    // A replica that has not replayed it goes on as it must, but nothing of that is kept.
    cluster.pause_replay(1);
    CHECK(owner.exec("commit").ok());
    CHECK(eventually([&] { return kept() == 0; }));
    CHECK(all_are_told("1"));
    CHECK(kept() == 0);
    cluster.resume_replay(1);
    CHECK(all_are_told("42501"));
    // Another shape of the table.
    CHECK(owner.exec("grant select on granted_rows to app").ok());
    CHECK(eventually([&] { return all_are_told("1") && kept() == 2; }));
    CHECK(owner.exec("alter table granted_rows add column more int default 7").ok());
    CHECK(eventually([&] { return clients[0].exec(ask).columns() == 2 && clients[1].exec(ask).columns() == 2; }));
    CHECK(direct.exec("drop table granted_rows").ok());
  }

  TEST_CASE("an error of the statement is everybody's, and is not kept") {
    PgCluster& cluster = logging_cluster();
    ProxyProcess proxy(with_rule(cluster, kCoalesce + ", cache = \"1min\""));
    REQUIRE(proxy.ready(1));
    std::vector<RawClient> clients = crowd(proxy, 10);
    CHECK(all_say(cluster, proxy, clients, 1, query_message("select 1 / (n - 1) as failing from gate")) ==
          std::set<std::string>{"TEZ 22012"});
    CHECK(runs(cluster, "select 1 / (n - 1) as failing") == 1);
    CHECK(proxy.console().exec("SHOW CACHE").at(0, "entries") == "0");
    // As in Postgres, a Parse that fails leaves no unnamed statement.
    CHECK(all_say(cluster, proxy, clients, 1, extended("select 'unparsed', missing from gate")) ==
          std::set<std::string>{"EZ 42703"});
    for (RawClient& client : clients) {
      CHECK(client.send(bind_message("", "") + execute_message("") + sync_message()));
      CHECK(told(client) == "EZ 26000");
    }
  }

  TEST_CASE("the leader's cancel, death and lost server are its own: another leads, and nobody else notices") {
    PgCluster& cluster = logging_cluster();
    ProxyProcess proxy(with_rule(cluster, kCoalesce));
    REQUIRE(proxy.ready(1));
    Connection leader = proxy.connect(), follower = proxy.connect();
    const auto begin = [&](const std::string& sql) {
      CHECK(leader.send(sql));
      CHECK(eventually([&] { return runs(cluster, sql) == 1; }));
      CHECK(follower.send(sql));
      CHECK(eventually([&] { return following(proxy) == 1; }));
    };
    SUBCASE("canceled") {
      Barrier barrier(cluster);
      begin("select 'canceled' from gate");
      CHECK(leader.cancel());
      CHECK(leader.finish().code() == "57014");
      CHECK(eventually([&] { return runs(cluster, "select 'canceled'") == 2; }));
      barrier.open();
      CHECK(follower.finish().scalar() == "canceled");
    }
    SUBCASE("its server is lost") {
      Barrier barrier(cluster);
      begin("select 'lost' from gate");
      CHECK(cluster.ask(0, "select count(pg_terminate_backend(pid)) from pg_stat_activity where query like "
                           "'select ''lost''%'") == "1");
      CHECK(!leader.finish().ok());
      CHECK(eventually([&] { return runs(cluster, "select 'lost'") == 2; }));
      barrier.open();
      CHECK(follower.finish().scalar() == "lost");
    }
    SUBCASE("it goes away") {
      Barrier barrier(cluster);
      begin("select 'gone' from gate");
      leader.close();
      CHECK(eventually([&] { return runs(cluster, "select 'gone'") == 2; }));
      barrier.open();
      CHECK(follower.finish().scalar() == "gone");
    }
    SUBCASE("a follower is canceled, and another goes away") {
      Barrier barrier(cluster);
      begin("select 'followers' from gate");
      RawClient dying(proxy.port());
      REQUIRE(dying.login());
      CHECK(dying.send(query_message("select 'followers' from gate")));
      CHECK(eventually([&] { return following(proxy) == 2; }));
      CHECK(follower.cancel());
      CHECK(follower.finish().code() == "57014");
      dying.reset();
      CHECK(eventually([&] { return following(proxy) == 0; }));
      barrier.open();
      CHECK(leader.finish().scalar() == "followers");
      CHECK(runs(cluster, "select 'followers'") == 1);
      CHECK(follower.scalar("select 1") == "1");
    }
    SUBCASE("it waits for a server, and is canceled there") {
      ProxyProcess narrow(with_rule(cluster, kCoalesce).set("pool", "size", "1"));
      REQUIRE(narrow.ready(1));
      Connection busy = narrow.connect(), first = narrow.connect(), second = narrow.connect();
      CHECK(busy.exec("begin").ok());
      CHECK(first.send("select 'queued'"));
      CHECK(eventually([&] {
        const Result shown = narrow.console().exec("SHOW POOLS");
        for (int row = 0; row < shown.rows(); ++row)
          if (shown.at(row, "cl_waiting") == "1") return true;
        return false;
      }));
      CHECK(second.send("select 'queued'"));
      CHECK(eventually([&] { return following(narrow) == 1; }));
      CHECK(first.cancel());
      CHECK(first.finish().code() == "57014");
      CHECK(busy.exec("commit").ok());
      CHECK(second.finish().scalar() == "queued");
    }
  }

  TEST_CASE("promise 3: a read that its replica cannot finish is run again elsewhere, for all who wait for it") {
    PgCluster& cluster = logging_cluster();
    ProxyProcess proxy(with_rule(cluster, "statement_classes = [\"read\"], coalesce = true"));
    REQUIRE(proxy.ready(1));
    std::vector<Connection> clients;
    for (int i = 0; i < 5; ++i) clients.push_back(proxy.connect());
    const std::string ask = "select 'healed', pg_sleep(0.6)";
    for (Connection& client : clients) CHECK(client.send(ask));
    CHECK(eventually([&] { return runs(cluster, ask) == 1 && following(proxy) == 4; }));
    CHECK(cluster.ask(1, "select count(pg_terminate_backend(pid)) from pg_stat_activity where query like "
                         "'select ''healed''%'") == "1");
    for (Connection& client : clients) CHECK(client.finish().scalar() == "healed");
    CHECK(runs(cluster, ask) == 2);
  }

  TEST_CASE("who reads slowly keeps nobody from the answer to the same") {
    PgCluster& cluster = logging_cluster();
    ProxyProcess proxy(with_rule(cluster, kCoalesce).set("limits", "shared_answer", "\"32MiB\""));
    REQUIRE(proxy.ready(1));
    RawClient slow(proxy.port());
    REQUIRE(slow.login());
    Connection follower = proxy.connect();
    Barrier barrier(cluster);
    const std::string ask = "select repeat('slow', 4000000) from gate";
    CHECK(slow.send(query_message(ask)));
    CHECK(eventually([&] { return runs(cluster, ask) == 1; }));
    CHECK(follower.send(ask));
    CHECK(eventually([&] { return following(proxy) == 1; }));
    barrier.open();
    CHECK(follower.finish().scalar().size() == 16'000'000);
    CHECK(runs(cluster, ask) == 1);
    CHECK(told(slow).size() > 16'000'000);
  }

  TEST_CASE("who has waited too long, or for too much, runs it by itself") {
    PgCluster& cluster = logging_cluster();
    ProxyProcess proxy(with_rule(cluster, kCoalesce)
                           .set("limits", "shared_answer", "\"64KiB\"")
                           .set("limits", "shared_followers", "2"));
    REQUIRE(proxy.ready(1));
    std::vector<Connection> clients;
    for (int i = 0; i < 4; ++i) clients.push_back(proxy.connect());
    const std::string large = "select repeat('large', 20000) from gate";
    {
      Barrier barrier(cluster);
      for (Connection& client : clients) CHECK(client.send(large));
      CHECK(eventually([&] { return following(proxy) == 2 && runs(cluster, large) == 2; }));
      barrier.open();
    }
    for (Connection& client : clients) CHECK(client.finish().scalar().size() == 100'000);
    CHECK(runs(cluster, large) == 4);
    ProxyConfig impatient = with_rule(cluster, kCoalesce);
    proxy.rewrite(impatient.set("limits", "shared_wait", "\"100ms\""));
    CHECK(proxy.console().exec("RELOAD").ok());
    Barrier barrier(cluster);
    for (Connection& client : clients) CHECK(client.send("select 'late' from gate"));
    CHECK(eventually([&] { return runs(cluster, "select 'late'") == 4; }));
    barrier.open();
    for (Connection& client : clients) CHECK(client.finish().scalar() == "late");
  }

  TEST_CASE("cache: an answer is kept for so long, for autocommit only, until another primary or configuration") {
    PgCluster cluster({.replicas = 1, .settings = {"log_statement = 'all'"}});
    const std::string reads = "statement_classes = [\"read\"], cache = ";
    ProxyProcess proxy(with_rule(cluster, reads + "\"1h\""));
    REQUIRE(proxy.ready(1));
    wait_for_catalogue(proxy);
    Connection one = proxy.connect(), other = proxy.connect(), console = proxy.console();
    const std::string ask = "select 'kept'";
    CHECK(one.scalar(ask) == "kept");
    for (int i = 0; i < 5; ++i) CHECK(other.scalar(ask) == "kept");
    CHECK(runs(cluster, ask) == 1);
    CHECK(other.exec("begin").ok());
    CHECK(other.scalar(ask) == "kept");
    CHECK(other.exec("commit").ok());
    CHECK(runs(cluster, ask) == 2);
    const Result shown = console.exec("SHOW CACHE");
    CHECK(shown.at(0, "hits") == "5");
    CHECK(shown.at(0, "entries") == "1");
    CHECK(metric(proxy.metrics(), "pgsluice_shared_answers_total", {"reason=\"cache\""}).value_or(0) == 5);
    CHECK(one.exec("select 1 / 0").code() == "22012");
    CHECK(console.exec("SHOW CACHE").at(0, "entries") == "1");

    proxy.rewrite(with_rule(cluster, reads + "\"200ms\""));
    CHECK(console.exec("RELOAD").ok());
    CHECK(eventually([&] { return console.exec("SHOW CACHE").at(0, "entries") == "0"; }));
    CHECK(one.scalar(ask) == "kept");
    CHECK(runs(cluster, ask) == 3);
    CHECK(eventually([&] { return other.scalar(ask) == "kept" && runs(cluster, ask) == 4; }));

    proxy.rewrite(with_rule(cluster, reads + "\"1h\""));
    CHECK(console.exec("RELOAD").ok());
    CHECK(eventually([&] { return one.scalar(ask) == "kept" && console.exec("SHOW CACHE").at(0, "entries") == "1"; }));
    cluster.crash(0);
    cluster.promote(1);
    CHECK(eventually([&] { return proxy.node_is(cluster.address(1), "primary"); }));
    CHECK(eventually([&] { return console.exec("SHOW CACHE").at(0, "entries") == "0"; }));
  }
}
