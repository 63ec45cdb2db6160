#include "proxy/shared.h"

#include <doctest/doctest.h>

TEST_SUITE("proxy/shared") {
  TEST_CASE("promise 4: a user of the same name in another cluster is somebody else") {
    proxy::Credentials credentials;
    wire::ScramKeys keys{};
    keys.client_key[0] = 1;
    credentials.learn({"one", "app"}, "salt", 4096, keys);
    keys.client_key[0] = 2;
    credentials.learn({"two", "app"}, "other", 4096, keys);
    REQUIRE(credentials.keys({"one", "app"}, "salt", 4096));
    CHECK(credentials.keys({"one", "app"}, "salt", 4096)->client_key[0] == 1);
    CHECK(credentials.keys({"two", "app"}, "other", 4096)->client_key[0] == 2);
    CHECK(!credentials.keys({"two", "app"}, "salt", 4096));
    CHECK(!credentials.keys({"one", "app"}, "other", 4096));
    CHECK(!credentials.keys({"one", "app"}, "salt", 4097));
    credentials.keep({"one", "app"}, "md5...");
    CHECK(credentials.kept({"one", "app"}) == "md5...");
    CHECK(credentials.kept({"two", "app"}).empty());
  }
}
