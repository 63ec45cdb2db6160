#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// What a client is told when it is let in, and how its driver finds the node that it wants.
using namespace integration;

namespace {

std::string with(const std::string& more) { return "sslmode=disable " + more; }

}  // namespace

TEST_SUITE("integration/welcome") {
  TEST_CASE("requirement 10: drivers that ask for the primary find it, whichever way they ask, and no standby") {
    ProxyProcess proxy(config_for(shared_cluster()));
    REQUIRE(proxy.ready(2));
    // Often enough that reads of a new client meet each replica.
    for (int round = 0; round < 4; ++round) {
      for (const std::string wanted : {"any", "read-write", "primary", "prefer-standby"}) {
        CAPTURE(wanted);
        Connection client = proxy.connect("app", "app", with("target_session_attrs=" + wanted));
        REQUIRE_MESSAGE(client.ok(), client.error());
        CHECK(client.parameter("in_hot_standby") == "off");
        CHECK(client.parameter("default_transaction_read_only") == "off");
        // As drivers ask that do not look at parameters.
        CHECK(client.scalar("show transaction_read_only") == "off");
        CHECK(client.scalar("show default_transaction_read_only") == "off");
        CHECK(client.scalar("show in_hot_standby") == "off");
        CHECK(client.scalar("select pg_catalog.pg_is_in_recovery()") == "f");
        CHECK(client.exec("select pg_is_in_recovery(), $1::int", {"1"}).scalar() == "f");
      }
      for (const std::string wanted : {"read-only", "standby"}) {
        CAPTURE(wanted);
        CHECK_FALSE(proxy.connect("app", "app", with("target_session_attrs=" + wanted)).ok());
      }
    }
    Connection reader = proxy.connect("app", "app", with("options='-c default_transaction_read_only=on'"));
    CHECK(reader.parameter("default_transaction_read_only") == "on");
    CHECK(reader.scalar("show transaction_read_only") == "on");
    CHECK(proxy.connect().parameter("default_transaction_read_only") == "off");
  }

  TEST_CASE("requirement 10: the welcome is a server's, is remembered, and changes with the server") {
    PgCluster cluster({.replicas = 0});
    ProxyProcess proxy(config_for(cluster).set("pool", "size", "1"));
    REQUIRE(proxy.ready(0));
    const auto told = [&proxy] { return proxy.connect().parameter("TimeZone"); };
    const std::string first = told();
    CHECK(first != "");
    CHECK(first == Connection(cluster.conninfo(0, "app")).parameter("TimeZone"));
    {
      // The only server is taken: what others have been told is told again.
      Connection holder = proxy.connect();
      CHECK(holder.exec("begin; set transaction read write").ok());
      CHECK(told() == first);
    }
    // A default that is changed while it runs, and one of a server that has been started anew.
    cluster.set(0, "timezone = 'Asia/Tokyo'\n");
    CHECK(eventually([&] {
      (void)proxy.connect().scalar("begin; select 1");  // Postgres tells of it with the next answer
      return told() == "Asia/Tokyo";
    }));
    Connection stays = proxy.connect();
    CHECK(stays.scalar("show timezone") == "Asia/Tokyo");
    cluster.stop(0);
    write_file(cluster.data_dir(0) + "/postgresql.auto.conf", "timezone = 'Asia/Seoul'\n");
    give_to_postgres(cluster.data_dir(0));
    cluster.start(0);
    CHECK(eventually([&] { return told() == "Asia/Seoul"; }));
  }
}
