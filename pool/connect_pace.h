#pragma once

#include <atomic>
#include <cstdint>

#include "pool/admission.h"

namespace pool {

// How fast one node gets new connections, over all workers: so many being made at once, and so many begun per
// second, so that those who wait after an outage do not all connect in one moment. Two atomic words.
class ConnectPace {
 public:
  // May one more be begun now? Then done() is owed when it is made or has failed. `per_second` 0: no limit.
  // After a pause `parallel` may be begun at once.
  bool take(Instant now, std::int64_t parallel, std::int64_t per_second);
  void done() { making_.fetch_sub(1, std::memory_order_relaxed); }
  // Room for one more being made; the pace per second is only known by take().
  bool has_room(std::int64_t parallel) const { return making() < parallel; }
  std::int64_t making() const { return making_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::int64_t> making_{0};
  Gcra begun_;
};

}  // namespace pool
