#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "conf/settings.h"

namespace pool {

using conf::Millis;
using conf::Priority;

// A class of work, as a small number that is good for the life of the process. Those called like a priority
// have that priority's number.
using ClassId = std::uint8_t;
inline constexpr ClassId kHigh = static_cast<ClassId>(Priority::high);  // of who says nothing
inline constexpr std::size_t kMaxServiceClasses = 64;

// Of which class the statements of a session are that say nothing themselves.
struct OwnClass {
  ClassId configured = kHigh, session = kHigh;  // and what it has made of that: SET pgsluice.class
  bool ordered = false;  // by an operator's SET CLASS, which is the last word
};

// How statements of one class are treated where servers are short: a [class.NAME], its gaps filled from its
// priority.
struct ServiceClass {
  std::string name;
  Priority priority = Priority::high;
  std::int64_t weight = 16;           // beside other classes; critical ones go before all
  Millis target{0}, interval{100};    // controlled delay; a target of zero: off
  Millis deadline{0};                 // longest wait; zero: only pool.queue_timeout
  std::int64_t ceiling = 100;         // percent of a pool's servers, with those of lower priority
  // By priority, its own ceiling and those of the classes called like higher ones, which hold for it too: what
  // is kept for critical statements, and no high one may take, is not for low ones.
  std::array<std::int64_t, conf::kPriorities> ceilings = {100, 100, 100, 100};
  std::vector<std::string> nodes;     // as NodeAddress::name() writes them
  bool overflow = true;
  bool configured = true;             // false: a reload has removed it; its statements are as high ones
};

// All classes at one moment. Immutable.
struct ClassTable {
  std::vector<ServiceClass> classes;  // by ClassId
  // Of classes whose running statements are counted, because a ceiling asks for them: a bit per id.
  std::uint64_t counted = 0;
  bool deadlines = false;  // some class has a target or a deadline
  bool own_nodes = false;  // some class has nodes of its own

  const ServiceClass& at(ClassId id) const { return classes[id]; }
  Priority priority(ClassId id) const { return classes[id].priority; }
  // "" and names that are none: `otherwise`.
  ClassId find(std::string_view name, ClassId otherwise = kHigh) const;
  // What a session that asks for `wanted` gets: a class of no higher priority than the one that is configured
  // for it, or that one.
  ClassId lowered(ClassId configured, std::string_view wanted) const;
};

// Numbers classes: a name that was met once keeps its number, so that a reload does not turn one class into
// another. A new table per reload; whoever has an old one may go on with it.
class ClassRegistry {
 public:
  explicit ClassRegistry(const conf::Settings& settings) { reload(settings); }
  void reload(const conf::Settings& settings);
  std::shared_ptr<const ClassTable> table() const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> names_;  // by ClassId
  std::shared_ptr<const ClassTable> table_;
};

}  // namespace pool
