#include "routing/corrections.h"

#include <algorithm>

namespace routing {

bool Corrections::learn(const Refused& refused, std::size_t limit, conf::Instant now) {
  if (limit == 0) return false;
  Key key{refused.where, refused.digest};
  const auto known = by_digest_.find(key);
  if (known != by_digest_.end()) {
    Correction& one = known->second;
    one.sqlstate = refused.sqlstate;
    one.node = refused.node;
    one.last = now;
    ++one.refusals;
    return false;
  }
  while (by_digest_.size() >= limit)
    by_digest_.erase(std::ranges::min_element(by_digest_, {}, [](const auto& one) { return one.second.last; }));
  by_digest_.emplace(std::move(key), Correction{.where = refused.where,
                                                .digest = refused.digest,
                                                .sqlstate = refused.sqlstate,
                                                .node = refused.node,
                                                .refusals = 1,
                                                .first = now,
                                                .last = now});
  return true;
}

std::size_t Corrections::clear() {
  const std::size_t cleared = by_digest_.size();
  by_digest_.clear();
  return cleared;
}

std::vector<Corrections::Correction> Corrections::all() const {
  std::vector<Correction> list;
  list.reserve(by_digest_.size());
  for (const auto& [key, one] : by_digest_) list.push_back(one);
  return list;
}

std::vector<std::uint64_t> Corrections::of(const DatabaseKey& where) const {
  std::vector<std::uint64_t> digests;
  for (auto one = by_digest_.lower_bound({where, 0}); one != by_digest_.end() && one->first.where == where; ++one)
    digests.push_back(one->first.digest);
  return digests;
}

std::vector<DatabaseKey> Corrections::databases() const {
  std::vector<DatabaseKey> keys;
  for (const auto& [key, one] : by_digest_)
    if (keys.empty() || keys.back() != key.where) keys.push_back(key.where);
  return keys;
}

}  // namespace routing
