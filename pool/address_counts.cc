#include "pool/address_counts.h"

#include "conf/check.h"

namespace pool {

AddressCounts::Ticket AddressCounts::enter(const Address& address, std::int64_t* number) {
  const std::lock_guard lock(mutex_);
  const auto found = counts_.try_emplace(address, Count{.home = this}).first;
  *number = ++found->second.connections;
  return Ticket(*found);
}

void AddressCounts::leave(Entry& entry) {
  const std::lock_guard lock(mutex_);
  ENSURE(entry.second.connections > 0);
  if (--entry.second.connections == 0) counts_.erase(counts_.find(entry.first));
}

std::int64_t AddressCounts::connections(const Address& address) const {
  const std::lock_guard lock(mutex_);
  const auto found = counts_.find(address);
  return found == counts_.end() ? 0 : found->second.connections;
}

std::size_t AddressCounts::addresses() const {
  const std::lock_guard lock(mutex_);
  return counts_.size();
}

}  // namespace pool
