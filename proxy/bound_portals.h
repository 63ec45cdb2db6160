#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "routing/facts.h"

namespace proxy {

// Portals of a client that change its session's settings when they are executed. In a transaction that may
// be behind a later Sync than their Bind, or never, and it is then that the settings change.
class BoundPortals {
 public:
  using FactsRef = std::shared_ptr<const routing::Facts>;

  // Does it matter when this is executed? What names prepared statements matters from its Bind on.
  static bool concerns(const routing::Facts& facts) {
    return !facts.settings.empty() && !facts.deallocates_all && !facts.sees_prepared &&
           facts.deallocates_names.empty() && facts.executes_names.empty() && facts.prepares_names.empty();
  }

  // The portal is bound to that statement from now on; null: to one that is none of our concern. False: there
  // are too many to remember one more.
  bool bind(std::string_view portal, FactsRef facts) {
    std::erase_if(portals_, [portal](const auto& one) { return one.first == portal; });
    if (facts == nullptr) return true;
    if (portals_.size() == kMost) return false;
    portals_.emplace_back(portal, std::move(facts));
    return true;
  }
  const FactsRef* find(std::string_view portal) const {
    const auto found = std::ranges::find(portals_, portal, &std::pair<std::string, FactsRef>::first);
    return found == portals_.end() ? nullptr : &found->second;
  }

 private:
  static constexpr std::size_t kMost = 100;  // clients have one or two
  std::vector<std::pair<std::string, FactsRef>> portals_;
};

}  // namespace proxy
