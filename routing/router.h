#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "conf/settings.h"
#include "routing/facts.h"
#include "routing/floor.h"
#include "routing/overrides.h"
#include "routing/topology.h"

namespace routing {

// What routing remembers of a client between statements.
struct SessionState {
  bool in_transaction = false;
  bool read_only_default = false;  // default_transaction_read_only = on
  // default_transaction_isolation = serializable: no standby takes it
  bool serializable_default = false;
  bool repeatable_default = false;  // the same of REPEATABLE READ
  bool pinned = false;
  conf::Consistency consistency = conf::Consistency::session;
  bool consistency_hinted = false;  // asked for by the client: SET pgsluice.consistency
  conf::RouteTarget target = conf::RouteTarget::any;
  bool target_by_hint = true;       // else by a [[route]]
  std::uint32_t kept = 0;           // see Floor::at_kept; 0: the one that is being kept
  Floor floor{};
};

enum class Target : std::uint8_t {
  primary,
  replica,      // any replica that fits, else the primary
  same_server,  // the one that the client holds
};
std::string_view name(Target t);

// Why a batch goes where it goes: log field, metric label, console column, test assertion.
enum class RouteReason : std::uint8_t {
  read,                 // proven, autocommit
  read_only_transaction,
  in_transaction,       // the server is held already
  pinned,
  write,                // or not proven to be a read
  transaction_begins,   // and nothing says that it only reads
  session_change,
  session_mode,
  batch_too_large,
  open_sequence,        // the batch ends with a Flush; only the primary takes whatever follows
  floor_pending,        // the session has just written; the position after it is not known yet
  consistency_primary,  // asked for
  retry,                // a read that a replica could not run is run again on the primary
  serializable,         // a read, but the session's default isolation is one that no standby offers
  rule,                 // a read that a [[route]] keeps on the primary
  hint,                 // a read of which the client says that it is for the primary
  blocked,              // by a [[route]]: refused, so counted only in a dry run
  dry_run,              // routing.dry_run: else it would have gone to a replica
};
std::string_view name(RouteReason r);

struct Decision {
  Target target;
  RouteReason why;
};

// Does a batch begin a transaction whose BEGIN was held back until it came?
enum class Opens : std::uint8_t { nothing, read_write, read_only };

// The strongest of the statements of one batch, and what they do together.
struct BatchFacts {
  StatementClass kind = StatementClass::empty;
  ClassReason why = ClassReason::empty_statement;
  TransactionStep step = TransactionStep::none;  // the begin, if begins_first; else the last one
  StatementClass ran = StatementClass::empty;  // the strongest of those that run; others are only parsed
  // The batch opens a transaction with a BEGIN that stands alone in its string, before it are only
  // reads, and what follows neither ends the transaction nor changes its mode. Only then may `step`
  // send the batch to a replica.
  bool begins_first = false;
  Opens opens = Opens::nothing;
  Pin pins = Pin::none;
  Pin may_unpin = Pin::none;  // state that it may have ended
  bool plain = true;          // none of its statements means more than its class
  bool serializable = false;
  bool too_large = false;
  // Bits: every client has one of these.
  bool unread_text : 1 = false;  // a text so large that nobody has read it: it may have done anything
  bool executes : 1 = false;     // something in it runs; else it only parses
  bool looks : 1 = false;        // it may return data
  bool shows_lsn : 1 = false;    // SHOW pgsluice.lsn
  bool sets_lsn : 1 = false;
  bool open_ended : 1 = false;  // ends with a Flush: what follows in the sequence is not known yet
  RouteOverrides overrides{};  // what rules and hints say of it
  std::uint64_t digest = 0;  // of its statements; 0: none yet
  static constexpr std::uint64_t kUnlike = UINT64_MAX;  // they are not all alike
  static constexpr bool is_of_one(std::uint64_t digest) { return digest != 0 && digest != kUnlike; }
  void add(const Facts& facts) {  // in the order of the batch
    if (!facts.plain) add_rest(facts);
    if (facts.kind > ran) ran = facts.kind;
    add_kind(facts);
  }
  // A statement that does not run yet: only where it must go counts.
  void add_parsed(const Facts& facts) {
    serializable |= facts.serializable;
    add_kind(facts);
  }

 private:
  void add_kind(const Facts& facts) {
    digest = digest == 0 || digest == facts.digest ? facts.digest : kUnlike;
    looks |= facts.kind == StatementClass::read || facts.several;
    if (facts.kind > kind || (kind == StatementClass::empty && facts.kind == kind)) {
      kind = facts.kind;
      why = facts.why;
    }
  }
  void add_rest(const Facts& facts);
};

// The session as it is for this batch: with what rules and hints say of the batch, which is written to `room`.
inline const SessionState& seen_by(const BatchFacts& batch, const SessionState& session, SessionState& room) {
  if (!batch.overrides.given) [[likely]] return session;
  room = session;
  room.consistency = batch.overrides.consistency;
  room.target = batch.overrides.target;
  room.target_by_hint = batch.overrides.target_by_hint;
  return room;
}

// The rules, in order (README.md gives their reasons). Pure; a dozen comparisons, no allocation.
//
// `session` is what seen_by() gives. Its `in_transaction` and `pinned` speak of a server that is held; while they are true the
// answer is always same_server. In session mode a client that holds a server keeps using it without
// asking. Target::replica means choose_replica() with read_needs(), and the primary when that finds none. To add a rule: a branch here, a RouteReason for it, a line in README.md and a
// test.
Decision route(const BatchFacts& batch, const SessionState& session, conf::PoolMode mode);

}  // namespace routing
