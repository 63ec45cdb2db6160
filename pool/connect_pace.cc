#include "pool/connect_pace.h"

namespace pool {

bool ConnectPace::take(Instant now, std::int64_t parallel, std::int64_t per_second) {
  std::int64_t making = making_.load(std::memory_order_relaxed);
  do {
    if (making >= parallel) return false;
  } while (!making_.compare_exchange_weak(making, making + 1, std::memory_order_relaxed));
  if (begun_.take(now, per_second, parallel).count() == 0) return true;
  done();
  return false;
}

}  // namespace pool
