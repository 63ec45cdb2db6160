#include <atomic>
#include <thread>

#include "tests/integration/fixture.h"

// A tenant has its share, not more.
using namespace integration;

namespace {

// The detail's "retry_after_ms=N", or -1.
long retry_after(const Result& result) {
  const std::string detail = result.detail();
  const std::size_t at = detail.find("retry_after_ms=");
  return at == std::string::npos ? -1 : std::atol(detail.c_str() + at + 15);
}

}  // namespace

TEST_SUITE("integration/tenant") {
  TEST_CASE(
      "promise 6: over its rate a tenant gets ERROR 53400 with a reason, keeps its connection, and "
      "is served again later") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("tenant", "rate_wait", "\"0\"")
                           .set("tenant.app", "rate", "10")
                           .set("tenant.app", "burst", "5"));
    Connection client = proxy.connect();
    int served = 0;
    Result refused;
    for (int i = 0; i < 30; ++i) {
      const Result result = client.exec("select 1");
      if (result.ok())
        ++served;
      else
        refused = result;
    }
    CHECK(served >= 5);
    CHECK(served <= 15);
    CHECK(refused.code() == "53400");
    CHECK(refused.severity() == "ERROR");
    CHECK(refused.detail().find("reason=tenant_rate") != std::string::npos);
    CHECK(retry_after(refused) > 0);
    CHECK(retry_after(refused) < 1000);
    CHECK(client.ok());
    CHECK(client.transaction() == PQTRANS_IDLE);
    CHECK(eventually([&client] { return client.scalar("select 1") == "1"; }, 3s, 100ms));
  }

  TEST_CASE("over a second the rate is what was configured, over all clients and workers") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("", "workers", "2")
                           .set("tenant", "rate_wait", "\"0\"")
                           .set("tenant.app", "rate", "100")
                           .set("tenant.app", "burst", "1"));
    std::atomic<int> served{0};
    Stopwatch watch;
    const auto problems = at_once(4, [&](std::size_t) -> std::string {
      Connection client = proxy.connect();
      while (watch.elapsed() < 2s) {
        const Result result = client.exec("select 1");
        if (result.ok())
          ++served;
        else if (result.code() != "53400")
          return result.scalar();
        std::this_thread::sleep_for(1ms);
      }
      return "";
    });
    CHECK_MESSAGE(problems.empty(), joined(problems));
    CAPTURE(served.load());
    CHECK(served <= 210);
    CHECK(served >= 120);  // a machine busy with other tests may ask too seldom, not too often
  }

  TEST_CASE("within rate_wait a statement over the rate waits instead") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("tenant", "rate_wait", "\"2s\"")
                           .set("tenant.app", "rate", "20")
                           .set("tenant.app", "burst", "1"));
    Connection client = proxy.connect();
    Stopwatch watch;
    for (int i = 0; i < 11; ++i) CHECK(client.scalar("select 1") == "1");
    CHECK(watch.elapsed() >= 450ms);
    CHECK(watch.elapsed() < 3s);
  }

  TEST_CASE("a statement inside an open transaction is never refused") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("tenant", "rate_wait", "\"1s\"")
                           .set("tenant.app", "rate", "2")
                           .set("tenant.app", "burst", "1"));
    Connection client = proxy.connect();
    CHECK(client.exec("begin").ok());
    for (int i = 0; i < 20; ++i) CHECK(client.scalar("select 1") == "1");
    CHECK(client.exec("commit").ok());
  }

  TEST_CASE(
      "promise 6: a tenant never has more statements at servers than its concurrency, and its "
      "neighbour is unaffected") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("tenant", "rate_wait", "\"50ms\"")
                           .set("tenant.app", "concurrency", "2")
                           .set("pool", "size", "10"));
    Connection one = proxy.connect();
    Connection two = proxy.connect();
    Connection three = proxy.connect();
    CHECK(one.exec("begin").ok());
    CHECK(one.exec("select 1").ok());
    CHECK(two.exec("begin").ok());
    CHECK(two.exec("select 1").ok());
    const Result refused = three.exec("select 1");
    CHECK(refused.code() == "53400");
    CHECK(refused.detail().find("reason=tenant_concurrency") != std::string::npos);
    CHECK(three.ok());
    CHECK(proxy.connect("other").scalar("select 1") == "1");
    CHECK(one.exec("commit").ok());
    CHECK(three.scalar("select 1") == "1");
    CHECK(two.exec("commit").ok());
    // A client that vanishes gives its slot back.
    Connection four = proxy.connect();
    Connection five = proxy.connect();
    CHECK(four.exec("begin").ok());
    CHECK(four.exec("select 1").ok());
    CHECK(five.exec("begin").ok());
    CHECK(five.exec("select 1").ok());
    four.close();
    CHECK(eventually([&three] { return three.scalar("select 1") == "1"; }));
  }

  TEST_CASE("a neighbour's statements are served while one tenant is far over its rate") {
    ProxyProcess proxy(config_for(shared_cluster())
                           .set("tenant", "rate_wait", "\"10ms\"")
                           .set("tenant.app", "rate", "50")
                           .set("tenant.app", "burst", "5")
                           .set("pool", "size", "4"));
    std::atomic<bool> running{true};
    std::vector<std::thread> flood;
    for (int i = 0; i < 4; ++i) {
      flood.emplace_back([&] {
        Connection client = proxy.connect();
        while (running) client.exec("select 1");
      });
    }
    Connection neighbour = proxy.connect("other");
    int served = 0;
    for (int i = 0; i < 200; ++i) served += neighbour.scalar("select 1") == "1" ? 1 : 0;
    running = false;
    for (std::thread& thread : flood) thread.join();
    CHECK(served == 200);
  }

  TEST_CASE(
      "the tenant comes from user, database, application_name, [user.NAME] or pgsluice.tenant") {
    const auto limited = [](Connection client) {
      for (int i = 0; i < 10; ++i)
        if (client.exec("select 1").code() == "53400") return true;
      return false;
    };
    const auto config = [](const std::string& by, const std::string& tenant) {
      return config_for(shared_cluster())
          .set("tenant", "by", quoted(by))
          .set("tenant", "rate_wait", "\"0\"")
          .set("tenant." + tenant, "rate", "1")
          .set("tenant." + tenant, "burst", "2");
    };
    {
      ProxyProcess proxy(config("user", "other"));
      CHECK(limited(proxy.connect("other")));
      CHECK(!limited(proxy.connect("app")));
    }
    {
      ProxyProcess proxy(config("database", "app"));
      CHECK(limited(proxy.connect("app", "app")));
      CHECK(!limited(proxy.connect("app", "postgres")));
    }
    {
      ProxyProcess proxy(config("application_name", "shop"));
      CHECK(limited(proxy.connect("app", "app", "sslmode=disable application_name=shop")));
      CHECK(!limited(proxy.connect("app", "app", "sslmode=disable application_name=blog")));
    }
    {
      ProxyProcess proxy(config("user", "shop"));
      CHECK(limited(
          proxy.connect("app", "app", "sslmode=disable options='-c pgsluice.tenant=shop'")));
      CHECK(!limited(proxy.connect("app")));
    }
    {
      ProxyProcess proxy(config("user", "shop").set("user.other", "tenant", "\"shop\""));
      CHECK(limited(proxy.connect("other")));
      CHECK(!limited(proxy.connect("app")));
    }
  }
}
