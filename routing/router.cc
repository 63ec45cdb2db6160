#include "routing/router.h"

#include <algorithm>

namespace routing {
namespace {

bool begins(TransactionStep step) {
  return step == TransactionStep::begin || step == TransactionStep::begin_read_only ||
         step == TransactionStep::begin_read_write;
}

// Leaves a transaction that was begun read-only as it is.
bool keeps_mode(TransactionStep step) {
  switch (step) {
    case TransactionStep::none:
    case TransactionStep::begin:  // inside a transaction: a warning
    case TransactionStep::begin_read_only:
    case TransactionStep::set_read_only:
    case TransactionStep::savepoint: return true;
    case TransactionStep::begin_read_write:
    case TransactionStep::end:
    case TransactionStep::chained_end:
    case TransactionStep::set_read_write: return false;
  }
  return false;
}

// SET transaction_read_only and kin, in whichever spelling they did not become a step.
bool touches_modes(const Facts& facts) {
  return std::ranges::any_of(facts.settings, [](const SettingChange& change) {
    return !change.is_control() && (change.name.starts_with("transaction_") ||
                                    change.name.starts_with("default_transaction_"));
  });
}

// The batch opens a transaction that is known to read only, and does nothing but read in it.
// Anything else in it is left to the primary, which refuses it with Postgres's own words where it
// must.
bool reads_in_transaction(const BatchFacts& batch, const SessionState& session) {
  if (!batch.begins_first || batch.serializable || any(batch.pins)) return false;
  if (batch.kind > StatementClass::transaction) return false;
  return batch.step == TransactionStep::begin_read_only ||
         (batch.step == TransactionStep::begin && session.read_only_default &&
          !session.serializable_default);
}

Decision read(const SessionState& session, RouteReason why) {
  if (session.target == conf::RouteTarget::primary)
    return {Target::primary, session.target_by_hint ? RouteReason::hint : RouteReason::rule};
  return {Target::replica, why};
}

}  // namespace

std::string_view name(Target t) {
  switch (t) {
    case Target::primary: return "primary";
    case Target::replica: return "replica";
    case Target::same_server: return "same_server";
  }
  return "unknown";
}

std::string_view name(RouteReason r) {
  switch (r) {
    case RouteReason::read: return "read";
    case RouteReason::read_only_transaction: return "read_only_transaction";
    case RouteReason::in_transaction: return "in_transaction";
    case RouteReason::pinned: return "pinned";
    case RouteReason::write: return "write";
    case RouteReason::transaction_begins: return "transaction_begins";
    case RouteReason::session_change: return "session_change";
    case RouteReason::session_mode: return "session_mode";
    case RouteReason::batch_too_large: return "batch_too_large";
    case RouteReason::open_sequence: return "open_sequence";
    case RouteReason::floor_pending: return "floor_pending";
    case RouteReason::consistency_primary: return "consistency_primary";
    case RouteReason::retry: return "retry";
    case RouteReason::serializable: return "serializable";
    case RouteReason::rule: return "rule";
    case RouteReason::hint: return "hint";
    case RouteReason::blocked: return "blocked";
    case RouteReason::dry_run: return "dry_run";
  }
  return "unknown";
}

void BatchFacts::add_rest(const Facts& facts) {
  plain = false;
  const bool only_read_so_far =
      step == TransactionStep::none && ran <= StatementClass::read && !any(pins);
  if (facts.step != TransactionStep::none) {
    if (begins(facts.step) && only_read_so_far && !facts.several) {
      step = facts.step;
      begins_first = true;
    } else if (!begins_first || !keeps_mode(facts.step)) {
      step = facts.step;
      begins_first = false;
    }
  }
  if (touches_modes(facts)) begins_first = false;
  shows_lsn |= facts.shows_lsn;
  sets_lsn |= std::ranges::any_of(facts.settings, [](const SettingChange& change) {
    return change.what == SettingChange::What::set && change.name == "pgsluice.lsn";
  });
  pins |= facts.pins;
  may_unpin |= facts.may_unpin;
  serializable |= facts.serializable;
}

Decision route(const BatchFacts& batch, const SessionState& session, conf::PoolMode mode) {
  if (session.in_transaction) return {Target::same_server, RouteReason::in_transaction};
  if (session.pinned) return {Target::same_server, RouteReason::pinned};
  if (mode == conf::PoolMode::session) return {Target::primary, RouteReason::session_mode};
  if (batch.too_large) return {Target::primary, RouteReason::batch_too_large};
  if (batch.open_ended) return {Target::primary, RouteReason::open_sequence};
  if (session.consistency == conf::Consistency::primary && session.target != conf::RouteTarget::replica)
    return {Target::primary, RouteReason::consistency_primary};

  if (batch.opens == Opens::read_only) return read(session, RouteReason::read_only_transaction);
  if (batch.opens == Opens::read_write) return {Target::primary, RouteReason::transaction_begins};
  if (reads_in_transaction(batch, session))
    return read(session, RouteReason::read_only_transaction);
  if (begins(batch.step)) return {Target::primary, RouteReason::transaction_begins};

  switch (batch.kind) {
    case StatementClass::empty:
    case StatementClass::read:
      if (any(batch.pins)) return {Target::primary, RouteReason::write};
      if (session.serializable_default) return {Target::primary, RouteReason::serializable};
      return read(session, RouteReason::read);
    case StatementClass::session: return {Target::primary, RouteReason::session_change};
    case StatementClass::transaction:
    case StatementClass::write:
    case StatementClass::ddl: return {Target::primary, RouteReason::write};
  }
  return {Target::primary, RouteReason::write};
}

}  // namespace routing
