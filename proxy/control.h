#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "conf/settings.h"
#include "metrics/exporter.h"
#include "proxy/console.h"
#include "proxy/guard.h"
#include "proxy/listeners.h"
#include "proxy/log.h"
#include "proxy/messages.h"
#include "proxy/monitor.h"
#include "proxy/net/loop.h"
#include "proxy/net/mailbox.h"
#include "proxy/notify.h"
#include "proxy/order_book.h"
#include "proxy/shared.h"
#include "proxy/takeover.h"
#include "proxy/worker.h"

namespace proxy {

// What the exporter's HTTP threads may look at: replaced as a whole, under a lock.
class Status {
 public:
  struct Snapshot {
    std::shared_ptr<const routing::Topology> topology;
    double reload_time = 0;
    bool reload_ok = true;
    std::uint32_t fleet_members = 1;
  };
  void set_topology(std::shared_ptr<const routing::Topology> topology);
  void set_reload(bool ok);
  void set_fleet(std::uint32_t members);
  Snapshot get() const;
  // "host:port" of a node that has ever been configured.
  std::string node_name(std::size_t node) const;

 private:
  mutable std::mutex mutex_;
  Snapshot snapshot_;
  std::map<std::size_t, std::string> names_;
};

// Everything that the exporter shows, ready to be started with.
metrics::Source metrics_source(const Status& status, Shared& shared);

// The control thread: signals, listening, accepting, reload, probes, console. It owns no client and no
// server; it tells the workers what has changed, and they tell it what they have met.
class Control {
 public:
  Control(std::string file, std::shared_ptr<const conf::Settings> settings, Shared& shared,
          Status& status, Notifier notifier);
  ~Control();

  // The metrics endpoint, whose port only one process can have. `stop` may block for a moment.
  struct Metrics {
    std::function<conf::Status()> start;
    std::function<void()> stop;
  };
  // Opens the listening sockets (those given are used) and starts to probe. With `heir` clients are
  // accepted when the process that it comes from has stopped to, else when run() begins.
  conf::Status listen(std::vector<ListenSocket> given, const Inheritance* heir, Metrics metrics);
  // Until the last client has left, or was cut off. False: it could not take over.
  bool run();
  void post(ControlMessage message) { mailbox_.post(std::move(message)); }

  // --- for the console ------------------------------------------------------------------------------
  const conf::Settings& settings() const { return *settings_; }
  // As the operator said it; settings() is what of it is this member's of a fleet.
  const conf::Settings& configured() const { return *configured_; }
  Shared& shared() { return shared_; }
  Monitor& monitor() { return *monitor_; }
  net::Loop& loop() { return loop_; }
  OrderBook& orders() { return orders_; }
  const routing::Corrections& corrections() const { return corrections_; }
  std::size_t clear_corrections();  // how many there were
  bool draining() const { return drain_ != Drain::none; }
  // Loads the file again. The error says why nothing has changed; `notes` what takes a restart.
  conf::Status reload(std::vector<std::string>* notes);
  // Gives one option another value, until the file is read again.
  conf::Status set(const std::string& option, const std::string& value);
  void begin_drain(std::string_view why);
  void stop_now(std::string_view why);

 private:
  void look_at_loads();
  void receive(ControlMessage&& message);
  conf::Status apply(std::shared_ptr<const conf::Settings> settings);
  void take_share(pool::FleetShare share);
  void spread_settings();
  Takeover::Events takeover_events();
  void accept_clients(bool on);
  void watch_listeners(bool on);
  void accept_from(int listener);
  void keep_spare_descriptors();
  void hand_over();
  void look_at_nodes(bool late);
  void start_metrics();
  void start_successor();
  void cancel_elsewhere(CancelElsewhere&& message);
  void cancel_delivered(const ClientId& requester);
  void tell_service_manager();
  void feed_watchdog();
  std::string service_status() const;
  void read_refused(const routing::Corrections::Refused& refused);
  void publish_scopes();
  void broadcast_topology(std::shared_ptr<const routing::Topology> topology);
  template <class Make>
  void tell_workers(Make make) {
    for (Worker* worker : shared_.workers) worker->post(make());
  }

  const std::string file_;
  std::shared_ptr<const conf::Settings> configured_, settings_;
  pool::FleetShare share_;
  Shared& shared_;
  Status& status_;
  std::shared_ptr<const net::TlsContext> client_tls_, server_tls_;
  net::Loop loop_;
  net::Mailbox<ControlMessage> mailbox_;
  std::unique_ptr<Monitor> monitor_;
  routing::Catalogs catalogs_;
  routing::Corrections corrections_;
  routing::ScopeBook scope_book_;
  OrderBook orders_;
  Console console_;
  std::vector<std::unique_ptr<net::Signal>> signals_;
  struct Listener {
    ListenSocket socket;
    std::unique_ptr<net::Watch> watch;
  };
  std::vector<Listener> listeners_;
  // Descriptors that nobody uses: closed to accept a console when all others are taken.
  std::vector<int> spare_;
  Takeover takeover_;
  Notifier notifier_;
  Metrics metrics_;
  const std::string program_;  // the path of the executable, for a successor
  Guard guard_;
  net::Timer accept_again_;
  SeldomLog accept_log_, only_console_log_;
  net::Timer fade_;
  std::vector<std::int32_t> slots_;  // servers that the pools of each node may have, counted once a second
  conf::Instant slots_counted_{};
  net::Timer drain_deadline_;
  net::Timer ready_deadline_;   // of a successor: its nodes must be known by then
  net::Timer metrics_again_;
  net::Timer service_timer_, watchdog_timer_;
  std::vector<std::uint64_t> turns_seen_;  // of every worker's loop, at the last look
  std::size_t drained_ = 0;
  enum class Drain : std::uint8_t { none, handed_over, ordered } drain_ = Drain::none;
  bool accepting_ = false;
  bool asked_to_serve_ = false;  // a successor has said that it is ready
  bool failed_ = false;
};

// The TLS contexts that the settings ask for; null where TLS is off.
struct TlsContexts {
  std::shared_ptr<const net::TlsContext> client, server;
};
conf::Result<TlsContexts> make_tls(const conf::Settings& settings);

}  // namespace proxy
