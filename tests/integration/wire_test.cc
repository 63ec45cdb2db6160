#include <cstdlib>

#include <arpa/inet.h>

#include "tests/integration/fixture.h"
#include "tests/support/gate.h"
#include "tests/support/raw_client.h"
#include "tests/support/rng.h"

// The client's side of the wire, byte by byte. Cases marked [postgres] demand only what Postgres
// does itself; tests/run --direct runs them against Postgres alone, so that they cannot ask for
// something else.
using namespace integration;

namespace {

// A proxy for all cases of this file: they end connections, never the proxy.
struct Wire {
  PgCluster& cluster = shared_cluster();
  ProxyProcess proxy{
      config_for(cluster).set("listen", "login_timeout", "\"700ms\"").set("pool", "size", "4")};
  Connection bystander = proxy.connect();

  // After whatever a stranger did: nobody else noticed.
  void check_undisturbed() {
    CHECK(bystander.scalar("select 41 + 1") == "42");
    CHECK(proxy.connect().scalar("select 1") == "1");
    CHECK(proxy.running());
  }
};

std::string sqlstate_of(const std::vector<Message>& messages) {
  for (const Message& one : messages)
    if (one.type == 'E') return one.field('S') + " " + one.field('C');
  return "no error in " + types(messages);
}

std::string first_value(const std::vector<Message>& messages) {
  for (const Message& one : messages)
    if (one.type == 'D') return one.columns().empty() ? "" : one.columns()[0];
  return "no row in " + types(messages);
}

}  // namespace

TEST_SUITE("integration/wire") {
  TEST_CASE(
      "requirement 1: SSLRequest and GSSENCRequest are answered N in either order, and start-up goes on") {
    Wire wire;
    for (const bool ssl_first : {true, false}) {
      RawClient client(wire.proxy.port());
      client.send(ssl_first ? ssl_request() : gss_request());
      CHECK(client.read_byte() == 'N');
      client.send(ssl_first ? gss_request() : ssl_request());
      CHECK(client.read_byte() == 'N');
      CHECK(client.login());
    }
    wire.check_undisturbed();
  }

  TEST_CASE("requirement 1: a repeated SSLRequest or GSSENCRequest ends the connection") {
    Wire wire;
    for (const std::string& request : {ssl_request(), gss_request()}) {
      RawClient client(wire.proxy.port());
      client.send(request);
      CHECK(client.read_byte() == 'N');
      client.send(request);
      CHECK(client.wait_closed());
    }
    wire.check_undisturbed();
  }

  TEST_CASE(
      "requirement 1: bytes in the clear behind a request for encryption end the connection, whatever it is "
      "answered") {
    Wire wire;
    for (const std::string& request : {ssl_request(), gss_request()}) {
      RawClient client(wire.proxy.port());
      client.send(request + startup_message({{"user", "app"}, {"database", "app"}}));
      const auto heard = client.read_until('Z', 3s);
      CHECK((heard.empty() || heard.back().type != 'Z'));
      CHECK(client.wait_closed(3s));
    }
    wire.check_undisturbed();
  }

  TEST_CASE("requirement 4: who opens a connection and closes it, or asks whether there is TLS, has not failed") {
    Wire wire;
    for (int i = 0; i < 3; ++i) {
      { RawClient silent(wire.proxy.port()); }
      RawClient asking(wire.proxy.port());
      asking.send(ssl_request());
      CHECK(asking.read_byte() == 'N');
    }
    const auto closed = [&wire](const std::string& why) {
      return metric(wire.proxy.metrics(), "pgsluice_client_closes_total", {"reason=\"" + why + "\""}).value_or(-1);
    };
    CHECK(eventually([&] { return closed("probe_only") == 6; }));
    CHECK(closed("login_failed") == 0);
    CHECK(metric(wire.proxy.metrics(), "pgsluice_login_failures_total") == 0);
    CHECK(wire.proxy.log().find("warning") == std::string::npos);
  }

  TEST_CASE(
      "[postgres] requirement 3: a newer minor version or an unknown _pq_ option is answered by one "
      "NegotiateProtocolVersion") {
    Wire wire;
    RawClient client(wire.proxy.port());
    client.send(startup_message({{"user", "app"}, {"database", "app"}, {"_pq_.novelty", "1"}},
                                (3 << 16) | 99));
    const auto first = client.read();
    REQUIRE(first);
    CHECK(first->type == 'v');
    CHECK(first->body.find("_pq_.novelty") != std::string::npos);
    CHECK(types(client.read_until('Z')).find('v') == std::string::npos);
    client.send(query_message("select 7"));
    CHECK(first_value(client.read_until('Z')) == "7");
  }

  TEST_CASE("[postgres] another major version is refused with a FATAL error") {
    Wire wire;
    for (const std::uint32_t version : {4U << 16, 9U << 16}) {
      RawClient client(wire.proxy.port());
      client.send(startup_message({{"user", "app"}, {"database", "app"}}, version));
      const auto messages = client.read_until('Z');
      CHECK(sqlstate_of(messages).rfind("FATAL 0", 0) == 0);
      CHECK(client.wait_closed());
    }
  }

  TEST_CASE(
      "garbage instead of a start-up message ends that connection with a clear error and disturbs "
      "nobody") {
    Wire wire;
    auto random = rng(1);
    std::string noise(300, '\0');
    for (char& byte : noise) byte = static_cast<char>(random());
    noise[0] = 0x7f;  // a length that is too long, whatever follows
    const std::vector<std::string> inputs = {
        "GET / HTTP/1.0\r\n\r\n",
        std::string("\0\0\0\0", 4),
        std::string("\0\0\0\x03", 4),
        std::string("\0\0\0\x07\x00\x03\x00", 7),
        std::string("\x7f\xff\xff\xff", 4) + int32_bytes(3 << 16),
        std::string("\xff\xff\xff\xff", 4) + int32_bytes(3 << 16),
        untyped(int32_bytes(12345)),
        untyped(int32_bytes(3 << 16)),                          // no terminator
        untyped(int32_bytes(3 << 16) + "user"),                 // no end of a name
        untyped(int32_bytes(3 << 16) + "user" + '\0' + "app"),  // no end of a value
        untyped(int32_bytes(80877102) + "x"),                   // a cancel that is too short
        startup_message({{"database", "app"}}),                 // no user
        noise,
    };
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      CAPTURE(i);
      RawClient client(wire.proxy.port());
      client.send(inputs[i]);
      const auto messages = client.read_until('E', 3s);
      if (!messages.empty()) {
        CHECK(messages[0].type == 'E');
        CHECK(messages[0].field('S') == "FATAL");
        const std::string code = messages[0].field('C');
        CHECK_MESSAGE((code == "08P01" || code == "28000" || code == "0A000"), code);
        CHECK(!messages[0].field('M').empty());
      }
      CHECK(client.wait_closed(3s));
    }
    wire.check_undisturbed();
  }

  TEST_CASE("requirement 4: a start-up message that stops half-way is cut off at the login deadline") {
    Wire wire;
    const std::string startup = startup_message({{"user", "app"}, {"database", "app"}});
    for (const std::size_t length :
         {std::size_t{0}, std::size_t{3}, std::size_t{9}, startup.size() - 1}) {
      CAPTURE(length);
      RawClient client(wire.proxy.port());
      client.send(startup.substr(0, length));
      Stopwatch watch;
      CHECK(client.wait_closed(5s));
      CHECK(watch.elapsed() > 300ms);
      CHECK(watch.elapsed() < 3s);
    }
    wire.check_undisturbed();
  }

  TEST_CASE(
      "requirement 19: bad messages after login end that connection with FATAL 08P01 and disturb nobody") {
    Wire wire;
    auto random = rng(2);
    std::string noise = "\x01";
    for (int i = 0; i < 200; ++i) noise += static_cast<char>(random());
    const std::vector<std::string> inputs = {
        message('y', "what is this"),
        std::string("\0\0\0\0\0", 5),
        std::string("Q\0\0\0\x03", 5),
        std::string("Q\xff\xff\xff\xff", 5),
        std::string("S\x7f\xff\xff\xff", 5),  // Sync has no gigabytes
        std::string("S\0\1\0\0", 5),
        std::string("E\x40\0\0\0", 5),
        message('Q', "select 1"),  // no terminator
        message('P', "name"),      // ends inside
        message('B', "portal without an end") + sync_message(),
        message('E', "") + sync_message(),
        message('D', "X") + sync_message(),
        message('C', "") + sync_message(),
        noise,
    };
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      CAPTURE(i);
      RawClient client(wire.proxy.port());
      REQUIRE(client.login());
      client.send(inputs[i]);
      const auto messages = client.read_until('E', 5s);
      CHECK(sqlstate_of(messages) == "FATAL 08P01");
      CHECK(client.wait_closed(3s));
    }
    wire.check_undisturbed();
  }

  TEST_CASE("a message that stops half-way, and then the client, leaves nothing behind") {
    Wire wire;
    for (const char* half : {"Q", "Q\0\0", "P\0\0\0\x20name"}) {
      RawClient client(wire.proxy.port());
      REQUIRE(client.login());
      client.send(half);
    }
    {
      RawClient client(wire.proxy.port());
      REQUIRE(client.login());
      client.send(query_message("begin"));
      client.read_until('Z');
      client.send(std::string("Q\0\0\1\0select", 11));
      client.reset();
    }
    CHECK(eventually([&] {
      return wire.cluster.ask(0,
                              "select count(*) from pg_stat_activity where usename = 'app' and "
                              "state like 'idle in transaction%'") == "0";
    }));
    wire.check_undisturbed();
  }

  TEST_CASE("requirement 4: messages that arrive one byte at a time mean the same") {
    Wire wire;
    Gate gate(wire.proxy.port());
    gate.one_byte_at_a_time(true);
    RawClient client(gate.port());
    REQUIRE(client.login());
    client.send(query_message("select 5"));
    CHECK(first_value(client.read_until('Z')) == "5");
    client.send(parse_message("s", "select 6") + bind_message("", "s") + describe_message('P', "") +
                execute_message("") + sync_message());
    CHECK(types(client.read_until('Z')) == "12TDCZ");
  }

  TEST_CASE(
      "[postgres] simple queries: rows, several statements, nothing at all, errors, notices") {
    Wire wire;
    RawClient client(wire.proxy.port());
    REQUIRE(client.login());
    const auto ask = [&client](const std::string& sql) {
      client.send(query_message(sql));
      return types(client.read_until('Z'));
    };
    CHECK(ask("select 1") == "TDCZ");
    CHECK(ask("") == "IZ");
    CHECK(ask(" ; ") == "IZ");
    CHECK(ask("select 1; select 2 where false; select 3") == "TDCTCTDCZ");
    CHECK(ask("select 1; select 1/0; select 3") == "TDCEZ");
    CHECK(ask("selec") == "EZ");
    CHECK(ask("do $$ begin raise notice 'hello'; end $$") == "NCZ");
    CHECK(ask("begin; select 1") == "CTDCZ");
    CHECK(ask("select 1/0") == "EZ");
    CHECK(ask("select 1") == "EZ");
    CHECK(ask("rollback") == "CZ");
  }

  TEST_CASE("[postgres] ReadyForQuery tells the state of the transaction") {
    Wire wire;
    RawClient client(wire.proxy.port());
    REQUIRE(client.login());
    const auto state = [&client](const std::string& sql) {
      client.send(query_message(sql));
      const auto answer = client.read_until('Z');
      return answer.empty() ? "" : answer.back().body;
    };
    CHECK(state("select 1") == "I");
    CHECK(state("begin") == "T");
    CHECK(state("select 1") == "T");
    CHECK(state("select 1/0") == "E");
    CHECK(state("commit") == "I");
  }

  TEST_CASE("[postgres] requirement 17: each Sync of a pipeline is answered, in order") {
    Wire wire;
    RawClient client(wire.proxy.port());
    REQUIRE(client.login());
    std::string batch;
    for (int i = 0; i < 100; ++i) {
      batch += parse_message("", "select " + std::to_string(i)) + bind_message("", "") +
               execute_message("") + sync_message();
    }
    client.send(batch);
    for (int i = 0; i < 100; ++i) {
      const auto answer = client.read_until('Z');
      REQUIRE(types(answer) == "12DCZ");
      REQUIRE(first_value(answer) == std::to_string(i));
    }
  }

  TEST_CASE(
      "[postgres] requirement 17: after an error a pipeline is discarded up to its Sync, and goes on "
      "after it") {
    Wire wire;
    RawClient client(wire.proxy.port());
    REQUIRE(client.login());
    const auto one = [](const std::string& sql) {
      return parse_message("", sql) + bind_message("", "") + execute_message("");
    };
    client.send(one("select 1") + one("select 1/0") + one("select 2") + sync_message() +
                one("select 3") + sync_message());
    CHECK(types(client.read_until('Z')) == "12DC1EZ");
    const auto after = client.read_until('Z');
    CHECK(types(after) == "12DCZ");
    CHECK(first_value(after) == "3");
  }

  TEST_CASE("[postgres] requirement 17: Flush brings the answers so far without ReadyForQuery") {
    Wire wire;
    RawClient client(wire.proxy.port());
    REQUIRE(client.login());
    client.send(parse_message("", "select 8") + flush_message());
    CHECK(types(client.read_until('1')) == "1");
    client.send(bind_message("", "") + execute_message("") + flush_message());
    CHECK(types(client.read_until('C')) == "2DC");
    CHECK(!client.read(100ms));
    client.send(sync_message());
    CHECK(types(client.read_until('Z')) == "Z");
  }

  TEST_CASE(
      "[postgres] requirement 17: a portal with a row limit is suspended and goes on where it stopped") {
    Wire wire;
    RawClient client(wire.proxy.port());
    REQUIRE(client.login());
    client.send(query_message("begin"));
    client.read_until('Z');
    client.send(parse_message("", "select generate_series(1, 5)") + bind_message("p", "") +
                execute_message("p", 2) + sync_message());
    CHECK(types(client.read_until('Z')) == "12DDsZ");
    client.send(execute_message("p", 2) + sync_message());
    CHECK(types(client.read_until('Z')) == "DDsZ");
    client.send(execute_message("p", 0) + close_message('P', "p") + sync_message());
    CHECK(types(client.read_until('Z')) == "DC3Z");
    client.send(query_message("commit"));
    CHECK(types(client.read_until('Z')) == "CZ");
  }

  TEST_CASE("[postgres] requirement 17: a simple Query inside an unfinished extended sequence is legal") {
    Wire wire;
    RawClient client(wire.proxy.port());
    REQUIRE(client.login());
    client.send(parse_message("x", "select 1") + query_message("select 2"));
    CHECK(types(client.read_until('Z')) == "1TDCZ");
    client.send(bind_message("", "x") + execute_message("") + sync_message());
    CHECK(types(client.read_until('Z')) == "2DCZ");
  }

  TEST_CASE(
      "[postgres] requirement 17: an error before a Query of the same sequence skips that, too, up to "
      "Sync") {
    Wire wire;
    RawClient client(wire.proxy.port());
    REQUIRE(client.login());
    client.send(execute_message("unknown") + query_message("do $$ begin end $$") +
                describe_message('P', "unknown") + sync_message() + query_message("select 1"));
    CHECK(types(client.read_until('Z')) == "EZ");
    CHECK(types(client.read_until('Z')) == "TDCZ");
  }

  TEST_CASE("[postgres] requirement 17: requirement 24: the function call message works, on the primary") {
    Wire wire;
    RawClient client(wire.proxy.port());
    REQUIRE(client.login());
    const std::string oid = wire.cluster.ask(0, "select 'int4pl'::regproc::oid");
    client.send(message('F', int32_bytes(static_cast<std::uint32_t>(std::atoi(oid.c_str()))) +
                                 int16_bytes(0) + int16_bytes(2) + int32_bytes(1) + "2" +
                                 int32_bytes(1) + "3" + int16_bytes(0)));
    const auto answer = client.read_until('Z');
    CHECK(types(answer) == "VZ");
    CHECK(answer[0].body.substr(4) == "5");
    // What it calls nobody has looked at: the primary does it.
    const std::string in_recovery = wire.cluster.ask(0, "select 'pg_is_in_recovery'::regproc::oid");
    for (int i = 0; i < 4; ++i) {
      client.send(message('F', int32_bytes(static_cast<std::uint32_t>(std::atoi(in_recovery.c_str()))) +
                                   int16_bytes(0) + int16_bytes(0) + int16_bytes(0)));
      const auto said = client.read_until('Z');
      REQUIRE(types(said) == "VZ");
      CHECK(said[0].body.substr(4) == "f");
    }
  }

  TEST_CASE(
      "[postgres] requirement 13: a client that closes its sending side after the last message still "
      "gets its answer") {
    Wire wire;
    RawClient client(wire.proxy.port());
    REQUIRE(client.login());
    client.send(query_message("select pg_sleep(0.3), 9"));
    client.shutdown_write();
    CHECK(types(client.read_until('Z')) == "TDCZ");
    CHECK(client.wait_closed());
  }

  TEST_CASE("[postgres] requirement 17: nothing follows a FATAL") {
    Wire wire;
    RawClient client(wire.proxy.port());
    REQUIRE(client.login());
    client.send(query_message("begin"));
    client.read_until('Z');
    std::string rest;
    for (int i = 0; i < 20; ++i) rest += query_message("select " + std::to_string(i));
    client.send(query_message("select pg_terminate_backend(pg_backend_pid())") + rest);
    const auto heard = client.read_until('Z');  // until the end: none comes
    REQUIRE(!heard.empty());
    CHECK(heard.back().type == 'E');
    CHECK(heard.back().field('S') == "FATAL");
    CHECK(client.closed());
  }

  TEST_CASE("requirement 19: a named statement too long to be kept is refused with 54000") {
    ProxyProcess proxy(config_for(shared_cluster()).set("limits", "batch", "\"4KiB\""));
    RawClient client(proxy.port());
    REQUIRE(client.login());
    const std::string text = "select '" + std::string(300000, 'x') + "'";
    client.send(parse_message("", text) + bind_message("", "") + execute_message("") + sync_message());
    CHECK(types(client.read_until('Z')) == "12DCZ");  // without a name there is nothing to keep
    client.send(parse_message("kept", text) + sync_message());
    const auto heard = client.read_until('E');
    REQUIRE(!heard.empty());
    CHECK(sqlstate_of(heard) == "FATAL 54000");
    CHECK(client.wait_closed(3s));
  }

  TEST_CASE("[postgres] Terminate closes the connection") {
    Wire wire;
    RawClient client(wire.proxy.port());
    REQUIRE(client.login());
    client.send(terminate_message());
    CHECK(client.wait_closed());
  }

  TEST_CASE("clients connect over the unix socket too") {
    Wire wire;
    Connection client("host=" + wire.proxy.unix_dir() +
                      " port=" + std::to_string(wire.proxy.port()) + " user=app dbname=app");
    REQUIRE_MESSAGE(client.ok(), client.error());
    CHECK(client.scalar("select current_user") == "app");
  }

  TEST_CASE("[postgres] requirement 4: without a database name the user's name is the database") {
    Wire wire;
    RawClient client(wire.proxy.port());
    client.send(startup_message({{"user", "app"}}));
    client.read_until('Z');
    client.send(query_message("select current_database()"));
    CHECK(first_value(client.read_until('Z')) == "app");
  }

  TEST_CASE("promise 5: requirement 10: the welcome says what Postgres itself says") {
    Wire wire;
    Connection direct(wire.cluster.conninfo(0, "app"));
    for (const std::string name :
         {"server_version", "server_encoding", "client_encoding", "is_superuser",
          "session_authorization", "DateStyle", "IntervalStyle", "TimeZone", "integer_datetimes",
          "standard_conforming_strings", "application_name", "default_transaction_read_only"}) {
      CAPTURE(name);
      CHECK(wire.bystander.parameter(name.c_str()) == direct.parameter(name.c_str()));
    }
  }

  TEST_CASE("[postgres] requirement 9: start-up parameters and options are session settings") {
    Wire wire;
    Connection client = wire.proxy.connect(
        "app", "app",
        "sslmode=disable application_name=wire_test options='-c statement_timeout=12345 "
        "--work_mem=7MB -csearch_path=a,b'");
    REQUIRE_MESSAGE(client.ok(), client.error());
    CHECK(client.scalar("show statement_timeout") == "12345ms");
    CHECK(client.scalar("show work_mem") == "7MB");
    CHECK(client.scalar("show search_path") == "a,b");
    CHECK(client.scalar("show application_name") == "wire_test");
    CHECK(client.scalar("select current_setting('work_mem')") == "7MB");
  }

  TEST_CASE(
      "[postgres] requirement 9: RESET goes back to start-up values at once, and the client hears of what has "
      "changed and of nothing else") {
    Wire wire;
    RawClient client(wire.proxy.port());
    client.send(startup_message({{"user", "app"},
                                 {"database", "app"},
                                 {"TimeZone", "Asia/Tokyo"},
                                 {"DateStyle", "SQL, DMY"}}));
    client.read_until('Z');
    const auto say = [&client](const std::string& bytes) {
      client.send(bytes);
      return client.read_until('Z');
    };
    const auto told = [](const std::vector<Message>& messages) {
      std::string text;
      for (const Message& one : messages)
        if (one.type == 'S') text += one.body.substr(one.body.find('\0') + 1).c_str() + std::string(";");
      return text;
    };
    for (const std::string reset : {"reset all", "discard all", "reset timezone", "set timezone to default"}) {
      CHECK(types(say(query_message(reset))) == "CZ");
      CHECK(told(say(query_message("set timezone = 'UTC'"))) == "UTC;");
      CHECK(told(say(query_message(reset))) == "Asia/Tokyo;");
      // What is pipelined behind it runs with them.
      client.send(parse_message("", reset) + bind_message("", "") + execute_message("") + sync_message() +
                  query_message("show timezone"));
      CHECK(types(client.read_until('Z')) == "12CZ");
      CHECK(first_value(client.read_until('Z')) == "Asia/Tokyo");
    }
    // Within a transaction, and after its end.
    say(query_message("set timezone = 'UTC'"));
    CHECK(types(say(query_message("begin"))) == "CZ");
    CHECK(told(say(query_message("reset timezone"))) == "Asia/Tokyo;");
    CHECK(first_value(say(query_message("show timezone"))) == "Asia/Tokyo");
    CHECK(told(say(query_message("rollback"))) == "UTC;");
    CHECK(first_value(say(query_message("show timezone"))) == "UTC");
    CHECK(types(say(query_message("begin"))) == "CZ");
    CHECK(told(say(query_message("reset all"))) == "Asia/Tokyo;");
    CHECK(types(say(query_message("commit"))) == "CZ");
    CHECK(first_value(say(query_message("show timezone"))) == "Asia/Tokyo");
    CHECK(first_value(say(query_message("show datestyle"))) == "SQL, DMY");
  }

  TEST_CASE("requirement 18: a replication connection is refused clearly") {
    Wire wire;
    RawClient client(wire.proxy.port());
    client.send(startup_message({{"user", "app"}, {"database", "app"}, {"replication", "true"}}));
    const auto messages = client.read_until('E');
    CHECK(sqlstate_of(messages) == "FATAL 0A000");
    CHECK(client.wait_closed());
  }

  TEST_CASE(
      "one client more than max_client_connections is refused with FATAL 53300, and one that "
      "leaves makes room") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("listen", "max_client_connections", "5")
                           .set("listen", "admin_reserved", "2"));
    std::vector<RawClient> clients;
    for (int i = 0; i < 3; ++i) {
      clients.emplace_back(proxy.port());
      REQUIRE(clients.back().login());
    }
    {
      RawClient late(proxy.port());
      CHECK(!late.login());
      CHECK(late.login_error.field('C') == "53300");
      CHECK(late.login_error.field('S') == "FATAL");
      CHECK(late.wait_closed());
    }
    CHECK(proxy.console().ok());  // the console keeps its reserve
    clients.back().send(terminate_message());
    clients.pop_back();
    CHECK(eventually([&] { return RawClient(proxy.port()).login(); }));
  }
}
