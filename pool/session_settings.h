#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "routing/facts.h"

namespace pool {

// One setting that differs from the server's own default.
struct Setting {
  std::string name;
  // what stands behind "SET name TO " (from_startup: the bare value, unquoted)
  std::string value;
  // came in the start-up packet: replayed by set_config, which takes lists as they are
  bool from_startup = false;
  friend bool operator==(const Setting&, const Setting&) = default;
};

// The value itself: of 'a''b' it is a'b.
std::string bare_value(const Setting& setting);

// A set of settings, sorted by name (lower case, each once; the last one given wins), immutable.
// Sets are interned per worker: two sessions with the same settings share one object, so "does this
// server have what this client wants" is a comparison of two pointers in the common case.
struct SettingsSet {
  std::vector<Setting> entries;
  std::size_t hash = 0;
};
using SettingsRef = std::shared_ptr<const SettingsSet>;

// Those of them that Postgres reads a text by when it is parsed: where names are looked up, what the bytes of a
// literal are, and which date it means. Empty where none is set, as in most sessions. The same text read by
// other settings is another statement.
SettingsSet read_by(const SettingsSet& settings);

class SettingsInterner {
 public:
  SettingsInterner();
  SettingsRef intern(std::vector<Setting> entries);
  const SettingsRef& empty() const { return empty_; }
  // A set that another worker interned, as this worker's own.
  SettingsRef adopt(const SettingsRef& foreign);
  std::size_t size() const;  // distinct sets in use, the empty one not counted

 private:
  SettingsRef find(const SettingsSet& wanted) const;
  SettingsRef keep(SettingsRef set);

  std::unordered_multimap<std::size_t, std::weak_ptr<const SettingsSet>> sets_;
  SettingsRef empty_;
  std::size_t sweep_at_ = 64;  // entries of sets_ at which those of dead sets are removed
};

// The statements, for one simple Query to an idle server, that turn a server whose session has
// `from` into one that has `to`; empty when there is no difference that Postgres knows of (what
// start-up said of names that begin with "pgsluice." is sent to no server, but for pgsluice.lsn). RESET comes before SET; role and
// session_authorization are put in an order that works (authorization first; RESET ROLE before a
// change of authorization, which undoes the role), and everything else happens as the user that
// logged in.
//
// The answer is one CommandComplete per statement and, for start-up values, one row per SELECT; an
// error means that the server's state is unknown: close it (Refusal::replay_failed).
//
// No value can end its statement, whatever standard_conforming_strings and client_encoding are on
// that server: literals are written anew, with E'' where there is a backslash, and bytes beyond
// ASCII travel in hex (some encodings of clients have characters whose second byte is a backslash).
// A value that does not look like what SET takes becomes one literal, which Postgres then refuses.
std::string replay_sql(const SettingsSet& from, const SettingsSet& to);
// The same, statement by statement, where a transaction may be open: none that takes a snapshot, as far as
// that can be avoided, so that the transaction's isolation level can still be set.
std::vector<std::string> replay_statements(const SettingsSet& from, const SettingsSet& to);

// What a session with `before` has after `changes`, when RESET and DISCARD ALL go back to
// `defaults`. For a client: its start-up set. For the server that ran the very same statements: the
// empty set. Knows that a change of session_authorization undoes the role, and that RESET ALL
// touches neither.
SettingsRef settings_after(const SettingsRef& before,
                           std::span<const routing::SettingChange> changes,
                           const SettingsRef& defaults, SettingsInterner& interner);

// What one client's session has set, as Postgres would remember it: start-up values that RESET goes
// back to, SET and RESET on top, undone when the transaction or the savepoint that they were made
// behind is rolled back.
//
// Costs nothing for transactions that set nothing: of their savepoints it need not be told. A
// savepoint that it does not know was made before the transaction's first change, so a rollback to
// it undoes all changes.
class SessionSettings {
 public:
  explicit SessionSettings(SettingsRef startup) : startup_(startup), current_(std::move(startup)) {}

  const SettingsRef& current() const { return current_; }
  const SettingsRef& startup() const { return startup_; }

  // A batch whose changes these are has succeeded. They are on trial until end_transaction(), which
  // the caller calls at once if no transaction is open. `aborted`: the transaction had failed before
  // the batch, so that its COMMIT is a rollback.
  void apply(std::span<const routing::SettingChange> changes, bool aborted,
             SettingsInterner& interner);
  // Did the transaction that ended commit? Forgets, or restores what stood before it.
  void end_transaction(bool committed);
  // The session now has `current`, whatever it had: it was told so by replay_sql(). In a transaction
  // that is on trial too.
  void assume(SettingsRef current, bool in_transaction = false);
  // Has the open transaction changed settings? Then savepoints matter.
  bool on_trial() const { return trial_ != nullptr; }

 private:
  struct Savepoint {
    std::string name;
    SettingsRef then;  // what it goes back to
  };
  struct Trial {
    SettingsRef before;  // the transaction
    std::vector<Savepoint> savepoints{};  // oldest first; those made since the first change
  };
  void change_to(SettingsRef next);
  // The newest savepoint of that name; the end if it was made before the first change.
  std::vector<Savepoint>::iterator find(std::string_view name);

  SettingsRef startup_, current_;
  std::unique_ptr<Trial> trial_;  // null: the transaction has changed nothing
};

}  // namespace pool
