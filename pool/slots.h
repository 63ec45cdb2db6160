#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "conf/settings.h"

namespace pool {

// How many servers of one (node, database, user) statements of which priority and of which tenant have now,
// over all workers. Only what has a ceiling, or is counted by one, is entered here: without ceilings nobody asks.
// Relaxed atomics. Asking and taking are two steps: workers that ask at the same moment can exceed a
// ceiling by one each.
class Slots {
 public:
  static constexpr std::size_t kTenants = 1000;

  Slots() = default;
  Slots(const Slots&) = delete;
  Slots& operator=(const Slots&) = delete;
  ~Slots();

  void take(conf::Priority priority, std::uint16_t tenant);
  void give_back(conf::Priority priority, std::uint16_t tenant);

  // Statements of this priority and of lower ones.
  std::int64_t running(conf::Priority priority) const;
  std::int64_t running_of(std::uint16_t tenant) const;

  // How many servers a ceiling allows: at least one, so that no pool is too small to serve somebody.
  static constexpr std::int64_t allowed(std::int64_t servers, std::int64_t percent) {
    const std::int64_t part = servers * percent / 100;
    return part > 0 ? part : 1;
  }

 private:
  using ByTenant = std::array<std::atomic<std::int32_t>, kTenants>;
  ByTenant& by_tenant();

  std::array<std::atomic<std::int64_t>, conf::kPriorities> running_{};
  std::atomic<ByTenant*> tenants_{nullptr};  // made when first needed: 4 kB
};

}  // namespace pool
