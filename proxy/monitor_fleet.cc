#include "proxy/monitor_fleet.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <utility>

#include <unistd.h>

#include "proxy/log.h"
#include "proxy/random.h"

namespace proxy {

using conf::Millis;

namespace {

// What an application_name may have, less the words that stand around the member's.
constexpr std::size_t kMaxHost = 20;

constexpr const char* kMembers =
    "select substr(application_name, length($1) + 1),"
    " (extract(epoch from clock_timestamp() - state_change) * 1000)::bigint"
    " from pg_stat_activity where usename = current_user and left(application_name, length($1)) = $1";

// Unlike the process's number alone, not used again after a restart, nor in two containers.
std::string own_name() {
  char host[kMaxHost + 1] = "";
  if (gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
  host[sizeof host - 1] = '\0';
  char rest[32];
  std::snprintf(rest, sizeof rest, ":%d:%08x", static_cast<int>(getpid()), random_u32());
  return std::string(host) + rest;
}

}  // namespace

struct MonitorFleet::Cluster {
  Cluster(MonitorFleet& owner, std::string cluster_name)
      : name(std::move(cluster_name)),
        connection(owner.loop_),
        timer(owner.loop_, [this, &owner] { owner.tick(*this); }) {}

  const std::string name;
  PgConnection connection;
  net::Timer timer;
  PgTarget target;  // of the connection
  std::vector<Member> members;
  std::string complaint;  // logged
};

MonitorFleet::MonitorFleet(net::Loop& loop, Primary primary, Changed changed)
    : loop_(loop), primary_(std::move(primary)), changed_(std::move(changed)), own_(own_name()) {}

MonitorFleet::~MonitorFleet() = default;

std::string MonitorFleet::application_name(const std::string& member) const {
  return "pgsluice fleet " + settings_->fleet_name + " " + member;
}

void MonitorFleet::configure(std::shared_ptr<const conf::Settings> settings) {
  const bool renamed = settings_ != nullptr && settings_->fleet_name != settings->fleet_name;
  settings_ = std::move(settings);
  if (left_) return;
  if (renamed) clusters_.clear();
  std::erase_if(clusters_, [this](const auto& entry) {
    return settings_->fleet_name.empty() || !settings_->clusters.contains(entry.first);
  });
  if (!settings_->fleet_name.empty())
    for (const auto& [name, cluster] : settings_->clusters) {
      auto& known = clusters_[name];
      if (known != nullptr) continue;
      known = std::make_unique<Cluster>(*this, name);
      known->timer.once(Millis(0));
    }
  settle();
}

void MonitorFleet::leave() {
  left_ = true;
  clusters_.clear();
}

void MonitorFleet::tick(Cluster& cluster) {
  cluster.timer.once(settings_->fleet_interval);
  std::optional<PgTarget> target = primary_(cluster.name);
  if (!target) {  // at the start it is known soon
    if (cluster.members.empty()) cluster.timer.once(std::min(settings_->fleet_interval, Millis(50)));
    return;
  }
  const conf::ClusterSettings& section = settings_->clusters.at(cluster.name);
  target->user = section.monitor_user;
  target->password = section.monitor_password;
  target->database = section.monitor_database;
  target->application_name = application_name(own_);
  if (cluster.connection.open() && *target == cluster.target) {
    if (cluster.connection.ready()) ask(cluster);
    return;
  }
  cluster.target = *std::move(target);
  cluster.connection.connect(cluster.target, settings_->fleet_gone_after,
                             [this, &cluster](const std::optional<PgError>& error) {
                               if (error) return failed(cluster, *error);
                               ask(cluster);
                             });
}

void MonitorFleet::ask(Cluster& cluster) {
  cluster.connection.query(kMembers, {application_name("")}, settings_->fleet_gone_after,
                           [this, &cluster](const PgAnswer& answer) { take(cluster, answer); });
}

void MonitorFleet::take(Cluster& cluster, const PgAnswer& answer) {
  if (answer.error) return failed(cluster, *answer.error);
  cluster.complaint.clear();
  cluster.members.clear();
  for (const PgRow& row : answer.rows) {
    if (row.size() != 2 || !row[0]) continue;
    Member member{cluster.name, *row[0], Millis(0), *row[0] == own_, true};
    // NULL where track_activities is off: then only its connection speaks for it.
    std::int64_t silent = 0;
    if (row[1]) std::from_chars(row[1]->data(), row[1]->data() + row[1]->size(), silent);
    member.silent = Millis(std::max<std::int64_t>(0, silent));
    member.counted = member.own || member.silent <= settings_->fleet_gone_after;
    cluster.members.push_back(std::move(member));
  }
  settle();
}

void MonitorFleet::failed(Cluster& cluster, const PgError& error) {
  if (cluster.complaint == error.message) return;
  cluster.complaint = error.message;
  log_warning("cluster=" + cluster.name + " cannot ask for the members of the fleet: " + error.message);
}

void MonitorFleet::settle() {
  std::set<std::string> largest;
  for (const auto& [name, cluster] : clusters_) {
    std::set<std::string> counted;
    for (const Member& member : cluster->members)
      if (member.counted) counted.insert(member.name);
    if (counted.size() > largest.size()) largest = std::move(counted);
  }
  const pool::FleetShare share = pool::share_of(own_, largest);
  if (share == share_) return;
  share_ = share;
  log_info("fleet members=" + std::to_string(share.members) + " rank=" + std::to_string(share.rank));
  changed_(share);
}

std::vector<MonitorFleet::Member> MonitorFleet::members() const {
  std::vector<Member> all;
  for (const auto& [name, cluster] : clusters_)
    all.insert(all.end(), cluster->members.begin(), cluster->members.end());
  return all;
}

}  // namespace proxy
