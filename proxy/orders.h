#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "conf/settings.h"
#include "pool/digest_gate.h"

namespace proxy {

// The class of a tenant's statements, whatever is configured or asked for, until it expires.
struct ClassOrder {
  std::string service_class;
  conf::Instant expires = conf::Instant::max();
  friend bool operator==(const ClassOrder&, const ClassOrder&) = default;
};

// What operators have ordered on the console and what lasts until they take it back: paused and disabled
// databases, drained nodes, limits on statements and tenants. Not configuration, so a reload leaves it alone, and a process that takes over
// is told. Immutable once it is shared with the workers.
struct Orders {
  bool all_paused = false;                    // PAUSE without a database
  std::set<std::string, std::less<>> paused;  // databases, as clients name them
  std::set<std::string, std::less<>> disabled;
  // Drained nodes. True: even while it is the accepted primary, which leaves nobody to write to.
  std::map<conf::NodeAddress, bool> drained;
  // Limits on kinds of statements, and the same as workers look at them (null: there are none); made anew by
  // find_gate().
  std::map<pool::DigestKey, pool::DigestLimitRef> digests;
  std::shared_ptr<const pool::DigestGate> gate;
  std::map<std::string, pool::TenantOrder, std::less<>> tenants;  // limits of tenants
  std::map<std::string, ClassOrder, std::less<>> classes;         // of tenants

  bool is_paused(std::string_view database) const { return all_paused || paused.contains(database); }
  bool is_disabled(std::string_view database) const { return disabled.contains(database); }
  void find_gate() {
    std::vector<pool::DigestLimitRef> limits;
    for (const auto& [key, limit] : digests) limits.push_back(limit);
    gate = limits.empty() ? nullptr : std::make_shared<const pool::DigestGate>(std::move(limits));
  }
};

// What an order makes the workers do once, beside obeying what lasts.
enum class OrderAction : std::uint8_t {
  none,
  reconnect,  // servers that exist now are closed when they are released
  kill,       // clients and servers are closed at once
};

}  // namespace proxy
