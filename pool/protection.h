#pragma once

#include <cstdint>
#include <string_view>

#include "conf/settings.h"

namespace pool {

using conf::Instant;
using conf::Millis;
using conf::Nanos;
using conf::Priority;

// What the process gives up to go on living: nothing; sheddable statements, and running anything a second time;
// low ones too; that eventual reads are as fresh as routing.max_lag says, so that more replicas share the work; all but
// critical statements, and new logins. A level gives up what those below it do.
inline constexpr int kMaxProtection = 4;

// The lowest priority that is still served at a level.
constexpr Priority lowest_served(int level) {
  return level >= 4   ? Priority::critical
         : level >= 2 ? Priority::high
         : level >= 1 ? Priority::low
                      : Priority::sheddable;
}
constexpr bool may_run_again(int level) { return level < 1; }
// Eventual reads may be so many times as late as otherwise.
constexpr int lag_tolerance(int level) { return level >= 3 ? 2 : 1; }
constexpr bool lets_in(int level) { return level < 4; }

// Which sign set the level: log, metric label, console.
enum class Strain : std::uint8_t { none, loop_delay, memory, queues, replicas_out, count_ };
std::string_view name(Strain strain);

// How the process is, since the last look.
struct Signs {
  Nanos loop_delay{0};          // of the worker that was latest
  std::int64_t memory_percent = 0;
  bool queues_overloaded = false;
  std::int64_t replicas_out = 0;  // percent, of the cluster that has lost most: routing::percent_out()
};

// From signs to a level, with hysteresis: up when a sign has been there in three looks on end, so that one slow
// turn changes nothing, but at once where memory is running out; down by one when all signs have asked for
// less for `hold`. Asked at an even pace, ten times a second, by one thread. Pure.
class Protection {
 public:
  struct Rule {
    Millis loop_delay{20};
    std::int64_t memory_high = 70, memory_full = 90;
    std::int64_t replicas_out = 50;  // percent; 0: off
    Millis hold{2000};
  };
  // True: the level has changed.
  bool look(Instant now, const Signs& signs, const Rule& rule);

  int level() const { return level_; }
  Strain why() const { return why_; }

 private:
  static constexpr int kLooks = 3;

  int level_ = 0;
  Strain why_ = Strain::none;
  int looks_ = 0;         // on end that asked for more than the level
  int least_asked_ = 0;   // the least of them
  Strain asked_by_ = Strain::none;
  Instant needed_at_{};   // when the level was last asked for
};

}  // namespace pool
