#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "bench/simulation/monitor.h"
#include "bench/simulation/record.h"
#include "pool/admission.h"
#include "pool/backoff.h"
#include "pool/connect_pace.h"
#include "pool/pool.h"
#include "pool/protection.h"
#include "pool/retry_budget.h"
#include "routing/router.h"

namespace simulation {

// One process with one worker in front of a cluster, the cluster, and the users: what happens to every
// statement from the moment at which it is asked until somebody has an answer. What is decided is decided by
// routing/ and pool/, as they are in production; this is the wiring, in the words of proxy/worker_*.cc. No
// allocation per statement but what pool/ itself does.
class World {
 public:
  World(const Scale& scale, const Policy& policy, const Scenario& scenario, std::uint64_t seed);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  void run();

  Record take_record() { return std::move(record_); }
  const Totals& totals() const { return totals_; }

 private:
  static constexpr std::uint32_t kNobody = ~std::uint32_t{0};
  enum class Waits : std::uint8_t { nothing, server, tenant, replica, floor };

  // One try of one user's statement.
  struct Statement : pool::Waiter {
    std::uint32_t index = 0;
    Instant born{}, asked{};        // the first try, and this one
    std::uint32_t session = 0;
    std::uint32_t older = kNobody, younger = kNobody;  // among those whose users still wait
    std::uint16_t not_on = 0;       // the node where it failed; 0: none
    std::uint8_t group = 0, kind = 0, tries = 0, runs = 0;
    pool::ClassId service_class = 0;
    Waits waits = Waits::nothing;
    bool write = false, surge = false, admitted = false, has_cell = false, spills = false;
    bool queued = false;  // it has waited for a server
    bool gone = false;    // its user has
    float usual = 0;      // nanoseconds at a node that is well
  };
  struct Session {
    routing::SessionState state;
    pool::Tenant* tenant = nullptr;
    std::uint8_t group = 0;
    pool::ClassId service_class = 0;
    bool writes = false;
  };
  struct Server : pool::PooledServer {
    std::uint32_t index = 0, node = 0, statement = kNobody, generation = 0;
    std::uint64_t incarnation = 0;
    Instant began{};         // its statement, or to connect
    std::uint8_t slot = 0;   // 1 + the priority for which a ceiling counts it
  };
  struct Node {
    std::shared_ptr<pool::Budget> budget;
    std::unique_ptr<pool::Pool> pool;
    pool::ConnectPace pace;
    pool::Backoff backoff;
    std::vector<std::uint32_t> spare;  // servers that are not open
  };
  // Statements that come at random moments at a rate.
  struct Stream {
    double gap = 0;  // nanoseconds between two; 0: none come
    std::int64_t next = INT64_MAX;
    float factor = 1;
  };

  // world.cc: users
  void make_users(const Scale& scale);
  void set_rate(Stream& stream, double part, double factor);
  void arrive(Stream& stream, bool surge);
  Statement& make();
  void free(Statement& statement);
  void start_waiting(Statement& statement);
  void stop_patience(Statement& statement);
  void lose_patience();
  Nanos patience(std::size_t group) const;
  void give_up(Statement& statement);
  void answered(Statement& statement);
  void failed(Statement& statement);
  void ask_again(const Statement& statement);
  void apply(const Change& change);
  void handle(const Event& event);
  void tick();
  void look();

  // statements.cc: where statements go
  void place(Statement& statement);
  bool spill(Statement& statement, routing::ReadReason why, std::optional<std::size_t>& node);
  bool wait_for_floor(Statement& statement, Waits before);
  void note_floor(const Statement& statement, const Server& server);
  routing::ReadChoice choose(const routing::ReadNeeds& needs);
  std::uint64_t excluded(const Statement& statement);
  void refuse(Statement& statement);
  void wait(Statement& statement, Waits what);
  bool may_run_again(const Statement& statement);
  bool run_again(Statement& statement, std::size_t not_on);
  void retry_waiting();
  void sweep_queues();
  void replace_waiters(Node& node);
  void stop_queueing(Statement& statement);
  void left_queue(Statement& statement, Node& node);

  // servers.cc: servers
  Server& server_of(pool::PooledServer* record) { return static_cast<Server&>(*record); }
  bool stale(const Server& server) const;
  void open_all();
  void open_servers(std::size_t at);
  void connected(Server& server);
  void connect_failed(Server& server);
  void tie(Statement& statement, Server& server);
  void part(Statement& statement, Server& server);
  void end(Server& server);
  void release(Server& server);
  bool give(Server& server);
  void retire(Server& server);
  void lose_all(std::size_t at);
  void topology_changed();
  bool has_turn(const pool::Pool& its_pool) const;
  bool held_back(const Statement& statement, const pool::Pool& its_pool) const;

  const Scale& scale_;
  const Policy policy_;
  const Scenario& scenario_;
  std::shared_ptr<const conf::Settings> settings_;
  std::shared_ptr<const pool::ClassTable> classes_;
  pool::TenantRegistry tenants_;
  Postgres postgres_;
  EventHeap events_;
  std::unique_ptr<routing::NodeLoads> loads_ = std::make_unique<routing::NodeLoads>();
  std::unique_ptr<routing::Baselines> baselines_ = std::make_unique<routing::Baselines>();
  Monitor monitor_;
  Instant now_ = kBeginning;
  Dice dice_;
  std::minstd_rand random_;
  const Spread gaps_, times_;
  std::unique_ptr<Lottery> whose_;  // tenants by their load

  std::vector<Session> sessions_;   // a tenant's one after the other; the surge's tenant last
  std::vector<std::uint32_t> first_session_;  // of each tenant, and the end
  std::deque<Statement> statements_;
  std::vector<std::uint32_t> free_;
  // Those whose users still wait, by group, in the order in which they asked.
  struct Asking {
    std::uint32_t oldest = kNobody, youngest = kNobody;
  };
  std::array<Asking, kGroups> asking_{};
  std::vector<std::uint32_t> waiting_;  // for time to pass
  std::int64_t queued_ = 0;             // for servers
  Stream usual_, surge_;

  std::vector<Node> nodes_;
  std::unique_ptr<Server[]> servers_;
  bool nodes_failing_ = false;
  pool::RetryBudget retry_budget_;
  pool::Protection protection_;
  std::uint64_t shed_ = 0;  // classes, as bits
  bool queues_overloaded_ = false;
  std::size_t next_replica_ = 0;  // round robin

  Record record_;
  Totals totals_;
};

}  // namespace simulation
