#include "pool/result_cache.h"

#include <utility>

namespace pool {
namespace {

std::size_t bytes_of(const SettingsSet& settings) {
  std::size_t bytes = 0;
  for (const Setting& one : settings.entries) bytes += sizeof one + one.name.size() + one.value.size();
  return bytes;
}

}  // namespace

void ResultCache::set_limit(std::size_t most_bytes) {
  most_bytes_ = most_bytes;
  shrink();
}

ResultCache::Entries::iterator ResultCache::look(const std::string& key, Instant now) {
  const auto found = by_key_.find(key);
  if (found != by_key_.end() && now < found->second->expires) return found->second;
  if (found != by_key_.end()) drop(found->second);
  ++counters_.misses;
  return entries_.end();
}

std::uint32_t ResultCache::put(const std::string& key, SettingsRef settings, std::string answer,
                               const ReadPosition& at, Instant expires) {
  if (const auto found = by_key_.find(key); found != by_key_.end()) {
    if (found->second->at.began > at.began) return 0;
    drop(found->second);
  }
  const std::size_t cost = key.size() + answer.size() + bytes_of(*settings) + kOverhead;
  if (cost > most_bytes_ / 8) return 0;
  if (++last_ == 0) ++last_;
  auto kept = std::make_shared<const std::string>(std::move(answer));
  entries_.push_back({key, std::move(settings), std::move(kept), at, expires, cost});
  const auto entry = std::prev(entries_.end());
  entry->at.kept = last_;
  bytes_ += cost;
  by_key_.emplace(entry->key, entry);
  shrink();
  return last_;
}

void ResultCache::sweep(Instant now) {
  for (auto next = entries_.begin(); next != entries_.end();) {
    const auto entry = next++;
    if (now >= entry->expires) drop(entry);
  }
}

void ResultCache::clear() {
  by_key_.clear();
  entries_.clear();
  bytes_ = 0;
}

void ResultCache::drop(Entries::iterator entry) {
  bytes_ -= entry->cost;
  by_key_.erase(entry->key);
  entries_.erase(entry);
}

void ResultCache::shrink() {
  while (bytes_ > most_bytes_) {
    ++counters_.evicted;
    drop(entries_.begin());
  }
}

}  // namespace pool
