#pragma once

#include <random>

#include "conf/units.h"

namespace pool {

using conf::Instant;
using conf::Millis;

// How long to leave a failing node alone before connecting again: doubles from `min` to `max`, with
// full jitter in its upper half so that many processes do not come back together.
class Backoff {
 public:
  bool may_try(Instant now) const { return now >= not_before_; }
  Instant not_before() const { return not_before_; }
  void failed(Instant now, Millis min, Millis max, std::minstd_rand& random);
  void succeeded() { *this = Backoff(); }
  unsigned failures() const { return failures_; }

 private:
  Instant not_before_{};
  unsigned failures_ = 0;
};

}  // namespace pool
