#include "pool/fleet_share.h"

#include <doctest/doctest.h>

// How the processes of a fleet divide what Postgres is to bear.
using pool::FleetShare;
using pool::part;

TEST_SUITE("pool/fleet_share") {
  TEST_CASE("the parts of all members add up to the whole, and differ by one at most") {
    for (std::int64_t whole : {1, 2, 7, 20, 1000})
      for (std::uint32_t members : {1U, 2U, 3U, 7U}) {
        std::int64_t sum = 0;
        for (std::uint32_t rank = 0; rank < members; ++rank) {
          const std::int64_t mine = part(whole, {members, rank}, 0);
          CHECK(mine >= whole / members);
          CHECK(mine <= whole / members + 1);
          sum += mine;
        }
        CHECK(sum == whole);
      }
  }

  TEST_CASE("no limit stays none, and nobody is left with nothing") {
    CHECK(part(0, {3, 0}) == 0);
    CHECK(part(2, {3, 2}) == 1);
    CHECK(part(2, {3, 2}, 0) == 0);
  }

  TEST_CASE("everybody counts the same members, and ranks are different") {
    const std::set<std::string> all = {"a:1", "b:1", "c:1"};
    CHECK(pool::share_of("a:1", all) == FleetShare{3, 0});
    CHECK(pool::share_of("c:1", all) == FleetShare{3, 2});
    // It has not seen itself yet.
    CHECK(pool::share_of("bb:1", all) == FleetShare{4, 2});
    CHECK(pool::share_of("a:1", {}) == FleetShare{1, 0});
  }

  TEST_CASE("servers and tenants are divided, clients are not") {
    conf::Settings whole{};
    whole.pool_size = 20;
    whole.pool_min_size = 1;
    whole.pool_servers_per_node = 90;
    whole.listen_max_client_connections = 1000;
    whole.tenant_default.rate = 100;
    whole.clusters["main"].max_servers = 30;
    whole.databases["shop"].pool_size = 5;
    whole.users["app"].max_servers = 4;
    whole.tenants["gold"] = {.rate = 9, .burst = 3, .concurrency = 0};
    const conf::Settings mine = pool::divide(whole, {3, 1});
    CHECK(mine.pool_size == 7);
    CHECK(mine.pool_min_size == 0);
    CHECK(mine.pool_servers_per_node == 30);
    CHECK(mine.pool_servers_per_user == 0);
    CHECK(mine.listen_max_client_connections == 1000);
    CHECK(mine.tenant_default.rate == 33);
    CHECK(mine.clusters.at("main").max_servers == 10);
    CHECK(mine.databases.at("shop").pool_size == 2);
    CHECK(mine.users.at("app").max_servers == 1);
    CHECK(!mine.users.at("app").pool_size);
    CHECK(mine.tenants.at("gold").rate == 3);
    CHECK(mine.tenants.at("gold").burst == 1);
    CHECK(mine.tenants.at("gold").concurrency == 0);
  }
}
