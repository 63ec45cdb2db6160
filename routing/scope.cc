#include "routing/scope.h"

#include <algorithm>
#include <set>

namespace routing {

const Scope& Scope::built_in() {
  static const Scope scope;
  return scope;
}

std::shared_ptr<const Scopes> ScopeBook::make(const Catalogs& catalogs, const Corrections& corrections) {
  auto scopes = std::make_shared<Scopes>();
  std::vector<std::shared_ptr<const Scope>> made;
  scopes->unknown_ = scope(catalogs.unknown, {}, made);
  std::set<DatabaseKey> databases;
  for (const auto& [where, catalog] : catalogs.by_database) databases.insert(where);
  for (const DatabaseKey& where : corrections.databases()) databases.insert(where);
  for (const DatabaseKey& where : databases) {
    const auto known = catalogs.by_database.find(where);
    const auto& catalog = known == catalogs.by_database.end() ? catalogs.unknown : known->second;
    scopes->by_database_.emplace(where, scope(catalog, corrections.of(where), made));
  }
  last_ = std::move(made);
  return scopes;
}

std::shared_ptr<const Scope> ScopeBook::scope(const std::shared_ptr<const Catalog>& catalog,
                                              std::vector<std::uint64_t> refused,
                                              std::vector<std::shared_ptr<const Scope>>& made) {
  const auto same = [&](const std::shared_ptr<const Scope>& one) {
    return one->catalog == catalog && one->refused == refused;
  };
  if (const auto found = std::ranges::find_if(made, same); found != made.end()) return *found;
  if (const auto found = std::ranges::find_if(last_, same); found != last_.end())
    return made.emplace_back(*found);
  auto fresh = std::make_shared<Scope>();
  fresh->catalog = catalog;
  fresh->refused = std::move(refused);
  fresh->version = ++version_;
  return made.emplace_back(std::move(fresh));
}

}  // namespace routing
