#include "routing/catalog.h"

#include <doctest/doctest.h>

namespace {
using routing::Catalog;
using Verdict = Catalog::Verdict;
}  // namespace

TEST_SUITE("routing/catalog") {
  TEST_CASE("without pg_proc the common built-ins are known and everything else is unknown") {
    const Catalog c;
    CHECK(c.version() == 0);
    CHECK(c.judge("count") == Verdict::read);
    CHECK(c.judge("now") == Verdict::read);
    CHECK(c.judge("random") == Verdict::read);
    CHECK(c.judge("nextval") == Verdict::primary_only);
    CHECK(c.judge("pg_try_advisory_xact_lock_shared") == Verdict::primary_only);
    CHECK(c.judge("lo_anything") == Verdict::primary_only);
    CHECK(c.judge("dblink_exec") == Verdict::primary_only);
    CHECK(c.judge("my_function") == Verdict::unknown);
    CHECK(c.judge("COUNT") == Verdict::unknown);  // names are stored as they are
    CHECK(c.judge("") == Verdict::unknown);
  }

  TEST_CASE("a name is a read only when all its functions are") {
    const Catalog c(
        1, {{"f", false}, {"g", true}, {"h", false}, {"h", true}, {"i", true}, {"i", false}}, {},
        {});
    CHECK(c.judge("f") == Verdict::read);
    CHECK(c.judge("g") == Verdict::volatile_function);
    CHECK(c.judge("h") == Verdict::volatile_function);
    CHECK(c.judge("i") == Verdict::volatile_function);
  }

  TEST_CASE("a volatile function takes a built-in name's good reputation") {
    CHECK(Catalog(1, {{"lower", false}, {"lower", true}}, {}, {}).judge("lower") ==
          Verdict::volatile_function);
  }

  TEST_CASE(
      "harmless volatile built-ins stay reads, stable ones that lie on a standby do not become "
      "reads") {
    const Catalog c(1,
                    {{"random", true},
                     {"txid_current", false},
                     {"pg_stat_get_numscans", false},
                     {"pg_is_in_recovery", true}},
                    {}, {});
    CHECK(c.judge("random") == Verdict::read);
    CHECK(c.judge("txid_current") == Verdict::primary_only);
    CHECK(c.judge("pg_stat_get_numscans") == Verdict::primary_only);
    CHECK(c.judge("pg_is_in_recovery") == Verdict::primary_only);
  }

  TEST_CASE("operators overrule everything, and a write beats a read") {
    const Catalog c(2, {{"f", true}, {"g", false}},
                    {"f", "app.h", "nextval", "both", "pg_stat_get_x"}, {"g", "count", "both"});
    CHECK(c.judge("f") == Verdict::read);
    CHECK(c.judge("h") == Verdict::read);
    CHECK(c.judge("nextval") == Verdict::read);
    CHECK(c.judge("pg_stat_get_x") == Verdict::read);
    CHECK(c.judge("g") == Verdict::volatile_function);
    CHECK(c.judge("count") == Verdict::volatile_function);
    CHECK(c.judge("both") == Verdict::volatile_function);
    CHECK(c.version() == 2);
  }

  TEST_CASE("only session-level advisory locks pin") {
    CHECK(routing::is_session_advisory_lock("pg_try_advisory_lock_shared"));
    CHECK_FALSE(routing::is_session_advisory_lock("pg_advisory_xact_lock"));
    CHECK_FALSE(routing::is_session_advisory_lock("pg_advisory_unlock"));
  }

  TEST_CASE("views of a node's state are told from tables") {
    CHECK(routing::is_node_view("pg_stat_activity"));
    CHECK(routing::is_node_view("pg_locks"));
    CHECK_FALSE(routing::is_node_view("pg_stats"));
    CHECK_FALSE(routing::is_node_view("pg_class"));
  }
}
