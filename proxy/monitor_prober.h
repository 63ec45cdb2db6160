#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "conf/settings.h"
#include "proxy/monitor_probe.h"
#include "proxy/monitor_resolver.h"
#include "proxy/pg_connection.h"
#include "routing/node_health.h"

namespace proxy {

using conf::Instant;
using conf::Micros;

// Keeps one probe connection to one node and asks it questions; decides nothing. When and what to
// ask is the caller's business (ClusterMonitor), except that a connection found broken is opened
// again.
class MonitorProber {
 public:
  // `asking` comes right before a question is sent on the wire; exactly one of the others follows.
  // `failed` also comes without `asking`: no connection, no address, or an idle connection that the
  // server ended. Callbacks may call back into the prober, not destroy it.
  struct Events {
    std::function<void()> asking;
    std::function<void(const ProbeAnswer&)> full;
    std::function<void(const QuickAnswer&)> quick;
    std::function<void(routing::FailureKind, const PgError&)> failed;
  };

  MonitorProber(net::Loop& loop, MonitorResolver& resolver, conf::NodeAddress address,
                Events events);
  ~MonitorProber();

  // As whom, how long anything may take, and how old the name's addresses may be. A change of anything but the
  // times ends the connection.
  void configure(PgTarget target, Millis timeout, Millis name_ttl);

  // A full probe, connecting first if need be; after a quick one if that is under way. Nothing if a
  // full one is under way already.
  void probe(bool with_backends);
  // A quick probe: only when connected and free. False: not asked.
  bool quick();
  // The connection is suspected: drop it and connect anew, at once, or kRetryFloor after the last
  // attempt. Nothing if a new connection is being made or has not answered its first probe yet.
  void suspect();

  bool busy() const { return phase_ != Phase::resting; }
  bool connected() const { return connection_.ready(); }
  // Numeric addresses of the node, the one that answered last first; the folder of a unix socket.
  const std::vector<std::string>& ips() const { return ips_; }
  // Until the name is looked up again, if nothing fails before.
  Millis next_look_up() const {
    if (!looked_up_) return Millis(0);
    const auto age = std::chrono::duration_cast<Millis>(loop_.now() - *looked_up_);
    return std::max(Millis(0), name_ttl_ - age);
  }
  std::string server_version() const { return connection_.server_parameter("server_version"); }

  static constexpr Millis kRetryFloor{50};  // between two attempts to connect

 private:
  enum class Phase : std::uint8_t { resting, resolving, connecting, asking, pausing };

  void begin();  // connects, or asks when connected
  void look_up(bool needed_now);
  void on_names(const std::vector<std::string>& ips, const std::string& error);
  void connect_next();
  void on_connected(const std::optional<PgError>& error);
  void ask();
  void on_full(PgAnswer answer);
  void on_lost(const PgError& error);
  void give_up(routing::FailureKind kind, const PgError& error);
  void on_timer();

  net::Loop& loop_;
  MonitorResolver& resolver_;
  const conf::NodeAddress address_;
  const Events events_;
  const bool named_;  // the host is a name that must be looked up
  PgTarget target_;
  Millis timeout_{1000}, name_ttl_{30'000};
  PgConnection connection_;
  net::Timer timer_;  // the floor between attempts, or the deadline of a look-up
  std::shared_ptr<MonitorProber*> self_;  // for look-ups that outlive this

  Phase phase_ = Phase::resting;
  std::vector<std::string> ips_;
  std::size_t tried_ = 0;  // addresses tried in this round
  std::string connected_ip_;
  std::optional<Instant> looked_up_, last_attempt_;
  bool looking_up_ = false;
  bool with_backends_ = false;
  bool probe_wanted_ = false;  // as soon as the quick probe is answered
  bool humble_ = false;     // pg_control_* are not ours to call
  bool acquainted_ = false;  // this connection has answered a full probe
};

// What a failure of libpq means for a node's health.
routing::FailureKind failure_kind(const PgError& error);

}  // namespace proxy
