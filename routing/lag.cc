#include "routing/lag.h"

#include <algorithm>

namespace routing {
namespace {

// Neighbours may be as far apart as this part of their age. Of three in a row the outer two are
// then further apart than that, so ages from 0.1 s to a day take at most 2 x 24 x ln(86400 / 0.1) =
// 656 entries, and thinning a full ring always frees a third of it.
constexpr int kGapPerAge = 24;
constexpr Millis kForgetAfter = std::chrono::hours(24);

Millis since(Instant then, Instant now) {
  return now <= then ? Millis{0} : std::chrono::ceil<Millis>(now - then);
}

}  // namespace

void LagRing::add(Instant now, Lsn position) {
  if (!samples_.empty() && position < samples_.back().position) reset();
  if (!samples_.empty() && position == samples_.back().position) {
    samples_.back().last = std::max(samples_.back().last, now);
    return;
  }
  if (samples_.size() == kEntries) thin(now);
  samples_.push_back({now, now, position});
}

void LagRing::thin(Instant now) {
  // From new to old, each entry is dropped whose neighbours are close enough together without it.
  // The oldest one stays as long as it is not too old: it is what "at least" is measured from.
  std::vector<Sample> kept;
  kept.reserve(kEntries);
  kept.push_back(samples_.back());
  for (std::size_t i = samples_.size() - 1; i-- > 0;) {
    const Sample& sample = samples_[i];
    if (now - sample.last > kForgetAfter) break;
    const bool oldest = i == 0;
    if (!oldest && kept.back().first - samples_[i - 1].last <= (now - sample.last) / kGapPerAge)
      continue;
    kept.push_back(sample);
  }
  std::reverse(kept.begin(), kept.end());
  // Can only happen when samples come faster than the 5 ms that the arithmetic above assumes.
  constexpr std::size_t kRoom = kEntries / 8;
  if (kept.size() > kEntries - kRoom)
    kept.erase(kept.begin(), kept.begin() + static_cast<std::ptrdiff_t>(kRoom));
  samples_ = std::move(kept);
}

std::optional<Millis> LagRing::lag(Lsn replayed, Instant now) const {
  if (samples_.empty() || replayed == Lsn{}) return std::nullopt;
  if (replayed >= samples_.back().position) return Millis{0};
  const auto after =
      std::upper_bound(samples_.begin(), samples_.end(), replayed,
                       [](Lsn lsn, const Sample& sample) { return lsn < sample.position; });
  if (after != samples_.begin()) return since(std::prev(after)->last, now);
  const Millis at_least = since(samples_.front().first, now);
  if (at_least < kLongEnough) return std::nullopt;
  return at_least;
}

std::optional<Instant> LagRing::newest() const {
  if (samples_.empty()) return std::nullopt;
  return samples_.back().last;
}

bool LagGate::update(std::optional<Millis> lag, std::uint64_t bytes, LagLimits limits) {
  if (!lag) return false;
  const bool any_size = limits.bytes == 0;
  if (*lag > limits.time || (!any_size && bytes > limits.bytes)) late_ = true;
  if (*lag <= limits.time * 3 / 4 && (any_size || bytes <= limits.bytes / 4 * 3)) late_ = false;
  return !late_;
}

}  // namespace routing
