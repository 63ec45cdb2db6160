#include "pool/backoff.h"

#include <algorithm>

namespace pool {

void Backoff::failed(Instant now, Millis min, Millis max, std::minstd_rand& random) {
  const Millis limit = std::max(min, max);
  Millis delay = std::max(min, Millis{1});
  for (unsigned i = 0; i < failures_ && delay < limit; ++i) delay *= 2;
  delay = std::min(delay, std::max(limit, Millis{1}));
  if (failures_ < 1'000'000) ++failures_;

  const conf::Nanos half = conf::Nanos(delay) / 2;
  const double share = static_cast<double>(random() - std::minstd_rand::min()) /
                       static_cast<double>(std::minstd_rand::max() - std::minstd_rand::min());
  not_before_ = now + half +
                conf::Nanos(static_cast<std::int64_t>(static_cast<double>(half.count()) * share));
}

}  // namespace pool
