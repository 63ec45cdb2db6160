#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "conf/settings.h"
#include "pool/fleet_share.h"
#include "proxy/pg_connection.h"

namespace proxy {

// Finds the other processes of the fleet, where fleet.name says that there is one. They need no connection to
// each other: each keeps one to the accepted primary of every cluster, says who it is by its application_name,
// and asks pg_stat_activity every fleet.interval who else is there. Counted are connections of the same
// Postgres user only, so nobody else can pass for a member and take a part away.
//
// Who goes (also by kill -9) is gone with its connection, thus after one interval. Whose connection is there but
// has not asked for fleet.gone_after is not counted: its host has vanished, or it hangs.
// While no primary can be asked, what was known last holds. With several clusters the largest fleet counts.
class MonitorFleet {
 public:
  // The accepted primary, if it is up.
  using Primary = std::function<std::optional<PgTarget>(const std::string& cluster)>;
  using Changed = std::function<void(pool::FleetShare)>;

  MonitorFleet(net::Loop& loop, Primary primary, Changed changed);
  ~MonitorFleet();

  void configure(std::shared_ptr<const conf::Settings> settings);
  // This process drains: its part is for the others from now on. There is no way back.
  void leave();

  struct Member {
    std::string cluster;
    std::string name;  // host:pid:something
    conf::Millis silent{0};
    bool own = false, counted = false;
  };
  std::vector<Member> members() const;  // as they were when last asked
  pool::FleetShare share() const { return share_; }

 private:
  struct Cluster;
  void tick(Cluster& cluster);
  void ask(Cluster& cluster);
  void take(Cluster& cluster, const PgAnswer& answer);
  void failed(Cluster& cluster, const PgError& error);
  void settle();
  std::string application_name(const std::string& member) const;

  net::Loop& loop_;
  const Primary primary_;
  const Changed changed_;
  const std::string own_;
  std::shared_ptr<const conf::Settings> settings_;
  std::map<std::string, std::unique_ptr<Cluster>> clusters_;
  pool::FleetShare share_;
  bool left_ = false;
};

}  // namespace proxy
