#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "conf/result.h"
#include "conf/settings.h"
#include "proxy/monitor_catalog.h"
#include "proxy/monitor_cluster.h"
#include "proxy/monitor_fleet.h"
#include "proxy/monitor_resolver.h"
#include "proxy/monitor_secrets.h"
#include "routing/scope.h"
#include "routing/topology.h"

namespace proxy {

// What the monitor publishes: immutable snapshots, to be sent to the workers.
struct MonitorEvents {
  std::function<void(std::shared_ptr<const routing::Topology>)> topology;
  std::function<void(const routing::Catalogs&)> catalogs;
  std::function<void(pool::FleetShare)> fleet{};
  // The node has said that one of its backends has crashed (57P02).
  std::function<void(routing::NodeId)> crash_heard{};
};

// The eyes of the control thread. Probes every node of every cluster, finds out who is primary, how
// far the replicas are and which functions are safe on them, looks secrets up, and publishes what
// changed. Everything happens on one loop and nothing blocks. It never changes anything in
// Postgres.
//
// A new Topology comes at most every kPublishFloor, the first one within a turn of construction
// (all unknown). Events are called from the loop, never from inside a method, except that
// look_up_secret may answer at once from memory.
class Monitor {
 public:
  Monitor(net::Loop& loop, std::shared_ptr<const conf::Settings> settings, MonitorEvents events);
  ~Monitor();

  // Nodes that stay keep their number, connection, position, health and role.
  void reload(std::shared_ptr<const conf::Settings> settings);

  // A worker met a broken connection there: probe at once, over a new connection. A node that
  // refuses is down within milliseconds; one that hangs after two probe.timeouts.
  void suspect(routing::NodeId node);

  // A worker has made a connection to the node (`good`), or failed to because of the node: breakers.
  void outcome(routing::NodeId node, bool good);
  // To be called every routing::kFadePeriod; see ClusterMonitor.
  void look_at_loads(routing::NodeLoads& loads, std::span<const std::int32_t> slots);

  // A session waits for a floor. Sends a sample now (at most one in flight, at most every 5 ms) and
  // probes replicas every 20 ms for the next second. Call once per wait that begins.
  void want_sample(std::string_view cluster, std::uint64_t sample = ClusterMonitor::kNext);

  // The secret of `user` as pg_authid keeps it; nothing: no such user, or one that may not log in.
  // See MonitorSecrets for errors and what is remembered.
  void look_up_secret(const std::string& cluster, const std::string& user,
                      MonitorSecrets::Done done);
  // A login failed: the next look-up asks Postgres again.
  void forget_secret(const std::string& cluster, const std::string& user);

  // Operators want these nodes left alone; the value: even as the accepted primary. Published at once.
  // A node that is not forced serves again, and says so in the log, while it is the accepted primary.
  void drain(std::map<conf::NodeAddress, bool> nodes);

  // DDL went through: functions, views and tables may have changed.
  void schema_changed(std::string_view cluster);
  // Clients are in this database.
  void database_met(const routing::DatabaseKey& where);

  // This process drains: the others of its fleet take over its part.
  void leave_fleet() { fleet_.leave(); }

  // For the console; control thread only, as everything here.
  std::vector<NodeReport> report() const;
  std::vector<ClusterReport> clusters() const;
  std::vector<MonitorFleet::Member> fleet() const { return fleet_.members(); }
  std::size_t look_ups() const { return resolver_.under_way(); }
  // What is known of every cluster, drained nodes not taken into account.
  std::vector<routing::ClusterState> states() const;

  // And what the workers have been told.
  const std::vector<routing::ClusterState>& published() const { return newest_->clusters; }

  static constexpr conf::Millis kPublishFloor{2};

 private:
  std::optional<PgTarget> accepted_primary(const std::string& cluster) const;
  std::optional<routing::NodeId> number(const conf::NodeAddress& address);
  std::uint64_t group_bits(const conf::NodeAddress& address);
  void on_changed();
  void publish();
  void mark_drained(routing::ClusterState& cluster);

  net::Loop& loop_;
  std::shared_ptr<const conf::Settings> settings_;
  const MonitorEvents events_;
  std::map<conf::NodeAddress, routing::NodeId> numbers_;  // never forgotten
  std::vector<std::string> groups_;                       // by bit; never forgotten
  std::map<conf::NodeAddress, bool> drained_;
  std::set<conf::NodeAddress> excused_;  // drained, and serving all the same: said once
  std::uint64_t version_ = 0;
  std::shared_ptr<const routing::Topology> newest_ = std::make_shared<routing::Topology>();
  std::optional<conf::Instant> published_;
  net::Timer publish_timer_;

  MonitorResolver resolver_;
  MonitorSecrets secrets_;
  MonitorCatalog catalog_;
  MonitorFleet fleet_;
  std::map<std::string, std::unique_ptr<ClusterMonitor>, std::less<>> clusters_;
};

}  // namespace proxy
