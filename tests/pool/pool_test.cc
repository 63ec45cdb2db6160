#include "pool/pool.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "tests/support/rng.h"

using namespace pool;
using namespace std::chrono_literals;

namespace {

const PoolKey kKey{routing::NodeId{1}, "shop", "alice"};

Instant at(conf::Millis since_start) { return Instant(1h) + since_start; }

const conf::Settings kNothingSaid{};
const std::shared_ptr<const ClassTable> kClasses = ClassRegistry(kNothingSaid).table();
Tenant tenant;

// Servers and waiters that leave by themselves when a test ends.
struct Server : PooledServer {
  ~Server() {
    if (home != nullptr) home->remove(*this, true);
  }
};
struct Client : Waiter {
  ~Client() {
    if (flow != nullptr) flow->home.queue().remove(*this);
  }
};

struct Fixture {
  explicit Fixture(std::int64_t limit = 10) : budget(std::make_shared<Budget>(limit)) {}
  void open(Server& server, ServerState state = ServerState::idle) {
    REQUIRE(budget->take());
    pool.add(server);
    if (state == ServerState::connecting) return;
    pool.move_to(server, ServerState::idle);
    if (state == ServerState::active) pool.move_to(server, ServerState::active);
  }
  void wait(Client& client, Instant since) {
    client.waiting_since = since;
    pool.queue().enqueue(client, kHigh, tenant, *kClasses, since);
  }
  std::shared_ptr<Budget> budget;
  Pool pool{kKey, budget};
};

}  // namespace

TEST_SUITE("pool/pool") {
  TEST_CASE("a server may fail in any state, and else goes from connecting to idle, active, idle") {
    using enum ServerState;
    CHECK(may_follow(connecting, idle));
    CHECK(may_follow(idle, active));
    CHECK(may_follow(active, idle));
    for (const ServerState from : {connecting, idle, active}) {
      CHECK(may_follow(from, closing));
      CHECK_FALSE(may_follow(from, from));
      CHECK_FALSE(may_follow(from, connecting));
      CHECK_FALSE(may_follow(closing, from));
    }
    CHECK_FALSE(may_follow(closing, closing));
    CHECK_FALSE(may_follow(connecting, active));
    CHECK(name(connecting) == "connecting");
    CHECK(name(idle) == "idle");
    CHECK(name(active) == "active");
    CHECK(name(closing) == "closing");
  }

  TEST_CASE("a server stands in the list of its state, and in no other") {
    Fixture f;
    Server server;
    f.open(server, ServerState::connecting);
    const auto counts = [&f] {
      using enum ServerState;
      return std::vector<std::size_t>{f.pool.count(connecting), f.pool.count(idle),
                                      f.pool.count(active), f.pool.count(closing)};
    };
    CHECK(server.home == &f.pool);
    CHECK(counts() == std::vector<std::size_t>{1, 0, 0, 0});
    CHECK(f.pool.first(ServerState::connecting) == &server);
    f.pool.move_to(server, ServerState::idle);
    CHECK(counts() == std::vector<std::size_t>{0, 1, 0, 0});
    f.pool.move_to(server, ServerState::active);
    CHECK(counts() == std::vector<std::size_t>{0, 0, 1, 0});
    CHECK(f.pool.most_recent_idle() == nullptr);
    f.pool.move_to(server, ServerState::closing);
    CHECK(counts() == std::vector<std::size_t>{0, 0, 0, 1});
    f.pool.remove(server, true);
    CHECK(server.home == nullptr);
    CHECK(counts() == std::vector<std::size_t>{0, 0, 0, 0});
  }

  TEST_CASE("the idle server used last is lent first, and the other end ages") {
    Fixture f;
    Server servers[3];
    for (Server& server : servers) f.open(server);
    CHECK(f.pool.most_recent_idle() == &servers[2]);
    CHECK(f.pool.least_recent_idle() == &servers[0]);
    f.pool.move_to(servers[0], ServerState::active);
    f.pool.move_to(servers[0], ServerState::idle);
    CHECK(f.pool.most_recent_idle() == &servers[0]);
    CHECK(f.pool.least_recent_idle() == &servers[1]);
    CHECK(f.pool.next(servers[1]) == &servers[2]);
    CHECK(f.pool.next(servers[2]) == &servers[0]);
    CHECK(f.pool.next(servers[0]) == nullptr);
  }

  TEST_CASE("the right to exist goes back when a server is gone, not when it is handed over") {
    Fixture f(1);
    Pool other(kKey, f.budget);
    Server server;
    f.open(server);
    f.pool.remove(server, false);
    CHECK(f.budget->open() == 1);
    CHECK_FALSE(f.budget->take());
    other.add(server);  // idle, as it was
    CHECK(other.most_recent_idle() == &server);
    CHECK(f.pool.count(ServerState::idle) == 0);
    other.remove(server, true);
    CHECK(f.budget->open() == 0);
  }

  TEST_CASE("connections are wanted for the waiters that none is being made for") {
    Fixture f;
    Client clients[3];
    Server coming[2], lent;
    CHECK(f.pool.connections_wanted() == 0);
    f.open(lent, ServerState::active);
    for (Client& client : clients) f.wait(client, at(1ms));
    CHECK(f.pool.connections_wanted() == 3);
    for (Server& server : coming) f.open(server, ServerState::connecting);
    CHECK(f.pool.connections_wanted() == 1);
    f.pool.queue().remove(clients[0]);
    f.pool.queue().remove(clients[1]);
    CHECK(f.pool.connections_wanted() == 0);
  }
}

// --- several workers ---------------------------------------------------------------------------

// Workers with a pool each for every key, as proxy/ runs them, but without sockets: messages,
// logins and answers arrive when the dice say so. Beside it a model that counts by itself.
namespace {

class World {
 public:
  World(std::size_t workers, std::size_t keys, std::uint64_t seed) : random_(seed) {
    for (std::size_t key = 0; key < keys; ++key) {
      const auto limit = static_cast<std::int64_t>(below(5) + 1);
      budgets_.push_back(std::make_shared<Budget>(limit));
      model_.push_back({.ceiling = limit, .since = std::vector<std::optional<Instant>>(workers)});
    }
    for (std::size_t worker = 0; worker < workers; ++worker) {
      workers_.push_back(std::make_unique<Worker>());
      for (std::size_t key = 0; key < keys; ++key)
        workers_.back()->pools.push_back(std::make_unique<Pool>(
            PoolKey{routing::NodeId{static_cast<std::uint8_t>(key)}, "d", "u"}, budgets_[key]));
    }
  }
  ~World() {
    for (auto& client : clients_)
      if (client->flow != nullptr) pool_of(*client).queue().remove(*client);
    for (auto& server : servers_)
      if (server->home != nullptr) server->home->remove(*server, true);
  }

  // What went wrong first; empty while all is well.
  const std::string& problem() const { return problem_; }
  std::size_t served() const { return served_; }
  std::size_t handovers() const { return handovers_; }

  void random_event() {
    now_ += conf::Millis(below(20));
    const std::size_t worker = below(workers_.size()), key = below(budgets_.size());
    switch (below(20)) {
      case 0:
      case 1:
      case 2:
      case 3: arrive(worker, key); break;
      case 4:
      case 5:
      case 6:
      case 7:
      case 8: deliver_one(worker); break;
      case 9:
      case 10:
      case 11:
        with_any(worker, key, ServerState::connecting, [this](SimServer& s) { opened(s); });
        break;
      case 12:
      case 13:
      case 14:
      case 15:
        with_any(worker, key, ServerState::active, [this](SimServer& s) { answered(s); });
        break;
      case 16: give_up(worker, key); break;
      case 17: tick(worker); break;
      case 18:
        if (below(3) == 0) lose_one(worker, key);
        break;
      case 19:
        if (below(10) == 0) set_limit(key, static_cast<std::int64_t>(below(6) + 1));
        break;
    }
    check_counts();
  }

  // Everything under way arrives, and nobody comes or goes; then nobody may wait for what is there.
  void settle() {
    for (int round = 0; round < 100; ++round) {
      const std::size_t before = moves_;
      for (std::size_t worker = 0; worker < workers_.size(); ++worker) {
        while (!workers_[worker]->mailbox.empty()) deliver_one(worker);
        for (std::size_t key = 0; key < budgets_.size(); ++key)
          while (auto* server = workers_[worker]->pools[key]->first(ServerState::connecting))
            opened(static_cast<SimServer&>(*server));
        tick(worker);
      }
      check_counts();
      // A tick of the last worker may have told the first ones that it starves.
      const bool news = std::ranges::any_of(workers_, [](const auto& one) { return !one->mailbox.empty(); });
      if (moves_ == before && !news) break;
    }
    for (std::size_t key = 0; key < budgets_.size(); ++key) {
      std::size_t idle = 0, waiting = 0;
      for (const auto& worker : workers_) {
        idle += worker->pools[key]->count(ServerState::idle);
        waiting += worker->pools[key]->waiting();
      }
      if (waiting > 0 && idle > 0) fail("somebody waits while a server is idle");
      if (waiting > 0 && budgets_[key]->open() < budgets_[key]->limit())
        fail("somebody waits while the limit is not reached");
    }
  }

  // Answers come in, nobody new does: everybody who waits is served.
  void run_dry() {
    for (int round = 0; round < 2000; ++round) {
      settle();
      bool anybody = false;
      for (std::size_t worker = 0; worker < workers_.size(); ++worker)
        for (std::size_t key = 0; key < budgets_.size(); ++key) {
          anybody |= workers_[worker]->pools[key]->waiting() > 0;
          with_any(worker, key, ServerState::active, [this](SimServer& s) { answered(s); });
        }
      check_counts();
      if (!anybody) return;
    }
    fail("somebody waits for ever");
  }

 private:
  struct SimServer : PooledServer {
    std::size_t worker = 0, key = 0;
    bool lent = false;
  };
  struct SimClient : Waiter {
    std::size_t worker = 0, key = 0;
  };
  struct Message {
    std::size_t key;
    SimServer* server;  // handed over; null: somebody starves
  };
  struct Worker {
    std::vector<std::unique_ptr<Pool>> pools;
    std::deque<Message> mailbox;
  };
  // What must be true, counted without a Budget.
  struct Model {
    std::int64_t servers = 0;
    std::int64_t ceiling = 0;  // a limit that was lowered is reached by and by
    std::vector<std::optional<Instant>> since;
  };

  std::size_t below(std::size_t n) { return static_cast<std::size_t>(random_() % n); }
  void fail(const char* what) {
    if (problem_.empty()) problem_ = what;
  }
  Pool& pool_of(const SimClient& client) { return *workers_[client.worker]->pools[client.key]; }

  void check_counts() {
    for (std::size_t key = 0; key < budgets_.size(); ++key) {
      Model& model = model_[key];
      const std::int64_t limit = budgets_[key]->limit();
      model.ceiling = std::max(limit, std::min(model.ceiling, model.servers));
      if (model.servers > model.ceiling) fail("more servers than the limit");
      if (budgets_[key]->open() != model.servers) fail("the budget has lost count");
    }
    for (const auto& worker : workers_)
      for (const auto& pool : worker->pools)
        if (pool->waiting() > 0 && pool->count(ServerState::idle) > 0)
          fail("somebody waits while a server of the same worker is idle");
  }

  template <class Act>
  void with_any(std::size_t worker, std::size_t key, ServerState state, Act act) {
    const Pool& pool = *workers_[worker]->pools[key];
    if (pool.count(state) == 0) return;
    PooledServer* server = pool.first(state);
    for (std::size_t skip = below(pool.count(state)); skip > 0; --skip) server = pool.next(*server);
    act(static_cast<SimServer&>(*server));
  }

  // --- what a worker does, in the words of proxy/worker.cc ---

  void arrive(std::size_t worker, std::size_t key) {
    Pool& pool = *workers_[worker]->pools[key];
    if (PooledServer* idle = pool.most_recent_idle()) {
      pool.move_to(*idle, ServerState::active);
      ++served_;
      return;
    }
    clients_.push_back(std::make_unique<SimClient>());
    SimClient& client = *clients_.back();
    client.worker = worker;
    client.key = key;
    client.waiting_since = now_;
    pool.queue().enqueue(client, kHigh, tenant, *kClasses, now_);
    open_servers(worker, key);
  }

  void open_servers(std::size_t worker, std::size_t key) {
    Pool& pool = *workers_[worker]->pools[key];
    for (std::size_t wanted = pool.connections_wanted();
         wanted > 0 && pool.count(ServerState::connecting) < 2; --wanted) {
      if (!pool.budget().take()) {
        if (model_[key].servers < budgets_[key]->limit()) fail("refused below the limit");
        const bool news = pool.budget().starve(worker, pool.queue().waiting_since());
        if (news == model_[key].since[worker].has_value()) fail("news that is none");
        model_[key].since[worker] = pool.queue().waiting_since();
        if (news)
          for (std::size_t other = 0; other < workers_.size(); ++other)
            if (other != worker) workers_[other]->mailbox.push_back({key, nullptr});
        return;
      }
      ++moves_;
      ++model_[key].servers;
      servers_.push_back(std::make_unique<SimServer>());
      servers_.back()->worker = worker;
      servers_.back()->key = key;
      pool.add(*servers_.back());
    }
  }

  void opened(SimServer& server) {
    Pool& pool = *server.home;
    ++moves_;
    if (below(8) == 0) {
      gone(server);
      return;
    }
    pool.move_to(server, ServerState::idle);
    server.idle_since = now_;
    if (pool.waiting() > 0) {
      give(server);
    } else if (const auto hungry = hungriest(server.worker, server.key, Instant::max())) {
      hand_over(server, *hungry);
    }
  }

  void answered(SimServer& server) {
    Pool& pool = *server.home;
    if (pool.budget().open() > pool.budget().limit()) {
      gone(server);
      return;
    }
    if (const auto hungry = hungriest(server.worker, server.key, pool.queue().waiting_since())) {
      hand_over(server, *hungry);
      return;
    }
    pool.move_to(server, ServerState::idle);
    if (pool.waiting() > 0) give(server);
  }

  void give(SimServer& server) {
    Pool& pool = *server.home;
    const Instant first = pool.queue().waiting_since();
    auto& client = static_cast<SimClient&>(*pool.queue().take(now_, *kClasses));
    if (client.waiting_since != first) fail("somebody else came first");
    left_queue(client);
    pool.move_to(server, ServerState::active);
    ++served_;
  }

  void leave_queue(SimClient& client) {
    pool_of(client).queue().remove(client);
    left_queue(client);
  }
  void left_queue(SimClient& client) {
    Pool& pool = pool_of(client);
    if (pool.waiting() == 0) feed(client.worker, client.key);
    std::erase_if(clients_, [&client](const auto& one) { return one.get() == &client; });
  }

  void feed(std::size_t worker, std::size_t key) {
    budgets_[key]->feed(worker);
    model_[key].since[worker] = std::nullopt;
  }

  // Asks the budget, and holds its answer against the model's: the longest starving, or nobody.
  std::optional<std::size_t> hungriest(std::size_t self, std::size_t key, Instant own) {
    const auto answer = budgets_[key]->hungrier_than(self, own);
    Instant longest = own;
    for (std::size_t other = 0; other < workers_.size(); ++other) {
      const auto& since = model_[key].since[other];
      if (other != self && since) longest = std::min(longest, *since);
    }
    if (longest == own) {
      if (answer) fail("a server for somebody who is not hungrier");
    } else if (!answer || *answer == self || model_[key].since[*answer] != longest) {
      fail("the longest starving worker was passed over");
    }
    return answer;
  }

  void hand_over(SimServer& server, std::size_t to) {
    Pool& pool = *server.home;
    if (server.state == ServerState::active) pool.move_to(server, ServerState::idle);
    pool.remove(server, false);
    ++handovers_;
    workers_[to]->mailbox.push_back({server.key, &server});
  }

  void deliver_one(std::size_t worker) {
    if (workers_[worker]->mailbox.empty()) return;
    ++moves_;
    const Message message = workers_[worker]->mailbox.front();
    workers_[worker]->mailbox.pop_front();
    Pool& pool = *workers_[worker]->pools[message.key];
    if (message.server == nullptr) {
      PooledServer* idle = pool.least_recent_idle();
      if (idle == nullptr) return;
      if (const auto hungry = hungriest(worker, message.key, pool.queue().waiting_since()))
        hand_over(static_cast<SimServer&>(*idle), *hungry);
      return;
    }
    SimServer& server = *message.server;
    server.worker = worker;
    pool.add(server);
    feed(worker, message.key);
    if (pool.waiting() > 0) {
      const bool more = pool.waiting() > 1;
      give(server);
      if (more) open_servers(worker, message.key);
    } else if (const auto hungry = hungriest(worker, message.key, Instant::max())) {
      hand_over(server, *hungry);
    }
  }

  void tick(std::size_t worker) {
    for (std::size_t key = 0; key < budgets_.size(); ++key)
      if (workers_[worker]->pools[key]->waiting() > 0) open_servers(worker, key);
  }

  void give_up(std::size_t worker, std::size_t key) {
    if (Waiter* waiter = workers_[worker]->pools[key]->queue().any())
      leave_queue(static_cast<SimClient&>(*waiter));
  }

  void lose_one(std::size_t worker, std::size_t key) {
    const ServerState state = below(2) == 0 ? ServerState::idle : ServerState::active;
    with_any(worker, key, state, [this](SimServer& server) { gone(server); });
  }

  void gone(SimServer& server) {
    --model_[server.key].servers;
    server.home->move_to(server, ServerState::closing);
    server.home->remove(server, true);
    std::erase_if(servers_, [&server](const auto& one) { return one.get() == &server; });
  }

  void set_limit(std::size_t key, std::int64_t limit) {
    budgets_[key]->set_limit(limit);
  }

  std::mt19937_64 random_;
  Instant now_ = at(0ms);
  std::vector<std::shared_ptr<Budget>> budgets_;
  std::vector<std::unique_ptr<SimServer>> servers_;
  std::vector<std::unique_ptr<SimClient>> clients_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Model> model_;
  std::string problem_;
  std::size_t served_ = 0, handovers_ = 0;
  std::size_t moves_ = 0;  // messages, connections begun and made
};

}  // namespace

TEST_SUITE("pool/pool with several workers") {
  TEST_CASE(
      "whatever happens in whatever order: the limit holds, nobody waits beside an idle server, "
      "the longest starving worker is served first") {
    auto random = support::rng(3);
    std::size_t served = 0, handovers = 0;
    for (int run = 0; run < 60; ++run) {
      const std::uint64_t seed = random();
      const std::size_t workers = random() % 5 + 1, keys = random() % 2 + 1;
      World world(workers, keys, seed);
      for (int event = 0; event < 600 && world.problem().empty(); ++event) {
        world.random_event();
        if (event % 97 == 96) world.settle();
      }
      if (world.problem().empty()) world.run_dry();
      INFO("world ", seed);
      REQUIRE(world.problem() == "");
      served += world.served();
      handovers += world.handovers();
    }
    // The dice have played what this is about.
    CHECK(served > 1000);
    CHECK(handovers > 100);
  }
}
