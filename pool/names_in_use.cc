#include "pool/names_in_use.h"

#include "conf/check.h"

namespace pool {

bool NamesInUse::take(const std::string& name, std::int64_t limit) {
  const std::lock_guard lock(mutex_);
  const auto found = holders_.find(name);
  if (found == holders_.end() && holders_.size() >= static_cast<std::size_t>(limit)) return false;
  ++holders_[name];
  return true;
}

void NamesInUse::give_back(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto found = holders_.find(name);
  ENSURE(found != holders_.end());
  if (--found->second == 0) holders_.erase(found);
}

std::size_t NamesInUse::size() const {
  const std::lock_guard lock(mutex_);
  return holders_.size();
}

}  // namespace pool
