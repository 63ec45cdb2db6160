#include "routing/scope.h"

#include <algorithm>
#include <charconv>
#include <set>

namespace routing {

const Scope& Scope::built_in() {
  static const Scope scope;
  return scope;
}

std::vector<std::uint64_t> parse_digests(const std::vector<std::string>& words) {
  std::vector<std::uint64_t> digests;
  for (const std::string& word : words) {
    std::uint64_t digest = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), digest, 16);
    if (error == std::errc() && end == word.data() + word.size() && word.size() == 16) digests.push_back(digest);
  }
  std::ranges::sort(digests);
  return digests;
}

std::shared_ptr<const Scopes> ScopeBook::make(const Catalogs& catalogs, const Corrections& corrections,
                                              const Digests& digests) {
  auto scopes = std::make_shared<Scopes>();
  std::vector<std::shared_ptr<const Scope>> made;
  scopes->unknown_ = scope(catalogs.unknown, {}, digests, made);
  std::set<DatabaseKey> databases;
  for (const auto& [where, catalog] : catalogs.by_database) databases.insert(where);
  for (const DatabaseKey& where : corrections.databases()) databases.insert(where);
  for (const DatabaseKey& where : databases) {
    const auto known = catalogs.by_database.find(where);
    const auto& catalog = known == catalogs.by_database.end() ? catalogs.unknown : known->second;
    scopes->by_database_.emplace(where, scope(catalog, corrections.of(where), digests, made));
  }
  last_ = std::move(made);
  return scopes;
}

std::shared_ptr<const Scope> ScopeBook::scope(const std::shared_ptr<const Catalog>& catalog,
                                              std::vector<std::uint64_t> refused, const Digests& digests,
                                              std::vector<std::shared_ptr<const Scope>>& made) {
  const auto same = [&](const std::shared_ptr<const Scope>& one) {
    return one->catalog == catalog && one->refused == refused && one->primary_digests == digests.primary &&
           one->read_digests == digests.read;
  };
  if (const auto found = std::ranges::find_if(made, same); found != made.end()) return *found;
  if (const auto found = std::ranges::find_if(last_, same); found != last_.end())
    return made.emplace_back(*found);
  auto fresh = std::make_shared<Scope>();
  fresh->catalog = catalog;
  fresh->refused = std::move(refused);
  fresh->primary_digests = digests.primary;
  fresh->read_digests = digests.read;
  fresh->version = ++version_;
  return made.emplace_back(std::move(fresh));
}

}  // namespace routing
