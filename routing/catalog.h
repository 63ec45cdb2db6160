#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace routing {

// What the primary says of one database, as it was read (catalog_query.h). Names are as Postgres stores them.
struct CatalogContent {
  struct Name {
    std::string schema, name;
    friend auto operator<=>(const Name&, const Name&) = default;
  };
  // All functions of one name in one schema.
  struct Function {
    std::string schema, name;
    bool is_volatile = false;  // one of them is
    // Postgres's own, or of an extension: only those can be on the list of harmless names.
    bool is_shipped = false;
    friend bool operator==(const Function&, const Function&) = default;
  };
  // Whoever reads `user` runs or reads `used`: a view and what stands in its definition, a table and its
  // policies or its partitions, a domain and its checks, a function and the types of its arguments.
  enum class Kind : std::uint8_t { relation, type, function, operators };
  struct Use {
    Kind user_kind{};
    Name user;
    Kind used_kind{};
    Name used;
    friend bool operator==(const Use&, const Use&) = default;
  };
  std::vector<Function> functions{};
  // Relations that mean something else on a standby, or cannot be read there: unlogged ones, foreign tables,
  // sequences (a standby's is up to 32 values ahead), views that lock rows.
  std::vector<Name> primary_relations{};
  std::vector<Use> uses{};
  bool cut = false;  // there was more than kMaxRows: relations that are not known are not trusted
  friend bool operator==(const CatalogContent&, const CatalogContent&) = default;
};

// What operators say in the configuration; "name" or "schema.name" (of functions that pin the schema is
// ignored).
struct Overrides {
  std::vector<std::string> read_functions{}, write_functions{}, pin_functions{}, read_tables{}, primary_tables{};
  friend bool operator==(const Overrides&, const Overrides&) = default;
};

// Which functions, relations, types and operators of one database are safe to name in a read. Built on the
// control thread, then immutable. What is named without a schema is a read only when everything of that name
// in every schema is, because search_path decides which is meant; with a schema only that one counts.
// Overloads share a fate, because a parse tree has no types.
//
// What wins for functions, strongest first: pin_functions (primary only, and they pin), write_functions,
// read_functions, the built-in list of names that mean something else on a standby (nextval, advisory locks,
// functions that run SQL given as text ...), volatile functions that users have made, the built-in list of
// harmless volatile ones (random, clock_timestamp ...), the other functions, and the built-in list of common
// safe names (for the first seconds, before pg_proc has been read, and for nothing else).
//
// Relations that are not known are trusted: one made since the catalogue was read is refused by the replica or
// found at the next reading, which DDL brings on.
class Catalog {
 public:
  enum class Verdict : std::uint8_t { read, volatile_function, primary_only, unknown };

  Catalog();  // knows the built-in lists only; every other function is unknown
  explicit Catalog(const CatalogContent& content, const Overrides& overrides = {});

  // One or a few hash look-ups; no allocation. `schema` is "" where none stands.
  Verdict function(std::string_view schema, std::string_view name) const;
  Verdict function(std::string_view name) const { return function({}, name); }
  // It must not be read on a standby.
  bool is_primary_relation(std::string_view schema, std::string_view name) const;
  // A cast to it runs what is no read.
  bool is_primary_type(std::string_view schema, std::string_view name) const;
  bool is_primary_operator(std::string_view name) const;
  bool has_primary_operators() const { return !operators_.empty(); }
  // Leaves something in the session that no setting can replay (setseed, dblink_connect, and what
  // the operator names): the client that calls it keeps its server.
  bool pins(std::string_view function_name) const;
  // Two calls with the same arguments may say two things, though both are reads: random() and its kin, and
  // whatever is called a read by an override alone. What waits, or measures what is stored, does not.
  bool varies(std::string_view function_name) const;

  struct Size {
    std::size_t functions = 0, relations = 0, types = 0, operators = 0;
  };
  Size size() const;  // names of functions; of the others those that lead to the primary

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
  };
  template <class T>
  using Map = std::unordered_map<std::string, T, Hash, std::equal_to<>>;
  // What is known of a name, over all schemas and in each.
  struct Entry {
    Verdict any = Verdict::unknown;
    std::vector<std::pair<std::uint32_t, Verdict>> schemas;
    bool fixed = false;  // `any` holds in every schema: a list or an operator has said so
  };
  struct Names {  // schemas by number; kEvery: whichever
    Map<std::vector<std::uint32_t>> of;
    bool contains(const Catalog& catalog, std::string_view schema, std::string_view name) const;
  };
  static constexpr std::uint32_t kEvery = UINT32_MAX;

  std::uint32_t number(std::string_view schema);
  std::uint32_t find_schema(std::string_view schema) const;
  void add_functions(const CatalogContent& content);
  void follow_uses(const CatalogContent& content);
  void overrule(const Overrides& overrides);
  void add(Names& names, std::string_view schema, std::string_view name);

  Map<std::uint32_t> schemas_;
  Map<Entry> functions_;
  Names relations_, types_;
  Names trusted_relations_;  // by operators
  bool trusts_unknown_relations_ = true;
  Map<bool> operators_, pinning_, varying_;
};

// Functions that take an advisory lock which outlives the transaction, and those that may give the
// last one back.
bool is_session_advisory_lock(std::string_view function_name);
bool is_advisory_unlock(std::string_view function_name);

// Relations that show what one node does (pg_stat_activity, pg_locks ...) or one session has
// (pg_cursors): applications that look there mean the primary.
bool is_node_view(std::string_view relation_name);
// Settings that answer differently on a standby although the session is the same.
bool is_node_setting(std::string_view setting_name);

}  // namespace routing
