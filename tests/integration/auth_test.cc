#include <string>

#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// Who are you: of clients to us, and of us to servers.
using namespace integration;

namespace {

std::string with_password(const std::string& password) {
  return "sslmode=disable password='" + password + "'";
}

// The secret as Postgres keeps it.
std::string stored_secret(const std::string& user) {
  return shared_cluster().ask(0,
                              "select rolpassword from pg_authid where rolname = '" + user + "'");
}

// The first server message of a SCRAM exchange with a fixed nonce: "r=...,s=SALT,i=N".
std::string scram_challenge(std::uint16_t port, const std::string& user) {
  RawClient client(port);
  client.send(startup_message({{"user", user}, {"database", "app"}}));
  const auto request = client.read();
  if (!request || request->type != 'R' || request->int32() != 10) return "no SASL request";
  const std::string first = "n,,n=,r=0123456789abcdefghij";
  client.send(message('p', std::string("SCRAM-SHA-256") + '\0' +
                               int32_bytes(static_cast<std::uint32_t>(first.size())) + first));
  const auto challenge = client.read();
  if (!challenge || challenge->type != 'R' || challenge->int32() != 11) return "no challenge";
  const std::string text = challenge->body.substr(4);
  return text.substr(text.find(",s="));  // the nonce differs by right
}

}  // namespace

TEST_SUITE("integration/auth") {
  TEST_CASE("trust asks for nothing") {
    ProxyProcess proxy(config_for(shared_cluster()));
    CHECK(proxy.connect("app").scalar("select current_user") == "app");
    CHECK(proxy.connect("other").scalar("select current_user") == "other");
  }

  TEST_CASE("password, md5 and SCRAM, toward clients and toward servers, in every combination") {
    for (const std::string method : {"password", "md5", "scram-sha-256"}) {
      ProxyConfig config = config_for(shared_cluster()).set("auth", "method", quoted(method));
      for (const std::string user : {"scram_user", "md5_user", "password_user"})
        config.set("user." + user, "password", quoted(user + "-secret"));
      ProxyProcess proxy(config);
      for (const std::string user : {"scram_user", "md5_user", "password_user"}) {
        CAPTURE(method);
        CAPTURE(user);
        Connection right = proxy.connect(user, "app", with_password(user + "-secret"));
        CHECK_MESSAGE(right.ok(), right.error());
        CHECK(right.scalar("select current_user") == user);
        Connection wrong = proxy.connect(user, "app", with_password("not it"));
        CHECK(!wrong.ok());
        CHECK(wrong.error().find("password authentication failed for user \"" + user + "\"") !=
              std::string::npos);
        CHECK(!proxy.connect(user, "app", "sslmode=disable").ok());
      }
    }
  }

  TEST_CASE("a wrong password is FATAL 28P01, and the connection ends") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("auth", "method", "\"password\"")
                           .set("user.app", "password", "\"app-secret\""));
    for (const std::string& password :
         {std::string("wrong"), std::string(5000, 'x'), std::string()}) {
      CAPTURE(password.size());
      RawClient client(proxy.port());
      client.send(startup_message({{"user", "app"}, {"database", "app"}}));
      const auto request = client.read();
      REQUIRE(request);
      CHECK(request->int32() == 3);
      client.send(message('p', password + '\0'));
      const auto answer = client.read_until('E');
      REQUIRE(!answer.empty());
      CHECK(answer.back().field('C') == "28P01");
      CHECK(answer.back().field('S') == "FATAL");
      CHECK(client.wait_closed());
    }
  }

  TEST_CASE("secrets may be configured as Postgres stores them") {
    ProxyProcess proxy(
        config_for(shared_cluster())
            .set("auth", "method", "\"scram-sha-256\"")
            .set("user.scram_user", "password", quoted(stored_secret("scram_user"))));
    Connection right = proxy.connect("scram_user", "app", with_password("scram_user-secret"));
    CHECK_MESSAGE(right.ok(), right.error());
    // The server asks for SCRAM too, and no plain password is anywhere: the client's keys pass
    // through.
    CHECK(right.scalar("select current_user") == "scram_user");
    CHECK(!proxy.connect("scram_user", "app", with_password("wrong")).ok());

    ProxyProcess md5(config_for(shared_cluster())
                         .set("auth", "method", "\"md5\"")
                         .set("user.md5_user", "password", quoted(stored_secret("md5_user"))));
    CHECK(md5.connect("md5_user", "app", with_password("md5_user-secret"))
              .scalar("select current_user") == "md5_user");
    CHECK(!md5.connect("md5_user", "app", with_password("wrong")).ok());
  }

  TEST_CASE("auth.query looks users up in Postgres; SCRAM keys pass through") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("auth", "method", "\"scram-sha-256\"")
                           .set("auth", "query_user", "\"postgres\""));
    Connection right = proxy.connect("scram_user", "app", with_password("scram_user-secret"));
    CHECK_MESSAGE(right.ok(), right.error());
    CHECK(right.scalar("select current_user") == "scram_user");
    CHECK(!proxy.connect("scram_user", "app", with_password("wrong")).ok());
    CHECK(!proxy.connect("nobody_such", "app", with_password("x")).ok());
  }

  TEST_CASE(
      "an unknown user sees the same exchange and the same words as one with a wrong password") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("auth", "method", "\"scram-sha-256\"")
                           .set("user.scram_user", "password", "\"scram_user-secret\""));
    const auto words = [&proxy](const std::string& user) {
      std::string text = proxy.connect(user, "app", with_password("wrong")).error();
      for (std::size_t at = text.find(user); at != std::string::npos; at = text.find(user))
        text.replace(at, user.size(), "USER");
      return text;
    };
    CHECK(words("scram_user") == words("ghost"));
    CHECK(words("scram_user").find("password authentication failed") != std::string::npos);
    const std::string ghost = scram_challenge(proxy.port(), "ghost");
    CHECK(ghost.rfind(",s=", 0) == 0);
    CHECK(ghost == scram_challenge(proxy.port(), "ghost"));  // a salt that changes would tell
    CHECK(ghost != scram_challenge(proxy.port(), "ghost2"));
    const std::string known = scram_challenge(proxy.port(), "scram_user");
    CHECK(known == scram_challenge(proxy.port(), "scram_user"));
    CHECK(known.size() == ghost.size());
    CHECK(known.substr(known.find(",i=")) == ghost.substr(ghost.find(",i=")));
  }

  TEST_CASE("a malformed SASL answer ends that connection only") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("auth", "method", "\"scram-sha-256\"")
                           .set("user.app", "password", "\"app-secret\""));
    for (const std::string& answer :
         {message('p', ""), message('p', "SCRAM-SHA-256"),
          message('p', std::string("NOPE\0\0\0\0\0", 9)),
          message('p', std::string("SCRAM-SHA-256\0\x7f\xff\xff\xffn,,", 21)),
          message('p', std::string("SCRAM-SHA-256\0\0\0\0\x03n,,", 21)), query_message("select 1"),
          std::string("p\x7f\xff\xff\xff")}) {
      RawClient client(proxy.port());
      client.send(startup_message({{"user", "app"}, {"database", "app"}}));
      REQUIRE(client.read());
      client.send(answer);
      const auto rest = client.read_until('E', 3s);
      REQUIRE(!rest.empty());
      CHECK(rest.back().field('S') == "FATAL");
      CHECK(client.wait_closed(3s));
    }
    CHECK(proxy.connect("app", "app", with_password("app-secret")).scalar("select 1") == "1");
  }

  TEST_CASE("a server that refuses our login is reported to the client in its own words") {
    ProxyProcess proxy(
        config_for(shared_cluster()).set("user.scram_user", "password", "\"not it\""));
    RawClient client(proxy.port());
    if (client.login("scram_user",
                     "app")) {  // refused at login or at the first statement: both are clear
      client.send(query_message("select 1"));
      const auto messages = client.read_until('E');
      REQUIRE(!messages.empty());
      CHECK(messages.back().field('C') == "28P01");
    } else {
      CHECK(client.login_error.field('C') == "28P01");
    }
    CHECK(proxy.connect("app").scalar("select 1") == "1");
  }

  TEST_CASE("a database that does not exist is 3D000") {
    ProxyProcess proxy(config_for(shared_cluster()));
    RawClient client(proxy.port());
    if (client.login("app", "nowhere")) {
      client.send(query_message("select 1"));
      const auto messages = client.read_until('E');
      REQUIRE(!messages.empty());
      CHECK(messages.back().field('C') == "3D000");
    } else {
      CHECK(client.login_error.field('C') == "3D000");
    }
    // The same when only named databases are served.
    ProxyProcess named(config_for(shared_cluster())
                           .unset("database.\"*\"", "cluster")
                           .set("database.app", "cluster", "\"main\""));
    RawClient stranger(named.port());
    CHECK(!stranger.login("app", "postgres"));
    CHECK(stranger.login_error.field('C') == "3D000");
    CHECK(named.connect().scalar("select 1") == "1");
  }

  TEST_CASE("a database's name for clients may differ from its name on the servers") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("database.shop", "cluster", "\"main\"")
                           .set("database.shop", "dbname", "\"app\""));
    CHECK(proxy.connect("app", "shop").scalar("select current_database()") == "app");
  }

  TEST_CASE("trust is refused for addresses that strangers can reach, unless forced") {
    ProxyConfig config = config_for(shared_cluster()).set("listen", "address", "\"0.0.0.0\"");
    TempDir folder;
    write_file(folder / "c.toml", [&config] {
      std::string text = config.text();
      text.replace(text.find("@port@"), 6, "1");
      text.replace(text.find("@metrics@"), 9, "0");
      text.replace(text.find("@dir@"), 5, "/tmp");
      return text;
    }());
    const Finished refused = run({proxy_binary(), folder / "c.toml"}, {}, 5s);
    CHECK(refused.status > 0);
    CHECK(refused.output.find("trust") != std::string::npos);
  }
}
