#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace routing {

// What the primary says of its functions: which names are safe to run on a standby. Built on the
// control thread from pg_proc, then immutable. A name is a read only when every function of that
// name in every schema (of the databases looked at) is stable or immutable, or the name is on the
// built-in list of harmless volatile functions (random, clock_timestamp, ...), and it is not on the
// built-in list of functions that mean something else on a standby (nextval, advisory locks, ...).
//
// What wins, strongest first: pin_overrides (primary only, and they pin), write_overrides,
// read_overrides, the built-in list of primary-only names, the harmless ones, `functions`, the built-in list of common safe names (for the first
// seconds, before pg_proc has been read, and for nothing else). Names are compared as Postgres
// stores them, case included; overrides may carry a schema, which is ignored.
//
// A name is all that a parse tree has, so overloads share a fate.
class Catalog {
 public:
  enum class Verdict : std::uint8_t { read, volatile_function, primary_only, unknown };

  struct Function {
    std::string name;  // without schema
    bool is_volatile;
  };

  Catalog();  // knows the built-in lists only; everything else is unknown
  Catalog(std::uint64_t version, const std::vector<Function>& functions,
          const std::vector<std::string>& read_overrides,
          const std::vector<std::string>& write_overrides,
          const std::vector<std::string>& pin_overrides = {});

  // One or a few hash look-ups; no allocation.
  Verdict judge(std::string_view function_name) const;
  // Leaves something in the session that no setting can replay (setseed, dblink_connect, and what
  // the operator names): the client that calls it keeps its server.
  bool pins(std::string_view function_name) const;
  std::uint64_t version() const { return version_; }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
  };
  using Names = std::unordered_set<std::string, Hash, std::equal_to<>>;
  std::uint64_t version_ = 0;
  Names reads_, volatiles_, primary_only_, pinning_;
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
