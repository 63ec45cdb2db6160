#include <csignal>
#include <string>

#include "tests/integration/fixture.h"

// What the classifier learns from the nodes themselves: what a replica refuses, and what the primary's
// catalogue says of functions and relations.
using namespace integration;

namespace {

// What EXPLAIN ROUTE says of `sql`.
std::string explained(Connection& client, const std::string& sql, const std::string& property) {
  const Result rows = client.exec("explain route " + sql);
  for (int row = 0; row < rows.rows(); ++row)
    if (rows.at(row, "property") == property) return rows.at(row, "value");
  return "(none) " + rows.scalar();
}

// The functions judged_*() and relations judged_* of the next case.
struct Judged {
  Connection owner{shared_cluster().conninfo(0, "app")};

  Judged() {
    const Result made = owner.exec(
        "create table judged_rows (n int); create unlogged table judged_unlogged (n int); "
        "create sequence judged_sequence; "
        "create function judged_lock(int) returns bool volatile language sql as "
        "'select pg_try_advisory_xact_lock($1)'; "
        "create function judged_safe(int) returns bool immutable language sql as 'select $1 > 0'; "
        "create view judged_plain as select n from judged_rows where judged_safe(n); "
        "create view judged_hides as select n, judged_lock(n) from judged_rows; "
        "create view judged_deep as select n from (select * from judged_hides) x; "
        "create table judged_guarded (n int); alter table judged_guarded enable row level security; "
        "create policy judged_policy on judged_guarded using (judged_lock(n))");
    REQUIRE_MESSAGE(made.ok(), made.message());
    shared_cluster().wait_replicated();
  }
  ~Judged() {
    (void)owner.exec(
        "drop table judged_rows, judged_unlogged, judged_guarded cascade; drop sequence judged_sequence; "
        "drop function judged_lock(int), judged_safe(int)");
  }
};

}  // namespace

TEST_SUITE("integration/classification") {
  TEST_CASE("requirement 30: what a replica refuses is learnt by its digest, shown and cleared") {
    PgCluster& cluster = shared_cluster();
    Connection owner(cluster.conninfo(0, "app"));
    // Both say that they only read. Nobody can see from outside what the first does.
    REQUIRE(owner.exec("create sequence if not exists learnt_s; "
                       "create or replace function learnt_lie(int) returns bigint stable language sql as "
                       "$$ select nextval('learnt_s') + $1 $$; "
                       "create or replace function learnt_truth(int) returns text stable language sql as "
                       "$$ select current_setting('port') $$")
                .ok());
    cluster.wait_replicated();
    ProxyProcess proxy(config_for(cluster));
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    Connection console = proxy.console();
    REQUIRE(eventually([&] { return node_name(cluster, client.scalar("select learnt_truth(1)")) != "primary"; }));

    REQUIRE(eventually([&] { return client.exec("select learnt_lie(1)").ok(); }));
    const Result learnt = console.exec("show corrections");
    REQUIRE(learnt.rows() == 1);
    CHECK(learnt.at(0, "cluster") == "main");
    CHECK(learnt.at(0, "database") == "app");
    CHECK(learnt.at(0, "sqlstate") == "25006");
    CHECK(learnt.at(0, "digest").size() == 16);
    CHECK(metric(proxy.metrics(), "pgsluice_corrections") == 1.0);
    const auto refused = [&] { return metric(proxy.metrics(), "pgsluice_reads_refused_total").value_or(-1); };
    const double before = refused();
    CHECK(before >= 1.0);
    // Other literals, another protocol and another client are the same digest; nobody is refused again.
    CHECK(client.exec("SELECT learnt_lie(22)").ok());
    Connection other = proxy.connect();
    CHECK(other.prepare("p", "select learnt_lie(333)").ok());
    CHECK(other.exec_prepared("p").ok());
    CHECK(refused() == before);
    // What the lie is taken for now, a write, is this session's floor for a moment.
    CHECK(eventually([&] { return node_name(cluster, client.scalar("select learnt_truth(2)")) != "primary"; }));

    CHECK(console.exec("clear corrections").ok());
    CHECK(console.exec("show corrections").rows() == 0);
    REQUIRE(eventually([&] {
      (void)client.exec("select learnt_lie(1)");
      return console.exec("show corrections").rows() == 1;
    }));
    owner.exec("drop function learnt_lie(int), learnt_truth(int); drop sequence learnt_s");
  }

  TEST_CASE("requirement 24: tables and views are judged by the primary's catalogue, and operators overrule it") {
    Judged judged;
    ProxyConfig config = config_for(shared_cluster());
    ProxyProcess proxy(config);
    REQUIRE(proxy.ready(2));
    Connection client = proxy.connect();
    const auto reason = [&](const std::string& sql) { return explained(client, sql, "class_reason"); };
    const auto answerer = [](Connection& session, const std::string& from) {
      return who_answers(shared_cluster(), session, "select current_setting('port'), count(*) from " + from);
    };
    REQUIRE(eventually([&] { return reason("table judged_unlogged") == "primary_table"; }));
    for (const std::string from : {"judged_unlogged", "judged_sequence", "judged_hides", "public.judged_deep",
                                   "judged_rows where exists (table judged_deep)", "judged_guarded"}) {
      CAPTURE(from);
      CHECK(reason("select 1 from " + from) == "primary_table");
      CHECK(answerer(client, from) == "primary");
    }
    Connection reader = proxy.connect();  // what is taken for a write makes its session wait for its floor
    for (const std::string from : {"judged_rows", "judged_plain"}) {
      CAPTURE(from);
      CHECK(answerer(reader, from) != "primary");
    }
    // What is made through the proxy is known soon.
    Connection maker = proxy.connect();
    REQUIRE(maker.exec("create view judged_new as select 1 from judged_deep").ok());
    CHECK(eventually([&] { return reason("table judged_new") == "primary_table"; }));

    const std::string locks = "select judged_lock(1)", rows = "select n from judged_rows where n = 1";
    REQUIRE(reason(locks) == "volatile_function");
    REQUIRE(reason(rows) == "proven_read");
    config.set("routing", "primary_tables", "[\"judged_plain\"]")
        .set("routing", "read_tables", "[\"public.judged_hides\"]")
        .set("routing", "read_digests", "[\"" + explained(client, locks, "digest") + "\"]")
        .set("routing", "primary_digests", "[\"" + explained(client, rows, "digest") + "\"]");
    proxy.rewrite(config);
    proxy.signal(SIGHUP);
    CHECK(eventually([&] { return reason("table judged_plain") == "primary_table"; }));
    CHECK(reason("table judged_deep") == "proven_read");
    CHECK(explained(client, "select judged_lock(2)", "class") == "read");
    CHECK(reason("select judged_lock(2)") == "overruled");
    CHECK(explained(client, "select n from judged_rows where n = 2", "class") == "write");
    CHECK(reason("select n from judged_rows where n = 2") == "overruled");
    CHECK(metric(proxy.metrics(), "pgsluice_reads_refused_total") == 0.0);
  }
}
