#include "metrics/digest_stats.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

namespace metrics {

void DigestHistogram::halve(std::uint32_t& overflown) {
  overflown = UINT32_MAX;
  for (std::uint32_t& bucket : buckets_) bucket -= bucket / 2;
}

void DigestHistogram::merge(const DigestHistogram& other) {
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    const std::uint64_t sum = std::uint64_t{buckets_[i]} + other.buckets_[i];
    buckets_[i] = static_cast<std::uint32_t>(std::min<std::uint64_t>(sum, UINT32_MAX));
  }
}

Nanos DigestHistogram::quantile(double q) const {
  const std::uint64_t count = std::accumulate(buckets_.begin(), buckets_.end(), std::uint64_t{0});
  if (count == 0) return Nanos(0);
  const double wanted = std::ceil(std::clamp(q, 0.0, 1.0) * static_cast<double>(count));
  const auto rank = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(wanted));
  std::uint64_t seen = 0;
  std::size_t i = 0;
  while (i + 1 < buckets_.size() && (seen += buckets_[i]) < rank) ++i;
  const Nanos first = HistogramBuckets::midpoint(i * kMerged);
  const Nanos last = HistogramBuckets::midpoint(i * kMerged + kMerged - 1);
  return (first + last) / 2;
}

void DigestRuns::add_behind(DigestRef ref, bool controls, std::uint16_t calls) {
  constexpr unsigned kMostCalls = 0x7fff;
  for (One& one : runs_) {
    if (one.calls == 0) {
      one = {ref, 0, controls};
      one.calls = calls & kMostCalls;
      return;
    }
    if (one.ref != ref) continue;
    one.calls = std::min<unsigned>(kMostCalls, one.calls + calls) & kMostCalls;
    return;
  }
  // No room: the last one stands for all that follow.
  runs_.back() = {DigestRef{}, 1, false};
}

void DigestRuns::add(const DigestRuns& more) {
  for (const One& one : more.runs_)
    if (one.calls > 0) add_behind(one.ref, one.controls, one.calls);
}

std::size_t DigestStats::Hash::operator()(const Key& key) const {
  const auto where = reinterpret_cast<std::uintptr_t>(key.database);
  const std::uint64_t mixed = (key.digest ^ (where << 20)) * multiplier;
  return static_cast<std::size_t>(mixed ^ (mixed >> 32));
}

DigestStats::DigestStats(std::size_t places)
    : by_key_(0, Hash{(std::uint64_t{std::random_device{}()} << 32 | std::random_device{}()) | 1}) {
  resize(places);
}

void DigestStats::resize(std::size_t places) {
  places = std::min(places, kMostPlaces);
  if (places == limit_ && !places_.empty()) return;
  limit_ = places;
  hand_ = 1;
  by_key_.clear();
  places_.clear();
  details_.clear();
  // Never moved afterwards; the system gives the memory when it is first used.
  places_.reserve(limit_ + 1);
  details_.reserve(limit_ + 1);
  places_.emplace_back();
  details_.emplace_back();
  // What is still on its way must not be counted for whoever gets its place now.
  ++lives_;
}

DigestRef DigestStats::look_up(std::uint64_t digest, const DatabaseCounters& database) {
  const auto found = by_key_.find({digest, &database});
  if (found == by_key_.end()) return {};
  places_[found->second].used = true;
  return {found->second, places_[found->second].life};
}

DigestRef DigestStats::make(std::uint64_t digest, const DatabaseCounters& database, std::string text) {
  std::size_t at = places_.size();
  std::uint16_t life = lives_;
  if (at <= limit_) {
    places_.emplace_back();
    details_.emplace_back();
  } else {
    const auto advance = [this] { hand_ = hand_ == limit_ ? 1 : hand_ + 1; };
    while (std::exchange(places_[hand_].used, false)) advance();
    at = hand_;
    advance();
    by_key_.erase({places_[at].digest, places_[at].database});
    life = static_cast<std::uint16_t>(places_[at].life + 1);
    places_[at] = {};
    details_[at] = {};
    ++evictions_;
  }
  const auto slot = static_cast<std::uint16_t>(at);
  places_[at].digest = digest;
  places_[at].database = &database;
  // Life 0 is that of the others' place, and of nobody else's.
  places_[at].life = life == 0 ? std::uint16_t{1} : life;
  details_[at].text = std::move(text);
  by_key_.emplace(Key{digest, &database}, slot);
  return {slot, places_[at].life};
}

void DigestStats::note_tenant(Place& place, Details& details, std::uint16_t tenant) {
  place.last_tenant = tenant;
  const auto end = details.tenants.begin() + details.tenant_count;
  if (std::find(details.tenants.begin(), end, tenant) != end) return;
  if (details.tenant_count == kTenants) {
    details.more_tenants = true;
    return;
  }
  details.tenants[details.tenant_count++] = tenant;
}

// When each of them ran is not known: they share time and rows by their calls. Transaction control costs
// nothing beside others, and fails less often than they do.
void DigestStats::count_several(const DigestRuns& runs, const DigestOutcome& outcome) {
  std::uint64_t sharing = 0;
  for (const DigestRuns::One& run : runs.all()) sharing += run.controls ? 0U : run.calls;
  bool with_rest = true;  // what division leaves over goes to the first
  for (const DigestRuns::One& run : runs.all()) {
    if (run.calls == 0) break;
    DigestOutcome share{.tenant = outcome.tenant};
    if (sharing == 0 || !run.controls) {
      const std::uint64_t of = sharing == 0 ? 1 : sharing;
      const std::uint64_t calls = sharing == 0 ? (with_rest ? 1U : 0U) : run.calls;
      share.server = outcome.server * static_cast<std::int64_t>(calls) / static_cast<std::int64_t>(of);
      share.rows = outcome.rows * calls / of + (with_rest ? outcome.rows % of : 0);
      share.failed = outcome.failed;
      with_rest = false;
    }
    count(run, share);
  }
}

void DigestStats::count_shared(const DigestRuns& runs, std::uint16_t tenant) {
  for (const DigestRuns::One& run : runs.all()) {
    if (run.calls == 0) break;
    Place& place = place_of(run.ref);
    place.counts.shared += run.calls;
    if (place.last_tenant != tenant)
      note_tenant(place, details_[static_cast<std::size_t>(&place - places_.data())], tenant);
  }
}

std::uint64_t DigestStats::digest_of(DigestRef ref) const {
  if (ref.slot >= places_.size() || places_[ref.slot].life != ref.life) return 0;
  return places_[ref.slot].digest;
}

const DatabaseCounters* DigestStats::database_of(DigestRef ref) const {
  if (ref.slot >= places_.size() || places_[ref.slot].life != ref.life) return nullptr;
  return places_[ref.slot].database;
}

DigestStats::Use DigestStats::use(std::size_t at) const {
  const Place& place = places_[at];
  const Details& details = details_[at];
  return {.digest = place.digest,
          .database = place.database == nullptr ? "" : place.database->name,
          .text = details.text,
          .counts = place.counts,
          .times = details.times,
          .tenants = {details.tenants.begin(), details.tenants.begin() + details.tenant_count},
          .more_tenants = details.more_tenants};
}

}  // namespace metrics
