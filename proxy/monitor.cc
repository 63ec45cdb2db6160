#include "proxy/monitor.h"

#include <algorithm>
#include <utility>

#include "proxy/log.h"

namespace proxy {

using conf::Instant;
using conf::Millis;
using routing::NodeId;

Monitor::Monitor(net::Loop& loop, std::shared_ptr<const conf::Settings> settings,
                 MonitorEvents events)
    : loop_(loop),
      events_(std::move(events)),
      publish_timer_(loop, [this] { publish(); }),
      resolver_(loop),
      secrets_(loop,
               [this](const std::string& cluster) {
                 const auto known = clusters_.find(cluster);
                 return known == clusters_.end() ? std::vector<PgTarget>{}
                                                 : known->second->targets(*settings_);
               }),
      catalog_(
          loop,
          [this](const std::string& cluster) {
            const auto known = clusters_.find(cluster);
            return known == clusters_.end() ? std::vector<PgTarget>{}
                                            : known->second->targets(*settings_);
          },
          [this](const routing::Catalogs& found) {
            if (events_.catalogs) events_.catalogs(found);
          }),
      fleet_(
          loop, [this](const std::string& cluster) { return accepted_primary(cluster); },
          [this](pool::FleetShare share) {
            if (events_.fleet) events_.fleet(share);
          }) {
  reload(std::move(settings));
}

Monitor::~Monitor() = default;

std::optional<PgTarget> Monitor::accepted_primary(const std::string& cluster) const {
  const auto known = clusters_.find(cluster);
  if (known == clusters_.end()) return std::nullopt;
  const routing::ClusterState state = known->second->state();
  const auto node = std::ranges::find_if(state.nodes, [&state](const routing::NodeState& one) {
    return state.primary == one.id && one.health == routing::NodeHealth::up;
  });
  if (node == state.nodes.end()) return std::nullopt;
  // It is the first of them.
  std::vector<PgTarget> targets = known->second->targets(*settings_);
  if (targets.empty()) return std::nullopt;
  return std::move(targets.front());
}

std::optional<NodeId> Monitor::number(const conf::NodeAddress& address) {
  const auto known = numbers_.find(address);
  if (known != numbers_.end()) return known->second;
  if (numbers_.size() >= routing::kMaxNodes) {
    log_error("node=" + address.name() + " is left out: this process has met " +
              std::to_string(routing::kMaxNodes) + " addresses already; restart it to use more");
    return std::nullopt;
  }
  const auto id = static_cast<NodeId>(numbers_.size());
  numbers_.emplace(address, id);
  return id;
}

void Monitor::reload(std::shared_ptr<const conf::Settings> settings) {
  settings_ = std::move(settings);
  secrets_.configure(settings_);
  catalog_.configure(settings_);
  std::erase_if(clusters_, [this](const auto& entry) {
    return !settings_->clusters.contains(entry.first);
  });
  for (const auto& [name, cluster] : settings_->clusters) {
    std::vector<ClusterMonitor::Member> members;
    for (const conf::NodeAddress& address : cluster.servers)
      if (const auto id = number(address)) members.push_back({*id, address, group_bits(address)});
    auto& watched = clusters_[name];
    if (watched == nullptr)
      watched = std::make_unique<ClusterMonitor>(
          loop_, resolver_, name,
          ClusterMonitor::Events{.changed = [this, name] {
                                   catalog_.refresh_if_unread(name);
                                   on_changed();
                                 },
                                 .accepted = [this, name] {
                                   secrets_.reconnect(name);
                                   catalog_.refresh_soon(name);
                                 },
                                 .crash_heard = [this](routing::NodeId node) {
                                   if (events_.crash_heard) events_.crash_heard(node);
                                 }});
    watched->configure(*settings_, members);
  }
  on_changed();
  fleet_.configure(settings_);
}

// Names of groups are numbered as nodes are: what a worker has looked up stays right across reloads.
std::uint64_t Monitor::group_bits(const conf::NodeAddress& address) {
  const auto section = settings_->nodes.find(address.name());
  if (section == settings_->nodes.end()) return 0;
  std::uint64_t bits = 0;
  for (const std::string& group : section->second.groups) {
    const auto known = std::ranges::find(groups_, group);
    const auto bit = static_cast<std::size_t>(known - groups_.begin());
    if (known == groups_.end() && groups_.size() >= routing::Topology::kMaxGroups) {
      log_error("group " + group + " is left out: this process has met " +
                std::to_string(routing::Topology::kMaxGroups) + " groups of nodes already; restart it to use more");
      continue;
    }
    if (known == groups_.end()) groups_.push_back(group);
    bits |= std::uint64_t{1} << bit;
  }
  return bits;
}

void Monitor::outcome(NodeId node, bool good) {
  for (const auto& [name, cluster] : clusters_) cluster->outcome(node, good);
}

void Monitor::look_at_loads(routing::NodeLoads& loads, std::span<const std::int32_t> slots) {
  for (const auto& [name, cluster] : clusters_) cluster->look_at_loads(loads, slots);
}

void Monitor::on_changed() {
  if (publish_timer_.armed()) return;
  const Instant now = loop_.now();
  const bool recent = published_ && now - *published_ < kPublishFloor;
  publish_timer_.once(recent ? kPublishFloor : Millis(0));
}

void Monitor::publish() {
  published_ = loop_.now();
  auto topology = std::make_shared<routing::Topology>();
  topology->version = ++version_;
  topology->groups = groups_;
  for (const auto& [name, cluster] : clusters_) {
    topology->clusters.push_back(cluster->state());
    if (!drained_.empty()) mark_drained(topology->clusters.back());
    topology->clusters.back().keep_serving(static_cast<std::size_t>(settings_->routing_min_replicas));
    topology->clusters.back().find_serving();
  }
  newest_ = topology;
  if (events_.topology) events_.topology(std::move(topology));
}

void Monitor::drain(std::map<conf::NodeAddress, bool> nodes) {
  drained_ = std::move(nodes);
  std::erase_if(excused_, [this](const auto& address) { return !drained_.contains(address); });
  publish();
}

// An order that was given to a replica must not silently take the writes away when it is promoted.
void Monitor::mark_drained(routing::ClusterState& cluster) {
  for (routing::NodeState& node : cluster.nodes) {
    const auto order = drained_.find(node.address);
    if (order == drained_.end()) continue;
    if (cluster.primary != node.id) {
      node.drained = true;
      excused_.erase(node.address);
    } else if (order->second) {
      node.drained = true;
      cluster.primary = std::nullopt;
    } else if (excused_.insert(node.address).second) {
      log_warning("node=" + node.address.name() +
                  " is drained but was accepted as primary: it takes writes (DRAIN ... FORCE stops that)");
    }
  }
}

void Monitor::suspect(NodeId node) {
  for (const auto& [name, cluster] : clusters_) cluster->suspect(node);
}

void Monitor::want_sample(std::string_view cluster, std::uint64_t sample) {
  const auto known = clusters_.find(cluster);
  if (known != clusters_.end()) known->second->want_sample(sample);
}

void Monitor::look_up_secret(const std::string& cluster, const std::string& user,
                             MonitorSecrets::Done done) {
  if (!clusters_.contains(cluster))
    return done(conf::Error{conf::Errc::config, "there is no cluster " + cluster});
  secrets_.look_up(cluster, user, std::move(done));
}

void Monitor::forget_secret(const std::string& cluster, const std::string& user) {
  secrets_.forget(cluster, user);
}

void Monitor::database_met(const routing::DatabaseKey& where) { catalog_.want(where); }

void Monitor::schema_changed(std::string_view cluster) {
  catalog_.refresh_soon(std::string(cluster));
}

std::vector<NodeReport> Monitor::report() const {
  std::vector<NodeReport> rows;
  for (const auto& [name, cluster] : clusters_)
    for (NodeReport& row : cluster->report()) rows.push_back(std::move(row));
  return rows;
}

std::vector<routing::ClusterState> Monitor::states() const {
  std::vector<routing::ClusterState> states;
  for (const auto& [name, cluster] : clusters_) states.push_back(cluster->state());
  return states;
}

std::vector<ClusterReport> Monitor::clusters() const {
  std::vector<ClusterReport> rows;
  for (const auto& [name, cluster] : clusters_) rows.push_back(cluster->summary());
  return rows;
}

}  // namespace proxy
