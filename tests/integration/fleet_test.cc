#include <chrono>
#include <csignal>
#include <set>

#include "tests/integration/fixture.h"

// Processes in front of the same primary find each other and divide what Postgres is to bear.
using namespace integration;

namespace {

ProxyConfig member_config(const std::string& fleet) {
  ProxyConfig config = config_for(shared_cluster());
  config.set("fleet", "name", "\"" + fleet + "\"");
  config.set("fleet", "interval", "\"100ms\"").set("fleet", "gone_after", "\"2s\"");
  return config.set("pool", "size", "5").set("tenant", "rate", "1000");
}

double members(const ProxyProcess& proxy) {
  return metric(proxy.metrics(), "pgsluice_fleet_members", {}).value_or(-1);
}

// Of the pools that somebody has used.
std::string pool_size(const ProxyProcess& proxy) {
  const Result pools = proxy.console().exec("SHOW NODE_POOLS");
  return pools.rows() == 0 ? "no pool" : pools.at(0, "pool_size");
}

}  // namespace

TEST_SUITE("integration/fleet") {
  TEST_CASE("two processes divide servers and tenant rates; when one goes the other takes all within 5 s") {
    ProxyProcess one(member_config("shop"));
    REQUIRE(one.ready(2));
    CHECK(one.connect().scalar("select 1") == "1");
    CHECK(members(one) == 1);
    CHECK(pool_size(one) == "5");
    ProxyProcess stranger(member_config("other"));
    {
      ProxyProcess two(member_config("shop"));
      REQUIRE(two.ready(2));
      CHECK(two.connect().scalar("select 1") == "1");
      CHECK(eventually([&] { return members(one) == 2 && members(two) == 2; }));
      // 5 servers are 3 and 2; who has more is the same for both.
      CHECK(eventually([&] {
        const std::set<std::string> sizes = {pool_size(one), pool_size(two)};
        return sizes == std::set<std::string>{"2", "3"};
      }));
      CHECK(one.console().exec("SHOW TENANTS").at(0, "rate") == "500");
      const Result fleet = one.console().exec("SHOW FLEET");
      CHECK(fleet.rows() == 2);
      // What the operator said is still what stands there.
      const Result config = one.console().exec("SHOW CONFIG");
      for (int row = 0; row < config.rows(); ++row)
        if (config.at(row, "key") == "pool.size") CHECK(config.at(row, "value") == "5");
      // And a reload does not undo it.
      CHECK(one.console().exec("RELOAD").ok());
      CHECK(one.console().exec("SHOW TENANTS").at(0, "rate") == "500");
      const Stopwatch watch;
      two.kill();
      CHECK(eventually([&] { return members(one) == 1; }));
      CHECK(watch.elapsed() < std::chrono::seconds(5));
    }
    CHECK(eventually([&] { return pool_size(one) == "5"; }));
    CHECK(one.console().exec("SHOW TENANTS").at(0, "rate") == "1000");
  }

  TEST_CASE("a process of the fleet that hangs is not counted, and is again when it goes on") {
    ProxyProcess one(member_config("hung"));
    ProxyProcess two(member_config("hung"));
    REQUIRE(one.ready(2));
    CHECK(eventually([&] { return members(one) == 2; }));
    two.signal(SIGSTOP);
    CHECK(eventually([&] { return members(one) == 1; }));
    two.signal(SIGCONT);
    CHECK(eventually([&] { return members(one) == 2; }));
  }

  TEST_CASE("nobody passes for a member of the fleet under another name in Postgres") {
    ProxyProcess one(member_config("safe"));
    REQUIRE(one.ready(2));
    Connection impostor(shared_cluster().conninfo(0, "app", "app") +
                        " application_name='pgsluice fleet safe zz:1:1'");
    CHECK(impostor.scalar("select 1") == "1");
    ProxyProcess two(member_config("safe"));
    CHECK(eventually([&] { return members(one) == 2; }));
    CHECK(members(one) == 2);
  }
}
