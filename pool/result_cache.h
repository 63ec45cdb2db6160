#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>

#include "pool/single_flight.h"

namespace pool {

// Answers of reads that are good for a short while, by the keys of flights. Bounded by bytes, settings that
// perhaps nobody else keeps included: the least recently used goes first. One worker's. Cost: a look-up; an
// answer is shared, not copied.
class ResultCache {
 public:
  // What an entry costs beside its key and its answer.
  static constexpr std::size_t kOverhead = 256;

  struct Counters {
    std::uint64_t hits = 0;
    std::uint64_t misses = 0;   // there was none, or its time was over
    std::uint64_t behind = 0;   // there was one, but not fresh enough for the session
    std::uint64_t evicted = 0;  // before its time was over
  };
  using Answer = std::shared_ptr<const std::string>;

  explicit ResultCache(std::size_t most_bytes) : most_bytes_(most_bytes) {}
  void set_limit(std::size_t most_bytes);

  // What is there, if `may_see` says of its position that the session may see it.
  struct Found {
    Answer answer;  // null: nothing
    ReadPosition at{};
  };
  template <class MaySee>
  Found find(const std::string& key, Instant now, MaySee&& may_see) {
    const auto entry = look(key, now);
    if (entry == entries_.end()) return {};
    if (!may_see(entry->at)) {
      ++counters_.behind;
      return {};
    }
    ++counters_.hits;
    entries_.splice(entries_.end(), entries_, entry);
    return {entry->answer, entry->at};
  }
  // `settings` are those that the key speaks of by their address. Gives it a number, ReadPosition::kept, that none
  // has had before (a worker that keeps a thousand a second begins again after 49 days, and what was told then is
  // long over). 0: it is not kept, because it is larger than an eighth of everything, or because there is one of
  // the same key that began later.
  std::uint32_t put(const std::string& key, SettingsRef settings, std::string answer, const ReadPosition& at,
                    Instant expires);
  // Those whose time is over.
  void sweep(Instant now);
  // All: positions mean something else now, or other rules hold.
  void clear();

  const Counters& counters() const { return counters_; }
  std::size_t bytes() const { return bytes_; }
  std::size_t size() const { return by_key_.size(); }

 private:
  struct Entry {
    std::string key;
    SettingsRef settings;
    Answer answer;
    ReadPosition at;
    Instant expires{};
    std::size_t cost = 0;
  };
  using Entries = std::list<Entry>;  // the least recently used first
  Entries::iterator look(const std::string& key, Instant now);  // end(): there is none
  void drop(Entries::iterator entry);
  void shrink();

  std::size_t most_bytes_;
  std::size_t bytes_ = 0;
  std::uint32_t last_ = 0;  // number
  Counters counters_;
  Entries entries_;
  std::unordered_map<std::string_view, Entries::iterator> by_key_;
};

}  // namespace pool
