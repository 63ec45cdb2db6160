#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>

#include "conf/settings.h"

namespace proxy {

// What operators have ordered on the console and what lasts until they take it back: paused and disabled
// databases, drained nodes. Not configuration, so a reload leaves it alone, and a process that takes over
// is told. Immutable once it is shared with the workers.
struct Orders {
  bool all_paused = false;                    // PAUSE without a database
  std::set<std::string, std::less<>> paused;  // databases, as clients name them
  std::set<std::string, std::less<>> disabled;
  // Drained nodes. True: even while it is the accepted primary, which leaves nobody to write to.
  std::map<conf::NodeAddress, bool> drained;

  bool is_paused(std::string_view database) const { return all_paused || paused.contains(database); }
  bool is_disabled(std::string_view database) const { return disabled.contains(database); }
  bool empty() const { return !all_paused && paused.empty() && disabled.empty() && drained.empty(); }
};

// What an order makes the workers do once, beside obeying what lasts.
enum class OrderAction : std::uint8_t {
  none,
  reconnect,  // servers that exist now are closed when they are released
  kill,       // clients and servers are closed at once
};

}  // namespace proxy
