#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// COPY, both ways, and all the ways in which it ends early.
using namespace integration;

namespace {

std::string numbers(int n) {
  std::string data;
  for (int i = 0; i < n; ++i)
    data += std::to_string(i) + "\tline number " + std::to_string(i) + "\n";
  return data;
}

}  // namespace

TEST_SUITE("integration/copy") {
  TEST_CASE("[postgres] requirement 18: large COPY passes both ways unchanged, several clients at once") {
    Table table(shared_cluster(), "copy_large", "client int, id int, line text");
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "2"));
    const std::string data = numbers(150000);
    const auto problems = at_once(4, [&](std::size_t i) -> std::string {
      Connection client = proxy.connect();
      const std::string own = std::to_string(i);
      client.exec("begin");
      client.exec("create temp table part(id int, line text) on commit drop");
      Result in = client.copy_in("copy part from stdin", data);
      if (in.tag() != "COPY 150000") return in.scalar() + in.tag();
      Result insert = client.exec("insert into copy_large select " + own + ", * from part");
      if (!insert.ok()) return insert.scalar();
      if (!client.exec("commit").ok()) return "commit";
      std::string back;
      client.exec("begin");
      Result out = client.copy_out(
          "copy (select id, line from copy_large where client = " + own + " order by id) to stdout",
          back);
      client.exec("commit");
      if (!out.ok()) return out.scalar();
      return back == data ? "" : "data differs";
    });
    CHECK_MESSAGE(problems.empty(), joined(problems));
  }

  TEST_CASE("promise 1: COPY FROM goes to the primary, outside transactions too") {
    Table table(shared_cluster(), "copy_in", "id int, line text");
    ProxyProcess proxy(config_for(shared_cluster()));
    REQUIRE(proxy.ready(2));
    for (int i = 0; i < 5; ++i)
      CHECK(proxy.connect().copy_in("copy copy_in from stdin", numbers(100)).tag() == "COPY 100");
    CHECK(shared_cluster().ask(0, "select count(*) from copy_in") == "500");
    Connection client = proxy.connect();
    std::string back;
    CHECK(
        client.copy_out("copy (select id from copy_in order by id limit 2) to stdout", back).ok());
    CHECK(back == "0\n0\n");
  }

  TEST_CASE(
      "[postgres] requirement 18: a COPY that the server refuses half-way gives its error, and the "
      "connection goes on") {
    Table table(shared_cluster(), "copy_fails", "id int primary key, line text");
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "1"));
    Connection client = proxy.connect();
    CHECK(client.copy_in("copy copy_fails from stdin", "1\tx\n1\ty\n").code() == "23505");
    CHECK(client.copy_in("copy copy_fails from stdin", "no number\tx\n" + numbers(100000)).code() ==
          "22P02");
    CHECK(client.copy_in("copy nowhere_such from stdin", "").code() == "42P01");
    CHECK(client.scalar("begin; select count(*) from copy_fails") == "0");
    CHECK(client.exec("commit").ok());
    CHECK(client.copy_in("copy copy_fails from stdin", numbers(10)).tag() == "COPY 10");
  }

  TEST_CASE("[postgres] requirement 18: CopyFail ends a COPY with 57014 and nothing is stored") {
    Table table(shared_cluster(), "copy_cancelled", "id int, line text");
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "1"));
    Connection client = proxy.connect();
    const Result failed =
        client.copy_in("copy copy_cancelled from stdin", numbers(1000), "changed my mind");
    CHECK(failed.code() == "57014");
    CHECK(failed.message().find("changed my mind") != std::string::npos);
    CHECK(client.scalar("begin; select count(*) from copy_cancelled") == "0");
  }

  TEST_CASE("[postgres] requirement 18: COPY over the extended protocol, with Flush and Sync inside") {
    Table table(shared_cluster(), "copy_extended", "id int");
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "1"));
    RawClient client(proxy.port());
    REQUIRE(client.login());
    client.send(parse_message("", "copy copy_extended from stdin") + bind_message("", "") +
                execute_message("") + sync_message());
    CHECK(types(client.read_until('G')) == "12G");
    client.send(flush_message() + message('d', "1\n2\n") + sync_message() + message('d', "3\n") +
                message('c', "") + sync_message());
    CHECK(types(client.read_until('Z')) == "CZ");
    client.send(query_message("select count(*) from copy_extended for share"));
    client.read_until('Z');
    client.send(query_message("begin; select count(*) from copy_extended; commit"));
    const auto answer = client.read_until('Z');
    CHECK(types(answer) == "CTDCCZ");
    CHECK(answer[2].columns()[0] == "3");
  }

  TEST_CASE("[postgres] requirement 18: a Query in the middle of COPY over the extended protocol ends the connection") {
    Table table(shared_cluster(), "copy_half", "id int");
    ProxyProcess proxy(config_for(shared_cluster()));
    RawClient client(proxy.port());
    REQUIRE(client.login());
    client.send(parse_message("", "copy copy_half from stdin") + bind_message("", "") + execute_message("") +
                query_message("select 1"));
    std::string heard;
    while (const auto message = client.read(10s)) heard += message->type == 'E' ? message->field('S') : "";
    CHECK(heard == "ERRORFATAL");
    CHECK(client.closed());
  }

  TEST_CASE("[postgres] requirement 18: CopyData after the server has failed is ignored") {
    Table table(shared_cluster(), "copy_late", "id int");
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "1"));
    RawClient client(proxy.port());
    REQUIRE(client.login());
    client.send(query_message("copy copy_late from stdin"));
    CHECK(types(client.read_until('G')) == "G");
    client.send(message('d', "nonsense\n"));
    CHECK(types(client.read_until('Z')) == "EZ");
    client.send(message('d', "1\n") + message('d', "2\n") + message('c', ""));
    client.send(query_message("select 1"));
    CHECK(types(client.read_until('Z')) == "TDCZ");
  }

  TEST_CASE(
      "promise 4: requirement 18: a client that disappears in COPY leaves its server clean or closed") {
    Table table(shared_cluster(), "copy_vanish", "id int, line text");
    ProxyProcess proxy(config_for(shared_cluster()).set("pool", "size", "1"));
    {
      RawClient client(proxy.port());
      REQUIRE(client.login());
      client.send(query_message("copy copy_vanish from stdin"));
      CHECK(types(client.read_until('G')) == "G");
      client.send(message('d', numbers(1000)));
      client.reset();
    }
    {
      RawClient client(proxy.port());
      REQUIRE(client.login());
      client.send(query_message(
          "begin; copy (select repeat('x', 1000) from generate_series(1, 1000000)) to stdout"));
      CHECK(types(client.read_until('H')) == "CH");
      client.reset();
    }
    Connection next = proxy.connect();
    CHECK(next.scalar("begin; select count(*) from copy_vanish") == "0");
    CHECK(next.exec("commit").ok());
    CHECK(next.copy_in("copy copy_vanish from stdin", numbers(10)).tag() == "COPY 10");
  }
}
