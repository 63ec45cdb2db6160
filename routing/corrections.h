#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "conf/units.h"

namespace routing {

// One database of one cluster, as the nodes know it.
struct DatabaseKey {
  std::string cluster, database;
  friend auto operator<=>(const DatabaseKey&, const DatabaseKey&) = default;
};

// What replicas have refused although it was thought to be a read (25006 and kin): these digests go to the
// primary from then on, in that database. Kept by the control thread until an operator clears it; bounded:
// the one that was refused longest ago makes room. A digest is what everybody may see of it (lexer.h), so
// somebody who wants to can make a statement of his own database go to the primary, and nobody else's.
class Corrections {
 public:
  struct Correction {
    DatabaseKey where;
    std::uint64_t digest = 0;
    std::string sqlstate, node;  // of the last refusal
    std::uint64_t refusals = 0;  // more than one: sent before everybody knew, or by another worker
    conf::Instant first{}, last{};
  };
  struct Refused {
    DatabaseKey where;
    std::uint64_t digest = 0;
    std::string sqlstate, node;
  };

  // True: it was not known. A limit of 0 learns nothing.
  bool learn(const Refused& refused, std::size_t limit, conf::Instant now);
  std::size_t clear();  // how many there were
  std::size_t size() const { return by_digest_.size(); }
  std::vector<Correction> all() const;  // by database and digest
  // Sorted, as Scope wants them.
  std::vector<std::uint64_t> of(const DatabaseKey& where) const;
  std::vector<DatabaseKey> databases() const;

 private:
  struct Key {
    DatabaseKey where;
    std::uint64_t digest;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  std::map<Key, Correction> by_digest_;
};

}  // namespace routing
