#include "proxy/monitor.h"

#include <doctest/doctest.h>

#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "proxy/log.h"
#include "tests/proxy/monitor_fake_node.h"

using namespace proxy;
using namespace std::chrono_literals;
using conf::Millis;
using fake::run_for;
using fake::run_until;
using routing::ClusterState;
using routing::NodeHealth;
using routing::NodeId;
using routing::NodeRole;
using routing::NodeState;

TEST_SUITE("proxy/monitor") {
  // A monitor on a loop of its own, and the last of everything that it published.
  struct Watched {
    explicit Watched(const conf::Settings& settings) {
      set_log_level(conf::LogLevel::error);
      monitor = std::make_unique<Monitor>(
          loop, std::make_shared<const conf::Settings>(settings),
          MonitorEvents{.topology =
                            [this](std::shared_ptr<const routing::Topology> topology) {
                              newest = std::move(topology);
                              ++published;
                              if (each) each(*newest);
                            },
                        .catalogs = [this](const routing::Catalogs& found) {
                          const auto known = found.by_database.find({"main", "postgres"});
                          if (known != found.by_database.end()) catalog = known->second;
                        }});
    }
    ~Watched() { monitor.reset(); }

    const ClusterState& cluster() const { return newest->clusters.at(0); }
    const NodeState& node(std::size_t i) const { return cluster().nodes.at(i); }
    bool until(const std::function<bool()>& condition, Millis limit = 10s) {
      return run_until(loop, [&] { return newest != nullptr && condition(); }, limit);
    }
    bool until_up() {
      return until([this] {
        if (!cluster().primary) return false;
        for (const NodeState& one : cluster().nodes)
          if (one.health != NodeHealth::up || (one.role == NodeRole::replica && !one.lag_ok))
            return false;
        return cluster().sample > 0;
      });
    }

    net::Loop loop;
    std::shared_ptr<const routing::Topology> newest;
    std::shared_ptr<const routing::Catalog> catalog;
    std::function<void(const routing::Topology&)> each;
    int published = 0;
    std::unique_ptr<Monitor> monitor;
  };

  void make_replica(fake::Node& node) {
    node.change([](auto& face) {
      face.in_recovery = true;
      face.started_us = 2'000'000;
    });
  }

  TEST_CASE("the first topology comes at once and claims to know nothing") {
    fake::Node one;
    Watched watched(fake::settings({one.address()}));
    bool seen = false;
    watched.each = [&](const routing::Topology& first) {
      if (std::exchange(seen, true)) return;
      CHECK(first.version == 1);
      CHECK_FALSE(first.clusters.at(0).primary);
      CHECK(first.clusters[0].nodes.at(0).health == NodeHealth::unknown);
      CHECK_FALSE(first.clusters[0].nodes[0].lag);
      CHECK(first.clusters[0].samples_sent != nullptr);
    };
    REQUIRE(run_until(watched.loop, [&] { return seen; }));
  }

  TEST_CASE("each way of being away shows as its word, and none of it is ever up") {
    fake::Node one;
    std::string_view word;
    NodeHealth health = NodeHealth::down;
    using Mood = fake::Node::Mood;
    SUBCASE("refused") {
      one.stop();
      word = "refused";
    }
    SUBCASE("silent") {
      one.change([](auto& face) { face.mood = Mood::hangs; });
      word = "timeout";
    }
    SUBCASE("hangs up") {
      one.change([](auto& face) { face.mood = Mood::hangs_up; });
      word = "reset";
    }
    SUBCASE("not Postgres") {
      one.change([](auto& face) { face.mood = Mood::garbage; });
      word = "other";
      health = NodeHealth::unknown;
    }
    Watched watched(fake::settings({one.address()}));
    watched.each = [](const routing::Topology& topology) {
      CHECK(topology.clusters[0].nodes[0].health != NodeHealth::up);
      CHECK_FALSE(topology.clusters[0].primary);
    };
    CHECK(watched.until(
        [&] { return watched.node(0).why == word && watched.node(0).health == health; }));
  }

  TEST_CASE("requirement 28: roles are discovered, and an idle primary's replicas have no lag") {
    fake::Node primary, replica;
    make_replica(replica);
    Watched watched(fake::settings({replica.address(), primary.address()}));
    REQUIRE(watched.until_up());
    CHECK(watched.cluster().primary == NodeId(1));
    CHECK(watched.node(0).role == NodeRole::replica);
    CHECK(watched.node(1).role == NodeRole::primary);
    CHECK(watched.node(0).lag == Millis(0));
    CHECK(watched.node(0).replayed == routing::Lsn{0x1000000 + 100});
    CHECK(watched.cluster().sample_lsn == routing::Lsn{0x1000000 + 100});
    const auto rows = watched.monitor->report();
    REQUIRE(rows.size() == 2);
    CHECK(rows[1].role == NodeRole::primary);
    CHECK(rows[0].latency.has_value());
    CHECK(rows[0].server_version == "fake 15");
  }

  TEST_CASE("nothing is published while nothing changes but samples") {
    fake::Node primary, replica;
    make_replica(replica);
    Watched watched(fake::settings({primary.address(), replica.address()}));
    REQUIRE(watched.until_up());
    const std::uint64_t sample = watched.cluster().sample;
    const int published = watched.published;
    run_for(watched.loop, 300ms);
    CHECK(watched.cluster().sample > sample);
    CHECK(watched.published - published <=
          static_cast<int>(watched.cluster().sample - sample) + 3);
  }

  // The promise that floors stand on: sample g is asked after g was stored. The fake primary
  // answers with the number that it finds stored when the question arrives.
  TEST_CASE("the position of sample g was read after g was stored, also when many are wanted") {
    fake::Node primary, replica;
    make_replica(replica);
    constexpr std::uint64_t kPage = 8192;
    using Counter = std::shared_ptr<std::atomic<std::uint64_t>>;
    const auto stored = std::make_shared<Counter>();  // set before the fake may call it
    make_replica(primary);  // until the counter is known
    Watched watched(fake::settings({primary.address(), replica.address()}));
    std::uint64_t last = 0;
    watched.each = [&](const routing::Topology& topology) {
      const ClusterState& cluster = topology.clusters[0];
      if (cluster.sample == 0) return;
      CHECK(cluster.sample >= last);
      CHECK(cluster.sample_lsn.value / kPage - 1000 >= cluster.sample);
      CHECK(cluster.samples_sent->load() >= cluster.sample);
      last = cluster.sample;
    };
    REQUIRE(run_until(watched.loop, [&] { return watched.newest != nullptr; }));
    *stored = watched.cluster().samples_sent;
    primary.change([&](auto& face) {
      face.in_recovery = false;
      face.live_lsn = [stored] {
        const std::uint64_t found = (*stored)->load();
        // A wrong pairing is published before the next answer mends it.
        std::this_thread::sleep_for(5ms);
        return (found + 1000) * kPage + 100;
      };
    });
    REQUIRE(watched.until([&] { return watched.cluster().sample > 0; }));
    net::Timer impatient(watched.loop, [&] { watched.monitor->want_sample("main"); });
    impatient.every(1ms);
    const std::uint64_t before = last;
    const auto began = std::chrono::steady_clock::now();
    run_for(watched.loop, 500ms);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    CHECK(last - before >= 20);
    CHECK(static_cast<double>(last - before) <= took.count() * 200 + 2);  // at most every 5 ms
  }

  TEST_CASE("a wanted sample speeds replicas up, and they return to their rhythm") {
    fake::Node primary, replica;
    make_replica(replica);
    conf::Settings settings = fake::settings({primary.address(), replica.address()});
    settings.probe_interval = 1s;
    Watched watched(settings);
    REQUIRE(watched.until([&] { return watched.cluster().sample > 0; }));
    run_for(watched.loop, 1100ms);  // the start itself wants a sample
    const int calm = replica.probes();
    {
      net::Timer waiting(watched.loop, [&] { watched.monitor->want_sample("main"); });
      waiting.every(20ms);
      REQUIRE(run_until(watched.loop, [&] { return replica.probes() >= calm + 20; }, 3s));
    }
    run_for(watched.loop, 1100ms);
    const int after = replica.probes();
    run_for(watched.loop, 500ms);
    CHECK(replica.probes() - after <= 2);
  }

  TEST_CASE(
      "requirement 29: a node that hangs loses position first, then health and lag; unknown is never "
      "zero") {
    fake::Node primary, replica;
    make_replica(replica);
    Watched watched(fake::settings({primary.address(), replica.address()}));
    REQUIRE(watched.until_up());
    replica.change([](auto& face) { face.mood = fake::Node::Mood::hangs; });
    REQUIRE(watched.until([&] { return watched.node(1).replayed == routing::Lsn{}; }, 2s));
    REQUIRE(watched.until([&] { return watched.node(1).health == NodeHealth::down; }, 2s));
    CHECK_FALSE(watched.node(1).lag);
    CHECK_FALSE(watched.node(1).lag_ok);
    CHECK(watched.node(1).role == NodeRole::replica);
    const std::uint64_t before = watched.node(1).incarnation;
    replica.change([](auto& face) { face.mood = fake::Node::Mood::answers; });
    REQUIRE(watched.until([&] { return watched.node(1).lag_ok; }, 2s));
    CHECK(watched.node(1).health == NodeHealth::up);
    CHECK(watched.node(1).incarnation >= before);
  }

  TEST_CASE("a probe that is late is told before the node is given up, and an answer takes it back") {
    fake::Node primary, replica;
    make_replica(replica);
    Watched watched(fake::settings({primary.address(), replica.address()}));
    REQUIRE(watched.until_up());
    replica.change([](auto& face) { face.mood = fake::Node::Mood::hangs; });
    REQUIRE(watched.until([&] { return watched.node(1).late; }, 2s));
    CHECK(watched.node(1).health == NodeHealth::up);
    CHECK(watched.cluster().serving.size() == 1);  // there is no other
    REQUIRE(watched.until([&] { return watched.node(1).health == NodeHealth::down; }, 2s));
    CHECK(watched.node(1).late);
    replica.change([](auto& face) { face.mood = fake::Node::Mood::answers; });
    REQUIRE(watched.until([&] { return watched.node(1).lag_ok && !watched.node(1).late; }, 2s));
    CHECK(watched.node(1).ramp < 100);  // it was down: slow start
    CHECK_FALSE(watched.node(0).late);
  }

  TEST_CASE("requirement 31: three failed connections eject a replica, not the last one; a probe lets it in") {
    fake::Node primary, one, two;
    make_replica(one);
    make_replica(two);
    conf::Settings settings = fake::settings({primary.address(), one.address(), two.address()});
    settings.breaker_open_min = 100ms;
    Watched watched(settings);
    REQUIRE(watched.until_up());
    const auto fail = [&](int node, int times) {
      for (int i = 0; i < times; ++i) watched.monitor->outcome(NodeId(static_cast<std::uint16_t>(node)), false);
    };
    fail(1, 2);
    watched.monitor->outcome(NodeId(1), true);
    fail(1, 2);
    run_for(watched.loop, 50ms);
    CHECK(watched.node(1).breaker == routing::BreakerState::closed);
    fail(1, 1);
    fail(2, 5);
    fail(0, 5);
    REQUIRE(watched.until([&] { return watched.node(1).breaker == routing::BreakerState::open; }, 2s));
    CHECK(watched.node(2).breaker == routing::BreakerState::closed);  // half of two is out already
    CHECK(watched.node(0).breaker == routing::BreakerState::closed);  // nobody else takes writes
    CHECK(watched.cluster().serving.size() == 1);
    watched.monitor->outcome(NodeId(2), true);
    // Breakers are looked at when loads are.
    const auto loads = std::make_unique<routing::NodeLoads>();
    net::Timer look(watched.loop, [&] { watched.monitor->look_at_loads(*loads, {}); });
    look.every(10ms);
    REQUIRE(watched.until([&] { return watched.node(1).breaker == routing::BreakerState::closed; }, 2s));
    CHECK(watched.node(1).ramp < 100);
    CHECK(watched.cluster().serving.size() == 2);
    CHECK(watched.monitor->report().at(1).breaker_why == routing::BreakerReason::consecutive_failures);
    // Far slower than its peer for a second, all the time and not now and then.
    (*loads)[2].latency = 40 * routing::kNormal;
    (*loads)[2].mean = 40 * routing::kNormal;
    net::Timer slow(watched.loop, [&] { (*loads)[2].mean = 40 * routing::kNormal; });
    slow.every(10ms);
    REQUIRE(watched.until([&] { return watched.node(2).breaker == routing::BreakerState::open; }, 4s));
    CHECK(watched.node(2).ejections[static_cast<std::size_t>(routing::BreakerReason::latency)] == 1);
  }

  TEST_CASE("requirement 30: a suspected node is asked at once, however long the interval") {
    fake::Node primary, replica;
    make_replica(replica);
    conf::Settings settings = fake::settings({primary.address(), replica.address()});
    Watched watched(settings);
    REQUIRE(watched.until_up());
    settings.probe_interval = 30s;
    watched.monitor->reload(std::make_shared<const conf::Settings>(settings));
    run_for(watched.loop, 100ms);
    // A new postmaster at the same address: nobody tells the monitor, its connection still lives.
    replica.change([](auto& face) { face.started_us = 3'000'000; });
    const std::uint64_t incarnation = watched.node(1).incarnation;
    watched.monitor->suspect(watched.node(1).id);
    CHECK(watched.until([&] { return watched.node(1).incarnation > incarnation; }, 1s));
  }

  TEST_CASE("suspicions that come faster than answers do not keep a node from answering") {
    fake::Node primary, replica;
    make_replica(replica);
    Watched watched(fake::settings({primary.address(), replica.address()}));
    REQUIRE(watched.until_up());
    const int before = replica.connections();
    net::Timer nervous(watched.loop, [&] { watched.monitor->suspect(NodeId(1)); });
    nervous.every(1ms);
    const int probes = replica.probes();
    run_for(watched.loop, 500ms);
    CHECK(replica.probes() - probes >= 3);
    CHECK(replica.connections() - before <= 12);  // at most every 50 ms
    CHECK(watched.node(1).health == NodeHealth::up);
  }

  TEST_CASE("a node that dies is down within a moment, and serves again soon after its return") {
    fake::Node primary, replica;
    make_replica(replica);
    Watched watched(fake::settings({primary.address(), replica.address()}));
    REQUIRE(watched.until_up());
    const std::uint64_t incarnation = watched.node(1).incarnation;
    replica.stop();
    REQUIRE(watched.until([&] { return watched.node(1).health == NodeHealth::down; }, 500ms));
    CHECK_FALSE(watched.node(1).lag_ok);
    replica.start();
    REQUIRE(watched.until([&] { return watched.node(1).lag_ok; }, 2s));
    CHECK(watched.node(1).incarnation > incarnation);
  }

  TEST_CASE(
      "requirement 28: a primary that is gone keeps its role, and its replicas do not get later for it") {
    fake::Node primary, replica;
    make_replica(replica);
    conf::Settings settings = fake::settings({primary.address(), replica.address()});
    settings.routing_max_lag = 400ms;
    Watched watched(settings);
    REQUIRE(watched.until_up());
    primary.change([](auto& face) { face.lsn += 1'000'000; });  // never to be replicated
    REQUIRE(watched.until([&] { return watched.node(1).lag > Millis(0); }));
    primary.stop();
    REQUIRE(watched.until([&] { return watched.node(0).health == NodeHealth::down; }));
    run_for(watched.loop, 1s);
    CHECK(watched.cluster().primary == watched.node(0).id);
    REQUIRE(watched.node(1).lag);
    CHECK(*watched.node(1).lag < 400ms);
    CHECK(watched.node(1).lag_ok);
  }

  TEST_CASE("a replica that stands still beside a busy primary gets later, and then no reads") {
    fake::Node primary, replica;
    make_replica(replica);
    conf::Settings settings = fake::settings({primary.address(), replica.address()});
    settings.routing_max_lag = 300ms;
    Watched watched(settings);
    REQUIRE(watched.until_up());
    net::Timer busy(watched.loop,
                    [&] { primary.change([](auto& face) { face.lsn += 1000; }); });
    busy.every(5ms);
    REQUIRE(watched.until([&] { return !watched.node(1).lag_ok; }, 2s));
    CHECK(watched.node(1).health == NodeHealth::up);
    CHECK(watched.node(1).lag <= Millis(400));
    busy.stop();
    std::uint64_t position = 0;
    primary.change([&](auto& face) { position = face.lsn; });
    replica.change([&](auto& face) { face.lsn = position; });
    CHECK(watched.until([&] { return watched.node(1).lag_ok; }, 2s));
  }

  TEST_CASE("a promoted replica is accepted; the old primary stays out when it returns") {
    fake::Node old, heir, other;
    make_replica(heir);
    make_replica(other);
    Watched watched(fake::settings({old.address(), heir.address(), other.address()}));
    REQUIRE(watched.until_up());
    const std::uint64_t sent = watched.cluster().samples_sent->load();
    const std::uint64_t incarnation = watched.node(0).incarnation;
    old.stop();
    heir.change([](auto& face) {
      face.in_recovery = false;
      face.timeline = 2;
      face.lsn += 500;
    });
    REQUIRE(watched.until([&] { return watched.cluster().primary == NodeId(1); }));
    REQUIRE(watched.until([&] { return watched.cluster().sample > sent; }));
    CHECK(watched.cluster().sample_lsn == routing::Lsn{0x1000000 + 600});
    CHECK(watched.node(0).incarnation > incarnation);
    CHECK(watched.node(2).why == "older_timeline");
    CHECK_FALSE(watched.node(2).lag_ok);
    other.change([](auto& face) {
      face.timeline = 2;
      face.lsn += 500;
    });
    REQUIRE(watched.until([&] { return watched.node(2).lag_ok; }));
    old.start();
    REQUIRE(watched.until([&] { return watched.node(0).health == NodeHealth::up; }));
    run_for(watched.loop, 200ms);
    CHECK(watched.cluster().primary == NodeId(1));
    CHECK(watched.node(0).role == NodeRole::unknown);
    CHECK(watched.node(0).why == "older_timeline");
  }

  TEST_CASE("promise 7: a promoted replica serves reads until it is accepted, and the others up to where it left them") {
    fake::Node old, heir, other;
    make_replica(heir);
    make_replica(other);
    Watched watched(fake::settings({old.address(), heir.address(), other.address()}));
    REQUIRE(watched.until_up());
    const std::uint64_t incarnation = watched.node(1).incarnation;
    // The old primary goes on: nobody may be written to, and reads go on everywhere.
    heir.change([](auto& face) {
      face.in_recovery = false;
      face.timeline = 2;
      face.left_at = face.lsn;
      face.lsn += 500;
    });
    REQUIRE(watched.until([&] { return !watched.cluster().primary.has_value(); }));
    const NodeState& promoted = watched.node(1);
    CHECK(promoted.promoted);
    CHECK(promoted.why == "promoted");
    CHECK(watched.cluster().serves_reads(promoted));
    CHECK(watched.cluster().promoted == 2);
    CHECK(promoted.incarnation > incarnation);
    CHECK(promoted.has_kept(static_cast<std::uint16_t>(incarnation)));
    CHECK(promoted.replayed == routing::Lsn{0x1000000 + 100});
    CHECK(watched.cluster().serves_reads(watched.node(2)));
    old.stop();
    REQUIRE(watched.until([&] { return watched.cluster().primary == NodeId(1); }));
    CHECK_FALSE(watched.node(1).promoted);
    // The other replica has nothing that the new primary has not.
    REQUIRE(watched.until([&] { return watched.cluster().sample > 0 && watched.node(2).why == "older_timeline"; }));
    CHECK(watched.cluster().serves_reads(watched.node(2)));
    CHECK(watched.cluster().on_same_history(watched.node(2), &watched.node(1)));
    // Until it is fed by somebody else.
    other.change([](auto& face) { face.lsn += 1; });
    CHECK(watched.until([&] { return !watched.cluster().serves_reads(watched.node(2)); }));
    other.change([](auto& face) {
      face.timeline = 2;
      face.lsn += 499;
    });
    CHECK(watched.until([&] { return watched.cluster().serves_reads(watched.node(2)); }));
  }

  TEST_CASE("a node of another system is neither primary nor replica") {
    fake::Node primary, stranger;
    stranger.change([](auto& face) {
      face.in_recovery = true;
      face.system_id = 78;
    });
    Watched watched(fake::settings({primary.address(), stranger.address()}));
    REQUIRE(watched.until([&] { return watched.node(1).why == "other_system"; }));
    CHECK(watched.node(1).role == NodeRole::unknown);
    CHECK_FALSE(watched.node(1).lag);
    CHECK(watched.cluster().primary == NodeId(0));
  }

  TEST_CASE("requirement 36: a reload keeps numbers, roles and connections of the nodes that stay") {
    fake::Node one, two, three;
    make_replica(two);
    make_replica(three);
    conf::Settings settings = fake::settings({one.address(), two.address()});
    Watched watched(settings);
    REQUIRE(watched.until_up());
    const int connections = two.connections();
    settings.clusters["main"].servers = {three.address(), two.address(), one.address()};
    watched.monitor->reload(std::make_shared<const conf::Settings>(settings));
    REQUIRE(watched.until([&] { return watched.cluster().nodes.size() == 3; }));
    CHECK(watched.node(0).id == NodeId(2));
    CHECK(watched.node(1).id == NodeId(1));
    CHECK(watched.node(2).id == NodeId(0));
    CHECK(watched.node(1).role == NodeRole::replica);
    CHECK(watched.cluster().primary == NodeId(0));
    REQUIRE(watched.until([&] { return watched.node(0).lag_ok; }));
    CHECK(two.connections() == connections);
    settings.clusters["main"].servers = {one.address()};
    watched.monitor->reload(std::make_shared<const conf::Settings>(settings));
    REQUIRE(watched.until([&] { return watched.cluster().nodes.size() == 1; }));
    CHECK(watched.cluster().primary == NodeId(0));
    run_for(watched.loop, 100ms);
  }

  TEST_CASE(
      "requirement 6: secrets: one look-up per user however many ask, remembered, a missing one briefly") {
    fake::Node primary;
    primary.change([](auto& face) { face.secrets["ann"] = "SCRAM-SHA-256$x"; });
    Watched watched(fake::settings({primary.address()}));
    REQUIRE(watched.until_up());
    int answers = 0;
    const auto ask = [&](const std::string& user, const std::optional<std::string>& expected) {
      watched.monitor->look_up_secret("main", user, [&answers, expected](const auto& got) {
        ++answers;
        REQUIRE(got.has_value());
        CHECK(*got == expected);
      });
    };
    for (int i = 0; i < 10; ++i) ask("ann", "SCRAM-SHA-256$x");
    ask("bob", std::nullopt);
    REQUIRE(watched.until([&] { return answers == 11; }));
    CHECK(primary.lookups() == 2);
    ask("ann", "SCRAM-SHA-256$x");
    ask("bob", std::nullopt);
    CHECK(answers == 13);
    CHECK(primary.lookups() == 2);
    primary.change([](auto& face) { face.secrets["ann"] = "new"; });
    watched.monitor->forget_secret("main", "ann");
    ask("ann", "new");
    REQUIRE(watched.until([&] { return answers == 14; }));
    CHECK(primary.lookups() == 3);
  }

  TEST_CASE("secrets: without a primary another node is asked; without any, everybody is told") {
    fake::Node primary, replica;
    make_replica(replica);
    replica.change([](auto& face) { face.secrets["ann"] = "from the replica"; });
    Watched watched(fake::settings({primary.address(), replica.address()}));
    REQUIRE(watched.until_up());
    primary.stop();
    REQUIRE(watched.until([&] { return watched.node(0).health == NodeHealth::down; }));
    std::optional<conf::Result<std::optional<std::string>>> got;
    watched.monitor->look_up_secret("main", "ann", [&](const auto& answer) { got = answer; });
    REQUIRE(watched.until([&] { return got.has_value(); }));
    REQUIRE(got->has_value());
    CHECK(**got == "from the replica");
    replica.stop();
    REQUIRE(watched.until([&] { return watched.node(1).health == NodeHealth::down; }));
    got.reset();
    watched.monitor->look_up_secret("main", "carl", [&](const auto& answer) { got = answer; });
    REQUIRE(watched.until([&] { return got.has_value(); }));
    REQUIRE_FALSE(got->has_value());
    CHECK(got->error().code == conf::Errc::io);
  }

  TEST_CASE("secrets: an answer that is an error is told, and not remembered") {
    fake::Node primary;
    Watched watched(fake::settings({primary.address()}));
    REQUIRE(watched.until_up());
    primary.change([](auto& face) { face.refuse_sqlstate = "42501"; });
    std::optional<conf::Result<std::optional<std::string>>> got;
    watched.monitor->look_up_secret("main", "ann", [&](const auto& answer) { got = answer; });
    REQUIRE(watched.until([&] { return got.has_value(); }));
    REQUIRE_FALSE(got->has_value());
    CHECK(got->error().message.find("42501") != std::string::npos);
    primary.change([](auto& face) {
      face.refuse_sqlstate.clear();
      face.secrets["ann"] = "x";
    });
    got.reset();
    watched.monitor->look_up_secret("main", "ann", [&](const auto& answer) { got = answer; });
    REQUIRE(watched.until([&] { return got.has_value(); }));
    CHECK(got->has_value());
  }

  TEST_CASE(
      "requirement 27: the catalogue is read once a node answers, and published anew only when it "
      "changed") {
    fake::Node primary;
    primary.change([](auto& face) {
      face.functions = {{"quiet_one", false}, {"loud_one", true}};
    });
    Watched watched(fake::settings({primary.address()}));
    REQUIRE(watched.until([&] { return watched.catalog != nullptr; }));
    using Verdict = routing::Catalog::Verdict;
    CHECK(watched.catalog->function("quiet_one") == Verdict::read);
    CHECK(watched.catalog->function("loud_one") == Verdict::volatile_function);
    CHECK(watched.catalog->function("nobody_knows") == Verdict::unknown);
    const auto first = watched.catalog;
    watched.monitor->schema_changed("main");
    run_for(watched.loop, 2500ms);
    CHECK(watched.catalog == first);
    primary.change([](auto& face) { face.functions["quiet_one"] = true; });
    watched.monitor->schema_changed("main");
    REQUIRE(watched.until([&] { return watched.catalog != first; }));
    CHECK(watched.catalog->function("quiet_one") == Verdict::volatile_function);
  }

  TEST_CASE("a monitor may go at any moment, whatever is under way") {
    fake::Node primary, silent;
    silent.change([](auto& face) { face.mood = fake::Node::Mood::hangs; });
    for (const int after : {0, 1, 3, 10, 40}) {
      Watched watched(fake::settings({primary.address(), silent.address(), {"localhost", 1}}));
      watched.monitor->look_up_secret("main", "ann", [](const auto&) {});
      run_for(watched.loop, Millis(after));
    }
  }
}
