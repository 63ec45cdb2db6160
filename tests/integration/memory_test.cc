#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>

#include "tests/integration/fixture.h"
#include "tests/support/raw_client.h"

// Promise 8: memory is bounded whatever one client sends or refuses to read.
using namespace integration;

namespace {

// Sanitizers keep freed memory in quarantine: there, only that things work is tested.
bool sanitized() { return std::getenv("PGSLUICE_SANITIZED") != nullptr; }

constexpr long kAllowedKib =
    24 * 1024;  // far below the 200 MB in flight, far above the buffers in question

// The size of what is large, in megabytes: PGSLUICE_MEMORY_MB=1000 for the gigabyte of the requirement, which
// takes Postgres and the test several gigabytes of their own.
std::size_t megabytes(std::size_t usual) {
  const char* given = std::getenv("PGSLUICE_MEMORY_MB");
  return given == nullptr ? usual : static_cast<std::size_t>(std::atol(given));
}

}  // namespace

TEST_SUITE("integration/memory") {
  TEST_CASE(
      "promise 8: a client that does not read a large result is waited for, not stored, and cut "
      "off in the end") {
    ProxyProcess proxy(config_for(shared_cluster()).set("limits", "slow_reader_timeout", "\"2s\""));
    Connection bystander = proxy.connect();
    CHECK(bystander.scalar("select 1") == "1");
    const long before = resident_kib(proxy.pid());
    RawClient stuck(proxy.port());
    stuck.set_receive_buffer(64 * 1024);
    REQUIRE(stuck.login());
    stuck.send(query_message("select repeat('x', 1000) from generate_series(1, " +
                             std::to_string(megabytes(200) * 1000) + ")"));
    Stopwatch watch;
    long most = before;
    while (watch.elapsed() < 1500ms) {
      most = std::max(most, resident_kib(proxy.pid()));
      Stopwatch one;
      CHECK(bystander.scalar("select 2") == "2");
      CHECK(one.elapsed() < 1s);
    }
    CAPTURE(before);
    CAPTURE(most);
    if (!sanitized()) CHECK(most - before < kAllowedKib);
    // Its server is free again although the client has read nothing since.
    CHECK(eventually(
        [] {
          for (std::size_t node = 0; node < shared_cluster().size(); ++node) {
            const std::string active = shared_cluster().ask(
                node,
                "select count(*) from pg_stat_activity where usename = 'app' and state = 'active'");
            if (active != "0") return false;
          }
          return true;
        },
        15s));
    CHECK(stuck.wait_closed(20s));
  }

  TEST_CASE("promise 8: a slow reader gets all of a large result, and memory stays small") {
    ProxyProcess proxy(config_for(shared_cluster()));
    const long before = resident_kib(proxy.pid());
    RawClient slow(proxy.port());
    slow.set_receive_buffer(64 * 1024);
    REQUIRE(slow.login());
    slow.send(query_message("select repeat('x', 1000) from generate_series(1, 100000)"));
    long most = before;
    std::size_t rows = 0;
    while (auto message = slow.read()) {
      if (message->type == 'D') ++rows;
      if (rows % 5000 == 0) most = std::max(most, resident_kib(proxy.pid()));
      if (message->type == 'Z') break;
    }
    CHECK(rows == 100000);
    if (!sanitized()) CHECK(most - before < kAllowedKib);
  }

  TEST_CASE("promise 8: a single row of 100 MB streams") {
    const std::size_t size = megabytes(100) * 1'000'000;
    ProxyProcess proxy(config_for(shared_cluster()));
    Connection client = proxy.connect();
    const long before = resident_kib(proxy.pid());
    client.set_deadline(120s);
    const Result result = client.exec("select repeat('x', " + std::to_string(size) + ")");
    CHECK(result.ok());
    CHECK(result.at(0, 0).size() == size);
    if (!sanitized()) CHECK(resident_kib(proxy.pid()) - before < kAllowedKib);
  }

  TEST_CASE("promise 8: a parameter of 100 MB streams") {
    const std::size_t size = megabytes(100) * 1'000'000;
    Table table(shared_cluster(), "memory_parameter", "line text");
    ProxyProcess proxy(config_for(shared_cluster()));
    Connection client = proxy.connect();
    client.set_deadline(120s);
    const long before = resident_kib(proxy.pid());
    const std::string large(size, 'y');
    long most = before;
    std::atomic<bool> running{true};
    std::thread watcher([&] {
      while (running) {
        most = std::max(most, resident_kib(proxy.pid()));
        std::this_thread::sleep_for(5ms);
      }
    });
    const Result result =
        client.exec("insert into memory_parameter values ($1) returning length(line)", {large});
    running = false;
    watcher.join();
    CHECK(result.scalar() == std::to_string(size));
    CAPTURE(before);
    CAPTURE(most);
    if (!sanitized()) CHECK(most - before < kAllowedKib);
    CHECK(client.scalar("select 1") == "1");
  }

  TEST_CASE("promise 8: a statement text of 20 MB reaches the primary and its answer returns") {
    ProxyProcess proxy(config_for(shared_cluster()));
    Connection client = proxy.connect();
    const long before = resident_kib(proxy.pid());
    CHECK(client.scalar("select length('" + std::string(20000000, 'z') + "')") == "20000000");
    CHECK(client.scalar("select 1") == "1");
    if (!sanitized()) CHECK(resident_kib(proxy.pid()) - before < kAllowedKib);
  }

  TEST_CASE(
      "promise 8: requirement 20: a server whose client sends without end is not read ahead: a "
      "pipeline deeper than all buffers finishes") {
    ProxyProcess proxy(config_for(shared_cluster()));
    RawClient client(proxy.port());
    REQUIRE(client.login());
    std::string piece;
    for (int i = 0; i < 200; ++i)
      piece += parse_message("", "select repeat('x', 2000)") + bind_message("", "") +
               execute_message("") + sync_message();
    int answered = 0;
    int sent = 0;
    std::string rest;
    while (answered < 10000) {
      if (rest.empty() && sent < 10000) {
        rest = piece;
        sent += 200;
      }
      rest.erase(0, client.send_some(rest));
      while (auto message = client.read(rest.empty() && sent >= 10000 ? 10000ms : 0ms)) {
        if (message->type == 'Z' && ++answered == 10000) break;
        if (message->type == 'E') FAIL(message->field('M'));
      }
      if (client.closed()) break;
    }
    CHECK(answered == 10000);
  }

  TEST_CASE(
      "requirement 20: a deep pipeline does not stop the worker for the others: Syncs, and Parses "
      "behind an error") {
    ProxyProcess proxy(config_for(shared_cluster()));
    RawClient client(proxy.port());
    REQUIRE(client.login());
    std::atomic<bool> running{true};
    std::atomic<std::int64_t> longest{0};
    std::thread bystander([&] {
      for (Connection other = proxy.connect(); running;) {
        Stopwatch watch;
        if (other.scalar("select 1") != "1") longest = 3400000;
        longest = std::max<std::int64_t>(longest, watch.elapsed().count());
      }
    });

    std::string syncs;
    for (int i = 0; i < 40000; ++i) syncs += sync_message();
    REQUIRE(client.send(syncs));
    int answered = 0;
    while (answered < 40000 && client.read_until('Z').size() == 1) ++answered;
    CHECK(answered == 40000);

    std::string parses = parse_message("wrong", "select from from");
    for (int i = 0; i < 40000; ++i)
      parses += parse_message("s" + std::to_string(i), "select " + std::to_string(i));
    REQUIRE(client.send(parses + sync_message()));
    const std::vector<Message> after = client.read_until('Z', 30s);
    REQUIRE(after.size() == 2);
    CHECK(after[0].type == 'E');
    // None of them exists, and each name is free.
    REQUIRE(client.send(parse_message("s7", "select 7") + bind_message("", "s7") + execute_message("") +
                        sync_message()));
    for (const Message& message : client.read_until('Z')) CHECK(message.type != 'E');
    running = false;
    bystander.join();
    CHECK(longest < (sanitized() ? 15000 : 3000));  // work that grows with the square of the depth takes longer at a stretch
  }

  TEST_CASE("what is remembered of a batch in pieces is not taken for the next batch's") {
    ProxyProcess proxy(config_for(shared_cluster()));
    RawClient client(proxy.port());
    REQUIRE(client.login());
    std::string first = parse_message("", "select 1");
    for (int i = 0; i < 50; ++i) first += bind_message("", "") + execute_message("");
    const std::size_t whole = first.size();  // messages before the Sync, which comes alone
    REQUIRE(client.send(first));
    // The only worker answers somebody else after it: it has been read.
    CHECK(proxy.connect().scalar("select 1") == "1");
    REQUIRE(client.send(sync_message()));
    CHECK(client.read_until('Z').back().type == 'Z');
    // At the place where the first batch's scan stopped, this one has what looks like a long message's head.
    std::string second = parse_message("", "select $1::text") +
                         bind_message("", "", {std::string(4 * whole, 'x')}) + execute_message("") +
                         sync_message();
    second.replace(whole, 5, std::string("P\0\0\xff\xff", 5));
    REQUIRE(client.send(second));
    const std::vector<Message> answer = client.read_until('Z');
    REQUIRE(!answer.empty());
    CHECK(answer.back().type == 'Z');
  }

  TEST_CASE("a batch that arrives in many pieces is put together right, whatever the pieces") {
    ProxyProcess proxy(config_for(shared_cluster()));
    std::string batch = parse_message("piece", "select $1::text");
    for (int i = 0; i < 50; ++i)
      batch += bind_message("", "piece", {std::to_string(i)}) + describe_message('P', "") + execute_message("");
    batch += sync_message();
    for (const std::size_t piece : {std::size_t{1}, std::size_t{7}, std::size_t{100}, batch.size() - 1}) {
      CAPTURE(piece);
      RawClient client(proxy.port());
      REQUIRE(client.login());
      // Twice: what is remembered of the first batch must not be taken for the second's.
      for (int round = 0; round < 2; ++round) {
        const std::string& bytes = batch;
        for (std::size_t at = 0; at < bytes.size(); at += piece) {
          REQUIRE(client.send(bytes.substr(at, piece)));
          if (piece > 1) std::this_thread::yield();
        }
        int rows = 0, errors = 0;
        for (const Message& message : client.read_until('Z')) {
          rows += message.type == 'D' ? 1 : 0;
          errors += message.type == 'E' ? 1 : 0;
        }
        CHECK(rows == (round == 0 ? 50 : 0));    // the second Parse of the same name is refused
        CHECK(errors == (round == 0 ? 0 : 1));
      }
    }
  }
}
