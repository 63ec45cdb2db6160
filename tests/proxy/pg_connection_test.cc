#include "proxy/pg_connection.h"

#include <doctest/doctest.h>

#include <memory>
#include <optional>

#include "tests/proxy/monitor_fake_node.h"

using namespace proxy;
using fake::run_until;
using conf::Millis;

TEST_SUITE("proxy/pg_connection") {
  PgTarget target_of(const fake::Node& node) {
    PgTarget target;
    target.host = target.ip = "127.0.0.1";
    target.port = node.port();
    target.user = "somebody";
    target.database = "postgres";
    target.tls_mode = conf::TlsMode::disable;
    return target;
  }

  TEST_CASE("a message of libpq is read for its SQLSTATE, its kind and its text") {
    struct Case {
      const char* text;
      bool connecting;
      PgFailure kind;
      const char* sqlstate;
      const char* message;
    };
    const Case cases[] = {
        {"connection to server at \"127.0.0.1\", port 1 failed: Connection refused\n\tIs the server "
         "running on that host and accepting TCP/IP connections?\n",
         true, PgFailure::refused, "", "Connection refused"},
        {"connection to server on socket \"/x/.s.PGSQL.5432\" failed: No such file or directory\n",
         true, PgFailure::refused, "", "No such file or directory"},
        {"connection to server at \"h\", port 1 failed: FATAL:  28P01: password authentication "
         "failed for user \"a: b\"\nLOCATION:  auth_failed, auth.c:326\n",
         true, PgFailure::auth, "28P01", "password authentication failed for user \"a: b\""},
        {"FATAL:  57P03: the database system is starting up\n", true, PgFailure::starting, "57P03",
         "the database system is starting up"},
        {"FATAL:  57P01: terminating connection\n", false, PgFailure::shutting_down, "57P01",
         "terminating connection"},
        {"FATAL:  53300: sorry, too many clients already\n", true, PgFailure::too_many, "53300",
         "sorry, too many clients already"},
        {"FATAL:  3D000: database \"x\" does not exist\n", true, PgFailure::other, "3D000",
         "database \"x\" does not exist"},
        {"ERROR:  42P01: relation \"x\" does not exist\n", false, PgFailure::sql, "42P01",
         "relation \"x\" does not exist"},
        {"server closed the connection unexpectedly\n\tThis probably means ...\n", false,
         PgFailure::reset, "",
         "server closed the connection unexpectedly; This probably means ..."},
        {"private key file \"k\": Permission denied\n", true, PgFailure::other, "",
         "private key file \"k\": Permission denied"},
        {"", true, PgFailure::other, "", ""},
        {":  ", true, PgFailure::other, "", ":  "},
        {"a:  1234", true, PgFailure::other, "", "a:  1234"},
    };
    for (const Case& one : cases) {
      CAPTURE(one.text);
      const PgError error = read_libpq_message(one.text, one.connecting);
      CHECK(error.kind == one.kind);
      CHECK(error.sqlstate == one.sqlstate);
      CHECK(error.message == one.message);
    }
  }

  TEST_CASE("the name that peers see fits into Postgres's 63 bytes") {
    CHECK(monitor_application_name().size() <= 63);
    CHECK(monitor_application_name().starts_with("pgsluice monitor "));
  }

  TEST_CASE("connects, and answers one query after the other") {
    net::Loop loop;
    fake::Node node;
    node.change([](auto& face) { face.secrets["ann"] = "secret"; });
    PgConnection connection(loop);
    std::optional<PgAnswer> first, second;
    connection.connect(target_of(node), Millis(2000), [&](const std::optional<PgError>& error) {
      REQUIRE_FALSE(error);
      CHECK(connection.server_parameter("server_version") == "fake 15");
      connection.query("select pg_authid", {"ann"}, Millis(2000), [&](PgAnswer answer) {
        first = std::move(answer);
        connection.query("select pg_authid", {"bob"}, Millis(2000),
                         [&](PgAnswer other) { second = std::move(other); });
      });
    });
    REQUIRE(run_until(loop, [&] { return second.has_value(); }));
    REQUIRE_FALSE(first->error);
    REQUIRE(first->rows.size() == 1);
    CHECK(first->rows[0] == PgRow{"ann", "secret"});
    CHECK_FALSE(second->error);
    CHECK(second->rows.empty());
    CHECK(connection.ready());
  }

  TEST_CASE("an error of the statement leaves the connection usable") {
    net::Loop loop;
    fake::Node node;
    node.change([](auto& face) { face.refuse_sqlstate = "42501"; });
    PgConnection connection(loop);
    std::optional<PgAnswer> answer;
    connection.connect(target_of(node), Millis(2000), [&](const std::optional<PgError>&) {
      connection.query("select pg_authid", {"ann"}, Millis(2000),
                       [&](PgAnswer got) { answer = std::move(got); });
    });
    REQUIRE(run_until(loop, [&] { return answer.has_value(); }));
    REQUIRE(answer->error);
    CHECK(answer->error->kind == PgFailure::sql);
    CHECK(answer->error->sqlstate == "42501");
    CHECK(answer->error->message == "refused by the test");
    CHECK(connection.ready());
  }

  TEST_CASE("each way of not connecting has its kind") {
    net::Loop loop;
    fake::Node node;
    PgFailure expected = PgFailure::other;
    SUBCASE("nobody listens") {
      node.stop();
      expected = PgFailure::refused;
    }
    SUBCASE("nothing is said") {
      node.change([](auto& face) { face.mood = fake::Node::Mood::hangs; });
      expected = PgFailure::timeout;
    }
    SUBCASE("the peer hangs up") {
      node.change([](auto& face) { face.mood = fake::Node::Mood::hangs_up; });
      expected = PgFailure::reset;
    }
    SUBCASE("something else than Postgres listens") {
      node.change([](auto& face) { face.mood = fake::Node::Mood::garbage; });
      expected = PgFailure::other;
    }
    PgConnection connection(loop);
    std::optional<PgError> error;
    int called = 0;
    connection.connect(target_of(node), Millis(150), [&](const std::optional<PgError>& got) {
      ++called;
      error = got;
    });
    REQUIRE(run_until(loop, [&] { return called > 0; }));
    REQUIRE(error);
    CHECK(error->kind == expected);
    CHECK_FALSE(error->message.empty());
    CHECK_FALSE(connection.open());
    fake::run_for(loop, Millis(200));
    CHECK(called == 1);
  }

  TEST_CASE("a query that is not answered in time closes the connection") {
    net::Loop loop;
    fake::Node node;
    PgConnection connection(loop);
    std::optional<PgAnswer> answer;
    connection.connect(target_of(node), Millis(2000), [&](const std::optional<PgError>& error) {
      REQUIRE_FALSE(error);
      node.change([](auto& face) { face.mood = fake::Node::Mood::hangs; });
      connection.query("select", {}, Millis(50), [&](PgAnswer got) { answer = std::move(got); });
    });
    REQUIRE(run_until(loop, [&] { return answer.has_value(); }));
    CHECK(answer->error->kind == PgFailure::timeout);
    CHECK_FALSE(connection.open());
  }

  TEST_CASE("an idle connection that ends is reported once") {
    net::Loop loop;
    fake::Node node;
    PgConnection connection(loop);
    int lost = 0;
    PgFailure kind = PgFailure::other;
    connection.watch_idle([&](const PgError& error) {
      ++lost;
      kind = error.kind;
    });
    bool connected = false;
    connection.connect(target_of(node), Millis(2000),
                       [&](const std::optional<PgError>& error) { connected = !error; });
    REQUIRE(run_until(loop, [&] { return connected; }));
    node.stop();
    REQUIRE(run_until(loop, [&] { return lost > 0; }));
    CHECK(kind == PgFailure::reset);
    fake::run_for(loop, Millis(20));
    CHECK(lost == 1);
  }

  TEST_CASE("it may be destroyed inside any of its callbacks, and drops what is under way") {
    net::Loop loop;
    fake::Node node;
    auto connection = std::make_unique<PgConnection>(loop);
    bool done = false;
    SUBCASE("when connected") {
      connection->connect(target_of(node), Millis(2000), [&](const std::optional<PgError>&) {
        connection.reset();
        done = true;
      });
    }
    SUBCASE("when it failed to connect") {
      node.stop();
      connection->connect(target_of(node), Millis(2000), [&](const std::optional<PgError>&) {
        connection.reset();
        done = true;
      });
    }
    SUBCASE("when it timed out") {
      node.change([](auto& face) { face.mood = fake::Node::Mood::hangs; });
      connection->connect(target_of(node), Millis(20), [&](const std::optional<PgError>&) {
        connection.reset();
        done = true;
      });
    }
    SUBCASE("when answered") {
      connection->connect(target_of(node), Millis(2000), [&](const std::optional<PgError>&) {
        connection->query("select pg_database", {}, Millis(2000), [&](const PgAnswer&) {
          connection.reset();
          done = true;
        });
      });
    }
    SUBCASE("when an idle connection is lost") {
      connection->watch_idle([&](const PgError&) {
        connection.reset();
        done = true;
      });
      bool connected = false;
      connection->connect(target_of(node), Millis(2000),
                          [&](const std::optional<PgError>&) { connected = true; });
      REQUIRE(run_until(loop, [&] { return connected; }));
      node.stop();
    }
    SUBCASE("in the middle of connecting") {
      connection->connect(target_of(node), Millis(2000),
                          [](const std::optional<PgError>&) { FAIL("must not be called"); });
      connection.reset();
      done = true;
    }
    CHECK(run_until(loop, [&] { return done; }));
    fake::run_for(loop, Millis(20));
  }
}
