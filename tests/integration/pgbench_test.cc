#include "tests/integration/fixture.h"

// pgbench's bank through a pool half as large as its clients.
using namespace integration;

TEST_SUITE("integration/pgbench") {
  TEST_CASE(
      "promise 3: TPC-B with 32 clients over 16 servers in simple, extended and prepared mode: no "
      "error, and balances sum up") {
    PgCluster& cluster = shared_cluster();
    // Loaded through the proxy too, as a user would.
    ProxyProcess proxy(config_for(cluster).set("pool", "size", "16").set("", "workers", "2"));
    REQUIRE(proxy.ready(2));
    const std::vector<std::string> connection = {
        "-h", "127.0.0.1", "-p", std::to_string(proxy.port()), "-U", "app", "app"};
    const auto pgbench = [&connection](std::vector<std::string> options) {
      options.insert(options.begin(), pg_program("pgbench"));
      options.insert(options.end(), connection.begin(), connection.end());
      return run(options, {}, 120s);
    };
    const Finished loaded = pgbench({"-i", "-s", "3", "-q"});
    REQUIRE_MESSAGE(loaded.status == 0, loaded.output);
    cluster.wait_replicated();
    for (const std::string mode : {"simple", "extended", "prepared"}) {
      CAPTURE(mode);
      const Finished finished = pgbench({"-n", "-M", mode, "-c", "32", "-j", "32", "-t", "40"});
      CHECK_MESSAGE(finished.status == 0, finished.output);
      CHECK_MESSAGE(finished.output.find("number of transactions actually processed: 1280/1280") !=
                        std::string::npos,
                    finished.output);
      CHECK_MESSAGE(finished.output.find("error") == std::string::npos, finished.output);
      const std::string sums =
          "select concat_ws('/', (select sum(abalance) from pgbench_accounts), (select "
          "sum(bbalance) from "
          "pgbench_branches), (select sum(tbalance) from pgbench_tellers), (select sum(delta) from "
          "pgbench_history))";
      const std::string balances = cluster.ask(0, sums);
      const std::string first = balances.substr(0, balances.find('/'));
      CHECK(balances == first + "/" + first + "/" + first + "/" + first);
    }
    CHECK(cluster.ask(0, "select count(*) from pgbench_history") == "3840");
    const Finished reads =
        pgbench({"-n", "-S", "-M", "prepared", "-c", "32", "-j", "32", "-t", "100"});
    CHECK_MESSAGE(reads.status == 0, reads.output);
    const std::string text = proxy.metrics();
    CHECK(metric(text, "pgsluice_statements_total", {"class=\"read\"", "role=\"replica\""})
              .value_or(0) > 3000);
    CHECK(metric(text, "pgsluice_statements_total", {"class=\"write\"", "role=\"replica\""})
              .value_or(0) == 0);
    cluster.ask(0,
                "drop table pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history");
  }
}
