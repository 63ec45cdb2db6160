#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "routing/catalog.h"
#include "routing/corrections.h"

namespace routing {

// What a statement is judged by in one database: its catalogue, what operators say of digests, and what
// replicas have refused. Immutable. Databases of which the same is known share one, and with it the
// classifier's cache.
struct Scope {
  std::shared_ptr<const Catalog> catalog = std::make_shared<const Catalog>();
  // Digests, sorted: what replicas have refused, and what operators say. What is no read by its own words
  // (INSERT, SET ...) does not become one.
  std::vector<std::uint64_t> refused, primary_digests, read_digests;
  // Facts are remembered under it: another content has another version, for the life of the process.
  std::uint64_t version = 0;

  static const Scope& built_in();  // of a database of which nothing is known
};

// The snapshot that workers judge by.
class Scopes {
 public:
  // Never null: what is not known is judged by built-in lists and operators' words.
  const std::shared_ptr<const Scope>& of(const DatabaseKey& where) const {
    const auto found = by_database_.find(where);
    return found == by_database_.end() ? unknown_ : found->second;
  }

 private:
  friend class ScopeBook;
  std::map<DatabaseKey, std::shared_ptr<const Scope>> by_database_;
  std::shared_ptr<const Scope> unknown_ = std::make_shared<const Scope>();
};

// What has been read of the databases' catalogues. Those with the same content are the same object.
struct Catalogs {
  std::map<DatabaseKey, std::shared_ptr<const Catalog>> by_database;
  std::shared_ptr<const Catalog> unknown = std::make_shared<const Catalog>();  // of all others
};

// Digests as operators write them, 16 hexadecimal digits; what is none is left out. Sorted.
std::vector<std::uint64_t> parse_digests(const std::vector<std::string>& words);

// Makes snapshots, on the control thread: what has not changed since the last one keeps its object.
class ScopeBook {
 public:
  struct Digests {
    std::vector<std::uint64_t> primary, read;
    friend bool operator==(const Digests&, const Digests&) = default;
  };
  std::shared_ptr<const Scopes> make(const Catalogs& catalogs, const Corrections& corrections,
                                     const Digests& digests = {});

 private:
  std::shared_ptr<const Scope> scope(const std::shared_ptr<const Catalog>& catalog,
                                     std::vector<std::uint64_t> refused, const Digests& digests,
                                     std::vector<std::shared_ptr<const Scope>>& made);
  std::vector<std::shared_ptr<const Scope>> last_;
  std::uint64_t version_ = 0;
};

}  // namespace routing
