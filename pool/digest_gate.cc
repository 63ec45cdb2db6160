#include "pool/digest_gate.h"

#include <algorithm>

namespace pool {
namespace {

// A client that crashes servers with ever new statements is not remembered without end.
constexpr std::size_t kMostRemembered = 1000;
// When somebody else's statement ends nobody can foretell.
constexpr Millis kAskLater{50};

}  // namespace

std::string_view name(DigestLimitKind kind) {
  switch (kind) {
    case DigestLimitKind::block: return "block";
    case DigestLimitKind::rate: return "rate";
    case DigestLimitKind::concurrency: return "concurrency";
  }
  return "unknown";
}

void DigestHold::join(DigestHold&& other) {
  for (DigestLimitRef& limit : other.limits_) limits_.push_back(std::move(limit));
  other.limits_.clear();
}

void DigestHold::give_back() {
  for (const DigestLimitRef& limit : limits_) limit->running.fetch_sub(1, std::memory_order_relaxed);
  limits_.clear();
}

namespace {

bool holds(const DigestLimit& limit, std::string_view database, Instant now) {
  return now < limit.expires && (limit.key.database.empty() || limit.key.database == database);
}

}  // namespace

LimitAnswer take(const DigestLimitRef& limit, Instant now, DigestHold* hold) {
  const auto refuse = [&limit](Refusal why, Nanos retry_after) {
    limit->refused.fetch_add(1, std::memory_order_relaxed);
    return LimitAnswer{why, retry_after, limit.get()};
  };
  if (limit->kind == DigestLimitKind::rate) {
    // A tenth of a second's worth at once, as for tenants.
    const Nanos due = limit->bucket.take(now, limit->most, std::max<std::int64_t>(1, limit->most / 10));
    return due > Nanos(0) ? refuse(Refusal::digest_rate, due) : LimitAnswer{};
  }
  if (limit->running.fetch_add(1, std::memory_order_relaxed) >= limit->most) {
    limit->running.fetch_sub(1, std::memory_order_relaxed);
    return refuse(Refusal::digest_concurrency, kAskLater);
  }
  hold->add(limit);
  return {};
}

DigestGate::DigestGate(const std::vector<DigestLimitRef>& limits) {
  for (const DigestLimitRef& limit : limits) by_digest_.emplace(limit->key.digest, limit);
}

DigestGate::Answer DigestGate::admit(std::span<const std::uint64_t> digests, std::string_view database,
                                     Instant now, DigestHold* hold) const {
  const auto refuse = [hold](Refusal why, const DigestLimit& limit, Nanos retry_after) {
    limit.refused.fetch_add(1, std::memory_order_relaxed);
    hold->give_back();
    return Answer{why, retry_after, &limit};
  };
  for (std::size_t i = 0; i < digests.size(); ++i) {
    const bool again = std::find(digests.begin(), digests.begin() + static_cast<std::ptrdiff_t>(i), digests[i]) !=
                       digests.begin() + static_cast<std::ptrdiff_t>(i);
    const auto [begin, end] = by_digest_.equal_range(digests[i]);
    for (auto found = begin; found != end; ++found) {
      const DigestLimitRef& limit = found->second;
      if (!holds(*limit, database, now)) continue;
      switch (limit->kind) {
        case DigestLimitKind::block: return refuse(Refusal::digest_blocked, *limit, limit->expires - now);
        case DigestLimitKind::rate:
        case DigestLimitKind::concurrency:
          if (again && limit->kind == DigestLimitKind::concurrency) break;
          if (const Answer answer = take(limit, now, hold); answer.why != Refusal::none) {
            hold->give_back();
            return answer;
          }
          break;
      }
    }
  }
  return {};
}

DigestGate::Answer DigestGate::blocked(std::span<const std::uint64_t> digests, std::string_view database,
                                       Instant now) const {
  for (const std::uint64_t digest : digests) {
    const auto [begin, end] = by_digest_.equal_range(digest);
    for (auto found = begin; found != end; ++found) {
      const DigestLimit& limit = *found->second;
      if (limit.kind != DigestLimitKind::block || !holds(limit, database, now)) continue;
      limit.refused.fetch_add(1, std::memory_order_relaxed);
      return {Refusal::digest_blocked, limit.expires - now, &limit};
    }
  }
  return {};
}

std::vector<DigestKey> CrashRecord::convict(const Lost& lost, Instant now) {
  std::vector<DigestKey> guilty;
  for (const DigestKey& key : lost.digests) {
    const auto [known, is_new] = first_.try_emplace(key, now);
    // Every connection ends at a crash: one that was there at the first was lost in the same.
    if (is_new || lost.connected_at <= known->second) continue;
    guilty.push_back(key);
    first_.erase(known);
  }
  return guilty;
}

void CrashRecord::forget(Instant now) {
  std::erase_if(suspicions_, [now](const Suspicion& one) { return now - one.at > kTogether; });
  std::erase_if(crashes_, [now](const auto& one) { return now - one.second > kTogether; });
  std::erase_if(first_, [now](const auto& one) { return now - one.second > kMemory; });
  while (suspicions_.size() > kMostRemembered) suspicions_.pop_front();
  if (first_.size() > kMostRemembered) first_.clear();
}

std::vector<DigestKey> CrashRecord::lost(Lost lost, Instant now) {
  forget(now);
  if (crashes_.contains(lost.node)) return convict(lost, now);
  suspicions_.push_back({std::move(lost), now});
  return {};
}

std::vector<DigestKey> CrashRecord::crashed(std::uint16_t node, Instant now) {
  forget(now);
  crashes_[node] = now;
  std::vector<DigestKey> guilty;
  std::erase_if(suspicions_, [&](const Suspicion& one) {
    if (one.lost.node != node) return false;
    for (DigestKey& key : convict(one.lost, one.at)) guilty.push_back(std::move(key));
    return true;
  });
  return guilty;
}

}  // namespace pool
