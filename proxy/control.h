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
#include "proxy/messages.h"
#include "proxy/monitor.h"
#include "proxy/net/loop.h"
#include "proxy/net/mailbox.h"
#include "proxy/shared.h"
#include "proxy/worker.h"

namespace proxy {

// What the exporter's HTTP threads may look at: replaced as a whole, under a lock.
class Status {
 public:
  struct Snapshot {
    std::shared_ptr<const routing::Topology> topology;
    double reload_time = 0;
    bool reload_ok = true;
  };
  void set_topology(std::shared_ptr<const routing::Topology> topology);
  void set_reload(bool ok);
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
          Status& status);
  ~Control();

  // Opens the listening sockets and starts to probe.
  conf::Status listen();
  // Until the last client has left, or was cut off.
  void run();
  void post(ControlMessage message) { mailbox_.post(std::move(message)); }

  // --- for the console ------------------------------------------------------------------------------
  const conf::Settings& settings() const { return *settings_; }
  Shared& shared() { return shared_; }
  net::Loop& loop() { return loop_; }
  const Monitor& monitor() const { return *monitor_; }
  bool draining() const { return draining_; }
  // Loads the file again. The error says why nothing has changed; `notes` what takes a restart.
  conf::Status reload(std::vector<std::string>* notes);
  // Gives one option another value, until the file is read again.
  conf::Status set(const std::string& option, const std::string& value);
  void begin_drain(std::string_view why);
  void stop_now(std::string_view why);

 private:
  void receive(ControlMessage&& message);
  conf::Status apply(std::shared_ptr<const conf::Settings> settings);
  void accept_from(int listener);
  void broadcast_topology(std::shared_ptr<const routing::Topology> topology);
  template <class Make>
  void tell_workers(Make make) {
    for (Worker* worker : shared_.workers) worker->post(make());
  }

  const std::string file_;
  std::shared_ptr<const conf::Settings> settings_;
  Shared& shared_;
  Status& status_;
  std::shared_ptr<const net::TlsContext> client_tls_, server_tls_;
  net::Loop loop_;
  net::Mailbox<ControlMessage> mailbox_;
  std::unique_ptr<Monitor> monitor_;
  Console console_;
  std::vector<std::unique_ptr<net::Signal>> signals_;
  struct Listener {
    int fd = -1;
    std::string unix_path;  // removed at the end
    std::unique_ptr<net::Watch> watch;
  };
  std::vector<Listener> listeners_;
  net::Timer accept_again_;
  net::Timer fade_;
  net::Timer drain_deadline_;
  std::size_t drained_ = 0;
  bool draining_ = false;
};

// The TLS contexts that the settings ask for; null where TLS is off.
struct TlsContexts {
  std::shared_ptr<const net::TlsContext> client, server;
};
conf::Result<TlsContexts> make_tls(const conf::Settings& settings);

}  // namespace proxy
