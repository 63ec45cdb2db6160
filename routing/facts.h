#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace routing {

// What kind of work a statement is: the metric label `class`, the column in SHOW STATEMENTS, and, with
// the session's state, what decides where it goes. Ordered by strength: a string of several
// statements has the strongest class among them.
// To add one: put it here in order; the compiler lists every switch that must answer.
enum class StatementClass : std::uint8_t {
  empty,        // nothing to run (comments, ";")
  read,         // proven: a standby gives the same answer and nothing changes
  session,      // SET, RESET, DISCARD, DEALLOCATE, LISTEN ...: touches only the session
  transaction,  // BEGIN, COMMIT, ROLLBACK, SAVEPOINT ...
  write,        // changes data, or is not proven to be a read
  ddl,          // changes the schema or the system
};
std::string_view name(StatementClass c);

// Why a statement was classified as it was. The same word in log, metric, console and test.
enum class ClassReason : std::uint8_t {
  proven_read,
  empty_statement,
  unparsed,           // Postgres's grammar refused it
  too_long,           // longer than routing.max_statement, or nested too deep to be looked at
  writes_data,        // INSERT, UPDATE, DELETE, MERGE, COPY FROM, SELECT INTO, TRUNCATE ...
  locks_rows,         // FOR UPDATE and kin
  volatile_function,  // a function that is not harmless: the catalogue or an override says so
  unknown_function,   // a function that the catalogue does not know
  primary_only,       // means something else on a standby, or fails: advisory locks, nextval ...
  primary_table,      // a relation that is not on standbys, or hides what is no read: unlogged, foreign, a view
  overruled,          // operators say so of its digest
  refused_by_replica,  // thought a read, until a replica refused it: SHOW CORRECTIONS
  utility,            // VACUUM, LOCK, NOTIFY, CALL, DO ...
  schema_change,
  session_change,
  transaction_control,
};
std::string_view name(ClassReason r);

// State that lives in one server connection and cannot be moved; a client that makes it keeps its
// server. Bits, because a statement can have several.
enum class Pin : std::uint16_t {
  none = 0,
  temporary_table = 1 << 0,
  listen = 1 << 1,
  advisory_lock = 1 << 2,
  holdable_cursor = 1 << 3,
  sql_prepare = 1 << 4,
  load = 1 << 5,
  computed_setting = 1 << 6,  // set_config with values that only the server knows, FROM CURRENT
  session_setting = 1 << 7,   // a change that cannot be followed: undone in part, or unseen
  session_function = 1 << 8,  // a function left state in the session: setseed, dblink_connect ...
};
constexpr Pin operator|(Pin a, Pin b) {
  return static_cast<Pin>(static_cast<std::uint16_t>(a) | static_cast<std::uint16_t>(b));
}
constexpr Pin operator&(Pin a, Pin b) {
  return static_cast<Pin>(static_cast<std::uint16_t>(a) & static_cast<std::uint16_t>(b));
}
constexpr Pin operator~(Pin p) { return static_cast<Pin>(~static_cast<unsigned>(p) & 0xffffU); }
constexpr Pin& operator|=(Pin& a, Pin b) { return a = a | b; }
constexpr bool any(Pin p) { return p != Pin::none; }
inline constexpr std::size_t kPins = 9;  // bits in use
// "temporary_table" for one bit; several are joined by ",".
std::string names(Pin p);

// One change of a session setting, in the order in which the statement makes them; or a step of
// transaction control, which keeps or undoes changes.
struct SettingChange {
  enum class What : std::uint8_t {
    set,         // SET name TO value  (also SET TIME ZONE, SET ROLE, SET SESSION AUTHORIZATION,
                 // set_config(.., false))
    set_local,   // SET LOCAL: ends with the transaction, nothing to remember
    reset,       // RESET name, SET name TO DEFAULT
    reset_all,   // RESET ALL
    discard_all,  // DISCARD ALL
    commit,
    rollback,
    savepoint,   // `name` is its name, here and below
    release,
    rollback_to
  } what;
  std::string name;   // as Postgres compares it: lower case; "role", "session_authorization",
                      // "timezone" for the special forms
  std::string value;  // what stands behind "SET name TO ": literals quoted, ready to be replayed
  bool is_control() const { return what >= What::commit; }
};

// What a statement means for the transaction that it runs in.
enum class TransactionStep : std::uint8_t {
  none,
  begin,  // BEGIN without a word on access mode
  begin_read_only,
  begin_read_write,
  end,  // COMMIT, ROLLBACK, END, ABORT, PREPARE TRANSACTION ... (with AND CHAIN: chained)
  chained_end,
  set_read_only,  // SET TRANSACTION READ ONLY
  set_read_write,
  savepoint,  // SAVEPOINT, RELEASE, ROLLBACK TO
};

// What a client has prepared by name has a name on the server that begins so (pool::server_name()).
inline constexpr std::string_view kOurStatements = "pgsluice_";

// A relation as a statement names it; `schema` is empty where search_path decides.
struct TableName {
  std::string schema, name;
  friend auto operator<=>(const TableName&, const TableName&) = default;
};

// Everything that routing and pooling want to know of one statement string (one simple Query, or
// the text of one Parse). Found by a walk over the whole parse tree; it depends on the text alone
// (and on the catalogue's version), never on the session, so it is shared and immutable.
struct Facts {
  StatementClass kind = StatementClass::write;
  ClassReason why = ClassReason::unparsed;
  Pin pins = Pin::none;
  Pin may_unpin = Pin::none;         // state that it may have ended: UNLISTEN, DROP, CLOSE ...
  bool unpins_all = false;           // DISCARD ALL
  bool serializable = false;         // BEGIN ISOLATION LEVEL SERIALIZABLE: primary only
  bool cursor = false;               // DECLARE, FETCH, MOVE, CLOSE: means something in its transaction only
  bool repeatable = false;           // ... REPEATABLE READ: all of it must see one state
  bool deallocates_all = false;      // DEALLOCATE ALL, DISCARD ALL; not DISCARD PLANS
  // Prepared statements that SQL names: EXECUTE, PREPARE and DEALLOCATE of these, in any place.
  std::vector<std::string> executes_names, prepares_names, deallocates_names;
  // May see what is prepared on the server, or name what has a name of ours there: pg_prepared_statements,
  // EXECUTE of a name that begins with kOurStatements, or a text that nobody has understood and that may.
  bool sees_prepared = false;
  bool shows_lsn = false;            // SHOW pgsluice.lsn: its value must be known first
  bool depends_on_literals = false;  // not cached by digest: SET, set_config, transaction modes
  bool several = false;              // more than one statement in the string
  bool only_suspected = true;        // no statement says by itself that it is no read
  bool varies = false;               // a read that may say something else next time: random(), TABLESAMPLE ...
  TransactionStep step = TransactionStep::none;  // the last one that is not none
  std::uint64_t digest = 0;
  // Where who counts by digest has found it last. Facts belong to one worker.
  mutable std::uint16_t counted_at = 0;
  std::vector<SettingChange> settings;
  // Every relation that the text names, sorted, each once; views and names of CTEs among them. Empty for a
  // text that the grammar has not seen.
  std::vector<TableName> tables;
  std::string frees_database;     // that nobody else may be in while it runs: DROP DATABASE and the like
  bool changes_settings = false;  // `settings` has more than transaction control
  // Nothing but its class matters: true only where look_plain() has seen to it. What most statements are.
  bool plain = false;

  void look_plain() {
    plain = !cursor && pins == Pin::none && may_unpin == Pin::none && !unpins_all && !serializable &&
            !deallocates_all && deallocates_names.empty() && executes_names.empty() &&
            prepares_names.empty() && !sees_prepared && step == TransactionStep::none && settings.empty() &&
            !shows_lsn && frees_database.empty();
  }
  bool is_read() const { return kind == StatementClass::read || kind == StatementClass::empty; }
};

// A digest as operators see it and write it: 16 hexadecimal digits. None: that is not one.
std::string print_digest(std::uint64_t digest);
std::optional<std::uint64_t> parse_digest(std::string_view text);

}  // namespace routing
