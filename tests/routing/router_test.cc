#include "routing/router.h"

#include <doctest/doctest.h>

#include <initializer_list>

using namespace routing;

namespace {

Facts fact(StatementClass kind, TransactionStep step = TransactionStep::none) {
  Facts facts;
  facts.kind = kind;
  facts.why = kind == StatementClass::read ? ClassReason::proven_read : ClassReason::writes_data;
  facts.step = step;
  return facts;
}
Facts read() { return fact(StatementClass::read); }
Facts write() { return fact(StatementClass::write); }
Facts session_change() { return fact(StatementClass::session); }
Facts step(TransactionStep s) { return fact(StatementClass::transaction, s); }

BatchFacts batch(std::initializer_list<Facts> statements) {
  BatchFacts facts;
  for (const Facts& statement : statements) facts.add(statement);
  return facts;
}

void check(const Decision& decision, Target target, RouteReason why) {
  CHECK(name(decision.target) == name(target));
  CHECK(name(decision.why) == name(why));
}

void goes(std::initializer_list<Facts> statements, Target target, RouteReason why,
          const SessionState& session = {}) {
  check(route(batch(statements), session, conf::PoolMode::transaction), target, why);
}

using enum Target;
constexpr auto kBeginReadOnly = TransactionStep::begin_read_only;

}  // namespace

TEST_SUITE("routing/router") {
  TEST_CASE("a rule or a hint keeps reads on the primary, and sends no write to a replica") {
    using conf::RouteTarget;
    const SessionState hinted{.target = RouteTarget::primary};
    const SessionState ruled{.target = RouteTarget::primary, .target_by_hint = false};
    goes({read()}, primary, RouteReason::hint, hinted);
    goes({read()}, primary, RouteReason::rule, ruled);
    goes({step(kBeginReadOnly)}, primary, RouteReason::rule, ruled);
    goes({write()}, primary, RouteReason::write, ruled);
    const SessionState to_replica{.consistency = conf::Consistency::primary, .target = RouteTarget::replica};
    goes({read()}, replica, RouteReason::read, to_replica);
    goes({write()}, primary, RouteReason::write, to_replica);
    goes({step(TransactionStep::begin)}, primary, RouteReason::transaction_begins, to_replica);
    goes({session_change()}, primary, RouteReason::session_change, to_replica);
  }

  TEST_CASE("what rules say of a batch goes before what holds for its session, and is gone with the batch") {
    const SessionState session{.consistency = conf::Consistency::primary};
    BatchFacts ruled = batch({read()});
    ruled.overrides = {.given = true, .consistency = conf::Consistency::eventual};
    SessionState room;
    CHECK(&seen_by(ruled, session, room) == &room);
    check(route(ruled, room, conf::PoolMode::transaction), replica, RouteReason::read);
    CHECK(&seen_by(batch({read()}), session, room) == &session);
    goes({read()}, primary, RouteReason::consistency_primary, session);
  }

  TEST_CASE(
      "requirement 22: a proven read in autocommit goes to a replica, everything else to the primary") {
    goes({read()}, replica, RouteReason::read);
    goes({read(), read()}, replica, RouteReason::read);
    goes({fact(StatementClass::empty)}, replica, RouteReason::read);
    goes({write()}, primary, RouteReason::write);
    goes({fact(StatementClass::ddl)}, primary, RouteReason::write);
    goes({session_change()}, primary, RouteReason::session_change);
    goes({}, replica, RouteReason::read);
  }

  TEST_CASE("requirement 23: a batch has the strongest class among its statements, in any order") {
    goes({read(), write()}, primary, RouteReason::write);
    goes({write(), read()}, primary, RouteReason::write);
    const BatchFacts facts = batch({read(), write(), read()});
    CHECK(facts.kind == StatementClass::write);
    CHECK(facts.why == ClassReason::writes_data);
    CHECK(batch({read()}).why == ClassReason::proven_read);
  }

  TEST_CASE("a batch has its statements' digest while they are all alike, and is of none for ever after") {
    const auto of = [](std::uint64_t digest) {
      Facts facts = read();
      facts.digest = digest;
      return facts;
    };
    CHECK_FALSE(BatchFacts::is_of_one(batch({}).digest));
    CHECK(batch({of(7), of(7)}).digest == 7);
    CHECK(BatchFacts::is_of_one(batch({of(7), of(7)}).digest));
    CHECK_FALSE(BatchFacts::is_of_one(batch({of(7), of(8)}).digest));
    CHECK_FALSE(BatchFacts::is_of_one(batch({of(7), of(8), of(8)}).digest));
  }

  TEST_CASE("requirement 12: a held server is kept, whatever the statement") {
    for (const Facts& statement : {read(), write(), step(TransactionStep::end)}) {
      goes({statement}, same_server, RouteReason::in_transaction, {.in_transaction = true});
      goes({statement}, same_server, RouteReason::pinned, {.pinned = true});
      check(route(batch({statement}), {.in_transaction = true}, conf::PoolMode::session),
            same_server, RouteReason::in_transaction);
    }
  }

  TEST_CASE("session mode and oversized batches go to the primary") {
    check(route(batch({read()}), {}, conf::PoolMode::session), primary, RouteReason::session_mode);
    BatchFacts large = batch({read()});
    large.too_large = true;
    check(route(large, {}, conf::PoolMode::transaction), primary, RouteReason::batch_too_large);
  }

  TEST_CASE("who asks for the primary gets it") {
    goes({read()}, primary, RouteReason::consistency_primary,
         {.consistency = conf::Consistency::primary});
    goes({step(kBeginReadOnly)}, primary, RouteReason::consistency_primary,
         {.consistency = conf::Consistency::primary});
  }

  TEST_CASE("a read that pins is not sent to a replica") {
    Facts pinning = read();
    pinning.pins = Pin::advisory_lock;
    goes({pinning}, primary, RouteReason::write);
    goes({step(kBeginReadOnly), pinning}, primary, RouteReason::transaction_begins);
  }

  TEST_CASE("requirement 25: a transaction goes to the primary unless it says that it only reads") {
    goes({step(TransactionStep::begin)}, primary, RouteReason::transaction_begins);
    goes({step(TransactionStep::begin_read_write)}, primary, RouteReason::transaction_begins);
    goes({step(kBeginReadOnly)}, replica, RouteReason::read_only_transaction);
    goes({step(kBeginReadOnly), read(), step(TransactionStep::savepoint), read()}, replica,
         RouteReason::read_only_transaction);
    goes({read(), step(kBeginReadOnly), read()}, replica, RouteReason::read_only_transaction);
  }

  TEST_CASE("a serializable transaction goes to the primary even when it only reads") {
    Facts begin = step(kBeginReadOnly);
    begin.serializable = true;
    goes({begin}, primary, RouteReason::transaction_begins);
    goes({read()}, primary, RouteReason::serializable, {.serializable_default = true});
    goes({step(TransactionStep::begin)}, primary, RouteReason::transaction_begins,
         {.read_only_default = true, .serializable_default = true});
  }

  TEST_CASE("default_transaction_read_only makes a plain BEGIN a read-only one") {
    const SessionState session{.read_only_default = true};
    goes({step(TransactionStep::begin)}, replica, RouteReason::read_only_transaction, session);
    goes({step(TransactionStep::begin_read_write)}, primary, RouteReason::transaction_begins,
         session);
    goes({write()}, primary, RouteReason::write, session);
  }

  TEST_CASE("a default that the same batch changes does not count") {
    Facts change = session_change();
    change.settings = {{SettingChange::What::set, "default_transaction_read_only", "off"}};
    Facts mode = session_change();
    mode.settings = {{SettingChange::What::set, "transaction_read_only", "off"}};
    const SessionState session{.read_only_default = true};
    goes({change, step(TransactionStep::begin)}, primary, RouteReason::transaction_begins, session);
    goes({step(TransactionStep::begin), mode}, primary, RouteReason::transaction_begins, session);
    goes({step(TransactionStep::begin_read_only), mode}, primary, RouteReason::transaction_begins);
  }

  TEST_CASE("BEGIN READ ONLY does not carry what stands before or after its transaction") {
    goes({write(), step(kBeginReadOnly)}, primary, RouteReason::transaction_begins);
    goes({step(TransactionStep::begin), write(), step(TransactionStep::end), step(kBeginReadOnly)},
         primary, RouteReason::transaction_begins);
    goes({step(kBeginReadOnly), read(), step(TransactionStep::end), write()}, primary,
         RouteReason::write);
    goes({step(kBeginReadOnly), step(TransactionStep::end), step(TransactionStep::begin), write()},
         primary, RouteReason::transaction_begins);
    goes({step(kBeginReadOnly), step(TransactionStep::set_read_write), write()}, primary,
         RouteReason::write);
    goes({step(kBeginReadOnly), step(TransactionStep::begin_read_write)}, primary,
         RouteReason::transaction_begins);
    goes({step(kBeginReadOnly), write()}, primary, RouteReason::transaction_begins);
  }

  TEST_CASE("requirement 25: BEGIN READ ONLY over the extended protocol is the same") {
    BatchFacts facts;
    facts.add_parsed(step(kBeginReadOnly));
    facts.add(step(kBeginReadOnly));
    facts.add_parsed(read());
    facts.add(read());
    check(route(facts, {}, conf::PoolMode::transaction), replica, RouteReason::read_only_transaction);
    facts.add(write());
    check(route(facts, {}, conf::PoolMode::transaction), primary, RouteReason::transaction_begins);
  }

  TEST_CASE("a batch that opens a transaction goes where that has to be, whatever it is") {
    BatchFacts facts = batch({read()});
    facts.opens = Opens::read_write;
    check(route(facts, {}, conf::PoolMode::transaction), primary, RouteReason::transaction_begins);
    facts.opens = Opens::read_only;
    check(route(facts, {}, conf::PoolMode::transaction), replica, RouteReason::read_only_transaction);
  }

  TEST_CASE("in a string of several statements BEGIN READ ONLY is not believed") {
    Facts several = step(kBeginReadOnly);
    several.several = true;
    goes({several}, primary, RouteReason::transaction_begins);
  }

  TEST_CASE("transaction control outside a transaction goes to the primary") {
    goes({step(TransactionStep::end)}, primary, RouteReason::write);
    goes({step(TransactionStep::savepoint)}, primary, RouteReason::write);
    goes({step(TransactionStep::set_read_only)}, primary, RouteReason::write);
  }

  TEST_CASE("what is said for one batch goes before what its session says") {
    BatchFacts facts = batch({read()});
    const auto routed = [&facts](const SessionState& session) {
      SessionState room;
      return route(facts, seen_by(facts, session, room), conf::PoolMode::transaction);
    };
    facts.overrides.given = true;
    facts.overrides.consistency = conf::Consistency::primary;
    check(routed({}), primary, RouteReason::consistency_primary);
    facts.overrides.consistency = conf::Consistency::eventual;
    check(routed({.consistency = conf::Consistency::primary}), replica, RouteReason::read);
  }

  TEST_CASE("a batch that may have shown data is told from one that cannot") {
    CHECK(batch({read()}).looks);
    CHECK(batch({write(), read()}).looks);
    CHECK_FALSE(batch({write()}).looks);
    CHECK_FALSE(batch({session_change()}).looks);
    Facts several = session_change();
    several.several = true;
    CHECK(batch({several}).looks);
  }
}
