#include "routing/rules.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "conf/words.h"
#include "routing/grammar.h"

namespace {

using namespace routing;
using conf::Consistency;
using conf::RouteRule;
using conf::Priority;
using conf::RouteTarget;
using conf::Transactions;
using namespace std::chrono_literals;

RouteRule rule(const std::string& name) {
  RouteRule made;
  made.name = name;
  return made;
}

std::shared_ptr<const RuleSet> rules(const std::vector<RouteRule>& all) {
  return std::make_shared<RuleSet>(all, [](const std::string&) { return std::size_t{1}; });
}

// The name of the rule that this statement meets, of a client that is a candidate for all.
std::string found(const std::vector<RouteRule>& all, const std::string& sql) {
  const auto set = rules(all);
  auto facts = std::make_shared<Facts>();
  REQUIRE(find_facts(sql, Catalog(), *facts));
  CommentTags tags;
  find_tags(sql, true, &tags);
  ClientRules client(set, set->candidates({}));
  const std::uint16_t place = client.find(facts, tags);
  CHECK(client.find(facts, tags) == place);
  return place == 0 ? "" : set->rule(static_cast<RuleSet::Place>(place - 1)).name;
}

std::vector<RuleSet::Place> candidates(const RouteRule& one, const RuleSet::Who& who) {
  return rules({one})->candidates(who);
}

SessionState session(Consistency consistency, bool hinted = false) {
  SessionState made;
  made.consistency = consistency;
  made.consistency_hinted = hinted;
  return made;
}

}  // namespace

TEST_SUITE("routing/rules") {
  TEST_CASE("in a pattern a star stands for any text, and everything else for itself") {
    CHECK(matches("a", "a"));
    CHECK_FALSE(matches("a", "A"));
    CHECK_FALSE(matches("a", "ab"));
    CHECK(matches("*", ""));
    CHECK(matches("batch-*", "batch-"));
    CHECK(matches("batch-*", "batch-7"));
    CHECK_FALSE(matches("batch-*", "batch"));
    CHECK(matches("*.log", "a.log.log"));
    CHECK(matches("a*b*c", "aXbXbXc"));
    CHECK_FALSE(matches("a*b*c", "aXcXb"));
    CHECK_FALSE(matches("", "a"));
    CHECK(matches("a.?", "a.?"));
    const std::string stars(60, '*');
    CHECK_FALSE(matches(stars + "b", std::string(2000, 'a')));
  }

  TEST_CASE("who is asking is compared by user, database and application name") {
    RouteRule one = rule("r");
    CHECK(candidates(one, {"u", "d", "a"}).size() == 1);
    one.users = {"report", "etl-*"};
    one.applications = {"nightly*"};
    CHECK(candidates(one, {"report", "d", "nightly"}).size() == 1);
    CHECK(candidates(one, {"etl-1", "d", "nightly-2"}).size() == 1);
    CHECK(candidates(one, {"app", "d", "nightly"}).empty());
    CHECK(candidates(one, {"report", "d", ""}).empty());
    one.databases = {"shop"};
    CHECK(candidates(one, {"report", "d", "nightly"}).empty());
  }

  TEST_CASE("the first rule that fits a statement decides; without a condition a rule fits everything") {
    RouteRule writes = rule("writes"), orders = rule("orders"), rest = rule("rest");
    writes.statement_classes = {"write", "ddl"};
    orders.tables = {"orders"};
    CHECK(found({writes, orders, rest}, "insert into orders values (1)") == "writes");
    CHECK(found({writes, orders, rest}, "select from orders") == "orders");
    CHECK(found({writes, orders, rest}, "select 1") == "rest");
    CHECK(found({writes, orders}, "select 1") == "");
    CHECK(found({}, "select 1") == "");
  }

  TEST_CASE("what is blocked does not hide behind another statement of its string") {
    RouteRule stale = rule("stale"), secret = rule("secret");
    stale.tables = {"a"};
    secret.tables = {"b"};
    secret.block = true;
    CHECK(found({stale, secret}, "select from a; select from b") == "secret");
    CHECK(found({stale, secret}, "select from b; select from a") == "secret");
    CHECK(found({stale, secret}, "select from a; select from c") == "stale");
    CHECK(found({stale, secret}, "select from a, b") == "stale");  // one statement: the first that fits
  }

  TEST_CASE("tables are compared with their schema or without; the usual schema stands for none") {
    RouteRule one = rule("r");
    one.tables = {"orders"};
    CHECK(found({one}, "select from shop.orders") == "r");
    CHECK(found({one}, "select from orders_old") == "");
    one.tables = {"audit.*", "public.p*"};
    CHECK(found({one}, "select from audit.log") == "r");
    CHECK(found({one}, "select from log") == "");
    CHECK(found({one}, "select from parts") == "r");
    CHECK(found({one}, "select from x where exists (select from public.parts)") == "r");
    CHECK(found({one}, "select 'audit.log'") == "");
  }

  TEST_CASE("a digest fits whatever the literals are; the classes are those of the statements") {
    Facts facts;
    facts.digest = 0x1f0c5d3a90b7e642;
    RouteRule one = rule("r");
    one.digests = {"0000000000000001", "1f0c5d3a90b7e642"};
    CHECK(rules({one})->fits(0, facts, {}));
    facts.digest = 2;
    CHECK_FALSE(rules({one})->fits(0, facts, {}));
    for (std::size_t i = 0; i < conf::kStatementClasses.size(); ++i) {
      facts.kind = static_cast<StatementClass>(i);
      CHECK(conf::kStatementClasses[i] == name(facts.kind));
      RouteRule of_class = rule("c");
      of_class.statement_classes = {std::string(conf::kStatementClasses[i])};
      CHECK(rules({of_class})->fits(0, facts, {}));
      facts.kind = static_cast<StatementClass>((i + 1) % conf::kStatementClasses.size());
      CHECK_FALSE(rules({of_class})->fits(0, facts, {}));
    }
  }

  TEST_CASE("requirement 26: a rule for a tag does not fit the same statement without the tag") {
    RouteRule one = rule("r");
    one.tags = {"controller=rep*", "job=x=y"};
    CHECK(found({one}, "select 1 /*controller='reports'*/") == "r");
    CHECK(found({one}, "select 1 /*controller='web'*/") == "");
    CHECK(found({one}, "select 1 /*a='1',job='x%3Dy'*/") == "r");
    CHECK(found({one}, "select 1") == "");
    // Nor does the memory of one client's statements mix them up.
    const auto set = rules({one});
    ClientRules client(set, {0});
    const auto facts = std::make_shared<Facts>();
    CommentTags tags;
    find_tags("/*controller='reports'*/", true, &tags);
    CHECK(client.find(facts, {}) == 0);
    CHECK(client.find(facts, tags) == 1);
    CHECK(client.find(facts, {}) == 0);
  }

  TEST_CASE("a rule goes before a hint; a hint may ask for staler answers than the rule, not for fresher ones") {
    RouteRule one = rule("r");
    one.consistency = Consistency::session;
    const auto with = [&one](std::optional<Consistency> hint, const SessionState& state) {
      Hints hints;
      hints.consistency = hint;
      return overrides_of(&one, hints, state).consistency;
    };
    CHECK(with({}, session(Consistency::primary)) == Consistency::session);
    CHECK(with({}, session(Consistency::eventual)) == Consistency::session);
    CHECK(with({}, session(Consistency::eventual, true)) == Consistency::eventual);
    CHECK(with({}, session(Consistency::primary, true)) == Consistency::session);
    CHECK(with(Consistency::eventual, session(Consistency::session)) == Consistency::eventual);
    CHECK(with(Consistency::primary, session(Consistency::session)) == Consistency::session);

    Hints primary;
    primary.target = RouteTarget::primary;
    CHECK(overrides_of(&one, primary, session(Consistency::session)).target == RouteTarget::any);
    CHECK(overrides_of(nullptr, primary, session(Consistency::session)).target == RouteTarget::primary);
    CHECK(overrides_of(nullptr, primary, session(Consistency::session)).target_by_hint);
    RouteRule to_replicas = rule("r");
    to_replicas.target = RouteTarget::replica;
    const RouteOverrides said = overrides_of(&to_replicas, primary, session(Consistency::primary));
    CHECK(said.target == RouteTarget::replica);
    CHECK(said.consistency == Consistency::session);
    CHECK_FALSE(said.target_by_hint);
  }

  TEST_CASE("what rules do beside where is joined too: transactions, class and nodes") {
    const RouteDefaults defaults{};
    const auto both = [&](RouteOverrides a, RouteOverrides b, bool swapped) {
      a.given = b.given = true;
      return swapped ? join(b, a, defaults) : join(a, b, defaults);
    };
    RouteRule moves = rule("moves");
    moves.transactions = Transactions::migrate;
    const RouteOverrides migrate = overrides_of(&moves, {}, session(Consistency::session));
    CHECK(int{migrate.transactions} == 1 + static_cast<int>(Transactions::migrate));
    RouteOverrides hold, critical, low, mine, theirs;
    hold.transactions = 1 + static_cast<int>(Transactions::hold);
    critical.service_class = 1;
    low.service_class = 3;
    low.priority = static_cast<unsigned>(Priority::low);
    mine.nodes_by = 1;
    theirs.nodes_by = 2;
    for (const bool swapped : {false, true}) {
      CAPTURE(swapped);
      CHECK(int{both(migrate, hold, swapped).transactions} == int{hold.transactions});
      CHECK(int{both(migrate, {}, swapped).transactions} == int{migrate.transactions});
      CHECK(both(critical, low, swapped).service_class == 3);
      CHECK(int{both(critical, low, swapped).priority} == int{low.priority});
      CHECK(both(mine, {}, swapped).nodes_by == 1);
      CHECK(both(mine, theirs, swapped).nodes_by == kNoNodes);
      CHECK(both(both(mine, theirs, swapped), mine, swapped).nodes_by == kNoNodes);
    }
  }

  TEST_CASE("what a rule does is told in the words of its configuration") {
    RouteRule all = rule("all");
    CHECK(outcome_text(all) == "");
    all.target = RouteTarget::replica;
    all.consistency = Consistency::eventual;
    all.max_lag = 2s;
    all.query_timeout = 5s;
    all.transactions = Transactions::hold;
    all.service_class = "low";
    all.groups = {"reports", "spare"};
    all.rate = 5;
    all.concurrency = 2;
    CHECK(outcome_text(all) == "target=replica consistency=eventual max_lag=2s query_timeout=5s transactions=hold "
                               "class=low groups=reports,spare rate=5 concurrency=2");
    RouteRule block = rule("block");
    block.block = true;
    CHECK(outcome_text(block) == "block=true");
  }

  TEST_CASE("what is sent together goes by the stricter of what is said of each") {
    const RouteDefaults defaults{.max_lag = 10s, .query_timeout = 0ms};
    const SessionState state = session(Consistency::session);
    RouteRule stale = rule("stale"), quick = rule("quick"), block = rule("block");
    stale.consistency = Consistency::eventual;
    stale.target = RouteTarget::replica;
    stale.max_lag = 1min;
    quick.target = RouteTarget::primary;
    quick.query_timeout = 5s;
    quick.max_lag = 2s;
    block.block = true;
    const auto said = [&state](const RouteRule* one, std::uint16_t place) {
      RouteOverrides own = overrides_of(one, {}, state);
      own.rule = place;
      return own;
    };
    const RouteOverrides none = said(nullptr, 0);
    for (const bool swapped : {false, true}) {
      CAPTURE(swapped);
      const auto both = [&](const RouteOverrides& a, const RouteOverrides& b) {
        return swapped ? join(b, a, defaults) : join(a, b, defaults);
      };
      const RouteOverrides one = both(said(&stale, 1), none);
      CHECK(one.consistency == Consistency::session);
      CHECK(one.target == RouteTarget::any);
      CHECK(one.max_lag_ms == 0);  // the usual 10 s are stricter
      CHECK(one.rule == 1);
      const RouteOverrides two = both(said(&stale, 1), said(&quick, 2));
      CHECK(two.target == RouteTarget::primary);
      CHECK(two.max_lag_ms == 2000);
      CHECK(two.query_timeout_ms == 5000);
      const RouteOverrides three = both(said(&quick, 2), said(&block, 3));
      CHECK(three.blocked);
      CHECK(three.rule == 3);
    }
  }

  TEST_CASE("a rule's coalesce and cache hold for one statement, not for several that go together") {
    RouteRule shares = rule("shares"), keeps = rule("keeps");
    shares.coalesce = true;
    keeps.cache = 1s;
    const SessionState state = session(Consistency::session);
    CHECK(overrides_of(&shares, {}, state).may_share);
    CHECK(overrides_of(&keeps, {}, state).may_share);
    const RouteRule nothing = rule("counts");
    CHECK_FALSE(overrides_of(&nothing, {}, state).may_share);
    const RouteOverrides one = overrides_of(&shares, {}, state);
    CHECK_FALSE(join(one, one, {.max_lag = 10s, .query_timeout = 0s}).may_share);
  }
}
