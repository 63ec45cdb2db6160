#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "conf/units.h"

namespace proxy {

// What the service manager is told: sd_notify(3), one datagram per message to $NOTIFY_SOCKET. Without that
// variable nothing is said. A message that does not get through is lost; nobody waits for it.
class Notifier {
 public:
  // Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; the last one is removed, so that a successor that
  // this process starts takes the watchdog over.
  static Notifier from_environment();
  Notifier() = default;

  // Lines "NAME=value", separated by '\n'.
  void say(std::string_view lines) const;
  // A reload begins: RELOADING=1 with the moment, which systemd compares with its own clock.
  void say_reloading() const;
  // We are the service's main process from now on.
  void say_ready(std::string_view status) const;

  bool listening() const { return !address_.empty(); }
  // How often WATCHDOG=1 is expected at the latest; none: nobody watches.
  std::optional<conf::Micros> watchdog() const { return watchdog_; }

 private:
  std::string address_;  // a path, or an abstract name that starts with NUL
  std::optional<conf::Micros> watchdog_;
};

}  // namespace proxy
