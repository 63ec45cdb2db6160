#pragma once

#include "conf/units.h"

namespace pool {

using conf::Instant;
using conf::Millis;
using conf::Nanos;

// Tells a queue that stands from one that only fills and drains: the shortest wait of an interval is beyond the
// target, so that nobody in it found the queue empty (controlled delay: Nichols and Jacobson, 2012). What is
// observed is the wait of whoever has waited longest, when somebody is taken out and at every sweep, so that
// a queue from which nobody is taken is seen too, and one that serves the newest first.
class ControlledDelay {
 public:
  struct Rule {
    Millis target{0}, interval{100};  // a target of zero: off
  };

  void observe(Instant now, Nanos longest_wait, Rule rule) {
    if (now < until_) {
      if (longest_wait < least_) least_ = longest_wait;
      return;
    }
    // What was observed longer ago than an interval says nothing about now.
    overloaded_ = now < until_ + rule.interval && least_ > rule.target;
    until_ = now + rule.interval;
    least_ = longest_wait;
  }
  bool overloaded() const { return overloaded_; }
  void forget() { *this = {}; }

 private:
  Instant until_{};  // the end of the interval
  Nanos least_{0};   // the shortest wait in it
  bool overloaded_ = false;
};

}  // namespace pool
