#include "tests/integration/fixture.h"

// What the classifier learns from the nodes themselves: what a replica refuses, and what the primary's
// catalogue says of functions and relations.
using namespace integration;

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
}
