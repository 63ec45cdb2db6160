#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "pool/session_settings.h"
#include "routing/facts.h"

namespace pool {

// A statement that some client has prepared by name: its text and parameter types, and the settings that the
// text was read by, under the name that it has on every server that knows it. One object for all clients of
// the process that prepared the same; immutable.
struct Prepared {
  std::uint32_t id = 0;
  std::string tail;         // of the Parse message after the name: text, NUL, parameter types
  SettingsSet read_by;      // settings that give the text its meaning (read_by() in session_settings.h)
  std::string alone;        // not empty: those are not known for certain, and nobody else shares it
  std::string server_name;  // "pgsluice_<id>"; clients see it in server logs at most
  std::string_view text() const { return std::string_view(tail.c_str()); }
};
std::string server_name(std::uint32_t id);
using PreparedRef = std::shared_ptr<const Prepared>;

// Gives every different (text, parameter types, settings) one number for as long as somebody has it prepared.
// Asked when a client prepares a statement by name, under a lock; executions never come here.
class PreparedRegistry {
 public:
  PreparedRef intern(std::string_view tail, SettingsSet read_by = {}, std::string_view alone = {});
  // Servers may have a plan of this statement that is of no use any more: who prepares the same text from
  // now on gets another one, which no server has. That one is returned.
  PreparedRef renew(const PreparedRef& spoilt);
  std::size_t size() const;

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
  };

  // What makes it another statement.
  struct Key {
    std::string_view tail;
    const SettingsSet& read_by;
    std::string_view alone;
  };
  static std::string print(const Key& key);
  PreparedRef make(std::string_view tail, SettingsSet read_by, std::string_view alone);  // under the lock

  mutable std::mutex mutex_;
  std::unordered_map<std::string, std::weak_ptr<const Prepared>, Hash, std::equal_to<>> known_;
  std::uint32_t next_id_ = 1;
  std::size_t sweep_at_ = 1024;  // entries at which those that nobody holds are dropped
};

// Which statements one server has, least recently used first. Bounded by the caller: it closes what
// evict() names.
class ServerStatements {
 public:
  // Is it there? Then it is now the most recently used.
  bool touch(std::uint32_t id);
  void add(const PreparedRef& statement);
  void remove(std::uint32_t id);
  PreparedRef find(std::uint32_t id) const;  // null: it does not have it
  void clear();
  std::size_t size() const { return known_.size(); }
  // Those for which `wanted` says so, taken out.
  template <class Wanted>
  std::vector<PreparedRef> take_if(Wanted wanted) {
    std::vector<PreparedRef> taken;
    for (const PreparedRef& one : used_)
      if (wanted(*one)) taken.push_back(one);
    for (const PreparedRef& one : taken) remove(one->id);
    return taken;
  }
  // The least recently used one, taken out.
  PreparedRef evict();

 private:
  std::list<PreparedRef> used_;  // most recent last
  std::unordered_map<std::uint32_t, std::list<PreparedRef>::iterator> known_;
  std::uint32_t last_ = 0;  // the one touched last: a client that repeats itself costs no look-up
};

}  // namespace pool
