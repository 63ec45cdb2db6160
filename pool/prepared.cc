#include "pool/prepared.h"

#include <algorithm>
#include <utility>

namespace pool {

std::string server_name(std::uint32_t id) { return std::string(routing::kOurStatements) + std::to_string(id); }

// Settings have no NUL in them.
std::string PreparedRegistry::print(const Key& key) {
  std::string text;
  for (const Setting& setting : key.read_by.entries)
    text.append(setting.name).append(setting.from_startup ? "<" : "=").append(setting.value).append(1, '\n');
  return text.append(key.alone).append(1, '\0').append(key.tail);
}

PreparedRef PreparedRegistry::intern(std::string_view tail, SettingsSet read_by, std::string_view alone) {
  const std::lock_guard lock(mutex_);
  if (const auto found = known_.find(print({tail, read_by, alone})); found != known_.end()) {
    if (PreparedRef held = found->second.lock()) return held;
    known_.erase(found);
  }
  return make(tail, std::move(read_by), alone);
}

PreparedRef PreparedRegistry::renew(const PreparedRef& spoilt) {
  const std::lock_guard lock(mutex_);
  if (const auto found = known_.find(print({spoilt->tail, spoilt->read_by, spoilt->alone})); found != known_.end()) {
    // Somebody else may have met the same plan, on another server.
    if (PreparedRef held = found->second.lock(); held && held != spoilt) return held;
    known_.erase(found);
  }
  return make(spoilt->tail, spoilt->read_by, spoilt->alone);
}

PreparedRef PreparedRegistry::make(std::string_view tail, SettingsSet read_by, std::string_view alone) {
  if (known_.size() >= sweep_at_) {
    std::erase_if(known_, [](const auto& entry) { return entry.second.expired(); });
    sweep_at_ = std::max<std::size_t>(1024, known_.size() * 2);
  }
  auto made = std::make_shared<Prepared>();
  made->id = next_id_++;
  made->tail = std::string(tail);
  made->read_by = std::move(read_by);
  made->alone = std::string(alone);
  made->server_name = server_name(made->id);
  known_.emplace(print({made->tail, made->read_by, made->alone}), made);
  return made;
}

std::size_t PreparedRegistry::size() const {
  const std::lock_guard lock(mutex_);
  return known_.size();
}

bool ServerStatements::touch(std::uint32_t id) {
  if (id == last_) return true;
  const auto found = known_.find(id);
  if (found == known_.end()) return false;
  used_.splice(used_.end(), used_, found->second);
  last_ = id;
  return true;
}

void ServerStatements::add(const PreparedRef& statement) {
  if (touch(statement->id)) return;
  used_.push_back(statement);
  known_.emplace(statement->id, std::prev(used_.end()));
  last_ = statement->id;
}

void ServerStatements::remove(std::uint32_t id) {
  if (last_ == id) last_ = 0;
  const auto found = known_.find(id);
  if (found == known_.end()) return;
  used_.erase(found->second);
  known_.erase(found);
}

PreparedRef ServerStatements::find(std::uint32_t id) const {
  const auto found = known_.find(id);
  return found == known_.end() ? nullptr : *found->second;
}

void ServerStatements::clear() {
  used_.clear();
  known_.clear();
  last_ = 0;
}

PreparedRef ServerStatements::evict() {
  if (used_.empty()) return nullptr;
  PreparedRef oldest = used_.front();
  remove(oldest->id);
  return oldest;
}

}  // namespace pool
