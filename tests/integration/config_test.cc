#include "tests/integration/fixture.h"
#include "tests/support/free_port.h"

// Bad configurations, `pgsluice check`, and what the program says of itself.
using namespace integration;

namespace {

// The file as a proxy of `config` would get it, with ports that nobody uses.
std::string file_of(const TempDir& folder, const ProxyConfig& config) {
  std::string text = config.text();
  const auto put = [&text](const std::string& mark, const std::string& value) {
    const std::size_t at = text.find(mark);
    if (at != std::string::npos) text.replace(at, mark.size(), value);
  };
  put("@port@", std::to_string(free_port()));
  put("@metrics@", std::to_string(free_port()));
  put("@dir@", folder.path());
  write_file(folder / "pgsluice.toml", text);
  return folder / "pgsluice.toml";
}

Finished start(const ProxyConfig& config) {
  const TempDir folder;
  return run({proxy_binary(), file_of(folder, config)}, {}, 5s);
}

Finished check(const ProxyConfig& config) {
  const TempDir folder;
  return run({proxy_binary(), "check", file_of(folder, config)}, {}, 30s);
}

bool says(const Finished& finished, const std::string& word) {
  return finished.output.find(word) != std::string::npos;
}

}  // namespace

TEST_SUITE("integration/config") {
  TEST_CASE(
      "unknown keys, wrong types and values out of range end the start with file, line, key and "
      "what was expected") {
    struct Bad {
      const char *section, *key, *value, *expected;
    };
    for (const Bad& bad :
         {Bad{"pool", "sise", "3", "pool.sise"}, Bad{"pool", "size", "0", "pool.size"},
          Bad{"pool", "size", "\"3\"", "pool.size"},
          Bad{"pool", "queue_timeout", "10", "pool.queue_timeout"},
          Bad{"pool", "queue_timeout", "\"10 bananas\"", "pool.queue_timeout"},
          Bad{"pool", "mode", "\"statement\"", "pool.mode"}, Bad{"pools", "size", "3", "pools"},
          Bad{"limits", "batch", "\"1 furlong\"", "limits.batch"},
          Bad{"auth", "method", "\"hope\"", "auth.method"},
          Bad{"cluster.main", "servers", "[]", "servers"},
          Bad{"cluster.main", "servers", "[\"host:notaport\"]", "servers"},
          Bad{"database.\"*\"", "cluster", "\"nowhere\"", "nowhere"}}) {
      CAPTURE(std::string(bad.key));
      CAPTURE(std::string(bad.value));
      const Finished finished =
          start(config_for(shared_cluster()).set(bad.section, bad.key, bad.value));
      CHECK(finished.status > 0);
      CHECK(finished.status < 128);
      CHECK_MESSAGE(says(finished, bad.expected), finished.output);
      CHECK_MESSAGE(says(finished, "pgsluice.toml:"), finished.output);
    }
  }

  TEST_CASE("all problems of a file are reported at once") {
    const Finished finished = start(config_for(shared_cluster())
                                        .set("pool", "size", "0")
                                        .set("pool", "sise", "1")
                                        .set("auth", "method", "\"hope\""));
    CHECK(finished.status > 0);
    CHECK(says(finished, "pool.size"));
    CHECK(says(finished, "pool.sise"));
    CHECK(says(finished, "auth.method"));
  }

  TEST_CASE("a file that is missing, is no TOML, or is empty is a clear error") {
    const TempDir folder;
    const Finished missing = run({proxy_binary(), folder / "none.toml"}, {}, 5s);
    CHECK(missing.status > 0);
    CHECK(says(missing, "none.toml"));
    write_file(folder / "bad.toml", "[listen\nport = = 3");
    const Finished bad = run({proxy_binary(), folder / "bad.toml"}, {}, 5s);
    CHECK(bad.status > 0);
    CHECK(says(bad, "bad.toml"));
    write_file(folder / "empty.toml", "");
    const Finished empty = run({proxy_binary(), folder / "empty.toml"}, {}, 5s);
    CHECK(empty.status > 0);
    CHECK(!empty.output.empty());
    const Finished nothing = run({proxy_binary()}, {}, 5s);
    CHECK(nothing.status > 0);
    CHECK(nothing.status < 128);
  }

  TEST_CASE("a port that is taken ends the start with a clear error") {
    ProxyProcess first(config_for(shared_cluster()));
    const Finished second = start(config_for(shared_cluster())
                                      .set("listen", "port", std::to_string(first.port()))
                                      .set("metrics", "port", "0"));
    CHECK(second.status > 0);
    CHECK(second.status < 128);
    CHECK_MESSAGE(says(second, std::to_string(first.port())), second.output);
    CHECK(first.connect().scalar("select 1") == "1");
  }

  TEST_CASE("check passes a good configuration and names every node with its role") {
    PgCluster& cluster = shared_cluster();
    const Finished finished = check(config_for(cluster));
    CHECK_MESSAGE(finished.status == 0, finished.output);
    for (std::size_t node = 0; node < cluster.size(); ++node)
      CHECK_MESSAGE(says(finished, cluster.address(node)), finished.output);
    CHECK(says(finished, "primary"));
    CHECK(says(finished, "replica"));
  }

  TEST_CASE("check fails clearly on a node that cannot be reached") {
    const std::string nowhere = "127.0.0.1:" + std::to_string(free_port());
    const Finished finished =
        check(config_for(shared_cluster()).servers({shared_cluster().address(0), nowhere}));
    CHECK(finished.status > 0);
    CHECK(finished.status < 128);
    CHECK_MESSAGE(says(finished, nowhere), finished.output);
  }

  TEST_CASE("check fails clearly on a wrong monitor password") {
    const Finished finished = check(config_for(shared_cluster())
                                        .set("cluster.main", "monitor_user", "\"scram_user\"")
                                        .set("cluster.main", "monitor_password", "\"wrong\""));
    CHECK(finished.status > 0);
    CHECK_MESSAGE(says(finished, "password"), finished.output);
  }

  TEST_CASE("check reports configuration errors without touching a node") {
    const Finished finished = check(config_for(shared_cluster()).set("pool", "size", "0"));
    CHECK(finished.status > 0);
    CHECK(says(finished, "pool.size"));
  }

  TEST_CASE("--help and --version answer and end with 0; an unknown option is an error") {
    const Finished help = run({proxy_binary(), "--help"}, {}, 5s);
    CHECK(help.status == 0);
    CHECK(says(help, "check"));
    const Finished version = run({proxy_binary(), "--version"}, {}, 5s);
    CHECK(version.status == 0);
    CHECK(says(version, "pgsluice"));
    CHECK(run({proxy_binary(), "--nonsense"}, {}, 5s).status > 0);
  }

  TEST_CASE(
      "a wrong monitor password is said in the log, and clients are told that there is no "
      "primary") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("cluster.main", "monitor_user", "\"scram_user\"")
                           .set("cluster.main", "monitor_password", "\"wrong\"")
                           .set("routing", "primary_wait", "\"300ms\""));
    CHECK(eventually([&proxy] {
      return proxy.log().find("password authentication failed") != std::string::npos;
    }));
    CHECK(proxy.console().ok());
  }
}
